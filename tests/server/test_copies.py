"""A copy of a reference table that missed something never passes for whole."""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest
from protocol import World, layout
from psycopg.conninfo import make_conninfo
from test_maintain_crash import written

from parlant_shard import copies, introspect
from parlant_shard import db as our_db
from parlant_shard import maintain as upkeep
from parlant_shard.apply import apply
from parlant_shard.cli import run
from parlant_shard.desired import publication_name, subscription_name
from parlant_shard.doctor import doctor
from parlant_shard.plan import Kind, Step
from parlant_shard.planner import make_plan
from parlant_shard.status import status
from servers import Clusters

pytestmark = pytest.mark.needs(clusters=2, logical=True, superuser=True)

SCHEMA = """
CREATE TABLE country (
  code text PRIMARY KEY, name text, area float8, since interval, at timestamptz, price money,
  raw bytea, loud text GENERATED ALWAYS AS (upper(name)) STORED
);
CREATE TABLE plan (id text PRIMARY KEY);
CREATE TABLE account (
  id uuid PRIMARY KEY DEFAULT gen_random_uuid(), workspace_id text NOT NULL,
  country text REFERENCES country (code) ON DELETE CASCADE, plan text REFERENCES plan (id)
);
"""
TABLES = {"country": {"kind": "reference"}, "plan": {"kind": "reference"}}
WHAT = layout({"s1": ["a"], "s2": ("east", ["b"])}, ddl=SCHEMA, tables=TABLES)
MORE = layout(
    {"s1": ["a"], "s2": ("east", ["b"])},
    ddl=SCHEMA.replace("plan text REF", "note text, plan text REF"),
    tables=TABLES,
)
COUNTRY = (
    "INSERT INTO country (code, name, area, since, at, price, raw) VALUES "
    "('{0}', 'N {0}', 0.1, '1 mon 2 days', '2020-02-29 12:00+02', 12.5, '\\x00ff')"
)


@pytest.fixture
def world(tmp_path: Path, clusters: Clusters) -> World:
    """Give two servers with rows in the reference tables, all of which have been copied."""
    world = World(tmp_path, clusters, over=2)
    world.apply(WHAT)
    world.execute(COUNTRY.format("de"), COUNTRY.format("fr"), "INSERT INTO plan VALUES ('free')")
    arrived(world, "SELECT count(*) FROM country", 2)
    arrived(world, "SELECT count(*) FROM plan", 1)
    world.execute(
        "INSERT INTO account_s2 (workspace_id, country, plan) VALUES ('b', 'de', 'free')",
        server="east",
    )
    return world


def arrived(world: World, query: str, wanted: object, server: str = "east") -> None:
    deadline = time.monotonic() + 60
    while world.value(query, server=server) != wanted:
        assert time.monotonic() < deadline, query
        time.sleep(0.05)


def name_of(world: World) -> str:
    return subscription_name(world.load(WHAT), "east")


def stop(world: World) -> None:
    """Disable the subscription, and wait until nobody uses its slot."""
    world.execute(f"ALTER SUBSCRIPTION {name_of(world)} DISABLE", server="east")
    used = (
        f"SELECT count(*) FROM pg_replication_slots WHERE active AND slot_name = '{name_of(world)}'"
    )
    arrived(world, used, 0, "core")


def start(world: World) -> None:
    world.execute(f"ALTER SUBSCRIPTION {name_of(world)} ENABLE", server="east")


def drop_slot(world: World) -> None:
    """Drop the slot by hand; rows and an update of the gap never come."""
    stop(world)
    world.execute(
        f"SELECT pg_drop_replication_slot('{name_of(world)}')",
        COUNTRY.format("it"),
        "UPDATE country SET name = 'other' WHERE code = 'fr'",
    )


def slots(world: World) -> list[str]:
    rows = world.rows(
        "SELECT slot_name::text FROM pg_replication_slots WHERE database = current_database()"
    )
    return [r[0] for r in rows]


def entry(world: World) -> dict[str, Any]:
    (found,) = status(world.load(WHAT))["replication"]
    return dict(found)


