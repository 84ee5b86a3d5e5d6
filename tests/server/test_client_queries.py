"""What may be given as a query or workspace, and the errors of what was never sent."""

from __future__ import annotations

import asyncio
import enum
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from blocking import BOTH, routing
from client_world import ITEMS, TWO_SERVERS, applied, fill, lasting_world
from protocol import World
from psycopg import sql
from psycopg.types.string import TextLoader

from parlant_shard import AsyncRouter, Router, ShardError, ShardMap, Unroutable, rewrite
from parlant_shard.cli import run
from parlant_shard.client import steps
from parlant_shard.topology import Topology
from servers import Clusters

NOTES = "SELECT note FROM item WHERE size = %s ORDER BY note"
ACME = [("note 1 of acme",), ("note 2 of acme",)]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, clusters: Clusters) -> World:
    found = lasting_world(tmp_path_factory.mktemp("world"), clusters)
    applied(found)
    fill(found)
    return found


@pytest.fixture(scope="module")
def topology(world: World) -> Topology:
    return world.load(TWO_SERVERS)


@pytest.fixture(params=BOTH)
def router(request: pytest.FixtureRequest, topology: Topology) -> Iterator[Any]:
    with routing(request.param, topology, max_size=2, timeout=5) as found:
        yield found


@pytest.fixture(scope="module")
def shard_map(topology: Topology) -> ShardMap:
    with Router(topology) as router:
        return router.shard_map


# --- the forms of a query -------------------------------------------------------------------------

COMPOSED = sql.SQL("SELECT {} FROM {} WHERE size = {} ORDER BY 1").format(
    sql.Identifier("note"), sql.Identifier("item"), sql.Placeholder()
)


@pytest.mark.parametrize(
    "query", [NOTES.encode(), COMPOSED, sql.SQL(NOTES)], ids=["bytes", "composed", "SQL"]
)
def test_bytes_and_composed_queries_run_as_text_does(router: Any, query: Any) -> None:
    assert router.route(query, [0], workspace="acme").targets[0].shard == "s2"
    assert router.resolve(query, [0], workspace="acme").targets[0].shard == "s2"
    assert router.execute(query, [0], workspace="acme").fetchall() == ACME
    with router.workspace("acme") as connection:
        assert connection.execute(query, [0]).fetchall() == ACME
        cursor = connection.cursor()
        cursor.execute(query, [0])
        assert cursor.fetchall() == ACME
        with connection.transaction(), connection.cursor("big") as cursor:
            cursor.execute(query, [0])
            assert cursor.fetchall() == ACME


@pytest.mark.parametrize("of", [str.encode, sql.SQL])
def test_batches_and_copies_take_every_form_too(router: Any, of: Any) -> None:
    update = of("UPDATE item SET size = %s WHERE size = %s")
    assert router.executemany(update, [[0, 0], [0, 0]], workspace="acme").rowcount == 4
    with router.copy(of("COPY account (name) FROM STDIN"), workspace="acme") as copy:
        copy.write_row(["copied"])
    with router.copy(of("COPY account (name) TO STDOUT"), workspace="acme") as copy:
        assert b"copied\n" in [bytes(block) for block in copy]
    gone = router.execute(of("DELETE FROM account WHERE name = 'copied'"), workspace="acme")
    assert gone.rowcount == 1


def test_literals_of_a_composed_query_are_what_they_were(router: Any) -> None:
    for value in ("it's", "a\\b", 'q"uote', "Ünïcode 🦜", "100%", None, 7, [1, 2]):
        query = sql.SQL("SELECT {} FROM item LIMIT 1").format(sql.Literal(value))
        assert router.execute(query, workspace="acme").fetchone() == (value,)


def test_the_pure_function_takes_every_form(shard_map: ShardMap) -> None:
    for query in (NOTES, NOTES.encode(), sql.SQL(NOTES), sql.Composed([sql.SQL(NOTES)])):
        route = rewrite(query, shard_map=shard_map, workspace="acme", params=[0])
        assert route.targets[0].server == "east"


