"""From an id to its workspace: the probe that every shard is asked, and what was found before."""

from __future__ import annotations

import threading
from collections import OrderedDict
from typing import Any
from uuid import UUID

from psycopg import sql

from parlant_shard import rls
from parlant_shard.router.route import Lookup
from parlant_shard.shardmap import ShardMap

_ANY_SHARD = sql.SQL(" UNION ALL ")


def probes(shard_map: ShardMap, lookup: Lookup, *, walled: bool = False) -> dict[str, sql.Composed]:
    """One query per server, over its shards, with the parameter `value`.

    Behind row-level security (`walled`) nobody sees a row without its workspace: a function of the
    server tells that alone.
    """
    if walled:
        ask = sql.SQL("SELECT {}(%(value)s::pg_catalog.uuid)").format(
            sql.Identifier("parlant_shard", rls.look_up_name(lookup.table, lookup.column))
        )
        return {about.server: ask for _, about in sorted(shard_map.shards.items())}
    found: dict[str, list[sql.Composable]] = {}
    for shard, about in sorted(shard_map.shards.items()):
        found.setdefault(about.server, []).append(
            sql.SQL(
                "SELECT {key}::pg_catalog.text FROM {table} "
                "WHERE {column} OPERATOR(pg_catalog.=) %(value)s"
            ).format(
                key=sql.Identifier(shard_map.key),
                table=sql.Identifier(shard_map.namespace, shard_map.physical(lookup.table, shard)),
                column=sql.Identifier(lookup.column),
            )
        )
    return {server: _ANY_SHARD.join(parts) for server, parts in sorted(found.items())}


class LookupCache:
    """What was found, bounded; the entry that was not asked for the longest goes first.

    An id never changes its workspace, so an entry is never wrong: where the row is gone, the
    statement finds nothing there. That an id does not exist is never kept: it may come any time.
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self._entries: OrderedDict[tuple[str, str, str], str] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, lookup: Lookup) -> str | None:
        key = _key(lookup)
        with self._lock:
            found = self._entries.get(key)
            if found is not None:
                self._entries.move_to_end(key)
            return found

    def put(self, lookup: Lookup, workspace: str) -> None:
        if self._size <= 0:
            return
        key = _key(lookup)
        with self._lock:
            self._entries[key] = workspace
            self._entries.move_to_end(key)
            while len(self._entries) > self._size:
                self._entries.popitem(last=False)

    def __len__(self) -> int:
        return len(self._entries)


def _key(lookup: Lookup) -> tuple[str, str, str]:
    return lookup.table, lookup.column, _spelled(lookup.value)


def _spelled(value: Any) -> str:
    """A uuid has many spellings and is one value; anything else is what its type makes of it."""
    if isinstance(value, UUID):
        return str(value)
    if isinstance(value, str):
        try:
            return str(UUID(value))
        except ValueError:
            return f"str:{value}"
    return f"{type(value).__name__}:{value}"
