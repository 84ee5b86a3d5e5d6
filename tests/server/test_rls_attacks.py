"""The attacks once more, with the wall: through the router, and with the router left out.

The caller is ws_a, as the role of the application. What is sent by the router, and the same text
with physical names and the setting of ws_a, must show nothing of ws_b and change no row of it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache
from typing import Any

import psycopg
import pytest
from oracle import TABLES, Sharded, marks
from psycopg.sql import SQL, Identifier
from rls_world import KEY, SET, Roles, as_role
from test_router_attacks import ATTACKS, NEEDS_RLS, adapted

from parlant_shard import signing
from parlant_shard.names import suffixed
from router_cases import cases
from servers import Clusters

pytestmark = pytest.mark.needs(superuser=True)

SECRET = re.compile(r"SECRET-ws_[bc]")


@pytest.fixture(scope="module")
def walled(
    clusters: Clusters, tmp_path_factory: pytest.TempPathFactory, who: Roles
) -> Iterator[Sharded]:
    found = Sharded(
        clusters,
        tmp_path_factory.mktemp("walled"),
        isolation={"rls": True, "signed": True, "role": who.application, "key": KEY},
    )
    yield found
    found.close()


class Attempt:
    """Statements as the application's role, each in a transaction that is rolled back."""

    def __init__(
        self, walled: Sharded, server: str, who: Roles, token: str, workspace: str = "ws_a"
    ) -> None:
        self.connection = walled.on_shards(server)
        self.who, self.token, self.workspace = who, token, workspace
        self.tables = [suffixed(t, "shard_3") for t in TABLES.values()]
        self.before = self.others()
        self.connection.rollback()

    def others(self) -> list[Any]:
        """A digest of every row of the others that share the shard."""
        return [
            self.connection.execute(
                SQL("SELECT count(*), sum(hashtextextended(t::text, 0)) FROM {} t "
                    "WHERE workspace_id <> %s").format(Identifier(table)),
                [self.workspace],
            ).fetchone()
            for table in self.tables
        ]  # fmt: skip

    def run(self, text: str, params: Any) -> str:
        """What the caller gets to see; fails where a row of another workspace changed."""
        connection = self.connection
        connection.execute(SET, [self.token])
        connection.execute("SAVEPOINT attempt")
        connection.execute(SQL("SET LOCAL ROLE {}").format(Identifier(self.who.application)))
        seen = ""
        try:
            cursor = connection.execute(text, params)  # type: ignore[call-overload]
            seen = repr(cursor.fetchall()) if cursor.description else ""
        except psycopg.Error as error:
            seen = f"{error} {error.diag.message_detail} {error.diag.context}"
            connection.execute("ROLLBACK TO attempt")
        connection.execute("RESET ROLE")
        assert self.others() == self.before
        connection.rollback()
        return seen


def physical(text: str) -> str:
    """The statement with the names that the shard's tables really have."""
    for name in sorted(TABLES.values(), key=len, reverse=True):
        text = re.sub(
            rf'(?<![\w.$"])(public\.)?"?{name}"?(?![\w$])', suffixed(name, "shard_3"), text
        )
    return text


def attacks() -> Iterator[tuple[str, str, Any]]:
    for attack in ATTACKS:
        yield (str(attack["id"]), *adapted(attack))
    for case in cases("attacks.yaml"):
        yield case.id, case.sql, case.params


def test_none_of_them_leaks_through_both_walls(walled: Sharded, who: Roles) -> None:
    token = signing.token("ws_a", KEY)
    at = cache(lambda server: Attempt(walled, server, who, token))
    sent = 0
    for name, text, params in attacks():
        route = walled.route(text, params, "ws_a")
        for target in route.targets:
            seen = at(target.server).run(target.sql, target.params)
            assert not SECRET.search(seen), (name, text, seen)
            assert "division by zero" not in seen or "SECRET" not in text, (name, text)
            sent += 1
    assert sent > 40


