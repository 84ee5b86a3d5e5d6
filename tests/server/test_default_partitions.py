"""Default partitions: new partitions beside them, and rows moved out of them."""

from __future__ import annotations

from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest
from protocol import SCHEMA, Layout, World, layout
from test_maintain import cut, maintain, months, now_of, put, settled

from parlant_shard import maintain as upkeep
from parlant_shard.apply import apply
from parlant_shard.diff import GUARD
from parlant_shard.errors import ApplyFailed
from parlant_shard.planner import make_plan
from servers import Clusters

pytestmark = pytest.mark.matrix

OLD = datetime(1999, 5, 5)


@pytest.fixture
def world(tmp_path: Path, clusters: Clusters) -> World:
    """Give the databases of one server."""
    return World(tmp_path, clusters)


def with_default(**more: Any) -> Layout:
    options = {"every": "1 month", "premake": 1, "default": True, **more}
    return layout({"s1": ["a"]}, tables=cut(**options))


def guards(world: World) -> int:
    return int(world.value(f"SELECT count(*) FROM pg_constraint WHERE conname = '{GUARD}'"))


# --- new partitions beside it ---------------------------------------------------------------------


def test_a_partition_ahead_is_attached_without_a_scan(world: World) -> None:
    """The default partition proves by a validated CHECK that it holds no row of the range."""
    what = with_default()
    world.apply(what)
    put(world, OLD)
    longer = with_default(premake=2)
    steps = make_plan(world.load(longer)).steps
    assert [s.title.split(" ")[0] for s in steps] == ["keep", "see", "create"]
    world.converge(longer)
    assert guards(world) == 0
    report = maintain(world, with_default(premake=3))
    titles = [s.title for s in report.plan.steps]
    assert [t.split(" ")[0] for t in titles[:3]] == ["keep", "see", "create"]
    assert guards(world) == 0
    settled(world, with_default(premake=3))


@pytest.mark.parametrize("null", [" NOT NULL", ""])
@pytest.mark.parametrize("type_", ["timestamptz", "date", "uuid", "bigint"])
def test_the_proof_is_understood(world: World, type_: str, null: str) -> None:
    """PostgreSQL says at DEBUG1 whether it scans."""
    schema = SCHEMA.replace("at timestamptz NOT NULL DEFAULT now()", f"at {type_}{null}")
    epoch = {"epoch": "seconds"} if type_ == "bigint" else {}
    cuts = {"every": "1 month", "premake": 1, "default": True, **epoch}
    world.apply(layout({"s1": ["a"]}, ddl=schema, tables=cut(**cuts)))
    old = {"timestamptz": "'1999-01-01'", "date": "'1999-01-01'", "bigint": "7"}.get(
        type_, "'00000000-0000-7000-8000-000000000000'"
    )
    put_one = "INSERT INTO log_s1 (workspace_id, item_id, at) SELECT 'a', id, {} FROM item_s1"
    world.execute(
        "INSERT INTO account_s1 (workspace_id) VALUES ('a')",
        "INSERT INTO item_s1 (workspace_id, account_id) SELECT 'a', id FROM account_s1",
        put_one.format(old),
        *([] if null else [put_one.format("NULL")]),
    )
    what = layout({"s1": ["a"]}, ddl=schema, tables=cut(**{**cuts, "premake": 2}))
    steps = make_plan(world.load(what)).steps
    assert len(steps) == 3
    with world.connect() as connection:
        said: list[str] = []
        connection.add_notice_handler(lambda d: said.append(d.message_primary or ""))
        connection.execute("SET client_min_messages = debug1")
        for step in steps:
            with connection.transaction():
                for statement in step.sql:
                    connection.execute(statement)
    assert any("log_s1_default" in s and "is implied by existing" in s for s in said), said
    assert not any("verifying table" in s and "log_s1_default" in s for s in said[-3:])
    assert guards(world) == 0


def test_rows_of_the_range_are_in_it(world: World) -> None:
    """The guard goes again at once, and the message says what to do."""
    what = with_default()
    world.apply(what)
    ahead = months(now_of(world), 2) + timedelta(days=3)
    put(world, ahead)
    with pytest.raises(ApplyFailed) as failed:
        apply(world.load(with_default(premake=2)))
    assert failed.value.hint is not None
    assert "--move-default-rows" in failed.value.hint
    assert guards(world) == 0
    put(world, ahead)
    report = upkeep.maintain(world.load(with_default(premake=2)))
    assert [(f.code, "--move-default-rows" in str(f.hint)) for f in report.failures] == [
        ("PS581", True)
    ]
    assert guards(world) == 0


def test_a_guard_that_a_killed_run_left(world: World) -> None:
    what = with_default()
    world.apply(what)
    ahead = months(now_of(world), 2)
    guard = (
        f"ALTER TABLE log_s1_default ADD CONSTRAINT {GUARD} CHECK (at < '{ahead}Z' "
        f"OR at >= '{months(ahead, 1)}Z') NOT VALID"
    )
    world.execute(guard)
    with pytest.raises(psycopg.errors.CheckViolation):
        put(world, ahead)
    maintain(world, what)
    assert guards(world) == 0
    put(world, ahead)
    world.execute("DELETE FROM log_s1")
    world.execute(guard)
    world.converge(what)
    assert guards(world) == 0
