"""CHECKs and foreign keys that are declared NOT ENFORCED (PostgreSQL 18) stay so."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from protocol import SCHEMA, World, layout
from test_archive import expire, kept, retired, this_month
from test_default_partitions import OLD
from test_maintain import cut, maintain, now_of, put, settled

from parlant_shard.cascade import cascade_body
from parlant_shard.catalog import Check, ForeignKey, Table
from parlant_shard.errors import SchemaError
from parlant_shard.planner import make_plan
from parlant_shard.restore import restore
from parlant_shard.scratch import require_enforced
from parlant_shard.topology import Interval
from parlant_shard.verify import Report, verify
from servers import Clusters

pytestmark = pytest.mark.needs(major=18)

OFF = " NOT ENFORCED"
STRAY = "gen_random_uuid()"


def schema(state: str, *, more: str = "") -> str:
    """A foreign key and a CHECK of a plain table and of one that can be partitioned."""
    return (
        SCHEMA.replace(
            "account_id uuid NOT NULL REFERENCES account (id) ON DELETE CASCADE",
            "account_id uuid NOT NULL,\n  CONSTRAINT item_account FOREIGN KEY (account_id) "
            f"REFERENCES account (id) ON DELETE CASCADE{state}",
        )
        .replace(
            "note varchar(20)", f"note varchar(20) CONSTRAINT item_noted CHECK (note <> ''){state}"
        )
        .replace(
            "item_id uuid NOT NULL REFERENCES item (id) ON DELETE CASCADE",
            "item_id uuid NOT NULL,\n  CONSTRAINT log_item FOREIGN KEY (item_id) "
            f"REFERENCES item (id) ON DELETE CASCADE{state}",
        )
        .replace(
            "  body text\n",
            f"  body text,\n{more}  CONSTRAINT log_said CHECK (body <> ''){state}\n",
        )
    )


NAMES = ("item_account_s1", "item_noted_s1", "log_item_s1", "log_said_s1")
LOOSE = {name: {False} for name in NAMES}
FIRM = {name: {True} for name in NAMES}


@pytest.fixture
def world(tmp_path: Path, clusters: Clusters) -> World:
    """Give the databases of one server."""
    return World(tmp_path, clusters)


def states(world: World) -> dict[str, set[bool]]:
    """Which of the constraints are enforced, on shard tables and on their partitions."""
    found: dict[str, set[bool]] = {}
    for name, enforced in world.rows(
        "SELECT conname, conenforced FROM pg_constraint WHERE conname IN "
        f"({', '.join(repr(n) for n in NAMES)})"
    ):
        found.setdefault(name, set()).add(enforced)
    return found


def stray(world: World, moment: str = "now()") -> None:
    """Rows that the constraints would refuse, and that PostgreSQL takes."""
    world.execute(
        f"INSERT INTO item_s1 (workspace_id, account_id, note) VALUES ('a', {STRAY}, '')",
        f"INSERT INTO log_s1 (workspace_id, item_id, at, body) VALUES ('a', {STRAY}, {moment}, '')",
    )


def errors(report: Report) -> list[str]:
    assert not report.failures
    return [f"{f.check}: {f.detail}" for f in report.findings]


@pytest.mark.parametrize("tables", [{}, cut()], ids=["plain", "partitioned"])
def test_what_is_declared_so_stays_so(world: World, tables: dict[str, Any]) -> None:
    what = layout({"s1": ["a", "b"]}, ddl=schema(OFF), tables=tables)
    outcome = world.converge(what)
    assert states(world) == LOOSE
    (said,) = [n for n in outcome.plan.notices if n.startswith('foreign key "item_account"')]
    assert "NOT ENFORCED" in said
    stray(world)
    world.settled(what)
    if tables:
        maintain(world, what)
        settled(world, what)
    assert errors(verify(world.load(what))) == []
    # What is no matter of the declaration: a row must not refer into another workspace.
    world.execute(
        "WITH parent AS (INSERT INTO account_s1 (workspace_id) VALUES ('b') RETURNING id) "
        "INSERT INTO item_s1 (workspace_id, account_id) SELECT 'a', id FROM parent"
    )
    (finding,) = errors(verify(world.load(what)))
    assert "is of another workspace" in finding


@pytest.mark.parametrize("tables", [{}, cut()], ids=["plain", "partitioned"])
def test_a_declaration_that_changes_is_planned(world: World, tables: dict[str, Any]) -> None:
    def what(state: str, more: str = "") -> Any:
        return layout({"s1": ["a"]}, ddl=schema(state, more=more), tables=tables)

    world.apply(what(""))
    put(world, now_of(world))
    extra = f"  later int CONSTRAINT log_later CHECK (later > 0){OFF},\n"
    world.converge(what(OFF, extra))
    assert states(world) == LOOSE
    world.execute("UPDATE log_s1 SET later = -1")
    world.converge(what("", extra))
    assert states(world) == FIRM
    assert world.value("SELECT bool_and(convalidated) FROM pg_constraint WHERE conenforced")
    assert world.value("SELECT count(*) FROM pg_constraint WHERE NOT conenforced") >= 1
    world.equals_fresh(what("", extra))


def test_what_is_switched_off_by_hand_is_found(world: World) -> None:
    what = layout({"s1": ["a"]}, ddl=schema(""), tables=cut())
    world.apply(what)
    world.execute(
        "ALTER TABLE item_s1 ALTER CONSTRAINT item_account_s1 NOT ENFORCED",
        "ALTER TABLE log_s1 ALTER CONSTRAINT log_item_s1 NOT ENFORCED",
        "ALTER TABLE log_s1 DROP CONSTRAINT log_said_s1, "
        "ADD CONSTRAINT log_said_s1 CHECK (body <> '') NOT ENFORCED",
    )
    found = errors(verify(world.load(what)))
    assert all(
        any(n in f and f.startswith("keys:") for f in found)
        for n in ("item_account_s1", "log_item_s1", "log_said_s1")
    ), found
    world.converge(what)
    assert states(world) == FIRM
    assert errors(verify(world.load(what))) == []


def test_an_archived_partition_comes_back_as_declared(world: World) -> None:
    """With rows that the constraints would refuse."""
    what = layout({"s1": ["a"]}, ddl=schema(OFF), tables=kept())
    world.apply(what)
    stray(world)
    name = this_month(world)
    later, report = expire(world, what)
    assert [f.message for f in report.failures] == []
    assert retired(world)[name][0] == "archived"
    beside = restore(world.load(what), name, beside=True)
    assert beside.rows == 1
    assert world.rows(
        f"SELECT conenforced FROM pg_constraint WHERE conrelid = '{name}'::regclass "
        "AND conname = 'log_said_s1'"
    ) == [(False,)]
    world.execute(
        f"DROP TABLE {name}",
        f"UPDATE parlant_shard.retired SET state = 'archived' WHERE name = '{name}'",
    )
    restored = restore(world.load(what), name, keep=Interval(300, "day"))
    assert (restored.rows, restored.state) == (1, "restored")
    assert states(world) == LOOSE
    settled(world, what, later)
    world.settled(what)


def test_rows_are_moved_out_of_a_default_partition(world: World) -> None:
    what = layout({"s1": ["a"]}, ddl=schema(OFF), tables=cut("1 month", 1, default=True))
    world.apply(what)
    stray(world, f"'{OLD.isoformat()}Z'")
    maintain(world, what, move=10)
    assert world.value("SELECT count(*) FROM ONLY log_s1_default") == 0
    assert states(world) == LOOSE
    world.settled(what)


def test_a_live_schema_keeps_them(world: World) -> None:
    """Read as it is, and built again in a scratch database for an index of the topology."""
    world.dsn("core")
    for statement in schema(OFF).split(";\n"):
        if statement.strip():
            world.execute(statement)
    indexes = {"log_body_idx": {"on": "log", "columns": ["body"]}}
    for more in ({}, {"indexes": indexes}):
        what = layout({"s1": ["a"]}, ddl=None, schema={"from": "core"}, **more)
        world.converge(what)
        assert states(world) == LOOSE


def test_older_majors_are_told() -> None:
    table = Table(name="t", checks=(Check(name="c", definition="CHECK ((a > 0)) NOT ENFORCED"),))
    with pytest.raises(SchemaError) as refused:
        require_enforced([table], 17)
    assert refused.value.code == "PS584"
    require_enforced([replace(table, checks=())], 17)


def test_copies_of_reference_tables_carry_nothing_out_for_them() -> None:
    """Where it is not enforced, a delete of the coordinator cascades to no row there either."""
    key = ForeignKey(
        name="k", columns=("user_id",), ref_table="user", ref_columns=("id",), on_delete="c"
    )
    tables = {"note": Table(name="note", foreign_keys=(key,)), "user": Table(name="user")}
    assert "DELETE FROM" in cascade_body("public", "user", tables)
    loose = replace(tables["note"], foreign_keys=(replace(key, unenforced=True),))
    assert "DELETE FROM" not in cascade_body("public", "user", {**tables, "note": loose})


def test_the_plan_says_what_is_not_enforced(world: World) -> None:
    world.apply(layout({"s1": ["a"]}, ddl=schema("")))
    titles = [s.title for s in make_plan(world.load(layout({"s1": ["a"]}, ddl=schema(OFF)))).steps]
    assert 'add foreign key "item_account_s1" to "item_s1", not enforced' in titles
    assert not [t for t in titles if t.startswith("validate")]
