"""The main job end to end on three embedded servers, from the first plan to the last audit.

Every sentence that is printed as `ok` was checked; the first one that is not true ends the demo
with an error. The servers are stopped whatever happens.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import textwrap
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import FrameType
from typing import Any, LiteralString

import psycopg
from psycopg.sql import SQL, Identifier

from parlant_shard import db, local, render
from parlant_shard.apply import application_name, apply
from parlant_shard.demo import data, later
from parlant_shard.errors import ShardError
from parlant_shard.names import suffixed
from parlant_shard.plan import Plan
from parlant_shard.planner import make_plan
from parlant_shard.shardmap import shard_of
from parlant_shard.status import workspaces
from parlant_shard.topology import Topology, load_topology

Say = Callable[[str], None]

SERVERS = ("core", "east", "west")
WAIT = 30.0  # seconds for something that takes one as a rule
_FARTHEST = timedelta(days=3653)

_TOPOLOGY = """\
version: 1
name: demo
schema: {{preset: parlant}}
key: workspace_id
servers:
  core: {{embedded: servers/core}}
  east: {{embedded: servers/east}}
  west: {{embedded: servers/west}}
coordinator: core
shards:
{shards}
tables:
  user: {{kind: reference}}
  workspace: {{kind: reference}}
  parlant_event:
    partition:
      {{by: created_at, every: 1 month, premake: 2, retention: {kept}, archive: archive/}}
{indexes}"""

Shards = Mapping[str, tuple[str, tuple[str, ...]]]

_FIRST: Shards = {
    "shard_1": ("core", ("acme", "globex")),
    "shard_2": ("east", ("initech", "umbrella")),
    "shard_3": ("west", ("hooli", "stark")),
}
# umbrella has left, wayne is new, and stark, which has no rows yet, moves to a shard of its own.
_SECOND: Shards = {
    "shard_1": ("core", ("acme", "globex", "wayne")),
    "shard_2": ("east", ("initech",)),
    "shard_3": ("west", ("hooli",)),
    "shard_4": ("core", ("stark",)),
}
_SECOND_INDEX = "parlant_session_title_idx: {on: parlant_session, columns: [workspace_id, title]}"
_THIRD: Shards = {**_SECOND, "shard_5": ("east", ("tyrell",))}
_KILLED_INDEX = "parlant_session_referrer_idx"
_THIRD_INDEX = f"{_KILLED_INDEX}: {{on: parlant_session, columns: [workspace_id, referrer]}}"

# What of a long plan is shown: the first step of each of these.
_SAMPLES = (
    'create table "parlant_agent_shard_2"',
    'create partition "parlant_event_shard_2',
    'create subscription "parlant_shard_demo_east"',
    'create foreign table "parlant_agent_shard_2"',
    'create federated view "parlant_agent_global"',
    "place ",
)
_CHANGE_SAMPLES = (
    'add check "parlant_agent_shard_1',
    'validate check "parlant_agent_shard_1',
    'put the new check in the place of "parlant_agent_shard_1',
    'create table "parlant_agent_shard_4"',
    'build index "parlant_session_title_idx_shard_2"',
)

Loads = dict[str, data.Loaded]


def demo(keep: Path | None, say: Say, *, now: datetime | None = None) -> None:
    """Run the story; `say` gets its lines. Raises ShardError PS911 where a claim does not hold.

    `keep` is a directory, new or empty, that holds the topology and the data afterwards. Without it
    everything is removed. Raises ShardError PS910 where it holds something already.

    With `now` (UTC, without a zone) the rows are as old, and the later months begin, as if it were
    then. Raises ShardError PS912 for a moment that has passed or is more than ten years ahead.
    """
    _check_moment(now)
    with ExitStack() as stack:
        stack.enter_context(_termination_as_interrupt())
        directory = stack.enter_context(_directory(keep))
        story = _Story(directory, say, now)
        stack.callback(story.stop, keep is not None)
        story.tell()
        stack.close()
        story.end(keep)


def _check_moment(now: datetime | None) -> None:
    today = datetime.now(UTC).replace(tzinfo=None)
    if now is not None and not today - timedelta(days=1) <= now <= today + _FARTHEST:
        raise ShardError(
            f"the demo cannot begin at {now.isoformat()}Z: its partitions lead from today into "
            "the future, one for each month",
            code="PS912",
            hint="give --now a moment from today on, at most ten years ahead",
        )


@contextmanager
def _directory(keep: Path | None) -> Iterator[Path]:
    if keep is None:
        with tempfile.TemporaryDirectory(prefix="parlant-shard-demo-") as made:
            yield Path(made)
        return
    if keep.exists() and (not keep.is_dir() or any(keep.iterdir())):
        raise ShardError(
            f'"{keep}" is not an empty directory',
            code="PS910",
            hint="name a new directory for the demo to keep its files in",
        )
    keep.mkdir(parents=True, exist_ok=True)
    yield keep.absolute()


@contextmanager
def _termination_as_interrupt() -> Iterator[None]:
    """Let SIGTERM end the demo as Ctrl-C does, so that the servers are stopped then too."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(_number: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


