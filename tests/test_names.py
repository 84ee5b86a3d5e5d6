"""Physical names: short enough for PostgreSQL, the same everywhere, and never two alike unseen."""

from __future__ import annotations

import re

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from parlant_shard.names import MAX_BYTES, byte_length, check_collisions, suffixed

# what PostgreSQL can have in a name: anything but NUL, and no halves of surrogate pairs
characters = st.characters(exclude_characters="\0", exclude_categories=("Cs",))
names = st.text(characters, min_size=1, max_size=80)
suffixes = st.from_regex(r"[a-z][a-z0-9_]{0,30}", fullmatch=True)


@pytest.mark.parametrize(
    ("name", "suffix", "physical"),
    [
        ("parlant_agent", "shard_1", "parlant_agent_shard_1"),
        ("a" * 55, "shard_1", "a" * 55 + "_shard_1"),
        ("a" * 56, "shard_1", "a" * 46 + "_b35439a4_shard_1"),
        ("a" * 63, "shard_1", "a" * 46 + "_7d3e74a0_shard_1"),
        ("ü" * 27, "shard_1", "ü" * 27 + "_shard_1"),
        ("ü" * 28, "shard_1", "ü" * 23 + "_4c55b1f6_shard_1"),
        ("a" + "ü" * 28, "shard_1", "a" + "ü" * 22 + "_0c69a1cd_shard_1"),
    ],
)
def test_names_are_kept_or_shortened_with_a_hash(name: str, suffix: str, physical: str) -> None:
    assert suffixed(name, suffix) == physical


@given(names, suffixes)
def test_a_name_fits_and_ends_with_its_suffix(name: str, suffix: str) -> None:
    physical = suffixed(name, suffix)
    assert byte_length(physical) <= MAX_BYTES
    assert physical.endswith(f"_{suffix}")
    assert physical == suffixed(name, suffix)
    if physical != f"{name}_{suffix}":
        head = re.fullmatch(r"(.+)_[0-9a-f]{8}", physical.removesuffix(f"_{suffix}"), re.DOTALL)
        assert head is not None
        assert name.startswith(head[1])  # no character was cut in two
        # one more character would not have fitted
        assert byte_length(physical) + byte_length(name[len(head[1])]) > MAX_BYTES


@given(names, names, suffixes)
def test_two_names_stay_two(one: str, other: str, suffix: str) -> None:
    assume(one != other)
    assert suffixed(one, suffix) != suffixed(other, suffix)


@given(st.text(st.sampled_from("ab_"), min_size=50, max_size=80), suffixes, suffixes)
def test_one_name_on_two_shards_is_two_names(name: str, one: str, other: str) -> None:
    assume(one != other)
    # only a suffix that ends with the other one could meet it, and then the name must differ
    if not one.endswith(other) and not other.endswith(one):
        assert suffixed(name, one) != suffixed(name, other)


@pytest.mark.parametrize(("name", "suffix"), [("", "s"), ("t", "")])
def test_both_parts_are_needed(name: str, suffix: str) -> None:
    with pytest.raises(ValueError, match="a name and a suffix are needed"):
        suffixed(name, suffix)


def test_a_suffix_that_leaves_no_room() -> None:
    assert suffixed("t" * 60, "s" * 52) == "t_" + suffixed("t" * 60, "s" * 52)[2:]
    with pytest.raises(ValueError, match="leaves no room for a name"):
        suffixed("t" * 60, "s" * 53)


def test_names_that_meet_are_found_with_their_owners() -> None:
    names = {
        'table "a_b" on shard "c"': suffixed("a_b", "c"),
        'table "a" on shard "b_c"': suffixed("a", "b_c"),
        'table "x" on shard "c"': suffixed("x", "c"),
    }
    assert check_collisions(names) == {
        "a_b_c": ('table "a" on shard "b_c"', 'table "a_b" on shard "c"')
    }
    del names['table "a" on shard "b_c"']
    assert check_collisions(names) == {}
