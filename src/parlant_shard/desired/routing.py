"""The shard map of a topology: what `apply` stores for the routers, from the same catalogue."""

from __future__ import annotations

import re
from collections.abc import Mapping

from parlant_shard.catalog import REFUSED, Catalog, Table
from parlant_shard.desired.wall import searched
from parlant_shard.errors import SchemaError
from parlant_shard.names import suffixed
from parlant_shard.shardmap import (
    Keyed,
    MapColumn,
    MapLink,
    MapSearch,
    MapShard,
    MapTable,
    Placer,
    ShardMap,
    bucket,
)
from parlant_shard.tenancy import Tenancy
from parlant_shard.topology import Topology

_BARE_NAME = re.compile(r'^(?:.*?\.)??("(?:[^"]|"")+"|[^".(]+)\(', re.S)


def shard_map(
    topology: Topology, tenancy: Tenancy, base: Catalog, desired: Mapping[str, Catalog]
) -> ShardMap:
    """Return the map of what is desired. Raises SchemaError (PS239) where a shard lacks the key.

    `base` is the schema as the application knows it, `desired` the catalogue of every server. The
    epoch is 0: storing a map gives it one.
    """
    _check_keys(topology, tenancy, desired)
    coordinator = desired[topology.coordinator]
    searches: dict[str, tuple[MapSearch, ...]] = {}
    for name, column, index in searched(topology, tenancy, base):
        found = MapSearch(
            index=index.index,
            column=column,
            expression=index.expression,
            predicate=index.predicate,
        )
        searches[name] = (*searches.get(name, ()), found)
    tables = {}
    for name, kind in tenancy.kinds.items():
        # A reference or host table that was there before us may have other columns than the
        # schema declares; the desired catalogue follows what is there.
        table = base.tables[name] if kind == "sharded" else coordinator.tables[name]
        options = topology.tables.get(name)
        tables[name] = MapTable(
            kind=kind,
            columns=tuple(MapColumn(name=c.name, type=c.type) for c in table.columns),
            key_added=kind == "sharded" and table.column(tenancy.key) is None,
            primary_key=table.primary_key.columns if table.primary_key else (),
            constraints=tuple(sorted(k.name for k in table.keys)),
            links=_links(table, tenancy) if kind == "sharded" else (),
            partitioned=bool(options and options.partition),
            searches=searches.get(name, ()),
            keyed=_keyed(table, tenancy) if kind == "reference" else None,
        )
    return ShardMap(
        topology=topology.name,
        namespace=topology.namespace,
        key=tenancy.key,
        key_type=tenancy.key_type,
        coordinator=topology.coordinator,
        shards=_shards(topology, coordinator),
        purged=tuple(sorted(p.workspace for p in coordinator.directory if p.state in REFUSED)),
        tables=tables,
        types=tuple(sorted(base.enums)),
        functions=tuple(sorted({_bare(s) for s in base.functions})),
        lookup=not topology.isolation.rls or topology.lookup == "trusted",
    )


def _keyed(table: Table, tenancy: Tenancy) -> Keyed | None:
    """Whether rows of a reference table belong to workspaces, and whether some may to nobody."""
    column = table.column(tenancy.key)
    if column is None:
        return None
    return "required" if column.not_null else "nullable"


def _shards(topology: Topology, coordinator: Catalog) -> dict[str, MapShard]:
    """The placement: the lists of the file, and rows of the directory that differ from it.

    A row of the directory that says what the workspace's bucket says anyway is left out: with
    self-serve tenants these are almost all rows, and the map would grow with every one.
    """
    buckets = Placer(
        {}, ((low, high, name) for name, s in topology.shards.items() for low, high in s.buckets)
    )
    extra: dict[str, list[str]] = {name: [] for name in topology.shards}
    listed = {w for s in topology.shards.values() for w in s.workspaces}
    for row in sorted(coordinator.directory):
        home = buckets.of_bucket(bucket(row.workspace))
        if row.workspace not in listed and row.shard in extra and row.shard != home:
            extra[row.shard].append(row.workspace)
    return {
        name: MapShard(
            server=shard.server,
            workspaces=(*shard.workspaces, *extra[name]),
            buckets=tuple(sorted(shard.buckets)),
        )
        for name, shard in topology.shards.items()
    }


def _links(table: Table, tenancy: Tenancy) -> tuple[MapLink, ...]:
    return tuple(
        MapLink(column=fk.columns[0], table=fk.ref_table, ref_column=fk.ref_columns[0])
        for fk in sorted(table.foreign_keys, key=lambda fk: (fk.columns, fk.name))
        if len(fk.columns) == 1 and tenancy.kinds.get(fk.ref_table) == "sharded"
    )


def _bare(signature: str) -> str:
    """The name of a function without its schema and arguments."""
    match = _BARE_NAME.match(signature)
    name = match[1] if match else signature.partition("(")[0]
    return name[1:-1].replace('""', '"') if name.startswith('"') else name


def _check_keys(topology: Topology, tenancy: Tenancy, desired: Mapping[str, Catalog]) -> None:
    """A router adds the tenant to every statement: a table without the key would have no wall."""
    for shard, options in topology.shards.items():
        for logical in tenancy.sharded:
            table = desired[options.server].tables[suffixed(logical, shard)]
            column = table.column(tenancy.key)
            if column is None or not column.not_null:
                raise SchemaError(
                    f'table "{table.name}" of server "{options.server}" would '
                    f'{"lack" if column is None else "allow NULL in"} the column "{tenancy.key}"',
                    code="PS239",
                    hint="this is a defect of parlant-shard; nothing is routed to such a table",
                )
