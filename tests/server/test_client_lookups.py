"""Ids of every type, without a workspace: what a router answers, and what one database answers.

Two clusters have the same tables and rows: one whose key is an integer, and one behind row-level
security whose key is a uuid. The oracle is an unsharded database with the same rows.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from decimal import Decimal
from typing import Any
from uuid import UUID

import psycopg
import pytest
from client_world import lasting_world
from protocol import World, layout
from rls_world import Roles, connected, seen_as

from parlant_shard import AsyncRouter, Router, ShardError, Unroutable
from parlant_shard.client.steps import Ask, Run
from parlant_shard.client.sync import Connection
from parlant_shard.router.route import Kind
from parlant_shard.shardmap import ShardMap
from servers import Clusters

pytestmark = pytest.mark.needs(superuser=True)

TYPES = {
    "uuid": "uuid",
    "text": "text",
    "varchar": 'varchar(8) COLLATE "C"',
    "char": "char(6)",
    "bigint": "bigint",
    "integer": "integer",
    "smallint": "smallint",
}
NUMBERS = {"bigint", "integer", "smallint"}
HOMES = (("core", "s1"), ("core", "s1"), ("east", "s2"))  # of the first, second, third workspace
KEYS = {
    "integer": ("1", "22", "333"),
    "uuid": tuple(f"0000000{n}-0000-4000-8000-000000000000" for n in (1, 2, 3)),
}


def present(kind: str, n: int) -> Any:
    """The id of the row of the n-th workspace."""
    if kind == "uuid":
        return f"abcdefab-0000-4000-8000-00000000000{n}"
    return 10 + n if kind in NUMBERS else f"Id{n}"


def ddl(key_type: str) -> str:
    tables = [
        f"CREATE TABLE by_{kind} (id {type_} PRIMARY KEY, workspace_id {key_type} NOT NULL, "
        "note text);"
        for kind, type_ in TYPES.items()
    ]
    links = ", ".join(f"a_{kind} {type_} REFERENCES by_{kind}" for kind, type_ in TYPES.items())
    tables.append(
        "CREATE TABLE child (id uuid PRIMARY KEY DEFAULT gen_random_uuid(), "
        f"workspace_id {key_type} NOT NULL, note text, {links});"
    )
    return "".join(tables)


@dataclass(frozen=True, kw_only=True)
class Typed:
    """A world, how its application connects, and the oracle."""

    world: World
    router: Router
    oracle: psycopg.Connection[Any]
    keys: tuple[str, ...]
    walled: bool

    def put(self, n: int, id_: str, table: str = "by_text") -> None:
        """Write a row of the n-th workspace behind the router's back."""
        server, shard = HOMES[n - 1]
        row = f"VALUES ('{id_}', '{self.keys[n - 1]}', 'new {n}')"
        self.world.execute(f"INSERT INTO {table}_{shard} {row}", server=server)

    def drop(self, n: int, id_: str, table: str = "by_text") -> None:
        server, shard = HOMES[n - 1]
        self.world.execute(f"DELETE FROM {table}_{shard} WHERE id = '{id_}'", server=server)

    def both(self, sql: str, params: Any) -> tuple[Any, Any]:
        return outcome(self.router, sql, params), outcome(self.oracle, sql, params)


def outcome(where: Any, sql: str, params: Any) -> Any:
    try:
        done = where.execute(sql, params)
        rows = sorted(done.fetchall()) if done.description else None
    except psycopg.Error as error:
        return error.sqlstate or type(error).__name__
    return done.rowcount, rows


@pytest.fixture(scope="module", params=["integer", "uuid"])
def typed(
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    clusters: Clusters,
    who: Roles,
) -> Iterator[Typed]:
    keys, walled = KEYS[request.param], request.param == "uuid"
    world = lasting_world(tmp_path_factory.mktemp("typed"), clusters)
    shards = {"s1": list(keys[:2]), "s2": ("east", [keys[2]])}
    wall = {"isolation": {"rls": True, "role": who.application}, "lookup": "trusted"}
    what = layout(shards, ddl=ddl(request.param), **(wall if walled else {}))
    world.apply(what)
    dsn = clusters.get(0).new_database("oracle", keep=True)
    with psycopg.connect(dsn, autocommit=True) as oracle:
        oracle.execute(ddl(request.param))  # type: ignore[call-overload]
        for n, (key, (server, shard)) in enumerate(zip(keys, HOMES, strict=True), 1):
            for kind in TYPES:
                fill(world, oracle, server, shard, kind, key, n)
        topology = world.load(what)
        topology = seen_as(topology, who.application) if walled else topology
        with Router(topology, max_size=2, timeout=5) as router:
            yield Typed(world=world, router=router, oracle=oracle, keys=keys, walled=walled)


