"""The outlook of every server, shard, table and workspace, from what was measured. Pure.

A whole is fitted as a whole: its tables are added up in bytes, each row as large as an average row
of its table. Tables whose rows leave after a while are fitted apart from those that keep theirs.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from parlant_shard.forecast.model import (
    Growth,
    Interval,
    TooLittle,
    added,
    of_inflow,
    of_levels,
    reaches,
)
from parlant_shard.forecast.series import DAILY, OLDEST, Measured, Rows, Sample, Stock
from parlant_shard.topology import Size, Topology

Source = Literal["samples", "timestamps", "samples and timestamps", "none"]
Fit = Growth | TooLittle
Key = tuple[str, str]  # shard, table

# Samples see deletes and bloat, timestamps see further back: samples count once they cover this.
SETTLED = 60.0
# Parts of a whole: what may be unknown and is taken to grow like the rest.
NEGLIGIBLE, COVERED = 0.1, 0.5
_DIFFERENT = 2.0
STRAY = 0.01  # of the rows may be older than the beginning


@dataclass(frozen=True, slots=True, kw_only=True)
class Outlook:
    """What one thing will become. Sizes in bytes; `months` until `capacity`: low, expected, high.

    `growth` is in bytes, `in_rows` in rows. `months` is None without a capacity, and without a
    growth unless it is full already; an end of it is None for never within ten years.
    """

    kind: Literal["server", "shard", "table", "workspace"]
    name: str
    server: str | None
    shard: str | None
    bytes: float
    rows: float
    growth: Fit
    in_rows: Fit
    source: Source
    read: float = 1.0  # the smallest part of a table that was read
    capacity: int | None = None
    notices: tuple[str, ...] = ()

    @property
    def is_full(self) -> bool:
        return self.capacity is not None and self.bytes >= self.capacity

    @property
    def months(self) -> tuple[float | None, float | None, float | None] | None:
        if self.is_full:
            return 0.0, 0.0, 0.0
        if self.capacity is None or isinstance(self.growth, TooLittle):
            return None
        return (
            reaches(self.bytes, self.growth.high, self.capacity),
            reaches(self.bytes, self.growth.expected, self.capacity),
            reaches(self.bytes, self.growth.low, self.capacity),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Outlooks:
    """All of them, each kind in the order of the topology or by name."""

    servers: tuple[Outlook, ...]
    shards: tuple[Outlook, ...]
    tables: tuple[Outlook, ...]
    workspaces: tuple[Outlook, ...]


def outlooks(topology: Topology, measured: Sequence[Measured]) -> Outlooks:
    """Forecast everything that was measured."""
    world = _World(measured)
    reached = {m.server for m in measured if m.applied}
    servers = []
    for found in measured:
        parts = world.parts(s for s in world.stocks.values() if s.server == found.server)
        servers.append(
            _outlook(
                "server",
                found.server,
                parts,
                size=found.bytes,
                capacity=topology.servers[found.server].capacity,
            )
        )
    shards = [
        _outlook(
            "shard",
            name,
            world.parts(s for s in world.stocks.values() if s.shard == name),
            server=options.server,
            capacity=options.capacity,
        )
        for name, options in topology.shards.items()
        if options.server in reached
    ]
    tables = [
        _outlook("table", name, world.parts(s for s in world.stocks.values() if s.logical == name))
        for name in sorted({s.logical for s in world.stocks.values()})
    ]
    return Outlooks(
        servers=tuple(servers),
        shards=tuple(shards),
        tables=tuple(tables),
        workspaces=tuple(world.workspaces()),
    )


class _World:
    """What was measured, by table of a shard."""

    def __init__(self, measured: Sequence[Measured]) -> None:
        self.stocks = {(s.shard, s.logical): s for m in measured for s in m.stocks}
        self.rows: dict[Key, list[Rows]] = defaultdict(list)
        self.samples: dict[Key, list[Sample]] = defaultdict(list)
        for m in measured:
            for row in m.rows:
                self.rows[row.shard, row.logical].append(row)
            for sample in m.samples:
                self.samples[sample.shard, sample.logical].append(sample)

    def parts(self, stocks: Iterable[Stock]) -> list[_Part]:
        """Whole tables of shards."""
        return [
            _Part(
                stock=stock,
                bytes=stock.bytes,
                rows=stock.rows,
                came=self.rows[stock.shard, stock.logical],
                samples=[
                    s for s in self.samples[stock.shard, stock.logical] if s.workspace is None
                ],
            )
            for stock in stocks
        ]

    def workspaces(self) -> Iterator[Outlook]:
        """One of each workspace on each shard, over all tables."""
        came: dict[tuple[str, str], dict[Key, list[Rows]]] = defaultdict(lambda: defaultdict(list))
        samples: dict[tuple[str, str], dict[Key, list[Sample]]] = defaultdict(
            lambda: defaultdict(list)
        )
        for key, rows in self.rows.items():
            for row in rows:
                if row.workspace is not None:
                    came[key[0], row.workspace][key].append(row)
        for key, sampled in self.samples.items():
            for sample in sampled:
                if sample.workspace is not None:
                    samples[key[0], sample.workspace][key].append(sample)
        for shard, workspace in sorted(came.keys() | samples.keys()):
            mine = (shard, workspace)
            parts = [
                _of_workspace(self.stocks[key], came[mine][key], samples[mine][key])
                for key in sorted(came[mine].keys() | samples[mine].keys())
                if key in self.stocks
            ]
            if parts:
                server = parts[0].stock.server
                yield _outlook("workspace", workspace, parts, server=server, shard=shard)


def _of_workspace(stock: Stock, came: Sequence[Rows], samples: Sequence[Sample]) -> _Part:
    rows = sum(r.rows for r in came)
    size = rows * stock.width
    if not stock.read and samples:
        last = min(samples, key=lambda s: s.ago)
        rows, size = last.rows, last.bytes
    return _Part(stock=stock, bytes=size, rows=rows, came=came, samples=samples)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Part:
    """One table of a shard, or one workspace's rows in it."""

    stock: Stock
    bytes: float
    rows: float
    came: Sequence[Rows]
    samples: Sequence[Sample]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Unit:
    """Bytes, or rows: how much a part, a row of it and a sample are."""

    size: Callable[[_Part], float]
    row: Callable[[Stock], float]
    sample: Callable[[Sample], float]


