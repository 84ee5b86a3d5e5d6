"""Archives: what goes into the file comes out again, and the table goes only then."""

from __future__ import annotations

import hashlib
import io
import json
import math
import re
import stat
import subprocess
import sys
import threading
from datetime import date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import fsspec
import psycopg
import pytest
import zstandard
from killing import environment
from protocol import SCHEMA, Layout, World, layout
from psycopg.conninfo import make_conninfo
from test_maintain import cut, maintain, months, now_of, put, settled
from test_maintain_crash import until, written

from parlant_shard import maintain as upkeep
from parlant_shard.archive import listing, making, target
from parlant_shard.cli import run
from parlant_shard.errors import Exit
from parlant_shard.maintain import Report
from servers import Clusters, database_name

pytestmark = pytest.mark.matrix

# Every kind of value whose text has a trap.
RICH = SCHEMA.replace(
    "  body text\n",
    """  body text,
  mood mood,
  doc jsonb,
  tags text[],
  raw bytea,
  amount numeric(12,2),
  ratio double precision,
  span interval,
  day date,
  short bpchar(5),
  flag boolean,
  size integer GENERATED ALWAYS AS (length(body)) STORED
""",
)
RICH = "CREATE TYPE mood AS ENUM ('calm', 'it''s \"odd\"');\n" + RICH
VALUES = (
    r"""E'tab\there', 'calm', '{"a": [1, "\u00e9"]}', ARRAY['x,y', NULL, '"q"'], '\x00ff5c',
    1.50, 0.30000000000000004, '1 mon 2 days 03:04:05.6', '2026-02-28', 'ab', true""",
    r"""E'line\nbreak\r\\N \\. \\\\', 'it''s "odd"', 'null', '{}', '', 'NaN', 'NaN',
    '-1 day', 'infinity', '', false""",
    "'žluťoučký 🐎', NULL, NULL, NULL, NULL, NULL, '-Infinity', NULL, NULL, NULL, NULL",
    "NULL, NULL, NULL, NULL, NULL, -0.01, 1e-300, NULL, '0044-03-15 BC', NULL, NULL",
    r"E'\\N', NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL",
)


@pytest.fixture
def world(tmp_path: Path, clusters: Clusters) -> World:
    """Give the databases of one server."""
    return World(tmp_path, clusters)


def kept(**more: Any) -> dict[str, Any]:
    more.setdefault("archive", "old/")
    return cut("1 month", 1, retention="2 months", **more)


def fill(world: World, moment: datetime, shard: str = "s1", server: str = "core") -> None:
    """Insert the values, and some more rows."""
    put(world, moment, shard, server)
    columns = "body, mood, doc, tags, raw, amount, ratio, span, day, short, flag"
    for values in VALUES:
        world.execute(
            f"INSERT INTO log_{shard} (workspace_id, item_id, at, {columns}) VALUES ('a', "
            f"(SELECT id FROM item_{shard} LIMIT 1), '{moment.isoformat()}Z', {values})",
            server=server,
        )


def retired(world: World, server: str = "core") -> dict[str, tuple[Any, ...]]:
    rows = world.rows("SELECT name, state, archive, rows FROM parlant_shard.retired", server=server)
    return {name: tuple(more) for name, *more in rows}


def files(world: World) -> list[str]:
    root = world.directory / "old"
    return sorted(str(f.relative_to(root)) for f in root.rglob("*") if f.is_file())


def expire(world: World, what: Layout) -> tuple[datetime, Report]:
    """Detach what the layout's retention ends, and archive it by a later clock."""
    start = now_of(world)
    now = months(start, 4)
    maintain(world, what, now)
    later = now + timedelta(days=8)
    return later, upkeep.maintain(world.load(what), now=later)


def this_month(world: World, shard: str = "s1") -> str:
    return f"log_{shard}_p{months(now_of(world), 0):%Y%m%d}"


def stored(world: World, table: str = "log_s1") -> list[str]:
    return [
        name
        for (name,) in world.rows(
            f"SELECT attname FROM pg_attribute WHERE attrelid = '{table}'::regclass AND attnum > 0 "
            "AND attgenerated = '' AND NOT attisdropped ORDER BY attnum"
        )
    ]


