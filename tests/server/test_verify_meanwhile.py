"""`verify` while others write, rewrite, drop and mend, and while servers die."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
from protocol import World
from psycopg.conninfo import conninfo_to_dict
from psycopg.sql import SQL, Identifier
from verified import audit, found, key, lasting, sharded
from verify_cases import FREELY, HAVE, Case, filled_in

from parlant_shard.db import Connection
from parlant_shard.errors import Exit
from parlant_shard.locks import lock_is_free
from parlant_shard.verify import Finding, across, duplicates, site
from parlant_shard.verify.read import Seen
from parlant_shard.verify.run import _OF_ALL
from parlant_shard.verify.site import Row, Site
from servers import Clusters

pytestmark = [pytest.mark.matrix, pytest.mark.needs(superuser=True, clusters=2, logical=True)]


@pytest.fixture(scope="module")
def world(clusters: Clusters, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """Give a cluster that every test leaves as it found it."""
    yield from lasting(tmp_path_factory.mktemp("verify"), clusters)


def test_one_moment_and_no_lock_that_stays(world: World) -> None:
    """Rows are judged by the snapshot, and nobody waits for a table that was read."""
    steps: list[str] = []

    def meanwhile(text: str) -> None:
        steps.append(text)
        if text.startswith("definitions"):
            world.execute(FREELY, "INSERT INTO item_s1 (workspace_id, account_id) "
                          "VALUES ('a', gen_random_uuid())")  # fmt: skip
        if text.startswith("federated-rows"):
            for server, table in (("core", "item_s1"), ("core", "log_s1"), ("east", "item_s2")):
                world.execute(
                    "SET lock_timeout = '1s'",
                    f"DO $$ BEGIN LOCK TABLE {table} IN ACCESS EXCLUSIVE MODE; END $$",
                    server=server,
                )

    try:
        report = audit(world, sharded(), say=meanwhile)
        assert steps[-1].startswith("federated-rows")
        assert found(report) == set()
        assert found(audit(world, sharded())) == {"parents core s1 item_s1 a"}
    finally:
        world.execute("DELETE FROM item_s1 i WHERE NOT EXISTS "
                      "(SELECT FROM account_s1 a WHERE a.id = i.account_id)")  # fmt: skip


def test_a_copy_that_is_a_moment_behind_is_none_that_differs(world: World) -> None:
    with world.connect("east") as holder:
        holder.execute("BEGIN")
        holder.execute('LOCK TABLE "user" IN SHARE MODE')  # replication waits, readers do not
        world.execute("""UPDATE "user" SET name = 'Zwei' WHERE id = 'u2'""")
        looked: list[set[tuple[str, str]]] = []

        def meanwhile(text: str) -> None:
            if text.startswith("duplicate-key"):
                looked.append(set(world.rows('SELECT id, name FROM "user"', server="east")))
                holder.execute("ROLLBACK")

        try:
            report = audit(world, sharded(), say=meanwhile)
        finally:
            world.execute("""UPDATE "user" SET name = 'Two' WHERE id = 'u2'""")
    assert ("u2", "Two") in looked[0]
    assert found(report) == set()


def test_what_is_mended_meanwhile_is_no_finding(world: World) -> None:
    """Two servers are never read at one moment, and `apply` may be at work."""
    world.execute("DELETE FROM parlant_shard.directory WHERE workspace_id = 'a'")
    world.execute("DROP INDEX item_note_idx_s2", server="east")

    def meanwhile(text: str) -> None:
        if text.startswith("definitions"):
            assert "2 findings" in text
            world.execute("INSERT INTO parlant_shard.directory " + HAVE.format("a", "s1"))
        if text.startswith("federated-rows"):
            world.execute("CREATE INDEX item_note_idx_s2 ON item_s2 (note)", server="east")

    report = audit(world, sharded(), say=meanwhile)
    assert (report.findings, report.failures) == ((), ())


def test_no_run_waits_for_a_snapshot_that_waits_for_it(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run that builds an index concurrently goes on while `verify` waits for its end."""
    world.execute("DROP INDEX item_note_idx_s1")
    asked: list[bool] = []

    def free(connection: Connection, topology: str) -> bool:
        assert lock_is_free(connection, topology)
        if not asked:
            world.execute(
                "SET statement_timeout = '20s'",
                "CREATE INDEX CONCURRENTLY item_note_idx_s1 ON item_s1 (note)",
            )
        asked.append(True)
        return len(asked) > 1

    monkeypatch.setattr("parlant_shard.verify.run.lock_is_free", free)
    assert found(audit(world, sharded())) == set()
    assert len(asked) == 2


