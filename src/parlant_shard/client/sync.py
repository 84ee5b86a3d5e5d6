"""The synchronous router: `Router`, its connections and cursors."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

import psycopg
from psycopg import RawCursor, RawServerCursor

from parlant_shard.client import batch, copying, failures
from parlant_shard.client.aside import Aside
from parlant_shard.client.bound import (
    Bound,
    Described,
    Routing,
    ServerDescribed,
    needs_transaction,
    of_probe,
    of_savepoint,
    own_cursor,
    threads_for,
)
from parlant_shard.client.options import RowFactory
from parlant_shard.client.pipelines import Pipeline
from parlant_shard.client.pools import Connection as Real
from parlant_shard.client.pools import Pools, is_alive
from parlant_shard.client.prepared import Doubted, is_obsolete
from parlant_shard.client.result import NOT_YET, NOTHING, Answer, Result
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


class Router(Routing):
    """Sends every statement to its shard. Thread-safe; make one per process and close it.

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
        self._maps.start()
        self.pools = Pools(topology, self.options)
        self.aside = Aside(topology, self.options)
        self._threads: ThreadPoolExecutor | None = None
        self._lock = threading.Lock()

    def __enter__(self) -> Router:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the pools and stop following the map. Idempotent."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
        self._maps.close()
        self.pools.close()
        self.aside.close()
        if self._threads is not None:
            self._threads.shutdown(wait=False, cancel_futures=True)

    def refresh(self) -> ShardMap:
        """Load the map again, now."""
        return self._maps.refresh()

    def resolve(
        self,
        sql: Query,
        params: Params = None,
        *,
        workspace: str | None = None,
        all_workspaces: bool = False,
    ) -> Route:
        """Say where a statement would go; an id that decides is looked up on the shards."""
        with self._connection(workspace, everything=all_workspaces) as connection:
            return connection.resolve(sql, params)

    def execute(
        self,
        sql: Query,
        params: Params = None,
        *,
        workspace: str | None = None,
        all_workspaces: bool = False,
        prepare: bool | None = None,
        binary: bool | None = None,
        row_factory: RowFactory | None = None,
    ) -> Result:
        """Run one statement on its shard, by itself."""
        with self._connection(workspace, everything=all_workspaces) as connection:
            call = Call(
                sql=sql, params=params, prepare=prepare, binary=binary, row_factory=row_factory
            )
            return connection.run(call)

    def executemany(
        self,
        sql: Query,
        params_seq: Iterable[Params],
        *,
        workspace: str | None = None,
        returning: bool = False,
    ) -> Result:
        """Run a statement with many sets of parameters, all of one shard, in one transaction."""
        with self._connection(workspace) as connection:
            return connection.executemany(sql, params_seq, returning=returning)

    def workspace(
        self, workspace: str, *, row_factory: RowFactory | None = None
    ) -> AbstractContextManager[Connection]:
        """Give a connection whose statements are of one workspace, each by itself."""
        return self._connection(workspace, row_factory=row_factory)

    def all_workspaces(
        self, *, row_factory: RowFactory | None = None
    ) -> AbstractContextManager[Connection]:
        """Give a connection that reads all workspaces, through the federated views."""
        return self._connection(None, everything=True, row_factory=row_factory)

    @contextmanager
    def transaction(
        self, workspace: str | None = None, *, row_factory: RowFactory | None = None
    ) -> Iterator[Connection]:
        """Give a connection in a transaction: committed at the end, rolled back on an error.

        Without a workspace it belongs to the shard of its first statement.
        """
        with (
            self._connection(workspace, row_factory=row_factory) as connection,
            connection.transaction(),
        ):
            yield connection

    def copy(
        self, sql: Query, params: Params = None, *, workspace: str | None = None
    ) -> AbstractContextManager[psycopg.Copy]:
        """COPY a table of a workspace: `with router.copy("COPY t FROM STDIN", workspace=w)`."""
        return self._copied(sql, params, workspace)

    @contextmanager
    def _copied(self, sql: Query, params: Params, workspace: str | None) -> Iterator[psycopg.Copy]:
        with self._connection(workspace) as connection, connection.copy(sql, params) as copy:
            yield copy

    @contextmanager
    def _connection(
        self,
        workspace: str | None,
        *,
        everything: bool = False,
        row_factory: RowFactory | None = None,
    ) -> Iterator[Connection]:
        if self._closed:
            raise failures.closed("router")
        context = Context(workspace=workspace, everything=everything)
        connection = Connection(self, context, row_factory or self.options.row_factory)
        try:
            yield connection
        finally:
            connection.close()

    def parallel(self, work: Callable[[T], Any], items: Iterable[T]) -> list[Any]:
        """Do a piece of work for every item, at once; the first error in order is raised."""
        found = list(items)
        if len(found) == 1:
            return [work(found[0])]
        with self._lock:
            if self._threads is None:
                self._threads = ThreadPoolExecutor(
                    max_workers=threads_for(self.topology),
                    thread_name_prefix="parlant-shard",
                )
        futures = [self._threads.submit(work, item) for item in found]
        errors = [future.exception() for future in futures]
        for error in errors:
            if error is not None:
                raise error
        return [future.result() for future in futures]


