"""Connections on which transactions look up ids: one per server, and of no pool.

A transaction holds a connection of a pool. If it waited there for a second one, transactions that
hold all connections of the pool would wait for each other. It waits here instead, and whoever holds
a connection of these holds it for one query and waits for nobody: no circle can close.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Mapping
from typing import Any, Generic, TypeVar

import psycopg

from parlant_shard.client import failures
from parlant_shard.client.bound import own_cursor
from parlant_shard.client.options import Options, conninfo_of
from parlant_shard.client.pools import AsyncConnection, Connection, is_alive
from parlant_shard.errors import ShardError
from parlant_shard.topology import Topology

LockT = TypeVar("LockT")


class _Line(Generic[LockT]):
    """The connection to one server, opened when it is first needed, and who may use it."""

    def __init__(self, lock: LockT) -> None:
        self.lock = lock
        self.real: Any = None
        self.opened = 0.0

    def usable(self, options: Options) -> bool:
        young = time.monotonic() - self.opened < options.max_lifetime
        return self.real is not None and young and is_alive(self.real)


def _arguments(topology: Topology, server: str, options: Options) -> dict[str, Any]:
    return {
        "conninfo": conninfo_of(topology, server, options),
        "autocommit": True,
        "prepare_threshold": None,  # a pooler in transaction mode may be in between
    }


class Aside:
    """The connections of a synchronous router. Thread-safe."""

    def __init__(self, topology: Topology, options: Options) -> None:
        self._topology, self._options = topology, options
        self._lines = {server: _Line(threading.Lock()) for server in topology.servers}
        self._closed = False

    def ask(self, on: Mapping[str, Any], params: Mapping[str, Any]) -> list[Any]:
        """Run a query per server, one after the other. Raises ShardError (PS655 if one is busy)."""
        return [row for server, query in on.items() for row in self._asked(server, query, params)]

    def _asked(self, server: str, query: Any, params: Mapping[str, Any]) -> list[Any]:
        line = self._lines[server]
        if not line.lock.acquire(timeout=self._options.timeout):
            raise failures.looking_up(server, timeout=self._options.timeout)
        try:
            cursor = own_cursor(self._opened(server, line).cursor())
            return cursor.execute(query, params).fetchall()  # type: ignore[no-any-return]
        except BaseException as error:
            if line.real is not None:
                line.real.close()
                line.real = None
            if isinstance(error, psycopg.Error) and not isinstance(error, ShardError):
                raise failures.of_statement(error, server=server, writes=False) from error
            raise
        finally:
            line.lock.release()

    def _opened(self, server: str, line: _Line[threading.Lock]) -> Connection:
        if not line.usable(self._options):
            if line.real is not None:
                line.real.close()
            line.real = None
            try:
                line.real = psycopg.connect(**_arguments(self._topology, server, self._options))
            except psycopg.Error as error:
                raise failures.cannot_connect(error, server=server) from error
            line.opened = time.monotonic()
        if self._closed:
            raise failures.closed("router")
        found: Connection = line.real
        return found

    def close(self) -> None:
        self._closed = True
        for line in self._lines.values():
            if line.real is not None:
                line.real.close()


class AsyncAside:
    """The connections of an asynchronous router, all of one event loop."""

    def __init__(self, topology: Topology, options: Options) -> None:
        self._topology, self._options = topology, options
        self._lines = {server: _Line(asyncio.Lock()) for server in topology.servers}
        self._closed = False

    async def ask(self, on: Mapping[str, Any], params: Mapping[str, Any]) -> list[Any]:
        """Run a query per server, one after the other. Raises ShardError (PS655 if one is busy)."""
        return [r for server, query in on.items() for r in await self._asked(server, query, params)]

    async def _asked(self, server: str, query: Any, params: Mapping[str, Any]) -> list[Any]:
        line = self._lines[server]
        try:
            async with asyncio.timeout(self._options.timeout):
                await line.lock.acquire()
        except TimeoutError:
            raise failures.looking_up(server, timeout=self._options.timeout) from None
        try:
            cursor = own_cursor((await self._opened(server, line)).cursor())
            await cursor.execute(query, params)
            return await cursor.fetchall()  # type: ignore[no-any-return]
        except BaseException as error:
            if line.real is not None:
                real, line.real = line.real, None
                await real.close()
            if isinstance(error, psycopg.Error) and not isinstance(error, ShardError):
                raise failures.of_statement(error, server=server, writes=False) from error
            raise
        finally:
            line.lock.release()

    async def _opened(self, server: str, line: _Line[asyncio.Lock]) -> AsyncConnection:
        if not line.usable(self._options):
            if line.real is not None:
                await line.real.close()
            line.real = None
            try:
                line.real = await psycopg.AsyncConnection.connect(
                    **_arguments(self._topology, server, self._options)
                )
            except psycopg.Error as error:
                raise failures.cannot_connect(error, server=server) from error
            line.opened = time.monotonic()
        if self._closed:
            raise failures.closed("router")
        found: AsyncConnection = line.real
        return found

    async def close(self) -> None:
        self._closed = True
        for line in self._lines.values():
            if line.real is not None:
                await line.real.close()
