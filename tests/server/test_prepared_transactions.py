"""A prepared transaction that holds a lock is named wherever we wait for it.

It has no session: pg_blocking_pids gives 0 for it, and pg_stat_activity has no row. The servers of
other tests take no prepared transactions, so these have one of their own.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest
from protocol import World, layout
from psycopg.conninfo import make_conninfo
from test_maintain import cut, months, now_of

from parlant_shard import db, executor, local
from parlant_shard import maintain as upkeep
from parlant_shard.apply import apply
from parlant_shard.errors import ApplyFailed, Exit, ServerError
from parlant_shard.plan import Step
from parlant_shard.planner import make_plan
from parlant_shard.privacy import purge
from servers import Clusters, scratch_directory

SCHEMA = """
CREATE TABLE item (
  id uuid PRIMARY KEY DEFAULT gen_random_uuid(), workspace_id text NOT NULL, size int
);
CREATE INDEX item_size_idx ON item (size);
CREATE TABLE log (
  item_id uuid NOT NULL, workspace_id text NOT NULL, at timestamptz NOT NULL,
  PRIMARY KEY (item_id, at)
);
"""
WHAT = layout({"s1": ["a", "b"]}, ddl=SCHEMA)
MORE = layout({"s1": ["a", "b", "c"]}, ddl=SCHEMA)
GID = "it's theirs"
QUOTED = "'it''s theirs'"
# Seconds after which a test that is told nothing goes on all the same, and fails.
PATIENCE = 30.0


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    scratch = scratch_directory()
    local.up(scratch / "core", durable=False, settings={"max_prepared_transactions": "5"})
    yield local.conninfo(scratch / "core")
    local.remove(scratch / "core")
    scratch.rmdir()


@pytest.fixture
def world(tmp_path: Path, clusters: Clusters, server: str) -> World:
    """Give an empty database on the server that takes prepared transactions."""
    world = World(tmp_path, clusters)
    with psycopg.connect(server, autocommit=True) as admin:
        admin.execute(f"CREATE DATABASE {world.name}")
    world.dsns["core"] = make_conninfo(server, dbname=world.name)
    return world


class Prepared:
    """A prepared transaction of an application; `end` rolls it back, once."""

    def __init__(self, world: World) -> None:
        self.world, self.mutex = world, threading.Lock()
        self.told: list[str] = []

    def end(self) -> None:
        with self.mutex:
            if self.world.rows("SELECT FROM pg_prepared_xacts WHERE database = current_database()"):
                self.world.execute(f"ROLLBACK PREPARED {QUOTED}")

    def listener(self, event: str, _step: Step | None, text: str) -> None:
        """Remember what names it, and end it then."""
        if QUOTED in text:
            self.told.append(f"{event}: {text}")
            self.end()


@contextmanager
def prepared(world: World, statement: str) -> Iterator[Prepared]:
    with world.connect() as connection:
        connection.execute("BEGIN")
        connection.execute(statement)
        connection.execute(f"PREPARE TRANSACTION {QUOTED}")
    found = Prepared(world)
    late = threading.Timer(PATIENCE, found.end)
    late.start()
    try:
        yield found
    finally:
        late.cancel()
        found.end()


WRITE = "INSERT INTO item_s1 (workspace_id, size) VALUES ('a', 1)"


def names(text: str, world: World) -> bool:
    """Whether a text has the name, the owner, the database, the age and both statements."""
    return (
        f'prepared transaction {QUOTED} of "postgres" in database "{world.name}", prepared ' in text
        and f" s ago (COMMIT PREPARED {QUOTED} or ROLLBACK PREPARED {QUOTED} ends it)" in text
    )


def test_an_index_build_names_it_while_it_waits(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(executor, "WATCH_AFTER", 0.2)
    world.apply(WHAT)
    more = layout({"s1": ["a", "b"]}, ddl=SCHEMA + "CREATE INDEX item_two ON item (size, id);")
    with prepared(world, WRITE) as other:
        apply(world.load(more), listener=other.listener)
    assert other.told[0].startswith("wait: waiting for prepared transaction")
    assert names(other.told[0], world)
    world.settled(more)


@pytest.mark.parametrize(
    ("first", "then"),
    [
        ("size int\n", "size int, note text\n"),
        ("size int\n", "size int CHECK (size > 0)\n"),
        ("CREATE INDEX item_size_idx ON item (size);", ""),
    ],
    ids=["add a column", "add and validate a CHECK", "drop an index"],
)
def test_a_step_that_is_tried_again_names_it(world: World, first: str, then: str) -> None:
    world.apply(WHAT)
    more = layout({"s1": ["a", "b"]}, ddl=SCHEMA.replace(first, then))
    mode = "SHARE" if "CHECK" in then else "ROW EXCLUSIVE"
    with prepared(world, f"LOCK TABLE item_s1 IN {mode} MODE") as other:
        apply(
            world.load(more),
            allow=frozenset() if then else frozenset({"drops-object"}),
            listener=other.listener,
        )
    assert names(other.told[0], world), other.told


def test_the_error_at_the_end_of_the_attempts_names_it(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(executor, "PATIENCE", 3.0)
    world.apply(WHAT)
    more = layout({"s1": ["a", "b"]}, ddl=SCHEMA.replace("size int\n", "size int, note text\n"))
    with prepared(world, WRITE), pytest.raises(ApplyFailed) as failed:
        apply(world.load(more))
    assert failed.value.code == "PS510"
    assert names(failed.value.message, world)
    hint = failed.value.hint or ""
    assert f'in database "{world.name}", as "postgres"' in hint
    assert f"ROLLBACK PREPARED {QUOTED}" in hint
    assert "run the same command again: it resumes" in hint
    world.converge(more)


def test_a_lock_that_is_not_to_be_had_gives_a_query_that_shows_it(world: World) -> None:
    """Where nobody looked while we waited, the hint has what lists prepared transactions."""
    world.apply(WHAT)
    with prepared(world, "LOCK TABLE item_s1 IN ACCESS EXCLUSIVE MODE"):
        with (
            pytest.raises(Exception, match="a lock that another session holds") as failed,
            db.session(world.load(WHAT), "core") as session,
        ):
            session.execute("SELECT FROM public.item_s1")
        hint = getattr(failed.value, "hint", "")
        query = hint.partition("`SELECT l.pid")[2].partition("`")[0]
        assert any(row[0] is None for row in world.rows(f"SELECT l.pid{query}"))
        query = hint.partition("`SELECT gid")[2].partition("`")[0]
        assert [row[0] for row in world.rows(f"SELECT gid{query}")] == [GID]


@pytest.mark.parametrize("command", [make_plan, apply])
def test_a_table_that_it_has_locked_is_named_by_plan_and_apply(world: World, command: Any) -> None:
    world.apply(WHAT)
    with prepared(world, "LOCK TABLE item_s1 IN ACCESS EXCLUSIVE MODE"):
        with pytest.raises(ServerError) as failed:
            command(world.load(WHAT))
        assert failed.value.code == "PS404"
        assert names(failed.value.message, world)
        assert f"ROLLBACK PREPARED {QUOTED}" in (failed.value.hint or "")


def test_the_end_of_a_run_waits_for_a_lock_on_the_map(world: World) -> None:
    world.apply(WHAT)
    with prepared(world, "UPDATE parlant_shard.map SET epoch = epoch") as held:
        ended = threading.Timer(3, held.end)
        ended.start()
        apply(world.load(MORE))
        ended.join()
    assert make_plan(world.load(MORE)).steps == ()


def test_the_repair_of_an_index_is_put_off_for_it(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(executor, "WATCH_AFTER", 0.2)
    monkeypatch.setattr(sys.modules["parlant_shard.maintain.run"], "READERS", 0.5)
    world.apply(WHAT)
    world.execute(
        "UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'item_size_idx_s1'::regclass"
    )
    with prepared(world, WRITE):
        report = upkeep.maintain(world.load(WHAT))
    assert [f.message for f in report.failures] == []
    assert any(names(text, world) for text in report.postponed), report.postponed
    assert report.exit_code is Exit.DONE
    upkeep.maintain(world.load(WHAT))
    assert world.rows("SELECT FROM pg_index WHERE NOT indisvalid") == []


@pytest.mark.needs(logical=True, superuser=True)
def test_the_first_copy_of_a_reference_table_names_it(
    world: World, clusters: Clusters, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is the coordinator that waits then, for every transaction that is open there."""
    monkeypatch.setattr(executor, "WATCH_AFTER", 0.2)
    world.dsns["east"] = clusters.get(0).new_database("p")
    what = layout(
        {"s1": ["a"], "s2": ("east", ["b"])},
        ddl=SCHEMA + "CREATE TABLE country (code text PRIMARY KEY);",
        tables={"country": {"kind": "reference"}},
    )
    topology = world.load(what)
    with ExitStack() as stack:
        others: list[Prepared] = []

        def listener(event: str, step: Step | None, text: str) -> None:
            if event == "start" and step is not None and "create subscription" in step.title:
                others.append(stack.enter_context(prepared(world, "CREATE TABLE theirs ()")))
            for other in others:
                other.listener(event, step, text)

        apply(topology, listener=listener)
    assert others[0].told[0].startswith("wait: the coordinator waits for prepared transaction")
    assert names(others[0].told[0], world)


