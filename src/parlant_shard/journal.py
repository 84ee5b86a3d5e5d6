"""Runs and steps, recorded in PostgreSQL where they happen.

A run is a row on the coordinator. A step is a row on the server that it changed, committed in the
step's own transaction where it has one: the row is there if and only if the work is.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from parlant_shard import db
from parlant_shard.db import Connection
from parlant_shard.plan import Plan, Step
from parlant_shard.sqlfiles import queries


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One apply, as `status` shows it. Times are those of the coordinator, with zone."""

    run_id: UUID
    command: str
    state: str
    steps: int
    started_at: datetime
    finished_at: datetime | None
    actor: str
    detail: str | None


def exists(connection: Connection, server: str) -> bool:
    """Whether our schema is on a server. Raises PrivilegeError (PS413) where the role may not use
    it."""
    row = connection.execute(queries("journal")["schema"]).fetchone()
    if row is None:
        return False
    if not row["usable"]:
        raise db.not_usable(connection, server, row["owner"])
    return bool(row["present"])


def start(
    connection: Connection, run_id: UUID, plan: Plan, *, command: str, approved: Plan
) -> None:
    """Record a run; earlier ones of the topology that still say running are marked interrupted."""
    with connection.transaction():
        connection.execute(queries("journal")["interrupt_others"], {"topology": plan.topology})
        begin(connection, run_id, plan, command=command, approved=approved)


def begin(
    connection: Connection,
    run_id: UUID,
    plan: Plan,
    *,
    command: str,
    approved: Plan | None = None,
) -> None:
    """Record a run beside others that may live.

    `approved` is the saved plan that the run resumes, if it does. The row has the fingerprint and
    the step ids of that plan, not the repairs that this run makes in addition: with those in the
    row the saved plan could not be resumed a second time.
    """
    approved = approved or plan
    connection.execute(
        queries("journal")["start"],
        {
            "run_id": run_id,
            "topology": plan.topology,
            "command": command,
            "fingerprint": approved.fingerprint,
            "sha256": plan.sha256,
            "steps": len(plan.steps),
            "step_ids": [s.id for s in approved.steps],
        },
    )


def finish(connection: Connection, run_id: UUID, state: str, detail: str | None = None) -> None:
    connection.execute(
        queries("journal")["finish"], {"run_id": run_id, "state": state, "detail": detail}
    )


def interrupt_others(connection: Connection, topology: str) -> list[tuple[UUID, str]]:
    """Mark runs as interrupted that still say running; return their ids and commands.

    Only the holder of the lock may.
    """
    rows = connection.execute(
        queries("journal")["interrupt_others"], {"topology": topology}
    ).fetchall()
    return [(row["run_id"], row["command"]) for row in rows]


def record(
    connection: Connection, run_id: UUID, step: Step, *, started_at: datetime, attempts: int
) -> None:
    """Write the step's row, inside the caller's transaction if there is one."""
    connection.execute(
        queries("journal")["step"],
        {
            "run_id": run_id,
            "step_id": step.id,
            "title": step.title,
            "started_at": started_at,
            "attempts": attempts,
        },
    )


def is_done(connection: Connection, run_id: UUID, step: Step) -> bool:
    """Whether the step's row is there, on a connection that is in no transaction.

    Another session may still be at the COMMIT of that row: waits for it, under the session's lock
    timeout (LockNotAvailable).
    """
    with connection.transaction(force_rollback=True):
        row = connection.execute(
            queries("journal")["is_free"], {"run_id": run_id, "step_id": step.id}
        ).fetchone()
    return row is None


def unfinished(connection: Connection, topology: str, fingerprint: str) -> frozenset[str] | None:
    """The step ids of the newest run that began with this fingerprint and did not end well."""
    row = connection.execute(
        queries("journal")["unfinished"], {"topology": topology, "fingerprint": fingerprint}
    ).fetchone()
    return None if row is None else frozenset(row["step_ids"])


def last(connection: Connection, topology: str) -> Run | None:
    row = connection.execute(queries("journal")["last"], {"topology": topology}).fetchone()
    return None if row is None else _run(row)


def history(connection: Connection, topology: str, limit: int = 50) -> list[Run]:
    rows = connection.execute(
        queries("journal")["history"], {"topology": topology, "limit": limit}
    ).fetchall()
    return [_run(row) for row in rows]


def steps_done(connection: Connection, run_id: UUID) -> int:
    row = connection.execute(queries("journal")["steps_of"], {"run_id": run_id}).fetchone()
    return int(row["done"]) if row else 0


def _run(row: dict[str, Any]) -> Run:
    return Run(**row)
