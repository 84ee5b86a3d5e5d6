"""The map that a router goes by: notified, polled, served stale, refused; and from a file."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psycopg
import pytest
from client_world import SHARDS, TWO_SERVERS, applied, fill
from protocol import World, layout
from psycopg import errors, sql

from parlant_shard import Router, ShardError, ShardMap
from parlant_shard.apply import apply
from parlant_shard.client import source as source_module
from parlant_shard.client.source import FixedMap, StoredMap
from parlant_shard.topology import Topology
from servers import Clusters, database_name


@pytest.fixture
def world(tmp_path: Path, clusters: Clusters) -> World:
    return World(tmp_path, clusters)


@pytest.fixture
def topology(world: World) -> Topology:
    return applied(world)


@pytest.fixture
def source(topology: Topology) -> Iterator[StoredMap]:
    found = StoredMap(topology, ttl=60)
    found.start()
    yield found
    found.close()


def wait_for(condition: Callable[[], Any], seconds: float = 15) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def add_workspace(world: World, name: str) -> None:
    """What apply does at its end, without the rest of it."""
    world.execute(
        "UPDATE parlant_shard.map SET epoch = epoch + 1, map = jsonb_set(map, "
        "'{shards,s1,workspaces}', (map #> '{shards,s1,workspaces}') || to_jsonb('"
        + name
        + "'::text))",
    )


def listening(world: World) -> bool:
    return bool(
        world.value(
            "SELECT count(*) FROM pg_stat_activity WHERE application_name = "
            "'parlant-shard router' AND datname = current_database() AND wait_event = 'ClientRead'"
        )
    )


def settled(router: Router) -> None:
    """Wait until a new router read the map once more after its LISTEN: only a TTL brings more."""
    source = router._maps
    assert isinstance(source, StoredMap)
    wait_for(lambda: source._reads >= 2)


def test_a_notification_brings_the_new_map(world: World, source: StoredMap) -> None:
    wait_for(lambda: listening(world))
    before = source.current()
    assert source.refresh() is before
    apply(
        world.load(
            layout(
                {**SHARDS, "s1": ["ws1", "ws2", "late"]},
                ddl=TWO_SERVERS.files["schema.sql"],
                tables={"country": {"kind": "reference"}},
            )
        )
    )
    wait_for(lambda: source.current().place("late") == "s1")
    assert source.current().epoch == before.epoch + 1


def test_a_lost_listener_comes_back(world: World, source: StoredMap) -> None:
    wait_for(lambda: listening(world))
    world.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE "
        "application_name = 'parlant-shard router' AND datname = current_database()"
    )
    add_workspace(world, "late")
    wait_for(lambda: source.current().place("late") == "s1")


def test_without_a_notification_the_ttl_brings_it(world: World, topology: Topology) -> None:
    source = StoredMap(topology, ttl=0.3)
    source.start()
    try:
        add_workspace(world, "late")
        wait_for(lambda: source.current().place("late") == "s1", 5)
    finally:
        source.close()


def test_a_refresh_reads_at_once(world: World, source: StoredMap) -> None:
    add_workspace(world, "late")
    assert source.refresh().place("late") == "s1"


class Counted:
    """A lock that counts who asked for it."""

    def __init__(self) -> None:
        self.asked, self._lock = 0, threading.Lock()

    def __enter__(self) -> None:
        self.asked += 1
        self._lock.acquire()

    def __exit__(self, *_: object) -> None:
        self._lock.release()


def test_who_asks_during_a_read_shares_the_next_one(
    world: World, topology: Topology, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The read that runs may have seen the map before the change that they ask because of."""
    source = StoredMap(topology, ttl=60)
    source._reading = asking = Counted()  # type: ignore[assignment]
    loads, original = 0, source_module.load
    read, go = threading.Event(), threading.Event()

    def load(topology: Topology) -> ShardMap | None:
        nonlocal loads
        loads += 1
        found = original(topology)
        if loads == 1:
            read.set()
            assert go.wait(20)
        return found

    stored = original(topology)
    assert stored is not None
    source._accept(stored)  # no thread listens
    monkeypatch.setattr(source_module, "load", load)
    with ThreadPoolExecutor(6) as pool:
        first = pool.submit(source.refresh)
        assert read.wait(20)
        add_workspace(world, "late")
        others = [pool.submit(source.refresh) for _ in range(5)]
        wait_for(lambda: asking.asked == 6)
        go.set()
        assert first.result(20) is not None
        assert {f.result(20).place("late") for f in others} == {"s1"}
    assert loads == 2
    assert source.refresh().place("late") == "s1"
    assert loads == 3  # who comes later asks anew


