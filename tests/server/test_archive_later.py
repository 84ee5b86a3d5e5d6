"""Restores of archives that lie elsewhere, that somebody wrote, or whose table has moved on."""

from __future__ import annotations

import json
from datetime import timedelta
from pathlib import Path
from typing import Any, ClassVar

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem
from protocol import SCHEMA, World, layout
from test_archive import (
    RICH,
    copied,
    expire,
    fill,
    kept,
    manifest_of,
    retired,
    stored,
    there,
    this_month,
)
from test_maintain import cut, months, now_of, put
from test_maintain_crash import written

import clocks
from parlant_shard import maintain as upkeep
from parlant_shard import privacy
from parlant_shard.archive import listing, parse
from parlant_shard.archive.manifest import _digest
from parlant_shard.cli import run
from parlant_shard.errors import ArchiveError
from parlant_shard.restore import restore
from parlant_shard.topology import Archive, Interval
from servers import Clusters

pytestmark = pytest.mark.matrix


@pytest.fixture
def world(tmp_path: Path, clusters: Clusters) -> World:
    """Give the databases of one server."""
    return World(tmp_path, clusters)


def states(world: World, what: Any) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for entry in listing(world.load(what))[0]:
        found.setdefault(entry.partition, []).append(entry.state)
    return found


def refused(world: World, what: Any, name: str, **more: Any) -> ArchiveError:
    with pytest.raises(ArchiveError) as caught:
        restore(world.load(what), name, **more)
    assert not there(world, name)
    assert retired(world)[name][0] == "archived"
    return caught.value


def test_an_archive_elsewhere_is_found_again(world: World) -> None:
    """What is recorded of it leads to it, also from outside, by links and by `..`."""
    what = layout({"s1": ["a"]}, tables=kept(archive="sub/../old"))
    world.apply(what)
    (world.directory / "sub").mkdir()
    put(world, now_of(world))
    name = this_month(world)
    expire(world, what)
    first = manifest_of(world, name)[0].resolve()
    link = world.directory / "link"
    link.symlink_to(world.directory / "old")
    inside = str(link / first.relative_to(world.directory / "old"))
    restore(world.load(what), name, archive=inside)
    assert retired(world)[name][1] == f"{world.name}/s1/{first.name}"
    assert states(world, what)[name] == ["restored"]

    world.execute(
        f"ALTER TABLE log_s1 DETACH PARTITION {name}",
        f"DROP TABLE {name}",
        "UPDATE parlant_shard.retired SET state = 'archived'",
    )
    aside = world.directory / "aside"
    aside.mkdir()
    for file in first.parent.glob(f"{first.stem}*"):
        file.rename(aside / file.name)
    restore(world.load(what), name, archive=str(aside / first.name))
    assert retired(world)[name][1] == str(aside / first.name)
    assert states(world, what)[name] == ["restored"]


def test_an_empty_partition_fits_always(world: World) -> None:
    """A column that is gone held nothing; one that is generated now neither."""
    ddl = SCHEMA.replace("  body text\n", "  body text, size integer\n")
    what = layout({"s1": ["a"]}, ddl=ddl, tables=kept())
    world.apply(what)
    name = this_month(world)
    expire(world, what)
    assert retired(world)[name][2] == 0
    fewer = layout({"s1": ["a"]}, ddl=SCHEMA.replace("  body text\n", "  x text\n"), tables=kept())
    world.apply(fewer, allow=frozenset({"deletes-data", "drops-object"}))
    made = "  size integer GENERATED ALWAYS AS (1) STORED\n"
    again = layout({"s1": ["a"]}, ddl=SCHEMA.replace("  body text\n", made), tables=kept())
    world.apply(again, allow=frozenset({"deletes-data", "drops-object"}))
    restore(world.load(again), name)
    world.settled(again)
    assert retired(world)[name][0] == "restored"


