"""Run one step on a server: tried against locks of others, probed, watched and journaled.

A transactional step commits together with its journal row. Any other step has a probe that tells
done, absent and half done apart; what is half done is cleared and run again.
"""

from __future__ import annotations

import random
import re
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import psycopg
from psycopg.sql import SQL

from parlant_shard import blockers, canonical, db, journal, searchpath, signing, trail
from parlant_shard.desired import Peer
from parlant_shard.diff import GUARD
from parlant_shard.errors import ApplyFailed, CannotConnect, ServerError, ShardError
from parlant_shard.orphans import orphans
from parlant_shard.plan import NEEDS_ALLOW, Kind, Step, secret_mark
from parlant_shard.sqlfiles import queries
from parlant_shard.topology import Topology

# Seconds. How long one step is tried against locks of others before the run gives up (it resumes).
PATIENCE = 300.0
# A subscription for which the server has no worker is given up after this long: nothing will change
# until somebody raises a limit. Workers that copy a table end by themselves and are not counted.
NO_WORKER = 60.0
# Where a CONCURRENTLY statement waits for other transactions, tell the operator after this long.
WATCH_AFTER = 5.0

# From this attempt on, a second or so after the first, it is looked for whom we wait.
_NAMED_FROM = 3
_LOOK_EVERY = 0.1

_FIRST_LOCK_TIMEOUT_MS = 100
# PostgreSQL stops an autovacuum that is in the way, but only for whoever has waited for
# deadlock_timeout, which is as long as our longest wait. So every third of the later attempts waits
# a little longer, where somebody holds the lock that a vacuum holds (docs/decisions/0007).
_YIELDS = (
    "SELECT pg_catalog.set_config('lock_timeout', greatest(%s::int, (SELECT s.setting::int + 200 "
    "FROM pg_catalog.pg_settings s WHERE s.name = 'deadlock_timeout' AND s.setting::int <= 1000 "
    "AND EXISTS (SELECT FROM pg_catalog.pg_locks l WHERE l.mode = 'ShareUpdateExclusiveLock' "
    "AND l.granted AND l.pid <> pg_catalog.pg_backend_pid() AND l.database = (SELECT d.oid "
    "FROM pg_catalog.pg_database d WHERE d.datname = current_database()))))::text, true)"
)
_MAX_PAUSE = 5.0

Listener = Callable[[str, Step | None, str], None]
"""Called with an event ('start', 'done', 'retry', 'wait', 'skip', 'note'), the step, and a text."""


def quiet(_event: str, _step: Step | None, _text: str) -> None:
    """Tell nobody."""


