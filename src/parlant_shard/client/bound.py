"""What synchronous and asynchronous connections have in common: everything that sends nothing."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import psycopg
from psycopg import sql
from psycopg.types.string import TextLoader

from parlant_shard.client import failures
from parlant_shard.client.lookups import LookupCache
from parlant_shard.client.options import Options, RowFactory
from parlant_shard.client.source import FixedMap, MapSource, StoredMap
from parlant_shard.client.steps import Context, Core, failure
from parlant_shard.client.wall import Wall
from parlant_shard.errors import ShardError
from parlant_shard.router.query import Query
from parlant_shard.router.rewrite import rewrite
from parlant_shard.router.route import Params, Route, RouteTarget
from parlant_shard.shardmap import ShardMap
from parlant_shard.topology import Topology


class Bound:
    """A connection that is bound to a context, and its errors."""

    _real: tuple[str, Any] | None  # a server, and psycopg's connection to it

    def __init__(self, core: Core, context: Context, row_factory: RowFactory) -> None:
        self.core, self.context = core, context
        self.row_factory = row_factory
        self.closed = False

    @property
    def workspace(self) -> str | None:
        """The workspace of every statement; None where each says it itself."""
        return self.context.workspace

    def check_open(self) -> None:
        if self.closed:
            raise failures.closed("connection")

    def check_savepoint(self, begun: bool) -> None:
        if not begun or not self.context.pinned:
            raise failures.misused(
                "a savepoint needs a transaction that has begun, and nothing says on which shard",
                "give the transaction a workspace, or run a statement first",
            )

    def is_in_transaction(self, real: Any) -> bool:
        """Whether a transaction goes on, and on that connection to a server."""
        return self.context.transaction and self._real is not None and self._real[1] is real

    def pipeline_home(self) -> tuple[str, str | None]:
        """The server and shard that a pipeline belongs to."""
        context = self.context
        if context.pinned and context.server is not None:
            return context.server, context.shard
        home = context.home(self.core.current())
        if home is None:
            raise failures.misused(
                "a pipeline belongs to one shard, and nothing says which",
                "open it on a connection of a workspace",
            )
        return home

    def failed(
        self,
        error: psycopg.Error,
        target: RouteTarget,
        route: Route,
        *,
        sent: bool = False,
    ) -> Exception:
        """The client's error for one target of a route; `sent`: it is one of several statements."""
        if isinstance(error, ShardError):
            return error
        return failure(error, target, route, self.context, sent=sent)

    def not_read(
        self, error: psycopg.Error, target: RouteTarget, route: Route, *, answered: bool
    ) -> Exception:
        """The client's error for the rows of a statement that was sent."""
        if error.sqlstate is not None or not isinstance(
            error, psycopg.ProgrammingError | psycopg.DataError
        ):
            return self.failed(error, target, route)
        if not answered:
            return failures.unanswered(error, server=target.server)
        stays = route.writes and not self.context.transaction
        return failures.unread(error, server=target.server, shard=target.shard, stays=stays)

    def translated(
        self, error: psycopg.Error, *, shard: str | None = None, sent: bool = False
    ) -> Exception:
        """The client's error for what happened between statements, or in a COPY of a shard.

        `sent` says that statements came before it.
        """
        if isinstance(error, ShardError):
            return error
        return failures.of_statement(
            error,
            server=self._server(),
            shard=self.context.shard or shard,
            transaction=self.context.transaction,
            sent=sent,
        )

    def _server(self) -> str:
        """The server that this connection talks to: its transaction's, or that of the moment."""
        return self.context.server or (self._real[0] if self._real is not None else "")

    def not_committed(self, error: psycopg.Error) -> Exception:
        if isinstance(error, ShardError):
            return error
        return failures.of_commit(error, server=self._server())


class Routing:
    """What both routers have: the map, and routes that are answered without a server."""

    def __init__(
        self,
        topology: Topology,
        shard_map: ShardMap | str | Path | None,
        options: Mapping[str, Any],
    ) -> None:
        self.topology = topology
        self.options = Options(**options)
        self._maps: MapSource = (
            StoredMap(topology, ttl=self.options.map_ttl)
            if shard_map is None
            else FixedMap(shard_map, topology, ttl=self.options.map_ttl)
        )
        self.core = Core(
            self._maps.current, LookupCache(self.options.lookup_cache), topology.isolation.rls
        )
        self.wall = Wall(topology, self.options.actor)
        self._closed = False

    @property
    def shard_map(self) -> ShardMap:
        """The map that is gone by now. Raises RoutingError (PS631) where it is too old."""
        return self._maps.current()

    def route(
        self,
        sql: Query,
        params: Params = None,
        *,
        workspace: str | None = None,
        all_workspaces: bool = False,
    ) -> Route:
        """Say where a statement would go. Sends nothing; an id that decides is not looked up."""
        return rewrite(
            sql,
            shard_map=self._maps.current(),
            workspace=workspace,
            params=params,
            all_workspaces=all_workspaces,
        )


class Described:
    """A client-side cursor without its fetching: what the last result says of itself."""

    _result: Any  # Result or AsyncResult

    @property
    def description(self) -> list[Any] | None:
        found: list[Any] | None = self._result.description
        return found

    @property
    def rowcount(self) -> int:
        return int(self._result.rowcount)

    @property
    def rownumber(self) -> int | None:
        found: int | None = self._result.rownumber
        return found

    @property
    def statusmessage(self) -> str | None:
        found: str | None = self._result.statusmessage
        return found


class ServerDescribed:
    """A server-side cursor without its fetching."""

    def __init__(self, name: str, row_factory: RowFactory, *, scrollable: bool | None) -> None:
        self.name = name
        self.itersize = 100
        self._options = {"row_factory": row_factory, "scrollable": scrollable}
        self._real: Any = None
        self._route: Any = None

    @property
    def description(self) -> Any:
        return None if self._real is None else self._real.description

    @property
    def rowcount(self) -> int:
        return -1 if self._real is None else int(self._real.rowcount)

    @property
    def rownumber(self) -> int | None:
        return None if self._real is None else self._real.rownumber

    def _open(self) -> Any:
        if self._real is None:
            raise failures.misused(
                f'nothing was executed with the server-side cursor "{self.name}"',
                "call `execute` first",
            )
        return self._real


def own_cursor(cursor: Any) -> Any:
    """A cursor for a query of ours: its texts are read as such, whatever the application loads."""
    for kind in ("text", "name"):
        cursor.adapters.register_loader(kind, TextLoader)
    return cursor


def of_probe(error: psycopg.Error, server: str) -> Exception:
    """The client's error for a query of ours."""
    if isinstance(error, ShardError):
        return error
    return failures.of_statement(error, server=server, writes=False)


def of_savepoint(name: str) -> tuple[sql.Composed, sql.Composed, sql.Composed]:
    """How a savepoint begins, how it ends, and how all since is undone."""
    savepoint = sql.Identifier(name)
    return (
        sql.SQL("SAVEPOINT {}").format(savepoint),
        sql.SQL("RELEASE SAVEPOINT {}").format(savepoint),
        sql.SQL("ROLLBACK TO SAVEPOINT {0}; RELEASE SAVEPOINT {0}").format(savepoint),
    )


def needs_transaction(name: str) -> ShardError:
    return failures.misused(
        f'the server-side cursor "{name}" needs a transaction',
        "open it inside `with connection.transaction():`",
    )


def threads_for(topology: Topology) -> int:
    return max(8, 4 * len(topology.servers))
