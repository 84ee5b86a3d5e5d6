"""`workspace purge`: all rows of one workspace and no other, whatever happens meanwhile."""

from __future__ import annotations

import json
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest
from killing import kills
from privacy_world import HOMES, OWNED, PRESET, contents, lasting_world, of, total
from protocol import SCHEMA, Layout, World, layout
from tenants import rows
from test_maintain import cut, maintain, months, now_of
from test_maintain_crash import written

from parlant_shard import privacy
from parlant_shard import workspace as placing
from parlant_shard.apply import apply
from parlant_shard.cli import run
from parlant_shard.client import Router
from parlant_shard.errors import (
    ApplyFailed,
    CannotConnect,
    Exit,
    HazardNotAllowed,
    ShardError,
    TopologyError,
)
from parlant_shard.executor import Executor
from parlant_shard.plan import Step
from parlant_shard.planner import make_plan
from parlant_shard.privacy import Purged
from parlant_shard.privacy.steps import Stage
from parlant_shard.router import Unroutable
from parlant_shard.shardmap import ShardMap
from servers import Clusters

pytestmark = [pytest.mark.matrix, pytest.mark.needs(clusters=2, logical=True)]

ALLOWED = frozenset({"deletes-data"})


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, clusters: Clusters) -> World:
    return lasting_world(tmp_path_factory.mktemp("world"), clusters)


def purge(world: World, what: Layout, ws: str, **more: Any) -> Purged:
    return privacy.purge(world.load(what), ws, allow=ALLOWED, **more)


def states(world: World, ws: str, server: str) -> list[tuple[Any, ...]]:
    query = f"SELECT state FROM parlant_shard.{{}} WHERE workspace_id = '{ws}'"
    return [
        *world.rows(query.format("directory")),
        *world.rows(query.format("placement"), server=server),
    ]


def stored_map(world: World) -> ShardMap:
    return ShardMap.from_data(world.value("SELECT map FROM parlant_shard.map"))


@contextmanager
def writing(world: World, ws: str) -> Iterator[list[int]]:
    """Write rows of a workspace all the time; none may fail. Yields how many were written."""
    server, shard = HOMES[ws]
    stop, failures, written_rows = threading.Event(), [], [0]
    agent = rows(ws)["parlant_agent"][0]["id"]

    def write() -> None:
        try:
            with world.connect(server) as connection:
                connection.execute("SET statement_timeout = '5s'")
                while not stop.is_set():
                    connection.execute(
                        f"INSERT INTO parlant_guideline_{shard} (workspace_id, agent_id, "
                        "condition, action) VALUES (%s, %s, 'late', 'late')",
                        [ws, agent],
                    )
                    connection.execute(
                        f"UPDATE parlant_agent_{shard} SET total_sessions = total_sessions + 1 "
                        "WHERE id = %s",
                        [agent],
                    )
                    written_rows[0] += 1
                    time.sleep(0.005)
        except psycopg.Error as error:
            failures.append(error)

    thread = threading.Thread(target=write)
    thread.start()
    try:
        yield written_rows
    finally:
        stop.set()
        thread.join()
    assert not failures, failures
    with world.connect(server) as connection:
        connection.execute(
            f"DELETE FROM parlant_guideline_{shard} WHERE workspace_id = %s AND action = 'late'",
            [ws],
        )
        connection.execute(
            f"ALTER TABLE parlant_agent_{shard} DISABLE TRIGGER USER",
        )
        connection.execute(
            f"UPDATE parlant_agent_{shard} SET total_sessions = %s, updated_at = %s WHERE id = %s",
            [
                rows(ws)["parlant_agent"][0]["total_sessions"],
                rows(ws)["parlant_agent"][0]["updated_at"],
                agent,
            ],
        )
        connection.execute(f"ALTER TABLE parlant_agent_{shard} ENABLE TRIGGER USER")


def test_all_rows_of_one_workspace_and_no_other(world: World) -> None:
    before = contents(world)
    assert len({table for _, table, _ in of(before, "ws_a")}) >= 22
    others = [ws for ws in HOMES if ws != "ws_a"]
    with writing(world, "ws_b") as count:
        done = purge(world, PRESET, "ws_a")
    assert count[0] > 3
    after = contents(world)
    assert of(after, "ws_a") == {}
    assert of(after, *others) == of(before, *others)
    assert done.total == total(rows("ws_a")) + len(OWNED) + 1
    assert done.state == "purged"
    assert states(world, "ws_a", "east") == [("purged",)] * 2
    # The run is in the journal, and apply has nothing to add.
    assert world.rows(
        "SELECT command, state FROM parlant_shard.run ORDER BY started_at DESC LIMIT 1"
    ) == [("workspace purge", "done")]
    plan = make_plan(world.load(PRESET))
    assert [s.title for s in plan.steps if "ws_a" in s.title or "workspace" in s.title] == []
    assert any("take it out of the file" in n for n in plan.notices)
    assert stored_map(world).purged == ("ws_a",)
    # Again: nothing to do, and it looks.
    again = purge(world, PRESET, "ws_a")
    assert (again.total, again.plan.steps, again.state) == (0, (), "purged")


