"""Steps for what time does to partitions: they are retired, and statistics grow old."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime

from psycopg.sql import SQL, Composable, Identifier, Literal

from parlant_shard import changes as c
from parlant_shard.allrows import every_row
from parlant_shard.catalog import Relkind, Table
from parlant_shard.ddl import render
from parlant_shard.plan.draft import Builder, Draft
from parlant_shard.plan.model import Hazard, Kind, Lock, Probe

# Milliseconds that a detach waits for those who use the table. Whoever attaches a partition
# meanwhile waits too, so it is given up then: what is left pending the next run finalises.
DETACH_TIMEOUT = 60_000
# The temporary table that an archive is loaded into, which proves that it restores.
CHECK_TABLE = "parlant_shard_check"


class Upkeep(Builder):
    """Steps for what time does to partitions."""

    def _upkeep(
        self,
        change: c.DetachPartition
        | c.SettleDetach
        | c.ForgetDetach
        | c.ArchivePartition
        | c.AnalyzeTable,
    ) -> Iterator[Draft]:
        table = change.table
        match change:
            case c.DetachPartition():
                yield from self._detach(change)
            case c.SettleDetach(now=now):
                yield from self._settle(change, now)
            case c.ForgetDetach():
                yield self._on(
                    change,
                    f'keep partition "{table.name}", which is not expired any more',
                    SQL(
                        "DELETE FROM parlant_shard.retired WHERE topology = {} AND name = {} "
                        "AND state = 'detaching'"
                    ).format(Literal(self.target.topology), Literal(table.name)),
                    lock=Lock.ROW_EXCLUSIVE,
                )
            case c.ArchivePartition():
                yield self._archive(change)
            case c.AnalyzeTable():
                foreign = table.kind is Relkind.FOREIGN
                yield self._on(
                    change,
                    f'take statistics of foreign table "{table.name}"'
                    if foreign
                    else f'take statistics of "{table.name}" and its partitions',
                    SQL("ANALYZE {}").format(self.ddl.name(table.name)),
                    kind=Kind.VALIDATE,
                    lock=Lock.SHARE_UPDATE_EXCLUSIVE,
                )

    def _detach(self, change: c.DetachPartition) -> Iterator[Draft]:
        table = change.table
        assert table.parent is not None
        parent = self.ddl.name(table.parent)
        detach = SQL("DETACH PARTITION {}").format(self.ddl.name(table.name))
        if change.at_once:
            yield self._on(
                change,
                f'detach expired partition "{table.name}" of "{table.parent}"; the default '
                "partition forbids doing it concurrently",
                SQL("LOCK TABLE ONLY {} IN ACCESS EXCLUSIVE MODE").format(parent),
                self._announce(change),
                self.ddl.alter(table.parent, detach),
            )
        else:
            if not change.announced:
                yield self._on(
                    change,
                    f'announce the detach of expired partition "{table.name}"',
                    self._announce(change),
                    lock=Lock.ROW_EXCLUSIVE,
                )
            finalise = self.ddl.alter(table.parent, detach + SQL(" FINALIZE"))
            draft = self._on(
                change,
                f'detach expired partition "{table.name}" of "{table.parent}" concurrently',
                self.ddl.alter(table.parent, detach + SQL(" CONCURRENTLY")),
                kind=Kind.CONCURRENT,
                lock=Lock.ACCESS_EXCLUSIVE,
                probe=Probe(
                    query=render(
                        SQL(
                            "SELECT coalesce((SELECT CASE WHEN i.inhdetachpending THEN 'half' "
                            "ELSE 'absent' END FROM pg_catalog.pg_inherits i "
                            "WHERE i.inhrelid = pg_catalog.to_regclass({})), 'done') AS state"
                        ).format(Literal(self._qualified(table.name)))
                    ),
                    clear=(render(finalise),),
                ),
            )
            yield replace(draft, statement_timeout=DETACH_TIMEOUT)
        yield from self._settle(change, change.now)

    def _settle(self, change: c.OnTable, now: datetime) -> Iterator[Draft]:
        """Foreign keys first: while the row says detaching, the next run looks for them again."""
        table = change.table
        for fk in table.foreign_keys:
            yield self._on(
                change,
                f'drop foreign key "{fk.name}" of the detached "{table.name}", which would hold up '
                f'whoever deletes from "{fk.ref_table}"',
                self.ddl.alter(
                    table.name, SQL("DROP CONSTRAINT IF EXISTS {}").format(Identifier(fk.name))
                ),
            )
        yield self._on(
            change,
            f'record that "{table.name}" is detached',
            SQL(
                "UPDATE parlant_shard.retired SET state = 'detached', detached_at = {}::timestamp, "
                "updated_at = pg_catalog.now() WHERE topology = {} AND name = {} "
                "AND state = 'detaching' AND relid = pg_catalog.to_regclass({})::oid"
            ).format(
                Literal(now.isoformat(sep=" ")),
                Literal(self.target.topology),
                Literal(table.name),
                Literal(self._qualified(table.name)),
            ),
            lock=Lock.ROW_EXCLUSIVE,
        )

    def _archive(self, change: c.ArchivePartition) -> Draft:
        """The statements that `archive` runs; between them, rows go to the file and are read."""
        table = self.ddl.name(change.table.name)
        columns = change.table.stored_columns
        copy = Identifier("pg_temp", CHECK_TABLE)
        tally = self.ddl.tally(table, columns)
        create, after = self.ddl.rehearsal(change.table, CHECK_TABLE)
        return self._on(
            change,
            f'archive detached partition "{change.table.name}" to "{change.target}", verify the '
            "archive, then drop the partition",
            every_row(self.target.namespace, [change.table.name]),
            SQL("LOCK TABLE {} IN SHARE MODE").format(table),
            tally,
            self.ddl.copy_out(change.table.name, columns),
            create,
            self.ddl.copy_in(copy, columns),
            self.ddl.tally(copy, columns),
            *after,
            SQL("LOCK TABLE {} IN ACCESS EXCLUSIVE MODE").format(table),
            tally,
            SQL("DROP TABLE {}").format(table),
            SQL(
                "UPDATE parlant_shard.retired SET state = 'archived' WHERE topology = {} "
                "AND name = {} AND state = 'detached' AND relid = {}"
            ).format(
                Literal(self.target.topology),
                Literal(change.table.name),
                Literal(change.retired.relid),
            ),
            kind=Kind.ARCHIVE,
            hazards=(Hazard.DROPS_OBJECT,),
        )

    def _announce(self, change: c.DetachPartition) -> Composable:
        table: Table = change.table
        assert table.bound is not None
        return SQL(
            "INSERT INTO parlant_shard.retired "
            "(topology, name, relid, logical, shard, parent, lower_bound, upper_bound, state) "
            "VALUES ({}, {}, pg_catalog.to_regclass({})::oid, {}, {}, {}, {}::timestamp, "
            "{}::timestamp, 'detaching') ON CONFLICT (topology, name) DO UPDATE SET "
            "relid = EXCLUDED.relid, lower_bound = EXCLUDED.lower_bound, "
            "upper_bound = EXCLUDED.upper_bound, state = 'detaching', detached_at = NULL, "
            # Without it, one that was restored would count as a copy beside its table.
            "kept_until = coalesce(retired.kept_until, {}::timestamp), "
            "updated_at = pg_catalog.now()"
        ).format(
            *map(
                Literal,
                (
                    self.target.topology,
                    table.name,
                    self._qualified(table.name),
                    change.logical,
                    change.shard,
                    table.parent,
                    _text(table.bound.lower),
                    _text(table.bound.upper),
                    _text(change.now),
                ),
            )
        )


def _text(moment: datetime | None) -> str | None:
    return None if moment is None else moment.isoformat(sep=" ")
