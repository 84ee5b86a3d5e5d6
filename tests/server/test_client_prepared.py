"""Prepared statements that the server does not have, or cannot use any more."""

from __future__ import annotations

import asyncio
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import Any

import psycopg
import pytest
from blocking import BOTH, routing
from client_world import DDL, ITEMS, SHARDS, fill, lasting_world
from protocol import World, layout
from psycopg import errors
from psycopg.conninfo import make_conninfo
from rls_world import KEYED, Roles, behind, seen_as

from parlant_shard import AsyncRouter, Router, ShardError
from parlant_shard.apply import apply
from parlant_shard.client import prepared
from parlant_shard.topology import Topology
from servers import Clusters

pytestmark = pytest.mark.needs(superuser=True)

NAME = "tests of prepared statements"
NOTES = "SELECT note FROM item WHERE size = %s ORDER BY note"
OTHER = "SELECT count(*) FROM item WHERE size = %s"
WRITE = "UPDATE account SET tint = 'red' WHERE tint = %s"
ACME = [("note 1 of acme",), ("note 2 of acme",)]


@pytest.fixture(scope="module", params=["walled", "open"])
def walled(request: pytest.FixtureRequest) -> bool:
    return bool(request.param == "walled")


@pytest.fixture(scope="module")
def world(
    tmp_path_factory: pytest.TempPathFactory, clusters: Clusters, who: Roles, walled: bool
) -> World:
    found = lasting_world(tmp_path_factory.mktemp("world"), clusters)
    found.apply(layout_of(who, walled))
    fill(found)
    return found


def layout_of(who: Roles, walled: bool, *, changed: bool = False) -> Any:
    """The layout, perhaps with a longer type in one table and a column more in another."""
    ddl = KEYED if walled else DDL
    if changed:
        ddl = ddl.replace("varchar(20)", "varchar(40)").replace(
            "country (id text PRIMARY KEY,", "country (id text PRIMARY KEY, added text,"
        )
    if walled:
        return behind(who, ddl=ddl)
    return layout(SHARDS, ddl=ddl, tables={"country": {"kind": "reference"}})


@pytest.fixture
def topology(world: World, who: Roles, walled: bool) -> Topology:
    return as_application(world.load(layout_of(who, walled)), who, walled)


def as_application(topology: Topology, who: Roles, walled: bool, options: str = "") -> Topology:
    found = seen_as(topology, who.application) if walled else topology
    return found.with_dsns(
        {
            name: make_conninfo(server.dsn or "", options="-c lock_timeout=300")
            for name, server in found.servers.items()
        }
    )


@pytest.fixture(params=BOTH)
def router(request: pytest.FixtureRequest, topology: Topology) -> Iterator[Any]:
    """A router whose only connection to a server is always the same."""
    with routing(request.param, topology, max_size=1, timeout=10, application_name=NAME) as found:
        yield found


def run(router: Any, statement: str = NOTES, value: Any = 0) -> Any:
    result = router.execute(statement, [value], workspace="acme")
    return result.fetchall() if result.description else result.rowcount


def goes_on(router: Any) -> None:
    """Require the statement in a transaction, where it is not sent again; then outside of one."""
    with router.transaction(workspace="acme") as connection:
        assert connection.execute(NOTES, [0]).fetchall() == ACME
    for _ in range(7):
        assert run(router) == ACME


@contextmanager
def locked(world: World, table: str = "item_s2") -> Iterator[None]:
    """Hold a table, so that not even a PREPARE gets past it."""
    with psycopg.connect(world.dsn("east")) as connection:
        connection.execute(f"LOCK TABLE {table} IN ACCESS EXCLUSIVE MODE")
        yield
        connection.rollback()


def backends(world: World) -> list[Any]:
    return (
        world.connect("east")
        .execute(
            "SELECT pid FROM pg_stat_activity WHERE application_name = %s "
            "AND datname = current_database()",
            [NAME],
        )
        .fetchall()
    )


# --- a PREPARE that failed ------------------------------------------------------------------------


