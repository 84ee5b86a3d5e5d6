"""What the client does with a statement, without doing it: generators of commands.

A generator yields a command, is sent the answer (or thrown the error) and goes on. The synchronous
and the asynchronous router carry out the same commands, so routing, look-ups, refreshes and
retries are written once.

What may be tried again, and why nothing happens twice: a statement that a server refused did not
happen. So a CHECK or fence error is followed by one refresh of the map and, where the map changed,
one more attempt; a foreign key to a reference row that is still on its way is tried for a while.
Both outside of a transaction only. A statement whose connection was lost is never sent again.
"""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import psycopg
from psycopg import sql
from psycopg.rows import tuple_row

from parlant_shard.client import failures
from parlant_shard.client.lookups import LookupCache, probes
from parlant_shard.client.options import RowFactory
from parlant_shard.client.result import Answer, joined
from parlant_shard.errors import ShardError
from parlant_shard.router import placeholders
from parlant_shard.router.model import Refusal
from parlant_shard.router.query import Query
from parlant_shard.router.rewrite import key_text, refused, rewrite
from parlant_shard.router.route import Kind, Lookup, Params, Route, RouteTarget, Unroutable
from parlant_shard.shardmap import ShardMap
from parlant_shard.sqlfiles import queries

# Seconds that a row of a reference table is waited for, and between two attempts at first.
REPLICATION_WAIT = 5.0
_FIRST_PAUSE = 0.02

UNSURE = "\0"
"""Whom a transaction admits after a savepoint: PostgreSQL may have taken the setting back."""

_KEY_DETAIL = re.compile(r"\(([^(),]+)\)=\((.*)\)", re.S)


# --- what is asked --------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """A statement as the application gave it, and how psycopg should run it."""

    sql: Query
    params: Params = None
    row_factory: RowFactory | None = None
    prepare: bool | None = None
    binary: bool | None = None


@dataclass(slots=True, kw_only=True)
class Context:
    """What a connection of a router is bound to. Changed by its transactions and pipelines only."""

    workspace: str | None = None
    everything: bool = False
    transaction: bool = False
    pinned: bool = False  # to the server below: by a transaction that has begun, or a pipeline
    server: str | None = None
    shard: str | None = None
    admitted: str | None = None  # whom row-level security lets this transaction see
    elsewhere: str | None = None  # the server of a batch that does not belong on a shard

    def named(self, shard_map: ShardMap) -> str | None:
        """The workspace as the map spells it: a uuid has many spellings."""
        if self.workspace is None:
            return None
        try:
            return key_text(self.workspace, shard_map.key_type)
        except Refusal as refusal:  # of a type that no workspace has
            raise Unroutable(refused("", refusal)) from None

    def home(self, shard_map: ShardMap) -> tuple[str, str | None] | None:
        """The server and shard of the workspace, None where there is none or nobody placed it."""
        if self.elsewhere is not None:
            return self.elsewhere, None
        if self.everything:
            return None
        workspace = self.named(shard_map)
        shard = shard_map.place(workspace) if workspace else None
        return None if shard is None else (shard_map.shards[shard].server, shard)

    def pin(self, server: str, shard: str | None) -> None:
        self.pinned, self.server, self.shard = True, server, shard

    def unpin(self) -> None:
        self.pinned, self.server, self.shard = False, None, None


# --- what is to be done ---------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Run:
    """Run the targets, in parallel where there are several; answer: one Answer each, in order."""

    route: Route
    targets: tuple[RouteTarget, ...]
    call: Call


@dataclass(frozen=True, slots=True)
class Ask:
    """Run a query of ours per server, in parallel; answer: the rows (tuples) of all."""

    on: Mapping[str, sql.Composable | bytes]
    params: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Refresh:
    """Load the map again; answer: the ShardMap."""


@dataclass(frozen=True, slots=True)
class Pause:
    """Wait; answer: None."""

    seconds: float


Command = Run | Ask | Refresh | Pause


class Throttle:
    """Says yes once a second: for what a wrong statement must not trigger again and again."""

    def __init__(self, seconds: float = 1.0) -> None:
        self._seconds = seconds
        self._next = 0.0
        self._lock = threading.Lock()

    def __call__(self) -> bool:
        with self._lock:
            now = time.monotonic()
            if now < self._next:
                return False
            self._next = now + self._seconds
            return True


@dataclass(frozen=True, slots=True)
class Core:
    """What the steps need of a router: its map, and what was looked up before."""

    current: Callable[[], ShardMap]
    cache: LookupCache
    walled: bool = False  # whether row-level security is on
    may_refresh: Throttle = field(default_factory=Throttle)


