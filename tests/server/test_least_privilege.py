"""Everything works as the roles of docs/roles.md: the test executes that page's SQL, no more."""

from __future__ import annotations

import json
import re
import secrets
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from protocol import BY_MONTH, SCHEMA, Layout, World, layout
from psycopg.conninfo import make_conninfo

from parlant_shard.cli import run
from servers import Clusters, database_name

pytestmark = [pytest.mark.matrix, pytest.mark.needs(superuser=True, logical=True)]

_PAGE = Path(__file__).parents[2] / "docs" / "roles.md"
PASSWORDS = {
    "parlant_owner": "change-me-1",
    "parlant_maintainer": "change-me-2",
    "parlant_app": "change-me-3",
    "parlant_analytics": "change-me-4",
}


class Site:
    """Two servers, set up by the page, and how each role reaches them."""

    def __init__(self, world: World) -> None:
        self.world, self.mark = world, secrets.token_hex(3)
        self.admin = {name: world.dsn(name) for name in ("core", "east")}
        page = _PAGE.read_text(encoding="utf-8")
        self.blocks = re.findall(r"^```sql\n(.*?)^```", page, re.MULTILINE | re.DOTALL)

    def role(self, name: str) -> str:
        return f"{name}_{self.mark}"

    def dsn(self, server: str, role: str) -> str:
        # A lone server holds both databases, and then one role of the page serves both.
        return make_conninfo(self.admin[server], user=self.role(role), password=PASSWORDS[role])

    def execute(self, server: str, number: int, *, role: str | None = None) -> None:
        """Execute one block of the page, as the administrator or as a role."""
        text = self.blocks[number].replace(
            "DATABASE parlant", "DATABASE " + database_name(self.admin[server])
        )
        for name in PASSWORDS:
            text = re.sub(rf"\b{name}\b", self.role(name), text)
        dsn = self.admin[server] if role is None else self.dsn(server, role)
        with psycopg.connect(dsn, autocommit=True) as connection:
            for statement in re.sub(r"^--.*$", "", text, flags=re.MULTILINE).split(";"):
                if statement.strip():
                    connection.execute(statement.encode())

    def command(self, what: Layout, role: str, *words: str) -> int:
        file = str(self.world.load(what).file)
        with pytest.MonkeyPatch.context() as environment:
            for name in what.servers:
                environment.setenv(name, self.dsn(name, role))
            at = 2 if words[0] in {"workspace", "archive"} else 1
            return run([*words[:at], file, *words[at:]])


@pytest.fixture
def site(tmp_path: Path, clusters: Clusters) -> Iterator[Site]:
    if clusters.distinct < 2:
        pytest.skip("roles are of a whole server: needs two")
    found = Site(World(tmp_path, clusters, over=2))
    yield found
    clusters.drop_databases()
    for number in (0, 1):
        with clusters.get(number).connect() as connection:
            for name in reversed(PASSWORDS):
                connection.execute(f"DROP ROLE IF EXISTS {found.role(name)}")