def test_a_default_partition_with_rows_of_the_range(world: World) -> None:
    """Nothing is made that ATTACH would refuse."""
    what = layout({"s1": ["a"]}, tables=kept(default=True))
    world.apply(what)
    put(world, now_of(world))
    name = this_month(world)
    expire(world, what)
    insert = "INSERT INTO log_s1 (workspace_id, item_id, at) SELECT 'a', id, {} FROM item_s1"
    world.execute(insert.format("now()"))
    error = refused(world, what, name)
    assert error.code == "PS550"
    assert 'default partition "log_s1_default" holds 1 rows of its range' in error.message
    assert "--beside" in (error.hint or "")
    world.execute("DELETE FROM log_s1", insert.format("now() - interval '3 years'"))
    restore(world.load(what), name)
    assert world.value("SELECT count(*) FROM log_s1") == 2


def test_rows_that_come_after_the_archive(world: World) -> None:
    """Their partition has a name of its own: both archives stay recorded, and come back."""
    what = layout({"s1": ["a"]}, tables=kept(default=True))
    world.apply(what)
    put(world, now_of(world))
    name = this_month(world)
    later, _ = expire(world, what)
    first = retired(world)[name]
    world.execute(
        "INSERT INTO log_s1 (workspace_id, item_id, at, body) SELECT 'a', id, now(), 'late' "
        "FROM item_s1"
    )
    topology = world.load(what)
    (moved,) = upkeep.maintain(topology, now=later, move=10).moved
    assert moved.rows == 1
    for days in (0, 8):
        report = upkeep.maintain(topology, now=later + timedelta(days=days))
        assert [f.message for f in report.failures] == []
    assert retired(world)[name] == first
    second = retired(world)[f"{name}_x"]
    assert (second[0], second[2]) == ("archived", 1)
    assert {n: states(world, what)[n] for n in (name, f"{name}_x")} == {
        name: ["archived"],
        f"{name}_x": ["archived"],
    }
    restore(topology, name)
    assert world.rows("SELECT body FROM log_s1") == [(None,)]
    restore(topology, f"{name}_x", beside=True)
    assert world.rows(f"SELECT body FROM {name}_x") == [("late",)]


@pytest.mark.parametrize("by_hand", [False, True])
def test_a_longer_retention_keeps_what_was_restored(world: World, by_hand: bool) -> None:
    """Detached once more it is no copy: it is kept, as one that was never archived."""
    what = layout({"s1": ["a"]}, tables=kept())
    world.apply(what)
    put(world, now_of(world))
    name = this_month(world)
    later, _ = expire(world, what)
    restore(world.load(what), name, beside=by_hand, keep=Interval(1, "day"))
    if by_hand:
        start, end = months(now_of(world), 0), months(now_of(world), 1)
        world.execute(
            f"ALTER TABLE log_s1 ATTACH PARTITION {name} FOR VALUES FROM ('{start}Z') TO ('{end}Z')"
        )
    upkeep.maintain(world.load(what), now=later)
    assert world.value("SELECT count(*) FROM log_s1") == 0
    assert retired(world)[name][0] == "detached"
    longer = layout({"s1": ["a"]}, tables=cut("1 month", 1, retention="2 years", archive="old/"))
    due = later + timedelta(days=30)
    report = upkeep.maintain(world.load(longer), now=due)
    assert any("would not have expired" in n for n in report.notices)
    assert there(world, name)
    upkeep.maintain(world.load(what), now=due)
    assert not there(world, name)
    assert retired(world)[name][0] == "archived"
    # A copy that nobody attached goes again, whatever the retention is.
    restore(world.load(what), name, beside=True, keep=Interval(1, "day"))
    upkeep.maintain(world.load(longer), now=due)
    assert retired(world)[name][0] == "archived"


