"""A password is in memory and in user mappings and subscriptions, and is found nowhere else.

Every command runs against a topology with a recognisable password, well and badly; whatever it
says, writes, starts or leaves in a server's log is searched for it.
"""

from __future__ import annotations

import json
import re
import secrets
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest
from protocol import layout
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from parlant_shard import cli, db
from parlant_shard.sqlfiles import queries
from servers import Cluster, Clusters

pytestmark = [pytest.mark.matrix, pytest.mark.needs(superuser=True, logical=True)]

PASSWORD = "Tell'Nobody\\19b3e6 plain"
# What could be recognised of it in whatever quoting.
MARK = "19b3e6"
DDL = """
CREATE TABLE owner (id text PRIMARY KEY);
CREATE TABLE item (
  id uuid PRIMARY KEY DEFAULT gen_random_uuid(), workspace_id text NOT NULL,
  owner_id text REFERENCES owner (id)
);
"""
COMMANDS: tuple[tuple[str, ...], ...] = (
    ("validate", "FILE"),
    ("doctor", "FILE"),
    ("plan", "FILE", "-o", "plan.json"),
    ("apply", "FILE", "--yes"),
    ("plan", "FILE", "-v"),
    ("status", "FILE"),
    ("status", "FILE", "--history"),
    ("maintain", "FILE"),
    ("maintain", "FILE", "--dry-run", "-v"),
    ("route", "FILE", "SELECT * FROM item", "--workspace", "a"),
    ("query", "FILE", "SELECT * FROM item", "--workspace", "b"),
    ("query", "FILE", "SELECT * FROM missing", "--workspace", "b"),
    ("workspace", "list", "FILE"),
    ("workspace", "show", "FILE", "a"),
    ("workspace", "add", "FILE", "fresh", "--to", "s1"),
    ("plan", "FILE", "-o", "plan.json"),
    ("apply", "plan.json", "--yes"),
    ("verify", "FILE"),
    ("monitor", "FILE"),
    ("advise", "FILE"),
    ("forecast", "FILE"),
    ("archive", "list", "FILE"),
    ("archive", "restore", "FILE", "nothing"),
    ("workspace", "export", "FILE", "b", "-o", "b.tar"),
    ("workspace", "purge", "FILE", "b", "--allow", "deletes-data", "--yes"),
    ("export", "FILE", "--format", "json"),
    ("schema",),
)
FILES = {"plan.json", "b.tar"}


class Bench:
    """Runs commands in this process, and keeps all that they say."""

    def __init__(self, directory: Path, clusters: Clusters, capsys: Any) -> None:
        self.directory, self.clusters, self.capsys = directory, clusters, capsys
        self.role = f"secret_{secrets.token_hex(4)}"
        self.said: list[str] = []
        self.exits: dict[tuple[str, ...], int] = {}
        for number in range(min(2, clusters.distinct)):
            with clusters.get(number).connect() as connection:
                # The verifier of the password, so that the test itself leaves no trace of it.
                verifier = connection.pgconn.encrypt_password(
                    PASSWORD.encode(), self.role.encode(), b"scram-sha-256"
                ).decode()
                connection.execute(f"CREATE ROLE {self.role} SUPERUSER LOGIN PASSWORD '{verifier}'")
                connection.execute(f"ALTER ROLE {self.role} SET log_statement = 'all'")
        self.dsns = {
            name: make_conninfo(
                clusters.get(number).new_database("s"), user=self.role, password=PASSWORD
            )
            for number, name in enumerate(("core", "east"))
        }
        (directory / "schema.sql").write_text(DDL)

    def file(self, **changed: str) -> Path:
        """Write the topology, with other connection strings where they are given."""
        what = layout(
            {"s1": ["a"], "s2": ("east", ["b"])}, ddl=DDL, tables={"owner": {"kind": "reference"}}
        )
        document = json.loads(what.text)
        document["name"] = self.role.replace("_", "-")
        for name, dsn in self.dsns.items():
            document["servers"][name] = {"dsn": changed.get(name, dsn)}
            if f"{name}_peer" in changed:
                document["servers"][name]["peer_dsn"] = changed[f"{name}_peer"]
        file = self.directory / "topology.yaml"
        file.write_text(json.dumps(document, indent=1))
        return file

    def run(self, *words: str, file: Path) -> int:
        arguments = [
            str(file) if w == "FILE" else str(self.directory / w) if w in FILES else w
            for w in words
        ]
        self.capsys.readouterr()
        code = int(cli.run(arguments))
        printed = self.capsys.readouterr()
        self.said += [printed.out, printed.err]
        assert MARK not in printed.out, words
        assert MARK not in printed.err, words
        assert "internal error" not in printed.err, (words, printed.err)
        self.exits[words] = code
        return code

    def close(self) -> None:
        self.clusters.drop_databases()
        for number in range(min(2, self.clusters.distinct)):
            with self.clusters.get(number).connect() as connection:
                connection.execute(f"DROP ROLE {self.role}")


