"""`maintain` by a clock that the test sets: partitions ahead, old ones retired, nothing lost."""

from __future__ import annotations

import re
from datetime import datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import psycopg
import pytest
from protocol import SCHEMA, Layout, World, layout

from parlant_shard import maintain as upkeep
from parlant_shard.cli import run
from parlant_shard.errors import Exit, UsageError
from parlant_shard.maintain import Report
from parlant_shard.maintain.model import Noun
from parlant_shard.planner import make_plan
from servers import Clusters

pytestmark = pytest.mark.matrix


@pytest.fixture
def world(tmp_path: Path, clusters: Clusters) -> World:
    """Give the databases of one server."""
    return World(tmp_path, clusters)


def cut(every: str = "1 month", premake: int = 2, **more: Any) -> dict[str, Any]:
    return {"log": {"partition": {"by": "at", "every": every, "premake": premake, **more}}}


def maintain(world: World, what: Layout, now: datetime | None = None, **more: Any) -> Report:
    report = upkeep.maintain(world.load(what), now=now, **more)
    assert [f.message for f in report.failures] == []
    return report


def pending(world: World, what: Layout) -> list[str]:
    return [s.title for s in make_plan(world.load(what)).steps]


def settled(world: World, what: Layout, now: datetime | None = None) -> None:
    """Require that neither command has anything left to do."""
    assert [s.title for s in maintain(world, what, now).plan.steps] == []
    assert pending(world, what) == []


def bounds(world: World, table: str = "log_s1", server: str = "core") -> list[tuple[str, str]]:
    with world.connect(server) as connection:
        connection.execute("SET TimeZone = UTC")
        connection.execute("SET DateStyle = 'ISO, YMD'")
        rows = connection.execute(
            "SELECT pg_get_expr(c.relpartbound, c.oid) FROM pg_inherits i JOIN pg_class c "
            "ON c.oid = i.inhrelid WHERE i.inhparent = %s::regclass",
            [table],
        ).fetchall()
    found = [re.findall(r"'(.+?)'", text) for (text,) in rows if text != "DEFAULT"]
    return sorted((a[:19], b[:19]) for a, b in found)


def now_of(world: World) -> datetime:
    found = world.value("SELECT now() AT TIME ZONE 'UTC'")
    assert isinstance(found, datetime)
    return found


def months(start: datetime, count: int) -> datetime:
    number = start.year * 12 + start.month - 1 + count
    return start.replace(
        year=number // 12, month=number % 12 + 1, day=1, hour=0, minute=0, second=0, microsecond=0
    )


def spring(start: datetime) -> datetime:
    """The first hour that New York does not have (its clocks go forward) two months from a moment.

    So it lies ahead of the servers' clock, whatever the day.
    """
    # The second Sunday of March is the first one from the 8th on.
    eighths = (datetime(year, 3, 8, 2, 30) for year in (start.year, start.year + 1))
    sundays = (day + timedelta(days=(6 - day.weekday()) % 7) for day in eighths)
    return next(day for day in sundays if day > start + timedelta(days=60))


def put(world: World, moment: datetime, shard: str = "s1", server: str = "core") -> None:
    world.execute(
        f"WITH a AS (INSERT INTO account_{shard} (workspace_id) VALUES ('a') RETURNING id), "
        f"i AS (INSERT INTO item_{shard} (workspace_id, account_id) SELECT 'a', id FROM a "
        f"RETURNING id) SELECT 1 FROM i",
        f"INSERT INTO log_{shard} (workspace_id, item_id, at) SELECT 'a', id, "
        f"'{moment.isoformat()}Z' FROM item_{shard} LIMIT 1",
        server=server,
    )


# --- premake --------------------------------------------------------------------------------------


def test_premake_follows_the_clock(world: World) -> None:
    what = layout({"s1": ["a"]}, tables=cut())
    world.apply(what)
    first = maintain(world, what)
    assert {s.title.split(" of ")[0] for s in first.plan.steps} <= {"take statistics"}
    settled(world, what)
    start = now_of(world)
    for step in (1, 2, 7):
        now = months(start, step)
        report = maintain(world, what, now)
        assert [c.horizon.until for c in report.cuts] == [months(now, 3)]
        settled(world, what, now)
    found = bounds(world)
    assert all(a[1] == b[0] for a, b in pairwise(found))
    # A partition that was premade has all that its siblings have.
    world.settled(what)


