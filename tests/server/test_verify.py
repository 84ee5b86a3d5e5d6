"""`verify`: each thing broken by hand is found by its check, and by those that it entails."""

from __future__ import annotations

import json
import os
import re
import secrets
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from protocol import SCHEMA, World, layout
from psycopg.conninfo import make_conninfo
from psycopg.sql import Identifier, Literal
from rls_world import roles
from test_archive import retired
from test_maintain import cut, maintain, months, now_of
from verified import SECRET, TABLES, audit, fill, found, key, lasting, sharded
from verify_cases import CASES, FREELY, Case, filled_in, publication, unchecked

from parlant_shard.cli import run
from parlant_shard.desired import check_name
from parlant_shard.errors import Exit, PrivilegeError, ShardError, TopologyError
from parlant_shard.names import suffixed
from parlant_shard.privacy import purge
from parlant_shard.shardmap import bucket
from parlant_shard.verify import CHECKS, Finding, Report
from parlant_shard.verify.checks import OF_ROWS
from servers import Clusters

pytestmark = [pytest.mark.matrix, pytest.mark.needs(superuser=True, clusters=2, logical=True)]


@pytest.fixture(scope="module")
def world(clusters: Clusters, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """Give a cluster that every test leaves as it found it."""
    yield from lasting(tmp_path_factory.mktemp("verify"), clusters)


def normal(report: Report) -> set[str]:
    """What was found, whatever the month."""
    return {re.sub(r"_p\d{8}", "_p", f) for f in found(report)}


def shows(world: World, finding: Finding) -> None:
    """Require that the statement of a finding shows what it counts, with the sampled keys."""
    if finding.statement is None:
        return

    def run(server: str) -> list[dict[str, str | None]]:
        with world.connect(server) as connection:
            # A session as somebody else has it, who pastes the statement.
            connection.execute("SET TimeZone = 'Asia/Kolkata'")
            cursor = connection.execute(finding.statement.encode())
            names = [c.name for c in cursor.description or ()]
            return [
                {n: None if v is None else str(v) for n, v in zip(names, row, strict=True)}
                for row in cursor
            ]

    rows = run(finding.server)
    sample = [dict(s) for s in finding.sample]
    assert len(sample) == (min(finding.rows, 5) if finding.check in KEYS else 0)
    if finding.check in {*OF_ROWS, "duplicate-key"}:
        keys = [{n: row[n] for n in sample[0]} for row in rows]
        count = len(keys) if finding.check in OF_ROWS else len({repr(k) for k in keys})
        assert count == finding.rows, finding
        assert [s for s in sample if s not in keys] == [], finding
        if finding.check in OF_ROWS or finding.workspace is not None:
            assert {row["workspace_id"] for row in rows} == {finding.workspace}
    elif finding.check == "reference-rows":
        others = run("core")
        differing = [row for row in (*rows, *others) if (row in rows) != (row in others)]
        assert len(differing) == len([*rows, *others]), "only what differs is shown"
        keys = {row[n] for row in differing for n in sample[0]}
        assert (len(keys), {v for s in sample for v in s.values()} <= keys) == (finding.rows, True)
    elif finding.check == "federated-rows":
        returned = int(re.findall(r"\d+", finding.detail)[0])
        expected = [{"workspace": finding.workspace, "rows": str(returned)}] if returned else []
        assert rows == expected
    elif finding.check == "placement":
        assert len(rows) <= max(1, finding.rows)


KEYS = {*OF_ROWS, "duplicate-key", "reference-rows"}  # the checks whose findings have sample keys


def test_a_clean_cluster_gives_nothing(world: World) -> None:
    report = audit(world, sharded())
    assert (report.findings, report.failures) == ((), ())
    assert [c.name for c in report.checks] == list(CHECKS)
    assert all(c.ok for c in report.checks)
    assert {s.server for s in report.snapshots} == {"core", "east"}


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_what_is_broken_is_found_and_nothing_else(
    world: World, clusters: Clusters, case: Case
) -> None:
    if clusters.get(0).major < case.major:
        pytest.skip(f"needs PostgreSQL {case.major}")
    breaks, mends = (filled_in(world, case, x) for x in (case.breaks, case.mends))
    world.execute(*breaks, server=case.server)
    try:
        report = audit(world, sharded())
        assert normal(report) == case.expected
        assert report.failures == ()
        for finding in report.findings:
            shows(world, finding)
    finally:
        world.execute(*mends, server=case.server)


def test_every_check_is_broken_once() -> None:
    seen = {e.split()[0] for case in CASES for e in case.expected}
    # Those that need row-level security have a test of their own.
    assert seen == set(CHECKS) - {"bypassing-roles", "superuser-owner"}


def test_every_check_is_documented() -> None:
    page = (Path(__file__).parents[2] / "docs" / "verify.md").read_text(encoding="utf-8")
    named = re.findall(r"^\| `([a-z-]+)` \|", page, re.MULTILINE)
    assert sorted(named) == sorted(CHECKS)


# --- snapshots and locks --------------------------------------------------------------------------


def test_apply_mends_what_does_not_show_in_names(world: World, clusters: Clusters) -> None:
    world.execute(
        publication("SET (publish = 'insert, truncate')"),
        publication(
            "SET TABLE public.workspace (id, name), public.\"user\" (id, name) WHERE (id <> 'x')"
        ),
    )
    if clusters.get(0).major >= 18:
        world.execute("ALTER TABLE item_s1 ALTER CONSTRAINT item_account_id_fkey_s1 NOT ENFORCED")
    assert {f.split()[0] for f in found(audit(world, sharded()))} <= {"keys", "replication"}
    world.converge(sharded())
    assert found(audit(world, sharded())) == set()


# --- names that need quotes -----------------------------------------------------------------------

SPACE = 'My "Own" 100% {0} %s'  # a schema
KONTO = 'Konto "%s" {0}\'s'  # a table
LONG = "Ü%" + "x" * (63 - 3)  # 63 bytes
WORDS = {"w": 'O\'Neil "x" %s {0} \\', "v": "{a,b} ünï, NULL"}
SHARD = "long_shard_1"


def quoted(name: str) -> str:
    return Identifier(name).as_string(None)


def test_names_that_need_quotes(tmp_path: Path, clusters: Clusters) -> None:
    """Nothing is found in vain, and the statements of what is found are what they should be."""
    world = World(tmp_path, clusters, over=2)
    first, second, fk = '"I d" %s', 'Größe "{0}"', f"{LONG[:-3]}_fk"
    ddl = f"""
    CREATE TABLE {quoted(KONTO)} ({quoted(first)} text PRIMARY KEY, workspace_id text NOT NULL,
      {quoted(second)} int CONSTRAINT {quoted('C "%d" {x}')} CHECK ({quoted(second)} % 7 <> 3));
    CREATE TABLE {quoted(LONG)} (
      {quoted(first)} uuid PRIMARY KEY DEFAULT gen_random_uuid(),
      {quoted(LONG)} text NOT NULL,
      CONSTRAINT {quoted(fk)} FOREIGN KEY ({quoted(LONG)}) REFERENCES {quoted(KONTO)});
    CREATE INDEX ON {quoted(LONG)} ({quoted(LONG)});
    """
    shards = {SHARD: [WORDS["w"]], "s2": ("east", [WORDS["v"]])}
    what = layout(shards, ddl=ddl, tables={}, namespace=SPACE)
    for server in ("core", "east"):
        world.execute(f"CREATE SCHEMA {quoted(SPACE)}", server=server)
    world.apply(what)
    clean = audit(world, what)
    assert (clean.findings, clean.failures) == ((), ())

    konto, child = (f"{quoted(SPACE)}.{quoted(suffixed(table, SHARD))}" for table in (KONTO, LONG))
    k, v, check = quoted(first), Literal(WORDS["v"]).as_string(None), check_name(KONTO, SHARD)
    w = Literal(WORDS["w"]).as_string(None)
    other = f"{quoted(SPACE)}.{quoted(suffixed(KONTO, 's2'))}"
    world.execute(
        f"INSERT INTO {other} ({k}, workspace_id) VALUES ('%s {{0}}', {v})", server="east"
    )
    size = suffixed('C "%d" {x}', SHARD)
    index = world.value(f"SELECT indexrelid::regclass::text FROM pg_index WHERE NOT indisunique "
                        f"AND indrelid = {Literal(child).as_string(None)}::regclass "
                        "AND indnatts = 1")  # fmt: skip
    world.execute(
        FREELY,
        f"ALTER TABLE {konto} DROP CONSTRAINT {quoted(check)}",
        f"ALTER TABLE {konto} DROP CONSTRAINT {quoted(size)}",
        f"INSERT INTO {konto} VALUES ('%s {{0}}', {w}, 10), ('b', {v}, 1)",
        f"INSERT INTO {child} (workspace_id, {quoted(LONG)}) VALUES ({w}, 'none'), ({w}, 'b')",
        f"GRANT SELECT ON {child} TO PUBLIC",
        f"CREATE POLICY {quoted(LONG)} ON {child} USING (true)",
        f"CREATE RULE {quoted(LONG)} AS ON DELETE TO {child} DO INSTEAD NOTHING",
        f"DROP INDEX {index}",
    )
    report = audit(world, what)
    assert report.failures == ()
    table = suffixed(KONTO, SHARD)
    assert {(f.check, f.table, f.workspace, f.rows) for f in report.findings} == {
        ("misplaced-rows", table, WORDS["v"], 1),
        ("rows-outside-check", table, WORDS["w"], 1),
        ("parents", suffixed(LONG, SHARD), WORDS["w"], 1),  # missing
        ("parents", suffixed(LONG, SHARD), WORDS["w"], 1),  # of another workspace
        ("duplicate-key", suffixed(KONTO, "s2"), None, 1),
        ("shard-check", table, None, 0),
        ("keys", table, None, 0),
        ("grants", suffixed(LONG, SHARD), None, 0),
        ("policies", suffixed(LONG, SHARD), None, 0),
        ("schema", suffixed(LONG, SHARD), None, 0),
    }
    assert len([f for f in report.findings if f.check == "parents"]) == 2
    for finding in report.findings:
        shows(world, finding)


# --- one workspace, buckets -----------------------------------------------------------------------


def test_one_workspace_on_every_server(world: World) -> None:
    """What a move left behind is found, and nothing of anybody else."""
    breaks = filled_in(
        world,
        Case(
            "",
            set(),
            unchecked(
                "account_s1",
                f"INSERT INTO account_s1 (id, workspace_id) VALUES ('{key('c', 'account')}', 'c')",
                "INSERT INTO account_s1 (workspace_id) VALUES ('d')",
            ),
            (),
            table="account_s1",
        ),
        unchecked(
            "account_s1",
            f"INSERT INTO account_s1 (id, workspace_id) VALUES ('{key('c', 'account')}', 'c')",
            "INSERT INTO account_s1 (workspace_id) VALUES ('d')",
        ),
    )
    world.execute(*breaks)
    try:
        report = audit(world, sharded(), workspace="c")
        stale = {"misplaced-rows core s1 account_s1 c", "duplicate-key east s2 account_s2 c"}
        # The view does not look there: it believes the CHECK.
        assert found(report) == {*stale, "federated-rows core account_global c"}
        assert found(audit(world, sharded(), workspace="a")) == set()
        slip = audit(world, sharded(), workspace="nobody")
        assert found(slip) == set()
        assert "is the name right?" in slip.to_text()
        assert "is the name right?" not in report.to_text()
        assert (slip.placed, report.placed, audit(world, sharded()).placed) == (False, True, None)
    finally:
        world.execute(
            "SET constraint_exclusion = off",
            "DELETE FROM account_s1 WHERE workspace_id IN ('c', 'd')",
        )
    with pytest.raises(TopologyError) as refused:
        audit(world, sharded(), workspace="")
    assert refused.value.code == "PS704"


def test_buckets(tmp_path: Path, clusters: Clusters) -> None:
    """Lists win over buckets, and a function that was replaced deceives nobody."""
    world = World(tmp_path, clusters, over=2)
    shards = {
        "s1": {"workspaces": ["a"], "buckets": "0-2047"},
        "s2": {"server": "east", "workspaces": ["b"], "buckets": "2048-4095"},
    }
    what = sharded(shards)
    world.apply(what)
    homes = {"a": ("core", "s1"), "b": ("east", "s2")}
    for name in ("k", "m", "n", "o"):
        homes[name] = ("core", "s1") if bucket(name) < 2048 else ("east", "s2")
    assert {s for _, s in (homes[n] for n in "kmno")} == {"s1", "s2"}
    fill(world, homes)
    assert found(audit(world, what)) == set()
    stray = next(n for n in "kmno" if homes[n][1] == "s2")
    world.execute(
        "CREATE OR REPLACE FUNCTION parlant_shard.bucket(workspace text) RETURNS int "
        "LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE AS 'SELECT 0'",
        f"INSERT INTO account_s1 (workspace_id) VALUES ('{stray}')",
    )
    assert f"misplaced-rows core s1 account_s1 {stray}" in found(audit(world, what))


def test_rows_on_the_shard_of_its_bucket_of_a_workspace_that_is_listed_elsewhere(
    tmp_path: Path, clusters: Clusters
) -> None:
    """As an edit of the file leaves them: routers look on the other shard."""
    world = World(tmp_path, clusters)
    assert bucket("a") >= 2048
    what = layout(
        {"s1": {"workspaces": ["a"], "buckets": "0-2047"}, "s2": {"buckets": "2048-4095"}}
    )
    world.apply(what)
    world.execute(
        "INSERT INTO account_s1 (workspace_id) VALUES ('a')",
        "ALTER TABLE account_s2 DROP CONSTRAINT account_s2_workspace_check",
        "INSERT INTO account_s2 (workspace_id) VALUES ('a'), ('a')",
    )
    for workspace in (None, "a"):
        report = audit(world, what, workspace=workspace)
        (stray,) = [f for f in report.findings if f.check == "misplaced-rows"]
        assert (stray.shard, stray.table, stray.workspace, stray.rows) == (
            "s2", "account_s2", "a", 2,
        )  # fmt: skip


# --- purged workspaces ----------------------------------------------------------------------------


def test_parents_by_the_key_alone(tmp_path: Path, clusters: Clusters) -> None:
    """A copy of the tenants lost one: replication checks no foreign key."""
    world = World(tmp_path, clusters, over=2)
    ddl = """
    CREATE TABLE tenant (workspace_id text PRIMARY KEY);
    CREATE TABLE room (
      workspace_id text REFERENCES tenant, number int, PRIMARY KEY (workspace_id, number)
    );
    CREATE TABLE item (
      id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
      workspace_id text NOT NULL REFERENCES tenant (workspace_id), place text, number int,
      FOREIGN KEY (place, number) REFERENCES room
    );
    """
    tables = {"tenant": {"kind": "reference"}, "room": {"kind": "reference"}}
    what = layout({"s1": ["a", "b"], "s2": ("east", ["c"])}, ddl=ddl, tables=tables)
    world.apply(what)
    world.execute(
        "INSERT INTO tenant VALUES ('a'), ('c')",
        "INSERT INTO room VALUES ('a', 1)",
        "INSERT INTO item_s1 (workspace_id, place, number) VALUES ('a', 'a', 1)",
    )
    assert found(audit(world, what)) == set()
    world.execute(FREELY, "INSERT INTO item_s1 (workspace_id) VALUES ('b'), ('b')")
    report = audit(world, what)
    assert found(report) == {"parents core s1 item_s1 b"}
    assert [f.rows for f in report.findings] == [2]
    shows(world, report.findings[0])


@pytest.mark.parametrize("buckets", [False, True], ids=["listed", "buckets"])
def test_a_row_of_a_purged_workspace(tmp_path: Path, clusters: Clusters, buckets: bool) -> None:
    """The shard's list or range still has the workspace; the row should be gone all the same."""
    world = World(tmp_path, clusters, over=2)
    shards = {
        "s1": {"buckets": "0-2047"} if buckets else ["a"],
        "s2": {"server": "east", "buckets": "2048-4095"} if buckets else ("east", ["b", "c"]),
    }
    assert [bucket(w) >= 2048 for w in "bc"] == [True, True]
    what = layout(shards, tables={})
    world.apply(what)
    row = "INSERT INTO account_s2 (workspace_id) VALUES ('{}')"
    world.execute(row.format("b"), row.format("c"), server="east")
    purge(world.load(what), "b", allow=frozenset({"deletes-data"}))
    world.apply(what)
    assert found(audit(world, what)) == set()
    # A writer that uses no router.
    world.execute(row.format("b"), server="east")
    for workspace in (None, "b"):
        report = audit(world, what, workspace=workspace)
        assert found(report) == {"misplaced-rows east s2 account_s2 b"}
        (finding,) = report.findings
        assert f"workspace purge {world.load(what).file} WS" in finding.detail
        shows(world, finding)
    assert found(audit(world, what, workspace="c")) == set()
    # While it is being purged, its rows are still going.
    world.execute("UPDATE parlant_shard.placement SET state = 'purging' WHERE workspace_id = 'b'",
                  server="east")  # fmt: skip
    assert "misplaced-rows" not in {f.check for f in audit(world, what).findings}
    world.execute("UPDATE parlant_shard.placement SET state = 'purged' WHERE workspace_id = 'b'",
                  server="east")  # fmt: skip
    purge(world.load(what), "b", allow=frozenset({"deletes-data"}))
    assert found(audit(world, what)) == set()


# --- rewrites -------------------------------------------------------------------------------------


# --- row-level security ---------------------------------------------------------------------------

GUARDED = """
CREATE TABLE account (id uuid PRIMARY KEY DEFAULT gen_random_uuid(), workspace_id text NOT NULL);
ALTER TABLE account ENABLE ROW LEVEL SECURITY;
ALTER TABLE account FORCE ROW LEVEL SECURITY;
CREATE POLICY tenant ON account
  USING (workspace_id = current_setting('parlant.workspace_id', true));
"""


def test_the_second_wall(tmp_path: Path, clusters: Clusters) -> None:
    world = World(tmp_path, clusters)
    names = {n: f"{n}_{secrets.token_hex(4)}" for n in ("app", "login", "boss")}
    app, login, boss = names.values()
    what = layout(
        {"s1": ["a"]},
        ddl=SCHEMA + "CREATE TABLE country (id text PRIMARY KEY);"
        "ALTER TABLE account ADD country_id text REFERENCES country ON DELETE CASCADE;",
        tables={"country": {"kind": "reference"}},
        isolation={"rls": True, "role": app},
    )
    try:
        world.apply(what)
        world.execute(f"CREATE ROLE {login} LOGIN IN ROLE {app}", f"CREATE ROLE {boss}")
        clean = audit(world, what)
        assert {f.check for f in clean.findings} == {"superuser-owner"}
        assert (clean.ok, clean.exit_code) == (True, Exit.DONE)
        wall = "policies account_s1"
        for breaks, mends, expected in (
            ("DROP POLICY parlant_shard_workspace ON account_s1", "", wall),
            ("ALTER POLICY parlant_shard_workspace ON account_s1 USING (true)", "", wall),
            (f"ALTER POLICY parlant_shard_owner ON account_s1 TO {app}", "", wall),
            ("ALTER TABLE account_s1 DISABLE ROW LEVEL SECURITY", "", wall),
            ("ALTER TABLE account_s1 NO FORCE ROW LEVEL SECURITY", "", wall),
            (
                "CREATE POLICY more ON account_s1 USING (true)",
                "DROP POLICY more ON account_s1",
                wall,
            ),
            (f"ALTER ROLE {app} BYPASSRLS", f"ALTER ROLE {app} NOBYPASSRLS", "bypassing-roles"),
            (f"ALTER ROLE {login} BYPASSRLS", f"ALTER ROLE {login} NOBYPASSRLS", "bypassing-roles"),
            (
                f"ALTER ROLE {boss} SUPERUSER; GRANT {boss} TO {app}",
                f"REVOKE {boss} FROM {app}; ALTER ROLE {boss} NOSUPERUSER",
                "bypassing-roles",
            ),
            (
                f"GRANT SELECT ON parlant_shard.placement TO {app}",
                f"REVOKE SELECT ON parlant_shard.placement FROM {app}",
                "grants parlant_shard.placement",
            ),
            (
                f"GRANT DELETE ON country TO {app}",
                f"REVOKE DELETE ON country FROM {app}",
                "grants country",
            ),
            (
                "GRANT CREATE ON SCHEMA public TO PUBLIC",
                "REVOKE CREATE ON SCHEMA public FROM PUBLIC",
                "grants",
            ),
        ):
            world.execute(*breaks.split("; "))
            report = audit(world, what)
            extra = [f for f in report.findings if f not in clean.findings]
            assert {f"{f.check} {f.table or ''}".strip() for f in extra} == {expected}, breaks
            assert report.exit_code == Exit.FINDINGS
            if mends:
                world.execute(*mends.split("; "))
            else:
                world.apply(what)
        world.execute(f"ALTER TABLE account_s1 OWNER TO {app}")
        assert "bypassing-roles core account_s1" in found(audit(world, what))
    finally:
        clusters.drop_databases()
        with clusters.get(0).connect() as connection:
            for name in (login, app, boss):
                connection.execute(f"DROP ROLE IF EXISTS {name}".encode())


def test_what_passes_over_the_wall(tmp_path: Path, clusters: Clusters) -> None:
    """Roles, rights, views and functions that show the application more than its workspace."""
    with roles(clusters) as names:
        world = World(tmp_path, clusters)
        app, analytics, login = names.application, names.analytics, names.stranger
        isolation = {"rls": True, "role": app, "analytics": analytics}
        what = layout({"s1": ["a"]}, isolation=isolation)
        try:
            world.apply(what)
            world.execute(f"GRANT {app} TO {login}")
            clean = audit(world, what)
            assert {f.check for f in clean.findings} == {"superuser-owner"}
            for breaks, mends, expected in (
                (f"GRANT {analytics} TO {app}", f"REVOKE {analytics} FROM {app}", "e roles"),
                (f"GRANT {analytics} TO {login}", f"REVOKE {analytics} FROM {login}", "w roles"),
                (f"ALTER ROLE {login} REPLICATION", f"ALTER ROLE {login} NOREPLICATION", "e roles"),
                (
                    f"GRANT pg_read_server_files TO {app}",
                    f"REVOKE pg_read_server_files FROM {app}",
                    "e roles",
                ),
                (
                    f"CREATE VIEW peek AS SELECT * FROM account_s1; GRANT SELECT ON peek TO {app}",
                    "DROP VIEW peek",
                    "e roles account_s1",
                ),
                (
                    "CREATE MATERIALIZED VIEW peek AS SELECT * FROM account_s1; "
                    f"GRANT SELECT (id) ON peek TO {login}",
                    "DROP MATERIALIZED VIEW peek",
                    "e roles account_s1",
                ),
                (
                    "CREATE FUNCTION peek() RETURNS bigint LANGUAGE sql SECURITY DEFINER "
                    "AS 'SELECT count(*) FROM public.account_s1'",
                    "DROP FUNCTION peek()",
                    "w roles",
                ),
                (
                    f"GRANT TRUNCATE ON account_s1 TO {app}",
                    f"REVOKE TRUNCATE ON account_s1 FROM {app}",
                    "e grants account_s1",
                ),
                (
                    f"GRANT REFERENCES (id) ON account_s1 TO {login}",
                    f"REVOKE REFERENCES (id) ON account_s1 FROM {login}",
                    "e grants account_s1",
                ),
                (
                    f"GRANT SELECT (inner_pad) ON parlant_shard.signing_key TO {login}",
                    f"REVOKE SELECT (inner_pad) ON parlant_shard.signing_key FROM {login}",
                    "e grants parlant_shard.signing_key",
                ),
                (
                    f"GRANT CREATE ON SCHEMA parlant_shard TO {login}; "
                    f"ALTER FUNCTION parlant_shard.workspace() OWNER TO {login}; "
                    f"REVOKE CREATE ON SCHEMA parlant_shard FROM {login}",
                    "ALTER FUNCTION parlant_shard.workspace() OWNER TO CURRENT_USER",
                    "e grants",
                ),
            ):
                world.execute(*breaks.split("; "))
                report = audit(world, what)
                extra = [f for f in report.findings if f not in clean.findings]
                said = {f"{f.severity[0]} {f.check} {f.table or ''}".strip() for f in extra}
                assert said == {expected.replace("roles", "bypassing-roles")}, breaks
                assert report.failures == ()
                for finding in extra:
                    assert finding.statement is not None
                    world.execute(finding.statement)
                world.execute(*mends.split("; "))
            assert audit(world, what).findings == clean.findings
            if clusters.get(0).major >= 16:
                # Who made the role can grant it, as any role that may create some; it is no login.
                world.execute(
                    f"REVOKE {app} FROM {login}",
                    f"GRANT {app} TO {login} WITH ADMIN TRUE, INHERIT FALSE, SET FALSE",
                    f"ALTER ROLE {login} BYPASSRLS",
                )
                assert audit(world, what).findings == clean.findings
            world.execute(f"DROP OWNED BY {analytics}", f"DROP ROLE {analytics}")
            report = audit(world, what)
            assert f'the role "{analytics}" is missing' in {f.detail for f in report.findings}
            assert report.failures == ()
        finally:
            clusters.drop_databases()


def test_a_detached_partition_is_guarded_until_it_goes(tmp_path: Path, clusters: Clusters) -> None:
    with roles(clusters) as names:
        world = World(tmp_path, clusters)
        what = layout(
            {"s1": ["a"]},
            tables=cut(retention="1 month"),
            isolation={"rls": True, "role": names.application},
        )
        try:
            world.apply(what)
            leaf = f"log_s1_p{months(now_of(world), -1):%Y%m%d}"
            maintain(world, what, months(now_of(world), 2))
            assert retired(world)[leaf][0] == "detached"
            assert {f.check for f in audit(world, what).findings} == {"superuser-owner"}
            world.execute(
                f"GRANT SELECT ON {leaf} TO PUBLIC",
                f"ALTER TABLE {leaf} DISABLE ROW LEVEL SECURITY",
            )
            report = audit(world, what)
            errors = {(f.check, f.table) for f in report.findings if f.severity == "error"}
            assert errors == {("grants", leaf), ("policies", leaf)}
        finally:
            clusters.drop_databases()


# --- what cannot be checked -----------------------------------------------------------------------


def test_a_server_that_is_down(
    world: World, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    dsns = dict(world.dsns)
    nowhere = {
        name: make_conninfo(dsn, host="127.0.0.1", port=port)
        for port, (name, dsn) in enumerate(dsns.items(), 1)
    }
    for down in ({"east"}, {"core"}, {"core", "east"}):
        world.dsns = {n: nowhere[n] if n in down else d for n, d in dsns.items()}
        try:
            file = world.load(sharded()).file
            for name, dsn in world.dsns.items():
                monkeypatch.setenv(name, dsn)
            code = run(["verify", str(file), "--output", "json"])
        finally:
            world.dsns = dict(dsns)
        said = capsys.readouterr()
        if len(down) == 2:
            assert code == Exit.CANNOT_CONNECT
            assert json.loads(said.err.splitlines()[-1])["error"]["code"] == "PS401"
            continue
        report = json.loads(said.out)
        assert (code, report["ok"], report["complete"]) == (Exit.FAILED, False, False)
        assert report["findings"] == []
        assert {f["server"] for f in report["failures"]} == down
        assert not any(c["ok"] for c in report["checks"])


def test_a_role_that_does_not_see_every_row(world: World, clusters: Clusters) -> None:
    role, password = f"reader_{secrets.token_hex(4)}", "Not-Printed-55ab"
    before = dict(world.dsns)
    try:
        for index in (0, 1):
            with clusters.get(index).connect() as connection:
                connection.execute(
                    f"CREATE ROLE {role} LOGIN CREATEDB PASSWORD '{password}'".encode()
                )
        as_reader = {n: make_conninfo(d, user=role, password=password) for n, d in before.items()}

        def report(expected: str) -> Report:
            world.dsns = dict(as_reader)
            try:
                found = audit(world, sharded())
            finally:
                world.dsns = dict(before)
            assert found.exit_code == (Exit.FINDINGS if found.findings else Exit.FAILED)
            assert password not in found.to_text()
            assert any(expected in f.detail for f in found.failures), found.failures
            return found

        world.dsns = dict(as_reader)
        with pytest.raises(PrivilegeError) as refused:
            audit(world, sharded())
        assert refused.value.code == "PS413"
        world.dsns = dict(before)
        internal = (
            f"GRANT USAGE ON SCHEMA parlant_shard TO {role}",
            f"GRANT SELECT ON ALL TABLES IN SCHEMA parlant_shard TO {role}",
        )
        for server in before:
            world.execute(*internal, server=server)
        blind = report(f'role "{role}" may not read')
        assert {f.server for f in blind.failures} == {"core", "east"}
        assert blind.findings == ()
        for server in before:
            world.execute(f"GRANT SELECT ON ALL TABLES IN SCHEMA public TO {role}", server=server)
        seeing = report("user mapping not found")  # of the federated views, which run as the caller
        assert {f.check for f in seeing.failures} == {"federated-rows"}
        world.execute("ALTER TABLE account_s1 ENABLE ROW LEVEL SECURITY")
        report(f'role "{role}" does not see every row of "account_s1"')
        world.execute(f"CREATE POLICY audit ON account_s1 FOR SELECT TO {role} USING (true)")
        assert {f.check for f in report("user mapping").failures} == {"federated-rows"}
    finally:
        world.dsns = before
        world.execute("DROP POLICY IF EXISTS audit ON account_s1")
        world.execute("ALTER TABLE account_s1 DISABLE ROW LEVEL SECURITY")
        for server in before:
            world.execute(f"DROP OWNED BY {role}", server=server)
        for index in (0, 1):
            with clusters.get(index).connect() as connection:
                connection.execute(f"DROP ROLE {role}".encode())


# --- resuming -------------------------------------------------------------------------------------

KILLED = """
import os, signal, sys
from parlant_shard.topology import load_topology
from parlant_shard.verify import site, state, verify
from pathlib import Path
site._FIRST = site._LEAST = site._MOST = 1  # every page is a batch
state._PAUSE = 0
advance = state.Progress.advance
def deadly(self, unit, position, findings):
    advance(self, unit, position, findings)
    if unit.startswith("misplaced-rows core account_s1") and position.page == 6:
        os.kill(os.getpid(), signal.SIGKILL)
state.Progress.advance = deadly
verify(load_topology(sys.argv[1]), state=Path(sys.argv[2]))
"""


def test_a_killed_run_is_resumed(
    tmp_path: Path, clusters: Clusters, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It finds what it had found, once, and what was written meanwhile on pages it had read."""
    world = World(tmp_path, clusters)
    what = sharded({"s1": ["a"], "s2": ["c"]}, tables={**TABLES, "tariff": {"kind": "host"}})
    world.apply(what)
    fill(world, {"a": ("core", "s1"), "c": ("core", "s2")})
    many = (
        "INSERT INTO account_s1 (workspace_id, secret) "
        f"SELECT 'a', repeat('{SECRET}', 10) FROM generate_series(1, 400)"
    )
    stray = "INSERT INTO account_s1 (workspace_id, secret) VALUES ('z', '{}')"
    check = "CHECK (workspace_id = ANY ('{a}'::text[]))"
    world.execute(
        FREELY,
        *(
            s.replace("{check}", check)
            for s in unchecked("account_s1", stray.format(1), many, stray.format(2))
        ),
        "VACUUM account_s1",
    )
    assert world.value("SELECT pg_relation_size('account_s1') / 8192") > 12
    state = tmp_path / "verify.state"
    file = world.load(what).file
    environment = {**os.environ, **world.dsns}
    killed = subprocess.run(
        [sys.executable, "-c", KILLED, str(file), str(state)],
        env=environment, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert SECRET not in state.read_text(encoding="utf-8")
    assert state.stat().st_mode & 0o077 == 0
    unit = json.loads(state.read_text(encoding="utf-8"))["open"]
    assert [u["page"] for u in unit.values()] == [6]
    # A row of nobody comes, on a page that was read already.
    world.execute(
        FREELY,
        "DELETE FROM account_s1 WHERE ctid < '(1,0)' AND workspace_id = 'a' AND creator IS NULL",
        "VACUUM account_s1",
        *(s.replace("{check}", check) for s in unchecked("account_s1", stray.format(3))),
    )
    place = world.value("SELECT ctid FROM account_s1 WHERE secret = '3'")
    assert place.startswith("(0,")
    with pytest.raises(ShardError) as refused:
        audit(world, what, state=state, workspace="a")
    assert refused.value.code == "PS701"
    report = audit(world, what, state=state)
    rows = {(f.check, f.workspace): f.rows for f in report.findings}
    # The strays' reference row is missing as well: looked for after the resume.
    assert rows == {("misplaced-rows", "z"): 3, ("parents", "z"): 3}
    assert len(report.snapshots) == 4
    assert "more than one snapshot" in report.to_text()
    assert not state.exists()
    state.write_text("[]", encoding="utf-8")
    with pytest.raises(ShardError) as refused:
        audit(world, what, state=state)
    assert refused.value.code == "PS700"


def test_the_command_line(
    world: World, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = str(world.load(sharded()).file)
    for name, dsn in world.dsns.items():
        monkeypatch.setenv(name, dsn)
    assert run(["verify", file]) == Exit.DONE
    assert "0 errors, 0 warnings." in capsys.readouterr().out
    world.execute("GRANT SELECT ON item_s1 TO PUBLIC")
    try:
        assert run(["verify", file, "--output", "json"]) == Exit.FINDINGS
    finally:
        world.execute("REVOKE SELECT ON item_s1 FROM PUBLIC")
    report = json.loads(capsys.readouterr().out)
    assert (report["format_version"], report["ok"], report["complete"]) == (1, False, True)
    (finding,) = report["findings"]
    assert {k: finding[k] for k in ("check", "server", "shard", "table", "workspace", "rows")} == {
        "check": "grants", "server": "core", "shard": "s1", "table": "item_s1",
        "workspace": None, "rows": 0,
    }  # fmt: skip
    assert {c["name"]: c["ok"] for c in report["checks"]}["grants"] is False
