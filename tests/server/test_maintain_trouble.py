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
from protocol import SCHEMA, World, layout
from psycopg.conninfo import make_conninfo
from test_maintain import cut, maintain, months, now_of, put, settled
from test_maintain_crash import TWO, written

from parlant_shard import maintain as upkeep
from parlant_shard.cli import run
from parlant_shard.errors import Exit
from parlant_shard.maintain.model import Noun
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


def test_rows_that_keep_many_partitions_out_are_told_once(world: World) -> None:
    default = layout({"s1": ["a"]}, tables=cut("1 day", 1, default=True))
    world.apply(default)
    now = now_of(world) + timedelta(days=2)
    for days in (1, 2, 3):
        put(world, now + timedelta(days=days))
    what = layout({"s1": ["a"]}, tables=cut("1 day", 3, default=True))
    report = upkeep.maintain(world.load(what), now=now)
    (failure,) = report.failures
    assert failure.code == "PS581"
    assert ': 3 partitions of "log_s1" between ' in failure.message
    assert failure.message.endswith(" holds 3 rows of them")
    maintain(world, what, now, move=100)
    assert maintain(world, what, now).plan.steps == ()


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
        r"log +s1 +4 +never +from \S+ \S+ UTC on the default partition takes the rows", row
    ), row
    assert run(["status", file, "--output", "json"]) == 0
    (horizon,) = json.loads(capfd.readouterr().out)["horizons"]
    assert (horizon["has_default"], horizon["low"]) == (True, False)


# --- what somebody did by hand --------------------------------------------------------------------


def keys_of(world: World, table: str) -> int:
    found = world.value(
        f"SELECT count(*) FROM pg_index WHERE indrelid = '{table}'::regclass AND indisprimary"
    )
    assert isinstance(found, int)
    return found


def test_a_partition_made_by_hand_is_no_pattern(world: World) -> None:
    """It has no primary key of its own and is UNLOGGED: those after it must not be so."""
    what = layout({"s1": ["a"]}, tables=cut("1 month", 2))
    world.apply(what)
    start = months(now_of(world), 3)
    world.execute(
        f"CREATE UNLOGGED TABLE by_hand PARTITION OF log_s1 FOR VALUES FROM ('{start}+00') "
        f"TO ('{months(start, 1)}+00')"
    )
    assert keys_of(world, "by_hand") == 0
    maintain(world, what, start)
    made = f"log_s1_p{months(start, 2):%Y%m%d}"
    assert keys_of(world, made) == 1
    assert world.value(f"SELECT relpersistence FROM pg_class WHERE relname = '{made}'") == "p"


def test_a_detach_of_somebody_else_is_told(world: World) -> None:
    what = layout({"s1": ["a"]}, tables=cut("1 month", 2))
    world.apply(what)
    name = f"log_s1_p{months(now_of(world), 0):%Y%m%d}"
    world.interrupt_detach("log_s1", name)
    report = maintain(world, what)
    assert [n for n in report.notices if name in n and "detached by somebody else" in n]
    assert not maintain(world, what).notices


def test_a_retention_that_grew_after_a_detach(world: World) -> None:
    """What would not have expired is not archived; the message says how it comes back."""
    short = layout(
        {"s1": ["a"]},
        tables=cut("1 month", 2, retention="1 month", grace="1 day", archive="old"),
    )
    longer = layout(
        {"s1": ["a"]},
        tables=cut("1 month", 2, retention="12 months", grace="1 day", archive="old"),
    )
    world.apply(short)
    now = months(now_of(world), 3)
    maintain(world, short, now)
    detached = world.rows("SELECT name FROM parlant_shard.retired ORDER BY lower_bound")
    assert len(detached) > 1
    later = now + timedelta(days=2)
    report = maintain(world, longer, later)
    assert report.archived == []
    assert [w.due <= later for w in report.waiting] == [True] * len(detached)
    (told,) = [n for n in report.notices if "would not have expired" in n]
    assert told.startswith(f"{len(detached)} detached partitions, ")
    (statement,) = re.findall("`(ALTER TABLE .*)`", told)
    assert detached[0][0] in statement
    world.execute(statement)
    report = maintain(world, longer, later)
    assert [n for n in report.notices if n.startswith(f"{len(detached) - 1} detached")]
    # By the short one they go the way of all partitions.
    assert len(maintain(world, short, later).archived) == len(detached) - 1


def test_after_a_run_with_a_clock_in_the_future(world: World) -> None:
    """It retired the present, and no clock makes that again: what to do is told."""
    what = layout({"s1": ["a"]}, tables=cut("1 month", 2, retention="1 month"))
    world.apply(what)
    maintain(world, what, months(now_of(world), 4))
    notices = maintain(world, what).notices
    assert any('into "log_s1" on server "core" fail, as no partition' in n for n in notices), (
        notices
    )
    (told,) = [n for n in notices if "detached partitions" in n]
    assert ", the first of them " in told
    assert "ATTACH PARTITION" in told


def test_a_table_that_the_topology_says_nothing_of(world: World) -> None:
    """Somebody renamed or dropped its entry: nobody makes partitions, and that is told in time."""
    world.apply(layout({"s1": ["a"]}, tables=cut("1 month", 2)))
    for what in (
        layout({"s1": ["a"]}),
        layout(
            {"s1": ["a"]},
            ddl=SCHEMA.replace("body text", "made date NOT NULL, body text"),
            tables={"log": {"partition": {"by": "made", "every": "1 day"}}},
        ),
    ):
        report = upkeep.maintain(world.load(what))
        assert [(f.code, f.table) for f in report.failures] == [("PS531", "log_s1")]
        assert report.exit_code is Exit.FAILED
        assert "partition:" in (report.failures[0].hint or "")


