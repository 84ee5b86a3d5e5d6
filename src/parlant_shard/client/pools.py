"""Pools of connections, one per server, opened when they are first needed.

A pooled connection that died while nobody used it is found before anything is sent: its socket has
something to read. Asking the server would cost every statement a round trip.
"""

from __future__ import annotations

import asyncio
import select
import threading
import time
from typing import Any

import psycopg
from psycopg.abc import AdaptContext
from psycopg.pq import PipelineStatus
from psycopg_pool import (
    AsyncConnectionPool,
    ConnectionPool,
    PoolClosed,
    PoolTimeout,
    TooManyRequests,
)

from parlant_shard.client import failures
from parlant_shard.client.options import Options, conninfo_of
from parlant_shard.topology import Topology

Connection = psycopg.Connection[Any]
AsyncConnection = psycopg.AsyncConnection[Any]

# Seconds after which a caller is told that no connection can be opened, and need not wait longer.
_SOON = 2.0


def is_alive(connection: Connection | AsyncConnection) -> bool:
    """Whether an idle connection can still be used, as far as this side knows. Sends nothing."""
    if connection.closed or is_piped(connection):
        return False
    try:
        for _ in range(3):
            if not _readable(connection.fileno()):
                return True
            # A notice or a TLS record may be there; the end of the connection raises.
            connection.pgconn.consume_input()
    except (psycopg.Error, OSError, ValueError):
        return False
    return False


def is_piped(connection: Connection | AsyncConnection) -> bool:
    """Whether an interrupted statement left the connection in a pipeline, or psycopg thinks so.

    What is sent there is not committed before somebody synchronises, and nobody would.
    """
    return not connection.closed and (
        connection.pgconn.pipeline_status != PipelineStatus.OFF or connection._pipeline is not None
    )


def _readable(descriptor: int) -> bool:
    if hasattr(select, "poll"):
        poller = select.poll()
        poller.register(descriptor, select.POLLIN)
        return bool(poller.poll(0))
    return bool(select.select([descriptor], [], [], 0)[0])  # Windows


class _Attempts:
    """The last failure to open a connection, and when it was."""

    def __init__(self) -> None:
        self.error: Exception | None = None
        self.at = 0.0

    def succeeded(self) -> None:
        self.error = None

    def failed(self, error: Exception) -> None:
        self.error, self.at = error, time.monotonic()

    def since(self, moment: float) -> Exception | None:
        return self.error if self.error is not None and self.at >= moment else None


_OTHER_STRINGS = (
    "standard_conforming_strings is off for this role or database: the server would take a "
    "backslash in a literal for an escape, and read another statement than the one that was "
    "checked; ALTER ROLE ... RESET standard_conforming_strings"
)


def _reads_as_we_do(connection: Any) -> bool:
    """Whether the server reads literals as the parsers of the router do."""
    return bool(connection.pgconn.parameter_status(b"standard_conforming_strings") != b"off")


def _told(base: Any, attempts: _Attempts) -> Any:
    """A connection class that notes why it could not connect: the pool tells nobody."""
    if issubclass(base, psycopg.AsyncConnection):

        class Async(base):  # type: ignore[misc]
            @classmethod
            async def connect(cls, *args: Any, **kwargs: Any) -> Any:
                try:
                    found = await super().connect(*args, **kwargs)
                    if not _reads_as_we_do(found):
                        await found.close()
                        raise psycopg.OperationalError(_OTHER_STRINGS)
                except Exception as error:
                    attempts.failed(error)
                    raise
                attempts.succeeded()
                return found

        return Async

    class Sync(base):  # type: ignore[misc]
        @classmethod
        def connect(cls, *args: Any, **kwargs: Any) -> Any:
            try:
                found = super().connect(*args, **kwargs)
                if not _reads_as_we_do(found):
                    found.close()
                    raise psycopg.OperationalError(_OTHER_STRINGS)
            except Exception as error:
                attempts.failed(error)
                raise
            attempts.succeeded()
            return found

    return Sync


def _settings(
    topology: Topology,
    server: str,
    options: Options,
    kind: Any,
    context: AdaptContext | None = None,
) -> dict[str, Any]:
    return {
        "conninfo": conninfo_of(topology, server, options),
        "connection_class": kind,
        "kwargs": {
            "autocommit": True,
            "prepare_threshold": options.prepare_threshold,
            "context": context,
        },
        "min_size": options.min_size,
        "max_size": options.max_size,
        "timeout": options.timeout,
        "max_lifetime": options.max_lifetime,
        "max_idle": options.max_idle,
        # While somebody waits, attempts go on; whoever comes later begins new ones.
        "reconnect_timeout": options.timeout,
        "name": f"parlant-shard {server}",
        "open": False,
    }