class Connection(Bound):
    """Shaped as a psycopg connection: statements go to the shard of the workspace.

    Outside of `transaction()` every statement is by itself. It borrows one server connection at a
    time and gives it back when it is closed.
    """

    def __init__(self, router: Router, context: Context, row_factory: RowFactory) -> None:
        super().__init__(router.core, context, row_factory)
        self.router = router
        self._real: tuple[str, Real] | None = None
        self._pipeline: psycopg.Pipeline | None = None
        self._doubted: Doubted | None = None  # what the pipeline prepares
        self._begin: Callable[[Real], None] | None = None
        self.lock = threading.RLock()

    def __enter__(self) -> Connection:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Give the server connection back; an open transaction is rolled back."""
        with self.lock:
            self.closed = True
            self._release()

    # --- statements ------------------------------------------------------------------------------

    def execute(
        self,
        sql: Query,
        params: Params = None,
        *,
        prepare: bool | None = None,
        binary: bool | None = None,
    ) -> Result:
        return self.run(Call(sql=sql, params=params, prepare=prepare, binary=binary))

    def executemany(
        self, sql: Query, params_seq: Iterable[Params], *, returning: bool = False
    ) -> Result:
        """Run a statement with many sets of parameters, all of one shard, in one transaction."""
        with self.lock:
            calls = [Call(sql=sql, params=params) for params in params_seq]
            work = self.perform(batch.planned(self.core, calls, self.context))
            if work is None:
                return Result(NOTHING)
            if self.context.transaction:
                return Result(self._many(work, returning=returning))

            def alone() -> Result:
                with self.transaction():
                    return Result(self._many(work, returning=returning))

            if work.route.held is not None:
                self.context.elsewhere = work.target.server
            try:
                return self._twice(alone)
            finally:
                self.context.elsewhere = None

    def _many(self, work: batch.Batch, *, returning: bool) -> Answer:
        target = work.target
        real = self.real(target.server, target.shard)
        answers = []
        try:
            with Doubted(real):
                for text, params in work.groups:
                    self.admit(real, work.route)
                    cursor = self._cursor(real, work.route, None)
                    cursor.executemany(text, params, returning=returning)
                    answers.append(batch.collected_many(cursor, returning=returning))
        except psycopg.Error as error:
            if failures.is_stale(error):
                self.router.refresh()
            raise self.failed(error, target, work.route, sent=True) from error
        return batch.together(answers)

    def resolve(self, sql: Query, params: Params = None) -> Route:
        """Say where a statement would go; an id that decides is looked up on the shards."""
        with self.lock:
            call = Call(sql=sql, params=params)
            return self.perform(routed(self.core, self.core.current(), call, self.context))

    def run(self, call: Call) -> Result:
        with self.lock:
            self.check_open()
            try:
                answer = self.perform(executed(self.core, call, self.context))
            except BaseException as error:
                if self._doubted is not None:  # of whichever statement of the pipeline it is
                    self._doubted.failed(error)
                raise
            return answer if isinstance(answer, Result) else Result(answer)

    def cursor(
        self,
        name: str | None = None,
        *,
        row_factory: RowFactory | None = None,
        scrollable: bool | None = None,
    ) -> Cursor | ServerCursor:
        """Give a cursor; with a name, one on the server, in a transaction only."""
        factory = row_factory or self.row_factory
        if name is None:
            return Cursor(self, factory)
        return ServerCursor(self, name, factory, scrollable=scrollable)

    def copy(self, sql: Query, params: Params = None) -> AbstractContextManager[psycopg.Copy]:
        """COPY … FROM STDIN or TO STDOUT of a table of the workspace, or of a query."""
        return copying.copied(self, sql, params)

    # --- transactions and pipelines --------------------------------------------------------------

    @contextmanager
    def transaction(
        self, savepoint_name: str | None = None, *, force_rollback: bool = False
    ) -> Iterator[psycopg.Transaction | None]:
        """Begin a transaction, or a savepoint within one. Belongs to one shard.

        Gives psycopg's transaction, or None where the shard is only known with the first statement.
        """
        self.check_open()
        context = self.context
        if context.transaction:
            self.check_savepoint(self._real is not None)
            assert self._real is not None
            try:
                with self.block(self._real[1].transaction(savepoint_name, force_rollback)) as real:
                    yield real
            finally:
                context.admitted = UNSURE  # perhaps rolled back with the savepoint
            return
        pinned = context.pinned  # by a pipeline around it
        open_: list[AbstractContextManager[psycopg.Transaction]] = []
        given: list[psycopg.Transaction] = []

        def begin(connection: Real) -> None:
            block = connection.transaction(savepoint_name, force_rollback)
            given.append(block.__enter__())
            open_.append(block)

        context.transaction, context.admitted = True, None
        if not pinned:
            context.unpin()
        self._begin = begin
        try:
            home = context.home(self.core.current())
            if home is not None or pinned:
                server, shard = home or (context.server or "", context.shard)
                self.real(server, shard)
            yield given[0] if given else None
        except BaseException as error:
            if not open_:
                if isinstance(error, psycopg.Rollback):
                    return
                raise
            if self._end(open_[0], error):
                return
            raise
        else:
            if open_:
                self._commit(open_[0])
        finally:
            context.transaction, self._begin = False, None
            if not pinned:
                context.unpin()

    def _end(self, block: AbstractContextManager[Any], error: BaseException) -> bool:
        """Leave a block by an error: that one counts, whatever becomes of a rollback."""
        try:
            return bool(block.__exit__(type(error), error, error.__traceback__))
        except psycopg.Error:
            return False

    def _commit(self, block: AbstractContextManager[psycopg.Transaction]) -> None:
        try:
            block.__exit__(None, None, None)
        except psycopg.Error as error:
            raise self.not_committed(error) from error

    @contextmanager
    def pipeline(self) -> Iterator[Pipeline]:
        """Send statements without waiting for each answer; results are read when asked for."""
        with self.lock:
            self.check_open()
            context = self.context
            before = context.pinned
            server, shard = self.pipeline_home()
            real = self.real(server, shard)
            context.pin(server, shard)
        try:
            with Doubted(real) as doubted, self.block(real.pipeline()) as pipeline:
                outer = self._pipeline, self._doubted
                self._pipeline, self._doubted = pipeline, doubted
                context.piped = True
                try:
                    yield Pipeline(pipeline, doubted, self.translated)
                finally:
                    self._pipeline, self._doubted = outer
                    context.piped = outer[0] is not None
        finally:
            if not before:
                context.unpin()

    @contextmanager
    def block(self, manager: AbstractContextManager[T], *, shard: str | None = None) -> Iterator[T]:
        """Enter a block of psycopg's. Its own errors are translated, those of the body pass."""
        try:
            given = manager.__enter__()
        except psycopg.Error as error:
            raise self.translated(error, shard=shard) from error
        try:
            yield given
        except BaseException as error:
            if not self._end(manager, error):
                raise
        else:
            try:
                manager.__exit__(None, None, None)
            except psycopg.Error as error:
                raise self.translated(error, shard=shard, sent=True) from error

    # --- carrying out commands -------------------------------------------------------------------

    def perform(self, steps: Generator[Command, Any, T]) -> T:
        """Carry out what the generator asks for, until it has its answer."""
        try:
            command = next(steps)
            while True:
                try:
                    answer = self._carry_out(command)
                except Exception as error:
                    command = steps.throw(error)
                else:
                    command = steps.send(answer)
        except StopIteration as end:
            result: T = end.value
            return result

    def _carry_out(self, command: Command) -> Any:
        match command:
            case Run(route, targets, call, apart):
                if apart:
                    return [self._apart(targets[0], route, call)]
                if len(targets) == 1:
                    return [self._one(targets[0], route, call)]
                self._release()
                return self.router.parallel(lambda t: self._apart(t, route, call), targets)
            case Ask(on, params, "own"):
                return self._ask_here(on, params)
            case Ask(on, params, "aside"):
                return self.router.aside.ask(on, params)
            case Ask(on, params):
                return self._ask(on, params)
            case Refresh():
                return self.router.refresh()
            case Pause(seconds):
                self._release()
                time.sleep(seconds)
        return None

    def _twice(self, work: Callable[[], T]) -> T:
        """Do it; once more if the server refused what was prepared, and no transaction goes on."""
        try:
            return work()
        except psycopg.Error as error:
            if self.context.transaction or self.context.pinned or not is_obsolete(error):
                raise
        return work()

    def _one(self, target: RouteTarget, route: Route, call: Call) -> Answer:
        return self._twice(lambda: self._once(target, route, call))

    def _once(self, target: RouteTarget, route: Route, call: Call) -> Answer:
        real = self.real(target.server, target.shard)
        if self.context.everything and not self.context.transaction:
            real.read_only = True
            try:
                with real.transaction():
                    return self._sent(real, target, route, call)
            finally:
                if not real.closed:
                    real.read_only = None
        return self._sent(real, target, route, call)

    def _apart(self, target: RouteTarget, route: Route, call: Call) -> Answer:
        """Run one of several targets, on a connection of its own."""
        real = self.router.pools.acquire(target.server)
        try:
            return self._twice(lambda: self._sent(real, target, route, call))
        except psycopg.Error as error:
            raise self.failed(error, target, route) from error
        finally:
            self.router.pools.release(target.server, real)

    def _sent(self, real: Real, target: RouteTarget, route: Route, call: Call) -> Answer:
        cursor = self._cursor(real, route, call.row_factory)
        admitted = self.router.wall.wanted(route, self.context)
        apart = admitted is not None and self._pipeline is None
        with Doubted(real), real.pipeline() if apart else nullcontext():
            if admitted is not None:
                RawCursor(real).execute(*self.router.wall.statement(admitted))
            cursor.execute(target.sql, target.params, prepare=call.prepare, binary=call.binary)
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
            rows = cursor.fetchall() if batch.has_rows(cursor) else None
        except psycopg.Error as error:
            raise self.not_read(error, target, route, answered=True) from error
        return batch.collected(cursor, rows)

    def admit(self, real: Real, route: Route) -> None:
        """Let a transaction see what a statement is about that no pipeline can carry."""
        admitted = self.router.wall.wanted(route, self.context)
        if admitted is not None:
            # Never by a name: a COPY is not sent again if the server lost it.
            RawCursor(real).execute(*self.router.wall.statement(admitted), prepare=False)
            self.context.admitted = admitted

    def _ask(self, on: Any, params: Any) -> list[Any]:
        """Run a query of ours on several servers, in parallel, over connections of the pools.

        On one server over the connection that is held, or that the statement will take anyway.
        """

        def rows(real: Real, server: str) -> list[Any]:
            with Doubted(real):
                return own_cursor(real.cursor()).execute(on[server], params).fetchall()  # type: ignore[no-any-return]

        def sent(real: Real, server: str) -> list[Any]:
            try:
                return self._twice(lambda: rows(real, server))
            except psycopg.Error as error:
                raise of_probe(error, server) from error

        def ask(server: str) -> list[Any]:
            real = self.router.pools.acquire(server)
            try:
                return sent(real, server)
            finally:
                self.router.pools.release(server, real)

        if len(on) == 1 and not self.context.transaction:
            (server,) = on
            return sent(self.real(server), server)
        self._release()
        return [row for rows in self.router.parallel(ask, on) for row in rows]

    def _ask_here(self, on: Any, params: Any) -> list[Any]:
        """Run a query of ours within the transaction, which goes on if the query fails."""
        assert self._real is not None
        server, real = self._real
        begin, end, back = of_savepoint("parlant_shard_look_up")
        apart = self._pipeline is None  # the application's own pipeline ends with a failure
        try:
            with real.pipeline() if apart else nullcontext():
                real.execute(begin, prepare=False)
                cursor = own_cursor(real.cursor())
                cursor.execute(on[server], params, prepare=False)
                real.execute(end, prepare=False)
                return cursor.fetchall()  # type: ignore[no-any-return]
        except psycopg.Error as error:
            if apart:
                with suppress(psycopg.Error):
                    real.execute(back)
            raise self.translated(error) from error

    def _cursor(self, real: Real, route: Route, row_factory: RowFactory | None) -> Any:
        factory = row_factory or self.row_factory
        if route.numbered:
            return RawCursor(real, row_factory=factory)
        return real.cursor(row_factory=factory)

    def real(self, server: str, shard: str | None = None) -> Real:
        """The server connection to use: the pinned one, or one to that server."""
        context = self.context
        if context.pinned and self._real is not None:
            context.shard = context.shard or shard
            return self._begun(self._real[1])
        if self._real is not None and (self._real[0] != server or not is_alive(self._real[1])):
            if self._real[0] == server:
                self._real[1].close()
            self._release()
        if self._real is None:
            self._real = (server, self.router.pools.acquire(server))
        if context.transaction:
            context.pin(server, shard)
        return self._begun(self._real[1])

    def _begun(self, real: Real) -> Real:
        begin, self._begin = self._begin, None
        if begin is not None:
            try:
                begin(real)
            except psycopg.Error as error:
                raise failures.of_statement(
                    error, server=self.context.server or "", transaction=True
                ) from error
        return real

    def _release(self) -> None:
        if self._real is not None:
            server, real = self._real
            self._real = None
            with suppress(psycopg.Error):
                self.router.pools.release(server, real)