def test_types_that_changed(world: World) -> None:
    """An enum under another name; a text that is a number now, and no value in the message."""
    what = layout({"s1": ["a"]}, ddl=RICH, tables=kept())
    world.apply(what)
    fill(world, now_of(world))
    name, columns = this_month(world), stored(world)
    before = copied(world, name, columns)
    expire(world, what)
    manifest = manifest_of(world, name)[1]
    world.execute("ALTER TYPE mood RENAME TO feeling")
    renamed = RICH.replace("mood mood", "mood feeling").replace("TYPE mood", "TYPE feeling")
    now = layout({"s1": ["a"]}, ddl=renamed, tables=kept())
    error = refused(world, now, name, beside=True)
    assert error.code == "PS552"
    assert 'type "public.mood" does not exist' in error.message
    assert "`types`" in (error.hint or "")
    world.execute(*manifest["types"])
    restore(world.load(now), name, beside=True)
    assert copied(world, name, columns) == before
    world.execute(
        f"DROP TABLE {name}",
        "DROP TYPE mood",
        "UPDATE parlant_shard.retired SET state = 'archived'",
        "DROP VIEW log_global",
        "ALTER TABLE log_s1 DROP COLUMN size",
        "ALTER TABLE log_s1 ALTER COLUMN body TYPE integer USING NULL",
        "ALTER TABLE log_s1 ADD COLUMN size integer GENERATED ALWAYS AS (body) STORED",
    )
    error = refused(world, now, name)
    assert error.code == "PS552"
    assert 'types changed: "body" from text to integer, "mood" from' in error.message
    assert '"tab' not in error.message


EVIL = """CREATE FUNCTION evil() RETURNS integer LANGUAGE sql
AS 'INSERT INTO public.seen VALUES (1) RETURNING n'"""


def test_statements_of_others_are_not_run(world: World) -> None:
    """A CHECK, a default or an index of a forged manifest would run functions as the owner."""
    ddl = SCHEMA.replace("  body text\n", "  body text CHECK (public.fine(body) > length(body))\n")
    fine = "CREATE FUNCTION fine(text) RETURNS integer LANGUAGE sql AS 'SELECT length($1) + 1';\n"
    what = layout({"s1": ["a"]}, ddl=fine + ddl, tables=kept())
    world.execute(fine)
    world.apply(what)
    put(world, now_of(world))
    name = this_month(world)
    expire(world, what)
    world.execute("CREATE TABLE seen (n integer)", EVIL)
    file = manifest_of(world, name)[0]
    text = file.read_bytes()
    right = parse(text, where="x")
    create, *rest = right.ddl
    assert "public.fine(" in create  # what the table itself calls is no reason to refuse
    open_end = create.removesuffix("\n)")
    for bad, said in {
        open_end + ", CHECK (public.evil() > 0)\n)": '"evil"',
        open_end + ", x integer DEFAULT 1\n)": "do not make",
        open_end + ", x integer GENERATED BY DEFAULT AS IDENTITY\n)": "do not make",
        open_end + ", FOREIGN KEY (workspace_id) REFERENCES public.account_s1 (id)\n)": "do not",
        open_end + ", LIKE public.account_s1 INCLUDING ALL\n)": "do not make",
        open_end + ", CHECK (body OPERATOR(public.=) 'x')\n)": '"="',
        open_end + ", CHECK (pg_notify('a', body) IS NULL)\n)": '"pg_notify"',
        create + " INHERITS (public.seen)": "do not make",
        create + " TABLESPACE other": "do not make",
        create.replace("CREATE TABLE", "CREATE UNLOGGED TABLE"): "do not make",
        create + "; DROP TABLE seen": "do not make",
        "": "do not make",
        "CREATE": "does not read",
    }.items():
        file.write_text(right.model_copy(update={"ddl": (bad, *rest)}).text())
        error = refused(world, what, name, beside=True)
        assert error.code == "PS554", bad
        assert said in error.message, (bad, error.message)
    index = f"CREATE INDEX i ON public.{name} USING btree (public.evil())"
    file.write_text(right.model_copy(update={"ddl": (create, index)}).text())
    assert '"evil"' in refused(world, what, name, beside=True).message
    assert world.value("SELECT count(*) FROM seen") == 0
    # An index that only a partition of today has says that the function is the owner's.
    leaf = next(
        t
        for (t,) in world.rows(
            "SELECT inhrelid::regclass::text FROM pg_inherits WHERE inhparent = 'log_s1'::regclass"
        )
    )
    world.execute(
        "CREATE FUNCTION norm(text) RETURNS text IMMUTABLE LANGUAGE sql AS 'SELECT upper($1)'"
    )
    index = f"CREATE INDEX i ON public.{name} USING btree (public.norm(body))"
    file.write_text(right.model_copy(update={"ddl": (create, index)}).text())
    assert '"norm"' in refused(world, what, name, beside=True).message
    world.execute(f"CREATE INDEX ON {leaf} (public.norm(body))")
    restore(world.load(what), name, beside=True)