# --- routing --------------------------------------------------------------------------------------


def routed(
    core: Core, shard_map: ShardMap, call: Call, context: Context
) -> Generator[Command, Any, Route]:
    """Route a statement; look its id up where that decides. The route may be a refusal."""
    workspace = None if context.everything else context.workspace
    route = rewrite(
        call.sql,
        shard_map=shard_map,
        workspace=workspace,
        params=call.params,
        all_workspaces=context.everything,
    )
    if route.kind is not Kind.LOOKUP or route.lookup is None:
        return route
    lookup = route.lookup
    found = core.cache.get(lookup)
    how = "known from an earlier look-up"
    if found is None:
        on = probes(shard_map, lookup, walled=core.walled)
        rows = yield Ask(on, {"value": lookup.value})
        owners = sorted({str(row[0]) for row in rows})
        if len(owners) > 1:
            return _on_two(route, lookup)
        if not owners:
            if route.statement == "insert":
                return _on_none(route, lookup)
            absent = rewrite(call.sql, shard_map=shard_map, params=call.params, absent=True)
            return replace(
                absent, lookup=lookup, why=(*absent.why, f"{_named(lookup)} is on no shard")
            )
        found = owners[0]
        how = f"looked up on {len(on)} server{'' if len(on) == 1 else 's'}"
        core.cache.put(lookup, found)
    final = rewrite(call.sql, shard_map=shard_map, workspace=found, params=call.params)
    why = f'{_named(lookup)} belongs to workspace "{found}" ({how})'
    return replace(final, lookup=lookup, why=(why, *final.why))


def _named(lookup: Lookup) -> str:
    return f'"{lookup.table}.{lookup.column}" {lookup.value}'


def _on_none(route: Route, lookup: Lookup) -> Route:
    return replace(
        route,
        kind=Kind.REFUSED,
        targets=(),
        code="PS625",
        reason=f"{_named(lookup)} is on no shard, so the new row has no workspace",
        hint="insert the row that it refers to first, or give the workspace",
    )


def _on_two(route: Route, lookup: Lookup) -> Route:
    return replace(
        route,
        kind=Kind.REFUSED,
        targets=(),
        code="PS626",
        reason=f"{_named(lookup)} belongs to more than one workspace",
        hint="give the workspace",
    )


def placed(
    route: Route, context: Context, shard_map: ShardMap, *, near: bool = True
) -> tuple[RouteTarget, ...]:
    """The targets, as they apply to this connection. Raises Unroutable.

    What any server can answer is asked of the workspace's own, unless not `near`.
    """
    if route.kind is Kind.REFUSED or not route.targets:
        raise Unroutable(route)
    targets = route.targets
    if (
        route.held is not None
        and context.workspace is not None
        and (context.transaction or context.pinned)
    ):
        raise failures.refused(
            route,
            "PS661",
            f'"{route.held}" is changed on the coordinator, and a '
            f"{'transaction' if context.transaction else 'pipeline'} of a workspace is on its "
            "shard",
            "change it outside of the transaction or pipeline, in a statement of its own",
        )
    if route.kind is Kind.ANY and near:
        home = context.home(shard_map)
        server = context.server if context.pinned else home[0] if home else None
        if server is not None:
            targets = (replace(targets[0], server=server),)
    if context.transaction or context.pinned:
        if len(targets) > 1:
            raise failures.refused(
                route,
                "PS642",
                "the statement reads several shards, and a transaction belongs to one",
                "run it outside of the transaction, or once per workspace",
            )
        _stay(route, targets[0], context)
    return targets


def _stay(route: Route, target: RouteTarget, context: Context) -> None:
    """Raise Unroutable where a transaction has begun on another server or shard."""
    if not context.pinned:
        return
    shards = {target.shard, context.shard} - {None}
    if target.server == context.server and len(shards) < 2:
        return
    what = "transaction" if context.transaction else "pipeline"
    here = f'shard "{context.shard}"' if context.shard else f'server "{context.server}"'
    there = f'shard "{target.shard}"' if target.shard else f'server "{target.server}"'
    raise failures.refused(
        route,
        "PS632",
        f"the {what} belongs to {here}, the statement goes to {there}",
        f"the {what} goes on; run the statement outside of it",
    )


# What PostgreSQL's protocol can count; psycopg would find out with a connection in its hands.
_MOST_PARAMETERS = 65_535


