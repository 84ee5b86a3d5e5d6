"""Subscriptions for which a server has nothing left: refused beforehand, given up soon."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import psycopg
import pytest
from protocol import World, layout
from psycopg import sql

from parlant_shard import executor, local
from parlant_shard.apply import apply
from parlant_shard.errors import ApplyFailed, TopologyError
from parlant_shard.plan import Step
from parlant_shard.planner import make_plan
from servers import Clusters, scratch_directory

pytestmark = pytest.mark.needs(logical=True, superuser=True)

SCHEMA = """
CREATE TABLE plan (id text PRIMARY KEY);
CREATE TABLE account (
  id uuid PRIMARY KEY DEFAULT gen_random_uuid(), workspace_id text NOT NULL,
  plan text REFERENCES plan (id)
);
"""
TWO = layout(
    {"s1": ["a"], "s2": ("east", ["b"])}, ddl=SCHEMA, tables={"plan": {"kind": "reference"}}
)
THREE = layout(
    {"s1": ["a"], "s2": ("east", ["b"]), "s3": ("west", ["c"])},
    ddl=SCHEMA,
    tables={"plan": {"kind": "reference"}},
)

Lab = Callable[..., str]
"""Called with a name and settings; starts a server with them and returns its conninfo."""


@pytest.fixture
def world(tmp_path: Path, clusters: Clusters) -> World:
    return World(tmp_path, clusters)


@pytest.fixture
def lab() -> Iterator[Lab]:
    scratch = scratch_directory()
    started: list[Path] = []

    def start(name: str, **settings: str) -> str:
        directory = scratch / name
        if directory in started:
            local.down(directory)
        started.append(directory)
        local.up(directory, durable=False, settings=settings)
        return local.conninfo(directory)

    yield start
    for directory in set(started):
        local.remove(directory)
    scratch.rmdir()


def execute(conninfo: str, *statements: str) -> None:
    with psycopg.connect(conninfo, autocommit=True) as connection:
        for statement in statements:
            connection.execute(statement)


def unprepared(conninfo: str) -> bool:
    with psycopg.connect(conninfo) as connection:
        row = connection.execute(
            "SELECT NOT EXISTS (SELECT FROM pg_namespace WHERE nspname = 'parlant_shard') "
            "AND NOT EXISTS (SELECT FROM pg_class WHERE relname LIKE 'account%')"
        ).fetchone()
    return bool(row and row[0])


@pytest.mark.parametrize(
    ("setting", "limit", "needed", "where"),
    [
        ("max_logical_replication_workers", "1", 2, "east"),
        # The launcher of logical replication is a worker process too.
        ("max_worker_processes", "2", 3, "east"),
        ("max_replication_slots", "1", 2, "core"),
        ("max_wal_senders", "1", 2, "core"),
    ],
)
def test_a_limit_is_told_before_anything_changes(
    world: World, lab: Lab, setting: str, limit: str, needed: int, where: str
) -> None:
    world.dsns[where] = lab(where, **{setting: limit})
    topology = world.load(TWO)
    for attempt in (make_plan, apply):
        with pytest.raises(TopologyError) as refused:
            attempt(topology)
        error = refused.value
        assert (error.code, error.exit_code) == ("PS171", 4)
        assert error.message.startswith(f'server "{where}" has too little left of {setting}: ')
        assert error.hint == (
            f'on server "{where}": ALTER SYSTEM SET {setting} = {needed}, then restart'
        )
        assert error.path == f"servers.{where}"
        assert error.file == str(topology.file)
    assert all(map(unprepared, (world.dsn("core"), world.dsn("east"))))
    # What the hint says is enough.
    world.dsns[where] = lab(where, **{setting: str(needed)})
    world.converge(TWO)


def test_origins_are_counted(world: World, lab: Lab) -> None:
    major = int(world.value("SHOW server_version_num")) // 10_000
    setting = "max_active_replication_origins" if major >= 18 else "max_replication_slots"
    world.dsns["east"] = lab("east", **{setting: "1"})
    with pytest.raises(TopologyError, match=f"{setting}: 0 of 1 replication origins") as refused:
        make_plan(world.load(TWO))
    assert refused.value.code == "PS171"


def test_databases_of_one_server_share_its_limits(world: World, lab: Lab) -> None:
    world.dsns["east"] = lab("lab", max_logical_replication_workers="2")
    execute(world.dsn("east"), "CREATE DATABASE other")
    world.dsns["west"] = psycopg.conninfo.make_conninfo(world.dsn("east"), dbname="other")
    with pytest.raises(TopologyError) as refused:
        make_plan(world.load(THREE))
    assert refused.value.message == (
        'server "east" has too little left of max_logical_replication_workers: 0 of 2 logical '
        "replication workers are taken, with 2 subscriptions to be started and one more while it "
        "copies"
    )
    assert (refused.value.hint or "").endswith("max_logical_replication_workers = 3, then restart")
    # One of the two fits.
    world.converge(TWO)
    # It has its worker now; another one and its copy do not fit.
    with pytest.raises(TopologyError, match=r": 1 of 2 .* with 1 subscription to be started"):
        make_plan(world.load(THREE))


def test_without_reference_tables_no_limit_matters(world: World, lab: Lab) -> None:
    world.dsns["east"] = lab("east", max_logical_replication_workers="0")
    bare = SCHEMA.replace("REFERENCES plan (id)", "").replace("CREATE TABLE plan", "-- ")
    world.converge(layout({"s1": ["a"], "s2": ("east", ["b"])}, ddl=bare))


def test_a_subscription_without_a_worker_is_given_up_soon(
    world: World, lab: Lab, clusters: Clusters, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The workers are free when the plan is made, and gone when the subscription asks for one."""
    monkeypatch.setattr(executor, "NO_WORKER", 3.0)
    world.dsns["east"] = east = lab("east", max_logical_replication_workers="2")
    publisher = clusters.get(0).new_database("pub")
    execute(publisher, "CREATE TABLE t (id int PRIMARY KEY)", "CREATE PUBLICATION busy")
    execute(east, "CREATE DATABASE other")
    other = psycopg.conninfo.make_conninfo(east, dbname="other")
    taken = [f"{world.name}_busy_{number}" for number in (1, 2)]
    events: list[tuple[str, str]] = []

    def take(event: str, step: Step | None, text: str) -> None:
        events.append((event, text))
        if event == "start" and step is not None and step.title.startswith("create subscription"):
            for name in taken:
                execute(
                    other,
                    sql.SQL("CREATE SUBSCRIPTION {} CONNECTION {} PUBLICATION busy")
                    .format(sql.Identifier(name), publisher)
                    .as_string(),
                )
            deadline = time.monotonic() + 30
            while running(east) < 2:
                assert time.monotonic() < deadline
                time.sleep(0.1)

    topology = world.load(TWO)
    began = time.monotonic()
    try:
        with pytest.raises(ApplyFailed) as failed:
            apply(topology, listener=take)
        assert time.monotonic() - began < 60
        assert failed.value.code == "PS517"
        assert re.fullmatch(
            r'server "east", wait until "\w+" has copied the reference tables: no worker was free '
            r"for 3 s, because max_logical_replication_workers is used up",
            failed.value.message,
        )
        assert failed.value.hint == (
            "raise max_logical_replication_workers (restart), or drop idle subscriptions; then run "
            "the same command again: it resumes"
        )
        assert ("wait", "no worker is free: max_logical_replication_workers is used up") in events
        # Planned again, it is seen before anything begins.
        with pytest.raises(TopologyError) as refused:
            apply(topology)
        assert refused.value.code == "PS171"
    finally:
        for name in taken:
            with suppress(psycopg.errors.UndefinedObject):
                execute(other, f"DROP SUBSCRIPTION {name}")
    apply(topology)
    world.settled(TWO)


