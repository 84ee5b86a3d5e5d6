"""The doctor on real servers: a sound topology, then for each check what breaks exactly that."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import select
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from parlant_shard import cli
from parlant_shard.apply import apply
from parlant_shard.doctor import Finding, Report, Tried, doctor, observe
from parlant_shard.doctor.checks import CHECKS, examine
from parlant_shard.doctor.observe import Link, Observed, Server, is_local
from parlant_shard.doctor.statements import split
from parlant_shard.errors import CannotConnect, SchemaError
from parlant_shard.pooling import Pooling, pooling_of
from parlant_shard.topology import Topology, load_topology
from servers import Cluster, Clusters, MakeDatabases, database_name

pytestmark = pytest.mark.needs(superuser=True)

DATA = Path(__file__).parents[1] / "data"
DDL = """
CREATE TABLE account (id uuid PRIMARY KEY, workspace_id text NOT NULL, name text);
CREATE TABLE item (
  id uuid PRIMARY KEY, workspace_id text NOT NULL, note text,
  account_id uuid NOT NULL REFERENCES account (id)
);
"""
A = "00000000-0000-0000-0000-00000000000a"
B = "00000000-0000-0000-0000-00000000000b"


@pytest.fixture
def lay(tmp_path: Path) -> Callable[..., Topology]:
    """Give a function that writes a topology over databases: core, then east; a shard on each."""

    def write(
        *dsns: str, ddl: str | None = DDL, extra: str = "", servers: str = "", remote: bool = True
    ) -> Topology:
        names = ("core", "east")[: len(dsns)]
        lines = [f'  {n}: {{dsn: "{d}"}}' for n, d in zip(names, dsns, strict=True)]
        homes = names if remote else names[:1]
        shards = [f"  shard_{n}: {{server: {n}, workspaces: [ws_{n}]}}" for n in homes]
        if ddl is not None:
            (tmp_path / "schema.sql").write_text(ddl)
        source = "{preset: parlant}" if ddl is None else "{files: [schema.sql]}"
        file = tmp_path / "topology.yaml"
        file.write_text(
            "\n".join(
                ["version: 1", "name: looked-at", f"schema: {source}", "coordinator: core",
                 "servers:", *lines, servers, "shards:", *shards, extra]
            )
        )  # fmt: skip
        return load_topology(file)

    return write


Lay = Callable[..., Topology]


def run(dsn: str, *statements: str) -> list[Any]:
    """Run statements, each by itself, and return the rows of the last."""
    rows: list[Any] = []
    with psycopg.connect(dsn, autocommit=True) as connection:
        for statement in statements:
            cursor = connection.execute(statement)
            rows = cursor.fetchall() if cursor.description else []
    return rows


def of(report: Report, check: str) -> list[Finding]:
    return [f for f in report.findings if f.check == check]


def only(report: Report, check: str, severity: str) -> Finding:
    """Return the one finding of a check; no other check has an error or a warning."""
    serious = [
        f
        for f in report.findings
        # The way to a container is another machine's, without ssl.
        if f.check == check or (f.severity != "info" and f.check != "cleartext")
    ]
    assert [(f.check, f.severity) for f in serious] == [(check, severity)], serious
    return serious[0]


@pytest.fixture
def role(clusters: Clusters) -> Iterator[str]:
    """Give the name of a role without any privilege, with a password; it is dropped afterwards."""
    name = f"nobody_{secrets.token_hex(4)}"
    with clusters.get(0).connect() as connection:
        connection.execute(f"CREATE ROLE {name} LOGIN PASSWORD 'Geheim-4711'")
    yield name
    clusters.drop_databases()
    with clusters.get(0).connect() as connection:
        connection.execute(f"DROP ROLE {name}")


def login(dsn: str, role: str) -> str:
    return make_conninfo(dsn, user=role, password="Geheim-4711")


# --- sound ----------------------------------------------------------------------------------------


def test_a_sound_topology_is_ok(lay: Lay, make_databases: MakeDatabases) -> None:
    report = doctor(lay(*make_databases(2, clusters=1)))
    assert report.ok
    assert {f.severity for f in report.findings if f.check != "cleartext"} <= {"info"}
    assert [c.name for c in report.checks] == [e.name for e in CHECKS]
    assert all(c.ok for c in report.checks)
    assert report.to_json()["ok"] is True
    assert "statements" not in report.to_json()
    ways = len(of(report, "cleartext"))  # to containers
    assert f"0 errors, {ways} warning{'' if ways == 1 else 's'}" in report.to_text()


@pytest.mark.needs(clusters=2, logical=True)
def test_an_applied_topology_is_ok(lay: Lay, make_databases: MakeDatabases) -> None:
    topology = lay(
        *make_databases(2),
        ddl=None,
        extra="tables: {parlant_event: {partition: {by: created_at, every: 1 month}}}",
    )
    before = doctor(topology)
    assert before.ok, before.to_text()
    apply(topology)
    after = doctor(topology)
    assert after.ok, after.to_text()
    # On TCP without ssl between containers there are warnings about the way there, and no others.
    assert {f.check for f in after.findings if f.severity == "warning"} <= {"cleartext"}
    generation = next(c for c in after.checks if c.name == "schema-generation")
    assert generation.detail == "topology A, core A, east A"


def test_the_command_line(
    lay: Lay, make_databases: MakeDatabases, capsys: pytest.CaptureFixture[str]
) -> None:
    dsns = make_databases(2, clusters=1)
    topology = lay(*dsns)
    assert cli.run(["doctor", str(topology.file), "--output", "json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert set(found) == {"format_version", "ok", "checks", "findings"}
    assert set(found["checks"][0]) == {"name", "ok", "detail"}
    run(dsns[0], f"ALTER DATABASE {database_name(dsns[0])} SET timezone = 'Asia/Tokyo'")
    assert cli.run(["doctor", str(topology.file), "--output", "json"]) == 3
    found = json.loads(capsys.readouterr().out)
    assert found["ok"] is False
    error = next(f for f in found["findings"] if f["severity"] == "error")
    assert set(error) == {"check", "severity", "server", "object", "detail", "hint"}
    assert (error["check"], error["server"]) == ("time-zone", "core")


def test_no_password_is_printed(lay: Lay, make_databases: MakeDatabases, role: str) -> None:
    dsns = [login(d, role) for d in make_databases(2, clusters=1)]
    report = doctor(lay(*dsns))
    assert not report.ok
    assert "Geheim-4711" not in report.to_text() + json.dumps(report.to_json())


# --- servers --------------------------------------------------------------------------------------


def closed_port() -> int:
    with contextlib.closing(socket.socket()) as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def test_reachable(lay: Lay, make_databases: MakeDatabases) -> None:
    first, second = make_databases(2, clusters=1)
    gone = make_conninfo(second, host="127.0.0.1", port=closed_port(), password="Geheim-4711")
    run(first, f"ALTER DATABASE {database_name(first)} SET constraint_exclusion = off")
    report = doctor(lay(first, gone))
    found = of(report, "reachable")
    assert [(f.server, f.severity) for f in found] == [("east", "error")]
    assert "Geheim-4711" not in report.to_text()
    # The other server is examined all the same.
    assert [f.server for f in of(report, "constraint_exclusion")] == ["core"]
    with pytest.raises(CannotConnect):
        doctor(lay(gone))


def test_same_database(lay: Lay, database: str) -> None:
    # The name is not looked up: the number goes before it.
    other = make_conninfo(database, host="other.example", hostaddr=_address(database))
    report = doctor(lay(database, other))
    finding = only(report, "same-database", "error")
    assert 'same database as server "core"' in finding.detail


def _address(dsn: str) -> str:
    with psycopg.connect(dsn) as connection:
        return connection.info.hostaddr


def test_time_zone_of_the_database(lay: Lay, database: str) -> None:
    name = database_name(database)
    run(database, f"ALTER DATABASE {name} SET timezone = 'Europe/Berlin'")
    finding = only(doctor(lay(database)), "time-zone", "error")
    assert finding.hint == f"ALTER DATABASE {name} SET timezone = 'UTC'"
    run(database, finding.hint)
    assert doctor(lay(database)).ok


def test_time_zone_of_a_role(lay: Lay, database: str, role: str) -> None:
    name = database_name(database)
    run(database, f"ALTER ROLE {role} IN DATABASE {name} SET timezone = 'Europe/Berlin'")
    finding = only(doctor(lay(database)), "time-zone", "warning")
    assert finding.hint == f"ALTER ROLE {role} IN DATABASE {name} RESET timezone"
    run(database, finding.hint)
    assert not of(doctor(lay(database)), "time-zone")


def test_time_zone_that_we_send(lay: Lay, database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    run(database, f"ALTER DATABASE {database_name(database)} SET timezone = 'Europe/Berlin'")
    monkeypatch.setenv("PGTZ", "UTC")
    assert "cannot be seen" in of(doctor(lay(database)), "time-zone")[0].detail


def test_encoding(lay: Lay, clusters: Clusters) -> None:
    cluster = clusters.get(0)
    dsn = cluster.new_database()
    with cluster.connect() as connection:
        name = sql.Identifier(database_name(dsn))
        connection.execute(sql.SQL("DROP DATABASE {}").format(name))
        connection.execute(
            sql.SQL("CREATE DATABASE {} TEMPLATE template0 ENCODING 'LATIN1' LOCALE 'C'").format(
                name
            )
        )
    finding = only(doctor(lay(dsn)), "encoding", "error")
    assert "LATIN1" in finding.detail


def test_read_only(lay: Lay, database: str) -> None:
    run(
        database, f"ALTER DATABASE {database_name(database)} SET default_transaction_read_only = on"
    )
    assert only(doctor(lay(database)), "read-only", "error").server == "core"


def test_constraint_exclusion(lay: Lay, database: str) -> None:
    run(database, f"ALTER DATABASE {database_name(database)} SET constraint_exclusion = off")
    finding = only(doctor(lay(database)), "constraint_exclusion", "error")
    assert finding.hint is not None
    run(database, finding.hint)
    assert doctor(lay(database)).ok


def test_secrets(lay: Lay, make_databases: MakeDatabases) -> None:
    first, second = make_databases(2, clusters=1)
    run(first, f"ALTER DATABASE {database_name(first)} SET log_statement = 'ddl'")
    finding = only(doctor(lay(first, second)), "secrets", "warning")
    assert "CREATE USER MAPPING" in finding.detail
    # Alone, a server needs no such statement.
    assert not of(doctor(lay(first)), "secrets")


# --- privileges -----------------------------------------------------------------------------------


def test_privileges_of_nobody(lay: Lay, make_databases: MakeDatabases, role: str) -> None:
    dsns = make_databases(2, clusters=1)
    for dsn in dsns:
        run(
            dsn,
            "REVOKE ALL ON SCHEMA public FROM PUBLIC",
            f"GRANT USAGE ON SCHEMA public TO {role}",
        )
    topology = lay(
        *(login(d, role) for d in dsns),
        ddl=None,
        extra="isolation: {rls: true, role: dr_application}",
    )
    found = of(doctor(topology), "privileges")
    said = {(f.server, f.severity, f.hint) for f in found}
    user = role
    name = database_name(dsns[0])
    assert ("core", "error", f"GRANT CREATE ON DATABASE {name} TO {user}") in said
    assert ("core", "error", f"GRANT CREATE ON SCHEMA public TO {user}") in said
    assert ("east", "error", "CREATE ROLE dr_application NOLOGIN NOBYPASSRLS") in said
    assert ("core", "warning", f"ALTER ROLE {user} REPLICATION") in said
    assert any(f.server == "core" and "postgres_fdw" in f.detail for f in found)
    assert any(f.server == "east" and "subscription" in f.detail for f in found)
    assert any("scratch database" in f.detail for f in found)


def test_privileges_that_suffice(lay: Lay, database: str, role: str) -> None:
    run(
        database,
        f"GRANT CREATE ON DATABASE {database_name(database)} TO {role}",
        f"GRANT CREATE ON SCHEMA public TO {role}",
        f"ALTER ROLE {role} CREATEDB",
    )
    assert not of(doctor(lay(login(database, role))), "privileges")


def test_ownership(lay: Lay, database: str, role: str) -> None:
    topology = lay(database)
    apply(topology)
    run(
        database,
        f"GRANT CREATE ON DATABASE {database_name(database)} TO {role}",
        f"GRANT CREATE ON SCHEMA public TO {role}",
        f"ALTER ROLE {role} CREATEDB",
    )
    found = of(doctor(lay(login(database, role))), "privileges")
    # Without a look into our schema nothing is known, and that is said.
    assert [f.severity for f in found] == ["warning"]
    assert "permission denied for schema parlant_shard" in found[0].detail
    run(
        database,
        f"GRANT USAGE ON SCHEMA parlant_shard TO {role}",
        f"GRANT SELECT ON ALL TABLES IN SCHEMA parlant_shard TO {role}",
    )
    found = of(doctor(lay(login(database, role))), "privileges")
    assert [(f.severity, f.object) for f in found] == [("error", "account_shard_core")]


def test_peer_without_a_password(
    lay: Lay, make_databases: MakeDatabases, role: str, observed: Callable[[Topology], Observed]
) -> None:
    first, second = make_databases(2, clusters=1)
    seen = observed(lay(login(first, role), login(second, role)))
    for name, server in seen.servers.items():  # whatever the test server's pg_hba.conf says
        seen = change(seen, name, link=replace(server.link, trusted=False))
    assert not [f for f in judged(seen) if f.check == "peer"]
    bare = change(seen, "east", peer=replace(seen.servers["east"].peer, password=None))
    finding = next(f for f in judged(bare) if f.check == "peer")
    assert (finding.server, finding.severity) == ("east", "error")
    assert "no superuser, so postgres_fdw needs a password" in finding.detail
    link = replace(seen.servers["east"].link, trusted=True)
    finding = next(f for f in judged(change(seen, "east", link=link)) if f.check == "peer")
    assert finding.object == "pg_hba.conf"


# --- what a database holds ------------------------------------------------------------------------


def failed_index(dsn: str) -> None:
    """Leave an INVALID index behind, as a unique one over rows that are not."""
    run(dsn, "CREATE TABLE twice (a int)", "INSERT INTO twice VALUES (1), (1)")
    with pytest.raises(psycopg.errors.UniqueViolation):
        run(dsn, "CREATE UNIQUE INDEX CONCURRENTLY twice_a_idx ON twice (a)")


def test_invalid_index(lay: Lay, database: str) -> None:
    failed_index(database)
    finding = only(doctor(lay(database)), "invalid-indexes", "error")
    assert finding.object == "twice_a_idx"
    assert finding.hint == "DROP INDEX CONCURRENTLY public.twice_a_idx, and create it again"
    run(database, finding.hint.partition(",")[0])
    assert doctor(lay(database)).ok


def test_leftover_of_a_reindex(lay: Lay, database: str) -> None:
    run(
        database,
        "CREATE TABLE twice (a int)",
        "CREATE UNIQUE INDEX twice_a_idx ON twice (a)",
        "INSERT INTO twice VALUES (1)",
        "UPDATE pg_index SET indisunique = false WHERE indexrelid = 'twice_a_idx'::regclass",
        "INSERT INTO twice VALUES (1)",
        "UPDATE pg_index SET indisunique = true WHERE indexrelid = 'twice_a_idx'::regclass",
    )
    with pytest.raises(psycopg.errors.UniqueViolation):
        run(database, "REINDEX INDEX CONCURRENTLY twice_a_idx")
    finding = only(doctor(lay(database)), "invalid-indexes", "warning")
    assert finding.hint == "DROP INDEX CONCURRENTLY public.twice_a_idx_ccnew"
    run(database, finding.hint)
    assert doctor(lay(database)).ok


PARTED = (
    "CREATE TABLE parted (a int) PARTITION BY RANGE (a)",
    "CREATE TABLE parted_1 PARTITION OF parted FOR VALUES FROM (0) TO (10)",
    "CREATE TABLE parted_2 PARTITION OF parted FOR VALUES FROM (10) TO (20)",
)


def test_invalid_index_of_a_partitioned_table(lay: Lay, database: str) -> None:
    run(
        database,
        *PARTED,
        "CREATE INDEX parted_ix ON ONLY parted (a)",
        "CREATE INDEX parted_1_ix ON parted_1 (a)",
        "ALTER INDEX parted_ix ATTACH PARTITION parted_1_ix",
    )
    finding = only(doctor(lay(database)), "invalid-indexes", "error")
    assert finding.object == "parted_ix"
    assert finding.detail.endswith("these partitions lack a valid one: parted_2")


def test_pending_detach(lay: Lay, database: str) -> None:
    run(database, *PARTED, "INSERT INTO parted VALUES (1)")
    with psycopg.connect(database) as reader:
        reader.execute("SELECT * FROM parted").fetchall()  # keeps its lock while it is open
        with pytest.raises(psycopg.errors.QueryCanceled):
            run(
                database,
                "SET statement_timeout = '500ms'",
                "ALTER TABLE parted DETACH PARTITION parted_1 CONCURRENTLY",
            )
    finding = only(doctor(lay(database)), "pending-detach", "warning")
    assert finding.hint == "ALTER TABLE public.parted DETACH PARTITION public.parted_1 FINALIZE"
    run(database, finding.hint)
    assert not of(doctor(lay(database)), "pending-detach")


def test_not_validated(lay: Lay, database: str) -> None:
    run(
        database,
        "CREATE TABLE checked (a int)",
        "ALTER TABLE checked ADD CONSTRAINT positive CHECK (a > 0) NOT VALID",
    )
    finding = only(doctor(lay(database)), "not-validated", "warning")
    assert finding.hint == "ALTER TABLE public.checked VALIDATE CONSTRAINT positive"
    run(database, finding.hint)
    assert not of(doctor(lay(database)), "not-validated")


@pytest.mark.needs(major=18)
def test_not_enforced_is_meant(lay: Lay, database: str) -> None:
    run(
        database,
        "CREATE TABLE checked (a int)",
        "ALTER TABLE checked ADD CONSTRAINT positive CHECK (a > 0) NOT ENFORCED",
    )
    assert not of(doctor(lay(database)), "not-validated")


def test_an_event_trigger_that_runs_with_our_statements(lay: Lay, database: str) -> None:
    topology = lay(database)
    run(
        database,
        "CREATE FUNCTION public.watch() RETURNS event_trigger LANGUAGE plpgsql AS "
        "$$ BEGIN NULL; END $$",
        "CREATE EVENT TRIGGER watch ON ddl_command_end WHEN TAG IN ('CREATE TABLE') "
        "EXECUTE FUNCTION public.watch()",
    )
    found = only(doctor(topology), "event-triggers", "warning")
    assert found.object == "watch"
    assert '"watch" (ddl_command_end of CREATE TABLE; function public.watch)' in found.detail
    assert "ALTER EVENT TRIGGER watch DISABLE" in (found.hint or "")
    run(database, "ALTER EVENT TRIGGER watch DISABLE")
    assert of(doctor(topology), "event-triggers") == []


def test_long_transactions(lay: Lay, database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(observe, "LONG", 0.2)
    assert not of(doctor(lay(database)), "long-transactions")
    with psycopg.connect(database, application_name="sleeper") as idle:
        idle.execute("SELECT 'somebody''s data'")
        idle.execute("SELECT pg_sleep(0.3)")
        finding = only(doctor(lay(database)), "long-transactions", "warning")
        assert finding.object == f"pid {idle.info.backend_pid}"
    assert "sleeper, idle in transaction" in finding.detail
    assert "somebody" not in finding.detail


def test_locks(lay: Lay, database: str, observed: Callable[[Topology], Observed]) -> None:
    run(database, *PARTED, "CREATE INDEX ON parted (a)", "CREATE INDEX ON parted ((a + 1))")
    seen = observed(lay(database))
    assert not [f for f in judged(seen) if f.check == "locks"]
    row = seen.servers["core"].one("partitioned")
    assert (row["relations"], row["locks"]) == (3, 9)
    small = {"max_locks_per_transaction": "8", "max_connections": "10"}
    finding = next(f for f in judged(with_settings(seen, "core", small)) if f.check == "locks")
    assert "takes 9 locks (3 relations and their indexes)" in finding.detail
    assert "8 * (10 + 0) = 80: 8 such queries at once" in finding.detail
    assert finding.hint is not None
    assert finding.hint.startswith("ALTER SYSTEM SET max_locks_per_transaction = 9,")


def test_disagreeing_tenants(lay: Lay, database: str) -> None:
    run(
        database,
        *filter(None, map(str.strip, DDL.split(";"))),
        f"INSERT INTO account VALUES ('{A}', 'ws1', 'secret'), ('{B}', 'ws2', 'secret')",
        f"INSERT INTO item VALUES ('{A}', 'ws1', 'fine', '{A}'), ('{B}', 'ws1', 'secret', '{B}')",
    )
    finding = only(doctor(lay(database)), "disagreeing-tenants", "error")
    assert finding.object == "item.account_id"
    assert finding.detail.startswith('1 row of "item" with another workspace_id')
    assert "secret" not in str(finding)
    run(database, "UPDATE item SET workspace_id = 'ws2' WHERE note = 'secret'")
    assert doctor(lay(database)).ok


def test_hidden_rows_are_no_all_clear(lay: Lay, database: str, role: str) -> None:
    run(
        database,
        *filter(None, map(str.strip, DDL.split(";"))),
        "ALTER TABLE item ENABLE ROW LEVEL SECURITY",
        f"GRANT SELECT ON account, item TO {role}",
    )
    found = of(doctor(lay(login(database, role))), "disagreeing-tenants")
    assert [f.severity for f in found] == ["warning"]
    assert "could not be counted" in found[0].detail


def test_schema_generation(lay: Lay, database: str) -> None:
    run(
        database,
        "CREATE TYPE agent_status AS ENUM ('active', 'inactive', 'paused', 'archived')",
        "CREATE TABLE parlant_agent (id uuid, created_by text, created_at timestamp)",
        "CREATE TABLE parlant_tool (id uuid, name text, created_at timestamptz)",
        "CREATE TABLE parlant_term (id uuid, term_name text, created_at timestamptz)",
        "CREATE TABLE parlant_other (id uuid)",
    )
    finding = only(doctor(lay(database)), "schema-generation", "warning")
    assert finding.detail.endswith(
        "A: parlant_agent; B: parlant_tool; C: parlant_term, enum types agent_status"
    )


def test_schema_generation_of_the_topology(lay: Lay, database: str) -> None:
    c = (DATA / "schema_c.sql").read_text()
    run(database, c)
    report = doctor(lay(database, ddl=None, remote=False))
    finding = of(report, "schema-generation")[0]
    assert "live tables look like schema C, the topology's schema is A" in finding.detail
    report = doctor(lay(database, ddl=c))
    assert not of(report, "schema-generation")
    assert next(c for c in report.checks if c.name == "schema-generation").detail == (
        "topology C, core C"
    )


# --- replication ----------------------------------------------------------------------------------


@pytest.mark.needs(clusters=2, logical=True)
def test_a_disabled_subscription(lay: Lay, make_databases: MakeDatabases) -> None:
    topology = lay(*make_databases(2), extra=REFERENCE, ddl=DDL + PLAN)
    apply(topology)
    assert not [f for f in of(doctor(topology), "reference-tables") if f.severity != "info"]
    name = "parlant_shard_looked_at_east"
    east = topology.servers["east"].dsn
    assert east is not None
    run(east, f"ALTER SUBSCRIPTION {name} DISABLE")
    found = of(doctor(topology), "reference-tables")
    error = next(f for f in found if f.severity == "error")
    assert error.hint == f"ALTER SUBSCRIPTION {name} ENABLE"
    run(east, error.hint)


@pytest.mark.needs(clusters=2, logical=True, superuser=True)
def test_a_table_that_a_running_subscription_does_not_copy(
    lay: Lay, make_databases: MakeDatabases
) -> None:
    topology = lay(*make_databases(2), extra=REFERENCE, ddl=DDL + PLAN)
    apply(topology)
    name = "parlant_shard_looked_at_east"
    core, east = (str(topology.servers[s].dsn) for s in ("core", "east"))
    run(core, "INSERT INTO plan VALUES ('a')")
    wait_for(lambda: run(east, "SELECT id FROM plan"))
    # Copied once more, it meets the row that is there: the copy fails, again and again.
    run(
        east,
        f"ALTER SUBSCRIPTION {name} DISABLE",
        "DELETE FROM pg_subscription_rel",
        f"ALTER SUBSCRIPTION {name} ENABLE",
        f"ALTER SUBSCRIPTION {name} REFRESH PUBLICATION",
    )
    wait_for(lambda: not [f for f in subscribed(topology) if "no worker at the" in f.detail])
    (warning,) = [f for f in subscribed(topology) if f.detail.startswith("not copied yet")]
    assert (warning.server, warning.severity, warning.object) == ("east", "warning", name)
    assert warning.detail == "not copied yet: plan"
    run(east, "SET session_replication_role = replica", "TRUNCATE plan")
    wait_for(lambda: not [f for f in subscribed(topology) if f.detail.startswith("not copied")])


def subscribed(topology: Topology) -> list[Finding]:
    return [f for f in of(doctor(topology), "reference-tables") if f.server == "east"]


def wait_for(condition: Callable[[], Any], seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.1)


@pytest.mark.needs(logical=True)
@pytest.mark.parametrize(
    ("unsynced", "copying", "running", "lacks"),
    [
        (["plan"], False, True, True),  # nobody copies, and there is no worker left to do it
        (["plan"], True, True, False),
        (None, False, True, False),
        (["plan"], False, False, True),
    ],
)
def test_limits_of_a_subscription_that_still_has_to_copy(
    lay: Lay, make_databases: MakeDatabases, observed: Callable[[Topology], Observed],
    unsynced: list[str] | None, copying: bool, running: bool, lacks: bool,
) -> None:  # fmt: skip
    seen = observed(lay(*make_databases(2, clusters=1), extra=REFERENCE, ddl=DDL + PLAN))
    row = {"name": "parlant_shard_looked_at_east", "enabled": True, "unsynced": unsynced,
           "running": running, "copying": copying, "apply_errors": 0, "sync_errors": 0}  # fmt: skip
    workers = int(setting(seen, "east", "max_logical_replication_workers"))
    full = {"senders": 0, "origins": 0, "workers": workers}
    found = judged(with_rows(seen, "east", subscriptions=(row,), replication_load=(full,)))
    mine = [f for f in found if (f.check, f.server) == ("reference-tables", "east")]
    errors = {f.object for f in mine if f.severity == "error"}
    assert ("max_logical_replication_workers" in errors) is lacks
    said = [f.detail for f in mine if f.object == row["name"]]
    assert ("not copied yet: plan" in said) is (unsynced is not None)
    assert any("no worker at the moment" in s for s in said) is not running


def setting(seen: Observed, server: str, name: str) -> str:
    return next(r["reset_val"] for r in seen.servers[server].all("settings") if r["name"] == name)


REFERENCE = "tables: {plan: {kind: reference}}"
PLAN = "CREATE TABLE plan (id text PRIMARY KEY);"


@pytest.mark.needs(logical=True)
def test_limits_of_replication(
    lay: Lay, make_databases: MakeDatabases, observed: Callable[[Topology], Observed]
) -> None:
    seen = observed(lay(*make_databases(2, clusters=1), extra=REFERENCE, ddl=DDL + PLAN))
    idle = {"senders": 0, "origins": 0, "workers": 0}
    seen = with_rows(seen, "east", replication_load=(idle,))  # others may use the test server
    assert not [f for f in judged(seen) if f.check == "reference-tables" and f.severity == "error"]
    for server, setting, value, severity in (
        ("core", "wal_level", "replica", "error"),
        ("core", "max_replication_slots", "0", "error"),
        ("core", "max_wal_senders", "0", "error"),
        ("core", "max_slot_wal_keep_size", "-1", "warning"),
        ("east", "max_logical_replication_workers", "1", "error"),
    ):
        changed = with_settings(seen, server, {setting: value})
        found = [f for f in judged(changed) if f.check == "reference-tables"]
        assert (server, setting, severity) in {(f.server, f.object, f.severity) for f in found}
    # Without reference tables on other servers, none of it matters.
    alone = observed(lay(*make_databases(2, clusters=1)))
    changed = with_settings(alone, "core", {"wal_level": "replica"})
    assert not [f for f in judged(changed) if f.check == "reference-tables"]


@pytest.mark.parametrize(
    ("slot", "severity", "words"),
    [
        ({"wal_status": "lost", "active": False}, "error", "is lost"),
        ({"wal_status": "unreserved", "active": True}, "warning", "so far behind"),
        ({"wal_status": "reserved", "active": False}, "warning", "is not connected"),
    ],
)
def test_slots(
    lay: Lay,
    make_databases: MakeDatabases,
    observed: Callable[[Topology], Observed],
    slot: dict[str, Any],
    severity: str,
    words: str,
) -> None:
    seen = observed(lay(*make_databases(2, clusters=1), extra=REFERENCE, ddl=DDL + PLAN))
    row = {"name": "parlant_shard_looked_at_east", "here": True, "kept": 2 << 30, **slot}
    found = judged(with_rows(seen, "core", slots=(row,)))
    finding = next(f for f in found if f.check == "reference-tables" and words in f.detail)
    assert (finding.severity, finding.object) == (severity, row["name"])
    # An unused slot of whoever it is may fill the disk.
    assert any(f.check == "disk" for f in found) is not row["active"]


# --- connections: what a test machine has not got, by changing what was observed -----------------


@pytest.fixture
def observed() -> Callable[[Topology], Observed]:
    return observe.observe


def change(seen: Observed, server: str, **parts: Any) -> Observed:
    changed = replace(seen.servers[server], **parts)
    return replace(seen, servers={**seen.servers, server: changed})


def with_rows(seen: Observed, server: str, **rows: Sequence[Any]) -> Observed:
    return change(seen, server, rows={**seen.servers[server].rows, **rows})


def with_settings(seen: Observed, server: str, settings: dict[str, str]) -> Observed:
    rows = [dict(r) for r in seen.servers[server].all("settings")]
    assert set(settings) <= {r["name"] for r in rows}
    for row in rows:
        row["reset_val"] = settings.get(row["name"], row["reset_val"])
    return with_rows(seen, server, settings=tuple(rows))


def judged(seen: Observed) -> tuple[Finding, ...]:
    return examine(seen)[1]


def far(server: Server, **parts: bool) -> Link:
    return replace(server.link, host="db.example", address="192.0.2.7", **parts)


def test_connections_from_afar(
    lay: Lay, make_databases: MakeDatabases, observed: Callable[[Topology], Observed]
) -> None:
    seen = observed(lay(*make_databases(2, clusters=1)))
    seen = change(seen, "core", link=replace(seen.servers["core"].link, encrypted=True))
    east = seen.servers["east"]

    def names(link: Link) -> set[tuple[str, str, str | None]]:
        found = judged(change(seen, "east", link=link))
        return {(f.check, f.severity, f.object) for f in found if f.severity != "info"}

    assert names(far(east, encrypted=True, trusted=False)) == set()
    assert names(far(east, encrypted=False, trusted=False)) == {
        ("cleartext", "warning", "db.example")
    }
    assert names(far(east, encrypted=True, trusted=True)) == {("trust", "warning", "db.example")}


def test_a_peer_that_is_itself(
    lay: Lay, make_databases: MakeDatabases, observed: Callable[[Topology], Observed]
) -> None:
    seen = observed(lay(*make_databases(2, clusters=1)))
    away = change(seen, "core", link=far(seen.servers["core"], encrypted=True, trusted=False))
    local = change(
        away, "east", peer=replace(seen.servers["east"].peer, options=(("host", "::1"),))
    )
    finding = next(f for f in judged(local) if f.check == "peer")
    assert (finding.server, finding.object, finding.severity) == ("east", "peer_dsn", "warning")
    assert "look for" in finding.detail


@pytest.mark.parametrize(
    ("host", "local"),
    [("", True), ("/run", True), ("127.0.0.2", True), ("::1", True), ("LOCALHOST", True),
     ("10.0.0.1", False), ("localhost.example", False), ("db", False)],
)  # fmt: skip
def test_what_is_local(host: str, local: bool) -> None:
    assert is_local(host) is local


@pytest.mark.parametrize(
    ("number", "severities"),
    [(150_001, []), (170_009, ["warning"]), (170_010, []), (180_003, ["warning"]),
     (180_004, []), (190_000, ["warning"])],
)  # fmt: skip
def test_versions(
    lay: Lay,
    database: str,
    observed: Callable[[Topology], Observed],
    number: int,
    severities: list[str],
) -> None:
    seen = observed(lay(database))
    facts = replace(seen.servers["core"].facts, version_num=number)
    found = judged(change(seen, "core", facts=facts))
    assert [f.severity for f in found if f.check == "version"] == severities


def test_versions_that_differ(
    lay: Lay, make_databases: MakeDatabases, observed: Callable[[Topology], Observed]
) -> None:
    seen = observed(lay(*make_databases(2, clusters=1)))
    facts = replace(seen.servers["east"].facts, version_num=160_014)
    if seen.servers["core"].facts.major == 16:
        facts = replace(facts, version_num=150_018)
    found = [f for f in judged(change(seen, "east", facts=facts)) if f.check == "same-major"]
    assert [f.severity for f in found] == ["info"]
    old = replace(seen, servers={"core": seen.servers["core"]}, too_old={"east": 14})
    found = [f for f in judged(old) if f.check == "version"]
    assert [(f.server, f.severity) for f in found] == [("east", "error")]


def test_a_missing_extension(
    lay: Lay, make_databases: MakeDatabases, observed: Callable[[Topology], Observed]
) -> None:
    ddl = DDL + "CREATE EXTENSION vector;"
    seen = observed(lay(*make_databases(2, clusters=1), ddl=ddl))
    facts = replace(seen.servers["core"].facts, extensions_available=frozenset())
    found = [f for f in judged(change(seen, "core", facts=facts)) if f.severity == "error"]
    assert {(f.check, f.server, f.object) for f in found} >= {
        ("extensions", "core", "postgres_fdw"),
        ("extensions", "core", "vector"),
    }


# --- poolers --------------------------------------------------------------------------------------


class Pooler:
    """A pooler of one server connection per transaction, or per session; its log-in asks nothing.

    Its process ids are made up, as PgBouncer's are, and a server connection that is given back is
    the first to be handed out again.
    """

    def __init__(self, dsn: str, *, per_session: bool) -> None:
        self.per_session = per_session
        self._idle = [
            psycopg.connect(make_conninfo(dsn, sslmode="disable", gssencmode="disable"))
            for _ in range(3)
        ]
        self._lock = threading.Lock()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self._threads[0].start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                thread = threading.Thread(target=self._serve, args=(client,), daemon=True)
                self._threads.append(thread)
                thread.start()

    def _serve(self, client: socket.socket) -> None:
        with client, contextlib.suppress(OSError, EOFError, struct.error):
            self._greet(client)
            held: psycopg.Connection[Any] | None = None
            try:
                while True:
                    kind, message = self._message(client)
                    if kind == b"X":
                        return
                    if held is None:
                        with self._lock:
                            held = self._idle.pop()
                    with socket.socket(fileno=os.dup(held.pgconn.socket)) as server:
                        server.setblocking(True)
                        server.sendall(message)
                        if kind in b"QS":
                            idle = self._answer(server, client)
                            if idle and not self.per_session:
                                with self._lock:
                                    self._idle.append(held)
                                held = None
            finally:
                if held is not None:
                    with self._lock:
                        self._idle.append(held)

    def _greet(self, client: socket.socket) -> None:
        while True:
            (length,) = struct.unpack("!i", self._exactly(client, 4))
            (code,) = struct.unpack("!i", self._exactly(client, 4))
            self._exactly(client, length - 8)
            if code not in {80877103, 80877104}:  # requests for TLS and GSS
                break
            client.sendall(b"N")
        parameters = {"client_encoding": "UTF8", "server_version": "18.0",
                      "standard_conforming_strings": "on", "integer_datetimes": "on"}  # fmt: skip
        reply = b"R" + struct.pack("!ii", 8, 0)
        for name, value in parameters.items():
            body = name.encode() + b"\0" + value.encode() + b"\0"
            reply += b"S" + struct.pack("!i", len(body) + 4) + body
        made_up = 900_000 + client.fileno()
        reply += b"K" + struct.pack("!iii", 12, made_up, 42) + b"Z" + struct.pack("!i", 5) + b"I"
        client.sendall(reply)

    def _message(self, source: socket.socket) -> tuple[bytes, bytes]:
        head = self._exactly(source, 5)
        (length,) = struct.unpack("!i", head[1:])
        return head[:1], head + self._exactly(source, length - 4)

    def _answer(self, server: socket.socket, client: socket.socket) -> bool:
        while True:
            select.select([server], [], [], 30)
            kind, message = self._message(server)
            client.sendall(message)
            if kind == b"Z":
                return message[-1:] == b"I"

    @staticmethod
    def _exactly(source: socket.socket, length: int) -> bytes:
        data = b""
        while len(data) < length:
            part = source.recv(length - len(data))
            if not part:
                raise EOFError
            data += part
        return data

    def close(self) -> None:
        # Closing alone does not wake a thread that accepts.
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for thread in self._threads:
            thread.join(10)
        for connection in self._idle:
            connection.close()


@pytest.fixture
def pooler(database: str) -> Iterator[Callable[[bool], Pooler]]:
    made: list[Pooler] = []

    def make(per_session: bool) -> Pooler:
        made.append(Pooler(database, per_session=per_session))
        return made[-1]

    yield make
    for pool in made:
        pool.close()


def through(pool: Pooler, dsn: str) -> str:
    given = {k: v for k, v in conninfo_to_dict(dsn).items() if k in {"dbname", "user"}}
    return make_conninfo(host="127.0.0.1", port=pool.port, **given)


def test_a_pooler_per_transaction(
    lay: Lay, database: str, pooler: Callable[[bool], Pooler], make_databases: MakeDatabases
) -> None:
    pooled = through(pooler(False), database)
    assert pooling_of(pooled, server="east") is Pooling.TRANSACTION
    (other,) = make_databases(1)
    report = doctor(lay(other, pooled))
    finding = only(report, "pooler", "error")
    assert (finding.server, finding.object) == ("east", "dsn")
    assert "admin_dsn" in (finding.hint or "")
    # With an address past it, all is well.
    past = lay(other, database)
    assert past.servers["east"].admin is not None
    assert not of(doctor(past), "pooler")


def test_a_pooler_leaves_no_settings_behind(
    lay: Lay, database: str, pooler: Callable[[bool], Pooler]
) -> None:
    pool = pooler(False)
    doctor(lay(through(pool, database)))
    for connection in pool._idle:
        row = connection.execute("SHOW search_path").fetchone()
        assert row == ('"$user", public',)
        connection.rollback()


def test_a_pooler_per_session(lay: Lay, database: str, pooler: Callable[[bool], Pooler]) -> None:
    pooled = through(pooler(True), database)
    assert pooling_of(pooled, server="east") is Pooling.SESSION
    assert pooling_of(database, server="east") is Pooling.NONE


# --- statements -----------------------------------------------------------------------------------


def attempt(lay: Lay, dsn: str, tmp_path: Path, text: str, ddl: str = DDL) -> tuple[Tried, ...]:
    file = tmp_path / "tried.sql"
    file.write_text(text)
    report = doctor(lay(dsn, ddl=ddl), file)
    assert report.statements is not None
    return report.statements


def test_the_strategy_document(lay: Lay, database: str) -> None:
    file = DATA / "strategy.sql"
    report = doctor(lay(database, ddl=None), file)
    assert report.statements is not None
    assert len(report.statements) == 38
    lines = file.read_text().splitlines()
    rejected = [(s.line, s.sqlstate, s.why) for s in report.statements if not s.ok]
    reserved = '"offset" is a reserved word and must be quoted to name a column'
    clock = "CURRENT_DATE changes with time, so it is not IMMUTABLE"
    expected = [
        (30, "42601", reserved),
        (80, "42P17", clock),
        (86, "42P17", clock),
        (100, "42601", reserved),
        (128, "42703", "the CHECK names a column that the statement does not declare"),
        (135, "42P01", "no table or view of this name exists"),
        (168, "42703", "pg_stat_statements has no mean_time: it is called mean_exec_time"),
        (174, "42703", "pg_stat_user_indexes has no tablename: it is called relname; "
         "pg_stat_user_indexes has no indexname: it is called indexrelname; "
         "pg_stat_user_indexes has no seq_scan: pg_stat_user_tables has it"),
        (181, "42703", "pg_statio_user_tables has no tablename: it is called relname"),
        (206, "42P07", "an object of this name exists already"),
        (219, "42703", "pg_stat_user_indexes has no indexname: it is called indexrelname"),
    ]  # fmt: skip
    assert [(line, state) for line, state, _ in rejected] == [e[:2] for e in expected]
    for (_, _, why), (_, _, words) in zip(rejected, expected, strict=True):
        assert why is not None
        assert why.startswith(words)
    assert lines[79].startswith("CREATE INDEX parlant_recently_active_agents_idx")
    # Two functions are created and would fail when they are called.
    late = [s.line for s in report.statements if s.ok and s.why is not None]
    assert late == [141, 154]
    assert report.ok is False
    found = of(report, "sql")
    assert [f.severity for f in found].count("error") == len(expected)
    assert "rejected  line 30: CREATE INDEX parlant_event_session" in report.to_text()


@pytest.mark.parametrize(
    ("statement", "state", "words"),
    [
        (
            "CREATE INDEX i ON item (id) WHERE note > now()::text",
            "42P17",
            "now() changes with time",
        ),
        (
            "ALTER TABLE item ADD CONSTRAINT IF NOT EXISTS c CHECK (true)",
            "42601",
            "no IF NOT EXISTS",
        ),
        ("ALTER TABLE item ADD CHECK (EXISTS (SELECT 1 FROM account))", "0A000", "no subquery"),
        ("SELECT tablename FROM pg_stat_user_tables", "42703", "it is called relname"),
        ("CREATE INDEX i ON item (nothing)", "42703", "no table of the statement has a column"),
        ("CREATE INDEX i ON absent (id)", "42P01", "no table or view of this name"),
        ("CREATE TABLE item (id int)", "42P07", "exists already"),
        ("CREATE INDEX i ON item USING gin (note gin_trgm_ops)", "42704", "pg_trgm"),
        ("INSERT INTO item (id) VALUES ('x') ON CONFLICT (note) DO NOTHING", "22P02", "no value"),
        ("INSERT INTO item (note) VALUES ('x') ON CONFLICT (note) DO NOTHING", "42P10", "unique"),
        ("SELECT * FROM item WHERE user = ? ORDER BY limit", "42601", '"limit" is a reserved'),
        ("\\d item", None, "a command of psql"),
        ("CREATE TABLE p (a int, b int UNIQUE) PARTITION BY RANGE (a)", "0A000", "partition key"),
    ],
)
def test_why(
    lay: Lay, database: str, tmp_path: Path, statement: str, state: str | None, words: str
) -> None:
    (tried,) = attempt(lay, database, tmp_path, statement + ("" if state is None else ";"))
    assert (tried.ok, tried.sqlstate) == (False, state)
    assert words in (tried.why or "")


def test_concurrently(lay: Lay, database: str, tmp_path: Path) -> None:
    text = """\
