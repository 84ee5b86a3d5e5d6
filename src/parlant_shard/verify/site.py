"""One server during a run: its snapshot, and statements of bounded time in it.

A long transaction would keep a lock on every table that it has read, and an ALTER TABLE or a DETACH
would wait for it. Each statement therefore runs in a savepoint that is rolled back: that gives the
lock back at once, and the snapshot stays.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import psycopg
from psycopg.sql import SQL, Composable, Composed, Literal

from parlant_shard import db, preflight
from parlant_shard.catalog import Catalog, Facts
from parlant_shard.errors import PrivilegeError, ShardError
from parlant_shard.introspect import facts, introspect
from parlant_shard.sqlfiles import queries
from parlant_shard.topology import Topology

Row = dict[str, Any]

# Seconds. A batch that takes longer is halved; a whole statement (counts of a shard) has more.
BATCH_TIMEOUT = 60
WHOLE_TIMEOUT = 600
LOCK_TIMEOUT = 1
_LOCK_ATTEMPTS = 5

# Pages of 8 kB in a batch: the first, and the limits. One that is done in a second grows.
_FIRST, _LEAST, _MOST = 1024, 16, 65536
_QUICK, _SLOW = 1.0, 8.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Heap:
    """A table's pages, the file that holds them, and an estimate of its rows."""

    pages: int
    filenode: int
    rows: int


class Stopped(Exception):
    """The run was given up: no statement begins any more."""


