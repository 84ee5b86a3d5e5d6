"""`maintain` and indexes: INVALID ones are repaired, those of a window follow the clock."""

from __future__ import annotations

from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest
from protocol import SCHEMA, Layout, World, layout

from parlant_shard import maintain as upkeep
from parlant_shard.maintain import Report
from parlant_shard.planner import make_plan
from servers import Clusters

pytestmark = pytest.mark.matrix

INVALID = "SELECT indexrelid::regclass::text FROM pg_index WHERE NOT indisvalid"


@pytest.fixture
def world(tmp_path: Path, clusters: Clusters) -> World:
    """Give the databases of one server."""
    return World(tmp_path, clusters)


def cut(every: str = "1 month", premake: int = 2, **more: Any) -> dict[str, Any]:
    return {"log": {"partition": {"by": "at", "every": every, "premake": premake, **more}}}


def maintain(world: World, what: Layout, now: datetime | None = None) -> Report:
    report = upkeep.maintain(world.load(what), now=now)
    assert [f.message for f in report.failures] == []
    return report


def settled(world: World, what: Layout, now: datetime | None = None) -> None:
    assert [s.title for s in maintain(world, what, now).plan.steps] == []
    assert [s.title for s in make_plan(world.load(what)).steps] == []


def now_of(world: World) -> datetime:
    found = world.value("SELECT now() AT TIME ZONE 'UTC'")
    assert isinstance(found, datetime)
    return found


def invalid(world: World, statement: str) -> None:
    """Run a CREATE or REINDEX INDEX CONCURRENTLY that is cancelled while it waits."""
    with world.connect() as other, world.connect() as building:
        other.execute("BEGIN ISOLATION LEVEL REPEATABLE READ")
        other.execute("SELECT 1 FROM item_s1")
        building.execute("SET statement_timeout = '300ms'")
        with pytest.raises(psycopg.errors.QueryCanceled):
            building.execute(statement)
        other.execute("ROLLBACK")


def test_invalid_indexes_are_repaired(world: World) -> None:
    what = layout({"s1": ["a"]}, tables=cut())
    world.apply(what)
    maintain(world, what)
    leaf = f"log_s1_p{now_of(world):%Y%m}01"
    world.execute("DROP INDEX item_note_idx_s1")
    invalid(world, "CREATE INDEX CONCURRENTLY item_note_idx_s1 ON item_s1 (note)")
    # What REINDEX left, and an index of another hand.
    invalid(world, "REINDEX INDEX CONCURRENTLY item_note_idx_s1")
    invalid(world, "CREATE INDEX CONCURRENTLY by_hand ON item_s1 (size)")
    # A plain index of a table whose good one has another suffix is not known; the parent's is.
    world.execute("DROP INDEX log_item_idx_s1")
    world.execute("CREATE INDEX log_item_idx_s1 ON ONLY log_s1 (item_id, at)")
    invalid(world, f"CREATE INDEX CONCURRENTLY {leaf}_item_idx ON {leaf} (item_id, at)")
    assert len(world.rows(INVALID)) >= 5
    report = maintain(world, what)
    assert [r[0] for r in world.rows(INVALID)] == ["by_hand"]
    assert any('"by_hand"' in notice for notice in report.notices)
    world.execute("DROP INDEX by_hand")
    settled(world, what)
    world.settled(what)


def test_an_invalid_index_that_is_attached(world: World) -> None:
    """PostgreSQL lets nobody drop it: it is built again where it is, then the parent is valid."""
    what = layout({"s1": ["a"]}, tables=cut())
    world.apply(what)
    maintain(world, what)
    leaf = f"log_s1_p{now_of(world):%Y%m}01"
    with world.connect() as connection:
        try:
            for name in (f"{leaf}_item_idx", "log_item_idx_s1"):
                connection.execute(
                    "UPDATE pg_index SET indisvalid = false WHERE indexrelid = %s::regclass", [name]
                )
        except psycopg.errors.InsufficientPrivilege:
            pytest.skip("needs a superuser")
    assert len(world.rows(INVALID)) == 2
    maintain(world, what)
    assert world.rows(INVALID) == []
    settled(world, what)


