"""Place a new workspace: an edit of the topology file, applied; with buckets only a row."""

from __future__ import annotations

import io
import os
import tempfile
from contextlib import suppress
from pathlib import Path

from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap, CommentedSeq
from ruamel.yaml.scalarstring import DoubleQuotedScalarString

from parlant_shard import db, journal, mapstore
from parlant_shard.apply import run_lock
from parlant_shard.errors import ApplyFailed, TopologyError
from parlant_shard.shardmap import shard_of
from parlant_shard.sqlfiles import queries
from parlant_shard.topology import Topology


def spelled(topology: Topology, workspace: str) -> str:
    """A workspace as the stored map spells it, or as it is where none is stored.

    Raises TopologyError (PS326), CannotConnect.
    """
    with db.session(topology, topology.coordinator) as coordinator:
        if not journal.exists(coordinator, topology.coordinator):
            return workspace
        shard_map = mapstore.load(coordinator, topology.name)
    return workspace if shard_map is None else mapstore.spell(shard_map, workspace)


def choose_shard(topology: Topology, workspace: str, to: str | None) -> str:
    """The shard for a new workspace: as asked, else its bucket's, else the emptiest list."""
    listed = {w: s for s, o in topology.shards.items() for w in o.workspaces}
    if workspace in listed:
        raise TopologyError(
            f'workspace "{workspace}" is on shard "{listed[workspace]}" already',
            code="PS320",
            hint="an empty workspace changes its shard by an edit of the file and `apply`; take "
            "one that was purged out of the file and `apply` first",
        )
    if not workspace or "\0" in workspace:
        raise TopologyError(
            "a workspace needs a name", code="PS321", hint="give its id as it is stored"
        )
    if to is not None:
        if to not in topology.shards:
            raise TopologyError(
                f'shard "{to}" is not in the topology',
                code="PS322",
                hint=f"the topology has: {', '.join(topology.shards)}",
                file=str(topology.file),
                line=topology.line("shards"),
                path="shards",
            )
        return to
    by_bucket = shard_of(topology, workspace)
    if by_bucket is not None:
        return by_bucket
    return min(topology.shards, key=lambda s: (len(topology.shards[s].workspaces), s))


def needs_edit(topology: Topology, workspace: str, shard: str) -> bool:
    """Whether the file has to change: a workspace whose bucket lives there needs only a row."""
    return shard_of(topology, workspace) != shard


def with_workspace(file: Path, workspace: str, shard: str) -> str:
    """Return the file's text with the workspace on that shard; comments and layout stay."""
    yaml = YAML()
    yaml.preserve_quotes = True
    yaml.width = 4096
    original = file.read_text(encoding="utf-8")
    document = yaml.load(original)
    options = document["shards"][shard]
    if not isinstance(options, CommentedMap):
        raise TopologyError(
            f'shard "{shard}" is no mapping in the file',
            code="PS323",
            file=str(file),
            path=f"shards.{shard}",
        )
    if options.get("workspaces") is None:
        options["workspaces"] = CommentedSeq()
        options["workspaces"].fa.set_flow_style()
    # Quoted where a bare word would read back as something other than this string.
    plain = YAML(typ="safe").load(io.StringIO(f"[{workspace}]")) if workspace.isalnum() else None
    value = workspace if plain == [workspace] else DoubleQuotedScalarString(workspace)
    options["workspaces"].append(value)
    out = io.StringIO()
    yaml.dump(document, out)
    return out.getvalue()


def write(file: Path, text: str) -> None:
    """Replace the file in one step, with its old permissions; a link stays a link."""
    file = file.resolve()
    was = file.stat()
    if not os.access(file.parent, os.W_OK):
        raise TopologyError(
            f'"{file}" cannot be replaced: its directory is not writable',
            code="PS325",
            hint="nothing was changed; run it as a user who may write there",
        )
    handle, temporary = tempfile.mkstemp(dir=file.parent, prefix=f".{file.name}.")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as stream:
            stream.write(text)
            stream.flush()
            os.fsync(stream.fileno())
        os.chmod(temporary, was.st_mode)
        with suppress(PermissionError):  # only root may give a file to its old owner
            os.chown(temporary, was.st_uid, was.st_gid)
        os.replace(temporary, file)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def place(topology: Topology, workspace: str, shard: str) -> None:
    """Write the placement row on the shard's server, then the directory row. Both idempotent."""
    statement = {
        name: (
            f"INSERT INTO parlant_shard.{name} (topology, workspace_id, shard) VALUES (%s, %s, %s) "  # noqa: S608  # one of two constant names
            "ON CONFLICT (topology, workspace_id) DO NOTHING"
        )
        for name in ("placement", "directory")
    }
    with run_lock(topology) as coordinator:
        if not _is_applied(coordinator):
            raise ApplyFailed(
                f'topology "{topology.name}" has not been applied yet',
                code="PS520",
                hint=f"run `parlant-shard apply {topology.file}` first",
            )
        with db.session(topology, topology.shards[shard].server) as server:
            server.execute(statement["placement"], [topology.name, workspace, shard])
        coordinator.execute(statement["directory"], [topology.name, workspace, shard])


def forget_purge(topology: Topology, workspace: str) -> None:
    """Forget that a workspace was purged, so that it can be placed anew. Idempotent.

    Raises TopologyError (PS748) while a purge of it has not finished: its rows would mix.
    """
    with run_lock(topology) as coordinator:
        if not _is_applied(coordinator):
            return
        mine = {"topology": topology.name, "workspace": workspace}
        row = coordinator.execute(queries("privacy")["refused"], mine).fetchone()
        if row is None:
            return
        if row["state"] == "purging":
            raise TopologyError(
                f'the purge of workspace "{workspace}" has not finished',
                code="PS748",
                hint=f"run `parlant-shard workspace purge {topology.file} {workspace}` again first",
            )
        if row["server"] in topology.servers:
            with db.session(topology, row["server"]) as server:
                server.execute(queries("privacy")["forget_placement"], mine)
        with coordinator.transaction():
            coordinator.execute(queries("privacy")["forget_directory"], mine)
            coordinator.execute(queries("privacy")["publish"], mine)
            coordinator.execute(queries("map")["notify"], mine)


def _is_applied(coordinator: db.Connection) -> bool:
    row = coordinator.execute(
        "SELECT pg_catalog.to_regclass('parlant_shard.directory') IS NOT NULL AS present"
    ).fetchone()
    return bool(row and row["present"])
