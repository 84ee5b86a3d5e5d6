"""The order in which tables are emptied or loaded: by their foreign keys. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from parlant_shard.catalog import ForeignKey, Table
from parlant_shard.privacy.holdings import Holding, Where


def groups(tables: Mapping[str, Table]) -> list[tuple[str, ...]]:
    """Return groups of tables, those that refer before those that are referred to.

    A group is one table, or several whose foreign keys form a cycle.
    """
    refers = {
        name: {fk.ref_table for fk in table.foreign_keys if fk.ref_table in tables}
        for name, table in tables.items()
    }
    reach = {name: _reach(name, refers) for name in tables}
    found: list[tuple[str, ...]] = []
    rest = set(tables)
    while rest:
        # One that is referred to by none but those that it refers to itself, over however many.
        first = next(
            n for n in sorted(rest) if all(o in reach[n] for o in rest if n in reach[o] and o != n)
        )
        group = tuple(
            sorted({first, *(o for o in reach[first] if o in rest and first in reach[o])})
        )
        found.append(group)
        rest.difference_update(group)
    return found


def _reach(name: str, refers: Mapping[str, set[str]]) -> set[str]:
    found: set[str] = set()
    waiting = list(refers[name])
    while waiting:
        other = waiting.pop()
        if other not in found:
            found.add(other)
            waiting += refers[other]
    return found


def blocking(group: tuple[str, ...], tables: Mapping[str, Table]) -> list[tuple[Table, ForeignKey]]:
    """The foreign keys within a group that refuse the delete of a row that is referred to."""
    return [
        (tables[name], fk)
        for name in group
        for fk in tables[name].foreign_keys
        if fk.ref_table in group and fk.on_delete in {"a", "r"} and not fk.unenforced
    ]


def children_first(found: Iterable[Holding]) -> list[Holding]:
    """The holdings of one server: detached partitions, then by foreign keys."""
    found = list(found)
    tables = {h.parent.name: h.parent for h in found}
    place = {name: number for number, group in enumerate(groups(tables)) for name in group}
    return sorted(
        found, key=lambda h: (h.where is not Where.DETACHED, place[h.parent.name], h.table.name)
    )


def parents_first(found: Iterable[Holding]) -> list[Holding]:
    """Reference and host tables, then those of the shard, in the order in which they load."""
    found = list(found)
    others = [h for h in found if h.where is Where.COORDINATOR]
    shard = [h for h in found if h.where is Where.SHARD]
    kept = sorted(
        (h for h in found if h.where is Where.DETACHED), key=lambda h: (h.logical, h.table.name)
    )
    return [*reversed(children_first(others)), *reversed(children_first(shard)), *kept]
