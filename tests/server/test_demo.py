"""The demo on any day: its last chapters say what must happen from the clock alone."""

from __future__ import annotations

from calendar import isleap, monthrange
from collections import Counter
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from protocol import World, layout
from test_maintain import maintain, now_of

import clocks
from counts import FULL
from parlant_shard.cli import run
from parlant_shard.demo import data, demo, later
from parlant_shard.errors import Exit, ShardError
from servers import Clusters

# What of the preset the chapter about later months asks for.
EVENT = """
CREATE TABLE parlant_event (
  id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
  workspace_id text NOT NULL,
  created_at timestamp NOT NULL
);
"""
TIMES = {
    "by": "created_at",
    "every": "1 month",
    "premake": 2,
    "retention": f"{later.RETENTION_MONTHS} months",
    "archive": "archive/",
}


def moment_of(day: str, year: int) -> datetime:
    """Return a named moment of a year, or of the first leap year from there."""
    match day:
        case "29 February":
            return datetime(next(y for y in range(year, year + 9) if isleap(y)), 2, 29, 12)
        case "1 January":
            return datetime(year, 1, 1)
        case "31 December, 23:59":
            return datetime(year, 12, 31, 23, 59, 59)
        case _:
            month = int(day.removeprefix("end of month "))
            return datetime(year, month, monthrange(year, month)[1], 18)


DAYS = (
    *(f"end of month {month}" for month in range(1, 13)),
    "29 February",
    "1 January",
    "31 December, 23:59",
)


def told(holds: bool, claim: str) -> None:
    assert holds, claim


@pytest.mark.parametrize("day", DAYS)
def test_the_chapter_about_later_months_ends_well(
    tmp_path: Path, clusters: Clusters, day: str
) -> None:
    world = World(tmp_path, clusters)
    what = layout({"s1": ["acme"]}, ddl=EVENT, tables={"parlant_event": {"partition": TIMES}})
    world.apply(what)
    began = moment_of(day, now_of(world).year + 1)
    maintain(world, what, began)
    # One each day, as old as the demo's.
    world.execute(
        "INSERT INTO parlant_event_s1 (workspace_id, created_at) SELECT 'acme', "
        f"timestamp '{began}' - n * interval '1 day' FROM generate_series(0, {data.DAYS_BACK}) n"
    )
    later.time_passes(world.load(what), began, told, lambda _line: None)


@pytest.mark.parametrize("year", [2027, 2028])
def test_on_every_day_of_a_year_some_rows_expire_and_some_stay(year: int) -> None:
    """Whatever the day, the chapter has something to show; on some days events wait, too."""
    day, waiting = datetime(year, 1, 1), 0
    while day.year == year:
        rows = Counter(
            (day - timedelta(days=n)).date().replace(day=1) for n in range(data.DAYS_BACK + 1)
        )
        found = later.expected(
            rows, day + later.MONTHS_LATER, day + later.MONTHS_LATER + later.GRACE
        )
        assert found.archived > 0, day
        assert found.kept > 0, day
        waiting += found.waiting > 0
        day += timedelta(days=1)
    assert 90 < waiting < 120  # about eight days of every month


def test_a_month_has_expired_when_its_last_moment_is_older_than_the_retention() -> None:
    assert later.first_month_kept(datetime(2027, 8, 31)).isoformat() == "2027-02-01"
    assert later.first_month_kept(datetime(2027, 6, 30, 23, 59)).isoformat() == "2026-12-01"
    assert later.first_month_kept(datetime(2027, 7, 1)).isoformat() == "2027-01-01"


@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    "day", ["end of month 1", *(["29 February", "31 December, 23:59"] if FULL else [])]
)
def test_the_whole_demo_ends_well_as_if_it_were_another_day(day: str) -> None:
    lines: list[str] = []
    now = moment_of(day, clocks.now().year + 1)
    demo(None, lines.append, now=now)
    assert f"maintain topology.yaml --now {(now + later.MONTHS_LATER).isoformat()}Z" in "".join(
        lines
    )
    assert lines[-1].startswith("\nDone: ")


@pytest.mark.parametrize("days", [-2, 3700])
def test_a_moment_that_no_partition_can_reach_is_refused(days: int) -> None:
    with pytest.raises(ShardError) as refused:
        demo(None, print, now=datetime.now(UTC).replace(tzinfo=None) + timedelta(days=days))
    assert refused.value.code == "PS912"


def test_what_is_no_moment_is_refused(capfd: pytest.CaptureFixture[str]) -> None:
    assert run(["demo", "--now", "yesterday"]) == Exit.USAGE
    assert "PS157" in capfd.readouterr().err