class Executor(ABC):
    """Runs steps, one at a time on a server: retried, probed, watched and journaled."""

    def __init__(
        self,
        topology: Topology,
        run_id: UUID,
        listener: Listener,
        *,
        command: str,
        application: str,
        peers: Mapping[str, Peer],
    ) -> None:
        self.topology, self.run_id, self.listener = topology, run_id, listener
        self.command, self.application, self.peers = command, application, peers
        self.connections: dict[str, db.Connection] = {}
        self.stop = threading.Event()
        # Seconds that a CONCURRENTLY statement may wait for one transaction; None for ever.
        self.waits: float | None = None
        self.put_off: dict[str, str] = {}  # step id → for whom it waited too long
        self.blocked: dict[str, blockers.Blocker] = {}  # step id → for whom it waited last

    @abstractmethod
    def _check_lock(self) -> None:
        """Raise where the run lost its lock: another may have taken over."""

    @abstractmethod
    def _trail(self) -> db.Connection | None:
        """A session on the coordinator that rows of the audit trail can be written on."""

    def _patience(self) -> float:
        """How long a step is tried against locks of others, in seconds."""
        return PATIENCE

    def close(self) -> None:
        for connection in self.connections.values():
            connection.close()

    def _interrupt(self) -> None:
        """Ctrl-C: cancel what runs, so that the lanes end now and not after an index build."""
        self.stop.set()
        for connection in list(self.connections.values()):
            with suppress(psycopg.Error):
                connection.cancel_safe(timeout=5.0)

    # --- one step --------------------------------------------------------------------------------

    def _connection(self, server: str) -> db.Connection:
        connection = self.connections.get(server)
        if connection is None or connection.closed:
            connection = db.connect(
                db.conninfo(self.topology, server),
                server=server,
                application=self.application,
            )
            self.connections[server] = connection
            # After the connection, not before: whoever took the lock over ended the sessions that
            # it found. A process that was stopped and woke up gets past neither.
            self._check_lock()
        return connection

    def _step(self, step: Step) -> None:
        if not takes_away(step):
            self._execute(step)
            return
        objects = re.findall(r'"([^"]+)"', step.title)
        detail: dict[str, Any] = {"step": step.id, "server": step.server, "title": step.title}
        if step.shard:
            detail["shard"] = step.shard
        with suppress(psycopg.Error, ShardError):  # what is wrong there the step itself finds
            rows = trail.estimates(self._connection(step.server), self.topology.namespace, objects)
            detail |= {"rows_estimated": rows} if rows else {}
        self._record(objects, trail.Result.BEGUN, detail)
        try:
            self._execute(step)
        except BaseException as error:
            code = {"code": error.code} if isinstance(error, ShardError) else {}
            self._record(objects, trail.Result.FAILED, {**detail, **code})
            raise
        self._record(objects, trail.Result.DONE, detail)

    def _record(self, objects: Sequence[str], result: trail.Result, detail: Any) -> None:
        connection = self._trail()
        notice: str | None = "the audit trail was not written: the coordinator is not connected"
        if connection is not None:
            notice = trail.record(
                connection,
                self.topology.name,
                self.command,
                objects,
                result,
                detail,
                run_id=self.run_id,
            )
        if notice:
            self.listener("note", None, notice)

    def _execute(self, step: Step) -> None:
        began = time.monotonic()
        try:
            self._check_lock()
            self.listener("start", step, "")
            match step.kind:
                case Kind.METADATA | Kind.VALIDATE:
                    self._transactional(step)
                case Kind.CONCURRENT:
                    self._concurrent(step)
                case Kind.BATCHES:
                    self._batches(step)
                case Kind.WAIT:
                    self._wait(step)
                case Kind.ARCHIVE:
                    self._archive(step)
        except psycopg.Error as error:
            self._undo(step)
            raise self._failure(step, error) from error
        except CannotConnect as error:
            raise ApplyFailed(
                f"{error.message}, at: {step.title}",
                code="PS512",
                hint="bring the server back, then run the same command again: it resumes",
            ) from error
        self.listener("done", step, f"{time.monotonic() - began:.2f} s")

    def _undo(self, step: Step) -> None:
        """Take back what earlier steps did; where even that fails, the next run does it."""
        if step.undo:
            undo = replace(step, id=f"{step.id}-undo", sql=step.undo, undo=())
            with suppress(psycopg.Error, ShardError):
                self._transactional(undo)

    def _failure(self, step: Step, error: psycopg.Error) -> ApplyFailed:
        wrapped = db.wrap(
            error,
            server=step.server,
            doing=step.title,
            connection=self.connections.get(step.server),
            walled=self.topology.isolation.rls,
        )
        message, hint = wrapped.message, wrapped.hint or "fix the cause"
        blocker = self.blocked.get(step.id)
        if blocker is not None and error.sqlstate == "55P03":
            message, hint = f"{message}; it was held by {blocker.who}", blocker.hint
        if "it resumes" not in hint:
            hint += "; then run the same command again: it resumes"
        if error.sqlstate in {"23514", "23503", "23505", "23502"} and "VALIDATE" in step.sql[0]:
            hint = (
                "some rows do not fit; nothing was lost. Fix or move them, then run the same "
                "command again: it resumes"
            )
            with suppress(psycopg.Error, ShardError):
                message = self._orphans(step, error, message)
        if error.sqlstate == "23514" and any(
            "ATTACH PARTITION" in s or GUARD in s for s in step.sql
        ):
            hint = (
                "the default partition holds rows of that range: run `parlant-shard maintain "
                f"{self.topology.file} --move-default-rows`"
            )
        if error.sqlstate == "PS001":
            hint = "rows arrived after the plan was made; make a new plan and look at it"
        if db.unresolved(error) is not None:
            return ApplyFailed(
                wrapped.message,
                code="PS558",
                hint=f"{self.self_contained(step.server)}; then run the same command again: it "
                "resumes",
            )
        return ApplyFailed(message, code="PS510", hint=hint)

    def _orphans(self, step: Step, error: psycopg.Error, message: str) -> str:
        """Name the rows that a foreign key does not admit, and not only the first."""
        table, constraint = error.diag.table_name, error.diag.constraint_name
        if error.sqlstate != "23503" or not table or not constraint:
            return message
        connection = self._connection(step.server)
        connection.execute(searchpath.opened(self.topology.namespace, local=False))
        try:
            found = orphans(connection, step.server, self.topology.namespace, table, constraint)
        finally:
            connection.execute(searchpath.CLOSED)
        return message if found is None else f"{message}; {found}"

    def self_contained(self, server: str) -> str:
        """Say how a function comes to work in our sessions, and which schemas these avoid."""
        namespace = self.topology.namespace
        hint = db.SELF_CONTAINED.replace("…, ", f"{canonical.quote(namespace)}, ")
        with suppress(psycopg.Error, ShardError):
            connection = self._connection(server)
            left_out = connection.execute(searchpath.refused(namespace)).fetchall()
            for row in left_out:
                roles = ", ".join(
                    "PUBLIC" if r == "PUBLIC" else canonical.quote(r) for r in row["roles"]
                )
                hint += (
                    f'; schema "{row["schema"]}" is not on the path of our sessions, because '
                    f"{roles} may create in it, or owns functions, operators, types or tables "
                    f"there (REVOKE CREATE ON SCHEMA {canonical.quote(row['schema'])} FROM {roles})"
                )
            if not left_out and connection.info.server_version >= 170_000:
                hint += (
                    "; PostgreSQL 17 and later evaluate functions of an index with pg_catalog "
                    "alone, whoever builds it"
                )
        return hint

    def _statements(self, step: Step) -> list[SQL]:
        return [
            _sql(s) for s in with_secret(step, self.peers, signing.keys(self.topology.isolation))
        ]

    def _archive(self, step: Step) -> None:
        """Move rows between a table and a file. Only `maintain` and `archive restore` do."""
        raise AssertionError(f"{self.command} plans no step of this kind: {step.title}")

    def _transactional(self, step: Step) -> None:
        statements = self._statements(step)

        def work(connection: db.Connection) -> None:
            connection.execute(searchpath.opened(self.topology.namespace))
            for statement in statements:
                connection.execute(statement)

        self.transaction(step, work)

    def transaction(
        self, step: Step, work: Callable[[db.Connection], None], *, recorded: bool = True
    ) -> None:
        """Try under a short lock timeout, pause, try again; the journal row commits with it.

        Where it is not `recorded`, `work` is done again after a lost connection.
        """
        deadline = time.monotonic() + self._patience()
        started = datetime.now(UTC)
        attempt = 0
        while True:
            attempt += 1
            timeout = min(step.lock_timeout_ms, _FIRST_LOCK_TIMEOUT_MS * 2 ** (attempt - 1))
            try:
                connection = self._connection(step.server)
                with self.naming(step, connection, attempt), connection.transaction():
                    connection.execute(
                        "SELECT pg_catalog.set_config('lock_timeout', %s, true), "
                        "pg_catalog.set_config('statement_timeout', %s, true)",
                        [str(timeout), str(step.statement_timeout_ms)],
                    )
                    if step.secret is not None:
                        connection.execute(queries("secrets")["keep_out_of_logs"])
                    if attempt > 4 and attempt % 3 == 0:
                        connection.execute(_YIELDS, [timeout])
                    work(connection)
                    if recorded:
                        journal.record(
                            connection, self.run_id, step, started_at=started, attempts=attempt
                        )
            except psycopg.Error as error:
                lost = error.sqlstate is None or error.sqlstate.startswith(("08", "57P"))
                if lost and attempt <= 3 and self._recovered(step, recorded=recorded):
                    return
                if not lost and (error.sqlstate not in db.RETRYABLE or time.monotonic() > deadline):
                    raise
                if lost and attempt > 3:
                    raise
                self.listener("retry", step, self.why(step, error))
                self._pause(attempt)
            else:
                return

    def naming(
        self, step: Step, connection: db.Connection, attempt: int
    ) -> AbstractContextManager[object]:
        """Look for whom a later attempt waits; `why` and the final error name it."""
        self.blocked.pop(step.id, None)
        if attempt < _NAMED_FROM:
            return nullcontext()
        return _Naming(self, step, connection.info.backend_pid)

    def why(self, step: Step, error: psycopg.Error) -> str:
        """Why an attempt failed, in one line, and who was in the way."""
        blocker = self.blocked.get(step.id) if error.sqlstate == "55P03" else None
        return _first_line(error) + ("" if blocker is None else f": waited for {blocker.who}")

    def _recovered(self, step: Step, *, recorded: bool) -> bool:
        """After a lost connection: whether the commit had happened. The journal row knows."""
        connection = self.connections.pop(step.server, None)
        if connection is not None:
            connection.close()
        deadline = time.monotonic() + self._patience()
        while recorded:
            try:
                return journal.is_done(self._connection(step.server), self.run_id, step)
            except psycopg.errors.LockNotAvailable as error:
                # The server does not know yet that we are gone, and is still at the COMMIT.
                if time.monotonic() > deadline:
                    raise
                self.listener("retry", step, _first_line(error))
                self._pause(1)
        return False

    def _interrupted(self) -> ApplyFailed:
        return ApplyFailed(
            "interrupted",
            code="PS515",
            hint="what was done stays; run the same command again: it resumes",
        )

    def _pause(self, attempt: int) -> None:
        if self.stop.is_set():
            raise self._interrupted()
        # Full jitter: two of our lanes, or two tools, must not meet again at the same moment.
        self.stop.wait(random.uniform(0.05, min(_MAX_PAUSE, 0.1 * 2**attempt)))

    def _probe(self, connection: db.Connection, step: Step) -> str:
        if step.probe is None:
            return "absent"
        row = connection.execute(_sql(step.probe.query)).fetchone()
        assert row is not None
        return str(row["state"])

    def _concurrent(self, step: Step) -> None:
        """Look, clear what is half done, run without a lock timeout, look again."""
        started = datetime.now(UTC)
        for attempt in (1, 2, 3):
            connection = self._connection(step.server)
            self._set_timeouts(connection, step.lock_timeout_ms, step.statement_timeout_ms)
            try:
                state = self._probe(connection, step)
                if state == "half":
                    assert step.probe is not None
                    self.listener("note", step, "clearing what an earlier attempt left half done")
                    for text in step.probe.clear:
                        self._watched(connection, step, _sql(text))
                    state = self._probe(connection, step)
                if state != "done":
                    with self._opened(connection):
                        for statement in self._statements(step):
                            self._watched(connection, step, statement)
                    if step.probe is not None and self._probe(connection, step) != "done":
                        raise ServerError(
                            f'server "{step.server}", {step.title}: the statement succeeded, but '
                            "its result is not valid",
                            code="PS513",
                            hint="look at the server's log, then run the same command again",
                        )
            except psycopg.Error as error:
                retry = error.sqlstate is None or error.sqlstate in {
                    *db.RETRYABLE,
                    "55006",  # a slot or object is still in use: its user is about to go
                    "57P01",
                }
                if not retry or attempt == 3:
                    raise
                if connection.closed:
                    self.connections.pop(step.server, None)
                self.listener("retry", step, _first_line(error))
                self._pause(attempt + 2)
            else:
                self._set_timeouts(connection, 1_000, 60_000)
                journal.record(connection, self.run_id, step, started_at=started, attempts=attempt)
                return

    @contextmanager
    def _opened(self, connection: db.Connection) -> Iterator[None]:
        """Let functions of the application be found, by statements that allow no transaction."""
        try:
            connection.execute(searchpath.opened(self.topology.namespace, local=False))
            yield
        finally:
            try:
                if not connection.closed:
                    connection.execute(searchpath.CLOSED)
            except psycopg.Error:
                connection.close()  # what follows must not run with that path

    def _set_timeouts(self, connection: db.Connection, lock: int, statement: int) -> None:
        connection.execute(
            "SELECT pg_catalog.set_config('lock_timeout', %s, false), "
            "pg_catalog.set_config('statement_timeout', %s, false)",
            [str(lock), str(statement)],
        )

    def _watched(self, connection: db.Connection, step: Step, statement: SQL) -> None:
        """Execute, and name the transactions that it waits for while it waits."""
        finished = threading.Event()
        pid = connection.info.backend_pid
        watcher = threading.Thread(target=self._watch, args=(step, pid, finished), daemon=True)
        watcher.start()
        try:
            connection.execute(statement)
        finally:
            finished.set()
            watcher.join()

    def _watch(self, step: Step, pid: int, finished: threading.Event) -> None:
        if finished.wait(WATCH_AFTER):
            return
        since: dict[tuple[int | None, str], float] = {}
        try:
            with db.session(self.topology, step.server) as connection:
                while not finished.is_set():
                    found = blockers.waited_for(connection, pid)
                    if found:
                        first = found[0]
                        self.listener(
                            "wait", step, f"waiting for {first.who}; it blocks no reader or writer"
                        )
                        began = since.setdefault((first.pid, first.transaction), time.monotonic())
                        if self.waits is not None and time.monotonic() - began > self.waits:
                            self.put_off[step.id] = first.who
                            connection.execute("SELECT pg_catalog.pg_cancel_backend(%s)", [pid])
                            return
                    finished.wait(WATCH_AFTER)
        except (ShardError, psycopg.Error):
            return  # watching is a courtesy; the statement itself reports what is wrong

    def _first_copy_waits(self, step: Step) -> str:
        """Tell for whom the coordinator waits before it lets a table be copied; return that."""
        with (
            suppress(ShardError, psycopg.Error),
            db.session(self.topology, self.topology.coordinator) as connection,
        ):
            for found in blockers.senders_wait_for(connection):
                self.listener("wait", step, f"the coordinator waits for {found.who}")
                return f"; the coordinator waits for {found.who}"
        return ""

    def _batches(self, step: Step) -> None:
        started = datetime.now(UTC)
        total = 0
        while not self.stop.is_set():
            connection = self._connection(step.server)
            with connection.transaction():
                connection.execute(
                    "SELECT pg_catalog.set_config('lock_timeout', %s, true), "
                    "pg_catalog.set_config('statement_timeout', %s, true)",
                    [str(step.lock_timeout_ms), str(step.statement_timeout_ms)],
                )
                connection.execute(searchpath.opened(self.topology.namespace))
                row = connection.execute(self._statements(step)[0]).fetchone()
            assert row is not None
            if row["changed"] == 0:
                journal.record(connection, self.run_id, step, started_at=started, attempts=1)
                return
            total += row["changed"]
            self.listener("note", step, f"{total} rows")
        raise self._interrupted()  # a step that ends here is not done

    def _wait(self, step: Step) -> None:
        started = datetime.now(UTC)
        deadline = time.monotonic() + PATIENCE * 2
        pause = 0.1
        lacking: float | None = None
        look, blocker = time.monotonic() + WATCH_AFTER, ""
        while not self.stop.is_set():
            connection = self._connection(step.server)
            row = connection.execute(self._statements(step)[0]).fetchone()
            if row is not None and row["done"]:
                journal.record(connection, self.run_id, step, started_at=started, attempts=1)
                return
            if time.monotonic() > look:
                blocker, look = self._first_copy_waits(step), time.monotonic() + WATCH_AFTER
            if row is None or not row.get("lacks"):
                lacking = None
            elif lacking is None:
                lacking = time.monotonic()
                self.listener("wait", step, f"no worker is free: {row['lacks']} is used up")
            elif time.monotonic() - lacking > NO_WORKER:
                raise ApplyFailed(
                    f'server "{step.server}", {step.title}: no worker was free for '
                    f"{NO_WORKER:.0f} s, because {row['lacks']} is used up",
                    code="PS517",
                    hint=f"raise {row['lacks']} (restart), or drop idle subscriptions; "
                    "then run the same command again: it resumes",
                )
            if time.monotonic() > deadline:
                raise ApplyFailed(
                    f'server "{step.server}", {step.title}: not there after {int(PATIENCE * 2)} s'
                    f"{blocker}",
                    code="PS514",
                    hint="look at the server's log for the apply worker's error (a host that the "
                    "peer cannot reach needs `peer_dsn`); run the same command again to go on",
                )
            self.stop.wait(pause)
            pause = min(1.0, pause * 1.5)
        raise self._interrupted()


