"""A route and a result as text for people, and as JSON and CSV for programs. Pure."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from typing import Any

from parlant_shard.render import table
from parlant_shard.router.rewrite import changed_parts
from parlant_shard.router.route import Kind, Route

FORMAT_VERSION = 1

_WHERE = {
    Kind.DIRECT: "one shard",
    Kind.MULTI: "several shards",
    Kind.ANY: "any server",
    Kind.ALL: "all workspaces",
    Kind.LOOKUP: "decided by a look-up",
    Kind.REFUSED: "nowhere",
}


def route_text(route: Route, original: str, mark: Callable[[str], str] | None = None) -> str:
    """Where a statement goes, why, and as what.

    `mark` styles what the router wrote; without it these places are underlined with `^`.
    """
    lines = []
    for target in route.targets:
        shard = f'shard "{target.shard}" on ' if target.shard else ""
        lines.append(f'{route.kind.value}: {shard}server "{target.server}"')
    if not route.targets:
        lines.append(f"{route.kind.value}: {_WHERE[route.kind]}")
    if route.workspaces:
        named = ", ".join(f'"{w}"' for w in route.workspaces)
        lines.append(f"workspace{'' if len(route.workspaces) == 1 else 's'}: {named}")
    if route.kind is Kind.REFUSED:
        lines.append(f"{route.code}: {route.reason}")
        if route.hint:
            lines.append(f"  hint: {route.hint}")
        return "\n".join(lines)
    lines += [f"because {why}" for why in route.why]
    shown: set[str] = set()
    for target in route.targets:
        if target.sql in shown:
            continue
        shown.add(target.sql)
        lines += ["", *marked(original, target.sql, mark)]
        if target.params:
            lines.append(f"  params: {json.dumps(plain(target.params), ensure_ascii=False)}")
    if route.question is not None:
        lines += [
            "",
            "if it changes no row, the client asks whether it met rows that it may not change:",
            *(f"  {line}" for line in route.question.sql.split("\n")),
        ]
        if route.question.params:
            values = json.dumps(plain(route.question.params), ensure_ascii=False)
            lines.append(f"  params: {values}")
    return "\n".join(lines)


def marked(before: str, after: str, mark: Callable[[str], str] | None = None) -> list[str]:
    """The lines of a rewritten text; what is not of the original is marked."""
    changed = [False] * len(after)
    for start, end in changed_parts(before, after):
        changed[start:end] = [True] * (end - start)
    lines = []
    at = 0
    for line in after.split("\n"):
        flags = changed[at : at + len(line)]
        at += len(line) + 1
        if mark is not None:
            lines.append("  " + _styled(line, flags, mark))
            continue
        lines.append("  " + line)
        if any(flags):
            # Tabs stay tabs, so that the marks stand below what they mean.
            under = "".join(
                "^" if flag else "\t" if char == "\t" else " "
                for char, flag in zip(line, flags, strict=True)
            )
            lines.append("  " + under.rstrip())
    return lines


def _styled(line: str, flags: Sequence[bool], mark: Callable[[str], str]) -> str:
    parts: list[str] = []
    start = 0
    for end in range(1, len(line) + 1):
        if end == len(line) or flags[end] != flags[start]:
            piece = line[start:end]
            parts.append(mark(piece) if flags[start] else piece)
            start = end
    return "".join(parts)


# --- results --------------------------------------------------------------------------------------


def columns_of(description: Sequence[Any] | None) -> list[str]:
    """The names of the columns; a repeated one gets a number, so that every name is one column."""
    seen: dict[str, int] = {}
    names = []
    for column in description or ():
        count = seen[column.name] = seen.get(column.name, 0) + 1
        names.append(column.name if count == 1 else f"{column.name}_{count}")
    return names


def rows_table(names: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """A table for people; NULL is empty."""
    shown = [["" if v is None else _line(v) for v in row] for row in rows]
    count = f"({len(shown)} row{'' if len(shown) == 1 else 's'})"
    return f"{table(names, shown)}\n{count}" if names else count


def rows_json(names: Sequence[str], rows: Iterable[Sequence[Any]], status: str | None) -> str:
    found = [dict(zip(names, map(plain, row), strict=True)) for row in rows]
    data = {
        "format_version": FORMAT_VERSION,
        "columns": list(names),
        "rows": found,
        "status": status,
    }
    return json.dumps(data, indent=2, ensure_ascii=False)


def rows_csv(names: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """CSV as PostgreSQL writes it: NULL is nothing, an empty text is two quotes."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n", quoting=csv.QUOTE_MINIMAL)
    writer.writerow(names)
    for row in rows:
        cells = ["" if v is None else _line(v, escape=False) for v in row]
        if len(cells) == 1 and not cells[0]:
            out.write("\n" if row[0] is None else '""\n')
            continue
        writer.writerow(cells)
    return out.getvalue()


def plain(value: Any) -> Any:
    """A value as JSON has it: numbers, texts, and JSON as it is; bytes in hex, times in ISO."""
    match value:
        case None | bool() | int() | str():
            return value
        case float():
            return value if math.isfinite(value) else str(value)
        case Decimal():
            return _number(value)
        case Mapping():
            return {str(k): plain(v) for k, v in value.items()}
        case list() | tuple() | set() | frozenset():
            return [plain(v) for v in value]
        case bytes() | bytearray() | memoryview():
            return bytes(value).hex()
        case datetime() | date() | time():
            return value.isoformat()
        case timedelta():
            return _duration(value)
    return str(value)


def _number(value: Decimal) -> int | float | str:
    """A number where JSON's readers keep every digit of it, else its text."""
    if not value.is_finite():
        return str(value)
    if value == value.to_integral_value() and value.as_tuple().exponent == 0:
        return int(value)
    number = float(value)
    return number if Decimal(repr(number)) == value else str(value)


def _duration(value: timedelta) -> str:
    """ISO 8601, which PostgreSQL reads too: P1DT2H3M4.5S."""
    total = value.days * 86_400_000_000 + value.seconds * 1_000_000 + value.microseconds
    sign, total = ("-" if total < 0 else ""), abs(total)
    seconds, micros = divmod(total, 1_000_000)
    minutes, seconds = divmod(seconds, 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    fraction = f".{micros:06d}".rstrip("0") if micros else ""
    return f"{sign}P{days}DT{hours}H{minutes}M{seconds}{fraction}S"


def _line(value: Any, *, escape: bool = True) -> str:
    """A value in one cell."""
    found = plain(value)
    if isinstance(value, Decimal):
        return str(value)
    if isinstance(found, bool):
        return "true" if found else "false"
    text = json.dumps(found, ensure_ascii=False) if isinstance(found, dict | list) else str(found)
    return text.replace("\n", "\\n").replace("\t", "\\t") if escape else text
