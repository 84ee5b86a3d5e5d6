"""The pure function as a whole: its limits, its caches, and what comes in a wrong type."""

from __future__ import annotations

import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from parlant_shard.router import Kind, rewrite
from parlant_shard.shardmap import MapShard, ShardMap

SHARDS = ShardMap.load(Path(__file__).parent / "data" / "shardmap.json")
READ = "SELECT name FROM parlant_agent WHERE status = %s"


def route(sql: str, **call: Any) -> Any:
    return rewrite(sql, shard_map=SHARDS, **{"workspace": "ws_a", **call})


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT 1" + "+1" * 100_000,
        "SELECT " + "ARRAY[" * 30 + "1" + "]" * 30,
        "SELECT " + "date(" * 30 + "'a'" + ")" * 30,
        "SELECT " + "(" * 200 + "1" + ")" * 200,
        "SELECT (tags)" + "[1]" * 5000 + " FROM parlant_session",
        "WITH c0 AS (SELECT * FROM parlant_agent), "
        + ", ".join(f"c{i} AS (SELECT a.*, b.* FROM c{i - 1} a, c{i - 1} b)" for i in range(1, 40))
        + " SELECT 1 FROM c39",
    ],
    ids=["operators", "arrays", "types", "brackets", "subscripts", "columns"],
)
def test_what_would_exhaust_a_parser_is_refused_at_once(sql: str) -> None:
    began = time.thread_time()
    found = route(sql)
    assert (found.kind, found.code) == (Kind.REFUSED, "PS619")
    assert time.thread_time() - began < 10  # some seconds at most, where it was for ever


def test_a_comment_at_the_end_is_cut_off_in_no_time() -> None:
    began = time.thread_time()
    assert route("SELECT 1," + " " * 200_000 + "2 /* x */").kind is Kind.ANY
    assert time.thread_time() - began < 10


def test_a_bulk_insert_is_routed() -> None:
    rows = 3000
    sql = "INSERT INTO parlant_term (agent_id, name, description) VALUES " + ",".join(
        ["(%s, %s, %s)"] * rows
    )
    found = route(sql, params=["a", "b", "c"] * rows)
    assert found.targets[0].params[:4] == ["ws_a", "a", "b", "c"]
    assert len(found.targets[0].params) == 4 * rows


def test_arrays_and_their_types_are_not_counted_as_subscripts() -> None:
    row = "(%s, ARRAY['a', 'b'], '{}'::text[])"
    sql = f"INSERT INTO parlant_session (title, tags, tags2) VALUES {', '.join([row] * 300)}"
    assert route(sql, params=["a"] * 300).kind is Kind.DIRECT


def test_a_deep_stack_of_the_caller_is_not_held_against_the_statement() -> None:
    sql = "SELECT id FROM parlant_agent WHERE name = 'deep'"

    def deep(left: int) -> Any:
        return route(sql) if left == 0 else deep(left - 1)

    frame, used = sys._getframe(), 0
    while frame.f_back is not None:
        frame, used = frame.f_back, used + 1
    for room in (15, 30, 45, 60):
        deep(sys.getrecursionlimit() - used - room)
    assert route(sql).kind is Kind.DIRECT


@pytest.mark.parametrize(
    ("sql", "call"),
    [
        (READ, {"params": 5}),
        (READ, {"params": "active"}),
        (READ, {"params": iter(["active"])}),
        (READ, {"params": []}),
        ("SELECT * FROM parlant_event WHERE session_id = %s", {"params": [[1]], "workspace": None}),
        ("SELECT * FROM parlant_agent WHERE workspace_id = %s", {"params": [{}]}),
        ("SELECT * FROM parlant_agent WHERE workspace_id = %s", {"params": [b"ws_a"]}),
    ],
)
def test_values_of_a_wrong_type_are_refused_and_not_raised(sql: str, call: dict[str, Any]) -> None:
    assert (route(sql, **call).kind, route(sql, **call).code) == (Kind.REFUSED, "PS620")


