"""Partition arithmetic: aligned, contiguous, and nothing of the wanted span uncovered."""

from __future__ import annotations

from datetime import datetime, timedelta
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from parlant_shard import partitions
from parlant_shard.horizon import Horizon, horizon
from parlant_shard.topology import Interval, Partition

UNITS = ("hour", "day", "week", "month", "quarter", "year")
intervals = st.builds(Interval, st.integers(1, 9), st.sampled_from(UNITS))
moments = st.datetimes(datetime(1990, 1, 1), datetime(2090, 1, 1))


@given(intervals, moments)
def test_a_moment_is_inside_its_interval(interval: Interval, moment: datetime) -> None:
    start = partitions.floor(interval, moment)
    assert start <= moment < partitions.shift(interval, start, 1)
    assert partitions.floor(interval, start) == start
    assert partitions.shift(interval, partitions.shift(interval, start, 3), -3) == start


@given(intervals, moments, st.integers(1, 12), st.none() | st.integers(0, 900))
def test_wanted_ranges_are_contiguous_and_aligned(
    interval: Interval, now: datetime, premake: int, days: int | None
) -> None:
    oldest = None if days is None else now - timedelta(days=days)
    ranges = partitions.wanted(interval, now, premake, oldest)
    assert all(a[1] == b[0] for a, b in pairwise(ranges))
    assert all(partitions.floor(interval, lower) == lower for lower, _ in ranges)
    assert ranges[0][0] <= (now if oldest is None else oldest)
    beyond = [r for r in ranges if r[0] > now]
    assert len(beyond) == premake


@given(moments, intervals, intervals, st.integers(1, 6), st.integers(1, 6))
def test_a_changed_interval_leaves_no_gap_and_no_overlap(
    now: datetime, old: Interval, new: Interval, before: int, after: int
) -> None:
    existing = partitions.wanted(old, now, before, None)
    ranges = partitions.wanted(new, now, after, now - timedelta(days=40))
    free = partitions.uncovered(ranges, existing)
    together = sorted([*existing, *free])
    assert all(a[1] <= b[0] for a, b in pairwise(together))  # no overlap
    at = ranges[0][0]
    for lower, upper in together:  # every moment of the wanted span is covered
        if upper <= at:
            continue
        assert lower <= at
        at = upper
    assert at >= ranges[-1][1]
    assert partitions.uncovered(ranges, together) == ()


@given(moments, intervals)
def test_what_is_there_is_not_wanted_again(now: datetime, interval: Interval) -> None:
    ranges = partitions.wanted(interval, now, 3, None)
    assert partitions.uncovered(ranges, ranges) == ()
    assert partitions.uncovered(ranges, []) == ranges
    assert partitions.uncovered(ranges, [(None, None)]) == ()


def test_an_open_bound_covers_all_on_its_side() -> None:
    day = Interval(1, "day")
    now = datetime(2026, 5, 10, 12)
    ranges = partitions.wanted(day, now, 2, None)
    assert partitions.uncovered(ranges, [(None, datetime(2026, 5, 11, 6))]) == (
        (datetime(2026, 5, 11, 6), datetime(2026, 5, 12)),
        (datetime(2026, 5, 12), datetime(2026, 5, 13)),
    )
    assert partitions.uncovered(ranges, [(datetime(2026, 5, 11), None)]) == (
        (datetime(2026, 5, 10), datetime(2026, 5, 11)),
    )


@pytest.mark.parametrize(
    ("interval", "moment", "expected"),
    [
        ("1 month", "2026-03-31", "2026-02-28"),
        ("1 month", "2024-03-31 10:30", "2024-02-29 10:30"),
        ("12 months", "2024-02-29", "2023-02-28"),
        ("1 quarter", "2026-05-31", "2026-02-28"),
        ("1 year", "2026-05-31", "2025-05-31"),
        ("90 days", "2026-05-31", "2026-03-02"),
    ],
)
def test_retention_counts_back_by_the_calendar(interval: str, moment: str, expected: str) -> None:
    found = partitions.before(Interval.parse(interval), datetime.fromisoformat(moment))
    assert found == datetime.fromisoformat(expected)


