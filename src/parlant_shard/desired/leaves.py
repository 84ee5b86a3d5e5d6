"""Desired partitions: what each has by itself, and which ranges are missing."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from datetime import timedelta

from parlant_shard import control, partitions
from parlant_shard.catalog import (
    Bound,
    Catalog,
    Column,
    Index,
    Relkind,
    Table,
)
from parlant_shard.ddl import control_of
from parlant_shard.desired.shards import ShardTables
from parlant_shard.errors import SchemaError
from parlant_shard.names import leaf_item, suffixed
from parlant_shard.topology import Partition


class Leaves(ShardTables):
    """Partitions of the shard tables that are cut by time."""

    def _leaves(
        self, base: Catalog, logical: str, shard: str, server: str, parent: Table
    ) -> Iterable[Table]:
        partition = self._partition(logical)
        if partition is None:
            return
        live = self.live[server].tables
        existing = [t for t in live.values() if t.parent == parent.name and not t.detach_pending]
        self._check_epoch(logical, server, parent, existing)
        for table in existing:
            yield self._leaf(base, logical, shard, parent, table.name, table.bound)
        if partition.default and not any(t.bound and t.bound.default for t in existing):
            name = suffixed(parent.name, "default")
            yield self._leaf(base, logical, shard, parent, name, Bound(default=True))
        oldest = (
            partitions.before(partition.retention, self.now)
            if partition.retention and partition.reaches_back
            else None
        )
        free = partitions.uncovered(
            control_of(parent).fitting(
                partitions.wanted(partition.every, self.now, partition.premake, oldest)
            ),
            [
                *(
                    (t.bound.lower, t.bound.upper)
                    for t in existing
                    if t.bound and not t.bound.default
                ),
                # `maintain` retired these, by whatever clock: they do not come back.
                *((r.lower, r.upper) for r in self.live[server].retired if r.parent == parent.name),
            ],
        )
        taken = {*live, *(r.name for r in self.live[server].retired)}
        for lower, upper in free:
            name = suffixed(parent.name, partitions.suffix(lower))
            while name in taken:  # a retired partition keeps its name
                name = suffixed(name, "x")
            yield self._leaf(base, logical, shard, parent, name, Bound(lower=lower, upper=upper))

    def _leaf(
        self,
        base: Catalog,
        logical: str,
        shard: str,
        parent: Table,
        name: str,
        bound: Bound | None,
    ) -> Table:
        """A partition: what it inherits stays out, what each partition has by itself is here."""
        table = self._declared(base, logical)
        partition = self._partition(logical)
        assert partition is not None
        own = [
            index
            for index in self._indexes(table, partition)
            if index.unique or (index.window and self._in_window(index, bound))
        ]
        attached = [
            replace(
                i, name=leaf_item(name, parent.name, i.name, shard), parent=i.name, comment=None
            )
            for i in parent.indexes
        ]
        identity = table.replica_identity
        if identity.startswith("i:"):
            identity = f"i:{leaf_item(name, logical, identity[2:])}"
        leaf = replace(
            parent,
            name=name,
            kind=Relkind.TABLE,
            columns=parent.columns,
            keys=tuple(
                replace(k, name=leaf_item(name, logical, k.name))
                for k in (*table.keys, *self._extra_keys(base, logical))
            ),
            # ATTACH takes the oldest index that fits: not one of its own of the same definition.
            indexes=tuple(
                attached + [replace(i, name=leaf_item(name, logical, i.name)) for i in own]
            ),
            triggers=(),
            options=table.options,
            comment=None,
            unlogged=table.unlogged,
            replica_identity=identity,
            partition_by=None,
            parent=parent.name,
            bound=bound,
        )
        return self.wall.partition(leaf, table.grants)

    def _in_window(self, index: Index, bound: Bound | None) -> bool:
        assert index.window is not None
        if bound is None or bound.default or bound.upper is None:
            return True
        return bound.upper > self.now - timedelta(seconds=index.window.seconds)

    def _check_epoch(
        self, logical: str, server: str, parent: Table, existing: Iterable[Table]
    ) -> None:
        """Numbers tell by their size whether partitions were made with another unit."""
        bounds = [t.bound for t in existing if t.bound and not t.bound.default]
        if parent.epoch is None or control.plausible(m for b in bounds for m in (b.lower, b.upper)):
            return
        raise SchemaError(
            f'the partitions of "{parent.name}" on server "{server}" do not count {parent.epoch}',
            code="PS580",
            hint="give `epoch:` the unit that it had when they were made",
            file=str(self.topology.file),
            line=self.topology.line(f"tables.{logical}.partition.epoch"),
            path=f"tables.{logical}.partition.epoch",
        )

    def _tell_of_ids(self, logical: str, partition: Partition, column: Column) -> None:
        where = (
            "go to the default partition"
            if partition.default
            else "are refused unless they hit a partition by chance"
        )
        self.notices.append(
            f'"{logical}" is partitioned by the time in "{partition.by}", which must be UUIDv7: '
            f"ids of another version have no time and {where}"
            + (
                f"; its default {column.default} makes such ids"
                if "gen_random_uuid" in (column.default or "") or "v4" in (column.default or "")
                else ""
            )
        )

    def _check_partitioning(self) -> None:
        any_base = next(iter(self.base.values()))
        for logical in self.tenancy.sharded:
            partition = self._partition(logical)
            if partition is None:
                continue
            table = any_base.tables[logical]
            path = f"tables.{logical}.partition"
            column = table.column(partition.by)
            place = {
                "file": str(self.topology.file),
                "line": self.topology.line(f"{path}.by"),
                "path": f"{path}.by",
            }
            if column is None:
                raise SchemaError(
                    f'partition column "{partition.by}" does not exist in table "{logical}"',
                    code="PS217",
                    hint=f"columns: {', '.join(c.name for c in table.columns)}",
                    **place,  # type: ignore[arg-type]  # the three keywords of a place
                )
            fault = control.fault(column.type, partition.epoch, whole_days=partition.whole_days)
            if fault is not None:
                raise SchemaError(
                    f'partition column "{logical}.{partition.by}" is {fault[1]}',
                    code="PS218",
                    hint=fault[2] or "use a date, timestamp, timestamptz, bigint or uuid column",
                    **place,  # type: ignore[arg-type]
                )
            if column.type == "uuid":
                self._tell_of_ids(logical, partition, column)
            for other in sorted(any_base.tables):
                for fk in any_base.tables[other].foreign_keys:
                    if fk.ref_table == logical and partition.by not in fk.ref_columns:
                        raise SchemaError(
                            f'table "{logical}" cannot be partitioned by "{partition.by}": '
                            f'"{other}" references it by ({", ".join(fk.ref_columns)}) alone '
                            f'(foreign key "{fk.name}")',
                            code="PS219",
                            hint="a key of a partitioned table must contain the control column; "
                            "drop the foreign key or leave the table unpartitioned",
                            **place,  # type: ignore[arg-type]
                        )
            lost = [k.columns for k in table.keys if partition.by not in k.columns]
            lost += [
                tuple(i.definition[i.definition.find("(") + 1 : i.definition.find(")")].split(", "))
                for i in table.indexes
                if i.unique
            ]
            if lost:
                targets = "; ".join(f"ON CONFLICT ({', '.join(c)})" for c in lost)
                self.notices.append(
                    f'"{logical}" is partitioned by "{partition.by}": uniqueness holds within a '
                    f"partition only, and these are no longer accepted: {targets}"
                )
