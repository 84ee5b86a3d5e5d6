"""A run: locks, plan, execution. Servers in parallel; what fails stops only what depends on it."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime
from uuid import UUID, uuid4

import psycopg

from parlant_shard import journal
from parlant_shard.apply import PATIENCE, Executor, Listener, quiet
from parlant_shard.catalog import fingerprint
from parlant_shard.errors import ApplyFailed, CannotConnect, ShardError, TopologyError
from parlant_shard.maintain.report import Failure, Report, figures
from parlant_shard.maintain.site import Site
from parlant_shard.maintain.tasks import Found, Noun, Task, tasks
from parlant_shard.plan import Kind, Plan, Step
from parlant_shard.topology import Topology

# Seconds. A detach is put off when somebody still uses the table after this long.
READERS = 90.0
# Seconds that a step is tried against locks of others; a premake as long as in an apply.
_PATIENCE = {Noun.PREMAKE: PATIENCE, Noun.FINALISE: 30.0}
_SHORT = 60.0


def moment(text: str) -> datetime:
    """Read --now: ISO 8601 with Z or an offset, or bare for UTC. Returns UTC without zone."""
    try:
        found = datetime.fromisoformat(text.strip())
        if found.tzinfo is not None:
            found = found.astimezone(UTC).replace(tzinfo=None)
    except (ValueError, OverflowError) as error:
        raise TopologyError(
            f'"{text}" is not a moment',
            code="PS157",
            hint="write ISO 8601: 2027-01-31, 2027-01-31T12:00:00Z, 2027-01-31T12:00:00+02:00",
        ) from error
    return found


def maintain(
    topology: Topology,
    *,
    now: datetime | None = None,
    dry_run: bool = False,
    sizes: bool = False,
    listener: Listener = quiet,
    confirm: Callable[[Plan], None] = lambda _plan: None,
) -> Report:
    """Keep partitions ahead of the clock, retire old ones, keep indexes in order.

    Raises Locked while an `apply` runs. Every other failure is in the report: it stops the table or
    the server that it is of, and no other. `now` is UTC without zone; without it the coordinator's
    clock decides, or that of the first server that answers. `sizes` asks for the sizes of tables
    as well, which the metrics have.
    """
    began = time.monotonic()
    run = _Run(topology, listener)
    try:
        found = run.read()
        clock = now or run.clock(found)
        plan, work, notices = _plan(topology, found, clock)
        confirm(plan)
        report = Report(
            topology=topology.name,
            now=clock,
            dry_run=dry_run,
            plan=replace(plan, notices=tuple(notices)),
            unreachable=tuple(s for s, e in run.failed.items() if isinstance(e, CannotConnect)),
            servers=tuple(topology.servers),
            elsewhere=tuple(
                (s.server, name) for s in run.open_sites() for name in sorted(s.elsewhere)
            ),
        )
        for server, error in run.failed.items():
            report.failures.append(Failure.of(error, server=server))
        if not dry_run:
            run.execute(plan, work, report)
        figures(report, topology, run.open_sites(), found, sizes=sizes)
        report.seconds = time.monotonic() - began
        return report
    finally:
        run.close()


def _plan(
    topology: Topology, found: dict[str, Found], now: datetime
) -> tuple[Plan, list[Task], list[str]]:
    work: list[Task] = []
    notices: list[str] = []
    for about in found.values():
        mine, said = tasks(topology, about, now)
        work += mine
        notices += said
    work.sort(key=lambda t: t.noun)
    plan = Plan(
        topology=topology.name,
        file=str(topology.file),
        sha256=topology.sha256,
        schema_sha256="",
        fingerprint=fingerprint({n: f.catalog for n, f in found.items()}, topology.sha256),
        steps=tuple(step for task in work for step in task.steps),
    )
    return plan, work, notices


class _Run:
    def __init__(self, topology: Topology, listener: Listener) -> None:
        self.topology, self.listener = topology, listener
        self.run_id: UUID = uuid4()
        self.token = secrets.token_hex(4)
        self.sites = {n: Site(topology, n, self.token) for n in topology.servers}
        self.failed: dict[str, ShardError] = {}
        self.lanes: list[_Lane] = []

    def open_sites(self) -> list[Site]:
        return [s for n, s in self.sites.items() if s.is_open and n not in self.failed]

    def close(self) -> None:
        for site in self.sites.values():
            site.close()

    def read(self) -> dict[str, Found]:
        """Open every server and read it; the coordinator first, whose lock keeps `apply` away."""
        first = self.topology.coordinator
        self._try(first, self.sites[first].open)
        others = [n for n in self.sites if n != first]
        found: dict[str, Found] = {}

        def read(name: str) -> None:
            if name != first:
                self._try(name, self.sites[name].open)
            if name in self.failed:
                return

            def reading() -> None:
                found[name] = self.sites[name].read(self.listener)

            self._try(name, reading)

        with ThreadPoolExecutor(max_workers=max(1, min(8, len(self.sites)))) as pool:
            list(pool.map(read, [first, *others]))
        return {n: found[n] for n in self.sites if n in found}

    def _try(self, server: str, action: Callable[[], None]) -> None:
        try:
            action()
        except ShardError as error:
            if error.code == "PS501":
                raise
            self.failed[server] = error

    def clock(self, found: dict[str, Found]) -> datetime:
        """The coordinator's clock, the same that `apply` goes by; else that of whoever answers."""
        for name in (self.topology.coordinator, *found):
            if name in found:
                return found[name].facts.now
        return datetime.now(UTC).replace(tzinfo=None)  # for the report: nothing will be done

    def execute(self, plan: Plan, work: list[Task], report: Report) -> None:
        recorded = self._start(plan)
        state = "interrupted"
        try:
            lanes = [
                _Lane(self.topology, site, self.run_id, self.listener) for site in self.open_sites()
            ]
            with ThreadPoolExecutor(max_workers=max(1, len(lanes))) as pool:
                futures = [
                    pool.submit(lane.run, [t for t in work if t.server == lane.site.server])
                    for lane in lanes
                ]
                try:
                    for future in futures:
                        future.result()
                except BaseException:
                    for lane in lanes:
                        lane.interrupt()
                    raise
            for lane in lanes:
                report.failures += lane.failures
                report.postponed += lane.postponed
                report.done += lane.done
            report.run_id = self.run_id if recorded else None
            state = "failed" if report.failures else "done"
        finally:
            if recorded:
                self._finish(state, report)

    def _start(self, plan: Plan) -> bool:
        """Record the run on the coordinator, where it can be reached and there is work."""
        site = self.sites[self.topology.coordinator]
        if not site.is_open or site.server in self.failed:
            return False
        site.interrupt_dead(alone=all(not s.elsewhere for s in self.open_sites()))
        if not plan.steps:
            return False
        journal.begin(
            site.connection, self.run_id, plan, command="maintain", fingerprint=plan.fingerprint
        )
        return True

    def _finish(self, state: str, report: Report) -> None:
        detail = "; ".join(f.message for f in report.failures) or None
        site = self.sites[self.topology.coordinator]
        try:
            journal.finish(site.connection, self.run_id, state, detail)
        except psycopg.Error as error:
            self.listener("note", None, f"the end of the run was not recorded: {error}")


