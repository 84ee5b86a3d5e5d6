"""The case files: what is accepted does on the shards what it does on an unsharded database."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import pytest
from oracle import Sharded, report
from tenants import WORKSPACES

from parlant_shard.router import rewrite
from parlant_shard.router.route import Kind
from router_cases import Case, cases, fill

ORM = cases("orm.yaml")
DOCUMENT = cases("document.yaml")
CONSTRUCTS = cases("constructs.yaml")
ACROSS = cases("across.yaml")
SHARED = cases("shared.yaml")


def each(found: Iterable[Case]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("case", [pytest.param(c, id=c.id) for c in found])


def check(sharded: Sharded, case: Case) -> bool:
    """Compare both sides of a case; say whether it was accepted."""
    if case.more.get("major", 0) > sharded.clusters.get(0).major:
        pytest.skip(f"needs PostgreSQL {case.more['major']}")
    done = sharded.compare(
        case.sql,
        case.params,
        case.workspace,
        ordered=case.ordered,
        rows_differ=case.more.get("rows_differ", False),
        hand=case.more.get("hand"),
    )
    if done.accepted:
        assert case.expect != "refuse", report(case.sql, case.params, done.route, "is accepted")
        assert done.oracle is not None
        wanted = case.more.get("fails", False)
        assert (done.oracle.sqlstate is not None) == wanted, done.oracle.message
    else:
        said = done.refusal
        assert done.route.code, said
        assert done.route.reason, said
        assert case.expect != "accept", report(case.sql, case.params, done.route, said)
    return done.accepted


@each(ORM)
def test_ordinary_sql_is_equal_or_refused(sharded: Sharded, case: Case) -> None:
    check(sharded, case)


def test_ordinary_sql_is_mostly_accepted(sharded: Sharded) -> None:
    """The share that is accepted; a refusal here is a statement somebody has to rewrite."""
    assert len(ORM) >= 220
    refused = []
    for case in ORM:
        route = sharded.route(case.sql, case.params, case.workspace)
        if route.kind in {Kind.REFUSED, Kind.LOOKUP}:
            refused.append(f"{case.id}: {route.code} {route.reason}")
    assert len(refused) <= 0.05 * len(ORM), "\n".join(refused)


@each(DOCUMENT)
def test_the_documents_queries(sharded: Sharded, case: Case) -> None:
    assert check(sharded, case)


@each(DOCUMENT)
def test_the_documents_queries_without_a_context(sharded: Sharded, case: Case) -> None:
    alone = rewrite(case.sql, shard_map=sharded.map, params=case.params)
    assert alone.kind == case.more["alone"], (alone.code, alone.reason)
    if alone.kind is not Kind.REFUSED:
        assert sharded.compare(case.sql, case.params, None, ordered=case.ordered).accepted


@each(c for c in CONSTRUCTS if "only_sharded" not in c.more)
def test_constructs(sharded: Sharded, case: Case) -> None:
    check(sharded, case)


def test_an_insert_gets_the_key_of_its_context(sharded: Sharded) -> None:
    """Unsharded this fails: nothing fills the key there."""
    case = next(c for c in CONSTRUCTS if "only_sharded" in c.more)
    route = sharded.route(case.sql, case.params, case.workspace)
    if route.kind is Kind.REFUSED:
        assert route.code
        return
    effect = sharded.run_sharded(route)
    assert effect.sqlstate is None, effect.message
    assert not effect.broken
    assert effect.rowcount == 1
    assert effect.state["parlant_tool"][0] == 51


@each(c for c in SHARED if "code" not in c.more)
def test_a_workspace_sees_its_own_rows_and_shared_ones_and_changes_its_own(
    sharded: Sharded, case: Case
) -> None:
    assert check(sharded, case)


@each(c for c in SHARED if "code" in c.more)
def test_a_change_that_reaches_beyond_its_own_rows_is_refused(sharded: Sharded, case: Case) -> None:
    route = sharded.route(case.sql, case.params, case.workspace)
    assert (route.kind, route.code) == (Kind.REFUSED, case.more["code"]), route.reason


def test_all_workspaces_show_the_rows_of_all(sharded: Sharded) -> None:
    found = sharded.compare("SELECT * FROM api_key", None, None, all_workspaces=True)
    assert found.accepted
    assert found.sharded is not None
    assert len(found.sharded.rows) == 5 + 3 * len(WORKSPACES)


@each(ACROSS)
def test_reads_across_workspaces(sharded: Sharded, case: Case) -> None:
    done = sharded.compare(
        case.sql,
        case.params,
        None,
        ordered=case.ordered,
        all_workspaces=case.more.get("all", False),
    )
    assert done.accepted or done.route.code, done.refusal
    assert done.accepted == (case.expect == "accept"), done.refusal


def test_most_reads_across_workspaces_are_accepted(sharded: Sharded) -> None:
    refused = {}
    for case in ACROSS:
        everything = case.more.get("all", False)
        route = sharded.route(case.sql, case.params, all_workspaces=everything)
        if route.kind is Kind.REFUSED:
            refused[case.id] = f"{route.code} {route.reason}"
    assert len(refused) <= 0.2 * len(ACROSS), refused


@pytest.mark.parametrize("workspace", WORKSPACES)
def test_the_same_texts_for_every_workspace(sharded: Sharded, workspace: str) -> None:
    """What is remembered of a text holds for all workspaces, on whatever shard."""
    kinds = ("join", "cte", "group", "window", "update", "delete", "lock")
    texts = [c for c in CONSTRUCTS if c.params is None and "aaaaaaaa" not in c.sql]
    chosen = [c for c in texts if c.expect == "accept" and c.id.startswith(kinds)]
    for case in chosen[:: len(WORKSPACES)]:
        sharded.compare(case.sql, case.params, workspace, ordered=case.ordered)


@pytest.mark.parametrize(
    "text",
    [
        "SELECT * FROM parlant_session WHERE id = %s",
        "SELECT count(*) FROM parlant_event WHERE session_id = %s",
        "UPDATE parlant_session SET title = 'x' WHERE id = %s RETURNING id",
        "DELETE FROM parlant_event WHERE session_id = %s",
    ],
)
@pytest.mark.parametrize("row", ["@{session:3}", "@{ws_c:session:3}", "@{session:999}"])
def test_an_id_finds_its_workspace(sharded: Sharded, text: str, row: str) -> None:
    """The row may be of any workspace, or not exist: then nothing is found or changed."""
    assert sharded.compare(text, [fill(row, "ws_a")], None).accepted


def test_a_moved_workspace_is_found_at_once(sharded: Sharded) -> None:
    """What is remembered of a text does not hold the placement."""
    text = "SELECT name FROM parlant_agent WHERE status = 'active'"
    shards = dict(sharded.map.shards)
    shards["shard_3"] = replace(shards["shard_3"], workspaces=("ws_b",))
    shards["shard_2"] = replace(shards["shard_2"], workspaces=("ws_a", "ws_e"))
    moved = replace(sharded.map, shards=shards)
    for shard_map, shard in (
        (sharded.map, "shard_3"),
        (moved, "shard_2"),
        (sharded.map, "shard_3"),
    ):
        route = rewrite(text, shard_map=shard_map, workspace="ws_a")
        assert [t.shard for t in route.targets] == [shard]
        assert f"parlant_agent_{shard}" in route.targets[0].sql
