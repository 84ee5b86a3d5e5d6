"""Steps for columns."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from psycopg.sql import SQL, Composable, Identifier

from parlant_shard import changes as c
from parlant_shard.catalog import Column, Relkind, Table
from parlant_shard.ddl import text
from parlant_shard.names import suffixed
from parlant_shard.plan.draft import Builder, Draft
from parlant_shard.plan.model import Hazard, Kind, Lock


class Columns(Builder):
    """Steps for columns."""

    def _column(self, change: c.AddColumn | c.DropColumn | c.AlterColumn) -> Iterator[Draft]:
        match change:
            case c.AddColumn():
                yield from self._add_column(change)
            case c.DropColumn(column=column):
                foreign = change.table.kind is Relkind.FOREIGN
                action = SQL("DROP COLUMN {}").format(Identifier(column.name))
                alter = self.ddl.alter_foreign if foreign else self.ddl.alter
                yield self._on(
                    change,
                    f'drop column "{column.name}" of "{change.table.name}"',
                    alter(change.table.name, action),
                    phase=self._drop_phase(change),
                    hazards=() if foreign else (Hazard.DELETES_DATA,),
                )
            case c.AlterColumn():
                yield from self._alter_column(change)

    def _add_column(self, change: c.AddColumn) -> Iterator[Draft]:
        table, column = change.table, change.column
        title = f'add column "{column.name}" to "{table.name}"'
        if table.kind is Relkind.FOREIGN:
            yield self._on(
                change,
                title,
                self.ddl.alter_foreign(table.name, SQL("ADD COLUMN ") + self.ddl.column(column)),
            )
            return
        comment = [self.ddl.comment_column(table.name, column)] if column.comment else []
        rewrites = bool(column.identity) or column.generated == "s"
        if rewrites:
            yield self._on(
                change,
                f"{title}, which rewrites the table",
                self.ddl.alter(table.name, SQL("ADD COLUMN ") + self.ddl.column(column)),
                *comment,
                hazards=(Hazard.TABLE_REWRITE, Hazard.BLOCKS_WRITES, Hazard.BLOCKS_READS),
            )
            return
        if column.default is None or _is_constant(column.default):
            late = column.not_null and column.default is None
            added = replace(column, not_null=column.not_null and not late)
            yield self._on(
                change,
                title,
                self.ddl.alter(table.name, SQL("ADD COLUMN ") + self.ddl.column(added)),
                *comment,
            )
            if late:
                yield from self._set_not_null(change, column.name, change.leaves)
            return
        # A volatile default would rewrite the table under a lock that blocks everybody.
        yield self._on(
            change,
            title,
            self.ddl.alter(
                table.name,
                SQL("ADD COLUMN ") + self.ddl.column(replace(column, default=None, not_null=False)),
            ),
            self.ddl.alter(
                table.name,
                SQL("ALTER COLUMN {} SET DEFAULT ").format(Identifier(column.name))
                + text(column.default),
            ),
            *comment,
        )
        yield self._on(
            change,
            f'fill column "{column.name}" of "{table.name}" in batches',
            # Counts what was really filled: a default that yields NULL must not loop for ever.
            SQL(
                "WITH filled AS (UPDATE {table} SET {column} = DEFAULT WHERE (tableoid, ctid) IN "
                "(SELECT tableoid, ctid FROM {table} WHERE {column} IS NULL LIMIT 5000) "
                "RETURNING {column} AS value) "
                "SELECT count(*) FILTER (WHERE value IS NOT NULL) AS changed FROM filled"
            ).format(table=self.ddl.name(table.name), column=Identifier(column.name)),
            kind=Kind.BATCHES,
            lock=Lock.ROW_EXCLUSIVE,
            hazards=(Hazard.FULL_SCAN,),
        )
        if column.not_null:
            yield from self._set_not_null(change, column.name, change.leaves)

    def _set_not_null(
        self, change: c.OnTable, column: str, leaves: tuple[Table, ...]
    ) -> Iterator[Draft]:
        """Prove it with a CHECK first: SET NOT NULL alone scans under the strongest lock."""
        table = change.table
        name = suffixed(suffixed(table.name, column), "not_null")
        targets = leaves if table.kind is Relkind.PARTITIONED else (table,)
        definition = SQL("CHECK ({} IS NOT NULL)").format(Identifier(column))
        for target in targets:
            yield self._on(
                change,
                f'announce that "{target.name}.{column}" is not null',
                self.ddl.alter(
                    target.name,
                    SQL("ADD CONSTRAINT {} ").format(Identifier(name))
                    + definition
                    + SQL(" NOT VALID"),
                ),
            )
            yield self._on(
                change,
                f'check that "{target.name}.{column}" is not null',
                self._validate(target.name, name),
                kind=Kind.VALIDATE,
                lock=Lock.SHARE_UPDATE_EXCLUSIVE,
                hazards=(Hazard.FULL_SCAN, Hazard.MAY_FAIL_ON_DATA),
            )
        yield self._on(
            change,
            f'set "{table.name}.{column}" NOT NULL',
            self.ddl.alter(
                table.name, SQL("ALTER COLUMN {} SET NOT NULL").format(Identifier(column))
            ),
        )
        for target in targets:
            yield self._on(
                change,
                f'drop the check that proved "{target.name}.{column}" not null',
                self.ddl.alter(target.name, SQL("DROP CONSTRAINT {}").format(Identifier(name))),
            )

    def _alter_column(self, change: c.AlterColumn) -> Iterator[Draft]:
        table, old, new = change.table, change.old, change.new
        foreign = table.kind is Relkind.FOREIGN
        alter = self.ddl.alter_foreign if foreign else self.ddl.alter
        column = Identifier(new.name)

        def act(title: str, action: Composable, **options: Any) -> Draft:
            return self._on(change, title, alter(table.name, action), **options)

        if old.type != new.type or old.collation != new.collation:
            action = SQL("ALTER COLUMN {} TYPE ").format(column) + text(new.type)
            if new.collation:
                action += SQL(" COLLATE ") + text(new.collation)
            if not foreign:
                action += SQL(" USING {}::").format(column) + text(new.type)
            safe = foreign or _widens(old, new)
            yield act(
                f'change the type of "{table.name}.{new.name}" from {old.type} to {new.type}',
                action,
                hazards=()
                if safe
                else (
                    Hazard.TABLE_REWRITE,
                    Hazard.BLOCKS_WRITES,
                    Hazard.BLOCKS_READS,
                    Hazard.MAY_FAIL_ON_DATA,
                ),
            )
        if old.identity != new.identity:
            if new.identity and old.identity:
                action = SQL("ALTER COLUMN {} SET GENERATED ").format(column)
                action += SQL("ALWAYS" if new.identity == "a" else "BY DEFAULT")
            elif new.identity:
                action = SQL("ALTER COLUMN {} ADD GENERATED ").format(column)
                action += SQL(("ALWAYS" if new.identity == "a" else "BY DEFAULT") + " AS IDENTITY")
            else:
                action = SQL("ALTER COLUMN {} DROP IDENTITY").format(column)
            yield act(f'change the identity of "{table.name}.{new.name}"', action)
        if old.default != new.default and not new.generated and not foreign:
            if new.default is None:
                action = SQL("ALTER COLUMN {} DROP DEFAULT").format(column)
            else:
                action = SQL("ALTER COLUMN {} SET DEFAULT ").format(column) + text(new.default)
            yield act(f'change the default of "{table.name}.{new.name}"', action)
        if old.not_null and not new.not_null:
            yield act(
                f'allow NULL in "{table.name}.{new.name}"',
                SQL("ALTER COLUMN {} DROP NOT NULL").format(column),
            )
        if new.not_null and not old.not_null:
            if foreign:
                yield act(
                    f'set "{table.name}.{new.name}" NOT NULL',
                    SQL("ALTER COLUMN {} SET NOT NULL").format(column),
                )
            else:
                yield from self._set_not_null(change, new.name, change.leaves)
        if old.comment != new.comment and not foreign:
            yield self._on(
                change,
                f'set the comment of "{table.name}.{new.name}"',
                self.ddl.comment_column(table.name, new),
                lock=Lock.SHARE_UPDATE_EXCLUSIVE,
            )


_CONSTANT = re.compile(
    r"(?:'(?:[^']|'')*'|-?\d+(?:\.\d+)?|\(-?\d+(?:\.\d+)?\)|true|false|NULL)"
    r"(?:::[\w .\"\[\](),]+)?\Z"
)


def _is_constant(default: str) -> bool:
    """Whether PostgreSQL evaluates the default once and stores it in the catalogue."""
    return bool(_CONSTANT.match(default)) or default in {
        "now()",
        "CURRENT_TIMESTAMP",
        "CURRENT_DATE",
        "LOCALTIMESTAMP",
        "ARRAY[]::text[]",
    }


def _widens(old: Column, new: Column) -> bool:
    """Whether the change of type needs no rewrite: varchar(n) to a longer one or to text."""
    before = re.fullmatch(r"character varying(?:\((\d+)\))?", old.type)
    if before is None or old.collation != new.collation:
        return False
    after = re.fullmatch(r"character varying(?:\((\d+)\))?", new.type)
    if new.type == "text" or (after and after[1] is None):
        return True
    return bool(after and before[1] and int(after[1]) >= int(before[1]))
