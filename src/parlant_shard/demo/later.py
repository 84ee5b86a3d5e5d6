"""The last chapters of the demo: an application through the router, and time that passes."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta

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
GRACE = timedelta(days=8)


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


def time_passes(topology: Topology, check: Check, line: Line) -> None:
    """Partitions come, expire, become files and come back; nothing is lost on the way."""
    before = _events(topology)
    later = datetime.now(UTC).replace(tzinfo=None, microsecond=0) + MONTHS_LATER
    first = _maintained(topology, later, check, line)
    low = [c for c in first.cuts if c.horizon.low or c.horizon.until is None]
    check(not low, "every shard has partitions for the months after that")
    line(f"{len(first.waiting)} expired partitions are detached and kept for their grace")
    second = _maintained(topology, later + GRACE, check, line)
    packed = sum(a.rows for a in second.archived)
    check(
        packed > 0 and _events(topology) + packed == before,
        f"{len(second.archived)} partitions with {packed} events are files in archive/ now, each "
        f"read back and compared before its table was dropped; the other {before - packed} events "
        "are where they were",
    )
    whole, failed = listing(topology, verify=True)
    check(not failed and {e.state for e in whole} == {"archived"}, "every archive is whole")
    wanted = max(second.archived, key=lambda a: a.rows)
    line(f"$ parlant-shard archive restore topology.yaml {wanted.partition}")
    restored = restore(topology, wanted.partition)
    check(
        restored.rows == wanted.rows and _events(topology) == before - packed + wanted.rows,
        f"its {wanted.rows} events are back, in the federated view too",
    )


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


def _events(topology: Topology) -> int:
    with db.session(topology, topology.coordinator) as core:
        row = core.execute(
            SQL("SELECT count(*) AS n FROM {}").format(
                Identifier(topology.namespace, "parlant_event_global")
            )
        ).fetchone()
    assert row is not None
    return int(row["n"])
