"""Today's code on what every release left: its databases, map, plan, archives and export."""

from __future__ import annotations

import hashlib
import io
import json
from pathlib import Path

import psycopg
import pytest
import zstandard
from killing import kills
from psycopg import sql
from released import RELEASES, SNAPSHOTS, Released, members
from test_maintain_crash import until

from parlant_shard import maintain, status, trail
from parlant_shard.apply import apply
from parlant_shard.archive import listing
from parlant_shard.cli import run
from parlant_shard.client import Router
from parlant_shard.errors import ApplyFailed
from parlant_shard.planner import make_plan
from parlant_shard.restore import restore
from parlant_shard.shardmap import ShardMap
from parlant_shard.verify import verify
from servers import Clusters

pytestmark = [
    pytest.mark.matrix,
    pytest.mark.needs(clusters=2, logical=True, superuser=True),
    pytest.mark.parametrize("release", RELEASES),
]


@pytest.fixture
def world(release: str, tmp_path: Path, clusters: Clusters) -> Released:
    """Give the servers of a release as it left them."""
    return Released(release, tmp_path, clusters)


def pending(world: Released, file: str = "topology.yaml") -> list[str]:
    return [s.title for s in make_plan(world.topology(file)).steps]


def counts(world: Released) -> dict[str, dict[str, int]]:
    return {workspace: world.rows_of(workspace) for workspace in world.counts}


def test_the_commands_that_only_look_read_it(
    world: Released, capfd: pytest.CaptureFixture[str]
) -> None:
    """Before anything is upgraded: an operator looks first."""
    topology = world.topology()
    assert counts(world) == world.counts
    found = {row["workspace"]: row["shard"] for row in status.workspaces(topology)}
    assert found == {"acme": "s1", "globex": "s1", "initech": "s2", "umbrella": "s3"}
    file = str(world.written())
    for command in (["status"], ["status", "--history"], ["plan"], ["maintain", "--dry-run"]):
        assert run([*command, file]) == 0, capfd.readouterr().err
    assert "PS750" not in capfd.readouterr().err
    with trail.opened(topology) as core:
        assert trail.check(core).ok
    entries, failed = listing(topology, verify=True)
    assert [f.message for f in failed] == []
    assert {e.state for e in entries} == {"archived"}
    assert len(entries) == 6


def test_apply_upgrades_it(world: Released) -> None:
    apply(world.topology())
    assert pending(world) == []
    assert counts(world) == world.counts
    assert [f.detail for f in verify(world.topology()).findings if f.severity == "error"] == []
    # The servers go on from there: replication, the next change, and what had been detached.
    world.execute("INSERT INTO workspace VALUES ('wayne', 'ann', 'Wayne')")
    until(
        lambda: world.rows("SELECT FROM workspace WHERE id = 'wayne'", server="east"),
        "the workspace on east",
        60,
    )
    apply(world.topology("next.yaml"))
    assert pending(world, "next.yaml") == []
    assert counts(world) == world.counts
    now = world.value("SELECT now() AT TIME ZONE 'UTC'")
    report = maintain.maintain(world.topology("next.yaml"), now=now)
    assert [f.message for f in report.failures] == []
    # Detached by the release itself, long enough ago, and so a file now.
    old = {f"event_{shard}_p20260101" for shard in ("s1", "s2", "s3")}
    assert {a.partition for a in report.archived} == old
    assert pending(world, "next.yaml") == []


KILLER = r"""
import sys
import parlant_shard.apply as running
from killing import event_at, record_events, until_it_ends
from parlant_shard.topology import load_topology

topology = load_topology(sys.argv[1])

def attempt(number):
    event = event_at("record", 5 + number % 3)
    record_events(event)
    running.apply(topology, listener=lambda name, step, text: event(name))

until_it_ends(attempt)
"""


def test_apply_that_is_killed_again_and_again_upgrades_it(world: Released) -> None:
    """The version of the internal schema goes up on one server while the other has the old one."""
    file = world.written("next.yaml")
    assert kills(KILLER, file) >= 6
    assert pending(world, "next.yaml") == []
    assert counts(world) == world.counts
    assert world.value("SELECT count(DISTINCT version) FROM parlant_shard.meta") == 1
    with trail.opened(world.topology("next.yaml")) as core:
        assert trail.check(core).ok


def test_a_router_works_by_the_map_that_is_stored(world: Released) -> None:
    """Applications are restarted with the new release before the operator applies."""
    with Router(world.topology()) as router:
        for workspace, tables in world.counts.items():
            with router.workspace(workspace) as connection:
                for table, rows in tables.items():
                    row = connection.execute(f"SELECT count(*) FROM {table}").fetchone()
                    assert row == (rows,), (workspace, table)
        with router.workspace("umbrella") as connection:
            agent = connection.execute("SELECT id FROM agent LIMIT 1").fetchone()
            assert agent is not None
            connection.execute(
                "INSERT INTO session (agent_id, started_at) VALUES (%s, now())", [agent[0]]
            )
    assert world.rows_of("umbrella")["session"] == world.counts["umbrella"]["session"] + 1


