"""A maintainer that is killed, meets another, meets `apply`, or finds a server gone."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest
from killing import environment, kills
from protocol import Layout, World, layout
from psycopg.conninfo import make_conninfo
from test_maintain import bounds, cut, maintain, months, now_of, settled, spring

from parlant_shard import maintain as upkeep
from parlant_shard.apply import apply
from parlant_shard.cli import run
from parlant_shard.errors import Exit, Locked
from parlant_shard.locks import run_lock
from servers import Clusters, database_name

pytestmark = pytest.mark.matrix

TWO = layout(
    {"s1": ["a"], "s2": ("east", ["b"])},
    tables=cut("1 month", 2, retention="2 months"),
    indexes={
        "log_recent_idx": {"on": "log", "columns": ["body", "at desc"], "window": "40 days"},
    },
)
SHARDS = {"s1": "core", "s2": "east"}


@pytest.fixture
def world(tmp_path: Path, clusters: Clusters) -> World:
    """Give the databases of two servers."""
    return World(tmp_path, clusters, over=2)


def written(world: World, what: Layout) -> Path:
    """Write the topology with its connection strings, for another process."""
    file = world.load(what).file
    text = file.read_text()
    for name, dsn in world.dsns.items():
        text = text.replace(f"${{{name}}}", dsn)
    file.write_text(text)
    return file


def everything(world: World) -> dict[str, int]:
    """Count the rows of every table that was ever a partition, attached or not."""
    found = {}
    for shard, server in SHARDS.items():
        for (name,) in world.rows(
            f"SELECT relname FROM pg_class WHERE relname LIKE 'log\\_{shard}\\_p%' "
            "AND relkind = 'r'",
            server=server,
        ):
            found[name] = world.value(f'SELECT count(*) FROM "{name}"', server=server)
    return {name: rows for name, rows in found.items() if rows}


def fill(world: World, start: datetime) -> None:
    for shard, server in SHARDS.items():
        tenant = {"s1": "a", "s2": "b"}[shard]
        world.execute(
            f"INSERT INTO account_{shard} (workspace_id) VALUES ('{tenant}')",
            f"INSERT INTO item_{shard} (workspace_id, account_id) "
            f"SELECT '{tenant}', id FROM account_{shard}",
            f"INSERT INTO log_{shard} (workspace_id, item_id, at) SELECT '{tenant}', id, "
            f"'{months(start, 0).isoformat()}Z'::timestamptz + make_interval(days => d) "
            f"FROM item_{shard}, generate_series(-50, 50, 5) d",
            server=server,
        )


KILLER = r"""
import sys
from killing import event_at, record_events, until_it_ends
from parlant_shard import maintain
from parlant_shard.topology import load_topology

file, now, moment, count, more, move = *sys.argv[1:4], *map(int, sys.argv[4:7])
topology = load_topology(file)

def attempt(number):
    event = event_at(moment, count + number * more)
    record_events(event)

    def listen(name, step, text):
        event(name)
        if name == "start":
            event("start " + step.title.partition(" ")[0])

    report = maintain.maintain(
        topology,
        now=maintain.moment(now),
        move=move or None,
        listener=listen,
    )
    assert not report.failures, report.failures
    assert not report.elsewhere, report.elsewhere