def test_a_repair_waits_for_a_transaction_and_is_put_off(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    what = layout({"s1": ["a"]}, tables=cut())
    world.apply(what)
    maintain(world, what)
    world.execute("DROP INDEX item_note_idx_s1")
    invalid(world, "CREATE INDEX CONCURRENTLY item_note_idx_s1 ON item_s1 (note)")
    monkeypatch.setattr("parlant_shard.maintain.run.READERS", 0.5)
    monkeypatch.setattr("parlant_shard.executor.WATCH_AFTER", 0.2)
    now = now_of(world) + timedelta(days=70)
    with world.connect() as reader:
        reader.execute("BEGIN ISOLATION LEVEL REPEATABLE READ")
        reader.execute("SELECT count(*) FROM item_s1")
        report = maintain(world, what, now)
        assert len(report.postponed) == 1
        assert "was waited for too long" in report.postponed[0]
        assert not report.cuts[0].horizon.low  # the rest of the run was done
        reader.execute("COMMIT")
    assert maintain(world, what, now).postponed == []
    assert world.rows(INVALID) == []
    settled(world, what, now)


def test_constraints_are_validated(world: World) -> None:
    what = layout({"s1": ["a"]}, tables=cut())
    world.apply(what)
    maintain(world, what)
    check = world.value(
        "SELECT pg_get_constraintdef(oid) FROM pg_constraint "
        "WHERE conname = 'item_s1_workspace_check'"
    )
    world.execute(
        "ALTER TABLE item_s1 DROP CONSTRAINT item_s1_workspace_check",
        f"ALTER TABLE item_s1 ADD CONSTRAINT item_s1_workspace_check {check} NOT VALID",
    )
    report = maintain(world, what)
    assert [s.title for s in report.plan.steps] == [
        'validate constraint "item_s1_workspace_check" of "item_s1"'
    ]
    settled(world, what)


def test_what_cannot_be_validated_stops_nothing_else(world: World) -> None:
    what = layout({"s1": ["a"]}, tables=cut())
    world.apply(what)
    world.execute(
        "INSERT INTO account_s1 (workspace_id) VALUES ('a')",
        "INSERT INTO item_s1 (workspace_id, account_id, size) SELECT 'a', id, -1 FROM account_s1",
        "ALTER TABLE item_s1 ADD CONSTRAINT item_size_check_s1 CHECK (size >= 0) NOT VALID",
    )
    now = now_of(world) + timedelta(days=100)
    report = upkeep.maintain(world.load(what), now=now)
    assert [(f.table, f.code) for f in report.failures] == [("item_s1", "PS510")]
    assert "some rows do not fit" in (report.failures[0].hint or "")
    assert not any(c.horizon.low for c in report.cuts)
    assert report.exit_code == 1


# --- windows --------------------------------------------------------------------------------------


def with_index(world: World) -> list[str]:
    return [
        r[0]
        for r in world.rows(
            "SELECT tablename FROM pg_indexes WHERE tablename LIKE 'log\\_s1\\_p%' "
            "AND indexdef LIKE '%body%' ORDER BY 1"
        )
    ]


def test_an_index_of_a_window_leaves_old_partitions(world: World) -> None:
    indexes = {"log_recent_idx": {"on": "log", "columns": ["body", "at desc"], "window": "3 days"}}
    what = layout({"s1": ["a"]}, tables=cut("1 day", 1, retention="9 days"), indexes=indexes)
    world.apply(what)
    settled_at = now_of(world)
    maintain(world, what)
    assert len(with_index(world)) == 5
    now = settled_at + timedelta(days=2)
    maintain(world, what, now)
    assert with_index(world) == [
        f"log_s1_p{now + timedelta(days=d):%Y%m%d}" for d in (-3, -2, -1, 0, 1)
    ]
    assert [s.title for s in maintain(world, what, now).plan.steps] == []
    # The clock goes back: the partitions get theirs again, and `apply` agrees.
    maintain(world, what)
    assert f"log_s1_p{settled_at - timedelta(days=3):%Y%m%d}" in with_index(world)
    settled(world, what)
    # A gap that is filled in the past has no such index, one in the window has it.
    for days in (-1, -7):
        world.execute(f"DROP TABLE log_s1_p{settled_at + timedelta(days=days):%Y%m%d}")
    maintain(world, what)
    assert f"log_s1_p{settled_at - timedelta(days=1):%Y%m%d}" in with_index(world)
    settled(world, what)


@pytest.mark.parametrize("whole", ["log_all_idx", "log_zzz_idx"])
def test_an_index_of_a_window_beside_one_of_the_schema(world: World, whole: str) -> None:
    """The same to PostgreSQL: what ATTACH takes must be the schema's, or names get mixed up."""
    what = layout(
        {"s1": ["a"]},
        ddl=f"{SCHEMA}CREATE INDEX {whole} ON log (body, at DESC);\n",
        tables=cut("1 day", 1),
        indexes={
            "log_recent_idx": {"on": "log", "columns": ["body", "at desc"], "window": "1 day"}
        },
    )
    world.apply(what)
    maintain(world, what)
    settled(world, what)
    for days in (1, 3):
        now = now_of(world) + timedelta(days=days)
        maintain(world, what, now)
        assert [s.title for s in maintain(world, what, now).plan.steps] == []
        found = world.rows(
            "SELECT i.relname::text, x.inhparent::regclass::text FROM pg_class i "
            "LEFT JOIN pg_inherits x ON x.inhrelid = i.oid "
            "WHERE i.relkind = 'i' AND i.relname ~ '^log_s1_p.*(all|zzz|recent)_idx$' ORDER BY 1"
        )
        attached = {name for name, parent in found if parent is not None}
        assert attached == {name for name, _ in found if name.endswith(whole.removeprefix("log_"))}
        assert attached
        recent = [name for name, parent in found if parent is None]
        assert recent == [
            f"log_s1_p{now + timedelta(days=d):%Y%m%d}_recent_idx" for d in (-1, 0, 1)
        ]


def test_an_index_of_a_window_on_a_plain_table(world: World) -> None:
    schema = SCHEMA.replace("size integer DEFAULT 0", "size integer DEFAULT 0, made timestamptz")
    indexes = {
        "item_recent_idx": {"on": "item", "columns": ["note"], "window": "30 days", "by": "made"}
    }
    what = layout({"s1": ["a"]}, ddl=schema, indexes=indexes)
    world.apply(what)
    settled(world, what)
    start = now_of(world)
    definition = "SELECT indexdef FROM pg_indexes WHERE indexname = 'item_recent_idx_s1'"
    before = world.value(definition)
    maintain(world, what, start + timedelta(days=2))
    assert world.value(definition) == before  # not worth a build yet
    now = start + timedelta(days=10)
    titles = [s.title for s in maintain(world, what, now).plan.steps]
    assert titles == [
        'build index "item_recent_idx_s1_new" on "item_s1" concurrently',
        'drop replaced index "item_recent_idx_s1" of "item_s1" concurrently',
        'rename index "item_recent_idx_s1_new" to "item_recent_idx_s1"',
    ]
    assert f"'{now - timedelta(days=30):%Y-%m-%d} 00:00:00+00'" in world.value(definition)
    assert [s.title for s in maintain(world, what, now).plan.steps] == []


@pytest.mark.parametrize("left", ["built", "invalid", "dropped"])
def test_a_roll_that_was_interrupted(world: World, left: str) -> None:
    schema = SCHEMA.replace("size integer DEFAULT 0", "size integer DEFAULT 0, made timestamptz")
    indexes = {
        "item_recent_idx": {"on": "item", "columns": ["note"], "window": "30 days", "by": "made"}
    }
    what = layout({"s1": ["a"]}, ddl=schema, indexes=indexes)
    world.apply(what)
    now = now_of(world)
    old = now - timedelta(days=60)
    world.execute(
        "DROP INDEX item_recent_idx_s1",
        f"CREATE INDEX item_recent_idx_s1 ON item_s1 (note) WHERE made >= '{old:%Y-%m-%d}Z'",
    )
    build = (
        "CREATE INDEX CONCURRENTLY item_recent_idx_s1_new ON item_s1 (note) "
        f"WHERE made >= '{now - timedelta(days=30):%Y-%m-%d}Z'"
    )
    if left == "invalid":
        invalid(world, build)
    else:
        world.execute(build)
    if left == "dropped":
        world.execute("DROP INDEX item_recent_idx_s1")
    maintain(world, what)
    assert world.rows(INVALID) == []
    assert [
        r[0] for r in world.rows("SELECT indexname FROM pg_indexes WHERE indexname ~ 'recent'")
    ] == ["item_recent_idx_s1"]
    settled(world, what)
