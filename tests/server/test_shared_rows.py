"""Reference tables with the key, through both clients: own rows, shared rows, and nobody else's.

Everything holds without row-level security, with it, and with signed settings.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Any

import psycopg
import pytest
from client_world import SHARDS, fill, lasting_world
from protocol import Layout, World, layout
from psycopg import errors
from rls_world import KEY, KEYED, Roles, behind, seen_as
from verified import audit, found

from parlant_shard import AsyncRouter, Router, ShardError, Unroutable
from parlant_shard.topology import Topology
from servers import Clusters

pytestmark = [pytest.mark.matrix, pytest.mark.needs(superuser=True, logical=True)]

KEYS = "SELECT id FROM api_key ORDER BY id"
OWN = {"ws1": "k1", "ws2": "k2", "acme": "ka", "globex": "kg"}
ROWS = [("k0", None), *((key, ws) for ws, key in OWN.items())]
DDL = KEYED + "ALTER TABLE account ADD key_id text REFERENCES api_key (id);"


@pytest.fixture(scope="module", params=["none", "plain", "signed"])
def wall(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def layout_of(who: Roles, wall: str) -> Layout:
    if wall == "none":
        tables = {"country": {"kind": "reference"}, "api_key": {"kind": "reference"}}
        return layout(SHARDS, ddl=DDL, tables=tables)
    return behind(who, ddl=DDL, **({"signed": True, "key": KEY} if wall == "signed" else {}))


@pytest.fixture(scope="module")
def world(
    tmp_path_factory: pytest.TempPathFactory, clusters: Clusters, who: Roles, wall: str
) -> Iterator[World]:
    found = lasting_world(tmp_path_factory.mktemp("world"), clusters)
    found.apply(layout_of(who, wall))
    fill(found)
    yield found
    for dsn in found.dsns.values():  # one of three worlds: a server has few slots
        clusters.get(0).let_go(dsn)
    clusters.drop_databases()


@pytest.fixture(autouse=True)
def keys(world: World) -> None:
    """Put the rows of the table back, on the coordinator and in its copy."""
    arrived(world)  # a row that arrives while it is deleted is a serialization failure
    with world.connect() as connection:
        connection.execute("DELETE FROM api_key WHERE id NOT IN ('k0', 'k1', 'k2', 'ka', 'kg')")
        connection.cursor().executemany(
            "INSERT INTO api_key VALUES (%s, 'name', %s) "
            "ON CONFLICT (id) DO UPDATE SET name = 'name', workspace_id = excluded.workspace_id",
            ROWS,
        )
    arrived(world)


def rows(world: World, server: str = "core") -> list[Any]:
    return world.rows("SELECT id, name, workspace_id FROM api_key ORDER BY id", server=server)


def arrived(world: World) -> None:
    """Wait until the copy has what the coordinator has."""
    for _ in range(1200):
        if rows(world, "east") == rows(world):
            return
        time.sleep(0.05)
    raise TimeoutError("the rows do not reach the copy")


@pytest.fixture(scope="module")
def topology(world: World, who: Roles, wall: str) -> Topology:
    """Give the topology as the application has it."""
    found = world.load(layout_of(who, wall))
    return found if wall == "none" else seen_as(found, who.application)


@pytest.fixture
def router(topology: Topology) -> Iterator[Router]:
    with Router(topology, max_size=3, timeout=10) as found:
        yield found


@contextmanager
def refused(code: str) -> Iterator[None]:
    with pytest.raises(ShardError) as found:
        yield
    assert (found.value.code, bool(found.value.hint)) == (code, True), found.value


# --- reading --------------------------------------------------------------------------------------


@pytest.mark.parametrize("workspace", OWN)
def test_a_workspace_reads_its_own_rows_and_the_shared_ones(router: Router, workspace: str) -> None:
    mine = [("k0",), (OWN[workspace],)]
    assert router.execute(KEYS, workspace=workspace).fetchall() == mine
    assert router.execute(f"{KEYS} LIMIT %s", [9], workspace=workspace).fetchall() == mine
    with router.transaction(workspace) as tx:
        assert tx.execute(KEYS).fetchall() == mine
        joined = "SELECT DISTINCT k.id FROM account a JOIN api_key k ON k.workspace_id IS NOT NULL"
        assert tx.execute(joined).fetchall() == mine[1:]
        with tx.cursor("named") as cursor:
            assert cursor.execute(KEYS).fetchall() == mine
    with router.workspace(workspace) as connection, connection.pipeline():
        assert connection.execute(KEYS).fetchall() == mine
    with router.copy("COPY api_key (id) TO STDOUT", workspace=workspace) as copy:
        assert sorted(b"".join(map(bytes, copy)).decode().split()) == [key for (key,) in mine]


def test_without_a_workspace_there_are_the_shared_rows_alone(router: Router) -> None:
    assert router.execute(KEYS).fetchall() == [("k0",)]
    assert router.execute("SELECT count(*) FROM api_key WHERE id > %s", [""]).fetchone() == (1,)


def test_a_condition_names_the_workspace(router: Router) -> None:
    named = "SELECT id FROM api_key WHERE workspace_id = %s"
    assert router.execute(named, ["acme"]).fetchall() == [("ka",)]
    both = f"{named} OR workspace_id IS NULL ORDER BY id"
    assert router.execute(both, ["acme"]).fetchall() == [("k0",), ("ka",)]
    with refused("PS610"):
        router.execute(named, ["acme"], workspace="ws1")


def test_all_workspaces_show_the_rows_of_all(
    world: World, who: Roles, wall: str, router: Router
) -> None:
    if wall != "none":
        with pytest.raises(errors.InsufficientPrivilege), router.all_workspaces() as everyone:
            everyone.execute(KEYS)
    analyst = world.load(layout_of(who, wall))
    if wall != "none":
        analyst = seen_as(analyst, who.analytics)
    with Router(analyst) as found, found.all_workspaces() as everyone:
        assert len(everyone.execute(KEYS).fetchall()) == len(ROWS)
        with refused("PS622"):
            everyone.execute("DELETE FROM api_key")


def test_a_transaction_forgets_the_workspace_of_the_statement_before(router: Router) -> None:
    named = "SELECT count(*) FROM item WHERE workspace_id = 'ws1'"
    with router.transaction() as tx:
        assert tx.execute(named).fetchone() == (2,)
        assert tx.execute(KEYS).fetchall() == [("k0",)]
        assert tx.execute(f"{KEYS} LIMIT 9", prepare=True).fetchall() == [("k0",)]
        with tx.transaction():
            assert tx.execute(named).fetchone() == (2,)
        assert tx.execute(KEYS).fetchall() == [("k0",)]
        assert tx.execute(named).fetchone() == (2,)
        with tx.transaction(force_rollback=True):
            assert tx.execute(KEYS).fetchall() == [("k0",)]
        assert tx.execute(KEYS).fetchall() == [("k0",)]  # the setting of before came back


def test_the_setting_of_the_statement_before_is_taken_back(router: Router, wall: str) -> None:
    """The router's condition alone would hide that row-level security still admits a workspace."""
    if wall == "none":
        pytest.skip("there is no setting")
    named = "SELECT count(*) FROM item WHERE workspace_id = 'ws1'"
    with router.transaction() as tx:
        tx.execute(named)
        assert tx._real is not None
        real = tx._real[1]
        seen = "SELECT id FROM public.api_key ORDER BY id"
        assert real.execute(seen).fetchall() == [("k0",), ("k1",)]
        tx.execute(KEYS)
        assert real.execute(seen).fetchall() == [("k0",)]
        tx.execute(named)
        with tx.transaction(force_rollback=True):
            tx.execute(KEYS)
        tx.execute(KEYS)
        assert real.execute(seen).fetchall() == [("k0",)]


