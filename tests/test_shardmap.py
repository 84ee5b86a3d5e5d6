"""Where a workspace lives, as the topology file places it."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from parlant_shard.shardmap import BUCKETS, ShardOf, bucket, shard_of
from parlant_shard.topology import Topology, parse_topology

LISTS = "s1: {server: core, workspaces: [ws1, ws2]}\n  s2: {server: core, workspaces: [acme]}"
BOTH = (
    "low: {server: core, buckets: [1024-2047, 0-1023]}\n"
    "  high: {server: core, buckets: 2049-4095}\n"
    "  one: {server: core, buckets: 2048}\n"
    "  vip: {server: core, workspaces: [ws1]}"
)
workspaces = st.text(st.characters(exclude_characters="\0", exclude_categories=("Cs",)), min_size=1)


def topology(shards: str) -> Topology:
    text = (
        "version: 1\nname: t\nschema: {preset: parlant}\nservers: {core: {embedded: x}}\n"
        f"coordinator: core\nshards:\n  {shards}\n"
    )
    return parse_topology(text.encode(), file=Path("t.yaml"), environ={})


with_lists = ShardOf(topology(LISTS))
with_both = ShardOf(topology(BOTH))


@pytest.mark.parametrize(
    ("workspace", "number"),
    [
        ("ws1", 3219),
        ("acme", 555),
        ("", 944),
        ("Ünïcode", 178),
        ("0f8fad5b-d9cb-469f-a165-70867728950e", 2066),
    ],
)
def test_the_vectors_of_the_interface(workspace: str, number: int) -> None:
    assert bucket(workspace) == number


@given(workspaces)
def test_a_bucket_is_in_range(workspace: str) -> None:
    assert 0 <= bucket(workspace) < BUCKETS == 4096


def test_lists_know_what_they_list() -> None:
    found = {ws: with_lists(ws) for ws in ("ws1", "ws2", "acme", "ACME", "ws3", "")}
    assert found == {"ws1": "s1", "ws2": "s1", "acme": "s2", "ACME": None, "ws3": None, "": None}


@given(workspaces)
def test_with_buckets_every_workspace_has_exactly_one_shard(workspace: str) -> None:
    number = bucket(workspace)
    expected = "low" if number < 2048 else "one" if number == 2048 else "high"
    assert with_both(workspace) == ("vip" if workspace == "ws1" else expected)


def test_lists_win_over_buckets() -> None:
    assert with_both("ws1") == "vip"
    assert with_both.of_bucket(bucket("ws1")) == "high"


def test_every_bucket_has_one_shard() -> None:
    counts: dict[str | None, int] = {}
    for number in range(BUCKETS):
        found = with_both.of_bucket(number)
        counts[found] = counts.get(found, 0) + 1
    assert counts == {"low": 2048, "one": 1, "high": 2047}


@pytest.mark.parametrize("workspace", ["", "a\0b", "\ud800"])
def test_what_cannot_be_stored_lives_nowhere(workspace: str) -> None:
    assert with_both(workspace) is None


def test_shard_of() -> None:
    assert shard_of(topology(LISTS), "acme") == "s2"
    assert shard_of(topology(LISTS), "nobody") is None
    assert shard_of(topology(BOTH), "nobody") is not None
