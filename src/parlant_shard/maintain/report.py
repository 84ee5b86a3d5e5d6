"""What a run did and found, for people, as JSON data and for Prometheus."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any
from uuid import UUID

import psycopg

from parlant_shard import db
from parlant_shard.archive import Archived
from parlant_shard.catalog import Retired
from parlant_shard.errors import Exit, ShardError
from parlant_shard.horizon import Cut, cuts, gone, horizon_json, missing, utc
from parlant_shard.maintain.model import Found, Moved
from parlant_shard.maintain.seals import Settled
from parlant_shard.maintain.site import Site
from parlant_shard.observe import ShardTable, figures_of, table_metrics
from parlant_shard.plan import Plan
from parlant_shard.prometheus import Metric, exposition
from parlant_shard.topology import Topology


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """What went wrong, and where. It stopped nothing else."""

    server: str
    code: str
    message: str
    hint: str | None
    shard: str | None = None
    table: str | None = None

    @classmethod
    def of(
        cls, error: ShardError, *, server: str, shard: str | None = None, table: str | None = None
    ) -> Failure:
        return cls(
            server=server,
            code=error.code,
            message=error.message,
            hint=error.hint,
            shard=shard,
            table=table,
        )

    def also(self, more: int, table: str, last: str) -> Failure:
        """The same failure for `more` further partitions, up to this one."""
        what = "partition" if more == 1 else "partitions"
        return replace(
            self,
            message=f'{self.message}; the same for {more} more {what} of "{table}", up to "{last}"',
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Waiting:
    """A detached partition that is kept; from `due` on it may be archived."""

    server: str
    retired: Retired
    due: datetime
    archive: bool  # whether the topology wants it archived


@dataclass(slots=True, kw_only=True)
class Report:
    """The outcome. Everything is by the clock of the run, `now`, in UTC."""

    topology: str
    now: datetime
    dry_run: bool
    plan: Plan
    servers: tuple[str, ...]
    unreachable: tuple[str, ...]
    elsewhere: tuple[tuple[str, str], ...]  # (server, table) that another maintainer works on
    run_id: UUID | None = None
    done: int = 0
    seconds: float = 0.0
    failures: list[Failure] = field(default_factory=list)
    postponed: list[str] = field(default_factory=list)
    moved: list[Moved] = field(default_factory=list)
    settled: list[Settled] = field(default_factory=list)
    cuts: list[Cut] = field(default_factory=list)
    waiting: list[Waiting] = field(default_factory=list)
    archived: list[Archived] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)
    sizes: list[ShardTable] = field(default_factory=list)
    # (server, table) → the retired partition in whose range inserts fail first
    retired: dict[tuple[str, str], Retired] = field(default_factory=dict)

    @property
    def exit_code(self) -> Exit:
        if set(self.unreachable) == set(self.servers):
            return Exit.CANNOT_CONNECT
        return Exit.FAILED if self.failures else Exit.DONE

    @property
    def notices(self) -> tuple[str, ...]:
        found = list(self.plan.notices)
        if self.elsewhere:
            servers = ", ".join(sorted({f'"{s}"' for s, _ in self.elsewhere}))
            found.append(
                f"another maintain works on {len(self.elsewhere)} tables of server {servers}: "
                "they are left to it"
            )
        for seal in self.settled:
            if seal.opened:
                found.append(
                    f'server "{seal.server}": {seal.opened} keys of reference tables had been '
                    "sealed by transactions that did not delete their rows; rows can refer to "
                    "them again"
                )
            if seal.left:
                found.append(
                    f'server "{seal.server}": {seal.left} sealed keys are left to the next run: '
                    "their rows are being deleted, or the copy is behind"
                )
        for cut in self.cuts:
            if cut.default_rows:
                found.append(
                    f'default partition "{cut.default}" on server "{cut.server}" holds '
                    f"{cut.default_rows} rows: where a row's range is to get a partition of its "
                    "own, that waits until the rows are moved (--move-default-rows)"
                )
            # What another maintainer works on it is about to make.
            if cut.horizon.low and (cut.server, cut.table) not in self.elsewhere:
                fail = f"will fail from {cut.horizon.until:%Y-%m-%d %H:%M:%S} UTC on"
                if cut.horizon.until == self.now:
                    fail = "fail, as no partition is there for rows of now"
                row = self.retired.get((cut.server, cut.table))
                found.append(
                    f'inserts into "{cut.table}" on server "{cut.server}" {fail}'
                    + ("" if row is None else f": {gone(row)}")
                )
        due = [w for w in self.waiting if w.archive and w.due <= self.now]
        found += [
            f'{m.rows} rows of default partition "{m.default}" on server "{m.server}" were moved '
            "into partitions"
            for m in self.moved
        ]
        if due and not self.dry_run:
            found.append(
                f"{len(due)} detached partitions are due and were not archived in this run: they "
                "are kept"
            )
        return (*found, *self.remarks)

    def to_json(self) -> dict[str, Any]:
        return {
            "topology": self.topology,
            "now": f"{self.now.isoformat()}Z",
            "dry_run": self.dry_run,
            "run_id": self.run_id,
            "steps": [s.to_json() for s in self.plan.steps],
            "done": self.done,
            "seconds": round(self.seconds, 3),
            "failures": [
                {
                    "server": f.server,
                    "shard": f.shard,
                    "table": f.table,
                    "code": f.code,
                    "message": f.message,
                    "hint": f.hint,
                }
                for f in self.failures
            ],
            "postponed": list(self.postponed),
            "moved": [{"server": m.server, "table": m.table, "rows": m.rows} for m in self.moved],
            "seals": [
                {"server": s.server, "opened": s.opened, "removed": s.removed, "left": s.left}
                for s in self.settled
            ],
            "notices": list(self.notices),
            "elsewhere": [{"server": s, "table": t} for s, t in self.elsewhere],
            "tables": [
                {
                    "server": c.server,
                    "shard": c.shard,
                    "table": c.logical,
                    "partitions": c.partitions,
                    **horizon_json(c.horizon),
                    "default_rows": c.default_rows,
                }
                for c in self.cuts
            ],
            "archived": [
                {
                    "server": a.server,
                    "shard": a.shard,
                    "table": a.logical,
                    "partition": a.partition,
                    "rows": a.rows,
                    "bytes": a.bytes,
                    "path": a.path,
                }
                for a in self.archived
            ],
            "detached": [
                {
                    "server": w.server,
                    "shard": w.retired.shard,
                    "table": w.retired.logical,
                    "partition": w.retired.name,
                    "from": utc(w.retired.lower),
                    "to": utc(w.retired.upper),
                    "detached_at": utc(w.retired.detached_at),
                    "due": utc(w.due),
                }
                for w in self.waiting
            ],
        }


def figures(
    report: Report,
    topology: Topology,
    sites: Iterable[Site],
    found: Mapping[str, Found],
    *,
    sizes: bool,
) -> None:
    """Look at the servers once more: how far partitions reach, what waits, and how large it is."""
    emptied = {(m.server, m.default) for m in report.moved}
    for site in sites:
        try:
            report.cuts += cuts(
                topology,
                site.server,
                site.partitions(),
                report.now,
                {
                    name: site.count(name) if (site.server, name) in emptied else held.rows
                    for name, held in found[site.server].defaults.items()
                },
            )
            if sizes:
                report.sizes += _sizes(topology, site)
            retired = site.retired()
            for cut in report.cuts:
                row = missing(cut, retired) if cut.server == site.server else None
                if row is not None:
                    report.retired[cut.server, cut.table] = row
            for row in retired:
                partition = topology.partition_of(row.logical)
                if not row.present or row.state != "detached" or row.detached_at is None:
                    continue
                if partition is None:
                    continue
                report.waiting.append(
                    Waiting(
                        server=site.server,
                        retired=row,
                        due=row.detached_at + partition.grace.timedelta,
                        archive=partition.archive is not None,
                    )
                )
        except psycopg.Error as error:
            wrapped = db.wrap(error, server=site.server, doing="looking at the partitions")
            report.failures.append(Failure.of(wrapped, server=site.server))
        if not report.dry_run:
            _sample(report, site)


def _sample(report: Report, site: Site) -> None:
    """Store a sample; without it a forecast knows less, and the run has done all it should."""
    try:
        site.sample()
    except psycopg.Error as error:
        wrapped = db.wrap(error, server=site.server, doing="storing a sample of growth")
        report.remarks.append(wrapped.message)


def _sizes(topology: Topology, site: Site) -> list[ShardTable]:
    try:
        return figures_of(topology, site.connection, site.server)
    except psycopg.errors.OperationalError:
        if site.connection.closed:
            raise
        # A table is locked, or the server is slow: a run does not fail for want of a figure.
        return []


# --- text -----------------------------------------------------------------------------------------


def report_text(report: Report) -> str:
    """One line for a mail of cron, and more only where there is something to say."""
    lines = [f"notice: {n}" for n in report.notices]
    lines += [f"put off: {p}" for p in report.postponed]
    lows = [c.horizon for c in report.cuts if c.horizon.left is not None]
    reach = ""
    if lows:
        nearest = min(lows, key=lambda h: h.until or datetime.max)
        assert nearest.left is not None
        until = f"{nearest.until:%Y-%m-%d %H:%M:%S} UTC"
        reach = f"; partitions reach until {until} ({nearest.left.days} days) at least"
    did = "nothing done" if report.failures else "nothing to do"
    if report.done:
        did = f"{report.done} steps done in {report.seconds:.1f} s"
    if report.archived:
        rows = sum(a.rows for a in report.archived)
        did += f", {len(report.archived)} partitions archived ({rows} rows)"
    if report.dry_run:
        did = f"{len(report.plan.steps)} steps to do"
    if report.failures:
        did += f", {len(report.failures)} failed"
    lines.append(f'Topology "{report.topology}": {did}{reach}.')
    return "\n".join(lines)


# --- Prometheus -----------------------------------------------------------------------------------

_HELP = {
    "partition_horizon_seconds": "Time until inserts find no partition but a default one.",
    "partition_horizon_alarm_seconds": "The horizon below which something is wrong.",
    "partition_horizon_low": "Whether the horizon is below its alarm.",
    "partitions": "Attached partitions of a table.",
    "partitions_detached": "Partitions that are detached and kept.",
    "partitions_archive_due": "Detached partitions whose grace has passed.",
    "archive_rows": "Rows of a table that the last run archived.",
    "archive_bytes": "The size of the archives that the last run made of a table.",
    "default_partition_rows": "Rows in the default partition, counted up to a million.",
    "server_up": "Whether the last run of maintain could work on a server.",
    "maintain_last_run_timestamp_seconds": "When maintain ran last.",
    "maintain_last_run_success": "Whether that run did all it should.",
    "maintain_last_run_failures": "What went wrong in that run.",
    "maintain_last_run_postponed": "Detaches that it put off, because readers were in the way.",
    "maintain_last_run_steps": "The steps of that run.",
    "maintain_last_run_duration_seconds": "How long that run took.",
}


def metrics(report: Report, wall_clock: float) -> str:
    """The report in Prometheus' text format, for the textfile collector of node_exporter."""
    found = {name: Metric(name=name, help=text) for name, text in _HELP.items()}
    whole = {"topology": report.topology}
    for cut in report.cuts:
        labels = {**whole, "server": cut.server, "shard": cut.shard, "table": cut.logical}
        left = cut.horizon.left
        found["partition_horizon_seconds"].put(
            labels, float("inf") if left is None else max(0.0, left.total_seconds())
        )
        found["partition_horizon_alarm_seconds"].put(labels, cut.horizon.alarm.total_seconds())
        found["partition_horizon_low"].put(labels, cut.horizon.low)
        found["partitions"].put(labels, cut.partitions)
        mine = [
            w for w in report.waiting if (w.server, w.retired.parent) == (cut.server, cut.table)
        ]
        found["partitions_detached"].put(labels, len(mine))
        found["partitions_archive_due"].put(labels, sum(w.due <= report.now for w in mine))
        made = [
            a
            for a in report.archived
            if (a.server, a.shard, a.logical) == (cut.server, cut.shard, cut.logical)
        ]
        found["archive_rows"].put(labels, sum(a.rows for a in made))
        found["archive_bytes"].put(labels, sum(a.bytes for a in made))
        if cut.default is not None and cut.default_rows is not None:
            found["default_partition_rows"].put(labels, cut.default_rows)
    broken = {f.server for f in report.failures if f.table is None}
    for server in report.servers:
        found["server_up"].put({**whole, "server": server}, server not in broken)
    found["maintain_last_run_timestamp_seconds"].put(whole, wall_clock)
    found["maintain_last_run_success"].put(whole, not report.failures)
    found["maintain_last_run_failures"].put(whole, len(report.failures))
    found["maintain_last_run_postponed"].put(whole, len(report.postponed))
    found["maintain_last_run_steps"].put(whole, report.done)
    found["maintain_last_run_duration_seconds"].put(whole, round(report.seconds, 3))
    return exposition([*found.values(), *table_metrics(report.topology, report.sizes, "maintain")])