@pytest.mark.parametrize(
    "every", ["1 hour", "1 day", "1 week", "1 month", "1 quarter", "1 year", "6 hours"]
)
def test_every_interval(world: World, every: str) -> None:
    what = layout({"s1": ["a"]}, tables=cut(every, 2))
    world.apply(what)
    now = now_of(world) + timedelta(hours=7)
    maintain(world, what, now)
    settled(world, what, now)
    found = bounds(world)
    assert all(a[1] == b[0] for a, b in pairwise(found))
    put(world, now)


@pytest.mark.parametrize("kind", ["timestamptz", "timestamp", "date"])
def test_every_kind_of_time(world: World, kind: str) -> None:
    schema = SCHEMA.replace("at timestamptz", f"at {kind}")
    what = layout({"s1": ["a"]}, ddl=schema, tables=cut("1 day", 2, retention="2 days"))
    world.apply(what)
    now = now_of(world) + timedelta(days=10)
    maintain(world, what, now)
    settled(world, what, now)
    assert len(bounds(world)) == 5


def test_a_gap_is_found_and_filled(world: World) -> None:
    what = layout({"s1": ["a"]}, tables=cut("1 day", 3, retention="6 days"))
    world.apply(what)
    before = bounds(world)
    today = now_of(world).replace(hour=0, minute=0, second=0, microsecond=0)
    for days in (-3, 1):
        world.execute(f"DROP TABLE log_s1_p{today + timedelta(days=days):%Y%m%d}")
    report = maintain(world, what, dry_run=True)
    (only,) = report.cuts
    assert only.horizon.until == today + timedelta(days=1)
    assert only.horizon.low
    assert any("will fail from" in notice for notice in report.notices)
    maintain(world, what)
    assert bounds(world) == before
    settled(world, what)


def test_a_gap_without_retention(world: World) -> None:
    what = layout({"s1": ["a"]}, tables=cut("1 day", 3))
    world.apply(what)
    later = now_of(world) + timedelta(days=9)
    maintain(world, what, later)
    whole = bounds(world)
    assert len(whole) == 13
    world.execute(f"DROP TABLE log_s1_p{now_of(world) + timedelta(days=5):%Y%m%d}")
    maintain(world, what, later)
    assert bounds(world) == whole


def test_a_changed_interval_keeps_old_partitions(world: World) -> None:
    by_month = layout({"s1": ["a"]}, tables=cut("1 month", 1))
    world.apply(by_month)
    before = set(bounds(world))
    by_day = layout({"s1": ["a"]}, tables=cut("1 day", 70))
    maintain(world, by_day)
    assert before < set(bounds(world))
    settled(world, by_day)


def test_premake_while_the_schema_waits_for_its_apply(world: World) -> None:
    """A partition comes in time although the DDL files know a column that no table has yet."""
    world.apply(layout({"s1": ["a"]}, tables=cut()))
    schema = SCHEMA.replace("body text", "body text, extra integer")
    schema += "CREATE INDEX log_extra_idx ON log (extra);"
    what = layout({"s1": ["a"]}, ddl=schema, tables=cut())
    now = months(now_of(world), 2)
    maintain(world, what, now)
    assert len(bounds(world)) == 5
    assert any('add column "extra"' in title for title in pending(world, what))
    world.apply(what)
    settled(world, what, now)


# --- retention ------------------------------------------------------------------------------------


def test_expired_partitions_are_detached_and_kept(world: World) -> None:
    what = layout({"s1": ["a"]}, tables=cut("1 month", 1, retention="2 months"))
    world.apply(what)
    start = now_of(world)
    put(world, start)
    now = months(start, 4)
    report = maintain(world, what, now)
    name = f"log_s1_p{months(start, 0):%Y%m%d}"
    assert world.value("SELECT count(*) FROM log_s1") == 0
    assert world.value(f"SELECT count(*) FROM {name}") == 1
    assert name in {w.retired.name for w in report.waiting}
    # What is retired holds up nobody who deletes, and no delete reaches it.
    world.execute("DELETE FROM item_s1")
    assert world.value(f"SELECT count(*) FROM {name}") == 1
    later = now + timedelta(days=8)
    assert maintain(world, what, later).archived == []
    assert world.value(f"SELECT count(*) FROM {name}") == 1
    # The range does not come back, by whatever clock.
    settled(world, what, later)
    settled(world, what)
    assert not any(lower < f"{months(now, -2):%Y-%m-%d}" for lower, _ in bounds(world))


