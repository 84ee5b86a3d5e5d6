"""Commands that look at the servers and change nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from parlant_shard import render
from parlant_shard.cli.shell import TopologyFile, app, complain, load, options, tell, write_json
from parlant_shard.errors import Exit


@app.command()
def status(
    file: TopologyFile,
    history: Annotated[bool, typer.Option("--history", help="Every run, newest first.")] = False,
) -> int:
    """Shards, sizes, workspaces, partitions and the last run."""
    from parlant_shard import status as looking

    topology = load(file)
    if history:
        runs = looking.history(topology)
        if options.json:
            write_json({"runs": runs})
        else:
            typer.echo(render.history_text(runs) if runs else "no run is recorded")
        return Exit.DONE
    found = looking.status(topology)
    failed = [s for s in found["servers"] if "error" in s]
    if options.json:
        write_json(found)
    else:
        typer.echo(render.status_text(found))
    for server in failed:
        complain("PS401", server["error"], server["hint"])
    if failed and len(failed) == len(found["servers"]):
        return Exit.CANNOT_CONNECT
    return Exit.FAILED if failed else Exit.DONE


@app.command()
def doctor(
    file: TopologyFile,
    sql: Annotated[
        Path | None, typer.Option("--sql", metavar="FILE", help="Statements to try as well.")
    ] = None,
) -> int:
    """Look at the live servers: what will not work, and what to do about it."""
    from parlant_shard import doctor as examining

    report = examining.doctor(load(file), sql)
    if options.json:
        write_json(report.to_json())
    else:
        typer.echo(report.to_text())
    return Exit.DONE if report.ok else Exit.FINDINGS


@app.command()
def verify(
    file: TopologyFile,
    workspace: Annotated[
        str | None,
        typer.Option("--workspace", metavar="WS", help="Only what concerns this workspace."),
    ] = None,
    state: Annotated[
        Path | None,
        typer.Option("--state", metavar="FILE", help="Keep there what is done, and resume."),
    ] = None,
) -> int:
    """The isolation and integrity audit of every shard. Changes nothing."""
    from parlant_shard import verify as auditing

    report = auditing.verify(load(file), workspace=workspace, state=state, say=tell)
    if options.json:
        write_json(report.to_json())
    else:
        typer.echo(report.to_text())
    return report.exit_code
