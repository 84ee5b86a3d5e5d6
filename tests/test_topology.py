"""The topology file: what it may hold, and the one error that each mistake gives."""

from __future__ import annotations

import hashlib
import json
import pickle
from collections.abc import Iterator, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from ruamel.yaml import YAML

from parlant_shard.ddlfile import CODES as DDL_CODES
from parlant_shard.ddlfile import declared_tables, read_statements
from parlant_shard.errors import SchemaError, TopologyError
from parlant_shard.topology import (
    CODES,
    STARTER,
    Code,
    IndexColumn,
    Interval,
    Topology,
    check_tables,
    index_column,
    json_schema,
    load_topology,
    parse_topology,
    preset,
)
from parlant_shard.topology.checks import sharded_tables
from parlant_shard.topology.interval import UNITS

ROOT = Path(__file__).parent.parent
EXAMPLES = sorted((ROOT / "topology").glob("*.yaml"))

BASE = """\
version: 1
name: test
schema: {preset: parlant}
servers:
  core: {dsn: "host=core dbname=app"}
  east: {dsn: "host=east dbname=app"}
coordinator: core
shards:
  shard_1: {server: core, workspaces: [ws1, ws2]}
  shard_2: {server: east, workspaces: [acme]}
tables: {}
indexes: {}
"""

DDL = """\
CREATE TABLE thing (id int PRIMARY KEY, workspace_id text, at timestamp, b int);
CREATE INDEX thing_b ON thing (b);
CREATE TABLE part (id int PRIMARY KEY, thing_id int REFERENCES thing, n int);
CREATE TABLE a (id int PRIMARY KEY, workspace_id text);
CREATE TABLE a_b (id int PRIMARY KEY, workspace_id text);
"""


@pytest.fixture
def here(tmp_path: Path) -> Path:
    """Return a directory with what the cases point at."""
    (tmp_path / "schema").mkdir()
    (tmp_path / "schema" / "one.sql").write_text(DDL)
    (tmp_path / "secrets").mkdir()
    (tmp_path / "secrets" / "empty").write_text("\n")
    (tmp_path / "secrets" / "bad").write_text("host=a geheim\n")
    (tmp_path / "secrets" / "good").write_text("host=east password=geheim\r\n")
    return tmp_path


def edited(*edits: tuple[str, str], base: str = BASE) -> str:
    for old, new in edits:
        assert old in base, f"an edit does not apply: {old}"
        base = base.replace(old, new, 1)
    return base


def parsed(
    here: Path, *edits: tuple[str, str], environ: Mapping[str, str] | None = None
) -> Topology:
    text = edited(*edits)
    return parse_topology(text.encode(), file=here / "t.yaml", environ=environ or {})


def refused(here: Path, *edits: tuple[str, str]) -> TopologyError:
    with pytest.raises(TopologyError) as caught:
        parsed(here, *edits)
    return caught.value


# --- mistakes ------------------------------------------------------------------------------------


def mistakes() -> list[Any]:
    text = (Path(__file__).parent / "cases" / "topology" / "mistakes.yaml").read_text("utf-8")
    cases = YAML(typ="safe", pure=True).load(text)
    return [pytest.param(case, id=case["name"]) for case in cases]


@pytest.mark.parametrize("case", mistakes())
def test_each_mistake_is_one_error_with_its_place_and_a_hint(case: Any, here: Path) -> None:
    text = case["text"] if "text" in case else edited(*map(tuple, case["edits"]))
    file = here / "t.yaml"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(TopologyError) as caught:
        load_topology(file, environ={"NOTHING": ""})
    error = caught.value
    said = {key: getattr(error, key) for key in ("code", "line", "path", "message", "hint")}
    wanted = {key: case.get(key) for key in said}
    if wanted["message"].endswith("..."):
        opening = wanted["message"][:-3]
        assert error.message.startswith(opening)
        assert len(error.message) > len(opening)
        wanted["message"] = error.message
    assert said == wanted
    assert error.file == str(file)
    assert error.exit_code == 4
    assert str(error).startswith(f"{file}:{case['line']}: ")


def test_every_code_has_a_case() -> None:
    tested = {case.values[0]["code"] for case in mistakes()}
    elsewhere = {Code.FILE.value, Code.ENCODING.value}  # below: they are no text to edit
    assert tested | elsewhere == set(CODES)


def test_names_of_cases_are_unique() -> None:
    names = [case.id for case in mistakes()]
    assert len(names) == len(set(names))


