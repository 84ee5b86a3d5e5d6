"""Embedded servers and the demonstration."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from parlant_shard import local, render
from parlant_shard.cli.shell import TopologyFile, app, load, options, write_json
from parlant_shard.errors import TopologyError

local_app = typer.Typer(no_args_is_help=True, help="The embedded servers of a topology.")
app.add_typer(local_app, name="local")


def _embedded(file: Path) -> dict[str, Path]:
    topology = load(file, start=False)
    found = {n: s.embedded for n, s in topology.servers.items() if s.embedded is not None}
    if not found:
        raise TopologyError(
            "the topology has no embedded server",
            code="PS154",
            hint="a server of the form {embedded: DIRECTORY} is one",
            file=str(file),
            line=topology.line("servers"),
            path="servers",
        )
    return found


@local_app.command("up")
def local_up(file: TopologyFile) -> None:
    """Initialise and start the embedded servers."""
    _show_local({name: local.up(directory) for name, directory in _embedded(file).items()})


@local_app.command("down")
def local_down(file: TopologyFile) -> None:
    """Stop the embedded servers; their data stay."""
    stopped = {name: local.down(directory) for name, directory in _embedded(file).items()}
    if options.json:
        write_json({"stopped": stopped})
    else:
        for name, was_running in stopped.items():
            typer.echo(f"{name}: {'stopped' if was_running else 'was not running'}")


@local_app.command("status")
def local_status(file: TopologyFile) -> None:
    """Show which embedded servers run."""
    _show_local({name: local.status(directory) for name, directory in _embedded(file).items()})


def _show_local(found: dict[str, local.LocalServer | None]) -> None:
    rows = [
        {
            "server": name,
            "running": bool(s and s.running),
            "port": s.port if s else None,
            "version": s.version if s else None,
            "directory": str(s.directory) if s else None,
        }
        for name, s in found.items()
    ]
    if options.json:
        write_json({"servers": rows})
    else:
        typer.echo(
            render.table(
                list(rows[0]),
                [[*{**r, "running": "yes" if r["running"] else "no"}.values()] for r in rows],
            )
        )


@app.command()
def demo(
    keep: Annotated[
        Path | None, typer.Option("--keep", metavar="DIR", help="Keep files and data there.")
    ] = None,
    now: Annotated[
        str | None,
        typer.Option(
            "--now", metavar="TIMESTAMP", help="Begin at this moment; ISO 8601, bare means UTC."
        ),
    ] = None,
) -> None:
    """The main job end to end, on three embedded servers."""
    from parlant_shard import demo as showing
    from parlant_shard import maintain as upkeep

    showing.demo(keep, say=typer.echo, now=None if now is None else upkeep.moment(now))
