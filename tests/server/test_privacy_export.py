"""`workspace export`: all of one workspace, of one snapshot, that loads elsewhere."""

from __future__ import annotations

import hashlib
import io
import json
import os
import signal
import stat
import subprocess
import sys
import tarfile
from importlib.resources import files
from pathlib import Path
from typing import Any

import psycopg
import pytest
import zstandard
from killing import environment
from privacy_world import HOMES, OWNED, PRESET, lasting_world, load, total
from protocol import World
from psycopg import sql
from tenants import reference_rows, rows
from test_maintain_crash import written

from parlant_shard import privacy
from parlant_shard.cli import run
from parlant_shard.errors import Exit, ServerError, ShardError, TopologyError
from servers import Clusters

pytestmark = [pytest.mark.matrix, pytest.mark.needs(clusters=2, logical=True)]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, clusters: Clusters) -> World:
    return lasting_world(tmp_path_factory.mktemp("world"), clusters)


def manifest_of(file: Path) -> dict[str, Any]:
    with tarfile.open(file) as archive:
        assert archive.getnames()[-1] == "manifest.json"
        member = archive.extractfile("manifest.json")
        assert member is not None
        found: dict[str, Any] = json.loads(member.read())
        return found


def member(file: Path, name: str) -> bytes:
    with tarfile.open(file) as archive:
        found = archive.extractfile(name)
        assert found is not None
        return found.read()


def test_it_loads_elsewhere_with_the_same_checksums(
    world: World, tmp_path: Path, clusters: Clusters
) -> None:
    file = tmp_path / "ws_a.tar"
    done = privacy.export(world.load(PRESET), "ws_a", file=file)
    manifest = manifest_of(file)
    own = total(rows("ws_a"))
    assert done.rows == manifest["rows"] == own + len(OWNED) + 1
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert done.bytes == file.stat().st_size
    assert [p.name for p in tmp_path.iterdir()] == ["ws_a.tar"]
    # Old events lie in partitions that were detached: they count too.
    assert sum(t["rows"] for t in manifest["tables"] if t["detached"]) > 20
    assert sum(t["rows"] for t in manifest["tables"] if t["table"] == "parlant_event") == 160
    assert manifest["not_included"] == {
        "tables": ["user"],
        "recorded_changes": [],
        "archives": [],
    }
    assert not [t for t in manifest["tables"] if not t["detached"] and "shard_3" in json.dumps(t)]
    with psycopg.connect(clusters.get(0).new_database("elsewhere"), autocommit=True) as target:
        preset = files("parlant_shard").joinpath("presets", "parlant.sql")
        target.execute(preset.read_text(encoding="utf-8"))  # type: ignore[arg-type]
        load(target, "user", reference_rows()["user"])
        # What it refers to belongs to nobody, and stays where it is.
        for table in OWNED:
            load(target, table, reference_rows()[table])
        sums: dict[str, list[int]] = {}
        for entry in manifest["tables"]:
            target.execute(
                sql.SQL("ALTER TABLE {} ADD COLUMN IF NOT EXISTS workspace_id text").format(
                    sql.Identifier(entry["table"])
                )
            )
            packed = member(file, entry["file"])
            assert hashlib.sha256(packed).hexdigest() == entry["sha256"]
            text = zstandard.ZstdDecompressor().stream_reader(io.BytesIO(packed)).read()
            with target.cursor().copy(entry["load"]) as copy:
                copy.write(text)
            known = sums.setdefault(entry["table"], [0, 0])
            known[0] += entry["rows"]
            known[1] += int(entry["checksum"])
        for name, value in manifest["settings"].items():
            target.execute("SELECT set_config(%s, %s, false)", [name, value])
        for entry in manifest["tables"]:
            columns = [c["name"] for c in entry["columns"]]
            key = "id" if entry["table"] == "workspace" else "workspace_id"
            found = target.execute(
                sql.SQL(
                    "SELECT count(*), coalesce(sum(hashtextextended(ROW({})::text, 0)::numeric), 0)"
                    " FROM {} WHERE {} = 'ws_a'"
                ).format(
                    sql.SQL(", ").join(map(sql.Identifier, columns)),
                    sql.Identifier(entry["table"]),
                    sql.Identifier(key),
                )
            ).fetchone()
            assert found is not None
            assert [found[0], int(found[1])] == sums[entry["table"]], entry["table"]


def test_no_row_of_another_workspace_and_none_missing(world: World, tmp_path: Path) -> None:
    for ws in ("ws_b", "ws_c"):
        file = tmp_path / f"{ws}.tar"
        privacy.export(world.load(PRESET), ws, file=file)
        text = b"".join(
            zstandard.ZstdDecompressor().stream_reader(io.BytesIO(member(file, t["file"]))).read()
            for t in manifest_of(file)["tables"]
        )
        assert f"SECRET-{ws}".encode() in text
        assert not [o for o in HOMES if o != ws and f"SECRET-{o}".encode() in text]


def test_rows_written_meanwhile_are_not_in_it(world: World, tmp_path: Path) -> None:
    """All tables of a shard are of one moment."""
    began: list[str] = []

    def write(text: str) -> None:
        if not began:
            world.execute(
                "UPDATE parlant_session_shard_2 SET title = 'late' WHERE workspace_id = 'ws_e'",
                "DELETE FROM parlant_event_shard_2 WHERE workspace_id = 'ws_e'",
                server="east",
            )
        began.append(text)

    file = tmp_path / "ws_e.tar"
    privacy.export(world.load(PRESET), "ws_e", file=file, tell=write)
    found = {t["table"]: t for t in manifest_of(file)["tables"] if not t["detached"]}
    assert found["parlant_event"]["rows"] > 50
    packed = member(file, found["parlant_session"]["file"])
    assert b"late" not in zstandard.ZstdDecompressor().stream_reader(io.BytesIO(packed)).read()
    assert world.value("SELECT count(*) FROM parlant_event_shard_2", server="east") == 0


