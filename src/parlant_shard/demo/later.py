"""The last chapters of the demo: an application through the router, and time that passes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import date, datetime, timedelta

from psycopg.sql import SQL, Identifier

from parlant_shard import db
from parlant_shard.archive import listing
from parlant_shard.client import Router
from parlant_shard.maintain import maintain
from parlant_shard.maintain.report import Report
from parlant_shard.restore import restore
from parlant_shard.router.route import Unroutable
from parlant_shard.topology import Topology
from parlant_shard.verify import verify

Check = Callable[[bool, str], None]
Line = Callable[[str], None]

MONTHS_LATER = timedelta(days=120)
GRACE = timedelta(days=8)  # a day more than a table's own
RETENTION_MONTHS = 6


def routed(topology: Topology, check: Check) -> None:
    """An application's statements, as it wrote them for one database."""
    with Router(topology) as router:
        with router.workspace("acme") as connection:
            mine = connection.execute(
                "SELECT a.name, count(*) FROM parlant_agent a JOIN parlant_session s "
                "ON s.agent_id = a.id GROUP BY a.id ORDER BY 2 DESC"
            ).fetchall()
            agent = connection.execute("SELECT id FROM parlant_agent LIMIT 1").fetchone()
        check(bool(mine), f"acme sees the sessions of its {len(mine)} agents, with its own SQL")
        assert agent is not None
        with router.workspace("globex") as connection:
            row = connection.execute(
                "SELECT * FROM parlant_agent WHERE id = %s", [agent[0]]
            ).fetchone()
        check(row is None, "in the name of globex an id of acme finds nothing")
        try:
            router.execute("SELECT count(*) FROM parlant_agent")
        except Unroutable as error:
            check(True, f"a statement of no workspace is refused ({error.code})")
        else:
            check(False, "a statement of no workspace is refused")


def time_passes(topology: Topology, began: datetime, check: Check, line: Line) -> None:
    """Partitions come, expire, become files and come back; nothing is lost on the way.

    `began` (UTC, without a zone) is the moment from which the months are counted. What must happen
    follows from it and from the months of the rows: on some days of a month more partitions expire
    during the grace of others.
    """
    before = _events_by_month(topology)
    packing = began + MONTHS_LATER
    wanted = expected(before, packing, packing + GRACE)
    first = _maintained(topology, packing, check, line)
    low = [c for c in first.cuts if c.horizon.low or c.horizon.until is None]
    check(not low, "every shard has partitions for the months after that")
    line(f"{len(first.waiting)} expired partitions are detached and kept for their grace")
    second = _maintained(topology, packing + GRACE, check, line)
    archived = [*first.archived, *second.archived]
    found = Expected(
        archived=sum(a.rows for a in archived),
        waiting=_events_waiting(topology, second),
        kept=_events(topology),
    )
    since = (
        f"{found.waiting} events are in partitions that expired since; " if found.waiting else ""
    )
    check(
        found == wanted and found.archived > 0,
        f"{len(archived)} partitions with {wanted.archived} events are files in archive/ now, each "
        f"read back and compared before its table was dropped; {since}the other {wanted.kept} "
        "events are where they were",
    )
    whole, failed = listing(topology, verify=True)
    check(not failed and {e.state for e in whole} == {"archived"}, "every archive is whole")
    largest = max(archived, key=lambda a: a.rows)
    line(f"$ parlant-shard archive restore topology.yaml {largest.partition}")
    restored = restore(topology, largest.partition)
    check(
        restored.rows == largest.rows and _events(topology) == wanted.kept + largest.rows,
        f"its {largest.rows} events are back, in the federated view too",
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Expected:
    """Where the events are after both runs of `maintain`."""

    archived: int
    waiting: int  # detached by the second run, so their grace is not over
    kept: int


def expected(months: Mapping[date, int], packing: datetime, last: datetime) -> Expected:
    """Say by the clock alone where the events of these months are.

    What has expired by `packing` is archived by `last`, for its grace is over then. `months` has
    the first day of each.
    """
    archived = sum(rows for month, rows in months.items() if month < first_month_kept(packing))
    kept = sum(rows for month, rows in months.items() if month >= first_month_kept(last))
    return Expected(archived=archived, waiting=sum(months.values()) - archived - kept, kept=kept)


def first_month_kept(moment: datetime) -> date:
    """Return the first day of the oldest month that has not expired at a moment."""
    number = moment.year * 12 + moment.month - 1 - RETENTION_MONTHS
    return date(number // 12, number % 12 + 1, 1)


def reach(topology: Topology, moment: datetime, check: Check, line: Line) -> None:
    """Bring the partitions to a moment, so that rows up to then find theirs."""
    _maintained(topology, moment, check, line)


def verified(topology: Topology, check: Check) -> None:
    report = verify(topology)
    errors = [f for f in report.findings if f.severity == "error"]
    check(
        not errors and report.ok,
        f"{len(report.checks)} checks of every row and definition on all servers found no error",
    )


def _maintained(topology: Topology, now: datetime, check: Check, line: Line) -> Report:
    line(f"$ parlant-shard maintain topology.yaml --now {now.isoformat()}Z")
    report = maintain(topology, now=now)
    problems = "; ".join(f.message for f in report.failures)
    check(not report.failures, problems or f"{report.done} steps done")
    return report


def _events_by_month(topology: Topology) -> dict[date, int]:
    """Count the events of the federated view by the first day of their month (UTC)."""
    with db.session(topology, topology.coordinator) as core:
        rows = core.execute(
            SQL(
                "SELECT pg_catalog.date_trunc('month', created_at) AS month, count(*) AS n "
                "FROM {} GROUP BY 1"
            ).format(Identifier(topology.namespace, "parlant_event_global"))
        ).fetchall()
    return {row["month"].date(): row["n"] for row in rows}


def _events_waiting(topology: Topology, report: Report) -> int:
    """Count the events in partitions that are detached and not archived yet."""
    found = 0
    for waiting in report.waiting:
        with db.session(topology, waiting.server) as connection:
            row = connection.execute(
                SQL("SELECT count(*) AS n FROM {}").format(
                    Identifier(topology.namespace, waiting.retired.name)
                )
            ).fetchone()
        assert row is not None
        found += int(row["n"])
    return found


def _events(topology: Topology) -> int:
    with db.session(topology, topology.coordinator) as core:
        row = core.execute(
            SQL("SELECT count(*) AS n FROM {}").format(
                Identifier(topology.namespace, "parlant_event_global")
            )
        ).fetchone()
    assert row is not None
    return int(row["n"])
