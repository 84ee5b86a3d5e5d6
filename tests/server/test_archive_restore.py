"""Archived partitions come back: the same rows, visible where they were, or beside."""

from __future__ import annotations

import json
import re
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import zstandard
from protocol import SCHEMA, Layout, World, layout
from test_archive import (
    RICH,
    copied,
    expire,
    files,
    fill,
    kept,
    manifest_of,
    retired,
    stored,
    there,
    this_month,
)
from test_maintain import bounds, maintain, months, now_of, pending, put, settled
from test_maintain_crash import written

from parlant_shard import db
from parlant_shard.archive import listing, parse
from parlant_shard.cli import run
from parlant_shard.errors import ArchiveError, Exit, Locked
from parlant_shard.executor import Executor
from parlant_shard.locks import run_lock
from parlant_shard.plan import Step
from parlant_shard.restore import restore
from parlant_shard.topology import Interval
from servers import Clusters

pytestmark = pytest.mark.matrix


@pytest.fixture
def world(tmp_path: Path, clusters: Clusters) -> World:
    """Give the databases of one server."""
    return World(tmp_path, clusters)


def test_rows_come_back_and_go_again(tmp_path: Path, clusters: Clusters) -> None:
    """Through the parent and the federated view; then the same file takes them again."""
    world = World(tmp_path, clusters, over=2)
    what = layout({"s1": ["a"], "s2": ("east", ["b"])}, ddl=RICH, tables=kept())
    world.apply(what)
    fill(world, now_of(world))
    name, columns = this_month(world), stored(world)
    before = copied(world, name, columns)
    later, report = expire(world, what)
    assert [f.message for f in report.failures] == []
    assert world.value("SELECT count(*) FROM log_global") == 0
    settled(world, what, later)

    found = restore(world.load(what), name, keep=Interval(300, "day"))
    assert (found.rows, found.state) == (6, "restored")
    assert copied(world, "log_s1", columns) == before
    assert world.value("SELECT count(*) FROM log_global") == 6
    assert world.value("SELECT size FROM log_s1 WHERE body = E'tab\\there'") == 8
    # The CHECK that spared ATTACH its scan is gone, and all that siblings have is there.
    world.settled(what)
    assert retired(world)[name][0] == "restored"
    (run_,) = world.rows(
        "SELECT command, state FROM parlant_shard.run WHERE command = 'archive restore'"
    )
    assert run_ == ("archive restore", "done")
    assert {e.partition: e.state for e in listing(world.load(what))[0]}[name] == "restored"
    # A second one finds it there; --keep moves the end.
    assert restore(world.load(what), name).steps == 0
    again = restore(world.load(what), name, keep=Interval(250, "day"))
    until = world.value("SELECT kept_until FROM parlant_shard.retired WHERE kept_until IS NOT NULL")
    assert until == again.kept_until

    # Expired by the clock of months ago, and yet kept until then.
    maintain(world, what, until - timedelta(days=1))
    assert world.value("SELECT count(*) FROM log_s1") == 6
    inventory = files(world)
    now = until + timedelta(days=1)
    maintain(world, what, now)
    assert world.value("SELECT count(*) FROM log_s1") == 0
    assert there(world, name)
    maintain(world, what, now + timedelta(days=8))
    assert not there(world, name)
    assert retired(world)[name][0] == "archived"
    mine = [f for f in files(world) if name in f]
    assert mine == [f for f in inventory if name in f]
    assert {e.state for e in listing(world.load(what), verify=True)[0]} == {"archived"}


