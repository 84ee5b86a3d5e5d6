"""Row-level security: planned, applied and taken away; who sees what, whatever the SQL."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest
from client_world import ACCOUNTS, ITEMS, fill, lasting_world
from protocol import BY_MONTH, SCHEMA, World, layout
from psycopg import errors
from psycopg.conninfo import make_conninfo
from rls_world import KEYED, PASSWORD, SET, Roles, behind, connected, drop_role, seen_as

import clocks
from parlant_shard import Router, Unroutable
from parlant_shard import maintain as upkeep
from parlant_shard.errors import SchemaError, TopologyError
from parlant_shard.planner import make_plan
from servers import Clusters, database_name

pytestmark = pytest.mark.needs(superuser=True)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, clusters: Clusters, who: Roles) -> World:
    found = lasting_world(tmp_path_factory.mktemp("world"), clusters)
    found.apply(behind(who, tables=BY_MONTH))
    fill(found)
    found.execute(
        "INSERT INTO api_key VALUES ('k1', 'one', 'ws1'), ('k2', 'two', 'ws2'), ('k0', 'all', NULL)"
    )
    return found


def as_workspace(
    connection: psycopg.Connection[Any], workspace: str, statement: str
) -> list[tuple[Any, ...]]:
    """Run a statement with the setting; what it changes is rolled back."""
    with connection.transaction(force_rollback=True):
        connection.execute(SET, [workspace])
        cursor = connection.execute(statement)
        return cursor.fetchall() if cursor.description else [(cursor.rowcount,)]


# --- plan and apply -------------------------------------------------------------------------------


def test_it_comes_and_goes_by_plan_and_apply(
    tmp_path: Path, clusters: Clusters, who: Roles
) -> None:
    world = World(tmp_path, clusters)
    without = layout(
        {"s1": ["ws1", "ws2"], "s2": ("east", ["acme"]), "s3": ("east", ["globex"])},
        ddl=KEYED,
        tables={"country": {"kind": "reference"}, "api_key": {"kind": "reference"}, **BY_MONTH},
    )
    walled = behind(who, tables=BY_MONTH)
    world.apply(without)
    fill(world)
    plan = world.plan(walled)
    titles = [s.title for s in plan.steps if s.server == "core"]
    assert 'set row-level security of "account_s1"' in titles
    assert any('of "log_s1_p' in t for t in titles)
    for step in plan.steps:
        # Privileges and policies come with the switch or before it, and one table at a time.
        if "ENABLE ROW LEVEL SECURITY" in " ".join(step.sql):
            assert sum("ROW LEVEL SECURITY" in s for s in step.sql) == 2
            assert step.sql.index(next(s for s in step.sql if "ENABLE" in s)) == len(step.sql) - 2
    world.converge(walled)
    world.equals_fresh(walled)
    # Privileges and the mapping of analytics stay: what was granted is taken back by hand.
    world.apply(without)
    assert make_plan(world.load(without)).steps == ()
    for server, shard in (("core", "s1"), ("east", "s2")):
        assert (
            world.rows(
                "SELECT relname FROM pg_class WHERE relrowsecurity OR relforcerowsecurity",
                server=server,
            )
            == []
        )
        assert world.value("SELECT count(*) FROM pg_policies", server=server) == 0
        assert world.value(f"SELECT count(*) FROM account_{shard}", server=server) > 0
    world.converge(walled)


def test_what_was_taken_away_by_hand_comes_back(
    tmp_path: Path, clusters: Clusters, who: Roles
) -> None:
    world = World(tmp_path, clusters)
    what = behind(who, tables=BY_MONTH)
    world.apply(what)
    (leaf,) = world.rows(
        "SELECT relname FROM pg_class WHERE relname LIKE 'log_s1_p%' AND relkind = 'r' "
        "ORDER BY 1 LIMIT 1"
    )
    world.execute(
        "ALTER TABLE account_s1 NO FORCE ROW LEVEL SECURITY",
        "DROP POLICY parlant_shard_workspace ON item_s1",
        f"ALTER TABLE {leaf[0]} DISABLE ROW LEVEL SECURITY",
        f'REVOKE USAGE ON SCHEMA parlant_shard FROM "{who.application}"',
        "CREATE POLICY everybody ON account_s1 USING (true)",
    )
    found = [s.title for s in world.plan(what).steps]
    assert sorted(found) == sorted(
        [
            "replace function parlant_shard.workspace()",
            "replace function parlant_shard.match_account_search_idx_s1(tsquery)",
            *(
                f"replace function parlant_shard.workspace_of_{table}__id(wanted uuid)"
                for table in ("account", "item", "log")
            ),
            'drop policy "everybody" of "account_s1"',
            'set the row-level security of "account_s1"',
            'set row-level security of "item_s1"',
            f'set the row-level security of "{leaf[0]}"',
        ]
    )
    world.converge(what, allow=frozenset({"drops-object"}))


def test_partitions_carry_it_and_those_of_maintain_too(
    tmp_path: Path, clusters: Clusters, who: Roles
) -> None:
    world = World(tmp_path, clusters)
    what = behind(who, tables=BY_MONTH)
    world.apply(what)
    before = world.value("SELECT count(*) FROM pg_inherits")
    topology = world.load(what)
    upkeep.maintain(topology, now=clocks.now() + timedelta(days=90))
    assert world.value("SELECT count(*) FROM pg_inherits") > before
    leaves = world.rows(
        "SELECT c.relname, c.relrowsecurity, c.relforcerowsecurity, (SELECT array_agg(p.polname "
        "ORDER BY p.polname)::text FROM pg_policy p WHERE p.polrelid = c.oid) FROM pg_class c "
        "WHERE c.relispartition AND c.relkind = 'r' AND c.relname LIKE 'log_s1_p%'"
    )
    wanted = "{parlant_shard_analytics,parlant_shard_owner,parlant_shard_workspace}"
    assert {row[1:] for row in leaves} == {(True, True, wanted)}


# --- who sees what --------------------------------------------------------------------------------


def test_the_application_sees_one_workspace_or_nothing(world: World, who: Roles) -> None:
    with connected(world, who.application) as app:
        for table in ("account_s1", "item_s1", "log_s1"):
            assert app.execute(f"SELECT count(*) FROM {table}").fetchone() == (0,)  # type: ignore[arg-type]
        read = "SELECT workspace_id FROM account_s1"
        assert as_workspace(app, "ws1", read) == [("ws1",)]
        assert as_workspace(app, "ws2", read) == [("ws2",)]
        assert as_workspace(app, "", read) == []
        assert as_workspace(app, "acme", read) == []
        assert as_workspace(app, "' OR true --", read) == []
        assert app.execute(read).fetchall() == []  # nothing is left of a transaction


def test_it_writes_one_workspace_or_nothing(world: World, who: Roles) -> None:
    mine, theirs = ACCOUNTS["ws1"], ACCOUNTS["ws2"]
    new = "INSERT INTO account_s1 (workspace_id, name) VALUES ('{}', 'x')"
    with connected(world, who.application) as app:
        with pytest.raises(errors.InsufficientPrivilege, match="row-level security"):
            app.execute(new.format("ws1"))  # type: ignore[arg-type]
        assert as_workspace(app, "ws1", new.format("ws1")) == [(1,)]
        for statement in (
            new.format("ws2"),
            f"UPDATE account_s1 SET workspace_id = 'ws2' WHERE id = '{mine}'",
            f"INSERT INTO account_s1 (id, workspace_id) VALUES ('{theirs}', 'ws1') "
            "ON CONFLICT (id) DO UPDATE SET name = 'taken'",
        ):
            with pytest.raises(errors.InsufficientPrivilege, match="row-level security"):
                as_workspace(app, "ws1", statement)
        for statement in ("UPDATE account_s1 SET name = 'x'", "DELETE FROM account_s1"):
            assert app.execute(statement).rowcount == 0  # type: ignore[arg-type]
            assert as_workspace(app, "ws1", statement) == [(1,)]
            assert as_workspace(app, "ws1", f"{statement} WHERE id = '{theirs}'") == [(0,)]


def test_a_condition_that_fails_shows_no_row_of_another(world: World, who: Roles) -> None:
    """What the router alone cannot promise: the policy comes before the statement's conditions."""
    with connected(world, who.application) as app:
        for statement in (
            "SELECT id FROM account_s1 WHERE name::int = 1",
            "SELECT id FROM account_s1 WHERE 1 / (CASE WHEN name = 'of ws2' THEN 0 ELSE 1 END) = 1",
            "SELECT id FROM account_s1 WHERE has_table_privilege(name, 'select')",
        ):
            said = ""
            try:
                as_workspace(app, "ws1", statement)
            except psycopg.Error as error:
                said = str(error)
            assert "ws2" not in said
            assert "division" not in said