def test_retention_goes_by_real_bounds(world: World) -> None:
    """A wide partition with a young end stays, whatever its name says."""
    what = layout({"s1": ["a"]}, tables=cut("1 year", 1))
    world.apply(what)
    daily = layout({"s1": ["a"]}, tables=cut("1 day", 1, retention="1 day"))
    year = now_of(world).year
    maintain(world, daily, datetime(year, 12, 30, 12))
    assert (f"{year}-01-01 00:00:00", f"{year + 1}-01-01 00:00:00") in bounds(world)
    maintain(world, daily, datetime(year + 1, 1, 2, 0, 0))
    assert (f"{year}-01-01 00:00:00", f"{year + 1}-01-01 00:00:00") not in bounds(world)


def test_an_announced_detach_that_is_not_due_any_more(world: World) -> None:
    what = layout({"s1": ["a"]}, tables=cut("1 day", 1, retention="3 days"))
    world.apply(what)
    name = f"log_s1_p{now_of(world) - timedelta(days=3):%Y%m%d}"
    world.execute(
        "INSERT INTO parlant_shard.retired SELECT topology, "
        f"'{name}', '{name}'::regclass, 'log', 's1', 'log_s1', "
        "'2000-01-01', '2000-01-02', 'detaching' FROM parlant_shard.object LIMIT 1"
    )
    report = maintain(world, what)
    assert f'keep partition "{name}", which is not expired any more' in {
        s.title for s in report.plan.steps
    }
    settled(world, what)


