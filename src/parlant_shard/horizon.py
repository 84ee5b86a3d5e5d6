"""How far the partitions of each table reach: the days until inserts would fail. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from parlant_shard.catalog import Retired
from parlant_shard.partitions import alarm, covered_until
from parlant_shard.topology import Partition, Topology


@dataclass(frozen=True, slots=True, kw_only=True)
class Horizon:
    """How long inserts into a table cut by time will find a partition of their time."""

    until: datetime | None  # None: for ever
    left: timedelta | None
    alarm: timedelta
    low: bool  # below the alarm, and no default partition that would take the rows
    has_default: bool  # rows from `until` on are taken by it, and do not fail


def horizon(
    partition: Partition,
    existing: Iterable[tuple[datetime | None, datetime | None]],
    now: datetime,
    *,
    has_default: bool,
) -> Horizon:
    until = covered_until(existing, now)
    threshold = alarm(partition.every, partition.premake)
    left = None if until is None else until - now
    return Horizon(
        until=until,
        left=left,
        alarm=threshold,
        low=left is not None and left < threshold and not has_default,
        has_default=has_default,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Cut:
    """One shard table that is cut by time, after the run.

    `default_rows` is None where nobody counted them, as another run holds the table.
    """

    server: str
    shard: str
    logical: str
    table: str
    partitions: int
    horizon: Horizon
    default: str | None = None
    default_rows: int | None = 0


def horizon_json(found: Horizon) -> dict[str, Any]:
    """The horizon in days until inserts fail, or go to the default partition where there is one;
    null where there is no end."""
    days = None if found.left is None else round(found.left.total_seconds() / 86_400, 3)
    return {
        "until": utc(found.until),
        "horizon_days": days,
        "alarm_days": round(found.alarm.total_seconds() / 86_400, 3),
        "low": found.low,
        "has_default": found.has_default,
    }


def utc(moment: datetime | None) -> str | None:
    return None if moment is None else f"{moment.isoformat()}Z"


def cuts(
    topology: Topology,
    server: str,
    rows: Iterable[Mapping[str, Any]],
    now: datetime,
    default_rows: Mapping[str, int],
) -> Iterator[Cut]:
    """Group partitions by their table."""
    tables: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        tables.setdefault(row["parent"], []).append(row)
    for table, members in tables.items():
        partition = topology.partition_of(members[0]["logical"])
        if partition is None:
            continue
        bounds = [(m["bound"], m["partition"]) for m in members if m["bound"] is not None]
        default = next((name for b, name in bounds if b.default), None)
        yield Cut(
            server=server,
            shard=members[0]["shard"],
            logical=members[0]["logical"],
            table=table,
            partitions=len(bounds),
            horizon=horizon(
                partition,
                [(b.lower, b.upper) for b, _ in bounds if not b.default],
                now,
                has_default=default is not None,
            ),
            default=default,
            default_rows=default_rows.get(default) if default is not None else 0,
        )


def missing(cut: Cut, retired: Iterable[Retired]) -> Retired | None:
    """Find the retired partition that is missing where the partitions of a table end too soon."""
    until = cut.horizon.until
    if until is None or not cut.horizon.low:
        return None
    for row in retired:
        if row.parent != cut.table or row.state not in {"detached", "archived"}:
            continue
        if (row.lower or datetime.min) <= until < (row.upper or datetime.max):
            return row
    return None


def gone(row: Retired) -> str:
    """Why no partition is made where one is missing, and what brings it back."""
    back = "`archive restore`" if row.archive is not None else "ALTER TABLE … ATTACH PARTITION"
    return (
        f'that time belongs to partition "{row.name}", which is retired and not made again; '
        f"{back} brings it back"
    )
