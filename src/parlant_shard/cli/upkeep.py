"""What cron runs."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer

from parlant_shard import prometheus, render
from parlant_shard.cli.shell import (
    METRICS_HINT,
    Progress,
    TopologyFile,
    app,
    complain,
    load,
    options,
    write_json,
)
from parlant_shard.errors import Exit
from parlant_shard.plan import Plan


@app.command()
def maintain(
    file: TopologyFile,
    now: Annotated[
        str | None, typer.Option("--now", metavar="TIMESTAMP", help="ISO 8601; bare means UTC.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show it, change nothing.")] = False,
    move_default_rows: Annotated[
        bool,
        typer.Option("--move-default-rows", help="Move rows of default partitions into others."),
    ] = False,
    move_limit: Annotated[
        int,
        typer.Option("--move-limit", metavar="ROWS", min=1, help="Not where there are more."),
    ] = 1_000_000,
    metrics_file: Annotated[
        Path | None,
        typer.Option("--metrics-file", metavar="FILE", help="For Prometheus' textfile collector."),
    ] = None,
) -> int:
    """The partition cron: premake, repair, detach, archive, drop. Safe to run twice at once."""
    from parlant_shard import maintain as upkeep

    moment = None if now is None else upkeep.moment(now)
    unwritable = None if metrics_file is None else prometheus.fault(metrics_file)
    if unwritable is not None:
        # Told first, and partitions are made all the same: inserts must not fail for a metric.
        complain("PS902", f"no metrics will be written: {unwritable}", METRICS_HINT)
    topology = load(file)
    progress = Progress()

    def count(found: Plan) -> None:
        progress.total = len(found.steps)
        if dry_run and found.steps and not options.json:
            typer.echo(render.plan_text(found, sql=options.verbose))

    report = upkeep.maintain(
        topology,
        now=moment,
        dry_run=dry_run,
        move=move_limit if move_default_rows else None,
        sizes=metrics_file is not None and unwritable is None and not dry_run,
        listener=progress,
        confirm=count,
    )
    if options.json:
        write_json(report.to_json())
    else:
        typer.echo(upkeep.report_text(report))
    for failure in report.failures:
        complain(failure.code, failure.message, failure.hint)
    if unwritable is not None:
        return report.exit_code or Exit.FAILED
    if metrics_file is not None and not dry_run:
        prometheus.write(metrics_file, upkeep.metrics(report, time.time()))
    return report.exit_code
