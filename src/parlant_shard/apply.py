"""Execute a plan: one lock per topology, every step journaled, and a kill anywhere resumes.

What protects a run:

* The lock is a session advisory lock on the coordinator. It falls with the process that held it.
* A transactional step commits together with its journal row. Any other step has a probe that tells
  done, absent and half done apart; what is half done is cleared and run again.
* `apply` plans again from the live servers when it resumes, so it needs nothing that the dead run
  kept in memory. A saved plan resumes where the remaining work is part of it.
"""

from __future__ import annotations

import random
import re
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from itertools import groupby
from typing import Any
from uuid import UUID, uuid4

import psycopg
from psycopg.sql import SQL

from parlant_shard import canonical, db, journal, mapstore, signing, trail
from parlant_shard.desired import Peer
from parlant_shard.diff import GUARD
from parlant_shard.errors import (
    ApplyFailed,
    CannotConnect,
    HazardNotAllowed,
    ServerError,
    ShardError,
    StalePlan,
)
from parlant_shard.locks import LEFTOVER_WAIT, lock_is_free, run_lock
from parlant_shard.plan import NEEDS_ALLOW, Kind, Phase, Plan, Step, secret_mark
from parlant_shard.planner import map_of, plan_of, read_state
from parlant_shard.shardmap import ShardMap
from parlant_shard.sqlfiles import queries
from parlant_shard.topology import Topology