def test_a_partition_that_maintain_drops_meanwhile(world: World) -> None:
    case = Case("", set(), (), ())
    drop, create, key = filled_in(
        world,
        case,
        (
            "DROP TABLE {next}",
            "{create next}",
            "ALTER TABLE {next} ADD CONSTRAINT {next}_pkey PRIMARY KEY (id)",
        ),
    )

    def meanwhile(text: str) -> None:
        if text.startswith("definitions"):
            world.execute(drop)

    try:
        report = audit(world, sharded(), say=meanwhile)
    finally:
        world.execute(create, key)
    assert (report.findings, report.failures) == ((), ())


def rewrite(world: World, table: str, server: str = "core") -> None:
    world.execute(
        f"ALTER TABLE {table} ADD COLUMN more float DEFAULT random()",
        f"ALTER TABLE {table} DROP COLUMN more",
        server=server,
    )


def test_a_parent_that_is_rewritten_meanwhile(world: World) -> None:
    """To an older snapshot a rewritten table is empty: its children have not lost their parents."""

    def meanwhile(text: str) -> None:
        if text.startswith("definitions"):
            rewrite(world, "account_s1")

    report = audit(world, sharded(), say=meanwhile)
    assert found(report) == set()
    # What compares keys of all shards cannot look again, and says so.
    assert {(f.check, f.server) for f in report.failures} == {("duplicate-key", "core")}
    assert '"account_s1" of server "core" was rewritten' in report.failures[0].detail


def test_what_is_wrong_in_a_table_that_is_rewritten_meanwhile(world: World) -> None:
    """It is no all-clear that an older snapshot sees no rows."""
    mine, other = key("c", "account"), key("a", "account")
    world.execute(
        FREELY,
        f"UPDATE account_s2 SET tariff = 99, creator = 'nobody' WHERE id = '{mine}'",
        f"INSERT INTO account_s2 (id, workspace_id) VALUES ('{other}', 'c')",
        server="east",
    )

    def meanwhile(text: str) -> None:
        if text.startswith("definitions"):
            rewrite(world, "account_s2", "east")
            rewrite(world, '"user"')
            rewrite(world, '"user"', "east")

    try:
        report = audit(world, sharded(), say=meanwhile)
        assert found(report) == {"parents east s2 account_s2 c"}
        details = sorted(f.detail for f in report.findings)
        assert [d.split('"')[1] for d in details] == ["tariff", "user"]
        failed = {(f.check, f.detail.split('"')[1]) for f in report.failures}
        assert failed == {("duplicate-key", "account_s2"), ("reference-rows", "user")}
    finally:
        world.execute(
            f"DELETE FROM account_s2 WHERE id = '{other}'",
            f"UPDATE account_s2 SET tariff = 1, creator = 'u1' WHERE id = '{mine}'",
            server="east",
        )


# --- a server that dies, a link that is broken ----------------------------------------------------


def _die(world: World, server: str) -> None:
    """End the sessions of `verify` on a server, and let none begin."""
    admin = world.clusters.get(list(world.dsns).index(server))
    name = str(conninfo_to_dict(world.dsn(server))["dbname"])
    with admin.connect() as connection:
        connection.execute(
            SQL("ALTER DATABASE {} ALLOW_CONNECTIONS false").format(Identifier(name))
        )
        connection.execute(
            "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity "
            "WHERE datname = %s AND application_name = 'parlant-shard verify'",
            [name],
        )


def _rise(world: World, server: str) -> None:
    admin = world.clusters.get(list(world.dsns).index(server))
    name = str(conninfo_to_dict(world.dsn(server))["dbname"])
    with admin.connect() as connection:
        connection.execute(SQL("ALTER DATABASE {} ALLOW_CONNECTIONS true").format(Identifier(name)))