def cli(
    world: World, capfd: pytest.CaptureFixture[str], *words: str, what: Any = WHAT
) -> tuple[int, str, str]:
    file = written(world, what)
    code = run([words[0], str(file), *words[1:]])
    out, err = capfd.readouterr()
    return int(code), out, err


# --- signs ----------------------------------------------------------------------------------------


def test_no_slot_is_made_under_an_old_subscription(world: World) -> None:
    drop_slot(world)
    plan = make_plan(world.load(MORE))
    assert plan.steps
    assert not [s.title for s in plan.steps if "replication slot" in s.title]
    (broken,) = plan.broken_copies
    assert (broken.server, broken.code, broken.state) == ("east", "PS260", "missing")
    assert name_of(world) in broken.message
    assert f"DROP SUBSCRIPTION {name_of(world)};" in broken.hint
    outcome = apply(world.load(MORE))
    assert outcome.plan.broken_copies == plan.broken_copies
    assert slots(world) == []
    assert world.value("SELECT count(note) FROM account_s2", server="east") == 0
    assert make_plan(world.load(MORE)).steps == ()


def test_plan_and_apply_do_the_rest_and_say_so(
    world: World, capfd: pytest.CaptureFixture[str]
) -> None:
    drop_slot(world)
    code, out, err = cli(world, capfd, "plan", "--output", "json", what=MORE)
    assert code == 1
    assert [b["state"] for b in json.loads(out)["broken_copies"]] == ["missing"]
    assert json.loads(out)["steps"]
    assert json.loads(err)["error"]["code"] == "PS260"
    code, out, err = cli(world, capfd, "plan", "--detailed-exitcode", what=MORE)
    assert (code, "error PS260: " in err, "Topology" in out) == (1, True, True)
    saved = world.directory / "saved.json"
    cli(world, capfd, "plan", "-o", str(saved), what=MORE)
    code, out, err = (int(run(["apply", str(saved), "--yes"])), *capfd.readouterr())
    assert (code, "error PS260: " in err, " steps done" in out) == (1, True, True), err
    code, out, err = cli(world, capfd, "apply", "--yes", "--output", "json", what=MORE)
    assert (code, json.loads(out)["steps"]) == (1, 0)
    assert [b["code"] for b in json.loads(out)["broken_copies"]] == ["PS260"]
    code, out, err = cli(world, capfd, "plan", what=MORE)
    assert (code, "nothing else to do" in out) == (1, True)


def test_status_never_shows_a_copy_without_its_slot_as_current(
    world: World, capfd: pytest.CaptureFixture[str]
) -> None:
    drop_slot(world)
    found = entry(world)
    assert (found["slot"], found["server"], found["state"]) == (name_of(world), "east", "missing")
    assert (found["behind"], found["active"], found["problem"]["code"]) == (None, False, "PS260")
    code, out, err = cli(world, capfd, "status")
    assert code == 3
    assert "NO SLOT" in out
    assert "behind" not in out
    assert "error PS260" in err
    report = upkeep.maintain(world.load(WHAT))
    assert [f.message for f in report.failures] == []
    assert any(n.startswith("PS260: ") for n in report.notices)
    found = [f for f in doctor(world.load(WHAT)).findings if f.object == name_of(world)]
    assert any("its replication slot is gone" in f.detail for f in found)


@contextmanager
def little_wal(world: World) -> Iterator[None]:
    with psycopg.connect(world.dsn("core"), autocommit=True) as admin:
        row = admin.execute("SHOW max_slot_wal_keep_size").fetchone()
        try:
            admin.execute("ALTER SYSTEM SET max_slot_wal_keep_size = '1MB'")
            admin.execute("SELECT pg_reload_conf()")
            yield
        finally:
            assert row is not None
            admin.execute(f"ALTER SYSTEM SET max_slot_wal_keep_size = '{row[0]}'")
            admin.execute("SELECT pg_reload_conf()")


