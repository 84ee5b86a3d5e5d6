"""`forecast` finds laws that the tests know: growth and dates within 10 %."""

from __future__ import annotations

import json
import math
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from protocol import Layout, World, layout
from psycopg.conninfo import make_conninfo

from parlant_shard import forecast as growing
from parlant_shard import maintain as upkeep
from parlant_shard.cli import run
from parlant_shard.errors import Exit, ShardError
from parlant_shard.forecast import series
from parlant_shard.forecast.model import MONTH
from servers import Clusters

pytestmark = pytest.mark.matrix

SCHEMA = """
CREATE TABLE account (
  id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
  workspace_id text NOT NULL,
  name text
);
CREATE TABLE note (
  id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
  workspace_id text NOT NULL,
  account_id uuid REFERENCES account (id),
  updated_at timestamptz NOT NULL DEFAULT now(),
  created_at timestamptz NOT NULL DEFAULT now(),
  body text
);
CREATE TABLE log (
  id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
  workspace_id text NOT NULL,
  at timestamp NOT NULL,
  body text
);
"""
WHAT = layout({"s1": ["a", "b"], "s2": ("east", ["c"])}, ddl=SCHEMA)
NOW = datetime(2026, 6, 3, 15)

# The k-th of n rows comes when the law says so; then it moves up to two days, and none on a Sunday.
LINEAR = "{days} * (1 - k::float8 / {rows})"
EXPONENTIAL = "ln({rows} / k::float8) / {rate}"


@pytest.fixture
def world(tmp_path: Path, clusters: Clusters) -> World:
    """Give the databases of two servers."""
    return World(tmp_path, clusters, over=2)


def put(
    world: World,
    ago: str,
    rows: int,
    *,
    table: str = "note_s1",
    column: str = "created_at",
    workspace: str = "'a'",
    server: str = "core",
) -> None:
    """Add rows whose k-th is `ago` days old (SQL of k and rows), with a weekly season and noise."""
    world.execute(
        f"INSERT INTO {table} (workspace_id, {column}, body) "
        f"SELECT {workspace}, least(m + CASE WHEN extract(dow FROM m) = 0 THEN interval '1 day' "
        f"ELSE interval '0' END, '{NOW}') AT TIME ZONE 'UTC', repeat('x', 80) "
        f"FROM (SELECT k, timestamp '{NOW}' - interval '1 day' * ({ago} "
        f"+ (('x' || substr(md5(k::text), 1, 8))::bit(32)::bigint / 4294967296.0 * 4 - 2)) AS m "
        f"FROM generate_series(1, {rows}) k) AS r",
        f"ANALYZE {table}",
        server=server,
    )


def declared(what: Layout, **capacity: float) -> Layout:
    """Declare capacities of servers and shards, in bytes."""
    document = json.loads(what.text)
    for name, size in capacity.items():
        section = "servers" if name in document["servers"] else "shards"
        document[section][name]["capacity"] = f"{math.ceil(size / 1024)} kB"
    return Layout(text=json.dumps(document), files=what.files)


def forecast(world: World, what: Layout, **more: Any) -> dict[str, Any]:
    report = growing.forecast(world.load(what), **{"now": NOW, **more})
    assert [e.message for _, e in report.failures] == []
    assert report.to_text()
    found = json.loads(json.dumps(report.to_json()))
    for kind in ("servers", "shards", "tables", "workspaces"):
        for one in found[kind]:
            check_intervals(one)
    return found


def check_intervals(one: dict[str, Any]) -> None:
    """Require an interval around every number, and none where there is too little data."""
    if one["confidence"] != "ok":
        assert one["needs"]
        assert one["bytes_per_month"] is one["months_until_full"] is one["law"] is None
        return
    low, expected, high = one["bytes_per_month"]
    assert low <= expected <= high
    if one["months_until_full"] is not None:
        ends = [math.inf if m is None else m for m in one["months_until_full"]]
        assert ends == sorted(ends)


def named(found: dict[str, Any], kind: str, name: str) -> dict[str, Any]:
    (one,) = [x for x in found[f"{kind}s"] if x[kind] == name]
    assert isinstance(one, dict)
    return one


