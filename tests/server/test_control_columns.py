"""Every kind of control column, every interval: each row is in the partition of its moment."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import psycopg
import pytest
from protocol import Layout, World, layout
from test_maintain import maintain, months, now_of, settled, spring

from parlant_shard import maintain as upkeep
from parlant_shard.errors import ShardError
from parlant_shard.planner import make_plan
from servers import Clusters, database_name

pytestmark = pytest.mark.matrix

UNITS = ("hour", "day", "week", "month", "quarter", "year")
BIGINTS = {"seconds": 1, "milliseconds": 1_000, "microseconds": 10**6, "nanoseconds": 10**9}
KINDS = [
    "timestamptz",
    "timestamp",
    "date",
    "uuid",
    "integer seconds",
    *(f"bigint {u}" for u in BIGINTS),
]


@pytest.fixture
def world(tmp_path: Path, clusters: Clusters) -> World:
    """Give the databases of one server."""
    return World(tmp_path, clusters)


def tables(kind: str, units: tuple[str, ...] = UNITS, **more: Any) -> Layout:
    """One table for each interval, cut by a column of this kind."""
    type_, _, epoch = kind.partition(" ")
    key = "at uuid PRIMARY KEY" if kind == "uuid" else f"id serial PRIMARY KEY, at {type_} NOT NULL"
    units = tuple(u for u in units if kind != "date" or u != "hour")
    cut = {"by": "at", "premake": 1, **({"epoch": epoch} if epoch else {}), **more}
    return layout(
        {"s1": ["a"]},
        ddl="".join(
            f"CREATE TABLE log_{u} ({key}, workspace_id text NOT NULL, moment timestamp);\n"
            for u in units
        ),
        tables={
            f"log_{u}": {"partition": {"every": f"1 {u}", "retention": f"1 {u}", **cut}}
            for u in units
        },
    )


def value(kind: str, moment: datetime) -> Any:
    """The column's value at a moment, reckoned apart from the code under test."""
    type_, _, epoch = kind.partition(" ")
    since = moment - datetime(1970, 1, 1)
    whole = since.days * 86_400 + since.seconds
    match type_:
        case "date":
            return moment.date()
        case "timestamp":
            return moment
        case "timestamptz":
            return f"{moment} UTC"
        case "uuid":
            stamp = whole * 1_000 + since.microseconds // 1_000
            return UUID(bytes=stamp.to_bytes(6, "big") + b"\x7a\xbc\x9d" + b"\xff" * 7)
        case _:
            return whole * BIGINTS[epoch] + since.microseconds * BIGINTS[epoch] // 10**6


