"""`monitor` on real servers: figures per shard and over shards, statements, metrics, privileges."""

from __future__ import annotations

import json
import re
import time
from pathlib import Path
from typing import Any

import psycopg
import pytest
from protocol import SCHEMA, Layout, World, layout
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from exposition import parse
from parlant_shard import local, observe
from parlant_shard import maintain as upkeep
from parlant_shard.cli import run
from parlant_shard.local import conninfo
from servers import Clusters, scratch_space

pytestmark = pytest.mark.matrix

EXAMPLES = Path(__file__).parents[2] / "examples"
PARTS = {"log": {"partition": {"by": "at", "every": "1 month", "premake": 1}}}
TWO = layout({"s1": ["a"], "s2": ("west", ["b"])}, servers=["west"], tables=PARTS)


@pytest.fixture
def world(tmp_path: Path, clusters: Clusters) -> World:
    """Give the databases of two servers."""
    return World(tmp_path, clusters)


def fill(world: World, what: Layout = TWO) -> None:
    """Apply, and put ten items with twenty rows of the log each onto both shards."""
    world.apply(what)
    for server, shard, workspace in (("core", "s1", "a"), ("west", "s2", "b")):
        world.execute(
            f"INSERT INTO account_{shard} (workspace_id) VALUES ('{workspace}')",
            f"INSERT INTO item_{shard} (workspace_id, account_id, note) SELECT '{workspace}', id, "
            f"'n' || g FROM account_{shard}, generate_series(1, 10) g",
            f"INSERT INTO log_{shard} (workspace_id, item_id) SELECT '{workspace}', id "
            f"FROM item_{shard}, generate_series(1, 20)",
            "SELECT pg_stat_force_next_flush()",
            server=server,
        )


def file_of(world: World, what: Layout = TWO) -> str:
    """Write the topology with the connection strings in it, for the command line."""
    topology = world.load(what)
    for name, dsn in world.dsns.items():
        text = topology.file.read_text().replace(f"${{{name}}}", dsn.replace("'", "\\'"))
        topology.file.write_text(text)
    return str(topology.file)


def one(rows: list[dict[str, Any]], **what: Any) -> dict[str, Any]:
    found = [r for r in rows if all(r[k] == v for k, v in what.items())]
    assert len(found) == 1, found
    return found[0]


def test_figures_per_shard_and_over_shards(world: World) -> None:
    fill(world)
    with world.connect("west") as connection:
        connection.execute("SET enable_seqscan = off")
        for _ in range(3):
            connection.execute("SELECT * FROM item_s2 WHERE note = 'n1'")
        connection.execute("DELETE FROM log_s2 WHERE item_id IN (SELECT id FROM item_s2 LIMIT 1)")
        connection.execute("SELECT pg_stat_force_next_flush()")
    world.execute("VACUUM ANALYZE item_s1")
    found = observe.monitor(world.load(TWO)).to_json()
    assert [s["server"] for s in found["servers"]] == ["core", "west"]
    assert all(s["observed_seconds"] >= 0 for s in found["servers"])
    log = one(found["tables"], shard="s2", table="log")
    # A month, the current one and one beyond it are one table.
    assert (log["rows"], log["dead_rows"], log["partitions"]) == (180, 20, 2)
    assert log["dead_ratio"] == 0.1
    both = one(found["table_totals"], table="log")
    assert (both["rows"], both["shards"], both["partitions"]) == (380, ["s1", "s2"], 4)
    assert both["bytes"] == both["heap_bytes"] + both["index_bytes"] + both["toast_bytes"]
    item = one(found["tables"], shard="s1", table="item")
    assert item["last_vacuum"] is not None
    assert one(found["table_totals"], table="item")["last_vacuum"] is None
    shard = one(found["shards"], shard="s2")
    assert shard["rows"] == 1 + 10 + 180
    note = one(found["indexes"], shard="s2", index="item_note_idx")
    assert (note["scans"], note["tuples_read"]) == (3, 3)
    assert one(found["index_totals"], index="item_note_idx")["scans"] == 3
    # The index of a partitioned table, with those of its partitions, under its own name.
    parts = one(found["index_totals"], index="log_item_idx")
    pages = (
        "SELECT sum(pg_relation_size(inhrelid)) FROM pg_inherits WHERE inhparent = '{}'::regclass"
    )
    assert parts["bytes"] == world.value(pages.format("log_item_idx_s1")) + world.value(
        pages.format("log_item_idx_s2"), server="west"
    )
    if world.clusters.get(0).major >= 16:
        assert note["last_scan"] is not None