def test_an_id_that_its_column_cannot_hold_is_judged_by_a_server() -> None:
    """Nobody is asked whose it is, and a server says what it says of such a value."""
    sql = "SELECT * FROM parlant_event WHERE session_id = %s"
    found = route(sql, params=["x"], workspace=None)
    assert (found.kind, found.lookup.possible) == (Kind.LOOKUP, False)
    nowhere = route(sql, params=["x"], workspace=None, absent=True)
    assert (nowhere.kind, nowhere.workspaces) == (Kind.DIRECT, ())
    assert nowhere.targets[0].params == [None, "x"]


@pytest.mark.parametrize("end", ["/* \0 */", "/* \ud800 */"])
def test_what_cannot_be_sent_is_refused_in_a_comment_too(end: str) -> None:
    assert route("SELECT 1 " + end).kind is Kind.REFUSED


@pytest.mark.parametrize("line", ["\n", "\r", "\r\n"])
def test_a_comment_within_a_line_comment_ends_with_the_line(line: str) -> None:
    hidden = f"SELECT id FROM parlant_agent -- x /*{line}UNION ALL SELECT id FROM {{}} -- */"
    assert route(hidden.format("parlant_agent_shard_3")).code == "PS603"
    found = route(hidden.format("parlant_agent"))
    assert found.targets[0].sql.count("workspace_id OPERATOR(pg_catalog.=) %s") == 2
    assert route(f"DELETE FROM parlant_agent -- x /*{line}; SELECT 1 -- */").code == "PS601"
    # Harmless ones stay as they are.
    for end in ("-- x /* y */", f"-- x{line}/* y */", "/* -- */ /* y */"):
        assert route(f"SELECT id FROM parlant_agent {end}").targets[0].sql.endswith(end)


@pytest.mark.parametrize("between", ["\u00a0", "\u2028", "\x85", "\x1c", "\u3000"])
def test_what_only_python_takes_for_white_space_is_not_cut_off(between: str) -> None:
    """PostgreSQL reads another name, or nothing at all."""
    assert route(f"SELECT id FROM parlant_agent{between}/* x */").kind is Kind.REFUSED
    assert route(f"SELECT id FROM workspace{between}/* x */").kind is Kind.REFUSED


@pytest.mark.parametrize("end", ["/*/", "/*//*/", "/*/*/", "/* /*/"])
def test_half_a_comment_at_the_end_is_none(end: str) -> None:
    assert route("SELECT id FROM parlant_agent " + end).code == "PS600"


def test_one_text_serves_every_workspace_and_follows_the_map() -> None:
    first = route(READ, params=["active"])
    assert first.targets[0].params == ["ws_a", "active"]
    assert route(READ, params=["active"], workspace="ws_b").targets[0].sql == first.targets[0].sql
    moved = replace(
        SHARDS,
        shards={
            name: replace(shard, workspaces=tuple(w for w in shard.workspaces if w != "ws_a"))
            for name, shard in SHARDS.shards.items()
        }
        | {"elsewhere": MapShard(server="far", workspaces=("ws_a",))},
    )
    found = rewrite(READ, shard_map=moved, workspace="ws_a", params=["active"])
    assert (found.targets[0].shard, found.targets[0].server) == ("elsewhere", "far")
    assert "parlant_agent_elsewhere" in found.targets[0].sql
    assert route(READ, params=["active"]) == first


def test_the_same_text_with_and_without_values_is_two_things() -> None:
    assert (
        route("SELECT name FROM parlant_agent WHERE name LIKE '100%%'")
        .targets[0]
        .sql.endswith("'100%%%%'")
    )
    found = route("SELECT name FROM parlant_agent WHERE name LIKE '100%%'", params=[])
    assert found.targets[0].sql.endswith("'100%%'")


def test_a_comment_of_a_tracing_library_does_not_make_a_new_statement() -> None:
    from parlant_shard.router.template import template

    route(READ + " /* traceparent='1' */", params=["x"])
    before = template.cache_info().misses
    found = route(READ + " /* traceparent='2' */", params=["x"])
    assert template.cache_info().misses == before
    assert found.targets[0].sql.endswith("/* traceparent='2' */")


