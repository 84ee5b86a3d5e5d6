"""A killed apply resumes: after every step, before every commit, at random, on both sides.

`Scene` is a small sharded schema on two servers, with rows, in a first and an edited version. By
default the heavy sweeps are sampled; PARLANT_SHARD_TEST_FULL=1 runs all of them.
"""

from __future__ import annotations

import itertools
import os
import random
import re
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psycopg
import pytest
from killing import environment, kills

from parlant_shard import apply as running
from parlant_shard import local, locks, planner
from parlant_shard.errors import Locked, StalePlan
from parlant_shard.topology import load_topology
from servers import Clusters, database_name, scratch_directory

FULL = bool(os.environ.get("PARLANT_SHARD_TEST_FULL"))
# A complete sweep is one test that kills hundreds of runs.
pytestmark = pytest.mark.timeout(3600 if FULL else 300)
ALLOW = frozenset({"drops-object", "deletes-data"})

FIRST = """
CREATE TYPE agent_status AS ENUM ('active', 'paused');
CREATE FUNCTION touch() RETURNS trigger LANGUAGE plpgsql AS
  $$ BEGIN NEW.updated_at = now(); RETURN NEW; END $$;
CREATE TABLE account (id text PRIMARY KEY, name text NOT NULL);
CREATE TABLE agent (
  id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
  workspace_id text NOT NULL,
  owner_id text REFERENCES account (id),
  name text NOT NULL,
  score int NOT NULL DEFAULT 0,
  status agent_status NOT NULL DEFAULT 'active',
  updated_at timestamptz NOT NULL DEFAULT now(),
  UNIQUE (workspace_id, name)
);
CREATE INDEX agent_score_idx ON agent (score);
CREATE TRIGGER agent_touch BEFORE UPDATE ON agent FOR EACH ROW EXECUTE FUNCTION touch();
CREATE TABLE session (
  id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
  agent_id uuid NOT NULL REFERENCES agent (id) ON DELETE CASCADE,
  title text NOT NULL,
  turns int NOT NULL DEFAULT 0
);
CREATE TABLE event (
  id uuid DEFAULT gen_random_uuid(),
  session_id uuid NOT NULL REFERENCES session (id) ON DELETE CASCADE,
  kind text NOT NULL,
  body text NOT NULL,
  created_at timestamptz NOT NULL,
  PRIMARY KEY (id, created_at)
);
CREATE INDEX event_session_idx ON event (session_id);
CREATE TABLE scrap (id int PRIMARY KEY, agent_id uuid REFERENCES agent (id), body text);
"""

# What each edit is for: a label, a column of a reference table, a changed index (plain and
# partitioned), a CHECK and a foreign key over rows, a volatile default, a new index on partitions,
# a dropped table. The topology moves an empty workspace and wants more partitions.
EDITS = (
    ("'paused')", "'paused', 'retired')"),
    ("name text NOT NULL);", "name text NOT NULL, region text);"),
    ("ON agent (score)", "ON agent (score DESC, name)"),
    (
        "  turns int NOT NULL DEFAULT 0\n",
        "  turns int NOT NULL DEFAULT 0,\n"
        "  approver_id text REFERENCES account (id),\n"
        "  CONSTRAINT session_turns_check CHECK (turns >= 0)\n",
    ),
    (
        "  created_at timestamptz NOT NULL,\n  PRIMARY",
        "  created_at timestamptz NOT NULL,\n"
        "  token uuid NOT NULL DEFAULT gen_random_uuid(),\n"
        "  actor_id text REFERENCES account (id),\n"
        "  CONSTRAINT event_kind_check CHECK (kind <> ''),\n  PRIMARY",
    ),
    ("ON event (session_id)", "ON event (session_id, created_at)"),
    (
        "CREATE TABLE scrap (id int PRIMARY KEY, agent_id uuid REFERENCES agent (id), body text);",
        "CREATE INDEX event_kind_idx ON event (kind, created_at);",
    ),
)


def edited(schema: str) -> str:
    for old, new in EDITS:
        assert schema.count(old) == 1, old
        schema = schema.replace(old, new)
    return schema


VERSIONS: Mapping[str, tuple[str, str, str, int]] = {
    # name → schema, workspaces of both shards, partitions beyond the current one
    "first": (FIRST, "[ws1, ws2]", "[acme, globex, empty]", 1),
    "edit": (edited(FIRST), "[ws1, ws2, empty]", "[acme, globex]", 2),
    "third": (
        edited(FIRST)
        .replace("turns >= 0", "turns >= -1")
        .replace("kind <> ''", "kind <> '?'")
        .replace("(kind, created_at)", "(kind, body)")
        .replace("(session_id, created_at)", "(session_id, kind)")
        .replace("(score DESC, name)", "(name, score)"),
        "[ws1, ws2]",
        "[acme, globex]",
        2,  # as many as "edit": partitions that are premade already stay
    ),
}

