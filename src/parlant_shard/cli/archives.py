"""Archived partitions: which there are, and how they come back."""

from __future__ import annotations

from typing import Annotated

import typer

from parlant_shard import render
from parlant_shard.cli.shell import (
    Progress,
    TopologyFile,
    app,
    complain,
    load,
    options,
    tell,
    write_json,
)
from parlant_shard.errors import CannotConnect, Exit, UsageError
from parlant_shard.topology import Interval

archive_app = typer.Typer(no_args_is_help=True, help="Archived partitions.")
app.add_typer(archive_app, name="archive")


@archive_app.command("list")
def archive_list(
    file: TopologyFile,
    verify: Annotated[bool, typer.Option("--verify", help="Read every file to its end.")] = False,
) -> int:
    """Every archive: on the servers' records and in the targets."""
    from parlant_shard import archive

    topology = load(file)
    found, failed = archive.listing(topology, verify=verify)
    if options.json:
        write_json({"archives": [e.to_json() for e in found]})
    elif found:
        typer.echo(
            render.table(
                ["table", "shard", "partition", "rows", "bytes", "state", "path"],
                [
                    [
                        *map(_printable, (e.table, e.shard, e.partition)),
                        *map(_text, (e.rows, e.bytes)),
                        e.state,
                        _printable(e.path),
                    ]
                    for e in found
                ],
            )
        )
    else:
        typer.echo("no partition is archived")
    for entry in found:
        if entry.detail is not None:
            tell(f"{entry.state}: {_printable(entry.detail)}")
    for error in failed.values():
        complain(error.code, error.message, error.hint)
    if all(isinstance(failed.get(server), CannotConnect) for server in topology.servers):
        return Exit.CANNOT_CONNECT
    if failed:
        return Exit.FAILED
    damaged = any(e.state in {"missing", "corrupt"} for e in found)
    return Exit.FINDINGS if verify and damaged else Exit.DONE


def _text(number: int | None) -> str:
    return "" if number is None else str(number)


def _printable(text: str) -> str:
    """Names come from files that others may have written, and go to a terminal."""
    return "".join(c if c.isprintable() else "?" for c in text)


@archive_app.command("restore")
def archive_restore(
    file: TopologyFile,
    partition: Annotated[str, typer.Argument(metavar="PARTITION")],
    beside: Annotated[
        bool, typer.Option("--beside", help="As a table of its own, not attached.")
    ] = False,
    keep: Annotated[
        str | None,
        typer.Option("--keep", metavar="SPAN", help="How long it stays, e.g. 30 days."),
    ] = None,
    path: Annotated[
        str | None,
        typer.Option("--archive", metavar="PATH", help="Another archive than the recorded one."),
    ] = None,
) -> int:
    """Bring an archived partition back, verified; `maintain` archives it again later."""
    from parlant_shard.restore import restore

    span = None if keep is None else _span(keep)
    topology = load(file)
    found = restore(
        topology, partition, beside=beside, keep=span, archive=path, listener=Progress()
    )
    if options.json:
        write_json(found.to_json())
        return Exit.DONE
    where = "beside its table" if beside else f'attached to "{found.table}"'
    again = "" if found.steps else " already"
    typer.echo(
        f'Partition "{found.partition}" of shard "{found.shard}" is {where}{again}: '
        f"{found.rows} rows, kept until {found.kept_until:%Y-%m-%d %H:%M:%S} UTC."
    )
    return Exit.DONE


def _span(text: str) -> Interval:
    try:
        return Interval.parse(text)
    except ValueError as error:
        raise UsageError(
            f"--keep: {error}",
            code="PS556",
            hint='write a number and a unit, e.g. "30 days" or "6 months"',
        ) from error