_BYTES = _Unit(size=lambda p: p.bytes, row=lambda s: s.width, sample=lambda s: s.bytes)
_ROWS = _Unit(size=lambda p: p.rows, row=lambda _s: 1.0, sample=lambda s: s.rows)


def _outlook(
    kind: Literal["server", "shard", "table", "workspace"],
    name: str,
    parts: Sequence[_Part],
    *,
    server: str | None = None,
    shard: str | None = None,
    size: float | None = None,
    capacity: Size | None = None,
) -> Outlook:
    growth, source, notices = _grown(parts, _BYTES)
    in_rows, _, _ = _grown(parts, _ROWS)
    kept = sorted(
        {p.stock.logical for p in parts if p.stock.expires and p.stock.kept is None and p.bytes}
    )
    if kept and kind in {"server", "table"}:
        names = ", ".join(f'"{n}"' for n in kept)
        notices += (
            f"{names}: `retention` detaches partitions, but without `archive:` they stay on the "
            "disk",
        )
    return Outlook(
        kind=kind,
        name=name,
        server=server,
        shard=shard,
        bytes=size if size is not None else sum(p.bytes for p in parts),
        rows=sum(p.rows for p in parts),
        growth=growth,
        in_rows=in_rows,
        source=source,
        read=min((p.stock.read for p in parts if p.stock.moment and p.stock.read), default=1.0),
        capacity=None if capacity is None else capacity.bytes,
        notices=(*growth.notices, *notices),
    )


def _grown(parts: Sequence[_Part], unit: _Unit) -> tuple[Fit, Source, tuple[str, ...]]:
    """The growth of a whole: parts that keep their rows, and those that do not, each together."""
    classes: dict[float | None, list[_Part]] = defaultdict(list)
    for part in parts:
        classes[part.stock.kept].append(part)
    whole = sum(unit.size(p) for p in parts)
    known: list[Growth] = []
    unknown: list[tuple[float, TooLittle]] = []
    sources: set[Source] = set()
    notices: list[str] = []
    for kept, members in classes.items():
        fit, source, said = _class(members, kept, unit)
        notices += said
        if isinstance(fit, TooLittle):
            unknown.append((sum(unit.size(p) for p in members), fit))
        else:
            known.append(fit)
            sources.add(source)
    left = sum(size for size, _ in unknown)
    if not known or (unknown and left > NEGLIGIBLE * whole):
        worst = max(unknown, key=lambda u: u[0], default=(0.0, _nothing()))[1]
        return worst, "none", tuple(notices)
    growth = added(known)
    assert growth is not None
    if left:
        growth = growth.times(whole / (whole - left))
    source = sources.pop() if len(sources) == 1 else "samples and timestamps"
    return growth, source, tuple(notices)


def _nothing() -> TooLittle:
    return TooLittle(points=0, span=0.0, needs="rows: there are none")