# The columns that both versions have, in both of whose tables no row may be lost or changed.
CONTENT = {
    "agent": "workspace_id, id, owner_id, name, score, status::text",
    "session": "workspace_id, id, agent_id, title, turns",
    "event": "workspace_id, id, session_id, kind, body, created_at",
}
SHARDS = {"one": 0, "two": 1}


class Scene:
    """Two servers, a directory with the topology in every version, and what tests ask of them."""

    def __init__(self, directory: Path, dsns: list[str], peers: list[str], name: str) -> None:
        self.directory, self.dsns, self.peers, self.name = directory, dsns, peers, name
        directory.mkdir(parents=True, exist_ok=True)
        self.directory.chmod(0o755)
        for version, (schema, one, two, premake) in VERSIONS.items():
            (directory / f"{version}.sql").write_text(schema)
            (directory / f"{version}.yaml").write_text(
                f"version: 1\nname: {name}\nschema: {{files: [{version}.sql]}}\n"
                "key: workspace_id\nservers:\n"
                f'  core: {{dsn: "{dsns[0]}", peer_dsn: "{peers[0]}"}}\n'
                f'  east: {{dsn: "{dsns[1]}", peer_dsn: "{peers[1]}"}}\n'
                "coordinator: core\nshards:\n"
                f"  one: {{server: core, workspaces: {one}}}\n"
                f"  two: {{server: east, workspaces: {two}}}\n"
                "tables:\n  account: {kind: reference}\n"
                "  event: {partition: {by: created_at, every: 1 month, retention: 1 month, "
                f"premake: {premake}}}}}\n"
            )

    def file(self, version: str) -> Path:
        return self.directory / f"{version}.yaml"

    def apply(self, version: str, **options: Any) -> running.Outcome:
        return running.apply(load_topology(self.file(version)), allow=ALLOW, **options)

    def pending(self, version: str) -> list[str]:
        plan = planner.make_plan(load_topology(self.file(version)))
        return [f"{s.server}: {s.title}: {s.sql}" for s in plan.steps]

    @contextmanager
    def connect(self, server: int = 0) -> Iterator[psycopg.Connection[Any]]:
        with psycopg.connect(self.dsns[server], autocommit=True) as connection:
            yield connection

    def fill(self, *, agents: int = 40, sessions: int = 5, events: int = 12) -> None:
        with self.connect() as core:
            core.execute(
                "INSERT INTO account SELECT 'a' || i, 'name ' || i FROM generate_series(1, 20) i"
            )
        self.await_copy(20)
        for shard, workspaces in (("one", ["ws1", "ws2"]), ("two", ["acme", "globex"])):
            with self.connect(SHARDS[shard]) as connection:
                connection.execute(
                    f"INSERT INTO agent_{shard} (workspace_id, owner_id, name, score) "
                    "SELECT w, 'a' || (1 + i % 20), 'agent ' || i, i % 7 "
                    "FROM unnest($1::text[]) w, generate_series(1, $2::int) i".replace(
                        "$1", "%(w)s"
                    )
                    .replace("$2", "%(n)s")
                    .replace("i % ", "i %% "),
                    {"w": workspaces, "n": agents},
                )
                connection.execute(
                    f"INSERT INTO session_{shard} (workspace_id, agent_id, title) "
                    f"SELECT workspace_id, id, 't' || i FROM agent_{shard}, "
                    f"generate_series(1, {sessions}) i"
                )
                connection.execute(
                    f"INSERT INTO event_{shard} (workspace_id, session_id, kind, body, created_at) "
                    "SELECT workspace_id, id, 'k' || i % 3, repeat('b', 40), "
                    "date_trunc('month', now()) + make_interval(days => i % 20 - 9) "
                    f"FROM session_{shard}, generate_series(1, {events}) i"
                )
                connection.execute(
                    f"INSERT INTO scrap_{shard} (workspace_id, id, body) "
                    f"SELECT workspace_id, row_number() OVER (), 'x' FROM agent_{shard}"
                )

    def await_copy(self, rows: int) -> None:
        """Wait until the reference table's copy has that many rows."""
        deadline = time.monotonic() + 30
        with self.connect(1) as east:
            while east.execute("SELECT count(*) FROM account").fetchone() != (rows,):
                assert time.monotonic() < deadline, "the reference rows do not arrive"
                time.sleep(0.05)

    def content(self) -> dict[str, tuple[int, str]]:
        """Count and hash every row that has to survive."""
        found = {}
        for shard, server in SHARDS.items():
            with self.connect(server) as connection:
                connection.execute("SET TimeZone = 'UTC'")
                for table, columns in CONTENT.items():
                    row = connection.execute(
                        f"SELECT count(*), coalesce(sum(hashtextextended("
                        f"ROW({columns})::text, 0)::numeric), 0)::text FROM {table}_{shard}"
                    ).fetchone()
                    assert row is not None
                    found[f"{table}_{shard}"] = row
        for server in (0, 1):
            with self.connect(server) as connection:
                row = connection.execute(
                    "SELECT count(*), sum(hashtextextended(ROW(id, name)::text, 0)::numeric)::text "
                    "FROM account"
                ).fetchone()
                assert row is not None
                found[f"account on {server}"] = row
        return found

    def snapshot(self) -> dict[str, list[str]]:
        """Describe both catalogues without the code under test, names of this scene masked."""
        return {
            f"{server} {what}": sorted(
                re.sub(
                    rf"{re.escape(self.name)}|{re.escape(self.name.replace('-', '_'))}|"
                    + "|".join(re.escape(database_name(d)) for d in self.dsns),
                    "*",
                    row[0],
                )
                for row in rows
            )
            for server in (0, 1)
            for what, rows in self._described(server)
        }

    def _described(self, server: int) -> Iterator[tuple[str, list[Any]]]:
        with self.connect(server) as connection:
            connection.execute("SET search_path = ''; SET TimeZone = 'UTC'")
            for what, query in DESCRIBE.items():
                yield what, connection.execute(query).fetchall()

    def leftovers(self) -> list[str]:
        """Name everything that a finished apply must not leave behind."""
        deadline = time.monotonic() + 20
        # The server closes a session, and drops the slot of a table's copy, a moment afterwards.
        while self._found(CLOSING) and time.monotonic() < deadline:
            time.sleep(0.05)
        return self._found((*LEFTOVERS, *CLOSING))

    def _found(self, queries: Iterable[str]) -> list[str]:
        found = []
        for server in (0, 1):
            with self.connect(server) as connection:
                for query in queries:
                    found += [row[0] for row in connection.execute(query)]
        return found

    def check(self, version: str, content: Mapping[str, Any] | None = None) -> None:
        """Require that the servers are what the version says, as if it had been built directly."""
        assert self.pending(version) == []
        assert self.leftovers() == []
        if content is not None:
            assert self.content() == content
            with self.connect() as core:
                for table in CONTENT:
                    row = core.execute(f"SELECT count(*) FROM {table}_global").fetchone()
                    assert row == (sum(content[f"{table}_{s}"][0] for s in SHARDS),)


