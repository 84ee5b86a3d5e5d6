"""The audit trail: a row for everything that was done, and nobody takes one away unseen."""

from __future__ import annotations

import contextlib
import json
import re
import threading
from datetime import timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest
from protocol import DELETES, DROPS, SCHEMA, Layout, World, layout
from psycopg.conninfo import make_conninfo
from test_maintain import cut, maintain, now_of

from parlant_shard import apply as running
from parlant_shard import db, trail
from parlant_shard.apply import apply
from parlant_shard.cli import run
from parlant_shard.errors import ApplyFailed, HazardNotAllowed, Locked, ServerError
from servers import Clusters

pytestmark = pytest.mark.matrix

WHAT = layout({"s1": ["a"]})
Row = dict[str, Any]


@pytest.fixture
def world(tmp_path: Path, clusters: Clusters) -> World:
    """Give the databases of one server."""
    return World(tmp_path, clusters)


def rows(world: World) -> list[Row]:
    with psycopg.connect(world.dsn("core"), row_factory=psycopg.rows.dict_row) as connection:
        return connection.execute("SELECT * FROM parlant_shard.audit ORDER BY id").fetchall()


def told(world: World) -> list[tuple[str, str]]:
    return [(r["command"], r["result"]) for r in rows(world)]


def command(world: World, what: Layout, *words: str) -> int:
    file = str(world.load(what).file)
    with pytest.MonkeyPatch.context() as environment:
        for name in what.servers:
            environment.setenv(name, world.dsn(name))
        return run([words[0], file, *words[1:]])


def chain(world: World) -> trail.Chain:
    with db.connect(world.dsn("core"), server="core") as connection:
        return trail.check(connection)


