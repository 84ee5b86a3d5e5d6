"""The shard map: made from the catalogue, stored by apply, and only changed where it differs."""

from __future__ import annotations

import json
from pathlib import Path

import psycopg
import pytest
from protocol import SCHEMA, World, layout
from psycopg.rows import dict_row

from parlant_shard import mapstore
from parlant_shard.apply import apply
from parlant_shard.desired import INTERNAL_VERSION
from parlant_shard.errors import RoutingError, SchemaError, ServerError
from parlant_shard.planner import make_plan, map_of, read_state
from parlant_shard.shardmap import MapColumn, MapLink, MapShard, ShardMap
from parlant_shard.workspace import place
from servers import Clusters

TWO = {"s1": ["ws1", "ws2"], "s2": ("east", ["acme"])}
MORE = (
    "CREATE TYPE colour AS ENUM ('red', 'green');"
    "CREATE TABLE country (id text PRIMARY KEY, name text);"
    "CREATE TABLE machine (id int PRIMARY KEY, note text);"
    "CREATE TABLE plan (id text PRIMARY KEY, workspace_id text);"
    "CREATE TABLE seat (id text PRIMARY KEY, workspace_id text NOT NULL);"
    "CREATE FUNCTION shout(what text) RETURNS text LANGUAGE sql AS $$ SELECT upper(what) $$;"
    + SCHEMA.replace("name text\n", "name text,\n  tint colour,\n  UNIQUE (name)\n")
)


@pytest.fixture
def world(tmp_path: Path, clusters: Clusters) -> World:
    return World(tmp_path, clusters)


def stored(world: World) -> ShardMap | None:
    with psycopg.connect(world.dsn("core"), autocommit=True, row_factory=dict_row) as connection:
        return mapstore.load(connection, world.name)


def test_apply_stores_what_routing_needs(world: World) -> None:
    what = layout(
        TWO,
        ddl=MORE,
        tables={
            "country": {"kind": "reference"},
            "plan": {"kind": "reference"},
            "seat": {"kind": "reference"},
            "log": {"partition": {"by": "at", "every": "1 month", "premake": 1}},
        },
    )
    world.converge(what)
    found = stored(world)
    assert found is not None
    assert found.epoch == 1
    assert found.topology == world.name
    assert (found.key, found.key_type, found.coordinator) == ("workspace_id", "text", "core")
    assert found.shards == {
        "s1": MapShard(server="core", workspaces=("ws1", "ws2")),
        "s2": MapShard(server="east", workspaces=("acme",)),
    }
    kinds = {name: table.kind for name, table in found.tables.items()}
    assert kinds == {
        "account": "sharded",
        "item": "sharded",
        "log": "sharded",
        "country": "reference",
        "plan": "reference",
        "seat": "reference",
        "machine": "host",
    }
    account, item, log = (found.tables[t] for t in ("account", "item", "log"))
    assert account.columns == (
        MapColumn(name="id", type="uuid"),
        MapColumn(name="workspace_id", type="text"),
        MapColumn(name="name", type="text"),
        MapColumn(name="tint", type="public.colour"),
    )
    assert not account.key_added
    assert account.constraints == ("account_name_key", "account_pkey")
    assert item.key_added
    assert [c.name for c in item.columns] == ["id", "account_id", "note", "size"]
    assert item.links == (MapLink(column="account_id", table="account", ref_column="id"),)
    assert item.primary_key == ("id",)
    assert log.partitioned
    assert not item.partitioned
    assert {n: t.keyed for n, t in found.tables.items() if t.keyed} == {
        "plan": "nullable",
        "seat": "required",
    }
    assert found.types == ("colour",)
    assert found.functions == ("shout",)
    assert found.lookup
    assert found == ShardMap.from_data(json.loads(found.dump()))


def test_the_epoch_grows_with_a_change_and_only_then(world: World) -> None:
    topology = world.load(layout(TWO))
    apply(topology)
    apply(topology)
    assert world.rows("SELECT topology, epoch FROM parlant_shard.map") == [(world.name, 1)]
    apply(world.load(layout({**TWO, "s1": ["ws1", "ws2", "ws3"]})))
    found = stored(world)
    assert found is not None
    assert found.epoch == 2
    assert found.place("ws3") == "s1"


def test_apply_with_nothing_to_do_stores_a_map_that_is_missing_or_old(world: World) -> None:
    topology = world.load(layout(TWO))
    apply(topology)
    world.execute("DELETE FROM parlant_shard.map")
    assert stored(world) is None
    assert make_plan(topology).steps == ()
    outcome = apply(topology)
    assert outcome.done == 0
    assert stored(world) is not None
    world.execute("UPDATE parlant_shard.map SET map = jsonb_set(map, '{key}', '\"other\"')")
    apply(topology)
    found = stored(world)
    assert found is not None
    assert (found.key, found.epoch) == ("workspace_id", 2)


