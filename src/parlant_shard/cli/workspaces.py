"""Workspaces and where they live."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer
from typer.exceptions import TyperException

from parlant_shard import render
from parlant_shard.cli.shell import (
    Allow,
    Progress,
    TopologyFile,
    Yes,
    app,
    load,
    options,
    tell,
    write_json,
)
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
    from parlant_shard import workspace as placing
    from parlant_shard.shardmap import bucket, shard_of

    topology = load(file)
    workspace = placing.spelled(topology, workspace)
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
    placing.choose_shard(topology, workspace, to)  # what the file refuses asks no server
    workspace = placing.spelled(topology, workspace)
    shard = placing.choose_shard(topology, workspace, to)
    placing.forget_purge(topology, workspace)
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


Workspace = Annotated[str, typer.Argument(metavar="WS")]


@workspace_app.command("export")
def workspace_export(
    file: TopologyFile,
    workspace: Workspace,
    out: Annotated[Path | None, typer.Option("-o", "--out", metavar="FILE")] = None,
) -> None:
    """Write all rows of a workspace to one file, with a manifest. Changes nothing."""
    from parlant_shard import privacy

    done = privacy.export(load(file), workspace, file=out, tell=tell)
    if options.json:
        write_json(done.to_json())
        return
    for notice in done.notices:
        tell(f"note: {notice}")
    filled = sum(t["rows"] > 0 for t in done.tables)
    typer.echo(
        f"workspace {done.workspace}: {done.rows} rows of {filled} tables in {done.file} "
        f"({done.bytes} bytes)"
    )


@workspace_app.command("purge")
def workspace_purge(
    file: TopologyFile,
    workspace: Workspace,
    yes: Yes = False,
    allow: Allow = [],  # noqa: B006  # typer copies it
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show it, change nothing.")] = False,
) -> None:
    """Delete all rows of a workspace, for good. Can be killed at any point and run again."""
    from parlant_shard import privacy

    if set(allow) - {"deletes-data"}:
        raise TyperException("only --allow deletes-data is for `workspace purge`")
    topology = load(file)
    progress = Progress()

    def confirm(found: Plan) -> bool:
        progress.total = len(found.steps)
        if yes:
            tell(render.summary(found))
            return True
        if options.json or not sys.stdin.isatty():
            raise TyperException("purge asks before it deletes anything: add --yes")
        typer.echo(render.plan_text(found, sql=options.verbose), err=True)
        return typer.confirm(f"Delete all rows of workspace {workspace}?", err=True)

    done = privacy.purge(
        topology,
        workspace,
        allow=frozenset(allow),
        dry_run=dry_run,
        confirm=confirm,
        listener=progress,
    )
    if options.json:
        write_json(done.to_json())
        return
    if dry_run:
        typer.echo(render.plan_text(done.plan, sql=options.verbose))
    else:
        for notice in done.plan.notices:
            tell(f"note: {notice}")
    typer.echo(_purged(done.workspace, done.total, dry_run, done.declined, done.plan))


def _purged(workspace: str, rows: int, dry_run: bool, declined: bool, plan: Plan) -> str:
    if declined:
        return "nothing was changed"
    if not plan.steps:
        return f"workspace {workspace}: purged before; no server has a row of it"
    if dry_run:
        return f"workspace {workspace}: {rows} rows would be deleted"
    return f"workspace {workspace}: {rows} rows deleted; no server has a row of it"
