"""Lost connections, full pools and servers that are gone: clear errors, and nothing twice."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
import pytest
from client_world import applied, fill, lasting_world
from protocol import World
from psycopg.conninfo import make_conninfo

from parlant_shard import AsyncRouter, Router, ShardError, ShardMap
from parlant_shard.errors import CannotConnect, Exit
from parlant_shard.topology import Topology
from servers import Clusters

NAME = "tests of failures"
READ = "SELECT count(*) FROM item"
WRITE = "UPDATE account SET tint = 'green'"
SECRET = "not-to-be-shown"


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, clusters: Clusters) -> World:
    found = lasting_world(tmp_path_factory.mktemp("world"), clusters)
    applied(found)
    fill(found)
    return found


@pytest.fixture(scope="module")
def topology(world: World) -> Topology:
    return applied(world)


@pytest.fixture(scope="module")
def shard_map(topology: Topology) -> ShardMap:
    with Router(topology) as router:
        return router.shard_map


@pytest.fixture
def router(topology: Topology, shard_map: ShardMap) -> Iterator[Router]:
    with Router(
        topology, shard_map=shard_map, application_name=NAME, max_size=2, timeout=3
    ) as found:
        yield found


def kill(world: World, *, blocked: bool = False) -> None:
    """End the sessions of the router on the server of acme; with `blocked`, when one waits."""
    waits = "AND wait_event_type = 'Lock'" if blocked else ""
    with world.connect("east") as connection:
        deadline = time.monotonic() + 10
        while True:
            killed = connection.execute(
                "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity "
                f"WHERE application_name = '{NAME}' AND datname = current_database() {waits}"
            ).fetchall()
            if killed:
                return
            assert time.monotonic() < deadline
            time.sleep(0.02)


@contextmanager
def locked(world: World, table: str) -> Iterator[None]:
    """Let every other statement on a table wait."""
    with psycopg.connect(world.dsn("east")) as connection:
        connection.execute(f"LOCK TABLE {table} IN ACCESS EXCLUSIVE MODE")
        yield
        connection.rollback()


def killed_while_it_waits(world: World, table: str, work: Callable[[], Any]) -> ShardError:
    with locked(world, table):
        killer = threading.Thread(target=lambda: kill(world, blocked=True))
        killer.start()
        with pytest.raises(ShardError) as refused:
            work()
        killer.join()
    return refused.value


def test_a_connection_that_died_idle_is_replaced_unseen(router: Router, world: World) -> None:
    for _ in range(3):
        assert router.execute(READ, workspace="acme").fetchone() == (2,)
        kill(world)
        time.sleep(0.05)
    with router.workspace("acme") as connection:
        assert connection.execute(READ).fetchone() == (2,)
        kill(world)
        time.sleep(0.05)
        assert connection.execute(READ).fetchone() == (2,)


def test_a_lost_write_may_have_happened_and_is_not_sent_again(router: Router, world: World) -> None:
    error = killed_while_it_waits(
        world, "account_s2", lambda: router.execute(WRITE, workspace="acme")
    )
    assert error.code == "PS638"
    assert isinstance(error, psycopg.OperationalError)
    assert "may or may not have happened" in str(error)
    assert "not retried" in (error.hint or "")
    assert world.value("SELECT count(*) FROM account_s2 WHERE tint = 'green'", server="east") == 0
    assert router.execute(READ, workspace="acme").fetchone() == (2,)


def test_a_lost_read_changed_nothing(router: Router, world: World) -> None:
    error = killed_while_it_waits(world, "item_s2", lambda: router.execute(READ, workspace="acme"))
    assert error.code == "PS639"
    assert "nothing was changed" in str(error)


def test_a_lost_transaction_was_rolled_back(router: Router, world: World) -> None:
    def work() -> None:
        with router.transaction(workspace="acme") as connection:
            connection.execute("UPDATE item SET size = 9")
            connection.execute(WRITE)

    error = killed_while_it_waits(world, "account_s2", work)
    assert error.code == "PS639"
    assert "rolled back" in str(error)
    assert world.value("SELECT count(*) FROM item_s2 WHERE size = 9", server="east") == 0


def test_a_lost_commit_is_uncertain(router: Router, world: World) -> None:
    def work() -> None:
        with router.transaction(workspace="acme") as connection:
            connection.execute("UPDATE item SET size = 9")
            kill(world)

    with pytest.raises(ShardError) as refused:
        work()
    assert refused.value.code == "PS638"
    assert "COMMIT" in str(refused.value)


def test_a_full_pool_says_so_in_time(router: Router) -> None:
    with router.transaction(workspace="acme") as a, router.transaction(workspace="acme") as b:
        a.execute(READ)
        b.execute(READ)
        began = time.monotonic()
        with pytest.raises(ShardError) as refused:
            router.execute(READ, workspace="acme")
        assert 2.5 < time.monotonic() - began < 6
    assert refused.value.code == "PS636"
    assert 'all 2 connections to server "east"' in str(refused.value)
    assert isinstance(refused.value, psycopg.OperationalError)
    assert router.execute(READ, workspace="acme").fetchone() == (2,)


def without_east(topology: Topology) -> Topology:
    east = topology.servers["east"]
    gone = make_conninfo(east.dsn or "", host="127.0.0.1", port=1, password=SECRET)
    return topology.with_dsns({"east": gone})


def test_a_server_that_is_gone_is_named_and_the_others_go_on(
    topology: Topology, shard_map: ShardMap
) -> None:
    with Router(without_east(topology), shard_map=shard_map, timeout=8) as router:
        for _ in range(2):
            began = time.monotonic()
            with pytest.raises(CannotConnect) as refused:
                router.execute(READ, workspace="acme")
            assert time.monotonic() - began < 5
            assert refused.value.code == "PS637"
            assert 'server "east"' in str(refused.value)
            assert "nothing was sent" in (refused.value.hint or "")
            assert refused.value.exit_code == Exit.CANNOT_CONNECT
            assert SECRET not in str(refused.value) + (refused.value.hint or "")
        assert router.execute(READ, workspace="ws1").fetchone() == (2,)
        with pytest.raises(CannotConnect):  # a look-up needs every server
            router.execute(
                "SELECT 1 FROM item WHERE id = %s", ["99999999-0000-0000-0000-000000000000"]
            )


def test_a_server_that_comes_back_is_used_again(
    topology: Topology, shard_map: ShardMap, world: World, clusters: Clusters
) -> None:
    with Router(topology, shard_map=shard_map, application_name=NAME, timeout=4) as router:
        assert router.execute(READ, workspace="acme").fetchone() == (2,)
        with clusters.get(0).connect() as admin:
            database = psycopg.conninfo.conninfo_to_dict(world.dsn("east"))["dbname"]
            name = psycopg.sql.Identifier(str(database))
            allow = psycopg.sql.SQL("ALTER DATABASE {} WITH ALLOW_CONNECTIONS {}")
            kill(world)
            admin.execute(allow.format(name, psycopg.sql.SQL("false")))
            try:
                with pytest.raises(CannotConnect) as refused:
                    router.execute(READ, workspace="acme")
                assert "not currently accepting connections" in str(refused.value)
            finally:
                admin.execute(allow.format(name, psycopg.sql.SQL("true")))
        assert router.execute(READ, workspace="acme").fetchone() == (2,)


def test_the_asynchronous_router_fails_in_the_same_way(
    topology: Topology, shard_map: ShardMap, world: World
) -> None:
    async def work() -> None:
        options: dict[str, Any] = {"shard_map": shard_map, "application_name": NAME, "timeout": 3}
        async with AsyncRouter(topology, max_size=1, **options) as router:
            for _ in range(2):
                result = await router.execute(READ, workspace="acme")
                assert await result.fetchone() == (2,)
                await asyncio.to_thread(kill, world)
                await asyncio.sleep(0.05)
            async with router.transaction(workspace="acme") as connection:
                await connection.execute(READ)
                with pytest.raises(ShardError) as refused:
                    await router.execute(READ, workspace="acme")
                assert refused.value.code == "PS636"
            with locked(world, "account_s2"):
                killing = asyncio.create_task(asyncio.to_thread(kill, world, blocked=True))
                with pytest.raises(ShardError) as refused:
                    await router.execute(WRITE, workspace="acme")
                await killing
            assert refused.value.code == "PS638"

            async def uncertain() -> None:
                async with router.transaction(workspace="acme") as connection:
                    await connection.execute(READ)
                    await asyncio.to_thread(kill, world)

            with pytest.raises(ShardError) as refused:
                await uncertain()
            assert refused.value.code == "PS638"
        async with AsyncRouter(without_east(topology), **options) as router:
            with pytest.raises(CannotConnect) as unreachable:
                await router.execute(READ, workspace="acme")
            assert unreachable.value.code == "PS637"

    asyncio.run(work())


def test_a_connection_that_stayed_in_a_pipeline_is_replaced(router: Router) -> None:
    real = router.pools.acquire("core")
    real.pgconn.enter_pipeline_mode()
    router.pools.release("core", real)
    assert real.closed
    assert router.execute(READ, workspace="ws1").fetchone() is not None


def test_a_server_that_reads_literals_otherwise(
    world: World, topology: Topology, shard_map: ShardMap
) -> None:
    """With standard_conforming_strings off a literal could hide a query: nothing is sent there."""
    with world.connect("east") as connection:
        connection.execute(
            "DO $$ BEGIN EXECUTE format('ALTER DATABASE %I SET standard_conforming_strings = off', "
            "current_database()); END $$"
        )
    try:
        with (
            Router(topology, shard_map=shard_map, timeout=3) as router,
            pytest.raises(CannotConnect, match="standard_conforming_strings is off"),
        ):
            router.execute(READ, workspace="acme")
    finally:
        with world.connect("east") as connection:
            connection.execute(
                "DO $$ BEGIN EXECUTE format('ALTER DATABASE %I RESET "
                "standard_conforming_strings', current_database()); END $$"
            )
    with Router(topology, shard_map=shard_map) as router:
        assert router.execute(READ, workspace="acme").fetchone() is not None