DESCRIBE = {
    "relations": "SELECT concat_ws(' ', n.nspname, c.relname, c.relkind, c.relispartition, "
    "pg_get_expr(c.relpartbound, c.oid), c.relreplident, c.reloptions) FROM pg_class c "
    "JOIN pg_namespace n ON n.oid = c.relnamespace "
    "WHERE n.nspname IN ('public', 'parlant_shard')",
    "columns": "SELECT concat_ws(' ', a.attrelid::regclass, a.attname, "
    "format_type(a.atttypid, a.atttypmod), a.attnotnull, a.attidentity, "
    "pg_get_expr(d.adbin, d.adrelid), col_description(a.attrelid, a.attnum)) FROM pg_attribute a "
    "JOIN pg_class c ON c.oid = a.attrelid AND c.relnamespace = 'public'::regnamespace "
    "AND c.relkind IN ('r', 'p', 'f', 'v') "
    "LEFT JOIN pg_attrdef d ON (d.adrelid, d.adnum) = (a.attrelid, a.attnum) "
    "WHERE a.attnum > 0 AND NOT a.attisdropped",
    # NOT NULL rows (18) carry names that depend on the way; the column says the same.
    "constraints": "SELECT concat_ws(' ', conrelid::regclass, conname, contype, convalidated, "
    "conislocal, conparentid <> 0, pg_get_constraintdef(oid)) FROM pg_constraint "
    "WHERE connamespace = 'public'::regnamespace AND contype <> 'n' AND contype <> 't' "
    # The constraint that a partition needs for each partition of a referenced table has a
    # generated name; there is none here.
    "AND conrelid <> 0",
    "indexes": "SELECT concat_ws(' ', pg_get_indexdef(i.indexrelid), i.indisvalid, i.indisready, "
    "h.inhparent::regclass) FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid "
    "AND c.relnamespace = 'public'::regnamespace LEFT JOIN pg_inherits h ON h.inhrelid = c.oid",
    "triggers": "SELECT concat_ws(' ', tgenabled, pg_get_triggerdef(oid)) FROM pg_trigger "
    "WHERE NOT tgisinternal",
    "views": "SELECT concat_ws(' ', c.oid::regclass, pg_get_viewdef(c.oid)) FROM pg_class c "
    "WHERE c.relkind = 'v' AND c.relnamespace = 'public'::regnamespace",
    "functions": "SELECT pg_get_functiondef(oid) FROM pg_proc WHERE pronamespace IN "
    "('public'::regnamespace, 'parlant_shard'::regnamespace) AND prokind = 'f'",
    "enums": "SELECT concat_ws(' ', enumtypid::regtype, string_agg(enumlabel, ',' "
    "ORDER BY enumsortorder)) FROM pg_enum GROUP BY enumtypid",
    "foreign tables": "SELECT concat_ws(' ', ftrelid::regclass, ftoptions) FROM pg_foreign_table",
    "publications": "SELECT concat_ws(' ', p.pubname, r.prrelid::regclass, "
    "(SELECT string_agg(a.attname, ',' ORDER BY a.attname) FROM pg_attribute a "
    "WHERE a.attrelid = r.prrelid AND a.attnum = ANY (r.prattrs))) FROM pg_publication p "
    "LEFT JOIN pg_publication_rel r ON r.prpubid = p.oid",
    "subscriptions": "SELECT concat_ws(' ', subname, subenabled, subslotname, subpublications) "
    "FROM pg_subscription WHERE subdbid = (SELECT oid FROM pg_database "
    "WHERE datname = current_database())",
    "subscribed": "SELECT concat_ws(' ', srrelid::regclass, srsubstate IN ('r', 's')) "
    "FROM pg_subscription_rel",
    "slots": "SELECT slot_name::text FROM pg_replication_slots WHERE database = current_database() "
    "AND NOT temporary AND slot_name !~ '^pg_\\d+_sync_'",
    "objects": "SELECT concat_ws(' ', kind, name, logical, shard) FROM parlant_shard.object",
    "placements": "SELECT concat_ws(' ', workspace_id, shard, state) FROM parlant_shard.placement",
    "directory": "SELECT concat_ws(' ', workspace_id, shard, state) FROM parlant_shard.directory",
    "shards": "SELECT concat_ws(' ', shard, server) FROM parlant_shard.shard",
}