def _class(
    parts: Sequence[_Part], kept: float | None, unit: _Unit
) -> tuple[Fit, Source, tuple[str, ...]]:
    size = sum(unit.size(p) for p in parts)
    dated = _of_timestamps(parts, kept, unit, size)
    sampled = of_levels(_levels(parts, unit), size)
    if isinstance(sampled, TooLittle) and isinstance(dated, TooLittle):
        return (dated if dated.points >= sampled.points else sampled), "none", ()
    if isinstance(sampled, TooLittle):
        return dated, "timestamps", ()
    # With retention, sizes go up and down by a partition: the law is in what comes in.
    if isinstance(dated, TooLittle):
        return sampled, "samples", ()
    if kept is not None or sampled.span < min(SETTLED, dated.span / 2):
        return dated, "timestamps", ()
    pair = sampled.per_month[1], dated.per_month[1]
    notices: tuple[str, ...] = ()
    if max(pair) > _DIFFERENT * max(min(pair), 0.0) and max(pair) > 0.001 * size:
        notices = (
            "samples and timestamps disagree: rows are deleted or updated, or were loaded with "
            "old timestamps; the samples count",
        )
    return sampled, "samples", notices


# --- timestamps -----------------------------------------------------------------------------------


def _of_timestamps(parts: Sequence[_Part], kept: float | None, unit: _Unit, size: float) -> Fit:
    dated = [p for p in parts if p.stock.moment is not None and p.stock.read]
    covered = sum(unit.size(p) for p in dated)
    some = any(p.rows for p in parts)
    if not some or covered < COVERED * size:
        needs = "a timestamp of creation in its tables" if some else "rows: there are none"
        return TooLittle(points=0, span=0.0, needs=needs)
    series = intervals(((p.stock, p.came) for p in dated), unit.row)
    found = of_inflow(series, covered, kept=kept)
    return found if isinstance(found, TooLittle) else found.times(size / covered)


def intervals(
    dated: Iterable[tuple[Stock, Iterable[Rows]]], worth: Callable[[Stock], float]
) -> list[Interval]:
    """What came in, by weeks; by days where eight weeks are not full yet.

    The oldest interval that has anything is left out: it did not begin when the rows did.
    """
    came: dict[tuple[float, float], float] = defaultdict(float)
    before = 0.0
    for stock, rows in dated:
        for row in rows:
            if row.newest is None:
                continue
            if row.oldest is None:
                before += row.rows * worth(stock)
            else:
                came[row.oldest, row.newest] += row.rows * worth(stock)
    if not came:
        return []
    start = _start(came, before)
    beyond = start is None
    span = OLDEST if start is None else start
    step = 7 if span > DAILY else 1
    count = int(-(-span // step))
    amounts = [0.0] * count
    for (oldest, newest), amount in came.items():
        first, last = int(newest // step), min(int(-(-oldest // step)), count)
        for place in range(max(first, 0), last):
            shared = min(oldest, (place + 1) * step) - max(newest, place * step)
            amounts[place] += amount * max(shared, 0.0) / (oldest - newest)
    if not beyond:
        count -= 1
    if step == 1 and count >= 14:
        count -= count % 7  # whole weeks, so that a quiet Sunday weighs as much as it should
    return [
        Interval(start=-float((n + 1) * step), end=-float(n * step), amount=amounts[n])
        for n in range(count)
    ]


def _start(came: Mapping[tuple[float, float], float], before: float) -> float | None:
    """The days since rows come; None for longer than we look back.

    The oldest few say nothing of it: one row of the year 1970 would make decades of silence.
    """
    total = before + sum(came.values())
    seen = before
    if seen > STRAY * total:
        return None
    for (oldest, _), amount in sorted(came.items(), reverse=True):
        seen += amount
        if seen > STRAY * total:
            return min(oldest, float(OLDEST))
    return 0.0


# --- samples --------------------------------------------------------------------------------------


def _levels(parts: Sequence[_Part], unit: _Unit) -> list[tuple[float, float]]:
    """The sizes of all parts together, whenever one of them was sampled; one a day.

    Between its samples a part is on a straight line, outside of them as large as the nearest.
    """
    series = [sorted((-s.ago, unit.sample(s)) for s in p.samples) for p in parts if p.samples]
    days = sorted({_day(day): day for s in series for day, _ in s}.values())
    total = [0.0] * len(days)
    for one in series:
        place = 0
        for n, day in enumerate(days):
            while place + 1 < len(one) and one[place + 1][0] <= day:
                place += 1
            total[n] += _between(one, place, day)
    return list(zip(days, total, strict=True))


def _day(ago: float) -> int:
    return int(ago // 1)


def _between(one: Sequence[tuple[float, float]], place: int, day: float) -> float:
    before = one[place]
    if day <= before[0] or place + 1 == len(one):
        return before[1]
    after = one[place + 1]
    return before[1] + (after[1] - before[1]) * (day - before[0]) / (after[0] - before[0])
