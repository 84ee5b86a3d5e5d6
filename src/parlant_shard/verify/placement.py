"""The checks of who lives where: topology, directory, placement rows and the routers' map."""

from __future__ import annotations

from collections.abc import Iterator

from psycopg.sql import SQL, Identifier, Literal

from parlant_shard import mapstore
from parlant_shard.catalog import Placement
from parlant_shard.ddl import render
from parlant_shard.errors import RoutingError
from parlant_shard.shardmap import UNKNOWN_FORMAT, ShardOf
from parlant_shard.verify.read import Seen
from parlant_shard.verify.report import Finding


def placement(seen: Seen) -> Iterator[Finding]:
    """Where a workspace is by the file, by the directory, and by the servers themselves.

    A workspace of a bucket is known once it has a row in the directory. A row says where its
    workspace is; the servers' rows are the truth that a directory can be rebuilt from.
    """
    topology, home = seen.topology, seen.topology.coordinator
    place = ShardOf(topology)
    listed = {w for s in topology.shards.values() for w in s.workspaces}
    directory = {p.workspace: p for p in seen.live[home].directory}
    known = listed | directory.keys()
    if home in seen.sites:
        yield from _shards(seen)
        for workspace in sorted(listed - directory.keys()):
            yield _finding(seen, home, "directory", workspace, "the directory does not have it")
        for workspace, row in sorted(directory.items()):
            wrong = _elsewhere(place(workspace), row)
            if wrong:
                yield _finding(seen, home, "directory", workspace, f"the directory {wrong}")
    for server in sorted(seen.sites):
        rows = {p.workspace: p for p in seen.live[server].placements}
        for workspace, row in sorted(rows.items()):
            shard = place(workspace)
            wrong = _elsewhere(shard, row)
            if not wrong and topology.shards[row.shard].server != server:
                wrong = f'has it here, but the shard is on "{topology.shards[row.shard].server}"'
            elif not wrong and home in seen.sites and workspace not in directory:
                wrong = f'puts it on shard "{row.shard}", and the directory does not have it'
                if workspace in listed:
                    continue  # said above
            elif not wrong and workspace in directory and directory[workspace].state != row.state:
                wrong = f"says {row.state}, and the directory says {directory[workspace].state}"
            if wrong:
                words = f"the placement row of the server {wrong}"
                yield _finding(seen, server, "placement", workspace, words)
        for workspace in sorted(known - rows.keys()):
            shard = place(workspace)
            if shard is not None and topology.shards[shard].server == server:
                words = f'shard "{shard}" is here, and the server has no placement row of it'
                yield _finding(seen, server, "placement", workspace, words)


def placed(seen: Seen) -> bool | None:
    """Whether the file, the directory or a server has the workspace; None without one."""
    if seen.workspace is None:
        return None
    rows = (p for c in seen.live.values() for p in (*c.directory, *c.placements))
    return ShardOf(seen.topology)(seen.workspace) is not None or any(
        p.workspace == seen.workspace for p in rows
    )


def _elsewhere(shard: str | None, row: Placement) -> str:
    if shard is None:
        return f'puts it on shard "{row.shard}", the topology places it nowhere'
    if shard != row.shard:
        return f'puts it on shard "{row.shard}", the topology on shard "{shard}"'
    return ""


def _shards(seen: Seen) -> Iterator[Finding]:
    home = seen.topology.coordinator
    recorded = seen.live[home].shards
    for shard in sorted({*recorded, *seen.topology.shards}):
        options = seen.topology.shards.get(shard)
        if recorded.get(shard) == (options.server if options else None):
            continue
        where = f'on "{recorded[shard]}"' if shard in recorded else "nowhere"
        should = f'on "{options.server}"' if options else "nowhere"
        yield Finding(
            check="placement",
            server=home,
            shard=shard,
            detail=f"the coordinator has the shard {where}, the topology {should}",
            statement=_shown(seen, "shard", shard=shard),
        )


def _finding(seen: Seen, server: str, table: str, workspace: str, detail: str) -> Finding:
    return Finding(
        check="placement",
        server=server,
        workspace=workspace,
        detail=detail,
        rows=1,
        statement=_shown(seen, table, workspace),
    )


def _shown(
    seen: Seen, table: str, workspace: str | None = None, *, shard: str | None = None
) -> str:
    statement = SQL("SELECT * FROM {} WHERE topology = {}").format(
        Identifier("parlant_shard", table), Literal(seen.topology.name)
    )
    if workspace is not None:
        statement += SQL(" AND workspace_id = {}").format(Literal(workspace))
    if shard is not None:
        statement += SQL(" AND shard = {}").format(Literal(shard))
    return render(statement)


def stored_map(seen: Seen) -> Iterator[Finding]:
    """The map that routers read, against the one that `apply` would store."""
    site = seen.coordinator
    if site is None or seen.live[site.server].internal_version < 2:
        return
    found, unread = None, ""
    with site.connection.transaction(force_rollback=True):
        try:
            found = mapstore.load(site.connection, seen.topology.name)
        except RoutingError as error:
            if error.code != UNKNOWN_FORMAT:
                raise
            unread = error.message
    if unread:
        detail = unread
    elif found is None:
        detail = "no shard map is stored: routers have nothing to follow"
    else:
        wanted, stored = seen.map(), found
        parts = {**wanted.to_data(), "epoch": 0}, {**stored.to_data(), "epoch": 0}
        differs = sorted(name for name in parts[0] if parts[0][name] != parts[1][name])
        if seen.workspace is not None and wanted.place(seen.workspace) == stored.place(
            seen.workspace
        ):
            return
        if not differs:
            return
        detail = f"the stored map differs from the topology in: {', '.join(differs)}"
    yield Finding(
        check="shard-map",
        server=site.server,
        detail=f"{detail}; `parlant-shard apply {seen.topology.file}` stores it",
        statement=_shown(seen, "map"),
    )