class _Lane(Executor):
    """The tasks of one server, one after the other."""

    def __init__(self, topology: Topology, site: Site, run_id: UUID, listener: Listener) -> None:
        super().__init__(
            topology,
            run_id,
            listener,
            application=f"parlant-shard maintain {site.token} {topology.name}"[:63],
            peers={},
        )
        self.site = site
        self.noun = Noun.FINALISE
        self.done = 0
        self.failures: list[Failure] = []
        self.postponed: list[str] = []

    def interrupt(self) -> None:
        self._interrupt()

    def run(self, work: list[Task]) -> None:
        """Run tasks; those that depend on one that failed are left out."""
        blocked: set[str] = set()  # tables of which nothing may be detached in this run
        try:
            for task in work:
                if self.stop.is_set():
                    return
                self.noun = task.noun
                if task.noun is Noun.DETACH and (task.table in blocked or self._put_off(task)):
                    blocked.add(task.table)
                    continue
                try:
                    if task.given_up is not None:
                        raise ApplyFailed(
                            f'server "{task.server}": {task.given_up}',
                            code="PS530",
                            hint=f"run `parlant-shard apply {self.topology.file}`",
                        )
                    for step in task.steps:
                        self._step(step)
                        self.done += 1
                except ShardError as error:
                    self._failed(task, error)
                    blocked.add(task.table)
                    if not self._lives():
                        return
        finally:
            self.close()

    def _failed(self, task: Task, error: ShardError) -> None:
        self.failures.append(
            Failure.of(error, server=task.server, shard=task.shard, table=task.table)
        )
        self.listener("note", None, f"failed: {error.message}")

    def _lives(self) -> bool:
        try:
            self._check_lock()
        except ShardError as error:
            known = {f.message for f in self.failures}
            if error.message not in known:
                self.failures.append(Failure.of(error, server=self.site.server))
            return False
        return True

    def _patience(self) -> float:
        return _PATIENCE.get(self.noun, _SHORT)

    def _check_lock(self) -> None:
        """Raise ApplyFailed (PS516) where the session with the locks is gone."""
        try:
            self.site.connection.execute("SELECT 1")
        except psycopg.Error as error:
            self.stop.set()
            raise ApplyFailed(
                f'the session with the locks of server "{self.site.server}" was lost; another run '
                "may have taken over",
                code="PS516",
                hint="look whether the server still runs; the next run goes on",
            ) from error

    def _put_off(self, task: Task) -> bool:
        """Wait for those that use the table now: the detach would, and hold up others meanwhile."""
        if not any(s.kind is Kind.CONCURRENT for s in task.steps):
            return False
        step = next(s for s in task.steps if s.kind is Kind.CONCURRENT)
        deadline = time.monotonic() + READERS
        waiting = self.site.users(task.table)
        told = False
        while waiting:
            if time.monotonic() > deadline:
                user = next(iter(waiting.values()))
                self.postponed.append(
                    f'"{task.table}" on server "{task.server}": an expired partition stays: '
                    f"{_who(user)} still uses the table; the next run tries again"
                )
                self.listener("note", None, f"put off: {self.postponed[-1]}")
                return True
            if not told and time.monotonic() > deadline - READERS + 1:
                self._tell(step, waiting)
                told = True
            if self.stop.wait(0.2):
                return True
            now = self.site.users(task.table)
            # Who came later is not waited for: on a busy table somebody always comes.
            waiting = {k: v for k, v in now.items() if k in waiting}
        return False

    def _tell(self, step: Step, waiting: dict[tuple[int | None, str], dict[str, object]]) -> None:
        self.listener("wait", step, f"waiting for {_who(next(iter(waiting.values())))}")


def _who(user: dict[str, object]) -> str:
    if user["pid"] is None:
        return "a prepared transaction (pg_prepared_xacts)"
    age = "" if user["age"] is None else f", whose transaction is {user['age']} s old"
    return f'pid {user["pid"]} ("{user["name"] or ""}"){age}'
