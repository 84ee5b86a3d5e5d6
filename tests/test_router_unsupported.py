"""What the router refuses: the exact code and words of each reason."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from parlant_shard.router import rewrite
from parlant_shard.router.route import Kind
from parlant_shard.shardmap import ShardMap
from router_cases import Case, cases

UNSUPPORTED = cases("unsupported.yaml")


@pytest.fixture(scope="module")
def shard_map() -> ShardMap:
    return ShardMap.load(Path(__file__).parent / "data" / "shardmap.json")


@pytest.mark.parametrize("file", ["orm", "constructs", "attacks", "across"])
def test_every_case_says_whether_it_is_accepted(file: str) -> None:
    for case in cases(f"{file}.yaml"):
        assert case.expect in {"accept", "refuse"}, case.id


def test_there_are_enough() -> None:
    assert len(UNSUPPORTED) >= 100


@pytest.mark.parametrize("case", [pytest.param(c, id=c.id) for c in UNSUPPORTED])
def test_refused(shard_map: ShardMap, case: Case) -> None:
    """Route a case; `all_workspaces` asks for all, `lookup: false` is what the topology says."""
    route = rewrite(
        case.sql,
        shard_map=replace(shard_map, lookup=case.more.get("lookup", True)),
        workspace=case.workspace,
        params=case.params,
        all_workspaces=case.more.get("all_workspaces", False),
    )
    assert route.kind is Kind.REFUSED, route.targets
    assert not route.targets
    assert (route.code, route.reason) == (case.more["code"], case.more["reason"])
    if "hint" in case.more:
        assert route.hint == case.more["hint"]
