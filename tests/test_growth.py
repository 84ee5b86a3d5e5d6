"""The laws of growth without a server: they are found again, and advice holds on the numbers."""

from __future__ import annotations

import math
import random
import shlex
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from statistics import median

import pytest
import typer
from hypothesis import given, settings
from hypothesis import strategies as st

from parlant_shard.cli import app
from parlant_shard.errors import UsageError
from parlant_shard.forecast import span
from parlant_shard.forecast.advice import advise
from parlant_shard.forecast.model import (
    GRID,
    MONTH,
    Growth,
    Interval,
    Law,
    TooLittle,
    added,
    at,
    of_inflow,
    of_levels,
    reaches,
)
from parlant_shard.forecast.outlook import Outlook, Outlooks, intervals
from parlant_shard.forecast.series import DAILY, OLDEST, WEEKLY, Rows, Stock, ages
from parlant_shard.topology import Size, Topology, parse_topology


def season(day: float) -> float:
    return 1 + 0.5 * math.sin(2 * math.pi * day / 7)


def arrivals(
    rate: Callable[[float], float], days: int, *, step: int = 7, noise: float = 0.0, seed: int = 1
) -> list[Interval]:
    """What comes in at a rate a day, with a weekly season, counted by weeks or days."""
    chance = random.Random(seed)

    def one(day: float) -> float:
        mean = rate(day) * season(day) * math.exp(chance.gauss(-noise * noise / 2, noise))
        return max(0.0, chance.gauss(mean, math.sqrt(mean)))

    return [
        Interval(
            start=-float((n + 1) * step),
            end=-float(n * step),
            amount=sum(one(-n * step - d - 0.5) for d in range(step)),
        )
        for n in range(days // step)
    ]


def sizes(
    level: Callable[[float], float], days: int, *, every: int = 1, noise: float = 0.0, seed: int = 1
) -> list[tuple[float, float]]:
    chance = random.Random(seed)
    return [
        (
            -float(d),
            level(-d) * (1 + noise * math.sin(2 * math.pi * d / 7) + chance.gauss(0, noise)),
        )
        for d in range(0, days, every)
    ]


def known(found: Growth | TooLittle) -> Growth:
    assert isinstance(found, Growth), found
    return found


def about(value: float) -> float:
    found: float = pytest.approx(value, rel=0.1)
    return found


# --- laws -----------------------------------------------------------------------------------------


@settings(max_examples=20)
@given(
    rate=st.floats(20, 1e6),
    weeks=st.integers(10, 104),
    seed=st.integers(0, 10_000),
    noise=st.floats(0, 0.2),
)
def test_level_inflow_is_linear_growth(rate: float, weeks: int, seed: int, noise: float) -> None:
    series = arrivals(lambda _d: rate, 7 * weeks, noise=noise, seed=seed)
    growth = known(of_inflow(series, rate * 7 * weeks))
    if growth.law is Law.LINEAR:  # by chance some series do grow
        assert growth.per_month[1] == pytest.approx(rate * MONTH, rel=0.15)
    assert growth.low[52] < rate * 364 * 1.2
    assert growth.high[52] > rate * 364 * 0.8


@settings(max_examples=20)
@given(
    rate=st.floats(0.005, 0.02),  # less can hardly be told from a line
    weeks=st.integers(30, 104),
    seed=st.integers(0, 10_000),
    start=st.floats(200, 1e5),
)
def test_exponential_inflow(rate: float, weeks: int, seed: int, start: float) -> None:
    """The base does not matter: the law is in what comes in, whatever was there before."""
    end = start * math.exp(rate * 7 * weeks)
    series = arrivals(lambda d: end * math.exp(rate * d), 7 * weeks, seed=seed)
    growth = known(of_inflow(series, 5 * end))
    assert growth.law is Law.EXPONENTIAL
    assert growth.per_month[1] == about(end / rate * math.expm1(rate * MONTH))
    size = 100 * end
    capacity = size + end / rate * math.expm1(rate * 200)
    assert reaches(size, growth.expected, capacity) == about(200 / MONTH)


@settings(max_examples=20)
@given(
    slope=st.floats(0.001, 0.02),
    days=st.integers(60, 700),
    every=st.sampled_from([1, 2, 7]),
    seed=st.integers(0, 10_000),
)
def test_linear_sizes(slope: float, days: int, every: int, seed: int) -> None:
    slope = min(slope, 0.95 / days)  # there was something at the beginning
    series = sizes(lambda d: 1e9 * (1 + slope * d), days, every=every, seed=seed)
    growth = known(of_levels(series, 1e9))
    assert growth.law is Law.LINEAR
    assert growth.per_month[1] == about(1e9 * slope * MONTH)
    assert reaches(1e9, growth.expected, 2e9) == about(1 / slope / MONTH)


@settings(max_examples=20)
@given(
    rate=st.floats(0.004, 0.03),
    days=st.integers(120, 500),
    every=st.sampled_from([1, 2, 7]),
    seed=st.integers(0, 10_000),
)
def test_exponential_sizes(rate: float, days: int, every: int, seed: int) -> None:
    series = sizes(lambda d: 1e9 * math.exp(rate * d), days, every=every, noise=0.003, seed=seed)
    growth = known(of_levels(series, 1e9))
    assert growth.law is Law.EXPONENTIAL
    assert reaches(1e9, growth.expected, 3e9) == about(math.log(3) / rate / MONTH)


@pytest.mark.parametrize("noise", [0.0, 0.3])
@pytest.mark.parametrize(("rate", "step"), [(0.0, 7), (0.005, 7), (0.0, 1)])
def test_intervals_hold_the_truth_four_times_out_of_five(
    noise: float, rate: float, step: int
) -> None:
    held = 0
    for seed in range(60):
        past = arrivals(
            lambda d: 50 * math.exp(rate * d), 49 * step, step=step, noise=noise, seed=seed
        )
        growth = known(of_inflow(past, 1e4))
        future = arrivals(lambda d: 50 * math.exp(-rate * d), 140, noise=noise, seed=-seed - 1)
        truth = sum(i.amount for i in future)
        held += at(growth.low, 140) <= truth <= at(growth.high, 140)
    assert 42 <= held <= 58


def test_a_sum_that_wanders_is_no_narrow_line() -> None:
    """Sizes add up what came in, noise too: residuals of a line look small and mean little."""
    held = 0
    for seed in range(60):
        chance, total, path = random.Random(seed), 1000.0, []
        for _ in range(240):
            total += chance.gauss(1, 0.7)
            path.append(total)
        found = of_levels([(d - 180.0, path[d]) for d in range(181)], path[180])
        growth = known(found)
        held += at(growth.low, 59) <= path[-1] - path[180] <= at(growth.high, 59)
    assert held >= 38


# --- retention ------------------------------------------------------------------------------------


@pytest.mark.parametrize("days", [60, 700])
def test_retention_ends_growth(days: int) -> None:
    """Before the retention is full it grows; then as much goes as comes."""
    series = arrivals(lambda _d: 100, days)
    there = min(days, 180) * 100
    growth = known(of_inflow(series, there, kept=180))
    assert growth.law is Law.STEADY
    assert growth.per_month[1] == pytest.approx(3044 if days == 60 else 0, abs=300)
    assert there + growth.expected[-1] == about(18_000)
    assert reaches(there, growth.expected, 25_000) is None


def test_retention_does_not_end_exponential_growth() -> None:
    rate = 0.004
    series = arrivals(lambda d: 100 * math.exp(rate * d), 700)
    there = 100 / rate * -math.expm1(-rate * 180)
    growth = known(of_inflow(series, there, kept=180))
    assert growth.law is Law.EXPONENTIAL
    assert there + at(growth.expected, 365) == about(there * math.exp(rate * 365))


# --- honesty --------------------------------------------------------------------------------------


@given(st.lists(st.tuples(st.floats(-900, 0), st.floats(0, 1e12)), max_size=7))
def test_few_points_give_no_number(points: list[tuple[float, float]]) -> None:
    found = of_levels(dict(points).items(), 1e9)
    assert isinstance(found, TooLittle)
    assert "8 samples over 14 days" in found.needs


def test_a_short_span_gives_no_number() -> None:
    assert isinstance(of_levels(sizes(lambda d: 1e9 + d, 13), 1e9), TooLittle)
    assert isinstance(of_inflow(arrivals(lambda _d: 9, 13, step=1), 1e9), TooLittle)


def test_noise_gives_no_number() -> None:
    chance = random.Random(4)
    points = [(-float(d), 1000 + chance.gauss(0, 200)) for d in range(40)]
    found = of_levels(points, 1000)
    assert isinstance(found, TooLittle)
    assert "noise" in found.needs


def test_what_does_not_grow_is_flat() -> None:
    growth = known(of_levels(sizes(lambda _d: 1e9, 300, noise=0.001), 1e9))
    assert growth.law is Law.FLAT
    assert reaches(1e9, growth.high, 2e9) is None


@settings(max_examples=80)
@given(
    st.lists(st.floats(0, 1e13, allow_subnormal=False), min_size=8, max_size=60),
    st.floats(1, 1e13),
    st.sampled_from([1, 7]),
    st.sampled_from([None, 30.0, 400.0]),
)
def test_any_series_gives_an_interval_or_none(
    amounts: list[float], size: float, step: int, kept: float | None
) -> None:
    inflow = [
        Interval(start=-float((n + 1) * step), end=-float(n * step), amount=a)
        for n, a in enumerate(amounts)
    ]
    levels = [(-float(n * step), a) for n, a in enumerate(amounts)]
    for found in (of_inflow(inflow, size, kept=kept), of_levels(levels, size)):
        if isinstance(found, Growth):
            assert all(map(math.isfinite, (*found.low, *found.expected, *found.high)))
            if kept is None:
                for low, middle, high in zip(found.low, found.expected, found.high, strict=True):
                    assert low <= middle + 1e-6 * abs(middle)
                    assert middle <= high + 1e-6 * abs(middle)


# --- what is no growth ----------------------------------------------------------------------------


def test_a_jump_is_no_growth() -> None:
    """A workspace that moved in 60 days ago: what came before says nothing of what comes."""
    points = [(d, v + (5e8 if d > -60 else 0)) for d, v in sizes(lambda d: 1e9 + 1e6 * d, 200)]
    growth = known(of_levels(points, 1.5e9))
    assert growth.per_month[1] == about(1e6 * MONTH)
    assert any("a jump 59 days ago" in n for n in growth.notices)


def test_a_bulk_load_is_no_inflow() -> None:
    series = arrivals(lambda _d: 100, 350)
    load = series[30]
    series[30] = Interval(start=load.start, end=load.end, amount=1e6)
    growth = known(of_inflow(series, 1e6))
    assert growth.per_month[1] == about(100 * MONTH)
    assert any("bulk load" in n for n in growth.notices)


def test_an_old_pace_does_not_count() -> None:
    series = arrivals(lambda d: 300 if d > -280 else 50, 700)
    growth = known(of_inflow(series, 1e6))
    assert growth.per_month[1] == about(300 * MONTH)
    assert any("the pace of growth changed" in n for n in growth.notices)
    points = sizes(lambda d: 1e9 + (5e6 * d if d > -200 else -1e9 + 1e5 * d), 600)
    assert known(of_levels(points, 1e9)).per_month[1] == about(5e6 * MONTH)


@pytest.mark.parametrize("days", [60, 120, 200])
def test_what_came_long_ago_does_not_go_on(days: int) -> None:
    """An application that writes elsewhere by now, or a trickle that is left."""
    series = arrivals(lambda d: 100 if d < -days else 0, 500)
    quiet = [i if i.end <= -days else Interval(start=i.start, end=i.end, amount=0) for i in series]
    growth = of_inflow(quiet, 4e4)
    if days == 200:
        assert known(growth).law is Law.FLAT
        assert "no row came in the last" in known(growth).notices[0]
        assert at(known(growth).high, 365) == 0
    else:  # the last weeks may be a pause
        assert isinstance(growth, TooLittle) or at(growth.expected, 182) < 2_000
    trickle = arrivals(lambda d: 100 if d < -days else 4, 500)
    found = of_inflow(trickle, 4e4)
    assert isinstance(found, TooLittle) or at(found.expected, 182) < 2 * 4 * 182


def test_a_new_pace_counts_when_it_is_known() -> None:
    """Ten times as much for the last nine weeks."""
    series = arrivals(lambda d: 100 if d < -63 else 1000, 500)
    growth = known(of_inflow(series, 1e5))
    assert growth.per_month[1] == about(1000 * MONTH)
    assert any("the pace of growth changed" in n for n in growth.notices)


def test_a_season_of_a_year_is_no_new_pace() -> None:
    """It rises and falls slowly: the interval has to hold both."""

    def rate(day: float) -> float:
        return 100 * (1 + 0.5 * math.sin(2 * math.pi * day / 365))

    held = 0
    for seed in range(20):
        growth = of_inflow(arrivals(rate, 700, seed=seed), 7e4)
        truth = sum(rate(d) for d in range(182))
        held += isinstance(growth, TooLittle) or growth.low[26] <= truth <= growth.high[26]
    assert held >= 16


def test_workspaces_that_keep_coming_are_no_exponential() -> None:
    """The inflow rises along a line, so the size along a parabola: no exponential runs past it."""
    held, parts = 0, []
    for seed in range(20):
        series = arrivals(lambda d: 1 + (d + 400), 400, seed=seed)
        growth = known(of_inflow(series, 8e4))
        assert growth.law in {Law.RISING, Law.EXPONENTIAL, Law.LINEAR}
        truth = 182 * (401 + 91)
        held += growth.low[26] <= truth <= growth.high[26]
        parts.append(growth.expected[26] / truth)
    assert held >= 16
    assert median(parts) == about(1)


@pytest.mark.parametrize("days", [60, 120, 400])
@pytest.mark.parametrize("end", [400, 700])
def test_an_inflow_that_declines_is_falling(days: int, end: int) -> None:
    """Along a line from 1000 rows a day; when it is zero, nothing is taken away."""
    slope = (end - 1000) / days

    def rate(day: float) -> float:
        return max(0.0, end + slope * day)

    truth, held, parts = sum(rate(d + 0.5) for d in range(182)), 0, []
    for seed in range(30):
        series = arrivals(rate, days, seed=seed)
        growth = known(of_inflow(series, 2e5))
        assert growth.law is Law.FALLING
        assert all(a <= b for a, b in pairwise(growth.expected))
        assert min(growth.low) >= 0
        held += growth.low[26] <= truth <= growth.high[26]
        parts.append(growth.expected[26] / truth)
    assert held >= 24
    # Eight weeks of a slow decline do not tell a line from a constant factor.
    assert median(parts) == pytest.approx(1, rel=0.1 if days > 60 else 0.35)


def test_a_decline_by_a_constant_factor_is_no_line() -> None:
    """A line would say that nothing comes after a while."""
    rate = math.log(5) / 400
    growth = known(of_inflow(arrivals(lambda d: 200 * math.exp(-rate * d), 400), 2e5))
    assert growth.law is Law.FALLING
    assert at(growth.expected, 350) == about(200 / rate * -math.expm1(-rate * 350))


def test_a_decline_that_ended_is_within_the_interval() -> None:
    """It fell to 400 a day, and stays there for the last third."""
    held = 0
    for seed in range(20):
        series = arrivals(lambda d: 400 - min(0, 600 * (d + 40) / 80), 120, seed=seed)
        growth = known(of_inflow(series, 7e4))
        held += growth.low[26] <= 400 * 182 <= growth.high[26]
    assert held >= 16


@pytest.mark.parametrize("after", [60, 200])
def test_a_pace_that_dropped_at_once_is_not_falling(after: int) -> None:
    series = arrivals(lambda d: 50 if d > -after else 150, 400)
    growth = known(of_inflow(series, 4e4))
    assert growth.law is Law.LINEAR
    assert growth.low[26] <= 50 * 182 <= growth.high[26]
    if after == 200:
        assert growth.per_month[1] == about(50 * MONTH)


def test_retention_of_a_falling_inflow() -> None:
    """What comes is less than what goes: the size falls, and nothing fills up."""
    series = arrivals(lambda d: 400 - 1.5 * d, 400)
    there = sum(i.amount for i in series if i.start > -180)
    growth = known(of_inflow(series, there, kept=180))
    assert growth.law is Law.FALLING
    assert there + at(growth.expected, 182) == about(sum(400 - 1.5 * d for d in range(182)))
    assert reaches(there, growth.high, 1.1 * there) is None


def test_weekdays_of_a_few_bursts_are_no_season() -> None:
    """Every tenth day brings twenty times as much: the interval has to be as wide as that."""
    false = 0
    for seed in range(60):
        chance = random.Random(seed)
        days = [25.0 * chance.choice([1] * 9 + [20]) + chance.gauss(0, 3) for _ in range(40 + 182)]
        series = [
            Interval(start=-n - 1.0, end=-float(n), amount=a) for n, a in enumerate(days[:40])
        ]
        growth = of_inflow(series, sum(days[:40]))
        truth = sum(days[40:])
        false += isinstance(growth, Growth) and not growth.low[26] <= truth <= growth.high[26]
    assert false <= 11


# --- paths ----------------------------------------------------------------------------------------


def straight(rate: float, wide: float = 0.0) -> Growth:
    """So many bytes a day, and half of the interval as a part of it."""
    return Growth(
        law=Law.LINEAR,
        low=tuple(rate * (1 - wide) * h for h in GRID),
        expected=tuple(rate * h for h in GRID),
        high=tuple(rate * (1 + wide) * h for h in GRID),
        points=52,
        span=364.0,
    )


@given(st.floats(0.1, 1e6), st.floats(0, 3600))
def test_reaching_a_capacity(rate: float, days: float) -> None:
    path = straight(rate).expected
    assert reaches(5.0, path, 5 + rate * days) == pytest.approx(days / MONTH, abs=0.01)
    assert reaches(5.0, path, 6 + rate * 3700) is None
    assert reaches(5.0, path, 4.0) == 0


def test_growths_add_up() -> None:
    whole = added([straight(1), straight(5, 0.5)])
    assert whole is not None
    assert at(whole.expected, 100) == pytest.approx(600)
    assert at(whole.high, 100) == pytest.approx(850)
    assert added([]) is None


def test_places_of_ages_follow_each_other() -> None:
    end = 0.0
    for place in range(DAILY + WEEKLY):
        oldest, newest = ages(place)
        assert newest == end
        assert oldest is not None
        end = oldest
    assert ages(DAILY + WEEKLY) == (None, float(OLDEST)) == (None, end)


def rows(age_from: float, age_to: float, count: float) -> Rows:
    return Rows(
        server="core", shard="s1", logical="t", workspace="a", rows=count, oldest=age_from,
        newest=age_to,
    )  # fmt: skip


def test_intervals_keep_what_came() -> None:
    stock = Stock(server="core", shard="s1", logical="t", rows=700, bytes=7000, moment="m")
    came = [rows(*ages(place)[:1], ages(place)[1], 7.0) for place in range(DAILY)]  # type: ignore[misc]
    came += [rows(77 + 7 * n, 70 + 7 * n, 49.0) for n in range(-2, 10)]
    found = intervals([(stock, came)], lambda s: s.width)
    # Weeks of 49 rows of ten bytes each; the oldest one is left out.
    assert [i.amount for i in found] == pytest.approx([490.0] * 19)
    assert found[-1].start == -133
    # One row of the year 1970 does not make decades of silence.
    old = Rows(server="core", shard="s1", logical="t", workspace="a", rows=1, newest=float(OLDEST))
    assert intervals([(stock, [*came, old])], lambda s: s.width) == found
    young = intervals([(stock, came[:30])], lambda s: s.width)
    assert len(young) == 28


# --- capacity -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "size"),
    [("1 kB", 1024), ("500 GB", 500 * 2**30), ("1.5TB", 3 * 2**39), (" 0.5 MB ", 2**19)],
)
def test_sizes(text: str, size: int) -> None:
    assert Size.parse(text).bytes == size
    assert Size.parse(str(Size.parse(text))) == Size.parse(text)


