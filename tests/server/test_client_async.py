"""The asynchronous router on real shards: the same answers as the synchronous one."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import psycopg
import pytest
from client_world import ITEMS, WORKSPACES, applied, fill, lasting_world
from protocol import World
from psycopg import errors
from psycopg.rows import dict_row

from parlant_shard import AsyncRouter, ShardError, Unroutable
from parlant_shard.topology import Topology
from servers import Clusters

NOTES = "SELECT note FROM item ORDER BY note"
INSERT = "INSERT INTO account (name) VALUES (%s)"


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, clusters: Clusters) -> World:
    found = lasting_world(tmp_path_factory.mktemp("world"), clusters)
    applied(found)
    fill(found)
    return found


@pytest.fixture(scope="module")
def topology(world: World) -> Topology:
    return applied(world)


def notes(workspace: str) -> list[tuple[str]]:
    return [(f"note {n} of {workspace}",) for n in (1, 2)]


def run(topology: Topology, work: Callable[[AsyncRouter], Awaitable[Any]], **options: Any) -> Any:
    async def opened() -> Any:
        async with AsyncRouter(topology, **{"max_size": 4, "timeout": 5, **options}) as router:
            return await work(router)

    return asyncio.run(opened())


def test_each_workspace_sees_its_rows_alone(topology: Topology) -> None:
    async def work(router: AsyncRouter) -> None:
        for workspace in WORKSPACES:
            async with router.workspace(workspace) as connection:
                result = await connection.execute(NOTES)
                assert result.rowcount == 2
                assert await result.fetchone() == notes(workspace)[0]
                assert [row async for row in result] == notes(workspace)[1:]
            again = await router.execute(NOTES, workspace=workspace)
            assert await again.fetchmany(9) == notes(workspace)

    run(topology, work)


def test_look_ups_shards_and_all_workspaces(topology: Topology) -> None:
    async def work(router: AsyncRouter) -> None:
        sql = "SELECT note FROM item WHERE id = %s"
        for _ in range(2):
            found = await router.execute(sql, [ITEMS["globex"][0]])
            assert await found.fetchall() == [("note 1 of globex",)]
        assert len(router.core.cache) == 1
        nowhere = "11111111-0000-0000-0000-000000000000"
        assert (await router.execute("DELETE FROM item WHERE id = %s", [nowhere])).rowcount == 0
        several = await router.execute(
            "SELECT name FROM account WHERE workspace_id = ANY (%s)", [["globex", "ws1"]]
        )
        assert sorted(await several.fetchall()) == [("of globex",), ("of ws1",)]
        async with router.all_workspaces(row_factory=dict_row) as connection:
            everyone = await connection.execute("SELECT count(*) AS n FROM item")
            assert await everyone.fetchone() == {"n": 8}
            with pytest.raises(Unroutable) as refused:
                await connection.execute("DELETE FROM item")
            assert refused.value.code == "PS622"

    run(topology, work)


def test_transactions(topology: Topology, world: World) -> None:
    async def work(router: AsyncRouter) -> None:
        async with router.transaction(workspace="acme") as connection:
            await connection.execute(INSERT, ["new kept"])
            with pytest.raises(Unroutable) as refused:
                await connection.execute("SELECT note FROM machine")
            assert refused.value.code == "PS632"
            async with connection.transaction(force_rollback=True):
                await connection.execute(INSERT, ["new undone"])
            with pytest.raises(errors.DivisionByZero):
                async with connection.transaction():
                    await connection.execute("SELECT size / 0 FROM item")
            await connection.execute(INSERT, ["new kept"])

        async def broken() -> None:
            async with router.transaction(workspace="acme") as connection:
                await connection.execute(INSERT, ["new lost"])
                raise KeyError

        with pytest.raises(KeyError):
            await broken()
        async with router.transaction(workspace="acme") as connection:
            await connection.execute(INSERT, ["new rolled"])
            raise psycopg.Rollback

    run(topology, work)
    found = world.rows("SELECT name FROM account_s2 WHERE name LIKE 'new%'", server="east")
    assert found == [("new kept",), ("new kept",)]
    world.execute("DELETE FROM account_s2 WHERE name LIKE 'new%'", server="east")


def test_cursors_pipelines_and_batches(topology: Topology, world: World) -> None:
    async def work(router: AsyncRouter) -> None:
        async with router.workspace("ws1") as connection:
            async with connection.cursor() as cursor:
                await cursor.execute(NOTES)
                assert cursor.rowcount == 2
                assert await cursor.fetchone() == notes("ws1")[0]
                assert [row async for row in cursor] == notes("ws1")[1:]
            async with connection.transaction(), connection.cursor("big") as on_server:
                await on_server.execute(NOTES.replace("ORDER", "WHERE size = $1 ORDER"), [0])
                assert await on_server.fetchone() == notes("ws1")[0]
                assert [row async for row in on_server] == notes("ws1")[1:]
            async with connection.pipeline():
                written = await connection.execute(INSERT, ["new piped"])
                read = await connection.execute("SELECT count(*) FROM item")
                assert await read.fetchone() == (2,)
            assert written.rowcount == 1
            many = await connection.executemany(INSERT, [["new a"], ["new b"]])
            assert many.rowcount == 2
            returned = await router.executemany(
                INSERT + " RETURNING name", [["new c"], ["new d"]], workspace="ws1", returning=True
            )
            assert await returned.fetchall() == [("new c",), ("new d",)]

    run(topology, work)
    assert world.value("SELECT count(*) FROM account_s1 WHERE name LIKE 'new%'") == 5
    world.execute("DELETE FROM account_s1 WHERE name LIKE 'new%'")


def test_copy(topology: Topology, world: World) -> None:
    async def work(router: AsyncRouter) -> bytes:
        async with router.copy("COPY account (name) FROM STDIN", workspace="acme") as copy:
            await copy.write_row(["new copied"])
        async with router.copy("COPY item (note) TO STDOUT", workspace="acme") as copy:
            return b"".join([bytes(block) async for block in copy])

    assert run(topology, work) == b"note 1 of acme\nnote 2 of acme\n"
    assert world.value("SELECT count(*) FROM account_s2 WHERE name = 'new copied'", server="east")
    world.execute("DELETE FROM account_s2 WHERE name LIKE 'new%'", server="east")


def test_tasks_share_a_router_and_a_connection(topology: Topology) -> None:
    async def work(router: AsyncRouter) -> None:
        async def one(number: int) -> None:
            workspace = WORKSPACES[number % len(WORKSPACES)]
            for _ in range(10):
                result = await router.execute(NOTES, workspace=workspace)
                assert await result.fetchall() == notes(workspace)
                async with router.transaction(workspace=workspace) as connection:
                    inside = await connection.execute(NOTES)
                    assert await inside.fetchall() == notes(workspace)

        await asyncio.gather(*(one(n) for n in range(16)))
        async with router.workspace("acme") as connection:
            results = await asyncio.gather(*(connection.execute(NOTES) for _ in range(30)))
            assert [await r.fetchall() for r in results] == [notes("acme")] * 30

    run(topology, work)


def test_a_cancelled_task_gives_its_connection_back(topology: Topology) -> None:
    async def work(router: AsyncRouter) -> None:
        for _ in range(3):
            task = asyncio.create_task(
                router.execute("SELECT count(*) FROM item a, item b", workspace="acme")
            )
            await asyncio.sleep(0)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        result = await router.execute(NOTES, workspace="acme")
        assert await result.fetchall() == notes("acme")

    run(topology, work, max_size=1)


def test_a_connection_comes_back_though_its_task_is_cancelled_again(topology: Topology) -> None:
    """A second timeout, or a scope of anyio, cancels a task while it rolls back."""

    async def work(router: AsyncRouter) -> None:
        for _ in range(3):
            real = await router.pools.acquire("core")
            await real.execute("BEGIN")
            task = asyncio.create_task(router.pools.release("core", real))
            await asyncio.sleep(0)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            found = await router.execute(NOTES, workspace="ws1")
            assert await found.fetchall() == notes("ws1")

    run(topology, work, max_size=1, timeout=3)


def test_a_connection_that_stayed_in_a_pipeline_is_not_used_again(topology: Topology) -> None:
    """psycopg cannot leave a pipeline whose answers a cancelled task did not read."""

    async def work(router: AsyncRouter) -> None:
        for half in ("of libpq", "of psycopg"):
            real = await router.pools.acquire("core")
            if half == "of libpq":
                real.pgconn.enter_pipeline_mode()
            else:
                real._pipeline = psycopg.AsyncPipeline(real)
            await router.pools.release("core", real)
            assert real.closed, half
            found = await router.execute(NOTES, workspace="ws1")
            assert await found.fetchall() == notes("ws1")
        async with router.workspace("ws1") as connection:
            await connection.execute(NOTES)
            assert connection._real is not None
            connection._real[1].pgconn.enter_pipeline_mode()
            assert await (await connection.execute(NOTES)).fetchall() == notes("ws1")

    run(topology, work, max_size=1, timeout=3)


def test_a_closed_router_says_so(topology: Topology) -> None:
    async def work() -> None:
        router = AsyncRouter(topology)
        await router.open()
        await router.close()
        await router.close()
        with pytest.raises(ShardError) as refused:
            await router.execute(NOTES, workspace="ws1")
        assert refused.value.code == "PS643"

    asyncio.run(work())