def test_codes_are_distinct_and_have_a_meaning() -> None:
    everything = {**CODES, **DDL_CODES}
    assert len(everything) == len(CODES) + len(DDL_CODES)
    assert len(set(everything.values())) == len(everything)
    assert len(CODES) == len(Code.__members__)
    assert all(code.startswith(("PS1", "PS72")) for code in CODES)


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(TopologyError) as caught:
        load_topology(tmp_path / "no.yaml")
    error = caught.value
    assert (error.code, error.line, error.path) == ("PS101", None, None)
    assert error.message == "the topology file cannot be read: no such file or directory"
    assert error.hint == 'check the path; "parlant-shard init" writes a starter topology'
    assert error.file == str(tmp_path / "no.yaml")


def test_a_directory_is_no_file(tmp_path: Path) -> None:
    with pytest.raises(TopologyError, match="is a directory") as caught:
        load_topology(tmp_path)
    assert caught.value.code == "PS101"


def test_not_utf_8(tmp_path: Path) -> None:
    file = tmp_path / "t.yaml"
    file.write_bytes(b"version: 1\nname: caf\xe9\n")
    with pytest.raises(TopologyError) as caught:
        load_topology(file)
    error = caught.value
    assert (error.code, error.line) == ("PS102", 2)
    assert (error.message, error.hint) == ("the topology file is not UTF-8", "save it as UTF-8")


def test_a_byte_order_mark_is_no_mistake(here: Path) -> None:
    data = b"\xef\xbb\xbf" + BASE.encode()
    assert parse_topology(data, file=here / "t.yaml", environ={}).name == "test"


def test_windows_line_ends_are_no_mistake(here: Path) -> None:
    data = BASE.replace("\n", "\r\n") + "x: 1\r\n"
    with pytest.raises(TopologyError) as caught:
        parse_topology(data.encode(), file=here / "t.yaml", environ={})
    assert caught.value.line == 13


def test_deep_nesting_is_an_error_and_no_crash(here: Path) -> None:
    error = refused(here, ("[acme]", "[" * 800 + "]" * 800))
    assert error.code in {"PS103", "PS123"}


def test_aliases_cannot_multiply_without_end(here: Path) -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 9)]
    error = refused(here, ("indexes: {}", "\n".join(lines)))
    assert error.code == "PS103"
    assert error.message == ("the topology file is not valid YAML: its aliases make it too large")


@pytest.mark.parametrize(
    "secret",
    [
        '"host=east pass word=geheim"',
        '"postgresql://me:geheim@[east/app"',
        '"host=east password=geheim", admin_dsn: "geheim"',
        '"host=east password=geheim", embedded: x',
        '["host=east password=geheim"]',
        '"host=east password=geheim ${UNSET}"',
    ],
)
def test_no_error_shows_a_password(secret: str, here: Path) -> None:
    error = refused(here, ('{dsn: "host=east dbname=app"}', f"{{dsn: {secret}}}"))
    cause: BaseException | None = error
    while cause is not None:
        assert "geheim" not in f"{cause!r} {cause} {getattr(cause, 'hint', '')}"
        cause = cause.__cause__ or (None if cause.__suppress_context__ else cause.__context__)


def test_no_error_shows_what_a_variable_holds(here: Path) -> None:
    with pytest.raises(TopologyError) as caught:
        parsed(here, ("host=east dbname=app", "${DSN}"), environ={"DSN": "geheim"})
    assert "geheim" not in f"{caught.value} {caught.value.hint}"


ODD: list[Any] = [None, True, 0, -1, 10**30, 1.5, "", "x", "${X}", "${", " ", "a\0b", "Ü" * 70]
ODD += [[], {}, [None], {"a": None}, [["x"]], {1: 2}, "~nobody/x", "0-4095", "999999 years"]


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    yield path
    inner: Any = value.items() if isinstance(value, dict) else ()
    for key, item in enumerate(value) if isinstance(value, list) else inner:
        yield from places(item, (*path, key))


@settings(deadline=None, max_examples=60)
@given(st.data())
def test_any_document_is_a_topology_or_one_error(data: st.DataObject) -> None:
    document = YAML(typ="safe", pure=True).load(FULL)
    *path, last = data.draw(st.sampled_from(list(places(document))[1:]))
    holder = document
    for key in path:
        holder = holder[key]
    if data.draw(st.booleans()):
        holder[last] = data.draw(st.sampled_from(ODD))
    else:
        del holder[last]
    text = json.dumps(document)  # YAML too, on one line
    error = None
    try:
        parse_topology(text.encode(), file=ROOT / "t.yaml", environ={"CORE": "host=core"})
    except TopologyError as found:
        error = found
    if error is not None:
        assert error.code in CODES
        assert error.line == 1
        assert error.hint
        assert "\n" not in error.message


