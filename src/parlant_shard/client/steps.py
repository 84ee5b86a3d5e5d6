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
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

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
    piped: bool = False  # within a pipeline: an answer is not known when a statement was sent
    seen: dict[Lookup, str] = field(default_factory=dict)  # what only this transaction saw
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
        self.seen.clear()


# --- what is to be done ---------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Run:
    """Run the targets, in parallel where there are several; answer: one Answer each, in order.

    With `apart`, on a connection of its own: the transaction does not begin with it.
    """

    route: Route
    targets: tuple[RouteTarget, ...]
    call: Call
    apart: bool = False


@dataclass(frozen=True, slots=True)
class Ask:
    """Run a query of ours per server; answer: the rows (tuples) of all.

    `by` says over which connections: of the pools, in parallel; the transaction's own, which sees
    its own rows; or those that are kept for look-ups, since a transaction holds one of a pool.
    """

    on: Mapping[str, sql.Composable | bytes]
    params: Mapping[str, Any]
    by: Literal["pools", "own", "aside"] = "pools"


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


@dataclass(frozen=True, slots=True)
class Located:
    """The workspaces that have a row, and how that is known. `unsure`: from memory alone."""

    owners: tuple[str, ...]
    how: str
    unsure: bool = False


def routed(
    core: Core,
    shard_map: ShardMap,
    call: Call,
    context: Context,
    *,
    known: dict[Lookup, Located] | None = None,
) -> Generator[Command, Any, Route]:
    """Route a statement; look its id up where that decides. The route may be a refusal.

    `known` is filled with what was looked up, for the next statements of a batch.
    """
    route, _ = yield from _routed(core, shard_map, call, context, known=known)
    return route


def _routed(
    core: Core,
    shard_map: ShardMap,
    call: Call,
    context: Context,
    *,
    trust: bool = False,
    known: dict[Lookup, Located] | None = None,
) -> Generator[Command, Any, tuple[Route, bool]]:
    """A route, and whether it is unsure: with `trust` a row may be where it was, unasked."""
    workspace = None if context.everything else context.workspace
    route = rewrite(
        call.sql,
        shard_map=shard_map,
        workspace=workspace,
        params=call.params,
        all_workspaces=context.everything,
    )
    lookup = route.lookup
    if route.kind is not Kind.LOOKUP or lookup is None:
        return route, False
    if not lookup.possible:
        return nowhere(shard_map, call, context, route), False
    found = None if known is None else known.get(lookup)
    if found is None:
        # Only if the answer shows it soon whether the row is there.
        trust = trust and route.shows_row and not context.piped
        found = yield from _located(core, shard_map, lookup, context, trust=trust)
        if known is not None:
            known[lookup] = found
    if len(found.owners) > 1:
        return _on_two(route, lookup), False
    if not found.owners:
        return nowhere(shard_map, call, context, route), False
    (owner,) = found.owners
    final = rewrite(call.sql, shard_map=shard_map, workspace=owner, params=call.params)
    why = f'{_named(lookup)} belongs to workspace "{owner}" ({found.how})'
    return replace(final, lookup=lookup, why=(why, *final.why)), found.unsure


def _located(
    core: Core, shard_map: ShardMap, lookup: Lookup, context: Context, *, trust: bool
) -> Generator[Command, Any, Located]:
    """Find the workspaces of a row: where it was last, or else everywhere.

    What is remembered may be wrong by now, so its server alone is asked whether the row is still
    there, unless it is trusted.
    """
    last = context.seen.get(lookup) if context.seen else None
    last = last or core.cache.get(lookup)
    shard = shard_map.place(last) if last is not None else None
    server = None if shard is None else shard_map.shards[shard].server
    if last is not None and server is not None and context.server in (None, server):
        if trust and context.shard in (None, shard):
            return Located((last,), "known from an earlier look-up", unsure=True)
        if (yield from _is_there(core, shard_map, lookup, context, server=server, owner=last)):
            return Located((last,), "known from an earlier look-up, and still there")
    on = probes(shard_map, lookup, walled=core.walled)
    params = {"value": lookup.value}
    if context.pinned and context.server in on:
        # Its own server first: only its own connection sees what the transaction has written.
        rows = yield Ask({context.server: on.pop(context.server)}, params, by="own")
        owners = _owners(rows)
        if owners:
            if len(owners) == 1:
                context.seen[lookup] = owners[0]
            return Located(owners, "looked up on the transaction's own server")
    rows = (yield Ask(on, params, by="aside" if context.pinned else "pools")) if on else []
    owners = _owners(rows)
    if len(owners) == 1:
        core.cache.put(lookup, owners[0])
    count = len(on) + (context.pinned and context.server not in on)
    return Located(owners, f"looked up on {count} server{'' if count == 1 else 's'}")