def test_nothing_is_stored(world: World, topology: Topology) -> None:
    world.execute("DELETE FROM parlant_shard.map")
    with pytest.raises(ShardError) as refused:
        Router(topology)
    assert refused.value.code == "PS633"
    assert "apply" in (refused.value.hint or "")


def test_a_database_without_our_schema(world: World) -> None:
    with pytest.raises(ShardError) as refused:
        Router(world.load(TWO_SERVERS))
    assert refused.value.code == "PS633"


@pytest.mark.parametrize(
    ("path", "value", "code"),
    [
        ("{tables,item,key_added}", "false", "PS634"),
        ("{shards,s1,server}", '"west"', "PS644"),
        ("{topology}", '"other"', "PS644"),
        ("{format_version}", "99", "PS660"),
        ("{format_version}", '"2"', "PS660"),
        ("{tables,country,keyed}", '"perhaps"', "PS630"),
        ("{tables}", "7", "PS630"),
    ],
)
def test_a_map_that_cannot_be_used_is_refused_at_the_start(
    world: World, topology: Topology, path: str, value: str, code: str
) -> None:
    with world.connect() as connection:
        connection.execute(
            "UPDATE parlant_shard.map SET map = jsonb_set(map, %s, %s)", [path, value]
        )
    with pytest.raises(ShardError) as refused:
        Router(topology)
    assert refused.value.code == code


def test_a_map_of_a_newer_release_ends_a_running_router_at_once_and_not_for_good(
    world: World, topology: Topology
) -> None:
    with Router(topology) as router:
        assert router.execute("SELECT 1").fetchone() == (1,)
        world.execute(
            "UPDATE parlant_shard.map SET map = jsonb_set(map, '{format_version}', '99')",
            f"NOTIFY parlant_shard, '{topology.name}'",
        )
        for ask in (router.refresh, lambda: router.execute("SELECT 1")):
            with pytest.raises(ShardError) as refused:
                ask()
            assert refused.value.code == "PS660"
            assert "99" in refused.value.message
        world.execute("UPDATE parlant_shard.map SET map = jsonb_set(map, '{format_version}', '2')")
        router.refresh()
        assert router.execute("SELECT 1").fetchone() == (1,)


def test_stale_for_a_while_then_refused(
    world: World, clusters: Clusters, caplog: pytest.LogCaptureFixture
) -> None:
    what = layout(
        SHARDS,
        ddl=TWO_SERVERS.files["schema.sql"],
        tables={"country": {"kind": "reference"}},
        map_max_stale="3 s",
    )
    topology = applied(world, what)
    source = StoredMap(topology, ttl=0.2)
    source.start()
    name = sql.Identifier(database_name(world.dsn("core")))
    allow = sql.SQL("ALTER DATABASE {} WITH ALLOW_CONNECTIONS {}")
    with clusters.get(0).connect() as admin, caplog.at_level(logging.WARNING):
        try:
            admin.execute(allow.format(name, sql.SQL("false")))
            admin.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s",
                [database_name(world.dsn("core"))],
            )
            wait_for(lambda: "served as it was" in caplog.text)
            assert source.current().place("ws1") == "s1"
            assert source.refresh().place("ws1") == "s1"

            def refused() -> bool:
                try:
                    source.current()
                except ShardError as error:
                    return error.code == "PS631"
                return False

            wait_for(refused, 10)
            assert caplog.text.count("served as it was") == 1
        finally:
            admin.execute(allow.format(name, sql.SQL("true")))
        wait_for(lambda: "fresh again" in caplog.text)
        assert source.current().place("ws1") == "s1"
        source.close()
        assert caplog.text.count("fresh again") == 1
        assert "password" not in caplog.text