@pytest.fixture
def bench(
    tmp_path: Path, clusters: Clusters, capsys: pytest.CaptureFixture[str]
) -> Iterator[Bench]:
    found = Bench(tmp_path, clusters, capsys)
    yield found
    found.close()


@contextmanager
def watched_processes() -> Iterator[list[str]]:
    """Look at the command lines of all processes of this machine, again and again."""
    seen: list[str] = []
    stop = threading.Event()

    def look() -> None:
        while not stop.wait(0.02):
            for path in Path("/proc").glob("[0-9]*/cmdline"):
                try:
                    text = path.read_bytes().decode(errors="replace")
                except OSError:
                    continue  # it ended meanwhile
                if MARK in text:
                    seen.append(text)

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield seen
    finally:
        stop.set()
        thread.join()


def log_of(cluster: Cluster) -> Path | None:
    """The log of an embedded server; other providers keep theirs to themselves."""
    with cluster.connect() as connection:
        row = connection.execute("SHOW data_directory").fetchone()
    assert row is not None
    log = Path(row[0]).parent / "log"
    return log if log.is_file() else None


@pytest.mark.parametrize("options", [(), ("-v",), ("--output", "json")], ids=["", "-v", "json"])
def test_no_command_tells(bench: Bench, clusters: Clusters, options: tuple[str, ...]) -> None:
    logs = [log for n in range(2) if (log := log_of(clusters.get(n))) is not None]
    begin = {log: log.stat().st_size for log in logs}
    good = bench.file()
    with watched_processes() as processes:
        for words in COMMANDS:
            bench.run(*words, *options, file=good)
        wanted = {
            ("query", "FILE", "SELECT * FROM missing", "--workspace", "b", *options): 1,
            ("archive", "restore", "FILE", "nothing", *options): 1,
        }
        # `doctor` may find what it likes about these servers.
        failed = {
            words: code
            for words, code in bench.exits.items()
            if code and words[0] != "doctor" and wanted.get(words) != code
        }
        assert failed == {}
        # What is stored: user mapping and subscription have it, everything else does not.
        with psycopg.connect(bench.dsns["core"], autocommit=True) as connection:
            mapping = connection.execute("SELECT umoptions FROM pg_user_mappings").fetchall()
            assert MARK in str(mapping)
            shown = connection.execute(
                "SELECT row_to_json(a)::text FROM parlant_shard.audit a UNION ALL "
                "SELECT row_to_json(r)::text FROM parlant_shard.run r UNION ALL "
                "SELECT row_to_json(s)::text FROM parlant_shard.step s UNION ALL "
                "SELECT m.map::text FROM parlant_shard.map m UNION ALL "
                "SELECT query FROM pg_stat_activity"
            ).fetchall()
            assert len(shown) > 10
            added = connection.execute(
                "SELECT objects FROM parlant_shard.audit WHERE command = 'workspace add'"
            ).fetchall()
            assert added == [(["fresh"],)]
            assert MARK not in str(shown)
    assert processes == []
    files = [f for f in bench.directory.rglob("*") if f.is_file() and f.name != "topology.yaml"]
    assert any(f.name == "plan.json" for f in files)
    assert not [f for f in files if MARK in f.read_text(errors="replace")]
    # log_statement is all for this role, and still the log has no statement with it.
    for log in logs:
        said = log.read_bytes()[begin[log] :].decode(errors="replace")
        assert "CREATE TABLE" in said
        assert MARK not in said