def test_a_partition_by_its_own_name_is_no_way_around(world: World, who: Roles) -> None:
    ((leaf,),) = world.rows(
        "SELECT relname FROM pg_class WHERE relname LIKE 'log_s1_p%' AND relkind = 'r' LIMIT 1"
    )
    world.execute(
        f"INSERT INTO log_s1 (item_id, at, workspace_id) SELECT '{ITEMS['ws1'][0]}', now(), 'ws1'",
        f"INSERT INTO log_s1 (item_id, at, workspace_id) SELECT '{ITEMS['ws2'][0]}', now(), 'ws2'",
    )
    with connected(world, who.application) as app:
        assert as_workspace(app, "ws1", "SELECT DISTINCT workspace_id FROM log_s1") == [("ws1",)]
        with pytest.raises(errors.InsufficientPrivilege):
            as_workspace(app, "ws1", f"SELECT * FROM {leaf}")
        leaves = world.rows(
            "SELECT relname FROM pg_class WHERE relname LIKE 'log_s1_p%' AND relkind = 'r'"
        )
        for (name,) in leaves:
            world.execute(f'GRANT SELECT ON {name} TO "{who.application}"')
            assert (
                as_workspace(app, "ws1", f"SELECT * FROM {name} WHERE workspace_id <> 'ws1'") == []
            )
            assert app.execute(f"SELECT * FROM {name}").fetchall() == []  # type: ignore[arg-type]
            world.execute(f'REVOKE SELECT ON {name} FROM "{who.application}"')