def test_a_stored_map_places_every_workspace_where_it_was(release: str) -> None:
    stored = json.loads((SNAPSHOTS / release / "map.json").read_text(encoding="utf-8"))
    read = ShardMap.from_data({**stored["map"], "epoch": stored["epoch"]}, source="map.json")
    homes = {"acme": "s1", "globex": "s1", "initech": "s2", "umbrella": "s3", "nobody": "s3"}
    assert {workspace: read.place(workspace) for workspace in homes} == homes


def test_an_archive_comes_back(world: Released) -> None:
    apply(world.topology())
    before = world.rows_of("initech")["event"]
    (wanted,) = [e for e in listing(world.topology())[0] if e.partition == "event_s2_p20251201"]
    found = restore(world.topology(), wanted.partition)
    assert found.rows == 6
    assert world.rows_of("initech")["event"] == before + found.rows
    assert pending(world) == []


def test_an_export_loads_by_what_its_manifest_says(release: str, database: str) -> None:
    folder = SNAPSHOTS / release
    contents = dict(members(folder / "export.tar"))
    manifest = json.loads(contents["manifest.json"])
    assert manifest["workspace"] == "acme"
    with psycopg.connect(database, autocommit=True) as target:
        target.execute((folder / "schema.sql").read_bytes())
        target.execute("INSERT INTO account VALUES ('ann', 'Ann', now())")
        for entry in manifest["tables"]:
            target.execute(
                sql.SQL("ALTER TABLE {} ADD COLUMN IF NOT EXISTS workspace_id text").format(
                    sql.Identifier(entry["table"])
                )
            )
            packed = contents[entry["file"]]
            assert hashlib.sha256(packed).hexdigest() == entry["sha256"]
            text = zstandard.ZstdDecompressor().stream_reader(io.BytesIO(packed)).read()
            with target.cursor().copy(entry["load"]) as copy:
                copy.write(text)
        facts = json.loads((folder / "facts.json").read_text(encoding="utf-8"))
        for table, rows in facts["rows"]["acme"].items():
            detached = sum(
                e["rows"] for e in manifest["tables"] if e["table"] == table and e["detached"]
            )
            found = target.execute(
                sql.SQL("SELECT count(*) FROM {} WHERE workspace_id = 'acme'").format(
                    sql.Identifier(table)
                )
            ).fetchone()
            assert found == (rows + detached,), table


def test_a_saved_plan_runs_or_is_refused_with_what_to_do(
    world: Released, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(world.directory)
    for name, dsn in world.dsns.items():
        monkeypatch.setenv(name, dsn)
    before = pending(world, "next.yaml")
    code = run(["apply", "plan.json", "--yes"])
    said = capfd.readouterr().err
    if code == 0:
        assert pending(world, "next.yaml") == []
    else:
        assert "error PS502" in said or "error PS153" in said, said
        assert "make a new plan" in said or "parlant-shard plan" in said, said
        assert pending(world, "next.yaml") == before
    assert counts(world) == world.counts


def test_rows_without_a_parent_are_named_before_and_after(world: Released) -> None:
    """0.1.0 let the coordinator delete what rows of another server use."""
    world.execute("DELETE FROM workspace WHERE id = 'umbrella'")
    until(
        lambda: not world.rows("SELECT FROM workspace WHERE id = 'umbrella'", server="east"),
        "the deletion on east",
        60,
    )
    topology = world.topology()
    (found,) = make_plan(topology).orphans
    assert (found.server, found.table, found.references) == ("east", "agent_s3", "workspace")
    assert found.keys == ("'umbrella'",)
    assert found.rows == len(world.rows(found.query, server="east")) > 0
    with pytest.raises(ApplyFailed) as caught:
        apply(topology)
    assert "'umbrella'" in caught.value.message
    assert "agent_s3" in caught.value.message
    world.execute("INSERT INTO workspace VALUES ('umbrella', 'ann', 'Umbrella')")
    until(
        lambda: world.rows("SELECT FROM workspace WHERE id = 'umbrella'", server="east"),
        "the workspace on east",
        60,
    )
    apply(topology)
    assert pending(world) == []
    assert make_plan(topology).orphans == ()
    with pytest.raises(psycopg.errors.ForeignKeyViolation):
        world.execute("DELETE FROM workspace WHERE id = 'umbrella'")
