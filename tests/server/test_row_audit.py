"""Recorded changes of rows: what a statement did, who did it, and nothing that a row held."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest
from protocol import BY_MONTH, DELETES, DROPS, SCHEMA, Layout, World, layout
from psycopg import sql
from rls_world import PASSWORD, seen_as
from test_maintain import bounds, cut, maintain, months, now_of, settled

from parlant_shard import AsyncRouter, Router, privacy
from parlant_shard.errors import SchemaError, TopologyError
from parlant_shard.planner import make_plan
from servers import Clusters

pytestmark = pytest.mark.matrix

SHARDS = {"s1": ["a"], "s2": ["b"]}
ALL = {"account": {"audit": True}, "item": {"audit": {"columns": ["size"]}}, "log": {"audit": True}}


@pytest.fixture
def world(tmp_path: Path, clusters: Clusters) -> World:
    """Give the databases of one server."""
    return World(tmp_path, clusters)


@pytest.fixture
def app(world: World) -> Iterator[str]:
    """Give a role of the application."""
    name = f"app_{secrets.token_hex(4)}"
    world.execute(f"CREATE ROLE {name}", f"GRANT USAGE ON SCHEMA public TO {name}")
    yield name
    world.execute(f"DROP OWNED BY {name}", f"DROP ROLE {name}")


def recorded(*, shards: Any = None, cut_log: bool = False, **sections: Any) -> Layout:
    tables: dict[str, Any] = {name: dict(options) for name, options in ALL.items()}
    if cut_log:
        tables["log"] |= BY_MONTH["log"]
    return layout(shards or SHARDS, tables=tables, **sections)


def rows(world: World, what: str = "table_name, operation, changed_columns") -> list[Any]:
    return world.rows(
        f"SELECT {what} FROM parlant_shard_audit_s1 ORDER BY at, table_name, operation, row_key"
    )


def clear(world: World) -> None:
    world.execute("DELETE FROM parlant_shard_audit_s1")


def test_on_and_off_are_plans(world: World) -> None:
    off, on = layout(SHARDS), recorded()
    world.apply(off)
    titles = [s.title for s in make_plan(world.load(on)).steps]
    assert sum("trigger" in t for t in titles) == 2 * 3 * 3
    assert not any(s.hazards for s in make_plan(world.load(on)).steps if "trigger" in s.title)
    world.converge(on)
    world.equals_fresh(on)
    world.execute("INSERT INTO account_s1 (workspace_id) VALUES ('a')")
    assert rows(world) == [("account", "INSERT", None)]
    # Off, nothing more is recorded, and what was recorded stays; so it does when it is on again.
    world.converge(off)
    world.execute("INSERT INTO account_s1 (workspace_id) VALUES ('a')")
    assert len(rows(world)) == 1
    maintain(world, off)
    settled(world, off)
    world.converge(on)
    world.execute("INSERT INTO account_s1 (workspace_id) VALUES ('a')")
    assert len(rows(world)) == 2
    # With its shard it goes, by permission.
    less = recorded(shards={"s1": ["a"]})
    world.execute("INSERT INTO account_s2 (workspace_id) VALUES ('b')", "DELETE FROM account_s2")
    world.converge(less, allow=DROPS | DELETES)


@pytest.mark.parametrize("cut_log", [False, True])
def test_what_is_recorded(world: World, cut_log: bool) -> None:
    world.converge(recorded(cut_log=cut_log))
    with world.connect() as connection:
        connection.execute("SELECT set_config('parlant.actor', 'ann@example.com', false)")
        ids = [
            row[0]
            for row in connection.execute(
                "INSERT INTO account_s1 (workspace_id, name) "
                "SELECT 'a', 'Secret ' || n FROM generate_series(1, 2) n RETURNING id::text"
            )
        ]
        who = connection.execute("SELECT session_user::text").fetchone()
        assert who is not None
        found = rows(
            world, "workspace_id, row_key, actor, application_actor, transaction_id IS NOT NULL"
        )
        expected = [("a", {"id": i}, who[0], "ann@example.com", True) for i in sorted(ids)]
        assert sorted(found, key=lambda r: r[1]["id"]) == expected
        clear(world)
        # Only what differs, and nothing where nothing does.
        connection.execute("UPDATE account_s1 SET name = 'Other', workspace_id = workspace_id")
        connection.execute("UPDATE account_s1 SET name = name")
        connection.execute("UPDATE account_s1 SET name = 'x' WHERE false")
        assert rows(world) == [("account", "UPDATE", ["name"])] * 2
        clear(world)
        # A statement that inserts and updates records both.
        connection.execute(
            "INSERT INTO account_s1 (id, workspace_id, name) VALUES (%s, 'a', 'N'), "
            "(gen_random_uuid(), 'a', 'N') ON CONFLICT (id) DO UPDATE SET name = EXCLUDED.name",
            [ids[0]],
        )
        assert sorted(rows(world)) == [
            ("account", "INSERT", None),
            ("account", "UPDATE", ["name"]),
        ]
        clear(world)
        # MERGE does several things at once.
        connection.execute(
            "MERGE INTO account_s1 t USING (VALUES (%s::uuid, 'M'), (%s::uuid, 'gone'), "
            "(gen_random_uuid(), 'new')) s (id, name) ON t.id = s.id "
            "WHEN MATCHED AND s.name = 'gone' THEN DELETE "
            "WHEN MATCHED THEN UPDATE SET name = s.name "
            "WHEN NOT MATCHED THEN INSERT (id, workspace_id, name) VALUES (s.id, 'a', s.name)",
            [ids[0], ids[1]],
        )
        assert sorted(rows(world)) == [
            ("account", "DELETE", None),
            ("account", "INSERT", None),
            ("account", "UPDATE", ["name"]),
        ]
        connection.execute(
            "INSERT INTO account_s1 (id, workspace_id, name) VALUES (%s, 'a', 'Secret 2')", [ids[1]]
        )
        clear(world)
        # A key that changes is written under both.
        connection.execute("UPDATE account_s1 SET id = gen_random_uuid() WHERE id = %s", [ids[1]])
        assert rows(world) == [("account", "UPDATE", ["id"])] * 2
        clear(world)
        connection.execute(
            "INSERT INTO item_s1 (workspace_id, account_id, note) VALUES ('a', %s, 'n')", [ids[0]]
        )
        connection.execute("UPDATE item_s1 SET note = 'other'")  # not one of its columns
        connection.execute("UPDATE item_s1 SET note = 'more', size = 2")
        assert rows(world) == [("item", "INSERT", None), ("item", "UPDATE", ["size"])]
        clear(world)
        connection.execute(
            "INSERT INTO log_s1 (workspace_id, item_id, body, at) SELECT 'a', id, 'Secret', now() "
            "FROM item_s1"
        )
        connection.execute("UPDATE log_s1 SET body = 'Secret too'")
        assert rows(world) == [("log", "INSERT", None), ("log", "UPDATE", ["body"])]
        key = rows(world, "row_key")[0][0]
        assert sorted(key) == (["at", "id"] if cut_log else ["id"])
        if cut_log:  # a row that goes to another partition
            connection.execute("UPDATE log_s1 SET at = at + interval '31 days'")
            moved = rows(world)[2:]
            assert moved == [("log", "UPDATE", ["at", "id"])] * 2
        clear(world)
        # Cascades are deletes too.
        connection.execute("DELETE FROM account_s1 WHERE id = %s", [ids[0]])
        assert sorted(r[0] for r in rows(world)) == ["account", "item", "log"]
        assert {r[1] for r in rows(world)} == {"DELETE"}
        # COPY, and a transaction that is given up.
        clear(world)
        with (
            connection.cursor() as cursor,
            cursor.copy("COPY account_s1 (workspace_id) FROM stdin") as copy,
        ):
            copy.write("a\na\n")
        assert rows(world) == [("account", "INSERT", None)] * 2
        with connection.transaction(force_rollback=True):
            connection.execute("DELETE FROM account_s1")
        assert len(rows(world)) == 2
    assert "Secret" not in str(world.rows("SELECT a::text FROM parlant_shard_audit_s1 a"))


def test_a_partition_by_its_own_name_is_not_seen(world: World) -> None:
    """What the documentation says: the triggers are the parent's."""
    world.apply(recorded(cut_log=True))
    world.execute(
        "INSERT INTO account_s1 (workspace_id) VALUES ('a')",
        "INSERT INTO item_s1 (workspace_id, account_id) SELECT 'a', id FROM account_s1",
        "INSERT INTO log_s1 (workspace_id, item_id) SELECT 'a', id FROM item_s1",
    )
    leaf = world.value("SELECT tableoid::regclass::text FROM log_s1")
    before = len(rows(world))
    world.execute(f"UPDATE {leaf} SET body = 'unseen'")
    assert len(rows(world)) == before
    world.execute("UPDATE log_s1 SET body = 'seen'")
    assert rows(world)[before:] == [("log", "UPDATE", ["body"])]