def about(value: float) -> Any:
    return pytest.approx(value, rel=0.1)


# --- laws -----------------------------------------------------------------------------------------


def test_growth_by_the_timestamps_of_the_rows(world: World) -> None:
    world.apply(WHAT)
    days, rate = 400, 0.006
    # Three rows of a for each of b.
    put(world, LINEAR.format(days=days, rows=12_000), 12_000,
        workspace="CASE WHEN k % 4 = 0 THEN 'b' ELSE 'a' END")  # fmt: skip
    put(world, EXPONENTIAL.format(rate=rate, rows=10_000), 10_000,
        table="note_s2", workspace="'c'", server="east")  # fmt: skip
    first = forecast(world, WHAT)
    assert any("no capacity is declared" in n for n in first["notices"])
    size = {s["shard"]: s["bytes"] for s in first["shards"]}
    whole = {s["server"]: s["bytes"] for s in first["servers"]}
    what = declared(
        WHAT, s1=1.5 * size["s1"], s2=2 * size["s2"], core=whole["core"] + size["s1"] / 4
    )
    found = forecast(world, what, limit=2)

    s1, s2 = named(found, "shard", "s1"), named(found, "shard", "s2")
    assert s1["law"] == "linear"
    assert s1["rows_per_month"][1] == about(12_000 / days * MONTH)
    assert s1["months_until_full"][1] == about(days / 2 / MONTH)
    assert s2["law"] == "exponential"
    assert s2["percent_per_month"] == about(100 * math.expm1(rate * MONTH))
    assert s2["months_until_full"][1] == about(math.log(2) / rate / MONTH)
    for one in (s1, s2):
        low, _, high = one["months_until_full"]
        truth = (days / 2 if one is s1 else math.log(2) / rate) / MONTH
        assert low * 0.97 < truth < high * 1.03
        assert one["basis"]["source"] == "timestamps"
        assert one["basis"]["survivors_only"]
        assert one["basis"]["read"] == 1
    full = NOW + timedelta(days=days / 2)
    assert abs(datetime.fromisoformat(s1["full_at"]) - full) < timedelta(days=days / 20)
    core = named(found, "server", "core")
    assert core["months_until_full"][1] == about(days / 4 / MONTH)
    # Unequal workspaces, and the table over both shards.
    a, c = named(found, "workspace", "a"), named(found, "workspace", "c")
    assert a["rows"] == 9_000
    assert a["rows_per_month"][1] == about(9_000 / days * MONTH)
    assert c["law"] == "exponential"
    assert found["workspaces_measured"] == 3
    note = named(found, "table", "note")
    assert note["rows"] == 22_000
    nearly = 12_000 / days * MONTH + 10_000 * math.expm1(rate * MONTH)
    assert note["rows_per_month"][1] == about(nearly)


@pytest.mark.parametrize("days", [30, 50])
def test_a_short_span_is_read_by_days(world: World, days: int) -> None:
    world.apply(WHAT)
    put(world, LINEAR.format(days=days, rows=9_000), 9_000)
    s1 = named(forecast(world, WHAT), "shard", "s1")
    assert s1["rows_per_month"][1] == about(9_000 / days * MONTH)
    assert s1["basis"]["points"] % 7 == 0


