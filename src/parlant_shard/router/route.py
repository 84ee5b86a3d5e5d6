"""What routing a statement answers: where it goes, as what, and why."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import psycopg

from parlant_shard.errors import RoutingError

FORMAT_VERSION = 1

Params = Sequence[Any] | Mapping[str, Any] | None
"""What goes to psycopg beside the text: a sequence for `%s` and `$1`, a mapping for `%(name)s`."""


class Kind(StrEnum):
    """Where a statement goes.

    DIRECT: one server, one shard (or the coordinator, for host tables and writes to reference
    tables). MULTI: the rows of several shards, one target each, their results simply follow one
    another; or one target, the coordinator's federated views, where the rows must be seen
    together. ANY: any server would do (reference tables, or no table at all). ALL: every
    workspace, through the federated views, because the caller asked for it. LOOKUP: an id must
    be looked up first. REFUSED: nowhere.
    """

    DIRECT = "direct"
    MULTI = "multi"
    ANY = "any"
    ALL = "all"
    LOOKUP = "lookup"
    REFUSED = "refused"


@dataclass(frozen=True, slots=True, kw_only=True)
class RouteTarget:
    """One text for one server. `shard` is None where no single shard is meant."""

    shard: str | None
    server: str
    sql: str
    params: Params = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Lookup:
    """The row whose workspace decides: `value` in a unique column of a sharded table.

    Not `possible`: the column's type has no such value, so nobody need be asked.
    """

    table: str
    column: str
    value: Any
    possible: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """The answer. `statement` is select, insert, update, delete, merge, or '' where unknown.

    `writes` is true where the statement may change or lock rows. `code`, `reason` and `hint` are
    set on refusals alone. `numbered` says that the text has `$1` placeholders, which psycopg
    sends with its raw cursors only. `held` is a reference table with the key that the statement
    changes. If an UPDATE or DELETE of it met no row, `question` is asked: a row that it gives says
    that the statement meant rows that it may not change. `certain` says that it needs no question:
    an INSERT ... ON CONFLICT DO UPDATE without a condition writes a row unless one is in its way.
    `shows_row`, of a look-up: a row that the statement yields or
    changes proves that the row looked up is there, and without one it did nothing at all.
    """

    kind: Kind
    statement: str = ""
    targets: tuple[RouteTarget, ...] = ()
    workspaces: tuple[str, ...] = ()
    read: str = "primary"
    why: tuple[str, ...] = ()
    lookup: Lookup | None = None
    code: str | None = None
    reason: str | None = None
    hint: str | None = None
    writes: bool = False
    numbered: bool = False
    held: str | None = None
    question: RouteTarget | None = None
    certain: bool = False
    shows_row: bool = False

    def to_data(self) -> dict[str, Any]:
        """The JSON of `route --output json`."""
        look = self.lookup
        return {
            "format_version": FORMAT_VERSION,
            "kind": self.kind.value,
            "statement": self.statement,
            "targets": [
                {"shard": t.shard, "server": t.server, "sql": t.sql, "params": _plain(t.params)}
                for t in self.targets
            ],
            "workspaces": list(self.workspaces),
            "read": self.read,
            "why": list(self.why),
            "lookup": None
            if look is None
            else {"table": look.table, "column": look.column, "value": _plain(look.value)},
            "code": self.code,
            "reason": self.reason,
            "hint": self.hint,
            "question": None
            if self.question is None
            else {"sql": self.question.sql, "params": _plain(self.question.params)},
        }


def _plain(value: Any) -> Any:
    match value:
        case None | bool() | int() | float() | str():
            return value
        case Mapping():
            return {str(k): _plain(v) for k, v in value.items()}
        case list() | tuple():
            return [_plain(v) for v in value]
    return str(value)


class Unroutable(RoutingError, psycopg.ProgrammingError):
    """A statement that was refused; `route` says why. Nothing was sent."""

    def __init__(self, route: Route) -> None:
        super().__init__(
            route.reason or "the statement cannot be routed",
            code=route.code or "PS600",
            hint=route.hint,
        )
        self.route = route