def test_ten_thousand_rows_after_one_are_not_quadratic(world: World) -> None:
    """The plan of the first statement in a session is kept: it must do for the second."""
    world.apply(recorded())
    with world.connect() as connection:
        connection.execute("SET plan_cache_mode = force_generic_plan")
        connection.execute("INSERT INTO account_s1 (workspace_id) VALUES ('a')")
        connection.execute("UPDATE account_s1 SET name = 'one'")
        connection.execute(
            "INSERT INTO account_s1 (workspace_id) SELECT 'a' FROM generate_series(1, 10000)"
        )
        connection.execute("SET statement_timeout = '60s'")
        connection.execute("UPDATE account_s1 SET name = 'all'")
    assert world.value("SELECT count(*) FROM parlant_shard_audit_s1") == 1 + 1 + 10_000 + 10_001


def test_the_application_writes_it_through_the_trigger_alone(world: World, app: str) -> None:
    # A site that grants everything that is to come, which a shard table needs and this one not.
    world.execute(
        f"ALTER DEFAULT PRIVILEGES IN SCHEMA public GRANT SELECT, INSERT, UPDATE, DELETE ON TABLES "
        f"TO {app}",
        f"ALTER DEFAULT PRIVILEGES GRANT EXECUTE ON FUNCTIONS TO {app}",
    )
    world.apply(recorded())
    leaf = world.value(
        "SELECT inhrelid::regclass::text FROM pg_inherits "
        "WHERE inhparent = 'parlant_shard_audit_s1'::regclass LIMIT 1"
    )
    world.execute(f"GRANT USAGE ON SCHEMA parlant_shard TO {app}")
    with world.connect() as connection:
        connection.execute(sql.SQL("SET SESSION AUTHORIZATION {}").format(sql.Identifier(app)))
        connection.execute("INSERT INTO account_s1 (workspace_id) VALUES ('a')")
        for table in ("parlant_shard_audit_s1", leaf):
            assert connection.execute(f"SELECT count(*) FROM {table}").fetchone() == (0,)
            assert connection.execute(f"UPDATE {table} SET actor = 'x'").rowcount == 0
            assert connection.execute(f"DELETE FROM {table}").rowcount == 0
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                connection.execute(
                    f"INSERT INTO {table} (at, transaction_id, workspace_id, table_name, "
                    "operation, row_key, actor) VALUES (now(), pg_current_xact_id(), 'a', "
                    "'account', 'DELETE', '{}', 'somebody')"
                )
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                connection.execute(f"TRUNCATE {table}")
        # Its function, hung on a table of one's own.
        connection.execute("CREATE TEMP TABLE account_s1 (id uuid, workspace_id text)")
        connection.execute(
            "CREATE TRIGGER forged AFTER INSERT ON pg_temp.account_s1 REFERENCING NEW TABLE AS "
            "new_rows FOR EACH STATEMENT EXECUTE FUNCTION parlant_shard.row_audit_account_s1()"
        )
        with pytest.raises(psycopg.errors.InsufficientPrivilege, match="for another table"):
            connection.execute("INSERT INTO pg_temp.account_s1 VALUES (NULL, 'b')")
    found = rows(world, "table_name, actor")
    assert found == [("account", app)]


