"""What the doctor says: checks, findings and tried statements, as frozen values."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any, Literal

Severity = Literal["error", "warning", "info"]

_ORDER: dict[str, int] = {"error": 0, "warning": 1, "info": 2}


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing that is wrong or worth knowing, and what to do about it."""

    check: str
    severity: Severity
    detail: str
    server: str | None = None
    object: str | None = None
    hint: str | None = None


def finding(
    severity: Severity,
    *,
    detail: str,
    server: str | None = None,
    about: str | None = None,
    hint: str | None = None,
) -> Finding:
    """Make a finding of the check that runs, whose name is filled in by `checks.examine`."""
    return Finding(
        check="", severity=severity, detail=detail, server=server, object=about, hint=hint
    )


error = partial(finding, "error")
warning = partial(finding, "warning")
info = partial(finding, "info")


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One check over all servers; `ok` is false where it found an error."""

    name: str
    ok: bool
    detail: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Tried:
    """A statement of the file and what PostgreSQL says about it; `why` explains a refusal.

    `tried` is false for what cannot be kept inside a scratch database; `ok` then says nothing more
    than that PostgreSQL can read it. An accepted statement has a `message` where it will not do
    what it seems to.
    """

    line: int
    statement: str
    ok: bool
    tried: bool = True
    sqlstate: str | None = None
    message: str | None = None
    why: str | None = None
    hint: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """Everything that was found; only errors make it not ok."""

    topology: str
    checks: tuple[Check, ...]
    findings: tuple[Finding, ...]
    statements: tuple[Tried, ...] | None = None

    @property
    def ok(self) -> bool:
        return not any(f.severity == "error" for f in self.findings)

    def to_json(self) -> dict[str, Any]:
        """Return `{ok, checks, findings}`, and `statements` where a file was tried."""
        found: dict[str, Any] = {
            "ok": self.ok,
            "checks": [asdict(c) for c in self.checks],
            "findings": [asdict(f) for f in self.findings],
        }
        if self.statements is not None:
            found["statements"] = [asdict(s) for s in self.statements]
        return found

    def to_text(self) -> str:
        """Return the checks, one a line, with their findings below them, worst first."""
        width = max((len(c.name) for c in self.checks), default=0)
        lines = []
        for check in self.checks:
            found = sorted(
                (f for f in self.findings if f.check == check.name),
                key=lambda f: _ORDER[f.severity],
            )
            mark = found[0].severity if found else "ok"
            lines.append(f"{mark:<7}  {check.name:<{width}}  {check.detail}".rstrip())
            if check.name != SQL:  # its findings stand with the statements
                for finding in found:
                    lines += _finding_lines(finding)
        if self.statements is not None:
            lines += ["", *_statement_lines(self.statements)]
        lines += ["", self._summary()]
        return "\n".join(lines)

    def _summary(self) -> str:
        counts = [
            _counted(sum(f.severity == severity for f in self.findings), noun)
            for severity, noun in (("error", "error"), ("warning", "warning"), ("info", "remark"))
        ]
        return f'Topology "{self.topology}": {", ".join(counts)}.'


SQL = "sql"  # the check that holds what a file's statements gave


def _finding_lines(finding: Finding) -> list[str]:
    where = ": ".join(part for part in (finding.server, finding.object) if part)
    lines = [f"  {finding.severity}: {where + ': ' if where else ''}{finding.detail}"]
    if finding.hint:
        lines.append(f"      → {finding.hint}")
    return lines


def _statement_lines(statements: Iterable[Tried]) -> list[str]:
    lines = []
    for item in statements:
        mark = "rejected" if not item.ok else "ok" if item.tried else "not tried"
        lines.append(f"{mark:<9} line {item.line}: {' '.join(item.statement.split())}")
        if item.message:
            state = f" [{item.sqlstate}]" if item.sqlstate else ""
            lines.append(f"      {item.message}{state}")
        if item.why:
            lines.append(f"      why: {item.why}")
        if item.hint:
            lines.append(f"      → {item.hint}")
    return lines


def _counted(number: int, noun: str) -> str:
    return f"{number} {noun}" + ("" if number == 1 else "s")
