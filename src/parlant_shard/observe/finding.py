"""One advice, for people and as data. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from parlant_shard.observe.overlap import How
from parlant_shard.render import size


class Kind(StrEnum):
    """What a finding is about, the most pressing first."""

    INVALID = "invalid"
    DUPLICATE = How.DUPLICATE.value
    PREFIX = How.PREFIX.value
    PARTIAL = How.WHOLE.value
    UNUSED = "unused"
    MISSING = "missing-foreign-key-index"
    BLOATED = "bloated"
    DEAD_ROWS = "dead-rows"
    NEVER_ANALYZED = "never-analyzed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing to do, on every shard that it is true of.

    `bytes` is what it would free; 0 where it frees nothing. `statements` are by server. `declared`
    says what to change so that the next apply agrees; `unless` what would make the advice wrong.
    """

    kind: Kind
    sure: bool
    servers: tuple[str, ...]
    shards: tuple[str, ...]
    table: str
    index: str | None
    bytes: int
    evidence: str
    statements: tuple[tuple[str, tuple[str, ...]], ...]
    unless: str
    declared: str | None = None
    covered_by: str | None = None
    objects: tuple[str, ...] = field(default=())  # physical names

    def to_json(self) -> dict[str, Any]:
        return {
            "kind": self.kind.value,
            "confidence": "high" if self.sure else "low",
            "servers": list(self.servers),
            "shards": list(self.shards),
            "table": self.table,
            "index": self.index,
            "covered_by": self.covered_by,
            "objects": list(self.objects),
            "bytes": self.bytes,
            "evidence": self.evidence,
            "statements": [{"server": s, "sql": list(sql)} for s, sql in self.statements],
            "declared": self.declared,
            "unless": self.unless,
        }


def ordered(findings: Iterable[Finding]) -> tuple[Finding, ...]:
    """The sure ones first, each kind by size."""
    rank = {kind: n for n, kind in enumerate(Kind)}
    return tuple(
        sorted(
            findings,
            key=lambda f: (not f.sure, rank[f.kind], -f.bytes, f.table, f.index or "", f.servers),
        )
    )


def advice_text(
    findings: tuple[Finding, ...], notices: Iterable[str], *, complete: bool = True
) -> str:
    """Every finding with its reason and its statements, and how much all of it would free.

    Not `complete`: a server could not be read, so that no finding is no all-clear.
    """
    parts = [f"notice: {n}" for n in notices]
    for f in findings:
        what = f.index or f.table
        on = f" of {f.table}" if f.index else ""
        where = ", ".join(f.shards) if any(f.shards) else ", ".join(f.servers)
        freed = f", {size(f.bytes)}" if f.bytes else ""
        lines = [f"{f.kind.value}{'' if f.sure else ' (uncertain)'}: {what}{on} ({where}{freed})"]
        lines += [f"  {f.evidence}", f"  unless: {f.unless}"]
        if f.declared:
            lines.append(f"  declared: {f.declared}")
        for server, sql in f.statements:
            lines += [f"  on {server}:", *(f"    {s};" for s in sql)]
        parts.append("\n".join(lines))
    total = sum(f.bytes for f in findings if f.sure)
    parts.append(
        f"{len(findings)} findings; those that are certain would free {size(total)}."
        if findings
        else f"Nothing to advise{'' if complete else ' on what could be read'}."
    )
    return "\n\n".join(parts)