def test_none_of_them_leaks_in_nobodys_name(walled: Sharded, who: Roles) -> None:
    """The statement says itself whose rows it means: as it is, or with every table's tenant."""
    at = cache(
        lambda server, ws: Attempt(walled, server, who, signing.token(ws, KEY), workspace=ws)
    )
    sent = 0
    for number, (name, text, params) in enumerate(attacks()):
        own = walled.route(text, params, "ws_a")
        told = [(text, params)]
        spelled_out = number % 3 == 0 or name in map(str, NEEDS_RLS)
        if spelled_out and own.workspaces and "_shard_3" not in text and not own.numbered:
            told.append(walled.spelled_out(own.targets[0]))
        for said, values in told:
            route = walled.route(said, values)
            if route.workspaces not in {("ws_a",), ("ws_b",)} or route.numbered:
                continue
            (target,) = route.targets
            seen = at(target.server, *route.workspaces).run(target.sql, target.params)
            shown = [m for m in marks(seen, but=route.workspaces) if m not in f"{said} {values}"]
            assert not shown, (name, said, seen)
            assert "division by zero" not in seen or "SECRET" not in said, (name, said)
            sent += 1
    assert sent > 40


def raw(walled: Sharded, who: Roles, setting: str, text: str, params: Any = None) -> str:
    """What a connection of the application's own gets to see, whatever it is that it sends."""
    server = walled.map.shards["shard_3"].server
    dsn = as_role(walled.world.dsn(server), who.application)
    with psycopg.connect(dsn, options="-c statement_timeout=10s") as app:
        seen = ""
        try:
            app.execute(SET, [setting])
            cursor = app.execute(text, params)  # type: ignore[call-overload]
            seen = repr(cursor.fetchall()) if cursor.description else ""
        except psycopg.Error as error:
            seen = f"{error} {error.diag.message_detail} {error.diag.context}"
        finally:
            app.close()
    return seen


def test_none_of_them_leaks_with_the_router_left_out(walled: Sharded, who: Roles) -> None:
    token = signing.token("ws_a", KEY)
    judge = Attempt(walled, walled.map.shards["shard_3"].server, who, token)
    answered = 0
    for name, text, params in attacks():
        seen = raw(walled, who, token, physical(text), params or None)
        assert not SECRET.search(seen), (name, text, seen)
        answered += seen.startswith("[")
    assert judge.others() == judge.before
    judge.connection.rollback()
    assert answered > 20


def test_the_open_ones_are_closed(walled: Sharded, who: Roles) -> None:
    """Those that the router alone lets tell of another workspace's rows."""
    token = signing.token("ws_a", KEY)
    for attack in ATTACKS:
        if attack["id"] not in NEEDS_RLS:
            continue
        text, params = adapted(attack)
        route = walled.route(text, params, "ws_a")
        for target in route.targets:
            seen = Attempt(walled, target.server, who, token).run(target.sql, target.params)
            assert not SECRET.search(seen)
            assert "division by zero" not in seen
    # The same texts do tell, where no policy stands in the way: so the test above can fail.
    connection = walled.on_shards(walled.map.shards["shard_3"].server)
    with pytest.raises(psycopg.Error, match=SECRET.pattern):
        connection.execute(
            "SELECT id FROM parlant_agent_shard_3 WHERE description LIKE 'SECRET-ws_b%' "
            "AND description::int = 1"
        )
    connection.rollback()


def test_a_setting_of_the_attackers_own_opens_nothing(walled: Sharded, who: Roles) -> None:
    token = signing.token("ws_a", KEY)
    within = (
        "WITH s AS MATERIALIZED (SELECT set_config('parlant.workspace_id', %s, true)) "
        "SELECT a.description FROM s, parlant_agent_shard_3 a"
    )
    for setting in ("ws_b", f"{token[:89]}ws_b", token.replace("ws_a", "ws_b"), "ps1|*"):
        assert not SECRET.search(raw(walled, who, token, within, [setting]))
        refused = raw(walled, who, setting, "SELECT description FROM parlant_agent_shard_3")
        assert "not signed" in refused or "may not read all workspaces" in refused


def test_shared_rows_take_nothing_of_others_along(walled: Sharded, who: Roles) -> None:
    """A foreign key acts as the owner: what hangs on a shared row would go with it."""
    token = signing.token("ws_a", KEY)
    judge = Attempt(walled, walled.map.coordinator, who, token)
    before = judge.others()
    judge.connection.rollback()
    for text in ("DELETE FROM workspace WHERE id = 'ws_b'", 'DELETE FROM "user"'):
        assert "permission denied" in raw(walled, who, token, text), text
    # What stays within the workspace goes on.
    for text in ("DELETE FROM api_key", "UPDATE workspace SET id = id", "DELETE FROM workflow"):
        assert raw(walled, who, token, text) == "", text
    assert judge.others() == before
    judge.connection.rollback()