def test_a_detach_that_is_taken_back(world: World, capfd: pytest.CaptureFixture[str]) -> None:
    """Before the archive there is none to restore; what the messages say brings the rows back."""
    what = layout({"s1": ["a"]}, tables=kept())
    world.apply(what)
    put(world, now_of(world))
    name = this_month(world)
    # Detached by a clock that runs ahead, and still in its grace.
    assert maintain(world, what, months(now_of(world), 3)).done
    report = maintain(world, what)
    (said,) = [n for n in report.notices if n.startswith("inserts into")]
    assert f'partition "{name}", which is retired' in said
    assert "ATTACH PARTITION" in said
    told(world, what, said, capfd)
    with pytest.raises(ArchiveError, match="detached and not archived") as error:
        restore(world.load(what), name)
    assert error.value.code == "PS548"
    start, end = months(now_of(world), 0), months(now_of(world), 1)
    statement = re.findall(r"ALTER TABLE .*\(…\)", error.value.hint or "")[0]
    world.execute(statement.replace("…", f"'{start}Z'", 1).replace("…", f"'{end}Z'", 1))
    assert world.value("SELECT count(*) FROM log_s1") == 1
    assert not [n for n in maintain(world, what).notices if n.startswith("inserts into")]
    assert pending(world, what) == []
    # Expired again by that clock, it is retired like any other, and then comes from its archive.
    expire(world, what)
    (said,) = [n for n in maintain(world, what).notices if n.startswith("inserts into")]
    assert "`archive restore` brings it back" in said
    told(world, what, said, capfd)


def told(world: World, what: Layout, said: str, capfd: pytest.CaptureFixture[str]) -> None:
    """Status says of the table what the notice of a run says: another run would not help."""
    reason = said.partition(": ")[2]
    file = str(written(world, what))
    assert run(["status", file, "--output", "json"]) == 0
    (horizon,) = json.loads(capfd.readouterr().out)["horizons"]
    assert (horizon["low"], horizon["reason"]) == (True, reason)
    assert run(["status", file]) == 0
    assert f"LOW: {reason}" in capfd.readouterr().out


