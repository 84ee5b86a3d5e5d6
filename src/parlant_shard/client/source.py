"""The shard map that a router goes by: loaded, kept fresh, and refused when it is too old.

One background thread serves sync and async routers alike: a map changes seldom, and reading the
current one must never wait for a server.
"""

from __future__ import annotations

import logging
import select
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Protocol

import psycopg

from parlant_shard import db, mapstore
from parlant_shard.client import failures
from parlant_shard.errors import RoutingError, ShardError
from parlant_shard.pooling import Pooling, pooling_of
from parlant_shard.shardmap import UNKNOWN_FORMAT, ShardMap
from parlant_shard.topology import Topology

log = logging.getLogger("parlant_shard.client")

# Seconds between attempts while the coordinator does not answer: at first, and at most.
_FIRST_PAUSE = 0.2
_LONGEST_PAUSE = 5.0
# Milliseconds that reading the map may take.
_READ_TIMEOUT = 10_000


class MapSource(Protocol):
    """What gives a router its map. All methods may be called from any thread."""

    def start(self) -> None:
        """Load the first map. Blocks; raises ShardError where there is none to be had."""

    def current(self) -> ShardMap:
        """The map to go by, at once. Raises RoutingError (PS631) where it is too old."""

    def refresh(self) -> ShardMap:
        """Load it again, now. Blocks; returns the old one where nobody answers."""

    def close(self) -> None: ...


def check(shard_map: ShardMap, topology: Topology) -> ShardMap:
    """Require that a map can be routed by: it is of this topology, and nothing lacks the key."""
    if shard_map.topology != topology.name:
        raise RoutingError(
            f'the shard map is of topology "{shard_map.topology}", not of "{topology.name}"',
            code="PS644",
            hint="name the topology file that the map was made from",
        )
    unknown = [s for s in shard_map.servers if s not in topology.servers]
    if unknown:
        raise RoutingError(
            f'the shard map names the server "{unknown[0]}", which the topology file does not have',
            code="PS644",
            hint=f"add the server to {topology.file}: the file is older than the map",
        )
    for name, table in sorted(shard_map.tables.items()):
        if table.kind == "sharded" and table.key_added == table.has(shard_map.key):
            raise RoutingError(
                f'the sharded table "{name}" of the shard map lacks the column "{shard_map.key}"',
                code="PS634",
                hint="write the map again: parlant-shard apply, or export --format json",
            )
    return shard_map


def load(topology: Topology) -> ShardMap | None:
    """Read the stored map once; None where none is stored. Raises ShardError."""
    with _session(topology) as connection:
        return _read(connection, topology)


def not_stored(topology: Topology) -> RoutingError:
    return RoutingError(
        f'the coordinator has no shard map of topology "{topology.name}"',
        code="PS633",
        hint=f"run `parlant-shard apply {topology.file}`: it stores one at its end",
    )


class FixedMap:
    """A map that is given, or read from a JSON file and read again when the file changes."""

    def __init__(
        self, source: ShardMap | str | Path, topology: Topology, *, ttl: float = 30.0
    ) -> None:
        self._topology, self._ttl = topology, ttl
        self._file = None if isinstance(source, ShardMap) else Path(source)
        self._map = source if isinstance(source, ShardMap) else None
        self._stamp: tuple[int, int] | None = None
        self._looked = 0.0
        self._lock = threading.Lock()
        self._failing = False

    def start(self) -> None:
        if self._map is not None:
            check(self._map, self._topology)
        else:
            self._read()

    def current(self) -> ShardMap:
        if self._map is None:
            self.start()
        if self._file is not None and time.monotonic() - self._looked > self._ttl:
            return self.refresh()
        assert self._map is not None
        return self._map

    def refresh(self) -> ShardMap:
        if self._file is not None:
            try:
                self._read()
                self._failing = False
            except RoutingError as error:
                if self._map is None or error.code == UNKNOWN_FORMAT:
                    raise
                if not self._failing:
                    log.warning("the old shard map stays in use: %s", error)
                self._failing = True
        assert self._map is not None
        return self._map

    def _read(self) -> None:
        assert self._file is not None
        with self._lock:
            self._looked = time.monotonic()
            try:
                about = self._file.stat()
                stamp: tuple[int, int] | None = (about.st_mtime_ns, about.st_size)
            except OSError:
                stamp = None  # reading it says what is wrong
            if stamp is None or stamp != self._stamp:
                self._map = check(ShardMap.load(self._file), self._topology)
                self._stamp = stamp

    def close(self) -> None:
        pass


