"""The list of checks, and how one is run: it looks at what was observed and yields findings."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from parlant_shard.doctor import on_contents, on_links, on_server
from parlant_shard.doctor.observe import Observed
from parlant_shard.doctor.report import Check, Finding, warning


@dataclass(frozen=True, slots=True, kw_only=True)
class Examination:
    """One check: its name, its function, the queries that it needs, and how it sums up."""

    name: str
    run: Callable[[Observed], Iterator[Finding]]
    queries: tuple[str, ...] = ()
    detail: Callable[[Observed], str] = lambda _: ""


CHECKS: tuple[Examination, ...] = (
    Examination(name="reachable", run=on_server.reachable, detail=on_server.reached),
    Examination(name="pooler", run=on_server.pooler),
    Examination(name="version", run=on_server.version, detail=on_server.versions),
    Examination(name="same-major", run=on_server.same_major),
    Examination(name="same-database", run=on_server.same_database),
    Examination(name="time-zone", run=on_server.time_zone, queries=("settings", "overrides")),
    Examination(name="encoding", run=on_server.encoding, queries=("settings",)),
    Examination(name="read-only", run=on_server.read_only, queries=("settings",)),
    Examination(name="disk", run=on_server.disk, queries=("slots",)),
    Examination(
        name="constraint_exclusion",
        run=on_server.constraint_exclusion,
        queries=("settings", "overrides"),
    ),
    Examination(name="privileges", run=on_server.privileges, queries=("own_schema", "managed")),
    Examination(name="extensions", run=on_links.extensions, queries=("extensions",)),
    Examination(name="event-triggers", run=on_server.event_triggers),
    Examination(
        name="reference-tables",
        run=on_links.reference_tables,
        queries=("settings", "slots", "replication_load", "subscriptions"),
    ),
    Examination(name="peer", run=on_links.peer),
    Examination(name="cleartext", run=on_links.cleartext),
    Examination(name="trust", run=on_links.trust, queries=("system_user",)),
    Examination(name="secrets", run=on_links.secrets, queries=("settings", "extensions")),
    Examination(name="invalid-indexes", run=on_contents.invalid_indexes, queries=("indexes",)),
    Examination(name="pending-detach", run=on_contents.pending_detach, queries=("detaching",)),
    Examination(name="not-validated", run=on_contents.not_validated, queries=("constraints",)),
    Examination(name="locks", run=on_contents.locks, queries=("settings", "partitioned")),
    Examination(
        name="long-transactions",
        run=on_contents.long_transactions,
        queries=("transactions", "prepared", "login"),
    ),
    Examination(
        name="schema-generation",
        run=on_contents.schema_generation,
        queries=("parlant_columns", "enums"),
        detail=on_contents.generation_detail,
    ),
    Examination(
        name="disagreeing-tenants", run=on_contents.disagreeing_tenants, queries=("tenant_links",)
    ),
)


def examine(seen: Observed) -> tuple[tuple[Check, ...], tuple[Finding, ...]]:
    """Run all checks in their order."""
    checks: list[Check] = []
    findings: list[Finding] = []
    for examination in CHECKS:
        found = [*_not_seen(seen, examination), *examination.run(seen)]
        findings += (replace(f, check=examination.name) for f in found)
        errors = sum(f.severity == "error" for f in found)
        warnings = sum(f.severity == "warning" for f in found)
        counts = ", ".join(
            f"{number} {noun}{'' if number == 1 else 's'}"
            for number, noun in ((errors, "error"), (warnings, "warning"))
            if number
        )
        detail = examination.detail(seen) or counts
        checks.append(Check(name=examination.name, ok=not errors, detail=detail))
    return tuple(checks), tuple(findings)


def _not_seen(seen: Observed, examination: Examination) -> Iterator[Finding]:
    """A query that failed is no all-clear."""
    for server in seen.servers.values():
        for query in examination.queries:
            if query in server.failures:
                yield warning(
                    server=server.name,
                    detail=f"could not be examined: {server.failures[query]}",
                )