@pytest.fixture
def fresh(typed: Typed) -> Iterator[Router]:
    """Give a router that has seen nothing, with one connection for each server."""
    with Router(typed.router.topology, max_size=1, timeout=3) as router:
        yield router
    for server, shard in HOMES[1:]:
        typed.world.execute(
            f"DELETE FROM child_{shard} WHERE note LIKE 'new%'",
            *(f"DELETE FROM by_{kind}_{shard} WHERE note LIKE 'new%'" for kind in TYPES),
            server=server,
        )


def fill(world: World, oracle: Any, server: str, shard: str, kind: str, key: str, n: int) -> None:
    for suffix, run in (("", oracle.execute), (f"_{shard}", None)):
        row = f"INSERT INTO by_{kind}{suffix} VALUES ('{present(kind, n)}', '{key}', 'row {n}')"
        child = (
            f"INSERT INTO child{suffix} (workspace_id, note, a_{kind}) "
            f"VALUES ('{key}', 'child {n}', '{present(kind, n)}')"
        )
        if run is None:
            world.execute(row, child, server=server)
        else:
            run(row)
            run(child)


STATEMENTS = (
    "SELECT note FROM by_{kind} WHERE id = %s",
    "SELECT count(*) FROM by_{kind} WHERE id = %s",
    "SELECT EXISTS (SELECT 1 FROM by_{kind} WHERE id = %s)",
    "UPDATE by_{kind} SET note = note WHERE id = %s",
    "DELETE FROM by_{kind} WHERE id = %s AND note = 'none'",
    "SELECT note FROM child WHERE a_{kind} = %s",
    "SELECT c.note FROM by_{kind} p JOIN child c ON c.a_{kind} = p.id WHERE p.id = %s",
)


def values(kind: str) -> list[Any]:
    there = [present(kind, n) for n in (1, 2, 3)]
    if kind == "uuid":
        first = there[0]
        spellings = [first.upper(), "{" + first + "}", UUID(first), first.replace("-", "")]
        return [*there, *spellings, first[:-1] + "9", "nonsense", "", 5, "a\0b"]
    if kind in NUMBERS:
        spellings = ["11", " 12 ", "+13", 11.0, Decimal("12.0"), "0x0d"]
        large = [2**15, 2**31, 2**63, 10**30, -(2**70), 1e300, str(2**15), str(2**63)]
        return [*there, *spellings, *large, 7, -11, "nonsense", "", "11.0", True]
    blanks = ["Id1 ", " Id1", "Id1       ", "Id1\u00a0"]
    return [*there, *blanks, "id1", "missing", "much too long for it", "", 5, "a\0b", "\u0661"]


@pytest.mark.parametrize("kind", TYPES)
def test_an_id_of_any_type_is_answered_as_in_one_database(typed: Typed, kind: str) -> None:
    for value in values(kind):
        for text in STATEMENTS:
            sql = text.format(kind=kind)
            for _ in range(2):  # the second time from what was remembered
                ours, theirs = typed.both(sql, [value])
                assert ours == theirs, (sql, value)
    for n in (1, 2, 3):
        assert typed.router.execute(STATEMENTS[0].format(kind=kind), [present(kind, n)]).fetchall()


@pytest.mark.parametrize("kind", TYPES)
def test_an_id_in_the_text_of_a_statement_is_looked_up(typed: Typed, kind: str) -> None:
    for n in (2, 3):
        for literal in (f"'{present(kind, n)}'", f"'{present(kind, n)}'::text"):
            sql = f"SELECT note FROM by_{kind} WHERE id = {literal}"
            assert typed.both(sql, None)[0] == typed.both(sql, None)[1], sql
    if kind in NUMBERS:
        for literal in ("13", "13.0", "99999999999", "'x'"):
            ours, theirs = typed.both(f"SELECT note FROM by_{kind} WHERE id = {literal}", None)
            assert ours == theirs, literal