class _Story:
    """What the chapters share: the files, the rows that were loaded, and the count of checks."""

    def __init__(self, directory: Path, say: Say, now: datetime | None) -> None:
        self.now = now  # None: the clock's
        self.directory = directory
        self.file = directory / "topology.yaml"
        self.say = say
        self.loads: Loads = {}
        self.told: set[str] = set()  # notices come with every plan; once is enough
        self.chapter = 0
        self.checks = 0
        self.began = time.monotonic()

    def tell(self) -> None:
        for chapter in (
            self.servers,
            self.first_plan,
            self.load,
            self.read,
            self.refusals,
            self.deletes,
            self.change,
            self.kill_and_resume,
            self.route,
            self.maintain,
            self.verify,
            self.look,
        ):
            chapter()

    # --- telling and checking ---------------------------------------------------------------------

    def heading(self, text: str) -> None:
        self.chapter += 1
        self.say(f"\n{self.chapter}. {text}  [{time.monotonic() - self.began:.1f} s]")

    def line(self, text: str) -> None:
        self.say(f"   {text}")

    def check(self, holds: bool, claim: str) -> None:
        """State a claim that was checked. Raises PS911 where it does not hold."""
        if not holds:
            raise ShardError(
                f"the demo expected otherwise: {claim}",
                code="PS911",
                hint="this is a defect of parlant-shard; run it again with `--keep DIR`, and "
                "report what DIR/servers/*/log says",
            )
        self.checks += 1
        self.line(f"ok: {claim}")

    def until(self, question: Callable[[], bool], claim: str) -> None:
        """Ask until it is so, then state how long that took."""
        began = time.monotonic()
        while not question():
            if time.monotonic() - began > WAIT:
                self.check(False, f"{claim} within {WAIT:.0f} s")
            time.sleep(0.05)
        self.check(True, f"{claim} ({time.monotonic() - began:.1f} s)")

    def moment(self) -> datetime:
        """The present of the story, in UTC without a zone."""
        return self.now or datetime.now(UTC).replace(tzinfo=None, microsecond=0)

    def end(self, keep: Path | None) -> None:
        seconds = time.monotonic() - self.began
        self.say(f"\nDone: {self.checks} checks in {seconds:.1f} s; the servers are stopped.")
        if keep is not None:
            self.say(f"Look around: parlant-shard status {keep / 'topology.yaml'}")
            self.say(f"   and then: parlant-shard local down {keep / 'topology.yaml'}")

    # --- 1: servers -------------------------------------------------------------------------------

    def servers(self) -> None:
        self.heading("Three PostgreSQL servers on this machine")
        with ThreadPoolExecutor(max_workers=len(SERVERS)) as pool:
            # Not durable: the demo's data need not survive a crash of the machine.
            found = list(
                pool.map(
                    lambda name: local.up(self.directory / "servers" / name, durable=False),
                    SERVERS,
                )
            )
        listed = ", ".join(f"{n} (port {s.port})" for n, s in zip(SERVERS, found, strict=True))
        self.line(f"PostgreSQL {found[0].version}: {listed}")

    def stop(self, keep: bool) -> None:
        """Stop every server; without `keep` remove its data too, wherever they lie."""
        end = local.down if keep else local.remove
        with ThreadPoolExecutor(max_workers=len(SERVERS)) as pool:
            list(pool.map(lambda name: end(self.directory / "servers" / name), SERVERS))

    # --- 2: topology, plan, apply -----------------------------------------------------------------

    def first_plan(self) -> None:
        self.heading("A topology file, its plan, and the plan executed")
        topology = self.write(_FIRST)
        self.tell_shards(_FIRST)
        self.apply(topology, _SAMPLES)

    def write(self, shards: Shards, *indexes: str) -> Topology:
        """Write the topology file, as an operator would edit it, and load it."""
        lines = [
            f"  {shard}: {{server: {server}, workspaces: [{', '.join(names)}]}}"
            for shard, (server, names) in shards.items()
        ]
        text = _TOPOLOGY.format(
            shards="\n".join(lines),
            kept=f"{later.RETENTION_MONTHS} months",
            indexes="".join(["indexes:\n", *(f"  {i}\n" for i in indexes)]) if indexes else "",
        )
        self.file.write_text(text, encoding="utf-8")
        return load_topology(self.file)

    def tell_shards(self, shards: Shards) -> None:
        self.line(f"{self.file.name}:")
        for shard, (server, names) in shards.items():
            self.line(f"  {shard} on {server}: {', '.join(names)}")

    def tell_plan(self, plan: Plan, samples: Sequence[str]) -> None:
        self.line(render.summary(plan))
        for sample in samples:
            step = next((s for s in plan.steps if s.title.startswith(sample)), None)
            if step is not None:
                lock = f"  [{step.lock}]" if step.lock else ""
                title = step.title.removesuffix(" with its constraints and indexes")
                self.line(f"  {step.server}: {title}{lock}")
        for notice in plan.notices:
            if notice not in self.told:
                self.line(textwrap.shorten(f"notice: {notice}", 96, placeholder=" ..."))
        self.told.update(plan.notices)

    def apply(self, topology: Topology, samples: Sequence[str]) -> Plan:
        """Plan, tell the plan, execute it, and plan again."""

        def confirm(plan: Plan) -> bool:
            self.tell_plan(plan, samples)
            return True

        outcome = apply(topology, confirm=confirm)
        self.line(f"applied: {outcome.done} steps in {outcome.seconds:.1f} s")
        self.check(not make_plan(topology).steps, "planned again, there is nothing to do")
        return outcome.plan

    # --- 3: rows ----------------------------------------------------------------------------------

    def load(self) -> None:
        self.heading("Rows: people and workspaces on the coordinator, the rest on the shards")
        topology = load_topology(self.file)
        with db.session(topology, topology.coordinator) as core:
            _copy(core, "user", "id name email", list(data.people()))
            _copy(core, "workspace", "id name owner_id", list(data.workspaces()))
        wanted = len(data.TENANTS)
        self.until(
            lambda: all(_count(topology, s, "workspace") == wanted for s in ("east", "west")),
            "users and workspaces arrived on east and west by replication",
        )
        if self.now is not None:
            later.reach(topology, self.now, self.check, self.line)
        now = self.moment().replace(minute=0, second=0, microsecond=0)
        self.loads = {tenant.id: data.rows_of(tenant, now) for tenant in data.TENANTS}
        began = time.monotonic()
        for shard, options in topology.shards.items():
            with db.session(topology, options.server) as connection, connection.transaction():
                for workspace in options.workspaces:
                    for table, rows in self.loads[workspace].rows.items():
                        _copy(connection, suffixed(table, shard), data.COLUMNS[table], rows)
        total = sum(loaded.total for loaded in self.loads.values())
        self.line(f"loaded {total:,} rows into 3 shards in {time.monotonic() - began:.1f} s")

    # --- 4: reading -------------------------------------------------------------------------------

    def read(self) -> None:
        self.heading("Read back over all shards, through the views on the coordinator")
        topology = load_topology(self.file)
        with db.session(topology, topology.coordinator) as core:
            self.compare_counts(core)
            self.tell_pruning(core)
            self.tell_join(core)
        with db.session(topology, "east") as east:
            row = east.execute(
                "SELECT count(DISTINCT tableoid) AS n FROM public.parlant_event_shard_2"
            ).fetchone()
        self.check(
            row is not None and row["n"] >= 4,
            "the events of shard_2 lie in monthly partitions, by created_at",
        )

    def compare_counts(self, core: db.Connection) -> None:
        totals = dict.fromkeys(self.loads, 0)
        for table in data.COLUMNS:
            found = _per_workspace(core, table)
            for workspace, loaded in self.loads.items():
                rows = len(loaded.rows[table])
                if found.get(workspace, 0) != rows:
                    self.check(False, f"{table}_global has {rows} rows of {workspace}")
                totals[workspace] += rows
        listed = ", ".join(f"{w} {n:,}" for w, n in totals.items())
        self.check(
            totals == {w: loaded.total for w, loaded in self.loads.items()},
            f"{len(data.COLUMNS)} views hold exactly what was loaded: {listed}",
        )

    def tell_pruning(self, core: db.Connection) -> None:
        query = "SELECT count(*) FROM public.parlant_session_global"
        pruned = _scanned(core, query + " WHERE workspace_id = 'initech'")
        self.check(
            pruned == ["parlant_session_shard_2"] and len(_scanned(core, query)) > 1,
            "EXPLAIN ... WHERE workspace_id = 'initech' reads parlant_session_shard_2 alone",
        )

    def tell_join(self, core: db.Connection) -> None:
        rows = core.execute(
            "SELECT a.workspace_id AS workspace, a.name, count(DISTINCT s.id) AS sessions, "
            "count(e.id) AS events FROM public.parlant_agent_global a "
            "JOIN public.parlant_session_global s "
            "ON s.workspace_id = a.workspace_id AND s.agent_id = a.id "
            "JOIN public.parlant_event_global e "
            "ON e.workspace_id = s.workspace_id AND e.session_id = s.id "
            "GROUP BY a.workspace_id, a.id, a.name ORDER BY events DESC, a.workspace_id LIMIT 3"
        ).fetchall()
        self.line("the busiest agents of all shards, by a join of three views:")
        for row in rows:
            self.line(
                f"  {row['workspace']:<8} {row['name']:<18} {row['sessions']:>3} sessions "
                f"{row['events']:>4} events"
            )
        self.check(len(rows) == 3, "the join over the shards answers")

    # --- 5: what the shards refuse ----------------------------------------------------------------

    def refusals(self) -> None:
        self.heading("What the tables themselves refuse")
        topology = load_topology(self.file)
        with db.session(topology, "core") as core:
            said = _refused(
                core,
                "INSERT INTO public.parlant_agent_shard_1 (workspace_id, created_by, name) "
                "VALUES ('hooli', 'fay', 'Stray')",
                [],
            )
            self.check(
                said == ("23514", "parlant_agent_shard_1_workspace_check"),
                f'a row of hooli in shard_1: refused by CHECK "{said[1] if said else ""}"',
            )
            agent = self.loads["acme"].column("parlant_agent", "id")[0]
            said = _refused(
                core,
                "INSERT INTO public.parlant_session_shard_1 (workspace_id, agent_id) "
                "VALUES ('globex', %s)",
                [agent],
            )
            self.check(
                said is not None and said[0] == "23503",
                "a session of globex with an agent of acme, on one shard: refused by foreign key "
                f'"{said[1] if said else ""}"',
            )
        with db.session(topology, "east") as east:
            said = _refused(east, "DELETE FROM public.workspace WHERE id = 'initech'", [])
            self.check(
                said is not None and said[0] == "25006",
                'a delete in east\'s copy of "workspace": refused, the coordinator is the place',
            )

    # --- 6: deletes reach the shards --------------------------------------------------------------

    def deletes(self) -> None:
        self.heading("A user and a workspace are deleted on the coordinator")
        topology = load_topology(self.file)
        initech = self.loads["initech"]
        gone = initech.of_creator("dana")
        with db.session(topology, "core") as core:
            core.execute("DELETE FROM public.\"user\" WHERE id = 'dana'")
        left = {t: len(initech.rows[t]) - n for t, n in gone.items()}
        self.until(
            lambda: {t: _count(topology, "east", f"{t}_shard_2", "initech") for t in left} == left,
            f"user dana: {gone['parlant_agent']} agent, {gone['parlant_session']} sessions and "
            f"{gone['parlant_event']} events went with her on east, and nothing else",
        )
        with db.session(topology, "core") as core:
            core.execute("DELETE FROM public.workspace WHERE id = 'umbrella'")
        tables = [t for t, rows in self.loads["umbrella"].rows.items() if rows]
        self.until(
            lambda: all(_count(topology, "east", f"{t}_shard_2", "umbrella") == 0 for t in tables),
            f"workspace umbrella: its {self.loads['umbrella'].total} rows in {len(tables)} tables "
            "on east are gone",
        )
        with db.session(topology, "core") as core:
            kept = _per_workspace(core, "parlant_event")
        same = all(
            kept[w] == len(self.loads[w].rows["parlant_event"]) for w in ("acme", "globex", "hooli")
        )
        self.check(same, "the other workspaces have all their events")

    # --- 7: another topology ----------------------------------------------------------------------

    def change(self) -> None:
        self.heading("The topology changes: a workspace, a shard, an index, a move")
        topology = self.write(_SECOND, _SECOND_INDEX)
        self.tell_shards(_SECOND)
        plan = self.apply(topology, _CHANGE_SAMPLES)
        strong = [s for s in plan.steps if s.lock == "ACCESS EXCLUSIVE"]
        self.check(
            bool(strong) and all(s.lock_timeout_ms <= 1_000 for s in strong),
            f"no lock was waited for longer than 1 s at a time, in {len(strong)} steps that take "
            "ACCESS EXCLUSIVE",
        )
        placed = {w["workspace"]: w["shard"] for w in workspaces(topology)}
        wanted = {w: shard for shard, (_, names) in _SECOND.items() for w in names}
        self.check(placed == wanted, "the directory places stark on shard_4 and wayne on shard_1")
        self.use_new_workspace(topology)

    def use_new_workspace(self, topology: Topology) -> None:
        shard = shard_of(topology, "wayne")
        with db.session(topology, "core") as core:
            _copy(core, "user", "id name", [("bruce", "Bruce")])
            _copy(core, "workspace", "id name owner_id", [("wayne", "Wayne Tours", "bruce")])
            agent = [("wayne", "bruce", "Concierge")]
            _copy(
                core, suffixed("parlant_agent", str(shard)), "workspace_id created_by name", agent
            )
            found = _per_workspace(core, "parlant_agent")
        self.check(found.get("wayne") == 1, "wayne has its first agent")

    # --- 8: kill -9 -------------------------------------------------------------------------------

    def kill_and_resume(self) -> None:
        self.heading("An apply is killed half-way, and resumed")
        topology = self.write(_THIRD, _SECOND_INDEX, _THIRD_INDEX)
        self.line("shard_5 on east, for tyrell, and an index on every shard")
        index = suffixed(_KILLED_INDEX, "shard_1")
        # CREATE INDEX CONCURRENTLY waits for older writers. One open transaction holds it where
        # a kill leaves most behind: an index that is there and INVALID.
        with db.session(topology, "core") as writer, writer.transaction(force_rollback=True):
            writer.execute("UPDATE public.parlant_session_shard_1 SET title = title WHERE false")
            self.kill(topology, index)
            self.until(
                lambda: not _sessions(topology, application_name(topology)),
                "the servers noticed, and ended what it had left running",
            )
        with db.session(topology, "core") as core:
            self.check(
                _is_valid(core, index) is False, f'it left the index "{index}", which is INVALID'
            )
        self.resume(topology)

    def kill(self, topology: Topology, index: str) -> None:
        """Start an apply, and kill it while it builds the index."""
        self.line("$ parlant-shard apply topology.yaml --yes")
        with (
            db.session(topology, "core") as core,
            subprocess.Popen(
                self.command("apply"),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                text=True,
            ) as process,
        ):
            assert process.stderr is not None
            said: list[str] = []
            reader = threading.Thread(target=said.extend, args=(process.stderr,), daemon=True)
            reader.start()
            try:
                deadline = time.monotonic() + WAIT
                while process.poll() is None and _is_valid(core, index) is not False:
                    if time.monotonic() > deadline:
                        break
                    time.sleep(0.05)
            finally:
                process.kill()
            process.wait()
            reader.join()
        steps = [line.strip() for line in said if line.startswith("[")]
        if process.returncode != -signal.SIGKILL or not steps:
            self.check(False, f"the apply was killed at work: {(said or ['it said nothing'])[-1]}")
        for line in (said[0].strip(), "...", steps[-1]):
            self.line(line)
        done, total = map(int, re.findall(r"\d+", steps[-1])[:2])
        self.check(0 < done < total, f"killed with SIGKILL when {done} of {total} steps were done")

    def resume(self, topology: Topology) -> None:
        finished = subprocess.run(
            [*self.command("apply"), "--output", "json"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
        if finished.returncode != 0:
            self.check(False, f"the same command resumes: {finished.stderr.strip()[-400:]}")
        outcome = json.loads(finished.stdout)
        self.line("$ parlant-shard apply topology.yaml --yes")
        self.check(
            outcome["resumed"] is True,
            f"it resumed: {outcome['steps']} steps that were left or had to be repaired, "
            f"in {outcome['seconds']:.1f} s",
        )
        with db.session(topology, "core") as core:
            valid = _is_valid(core, suffixed(_KILLED_INDEX, "shard_1"))
        self.check(valid is True, "the index is valid now")
        self.check(not make_plan(topology).steps, "planned again, there is nothing to do")

    def command(self, name: str) -> list[str]:
        found = [sys.executable, "-m", "parlant_shard", name, str(self.file)]
        return [*found, "--yes"] if name == "apply" else found

    # --- 9 to 11: the application, time, the audit ------------------------------------------------

    def route(self) -> None:
        self.heading("The application goes through the router")
        later.routed(load_topology(self.file), self.check)

    def maintain(self) -> None:
        self.heading("Four months pass: partitions, archives, and one that comes back")
        later.time_passes(load_topology(self.file), self.moment(), self.check, self.line)

    def verify(self) -> None:
        self.heading("parlant-shard verify topology.yaml")
        later.verified(load_topology(self.file), self.check)

    # --- 12: status -------------------------------------------------------------------------------

    def look(self) -> None:
        self.heading("parlant-shard status topology.yaml")
        shown = subprocess.run(
            self.command("status"), capture_output=True, text=True, check=False, env=_quiet_env()
        )
        if shown.returncode != 0:
            self.check(False, f"status answers: {shown.stderr.strip()[-400:]}")
        for line in shown.stdout.rstrip().splitlines():
            self.line(line)


# --- small questions to the servers ---------------------------------------------------------------


def _quiet_env() -> dict[str, str]:
    return {**os.environ, "NO_COLOR": "1"}


def _copy(connection: db.Connection, table: str, columns: str, rows: list[data.Row]) -> None:
    """COPY rows into a table; the columns are named, because their order differs between tables."""
    names = SQL(", ").join(map(Identifier, columns.split()))
    statement = SQL("COPY {} ({}) FROM STDIN").format(Identifier("public", table), names)
    with connection.cursor() as cursor, cursor.copy(statement) as copy:
        for row in rows:
            copy.write_row(row)


def _count(topology: Topology, server: str, table: str, workspace: str | None = None) -> int:
    statement = SQL("SELECT count(*) AS n FROM {}").format(Identifier("public", table))
    if workspace is not None:
        statement = SQL("{} WHERE workspace_id = {}").format(statement, workspace)
    with db.session(topology, server) as connection:
        row = connection.execute(statement).fetchone()
    return int(row["n"]) if row else 0


def _per_workspace(core: db.Connection, table: str) -> dict[str, int]:
    view = Identifier("public", suffixed(table, "global"))
    rows = core.execute(
        SQL("SELECT workspace_id AS workspace, count(*) AS n FROM {} GROUP BY 1").format(view)
    ).fetchall()
    return {row["workspace"]: row["n"] for row in rows}


def _scanned(core: db.Connection, query: LiteralString) -> list[str]:
    """Return the tables that PostgreSQL would read for a query."""
    row = core.execute("EXPLAIN (FORMAT JSON) " + query).fetchone()
    found: list[str] = []

    def walk(node: dict[str, Any]) -> None:
        if "Relation Name" in node:
            found.append(node["Relation Name"])
        for child in node.get("Plans", ()):
            walk(child)

    assert row is not None
    walk(row["QUERY PLAN"][0]["Plan"])
    return found


def _refused(
    connection: db.Connection, statement: LiteralString, values: list[str]
) -> tuple[str | None, str | None] | None:
    """Return the SQLSTATE and the constraint of a refusal, None where the statement succeeded."""
    try:
        connection.execute(statement, values)
    except psycopg.Error as error:
        return error.sqlstate, error.diag.constraint_name
    return None


def _sessions(topology: Topology, application: str) -> int:
    with db.session(topology, "core") as core:
        row = core.execute(
            "SELECT count(*) AS n FROM pg_catalog.pg_stat_activity WHERE application_name = %s",
            [application],
        ).fetchone()
    return int(row["n"]) if row else 0


def _is_valid(connection: db.Connection, index: str) -> bool | None:
    """Return whether an index is valid; None where there is no such index."""
    row = connection.execute(
        "SELECT i.indisvalid AS valid FROM pg_catalog.pg_index i "
        "JOIN pg_catalog.pg_class c ON c.oid = i.indexrelid WHERE c.relname = %s",
        [index],
    ).fetchone()
    return None if row is None else bool(row["valid"])
