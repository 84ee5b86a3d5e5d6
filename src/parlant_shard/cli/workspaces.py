"""Workspaces and where they live."""

from __future__ import annotations

from typing import Annotated

import typer

from parlant_shard import render
from parlant_shard.cli.shell import Progress, TopologyFile, app, load, options, tell, write_json
from parlant_shard.errors import TopologyError
from parlant_shard.plan import Plan

workspace_app = typer.Typer(no_args_is_help=True, help="Workspaces and where they live.")
app.add_typer(workspace_app, name="workspace")


@workspace_app.command("list")
def workspace_list(file: TopologyFile) -> None:
    """Every workspace of the directory."""
    from parlant_shard import status as looking

    rows = looking.workspaces(load(file))
    if options.json:
        write_json({"workspaces": rows})
    else:
        typer.echo(
            render.table(
                ["workspace", "shard", "server", "state"],
                [[r["workspace"], r["shard"], r["server"], r["state"]] for r in rows],
            )
        )


@workspace_app.command("show")
def workspace_show(
    file: TopologyFile, workspace: Annotated[str, typer.Argument(metavar="WS")]
) -> None:
    """Where one workspace lives."""
    from parlant_shard import status as looking
    from parlant_shard.shardmap import bucket, shard_of

    topology = load(file)
    row = next((r for r in looking.workspaces(topology) if r["workspace"] == workspace), None)
    shard = row["shard"] if row else shard_of(topology, workspace)
    if shard is None:
        raise TopologyError(
            f'workspace "{workspace}" is unknown',
            code="PS324",
            hint="`parlant-shard workspace add` places it",
        )
    data = {
        "workspace": workspace,
        "shard": shard,
        "server": topology.shards[shard].server
        if shard in topology.shards
        else row and row["server"],
        "state": row["state"] if row else "not placed yet",
        "bucket": bucket(workspace) if topology.uses_buckets else None,
    }
    if options.json:
        write_json(data)
    else:
        typer.echo("\n".join(f"{k}: {v}" for k, v in data.items() if v is not None))


@workspace_app.command("add")
def workspace_add(
    file: TopologyFile,
    workspace: Annotated[str, typer.Argument(metavar="WS")],
    to: Annotated[str | None, typer.Option("--to", metavar="SHARD")] = None,
) -> None:
    """Place a new workspace: edits the file (comments stay) and applies that."""
    from parlant_shard import trail
    from parlant_shard import workspace as placing
    from parlant_shard.apply import apply as execute
    from parlant_shard.errors import ApplyFailed

    topology = load(file)
    shard = placing.choose_shard(topology, workspace, to)
    if not placing.needs_edit(topology, workspace, shard):
        with trail.recorded(topology, "workspace add", tell=tell) as entry:
            entry.objects, entry.detail = [workspace], {"shard": shard}
            placing.place(topology, workspace, shard)
    else:
        before = file.read_text(encoding="utf-8")
        placing.write(file, placing.with_workspace(file, workspace, shard))
        progress = Progress()

        def confirm(found: Plan) -> bool:
            progress.total = len(found.steps)
            return True

        try:
            execute(
                load(file),
                confirm=confirm,
                listener=progress,
                command="workspace add",
                objects=[workspace],
            )
        except ApplyFailed:
            tell(f'"{file}" names the workspace now; `parlant-shard apply {file}` goes on')
            raise
        except BaseException:
            placing.write(file, before)  # nothing was begun: the file must not say otherwise
            raise
    if options.json:
        write_json(
            {"workspace": workspace, "shard": shard, "server": topology.shards[shard].server}
        )
    else:
        typer.echo(f"workspace {workspace} is on shard {shard}")