def forged(text: bytes, **more: Any) -> bytes:
    """A manifest with other fields and a digest that is right."""
    data = json.loads(text)
    del data["manifest_sha256"]
    data |= more
    data["manifest_sha256"] = _digest(data)
    return json.dumps(data).encode()


def test_manifests_that_are_none(world: World, capfd: pytest.CaptureFixture[str]) -> None:
    """Each is an entry in the list and one clear error, whatever it holds."""
    what = layout({"s1": ["a"]}, tables=kept())
    world.apply(what)
    put(world, now_of(world))
    name = this_month(world)
    expire(world, what)
    path = manifest_of(world, name)[0]
    text = path.read_bytes()
    file = str(written(world, what))
    other = path.with_name("\x1b[2Jred.000000000000.json")
    for bad in (
        b"[" * 200_000,
        forged(text, **{"from": "2026-01-01T00:00:00+02:00"}),
        forged(text, rows=-1),
        forged(text, columns=[]),
    ):
        other.write_bytes(bad)
        path.write_bytes(bad)
        assert run(["archive", "list", file]) == 0
        said = capfd.readouterr()
        assert said.out.count("corrupt") == 2, said
        assert "\x1b" not in said.out + said.err
        assert run(["archive", "restore", file, name]) == 1
        assert "PS543" in capfd.readouterr().err
    path.write_bytes(text)
    other.write_bytes(forged(text, partition="x\x1b[2Jred\nlog  s1  fake"))
    assert run(["archive", "list", file]) == 0
    said = capfd.readouterr()
    assert "\x1b" not in said.out + said.err
    assert not [line for line in said.out.splitlines() if line.startswith("log  s1  fake")]
    other.unlink()
    other.mkdir()  # no file at all
    assert run(["archive", "list", file]) == 0
    assert "red" not in capfd.readouterr().out
    restore(world.load(what), name)


def test_a_role_whose_transactions_end(world: World) -> None:
    """PostgreSQL 17 knows a limit for transactions; a large partition takes as long as it takes."""
    world.clusters.need(major=17)
    what = layout({"s1": ["a"]}, tables=kept())
    world.apply(what)
    put(world, now_of(world))
    name = this_month(world)
    world.execute(
        f"INSERT INTO {name} (workspace_id, item_id, at, body) "
        f"SELECT workspace_id, item_id, at, repeat('x', 1000) FROM {name}, generate_series(1, 9999)"
    )
    database = world.value("SELECT current_database()")
    world.execute(f"ALTER DATABASE {database} SET transaction_timeout = '20ms'")
    try:
        topology = world.load(what)
        now = months(clocks.now(), 4)
        upkeep.maintain(topology, now=now)
        report = upkeep.maintain(topology, now=now + timedelta(days=8))
        assert [f.message for f in report.failures] == []
        restore(topology, name)
    finally:
        world.execute("SET transaction_timeout = 0", f"ALTER DATABASE {database} RESET ALL")
    assert retired(world)[name][0::2] == ("restored", 10_000)


ALONE = """
CREATE TABLE log (
  id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
  workspace_id text NOT NULL,
  at timestamptz NOT NULL DEFAULT now(),
  body text
);
"""