def test_routers_are_notified_of_a_change_alone(world: World) -> None:
    topology = world.load(layout(TWO))
    apply(topology)
    with world.connect() as listener:
        listener.execute("LISTEN parlant_shard")
        apply(topology)
        assert list(listener.notifies(timeout=0.2)) == []
        apply(world.load(layout({**TWO, "s1": ["ws1"]})))
        heard = list(listener.notifies(timeout=5, stop_after=1))
    assert [n.payload for n in heard] == [world.name]


def test_workspaces_of_buckets_are_placed_without_a_row_each(world: World) -> None:
    shards = {
        "s1": {"workspaces": ["ws1"]},
        "s2": {"server": "east", "buckets": "0-4095"},
    }
    topology = world.load(layout(shards))
    apply(topology)
    place(topology, "newcomer", "s2")
    apply(topology)
    found = stored(world)
    assert found is not None
    assert found.epoch == 1
    assert found.place("newcomer") == "s2"
    assert found.place("ws1") == "s1"


@pytest.mark.parametrize("on", ["core", "east"])
def test_version_1_of_our_schema_is_upgraded_by_a_planned_step(world: World, on: str) -> None:
    what = layout(TWO)
    topology = world.load(what)
    apply(topology)
    world.execute(
        "DROP TABLE parlant_shard.map, parlant_shard.retired, parlant_shard.sample, "
        "parlant_shard.audit, parlant_shard.signing_key, parlant_shard.copy, "
        "parlant_shard.sealed, parlant_shard.seal",
        "DROP FUNCTION parlant_shard.audit_append(), parlant_shard.audit_refuse(), "
        "parlant_shard.seal_keys(), parlant_shard.admit_key(), parlant_shard.seal_deleted(), "
        "parlant_shard.seal_changed(), parlant_shard.send_seals(text, jsonb, text[], text[]), "
        "parlant_shard.key_columns(text[], text), "
        "parlant_shard.key_equals(regclass, text[], text, text)",
        "UPDATE parlant_shard.meta SET version = 1",
        server=on,
    )
    plan = make_plan(topology)
    assert [s.title for s in plan.steps] == ["upgrade the schema parlant_shard from version 1"]
    assert plan.steps[0].server == on
    assert not plan.hazards
    world.converge(what)
    assert world.value("SELECT version FROM parlant_shard.meta", server=on) == INTERNAL_VERSION
    found = stored(world)
    assert found is not None


def test_a_lost_table_of_our_schema_is_named(world: World) -> None:
    topology = world.load(layout(TWO))
    apply(topology)
    world.execute("DROP TABLE parlant_shard.map")
    with pytest.raises(ServerError) as refused:
        make_plan(topology)
    assert refused.value.code == "PS414"


def test_a_shard_without_the_key_is_refused(world: World) -> None:
    state = read_state(world.load(layout(TWO)))
    table = state.desired.catalogs["core"].tables["item_s1"]
    object.__setattr__(
        table, "columns", tuple(c for c in table.columns if c.name != "workspace_id")
    )
    with pytest.raises(SchemaError) as refused:
        map_of(state)
    assert refused.value.code == "PS239"
    assert 'table "item_s1" of server "core"' in refused.value.message


@pytest.mark.needs(superuser=True)
def test_the_role_of_the_application_reads_the_map_and_nothing_else(world: World) -> None:
    role = f"{world.name}_app"
    world.execute(f"CREATE ROLE {role} NOLOGIN")
    try:
        apply(world.load(layout(TWO)))
        with world.connect() as connection:
            connection.row_factory = dict_row  # type: ignore[assignment]
            connection.execute(f"SET ROLE {role}")
            with pytest.raises(RoutingError) as refused:
                mapstore.load(connection, world.name)  # type: ignore[arg-type]
            assert refused.value.code == "PS633"
        apply(world.load(layout(TWO, isolation={"role": role})))
        with world.connect() as connection:
            connection.row_factory = dict_row  # type: ignore[assignment]
            connection.execute(f"SET ROLE {role}")
            found = mapstore.load(connection, world.name)  # type: ignore[arg-type]
            assert found is not None
            for table in ("directory", "placement", "object", "run", "step", "shard", "meta"):
                with pytest.raises(psycopg.errors.InsufficientPrivilege):
                    connection.execute(f"SELECT * FROM parlant_shard.{table}")
    finally:
        for server in world.dsns:
            world.execute(f"DROP OWNED BY {role}", server=server)
        world.execute(f"DROP ROLE {role}")
