"""Default partitions: new partitions beside them, and rows moved out of them."""

from __future__ import annotations

import threading
import time
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest
from protocol import SCHEMA, Layout, World, layout
from test_control_columns import value
from test_maintain import bounds, cut, maintain, months, now_of, put, settled
from test_maintain_crash import killed, written

from parlant_shard import maintain as upkeep
from parlant_shard.apply import apply
from parlant_shard.diff import GUARD
from parlant_shard.errors import ApplyFailed
from parlant_shard.maintain.site import Site
from parlant_shard.planner import make_plan
from servers import Clusters

pytestmark = pytest.mark.matrix

OLD = datetime(1999, 5, 5)


@pytest.fixture
def world(tmp_path: Path, clusters: Clusters) -> World:
    """Give the databases of one server."""
    return World(tmp_path, clusters)


def with_default(**more: Any) -> Layout:
    options = {"every": "1 month", "premake": 1, "default": True, **more}
    return layout({"s1": ["a"]}, tables=cut(**options))


def guards(world: World) -> int:
    return int(world.value(f"SELECT count(*) FROM pg_constraint WHERE conname = '{GUARD}'"))


def test_rows_that_come_between_two_looks_are_counted_once(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The rows are counted, then looked at by hour; who writes meanwhile leaves no "-1 rows"."""
    what = with_default()
    world.apply(what)
    put(world, OLD)
    count = Site.count

    def slow(site: Site, table: str) -> int:
        rows = count(site, table)
        put(world, OLD)
        return rows

    monkeypatch.setattr(Site, "count", slow)
    report = upkeep.maintain(world.load(what), move=10, dry_run=True)
    assert [n for n in report.notices if "stay in default partition" in n] == []
    assert any("holds 2 rows" in n for n in report.notices)


# --- new partitions beside it ---------------------------------------------------------------------


def test_a_partition_ahead_is_attached_without_a_scan(world: World) -> None:
    """The default partition proves by a validated CHECK that it holds no row of the range."""
    what = with_default()
    world.apply(what)
    put(world, OLD)
    longer = with_default(premake=2)
    steps = make_plan(world.load(longer)).steps
    assert [s.title.split(" ")[0] for s in steps] == ["keep", "see", "create"]
    world.converge(longer)
    assert guards(world) == 0
    report = maintain(world, with_default(premake=3))
    titles = [s.title for s in report.plan.steps]
    assert [t.split(" ")[0] for t in titles[:3]] == ["keep", "see", "create"]
    assert guards(world) == 0
    settled(world, with_default(premake=3))


@pytest.mark.parametrize("null", [" NOT NULL", ""])
@pytest.mark.parametrize("type_", ["timestamptz", "date", "uuid", "bigint"])
def test_the_proof_is_understood(world: World, type_: str, null: str) -> None:
    """PostgreSQL says at DEBUG1 whether it scans."""
    schema = SCHEMA.replace("at timestamptz NOT NULL DEFAULT now()", f"at {type_}{null}")
    epoch = {"epoch": "seconds"} if type_ == "bigint" else {}
    cuts = {"every": "1 month", "premake": 1, "default": True, **epoch}
    world.apply(layout({"s1": ["a"]}, ddl=schema, tables=cut(**cuts)))
    old = {"timestamptz": "'1999-01-01'", "date": "'1999-01-01'", "bigint": "7"}.get(
        type_, "'00000000-0000-7000-8000-000000000000'"
    )
    put_one = "INSERT INTO log_s1 (workspace_id, item_id, at) SELECT 'a', id, {} FROM item_s1"
    world.execute(
        "INSERT INTO account_s1 (workspace_id) VALUES ('a')",
        "INSERT INTO item_s1 (workspace_id, account_id) SELECT 'a', id FROM account_s1",
        put_one.format(old),
        *([] if null else [put_one.format("NULL")]),
    )
    what = layout({"s1": ["a"]}, ddl=schema, tables=cut(**{**cuts, "premake": 2}))
    steps = make_plan(world.load(what)).steps
    assert len(steps) == 3
    with world.connect() as connection:
        said: list[str] = []
        connection.add_notice_handler(lambda d: said.append(d.message_primary or ""))
        connection.execute("SET client_min_messages = debug1")
        for step in steps:
            with connection.transaction():
                for statement in step.sql:
                    connection.execute(statement)
    assert any("log_s1_default" in s and "is implied by existing" in s for s in said), said
    assert not any("verifying table" in s and "log_s1_default" in s for s in said[-3:])
    assert guards(world) == 0


def test_rows_of_the_range_are_in_it(world: World) -> None:
    """The guard goes again at once, and the message says what to do."""
    what = with_default()
    world.apply(what)
    ahead = months(now_of(world), 2) + timedelta(days=3)
    put(world, ahead)
    with pytest.raises(ApplyFailed) as failed:
        apply(world.load(with_default(premake=2)))
    assert failed.value.hint is not None
    assert "--move-default-rows" in failed.value.hint
    assert guards(world) == 0
    put(world, ahead)
    report = upkeep.maintain(world.load(with_default(premake=2)))
    assert [(f.code, "--move-default-rows" in str(f.hint)) for f in report.failures] == [
        ("PS581", True)
    ]
    assert guards(world) == 0


def test_rows_that_another_run_looks_after(world: World) -> None:
    """They are not counted, which is not the same as none."""
    what = with_default()
    world.apply(what)
    put(world, OLD)
    counted = "\nparlant_shard_default_partition_rows{"
    report = maintain(world, what)
    assert [t["default_rows"] for t in report.to_json()["tables"]] == [1]
    assert counted in upkeep.metrics(report, 0.0)
    with world.connect() as other:
        other.execute("SET application_name = 'parlant-shard maintain-lock 00000000'")
        key = "parlant-shard maintain public.log_s1"
        other.execute("SELECT pg_advisory_lock(hashtextextended(%s, 0))", [key])
        report = maintain(world, what)
    assert report.elsewhere == (("core", "log_s1"),)
    assert [t["default_rows"] for t in report.to_json()["tables"]] == [None]
    assert counted not in upkeep.metrics(report, 0.0)
    without = layout({"s1": ["a"]}, tables=cut(premake=1))
    world.execute("DROP TABLE log_s1_default")
    assert [t["default_rows"] for t in maintain(world, without).to_json()["tables"]] == [0]


def test_a_guard_that_a_killed_run_left(world: World) -> None:
    what = with_default()
    world.apply(what)
    ahead = months(now_of(world), 2)
    guard = (
        f"ALTER TABLE log_s1_default ADD CONSTRAINT {GUARD} CHECK (at < '{ahead}Z' "
        f"OR at >= '{months(ahead, 1)}Z') NOT VALID"
    )
    world.execute(guard)
    with pytest.raises(psycopg.errors.CheckViolation):
        put(world, ahead)
    maintain(world, what)
    assert guards(world) == 0
    put(world, ahead)
    world.execute("DELETE FROM log_s1")
    world.execute(guard)
    world.converge(what)
    assert guards(world) == 0


# --- moving rows out ------------------------------------------------------------------------------


def spread(world: World, moments: list[str]) -> None:
    """One row for each moment, on both shards of one server where there are two."""
    world.execute(
        "INSERT INTO account_s1 (workspace_id) VALUES ('a')",
        "INSERT INTO item_s1 (workspace_id, account_id) SELECT 'a', id FROM account_s1",
    )
    with world.connect() as connection, connection.cursor() as cursor:
        cursor.executemany(
            "INSERT INTO log_s1 (workspace_id, item_id, at, body) "
            "SELECT 'a', id, %s, 'kept' FROM item_s1 LIMIT 1",
            [[m] for m in moments],
        )


def places(world: World) -> dict[str, int]:
    return {
        str(name): int(rows)
        for name, rows in world.rows("SELECT tableoid::regclass, count(*) FROM log_s1 GROUP BY 1")
    }


def leftovers(world: World) -> list[tuple[Any, ...]]:
    return world.rows(
        "SELECT relname FROM pg_class WHERE relnamespace = 'parlant_shard'::regnamespace "
        "AND relname LIKE 'log%'"
    )


def test_rows_are_moved_out(world: World) -> None:
    what = with_default(retention="3 months")
    world.apply(what)
    begin = now_of(world)
    ahead = months(begin, 5) + timedelta(days=3)
    old = months(begin, -9) + timedelta(days=3)
    spread(world, [f"{ahead}Z", f"{ahead}Z", f"{old}Z", "infinity", "-infinity"])
    content = "SELECT id, workspace_id, item_id, at::text, body FROM log_s1 ORDER BY id"
    before = world.rows(content)
    said = maintain(world, what)
    assert any("holds 5 rows" in n for n in said.notices)
    assert any("partition waits" in n or "that waits" in n for n in said.notices)
    report = maintain(world, what, move=1_000_000)
    assert [m.rows for m in report.moved] == [3]
    assert any("2 rows stay" in n for n in report.plan.notices)
    hazards = {h for s in report.plan.steps for h in s.hazards}
    assert "blocks-writes" in hazards
    assert world.rows(content) == before
    assert places(world) == {
        f"log_s1_p{months(ahead, 0):%Y%m%d}": 2,
        f"log_s1_p{months(old, 0):%Y%m%d}": 1,
        "log_s1_default": 2,
    }
    assert leftovers(world) == []
    # What had expired goes the way of all partitions.
    maintain(world, what)
    assert len(world.rows("SELECT FROM log_s1")) == 4
    assert world.value(f"SELECT count(*) FROM log_s1_p{months(old, 0):%Y%m%d}") == 1
    maintain(world, what, move=1_000_000)
    settled(world, what)
    world.settled(what)


ROWS = """
CREATE TABLE log (
  number bigint GENERATED ALWAYS AS IDENTITY,
  at {type} {null},
  workspace_id text NOT NULL,
  double bigint GENERATED ALWAYS AS (length(workspace_id) * 2) STORED,
  note jsonb DEFAULT '{{}}'
);
CREATE FUNCTION complain() RETURNS trigger LANGUAGE plpgsql AS
$$BEGIN RAISE EXCEPTION 'this trigger is not for copies'; END$$;
CREATE TRIGGER complain BEFORE INSERT OR DELETE ON log FOR EACH ROW
  WHEN (pg_trigger_depth() < 0) EXECUTE FUNCTION complain();
"""


@pytest.mark.parametrize("kind", ["date", "timestamp", "uuid", "bigint nanoseconds"])
def test_every_kind_of_rows(world: World, kind: str) -> None:
    """No trigger fires, and generated values and identities stay."""
    type_, _, epoch = kind.partition(" ")
    ddl = ROWS.format(type=type_, null="").replace(" BEFORE INSERT OR DELETE", " BEFORE DELETE")
    ddl = ddl.replace("  WHEN (pg_trigger_depth() < 0)", " ")
    what = layout(
        {"s1": ["a"]},
        ddl=ddl,
        tables=cut("1 quarter", 1, default=True, **({"epoch": epoch} if epoch else {})),
    )
    world.apply(what)
    moment = datetime(2031, 12, 31, 23, 59, 59, 999_000)
    values = [value(kind, moment), value(kind, datetime(2032, 1, 1)), None]
    if kind == "uuid":
        values.append("ffffffff-ffff-4fff-8fff-ffffffffffff")
    with world.connect() as connection:
        for item in values:
            connection.execute("INSERT INTO log_s1 (at, workspace_id) VALUES (%s, 'a')", [item])
    before = world.rows("SELECT * FROM log_s1 ORDER BY number")
    report = maintain(world, what, move=10)
    assert [m.rows for m in report.moved] == [2]
    assert world.rows("SELECT * FROM log_s1 ORDER BY number") == before
    assert places(world) == {
        "log_s1_p20311001": 1,
        "log_s1_p20320101": 1,
        "log_s1_default": len(values) - 2,
    }
    settled(world, what)
    world.execute("INSERT INTO log_s1 (workspace_id) VALUES ('a')")
    assert world.value("SELECT max(number) FROM log_s1") == len(values) + 1


def test_too_many_rows(world: World) -> None:
    what = with_default()
    world.apply(what)
    put(world, OLD)
    put(world, OLD)
    put(world, OLD)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("parlant_shard.maintain.run.COUNTED", 2)
        report = upkeep.maintain(world.load(what), move=2)
        assert [(f.code, "--move-limit" in str(f.hint)) for f in report.failures] == [
            ("PS582", True)
        ]
        report = maintain(world, what, move=3)
    assert [m.rows for m in report.moved] == [3]


def test_too_many_rows_for_a_partition(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """ATTACH would scan them all under its lock, at every run. Ahead of the clock it need not."""
    what = with_default()
    world.apply(what)
    for _ in range(3):
        put(world, OLD)
    begin = months(now_of(world), 0)
    world.execute(f"DROP TABLE log_s1_p{begin:%Y%m%d}")
    monkeypatch.setattr("parlant_shard.maintain.run.COUNTED", 2)
    longer = world.load(with_default(premake=2))
    for _ in range(2):
        (failure,) = upkeep.maintain(longer).failures
        assert failure.code == "PS581"
        assert 'default partition "log_s1_default" holds more than 2 rows' in failure.message
        assert "--move-default-rows --move-limit" in str(failure.hint)
    assert bounds(world) == [(str(months(begin, n)), str(months(begin, n + 1))) for n in (1, 2)]
    maintain(world, with_default(premake=2), move=3)
    maintain(world, with_default(premake=2))
    assert (str(begin), str(months(begin, 1))) in bounds(world)


def test_rows_that_others_refer_to_stay(world: World) -> None:
    what = layout(
        {"s1": ["a"]},
        ddl="CREATE TABLE log (at uuid PRIMARY KEY, workspace_id text NOT NULL);"
        "CREATE TABLE note (id uuid PRIMARY KEY, log_id uuid REFERENCES log (at));",
        tables=cut(default=True),
    )
    world.apply(what)
    far = value("uuid", datetime(2040, 1, 1))
    world.execute(f"INSERT INTO log_s1 (at, workspace_id) VALUES ('{far}', 'a')")
    report = upkeep.maintain(world.load(what), move=10)
    assert [f.code for f in report.failures] == ["PS583"]


class Watchers:
    """Readers that count through the view and by time, in several ways, and writers."""

    def __init__(self, world: World, low: int) -> None:
        self.world, self.low = world, low
        self.stop = threading.Event()
        self.errors: list[str] = []
        self.written = 0
        self.rounds = 0
        targets = [self.view, self.snapshot, self.snapshot, self.by_time, self.write]
        self.threads = [threading.Thread(target=self._keep, args=(t,)) for t in targets]

    def __enter__(self) -> Watchers:
        for thread in self.threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop.set()
        for thread in self.threads:
            thread.join(30)

    def _keep(self, work: Any) -> None:
        try:
            with self.world.connect() as connection:
                connection.execute("SET statement_timeout = '20s'")
                while not self.stop.is_set():
                    work(connection)
                    self.rounds += 1
        except Exception as error:
            self.errors.append(f"{work.__name__}: {error!r}")

    def _check(self, found: tuple[Any, ...] | None, what: str) -> None:
        if found != (self.low,):
            self.errors.append(f"{what}: {found}, not {self.low}")

    def view(self, connection: Any) -> None:
        query = "SELECT count(*) FROM log_global WHERE body = 'kept'"
        self._check(connection.execute(query).fetchone(), "view")

    def by_time(self, connection: Any) -> None:
        query = (
            "SELECT count(*) FROM log_s1 WHERE body = 'kept' AND at BETWEEN '1990-01-01' "
            "AND '2060-01-01'"
        )
        self._check(connection.execute(query).fetchone(), "by time")

    def snapshot(self, connection: Any) -> None:
        """A snapshot that is older than the first touch of the table, as a remote reader has it."""
        with connection.transaction():
            connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
            connection.execute("SELECT count(*) FROM account_s1")
            time.sleep(0.8)
            self.by_time(connection)
            self.view(connection)

    def write(self, connection: Any) -> None:
        """Read and write in one transaction, so that both orders of locks occur."""
        with connection.transaction():
            connection.execute("SELECT FROM item_s1 LIMIT 1 FOR UPDATE")
            connection.execute("SELECT count(*) FROM log_s1 WHERE body = 'live'")
            connection.execute(
                "INSERT INTO log_s1 (workspace_id, item_id, at, body) "
                "SELECT 'a', id, now(), 'live' FROM item_s1 LIMIT 1"
            )
        self.written += 1
        time.sleep(0.005)


def test_nobody_notices(world: World) -> None:
    what = with_default()
    world.apply(what)
    begin = now_of(world)
    spread(world, [f"{months(begin, n % 5 + 4) + timedelta(hours=n)}Z" for n in range(400)])
    with Watchers(world, 400) as watchers:
        time.sleep(0.3)
        report = maintain(world, what, move=1_000_000)
        assert [m.rows for m in report.moved] == [400]
        time.sleep(0.3)
    assert watchers.errors == []
    assert watchers.written > 10
    assert world.value("SELECT count(*) FROM log_s1 WHERE body = 'live'") == watchers.written
    assert places(world).get("log_s1_default") is None
    settled(world, what)


def test_rows_that_change_meanwhile(world: World) -> None:
    """What was copied is not taken where the original was written to; then it is copied again."""
    what = with_default()
    world.apply(what)
    ahead = months(now_of(world), 5)
    spread(world, [f"{ahead + timedelta(hours=n)}Z" for n in range(5)])
    changes = [
        "UPDATE log_s1 SET body = 'newer' WHERE body = 'kept'",
        f"DELETE FROM log_s1 WHERE at = '{ahead}Z'",
        f"INSERT INTO log_s1 (workspace_id, item_id, at) SELECT 'a', id, '{ahead}Z' FROM item_s1",
    ]
    seen: list[str] = []

    def listen(event: str, step: Any, text: str) -> None:
        if event == "start" and step.title.startswith("exchange") and len(seen) < times:
            world.execute(changes[len(seen) % 3])
            seen.append(text)

    times = 2
    report = upkeep.maintain(world.load(what), move=10, listener=listen)
    assert (report.failures, report.postponed) == ([], [])
    assert world.rows("SELECT body, count(*) FROM log_s1 GROUP BY 1") == [("newer", 4)]
    assert "log_s1_default" not in places(world)
    # One that is written to all the time stays as it is, and nothing is left over.
    seen.clear()
    times, changes = 99, ["UPDATE log_s1 SET body = clock_timestamp()::text"] * 3
    put(world, months(ahead, 2))
    before = places(world)
    report = upkeep.maintain(world.load(what), move=10, listener=listen)
    assert ["which is being written to" in p for p in report.postponed] == [True]
    assert places(world).keys() == before.keys()
    assert leftovers(world) == []


def test_a_reader_that_stays_puts_it_off(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    what = with_default()
    world.apply(what)
    put(world, OLD)
    monkeypatch.setattr("parlant_shard.maintain.run.READERS", 1.0)
    with world.connect() as reader:
        reader.execute("BEGIN ISOLATION LEVEL REPEATABLE READ")
        assert reader.execute("SELECT count(*) FROM item_s1").fetchone() == (1,)
        report = maintain(world, what, move=10)
        assert ["still goes on" in p for p in report.postponed] == [True]
        assert report.moved == []
        assert leftovers(world) == []
        # It would have found nothing in the copies.
        assert reader.execute("SELECT count(*) FROM log_s1 WHERE at < '2000-01-01'").fetchone() == (
            1,
        )
    assert [m.rows for m in maintain(world, what, move=10).moved] == [1]


def test_copies_of_a_killed_run_go(world: World) -> None:
    what = with_default()
    world.apply(what)
    put(world, OLD)
    now = now_of(world)
    file = written(world, what)
    assert killed(file, now, "start exchange", 1, move=10, limit=1, ends=False) == 1
    assert leftovers(world) != []
    maintain(world, what, now)
    assert leftovers(world) == []
    assert world.value("SELECT count(*) FROM log_s1_default") == 1


@pytest.mark.parametrize(("moment", "count"), [("start", 2), ("record", 2), ("done", 1)])
def test_killed_at_every_step(world: World, moment: str, count: int) -> None:
    """Of guards and of moves: nothing is lost, nothing is left, no range is refused for good."""
    what = with_default(premake=2, retention="2 months")
    world.apply(what)
    begin = now_of(world)
    now = months(begin, 3)
    far = [months(begin, n) + timedelta(days=2) for n in (-7, 9, 9, 4)]
    spread(world, [*(f"{m}Z" for m in far), "infinity"])
    content = "SELECT id, at::text FROM log_s1 UNION ALL SELECT id, at::text FROM {} ORDER BY id"
    before = world.rows("SELECT id, at::text FROM log_s1 ORDER BY id")
    # Each attempt gets one step further than the one before.
    assert killed(written(world, what), now, moment, count, more=1, move=1_000_000) >= 6
    assert guards(world) == 0
    assert leftovers(world) == []
    settled(world, what, now)
    expired = f"log_s1_p{months(begin, -7):%Y%m%d}"
    assert world.rows(content.format(expired)) == before
    assert world.value("SELECT count(*) FROM log_s1_default") == 1
    for number in range(3):
        put(world, months(now, number))