@pytest.mark.parametrize(
    ("server", "moment"),
    [
        ("east", "reading"),
        ("core", "reading"),
        ("east", "definitions"),
        ("east", "east: misplaced-rows: 0 %"),
        ("core", "core: misplaced-rows"),
        ("east", "duplicate-key"),
        ("core", "duplicate-key"),
    ],
)
def test_a_server_that_dies_half_way(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, server: str, moment: str
) -> None:
    """One failure, what the others said stays, and the next run with the state file goes on."""
    other = {"core": "east", "east": "core"}[server]
    many = (
        "INSERT INTO item_{s} (workspace_id, account_id, note) SELECT '{w}', '{a}', 'many' "
        "FROM generate_series(1, 3000)"
    )
    world.execute(many.format(s="s1", w="a", a=key("a", "account")))
    world.execute(many.format(s="s2", w="c", a=key("c", "account")), server="east")
    monkeypatch.setattr("parlant_shard.verify.site._FIRST", 4)
    monkeypatch.setattr("parlant_shard.verify.site._MOST", 4)
    monkeypatch.setattr("parlant_shard.verify.run._WORD", -1)
    state, died = tmp_path / "verify.state", []

    def first(seen: Seen) -> list[Finding]:
        if moment == "reading" and len(seen.sites) == 2 and not died:
            meanwhile(moment)
        return []

    looks = ((("schema",), first), *_OF_ALL)
    monkeypatch.setattr("parlant_shard.verify.run._OF_ALL", looks)

    def meanwhile(text: str) -> None:
        wanted = moment if "%" not in moment else f"{server}: misplaced-rows: item_"
        if text.startswith(wanted) and not died:
            died.append(text)
            _die(world, server)

    wrong = {"core": ("account_s1", "a"), "east": ("account_s2", "c")}[other]
    orphan = f"UPDATE {wrong[0]} SET creator = 'nobody' WHERE id = '{key(wrong[1], 'account')}'"
    try:
        for breaks, code in ((None, Exit.FAILED), (orphan, Exit.FINDINGS)):
            if breaks:
                world.execute(FREELY, breaks, server=other)
            died.clear()
            try:
                report = audit(world, sharded(), say=meanwhile, state=state)
            finally:
                _rise(world, server)
            assert died
            assert report.exit_code == code
            said = [(f.server, f.detail.split(",")[0]) for f in report.failures]
            assert said == [(server, f'server "{server}"')], report.failures
            assert report.failures[0].hint
            assert not report.to_json()["complete"]
            expected = (
                {f"parents {other} {wrong[0][-2:]} {wrong[0]} {wrong[1]}"} if breaks else set()
            )
            assert found(report) == expected
            done = json.loads(state.read_text(encoding="utf-8"))["done"]
            assert any(unit.split()[1] == other for unit in done)
            resumed = audit(world, sharded(), state=state)
            assert (found(resumed), resumed.failures) == (expected, ())
            assert not state.exists()
    finally:
        world.execute(
            f"UPDATE {wrong[0]} SET creator = 'u1' WHERE creator = 'nobody'", server=other
        )
        world.execute("DELETE FROM item_s1 WHERE note = 'many'")
        world.execute("DELETE FROM item_s2 WHERE note = 'many'", server="east")


def test_a_link_that_is_broken_is_said_once(world: World) -> None:
    """Not once for each table: one cause, the number of tables, and what to do."""
    mapping = "USER MAPPING FOR CURRENT_USER SERVER parlant_shard_east"
    given = dict(
        option.split("=", 1)
        for option in world.value(
            "SELECT umoptions FROM pg_user_mappings WHERE srvname = 'parlant_shard_east' "
            "AND usename = current_user"
        )
    )
    options = ", ".join(f"{name} '{value}'" for name, value in given.items())
    port = conninfo_to_dict(world.dsn("east"))["port"]
    address = "ALTER SERVER parlant_shard_east OPTIONS (SET port '{}')"
    for breaks, mends, says, hint in (
        (f"DROP {mapping}", f"CREATE {mapping} OPTIONS ({options})", "user mapping", "CREATE USER"),
        (
            f"ALTER {mapping} OPTIONS (SET password 'wrong')",
            f"ALTER {mapping} OPTIONS (SET password '{given.get('password', '')}')",
            "password",
            "ALTER USER MAPPING",
        ),
        (address.format(1), address.format(port), "could not connect", "peer_dsn"),
    ):
        world.execute(breaks)
        try:
            report = audit(world, sharded())
        finally:
            world.execute(mends)
        (failure,) = report.failures
        assert failure.check == "federated-rows"
        assert 'reading "account" and 2 more tables' in failure.detail
        assert says in failure.detail
        assert hint in str(failure.hint)
        assert "wrong" not in report.to_text()