def test_every_command_leaves_its_row(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    assert command(world, WHAT, "plan") == 0  # nothing is there to write to, and nothing is said
    assert "audit" not in capsys.readouterr().err
    assert command(world, WHAT, "apply", "--yes") == 0
    assert command(world, WHAT, "apply", "--yes") == 0  # nothing to do, but somebody did it
    assert command(world, WHAT, "plan") == 0
    assert command(world, WHAT, "maintain", "--dry-run") == 0  # shows, changes nothing
    assert told(world) == [("apply", "done"), ("apply", "done"), ("plan", "done")]
    first, second, third = rows(world)
    runs = world.rows("SELECT run_id, steps FROM parlant_shard.run")
    assert [(first["run_id"], first["detail"]["steps"])] == runs
    assert (second["run_id"], second["detail"]["steps"]) == (None, 0)
    assert first["objects"] == ["core"]
    assert third["actor"] == world.value("SELECT session_user")
    address = world.value("SELECT inet_client_addr()")
    assert third["client_address"] == address
    assert third["os_user"]
    assert third["os_host"]
    capsys.readouterr()
    assert command(world, WHAT, "status", "--history", "--output", "json") == 0
    found = json.loads(capsys.readouterr().out)
    assert [(r["command"], r["state"]) for r in found["runs"]] == [("apply", "done")]
    assert [(r["command"], r["result"]) for r in found["audit"]] == told(world)[::-1]
    assert found["audit"][0]["id"] == 3
    assert found["trail"] == {"ok": True, "rows": 3, "head": third["hash"], "broken_at": None}
    assert command(world, WHAT, "status", "--history") == 0
    text = capsys.readouterr().out
    assert "3 rows, its chain holds" in text
    # One moment a row, to the second, and how long a run took: people compare by that.
    run = text.splitlines()[2]
    assert re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d +\d+\.\d s +apply +done .*", run), run
    assert not re.search(r"\d:\d\d\.\d", text), text
    capsys.readouterr()
    assert command(world, WHAT, "status") == 0
    assert not re.search(r"\d:\d\d\.\d", capsys.readouterr().out)


def test_verify_leaves_its_row(world: World, tmp_path: Path) -> None:
    world.apply(WHAT)
    assert command(world, WHAT, "verify") == 0
    last = rows(world)[-1]
    assert (last["command"], last["result"], last["objects"]) == ("verify", "done", [])
    assert last["detail"]["errors"] == last["detail"]["not_checked"] == 0
    world.execute("ALTER TABLE account_s1 DROP CONSTRAINT account_s1_workspace_check")
    assert command(world, WHAT, "verify", "--workspace", "a") == 3
    last = rows(world)[-1]
    assert (last["command"], last["result"], last["objects"]) == ("verify", "findings", ["a"])
    assert (last["detail"]["errors"], last["detail"]["checks"]) == (1, ["shard-check"])
    (tmp_path / "state").write_text("something else")
    assert command(world, WHAT, "verify", "--state", str(tmp_path / "state")) == 1
    last = rows(world)[-1]
    assert (last["result"], last["detail"]["code"]) == ("failed", "PS700")


def test_refusals_failures_and_dead_runs(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.apply(WHAT)
    without = layout({"s1": ["a"], "s2": ["b"]})
    world.apply(without)
    with pytest.raises(HazardNotAllowed):
        apply(world.load(WHAT))
    with running.run_lock(world.load(WHAT)), pytest.raises(Locked):
        apply(world.load(WHAT))
    assert told(world)[2:] == [("apply", "refused"), ("apply", "refused")]
    assert [r["detail"]["code"] for r in rows(world)[2:]] == ["PS503", "PS501"]

    # A step fails: a row with its code, and no value of the table in it.
    checked = SCHEMA.replace("name text\n", "name text CHECK (name <> 'Secret Name')\n")
    bad = layout({"s1": ["a"]}, ddl=checked)
    world.apply(WHAT, allow=DROPS)
    world.execute("INSERT INTO account_s1 (workspace_id, name) VALUES ('a', 'Secret Name')")
    with pytest.raises(ApplyFailed):
        world.apply(bad)
    last = rows(world)[-1]
    assert (last["result"], last["detail"]["code"]) == ("failed", "PS510")
    assert last["run_id"] is not None
    assert "Secret" not in json.dumps(last, default=str)

    # Interrupted, and killed: the next run writes for the dead.
    def stop(*_args: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(running.Executor, "_step", stop)
        with pytest.raises(KeyboardInterrupt):
            world.apply(layout({"s1": ["a"], "s3": ["c"]}), allow=DROPS)
    assert told(world)[-1] == ("apply", "interrupted")
    world.execute("UPDATE parlant_shard.run SET state = 'running', finished_at = NULL")
    dead = len(world.rows("SELECT FROM parlant_shard.run"))
    before = len(rows(world))
    world.apply(layout({"s1": ["a"], "s3": ["c"]}), allow=DROPS)
    later = told(world)[before:]
    assert later[:dead] == [("apply", "interrupted")] * dead
    assert ("apply", "interrupted") not in later[dead:]
    assert later[-1] == ("apply", "done")
    assert chain(world).ok


def test_what_is_taken_away_is_named(world: World) -> None:
    both = layout({"s1": ["a"], "s2": ["b"]}, tables=cut(retention="2 months"))
    world.apply(both)
    # In one session: what another one counted may arrive after ANALYZE, and count twice.
    world.execute(
        "INSERT INTO account_s2 (workspace_id, name) VALUES ('b', '0'), ('b', '1'), ('b', '2')",
        "SELECT pg_stat_force_next_flush()",
        "ANALYZE account_s2",
    )
    world.apply(layout({"s1": ["a"]}, tables=cut(retention="2 months")), allow=DELETES | DROPS)
    found = [r for r in rows(world) if r["objects"] == ["account_s2"]]
    assert [r["result"] for r in found] == ["begun", "done"]
    assert {(r["detail"]["server"], r["detail"]["shard"]) for r in found} == {("core", "s2")}
    assert [r["detail"]["rows_estimated"] for r in found] == [{"account_s2": 3}] * 2
    assert len({r["run_id"] for r in found}) == 1

    before = len(rows(world))
    report = maintain(
        world,
        layout({"s1": ["a"]}, tables=cut(retention="2 months")),
        now_of(world) + timedelta(100),
    )
    detached = [r for r in rows(world)[before:] if "detach" in r["detail"].get("title", "")]
    assert [r["result"] for r in detached] == ["begun", "done"] * (len(detached) // 2)
    assert len(detached) >= 2
    assert {r["command"] for r in detached} == {"maintain"}
    assert told(world)[-1] == ("maintain", "done")
    assert rows(world)[-1]["run_id"] == report.run_id


def test_it_is_append_only(world: World) -> None:
    world.apply(WHAT)
    for statement in (
        "UPDATE parlant_shard.audit SET actor = 'somebody'",
        "DELETE FROM parlant_shard.audit",
        "TRUNCATE parlant_shard.audit",
        "SET session_replication_role = replica; DELETE FROM parlant_shard.audit",
    ):
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            world.execute(statement)
    # What a writer says of itself does not count where the server knows better.
    world.execute(
        "INSERT INTO parlant_shard.audit (id, at, topology, command, objects, result, detail, "
        "actor, os_user, os_host, previous, hash) VALUES (7, '2000-01-01', 'x', 'apply', '{}', "
        "'done', '{}', 'nobody', '', '', '', '')"
    )
    last = rows(world)[-1]
    assert last["id"] == 2
    assert last["actor"] == world.value("SELECT session_user")
    assert last["at"].year > 2000
    assert chain(world).ok


@pytest.mark.parametrize(
    ("tampering", "where"),
    [
        ("UPDATE parlant_shard.audit SET command = 'plan' WHERE id = 2", 2),
        ("UPDATE parlant_shard.audit SET at = at - interval '1 s' WHERE id = 3", 3),
        ("DELETE FROM parlant_shard.audit WHERE id = 2", 3),
        ("DELETE FROM parlant_shard.audit WHERE id = 1", 2),
        (
            "UPDATE parlant_shard.audit SET id = id + 100 WHERE id = 1;"
            "UPDATE parlant_shard.audit SET id = id - 1 WHERE id < 100;",
            1,
        ),
    ],
)
@pytest.mark.needs(superuser=True)
def test_an_owner_who_drops_the_triggers_is_seen(
    world: World, tampering: str, where: int, capsys: pytest.CaptureFixture[str]
) -> None:
    world.apply(WHAT)
    for _ in range(3):
        apply(world.load(WHAT))
    assert chain(world) == trail.Chain(rows=4, head=rows(world)[-1]["hash"], broken_at=None)
    world.execute("ALTER TABLE parlant_shard.audit DISABLE TRIGGER ALL", tampering)
    assert chain(world).broken_at == where
    capsys.readouterr()
    assert command(world, WHAT, "status", "--history") == 3
    said = capsys.readouterr()
    assert f"BROKEN at row {where}" in said.out
    assert "PS750" in said.err


# What the trigger and the check compute of a row, for a forger who knows it as well.
HASH_OF_ROW = (
    "encode(sha256(convert_to(jsonb_build_array(previous, id, extract(epoch FROM at), topology, "
    "command, objects, result, detail, run_id, actor, client_address, os_user, os_host)::text, "
    "'UTF8')), 'hex')"
)


@pytest.mark.parametrize(
    ("tampering", "where"),
    [
        ("UPDATE parlant_shard.audit SET command = 'plan' WHERE id = 2;", 3),
        ("UPDATE parlant_shard.audit SET actor = 'other' WHERE id = 1;", 2),
        (
            "DELETE FROM parlant_shard.audit WHERE id = 2;"
            "UPDATE parlant_shard.audit SET id = 2 WHERE id = 3;"
            "UPDATE parlant_shard.audit SET id = 3 WHERE id = 4;",
            2,
        ),
        ("UPDATE parlant_shard.audit SET previous = 'none' WHERE id = 1;", 1),
        ("UPDATE parlant_shard.audit SET previous = 'none' WHERE id = 4;", 4),
        ("UPDATE parlant_shard.audit SET id = 9 WHERE id = 4;", 9),  # as if five rows were missing
    ],
)
@pytest.mark.needs(superuser=True)
def test_a_forger_who_computes_the_hash_of_each_row_again_breaks_the_chain(
    world: World, tampering: str, where: int
) -> None:
    world.apply(WHAT)
    for _ in range(3):
        apply(world.load(WHAT))
    again = f"UPDATE parlant_shard.audit SET hash = {HASH_OF_ROW}"
    world.execute("ALTER TABLE parlant_shard.audit DISABLE TRIGGER ALL", again)
    assert chain(world).ok  # it is the right way to compute them
    world.execute(tampering, again)
    assert chain(world).broken_at == where


def test_a_trail_that_was_dropped_is_missed(world: World) -> None:
    world.apply(WHAT)
    world.execute("DROP TABLE parlant_shard.audit")
    with pytest.raises(ServerError) as found:
        world.plan(WHAT)
    assert found.value.code == "PS414"


def test_writers_at_once_make_one_chain(world: World) -> None:
    world.apply(WHAT)
    problems: list[str | None] = []

    def write(isolation: str) -> None:
        # What a role may be set to.
        options = "-c default_transaction_isolation=" + isolation.replace(" ", "\\ ")
        dsn = make_conninfo(world.dsn("core"), options=options)
        with db.connect(dsn, server="core") as connection:
            for number in range(20):
                problems.append(trail.record(connection, "t", "verify", [str(number)], "done"))

    threads = [
        threading.Thread(target=write, args=(isolation,))
        for isolation in ("read committed", "serializable", "repeatable read")
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert problems == [None] * 60
    assert chain(world).rows == 61
    assert chain(world).ok


def test_two_writers_of_one_snapshot_cannot_fork_it(world: World) -> None:
    """Under REPEATABLE READ the second saw an old end of the chain: the primary key stops it."""
    world.apply(WHAT)
    insert = (
        "INSERT INTO parlant_shard.audit (topology, command, objects, result, detail, os_user, "
        "os_host) VALUES ('t', 'plan', '{}', 'done', '{}', '', '')"
    )
    with world.connect() as late, world.connect() as early:
        late.execute("BEGIN ISOLATION LEVEL REPEATABLE READ")
        late.execute("SELECT 1 FROM parlant_shard.audit")
        early.execute(insert)
        with pytest.raises(psycopg.errors.UniqueViolation):
            late.execute(insert)
    assert chain(world).rows == 2
    assert chain(world).ok


def test_nobody_else_holds_it_up(world: World) -> None:
    """Any role can take an advisory lock."""
    world.apply(WHAT)
    with world.connect() as other, db.connect(world.dsn("core"), server="core") as connection:
        other.execute("SELECT pg_advisory_lock(hashtextextended('parlant-shard audit', 0))")
        assert trail.record(connection, "t", "verify", [], "done") is None
    assert told(world)[-1] == ("verify", "done")


def test_a_writer_waits_for_another(world: World) -> None:
    world.apply(WHAT)
    with world.connect() as other, db.connect(world.dsn("core"), server="core") as connection:
        other.execute("BEGIN")
        assert trail.record(other, "t", "plan", [], "done") is None
        # Longer than the lock timeout.
        timer = threading.Timer(1.5, other.commit)
        timer.start()
        assert trail.record(connection, "t", "verify", [], "done") is None
        timer.join()
    assert told(world)[-2:] == [("plan", "done"), ("verify", "done")]
    assert chain(world).ok


@pytest.mark.needs(superuser=True)
def test_a_reader_plans_in_silence(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    world.apply(WHAT)
    owner = world.dsns["core"]
    world.dsns["core"] = make_conninfo(owner, options="-c default_transaction_read_only=on")
    topology = world.load(WHAT)
    notices: list[str] = []
    with trail.recorded(topology, "plan", tell=notices.append, reader=True):
        pass
    assert notices == []
    with trail.recorded(topology, "purge", tell=notices.append):
        pass
    assert len(notices) == 1
    assert "the audit trail was not written" in notices[0]
    world.dsns["core"] = owner
    assert told(world) == [("apply", "done")]


def test_a_dead_coordinator_is_a_notice(world: World) -> None:
    topology = world.load(WHAT)
    nowhere = topology.with_dsns({"core": make_conninfo(world.dsn("core"), port=1)})
    notices: list[str] = []
    with trail.recorded(nowhere, "verify", tell=notices.append):
        pass
    assert notices[0].startswith("the audit trail was not written: cannot connect")
    with contextlib.suppress(ValueError), trail.recorded(nowhere, "verify", tell=notices.append):
        raise ValueError("a message that is not ours, with a value")
    assert len(notices) == 2
