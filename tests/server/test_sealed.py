"""Foreign keys to reference tables hold on servers that only have copies."""

from __future__ import annotations

import secrets
import threading
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import psycopg
import pytest
from protocol import World, layout
from psycopg.conninfo import make_conninfo
from test_copies import arrived

from parlant_shard.apply import apply
from parlant_shard.desired import subscription_name
from parlant_shard.maintain import maintain
from parlant_shard.maintain.seals import settle
from parlant_shard.planner import make_plan
from servers import Clusters

pytestmark = pytest.mark.needs(clusters=2, logical=True, superuser=True)

SCHEMA = """
CREATE TABLE country (code text PRIMARY KEY, iso int NOT NULL, name text, UNIQUE (iso));
CREATE TABLE zone (a text, b int, PRIMARY KEY (a, b));
CREATE TABLE plan (id varchar(20) PRIMARY KEY);
CREATE TABLE tier (id text PRIMARY KEY);
CREATE TYPE hue AS ENUM ('red', 'blue');
CREATE TABLE color (id hue PRIMARY KEY);
CREATE TABLE account (
  id uuid PRIMARY KEY DEFAULT gen_random_uuid(), workspace_id text NOT NULL,
  country text REFERENCES country (code),
  iso int REFERENCES country (iso) ON DELETE RESTRICT ON UPDATE CASCADE,
  late text REFERENCES country (code) DEFERRABLE INITIALLY DEFERRED,
  a text, b int, FOREIGN KEY (a, b) REFERENCES zone (a, b) MATCH FULL,
  plan varchar(20) REFERENCES plan (id) ON DELETE SET NULL,
  color hue REFERENCES color (id),
  tier text NOT NULL DEFAULT 'free' REFERENCES tier (id) ON DELETE SET DEFAULT
);
"""
TABLES = {t: {"kind": "reference"} for t in ("country", "zone", "plan", "tier", "color")}
WHAT = layout({"s1": ["a"], "s2": ("east", ["b"])}, ddl=SCHEMA, tables=TABLES)


def caught_up(world: World, what: Any = WHAT) -> None:
    """Wait until east has confirmed all that the coordinator has written."""
    position = world.value("SELECT pg_current_wal_insert_lsn()::text")
    name = subscription_name(world.load(what), "east")
    arrived(
        world,
        f"SELECT confirmed_flush_lsn >= '{position}' FROM pg_replication_slots "
        f"WHERE slot_name = '{name}'",
        True,
        "core",
    )


@pytest.fixture
def world(tmp_path: Path, clusters: Clusters) -> World:
    world = World(tmp_path, clusters, over=2)
    world.apply(WHAT)
    world.execute(
        "INSERT INTO country VALUES ('de', 276, 'Germany'), ('fr', 250, 'France'), ('it', 380, '')",
        "INSERT INTO zone VALUES ('x', 1), ('y', 2)",
        "INSERT INTO plan VALUES ('p'), ('q')",
        "INSERT INTO color VALUES ('red'), ('blue')",
        "INSERT INTO tier VALUES ('free'), ('gold')",
    )
    arrived(world, "SELECT count(*) FROM tier", 2)
    arrived(world, "SELECT count(*) FROM country", 3)
    return world


def refused(world: World, sql: str) -> Any:
    with pytest.raises(psycopg.Error) as caught:
        world.execute(sql)
    return caught.value


def use(world: World, **columns: Any) -> None:
    names = ", ".join(columns)
    values = ", ".join(f"'{v}'" for v in columns.values())
    world.execute(
        f"INSERT INTO account_s2 (workspace_id, {names}) VALUES ('b', {values})", server="east"
    )


def keys(world: World, table: str = "country") -> list[Any]:
    rows = world.rows(f"SELECT * FROM parlant_shard_key.{table} ORDER BY 1", server="east")
    return [r[0] for r in rows]


def test_the_plan_is_empty_afterwards(world: World) -> None:
    plan = make_plan(world.load(WHAT))
    assert [s.title for s in plan.steps] == []
    assert keys(world) == ["de", "fr", "it"]
    assert keys(world, "country_iso") == [250, 276, 380]
    assert world.value("SELECT count(*) FROM parlant_shard_key.zone", server="east") == 2


