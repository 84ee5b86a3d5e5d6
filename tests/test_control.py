"""Control columns: moments as literals of their types and back, and what cannot be a bound."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from parlant_shard import control
from parlant_shard.control import EPOCHS, Control, decode
from parlant_shard.introspect import bound

CONTROLS = [
    Control("timestamptz"),
    Control("timestamp"),
    Control("uuid"),
    *(Control("bigint", epoch) for epoch in EPOCHS),
    Control("integer", "seconds"),
]
# What every type holds: an integer ends in 2038.
hours = st.integers(0, 68 * 365 * 24).map(lambda n: datetime(1970, 1, 1) + timedelta(hours=n))


@given(st.sampled_from(CONTROLS), hours)
def test_a_bound_reads_back(column: Control, moment: datetime) -> None:
    for up in (False, True):
        assert decode(column.literal(moment), column.epoch, up=up) == moment


@given(st.sampled_from(CONTROLS), hours, hours)
def test_literals_sort_as_moments_do(column: Control, one: datetime, other: datetime) -> None:
    a, b = column.literal(one), column.literal(other)
    if column.epoch:
        assert (int(a) < int(b)) == (one < other)
    else:
        assert (a < b) == (one < other)


def test_literals_are_what_servers_call_that_moment() -> None:
    moment = datetime(2027, 3, 14, 2)
    seconds = int(moment.replace(tzinfo=UTC).timestamp())
    assert Control("bigint", "milliseconds").literal(moment) == f"{seconds}000"
    assert Control("bigint", "nanoseconds").literal(moment) == f"{seconds}000000000"
    assert Control("timestamptz").literal(moment) == "2027-03-14 02:00:00+00"
    assert Control("date").literal(moment) == "2027-03-14"
    found = Control("uuid").literal(moment)
    assert int(found.replace("-", "")[:12], 16) == seconds * 1_000
    assert found.endswith("-0000-0000-000000000000")


@pytest.mark.parametrize(
    ("text", "epoch", "low", "high"),
    [
        # Between two moments that a datetime has, a partition looks larger, never smaller.
        ("1700000000000000001", "nanoseconds", (0,), (1,)),
        ("018bcfe5-6800-7000-8000-000000000000", None, (437,), (438,)),
    ],
)
def test_bounds_between_two_moments(
    text: str, epoch: control.Epoch | None, low: tuple[int], high: tuple[int]
) -> None:
    base = datetime(2023, 11, 14, 22, 13, 20)
    assert decode(text, epoch, up=False) == base + timedelta(microseconds=low[0])
    assert decode(text, epoch, up=True) == base + timedelta(microseconds=high[0])


def test_bounds_of_other_people() -> None:
    found = bound("FOR VALUES FROM (MINVALUE) TO ('2027-01-01 00:00:00+00')", None)
    assert found is not None
    assert (found.lower, found.upper) == (None, datetime(2027, 1, 1))
    found = bound("FOR VALUES FROM ('infinity') TO (MAXVALUE)", None)
    assert found is not None
    assert (found.lower, found.upper) == (datetime.max, None)
    found = bound("FOR VALUES FROM ('0044-03-15 BC') TO ('10000-01-01')", None)
    assert found is not None
    assert (found.lower, found.upper) == (datetime.min, datetime.max)
    found = bound("FOR VALUES FROM (1700000000) TO ('1700003600')", "seconds")
    assert found is not None
    assert found.upper is not None
    assert found.lower is not None
    assert found.upper - found.lower == timedelta(hours=1)
    found = bound("FOR VALUES FROM ('-5') TO (0)", "seconds")
    assert found is not None
    assert found.lower == datetime(1969, 12, 31, 23, 59, 55)
    assert bound("DEFAULT", None) is not None
    for text in ("FOR VALUES FROM (1) TO (2)", "FOR VALUES FROM ('a') TO ('b')", "IN (1)"):
        assert bound(text, None) is None
    assert bound("FOR VALUES FROM ('a') TO (MAXVALUE)", "seconds") is None


def test_ranges_that_a_type_can_hold() -> None:
    whole = [(datetime(1900, 1, 1), datetime(1970, 6, 1)), (datetime(2038, 1, 1), datetime.max)]
    assert Control("uuid").fitting(whole)[0] == (datetime(1970, 1, 1), datetime(1970, 6, 1))
    integer = Control("integer", "seconds").fitting(whole)
    assert integer[0][0] == datetime(1901, 12, 13, 20, 45, 53)
    assert integer[-1][1] == datetime(2038, 1, 19, 3, 14, 7)
    assert Control("bigint", "nanoseconds").fitting(whole)[-1][1].year == 2262
    assert Control("bigint", "seconds").fitting(whole) == tuple(whole)
    assert Control("integer", "seconds").fitting([(datetime(2040, 1, 1), datetime.max)]) == ()


def test_a_wrong_unit_is_noticed() -> None:
    now = datetime(2026, 11, 1)
    for wrote in EPOCHS:
        text = Control("bigint", wrote).literal(now)
        for reads in EPOCHS:
            assert control.plausible([decode(text, reads, up=True)]) == (wrote == reads)
    assert control.plausible([None])
