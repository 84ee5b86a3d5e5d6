"""Desired shard tables: the base table, multiplied, with the tenant in every key that needs it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from datetime import datetime, timedelta

from parlant_shard import canonical
from parlant_shard.catalog import (
    Catalog,
    Check,
    Column,
    Facts,
    ForeignKey,
    Index,
    Key,
    Placement,
    Relkind,
    Table,
)
from parlant_shard.desired import audit
from parlant_shard.desired.keys import Keys
from parlant_shard.desired.model import (
    SENTINEL,
    Peer,
    check_name,
)
from parlant_shard.desired.wall import Wall
from parlant_shard.names import suffixed
from parlant_shard.tenancy import Tenancy
from parlant_shard.topology import AUDIT_TABLE, Partition, Topology


class ShardTables:
    """What all parts of the builder share, and the shard tables themselves."""

    topology: Topology
    tenancy: Tenancy
    base: Mapping[int, Catalog]
    facts: Mapping[str, Facts]
    live: Mapping[str, Catalog]
    peers: Mapping[str, Peer]
    notices: list[str]
    coordinator: str
    now: datetime
    wall: Wall
    keys: Keys
    replicated: set[str]  # servers whose shards have reference tables to refer to
    listed: Mapping[str, str]  # workspace → shard, as the topology lists them
    directory: frozenset[Placement]

    def _partition(self, logical: str) -> Partition | None:
        return self.topology.partition_of(logical)

    def _declared(self, base: Catalog, logical: str) -> Table:
        """The table as the schema declares it, or ours of recorded changes."""
        return audit.base_table(self.tenancy) if logical == AUDIT_TABLE else base.tables[logical]

    def _shard_table(self, base: Catalog, logical: str, shard: str, server: str) -> Table:
        table = base.tables[logical]
        key = self.tenancy.key
        partition = self._partition(logical)
        columns = tuple(self._column(logical, c) for c in table.columns)
        if table.column(key) is None:
            columns += (Column(name=key, type=self.tenancy.key_type, not_null=True),)
        keys = tuple(
            replace(k, name=suffixed(k.name, shard))
            for k in table.keys
            if partition is None or partition.by in k.columns
        )
        keys += tuple(
            replace(k, name=suffixed(k.name, shard)) for k in self._extra_keys(base, logical)
        )
        indexes = tuple(
            replace(
                self._rolled(i if partition else self.wall.index(i, server)),
                name=suffixed(i.name, shard),
            )
            for i in self._indexes(table, partition)
            if not (partition and (i.unique or i.window))
        )
        identity = table.replica_identity
        if identity.startswith("i:"):
            identity = f"i:{suffixed(identity[2:], shard)}"
        found = replace(
            table,
            name=suffixed(logical, shard),
            kind=Relkind.PARTITIONED if partition else Relkind.TABLE,
            columns=columns,
            keys=tuple(sorted(keys, key=lambda k: k.name)),
            checks=tuple(
                sorted(
                    (
                        *(replace(c, name=suffixed(c.name, shard)) for c in table.checks),
                        self.workspace_check(logical, shard),
                    ),
                    key=lambda c: c.name,
                )
            ),
            foreign_keys=tuple(self._foreign_keys(base, logical, shard, server)),
            indexes=indexes,
            triggers=table.triggers + audit.triggers(self.topology, logical, shard),
            options=() if partition else table.options,
            unlogged=table.unlogged and partition is None,
            replica_identity="d" if partition and identity.startswith("i:") else identity,
            partition_by=partition.by if partition else None,
            epoch=partition.epoch if partition else None,
        )
        return self.wall.shard_table(found, server)

    def _extra_keys(self, base: Catalog, logical: str) -> tuple[Key, ...]:
        """The keys that composite foreign keys of other tables need, named as the schema's are."""
        return tuple(
            Key(
                name=f"{logical}_{'_'.join(columns)}_key",
                primary=False,
                columns=columns,
                definition=canonical.unique(columns),
            )
            for columns in self._referenced_keys(base, logical)
        )

    def _column(self, logical: str, column: Column) -> Column:
        if column.name == self.tenancy.key:
            return replace(column, not_null=True)
        if (column.default or "").startswith("nextval("):
            self.notices.append(
                f'"{logical}.{column.name}" counts with a sequence; each shard gets an identity '
                "column of its own, so numbers repeat across shards"
            )
            return replace(column, default=None, identity="d")
        if column.identity:
            self.notices.append(
                f'"{logical}.{column.name}" is an identity column; each shard counts by itself, '
                "so numbers repeat across shards"
            )
        return column

    def workspace_check(self, logical: str, shard: str) -> Check:
        """Our CHECK on the key: who may live in this shard table."""
        options = self.topology.shards[shard]
        key, key_type = self.tenancy.key, self.tenancy.key_type
        if options.buckets:
            elsewhere = sorted(w for w, s in self.listed.items() if s != shard)
            definition = canonical.bucket_check(
                key, key_type, sorted(options.buckets), elsewhere, sorted(options.workspaces)
            )
        else:
            definition = canonical.list_check(key, key_type, sorted(options.workspaces))
        return Check(name=check_name(logical, shard), definition=definition)

    def _referenced_keys(self, base: Catalog, logical: str) -> list[tuple[str, ...]]:
        """The (key, column) pairs that composite foreign keys of other tables point at."""
        if logical == AUDIT_TABLE:
            return []  # nothing refers to it
        table, key = base.tables[logical], self.tenancy.key
        have = {k.columns for k in table.keys}
        found: dict[tuple[str, ...], None] = {}
        for other in self.tenancy.sharded:
            for fk in base.tables[other].foreign_keys:
                if fk.ref_table == logical and key not in fk.ref_columns:
                    found[(key, *fk.ref_columns)] = None
        return [columns for columns in sorted(found) if columns not in have]

    def _foreign_keys(
        self, base: Catalog, logical: str, shard: str, server: str
    ) -> Iterable[ForeignKey]:
        key = self.tenancy.key
        for fk in base.tables[logical].foreign_keys:
            kind = self.tenancy.kinds.get(fk.ref_table)
            name = suffixed(fk.name, shard)
            if fk.unenforced and kind == "sharded":
                self.notices.append(
                    f'foreign key "{fk.name}" of "{logical}" is NOT ENFORCED, as the schema '
                    "declares it: a row may refer to a row that is missing, or that belongs to "
                    "another workspace; `verify` reports references to another workspace"
                )
            if kind == "reference":
                if server in self.replicated:
                    held = (
                        fk if server == self.coordinator else self.keys.as_held(base, logical, fk)
                    )
                    yield replace(held, name=name)
                continue
            if kind != "sharded":
                self.notices.append(
                    f'foreign key "{fk.name}" of "{logical}" is left out: "{fk.ref_table}" is a '
                    "host table, which the shards do not have"
                )
                continue
            if fk.on_update in {"n", "d"}:
                self.notices.append(
                    f'foreign key "{fk.name}" of "{logical}": SET NULL and SET DEFAULT on update '
                    "would change the tenant as well; the shards have NO ACTION"
                )
            if fk.match == "f":
                self.notices.append(
                    f'foreign key "{fk.name}" of "{logical}": MATCH FULL cannot hold beside the '
                    "tenant, which is never NULL; the shards have MATCH SIMPLE"
                )
            inside = key in fk.columns
            yield replace(
                fk,
                name=name,
                ref_table=suffixed(fk.ref_table, shard),
                columns=fk.columns if inside else (key, *fk.columns),
                ref_columns=fk.ref_columns if inside else (key, *fk.ref_columns),
                on_update="a" if fk.on_update in {"n", "d"} else fk.on_update,
                match="s",
                # Without the list, SET NULL would clear the tenant too.
                set_columns=(fk.set_columns or tuple(c for c in fk.columns if c != key))
                if fk.on_delete in {"n", "d"}
                else (),
            )

    def _indexes(self, table: Table, partition: Partition | None) -> Iterable[Index]:
        whole = {i.definition for i in table.indexes if i.window is None}
        for index in table.indexes:
            if (
                partition
                and index.window
                and index.definition in whole
                and not self.topology.states(f"indexes.{index.name}")
            ):
                self.notices.append(
                    f'index "{index.name}" is not created: on the partitions of "{table.name}" it '
                    "would repeat an index that they have anyway"
                )
                continue
            yield index

    def _rolled(self, index: Index) -> Index:
        if index.window is None:
            return index
        start = self.now - timedelta(seconds=index.window.seconds)
        return replace(index, definition=roll(index.definition, f"{start:%Y-%m-%d}"))


def roll(definition: str, start: str) -> str:
    """Put a date in the place of the sentinel of a rolling index."""
    return definition.replace(f"'{SENTINEL}", f"'{start}")