def test_maintain_keeps_it(world: World) -> None:
    what = recorded(audit={"retention": "2 months"})
    world.converge(what)
    start = now_of(world)
    first = bounds(world, "parlant_shard_audit_s1")
    # The current month and three more; the past needs none.
    assert [a for a, _ in first] == [str(months(start, n)) for n in range(4)]
    maintain(world, what)
    settled(world, what)
    later = months(start, 4)
    report = maintain(world, what, later)
    assert {c.logical for c in report.cuts} == {"parlant_shard_audit"}
    assert {c.shard for c in report.cuts} == {"s1", "s2"}
    kept = bounds(world, "parlant_shard_audit_s1")
    assert kept[-1][1] == str(months(later, 4))
    assert kept[0][0] == str(months(later, -2))
    # A partition that maintain made is as closed as its siblings.
    assert world.rows(
        "SELECT DISTINCT c.relrowsecurity FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid "
        "WHERE i.inhparent = 'parlant_shard_audit_s1'::regclass"
    ) == [(True,)]
    assert [s.title for s in make_plan(world.load(what)).steps if "audit" in s.title] == []


def test_a_column_more_and_a_column_less(world: World) -> None:
    before = layout({"s1": ["a"]}, ddl=SCHEMA, tables={"account": {"audit": True}})
    world.apply(before)
    more = layout(
        {"s1": ["a"]},
        ddl=SCHEMA.replace("  name text\n", "  name text,\n  mark json\n"),
        tables={"account": {"audit": True}},
    )
    world.converge(more)
    world.execute(
        "INSERT INTO account_s1 (workspace_id, mark) VALUES ('a', '{}')",
        "UPDATE account_s1 SET mark = '[1]'",
    )
    assert rows(world)[-1] == ("account", "UPDATE", ["mark"])
    world.converge(before, allow=DELETES)
    world.execute("UPDATE account_s1 SET name = 'n'")
    assert rows(world)[-1] == ("account", "UPDATE", ["name"])