def test_it_reaches_nothing_else(world: World, who: Roles) -> None:
    with connected(world, who.application) as app:
        for statement in (
            "SELECT * FROM account_global",
            "SELECT * FROM account_s2",
            "SELECT * FROM parlant_shard.directory",
            "SELECT * FROM parlant_shard.signing_key",
            "CREATE FOREIGN TABLE f (i int) SERVER parlant_shard_east",
            "ALTER TABLE account_s1 DISABLE ROW LEVEL SECURITY",
            "DROP POLICY parlant_shard_workspace ON account_s1",
            "TRUNCATE account_s1",
            f'SET ROLE "{who.analytics}"',
            "SET SESSION AUTHORIZATION postgres",
            "CREATE TABLE parlant_shard.t (i int)",
        ):
            with pytest.raises((errors.InsufficientPrivilege, errors.WrongObjectType)):
                as_workspace(app, "ws1", statement)
        app.execute("SET row_security = off")
        with pytest.raises(errors.InsufficientPrivilege, match="row-level security"):
            as_workspace(app, "ws1", "SELECT * FROM account_s1")


def test_a_stranger_sees_nothing_whatever_is_granted(world: World, who: Roles) -> None:
    with connected(world, who.stranger) as stranger:
        with pytest.raises(errors.InsufficientPrivilege):
            as_workspace(stranger, "ws1", "SELECT * FROM account_s1")
        with pytest.raises(errors.InsufficientPrivilege):
            stranger.execute("SELECT parlant_shard.workspace()")
        world.execute("GRANT ALL ON account_s1 TO PUBLIC")
        try:
            assert as_workspace(stranger, "ws1", "SELECT * FROM account_s1") == []
            with pytest.raises(errors.InsufficientPrivilege, match="row-level security"):
                as_workspace(
                    stranger, "ws1", "INSERT INTO account_s1 (workspace_id) VALUES ('ws1')"
                )
        finally:
            world.execute("REVOKE ALL ON account_s1 FROM PUBLIC")