def test_a_slot_that_the_server_invalidated_is_named(world: World) -> None:
    stop(world)
    lost = f"SELECT wal_status FROM pg_replication_slots WHERE slot_name = '{name_of(world)}'"
    with little_wal(world):
        deadline = time.monotonic() + 60
        while world.value(lost) != "lost":
            assert time.monotonic() < deadline
            world.execute("SELECT pg_logical_emit_message(true, 'x', repeat('x', 3000000))")
            world.execute("SELECT pg_switch_wal()", "CHECKPOINT")
    start(world)
    (broken,) = make_plan(world.load(WHAT)).broken_copies
    assert (broken.code, broken.state) == ("PS260", "lost")
    found = entry(world)
    assert (found["state"], found["behind"], found["wal_status"]) == ("lost", None, "lost")


def test_a_slot_of_another_database_is_not_taken_for_it(world: World) -> None:
    drop_slot(world)
    other = make_conninfo(world.dsn("core"), dbname="postgres")
    with psycopg.connect(other, autocommit=True) as admin:
        admin.execute(f"SELECT pg_create_logical_replication_slot('{name_of(world)}', 'pgoutput')")
        try:
            plan = make_plan(world.load(WHAT))
            found = entry(world)
        finally:
            admin.execute(f"SELECT pg_drop_replication_slot('{name_of(world)}')")
    assert plan.steps == ()
    assert [b.state for b in plan.broken_copies] == ["foreign"]
    assert 'of database "postgres"' in plan.broken_copies[0].message
    assert (found["state"], found["behind"]) == ("foreign", None)


def test_a_table_that_is_still_copied_is_no_difference(world: World) -> None:
    """A killed apply, or a copy that lacks a worker: the plan waits for it, and raises no alarm."""
    more = layout(
        {"s1": ["a"], "s2": ("east", ["b"])},
        ddl=SCHEMA + "CREATE TABLE tag (id text PRIMARY KEY);",
        tables={**TABLES, "tag": {"kind": "reference"}},
    )

    world.execute("CREATE TABLE tag (id text PRIMARY KEY)")
    world.execute("INSERT INTO tag SELECT g::text FROM generate_series(1, 10) g")
    with world.connect("east") as holder:
        locked = threading.Event()

        def hold(event: str, step: Step | None, _text: str) -> None:
            if event != "start" or step is None:
                return
            if "refresh" in step.title:
                holder.execute("BEGIN")
                holder.execute("LOCK TABLE tag IN SHARE MODE")
                locked.set()
            if step.kind is Kind.WAIT:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            apply(world.load(more), listener=hold)
        assert locked.is_set()
        plan = make_plan(world.load(more))
        holder.execute("ROLLBACK")
    assert plan.broken_copies == ()
    assert any(s.kind is Kind.WAIT for s in plan.steps)
    assert apply(world.load(more)).plan.broken_copies == ()
    arrived(world, "SELECT count(*) FROM tag", 10)


def test_a_subscription_to_another_publication_is_named(world: World) -> None:
    world.execute("CREATE PUBLICATION other")
    world.execute(
        f"ALTER SUBSCRIPTION {name_of(world)} SET PUBLICATION other WITH (refresh = false)",
        server="east",
    )
    (broken,) = make_plan(world.load(WHAT)).broken_copies
    assert (broken.code, broken.state) == ("PS260", "foreign")
    assert 'reads the publication "other"' in broken.message


