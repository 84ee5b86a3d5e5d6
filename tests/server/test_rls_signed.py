"""Signed settings: not even raw SQL as the role of the application reaches another workspace."""

from __future__ import annotations

import json
import re
import time
from pathlib import Path
from typing import Any

import psycopg
import pytest
from client_world import fill, lasting_world
from protocol import World
from psycopg.sql import SQL, Identifier
from rls_world import KEY, OTHER_KEY, SET, Roles, behind, connected, seen_as

from parlant_shard import Router, ShardError, signing
from parlant_shard.apply import apply
from parlant_shard.errors import TopologyError
from parlant_shard.planner import make_plan
from servers import Clusters

pytestmark = pytest.mark.needs(superuser=True)

READ = "SELECT workspace_id FROM account_s1"
NAMES = "SELECT name FROM account"


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, clusters: Clusters, who: Roles) -> World:
    found = lasting_world(tmp_path_factory.mktemp("world"), clusters)
    found.converge(behind(who, signed=True, key=KEY))
    fill(found)
    return found


def read(connection: psycopg.Connection[Any], setting: str) -> list[tuple[Any, ...]]:
    with connection.transaction(force_rollback=True):
        connection.execute(SET, [setting])
        return connection.execute(READ).fetchall()


def test_tokens_that_are_believed(world: World, who: Roles) -> None:
    with connected(world, who.application) as app:
        assert read(app, signing.token("ws1", KEY)) == [("ws1",)]
        assert read(app, signing.token("ws2", KEY)) == [("ws2",)]
        # A clock that is behind by less than the tolerance.
        late = signing.time.time() - signing.LIFETIME - signing.SKEW + 10
        assert read(app, signing.token("ws1", KEY, now=late)) == [("ws1",)]
        for odd in ("it's | odd", "Ünïcode", "a" * 300, "ps1|*", "%s"):
            assert read(app, signing.token(odd, KEY)) == []
        assert read(app, "") == []
        assert app.execute(READ).fetchall() == []


def test_tokens_that_are_not(world: World, who: Roles) -> None:
    good = signing.token("ws1", KEY)
    head, signature, workspace = good[:24], good[24:88], good[89:]
    assert (head[:4], workspace) == ("ps1|", "ws1")
    ahead = f"{head[:13]}{int(head[13:23]) + 9999:010d}|"
    forged = {
        "the bare name": "ws2",
        "replayed for another workspace": f"{head}{signature}|ws2",
        "extended": f"{good}2",
        "no signature": f"{head}{'0' * 64}|ws1",
        "an empty signature": f"{head}|ws1",
        "another expiry": f"{ahead}{signature}|ws1",
        "another key": signing.token("ws1", OTHER_KEY),
        "another key under this id": head + signing.token("ws1", OTHER_KEY)[24:],
        "an unknown key id": f"ps1|00000000{good[12:]}",
        "expired": signing.token("ws1", KEY, now=signing.time.time() - 95),
        "upper case": f"{head}{signature.upper()}|ws1" if signature.upper() != signature else "x",
        "everything": "ps1|*",
        "a wildcard": "%",
        "an injection": "' OR '1'='1",
        "too short": good[:60],
        "no number": f"{head[:13]}xxxxxxxxxx|{signature}|ws1",
    }
    with connected(world, who.application) as app:
        for what, setting in forged.items():
            with pytest.raises(psycopg.Error) as refused:
                read(app, setting)
            assert refused.value.sqlstate == ("42501" if what == "everything" else "PS003"), what
            assert setting not in str(refused.value) or what == "a wildcard"
        # A transaction may last longer than its token: what counts is when it began.
        with app.transaction():
            app.execute(SET, [signing.token("ws1", KEY, now=signing.time.time() - 88.5)])
            assert app.execute(READ).fetchall() == [("ws1",)]
            time.sleep(2)
            assert app.execute(READ).fetchall() == [("ws1",)]


def test_raw_sql_cannot_make_one_up(world: World, who: Roles) -> None:
    with connected(world, who.application) as app:
        for statement in (
            "SELECT * FROM parlant_shard.signing_key",
            "COPY parlant_shard.signing_key TO STDOUT",
            "CREATE FUNCTION parlant_shard.f() RETURNS text LANGUAGE sql AS $$SELECT 'ws2'$$",
            "ALTER FUNCTION parlant_shard.workspace() OWNER TO CURRENT_USER",
            "CREATE OR REPLACE FUNCTION parlant_shard.workspace() RETURNS text LANGUAGE sql "
            "AS $$SELECT 'ws2'$$",
        ):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                app.execute(statement)  # type: ignore[arg-type]
        # Whatever hides built-in functions and operators from the caller is no matter inside.
        app.execute("CREATE TEMP TABLE signing_key (id text, inner_pad bytea, outer_pad bytea)")
        app.execute(
            "CREATE FUNCTION pg_temp.sha256(bytea) RETURNS bytea LANGUAGE sql "
            "AS $$SELECT ''::bytea$$"
        )
        app.execute("SET search_path = pg_temp, pg_catalog, public")
        with pytest.raises(psycopg.Error) as refused:
            read(app, signing.token("ws1", KEY)[:88] + "|ws2")
        assert refused.value.sqlstate == "PS003"
        # A setting of the session is as little believed as one of the transaction.
        app.execute("SELECT set_config('parlant.workspace_id', 'ws2', false)")
        with pytest.raises(psycopg.Error) as refused:
            app.execute(READ)
        assert refused.value.sqlstate == "PS003"