def test_a_detach_waits_for_a_reader(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    what = layout({"s1": ["a"]}, tables=cut("1 month", 1, retention="1 month"))
    world.apply(what)
    start = now_of(world)
    put(world, start)
    now = months(start, 3)
    monkeypatch.setattr("parlant_shard.maintain.run.READERS", 1.0)
    with world.connect() as reader:
        reader.execute("BEGIN ISOLATION LEVEL REPEATABLE READ")
        assert reader.execute("SELECT count(*) FROM log_s1").fetchone() == (1,)
        report = maintain(world, what, now)
        # Premake came first, the detach was put off with nothing half done.
        assert months(now, 1).isoformat(sep=" ") in {lower for lower, _ in bounds(world)}
        assert len(report.postponed) == 1
        assert "still uses the table" in report.postponed[0]
        assert world.value("SELECT count(*) FROM pg_inherits WHERE inhdetachpending") == 0
        assert reader.execute("SELECT count(*) FROM log_s1").fetchone() == (1,)
        reader.execute("COMMIT")
    assert maintain(world, what, now).postponed == []
    settled(world, what, now)
    assert world.value("SELECT count(*) FROM log_s1") == 0


def test_a_pending_detach_is_finalised(world: World) -> None:
    what = layout({"s1": ["a"]}, tables=cut("1 month", 1, retention="1 month"))
    world.apply(what)
    start = now_of(world)
    put(world, start)
    name = f"log_s1_p{months(start, -1):%Y%m%d}"
    world.interrupt_detach("log_s1", name)
    now = months(start, 1)
    report = maintain(world, what, now)
    assert report.plan.steps[0].title == (f'finalise the interrupted detach of partition "{name}"')
    assert world.value("SELECT count(*) FROM pg_inherits WHERE inhdetachpending") == 0
    # It was somebody else's: what is not expired by the real clock, `plan` makes anew.
    assert maintain(world, what, now).plan.steps == ()


def test_a_pending_detach_that_cannot_be_finalised_stops_no_premake(world: World) -> None:
    what = layout({"s1": ["a"]}, tables=cut("1 month", 1, retention="1 month"))
    world.apply(what)
    start = now_of(world)
    name = f"log_s1_p{months(start, -1):%Y%m%d}"
    world.interrupt_detach("log_s1", name)
    world.execute("ALTER TABLE log_s1 ADD COLUMN late integer")
    report = upkeep.maintain(world.load(what), now=months(start, 1))
    if world.clusters.get(0).major >= 18:
        assert report.exit_code == Exit.FAILED
        (failure,) = report.failures
        assert "late" in failure.message or "different" in failure.message, failure
    else:
        assert report.failures == []
    assert bounds(world)[-1][1] == months(start, 3).isoformat(sep=" ")


def test_with_a_default_partition(world: World) -> None:
    what = layout({"s1": ["a"]}, tables=cut("1 month", 1, retention="1 month", default=True))
    world.apply(what)
    start = now_of(world)
    put(world, start)
    put(world, datetime(1999, 5, 5))
    now = months(start, 3)
    report = maintain(world, what, now)
    assert any("holds 1 rows" in notice for notice in report.notices)
    assert not report.cuts[0].horizon.low
    assert world.value("SELECT count(*) FROM log_s1") == 1
    settled(world, what, now)


# --- command line ---------------------------------------------------------------------------------


def test_the_command_line(world: World, capfd: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    what = layout({"s1": ["a"]}, tables=cut())
    world.apply(what)
    topology = world.load(what)
    for name, dsn in world.dsns.items():
        text = topology.file.read_text().replace(f"${{{name}}}", dsn.replace("'", "\\'"))
        topology.file.write_text(text)
    file, metrics = str(topology.file), tmp_path / "shards.prom"
    assert run(["maintain", file, "--dry-run", "--now", "2031-05-05"]) == 0
    assert 'create partition "log_s1_p20310501"' in capfd.readouterr().out
    assert len(bounds(world)) == 3
    later = ["--now", "2031-05-05T00:00:00+02:00", "--output", "json"]
    assert run(["maintain", file, "--metrics-file", str(metrics), *later]) == 0
    out = capfd.readouterr().out
    assert '"now": "2031-05-04T22:00:00Z"' in out
    assert '"horizon_days": 88.083' in out
    text = metrics.read_text()
    assert (
        f'parlant_shard_partition_horizon_seconds{{topology="{topology.name}",server="core",'
        'shard="s1",table="log"} 7610400' in text
    )
    assert "\nparlant_shard_maintain_last_run_success" in text
    assert oct(metrics.stat().st_mode)[-3:] == "644"
    assert [p.name for p in tmp_path.iterdir() if "prom" in p.name] == ["shards.prom"]
    for no in ("yesterday", "", "0001-01-01", "9999-12-31T23:59:59Z"):
        assert run(["maintain", file, "--now", no]) == Exit.USAGE, no
        assert "PS157" in capfd.readouterr().err
    assert run(["maintain", file, "--metrics-file", str(tmp_path / "no" / "x.prom")]) == 1
    assert f'directory "{tmp_path}/no" does not exist' in capfd.readouterr().err
    assert run(["status", file, "--output", "json"]) == 0
    assert '"horizon_days"' in capfd.readouterr().out
    assert run(["status", file]) == 0
    assert "inserts fail from" in capfd.readouterr().out


def test_a_moment_far_ahead_is_noticed(world: World, capfd: pytest.CaptureFixture[str]) -> None:
    what = layout({"s1": ["a"]}, tables=cut())
    world.apply(what)
    topology, clock = world.load(what), now_of(world)

    def said(now: datetime | None, **more: Any) -> list[str]:
        report = upkeep.maintain(topology, now=now, **more)
        assert report.failures == []
        return [n for n in report.to_json()["notices"] if "--now" in n]

    for days in (None, -400, -1, 0, 0.9):
        assert said(None if days is None else clock + timedelta(days=days)) == []
    far = clock + timedelta(days=2, hours=1)
    assert said(far, dry_run=True) == []
    (notice,) = said(far)
    assert notice == (
        "--now is 2 days ahead of the server's clock: retention and grace go by it, and what it "
        "retires is retired for good (--dry-run shows it)"
    )
    text = topology.file.read_text().replace("${core}", world.dsn("core").replace("'", "\\'"))
    topology.file.write_text(text)
    assert run(["maintain", str(topology.file), "--now", f"{far.isoformat()}Z"]) == 0
    assert f"notice: {notice}" in capfd.readouterr().out


def test_moments() -> None:
    noon = datetime(2027, 1, 31, 12)
    for text in ("2027-01-31T12:00:00Z", "2027-01-31 12:00", "2027-01-31T14:00+02:00"):
        assert upkeep.moment(text) == noon
    for text in ("", "now", "2027-13-01", "0001-01-01T00:00:00+14:00"):
        with pytest.raises(UsageError):
            upkeep.moment(text)


def test_a_table_without_any_partition(world: World) -> None:
    what = layout({"s1": ["a"], "s2": ["b"]}, tables=cut())
    world.apply(what)
    for (name,) in world.rows(
        "SELECT inhrelid::regclass::text FROM pg_inherits WHERE inhparent = 'log_s1'::regclass"
    ):
        world.execute(f"DROP TABLE {name}")
    now = months(now_of(world), 1)
    report = upkeep.maintain(world.load(what), now=now)
    assert {(f.code, f.shard) for f in report.failures} == {("PS530", "s1")}
    assert report.exit_code is Exit.FAILED
    assert [(c.shard, c.horizon.until == months(now, 3)) for c in report.cuts] == [
        ("s1", False),
        ("s2", True),
    ]
    world.apply(what)
    put(world, now_of(world))


def test_what_rows_wait_for_goes_before_a_repair(world: World) -> None:
    what = layout({"s1": ["a"]}, tables=cut("1 day", 3))
    world.apply(what)
    maintain(world, what)
    world.execute(
        "UPDATE pg_index SET indisvalid = false WHERE indexrelid IN "
        "(SELECT min(inhrelid) FROM pg_inherits WHERE inhparent = "
        "'log_item_idx_s1'::regclass)"
    )
    now = now_of(world) + timedelta(days=5)
    nouns = [s.phase for s in upkeep.maintain(world.load(what), now=now).plan.steps]
    first, last = nouns.index(Noun.REPAIR), len(nouns) - nouns[::-1].index(Noun.REPAIR)
    # Of now and of the next day before it, those of later days after it.
    assert Noun.PREMAKE in nouns[:first]
    assert Noun.PREMAKE in nouns[last:]
    settled(world, what, now)


def test_the_watch_of_the_pg_cron_example(world: World) -> None:
    """The job that needs no other program, as pg_cron would run it; pg_cron itself is not here."""
    ddl = """
CREATE TABLE log (workspace_id text NOT NULL, at timestamptz NOT NULL);
CREATE TABLE daily (workspace_id text NOT NULL, at date NOT NULL);
CREATE TABLE numbered (workspace_id text NOT NULL, at bigint NOT NULL);
CREATE TABLE named (workspace_id text NOT NULL, at uuid NOT NULL);
"""
    tables = {
        **cut("1 month", 2),
        "daily": {"partition": {"by": "at", "every": "1 day", "premake": 2}},
        "numbered": {"partition": {"by": "at", "every": "1 day", "epoch": "milliseconds"}},
        "named": {"partition": {"by": "at", "every": "1 month"}},
    }
    world.apply(layout({"s1": ["a"]}, ddl=ddl, tables=tables))
    example = Path(__file__).parents[2] / "examples" / "maintain" / "pg_cron.sql"
    world.execute(
        "CREATE SCHEMA cron",
        "CREATE TABLE cron.job (name text, schedule text, command text)",
        "CREATE FUNCTION cron.schedule(text, text, text) RETURNS void LANGUAGE sql AS "
        "'INSERT INTO cron.job VALUES ($1, $2, $3)'",
    )
    with world.connect() as connection:
        connection.execute(example.read_text())  # type: ignore[arg-type]
        jobs = dict(connection.execute("SELECT name, command FROM cron.job").fetchall())
        assert jobs.keys() == {"parlant-shard maintain", "parlant-shard horizon"}
        watch = jobs["parlant-shard horizon"]
        connection.execute(watch)
        for (leaf,) in connection.execute(
            "SELECT inhrelid::regclass::text FROM pg_inherits "
            "WHERE inhparent = 'log_s1'::regclass ORDER BY 1 DESC LIMIT 2"
        ).fetchall():
            connection.execute(f"DROP TABLE {leaf}")
        with pytest.raises(psycopg.errors.RaiseException, match="ahead of now in log_s1:"):
            connection.execute(watch)