def test_analytics_reads_all_and_writes_nothing(world: World, who: Roles) -> None:
    with connected(world, who.analytics) as analyst:
        assert analyst.execute("SELECT count(*) FROM account_s1").fetchone() == (2,)
        assert analyst.execute("SELECT count(*) FROM account_global").fetchone() == (4,)
        assert analyst.execute("SELECT count(*) FROM api_key").fetchone() == (3,)
        for statement in (
            "DELETE FROM account_s1",
            "UPDATE account_s2 SET name = 'x'",
            "INSERT INTO item_s1 (account_id, workspace_id) VALUES (gen_random_uuid(), 'ws1')",
            "CREATE FOREIGN TABLE f (i int) SERVER parlant_shard_east",
        ):
            with pytest.raises(errors.InsufficientPrivilege):
                analyst.execute(statement)  # type: ignore[arg-type]
        hidden = analyst.execute("SELECT count(umoptions) FROM pg_user_mappings").fetchone()
        assert hidden == (0,)


def test_reference_tables(world: World, who: Roles) -> None:
    """Without the key they are everybody's; of the others it reads its own rows and shared ones."""
    with connected(world, who.application) as app:
        keys = "SELECT id FROM api_key ORDER BY id"
        assert as_workspace(app, "ws1", keys) == [("k0",), ("k1",)]
        assert app.execute(keys).fetchall() == [("k0",)]
        app.execute("INSERT INTO country VALUES ('xx', 'new')")
        app.execute("DELETE FROM country WHERE id = 'xx'")
        for statement in (
            "INSERT INTO api_key VALUES ('k9', 'planted', 'ws2')",
            "INSERT INTO api_key VALUES ('k9', 'planted', NULL)",
            "UPDATE api_key SET workspace_id = 'ws1' WHERE id = 'k1' RETURNING 1 / 0",
        )[:2]:
            with pytest.raises(errors.InsufficientPrivilege, match="row-level security"):
                as_workspace(app, "ws1", statement)
        assert as_workspace(app, "ws1", "DELETE FROM api_key WHERE id <> 'k1'") == [(0,)]
        assert as_workspace(app, "ws1", "UPDATE api_key SET name = 'x'") == [(1,)]


CARRYING = (
    KEYED.replace("REFERENCES country (id)", "REFERENCES country (id) ON UPDATE CASCADE")
    + "CREATE TABLE land (id text PRIMARY KEY);"
    "CREATE TABLE town (id text PRIMARY KEY, land_id text REFERENCES land ON DELETE CASCADE);"
    "ALTER TABLE item ADD town_id text REFERENCES town ON DELETE SET NULL;"
    "ALTER TABLE machine ADD town_id text REFERENCES town ON UPDATE CASCADE;"
)


def test_what_foreign_keys_carry_on_to_rows_of_workspaces_is_not_granted(
    tmp_path: Path, clusters: Clusters, who: Roles
) -> None:
    world = World(tmp_path, clusters)
    references = {"land": {"kind": "reference"}, "town": {"kind": "reference"}}
    world.converge(behind(who, ddl=CARRYING, tables=references))
    granted = "SELECT has_table_privilege('{}', '{}', '{}')"
    for table, no in {"country": "UPDATE", "land": "DELETE", "town": "DELETE"}.items():
        for privilege in ("SELECT", "INSERT", "UPDATE", "DELETE"):
            asked = granted.format(who.application, table, privilege)
            assert world.value(asked) is (privilege != no), (table, privilege)


def test_the_setting_is_read_once_for_a_statement(world: World, who: Roles) -> None:
    with connected(world, who.application) as app, world.connect() as owner:
        owner.execute(f"ALTER ROLE \"{who.application}\" SET track_functions = 'all'")
    with connected(world, who.application) as app, world.connect() as owner:
        calls = "SELECT calls FROM pg_stat_user_functions WHERE funcname = 'workspace'"
        for statement, expected in (
            ("SELECT count(*) FROM item_s1 WHERE note LIKE '%ws1%'", 1),
            ("SELECT count(*) FROM item_s1 i JOIN account_s1 a ON a.id = i.account_id", 2),
        ):
            before = owner.execute(calls).fetchone()
            as_workspace(app, "ws1", statement)
            app.execute("SELECT pg_stat_force_next_flush()")
            app.execute("SELECT 1")
            after = owner.execute(calls).fetchone()
            assert after is not None
            assert after[0] - (before[0] if before else 0) == expected
        owner.execute(f'ALTER ROLE "{who.application}" RESET track_functions')


