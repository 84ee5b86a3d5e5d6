"""Control columns: a moment as a literal of the column's type, and a partition's bound as a moment.

Everything above thinks in UTC datetimes without zone. What stands in the catalogue is a timestamp,
a date, a whole number of seconds (or of a smaller unit) since 1970, or a UUIDv7, of which the first
48 bits are the milliseconds since 1970. Pure.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal, get_args
from uuid import UUID

Epoch = Literal["seconds", "milliseconds", "microseconds", "nanoseconds"]
EPOCHS: tuple[Epoch, ...] = get_args(Epoch)
Range = tuple[datetime, datetime]

_NANOSECONDS: dict[str, int] = {
    "seconds": 1_000_000_000,
    "milliseconds": 1_000_000,
    "microseconds": 1_000,
    "nanoseconds": 1,
}
_1970 = datetime(1970, 1, 1)
_MICROSECOND = timedelta(microseconds=1)
# As files call them and as PostgreSQL prints them; a precision may follow.
_KINDS = {
    "date": "date",
    "timestamp": "timestamp",
    "timestamp without time zone": "timestamp",
    "timestamptz": "timestamptz",
    "timestamp with time zone": "timestamptz",
    "int4": "integer",
    "integer": "integer",
    "int8": "bigint",
    "bigint": "bigint",
    "uuid": "uuid",
}
TIMES = frozenset({"date", "timestamp", "timestamptz"})
_LARGEST = {"integer": 2**31 - 1, "bigint": 2**63 - 1}
# By its size a number tells its unit for 1973 to 5138; used to notice a wrong one, not to read it.
_PLAUSIBLE = (datetime(1973, 3, 3, 9, 46, 40), datetime(5138, 11, 16, 9, 46, 40))


def kind(type_: str) -> str | None:
    """The kind of a column's type: a key of what is supported, or None."""
    return _KINDS.get(re.sub(r"\(\d+\)", "", type_))


@dataclass(frozen=True, slots=True)
class Control:
    """The type of a control column, and what its numbers count where they are numbers."""

    kind: str
    epoch: Epoch | None = None

    @classmethod
    def of(cls, type_: str, epoch: Epoch | None) -> Control:
        """Raises KeyError for a type that `kind` does not know."""
        return cls(_KINDS[re.sub(r"\(\d+\)", "", type_)], epoch)

    @property
    def span(self) -> Range:
        """The first and the last moment that a bound can name."""
        match self.kind:
            case "uuid":
                return _1970, datetime.max
            case "integer" | "bigint":
                largest = _LARGEST[self.kind] * self._unit // 1_000
                last = _later(largest)
                return (_later(-largest) if last < datetime.max else datetime.min), last
            case _:
                return datetime.min, datetime.max

    @property
    def _unit(self) -> int:
        assert self.epoch is not None
        return _NANOSECONDS[self.epoch]

    def fitting(self, ranges: Iterable[Range]) -> tuple[Range, ...]:
        """The parts of ranges whose bounds the type can hold."""
        first, last = self.span
        cut = ((max(lower, first), min(upper, last)) for lower, upper in ranges)
        return tuple((lower, upper) for lower, upper in cut if lower < upper)

    def literal(self, moment: datetime) -> str:
        """The text of a bound at this moment, for the column's input function.

        No offset for a column without time zone, which would ignore it. A fraction of the unit is
        dropped.
        """
        match self.kind:
            case "date":
                return moment.date().isoformat()
            case "timestamp":
                return moment.isoformat(sep=" ")
            case "timestamptz":
                return f"{moment.isoformat(sep=' ')}+00"
            case "uuid":
                milliseconds = (moment - _1970) // timedelta(milliseconds=1)
                return str(UUID(int=milliseconds << 80))
            case _:
                return str((moment - _1970) // _MICROSECOND * 1_000 // self._unit)


def decode(text: str, epoch: Epoch | None, *, up: bool) -> datetime | None:
    """The moment of a bound that PostgreSQL deparsed in UTC, without quotes; None for no moment.

    What falls between two microseconds, or outside the years 1 to 9999, becomes the next moment
    that there is: `up` rounds to the later one, so that a partition never looks smaller than it is.
    """
    if text in {"infinity", "-infinity"} or text.endswith(" BC"):
        return datetime.max if text == "infinity" else datetime.min
    if re.fullmatch(r"-?\d+", text):
        if epoch is None:
            return None
        return _rounded(int(text) * _NANOSECONDS[epoch], 1_000, up=up)
    if re.fullmatch(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", text):
        return _rounded(UUID(text).int * 1_000, 2**80, up=up)
    if re.match(r"\d{5,}-", text):
        return datetime.max
    with suppress(ValueError):
        return datetime.fromisoformat(text).replace(tzinfo=None)
    return None


def _rounded(count: int, per_microsecond: int, *, up: bool) -> datetime:
    return _later(-(-count // per_microsecond) if up else count // per_microsecond)


def _later(microseconds: int) -> datetime:
    try:
        return _1970 + timedelta(microseconds=microseconds)
    except OverflowError:
        return datetime.max if microseconds > 0 else datetime.min


def plausible(moments: Iterable[datetime | None]) -> bool:
    """Whether any of these bounds is of our time: none is where they are read in a wrong unit."""
    known = [m for m in moments if m is not None]
    return not known or any(_PLAUSIBLE[0] <= m < _PLAUSIBLE[1] for m in known)


def fault(type_: str, epoch: Epoch | None, *, whole_days: bool) -> tuple[str, str, str] | None:
    """What is wrong with a control column: the key of `partition:` at fault, why, and a hint.

    `whole_days` says whether partitions are cut at midnight only.
    """
    found = kind(type_)
    if found is None:
        return "by", f"of type {type_}, not a date, a timestamp, a bigint or a uuid", ""
    if found in _LARGEST and epoch is None:
        return (
            "by",
            f"of type {type_}, and nothing says what its numbers count",
            f"add `epoch:` to the partition, one of {', '.join(EPOCHS)}",
        )
    if found == "integer" and epoch != "seconds":
        return "epoch", f"of type {type_}, which holds no {epoch}", "make the column a bigint"
    if found not in _LARGEST and epoch is not None:
        return "epoch", f"of type {type_}, which counts nothing", "remove `epoch:`"
    if found == "date" and not whole_days:
        return "every", f"of type {type_}, which has no hours", "cut by whole days"
    return None
