"""Plans and tables as text for people. Pure: text in, text out."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from itertools import groupby
from typing import Any

from parlant_shard.plan import NEEDS_ALLOW, Plan, Step


def plan_text(plan: Plan, *, sql: bool = False, width: int = 100) -> str:
    """The plan: notices first, then one line a step, grouped by server as they will run."""
    lines: list[str] = []
    for notice in plan.notices:
        lines += _wrapped(f"notice: {notice}", width, "        ")
    for found in plan.orphans:
        lines += _wrapped(f"rows without a parent: {found}", width, "        ")
    if plan.notices or plan.orphans:
        lines.append("")
    if plan.foreign_keys and (plan.steps or sql):
        lines += ["Foreign keys to reference tables:", *_held(plan), ""]
    if not plan.steps:
        rest = "nothing else to do" if plan.broken_copies else "nothing to do"
        lines.append(f'Topology "{plan.topology}": {rest}.')
        return "\n".join(lines)
    number = 0
    for (_, server), steps in groupby(plan.steps, key=lambda s: (s.phase, s.server)):
        lines.append(f"on {server}:")
        for step in steps:
            number += 1
            lines.append(f"  {number:>4}. {step.title}")
            detail = _detail(step)
            if detail:
                lines.append(f"        {detail}")
            if sql:
                lines += [f"        | {line}" for s in step.sql for line in (s + ";").splitlines()]
    lines += ["", summary(plan)]
    needed = sorted(NEEDS_ALLOW.intersection(plan.hazards))
    if needed:
        lines.append(
            "This plan must be allowed: " + " ".join(f"--allow {hazard}" for hazard in needed)
        )
    return "\n".join(lines)


def _held(plan: Plan) -> list[str]:
    """One line for each foreign key: what holds it on which servers."""
    lines = []
    for (table, name), entries in groupby(plan.foreign_keys, key=lambda h: (h.table, h.name)):
        held = list(entries)
        first = held[0]
        ways = []
        for entry in held:
            way = entry.delete
            if entry.update != entry.delete:
                way += f" (a changed key is {entry.update})"
            ways.append(f"{way} on {', '.join(entry.servers)}")
        lines.append(
            f"  {table}.{name} to {first.references}, ON DELETE {first.on_delete}: "
            f"{'; '.join(ways)}"
        )
    return lines


def _detail(step: Step) -> str:
    parts = []
    if step.lock:
        parts.append(f"lock {step.lock}")
    if step.hazards:
        parts.append("hazard " + ", ".join(step.hazards))
    if not step.transactional and step.kind == "concurrent":
        parts.append("outside a transaction")
    return " · ".join(parts)


def summary(plan: Plan) -> str:
    servers = sorted({s.server for s in plan.steps})
    steps = f"{len(plan.steps)} step" + ("s" if len(plan.steps) != 1 else "")
    return f'Topology "{plan.topology}": {steps} on {", ".join(servers)}.'


def status_text(found: Mapping[str, Any]) -> str:
    """What `status` found: shards, pending detaches, replication, the last run."""
    parts = [
        f"Topology {found['topology']}, coordinator {found['coordinator']}",
        table(
            ["shard", "server", "workspaces", "tables", "rows (est.)", "size", "partitions"],
            [
                [
                    s["shard"],
                    s["server"],
                    s["placed"],
                    s["tables"],
                    "?" if s["rows"] is None else s["rows"],
                    "?" if s["bytes"] is None else size(s["bytes"]),
                    s["partitions"],
                ]
                for s in found["shards"]
            ],
        ),
    ]
    if found["horizons"]:
        parts.append(
            table(
                ["table", "shard", "partitions", "inserts fail from (UTC)", "in days", ""],
                [[h["table"], h["shard"], h["partitions"], *_reach(h)] for h in found["horizons"]],
            )
        )
    pending = [p["partition"] for p in found["partitions"] if p["detach_pending"]]
    if pending:
        parts.append("Detach pending: " + ", ".join(pending))
    if found["replication"]:
        parts.append("Reference tables: " + "; ".join(map(_copy, found["replication"])))
    run_ = found["run"]
    if run_ is None:
        unread = any("error" in s for s in found["servers"] if s["server"] == found["coordinator"])
        parts.append("Last run: not known" if unread else "Last run: none")
    else:
        parts.append(
            f"Last run: {run_['command']} {run_['state']}, {run_['steps']} steps, "
            f"{moment(run_['started_at'])} UTC by {run_['actor']}"
            + (f"\n  {run_['detail']}" if run_["detail"] else "")
        )
    return "\n\n".join(parts)


_COPIES = {
    "missing": "NO SLOT: gets no more changes",
    "lost": "SLOT LOST: gets no more changes",
    "foreign": "NOT ITS SLOT: gets no more changes",
    "ahead": "AHEAD of the coordinator: gets no new rows",
}


def _copy(entry: Mapping[str, Any]) -> str:
    """How far a copy is behind and whether its rows are equal; without its slot, only that."""
    if entry["state"] in _COPIES:
        return f"{entry['slot']}: {_COPIES[entry['state']]}"
    far = "how far behind is not known"
    if entry["behind"] is not None:
        far = f"{size(entry['behind'])} behind"
    parts = [f"{entry['slot']}: {far}" + ("" if entry["active"] else ", not connected")]
    if entry["state"] == "copying":
        parts.append("still copies its tables")
    if any(t["equal"] for t in entry["tables"]):
        count = sum(bool(t["equal"]) for t in entry["tables"])
        parts.append(f"rows of {count} {'table' if count == 1 else 'tables'} equal")
    for t in entry["tables"]:
        if t["equal"] is False:
            counts = f"{t['rows']} on the coordinator, {t['copy_rows']} in the copy"
            parts.append(f'ROWS DIFFER in "{t["table"]}" ({counts})')
        elif t["equal"] is None:
            parts.append(f'"{t["table"]}" not compared: {t["why"]}')
    return ", ".join(parts)


def _reach(horizon: Mapping[str, Any]) -> tuple[str, str, str]:
    """From when inserts fail, in how many days, and what to say of it."""
    if horizon["until"] is None:
        return "never", "", ""
    if horizon["has_default"]:
        until = moment(horizon["until"])
        return "never", "", f"from {until} UTC on the default partition takes the rows"
    days = f"{horizon['horizon_days']:.1f}"
    low = f"LOW: {horizon['reason'] or 'run maintain'}" if horizon["low"] else ""
    return moment(horizon["until"]), days, low


def history_text(past: Mapping[str, Any]) -> str:
    """The runs and the audit trail, newest first, and whether its chain holds."""
    header = ["started (UTC)", "took", "command", "state", "steps", "actor"]
    parts = [
        table(header, [_run_cells(run_) for run_ in past["runs"]])
        if past["runs"]
        else "no run is recorded"
    ]
    if past["audit"]:
        header = ["row", "at (UTC)", "command", "result", "objects", "who", "from"]
        parts.append(table(header, [_audit_cells(row) for row in past["audit"]]))
        chain = past["trail"]
        state = "its chain holds" if chain["ok"] else f"BROKEN at row {chain['broken_at']}"
        parts.append(f"audit trail: {chain['rows']} rows, {state}, head {chain['head'][:16]}")
    return "\n\n".join(parts)


def _run_cells(run_: Mapping[str, Any]) -> list[object]:
    took = ""
    if run_["finished_at"] is not None:
        seconds = _parsed(run_["finished_at"]) - _parsed(run_["started_at"])
        took = f"{seconds.total_seconds():.1f} s"
    return [
        moment(run_["started_at"]),
        took,
        *(run_[k] for k in ("command", "state", "steps", "actor")),
    ]


def _audit_cells(row: Mapping[str, Any]) -> list[object]:
    names = ", ".join(row["objects"][:3])
    if len(row["objects"]) > 3:
        names += f" and {len(row['objects']) - 3} more"
    where = row["client_address"] or "local socket"
    return [
        row["id"],
        moment(row["at"]),
        row["command"],
        row["result"],
        names,
        f"{row['actor']} ({row['os_user'] or '?'})",
        f"{where} ({row['os_host']})",
    ]


def table(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A plain table, columns padded, numbers to the right."""
    body = [[_cell(c) for c in row] for row in rows]
    widths = [max(len(header[i]), *(len(row[i]) for row in body), 0) for i in range(len(header))]
    numeric = [
        bool(body)
        and all(
            row[i].replace(",", "").lstrip("-").isdigit() or row[i] in {"", "-"} for row in body
        )
        for i in range(len(header))
    ]

    def line(cells: Sequence[str]) -> str:
        padded = (
            c.rjust(w) if right else c.ljust(w)
            for c, w, right in zip(cells, widths, numeric, strict=True)
        )
        return "  ".join(padded).rstrip()

    return "\n".join([line(header), line(["-" * w for w in widths]), *map(line, body)])


def moment(text: str) -> str:
    """A moment of the JSON output as people read it: in UTC, to the second."""
    return f"{_parsed(text).astimezone(UTC):%Y-%m-%d %H:%M:%S}"


def _parsed(text: str) -> datetime:
    found = datetime.fromisoformat(text)
    return found if found.tzinfo is not None else found.replace(tzinfo=UTC)


def size(bytes_: int) -> str:
    """Bytes as people read them: 812 kB, 1.4 GB."""
    value = float(bytes_)
    for unit in ("bytes", "kB", "MB", "GB", "TB"):
        if value < 1024 or unit == "TB":
            return (
                f"{value:.0f} {unit}" if value >= 10 or unit == "bytes" else f"{value:.1f} {unit}"
            )
        value /= 1024
    raise AssertionError


def _cell(value: object) -> str:
    return "" if value is None else str(value)


def _wrapped(text: str, width: int, indent: str) -> list[str]:
    lines, current = [], ""
    for word in text.split():
        if current and len(current) + 1 + len(word) > width:
            lines.append(current)
            current = indent + word
        else:
            current = f"{current} {word}" if current else word
    return [*lines, current]