def test_an_index_finds_the_workspace(world: World, who: Roles) -> None:
    world.execute("CREATE INDEX by_workspace ON item_s1 (workspace_id)")
    try:
        with connected(world, who.application) as app, app.transaction():
            app.execute("SET LOCAL enable_seqscan = off")
            app.execute(SET, ["ws1"])
            plan = app.execute("EXPLAIN SELECT note FROM item_s1").fetchall()
    finally:
        world.execute("DROP INDEX by_workspace")
    assert any("Index Cond" in line and "workspace_id" in line for (line,) in plan)


# --- what is refused ------------------------------------------------------------------------------


def test_roles_that_no_policy_binds_are_refused(
    tmp_path: Path, clusters: Clusters, who: Roles
) -> None:
    world = World(tmp_path, clusters)
    for attribute, back, words in (
        ("SUPERUSER", "NOSUPERUSER", "is a superuser"),
        ("BYPASSRLS", "NOBYPASSRLS", "has BYPASSRLS"),
    ):
        world.execute(f'ALTER ROLE "{who.application}" {attribute}')
        try:
            with pytest.raises(SchemaError, match=words) as refused:
                make_plan(world.load(behind(who)))
        finally:
            world.execute(f'ALTER ROLE "{who.application}" {back}')
        assert (refused.value.code, refused.value.path) == ("PS722", "isolation.role")
    world.execute(f'GRANT "{who.analytics}" TO "{who.application}"')
    try:
        with pytest.raises(SchemaError, match="is a member of the role of"):
            make_plan(world.load(behind(who)))
    finally:
        world.execute(f'REVOKE "{who.analytics}" FROM "{who.application}"')


def test_a_policy_of_the_schema_may_only_restrict(
    tmp_path: Path, clusters: Clusters, who: Roles
) -> None:
    world = World(tmp_path, clusters)
    own = KEYED + "CREATE POLICY mine ON account {} USING (name <> 'secret');"
    with pytest.raises(SchemaError, match='policy "mine"') as refused:
        make_plan(world.load(behind(who, ddl=own.format(""))))
    assert refused.value.code == "PS723"
    world.converge(behind(who, ddl=own.format("AS RESTRICTIVE")))


def test_rls_without_a_role(tmp_path: Path, clusters: Clusters) -> None:
    world = World(tmp_path, clusters)
    with pytest.raises(TopologyError) as refused:
        world.load(layout({"s1": ["a"]}, isolation={"rls": True}))
    assert (refused.value.code, refused.value.path) == ("PS720", "isolation.rls")


# --- without a superuser --------------------------------------------------------------------------


def test_everything_works_as_an_owner_that_is_no_superuser(
    tmp_path: Path, clusters: Clusters, who: Roles
) -> None:
    world = World(tmp_path, clusters)
    owner = f"owner_{who.application}"
    admin = world.dsn("core")
    world.execute(
        f"CREATE ROLE \"{owner}\" LOGIN CREATEDB PASSWORD '{PASSWORD}'",
        f'GRANT CREATE ON DATABASE {database_name(admin)} TO "{owner}"',
        f'GRANT CREATE ON SCHEMA public TO "{owner}"',
    )
    try:
        world.dsns["core"] = make_conninfo(admin, user=owner, password=PASSWORD)
        what = layout(
            {"s1": ["ws1", "ws2"]},
            tables=BY_MONTH,
            isolation={"rls": True, "role": who.application, "analytics": who.analytics},
        )
        world.converge(what)
        world.execute("INSERT INTO account_s1 (workspace_id) VALUES ('ws1'), ('ws2')")
        assert world.value("SELECT count(*) FROM account_s1") == 2  # FORCE, and its own policy
        world.execute("UPDATE account_s1 SET name = 'seen'")
        upkeep.maintain(world.load(what), now=clocks.now() + timedelta(days=40))
        with connected(world, who.application) as app:
            assert as_workspace(app, "ws1", "SELECT name FROM account_s1") == [("seen",)]
        world.dsns["core"] = admin
    finally:
        clusters.drop_databases()
        for index in range(clusters.distinct):
            drop_role(clusters, index, owner)


# --- look-ups -------------------------------------------------------------------------------------