@pytest.mark.parametrize("kind", TYPES)
def test_a_new_row_finds_its_workspace_by_an_id_of_any_type(typed: Typed, kind: str) -> None:
    sql = f"INSERT INTO child (note, a_{kind}) VALUES ('new', %s) RETURNING note"
    for n in (1, 2, 3):
        with typed.router.transaction() as connection:
            assert connection.execute(sql, [present(kind, n)]).fetchall() == [("new",)]
            route = connection.resolve(
                f"SELECT note FROM child WHERE a_{kind} = %s", [present(kind, n)]
            )
            assert route.workspaces == (typed.keys[n - 1],)
            raise psycopg.Rollback
    absent = {"uuid": present("uuid", 9)}.get(kind, 99 if kind in NUMBERS else "none")
    for value in (absent, "nonsense"):
        with pytest.raises(Unroutable) as refused:
            typed.router.execute(sql, [value])
        assert refused.value.code == "PS625"


@pytest.mark.parametrize("kind", TYPES)
def test_what_cannot_be_compared_before_it_is_sent_is_refused(typed: Typed, kind: str) -> None:
    for value in (b"Id1", [present(kind, 1)], 1.5 if kind in NUMBERS else b""):
        with pytest.raises(Unroutable) as refused:
            typed.router.execute(f"SELECT note FROM by_{kind} WHERE id = %s", [value])
        assert refused.value.code == "PS620"
        assert refused.value.hint is not None
        assert "give the workspace" in refused.value.hint


def test_a_text_that_is_cast_to_something_else_is_not_looked_up(typed: Typed) -> None:
    """'05'::int is 5, and so is '5': equal numbers, and two texts."""
    for sql in (
        "SELECT note FROM by_text WHERE id::int = 5",
        "SELECT note FROM by_text WHERE id = '05'::int::text",
        "SELECT note FROM by_char WHERE id = %s::uuid::text",
        "INSERT INTO child (note, a_text) VALUES ('new', '05'::int::text)",
    ):
        with pytest.raises(Unroutable) as refused:
            typed.router.execute(sql, ["x"] if "%s" in sql else None)
        assert refused.value.code == "PS608", sql


def test_rows_of_two_workspaces_are_never_taken_for_those_of_the_first(typed: Typed) -> None:
    for kind in TYPES:
        one, other = present(kind, 1), present(kind, 3)
        for sql, params in (
            (f"SELECT note FROM by_{kind} WHERE id IN (%s, %s)", [one, other]),
            (f"SELECT note FROM by_{kind} WHERE id = ANY (%s)", [[one, other]]),
            (f"SELECT note FROM by_{kind} WHERE id = ANY (ARRAY[%s, %s])", [one, other]),
            (f"SELECT note FROM by_{kind} WHERE id = %s OR id = %s", [one, other]),
            (f"UPDATE by_{kind} SET note = 'x' WHERE id IN (%s, %s)", [one, other]),
            (
                f"SELECT a.note FROM by_{kind} a, by_{kind} b WHERE a.id = %s AND b.id = %s",
                [one, other],
            ),
        ):
            with pytest.raises(Unroutable) as refused:
                typed.router.execute(sql, params)
            assert refused.value.code == "PS608", sql
        assert typed.router.execute(
            f"SELECT note FROM by_{kind} WHERE id IN (%s)", [other]
        ).fetchall() == [("row 3",)]


def test_an_id_that_is_nowhere_keeps_a_transaction_open_for_any_shard(typed: Typed) -> None:
    for n in (1, 3):
        with typed.router.transaction() as connection:
            assert connection.execute("SELECT note FROM by_text WHERE id = 'none'").fetchall() == []
            assert connection.execute("DELETE FROM by_text WHERE id = 'none'").rowcount == 0
            sql = "UPDATE by_text SET note = note WHERE id = %s"
            assert connection.execute(sql, [present("text", n)]).rowcount == 1
            # And one that has begun goes on where it is.
            assert connection.execute("SELECT note FROM by_bigint WHERE id = 99").fetchall() == []
            assert connection.execute("DELETE FROM by_bigint WHERE id = 99").rowcount == 0
            with connection.transaction(force_rollback=True):
                assert outcome(connection, "SELECT 1 FROM by_uuid WHERE id = 'x'", None) == "22P02"
            assert connection.execute(sql, [present("text", n)]).rowcount == 1


