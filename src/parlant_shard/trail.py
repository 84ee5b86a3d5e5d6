"""The audit trail: who did what, when, from where and with which result.

Rows are in `parlant_shard.audit` on the coordinator. A trigger numbers them, dates them and chains
their hashes; another refuses every change (docs/audit.md). The trail follows a command, it never
stops one: what could not be written is told as a notice.
"""

from __future__ import annotations

import getpass
import socket
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from functools import cache
from typing import Any
from uuid import UUID

import psycopg
from psycopg.conninfo import make_conninfo
from psycopg.types.json import Jsonb

from parlant_shard import db
from parlant_shard.db import Connection
from parlant_shard.errors import (
    CannotConnect,
    HazardNotAllowed,
    Locked,
    ShardError,
    StalePlan,
    TopologyError,
)
from parlant_shard.sqlfiles import queries
from parlant_shard.topology import Topology

# Seconds. The trail of a command that is over must not hold it up.
_CONNECT_TIMEOUT = 3
# The trail is not there: never applied, or by an older release.
_MISSING = frozenset({"42P01", "3F000"})
# This role may only read, or the server is a replica.
_MAY_NOT = frozenset({"42501", "25006"})


class Result(StrEnum):
    """How a command, or one step of it, ended. `begun` stands before a destructive step."""

    BEGUN = "begun"
    DONE = "done"
    FINDINGS = "findings"
    REFUSED = "refused"
    FAILED = "failed"
    INTERRUPTED = "interrupted"


