"""What default partitions hold, and which partitions their rows belong into. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

from psycopg.sql import SQL, Composable, Composed, Identifier, Literal

from parlant_shard.catalog import Table
from parlant_shard.control import Control
from parlant_shard.ddl import control_of
from parlant_shard.partitions import Range, floor, shift, uncovered
from parlant_shard.topology import Interval

# Partitions that one run makes of one default partition: each takes locks, in one transaction.
MOST = 100

_HOUR = timedelta(hours=1)
_1970 = datetime(1970, 1, 1)
_PER_HOUR = {
    "seconds": 3_600,
    "milliseconds": 3_600_000,
    "microseconds": 3_600_000_000,
    "nanoseconds": 3_600_000_000_000,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Contents:
    """What a default partition holds. `hours` is None where it was too much to look at.

    `rows` is counted up to a limit. An hour since 1970 (UTC) → its rows; rows of no moment are
    under None: NULL, infinity, an id that is not UUIDv7.
    """

    rows: int
    hours: Mapping[int | None, int] | None = None

    def within(self, lower: datetime, upper: datetime) -> int:
        """How many rows lie in a range, by whole hours."""
        first, last = (lower - _1970) // _HOUR, -((_1970 - upper) // _HOUR)
        return sum(n for hour, n in self._known() if first <= hour < last)

    def ranges(
        self, interval: Interval, taken: Iterable[tuple[datetime | None, datetime | None]]
    ) -> tuple[Range, ...]:
        """The ranges of partitions that the rows belong into, the oldest first."""
        aligned = dict.fromkeys(
            floor(interval, _1970 + hour * _HOUR)
            for hour, _ in sorted(self._known())
            if _EARLIEST <= hour < _LATEST
        )
        whole = [(start, shift(interval, start, 1)) for start in aligned]
        return tuple(r for r in uncovered(whole, taken) if self.within(*r))

    def _known(self) -> list[tuple[int, int]]:
        return [(h, n) for h, n in (self.hours or {}).items() if h is not None]


# Further out an interval of several years would pass the end of the calendar.
_EARLIEST, _LATEST = ((datetime(y, 1, 1) - _1970) // _HOUR for y in (1000, 9000))


def hours_query(table: Composable, parent: Table) -> Composed:
    """A query for (hour, rows) of a default partition."""
    assert parent.partition_by is not None
    return SQL(
        "SELECT hour, count(*) AS rows FROM (SELECT {} AS hour FROM ONLY {}) AS found GROUP BY hour"
    ).format(_hour(Identifier(parent.partition_by), control_of(parent)), table)


def _hour(column: Composable, control: Control) -> Composed:
    match control.kind:
        case "uuid":
            return SQL(
                "CASE WHEN pg_catalog.substr({0}::text, 15, 1) = '7' THEN ('x' || pg_catalog."
                "substr(pg_catalog.replace({0}::text, '-', ''), 1, 12))::bit(48)::bigint / 3600000 "
                "END"
            ).format(column)
        case "integer" | "bigint":
            assert control.epoch is not None
            return SQL("pg_catalog.floor({}::numeric / {})::bigint").format(
                column, Literal(_PER_HOUR[control.epoch])
            )
        case "timestamptz":
            moment = SQL("pg_catalog.timezone('UTC', {})").format(column)
        case _:
            moment = SQL("{}::timestamp").format(column)
    return SQL(
        "CASE WHEN pg_catalog.isfinite({0}) THEN pg_catalog.floor(EXTRACT(epoch FROM {1}) / 3600)"
        "::bigint END"
    ).format(column, moment)
