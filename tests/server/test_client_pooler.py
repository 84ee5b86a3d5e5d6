"""The router through PgBouncer in transaction mode: no state of a session is needed or left."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import psycopg
import pytest
import test_pooler
from client_world import ITEMS, WORKSPACES, applied, fill, lasting_world
from protocol import World

from parlant_shard import AsyncRouter, Router
from parlant_shard.topology import Topology
from servers import Clusters

pytestmark = pytest.mark.skipif(test_pooler.BINARY is None, reason="needs pgbouncer on PATH")

bouncer = test_pooler.bouncer
NOTES = "SELECT note FROM item WHERE size = %s ORDER BY note"


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, clusters: Clusters) -> World:
    found = lasting_world(tmp_path_factory.mktemp("world"), clusters)
    applied(found)
    fill(found)
    return found


@pytest.fixture
def pooled(world: World, bouncer: Callable[[str, str], str]) -> Topology:
    """The application goes through the pooler, everything else past it."""
    topology = applied(world)
    servers = {
        name: server.model_copy(
            update={"dsn": bouncer(world.dsn(name), "transaction"), "admin_dsn": world.dsn(name)}
        )
        for name, server in topology.servers.items()
    }
    return topology.model_copy(update={"servers": servers})


@pytest.fixture
def router(pooled: Topology) -> Iterator[Router]:
    with Router(pooled, prepare_threshold=None, max_size=6) as found:
        yield found


def notes(workspace: str) -> list[tuple[str]]:
    return [(f"note {n} of {workspace}",) for n in (1, 2)]


def test_everything_works_that_works_without(router: Router, world: World) -> None:
    def work(number: int) -> None:
        workspace = WORKSPACES[number % 4]
        for _ in range(15):
            assert router.execute(NOTES, [0], workspace=workspace).fetchall() == notes(workspace)
            with router.transaction(workspace=workspace) as connection:
                connection.execute("INSERT INTO account (name) VALUES ('new')")
                assert connection.execute(NOTES, [0]).fetchall() == notes(workspace)
                raise psycopg.Rollback

    with ThreadPoolExecutor(6) as pool:
        for future in [pool.submit(work, n) for n in range(12)]:
            future.result()
    item = ITEMS["globex"][0]
    assert router.execute("SELECT note FROM item WHERE id = %s", [item]).fetchall() == [
        ("note 1 of globex",)
    ]
    with router.workspace("acme") as connection:
        with connection.copy("COPY account (name) FROM STDIN") as copy:
            copy.write("new copied\n")
        with connection.transaction(), connection.cursor("big") as cursor:
            cursor.execute(NOTES, [0])
            assert list(cursor) == notes("acme")
        with connection.pipeline():
            results = [connection.execute(NOTES, [0]) for _ in range(3)]
        assert [r.fetchall() for r in results] == [notes("acme")] * 3
        gone = connection.execute("DELETE FROM account WHERE name = 'new copied'")
        assert gone.rowcount == 1
        connection.executemany("UPDATE item SET size = %s", [[0], [0]])
    with router.all_workspaces() as everyone:
        assert everyone.execute("SELECT count(*) FROM item").fetchone() == (8,)
    for name in world.dsns:
        with psycopg.connect(router.topology.servers[name].dsn or "", autocommit=True) as probe:
            for _ in range(5):
                row = probe.execute(
                    "SELECT current_setting('transaction_read_only'), "
                    "(SELECT count(*) FROM pg_listening_channels()), "
                    "(SELECT count(*) FROM pg_class WHERE relname LIKE 'parlant_shard_copy%')"
                ).fetchone()
                assert row == ("off", 0, 0)


def test_the_asynchronous_router_too(pooled: Topology) -> None:
    async def work() -> None:
        async with AsyncRouter(pooled, prepare_threshold=None, max_size=6) as router:

            async def one(number: int) -> None:
                workspace = WORKSPACES[number % 4]
                for _ in range(10):
                    result = await router.execute(NOTES, [0], workspace=workspace)
                    assert await result.fetchall() == notes(workspace)

            await asyncio.gather(*(one(n) for n in range(12)))

    asyncio.run(work())


def test_the_map_is_followed_without_listening_where_only_the_pooler_is_known(
    pooled: Topology, world: World, caplog: pytest.LogCaptureFixture
) -> None:
    servers = {
        name: server.model_copy(update={"admin_dsn": None})
        for name, server in pooled.servers.items()
    }
    known = pooled.model_copy(update={"servers": servers})
    with caplog.at_level(logging.WARNING), Router(known, map_ttl=0.2) as router:
        world.execute("UPDATE parlant_shard.map SET epoch = epoch + 1")
        epoch = world.value("SELECT epoch FROM parlant_shard.map")
        deadline = time.monotonic() + 20
        while router.shard_map.epoch != epoch:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        listening = world.value(
            "SELECT count(*) FROM pg_stat_activity WHERE query ILIKE 'LISTEN%' "
            "AND datname = current_database()"
        )
        assert listening == 0
    assert "cannot be refreshed" not in caplog.text