# --- writing --------------------------------------------------------------------------------------


@pytest.mark.parametrize("workspace", ["ws1", "acme"])
def test_a_workspace_writes_its_own_rows_on_the_coordinator(
    world: World, router: Router, workspace: str
) -> None:
    own = OWN[workspace]
    new = router.execute(
        "INSERT INTO api_key (id, name) VALUES (%s, 'new') RETURNING workspace_id",
        ["n1"],
        workspace=workspace,
    )
    assert new.fetchall() == [(workspace,)]
    values = ["n2", "new", workspace]
    router.execute("INSERT INTO api_key VALUES ($1, $2, $3)", values, workspace=workspace)
    router.execute("INSERT INTO api_key VALUES (%s, %s, %s)", ["n3", "new", workspace])
    renamed = "UPDATE api_key SET name = 'again' RETURNING id"
    found = router.execute(renamed, workspace=workspace).fetchall()
    assert sorted(found) == sorted([("n1",), ("n2",), ("n3",), (own,)])
    upsert = "INSERT INTO api_key (id) VALUES (%s) ON CONFLICT (id) DO UPDATE SET name = 'up'"
    assert router.execute(upsert, [own], workspace=workspace).rowcount == 1
    arrived(world)
    gone = router.execute("DELETE FROM api_key WHERE id LIKE 'n%'", workspace=workspace)
    assert gone.rowcount == 3
    others = [(key, "name", ws) for key, ws in ROWS if key != own]
    assert rows(world) == sorted([*others, (own, "up", workspace)])
    arrived(world)
    assert router.execute(KEYS, workspace=workspace).fetchall() == [("k0",), (own,)]
    with (
        pytest.raises(Unroutable) as copied,
        router.copy("COPY api_key FROM STDIN", workspace=workspace),
    ):
        pass
    assert copied.value.code == "PS616"