def test_what_depends_on_a_detached_partition(world: World) -> None:
    """The hint is not to drop it with CASCADE; and one that is partitioned itself is kept."""
    what = layout(
        {"s1": ["a"]},
        tables=cut("1 month", 2, retention="1 month", grace="1 day", archive="old"),
    )
    world.apply(what)
    start = months(now_of(world), 3)
    world.execute(
        f"CREATE TABLE sub PARTITION OF log_s1 FOR VALUES FROM ('{start}+00') "
        f"TO ('{months(start, 1)}+00') PARTITION BY LIST (workspace_id)"
    )
    now = months(start, 4)
    maintain(world, what, now)
    name = f"log_s1_p{months(now_of(world), 0):%Y%m%d}"
    world.execute(f"CREATE VIEW report AS SELECT * FROM {name}")
    report = upkeep.maintain(world.load(what), now=now + timedelta(days=2))
    found = {f.code: f for f in report.failures}
    assert found.keys() == {"PS510", "PS532"}
    assert "view public.report" in found["PS510"].message
    assert not (found["PS510"].hint or "").startswith("Use DROP")
    assert '"sub"' in found["PS532"].message
    assert world.value("SELECT to_regclass('sub') IS NOT NULL")


def test_a_table_that_somebody_locked(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """A short lock is outwaited; of a long one the holder is named. The other server is done."""
    world.apply(TWO)
    now = months(now_of(world), 1)
    with world.connect() as other:
        other.execute("SET application_name = 'migration'")
        other.execute("BEGIN")
        other.execute("LOCK TABLE item_s1 IN ACCESS EXCLUSIVE MODE")
        with monkeypatch.context() as patch:
            patch.setattr("parlant_shard.maintain.site.LOCKED_WAIT", 0.5)
            report = upkeep.maintain(world.load(TWO), now=now)
        assert [(f.code, f.server) for f in report.failures] == [("PS404", "core")]
        assert re.search(
            r': "item_s1" by pid \d+ \("migration"\), whose transaction is \d+ s old$',
            report.failures[0].message,
        )
        assert [c.server for c in report.cuts if c.horizon.until == months(now, 3)] == ["east"]

        def listen(event: str, _step: object, text: str) -> None:
            if event == "note" and "migration" in text:
                other.execute("ROLLBACK")

        maintain(world, TWO, now, listener=listen)
    settled(world, TWO, now)


def test_what_another_maintainer_works_on_is_no_alarm(world: World) -> None:
    what = layout({"s1": ["a"]}, tables=cut("1 month", 2))
    world.apply(what)
    now = months(now_of(world), 6)
    seen: list[tuple[str, ...]] = []

    def listen(event: str, _step: object, _text: str) -> None:
        if event == "start" and not seen:
            seen.append(upkeep.maintain(world.load(what), now=now).notices)

    maintain(world, what, now, listener=listen)
    assert [n for n in seen[0] if "another maintain works on" in n]
    assert not [n for n in seen[0] if "inserts into" in n], seen


def test_a_clock_that_is_far_off(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """A typing error must neither fill the catalogue nor take hours to be found."""
    what = layout({"s1": ["a"]}, tables=cut("1 hour", 2))
    world.apply(what)
    monkeypatch.setattr("parlant_shard.maintain.table.MOST_NEW", 5)
    for year in ("1900-01-01", "2999-12-31T23:59:59Z"):
        now = upkeep.moment(year)
        report = maintain(world, what, now, dry_run=True)
        made = [s for s in report.plan.steps if s.phase == Noun.PREMAKE]
        assert len(made) <= 5
        # What inserts of that moment wait for is made first.
        assert any(f"p{now:%Y%m%d}" in s.title for s in made)
    assert [n for n in report.notices if "run it again for the others" in n]


@pytest.mark.parametrize("every", ["5 weeks", "7 months"])
def test_a_partition_from_minus_infinity(world: World, every: str) -> None:
    """Without a retention its gaps are looked for from the first partition on."""
    what = layout({"s1": ["a"]}, tables=cut(every, 2))
    world.apply(what)
    world.execute(
        "CREATE TABLE ancient PARTITION OF log_s1 FOR VALUES FROM ('-infinity') TO ('2026-01-01Z')"
    )
    now = months(now_of(world), 12)
    assert [c.horizon.low for c in maintain(world, what, now).cuts] == [False]
    assert maintain(world, what, now).plan.steps == ()


# --- what the role or the database says -----------------------------------------------------------


def test_timeouts_of_the_database_do_not_end_a_run(world: World) -> None:
    """Our own bound every statement. Those of transactions and idle sessions would end a run."""
    what = layout({"s1": ["a"]}, tables=cut("1 month", 2, retention="1 month"))
    world.apply(what)
    name = database_name(world.dsn("core"))
    now = months(now_of(world), 3)
    with world.connect() as reader, world.connect() as admin:
        reader.execute("BEGIN")
        reader.execute("SELECT count(*) FROM log_s1")

        def listen(event: str, _step: object, _text: str) -> None:
            if event == "wait":
                reader.execute("ROLLBACK")

        admin.execute(f"ALTER DATABASE {name} SET idle_session_timeout = '100ms'")
        if admin.info.server_version >= 170000:
            admin.execute(f"ALTER DATABASE {name} SET transaction_timeout = '10ms'")
        try:
            assert maintain(world, what, now, listener=listen).done
        finally:
            admin.execute(f"ALTER DATABASE {name} RESET ALL")
    settled(world, what, now)