def test_a_prepare_that_waits_for_a_lock_in_vain_poisons_nothing(router: Any, world: World) -> None:
    for _ in range(5):
        assert run(router) == ACME
    with locked(world), pytest.raises(errors.LockNotAvailable):
        run(router)
    goes_on(router)


def test_a_write_whose_prepare_failed_is_sent_again(router: Any, world: World) -> None:
    for _ in range(5):
        run(router, WRITE, "red")
    with locked(world, "account_s2"), pytest.raises(errors.LockNotAvailable):
        run(router, WRITE, "red")
    for _ in range(7):
        run(router, WRITE, "red")


@pytest.mark.parametrize("read", ["result", "sync", "exit"])
def test_an_error_in_a_pipeline_poisons_nothing(router: Any, world: World, read: str) -> None:
    with router.workspace("acme") as connection:
        for _ in range(5):
            connection.execute(NOTES, [0])
        # Whichever call comes to read the answer of the first raises its error.
        with suppress(errors.DivisionByZero), connection.pipeline() as pipeline:
            connection.execute("SELECT 1 / %s::int FROM item", [0])
            later = connection.execute(NOTES, [0])  # prepared behind the error: never parsed
            if read == "result":
                with pytest.raises(psycopg.Error):
                    later.fetchall()
            elif read == "sync":
                with pytest.raises(errors.DivisionByZero) as refused:
                    pipeline.sync()
                assert isinstance(refused.value, ShardError)
    goes_on(router)


def test_after_an_error_and_a_sync_the_pipeline_goes_on(router: Any) -> None:
    with router.workspace("acme") as connection:
        for _ in range(5):
            connection.execute(NOTES, [0])
        with connection.pipeline() as pipeline:
            seen: list[Any] = []
            for step in (
                lambda: connection.execute("SELECT 1 / %s::int FROM item", [0]),
                lambda: connection.execute(NOTES, [0]),
                pipeline.sync,
                pipeline.sync,
            ):
                try:
                    step()
                except psycopg.Error as error:
                    seen.append(error)
            assert any(isinstance(error, errors.DivisionByZero) for error in seen)
            assert all(isinstance(error, ShardError) for error in seen)
            assert connection.execute(NOTES, [0]).fetchall() == ACME
    goes_on(router)


def test_what_a_pipeline_did_not_run_says_so(router: Any) -> None:
    results = []

    def failing() -> None:
        with router.workspace("acme") as connection, connection.pipeline() as pipeline:
            results.append(connection.execute("SELECT 1 / %s::int FROM item", [0]))
            results.append(connection.execute(NOTES, [0]))
            pipeline.sync()

    with pytest.raises(errors.DivisionByZero):
        failing()
    for result in results:
        with pytest.raises(psycopg.Error) as refused:
            result.fetchall()
        error: Any = refused.value
        assert error.code == "PS640"
        assert error.hint.startswith("this statement did not happen")


def test_a_batch_that_failed_poisons_nothing(router: Any, world: World) -> None:
    def batch() -> None:
        router.executemany(WRITE, [["red"], ["red"]], workspace="acme")

    with locked(world, "account_s2"), pytest.raises(errors.LockNotAvailable):
        batch()
    with router.workspace("acme") as connection, connection.pipeline():
        pass
    with router.transaction(workspace="acme") as connection:
        with (
            suppress(errors.LockNotAvailable),
            locked(world, "account_s2"),
            connection.transaction(),
        ):
            connection.executemany(WRITE, [["red"], ["red"]])
        connection.executemany(WRITE, [["red"], ["red"]])
    batch()


def test_a_statement_timeout_poisons_nothing(topology: Topology, world: World) -> None:
    slow = topology.with_dsns(
        {
            name: make_conninfo(server.dsn or "", options="-c statement_timeout=300")
            for name, server in topology.servers.items()
        }
    )
    for which in BOTH:
        with routing(which, slow, max_size=1) as router:
            for _ in range(5):
                assert run(router) == ACME
            with locked(world), pytest.raises(errors.QueryCanceled):
                run(router)
            goes_on(router)


