"""Measure growth and say when what is declared will be full, with an interval, and what to do.

`series` reads, `model` fits, `outlook` puts together, `advice` places. Nothing is changed.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime

from parlant_shard.errors import ShardError, UsageError
from parlant_shard.forecast import advice, series
from parlant_shard.forecast.model import GRID
from parlant_shard.forecast.outlook import Outlooks, outlooks
from parlant_shard.forecast.report import Report
from parlant_shard.forecast.series import Measured
from parlant_shard.topology import Interval, Topology

__all__ = ["HORIZON", "Report", "forecast", "span"]

HORIZON = Interval(12, "month")


def span(text: str) -> Interval:
    """Read --horizon: a span of time up to ten years. Raises UsageError (PS570)."""
    try:
        found = Interval.parse(text)
    except ValueError:
        found = Interval(0, "day")
    if not found or _days(found) > GRID[-1]:
        raise UsageError(
            f'"{text}" is not a span that can be forecast',
            code="PS570",
            hint='write a number and a unit, e.g. "6 months" or "1 year", up to 10 years',
        )
    return found


def _days(interval: Interval) -> float:
    shortest, longest = interval.bounds
    return (shortest + longest).total_seconds() / 2 / 86_400


def forecast(
    topology: Topology,
    *,
    horizon: Interval = HORIZON,
    limit: int | None = None,
    now: datetime | None = None,
) -> Report:
    """Forecast every server, shard, table and workspace of a topology.

    `limit` workspaces are in the report, those that grow most; advice considers all. `now` is UTC
    without zone: rows and samples are dated from it; without it the coordinator's clock decides, or
    that of the first server that answers. A server that fails is in the report, and what it holds
    is not. Raises ShardError (PS520) where the topology was never applied.
    """
    measured, moment, failed = _measure(topology, now)
    if not failed and not any(m.applied for m in measured):
        raise ShardError(
            f'topology "{topology.name}" has not been applied yet',
            code="PS520",
            hint=f"run `parlant-shard apply {topology.file}` first",
        )
    found = outlooks(topology, measured)
    recommendations = advice.advise(topology, found, days=_days(horizon))
    return Report(
        topology=topology.name,
        now=moment,
        horizon=str(horizon),
        servers=len(topology.servers),
        found=replace(found, workspaces=advice.order(found.workspaces)[:limit]),
        workspaces=len(found.workspaces),
        recommendations=recommendations,
        notices=(*_undeclared(topology, found), *(n for m in measured for n in m.notices)),
        failures=failed,
    )


def _measure(
    topology: Topology, now: datetime | None
) -> tuple[list[Measured], datetime, tuple[tuple[str, ShardError], ...]]:
    failed: dict[str, ShardError] = {}
    names = [topology.coordinator, *(n for n in topology.servers if n != topology.coordinator)]
    moment = now
    for name in names:
        if moment is not None:
            break
        try:
            moment = series.clock(topology, name)
        except ShardError as error:
            failed[name] = error
    # Nothing is measured then: the moment only heads the report.
    moment = moment or datetime.now(UTC).replace(tzinfo=None)

    def one(name: str) -> Measured | None:
        try:
            return series.measure(topology, name, moment)
        except ShardError as error:
            failed[name] = error
            return None

    todo = [n for n in topology.servers if n not in failed]
    with ThreadPoolExecutor(max_workers=max(1, min(8, len(todo)))) as pool:
        found = [m for m in pool.map(one, todo) if m is not None]
    return found, moment, tuple((n, failed[n]) for n in topology.servers if n in failed)


def _undeclared(topology: Topology, found: Outlooks) -> Sequence[str]:
    """How to declare a capacity, where one is missing."""
    missing = [o.name for o in found.servers if o.capacity is None]
    if not missing or any(o.capacity for o in found.shards):
        return ()
    names = ", ".join(f'"{n}"' for n in missing)
    return (
        f"no capacity is declared for server {names}: growth alone is shown; write "
        f"`capacity: 500 GB` under `servers: {{{missing[0]}: ...}}` of {topology.file}",
    )
