"""Advisory locks of runs: they fall with their session, and a holder that lives shows it.

`apply` holds its topology's lock alone. Every `maintain` shares it, so that the two exclude each
other, and takes locks of its own on the tables of each server.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg

from parlant_shard import db, preflight
from parlant_shard.errors import Locked
from parlant_shard.topology import Topology

# Seconds. What a dead run left running gets this long to end, then it is terminated.
LEFTOVER_WAIT = 30.0
# The holder of the lock says something this often; silence of several beats means it is dead.
HEARTBEAT = 2.0
SILENCE = 10.0
# A server may need a moment to notice that its client was killed: until then the lock is held by
# nobody. A live holder is known by its next beat.
_NOTICE = 1.5 * HEARTBEAT


@contextmanager
def run_lock(topology: Topology, *, wait: float = LEFTOVER_WAIT) -> Iterator[db.Connection]:
    """Hold the topology's lock. Raises Locked (PS501) while a live run has it.

    Raises TopologyError (PS170) first, where a pooler would let go of it in between.
    """
    preflight.refuse_poolers(topology)
    with db.session(
        topology, topology.coordinator, application=f"parlant-shard lock {topology.name}"
    ) as connection:
        take_topology(connection, topology.name, wait=wait)
        with heartbeat(connection):
            yield connection


def take_topology(
    connection: db.Connection, topology: str, *, shared: bool = False, wait: float = LEFTOVER_WAIT
) -> None:
    """Take a topology's lock on the coordinator. Raises Locked (PS501) while a live run has it."""
    holder = acquire(connection, topology_key(topology), shared=shared, wait=wait)
    if holder is not None:
        raise Locked(
            f'another run holds the lock of topology "{topology}" '
            f"(pid {holder['pid']} on the coordinator, since {holder['since']} UTC)",
            code="PS501",
            hint="wait for it, or look at `parlant-shard status`; nothing was changed",
        )


def acquire(
    connection: db.Connection, key: str, *, shared: bool = False, wait: float = LEFTOVER_WAIT
) -> dict[str, Any] | None:
    """Take a lock; return the holder where a live session has it.

    A holder whose session shows no heartbeat is dead (its machine vanished, say): its session is
    ended after `wait` seconds at the latest.
    """
    began = time.monotonic()
    first = None
    while not _try_lock(connection, key, shared=shared):
        holder = _holder(connection, key)
        if holder is None:
            continue  # it let go between the two questions
        sign = (holder["pid"], holder["beat"])
        first = first or sign
        waited = time.monotonic() - began
        if holder["silence"] is None or holder["silence"] < SILENCE:
            if sign != first or waited > _NOTICE:
                return holder
        elif waited > wait:
            connection.execute("SELECT pg_catalog.pg_terminate_backend(%s)", [holder["pid"]])
        time.sleep(0.1)
    return None


@contextmanager
def heartbeat(connection: db.Connection) -> Iterator[None]:
    """Say something on a session now and then: whoever wants its locks sees that it lives."""
    stop = threading.Event()
    thread = threading.Thread(target=_beat, args=(connection, stop), daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def lock_is_free(connection: db.Connection, topology: str) -> bool:
    """Whether no run holds the lock of a topology. Asks on the coordinator, takes nothing."""
    return _holder(connection, topology_key(topology)) is None


def topology_key(topology: str) -> str:
    return f"parlant-shard {topology}"


def _try_lock(connection: db.Connection, key: str, *, shared: bool) -> bool:
    alone = (
        "SELECT pg_catalog.pg_try_advisory_lock(pg_catalog.hashtextextended(%s, 0)) AS held",
        "SELECT pg_catalog.pg_try_advisory_lock_shared(pg_catalog.hashtextextended(%s, 0)) AS held",
    )
    row = connection.execute(alone[shared], [key]).fetchone()
    return bool(row and row["held"])


def _holder(connection: db.Connection, key: str) -> dict[str, Any] | None:
    return connection.execute(
        "SELECT a.pid, pg_catalog.to_char(a.backend_start, 'YYYY-MM-DD HH24:MI:SS') AS since, "
        "a.state_change AS beat, "
        "extract(epoch FROM pg_catalog.clock_timestamp() - a.state_change)::float8 AS silence "
        "FROM pg_catalog.pg_locks l JOIN pg_catalog.pg_stat_activity a USING (pid) "
        "WHERE l.locktype = 'advisory' AND l.granted AND l.objsubid = 1 "
        "AND l.database = (SELECT d.oid FROM pg_catalog.pg_database d "
        "WHERE d.datname = current_database()) "
        "AND (l.classid::bigint << 32 | l.objid::bigint) = pg_catalog.hashtextextended(%s, 0) "
        "ORDER BY a.state_change LIMIT 1",
        [key],
    ).fetchone()


def _beat(connection: db.Connection, stop: threading.Event) -> None:
    while not stop.wait(HEARTBEAT):
        try:
            connection.execute("SELECT 1")
        except psycopg.Error:
            return  # the run notices by itself: its next use of the session fails
