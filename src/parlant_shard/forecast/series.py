"""What forecasts are made of: sizes of today, samples, and rows by the age of their timestamps.

Reading is bounded. A table whose heap is larger than READ is read in part (TABLESAMPLE SYSTEM, the
same blocks each time), of all tables of a server not more than BUDGET is read, and no statement
runs longer than TIMEOUT.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

import psycopg
from psycopg.sql import SQL, Composable, Composed, Identifier, Literal

from parlant_shard import control, db, journal
from parlant_shard.allrows import every_row
from parlant_shard.partitions import seconds
from parlant_shard.sqlfiles import queries
from parlant_shard.topology import Partition, Topology

READ = 256 * 2**20  # bytes of heap: a few seconds from disk
BUDGET = 4 * 2**30  # bytes of heap on one server, however many tables it has
TIMEOUT = "20s"
# Ages in days up to eight weeks, in weeks up to two years; what is older has one place.
DAILY, WEEKLY = 56, 97
OLDEST = DAILY + 7 * WEEKLY
_DAY = 86_400
# Control columns that are no time: what is out of the calendar has no moment.
_UNITS = {"seconds": 1, "milliseconds": 10**3, "microseconds": 10**6, "nanoseconds": 10**9}
_LAST = 253_402_300_799  # the last second of the year 9999
_OF_NUMBER = "CASE WHEN {0} BETWEEN 0 AND {last} THEN pg_catalog.to_timestamp({0} / {unit}) END"
_OF_UUID = (
    "pg_catalog.to_timestamp(('x' || pg_catalog.translate(pg_catalog.left({}::text, 13), '-', ''))"
    "::pg_catalog.bit(48)::bigint / 1000)"
)
# Why a table could not be read, by SQLSTATE.
_UNREAD = {
    "57014": "in time",
    "55P03": "for a lock",
    "42501": "as a whole, because the role lacks SELECT or row-level security hides rows from it",
}
# What the moment of a row's creation is called, the best first.
_CREATED = (
    "created_at",
    "creation_utc",
    "created",
    "created_on",
    "creation_time",
    "inserted_at",
    "occurred_at",
    "timestamp",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Stock:
    """One table of one shard, as it is now."""

    server: str
    shard: str
    logical: str
    rows: float
    bytes: int
    kept: float | None = None  # days until its rows leave the disk; None for never
    read: float = 0.0  # the part that was read; 0 for none
    moment: str | None = None  # the column that says when a row came
    expires: bool = False  # its partitions are detached after a while

    @property
    def width(self) -> float:
        """Bytes per row, with indexes."""
        return self.bytes / self.rows if self.rows else 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Rows:
    """Rows of one workspace in one table of a shard; without a workspace, of archived partitions.

    They came between `oldest` and `newest` days ago, where their table says so.
    """

    server: str
    shard: str
    logical: str
    workspace: str | None
    rows: float
    oldest: float | None = None
    newest: float | None = None
    stored: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """The size of one table of a shard, or of one workspace in it, some days ago."""

    server: str
    shard: str
    logical: str
    workspace: str | None
    ago: float
    rows: float
    bytes: float


@dataclass(slots=True, kw_only=True)
class Measured:
    """What one server has. `applied` is false where the topology never came to be there."""

    server: str
    applied: bool = True
    bytes: int = 0
    stocks: list[Stock] = field(default_factory=list)
    rows: list[Rows] = field(default_factory=list)
    samples: list[Sample] = field(default_factory=list)
    notices: list[str] = field(default_factory=list)


def clock(topology: Topology, server: str) -> datetime:
    """The server's clock, in UTC without zone."""
    with db.session(topology, server, doing="asking for the time") as connection:
        row = connection.execute(queries("forecast")["server"]).fetchone()
    assert row is not None
    now: datetime = row["now"]
    return now


def measure(topology: Topology, server: str, now: datetime) -> Measured:
    """Read one server. Raises ServerError."""
    found = Measured(server=server)
    with db.session(topology, server, doing="measuring growth") as connection:
        if not journal.exists(connection, server):
            found.applied = False
            return found
        connection.execute(
            "SELECT pg_catalog.set_config('statement_timeout', %s, false)", [TIMEOUT]
        )
        about = connection.execute(queries("forecast")["server"]).fetchone()
        assert about is not None
        found.bytes = about["bytes"]
        params = {"topology": topology.name, "namespace": topology.namespace, "now": now}
        rows = connection.execute(queries("forecast")["tables"], params).fetchall()
        most = _share([row["heap"] for row in rows])
        for row in rows:
            _table(connection, topology, found, row, now, most)
        if not about["samples"]:
            found.notices.append(
                f'server "{server}" has no room for samples yet: run `parlant-shard apply '
                f"{topology.file}`"
            )
            return found
        for row in connection.execute(queries("forecast")["retired"], params).fetchall():
            newest, oldest = ((now - row[k]).total_seconds() / _DAY for k in ("upper", "lower"))
            found.rows.append(
                Rows(
                    server=server,
                    shard=row["shard"],
                    logical=row["logical"],
                    workspace=None,
                    rows=row["rows"],
                    oldest=oldest,
                    newest=newest,
                    stored=False,
                )
            )
        found.samples = [
            Sample(server=server, **{**row, "workspace": row["workspace"] or None})
            for row in connection.execute(queries("forecast")["samples"], params).fetchall()
        ]
    return found