def test_retention_makes_growth_end(world: World) -> None:
    """What comes in meets what leaves: the size is inflow times retention."""
    by_week = {"by": "at", "every": "1 week", "premake": 1, "retention": "20 weeks"}
    what = layout(
        {"s1": ["a"]}, ddl=SCHEMA, tables={"log": {"partition": {**by_week, "archive": "old/"}}}
    )
    world.apply(what)
    now = world.value("SELECT now() AT TIME ZONE 'UTC'")
    for rows, days in ((14_000, 140), (7_000, 70)):
        world.execute("TRUNCATE log_s1")
        world.execute(
            "INSERT INTO log_s1 (workspace_id, at, body) SELECT 'a', "
            f"timestamp '{now}' - interval '1 day' * ({days} * random()), repeat('x', 80) "
            f"FROM generate_series(1, {rows})",
            "ANALYZE log_s1",
        )
        report = growing.forecast(world.load(what), now=now)
        (shard,) = report.found.shards
        growth = shard.growth
        assert isinstance(growth, growing.model.Growth)
        assert growth.law == "steady"
        settled = 100 * (140 + 3.5) * shard.bytes / shard.rows
        for week in (30, 100, 500):
            assert shard.bytes + growth.expected[week] == about(settled)
    # Without an archive nothing leaves the disk.
    bare = layout({"s1": ["a"]}, ddl=SCHEMA, tables={"log": {"partition": by_week}})
    report = growing.forecast(world.load(bare), now=now)
    (shard,) = report.found.shards
    assert isinstance(shard.growth, growing.model.Growth)
    assert shard.growth.law == "linear"
    assert any("stay on the disk" in n for n in report.found.servers[0].notices)


def test_retention_of_recorded_changes(world: World) -> None:
    """They leave by `audit:`, as rows of a table do by its `partition:`."""
    what = layout(
        {"s1": ["a"]},
        ddl=SCHEMA,
        tables={"note": {"audit": True}},
        audit={"retention": "20 weeks", "archive": "old/"},
    )
    world.apply(what)
    now = world.value("SELECT now() AT TIME ZONE 'UTC'")
    world.execute(
        f"CREATE TABLE past PARTITION OF parlant_shard_audit_s1 FOR VALUES FROM (MINVALUE) "
        f"TO ('{now:%Y-%m}-01Z')",
        "INSERT INTO parlant_shard_audit_s1 (at, transaction_id, workspace_id, table_name, "
        "operation, row_key, actor) SELECT (timestamp "
        f"'{now}' - interval '1 day' * (140 * random())) AT TIME ZONE 'UTC', '1', 'a', 'note', "
        "'insert', '{}', 'x' FROM generate_series(1, 14000)",
        "ANALYZE parlant_shard_audit_s1",
    )
    assert named(forecast(world, what, now=now), "table", "parlant_shard_audit")["law"] == "steady"


def test_what_was_archived_came_in_too(world: World) -> None:
    partition = {"by": "at", "every": "1 week", "retention": "4 weeks", "archive": "old/"}
    what = layout({"s1": ["a"]}, ddl=SCHEMA, tables={"log": {"partition": partition}})
    world.apply(what)
    now = world.value("SELECT now() AT TIME ZONE 'UTC'")
    world.execute(
        "INSERT INTO log_s1 (workspace_id, at) SELECT 'a', "
        f"timestamp '{now}' - interval '1 day' * (28 * random()) FROM generate_series(1, 2800)",
        "ANALYZE log_s1",
        "INSERT INTO parlant_shard.retired (topology, name, relid, logical, shard, parent, "
        "lower_bound, upper_bound, state, rows) SELECT topology, 'gone_' || n, 0, 'log', 's1', "
        f"'log_s1', timestamp '{now}' - interval '28 days' - interval '7 days' * (n + 1), "
        f"timestamp '{now}' - interval '28 days' - interval '7 days' * n, 'archived', 700 "
        "FROM generate_series(0, 19) n, (SELECT DISTINCT topology FROM parlant_shard.object) t",
    )
    log = named(forecast(world, what, now=now), "table", "log")
    assert log["law"] == "steady"
    assert log["basis"]["span_days"] >= 150
    assert log["rows"] == 2800