def check_count(params: Params, route: Route | None = None) -> None:
    """Raise Unroutable (PS647) if a statement has more parameters than can be sent."""
    count = 0 if params is None else len(params)
    if count <= _MOST_PARAMETERS:
        return
    if isinstance(params, Mapping):
        if route is None:
            return  # which of them the text names is known later
        count = _named_parameters(route)
        if count <= _MOST_PARAMETERS:
            return
    raise failures.refused(
        route or Route(kind=Kind.REFUSED),
        "PS647",
        f"the statement has {count:,} parameters, and PostgreSQL takes {_MOST_PARAMETERS:,}",
        "nothing was sent; send fewer rows at a time, use executemany or COPY, or give a list as "
        "one parameter: = ANY(%s)",
    )


def _named_parameters(route: Route) -> int:
    return max(placeholders.read(t.sql, percent=True).numbers for t in route.targets)


# --- running --------------------------------------------------------------------------------------


def executed(core: Core, call: Call, context: Context) -> Generator[Command, Any, Answer]:
    """Route, run, and try again where that is safe."""
    refreshed = False
    near = True
    waits = _Waits()
    check_count(call.params)
    while True:
        shard_map = core.current()
        route = yield from routed(core, shard_map, call, context)
        targets = placed(route, context, shard_map, near=near)
        check_count(targets[0].params, route)
        try:
            answers = yield Run(route, targets, call)
            answer = joined(answers)
            if route.held is not None and isinstance(answer, Answer) and answer.rowcount == 0:
                yield from _nothing_held_back(route, call, context)
            return answer
        except psycopg.Error as error:
            if isinstance(error, ShardError):
                raise
            alone = not (context.transaction or context.pinned)
            if alone and error.sqlstate == "42P01" and targets != route.targets:
                near = False  # a server without copies of the reference tables
                continue
            if not refreshed and (
                failures.is_stale(error) or (failures.is_outdated(error) and core.may_refresh())
            ):
                refreshed = True
                fresh = yield Refresh()
                if alone and fresh != shard_map:
                    continue
            elif alone and error.sqlstate == "23503" and len(targets) == 1:
                again = yield from _arrives(shard_map, targets[0], error, waits)
                if again:
                    continue
            raise failure(error, targets[0], route, context) from error


def _nothing_held_back(route: Route, call: Call, context: Context) -> Generator[Command, Any, None]:
    """Raise (PS663) if a change met no row because it may not change those that it meant."""
    found = route.certain
    if route.question is not None:
        ask = Call(sql=call.sql, row_factory=tuple_row, prepare=call.prepare)
        try:
            answers = yield Run(route, (route.question,), ask)
        except psycopg.Error as error:
            if isinstance(error, ShardError):
                raise
            raise failure(error, route.question, route, context) from error
        found = bool(answers[0].rows)
    if found:
        raise failures.held_back(route)


def failure(
    error: psycopg.Error,
    target: RouteTarget,
    route: Route,
    context: Context,
    *,
    sent: bool = False,
) -> Exception:
    """The client's error for a statement of a route."""
    several = len(route.targets) > 1
    return failures.of_statement(
        error,
        server=getattr(error, "server", None) or target.server,
        shard=None if several else target.shard,
        writes=route.writes,
        transaction=context.transaction,
        sent=sent,
    )


class _Waits:
    """Pauses that grow, and their common end."""

    def __init__(self) -> None:
        self.until: float | None = None
        self.pause = _FIRST_PAUSE

    def next(self) -> float | None:
        now = time.monotonic()
        if self.until is None:
            self.until = now + REPLICATION_WAIT
        if now >= self.until:
            return None
        pause = min(self.pause, self.until - now)
        self.pause = min(0.5, self.pause * 2)
        return pause


def _arrives(
    shard_map: ShardMap, target: RouteTarget, error: psycopg.Error, waits: _Waits
) -> Generator[Command, Any, bool]:
    """Whether the missing row of a reference table is on its way: on the coordinator already."""
    diag = error.diag
    detail = _KEY_DETAIL.search(diag.message_detail or "")
    if target.server == shard_map.coordinator or detail is None or not diag.constraint_name:
        return False
    pause = waits.next()
    if pause is None:
        return False
    found = yield Ask(
        {target.server: queries("map")["referenced"].encode()},
        {
            "namespace": diag.schema_name,
            "table": diag.table_name,
            "constraint": diag.constraint_name,
        },
    )
    if len(found) != 1:
        return False
    table, column = found[0]
    known = shard_map.tables.get(table)
    if known is None or known.kind != "reference":
        return False
    there = yield Ask(
        {
            shard_map.coordinator: sql.SQL(
                "SELECT 1 FROM {} WHERE {} OPERATOR(pg_catalog.=) %(value)s"
            ).format(sql.Identifier(shard_map.namespace, table), sql.Identifier(column))
        },
        {"value": detail[2]},
    )
    if not there:
        return False
    yield Pause(pause)
    return True
