"""Intervals as people write them in the topology file: `1 month`, `90 days`, `30 s`."""

from __future__ import annotations

import datetime
import re
from dataclasses import dataclass
from typing import Literal, get_args

Unit = Literal["second", "minute", "hour", "day", "week", "month", "quarter", "year"]
UNITS: tuple[Unit, ...] = get_args(Unit)

# "m" is missing on purpose: minutes to one reader, months to another
_SPELLINGS: dict[str, Unit] = {
    **{unit: unit for unit in UNITS},
    **{f"{unit}s": unit for unit in UNITS},
    "s": "second",
    "sec": "second",
    "secs": "second",
    "min": "minute",
    "mins": "minute",
    "h": "hour",
    "d": "day",
    "w": "week",
    "mon": "month",
    "mons": "month",
    "y": "year",
}
_FIXED: dict[str, datetime.timedelta] = {
    "second": datetime.timedelta(seconds=1),
    "minute": datetime.timedelta(minutes=1),
    "hour": datetime.timedelta(hours=1),
    "day": datetime.timedelta(days=1),
    "week": datetime.timedelta(weeks=1),
}
_DAYS: dict[str, tuple[int, int]] = {"month": (28, 31), "quarter": (90, 92), "year": (365, 366)}
# six digits keep every product inside timedelta and every year inside PostgreSQL's range
PATTERN = re.compile(r"\s*([0-9]{1,6})\s*([A-Za-z]+)\s*")


@dataclass(frozen=True, slots=True)
class Interval:
    """A number of calendar units. `str()` is canonical and reads back: `1 month`, `90 days`."""

    count: int
    unit: Unit

    def __post_init__(self) -> None:
        if not 0 <= self.count < 1_000_000:
            raise ValueError(f"an interval counts from 0 to 999999, not {self.count}")
        if self.unit not in UNITS:
            raise ValueError(f'no unit of time: "{self.unit}"')

    @classmethod
    def parse(cls, text: str) -> Interval:
        """Read `1 month`, `90 days`, `30 s`, `12 h`; raise ValueError with the reason."""
        found = PATTERN.fullmatch(text)
        if found is None:
            raise ValueError(f'"{text}" is not an interval')
        unit = _SPELLINGS.get(found[2].lower())
        if unit is None:
            raise ValueError(f'"{text}" is not an interval: no unit of time is "{found[2]}"')
        return cls(int(found[1]), unit)

    def __str__(self) -> str:
        return f"{self.count} {self.unit}" if self.count == 1 else f"{self.count} {self.unit}s"

    def __bool__(self) -> bool:
        return self.count > 0

    @property
    def is_fixed(self) -> bool:
        """Whether every such interval is equally long; months, quarters and years are not."""
        return self.unit in _FIXED

    @property
    def timedelta(self) -> datetime.timedelta:
        """The length in time; raises ValueError for months, quarters and years."""
        if self.unit not in _FIXED:
            raise ValueError(f'"{self}" has no fixed length')
        return _FIXED[self.unit] * self.count

    @property
    def bounds(self) -> tuple[datetime.timedelta, datetime.timedelta]:
        """The shortest and the longest that it can be: `1 month` is 28 to 31 days."""
        if self.unit in _FIXED:
            return self.timedelta, self.timedelta
        shortest, longest = _DAYS[self.unit]
        return datetime.timedelta(days=shortest * self.count), datetime.timedelta(
            days=longest * self.count
        )