def test_a_batch_goes_on_over_ids_that_are_nowhere(typed: Typed) -> None:
    sql = "UPDATE by_integer SET note = 'row 3' WHERE id = %s"
    done = typed.router.executemany(sql, [[99], [present("integer", 3)], [98]])
    assert done.rowcount == 1
    with typed.router.transaction() as connection:
        connection.execute(sql, [present("integer", 3)])
        assert connection.executemany(sql, [[99], [present("integer", 3)]]).rowcount == 1


def test_both_routers_look_up_every_type(typed: Typed) -> None:
    async def asked() -> list[Any]:
        found = []
        async with AsyncRouter(typed.router.topology, max_size=2) as router:
            for kind in TYPES:
                for value in (present(kind, 1), present(kind, 3), "11111111"):
                    result = (
                        await router.execute(
                            f"SELECT note FROM by_{kind} WHERE id = %s::text", [str(value)]
                        )
                        if kind in {"text", "varchar", "char"}
                        else await router.execute(
                            f"SELECT note FROM by_{kind} WHERE id = %s", [present(kind, 3)]
                        )
                    )
                    found += await result.fetchall()
        return found

    assert (
        asyncio.run(asked()) == [("row 3",)] * 3 + [("row 1",), ("row 3",)] * 3 + [("row 3",)] * 9
    )


def test_a_workspace_that_nobody_placed_is_an_error_by_an_id_too(typed: Typed) -> None:
    """The row is there, and its workspace is on no shard of the map."""
    found = typed.router.shard_map.to_data()
    found["shards"]["s2"]["workspaces"] = []
    lost = ShardMap.from_data(found)
    with Router(typed.router.topology, max_size=2, shard_map=lost) as router:
        for sql in (
            "SELECT note FROM by_text WHERE id = %s",
            "SELECT count(*) FROM by_text WHERE id = %s",
            "DELETE FROM by_text WHERE id = %s",
            "INSERT INTO child (note, a_text) VALUES ('new', %s)",
        ):
            for _ in range(2):
                with pytest.raises(Unroutable) as refused:
                    router.execute(sql, [present("text", 3)])
                assert refused.value.code == "PS609", sql
        assert router.execute("SELECT note FROM by_text WHERE id = 'Id1'").fetchall()


def test_a_map_of_an_older_release_looks_up_uuids_alone(typed: Typed) -> None:
    """Behind row-level security its servers have functions for uuids alone."""
    data = typed.router.shard_map.to_data()
    del data["lookup_types"]
    old = ShardMap.from_data(data)
    with Router(typed.router.topology, max_size=2, shard_map=old) as router:
        assert router.execute(
            "SELECT note FROM by_uuid WHERE id = %s", [present("uuid", 3)]
        ).fetchall() == [("row 3",)]
        route = router.route("SELECT note FROM by_text WHERE id = 'Id1'")
        assert (route.kind, route.code) == (Kind.REFUSED, "PS608")


def test_a_function_takes_the_type_of_its_column(typed: Typed, who: Roles) -> None:
    names = typed.world.rows(
        "SELECT p.oid::regprocedure::text FROM pg_proc p WHERE proname LIKE 'workspace_of%' "
        "AND prosecdef ORDER BY 1"
    )
    if not typed.walled:
        assert names == []
        return
    expected = {"varchar": "character varying", "char": "character"}
    assert {name for (name,) in names} == {
        "parlant_shard.workspace_of_child__id(uuid)",
        *(
            f"parlant_shard.workspace_of_by_{kind}__id({expected.get(kind, kind)})"
            for kind in TYPES
        ),
    }
    with connected(typed.world, who.application) as app:
        ask = "SELECT parlant_shard.workspace_of_by_text__id('Id2')"
        assert app.execute(ask).fetchall() == [(typed.keys[1],)]  # type: ignore[call-overload]


# --- what is remembered ---------------------------------------------------------------------------

