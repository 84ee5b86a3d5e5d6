"""What `verify` says: checks, findings and what could not be checked, as frozen values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

from parlant_shard.errors import Exit

Severity = Literal["error", "warning"]

SAMPLES = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing that is wrong, and the statement that shows it on `server`.

    `rows` counts rows, keys or workspaces, 0 where the finding is about a definition. `sample`
    holds primary keys (column → text), never anything else of a row.
    """

    check: str
    detail: str
    server: str
    severity: Severity = "error"
    shard: str | None = None
    table: str | None = None
    workspace: str | None = None
    rows: int = 0
    sample: tuple[Mapping[str, str | None], ...] = ()
    statement: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """Something that a check could not look at, and why."""

    check: str
    server: str
    detail: str
    hint: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One check over all servers; not `ok` where it found an error or could not look everywhere."""

    name: str
    ok: bool
    detail: str
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """What a server's rows were judged by; after a resumed run there are several per server."""

    server: str
    taken_at: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """Everything that was found. Only errors, and what could not be checked, make it not ok."""

    topology: str
    workspace: str | None
    checks: tuple[Check, ...]
    findings: tuple[Finding, ...]
    failures: tuple[Failure, ...]
    snapshots: tuple[Snapshot, ...]
    placed: bool | None = None  # whether anything knows `workspace`: of a slip there is no finding

    @property
    def ok(self) -> bool:
        return not self.failures and not any(f.severity == "error" for f in self.findings)

    @property
    def exit_code(self) -> Exit:
        """Findings come before what could not be checked: they are certain."""
        if any(f.severity == "error" for f in self.findings):
            return Exit.FINDINGS
        return Exit.FAILED if self.failures else Exit.DONE

    def to_json(self) -> dict[str, Any]:
        return {
            "topology": self.topology,
            "workspace": self.workspace,
            "placed": self.placed,
            "ok": self.ok,
            "complete": not self.failures,
            "checks": [asdict(c) for c in self.checks],
            "findings": [asdict(f) for f in self.findings],
            "failures": [asdict(f) for f in self.failures],
            "snapshots": [asdict(s) for s in self.snapshots],
        }

    def to_text(self) -> str:
        """Return the checks, one a line, with their findings below them."""
        width = max((len(c.name) for c in self.checks), default=0)
        lines = []
        for check in self.checks:
            found = [f for f in self.findings if f.check == check.name]
            worst = "warning" if found else "ok"
            if any(f.severity == "error" for f in found):
                worst = "error"
            mark = worst if check.ok or worst == "error" else "unknown"
            lines.append(f"{mark:<7}  {check.name:<{width}}  {check.detail}".rstrip())
            for finding in found:
                lines += _finding_lines(finding)
            for failure in self.failures:
                if failure.check == check.name:
                    lines.append(f"  not checked: {failure.server}: {failure.detail}")
                    if failure.hint:
                        lines.append(f"      → {failure.hint}")
        lines += ["", self._summary()]
        return "\n".join(lines)

    def _summary(self) -> str:
        errors = sum(f.severity == "error" for f in self.findings)
        parts = [_counted(errors, "error"), _counted(len(self.findings) - errors, "warning")]
        if self.failures:
            parts.append(f"{len(self.failures)} not checked")
        about = f', workspace "{self.workspace}"' if self.workspace is not None else ""
        times = {s.server: s.taken_at for s in self.snapshots}
        text = f'Topology "{self.topology}"{about}: {", ".join(parts)}.'
        if self.placed is False:
            text += " It is placed nowhere, by the topology or by a server: is the name right?"
        if len(times) < len(self.snapshots):
            text += " Resumed: the rows were judged by more than one snapshot per server."
        return text


def _finding_lines(finding: Finding) -> list[str]:
    place = [finding.server]
    place += [f"shard {finding.shard}"] if finding.shard else []
    place += [finding.table] if finding.table else []
    place += [f'workspace "{finding.workspace}"'] if finding.workspace is not None else []
    count = f" ({finding.rows} rows)" if finding.rows else ""
    lines = [f"  {finding.severity}: {', '.join(place)}: {finding.detail}{count}"]
    if finding.sample:
        keys = "; ".join(
            ", ".join(f"{k}={v}" for k, v in sample.items()) for sample in finding.sample
        )
        lines.append(f"      keys: {keys}")
    if finding.statement:
        lines.append(f"      → {finding.statement}")
    return lines


def _counted(number: int, noun: str) -> str:
    return f"{number} {noun}" + ("" if number == 1 else "s")