@pytest.mark.parametrize(
    "text", ["", "5", "GB", "-1 GB", "1 gb", "1 Gb", "1e3 GB", "0 kB", "1,5 GB"]
)
def test_no_sizes(text: str) -> None:
    with pytest.raises(ValueError, match=r"is not a size|is no space"):
        Size.parse(text)


@pytest.mark.parametrize("text", ["soon", "0 days", "11 years", ""])
def test_no_horizons(text: str) -> None:
    with pytest.raises(UsageError) as error:
        span(text)
    assert error.value.code == "PS570"


# --- advice ---------------------------------------------------------------------------------------

GB = 2.0**30


def topology(shards: dict[str, tuple[str, list[str]]]) -> Topology:
    servers = dict.fromkeys(server for server, _ in shards.values())
    lines = ["version: 1", "name: t", f"schema: {{from: {next(iter(servers))}}}", "servers:"]
    lines += [f'  {s}: {{dsn: "host={s}"}}' for s in servers]
    lines += [f"coordinator: {next(iter(servers))}", "shards:"]
    lines += [f"  {n}: {{server: {s}, workspaces: {w}}}" for n, (s, w) in shards.items()]
    return parse_topology("\n".join(lines).encode(), file=Path("my topology.yaml"))


Place = tuple[str, str]  # workspace, shard
Numbers = dict[Place, tuple[float, float]]  # gigabytes, gigabytes a day


