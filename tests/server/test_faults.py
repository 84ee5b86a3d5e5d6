"""Servers that are killed, sessions that are cut and cancelled, while an application reads and
writes through the router behind row-level security, and `apply` and `maintain` run.

No wrong row, no lost or doubled write, no setting that stays in a pooled connection, no hang.
PARLANT_SHARD_TEST_FULL=1 makes the storm last ten times as long.
"""

from __future__ import annotations

import os
import random
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

import clocks
from parlant_shard import Router, ShardError, local
from parlant_shard import maintain as upkeep
from parlant_shard.apply import apply
from parlant_shard.errors import Exit
from parlant_shard.planner import make_plan
from parlant_shard.topology import Topology, load_topology
from parlant_shard.verify import verify
from servers import Clusters

SECONDS = 150 if os.environ.get("PARLANT_SHARD_TEST_FULL") == "1" else 15
PASSWORD = "In-The-Storm-93e1"
SHARDS = {"s1": ("core", ["ws1", "ws2"]), "s2": ("east", ["acme", "globex"])}
WORKSPACES = [w for _, members in SHARDS.values() for w in members]
SCHEMA = """
CREATE TABLE agent (
  id uuid PRIMARY KEY DEFAULT gen_random_uuid(), workspace_id text NOT NULL, name text
);
CREATE TABLE event (
  id uuid DEFAULT gen_random_uuid() PRIMARY KEY,
  agent_id uuid NOT NULL REFERENCES agent (id),
  at timestamptz NOT NULL DEFAULT now(),
  body text NOT NULL
);
"""