def _waited(
    error: Exception, server: str, options: Options, attempts: _Attempts, began: float
) -> Exception | None:
    """What a wait without a connection means; None: wait on."""
    if isinstance(error, PoolClosed):
        return failures.closed("router")
    cause = attempts.since(began - options.timeout)
    if cause is not None:
        return failures.cannot_connect(cause, server=server)
    if isinstance(error, TooManyRequests) or time.monotonic() - began >= options.timeout:
        return failures.exhausted(server, size=options.max_size, timeout=options.timeout)
    return None


class Pools:
    """The pools of a synchronous router. Thread-safe.

    `context` has the adapters of their connections; without it they are psycopg's global ones.
    """

    def __init__(
        self, topology: Topology, options: Options, *, context: AdaptContext | None = None
    ) -> None:
        self._topology, self._options, self._context = topology, options, context
        self._pools: dict[str, tuple[ConnectionPool[Any], _Attempts]] = {}
        self._lock = threading.Lock()
        self._closed = False

    def acquire(self, server: str) -> Connection:
        """Take a connection that is alive. Raises ShardError (PS636, PS637, PS643)."""
        pool, attempts = self._pool(server)
        began = time.monotonic()
        while True:
            left = max(0.01, self._options.timeout - (time.monotonic() - began))
            try:
                connection: Connection = pool.getconn(timeout=min(left, _SOON))
            except (PoolTimeout, PoolClosed, TooManyRequests) as error:
                told = _waited(error, server, self._options, attempts, began)
                if told is not None:
                    raise told from error
                continue
            if is_alive(connection):
                return connection
            connection.close()
            pool.putconn(connection)

    def release(self, server: str, connection: Connection) -> None:
        """Give it back; the pool rolls back what is open and replaces what is broken."""
        pool, _ = self._pools[server]
        if is_piped(connection):
            connection.close()
        pool.putconn(connection)

    def close(self) -> None:
        with self._lock:
            self._closed = True
            pools = list(self._pools.values())
        for pool, _ in pools:
            pool.close()

    def _pool(self, server: str) -> tuple[ConnectionPool[Any], _Attempts]:
        found = self._pools.get(server)
        if found is not None:
            return found
        with self._lock:
            if self._closed:
                raise failures.closed("router")
            if server not in self._pools:
                attempts = _Attempts()
                kind = _told(psycopg.Connection, attempts)
                pool: ConnectionPool[Any] = ConnectionPool(
                    **_settings(self._topology, server, self._options, kind, self._context)
                )
                pool.open()
                self._pools[server] = (pool, attempts)
            return self._pools[server]


class AsyncPools:
    """The pools of an asynchronous router, all of one event loop."""

    def __init__(self, topology: Topology, options: Options) -> None:
        self._topology, self._options = topology, options
        self._pools: dict[str, tuple[AsyncConnectionPool[Any], _Attempts]] = {}
        self._lock = asyncio.Lock()
        self._closed = False

    async def acquire(self, server: str) -> AsyncConnection:
        """Take a connection that is alive. Raises ShardError (PS636, PS637, PS643)."""
        pool, attempts = await self._pool(server)
        began = time.monotonic()
        while True:
            left = max(0.01, self._options.timeout - (time.monotonic() - began))
            try:
                connection: AsyncConnection = await pool.getconn(timeout=min(left, _SOON))
            except (PoolTimeout, PoolClosed, TooManyRequests) as error:
                told = _waited(error, server, self._options, attempts, began)
                if told is not None:
                    raise told from error
                continue
            if is_alive(connection):
                return connection
            await connection.close()
            await pool.putconn(connection)

    async def release(self, server: str, connection: AsyncConnection) -> None:
        """Give it back; the pool rolls back what is open and replaces what is broken.

        A task may be cancelled again while it cleans up (a second timeout, a scope of anyio): the
        pool would then count the connection as in use for ever.
        """
        pool, _ = self._pools[server]
        if is_piped(connection):
            await connection.close()
        await asyncio.shield(pool.putconn(connection))

    async def close(self) -> None:
        async with self._lock:
            self._closed = True
            pools = list(self._pools.values())
        for pool, _ in pools:
            await pool.close()

    async def _pool(self, server: str) -> tuple[AsyncConnectionPool[Any], _Attempts]:
        found = self._pools.get(server)
        if found is not None:
            return found
        async with self._lock:
            if self._closed:
                raise failures.closed("router")
            if server not in self._pools:
                attempts = _Attempts()
                kind = _told(psycopg.AsyncConnection, attempts)
                pool: AsyncConnectionPool[Any] = AsyncConnectionPool(
                    **_settings(self._topology, server, self._options, kind)
                )
                await pool.open()
                self._pools[server] = (pool, attempts)
            return self._pools[server]