def test_what_cannot_be_recorded(world: World) -> None:
    def refused(tables: Any, ddl: str = SCHEMA, **sections: Any) -> tuple[str, str | None]:
        with pytest.raises((SchemaError, TopologyError)) as found:
            world.plan(layout({"s1": ["a"]}, ddl=ddl, tables=tables, **sections))
        assert found.value.hint
        return found.value.code, found.value.path

    note = "CREATE TABLE note (text text);"
    keyless = "CREATE TABLE keyless (workspace_id text NOT NULL);"
    assert refused({"note": {"audit": True}}, SCHEMA + note) == ("PS751", "tables.note.audit")
    assert refused({"keyless": {"audit": True}}, SCHEMA + keyless) == (
        "PS752",
        "tables.keyless.audit",
    )
    taken = "CREATE TABLE parlant_shard_audit (id int PRIMARY KEY, workspace_id text NOT NULL);"
    assert refused({"account": {"audit": True}}, SCHEMA + taken)[0] == "PS753"
    columns = {"account": {"audit": {"columns": ["nmae"]}}}
    assert refused(columns) == ("PS139", "tables.account.audit.columns.0")
    # Where the files do more than can be read, PostgreSQL is asked.
    more = "DO $$ BEGIN EXECUTE 'CREATE TABLE ' || 'more (id int)'; END $$;"
    assert refused(columns, SCHEMA + more) == ("PS754", "tables.account.audit")
    world.execute(*[s for s in SCHEMA.split(";\n") if s.strip()])
    assert refused(columns, None, schema={"from": "core"})[0] == "PS139"
    assert refused({}, audit={"retention": "3 days"})[0] == "PS132"
    assert refused({"account": {"audit": {"values": True}}})[0] == "PS107"
    assert refused({"account": {"audit": 3}})[0] == "PS109"


def test_the_horizon_and_the_cut(world: World) -> None:
    """A table that is cut by time keeps its own partitions beside those of the record."""
    what = layout({"s1": ["a"]}, tables={"log": {**cut()["log"], "audit": True}})
    world.converge(what)
    report = maintain(world, what, now_of(world) + timedelta(days=40))
    assert {c.logical for c in report.cuts} == {"log", "parlant_shard_audit"}


