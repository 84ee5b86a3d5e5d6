"""Full text behind row-level security: the same rows as without, by the index."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psycopg
import pytest
from client_world import SHARDS, lasting_world
from protocol import World, layout
from psycopg import errors
from rls_world import KEYED, SET, Roles, behind, connected, seen_as

from parlant_shard import Router
from parlant_shard.topology import Topology
from servers import Clusters

pytestmark = pytest.mark.needs(superuser=True)

VECTOR = "to_tsvector('english', coalesce(name, ''))"
SEARCH = f"SELECT name FROM account WHERE {VECTOR} @@ plainto_tsquery('english', %s)"
MATCHED = f"{VECTOR} @@ to_tsquery('english', %s) AND name <> 'hidden'"
BESIDE = " AND name <> 'hidden' ORDER BY name"


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, clusters: Clusters, who: Roles) -> World:
    found = lasting_world(tmp_path_factory.mktemp("world"), clusters)
    found.converge(behind(who))
    found.execute(
        "INSERT INTO account_s1 (workspace_id, name) SELECT 'ws' || 1 + i % 2, "
        "CASE WHEN i < 6 THEN 'hidden' ELSE 'red apples and ' || i || ' pears' END "
        "FROM generate_series(1, 400) i",
        "INSERT INTO item_s1 (account_id, note, workspace_id) SELECT id, left(name, 20), "
        "workspace_id FROM account_s1",
        "ANALYZE",
    )
    return found


@pytest.fixture(scope="module")
def topology(world: World, who: Roles) -> Topology:
    return seen_as(world.load(behind(who)), who.application)


@pytest.fixture
def router(topology: Topology) -> Iterator[Router]:
    with Router(topology, max_size=2) as found:
        yield found


@pytest.mark.parametrize(
    ("statement", "params", "expected"),
    [
        (SEARCH + BESIDE, ["apple & 9"], ["red apples and 9 pears"]),
        (SEARCH + BESIDE, ["pears"], 197),
        (SEARCH + BESIDE, ["plums"], []),
        (
            f"SELECT a.name FROM account a JOIN item i ON i.account_id = a.id WHERE (({VECTOR}) @@ "
            "(to_tsquery('english', %(words)s))) AND a.name <> 'hidden' AND i.note LIKE 'red%%'"
            .replace("name, ''", "a.name, ''"),
            {"words": "apple & 11"},
            ["red apples and 11 pears"],
        ),
        (
            "SELECT name FROM public.account x WHERE name <> 'hidden' AND pg_catalog.to_tsvector("
            "'english'::regconfig, COALESCE(x.name::text, ''::varchar)) @@ "
            "phraseto_tsquery('english', $1)",
            ["13 pears"],
            ["red apples and 13 pears"],
        ),
        (
            f"UPDATE account SET tint = 'red' WHERE {VECTOR} @@ to_tsquery('english', %s) "
            "AND name <> 'hidden' RETURNING name",
            ["15"],
            ["red apples and 15 pears"],
        ),
        (
            f"SELECT name FROM account WHERE {VECTOR} @@ to_tsquery('17') AND name <> 'hidden' "
            "FOR UPDATE",
            None,
            ["red apples and 17 pears"],
        ),
    ],
)  # fmt: skip
def test_the_same_rows_by_the_index(
    router: Router, world: World, statement: str, params: object, expected: object
) -> None:
    route = router.route(statement, params, workspace="ws2")  # type: ignore[arg-type]
    assert "match_account_search_idx_s1(" in route.targets[0].sql
    rows = router.execute(statement, params, workspace="ws2").fetchall()  # type: ignore[arg-type]
    found = [name for (name,) in rows]
    assert (len(found) if isinstance(expected, int) else found) == expected
    # What the server's own policies make of the unchanged condition is the judge.
    if statement.startswith(SEARCH):
        with psycopg.connect(router.topology.servers["core"].dsn or "") as app:
            app.execute(SET, ["ws2"])
            plain = app.execute(statement.replace("account", "account_s1"), params)  # type: ignore[arg-type]
            assert [name for (name,) in plain] == found


@pytest.mark.parametrize(
    ("number", "statement"),
    [
        (21, f"SELECT name FROM account WHERE {MATCHED} FOR UPDATE"),
        (23, f"SELECT name FROM account WHERE {MATCHED} FOR KEY SHARE OF account"),
        (25, f"UPDATE account SET tint = 'red' WHERE {MATCHED} RETURNING name"),
        (27, f"DELETE FROM account WHERE {MATCHED} RETURNING name"),
    ],
    ids=["for update", "for key share", "update", "delete"],
)
def test_a_row_that_changed_while_it_was_waited_for_is_looked_at_again(
    router: Router, world: World, number: int, statement: str
) -> None:
    """The function searched before the lock was there; the condition is asked of the new row."""
    called = f"red apples and {number} pears"
    change = "UPDATE account_s1 SET id = id, name = %s WHERE name = %s"
    waits = (
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() "
        "AND wait_event_type = 'Lock' AND query LIKE '%match_account_search_idx_s1%'"
    )
    with world.connect() as other, ThreadPoolExecutor(1) as pool:
        other.execute("BEGIN")
        # FOR KEY SHARE waits for who takes the whole row.
        other.execute("SELECT FROM account_s1 WHERE name = %s FOR UPDATE", [called])
        assert other.execute(change, ["plums", called]).rowcount == 1
        found = pool.submit(
            lambda: router.execute(statement, [str(number)], workspace="ws2").fetchall()
        )
        deadline = time.monotonic() + 20
        while not (found.done() or world.value(waits)):
            assert time.monotonic() < deadline
            time.sleep(0.02)
        other.execute("COMMIT")
        assert found.result(20) == []
        assert other.execute(change, [called, "plums"]).rowcount == 1


@pytest.mark.parametrize(
    "statement",
    [
        SEARCH,  # without what the index leaves out
        SEARCH.replace("english", "simple") + BESIDE,
        SEARCH.replace("coalesce(name, '')", "name") + BESIDE,
        SEARCH + " OR name <> 'hidden'",
        f"SELECT name FROM account WHERE NOT ({VECTOR} @@ to_tsquery('a')) AND name <> 'hidden'",
        f"SELECT a.name FROM item i LEFT JOIN account a ON a.id = i.account_id "
        f"WHERE {VECTOR} @@ plainto_tsquery('english', 'x') AND a.name <> 'hidden'"
        .replace("name, ''", "a.name, ''"),
        f"SELECT a.name FROM account a, account b WHERE {VECTOR} @@ to_tsquery('x') "
        "AND b.name <> 'hidden'".replace("coalesce(name", "coalesce(a.name"),
        f"SELECT name FROM account WHERE {VECTOR} @@ plainto_tsquery(name) AND name <> 'hidden'",
    ],
)  # fmt: skip
def test_anything_else_stays_as_it_is(router: Router, statement: str) -> None:
    params = ["x"] if "%s" in statement else None
    statement = (
        statement.replace("coalesce(name", "coalesce(a.name")
        if " a, " in statement
        else (statement)
    )
    route = router.route(statement, params, workspace="ws2")
    assert route.targets, route.reason
    assert "match_" not in route.targets[0].sql
    router.execute(statement, params, workspace="ws2")


def test_the_function_gives_keys_of_the_workspace_alone(world: World, who: Roles) -> None:
    call = "SELECT count(*) FROM parlant_shard.match_account_search_idx_s1(to_tsquery('apple'))"
    own = (
        "SELECT count(*) FROM account_s1 WHERE id = ANY (ARRAY(SELECT "
        "parlant_shard.match_account_search_idx_s1(to_tsquery('apple'))))"
    )
    with connected(world, who.application) as app:
        assert app.execute(call).fetchone() == (0,)
        with app.transaction():
            app.execute(SET, ["ws1"])
            assert app.execute(call).fetchone() == app.execute(own).fetchone() != (0,)
            app.execute("SET LOCAL enable_seqscan = off")
            scans = (
                "SELECT idx_scan FROM pg_stat_user_indexes "
                "WHERE indexrelname = 'account_search_idx_s1'"
            )
            before = world.value(scans)
            app.execute(call)
            app.execute("SELECT pg_stat_force_next_flush()")
        app.execute("SELECT 1")
        assert world.value(scans) > before
    with (
        connected(world, who.stranger) as stranger,
        pytest.raises(errors.InsufficientPrivilege),
    ):
        stranger.execute(call)


def test_it_is_refused_from_outside(router: Router) -> None:
    route = router.route(
        "SELECT parlant_shard.match_account_search_idx_s1(to_tsquery('x')) FROM account",
        workspace="ws1",
    )
    assert route.targets == ()
    assert "function" in (route.reason or "")


def test_without_the_wall_nothing_changes(tmp_path: Path, clusters: Clusters) -> None:
    world = World(tmp_path, clusters)
    what = layout(
        SHARDS,
        ddl=KEYED,
        tables={"country": {"kind": "reference"}, "api_key": {"kind": "reference"}},
    )
    world.apply(what)
    with Router(world.load(what)) as router:
        sql = router.route(SEARCH + BESIDE, ["x"], workspace="ws2").targets[0].sql
    assert "match_" not in sql
    assert "(workspace_id" not in world.value(
        "SELECT indexdef FROM pg_indexes WHERE indexname = 'account_search_idx_s1'"
    )