def copied(world: World, table: str, columns: list[str]) -> list[bytes]:
    """Return the rows of a table as COPY has them, sorted."""
    with world.connect() as connection:
        connection.execute("SET TimeZone = UTC")
        command = f"COPY (SELECT {', '.join(columns)} FROM {table}) TO STDOUT"
        with connection.cursor().copy(command) as copy:
            return sorted(bytes(row) for row in copy)


def manifest_of(world: World, name: str) -> tuple[Path, dict[str, Any]]:
    path = world.directory / "old" / retired(world)[name][1]
    return path, json.loads(path.read_text())


def there(world: World, name: str, server: str = "core") -> bool:
    return bool(world.value(f"SELECT to_regclass('{name}') IS NOT NULL", server=server))


# --- the happy path -------------------------------------------------------------------------------


def test_a_partition_becomes_a_file(world: World) -> None:
    what = layout({"s1": ["a"]}, ddl=RICH, tables=kept())
    world.apply(what)
    # Whatever the sessions of this database would say by themselves.
    database = database_name(world.dsn("core"))
    world.execute(
        f"ALTER DATABASE {database} SET DateStyle = 'German'",
        f"ALTER DATABASE {database} SET extra_float_digits = 0",
        f"ALTER DATABASE {database} SET default_transaction_isolation = 'serializable'",
    )
    fill(world, now_of(world))
    name, columns = this_month(world), stored(world)
    world.execute(f"ALTER DATABASE {database} RESET ALL")
    expected = copied(world, name, columns)
    world.execute(
        f"ALTER DATABASE {database} SET DateStyle = 'German'",
        f"ALTER DATABASE {database} SET bytea_output = 'escape'",
    )
    later, report = expire(world, what)
    assert [f.message for f in report.failures] == []
    assert not any("kept" in notice for notice in report.notices)
    assert not there(world, name)
    state, path, rows = retired(world)[name]
    assert (state, rows) == ("archived", len(expected))
    root = world.directory / "old"
    file, manifest = manifest_of(world, name)
    assert path == f"{world.name}/s1/{file.name}"
    data = file.with_name(manifest["file"]["name"]).read_bytes()
    assert hashlib.sha256(data).hexdigest() == manifest["file"]["sha256"]
    text = zstandard.ZstdDecompressor().decompressobj().decompress(data)
    assert sorted(text.splitlines(keepends=True)) == expected
    assert [c["name"] for c in manifest["columns"]] == columns
    (mood,) = (c for c in manifest["columns"] if c["name"] == "mood")
    assert mood["labels"] == ["calm", 'it\'s "odd"']
    assert manifest["from"] == f"{months(now_of(world), 0).isoformat()}Z"
    # Rows of all workspaces are in there: nobody else may read them.
    for item in root.rglob("*"):
        assert stat.S_IMODE(item.stat().st_mode) == (0o700 if item.is_dir() else 0o600), item
    assert stat.S_IMODE(root.stat().st_mode) == 0o700
    assert not [f for f in files(world) if f.endswith(".tmp")]
    assert {a.partition for a in report.archived} == set(retired(world))
    lines = upkeep.metrics(report, 0.0).splitlines()
    (made,) = (line for line in lines if line.startswith("parlant_shard_archive_rows"))
    assert made.endswith(f" {len(expected)}")
    settled(world, what, later)
    world.execute(f"ALTER DATABASE {database} RESET ALL")
    # What a DBA does without this tool, from the manifest alone.
    with world.connect() as connection:
        for statement in manifest["ddl"]:
            connection.execute(statement)
        quoted = ", ".join(f'"{c}"' for c in columns)
        with connection.cursor().copy(f"COPY {name} ({quoted}) FROM STDIN") as copy:
            copy.write(text)
        for setting, value in manifest["settings"].items():
            connection.execute("SELECT set_config(%s, %s, false)", [setting, value])
        found = connection.execute(
            f"SELECT sum(hashtextextended(ROW({quoted})::text, 0)::numeric)::text FROM {name}"
        ).fetchone()
    assert found == (manifest["checksum"]["value"],)
    assert copied(world, name, columns) == expected


