"""Commands that look at the servers and change nothing."""

from __future__ import annotations

import time
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Annotated

import typer
from typer.exceptions import TyperException

from parlant_shard import prometheus, render
from parlant_shard.cli.shell import (
    METRICS_HINT,
    TopologyFile,
    app,
    complain,
    load,
    options,
    tell,
    write_json,
)
from parlant_shard.errors import CannotConnect, Exit, ShardError
from parlant_shard.topology import Interval, Topology


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
        complain(server["code"], server["error"], server["hint"])
    problems = [r["problem"] for r in found["replication"] if r["problem"] is not None]
    for problem in problems:
        complain(problem["code"], problem["message"], problem["hint"])
    if failed and len(failed) == len(found["servers"]):
        return Exit.CANNOT_CONNECT
    if failed:
        return Exit.FAILED
    return Exit.FINDINGS if problems else Exit.DONE


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
def forecast(
    file: TopologyFile,
    horizon: Annotated[
        str, typer.Option("--horizon", metavar="SPAN", help="Advise on what fills up by then.")
    ] = "12 months",
    limit: Annotated[
        int, typer.Option("--limit", metavar="N", min=0, help="Show that many workspaces.")
    ] = 10,
    now: Annotated[
        str | None, typer.Option("--now", metavar="TIMESTAMP", help="ISO 8601; bare means UTC.")
    ] = None,
) -> int:
    """Growth, when declared capacities are reached, and what to move or to add."""
    from parlant_shard import forecast as growing
    from parlant_shard import maintain as upkeep

    moment = None if now is None else upkeep.moment(now)
    span = growing.span(horizon)
    report = growing.forecast(load(file), horizon=span, limit=limit, now=moment)
    if options.json:
        write_json(report.to_json())
    else:
        typer.echo(report.to_text())
    for _, error in report.failures:
        complain(error.code, error.message, error.hint)
    return report.exit_code


@app.command()
def monitor(
    file: TopologyFile,
    limit: Annotated[
        int, typer.Option("--limit", metavar="N", min=1, help="Rows of each list of the text.")
    ] = 20,
    metrics_file: Annotated[
        Path | None,
        typer.Option("--metrics-file", metavar="FILE", help="For Prometheus' textfile collector."),
    ] = None,
) -> int:
    """Sizes, use of tables and indexes, buffer hits and slow statements, over all shards."""
    from parlant_shard import observe

    unwritable = None if metrics_file is None else prometheus.fault(metrics_file)
    if unwritable is not None:
        complain("PS902", unwritable, METRICS_HINT)
        return Exit.FAILED
    topology = load(file)
    found = observe.monitor(topology)
    data = found.to_json()
    if options.json:
        write_json(data)
    else:
        typer.echo(observe.monitor_text(data, limit))
    if metrics_file is not None:
        prometheus.write(metrics_file, prometheus.exposition(observe.metrics(found, time.time())))
    return _unread(topology, found.observed.failed)


@app.command()
def advise(
    file: TopologyFile,
    min_age: Annotated[
        str,
        typer.Option(
            "--min-age",
            metavar="SPAN",
            help="How long statistics must have been kept before an index is called unused.",
        ),
    ] = "7 days",
) -> int:
    """Which indexes to drop, build, rebuild or repair, why, and with which statements."""
    from parlant_shard import observe

    limits = observe.Limits(min_age=_age(min_age))
    topology = load(file)
    found = observe.advise(topology, limits)
    if options.json:
        write_json(found.to_json())
    else:
        complete = not found.failed
        typer.echo(observe.advice_text(found.findings, found.notices, complete=complete))
    return _unread(topology, found.failed)


def _age(text: str) -> timedelta:
    try:
        return Interval.parse(text).timedelta
    except ValueError as error:
        raise TyperException(f"--min-age: {error}; write 7 days, 12 hours, 0 days") from error


def _unread(topology: Topology, failed: Mapping[str, ShardError]) -> int:
    """Complain of the servers that could not be read; the exit code says whether any could."""
    for error in failed.values():
        complain(error.code, error.message, error.hint)
    if len(failed) < len(topology.servers):
        return Exit.FAILED if failed else Exit.DONE
    lost = all(isinstance(e, CannotConnect) for e in failed.values())
    return Exit.CANNOT_CONNECT if lost else Exit.FAILED


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
