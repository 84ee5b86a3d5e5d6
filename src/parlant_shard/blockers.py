"""Who a session waits for, by name: sessions, and prepared transactions, which have no process.

`pg_blocking_pids` gives 0 for a prepared transaction and `pg_stat_activity` has no row of it. It
holds its locks across restarts until somebody finishes it, so its name and the statement that
finishes it are what an operator needs.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from parlant_shard import canonical, db
from parlant_shard.errors import ServerError
from parlant_shard.sqlfiles import queries


@dataclass(frozen=True, slots=True, kw_only=True)
class Blocker:
    """A transaction that another waits for. `pid` is None for a prepared one.

    `transaction` is its virtual id as pg_locks has it, `age` is in seconds: of the transaction, or
    since it was prepared. `gid`, `owner` and `database` are of a prepared one alone.
    """

    pid: int | None
    transaction: str = ""
    name: str = ""
    age: int | None = None
    gid: str | None = None
    owner: str = ""
    database: str = ""

    @property
    def who(self) -> str:
        """How a message calls it; of a prepared one also what ends it."""
        if self.pid is not None:
            age = "" if self.age is None else f", whose transaction is {self.age} s old"
            return f'pid {self.pid} ("{self.name}"){age}'
        if self.gid is None:
            return "a prepared transaction (pg_prepared_xacts)"  # it was finished just now
        gid = canonical.literal(self.gid)
        return (
            f'prepared transaction {gid} of "{self.owner}" in database "{self.database}", prepared '
            f"{self.age} s ago (COMMIT PREPARED {gid} or ROLLBACK PREPARED {gid} ends it)"
        )

    @property
    def hint(self) -> str:
        """What to run, so that it no longer blocks."""
        if self.pid is not None:
            return f"wait for it, or end it: SELECT pg_terminate_backend({self.pid})"
        if self.gid is None:
            return "`SELECT * FROM pg_prepared_xacts` shows prepared transactions"
        gid = canonical.literal(self.gid)
        return (
            f'in database "{self.database}", as "{self.owner}" or a superuser: COMMIT PREPARED '
            f"{gid} or ROLLBACK PREPARED {gid}; only the application that prepared it knows which"
        )


def waited_for(connection: db.Connection, pid: int) -> tuple[Blocker, ...]:
    """Whom the session `pid` of the same server waits for now; prepared transactions first."""
    rows = connection.execute(queries("blockers")["waited_for"], {"pid": pid}).fetchall()
    return blockers(connection, rows)


def senders_wait_for(connection: db.Connection) -> tuple[Blocker, ...]:
    """Whom the senders of a publisher wait for that begin to copy a table."""
    rows = connection.execute(queries("blockers")["senders"]).fetchall()
    return tuple(b for r in rows for b in waited_for(connection, r["pid"]))


def locked_tables(connection: db.Connection, namespace: str) -> tuple[tuple[str, Blocker], ...]:
    """Tables of ours that somebody has locked so that nobody can read their definition."""
    rows = connection.execute(queries("blockers")["exclusive"], {"namespace": namespace}).fetchall()
    found = blockers(connection, rows)
    return tuple((r["table"], b) for r, b in zip(rows, found, strict=True))


def unreadable(connection: db.Connection, server: str, namespace: str) -> ServerError | None:
    """The error (PS404) that names who locks our tables; None if nobody does any more."""
    tables = locked_tables(connection, namespace)
    if not tables:
        return None
    holders = ", ".join(f'"{table}" by {blocker.who}' for table, blocker in tables)
    return ServerError(
        f'server "{server}", reading its catalogue: tables are locked (ACCESS EXCLUSIVE): '
        f"{holders}",
        code="PS404",
        hint=f"{tables[0][1].hint}; then run the same command again",
    )


def blockers(connection: db.Connection, rows: Iterable[Mapping[str, Any]]) -> tuple[Blocker, ...]:
    """Name the transactions of rows with pid, transaction, name and age, in the order given."""
    found = [
        Blocker(pid=r["pid"], transaction=r["transaction"], name=r["name"] or "", age=r["age"])
        for r in rows
    ]
    if all(b.pid is not None for b in found):
        return tuple(found)
    prepared = {r["transaction"]: r for r in connection.execute(queries("blockers")["prepared"])}
    return tuple(
        replace(b, **prepared[b.transaction]) if b.pid is None and b.transaction in prepared else b
        for b in found
    )
