"""The asynchronous router: the twin of `sync`, over the same steps."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Generator, Iterable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

import psycopg
from psycopg import AsyncRawCursor, AsyncRawServerCursor

from parlant_shard.client import aiocopying, batch, failures
from parlant_shard.client.aside import AsyncAside
from parlant_shard.client.bound import (
    Bound,
    Described,
    Routing,
    ServerDescribed,
    needs_transaction,
    of_probe,
    of_savepoint,
    own_cursor,
)
from parlant_shard.client.options import RowFactory
from parlant_shard.client.pipelines import AsyncPipeline
from parlant_shard.client.pools import AsyncConnection as Real
from parlant_shard.client.pools import AsyncPools, is_alive
from parlant_shard.client.prepared import Doubted, is_obsolete
from parlant_shard.client.result import NOT_YET, NOTHING, Answer, AsyncResult
from parlant_shard.client.steps import (
    UNSURE,
    Ask,
    Call,
    Command,
    Context,
    Pause,
    Refresh,
    Run,
    check_count,
    executed,
    placed,
    routed,
)
from parlant_shard.router.query import Query
from parlant_shard.router.route import Params, Route, RouteTarget
from parlant_shard.shardmap import ShardMap
from parlant_shard.topology import Topology

T = TypeVar("T")


class AsyncRouter(Routing):
    """Sends every statement to its shard. Of one event loop; any number of tasks may share it.

    Open it with `async with`, or `await router.open()`: the map is loaded then.

    `shard_map` is a map or a JSON file of one; without it the map is loaded from the coordinator
    and kept fresh. The other arguments are the fields of `client.options.Options`.
    """

    def __init__(
        self,
        topology: Topology,
        *,
        shard_map: ShardMap | str | Path | None = None,
        **options: Any,
    ) -> None:
        super().__init__(topology, shard_map, options)
        self.pools = AsyncPools(topology, self.options)
        self.aside = AsyncAside(topology, self.options)
        self._lock = asyncio.Lock()

    async def open(self) -> None:
        """Load the map. Raises ShardError where there is none to be had."""
        await asyncio.to_thread(self._maps.start)

    async def __aenter__(self) -> AsyncRouter:
        await self.open()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the pools and stop following the map. Idempotent."""
        async with self._lock:
            if self._closed:
                return
            self._closed = True
        await asyncio.to_thread(self._maps.close)
        await self.pools.close()
        await self.aside.close()

    async def refresh(self) -> ShardMap:
        """Load the map again, now."""
        return await asyncio.to_thread(self._maps.refresh)

    async def resolve(
        self,
        sql: Query,
        params: Params = None,
        *,
        workspace: str | None = None,
        all_workspaces: bool = False,
    ) -> Route:
        """Say where a statement would go; an id that decides is looked up on the shards."""
        async with self._connection(workspace, everything=all_workspaces) as connection:
            return await connection.resolve(sql, params)

    async def execute(
        self,
        sql: Query,
        params: Params = None,
        *,
        workspace: str | None = None,
        all_workspaces: bool = False,
        prepare: bool | None = None,
        binary: bool | None = None,
        row_factory: RowFactory | None = None,
    ) -> AsyncResult:
        """Run one statement on its shard, by itself."""
        async with self._connection(workspace, everything=all_workspaces) as connection:
            call = Call(
                sql=sql, params=params, prepare=prepare, binary=binary, row_factory=row_factory
            )
            return await connection.run(call)

    async def executemany(
        self,
        sql: Query,
        params_seq: Iterable[Params],
        *,
        workspace: str | None = None,
        returning: bool = False,
    ) -> AsyncResult:
        """Run a statement with many sets of parameters, all of one shard, in one transaction."""
        async with self._connection(workspace) as connection:
            return await connection.executemany(sql, params_seq, returning=returning)

    def workspace(
        self, workspace: str, *, row_factory: RowFactory | None = None
    ) -> AbstractAsyncContextManager[AsyncConnection]:
        """Give a connection whose statements are of one workspace, each by itself."""
        return self._connection(workspace, row_factory=row_factory)

    def all_workspaces(
        self, *, row_factory: RowFactory | None = None
    ) -> AbstractAsyncContextManager[AsyncConnection]:
        """Give a connection that reads all workspaces, through the federated views."""
        return self._connection(None, everything=True, row_factory=row_factory)

    @asynccontextmanager
    async def transaction(
        self, workspace: str | None = None, *, row_factory: RowFactory | None = None
    ) -> AsyncIterator[AsyncConnection]:
        """Give a connection in a transaction: committed at the end, rolled back on an error.

        Without a workspace it belongs to the shard of its first statement.
        """
        async with (
            self._connection(workspace, row_factory=row_factory) as connection,
            connection.transaction(),
        ):
            yield connection

    def copy(
        self, sql: Query, params: Params = None, *, workspace: str | None = None
    ) -> AbstractAsyncContextManager[psycopg.AsyncCopy]:
        """COPY a table of a workspace: `async with router.copy("COPY t …", workspace=w)`."""
        return self._copied(sql, params, workspace)

    @asynccontextmanager
    async def _copied(
        self, sql: Query, params: Params, workspace: str | None
    ) -> AsyncIterator[psycopg.AsyncCopy]:
        async with self._connection(workspace) as connection, connection.copy(sql, params) as copy:
            yield copy

    @asynccontextmanager
    async def _connection(
        self,
        workspace: str | None,
        *,
        everything: bool = False,
        row_factory: RowFactory | None = None,
    ) -> AsyncIterator[AsyncConnection]:
        if self._closed:
            raise failures.closed("router")
        context = Context(workspace=workspace, everything=everything)
        connection = AsyncConnection(self, context, row_factory or self.options.row_factory)
        try:
            yield connection
        finally:
            await connection.close()

    async def parallel(self, work: Callable[[T], Awaitable[Any]], items: Iterable[T]) -> list[Any]:
        """Do a piece of work for every item, at once; the first error in order is raised."""
        found = list(items)
        if len(found) == 1:
            return [await work(found[0])]
        answers = await asyncio.gather(*(work(item) for item in found), return_exceptions=True)
        for answer in answers:
            if isinstance(answer, BaseException):
                raise answer
        return list(answers)


