"""What people get wrong, through the command line: the exit code, the words and the hint, exactly.

Every case is run twice, as text and as JSON: the same message, nothing on stdout, no password.
"""

from __future__ import annotations

import json
import os
import re
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from parlant_shard import apply as running
from parlant_shard import cli, db, local, workspace
from parlant_shard.cli import shell
from servers import Cluster, Clusters, database_name, scratch_directory

pytestmark = pytest.mark.needs(superuser=True)

SRC = Path(running.__file__).parents[1]
PASSWORD = "Tell-Nobody-7f3a9c"
DDL = """\
CREATE TABLE item (id text PRIMARY KEY, workspace_id text NOT NULL, at timestamptz NOT NULL);
CREATE TABLE part (id text PRIMARY KEY, item_id text NOT NULL REFERENCES item (id));
"""
LONE = DDL.splitlines()[0] + "\n"
ONE = {"shard_1": "{server: core, workspaces: [ws1, ws2]}"}
MORE = {"shard_1": "{server: core, workspaces: [ws1, ws2, ws3]}"}
TWO = {**ONE, "shard_2": "{server: east, workspaces: [acme]}"}
RESUMES = "run the same command again: it resumes"
SEE_HELP = "see `parlant-shard --help`"
# What begins a message with a capital letter: SQL, or a product's name.
_CAPITALS = re.compile(r"(PostgreSQL|[A-Z]{4,}|[A-Z_]+ is) ?|--")


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """What a command printed, and its exit code."""

    code: int
    out: str
    err: str