def test_a_detach_is_put_off_for_it(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules["parlant_shard.maintain.run"], "READERS", 2.0)
    what = layout({"s1": ["a", "b"]}, ddl=SCHEMA, tables=cut(retention="1 month"))
    world.apply(what)
    told: list[str] = []

    def listener(_event: str, _step: Step | None, text: str) -> None:
        told.append(text)

    with prepared(world, "LOCK TABLE log_s1 IN ROW EXCLUSIVE MODE"):
        now = months(now_of(world), 4)
        report = upkeep.maintain(world.load(what), now=now, listener=listener)
    assert any(names(text, world) for text in report.postponed), report.postponed
    assert any(names(text, world) for text in told if text.startswith("waiting for"))


def test_a_table_that_it_has_locked_is_not_read_and_it_is_named(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.modules["parlant_shard.maintain.site"], "LOCKED_WAIT", 1.0)
    world.apply(WHAT)
    with prepared(world, "LOCK TABLE item_s1 IN ACCESS EXCLUSIVE MODE"):
        report = upkeep.maintain(world.load(WHAT))
    assert [f.code for f in report.failures] == ["PS404"]
    assert names(report.failures[0].message, world)
    assert ': "item_s1" by prepared transaction' in report.failures[0].message
    assert f"ROLLBACK PREPARED {QUOTED}" in (report.failures[0].hint or "")


def test_a_purge_names_it_while_it_waits_for_rows(world: World) -> None:
    world.apply(WHAT)
    world.execute(WRITE)
    with prepared(world, "UPDATE item_s1 SET size = 2 WHERE workspace_id = 'a'") as other:
        purge(
            world.load(WHAT),
            "a",
            allow=frozenset({"deletes-data"}),
            confirm=lambda _plan: True,
            listener=other.listener,
        )
    assert names(other.told[0], world), other.told
    assert world.value("SELECT count(*) FROM item_s1") == 0


def test_a_purge_that_waited_in_vain_for_its_commit_names_it(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.modules["parlant_shard.privacy.purge"], "WRITERS", 0.3)
    world.apply(WHAT)
    with prepared(world, WRITE), pytest.raises(ApplyFailed) as failed:
        purge(
            world.load(WHAT),
            "a",
            allow=frozenset({"deletes-data"}),
            confirm=lambda _plan: True,
            listener=executor.quiet,
        )
    assert failed.value.code == "PS749"
    assert names(failed.value.message, world)
    assert f"ROLLBACK PREPARED {QUOTED}" in (failed.value.hint or "")