CREATE INDEX CONCURRENTLY fine ON item (note);
CREATE TABLE p (a int) PARTITION BY RANGE (a);
CREATE INDEX CONCURRENTLY p_a ON p (a);
BEGIN;
CREATE INDEX CONCURRENTLY late ON item (note);
COMMENT ON INDEX late IS 'x';
COMMIT;
"""
    tried = attempt(lay, database, tmp_path, text)
    assert [t.ok for t in tried] == [True, True, False, True, False, True, False]
    assert tried[2].sqlstate == "0A000"
    assert "index of a partitioned table" in (tried[2].why or "")
    assert tried[4].sqlstate == "25001"
    assert "behind BEGIN in line 4" in (tried[4].why or "")
    assert (tried[6].sqlstate, tried[6].why) == (
        "25P02",
        "line 5 is rejected, which aborts the transaction; every statement behind it is refused "
        "too",
    )


def test_one_refusal_does_not_hide_the_next(lay: Lay, database: str, tmp_path: Path) -> None:
    text = """\
CREATE TABLE first (a int;
CREATE TABLE second (a int);
INSERT INTO second VALUES ('never closed);
CREATE INDEX ON second (a);
SELEC 1;
SELECT $quote$; not an end; $quote$;
COPY second FROM stdin;
1;'2
\\.
SELECT 1
"""
    tried = attempt(lay, database, tmp_path, text)
    assert [(t.line, t.ok, t.tried) for t in tried] == [
        (1, False, True),
        (2, True, True),
        (3, False, True),
        (4, True, True),
        (5, False, True),
        (6, True, True),
        (7, True, False),
        (10, True, True),
    ]


def test_rollback_takes_things_back(lay: Lay, database: str, tmp_path: Path) -> None:
    text = (
        "BEGIN; CREATE TABLE x (a int); ROLLBACK; SELECT * FROM x; BEGIN; CREATE TABLE y (a int);"
    )
    tried = attempt(lay, database, tmp_path, text)
    assert [t.ok for t in tried] == [True, True, True, False, True, True]
    assert "never committed" in (tried[-1].message or "")


def test_nothing_reaches_outside(
    lay: Lay, database: str, tmp_path: Path, clusters: Clusters
) -> None:
    run(database, "CREATE TABLE live (a int)", "INSERT INTO live VALUES (1)")
    name = database_name(database)
    text = f"""\
DROP DATABASE {name};
CREATE ROLE dr_made PASSWORD 'Geheim-4711';
ALTER SYSTEM SET work_mem = '1MB';
DO $$ BEGIN PERFORM pg_terminate_backend(pid) FROM pg_stat_activity; END $$;
SELECT pg_terminate_backend(pid) FROM pg_stat_activity;
CREATE TABLE ended AS SELECT pg_terminate_backend(pid) FROM pg_stat_activity;
EXPLAIN ANALYZE SELECT pg_terminate_backend(pid) FROM pg_stat_activity;
SET statement_timeout = 0;
SET ROLE postgres;
COPY live TO PROGRAM 'true';
DROP TABLE live;
"""
    before = _scratch_databases(clusters.get(0))  # of applies that other tests killed
    with psycopg.connect(database) as alive:
        tried = attempt(lay, database, tmp_path, text)
        alive.execute("SELECT 1")
    assert [t.tried for t in tried] == [False] * 4 + [True] * 3 + [False] * 3 + [True]
    assert tried[-1].ok is False  # the live table is in another database
    assert "Geheim" not in str(tried)
    assert run(database, "SELECT a FROM live") == [(1,)]
    assert run(database, "SELECT 1 FROM pg_roles WHERE rolname = 'dr_made'") == []
    assert set(_scratch_databases(clusters.get(0))) <= set(before)


def _scratch_databases(cluster: Cluster) -> list[Any]:
    with cluster.connect() as connection:
        return connection.execute(
            "SELECT datname FROM pg_database WHERE datname LIKE 'parlant\\_shard\\_scratch%'"
        ).fetchall()


def test_on_a_live_schema(lay: Lay, database: str, tmp_path: Path, clusters: Clusters) -> None:
    run(database, *filter(None, map(str.strip, DDL.split(";"))))
    topology = lay(database)
    file = topology.file
    file.write_text(file.read_text().replace("{files: [schema.sql]}", "{from: core}"))
    sql_file = tmp_path / "tried.sql"
    sql_file.write_text("CREATE INDEX ON item (note); DROP TABLE account;")
    report = doctor(load_topology(file), sql_file)
    assert report.statements is not None
    assert [(t.ok, t.sqlstate) for t in report.statements] == [(True, None), (False, "2BP01")]
    assert run(database, "SELECT to_regclass('account') IS NOT NULL") == [(True,)]


def test_without_createdb(lay: Lay, database: str, role: str, tmp_path: Path) -> None:
    file = tmp_path / "tried.sql"
    file.write_text("SELECT 1")
    report = doctor(lay(login(database, role)), file)
    finding = of(report, "sql")[0]
    assert (finding.severity, finding.hint) == ("error", f"ALTER ROLE {role} CREATEDB")


def test_a_file_that_is_none(lay: Lay, database: str, tmp_path: Path) -> None:
    with pytest.raises(SchemaError, match="cannot be read"):
        doctor(lay(database), tmp_path / "absent.sql")
    (tmp_path / "latin.sql").write_bytes(b"SELECT '\xe9'")
    with pytest.raises(SchemaError, match="UTF-8"):
        doctor(lay(database), tmp_path / "latin.sql")


ATOMIC = "CREATE FUNCTION f() RETURNS int BEGIN ATOMIC SELECT CASE WHEN true THEN 1 END; END"


@pytest.mark.parametrize(
    ("text", "pieces"),
    [
        ("", []),
        (";;", []),
        ("-- only a comment", []),
        ("SELECT 1", [(1, "SELECT 1")]),
        ("SELECT 'é;';\nSELECT 2;", [(1, "SELECT 'é;'"), (2, "SELECT 2")]),
        ("/* ; */ SELECT 1; -- ;\nSELECT 2", [(1, "SELECT 1"), (2, "SELECT 2")]),
        (f"{ATOMIC}; SELECT 2", [(1, ATOMIC), (1, "SELECT 2")]),
        (
            "CREATE RULE r AS ON INSERT TO t DO (SELECT 1; SELECT 2); SELECT 3",
            [(1, "CREATE RULE r AS ON INSERT TO t DO (SELECT 1; SELECT 2)"), (1, "SELECT 3")],
        ),
        ("\\echo it's\nSELECT 1;\n\\q", [(1, "\\echo it's"), (2, "SELECT 1"), (3, "\\q")]),
        ("SELECT é, 'open;\nSELECT 2;", [(1, "SELECT é, 'open"), (2, "SELECT 2")]),
        ("SELECT 'open", [(1, "SELECT 'open")]),
        ('SELECT 1; SELECT "open;\n SELECT', [(1, "SELECT 1"), (1, 'SELECT "open'), (2, "SELECT")]),
    ],
)  # fmt: skip
def test_split(text: str, pieces: list[tuple[int, str]]) -> None:
    assert [(p.line, p.text) for p in split(text)] == pieces