def patient(topology: Topology) -> Topology:
    return topology.with_dsns(
        {
            name: make_conninfo(server.dsn or "", options="-c lock_timeout=20s")
            for name, server in topology.servers.items()
        }
    )


def waits(world: World) -> bool:
    return bool(
        world.value(
            "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' "
            f"AND application_name = '{NAME}' AND datname = current_database()",
            server="east",
        )
    )


def until_it_waits(world: World) -> None:
    deadline = time.monotonic() + 20
    while not waits(world):
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.mark.parametrize("pipeline", [False, True])
def test_ctrl_c_poisons_nothing(topology: Topology, world: World, pipeline: bool) -> None:
    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    def press() -> None:
        until_it_waits(world)
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGUSR1)

    def waiting(router: Router) -> None:
        with router.workspace("acme") as connection:
            if pipeline:
                with connection.pipeline():
                    connection.execute(NOTES, [0]).fetchall()
            connection.execute(NOTES, [0])

    before = signal.signal(signal.SIGUSR1, interrupt)
    try:
        with Router(patient(topology), max_size=1, application_name=NAME) as router:
            for _ in range(5):
                assert run(router) == ACME
            thread = threading.Thread(target=press)
            with locked(world):
                thread.start()
                with pytest.raises(KeyboardInterrupt):
                    waiting(router)
                thread.join()
            goes_on(router)
    finally:
        signal.signal(signal.SIGUSR1, before)


@pytest.mark.parametrize("pipeline", [False, True])
def test_a_cancelled_task_poisons_nothing(topology: Topology, world: World, pipeline: bool) -> None:
    async def work() -> None:
        async with AsyncRouter(patient(topology), max_size=1, application_name=NAME) as router:

            async def once() -> None:
                result = await router.execute(NOTES, [0], workspace="acme")
                assert await result.fetchall() == ACME

            async def waiting() -> None:
                async with router.workspace("acme") as connection:
                    if pipeline:
                        async with connection.pipeline():
                            result = await connection.execute(NOTES, [0])
                            await result.fetchall()
                    await connection.execute(NOTES, [0])

            for _ in range(5):
                await once()
            with locked(world):
                task = asyncio.create_task(waiting())
                await asyncio.to_thread(until_it_waits, world)
                task.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await task
            async with router.transaction(workspace="acme") as connection:
                result = await connection.execute(NOTES, [0])  # not sent again here
                assert await result.fetchall() == ACME
            for _ in range(7):
                await once()

    asyncio.run(work())


# --- statements that the server lost --------------------------------------------------------------


@contextmanager
def lost(router: Any, statement: str = NOTES) -> Iterator[None]:
    """Have a statement prepared, and the server forget it behind psycopg's back."""
    for _ in range(6):
        run(router, statement)
    with router.workspace("acme") as connection:
        connection.execute("SELECT 1 FROM item")
        real = connection._real[1]
        real.pgconn.exec_(b"DEALLOCATE ALL")
        assert prepared.believed(real)
    yield


def test_a_statement_that_the_server_lost_is_sent_again(router: Any) -> None:
    with lost(router):
        for _ in range(7):
            assert run(router) == ACME


def test_within_a_transaction_a_lost_statement_is_an_error_once(router: Any) -> None:
    with lost(router):
        with (
            pytest.raises(errors.InvalidSqlStatementName) as refused,
            router.transaction(workspace="acme") as connection,
        ):
            connection.execute(NOTES, [0])
        assert refused.value.code == "PS649"
        assert refused.value.hint.startswith(
            "the statement did not happen; run the transaction again"
        )
        assert "if this error repeats" in refused.value.hint
        for _ in range(7):
            with router.transaction(workspace="acme") as connection:
                assert connection.execute(NOTES, [0]).fetchall() == ACME


def test_after_a_savepoint_the_transaction_goes_on(router: Any) -> None:
    with lost(router), router.transaction(workspace="acme") as connection:
        for expected in (True, False):
            failed = False
            try:
                with connection.transaction():
                    assert connection.execute(NOTES, [0]).fetchall() == ACME
            except errors.InvalidSqlStatementName:
                failed = True
            assert failed <= expected