# --- what is right -------------------------------------------------------------------------------


FULL = """\
version: 1
name: parlant-prod
schema: {preset: parlant}
key: workspace_id
servers:
  core: {dsn: "${CORE}"}
  east: {dsn: "host=pool dbname=app", admin_dsn: "host=east dbname=app",
         replicas: [{dsn: "host=ro dbname=app", max_lag: 5 minutes}]}
  lab:  {embedded: .parlant-shard/lab}
coordinator: core
shards:
  shard_1: {server: core, workspaces: [ws1, ws2, ws3]}
  shard_2: {server: east, workspaces: [acme, globex], buckets: [0-9, 10, 11-2000]}
  shard_3: {server: east, buckets: 2001-4095}
  shard_4: {server: lab, workspaces: []}
tables:
  parlant_event: {partition: {by: created_at, every: 1 month, retention: 12 months, archive: arc/}}
  workspace: {kind: reference}
  user: {kind: reference}
indexes:
  parlant_recent_events_only_idx: {on: parlant_event, window: 90 days,
    columns: [session_id, created_at desc, event_type]}
routing:
  - {tables: [parlant_agent], statements: point-read, read: cache, ttl: 30 s}
  - {statements: analytics, read: replica, max_lag: 5 minutes}
isolation: {rls: true, signed: true, role: parlant_app}
"""


@pytest.fixture
def full(here: Path) -> Topology:
    file = here / "full.yaml"
    file.write_text(FULL)
    return load_topology(file, environ={"CORE": "host=core password=geheim dbname=app"})


def test_the_file_of_the_interface_page(full: Topology, here: Path) -> None:
    assert (full.name, full.key, full.namespace) == ("parlant-prod", "workspace_id", "public")
    assert full.file == here / "full.yaml"
    assert full.directory == here
    assert full.sha256 == hashlib.sha256(FULL.encode()).hexdigest()
    assert full.shards["shard_1"].workspaces == ("ws1", "ws2", "ws3")
    assert full.shards["shard_2"].buckets == ((0, 9), (10, 10), (11, 2000))
    assert full.shards["shard_4"].workspaces == full.shards["shard_4"].buckets == ()
    assert full.uses_buckets
    events = full.tables["parlant_event"].partition
    assert events is not None
    assert (events.by, events.every, events.premake) == ("created_at", Interval(1, "month"), 3)
    assert (events.retention, events.grace) == (Interval(12, "month"), Interval(7, "day"))
    assert events.archive is not None
    assert (events.archive.to, events.archive.parquet, events.default) == ("arc/", False, False)
    assert full.resolve("arc/") == here / "arc"
    assert full.resolve("/arc") == Path("/arc")
    assert [rule.read for rule in full.routing] == ["cache", "replica"]
    assert full.routing[0].ttl == Interval(30, "second")
    assert full.isolation.role == "parlant_app"
    assert full.map_max_stale == Interval(10, "minute")
    assert full.lookup == "context"
    assert full.schema_source.preset == "parlant"
    assert full.schema_files == (preset("parlant").file,)


def test_servers_and_how_they_are_reached(full: Topology, here: Path) -> None:
    core, east, lab = (full.servers[name] for name in ("core", "east", "lab"))
    assert core.dsn == core.admin == core.peer == "host=core password=geheim dbname=app"
    assert (east.dsn, east.admin) == ("host=pool dbname=app", "host=east dbname=app")
    assert east.peer == east.admin
    assert east.replicas[0].dsn == "host=ro dbname=app"
    assert east.replicas[0].max_lag == Interval(5, "minute")
    assert lab.dsn is lab.admin is lab.peer is None
    assert lab.embedded == here / ".parlant-shard" / "lab"


def test_an_embedded_server_gets_its_dsn_when_it_runs(full: Topology) -> None:
    running = full.with_dsns({"lab": "host=/run/lab"})
    assert running.servers["lab"].dsn == running.servers["lab"].peer == "host=/run/lab"
    assert full.servers["lab"].dsn is None
    assert (running.file, running.sha256) == (full.file, full.sha256)
    assert running.line("shards.shard_1") == 12


