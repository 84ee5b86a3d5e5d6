"""A cluster for tests of `verify`: three shards on two servers, partitions, reference tables."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from protocol import Layout, World, layout

from parlant_shard.verify import Report, verify
from servers import Clusters

SCHEMA = """
CREATE TABLE "user" (id text PRIMARY KEY, name text);
CREATE TABLE workspace (id text PRIMARY KEY, name text);
CREATE TABLE tariff (id integer PRIMARY KEY, name text);
CREATE TABLE account (
  id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
  workspace_id text NOT NULL REFERENCES workspace (id) ON DELETE CASCADE,
  creator text REFERENCES "user" (id) ON DELETE SET NULL,
  tariff integer REFERENCES tariff (id),
  secret text
);
CREATE TABLE item (
  id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
  account_id uuid NOT NULL REFERENCES account (id) ON DELETE CASCADE,
  size integer NOT NULL DEFAULT 0 CONSTRAINT item_size_check CHECK (size >= 0),
  note text
);
CREATE INDEX item_note_idx ON item (note);
CREATE TABLE log (
  id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
  item_id uuid NOT NULL REFERENCES item (id) ON DELETE CASCADE,
  at timestamptz NOT NULL DEFAULT now(),
  body text
);
CREATE INDEX log_item_idx ON log (item_id, at);
"""
TABLES = {
    "workspace": {"kind": "reference"},
    "user": {"kind": "reference"},
    "tariff": {"kind": "host"},
    "log": {"partition": {"by": "at", "every": "1 month", "premake": 1}},
}
LISTED = {"s1": ["a", "b"], "s2": ("east", ["c"]), "s3": ("east", ["d"])}
HOMES = {"a": ("core", "s1"), "b": ("core", "s1"), "c": ("east", "s2"), "d": ("east", "s3")}
SECRET = "Nobody-Sees-This-71c0"


def sharded(shards: dict[str, Any] | None = None, **sections: Any) -> Layout:
    """Give the layout; `shards` replaces the placement."""
    return layout(shards or LISTED, ddl=SCHEMA, servers=("east",), **{"tables": TABLES, **sections})


def key(workspace: str, table: str, number: int = 1) -> str:
    """The id of a row that `fill` makes: it tells its workspace and table."""
    kind = {"account": 1, "item": 2, "log": 3}[table]
    return f"{ord(workspace[0]):08x}-000{kind}-4000-8000-{number:012d}"


def fill(world: World, homes: dict[str, tuple[str, str]]) -> None:
    """Make users, workspaces and a few rows for each workspace; `homes`: server and shard."""
    world.execute(
        "INSERT INTO \"user\" VALUES ('u1', 'One'), ('u2', 'Two')",
        "INSERT INTO tariff VALUES (1, 'basic')",
        *(f"INSERT INTO workspace VALUES ('{w}', 'name of {w}')" for w in homes),
    )
    for server in {s for s, _ in homes.values()} - {"core"}:
        _await(world, server, len(homes))
    for workspace, (server, shard) in homes.items():
        statements = []
        for n in (1, 2, 3):
            ids = [key(workspace, t, n) for t in ("account", "item", "log")]
            statements += [
                f"INSERT INTO account_{shard} (id, workspace_id, creator, tariff, secret) "
                f"VALUES ('{ids[0]}', '{workspace}', 'u1', 1, '{SECRET}')",
                f"INSERT INTO item_{shard} (id, workspace_id, account_id, note) "
                f"VALUES ('{ids[1]}', '{workspace}', '{ids[0]}', '{SECRET}')",
                f"INSERT INTO log_{shard} (id, workspace_id, item_id, body) "
                f"VALUES ('{ids[2]}', '{workspace}', '{ids[1]}', '{SECRET}')",
            ]
        world.execute(*statements, server=server)


class Kept(World):
    """A world that outlives the test that made it."""

    def dsn(self, server: str) -> str:
        if server not in self.dsns:
            cluster = self.clusters.get(len(self.dsns) % self.over)
            self.dsns[server] = cluster.new_database("verify", keep=True)
        return self.dsns[server]


def lasting(directory: Path, clusters: Clusters) -> Iterator[World]:
    """Give a cluster for all tests of a module, each of which leaves it as it found it."""
    kept = Kept(directory, clusters, over=2)
    kept.apply(sharded())
    fill(kept, HOMES)
    yield kept
    report = audit(kept, sharded())
    assert (found(report), report.ok) == (set(), True)


def _await(world: World, server: str, rows: int) -> None:
    world.execute(
        "DO $$ BEGIN FOR i IN 1..200 LOOP "
        f"IF (SELECT count(*) FROM public.workspace) >= {rows} THEN RETURN; END IF; "
        "PERFORM pg_sleep(0.05); COMMIT; END LOOP; RAISE 'the copies do not come'; END $$",
        server=server,
    )


def audit(world: World, what: Layout, **more: Any) -> Report:
    """Verify, and require what holds of every report: JSON, and no contents of rows."""
    report = verify(world.load(what), **more)
    text = json.dumps(report.to_json()) + report.to_text()
    assert SECRET not in text
    return report


def found(report: Report) -> set[str]:
    """What was found: `check server shard table workspace`, with what is not there left out."""
    return {
        " ".join(
            str(x) for x in (f.check, f.server, f.shard, f.table, f.workspace) if x is not None
        )
        for f in report.findings
    }