def outlook(kind: str, name: str, parts: list[tuple[float, float]], **more: object) -> Outlook:
    growth = straight(sum(g for _, g in parts) * GB, 0.2)
    size = sum(s for s, _ in parts) * GB
    return Outlook(
        kind=kind, name=name, bytes=size, rows=size / 100, growth=growth, in_rows=growth,
        source="samples", **{"server": None, "shard": None, **more},
    )  # type: ignore[arg-type]  # fmt: skip


def world(
    found: Topology, numbers: Numbers, servers: dict[str, float], shards: dict[str, float]
) -> Outlooks:
    on = {s: o.server for s, o in found.shards.items()}
    return Outlooks(
        servers=tuple(
            outlook("server", s, [n for (_, at_), n in numbers.items() if on[at_] == s],
                    server=s, capacity=int(c * GB))
            for s, c in servers.items()
        ),
        shards=tuple(
            outlook("shard", s, [n for (_, at_), n in numbers.items() if at_ == s], server=on[s],
                    shard=s, capacity=int(shards[s] * GB) if s in shards else None)
            for s in found.shards
        ),
        tables=(),
        workspaces=tuple(
            outlook("workspace", w, [n], server=on[s], shard=s) for (w, s), n in numbers.items()
        ),
    )  # fmt: skip