def test_the_dry_run_shows_it(world: World) -> None:
    what = layout({"s1": ["a"]}, tables=kept())
    world.apply(what)
    now = months(now_of(world), 4)
    maintain(world, what, now)
    report = maintain(world, what, now + timedelta(days=8), dry_run=True)
    (step,) = [s for s in report.plan.steps if f'"{this_month(world)}"' in s.title]
    assert step.kind == "archive"
    assert step.hazards == ("drops-object",)
    assert any(s.startswith("COPY") for s in step.sql)
    assert any(s.startswith("DROP TABLE") for s in step.sql)
    assert there(world, this_month(world))
    assert files(world) == []


def test_grace_is_by_the_clock_of_the_run(world: World) -> None:
    what = layout({"s1": ["a"]}, tables=kept(grace="2 days"))
    world.apply(what)
    now = months(now_of(world), 4)
    maintain(world, what, now)
    name = this_month(world)
    assert maintain(world, what, now + timedelta(days=1, hours=23)).archived == []
    assert there(world, name)
    maintain(world, what, now + timedelta(days=2))
    assert not there(world, name)


def test_several_servers_and_parquet(tmp_path: Path, clusters: Clusters) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    world = World(tmp_path, clusters, over=2)
    archive = {"to": "memory://old", "parquet": True}
    what = layout({"s1": ["a"], "s2": ("east", ["a2"])}, ddl=RICH, tables=kept(archive=archive))
    fs = fsspec.filesystem("memory")
    world.apply(what)
    fill(world, now_of(world))
    names = {"core": this_month(world), "east": this_month(world, "s2")}
    later, report = expire(world, what)
    assert [f.message for f in report.failures] == []
    for server, name in names.items():
        assert not there(world, name, server)
        state, path, _ = retired(world, server)[name]
        assert state == "archived"
        assert path.startswith(f"memory://old/{world.name}/s")
        assert fs.exists(path)
    path = retired(world)[names["core"]][1]
    manifest = json.loads(fs.cat(path))
    with fs.open(f"/old/{world.name}/s1/{manifest['parquet']['name']}", "rb") as file:
        table = parquet.read_table(file)
    rows = {row["body"]: row for row in table.to_pylist()}
    assert table.num_rows == 6
    first = rows["tab\there"]
    assert first["raw"] == b"\x00\xff\x5c"
    assert first["amount"] == Decimal("1.50")
    assert first["flag"] is True
    assert first["day"] == date(2026, 2, 28)
    assert first["at"].tzinfo is not None
    assert json.loads(first["doc"]) == {"a": [1, "é"]}
    assert math.isnan(rows["line\nbreak\r\\N \\. \\\\"]["ratio"])
    assert rows["\\N"]["mood"] is None
    assert manifest["parquet"]["unrepresentable"] == {"amount": 1, "day": 2}
    entries, failed = listing(world.load(what), verify=True)
    assert failed == {}
    assert {e.state for e in entries} == {"archived"}
    assert set(names.items()) <= {(e.server, e.partition) for e in entries}
    settled(world, what, later)


# --- rows that change -----------------------------------------------------------------------------


def patched_drop(monkeypatch: pytest.MonkeyPatch, world: World, name: str, times: int) -> list[int]:
    """Let somebody write into the partition right before it is dropped."""
    original, seen = making._Making._drop, [0]

    def drop(self: Any, path: str, manifest: Any) -> None:
        if self.row.name == name and seen[0] < times:
            seen[0] += 1
            world.execute(f"UPDATE {name} SET body = 'changed {seen[0]}'")
        original(self, path, manifest)

    monkeypatch.setattr(making._Making, "_drop", drop)
    return seen