def test_the_router_refuses_it_and_the_file_gives_it_up(world: World) -> None:
    purge(world, PRESET, "ws_d")
    with Router(world.load(PRESET)) as router:
        with pytest.raises(Unroutable) as refused, router.workspace("ws_d") as connection:
            connection.execute("SELECT * FROM parlant_agent")
        assert refused.value.code == "PS609"
        assert "purged" in refused.value.message
        with router.workspace("ws_c") as connection:
            row = connection.execute("SELECT count(*) FROM parlant_agent").fetchone()
            assert row == (50,)
    # A writer that never heard of it: the workspace's own row is gone.
    with pytest.raises(psycopg.errors.ForeignKeyViolation):
        world.execute(
            "INSERT INTO parlant_agent_shard_1 (workspace_id, created_by, name) "
            "VALUES ('ws_d', 'user1', 'late')"
        )
    assert run(["workspace", "add", str(written(world, PRESET)), "ws_d"]) == Exit.CONFIG
    without = Layout(text=PRESET.text.replace('"ws_d"', '"ws_x"'))
    assert "ws_x" in without.text
    apply(world.load(without))
    assert states(world, "ws_d", "core") == []
    assert stored_map(world).place("ws_d") is None
    with pytest.raises(psycopg.errors.CheckViolation):
        world.execute(
            "INSERT INTO parlant_agent_shard_1 (workspace_id, created_by, name) "
            "VALUES ('ws_d', 'user1', 'late')"
        )
    apply(world.load(PRESET))
    assert stored_map(world).place("ws_d") == "shard_1"
    assert {"ws_d", "ws_x"} & set(stored_map(world).purged) == set()


