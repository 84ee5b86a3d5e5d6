"""Steps for indexes, online on plain and partitioned tables."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from psycopg.sql import SQL, Identifier

from parlant_shard import changes as c
from parlant_shard.catalog import Index, Relkind, Table
from parlant_shard.diff import same_index
from parlant_shard.names import leaf_item
from parlant_shard.plan.draft import Builder, Draft
from parlant_shard.plan.model import Hazard, Kind, Lock, Probe


class Indexes(Builder):
    """Steps for indexes, online on plain and partitioned tables."""

    def _index(
        self,
        change: c.CreateIndex | c.DropIndex | c.RenameIndex | c.ReindexAttached | c.CommentIndex,
    ) -> Iterator[Draft]:
        table = change.table
        match change:
            case c.CreateIndex():
                yield from self._create_index(change)
            case c.DropIndex(index=index, why=why):
                yield self._dropped_index(change, index, why)
            case c.RenameIndex(old=old, new=new):
                yield self._on(
                    change,
                    f'rename index "{old}" to "{new}"',
                    SQL("ALTER INDEX {} RENAME TO {}").format(self.ddl.name(old), Identifier(new)),
                    lock=Lock.SHARE_UPDATE_EXCLUSIVE,
                )
            case c.ReindexAttached(index=index):
                leaf_index = self.ddl.name(index.name)
                yield self._on(
                    change,
                    f'rebuild the INVALID index "{index.name}" of "{table.name}"',
                    SQL("REINDEX INDEX CONCURRENTLY {}").format(leaf_index),
                    kind=Kind.CONCURRENT,
                    lock=Lock.SHARE_UPDATE_EXCLUSIVE,
                    hazards=(Hazard.INDEX_BUILD,),
                    # A REINDEX that dies leaves the old index INVALID as it was: run it again.
                    probe=Probe(
                        query=self._index_probe(index.name, SQL("SELECT 1")).query.replace(
                            "'half'", "'absent'"
                        )
                    ),
                )
                if index.parent is not None:
                    yield self._attach_index(change, index.parent, index.name)
            case c.CommentIndex(index=index):
                yield self._on(
                    change,
                    f'set the comment of index "{index.name}"',
                    self.ddl.comment("INDEX", index.name, index.comment),
                    lock=Lock.SHARE_UPDATE_EXCLUSIVE,
                )

    def _attach_index(self, change: c.OnTable, parent: str, leaf_index: str) -> Draft:
        return self._on(
            change,
            f'attach index "{leaf_index}" to "{parent}"',
            SQL("ALTER INDEX {} ATTACH PARTITION {}").format(
                self.ddl.name(parent), self.ddl.name(leaf_index)
            ),
        )

    def _create_index(self, change: c.CreateIndex) -> Iterator[Draft]:
        table, index = change.table, change.index
        if table.kind is not Relkind.PARTITIONED:
            yield self._built_index(change, table, index)
            if index.comment is not None:
                yield self._on(
                    change,
                    f'set the comment of index "{index.name}"',
                    self.ddl.comment("INDEX", index.name, index.comment),
                    lock=Lock.SHARE_UPDATE_EXCLUSIVE,
                )
            return
        if not change.exists:
            yield self._on(
                change,
                f'declare index "{index.name}" on "{table.name}" alone',
                self.ddl.create_index(table.name, index, only=True),
                lock=Lock.SHARE,
            )
        for leaf in change.leaves:
            attached = next((i for i in leaf.indexes if i.parent == index.name), None)
            name = (
                attached.name
                if attached
                else leaf_item(leaf.name, table.name, index.name, change.shard)
            )
            built = next((i for i in leaf.indexes if i.name == name), None) or next(
                # Any that does the same will do: the name of a partition's index means nothing.
                (
                    i
                    for i in leaf.indexes
                    if not (i.parent or change.successor) and i.valid and same_index(i, index)
                ),
                None,
            )
            name = built.name if built else name
            if built is not None and not (built.valid and same_index(built, index)):
                yield self._dropped_index(replace(change, table=leaf), built, c.Why.LEFTOVER)
                built = None
            if built is None:
                yield self._built_index(change, leaf, replace(index, name=name, parent=None))
            yield self._attach_index(change, index.name, name)

    def _built_index(self, change: c.CreateIndex, table: Table, index: Index) -> Draft:
        return self._on(
            change,
            f'build index "{index.name}" on "{table.name}" concurrently',
            self.ddl.create_index(table.name, index, concurrently=True),
            kind=Kind.CONCURRENT,
            lock=Lock.SHARE_UPDATE_EXCLUSIVE,
            hazards=(Hazard.INDEX_BUILD, *((Hazard.MAY_FAIL_ON_DATA,) if index.unique else ())),
            probe=self._index_probe(index.name, self._drop_index(index.name)),
        )