def test_the_command_line(world: World, capfd: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    fill(world)
    file, metrics = file_of(world), tmp_path / "m.prom"
    assert run(["monitor", file, "--metrics-file", str(metrics), "--limit", "2"]) == 0
    out = capfd.readouterr().out
    assert "item_note_idx" not in out or out.count("_idx") <= 2
    assert re.search(r"^s2 +west ", out, re.M)
    text = metrics.read_text()
    found = parse(text)
    assert found["parlant_shard_database_bytes"].type == "gauge"
    assert len(found["parlant_shard_index_scans_total"].samples) == 2 * 7
    name = world.load(TWO).name
    labels = f'topology="{name}",server="west",shard="s2",table="log",command="monitor"'
    assert f"\nparlant_shard_table_rows{{{labels}}} 200\n" in text
    assert "# TYPE parlant_shard_table_blocks_total counter" in text
    assert "# TYPE parlant_shard_table_bytes gauge" in text
    assert f'parlant_shard_index_invalid{{topology="{name}",server="west",' in text
    file = file_of(world)
    assert run(["maintain", file, "--metrics-file", str(metrics)]) == 0
    capfd.readouterr()
    text = metrics.read_text()
    assert parse(text)["parlant_shard_table_scans_total"].type == "counter"
    assert f"\nparlant_shard_table_rows{{{labels.replace('monitor', 'maintain')}}} 200\n" in text
    # Both may lie in one directory: no series is in both, and no metric has two types.
    series = re.findall(r"^(parlant_shard_\S+\}) ", text, re.M)
    assert len(series) == len(set(series))
    nowhere = tmp_path / "nowhere" / "m.prom"
    assert run(["monitor", file, "--metrics-file", str(nowhere)]) == 1
    assert f'directory "{nowhere.parent}" does not exist' in capfd.readouterr().err
    assert run(["monitor", file, "--output", "json"]) == 0
    data = json.loads(capfd.readouterr().out)
    assert data["format_version"] == 1
    assert {"servers", "shards", "tables", "indexes", "statements", "notices"} <= data.keys()


def test_the_query_of_the_dashboard(world: World) -> None:
    what = layout({"s1": ["a"], "s2": ["b"]}, tables=PARTS)
    world.apply(what)
    for shard, workspace in (("s1", "a"), ("s2", "b")):
        world.execute(f"INSERT INTO account_{shard} (workspace_id) VALUES ('{workspace}')")
    world.execute(
        "WITH i AS (INSERT INTO item_s1 (workspace_id, account_id) SELECT 'a', id FROM account_s1 "
        "RETURNING id) SELECT 1 FROM i",
        "INSERT INTO log_s1 (workspace_id, item_id) SELECT 'a', id FROM item_s1",
        "SELECT pg_stat_force_next_flush()",
    )
    page = (EXAMPLES / "maintain" / "README.md").read_text()
    (query,) = re.findall(r"```sql\n(.*?);\n```", page, re.S)
    rows = {(r[0], r[1]): r[3] for r in world.rows(query)}
    assert len(rows) == 6
    assert (rows["account", "s2"], rows["log", "s1"], rows["log", "s2"]) == (1, 1, 0)


def test_a_server_is_away(world: World, capfd: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    fill(world)
    file = file_of(world)
    dsn, text = world.dsn("west"), Path(file).read_text()
    gone = make_conninfo("", **{**conninfo_to_dict(dsn), "port": 1})
    Path(file).write_text(text.replace(dsn, gone))
    for command in ("monitor", "advise"):
        assert run([command, file, "--output", "json"]) == 1
        caught = capfd.readouterr()
        assert "PS401" in caught.err
        assert '"west"' in caught.out
    metrics = tmp_path / "m.prom"
    assert run(["monitor", file, "--metrics-file", str(metrics)]) == 1
    assert re.search(r"^s2 +west +\? ", capfd.readouterr().out, re.M)
    assert re.search(r'monitor_server_up\{.*server="west"\} 0', metrics.read_text())
    core = world.dsn("core")
    away = make_conninfo("", **{**conninfo_to_dict(core), "port": 1})
    Path(file).write_text(text.replace(dsn, gone).replace(core, away))
    assert run(["monitor", file]) == 5
    assert run(["advise", file]) == 5


def test_not_applied(world: World, capfd: pytest.CaptureFixture[str]) -> None:
    file = file_of(world)
    assert run(["advise", file]) == 1
    assert "PS520" in capfd.readouterr().err


def test_a_role_without_privileges(world: World) -> None:
    """It reads what it may and says what to grant; the tables themselves stay closed to it."""
    fill(world)
    role = f"watch_{world.name}"
    for server in ("core", "west"):
        world.execute(
            f"DO $$ BEGIN IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = '{role}') THEN "
            f"CREATE ROLE {role} LOGIN PASSWORD 'watch'; END IF; END $$",
            server=server,
        )
    try:
        own = dict(world.dsns)
        world.dsns = {n: make_conninfo(dsn, user=role, password="watch") for n, dsn in own.items()}
        found = observe.monitor(world.load(TWO))
        assert {e.code for e in found.observed.failed.values()} == {"PS560"}
        assert "GRANT USAGE ON SCHEMA parlant_shard" in str(found.observed.failed["core"].hint)
        world.dsns = own
        for server in ("core", "west"):
            world.execute(
                f"GRANT USAGE ON SCHEMA parlant_shard TO {role}",
                f"GRANT SELECT ON parlant_shard.object TO {role}",
                server=server,
            )
        world.dsns = {n: make_conninfo(dsn, user=role, password="watch") for n, dsn in own.items()}
        data = observe.monitor(world.load(TWO)).to_json()
        assert one(data["table_totals"], table="item")["rows"] == 20
        advice = observe.advise(world.load(TWO))
        assert advice.failed == {}
        assert any("GRANT SELECT ON parlant_shard.step" in n for n in advice.notices)
        assert any("bloat is not estimated" in n for n in advice.notices)
    finally:
        world.dsns = own
        for server in ("core", "west"):
            world.execute(f"DROP OWNED BY {role}", server=server)
        world.execute(f"DROP ROLE {role}")


def test_maintain_needs_no_figure(world: World) -> None:
    """A table that is locked costs neither the figures nor the run."""
    what = layout({"s1": ["a"]}, tables=PARTS)
    world.apply(what)
    upkeep.maintain(world.load(what))
    with world.connect() as other:
        other.execute("BEGIN")
        report = upkeep.maintain(
            world.load(what),
            sizes=True,
            confirm=lambda _plan: (
                other.execute("LOCK TABLE item_s1 IN ACCESS EXCLUSIVE MODE") and None
            ),
        )
    assert [f.message for f in report.failures] == []
    assert len(report.sizes) == 3
    assert len(upkeep.maintain(world.load(what), sizes=True).sizes) == 3


# --- statements -----------------------------------------------------------------------------------


@pytest.mark.needs(extensions=["pg_stat_statements"])
@pytest.mark.parametrize("schema", ["public", "ext ra"])
def test_statements(world: World, schema: str) -> None:
    if "pg_stat_statements" not in world.clusters.get(0).setting("shared_preload_libraries"):
        pytest.skip("the server does not preload pg_stat_statements")
    one_shard = layout({"s1": ["a"], "s2": ["b"]})
    world.apply(one_shard)
    topology = world.load(one_shard)
    found = observe.monitor(topology).to_json()
    assert found["statements"] == []
    assert any("statements: CREATE EXTENSION pg_stat_statements" in n for n in found["notices"])
    world.execute(
        f'CREATE SCHEMA IF NOT EXISTS "{schema}"',
        f'CREATE EXTENSION pg_stat_statements SCHEMA "{schema}"',
        "INSERT INTO account_s1 (workspace_id) VALUES ('a')",
        "SELECT name FROM account_s1 WHERE name = 'top secret 1'",
        "SELECT name FROM account_s1 WHERE name = 'top secret 2'",
        "SELECT name FROM account_s2 WHERE name = 'top secret 3'",
        "COMMENT ON TABLE account_s1 IS 'top secret 4'",
    )
    observed = observe.monitor(topology)
    data = observed.to_json()
    role = f"watch_{world.name}"
    assert not [n for n in data["notices"] if "statements" in n]
    # One statement on two shards; literals are gone; what is never normalised is not shown.
    row = one(data["statements"], statement="SELECT name FROM account WHERE name = $1")
    assert (row["calls"], row["servers"]) == (3, ["core"])
    assert row["mean_ms"] == pytest.approx(row["total_ms"] / 3, abs=0.01)
    assert "secret" not in json.dumps(data)
    assert "SELECT name FROM account WHERE name = $1" in observe.monitor_text(data)
    assert data["servers"][0]["statements_since"] is not None
    with psycopg.connect(world.dsn("core"), autocommit=True) as connection:
        connection.execute(f"CREATE ROLE {role} LOGIN PASSWORD 'watch'")
        connection.execute(f"GRANT USAGE ON SCHEMA parlant_shard TO {role}")
        connection.execute(f"GRANT SELECT ON parlant_shard.object TO {role}")
        try:
            own = world.dsns["core"]
            world.dsns["core"] = make_conninfo(own, user=role, password="watch")
            data = observe.monitor(world.load(one_shard)).to_json()
            assert data["statements"] == []
            said = "GRANT USAGE ON SCHEMA" if schema != "public" else "pg_read_all_stats"
            assert any(said in n for n in data["notices"])
        finally:
            world.dsns["core"] = own
            connection.execute(f"DROP OWNED BY {role}")
            connection.execute(f"DROP ROLE {role}")


@pytest.mark.needs(extensions=["pg_stat_statements"])
def test_statements_without_the_library(world: World) -> None:
    with scratch_space() as scratch:
        local.up(
            scratch / "plain",
            durable=False,
            settings={"shared_preload_libraries": "", "shared_buffers": "16MB"},
        )
        world.dsns["core"] = conninfo(scratch / "plain")
        what = layout({"s1": ["a"]})
        world.apply(what)
        world.execute("CREATE EXTENSION pg_stat_statements")
        found = observe.monitor(world.load(what)).to_json()
        world.execute("DROP EXTENSION pg_stat_statements")
        (bare,) = observe.monitor(world.load(what)).observed.notices
    assert any("shared_preload_libraries" in n for n in found["notices"])
    assert found["statements"] == []
    assert "restart, then CREATE EXTENSION" in bare


def test_copies_hold_the_same_rows(world: World) -> None:
    """A reference table on two servers has its rows once, and takes its space twice."""
    what = layout(
        {"s1": ["a"], "s2": ("west", ["b"])},
        ddl=SCHEMA + "CREATE TABLE plan (id text PRIMARY KEY);",
        servers=["west"],
        tables={"plan": {"kind": "reference"}},
    )
    world.apply(what)
    world.execute("INSERT INTO plan SELECT g FROM generate_series(1, 150) g")
    world.execute("ANALYZE plan")
    deadline = time.monotonic() + 60
    while world.value("SELECT count(*) FROM plan", server="west") < 150:
        assert time.monotonic() < deadline
        time.sleep(0.1)
    world.execute("ANALYZE plan", server="west")
    found = observe.monitor(world.load(what)).to_json()
    each = [t for t in found["tables"] if t["table"] == "plan"]
    both = one(found["table_totals"], table="plan")
    assert (both["shards"], both["servers"]) == ([], ["core", "west"])
    assert len(each) == 2
    assert both["rows"] == max(t["rows"] for t in each) < sum(t["rows"] for t in each)
    assert both["bytes"] == sum(t["bytes"] for t in each)
    assert re.search(r"^plan +core, west ", observe.monitor_text(found), re.M)


# --- what a server does not say -------------------------------------------------------------------


def test_rows_after_a_reset(world: World) -> None:
    """Lost counters take the estimate of the rows with them; the catalogue still has it."""
    what = layout({"s1": ["a"]}, tables=PARTS)
    world.apply(what)
    world.execute(
        "INSERT INTO account_s1 (workspace_id) SELECT 'a' FROM generate_series(1, 300)",
        "ANALYZE account_s1",
        "SELECT pg_stat_force_next_flush()",
        "SELECT pg_stat_reset()",
    )
    found = observe.monitor(world.load(what)).to_json()
    assert one(found["table_totals"], table="account")["rows"] == 300
    world.execute(
        "DELETE FROM account_s1", "SELECT pg_stat_force_next_flush()", "VACUUM account_s1"
    )
    found = observe.monitor(world.load(what)).to_json()
    assert one(found["table_totals"], table="account")["rows"] == 0


def test_a_locked_table_does_not_hide_its_server(world: World) -> None:
    what = layout({"s1": ["a"]}, tables=PARTS)
    world.apply(what)
    world.execute("INSERT INTO account_s1 (workspace_id) VALUES ('a')", "VACUUM account_s1")
    free = observe.monitor(world.load(what)).to_json()
    with world.connect() as other:
        other.execute("BEGIN")
        other.execute("LOCK TABLE account_s1 IN ACCESS EXCLUSIVE MODE")
        found = observe.monitor(world.load(what))
        data = found.to_json()
    assert found.observed.failed == {}
    assert one(data["tables"], table="item") == one(free["tables"], table="item")
    locked = one(data["tables"], table="account")
    assert locked["bytes"] == 3 * 8192  # what VACUUM saw: a page, and two of the primary key
    assert "account" not in {i["table"] for i in data["indexes"]}
    assert any('"account_s1"' in n and "locked" in n for n in data["notices"])


@pytest.mark.needs(extensions=["pg_stat_statements"])
def test_statements_of_every_spelling(world: World) -> None:
    if "pg_stat_statements" not in world.clusters.get(0).setting("shared_preload_libraries"):
        pytest.skip("the server does not preload pg_stat_statements")
    what = layout({"s1": ["a"], "s2": ["b"]})
    world.apply(what)
    world.execute(
        "CREATE EXTENSION pg_stat_statements",
        "SELECT count(*) FROM account_global",
        "SELECT name FROM ACCOUNT_S1 WHERE name = 'x'",
        "SELECT name FROM account_s2 WHERE name = 'x'",
    )
    found = observe.monitor(world.load(what)).to_json()["statements"]
    texts = {s["statement"]: s["calls"] for s in found}
    assert texts["SELECT count(*) FROM account_global"] == 1
    assert texts["SELECT name FROM account WHERE name = $1"] == 2
