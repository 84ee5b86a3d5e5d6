"""Sum physical tables and indexes by what they are: partitions into their table, shards by name."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from parlant_shard.observe.figures import (
    IndexFigures,
    Observed,
    ServerFigures,
    TableFigures,
    logical_index,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardTable:
    """A table of one shard with its partitions; `root` is the table itself."""

    server: str
    shard: str
    logical: str
    root: TableFigures
    members: tuple[TableFigures, ...]

    def sum(self, *names: str) -> int:
        return sum(getattr(m, name) for m in self.members for name in names)

    @property
    def bytes(self) -> int:
        return self.sum("heap_bytes", "index_bytes", "toast_bytes")

    @property
    def partitions(self) -> int:
        return sum(m.leaf for m in self.members)

    @property
    def reads(self) -> int:
        return self.sum("seq_scans", "idx_scans")


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardIndex:
    """An index of one shard: of a partitioned table, it and those of the partitions.

    `root` is the partitioned index, or the only one, or the first of indexes that partitions have
    each for itself (then `own` is true). `parts` are those with pages.
    """

    server: str
    table: ShardTable
    name: str
    root: IndexFigures
    parts: tuple[IndexFigures, ...]
    own: bool

    @property
    def bytes(self) -> int:
        return sum(p.bytes for p in self.parts)

    @property
    def scans(self) -> int:
        return sum(p.scans for p in self.parts)


def shard_tables(server: str, tables: Iterable[TableFigures]) -> dict[str, ShardTable]:
    """The tables of a server by the name of their root."""
    members: dict[str, list[TableFigures]] = {}
    for table in tables:
        members.setdefault(table.root, []).append(table)
    found = {}
    for name, rows in members.items():
        root = next((r for r in rows if not r.leaf), None)
        if root is not None:  # a registered table that has just been dropped
            found[name] = ShardTable(
                server=server,
                shard=root.shard,
                logical=root.logical,
                root=root,
                members=tuple(rows),
            )
    return found


def shard_indexes(
    server: ServerFigures, declared: Mapping[str, Iterable[str]] | None = None
) -> Iterator[ShardIndex]:
    """The indexes of a server. `declared` maps a logical table to the names of its indexes."""
    roots = shard_tables(server.name, server.tables)
    tables = {t.oid: t for t in server.tables}
    indexes = {i.oid: i for i in server.indexes}
    groups: dict[tuple[str, str], list[IndexFigures]] = {}
    names: dict[tuple[str, str], str] = {}
    for index in server.indexes:
        top = index
        while top.parent is not None and top.parent in indexes:
            top = indexes[top.parent]
        table = tables[top.rel]
        if table.root not in roots:
            continue
        name = logical_index(top, table, (declared or {}).get(table.logical, ()))
        # Indexes that partitions have for themselves go together by name; those of a root stand
        # alone, because two of one name are different indexes.
        key = (table.root, f"leaf {name}" if table.leaf else f"root {top.oid}")
        groups.setdefault(key, []).append(index)
        names[key] = name
    for (root, kind), members in groups.items():
        tops = [i for i in members if i.parent is None]
        yield ShardIndex(
            server=server.name,
            table=roots[root],
            name=names[root, kind],
            root=tops[0],
            parts=tuple(i for i in members if not i.partitioned),
            own=tables[tops[0].rel].leaf,
        )


def all_tables(observed: Observed) -> list[ShardTable]:
    return [t for s in observed.servers.values() for t in shard_tables(s.name, s.tables).values()]
