"""Plans as values: JSON and back, ids, passwords, and the order of the steps."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from psycopg.conninfo import conninfo_to_dict

from parlant_shard import changes as c
from parlant_shard.catalog import (
    Check,
    Column,
    ForeignKey,
    Index,
    Managed,
    Relkind,
    Subscription,
    Table,
    UserMapping,
)
from parlant_shard.desired import Peer
from parlant_shard.executor import with_secret
from parlant_shard.plan import Kind, Plan, Probe, Step, Target, build, secret_mark

TABLE = Table(name="item_s1", columns=(Column(name="id", type="uuid"),))
ON: dict[str, Any] = {"server": "core", "table": TABLE, "shard": "s1"}


def target(password: str | None = "secret") -> Target:
    peer = Peer(options=(("dbname", "d"), ("host", "h")), user="u", password=password)
    return Target(
        topology="t",
        namespace="public",
        coordinator="core",
        key="workspace_id",
        key_type="text",
        peers={"core": peer, "east": peer},
        majors={"core": 18, "east": 18},
    )


CHANGES: list[c.Change] = [
    c.AddColumn(**ON, column=Column(name="a", type="text")),
    c.DropColumn(**ON, column=Column(name="b", type="text")),
    c.CreateIndex(**ON, index=Index(name="i", unique=True, definition="btree (id)")),
    c.CreateTable(
        **ON,
        managed=Managed(kind="table", name="item_s1", logical="item", shard="s1"),
        foreign_keys=(),
    ),
    c.CreateInternal(server="core"),
    c.SetUserMapping(
        server="core",
        mapping=UserMapping(server="parlant_shard_east", role="r", user="u", password="secret"),
        live=None,
        peer="east",
    ),
    c.CreateSubscription(
        server="east",
        subscription=Subscription(name="s", slot="s", publication="p"),
        publisher="core",
    ),
]


def test_a_plan_travels_as_json() -> None:
    steps = build(CHANGES, target())
    plan = Plan(
        topology="t",
        file="t.yaml",
        sha256="0",
        schema_sha256="2",
        fingerprint="1",
        steps=steps,
        notices=("n",),
    )
    text = json.dumps(plan.to_json())
    assert Plan.from_json(json.loads(text)) == plan
    assert "secret" not in text.replace('"secret":', "")
    assert any(step.probe is not None for step in steps)
    assert any(step.secret is not None for step in steps)


def test_the_same_changes_are_the_same_plan() -> None:
    assert build(CHANGES, target()) == build(list(CHANGES), target())
    ids = [s.id for s in build([*CHANGES, *CHANGES], target())]
    assert len(set(ids)) == len(ids)


def test_steps_are_in_the_order_of_their_phases() -> None:
    phases = [s.phase for s in build(reversed(CHANGES), target())]
    assert phases == sorted(phases)
    titles = [s.title for s in build(reversed(CHANGES), target())]
    assert titles[0].startswith("create the schema parlant_shard")
    assert titles[-1].startswith("drop column")


def test_an_index_of_a_shard_is_built_concurrently() -> None:
    (step,) = build([CHANGES[2]], target())
    assert step.sql == (
        'CREATE UNIQUE INDEX CONCURRENTLY "i" ON "public"."item_s1" USING btree (id)',
    )
    assert (step.kind, step.transactional, step.lock_timeout_ms) == (Kind.CONCURRENT, False, 0)
    assert step.lock == "SHARE UPDATE EXCLUSIVE"
    assert set(step.hazards) == {"index-build", "may-fail-on-data"}


def test_dropping_a_column_of_a_foreign_table_deletes_nothing() -> None:
    foreign = replace(TABLE, kind=Relkind.FOREIGN)
    (step,) = build(
        [
            c.DropColumn(
                server="core", table=foreign, shard="s1", column=Column(name="b", type="text")
            )
        ],
        target(),
    )
    assert step.hazards == ()
    (step,) = build([CHANGES[1]], target())
    assert step.hazards == ("deletes-data",)


CHECK = Check(name="item_s1_check", definition="CHECK ((id IS NOT NULL))")
LEAF = Table(name="item_s1_p20260101", columns=TABLE.columns, parent="item_s1")
CUT = replace(TABLE, kind=Relkind.PARTITIONED, partition_by="id")


def strong_on(table: str, steps: Iterable[Step]) -> list[str]:
    """Return the constraints that are added to a table under a lock that stops its writers."""
    return [s for step in steps for s in step.sql if f'"{table}" ADD CONSTRAINT' in s]


@pytest.mark.parametrize("partitioned", [False, True], ids=["plain", "partitioned"])
@pytest.mark.parametrize("swapped", [False, True], ids=["added", "swapped"])
def test_a_check_over_rows_is_added_not_valid_and_validated_apart(
    partitioned: bool, swapped: bool
) -> None:
    on: dict[str, Any] = {
        "server": "core",
        "shard": "s1",
        "table": CUT if partitioned else TABLE,
        "leaves": (LEAF,) if partitioned else (),
    }
    wider = replace(CHECK, definition="CHECK ((id IS NULL))")
    steps = build(
        [
            c.SwapCheck(**on, old=wider, new=CHECK, begun=None, narrows=True)
            if swapped
            else c.AddCheck(**on, check=CHECK)
        ],
        target(),
    )
    read = LEAF.name if partitioned else TABLE.name
    (added,) = strong_on(read, steps)
    assert added.endswith(" NOT VALID")
    # The lock of ADD would last for the whole scan if both were one step.
    (validated,) = [s for s in steps if any("VALIDATE CONSTRAINT" in q for q in s.sql)]
    assert (validated.kind, len(validated.sql)) == (Kind.VALIDATE, 1)
    assert f'"{read}"' in validated.sql[0]
    if partitioned:
        # It merges with that of the partitions, which is valid by then: nothing is read.
        order = [s for step in steps for s in step.sql]
        (merged,) = strong_on(CUT.name, steps)
        assert order.index(validated.sql[0]) < order.index(merged)


@pytest.mark.parametrize("partitioned", [False, True], ids=["plain", "partitioned"])
def test_a_foreign_key_over_rows_is_added_not_valid_and_validated_apart(partitioned: bool) -> None:
    fk = ForeignKey(name="item_s1_fk", columns=("id",), ref_table="other_s1", ref_columns=("id",))
    steps = build(
        [
            c.AddForeignKey(
                server="core",
                shard="s1",
                table=CUT if partitioned else TABLE,
                leaves=(LEAF,) if partitioned else (),
                foreign_key=fk,
            )
        ],
        target(),
    )
    (added,) = strong_on(LEAF.name if partitioned else TABLE.name, steps)
    assert added.endswith(" NOT VALID")
    (validated,) = [s for s in steps if any("VALIDATE CONSTRAINT" in q for q in s.sql)]
    assert (validated.kind, len(validated.sql)) == (Kind.VALIDATE, 1)


@pytest.mark.parametrize(
    ("server", "shard", "table", "populated", "hazards"),
    [
        ("core", "s1", TABLE, True, {"deletes-data", "drops-object"}),
        ("core", "s1", TABLE, False, {"drops-object"}),
        ("core", None, TABLE, True, {"deletes-data", "drops-object"}),  # the reference table itself
        ("east", None, TABLE, True, {"drops-object"}),  # a copy of it
        ("core", "s2", replace(TABLE, kind=Relkind.FOREIGN), False, {"drops-object"}),
    ],
    ids=["rows", "no rows", "reference table", "copy", "foreign table"],
)
def test_dropping_a_table_with_rows_deletes_data(
    server: str, shard: str | None, table: Table, populated: bool, hazards: set[str]
) -> None:
    (step,) = build(
        [
            c.DropTable(
                server=server, shard=shard, table=table, populated=populated, why=c.Why.REMOVED
            )
        ],
        target(),
    )
    assert set(step.hazards) == hazards
    # What was empty when the plan was made is looked at again, under the lock.
    looks = [s for s in step.sql if s.startswith("LOCK TABLE")]
    assert bool(looks) is (hazards == {"drops-object"} and server == "core" and shard == "s1")


LOSES = {"deletes-data", "table-rewrite", "blocks-writes", "blocks-reads", "may-fail-on-data"}
REWRITES = LOSES - {"deletes-data"}
VARCHAR = "character varying"


@pytest.mark.parametrize(
    ("old", "new", "hazards", "using"),
    [
        # What does not fit fails; nothing is cut or rounded.
        ("integer", "bigint", REWRITES, True),
        ("bigint", "smallint", REWRITES, True),
        ("integer", "double precision", REWRITES, True),
        ("bigint", "numeric", REWRITES, True),
        ("numeric(10,2)", "numeric", REWRITES, True),
        ("text", "integer", REWRITES, True),
        # An explicit cast to a string cuts what is too long, without a word.
        ("text", f"{VARCHAR}(10)", REWRITES, False),
        (f"{VARCHAR}(20)", f"{VARCHAR}(19)", REWRITES, False),
        (VARCHAR, f"{VARCHAR}(10)", REWRITES, False),
        ("bit varying(9)", "bit varying(8)", REWRITES, False),
        ("uuid", "text", REWRITES, False),
        ("text", "character(9)", REWRITES, False),
        # Rounded, or cut.
        ("bigint", "double precision", LOSES, True),
        ("integer", "real", LOSES, True),
        ("double precision", "integer", LOSES, True),
        ("numeric(10,2)", "numeric(10,1)", LOSES, True),
        ("timestamp without time zone", "date", LOSES, True),
        # The catalogue alone changes.
        (f"{VARCHAR}(10)", f"{VARCHAR}(11)", set(), False),
        (f"{VARCHAR}(10)", VARCHAR, set(), False),
        (f"{VARCHAR}(10)", "text", set(), False),
        (VARCHAR, "text", set(), False),
    ],
)
def test_a_change_of_type_says_what_it_may_lose(
    old: str, new: str, hazards: set[str], using: bool
) -> None:
    before, after = Column(name="n", type=old), Column(name="n", type=new)
    (step,) = build([c.AlterColumn(**ON, old=before, new=after)], target())
    cast = f' USING "n"::{new}' if using else ""
    assert step.sql == (f'ALTER TABLE "public"."item_s1" ALTER COLUMN "n" TYPE {new}{cast}',)
    assert set(step.hazards) == hazards
    # The indexes of another collation are built anew.
    after = replace(after, collation='pg_catalog."C"')
    (step,) = build([c.AlterColumn(**ON, old=before, new=after)], target())
    assert set(step.hazards) == (hazards or REWRITES)
    # Behind a foreign table nothing is rewritten.
    foreign = {**ON, "table": replace(TABLE, kind=Relkind.FOREIGN)}
    (step,) = build([c.AlterColumn(**foreign, old=before, new=after)], target())
    assert (step.hazards, "USING" in step.sql[0]) == ((), False)


@given(st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1))
def test_a_password_is_quoted_for_where_it_stands(password: str) -> None:
    peers = target(password).peers
    mapping, subscription = build(CHANGES[5:], target(password))
    if mapping.server != "core":
        mapping, subscription = subscription, mapping
    (sql,) = with_secret(mapping, dict(peers))
    marker = '"password" '
    assert _unquoted(sql[sql.index(marker) + len(marker) :].removesuffix(")")) == password
    (sql,) = with_secret(subscription, dict(peers))
    start = sql.index("CONNECTION ") + len("CONNECTION ")
    conninfo = _unquoted(sql[start : sql.rindex(' PUBLICATION "p" WITH (')])
    assert conninfo_to_dict(conninfo)["password"] == password


def _unquoted(literal: str) -> str:
    """Read a string constant under standard_conforming_strings; E'' where it has backslashes."""
    literal = literal.strip()
    escaped = literal.startswith("E")
    body = literal.removeprefix("E")
    assert body[0] == body[-1] == "'"
    body = body[1:-1].replace("''", "'")
    return body.replace("\\\\", "\\") if escaped else body


def test_a_step_without_a_secret_is_left_alone() -> None:
    step = Step(
        id="1", phase=1, server="core", shard=None, title="t",
        sql=(f"SELECT '{secret_mark('core')}'",),
        transactional=True, lock=None, hazards=(), lock_timeout_ms=1, statement_timeout_ms=1,
        kind=Kind.METADATA, probe=Probe(query="SELECT 1"),
    )  # fmt: skip
    assert with_secret(step, {}) == step.sql


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: type(change).__name__)
def test_every_step_states_its_timeouts(change: c.Change) -> None:
    for step in build([change], target()):
        assert step.statement_timeout_ms > 0
        assert step.lock_timeout_ms > 0 or step.kind is Kind.CONCURRENT
