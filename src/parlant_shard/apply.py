"""Execute a plan: one lock per topology, every step journaled, and a kill anywhere resumes.

What protects a run:

* The lock is a session advisory lock on the coordinator. It falls with the process that held it.
* A transactional step commits together with its journal row. Any other step has a probe that tells
  done, absent and half done apart; what is half done is cleared and run again.
* `apply` plans again from the live servers when it resumes, so it needs nothing that the dead run
  kept in memory. A saved plan resumes where the remaining work is part of it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Any
from uuid import UUID, uuid4

import psycopg

from parlant_shard import db, journal, mapstore, trail
from parlant_shard.catalog import Catalog
from parlant_shard.desired import Peer
from parlant_shard.errors import (
    ApplyFailed,
    CannotConnect,
    HazardNotAllowed,
    ShardError,
    StalePlan,
)
from parlant_shard.executor import Executor, Listener, quiet
from parlant_shard.locks import LEFTOVER_WAIT, lock_is_free, run_lock
from parlant_shard.plan import NEEDS_ALLOW, Phase, Plan, Step, unapproved
from parlant_shard.planner import State, map_of, plan_of, read_state
from parlant_shard.shardmap import ShardMap
from parlant_shard.topology import Topology

# Seconds. How long the end of a run waits for a lock on the stored map.
MAP_PATIENCE = 60.0


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

    Copies of reference tables that missed changes stay as they are: `Outcome.plan.broken_copies`.

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
            # What is wrong with the copies is of now, whenever the plan was made.
            checked = _checked(saved, plan, state.live, lock, topology)
            plan = replace(checked, broken_copies=plan.broken_copies)
        check_hazards(plan, allow)
        for copy in plan.broken_copies:
            listener("note", None, f"{copy.code}: {copy.message}")
            entry.detail.setdefault("broken_copies", []).append(copy.server)
        shard_map = map_of(state)
        if not plan.steps:
            # A run that was killed right before its end left an old map, or none.
            _let_read_map(lock, topology)
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
            approved=saved or plan,
            state=state,
            shard_map=shard_map,
            allow=allow if saved is None else None,
        )
        entry.run_id = run.run_id
        run_id = run.execute()
        return Outcome(
            run_id=run_id,
            plan=replace(plan, broken_copies=run.broken_copies),
            done=len(plan.steps),
            seconds=time.monotonic() - began,
            resumed=resumed,
        )


def _store_map(lock: db.Connection, topology: Topology, shard_map: ShardMap) -> None:
    """The last action of every apply: routers follow the map, so everything in it must be there."""
    _retried(lock, topology, lambda: mapstore.store(lock, shard_map))


def _let_read_map(lock: db.Connection, topology: Topology) -> None:
    isolation = topology.isolation
    readers = [role for role in (isolation.role, isolation.analytics) if role is not None]
    _retried(lock, topology, lambda: mapstore.let_read(lock, readers))


def _retried(lock: db.Connection, topology: Topology, work: Callable[[], object]) -> None:
    """Do what has to do with the map; once more as long as somebody holds a lock on it."""
    deadline = time.monotonic() + MAP_PATIENCE
    while True:
        try:
            work()
        except psycopg.Error as error:
            if error.sqlstate in db.RETRYABLE and time.monotonic() < deadline:
                time.sleep(0.5)
                continue
            doing = "storing the shard map"
            raise db.wrap(error, server=topology.coordinator, doing=doing) from error
        else:
            return


def _close_dead_runs(lock: db.Connection, topology: Topology, listener: Listener) -> bool:
    if not journal.exists(lock, topology.coordinator):
        return False
    last = journal.last(lock, topology.name)
    dead = journal.interrupt_others(lock, topology.name)
    trail.record_dead(lock, topology.name, dead, lambda text: listener("note", None, text))
    return last is not None and last.state != "done"


def _checked(
    saved: Plan,
    fresh: Plan,
    live: Mapping[str, Catalog],
    lock: db.Connection,
    topology: Topology,
) -> Plan:
    """Return what to execute of a saved plan. Raises StalePlan (PS502)."""
    if saved.sha256 != topology.sha256:
        raise StalePlan(
            f'the topology file "{topology.file}" changed since the plan was made',
            code="PS502",
            hint=_new_plan(topology),
        )
    if saved.schema_sha256 != fresh.schema_sha256:
        raise StalePlan(
            "the schema changed since the plan was made",
            code="PS502",
            hint=_new_plan(topology),
        )
    if saved.fingerprint == fresh.fingerprint:
        if saved.steps == fresh.steps:
            return saved
        raise StalePlan(
            "the plan's steps are not those that would be planned now",
            code="PS502",
            hint="the clock moved on to another partition, the file was edited, or another release "
            f"made it; {_new_plan(topology)}",
        )
    applied = journal.exists(lock, topology.coordinator)
    begun = journal.unfinished(lock, topology.name, saved.fingerprint) if applied else None
    planned = {s.id for s in saved.steps}
    if begun is not None and begun <= planned:
        # The dead run changed the servers itself. What remains must be part of what was approved,
        # or the repair of what it left half done.
        extra = unapproved(fresh, saved, live)
        if not extra:
            return fresh
        raise StalePlan(
            "the servers changed since the plan was made: the plan lacks "
            f"{_plural(len(extra), 'step')} of what is left to do; the first is on server "
            f'"{extra[0].server}": {extra[0].title}',
            code="PS502",
            hint=_new_plan(topology),
        )
    raise StalePlan(
        "the servers changed since the plan was made",
        code="PS502",
        hint=_new_plan(topology),
    )


def _new_plan(topology: Topology) -> str:
    return (
        "make a new plan and look at it: "
        f"`parlant-shard plan {topology.file} -o PLAN.json`, then `parlant-shard apply PLAN.json`"
    )


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
        approved: Plan,
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
        self.approved = approved
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
        if not self.started and journal.exists(self.lock, self.topology.coordinator):
            journal.start(
                self.lock,
                self.run_id,
                self.plan,
                command=self.command,
                approved=self.approved,
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
            # Lanes that stopped because another one failed have nothing to say.
            failed = [e for e in failed if e.code != "PS515"] or failed[:1]
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
    """A run that looks at what it made, and ends with the shard map.

    `allow` holds the hazards that a repair may have; None for a saved plan, beside which nothing
    runs that was not approved.
    """

    def __init__(
        self,
        *args: Any,
        state: State,
        shard_map: ShardMap,
        allow: frozenset[str] | None,
        **options: Any,
    ) -> None:
        super().__init__(*args, peers=state.peers, **options)
        self.state, self.shard_map, self.allow = state, shard_map, allow
        self.broken_copies = self.plan.broken_copies
        # A publication that was missing, or that published less, has let changes pass.
        self.compares = any(s.phase == Phase.PUBLICATION for s in self.plan.steps)

    def _work(self) -> None:
        super()._work()
        _let_read_map(self.lock, self.topology)
        left = self._left()
        if left.steps and self._may_repair(left):
            self.listener("note", None, f"the servers still differ: {_briefly(left)}; repairing")
            self.plan = left
            super()._work()
            left = self._left()
        if left.steps:
            raise _still_differs(left, self.state)
        self.broken_copies = left.broken_copies
        _store_map(self.lock, self.topology, self.shard_map)

    def _left(self) -> Plan:
        """Read the servers once more: what is still to do, by the clock of this run's beginning.

        Statements that succeeded are no proof: an event trigger runs with each of them.
        """
        self._check_lock()
        try:
            state = read_state(self.topology, before=self.state)
            return plan_of(state, compare_copies=self.compares)
        except CannotConnect as error:
            raise ApplyFailed(
                f"{error.message}, at: comparing the servers with the plan",
                code="PS512",
                hint="bring the server back, then run the same command again: it resumes",
            ) from error

    def _may_repair(self, left: Plan) -> bool:
        return self.allow is not None and not (NEEDS_ALLOW & {*left.hazards}) - self.allow


def _briefly(plan: Plan) -> str:
    """Count the steps of a plan and name the first."""
    first = plan.steps[0]
    return (
        f"{_plural(len(plan.steps), 'step')} left to do; the first is on server "
        f'"{first.server}": {first.title}'
    )


def _still_differs(left: Plan, state: State) -> ApplyFailed:
    servers = {step.server for step in left.steps}
    triggers = ", ".join(
        f'{trigger} on server "{server}"'
        for server, about in sorted(state.facts.items())
        if server in servers
        for trigger in about.event_triggers
        if trigger.event != "login"
    )
    suspects = f"look at the event triggers that run with our statements: {triggers}; "
    return ApplyFailed(
        f"all steps are done, and the servers still differ from the plan: {_briefly(left)}",
        code="PS521",
        hint=(suspects if triggers else "")
        + f"`parlant-shard plan {state.topology.file}` shows what differs; routers keep their "
        "shard map until an `apply` succeeds",
    )


__all__ = ["Outcome", "application_name", "apply", "lock_is_free", "run_lock"]
