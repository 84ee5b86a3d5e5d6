"""Which workspace, where it lives, and a session that sees all of its rows or none."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from parlant_shard import db, journal, mapstore
from parlant_shard.allrows import every_row
from parlant_shard.archive import unrecorded
from parlant_shard.errors import ShardError, TopologyError
from parlant_shard.shardmap import ShardMap, shard_of
from parlant_shard.sqlfiles import queries
from parlant_shard.topology import Topology


@dataclass(frozen=True, slots=True, kw_only=True)
class Home:
    """A workspace with its shard and server; `state` is None where nothing is recorded of it.

    `workspace` is spelled as the map knows it, not as somebody wrote it.
    """

    workspace: str
    shard: str
    server: str
    state: str | None
    shard_map: ShardMap


def find_home(topology: Topology, workspace: str) -> Home:
    """Ask the coordinator. Raises TopologyError (PS324, PS326), ShardError (PS520)."""
    with db.session(topology, topology.coordinator) as connection:
        return home_of(topology, workspace, connection)


def home_of(topology: Topology, workspace: str, coordinator: db.Connection) -> Home:
    applied = journal.exists(coordinator, topology.coordinator)
    shard_map = mapstore.load(coordinator, topology.name) if applied else None
    if shard_map is None:
        raise ShardError(
            f'topology "{topology.name}" has not been applied yet',
            code="PS520",
            hint=f"run `parlant-shard apply {topology.file}` first",
        )
    workspace = mapstore.spell(shard_map, workspace)
    row = coordinator.execute(
        "SELECT d.shard, d.state FROM parlant_shard.directory d "
        "WHERE d.topology = %s AND d.workspace_id = %s",
        [topology.name, workspace],
    ).fetchone()
    shard = row["shard"] if row else shard_of(topology, workspace)
    known = shard_map.shards.get(shard) if shard else None
    if shard is None or known is None or known.server not in topology.servers:
        raise TopologyError(
            f'workspace "{workspace}" is unknown',
            code="PS324",
            hint="`parlant-shard workspace list` shows the workspaces",
        )
    return Home(
        workspace=workspace,
        shard=shard,
        server=known.server,
        state=row["state"] if row else None,
        shard_map=shard_map,
    )


@contextmanager
def sees_every_row(topology: Topology, server: str) -> Iterator[db.Connection]:
    """A session that row-level security makes fail, where it would hide rows."""
    with db.session(topology, server, doing="reading the workspace") as connection:
        connection.execute(every_row(topology.namespace, local=False))
        yield connection


@dataclass(frozen=True, slots=True, kw_only=True)
class Archives:
    """Archives of a shard's partitions: any of them may hold rows of a workspace.

    `found` are JSON-ready, those included that lie in a target and that no server knows of.
    `unread` says which targets could not be looked into, and why.
    """

    found: tuple[Mapping[str, Any], ...]
    unread: tuple[str, ...]


def archives(connection: db.Connection, topology: Topology, shard: str) -> Archives:
    rows = connection.execute(
        queries("privacy")["archives"], {"topology": topology.name, "shard": shard}
    ).fetchall()
    others, failed = unrecorded(topology, shard, [(r["table"], r["path"]) for r in rows])
    found = [{k: _plain(v) for k, v in row.items()} for row in rows]
    keys = ("table", "shard", "partition", "from", "to", "rows", "path", "state")
    found += [{k: e.to_json()[k] for k in keys} for e in others]
    return Archives(found=tuple(found), unread=tuple(e.message for e in failed.values()))


def _plain(value: Any) -> Any:
    return value.isoformat() + "Z" if isinstance(value, datetime) else value