@pytest.mark.parametrize(
    ("condition", "params", "workspaces"),
    [
        ("k.workspace_id = %s", ["ws_a"], ("ws_a",)),
        ("k.workspace_id = %s OR k.workspace_id IS NULL", ["ws_a"], ("ws_a",)),
        ("k.workspace_id IS NULL OR k.workspace_id = %s", ["ws_a"], ("ws_a",)),
        ("k.workspace_id IN (%s, 'ws_b') OR k.workspace_id IS NULL", ["ws_a"], ("ws_a", "ws_b")),
        ("k.workspace_id = ANY (%s) OR k.workspace_id IS NULL", [["ws_a"]], ("ws_a",)),
        ("k.workspace_id = 'ws_a' OR k.workspace_id = 'ws_b' OR k.workspace_id IS NULL", None,
         ("ws_a", "ws_b")),
        ("k.workspace_id IS NULL", None, ()),
        ("k.workspace_id = %s OR k.name IS NULL", ["ws_a"], ()),
        ("k.workspace_id = %s OR w.workspace_id IS NULL", ["ws_a"], ()),
        ("k.workspace_id = %s OR k.workspace_id IS NOT NULL", ["ws_a"], ()),
        ("k.workspace_id = %s OR true", ["ws_a"], ()),
        ("NOT (k.workspace_id = %s)", ["ws_a"], ()),
        ("k.workspace_id <> %s", ["ws_a"], ()),
        ("k.name = %s", ["ws_a"], ()),
        ("k.id = %s", ["ws_a"], ()),
    ],
)  # fmt: skip
def test_a_condition_on_a_reference_table_names_its_workspace_or_nobody(
    condition: str, params: Any, workspaces: tuple[str, ...]
) -> None:
    sql = f"SELECT k.id FROM api_key k, workflow w WHERE {condition}"
    found = route(sql, params=params, workspace=None)
    assert (found.kind, found.workspaces) == (Kind.ANY, workspaces), found.reason
    assert found.targets[0].sql.count("workspace_id IS NULL) ") == 2
    beside = f"SELECT k.id FROM workflow w LEFT JOIN api_key k ON true WHERE {condition}"
    if "k.workspace_id IS NULL" in condition:  # also true of what the join did not find
        assert route(beside, params=params, workspace=None).workspaces == ()


@pytest.mark.parametrize(
    ("sql", "params", "question", "values"),
    [
        ("UPDATE api_key SET name = $1 WHERE id = $3 RETURNING $2::text", ["n", "r", "i"],
         "WHERE id = $1", ["i"]),
        ("UPDATE api_key SET name = %s WHERE id = %s RETURNING %s::text", ["n", "i", "r"],
         "WHERE id = %s", ["i"]),
        ("UPDATE api_key SET name = %s", ["n"], "AS api_key  LIMIT 1", []),
        ("UPDATE api_key SET name = 'a%' WHERE name LIKE 'b%'", None, "LIKE 'b%' LIMIT 1", None),
        ("DELETE FROM api_key WHERE id = %(i)s", {"i": "x"}, "WHERE id = %(i)s",
         {"i": "x"}),
        ("UPDATE api_key AS set SET name = set.id IS DISTINCT FROM 'x' FROM workflow w "
         "WHERE w.id = $1", ["i"], "WHERE w.id = $2", ["ws_a", "i"]),
        ("DELETE FROM api_key USING workflow JOIN knowledge_base USING (id)", None,
         "JOIN (SELECT", ["ws_a", "ws_a"]),
        ("UPDATE api_key SET name = (SELECT max(w.name) FROM workflow w) WHERE true", None,
         "AS api_key WHERE true LIMIT 1", None),
    ],
)  # fmt: skip
def test_a_question_has_the_condition_of_its_change_and_no_more(
    sql: str, params: Any, question: str, values: Any
) -> None:
    found = route(sql, params=params)
    assert found.question is not None, found.reason
    assert question in found.question.sql
    assert found.question.params == values
    assert found.question.sql.startswith("SELECT 1 FROM (SELECT ")
    assert " SET " not in found.question.sql
    assert "RETURNING" not in found.question.sql


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT id FROM api_key",
        "INSERT INTO api_key (id) VALUES ('x')",
        "EXPLAIN DELETE FROM api_key",
        'UPDATE parlant_agent SET name = (SELECT max(name) FROM "user")',
    ],
)
def test_nothing_else_asks_a_question(sql: str) -> None:
    assert route(sql).targets
    assert route(sql).question is None
