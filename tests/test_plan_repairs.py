"""What may run beside the steps of a saved plan when it is resumed: only what it left half done."""

from __future__ import annotations

from dataclasses import replace

import pytest

from parlant_shard.catalog import Catalog, Index, Table
from parlant_shard.plan import Kind, Plan, Step, unapproved

FOREIGN_KEY = '"fk" FOREIGN KEY ("a") REFERENCES "public"."b" ("id")'
APPROVED = (
    'CREATE TABLE "public"."item_p2" (\n  "id" uuid\n)',
    f'ALTER TABLE "public"."item_p1" ADD CONSTRAINT {FOREIGN_KEY} NOT VALID',
    'ALTER TABLE "public"."item_p1" VALIDATE CONSTRAINT "fk"',
    'CREATE UNIQUE INDEX CONCURRENTLY "item_idx" ON "public"."item_p1" USING btree (id)',
    'REINDEX INDEX CONCURRENTLY "public"."old_idx"',
    'ALTER TABLE "public"."item_p1" DISABLE ROW LEVEL SECURITY',
    "SELECT pg_catalog.pg_create_logical_replication_slot('s', 'pgoutput')",
)


def step(sql: str, *more: str, server: str = "core", hazards: tuple[str, ...] = ()) -> Step:
    return Step(
        id=f"{server} {sql}",
        phase=45,
        server=server,
        shard=None,
        title="a title",
        sql=(sql, *more),
        transactional=True,
        lock=None,
        hazards=hazards,
        lock_timeout_ms=1000,
        statement_timeout_ms=1000,
        kind=Kind.METADATA,
    )


def plan(*steps: Step) -> Plan:
    return Plan(
        topology="t", file="t.yaml", sha256="", schema_sha256="", fingerprint="", steps=steps
    )


def live(*, valid: bool) -> dict[str, Catalog]:
    indexes = tuple(
        Index(name=name, unique=False, definition="btree (id)", valid=valid)
        for name in ("item_idx", "old_idx_ccnew", "other_idx")
    )
    catalog = Catalog(tables={"item_p1": Table(name="item_p1", columns=(), indexes=indexes)})
    return {"core": catalog, "east": catalog}


SAVED = plan(*(step(sql) for sql in APPROVED))


def extra(candidate: Step, *, valid: bool = False) -> bool:
    return unapproved(plan(*SAVED.steps, candidate), SAVED, live(valid=valid)) == (candidate,)


REPAIRS = [
    f'ALTER TABLE "public"."item_p2" ADD CONSTRAINT {FOREIGN_KEY} NOT VALID',
    'ALTER TABLE "public"."item_p2" VALIDATE CONSTRAINT "fk"',
    'DROP INDEX CONCURRENTLY "public"."item_idx"',
    'DROP INDEX CONCURRENTLY "public"."old_idx_ccnew"',
]


@pytest.mark.parametrize("sql", REPAIRS)
def test_what_finishes_a_step_of_the_plan_may_run(sql: str) -> None:
    assert not extra(step(sql))


@pytest.mark.parametrize("sql", REPAIRS)
def test_a_repair_is_approved_on_its_own_server_only(sql: str) -> None:
    assert extra(step(sql, server="east"))


@pytest.mark.parametrize("sql", REPAIRS)
def test_a_repair_that_must_be_allowed_by_name_was_not_approved(sql: str) -> None:
    assert extra(step(sql, hazards=("drops-object",)))


@pytest.mark.parametrize("sql", REPAIRS)
def test_a_repair_does_not_carry_another_statement(sql: str) -> None:
    assert extra(step(sql, 'DROP TABLE "public"."item_p1"'))


@pytest.mark.parametrize("name", ["item_idx", "old_idx_ccnew"])
def test_a_valid_index_is_somebodys_work(name: str) -> None:
    assert extra(step(f'DROP INDEX CONCURRENTLY "public"."{name}"'), valid=True)


@pytest.mark.parametrize(
    "sql",
    [
        # They quote nothing, or only names of the plan.
        "SELECT pg_catalog.pg_drop_replication_slot('s')",
        "SELECT 1",
        'ALTER TABLE "public"."item_p1" ENABLE ROW LEVEL SECURITY',
        'ALTER TABLE "public"."item_p1" DROP CONSTRAINT "fk"',
        'DROP TABLE "public"."item_p2"',
        # A constraint of the plan, on a table that was there before.
        f'ALTER TABLE "public"."b" ADD CONSTRAINT {FOREIGN_KEY} NOT VALID',
        'ALTER TABLE "public"."b" VALIDATE CONSTRAINT "fk"',
        # Another constraint, under a name of the plan; and one that would scan under its lock.
        'ALTER TABLE "public"."item_p2" ADD CONSTRAINT "fk" CHECK (false) NOT VALID',
        f'ALTER TABLE "public"."item_p2" ADD CONSTRAINT {FOREIGN_KEY}',
        'ALTER TABLE "public"."item_p2" VALIDATE CONSTRAINT "other"',
        'DROP INDEX CONCURRENTLY "public"."other_idx"',
    ],
)
def test_nothing_else_may_run(sql: str) -> None:
    assert extra(step(sql))


def test_the_plan_itself_has_nothing_that_was_not_approved() -> None:
    assert unapproved(SAVED, SAVED, live(valid=True)) == ()
    assert unapproved(replace(SAVED, steps=SAVED.steps[2:]), SAVED, live(valid=True)) == ()
