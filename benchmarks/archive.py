"""Archiving a partition, against a plain COPY of the same table in the same run."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import psycopg

from benchmarks.cluster import fresh, topology
from parlant_shard.apply import apply
from parlant_shard.archive import making
from parlant_shard.maintain import maintain
from parlant_shard.restore import restore

Row = tuple[str, str, str, str]

EVENTS = 400_000
_STEPS = {
    "_copy": "checksum and COPY through zstd to the disk",
    "_verify": "reading it again and loading it into a temporary table",
    "_drop": "checksum and DROP TABLE",
}


def archiving(dsns: dict[str, str], home: Path) -> list[Row]:
    """One partition of events: COPY TO STDOUT alone, then the archive with its parts, then back."""
    server = dict(list(dsns.items())[:1])
    places = fresh(server, "archiving")
    partition = "{by: created_at, every: 1 month, retention: 2 months, archive: archive/}"
    found = topology(
        home,
        places,
        shards=1,
        name="archiving",
        extra=f"tables:\n  parlant_event: {{partition: {partition}}}\n",
    )
    apply(found)
    with psycopg.connect(next(iter(places.values())), autocommit=True) as connection:
        name, size = _filled(connection)
        plain = _timed(lambda: _copied(connection, name))
        now = datetime.now() + timedelta(days=150)
        maintain(found, now=now)
        with _stopwatch() as parts:
            began = time.perf_counter()
            report = maintain(found, now=now + timedelta(days=8))
            run = time.perf_counter() - began
    assert not report.failures, report.failures
    (made,) = [a for a in report.archived if a.rows == EVENTS]
    whole = sum(parts.values())
    rows = [
        _row("COPY TO STDOUT of the partition, thrown away", plain, size, plain),
        _row(f"archive, {made.bytes / 1e6:.0f} MB on disk, verified, dropped", whole, size, plain),
        *(_row(f"of it: {_STEPS[key]}", took, size, plain) for key, took in parts.items()),
        ("the maintain run around it", f"{run:.1f} s", "", ""),
    ]
    back = _timed(lambda: restore(found, name))
    rows.append(_row("archive restore, attached", back, size, plain))
    return rows


def _row(what: str, took: float, size: int, plain: float) -> Row:
    speed = f"{took:.2f} s, {EVENTS / took / 1000:.0f}k rows/s, {size / took / 1e6:.0f} MB/s"
    beside = "" if took == plain else f"COPY alone {plain:.2f} s"
    return (what, speed, beside, "" if took == plain else f"{took / plain:.1f}x")


def _timed(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def _copied(connection: psycopg.Connection, name: str) -> int:
    with connection.cursor().copy(f"COPY {name} TO STDOUT") as copy:
        return sum(len(row) for row in copy)


def _filled(connection: psycopg.Connection) -> tuple[str, int]:
    """Events of this month, each with a payload of some hundred bytes; partition and its text."""
    connection.execute("INSERT INTO workspace (id, name) VALUES ('w0x0', 'bench')")
    connection.execute("""INSERT INTO "user" (id, name, email) VALUES ('u', 'bench', 'u@x')""")
    connection.execute(
        "INSERT INTO parlant_agent_s0 (workspace_id, name, created_by) "
        "VALUES ('w0x0', 'bench', 'u')"
    )
    connection.execute(
        "INSERT INTO parlant_session_s0 (workspace_id, agent_id) "
        "SELECT 'w0x0', id FROM parlant_agent_s0"
    )
    connection.execute(_EVENTS)
    row = connection.execute(
        "SELECT tableoid::regclass::text FROM parlant_event_s0 LIMIT 1"
    ).fetchone()
    assert row is not None
    return row[0], _copied(connection, row[0])


_EVENTS = f"""
INSERT INTO parlant_event_s0 (workspace_id, session_id, "offset", event_type, content, created_at)
SELECT 'w0x0', s.id, i, (enum_range(NULL::event_type))[1],
       jsonb_build_object('message', repeat(md5(i::text), 6), 'n', i), now()
  FROM parlant_session_s0 s, generate_series(1, {EVENTS}) i
"""


@contextmanager
def _stopwatch() -> Iterator[dict[str, float]]:
    """Time the parts of the protocol for the partition with the rows."""
    taken: dict[str, float] = {}
    originals = {name: getattr(making._Making, name) for name in _STEPS}

    def timed(name: str) -> Callable[..., Any]:
        def wrapped(self: Any, *args: Any) -> Any:
            began = time.perf_counter()
            found = originals[name](self, *args)
            # Empty partitions take milliseconds: the longest is the one.
            taken[name] = max(taken.get(name, 0.0), time.perf_counter() - began)
            return found

        return wrapped

    for name in _STEPS:
        setattr(making._Making, name, timed(name))
    try:
        yield taken
    finally:
        for name, original in originals.items():
            setattr(making._Making, name, original)