def test_what_a_publication_let_pass_is_found_when_it_is_repaired(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(copies, "_FEW", 0)  # however much the slot has sent
    publication = world.value("SELECT pubname::text FROM pg_publication")
    world.execute(
        f"ALTER PUBLICATION {publication} SET (publish = 'insert')",
        "UPDATE country SET name = 'other' WHERE code = 'fr'",
        "INSERT INTO plan VALUES ('paid')",
    )
    arrived(world, "SELECT count(*) FROM plan", 2)
    outcome = apply(world.load(WHAT))
    assert outcome.done
    (broken,) = outcome.plan.broken_copies
    assert (broken.code, broken.server) == ("PS262", "east")


def test_a_slot_that_was_made_anew_by_hand_is_found_by_the_rows(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has sent little, and the copy has replayed something: then the rows are compared."""
    drop_slot(world)
    world.execute(f"SELECT pg_create_logical_replication_slot('{name_of(world)}', 'pgoutput')")
    start(world)
    arrived(
        world,
        "SELECT count(*) FROM pg_replication_slots WHERE active AND database = current_database()",
        1,
        "core",
    )
    (broken,) = make_plan(world.load(WHAT)).broken_copies
    assert (broken.code, broken.state) == ("PS262", "differs")
    assert '"country" (3 rows on the coordinator, 2 in the copy)' in broken.message
    assert make_plan(world.load(WHAT)).broken_copies == (broken,)  # a look does not hide it
    assert entry(world)["state"] == "differs"
    assert make_plan(world.load(WHAT)).broken_copies == (broken,)
    # Beyond some transactions there is no sign any more; the rows still tell.
    world.execute("INSERT INTO plan VALUES ('paid')")
    arrived(world, "SELECT count(*) FROM plan", 2)
    monkeypatch.setattr(copies, "_FEW", 1)
    assert make_plan(world.load(WHAT)).broken_copies == ()
    found = entry(world)
    assert (found["state"], found["problem"]["code"]) == ("differs", "PS262")
    tables = {t["table"]: (t["rows"], t["copy_rows"], t["equal"]) for t in found["tables"]}
    assert tables == {"country": (3, 2, False), "plan": (2, 2, True)}


def test_a_suspicion_alone_is_no_error(world: World) -> None:
    """A crash of the coordinator resets the statistics: the rows are equal, so nothing is said."""
    stop(world)
    world.execute(
        f"SELECT pg_drop_replication_slot('{name_of(world)}')",
        f"SELECT pg_create_logical_replication_slot('{name_of(world)}', 'pgoutput')",
    )
    start(world)
    topology = world.load(WHAT)
    with (
        our_db.session(topology, "core") as core,
        our_db.session(topology, "east") as east,
    ):
        slot = introspect.slot_states(core)[name_of(world)]
        assert copies.is_suspect(introspect.subscriptions(east)[name_of(world)], slot)
    assert make_plan(topology).broken_copies == ()
    assert entry(world)["state"] == "ok"


def test_a_coordinator_that_lacks_what_a_copy_has_is_named(world: World) -> None:
    """As after a failover to a standby that lagged: the copy's position is beyond its WAL."""
    stop(world)
    world.execute(
        "SELECT pg_replication_origin_advance('pg_' || oid, '7FFF/0') FROM pg_subscription "
        f"WHERE subname = '{name_of(world)}'",
        server="east",
    )
    (broken,) = make_plan(world.load(WHAT)).broken_copies
    assert (broken.code, broken.state) == ("PS261", "ahead")
    found = entry(world)
    assert (found["state"], found["behind"]) == ("ahead", None)


def test_a_table_is_not_added_to_a_copy_that_is_broken(world: World) -> None:
    """It would be waited for in vain."""
    drop_slot(world)
    more = layout(
        {"s1": ["a"], "s2": ("east", ["b"])},
        ddl=SCHEMA + "CREATE TABLE tag (id int PRIMARY KEY);",
        tables={**TABLES, "tag": {"kind": "reference"}},
    )
    outcome = apply(world.load(more))
    assert outcome.done
    assert len(outcome.plan.broken_copies) == 1
    assert world.value("SELECT count(*) FROM tag", server="east") == 0
    assert slots(world) == []


# --- rows -----------------------------------------------------------------------------------------


def compared(world: World, **limits: Any) -> dict[str, copies.Compared]:
    topology = world.load(WHAT)
    with our_db.session(topology, "core") as core:
        publication = introspect.publications(core, "public")[publication_name(topology)]
    with our_db.session(topology, "east") as east:
        subscription = introspect.subscriptions(east)[name_of(world)]
    found = copies.compare(topology, "east", subscription, publication, copies.Limits(**limits))
    return {c.table: c for c in found}


def test_rows_are_compared_under_the_same_settings(
    world: World, capfd: pytest.CaptureFixture[str]
) -> None:
    database = world.value("SELECT current_database()", server="east")
    for setting in (
        "TimeZone = 'Asia/Tokyo'",
        "DateStyle = 'German'",
        "IntervalStyle = 'iso_8601'",
        "extra_float_digits = 0",
        "bytea_output = 'escape'",
    ):
        world.execute(f"ALTER DATABASE {database} SET {setting}", server="east")
    found = entry(world)
    assert (found["state"], found["problem"]) == ("ok", None)
    assert {t["table"]: (t["rows"], t["equal"]) for t in found["tables"]} == {
        "country": (2, True),
        "plan": (1, True),
    }
    assert found["confirmed"]
    assert found["current"]
    code, out, err = cli(world, capfd, "status")
    assert (code, err) == (0, "")
    assert "rows of 2 tables equal" in out


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE country SET name = 'x' WHERE code = 'de'",
        "UPDATE country SET area = area + 1e-16 WHERE code = 'de'",
        "DELETE FROM country WHERE code = 'fr'",
        "UPDATE country SET name = NULL WHERE code = 'de'",
    ],
)
def test_any_difference_of_a_row_is_found(world: World, change: str) -> None:
    world.execute(
        "SET session_replication_role = replica; "
        "ALTER TABLE country DISABLE TRIGGER parlant_shard_cascade; " + change,
        server="east",
    )
    assert compared(world)["country"].equal is False
    assert compared(world)["plan"].equal is True