@pytest.mark.parametrize(
    ("column", "value", "table", "where"),
    [
        ("country", "de", "country", "code = 'de'"),
        ("iso", 276, "country", "code = 'de'"),
        ("late", "de", "country", "code = 'de'"),
        ("tier", "gold", "tier", "id = 'gold'"),
        ("color", "red", "color", "id = 'red'"),
    ],
)
def test_what_a_row_elsewhere_uses_is_not_deleted(
    world: World, column: str, value: object, table: str, where: str
) -> None:
    use(world, **{column: value})
    error = refused(world, f"DELETE FROM {table} WHERE {where}")
    assert isinstance(error, psycopg.errors.ForeignKeyViolation)
    assert 'on table "account_s2"' in str(error)
    assert error.diag.table_name == "account_s2"
    assert error.diag.constraint_name == f"account_{column}_fkey_s2"
    assert 'on server "east"' in (error.diag.message_hint or "")
    assert world.value("SELECT count(*) FROM parlant_shard.sealed", server="east") == 0
    world.execute("DELETE FROM account_s2", server="east")
    world.execute(f"DELETE FROM {table} WHERE {where}")
    arrived(world, f"SELECT count(*) FROM {table} WHERE {where}", 0)
    arrived(world, "SELECT count(*) FROM parlant_shard.sealed", 0)


def test_a_row_that_has_not_arrived_is_deleted(world: World) -> None:
    """Its key is sealed in advance: what refers to it in between is refused."""
    name = subscription_name(world.load(WHAT), "east")
    with world.connect() as connection, connection.transaction():
        connection.execute("INSERT INTO tier VALUES ('now')")
        connection.execute("DELETE FROM tier WHERE id = 'now'")
    caught_up(world)
    assert world.value("SELECT count(*) FROM parlant_shard.sealed", server="east") == 0
    world.execute(f"ALTER SUBSCRIPTION {name} DISABLE", server="east")
    for _ in range(3):
        world.execute("INSERT INTO tier VALUES ('late')", "DELETE FROM tier WHERE id = 'late'")
    assert world.rows("SELECT key ->> 'id', pending FROM parlant_shard.sealed", server="east") == [
        ("late", 3)
    ]
    world.execute("INSERT INTO tier VALUES ('late')")
    world.execute(f"ALTER SUBSCRIPTION {name} ENABLE", server="east")
    caught_up(world)
    assert world.value("SELECT count(*) FROM parlant_shard.sealed", server="east") == 0
    assert keys(world, "tier") == ["free", "gold", "late"]
    use(world, tier="late")


def test_who_brings_a_key_waits_for_who_seals_it(world: World) -> None:
    """A key that is sealed in advance and arrives before the coordinator's commit stays out."""
    name = subscription_name(world.load(WHAT), "east")
    world.execute(f"ALTER SUBSCRIPTION {name} DISABLE", server="east")
    world.execute("INSERT INTO tier VALUES ('late')")
    with world.connect() as connection, connection.transaction():
        connection.execute("DELETE FROM tier WHERE id = 'late'")
        world.execute(f"ALTER SUBSCRIPTION {name} ENABLE", server="east")
        arrived(
            world,
            "SELECT count(*) > 0 FROM pg_stat_activity WHERE wait_event = 'transactionid'"
            " AND backend_type LIKE 'logical replication%'",
            True,
        )
    caught_up(world)
    assert world.value("SELECT count(*) FROM parlant_shard.sealed", server="east") == 0
    assert keys(world, "tier") == ["free", "gold"]
    assert world.value("SELECT count(*) FROM tier", server="east") == 2


def test_a_key_that_a_cascade_hangs_on_does_not_change(world: World) -> None:
    use(world, plan="p")
    error = refused(world, "UPDATE plan SET id = 'other' WHERE id = 'p'")
    assert isinstance(error, psycopg.errors.FeatureNotSupported)
    assert "(p)" in (error.diag.message_detail or "")
    world.execute("INSERT INTO plan VALUES ('other')", "DELETE FROM plan WHERE id = 'p'")
    caught_up(world)
    assert world.value("SELECT plan FROM account_s2", server="east") is None


def test_a_changed_key_is_carried_out_where_it_is_declared(world: World) -> None:
    use(world, iso=276)
    world.execute("UPDATE country SET iso = 277 WHERE code = 'de'")
    caught_up(world)
    assert world.value("SELECT iso FROM account_s2", server="east") == 277
    assert keys(world, "country_iso") == [250, 277, 380]
    assert refused(world, "DELETE FROM country WHERE code = 'de'").sqlstate == "23503"


def test_a_changed_key_that_is_used_is_refused(world: World) -> None:
    use(world, country="de")
    assert refused(world, "UPDATE country SET code = 'x' WHERE code = 'de'").sqlstate == "23503"
    world.execute("UPDATE country SET code = 'x' WHERE code = 'fr'")
    world.execute("UPDATE country SET name = 'Deutschland' WHERE code = 'de'")
    caught_up(world)
    assert keys(world) == ["de", "it", "x"]