KILLED = r"""
import os, signal, sys
from pathlib import Path
from parlant_shard import privacy
from parlant_shard.topology import load_topology
said = []
def tell(text):
    said.append(text)
    if len(said) == 5:
        os.kill(os.getpid(), signal.SIGKILL)
privacy.export(load_topology(sys.argv[1]), "ws_c", file=Path(sys.argv[2]), tell=tell)
"""


def test_a_killed_export_leaves_nothing_that_looks_complete(world: World, tmp_path: Path) -> None:
    file = tmp_path / "ws_c.tar"
    done = subprocess.run(
        [sys.executable, "-c", KILLED, str(written(world, PRESET)), str(file)],
        env=environment(),
        timeout=60,
        check=False,
    )
    assert done.returncode == -signal.SIGKILL
    assert [p.name for p in tmp_path.iterdir()] == ["ws_c.tar.part"]
    assert stat.S_IMODE((tmp_path / "ws_c.tar.part").stat().st_mode) == 0o600
    privacy.export(world.load(PRESET), "ws_c", file=file)
    assert [p.name for p in tmp_path.iterdir()] == ["ws_c.tar"]
    assert manifest_of(file)["rows"] == total(rows("ws_c")) + len(OWNED) + 1


def test_a_failed_export_leaves_nothing(world: World, tmp_path: Path) -> None:
    def fail(_text: str) -> None:
        raise RuntimeError("stop")

    with pytest.raises(RuntimeError):
        privacy.export(world.load(PRESET), "ws_c", file=tmp_path / "x.tar", tell=fail)
    assert list(tmp_path.iterdir()) == []


def test_files_that_are_in_the_way(world: World, tmp_path: Path) -> None:
    topology = world.load(PRESET)
    file = tmp_path / "ws_c.tar"
    file.write_text("mine")
    with pytest.raises(TopologyError) as there:
        privacy.export(topology, "ws_c", file=file)
    assert there.value.code == "PS746"
    assert file.read_text() == "mine"
    with pytest.raises(TopologyError) as nowhere:
        privacy.export(topology, "ws_c", file=tmp_path / "no" / "ws_c.tar")
    assert nowhere.value.code == "PS744"
    (tmp_path / "link.tar.part").symlink_to(file)
    with pytest.raises(TopologyError) as link:
        privacy.export(topology, "ws_c", file=tmp_path / "link.tar")
    assert link.value.code == "PS744"
    assert file.read_text() == "mine"

    def second(_text: str) -> None:
        with pytest.raises(ShardError) as busy:
            privacy.export(topology, "ws_c", file=tmp_path / "two.tar")
        assert busy.value.code == "PS745"

    privacy.export(topology, "ws_c", file=tmp_path / "two.tar", tell=second)
    assert manifest_of(tmp_path / "two.tar")["workspace"] == "ws_c"


@pytest.mark.needs(superuser=True)
def test_it_fails_where_a_policy_hides_rows(world: World, tmp_path: Path) -> None:
    """Half of a tenant's rows must not look like all of them."""
    world.execute(
        "ALTER TABLE parlant_term_shard_2 ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY",
        "DROP ROLE IF EXISTS parlant_reader",
        "CREATE ROLE parlant_reader LOGIN PASSWORD 'reader' NOBYPASSRLS",
        "GRANT USAGE ON SCHEMA public, parlant_shard TO parlant_reader",
        "GRANT SELECT ON ALL TABLES IN SCHEMA public, parlant_shard TO parlant_reader",
        server="east",
    )
    try:
        what = PRESET
        admin = world.dsns["east"]
        world.dsns["east"] = psycopg.conninfo.make_conninfo(
            admin, user="parlant_reader", password="reader"
        )
        topology = world.load(what)
        world.dsns["east"] = admin
        with pytest.raises(ServerError) as refused:
            privacy.export(topology, "ws_e", file=tmp_path / "ws_e.tar")
        assert "row-level security" in refused.value.message
        assert list(tmp_path.iterdir()) == []
    finally:
        world.execute(
            "ALTER TABLE parlant_term_shard_2 NO FORCE ROW LEVEL SECURITY, "
            "DISABLE ROW LEVEL SECURITY",
            "DROP OWNED BY parlant_reader",
            "DROP ROLE parlant_reader",
            server="east",
        )


def test_the_command(
    world: World,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    file = str(written(world, PRESET))
    monkeypatch.chdir(tmp_path)
    assert run(["workspace", "export", file, "ws_d", "--output", "json"]) == Exit.DONE
    out = json.loads(capsys.readouterr().out)
    assert out["format_version"] == 1
    assert out["rows"] == total(rows("ws_d")) + len(OWNED) + 1
    assert Path(out["file"]).name.startswith("ws_d-2")
    assert {t["table"] for t in out["tables"]} >= {"workspace", "parlant_event", "api_key"}
    assert (tmp_path / out["file"]).exists()
    assert run(["workspace", "export", file, "nobody"]) == Exit.CONFIG
    assert "PS324" in capsys.readouterr().err
    assert run(["workspace", "export", file, "ws_d", "-o", "d.tar"]) == Exit.DONE
    assert "rows of" in capsys.readouterr().out
    os.remove("d.tar")