@dataclass(slots=True, kw_only=True)
class Entry:
    """What `recorded` is going to write; the command fills it in while it runs."""

    objects: Sequence[str] = ()
    result: Result = Result.DONE
    detail: dict[str, Any] = field(default_factory=dict)
    run_id: UUID | None = None
    write: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One row of the trail, as `status --history` shows it."""

    id: int
    at: datetime
    command: str
    objects: Sequence[str]
    result: str
    detail: Mapping[str, Any]
    run_id: UUID | None
    actor: str
    client_address: str | None
    os_user: str
    os_host: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Chain:
    """What a look at the whole trail found; `broken_at` is the first row that does not fit."""

    rows: int = 0
    head: str | None = None
    broken_at: int | None = None

    @property
    def ok(self) -> bool:
        return self.broken_at is None


def record(
    connection: Connection,
    topology: str,
    command: str,
    objects: Sequence[str],
    result: Result | str,
    detail: Mapping[str, Any] | None = None,
    *,
    run_id: UUID | None = None,
    reader: bool = False,
) -> str | None:
    """Write one row on the coordinator's connection, which must not be in a transaction.

    `objects` are names, `detail` is JSON: counts and codes, never values of rows. Returns why
    nothing was written, or None; None too where nothing was applied yet, and, for a `reader`, where
    the role may not write. Raises nothing of the driver's.
    """
    user, host = _who()
    row = {
        "topology": topology,
        "command": command,
        "objects": list(objects),
        "result": str(result),
        "detail": Jsonb(dict(detail or {})),
        "run_id": run_id,
        "os_user": user,
        "os_host": host,
    }
    for last in (False, False, True):
        try:
            # One statement: another thread may be using the session between two of ours.
            connection.execute(queries("trail")["record"], row)
        except psycopg.Error as error:
            if error.sqlstate in db.RETRYABLE and not last:
                continue  # somebody else writes; the lock timeout was the pause
            silent = _MISSING | _MAY_NOT if reader else _MISSING
            return None if error.sqlstate in silent else _notice(error)
        break
    return None


def record_dead(
    connection: Connection,
    topology: str,
    runs: Sequence[tuple[UUID, str]],
    tell: Callable[[str], None],
) -> None:
    """Write for runs whose process is gone what they could not write themselves."""
    for run_id, command in runs:
        detail = {"message": "its process is gone"}
        notice = record(
            connection, topology, command, [], Result.INTERRUPTED, detail, run_id=run_id
        )
        if notice:
            tell(notice)


@contextmanager
def recorded(
    topology: Topology,
    command: str,
    *,
    tell: Callable[[str], None] = lambda _text: None,
    connection: Callable[[], Connection | None] = lambda: None,
    reader: bool = False,
) -> Iterator[Entry]:
    """Write a row when the block ends, however it ends; the block fills in the entry.

    `connection` gives one to the coordinator that is free then; without it one is opened. `tell`
    gets the notice where the row could not be written (see `record`).
    """
    entry = Entry()
    try:
        yield entry
    except BaseException as error:
        entry.result = _result_of(error)
        entry.detail = {**entry.detail, **_cause(error)}
        # What is wrong with the file (a pooler's address, say) keeps us away from the servers.
        if not isinstance(error, TopologyError):
            # Where it is the coordinator that cannot be reached, the error itself says so.
            said = (lambda _text: None) if isinstance(error, CannotConnect) else tell
            _end(topology, command, entry, said, connection(), reader)
        raise
    _end(topology, command, entry, tell, connection(), reader)


def _end(
    topology: Topology,
    command: str,
    entry: Entry,
    tell: Callable[[str], None],
    connection: Connection | None,
    reader: bool,
) -> None:
    if not entry.write:
        return
    values = (topology.name, command, entry.objects, entry.result, entry.detail)
    if connection is not None and not connection.closed:
        notice = record(connection, *values, run_id=entry.run_id, reader=reader)
    else:
        try:
            with opened(topology) as own:
                notice = record(own, *values, run_id=entry.run_id, reader=reader)
        except ShardError as error:
            notice = f"the audit trail was not written: {error.message}"
    if notice:
        tell(notice)


@contextmanager
def opened(topology: Topology) -> Iterator[Connection]:
    """Connect to the coordinator for the trail alone. Raises CannotConnect (PS401)."""
    dsn = db.conninfo(topology, topology.coordinator)
    connection = db.connect(
        make_conninfo(dsn, connect_timeout=_CONNECT_TIMEOUT),
        server=topology.coordinator,
        application="parlant-shard audit",
    )
    try:
        yield connection
    finally:
        connection.close()


def history(connection: Connection, topology: str, limit: int = 50) -> list[Row]:
    """Return the newest rows of a topology, newest first; none where there is no trail yet."""
    try:
        rows = connection.execute(
            queries("trail")["history"], {"topology": topology, "limit": limit}
        ).fetchall()
    except psycopg.errors.UndefinedTable:
        return []
    return [Row(**row) for row in rows]


def check(connection: Connection) -> Chain:
    """Compute the whole chain again, of all topologies of this coordinator.

    It finds rows that were changed, inserted or taken out. It cannot find that the newest rows were
    cut off, or that an owner wrote the whole chain anew: compare `head` with one kept elsewhere.
    """
    try:
        row = connection.execute(queries("trail")["check"]).fetchone()
    except psycopg.errors.UndefinedTable:
        row = None
    return Chain(**row) if row else Chain()


def estimates(connection: Connection, namespace: str, names: Sequence[str]) -> dict[str, int]:
    """Return the estimated rows of those of the names that are tables of this server."""
    rows = connection.execute(
        queries("trail")["estimates"], {"namespace": namespace, "names": list(names)}
    ).fetchall()
    return {row["name"]: row["rows"] for row in rows}


def row_json(row: Row) -> dict[str, Any]:
    """Return a row as `status --history --output json` has it."""
    return {
        "id": row.id,
        "at": row.at.isoformat(),
        "command": row.command,
        "objects": list(row.objects),
        "result": row.result,
        "detail": dict(row.detail),
        "run_id": None if row.run_id is None else str(row.run_id),
        "actor": row.actor,
        "client_address": row.client_address,
        "os_user": row.os_user,
        "os_host": row.os_host,
    }


def _result_of(error: BaseException) -> Result:
    match error:
        case Locked() | StalePlan() | HazardNotAllowed():
            return Result.REFUSED
        case Exception():
            return Result.FAILED
        case _:
            return Result.INTERRUPTED


def _cause(error: BaseException) -> dict[str, Any]:
    """The code and our own message. A foreign exception may quote anything: its name alone."""
    if isinstance(error, ShardError):
        return {"code": error.code, "message": db.redact(error.message)}
    return {"error": type(error).__name__}


def _notice(error: psycopg.Error) -> str:
    return f"the audit trail was not written: {db.redact(str(error)).strip().splitlines()[0]}"


@cache
def _who() -> tuple[str, str]:
    """The account and the machine as this process knows them; a claim, not a proof."""
    user = ""
    with suppress(Exception):  # no account of that number, no environment: KeyError, OSError
        user = getpass.getuser()
    return user, socket.gethostname()