class _Later(Result):
    """A result that a pipeline has not answered yet: reading it waits for it."""

    def __init__(self, cursor: Any, failed: Callable[[BaseException], Exception | None]) -> None:
        super().__init__(NOT_YET)
        self._cursor: Any = cursor
        self._failed = failed

    def _load(self) -> Answer:
        if self._cursor is not None:
            cursor, self._cursor = self._cursor, None
            try:
                self._answer = batch.collected(cursor, batch.rows_of(cursor))
            except BaseException as error:
                told = self._failed(error)
                if told is None:
                    raise
                raise told from error
        return self._answer


class Cursor(Described):
    """Shaped as psycopg's client-side cursor: the last result of its connection's statements."""

    def __init__(self, connection: Connection, row_factory: RowFactory) -> None:
        self.connection = connection
        self.row_factory = row_factory
        self.arraysize = 1
        self.closed = False
        self._result: Result = Result(NOT_YET)

    def execute(
        self,
        sql: Query,
        params: Params = None,
        *,
        prepare: bool | None = None,
        binary: bool | None = None,
    ) -> Cursor:
        self._check()
        self._result = self.connection.run(
            Call(
                sql=sql,
                params=params,
                prepare=prepare,
                binary=binary,
                row_factory=self.row_factory,
            )
        )
        return self

    def executemany(
        self, sql: Query, params_seq: Iterable[Params], *, returning: bool = False
    ) -> None:
        self._check()
        self._result = self.connection.executemany(sql, params_seq, returning=returning)

    def copy(self, sql: Query, params: Params = None) -> AbstractContextManager[psycopg.Copy]:
        self._check()
        return self.connection.copy(sql, params)

    def fetchone(self) -> Any | None:
        self._check()
        return self._result.fetchone()

    def fetchmany(self, size: int = 0) -> list[Any]:
        self._check()
        return self._result.fetchmany(size or self.arraysize)

    def fetchall(self) -> list[Any]:
        self._check()
        return self._result.fetchall()

    def __iter__(self) -> Iterator[Any]:
        self._check()
        return iter(self._result)

    def close(self) -> None:
        self.closed = True

    def __enter__(self) -> Cursor:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _check(self) -> None:
        if self.closed:
            raise failures.closed("cursor")