def test_the_roles_of_the_page_suffice(
    site: Site, clusters: Clusters, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    everywhere, coordinator, subscribers, application, analytics, federated = range(6)
    assert len(site.blocks) == 6
    what = layout(
        {"s1": ["a"], "s2": ("east", ["b"])},
        ddl=SCHEMA + "CREATE TABLE owner (id text PRIMARY KEY);\n"
        "ALTER TABLE account ADD owner_id text REFERENCES owner (id);",
        tables={
            "owner": {"kind": "reference"},
            "log": {**BY_MONTH["log"], "audit": True},
            "account": {"audit": True},
        },
        isolation={"role": site.role("parlant_app")},
    )
    for server in ("core", "east"):
        site.execute(server, everywhere)
    site.execute("core", coordinator)
    replicates = clusters.get(0).major >= 16
    if replicates:
        site.execute("east", subscribers)

    def said(role: str, *words: str, code: int = 0) -> str:
        capsys.readouterr()
        found = site.command(what, role, *words)
        printed = capsys.readouterr()
        assert found == code, printed.err
        return printed.out

    # The owner: look, plan, apply, nothing left, look again.
    report = json.loads(said("parlant_owner", "doctor", "--output", "json"))
    assert not [f for f in report["findings"] if f["severity"] == "error"], report["findings"]
    notices = json.loads(said("parlant_owner", "plan", "--output", "json"))["notices"]
    assert any("only a superuser may on PostgreSQL 15" in n for n in notices) is not replicates
    said("parlant_owner", "apply", "--yes")
    said("parlant_owner", "plan", "--detailed-exitcode")
    report = json.loads(said("parlant_owner", "doctor", "--output", "json"))
    assert not [f for f in report["findings"] if f["severity"] == "error"], report["findings"]
    for server in ("core", "east"):
        site.execute(server, application, role="parlant_owner")
        site.execute(server, analytics, role="parlant_owner")
    site.execute("core", federated, role="parlant_owner")
    said("parlant_owner", "plan", "--detailed-exitcode")

    # The application, through the router; recorded changes are not its own to read.
    for workspace in ("a", "b"):
        statement = f"INSERT INTO account (workspace_id, name) VALUES ('{workspace}', 'n')"
        said("parlant_app", "query", statement, "--workspace", workspace)
        rows = said("parlant_app", "query", "SELECT name FROM account", "--workspace", workspace)
        assert "n" in rows
    said("parlant_app", "route", "SELECT name FROM account", "--workspace", "a")
    said("parlant_app", "apply", "--yes", code=4)
    with psycopg.connect(site.dsn("core", "parlant_app"), autocommit=True) as connection:
        recorded = "SELECT count(*) FROM parlant_shard_audit_s1"
        assert connection.execute(recorded).fetchone() == (0,)
        for table in ("audit", "run", "placement", "directory"):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                connection.execute(f"SELECT FROM parlant_shard.{table}")
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                connection.execute(f"DELETE FROM parlant_shard.{table}")
    with psycopg.connect(site.dsn("core", "parlant_owner"), autocommit=True) as connection:
        assert connection.execute(recorded).fetchone() == (1,)
        # Its owner may not change the trail either, short of dropping what forbids it.
        for statement in ("UPDATE", "DELETE", "TRUNCATE"):
            words = {
                "UPDATE": "UPDATE parlant_shard.audit SET actor = ''",
                "DELETE": "DELETE FROM parlant_shard.audit",
                "TRUNCATE": "TRUNCATE parlant_shard.audit",
            }
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                connection.execute(words[statement])

    # The maintainer acts as the owner and signs with its own name.
    said("parlant_maintainer", "maintain", "--now", "2040-01-01")
    with psycopg.connect(site.dsn("core", "parlant_owner"), autocommit=True) as connection:
        owners = connection.execute(
            "SELECT DISTINCT tableowner::text FROM pg_tables WHERE schemaname = 'public'"
        ).fetchall()
        assert owners == [(site.role("parlant_owner"),)]
    history = json.loads(said("parlant_owner", "status", "--history", "--output", "json"))
    assert history["trail"]["ok"]
    who = {row["command"]: row["actor"] for row in history["audit"]}
    assert who["maintain"] == site.role("parlant_maintainer")
    assert who["apply"] == site.role("parlant_owner")
    said("parlant_owner", "status")
    for words in (
        ["verify"], ["monitor"], ["advise"], ["forecast"], ["doctor"], ["workspace", "list"],
        ["workspace", "show", "a"], ["archive", "list"],
    ):  # fmt: skip
        said("parlant_maintainer", *words)

    # Analytics: all workspaces on all servers, and not a row to write.
    with psycopg.connect(site.dsn("core", "parlant_analytics"), autocommit=True) as connection:
        found = connection.execute(
            "SELECT workspace_id FROM account_global ORDER BY workspace_id"
        ).fetchall()
        assert found == [("a",), ("b",)]
        for settings in ("on", "off"):
            connection.execute(f"SET default_transaction_read_only = {settings}")
            with pytest.raises(psycopg.Error) as refused:
                connection.execute("INSERT INTO account_s1 (workspace_id) VALUES ('a')")
            assert refused.value.sqlstate in {"25006", "42501"}

    # What tenants ask for.
    said("parlant_maintainer", "workspace", "export", "b", "--out", str(tmp_path / "b.tar"))
    said("parlant_maintainer", "workspace", "purge", "b", "--yes", "--allow", "deletes-data")


@pytest.mark.parametrize("signed", [False, True], ids=["plain", "signed"])
def test_copies_with_policies_are_filled_and_go_on_being_written(
    site: Site, clusters: Clusters, capsys: pytest.CaptureFixture[str], signed: bool
) -> None:
    """The owner of the tables reads them for the first copy and writes them as the apply worker.

    No superuser here, whom no policy would hold: what has FORCE could be neither.
    """
    if clusters.get(0).major < 16:
        pytest.skip("only a superuser subscribes on PostgreSQL 15")
    everywhere, coordinator, subscribers = range(3)
    isolation: dict[str, Any] = {"rls": True, "role": site.role("parlant_app")}
    if signed:
        isolation |= {"signed": True, "key": "0123456789abcdef0123456789abcdef"}

    def what(shards: dict[str, Any], **sections: Any) -> Layout:
        ddl = SCHEMA + "CREATE TABLE api_key (id text PRIMARY KEY, name text, workspace_id text);"
        return layout(shards, ddl=ddl, tables={"api_key": {"kind": "reference"}}, **sections)

    one, two = {"s1": ["a"]}, {"s1": ["a"], "s2": ("east", ["b"])}
    for server in ("core", "east"):
        site.execute(server, everywhere)
    site.execute("core", coordinator)
    site.execute("east", subscribers)

    def apply(layout_: Layout) -> None:
        assert site.command(layout_, "parlant_owner", "apply", "--yes") == 0, capsys.readouterr()
        assert site.command(layout_, "parlant_owner", "plan", "--detailed-exitcode") == 0

    def rows(server: str) -> list[Any]:
        with psycopg.connect(site.dsn(server, "parlant_owner")) as connection:
            return connection.execute("SELECT * FROM api_key ORDER BY id").fetchall()

    def write(*statements: str) -> None:
        with psycopg.connect(site.dsn("core", "parlant_owner")) as connection:
            for statement in statements:
                connection.execute(statement.encode())

    def arrived() -> None:
        for _ in range(600):
            if rows("east") == rows("core"):
                return
            time.sleep(0.05)
        raise TimeoutError(f"{rows('core')} does not arrive, there is {rows('east')}")

    # Row-level security comes to a live topology, and then a server whose copy is made under it.
    apply(what(one))
    write("INSERT INTO api_key VALUES ('k0', 'x', NULL), ('ka', 'x', 'a'), ('kb', 'x', 'b')")
    apply(what(one, isolation=isolation))
    apply(what(two, isolation=isolation))
    arrived()
    assert len(rows("east")) == 3
    write(
        "INSERT INTO api_key VALUES ('kc', 'x', 'b'), ('kd', 'x', NULL)",
        "UPDATE api_key SET name = 'y' WHERE id IN ('k0', 'kb')",
        "DELETE FROM api_key WHERE id = 'ka'",
    )
    arrived()
    assert [row[0] for row in rows("east")] == ["k0", "kb", "kc", "kd"]
    security = "SELECT relrowsecurity, relforcerowsecurity FROM pg_class WHERE relname = 'api_key'"
    for server in ("core", "east"):
        with psycopg.connect(site.dsn(server, "parlant_owner")) as connection:
            assert connection.execute(security).fetchall() == [(True, False)]
        with psycopg.connect(site.admin[server]) as connection:
            connection.execute(f"SET ROLE {site.role('parlant_app')}".encode())
            found = connection.execute("SELECT id FROM api_key ORDER BY id").fetchall()
            assert found == [("k0",), ("kd",)]