def test_an_open_transaction_elsewhere_is_waited_for_and_named(world: World) -> None:
    with world.connect("east") as connection, connection.transaction():
        connection.execute("INSERT INTO account_s2 (workspace_id, country) VALUES ('b', 'de')")
        error = refused(world, "DELETE FROM country WHERE code = 'de'")
        assert isinstance(error, psycopg.errors.LockNotAvailable)
        assert 'server "east"' in str(error)
        world.execute("DELETE FROM country WHERE code = 'fr'")
    assert refused(world, "DELETE FROM country WHERE code = 'de'").sqlstate == "23503"


def test_a_server_that_is_down_stops_deletions_alone(world: World) -> None:
    world.execute("ALTER SERVER parlant_shard_seal_east OPTIONS (SET port '1')")
    error = refused(world, "DELETE FROM country WHERE code = 'de'")
    assert error.sqlstate == "08001"
    assert 'server "east"' in str(error)
    world.execute(
        "INSERT INTO country VALUES ('es', 724, '')",
        "UPDATE country SET name = 'x' WHERE code = 'de'",
        "DELETE FROM country WHERE code = 'none'",
    )
    (step, *_) = make_plan(world.load(WHAT)).steps
    assert "parlant_shard_seal_east" in step.title
    world.apply(WHAT)
    world.execute("DELETE FROM country WHERE code = 'de'")


def test_many_rows_are_one_trip_and_one_used_row_refuses_all(world: World) -> None:
    many = "SELECT 'k' || n FROM generate_series(1, 10000) n"
    world.execute(f"INSERT INTO tier {many}")
    caught_up(world)
    use(world, tier="k77")
    assert refused(world, "DELETE FROM tier WHERE id LIKE 'k%'").sqlstate == "23503"
    assert world.value("SELECT count(*) FROM tier") == 10002
    world.execute("DELETE FROM account_s2", server="east")
    world.execute("DELETE FROM tier WHERE id LIKE 'k%'")
    caught_up(world)
    assert keys(world, "tier") == ["free", "gold"]
    assert world.value("SELECT count(*) FROM parlant_shard.sealed", server="east") == 0


def test_the_coordinator_may_come_as_another_role(world: World) -> None:
    role = f"sealer_{secrets.token_hex(4)}"
    world.execute(f"CREATE ROLE {role} LOGIN PASSWORD 'x'", server="east")
    dsn = make_conninfo(world.dsn("east"), user=role, password="x")
    own = '"dsn": "${east}"'
    what = replace(WHAT, text=WHAT.text.replace(own, f'{own}, "peer_dsn": "{dsn}"'))
    assert "peer_dsn" in what.text
    titles = [s.title for s in make_plan(world.load(what)).steps]
    assert f'let "{role}" seal keys of this server' in titles
    apply(world.load(what))
    use(world, country="de")
    assert refused(world, "DELETE FROM country WHERE code = 'de'").sqlstate == "23503"
    world.execute("DELETE FROM country WHERE code = 'fr'")
    apply(world.load(WHAT))
    world.execute(f"DROP OWNED BY {role}", f"DROP ROLE {role}", server="east")


# --- a server commits, the coordinator does not ---------------------------------------------------


# In the commit: the seal's SET CONSTRAINTS ALL IMMEDIATE is over by then. (Of a table with one key:
# a second seal of the same transaction would bring it forward.)
FAIL = """
CREATE TABLE late (x int);
CREATE FUNCTION fail() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN {} END $$;
CREATE CONSTRAINT TRIGGER fail AFTER INSERT ON late
  DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION fail();
CREATE FUNCTION later() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN SET CONSTRAINTS public.fail DEFERRED; INSERT INTO public.late VALUES (1); RETURN NULL; END $$;
CREATE TRIGGER fail AFTER INSERT OR UPDATE ON parlant_shard.sealed
  FOR EACH ROW EXECUTE FUNCTION later()
"""
THREE = layout(
    {"s1": ["a"], "s2": ("east", ["b"]), "s3": ("west", ["c"])}, ddl=SCHEMA, tables=TABLES
)


@pytest.fixture
def three(tmp_path: Path, clusters: Clusters) -> World:
    world = World(tmp_path, clusters, over=2)
    world.apply(THREE)
    world.execute(
        "INSERT INTO tier VALUES ('free'), ('gold')",
    )
    for server in ("east", "west"):
        arrived(world, "SELECT count(*) FROM tier", 2, server)
    return world