def test_a_batch_of_a_lost_statement_is_sent_again(router: Any) -> None:
    rows = [["red"], ["red"]]
    router.executemany(WRITE, rows, workspace="acme")
    with lost(router):
        router.executemany(WRITE, rows, workspace="acme")
        router.executemany(WRITE, rows, workspace="acme")


def test_our_own_queries_are_sent_again_too(router: Any) -> None:
    """The probe of a look-up, the setting of row-level security, and what a COPY asks."""

    def all_of_them() -> None:
        for item in (ITEMS["acme"][0], "99999999-0000-0000-0000-000000000000"):
            router.execute("SELECT note FROM item WHERE id = %s", [item])
        with router.workspace("acme") as connection:
            with connection.copy("COPY account (name) FROM STDIN") as copy:
                copy.write_row(["copied"])
            with connection.copy("COPY account (name) TO STDOUT") as copy:
                assert len(list(copy)) == 2
            assert connection.execute("DELETE FROM account WHERE name = 'copied'").rowcount == 1

    for _ in range(7):
        all_of_them()
    with lost(router):
        all_of_them()


def test_every_prepared_statement_works_after_one_was_lost(topology: Topology) -> None:
    """Also with a threshold of 0: what is closed is never what was just prepared."""
    for which in BOTH:
        with routing(which, topology, max_size=1, prepare_threshold=0) as router, lost(router):
            for _ in range(3):
                assert run(router) == ACME
                assert run(router, OTHER) == [(2,)]
            with router.transaction(workspace="acme") as connection:
                for _ in range(3):
                    assert connection.execute(NOTES, [0]).fetchall() == ACME
                    assert connection.execute(OTHER, [0]).fetchone() == (2,)


# --- a schema that changes under it ---------------------------------------------------------------


ALL = "SELECT * FROM item WHERE size = %s"
REFERENCE = "SELECT * FROM country WHERE name IS NULL OR name <> %s"
RETURNING = "UPDATE item SET size = 0 WHERE size = %s RETURNING *"
NEW = "INSERT INTO item (account_id, note) SELECT id, %s FROM account RETURNING *"
EVERY = "SELECT * FROM item WHERE size = %s AND workspace_id IN ('acme', 'globex')"


def in_a_batch(router: Any) -> list[Any]:
    many = router.executemany(RETURNING, [[0], [0]], workspace="acme", returning=True)
    return list(many.fetchall())


def in_a_pipeline(router: Any) -> list[Any]:
    with router.workspace("acme") as connection, connection.pipeline():
        result = connection.execute(ALL, [0])
    return list(result.fetchall())


def in_a_transaction(router: Any) -> list[Any]:
    found = []
    for text in (ALL, RETURNING, ALL + " ORDER BY id"):
        with router.transaction(workspace="acme") as connection:
            found += connection.execute(text, [0]).fetchall()
    return found


def in_a_cursor(router: Any) -> list[Any]:
    run(router, ALL)
    with router.transaction(workspace="acme") as connection, connection.cursor("big") as cursor:
        cursor.execute(ALL, [0])
        return list(cursor.fetchall())


def copied(router: Any) -> list[bytes]:
    text = "COPY (SELECT * FROM item WHERE size = 0) TO STDOUT"
    with router.workspace("acme") as connection, connection.copy(text) as copy:
        return b"".join(bytes(block) for block in copy).splitlines()


# What is done, and how many rows it gives, before and after.
WAYS: dict[str, tuple[Any, int]] = {
    "a read": (lambda router: run(router, ALL), 2),
    "a reference table": (lambda router: run(router, REFERENCE, "none"), 0),
    "an update": (lambda router: run(router, RETURNING), 2),
    "an insert": (lambda router: run(router, NEW, "returned"), 1),
    "a batch": (in_a_batch, 4),
    "a cursor": (in_a_cursor, 2),
    "a copy": (copied, 2),
    "several servers": (lambda router: router.execute(EVERY, [0]).fetchall(), 4),
    "a pipeline": (in_a_pipeline, 2),
    "a transaction": (in_a_transaction, 6),
}