def test_a_purge_takes_what_was_recorded_of_a_workspace(world: World, tmp_path: Path) -> None:
    what = recorded(shards={"s1": ["a", "b"]}, cut_log=True)
    world.converge(what)

    def write(workspace: str) -> None:
        world.execute(
            f"INSERT INTO account_s1 (workspace_id) VALUES ('{workspace}')",
            f"INSERT INTO item_s1 (workspace_id, account_id) SELECT '{workspace}', id "
            f"FROM account_s1 WHERE workspace_id = '{workspace}'",
        )

    write("a")
    write("b")
    kept = rows(world, "workspace_id, table_name, operation")
    assert sorted(kept) == [(w, t, "INSERT") for w in "ab" for t in ("account", "item")]
    # Others load what is exported; a record of who changed it is none of that.
    exported = privacy.export(world.load(what), "a", file=tmp_path / "a.tar")
    assert {t["table"] for t in exported.tables} == {"account", "item", "log"}
    assert any("parlant_shard_audit_s1" in n for n in exported.notices)
    # Its deletes are recorded like anyone's: that goes too, and is not counted.
    done = privacy.purge(world.load(what), "a", allow=DELETES)
    assert done.rows == {"account": 1, "item": 1, "parlant_shard_audit": 2}
    assert sorted(rows(world, "workspace_id, table_name, operation")) == sorted(kept)[2:]
    trail = (
        "SELECT objects, detail -> 'rows' FROM parlant_shard.audit "
        "WHERE command = 'workspace purge' ORDER BY id DESC LIMIT 1"
    )
    assert world.rows(trail) == [(["a"], dict(done.rows))]
    # A workspace of which nothing was recorded before, but for its purge.
    clear(world)
    done = privacy.purge(world.load(what), "b", allow=DELETES)
    assert done.rows == {"account": 1, "item": 1}
    assert rows(world) == []


def test_behind_the_wall(world: World, app: str) -> None:
    """The record has no policy and is not FORCE: its owner writes and reads it, nobody else."""
    what = recorded(cut_log=True, isolation={"rls": True, "role": app})
    world.converge(what)
    closed = world.rows(
        "SELECT DISTINCT c.relrowsecurity, c.relforcerowsecurity, p.polname FROM pg_class c "
        "LEFT JOIN pg_policy p ON p.polrelid = c.oid "
        "WHERE c.relname LIKE 'parlant\\_shard\\_audit\\_%' AND c.relkind IN ('r', 'p')"
    )
    assert closed == [(True, False, None)]
    with world.connect() as connection:
        connection.execute(sql.SQL("SET SESSION AUTHORIZATION {}").format(sql.Identifier(app)))
        connection.execute("SELECT set_config('parlant.workspace_id', 'a', false)")
        connection.execute("INSERT INTO account_s1 (workspace_id) VALUES ('a')")
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            connection.execute("SELECT FROM parlant_shard_audit_s1")
    assert rows(world, "workspace_id, table_name, actor") == [("a", "account", app)]
    maintain(world, what, months(now_of(world), 4))
    settled(world, what)


def test_a_router_says_who_acts(world: World, app: str) -> None:
    what = recorded(isolation={"rls": True, "role": app})
    world.apply(what)
    world.execute(f"ALTER ROLE {app} LOGIN PASSWORD '{PASSWORD}'")
    topology = seen_as(world.load(what), app)
    insert = "INSERT INTO account (workspace_id, name) VALUES ('a', %s)"
    said: list[str | None] = ["bob", None, "carol", "dave"]
    with Router(topology, actor="ann") as router:
        router.execute(insert, ["1"], workspace="a")
    with Router(topology, actor=lambda: said.pop(0)) as router:
        router.execute(insert, ["2"], workspace="a")
        router.execute(insert, ["3"], workspace="a")  # nobody: not who was there before
        with router.workspace("a") as connection, connection.transaction():
            connection.execute(insert, ["4"])
            connection.execute(insert, ["5"])

    async def one() -> None:
        async with AsyncRouter(topology, actor=lambda: said.pop(0)) as router:
            await router.execute(insert, ["6"], workspace="a")

    asyncio.run(one())
    found = world.rows("SELECT application_actor FROM parlant_shard_audit_s1 ORDER BY at")
    assert [a for (a,) in found] == ["ann", "bob", None, "carol", "carol", "dave"]
    with pytest.raises(TopologyError) as refused:
        Router(world.load(recorded()), actor="ann")
    assert refused.value.code == "PS726"
