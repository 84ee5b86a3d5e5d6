"""The table that archived rows go into: like its siblings, ready to be attached. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime

from psycopg.sql import SQL, Composable, Identifier, Literal

from parlant_shard.archive import Manifest
from parlant_shard.catalog import REFUSED, Bound, Column, Table
from parlant_shard.ddl import Ddl, text
from parlant_shard.errors import ApplyFailed
from parlant_shard.maintain import indexes, leaf
from parlant_shard.names import suffixed
from parlant_shard.topology import Topology


class Shape:
    """What a partition is made of when it comes back; `leaves` are its siblings."""

    def __init__(
        self,
        topology: Topology,
        manifest: Manifest,
        parent: Table,
        leaves: list[Table],
        now: datetime,
    ) -> None:
        self.topology, self.manifest, self.parent, self.now = topology, manifest, parent, now
        self.name = manifest.partition
        self.leaves = [t for t in leaves if t.name != self.name]
        self.ddl = Ddl(topology.namespace)
        self.bound = Bound(lower=manifest.lower, upper=manifest.upper)
        self.check_name = suffixed(self.name, "archive_bound")

    def like(self) -> Table:
        """The table, as its newest sibling is; without the indexes whose window it has left."""
        sibling = leaf.newest(self.leaves)
        if sibling is None:
            raise ApplyFailed(
                f'table "{self.parent.name}" has no partition that this one could be made like',
                code="PS530",
                hint=f"run `parlant-shard apply {self.topology.file}`",
            )
        logical = self.manifest.table
        rolling = indexes.windows(self.topology.indexes, logical)
        patterns = indexes.patterns(rolling, logical, tuple(self.leaves))
        past = {
            patterns[n].definition
            for n in patterns
            if indexes.outside(self.bound.upper, rolling[n], self.now)
        }
        return leaf.like(sibling, self.parent, self.name, self.bound, self.manifest.shard, past)

    def create(self) -> Iterator[Composable]:
        """The empty table. CHECKs come after the rows, so that those they refuse are counted."""
        yield self.ddl.create_like(self.ddl.name(self.parent.name), self.like(), checked=False)
        for column in self._stricter():
            yield self.ddl.alter(
                self.name, SQL("ALTER COLUMN {} DROP NOT NULL").format(Identifier(column.name))
            )

    def _stricter(self) -> list[Column]:
        """Columns that admitted NULL when they were archived: first such rows are counted."""
        loose = {c.name for c in self.manifest.columns if not c.not_null}
        keys = {c for k in self.parent.keys for c in k.columns}
        return [
            c
            for c in self.parent.columns
            if c.not_null and c.name in loose and c.name not in keys and not c.identity
        ]

    def finish(self) -> Iterator[Composable]:
        """All that a partition has, and the CHECK that spares ATTACH its scan."""
        for column in self._stricter():
            yield self.ddl.alter(
                self.name, SQL("ALTER COLUMN {} SET NOT NULL").format(Identifier(column.name))
            )
        for item in self.parent.checks:
            yield self.ddl.alter(
                self.name, SQL("ADD ") + self.ddl.constraint(item.name, item.definition)
            )
        yield self.ddl.alter(
            self.name,
            SQL("ADD CONSTRAINT {} CHECK (").format(Identifier(self.check_name))
            + self.ddl.within(self.parent, self.bound)
            + SQL(")"),
        )
        yield from self.ddl.furnish(self.like())

    def fits(self, made: Table | None) -> bool:
        """Whether a table that was made earlier still has the parent's columns and CHECKs."""
        if made is None:
            return False
        checks = {(c.name, c.definition) for c in made.checks if c.name != self.check_name}
        return _columns(made) == _columns(self.parent) and checks == {
            (c.name, c.definition) for c in self.parent.checks
        }

    def conditions(self) -> Iterator[tuple[str, Composable]]:
        """What no row of `archived` may fulfil, each with the words for it."""
        yield (
            "are of workspaces that were purged",
            SQL(
                "archived.{}::text IN (SELECT p.workspace_id FROM parlant_shard.placement p "
                "WHERE p.topology = {} AND p.state = ANY ({}))"
            ).format(
                Identifier(self.topology.key),
                Literal(self.topology.name),
                Literal(sorted(REFUSED)),
            ),
        )
        for column in self._stricter():
            yield (
                f'have no value in "{column.name}", which needs one now',
                SQL("{} IS NULL").format(Identifier(column.name)),
            )
        for item in self.parent.checks:
            if item.unenforced:
                continue
            expression = item.definition.removeprefix("CHECK ").removesuffix(" NO INHERIT")
            yield (
                f'do not fulfil CHECK "{item.name}"',
                SQL("NOT (") + text(expression) + SQL(")"),
            )
        for key in self.parent.foreign_keys:
            if key.unenforced:
                continue
            # Not of pg_catalog alone: an extension's type brings the operator that its key uses.
            pairs = list(zip(key.columns, key.ref_columns, strict=True))
            yield (
                f'refer to rows of "{key.ref_table}" that are gone (foreign key "{key.name}")',
                SQL(" AND ").join(
                    SQL("archived.{} IS NOT NULL").format(Identifier(mine)) for mine, _ in pairs
                )
                + SQL(" AND NOT EXISTS (SELECT FROM {} AS referenced WHERE ").format(
                    self.ddl.name(key.ref_table)
                )
                + SQL(" AND ").join(
                    SQL("referenced.{} = archived.{}").format(Identifier(theirs), Identifier(mine))
                    for mine, theirs in pairs
                )
                + SQL(")"),
            )


def _columns(table: Table) -> set[tuple[str, str, bool, str | None, str, str | None]]:
    """What ATTACH compares; a default, or an identity, may differ."""
    return {
        (c.name, c.type, c.not_null, c.collation, c.generated, c.default if c.generated else None)
        for c in table.columns
    }
