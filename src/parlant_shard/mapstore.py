"""The shard map in the coordinator: stored by `apply`, read by routers."""

from __future__ import annotations

from collections.abc import Iterable

import psycopg
from psycopg import sql
from psycopg.types.json import Jsonb

from parlant_shard.db import Connection
from parlant_shard.errors import RoutingError, TopologyError
from parlant_shard.shardmap import ShardMap, spelled
from parlant_shard.sqlfiles import queries

CHANNEL = "parlant_shard"
"""Notified with the topology's name when its map changes."""

# What a missing table or a missing right looks like.
_UNDEFINED = frozenset({"42P01", "3F000"})


def store(connection: Connection, shard_map: ShardMap) -> int | None:
    """Store a map and tell the routers, in one transaction. Returns its epoch, None if unchanged.

    The caller holds the topology's lock.
    """
    data = {**shard_map.to_data(), "epoch": 1}
    with connection.transaction():
        row = connection.execute(
            queries("map")["store"], {"topology": shard_map.topology, "map": Jsonb(data)}
        ).fetchone()
        if row is not None:
            connection.execute(queries("map")["notify"], {"topology": shard_map.topology})
    return None if row is None else int(row["epoch"])


def let_read(connection: Connection, readers: Iterable[str]) -> None:
    """Let the roles of isolation read the map, and nothing else of our tables."""
    with connection.transaction():
        for reader in readers:
            _let_read(connection, reader)


def _let_read(connection: Connection, role: str) -> None:
    found = connection.execute(queries("map")["missing_grants"], {"role": role}).fetchone()
    if found is None or not found["needed"]:
        return  # the role is not there yet, or has the right
    name = sql.Identifier(role)
    connection.execute(sql.SQL("GRANT USAGE ON SCHEMA parlant_shard TO {}").format(name))
    connection.execute(sql.SQL("GRANT SELECT ON parlant_shard.map TO {}").format(name))


def spell(shard_map: ShardMap, workspace: str) -> str:
    """A workspace as the map knows it, however a user wrote it. Raises TopologyError (PS326)."""
    text = spelled(workspace, shard_map.key_type)
    if text is None:
        raise TopologyError(
            f'workspace "{workspace}" is no {shard_map.key_type}, which "{shard_map.key}" is',
            code="PS326",
            hint="`parlant-shard workspace list` shows the workspaces",
        )
    return text


def load(connection: Connection, topology: str) -> ShardMap | None:
    """Read the stored map; None where none is stored. Sets nothing on the session.

    Raises RoutingError (PS630) for a map of another release, and (PS633) where the role may not
    read it.
    """
    try:
        row = connection.execute(queries("map")["load"], {"topology": topology}).fetchone()
    except psycopg.errors.InsufficientPrivilege as error:
        raise RoutingError(
            f'role "{connection.info.user}" may not read the shard map of topology "{topology}"',
            code="PS633",
            hint="name the role as `isolation.role` and apply, or: GRANT USAGE ON SCHEMA "
            "parlant_shard TO …; GRANT SELECT ON parlant_shard.map TO …",
        ) from error
    except psycopg.Error as error:
        if error.sqlstate in _UNDEFINED:
            return None
        raise
    if row is None:
        return None
    return ShardMap.from_data(
        {**row["map"], "epoch": row["epoch"]}, source=f'the stored map of topology "{topology}"'
    )