def test_the_workspace_that_grows_most_goes_to_the_most_room() -> None:
    found = topology({"s1": ("core", ["a", "b"]), "s2": ("east", ["c"]), "s3": ("west", ["d"])})
    numbers = {("a", "s1"): (10, 0.1), ("b", "s1"): (50, 0.0), ("c", "s2"): (20, 0.0),
               ("d", "s3"): (60, 0.0)}  # fmt: skip
    servers = {"core": 80.0, "east": 100.0, "west": 100.0}
    (advice,) = advise(found, world(found, numbers, servers, {}), days=365)
    assert (advice.kind, advice.name, advice.moves) == ("move", "core", (("a", "s1", "s2"),))
    assert 'moving "a" to shard "s2" would be enough' in advice.text
    assert "This version cannot move workspaces" in advice.text
    assert advice.commands == ()
    assert advise(found, world(found, numbers, servers, {}), days=90) == ()


@pytest.mark.parametrize(
    ("servers", "shards", "target"),
    [
        ({"east": 100, "west": 100}, {}, "s2"),
        ({"east": 100, "west": 60}, {"s2": 40}, None),  # room on the server, not on the shard
        ({"east": 60, "west": 60}, {"s2": 500, "s3": 500}, None),  # and the other way round
        ({"east": 200, "west": 110}, {"s2": 76}, "s3"),  # the lesser of the two rooms counts
        ({"east": 110, "west": 200}, {"s3": 110}, "s2"),
    ],
)
def test_a_workspace_needs_room_on_the_shard_and_on_its_server(
    servers: dict[str, float], shards: dict[str, float], target: str | None
) -> None:
    found = topology({"s1": ("core", ["a", "b"]), "s2": ("east", ["c"]), "s3": ("west", ["d"])})
    numbers = {("a", "s1"): (10, 0.1), ("b", "s1"): (50, 0.0), ("c", "s2"): (20, 0.0),
               ("d", "s3"): (40, 0.0)}  # fmt: skip
    (advice,) = advise(found, world(found, numbers, {"core": 80, **servers}, shards), days=365)
    moves = [("a", "s1", target)] if target is not None else [("a", "s1", "shard_4")]
    assert (advice.kind, list(advice.moves)) == ("move" if target else "add", moves)