def test_a_file_needs_no_coordinator(
    world: World, topology: Topology, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with Router(topology) as router:
        text = router.shard_map.dump()
    file = tmp_path / "map.json"
    file.write_text(text, encoding="utf-8")
    world.execute("DROP TABLE parlant_shard.map")
    with Router(topology, shard_map=file, map_ttl=0.05) as router:
        assert router.execute("SELECT 1 FROM account", workspace="acme").fetchall() == []
        file.write_text(text.replace('"ws2"', '"ws9"'), encoding="utf-8")
        wait_for(lambda: router.shard_map.place("ws9") == "s1")
        file.write_text("{", encoding="utf-8")
        wait_for(lambda: router.shard_map.place("ws9") == "s1" and "stays in use" in caplog.text)
        for _ in range(3):
            assert router._maps.refresh().place("ws9") == "s1"
        assert caplog.text.count("stays in use") == 1
    with Router(topology, shard_map=ShardMap.from_data(__import__("json").loads(text))) as router:
        assert router.shard_map.place("ws2") == "s1"
    with pytest.raises(ShardError) as refused:
        FixedMap(tmp_path / "none.json", topology).start()
    assert refused.value.code == "PS630"


# --- placement that changed under a router --------------------------------------------------------


def moved(world: World, workspace: str, source: str, target: str) -> None:
    """Put an empty workspace on another shard of the map, as an apply does, without telling."""
    world.execute(
        "UPDATE parlant_shard.map SET epoch = epoch + 1, map = jsonb_set(jsonb_set(map, "
        f"'{{shards,{source},workspaces}}', (map #> '{{shards,{source},workspaces}}') - "
        f"'{workspace}'), '{{shards,{target},workspaces}}', "
        f"(map #> '{{shards,{target},workspaces}}') || to_jsonb('{workspace}'::text))"
    )


INSERT = "INSERT INTO account (name) VALUES ('new')"


def test_a_check_violation_refreshes_the_map_and_is_tried_once_more(
    world: World, topology: Topology
) -> None:
    moved(world, "acme", "s2", "s1")  # the router begins with a map that is wrong
    with Router(topology, map_ttl=60) as router:
        settled(router)
        assert router.shard_map.place("acme") == "s1"
        moved(world, "acme", "s1", "s2")  # and nobody tells it
        assert router.shard_map.place("acme") == "s1"
        assert router.execute(INSERT, workspace="acme").rowcount == 1
        assert router.shard_map.place("acme") == "s2"
    assert world.value("SELECT count(*) FROM account_s2", server="east") == 1
    assert world.value("SELECT count(*) FROM account_s1") == 0


def test_in_a_transaction_the_map_is_refreshed_and_nothing_is_tried_again(
    world: World, topology: Topology
) -> None:
    moved(world, "acme", "s2", "s1")
    with Router(topology, map_ttl=60) as router:
        settled(router)
        moved(world, "acme", "s1", "s2")
        with (
            pytest.raises(errors.CheckViolation) as refused,
            router.transaction(workspace="acme") as connection,
        ):
            connection.execute(INSERT)
        assert isinstance(refused.value, ShardError)
        assert refused.value.code == "PS641"
        with router.transaction(workspace="acme") as connection:
            connection.execute(INSERT)


def test_a_column_that_went_is_found_out(world: World, topology: Topology) -> None:
    ghost = '\'{"name": "ghost", "type": "text"}\'::jsonb'
    columns = "'{tables,item,columns}'"
    world.execute(
        f"UPDATE parlant_shard.map SET map = jsonb_set(map, {columns}, map #> {columns} || {ghost})"
    )
    with Router(topology, map_ttl=60) as router:
        settled(router)
        assert router.shard_map.tables["item"].has("ghost")
        world.execute(
            f"UPDATE parlant_shard.map SET map = jsonb_set(map, {columns}, (map #> {columns}) - 6)"
        )
        assert router.execute("SELECT * FROM item", workspace="acme").fetchall() == []
        with pytest.raises(errors.UndefinedColumn):
            router.execute("SELECT nonsense FROM item", workspace="acme")


def test_a_map_that_stays_wrong_is_tried_once(world: World, topology: Topology) -> None:
    moved(world, "acme", "s2", "s1")
    with Router(topology) as router:
        with pytest.raises(psycopg.errors.CheckViolation) as refused:
            router.execute(INSERT, workspace="acme")
        assert isinstance(refused.value, ShardError)
        assert refused.value.code == "PS641"


def test_a_fence_is_heard(world: World, topology: Topology) -> None:
    fill(world)
    world.execute(
        "CREATE FUNCTION fence() RETURNS trigger LANGUAGE plpgsql AS "
        "$$BEGIN RAISE EXCEPTION USING ERRCODE = 'PS002', MESSAGE = 'moving'; END$$",
        "CREATE TRIGGER fence BEFORE UPDATE ON account_s2 EXECUTE FUNCTION fence()",
        server="east",
    )
    with Router(topology) as router:
        with pytest.raises(ShardError) as refused:
            router.execute("UPDATE account SET name = 'x'", workspace="acme")
        assert refused.value.code == "PS641"
