"""`route`, `query` and `export` on real shards."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import pytest
from client_world import ITEMS, TWO_SERVERS, applied, fill, lasting_world
from protocol import World

from parlant_shard.cli import run
from parlant_shard.shardmap import ShardMap
from servers import Clusters


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, clusters: Clusters) -> World:
    found = lasting_world(tmp_path_factory.mktemp("world"), clusters)
    applied(found)
    fill(found)
    return found


@pytest.fixture
def file(world: World, monkeypatch: pytest.MonkeyPatch) -> str:
    world.load(TWO_SERVERS)
    for server, dsn in world.dsns.items():
        monkeypatch.setenv(server, dsn)
    return str(world.directory / f"{world.name}.yaml")


class Ran:
    def __init__(self, code: int, out: str, err: str) -> None:
        self.code, self.out, self.err = code, out, err

    @property
    def json(self) -> Any:
        return json.loads(self.out)


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str]) -> Any:
    def call(*words: str) -> Ran:
        code = run(words)
        out, err = capsys.readouterr()
        assert "password=" not in out + err
        return Ran(code, out, err)

    return call


NOTES = "SELECT note FROM item ORDER BY note"


def test_route_says_where_why_and_as_what(cli: Any, file: str) -> None:
    found = cli("route", file, NOTES, "--workspace", "acme")
    assert found.code == 0
    lines = found.out.splitlines()
    assert lines[0] == 'direct: shard "s2" on server "east"'
    assert lines[1] == 'workspace: "acme"'
    assert lines[2].startswith("because ")
    text = next(line for line in lines if "item_s2" in line)
    under = lines[lines.index(text) + 1]
    assert set(under) == {" ", "^"}
    start = text.index("item_s2")
    assert under[start : start + 4] == "^^^^" or "^" in under[start : start + 7]
    assert 'params: ["acme"]' in found.out


def test_route_in_json(cli: Any, file: str) -> None:
    found = cli("route", file, NOTES, "--workspace", "acme", "--output", "json").json
    assert found["format_version"] == 1
    assert found["kind"] == "direct"
    assert found["statement"] == "select"
    assert found["targets"][0]["shard"] == "s2"
    assert found["targets"][0]["server"] == "east"
    assert found["targets"][0]["params"] == ["acme"]


def test_a_refused_statement_is_an_answer_of_route_and_a_failure_of_query(
    cli: Any, file: str
) -> None:
    shown = cli("route", file, "DROP TABLE item")
    assert shown.code == 0
    assert shown.out.startswith("refused: nowhere\nPS6")
    assert "hint: " in shown.out
    as_json = cli("route", file, "DROP TABLE item", "--output", "json")
    assert (as_json.code, as_json.json["kind"]) == (0, "refused")
    failed = cli("query", file, "DROP TABLE item")
    assert failed.code == 1
    assert failed.err.startswith("error PS6")
    assert failed.out == ""
    in_json = cli("query", file, "DROP TABLE item", "--output", "json")
    assert json.loads(in_json.err)["error"]["code"].startswith("PS6")


def test_both_resolve_a_look_up(cli: Any, file: str) -> None:
    sql, params = "SELECT note FROM item WHERE id = %s", json.dumps([ITEMS["globex"][1]])
    shown = cli("route", file, sql, "--params", params, "--output", "json").json
    assert shown["kind"] == "direct"
    assert shown["lookup"] == {"table": "item", "column": "id", "value": ITEMS["globex"][1]}
    assert shown["workspaces"] == ["globex"]
    assert 'belongs to workspace "globex"' in shown["why"][0]
    found = cli("query", file, sql, "--params", params, "--output", "json").json
    assert found["rows"] == [{"note": "note 2 of globex"}]


def test_query_in_three_forms(cli: Any, file: str) -> None:
    found = cli("query", file, NOTES, "--workspace", "ws1")
    assert found.out.splitlines() == [
        "note",
        "-------------",
        "note 1 of ws1",
        "note 2 of ws1",
        "(2 rows)",
    ]
    sql = (
        "SELECT 1 AS n, 2.50::numeric AS d, 'a,\"b'::text AS t, NULL::text AS nothing, "
        "true AS yes, "
        "'{\"k\": [1, 2]}'::jsonb AS j, '\\xdeadbeef'::bytea AS b, "
        "'2026-01-02 03:04:05+00'::timestamptz AS at, ARRAY[1, 2] AS a, 1 AS n"
    )
    found = cli("query", file, sql, "--output", "json").json
    assert found["columns"] == ["n", "d", "t", "nothing", "yes", "j", "b", "at", "a", "n_2"]
    (row,) = found["rows"]
    assert row["at"].startswith("2026-01-02T")
    del row["at"]
    assert row == {
        "n": 1,
        "d": 2.5,
        "t": 'a,"b',
        "nothing": None,
        "yes": True,
        "j": {"k": [1, 2]},
        "b": "deadbeef",
        "a": [1, 2],
        "n_2": 1,
    }
    text = cli("query", file, sql, "--output", "csv").out
    header, cells = csv.reader(io.StringIO(text))
    assert header[:4] == ["n", "d", "t", "nothing"]
    assert cells[:7] == ["1", "2.50", 'a,"b', "", "true", '{"k": [1, 2]}', "deadbeef"]


def test_query_of_a_change_prints_what_the_server_said(cli: Any, file: str) -> None:
    found = cli("query", file, "UPDATE item SET size = size", "--workspace", "ws2")
    assert (found.code, found.out) == (0, "UPDATE 2\n")
    as_json = cli(
        "query", file, "UPDATE item SET size = size", "--workspace", "ws2", "--output=json"
    )
    assert as_json.json["status"] == "UPDATE 2"
    assert as_json.json["rows"] == []


def test_query_of_all_workspaces(cli: Any, file: str) -> None:
    sql = "SELECT workspace_id, count(*) FROM account GROUP BY 1 ORDER BY 1"
    found = cli("query", file, sql, "--all", "--output", "csv")
    assert found.out == "workspace_id,count\nacme,1\nglobex,1\nws1,1\nws2,1\n"
    assert cli("query", file, "DELETE FROM item", "--all").code == 1


def test_an_error_of_the_server_is_one_message(cli: Any, file: str) -> None:
    found = cli("query", file, "SELECT size / 0 FROM item", "--workspace", "ws1")
    assert found.code == 1
    assert found.err.startswith('error PS640: server "core", shard "s1": division by zero [22012]')


@pytest.mark.parametrize("params", ["nonsense", "7", '"text"'])
def test_params_are_a_list_or_an_object(cli: Any, file: str, params: str) -> None:
    found = cli("route", file, NOTES, "--params", params)
    assert found.code == 64
    assert "--params" in found.err


def test_export_gives_the_stored_map_and_route_takes_it(
    cli: Any, file: str, world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = cli("export", file, "--format", "json")
    assert found.err == ""
    exported = ShardMap.from_data(found.json)
    assert exported.epoch >= 1
    saved = tmp_path / "map.json"
    saved.write_text(found.out, encoding="utf-8")
    for server in world.dsns:
        monkeypatch.setenv(server, f"host=127.0.0.1 port=1 dbname={server} user=nobody")
    offline = cli("route", file, NOTES, "--workspace", "acme", "--map", str(saved))
    assert offline.out.startswith('direct: shard "s2" on server "east"')
    commented = f"-- the notes\n{NOTES}"
    again = cli("route", file, commented, "--workspace", "acme", "--map", str(saved))
    assert again.out.startswith('direct: shard "s2" on server "east"'), again.err
    sql = "SELECT note FROM item WHERE id = %s"
    left = cli("route", file, sql, "--params", json.dumps(ITEMS["acme"][:1]), "--map", str(saved))
    assert left.code == 0
    assert left.out.startswith("lookup: decided by a look-up")
    assert "the look-up was left out" in left.err
    assert cli("route", file, NOTES, "--workspace", "acme").code == 5
    assert cli("query", file, NOTES, "--workspace", "acme").code == 5


def test_export_without_a_stored_map_computes_one(cli: Any, file: str, world: World) -> None:
    stored = cli("export", file).json
    world.execute("DELETE FROM parlant_shard.map")
    found = cli("export", file)
    assert "computed" in found.err
    assert {**found.json, "epoch": 0} == {**stored, "epoch": 0}
    assert cli("route", file, NOTES).code == 1
    assert cli("apply", file, "--yes").code == 0
    assert cli("route", file, NOTES).code == 0


@pytest.mark.parametrize("name", ["pgbouncer", "pgdog", "mermaid", "dot", "sql", "xml"])
def test_other_formats_do_not_exist_yet(cli: Any, file: str, name: str) -> None:
    found = cli("export", file, "--format", name)
    assert found.code == 64
    assert ("does not exist yet" in found.err) == (name != "xml")
