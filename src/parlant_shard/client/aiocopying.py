"""COPY on an asynchronous connection: the twin of `copying`."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, nullcontext
from typing import TYPE_CHECKING

import psycopg

from parlant_shard.client import copytext, failures
from parlant_shard.client.bound import own_cursor
from parlant_shard.client.copying import generated_columns, several, streamed
from parlant_shard.client.steps import Call, placed, routed
from parlant_shard.router.query import Query
from parlant_shard.router.route import Params

if TYPE_CHECKING:
    from parlant_shard.client.aio import AsyncConnection


@asynccontextmanager
async def copied(
    connection: AsyncConnection, text: Query, params: Params
) -> AsyncIterator[psycopg.AsyncCopy]:
    """Carry out a COPY; the block reads or writes the stream."""
    context, core = connection.context, connection.core
    shard_map = core.current()
    copy = copytext.read(text, params, shard_map)
    if isinstance(copy, copytext.CopyOut):
        call = Call(sql=copy.query, params=params or None)
        route = await connection.perform(routed(core, shard_map, call, context))
        targets = placed(route, context, shard_map)
        if len(targets) > 1:
            raise several(route)
        # A setting and a COPY cannot be sent as one, so they share a transaction.
        walled = connection.router.wall.wanted(route, context) is not None
        async with (
            connection.transaction() if walled and not context.transaction else nullcontext()
        ):
            real = await connection.real(targets[0].server, targets[0].shard)
            try:
                await connection.admit(real, route)
            except psycopg.Error as error:
                raise connection.translated(error) from error
            statement = copytext.out_text(targets[0], copy.options)
            copied_ = real.cursor().copy(statement, targets[0].params or None)
            async with connection.block(copied_, shard=targets[0].shard) as stream:
                with streamed(connection, real, targets[0].shard):
                    yield stream
        return
    route = copytext.in_route(copy, shard_map, context)
    (target,) = placed(route, context, shard_map)
    if target.shard is None:
        real = await connection.real(target.server)
        into = copytext.direct(copy, shard_map)
        async with connection.block(real.cursor().copy(into)) as stream:
            with streamed(connection, real, None):
                yield stream
        return
    workspace = context.named(shard_map)
    assert workspace is not None
    async with nullcontext() if context.transaction else connection.transaction():
        real = await connection.real(target.server, target.shard)
        cursor = own_cursor(real.cursor())
        try:
            await connection.admit(real, route)
            await cursor.execute(*generated_columns(copy, shard_map, target.shard), prepare=False)
            generated = frozenset([row[0] async for row in cursor])
            staging = copytext.staged(
                copy,
                shard_map,
                shard=target.shard,
                workspace=workspace,
                generated=generated,
            )
            await cursor.execute(staging.create)
        except psycopg.Error as error:
            raise connection.translated(error) from error
        async with connection.block(cursor.copy(staging.copy)) as stream:
            with streamed(connection, real, target.shard):
                yield stream
        try:
            if staging.check is not None:
                await cursor.execute(staging.check)
                row = await cursor.fetchone()
                if row is not None and row[0]:
                    raise copytext.foreign_rows(row[0], workspace)
            await cursor.execute(staging.insert)
            await cursor.execute(staging.drop)
        except psycopg.Error as error:
            if failures.is_stale(error):
                await connection.router.refresh()
            raise connection.translated(error) from error