until_it_ends(attempt)
"""


def killed(
    file: Path,
    now: datetime,
    moment: str,
    count: int,
    *,
    more: int = 0,
    move: int = 0,
    **options: Any,
) -> int:
    """Maintain again and again, each time killed at an event, `more` events later each time.

    An event is what the listener is told, `record`, or `start` and the first word of the title of a
    step that starts. Options are those of `kills`.
    """
    return kills(KILLER, file, now.isoformat(), moment, count, more, move, **options)


@pytest.mark.parametrize(("moment", "count"), [("start", 3), ("record", 3), ("done", 1)])
def test_killed_at_every_step(world: World, moment: str, count: int) -> None:
    world.apply(TWO)
    start = now_of(world)
    fill(world, start)
    before = everything(world)
    now = months(start, 3)
    # An INVALID index, a NOT VALID constraint and an expired partition are there as well.
    world.execute(
        "UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'item_note_idx_s1'::regclass"
    )
    assert killed(written(world, TWO), now, moment, count) >= 8
    assert everything(world) == before
    settled(world, TWO, now)
    for shard, server in SHARDS.items():
        assert bounds(world, f"log_{shard}", server)[-1][1] == f"{months(now, 3)}"
        assert bounds(world, f"log_{shard}", server)[0][0] == f"{months(now, -2)}"
        assert world.rows("SELECT FROM pg_index WHERE NOT indisvalid", server=server) == []
        assert world.rows("SELECT FROM pg_inherits WHERE inhdetachpending", server=server) == []
        states = world.rows("SELECT DISTINCT state FROM parlant_shard.retired", server=server)
        assert states == [("detached",)]


def until(condition: Callable[[], Any], what: str, timeout: float = 30) -> None:
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline, f"never: {what}"
        time.sleep(0.05)


def start(file: Path, now: datetime) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "parlant_shard", "maintain", str(file), "--now", now.isoformat()],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(),
    )


def test_killed_while_a_detach_waits(world: World) -> None:
    """The server goes on with the statement for a moment; then it is pending, and finalised."""
    world.apply(TWO)
    begin = now_of(world)
    fill(world, begin)
    before = everything(world)
    now = months(begin, 3)
    file = written(world, TWO)
    name = f"log_s1_p{months(begin, -2):%Y%m%d}"
    with world.connect() as reader, world.connect() as detaching:
        reader.execute("BEGIN")
        reader.execute("SELECT count(*) FROM log_s1")
        # As a maintainer does it that met the reader only after it had looked.
        detaching.execute(
            "INSERT INTO parlant_shard.retired SELECT topology, %s, %s::regclass, 'log', 's1', "
            "'log_s1', %s, %s, 'detaching' FROM parlant_shard.object LIMIT 1",
            [name, name, months(begin, -2), months(begin, -1)],
        )
        detaching.execute("SET statement_timeout = '300ms'")
        with pytest.raises(psycopg.errors.QueryCanceled):
            detaching.execute(f"ALTER TABLE log_s1 DETACH PARTITION {name} CONCURRENTLY")
        process = start(file, now)
        until(
            lambda: bounds(world)[-1][1] == f"{months(now, 3)}" or process.poll() is not None,
            "premake while a detach is pending",
            60,
        )
        process.kill()
        process.communicate()
    maintain(world, TWO, now)
    assert everything(world) == before
    settled(world, TWO, now)


# --- two at once ----------------------------------------------------------------------------------


def test_two_maintainers_at_once(world: World) -> None:
    world.apply(TWO)
    begin = now_of(world)
    now = months(begin, 3)
    file = written(world, TWO)
    with world.connect() as reader:
        reader.execute("BEGIN")
        reader.execute("SELECT count(*) FROM log_s1")
        first = start(file, now)
        until(lambda: bounds(world)[-1][1] == f"{months(now, 3)}", "premake of the first", 60)
        second = start(file, now)
        out, err = second.communicate(timeout=60)
        assert second.returncode == 0, err
        assert "another maintain works on" in out
        assert first.poll() is None
        with pytest.raises(Locked):
            apply(world.load(TWO))
        reader.execute("COMMIT")
        out, err = first.communicate(timeout=60)
    assert first.returncode == 0, err
    settled(world, TWO, now)


def test_many_maintainers_at_once(world: World) -> None:
    world.apply(TWO)
    now = months(now_of(world), 3)
    file = written(world, TWO)
    processes = [start(file, now) for _ in range(4)]
    for process in processes:
        _, err = process.communicate(timeout=120)
        assert process.returncode == 0, err
    settled(world, TWO, now)


def test_apply_keeps_maintain_away(world: World, capfd: pytest.CaptureFixture[str]) -> None:
    world.apply(TWO)
    topology = world.load(TWO)
    file = written(world, TWO)
    with run_lock(topology):
        assert run(["maintain", str(file)]) == Exit.LOCKED
    assert "PS501" in capfd.readouterr().err
    assert run(["maintain", str(file)]) == 0


# --- a server that is gone ------------------------------------------------------------------------


@pytest.mark.parametrize("gone", ["core", "east"])
def test_one_server_of_two_is_gone(
    world: World, gone: str, capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    world.apply(TWO)
    now = months(now_of(world), 3)
    file = written(world, TWO)
    text = file.read_text()
    name = database_name(world.dsn(gone))
    file.write_text(text.replace(f"dbname={name}", "dbname=nowhere"))
    metrics = tmp_path / "m.prom"
    code = run(["maintain", str(file), "--now", now.isoformat(), "--metrics-file", str(metrics)])
    said = capfd.readouterr().err
    assert code == 1, said
    assert f'cannot connect to server "{gone}"' in said
    there, shard = ("east", "s2") if gone == "core" else ("core", "s1")
    assert bounds(world, f"log_{shard}", there)[-1][1] == f"{months(now, 3)}"
    assert re.search(rf'server_up{{.*server="{gone}"}} 0', metrics.read_text())
    assert re.search(rf'server_up{{.*server="{there}"}} 1', metrics.read_text())
    file.write_text(re.sub(r"dbname=\w+", "dbname=nowhere", text))
    capfd.readouterr()
    # Where nothing could be looked at, nothing says that all is well.
    for what in (["maintain"], ["maintain", "--dry-run"], ["advise"]):
        assert run([*what, str(file)]) == Exit.CANNOT_CONNECT
        out = capfd.readouterr().out
        assert "nothing to do" not in out, out
        assert "Nothing to advise." not in out, out
    assert run(["maintain", str(file), "--output", "json"]) == Exit.CANNOT_CONNECT
    said = capfd.readouterr().err.splitlines()
    errors = [json.loads(line)["error"] for line in said if line.startswith("{")]
    assert [(e["code"], bool(e["hint"])) for e in errors] == [("PS401", True)] * 2


@pytest.mark.needs(superuser=True)
def test_a_role_that_may_only_look_at_the_coordinator(world: World) -> None:
    """What it may not record is that server's failure; the other one is maintained."""
    world.apply(TWO)
    page = Path(__file__).parents[2] / "docs" / "monitor.md"
    (grants,) = re.findall(r"^```sql\n(.*?)^```", page.read_text(encoding="utf-8"), re.M | re.S)
    role, own = f"watcher_{world.name}", dict(world.dsns)
    world.execute(f"CREATE ROLE {role} LOGIN PASSWORD 'watch'", grants.replace("watcher", role))
    try:
        world.dsns["core"] = make_conninfo(own["core"], user=role, password="watch")
        now = months(now_of(world), 3)
        report = upkeep.maintain(world.load(TWO), now=now)
        assert [(f.server, f.code) for f in report.failures] == [("core", "PS403")]
        assert f'as role "{role}": permission denied for table run' in report.failures[0].message
        # It may read it; what else it would need is more than one statement says.
        assert report.failures[0].hint == "connect as a role that may, or grant it"
        assert bounds(world, "log_s2", "east")[-1][1] == f"{months(now, 3)}"
    finally:
        world.dsns = own
        world.execute(f"DROP OWNED BY {role}", f"DROP ROLE {role}")


