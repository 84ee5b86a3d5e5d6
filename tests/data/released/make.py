"""Make the snapshot of a release: what upgrades are tested from (tests/server/test_upgrade.py).

    git checkout v0.1.0
    PARLANT_SHARD_PG_BIN=/usr/lib/postgresql/15/bin python tests/data/released/make.py 0.1.0

Run it once for a release, on the code of that release: a snapshot that a later release makes says
nothing. It needs the binaries of the oldest PostgreSQL that the release supports, with `pg_dump`
(the dump must load on every later major), and Debian's libfaketime, so that no real date gets in.
It writes a directory of the release's name beside itself:

- `topology.yaml` and `schema.sql`, of two servers whose connection strings are `${core}` and
  `${east}`, and `next.yaml`, the same topology after changes;
- `core.sql` and `east.sql`, plain dumps of the two databases: the schema `parlant_shard` and what
  an applied topology looks like, with rows, journal and audit trail. Instead of what belongs to a
  server they say `${core.host}`, `${core.port}`, `${core.dbname}`, `${core.user}` and
  `${core.password}`;
- `map.json`, the stored shard map with its epoch;
- `plan.json`, a saved plan from `topology.yaml` to `next.yaml`;
- `archive/`, archives with their manifests, which `core.sql` and `east.sql` know of;
- `export.tar`, the export of a workspace;
- `facts.json`, how many rows of each workspace there were, and the moment of the last command.

A dump holds no replication slot, and subscriptions that are not enabled. `tests/server/released.py`
makes up for that; it also sets the oids in `parlant_shard.retired`, which are those of other tables
after a dump was loaded.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from datetime import UTC, datetime, tzinfo
from pathlib import Path
from typing import Any
from unittest import mock

import psycopg
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from parlant_shard import __version__, local, maintain, privacy, trail
from parlant_shard.apply import apply
from parlant_shard.cli import run
from parlant_shard.topology import Topology, load_topology

HERE = Path(__file__).parent
FAKETIME = "/usr/lib/x86_64-linux-gnu/faketime/libfaketime.so.1"
SERVERS = ("core", "east")
PORTS = {"core": 29_431, "east": 29_432}  # they are in the saved plan

# When the topology was applied. Retention leads three months back from there.
APPLIED = datetime(2026, 2, 10, 12)
# The partitions of November and December expire; they become files; that of January expires.
MAINTAINED = (datetime(2026, 4, 5, 3), datetime(2026, 4, 13, 3), datetime(2026, 5, 2, 3))

SCHEMA = """\
CREATE TYPE mood AS ENUM ('calm', 'it''s "odd"');
CREATE TABLE account (id text PRIMARY KEY, name text NOT NULL, created_at timestamptz NOT NULL);
CREATE TABLE workspace (
  id text PRIMARY KEY,
  owner_id text NOT NULL REFERENCES account (id),
  name text NOT NULL
);
CREATE TABLE agent (
  id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
  workspace_id text NOT NULL REFERENCES workspace (id),
  name varchar(40) NOT NULL CHECK (length(name) > 1),
  note text,
  UNIQUE (workspace_id, name)
);
CREATE TABLE session (
  id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
  agent_id uuid NOT NULL REFERENCES agent (id) ON DELETE CASCADE,
  title text,
  mood mood NOT NULL DEFAULT 'calm',
  words integer GENERATED ALWAYS AS (length(title)) STORED,
  started_at timestamptz NOT NULL
);
CREATE INDEX session_agent_idx ON session (agent_id, started_at DESC);
CREATE TABLE event (
  id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
  session_id uuid NOT NULL REFERENCES session (id) ON DELETE CASCADE,
  "offset" integer NOT NULL,
  created_at timestamptz NOT NULL DEFAULT now(),
  body jsonb
);
CREATE INDEX event_session_idx ON event (session_id, created_at);
COMMENT ON TABLE event IS 'What was said.';
"""

TOPOLOGY = """\
version: 1
name: released
schema: {files: [schema.sql]}
key: workspace_id
servers:
  core: {dsn: "${core}"}
  east: {dsn: "${east}"}