LEFTOVERS = (
    "SELECT 'INVALID index ' || indexrelid::regclass::text FROM pg_index "
    "WHERE NOT (indisvalid AND indisready)",
    "SELECT 'NOT VALID constraint ' || conname FROM pg_constraint "
    "WHERE NOT convalidated AND connamespace = 'public'::regnamespace",
    "SELECT 'temporary name ' || oid::regclass::text FROM pg_class "
    "WHERE relname ~ '(_new|_ccnew|_ccold)\\d*$'",
    "SELECT 'temporary constraint ' || conname FROM pg_constraint "
    "WHERE conname ~ '_new$|_not_null$' AND contype = 'c'",
    "SELECT 'pending detach ' || inhrelid::regclass::text FROM pg_inherits WHERE inhdetachpending",
    "SELECT 'scratch database ' || datname::text FROM pg_database "
    "WHERE datname ~ '^parlant_shard_scratch_' "
    "AND split_part(datname, '_', 4)::bigint < extract(epoch FROM now()) - 900",
)

CLOSING = (
    "SELECT 'session ' || application_name FROM pg_stat_activity "
    "WHERE datname = current_database() AND application_name LIKE 'parlant-shard %'",
    "SELECT 'slot of a copy ' || slot_name FROM pg_replication_slots "
    "WHERE database = current_database() AND slot_name ~ '^pg_\\d+_sync_'",
)


MakeScene = Callable[..., Scene]


@pytest.fixture
def make_scene(clusters: Clusters, tmp_path: Path) -> MakeScene:
    """Give a function that makes a scene on two fresh databases."""
    made: list[Scene] = []

    def make(name: str = "crash") -> Scene:
        hosts = [clusters.get(0), clusters.get(1)]
        dsns = [host.new_database(f"t{i}") for i, host in enumerate(hosts)]
        peers = [host.peer_dsn(dsn) for host, dsn in zip(hosts, dsns, strict=True)]
        # Slots belong to the whole cluster, and so every scene has a name of its own.
        unique = database_name(dsns[0]).rpartition("_")[2]
        scene = Scene(tmp_path / f"{name}{len(made)}", dsns, peers, f"{name}-{unique}")
        made.append(scene)
        return scene

    return make


@pytest.fixture
def scene(make_scene: MakeScene) -> Scene:
    """Give a scene with nothing applied."""
    return make_scene()


@pytest.fixture
def filled(scene: Scene) -> Scene:
    """Give a scene with the first version applied, and rows in it."""
    scene.apply("first")
    scene.fill()
    return scene


_direct: dict[tuple[str, str], dict[str, list[str]]] = {}


@pytest.fixture
def direct(make_scene: MakeScene, clusters: Clusters) -> Callable[[str], dict[str, list[str]]]:
    """Give a function: the catalogues of a version that was applied to empty databases."""

    def build(version: str) -> dict[str, list[str]]:
        key = (version, clusters.get(0).admin_dsn)
        if key not in _direct:
            reference = make_scene("direct")
            reference.apply(version)
            _direct[key] = reference.snapshot()
        return _direct[key]

    return build


def differences(found: Mapping[str, list[str]], expected: Mapping[str, list[str]]) -> list[str]:
    """List what is too much (+) and what is missing (-)."""
    result = []
    for what in expected:
        have, want = Counter(found[what]), Counter(expected[what])
        result += [f"+ {what}: {row}" for row in sorted((have - want).elements())]
        result += [f"- {what}: {row}" for row in sorted((want - have).elements())]
    return result


# --- killing --------------------------------------------------------------------------------------

