"""Arithmetic of time partitions: aligned intervals, and what of a span is not covered yet.

All times are UTC without zone. Bounds are aligned to fixed points (1 January 2000; Mondays for
weeks), so that the same interval gives the same bounds whenever and wherever it is computed.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime, timedelta
from itertools import islice

from parlant_shard.topology import Interval

Range = tuple[datetime, datetime]

_EPOCH = datetime(2000, 1, 1)
_MONDAY = datetime(2000, 1, 3)
_MONTHS = {"month": 1, "quarter": 3, "year": 12}


def floor(interval: Interval, moment: datetime) -> datetime:
    """The start of the aligned interval that holds `moment`."""
    if interval.unit in _MONTHS:
        months = (moment.year - _EPOCH.year) * 12 + moment.month - 1
        width = _MONTHS[interval.unit] * interval.count
        return _month(months - months % width)
    origin = _MONDAY if interval.unit == "week" else _EPOCH
    return moment - (moment - origin) % interval.timedelta


def shift(interval: Interval, start: datetime, count: int) -> datetime:
    """The start `count` intervals after (or before) an aligned start."""
    if interval.unit in _MONTHS:
        months = (start.year - _EPOCH.year) * 12 + start.month - 1
        return _month(months + _MONTHS[interval.unit] * interval.count * count)
    return start + interval.timedelta * count


def earlier(interval: Interval, start: datetime, count: int) -> datetime:
    """The start `count` intervals before an aligned start; not before the year 1000, so that an
    interval of several years does not pass the beginning of the calendar."""
    first = datetime(1000, 1, 1)
    try:
        return max(first, shift(interval, start, -count))
    except (OverflowError, ValueError):
        return first


def before(interval: Interval, moment: datetime) -> datetime:
    """`moment` minus an interval of the calendar: retention counts back with it."""
    if interval.unit in _MONTHS:
        months = (moment.year - _EPOCH.year) * 12 + moment.month - 1
        first = _month(months - _MONTHS[interval.unit] * interval.count)
        following = _month(months - _MONTHS[interval.unit] * interval.count + 1)
        day = min(moment.day, (following - first).days)
        return moment.replace(year=first.year, month=first.month, day=day)
    return moment - interval.timedelta


def wanted(
    interval: Interval, now: datetime, premake: int, oldest: datetime | None
) -> tuple[Range, ...]:
    """The aligned ranges from `oldest` (or now) to `premake` intervals beyond the current one."""
    current = floor(interval, now)
    start = min(current, floor(interval, oldest)) if oldest is not None else current
    end = shift(interval, current, premake + 1)
    ranges = []
    while start < end:
        following = shift(interval, start, 1)
        ranges.append((start, following))
        start = following
    return tuple(ranges)


def uncovered(
    ranges: Iterable[Range], existing: Iterable[tuple[datetime | None, datetime | None]]
) -> tuple[Range, ...]:
    """What remains of `ranges`, which ascend, beside `existing` (None is unbounded): after a change
    of the interval, old partitions stay and new ones fill the space around them."""
    taken = sorted((lower or datetime.min, upper or datetime.max) for lower, upper in existing)
    free: list[Range] = []
    first = 0
    for lower, upper in ranges:
        at = lower
        while first < len(taken) and taken[first][1] <= lower:
            first += 1
        for start, end in islice(taken, first, None):
            if start >= upper:
                break
            if end <= at:
                continue
            if start > at:
                free.append((at, start))
            at = max(at, end)
        if at < upper:
            free.append((at, upper))
    return tuple(free)


def suffix(lower: datetime) -> str:
    """The end of a partition's name: `p20261101`, with the time where it does not start at 0:00."""
    if lower.time() == datetime.min.time():
        return f"p{lower.year:04}{lower:%m%d}"
    return f"p{lower.year:04}{lower:%m%d_%H%M}"


def _month(months: int) -> datetime:
    return datetime(_EPOCH.year + months // 12, months % 12 + 1, 1)


def seconds(interval: Interval) -> int:
    """The longest that an interval can be, in seconds: a window must not be too short."""
    return int((interval.bounds[1]) / timedelta(seconds=1))


def covered_until(
    existing: Iterable[tuple[datetime | None, datetime | None]], now: datetime
) -> datetime | None:
    """Until when every row of its moment finds a partition; `now` where none does, None for ever.

    Inserts fail at the first gap from now on, however many partitions lie behind it.
    """
    at = now
    for lower, upper in sorted(existing, key=lambda b: b[0] or datetime.min):
        if (lower or datetime.min) > at:
            break
        if upper is None:
            return None
        at = max(at, upper)
    return at


def alarm(interval: Interval, premake: int) -> timedelta:
    """The horizon below which something is wrong: one interval more than a late run explains."""
    return interval.bounds[0] * max(premake - 1, 0.5)