class Storm:
    """Two servers of its own, because it kills them."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.servers = {name: home / name for name in ("core", "east")}
        for directory in self.servers.values():
            local.up(directory)
            with psycopg.connect(self.dsn(directory.name), autocommit=True) as connection:
                connection.execute(f"CREATE ROLE app LOGIN PASSWORD '{PASSWORD}'")
        (home / "schema.sql").write_text(SCHEMA)
        self.topology = self.write("calm", "")
        # The other face of the topology: an index comes and goes.
        self.other = self.write(
            "other", "indexes:\n  event_body_idx: {on: event, columns: [body]}\n"
        )
        self.stop = threading.Event()
        self.errors: list[str] = []
        self.acknowledged: dict[str, list[str]] = {w: [] for w in WORKSPACES}
        self.uncertain: dict[str, list[str]] = {w: [] for w in WORKSPACES}
        self.reads: Counter[str] = Counter()
        self.did: Counter[str] = Counter()

    def dsn(self, name: str) -> str:
        return local.conninfo(self.servers[name])

    def write(self, name: str, more: str) -> Topology:
        shards = "".join(
            f"  {s}: {{server: {server}, workspaces: {members}}}\n"
            for s, (server, members) in SHARDS.items()
        )
        servers = "".join(f'  {n}: {{dsn: "{self.dsn(n)}"}}\n' for n in self.servers)
        file = self.home / f"{name}.yaml"
        file.write_text(
            "version: 1\nname: storm\nschema: {files: [schema.sql]}\nkey: workspace_id\n"
            f"servers:\n{servers}coordinator: core\nshards:\n{shards}"
            "isolation: {rls: true, role: app}\n"
            "tables:\n  event: {partition: {by: at, every: 1 day, premake: 3}}\n" + more
        )
        return load_topology(file)

    def as_app(self) -> Topology:
        servers = {
            n: s.model_copy(
                update={"dsn": make_conninfo(self.dsn(n), user="app", password=PASSWORD)}
            )
            for n, s in self.topology.servers.items()
        }
        return self.topology.model_copy(update={"servers": servers})

    def guarded(self, work: Callable[..., None], *arguments: Any) -> threading.Thread:
        def run() -> None:
            while not self.stop.is_set():
                try:
                    work(*arguments)
                except ShardError as error:
                    self.did[f"{work.__name__}: {error.code}"] += 1
                    time.sleep(0.02)
                except Exception as error:
                    self.errors.append(f"{work.__name__} {arguments}: {error!r}")
                    return

        thread = threading.Thread(target=run, name=f"{work.__name__} {arguments}", daemon=True)
        thread.start()
        return thread

    # --- the application -------------------------------------------------------------------------

    def application(self, router: Router, workspace: str, agent: str) -> None:
        number = f"{workspace}-{len(self.acknowledged[workspace])}-{random.random()}"
        try:
            with router.workspace(workspace) as connection:
                connection.execute(
                    "INSERT INTO event (agent_id, body) VALUES (%s, %s)", [agent, number]
                )
        except ShardError:
            self.uncertain[workspace].append(number)
            raise
        self.acknowledged[workspace].append(number)
        with router.transaction(workspace=workspace) as connection:
            rows = connection.execute("SELECT body FROM event").fetchall()
            names = connection.execute("SELECT DISTINCT workspace_id FROM agent").fetchall()
        found = {body.split("-")[0] for (body,) in rows} | {w for (w,) in names}
        if found != {workspace}:
            self.errors.append(f"{workspace} was shown rows of {sorted(found)}")
        known = set(self.acknowledged[workspace])
        if lost := known - {body for (body,) in rows}:
            self.errors.append(f"{workspace} lost {sorted(lost)[:3]}")
        self.reads[workspace] += 1

    # --- the tool --------------------------------------------------------------------------------

    def tool(self) -> None:
        for topology in (self.other, self.topology):
            apply(topology, allow=frozenset({"drops-object"}))
            self.did["applied"] += 1
        days = self.did["applied"] % 50
        now = clocks.now() + timedelta(days=days)
        report = upkeep.maintain(self.topology, now=now)
        self.did["maintained" if not report.failures else "maintained in part"] += 1

    # --- the weather -----------------------------------------------------------------------------

    def weather(self) -> None:
        name = random.choice(list(self.servers))
        what = random.choices(["terminate", "cancel", "kill"], weights=[10, 10, 1])[0]
        if what == "kill":
            found = local.status(self.servers[name])
            if found is None or found.pid is None:
                return
            os.kill(found.pid, signal.SIGKILL)
            deadline = time.monotonic() + 30
            while (left := local.status(self.servers[name])) and left.running:
                assert time.monotonic() < deadline
                time.sleep(0.02)
            local.up(self.servers[name])
        else:
            with psycopg.connect(self.dsn(name), autocommit=True) as connection:
                connection.execute(
                    f"SELECT pg_{what}_backend(pid) FROM pg_stat_activity WHERE pid <> "
                    "pg_backend_pid() AND backend_type = 'client backend' "
                    "ORDER BY random() LIMIT 2"
                )
        self.did[what] += 1
        self.stop.wait(random.uniform(0.05, 0.4))


@pytest.fixture
def storm(tmp_path: Path, clusters: Clusters) -> Iterator[Storm]:
    if clusters.get(0).major < 15:
        pytest.skip("needs servers of its own")
    found = Storm(tmp_path)
    try:
        yield found
    finally:
        found.stop.set()
        for directory in found.servers.values():
            local.remove(directory)


@pytest.mark.timeout(900)
def test_a_storm(storm: Storm) -> None:
    apply(storm.topology)
    for shard, (server, members) in SHARDS.items():
        with psycopg.connect(storm.dsn(server), autocommit=True) as connection:
            for workspace in members:
                connection.execute(
                    f"INSERT INTO agent_{shard} (workspace_id, name) VALUES (%s, 'a')", [workspace]
                )
    options = {"max_size": 4, "timeout": 5.0}
    with Router(storm.as_app(), **options) as router:  # type: ignore[arg-type]
        threads = []
        for workspace in WORKSPACES:
            with router.workspace(workspace) as connection:
                row = connection.execute("SELECT id FROM agent").fetchone()
            assert row is not None
            threads += [storm.guarded(storm.application, router, workspace, row[0])]
        threads.append(storm.guarded(storm.tool))
        threads.append(storm.guarded(storm.weather))
        storm.stop.wait(SECONDS)
        storm.stop.set()
        for thread in threads:
            thread.join(120)
        assert [t.name for t in threads if t.is_alive()] == [], "hangs"
        for directory in storm.servers.values():
            local.up(directory)
        print(dict(storm.did), dict(storm.reads))
        assert storm.errors == []
        assert all(storm.reads[w] > 3 for w in WORKSPACES), storm.reads
        assert storm.did["terminate"] + storm.did["cancel"] > 5, storm.did

        # Everything is as it should be, and the tool finds its way from wherever it was stopped.
        apply(storm.topology, allow=frozenset({"drops-object"}))
        now = clocks.now() + timedelta(days=60)
        assert upkeep.maintain(storm.topology, now=now).failures == []
        assert make_plan(storm.topology).steps == ()
        assert verify(storm.topology).exit_code is Exit.DONE
        for workspace in WORKSPACES:
            with router.workspace(workspace) as connection:
                found = Counter(b for (b,) in connection.execute("SELECT body FROM event"))
            # What was acknowledged is there once; what nobody knows, once or not at all.
            assert set(found.values()) <= {1}
            known = set(storm.acknowledged[workspace])
            assert known <= set(found)
            assert set(found) - known <= set(storm.uncertain[workspace])
        for name in storm.servers:
            held = [router.pools.acquire(name) for _ in range(2)]
            for connection in held:
                row = connection.execute(
                    "SELECT current_setting('parlant.workspace_id', true), current_user"
                ).fetchone()
                assert row in {(None, "app"), ("", "app")}
            for connection in held:
                router.pools.release(name, connection)