# The count-th event of a kind ends an attempt: 'start' and 'done' of a step, or 'record'.
KILLER = r"""
import sys
import parlant_shard.apply as running
from killing import event_at, record_events, until_it_ends
from parlant_shard.topology import load_topology

file, moment, counts = sys.argv[1], sys.argv[2], [int(count) for count in sys.argv[3].split(",")]
topology = load_topology(file)

def attempt(number):
    event = event_at(moment, counts[min(number, len(counts) - 1)])
    record_events(event)
    running.apply(
        topology,
        allow=frozenset({"drops-object", "deletes-data"}),
        listener=lambda name, step, text: event(name),
    )

until_it_ends(attempt)
"""


def killed(scene: Scene, version: str, moment: str, counts: str, attempts: int = 400) -> int:
    """Apply again and again, each time killed at an event; return how often until it was done."""
    return kills(
        KILLER,
        scene.file(version),
        moment,
        counts,
        limit=attempts,
        ends=attempts > 1,
        timeout=3000 if FULL else 280,
    )


def start(scene: Scene, version: str | Path, *arguments: str) -> subprocess.Popen[str]:
    file = version if isinstance(version, Path) else scene.file(version)
    allow = [word for hazard in sorted(ALLOW) for word in ("--allow", hazard)]
    return subprocess.Popen(
        [sys.executable, "-m", "parlant_shard", "apply", str(file), "--yes", *allow, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(),
        cwd=scene.directory,
    )


def finish(process: subprocess.Popen[str], code: int = 0, timeout: float = 120) -> str:
    """Wait for a process, require its exit code, return what it said."""
    out, err = process.communicate(timeout=timeout)
    assert process.returncode == code, out[-1000:] + err[-3000:]
    return out + err


def run(scene: Scene, version: str | Path, *arguments: str, code: int = 0) -> str:
    return finish(start(scene, version, *arguments), code)


def until(condition: Callable[[], Any], what: str, timeout: float = 30) -> Any:
    """Ask again until there is an answer."""
    deadline = time.monotonic() + timeout
    while not (found := condition()):
        assert time.monotonic() < deadline, f"never: {what}"
        time.sleep(0.02)
    return found


# --- every step boundary --------------------------------------------------------------------------


def stride(moment: str) -> str:
    """Return at which event of each attempt to kill: the first in a full run, else a later one."""
    if FULL:
        # Who is always killed right behind a fill of a column plans it again each time (there is
        # nothing left to fill, but its mark is removed by a step of its own): go on after a while.
        return "1" * 120 + "3" if moment == "done" else "2" * 120 + "5"
    return "3" if moment == "done" else "5"


@pytest.mark.parametrize("moment", ["done", "record"])
def test_first_apply_killed_at_every_step(
    scene: Scene, direct: Callable[[str], dict[str, list[str]]], moment: str
) -> None:
    steps = len(scene.pending("first"))
    # 'done' of the first step: one step of progress each time. 'record' of the second: the same,
    # and that second one was about to commit.
    assert killed(scene, "first", moment, stride(moment)) >= steps // (2 if FULL else 8)
    scene.check("first")
    assert differences(scene.snapshot(), direct("first")) == []


@pytest.mark.parametrize("moment", ["done", "record"])
def test_edit_killed_at_every_step(
    filled: Scene, direct: Callable[[str], dict[str, list[str]]], moment: str
) -> None:
    content = filled.content()
    steps = len(filled.pending("edit"))
    assert steps > 60
    assert killed(filled, "edit", moment, stride(moment)) >= steps // (3 if FULL else 12)
    filled.check("edit", content)
    assert differences(filled.snapshot(), direct("edit")) == []


def sample(version: str, count: int) -> list[int]:
    """Return step numbers to be killed at; all of them in a full run."""
    total = {"first": 42, "edit": 140}[version]
    if FULL:
        return list(range(1, total))
    return sorted(random.Random(f"{version} {count}").sample(range(2, total - 5), count))


@pytest.mark.parametrize("moment", ["start", "record"])
@pytest.mark.parametrize("number", sample("first", 2))
def test_first_apply_killed_once(
    scene: Scene, direct: Callable[[str], dict[str, list[str]]], number: int, moment: str
) -> None:
    killed(scene, "first", moment, str(number), attempts=1)
    scene.apply("first")
    scene.check("first")
    assert differences(scene.snapshot(), direct("first")) == []


@pytest.mark.parametrize("number", sample("edit", 3))
def test_edit_killed_once(
    filled: Scene, direct: Callable[[str], dict[str, list[str]]], number: int
) -> None:
    content = filled.content()
    killed(filled, "edit", "record", str(number), attempts=1)
    filled.apply("edit")
    filled.check("edit", content)
    assert differences(filled.snapshot(), direct("edit")) == []


@pytest.mark.parametrize("number", sample("edit", 5))
def test_change_of_mind_after_a_kill(
    filled: Scene, direct: Callable[[str], dict[str, list[str]]], number: int
) -> None:
    """What a killed run left half done is no use to the next topology, and goes."""
    content = filled.content()
    killed(filled, "edit", "start", str(number), attempts=1)
    filled.apply("third")
    filled.check("third", content)
    assert differences(filled.snapshot(), direct("third")) == []


@pytest.mark.parametrize("number", range(2, 70) if FULL else (12, 14, 16, 58))
def test_undone_after_a_kill(filled: Scene, number: int) -> None:
    """Back to the first version, as far as PostgreSQL lets one go back (labels stay)."""
    content = filled.content()
    before = filled.snapshot()
    killed(filled, "edit", "start", str(number), attempts=1)
    filled.apply("first")
    filled.check("first", content)
    found = differences(filled.snapshot(), before)
    assert [line for line in found if " enums: " not in line] == []


def test_the_same_edit_twice(filled: Scene, direct: Callable[[str], dict[str, list[str]]]) -> None:
    """A second change of the same objects does not stumble over the names of the first."""
    content = filled.content()
    filled.apply("edit")
    filled.apply("third")
    filled.check("third", content)
    assert differences(filled.snapshot(), direct("third")) == []
    filled.apply("edit")
    filled.check("edit", content)
    assert differences(filled.snapshot(), direct("edit")) == []


# --- random moments -------------------------------------------------------------------------------


def kill_after(process: subprocess.Popen[str], lines: int, pause: float = 0) -> bool:
    """Kill a run when it reported so many steps; say whether it was still running."""
    assert process.stderr is not None
    for line in process.stderr:
        lines -= bool(re.match(r"\[ *\d+/", line))
        if lines <= 0:
            break
    time.sleep(pause)
    alive = process.poll() is None
    process.kill()
    process.communicate()
    return alive


def test_killed_at_random_moments(
    filled: Scene, direct: Callable[[str], dict[str, list[str]]]
) -> None:
    content = filled.content()
    chance = random.Random(4711)
    kills = 0
    for _ in range(40 if FULL else 10):
        process = start(filled, "edit")
        # Before the first report too: while it plans, and while it takes the lock.
        if chance.random() < 0.3:
            time.sleep(chance.uniform(0.2, 1.2))
            process.kill()
            process.communicate()
            kills += 1
        else:
            kills += kill_after(process, chance.randint(1, 12), chance.uniform(0, 0.02))
    assert kills >= (10 if FULL else 5)  # a fast machine may be done before the tenth
    run(filled, "edit")
    filled.check("edit", content)
    assert differences(filled.snapshot(), direct("edit")) == []


def test_killed_while_an_index_build_waits(
    filled: Scene, direct: Callable[[str], dict[str, list[str]]]
) -> None:
    """The statement outlives the process for a moment and leaves an INVALID index behind."""
    content = filled.content()
    with filled.connect() as other, filled.connect() as eye:
        other.execute("BEGIN ISOLATION LEVEL REPEATABLE READ")
        other.execute("SELECT 1")
        for _ in range(2):
            process = start(filled, "edit")
            until(
                lambda: (
                    eye.execute(
                        "SELECT FROM pg_stat_activity WHERE query LIKE 'CREATE INDEX CONCURR%' "
                        "AND wait_event_type = 'Lock' AND datname = current_database()"
                    ).fetchone()
                    is not None
                ),
                "an index build that waits",
            )
            time.sleep(0.2)
            process.kill()
            process.communicate()
        row = eye.execute(
            "SELECT count(*) FROM pg_index WHERE NOT indisvalid AND indexrelid::regclass::text "
            "LIKE 'agent%'"
        ).fetchone()
        assert row == (1,)
        process = start(filled, "edit")
        time.sleep(1)
        other.execute("ROLLBACK")
    finish(process)
    filled.check("edit", content)
    assert differences(filled.snapshot(), direct("edit")) == []


# --- the server's side ----------------------------------------------------------------------------


def test_backends_terminated_at_random(
    filled: Scene, direct: Callable[[str], dict[str, list[str]]]
) -> None:
    content = filled.content()
    chance = random.Random(815)
    done, ended = threading.Event(), [0]

    def terminate() -> None:
        connections = [psycopg.connect(dsn, autocommit=True) for dsn in filled.dsns]
        while not done.wait(chance.uniform(0.02, 0.15)):
            row = chance.choice(connections).execute(
                "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE "
                "application_name LIKE 'parlant-shard apply%' AND datname = current_database()"
            )
            ended[0] += row.fetchone()[0]  # type: ignore[index]  # count() always has a row
        for connection in connections:
            connection.close()

    thread = threading.Thread(target=terminate)
    thread.start()
    try:
        for _ in range(25):
            process = start(filled, "edit")
            out, err = process.communicate(timeout=120)
            assert process.returncode in {0, 1}, out + err
            assert "PS999" not in err, err
            if process.returncode == 0 or ended[0] > 30:
                break
    finally:
        done.set()
        thread.join()
    assert ended[0] >= 1
    run(filled, "edit")
    filled.check("edit", content)
    assert differences(filled.snapshot(), direct("edit")) == []


def test_lost_lock_stops_the_run(filled: Scene) -> None:
    """Without its lock a run is not alone any more, and so it must not take another step."""
    after: list[str] = []
    lost = threading.Event()

    def listener(event: str, step: Any, _text: str) -> None:
        if event == "start" and lost.is_set():
            after.append(step.title)
        if event == "done" and step.phase >= 45 and not lost.is_set():
            with filled.connect() as core:
                core.execute(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                    "WHERE application_name LIKE 'parlant-shard lock%' "
                    "AND datname = current_database()"
                )
            lost.set()

    with pytest.raises(running.ShardError):
        filled.apply("edit", listener=listener)
    assert len(after) <= 2, after  # one for each server
    filled.apply("edit")
    filled.check("edit")


def test_server_stops_in_the_middle(clusters: Clusters, tmp_path: Path) -> None:
    """`pg_ctl stop -m immediate` of one server, which then recovers."""
    if (os.environ.get("PARLANT_SHARD_TEST_PROVIDER") or "embedded") != "embedded":
        pytest.skip("only a server of our own can be stopped")
    scratch = scratch_directory()
    try:
        local.up(scratch / "east")
        dsns = [clusters.get(0).new_database("t0"), local.conninfo(scratch / "east")]
        name = f"stops-{database_name(dsns[0]).rpartition('_')[2]}"
        scene = Scene(tmp_path / "stops", dsns, dsns, name)
        scene.apply("first")
        scene.fill()
        content = scene.content()
        for lines in (4, 40):
            process = start(scene, "edit")
            assert process.stderr is not None
            for _ in range(lines):
                process.stderr.readline()
            server = local.status(scratch / "east")
            assert server is not None
            assert server.pid is not None
            os.kill(server.pid, signal.SIGQUIT)
            said = process.communicate(timeout=120)[1]
            assert process.returncode in {1, 5}, said
            assert "east" in said
            assert "PS999" not in said
            local.up(scratch / "east")
        run(scene, "edit")
        scene.check("edit", content)
    finally:
        local.remove(scratch / "east")
        with suppress(OSError):
            scratch.rmdir()


# --- saved plans ----------------------------------------------------------------------------------


@pytest.fixture
def saved(filled: Scene) -> Path:
    """Give a saved plan of the edit."""
    file = filled.directory / "plan.json"
    subprocess.run(
        [sys.executable, "-m", "parlant_shard", "plan", filled.file("edit"), "-o", file],
        env=environment(),
        capture_output=True,
        check=True,
    )
    return file


def test_saved_plan_resumes(
    filled: Scene, saved: Path, direct: Callable[[str], dict[str, list[str]]]
) -> None:
    content = filled.content()
    for lines in (1, 9, 25, 20, 10):
        assert kill_after(start(filled, saved), lines)
    run(filled, saved)
    filled.check("edit", content)
    assert differences(filled.snapshot(), direct("edit")) == []


class _Stopped(BaseException):
    """Ends a run between two steps, as a kill does there."""


def stop_after(steps: int) -> Callable[..., None]:
    """Return a listener that ends the run when so many steps are done."""
    done = itertools.count(1)

    def listener(event: str, step: object, _text: str) -> None:
        if event == "done" and step is not None and next(done) >= steps:
            raise _Stopped

    return listener


def test_saved_plan_resumes_from_wherever_it_was_stopped(filled: Scene) -> None:
    """The run that made a partition stops before a foreign key: the partition needs it as well."""
    topology = load_topology(filled.file("edit"))
    plan = planner.make_plan(topology)
    outside = 0
    for round_ in range(120):
        left = planner.make_plan(topology).steps
        outside += bool({s.id for s in left} - {s.id for s in plan.steps})
        try:
            running.apply(topology, saved=plan, allow=ALLOW, listener=stop_after(2 + round_ % 4))
        except _Stopped:
            continue
        break
    filled.check("edit")
    assert outside, "no run was resumed with a step that the plan does not have"


@pytest.mark.parametrize(
    "by_hand",
    [
        "ALTER TABLE session_two ENABLE ROW LEVEL SECURITY",
        "ALTER TABLE session_two ADD CONSTRAINT session_turns_check_two CHECK (turns > 7) "
        "NOT VALID",
        "CREATE INDEX agent_score_idx_two_new ON agent_two (name)",
        "ALTER TABLE session_two ALTER turns DROP NOT NULL",
        "ALTER TABLE account DISABLE TRIGGER parlant_shard_cascade",
        "DROP FUNCTION touch() CASCADE",
    ],
)
def test_a_change_by_hand_stops_the_resume_of_a_saved_plan(filled: Scene, by_hand: str) -> None:
    """The step that would undo it names only objects of the plan, and nobody approved it."""
    topology = load_topology(filled.file("edit"))
    plan = planner.make_plan(topology)
    with pytest.raises(_Stopped):
        running.apply(topology, saved=plan, allow=ALLOW, listener=stop_after(8))
    with filled.connect(1) as east:
        east.execute(by_hand)
    before = filled.snapshot()
    with pytest.raises(StalePlan, match="the plan lacks") as caught:
        running.apply(topology, saved=plan, allow=ALLOW)
    assert caught.value.code == "PS502"
    assert filled.snapshot() == before


def test_saved_plan_is_stale_when_servers_changed(filled: Scene, saved: Path) -> None:
    with filled.connect(1) as east:
        east.execute("ALTER TABLE session_two ADD COLUMN surprise int")
    before = filled.snapshot()
    assert "PS502" in run(filled, saved, code=7)
    assert filled.snapshot() == before


def test_begun_plan_is_stale_when_servers_changed(filled: Scene, saved: Path) -> None:
    """A change by somebody else is no part of what was approved, not even of a begun plan."""
    assert kill_after(start(filled, saved), 30)
    with filled.connect(1) as east:
        east.execute("CREATE INDEX by_hand ON session_two (title)")
    assert "PS502" in run(filled, saved, code=7)
    with filled.connect(1) as east:
        east.execute("DROP INDEX by_hand")
    run(filled, saved)
    filled.check("edit")


def test_saved_plan_is_stale_when_the_file_changed(filled: Scene, saved: Path) -> None:
    file = filled.file("edit")
    file.write_text(file.read_text() + "# an afterthought\n")
    assert "PS502" in run(filled, saved, code=7)


def test_finished_plan_is_stale(filled: Scene, saved: Path) -> None:
    run(filled, saved)
    assert "PS502" in run(filled, saved, code=7)
    assert "nothing to do" in run(filled, "edit")


# --- two at once ----------------------------------------------------------------------------------


@contextmanager
def blocked(scene: Scene) -> Iterator[None]:
    """Hold a lock that a writer has, so that a run cannot get past its first changes."""
    with scene.connect(1) as other:
        other.execute("BEGIN")
        other.execute("LOCK TABLE agent_two IN ROW EXCLUSIVE MODE")
        yield
        other.execute("ROLLBACK")


def holder(scene: Scene) -> Any:
    with scene.connect() as core:
        return core.execute(
            "SELECT FROM pg_stat_activity a JOIN pg_locks l USING (pid) "
            "WHERE l.locktype = 'advisory' AND application_name LIKE 'parlant-shard lock%' "
            "AND a.datname = current_database()"
        ).fetchone()


def test_two_at_once(filled: Scene) -> None:
    with blocked(filled):
        first = start(filled, "edit")
        until(lambda: holder(filled) is not None, "a run with the lock")
        began = time.monotonic()
        said = run(filled, "edit", code=6)
        assert time.monotonic() - began < 15
        assert "PS501" in said
        with pytest.raises(Locked):
            filled.apply("first")
        first.kill()
        first.communicate()
        # Not a second passes between the death and the next run: that is no live run.
        second = start(filled, "edit")
        until(lambda: holder(filled) is not None, "the next run with the lock")
    finish(second)
    filled.check("edit")


def test_lock_of_a_holder_that_was_just_killed(filled: Scene) -> None:
    """The server notices a death a moment later: until then the lock is nobody's."""
    with filled.connect() as core:
        core.execute(
            "SELECT pg_advisory_lock(hashtextextended(%s, 0))", [f"parlant-shard {filled.name}"]
        )
        letting_go = threading.Timer(1.0, core.close)
        letting_go.start()
        filled.apply("edit")
        letting_go.join()
    filled.check("edit")


STOPPER = """
import os, signal, sys
import parlant_shard.apply as running
from parlant_shard.topology import load_topology

def listener(event, step, text):
    if event == "start" and "create function touch()" in step.title and step.server == "core":
        os.kill(os.getpid(), signal.SIGSTOP)

running.apply(load_topology(sys.argv[1]), listener=listener)
"""


def test_stopped_holder_loses_the_lock(
    scene: Scene, direct: Callable[[str], dict[str, list[str]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A holder without heartbeat is taken for dead; when it wakes up, it does nothing more."""
    stopped = subprocess.Popen(
        [sys.executable, "-c", STOPPER, str(scene.file("first"))],
        env=environment(),
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        until(
            lambda: "\nState:\tT" in Path(f"/proc/{stopped.pid}/status").read_text(),
            "a stopped process",
        )
        with pytest.raises(Locked):
            scene.apply("first")  # it may only be slow
        monkeypatch.setattr(locks, "SILENCE", 1.0)
        for function in (
            running.run_lock.__wrapped__,  # type: ignore[attr-defined]  # under contextmanager
            running.clear_dead_sessions,
        ):
            monkeypatch.setitem(function.__kwdefaults__, "wait", 1.0)
        time.sleep(1.5)
        scene.apply("first")
        before = scene.snapshot()
        steps = journaled(scene)
    finally:
        stopped.send_signal(signal.SIGCONT)
    _, said = stopped.communicate(timeout=60)
    assert stopped.returncode != 0
    assert "ShardError" in said or "parlant_shard.errors" in said, said
    assert journaled(scene) == steps
    assert scene.snapshot() == before
    scene.check("first")


def journaled(scene: Scene) -> int:
    total = 0
    for server in (0, 1):
        with scene.connect(server) as connection:
            row = connection.execute("SELECT count(*) FROM parlant_shard.step").fetchone()
            assert row is not None
            total += row[0]
    return total
