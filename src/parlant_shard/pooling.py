"""Find out what stands between us and a server: nothing, a proxy, or a pooler."""

from __future__ import annotations

import select
import time
from enum import StrEnum

import psycopg
from psycopg.pq import ExecStatus

from parlant_shard import db
from parlant_shard.errors import CannotConnect

_PATIENCE = 5.0  # seconds; a pooler without a free server connection makes us wait in silence


class Pooling(StrEnum):
    """What stands between us and the server."""

    NONE = "none"
    SESSION = "session"  # something that keeps a server connection for us
    TRANSACTION = "transaction"  # a server connection per transaction, or per statement


def pooling_of(dsn: str, *, server: str) -> Pooling:
    """Find out whether statements of one connection go to one backend.

    A pooler makes up the process id of the log-in; that alone tells a proxy. With a backend per
    transaction, two open connections are seen in the same process, or one of them changes its
    process. Leaves no state behind. Raises CannotConnect; where only the second connection fails,
    nothing is known and the answer is `NONE`.
    """
    opened = [db.bare(dsn, server=server)]
    try:
        opened.append(db.bare(dsn, server=server))
        first, second = opened
        pids = [_backend(first), _backend(second)]
        if None in pids:
            return Pooling.SESSION  # it waits for a free server connection
        if pids[0] == pids[1]:
            return Pooling.TRANSACTION
        if pids[0] == first.info.backend_pid and pids[1] == second.info.backend_pid:
            return Pooling.NONE
        for _ in range(3):
            # One transaction keeps a backend, so that the other connection has to take the next;
            # the backend that is given back last is handed out first.
            _run(first, b"BEGIN")
            held, other = _backend(first), _backend(second)
            _run(first, b"COMMIT")
            if {held, other} != set(pids) or held != pids[0] or _backend(second) != pids[1]:
                return Pooling.TRANSACTION
    except (CannotConnect, psycopg.Error, OSError):
        return Pooling.NONE
    else:
        return Pooling.SESSION
    finally:
        for connection in opened:
            connection.close()


def _backend(connection: db.Connection) -> int | None:
    """The process that answers; None where nobody does in time."""
    value = _run(connection, b"SELECT pg_catalog.pg_backend_pid()")
    return None if value is None else int(value)


def _run(connection: db.Connection, statement: bytes) -> bytes | None:
    """Run a statement, and wait a little: no timeout of a server holds in a pooler's queue."""
    pgconn = connection.pgconn
    pgconn.send_query(statement)
    pgconn.flush()
    deadline = time.monotonic() + _PATIENCE
    value = None
    while True:
        while pgconn.is_busy():  # else reading a result would wait without end
            left = deadline - time.monotonic()
            if left <= 0 or not select.select([pgconn.socket], [], [], left)[0]:
                return None
            pgconn.consume_input()
        result = pgconn.get_result()
        if result is None:
            return value
        if result.status == ExecStatus.TUPLES_OK:
            value = result.get_value(0, 0)
        elif result.status != ExecStatus.COMMAND_OK:
            raise psycopg.OperationalError("the statement failed")
