"""Catalogue values → DDL, composed with `psycopg.sql`. Definitions are PostgreSQL's own text."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import LiteralString

from psycopg.sql import SQL, Composable, Composed, Identifier, Literal

from parlant_shard.catalog import (
    Bound,
    Column,
    EnumType,
    ForeignKey,
    Grant,
    Index,
    Key,
    Policy,
    Relkind,
    Table,
    Trigger,
    View,
)
from parlant_shard.control import Control
from parlant_shard.names import key_schema

_ACTIONS = {"r": "RESTRICT", "c": "CASCADE", "n": "SET NULL", "d": "SET DEFAULT"}
_COMMANDS = {"r": "SELECT", "a": "INSERT", "w": "UPDATE", "d": "DELETE", "*": "ALL"}


def text(canonical: str) -> SQL:
    """Trust text that PostgreSQL deparsed or that `canonical` made."""
    return SQL(canonical)


def render(statement: Composable) -> str:
    """The statement as text: UTF-8, without a connection."""
    return statement.as_string(None)


class Ddl:
    """DDL for the objects of one namespace."""

    def __init__(self, namespace: str) -> None:
        self.namespace = namespace

    def name(self, relation: str) -> Identifier:
        return Identifier(self.namespace, relation)

    def key_name(self, key_table: str) -> Identifier:
        return Identifier(key_schema(self.namespace), key_table)

    # --- tables ----------------------------------------------------------------------------------

    def create_table(self, table: Table, foreign_keys: Iterable[ForeignKey] = ()) -> Composed:
        foreign = table.kind is Relkind.FOREIGN
        items: list[Composable] = [self.column(c) for c in table.columns]
        items += [self.constraint(k.name, k.definition) for k in table.keys]
        items += [self.constraint(c.name, c.definition) for c in table.checks if not c.inherited]
        items += [self.named_foreign_key(fk) for fk in foreign_keys]
        statement = SQL("CREATE {}TABLE {} (\n  {}\n)").format(
            SQL("FOREIGN " if foreign else "UNLOGGED " if table.unlogged else ""),
            self.name(table.name),
            SQL(",\n  ").join(items),
        )
        if table.foreign is not None:
            statement += SQL(" SERVER {} OPTIONS ({})").format(
                Identifier(table.foreign.server), fdw_options(table.foreign.options)
            )
        if table.partition_by is not None:
            statement += SQL(" PARTITION BY RANGE ({})").format(Identifier(table.partition_by))
        if table.options:
            statement += SQL(" WITH ({})").format(storage(table.options))
        return statement

    def column(self, column: Column) -> Composed:
        item = SQL("{} {}").format(Identifier(column.name), text(column.type))
        if column.collation:
            item += SQL(" COLLATE ") + text(column.collation)
        if column.generated:
            kind = "STORED" if column.generated == "s" else "VIRTUAL"
            item += SQL(" GENERATED ALWAYS AS (") + text(column.default or "") + SQL(") " + kind)
        elif column.identity:
            item += SQL(" GENERATED {} AS IDENTITY").format(
                SQL("ALWAYS" if column.identity == "a" else "BY DEFAULT")
            )
        elif column.default is not None:
            item += SQL(" DEFAULT ") + text(column.default)
        if column.not_null:
            item += SQL(" NOT NULL")
        return item

    def constraint(self, name: str, definition: str) -> Composed:
        return SQL("CONSTRAINT {} ").format(Identifier(name)) + text(definition)

    def named_foreign_key(self, fk: ForeignKey) -> Composed:
        item = SQL("CONSTRAINT {} FOREIGN KEY ({}) REFERENCES {} ({})").format(
            Identifier(fk.name),
            names(fk.columns),
            self.name(fk.ref_table) if fk.key_table is None else self.key_name(fk.key_table),
            names(fk.ref_columns),
        )
        if fk.match == "f":
            item += SQL(" MATCH FULL")
        if fk.on_update in _ACTIONS:
            item += SQL(" ON UPDATE " + _ACTIONS[fk.on_update])
        if fk.on_delete in _ACTIONS:
            item += SQL(" ON DELETE " + _ACTIONS[fk.on_delete])
            if fk.set_columns:
                item += SQL(" (") + names(fk.set_columns) + SQL(")")
        if fk.deferrable:
            item += SQL(" DEFERRABLE")
            if fk.initially_deferred:
                item += SQL(" INITIALLY DEFERRED")
        if fk.unenforced:
            item += SQL(" NOT ENFORCED")
        return item

    def alter(self, table: str, action: Composable, *, only: bool = False) -> Composed:
        return (
            SQL("ALTER TABLE {}{} ").format(SQL("ONLY " if only else ""), self.name(table)) + action
        )

    def alter_foreign(self, table: str, action: Composable) -> Composed:
        return SQL("ALTER FOREIGN TABLE {} ").format(self.name(table)) + action

    # --- indexes, triggers, policies, grants, comments -------------------------------------------

    def create_index(
        self, table: str, index: Index, *, concurrently: bool = False, only: bool = False
    ) -> Composed:
        return SQL("CREATE {}INDEX {}{} ON {}{} USING ").format(
            SQL("UNIQUE " if index.unique else ""),
            SQL("CONCURRENTLY " if concurrently else ""),
            Identifier(index.name),
            SQL("ONLY " if only else ""),
            self.name(table),
        ) + text(index.definition)

    def unique_index(self, table: str, key: Key, *, include: str) -> Composed:
        """The index that a key is going to use."""
        return SQL("CREATE UNIQUE INDEX CONCURRENTLY {} ON {} ").format(
            Identifier(key.name), self.name(table)
        ) + text(include)

    def trigger(self, table: str, trigger: Trigger, *, replace: bool = False) -> list[Composed]:
        head = trigger.head
        if replace:
            head = head.replace("CREATE TRIGGER", "CREATE OR REPLACE TRIGGER", 1)
        found = [text(head) + SQL(" ON {} ").format(self.name(table)) + text(trigger.tail)]
        if trigger.enabled != "O" or replace:
            mode = {"O": "ENABLE", "D": "DISABLE", "R": "ENABLE REPLICA", "A": "ENABLE ALWAYS"}
            found.append(
                self.alter(
                    table,
                    SQL(mode[trigger.enabled] + " TRIGGER {}").format(Identifier(trigger.name)),
                )
            )
        return found

    def policy(self, table: str, policy: Policy) -> Composed:
        statement = SQL("CREATE POLICY {} ON {} AS {} FOR {} TO {}").format(
            Identifier(policy.name),
            self.name(table),
            SQL("PERMISSIVE" if policy.permissive else "RESTRICTIVE"),
            SQL(_COMMANDS[policy.command]),
            SQL(", ").join(role(r) for r in policy.roles),
        )
        if policy.using is not None:
            statement += SQL(" USING (") + text(policy.using) + SQL(")")
        if policy.check is not None:
            statement += SQL(" WITH CHECK (") + text(policy.check) + SQL(")")
        return statement

    def row_security(self, table: Table) -> list[Composed]:
        return [
            self.alter(table.name, SQL(action + " ROW LEVEL SECURITY"))
            for action in (
                "ENABLE" if table.row_security else "DISABLE",
                "FORCE" if table.force_row_security else "NO FORCE",
            )
        ]

    def grant(self, relation: str, grant: Grant) -> Composed:
        return SQL("GRANT {} ON {} TO {}{}").format(
            text(grant.privilege),  # a keyword that aclexplode() reported
            self.name(relation),
            role(grant.role),
            SQL(" WITH GRANT OPTION" if grant.grantable else ""),
        )

    def comment(self, kind: LiteralString, relation: str, value: str | None) -> Composed:
        return SQL("COMMENT ON " + kind + " {} IS {}").format(self.name(relation), Literal(value))

    def comment_column(self, relation: str, column: Column) -> Composed:
        return SQL("COMMENT ON COLUMN {} IS {}").format(
            Identifier(self.namespace, relation, column.name), Literal(column.comment)
        )

    def replica_identity(self, table: Table) -> Composed:
        match table.replica_identity:
            case "f":
                what: Composable = SQL("FULL")
            case "n":
                what = SQL("NOTHING")
            case "d":
                what = SQL("DEFAULT")
            case index:
                what = SQL("USING INDEX {}").format(Identifier(index.removeprefix("i:")))
        return self.alter(table.name, SQL("REPLICA IDENTITY ") + what)

    def dressing(self, table: Table) -> list[Composed]:
        """What belongs to a new table beside its definition, apart from its indexes."""
        found: list[Composed] = []
        for trigger in table.triggers:
            found += self.trigger(table.name, trigger)
        found += [self.policy(table.name, p) for p in table.policies]
        if table.row_security or table.force_row_security:
            found += self.row_security(table)
        if table.replica_identity != "d":
            found.append(self.replica_identity(table))
        found += [self.grant(table.name, g) for g in table.grants]
        if table.comment is not None:
            kind: LiteralString = "FOREIGN TABLE" if table.kind is Relkind.FOREIGN else "TABLE"
            found.append(self.comment(kind, table.name, table.comment))
        if table.parent is None:
            found += [
                self.comment_column(table.name, c) for c in table.columns if c.comment is not None
            ]
        found += [
            self.comment("INDEX", i.name, i.comment) for i in table.indexes if i.comment is not None
        ]
        return found

    # --- partitions ------------------------------------------------------------------------------

    def create_partition(self, parent: Table, leaf: Table) -> list[Composed]:
        """Standalone, with indexes of our names, then attached: no strong lock on the parent."""
        return [
            self.create_like(self.name(parent.name), leaf),
            *self.furnish(leaf),
            self.attach(parent, leaf),
        ]

    def create_like(self, parent: Identifier, leaf: Table, *, checked: bool = True) -> Composed:
        """A table that can become a partition, without keys and indexes; CHECKs if `checked`."""
        statement = SQL(
            "CREATE {}TABLE {} (LIKE {} INCLUDING ALL EXCLUDING IDENTITY EXCLUDING INDEXES{})"
        ).format(
            SQL("UNLOGGED " if leaf.unlogged else ""),
            self.name(leaf.name),
            parent,
            SQL("" if checked else " EXCLUDING CONSTRAINTS"),
        )
        if leaf.options:
            statement += SQL(" WITH ({})").format(storage(leaf.options))
        return statement

    def furnish(self, leaf: Table) -> list[Composed]:
        """The keys, indexes and properties of a partition that is not attached yet."""
        keys = [
            self.alter(leaf.name, SQL("ADD ") + self.constraint(k.name, k.definition))
            for k in leaf.keys
        ]
        return [
            *keys,
            *(self.create_index(leaf.name, i) for i in leaf.indexes),
            *self.dressing(leaf),
        ]

    def attach(self, parent: Table, leaf: Table) -> Composed:
        assert leaf.bound is not None
        return self.alter(
            parent.name,
            SQL("ATTACH PARTITION {} ").format(self.name(leaf.name))
            + bound(leaf.bound, control_of(parent)),
        )

    def within(self, parent: Table, bound: Bound) -> Composed:
        """The condition that a row is in a partition of this bound."""
        assert parent.partition_by is not None
        column, control = Identifier(parent.partition_by), control_of(parent)
        sides = [SQL("{} IS NOT NULL").format(column)]
        if bound.lower is not None:
            sides.append(SQL("{} >= {}").format(column, Literal(control.literal(bound.lower))))
        if bound.upper is not None:
            sides.append(SQL("{} < {}").format(column, Literal(control.literal(bound.upper))))
        return SQL(" AND ").join(sides)

    def beside(self, parent: Table, bound: Bound) -> Composed:
        """The condition that a row is in no partition of this bound, for a CHECK."""
        assert parent.partition_by is not None
        column, control = Identifier(parent.partition_by), control_of(parent)
        sides = []
        if bound.lower is not None:
            sides.append(SQL("{} < {}").format(column, Literal(control.literal(bound.lower))))
        if bound.upper is not None:
            sides.append(SQL("{} >= {}").format(column, Literal(control.literal(bound.upper))))
        return SQL(" OR ").join(sides)

    # --- rows as text ----------------------------------------------------------------------------

    def tally(self, table: Identifier, columns: Iterable[str]) -> Composed:
        """Count rows, and hash them in a way that knows no order. Text settings decide the hash."""
        return SQL(
            "SELECT count(*) AS rows, coalesce(sum(pg_catalog.hashtextextended("
            "ROW({})::text, 0)::numeric), 0)::text AS checksum FROM ONLY {}"
        ).format(names(columns), table)

    def rehearsal(self, table: Table, name: str) -> tuple[Composed, list[Composed]]:
        """A temporary table that takes rows as `table` does, and what it gets when it has them.

        Its CHECKs, generated columns and NOT NULLs judge the rows. Of the indexes those are built
        that evaluate something, and of the keys the exclusion constraints.
        """
        create = SQL(
            "CREATE TEMPORARY TABLE {} (LIKE {} INCLUDING CONSTRAINTS INCLUDING GENERATED) "
            "ON COMMIT DROP"
        ).format(Identifier(name), self.name(table.name))
        temporary = Ddl("pg_temp")
        after = [
            temporary.alter(name, SQL("ADD ") + self.constraint(k.name, k.definition))
            for k in table.keys
            if k.definition.startswith("EXCLUDE")
        ]
        after += [
            temporary.create_index(name, i) for i in table.indexes if i.valid and evaluates(i)
        ]
        return create, after

    def copy_out(self, table: str, columns: Iterable[str]) -> Composed:
        return SQL("COPY {} ({}) TO STDOUT").format(self.name(table), names(columns))

    def copy_in(self, table: Identifier, columns: Iterable[str]) -> Composed:
        return SQL("COPY {} ({}) FROM STDIN").format(table, names(columns))

    # --- views and types -------------------------------------------------------------------------

    def create_view(
        self, view: View, *, name: str | None = None, replace: bool = False
    ) -> Composed:
        columns = names(view.columns)
        branches = [
            SQL("  SELECT {} FROM {}").format(columns, self.name(source)) for source in view.sources
        ]
        return SQL("CREATE {}VIEW {} WITH (security_invoker = true) AS\n").format(
            SQL("OR REPLACE " if replace else ""), self.name(name or view.name)
        ) + SQL("\n  UNION ALL\n").join(branches)

    def create_enum(self, enum: EnumType) -> Composed:
        return SQL("CREATE TYPE {} AS ENUM ({})").format(
            self.name(enum.name), SQL(", ").join(Literal(label) for label in enum.labels)
        )


def evaluates(index: Index) -> bool:
    """Whether an index has an expression or a condition. One too many does no harm."""
    return " WHERE " in index.definition or index.definition.count("(") > 1


def names(columns: Iterable[str]) -> Composed:
    return SQL(", ").join(Identifier(c) for c in columns)


def role(name: str) -> Composable:
    return Identifier(name) if name else SQL("PUBLIC")


def storage(options: Iterable[tuple[str, str]]) -> Composed:
    """Storage parameters; a TOAST parameter (`toast.x`) is two identifiers."""
    return SQL(", ").join(
        SQL("{} = {}").format(Identifier(*name.split(".")), Literal(value))
        for name, value in options
    )


def fdw_options(options: Iterable[tuple[str, str]], verb: LiteralString = "") -> Composed:
    return SQL(", ").join(
        SQL(verb + "{} {}").format(Identifier(name), Literal(value)) for name, value in options
    )


def control_of(table: Table) -> Control:
    """The control column of a partitioned table."""
    assert table.partition_by is not None
    column = table.column(table.partition_by)
    assert column is not None
    return Control.of(column.type, table.epoch)


def bound(value: Bound, control: Control) -> Composed:
    """FOR VALUES, in literals of the control column's type."""
    if value.default:
        return SQL("DEFAULT").format()
    return SQL("FOR VALUES FROM ({}) TO ({})").format(
        _side(value.lower, "MINVALUE", control), _side(value.upper, "MAXVALUE", control)
    )


def _side(value: datetime | None, unbounded: LiteralString, control: Control) -> Composable:
    return SQL(unbounded) if value is None else Literal(control.literal(value))