def test_rows_of_a_purged_workspace(world: World) -> None:
    """They do not come back unseen, and every file that holds them is named."""
    what = layout({"s1": ["a", "b"]}, ddl=ALONE, tables=kept())
    world.apply(what)
    world.execute("INSERT INTO log_s1 (workspace_id) VALUES ('a'), ('a'), ('b')")
    name = this_month(world)
    later, _ = expire(world, what)
    topology = world.load(what)
    first = manifest_of(world, name)[0]
    restore(topology, name, beside=True, keep=Interval(1, "day"))

    def named(ws: str) -> dict[str, str]:
        found = privacy.purge(topology, ws, dry_run=True)
        return {Path(a["path"]).name: a["state"] for a in found.archives if a["partition"] == name}

    assert named("a") == {first.name: "detached"}
    file = world.directory / "a.tar"
    done = privacy.export(topology, "a", file=file)
    assert [a["state"] for a in done.archives if a["partition"] == name] == ["detached"]
    assert done.rows == 2
    assert privacy.purge(topology, "a", allow=frozenset({"deletes-data"})).total == 2
    upkeep.maintain(topology, now=later + timedelta(days=30))
    second = manifest_of(world, name)[0]
    assert named("b") == {first.name: "unrecorded", second.name: "archived"}
    error = refused(world, what, name, archive=str(first))
    assert error.code == "PS552"
    assert "2 rows are of workspaces that were purged" in error.message
    assert "--beside" in (error.hint or "")
    restore(topology, name)
    assert world.rows("SELECT workspace_id FROM log_s1") == [("b",)]