coordinator: core
shards:
  s1: {server: core, workspaces: [acme, globex]}
  s2: {server: east, workspaces: [initech]}
  s3: {server: east, buckets: 0-4095}
tables:
  account: {kind: reference}
  workspace: {kind: reference}
  agent: {audit: true}
  event:
    partition: {by: created_at, every: 1 month, premake: 2, retention: 3 months, archive: archive/}
indexes:
  event_recent_idx: {on: event, columns: [created_at desc], window: 40 days}
"""

# A column, an index, a foreign key that goes, a workspace more.
NEXT_SCHEMA = SCHEMA.replace("  note text,\n", "  note text,\n  model text DEFAULT 'small',\n")
NEXT = TOPOLOGY.replace("schema.sql", "next.sql").replace("[initech]", "[initech, hooli]") + (
    "  session_title_idx: {on: session, columns: [title]}\n"
)

HOMES = {"acme": "s1", "globex": "s1", "initech": "s2", "umbrella": "s3"}


def main(release: str) -> None:
    """Make the snapshot; refuses to overwrite one, and to make one of another release."""
    target = HERE / release
    if release != __version__:
        sys.exit(f"this is the code of {__version__}, not of {release}")
    if target.exists():
        sys.exit(f'"{target}" exists: a release is what it was')
    target.mkdir()
    with ExitStack() as stack:
        stack.callback(lambda: target.exists() and not any(target.iterdir()) and target.rmdir())
        scratch = Path(tempfile.mkdtemp(prefix="parlant-shard-released-"))
        stack.callback(shutil.rmtree, scratch, ignore_errors=True)
        scratch.chmod(0o711)
        for server in SERVERS:
            stack.callback(local.remove, scratch / server)
        # Of the machine that makes it nothing gets in, and no day but those above.
        stack.enter_context(
            mock.patch.object(trail, "_who", return_value=("operator", "localhost"))
        )
        dsns = _start(scratch, APPLIED)
        stack.enter_context(mock.patch.dict(os.environ, dsns))
        (target / "schema.sql").write_text(SCHEMA, encoding="utf-8")
        (target / "topology.yaml").write_text(TOPOLOGY, encoding="utf-8")
        (target / "next.sql").write_text(NEXT_SCHEMA, encoding="utf-8")
        (target / "next.yaml").write_text(NEXT, encoding="utf-8")
        os.chdir(target)
        _fill(target, dsns)
        for moment in MAINTAINED:
            for server in SERVERS:
                local.down(scratch / server)
            _start(scratch, moment)
            with _clock(moment):
                report = maintain.maintain(load_topology(Path("topology.yaml")), now=moment)
            if report.failures:
                sys.exit(f"maintain failed: {report.failures}")
        with _clock(MAINTAINED[-1]):
            _keep(target, dsns)


def _start(scratch: Path, moment: datetime) -> dict[str, str]:
    """Start the servers at a moment; return their connection strings."""
    faked = {"LD_PRELOAD": FAKETIME, "FAKETIME": f"@{moment}", "FAKETIME_DONT_FAKE_MONOTONIC": "1"}
    found = {}
    for server in SERVERS:
        if not (scratch / server).exists():
            local.up(scratch / server, durable=False)  # it chooses a port
            local.down(scratch / server)
        (scratch / server / "port").write_text(str(PORTS[server]))
        with mock.patch.dict(os.environ, faked):
            # Autovacuum would take what partitions hold for something that changed meanwhile.
            local.up(scratch / server, durable=False, settings={"autovacuum": "off"})
        dsn = local.conninfo(scratch / server)
        with psycopg.connect(dsn, autocommit=True) as connection:
            row = connection.execute(
                "SELECT count(*) FROM pg_database WHERE datname = 'shop'"
            ).fetchone()
            if row is not None and not row[0]:
                connection.execute("CREATE DATABASE shop TEMPLATE template0 ENCODING 'UTF8'")
        found[server] = make_conninfo(dsn, dbname="shop")
    return found


def _clock(moment: datetime) -> ExitStack:
    """Set the clock of this process where it writes the time down."""

    class Fixed(datetime):
        @classmethod
        def now(cls, tz: tzinfo | None = None) -> datetime:
            return moment.replace(tzinfo=tz)

    stack = ExitStack()
    for module in ("executor", "archive.making", "privacy.export"):
        stack.enter_context(mock.patch(f"parlant_shard.{module}.datetime", Fixed))
    seconds = moment.replace(tzinfo=UTC).timestamp()
    stack.enter_context(mock.patch("time.time", return_value=seconds))
    return stack


def _fill(target: Path, dsns: dict[str, str]) -> None:
    topology = load_topology(Path("topology.yaml"))
    with _clock(APPLIED):
        apply(topology)
    with psycopg.connect(dsns["core"], autocommit=True) as core:
        core.execute("INSERT INTO account VALUES ('ann', 'Ann', %s)", [APPLIED])
        for workspace in (*HOMES, "hooli"):
            core.execute(
                "INSERT INTO workspace VALUES (%s, 'ann', %s)", [workspace, workspace.title()]
            )
    with _clock(APPLIED):
        if run(["workspace", "add", "topology.yaml", "umbrella", "--to", "s3"]):
            sys.exit("the workspace could not be added")
    for workspace, shard in HOMES.items():
        with psycopg.connect(dsns[topology.shards[shard].server], autocommit=True) as server:
            _wait(server, "SELECT count(*) = 5 FROM workspace")
            server.execute("SET TimeZone = 'UTC'")
            for statement in _rows(workspace, shard):
                server.execute(statement)


def _wait(connection: psycopg.Connection[Any], question: str) -> None:
    connection.execute("SET statement_timeout = '60s'")
    connection.execute(
        f"DO $$ BEGIN WHILE NOT ({question}) LOOP PERFORM pg_sleep(0.1); COMMIT; END LOOP; END $$"
    )


def _rows(workspace: str, shard: str) -> Iterator[str]:
    """Two agents, six sessions, and an event each fifth day from 2 November to 16 April."""
    made = f"md5('{workspace} ' || n)::uuid"
    yield (
        f"INSERT INTO agent_{shard} (id, workspace_id, name) "
        f"SELECT {made}, '{workspace}', 'agent ' || n FROM generate_series(1, 2) n"
    )
    yield (
        f"INSERT INTO session_{shard} (id, workspace_id, agent_id, title, mood, started_at) "
        f"SELECT md5('{workspace} session ' || n)::uuid, '{workspace}', "
        f"md5('{workspace} ' || 1 + n % 2)::uuid, E'žluťoučký\\t' || n, "
        "CASE n WHEN 3 THEN 'it''s \"odd\"' ELSE 'calm' END::mood, "
        "timestamptz '2025-11-01' + n * interval '1 day' FROM generate_series(1, 6) n"
    )
    yield (
        f'INSERT INTO event_{shard} (id, workspace_id, session_id, "offset", created_at, body) '
        f"SELECT md5('{workspace} event ' || n)::uuid, '{workspace}', "
        f"md5('{workspace} session ' || 1 + n % 6)::uuid, n, "
        "timestamptz '2025-11-02' + n * interval '5 days', "
        "jsonb_build_object('text', E'a\\\\b\\n' || n) FROM generate_series(0, 33) n"
    )
    yield f"UPDATE agent_{shard} SET note = 'old' WHERE name = 'agent 1'"


def _keep(target: Path, dsns: dict[str, str]) -> None:
    topology = load_topology(Path("topology.yaml"))
    counts = _counts(topology, dsns)
    privacy.export(topology, "acme", file=Path("export.tar"))
    if run(["plan", "next.yaml", "-o", "plan.json"]):
        sys.exit("no plan was made")
    with psycopg.connect(dsns["core"], autocommit=True) as core:
        row = core.execute("SELECT epoch, map FROM parlant_shard.map").fetchone()
        assert row is not None
    _write(target / "map.json", {"epoch": row[0], "map": row[1]})
    _write(
        target / "facts.json",
        {
            "release": __version__,
            "last_command": MAINTAINED[-1].isoformat(),
            "rows": counts,
            "files": {p.name: p.stat().st_size for p in sorted(target.glob("archive/*/*/*"))},
        },
    )
    logins = {server: conninfo_to_dict(dsn) for server, dsn in dsns.items()}
    for server, dsn in dsns.items():
        (target / f"{server}.sql").write_text(_portable(_dump(dsn), logins), encoding="utf-8")
    _refuse_secrets(target, logins)


def _write(file: Path, data: dict[str, Any]) -> None:
    file.write_text(json.dumps(data, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def _counts(topology: Topology, dsns: dict[str, str]) -> dict[str, dict[str, int]]:
    """Count the rows of every workspace that are in tables, by logical table."""
    found: dict[str, dict[str, int]] = {}
    for workspace, shard in HOMES.items():
        with psycopg.connect(dsns[topology.shards[shard].server]) as connection:
            for table in ("agent", "session", "event"):
                row = connection.execute(
                    f"SELECT count(*) FROM {table}_{shard} WHERE workspace_id = %s", [workspace]
                ).fetchone()
                assert row is not None
                found.setdefault(workspace, {})[table] = row[0]
    return found


def _dump(dsn: str) -> str:
    login = conninfo_to_dict(dsn)
    command = [str(Path(os.environ[local.PG_BIN]) / "pg_dump"), "--no-owner"]
    command += ["--inserts", "--rows-per-insert=100"]
    command += [f"--{key}={login[key]}" for key in ("host", "port")]
    command += [f"--username={login['user']}", str(login["dbname"])]
    done = subprocess.run(
        command,
        env={**os.environ, "PGPASSWORD": str(login["password"])},
        check=True,
        capture_output=True,
        text=True,
    )
    return done.stdout


def _portable(dump: str, logins: dict[str, dict[str, Any]]) -> str:
    """Put marks in the place of addresses, accounts and passwords; leave psql's commands out."""
    dump = re.sub(r"^\\.*\n", "", dump, flags=re.M)
    dump = re.sub(r"^--.*\n", "", dump, flags=re.M)
    dump = re.sub(r"\n{2,}", "\n", dump)
    statements = []
    for statement in re.split(r"(?<=;\n)", dump):
        text = statement
        for server, login in logins.items():
            port = login["port"]
            if re.search(rf"port( ''?|=''?|=){port}\b", text) or f"_{server} OPTIONS" in text:
                for key in ("host", "port", "dbname", "user"):
                    quote = rf"(\"?{key}\"?(?: '|=''|=|= ''))"
                    text = re.sub(
                        rf"{quote}{re.escape(str(login[key]))}\b", rf"\1${{{server}.{key}}}", text
                    )
            text = text.replace(str(login["password"]), f"${{{server}.password}}")
        if re.match(r"GRANT |REVOKE |CREATE USER MAPPING ", text):
            text = re.sub(r"\b(TO|FROM|FOR) postgres\b", r"\1 CURRENT_USER", text)
        statements.append(text)
    return "".join(statements)


def _refuse_secrets(target: Path, logins: dict[str, dict[str, Any]]) -> None:
    """End with an error where a file holds a password, the machine's name or a path of it."""
    words = [str(login["password"]) for login in logins.values()]
    words += [os.uname().nodename, str(HERE.parents[2])]
    for file in target.rglob("*"):
        if file.is_file():
            content = file.read_bytes()
            for word in words:
                if word.encode() in content:
                    sys.exit(f'"{file.name}" holds what must not get out')


if __name__ == "__main__":
    main(sys.argv[1])