@pytest.mark.parametrize(
    ("query", "words"),
    [
        (None, "a query cannot be of type NoneType"),
        (7, "a query cannot be of type int"),
        (b"SELECT '\xff'", "the query is not UTF-8"),
        (sql.SQL("SELECT {}").format(sql.Literal(object())), "cannot be rendered"),
    ],
    ids=["None", "int", "latin", "unknown value"],
)
def test_what_has_no_text_is_refused(router: Any, query: Any, words: str) -> None:
    calls = [
        lambda: router.execute(query, workspace="acme"),
        lambda: router.executemany(query, [[]], workspace="acme"),
        lambda: router.copy(query, workspace="acme").__enter__(),
    ]
    for call in calls:
        with pytest.raises(Unroutable, match=words) as refused:
            call()
        assert refused.value.code == "PS646"
    assert router.route(query).code == "PS646"


# --- the workspace --------------------------------------------------------------------------------


class Named(str, enum.Enum):  # noqa: UP042 - the very kind whose text is not its value
    ACME = "acme"


class Labelled(str, enum.Enum):  # noqa: UP042 - psycopg sends its text, whatever its value is
    ACME = ("acme", "globex")

    def __new__(cls, code: str, label: str) -> Labelled:
        found = str.__new__(cls, code)
        found._value_ = label
        return found


class Printed(str):
    """Prints another text than it is; psycopg sends the text that it is."""

    __slots__ = ()

    def __str__(self) -> str:
        return "globex"


class Pure(enum.Enum):
    ACME = "acme"


@pytest.mark.parametrize("workspace", [Labelled.ACME, Printed("acme")], ids=["enum", "subclass"])
def test_a_workspace_is_the_text_that_is_sent(router: Any, workspace: str) -> None:
    """What is bound beside it in the statement is the same workspace."""
    named = "SELECT name FROM account WHERE workspace_id = %s"
    assert router.execute(named, [workspace]).fetchall() == [("of acme",)]
    assert router.execute(named, [workspace], workspace="acme").fetchall() == [("of acme",)]
    assert router.execute(NOTES, [0], workspace=workspace).fetchall() == ACME
    with pytest.raises(Unroutable) as refused:
        router.execute(named, [workspace], workspace="globex")
    assert refused.value.code == "PS610"


def test_a_text_with_a_name_is_the_workspace_of_its_value(router: Any) -> None:
    assert router.execute(NOTES, [0], workspace=Named.ACME).fetchall() == ACME
    with router.workspace(Named.ACME) as connection:
        assert connection.execute(NOTES, [0]).fetchall() == ACME
        with connection.copy("COPY account (name) TO STDOUT") as copy:
            assert b"".join(bytes(block) for block in copy) == b"of acme\n"
    with router.transaction(workspace=Named.ACME) as connection:
        assert connection.execute(NOTES, [0]).fetchall() == ACME
    named = "SELECT name FROM account WHERE workspace_id = %s"
    assert router.execute(named, [Named.ACME]).fetchall() == [("of acme",)]
    assert router.execute(named, [Named.ACME], workspace="acme").fetchall() == [("of acme",)]


@pytest.mark.parametrize("workspace", [Pure.ACME, b"acme", ["acme"]])
def test_a_workspace_of_another_type_is_refused_everywhere(router: Any, workspace: Any) -> None:
    def in_a_transaction() -> None:
        with router.transaction(workspace=workspace) as connection:
            connection.execute(NOTES, [0])

    def in_a_pipeline() -> None:
        with router.workspace(workspace) as connection, connection.pipeline():
            connection.execute(NOTES, [0])

    for call in (
        lambda: router.execute(NOTES, [0], workspace=workspace),
        in_a_transaction,
        in_a_pipeline,
    ):
        with pytest.raises(Unroutable, match="a workspace cannot be of type") as refused:
            call()
        assert refused.value.code == "PS620"


# --- what was never sent --------------------------------------------------------------------------


def test_more_parameters_than_can_be_sent_are_refused_before(router: Any) -> None:
    values = ["x"] * 65_536
    many = f"SELECT note FROM item WHERE note IN ({', '.join(['%s'] * len(values))})"

    def in_a_cursor() -> None:
        with router.transaction(workspace="acme") as connection:
            connection.cursor("big").execute(many, values)

    for call in (
        lambda: router.execute(many, values, workspace="acme"),
        lambda: router.execute(many, values),
        lambda: router.executemany(many, [values], workspace="acme"),
        in_a_cursor,
    ):
        with pytest.raises(Unroutable, match="65,536 parameters") as refused:
            call()
        assert refused.value.code == "PS647"
        assert refused.value.hint.startswith("nothing was sent")


