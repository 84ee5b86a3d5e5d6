"""A run: locks, plan, execution. Servers in parallel; what fails stops only what depends on it."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid4

import psycopg

from parlant_shard import copies, db, journal, trail
from parlant_shard.archive import Archived, archive
from parlant_shard.blockers import Blocker
from parlant_shard.catalog import fingerprint
from parlant_shard.desired import subscription_name
from parlant_shard.errors import ApplyFailed, CannotConnect, ShardError, UsageError
from parlant_shard.executor import PATIENCE, Executor, Listener, quiet
from parlant_shard.maintain.model import CHANGES_PARTITIONS, Found, Moved, Noun, Task
from parlant_shard.maintain.report import Failure, Report, figures
from parlant_shard.maintain.seals import settle
from parlant_shard.maintain.site import COUNTED, Site
from parlant_shard.maintain.tasks import tasks
from parlant_shard.plan import CHANGED, Kind, Plan, Step
from parlant_shard.topology import Topology

# Seconds. A detach is put off when somebody still uses the table after this long.
READERS = 90.0
# Times that rows of a default partition are copied, if they change meanwhile.
MOVES = 3
# Seconds that a step is tried against locks of others; a premake as long as in an apply.
_PATIENCE = {Noun.PREMAKE: PATIENCE, Noun.FINALISE: 30.0}
_SHORT = 60.0

Users = dict[tuple[int | None, str], Blocker]


def moment(text: str) -> datetime:
    """Read --now: ISO 8601 with Z or an offset, or bare for UTC. Returns UTC without zone.

    Raises UsageError (PS157), also outside the years 1900 to 2999: the partitions around a
    moment must not pass the ends of the calendar.
    """
    try:
        found = datetime.fromisoformat(text.strip())
        if found.tzinfo is not None:
            found = found.astimezone(UTC).replace(tzinfo=None)
        if not 1900 <= found.year <= 2999:
            raise ValueError(f"the year {found.year}")
    except (ValueError, OverflowError) as error:
        raise UsageError(
            f'"{text}" is not a moment that can be taken',
            code="PS157",
            hint="write ISO 8601: 2027-01-31, 2027-01-31T12:00:00Z, 2027-01-31T12:00:00+02:00; the "
            "years 1900 to 2999 are taken",
        ) from error
    return found


def maintain(
    topology: Topology,
    *,
    now: datetime | None = None,
    dry_run: bool = False,
    move: int | None = None,
    sizes: bool = False,
    listener: Listener = quiet,
    confirm: Callable[[Plan], None] = lambda _plan: None,
) -> Report:
    """Keep partitions ahead of the clock, retire old ones, keep indexes in order.

    Raises Locked while an `apply` runs. Every other failure is in the report: it stops the table or
    the server that it is of, and no other. `now` is UTC without zone; without it the coordinator's
    clock decides, or that of the first server that answers. `move`: rows are moved out of default
    partitions that hold not more than so many. `sizes`: tables are measured, for the metrics.
    """
    began = time.monotonic()
    run = _Run(topology, listener, counted=max(COUNTED, move or 0))
    with ExitStack() as stack:
        stack.callback(run.close)
        entry = stack.enter_context(
            trail.recorded(
                topology,
                "maintain",
                tell=lambda text: listener("note", None, text),
                connection=run.coordinator,
            )
        )
        found = run.read()
        clock = now or run.clock(found)
        plan, work, notices = _plan(topology, found, clock, move)
        notices += _broken_copies(topology, found)
        if found and not dry_run:
            notices += _ahead(clock, run.clock(found))
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
        # The hourly run that has nothing to do is no news, and what shows a plan changes nothing.
        entry.write = not dry_run and bool(plan.steps or report.failures)
        if not dry_run:
            run.execute(plan, work, report)
            _settle(topology, found, run, report)
            _note(entry, report)
        figures(report, topology, run.open_sites(), found, sizes=sizes)
        report.seconds = time.monotonic() - began
        return report


def _broken_copies(topology: Topology, found: dict[str, Found]) -> list[str]:
    """Name the copies of reference tables that missed changes; only `apply` follows that up."""
    home = found.get(topology.coordinator)
    if home is None or not home.catalog.internal_version:
        return []
    subscriptions = {
        server: there.catalog.subscriptions[name]
        for server, there in found.items()
        if (name := subscription_name(topology, server)) in there.catalog.subscriptions
    }
    slots, end = home.catalog.slot_states, home.catalog.wal_end
    try:
        broken = copies.broken(topology, slots, end, subscriptions)
    except ShardError:
        return []  # the coordinator is gone since: that is said elsewhere
    return [f"{b.code}: {b.message}. {b.hint}" for b in broken.values()]


def _settle(topology: Topology, found: dict[str, Found], run: _Run, report: Report) -> None:
    """Undo what transactions of the coordinator sealed that did not delete."""
    if topology.coordinator not in found or topology.coordinator in run.failed:
        return
    for server, there in found.items():
        if server in run.failed or not there.catalog.keys:
            continue
        settled = settle(topology, server)
        report.settled.append(settled)
        if settled.error is not None:
            report.failures.append(Failure.of(settled.error, server=server))


def _ahead(now: datetime, clock: datetime) -> list[str]:
    """What a moment far in the future does that cannot be taken back."""
    if now - clock <= timedelta(days=1):
        return []
    days = (now - clock).days
    return [
        f"--now is {days} {'day' if days == 1 else 'days'} ahead of the server's clock: retention "
        "and grace go by it, and what it retires is retired for good (--dry-run shows it)"
    ]


def _note(entry: trail.Entry, report: Report) -> None:
    """What the audit trail says of a run."""
    entry.run_id = report.run_id
    entry.detail |= {"now": f"{report.now.isoformat()}Z", "steps": report.done}
    if report.postponed:
        entry.detail["postponed"] = len(report.postponed)
    if report.failures:
        entry.result = trail.Result.FAILED
        entry.write = True
        entry.detail["failures"] = [
            {"code": f.code, "message": db.redact(f.message)} for f in report.failures
        ]


def _plan(
    topology: Topology, found: dict[str, Found], now: datetime, move: int | None
) -> tuple[Plan, list[Task], list[str]]:
    work: list[Task] = []
    notices: list[str] = []
    # The coordinator last: the statistics of its foreign tables follow what the others change.
    others: dict[str, frozenset[tuple[str, str]]] = {}
    for name in sorted(found, key=lambda n: n == topology.coordinator):
        mine, said = tasks(topology, found[name], now, others, move=move)
        others[name] = frozenset((t.shard, t.logical) for t in mine if t.noun in CHANGES_PARTITIONS)
        work += mine
        notices += said
    work.sort(key=lambda t: t.rank)
    steps = tuple(step for task in work for step in task.steps)
    # The hourly run that has nothing to do leaves its costliest part out.
    catalogs = {n: f.catalog for n, f in found.items()}
    plan = Plan(
        topology=topology.name,
        file=str(topology.file),
        sha256=topology.sha256,
        schema_sha256="",
        fingerprint=fingerprint(catalogs, topology.sha256) if steps else "",
        steps=steps,
    )
    return plan, work, notices


class _Run:
    def __init__(self, topology: Topology, listener: Listener, *, counted: int) -> None:
        self.topology, self.listener = topology, listener
        self.run_id: UUID = uuid4()
        self.token = secrets.token_hex(4)
        self.sites = {n: Site(topology, n, self.token, counted=counted) for n in topology.servers}
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

    def coordinator(self) -> db.Connection | None:
        """The session on the coordinator, where there is one."""
        site = self.sites[self.topology.coordinator]
        return site.connection if site.is_open and site.server not in self.failed else None

    def _try(self, server: str, action: Callable[[], None]) -> None:
        try:
            action()
        except ShardError as error:
            if error.code == "PS501":
                raise
            self.failed[server] = error
        except psycopg.Error as error:
            self.failed[server] = db.wrap(error, server=server, doing="opening it")

    def clock(self, found: dict[str, Found]) -> datetime:
        """The coordinator's clock, the same that `apply` goes by; else that of whoever answers."""
        for name in (self.topology.coordinator, *found):
            if name in found:
                return found[name].facts.now
        return datetime.now(UTC).replace(tzinfo=None)  # for the report: nothing will be done

    def execute(self, plan: Plan, work: list[Task], report: Report) -> None:
        recorded = self._start(plan, report)
        state = "interrupted"
        try:
            lanes = [
                _Lane(self.topology, site, self.run_id, self.listener, self.coordinator)
                for site in self.open_sites()
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
            gone = {f.server for f in report.failures if f.table is None}
            for lane in lanes:
                report.failures += [f for peer, f in lane.unreached.items() if peer not in gone]
                report.postponed += lane.postponed
                report.done += lane.done
                report.archived += lane.archived
                report.moved += lane.moved
            report.run_id = self.run_id if recorded else None
            state = "failed" if report.failures else "done"
        finally:
            if recorded:
                self._finish(state, report)

    def _start(self, plan: Plan, report: Report) -> bool:
        """Record the run on the coordinator, where it can be reached and there is work.

        A coordinator that refuses this is left alone, and the other servers are maintained.
        """
        site = self.sites[self.topology.coordinator]
        if not site.is_open or site.server in self.failed:
            return False
        try:
            site.interrupt_dead(
                alone=all(not s.elsewhere for s in self.open_sites()), listener=self.listener
            )
            if plan.steps:
                journal.begin(site.connection, self.run_id, plan, command="maintain")
        except psycopg.Error as error:
            wrapped = db.wrap(
                error, server=site.server, doing="recording the run", connection=site.connection
            )
            self.failed[site.server] = wrapped
            report.failures.append(Failure.of(wrapped, server=site.server))
            return False
        return bool(plan.steps)

    def _finish(self, state: str, report: Report) -> None:
        detail = "; ".join(f.message for f in report.failures) or None
        site = self.sites[self.topology.coordinator]
        try:
            journal.finish(site.connection, self.run_id, state, detail)
        except psycopg.Error as error:
            self.listener("note", None, f"the end of the run was not recorded: {error}")


class _Lane(Executor):
    """The tasks of one server, one after the other."""

    def __init__(
        self,
        topology: Topology,
        site: Site,
        run_id: UUID,
        listener: Listener,
        coordinator: Callable[[], db.Connection | None],
    ) -> None:
        super().__init__(
            topology,
            run_id,
            listener,
            command="maintain",
            application=f"parlant-shard maintain {site.token} {topology.name}"[:63],
            peers={},
        )
        self.site, self._coordinator = site, coordinator
        self.waits = READERS
        self.noun = Noun.FINALISE
        self.task: Task | None = None
        self.done = 0
        self.archived: list[Archived] = []
        self.failures: list[Failure] = []
        self.postponed: list[str] = []
        self.moved: list[Moved] = []
        self.unreached: dict[str, Failure] = {}  # by the server that foreign tables are on
        # What failed in the same way for several partitions: (place in failures, the first, count).
        self.alike: dict[tuple[str, str, str], tuple[int, Failure, int]] = {}

    def interrupt(self) -> None:
        self._interrupt()

    def run(self, work: list[Task]) -> None:
        """Run tasks; those that depend on one that failed are left out."""
        blocked: set[str] = set()  # tables of which nothing may be detached in this run
        unequipped: set[str] = set()  # tables whose archives need what is not installed here
        try:
            for task in work:
                if self.stop.is_set():
                    return
                self.noun, self.task = task.noun, task
                if task.noun is Noun.ARCHIVE and task.table in unequipped:
                    continue
                if task.noun is Noun.DETACH and task.table in blocked:
                    continue
                if task.peer in self.unreached:
                    continue
                try:
                    if task.noun is Noun.DETACH and self._put_off(task):
                        blocked.add(task.table)
                        continue
                    if task.given_up is not None:
                        raise ApplyFailed(
                            f'server "{task.server}": {task.given_up.message}',
                            code=task.given_up.code,
                            hint=task.given_up.hint
                            or f"run `parlant-shard apply {self.topology.file}`",
                        )
                    if task.noun is Noun.MOVE:
                        self._move(task)
                        continue
                    for step in task.steps:
                        self._step(step)
                        self.done += 1
                except ShardError as error:
                    blocked.add(task.table)
                    if error.code == "PS540":
                        unequipped.add(task.table)
                    if not self._lives():
                        self._lost(task, error)
                        return
                    if not self._gave_up(task):
                        self._failed(task, error)
        finally:
            self.close()

    def _archive(self, step: Step) -> None:
        assert self.task is not None
        assert self.task.archive is not None
        self.archived.append(archive(self, step, self.task.archive))

    def _failed(self, task: Task, error: ShardError) -> None:
        if task.peer is not None and _state(error).startswith("08"):
            self._unreached(task.peer, task, error)
            return
        failure = Failure.of(error, server=task.server, shard=task.shard, table=task.table)
        if task.partition is not None:
            key = (task.table, error.code, error.message.replace(task.partition, ""))
            place, first, more = self.alike.get(key, (len(self.failures), failure, -1))
            self.alike[key] = (place, first, more + 1)
            if more >= 0:
                self.failures[place] = first.also(more + 1, task.table, task.partition)
                return
        self.failures.append(failure)
        self.listener("note", None, f"failed: {error.message}")

    def _unreached(self, peer: str, task: Task, error: ShardError) -> None:
        """A foreign table's server does not answer: nor will it for the other tables."""
        said = str(error.__cause__).strip().splitlines()[0]
        message = (
            f'server "{task.server}" cannot reach server "{peer}", so statistics of its foreign '
            f"tables are not taken: {db.redact(said)}"
        )
        self.unreached[peer] = Failure(
            server=task.server,
            code=error.code,
            message=message,
            hint="look whether that server runs and, where one server sees another at another "
            "address than we do, at its `peer_dsn`; the next run takes them",
            table=task.table,
        )

    def _lost(self, task: Task, error: ShardError) -> None:
        """The session with the locks is gone: one message, where the error tells the same."""
        if error.code in {"PS512", "PS516"} or _state(error).startswith(("none", "08", "57P")):
            self.failures.append(Failure.of(error, server=self.site.server))
            self.listener("note", None, f"failed: {error.message}")
            return
        self._failed(task, error)
        try:
            self._check_lock()
        except ShardError as lost:
            self.failures.append(Failure.of(lost, server=self.site.server))

    def _gave_up(self, task: Task) -> bool:
        """Whether it failed because a transaction did not end: the next run tries again."""
        step = next((s for s in task.steps if s.id in self.put_off), None)
        if step is None:
            return False
        self._postpone(task, f"{step.title}: {self.put_off[step.id]} was waited for too long")
        return True

    def _postpone(self, task: Task, why: str) -> None:
        self.postponed.append(
            f'"{task.table}" on server "{task.server}": {why}; the next run tries again'
        )
        self.listener("note", None, f"put off: {self.postponed[-1]}")

    def _lives(self) -> bool:
        try:
            self._check_lock()
        except ShardError:
            return False
        return True

    def _trail(self) -> db.Connection | None:
        return self._coordinator()

    def _patience(self) -> float:
        return _PATIENCE.get(self.noun, _SHORT)

    def _check_lock(self) -> None:
        """Raise ApplyFailed (PS516) where the session with the locks is gone."""
        try:
            self.site.require_locks(hint="look whether the server still runs; the next run goes on")
        except ApplyFailed:
            self.stop.set()
            raise

    def _put_off(self, task: Task) -> bool:
        """Wait for those that use the table now: the detach would, and hold up others meanwhile."""
        if not any(s.kind is Kind.CONCURRENT for s in task.steps):
            return False
        step = next(s for s in task.steps if s.kind is Kind.CONCURRENT)
        user = self._outlasts(step, lambda: self.site.users(task.table))
        if user is not None:
            self._postpone(task, f"an expired partition stays: {user} still uses the table")
        return user is not None or self.stop.is_set()

    def _outlasts(self, step: Step, look: Callable[[], Users]) -> str | None:
        """Wait for the transactions that are there now; name one that is still there at the end."""
        deadline = time.monotonic() + READERS
        told = False
        try:
            waiting = look()
            while waiting and not self.stop.is_set():
                if time.monotonic() > deadline:
                    return next(iter(waiting.values())).who
                if not told and time.monotonic() > deadline - READERS + 1:
                    self.listener("wait", step, f"waiting for {next(iter(waiting.values())).who}")
                    told = True
                self.stop.wait(0.2)
                # Who came later is not waited for: on a busy table somebody always comes.
                now = look()
                waiting = {k: v for k, v in now.items() if k in waiting}
        except psycopg.Error as error:
            raise self._failure(step, error) from error
        return None

    def _move(self, task: Task) -> None:
        """Copy rows aside, wait for all who cannot see the copies, exchange; again if they changed.

        Raises ApplyFailed. The copies go where it does not come to the exchange.
        """
        copying, *linking, exchange = task.steps
        for attempt in range(1, MOVES + 1):
            try:
                self._step(replace(copying, id=f"{copying.id}-{attempt}"))
                user = self._outlasts(exchange, self.site.transactions)
                if user is not None or self.stop.is_set():
                    self._undo(exchange)
                    self._postpone(
                        task,
                        "rows stay in the default partition: "
                        + ("interrupted" if user is None else f"{user} still goes on"),
                    )
                    return
                for step in (*linking, exchange):
                    self._step(replace(step, id=f"{step.id}-{attempt}"))
            except ApplyFailed as error:
                cause = error.__cause__
                if not isinstance(cause, psycopg.Error) or cause.sqlstate != CHANGED:
                    self._undo(exchange)
                    raise
                self.listener("note", exchange, "rows changed meanwhile: they are copied again")
            else:
                assert task.moves is not None
                self.done += len(task.steps)
                self.moved.append(task.moves)
                return
        self._postpone(task, "rows stay in the default partition, which is being written to")


def _state(error: ShardError) -> str:
    """The SQLSTATE of an error's cause; "none" where the connection was lost."""
    cause = error.__cause__
    return (cause.sqlstate or "none") if isinstance(cause, psycopg.Error) else ""