@pytest.mark.parametrize("closed", ["core", "east"])
def test_one_server_of_two_is_read_only(
    world: World, closed: str, capfd: pytest.CaptureFixture[str]
) -> None:
    """The other one is maintained; one message says which server, and what to do."""
    world.apply(TWO)
    now = months(now_of(world), 3)
    file = written(world, TWO)
    name = database_name(world.dsn(closed))
    world.execute(f"ALTER DATABASE {name} SET default_transaction_read_only = on", server=closed)
    assert run(["maintain", str(file), "--now", now.isoformat()]) == 1
    said = capfd.readouterr().err
    assert re.findall(r"error (PS\d+): (.*)", said) == [
        ("PS167", f'server "{closed}" is read-only (default_transaction_read_only = on)')
    ], said
    assert f"ALTER DATABASE {name} RESET" in said
    there, shard = ("east", "s2") if closed == "core" else ("core", "s1")
    assert bounds(world, f"log_{shard}", there)[-1][1] == f"{months(now, 3)}"


def test_statistics_of_foreign_tables(world: World, clusters: Clusters) -> None:
    """Nobody else takes them, and the federated views are planned by them."""
    if clusters.get(0).major < 16:
        pytest.skip("PostgreSQL 15 would fetch every row for them")
    world.apply(TWO)
    start = now_of(world)
    fill(world, start)
    world.execute("ANALYZE log_s2", server="east")

    def known() -> Any:
        return world.value("SELECT reltuples FROM pg_class WHERE relname = 'log_s2'")

    assert known() == -1
    taken = [s.title for s in maintain(world, TWO).plan.steps if "foreign table" in s.title]
    assert 'take statistics of foreign table "log_s2"' in taken
    assert known() == world.value("SELECT count(*) FROM log_s2", server="east")
    assert not any("foreign" in s.title for s in maintain(world, TWO).plan.steps)
    # Partitions of the other server come and go: statistics follow. Of other tables they stay.
    titles = [s.title for s in maintain(world, TWO, months(start, 3)).plan.steps]
    assert [t for t in titles if "foreign table" in t] == [
        'take statistics of foreign table "log_s2"'
    ]


