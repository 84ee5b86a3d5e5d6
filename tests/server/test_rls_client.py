"""The routers with the wall behind them, as the role of the application: plain and signed."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import psycopg
import pytest
import test_pooler
from client_world import ACCOUNTS, ITEMS, WORKSPACES, fill, lasting_world
from protocol import World
from psycopg import errors
from rls_world import KEY, Roles, behind, seen_as

from parlant_shard import AsyncRouter, Router, ShardError, Unroutable
from parlant_shard.topology import Topology
from servers import Clusters

pytestmark = pytest.mark.needs(superuser=True)

bouncer = test_pooler.bouncer
NOTES = "SELECT note FROM item WHERE size = %s ORDER BY note"


@pytest.fixture(scope="module", params=["plain", "signed"])
def signed(request: pytest.FixtureRequest) -> bool:
    return bool(request.param == "signed")


@pytest.fixture(scope="module")
def world(
    tmp_path_factory: pytest.TempPathFactory, clusters: Clusters, who: Roles, signed: bool
) -> World:
    found = lasting_world(tmp_path_factory.mktemp("world"), clusters)
    found.apply(layout_of(who, signed))
    fill(found)
    found.execute(
        "INSERT INTO api_key VALUES ('k1', 'one', 'ws1'), ('k2', 'two', 'ws2'), ('k0', 'all', NULL)"
    )
    return found


def layout_of(who: Roles, signed: bool) -> Any:
    return behind(who, **({"signed": True, "key": KEY} if signed else {}))


@pytest.fixture(scope="module")
def topology(world: World, who: Roles, signed: bool) -> Topology:
    return seen_as(world.load(layout_of(who, signed)), who.application)


@pytest.fixture
def router(topology: Topology) -> Iterator[Router]:
    with Router(topology, max_size=2, timeout=5) as found:
        yield found


@pytest.fixture(autouse=True)
def clean(world: World) -> Iterator[None]:
    yield
    for server, shards in (("core", ["s1"]), ("east", ["s2", "s3"])):
        for shard in shards:
            world.execute(f"DELETE FROM account_{shard} WHERE name LIKE 'new%'", server=server)


def notes(workspace: str) -> list[tuple[str]]:
    return [(f"note {n} of {workspace}",) for n in (1, 2)]


# --- every kind of call ---------------------------------------------------------------------------


def test_statements(router: Router) -> None:
    for workspace in WORKSPACES:
        assert router.execute(NOTES, [0], workspace=workspace).fetchall() == notes(workspace)
        with router.workspace(workspace) as connection:
            raw = connection.execute("SELECT note FROM item WHERE size = $1 ORDER BY 1", [0])
            assert raw.fetchall() == notes(workspace)
            assert connection.execute("SELECT %s::int", [7]).fetchone() == (7,)
            new = connection.execute("INSERT INTO account (name) VALUES ('new') RETURNING name")
            assert new.fetchall() == [("new",)]
            assert connection.execute("DELETE FROM account WHERE name = 'new'").rowcount == 1
    named = "SELECT name FROM account WHERE workspace_id = %s"
    assert router.execute(named, ["acme"]).fetchall() == [("of acme",)]
    looked_up = router.execute("SELECT note FROM item WHERE id = %s", [ITEMS["ws2"][0]])
    assert looked_up.fetchall() == [("note 1 of ws2",)]


def test_errors_are_those_of_the_statement(router: Router) -> None:
    with router.workspace("ws1") as connection:
        with pytest.raises(errors.UniqueViolation) as raised:
            connection.execute("INSERT INTO account (id) VALUES (%s)", [ACCOUNTS["ws1"]])
        assert isinstance(raised.value, ShardError)
        assert raised.value.diag.constraint_name == "account_pkey_s1"
        with pytest.raises(errors.InvalidTextRepresentation):
            connection.execute("SELECT note FROM item WHERE id = 'x'")
        with pytest.raises(errors.ForeignKeyViolation):
            connection.execute("INSERT INTO item (account_id) VALUES (%s)", [ACCOUNTS["ws2"]])
        assert connection.execute(NOTES, [0]).fetchall() == notes("ws1")


def test_transactions_and_savepoints(router: Router) -> None:
    with router.transaction(workspace="ws1") as connection:
        assert connection.execute(NOTES, [0]).fetchall() == notes("ws1")
        with pytest.raises(errors.DivisionByZero), connection.transaction():
            connection.execute("SELECT 1 / 0 FROM item")
        assert connection.execute(NOTES, [0]).fetchall() == notes("ws1")
        with connection.transaction(force_rollback=True):
            connection.execute("INSERT INTO account (name) VALUES ('new')")
        assert connection.execute("SELECT name FROM account").fetchall() == [("of ws1",)]
    with router.transaction() as connection:
        # The setting follows the workspaces of one shard, and comes back after a savepoint.
        named = "SELECT name FROM account WHERE workspace_id = %s"
        assert connection.execute(named, ["ws1"]).fetchall() == [("of ws1",)]
        with connection.transaction(force_rollback=True):
            assert connection.execute(named, ["ws2"]).fetchall() == [("of ws2",)]
        assert connection.execute(named, ["ws2"]).fetchall() == [("of ws2",)]
        assert connection.execute(named, ["ws1"]).fetchall() == [("of ws1",)]


def test_cursors_pipelines_batches_and_copies(router: Router) -> None:
    with router.workspace("acme") as connection:
        with connection.pipeline() as pipeline:
            first = connection.execute(NOTES, [0])
            pipeline.sync()
            second = connection.execute(NOTES, [0])
            country = connection.execute("SELECT count(*) FROM country")
            third = connection.execute(NOTES, [0])
        assert [r.fetchall() for r in (first, second, third)] == [notes("acme")] * 3
        assert country.fetchone() == (0,)
        with connection.transaction(), connection.cursor("big") as cursor:
            cursor.execute(NOTES, [0])
            assert cursor.fetchall() == notes("acme")
        with connection.transaction(), connection.pipeline():
            results = [connection.execute(NOTES, [0]) for _ in range(2)]
        assert [r.fetchall() for r in results] == [notes("acme")] * 2
        many = connection.executemany(
            "INSERT INTO account (name) VALUES (%s) RETURNING name",
            [["new a"], ["new b"]],
            returning=True,
        )
        assert many.fetchall() == [("new a",), ("new b",)]
        with connection.copy("COPY account (name) FROM STDIN") as copy:
            copy.write_row(["new c"])
        with connection.copy("COPY (SELECT name FROM account ORDER BY 1) TO STDOUT") as copy:
            assert b"".join(copy) == b"new a\nnew b\nnew c\nof acme\n"
        with connection.transaction(), connection.copy("COPY account (name) TO STDOUT") as copy:
            assert len(list(copy.rows())) == 4
        assert connection.execute("DELETE FROM account WHERE name LIKE 'new%'").rowcount == 3


def test_a_cursor_goes_on_as_the_workspace_of_its_query(topology: Topology) -> None:
    """The policy asks for the setting when rows are fetched, not when the cursor is declared."""
    named = "SELECT name FROM account WHERE workspace_id = %s"

    async def work() -> None:
        async with (
            AsyncRouter(topology) as router,
            router.transaction() as connection,
            connection.cursor("slow") as cursor,
        ):
            await cursor.execute(named, ["ws1"])
            other = await connection.execute(named, ["ws2"])
            assert await other.fetchall() == [("of ws2",)]
            assert await cursor.fetchall() == [("of ws1",)]

    asyncio.run(work())
    with Router(topology) as router:
        with router.transaction() as connection, connection.cursor("slow") as cursor:
            cursor.execute(named, ["ws1"])
            assert connection.execute(named, ["ws2"]).fetchall() == [("of ws2",)]
            assert cursor.fetchall() == [("of ws1",)]
            assert connection.execute(named, ["ws2"]).fetchall() == [("of ws2",)]
        with router.workspace("ws1") as connection:
            with connection.transaction():
                cursor = connection.cursor("slow")
                cursor.execute(named, ["ws1"])
            with pytest.raises(ShardError) as refused:
                cursor.fetchone()
            assert refused.value.code == "PS635"
            cursor.close()


def test_reference_tables(router: Router) -> None:
    keys = "SELECT id FROM api_key ORDER BY id"
    assert router.execute(keys, workspace="ws1").fetchall() == [("k0",), ("k1",)]
    assert router.execute(keys).fetchall() == [("k0",)]
    router.execute("INSERT INTO country VALUES ('de', 'new')")
    assert router.execute("DELETE FROM country WHERE id = 'de'").rowcount == 1
    with pytest.raises(errors.InsufficientPrivilege) as refused:
        router.execute("INSERT INTO api_key VALUES ('k9', 'new', NULL)")
    assert "withholds some on purpose" in str(getattr(refused.value, "hint", ""))


def test_several_workspaces_are_refused_and_never_an_empty_answer(router: Router) -> None:
    both = "SELECT name FROM account WHERE workspace_id IN ('ws1', 'ws2')"
    apart = "SELECT name FROM account WHERE workspace_id IN ('ws1', 'acme')"
    for statement in (both, apart):
        with pytest.raises(Unroutable) as refused:
            router.execute(statement)
        assert refused.value.code == "PS724"
        for ask in (statement, "SELECT name FROM account"):
            with (
                pytest.raises(errors.InsufficientPrivilege),
                router.all_workspaces() as everyone,
            ):
                everyone.execute(ask)
    with pytest.raises(Unroutable) as refused:
        router.executemany("UPDATE item SET size = 0 WHERE workspace_id = %s", [["ws1"], ["ws2"]])
    assert refused.value.code == "PS724"


def test_analytics_reads_all_workspaces(world: World, who: Roles, signed: bool) -> None:
    topology = seen_as(world.load(layout_of(who, signed)), who.analytics)
    with Router(topology) as router, router.all_workspaces() as everyone:
        assert everyone.execute("SELECT count(*) FROM account").fetchone() == (4,)
        named = "SELECT name FROM account WHERE workspace_id IN ('ws1', 'acme') "
        assert len(everyone.execute(named).fetchall()) == 2


def test_a_connection_keeps_nothing(router: Router, world: World, who: Roles) -> None:
    for workspace in WORKSPACES:
        router.execute(NOTES, [0], workspace=workspace)
        with pytest.raises(errors.UniqueViolation):
            router.execute(
                "INSERT INTO account (id) VALUES (%s)", [ACCOUNTS[workspace]], workspace=workspace
            )
        with router.transaction(workspace=workspace) as connection:
            connection.execute(NOTES, [0])
            raise psycopg.Rollback
    for server in ("core", "east"):
        real = router.pools.acquire(server)
        try:
            found = real.execute("SELECT current_setting('parlant.workspace_id', true)").fetchone()
            assert found == ("",)
            shard = "s1" if server == "core" else "s2"
            assert real.execute(f"SELECT count(*) FROM account_{shard}").fetchone() == (0,)  # type: ignore[arg-type]
        finally:
            router.pools.release(server, real)


def test_threads_never_see_each_other(router: Router) -> None:
    def work(number: int) -> None:
        workspace = WORKSPACES[number % 4]
        for _ in range(20):
            assert router.execute(NOTES, [0], workspace=workspace).fetchall() == notes(workspace)

    with ThreadPoolExecutor(8) as pool:
        for future in [pool.submit(work, n) for n in range(8)]:
            future.result()


def test_asyncio(topology: Topology) -> None:
    async def work() -> None:
        async with AsyncRouter(topology, max_size=2) as router:

            async def one(workspace: str) -> None:
                for _ in range(5):
                    result = await router.execute(NOTES, [0], workspace=workspace)
                    assert await result.fetchall() == notes(workspace)

            await asyncio.gather(*(one(w) for w in WORKSPACES * 2))
            with pytest.raises(errors.UniqueViolation):
                await router.execute(
                    "INSERT INTO account (id) VALUES (%s)", [ACCOUNTS["ws1"]], workspace="ws1"
                )
            async with router.workspace("acme") as connection:
                async with connection.pipeline():
                    results = [await connection.execute(NOTES, [0]) for _ in range(2)]
                assert [await r.fetchall() for r in results] == [notes("acme")] * 2
                async with connection.transaction():
                    async with connection.transaction(force_rollback=True):
                        await connection.execute(NOTES, [0])
                    async with connection.cursor("big") as cursor:
                        await cursor.execute(NOTES, [0])
                        assert await cursor.fetchall() == notes("acme")
                await connection.executemany("UPDATE item SET size = %s", [[0], [0]])
                async with connection.copy("COPY account (name) FROM STDIN") as copy:
                    await copy.write_row(["new c"])
                text = "COPY (SELECT name FROM account ORDER BY 1) TO STDOUT"
                async with connection.copy(text) as copy:
                    assert [bytes(b) async for b in copy] == [b"new c\n", b"of acme\n"]
            with pytest.raises(Unroutable) as refused:
                await router.execute("SELECT name FROM account WHERE workspace_id IN ('ws1','ws2')")
            assert refused.value.code == "PS724"

    asyncio.run(work())


@pytest.mark.skipif(test_pooler.BINARY is None, reason="needs pgbouncer on PATH")
def test_through_a_pooler_in_transaction_mode(
    topology: Topology, bouncer: Callable[[str, str], str]
) -> None:
    servers = {
        name: server.model_copy(
            update={
                "dsn": bouncer(server.dsn or "", "transaction"),
                "admin_dsn": server.dsn,
            }
        )
        for name, server in topology.servers.items()
    }
    pooled = topology.model_copy(update={"servers": servers})
    with Router(pooled, prepare_threshold=None, max_size=6) as router:

        def work(number: int) -> None:
            workspace = WORKSPACES[number % 4]
            for _ in range(15):
                found = router.execute(NOTES, [0], workspace=workspace).fetchall()
                assert found == notes(workspace)
                with router.transaction(workspace=workspace) as connection:
                    assert connection.execute(NOTES, [0]).fetchall() == notes(workspace)

        with ThreadPoolExecutor(6) as pool:
            for future in [pool.submit(work, n) for n in range(12)]:
                future.result()
        with router.workspace("acme") as connection:
            with connection.pipeline():
                results = [connection.execute(NOTES, [0]) for _ in range(3)]
            assert [r.fetchall() for r in results] == [notes("acme")] * 3
            with connection.copy("COPY (SELECT note FROM item ORDER BY 1) TO STDOUT") as copy:
                assert b"".join(copy) == b"note 1 of acme\nnote 2 of acme\n"
    for server in servers.values():
        with psycopg.connect(server.dsn or "", autocommit=True) as probe:
            for _ in range(5):
                found = probe.execute(
                    "SELECT coalesce(current_setting('parlant.workspace_id', true), '')"
                ).fetchone()
                assert found == ("",)
