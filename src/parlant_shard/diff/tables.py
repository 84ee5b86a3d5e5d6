"""Compare tables: which are created, replaced, dropped, and what differs in the others."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime

from parlant_shard import canonical
from parlant_shard import changes as c
from parlant_shard.catalog import Catalog, Managed, Relkind, Table
from parlant_shard.diff.columns import columns
from parlant_shard.diff.constraints import checks, foreign_keys, keys
from parlant_shard.diff.indexes import indexes
from parlant_shard.diff.names import check_names, refuse_name
from parlant_shard.diff.partitions import (
    by_parent,
    guarded,
    leaf_changes,
    leaf_keys,
    leaf_leftovers,
)
from parlant_shard.diff.properties import adopted, properties, triggers_and_policies
from parlant_shard.errors import SchemaError


def tables(server: str, live: Catalog, desired: Catalog, now: datetime) -> Iterator[c.Change]:
    leaves = by_parent(desired.tables.values())
    live_leaves = by_parent(live.tables.values())
    creating = {
        name
        for name, table in desired.tables.items()
        if table.parent is None and _replaceable(live, live.tables.get(name), table, live_leaves)
    }
    replaced = {n: desired.managed["table", n] for n in creating if n in live.tables}
    yield from _drops(server, live, replaced, live_leaves, c.Why.REPLACED)
    created: set[str] = set()
    added: list[c.Change] = []
    for name, table in desired.tables.items():
        if table.parent is not None:
            continue
        managed = desired.managed["table", name]
        existing = live.tables.get(name)
        if name in creating:
            check_names(server, table, live)
            # A parent that is created earlier in this plan is nobody's yet: its foreign keys can
            # be part of the creation. Locking a live parent is a step of its own.
            inline = tuple(
                fk for fk in table.foreign_keys if fk.ref_table in created or fk.ref_table == name
            )
            yield c.CreateTable(
                server=server,
                table=table,
                shard=managed.shard,
                managed=managed,
                foreign_keys=inline,
                weaker=any(_is_weaker(table, leaf) for leaf in leaves.get(name, ())),
            )
            created.add(name)
            added += [
                c.AddForeignKey(
                    server=server, table=table, shard=managed.shard, foreign_key=fk, fresh=True
                )
                for fk in table.foreign_keys
                if fk not in inline
            ]
            for leaf in leaves.get(name, ()):
                yield c.CreatePartition(
                    server=server, table=leaf, shard=managed.shard, parent=table
                )
            continue
        assert existing is not None
        if ("table", name) not in live.managed:
            if name in live.other_relations:
                refuse_name(server, name, live.other_relations[name])
            if managed.shard and not _looks_ours(existing):
                foreign = "FOREIGN TABLE" if existing.kind is Relkind.FOREIGN else "TABLE"
                raise SchemaError(
                    f'{foreign.lower()} "{name}" exists on server "{server}" and is not managed by '
                    "parlant-shard",
                    code="PS222",
                    hint=f"ALTER {foreign} {canonical.quote(name)} RENAME TO …; or choose another "
                    "shard name",
                )
            if not managed.shard:
                yield from adopted({"server": server, "table": table, "shard": ""}, existing, table)
                continue
            yield c.RegisterTable(server=server, table=table, shard=managed.shard, managed=managed)
        yield from _table(
            server,
            existing,
            table,
            managed,
            live,
            leaves.get(name, ()),
            live_leaves.get(name, ()),
            now,
        )
    yield from added
    yield from _dropped(server, live, desired, live_leaves)


def _is_weaker(table: Table, leaf: Table) -> bool:
    """Whether something is unique within a partition only."""
    return any(table.partition_by not in key.columns for key in leaf.keys) or any(
        index.unique and index.parent is None for index in leaf.indexes
    )


def _replaceable(
    live: Catalog, existing: Table | None, table: Table, live_leaves: Mapping[str, list[Table]]
) -> bool:
    """Whether the table is to be created: it is missing, or of another kind, ours and empty."""
    if existing is None:
        return True
    same = existing.kind is table.kind and existing.partition_by == table.partition_by
    moved = existing.foreign and table.foreign and existing.foreign.server != table.foreign.server
    if (same and not moved) or ("table", table.name) not in live.managed:
        return False
    if existing.kind is Relkind.FOREIGN:
        return True
    if _populated(existing, live_leaves) and table.kind is Relkind.FOREIGN:
        raise SchemaError(
            f'table "{table.name}" still has rows here, but the topology puts its shard on another '
            "server",
            code="PS225",
            hint="put the shard back on its server, add a new shard on the other server and move "
            "the workspaces there one by one",
        )
    if _populated(existing, live_leaves):
        was = (
            f'partitioned by "{existing.partition_by}"'
            if existing.partition_by
            else "not partitioned"
        )
        raise SchemaError(
            f'table "{table.name}" has rows and is {was}: its partitioning cannot be changed in '
            "place",
            code="PS223",
            hint="restore the topology's `partition:` for this table; a shard with the new layout "
            "can be filled by moving its workspaces there",
        )
    return True


def _populated(table: Table, live_leaves: Mapping[str, list[Table]]) -> bool:
    return table.populated or any(leaf.populated for leaf in live_leaves.get(table.name, ()))


def _looks_ours(table: Table) -> bool:
    """Whether a table that lost its registration has our CHECK: a restored dump, for example."""
    return any(check.name.endswith("_workspace_check") for check in table.checks)


def _dropped(
    server: str, live: Catalog, desired: Catalog, live_leaves: Mapping[str, list[Table]]
) -> Iterator[c.Change]:
    gone = {
        m.name: m
        for (kind, name), m in live.managed.items()
        if kind == "table" and ("table", name) not in desired.managed and name in live.tables
    }
    yield from _drops(server, live, gone, live_leaves, c.Why.REMOVED)


def _drops(
    server: str,
    live: Catalog,
    gone: Mapping[str, Managed],
    live_leaves: Mapping[str, list[Table]],
    why: c.Why,
) -> Iterator[c.Change]:
    """Drop tables, referencing ones first."""
    waiting = dict(sorted(gone.items()))
    while waiting:
        free = [
            name
            for name in waiting
            if not any(
                fk.ref_table == name
                for other in waiting
                if other != name
                for fk in live.tables[other].foreign_keys
            )
        ]
        if not free:
            # A cycle: the table that sorts first goes once nobody refers to it any more.
            free = list(waiting)[:1]
            for other, registered in waiting.items():
                for fk in live.tables[other].foreign_keys:
                    if fk.ref_table == free[0] and other != free[0] and not fk.inherited:
                        yield c.DropConstraint(
                            server=server,
                            table=live.tables[other],
                            shard=registered.shard,
                            name=fk.name,
                            why=c.Why.REPLACED,
                        )
        for name in free:
            managed = waiting.pop(name)
            yield c.DropTable(
                server=server,
                table=live.tables[name],
                shard=managed.shard,
                populated=why is c.Why.REMOVED and _populated(live.tables[name], live_leaves),
                why=why,
            )


def _table(
    server: str,
    live: Table,
    table: Table,
    managed: Managed,
    catalog: Catalog,
    leaves: Iterable[Table],
    live_leaves: Iterable[Table],
    now: datetime,
) -> Iterator[c.Change]:
    """Compare one table of ours: `leaves` are the desired partitions, `live_leaves` the live."""
    leaves, live_leaves = tuple(leaves), tuple(live_leaves)
    on = {"server": server, "table": table, "shard": managed.shard}
    pending = [leaf for leaf in live_leaves if leaf.detach_pending]
    for leaf in pending:
        # First of all: PostgreSQL 18 refuses to finalise once the parent was altered.
        yield c.FinalizeDetach(server=server, table=leaf, shard=managed.shard)
    existing = tuple(leaf for leaf in live_leaves if not leaf.detach_pending)
    yield from columns(on, live, table, catalog, existing)
    yield from checks(on, live, table, existing)
    by_name = {leaf.name: leaf for leaf in existing}
    for leaf in leaves:
        if leaf.name in by_name:
            # Before the parent's: it adopts what its partitions have, instead of building it.
            yield from leaf_keys(server, managed.shard, by_name[leaf.name], leaf)
    yield from keys(on, live, table)
    yield from foreign_keys(on, live, table, existing)
    yield from indexes(on, live, table, leaves, existing)
    yield from triggers_and_policies(on, live, table)
    yield from properties(on, live, table)
    windowed = {i.definition for leaf in leaves for i in leaf.indexes if i.window}
    for leaf in leaves:
        if leaf.name in by_name:
            yield from leaf_changes(
                server, managed.shard, by_name[leaf.name], leaf, table, windowed
            )
            yield from leaf_leftovers(on, live, table, by_name[leaf.name])
        else:
            yield c.CreatePartition(
                server=server,
                table=leaf,
                shard=managed.shard,
                parent=table,
                default=guarded(leaf, existing, now),
            )
