"""One server during a run: the session with the locks, what is read under them, what is left."""

from __future__ import annotations

import time
from contextlib import ExitStack
from typing import Any

import psycopg
from psycopg.sql import SQL, Identifier

from parlant_shard import blockers, canonical, control, db, journal, preflight, trail
from parlant_shard.apply import end_dead_sessions
from parlant_shard.catalog import Catalog, Retired, Table
from parlant_shard.desired import INTERNAL_VERSION
from parlant_shard.errors import ApplyFailed, SchemaError, ServerError, ShardError
from parlant_shard.executor import Listener
from parlant_shard.introspect import bound, facts, introspect
from parlant_shard.locks import LEFTOVER_WAIT, acquire, heartbeat, take_topology
from parlant_shard.maintain.defaults import Contents, hours_query
from parlant_shard.maintain.model import Found
from parlant_shard.plan import MARK
from parlant_shard.sqlfiles import queries
from parlant_shard.topology import Topology

# Rows of a default partition are counted up to here, unless more are to be moved.
COUNTED = 1_000_000
# The first version of the schema parlant_shard that partitions can be maintained with. What came
# later this module does without: an upgraded package must not stop the cron until the next apply.
_OLDEST = 3
# Seconds. So long a lock on a table is outwaited before nothing is done on its server.
LOCKED_WAIT = 30.0