def test_no_failure_tells(bench: Bench, clusters: Clusters) -> None:
    """Refused, unreachable, misspelt; a publisher that the subscriber cannot reach."""
    logs = [log for n in range(2) if (log := log_of(clusters.get(n))) is not None]
    begin = {log: log.stat().st_size for log in logs}
    dsn = bench.dsns["core"]
    stranger = make_conninfo(dsn, password=f"wrong {MARK}")
    nowhere = make_conninfo(dsn, host="127.0.0.1", port=1)
    elsewhere = make_conninfo(dsn, dbname="missing")
    misspelt = f"host=localhost password={MARK} 'oops"
    ways = [
        ({"core": stranger}, 5),
        ({"east": nowhere}, 5),
        ({"core": elsewhere}, 5),
        ({"core": misspelt}, 4),
        ({"core_peer": nowhere}, 1),
    ]
    for changed, expected in ways:
        file = bench.file(**changed)
        for options in ((), ("-v",), ("--output", "json")):
            commands: tuple[tuple[str, ...], ...] = (
                COMMANDS[3:4] if expected == 1 else (*COMMANDS[:8], *COMMANDS[10:15])
            )
            for words in commands:
                code = bench.run(*words, *options, file=file)
                if words[0] == "apply":
                    assert code == expected, (changed.keys(), bench.said[-1])
    assert any("subscription" in text for text in bench.said)
    for log in logs:
        said = log.read_bytes()[begin[log] :].decode(errors="replace")
        assert "ERROR" in said
        assert MARK not in said


def test_what_repr_and_errors_show() -> None:
    """Values that hold a password do not show it; a driver's message is cleaned of it."""
    from parlant_shard.desired import Peer

    assert MARK not in repr(Peer(options=(), user="u", password=PASSWORD))
    assert db.redact(f"could not: password={MARK} host=x") == "could not: password=*** host=x"
    assert MARK not in db.redact(f"the server said {MARK}", MARK)


def test_tls_settings_reach_the_peers(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, clusters: Clusters
) -> None:
    """From the dsn, and from where libpq finds sslmode besides; a change is a plan."""
    plain = make_conninfo(bench.dsns["core"], sslmode="disable", ssl_min_protocol_version="TLSv1.3")
    assert bench.run("apply", "FILE", "--yes", file=bench.file(core=plain)) == 0
    with psycopg.connect(bench.dsns["east"]) as connection:
        row = connection.execute(
            "SELECT subconninfo FROM pg_subscription WHERE subdbid = (SELECT oid FROM pg_database "
            "WHERE datname = current_database())"
        ).fetchone()
    assert row is not None
    found = conninfo_to_dict(row[0])
    assert (found["sslmode"], found["ssl_min_protocol_version"]) == ("disable", "TLSv1.3")
    monkeypatch.setenv("PGSSLMODE", "allow")
    file = bench.file()
    assert bench.run("plan", "FILE", "--detailed-exitcode", file=file) == 3
    assert bench.run("apply", "FILE", "--yes", file=file) == 0
    with psycopg.connect(bench.dsns["east"]) as connection:
        row = connection.execute("SELECT subconninfo FROM pg_subscription").fetchone()
    assert row is not None
    assert conninfo_to_dict(row[0])["sslmode"] == "allow"
    with psycopg.connect(bench.dsns["core"]) as connection:
        row = connection.execute("SELECT srvoptions FROM pg_foreign_server").fetchone()
    assert row is not None
    assert "sslmode=allow" in row[0]
    assert bench.run("plan", "FILE", "--detailed-exitcode", file=file) == 0


def test_a_role_that_may_not_set_them_is_let_in_by_the_page(
    bench: Bench, clusters: Clusters
) -> None:
    """Nothing is set without the right to; the page's GRANT is enough."""
    page = (Path(__file__).parents[2] / "docs" / "secrets.md").read_text(encoding="utf-8")
    grant = re.findall(r"^```sql\n(.*?);\n```", page, re.MULTILINE | re.DOTALL)[0]
    plain = f"{bench.role}_plain"
    settings = "log_statement", "log_min_error_statement", "log_min_duration_statement"
    with clusters.get(0).connect() as connection:
        connection.execute(f"CREATE ROLE {plain}")
        try:
            found = []
            for allowed in (False, True):
                if allowed:
                    connection.execute(grant.replace("parlant_owner", plain).encode())
                with connection.transaction():
                    connection.execute(f"SET LOCAL SESSION AUTHORIZATION {plain}")
                    rows = connection.execute(queries("secrets")["keep_out_of_logs"]).fetchall()
                    found.append(len(rows))
                    values = [connection.execute(f"SHOW {s}").fetchone() for s in settings]
                connection.execute("RESET SESSION AUTHORIZATION")
            loaded = connection.execute(
                "SELECT FROM pg_settings WHERE name = 'pg_stat_statements.track_utility'"
            ).rowcount
            assert found == [0, 6 + loaded]
            assert values == [("none",), ("panic",), ("-1",)]
        finally:
            connection.execute(f"DROP OWNED BY {plain}")
            connection.execute(f"DROP ROLE {plain}")