@pytest.mark.parametrize(
    ("text", "params"),
    [
        ("UPDATE api_key SET name = 'x' WHERE id = 'k0'", None),
        ("UPDATE api_key SET name = %s WHERE id = %s RETURNING name", ["x", "k0"]),
        ("UPDATE api_key AS k SET name = $1 WHERE k.id = $2 RETURNING $3::text", ["x", "k0", "y"]),
        ("UPDATE api_key SET name = %(n)s WHERE id = %(id)s", {"n": "x", "id": "k0"}),
        ("UPDATE api_key SET name = (SELECT max(name) FROM country) WHERE id LIKE 'k0%'", None),
        ("UPDATE api_key k SET name = 'x' FROM country c RIGHT JOIN (SELECT 1) o ON true "
         "WHERE k.name IS NOT DISTINCT FROM %s AND k.id = 'k0'", ["name"]),
        ("DELETE FROM api_key WHERE id = ANY (%s)", [["k0", "nothing"]]),
        ("DELETE FROM public.api_key USING (SELECT 'k0' AS id) o WHERE o.id = api_key.id", None),
        ("WITH o AS (SELECT 'k0' AS id) DELETE FROM api_key WHERE id IN (SELECT id FROM o)", None),
        ("INSERT INTO api_key (id) VALUES ('k0') ON CONFLICT (id) DO UPDATE SET name = 'x'", None),
    ],
)  # fmt: skip
def test_a_change_that_meant_a_shared_row_is_an_error(
    world: World, router: Router, text: str, params: Any
) -> None:
    for workspace in ("ws1", "globex"):
        with pytest.raises(errors.InsufficientPrivilege) as found:
            router.execute(text, params, workspace=workspace)
        assert getattr(found.value, "code", "") == "PS663"
    assert rows(world) == sorted((key, "name", ws) for key, ws in ROWS)


def test_a_change_that_meant_nothing_of_its_own_or_shared_is_none(
    world: World, router: Router
) -> None:
    for key in ("nothing", OWN["ws2"], OWN["acme"]):
        update = "UPDATE api_key SET name = 'x' WHERE id = %s"
        assert router.execute(update, [key], workspace="ws1").rowcount == 0
        delete = "DELETE FROM api_key WHERE id = %s RETURNING id"
        assert router.execute(delete, [key], workspace="ws1").fetchall() == []
    own = "UPDATE api_key SET name = 'name' WHERE id IN ('k0', 'k1')"
    assert router.execute(own, workspace="ws1").rowcount == 1
    assert rows(world) == sorted((key, "name", ws) for key, ws in ROWS)


def test_a_row_that_another_has_is_no_row_to_take(world: World, router: Router) -> None:
    insert = "INSERT INTO api_key (id, name) VALUES (%s, 'x')"
    for key in ("k0", "k2", "ka"):
        with pytest.raises(errors.UniqueViolation):
            router.execute(insert, [key], workspace="ws1")
        with refused("PS663"):
            text = f"{insert} ON CONFLICT (id) DO UPDATE SET name = 'taken'"
            router.execute(text, [key], workspace="ws1")
        kept = f"{insert} ON CONFLICT (id) DO NOTHING"
        assert router.execute(kept, [key], workspace="ws1").rowcount == 0
    for values in (
        "('n1', 'x', 'ws2')",
        "('n1', 'x', NULL)",
        "('n1', 'x', 'ws1'), ('n2', 'x', '')",
    ):
        with pytest.raises(Unroutable):
            router.execute(f"INSERT INTO api_key VALUES {values}", workspace="ws1")
    with pytest.raises(Unroutable):
        router.execute("UPDATE api_key SET workspace_id = 'ws1'", workspace="ws1")
    assert rows(world) == sorted((key, "name", ws) for key, ws in ROWS)


