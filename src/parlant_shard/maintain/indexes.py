"""Indexes: INVALID ones are repaired, those of a window follow the clock. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

from parlant_shard import changes as c
from parlant_shard.catalog import Index, Relkind, Table, Window
from parlant_shard.diff import (
    LEFTOVER,
    partitioned_index,
    rolled_from,
    rolled_to,
    same_index,
    temporary,
)
from parlant_shard.names import leaf_item, suffixed
from parlant_shard.partitions import seconds
from parlant_shard.topology import IndexOptions

# A rolling index of a plain table is built anew when it reaches back further than its window by
# this share of it (a day at least): often enough to stay small, seldom enough to be worth it.
SLACK = 0.1


def windows(indexes: Mapping[str, IndexOptions], logical: str) -> dict[str, timedelta]:
    """The rolling indexes of a table: name → window."""
    return {
        name: timedelta(seconds=seconds(options.window))
        for name, options in indexes.items()
        if options.on == logical and options.window is not None
    }


# --- partitioned tables ---------------------------------------------------------------------------


def patterns(
    rolling: Mapping[str, timedelta], logical: str, leaves: tuple[Table, ...]
) -> dict[str, Index]:
    """How the rolling indexes look, from a partition that has one under its usual name."""
    found: dict[str, Index] = {}
    for name in rolling:
        for leaf in leaves:
            expected = leaf_item(leaf.name, logical, name)
            match = next((i for i in leaf.indexes if i.name == expected and i.parent is None), None)
            if match is not None:
                found[name] = match
                break
    return found


def outside(leaf_upper: datetime | None, window: timedelta, now: datetime) -> bool:
    """Whether a partition that ends there has left the window."""
    return leaf_upper is not None and leaf_upper <= now - window


def roll_partitions(
    on: dict[str, Any],
    rolling: Mapping[str, timedelta],
    logical: str,
    leaves: tuple[Table, ...],
    now: datetime,
) -> Iterator[c.Change]:
    """Every partition in the window has the index, and none outside it."""
    for name, pattern in patterns(rolling, logical, leaves).items():
        for leaf in leaves:
            if leaf.bound is None:
                continue
            has = [
                i
                for i in leaf.indexes
                if i.parent is None
                and (i.unique, i.definition) == (pattern.unique, pattern.definition)
            ]
            here = {**on, "table": leaf}
            past = not leaf.bound.default and outside(leaf.bound.upper, rolling[name], now)
            if past:
                for index in has:
                    yield c.DropIndex(**here, index=index, why=c.Why.OUTSIDE)
            elif not has:
                index = replace(pattern, name=leaf_item(leaf.name, logical, name), valid=True)
                yield c.CreateIndex(**here, index=index)


# --- plain tables ---------------------------------------------------------------------------------


def roll_plain(
    on: dict[str, Any],
    rolling: Mapping[str, timedelta],
    table: Table,
    now: datetime,
) -> Iterator[c.Change]:
    """Build a partial index with a newer date under another name, then let it take the place."""
    by_name = {i.name: i for i in table.indexes}
    for name, window in rolling.items():
        current = suffixed(name, str(on["shard"]))
        old, begun = by_name.get(current), by_name.get(temporary(current))
        either = old or begun
        if either is None or rolled_from(either.definition) is None:
            continue  # `apply` has not made it yet
        start = (now - window).date()
        wanted = replace(
            either,
            name=current,
            valid=True,
            definition=rolled_to(either.definition, start),
            window=Window(by="", seconds=int(window.total_seconds())),
        )
        if old is not None and not _is_old(old, wanted, window):
            continue
        successor = replace(wanted, name=temporary(current))
        fits = (
            begun is not None
            and begun.valid
            and same_index(begun, successor)
            and not _is_old(begun, wanted, window)
        )
        if begun is not None and not fits:
            yield c.DropIndex(**on, index=begun, why=c.Why.LEFTOVER)
        if not fits:
            yield c.CreateIndex(**on, index=successor, successor=True)
        if old is not None:
            yield c.DropIndex(**on, index=old, why=c.Why.REPLACED)
        yield c.RenameIndex(**on, old=successor.name, new=current)


def _is_old(index: Index, wanted: Index, window: timedelta) -> bool:
    """Whether an index reaches back too far, or not far enough."""
    has, start = rolled_from(index.definition), rolled_from(wanted.definition)
    assert has is not None
    assert start is not None
    return has > start or start - has >= max(timedelta(days=1), window * SLACK)


# --- INVALID ones ---------------------------------------------------------------------------------


def repair(
    on: dict[str, Any], table: Table, leaves: tuple[Table, ...], skip: frozenset[str]
) -> Iterator[c.Change | str]:
    """Yield what mends the INVALID indexes of a table and its partitions, and what is left alone.

    `skip` names those that rolling takes care of.
    """
    if table.kind is Relkind.PARTITIONED:
        names = {i.name for i in table.indexes}
        begun = {temporary(name) for name in names}
        for index in table.indexes:
            if index.name not in begun:  # a replacement that `apply` began is its to finish
                yield from partitioned_index(on, index, index, (), leaves)
        shard = str(on["shard"])
        for leaf in leaves:
            if all(i.valid or i.parent is not None for i in leaf.indexes):
                continue
            mended = {leaf_item(leaf.name, table.name, name, shard) for name in names}
            known = {
                (i.unique, i.definition)
                for other in leaves
                if other is not leaf
                for i in other.indexes
                if i.parent is None
            }
            yield from _repair_own({**on, "table": leaf}, leaf, mended | skip, known)
        return
    suffix = f"_{on['shard']}"
    ours = {(i.unique, i.definition) for i in table.indexes if i.name.endswith(suffix)}
    yield from _repair_own(on, table, skip, ours)


def _repair_own(
    on: dict[str, Any], table: Table, skip: set[str] | frozenset[str], known: set[tuple[bool, str]]
) -> Iterator[c.Change | str]:
    replaced = {temporary(i.name) for i in table.indexes}
    for index in table.indexes:
        if index.valid or index.parent is not None or index.name in skip:
            continue
        if LEFTOVER.search(index.name) or index.name in replaced:
            yield c.DropIndex(**on, index=index, why=c.Why.LEFTOVER)
        elif (index.unique, index.definition) in known:
            # Not dropped and created: a kill in between would leave none, and nobody to miss it.
            yield c.ReindexAttached(**on, index=index)
        else:
            yield (
                f'index "{index.name}" of "{table.name}" on server "{on["server"]}" is INVALID '
                "and none of ours: see `parlant-shard plan`"
            )