def _is_there(
    core: Core, shard_map: ShardMap, lookup: Lookup, context: Context, *, server: str, owner: str
) -> Generator[Command, Any, bool]:
    """Ask the server of a remembered place whether the row is there. If not, forget the place."""
    on = probes(shard_map, lookup, walled=core.walled, server=server)
    by: Literal["own", "pools"] = "own" if context.pinned else "pools"
    rows = yield Ask(on, {"value": lookup.value}, by=by)
    there = _owners(rows) == (owner,)
    if not there:
        _forget(core, context, lookup)
    return there


def _owners(rows: Iterable[Sequence[Any]]) -> tuple[str, ...]:
    return tuple(sorted({str(row[0]) for row in rows}))


def _forget(core: Core, context: Context, lookup: Lookup) -> None:
    core.cache.forget(lookup)
    context.seen.pop(lookup, None)


def nowhere(
    shard_map: ShardMap, call: Call, context: Context, route: Route, *, shard: str | None = None
) -> Route:
    """Route a statement whose row is on no shard: it finds nothing, as in one database.

    It goes where the transaction is, or to `shard`. In a transaction it is of no shard, so that it
    does not decide which one the transaction belongs to.
    """
    assert route.lookup is not None
    if route.statement == "insert":
        return _on_none(route, route.lookup)
    if context.pinned:
        here = (n for n, s in sorted(shard_map.shards.items()) if s.server == context.server)
        shard = context.shard or next(here, None)
    found = rewrite(call.sql, shard_map=shard_map, params=call.params, absent=True, shard=shard)
    why = (*found.why, f"{_named(route.lookup)} is on no shard")
    targets = found.targets
    if context.transaction:
        targets = tuple(replace(t, shard=None) for t in targets)
    return replace(found, targets=targets, lookup=route.lookup, why=why)


def is_nowhere(route: Route) -> bool:
    """Whether the row that a statement names is on no shard."""
    return route.lookup is not None and not route.workspaces and bool(route.targets)


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
            f"{'transaction' if context.transaction else 'pipeline'} of a workspace is on the "
            "shard of the workspace",
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
    """Route, run, and try again where that is safe.

    A place that is remembered and yields nothing is looked up again, and if the row is elsewhere,
    the statement runs there. It has done nothing at the first place: it is one SELECT, UPDATE or
    DELETE without sub-queries or CTEs (`shows_row`), no function with an effect is routed, and it
    met no row. Only triggers FOR EACH STATEMENT run at both places. Any other statement is not sent
    to a remembered place before the row was found there.
    """
    refreshed = False
    near = True
    waits = _Waits()
    check_count(call.params)
    before: tuple[Route, Answer] | None = None
    while True:
        shard_map = core.current()
        # A transaction belongs to the shard of its first statement, so that one is not sent to
        # where a row may have been.
        begins = context.transaction and not context.pinned
        trust = before is None and not begins
        route, unsure = yield from _routed(core, shard_map, call, context, trust=trust)
        if before is not None and route.targets and route.workspaces in {(), before[0].workspaces}:
            return before[1]
        targets = placed(route, context, shard_map, near=near)
        check_count(targets[0].params, route)
        try:
            answers = yield Run(route, targets, call, apart=begins and is_nowhere(route))
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
        answer = joined(answers)
        if route.held is not None and isinstance(answer, Answer) and answer.rowcount == 0:
            yield from _nothing_held_back(route, call, context)
        if unsure and answer.rowcount == 0 and route.lookup is not None:
            server, (owner,) = targets[0].server, route.workspaces
            asked = _is_there(core, shard_map, route.lookup, context, server=server, owner=owner)
            if not (yield from asked):
                before = route, answer
                continue
        if route.lookup is not None and route.statement == "delete":
            _forget(core, context, route.lookup)
        return answer


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