@pytest.mark.parametrize("workspace", ["ws1", "acme"])
def test_it_is_not_changed_in_a_transaction_of_a_workspace(router: Router, workspace: str) -> None:
    """Wherever the shard is: what works on the coordinator alone stops when a workspace moves."""
    update = "UPDATE api_key SET name = 'x'"
    with router.transaction(workspace) as tx:
        with refused("PS661"):
            tx.execute(update)
        assert tx.execute("SELECT count(*) FROM item").fetchone() == (2,)
    with router.workspace(workspace) as connection, connection.pipeline(), refused("PS661"):
        connection.execute(update)
    with router.workspace(workspace) as connection:
        assert connection.execute(update).rowcount == 1


@pytest.mark.parametrize("workspace", ["ws1", "acme"])
def test_many_rows_go_to_the_coordinator_in_one_transaction(
    world: World, router: Router, workspace: str
) -> None:
    insert = "INSERT INTO api_key (id, name) VALUES (%s, 'many')"
    with router.workspace(workspace) as connection:
        assert connection.execute("SELECT count(*) FROM item").fetchone() == (2,)
        assert connection.executemany(insert, [["n1"], ["n2"]]).rowcount == 2
        with pytest.raises(errors.UniqueViolation):
            connection.executemany(insert, [["n3"], ["k0"]])
        with refused("PS661"):
            connection.executemany("DELETE FROM api_key WHERE id = %s", [["n1"]])
        assert connection.execute("SELECT count(*) FROM item").fetchone() == (2,)
    found = world.rows("SELECT id, workspace_id FROM api_key WHERE name = 'many' ORDER BY id")
    assert found == [("n1", workspace), ("n2", workspace)]


def test_shared_rows_are_changed_without_a_workspace_by_their_owner(
    world: World, who: Roles, wall: str, router: Router
) -> None:
    owner = world.load(layout_of(who, wall))
    with Router(owner) as admin:
        admin.execute("INSERT INTO api_key (id, name) VALUES ('n0', 'all')")
        admin.execute("INSERT INTO api_key VALUES (%s, 'all', %s)", ["n1", None])
        assert admin.execute("UPDATE api_key SET name = 'x' RETURNING id").rowcount == 3
        arrived(world)
        gone = admin.execute("DELETE FROM api_key WHERE id LIKE 'n%'")
        assert gone.rowcount == 2
        for text in ("UPDATE api_key SET name = 'x' WHERE id = 'k1'", "DELETE FROM api_key k "
                     "WHERE k.id = 'ka'", "INSERT INTO api_key (id) VALUES ('k1') "
                     "ON CONFLICT (id) DO UPDATE SET name = 'x'"):  # fmt: skip
            with refused("PS663"):
                admin.execute(text)
        assert admin.execute("DELETE FROM api_key WHERE id = 'nothing'").rowcount == 0
        with admin.transaction() as tx:
            assert tx.execute("UPDATE api_key SET name = 'y'").rowcount == 1
            tx.execute("INSERT INTO api_key VALUES ('n2', 'x', 'ws1')")
            assert tx.execute("DELETE FROM api_key WHERE workspace_id = 'ws1' AND id = 'n2'")
    assert rows(world) == sorted((k, "name" if ws else "y", ws) for k, ws in ROWS)
    if wall != "none":
        with refused("PS663"):  # the role may not, and 0 rows would not say so
            router.execute("UPDATE api_key SET name = 'z'")
        with pytest.raises(errors.InsufficientPrivilege):
            router.execute("INSERT INTO api_key (id) VALUES ('n3')")