class AsyncConnection(Bound):
    """Shaped as a psycopg connection: statements go to the shard of the workspace.

    Outside of `transaction()` every statement is by itself. It borrows one server connection at a
    time and gives it back when it is closed.
    """

    def __init__(self, router: AsyncRouter, context: Context, row_factory: RowFactory) -> None:
        super().__init__(router.core, context, row_factory)
        self.router = router
        self._real: tuple[str, Real] | None = None
        self._pipeline: psycopg.AsyncPipeline | None = None
        self._doubted: Doubted | None = None  # what the pipeline prepares
        self._begin: Callable[[Real], Awaitable[None]] | None = None
        self.lock = asyncio.Lock()

    async def __aenter__(self) -> AsyncConnection:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Give the server connection back; an open transaction is rolled back."""
        async with self.lock:
            self.closed = True
            await self._release()

    # --- statements ------------------------------------------------------------------------------

    async def execute(
        self,
        sql: Query,
        params: Params = None,
        *,
        prepare: bool | None = None,
        binary: bool | None = None,
    ) -> AsyncResult:
        return await self.run(Call(sql=sql, params=params, prepare=prepare, binary=binary))

    async def executemany(
        self, sql: Query, params_seq: Iterable[Params], *, returning: bool = False
    ) -> AsyncResult:
        """Run a statement with many sets of parameters, all of one shard, in one transaction."""
        async with self.lock:
            calls = [Call(sql=sql, params=params) for params in params_seq]
            work = await self.perform(batch.planned(self.core, calls, self.context))
            if work is None:
                return AsyncResult(NOTHING)
            if self.context.transaction:
                return AsyncResult(await self._many(work, returning=returning))

            async def alone() -> AsyncResult:
                async with self.transaction():
                    return AsyncResult(await self._many(work, returning=returning))

            if work.route.held is not None:
                self.context.elsewhere = work.target.server
            try:
                return await self._twice(alone)
            finally:
                self.context.elsewhere = None

    async def _many(self, work: batch.Batch, *, returning: bool) -> Answer:
        target = work.target
        real = await self.real(target.server, target.shard)
        answers = []
        try:
            with Doubted(real):
                for text, params in work.groups:
                    await self.admit(real, work.route)
                    cursor = self._cursor(real, work.route, None)
                    await cursor.executemany(text, params, returning=returning)
                    answers.append(await _collected_many(cursor, returning=returning))
        except psycopg.Error as error:
            if failures.is_stale(error):
                await self.router.refresh()
            raise self.failed(error, target, work.route, sent=True) from error
        return batch.together(answers)

    async def resolve(self, sql: Query, params: Params = None) -> Route:
        """Say where a statement would go; an id that decides is looked up on the shards."""
        async with self.lock:
            call = Call(sql=sql, params=params)
            return await self.perform(routed(self.core, self.core.current(), call, self.context))

    async def run(self, call: Call) -> AsyncResult:
        async with self.lock:
            self.check_open()
            try:
                answer = await self.perform(executed(self.core, call, self.context))
            except BaseException as error:
                if self._doubted is not None:  # of whichever statement of the pipeline it is
                    self._doubted.failed(error)
                raise
            return answer if isinstance(answer, AsyncResult) else AsyncResult(answer)

    def cursor(
        self,
        name: str | None = None,
        *,
        row_factory: RowFactory | None = None,
        scrollable: bool | None = None,
    ) -> AsyncCursor | AsyncServerCursor:
        """Give a cursor; with a name, one on the server, in a transaction only."""
        factory = row_factory or self.row_factory
        if name is None:
            return AsyncCursor(self, factory)
        return AsyncServerCursor(self, name, factory, scrollable=scrollable)

    def copy(
        self, sql: Query, params: Params = None
    ) -> AbstractAsyncContextManager[psycopg.AsyncCopy]:
        """COPY … FROM STDIN or TO STDOUT of a table of the workspace, or of a query."""
        return aiocopying.copied(self, sql, params)

    # --- transactions and pipelines --------------------------------------------------------------

    @asynccontextmanager
    async def transaction(
        self, savepoint_name: str | None = None, *, force_rollback: bool = False
    ) -> AsyncIterator[psycopg.AsyncTransaction | None]:
        """Begin a transaction, or a savepoint within one. Belongs to one shard.

        Gives psycopg's transaction, or None where the shard is only known with the first statement.
        """
        self.check_open()
        context = self.context
        if context.transaction:
            self.check_savepoint(self._real is not None)
            assert self._real is not None
            try:
                async with self.block(
                    self._real[1].transaction(savepoint_name, force_rollback)
                ) as real:
                    yield real
            finally:
                context.admitted = UNSURE  # perhaps rolled back with the savepoint
            return
        pinned = context.pinned  # by a pipeline around it
        open_: list[AbstractAsyncContextManager[psycopg.AsyncTransaction]] = []
        given: list[psycopg.AsyncTransaction] = []

        async def begin(connection: Real) -> None:
            block = connection.transaction(savepoint_name, force_rollback)
            given.append(await block.__aenter__())
            open_.append(block)

        context.transaction, context.admitted = True, None
        if not pinned:
            context.unpin()
        self._begin = begin
        try:
            home = context.home(self.core.current())
            if home is not None or pinned:
                server, shard = home or (context.server or "", context.shard)
                await self.real(server, shard)
            yield given[0] if given else None
        except BaseException as error:
            if not open_:
                if isinstance(error, psycopg.Rollback):
                    return
                raise
            if await self._end(open_[0], error):
                return
            raise
        else:
            if open_:
                await self._commit(open_[0])
        finally:
            context.transaction, self._begin = False, None
            if not pinned:
                context.unpin()

    async def _end(self, block: AbstractAsyncContextManager[Any], error: BaseException) -> bool:
        """Leave a block by an error: that one counts, whatever becomes of a rollback."""
        try:
            return bool(await block.__aexit__(type(error), error, error.__traceback__))
        except psycopg.Error:
            return False

    async def _commit(self, block: AbstractAsyncContextManager[psycopg.AsyncTransaction]) -> None:
        try:
            await block.__aexit__(None, None, None)
        except psycopg.Error as error:
            raise self.not_committed(error) from error

    @asynccontextmanager
    async def pipeline(self) -> AsyncIterator[AsyncPipeline]:
        """Send statements without waiting for each answer; results are read when asked for."""
        async with self.lock:
            self.check_open()
            context = self.context
            before = context.pinned
            server, shard = self.pipeline_home()
            real = await self.real(server, shard)
            context.pin(server, shard)
        try:
            with Doubted(real) as doubted:
                async with self.block(real.pipeline()) as pipeline:
                    outer = self._pipeline, self._doubted
                    self._pipeline, self._doubted = pipeline, doubted
                    context.piped = True
                    try:
                        yield AsyncPipeline(pipeline, doubted, self.translated)
                    finally:
                        self._pipeline, self._doubted = outer
                        context.piped = outer[0] is not None
        finally:
            if not before:
                context.unpin()

    @asynccontextmanager
    async def block(
        self, manager: AbstractAsyncContextManager[T], *, shard: str | None = None
    ) -> AsyncIterator[T]:
        """Enter a block of psycopg's. Its own errors are translated, those of the body pass."""
        try:
            given = await manager.__aenter__()
        except psycopg.Error as error:
            raise self.translated(error, shard=shard) from error
        try:
            yield given
        except BaseException as error:
            if not await self._end(manager, error):
                raise
        else:
            try:
                await manager.__aexit__(None, None, None)
            except psycopg.Error as error:
                raise self.translated(error, shard=shard, sent=True) from error

    # --- carrying out commands -------------------------------------------------------------------

    async def perform(self, steps: Generator[Command, Any, T]) -> T:
        """Carry out what the generator asks for, until it has its answer."""
        try:
            command = next(steps)
            while True:
                try:
                    answer = await self._carry_out(command)
                except Exception as error:
                    command = steps.throw(error)
                else:
                    command = steps.send(answer)
        except StopIteration as end:
            result: T = end.value
            return result

    async def _carry_out(self, command: Command) -> Any:
        match command:
            case Run(route, targets, call, apart):
                if apart:
                    return [await self._apart(targets[0], route, call)]
                if len(targets) == 1:
                    return [await self._one(targets[0], route, call)]
                await self._release()
                return await self.router.parallel(lambda t: self._apart(t, route, call), targets)
            case Ask(on, params, "own"):
                return await self._ask_here(on, params)
            case Ask(on, params, "aside"):
                return await self.router.aside.ask(on, params)
            case Ask(on, params):
                return await self._ask(on, params)
            case Refresh():
                return await self.router.refresh()
            case Pause(seconds):
                await self._release()
                await asyncio.sleep(seconds)
        return None

    async def _twice(self, work: Callable[[], Awaitable[T]]) -> T:
        """Do it; once more if the server refused what was prepared, and no transaction goes on."""
        try:
            return await work()
        except psycopg.Error as error:
            if self.context.transaction or self.context.pinned or not is_obsolete(error):
                raise
        return await work()

    async def _one(self, target: RouteTarget, route: Route, call: Call) -> Answer:
        return await self._twice(lambda: self._once(target, route, call))

    async def _once(self, target: RouteTarget, route: Route, call: Call) -> Answer:
        real = await self.real(target.server, target.shard)
        if self.context.everything and not self.context.transaction:
            await real.set_read_only(True)
            try:
                async with real.transaction():
                    return await self._sent(real, target, route, call)
            finally:
                if not real.closed:
                    await real.set_read_only(None)
        return await self._sent(real, target, route, call)

    async def _apart(self, target: RouteTarget, route: Route, call: Call) -> Answer:
        """Run one of several targets, on a connection of its own."""
        real = await self.router.pools.acquire(target.server)
        try:
            return await self._twice(lambda: self._sent(real, target, route, call))
        except psycopg.Error as error:
            raise self.failed(error, target, route) from error
        finally:
            await self.router.pools.release(target.server, real)

    async def _sent(self, real: Real, target: RouteTarget, route: Route, call: Call) -> Answer:
        cursor = self._cursor(real, route, call.row_factory)
        admitted = self.router.wall.wanted(route, self.context)
        apart = admitted is not None and self._pipeline is None
        with Doubted(real):
            async with real.pipeline() if apart else nullcontext():
                if admitted is not None:
                    await AsyncRawCursor(real).execute(*self.router.wall.statement(admitted))
                await cursor.execute(
                    target.sql, target.params, prepare=call.prepare, binary=call.binary
                )
        if admitted is not None:
            self.context.admitted = admitted
        if self._pipeline is not None:
            doubted = self._doubted

            def failed(error: BaseException) -> Exception | None:
                if doubted is not None:
                    doubted.failed(error)
                if not isinstance(error, psycopg.Error):
                    return None
                return self.not_read(error, target, route, answered=batch.has_answered(cursor))

            later: Any = _Later(cursor, failed)
            return later  # type: ignore[no-any-return]  # run() gives it out as it is
        try:
            rows = await cursor.fetchall() if batch.has_rows(cursor) else None
        except psycopg.Error as error:
            raise self.not_read(error, target, route, answered=True) from error
        return batch.collected(cursor, rows)

    async def admit(self, real: Real, route: Route) -> None:
        """Let a transaction see what a statement is about that no pipeline can carry."""
        admitted = self.router.wall.wanted(route, self.context)
        if admitted is not None:
            # Never by a name: a COPY is not sent again if the server lost it.
            await AsyncRawCursor(real).execute(*self.router.wall.statement(admitted), prepare=False)
            self.context.admitted = admitted

    async def _ask(self, on: Any, params: Any) -> list[Any]:
        """Run a query of ours on several servers, in parallel, over connections of the pools.

        On one server over the connection that is held, or that the statement will take anyway.
        """

        async def rows(real: Real, server: str) -> list[Any]:
            with Doubted(real):
                cursor = own_cursor(real.cursor())
                await cursor.execute(on[server], params)
                return await cursor.fetchall()  # type: ignore[no-any-return]

        async def sent(real: Real, server: str) -> list[Any]:
            try:
                return await self._twice(lambda: rows(real, server))
            except psycopg.Error as error:
                raise of_probe(error, server) from error

        async def ask(server: str) -> list[Any]:
            real = await self.router.pools.acquire(server)
            try:
                return await sent(real, server)
            finally:
                await self.router.pools.release(server, real)

        if len(on) == 1 and not self.context.transaction:
            (server,) = on
            return await sent(await self.real(server), server)
        await self._release()
        return [row for rows in await self.router.parallel(ask, on) for row in rows]

    async def _ask_here(self, on: Any, params: Any) -> list[Any]:
        """Run a query of ours within the transaction, which goes on if the query fails."""
        assert self._real is not None
        server, real = self._real
        begin, end, back = of_savepoint("parlant_shard_look_up")
        apart = self._pipeline is None  # the application's own pipeline ends with a failure
        try:
            async with real.pipeline() if apart else nullcontext():
                await real.execute(begin, prepare=False)
                cursor = own_cursor(real.cursor())
                await cursor.execute(on[server], params, prepare=False)
                await real.execute(end, prepare=False)
                return await cursor.fetchall()  # type: ignore[no-any-return]
        except psycopg.Error as error:
            if apart:
                with suppress(psycopg.Error):
                    await real.execute(back)
            raise self.translated(error) from error

    def _cursor(self, real: Real, route: Route, row_factory: RowFactory | None) -> Any:
        factory = row_factory or self.row_factory
        if route.numbered:
            return AsyncRawCursor(real, row_factory=factory)
        return real.cursor(row_factory=factory)

    async def real(self, server: str, shard: str | None = None) -> Real:
        """The server connection to use: the pinned one, or one to that server."""
        context = self.context
        if context.pinned and self._real is not None:
            context.shard = context.shard or shard
            return await self._begun(self._real[1])
        if self._real is not None and (self._real[0] != server or not is_alive(self._real[1])):
            if self._real[0] == server:
                await self._real[1].close()
            await self._release()
        if self._real is None:
            self._real = (server, await self.router.pools.acquire(server))
        if context.transaction:
            context.pin(server, shard)
        return await self._begun(self._real[1])

    async def _begun(self, real: Real) -> Real:
        begin, self._begin = self._begin, None
        if begin is not None:
            try:
                await begin(real)
            except psycopg.Error as error:
                raise failures.of_statement(
                    error, server=self.context.server or "", transaction=True
                ) from error
        return real

    async def _release(self) -> None:
        if self._real is not None:
            server, real = self._real
            self._real = None
            with suppress(psycopg.Error):
                await self.router.pools.release(server, real)