@pytest.mark.parametrize(
    ("interval", "moment", "expected"),
    [
        ("1 week", "2026-05-10 23:59", "2026-05-04"),  # a Monday
        ("1 week", "2026-05-11", "2026-05-11"),
        ("1 month", "2026-05-31 23:59:59.999999", "2026-05-01"),
        ("1 quarter", "2026-06-30", "2026-04-01"),
        ("6 hours", "2026-05-10 17:59", "2026-05-10 12:00"),
        ("1 year", "1999-12-31", "1999-01-01"),
    ],
)
def test_intervals_begin_where_people_expect(interval: str, moment: str, expected: str) -> None:
    found = partitions.floor(Interval.parse(interval), datetime.fromisoformat(moment))
    assert found == datetime.fromisoformat(expected)


def test_names_tell_the_time_only_where_there_is_one() -> None:
    assert partitions.suffix(datetime(2026, 11, 1)) == "p20261101"
    assert partitions.suffix(datetime(2026, 11, 1, 6)) == "p20261101_0600"


def test_a_window_is_never_too_short() -> None:
    assert partitions.seconds(Interval.parse("1 month")) == 31 * 86_400
    assert partitions.seconds(Interval.parse("90 days")) == 90 * 86_400


@given(intervals, moments, st.integers(0, 200_000))
def test_an_earlier_start_is_on_the_calendar(
    interval: Interval, moment: datetime, count: int
) -> None:
    start = partitions.floor(interval, moment)
    found = partitions.earlier(interval, start, count)
    assert datetime(1000, 1, 1) <= found <= start
    if found.year > 1000:
        assert partitions.shift(interval, found, count) == start
    partitions.floor(interval, found)


@pytest.mark.parametrize(
    ("every", "premake", "alarm"),
    [
        ("1 day", 4, timedelta(days=3)),
        ("1 day", 2, timedelta(days=1)),
        ("1 day", 1, timedelta(hours=12)),  # with nothing to spare, half of the only one
        ("2 weeks", 3, timedelta(days=28)),
        ("1 month", 3, timedelta(days=56)),  # the shortest month
    ],
)
def test_the_horizon_is_low_when_less_than_all_but_one_of_premake_is_left(
    every: str, premake: int, alarm: timedelta
) -> None:
    now = datetime(2026, 5, 10, 12)
    partition = Partition(by="at", every=every, premake=premake)

    def found(left: timedelta, **options: bool) -> Horizon:
        options = {"has_default": False, **options}
        return horizon(partition, [(None, now), (now, now + left)], now, **options)

    assert partitions.alarm(Interval.parse(every), premake) == alarm
    assert (found(alarm).alarm, found(alarm).left, found(alarm).low) == (alarm, alarm, False)
    assert found(alarm - timedelta(microseconds=1)).low
    # A default partition takes the rows, so nothing fails.
    assert not found(timedelta(), has_default=True).low
    assert not horizon(partition, [(now, None)], now, has_default=False).low


@pytest.mark.parametrize(
    ("existing", "days"),
    [
        ([], 0),
        ([(-1, 1), (1, 2)], 2),
        ([(1, 2), (-1, 1)], 2),  # in whatever order
        ([(-1, 1), (2, 9)], 1),  # a gap: inserts fail there, whatever lies behind it
        ([(1, 9)], 0),
        ([(-9, 0)], 0),
        ([(None, 3)], 3),
        ([(-1, 2), (1, 3)], 3),
        ([(-1, 5), (1, 3)], 5),
        ([(-1, 1), (1, None)], None),
    ],
)
def test_rows_find_a_partition_until_the_first_gap(
    existing: list[tuple[int | None, int | None]], days: int | None
) -> None:
    now = datetime(2026, 5, 10)

    def at(day: int | None) -> datetime | None:
        return None if day is None else now + timedelta(days=day)

    assert partitions.covered_until([(at(a), at(b)) for a, b in existing], now) == at(days)
