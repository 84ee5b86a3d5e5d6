"""Many sets of parameters for one statement: they go to one shard, or nowhere."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Any

import psycopg

from parlant_shard.client import failures
from parlant_shard.client.result import Answer
from parlant_shard.client.steps import (
    Call,
    Command,
    Context,
    Core,
    Located,
    check_count,
    is_nowhere,
    nowhere,
    placed,
    routed,
)
from parlant_shard.router.route import Lookup, Route, RouteTarget


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """The texts for one target with the parameters of each, in the order they were given."""

    route: Route
    target: RouteTarget
    groups: tuple[tuple[str, list[Any]], ...]


def planned(
    core: Core, calls: Sequence[Call], context: Context
) -> Generator[Command, Any, Batch | None]:
    """Route every set. Raises Unroutable (PS645) where they belong to several shards."""
    shard_map = core.current()
    route: Route | None = None
    targets: list[RouteTarget] = []
    workspaces: dict[str, None] = {}
    known: dict[Lookup, Located] = {}
    routes = []
    for call in calls:
        check_count(call.params)
        routes.append((yield from routed(core, shard_map, call, context, known=known)))
    # A set whose row is nowhere finds nothing wherever it goes: to the others, then.
    home = next((r.targets[0].shard for r in routes if r.targets and not is_nowhere(r)), None)
    for call, given in zip(calls, routes, strict=True):
        lost = home is not None and is_nowhere(given)
        route = nowhere(shard_map, call, context, given, shard=home) if lost else given
        found = placed(route, context, shard_map)
        if lost:
            found = tuple(replace(t, shard=home) for t in found)
        check_count(found[0].params, route)
        if route.question is not None:
            raise failures.refused(
                route,
                "PS661",
                f'"{route.held}" has shared rows, and executemany cannot tell which of its changes '
                "met only shared rows",
                "send the changes one at a time with `execute`, or send one change with one "
                "condition for all: id = ANY(%s)",
            )
        homes = {(t.server, t.shard) for t in (*targets[:1], *found)}
        if len(homes) > 1:
            raise failures.refused(
                route,
                "PS645",
                "the sets of parameters belong to several shards",
                "group them by workspace, and call executemany once for each",
            )
        targets += found
        workspaces.update(dict.fromkeys(route.workspaces))
    if route is None:
        return None
    groups = tuple(
        (text, [t.params for t in some]) for text, some in groupby(targets, key=lambda t: t.sql)
    )
    route = replace(route, workspaces=tuple(workspaces))
    return Batch(route=route, target=targets[0], groups=groups)


def collected(cursor: Any, rows: list[Any] | None) -> Answer:
    """Everything that a psycopg cursor has to say, with the rows that were fetched from it."""
    return Answer(cursor, rows, cursor.rowcount, cursor.statusmessage)


def has_rows(cursor: Any) -> bool:
    """Whether a statement produced rows; cheaper than asking for their description."""
    return cursor.rownumber is not None


def has_answered(cursor: Any) -> bool:
    """Whether a statement in a pipeline has its answer, so that an error is one of reading it."""
    return cursor.pgresult is not None


def rows_of(cursor: Any) -> list[Any] | None:
    """The rows of a statement in a pipeline; fetching is what makes it answer."""
    try:
        found: list[Any] = cursor.fetchall()
    except psycopg.ProgrammingError:
        if cursor.pgresult is None or cursor.description is not None:
            raise
        return None  # it has answered, and not with rows
    return found


def collected_many(cursor: Any, *, returning: bool) -> Answer:
    """The answer of psycopg's `executemany`: with `returning` it has a result for every set."""
    if not returning or not has_rows(cursor):
        return Answer(None, None, cursor.rowcount, cursor.statusmessage)
    description = Answer(cursor, [], 0, None)
    assert description.description is not None  # made now: the cursor goes on to the next result
    rows: list[Any] = []
    while True:
        rows += cursor.fetchall()
        if not cursor.nextset():
            return Answer(description, rows, len(rows), cursor.statusmessage)


def together(answers: Sequence[Answer]) -> Answer:
    """The answer of a batch that was sent as several texts."""
    last = answers[-1]
    rows = [row for a in answers for row in a.rows] if last.has_rows else None
    return Answer(last, rows, sum(a.rowcount for a in answers), last.statusmessage)