class _Later(AsyncResult):
    """A result that a pipeline has not answered yet: reading it waits for it."""

    def __init__(self, cursor: Any, failed: Callable[[BaseException], Exception | None]) -> None:
        super().__init__(NOT_YET)
        self._cursor: Any = cursor
        self._failed = failed

    def _about(self) -> Any:
        return self._answer if self._cursor is None else self._cursor

    async def _load(self) -> Answer:
        if self._cursor is not None:
            cursor, self._cursor = self._cursor, None
            try:
                self._answer = batch.collected(cursor, await _rows_of(cursor))
            except BaseException as error:
                told = self._failed(error)
                if told is None:
                    raise
                raise told from error
        return self._answer


class AsyncCursor(Described):
    """Shaped as psycopg's client-side cursor: the last result of its connection's statements."""

    def __init__(self, connection: AsyncConnection, row_factory: RowFactory) -> None:
        self.connection = connection
        self.row_factory = row_factory
        self.arraysize = 1
        self.closed = False
        self._result: AsyncResult = AsyncResult(NOT_YET)

    async def execute(
        self,
        sql: Query,
        params: Params = None,
        *,
        prepare: bool | None = None,
        binary: bool | None = None,
    ) -> AsyncCursor:
        self._check()
        self._result = await self.connection.run(
            Call(
                sql=sql,
                params=params,
                prepare=prepare,
                binary=binary,
                row_factory=self.row_factory,
            )
        )
        return self

    async def executemany(
        self, sql: Query, params_seq: Iterable[Params], *, returning: bool = False
    ) -> None:
        self._check()
        self._result = await self.connection.executemany(sql, params_seq, returning=returning)

    def copy(
        self, sql: Query, params: Params = None
    ) -> AbstractAsyncContextManager[psycopg.AsyncCopy]:
        self._check()
        return self.connection.copy(sql, params)

    async def fetchone(self) -> Any | None:
        self._check()
        return await self._result.fetchone()

    async def fetchmany(self, size: int = 0) -> list[Any]:
        self._check()
        return await self._result.fetchmany(size or self.arraysize)

    async def fetchall(self) -> list[Any]:
        self._check()
        return await self._result.fetchall()

    async def __aiter__(self) -> AsyncIterator[Any]:
        self._check()
        async for row in self._result:
            yield row

    async def close(self) -> None:
        self.closed = True

    async def __aenter__(self) -> AsyncCursor:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    def _check(self) -> None:
        if self.closed:
            raise failures.closed("cursor")


