"""Federated views over local and foreign tables, and the copies of reference tables."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from protocol import Connection, Layout, World, layout
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from parlant_shard import local
from parlant_shard.cli import run
from servers import Clusters, database_name, scratch_directory

SCHEMA = """
CREATE TABLE "user" (id text PRIMARY KEY, name text);
CREATE TABLE workspace (
  id text PRIMARY KEY, name text, owner_id text REFERENCES "user" (id) ON DELETE CASCADE
);
CREATE TABLE account (
  id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
  workspace_id text NOT NULL REFERENCES workspace (id) ON DELETE CASCADE,
  creator text REFERENCES "user" (id) ON DELETE SET NULL,
  made timestamptz NOT NULL DEFAULT now()
);
CREATE TABLE item (
  id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
  account_id uuid NOT NULL REFERENCES account (id) ON DELETE CASCADE,
  note text
);
"""
PLAIN = """
CREATE TABLE account (
  id uuid PRIMARY KEY DEFAULT gen_random_uuid(), workspace_id text NOT NULL, note text
);
"""
REFERENCES = {"workspace": {"kind": "reference"}, "user": {"kind": "reference"}}


@pytest.fixture
def world(tmp_path: Path, clusters: Clusters) -> World:
    """Give a world whose servers are in turn of two clusters."""
    return World(tmp_path, clusters, over=2)


def explain(connection: Connection, query: str) -> list[str]:
    """Return the names of the relations that the plan of a query reads."""
    row = connection.execute(f"EXPLAIN (FORMAT JSON) {query}").fetchone()
    assert row is not None

    def relations(node: dict[str, Any]) -> Iterator[str]:
        if "Relation Name" in node:
            yield node["Relation Name"]
        for inner in node.get("Plans", ()):
            yield from relations(inner)

    return sorted(relations(row[0][0]["Plan"]))


# --- pruning --------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [10, 100, 101, 1_000])
def test_one_workspace_is_one_shard(world: World, count: int) -> None:
    names = {s: [f"{s}-{i:04}" for i in range(count)] for s in ("s1", "s2", "s3")}
    shards: dict[str, Any] = {"s1": names["s1"], "s2": names["s2"], "s3": ("east", names["s3"])}
    world.converge(layout(shards, ddl=PLAIN))
    with world.connect() as connection:
        for shard, workspaces in names.items():
            for workspace in (workspaces[0], workspaces[count // 2], workspaces[-1]):
                query = f"SELECT * FROM account_global WHERE workspace_id = '{workspace}'"
                assert explain(connection, query) == [f"account_{shard}"]
        # The same through an alias, a join, an aggregate and an IN list of one shard.
        first, last = names["s2"][0], names["s2"][-1]
        for query in (
            f"SELECT count(*) FROM account_global a WHERE '{last}' = a.workspace_id",
            f"SELECT * FROM account_global WHERE workspace_id IN ('{first}', '{last}')",
            f"SELECT * FROM (SELECT * FROM account_global) x WHERE workspace_id = '{first}'",
        ):
            assert explain(connection, query) == ["account_s2"]
        everything = ["account_s1", "account_s2", "account_s3"]
        assert explain(connection, "SELECT * FROM account_global") == everything
        # Nobody lives there: no shard is asked.
        nowhere = "SELECT * FROM account_global WHERE workspace_id = 'nobody'"
        assert explain(connection, nowhere) == []


def test_a_prepared_statement_is_pruned_too(world: World) -> None:
    world.apply(layout({"s1": ["a"], "s2": ["b"]}, ddl=PLAIN))
    with world.connect() as connection:
        connection.execute(
            "PREPARE one (text) AS SELECT * FROM account_global WHERE workspace_id = $1"
        )
        assert explain(connection, "EXECUTE one ('b')") == ["account_s2"]


def test_time_and_workspace_together_read_one_partition(world: World) -> None:
    schema = PLAIN.replace("note text", "at timestamptz NOT NULL")
    tables = {"account": {"partition": {"by": "at", "every": "1 day", "premake": 2}}}
    world.apply(layout({"s1": ["a"], "s2": ["b"]}, ddl=schema, tables=tables))
    with world.connect() as connection:
        connection.execute("SET TimeZone = UTC")
        tomorrow = world.value("SELECT (now() AT TIME ZONE 'UTC')::date + 1")
        query = f"SELECT * FROM account_global WHERE workspace_id = 'b' AND at = '{tomorrow} 12:00'"
        assert explain(connection, query) == [f"account_s2_p{tomorrow:%Y%m%d}"]


# --- what the views are ---------------------------------------------------------------------------


def test_views_show_what_the_shards_hold_together(world: World) -> None:
    shards = {"s1": ["a"], "s2": ("east", ["b", "it's"]), "s3": ("west", ["c"])}
    world.converge(layout(shards, ddl=PLAIN))
    expected = []
    for shard, server, workspace in (
        ("s1", "core", "a"),
        ("s2", "east", "b"),
        ("s2", "east", "it's"),
        ("s3", "west", "c"),
    ):
        with world.connect(server) as connection:
            cursor = connection.execute(
                f"INSERT INTO account_{shard} (workspace_id, note) "
                "SELECT %s, i::text FROM generate_series(1, 3) i RETURNING id, workspace_id, note",
                [workspace],
            )
            expected += cursor.fetchall()
    assert sorted(world.rows("SELECT id, workspace_id, note FROM account_global")) == sorted(
        expected
    )
    assert world.rows(
        "SELECT note FROM account_global WHERE workspace_id = 'it''s' ORDER BY 1"
    ) == [
        ("1",),
        ("2",),
        ("3",),
    ]
    counted = "SELECT workspace_id, count(*) FROM account_global GROUP BY 1 ORDER BY 1"
    assert world.rows(counted) == [("a", 3), ("b", 3), ("c", 3), ("it's", 3)]


def test_views_ask_with_the_rights_of_the_caller(world: World) -> None:
    role = f"reader_{world.name}"
    world.converge(layout({"s1": ["a"], "s2": ["b"]}, ddl=PLAIN))
    options = (
        "SELECT bool_and('security_invoker=true' = ANY (reloptions)) FROM pg_class WHERE relkind "
        "= 'v' AND relname LIKE '%\\_global'"
    )
    assert world.value(options) is True
    world.execute(
        "ALTER TABLE account_s1 ENABLE ROW LEVEL SECURITY",
        "INSERT INTO account_s1 (workspace_id) VALUES ('a')",
        "INSERT INTO account_s2 (workspace_id) VALUES ('b')",
    )
    with world.connect() as connection:
        connection.execute(f"CREATE ROLE {role}")
        try:
            connection.execute(f"GRANT SELECT ON account_global, account_s1 TO {role}")
            connection.execute(f"SET ROLE {role}")
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                connection.execute("SELECT * FROM account_global")
            connection.execute("RESET ROLE")
            connection.execute(f"GRANT SELECT ON account_s2 TO {role}")
            connection.execute(f"SET ROLE {role}")
            rows = connection.execute("SELECT workspace_id FROM account_global").fetchall()
            assert rows == [("b",)]  # no policy lets the role see shard 1
            connection.execute("RESET ROLE")
        finally:
            connection.execute(f"DROP OWNED BY {role}")
            connection.execute(f"DROP ROLE {role}")


# --- passwords ------------------------------------------------------------------------------------

PASSWORD = 'p\'w \\ 100% "q" $1'


@pytest.mark.needs(clusters=2, superuser=True)
def test_passwords_reach_the_server_and_nothing_else(
    world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    role = f"peer_{world.name}"
    with world.connect("core"):  # the first server is of the first cluster
        pass
    with world.connect("east") as connection:
        verifier = "SET password_encryption = 'scram-sha-256'"
        connection.execute(verifier)
        connection.execute(
            psycopg.sql.SQL("CREATE ROLE {} LOGIN SUPERUSER PASSWORD {}").format(
                psycopg.sql.Identifier(role), psycopg.sql.Literal(PASSWORD)
            )
        )
    try:
        east = make_conninfo(world.dsns["east"], user=role, password=PASSWORD)
        what = layout({"s1": ["a"], "s2": ("east", ["b"])}, ddl=PLAIN)
        world.dsns["east"] = east
        topology = world.load(what)
        plan = world.plan(what)  # check_plan() looks for every password in the JSON
        environ = dict(world.dsns)
        with pytest.MonkeyPatch.context() as patch:
            for name, value in environ.items():
                patch.setenv(name, value)
            for output in ("text", "json"):
                assert run(["plan", str(topology.file), "--output", output, "-v"]) == 0
                said = capsys.readouterr()
                assert "create the user mapping" in said.out
                assert PASSWORD not in said.out + said.err
                assert json.dumps(PASSWORD)[1:-1] not in said.out + said.err
        assert any("<password of server east>" in sql for s in plan.steps for sql in s.sql)
        world.converge(what)
        with world.connect("east") as connection:
            connection.execute("INSERT INTO account_s2 (workspace_id) VALUES ('b')")
        assert world.rows("SELECT workspace_id FROM account_global") == [("b",)]
        steps = world.rows("SELECT step_ids::text, detail FROM parlant_shard.run")
        assert PASSWORD not in str(steps)
        # A new password is one step.
        with world.connect("east") as connection:
            connection.execute(
                psycopg.sql.SQL("ALTER ROLE {} PASSWORD 'other'").format(
                    psycopg.sql.Identifier(role)
                )
            )
        world.dsns["east"] = make_conninfo(east, password="other")
        changed = world.converge(what)
        assert [s.title for s in changed.plan.steps] == [
            f'alter the user mapping of "{conninfo_to_dict(world.dsns["core"])["user"]}" '
            'on "parlant_shard_east"'
        ]
        assert world.rows("SELECT workspace_id FROM account_global") == [("b",)]
    finally:
        world.dsns["east"] = make_conninfo(
            world.clusters.get(1).admin_dsn, dbname=database_name(world.dsns["east"])
        )
        with world.connect("east") as connection:
            owner = conninfo_to_dict(world.dsns["east"])["user"]
            connection.execute(f'REASSIGN OWNED BY {role} TO "{owner}"')
            connection.execute(f"DROP OWNED BY {role}")
            connection.execute(f"DROP ROLE {role}")


# --- reference tables -----------------------------------------------------------------------------

REMOTE = {"core": "s1", "east": "s2", "west": "s3"}


def await_value(world: World, server: str, query: str, expected: object) -> None:
    """Wait until a query on a copy says what is expected; replication takes a moment."""
    deadline = time.monotonic() + 15
    while (found := world.value(query, server=server)) != expected:
        assert time.monotonic() < deadline, f"{server}: {query} says {found}, not {expected}"
        time.sleep(0.05)


def referenced() -> Layout:
    shards = {"s1": ["a"], "s2": ("east", ["b"]), "s3": ("west", ["c"])}
    return layout(shards, ddl=SCHEMA, tables=REFERENCES)


@pytest.mark.needs(clusters=2, logical=True, superuser=True)
def test_reference_rows_go_everywhere(world: World) -> None:
    world.execute(  # rows that were there before us arrive as well
        'CREATE TABLE "user" (id text PRIMARY KEY, name text)',
        "INSERT INTO \"user\" VALUES ('old', 'was here')",
    )
    world.converge(referenced())
    world.execute(
        "INSERT INTO \"user\" VALUES ('u', 'U'), ('v', 'V'), ('w', 'W')",
        "INSERT INTO workspace VALUES ('a', 'A', 'u'), ('b', 'B', 'u'), ('c', 'C', 'v')",
        "UPDATE \"user\" SET name = 'changed' WHERE id = 'u'",
    )
    for server, shard in REMOTE.items():
        workspace = {"s1": "a", "s2": "b", "s3": "c"}[shard]
        await_value(world, server, "SELECT count(*) FROM workspace", 3)
        await_value(world, server, "SELECT count(*) FROM \"user\" WHERE name = 'changed'", 1)
        await_value(world, server, "SELECT count(*) FROM \"user\" WHERE id = 'old'", 1)
        world.execute(
            f"INSERT INTO account_{shard} (workspace_id, creator) VALUES ('{workspace}', 'w')",
            f"INSERT INTO item_{shard} (workspace_id, account_id) "
            f"SELECT workspace_id, id FROM account_{shard}",
            server=server,
        )
        for column in ("workspace_id", "creator"):
            keys = (
                "SELECT count(*) FROM pg_constraint c JOIN pg_attribute a ON attrelid = conrelid "
                f"AND attnum = ANY (conkey) WHERE conrelid = 'account_{shard}'::regclass "
                f"AND contype = 'f' AND convalidated AND attname = '{column}'"
            )
            assert world.value(keys, server=server) == 1
        with pytest.raises(psycopg.errors.ForeignKeyViolation):
            world.execute(
                f"INSERT INTO account_{shard} (workspace_id, creator) "
                f"VALUES ('{workspace}', 'nobody')",
                server=server,
            )
    world.settled(referenced())

    # Deletes cascade on every server: SET NULL for the creator, two levels for the owner.
    world.execute("DELETE FROM \"user\" WHERE id = 'w'")
    for server, shard in REMOTE.items():
        await_value(world, server, f"SELECT count(*) FROM account_{shard} WHERE creator IS NULL", 1)
        assert world.value(f"SELECT count(*) FROM item_{shard}", server=server) == 1
    world.execute("DELETE FROM workspace WHERE id = 'c'")
    await_value(world, "west", "SELECT count(*) FROM item_s3", 0)
    assert world.value("SELECT count(*) FROM account_s3", server="west") == 0
    world.execute("DELETE FROM \"user\" WHERE id = 'u'")
    await_value(world, "east", "SELECT count(*) FROM item_s2", 0)
    await_value(world, "east", "SELECT count(*) FROM workspace", 0)
    for server in ("east", "west"):
        shard = REMOTE[server]
        orphans = (
            f"SELECT count(*) FROM account_{shard} a WHERE NOT EXISTS "
            "(SELECT FROM workspace w WHERE w.id = a.workspace_id)"
        )
        assert world.value(orphans, server=server) == 0


@pytest.mark.needs(clusters=2, logical=True, superuser=True)
def test_tables_of_the_coordinator_count_without_a_sequence_of_the_schema(world: World) -> None:
    what = layout(
        {"s1": ["a"], "s2": ("east", ["b"])},
        ddl=PLAIN + "CREATE TABLE plan (id serial PRIMARY KEY, name text);"
        "CREATE TABLE machine (id bigserial PRIMARY KEY);",
        tables={"plan": {"kind": "reference"}},
    )
    world.converge(what)
    world.execute("INSERT INTO plan (name) VALUES ('a'), ('b')")
    assert world.rows("SELECT id FROM plan ORDER BY id") == [(1,), (2,)]
    assert world.value("INSERT INTO machine DEFAULT VALUES RETURNING id") == 1


def test_a_copy_is_not_written(world: World) -> None:
    world.apply(referenced())
    world.execute("INSERT INTO \"user\" VALUES ('u', 'U')")
    await_value(world, "east", 'SELECT count(*) FROM "user"', 1)
    for statement in (
        "INSERT INTO \"user\" VALUES ('x', 'X')",
        "UPDATE \"user\" SET name = 'y'",
        'DELETE FROM "user"',
        'TRUNCATE "user" CASCADE',
    ):
        with pytest.raises(psycopg.errors.ReadOnlySqlTransaction) as refused:
            world.execute(statement, server="east")
        assert refused.value.sqlstate == "25006"
        assert 'table "user" is a copy on this server' in str(refused.value)
    world.execute("INSERT INTO \"user\" VALUES ('y', 'Y')")  # the coordinator's are written
    await_value(world, "east", 'SELECT count(*) FROM "user"', 2)


@pytest.mark.needs(clusters=2)
def test_without_logical_replication_there_are_no_copies(
    tmp_path: Path, clusters: Clusters
) -> None:
    scratch = scratch_directory()
    directory = scratch / "replica"
    try:
        local.up(directory, durable=False, settings={"wal_level": "replica"})
        world = World(tmp_path, clusters)
        if clusters.get(0).major != 18:
            pytest.skip("the embedded server is of another major")
        with psycopg.connect(local.conninfo(directory), autocommit=True) as connection:
            connection.execute("CREATE DATABASE core")
        world.dsns["core"] = local.conninfo(directory, "core")
        what = layout({"s1": ["a"], "s2": ("east", ["b"])}, ddl=SCHEMA, tables=REFERENCES)
        outcome = world.converge(what)
        assert any(
            'the coordinator "core" has wal_level = replica, reference tables need logical' in n
            and 'server "east" gets no reference tables' in n
            for n in outcome.plan.notices
        )
        assert world.value("SELECT to_regclass('workspace') IS NULL", server="east")
        keys = (
            "SELECT count(*) FROM pg_constraint WHERE contype = 'f' AND conrelid = '{}'::regclass"
        )
        assert world.value(keys.format("account_s2"), server="east") == 0
        assert world.value(keys.format("item_s2"), server="east") == 1
        assert world.value(keys.format("account_s1")) == 2
        world.execute("INSERT INTO account_s2 (workspace_id) VALUES ('b')", server="east")
        assert world.rows("SELECT workspace_id FROM account_global") == [("b",)]
    finally:
        local.remove(directory)
        scratch.rmdir()
