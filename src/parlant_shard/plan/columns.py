"""Steps for columns."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace

from psycopg.sql import SQL, Composed, Identifier, Literal

from parlant_shard import canonical
from parlant_shard import changes as c
from parlant_shard.catalog import Check, Column, Relkind, Table
from parlant_shard.ddl import text
from parlant_shard.diff import FILLING, not_null_proof
from parlant_shard.plan.draft import Builder, Draft, named
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
        rewrites = not change.begun and (bool(column.identity) or column.generated == "s")
        if rewrites:
            yield self._on(
                change,
                f"{title}, which rewrites the table",
                self.ddl.alter(table.name, SQL("ADD COLUMN ") + self.ddl.column(column)),
                *comment,
                hazards=(Hazard.TABLE_REWRITE, Hazard.BLOCKS_WRITES, Hazard.BLOCKS_READS),
            )
            return
        if not change.begun and (column.default is None or _is_constant(column.default)):
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
        assert column.default is not None or change.begun
        # A volatile default would rewrite the table under a lock that blocks everybody. The mark
        # says that old rows lack it, until the last step takes it away.
        if not change.begun:
            yield self._on(
                change,
                title,
                self.ddl.alter(
                    table.name,
                    SQL("ADD COLUMN ")
                    + self.ddl.column(replace(column, default=None, not_null=False)),
                ),
                self.ddl.alter(
                    table.name,
                    SQL("ALTER COLUMN {} SET DEFAULT ").format(Identifier(column.name))
                    + text(column.default or "NULL"),
                ),
                self.ddl.comment_column(table.name, replace(column, comment=FILLING)),
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
        if column.not_null and not change.proved:
            yield from self._set_not_null(change, column.name, change.leaves, change.checks)
        yield self._on(
            change,
            f'column "{column.name}" of "{table.name}" is filled',
            self.ddl.comment_column(table.name, column),
            lock=Lock.SHARE_UPDATE_EXCLUSIVE,
        )

    def _set_not_null(
        self,
        change: c.OnTable,
        column: str,
        leaves: tuple[Table, ...],
        begun: tuple[Check, ...] = (),
    ) -> Iterator[Draft]:
        """Prove it with a CHECK first: SET NOT NULL alone scans under the strongest lock.

        `begun` holds the live checks of a plain table; partitions bring their own.
        """
        table = change.table
        name = not_null_proof(table.name, column)
        partitioned = table.kind is Relkind.PARTITIONED
        targets = [(leaf, leaf.checks) for leaf in leaves] if partitioned else [(table, begun)]
        definition = SQL("CHECK ({} IS NOT NULL)").format(Identifier(column))
        for target, checks in targets:
            proof = named(checks, name)
            if proof is None:
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
            if proof is None or not proof.valid:
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
        for target, _ in targets:
            yield self._on(
                change,
                f'drop the check that proved "{target.name}.{column}" not null',
                self.ddl.alter(target.name, SQL("DROP CONSTRAINT {}").format(Identifier(name))),
            )

    def _alter_column(self, change: c.AlterColumn) -> Iterator[Draft]:
        table, old, new = change.table, change.old, change.new
        foreign = table.kind is Relkind.FOREIGN
        where = f'"{table.name}.{new.name}"'
        default = old.default
        if (old.type, old.collation) != (new.type, new.collation):
            yield self._retyped(change)
            default = None if old.default is None else new.default
        if default is not None and new.identity and not foreign:
            yield self._act(change, f"drop the default of {where}", "DROP DEFAULT")
            default = None
        if new.not_null and not old.not_null:
            if foreign:
                yield self._act(change, f"set {where} NOT NULL", "SET NOT NULL")
            else:
                yield from self._set_not_null(change, new.name, change.leaves, change.begun)
        if old.identity != new.identity:
            yield self._identity(change)
        if default != new.default and not new.generated and not foreign:
            action = "DROP DEFAULT" if new.default is None else f"SET DEFAULT {new.default}"
            yield self._act(change, f"change the default of {where}", action)
        if old.not_null and not new.not_null:
            yield self._act(change, f"allow NULL in {where}", "DROP NOT NULL")
        if old.comment != new.comment and not foreign:
            yield self._on(
                change,
                f"set the comment of {where}",
                self.ddl.comment_column(table.name, new),
                lock=Lock.SHARE_UPDATE_EXCLUSIVE,
            )

    def _act(self, change: c.AlterColumn, title: str, action: str) -> Draft:
        return self._on(change, title, self._altering(change, action))

    def _altering(self, change: c.AlterColumn, action: str) -> Composed:
        """ALTER COLUMN; what follows is a keyword or text that PostgreSQL deparsed."""
        foreign = change.table.kind is Relkind.FOREIGN
        alter = self.ddl.alter_foreign if foreign else self.ddl.alter
        return alter(
            change.table.name,
            SQL("ALTER COLUMN {} ").format(Identifier(change.new.name)) + text(action),
        )

    def _retyped(self, change: c.AlterColumn) -> Draft:
        """One step: a default that does not cast has to go before and come back after."""
        old, new = change.old, change.new
        foreign = change.table.kind is Relkind.FOREIGN
        action = f"TYPE {new.type}"
        if new.collation:
            action += f" COLLATE {new.collation}"
        sql = [self._altering(change, action)]
        if not foreign and not _is_string(new.type):
            # Never for strings: an explicit cast cuts what is too long, without a word.
            sql = [sql[0] + SQL(" USING {}::").format(Identifier(new.name)) + text(new.type)]
        if old.default is not None and not new.generated and not foreign:
            sql.insert(0, self._altering(change, "DROP DEFAULT"))
            if new.default is not None:
                sql.append(self._altering(change, f"SET DEFAULT {new.default}"))
        hazards: tuple[Hazard, ...] = ()
        if not foreign and not _widens(old, new):
            hazards = (
                Hazard.TABLE_REWRITE,
                Hazard.BLOCKS_WRITES,
                Hazard.BLOCKS_READS,
                Hazard.MAY_FAIL_ON_DATA,
            )
            if _loses(old.type, new.type):
                hazards = (Hazard.DELETES_DATA, *hazards)
        before = old.type + (f" {old.collation}" if old.collation else "")
        after = new.type + (f" {new.collation}" if new.collation else "")
        return self._on(
            change,
            f'change the type of "{change.table.name}.{new.name}" from {before} to {after}',
            *sql,
            hazards=hazards,
        )

    def _identity(self, change: c.AlterColumn) -> Draft:
        table, old, new = change.table, change.old, change.new
        kind = "ALWAYS" if new.identity == "a" else "BY DEFAULT"
        title = f'change the identity of "{table.name}.{new.name}"'
        if new.identity and old.identity:
            return self._act(change, title, f"SET GENERATED {kind}")
        if not new.identity:
            return self._act(change, title, "DROP IDENTITY")
        qualified = f"{canonical.quote(self.target.namespace)}.{canonical.quote(table.name)}"
        return self._on(
            change,
            f"{title}: it goes on after the largest value",
            self._altering(change, f"ADD GENERATED {kind} AS IDENTITY"),
            SQL(
                "SELECT pg_catalog.setval(pg_catalog.pg_get_serial_sequence({}, {}), "
                "coalesce(max({}), 1), max({}) IS NOT NULL) FROM {}"
            ).format(
                Literal(qualified),
                Literal(new.name),
                Identifier(new.name),
                Identifier(new.name),
                self.ddl.name(table.name),
            ),
            hazards=(Hazard.FULL_SCAN,),
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


def _is_string(type_: str) -> bool:
    return bool(re.match(r"(?:text|character varying|character|bit|bit varying)(?:\(|$)", type_))


_INTEGERS = {"smallint", "integer", "bigint"}


def _loses(old: str, new: str) -> bool:
    """Whether the conversion may keep less than there was (0.5 becomes 1, a time becomes a date).

    Conversions that fail where a value does not fit lose nothing.
    """
    if _is_string(new) or _is_string(old):
        return False
    if old in _INTEGERS and new in {*_INTEGERS, "numeric", "double precision"}:
        return new == "double precision" and old == "bigint"
    if old.split("(", maxsplit=1)[0] == new.split("(", maxsplit=1)[0]:
        return "(" in new  # the same type with another precision
    return True