class StoredMap:
    """The map of the coordinator: refreshed by NOTIFY, and every `ttl` seconds in any case.

    While the coordinator does not answer, the last map is served, for `map_max_stale` at most.
    """

    def __init__(self, topology: Topology, *, ttl: float = 30.0) -> None:
        self._topology, self._ttl = topology, ttl
        self._max_stale = topology.map_max_stale.timedelta.total_seconds()
        self._map: ShardMap | None = None
        self._confirmed = 0.0  # when the coordinator last said that this is the map
        self._lock = threading.Lock()
        self._reading = threading.Lock()
        self._reads = 0
        self._failing = False
        self._unread: ShardError | None = None  # the stored map has a format that is not known here
        self._thread: threading.Thread | None = None
        self._closed = False
        self._wake: socket.socket | None = None
        self._woken: socket.socket | None = None

    def start(self) -> None:
        with self._lock:
            if self._closed or self._thread is not None:
                return
            if self._map is None:
                found = load(self._topology)
                if found is None:
                    raise not_stored(self._topology)
                self._accept(found)
            self._wake, self._woken = socket.socketpair()
            self._thread = threading.Thread(
                target=self._keep_fresh, name="parlant-shard map", daemon=True
            )
            self._thread.start()

    def current(self) -> ShardMap:
        found = self._map
        if found is None:
            self.start()
            found = self._map
            assert found is not None
        unread = self._unread
        if unread is not None:
            raise RoutingError(unread.message, code=unread.code, hint=unread.hint)
        age = time.monotonic() - self._confirmed
        if age > self._max_stale:
            raise failures.too_old(self._topology.name, self._topology.coordinator, age=age)
        return found

    def refresh(self) -> ShardMap:
        seen = self._reads
        with self._reading:
            # Whoever waited here for somebody else's read that began later has its result.
            if self._reads <= seen + 1:
                try:
                    self._take(load(self._topology))
                except ShardError as error:
                    self._failed(error)
                except psycopg.Error as error:
                    self._failed(error)
        return self.current()

    def close(self) -> None:
        with self._lock:
            self._closed = True
            thread, self._thread = self._thread, None
        if thread is None or self._wake is None or self._woken is None:
            return
        with suppress(OSError):
            self._wake.send(b"x")
        thread.join(timeout=db.CONNECT_TIMEOUT + 5)
        self._wake.close()
        self._woken.close()

    # --- the thread ------------------------------------------------------------------------------

    def _keep_fresh(self) -> None:
        pause = _FIRST_PAUSE
        listens: bool | None = None
        while not self._closed:
            try:
                if listens is None:
                    listens = self._may_listen()
                if listens:
                    for _ in self._listened():
                        pause = _FIRST_PAUSE
                else:
                    with self._reading:
                        self._take(load(self._topology))
                    pause = _FIRST_PAUSE
                    self._idle(self._ttl)
            except (ShardError, psycopg.Error, OSError) as error:
                if self._closed:
                    return
                self._failed(error)
                self._idle(min(pause, self._ttl))
                pause = min(_LONGEST_PAUSE, pause * 2)

    def _may_listen(self) -> bool:
        """LISTEN is state of a session: behind a pooler in transaction mode it would be others'."""
        server = self._topology.servers[self._topology.coordinator]
        if server.embedded is not None or server.admin_dsn is not None:
            return True
        dsn = db.conninfo_of(server)
        return pooling_of(dsn, server=self._topology.coordinator) is not Pooling.TRANSACTION

    def _listened(self) -> Iterator[None]:
        """Read the map when a notification comes and after each TTL; ends when we are closed."""
        assert self._woken is not None
        with _session(self._topology) as connection:
            connection.execute("LISTEN parlant_shard")
            while not self._closed:
                # After LISTEN, and again after each wait: a change in between cannot be missed.
                with self._reading:  # reads never overlap: the last one is the newest
                    self._take(_read(connection, self._topology))
                yield
                deadline = time.monotonic() + self._ttl
                while not self._closed and (left := deadline - time.monotonic()) > 0:
                    select.select([connection.fileno(), self._woken.fileno()], [], [], left)
                    heard = list(connection.notifies(timeout=0))
                    if any(n.payload == self._topology.name for n in heard):
                        break

    def _idle(self, seconds: float) -> None:
        if not self._closed and self._woken is not None:
            with suppress(OSError, ValueError):
                select.select([self._woken], [], [], seconds)

    # --- the value -------------------------------------------------------------------------------

    def _take(self, found: ShardMap | None) -> None:
        if found is None:
            raise not_stored(self._topology)
        self._accept(found)

    def _accept(self, found: ShardMap) -> None:
        if found != self._map:
            self._map = check(found, self._topology)
        self._confirmed = time.monotonic()
        self._unread = None
        self._reads += 1
        if self._failing:
            self._failing = False
            log.warning('the shard map of topology "%s" is fresh again', self._topology.name)

    def _failed(self, error: Exception) -> None:
        if isinstance(error, ShardError) and error.code == UNKNOWN_FORMAT:
            # By the map of before rows could be shown that its successor no longer shows.
            self._unread = error
        if not self._failing:
            self._failing = True
            log.warning(
                'the shard map of topology "%s" cannot be refreshed and is served as it was: %s',
                self._topology.name,
                db.redact(str(error)),
            )


@contextmanager
def _session(topology: Topology) -> Iterator[db.Connection]:
    """A connection to the coordinator on which nothing is set: its way may lead over a pooler."""
    server = topology.coordinator
    connection = db.bare(
        db.conninfo(topology, server), server=server, application="parlant-shard router"
    )
    try:
        yield connection
    except psycopg.Error as error:
        raise db.wrap(error, server=server, doing="reading the shard map") from error
    finally:
        connection.close()


def _read(connection: db.Connection, topology: Topology) -> ShardMap | None:
    with connection.transaction():
        connection.execute(
            "SELECT pg_catalog.set_config('statement_timeout', %s, true)", [str(_READ_TIMEOUT)]
        )
        return mapstore.load(connection, topology.name)
