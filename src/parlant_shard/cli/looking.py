"""Commands that look at the servers and change nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from parlant_shard import render
from parlant_shard.cli.shell import TopologyFile, app, complain, load, options, write_json
from parlant_shard.errors import Exit


@app.command()
def status(
    file: TopologyFile,
    history: Annotated[bool, typer.Option("--history", help="Who did what, newest first.")] = False,
) -> int:
    """Shards, sizes, workspaces, partitions and the last run."""
    from parlant_shard import status as looking

    topology = load(file)
    if history:
        past = looking.history(topology)
        if options.json:
            write_json(past)
        else:
            typer.echo(render.history_text(past))
        if not past["trail"]["ok"]:
            complain(
                "PS750",
                f"the audit trail is broken at row {past['trail']['broken_at']}: it was changed "
                "past its triggers",
                "compare it with a backup of schema parlant_shard, and look at who may act as its "
                "owner",
            )
        return Exit.DONE if past["trail"]["ok"] else Exit.FINDINGS
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