class Site:
    """A server of the topology with an open snapshot."""

    def __init__(self, topology: Topology, server: str, stop: threading.Event) -> None:
        self.topology, self.server, self._stop = topology, server, stop
        self.row_security = "off"
        self._heaps: dict[str, Heap] = {}
        self.second: set[db.Connection] = set()  # sessions of second looks
        preflight.refuse_poolers(topology, server)
        self.connection = _connect(topology, server)
        try:
            self.facts: Facts = facts(self.connection, server, topology.namespace)
            self.connection.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
            # Other servers may be slower; this one must not lose its snapshot meanwhile.
            self._settings(BATCH_TIMEOUT, idle=6 * 3600)
            row = self.rows(SQL(queries("verify")["snapshot"]))[0]
            self.taken_at: str = row["taken_at"]
            self.xmin: int = row["xmin"]
            self.xmax: int = row["xmax"]
            with self.connection.transaction(force_rollback=True):
                # Deparsing a view locks the tables below it.
                self.catalog: Catalog = introspect(
                    self.connection,
                    namespace=topology.namespace,
                    topology=topology.name,
                    epochs=topology.epochs,
                    server=server,
                )
        except psycopg.Error as error:
            self.close()
            raise db.wrap(error, server=server, doing="reading its catalogue") from error
        except BaseException:
            self.close()
            raise

    def _settings(self, seconds: int, *, idle: int) -> None:
        for name, value in (
            ("statement_timeout", seconds),
            ("lock_timeout", LOCK_TIMEOUT),
            ("idle_in_transaction_session_timeout", idle),
        ):
            self.connection.execute("SELECT set_config(%s, %s, true)", [name, f"{value}s"])
        self.connection.execute("SET LOCAL row_security = off")
        # Else the planner would believe the very CHECKs that are to be checked.
        self.connection.execute("SET LOCAL constraint_exclusion = off")

    def close(self) -> None:
        self.connection.close()

    def release(self) -> None:
        """Give up the snapshot: nothing waits for it any more."""
        if not self.connection.closed:
            self.connection.execute("ROLLBACK")

    def give_up(self) -> None:
        """Begin no statement any more, and cancel those that run. For all servers of the run."""
        self._stop.set()
        for connection in (self.connection, *self.second):
            with suppress(psycopg.Error):
                connection.cancel()

    def rows(
        self,
        query: Composable,
        params: dict[str, Any] | None = None,
        *,
        before: Composable | None = None,
    ) -> list[Row]:
        """Run one statement in the snapshot, after what sets it up, and let go of its locks."""
        return _in_savepoint(self.connection, self.server, self._stop, query, params, before)

    def named(self, name: str, **params: Any) -> list[Row]:
        """Run a query of sql/verify.sql."""
        given = {"namespace": self.topology.namespace, **params}
        return self.rows(SQL(queries("verify")[name]), given)

    def require_all_rows(self, tables: list[str]) -> None:
        """Raise PrivilegeError (PS702) unless our role sees every row of these tables.

        With row_security = off PostgreSQL refuses instead of hiding rows, but it refuses also
        where a policy lets our role see everything. It is switched on only where that is so.
        """
        found = self.named("hidden", tables=tables)
        unreadable = [r["name"] for r in found if not r["readable"]]
        guarded = [r["name"] for r in found if r["guarded"] and not r["open"]]
        user = self.facts.user
        for names, why, hint in (
            (unreadable, "may not read", f'grant SELECT on the tables of all shards to "{user}"'),
            (
                guarded,
                "does not see every row of",
                "verify as the role that applied the topology, or as one with BYPASSRLS",
            ),
        ):
            if names:
                more = f" and {len(names) - 1} more tables" if len(names) > 1 else ""
                raise PrivilegeError(
                    f'role "{user}" {why} "{names[0]}"{more} on server "{self.server}"; what it '
                    "does not see cannot be checked",
                    code="PS702",
                    hint=hint,
                )
        if found:
            self.row_security = "on"
            self.connection.execute("SET LOCAL row_security = on")

    def lost(self) -> psycopg.Error | None:
        """The error where the session, and with it the snapshot, is gone."""
        try:
            self.connection.execute("SELECT")
        except psycopg.Error as error:
            return error if self.connection.closed else None
        return None

    # --- reading a table -------------------------------------------------------------------------

    def rewritten(self, tables: Iterable[str]) -> list[str]:
        """Which of some tables, or of their partitions, got another file since the snapshot.

        An ALTER TABLE that rewrites a table, or a TRUNCATE, leaves nothing that the snapshot shows.
        """
        return [r["name"] for r in self.named("rewritten", tables=sorted(tables))]

    def require_as_it_was(self, tables: Iterable[str]) -> None:
        """Raise ShardError (PS703) where a table that was read got another file meanwhile."""
        for table in self.rewritten(tables):
            raise ShardError(
                f'table "{table}" of server "{self.server}" was rewritten or truncated since the '
                "run began",
                code="PS703",
                hint="run `parlant-shard verify` again",
            )

    @contextmanager
    def unless_dropped(self, table: str) -> Iterator[None]:
        """Pass over that a statement names a table that is gone, where it is this one."""
        try:
            yield
        except psycopg.errors.UndefinedTable:
            if not self.is_gone(table):
                raise

    def is_gone(self, table: str) -> bool:
        """Whether a table was dropped since the snapshot: names are looked up as they are now."""
        return bool(self.named("gone", table=table)[0]["gone"])

    def heap(self, table: str) -> Heap:
        """Raises ShardError (PS703) where the table was dropped since the snapshot.

        Asked for once: what came after the snapshot holds nothing that it shows.
        """
        if table in self._heaps:
            return self._heaps[table]
        found = self.named("heap", table=table)
        if not found or found[0]["pages"] is None:
            raise ShardError(
                f'table "{table}" of server "{self.server}" is gone since the run began',
                code="PS703",
                hint="run `parlant-shard verify` again",
            )
        return self._heaps.setdefault(table, Heap(**found[0]))

    def sweep(
        self,
        heap: Heap,
        work: Callable[[Composable], None],
        *,
        since: int = 0,
        reached: Callable[[int], None] = lambda _: None,
        whole: bool = False,
    ) -> None:
        """Call `work` with one condition on `r.ctid` after the other, until all pages are read.

        `work` runs one statement; where that takes too long it is called again with fewer pages.
        `reached` hears the page before which everything was read. Pages that came after the
        snapshot hold nothing that it shows; the last condition has no upper bound all the same.
        With `whole` all pages are tried at once first: an index finds what `work` asks for.
        """
        if whole and not since:
            try:
                return work(SQL("true"))
            except psycopg.errors.QueryCanceled:
                if self._stop.is_set():
                    raise
        page, size = since, _FIRST
        while True:
            upper = page + size if page + size < heap.pages else None
            began = time.monotonic()
            try:
                work(_pages(page, upper))
            except psycopg.errors.QueryCanceled:
                if self._stop.is_set() or size <= _LEAST:
                    raise
                size = max(_LEAST, size // 8)
                continue
            took = time.monotonic() - began
            if upper is None:
                return None
            page = upper
            reached(page)
            if took < _QUICK:
                size = min(_MOST, size * 2)
            elif took > _SLOW:
                size = max(_LEAST, size // 2)


class Fresh:
    """A second look at a server, after the snapshot: each statement sees what is committed now.

    With `trusting` the planner believes CHECKs as it does for the application.
    """

    def __init__(self, site: Site, timeout: int = BATCH_TIMEOUT, *, trusting: bool = False) -> None:
        self._site = site
        self.connection = _connect(site.topology, site.server)
        settings = {
            "statement_timeout": f"{timeout}s",
            "lock_timeout": f"{LOCK_TIMEOUT}s",
            "row_security": site.row_security,
            "default_transaction_read_only": "on",
        }
        if not trusting:
            settings["constraint_exclusion"] = "off"
        try:
            for name, value in settings.items():
                self.connection.execute("SELECT set_config(%s, %s, false)", [name, value])
        except BaseException:
            self.connection.close()
            raise
        site.second.add(self.connection)

    def rows(self, query: Composable, *, before: Composable | None = None) -> list[Row]:
        site = self._site
        return _in_savepoint(self.connection, site.server, site._stop, query, None, before)

    def close(self) -> None:
        self._site.second.discard(self.connection)
        self.connection.close()


@contextmanager
def fresh(site: Site, timeout: int = BATCH_TIMEOUT, *, trusting: bool = False) -> Iterator[Fresh]:
    """Open a second session on a server, and close it at the end."""
    found = Fresh(site, timeout, trusting=trusting)
    try:
        yield found
    finally:
        found.close()


class Readers:
    """Second sessions that several checks share, opened when one is needed. Safe for threads."""

    def __init__(self, sites: Mapping[str, Site], trusting: str) -> None:
        self._sites, self._trusting = sites, trusting
        self._open: dict[str, Fresh] = {}
        self._lock = threading.Lock()

    def of(self, server: str) -> Fresh:
        with self._lock:
            found = self._open.get(server)
            if found is None or found.connection.closed:
                found = Fresh(self._sites[server], WHOLE_TIMEOUT, trusting=server == self._trusting)
                self._open[server] = found
            return found

    def close(self) -> None:
        for reader in self._open.values():
            reader.close()


def _connect(topology: Topology, server: str) -> db.Connection:
    return db.connect(
        db.conninfo(topology, server), server=server, application="parlant-shard verify"
    )


def failed_at(error: Exception) -> str | None:
    """The server whose statement failed, where it was one of ours."""
    return getattr(error, "at_server", None)


def _in_savepoint(
    connection: db.Connection,
    server: str,
    stop: threading.Event,
    query: Composable,
    params: dict[str, Any] | None,
    before: Composable | None,
) -> list[Row]:
    for attempt in range(1, _LOCK_ATTEMPTS + 1):
        if stop.is_set():
            raise Stopped
        try:
            with connection.transaction(force_rollback=True):
                if before is not None:  # the rollback takes back its settings too
                    connection.execute(_composed(before))
                return connection.execute(_composed(query), params, binary=True).fetchall()
        except psycopg.Error as error:
            vars(error)["at_server"] = server
            if not isinstance(error, psycopg.errors.LockNotAvailable) or attempt == _LOCK_ATTEMPTS:
                raise
            time.sleep(0.2 * attempt)
    raise AssertionError("unreachable")


def _pages(lower: int, upper: int | None) -> Composable:
    condition = SQL("r.ctid >= {}::pg_catalog.tid").format(Literal(f"({lower},0)"))
    if upper is None:
        return condition
    return condition + SQL(" AND r.ctid < {}::pg_catalog.tid").format(Literal(f"({upper},0)"))


def _composed(query: Composable) -> SQL | Composed:
    return query if isinstance(query, SQL | Composed) else Composed([query])
