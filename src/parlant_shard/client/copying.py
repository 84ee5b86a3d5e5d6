"""COPY on a synchronous connection. The asynchronous twin is in `aio`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING, Any

import psycopg

from parlant_shard.client import copytext, failures
from parlant_shard.client.bound import Bound, own_cursor
from parlant_shard.client.steps import Call, placed, routed
from parlant_shard.errors import ShardError
from parlant_shard.router.query import Query
from parlant_shard.router.route import Params
from parlant_shard.shardmap import ShardMap
from parlant_shard.sqlfiles import queries

if TYPE_CHECKING:
    from parlant_shard.client.sync import Connection


@contextmanager
def copied(connection: Connection, text: Query, params: Params) -> Iterator[psycopg.Copy]:
    """Carry out a COPY; the block reads or writes the stream."""
    context, core = connection.context, connection.core
    shard_map = core.current()
    copy = copytext.read(text, params, shard_map)
    if isinstance(copy, copytext.CopyOut):
        call = Call(sql=copy.query, params=params or None)
        route = connection.perform(routed(core, shard_map, call, context))
        targets = placed(route, context, shard_map)
        if len(targets) > 1:
            raise several(route)
        # A setting and a COPY cannot be sent as one, so they share a transaction.
        walled = connection.router.wall.wanted(route, context) is not None
        with connection.transaction() if walled and not context.transaction else nullcontext():
            real = connection.real(targets[0].server, targets[0].shard)
            try:
                connection.admit(real, route)
            except psycopg.Error as error:
                raise connection.translated(error) from error
            statement = copytext.out_text(targets[0], copy.options)
            copied_ = real.cursor().copy(statement, targets[0].params or None)
            with (
                connection.block(copied_, shard=targets[0].shard) as stream,
                streamed(connection, real, targets[0].shard),
            ):
                yield stream
        return
    route = copytext.in_route(copy, shard_map, context)
    (target,) = placed(route, context, shard_map)
    if target.shard is None:
        real = connection.real(target.server)
        into = copytext.direct(copy, shard_map)
        with connection.block(real.cursor().copy(into)) as stream, streamed(connection, real, None):
            yield stream
        return
    workspace = context.named(shard_map)
    assert workspace is not None
    with nullcontext() if context.transaction else connection.transaction():
        real = connection.real(target.server, target.shard)
        cursor = own_cursor(real.cursor())
        try:
            connection.admit(real, route)
            generated = frozenset(
                row[0]
                for row in cursor.execute(
                    *generated_columns(copy, shard_map, target.shard), prepare=False
                )
            )
            staging = copytext.staged(
                copy,
                shard_map,
                shard=target.shard,
                workspace=workspace,
                generated=generated,
            )
            cursor.execute(staging.create)
        except psycopg.Error as error:
            raise connection.translated(error) from error
        with (
            connection.block(cursor.copy(staging.copy)) as stream,
            streamed(connection, real, target.shard),
        ):
            yield stream
        try:
            if staging.check is not None:
                row = cursor.execute(staging.check).fetchone()
                if row is not None and row[0]:
                    raise copytext.foreign_rows(row[0], workspace)
            cursor.execute(staging.insert)
            cursor.execute(staging.drop)
        except psycopg.Error as error:
            if failures.is_stale(error):
                connection.router.refresh()
            raise connection.translated(error) from error


@contextmanager
def streamed(connection: Bound, real: Any, shard: str | None) -> Iterator[None]:
    """Translate what the server says in the middle of a stream. Sends nothing.

    The block may talk to other connections of the application, whose errors are none of ours: if
    the stream failed, libpq has an error for its connection.
    """
    try:
        yield
    except psycopg.Error as error:
        if isinstance(error, ShardError) or not real.pgconn.error_message:
            raise
        raise connection.translated(error, shard=shard) from error


def several(route: Any) -> Exception:
    return failures.refused(
        route,
        "PS650",
        "the copied query reads several shards",
        "copy the rows of one workspace at a time, or use router.all_workspaces()",
    )


def generated_columns(
    copy: copytext.CopyIn, shard_map: ShardMap, shard: str
) -> tuple[bytes, dict[str, str]]:
    """The question which columns COPY without a list leaves out."""
    table = shard_map.physical(copy.table, shard)
    return queries("map")["generated"].encode(), {"namespace": shard_map.namespace, "table": table}
