"""Where a workspace lives, as the topology file places it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from parlant_shard.errors import RoutingError
from parlant_shard.shardmap import BUCKETS, ShardMap, ShardOf, bucket, shard_of
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


def old_map(keyed: bool) -> Any:
    """A map as release 0.1.0 wrote it, with a reference table that has the key, or none."""
    data = json.loads((Path(__file__).parent / "data" / "shardmap.json").read_text("utf-8"))
    for table in data["tables"].values():
        del table["keyed"]
    if not keyed:
        for name in ("api_key", "knowledge_base", "workflow"):
            del data["tables"][name]
    return {**data, "format_version": 1}


def test_a_map_of_the_first_release_is_read_if_it_says_enough() -> None:
    found = ShardMap.from_data(old_map(keyed=False))
    assert found.tables["parlant_agent"].keyed is None
    assert found.to_data()["format_version"] == 2


@pytest.mark.parametrize(
    ("data", "hint"),
    [
        (old_map(keyed=True), "apply"),
        ({**old_map(keyed=False), "format_version": 3}, "update"),
        ({**old_map(keyed=False), "format_version": True}, "apply"),
        ({**old_map(keyed=False), "format_version": "1"}, "update"),
    ],
)
def test_a_format_that_does_not_say_enough_is_not_guessed_at(data: Any, hint: str) -> None:
    with pytest.raises(RoutingError) as refused:
        ShardMap.from_data(data)
    assert refused.value.code == "PS660"
    assert hint in (refused.value.hint or "")


def test_the_map_says_which_reference_tables_have_the_key() -> None:
    data = {**old_map(keyed=True), "format_version": 2}
    with pytest.raises(RoutingError) as refused:  # a table of the new format without the field
        ShardMap.from_data(data)
    assert refused.value.code == "PS630"