def test_a_table_that_fails_stops_no_other(world: World) -> None:
    """Somebody's table lock keeps one table; the other server is done, and the next run goes on."""
    world.apply(TWO)
    now = months(now_of(world), 3)
    with world.connect() as other, pytest.MonkeyPatch.context() as patch:
        patch.setattr("parlant_shard.maintain.run._PATIENCE", {})
        patch.setattr("parlant_shard.maintain.run._SHORT", 1.0)
        patch.setattr("parlant_shard.maintain.run.READERS", 1.0)
        other.execute("BEGIN")
        other.execute("LOCK TABLE ONLY log_s1 IN SHARE UPDATE EXCLUSIVE MODE")
        report = upkeep.maintain(world.load(TWO), now=now)
        other.execute("ROLLBACK")
    assert {(f.server, f.table) for f in report.failures} == {("core", "log_s1")}
    assert bounds(world, "log_s2", "east")[0][0] == f"{months(now, -2)}"
    assert bounds(world, "log_s2", "east")[-1][1] == f"{months(now, 3)}"
    maintain(world, TWO, now)
    settled(world, TWO, now)


def test_not_applied_yet(world: World, capfd: pytest.CaptureFixture[str]) -> None:
    assert run(["maintain", str(written(world, TWO))]) == 1
    assert "has not been applied" in capfd.readouterr().err


# --- clocks and time zones ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("zone", "style"),
    [
        ("Pacific/Kiritimati", "SQL, DMY"),
        ("America/New_York", "German"),
        ("Asia/Kathmandu", "Postgres, MDY"),
    ],
)
def test_time_zones_mean_nothing(
    world: World, zone: str, style: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    what = layout({"s1": ["a"]}, tables=cut("1 day", 2, retention="3 days"))
    monkeypatch.setenv("PGTZ", "Etc/GMT+12")
    monkeypatch.setenv("PGDATESTYLE", "SQL, MDY")
    monkeypatch.setenv("TZ", "Etc/GMT+12")
    time.tzset()
    try:
        database = database_name(world.dsn("core"))
        world.execute(
            f"ALTER DATABASE {database} SET TimeZone = '{zone}'",
            f"ALTER DATABASE {database} SET DateStyle = '{style}'",
        )
        world.apply(what)
        # The spring day that has no two o'clock in New York.
        now = spring(now_of(world)).replace(hour=23)
        maintain(world, what, now)
        assert bounds(world) == [
            (f"{now + timedelta(days=d):%F} 00:00:00", f"{now + timedelta(days=d + 1):%F} 00:00:00")
            for d in range(-3, 3)
        ]
        settled(world, what, now)
    finally:
        monkeypatch.undo()
        time.tzset()