SEEN = "SELECT note FROM by_text WHERE id = %s"
MOVED = {
    "SELECT note FROM by_text WHERE id = %s": (1, [("new {n}",)]),
    "SELECT note FROM by_text WHERE id = %s FOR UPDATE": (1, [("new {n}",)]),
    "SELECT note, count(*) FROM by_text WHERE id = %s GROUP BY note": (1, [("new {n}", 1)]),
    "SELECT count(*), max(note) FROM by_text WHERE id = %s": (1, [(1, "new {n}")]),
    "SELECT EXISTS (SELECT 1 FROM by_text WHERE id = %s)": (1, [(True,)]),
    "SELECT (SELECT note FROM by_text WHERE id = %s)": (1, [("new {n}",)]),
    "SELECT note FROM by_text WHERE id = %s UNION ALL SELECT 'end' ORDER BY 1 DESC": (
        2,
        [("end",), ("new {n}",)],
    ),
    "WITH x AS (SELECT note FROM by_text WHERE id = %s) SELECT count(*) FROM x": (1, [(1,)]),
    "UPDATE by_text SET note = note WHERE id = %s": (1, None),
    "UPDATE by_text SET note = note WHERE id = %s RETURNING note": (1, [("new {n}",)]),
    "DELETE FROM by_text WHERE id = %s": (1, None),
    "WITH x AS (DELETE FROM by_text WHERE id = %s RETURNING note) SELECT count(*) FROM x": (
        1,
        [(1,)],
    ),
    "INSERT INTO child (note, a_text) VALUES ('new', %s)": (1, None),
    "INSERT INTO child (note, a_text) SELECT note, id FROM by_text WHERE id = %s": (1, None),
}


@pytest.mark.parametrize("moved", [(1, 2), (1, 3), (3, 1)], ids=["shard", "server", "back"])
def test_a_row_that_is_in_another_workspace_now_is_found_there(
    typed: Typed, fresh: Router, moved: tuple[int, int]
) -> None:
    old, new = moved
    for number, (sql, (count, rows)) in enumerate(MOVED.items()):
        id_ = f"moved {number}"
        typed.put(old, id_)
        assert fresh.execute(SEEN, [id_]).fetchall() == [(f"new {old}",)]
        typed.drop(old, id_)
        typed.put(new, id_)
        if sql.startswith("INSERT") and "SELECT" in sql:
            # Two rows decide, which one look-up cannot tell: refused as before.
            with pytest.raises(Unroutable):
                fresh.execute(sql, [id_])
            continue
        wanted = rows and [
            tuple(str(v).format(n=new) if isinstance(v, str) else v for v in r) for r in rows
        ]
        assert outcome(fresh, sql, [id_]) == (count, wanted), sql
        if sql.startswith("INSERT"):
            server, shard = HOMES[new - 1]
            found = f"SELECT workspace_id::text FROM child_{shard} WHERE a_text = '{id_}'"
            assert typed.world.rows(found, server=server) == [(typed.keys[new - 1],)]


def test_a_transaction_does_not_begin_where_a_row_was(typed: Typed, fresh: Router) -> None:
    """Its first statement says which shard it belongs to, and what is remembered may be wrong."""
    for number, sql in enumerate(s for s in MOVED if s.startswith(("SELECT", "UPDATE", "DELETE"))):
        id_ = f"begun {number}"
        typed.put(1, id_)
        assert fresh.execute(SEEN, [id_]).fetchall() == [("new 1",)]
        typed.drop(1, id_)
        typed.put(3, id_)
        with fresh.transaction() as connection:
            connection.execute(sql, [id_])
            found = connection.execute(SEEN, [id_]).fetchall()
            assert found == [] if sql.startswith("DELETE") else len(found) == 1, sql


def test_many_sets_of_parameters_follow_rows_that_moved(typed: Typed, fresh: Router) -> None:
    for id_ in ("many 1", "many 2"):
        typed.put(1, id_)
        assert fresh.execute(SEEN, [id_]).rowcount == 1
        typed.drop(1, id_)
        typed.put(3, id_)
    sets = [["many 1"], ["many 2"], ["many 1"]]
    assert fresh.executemany("UPDATE by_text SET note = note WHERE id = %s", sets).rowcount == 3
    sql = "INSERT INTO child (note, a_text) VALUES ('new', %s)"
    assert fresh.executemany(sql, sets).rowcount == 3


def test_cursors_on_the_server_and_copies_follow_a_row_that_moved(
    typed: Typed, fresh: Router
) -> None:
    typed.put(1, "streamed")
    assert fresh.execute(SEEN, ["streamed"]).rowcount == 1
    typed.drop(1, "streamed")
    typed.put(3, "streamed")
    with fresh.transaction() as connection, connection.cursor("c") as cursor:
        cursor.execute(SEEN, ["streamed"])
        assert cursor.fetchall() == [("new 3",)]
    typed.drop(3, "streamed")
    typed.put(1, "streamed")
    with fresh.copy("COPY (SELECT note FROM by_text WHERE id = 'streamed') TO STDOUT") as copy:
        assert b"".join(copy) == b"new 1\n"


