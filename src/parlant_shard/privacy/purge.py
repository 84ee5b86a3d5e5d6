"""Delete everything of one workspace, and prove it: survey, close, delete, survey again, settle."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import groupby
from typing import Any
from uuid import UUID

import psycopg
from psycopg.sql import SQL, Identifier, Literal

from parlant_shard import db, journal, searchpath, trail
from parlant_shard.allrows import every_row
from parlant_shard.apply import Run, check_hazards, clear_dead_sessions
from parlant_shard.catalog import Catalog, fingerprint
from parlant_shard.desired import INTERNAL_VERSION
from parlant_shard.errors import ApplyFailed, SchemaError
from parlant_shard.executor import PATIENCE, Listener, quiet
from parlant_shard.locks import run_lock
from parlant_shard.plan import TIMEOUTS, Kind, Plan, Step
from parlant_shard.planner import read_servers
from parlant_shard.privacy.entangled import refuse_entangled
from parlant_shard.privacy.holdings import Holding, holdings
from parlant_shard.privacy.home import Archives, Home, archives, home_of, sees_every_row
from parlant_shard.privacy.steps import (
    BATCH,
    HIGH,
    LOW,
    Found,
    Stage,
    closing,
    deleting,
    settling,
    totals,
)
from parlant_shard.privacy.writers import Transactions, transactions, writers
from parlant_shard.topology import AUDIT_TABLE, Topology

# Rows, or blocks where no index finds the rows: of the first batch, and at most.
_FIRST_BATCH, _LARGEST_BATCH = 200, 10_000
# Seconds that a batch should take: a row lock of ours is held no longer, and replicas follow.
_BATCH_SECONDS = 0.5
# Of each batch's time, the share that the server has for others before the next one.
_REST = 0.5
# Rows that a writer adds meanwhile are deleted too, so many times; then somebody must stop it.
ROUNDS = 5
# Seconds for which transactions that were open when the workspace was closed are waited for.
WRITERS = 60.0
_LOOKING = "looking for open transactions"


@dataclass(frozen=True, slots=True, kw_only=True)
class Purged:
    """What a purge did, or would do. `rows` are per logical table, as the surveys counted them."""

    workspace: str
    shard: str
    server: str
    state: str | None
    rows: Mapping[str, int]
    archives: tuple[Mapping[str, Any], ...]
    plan: Plan
    run_id: UUID | None
    seconds: float
    declined: bool = False
    dry_run: bool = False

    @property
    def total(self) -> int:
        return sum(self.rows.values())

    def to_json(self) -> dict[str, Any]:
        return {
            "workspace": self.workspace,
            "shard": self.shard,
            "server": self.server,
            "state": self.state,
            "dry_run": self.dry_run,
            "rows": self.total,
            "tables": [{"table": t, "rows": n} for t, n in sorted(self.rows.items())],
            "steps": [s.to_json() for s in self.plan.steps] if self.dry_run else None,
            "archives": list(self.archives),
            "notices": list(self.plan.notices),
            "run_id": self.run_id,
            "seconds": round(self.seconds, 3),
        }


def purge(
    topology: Topology,
    workspace: str,
    *,
    allow: frozenset[str] = frozenset(),
    dry_run: bool = False,
    confirm: Callable[[Plan], bool] = lambda _plan: True,
    listener: Listener = quiet,
) -> Purged:
    """Delete all rows of a workspace on all servers, and make routers refuse it from then on.

    Holds the topology's lock alone. Every state is committed and every action can be repeated: a
    killed run is resumed by the same call. Raises TopologyError (PS324, PS326), Locked,
    HazardNotAllowed, CannotConnect and ShardError (PS743) before anything changed, ApplyFailed
    afterwards.
    """
    began = time.monotonic()
    with (
        run_lock(topology) as lock,
        trail.recorded(
            topology,
            "workspace purge",
            tell=lambda text: listener("note", None, text),
            connection=lambda: lock,
        ) as entry,
    ):
        entry.objects, entry.write = [workspace], not dry_run
        clear_dead_sessions(topology, listener)
        home = home_of(topology, workspace, lock)
        entry.objects = [home.workspace]
        site = _Site(topology, home)
        found = site.survey()
        refuse_entangled(topology, home, site.live, found)
        plan = _plan(topology, home, site, found)
        declined = False
        run_id: UUID | None = None
        if plan.steps and not dry_run:
            check_hazards(plan, allow)
            declined = not confirm(plan)
            if declined:
                entry.result = trail.Result.REFUSED
            else:
                run = _Purge(topology, plan, lock, listener, site, found)
                entry.run_id = run.run_id
                run_id = run.execute()
                found = run.deleted
                entry.detail["rows"] = totals(found)
        return Purged(
            workspace=home.workspace,
            shard=home.shard,
            server=home.server,
            state="purged" if run_id or not plan.steps else home.state,
            rows=totals(found),
            archives=site.archives.found,
            plan=plan,
            run_id=run_id,
            seconds=time.monotonic() - began,
            declined=declined,
            dry_run=dry_run,
        )


def _plan(topology: Topology, home: Home, site: _Site, found: Iterable[Found]) -> Plan:
    steps = deleting(home.workspace, found)
    if steps or home.state != "purged":
        coordinator = topology.coordinator
        steps = (
            *closing(home, topology.name, coordinator, site.live),
            *steps,
            *settling(home, topology.name, coordinator, site.live),
        )
    return Plan(
        topology=topology.name,
        file=str(topology.file),
        sha256=topology.sha256,
        schema_sha256="",
        fingerprint=fingerprint(site.live, topology.sha256, home.workspace),
        steps=steps,
        notices=tuple(_notices(topology, home, site.archives)),
    )


def _notices(topology: Topology, home: Home, archived: Archives) -> Iterable[str]:
    for entry in archived.found:
        yield (
            f'archive "{entry["path"]}" of "{entry["table"]}" ({entry["from"]} to {entry["to"]}) '
            "may hold rows of the workspace; a purge does not edit archives"
        )
    for why in archived.unread:
        yield f"other archives may hold rows of the workspace: {why}"
    options = topology.shards.get(home.shard)
    if options is not None and home.workspace in options.workspaces:
        yield (
            f'take "{home.workspace}" out of `shards.{home.shard}.workspaces` in {topology.file} '
            "after the purge, and apply: the shard then refuses rows of it"
        )


class _Site:
    """The servers as a purge found them, and how often rows of the workspace are where."""

    def __init__(self, topology: Topology, home: Home) -> None:
        self.topology, self.home = topology, home
        self.live: Mapping[str, Catalog]
        self.live, _ = read_servers(topology)
        for server, catalog in self.live.items():
            if catalog.internal_version not in {0, INTERNAL_VERSION}:
                raise SchemaError(
                    f'server "{server}" has version {catalog.internal_version} of the schema '
                    f"parlant_shard; this release knows version {INTERNAL_VERSION}",
                    code="PS220",
                    hint=f"run `parlant-shard apply {topology.file}`"
                    if catalog.internal_version < INTERNAL_VERSION
                    else "upgrade parlant-shard on this machine",
                )
        self.holdings = holdings(home.shard_map, self.live, leaves=True)
        with sees_every_row(topology, home.server) as connection:
            self.archives = archives(connection, topology, home.shard)

    def survey(self) -> tuple[Found, ...]:
        """Count the rows of the workspace in every holding of every server."""
        servers = sorted(self.live)
        with ThreadPoolExecutor(max_workers=max(1, min(8, len(servers)))) as pool:
            futures = [pool.submit(self._count, server) for server in servers]
        return tuple(found for future in futures for found in future.result())

    def _count(self, server: str) -> list[Found]:
        mine = [h for h in self.holdings if h.server == server]
        with sees_every_row(self.topology, server) as connection:
            _patient(connection)
            return [Found(holding=h, rows=self._rows(connection, h)) for h in mine]

    def _rows(self, connection: db.Connection, holding: Holding) -> int:
        query = SQL("SELECT count(*) AS rows FROM ONLY {} WHERE {}").format(
            holding.name, holding.condition(self.home.workspace)
        )
        row = connection.execute(query).fetchone()
        return int(row["rows"]) if row else 0

    def seen(self) -> dict[str, int]:
        """Rows of the workspace in the federated views, by view: what analytics sees."""
        found = {}
        shard_map = self.home.shard_map
        views = [n for (kind, n) in self.live[self.topology.coordinator].managed if kind == "view"]
        with sees_every_row(self.topology, self.topology.coordinator) as connection:
            _patient(connection)
            for view in sorted(views):
                query = SQL("SELECT count(*) AS rows FROM {} WHERE {} = {}").format(
                    Identifier(shard_map.namespace, view),
                    Identifier(shard_map.key),
                    Literal(self.home.workspace),
                )
                row = connection.execute(query).fetchone()
                found[view] = int(row["rows"]) if row else 0
        return {view: rows for view, rows in found.items() if rows}


def _patient(connection: db.Connection) -> None:
    """Counting may take as long as a table is large."""
    connection.execute(
        "SELECT pg_catalog.set_config('statement_timeout', %s, false)",
        [str(TIMEOUTS[Kind.VALIDATE][1])],
    )


@dataclass(slots=True)
class _Batch:
    """How large the next batch is, and from which block it begins where it goes by blocks."""

    size: int = _FIRST_BATCH
    low: int = 0
    attempts: int = 0
    since: float = field(default_factory=time.monotonic)


class _Purge(Run):
    """One run of a purge. `deleted` is what all its surveys found."""

    def __init__(
        self,
        topology: Topology,
        plan: Plan,
        lock: db.Connection,
        listener: Listener,
        site: _Site,
        found: tuple[Found, ...],
    ) -> None:
        super().__init__(
            topology,
            plan,
            lock,
            listener,
            command="workspace purge",
            approved=plan,
            peers={},
        )
        self.site, self.deleted = site, found

    def _work(self) -> None:
        steps = self.plan.steps
        self._stages([s for s in steps if s.phase < Stage.ROWS])
        at_close = self._at_close()
        self._stages([s for s in steps if Stage.ROWS <= s.phase < Stage.SETTLE])
        self._outwait(at_close)
        for _ in range(ROUNDS):
            left = self.site.survey()
            if not any(f.rows for f in left):
                break
            # What our own deletes made the triggers record is no news.
            came = tuple(f for f in left if f.rows and f.holding.logical != AUDIT_TABLE)
            self.deleted += came
            if came:
                self.listener(
                    "note", None, f"{sum(f.rows for f in came)} rows came meanwhile: once more"
                )
            self._stages(deleting(self.site.home.workspace, left))
        else:
            self._refuse_writers(self.site.survey())
        self._look_into_views()
        self._stages([s for s in steps if s.phase >= Stage.SETTLE])

    def _stages(self, steps: Iterable[Step]) -> None:
        for _, of_stage in groupby(steps, key=lambda s: s.phase):
            self._phase(tuple(of_stage))
            self._check_lock()

    def _at_close(self) -> Mapping[str, Transactions]:
        """The transactions that are open now, by server."""
        found = {}
        for server in sorted(self.site.live):
            with db.session(self.topology, server, doing=_LOOKING) as connection:
                found[server] = transactions(connection)
        return found

    def _outwait(self, at_close: Mapping[str, Transactions]) -> None:
        """Wait until no transaction that was open at the close can still bring rows."""
        deadline = time.monotonic() + WRITERS
        for server, known in at_close.items():
            with db.session(self.topology, server, doing=_LOOKING) as connection:
                self._outwait_on(connection, server, known, deadline)

    def _outwait_on(
        self, connection: db.Connection, server: str, known: Transactions, deadline: float
    ) -> None:
        told, pause = set(), 0.05
        while found := writers(connection, server, self.site.holdings, known):
            first, blocker = found[0], found[0].blocker
            about = f'server "{server}": {blocker.who} wrote to "{first.table}"'
            if time.monotonic() > deadline:
                raise ApplyFailed(
                    f"{about} in a transaction that was open when workspace "
                    f'"{self.site.home.workspace}" was closed, and is still open after '
                    f"{WRITERS:.0f} s",
                    code="PS749",
                    hint=f"{blocker.hint}, then run the same command again: it resumes",
                )
            if blocker.transaction not in told:
                told.add(blocker.transaction)
                self.listener("note", None, f"{about}: waiting for its transaction to end")
            if self.stop.is_set():
                raise self._interrupted()
            self._check_lock()
            self.stop.wait(pause)
            pause = min(1.0, pause * 2)

    def _refuse_writers(self, left: tuple[Found, ...]) -> None:
        some = [f for f in left if f.rows]
        if some:
            where = ", ".join(
                f'{f.rows} in "{f.holding.table.name}" on server "{f.holding.server}"'
                for f in some[:5]
            )
            raise ApplyFailed(
                f'rows of workspace "{self.site.home.workspace}" keep coming: {where}',
                code="PS740",
                hint="stop the writer that does not follow the shard map, then run it again",
            )

    def _look_into_views(self) -> None:
        seen = self.site.seen()
        if seen:
            where = ", ".join(f'{rows} in "{view}"' for view, rows in sorted(seen.items()))
            raise ApplyFailed(
                f'federated views show rows of workspace "{self.site.home.workspace}" that no '
                f"shard table has: {where}",
                code="PS741",
                hint=f"look at `parlant-shard plan {self.topology.file}`: a view or a foreign "
                "table leads elsewhere; then run it again",
            )

    def _connection(self, server: str) -> db.Connection:
        known = self.connections.get(server)
        connection = super()._connection(server)
        if connection is not known:
            # A policy would hide rows, and hidden rows would stay: it must fail instead.
            connection.execute(every_row(self.topology.namespace, local=False))
        return connection

    # --- batches ---------------------------------------------------------------------------------

    def _batches(self, step: Step) -> None:
        """Delete in short transactions that get shorter where they take long, with rests."""
        started = datetime.now(UTC)
        batch, total, told = _Batch(), 0, time.monotonic()
        while not self.stop.is_set():
            self._check_lock()
            began = time.monotonic()
            try:
                changed, blocks = self._batch(step, batch)
            except psycopg.Error as error:
                self._smaller(step, batch, error)
                continue
            took = time.monotonic() - began
            total += changed
            batch.low += batch.size
            batch.attempts, batch.since = 0, time.monotonic()
            if batch.low >= blocks if blocks is not None else changed == 0:
                journal.record(
                    self._connection(step.server),
                    self.run_id,
                    step,
                    started_at=started,
                    attempts=1,
                )
                return
            if time.monotonic() - told > 5:
                self.listener("note", step, f"{total} rows")
                told = time.monotonic()
            factor = 2 if took < _BATCH_SECONDS / 2 else 0.5 if took > _BATCH_SECONDS else 1
            batch.size = max(1, min(_LARGEST_BATCH, int(batch.size * factor)))
            self.stop.wait(took * _REST)
        raise self._interrupted()

    def _batch(self, step: Step, batch: _Batch) -> tuple[int, int | None]:
        """Do one batch; return the rows that changed, and the blocks where it goes by blocks."""
        connection = self._connection(step.server)
        settings = {
            "lock_timeout": step.lock_timeout_ms,
            "statement_timeout": step.statement_timeout_ms,
            BATCH: batch.size,
            LOW: f"({batch.low},0)",
            HIGH: f"({batch.low + batch.size},0)",
        }
        with self.naming(step, connection, batch.attempts), connection.transaction():
            for name, value in settings.items():
                connection.execute("SELECT pg_catalog.set_config(%s, %s, true)", [name, str(value)])
            connection.execute(searchpath.opened(self.topology.namespace))
            statements = self._statements(step)
            row = connection.execute(statements[0]).fetchone()
            assert row is not None
            if len(statements) == 1:
                return int(row["changed"]), None
            size = connection.execute(statements[1]).fetchone()
            assert size is not None
            return int(row["changed"]), int(size["blocks"])

    def _smaller(self, step: Step, batch: _Batch, error: psycopg.Error) -> None:
        """After a batch that failed: try again, with fewer rows. Raises where that is in vain."""
        timed_out = error.sqlstate == "57014" and batch.size > 1 and not self.stop.is_set()
        waited = time.monotonic() - batch.since > PATIENCE
        if not timed_out and (error.sqlstate not in db.RETRYABLE or waited):
            raise error
        batch.size = max(1, batch.size // 8)
        batch.attempts += 1
        self.listener("retry", step, self.why(step, error))
        self._pause(batch.attempts)