def test_no_room_anywhere_asks_for_a_server() -> None:
    found = topology({"s1": ("core", ["a", "b"]), "s2": ("east", ["c"])})
    numbers = {("a", "s1"): (40, 0.1), ("b", "s1"): (30, 0.01), ("c", "s2"): (80, 0.0)}
    (advice,) = advise(found, world(found, numbers, {"core": 100, "east": 100}, {}), days=365)
    assert advice.kind == "add"
    assert advice.moves == (("a", "s1", "shard_3"),)
    assert advice.snippet == (
        'servers:\n  server_3: {dsn: "${SERVER_3_DSN}", capacity: 100 GB}\n'
        "shards:\n  shard_3: {server: server_3, workspaces: []}"
    )
    assert advice.commands == ("parlant-shard apply 'my topology.yaml'",)


def test_what_is_full_already_needs_no_growth() -> None:
    """Of a server above its capacity it is said, also where nothing says how it grows."""
    found = topology({"s1": ("core", ["a"]), "s2": ("east", [])})
    whole = world(found, {("a", "s1"): (120, 0.0)}, {"core": 100, "east": 500}, {})
    nothing = TooLittle(points=0, span=0.0, needs="a longer series")
    unknown = replace(
        whole,
        servers=tuple(replace(o, growth=nothing) for o in whole.servers),
        shards=tuple(replace(o, growth=nothing) for o in whole.shards),
        workspaces=tuple(replace(o, growth=nothing) for o in whole.workspaces),
    )
    assert unknown.servers[0].months == (0.0, 0.0, 0.0)
    assert unknown.servers[1].months is None
    for outlooks in (whole, unknown):
        advice = advise(found, outlooks, days=365)
        assert 'server "core" is full' in " ".join(a.text for a in advice)
        assert not any("east" in a.text for a in advice)