class _Naming:
    """Looks, from a session of its own, for whom a session waits that is about to give up."""

    def __init__(self, executor: Executor, step: Step, pid: int) -> None:
        self.executor, self.step, self.pid = executor, step, pid
        self.over = threading.Event()
        self.thread = threading.Thread(target=self._look, daemon=True)

    def __enter__(self) -> None:
        self.thread.start()

    def __exit__(self, *_: object) -> None:
        self.over.set()
        self.thread.join()

    def _look(self) -> None:
        if self.over.wait(_LOOK_EVERY):
            return  # it did not wait
        # Naming is a courtesy; the statement itself reports what is wrong.
        with (
            suppress(ShardError, psycopg.Error),
            db.session(self.executor.topology, self.step.server) as connection,
        ):
            pause = _LOOK_EVERY
            while not self.over.is_set():
                found = blockers.waited_for(connection, self.pid)
                if found:
                    self.executor.blocked[self.step.id] = found[0]
                    return
                self.over.wait(pause)
                pause = min(WATCH_AFTER, pause * 1.2)  # what works for long is looked at seldom


def takes_away(step: Step) -> bool:
    """Whether the audit trail gets rows for this very step: it drops, deletes or detaches."""
    return bool(NEEDS_ALLOW.intersection(step.hazards)) or any(
        " DETACH PARTITION " in statement for statement in step.sql
    )


def _sql(statement: str) -> SQL:
    return SQL(statement)


def _first_line(error: psycopg.Error) -> str:
    return db.redact((error.diag.message_primary or str(error)).strip().splitlines()[0])


def with_secret(
    step: Step, peers: Mapping[str, Peer] | Any, keys: Mapping[str, str] | None = None
) -> tuple[str, ...]:
    """Put the secret in the place of its mark, quoted for where it stands."""
    if step.secret is None:
        return step.sql
    for name, key in (keys or {}).items():
        if step.secret == signing.mark(name):
            inner, outer = (rf"\x{block.hex()}" for block in signing.pads(key))
            return tuple(
                s.replace(signing.mark(f"{name} inner"), inner).replace(
                    signing.mark(f"{name} outer"), outer
                )
                for s in step.sql
            )
    password = peers[step.secret].password or ""
    mark = secret_mark(step.secret)
    conninfo = password.replace("\\", "\\\\").replace("'", "\\'")
    inner = canonical.literal(conninfo)[1:-1]
    return tuple(
        s.replace(f"''{mark}''", f"''{inner}''").replace(f"'{mark}'", canonical.literal(password))
        for s in step.sql
    )
