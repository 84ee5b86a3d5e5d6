"""The client: pools, the live shard map, look-ups and the psycopg-shaped connections."""

from parlant_shard.client.aio import AsyncConnection, AsyncCursor, AsyncRouter, AsyncServerCursor
from parlant_shard.client.options import Options
from parlant_shard.client.sync import Connection, Cursor, Router, ServerCursor

__all__ = [
    "AsyncConnection",
    "AsyncCursor",
    "AsyncRouter",
    "AsyncServerCursor",
    "Connection",
    "Cursor",
    "Options",
    "Router",
    "ServerCursor",
]