def test_default_privileges_give_no_key_away(
    tmp_path: Path, clusters: Clusters, who: Roles
) -> None:
    world = World(tmp_path, clusters)
    with world.connect() as connection:
        connection.execute(
            SQL("ALTER DEFAULT PRIVILEGES GRANT ALL ON TABLES TO {}, PUBLIC").format(
                Identifier(who.application)
            )
        )
    world.apply(behind(who, signed=True, key=KEY))
    ask = "SELECT has_table_privilege('{}', 'parlant_shard.{}', '{}')"
    for table, privilege in (("signing_key", "SELECT"), ("audit", "INSERT"), ("audit", "SELECT")):
        assert world.value(ask.format(who.application, table, privilege)) is False
    assert world.value("SELECT count(*) FROM parlant_shard.signing_key") == 1


def test_a_client_with_another_key_is_told(world: World, who: Roles) -> None:
    topology = seen_as(world.load(behind(who, signed=True, key=OTHER_KEY)), who.application)
    with Router(topology) as router, pytest.raises(ShardError) as refused:
        router.execute(NAMES, workspace="ws1")
    assert refused.value.code == "PS725"
    assert "isolation.key" in (refused.value.hint or "")


def test_keys_change_without_a_gap(tmp_path: Path, clusters: Clusters, who: Roles) -> None:
    world = World(tmp_path, clusters)
    old = behind(who, signed=True, key=KEY)
    both = behind(who, signed=True, key=OTHER_KEY, previous_key=KEY)
    new = behind(who, signed=True, key=OTHER_KEY)
    plain = behind(who)
    world.apply(plain)
    fill(world)
    with (
        Router(seen_as(world.load(old), who.application)) as signs_old,
        Router(seen_as(world.load(new), who.application)) as signs_new,
        Router(seen_as(world.load(plain), who.application)) as signs_not,
    ):

        def served(*routers: Router) -> None:
            for router in (signs_old, signs_new, signs_not):
                if router in routers:
                    for workspace in ("ws1", "acme"):
                        found = router.execute(NAMES, workspace=workspace).fetchall()
                        assert found == [(f"of {workspace}",)]
                else:
                    with pytest.raises(ShardError) as refused:
                        router.execute(NAMES, workspace="ws1")
                    assert refused.value.code == "PS725"

        served(signs_not, signs_old, signs_new)  # clients go first
        world.converge(old)
        served(signs_old)
        world.converge(both)
        served(signs_old, signs_new)
        world.converge(new)
        served(signs_new)
        assert world.rows("SELECT id FROM parlant_shard.signing_key") == [
            (signing.key_id(OTHER_KEY),)
        ]
        world.converge(plain)
        served(signs_not, signs_old, signs_new)
        assert world.rows("SELECT id FROM parlant_shard.signing_key") == []


def test_the_key_is_nowhere_to_be_seen(
    tmp_path: Path, clusters: Clusters, who: Roles, capfd: pytest.CaptureFixture[str]
) -> None:
    world = World(tmp_path, clusters)
    topology = world.load(behind(who, signed=True, key=KEY, previous_key=OTHER_KEY))
    plan = make_plan(topology)
    router_text = ""
    apply(topology)
    with Router(topology) as router:
        router_text = f"{router.wall!r} {router.topology!r} {vars(router)!r}"
    journaled = json.dumps(
        [
            world.rows("SELECT * FROM parlant_shard.step"),
            world.rows("SELECT * FROM parlant_shard.run"),
            world.rows("SELECT * FROM parlant_shard.map"),
        ],
        default=str,
    )
    seen = json.dumps(plan.to_json()) + repr(plan) + repr(topology) + router_text + journaled
    seen += topology.model_dump_json() + "".join(capfd.readouterr())
    for key in (KEY, OTHER_KEY):
        assert key not in seen
        for block in signing.pads(key):
            assert block.hex() not in seen
        # It is there all the same, where it belongs.
        found = world.rows(
            f"SELECT inner_pad, outer_pad FROM parlant_shard.signing_key "
            f"WHERE id = '{signing.key_id(key)}'"
        )
        assert found == [signing.pads(key)]


def test_files_and_what_is_wrong_with_keys(tmp_path: Path, clusters: Clusters, who: Roles) -> None:
    world = World(tmp_path, clusters)
    (tmp_path / "key").write_text(KEY + "\n")
    (tmp_path / "short").write_text("short")
    topology = world.load(behind(who, signed=True, key_file="key"))
    assert topology.isolation.key == KEY
    for wrong, code in (
        ({"key_file": "short"}, "PS721"),
        ({"key": "too short"}, "PS721"),
        ({"key": KEY, "key_file": "key"}, "PS721"),
        ({"key": KEY, "previous_key": KEY}, "PS721"),
        ({"key_file": "absent"}, "PS113"),
    ):
        with pytest.raises(TopologyError) as refused:
            world.load(behind(who, signed=True, **wrong))
        assert refused.value.code == code
        assert KEY not in str(refused.value)
        assert re.match(r"isolation\.", refused.value.path or "")
    keyless = world.load(behind(who, signed=True))
    for attempt in (make_plan, Router):
        with pytest.raises(TopologyError) as refused:
            attempt(keyless)
        assert refused.value.code == "PS721"