def test_a_copy_that_takes_long_is_waited_for(
    world: World, lab: Lab, clusters: Clusters, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last worker copies a table of somebody else: it ends by itself, so nobody gives up."""
    monkeypatch.setattr(executor, "NO_WORKER", 1.0)
    world.dsns["east"] = east = lab("east", max_logical_replication_workers="3")
    publisher = clusters.get(0).new_database("pub")
    table = "CREATE TABLE t (id int PRIMARY KEY)"
    execute(publisher, table, "CREATE PUBLICATION busy FOR TABLE t")
    execute(east, "CREATE DATABASE other")
    other = psycopg.conninfo.make_conninfo(east, dbname="other")
    execute(other, table)
    name = f"{world.name}_busy"
    events: list[tuple[str, str]] = []
    locker = psycopg.connect(other)
    release = threading.Timer(5, locker.rollback)

    def take(event: str, step: Step | None, text: str) -> None:
        events.append((event, text))
        if event == "start" and step is not None and step.title.startswith("create subscription"):
            locker.execute("LOCK TABLE t IN SHARE MODE")  # a copy would write into it
            execute(
                other,
                sql.SQL("CREATE SUBSCRIPTION {} CONNECTION {} PUBLICATION busy")
                .format(sql.Identifier(name), publisher)
                .as_string(),
            )
            deadline = time.monotonic() + 30
            while running(east) < 2:
                assert time.monotonic() < deadline
                time.sleep(0.1)
            release.start()

    began = time.monotonic()
    try:
        apply(world.load(TWO), listener=take)
        assert time.monotonic() - began > 5
        assert not [text for event, text in events if event == "wait"]
        world.settled(TWO)
    finally:
        release.cancel()
        locker.close()
        with suppress(psycopg.errors.UndefinedObject):
            execute(other, f"DROP SUBSCRIPTION {name}")


def running(conninfo: str) -> int:
    with psycopg.connect(conninfo) as connection:
        row = connection.execute(
            "SELECT count(*) FROM pg_stat_subscription WHERE pid IS NOT NULL"
        ).fetchone()
    assert row is not None
    return int(row[0])