def test_the_command(world: World, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = str(written(world, PRESET).rename(tmp_path / "topology.yaml"))
    before = contents(world)
    assert run(["workspace", "purge", file, "ws_e", "--yes"]) == Exit.HAZARD
    assert "PS503" in capsys.readouterr().err
    assert run(["workspace", "purge", file, "nobody", "--yes"]) == Exit.CONFIG
    assert "PS324" in capsys.readouterr().err
    assert run(["workspace", "purge", file, "ws_e", "--allow", "deletes-data"]) == Exit.USAGE
    assert run(["workspace", "purge", file, "ws_e", "--allow", "drops-object"]) == Exit.USAGE
    capsys.readouterr()
    assert run(["workspace", "purge", file, "ws_e", "--dry-run", "--output", "json"]) == Exit.DONE
    dry = json.loads(capsys.readouterr().out)
    assert (dry["rows"], dry["dry_run"]) == (total(rows("ws_e")) + len(OWNED) + 1, True)
    assert run(["workspace", "purge", file, "ws_e", "--dry-run"]) == Exit.DONE
    assert "would be deleted" in capsys.readouterr().out
    assert contents(world) == before
    assert states(world, "ws_e", "east") == [("active",)] * 2
    # An archive may hold rows of it: said, and no reason to fail.
    world.execute(
        "INSERT INTO parlant_shard.retired (topology, name, relid, logical, shard, parent, "
        f"lower_bound, upper_bound, state, archive, rows) VALUES ('{world.name}', 'old_one', 0, "
        "'parlant_event', 'shard_2', 'parlant_event_shard_2', '2020-01-01', '2020-02-01', "
        "'archived', 'x/old_one.json', 7)",
        server="east",
    )
    words = ["workspace", "purge", file, "ws_e", "--yes", "--allow", "deletes-data"]
    assert run([*words, "--output", "json"]) == Exit.DONE
    done = json.loads(capsys.readouterr().out)
    assert done["rows"] == dry["rows"]
    assert done["tables"] == dry["tables"]
    assert [a["path"] for a in done["archives"]] == ["x/old_one.json"]
    assert any("x/old_one.json" in n for n in done["notices"])
    assert run(words) == Exit.DONE
    assert "purged before" in capsys.readouterr().out


def test_rows_of_others_that_refer_to_its_own(world: World) -> None:
    """A cascade from a reference row would take a neighbour's row along."""
    agent = rows("ws_b")["parlant_agent"][0]["id"]
    world.execute(
        "INSERT INTO parlant_agent_workflow_shard_3 (workspace_id, agent_id, workflow_id, "
        f"integration_type) VALUES ('ws_b', '{agent}', 'wf of ws_c', 'both')",
        server="east",
    )
    before = contents(world)
    with pytest.raises(ShardError) as refused:
        purge(world, PRESET, "ws_c")
    assert refused.value.code == "PS743"
    assert '"parlant_agent_workflow_shard_3" on server "east"' in refused.value.message
    assert contents(world) == before
    assert states(world, "ws_c", "core") == [("active",)] * 2


SHARED = """
CREATE TABLE workspace (id text PRIMARY KEY);
CREATE TABLE team (
  id int PRIMARY KEY,
  owner text REFERENCES workspace ON DELETE CASCADE,
  above int REFERENCES team ON DELETE CASCADE
);
CREATE TABLE room (id int PRIMARY KEY, team_id int REFERENCES team ON DELETE SET NULL);
CREATE TABLE task (
  id int PRIMARY KEY, workspace_id text NOT NULL REFERENCES workspace ON DELETE CASCADE,
  team_id int REFERENCES team ON DELETE CASCADE, room_id int REFERENCES room ON DELETE CASCADE
);
"""


def test_rows_of_others_behind_a_table_without_the_key(tmp_path: Path, clusters: Clusters) -> None:
    """A cascade goes on over tables that do not say whose their rows are, on every server."""
    world = World(tmp_path, clusters, over=2)
    what = layout(
        {"s1": ["a", "b"], "s2": ("east", ["c"])},
        ddl=SHARED,
        tables={name: {"kind": "reference"} for name in ("workspace", "team", "room")},
    )
    world.apply(what)
    world.execute(
        "INSERT INTO workspace VALUES ('a'), ('b'), ('c')",
        "INSERT INTO team VALUES (1, 'a', NULL), (2, 'b', 1), (3, 'b', 2), (4, 'b', NULL)",
        "INSERT INTO room VALUES (1, 1)",
        "INSERT INTO task_s1 VALUES (1, 'a', 1, NULL), (2, 'b', 4, 1)",
    )
    until(lambda: world.value("SELECT count(*) FROM room", server="east") == 1)
    others = "SELECT array_agg((workspace_id, id)::text ORDER BY id) FROM task_{}"
    for server, table, row in (
        ("core", "task_s1", "(3, 'b', 1, NULL)"),
        ("core", "task_s1", "(3, 'b', 3, NULL)"),
        ("east", "task_s2", "(3, 'c', 3, NULL)"),
    ):
        world.execute(f"INSERT INTO {table} VALUES {row}", server=server)
        with pytest.raises(ShardError) as refused:
            purge(world, what, "a")
        assert refused.value.code == "PS743"
        assert f'in "{table}" on server "{server}"' in refused.value.message
        assert 'in "workspace", over "team"' in refused.value.message
        assert states(world, "a", "core") == [("active",)] * 2
        world.execute(f"DELETE FROM {table} WHERE id = 3", server=server)
    # What is left hangs on nothing that goes: the room loses its team and stays.
    world.execute("INSERT INTO task_s2 VALUES (5, 'c', 4, 1)", server="east")
    assert purge(world, what, "a").rows == {"task": 1, "workspace": 1}
    assert world.rows("SELECT id FROM team") == [(4,)]
    assert world.value(others.format("s1")) == ["(b,2)"]
    assert world.value(others.format("s2"), server="east") == ["(c,5)"]


def test_rows_of_others_behind_a_host_table(tmp_path: Path, clusters: Clusters) -> None:
    """Of which other servers know nothing: the deletes that follow from it come to them."""
    world = World(tmp_path, clusters, over=2)
    ddl = """
    CREATE TABLE member (id int PRIMARY KEY, workspace_id text);
    CREATE TABLE badge (id int PRIMARY KEY, member_id int REFERENCES member ON DELETE CASCADE);
    CREATE TABLE task (
      id int PRIMARY KEY, workspace_id text NOT NULL,
      badge_id int REFERENCES badge ON DELETE CASCADE
    );
    """
    tables = {"member": {"kind": "host"}, "badge": {"kind": "reference"}}
    what = layout({"s1": ["a"], "s2": ("east", ["c"])}, ddl=ddl, tables=tables)
    world.apply(what)
    world.execute(
        "INSERT INTO member VALUES (1, 'a'), (2, 'c')", "INSERT INTO badge VALUES (1, 1), (2, 2)"
    )
    until(lambda: world.value("SELECT count(*) FROM badge", server="east") == 2)
    world.execute("INSERT INTO task_s2 VALUES (1, 'c', 1), (2, 'c', 2)", server="east")
    with pytest.raises(ShardError) as refused:
        purge(world, what, "a")
    assert refused.value.code == "PS743"
    assert 'in "task_s2" on server "east"' in refused.value.message
    assert 'in "member", over "badge"' in refused.value.message
    world.execute("DELETE FROM task_s2 WHERE id = 1", server="east")
    assert purge(world, what, "a").rows == {"member": 1}
    until(lambda: world.value("SELECT count(*) FROM badge", server="east") == 1)
    assert world.rows("SELECT id FROM task_s2", server="east") == [(2,)]


# --- the small schema -----------------------------------------------------------------------------

REFERENCES = "CREATE TABLE workspace (id text PRIMARY KEY, name text);" + SCHEMA.replace(
    "workspace_id text NOT NULL",
    "workspace_id text NOT NULL REFERENCES workspace ON DELETE CASCADE",
)
SMALL = layout(
    {"s1": ["a", "b"], "s2": ("east", ["c", "d"])},
    ddl=REFERENCES,
    tables={"workspace": {"kind": "reference"}, **cut("1 month", 1, retention="3 months")},
)
PLACED = {"a": ("core", "s1"), "b": ("core", "s1"), "c": ("east", "s2"), "d": ("east", "s2")}


@pytest.fixture
def small(tmp_path: Path, clusters: Clusters) -> World:
    """Give two servers with two workspaces each, and partitions of which some are detached."""
    found = World(tmp_path, clusters, over=2)
    found.apply(SMALL)
    with found.connect() as connection:
        for ws in PLACED:
            connection.execute("INSERT INTO workspace VALUES (%s, %s)", [ws, f"of {ws}"])
    until(lambda: found.value("SELECT count(*) FROM workspace", server="east") == 4)
    for ws in PLACED:
        fill(found, ws)
    maintain(found, SMALL, months(now_of(found), 2))
    return found


def until(condition: Callable[[], bool], timeout: float = 30) -> None:
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def fill(world: World, ws: str) -> None:
    server, shard = PLACED[ws]
    world.execute(
        f"INSERT INTO account_{shard} (workspace_id, name) SELECT '{ws}', 'n' || n "
        "FROM generate_series(1, 20) n",
        f"INSERT INTO item_{shard} (workspace_id, account_id, note) "
        f"SELECT '{ws}', id, name FROM account_{shard} WHERE workspace_id = '{ws}'",
        f"INSERT INTO log_{shard} (workspace_id, item_id, at, body) SELECT '{ws}', id, "
        f"now() - make_interval(days => d), '{ws}' FROM item_{shard}, generate_series(0, 80, 20) d "
        f"WHERE workspace_id = '{ws}'",
        server=server,
    )


KILLER = r"""
import sys
from killing import event_at, record_events, until_it_ends
from parlant_shard import privacy
from parlant_shard.topology import load_topology

file, moment, count = sys.argv[1], sys.argv[2], int(sys.argv[3])
topology = load_topology(file)
purging = sys.modules["parlant_shard.privacy.purge"]  # not the function of that name

def attempt(number):
    event = event_at(moment, count)
    record_events(event)
    batch = purging._Purge._batch
    def batching(self, step, size):
        size.size = 30
        found = batch(self, step, size)
        event("batch")
        return found
    purging._Purge._batch = batching
    survey = purging._Site.survey
    def surveying(self):
        found = survey(self)
        event("survey")
        return found
    purging._Site.survey = surveying
    privacy.purge(
        topology,
        "c",
        allow=frozenset({"deletes-data"}),
        listener=lambda name, step, text: event(name),
    )

until_it_ends(attempt)
"""


@pytest.mark.parametrize(
    ("moment", "count", "least"), [("record", 2, 3), ("done", 1, 8), ("batch", 2, 4)]
)
def test_killed_at_every_step(small: World, moment: str, count: int, least: int) -> None:
    before = contents(small, SMALL)
    assert kills(KILLER, written(small, SMALL), moment, count, limit=40) >= least
    after = contents(small, SMALL)
    assert of(after, "c") == {}
    assert of(after, "a", "b", "d") == of(before, "a", "b", "d")
    assert states(small, "c", "east") == [("purged",)] * 2


def test_killed_before_it_is_recorded(small: World) -> None:
    """Killed between emptiness and its record, every time: it is empty, and not settled."""
    before = contents(small, SMALL)
    assert kills(KILLER, written(small, SMALL), "survey", 2, limit=2, ends=False) == 2
    after = contents(small, SMALL)
    assert states(small, "c", "east") == [("purging",)] * 2
    assert of(after, "c") == {}
    assert of(after, "a", "b", "d") == of(before, "a", "b", "d")
    purge(small, SMALL, "c")
    assert states(small, "c", "east") == [("purged",)] * 2


def stray(world: World) -> None:
    """A row of `c` on the shard of `a`: what an unfinished move, or a restored dump, leaves."""
    world.execute(
        "ALTER TABLE account_s1 DROP CONSTRAINT IF EXISTS account_s1_workspace_check",
        "INSERT INTO account_s1 (workspace_id, name) VALUES ('c', 'stray')",
    )


def test_rows_on_other_shards_go_too(small: World) -> None:
    before = contents(small, SMALL)
    stray(small)
    done = purge(small, SMALL, "c")
    assert done.rows["account"] == 21
    after = contents(small, SMALL)
    assert of(after, "c") == {}
    assert of(after, "a", "b", "d") == of(before, "a", "b", "d")


def test_rows_that_come_meanwhile(small: World) -> None:
    """A writer without a map: found by the survey, deleted, and given up when it goes on."""
    small.execute("ALTER TABLE account_s1 DROP CONSTRAINT account_workspace_id_fkey_s1")
    rounds = []

    def once(event: str, step: Any, _text: str) -> None:
        if event == "done" and step.phase == 4 and not rounds:
            rounds.append(step.title)
            stray(small)

    done = purge(small, SMALL, "c", listener=once)
    assert rounds
    assert done.rows["account"] == 21
    assert of(contents(small, SMALL), "c") == {}
    rounds.clear()

    def always(event: str, step: Any, _text: str) -> None:
        if event == "done" and step.phase == 3:
            rounds.append(step.title)
            stray(small)

    stray(small)
    with pytest.raises(ApplyFailed) as refused:
        purge(small, SMALL, "c", listener=always)
    assert refused.value.code == "PS740"
    assert len(rounds) >= 5
    assert states(small, "c", "east") == [("purging",), ("purged",)]
    purge(small, SMALL, "c")
    assert of(contents(small, SMALL), "c") == {}


def test_a_transaction_that_was_open_at_the_close(
    tmp_path: Path, clusters: Clusters, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its rows come with its commit, after every look that does not wait for it."""
    world = World(tmp_path, clusters, over=2)
    what = layout({"s1": ["a"], "s2": ("east", ["b"])}, tables=cut("1 month", 1))
    world.apply(what)
    put = "INSERT INTO account_s2 (workspace_id, name) VALUES ('b', 'late')"
    world.execute(put, server="east")
    with world.connect("east") as late:
        late.execute("BEGIN")
        late.execute(put)
        pid = late.info.backend_pid
        monkeypatch.setattr(sys.modules["parlant_shard.privacy.purge"], "WRITERS", 0.3)
        with pytest.raises(ApplyFailed) as refused:
            purge(world, what, "b")
        assert refused.value.code == "PS749"
        assert f'pid {pid} ("{late.info.user}") wrote to "account_s2"' in refused.value.message
        assert states(world, "b", "core")[:1] == [("purging",)]
        monkeypatch.undo()
        notes = []

        def commit(event: str, _step: Any, text: str) -> None:
            if event == "note" and f"pid {pid}" in text:
                notes.append(text)
                late.execute("COMMIT")

        assert purge(world, what, "b", listener=commit).rows == {"account": 1}
    assert len(notes) == 1
    assert world.value("SELECT count(*) FROM account_s2", server="east") == 0
    # Neither reading nor the rows of others that come and go are waited for.
    with world.connect("east") as reader, world.connect() as other:
        reader.execute("BEGIN")
        reader.execute("SELECT FROM account_s2")
        other.execute("BEGIN")
        other.execute("CREATE TEMP TABLE mine (n int)")
        assert purge(world, what, "a").total == 0


def test_a_view_that_leads_elsewhere(small: World) -> None:
    """What analytics sees must be empty too."""
    small.execute(
        "CREATE TABLE hidden AS SELECT * FROM account_s1 LIMIT 0",
        "INSERT INTO hidden (id, workspace_id, name) VALUES (gen_random_uuid(), 'a', 'x')",
        "CREATE OR REPLACE VIEW account_global AS SELECT id, workspace_id, name FROM account_s1 "
        "UNION ALL SELECT id, workspace_id, name FROM account_s2 "
        "UNION ALL SELECT id, workspace_id, name FROM hidden",
    )
    with pytest.raises(ApplyFailed) as refused:
        purge(small, SMALL, "a")
    assert refused.value.code == "PS741"
    assert '1 in "account_global"' in refused.value.message
    assert states(small, "a", "core") == [("purging",)] * 2


def test_a_server_that_is_down(small: World, monkeypatch: pytest.MonkeyPatch) -> None:
    topology = small.load(SMALL)
    before = contents(small, SMALL)
    address = small.dsns["east"]
    small.dsns["east"] = psycopg.conninfo.make_conninfo(address, port="1")
    broken = small.load(SMALL)
    small.dsns["east"] = address
    with pytest.raises(CannotConnect):
        privacy.purge(broken, "a", allow=ALLOWED)
    assert contents(small, SMALL) == before
    # Lost in the middle: its session ends with the first row that would be deleted.
    cutting = [True]

    def cut_off(event: str, step: Any, _text: str) -> None:
        if cutting and event == "start" and step.phase == 3:
            cutting.clear()
            small.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = "
                "current_database() AND application_name LIKE 'parlant-shard%'",
                server="east",
            )

    with pytest.raises(ApplyFailed):
        privacy.purge(topology, "c", allow=ALLOWED, listener=cut_off)
    assert states(small, "c", "east") == [("purging",)] * 2
    with Router(topology) as router:
        with pytest.raises(Unroutable) as refused, router.workspace("c") as connection:
            connection.execute("SELECT * FROM account")
        assert refused.value.code == "PS609"
    plan = make_plan(topology)
    assert [s for s in plan.steps if "workspace" in s.title] == []
    assert any("has not finished" in n for n in plan.notices)
    privacy.purge(topology, "c", allow=ALLOWED)
    assert of(contents(small, SMALL), "c") == {}


def test_a_detach_that_was_interrupted(small: World) -> None:
    """The rows of a pending partition are invisible through its table, and are the tenant's."""
    (name,) = small.rows(
        "SELECT min(c.relname) FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid "
        "JOIN log_s1 l ON l.tableoid = c.oid WHERE i.inhparent = 'log_s1'::regclass"
    )[0]
    small.execute(
        f"UPDATE pg_inherits SET inhdetachpending = true WHERE inhrelid = '{name}'::regclass"
    )
    hidden = small.value(f"SELECT count(*) FROM {name} WHERE workspace_id = 'a'")
    assert hidden > 0
    file = small.directory / "a.tar"
    done = privacy.export(small.load(SMALL), "a", file=file)
    assert done.rows == 20 + 20 + 100 + 1
    assert purge(small, SMALL, "a").total == done.rows
    assert small.value(f"SELECT count(*) FROM {name} WHERE workspace_id = 'a'") == 0
    assert small.value(f"SELECT count(*) FROM {name} WHERE workspace_id = 'b'") == hidden


# --- foreign keys that hold each other, and tables without an index -------------------------------

KNOTS = """
CREATE TABLE node (
  id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
  workspace_id text NOT NULL,
  parent_id uuid REFERENCES node (id),
  root_id uuid NOT NULL REFERENCES node (id)
);
CREATE TABLE team (id int PRIMARY KEY, workspace_id text NOT NULL, lead_id int);
CREATE TABLE person (
  id int PRIMARY KEY, workspace_id text NOT NULL, team_id int NOT NULL REFERENCES team (id)
);
ALTER TABLE team ADD FOREIGN KEY (lead_id) REFERENCES person (id);
CREATE TABLE heap (workspace_id text NOT NULL, filler text);
CREATE TABLE audited (id int PRIMARY KEY, workspace_id text NOT NULL, replaces int);
ALTER TABLE audited ADD FOREIGN KEY (replaces) REFERENCES audited (id) ON DELETE RESTRICT;
CREATE TABLE page (
  kind text, id int, workspace_id text NOT NULL, parent_kind text, parent_id int,
  PRIMARY KEY (kind, id), FOREIGN KEY (parent_kind, parent_id) REFERENCES page
);
CREATE TABLE machine (id int PRIMARY KEY, workspace_id text, note text);
"""


def test_cycles_and_tables_without_an_index(tmp_path: Path, clusters: Clusters) -> None:
    world = World(tmp_path, clusters)
    what = layout({"s1": ["a", "b"]}, ddl=KNOTS, tables={"machine": {"kind": "host"}})
    world.apply(what)
    for ws, low in (("a", 0), ("b", 5000)):
        world.execute(
            f"WITH r AS (SELECT gen_random_uuid() AS id) INSERT INTO node_s1 (id, workspace_id, "
            f"root_id) SELECT id, '{ws}', id FROM r",
            f"INSERT INTO node_s1 (workspace_id, parent_id, root_id) SELECT '{ws}', id, id "
            f"FROM node_s1, generate_series(1, 500) WHERE workspace_id = '{ws}'",
            f"INSERT INTO team_s1 SELECT n + {low}, '{ws}', NULL FROM generate_series(1, 40) n",
            f"INSERT INTO person_s1 SELECT n + {low}, '{ws}', n % 40 + 1 + {low} "
            "FROM generate_series(1, 900) n",
            f"UPDATE team_s1 SET lead_id = id WHERE workspace_id = '{ws}'",
            f"INSERT INTO heap_s1 SELECT '{ws}', repeat('x', 500) FROM generate_series(1, 9000)",
            f"INSERT INTO audited_s1 SELECT n + {low}, '{ws}', nullif(n + {low} - 1, {low}) "
            "FROM generate_series(1, 300) n",
            # With MATCH SIMPLE a reference is none where one of its columns is NULL.
            f"INSERT INTO page_s1 SELECT 'p', n + {low}, '{ws}', 'p', nullif(n + {low} - 1, {low}) "
            "FROM generate_series(1, 300) n",
            f"INSERT INTO machine VALUES ({low}, '{ws}', 'mine')",
        )
    tables = ("node_s1", "team_s1", "person_s1", "heap_s1", "audited_s1", "page_s1", "machine")

    def count(ws: str) -> list[int]:
        return [
            world.value(f"SELECT count(*) FROM {t} WHERE workspace_id = '{ws}'") for t in tables
        ]

    before = count("b")
    assert before == [501, 40, 900, 9000, 300, 300, 1]
    done = purge(world, what, "a")
    assert count("a") == [0] * 7
    assert count("b") == before
    assert done.total == sum(before)
    titles = " ".join(s.title for s in done.plan.steps)
    assert "in one statement" in titles
    assert "refer to each other" in titles


# --- buckets --------------------------------------------------------------------------------------


def test_with_buckets_it_stays_away_until_it_is_added_again(
    tmp_path: Path, clusters: Clusters
) -> None:
    world = World(tmp_path, clusters)
    what = layout({"s1": {"buckets": "0-2047"}, "s2": {"buckets": "2048-4095"}})
    topology = world.load(what)
    apply(topology)
    placing.place(topology, "acme", "s1")
    with Router(topology) as router:
        with router.workspace("acme") as connection:
            connection.execute("INSERT INTO account (name) VALUES ('one')")
        assert purge(world, what, "acme").total == 1
        until(lambda: router.shard_map.purged == ("acme",))
        with pytest.raises(Unroutable) as refused, router.workspace("acme") as connection:
            connection.execute("INSERT INTO account (name) VALUES ('two')")
        assert refused.value.code == "PS609"
        apply(topology)
        assert [s.title for s in make_plan(topology).steps] == []
        assert stored_map(world).purged == ("acme",)
        # One that nobody ever placed has a home too, and is closed as well.
        assert purge(world, what, "newcomer").total == 0
        assert stored_map(world).purged == ("acme", "newcomer")
        file = str(written(world, what))
        assert run(["workspace", "add", file, "acme"]) == Exit.DONE
        until(lambda: router.shard_map.purged == ("newcomer",))
        with router.workspace("acme") as connection:
            connection.execute("INSERT INTO account (name) VALUES ('three')")
    assert make_plan(topology).steps == ()


@pytest.mark.parametrize(
    ("key_type", "stored", "written_as", "none"),
    [
        (
            "uuid",
            "5e4f0a3c-6b1d-4c8e-9f2a-0d7b3c1e5a90",
            "5E4F0A3C-6B1D-4C8E-9F2A-0D7B3C1E5A90",
            "5e4f",
        ),
        ("bigint", "7", "007", "9223372036854775808"),
    ],
)
def test_the_key_in_another_spelling(
    tmp_path: Path,
    clusters: Clusters,
    capsys: pytest.CaptureFixture[str],
    key_type: str,
    stored: str,
    written_as: str,
    none: str,
) -> None:
    world = World(tmp_path, clusters)
    ddl = f"CREATE TABLE account (id int PRIMARY KEY, workspace_id {key_type} NOT NULL);"
    what = layout({"s1": {"buckets": "0-2047"}, "s2": {"buckets": "2048-4095"}}, ddl=ddl)
    topology = world.load(what)
    apply(topology)
    file = str(written(world, what))
    assert run(["workspace", "add", file, written_as]) == Exit.DONE
    assert world.rows("SELECT workspace_id FROM parlant_shard.directory") == [(stored,)]
    with Router(topology) as router, router.workspace(stored) as connection:
        connection.execute("INSERT INTO account (id) VALUES (1)")
    assert run(["workspace", "show", file, written_as]) == Exit.DONE
    assert f"workspace: {stored}\n" in capsys.readouterr().out
    target = tmp_path / "out.tar"
    assert privacy.export(topology, written_as, file=target).rows == 1
    for command in ("show", "add", "export", "purge"):
        assert run(["workspace", command, file, none]) == Exit.CONFIG
        assert f'workspace "{none}" is no {key_type}' in capsys.readouterr().err
    done = purge(world, what, written_as)
    assert (done.workspace, done.total) == (stored, 1)
    assert stored_map(world).purged == (stored,)
    assert world.rows("SELECT workspace_id, state FROM parlant_shard.directory") == [
        (stored, "purged")
    ]
    # The file lists it as the map spells it, or not at all.
    for listed, hint in ((written_as, f'write it as "{stored}"'), (none, "correct or remove it")):
        with pytest.raises(TopologyError) as refused:
            make_plan(world.load(layout({"s1": [listed]}, ddl=ddl)))
        assert (refused.value.code, refused.value.hint) == ("PS326", hint)


@pytest.mark.parametrize("stage", [Stage.ROWS, Stage.COPIES])
def test_interrupted_between_two_batches(
    small: World, monkeypatch: pytest.MonkeyPatch, stage: Stage
) -> None:
    """Ctrl-C meets a lane at rest: nothing is cancelled, and the step is not done all the same."""
    execute, events = Executor._execute, []

    def interrupt(self: Executor, step: Step) -> None:
        if step.phase == stage:
            self._interrupt()
        execute(self, step)

    def heard(event: str, step: Step | None, _text: str) -> None:
        if step is not None and step.phase == stage:
            events.append(event)

    with monkeypatch.context() as patched:
        patched.setattr(Executor, "_execute", interrupt)
        with pytest.raises(ApplyFailed) as interrupted:
            purge(small, SMALL, "c", listener=heard)
    assert interrupted.value.code == "PS515"
    assert events == ["start"]
    trail = "SELECT result, detail->>'code' FROM parlant_shard.audit ORDER BY id DESC LIMIT 2"
    if stage is Stage.ROWS:
        assert small.rows(trail) == [("failed", "PS515")] * 2
    purge(small, SMALL, "c")
    assert of(contents(small, SMALL), "c") == {}


def test_apply_interrupted_between_two_batches(
    tmp_path: Path, clusters: Clusters, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = World(tmp_path, clusters)
    world.apply(layout({"s1": ["a"]}))
    world.execute("INSERT INTO account_s1 (workspace_id, name) VALUES ('a', 'one')")
    token = SCHEMA.replace("name text\n", "name text, token uuid DEFAULT gen_random_uuid()\n")
    more = layout({"s1": ["a"]}, ddl=token)
    batches = Executor._batches

    def interrupt(self: Executor, step: Step) -> None:
        self._interrupt()
        batches(self, step)

    with monkeypatch.context() as patched:
        patched.setattr(Executor, "_batches", interrupt)
        with pytest.raises(ApplyFailed) as interrupted:
            world.apply(more)
    assert interrupted.value.code == "PS515"
    world.apply(more)
    assert world.value("SELECT count(token) FROM account_s1") == 1


def test_allowed_or_not(small: World) -> None:
    with pytest.raises(HazardNotAllowed) as refused:
        privacy.purge(small.load(SMALL), "a")
    assert refused.value.code == "PS503"
    assert states(small, "a", "core") == [("active",)] * 2
    small.execute("UPDATE parlant_shard.directory SET state = 'purging' WHERE workspace_id = 'a'")
    with pytest.raises(ShardError) as busy:
        placing.forget_purge(small.load(SMALL), "a")
    assert busy.value.code == "PS748"
    declined = privacy.purge(small.load(SMALL), "b", allow=ALLOWED, confirm=lambda _plan: False)
    assert declined.declined
    assert states(small, "b", "core") == [("active",)] * 2