class Bench:
    """Writes topologies, runs commands, and reads what they say."""

    def __init__(self, directory: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.directory = directory
        self.capsys = capsys
        self.file = directory / "topology.yaml"
        self.ddl = directory / "schema.sql"

    def write(
        self,
        servers: Mapping[str, str],
        shards: Mapping[str, str] = ONE,
        *,
        ddl: str = DDL,
        schema: str = "{files: [schema.sql]}",
        extra: str = "",
        coordinator: str = "core",
    ) -> Path:
        """Write the topology; servers are on line 5 and on, in their order."""
        self.ddl.write_text(ddl, encoding="utf-8")
        lines = ["version: 1", "name: bad", f"schema: {schema}", "servers:"]
        lines += [f"  {name}: {{dsn: {json.dumps(dsn)}}}" for name, dsn in servers.items()]
        lines += [f"coordinator: {coordinator}", "shards:"]
        lines += [f"  {name}: {options}" for name, options in shards.items()]
        self.file.write_text("\n".join(lines) + "\n" + extra, encoding="utf-8")
        return self.file

    def run(self, *arguments: object) -> Seen:
        """Run a command in this process."""
        self.capsys.readouterr()
        code = cli.run([str(a) for a in arguments])
        printed = self.capsys.readouterr()
        seen = Seen(code=int(code), out=printed.out, err=printed.err)
        for text in (seen.out, seen.err):
            assert PASSWORD not in text
            assert "Traceback" not in text
        return seen

    def ok(self, *arguments: object) -> str:
        """Run a command that must succeed; return its stdout."""
        seen = self.run(*arguments)
        assert seen.code == 0, seen.err
        return seen.out

    def apply(self, *arguments: object) -> None:
        self.ok("apply", self.file, "--yes", *arguments)

    def converges(self, *arguments: object) -> None:
        """Apply, then plan: nothing may be left to do."""
        self.apply(*arguments)
        assert "nothing to do" in self.ok("plan", self.file)

    def refuses(
        self,
        *arguments: object,
        exit_code: int,
        code: str,
        message: str,
        hint: str,
        line: int | None = None,
        file: object = None,
        path: str | None = None,
    ) -> None:
        """Run a command that must fail, as text and as JSON, and compare every word."""
        text = self.run(*arguments)
        data = self.run(*arguments, "--output", "json")
        last = data.err.splitlines()[-1]
        found = json.loads(last)
        expected = {
            "code": code,
            "message": message,
            "hint": hint,
            "file": None if file is None else str(file),
            "line": line,
            "path": path,
        }
        assert list(found) == ["format_version", "error"]
        assert "\n".join(f"{k}: {v}" for k, v in found["error"].items()) == "\n".join(
            f"{k}: {v}" for k, v in expected.items()
        )
        assert found["error"] == expected
        place = "" if file is None else f"{file}:{line}: " if line else f"{file}: "
        assert text.err.endswith(f"error {code}: {place}{message}\n  hint: {hint}\n"), text.err
        assert (text.code, data.code) == (exit_code, exit_code)
        assert (text.out, data.out) == ("", "")
        assert "\n" not in message
        assert not message[0].isupper() or _CAPITALS.match(message)
        assert not re.search(r"Errno|psycopg|FATAL", message)


@pytest.fixture
def bench(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Bench:
    return Bench(tmp_path, capsys)


class Roles:
    """Roles with a password that must never be printed."""

    def __init__(self) -> None:
        self.made: list[tuple[Cluster, str]] = []

    def make(self, cluster: Cluster, options: str = "") -> str:
        """Create a role; return its name."""
        name = f"bi_{secrets.token_hex(5)}"
        with cluster.connect() as connection:
            connection.execute(
                sql.SQL("CREATE ROLE {} LOGIN PASSWORD {} " + options).format(  # type: ignore[arg-type]
                    sql.Identifier(name), PASSWORD
                )
            )
        self.made.append((cluster, name))
        return name

    def drop(self) -> None:
        for cluster, name in self.made:
            with cluster.connect() as connection:
                connection.execute(sql.SQL("DROP ROLE {}").format(sql.Identifier(name)))


@pytest.fixture(scope="module")
def roles() -> Iterator[Roles]:
    """Give a maker of roles, which are dropped when the databases of all tests are gone."""
    roles = Roles()
    yield roles
    roles.drop()


@pytest.fixture(scope="module")
def owner(clusters: Clusters, roles: Roles) -> str:
    """Give a superuser with the password."""
    return roles.make(clusters.get(0), "SUPERUSER")


@pytest.fixture
def core(database: str, owner: str) -> str:
    """Give the conninfo of an empty database, with the password."""
    return login(database, owner)


@pytest.fixture
def east(clusters: Clusters, owner: str) -> str:
    return login(clusters.get(0).new_database("e"), owner)


def login(conninfo: str, role: str) -> str:
    return make_conninfo(conninfo, user=role, password=PASSWORD)


def execute(conninfo: str, *statements: str) -> list[tuple[Any, ...]]:
    """Run statements and return the rows of the last."""
    with psycopg.connect(conninfo, autocommit=True) as connection:
        for statement in statements:
            cursor = connection.execute(statement.encode())
        return cursor.fetchall() if cursor.description else []


def relations(conninfo: str) -> int:
    """Return how many tables and views there are, and schemas of ours."""
    query = (
        "SELECT (SELECT count(*) FROM pg_class WHERE relnamespace = 'public'::regnamespace) + "
        "(SELECT count(*) FROM pg_namespace WHERE nspname = 'parlant_shard')"
    )
    return int(execute(conninfo, query)[0][0])


def address(conninfo: str) -> str:
    info = conninfo_to_dict(conninfo)
    return f"{info.get('host')}:{info.get('port')}"


def free_port() -> int:
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


# --- files and usage ------------------------------------------------------------------------------


@pytest.mark.parametrize("command", [["plan"], ["apply", "--yes"], ["status"], ["validate"]])
def test_no_topology_file(bench: Bench, command: list[str]) -> None:
    bench.refuses(
        *command,
        bench.file,
        exit_code=4,
        code="PS101",
        message="the topology file cannot be read: no such file or directory",
        hint='check the path; "parlant-shard init" writes a starter topology',
        file=bench.file,
    )


def test_a_directory_is_no_topology(bench: Bench) -> None:
    bench.refuses(
        "plan",
        bench.directory,
        exit_code=4,
        code="PS101",
        message="the topology file cannot be read: is a directory",
        hint='check the path; "parlant-shard init" writes a starter topology',
        file=bench.directory,
    )


def test_a_variable_that_is_not_set(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("BAD_INPUTS_DSN", raising=False)
    bench.write({"core": "${BAD_INPUTS_DSN}"})
    bench.refuses(
        "plan",
        bench.file,
        exit_code=4,
        code="PS111",
        message='the environment variable "BAD_INPUTS_DSN" is not set',
        hint="set BAD_INPUTS_DSN, or write $${BAD_INPUTS_DSN} if the text is meant literally",
        file=bench.file,
        line=5,
        path="servers.core.dsn",
    )


def test_a_dsn_that_libpq_cannot_read(bench: Bench) -> None:
    bench.write({"core": f"host=127.0.0.1 pasword={PASSWORD}"})
    bench.refuses(
        "plan",
        bench.file,
        exit_code=4,
        code="PS118",
        message="libpq cannot read this connection string",
        hint='use "host=... dbname=... user=..." or "postgresql://user@host/dbname"; '
        "percent-encode special characters of a password in a URL",
        file=bench.file,
        line=5,
        path="servers.core.dsn",
    )


@pytest.mark.parametrize(
    ("arguments", "message", "hint"),
    [
        (["frobnicate"], 'no such command "frobnicate"', SEE_HELP),
        (["plan"], 'missing argument "TOPOLOGY"', SEE_HELP),
        (["plan", "x", "--frob"], "no such option: --frob", SEE_HELP),
        (["workspace", "add", "x"], 'missing argument "WS"', SEE_HELP),
    ],
)
def test_usage(bench: Bench, arguments: list[str], message: str, hint: str) -> None:
    bench.refuses(*arguments, exit_code=64, code="PS900", message=message, hint=hint)


def test_an_unknown_hazard_is_a_usage_error_before_anything_else(bench: Bench) -> None:
    bench.refuses(
        "apply",
        bench.file,
        "--yes",
        "--allow",
        "frob",
        exit_code=64,
        code="PS900",
        message="--allow frob: only deletes-data and drops-object need to be allowed",
        hint=SEE_HELP,
    )


def test_a_group_without_a_command_is_an_error_in_json_too(bench: Bench) -> None:
    for arguments in ([], ["workspace"], ["local"]):
        seen = bench.run(*arguments, "--output", "json")
        assert (seen.code, seen.out) == (64, "")
        assert json.loads(seen.err)["error"]["code"] == "PS900"


# --- connecting -----------------------------------------------------------------------------------

WHERE = "(dsn or admin_dsn of the server in the topology); nothing was changed by this attempt"


@pytest.mark.parametrize("command", [["plan"], ["apply", "--yes"], ["workspace", "list"]])
def test_a_closed_port(bench: Bench, command: list[str]) -> None:
    port = free_port()
    bench.write({"core": f"host=127.0.0.1 port={port} user=u password={PASSWORD} dbname=x"})
    bench.refuses(
        *command,
        bench.file,
        exit_code=5,
        code="PS401",
        message=f'cannot connect to server "core" at 127.0.0.1:{port}: connection refused',
        hint=f"start the server, or correct host and port {WHERE}",
    )


def test_a_closed_port_in_a_url(bench: Bench) -> None:
    port = free_port()
    bench.write({"core": f"postgresql://u:{PASSWORD}@127.0.0.1:{port}/x"})
    bench.refuses(
        "plan",
        bench.file,
        exit_code=5,
        code="PS401",
        message=f'cannot connect to server "core" at 127.0.0.1:{port}: connection refused',
        hint=f"start the server, or correct host and port {WHERE}",
    )


def test_status_of_a_closed_port(bench: Bench) -> None:
    port = free_port()
    bench.write({"core": f"host=127.0.0.1 port={port} user=u password={PASSWORD} dbname=x"})
    message = f'cannot connect to server "core" at 127.0.0.1:{port}: connection refused'
    text = bench.run("status", bench.file)
    assert text.code == 5
    assert f"error PS401: {message}\n  hint: start the server" in text.err
    data = bench.run("status", bench.file, "--output", "json")
    assert data.code == 5
    assert json.loads(data.out)["servers"][0]["error"] == message
    assert json.loads(data.err)["error"]["message"] == message


def test_doctor_of_a_closed_port(bench: Bench) -> None:
    port = free_port()
    bench.write({"core": f"host=127.0.0.1 port={port} user=u password={PASSWORD} dbname=x"})
    seen = bench.run("doctor", bench.file)
    assert seen.code in {3, 5}
    assert f"127.0.0.1:{port}: connection refused" in seen.out + seen.err


def test_a_host_that_does_not_resolve(bench: Bench) -> None:
    bench.write({"core": f"host=no-such-host.invalid user=u password={PASSWORD} dbname=x"})
    bench.refuses(
        "plan",
        bench.file,
        exit_code=5,
        code="PS401",
        message='cannot connect to server "core" at no-such-host.invalid:5432: '
        "the host name does not resolve",
        hint=f"correct the host {WHERE}",
    )


def test_a_database_that_does_not_exist(bench: Bench, core: str) -> None:
    bench.write({"core": make_conninfo(core, dbname="no such db")})
    bench.refuses(
        "plan",
        bench.file,
        exit_code=5,
        code="PS401",
        message=f'cannot connect to server "core" at {address(core)}: '
        'database "no such db" does not exist',
        hint=f"create the database, or correct dbname {WHERE}",
    )


def test_a_wrong_password(bench: Bench, core: str, owner: str) -> None:
    wrong = make_conninfo(core, password=f"{PASSWORD}-not")
    try:
        psycopg.connect(wrong).close()
    except psycopg.OperationalError:
        bench.write({"core": wrong})
        bench.refuses(
            "plan",
            bench.file,
            exit_code=5,
            code="PS401",
            message=f'cannot connect to server "core" at {address(core)}: '
            f'password authentication failed for user "{owner}"',
            hint=f"correct the password, or .pgpass {WHERE}",
        )
    else:
        pytest.skip("the server trusts everybody")


def test_what_refuses_a_log_in_is_told_in_one_line(bench: Bench, core: str, roles: Roles) -> None:
    """Causes that we have no words for: PostgreSQL's own, without what libpq puts around them."""
    locked = roles.make(roles.made[0][0])
    execute(core, f"ALTER ROLE {locked} NOLOGIN")
    crowded = roles.make(roles.made[0][0], "CONNECTION LIMIT 0")
    closed, maintenance = database_name(core), make_conninfo(core, dbname="postgres")
    causes = {
        login(maintenance, locked): f'role "{locked}" is not permitted to log in',
        login(maintenance, crowded): f'too many connections for role "{crowded}"',
        core: f'database "{closed}" is not currently accepting connections',
    }
    execute(maintenance, f"ALTER DATABASE {closed} ALLOW_CONNECTIONS false")
    try:
        for dsn, cause in causes.items():
            bench.write({"core": dsn})
            bench.refuses(
                "plan",
                bench.file,
                exit_code=5,
                code="PS401",
                message=f'cannot connect to server "core" at {address(core)}: {cause}',
                hint=f"look at the server's log {WHERE}",
            )
    finally:
        execute(maintenance, f"ALTER DATABASE {closed} ALLOW_CONNECTIONS true")


def test_a_server_that_accepts_and_never_answers(bench: Bench) -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as silent:
        port = silent.getsockname()[1]
        bench.write(
            {
                "core": f"host=127.0.0.1 port={port} user=u password={PASSWORD} dbname=x "
                "connect_timeout=1"
            }
        )
        began = time.monotonic()
        bench.refuses(
            "plan",
            bench.file,
            exit_code=5,
            code="PS401",
            message=f'cannot connect to server "core" at 127.0.0.1:{port}: no answer in time',
            hint="look for a wrong address or a firewall; connect_timeout says how long we wait "
            + WHERE,
        )
        assert time.monotonic() - began < 12


def test_a_dead_second_server_keeps_everything_as_it_was(bench: Bench, core: str) -> None:
    port = free_port()
    dead = f"host=127.0.0.1 port={port} user=u password={PASSWORD} dbname=x"
    bench.write({"core": core, "east": dead}, TWO)
    bench.refuses(
        "apply",
        bench.file,
        "--yes",
        exit_code=5,
        code="PS401",
        message=f'cannot connect to server "east" at 127.0.0.1:{port}: connection refused',
        hint=f"start the server, or correct host and port {WHERE}",
    )
    assert relations(core) == 0
    assert bench.run("status", bench.file).code == 1


def test_one_database_under_two_names(bench: Bench, core: str) -> None:
    with psycopg.connect(core) as connection:
        number = connection.info.hostaddr
    if not number:
        pytest.skip("a Unix socket has one name only")
    bench.write({"core": core})
    bench.apply()
    # The name is not looked up: the number goes before it.
    other = make_conninfo(core, host="other.example", hostaddr=number)
    bench.write({"core": core, "east": other})
    bench.refuses(
        "apply",
        bench.file,
        "--yes",
        "--allow",
        "drops-object",
        exit_code=4,
        code="PS164",
        message='servers "core" and "east" are the same database',
        hint="list a database once; several shards can share a server",
        file=bench.file,
        line=6,
        path="servers.east",
    )


# --- rights ---------------------------------------------------------------------------------------


@pytest.fixture
def plain(clusters: Clusters, roles: Roles) -> str:
    """Give a role that may do nothing."""
    return roles.make(clusters.get(0))


def test_a_role_without_create(bench: Bench, database: str, plain: str) -> None:
    bench.write({"core": login(database, plain)})
    name = database_name(database)
    place = {"file": bench.file, "line": 5, "path": "servers.core"}
    on_schema = f"GRANT CREATE ON SCHEMA public TO {plain}"
    execute(database, f"GRANT CREATE ON SCHEMA public TO {plain}")
    bench.refuses(
        "plan",
        bench.file,
        exit_code=4,
        code="PS163",
        message=f'role "{plain}" may not create schemas on server "core"',
        hint=f"GRANT CREATE ON DATABASE {name} TO {plain}",
        **place,  # type: ignore[arg-type]  # the three keywords of a place
    )
    execute(
        database,
        f"REVOKE CREATE ON SCHEMA public FROM {plain}",
        f"GRANT CREATE ON DATABASE {name} TO {plain}",
    )
    bench.refuses(
        "plan",
        bench.file,
        exit_code=4,
        code="PS163",
        message=f'role "{plain}" may not create tables in schema "public" on server "core"',
        hint=on_schema,
        **place,  # type: ignore[arg-type]
    )


def grant_all(conninfo: str, role: str) -> None:
    execute(
        conninfo,
        f"GRANT ALL ON DATABASE {database_name(conninfo)} TO {role}",
        f"GRANT ALL ON SCHEMA public TO {role}",
    )


def test_a_role_without_createdb_gets_by_with_an_embedded_server(
    bench: Bench, clusters: Clusters, database: str, plain: str
) -> None:
    if clusters.get(0).major != 18:
        pytest.skip("the embedded server is of PostgreSQL 18")
    grant_all(database, plain)
    bench.write({"core": login(database, plain)})
    bench.converges()


def test_a_role_without_createdb_and_no_embedded_server(
    bench: Bench,
    clusters: Clusters,
    database: str,
    plain: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    grant_all(database, plain)
    bench.write({"core": login(database, plain)})
    empty = bench.directory / "empty"
    empty.mkdir()
    monkeypatch.setenv("PARLANT_SHARD_PG_BIN", str(empty))
    bench.refuses(
        "plan",
        bench.file,
        exit_code=4,
        code="PS166",
        message="no role of ours may create a scratch database on a PostgreSQL "
        f"{clusters.get(0).major} server, and no embedded server is to be had: "
        f'PARLANT_SHARD_PG_BIN is "{empty}", which does not hold initdb, pg_ctl and postgres',
        hint=f"ALTER ROLE {plain} CREATEDB",
    )


def test_a_role_that_does_not_own_the_tables(
    bench: Bench, clusters: Clusters, core: str, owner: str, plain: str
) -> None:
    bench.write({"core": core})
    bench.apply()
    grant_all(core, plain)
    execute(
        core,
        f"ALTER ROLE {plain} CREATEDB",
        f"GRANT USAGE ON SCHEMA parlant_shard TO {plain}",
        f"GRANT ALL ON ALL TABLES IN SCHEMA parlant_shard TO {plain}",
    )
    bench.write({"core": login(core, plain)}, MORE)
    bench.refuses(
        "apply",
        bench.file,
        "--yes",
        exit_code=4,
        code="PS412",
        message=f'role "{plain}" does not own table "item_shard_1" on server "core", '
        f'whose owner is "{owner}"',
        hint=f'in database "{database_name(core)}" of server "core": GRANT {owner} TO {plain}; '
        f"or ALTER TABLE public.item_shard_1 OWNER TO {plain}",
    )


def test_a_role_that_may_not_see_our_schema(
    bench: Bench, core: str, owner: str, plain: str
) -> None:
    bench.write({"core": core})
    bench.apply()
    grant_all(core, plain)
    bench.write({"core": login(core, plain)}, MORE)
    for command in (["plan"], ["apply", "--yes"]):
        bench.refuses(
            *command,
            bench.file,
            exit_code=4,
            code="PS413",
            message=f'server "core": role "{plain}" may not use schema "parlant_shard" of database '
            f'"{database_name(core)}"',
            hint=f'connect as "{owner}", who applied the topology before, or as a member of that '
            "role",
        )
    for command in (["status"], ["workspace", "list"]):
        seen = bench.run(*command, bench.file, "--output", "json")
        assert (seen.code, seen.out) == (4, "")
        error = json.loads(seen.err)["error"]
        assert "parlant_shard" in error["message"]
        assert error["hint"]


def test_a_missing_right_names_the_role_and_the_grant(bench: Bench, core: str, plain: str) -> None:
    bench.write({"core": core})
    bench.apply()
    database = database_name(core)
    execute(core, f"GRANT USAGE ON SCHEMA parlant_shard TO {plain}")
    bench.write({"core": login(core, plain)})

    def refused(hint: str, table: str) -> None:
        bench.refuses(
            "status",
            bench.file,
            exit_code=4,
            code="PS403",
            message=f'server "core", reading its catalogue, as role "{plain}": '
            f"permission denied for table {table}",
            hint=hint,
        )

    for table in ("object", "placement", "run"):
        statement = f"GRANT SELECT ON parlant_shard.{table} TO {plain}"
        refused(f'in database "{database}" of server "core": {statement}', table)
        execute(core, statement)
    bench.ok("status", bench.file)
    # Not certain: a table of that name is elsewhere too.
    elsewhere = 'CREATE SCHEMA "else"; CREATE TABLE "else".run ()'
    execute(core, f"REVOKE SELECT ON parlant_shard.run FROM {plain}", elsewhere)
    refused("connect as a role that may, or grant it", "run")
    execute(core, 'DROP SCHEMA "else" CASCADE')
    # Behind the wall no right is advised.
    bench.write({"core": login(core, plain)}, extra="isolation: {rls: true, role: somebody}\n")
    refused("connect as a role that may; isolation.rls withholds some rights on purpose", "run")


@pytest.mark.parametrize(
    ("statement", "grant"),
    [
        ("SELECT * FROM hidden.x", "USAGE ON SCHEMA hidden"),
        ("CREATE TABLE open.x ()", "CREATE ON SCHEMA open"),
        ("CREATE SCHEMA more", "CREATE ON DATABASE {database}"),
        (
            "CREATE SERVER x FOREIGN DATA WRAPPER postgres_fdw",
            "USAGE ON FOREIGN DATA WRAPPER postgres_fdw",
        ),
        ('CREATE FOREIGN TABLE open.y (a int) SERVER "Far"', 'USAGE ON FOREIGN SERVER "Far"'),
        ("DELETE FROM open.readable", None),
        ("SELECT * FROM pg_catalog.pg_authid", None),
        ("DROP TABLE open.readable", None),
    ],
)
def test_the_grant_that_helps(core: str, plain: str, statement: str, grant: str | None) -> None:
    execute(
        core,
        f"CREATE SCHEMA hidden; CREATE SCHEMA open; GRANT USAGE ON SCHEMA open TO {plain}",
        f"CREATE TABLE open.readable (); GRANT SELECT ON open.readable TO {plain}",
        "CREATE EXTENSION postgres_fdw",
        'CREATE SERVER "Far" FOREIGN DATA WRAPPER postgres_fdw',
    )
    name = database_name(core)
    if "open.y" in statement:
        execute(core, f"GRANT CREATE ON SCHEMA open TO {plain}")
    with db.connect(login(core, plain), server="core") as connection:
        with pytest.raises(psycopg.errors.InsufficientPrivilege) as denied:
            connection.execute(statement.encode())
        said = db.wrap(
            denied.value, server="core", doing="trying", connection=connection, reads=True
        )
        assert said.message.startswith(f'server "core", trying, as role "{plain}": ')
        if grant is None:
            assert said.hint == "connect as a role that may, or grant it"
            return
        granted = f"GRANT {grant.format(database=name)} TO {plain}"
        assert said.hint == f'in database "{name}" of server "core": {granted}'
        execute(core, granted)
        if "hidden" in statement:
            with pytest.raises(psycopg.errors.UndefinedTable):
                connection.execute(statement.encode())
        else:
            connection.execute(statement.encode())


@pytest.mark.matrix
def test_status_shows_what_the_other_servers_give(
    bench: Bench, core: str, east: str, owner: str, plain: str
) -> None:
    bench.write({"core": core, "east": east}, TWO)
    bench.apply()
    for lost in ("core", "east"):
        refusing = {"core": core, "east": east}
        refusing[lost] = login(refusing[lost], plain)
        bench.write(refusing, TWO)
        seen = bench.run("status", bench.file, "--output", "json")
        assert seen.code == 1
        error = json.loads(seen.err)["error"]
        assert error["code"] == "PS413"
        assert error["message"].startswith(f'server "{lost}": role "{plain}" may not use schema')
        assert error["hint"].startswith(f'connect as "{owner}"')
        found = json.loads(seen.out)
        by_name = {s["server"]: s for s in found["servers"]}
        assert by_name[lost]["error"] == error["message"]
        assert [s for s in by_name.values() if "error" in s] == [by_name[lost]]
        tables = {s["server"]: (s["tables"], s["rows"]) for s in found["shards"]}
        assert tables.pop(lost) == (0, None)
        assert list(tables.values()) == [(2, 0)]
        text = bench.run("status", bench.file)
        assert text.code == 1
        assert f'error PS413: server "{lost}"' in text.err
        assert ("Last run: not known" in text.out) is (lost == "core")
        assert "Last run: none" not in text.out


def test_no_right_to_postgres_fdw(bench: Bench, core: str, east: str, plain: str) -> None:
    for conninfo in (core, east):
        grant_all(conninfo, plain)
    execute(core, f"ALTER ROLE {plain} CREATEDB")
    bench.write({"core": login(core, plain), "east": login(east, plain)}, TWO)
    name = database_name(core)
    usage = f"GRANT USAGE ON FOREIGN DATA WRAPPER postgres_fdw TO {plain}"
    bench.refuses(
        "apply",
        bench.file,
        "--yes",
        exit_code=4,
        code="PS412",
        message=f'role "{plain}" may not create the extension "postgres_fdw" on server "core"',
        hint=f'as a superuser, in database "{name}": CREATE EXTENSION postgres_fdw; {usage}',
    )
    assert relations(core) == 0
    execute(core, "CREATE EXTENSION postgres_fdw")
    bench.refuses(
        "apply",
        bench.file,
        "--yes",
        exit_code=4,
        code="PS412",
        message=f'role "{plain}" may not use postgres_fdw on server "core"',
        hint=f'in database "{name}" of server "core": {usage}',
    )
    assert relations(core) == 0
    execute(core, usage)


@pytest.mark.needs(logical=True)
def test_no_right_to_replicate_leaves_the_copies_out_and_says_so(
    bench: Bench, core: str, east: str, plain: str
) -> None:
    for conninfo in (core, east):
        grant_all(conninfo, plain)
    execute(
        core,
        f"ALTER ROLE {plain} CREATEDB",
        "CREATE EXTENSION postgres_fdw",
        f"GRANT USAGE ON FOREIGN DATA WRAPPER postgres_fdw TO {plain}",
    )
    bench.write(
        {"core": login(core, plain), "east": login(east, plain)},
        TWO,
        ddl="CREATE TABLE owner (id text PRIMARY KEY);\n"
        "CREATE TABLE item (id text PRIMARY KEY, workspace_id text NOT NULL,\n"
        "  owner_id text REFERENCES owner (id));\n",
        extra="tables: {owner: {kind: reference}}\n",
    )
    notices = json.loads(bench.ok("plan", bench.file, "--output", "json"))["notices"]
    assert (
        f'role "{plain}" may not create a replication slot on the coordinator: '
        f'ALTER ROLE {plain} REPLICATION; server "east" gets no reference tables, and foreign '
        "keys to them are left out there"
    ) in notices
    bench.converges()


# --- databases that do not do ---------------------------------------------------------------------


def test_a_read_only_server(bench: Bench, core: str) -> None:
    bench.write({"core": core})
    name = database_name(core)
    execute(core, f"ALTER DATABASE {name} SET default_transaction_read_only = on")
    for command in (["plan"], ["apply", "--yes"]):
        bench.refuses(
            *command,
            bench.file,
            exit_code=4,
            code="PS167",
            message='server "core" is read-only (default_transaction_read_only = on)',
            hint=f"ALTER DATABASE {name} RESET default_transaction_read_only; "
            "a replica needs its primary's address as dsn",
            file=bench.file,
            line=5,
            path="servers.core",
        )


@pytest.mark.parametrize("encoding", ["LATIN1", "SQL_ASCII"])
def test_another_encoding(bench: Bench, clusters: Clusters, core: str, encoding: str) -> None:
    name = f"bi_{secrets.token_hex(5)}"
    cluster = clusters.get(0)
    with cluster.connect() as connection:
        connection.execute(
            f"CREATE DATABASE {name} TEMPLATE template0 ENCODING '{encoding}' LOCALE 'C'".encode()
        )
    try:
        bench.write({"core": make_conninfo(core, dbname=name)})
        bench.refuses(
            "plan",
            bench.file,
            exit_code=4,
            code="PS161",
            message=f'the database of server "core" has the encoding {encoding}, UTF8 is needed',
            hint="bucket numbers and names are computed over UTF-8; use a UTF8 database",
            file=bench.file,
            line=5,
            path="servers.core",
        )
    finally:
        cluster.drop_database(name)


@pytest.mark.parametrize("encoding", ["LATIN1", "SQL_ASCII"])
def test_another_encoding_of_the_client(
    bench: Bench, core: str, monkeypatch: pytest.MonkeyPatch, encoding: str
) -> None:
    monkeypatch.setenv("PGCLIENTENCODING", encoding)
    bench.write(
        {"core": core},
        {"shard_1": '{server: core, workspaces: [ws1, "мир"]}'},
        ddl="CREATE TABLE item (id text PRIMARY KEY, workspace_id text, имя text);\n",
    )
    bench.converges()
    assert "мир" in bench.ok("workspace", "list", bench.file)
    bench.ok("doctor", bench.file)


def test_a_namespace_that_does_not_exist(bench: Bench, core: str) -> None:
    bench.write({"core": core}, extra='namespace: "my ns"\n')
    bench.refuses(
        "plan",
        bench.file,
        exit_code=4,
        code="PS162",
        message='schema "my ns" does not exist on server "core"',
        hint='CREATE SCHEMA "my ns"',
        file=bench.file,
        line=5,
        path="servers.core",
    )
    execute(core, 'CREATE SCHEMA "my ns"')
    bench.converges()


def test_another_coordinator(bench: Bench, core: str, east: str) -> None:
    bench.write({"core": core, "east": east}, TWO)
    bench.apply()
    bench.write({"core": core, "east": east}, TWO, coordinator="east")
    bench.refuses(
        "plan",
        bench.file,
        exit_code=4,
        code="PS169",
        message='the directory of topology "bad" is on server "core", but the coordinator is '
        '"east" now',
        hint="put `coordinator: core` back: run history, lock and directory live there",
        file=bench.file,
        line=7,
        path="coordinator",
    )


# --- names in the way -----------------------------------------------------------------------------

_RENAME = "RENAME TO …; or choose another shard name"


@pytest.mark.parametrize(
    ("statements", "message", "hint"),
    [
        pytest.param(
            ["CREATE TABLE item_shard_1 (a int)"],
            'table "item_shard_1" exists on server "core" and is not managed by parlant-shard',
            f"ALTER TABLE item_shard_1 {_RENAME}",
            id="table",
        ),
        pytest.param(
            [
                "CREATE EXTENSION postgres_fdw",
                "CREATE SERVER s FOREIGN DATA WRAPPER postgres_fdw",
                "CREATE FOREIGN TABLE item_shard_1 (a int) SERVER s",
            ],
            'foreign table "item_shard_1" exists on server "core" and is not managed by '
            "parlant-shard",
            f"ALTER FOREIGN TABLE item_shard_1 {_RENAME}",
            id="foreign-table",
        ),
        pytest.param(
            ["CREATE VIEW item_shard_1 AS SELECT 1 AS a"],
            'the name "item_shard_1" is taken by a view on server "core"',
            f"ALTER VIEW item_shard_1 {_RENAME}",
            id="view",
        ),
        pytest.param(
            ["CREATE SEQUENCE item_shard_1"],
            'the name "item_shard_1" is taken by a sequence on server "core"',
            f"ALTER SEQUENCE item_shard_1 {_RENAME}",
            id="sequence",
        ),
        pytest.param(
            ["CREATE TYPE item_shard_1 AS ENUM ('a')"],
            'the name "item_shard_1" is taken by a type on server "core"',
            f"ALTER TYPE item_shard_1 {_RENAME}",
            id="type",
        ),
        pytest.param(
            ["CREATE TABLE other (a int)", "CREATE INDEX item_pkey_shard_1 ON other (a)"],
            'the name "item_pkey_shard_1" is taken by an index of table "other" on server "core"',
            f"ALTER INDEX item_pkey_shard_1 {_RENAME}",
            id="index",
        ),
        pytest.param(
            ["CREATE VIEW item_global AS SELECT 1 AS a"],
            'view "item_global" exists on server "core" and is not managed by parlant-shard',
            "ALTER VIEW item_global RENAME TO …",
            id="federated-view",
        ),
        pytest.param(
            ["CREATE TABLE item_global (a int)"],
            'the name "item_global" is taken by a table on server "core"',
            f"ALTER TABLE item_global {_RENAME}",
            id="table-instead-of-view",
        ),
    ],
)
def test_a_name_that_is_taken(
    bench: Bench, core: str, statements: list[str], message: str, hint: str
) -> None:
    execute(core, *statements)
    before = relations(core)
    bench.write({"core": core})
    bench.refuses(
        "apply", bench.file, "--yes", exit_code=4, code="PS222", message=message, hint=hint
    )
    assert relations(core) == before


def test_an_empty_schema_of_our_name_is_used(bench: Bench, core: str) -> None:
    execute(core, "CREATE SCHEMA parlant_shard")
    bench.write({"core": core})
    bench.converges()


def test_names_that_need_quotes_work(bench: Bench, clusters: Clusters, core: str) -> None:
    """Spaces, quotes, letters beyond ASCII, keywords and 63 bytes, in every kind of name."""
    cluster = clusters.get(0)
    name = f'bi "q" {secrets.token_hex(5)}'
    with cluster.connect() as connection:
        connection.execute(
            sql.SQL("CREATE DATABASE {} TEMPLATE template0 ENCODING 'UTF8'").format(
                sql.Identifier(name)
            )
        )
    long, index = "t" * 63, "i" * 63
    workspaces = ["w's", "a b", 'q"q', "ü€", "{1,2}", "back\\slash", "%s", "null", "x" * 300]
    listed = ", ".join(json.dumps(w, ensure_ascii=False) for w in workspaces)
    try:
        conninfo = make_conninfo(core, dbname=name)
        execute(conninfo, 'CREATE SCHEMA "My ns"')
        bench.write(
            {"core": conninfo},
            {"shard_1": f"{{server: core, workspaces: [{listed}]}}"},
            ddl=f"""
                CREATE TYPE "Stä te" AS ENUM ('it''s', 'a "b');
                CREATE TABLE "It em" (id text PRIMARY KEY, "Tenant Id" text NOT NULL,
                  "select" int, "c ""q" "Stä te" DEFAULT 'it''s', "ünï" text);
                CREATE TABLE "{long}" (id text PRIMARY KEY, "it em" text REFERENCES "It em" (id));
                CREATE INDEX "My idx" ON "It em" ("c ""q", "ünï");
                CREATE INDEX "{index}" ON "{long}" ("it em");
            """,
            extra='key: Tenant Id\nnamespace: "My ns"\n',
        )
        bench.apply()
        for number, each in enumerate(workspaces):
            with psycopg.connect(conninfo) as connection:
                connection.execute(
                    'INSERT INTO "My ns"."It em_shard_1" (id, "Tenant Id") VALUES (%s, %s)',
                    [str(number), each],
                )
        found = execute(conninfo, 'SELECT count(*) FROM "My ns"."It em_global"')
        assert found == [(len(workspaces),)]
        bench.ok("workspace", "add", bench.file, 'né "w"')
        bench.apply()
        listing = json.loads(bench.ok("workspace", "list", bench.file, "--output", "json"))
        assert {w["workspace"] for w in listing["workspaces"]} == {*workspaces, 'né "w"'}
    finally:
        cluster.drop_database(name)


# --- the schema -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ddl", "code", "line", "message", "hint"),
    [
        pytest.param(
            "CREATE TABL x (a int);\n",
            "PS201",
            3,
            'PostgreSQL\'s parser says: syntax error at or near "TABL"',
            "correct the statement; `psql -f` on an empty database shows the same message",
            id="syntax",
        ),
        pytest.param(
            "BEGIN;\n",
            "PS202",
            3,
            "BEGIN is refused in a DDL file",
            "remove it: every statement is run on its own",
            id="begin",
        ),
        pytest.param(
            "\nCOMMIT;\n",
            "PS202",
            4,
            "COMMIT is refused in a DDL file",
            "remove it: every statement is run on its own",
            id="commit",
        ),
        pytest.param(
            "\\connect other\n",
            "PS203",
            3,
            '"\\connect" is a command of psql, not SQL',
            "remove the line; the statements are not run by psql",
            id="psql",
        ),
        pytest.param(
            "COPY item FROM STDIN;\na\tb\n\\.\n",
            "PS204",
            3,
            "COPY carries rows, a DDL file holds definitions only",
            "dump with pg_dump --schema-only",
            id="copy",
        ),
    ],
)
def test_a_ddl_file_that_is_refused_unread(
    bench: Bench, ddl: str, code: str, line: int, message: str, hint: str
) -> None:
    bench.write({"core": "host=127.0.0.1 dbname=x"}, ddl=DDL + ddl)
    for command in ("validate", "plan"):
        bench.refuses(
            command,
            bench.file,
            exit_code=4,
            code=code,
            message=message,
            hint=hint,
            file=bench.ddl,
            line=line,
        )


DOCTOR = "`parlant-shard doctor TOPOLOGY --sql FILE` tries every statement"


@pytest.mark.parametrize(
    ("ddl", "line", "message", "hint"),
    [
        pytest.param(
            "\nCREATE TABLE z (\n  workspace_id text,\n  v vektor);\n",
            4,
            'type "vektor" does not exist',
            "",
            id="type",
        ),
        pytest.param(
            "CREATE TABLE z (id text REFERENCES nope (id), workspace_id text);\n",
            3,
            'relation "nope" does not exist',
            "",
            id="relation",
        ),
        pytest.param(
            "GRANT SELECT ON item TO bad_inputs_nobody;\n",
            3,
            'role "bad_inputs_nobody" does not exist',
            'on every server: CREATE ROLE "bad_inputs_nobody"',
            id="role",
        ),
    ],
)
def test_a_statement_that_postgresql_rejects(
    bench: Bench, clusters: Clusters, core: str, ddl: str, line: int, message: str, hint: str
) -> None:
    bench.write({"core": core}, ddl=DDL + ddl)
    bench.refuses(
        "plan",
        bench.file,
        exit_code=4,
        code="PS230",
        message=f"PostgreSQL {clusters.get(0).major} rejects the statement: {message}",
        hint=hint or DOCTOR.replace("FILE", str(bench.ddl)),
        file=bench.ddl,
        line=line,
    )


def test_what_is_not_carried_over_is_noticed(bench: Bench, core: str) -> None:
    bench.write(
        {"core": core},
        ddl=DDL + "CREATE VIEW v AS SELECT 1 AS a;\nCREATE MATERIALIZED VIEW mv AS SELECT 1 AS a;\n"
        "CREATE DOMAIN dom AS text;\n",
    )
    notices = json.loads(bench.ok("plan", bench.file, "--output", "json"))["notices"]
    for what in ('view "v"', 'materialized view "mv"', 'domain "dom"'):
        assert f"{what} of the schema is not carried over" in notices
    bench.converges()


def test_a_column_of_a_domain(bench: Bench, core: str) -> None:
    bench.write(
        {"core": core},
        ddl="CREATE DOMAIN dom AS text;\n"
        "CREATE TABLE item (id dom PRIMARY KEY, workspace_id text NOT NULL);\n",
    )
    bench.refuses(
        "plan",
        bench.file,
        exit_code=4,
        code="PS237",
        message='column "item.id" is of the domain "dom", which is not carried over to the shards',
        hint="use its base type, with a CHECK where the type had one",
    )


@pytest.mark.parametrize(
    ("ddl", "extra", "code", "line", "path", "message", "hint"),
    [
        pytest.param(
            "CREATE TABLE lone (id text PRIMARY KEY);\n",
            "tables:\n  lone: {kind: sharded}\n",
            "PS212",
            10,
            "tables.lone",
            'table "lone" is declared sharded, but has no column "workspace_id" and no foreign '
            "key that leads to it",
            'add the column "workspace_id" to it, or declare it `kind: host` or `kind: reference`',
            id="no-path",
        ),
        pytest.param(
            "CREATE TABLE other (id text PRIMARY KEY, workspace_id text NOT NULL);\n"
            "CREATE TABLE amb (id text PRIMARY KEY, a text NOT NULL REFERENCES item (id),\n"
            "  b text NOT NULL REFERENCES other (id));\n",
            "",
            "PS216",
            None,
            "tables.amb",
            'table "amb" reaches its tenant over more than one foreign key: "a" (to item), '
            '"b" (to other)',
            "say which one names the tenant: tables: {amb: {path: a}}; rows in which they "
            "disagree must be fixed first",
            id="two-paths",
        ),
        pytest.param(
            "",
            "key: tenant_id\n",
            "PS211",
            9,
            "key",
            'no table of the schema has the column "tenant_id"',
            "set `key:` to the column that names the tenant",
            id="no-key",
        ),
        pytest.param(
            "CREATE TABLE other (id text PRIMARY KEY, workspace_id uuid NOT NULL);\n",
            "",
            "PS214",
            None,
            "key",
            'the column "workspace_id" has different types: text: item; uuid: other',
            "give it one type everywhere: foreign keys between them would compare unlike values",
            id="key-types",
        ),
        pytest.param(
            "",
            "tables: {item: {partition: {by: nope, every: 1 month}}}\n",
            "PS139",
            9,
            "tables.item.partition.by",
            'table "item" has no column "nope"',
            "columns: id, workspace_id, at",
            id="no-partition-column",
        ),
        pytest.param(
            "",
            "tables: {item: {partition: {by: id, every: 1 month}}}\n",
            "PS140",
            9,
            "tables.item.partition.by",
            'the partition column "id" of "item" is of type text, not a date, a timestamp, a '
            "bigint or a uuid",
            "columns that fit: at",
            id="partition-column-type",
        ),
        pytest.param(
            "",
            "tables: {item: {partition: {by: at, every: 1 month}}}\n",
            "PS219",
            9,
            "tables.item.partition.by",
            'table "item" cannot be partitioned by "at": "part" references it by (id) alone '
            '(foreign key "part_item_id_fkey")',
            "a key of a partitioned table must contain the control column; drop the foreign key "
            "or leave the table unpartitioned",
            id="partitioned-and-referenced",
        ),
    ],
)
def test_a_schema_that_cannot_be_sharded(
    bench: Bench,
    core: str,
    ddl: str,
    extra: str,
    code: str,
    line: int | None,
    path: str,
    message: str,
    hint: str,
) -> None:
    bench.write({"core": core}, ddl=DDL + ddl, extra=extra)
    bench.refuses(
        "plan",
        bench.file,
        exit_code=4,
        code=code,
        message=message,
        hint=hint,
        file=bench.file,
        line=line,
        path=path,
    )


@pytest.mark.parametrize(
    ("extra", "code", "path", "message", "hint"),
    [
        pytest.param(
            "tables: {item: {partition: {by: nope, every: 1 month}}}\n",
            "PS139",
            "tables.item.partition.by",
            'table "item" has no column "nope"',
            "columns: id, workspace_id, size, item_type, at",
            id="no-partition-column",
        ),
        pytest.param(
            "tables: {item: {partition: {by: item_type, every: 1 month}}}\n",
            "PS140",
            "tables.item.partition.by",
            'the partition column "item_type" of "item" is of type varchar, not a date, a '
            "timestamp, a bigint or a uuid",
            "columns that fit: at",
            id="partition-column-type",
        ),
        pytest.param(
            "tables: {items: {kind: reference}}\n",
            "PS138",
            "tables.items",
            'the schema has no table "items"',
            'did you mean "item"?',
            id="no-table",
        ),
        pytest.param(
            "tables: {part: {path: nope}}\n",
            "PS139",
            "tables.part.path",
            'table "part" has no column "nope"',
            "columns: id, item_id",
            id="no-column-of-a-path",
        ),
        pytest.param(
            "tables: {part: {path: id}}\n",
            "PS146",
            "tables.part.path",
            'column "id" of "part" has no foreign key',
            "columns with one: item_id",
            id="path-without-a-foreign-key",
        ),
        pytest.param(
            "indexes: {x_idx: {on: nope, columns: [id]}}\n",
            "PS138",
            "indexes.x_idx.on",
            'the schema has no table "nope"',
            "tables: item, part",
            id="no-table-of-an-index",
        ),
        pytest.param(
            "indexes: {x_idx: {on: item, columns: [nope desc]}}\n",
            "PS139",
            "indexes.x_idx.columns.0",
            'table "item" has no column "nope"',
            "columns: id, workspace_id, size, item_type, at",
            id="no-column-of-an-index",
        ),
        pytest.param(
            "indexes: {x_idx: {on: item, columns: [id], include: [sise]}}\n",
            "PS139",
            "indexes.x_idx.include.0",
            'table "item" has no column "sise"',
            'did you mean "size"?',
            id="no-included-column",
        ),
        pytest.param(
            "indexes: {x_idx: {on: item, columns: [id], window: 30 days, by: item_type}}\n",
            "PS140",
            "indexes.x_idx.by",
            'the window column "item_type" of "item" is of type varchar, not a date or a timestamp',
            "columns that fit: at",
            id="window-column-type",
        ),
        pytest.param(
            "routing: [{tables: [itm], read: replica}]\n",
            "PS138",
            "routing.0.tables.0",
            'the schema has no table "itm"',
            'did you mean "item"?',
            id="no-table-of-a-rule",
        ),
        pytest.param(
            "indexes: {item_at_idx: {on: item, columns: [at]}}\n",
            "PS141",
            "indexes.item_at_idx",
            '"item_at_idx_shard_1" would be the name of index "item_at_idx" of the topology on '
            'shard "shard_1" and of index "item_at_idx" on shard "shard_1"',
            "rename the shard or the index",
            id="an-index-that-is-there",
        ),
    ],
)
def test_a_live_schema_that_the_topology_does_not_fit(
    bench: Bench, core: str, extra: str, code: str, path: str, message: str, hint: str
) -> None:
    """What `plan` says of a live schema is what it says of the same schema in files."""
    ddl = DDL.replace(" at ", " size bigint, item_type varchar(20), at ")
    ddl += "CREATE INDEX item_at_idx ON item (at);\n"
    execute(core, *ddl.splitlines())
    for schema in ("{files: [schema.sql]}", "{from: core}"):
        bench.write({"core": core}, schema=schema, ddl=ddl, extra=extra)
        bench.refuses(
            "plan",
            bench.file,
            exit_code=4,
            code=code,
            message=message,
            hint=hint,
            file=bench.file,
            line=9,
            path=path,
        )


def test_shard_names_that_collide(bench: Bench) -> None:
    bench.write(
        {"core": f"host=127.0.0.1 dbname=x password={PASSWORD}"},
        {"a_b": "{server: core, workspaces: [ws1]}", "b": "{server: core, workspaces: [ws2]}"},
        ddl=DDL + "CREATE TABLE item_a (id text PRIMARY KEY, workspace_id text NOT NULL);\n",
    )
    bench.refuses(
        "validate",
        bench.file,
        exit_code=4,
        code="PS141",
        message='"item_a_b" would be the name of table "item" on shard "a_b" and of table '
        '"item_a" on shard "b"',
        hint="rename the shard or the index",
        file=bench.file,
        line=9,
        path="shards.b",
    )


# --- rows -----------------------------------------------------------------------------------------

_PURGE = (
    "only an empty workspace can change its shard by an edit of the file, rows have to be moved "
    "or purged first"
)


@pytest.mark.parametrize(
    ("shards", "line", "shard", "but"),
    [
        pytest.param(
            {
                "shard_1": "{server: core, workspaces: [ws2]}",
                "shard_2": "{server: core, workspaces: [ws1]}",
            },
            9,
            "shard_2",
            'the topology now places it on shard "shard_2"',
            id="placed-elsewhere",
        ),
        pytest.param(
            {"shard_1": "{server: core, workspaces: [ws2]}"},
            8,
            "shard_1",
            "the topology names it no more",
            id="named-no-more",
        ),
        pytest.param(
            {"shard_2": "{server: core, workspaces: [ws1]}"},
            8,
            "shard_2",
            'the topology now places it on shard "shard_2"',
            id="shard-removed",
        ),
    ],
)
def test_rows_that_would_be_stranded(
    bench: Bench, core: str, shards: dict[str, str], line: int, shard: str, but: str
) -> None:
    bench.write({"core": core})
    bench.apply()
    execute(core, "INSERT INTO item_shard_1 VALUES ('a', 'ws1', now())")
    bench.write({"core": core}, shards)
    bench.refuses(
        "apply",
        bench.file,
        "--yes",
        "--allow",
        "deletes-data",
        "--allow",
        "drops-object",
        exit_code=4,
        code="PS306",
        message=f'workspace "ws1" still has rows in "item_shard_1" on shard "shard_1", but {but}',
        hint=f'put "ws1" back under shard "shard_1"; {_PURGE}',
        file=bench.file,
        line=line,
        path=f"shards.{shard}",
    )
    assert execute(core, "SELECT count(*) FROM item_shard_1") == [(1,)]


def test_a_shard_with_rows_on_another_server(bench: Bench, core: str, east: str) -> None:
    bench.write({"core": core, "east": east}, TWO)
    bench.apply()
    execute(east, "INSERT INTO item_shard_2 VALUES ('a', 'acme', now())")
    bench.write(
        {"core": core, "east": east}, {**ONE, "shard_2": "{server: core, workspaces: [acme]}"}
    )
    bench.refuses(
        "plan",
        bench.file,
        exit_code=4,
        code="PS225",
        message='shard "shard_2" still has rows in "item_shard_2" on server "east", but the '
        'topology puts it on server "core"',
        hint='put the shard back on "east", add a new shard on "core" and move the workspaces '
        "there one by one",
        file=bench.file,
        line=10,
        path="shards.shard_2.server",
    )


def test_a_server_that_is_removed_with_its_shards(bench: Bench, core: str, east: str) -> None:
    bench.write({"core": core, "east": east}, TWO)
    bench.apply()
    bench.write({"core": core})
    bench.refuses(
        "plan",
        bench.file,
        exit_code=4,
        code="PS165",
        message='server "east" is gone from the topology, but shard "shard_2" is still on it',
        hint='list server "east" again, take its shards out of the topology, apply, and remove '
        "the server then",
        file=bench.file,
        line=4,
        path="servers",
    )


def test_a_drop_that_nobody_allowed(bench: Bench, core: str) -> None:
    bench.write({"core": core}, {**ONE, "shard_2": "{server: core, workspaces: [acme]}"}, ddl=LONE)
    bench.apply()
    execute(core, "INSERT INTO item_shard_2 VALUES ('a', 'acme', now())")
    bench.write({"core": core}, ddl=LONE)
    both = "look at the plan; if it is what you want: --allow deletes-data --allow drops-object"
    bench.refuses(
        "apply",
        bench.file,
        "--yes",
        exit_code=8,
        code="PS503",
        message="1 step would delete data and drop an object, first of all: "
        'drop table "item_shard_2" with its rows',
        hint=both,
    )
    bench.refuses(
        "apply",
        bench.file,
        "--yes",
        "--allow",
        "drops-object",
        exit_code=8,
        code="PS503",
        message='1 step would delete data, first of all: drop table "item_shard_2" with its rows',
        hint=both,
    )
    assert execute(core, "SELECT count(*) FROM item_shard_2") == [(1,)]
    bench.converges("--allow", "drops-object", "--allow", "deletes-data")


# --- plans ----------------------------------------------------------------------------------------


def test_apply_asks(bench: Bench, core: str) -> None:
    bench.write({"core": core})
    bench.refuses(
        "apply",
        bench.file,
        exit_code=64,
        code="PS900",
        message="apply asks before it changes anything: add --yes",
        hint=SEE_HELP,
    )
    assert relations(core) == 0


@pytest.fixture
def saved(bench: Bench, core: str) -> Path:
    """Give a saved plan for one more workspace."""
    bench.write({"core": core})
    bench.apply()
    bench.write({"core": core}, MORE)
    plan = bench.directory / "plan.json"
    bench.ok("plan", bench.file, "-o", plan)
    assert PASSWORD not in plan.read_text()
    return plan


def _new_plan(bench: Bench) -> str:
    return (
        f"make a new plan and look at it: `parlant-shard plan {bench.file} -o PLAN.json`, then "
        "`parlant-shard apply PLAN.json`"
    )


def test_a_plan_whose_topology_changed(bench: Bench, saved: Path) -> None:
    with bench.file.open("a") as file:
        file.write("# a remark\n")
    bench.refuses(
        "apply",
        saved,
        "--yes",
        exit_code=7,
        code="PS502",
        message=f'the topology file "{bench.file}" changed since the plan was made',
        hint=_new_plan(bench),
    )


def test_a_plan_whose_servers_changed(bench: Bench, core: str, saved: Path) -> None:
    execute(core, "CREATE INDEX somebody_was_here ON item_shard_1 (at)")
    bench.refuses(
        "apply",
        saved,
        "--yes",
        exit_code=7,
        code="PS502",
        message="the servers changed since the plan was made",
        hint=_new_plan(bench),
    )


def test_a_plan_that_was_edited(bench: Bench, core: str, saved: Path) -> None:
    data = json.loads(saved.read_text())
    data["steps"][0]["sql"] = ["DROP TABLE public.part_shard_1"]
    saved.write_text(json.dumps(data))
    seen = bench.run("apply", saved, "--yes", "--output", "json")
    assert (seen.code, json.loads(seen.err)["error"]["code"]) == (7, "PS502")
    assert execute(core, "SELECT count(*) FROM part_shard_1") == [(0,)]


@pytest.mark.parametrize(
    ("text", "code", "message", "hint"),
    [
        (
            "garbage",
            "PS152",
            '"{}" is no plan of parlant-shard',
            "make one with `parlant-shard plan TOPOLOGY -o PLAN.json`",
        ),
        (
            "[]",
            "PS152",
            '"{}" is no plan of parlant-shard',
            "make one with `parlant-shard plan TOPOLOGY -o PLAN.json`",
        ),
        (
            '{"format_version": 1}',
            "PS152",
            '"{}" is no plan of parlant-shard',
            "make one with `parlant-shard plan TOPOLOGY -o PLAN.json`",
        ),
        (
            '{"format_version": 2}',
            "PS153",
            'plan "{}" has the format 2, this release knows 1',
            "make a new plan with this release",
        ),
    ],
)
def test_a_file_that_is_no_plan(
    bench: Bench, text: str, code: str, message: str, hint: str
) -> None:
    plan = bench.directory / "plan.json"
    plan.write_text(text)
    bench.refuses(
        "apply",
        plan,
        "--yes",
        exit_code=4,
        code=code,
        message=message.replace("{}", str(plan)),
        hint=hint,
    )


def test_no_plan_file(bench: Bench) -> None:
    plan = bench.directory / "plan.json"
    bench.refuses(
        "apply",
        plan,
        "--yes",
        exit_code=4,
        code="PS151",
        message=f'"{plan}" does not exist',
        hint="name a topology or a saved plan",
    )
    plan.mkdir()
    bench.refuses(
        "apply",
        plan,
        "--yes",
        exit_code=4,
        code="PS151",
        message=f'"{plan}" cannot be read: is a directory',
        hint="look at the path and its permissions",
    )


def test_a_plan_that_cannot_be_saved(bench: Bench, core: str) -> None:
    bench.write({"core": core})
    target = bench.directory / "missing" / "plan.json"
    seen = bench.run("plan", bench.file, "-o", target, "--output", "json")
    error = json.loads(seen.err.splitlines()[-1])["error"]
    assert error["message"] == f'"{target}" cannot be written: no such file or directory'
    assert error["hint"]
    assert seen.code in {1, 4}


# --- while it runs --------------------------------------------------------------------------------


def test_another_run_holds_the_lock(bench: Bench, core: str) -> None:
    bench.write({"core": core})
    key = "parlant-shard bad"
    with psycopg.connect(core, autocommit=True) as holder:
        holder.execute("SELECT pg_advisory_lock(hashtextextended(%s, 0))", [key])
        row = holder.execute(
            "SELECT to_char(backend_start, 'YYYY-MM-DD HH24:MI:SS') FROM pg_stat_activity "
            "WHERE pid = pg_backend_pid()"
        ).fetchone()
        assert row is not None
        bench.refuses(
            "apply",
            bench.file,
            "--yes",
            exit_code=6,
            code="PS501",
            message='another run holds the lock of topology "bad" '
            f"(pid {holder.info.backend_pid} on the coordinator, since {row[0]} UTC)",
            hint="wait for it, or look at `parlant-shard status`; nothing was changed",
        )
        before = bench.file.read_bytes()
        holder.execute("SELECT 1")  # a beat, or it would soon be taken for dead
        assert bench.run("workspace", "add", bench.file, "new").code == 6
        assert bench.file.read_bytes() == before
    assert relations(core) == 0


def test_a_table_that_somebody_writes_to(
    bench: Bench, core: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("parlant_shard.executor.PATIENCE", 0.5)
    bench.write({"core": core})
    bench.apply()
    bench.write({"core": core}, MORE)
    with psycopg.connect(core) as writer:
        writer.execute("INSERT INTO item_shard_1 VALUES ('a', 'ws1', now())")
        seen = bench.run("apply", bench.file, "--yes", "--output", "json")
        error = json.loads(seen.err.splitlines()[-1])["error"]
        assert (seen.code, seen.out, error["code"]) == (1, "", "PS510")
        assert 'add check "item_shard_1_workspace_check_new" to "item_shard_1"' in error["message"]
        assert "pg_stat_activity" in error["hint"] or "pid" in error["message"]
        assert error["hint"].endswith(RESUMES)
    bench.converges()


def test_a_row_that_does_not_fit(bench: Bench, core: str) -> None:
    bench.write({"core": core}, ddl=LONE)
    bench.apply()
    execute(
        core,
        "ALTER TABLE item_shard_1 DROP CONSTRAINT item_shard_1_workspace_check",
        "INSERT INTO item_shard_1 VALUES ('secret row', 'nobody', now())",
    )
    assert bench.run("apply", bench.file, "--yes").code == 1
    bench.refuses(  # the second and third time
        "apply",
        bench.file,
        "--yes",
        exit_code=1,
        code="PS510",
        message='server "core", validate constraint "item_shard_1_workspace_check" of '
        '"item_shard_1": check constraint "item_shard_1_workspace_check" of relation '
        '"item_shard_1" is violated by some row [23514]',
        hint="some rows do not fit; nothing was lost. Fix or move them, then run the same "
        "command again: it resumes",
    )
    execute(core, "DELETE FROM item_shard_1")
    bench.converges()


def test_an_event_trigger_refuses(bench: Bench, core: str) -> None:
    bench.write({"core": core}, ddl=LONE)
    bench.apply()
    execute(
        core,
        "CREATE FUNCTION no() RETURNS event_trigger LANGUAGE plpgsql AS "
        "$$ BEGIN RAISE 'no DDL at night' USING HINT = 'ask Bob'; END $$",
        "CREATE EVENT TRIGGER no_ddl ON ddl_command_start EXECUTE FUNCTION no()",
    )
    bench.write({"core": core}, MORE, ddl=LONE)
    bench.refuses(
        "apply",
        bench.file,
        "--yes",
        exit_code=1,
        code="PS510",
        message='server "core", add check "item_shard_1_workspace_check_new" to "item_shard_1", '
        "not yet validated: no DDL at night (PL/pgSQL function no() line 1 at RAISE) "
        "[P0001]",
        hint=f"ask Bob; then {RESUMES}",
    )
    execute(core, "DROP EVENT TRIGGER no_ddl")
    bench.converges()


def test_a_scratch_database_of_a_dead_run_is_cleared(
    bench: Bench, clusters: Clusters, core: str
) -> None:
    name = f"parlant_shard_scratch_1600000000_{secrets.token_hex(4)}"
    cluster = clusters.get(0)
    with cluster.connect() as connection:
        connection.execute(f"CREATE DATABASE {name} TEMPLATE template0".encode())
    try:
        bench.write({"core": core})
        bench.ok("plan", bench.file)
        assert execute(core, f"SELECT 1 FROM pg_database WHERE datname = '{name}'") == []
    finally:
        cluster.drop_database(name)


def spawn(*arguments: object) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "parlant_shard", *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(SRC)},
    )


@contextmanager
def writers(conninfos: Iterable[str], tables: Iterable[str]) -> Iterator[None]:
    """Hold what a statement that writes holds, on each table."""
    open_ = [psycopg.connect(c) for c in conninfos]
    try:
        for connection, table in zip(open_, tables, strict=True):
            connection.execute(f"LOCK TABLE {table} IN ROW EXCLUSIVE MODE".encode())
        yield
    finally:
        for connection in open_:
            connection.close()


@pytest.mark.parametrize("servers", [1, 2])
def test_ctrl_c(bench: Bench, core: str, east: str, servers: int) -> None:
    both = {"core": core, "east": east} if servers == 2 else {"core": core}
    grown = {"shard_1": MORE["shard_1"], "shard_2": "{server: east, workspaces: [acme, more]}"}
    bench.write(both, TWO if servers == 2 else ONE)
    bench.apply()
    bench.write(both, grown if servers == 2 else MORE)
    with writers(both.values(), ["item_shard_1", "item_shard_2"][:servers]):
        # A shell without job control starts `pytest &` with SIGINT ignored, which is inherited.
        ours = signal.signal(signal.SIGINT, signal.default_int_handler)
        process = spawn("apply", bench.file, "--yes")
        signal.signal(signal.SIGINT, ours)
        assert process.stderr is not None
        for line in process.stderr:
            if "trying again" in line:
                break
        process.send_signal(signal.SIGINT)
        try:
            out, err = process.communicate(timeout=15)
        finally:
            process.kill()
            process.communicate()  # closes the pipes, or their collection fails a later test
    assert process.returncode == 1
    assert out == ""
    assert err.endswith(
        "error PS901: interrupted\n"
        "  hint: what was done stays; run the same command again: it resumes\n"
    )
    assert "Traceback" not in err
    assert PASSWORD not in err
    bench.apply()


# --- servers of our own ---------------------------------------------------------------------------


@pytest.fixture
def lab() -> Iterator[Path]:
    """Give the directory of a server that a test starts, kills and stops."""
    scratch = scratch_directory()
    yield scratch / "lab"
    local.remove(scratch / "lab")
    scratch.rmdir()


def lab_login(lab: Path) -> str:
    """Give the superuser of an own server the password that must not be printed."""
    conninfo = local.conninfo(lab)
    execute(conninfo, f"CREATE ROLE root SUPERUSER LOGIN PASSWORD '{PASSWORD}'")
    return login(conninfo, "root")


def _sessions(dsn: str) -> list[int]:
    with psycopg.connect(dsn, autocommit=True) as connection:
        rows = connection.execute(
            "SELECT pid FROM pg_stat_activity WHERE backend_type = 'client backend' "
            "AND pid <> pg_backend_pid()"
        ).fetchall()
    return [pid for (pid,) in rows]


def _lives(pid: int) -> bool:
    """Whether a process is there and no zombie that nobody has waited for."""
    try:
        return ") Z " not in Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False


def test_a_server_that_dies_in_the_middle(
    bench: Bench, lab: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = local.up(lab)  # durable: what was committed before the kill must be there after it
    core = lab_login(lab)
    bench.write({"core": core}, ddl=LONE)
    tell = shell.Progress.__call__

    def kill(self: shell.Progress, event: str, step: Any, text: str) -> None:
        tell(self, event, step, text)
        if event == "done" and self.done == 2:
            assert server.pid is not None
            sessions = _sessions(core)
            os.kill(server.pid, signal.SIGKILL)
            while (left := local.status(lab)) is not None and left.running:
                time.sleep(0.01)
            while any(map(_lives, sessions)):  # they may outlive their postmaster for a moment
                time.sleep(0.01)

    with monkeypatch.context() as patched:
        patched.setattr(shell.Progress, "__call__", kill)
        seen = bench.run("apply", bench.file, "--yes", "--output", "json")
    error = json.loads(seen.err.splitlines()[-1])["error"]
    assert (seen.code, seen.out) == (1, "")
    assert error["code"] == "PS512"
    assert error["message"] == (
        f'cannot connect to server "core" at 127.0.0.1:{server.port}: connection refused, '
        'at: create federated view "item_global"'
    )
    assert error["hint"] == "bring the server back, then run the same command again: it resumes"
    bench.refuses(
        "apply",
        bench.file,
        "--yes",
        exit_code=5,
        code="PS401",
        message=f'cannot connect to server "core" at 127.0.0.1:{server.port}: connection refused',
        hint=f"start the server, or correct host and port {WHERE}",
    )
    again = local.up(lab)
    bench.write({"core": make_conninfo(core, port=again.port)}, ddl=LONE)
    assert "resuming an interrupted run" in bench.ok("apply", bench.file, "--yes")
    assert "nothing to do" in bench.ok("plan", bench.file)


@pytest.mark.matrix
def test_a_lock_table_that_is_full(bench: Bench, lab: Path) -> None:
    """Change a parent with many partitions, where locks are few: one message, and it resumes."""
    few = {
        "max_locks_per_transaction": "10",
        "max_connections": "6",
        "superuser_reserved_connections": "0",
        "wal_level": "replica",
        "max_wal_senders": "0",
        "max_worker_processes": "0",
        "max_logical_replication_workers": "0",
        "autovacuum": "off",
        "autovacuum_max_workers": "1",
    }
    many = "tables: {item: {partition: {by: at, every: 1 day, premake: 2}}}\n"
    local.up(lab, durable=False, settings=few)
    core = lab_login(lab)
    bench.write({"core": core}, ddl=LONE, extra=many)
    bench.apply()
    # Made here, because the tool takes longer for them.
    execute(
        core,
        "DO $$ BEGIN FOR n IN 3000..3399 LOOP EXECUTE format('CREATE TABLE far_%s PARTITION OF "
        "item_shard_1 FOR VALUES FROM (''%s-01-01'') TO (''%s-01-01'')', n, n, n + 1); COMMIT; "
        "END LOOP; END $$",
    )
    wider = LONE.replace(" NOT NULL);", " NOT NULL, extra text);")
    bench.write({"core": core}, ddl=wider, extra=many)
    seen = bench.run("apply", bench.file, "--yes", "--output", "json")
    assert seen.code == 1
    error = json.loads(seen.err.splitlines()[-1])["error"]
    assert error["code"] in {"PS405", "PS510"}
    assert error["message"].startswith('server "core", ')
    assert error["message"].endswith("out of shared memory [53200]")
    assert "max_locks_per_transaction" in error["hint"]
    assert "(restart)" in error["hint"]
    assert error["hint"].endswith("run the same command again: it resumes")
    local.down(lab)
    again = local.up(lab, durable=False, settings={"max_locks_per_transaction": "512"})
    bench.write(
        {"core": make_conninfo(core, port=again.port)},
        ddl=wider,
        extra=many,
    )
    bench.converges()


def test_an_autovacuum_that_takes_long_makes_way(bench: Bench, lab: Path) -> None:
    """PostgreSQL stops it for whoever has waited for deadlock_timeout."""
    slow = (
        " NOT NULL) WITH (autovacuum_vacuum_threshold = 1000, autovacuum_vacuum_cost_delay = 100, "
        "autovacuum_vacuum_cost_limit = 1);"
    )
    ddl = LONE.replace(" NOT NULL);", slow)
    local.up(lab, durable=False, settings={"autovacuum_naptime": "1s"})
    core = lab_login(lab)
    bench.write({"core": core}, ddl=ddl)
    bench.apply()
    execute(
        core,
        "INSERT INTO item_shard_1 SELECT i, 'ws1', now() FROM generate_series(1, 100000) i",
        "DELETE FROM item_shard_1 WHERE id::int % 2 = 0",
    )
    works = "SELECT pid FROM pg_stat_progress_vacuum WHERE relid = 'item_shard_1'::regclass"
    deadline = time.monotonic() + 60
    while not execute(core, works):
        assert time.monotonic() < deadline, "no autovacuum began"
        time.sleep(0.1)
    bench.write({"core": core}, ddl=ddl.replace(" NOT NULL) WITH", " NOT NULL, extra text) WITH"))
    bench.converges()


@contextmanager
def small_disk(place: Path, megabytes: int) -> Iterator[Path]:
    """Mount a file system that is soon full; skip where this process may not mount."""
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", str(place)]
    try:
        done = subprocess.run(mount, capture_output=True, text=True, check=False)
        if done.returncode:
            pytest.skip(f"a full disk needs a file system of its own: {done.stderr.strip()}")
        try:
            yield place
        finally:
            subprocess.run(["umount", "--lazy", str(place)], check=True)
    finally:
        place.rmdir()


def test_a_full_disk(bench: Bench, lab: Path) -> None:
    """An index does not fit: the cause and the remedy are said, and the same command goes on."""
    with small_disk(lab.parent / "disk", 16) as disk:
        local.up(lab, durable=False)
        core = lab_login(lab)
        owner = (lab / "data").stat()
        os.chown(disk, owner.st_uid, owner.st_gid)
        (disk / "tables").mkdir()
        os.chown(disk / "tables", owner.st_uid, owner.st_gid)
        execute(
            core,
            f"CREATE TABLESPACE small LOCATION '{disk / 'tables'}'",
            "ALTER ROLE root SET default_tablespace = small",
        )
        bench.write({"core": core}, ddl=LONE)
        bench.apply()
        execute(
            core,
            "INSERT INTO item_shard_1 SELECT i, 'ws1', now() FROM generate_series(1, 30000) i",
        )
        ballast = disk / "ballast"
        left = shutil.disk_usage(disk).free
        ballast.write_bytes(bytes(left))
        bench.write({"core": core}, ddl=LONE + "CREATE INDEX item_at_idx ON item (at, id);\n")
        # Not the schema's fault, in which no line is to be mended.
        seen = bench.run("plan", bench.file)
        assert seen.code == 1
        assert re.search(
            r'PS405: server "core", reading the schema in a scratch database: could not extend '
            r"file .*No space left on device \[53100\]",
            seen.err,
        )
        os.truncate(ballast, left - (1 << 19))  # room for the scratch database's empty tables
        seen = bench.run("apply", bench.file, "--yes")
        assert seen.code == 1
        assert re.search(
            r"PS510.* could not (extend|write to) file .*No space left on device.* \[53100\]",
            seen.err,
        )
        assert f"free disk space on the server, then {RESUMES}" in seen.err
        assert execute(core, "SELECT count(*) FROM item_shard_1") == [(30000,)]
        ballast.unlink()
        bench.converges()
        assert execute(
            core,
            "SELECT i.indisvalid, s.spcname FROM pg_index i "
            "JOIN pg_class c ON c.oid = i.indexrelid "
            "JOIN pg_tablespace s ON s.oid = c.reltablespace "
            "WHERE c.relname = 'item_at_idx_shard_1'",
        ) == [(True, "small")]
        local.down(lab)  # before its disk goes


EMBEDDED = """\
version: 1
name: bad
schema: {files: [schema.sql]}
servers:
  core: {embedded: lab}
coordinator: core
shards: {shard_1: {server: core, workspaces: [ws1]}}
"""


@pytest.fixture
def embedded(bench: Bench) -> Path:
    bench.ddl.write_text(DDL)
    bench.file.write_text(EMBEDDED)
    return bench.directory / "lab"


def test_embedded_binaries_that_are_missing(
    bench: Bench, embedded: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    empty = bench.directory / "empty"
    empty.mkdir()
    monkeypatch.setenv("PARLANT_SHARD_PG_BIN", str(empty))
    for command in (["local", "up"], ["plan"]):
        bench.refuses(
            *command,
            bench.file,
            exit_code=1,
            code="PS420",
            message=f'PARLANT_SHARD_PG_BIN is "{empty}", which does not hold initdb, pg_ctl and '
            "postgres",
            hint="set PARLANT_SHARD_PG_BIN to the `bin` directory of a PostgreSQL server, or "
            "unset it",
        )


def test_an_embedded_directory_that_is_a_file(bench: Bench, embedded: Path) -> None:
    embedded.write_text("not a directory")
    bench.refuses(
        "local",
        "up",
        bench.file,
        exit_code=1,
        code="PS426",
        message=f'cannot use "{embedded}" for a local server: file exists',
        hint="choose another directory",
    )


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs a directory that nobody writes")
def test_an_embedded_directory_that_cannot_be_written(bench: Bench, embedded: Path) -> None:
    bench.file.write_text(EMBEDDED.replace("lab", "/proc/lab"))
    bench.refuses(
        "local",
        "up",
        bench.file,
        exit_code=1,
        code="PS426",
        message='cannot use "/proc/lab" for a local server: no such file or directory',
        hint="choose another directory",
    )


def test_local_down_when_nothing_runs(bench: Bench, embedded: Path) -> None:
    assert bench.ok("local", "down", bench.file) == "core: was not running\n"
    data = json.loads(bench.ok("local", "down", bench.file, "--output", "json"))
    assert data == {"format_version": 1, "stopped": {"core": False}}
    assert not embedded.exists()


def test_local_without_an_embedded_server(bench: Bench) -> None:
    bench.write({"core": f"host=127.0.0.1 dbname=x password={PASSWORD}"})
    bench.refuses(
        "local",
        "up",
        bench.file,
        exit_code=4,
        code="PS154",
        message="the topology has no embedded server",
        hint="a server of the form {embedded: DIRECTORY} is one",
        file=bench.file,
        line=4,
        path="servers",
    )


# --- workspaces -----------------------------------------------------------------------------------


def test_workspace_add_of_what_is_there(bench: Bench) -> None:
    bench.write({"core": f"host=127.0.0.1 dbname=x password={PASSWORD}"})
    bench.refuses(
        "workspace",
        "add",
        bench.file,
        "ws1",
        exit_code=4,
        code="PS320",
        message='workspace "ws1" is on shard "shard_1" already',
        hint="an empty workspace changes its shard by an edit of the file and `apply`; take "
        "one that was purged out of the file and `apply` first",
    )


def test_workspace_add_to_an_unknown_shard(bench: Bench) -> None:
    bench.write({"core": f"host=127.0.0.1 dbname=x password={PASSWORD}"})
    bench.refuses(
        "workspace",
        "add",
        bench.file,
        "new",
        "--to",
        "nope",
        exit_code=4,
        code="PS322",
        message='shard "nope" is not in the topology',
        hint="the topology has: shard_1",
        file=bench.file,
        line=7,
        path="shards",
    )


def test_workspace_list_before_apply(bench: Bench, core: str) -> None:
    bench.write({"core": core})
    bench.refuses(
        "workspace",
        "list",
        bench.file,
        exit_code=1,
        code="PS520",
        message='topology "bad" has not been applied yet',
        hint=f"run `parlant-shard apply {bench.file}` first",
    )


def test_workspace_show_of_nobody(bench: Bench, core: str) -> None:
    bench.write({"core": core})
    bench.apply()
    bench.refuses(
        "workspace",
        "show",
        bench.file,
        "nobody",
        exit_code=4,
        code="PS324",
        message='workspace "nobody" is unknown',
        hint="`parlant-shard workspace add` places it",
    )


def test_workspace_add_keeps_comments_and_other_lines(bench: Bench, core: str) -> None:
    bench.write({"core": core}, extra="# the last line\n")
    text = "# the first line\n" + bench.file.read_text()
    bench.file.write_text(text)
    link = bench.directory / "link.yaml"
    link.symlink_to(bench.file.name)
    bench.apply()
    assert bench.ok("workspace", "add", link, "new") == "workspace new is on shard shard_1\n"
    assert link.is_symlink()
    assert bench.file.read_text() == text.replace("[ws1, ws2]", "[ws1, ws2, new]")
    bench.apply()


def test_workspace_add_restores_the_file_where_nothing_was_begun(bench: Bench, core: str) -> None:
    bench.write({"core": core})
    bench.apply()
    execute(core, f"ALTER DATABASE {database_name(core)} SET default_transaction_read_only = on")
    before = bench.file.read_bytes()
    assert bench.run("workspace", "add", bench.file, "new").code == 4
    assert bench.file.read_bytes() == before
    assert [p.name for p in bench.directory.iterdir() if p.name.startswith(".")] == []


def test_workspace_add_to_a_file_that_cannot_be_written(
    bench: Bench, core: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.write({"core": core})
    bench.apply()
    before = bench.file.read_bytes()

    def refuse(*_args: object, **_options: object) -> None:
        raise PermissionError(13, "Permission denied", str(bench.file))

    monkeypatch.setattr(workspace.tempfile, "mkstemp", refuse)
    bench.refuses(
        "workspace",
        "add",
        bench.file,
        "new",
        exit_code=1,
        code="PS902",
        message=f'the operating system refused "{bench.file}": permission denied',
        hint="look at the path, its permissions and the free space",
    )
    assert bench.file.read_bytes() == before