class ServerCursor(ServerDescribed):
    """A cursor on the server of the transaction's shard: rows come as they are fetched."""

    def __init__(
        self,
        connection: Connection,
        name: str,
        row_factory: RowFactory,
        *,
        scrollable: bool | None = None,
    ) -> None:
        super().__init__(name, row_factory, scrollable=scrollable)
        self.connection = connection

    def execute(self, sql: Query, params: Params = None) -> ServerCursor:
        connection = self.connection
        with connection.lock:
            self.close()
            context = connection.context
            if not context.transaction:
                raise needs_transaction(self.name)
            core = connection.core
            shard_map = core.current()
            check_count(params)
            call = Call(sql=sql, params=params)
            route = connection.perform(routed(core, shard_map, call, context))
            (target,) = placed(route, context, shard_map)
            check_count(target.params, route)
            real = connection.real(target.server, target.shard)
            self._do(lambda: connection.admit(real, route))
            kind: Any = RawServerCursor if route.numbered else psycopg.ServerCursor
            self._real = kind(real, self.name, **self._options)
            self._route = route
            self._real.itersize = self.itersize
            self._do(lambda: self._real.execute(target.sql, target.params))
        return self

    def fetchone(self) -> Any | None:
        return self._fetch(lambda real: real.fetchone())

    def fetchmany(self, size: int = 0) -> list[Any]:
        return list(self._fetch(lambda real: real.fetchmany(size or 1)))

    def fetchall(self) -> list[Any]:
        return list(self._fetch(lambda real: real.fetchall()))

    def scroll(self, value: int, mode: str = "relative") -> None:
        self._fetch(lambda real: real.scroll(value, mode))

    def _fetch(self, work: Callable[[Any], Any]) -> Any:
        """Fetch as the workspace of the query: a policy asks for it again and again."""
        connection = self.connection
        with connection.lock:
            real = self._open()
            if not connection.is_in_transaction(real.connection):
                raise needs_transaction(self.name)
            self._do(lambda: connection.admit(real.connection, self._route))
            return self._do(lambda: work(real))

    def __iter__(self) -> Iterator[Any]:
        while rows := self.fetchmany(self.itersize):
            yield from rows

    def close(self) -> None:
        if self._real is not None:
            real, self._real = self._real, None
            # psycopg asserts that a cursor has a result; one that was refused has none.
            with suppress(psycopg.Error, AssertionError):
                real.close()

    def __enter__(self) -> ServerCursor:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _do(self, work: Callable[[], Any]) -> Any:
        try:
            return work()
        except psycopg.Error as error:
            raise self.connection.translated(error) from error
