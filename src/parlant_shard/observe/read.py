"""Read the figures of every server, in parallel. The only part that talks to servers."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import datetime
from math import isnan
from typing import Any

import postgast
import psycopg
from psycopg.sql import SQL, Composed, Identifier

from parlant_shard import db
from parlant_shard.errors import CannotConnect, ShardError
from parlant_shard.observe.figures import (
    Database,
    ForeignKeyFigures,
    IndexFigures,
    Observed,
    Replica,
    ServerFigures,
    Statement,
    TableFigures,
    merged,
)
from parlant_shard.sqlfiles import queries
from parlant_shard.topology import Topology

# Milliseconds. Figures are worth nothing that they would cost the application.
TIMEOUT = 15_000
# Statements are read in the order of their total time; those beyond hardly matter.
STATEMENTS = 1_000
# A table that is being changed by DDL is locked for a moment.
_ATTEMPTS = 5
# Ours, and what is never normalised, may hold literals: only these are shown.
_QUERY = re.compile(r"\s*(?:SELECT|INSERT|UPDATE|DELETE|MERGE|WITH)\b", re.IGNORECASE)
_HIDDEN = "<insufficient privilege>"

Choose = Callable[[ServerFigures], Iterable[IndexFigures]]


def observe(
    topology: Topology,
    *,
    statements: bool = True,
    structure: bool = True,
    measure: Choose | None = None,
) -> Observed:
    """Read every server. A server that cannot be read is in `failed`; none of the rest is lost.

    `structure` asks for what only advice needs: foreign keys, column statistics, the journal.
    `measure` chooses the indexes whose pages are counted where pgstattuple is installed.
    """
    names = list(topology.servers)

    def read(name: str) -> ServerFigures | ShardError:
        try:
            return _server(topology, name, statements, structure, measure)
        except ShardError as error:
            return error

    with ThreadPoolExecutor(max_workers=max(1, min(8, len(names)))) as pool:
        found = dict(zip(names, pool.map(read, names), strict=True))
    return Observed(
        topology=topology,
        servers={n: f for n, f in found.items() if isinstance(f, ServerFigures)},
        failed={n: f for n, f in found.items() if isinstance(f, ShardError)},
    )


def tables_of(
    topology: Topology, connection: db.Connection, server: str
) -> tuple[TableFigures, ...]:
    """Read the tables alone, through a session that is open already."""
    return _Reader(topology, connection, server).tables()


def _server(
    topology: Topology, name: str, statements: bool, structure: bool, measure: Choose | None
) -> ServerFigures:
    with db.session(
        topology, name, application="parlant-shard observe", doing="reading its statistics"
    ) as connection:
        reader = _Reader(topology, connection, name)
        for attempt in range(_ATTEMPTS):
            try:
                found = reader.base()
                break
            except psycopg.Error as error:
                if error.sqlstate not in db.RETRYABLE or attempt == _ATTEMPTS - 1:
                    raise
        if structure:
            found = reader.structure(found)
        if measure is not None:
            found = reader.measured(found, measure)
        if statements:
            found = reader.statements(found)
    indexes = frozenset(i.name for i in found.indexes)
    replicas = tuple(
        _replica(topology, name, number, r.dsn, indexes)
        for number, r in enumerate(topology.servers[name].replicas, 1)
        if r.dsn is not None
    )
    said = tuple(
        f'replica {r.number} of server "{name}" cannot be read ({r.error}): what it uses is not '
        "known, so no index of this server is called unused"
        for r in replicas
        if r.error is not None
    )
    return replace(found, replicas=replicas, notices=(*found.notices, *said))


class _Reader:
    """The queries of one server, each in a read-only transaction with a timeout."""

    def __init__(self, topology: Topology, connection: db.Connection, server: str) -> None:
        self.topology, self.connection, self.server = topology, connection, server

    def rows(self, query: str | Composed, **params: Any) -> list[dict[str, Any]]:
        text = queries("observe")[query] if isinstance(query, str) else query
        with self.connection.transaction():
            self.connection.execute("SET TRANSACTION READ ONLY")
            self.connection.execute(
                "SELECT pg_catalog.set_config('statement_timeout', %s, true)", [str(TIMEOUT)]
            )
            return self.connection.execute(text, params or None).fetchall()

    def base(self) -> ServerFigures:
        if not self.rows("applied")[0]["found"]:
            raise ShardError(
                f'topology "{self.topology.name}" has not been applied on server '
                f'"{self.server}" yet',
                code="PS520",
                hint=f"run `parlant-shard apply {self.topology.file}` first",
            )
        try:
            tables = self.tables()
        except psycopg.errors.InsufficientPrivilege as error:
            raise ShardError(
                f'server "{self.server}": the role may not read which tables are ours',
                code="PS560",
                hint="GRANT USAGE ON SCHEMA parlant_shard, GRANT SELECT ON parlant_shard.object, "
                "parlant_shard.step and GRANT pg_monitor TO the role",
            ) from error
        # What describes an index waits for its table.
        indexes = self.rows("indexes", tables=[t.oid for t in tables if not t.locked])
        row = self.rows("server")[0]
        notices = [
            f'server "{self.server}": "{t.name}" is locked by another session: its sizes are those '
            "that VACUUM and ANALYZE left, its indexes are left out, and nothing is advised on it"
            for t in tables
            if t.locked
        ]
        if not row["counting"]:
            notices.append(
                f'server "{self.server}" counts nothing: set track_counts = on, autovacuum needs '
                "it too"
            )
        return ServerFigures(
            name=self.server,
            version=row["version"],
            version_num=row["version_num"],
            block_size=row["block_size"],
            now=row["now"],
            started_at=row["started_at"],
            since=_since(row),
            database=Database(
                bytes=row["bytes"],
                hit=row["blks_hit"],
                read=row["blks_read"],
                temp_bytes=row["temp_bytes"],
                deadlocks=row["deadlocks"],
                commits=row["xact_commit"],
                rollbacks=row["xact_rollback"],
            ),
            tables=tables,
            indexes=tuple(IndexFigures(**_tuples(i)) for i in indexes),
            timeline=self.timeline(),
            notices=tuple(notices),
        )

    def timeline(self) -> int | None:
        try:
            number: int | None = self.rows("timeline")[0]["timeline"]
        except (psycopg.errors.FeatureNotSupported, psycopg.errors.InsufficientPrivilege):
            return None  # services without WAL files of their own refuse it
        return number

    def tables(self) -> tuple[TableFigures, ...]:
        rows = self.rows("tables", topology=self.topology.name, namespace=self.topology.namespace)
        return tuple(TableFigures(**row) for row in rows)

    def structure(self, found: ServerFigures) -> ServerFigures:
        oids = [t.oid for t in found.tables]
        keys = self.rows("foreign_keys", tables=oids)
        widths = self.rows("widths", namespace=self.topology.namespace)
        readable = self.rows("readable", tables=oids)[0]
        notices = []
        if not readable["journal"]:
            notices.append(
                f'server "{self.server}": the role may not read parlant_shard.step, so the age of '
                "an index is not known; GRANT SELECT ON parlant_shard.step"
            )
        if not readable["contents"]:
            notices.append(
                f'server "{self.server}": the role may not read every table, and so not the widths '
                "of its columns: bloat is not estimated there; grant pg_read_all_data"
            )
        return replace(
            found,
            foreign_keys=tuple(
                ForeignKeyFigures(**{**k, "columns": tuple(k["columns"])}) for k in keys
            ),
            widths={(w["relation"], w["attribute"]): (w["width"], w["nulls"]) for w in widths},
            made={m["name"]: m["at"] for m in self.rows("made")} if readable["journal"] else {},
            notices=(*found.notices, *notices),
        )

    def measured(self, found: ServerFigures, choose: Choose) -> ServerFigures:
        """Count the pages of some indexes with pgstattuple, where it is there and we may."""
        schema = self._extension("pgstattuple")
        densities: dict[int, float] = {}
        for index in choose(found) if schema is not None else ():
            assert schema is not None
            call = SQL("SELECT avg_leaf_density AS density FROM {}({}::regclass)").format(
                Identifier(schema, "pgstatindex"), index.oid
            )
            try:
                density = float(self.rows(call)[0]["density"])
            except psycopg.Error as error:
                if self.connection.closed:
                    raise
                if error.sqlstate == "42501":
                    break  # the estimate stands
                continue
            if not isnan(density):  # it has no leaf page
                densities[index.oid] = density
        return replace(found, densities=densities)

    def _extension(self, name: str) -> str | None:
        return next((str(x["schema"]) for x in self.rows("extensions") if x["name"] == name), None)

    # --- statements -------------------------------------------------------------------------------

    def statements(self, found: ServerFigures) -> ServerFigures:
        schema = self._extension("pg_stat_statements")
        if schema is None:
            # Its settings are there when it is loaded.
            loaded = self.rows("loaded")[0]["loaded"]
            first = "" if loaded else "add it to shared_preload_libraries and restart, then "
            return _without(
                found, f"has no pg_stat_statements: {first}CREATE EXTENSION pg_stat_statements"
            )
        names = {r["name"] for r in self.rows("statement_columns", schema=schema)}
        # shared_blk_read_time since 17.
        read_ms = next(
            (c for c in ("shared_blk_read_time", "blk_read_time") if c in names), "total_exec_time"
        )
        view = Identifier(schema, "pg_stat_statements")
        query = SQL(
            "SELECT s.query AS text, s.calls, s.rows, s.total_exec_time AS total_ms, "
            "s.shared_blks_hit AS hit, s.shared_blks_read AS read, s.{} AS read_ms FROM {} s "
            "JOIN pg_catalog.pg_database d ON d.oid = s.dbid AND d.datname = current_database() "
            "WHERE {} ORDER BY s.total_exec_time DESC LIMIT {}"
        ).format(
            Identifier(read_ms),
            view,
            SQL("s.toplevel") if "toplevel" in names else SQL("true"),
            STATEMENTS,
        )
        try:
            rows = self.rows(query)
            since = self.rows(
                SQL("SELECT pg_catalog.timezone('UTC', stats_reset) AS at FROM {}").format(
                    Identifier(schema, "pg_stat_statements_info")
                )
            )[0]["at"]
        except psycopg.Error as error:
            if self.connection.closed:
                raise
            said = (error.diag.message_primary or "it failed").strip()
            todo = {
                "55000": "add it to shared_preload_libraries and restart",
                "42501": f"GRANT USAGE ON SCHEMA {schema} and SELECT ON its views to the role",
            }.get(error.sqlstate or "", "ALTER EXTENSION pg_stat_statements UPDATE")
            return _without(found, f"does not let us read pg_stat_statements ({said}): {todo}")
        hidden = sum(r["text"] == _HIDDEN for r in rows)
        views = self.rows("views", topology=self.topology.name)
        shown = _shown(
            rows,
            {t.name: t.logical for t in found.tables} | {v["name"]: v["name"] for v in views},
        )
        result = replace(found, statements=shown, statements_since=since)
        if hidden:
            result = _noted(
                result,
                f"hides {hidden} statements of other roles: GRANT pg_read_all_stats TO the role",
            )
        return result


def _tuples(row: dict[str, Any]) -> dict[str, Any]:
    return {k: tuple(v) if isinstance(v, list) else v for k, v in row.items()}


def _without(found: ServerFigures, why: str) -> ServerFigures:
    return _noted(found, f"{why}; slow statements are left out")


def _noted(found: ServerFigures, text: str) -> ServerFigures:
    return replace(found, notices=(*found.notices, f'server "{found.name}" {text}'))


def _shown(rows: list[dict[str, Any]], names: Mapping[str, str]) -> tuple[Statement, ...]:
    """The statements that name a table or view of ours, normalised, with what `names` calls it."""
    if not names:
        return ()
    pattern = re.compile(
        r"(?<![\w$])("
        + "|".join(map(re.escape, sorted(names, key=len, reverse=True)))
        + r")(?![\w$])",
        re.IGNORECASE,
    )

    def logical(found: re.Match[str]) -> str:
        quoted = found.string[: found.start()].endswith('"')
        return names.get(found[1] if quoted else found[1].lower()) or names.get(found[1], found[1])

    found: dict[str, Statement] = {}
    for row in rows:
        text = row["text"] or ""
        if not _QUERY.match(text) or not pattern.search(text):
            continue
        try:
            # Where an entry was evicted at the wrong moment PostgreSQL keeps the literals.
            text = postgast.normalize(text)
        except postgast.PgQueryError:
            continue
        text = " ".join(pattern.sub(logical, text).split())
        one = Statement(
            text=text,
            calls=row["calls"],
            rows=row["rows"],
            total_ms=row["total_ms"],
            hit=row["hit"],
            read=row["read"],
            read_ms=row["read_ms"],
        )
        found[text] = merged(found[text], one) if text in found else one
    return tuple(found.values())


def _replica(
    topology: Topology, server: str, number: int, dsn: str, indexes: frozenset[str]
) -> Replica:
    name = f"{server}, replica {number}"
    try:
        connection = db.connect(dsn, server=name, application="parlant-shard observe")
    except (CannotConnect, ShardError) as error:
        return Replica(number=number, error=error.message)
    try:
        reader = _Reader(topology, connection, name)
        row = reader.rows("server")[0]
        usage = {
            r["name"]: (r["scans"], r["last_scan"])
            for r in reader.rows("usage", namespace=topology.namespace)
        }
    except psycopg.Error as error:
        return Replica(
            number=number, error=db.wrap(error, server=name, doing="reading statistics").message
        )
    finally:
        connection.close()
    if indexes and not indexes & usage.keys():
        return Replica(number=number, error="it has none of the indexes: another database?")
    return Replica(number=number, since=_since(row), usage=usage)


def _since(row: dict[str, Any]) -> datetime | None:
    """When the counters of this database began, in UTC."""
    if not row["counting"]:
        moment: datetime = row["now"]
        return moment
    known = (row["reset_at"], row["kept_since"])
    return max((t for t in known if t is not None), default=None)