class Site:
    """A server of the topology. `open` takes the locks; they fall with the session."""

    def __init__(
        self, topology: Topology, server: str, token: str, *, counted: int = COUNTED
    ) -> None:
        self.topology, self.server, self.token = topology, server, token
        self.counted = counted
        self.mine: frozenset[str] = frozenset()
        self.elsewhere: frozenset[str] = frozenset()  # tables that another maintainer works on
        self._stack = ExitStack()
        self._connection: db.Connection | None = None

    @property
    def connection(self) -> db.Connection:
        assert self._connection is not None
        return self._connection

    @property
    def is_open(self) -> bool:
        return self._connection is not None and not self._connection.closed

    def open(self) -> None:
        """Connect; on the coordinator, keep `apply` away.

        Raises Locked (PS501), CannotConnect, and TopologyError (PS160, PS167) where the server can
        be read only.
        """
        preflight.refuse_poolers(self.topology, self.server)
        connection = db.connect(
            db.conninfo(self.topology, self.server),
            server=self.server,
            application=f"parlant-shard maintain-lock {self.token}",
        )
        self._stack.callback(connection.close)
        try:
            self._refuse_read_only(connection)
            if self.server == self.topology.coordinator:
                take_topology(connection, self.topology.name, shared=True)
        except BaseException:
            self.close()
            raise
        self._connection = connection
        self._stack.enter_context(heartbeat(connection))

    def _refuse_read_only(self, connection: db.Connection) -> None:
        try:
            row = connection.execute(queries("maintain")["read_only"]).fetchone()
            if row is not None and row["read_only"]:
                about = facts(connection, self.server, self.topology.namespace)
                preflight.refuse_read_only(self.topology, about)
        except psycopg.Error as error:
            raise db.wrap(error, server=self.server, doing="opening it") from error

    def close(self) -> None:
        self._stack.close()

    def require_locks(self, *, hint: str) -> None:
        """Raise ApplyFailed (PS516) where the session with the locks is gone."""
        try:
            self.connection.execute("SELECT 1")
        except psycopg.Error as error:
            raise ApplyFailed(
                f'the session with the locks of server "{self.server}" was lost; another run may '
                "have taken over",
                code="PS516",
                hint=hint,
            ) from error

    def read(self, listener: Listener, *, only: str | None = None) -> Found:
        """Take the locks on the tables (on `only` one), end what dead runs left, and read."""
        try:
            if not journal.exists(self.connection, self.server):
                raise ShardError(
                    f'topology "{self.topology.name}" has not been applied on server '
                    f'"{self.server}" yet',
                    code="PS520",
                    hint=f"run `parlant-shard apply {self.topology.file}` first",
                )
            self._lock_tables(only)
            end_dead_sessions(self.connection, self.server, listener, wait=LEFTOVER_WAIT)
            return self._patiently(listener)
        except psycopg.Error as error:
            raise db.wrap(
                error,
                server=self.server,
                doing="reading its catalogue",
                connection=self.connection,
                walled=self.topology.isolation.rls,
            ) from error

    def _patiently(self, listener: Listener) -> Found:
        """PostgreSQL deparses no definition of a table that somebody has locked: outlast that."""
        deadline = time.monotonic() + LOCKED_WAIT
        told = False
        while True:
            try:
                return self._read()
            except psycopg.errors.LockNotAvailable as error:
                tables = blockers.locked_tables(self.connection, self.topology.namespace)
                holders = ", ".join(f'"{table}" by {b.who}' for table, b in tables)
                if time.monotonic() > deadline:
                    raise ServerError(
                        f'server "{self.server}": its catalogue could not be read for '
                        f"{LOCKED_WAIT:.0f} s, because tables are locked (ACCESS EXCLUSIVE): "
                        f"{holders or 'who has locked them is not known'}",
                        code="PS404",
                        hint=(tables[0][1].hint if tables else "the locks may be gone by now")
                        + "; the next run tries again",
                    ) from error
                if not told and holders:
                    listener(
                        "note",
                        None,
                        f'server "{self.server}": waiting for locked tables: {holders}',
                    )
                    told = True
                time.sleep(0.2)

    def _rows(self, name: str, **params: Any) -> list[dict[str, Any]]:
        return self._execute(name, **params).fetchall()

    def _execute(self, name: str, **params: Any) -> psycopg.Cursor[dict[str, Any]]:
        given = {"topology": self.topology.name, "namespace": self.topology.namespace, **params}
        return self.connection.execute(queries("maintain")[name], given)

    def _lock_tables(self, only: str | None) -> None:
        """One lock for each partitioned table, and one for all the others of the server."""
        keys: dict[str, set[str]] = {}
        for row in self._rows("tables"):
            what = row["name"] if row["partitioned"] else ""
            if only is not None and what != only:
                continue
            key = f"parlant-shard maintain {self.topology.namespace}.{what}"
            keys.setdefault(key, set()).add(row["name"])
        rows = self._rows("lock", keys=list(keys))
        held = {r["name"] for r in rows if r["held"]}
        for key in sorted(keys.keys() - held):
            # Of a dead run, it is free in a moment; of a living one, so are all the others.
            if acquire(self.connection, key) is not None:
                break
            held.add(key)
        self.mine = frozenset(name for key in held for name in keys[key])
        self.elsewhere = frozenset(name for key in keys.keys() - held for name in keys[key])

    def _read(self) -> Found:
        namespace = self.topology.namespace
        about = facts(self.connection, self.server, namespace)
        if not self.mine and self.elsewhere:
            # Another maintainer is changing all of it under our eyes.
            return Found(server=self.server, facts=about, catalog=Catalog(), tables=self.mine)
        catalog = introspect(
            self.connection,
            namespace=namespace,
            topology=self.topology.name,
            epochs=self.topology.epochs,
            server=self.server,
        )
        if not _OLDEST <= catalog.internal_version <= INTERNAL_VERSION:
            raise SchemaError(
                f'server "{self.server}" has version {catalog.internal_version} of the schema '
                f"parlant_shard; this release knows version {INTERNAL_VERSION}",
                code="PS220",
                hint=f"run `parlant-shard apply {self.topology.file}`"
                if catalog.internal_version < _OLDEST
                else "upgrade parlant-shard on this machine",
            )
        defaults = {}
        for table in catalog.tables.values():
            if table.parent in self.mine and table.bound and table.bound.default:
                defaults[table.name] = self._contents(catalog.tables[table.parent], table)
        return Found(
            server=self.server,
            facts=about,
            catalog=catalog,
            tables=self.mine,
            analyzed={r["name"]: r["at"] for r in self._rows("analyzed")},
            analyzed_foreign={r["step_id"]: r["at"] for r in self._rows("analyzed_foreign")},
            defaults=defaults,
            copies=self._copies(),
        )

    def _contents(self, parent: Table, default: Table) -> Contents:
        rows = self.count(default.name)
        if rows > self.counted:
            return Contents(rows=self.counted)
        column = parent.column(parent.partition_by or "")
        if column is None or control.fault(column.type, parent.epoch, whole_days=True):
            return Contents(rows=rows)  # cut by somebody else
        query = hours_query(Identifier(self.topology.namespace, default.name), parent)
        hours = {r["hour"]: r["rows"] for r in self.connection.execute(query)}
        # Counted once more: rows came since, and what stays is what remains of the sum.
        return Contents(rows=sum(hours.values()), hours=hours)

    def count(self, table: str) -> int:
        """Count the rows of a default partition, up to one more than the limit."""
        row = self.connection.execute(
            SQL("SELECT count(*) AS rows FROM (SELECT FROM {} LIMIT {}) AS counted").format(
                Identifier(self.topology.namespace, table), self.counted + 1
            )
        ).fetchone()
        return int(row["rows"]) if row else 0

    def _copies(self) -> dict[str, tuple[str, ...]]:
        """Copies of rows of default partitions, by table. A living run has the table's lock."""
        found: dict[str, tuple[str, ...]] = {}
        namespace = canonical.quote(self.topology.namespace)
        tables = {f"{namespace}.{canonical.quote(name)}": name for name in self.mine}
        for row in self._rows("copies", mark=MARK):
            if row["table"] in tables:
                table = tables[row["table"]]
                found[table] = (*found.get(table, ()), row["name"])
        return found

    def transactions(self) -> dict[tuple[int | None, str], blockers.Blocker]:
        """The transactions of this database that are open now."""
        return self._named(self._rows("transactions"))

    def users(self, table: str) -> dict[tuple[int | None, str], blockers.Blocker]:
        """The transactions that use a table now."""
        name = f"{canonical.quote(self.topology.namespace)}.{canonical.quote(table)}"
        return self._named(self._rows("users", table=name))

    def _named(self, rows: list[dict[str, Any]]) -> dict[tuple[int | None, str], blockers.Blocker]:
        found = blockers.blockers(self.connection, rows)
        return {(b.pid, b.transaction): b for b in found}

    def interrupt_dead(self, *, alone: bool, listener: Listener) -> None:
        rows = self.connection.execute(
            queries("maintain")["interrupt_dead"],
            {"topology": self.topology.name, "alone": alone},
        ).fetchall()
        dead = [(r["run_id"], r["command"]) for r in rows]
        trail.record_dead(
            self.connection, self.topology.name, dead, lambda text: listener("note", None, text)
        )

    def partitions(self) -> list[dict[str, Any]]:
        """Every partition with its bound, as it is now; a row without one for a table with none."""
        epochs = self.topology.epochs
        return [
            {**r, "bound": bound(r["bound"], epochs.get(r["parent"])) if r["partition"] else None}
            for r in self._rows("bounds")
        ]

    def sample(self) -> None:
        """Store what the tables that are ours measure by now; a forecast is made of it."""
        self._execute("sample", key=self.topology.key, tables=sorted(self.mine))
        self._execute("thin")

    def retired(self) -> list[Retired]:
        rows = self.connection.execute(
            queries("introspect")["retired"], {"topology": self.topology.name}
        ).fetchall()
        return [Retired(**r) for r in rows]
