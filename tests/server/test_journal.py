"""Runs as they are recorded: whose is interrupted, and which saved plan was begun and not ended."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest
from protocol import SCHEMA, World, layout

from parlant_shard import db, journal
from parlant_shard.apply import apply
from parlant_shard.errors import StalePlan
from parlant_shard.plan import Kind, Plan, Step
from servers import Clusters

WHAT = layout({"s1": ["a"]})
TWO = layout(
    {"s1": ["a"]},
    ddl=SCHEMA + "CREATE INDEX one_idx ON item (size); CREATE INDEX two_idx ON item (note, size);",
)


@pytest.fixture
def world(tmp_path: Path, clusters: Clusters) -> World:
    found = World(tmp_path, clusters)
    found.apply(WHAT)
    return found


def step(id_: str) -> Step:
    return Step(
        id=id_, phase=1, server="core", shard=None, title="t", sql=("SELECT 1",),
        transactional=True, lock=None, hazards=(), lock_timeout_ms=1, statement_timeout_ms=1,
        kind=Kind.METADATA,
    )  # fmt: skip


def start(connection: db.Connection, topology: str, fingerprint: str, *steps: str) -> UUID:
    run_id = uuid4()
    plan = Plan(
        topology=topology, file="f", sha256="s", schema_sha256="x", fingerprint=fingerprint,
        steps=tuple(map(step, steps)), notices=(),
    )  # fmt: skip
    journal.start(connection, run_id, plan, command="apply", approved=plan)
    return run_id


def test_a_run_that_begins_ends_those_of_its_topology_alone(world: World) -> None:
    with db.connect(world.dsn("core"), server="core") as connection:
        first, other = start(connection, "t", "f"), start(connection, "o", "f")
        second = start(connection, "t", "g")
        states = {
            r["run_id"]: r["state"]
            for r in connection.execute("SELECT run_id, state FROM parlant_shard.run")
        }
        assert [states[r] for r in (first, other, second)] == [
            "interrupted", "running", "running",
        ]  # fmt: skip
        assert journal.interrupt_others(connection, "o") == [(other, "apply")]
        assert journal.interrupt_others(connection, "o") == []
        newest = journal.last(connection, "t")
        assert newest is not None
        assert (newest.run_id, newest.state) == (second, "running")
        assert [r.run_id for r in journal.history(connection, "t", 1)] == [second]
        assert [r.run_id for r in journal.history(connection, "t")] == [second, first]


def test_a_plan_is_unfinished_as_long_as_its_newest_run_is(world: World) -> None:
    with db.connect(world.dsn("core"), server="core") as connection:

        def unfinished(topology: str = "t", fingerprint: str = "f") -> Any:
            return journal.unfinished(connection, topology, fingerprint)

        first = start(connection, "t", "f", "1", "2")
        assert unfinished() == {"1", "2"}
        assert unfinished(topology="o") is unfinished(fingerprint="g") is None
        journal.finish(connection, first, "failed", "why")
        assert unfinished() == {"1", "2"}
        second = start(connection, "t", "f", "2")
        assert unfinished() == {"2"}
        journal.finish(connection, second, "done")
        assert unfinished() is None


def test_a_step_is_done_in_its_own_run_alone(world: World) -> None:
    with db.connect(world.dsn("core"), server="core") as connection:
        first, second = start(connection, "t", "f"), start(connection, "t", "f")
        row = connection.execute("SELECT clock_timestamp() AS now").fetchone()
        assert row is not None
        journal.record(connection, first, step("1"), started_at=row["now"], attempts=1)
        assert journal.is_done(connection, first, step("1"))
        assert not journal.is_done(connection, first, step("2"))
        assert not journal.is_done(connection, second, step("1"))
        assert [journal.steps_done(connection, r) for r in (first, second)] == [1, 0]


def test_a_saved_plan_that_was_resumed_to_its_end_is_not_begun_any_more(world: World) -> None:
    """What somebody changed afterwards was approved by nobody, though its steps look the same."""
    saved, topology = world.plan(TWO), world.load(TWO)

    def stop(event: str, step: Step | None, _text: str) -> None:
        if event == "start" and step is not None and '"two_idx_s1"' in step.title:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        apply(topology, saved=saved, listener=stop)
    assert apply(topology, saved=saved).resumed
    world.execute("DROP INDEX two_idx_s1")
    with pytest.raises(StalePlan) as refused:
        apply(topology, saved=saved)
    assert refused.value.code == "PS502"