# Seconds. How long one step is tried against locks of others before the run gives up (it resumes).
PATIENCE = 300.0
# A subscription for which the server has no worker is given up after this long: nothing will change
# until somebody raises a limit. Workers that copy a table end by themselves and are not counted.
NO_WORKER = 60.0
# Where a CONCURRENTLY statement waits for other transactions, tell the operator after this long.
WATCH_AFTER = 5.0

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


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What an apply did. `resumed` is set where an earlier run had been interrupted."""

    run_id: UUID | None
    plan: Plan
    done: int
    seconds: float
    resumed: bool = False


def application_name(topology: Topology) -> str:
    """How sessions of a run call themselves; also how those of a dead run are found."""
    return f"parlant-shard apply {topology.name}"


def clear_dead_sessions(
    topology: Topology, listener: Listener = quiet, *, wait: float = LEFTOVER_WAIT
) -> None:
    """End what a dead run left: idle sessions at once, statements after a while. Needs the lock."""
    with ThreadPoolExecutor(max_workers=max(1, min(8, len(topology.servers)))) as pool:
        list(
            pool.map(
                lambda server: _clear_dead_sessions(topology, server, listener, wait),
                topology.servers,
            )
        )


def _clear_dead_sessions(topology: Topology, server: str, listener: Listener, wait: float) -> None:
    with db.session(topology, server) as connection:
        end_dead_sessions(
            connection, server, listener, wait=wait, application=application_name(topology)
        )


def end_dead_sessions(
    connection: db.Connection,
    server: str,
    listener: Listener,
    *,
    wait: float,
    application: str | None = None,
) -> None:
    """End sessions of that name, and of each `maintain` whose session with the locks is gone."""
    query = (
        "SELECT a.pid, a.state = 'active' AS active FROM pg_catalog.pg_stat_activity a "
        "WHERE a.pid <> pg_catalog.pg_backend_pid() AND a.datname = current_database() "
        "AND (a.application_name = %(name)s OR "
        "(a.application_name LIKE 'parlant-shard maintain ________ %%' AND NOT EXISTS "
        "(SELECT FROM pg_catalog.pg_stat_activity l WHERE l.datname = a.datname "
        "AND l.application_name = 'parlant-shard maintain-lock ' "
        "|| pg_catalog.substr(a.application_name, 24, 8))))"
    )
    deadline = time.monotonic() + wait
    told = False
    while rows := connection.execute(query, {"name": application}).fetchall():
        if not told:
            listener("note", None, f'server "{server}": waiting for a dead run to end')
            told = True
        for row in rows:
            if not row["active"] or time.monotonic() > deadline:
                connection.execute("SELECT pg_catalog.pg_terminate_backend(%s)", [row["pid"]])
        time.sleep(0.1)


def apply(
    topology: Topology,
    *,
    saved: Plan | None = None,
    allow: frozenset[str] = frozenset(),
    confirm: Callable[[Plan], bool] = lambda _plan: True,
    listener: Listener = quiet,
    command: str = "apply",
    objects: Sequence[str] = (),
) -> Outcome:
    """Plan (or check a saved plan) and execute under the topology's lock.

    `command` and `objects` are what the run history and the audit trail call it.

    Raises Locked, StalePlan, HazardNotAllowed before anything changed, and ApplyFailed after work
    began. `confirm` sees the plan and may say no: then nothing happens.
    """
    began = time.monotonic()
    with (
        trail.recorded(topology, command, tell=lambda text: listener("note", None, text)) as entry,
        run_lock(topology) as lock,
    ):
        clear_dead_sessions(topology, listener)
        state = read_state(topology)
        plan = plan_of(state)
        entry.objects = objects or sorted({s.server for s in plan.steps})
        entry.detail |= {"steps": len(plan.steps), "topology_sha256": topology.sha256}
        resumed = _close_dead_runs(lock, topology, listener)
        if saved is not None:
            plan = _checked(saved, plan, lock, topology)
        check_hazards(plan, allow)
        shard_map = map_of(state)
        if not plan.steps:
            # A run that was killed right before its end left an old map, or none.
            _store_map(lock, topology, shard_map)
            return Outcome(run_id=None, plan=plan, done=0, seconds=time.monotonic() - began)
        if not confirm(plan):
            entry.result = trail.Result.REFUSED
            return Outcome(run_id=None, plan=plan, done=0, seconds=time.monotonic() - began)
        run = _Apply(
            topology,
            plan,
            lock,
            listener,
            command=command,
            fingerprint=(saved or plan).fingerprint,
            peers=state.peers,
            shard_map=shard_map,
        )
        entry.run_id = run.run_id
        run_id = run.execute()
        return Outcome(
            run_id=run_id,
            plan=plan,
            done=len(plan.steps),
            seconds=time.monotonic() - began,
            resumed=resumed,
        )


def _store_map(lock: db.Connection, topology: Topology, shard_map: ShardMap) -> None:
    """The last action of every apply: routers follow the map, so everything in it must be there."""
    try:
        isolation = topology.isolation
        readers = [role for role in (isolation.role, isolation.analytics) if role is not None]
        mapstore.store(lock, shard_map, readers=readers)
    except psycopg.Error as error:
        raise db.wrap(error, server=topology.coordinator, doing="storing the shard map") from error


def _close_dead_runs(lock: db.Connection, topology: Topology, listener: Listener) -> bool:
    if not journal.exists(lock):
        return False
    last = journal.last(lock, topology.name)
    dead = journal.interrupt_others(lock, topology.name)
    trail.record_dead(lock, topology.name, dead, lambda text: listener("note", None, text))
    return last is not None and last.state != "done"


def _checked(saved: Plan, fresh: Plan, lock: db.Connection, topology: Topology) -> Plan:
    """Return what to execute of a saved plan. Raises StalePlan (PS502)."""
    if saved.sha256 != topology.sha256:
        raise StalePlan(
            f'the topology file "{topology.file}" changed since the plan was made',
            code="PS502",
            hint="make a new plan and look at it",
        )
    if saved.schema_sha256 != fresh.schema_sha256:
        raise StalePlan(
            "the schema changed since the plan was made",
            code="PS502",
            hint="make a new plan and look at it",
        )
    if saved.fingerprint == fresh.fingerprint:
        if saved.steps == fresh.steps:
            return saved
        raise StalePlan(
            "the plan's steps are not those that would be planned now",
            code="PS502",
            hint="the clock moved on to another partition, the file was edited, or another release "
            "made it; make a new plan and look at it",
        )
    begun = (
        journal.unfinished(lock, topology.name, saved.fingerprint) if journal.exists(lock) else None
    )
    planned = {s.id for s in saved.steps}
    if begun is not None and begun <= planned:
        # The dead run changed the servers itself. What remains must be part of what was approved,
        # or the repair of what it left half done.
        extra = [s for s in fresh.steps if s.id not in planned and not _is_repair(s, saved)]
        if not extra:
            return fresh
    raise StalePlan(
        "the servers changed since the plan was made",
        code="PS502",
        hint="make a new plan and look at it",
    )


def _is_repair(step: Step, saved: Plan) -> bool:
    """Whether a step that was not in the saved plan only finishes what it began.

    A killed run leaves an INVALID index, or a table whose foreign keys are still to come. What
    mends that names no object that the saved plan did not name on this server, and needs no
    permission.
    """
    approved = {name for s in saved.steps if s.server == step.server for name in _named_in(s)}
    return not NEEDS_ALLOW.intersection(step.hazards) and _named_in(step) <= approved


def _named_in(step: Step) -> set[str]:
    return {name for statement in step.sql for name in re.findall(r'"(?:[^"]|"")+"', statement)}


def check_hazards(plan: Plan, allow: frozenset[str]) -> None:
    """Raise HazardNotAllowed (PS503) where a step destroys something and nobody allowed it."""
    needed = {h for h in plan.hazards if h in NEEDS_ALLOW} - allow
    if needed:
        first = next(s for s in plan.steps if needed.intersection(s.hazards))
        every = NEEDS_ALLOW.intersection(plan.hazards)
        options = " ".join(f"--allow {h}" for h in sorted(every))
        raise HazardNotAllowed(
            f"{_plural(len([s for s in plan.steps if needed.intersection(s.hazards)]), 'step')} "
            f"would {' and '.join(_meaning(h) for h in sorted(needed))}, first of all: "
            f"{first.title}",
            code="PS503",
            hint=f"look at the plan; if it is what you want: {options}",
        )


def _meaning(hazard: str) -> str:
    return {"deletes-data": "delete data", "drops-object": "drop an object"}[hazard]


def _plural(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


class Executor:
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

    def _check_lock(self) -> None:
        """Raise where the run lost its lock: another may have taken over."""
        raise NotImplementedError

    def _trail(self) -> db.Connection | None:
        """A session on the coordinator that rows of the audit trail can be written on."""
        raise NotImplementedError

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
        wrapped = db.wrap(error, server=step.server, doing=step.title)
        hint = wrapped.hint or "mend the cause"
        if "it resumes" not in hint:
            hint += "; then run the same command again: it resumes"
        if error.sqlstate in {"23514", "23503", "23505", "23502"} and "VALIDATE" in step.sql[0]:
            hint = (
                "some rows do not fit; nothing was lost. Mend or move them, then run the same "
                "command again: it resumes"
            )
        if error.sqlstate == "23514" and any(
            "ATTACH PARTITION" in s or GUARD in s for s in step.sql
        ):
            hint = (
                "the default partition holds rows of that range: run `parlant-shard maintain "
                f"{self.topology.file} --move-default-rows`"
            )
        if error.sqlstate == "PS001":
            hint = "rows arrived after the plan was made; make a new plan and look at it"
        return ApplyFailed(wrapped.message, code="PS510", hint=hint)

    def _statements(self, step: Step) -> list[SQL]:
        return [
            _sql(s) for s in with_secret(step, self.peers, signing.keys(self.topology.isolation))
        ]

    def _archive(self, step: Step) -> None:
        """Move rows between a table and a file. Only `maintain` and `archive restore` do."""
        raise NotImplementedError

    def _transactional(self, step: Step) -> None:
        statements = self._statements(step)

        def work(connection: db.Connection) -> None:
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
                with connection.transaction():
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
                self.listener("retry", step, _first_line(error))
                self._pause(attempt)
            else:
                return

    def _recovered(self, step: Step, *, recorded: bool) -> bool:
        """After a lost connection: whether the commit had happened. The journal row knows."""
        connection = self.connections.pop(step.server, None)
        if connection is not None:
            connection.close()
        return recorded and journal.is_done(self._connection(step.server), self.run_id, step)

    def _pause(self, attempt: int) -> None:
        if self.stop.is_set():
            raise ApplyFailed(
                "interrupted",
                code="PS515",
                hint="what was done stays; run the same command again: it resumes",
            )
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
        since: dict[int, float] = {}
        try:
            with db.session(self.topology, step.server) as connection:
                while not finished.is_set():
                    row = connection.execute(
                        "SELECT a.pid, a.application_name AS name, extract(epoch FROM "
                        "pg_catalog.clock_timestamp() - a.xact_start)::int AS age "
                        "FROM pg_catalog.unnest(pg_catalog.pg_blocking_pids(%s)) AS b(pid) "
                        "JOIN pg_catalog.pg_stat_activity a ON a.pid = b.pid LIMIT 1",
                        [pid],
                    ).fetchone()
                    if row is not None:
                        who = (
                            f'pid {row["pid"]} ("{row["name"]}"), whose transaction is '
                            f"{row['age']} s old"
                        )
                        self.listener(
                            "wait", step, f"waiting for {who}; it blocks no reader or writer"
                        )
                        first = since.setdefault(row["pid"], time.monotonic())
                        if self.waits is not None and time.monotonic() - first > self.waits:
                            self.put_off[step.id] = who
                            connection.execute("SELECT pg_catalog.pg_cancel_backend(%s)", [pid])
                            return
                    finished.wait(WATCH_AFTER)
        except (ShardError, psycopg.Error):
            return  # watching is a courtesy; the statement itself reports what is wrong

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
                row = connection.execute(self._statements(step)[0]).fetchone()
            assert row is not None
            if row["changed"] == 0:
                journal.record(connection, self.run_id, step, started_at=started, attempts=1)
                return
            total += row["changed"]
            self.listener("note", step, f"{total} rows")

    def _wait(self, step: Step) -> None:
        started = datetime.now(UTC)
        deadline = time.monotonic() + PATIENCE * 2
        pause = 0.1
        lacking: float | None = None
        while not self.stop.is_set():
            connection = self._connection(step.server)
            row = connection.execute(self._statements(step)[0]).fetchone()
            if row is not None and row["done"]:
                journal.record(connection, self.run_id, step, started_at=started, attempts=1)
                return
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
                    f'server "{step.server}", {step.title}: not there after {int(PATIENCE * 2)} s',
                    code="PS514",
                    hint="look at the server's log for the apply worker's error (a host that the "
                    "peer cannot reach needs `peer_dsn`); run the same command again to go on",
                )
            self.stop.wait(pause)
            pause = min(1.0, pause * 1.5)


class Run(Executor):
    """One execution of a plan, recorded, under the topology's lock."""

    def __init__(
        self,
        topology: Topology,
        plan: Plan,
        lock: db.Connection,
        listener: Listener,
        *,
        command: str,
        fingerprint: str,
        peers: Mapping[str, Peer],
    ) -> None:
        super().__init__(
            topology,
            uuid4(),
            listener,
            command=command,
            application=application_name(topology),
            peers=peers,
        )
        self.plan, self.lock = plan, lock
        self.fingerprint = fingerprint
        self.started = False

    def execute(self) -> UUID:
        """Do the work of the run and record how it ended. Raises ApplyFailed."""
        try:
            self._start_if_possible()
            self._work()
        except BaseException as error:
            self._finish("failed" if isinstance(error, ShardError) else "interrupted", error)
            raise
        else:
            self._finish("done", None)
        finally:
            self.close()
        return self.run_id

    def _work(self) -> None:
        for phase, steps in groupby(self.plan.steps, key=lambda s: s.phase):
            self._phase(tuple(steps))
            if phase <= Phase.INTERNAL_COORDINATOR:
                self._start_if_possible()

    def _start_if_possible(self) -> None:
        """Record the run as soon as the coordinator has the tables for it."""
        if not self.started and journal.exists(self.lock):
            journal.start(
                self.lock,
                self.run_id,
                self.plan,
                command=self.command,
                fingerprint=self.fingerprint,
            )
            self.started = True

    def _finish(self, state: str, error: BaseException | None) -> None:
        if not self.started:
            return
        detail = None if error is None else str(error) or type(error).__name__
        try:
            journal.finish(self.lock, self.run_id, state, detail)
        except psycopg.Error:
            if error is None:
                raise
            # The coordinator is gone: the next run marks this one as interrupted.

    def _phase(self, steps: Sequence[Step]) -> None:
        """Run the steps of one phase: servers in parallel, each in order."""
        lanes: dict[str, list[Step]] = {}
        for step in steps:
            lanes.setdefault(step.server, []).append(step)
        if len(lanes) == 1:
            self._lane(steps)
            return
        with ThreadPoolExecutor(max_workers=len(lanes)) as pool:
            futures = [pool.submit(self._lane, lane) for lane in lanes.values()]
            try:
                errors = [e for e in (f.exception() for f in futures) if e is not None]
            except BaseException:
                self._interrupt()
                raise
        if errors:
            failed = [e for e in errors if isinstance(e, ShardError)]
            if len(failed) < len(errors):
                raise next(e for e in errors if not isinstance(e, ShardError))
            if len(failed) > 1:
                raise ApplyFailed(
                    "; ".join(e.message for e in failed),
                    code="PS511",
                    hint=failed[0].hint or "run the same command again: it resumes",
                )
            raise failed[0]

    def _trail(self) -> db.Connection | None:
        return self.lock

    def _lane(self, steps: Sequence[Step]) -> None:
        for step in steps:
            if self.stop.is_set():
                return
            self._step(step)

    def _check_lock(self) -> None:
        """Raise ApplyFailed (PS516) where the session that holds the lock is gone.

        Raises CannotConnect where it is gone because the coordinator is.
        """
        try:
            self.lock.execute("SELECT 1")
        except psycopg.Error as error:
            self.stop.set()
            with db.session(self.topology, self.topology.coordinator):
                pass
            raise ApplyFailed(
                f'the lock of topology "{self.topology.name}" was lost; another run may have taken '
                "over",
                code="PS516",
                hint="look at `parlant-shard status`, then run the same command again: it resumes",
            ) from error


class _Apply(Run):
    """A run that ends with the shard map."""

    def __init__(self, *args: Any, shard_map: ShardMap, **options: Any) -> None:
        super().__init__(*args, **options)
        self.shard_map = shard_map

    def _work(self) -> None:
        super()._work()
        self._check_lock()
        _store_map(self.lock, self.topology, self.shard_map)


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


__all__ = ["Outcome", "application_name", "apply", "lock_is_free", "run_lock"]
