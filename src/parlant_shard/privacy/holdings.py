"""Where rows of a workspace can be: every table that tells whose its rows are. Pure.

Rows of sharded tables name their workspace in the distribution key. Reference and host tables tell
by a column of that name; and the table that the key itself refers to (`workspace`) holds one row
that is the workspace.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum

from psycopg.sql import SQL, Composed, Identifier, Literal

from parlant_shard import canonical
from parlant_shard.catalog import Catalog, Relkind, Table
from parlant_shard.diff import by_parent
from parlant_shard.shardmap import ShardMap


class Where(StrEnum):
    """What kind of place a holding is."""

    SHARD = "shard"
    DETACHED = "detached"  # a partition that was detached and kept
    COORDINATOR = "coordinator"  # a reference or host table
    COPY = "copy"  # of a reference table: replication writes it


@dataclass(frozen=True, slots=True, kw_only=True)
class Holding:
    """One table, or one partition, that can hold rows of a workspace.

    `parent` is the shard table that a partition belongs to, else the table itself. `column` is what
    names the workspace.
    """

    namespace: str
    server: str
    shard: str
    logical: str
    where: Where
    table: Table
    parent: Table
    column: str

    @property
    def name(self) -> Identifier:
        return Identifier(self.namespace, self.table.name)

    def condition(self, workspace: str) -> Composed:
        return SQL("{} OPERATOR(pg_catalog.=) {}").format(
            Identifier(self.column), Literal(workspace)
        )

    @property
    def is_indexed(self) -> bool:
        """Whether an index or key begins with the column: a few rows are found without a scan."""
        if any(k.columns[:1] == (self.column,) for k in self.table.keys):
            return True
        start = re.compile(rf"btree \({re.escape(canonical.quote(self.column))}[,) ]")
        return any(
            i.valid and " WHERE " not in i.definition and start.match(i.definition)
            for i in self.table.indexes
        )


def holdings(
    shard_map: ShardMap, live: Mapping[str, Catalog], *, leaves: bool
) -> tuple[Holding, ...]:
    """Return every holding of every server, by server and name.

    With `leaves` a partitioned table is its partitions, those included whose detaching was
    interrupted; without, it is itself and those apart.
    """
    found: list[Holding] = []
    for server, catalog in sorted(live.items()):
        found += _sharded(shard_map, server, catalog, leaves)
        found += _others(shard_map, server, catalog, roots(shard_map, live))
    return tuple(sorted(found, key=lambda h: (h.server, h.table.name)))


def roots(shard_map: ShardMap, live: Mapping[str, Catalog]) -> dict[str, str]:
    """The tables whose rows are workspaces, with their column: what the key refers to."""
    return {
        fk.ref_table: fk.ref_columns[0]
        for catalog in live.values()
        for table in catalog.tables.values()
        for fk in table.foreign_keys
        if fk.columns == (shard_map.key,)
        and fk.ref_table in shard_map.tables
        and shard_map.tables[fk.ref_table].kind != "sharded"
    }


def _sharded(shard_map: ShardMap, server: str, catalog: Catalog, leaves: bool) -> Iterator[Holding]:
    for (kind, name), managed in catalog.managed.items():
        table = catalog.tables.get(name)
        if kind != "table" or not managed.shard or table is None or table.kind is Relkind.FOREIGN:
            continue
        for part, where, parent in _parts(catalog, table, leaves):
            yield Holding(
                namespace=shard_map.namespace,
                server=server,
                shard=managed.shard,
                logical=managed.logical,
                where=where,
                table=part,
                parent=parent,
                column=shard_map.key,
            )


def _parts(catalog: Catalog, table: Table, leaves: bool) -> Iterator[tuple[Table, Where, Table]]:
    """The table or its partitions, and those of it that stand apart, each with its parent."""
    if table.kind is not Relkind.PARTITIONED or not leaves:
        yield table, Where.SHARD, table
    for part in by_parent(catalog.tables.values()).get(table.name, ()):
        if part.detach_pending:
            yield part, Where.DETACHED, part
        elif leaves:
            yield part, Where.SHARD, table
    for row in catalog.retired:
        kept = catalog.tables.get(row.name)
        if row.parent == table.name and row.known and row.present and kept is not None:
            yield kept, Where.DETACHED, kept


def _others(
    shard_map: ShardMap, server: str, catalog: Catalog, roots: Mapping[str, str]
) -> Iterator[Holding]:
    own = server == shard_map.coordinator
    for name, about in sorted(shard_map.tables.items()):
        table = catalog.tables.get(name)
        if about.kind == "sharded" or table is None or table.kind is Relkind.FOREIGN:
            continue
        if not own and ("table", name) not in catalog.managed:
            continue  # a table of somebody's that has the name
        column = roots.get(name, shard_map.key)
        if table.column(column) is not None:
            yield Holding(
                namespace=shard_map.namespace,
                server=server,
                shard="",
                logical=name,
                where=Where.COORDINATOR if own else Where.COPY,
                table=table,
                parent=table,
                column=column,
            )