@pytest.fixture
def commands(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Note what connections are told to do: each statement, and how many servers are asked."""
    noted: list[str] = []
    carry_out = Connection._carry_out

    def note(self: Connection, command: Any) -> Any:
        if isinstance(command, Run):
            noted.append("run")
        elif isinstance(command, Ask):
            noted.append(f"{command.by} {len(command.on)}")
        return carry_out(self, command)

    monkeypatch.setattr(Connection, "_carry_out", note)
    return noted


def test_a_remembered_id_costs_nothing_while_it_yields_rows(
    typed: Typed, fresh: Router, commands: list[str]
) -> None:
    typed.put(3, "known")

    def told(sql: str) -> list[str]:
        commands.clear()
        fresh.execute(sql, ["known"])
        return list(commands)

    assert told(SEEN) == ["pools 2", "run"]
    for sql in (
        SEEN,
        "UPDATE by_text SET note = note WHERE id = %s",
        "SELECT note FROM by_text WHERE id = %s ORDER BY note LIMIT 1 FOR UPDATE",
        "SELECT note, count(*) FROM by_text WHERE id = %s GROUP BY note",
    ):
        assert told(sql) == ["run"], sql
    # Nothing may mean that the row is elsewhere: its own server says that it is not.
    assert told("SELECT note FROM child WHERE a_text = %s") == ["run", "pools 1"]
    # An answer that would look the same without the row, and a new row: asked before.
    for sql in (
        "SELECT count(*) FROM by_text WHERE id = %s",
        "SELECT max(note) FROM by_text WHERE id = %s HAVING count(*) > 0",
        "SELECT note FROM by_text WHERE id = %s GROUP BY GROUPING SETS ((note), ())",
        "SELECT EXISTS (SELECT 1 FROM by_text WHERE id = %s)",
        "INSERT INTO child (note, a_text) VALUES ('new', %s)",
    ):
        assert told(sql) == ["pools 1", "run"], sql
    assert told("DELETE FROM child WHERE a_text = %s") == ["run"]
    assert told("DELETE FROM by_text WHERE id = %s") == ["pools 2", "run"]
    assert len(fresh.core.cache) == 0
    assert told(SEEN) == ["pools 2", "run"]


def test_what_only_a_transaction_saw_is_not_remembered(typed: Typed, fresh: Router) -> None:
    insert = "INSERT INTO by_text (id, workspace_id, note) VALUES (%s, %s, 'new 1')"
    with fresh.transaction() as connection:
        connection.execute(insert, ["fleeting", typed.keys[0]])
        for _ in range(2):
            assert connection.execute(SEEN, ["fleeting"]).fetchall() == [("new 1",)]
            assert connection.execute(SEEN + " AND note > ''", ["fleeting"]).rowcount == 1
        with connection.transaction(force_rollback=True):
            connection.execute(insert, ["inner", typed.keys[0]])
            assert connection.execute(SEEN, ["inner"]).fetchall() == [("new 1",)]
        typed.put(2, "inner")
        assert connection.execute(SEEN, ["inner"]).fetchall() == [("new 2",)]
        assert len(fresh.core.cache) == 0
        raise psycopg.Rollback
    typed.put(3, "fleeting")
    assert fresh.execute(SEEN, ["fleeting"]).fetchall() == [("new 3",)]


def test_a_transaction_follows_what_it_deletes_and_inserts_again(
    typed: Typed, fresh: Router
) -> None:
    typed.put(1, "again")
    assert fresh.execute(SEEN, ["again"]).rowcount == 1
    with fresh.transaction() as connection:
        assert connection.execute("DELETE FROM by_text WHERE id = 'again'").rowcount == 1
        assert connection.execute(SEEN, ["again"]).fetchall() == []
        connection.execute(
            "INSERT INTO by_text (id, workspace_id, note) VALUES ('again', %s, 'new 1')",
            [typed.keys[0]],
        )
        assert connection.execute(SEEN, ["again"]).fetchall() == [("new 1",)]
        with connection.pipeline():
            later = [connection.execute(SEEN, [id_]) for id_ in ("again", "Id1", "none")]
        assert [r.fetchall() for r in later] == [[("new 1",)], [("row 1",)], []]


# --- one id, two rows -----------------------------------------------------------------------------


def test_an_id_of_two_workspaces_is_refused_by_whatever_statement(
    typed: Typed, fresh: Router
) -> None:
    for n in (1, 3):
        typed.put(n, "twin")
    for sql in MOVED:
        with pytest.raises(Unroutable) as refused:
            fresh.execute(sql, ["twin"])
        assert refused.value.code in {"PS626", "PS608"}, sql
        assert (refused.value.code == "PS608") == ("SELECT note, id" in sql)
    assert len(fresh.core.cache) == 0


def test_what_is_remembered_hides_no_second_row_once_the_first_is_gone(
    typed: Typed, fresh: Router
) -> None:
    for sql, (count, rows) in MOVED.items():
        if "SELECT note, id" in sql:
            continue
        typed.put(1, "shadow")
        assert fresh.execute(SEEN, ["shadow"]).rowcount == 1
        typed.put(3, "shadow")
        typed.drop(1, "shadow")
        wanted = rows and [
            tuple(str(v).format(n=3) if isinstance(v, str) else v for v in r) for r in rows
        ]
        assert outcome(fresh, sql, ["shadow"]) == (count, wanted), sql
        typed.world.execute("DELETE FROM child_s2 WHERE note = 'new'", server="east")
        typed.drop(3, "shadow")


def test_within_a_transaction_the_row_of_its_own_server_counts(typed: Typed, fresh: Router) -> None:
    for n in (1, 3):
        typed.put(n, "twin")
    for n in (1, 3):
        with fresh.transaction() as connection:
            connection.execute(SEEN, [f"Id{n}"])
            assert connection.execute(SEEN, ["twin"]).fetchall() == [(f"new {n}",)]
    with pytest.raises(Unroutable) as refused:
        fresh.execute(SEEN, ["twin"])
    assert refused.value.code == "PS626"


# --- transactions and the pool --------------------------------------------------------------------


def test_a_transaction_looks_up_with_the_only_connection_in_use(
    typed: Typed, fresh: Router
) -> None:
    with fresh.transaction() as connection:
        connection.execute("SELECT note FROM by_text WHERE workspace_id = %s", [typed.keys[0]])
        for kind in TYPES:
            sql = f"SELECT note FROM by_{kind} WHERE id = %s"
            assert connection.execute(sql, [present(kind, 1)]).fetchall() == [("row 1",)]
            assert connection.execute(sql, [present(kind, 2)]).fetchall() == [("row 2",)]
            with pytest.raises(Unroutable) as refused:
                connection.execute(sql, [present(kind, 3)])
            assert refused.value.code == "PS632"
            absent = {"uuid": present("uuid", 9)}.get(kind, 99 if kind in NUMBERS else "none")
            assert connection.execute(sql, [absent]).fetchall() == []
        assert connection.execute(SEEN, ["Id1"]).rowcount == 1  # and it has gone on


def everybody_at_once(count: int, work: Callable[[int, threading.Barrier], Any]) -> list[Any]:
    barrier = threading.Barrier(count, timeout=30)
    with ThreadPoolExecutor(count) as threads:
        return list(threads.map(lambda n: work(n, barrier), range(count)))


def test_as_many_transactions_as_the_pool_has_connections_look_up(typed: Typed) -> None:
    count = 4
    with Router(typed.router.topology, max_size=count, timeout=3) as router:

        def work(number: int, barrier: threading.Barrier) -> list[Any]:
            home, other = (1, 3) if number % 2 else (3, 1)
            found = []
            with router.transaction() as connection:
                sql = "SELECT note FROM by_text WHERE workspace_id = %s"
                connection.execute(sql, [typed.keys[home - 1]])
                barrier.wait()
                for kind in TYPES:
                    ask = f"SELECT note FROM by_{kind} WHERE id = %s"
                    found += connection.execute(ask, [present(kind, home)]).fetchall()
                    with pytest.raises(Unroutable) as refused:
                        connection.execute(ask, [present(kind, other)])
                    found.append(refused.value.code)
            return found

        for number, found in enumerate(everybody_at_once(2 * count, work)):
            home = 1 if number % 2 else 3
            assert found == [(f"row {home}",), "PS632"] * len(TYPES)


def test_tasks_in_transactions_look_up_with_every_connection_in_use(typed: Typed) -> None:
    async def work(router: AsyncRouter, home: int, barrier: asyncio.Barrier) -> list[Any]:
        found: list[Any] = []
        async with router.transaction() as connection:
            sql = "SELECT note FROM by_text WHERE workspace_id = %s"
            await connection.execute(sql, [typed.keys[home - 1]])
            await barrier.wait()
            for kind in TYPES:
                ask = f"SELECT note FROM by_{kind} WHERE id = %s"
                result = await connection.execute(ask, [present(kind, home)])
                found += await result.fetchall()
                with pytest.raises(Unroutable) as refused:
                    await connection.execute(ask, [present(kind, 4 - home)])
                found.append(refused.value.code)
            async with connection.pipeline():
                later = [await connection.execute(SEEN, [i]) for i in (f"Id{home}", "none")]
            found += [await r.fetchall() for r in later]
        return found

    async def together() -> list[Any]:
        async with AsyncRouter(typed.router.topology, max_size=2, timeout=3) as router:
            barrier = asyncio.Barrier(4)
            async with asyncio.timeout(60):  # where one fails, the others wait at the barrier
                return await asyncio.gather(*(work(router, home, barrier) for home in (1, 3, 1, 3)))

    for home, found in zip((1, 3, 1, 3), asyncio.run(together()), strict=True):
        assert found == [(f"row {home}",), "PS632"] * len(TYPES) + [[(f"row {home}",)], []]


def test_a_look_up_that_fails_leaves_the_transaction_as_it_was(typed: Typed) -> None:
    """The map has a shard that the server has not (any more)."""
    if typed.walled:
        pytest.skip("behind row-level security a function of the server asks its shards")
    data = typed.router.shard_map.to_data()
    data["shards"]["s9"] = {"server": "core", "workspaces": ["999"], "buckets": []}
    wrong = ShardMap.from_data(data)
    with (
        Router(typed.router.topology, max_size=1, timeout=3, shard_map=wrong) as router,
        router.transaction() as connection,
    ):
        named = "UPDATE by_text SET note = note WHERE workspace_id = %s AND id = 'Id1'"
        assert connection.execute(named, [typed.keys[0]]).rowcount == 1
        with pytest.raises(ShardError) as failed:
            connection.execute(SEEN, ["Id1"])
        assert isinstance(failed.value, psycopg.errors.UndefinedTable)
        assert connection.execute(named, [typed.keys[0]]).rowcount == 1


def test_a_transaction_does_not_wait_for_ever_for_the_look_ups_of_others(typed: Typed) -> None:
    with Router(typed.router.topology, max_size=2, timeout=1) as router:

        def look_up() -> Any:
            with router.transaction() as connection:
                connection.execute(SEEN, ["Id1"])
                try:
                    return connection.execute(SEEN, ["none"]).fetchall()
                except ShardError as error:
                    again = connection.execute(SEEN, ["Id1"]).fetchall()
                    return error.code, again, isinstance(error, psycopg.Error)

        router.execute(SEEN, ["Id1"])
        with typed.world.connect("east") as blocker, ThreadPoolExecutor(2) as threads:
            with blocker.transaction():
                blocker.execute("LOCK TABLE by_text_s2 IN ACCESS EXCLUSIVE MODE")
                first = threads.submit(look_up)
                wait_until_blocked(typed.world)
                assert threads.submit(look_up).result() == ("PS655", [("row 1",)], True)
            assert first.result() == []


def wait_until_blocked(world: World) -> None:
    query = (
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() "
        "AND wait_event_type = 'Lock'"
    )
    deadline = time.monotonic() + 30
    while not world.value(query, server="east"):
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_the_connection_for_look_ups_is_opened_again_when_it_was_lost(
    typed: Typed, fresh: Router
) -> None:
    for _ in range(2):
        with fresh.transaction() as connection:
            connection.execute(SEEN, ["Id1"])
            assert connection.execute(SEEN, ["none"]).fetchall() == []
        # `timeout` makes it wait until the backend is gone.
        typed.world.execute(
            "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity "
            "WHERE datname = current_database() AND pid <> pg_backend_pid() "
            "AND application_name LIKE 'parlant-shard%'",
            server="east",
        )