def test_the_parameter_that_the_router_adds_counts(
    router: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(steps, "_MOST_PARAMETERS", 1)  # else routing them takes half a minute
    with pytest.raises(Unroutable, match="has 2 parameters") as refused:
        router.execute(NOTES, [0], workspace="acme")
    assert refused.value.code == "PS647"
    named = NOTES.replace("%s", "%(size)s")
    with pytest.raises(Unroutable, match="has 2 parameters"):
        router.execute(named, {"size": 0, "other": 1}, workspace="acme")
    with pytest.raises(Unroutable, match="has 2 parameters"):
        router.executemany(NOTES, [[0]], workspace="acme")


def test_names_that_the_text_does_not_use_do_not_count(router: Any) -> None:
    values = {f"n{i}": 0 for i in range(70_000)}
    found = router.execute(NOTES.replace("%s", "%(n7)s"), values, workspace="acme")
    assert found.fetchall() == ACME


def test_what_psycopg_refuses_says_that_nothing_was_sent(router: Any) -> None:
    def in_a_copy() -> None:
        text = "COPY (SELECT note FROM item WHERE note = %s) TO STDOUT"
        router.copy(text, [object()], workspace="acme").__enter__()

    calls = [
        lambda: router.execute(NOTES, [object()], workspace="acme"),
        lambda: router.execute("SELECT note FROM item WHERE note = %s", ["\0"], workspace="acme"),
        in_a_copy,
    ]
    for call in calls:
        with pytest.raises(psycopg.Error) as refused:
            call()
        error: Any = refused.value
        assert (error.code, error.sqlstate) == ("PS646", None)
        assert error.hint == "correct the query or its parameters; nothing was sent"


def test_a_batch_that_psycopg_refuses_is_rolled_back(router: Any, world: World) -> None:
    with pytest.raises(psycopg.Error) as refused:
        router.executemany("UPDATE item SET note = %s", [["changed"], [object()]], workspace="acme")
    error: Any = refused.value
    assert error.code == "PS646"
    assert "log" not in error.hint
    assert world.value("SELECT count(*) FROM item_s2 WHERE note = 'changed'", server="east") == 0


def test_rows_that_python_cannot_hold_are_told_from_what_did_not_happen(
    router: Any, world: World
) -> None:
    text = "UPDATE item SET size = 0 WHERE size = %s RETURNING 'infinity'::timestamp"
    with pytest.raises(psycopg.DataError) as refused:
        router.execute(text, [0], workspace="acme")
    error: Any = refused.value
    assert error.code == "PS648"
    assert "what it changed stays" in str(error)
    assert "cast the column to text" in error.hint
    with router.workspace("acme") as connection:
        with connection.pipeline():
            later = connection.execute(text, [0])
        with pytest.raises(psycopg.DataError) as refused:
            later.fetchall()
        assert getattr(refused.value, "code", None) == "PS648"


@pytest.mark.parametrize(
    "text",
    [
        "COPY (SELECT 1 / size FROM item) TO STDOUT",  # in the middle of the stream
        "COPY (SELECT missing FROM item) TO STDOUT",
        "COPY item (size) FROM STDIN",
    ],
)
def test_errors_of_copy_name_the_server_and_the_shard(router: Any, text: str) -> None:
    def copied() -> None:
        with router.copy(text, workspace="acme") as copy:
            if "FROM STDIN" in text:
                copy.write(b"no number\n")
            else:
                list(copy)

    with pytest.raises(psycopg.Error) as refused:
        copied()
    assert isinstance(refused.value, ShardError)
    assert str(refused.value).startswith('server "east", shard "s2": ')


@pytest.mark.parametrize("read", [False, True])
def test_an_error_of_another_connection_in_a_copy_stays_what_it_is(
    router: Any, world: World, read: bool
) -> None:
    def copied() -> None:
        with (
            psycopg.connect(world.dsn("core")) as other,
            router.copy("COPY account (name) TO STDOUT", workspace="acme") as copy,
        ):
            assert not read or list(copy)
            other.execute("SELECT 1 / 0")

    with pytest.raises(psycopg.errors.DivisionByZero) as refused:
        copied()
    assert not isinstance(refused.value, ShardError)


def test_an_error_of_a_copy_into_a_reference_table_names_the_coordinator(router: Any) -> None:
    def copied() -> None:
        with router.copy("COPY country (id) FROM STDIN") as copy:
            copy.write(b"a\tb\n")

    with pytest.raises(psycopg.errors.BadCopyFileFormat, match=r'^server "core": '):
        copied()


# --- one kind of error ----------------------------------------------------------------------------


def test_a_refusal_is_an_error_of_psycopg(router: Any) -> None:
    with pytest.raises(psycopg.ProgrammingError) as refused:
        router.execute("SELECT * FROM item")
    assert isinstance(refused.value, Unroutable)
    assert refused.value.code == "PS608"
    assert refused.value.sqlstate is None
    assert refused.value.diag.message_primary is None
    assert str(refused.value) == refused.value.route.reason


def test_a_map_that_is_too_old_is_an_error_of_psycopg(topology: Topology) -> None:
    with Router(topology) as router:
        router._maps._confirmed = time.monotonic() - 10_000  # type: ignore[attr-defined]
        with pytest.raises(psycopg.OperationalError) as refused:
            router.execute(NOTES, [0], workspace="acme")
    assert isinstance(refused.value, ShardError)
    assert refused.value.code == "PS631"


# --- what the application tells psycopg -----------------------------------------------------------


class Shouted(TextLoader):
    def load(self, data: Any) -> Any:
        return ["not", "what", "was", "asked", bytes(data)]


@pytest.fixture
def strange_loaders() -> Iterator[None]:
    """What an application may register for all of its process."""
    kinds = ("jsonb", "text", "name", "int8", "uuid")
    types = psycopg.adapters.types
    usual = {
        kind: psycopg.adapters.get_loader(types.get_oid(kind), psycopg.pq.Format.TEXT)
        for kind in kinds
    }
    for kind in kinds:
        psycopg.adapters.register_loader(kind, Shouted)
    yield
    for kind, loader in usual.items():
        assert loader is not None
        psycopg.adapters.register_loader(kind, loader)


def test_loaders_of_the_application_do_not_change_what_we_read(
    topology: Topology, strange_loaders: None
) -> None:
    item = ITEMS["acme"][0]

    async def work() -> None:
        async with AsyncRouter(topology) as router:
            result = await router.execute("SELECT size FROM item WHERE id = %s", [item])
            assert await result.fetchall() == [(0,)]

    asyncio.run(work())
    with Router(topology) as router:
        assert router.execute("SELECT size FROM item WHERE id = %s", [item]).fetchall() == [(0,)]
        # What the application reads is as it wants it.
        row = router.execute("SELECT name FROM account", workspace="acme").fetchone()
        assert row == (["not", "what", "was", "asked", b"of acme"],)


# --- `query` --------------------------------------------------------------------------------------

VALUES = {
    "interval '1 year 2 mons 3 days'": "1 year 2 mons 3 days",
    "interval '-00:00:01'": "-00:00:01",
    "'infinity'::timestamptz": "infinity",
    "'-infinity'::date": "-infinity",
    "'infinity'::timestamp": "infinity",
    "date '0044-03-15 BC'": "0044-03-15 BC",
    "time '24:00'": "24:00:00",
    "ARRAY['infinity'::date]": ["infinity"],
    "date '2026-02-28'": "2026-02-28",
    "timestamp '2026-02-28 01:02:03'": "2026-02-28T01:02:03",
}


def test_query_prints_every_time_that_postgresql_has(
    world: World, topology: Topology, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    for server, dsn in world.dsns.items():
        monkeypatch.setenv(server, dsn)
    file = str(Path(topology.file))
    columns = ", ".join(f"{text} AS c{n}" for n, text in enumerate(VALUES))
    text = f"SELECT {columns} FROM item LIMIT 1"
    assert run(["query", file, text, "--workspace", "acme", "--output", "json"]) == 0
    rows = json.loads(capsys.readouterr().out)["rows"]
    assert list(rows[0].values()) == list(VALUES.values())
    for form in ("text", "csv"):
        assert run(["query", file, text, "--workspace", "acme", "--output", form]) == 0
        out = capsys.readouterr().out
        for value in ("1 year 2 mons 3 days", "-infinity", "0044-03-15 BC"):
            assert value in out
