"""The forecast for people and as JSON data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from parlant_shard.errors import CannotConnect, Exit, ShardError
from parlant_shard.forecast.advice import Recommendation
from parlant_shard.forecast.model import MONTH, Growth, TooLittle
from parlant_shard.forecast.outlook import Outlook, Outlooks
from parlant_shard.render import size, table

# 3,652 days are the end of the grid: a date further away is none.
_HEADER = ["", "size", "rows", "a month", "%", "law", "full in months", "from"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """The outlooks as they are shown (`limit` workspaces), and what to do. `now` is UTC."""

    topology: str
    now: datetime
    horizon: str
    servers: int
    found: Outlooks
    workspaces: int  # before the limit
    recommendations: tuple[Recommendation, ...]
    notices: tuple[str, ...]
    failures: tuple[tuple[str, ShardError], ...]

    @property
    def exit_code(self) -> Exit:
        if not self.failures:
            return Exit.DONE
        lost = sum(isinstance(e, CannotConnect) for _, e in self.failures)
        return Exit.CANNOT_CONNECT if lost == self.servers else Exit.FAILED

    def to_json(self) -> dict[str, Any]:
        """Sizes in bytes, growth per month of 30.4 days; an interval is [low, expected, high]."""
        return {
            "topology": self.topology,
            "now": f"{self.now.isoformat()}Z",
            "horizon": self.horizon,
            "servers": [_json(o, self.now) for o in self.found.servers],
            "shards": [_json(o, self.now) for o in self.found.shards],
            "tables": [_json(o, self.now) for o in self.found.tables],
            "workspaces": [_json(o, self.now) for o in self.found.workspaces],
            "workspaces_measured": self.workspaces,
            "recommendations": [
                {
                    "kind": r.kind,
                    "target": r.target,
                    "name": r.name,
                    "text": r.text,
                    "moves": [{"workspace": w, "from": s, "to": t} for w, s, t in r.moves],
                    "topology": r.snippet,
                    "commands": list(r.commands),
                }
                for r in self.recommendations
            ],
            "notices": list(self.notices),
            "failures": [
                {"server": s, "code": e.code, "message": e.message, "hint": e.hint}
                for s, e in self.failures
            ],
        }

    def to_text(self) -> str:
        parts = [f'Topology "{self.topology}" at {self.now:%Y-%m-%d %H:%M} UTC']
        for title, found in (
            ("servers", self.found.servers),
            ("shards", self.found.shards),
            ("tables", self.found.tables),
            ("workspaces", self.found.workspaces),
        ):
            if found:
                header = [title, *_HEADER[1:]]
                parts.append(table(header, [_row(o) for o in found]))
        hidden = self.workspaces - len(self.found.workspaces)
        if hidden > 0:
            parts.append(f"{hidden} more workspaces grow less; `--limit` shows them.")
        notices = [f"notice: {n}" for n in self.notices]
        for outlook in _all(self.found):
            notices += [f"notice: {outlook.kind} {outlook.name}: {n}" for n in outlook.notices]
            if outlook.kind in {"server", "shard"} and isinstance(outlook.growth, TooLittle):
                notices.append(
                    f"notice: {outlook.kind} {outlook.name}: too little data; a forecast needs "
                    f"{outlook.growth.needs}"
                )
        if notices:
            parts.append("\n".join(notices))
        parts.append(self._advice())
        return "\n\n".join(parts)

    def _advice(self) -> str:
        if not self.recommendations:
            declared = [o for o in (*self.found.servers, *self.found.shards) if o.capacity]
            known = [o for o in declared if o.months is not None]
            if not known:
                return "Nothing can be said about when anything fills up."
            return f"Nothing whose growth is known fills up within {self.horizon}."
        lines = [f"Within {self.horizon}:"]
        for advice in self.recommendations:
            lines.append(f"- {advice.text}")
            if advice.snippet:
                lines += [f"    {line}" for line in advice.snippet.splitlines()]
            lines += [f"  $ {command}" for command in advice.commands]
        return "\n".join(lines)


def _all(found: Outlooks) -> Sequence[Outlook]:
    return (*found.servers, *found.shards, *found.tables, *found.workspaces)


def _row(outlook: Outlook) -> list[object]:
    name = outlook.name
    if outlook.kind in {"shard", "workspace"}:
        name += f" ({outlook.server if outlook.kind == 'shard' else outlook.shard})"
    cells: list[object] = [name, size(int(outlook.bytes)), f"{outlook.rows:.0f}"]
    growth = outlook.growth
    if isinstance(growth, TooLittle):
        return [*cells, "", "", "too little data", "0.0" if outlook.is_full else "", ""]
    percent = _percent(outlook, growth)
    months = ""
    if outlook.months is not None:
        low, expected, high = (_months(m) for m in outlook.months)
        months = expected if low == expected == high else f"{expected} ({low} to {high})"
    return [
        *cells,
        " to ".join(_signed(v) for v in (growth.per_month[0], growth.per_month[2])),
        "" if percent is None else f"{percent:.1f}",
        growth.law.value,
        months,
        f"{outlook.source}, {growth.span:.0f} days",
    ]


def _signed(value: float) -> str:
    return f"-{size(int(-value))}" if value < 0 else size(int(value))


def _months(months: float | None) -> str:
    return "never" if months is None else f"{months:.1f}"


def _percent(outlook: Outlook, growth: Growth) -> float | None:
    return 100 * growth.per_month[1] / outlook.bytes if outlook.bytes else None


def _json(outlook: Outlook, now: datetime) -> dict[str, Any]:
    growth, in_rows = outlook.growth, outlook.in_rows
    known = isinstance(growth, Growth)
    months = outlook.months
    expected = months[1] if months is not None else None
    return {
        outlook.kind: outlook.name,
        **({"server": outlook.server} if outlook.kind in {"shard", "workspace"} else {}),
        **({"shard": outlook.shard} if outlook.kind == "workspace" else {}),
        "bytes": round(outlook.bytes),
        "rows": round(outlook.rows),
        "capacity": outlook.capacity,
        "confidence": "ok" if known else "too little data",
        "needs": growth.needs if isinstance(growth, TooLittle) else None,
        "law": growth.law.value if isinstance(growth, Growth) else None,
        "bytes_per_month": _interval(growth),
        "rows_per_month": _interval(in_rows),
        "percent_per_month": _percent(outlook, growth) if isinstance(growth, Growth) else None,
        "months_until_full": None if months is None else list(months),
        "full_at": None
        if expected is None
        else f"{(now + timedelta(days=expected * MONTH)).date().isoformat()}",
        "basis": {
            "source": outlook.source,
            "points": growth.points,
            "span_days": round(growth.span, 1),
            "read": round(outlook.read, 6),
            "survivors_only": "timestamps" in outlook.source,
        },
        "notices": list(outlook.notices),
    }


def _interval(growth: Growth | TooLittle) -> list[float] | None:
    return [round(v, 3) for v in growth.per_month] if isinstance(growth, Growth) else None
