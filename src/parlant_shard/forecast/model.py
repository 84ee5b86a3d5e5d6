"""From a measured series to a growth with an interval: least squares over two laws. Pure.

Time is in days, 0 is now, the past is negative. Two kinds of series are read:

- *levels*, the size of something at moments (samples). A straight line through the sizes is linear
  growth, one through their logarithms is exponential growth.
- *inflow*, what was added in intervals that follow each other (the data's own timestamps). A steady
  inflow is linear growth; a straight line through the logarithms of the rates is exponential
  growth. Nothing is assumed about how large the thing was before.

Each law is fitted to the first two thirds and judged by the rest. Exponential growth is believed
only where it is clearly better there, because a wrong one runs away; where it is about as good, it
is the upper end of the interval. Where both err far more than the noise explains, the pace has
changed: the oldest third is left out, and again. Neighbouring residuals that resemble each other
(a season, slow drift) carry less information than their number says: the variance is inflated by
(1 + r) / (1 - r), r being their correlation.

A growth is what is added to the size of today, on a grid of weeks over ten years. So growths can be
added and taken away, which is what moving a workspace does to its shards.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from itertools import pairwise
from statistics import fmean, median

MONTH = 365.25 / 12  # days
STEP = 7.0
GRID = tuple(STEP * i for i in range(523))  # ten years
MIN_POINTS, MIN_SPAN = 8, 14.0
# Out of sample, the exponential law must err less than this part of what the linear one does.
CLEARLY_BETTER = 0.8
FAR_BETTER = 0.5  # below this, the linear law is no end of the interval either
# Beyond this, half of the interval over three months is as wide as the growth itself.
TOO_WIDE = 1.0
# Out of sample, an error of so many times the noise, and of this part of the values, is a change.
CHANGED, CHANGED_PART = 2.5, 0.15
# Less than this part of the size a year, and an interval within 5 %: it does not grow.
FLAT, FLAT_INTERVAL = 0.02, 0.05
# Fisher's F of weekdays in a few weeks, from which on they differ by more than chance (95 of 100).
SEASON = 2.5
_QUARTER, _YEAR = 13, 52  # places in the grid
_Z = 1.2815515655446004  # the normal distribution's 90th percentile: 80 % lie between both ends
_LARGEST = 80.0  # of an exponent: beyond it every disk is full


class Law(StrEnum):
    """How something grows. Rising: each month by the same amount more. Falling: each month by less.
    Steady: as much leaves by retention as comes."""

    LINEAR = "linear"
    RISING = "rising"
    FALLING = "falling"
    EXPONENTIAL = "exponential"
    STEADY = "steady"
    FLAT = "flat"


@dataclass(frozen=True, slots=True, kw_only=True)
class Interval:
    """What came in between two moments (days; 0 is now)."""

    start: float
    end: float
    amount: float

    @property
    def middle(self) -> float:
        return (self.start + self.end) / 2

    @property
    def rate(self) -> float:
        return self.amount / (self.end - self.start)


@dataclass(frozen=True, slots=True, kw_only=True)
class Growth:
    """What is added to the size of today at each moment of GRID: 80 % lie in [low, high]."""

    law: Law
    low: tuple[float, ...]
    expected: tuple[float, ...]
    high: tuple[float, ...]
    points: int
    span: float  # days
    notices: tuple[str, ...] = ()

    @property
    def per_month(self) -> tuple[float, float, float]:
        """What the next month adds: low, expected, high."""
        return at(self.low, MONTH), at(self.expected, MONTH), at(self.high, MONTH)

    def times(self, factor: float) -> Growth:
        """The same growth of something that is `factor` times as large."""
        return replace(
            self,
            low=tuple(v * factor for v in self.low),
            expected=tuple(v * factor for v in self.expected),
            high=tuple(v * factor for v in self.high),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class TooLittle:
    """No forecast, and what is missing for one."""

    points: int
    span: float  # days
    needs: str
    notices: tuple[str, ...] = ()


def at(path: Sequence[float], day: float) -> float:
    """The value of a path of GRID at a day, between its weeks on a straight line."""
    place = min(max(day / STEP, 0.0), len(path) - 1.0)
    lower = min(int(place), len(path) - 2)
    return path[lower] + (place - lower) * (path[lower + 1] - path[lower])


def added(growths: Iterable[Growth]) -> Growth | None:
    """The growth of a whole from its parts; its law is that of the part that grows most.

    The intervals are added up, as if the parts erred together: what drives one drives the others.
    """
    parts = sorted(growths, key=lambda g: -abs(g.expected[_YEAR]))
    if not parts:
        return None
    return replace(
        parts[0],
        low=tuple(map(sum, zip(*(g.low for g in parts), strict=True))),
        expected=tuple(map(sum, zip(*(g.expected for g in parts), strict=True))),
        high=tuple(map(sum, zip(*(g.high for g in parts), strict=True))),
        points=max(g.points for g in parts),
        span=max(g.span for g in parts),
        notices=tuple(dict.fromkeys(n for g in parts for n in g.notices)),
    )


def reaches(level: float, path: Sequence[float], capacity: float) -> float | None:
    """The months until a size of `level` today is `capacity`; None for never within ten years."""
    if level + path[0] >= capacity:
        return 0.0
    for place in range(1, len(path)):
        before, after = level + path[place - 1], level + path[place]
        if after >= capacity:
            part = (capacity - before) / (after - before)
            return (place - 1 + part) * STEP / MONTH
    return None


# --- levels ---------------------------------------------------------------------------------------


def of_levels(points: Iterable[tuple[float, float]], size: float) -> Growth | TooLittle:
    """Fit (day, level) pairs; `size` is the level of today that the growth is added to."""
    kept, notices = _after_the_last_jump(sorted(points))
    days, levels = [d for d, _ in kept], [v for _, v in kept]
    span = days[-1] - days[0] if days else 0.0
    if (missing := _too_little(len(kept), span, "samples", notices)) is not None:
        return missing
    errors = _out_of_sample(days, levels, _Line.of)
    if _changed(levels, errors, abs(levels[-1] - levels[0])):
        return _recent(of_levels(kept[len(kept) // 3 :], size), -days[len(kept) // 3])
    line = _Line.of(days, levels)
    growth = _shape(
        Law.LINEAR, lambda h: line.slope * h, lambda h: line.quantile * line.of_change(h)
    )
    growth = replace(growth, points=len(kept), span=span, notices=notices)
    if min(levels) > 0:
        logs = _Line.of(days, [math.log(v) for v in levels])
        other = _exponential(
            lambda h: size * math.expm1(min(logs.slope * h, _LARGEST)),
            lambda h, sign: (
                size
                * math.expm1(
                    min(logs.slope * h + sign * logs.quantile * logs.of_change(h), _LARGEST)
                )
            ),
        )
        growth = _chosen(growth, other, errors, grows=logs.grows)
    return _judged(growth, size)


def _after_the_last_jump(
    points: list[tuple[float, float]],
) -> tuple[list[tuple[float, float]], tuple[str, ...]]:
    """Leave out what lies before a move, a bulk load or a large delete: it is no growth."""
    steps = [(b[1] - a[1]) / (b[0] - a[0]) for a, b in pairwise(points)]
    if len(steps) < MIN_POINTS:
        return points, ()
    middle = median(steps)
    spread = 1.4826 * median([abs(s - middle) for s in steps])
    last = 0
    for place, step in enumerate(steps, 1):
        before, after = points[place - 1][1], points[place][1]
        is_large = abs(after - before) > 0.1 * max(abs(before), abs(after))
        # Fast growth has large steps too, but their neighbours are nearly as large.
        beside = max(map(abs, [*steps[max(place - 2, 0) : place - 1], *steps[place : place + 1]]))
        is_alone = abs(step) > 4 * beside
        if is_large and is_alone and abs(step - middle) > 10 * spread + 5 * abs(middle):
            last = place
    if last == 0:
        return points, ()
    ago = -points[last][0]
    return points[last:], (
        f"a jump {ago:.0f} days ago (a move, a bulk load or a large delete): only what came after "
        "it counts",
    )


# --- inflow ---------------------------------------------------------------------------------------


def of_inflow(
    intervals: Iterable[Interval], size: float, *, kept: float | None = None
) -> Growth | TooLittle:
    """Fit what came in; `size` is the size of today. `kept`: days until what came in is gone."""
    series = sorted(intervals, key=lambda i: i.start)
    growth = _of_inflow(series, size)
    if kept is not None and isinstance(growth, Growth):
        growth = _leaving(growth, series, kept)
    return growth if isinstance(growth, TooLittle) else _judged(growth, size)


def _of_inflow(series: list[Interval], size: float) -> Growth | TooLittle:
    used, notices = _without_loads(_without_season(series))
    span = used[-1].end - used[0].start if used else 0.0
    quiet = used[len(used) * 2 // 3 :]
    if (
        len(quiet) >= MIN_POINTS
        and not any(i.amount for i in quiet)
        and any(i.amount for i in used)
    ):
        return _stopped(used, span, notices)
    filled = sum(i.rate > 0 for i in used)
    if (missing := _too_little(filled, span, "intervals with rows", notices)) is not None:
        return missing
    days, rates = [i.middle for i in used], [i.rate for i in used]
    errors = _out_of_sample(days, rates, _Line.level)
    if min(rates) > 0 and not _Line.of(days, [math.log(r) for r in rates]).grows:
        errors = errors[0], math.inf  # a shrinking inflow is never taken as exponential
    trend = _Line.of(days, rates)
    falls = trend.falls and not _steps(rates, trend)
    if falls:
        errors = errors[0], _out_of_sample(days, rates, _Line.of)[0]
    if _changed(rates, errors, fmean(rates[len(rates) * 2 // 3 :])):
        return _recent(_of_inflow(used[len(used) // 3 :], size), -used[len(used) // 3].start)
    width = median([i.end - i.start for i in used])
    growth = _level(days, rates, width)
    growth = replace(growth, points=len(used), span=span, notices=notices)
    dense = _coarser(used)
    if dense is not None:
        days, rates = [i.middle for i in dense], [i.rate for i in dense]
        logs = _Line.of(days, [math.log(r) for r in rates])
        other = _summed(logs, median([i.end - i.start for i in dense]))
        errors = _out_of_sample(days, rates, _Line.level)
        growth = _chosen(growth, other, errors, grows=logs.grows)
        if trend.grows:
            growth = _or_rising(growth, days, rates, errors)
        line = _Line.of(days, rates)
        if trend.falls and max(line.slope, logs.slope) < 0:  # no outlier pretends it
            if not falls:  # a step: no decline is better than what came after it
                errors = 0.0, math.inf
            growth = _or_falling(growth, other, line, days, rates, errors)
    return growth


def _level(days: Sequence[float], rates: Sequence[float], width: float) -> Growth:
    """As much each day as on average; `width` is the days that a rate was counted over."""
    line = _Line.level(days, rates)
    return _shape(
        Law.LINEAR,
        lambda h: line.base * h,
        lambda h: (
            line.quantile * math.hypot(line.of_mean(h) * h, line.noise * math.sqrt(width * h))
        ),
    )


def _stopped(used: Sequence[Interval], span: float, notices: tuple[str, ...]) -> Growth:
    """Nothing came for the last third: what came before says nothing of what comes."""
    ago = -max(i.end for i in used if i.amount)
    flat = _shape(Law.LINEAR, lambda _h: 0.0, lambda _h: 0.0)
    told = f"no row came in the last {ago:.0f} days: it is taken to stay as it is"
    return replace(flat, points=len(used), span=span, notices=(*notices, told))


def _or_rising(
    growth: Growth, days: Sequence[float], rates: Sequence[float], errors: tuple[float, float]
) -> Growth:
    """An inflow that rises along a straight line, as when workspaces keep coming, runs away less.

    It takes the place of both where it errs clearly less; else it is the lower end of an
    exponential one.

    `growth` is the better one of the other two laws, which erred by `errors` out of sample.
    """
    line = _Line.of(days, rates)
    straight, _ = _out_of_sample(days, rates, _Line.of)
    rising = _shape(
        Law.RISING,
        lambda h: line.base * h + line.slope * h * h / 2,
        lambda h: line.quantile * line.of_mean(h) * h,
    )
    if straight < CLEARLY_BETTER * min(errors):
        high = tuple(map(max, zip(rising.high, growth.high, strict=True)))
        return replace(
            rising, high=high, points=growth.points, span=growth.span, notices=growth.notices
        )
    if growth.law is Law.EXPONENTIAL and straight < errors[1]:
        return replace(growth, low=tuple(map(min, zip(growth.low, rising.low, strict=True))))
    return growth


def _or_falling(
    growth: Growth,
    decay: Growth,
    line: _Line,
    days: Sequence[float],
    rates: Sequence[float],
    errors: tuple[float, float],
) -> Growth:
    """An inflow that falls, along a line until nothing comes or by a constant factor.

    Whichever errs less out of sample is expected. A decline may end, so the upper end is the pace
    of the last third. Where neither is clearly better than a level inflow, `growth`, they are its
    lower end.
    """
    straight, _ = _out_of_sample(days, rates, _Line.of)
    end = max(0.0, -line.base / line.slope)  # the day from which nothing comes; never less
    along = _shape(
        Law.FALLING,
        lambda h: min(h, end) * (line.base + line.slope * min(h, end) / 2),
        lambda h: line.quantile * line.of_mean(h) * h,
    )
    low = tuple(max(0.0, min(v)) for v in zip(along.low, decay.low, growth.low, strict=True))
    if min(straight, errors[1]) >= CLEARLY_BETTER * errors[0]:
        return replace(growth, low=low)
    cut = len(days) * 2 // 3
    recent = _level(days[cut:], rates[cut:], days[-1] - days[-2])
    expected = (along if straight <= errors[1] else decay).expected
    high = tuple(map(max, zip(expected, recent.high, strict=True)))
    return replace(growth, law=Law.FALLING, low=low, expected=expected, high=high)


def _steps(rates: Sequence[float], line: _Line) -> bool:
    """Whether two levels fit better than the line: a pace that changed at once does not fall."""
    of_steps = min(_squares(rates[:n]) + _squares(rates[n:]) for n in range(2, len(rates) - 1))
    return of_steps < line.noise**2 * (line.points - 2)


def _without_season(series: list[Interval]) -> list[Interval]:
    """Give each weekday of a series of days the share of an average one.

    Only where weekdays differ by more than chance: seven means of a few bursts would hide them.
    """
    if len(series) < 14 or any(i.end - i.start > 1 for i in series):
        return series
    amounts = [i.amount for i in series]
    whole, days = fmean(amounts), [fmean(amounts[n::7]) for n in range(7)]
    # From week to week: a trend or a step hardly counts there.
    chance = fmean([(b - a) ** 2 for a, b in zip(amounts, amounts[7:], strict=False)]) / 2
    if _squares(days) / 6 * len(series) / 7 < SEASON * chance:
        return series
    shares = [day / whole if whole else 1.0 for day in days]
    return [
        replace(i, amount=i.amount / shares[n % 7]) if shares[n % 7] else i
        for n, i in enumerate(series)
    ]


def _without_loads(series: list[Interval]) -> tuple[list[Interval], tuple[str, ...]]:
    """Leave out one interval that holds a bulk load: its rows were written, they did not come."""
    if len(series) <= MIN_POINTS:
        return series, ()
    rates = [i.rate for i in series]
    middle = median(rates)
    spread = 1.4826 * median([abs(r - middle) for r in rates])
    top = max(range(len(series) - 1), key=lambda n: rates[n])
    is_alone = rates[top] > 3 * max([*rates[:top], *rates[top + 1 :]])
    if not is_alone or rates[top] <= 10 * spread + 5 * middle:
        return series, ()
    return [i for n, i in enumerate(series) if n != top], (
        f"a bulk load {-series[top].end:.0f} days ago is left out",
    )


def _coarser(series: list[Interval]) -> list[Interval] | None:
    """Join neighbours until each interval has something: zero has no logarithm. None if too few."""
    while series and min(i.rate for i in series) <= 0:
        if len(series) < 2 * MIN_POINTS:
            return None
        series = series[len(series) % 2 :]
        series = [
            Interval(start=a.start, end=b.end, amount=(a.rate + b.rate) / 2 * (b.end - a.start))
            for a, b in zip(series[::2], series[1::2], strict=True)
        ]
    return series


def _summed(logs: _Line, width: float) -> Growth:
    """Exponential inflow, summed over time."""
    paths = []
    for sign in (-1.0, 0.0, 1.0):
        rates = [
            math.exp(
                min(
                    logs.base + logs.slope * h + sign * logs.quantile * logs.of_mean(h),
                    _LARGEST,
                )
            )
            * logs.smear
            for h in GRID
        ]
        paths.append(_integral(rates))
    low, expected, high = paths
    # The noise of the weeks to come, beside what is not known about the law.
    rates = [math.exp(min(logs.base + logs.slope * h, _LARGEST)) for h in GRID]
    noise = [
        logs.quantile * min(logs.noise, 1.0) * math.sqrt(width * v)
        for v in _integral([r * r for r in rates])
    ]
    return Growth(
        law=Law.EXPONENTIAL,
        low=tuple(e - math.hypot(e - v, n) for e, v, n in zip(expected, low, noise, strict=True)),
        expected=tuple(expected),
        high=tuple(e + math.hypot(v - e, n) for e, v, n in zip(expected, high, noise, strict=True)),
        points=0,
        span=0.0,
    )


def _integral(rates: Sequence[float]) -> list[float]:
    """The integral over GRID; within a step the rate grows by a factor, so not as a trapezoid."""
    total, found = 0.0, [0.0]
    for a, b in pairwise(rates):
        is_even = min(a, b) <= 1e-9 * max(a, b) or abs(b - a) <= 1e-9 * a
        total += STEP * ((a + b) / 2 if is_even else (b - a) / math.log(b / a))
        found.append(total)
    return found


def _leaving(growth: Growth, series: Sequence[Interval], kept: float) -> Growth:
    """Take away what retention removes: first what is there, later what is still to come."""

    def gone(path: Sequence[float], day: float) -> float:
        left = sum(
            i.amount * max(0.0, min(i.end, day - kept) - max(i.start, -kept)) / (i.end - i.start)
            for i in series
        )
        return left + (at(path, day - kept) if day > kept else 0.0)

    def path(values: tuple[float, ...]) -> tuple[float, ...]:
        return tuple(v - gone(values, h) for h, v in zip(GRID, values, strict=True))

    return replace(
        growth,
        law=Law.STEADY if growth.law is Law.LINEAR else growth.law,
        low=path(growth.low),
        expected=path(growth.expected),
        high=path(growth.high),
    )


def _squares(values: Sequence[float]) -> float:
    """The sum of squared distances from the mean."""
    mean = fmean(values)
    return sum((v - mean) ** 2 for v in values)


# --- choosing and judging -------------------------------------------------------------------------


def _too_little(points: int, span: float, what: str, notices: tuple[str, ...]) -> TooLittle | None:
    if points >= MIN_POINTS and span >= MIN_SPAN:
        return None
    return TooLittle(
        points=points,
        span=span,
        needs=f"{MIN_POINTS} {what} over {MIN_SPAN:.0f} days; there are {points} over {span:.0f} "
        "days",
        notices=notices,
    )


def _out_of_sample(
    days: Sequence[float], values: Sequence[float], plain: Callable[..., _Line]
) -> tuple[float, float]:
    """The root mean square errors of both laws on the last third, fitted to what came before.

    The second is infinite where a value has no logarithm.
    """
    cut = len(days) * 2 // 3
    ahead = list(zip(days[cut:], values[cut:], strict=True))
    line = plain(days[:cut], values[:cut])
    linear = math.sqrt(fmean([(line.base + line.slope * d - v) ** 2 for d, v in ahead]))
    if min(values[:cut]) <= 0:
        return linear, math.inf
    logs = _Line.of(days[:cut], [math.log(v) for v in values[:cut]])
    grown = [math.exp(min(logs.base + logs.slope * d, _LARGEST)) * logs.smear - v for d, v in ahead]
    return linear, math.sqrt(fmean([e * e for e in grown]))


def _changed(values: Sequence[float], errors: tuple[float, float], scale: float) -> bool:
    """Whether the last third is another story, and there is enough of a series to leave some out.

    The noise is read from neighbours, which a trend does not move apart; where they are few, so
    that the change itself stands out, from the median one.
    """
    if len(values) - len(values) // 3 < MIN_POINTS:
        return False
    steps = [abs(b - a) / math.sqrt(2) for a, b in pairwise(values)]
    if len(values) < 3 * MIN_POINTS:  # of few points it takes more to say so: one large step
        if max(steps) * math.sqrt(2) < (max(values) - min(values)) / 2:
            return False
        return min(errors) > 2 * max(CHANGED * 1.4826 * median(steps), CHANGED_PART * scale)
    noise = math.sqrt(fmean([s * s for s in steps]))
    return min(errors) > max(CHANGED * noise, CHANGED_PART * scale)


def _recent(found: Growth | TooLittle, days: float) -> Growth | TooLittle:
    """Say that only a part of the series was used; the innermost part says it."""
    if any(n.startswith("the pace") for n in found.notices):
        return found
    told = f"the pace of growth changed: only the last {days:.0f} days count"
    return replace(found, notices=(*found.notices, told))


def _chosen(linear: Growth, other: Growth, errors: tuple[float, float], *, grows: bool) -> Growth:
    of_linear, of_other = errors
    if grows and of_other < CLEARLY_BETTER * of_linear:
        low = other.low
        if of_other > FAR_BETTER * of_linear:
            low = tuple(map(min, zip(other.low, linear.expected, strict=True)))
        return replace(
            other, low=low, points=linear.points, span=linear.span, notices=linear.notices
        )
    if of_other * CLEARLY_BETTER <= of_linear:
        high = tuple(map(max, zip(linear.high, other.high, strict=True)))
        return replace(linear, high=high)
    return linear


def _judged(growth: Growth, size: float) -> Growth | TooLittle:
    """Say flat where nothing grows, and nothing where the noise hides what grows."""
    year = growth.expected[_YEAR]
    ends = (growth.low[_YEAR], growth.high[_YEAR])
    if growth.law is Law.STEADY:
        return growth
    if abs(year) <= FLAT * size and max(map(abs, ends)) <= FLAT_INTERVAL * size:
        return replace(growth, law=Law.FLAT)
    if growth.law is Law.FALLING:  # it ends: its interval may well be wider than what is left
        return growth
    half = (growth.high[_QUARTER] - growth.low[_QUARTER]) / 2
    if half > TOO_WIDE * abs(growth.expected[_QUARTER]):
        return TooLittle(
            points=growth.points,
            span=growth.span,
            needs=f"a longer series: in {growth.points} points over {growth.span:.0f} days the "
            "growth does not stand out from the noise",
            notices=growth.notices,
        )
    return growth


def _shape(law: Law, expected: Callable[[float], float], half: Callable[[float], float]) -> Growth:
    middle, width = [expected(h) for h in GRID], [half(h) for h in GRID]
    return Growth(
        law=law,
        low=tuple(m - w for m, w in zip(middle, width, strict=True)),
        expected=tuple(middle),
        high=tuple(m + w for m, w in zip(middle, width, strict=True)),
        points=0,
        span=0.0,
    )


def _exponential(expected: Callable[[float], float], end: Callable[[float, int], float]) -> Growth:
    return Growth(
        law=Law.EXPONENTIAL,
        low=tuple(end(h, -1) for h in GRID),
        expected=tuple(expected(h) for h in GRID),
        high=tuple(end(h, 1) for h in GRID),
        points=0,
        span=0.0,
    )


# --- least squares --------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class _Line:
    """`base + slope * day`, fitted; `noise` is the standard deviation of the residuals."""

    base: float
    slope: float
    noise: float
    points: int
    centre: float
    spread: float  # the sum of squared distances of the days; infinite for a level line
    inflation: float
    smear: float  # the mean of exp(residual): what a logarithm hides of the mean
    wander: float  # variance a day of residuals that do not come back
    span: float

    @classmethod
    def of(cls, days: Sequence[float], values: Sequence[float]) -> _Line:
        centre, mean = fmean(days), fmean(values)
        spread = sum((d - centre) ** 2 for d in days)
        slope = sum((d - centre) * (v - mean) for d, v in zip(days, values, strict=True)) / spread
        return cls._made(days, values, mean - slope * centre, slope, spread)

    @classmethod
    def level(cls, days: Sequence[float], values: Sequence[float]) -> _Line:
        return cls._made(days, values, fmean(values), 0.0, math.inf)

    @classmethod
    def _made(
        cls,
        days: Sequence[float],
        values: Sequence[float],
        base: float,
        slope: float,
        spread: float,
    ) -> _Line:
        residuals = [v - base - slope * d for d, v in zip(days, values, strict=True)]
        squares = sum(r * r for r in residuals)
        fitted = 1 if spread == math.inf else 2
        products = sum(a * b for a, b in pairwise(residuals))
        alike = min(max(products / squares, 0.0), 0.9) if squares > 0 else 0.0
        return cls(
            base=base,
            slope=slope,
            noise=math.sqrt(squares / max(len(values) - fitted, 1)),
            points=len(values),
            centre=fmean(days),
            spread=spread,
            inflation=(1 + alike) / (1 - alike),
            smear=fmean([math.exp(min(r, _LARGEST)) for r in residuals]),
            wander=_wander(days, residuals),
            span=days[-1] - days[0],
        )

    @property
    def quantile(self) -> float:
        """Student's 90th percentile, by its expansion around the normal one."""
        free = max(self.points / self.inflation - 2, 2.0)
        return (
            _Z + (_Z**3 + _Z) / (4 * free) + (5 * _Z**5 + 16 * _Z**3 + 3 * _Z) / (96 * free * free)
        )

    @property
    def grows(self) -> bool:
        """Whether the slope is positive with its whole interval."""
        return self.slope > self._uncertain

    @property
    def falls(self) -> bool:
        """Whether the slope is negative with its whole interval."""
        return self.slope < -self._uncertain

    @property
    def _uncertain(self) -> float:
        return self.quantile * self.noise * math.sqrt(self.inflation / self.spread)

    def of_mean(self, day: float) -> float:
        """The standard error of the line at a day."""
        far = (day - self.centre) ** 2 / self.spread
        return self.noise * math.sqrt(self.inflation * (1 / self.points + far))

    def of_change(self, days: float) -> float:
        """The standard error of a change over days, with the noise of one value."""
        fitted = self.noise**2 * (self.inflation * days * days / self.spread + 1)
        return math.sqrt(fitted + self.wander * (days + days * days / self.span))


def _wander(days: Sequence[float], residuals: Sequence[float]) -> float:
    """The variance a day of what does not come back: a size adds up the noise of what came in.

    Noise of a measurement makes differences over one week as large as those over three; what adds
    up makes the latter larger. Whole weeks, so that a season cancels out.
    """
    step = (days[-1] - days[0]) / (len(days) - 1)
    near = max(1, round(7 / step))
    far = min(3 * near, len(days) // 2)
    if far <= near:
        return 0.0

    def apart(lag: int) -> float:
        return fmean([(b - a) ** 2 for a, b in zip(residuals, residuals[lag:], strict=False)])

    # A line that was fitted has taken a part of it away already.
    taken = 1 - far / len(days)
    return max(apart(far) - apart(near), 0.0) / ((far - near) * step * taken)