def test_what_is_advised_to_run_exists() -> None:
    """Every command of every kind of advice is one of this version."""
    found = topology({"s1": ("core", ["a", "b"]), "s2": ("east", ["c"])})
    commands = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    for room in (80.0, 200.0):
        numbers = {("a", "s1"): (40, 0.1), ("b", "s1"): (30, 0.01), ("c", "s2"): (60, 0.0)}
        whole = world(found, numbers, {"core": 100, "east": room}, {"s1": 50})
        for advice in advise(found, whole, days=365):
            for command in advice.commands:
                name, *rest = shlex.split(command)[1:]
                inner = getattr(commands[name], "commands", None)
                assert inner is None or rest[0] in inner, command


def test_a_shard_that_is_full_gets_one_beside_it() -> None:
    found = topology({"s1": ("core", ["a", "b"])})
    numbers = {("a", "s1"): (40, 0.1), ("b", "s1"): (30, 0.01)}
    (advice,) = advise(found, world(found, numbers, {"core": 500}, {"s1": 100}), days=365)
    assert advice.snippet == "shards:\n  shard_2: {server: core, workspaces: [], capacity: 100 GB}"


def test_a_workspace_that_outgrows_every_server_is_told() -> None:
    found = topology({"s1": ("core", ["a", "b"]), "s2": ("east", [])})
    numbers = {("a", "s1"): (40, 1.0), ("b", "s1"): (5, 0.01)}
    first, *rest = advise(found, world(found, numbers, {"core": 100, "east": 100}, {}), days=365)
    assert first.kind == "outgrows"
    assert '"a" alone' in first.text
    assert all(m[0] != "a" for advice in rest for m in advice.moves)


