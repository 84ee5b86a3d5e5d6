"""From an id to its workspace: the probe that every shard is asked, and what was found before."""

from __future__ import annotations

import threading
from collections import OrderedDict
from typing import Any

from psycopg import sql

from parlant_shard import rls
from parlant_shard.router.route import Lookup
from parlant_shard.shardmap import ShardMap, id_type

_ANY_SHARD = sql.SQL(" UNION ALL ")


# How the value of an id is given: by the type of its column, so that no operator is ambiguous.
_VALUES = {
    "uuid": sql.SQL("%(value)s::pg_catalog.uuid"),
    "text": sql.SQL("%(value)s::pg_catalog.text"),
    "character varying": sql.SQL("%(value)s::pg_catalog.varchar"),
    "character": sql.SQL("%(value)s::pg_catalog.bpchar"),
    "bigint": sql.SQL("%(value)s::pg_catalog.int8"),
    "integer": sql.SQL("%(value)s::pg_catalog.int4"),
    "smallint": sql.SQL("%(value)s::pg_catalog.int2"),
}


def probes(
    shard_map: ShardMap, lookup: Lookup, *, walled: bool = False, server: str | None = None
) -> dict[str, sql.Composed]:
    """One query per server, over its shards, with the parameter `value`: workspaces of the row.

    With `server` for that one alone.

    Behind row-level security (`walled`) nobody sees a row without its workspace: a function of the
    server tells that alone. The value is one that the column's type has, so no query fails for it.
    """
    shards = {n: s for n, s in sorted(shard_map.shards.items()) if server in {None, s.server}}
    value = _VALUES[id_type(shard_map.tables[lookup.table].type_of(lookup.column)) or "text"]
    if walled:
        name = rls.look_up_name(lookup.table, lookup.column)
        ask = sql.SQL("SELECT {}({})").format(sql.Identifier("parlant_shard", name), value)
        return {about.server: ask for about in shards.values()}
    found: dict[str, list[sql.Composable]] = {}
    for shard, about in shards.items():
        found.setdefault(about.server, []).append(
            sql.SQL(
                "SELECT {key}::pg_catalog.text FROM {table} "
                "WHERE {column} OPERATOR(pg_catalog.=) {value}"
            ).format(
                key=sql.Identifier(shard_map.key),
                table=sql.Identifier(shard_map.namespace, shard_map.physical(lookup.table, shard)),
                column=sql.Identifier(lookup.column),
                value=value,
            )
        )
    return {server: _ANY_SHARD.join(parts) for server, parts in sorted(found.items())}


_Key = tuple[str, str, Any]


class LookupCache:
    """What was found, bounded; the entry that was not asked for the longest goes first.

    An entry is where to look first. The row may have been deleted and inserted in another workspace
    since, so who finds nothing there asks again. What only a transaction saw is not put in. That an
    id does not exist is never kept: it may come any time.
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self._entries: OrderedDict[_Key, str] = OrderedDict()
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

    def forget(self, lookup: Lookup) -> None:
        with self._lock:
            self._entries.pop(_key(lookup), None)

    def __len__(self) -> int:
        return len(self._entries)


def _key(lookup: Lookup) -> _Key:
    """A tuple is found faster than a dataclass is."""
    return lookup.table, lookup.column, lookup.value