def test_rows_that_change_before_the_drop(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    what = layout({"s1": ["a"]}, tables=kept())
    world.apply(what)
    put(world, now_of(world))
    name = this_month(world)
    patched_drop(monkeypatch, world, name, 1)
    _, report = expire(world, what)
    assert [f.message for f in report.failures] == []
    file, manifest = manifest_of(world, name)
    data = file.with_name(manifest["file"]["name"]).read_bytes()
    assert b"changed 1" in zstandard.ZstdDecompressor().decompressobj().decompress(data)
    # The first archive was discarded, not left beside the second.
    assert len([f for f in files(world) if name in f]) == 2


def test_rows_that_never_rest(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    what = layout({"s1": ["a"]}, tables=kept())
    world.apply(what)
    put(world, now_of(world))
    name = this_month(world)
    seen = patched_drop(monkeypatch, world, name, 2)
    later, report = expire(world, what)
    assert seen == [2]
    (failure,) = report.failures
    assert (failure.code, failure.table) == ("PS544", "log_s1")
    assert name in failure.message
    assert report.exit_code == 1
    assert world.value(f"SELECT body FROM {name}") == "changed 2"
    assert [f for f in files(world) if name in f] == []
    # Everything else went on, and the next run tries again.
    assert len([r for r in retired(world).values() if r[0] == "archived"]) >= 2
    assert any("are kept" in notice for notice in report.notices)
    maintain(world, what, later)
    assert not there(world, name)


def test_a_writer_that_commits_while_the_drop_waits(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A snapshot from before the lock was granted would miss the row, and drop it."""
    what = layout({"s1": ["a"]}, tables=kept())
    world.apply(what)
    put(world, now_of(world))
    name = this_month(world)
    database = database_name(world.dsn("core"))
    world.execute(f"ALTER DATABASE {database} SET default_transaction_isolation='repeatable read'")
    original, threads = making._Making._drop, []

    def commit_when_awaited(writer: Any) -> None:
        until(
            lambda: world.value(
                f"SELECT count(*) FROM pg_locks WHERE relation = '{name}'::regclass AND NOT granted"
            ),
            "the drop waits",
        )
        writer.execute("COMMIT")
        writer.close()

    def drop(self: Any, path: str, manifest: Any) -> None:
        if self.row.name == name and not threads:
            writer = psycopg.connect(world.dsn("core"), autocommit=True)
            writer.execute("BEGIN ISOLATION LEVEL READ COMMITTED")
            writer.execute(
                f"INSERT INTO {name} (workspace_id, item_id, at) "
                f"SELECT workspace_id, item_id, at FROM {name}"
            )
            threads.append(threading.Thread(target=commit_when_awaited, args=[writer]))
            threads[0].start()
        original(self, path, manifest)

    monkeypatch.setattr(making._Making, "_drop", drop)
    _, report = expire(world, what)
    threads[0].join()
    assert [f.message for f in report.failures] == []
    assert retired(world)[name][2] == 2


def test_a_column_that_came_after_the_plan(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    what = layout({"s1": ["a"]}, tables=kept())
    world.apply(what)
    put(world, now_of(world))
    name = this_month(world)
    original = making._Making._copy

    def copy(self: Any, control: str) -> Any:
        if self.row.name == name:
            world.execute(f"ALTER TABLE {name} ADD COLUMN late integer DEFAULT 7")
        return original(self, control)

    monkeypatch.setattr(making._Making, "_copy", copy)
    later, report = expire(world, what)
    monkeypatch.undo()
    assert [f.code for f in report.failures] == ["PS545"]
    assert there(world, name)
    maintain(world, what, later)
    assert manifest_of(world, name)[1]["columns"][-1]["name"] == "late"


def test_another_table_of_the_same_name(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    what = layout({"s1": ["a"]}, tables=kept())
    world.apply(what)
    name = this_month(world)
    original = making._Making._drop

    def drop(self: Any, path: str, manifest: Any) -> None:
        if self.row.name == name:
            world.execute(
                f"ALTER TABLE {name} RENAME TO aside", f"CREATE TABLE {name} (LIKE aside)"
            )
        original(self, path, manifest)

    monkeypatch.setattr(making._Making, "_drop", drop)
    _, report = expire(world, what)
    assert [f.code for f in report.failures] == ["PS545"]
    assert there(world, name)
    assert there(world, "aside")


# --- what may go wrong ----------------------------------------------------------------------------


def test_row_security_is_never_a_filter(world: World) -> None:
    """Forced policies would hide rows from the owner: an error, and the table stays."""
    world.clusters.need(superuser=True)
    what = layout({"s1": ["a"]}, tables=kept())
    world.apply(what)
    put(world, now_of(world))
    name = this_month(world)
    now = months(now_of(world), 4)
    maintain(world, what, now)
    owner = f"owner_{world.name}"
    database = database_name(world.dsn("core"))
    world.execute(
        f"CREATE ROLE {owner} LOGIN PASSWORD 'x' NOSUPERUSER NOBYPASSRLS",
        f"GRANT ALL ON DATABASE {database} TO {owner}",
        f"ALTER TABLE {name} OWNER TO {owner}",
        f"ALTER TABLE {name} ENABLE ROW LEVEL SECURITY",
        f"ALTER TABLE {name} FORCE ROW LEVEL SECURITY",
        f"CREATE POLICY mine ON {name} USING (workspace_id = 'nobody')",
        f"GRANT ALL ON SCHEMA parlant_shard, public TO {owner}",
        f"GRANT ALL ON ALL TABLES IN SCHEMA parlant_shard, public TO {owner}",
    )
    topology = world.load(what)
    dsn = make_conninfo(world.dsn("core"), user=owner, password="x")
    try:
        report = upkeep.maintain(topology.with_dsns({"core": dsn}), now=now + timedelta(days=8))
        mine = [f for f in report.failures if name in f.message]
        assert len(mine) == 1, report.failures
        assert "row-level security" in mine[0].message
        assert world.value(f"SELECT count(*) FROM {name}") == 1
        assert [f for f in files(world) if name in f] == []
    finally:
        world.execute(
            f"REASSIGN OWNED BY {owner} TO CURRENT_USER",
            f"DROP OWNED BY {owner}",
            f"DROP ROLE {owner}",
        )
    maintain(world, what, now + timedelta(days=8))
    assert not there(world, name)


def test_a_disk_that_is_full(world: World) -> None:
    """A process that may write 20 kB to a file: rows that need more stay, all else goes on."""
    what = layout({"s1": ["a"]}, tables=kept())
    world.apply(what)
    put(world, now_of(world))
    name = this_month(world)
    world.execute(
        f"INSERT INTO {name} (workspace_id, item_id, at, body) SELECT workspace_id, item_id, at, "
        f"(SELECT string_agg(md5(random()::text || i || j), '') FROM generate_series(1, 50) j) "
        f"FROM {name}, generate_series(1, 2000) i"
    )
    now = months(now_of(world), 4)
    maintain(world, what, now)
    later = now + timedelta(days=8)
    code = (
        "import json, resource, signal, sys\n"
        "from parlant_shard import maintain\n"
        "from parlant_shard.topology import load_topology\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))\n"
        "r = maintain.maintain(load_topology(sys.argv[1]), now=maintain.moment(sys.argv[2]))\n"
        "print(json.dumps([r.exit_code, [[f.code, f.message] for f in r.failures]]))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(written(world, what)), later.isoformat()],
        capture_output=True,
        text=True,
        env=environment(),
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    exit_code, ((error, message),) = json.loads(done.stdout)
    assert (exit_code, error) == (1, "PS541")
    assert name in message
    assert "file too large" in message
    assert world.value(f"SELECT count(*) FROM {name}") == 2001
    assert [f for f in files(world) if name in f] == []
    assert "archived" in {r[0] for r in retired(world).values()}
    maintain(world, what, later)
    assert not there(world, name)


def test_a_target_that_refuses(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    what = layout({"s1": ["a"]}, tables=kept(archive="memory://closed"))
    world.apply(what)
    put(world, now_of(world))
    name = this_month(world)

    def refuse(*_: Any, **__: Any) -> None:
        raise RuntimeError("403 from s3://user:geheim@host")

    monkeypatch.setattr("fsspec.implementations.memory.MemoryFileSystem.makedirs", refuse)
    later, report = expire(world, what)
    assert {f.code for f in report.failures} == {"PS541"}
    assert not any("geheim" in f.message for f in report.failures)
    assert there(world, name)
    monkeypatch.undo()
    maintain(world, what, later)
    assert not there(world, name)


def test_a_directory_that_cannot_be(world: World) -> None:
    what = layout({"s1": ["a"]}, tables=kept(archive="old/deep"))
    world.apply(what)
    (world.directory / "old").write_text("a file")
    later, report = expire(world, what)
    assert {f.code for f in report.failures} == {"PS541"}
    assert there(world, this_month(world))
    (world.directory / "old").unlink()
    maintain(world, what, later)


def test_an_extra_that_is_missing(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    what = layout({"s1": ["a"]}, tables=kept(archive={"to": "old/", "parquet": True}))
    world.apply(what)
    find = target.find_spec
    monkeypatch.setattr(target, "find_spec", lambda n: None if n == "pyarrow" else find(n))
    _, report = expire(world, what)
    (failure,) = report.failures  # of the table, not of each of its partitions
    assert (failure.code, failure.hint) == ("PS540", "pip install 'parlant-shard[parquet]'")
    assert files(world) == []
    assert there(world, this_month(world))


def test_an_archive_that_does_not_restore(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """A storage that loses a byte is found out before the table goes."""
    what = layout({"s1": ["a"]}, tables=kept())
    world.apply(what)
    put(world, now_of(world))
    name = this_month(world)
    original = target.Directory.open

    def damaged(self: Any, path: str) -> Any:
        stream = original(self, path)
        if name in path and path.endswith(".zst"):
            with stream:
                data = bytearray(stream.read())
            data[len(data) // 2] ^= 1
            return io.BytesIO(bytes(data))
        return stream

    monkeypatch.setattr(target.Directory, "open", damaged)
    later, report = expire(world, what)
    monkeypatch.undo()
    (failure,) = report.failures
    assert failure.code == "PS542"
    assert there(world, name)
    assert [f for f in files(world) if name in f] == []
    maintain(world, what, later)
    assert not there(world, name)


def test_an_archive_that_is_there_is_used(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed between manifest and drop: the next run verifies what is there, and writes nothing."""
    what = layout({"s1": ["a"]}, tables=kept())
    world.apply(what)
    put(world, now_of(world))
    name = this_month(world)

    def stop(*_: Any) -> None:
        raise psycopg.errors.QueryCanceled("as if killed")

    monkeypatch.setattr(making._Making, "_drop", stop)
    later, report = expire(world, what)
    assert report.exit_code == 1
    monkeypatch.undo()
    before = {f: (world.directory / "old" / f).stat().st_mtime_ns for f in files(world)}
    left = next(f for f in before if name in f and f.endswith(".zst"))
    orphan = (world.directory / "old" / left).with_name("." + Path(left).name + ".0a1b2c3d.tmp")
    orphan.write_bytes(b"of a killed run")
    assert {e.state for e in listing(world.load(what))[0]} == {"unrecorded"}
    maintain(world, what, later)
    after = {f: (world.directory / "old" / f).stat().st_mtime_ns for f in files(world)}
    assert after == before
    assert {e.state for e in listing(world.load(what), verify=True)[0]} == {"archived"}


def test_a_damaged_archive_is_made_again(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    what = layout({"s1": ["a"]}, tables=kept())
    world.apply(what)
    put(world, now_of(world))
    name = this_month(world)

    def stop(*_: Any) -> None:
        raise psycopg.errors.QueryCanceled("as if killed")

    monkeypatch.setattr(making._Making, "_drop", stop)
    later, _ = expire(world, what)
    monkeypatch.undo()
    (left,) = [f for f in files(world) if name in f and f.endswith(".zst")]
    file = world.directory / "old" / left
    data = bytearray(file.read_bytes())
    data[-20] ^= 255
    file.write_bytes(bytes(data))
    maintain(world, what, later)
    assert not there(world, name)
    assert {e.state for e in listing(world.load(what), verify=True)[0]} == {"archived"}


# --- archive list ---------------------------------------------------------------------------------


def test_the_list(world: World, capfd: pytest.CaptureFixture[str]) -> None:
    what = layout({"s1": ["a"]}, tables=kept())
    world.apply(what)
    put(world, now_of(world))
    name = this_month(world)
    file = str(written(world, what))
    assert run(["archive", "list", file]) == 0
    assert "no partition is archived" in capfd.readouterr().out
    expire(world, what)
    written(world, what)

    def states(*options: str, code: int = 0) -> dict[str, str]:
        capfd.readouterr()
        assert run(["archive", "list", file, "--output", "json", *options]) == code
        found = json.loads(capfd.readouterr().out)
        assert found["format_version"] == 1
        return {e["partition"]: e["state"] for e in found["archives"]}

    assert set(states("--verify").values()) == {"archived"}
    capfd.readouterr()
    run(["archive", "list", file, "--output", "json"])
    (entry,) = [e for e in json.loads(capfd.readouterr().out)["archives"] if e["partition"] == name]
    start = months(now_of(world), 0)
    assert (entry["table"], entry["shard"], entry["rows"]) == ("log", "s1", 1)
    assert (entry["from"], entry["to"]) == (
        f"{start.isoformat()}Z",
        f"{months(start, 1).isoformat()}Z",
    )
    manifest = Path(entry["path"])
    data = manifest.with_name(json.loads(manifest.read_text())["file"]["name"])
    whole = data.read_bytes()
    data.write_bytes(whole[:-9] + bytes([whole[-9] ^ 1]) + whole[-8:])
    assert states()[name] == "archived"
    assert states("--verify", code=3)[name] == "corrupt"
    data.write_bytes(whole[:-1])
    assert states()[name] == "corrupt"
    data.unlink()
    assert states()[name] == "missing"
    data.write_bytes(whole)
    text = manifest.read_text()
    manifest.write_text(text.replace('"rows": 1', '"rows": 2'))
    assert states()[name] == "corrupt"
    manifest.write_text(text)
    other = manifest.with_name("copy.000000000000.json")
    other.write_text(text)
    capfd.readouterr()
    assert run(["archive", "list", file]) == 0
    assert "unrecorded" in capfd.readouterr().out
    other.unlink()
    assert run(["archive", "list", file]) == 0
    assert name in capfd.readouterr().out


def test_the_list_while_a_server_is_down(
    tmp_path: Path, clusters: Clusters, capfd: pytest.CaptureFixture[str]
) -> None:
    world = World(tmp_path, clusters, over=2)
    what = layout({"s1": ["a"], "s2": ("east", ["b"])}, tables=kept())
    world.apply(what)
    expire(world, what)
    file = written(world, what)
    text = file.read_text()
    file.write_text(text.replace(f"dbname={database_name(world.dsn('east'))}", "dbname=nowhere"))
    assert run(["archive", "list", str(file), "--output", "json"]) == 1
    said = capfd.readouterr()
    assert 'cannot connect to server \\"east\\"' in said.err
    found = json.loads(said.out)["archives"]
    assert {(e["shard"], e["state"], e["confirmed"]) for e in found} == {
        ("s1", "archived", True),
        ("s2", "archived", False),
    }
    file.write_text(re.sub(r"dbname=\w+", "dbname=nowhere", text))
    assert run(["archive", "list", str(file), "--output", "json"]) == Exit.CANNOT_CONNECT
    found = json.loads(capfd.readouterr().out)["archives"]
    assert {(e["shard"], e["confirmed"]) for e in found} == {("s1", False), ("s2", False)}


def test_a_disk_that_is_not_mounted(world: World) -> None:
    """What was a target yesterday is not made anew below the mount point."""
    what = layout({"s1": ["a"]}, ddl=RICH, tables=kept())
    world.apply(what)
    fill(world, now_of(world))
    later, report = expire(world, what)
    assert report.archived
    (world.directory / "old").rename(world.directory / "elsewhere")
    fill(world, later)
    name = f"log_s1_p{months(later, 0):%Y%m%d}"
    again = months(later, 6)
    upkeep.maintain(world.load(what), now=again)
    broken = upkeep.maintain(world.load(what), now=again + timedelta(days=8))
    assert {f.code for f in broken.failures} == {"PS541"}
    assert "is its disk mounted?" in str(broken.failures[0].hint)
    assert there(world, name)
    assert not (world.directory / "old").exists()
    (world.directory / "elsewhere").rename(world.directory / "old")
    assert upkeep.maintain(world.load(what), now=again + timedelta(days=8)).failures == []
    assert not there(world, name)