class AsyncServerCursor(ServerDescribed):
    """A cursor on the server of the transaction's shard: rows come as they are fetched."""

    def __init__(
        self,
        connection: AsyncConnection,
        name: str,
        row_factory: RowFactory,
        *,
        scrollable: bool | None = None,
    ) -> None:
        super().__init__(name, row_factory, scrollable=scrollable)
        self.connection = connection

    async def execute(self, sql: Query, params: Params = None) -> AsyncServerCursor:
        connection = self.connection
        async with connection.lock:
            await self.close()
            context = connection.context
            if not context.transaction:
                raise needs_transaction(self.name)
            core = connection.core
            shard_map = core.current()
            check_count(params)
            call = Call(sql=sql, params=params)
            route = await connection.perform(routed(core, shard_map, call, context))
            (target,) = placed(route, context, shard_map)
            check_count(target.params, route)
            real = await connection.real(target.server, target.shard)
            await self._do(lambda: connection.admit(real, route))
            kind: Any = AsyncRawServerCursor if route.numbered else psycopg.AsyncServerCursor
            self._real = kind(real, self.name, **self._options)
            self._route = route
            self._real.itersize = self.itersize
            await self._do(lambda: self._real.execute(target.sql, target.params))
        return self

    async def fetchone(self) -> Any | None:
        return await self._fetch(lambda real: real.fetchone())

    async def fetchmany(self, size: int = 0) -> list[Any]:
        return list(await self._fetch(lambda real: real.fetchmany(size or 1)))

    async def fetchall(self) -> list[Any]:
        return list(await self._fetch(lambda real: real.fetchall()))

    async def scroll(self, value: int, mode: str = "relative") -> None:
        await self._fetch(lambda real: real.scroll(value, mode))

    async def _fetch(self, work: Callable[[Any], Awaitable[Any]]) -> Any:
        """Fetch as the workspace of the query: a policy asks for it again and again."""
        connection = self.connection
        async with connection.lock:
            real = self._open()
            if not connection.is_in_transaction(real.connection):
                raise needs_transaction(self.name)
            await self._do(lambda: connection.admit(real.connection, self._route))
            return await self._do(lambda: work(real))

    async def __aiter__(self) -> AsyncIterator[Any]:
        while rows := await self.fetchmany(self.itersize):
            for row in rows:
                yield row

    async def close(self) -> None:
        if self._real is not None:
            real, self._real = self._real, None
            # psycopg asserts that a cursor has a result; one that was refused has none.
            with suppress(psycopg.Error, AssertionError):
                await real.close()

    async def __aenter__(self) -> AsyncServerCursor:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    async def _do(self, work: Callable[[], Awaitable[Any]]) -> Any:
        try:
            return await work()
        except psycopg.Error as error:
            raise self.connection.translated(error) from error


async def _rows_of(cursor: Any) -> list[Any] | None:
    """The twin of `batch.rows_of`."""
    try:
        found: list[Any] = await cursor.fetchall()
    except psycopg.ProgrammingError:
        if cursor.pgresult is None or cursor.description is not None:
            raise
        return None
    return found


async def _collected_many(cursor: Any, *, returning: bool) -> Answer:
    """The twin of `batch.collected_many`."""
    if not returning or not batch.has_rows(cursor):
        return Answer(None, None, cursor.rowcount, cursor.statusmessage)
    description = Answer(cursor, [], 0, None)
    assert description.description is not None
    rows: list[Any] = []
    while True:
        rows += await cursor.fetchall()
        if not cursor.nextset():
            return Answer(description, rows, len(rows), cursor.statusmessage)
