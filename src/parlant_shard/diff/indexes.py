"""Compare the indexes of a table, its partitions' among them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from datetime import date
from typing import Any

from parlant_shard import changes as c
from parlant_shard.catalog import Index, Relkind, Table
from parlant_shard.diff.leftovers import LEFTOVER, temporary
from parlant_shard.names import leaf_item

_ROLLING = re.compile(r"'(\d{4}-\d\d-\d\d)(?: 00:00:00(?:\+00)?)?'::(?=timestamp|date)")


def index_named(table: Table, name: str) -> Index | None:
    return next((i for i in table.indexes if i.name == name), None)


def same_index(live: Index, desired: Index) -> bool:
    """Whether a live index does what is desired; a rolling one may reach further back."""
    if live.unique != desired.unique:
        return False
    if live.definition == desired.definition:
        return True
    if desired.window is None:
        return False
    old, new = _ROLLING.search(live.definition), _ROLLING.search(desired.definition)
    if old is None or new is None:
        return False
    masked = _ROLLING.sub("", live.definition), _ROLLING.sub("", desired.definition)
    return masked[0] == masked[1] and old[1] <= new[1]


def rolled_from(definition: str) -> date | None:
    """The date that a rolling index starts at; None where it has none."""
    match = _ROLLING.search(definition)
    return None if match is None else date.fromisoformat(match[1])


def rolled_to(definition: str, start: date) -> str:
    """The definition with another date."""
    match = _ROLLING.search(definition)
    assert match is not None
    return definition[: match.start(1)] + start.isoformat() + definition[match.end(1) :]


def indexes(
    on: dict[str, Any],
    live: Table,
    table: Table,
    leaves: tuple[Table, ...],
    live_leaves: tuple[Table, ...],
) -> Iterator[c.Change]:
    existing = {index.name: index for index in live.indexes}
    partitioned = table.kind is Relkind.PARTITIONED
    for key in table.keys:
        existing.pop(key.name, None)  # `_keys` takes the leftover of a key further
    for index in table.indexes:
        old = existing.pop(index.name, None)
        begun = existing.pop(temporary(index.name), None)
        if old is not None and same_index(old, index):
            if begun is not None:
                yield c.DropIndex(**on, index=begun, why=c.Why.LEFTOVER)
            if partitioned:
                yield from partitioned_index(on, old, index, leaves, live_leaves)
            elif not old.valid:
                yield c.DropIndex(**on, index=old, why=c.Why.REBUILT)
                yield c.CreateIndex(**on, index=index)
            if old.comment != index.comment:
                yield c.CommentIndex(**on, index=index)
            continue
        if old is None and begun is None:
            yield c.CreateIndex(**on, index=index, leaves=live_leaves)
            continue
        successor = replace(index, name=temporary(index.name))
        standing = live_leaves
        if partitioned:
            # An earlier replacement died before its last renames: finish them, the names are
            # needed again.
            standing = tuple(_with_final_name(table, x, index.name, on) for x in live_leaves)
            for before, after in zip(live_leaves, standing, strict=True):
                if before != after:
                    yield from leaf_rename(on, table, before, index.name)
        if begun is not None and not same_index(begun, index):
            yield c.DropIndex(**on, index=begun, why=c.Why.LEFTOVER)
            # Its partitions' indexes go with it.
            standing = tuple(_without_index(leaf, begun.name) for leaf in standing)
            begun = None
        if begun is None:
            yield c.CreateIndex(**on, index=successor, successor=True, leaves=standing)
        elif partitioned:
            yield from partitioned_index(on, begun, successor, leaves, live_leaves, successor=True)
        elif not begun.valid:
            yield c.DropIndex(**on, index=begun, why=c.Why.LEFTOVER)
            yield c.CreateIndex(**on, index=successor)
        if old is not None:
            yield c.DropIndex(**on, index=old, why=c.Why.REPLACED)
        yield c.RenameIndex(**on, old=successor.name, new=index.name)
        if partitioned:
            for leaf in live_leaves:
                yield from leaf_rename(on, table, leaf, index.name)
    for old in existing.values():
        if old.parent is not None:
            continue
        leftover = not old.valid or LEFTOVER.search(old.name)
        why = c.Why.LEFTOVER if leftover else c.Why.REMOVED
        yield c.DropIndex(**on, index=old, why=why)


def _without_index(leaf: Table, parent: str) -> Table:
    return replace(leaf, indexes=tuple(i for i in leaf.indexes if i.parent != parent))


def _with_final_name(parent: Table, leaf: Table, index: str, on: dict[str, Any]) -> Table:
    shard = str(on["shard"])
    old = leaf_item(leaf.name, parent.name, temporary(index), shard)
    new = leaf_item(leaf.name, parent.name, index, shard)
    return replace(
        leaf,
        indexes=tuple(
            replace(i, name=new) if (i.name, i.parent) == (old, index) else i for i in leaf.indexes
        ),
    )


def leaf_rename(on: dict[str, Any], parent: Table, leaf: Table, index: str) -> Iterator[c.Change]:
    """The index of a partition follows its parent's name."""
    shard = str(on["shard"])
    old = leaf_item(leaf.name, parent.name, temporary(index), shard)
    new = leaf_item(leaf.name, parent.name, index, shard)
    here = {**on, "table": leaf}
    stale = index_named(leaf, new)
    if stale is not None and stale.parent is None:
        # Built for an earlier definition, and never attached.
        yield c.DropIndex(**here, index=stale, why=c.Why.LEFTOVER)
    yield c.RenameIndex(**here, old=old, new=new)


def partitioned_index(
    on: dict[str, Any],
    old: Index,
    index: Index,
    leaves: tuple[Table, ...],
    live_leaves: tuple[Table, ...],
    *,
    successor: bool = False,
) -> Iterator[c.Change]:
    """Every existing partition has a valid, attached index, and the parent's is valid."""
    lacking = []
    for leaf in live_leaves:
        attached = next((i for i in leaf.indexes if i.parent == index.name), None)
        if attached is None:
            lacking.append(leaf)
        elif not attached.valid:
            yield c.ReindexAttached(**{**on, "table": leaf}, index=attached)
    if lacking:
        yield c.CreateIndex(
            **on, index=index, exists=True, successor=successor, leaves=tuple(lacking)
        )
    elif not old.valid and all(
        any(i.parent == index.name and i.valid for i in leaf.indexes) for leaf in live_leaves
    ):
        # All partitions are fine, the parent is not: attaching one of them again validates it.
        yield c.CreateIndex(
            **on, index=index, exists=True, successor=successor, leaves=live_leaves[:1]
        )