def sealed(world: World, server: str = "east") -> list[Any]:
    return world.rows("SELECT key ->> 'id', pending FROM parlant_shard.sealed", server=server)


def test_a_seal_without_a_deletion_is_undone_by_maintain(three: World) -> None:
    """East commits, west fails in its commit: nothing is deleted, and east keeps the seal."""
    three.execute(FAIL.format("PERFORM pg_sleep(1); RAISE EXCEPTION 'no room';"), server="west")
    error = refused(three, "DELETE FROM tier WHERE id = 'gold'")
    assert "no room" in str(error)
    assert three.value("SELECT count(*) FROM tier") == 2
    assert sealed(three, "west") == []
    arrived(three, "SELECT count(*) FROM parlant_shard.sealed", 1)
    with pytest.raises(psycopg.errors.ForeignKeyViolation):
        use(three, tier="gold")
    topology = three.load(THREE)
    assert settle(topology, "east").opened == 0  # not so soon
    report = maintain(topology)
    assert report.failures == []
    found = settle(topology, "east", age=0)
    assert (found.error, found.left, sealed(three)) == (None, 0, [])
    use(three, tier="gold")
    three.execute("DROP TRIGGER fail ON parlant_shard.sealed", server="west")
    assert refused(three, "DELETE FROM tier WHERE id = 'gold'").sqlstate == "23503"


def test_the_next_deletion_takes_a_seal_over(three: World) -> None:
    three.execute(FAIL.format("PERFORM pg_sleep(1); RAISE EXCEPTION 'no room';"), server="west")
    refused(three, "DELETE FROM tier WHERE id = 'gold'")
    three.execute("DROP TRIGGER fail ON parlant_shard.sealed", server="west")
    three.execute("DELETE FROM tier WHERE id = 'gold'")
    for server in ("east", "west"):
        arrived(three, "SELECT count(*) FROM tier", 1, server)
    # Two were counted and one arrives: the rest goes with the next maintain.
    found = settle(three.load(THREE), "east", age=0)
    assert (found.error, sealed(three), sealed(three, "west")) == (None, [], [])


def test_a_coordinator_that_dies_between_the_commits(three: World) -> None:
    three.execute(FAIL.format("PERFORM pg_sleep(3); RETURN NULL;"), server="west")

    def delete() -> None:
        with suppress(psycopg.Error), three.connect() as connection:
            connection.execute("SET application_name = 'deleting'")
            connection.execute("DELETE FROM tier WHERE id = 'gold'")

    thread = threading.Thread(target=delete)
    thread.start()
    arrived(three, "SELECT count(*) > 0 FROM parlant_shard.sealed", True)
    with three.connect() as connection:
        connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            "WHERE application_name = 'deleting'"
        )
    thread.join(30)
    topology = three.load(THREE)
    assert three.value("SELECT count(*) FROM tier") == 2
    three.execute("DROP TRIGGER fail ON parlant_shard.sealed", server="west")
    for server in ("east", "west"):
        arrived(
            three,
            "SELECT count(*) FROM pg_locks WHERE relation = "
            "'parlant_shard.sealed'::regclass AND mode = 'RowExclusiveLock'",
            0,
            server,
        )
        found = settle(topology, server, age=0)
        assert (found.error, found.left, sealed(three, server)) == (None, 0, [])
    use(three, tier="gold")


def test_what_is_being_deleted_is_left_alone(world: World) -> None:
    topology = world.load(WHAT)
    with world.connect() as connection, connection.transaction(force_rollback=True):
        connection.execute("DELETE FROM country WHERE code = 'de'")
        with world.connect() as other, other.transaction(force_rollback=True):
            other.execute("SELECT FROM country WHERE code = 'fr' FOR UPDATE")
            found = settle(topology, "east", age=0)
        assert (found.opened, found.removed) == (0, 0)
    assert settle(topology, "east", age=0).left == 0
    assert sealed(world) == []


def test_a_copy_that_is_behind_keeps_its_seals(world: World) -> None:
    name = subscription_name(world.load(WHAT), "east")
    world.execute(f"ALTER SUBSCRIPTION {name} DISABLE", server="east")
    world.execute(
        "DELETE FROM country WHERE code = 'de'", "INSERT INTO country VALUES ('de', 276, '')"
    )
    found = settle(world.load(WHAT), "east", age=0)
    assert (found.opened, found.removed, found.left) == (0, 0, 2)
    with pytest.raises(psycopg.errors.ForeignKeyViolation):
        use(world, country="de")
    world.execute(f"ALTER SUBSCRIPTION {name} ENABLE", server="east")
    caught_up(world)
    assert sealed(world) == []
    use(world, country="de")
