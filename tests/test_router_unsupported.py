"""What the router refuses: the exact code and words of each reason."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from parlant_shard.router import rewrite
from parlant_shard.router.route import Kind
from parlant_shard.shardmap import ShardMap
from router_cases import Case, cases

UNSUPPORTED = cases("unsupported.yaml")


@pytest.fixture(scope="module")
def shard_map() -> ShardMap:
    return ShardMap.load(Path(__file__).parent / "data" / "shardmap.json")


def test_every_reason_has_its_case() -> None:
    assert len(UNSUPPORTED) >= 70


@pytest.mark.parametrize("case", [pytest.param(c, id=c.id) for c in UNSUPPORTED])
def test_refused(shard_map: ShardMap, case: Case) -> None:
    more: dict[str, Any] = {"all_workspaces": True} if case.more.get("all_workspaces") else {}
    route = rewrite(
        case.sql, shard_map=shard_map, workspace=case.workspace, params=case.params, **more
    )
    assert route.kind is Kind.REFUSED, route.targets
    assert not route.targets
    assert (route.code, route.reason) == (case.more["code"], case.more["reason"])