def test_rows_that_change_all_the_while_are_not_called_different(world: World) -> None:
    over = threading.Event()

    def write() -> None:
        with world.connect() as connection:
            while not over.is_set():
                connection.execute("UPDATE country SET area = area + 1")

    writer = threading.Thread(target=write)
    writer.start()
    try:
        found = [compared(world)["country"] for _ in range(3)]
    finally:
        over.set()
        writer.join()
    assert all(c.equal is not False for c in found), found
    assert compared(world)["country"].equal is True


def test_what_is_not_compared_says_why(world: World) -> None:
    assert compared(world, rows=1)["country"].why == "it has more than 1 rows"
    assert compared(world, rows=1)["plan"].equal is True
    stop(world)
    late = compared(world, wait=0.2)["plan"]
    assert (late.equal, late.why) == (None, "the copy did not confirm a position within 0 s")


# --- by hand --------------------------------------------------------------------------------------


def test_the_documented_way_by_hand_makes_the_copy_whole(world: World) -> None:
    """The statements are those of the page, with the names of this topology."""
    drop_slot(world)
    page = (Path(__file__).parents[2] / "docs" / "reference-tables.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^```sql\n-- on (\w+)[^\n]*\n(.*?)^```", page, re.M | re.S)
    assert [server for server, _ in blocks] == ["s2", "core"]
    for server, text in blocks:
        sql = text.replace("parlant_shard_shop_s2", name_of(world))
        world.execute(sql, server={"s2": "east"}.get(server, server))
    outcome = apply(world.load(WHAT))
    assert outcome.plan.broken_copies == ()
    found = entry(world)
    assert (found["state"], found["problem"]) == ("ok", None), found
    assert {t["table"]: t["equal"] for t in found["tables"]} == {"country": True, "plan": True}
    assert world.value("SELECT count(*) FROM account_s2", server="east") == 1
    world.settled(WHAT)
    world.execute("DELETE FROM country WHERE code = 'de'")  # the cascade works again
    arrived(world, "SELECT count(*) FROM account_s2", 0)


def test_a_run_that_was_killed_between_slot_and_subscription_goes_on(
    tmp_path: Path, clusters: Clusters
) -> None:
    world = World(tmp_path, clusters, over=2)
    world.load(WHAT)
    name = name_of(world)
    world.execute(f"SELECT pg_create_logical_replication_slot('{name}', 'pgoutput')")
    outcome = world.apply(WHAT)
    assert outcome.plan.broken_copies == ()
    world.settled(WHAT)
    assert entry(world)["state"] == "ok"