# --- what gets worse, comes late, or fails on one server ------------------------------------------


def test_what_gets_worse_meanwhile_stays_a_finding(world: World) -> None:
    """The second look has other words for it, and those are told."""
    world.execute("GRANT SELECT ON account_s1 TO PUBLIC")

    def meanwhile(text: str) -> None:
        if text.startswith("federated-rows"):
            world.execute("GRANT INSERT ON account_s1 TO PUBLIC")

    try:
        report = audit(world, sharded(), say=meanwhile)
    finally:
        world.execute("REVOKE ALL ON account_s1 FROM PUBLIC")
    assert found(report) == {"grants core s1 account_s1"}
    assert "INSERT, SELECT" in report.findings[0].detail


def test_a_session_that_ends_in_the_second_look(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was found before stands."""
    original, looks = Site.require_all_rows, []

    def dying(self: Site, tables: list[str]) -> None:
        looks.append(self.server)
        if len(looks) == 3:  # the first of the second look at two servers
            world.execute(
                f"SELECT pg_terminate_backend({self.connection.info.backend_pid}, 5000)",
                server=self.server,
            )
        original(self, tables)

    monkeypatch.setattr(Site, "require_all_rows", dying)
    world.execute("GRANT SELECT ON account_s2 TO PUBLIC", server="east")
    try:
        report = audit(world, sharded())
    finally:
        world.execute("REVOKE ALL ON account_s2 FROM PUBLIC", server="east")
    assert len(looks) > 2
    assert found(report) == {"grants east s2 account_s2"}


def test_an_error_on_one_server_hides_no_other(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = Site.named

    for failing, other, table, expected in (
        ("core", "east", "account_s2", "grants east s2 account_s2"),
        ("east", "core", "account_s1", "grants core s1 account_s1"),
    ):

        def named(self: Site, name: str, failing: str = failing, **params: Any) -> list[Row]:
            if (self.server, name) == (failing, "internal_grants"):
                return self.rows(SQL("SELECT 1 / 0"))
            return original(self, name, **params)

        monkeypatch.setattr(Site, "named", named)
        world.execute(f"GRANT SELECT ON {table} TO PUBLIC", server=other)
        try:
            report = audit(world, sharded())
        finally:
            world.execute(f"REVOKE ALL ON {table} FROM PUBLIC", server=other)
        assert found(report) == {expected}
        assert [(f.check, f.server) for f in report.failures] == [("grants", failing)]
        # Nothing was looked at that comes after it.
        lines = {c.name: c for c in report.checks}
        assert not lines["superuser-owner"].ok
        assert failing in lines["superuser-owner"].detail


def test_parents_that_come_late(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the first that were missing have come, the others are missing still."""
    monkeypatch.setattr("parlant_shard.verify.across._LOCATED", 1)
    original = Site.rewritten

    def later(self: Site, tables: Iterable[str]) -> list[str]:
        if tables == ["account_s2"]:  # when the references have been read
            late = "INSERT INTO tariff SELECT n, 'late' FROM generate_series(52, 70) n"
            world.execute(f"{late} ON CONFLICT DO NOTHING")
        return original(self, tables)

    rows = (
        "INSERT INTO account_s2 (id, workspace_id, tariff) "
        "SELECT gen_random_uuid(), 'c', n FROM generate_series(51, 70) n"
    )
    world.execute(FREELY, rows, server="east")
    monkeypatch.setattr(Site, "rewritten", later)
    try:
        report = audit(world, sharded())
    finally:
        world.execute("DELETE FROM account_s2 WHERE tariff > 50", server="east")
        world.execute("DELETE FROM tariff WHERE id > 50")
    assert found(report) == {"parents east s2 account_s2 c"}
    assert report.findings[0].rows == 1


def test_duplicates_behind_some_that_go(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first candidates are none any more when they are looked up; the next are."""
    original, gone = duplicates._owners, []

    def owners(*given: Any) -> dict[str, list[duplicates.Found]]:
        result = original(*given)
        if result and not gone:
            ((place, _, sample),) = [i for i in next(iter(result.values())) if i[0].shard == "s2"]
            gone.append(sample["id"])
            world.execute(f"DELETE FROM {place.table} WHERE id = '{gone[0]}'", server="east")
        return result

    monkeypatch.setattr(duplicates, "_owners", owners)
    monkeypatch.setattr(duplicates, "_LOCATED", 1)
    ids = [key("a", "account", n) for n in (1, 2, 3)]
    rows = [f"INSERT INTO account_s2 (id, workspace_id) VALUES ('{i}', 'c')" for i in ids]
    world.execute(FREELY, *rows, server="east")
    try:
        report = audit(world, sharded())
    finally:
        world.execute(
            f"DELETE FROM account_s2 WHERE id IN ({', '.join(map(repr, ids))})", server="east"
        )
    assert gone
    assert found(report) == {"duplicate-key east s2 account_s2"}
    assert report.findings[0].rows == 2


def test_a_table_that_is_rewritten_between_digests_and_keys(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = duplicates._located

    def located(seen: Seen, logical: str, *more: Any) -> list[Finding]:
        rewrite(world, "account_s2", "east")
        return original(seen, logical, *more)

    monkeypatch.setattr(duplicates, "_located", located)
    taken = key("a", "account")
    row = f"INSERT INTO account_s2 (id, workspace_id) VALUES ('{taken}', 'c')"
    world.execute(FREELY, row, server="east")
    try:
        report = audit(world, sharded())
    finally:
        world.execute(f"DELETE FROM account_s2 WHERE id = '{taken}'", server="east")
    assert [f.check for f in report.failures] == ["duplicate-key"]
    assert '"account_s2" of server "east" was rewritten' in report.failures[0].detail


def test_a_view_that_lacks_the_rows_of_a_busy_workspace(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A workspace that changes all the while is no excuse for a view that shows none of it."""
    original = across.on_each

    def busy(*given: Any) -> list[Any]:
        result = original(*given)
        row = "INSERT INTO account_s2 (id, workspace_id) VALUES (gen_random_uuid(), 'c')"
        world.execute(row, server="east")
        return result

    monkeypatch.setattr(across, "on_each", busy)
    monkeypatch.setattr(across, "_PAUSE", 0.0)
    for broken, expected in ((False, set()), (True, {"federated-rows core account_global c"})):
        if broken:
            world.execute("CREATE TABLE nothing (LIKE account_s2)", server="east")
            world.execute("ALTER FOREIGN TABLE account_s2 OPTIONS (SET table_name 'nothing')")
        try:
            report = audit(world, sharded())
        finally:
            if broken:
                restore = "ALTER FOREIGN TABLE account_s2 OPTIONS (SET table_name 'account_s2')"
                world.execute(restore)
                world.execute("DROP TABLE nothing", server="east")
            world.execute(
                "DELETE FROM account_s2 WHERE creator IS NULL AND tariff IS NULL", server="east"
            )
        assert {f for f in found(report) if f.startswith("federated-rows")} == expected
        lines = {c.name: c.detail for c in report.checks}
        assert ("changed all the while" in lines["federated-rows"]) is not broken


def test_a_parent_that_is_renamed_meanwhile(world: World) -> None:
    """A partition whose statement fails for another table is none that `maintain` dropped."""

    def meanwhile(text: str) -> None:
        if text.startswith("definitions"):
            world.execute("ALTER TABLE item_s1 RENAME TO moved")

    try:
        report = audit(world, sharded(), say=meanwhile)
    finally:
        world.execute("ALTER TABLE moved RENAME TO item_s1")
    said = [f.detail for f in report.failures if f.check == "parents"]
    assert [d for d in said if "and 2 more tables" in d], "the table itself, and its children"


def test_an_interrupt_stops_every_server(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """SIGTERM ends a run in a moment, and not when the last row is read."""
    original, begun, interrupted = site._in_savepoint, [], threading.Event()

    def waiting(connection: Connection, server: str, stop: threading.Event, *more: Any) -> Any:
        if server == "east" and threading.current_thread() is not threading.main_thread():
            begun.append(server)
            assert interrupted.wait(60)
            stop.wait(10)
        return original(connection, server, stop, *more)

    def say(text: str) -> None:
        if text.startswith("definitions"):
            begun.clear()
            monkeypatch.setattr(site, "_in_savepoint", waiting)
        if text.startswith("core: misplaced-rows: "):
            interrupted.set()
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        audit(world, sharded(), say=say)
    assert begun == ["east"]
