"""The synchronous router on real shards: statements, transactions, cursors, pipelines, batches."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import psycopg
import pytest
from client_world import ACCOUNTS, ITEMS, WORKSPACES, applied, fill, lasting_world
from protocol import World
from psycopg import errors
from psycopg.rows import dict_row, scalar_row

from parlant_shard import Router, ShardError, Unroutable
from parlant_shard.router.route import Kind
from parlant_shard.topology import Topology
from servers import Clusters

NOTES = "SELECT note FROM item ORDER BY note"


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, clusters: Clusters) -> World:
    found = lasting_world(tmp_path_factory.mktemp("world"), clusters)
    applied(found)
    fill(found)
    return found


@pytest.fixture(scope="module")
def topology(world: World) -> Topology:
    return applied(world)


@pytest.fixture
def router(topology: Topology) -> Iterator[Router]:
    with Router(topology, max_size=4, timeout=5) as found:
        yield found


@pytest.fixture
def scratch(world: World) -> Iterator[None]:
    """Take away what a test wrote."""
    yield
    for server, shards in (("core", ["s1"]), ("east", ["s2", "s3"])):
        for shard in shards:
            world.execute(f"DELETE FROM account_{shard} WHERE name LIKE 'new%'", server=server)


def notes(workspace: str) -> list[tuple[str]]:
    return [(f"note {n} of {workspace}",) for n in (1, 2)]


def count(world: World, name: str) -> int:
    found = world.value("SELECT count(*) FROM account_global WHERE name = '" + name + "'")
    assert isinstance(found, int)
    return found


# --- statements -----------------------------------------------------------------------------------


def test_each_workspace_sees_its_rows_alone(router: Router) -> None:
    for workspace in WORKSPACES:
        with router.workspace(workspace) as connection:
            assert connection.workspace == workspace
            assert connection.execute(NOTES).fetchall() == notes(workspace)
        assert router.execute(NOTES, workspace=workspace).fetchall() == notes(workspace)


def test_select_star_gives_the_columns_of_the_application(router: Router) -> None:
    result = router.execute("SELECT * FROM item", workspace="acme")
    assert result.description is not None
    assert [c.name for c in result.description] == [
        "id",
        "account_id",
        "note",
        "size",
        "country_id",
        "data",
    ]


def test_a_result_outlives_its_connection_and_its_router(topology: Topology) -> None:
    with Router(topology) as router:
        result = router.execute(NOTES, workspace="ws1")
        written = router.execute("UPDATE item SET size = 0", workspace="ws1")
    assert result.rowcount == 2
    assert result.statusmessage == "SELECT 2"
    assert result.rownumber == 0
    assert result.fetchone() == ("note 1 of ws1",)
    assert result.rownumber == 1
    assert list(result) == [("note 2 of ws1",)]
    assert result.fetchone() is None
    assert result.fetchmany(3) == []
    assert written.rowcount == 2
    assert written.description is None
    with pytest.raises(psycopg.ProgrammingError) as refused:
        written.fetchall()
    assert isinstance(refused.value, ShardError)
    assert refused.value.code == "PS635"


@pytest.mark.parametrize(
    ("sql", "params"),
    [
        ("SELECT note FROM item WHERE note = %s", ["note 1 of acme"]),
        ("SELECT note FROM item WHERE note = %(n)s", {"n": "note 1 of acme"}),
        ("SELECT note FROM item WHERE note = $1", ["note 1 of acme"]),
        ("SELECT note FROM item WHERE note LIKE '%1 of acme'", None),
    ],
)
def test_every_style_of_placeholders(router: Router, sql: str, params: Any) -> None:
    for _ in range(7):  # beyond the threshold of prepared statements
        assert router.execute(sql, params, workspace="acme").fetchall() == [("note 1 of acme",)]
    with router.transaction(workspace="acme") as connection:
        assert connection.execute(sql, params).fetchall() == [("note 1 of acme",)]


def test_row_factories(router: Router, topology: Topology) -> None:
    with router.workspace("ws1", row_factory=dict_row) as connection:
        assert connection.execute(NOTES).fetchone() == {"note": "note 1 of ws1"}
        with connection.cursor(row_factory=scalar_row) as cursor:
            assert cursor.execute(NOTES).fetchall() == ["note 1 of ws1", "note 2 of ws1"]
    assert router.execute(NOTES, workspace="ws1", row_factory=scalar_row).fetchone() == (
        "note 1 of ws1"
    )
    with Router(topology, row_factory=dict_row) as other:
        assert other.execute(NOTES, workspace="ws1").fetchone() == {"note": "note 1 of ws1"}


def test_a_refusal_is_raised_with_its_route_and_nothing_is_sent(router: Router) -> None:
    with pytest.raises(Unroutable) as refused:
        router.execute("SELECT * FROM item")
    assert refused.value.route.kind is Kind.REFUSED
    assert refused.value.code == "PS608"
    assert refused.value.hint
    with pytest.raises(Unroutable) as refused:
        router.execute(NOTES, workspace="nobody")
    assert refused.value.code == "PS609"


def test_the_workspace_comes_from_the_statement_too(router: Router) -> None:
    sql = "SELECT name FROM account WHERE workspace_id = %s"
    assert router.execute(sql, ["globex"]).fetchall() == [("of globex",)]


def test_rows_of_several_shards_follow_one_another(router: Router) -> None:
    sql = "SELECT name FROM account WHERE workspace_id = ANY (%s)"
    for order in (["globex", "ws1", "acme"], ["acme", "globex", "ws1"]):
        route = router.route(sql, [order])
        assert route.kind is Kind.MULTI
        result = router.execute(sql, [order])
        found = result.fetchall()
        assert sorted(found) == [("of acme",), ("of globex",), ("of ws1",)]
        if len(route.targets) > 1:
            assert found == [(f"of {w}",) for w in order]
        assert result.rowcount == 3
        assert result.statusmessage == "SELECT 3"


def test_all_workspaces_are_read_and_never_written(router: Router) -> None:
    with router.all_workspaces() as connection:
        found = connection.execute(
            "SELECT workspace_id, count(*) FROM account GROUP BY 1 ORDER BY 1"
        ).fetchall()
        assert found == [(w, 1) for w in sorted(WORKSPACES)]
        with pytest.raises(Unroutable) as refused:
            connection.execute("DELETE FROM item")
        assert refused.value.code == "PS622"
        assert connection.execute("SELECT count(*) FROM item").fetchone() == (8,)


def test_reference_tables_are_read_on_the_shard_and_written_on_the_coordinator(
    router: Router, world: World
) -> None:
    router.execute("INSERT INTO country (id, name) VALUES ('de', 'Germany')")
    try:
        wait_for(lambda: world.value("SELECT count(*) FROM country", server="east") == 1)
        with router.transaction(workspace="acme") as connection:
            connection.execute("SELECT 1 FROM item")
            assert connection.execute("SELECT name FROM country").fetchall() == [("Germany",)]
            with pytest.raises(Unroutable) as refused:
                connection.execute("SELECT note FROM machine")
            assert refused.value.code == "PS632"
            assert connection.execute(NOTES).fetchall() == notes("acme")
    finally:
        world.execute("DELETE FROM country")


def test_a_server_without_reference_tables_is_passed_over(router: Router, world: World) -> None:
    world.execute("ALTER TABLE country RENAME TO hidden", server="east")
    try:
        assert router.execute("SELECT * FROM country", workspace="acme").fetchall() == []
        with pytest.raises(errors.UndefinedTable), router.transaction(workspace="acme") as inside:
            inside.execute("SELECT * FROM country")
    finally:
        world.execute("ALTER TABLE hidden RENAME TO country", server="east")


def test_an_insert_waits_for_its_reference_row(router: Router, world: World) -> None:
    subscription = world.value(
        "SELECT subname FROM pg_subscription WHERE subdbid = "
        "(SELECT oid FROM pg_database WHERE datname = current_database())",
        server="east",
    )
    sql = "UPDATE item SET country_id = %s WHERE note = 'note 1 of acme'"
    world.execute(f'ALTER SUBSCRIPTION "{subscription}" DISABLE', server="east")
    try:
        router.execute("INSERT INTO country (id, name) VALUES ('fr', 'France')")
        began = time.monotonic()
        timer = threading.Timer(
            0.7,
            lambda: world.execute(f'ALTER SUBSCRIPTION "{subscription}" ENABLE', server="east"),
        )
        timer.start()
        assert router.execute(sql, ["fr"], workspace="acme").rowcount == 1
        assert time.monotonic() - began > 0.6
        timer.join()
        began = time.monotonic()
        with pytest.raises(errors.ForeignKeyViolation) as refused:
            router.execute(sql, ["nowhere"], workspace="acme")
        assert time.monotonic() - began < 1
        assert isinstance(refused.value, ShardError)
        assert refused.value.code == "PS640"
    finally:
        world.execute(f'ALTER SUBSCRIPTION "{subscription}" ENABLE', server="east")
        world.execute("UPDATE item_s2 SET country_id = NULL", server="east")
        world.execute("DELETE FROM country")


def test_an_error_of_postgresql_is_psycopgs_and_ours(router: Router) -> None:
    with pytest.raises(errors.UniqueViolation) as refused:
        router.execute(
            "INSERT INTO account (id, name) VALUES (%s, 'new twin')",
            [ACCOUNTS["acme"]],
            workspace="acme",
        )
    error = refused.value
    assert isinstance(error, ShardError)
    assert error.code == "PS640"
    assert error.sqlstate == "23505"
    assert error.diag.constraint_name == "account_pkey_s2"
    assert 'server "east", shard "s2"' in str(error)
    assert ACCOUNTS["acme"] not in str(error)
    assert error.hint


# --- look-ups -------------------------------------------------------------------------------------


def test_an_id_is_looked_up_and_remembered(router: Router) -> None:
    sql = "SELECT note FROM item WHERE id = %s"
    route = router.route(sql, [ITEMS["globex"][0]])
    assert route.kind is Kind.LOOKUP
    assert router.execute(sql, [ITEMS["globex"][0]]).fetchall() == [("note 1 of globex",)]
    assert len(router.core.cache) == 1
    assert router.execute(sql, [ITEMS["globex"][0]]).fetchall() == [("note 1 of globex",)]
    assert router.execute("SELECT note FROM item WHERE account_id = %s", [ACCOUNTS["ws2"]]).rowcount
    resolved = router.resolve(sql, [ITEMS["acme"][0]])
    assert resolved.kind is Kind.DIRECT
    assert resolved.lookup is not None
    assert resolved.targets[0].shard == "s2"


def test_an_id_that_is_nowhere_gives_what_an_unsharded_database_gives(router: Router) -> None:
    nowhere = "11111111-0000-0000-0000-000000000000"
    assert router.execute("SELECT note FROM item WHERE id = %s", [nowhere]).fetchall() == []
    assert router.execute("DELETE FROM item WHERE id = %s", [nowhere]).rowcount == 0
    assert router.execute("UPDATE item SET size = 1 WHERE id = %s", [nowhere]).rowcount == 0
    assert len(router.core.cache) == 0
    with pytest.raises(Unroutable) as refused:
        router.execute("INSERT INTO item (account_id, note) VALUES (%s, 'x')", [nowhere])
    assert refused.value.code == "PS625"


def test_an_id_in_two_workspaces_is_refused(router: Router, world: World) -> None:
    twin = "22222222-0000-0000-0000-000000000000"
    for shard, workspace in (("s2", "acme"), ("s3", "globex")):
        world.execute(
            f"INSERT INTO account_{shard} (id, workspace_id, name) "
            f"VALUES ('{twin}', '{workspace}', 'new')",
            server="east",
        )
    try:
        with pytest.raises(Unroutable) as refused:
            router.execute("SELECT name FROM account WHERE id = %s", [twin])
        assert refused.value.code == "PS626"
    finally:
        for shard in ("s2", "s3"):
            world.execute(f"DELETE FROM account_{shard} WHERE id = '{twin}'", server="east")


@pytest.mark.usefixtures("scratch")
def test_a_transaction_looks_up_what_it_has_written(router: Router) -> None:
    new = "33333333-0000-0000-0000-000000000000"
    with router.transaction() as connection:
        connection.execute(
            "INSERT INTO account (id, workspace_id, name) VALUES (%s, 'acme', 'new')", [new]
        )
        found = connection.execute("SELECT name FROM account WHERE id = %s", [new]).fetchall()
        assert found == [("new",)]


# --- transactions ---------------------------------------------------------------------------------


@pytest.mark.usefixtures("scratch")
def test_a_transaction_commits_or_rolls_back(router: Router, world: World) -> None:
    insert = "INSERT INTO account (name) VALUES (%s)"
    with router.transaction(workspace="acme") as connection:
        connection.execute(insert, ["new kept"])
        assert count(world, "new kept") == 0
    assert count(world, "new kept") == 1

    def broken() -> None:
        with router.transaction(workspace="acme") as connection:
            connection.execute(insert, ["new lost"])
            raise KeyError

    with pytest.raises(KeyError):
        broken()
    assert count(world, "new lost") == 0
    with router.transaction(workspace="acme") as connection:
        connection.execute(insert, ["new undone"])
        raise psycopg.Rollback
    assert count(world, "new undone") == 0


@pytest.mark.usefixtures("scratch")
def test_savepoints(router: Router, world: World) -> None:
    insert = "INSERT INTO account (id, name) VALUES (%s, 'new savepoint')"
    first, second = "44444444-0000-0000-0000-000000000000", "44444444-0000-0000-0000-000000000001"
    with router.workspace("ws2") as connection, connection.transaction():
        connection.execute(insert, [first])
        with pytest.raises(errors.UniqueViolation), connection.transaction():
            connection.execute(insert, [first])
        with connection.transaction(force_rollback=True):
            connection.execute(insert, ["44444444-0000-0000-0000-000000000002"])
        with connection.transaction("named"):
            connection.execute(insert, [second])
    assert count(world, "new savepoint") == 2


def test_a_transaction_belongs_to_one_shard_and_goes_on(router: Router) -> None:
    of = "SELECT name FROM account WHERE workspace_id = %s"
    with router.transaction() as connection:
        assert connection.execute(of, ["acme"]).fetchall() == [("of acme",)]
        for other in ("globex", "ws1"):  # the same server, another server
            with pytest.raises(Unroutable) as refused:
                connection.execute(of, [other])
            assert refused.value.code == "PS632"
            assert 'shard "s2"' in str(refused.value)
        with pytest.raises(Unroutable) as refused:
            connection.execute("SELECT name FROM account WHERE workspace_id IN ('acme', 'ws1')")
        assert refused.value.code in {"PS632", "PS642"}
        assert connection.execute(of, ["acme"]).fetchall() == [("of acme",)]


def test_an_unbound_transaction_may_be_empty(router: Router) -> None:
    with router.transaction():
        pass
    with (
        router.transaction() as connection,
        pytest.raises(ShardError) as refused,
        connection.transaction(),
    ):
        pass
    assert refused.value.code == "PS635"


def test_an_error_aborts_the_transaction_as_always(router: Router) -> None:
    with router.workspace("ws1") as connection:
        with pytest.raises(errors.DivisionByZero), connection.transaction():
            connection.execute("SELECT size / 0 FROM item")

        def go_on() -> None:
            with connection.transaction():
                with pytest.raises(errors.DivisionByZero):
                    connection.execute("SELECT size / 0 FROM item")
                connection.execute(NOTES)

        with pytest.raises(errors.InFailedSqlTransaction):
            go_on()
        assert connection.execute(NOTES).fetchall() == notes("ws1")


# --- cursors, pipelines, batches ------------------------------------------------------------------


def test_cursors(router: Router) -> None:
    with router.workspace("ws1") as connection, connection.cursor() as cursor:
        assert cursor.description is None
        cursor.execute(NOTES)
        assert cursor.rowcount == 2
        assert cursor.fetchmany(5) == notes("ws1")
        assert [*cursor.execute(NOTES)] == notes("ws1")
    with pytest.raises(psycopg.InterfaceError) as refused:
        cursor.execute(NOTES)
    assert isinstance(refused.value, ShardError)
    assert refused.value.code == "PS643"


@pytest.mark.parametrize("style", ["%s", "$1"])
def test_cursors_on_the_server(router: Router, style: str) -> None:
    sql = f"SELECT note FROM item WHERE size = {style} ORDER BY note"
    with router.workspace("ws1") as connection:
        with pytest.raises(ShardError) as refused:
            connection.cursor("big").execute(sql, [0])
        assert refused.value.code == "PS635"
        with connection.transaction(), connection.cursor("big", scrollable=True) as cursor:
            cursor.execute(sql, [0])
            assert cursor.fetchone() == notes("ws1")[0]
            assert cursor.fetchall() == notes("ws1")[1:]
            cursor.scroll(0, "absolute")
            assert list(cursor) == notes("ws1")


@pytest.mark.usefixtures("scratch")
def test_pipelines_answer_when_they_are_asked(router: Router, world: World) -> None:
    insert = "INSERT INTO account (name) VALUES ('new piped')"
    with router.workspace("acme") as connection:
        with connection.pipeline():
            results = [connection.execute(insert) for _ in range(3)]
            read = connection.execute("SELECT count(*) FROM account")
            numbered = connection.execute("SELECT $1::int + 1", [1])
            with pytest.raises(Unroutable) as refused:
                connection.execute("SELECT note FROM machine")
            assert refused.value.code == "PS632"
            assert read.fetchone() == (4,)
        assert [r.rowcount for r in results] == [1, 1, 1]
        assert numbered.fetchall() == [(2,)]

        with connection.pipeline():
            with connection.pipeline():
                connection.execute(insert)
            read = connection.execute("SELECT count(*) FROM account")
            assert read.fetchone() == (5,)

        def broken() -> None:
            with connection.pipeline():
                connection.execute(insert)
                connection.execute("SELECT size / 0 FROM item")

        with pytest.raises(errors.DivisionByZero):
            broken()
    assert count(world, "new piped") == 4


@pytest.mark.usefixtures("scratch")
def test_executemany(router: Router, world: World) -> None:
    insert = "INSERT INTO account (name) VALUES (%s)"
    many = [[f"new {n}"] for n in range(20)]
    assert router.executemany(insert, many, workspace="globex").rowcount == 20
    assert (
        world.value("SELECT count(*) FROM account_s3 WHERE name LIKE 'new%'", server="east") == 20
    )
    with router.workspace("ws1") as connection:
        result = connection.executemany(f"{insert} RETURNING name", many[:3], returning=True)
        assert result.fetchall() == [("new 0",), ("new 1",), ("new 2",)]
        assert connection.executemany(insert, []).rowcount == 0


@pytest.mark.usefixtures("scratch")
def test_executemany_is_all_or_nothing_and_of_one_shard(router: Router, world: World) -> None:
    insert = "INSERT INTO account (workspace_id, name) VALUES (%s, %s)"
    with pytest.raises(Unroutable) as refused:
        router.executemany(insert, [["acme", "new a"], ["globex", "new b"]])
    assert refused.value.code == "PS645"
    assert router.executemany(insert, [["ws1", "new a"], ["ws2", "new b"]]).rowcount == 2
    with pytest.raises(errors.UniqueViolation):
        router.executemany(
            "INSERT INTO account (id, name) VALUES (%s, 'new c')",
            [["55555555-0000-0000-0000-000000000000"]] * 2,
            workspace="acme",
        )
    assert count(world, "new c") == 0


# --- threads --------------------------------------------------------------------------------------


def test_threads_share_a_router(router: Router) -> None:
    def work(number: int) -> None:
        workspace = WORKSPACES[number % len(WORKSPACES)]
        for _ in range(20):
            assert router.execute(NOTES, workspace=workspace).fetchall() == notes(workspace)
            with router.transaction(workspace=workspace) as connection:
                assert connection.execute(NOTES).fetchall() == notes(workspace)

    with ThreadPoolExecutor(8) as pool:
        for future in [pool.submit(work, n) for n in range(16)]:
            future.result()


def test_threads_share_a_connection(router: Router) -> None:
    with router.workspace("acme") as connection, ThreadPoolExecutor(8) as pool:
        futures = [pool.submit(lambda: connection.execute(NOTES).fetchall()) for _ in range(50)]
        assert all(f.result() == notes("acme") for f in futures)


def test_a_closed_router_says_so(topology: Topology) -> None:
    router = Router(topology)
    with router.workspace("ws1") as connection:
        pass
    with pytest.raises(ShardError) as refused:
        connection.execute(NOTES)
    assert refused.value.code == "PS643"
    router.close()
    router.close()
    with pytest.raises(ShardError) as refused:
        router.execute(NOTES, workspace="ws1")
    assert refused.value.code == "PS643"


def wait_for(condition: Any, seconds: float = 15) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)