def test_a_target_that_cannot_be_looked_into(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """A purge does not wait for it, and says that more archives may be there."""
    what = layout({"s1": ["a"]}, ddl=ALONE, tables=kept(archive="memory://shut"))
    world.apply(what)

    def refuse(*_: Any, **__: Any) -> None:
        raise RuntimeError("403 from memory://user:geheim@host")

    monkeypatch.setattr("fsspec.implementations.memory.MemoryFileSystem.exists", refuse)
    done = privacy.purge(world.load(what), "a", allow=frozenset({"deletes-data"}))
    (notice,) = [n for n in done.plan.notices if "other archives may hold rows" in n]
    assert "403" in notice
    assert "geheim" not in notice


def test_a_password_in_a_url_is_not_shown(world: World, capfd: pytest.CaptureFixture[str]) -> None:
    """Nor in plans, the journal, the trail or the list; a container before the @ stays."""
    kept_one = "memory://user:ge:h@eim@box/old"
    what = layout({"s1": ["a"]}, ddl=ALONE, tables=kept(archive=kept_one))
    world.apply(what)
    name = this_month(world)
    start = months(now_of(world), 4)
    upkeep.maintain(world.load(what), now=start)
    file, now = str(written(world, what)), (start + timedelta(days=8)).isoformat()
    for command in (
        ["maintain", file, "--now", now, "--dry-run", "-v"],
        ["maintain", file, "--now", now, "-v", "--output", "json"],
        ["archive", "list", file, "--verify", "--output", "json"],
        ["archive", "restore", file, name, "-v"],
        ["status", file, "--history", "--output", "json"],
    ):
        assert run(command) == 0, command
        said = capfd.readouterr()
        assert "eim" not in said.out + said.err, command
    assert retired(world)[name][1].startswith(f"memory://box/old/{world.name}/")
    for table in ("retired", "step", "audit"):
        assert "eim" not in str(world.rows(f"SELECT * FROM parlant_shard.{table}")), table
    assert Archive(to="abfs://box@account.net/x").shown == "abfs://box@account.net/x"


def test_a_shard_that_is_on_another_server_now(tmp_path: Path, clusters: Clusters) -> None:
    """When all is archived a shard may change its server; its archives follow it."""
    world = World(tmp_path, clusters, over=2)
    what = layout({"s1": ["a"], "s2": ("east", ["b"])}, ddl=ALONE, tables=kept())
    world.apply(what)
    world.execute("INSERT INTO log_s1 (workspace_id) VALUES ('a')")
    name = this_month(world)
    expire(world, what)
    there_now = layout({"s1": ("east", ["a"]), "s2": ("east", ["b"])}, ddl=ALONE, tables=kept())
    # Not applied yet: it goes to where the table is.
    found = restore(world.load(there_now), name)
    assert found.server == "core"
    world.execute(
        f"ALTER TABLE log_s1 DETACH PARTITION {name}",
        f"DROP TABLE {name}",
        "UPDATE parlant_shard.retired SET state = 'archived'",
    )
    world.apply(there_now, allow=frozenset({"deletes-data", "drops-object"}))
    world.execute(f"DROP TABLE {name}", server="east")  # premade by the real clock, and empty
    found = restore(world.load(there_now), name)
    assert (found.server, found.rows) == ("east", 1)
    assert world.value("SELECT count(*) FROM log_global") == 1
    assert name not in retired(world)
    assert retired(world, "east")[name][0] == "restored"
    assert states(world, there_now)[name] == ["restored"]
    assert restore(world.load(there_now), name).steps == 0


class Flaky(MemoryFileSystem):
    """A store that fails in the middle of a file, and keeps what it got when the file is closed."""

    protocol = "flaky"
    store: ClassVar[dict[str, Any]] = {}
    pseudo_dirs: ClassVar[list[str]] = [""]
    failing: ClassVar[str | None] = None

    def _open(self, path: str, mode: str = "rb", **more: Any) -> Any:
        file = super()._open(path, mode, **more)
        if mode == "wb" and Flaky.failing and path.endswith(Flaky.failing):
            whole = file.write

            def write(data: bytes) -> int:
                whole(data[: len(data) // 2])
                raise RuntimeError("connection reset")

            file.write = write
        return file


def test_a_store_that_fails_half_way(world: World) -> None:
    """Nothing is left of it, the table stays, and the next run succeeds."""
    fsspec.register_implementation("flaky", Flaky, clobber=True)
    archive = {"to": "flaky://box/old", "parquet": True}
    what = layout({"s1": ["a"]}, ddl=ALONE, tables=kept(archive=archive))
    world.apply(what)
    world.execute("INSERT INTO log_s1 (workspace_id) VALUES ('a')")
    name = this_month(world)
    now = months(now_of(world), 4)
    topology = world.load(what)
    upkeep.maintain(topology, now=now)
    world.execute(f"DELETE FROM parlant_shard.retired WHERE name <> '{name}'")
    later = now + timedelta(days=8)
    for Flaky.failing in (".copy.zst", ".parquet", ".json"):
        report = upkeep.maintain(topology, now=later)
        assert [(f.code, "connection reset" in f.message) for f in report.failures] == [
            ("PS541", True)
        ]
        assert there(world, name)
        assert Flaky.store == {}, Flaky.failing
    Flaky.failing = None
    assert upkeep.maintain(topology, now=later).failures == []
    assert not there(world, name)
    assert {e.state for e in listing(topology, verify=True)[0]} == {"archived"}
    restore(topology, name)


def test_sizes_of_a_purged_workspace_are_forgotten(world: World) -> None:
    """Also where PostgreSQL's statistics still name it."""
    what = layout({"s1": ["a", "b"]}, ddl=ALONE, tables=kept())
    world.apply(what)
    topology = world.load(what)
    world.execute(
        "INSERT INTO log_s1 (workspace_id) SELECT w FROM unnest('{a,b}'::text[]) w, "
        "generate_series(1, 50)",
        "ANALYZE",
    )
    sampled = "SELECT DISTINCT workspace_id FROM parlant_shard.sample WHERE workspace_id <> ''"
    upkeep.maintain(topology)
    assert sorted(world.rows(sampled)) == [("a",), ("b",)]
    privacy.purge(topology, "a", allow=frozenset({"deletes-data"}))
    assert world.rows(sampled) == [("b",)]
    world.execute("DELETE FROM parlant_shard.sample")
    seen = "SELECT most_common_vals::text FROM pg_stats WHERE tablename = 'log_s1' AND inherited"
    assert "a" in world.value(seen + " AND attname = 'workspace_id'")
    upkeep.maintain(topology)
    assert world.rows(sampled) == [("b",)]