def test_a_look_up_tells_the_workspace_and_nothing_else(world: World, who: Roles) -> None:
    theirs, nobodys = ITEMS["ws2"][0], "00000000-0000-0000-0000-0000000000ff"
    ask = "SELECT parlant_shard.workspace_of_item__id('{}')"
    with connected(world, who.application) as app:
        assert as_workspace(app, "ws1", ask.format(theirs)) == [("ws2",)]
        assert app.execute(ask.format(nobodys)).fetchall() == []  # type: ignore[arg-type]
    for role in (who.analytics, who.stranger):
        with (
            connected(world, role) as other,
            pytest.raises(errors.InsufficientPrivilege),
        ):
            other.execute(ask.format(theirs))  # type: ignore[arg-type]


def test_apply_brings_look_up_functions_to_the_types_of_their_columns(
    tmp_path: Path, clusters: Clusters, who: Roles
) -> None:
    """From a release that looked up uuids alone, and when the type of a column changes."""
    world = World(tmp_path, clusters)
    walled: dict[str, Any] = {
        "isolation": {"rls": True, "role": who.application},
        "lookup": "trusted",
    }
    shards = {"s1": ["ws1"]}
    ddl = SCHEMA + (
        "CREATE TABLE tag (id varchar(9) PRIMARY KEY, workspace_id text NOT NULL, n smallint);"
        "CREATE TABLE step (id integer PRIMARY KEY, tag_id varchar(9) REFERENCES tag (id));"
    )
    there = (
        "SELECT oid::regprocedure::text FROM pg_proc WHERE proname LIKE 'workspace_of%' ORDER BY 1"
    )
    before = layout(shards, ddl=ddl, **walled)
    world.converge(before)
    uuids = [f"parlant_shard.workspace_of_{t}__id(uuid)" for t in ("account", "item", "log")]
    step, tag = "parlant_shard.workspace_of_step__id", "parlant_shard.workspace_of_tag__id"
    now = [*uuids, f"{step}(integer)", f"{tag}(character varying)"]
    assert [name for (name,) in world.rows(there)] == now
    # As the older release left it.
    world.execute(
        f"DROP FUNCTION {step}(integer)",
        f"DROP FUNCTION {tag}(varchar)",
        "UPDATE parlant_shard.map SET map = map - 'lookup_types'",
    )
    titles = [s.title for s in world.plan(before).steps]
    assert sum("workspace_of" in title for title in titles) == 2, titles
    world.converge(before)
    assert [name for (name,) in world.rows(there)] == now
    assert world.value("SELECT map ? 'lookup_types' FROM parlant_shard.map")
    wider = ddl.replace("id integer PRIMARY KEY", "id bigint PRIMARY KEY")
    world.converge(layout(shards, ddl=wider, **walled))
    assert [name for (name,) in world.rows(there)] == [
        *uuids,
        f"{step}(bigint)",
        f"{tag}(character varying)",
    ]


def test_without_trust_there_is_no_such_function(
    tmp_path: Path, clusters: Clusters, who: Roles
) -> None:
    world = World(tmp_path, clusters)
    shards = {"s1": ["ws1"]}
    walled = {"rls": True, "role": who.application}
    there = "SELECT proname::text FROM pg_proc WHERE proname LIKE 'workspace_of%' ORDER BY 1"
    world.converge(layout(shards, isolation=walled, lookup="trusted"))
    assert [name for (name,) in world.rows(there)] == [
        "workspace_of_account__id",
        "workspace_of_item__id",
        "workspace_of_log__id",
    ]
    world.converge(layout({**shards, "s2": ["ws2"]}, isolation=walled, lookup="trusted"))
    world.execute(f"INSERT INTO account_s2 (id, workspace_id) VALUES ('{ACCOUNTS['ws2']}', 'ws2')")
    ask = f"SELECT parlant_shard.workspace_of_account__id('{ACCOUNTS['ws2']}')"
    assert world.rows(ask) == [("ws2",)]
    # A column may have any name.
    more = SCHEMA.replace("name text", "name text, wanted uuid", 1)
    shards["s2"] = ["ws2"]
    world.converge(layout(shards, ddl=more, isolation=walled, lookup="trusted"))
    assert world.rows(ask) == [("ws2",)]
    without = layout(shards, ddl=more, isolation=walled)
    world.converge(without)
    assert world.rows(there) == []
    with Router(seen_as(world.load(without), who.application)) as router:
        with pytest.raises(Unroutable) as refused:
            router.execute("SELECT name FROM account WHERE id = %s", [ACCOUNTS["ws2"]])
        assert refused.value.code == "PS624"