def test_a_part_of_a_large_table_is_enough(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.apply(WHAT)
    put(world, LINEAR.format(days=300, rows=40_000), 40_000)
    world.execute("VACUUM (ANALYZE) note_s1")  # what autovacuum adds between two looks is there now
    whole = named(forecast(world, WHAT), "shard", "s1")
    monkeypatch.setattr(series, "READ", 2 * 2**20)
    found = forecast(world, WHAT)
    part = named(found, "shard", "s1")
    assert part["basis"]["read"] < 0.5
    assert part["rows"] == pytest.approx(40_000, rel=0.01)
    assert part["rows_per_month"][1] == about(40_000 / 300 * MONTH)
    assert part["bytes"] == whole["bytes"]
    assert named(found, "workspace", "a")["bytes"] == about(whole["bytes"])
    assert forecast(world, WHAT) == found  # the same blocks


# --- samples --------------------------------------------------------------------------------------


def sample(world: World, level: str, *, shard: str, server: str = "core", every: int = 1) -> None:
    """Store samples of 120 days; `level` is SQL of d, the days ago. With a season and noise."""
    world.execute(
        "INSERT INTO parlant_shard.sample (topology, taken_at, shard, logical, rows, bytes) "
        f"SELECT topology, '{NOW}Z'::timestamptz - interval '1 day' * d, '{shard}', 'note', "
        f"v / 200, v FROM (SELECT topology, d, ({level}) * (1 + 0.004 * sin(2 * pi() * d / 7) "
        "+ 0.004 * (('x' || substr(md5(d::text), 1, 8))::bit(32)::bigint / 4294967296.0 - 0.5)) "
        f"AS v FROM generate_series(0, 120, {every}) d, "
        "(SELECT DISTINCT topology FROM parlant_shard.object) t) s",
        server=server,
    )


def test_growth_by_samples(world: World) -> None:
    world.apply(WHAT)
    for shard, server in (("s1", "core"), ("s2", "east")):
        # Rows of one moment: their timestamps say nothing, so only the samples can.
        world.execute(
            f"INSERT INTO note_{shard} (workspace_id, created_at) SELECT "
            f"'{'a' if shard == 's1' else 'c'}', '{NOW}Z' FROM generate_series(1, 5000)",
            f"ANALYZE note_{shard}",
            server=server,
        )
    size = {s["shard"]: s["bytes"] for s in forecast(world, WHAT)["shards"]}
    rate = 0.008
    sample(world, f"{size['s1']} * (1 - d / 400.0)", shard="s1")
    sample(world, f"{size['s2']} * exp(-{rate} * d)", shard="s2", server="east", every=3)
    found = forecast(world, declared(WHAT, s1=1.5 * size["s1"], s2=3 * size["s2"]))
    s1, s2 = named(found, "shard", "s1"), named(found, "shard", "s2")
    assert s1["law"] == "linear"
    assert s1["bytes_per_month"][1] == about(size["s1"] / 400 * MONTH)
    assert s1["months_until_full"][1] == about(200 / MONTH)
    assert s2["law"] == "exponential"
    assert s2["percent_per_month"] == about(100 * math.expm1(rate * MONTH))
    assert s2["months_until_full"][1] == about(math.log(3) / rate / MONTH)
    assert s1["basis"]["source"] == s2["basis"]["source"] == "samples"
    assert s1["basis"]["points"] == 121
    # A moment in the past does not know what was sampled later.
    before = forecast(world, WHAT, now=NOW - timedelta(days=100))
    assert named(before, "shard", "s1")["basis"]["points"] == 21


def test_maintain_stores_samples(world: World) -> None:
    world.apply(WHAT)
    put(world, LINEAR.format(days=10, rows=4_000), 4_000,
        workspace="CASE WHEN k % 4 = 0 THEN 'b' ELSE 'a' END")  # fmt: skip
    upkeep.maintain(world.load(WHAT), dry_run=True)
    assert world.value("SELECT count(*) FROM parlant_shard.sample") == 0
    report = upkeep.maintain(world.load(WHAT))
    assert report.notices == ()
    look = (
        "SELECT workspace_id, rows, bytes FROM parlant_shard.sample WHERE shard = 's1' ORDER BY 1"
    )
    whole, a, b = world.rows(look)
    # Only what was analysed is there; the rest has no figures.
    assert world.rows("SELECT DISTINCT logical FROM parlant_shard.sample") == [("note",)]
    assert whole == ("", 4_000, world.value("SELECT pg_total_relation_size('note_s1')"))
    assert a[1:] == (about(3_000), about(whole[2] * 0.75))
    assert b[1] == about(1_000)
    # Once a day, by the real clock, and not for ever.
    upkeep.maintain(world.load(WHAT), now=NOW + timedelta(days=365))
    assert len(world.rows(look)) == 3
    for age, stored in (("19 hours", 0), ("21 hours", 3)):
        world.execute(f"UPDATE parlant_shard.sample SET taken_at = now() - interval '{age}'")
        upkeep.maintain(world.load(WHAT))
        assert len(world.rows(look)) == 3 + stored
    world.execute("UPDATE parlant_shard.sample SET taken_at = taken_at - interval '729 days'")
    upkeep.maintain(world.load(WHAT))
    assert len(world.rows(look)) == 9
    world.execute("UPDATE parlant_shard.sample SET taken_at = taken_at - interval '2 days'")
    upkeep.maintain(world.load(WHAT))
    assert len(world.rows(look)) == 3 + 3  # one of the last run, one of this


def test_a_partitioned_table_is_one_sample(world: World) -> None:
    cut = {"log": {"partition": {"by": "at", "every": "1 month", "premake": 1}}}
    what = layout({"s1": ["a", "b"]}, ddl=SCHEMA, tables=cut)
    world.apply(what)
    world.execute(
        "INSERT INTO log_s1 (workspace_id, at) SELECT 'a', date_trunc('month', now() AT TIME ZONE "
        "'UTC') + interval '1 month' * (k % 2) FROM generate_series(1, 1000) k",
        "ANALYZE log_s1",
    )
    upkeep.maintain(world.load(what))
    rows = world.rows(
        "SELECT workspace_id, rows FROM parlant_shard.sample WHERE logical = 'log' ORDER BY 1"
    )
    assert rows == [("", 1000), ("a", 1000)]


def test_a_sample_that_fails_fails_no_run(world: World) -> None:
    world.apply(WHAT)
    world.execute("DROP TABLE parlant_shard.sample")
    report = upkeep.maintain(world.load(WHAT))
    assert report.exit_code == Exit.DONE
    assert ["storing a sample of growth" in n for n in report.notices] == [True]
    assert any("no room for samples" in n for n in forecast(world, WHAT)["notices"])


# --- honesty --------------------------------------------------------------------------------------


def test_too_little_data_is_said(world: World) -> None:
    world.apply(WHAT)
    what = declared(WHAT, s1=2**30, s2=2**30, core=2**30, east=2**30)
    empty = named(forecast(world, what), "shard", "s1")
    assert empty["confidence"] == "too little data"
    assert empty["needs"] == "rows: there are none"
    put(world, LINEAR.format(days=6, rows=3_000), 3_000)
    found = forecast(world, what)
    s1 = named(found, "shard", "s1")
    assert s1["confidence"] == "too little data"
    assert "over 14 days" in s1["needs"]
    assert found["recommendations"] == []


def test_moments_that_are_no_dates(world: World) -> None:
    world.apply(WHAT)
    put(world, LINEAR.format(days=200, rows=5_000), 5_000)
    world.execute(
        "INSERT INTO note_s1 (workspace_id, created_at) VALUES "
        "('a', 'infinity'), ('a', '-infinity'), ('a', '0044-03-15 BC'), ('a', '9999-01-01')"
    )
    s1 = named(forecast(world, WHAT), "shard", "s1")
    assert s1["rows"] == 5_004
    assert s1["rows_per_month"][1] == about(5_000 / 200 * MONTH)


def test_a_topology_that_was_never_applied(world: World) -> None:
    with pytest.raises(ShardError) as error:
        forecast(world, WHAT)
    assert error.value.code == "PS520"


def test_a_server_that_is_down(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    world.apply(WHAT)
    put(world, LINEAR.format(days=200, rows=5_000), 5_000)
    file = world.load(WHAT).file
    text = file.read_text()
    for broken, code in ((["east"], Exit.FAILED), (["core", "east"], Exit.CANNOT_CONNECT)):
        new = text
        for server in ("core", "east"):
            dsn = (
                f"host=127.0.0.1 port=1 user=x dbname={server}"
                if server in broken
                else world.dsn(server)
            )
            new = new.replace(f"${{{server}}}", dsn)
        file.write_text(new)
        assert run(["forecast", str(file), "--now", NOW.isoformat(), "--output", "json"]) == code
        out, err = capsys.readouterr()
        found = json.loads(out)
        assert found["format_version"] == 1
        assert [f["server"] for f in found["failures"]] == broken
        assert [s["shard"] for s in found["shards"]] == (["s1"] if code == Exit.FAILED else [])
        assert '"PS401"' in err


def test_the_command_line(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    world.apply(WHAT)
    put(world, LINEAR.format(days=200, rows=5_000), 5_000)
    file = world.load(WHAT).file
    text = file.read_text()
    for server in ("core", "east"):
        text = text.replace(f"${{{server}}}", world.dsn(server))
    file.write_text(text)
    assert run(["forecast", str(file), "--now", NOW.isoformat()]) == Exit.DONE
    out, _ = capsys.readouterr()
    assert "a (s1)" in out
    assert "timestamps, " in out
    for wrong in ("soon", "0 days", "11 years"):
        assert run(["forecast", str(file), "--horizon", wrong]) == Exit.USAGE
        assert "PS570" in capsys.readouterr()[1]


def test_rows_of_the_future_did_not_come_today(world: World) -> None:
    """A clock that runs ahead, or what is planned; also what came after a moment of the past."""
    world.apply(WHAT)
    put(world, LINEAR.format(days=300, rows=9_000), 9_000)
    put(world, "-60 - k::float8 / 2000", 2_000)
    s1 = named(forecast(world, WHAT), "shard", "s1")
    assert s1["rows"] == 11_000
    assert s1["rows_per_month"][1] == about(9_000 / 300 * MONTH * 11 / 9)
    world.execute("DELETE FROM note_s1 WHERE created_at > now() + interval '3000 days'",
                  f"DELETE FROM note_s1 WHERE created_at > '{NOW}Z'")  # fmt: skip
    before = forecast(world, WHAT, now=NOW - timedelta(days=100))
    s1 = named(before, "shard", "s1")
    assert s1["basis"]["span_days"] == pytest.approx(200, abs=8)
    assert s1["law"] == "linear"


@pytest.mark.parametrize(
    ("column", "epoch", "value"),
    [
        ("bigint", "milliseconds", "(extract(epoch FROM {}) * 1000)::bigint"),
        ("bigint", "nanoseconds", "(extract(epoch FROM {}) * 1000000000)::bigint"),
        ("integer", "seconds", "extract(epoch FROM {})::int"),
        ("uuid", None,
         "(substr(h, 1, 8) || '-' || substr(h, 9, 4) || '-7000-8000-000000000000')::uuid"),
    ],
)  # fmt: skip
def test_numbers_and_uuids_say_when_a_row_came(
    world: World, column: str, epoch: str | None, value: str
) -> None:
    ddl = f"CREATE TABLE tick (id {column} PRIMARY KEY, workspace_id text NOT NULL, body text);"
    cut = {
        "by": "id",
        "every": "1 month",
        "retention": "1 year",
        **({"epoch": epoch} if epoch else {}),
    }
    what = layout({"s1": ["a"]}, ddl=ddl, tables={"tick": {"partition": cut}})
    world.apply(what)
    now = world.value("SELECT now() AT TIME ZONE 'UTC'")
    world.execute(
        f"INSERT INTO tick_s1 (workspace_id, id, body) SELECT 'a', {value.format('m')}, 'x' FROM "
        "(SELECT m, lpad(to_hex((extract(epoch FROM m) * 1000)::bigint), 12, '0') AS h FROM "
        f"(SELECT timestamptz '{now}Z' - interval '1 second' * 3600 * k AS m FROM "
        "generate_series(1, 4800) k) AS r) AS r",
        "ANALYZE tick_s1",
    )
    s1 = named(forecast(world, what, now=now), "shard", "s1")
    assert s1["rows_per_month"][1] == about(24 * MONTH)


def test_what_cannot_be_read_is_said(world: World) -> None:
    """Policies that hide rows, a missing right, a table that is being rewritten: not zero rows."""
    world.apply(WHAT)
    put(world, LINEAR.format(days=200, rows=5_000), 5_000)
    role = f"watch_{world.name}"
    own = dict(world.dsns)
    for server in ("core", "east"):
        world.execute(
            f"CREATE ROLE {role} LOGIN PASSWORD 'watch'",
            f"GRANT USAGE ON SCHEMA parlant_shard TO {role}",
            f"GRANT SELECT ON ALL TABLES IN SCHEMA parlant_shard TO {role}",
            server=server,
        )
    try:
        world.execute(
            f"GRANT SELECT ON note_s1, account_s1 TO {role}",
            "ALTER TABLE note_s1 ENABLE ROW LEVEL SECURITY",
        )
        world.dsns = {n: make_conninfo(dsn, user=role, password="watch") for n, dsn in own.items()}
        found = forecast(world, WHAT)
        for hidden in ("note_s1", "log_s1", "note_s2"):
            assert any(f'"{hidden}"' in n and "row-level" in n for n in found["notices"])
        assert not any('"account_s1"' in n for n in found["notices"])
        assert named(found, "shard", "s1")["rows"] == 5_000  # what ANALYZE knows
    finally:
        world.dsns = own
        for server in ("core", "east"):
            world.execute(f"DROP OWNED BY {role}", f"DROP ROLE {role}", server=server)
    world.execute("ALTER TABLE note_s1 DISABLE ROW LEVEL SECURITY")
    with world.connect() as other:
        other.execute("BEGIN")
        other.execute("LOCK TABLE note_s1 IN ACCESS EXCLUSIVE MODE")
        found = forecast(world, WHAT)
    assert any('"note_s1"' in n and "for a lock" in n for n in found["notices"])
    assert named(found, "shard", "s1")["bytes"] > 0


def test_many_large_tables_share_what_is_read(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.apply(WHAT)
    put(world, LINEAR.format(days=300, rows=40_000), 40_000)
    world.execute("VACUUM (ANALYZE) note_s1")
    monkeypatch.setattr(series, "BUDGET", 2 * 2**20)
    part = named(forecast(world, WHAT), "shard", "s1")
    assert part["basis"]["read"] < 0.5
    assert part["rows_per_month"][1] == about(40_000 / 300 * MONTH)


# --- what to do -----------------------------------------------------------------------------------


def test_the_moves_that_are_advised_are_enough(world: World) -> None:
    """Carry them out on the numbers: then nothing fills up within the horizon."""
    what = layout({"s1": ["a", "b"], "s2": ("east", ["c"]), "s3": ("east", [])}, ddl=SCHEMA)
    world.apply(what)
    put(world, LINEAR.format(days=400, rows=12_000), 12_000,
        workspace="CASE WHEN k % 4 = 0 THEN 'b' ELSE 'a' END")  # fmt: skip
    put(world, LINEAR.format(days=400, rows=8_000), 8_000,
        table="note_s2", workspace="'c'", server="east")  # fmt: skip
    first = forecast(world, what)
    size = {s["server"]: s["bytes"] for s in first["servers"]}
    grows = {s["server"]: s["bytes_per_month"][1] for s in first["servers"]}
    capacity = {"core": size["core"] + 6 * grows["core"], "east": 4 * size["core"]}
    what = declared(what, **capacity)
    assert forecast(world, what, horizon=growing.span("3 months"))["recommendations"] == []
    found = forecast(world, what)
    (advice,) = found["recommendations"]
    assert advice["kind"] == "move"
    assert advice["name"] == "core"
    move = advice["moves"][0]
    assert move["workspace"] == "a"
    assert advice["commands"] == []
    assert f'moving "a" to shard "{move["to"]}"' in advice["text"]

    after = {s: [size[s] + grows[s] * m for m in (0, 6, 12)] for s in size}
    for move in advice["moves"]:
        assert move["to"] in {"s2", "s3"}
        one = named(found, "workspace", move["workspace"])
        for place, m in enumerate((0, 6, 12)):
            moved = one["bytes"] + one["bytes_per_month"][1] * m
            after["core"][place] -= moved
            after["east"][place] += moved
    assert all(max(after[s]) < capacity[s] for s in after)