def test_the_asynchronous_router_does_the_same(world: World, topology: Topology) -> None:
    async def work() -> None:
        async with AsyncRouter(topology, max_size=3, timeout=10) as router:
            assert await (await router.execute(KEYS, workspace="acme")).fetchall() == [
                ("k0",),
                ("ka",),
            ]
            assert await (await router.execute(KEYS)).fetchall() == [("k0",)]
            insert = "INSERT INTO api_key (id, name) VALUES (%s, 'new')"
            await router.execute(insert, ["n1"], workspace="acme")
            await router.executemany(insert, [["n2"], ["n3"]], workspace="acme")
            found = await router.execute("UPDATE api_key SET name = 'x'", workspace="acme")
            assert found.rowcount == 4
            with refused("PS663"):
                await router.execute("DELETE FROM api_key WHERE id = 'k0'", workspace="acme")
            async with router.transaction("acme") as tx:
                with refused("PS661"):
                    await tx.execute("DELETE FROM api_key")
            named = "SELECT count(*) FROM item WHERE workspace_id = 'acme'"
            async with router.transaction() as tx:
                assert await (await tx.execute(named)).fetchone() == (2,)
                assert await (await tx.execute(KEYS)).fetchall() == [("k0",)]
                async with tx.transaction():
                    assert await (await tx.execute(named)).fetchone() == (2,)
                assert await (await tx.execute(KEYS)).fetchall() == [("k0",)]

    asyncio.run(work())
    found = world.rows("SELECT id FROM api_key WHERE workspace_id = 'acme' ORDER BY id")
    assert found == [("ka",), ("n1",), ("n2",), ("n3",)]


# --- the copies -----------------------------------------------------------------------------------


def test_a_copy_has_the_policies_and_goes_on_being_written(
    world: World, who: Roles, wall: str
) -> None:
    security = (
        "SELECT relrowsecurity, relforcerowsecurity FROM pg_class "
        "WHERE oid = 'public.api_key'::regclass"
    )
    for server in ("core", "east"):
        assert world.rows(security, server=server) == [(wall != "none", False)]
    world.execute("INSERT INTO api_key VALUES ('n1', 'x', 'ws1'), ('n2', 'x', NULL)")
    world.execute("UPDATE api_key SET name = 'z' WHERE id IN ('k0', 'k2')")
    world.execute("DELETE FROM api_key WHERE id IN ('ka')")
    arrived(world)
    if wall == "none":
        return
    dsn = seen_as(world.load(layout_of(who, wall)), who.application).servers["east"].dsn
    with closing(psycopg.connect(dsn or "", autocommit=True)) as raw:
        assert raw.execute(KEYS).fetchall() == [("k0",), ("n2",)]


def test_a_reference_to_another_workspaces_row_is_found(
    world: World, who: Roles, wall: str, router: Router
) -> None:
    """The check of a foreign key passes over row-level security and the router's condition."""
    refer = "UPDATE account SET key_id = %s"
    try:
        for workspace, key in (("ws1", "k2"), ("ws2", "k0"), ("acme", "k1"), ("globex", "kg")):
            assert router.execute(refer, [key], workspace=workspace).rowcount == 1
        report = audit(world, layout_of(who, wall))
        wrong = {f for f in found(report) if f.startswith("parents")}
        assert wrong == {"parents core s1 account_s1 ws1", "parents east s2 account_s2 acme"}
        said = next(f for f in report.findings if f.check == "parents")
        assert "of another workspace" in said.detail
        assert said.statement is not None
        assert len(world.rows(said.statement, server=said.server or "core")) == 1
    finally:
        for workspace in OWN:
            router.execute(refer, [None], workspace=workspace)


def test_a_map_of_the_first_release_is_refused_found_and_stored_anew(
    world: World, who: Roles, wall: str, topology: Topology
) -> None:
    if wall != "none":
        pytest.skip("the map is the same")
    world.execute(
        "UPDATE parlant_shard.map "
        "SET map = jsonb_set(map #- '{tables,api_key,keyed}', '{format_version}', '1')"
    )
    with refused("PS660"):
        Router(topology)
    report = audit(world, layout_of(who, wall))
    (finding,) = [f for f in report.findings if f.check == "shard-map"]
    assert "format 1" in finding.detail
    assert world.plan(layout_of(who, wall)).steps == ()
    world.apply(layout_of(who, wall))
    with Router(topology) as router:
        assert router.execute(KEYS, workspace="ws1").fetchall() == [("k0",), ("k1",)]