def _share(heaps: Sequence[int]) -> float:
    """The bytes that are read of one table, so that all together stay within BUDGET."""
    most = float(READ)
    while sum(min(heap, most) for heap in heaps) > BUDGET:
        most /= 2
    return most


def _table(
    connection: db.Connection,
    topology: Topology,
    found: Measured,
    row: Mapping[str, Any],
    now: datetime,
    most: float,
) -> None:
    partition = topology.partition_of(row["logical"])
    moment = _moment(row["moments"] or [], partition)
    stock = Stock(
        server=found.server,
        shard=row["shard"],
        logical=row["logical"],
        rows=row["rows"],
        bytes=row["bytes"],
        kept=None if partition is None else _kept(partition),
        moment=None if moment is None else moment[0],
        expires=partition is not None and partition.retention is not None,
    )
    part = min(1.0, most / row["heap"]) if row["heap"] else 1.0
    try:
        if row["policies"]:
            connection.execute(every_row(topology.namespace, [row["name"]], local=False))
        counted = connection.execute(_query(topology, row["name"], moment, part, now)).fetchall()
    except psycopg.Error as error:
        why = _UNREAD.get(error.sqlstate or "")
        if why is None:
            raise
        found.notices.append(
            f'"{row["name"]}" on server "{found.server}" could not be read {why}: it is left to '
            "its samples"
        )
        found.stocks.append(stock)
        return
    seen = sum(c["rows"] for c in counted)
    # A part of a table says less about its number of rows than ANALYZE knows.
    rows = stock.rows if part < 1.0 and stock.rows else seen / part
    found.stocks.append(replace(stock, rows=rows, read=part))
    for c in counted:
        if c["workspace"] is not None:
            oldest, newest = ages(c["place"])
            found.rows.append(
                Rows(
                    server=found.server,
                    shard=row["shard"],
                    logical=row["logical"],
                    workspace=c["workspace"],
                    rows=c["rows"] * rows / seen,
                    oldest=oldest,
                    newest=newest,
                )
            )


def ages(place: int | None) -> tuple[float | None, float | None]:
    """The days between which the rows of a place came; the last place has no beginning."""
    if place is None:
        return None, None
    if place < DAILY:
        return place + 1.0, float(place)
    if place < DAILY + WEEKLY:
        return DAILY + 7.0 * (place - DAILY + 1), DAILY + 7.0 * (place - DAILY)
    return None, float(OLDEST)


def _moment(
    columns: list[dict[str, Any]], partition: Partition | None
) -> tuple[str, Composable] | None:
    """The column that says when a row came: by its use, its name, or its default of now().

    With it comes the expression of that moment: a control column may be a number or a UUIDv7.
    """
    kinds = {c["name"]: control.kind(c["type"]) for c in columns}
    if partition is not None and partition.by in kinds:
        column = Identifier(partition.by)
        match kinds[partition.by]:
            case "uuid":
                return partition.by, SQL(_OF_UUID).format(column)
            case "integer" | "bigint" if partition.epoch is not None:
                unit = _UNITS[partition.epoch]
                return partition.by, SQL(_OF_NUMBER).format(
                    column, last=Literal(_LAST * unit), unit=Literal(unit)
                )
            case kind if kind in control.TIMES:
                return partition.by, column
    names = [c["name"] for c in columns if kinds[c["name"]] in control.TIMES]
    for name in _CREATED:
        if name in names:
            return name, Identifier(name)
    fresh = [
        c["name"]
        for c in columns
        if c["name"] in names
        and c["fresh"]
        and not any(w in c["name"] for w in ("updat", "modif", "last", "seen"))
    ]
    return (fresh[0], Identifier(fresh[0])) if len(fresh) == 1 else None


def _kept(partition: Partition) -> float | None:
    """Days that a row stays in its table, on average; None where nothing frees its disk.

    A partition goes as a whole, when its youngest row is old enough. Without an archive it is
    detached, but not dropped.
    """
    if partition.retention is None or partition.archive is None:
        return None
    return (seconds(partition.retention) + seconds(partition.every) / 2) / _DAY


def _query(
    topology: Topology,
    table: str,
    moment: tuple[str, Composable] | None,
    part: float,
    now: datetime,
) -> Composed:
    sample = Composed([])
    if part < 1.0:
        sample = SQL("TABLESAMPLE SYSTEM ({}) REPEATABLE (1)").format(Literal(100 * part))
    named = {
        "key": Identifier(topology.key),
        "table": Identifier(topology.namespace, table),
        "sample": sample,
    }
    if moment is None:
        return SQL(queries("forecast")["counts"]).format(**named)
    return SQL(queries("forecast")["inflow"]).format(
        **named,
        moment=moment[1],
        now=Literal(now),
        daily=Literal(DAILY),
        weekly=Literal(WEEKLY),
    )