def test_attach_scans_nothing(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """PostgreSQL says itself what it reads: the CHECK implies the bound, the key is adopted."""
    what = layout({"s1": ["a"]}, tables=kept())
    world.apply(what)
    put(world, now_of(world))
    name = this_month(world)
    expire(world, what)
    said: list[str] = []
    original = db.bare

    def bare(*args: Any, **more: Any) -> db.Connection:
        connection = original(*args, **more)
        connection.add_notice_handler(lambda d: said.append(d.message_primary or ""))
        return connection

    monkeypatch.setattr(db, "bare", bare)
    monkeypatch.setitem(db.SESSION, "client_min_messages", "debug1")
    restore(world.load(what), name)
    assert any(name in text and "is implied by existing constraints" in text for text in said)
    checked = [text for text in said if "validating foreign key constraint" in text]
    assert len(checked) == 1, checked
    # By our VALIDATE, not under the locks of ATTACH.
    implied = next(text for text in said if "is implied by existing" in text)
    assert said.index(checked[0]) < said.index(implied)
    assert world.value("SELECT count(*) FROM log_s1") == 1


def test_beside(world: World) -> None:
    what = layout({"s1": ["a"]}, ddl=RICH, tables=kept(grace="2 days"))
    world.apply(what)
    fill(world, now_of(world))
    name, columns = this_month(world), stored(world)
    before = copied(world, name, columns)
    later, _ = expire(world, what)
    now = now_of(world)
    found = restore(world.load(what), name, beside=True, keep=Interval(30, "day"))
    assert found.state == "detached"
    assert copied(world, name, columns) == before
    assert world.value("SELECT count(*) FROM log_s1") == 0
    with pytest.raises(ArchiveError) as caught:
        restore(world.load(what), name)
    assert caught.value.code == "PS549"
    maintain(world, what, now + timedelta(days=29))
    assert there(world, name)
    count = len(files(world))
    maintain(world, what, now + timedelta(days=31))
    assert not there(world, name)
    assert retired(world)[name][0] == "archived"
    assert len(files(world)) == count
    settled(world, what, later)


def test_a_table_that_has_moved_on(world: World) -> None:
    """A column more: its default. A parent row gone, a CHECK, a column less: one clear error."""
    what = layout({"s1": ["a", "b"]}, tables=kept())
    world.apply(what)
    put(world, now_of(world))
    name = this_month(world)
    expire(world, what)
    later = layout(
        {"s1": ["a", "b"]},
        ddl=SCHEMA.replace("body text\n", "body text, extra integer DEFAULT 7 NOT NULL\n"),
        tables=kept(),
    )
    world.apply(later)
    topology = world.load(later)

    world.execute("BEGIN; DELETE FROM log_s1; DELETE FROM item_s1; COMMIT")
    with pytest.raises(ArchiveError) as caught:
        restore(topology, name)
    assert caught.value.code == "PS552"
    assert '1 rows refer to rows of "item_s1" that are gone' in caught.value.message
    assert "--beside" in (caught.value.hint or "")
    assert not there(world, name)
    assert retired(world)[name][0] == "archived"

    item = manifest_row(world, name)[1]
    world.execute(
        f"INSERT INTO item_s1 (id, workspace_id, account_id) SELECT '{item}', 'a', id "
        "FROM account_s1 LIMIT 1"
    )
    restore(topology, name)
    assert world.value("SELECT extra FROM log_s1") == 7
    world.settled(later)
    world.execute(f"ALTER TABLE log_s1 DETACH PARTITION {name}", f"DROP TABLE {name}")

    fewer = layout(
        {"s1": ["a", "b"]},
        ddl=SCHEMA.replace("  body text\n", "  note text\n"),
        tables=kept(),
    )
    world.apply(fewer, allow=frozenset({"deletes-data", "drops-object"}))
    with pytest.raises(ArchiveError) as caught:
        restore(world.load(fewer), name)
    assert caught.value.code == "PS551"
    assert '"body"' in caught.value.message
    assert "1 rows" in caught.value.message
    assert not there(world, name)
    restore(world.load(fewer), name, beside=True)
    assert world.value(f"SELECT count(*) FROM {name} WHERE body IS NULL") == 1


def test_a_narrowed_type_that_changes_values_is_refused(world: World) -> None:
    """Every row loads, none is missing, and yet they are not the rows that were archived."""

    def what(type_: str) -> Layout:
        ddl = SCHEMA.replace("  body text\n", f"  body text,\n  amount {type_}\n")
        return layout({"s1": ["a"]}, ddl=ddl, tables=kept())

    world.apply(what("numeric(12,4)"))
    put(world, now_of(world))
    world.execute("UPDATE log_s1 SET amount = 1.2345")
    name = this_month(world)
    expire(world, what("numeric(12,4)"))
    world.apply(what("numeric(12,2)"), allow=frozenset({"deletes-data"}))
    with pytest.raises(ArchiveError) as caught:
        restore(world.load(what("numeric(12,2)")), name)
    assert caught.value.code == "PS552"
    assert caught.value.message == (
        f'the rows of partition "{name}" are not the same in the table as in the archive; types '
        'changed: "amount" from numeric(12,4) to numeric(12,2)'
    )
    assert not there(world, name)
    assert retired(world)[name][0] == "archived"
    restore(world.load(what("numeric(12,2)")), name, beside=True)
    assert str(world.value(f"SELECT amount FROM {name}")) == "1.2345"


def manifest_row(world: World, name: str) -> tuple[str, str]:
    """Return id and item of the only row of an archive."""
    file, manifest = manifest_of(world, name)
    data = file.with_name(manifest["file"]["name"]).read_bytes()
    text = zstandard.ZstdDecompressor().decompressobj().decompress(data).decode()
    fields = dict(zip((c["name"] for c in manifest["columns"]), text.split("\t"), strict=True))
    return fields["id"], fields["item_id"]


def test_a_workspace_that_is_elsewhere_now(world: World) -> None:
    what = layout({"s1": ["a", "b"]}, tables=kept())
    world.apply(what)
    put(world, now_of(world))
    name = this_month(world)
    expire(world, what)
    world.execute("DELETE FROM item_s1", "DELETE FROM account_s1")
    without = layout({"s1": ["b"], "s2": ["a"]}, tables=kept())
    world.apply(without)
    with pytest.raises(ArchiveError) as caught:
        restore(world.load(without), name)
    assert caught.value.code == "PS552"
    assert '1 rows do not fulfil CHECK "log_s1_workspace_check"' in caught.value.message
    assert not there(world, name)


def test_a_range_that_is_taken(world: World) -> None:
    what = layout({"s1": ["a"]}, tables=kept())
    world.apply(what)
    put(world, now_of(world))
    name = this_month(world)
    expire(world, what)
    start = months(now_of(world), 0)
    world.execute(
        f"CREATE TABLE wide PARTITION OF log_s1 FOR VALUES FROM ('{start.isoformat()}Z') "
        f"TO ('{start + timedelta(days=3)}Z')"
    )
    with pytest.raises(ArchiveError) as caught:
        restore(world.load(what), name)
    assert caught.value.code == "PS550"
    assert 'overlaps partition "wide"' in caught.value.message
    world.execute("DROP TABLE wide", f"CREATE VIEW {name} AS SELECT 1")
    with pytest.raises(ArchiveError) as caught:
        restore(world.load(what), name)
    assert caught.value.code == "PS549"
    world.execute(f"DROP VIEW {name}", f"CREATE TABLE {name} ()")
    with pytest.raises(ArchiveError) as caught:
        restore(world.load(what), name, beside=True)
    assert caught.value.code == "PS549"
    assert (
        world.value(
            f"SELECT count(*) FROM pg_attribute WHERE attrelid = '{name}'::regclass AND attnum > 0"
        )
        == 0
    )


def test_damaged_archives_make_nothing(world: World, capfd: pytest.CaptureFixture[str]) -> None:
    what = layout({"s1": ["a"]}, tables=kept())
    world.apply(what)
    put(world, now_of(world))
    name = this_month(world)
    expire(world, what)
    manifest, content = manifest_of(world, name)
    data = manifest.with_name(content["file"]["name"])
    whole, text = data.read_bytes(), manifest.read_text()

    def refused(code: str, *options: str) -> str:
        file = str(written(world, what))
        capfd.readouterr()
        assert run(["archive", "restore", file, name, "--output", "json", *options]) == 1
        (line,) = capfd.readouterr().err.strip().splitlines()
        error = json.loads(line)["error"]
        assert error["code"] == code, error
        assert error["hint"]
        assert not there(world, name)
        assert retired(world)[name][0] == "archived"
        return str(error["message"])

    for damaged in (whole[:-1], whole + b"x", whole[:40] + b"\0" + whole[41:], b""):
        data.write_bytes(damaged)
        assert "corrupt" in refused("PS542")
        assert "corrupt" in refused("PS542", "--beside")
    data.write_bytes(whole)
    for damaged in (text[:-40], text.replace('"rows": 1', '"rows": 9'), "[]", "\x00", "{}"):
        manifest.write_text(damaged)
        refused("PS543")
    manifest.unlink()
    refused("PS553")
    manifest.write_text(text)
    data.unlink()
    refused("PS553")
    data.write_bytes(whole)
    # Somebody who can write there writes statements, and a digest that is right.
    right = parse(text.encode(), where="x")
    other = right.file.model_copy(update={"sha256": "0" * 64})
    manifest.write_text(right.model_copy(update={"file": other}).text())
    assert "SHA-256" in refused("PS542")
    evil = parse(text.encode(), where="x").model_copy(
        update={"ddl": (*content["ddl"], "DROP TABLE account_s1")}
    )
    manifest.write_text(evil.text())
    refused("PS554", "--beside")
    other_name = parse(text.encode(), where="x").model_copy(update={"topology": "other"})
    manifest.write_text(other_name.text())
    said = refused("PS548")
    assert f'of topology "other", not of "{name}" of topology "{world.load(what).name}"' in said
    manifest.write_text(text)
    assert run(["archive", "restore", str(written(world, what)), "log_s1_p1999"]) == 1
    assert "PS548" in capfd.readouterr().err
    assert run(["archive", "restore", str(written(world, what)), name, "--keep", "long"]) == 64
    assert "PS556" in capfd.readouterr().err
    assert run(["archive", "restore", str(written(world, what)), name, "--keep", "1 year"]) == 0
    assert "is attached to" in capfd.readouterr().out
    assert pending(world, what) == []


def test_another_archive_of_the_partition(
    world: World, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """What was changed after a restore is archived apart; both can be had."""
    what = layout({"s1": ["a"]}, tables=kept())
    world.apply(what)
    put(world, now_of(world))
    name = this_month(world)
    later, _ = expire(world, what)
    first = manifest_of(world, name)[0]
    restore(world.load(what), name, beside=True)
    world.execute(f"UPDATE {name} SET body = 'second'")
    maintain(world, what, later)
    second = manifest_of(world, name)[0]
    assert first != second
    states = {e.path: e.state for e in listing(world.load(what))[0]}
    assert (states[str(first)], states[str(second)]) == ("unrecorded", "archived")
    restore(world.load(what), name, archive=str(first))
    assert world.rows("SELECT body FROM log_s1") == [(None,)]
    # The other one is not there, though a partition of the name is.
    with pytest.raises(ArchiveError, match="attached already") as caught:
        restore(world.load(what), name, archive=str(second), keep=Interval(300, "day"))
    assert caught.value.code == "PS549"
    assert restore(world.load(what), name, archive=str(first)).steps == 0
    # Also where no server knows of it, and from another place.
    world.execute(
        f"ALTER TABLE log_s1 DETACH PARTITION {name}",
        f"DROP TABLE {name}",
        "DELETE FROM parlant_shard.retired",
    )
    aside = world.directory / "aside"
    aside.mkdir()
    for file in second.parent.glob(f"{second.stem}*"):
        (aside / file.name).write_bytes(file.read_bytes())
    # As a shell completes it, from the directory one is in; what is not there is named whole.
    monkeypatch.chdir(aside)
    asked = ["archive", "restore", str(written(world, what)), name, "--archive"]
    for absent, whole in (("no.json", aside / "no.json"), ("/no.json", "/no.json")):
        assert run([*asked, absent]) == 1
        assert f'archive file "{whole}" does not exist' in capfd.readouterr().err
    assert run([*asked, second.name]) == 0
    said = capfd.readouterr().err
    assert "[   1] core: create table" in said, said
    assert world.rows("SELECT body FROM log_s1") == [("second",)]
    assert retired(world)[name][0] == "restored"


@pytest.mark.parametrize(
    "change",
    [
        None,
        "ADD COLUMN extra integer DEFAULT 7",
        "ALTER COLUMN body SET NOT NULL",
        "ADD CONSTRAINT short CHECK (length(body) < 9)",
    ],
)
def test_a_table_that_changes_before_the_attach(
    world: World, monkeypatch: pytest.MonkeyPatch, change: str | None
) -> None:
    """What a killed run loaded is attached; where it does not fit any more, it is loaded anew."""
    what = layout({"s1": ["a"]}, tables=kept())
    world.apply(what)
    put(world, now_of(world))
    world.execute("UPDATE log_s1 SET body = 'x'")
    name = this_month(world)
    expire(world, what)
    original = Executor._step

    def killed(executor: Executor, step: Step) -> None:
        original(executor, step)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Executor, "_step", killed)
        with pytest.raises(KeyboardInterrupt):
            restore(world.load(what), name)
    assert retired(world)[name][0] == "restoring"
    if change is not None:
        world.execute(f"ALTER TABLE log_s1 {change}")
    steps = restore(world.load(what), name).steps
    assert steps == (4 if change else 3)  # a load, two for the foreign key, and the attach
    assert world.rows("SELECT body FROM log_s1") == [("x",)]
    assert retired(world)[name][0] == "restored"


def test_restore_beside_others(world: World) -> None:
    what = layout({"s1": ["a"]}, tables=kept())
    world.apply(what)
    put(world, now_of(world))
    name = this_month(world)
    expire(world, what)
    topology = world.load(what)
    with run_lock(topology), pytest.raises(Locked) as caught:
        restore(topology, name)
    assert caught.value.code == "PS501"
    key = "parlant-shard maintain public.log_s1"
    with world.connect() as other:
        other.execute("SET application_name = 'parlant-shard maintain-lock 00000000'")
        other.execute("SELECT pg_advisory_lock(hashtextextended(%s, 0))", [key])
        with pytest.raises(Locked) as caught:
            restore(topology, name)
    assert (caught.value.code, caught.value.exit_code) == ("PS555", Exit.LOCKED)
    assert not there(world, name)
    # A reader of the table does not wait for the load, and the attach waits for nobody.
    with world.connect() as reader:
        reader.execute("BEGIN")
        reader.execute("SELECT count(*) FROM log_s1")
        restore(topology, name)
        assert reader.execute("SELECT count(*) FROM log_s1").fetchone() == (1,)
    assert (f"{months(now_of(world), 0)}", f"{months(now_of(world), 1)}") in bounds(world)
