"""What `maintain` and `status` say when something is wrong: one clear message for each cause."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from datetime import timedelta
from pathlib import Path

import psycopg
import pytest
from protocol import World, layout
from psycopg.conninfo import make_conninfo
from test_maintain import cut, maintain, months, now_of, settled
from test_maintain_crash import TWO, written

from parlant_shard import maintain as upkeep
from parlant_shard.cli import run
from parlant_shard.errors import Exit
from servers import Clusters, database_name

pytestmark = pytest.mark.matrix


@pytest.fixture
def world(tmp_path: Path, clusters: Clusters) -> World:
    """Give the databases of two servers."""
    return World(tmp_path, clusters, over=2)


# --- a server that is lost in the middle ----------------------------------------------------------


@contextmanager
def losing(world: World, server: str) -> Iterator[Callable[[], None]]:
    """Give a function that ends all sessions of a database and lets nobody in any more."""
    name = database_name(world.dsn(server))
    with psycopg.connect(
        make_conninfo(world.dsn(server), dbname="postgres"), autocommit=True
    ) as admin:

        def lose() -> None:
            admin.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS false")
            admin.execute(
                "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE datname = %s",
                [name],
            )

        try:
            yield lose
        finally:
            admin.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS true")


def test_a_server_that_is_lost_in_the_middle(world: World) -> None:
    """One message, not one for each of its foreign tables; the other server is done."""
    world.apply(TWO)
    now = months(now_of(world), 3)
    told: list[str] = []
    with losing(world, "east") as lose:

        def listen(event: str, step: object, text: str) -> None:
            if event == "start" and getattr(step, "server", "") == "east" and not told:
                lose()
                told.append(text)

        report = upkeep.maintain(world.load(TWO), now=now, listener=listen)
    assert told
    assert [(f.code, f.server, f.table) for f in report.failures] == [("PS512", "east", None)]
    assert "cannot connect to server" in report.failures[0].message
    maintain(world, TWO, now)
    settled(world, TWO, now)


def test_a_server_that_another_cannot_reach(world: World, clusters: Clusters) -> None:
    """We can, the coordinator cannot: said once, whatever the number of foreign tables."""
    if clusters.get(0).major < 16:
        pytest.skip("PostgreSQL 15 would fetch every row for statistics of foreign tables")
    world.apply(TWO)
    name = world.value("SELECT srvname FROM pg_foreign_server")
    world.execute(f"ALTER SERVER {name} OPTIONS (SET port '1')")
    report = upkeep.maintain(world.load(TWO))
    assert [(f.code, f.server) for f in report.failures] == [("PS510", "core")]
    assert 'server "core" cannot reach server "east"' in report.failures[0].message
    assert "peer_dsn" in (report.failures[0].hint or "")
    assert report.exit_code is Exit.FAILED


def test_a_server_that_is_lost_while_a_detach_waits(world: World) -> None:
    """The longest wait of a run is there, for readers. The other server goes on."""
    world.apply(TWO)
    now = months(now_of(world), 3)
    with losing(world, "east") as lose, closing(psycopg.connect(world.dsn("east"))) as reader:
        reader.execute("SELECT count(*) FROM log_s2")

        def listen(event: str, _step: object, text: str) -> None:
            if event == "wait" and "waiting for pid" in text:
                lose()

        report = upkeep.maintain(world.load(TWO), now=now, listener=listen)
    assert [f.server for f in report.failures] == ["east"], report.failures
    assert report.failures[0].table is None
    assert [c.horizon.until for c in report.cuts if c.server == "core"] == [months(now, 3)]


# --- the same for many partitions -----------------------------------------------------------------


def test_what_fails_for_many_partitions_is_told_once(world: World) -> None:
    what = layout(
        {"s1": ["a"], "s2": ["b"]},
        tables=cut("1 day", 2, retention="3 days", grace="0 days", archive="old/deep"),
    )
    world.apply(what)
    (world.directory / "old").write_text("a file")
    report = upkeep.maintain(world.load(what), now=now_of(world) + timedelta(days=4))
    report = upkeep.maintain(world.load(what), now=now_of(world) + timedelta(days=5))
    assert {(f.code, f.table) for f in report.failures} == {
        ("PS541", "log_s1"),
        ("PS541", "log_s2"),
    }
    assert len(report.failures) == 2
    assert len(report.waiting) > 4
    for failure in report.failures:
        assert re.search(
            rf'the same for \d more partitions of "{failure.table}", up to "{failure.table}_p',
            failure.message,
        ), failure.message


# --- the metrics file -----------------------------------------------------------------------------


def test_a_metrics_file_that_cannot_be_written(
    world: World, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Told before any work, which is done all the same: inserts must not fail for a metric."""
    world.apply(TWO)
    now = months(now_of(world), 1)
    file = written(world, TWO)
    (tmp_path / "plain").write_text("")
    for number, path in enumerate(("no/x.prom", "plain/x.prom", ".")):
        later = months(now, number).isoformat()
        metrics = str(tmp_path / path)
        assert run(["maintain", str(file), "--now", later, "--metrics-file", metrics]) == 1
        said = capfd.readouterr().err
        assert said.startswith("error PS902: no metrics will be written: "), said
        assert said.count("PS902") == 1
        assert "create partition" in said
        assert run(["monitor", str(file), "--metrics-file", metrics]) == 1
        seen = capfd.readouterr()
        assert (seen.out, seen.err.count("PS902")) == ("", 1)


# --- spans and moments ----------------------------------------------------------------------------


def test_a_wrong_value_on_the_command_line_is_usage(
    world: World, capfd: pytest.CaptureFixture[str]
) -> None:
    world.apply(TWO)
    file = str(written(world, TWO))
    for command in (
        ["maintain", file, "--now", "soon"],
        ["forecast", file, "--now", "soon"],
        ["forecast", file, "--horizon", "soon"],
        ["advise", file, "--min-age", "soon"],
        ["archive", "restore", file, "log_s1_p20200101", "--keep", "soon"],
    ):
        assert run(command) == Exit.USAGE, command
        assert "soon" in capfd.readouterr().err
    # In the file it is the configuration.
    wrong = layout({"s1": ["a"]}, tables=cut("1 month", 2, grace="soon"))
    path = world.directory / "wrong.yaml"
    path.write_text(wrong.text.replace("${core}", world.dsn("core")))
    (world.directory / "schema.sql").write_text(wrong.files["schema.sql"])
    assert run(["maintain", str(path)]) == Exit.CONFIG


# --- how far partitions reach ---------------------------------------------------------------------


def test_status_with_a_default_partition(world: World, capfd: pytest.CaptureFixture[str]) -> None:
    what = layout(
        {"s1": ["a"]},
        tables=cut("1 month", 2, default=True),
    )
    world.apply(what)
    file = str(written(world, what))
    assert run(["status", file]) == 0
    row = next(x for x in capfd.readouterr().out.splitlines() if x.startswith("log "))
    assert re.fullmatch(
        r"log +s1 +4 +never +from \S+Z on the default partition takes the rows", row
    ), row
    assert run(["status", file, "--output", "json"]) == 0
    (horizon,) = json.loads(capfd.readouterr().out)["horizons"]
    assert (horizon["has_default"], horizon["low"]) == (True, False)
