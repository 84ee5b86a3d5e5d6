"""Look at the live servers: what will not work, and what to do about it.

`observe` reads, `checks` judges, `statements` tries a file in a scratch database; nothing else is
changed anywhere.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from parlant_shard.doctor import observe
from parlant_shard.doctor.checks import examine
from parlant_shard.doctor.report import SQL, Check, Finding, Report, Tried
from parlant_shard.doctor.statements import base_statements, read_file, try_statements
from parlant_shard.errors import ShardError
from parlant_shard.topology import Topology

__all__ = ["Check", "Finding", "Report", "Tried", "doctor"]


def doctor(topology: Topology, sql_file: Path | None = None) -> Report:
    """Examine every server of a topology, and the statements of a file where one is given.

    Raises CannotConnect when no server can be reached, SchemaError for a file that cannot be read.
    """
    text = None if sql_file is None else read_file(sql_file)
    observed = observe.observe(topology)
    checks, findings = examine(observed)
    if text is None or sql_file is None:
        return Report(topology=topology.name, checks=checks, findings=findings)
    statements: tuple[Tried, ...] = ()
    try:
        origin = topology.schema_source.from_
        base = () if origin is not None else base_statements(observed)
        statements = try_statements(observed, base, str(sql_file), text)
        about = tuple(_about(statements))
    except ShardError as error:
        about = (
            Finding(
                check=SQL,
                severity="error",
                object=str(sql_file),
                detail=f"the file could not be tried: {error.message}",
                hint=error.hint,
            ),
        )
    check = Check(
        name=SQL,
        ok=not any(f.severity == "error" for f in about),
        detail=_counts(statements) if statements else "; ".join(f.detail for f in about),
    )
    return Report(
        topology=topology.name,
        checks=(*checks, check),
        findings=(*findings, *about),
        statements=statements,
    )


def _about(statements: Iterable[Tried]) -> Iterator[Finding]:
    for item in statements:
        if item.ok and (item.why is None or not item.tried):
            continue
        yield Finding(
            check=SQL,
            severity="warning" if item.ok else "error",
            object=f"line {item.line}",
            detail=": ".join(part for part in (item.message, item.why) if part),
            hint=item.hint,
        )


def _counts(statements: Iterable[Tried]) -> str:
    items = tuple(statements)
    parts = [
        f"{len(items)} statements",
        f"{sum(not i.ok for i in items)} rejected",
        f"{sum(not i.tried for i in items)} not tried",
    ]
    return ", ".join(parts)