def start_of(unit: str, moment: datetime) -> datetime:
    day = moment.replace(hour=0, minute=0, second=0, microsecond=0)
    match unit:
        case "hour":
            return moment.replace(minute=0, second=0, microsecond=0)
        case "day":
            return day
        case "week":
            return day - timedelta(days=day.weekday())
        case "month":
            return day.replace(day=1)
        case "quarter":
            return day.replace(month=(day.month - 1) // 3 * 3 + 1, day=1)
        case _:
            return day.replace(month=1, day=1)


def edges(unit: str, now: datetime) -> Iterator[datetime]:
    """The first and the last moments of the current interval and of its neighbours."""
    start = start_of(unit, now)
    following = start_of(
        unit,
        start
        + {"year": 367, "quarter": 93, "month": 32, "week": 7}.get(unit, 1)
        * (timedelta(hours=1) if unit == "hour" else timedelta(days=1)),
    )
    for edge in (start, following):
        yield from (edge, edge - timedelta(microseconds=1), edge - timedelta(milliseconds=1))
        yield edge + timedelta(microseconds=1)


def write(world: World, kind: str, unit: str, moments: Iterator[datetime]) -> None:
    with world.connect() as connection:
        for moment in moments:
            connection.execute(
                f"INSERT INTO log_{unit}_s1 (at, workspace_id, moment) VALUES (%s, 'a', %s)"
                + (" ON CONFLICT DO NOTHING" if kind == "uuid" else ""),
                [value(kind, moment), moment],
            )


def misplaced(world: World, unit: str) -> list[tuple[str, datetime]]:
    """Rows that are not in the partition that is named after the start of their interval."""
    found = []
    for (name,) in world.rows(
        f"SELECT relname FROM pg_class WHERE relname ~ '^log_{unit}_s1_(p|def)' AND relkind = 'r'"
    ):
        for (moment,) in world.rows(f'SELECT moment FROM "{name}"'):
            start = start_of(unit, moment)
            mark = f"{start:p%Y%m%d_%H%M}".removesuffix("_0000")
            if name != f"log_{unit}_s1_{mark}":
                found.append((name, moment))
    return found


def rows_of(world: World, unit: str) -> int:
    names = world.rows(
        f"SELECT relname FROM pg_class WHERE relname ~ '^log_{unit}_s1_p' AND relkind = 'r'"
    )
    return sum(world.value(f'SELECT count(*) FROM "{name}"') for (name,) in names)


@pytest.mark.parametrize("kind", KINDS)
def test_each_row_is_in_the_partition_of_its_moment(world: World, kind: str) -> None:
    what = tables(kind)
    units = [u for u in UNITS if kind != "date" or u != "hour"]
    plan = make_plan(world.load(what))
    weaker = {s.title for s in plan.steps if "weaker-uniqueness" in s.hazards}
    assert bool(weaker) == (kind != "uuid")
    assert any("UUIDv7" in notice for notice in plan.notices) == (kind == "uuid")
    world.converge(what)
    begin = now_of(world)
    for unit in units:
        write(world, kind, unit, edges(unit, begin))
    before = {unit: rows_of(world, unit) for unit in units}
    assert min(before.values()) >= 4
    # Months later: everything of before has expired but for the widest ones.
    later = spring(begin)
    report = maintain(world, what, later)
    assert not any(cut.horizon.low for cut in report.cuts)
    assert {unit: rows_of(world, unit) for unit in units} == before
    for unit in units:
        write(world, kind, unit, edges(unit, later))
        write(world, kind, unit, iter([later.replace(minute=m) for m in (0, 30, 59)]))
    settled(world, what, later)
    assert {unit: misplaced(world, unit) for unit in units} == {key: [] for key in units}
    assert world.value("SELECT count(*) FROM parlant_shard.retired") > 0


@pytest.mark.parametrize("style", ["German", "SQL, DMY", "Postgres, MDY"])
@pytest.mark.parametrize("kind", ["timestamptz", "timestamp", "date", "uuid", "bigint seconds"])
def test_what_a_session_says_means_nothing(
    world: World, kind: str, style: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server lives 14 hours ahead of UTC and the client 12 behind: bounds are those of UTC."""
    what = tables(kind, ("day",))
    for name, given in (("PGTZ", "Etc/GMT+12"), ("PGDATESTYLE", "SQL, MDY"), ("TZ", "Etc/GMT+12")):
        monkeypatch.setenv(name, given)
    time.tzset()
    try:
        database = database_name(world.dsn("core"))
        world.execute(
            f"ALTER DATABASE {database} SET TimeZone = 'Pacific/Kiritimati'",
            f"ALTER DATABASE {database} SET DateStyle = '{style}'",
        )
        world.apply(what)
        later = spring(now_of(world))
        maintain(world, what, later)
        moments = list(edges("day", later))
        write(world, kind, "day", iter(moments))
        settled(world, what, later)
        assert misplaced(world, "day") == []
        assert rows_of(world, "day") >= 4
    finally:
        monkeypatch.undo()
        time.tzset()


def test_a_changed_interval_and_a_gap(world: World) -> None:
    for kind in ("uuid", "bigint milliseconds"):
        by_month = tables(kind, ("month",), retention="3 months")
        file = by_month.text
        world.apply(by_month)
        by_week = Layout(text=file.replace('"1 month"', '"1 week"'), files=by_month.files)
        # In the first days of a month the oldest week begins before the oldest month did.
        world.apply(by_week)
        later = spring(now_of(world))
        maintain(world, by_week, later)
        settled(world, by_week, later)
        write(world, kind, "month", iter([later, later - timedelta(days=20)]))
        name = world.value(
            "SELECT c.relname FROM pg_class c JOIN pg_inherits i ON i.inhrelid = c.oid "
            "JOIN pg_stat_user_tables s ON s.relid = c.oid WHERE c.relkind = 'r' "
            "ORDER BY pg_get_expr(c.relpartbound, c.oid) DESC LIMIT 1"
        )
        world.execute(f"DROP TABLE {name}")
        report = maintain(world, by_week, later)
        assert [s.title for s in report.plan.steps if name in s.title] == [
            f'create partition "{name}" and attach it to "log_month_s1"'
        ]
        settled(world, by_week, later)
        world = World(world.directory, world.clusters)


def test_another_unit_than_the_partitions_have(world: World) -> None:
    what = tables("bigint seconds", ("month",))
    world.apply(what)
    wrong = tables("bigint milliseconds", ("month",))
    with pytest.raises(ShardError) as refused:
        make_plan(world.load(wrong))
    assert refused.value.code == "PS580"
    # Read in milliseconds they would all have expired in 1970.
    report = upkeep.maintain(world.load(wrong))
    assert [f.code for f in report.failures] == ["PS580"]
    assert report.plan.steps == ()
    settled_later = maintain(world, what)
    assert settled_later.failures == []
    attached = "SELECT count(*) FROM pg_inherits WHERE inhparent = 'log_month_s1'::regclass"
    assert world.value(attached) == 3


def test_a_date_has_no_hours(world: World) -> None:
    what = tables("date", ("day",))
    hourly = Layout(text=what.text.replace('"1 day"', '"6 hours"'), files=what.files)
    with pytest.raises(ShardError) as refused:
        world.load(hourly)
    assert refused.value.code == "PS144"
    two_days = Layout(
        text=what.text.replace('"every": "1 day"', '"every": "48 hours"').replace(
            '"retention": "1 day"', '"retention": "4 days"'
        ),
        files=what.files,
    )
    world.converge(two_days)


IDS = """
CREATE TABLE account (id uuid PRIMARY KEY, workspace_id text NOT NULL);
CREATE TABLE message (
  id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
  account_id uuid NOT NULL REFERENCES account (id),
  body text
);
CREATE TABLE note (
  id uuid PRIMARY KEY,
  message_id uuid NOT NULL REFERENCES message (id) ON DELETE CASCADE
);
"""


def test_a_table_partitioned_by_its_primary_key(world: World) -> None:
    """Nothing is weaker, others may refer to it, and an id alone prunes."""
    what = layout(
        {"s1": ["a"]},
        ddl=IDS,
        tables={"message": {"partition": {"by": "id", "every": "1 month"}}},
        indexes={"recent_idx": {"on": "message", "columns": ["body"], "window": "40 days"}},
    )
    plan = make_plan(world.load(what))
    assert "weaker-uniqueness" not in plan.hazards
    (notice,) = [n for n in plan.notices if "UUIDv7" in n]
    assert "gen_random_uuid() makes such ids" in notice
    assert "are refused" in notice
    world.converge(what)
    now = now_of(world)
    mine = value("uuid", now)
    world.execute(
        f"INSERT INTO account_s1 VALUES ('{mine}', 'a')",
        f"INSERT INTO message_s1 (id, account_id, workspace_id) VALUES ('{mine}', '{mine}', 'a') "
        "ON CONFLICT (id) DO NOTHING",
        f"INSERT INTO note_s1 (id, message_id, workspace_id) VALUES ('{mine}', '{mine}', 'a')",
    )
    text = "\n".join(
        line for (line,) in world.rows(f"EXPLAIN SELECT * FROM message_s1 WHERE id = '{mine}'")
    )
    assert text.count("message_s1_p") >= 1
    assert set(re.findall(r"message_s1_p\d+", text)) == {f"message_s1_p{now:%Y%m}01"}
    with pytest.raises(psycopg.errors.CheckViolation):
        world.execute(
            "INSERT INTO message_s1 (id, account_id, workspace_id) "
            f"VALUES ('ffffffff-ffff-4fff-8fff-ffffffffffff', '{mine}', 'a')"
        )
    later = months(now, 3)
    maintain(world, what, later)
    assert [s.title for s in maintain(world, what, later).plan.steps] == []
    in_window = world.rows("SELECT tablename FROM pg_indexes WHERE indexname LIKE '%recent_idx'")
    assert len(in_window) == 6  # all but the first, which ended on 1 December