@pytest.mark.parametrize("show", [repr, str, lambda t: t.model_dump_json(), lambda t: t.servers])
def test_a_dsn_is_never_shown(show: Any, full: Topology) -> None:
    running = full.with_dsns({"lab": "password=geheim"})
    assert "geheim" not in str(show(running))
    assert "host=ro" not in str(show(running))


def test_a_topology_does_not_change(full: Topology) -> None:
    with pytest.raises(ValidationError, match="frozen"):
        full.name = "other"  # type: ignore[misc]
    with pytest.raises(ValidationError, match="frozen"):
        full.shards["shard_1"].server = "east"  # type: ignore[misc]


def test_the_same_file_gives_the_same_topology(full: Topology) -> None:
    again = load_topology(full.file, environ={"CORE": "host=core password=geheim dbname=app"})
    assert again == full
    assert pickle.loads(pickle.dumps(full)) == full


def test_lines_of_paths(full: Topology) -> None:
    assert full.line("shards.shard_2.server") == 13
    assert full.line("servers.east.replicas.0.max_lag") == 8
    assert full.line("shards.shard_9.server") == 11  # of what is around it
    assert full.line("nowhere") == 1


def test_a_path_is_relative_to_the_file_not_to_the_process(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (here / "deep").mkdir()
    (here / "deep" / "t.yaml").write_text(
        edited(
            ('{dsn: "host=east dbname=app"}', "{dsn_file: ../secrets/good}"),
            ('{dsn: "host=core dbname=app"}', "{embedded: data}"),
            ("{preset: parlant}", '{files: ["../schema/*.sql"]}'),
        )
    )
    monkeypatch.chdir(here)
    found = load_topology("deep/t.yaml", environ={})
    monkeypatch.chdir("/")
    assert found.servers["east"].dsn == "host=east password=geheim"
    assert found.servers["core"].embedded == here / "deep" / "data"
    assert [file.name for file in found.schema_files] == ["one.sql"]
    assert found.file == Path("deep/t.yaml")


def test_every_dsn_may_come_from_a_file(here: Path) -> None:
    server = parsed(
        here,
        (
            '{dsn: "host=east dbname=app"}',
            "{dsn_file: secrets/good, admin_dsn_file: secrets/good, peer_dsn_file: secrets/good,"
            " replicas: [{dsn_file: secrets/good}]}",
        ),
    ).servers["east"]
    found = {server.dsn, server.admin_dsn, server.peer_dsn, server.replicas[0].dsn}
    assert found == {"host=east password=geheim"}


@pytest.mark.parametrize(
    ("written", "found"),
    [
        ("ws-${A}", "ws-x"),
        ("${A}${A}", "xx"),
        ("$${A}", "${A}"),
        ("$$${A}", "$${A}"),
        ("$A", "$A"),
        ("$", "$"),
        ("a$b", "a$b"),
        ("${B}", "${A}"),  # what a variable holds is not read again
        ("{A}", "{A}"),
    ],
)
def test_variables(written: str, found: str, here: Path) -> None:
    topology = parsed(here, ("[acme]", f"[{json.dumps(written)}]"), environ={"A": "x", "B": "${A}"})
    assert topology.shards["shard_2"].workspaces == (found,)


def test_variables_come_from_the_environment(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EAST_OF_TEST", "host=from-env")
    (here / "t.yaml").write_text(edited(("host=east dbname=app", "${EAST_OF_TEST}")))
    assert load_topology(here / "t.yaml").servers["east"].dsn == "host=from-env"


@pytest.mark.parametrize("word", ["no", "yes", "on", "1_000x", "08x", "Ünïcode", "a b", '"1"'])
def test_workspaces_that_yaml_1_2_reads_as_strings(word: str, here: Path) -> None:
    topology = parsed(here, ("[acme]", f"[{word}]"))
    assert topology.shards["shard_2"].workspaces == (word.strip('"'),)


def test_anchors_and_merge_keys(here: Path) -> None:
    topology = parsed(
        here,
        ("shard_1: {server: core,", "shard_1: &one {server: core,"),
        ("shard_2: {server: east, workspaces: [acme]}", "shard_2: {<<: *one, workspaces: [acme]}"),
    )
    assert topology.shards["shard_2"].server == "core"
    assert topology.shards["shard_2"].workspaces == ("acme",)
    error = refused(
        here,
        ("shard_1: {server: core,", "shard_1: &one {server: cor,"),
        ("shard_2: {server: east, workspaces: [acme]}", "shard_2: {<<: *one, workspaces: [acme]}"),
    )
    assert (error.line, error.path) == (9, "shards.shard_1.server")


def test_of_several_merged_mappings_the_first_wins(here: Path) -> None:
    topology = parsed(
        here,
        ("shard_1: {server: core,", "shard_1: &one {server: core,"),
        (
            "shard_2: {server: east, workspaces: [acme]}",
            "shard_2: &two {server: east, workspaces: [acme]}\n"
            "  shard_3: {<<: [*two, *one], workspaces: [x]}",
        ),
    )
    assert topology.shards["shard_3"].server == "east"


def test_a_key_that_replaces_a_merged_one_has_its_own_lines(here: Path) -> None:
    error = refused(
        here,
        (
            "tables: {}",
            "tables:\n  parlant_event: &events\n    partition: {by: created_at, every: 1 day}\n"
            "  parlant_agent:\n    <<: *events\n    partition: {every: 1 day}",
        ),
    )
    assert (error.line, error.path) == (16, "tables.parlant_agent.partition.by")


def test_buckets_alone_and_with_lists(here: Path) -> None:
    topology = parsed(
        here,
        ("workspaces: [ws1, ws2]", "buckets: 0 - 2047"),
        ("workspaces: [acme]", "buckets: [2048, 2049-4095], workspaces: [acme]"),
    )
    assert topology.shards["shard_1"].buckets == ((0, 2047),)
    assert topology.shards["shard_2"].buckets == ((2048, 2048), (2049, 4095))
    assert not parsed(here).uses_buckets


def test_retention_may_be_as_long_as_a_partition(here: Path) -> None:
    # a month has 28 to 31 days: only what is shorter in every month is a mistake
    for every, retention in [
        ("1 month", "28 days"),
        ("1 month", "30 days"),
        ("1 month", "1 month"),
        ("31 days", "1 month"),
        ("1 year", "4 quarters"),
    ]:
        parsed(
            here,
            (
                "tables: {}",
                "tables:\n  parlant_event:\n    partition: "
                f"{{by: created_at, every: {every}, retention: {retention}}}",
            ),
        )


# --- schema sources ------------------------------------------------------------------------------


def test_files_are_read_in_the_order_of_the_patterns(here: Path) -> None:
    for name in ("d.sql", "b.sql", "c.sql", "a.sql", "z.sql"):
        (here / "schema" / name).write_text(f'CREATE TABLE "{name}" (id int);')
    topology = parsed(here, ("{preset: parlant}", "{files: [schema/z.sql, schema/*.sql]}"))
    names = [file.name for file in topology.schema_files]
    assert names == ["z.sql", "a.sql", "b.sql", "c.sql", "d.sql", "one.sql"]


def test_an_absolute_pattern(here: Path) -> None:
    topology = parsed(here, ("{preset: parlant}", f"{{files: ['{here}/schema/*.sql']}}"))
    assert topology.schema_files == (here / "schema" / "one.sql",)


def test_a_mistake_in_the_ddl_is_told_with_the_ddls_line(here: Path) -> None:
    (here / "schema" / "two.sql").write_text("\nCREATE TABLE (;\n")
    with pytest.raises(SchemaError) as caught:
        parsed(here, ("{preset: parlant}", "{files: [schema/*.sql]}"))
    assert (caught.value.code, caught.value.line) == ("PS201", 2)
    assert caught.value.file == str(here / "schema" / "two.sql")


def test_columns_are_left_to_the_plan_where_the_ddl_cannot_tell(here: Path) -> None:
    ddl = "DO $$ BEGIN EXECUTE format('CREATE TABLE %I (id int)', 'made'); END $$;"
    (here / "schema" / "two.sql").write_text(ddl)
    topology = parsed(
        here,
        ("{preset: parlant}", "{files: [schema/*.sql]}"),
        ("tables: {}", "tables: {made: {kind: host}}"),
    )
    assert topology.tables["made"].kind == "host"


def test_a_live_schema_is_checked_by_the_plan(here: Path) -> None:
    topology = parsed(
        here,
        ("{preset: parlant}", "{from: core}"),
        ("tables: {}", "tables:\n  thing: {partition: {by: b, every: 1 day}}"),
    )
    assert topology.schema_files == ()
    declared = declared_tables(read_statements([("ddl", DDL)]))
    with pytest.raises(TopologyError) as caught:
        check_tables(topology, declared)
    error = caught.value
    assert (error.code, error.line, error.path) == ("PS144", 12, "tables.thing.partition.by")


EVENTS = "tables: {parlant_event: {partition: {by: created_at, every: 1 month}}}"
RECENT = "{on: parlant_event, window: 7 days, columns: [created_at desc, event_type]}"


@pytest.mark.parametrize(
    ("recent", "other", "hint"),
    [
        (
            RECENT,
            "whole: {on: parlant_event, columns: [created_at DESC NULLS FIRST, event_type]}",
            'keep one of the two: "whole" has the rows of the window too',
        ),
        (
            RECENT,
            f"whole: {RECENT.replace('7', '9')}",
            'keep one of the two: give "whole" the longer window',
        ),
        (
            RECENT.replace("[created_at", "[session_id, created_at"),
            "",
            'keep one of the two: give "parlant_recent_events_only_idx" the longer window',
        ),
    ],
)
def test_a_window_on_what_another_index_is(here: Path, recent: str, other: str, hint: str) -> None:
    found = refused(
        here, ("tables: {}", EVENTS), ("indexes: {}", f"indexes:\n  {other}\n  recent: {recent}")
    )
    assert (found.code, found.path, found.hint) == ("PS144", "indexes.recent.window", hint)
    assert found.line == 14
    assert 'on the partitions of "parlant_event" it is the same index as' in found.message


@pytest.mark.parametrize(
    "more",
    [
        "on: parlant_event, columns: [created_at, event_type]",
        "on: parlant_event, columns: [created_at desc, event_type], unique: true",
        "on: parlant_event, columns: [created_at desc, event_type], where: id IS NULL",
        "on: parlant_event, columns: [created_at desc, event_type], include: [id]",
        "on: parlant_agent, columns: [created_at desc, status]",
    ],
)
def test_a_window_on_what_no_other_index_is(here: Path, more: str) -> None:
    indexes = f"indexes: {{recent: {RECENT}, whole: {{{more}}}}}"
    found = parsed(here, ("tables: {}", EVENTS), ("indexes: {}", indexes))
    assert {"recent", "whole"} <= set(found.indexes)
    # Not cut by time: the condition of a window has a date, so the two differ.
    twins = f"indexes: {{recent: {RECENT.replace(', col', ', by: created_at, col')}, " + (
        "whole: {on: parlant_event, columns: [created_at desc, event_type]}}"
    )
    assert "whole" in parsed(here, ("indexes: {}", twins)).indexes


def test_another_namespace(here: Path) -> None:
    (here / "schema" / "one.sql").write_text("CREATE TABLE app.thing (id int, workspace_id text);")
    edits = (
        ("{preset: parlant}", "{files: [schema/*.sql]}\nnamespace: app"),
        ("tables: {}", "tables: {thing: {kind: sharded}}"),
    )
    assert parsed(here, *edits).namespace == "app"
    assert refused(here, edits[0], ("namespace: app", "namespace: other"), edits[1]).code == "PS138"


def test_the_added_key_may_be_in_an_index(here: Path) -> None:
    # parlant_event has no workspace_id of its own; its shard tables do
    index = "indexes:\n  x_idx: {on: parlant_event, columns: [workspace_id, created_at]}"
    assert "x_idx" in parsed(here, ("indexes: {}", index)).indexes
    reference = "indexes:\n  x_idx: {on: user, columns: [workspace_id]}"
    assert refused(here, ("indexes: {}", reference)).code == "PS139"


def test_tables_that_reach_the_key(here: Path) -> None:
    topology = parsed(here, ("{preset: parlant}", "{files: [schema/*.sql]}"))
    declared = declared_tables(read_statements(topology.schema_files))
    assert sharded_tables(topology, declared) == {"thing", "part", "a", "a_b"}


def test_a_table_that_is_said_to_be_sharded_has_the_key(here: Path) -> None:
    (here / "schema" / "one.sql").write_text("CREATE TABLE alone (id int);")
    edits = [
        ("{preset: parlant}", "{files: [schema/*.sql]}"),
        ("tables: {}", "tables: {alone: {kind: sharded}}"),
        ("indexes: {}", "indexes: {alone_idx: {on: alone, columns: [workspace_id, id]}}"),
    ]
    assert "alone_idx" in parsed(here, *edits).indexes
    assert refused(here, edits[0], edits[2]).code == "PS139"


def test_the_version_is_told_before_anything_else(here: Path) -> None:
    error = refused(here, ("version: 1\nname: test", "name: '${UNSET}'\nversion: 2\nservres: {}"))
    assert (error.code, error.line) == ("PS106", 2)


def test_a_long_name_does_not_collide_because_it_is_shortened(here: Path) -> None:
    tables = [f"{'t' * 60}{n}" for n in range(3)]
    ddl = "".join(f"CREATE TABLE {name} (id int, workspace_id text);" for name in tables)
    (here / "schema" / "one.sql").write_text(ddl)
    parsed(here, ("{preset: parlant}", "{files: [schema/*.sql]}"))


def test_a_name_that_collides_after_shortening(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # 32 bits of a hash do not collide in a test; names that are cut without one do
    from parlant_shard.topology import checks

    monkeypatch.setattr(checks, "suffixed", lambda name, suffix: f"{name[:40]}_{suffix}")
    tables = [f"{'t' * 60}{n}" for n in range(2)]
    ddl = "".join(f"CREATE TABLE {name} (id int, workspace_id text);" for name in tables)
    (here / "schema" / "one.sql").write_text(ddl)
    error = refused(here, ("{preset: parlant}", "{files: [schema/*.sql]}"))
    assert error.code == "PS141"
    assert f'table "{tables[0]}" on shard "shard_1"' in error.message


# --- the preset ----------------------------------------------------------------------------------


def test_the_preset_is_laid_under_the_file(here: Path) -> None:
    topology = parsed(
        here,
        (
            "tables: {}",
            "tables:\n  user: {kind: host}\n  parlant_agent_tool: {path: tool_id}\n"
            "  parlant_journey_guideline: {kind: sharded}",
        ),
    )
    assert topology.tables["workspace"].kind == "reference"
    assert topology.tables["user"].kind == "host"
    assert topology.tables["parlant_agent_tool"].path == "tool_id"
    both = topology.tables["parlant_journey_guideline"]
    assert (both.kind, both.path) == ("sharded", "journey_id")


def test_a_host_table_does_not_keep_the_path_of_the_preset(here: Path) -> None:
    topology = parsed(here, ("tables: {}", "tables: {parlant_agent_tool: {kind: host}}"))
    assert topology.tables["parlant_agent_tool"].path is None


def test_the_windowed_indexes_of_the_preset(here: Path) -> None:
    found = parsed(here).indexes
    windowed = {index.name for index in preset("parlant").indexes if index.verdict == "windowed"}
    assert windowed == set(found)
    recent = found["parlant_recent_events_only_idx"]
    assert (recent.on, recent.by, recent.window) == (
        "parlant_event",
        "created_at",
        Interval(90, "day"),
    )
    assert recent.index_columns[1] == IndexColumn(name="created_at", descending=True)


def test_an_index_of_the_file_takes_the_place_of_the_presets(here: Path) -> None:
    text = (
        "indexes:\n  parlant_recent_events_only_idx: "
        "{on: parlant_event, window: 7 days, columns: [created_at]}"
    )
    mine = parsed(here, ("indexes: {}", text)).indexes["parlant_recent_events_only_idx"]
    assert (mine.window, mine.columns) == (Interval(7, "day"), ("created_at",))
    assert mine.by == "created_at"  # the one thing that need not be repeated


def test_the_presets_own_files() -> None:
    found = preset("parlant")
    assert preset("parlant") is found
    assert found.text == found.file.read_text("utf-8")
    declared = declared_tables(read_statements([found.file]))
    sharded = [name for name in declared if name.startswith("parlant_")]
    assert len(sharded) == 18
    assert {name for name, o in found.tables.items() if o.kind == "reference"} == {
        "user",
        "workspace",
        "knowledge_base",
        "workflow",
        "api_key",
    }
    for index in found.indexes:
        assert (index.sql is not None) == (index.verdict in {"created", "corrected"})
        if index.sql is not None:
            (statement,) = read_statements([("preset", index.sql)])
            assert statement.kind == "index_stmt"


def test_no_preset_outside_the_package() -> None:
    with pytest.raises(KeyError):
        preset("../presets/parlant")


# --- intervals and index columns -----------------------------------------------------------------

intervals = st.builds(Interval, st.integers(0, 999_999), st.sampled_from(UNITS))


@given(intervals)
def test_an_interval_reads_back(interval: Interval) -> None:
    assert Interval.parse(str(interval)) == interval
    low, high = interval.bounds
    assert timedelta() <= low <= high


@given(intervals, st.text(" \t", max_size=3), st.text(" ", max_size=2))
def test_spaces_do_not_matter(interval: Interval, around: str, between: str) -> None:
    text = f"{around}{interval.count}{between}{interval.unit.upper()}{around}"
    assert Interval.parse(text) == interval


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("1 month", "1 month"),
        ("1 months", "1 month"),
        ("90 days", "90 days"),
        ("30 s", "30 seconds"),
        ("30s", "30 seconds"),
        ("5 minutes", "5 minutes"),
        ("5 min", "5 minutes"),
        ("12 h", "12 hours"),
        ("2 w", "2 weeks"),
        ("1 quarter", "1 quarter"),
        ("3 y", "3 years"),
        ("007 d", "7 days"),
        ("0 days", "0 days"),
    ],
)
def test_intervals(text: str, canonical: str) -> None:
    assert str(Interval.parse(text)) == canonical


@pytest.mark.parametrize(
    "text",
    ["", "1", "month", "1 m", "1.5 days", "-1 day", "1 day 2 hours", "1 fortnight", "1234567 s",
     "\u0661 day", "1 day\n2"],
)  # fmt: skip
def test_no_intervals(text: str) -> None:
    with pytest.raises(ValueError, match="is not an interval"):
        Interval.parse(text)


def test_lengths_of_intervals() -> None:
    assert Interval(2, "week").timedelta == timedelta(days=14)
    assert Interval(1, "month").bounds == (timedelta(days=28), timedelta(days=31))
    assert not Interval(0, "day")
    with pytest.raises(ValueError, match='"1 month" has no fixed length'):
        Interval(1, "month").timedelta  # noqa: B018 - the property raises
    with pytest.raises(ValueError, match="counts from 0"):
        Interval(-1, "day")


@pytest.mark.parametrize(
    ("text", "name", "descending", "nulls"),
    [
        ("id", "id", False, None),
        ("created_at desc", "created_at", True, None),
        ("created_at DESC NULLS LAST", "created_at", True, "last"),
        ("a asc nulls first", "a", False, "first"),
        ('"of ""set" desc', 'of "set', True, None),
        ("offset", "offset", False, None),
        ("Größe", "Größe", False, None),
    ],
)
def test_index_columns(text: str, name: str, descending: bool, nulls: Any) -> None:
    assert index_column(text) == IndexColumn(name=name, descending=descending, nulls=nulls)


# --- the JSON Schema and the examples ------------------------------------------------------------


def test_the_json_schema_names_every_key() -> None:
    schema = json_schema()
    json.dumps(schema)
    assert {"schema", "servers", "shards", "map_max_stale"} <= set(schema["properties"])
    assert set(schema["$defs"]["SchemaSource"]["properties"]) == {"preset", "files", "from"}
    assert {"dsn", "dsn_file", "embedded"} <= set(schema["$defs"]["Server"]["properties"])
    assert set(schema["required"]) == {
        "version",
        "name",
        "schema",
        "servers",
        "coordinator",
        "shards",
    }
    for definition in [schema, *schema["$defs"].values()]:
        assert definition["additionalProperties"] is False
    every = schema["$defs"]["Partition"]["properties"]["every"]
    assert every["type"] == "string"


@pytest.mark.parametrize("file", EXAMPLES, ids=lambda file: file.name)
def test_every_example_loads_with_an_empty_environment(file: Path) -> None:
    topology = load_topology(file, environ={})
    assert topology.name == file.stem
    assert all(server.embedded for server in topology.servers.values())


def test_the_examples_that_the_documentation_names() -> None:
    names = {file.name for file in EXAMPLES}
    assert names >= {
        "starter.yaml",
        "single-server.yaml",
        "three-servers.yaml",
        "hash-buckets.yaml",
    }


def test_init_writes_the_starter_example() -> None:
    assert (ROOT / "topology" / "starter.yaml").read_text("utf-8") == STARTER


def test_what_the_starter_has_in_comments_loads_too(here: Path) -> None:
    lines = []
    for line in STARTER.splitlines():
        bare = line.lstrip()
        is_yaml = bare.startswith(
            ("# tables:", "#   parlant_event:", "#     partition:", "# routing:", "#   - {",
             "# isolation:", "# shard_3:")
        )  # fmt: skip
        lines.append(line.replace("# ", "", 1) if is_yaml else line)
    topology = parse_topology("\n".join(lines).encode(), file=here / "t.yaml", environ={})
    assert topology.isolation.rls
    assert topology.uses_buckets
    assert topology.tables["parlant_event"].partition is not None
    assert len(topology.routing) == 2