def test_a_shard_that_the_file_puts_on_a_server_that_is_down() -> None:
    """Its tables are still where it was, so its workspaces are measured, and the shard is not."""
    found = topology({"s1": ("core", ["a"]), "s2": ("east", ["b"])})
    numbers = {("a", "s1"): (40, 1.0), ("b", "s2"): (40, 1.0)}
    whole = world(found, numbers, {"core": 100}, {"s1": 50, "s2": 50})
    partly = replace(whole, shards=tuple(o for o in whole.shards if o.name == "s1"))
    assert {a.name for a in advise(found, partly, days=365)} == {"s1", "core"}


def test_workspaces_in_buckets_cannot_be_named() -> None:
    found = topology({"s1": ("core", ["a"]), "s2": ("east", [])})
    numbers = {("a", "s1"): (1, 0.0), ("z", "s1"): (50, 0.2)}
    (advice,) = advise(found, world(found, numbers, {"core": 100, "east": 1000}, {}), days=365)[1:]
    assert advice.kind == "add"
    assert "buckets" in advice.text


@settings(max_examples=60)
@given(st.data())
def test_after_the_moves_everything_fits(data: st.DataObject) -> None:
    """Carry the advice out on the numbers: nothing that took a workspace fills up, and nothing
    that was relieved, unless the advice says that it is not enough."""
    names = ["s1", "s2", "s3", "s4"]
    where = {n: data.draw(st.sampled_from(["core", "east", "west"]), n) for n in names}
    numbers: Numbers = {}
    listed: dict[str, list[str]] = {n: [] for n in names}
    for number in range(data.draw(st.integers(1, 9), "workspaces")):
        shard = data.draw(st.sampled_from(names))
        listed[shard].append(f"w{number}")
        numbers[f"w{number}", shard] = (
            data.draw(st.floats(0.1, 60)), data.draw(st.floats(0, 0.3)),
        )  # fmt: skip
    found = topology({n: (where[n], listed[n]) for n in names})
    servers = {s: data.draw(st.floats(20, 300), s) for s in dict.fromkeys(where.values())}
    shards = {"s1": 50.0} if data.draw(st.booleans()) else {}
    advice = advise(found, world(found, numbers, servers, shards), days=365)

    place = dict(numbers.keys())  # workspace to shard
    size = {w: n for (w, _), n in numbers.items()}
    taken = set()
    for one in advice:
        for workspace, source, target in one.moves:
            assert place[workspace] == source
            assert target != source
            place[workspace] = target
            taken.add(target)

    def peak(members: list[str], wide: float) -> float:
        return sum(size[w][0] + size[w][1] * wide * 371 for w in members)

    new = {t for t in place.values() if t not in where}
    homes = {**where, **dict.fromkeys(new, "new")}
    for shard in taken - new:
        members = [w for w, s in place.items() if s == shard]
        assert peak(members, 1.2) <= shards.get(shard, math.inf) * 1.001
        home = [w for w, s in place.items() if homes[s] == where[shard]]
        assert peak(home, 1.2) <= servers[where[shard]] * 1.001
    unsolved = {a.name for a in advice if "not enough" in a.text or a.kind == "outgrows"}
    for server, capacity in servers.items():
        on = {s for s, h in where.items() if h == server}
        beside = {m[2] for a in advice if a.kind == "add" and a.target == "shard" for m in a.moves}
        if server in unsolved or on & unsolved or beside & new:
            continue
        members = [w for w, s in place.items() if s in on]
        assert peak(members, 1.0) <= capacity * 1.05, advice