def clean(world: World) -> int:
    """Take away the rows that were inserted; say how many they were."""
    found = world.value("SELECT count(*) FROM item_s2 WHERE note = 'returned'", server="east")
    world.execute("DELETE FROM item_s2 WHERE note = 'returned'", server="east")
    return int(found)


@pytest.fixture(scope="module")
def live(world: World, who: Roles, walled: bool) -> Iterator[dict[tuple[str, str], Any]]:
    """Give routers that prepared something before our own `apply` changed the tables.

    A column of `item` gets longer, and one comes to `country`. Each way has a router of its own:
    the first error on a connection is the last.
    """
    topology = as_application(world.load(layout_of(who, walled)), who, walled)
    with ExitStack() as stack:
        routers = {}
        for which in BOTH:
            for way, (work, count) in WAYS.items():
                if walled and way == "several servers":
                    continue  # row-level security admits one workspace at a time
                router = stack.enter_context(routing(which, topology, max_size=1))
                routers[which, way] = router
                for _ in range(7):
                    assert len(work(router)) == count
                clean(world)
        apply(world.load(layout_of(who, walled, changed=True)))
        yield routers


@pytest.mark.parametrize("way", [w for w in WAYS if w not in {"a pipeline", "a transaction"}])
@pytest.mark.parametrize("which", BOTH)
def test_outside_of_transactions_nothing_fails_after_our_own_apply(
    live: dict[tuple[str, str], Any], world: World, which: str, way: str
) -> None:
    if (which, way) not in live:
        pytest.skip("row-level security admits one workspace at a time")
    work, count = WAYS[way]
    for _ in range(7):
        assert len(work(live[which, way])) == count
    assert clean(world) == (7 if way == "an insert" else 0)


@pytest.mark.parametrize("way", ["a pipeline", "a transaction"])
@pytest.mark.parametrize("which", BOTH)
def test_where_it_cannot_be_sent_again_it_fails_once_for_a_connection(
    live: dict[tuple[str, str], Any], which: str, way: str
) -> None:
    work, count = WAYS[way]
    failures = []
    for _ in range(9):
        try:
            assert len(work(live[which, way])) == count
        except errors.FeatureNotSupported as error:
            failures.append(error)
    assert [getattr(e, "code", None) for e in failures] == ["PS649"]
    again = "run it again" if way == "a pipeline" else "run the transaction again"
    assert again in str(getattr(failures[0], "hint", ""))


def test_other_features_that_are_not_supported_are_errors_as_ever(router: Any) -> None:
    with pytest.raises(errors.FeatureNotSupported) as refused:
        run(router, "SELECT DISTINCT note FROM item WHERE size = %s FOR SHARE")
    assert refused.value.code == "PS640"


# --- what is touched of psycopg -------------------------------------------------------------------


def test_psycopg_keeps_its_names_where_we_look_for_them(world: World) -> None:
    """`prepared` reads and empties what psycopg believes: an internal, the same in all of 3.x."""
    with psycopg.connect(world.dsn("core"), autocommit=True) as connection:
        count = "SELECT count(*) FROM pg_prepared_statements"
        assert prepared.believed(connection) == frozenset()
        first = connection.execute("SELECT 1", prepare=True)
        names = prepared.believed(connection)
        assert len(names) == 1
        connection.execute("SELECT 2", prepare=True)
        assert connection.execute(count).fetchone() == (2,)
        prepared.forget(connection, but=names)
        assert prepared.believed(connection) == names
        connection.execute("SELECT 3")  # psycopg closes the other one behind this
        if psycopg.capabilities.has_send_close_prepared():
            assert connection.execute(count).fetchone() == (1,)
        prepared.forget(connection)
        assert prepared.believed(connection) == frozenset()
        assert first.fetchone() == (1,)
        assert connection.execute("SELECT 1", prepare=True).fetchone() == (1,)
