"""Compare what a partition has by itself; the rest it inherits."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from dataclasses import replace
from datetime import datetime
from typing import Any

from parlant_shard import changes as c
from parlant_shard.catalog import Table
from parlant_shard.diff.constraints import points_elsewhere
from parlant_shard.diff.indexes import index_named, leaf_rename, same_index
from parlant_shard.diff.leftovers import GUARD, LEFTOVER, temporary
from parlant_shard.diff.properties import properties
from parlant_shard.names import leaf_item


def by_parent(tables: Iterable[Table]) -> dict[str, list[Table]]:
    found: dict[str, list[Table]] = {}
    for table in tables:
        if table.parent is not None:
            found.setdefault(table.parent, []).append(table)
    return found


def guarded(leaf: Table, siblings: Iterable[Table], now: datetime) -> Table | None:
    """The default partition that must first prove that it holds no row of a new partition.

    Without a proof PostgreSQL scans it under a lock that nobody gets past. The proof refuses rows
    of the range while it lasts, so it is for ranges that lie ahead, and where there is something
    to scan.
    """
    default = next((t for t in siblings if t.bound and t.bound.default), None)
    if default is None or not default.populated or leaf.bound is None:
        return None
    return default if leaf.bound.lower is not None and leaf.bound.lower > now else None


def leaf_leftovers(
    on: dict[str, Any], live: Table, table: Table, leaf: Table
) -> Iterator[c.Change]:
    """Constraints that a run put on a partition ahead of its parent, for what is no longer wanted.

    Those that this plan is about to use stay: the parent's change takes them further.
    """
    checks = {check.name: check for check in live.checks}
    ours, due = set(), set()
    for check in table.checks:
        ours |= {check.name, temporary(check.name)}
        old = checks.get(check.name)
        if old is None and temporary(check.name) not in checks:
            due.add(check.name)
        elif old is None or old.definition != check.definition:
            due.add(temporary(check.name))
    suffix = f"_{on['shard']}"  # what every name of ours ends with
    for check in leaf.checks:
        mine = check.name in ours or check.name == GUARD or check.name.endswith(suffix)
        if mine and check.name not in due and not check.inherited:
            yield c.DropConstraint(
                **{**on, "table": leaf},
                name=check.name,
                why=c.Why.LEFTOVER,
            )
    wanted, swapped = {fk.name for fk in table.foreign_keys}, set()
    before = {fk.name: fk for fk in live.foreign_keys}
    for wished in table.foreign_keys:
        swapped.add(temporary(wished.name))
        if wished.name in before and points_elsewhere(before[wished.name], wished):
            wanted.add(temporary(wished.name))
    for fk in leaf.foreign_keys:
        mine = fk.name.endswith(suffix) or fk.name in swapped
        if not fk.inherited and fk.name not in wanted and mine:
            yield c.DropConstraint(
                **{**on, "table": leaf},
                name=fk.name,
                why=c.Why.LEFTOVER,
            )


def leaf_keys(server: str, shard: str, live: Table, leaf: Table) -> Iterator[c.Change]:
    definitions = {key.definition for key in live.keys}
    for key in leaf.keys:
        if key.definition not in definitions:
            yield c.AddKey(
                server=server,
                table=leaf,
                shard=shard,
                key=key,
                index=index_named(live, key.name),
            )


def leaf_changes(
    server: str,
    shard: str,
    live: Table,
    leaf: Table,
    parent: Table,
    windowed: Collection[str],
) -> Iterator[c.Change]:
    """Compare what a partition has by itself; the rest it inherits."""
    on: dict[str, Any] = {"server": server, "table": leaf, "shard": shard}
    spare = {i.name: i for i in live.indexes if i.parent is None}
    for key in leaf.keys:
        spare.pop(key.name, None)
    for index in leaf.indexes:
        if index.parent is not None:
            # Built, not yet attached: the parent's change attaches it, or builds it again.
            spare.pop(index.name, None)
            unfinished = leaf_item(leaf.name, parent.name, temporary(index.parent), shard)
            spare.pop(unfinished, None)
            if any(i.name == unfinished and i.parent == index.parent for i in live.indexes):
                yield from leaf_rename(on, parent, leaf, index.parent)
            continue
        match = next((i for i in spare.values() if same_index(i, index)), None)
        if match is None:
            yield c.CreateIndex(**on, index=index)
            continue
        spare.pop(match.name)
        if not match.valid:
            yield c.DropIndex(**on, index=match, why=c.Why.REBUILT)
            yield c.CreateIndex(**on, index=replace(index, name=match.name))
    for old in spare.values():
        if not old.valid or LEFTOVER.search(old.name):
            yield c.DropIndex(**on, index=old, why=c.Why.LEFTOVER)
        elif (
            old.name.startswith(f"{leaf.name}_")
            and old.definition not in windowed
            # What the parent's index lacks here is not built, this one is attached.
            and not any(i.parent and same_index(old, i) for i in leaf.indexes)
        ):
            yield c.DropIndex(**on, index=old, why=c.Why.REMOVED)
        # One of a window that has passed stays: `maintain` retires it.
    yield from properties(on, live, leaf)
