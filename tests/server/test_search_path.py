"""Functions of the application that rely on its search_path work in our sessions, and nobody
else's are called.
"""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import psycopg
import pytest
from protocol import SCHEMA, Layout, World, layout
from psycopg.conninfo import make_conninfo
from test_archive import expire, files, kept, retired, there, this_month
from test_default_partitions import OLD
from test_maintain import cut, maintain, months, now_of, put, settled

from parlant_shard import db, journal, privacy
from parlant_shard import maintain as upkeep
from parlant_shard.apply import apply
from parlant_shard.errors import ApplyFailed
from parlant_shard.plan import Kind, Step
from parlant_shard.restore import restore
from parlant_shard.topology import Interval
from parlant_shard.verify import verify
from servers import Clusters, database_name

pytestmark = pytest.mark.matrix

FUNCTIONS = """
CREATE FUNCTION weight(text) RETURNS integer IMMUTABLE LANGUAGE sql AS 'SELECT length($1)';
CREATE FUNCTION heavy(text) RETURNS integer IMMUTABLE LANGUAGE sql AS 'SELECT weight($1) + 1';
CREATE FUNCTION fine(text) RETURNS boolean STABLE LANGUAGE plpgsql AS
  'BEGIN RETURN coalesce(weight($1), 0) >= 0; END';
CREATE FUNCTION touch() RETURNS trigger LANGUAGE plpgsql AS
  'BEGIN NEW.body := coalesce(NEW.body, ''''); PERFORM weight(NEW.body); RETURN NEW; END';
CREATE FUNCTION gone() RETURNS trigger LANGUAGE plpgsql AS
  'BEGIN PERFORM weight(OLD.body); RETURN OLD; END';
"""
GENERATED = "  weighs integer GENERATED ALWAYS AS (heavy(body)) STORED,\n"
CHECKED = "  CONSTRAINT log_fine CHECK (fine(body))\n"
TRIGGERS = """
CREATE TRIGGER log_touch BEFORE INSERT OR UPDATE ON log FOR EACH ROW EXECUTE FUNCTION touch();
CREATE TRIGGER log_gone BEFORE DELETE ON log FOR EACH ROW EXECUTE FUNCTION gone();
"""


def schema(*parts: str, functions: str = FUNCTIONS) -> str:
    """The schema whose table `log` calls functions that name others without their schema."""
    tail = "  body text\n);\nCREATE INDEX log_item_idx"
    assert tail in SCHEMA
    more = ",\n".join(p.rstrip().rstrip(",") for p in parts if p)
    body = "  body text" + (",\n" + more if more else "") + "\n);\nCREATE INDEX log_item_idx"
    return functions + SCHEMA.replace(tail, body)


RELIES = schema(GENERATED, CHECKED) + TRIGGERS


@pytest.fixture
def world(tmp_path: Path, clusters: Clusters) -> World:
    """Give the databases of one server."""
    return World(tmp_path, clusters)


def mallory(world: World, clusters: Clusters) -> str:
    """Make a role that may create in `public`; return its conninfo."""
    dsn = world.dsn("core")
    role = f"m_{database_name(dsn)}"
    world.execute(
        f"CREATE ROLE {role} LOGIN PASSWORD 'planted'", f"GRANT CREATE ON SCHEMA public TO {role}"
    )
    return make_conninfo(dsn, user=role, password="planted")


def wrong(world: World, what: Layout) -> list[str]:
    """What `verify` finds, and what it cannot check."""
    report = verify(world.load(what))
    return [f.detail for f in report.findings] + [f"{f.detail} ({f.hint})" for f in report.failures]


def test_rows_are_archived_and_restored(world: World) -> None:
    what = layout({"s1": ["a"]}, ddl=RELIES, tables=kept())
    world.converge(what)
    put(world, now_of(world))
    name = this_month(world)
    later, report = expire(world, what)
    assert [f.message for f in report.failures] == []
    assert retired(world)[name][0] == "archived"
    restored = restore(world.load(what), name, keep=Interval(300, "day"))
    assert (restored.rows, restored.state) == (1, "restored")
    assert world.rows("SELECT body, weighs FROM log_s1") == [("", 1)]
    settled(world, what, later)
    assert wrong(world, what) == []


def test_rows_are_moved_out_of_a_default_partition(world: World) -> None:
    what = layout({"s1": ["a"]}, ddl=RELIES, tables=cut("1 month", 1, default=True))
    world.apply(what)
    put(world, OLD)
    maintain(world, what, move=10)
    assert world.value("SELECT count(*) FROM ONLY log_s1_default") == 0
    assert world.value("SELECT count(*) FROM log_s1") == 1


def test_filled_tables_get_what_calls_them(world: World) -> None:
    """ADD COLUMN, ADD CHECK and VALIDATE, of a plain table and of a partitioned one."""
    for tables in ({}, cut()):
        bare = layout({"s1": ["a"]}, ddl=schema(), tables=tables)
        other = World(world.directory, world.clusters)
        other.apply(bare)
        put(other, now_of(other))
        other.converge(layout({"s1": ["a"]}, ddl=schema(GENERATED, CHECKED), tables=tables))
        assert other.value("SELECT fine(body) AND weighs IS NULL FROM log_s1")


def test_a_volatile_default_and_triggers_are_run(world: World) -> None:
    """The batches that fill a column fire the application's triggers."""
    world.apply(layout({"s1": ["a"]}, ddl=RELIES))
    put(world, now_of(world))
    functions = FUNCTIONS.replace(
        "CREATE FUNCTION touch",
        "CREATE FUNCTION chance() RETURNS integer VOLATILE LANGUAGE plpgsql AS "
        "'BEGIN RETURN weight(''four''); END';\nCREATE FUNCTION touch",
    )
    more = schema(GENERATED, "  lot integer DEFAULT chance()", CHECKED, functions=functions)
    world.converge(layout({"s1": ["a"]}, ddl=more + TRIGGERS))
    assert world.rows("SELECT lot, weighs FROM log_s1") == [(4, 1)]


def test_an_index_needs_functions_that_stand_alone(world: World, clusters: Clusters) -> None:
    """PostgreSQL 17 evaluates them with pg_catalog alone; the message says what to do."""
    bare = layout({"s1": ["a"]}, ddl=schema())
    world.apply(bare)
    put(world, now_of(world))
    ddl = schema() + "CREATE INDEX log_fine_idx ON log (note_of(body));\n"
    function = "CREATE FUNCTION note_of(text) RETURNS integer IMMUTABLE LANGUAGE plpgsql AS "
    relies = function + "'BEGIN RETURN weight($1); END';\n"
    if clusters.get(0).major < 17:
        world.converge(layout({"s1": ["a"]}, ddl=relies + ddl))
        return
    with pytest.raises(ApplyFailed) as failed:
        apply(world.load(layout({"s1": ["a"]}, ddl=relies + ddl)))
    assert failed.value.code == "PS558"
    assert "weight(text) does not exist" in failed.value.message
    assert "note_of(text)" in failed.value.message
    assert "SET search_path = public, pg_temp" in (failed.value.hint or "")
    assert "17 and later" in (failed.value.hint or "")
    pinned = relies.replace(" AS ", " SET search_path = public, pg_temp AS ")
    world.converge(layout({"s1": ["a"]}, ddl=pinned + ddl), allow=frozenset())


# --- what would not come back ---------------------------------------------------------------------


def test_what_does_not_load_is_not_dropped(world: World) -> None:
    """The function works no more: the archive must be refused while the rows are there."""
    what = layout({"s1": ["a"]}, ddl=RELIES, tables=kept())
    world.apply(what)
    put(world, now_of(world))
    name = this_month(world)
    world.execute("ALTER FUNCTION weight(text) RENAME TO weight_of")
    later, report = expire(world, what)
    (failure,) = report.failures
    assert failure.code == "PS557"
    assert "weight(text) does not exist" in failure.message
    assert "SET search_path" in (failure.hint or "")
    assert there(world, name)
    assert retired(world)[name][0] == "detached"
    assert [f for f in files(world) if name in f] == []
    world.execute("ALTER FUNCTION weight_of(text) RENAME TO weight")
    assert upkeep.maintain(world.load(what), now=later).failures == []
    assert retired(world)[name][0] == "archived"


def test_rows_that_violate_a_check_are_not_dropped(world: World) -> None:
    """A CHECK that was never validated lets its rows into no new table."""
    what = layout({"s1": ["a"]}, tables=kept())
    world.apply(what)
    put(world, now_of(world))
    name = this_month(world)
    now = months(now_of(world), 4)
    maintain(world, what, now)  # detaches it
    world.execute(f"ALTER TABLE {name} ADD CONSTRAINT never CHECK (body IS NOT NULL) NOT VALID")
    later = now + timedelta(days=8)
    report = upkeep.maintain(world.load(what), now=later)
    (failure,) = report.failures
    assert failure.code == "PS557"
    assert '"never"' in failure.message + (failure.hint or "")
    assert there(world, name)
    world.execute(f"ALTER TABLE {name} DROP CONSTRAINT never")
    assert upkeep.maintain(world.load(what), now=later).failures == []
    assert retired(world)[name][0] == "archived"


@pytest.mark.needs(major=17)
def test_an_index_that_could_not_be_built_again_keeps_the_partition(world: World) -> None:
    """Rows go into an index under the application's path; PostgreSQL 17 builds it without."""
    pinned = "SET search_path = public, pg_temp AS "
    functions = FUNCTIONS.replace(
        "STABLE LANGUAGE plpgsql AS", f"IMMUTABLE LANGUAGE plpgsql {pinned}"
    )
    ddl = schema(functions=functions) + "CREATE INDEX log_fine_idx ON log (fine(body));\n"
    what = layout({"s1": ["a"]}, ddl=ddl, tables=kept())
    world.apply(what)
    put(world, now_of(world))
    name = this_month(world)
    world.execute("ALTER FUNCTION fine(text) RESET search_path")
    later, report = expire(world, what)
    assert {f.code for f in report.failures} == {"PS557"}
    assert there(world, name)
    world.execute("ALTER FUNCTION fine(text) SET search_path = public, pg_temp")
    assert upkeep.maintain(world.load(what), now=later).failures == []
    assert retired(world)[name][0] == "archived"


# --- what others plant ----------------------------------------------------------------------------

TRAPS = (
    # A better match than length(text) of a varchar, and than the operator of two texts.
    "CREATE FUNCTION public.weight(varchar) RETURNS integer VOLATILE LANGUAGE plpgsql AS "
    "'BEGIN PERFORM nextval(''public.caught''); RETURN 1; END'",
    "CREATE FUNCTION public.same(varchar, varchar) RETURNS boolean VOLATILE LANGUAGE plpgsql AS "
    "'BEGIN PERFORM nextval(''public.caught''); RETURN true; END'",
    "CREATE OPERATOR public.= (LEFTARG = varchar, RIGHTARG = varchar, FUNCTION = public.same)",
)
# What it calls has no exact match: who may create one of `varchar` captures it.
CAPTURED = FUNCTIONS.replace(
    "'BEGIN RETURN coalesce(weight($1), 0) >= 0; END'",
    "'BEGIN RETURN coalesce(weight($1::varchar), 0) >= 0 AND $1::varchar = $1::varchar; END'",
)


def plant(world: World, other: str) -> None:
    """A sequence tells of a call also where the transaction is rolled back."""
    world.execute("CREATE SEQUENCE public.caught", "GRANT USAGE ON public.caught TO PUBLIC")
    with psycopg.connect(other, autocommit=True) as connection:
        for trap in TRAPS:
            connection.execute(trap)


# `weight(x)` is a cast to it, before any function is looked for; its CHECK calls what it likes.
DOMAIN = (
    "CREATE FUNCTION theirs.evil(text) RETURNS boolean VOLATILE LANGUAGE plpgsql AS "
    "'BEGIN PERFORM nextval(''public.caught''); RETURN true; END'",
    "CREATE DOMAIN public.weight AS text CHECK (theirs.evil(VALUE))",
)


def caught(world: World) -> bool:
    return bool(world.value("SELECT is_called FROM public.caught"))


@pytest.mark.needs(superuser=True)
@pytest.mark.parametrize("revoked", [False, True])
def test_nothing_that_another_role_planted_is_called(
    world: World, clusters: Clusters, revoked: bool
) -> None:
    """Also what was planted before its right was revoked. The message says who may create."""
    what = layout({"s1": ["a"]}, ddl=schema(CHECKED, functions=CAPTURED), tables=kept())
    world.apply(what)
    put(world, now_of(world))
    name = this_month(world)
    other = mallory(world, clusters)
    role = f"m_{database_name(world.dsn('core'))}"
    try:
        plant(world, other)
        if revoked:
            world.execute(f"REVOKE CREATE ON SCHEMA public FROM {role}")
        later, report = expire(world, what)
        assert not caught(world)
        (failure,) = report.failures
        assert failure.code == "PS557"
        assert f'schema "public" is not on the path of our sessions, because {role}' in (
            failure.hint or ""
        )
        assert there(world, name)
        # The trap is one: the application itself falls into it.
        world.execute(f"SELECT fine(body) FROM {name}")
        assert caught(world)
        # What the hint says helps although that role may still create.
        world.execute(
            "ALTER FUNCTION fine(text) SET search_path = pg_catalog, pg_temp",
            "CREATE OR REPLACE FUNCTION fine(text) RETURNS boolean STABLE LANGUAGE plpgsql "
            "SET search_path = pg_catalog, pg_temp AS 'BEGIN RETURN true; END'",
        )
        assert upkeep.maintain(world.load(what), now=later).failures == []
        assert retired(world)[name][0] == "archived"
    finally:
        world.execute(f"DROP OWNED BY {role}", f"DROP ROLE {role}")


@pytest.mark.needs(superuser=True)
def test_a_domain_of_another_role_is_not_taken_for_a_function(
    world: World, clusters: Clusters
) -> None:
    # Without an exact match of a function the cast goes first; its value counts for nothing.
    functions = FUNCTIONS.replace("weight(text)", "weight(varchar)").replace(
        "RETURN coalesce(weight($1), 0) >= 0;", "PERFORM weight($1); RETURN true;"
    )
    what = layout({"s1": ["a"]}, ddl=schema(CHECKED, functions=functions))
    plain = layout({"s1": ["a"]}, ddl=schema(functions=functions))
    world.apply(plain)
    put(world, now_of(world))
    other = mallory(world, clusters)
    role = f"m_{database_name(world.dsn('core'))}"
    try:
        world.execute(
            "CREATE SEQUENCE public.caught",
            "GRANT USAGE ON public.caught TO PUBLIC",
            f"CREATE SCHEMA theirs AUTHORIZATION {role}",
            "GRANT USAGE ON SCHEMA theirs TO PUBLIC",
        )
        with psycopg.connect(other, autocommit=True) as connection:
            for trap in DOMAIN:
                connection.execute(trap)
        world.execute(f"REVOKE CREATE ON SCHEMA public FROM {role}")
        with pytest.raises(ApplyFailed) as failed:
            apply(world.load(what))
        assert not caught(world)
        assert failed.value.code == "PS558"
        assert f"because {role} may create in it, or owns functions, operators, types" in (
            failed.value.hint or ""
        )
        # The trap is one: the application itself falls into it.
        world.execute("SELECT fine('x')")
        assert caught(world)
    finally:
        world.execute(f"DROP OWNED BY {role} CASCADE", f"DROP ROLE {role}")


def test_a_purge_and_a_named_schema(world: World) -> None:
    """Deletes fire triggers; the namespace may need quotes, `public` and an extension's follow."""
    world.dsn("core")
    world.execute(
        'CREATE SCHEMA "Our Tables"',
        "CREATE SCHEMA tools",
        "CREATE EXTENSION citext SCHEMA tools",
        "CREATE FUNCTION public.shared(text) RETURNS integer IMMUTABLE LANGUAGE sql "
        "AS 'SELECT pg_catalog.length($1)'",
    )
    functions = FUNCTIONS.replace(
        "PERFORM weight(OLD.body); RETURN OLD",
        "PERFORM weight(OLD.body), shared(OLD.body), OLD.body::citext; RETURN OLD",
    )
    ddl = schema(GENERATED, CHECKED, functions=functions) + TRIGGERS
    what = layout({"s1": ["a"]}, ddl=ddl, namespace="Our Tables")
    world.converge(what)
    with world.connect() as connection:
        connection.execute('SET search_path = "Our Tables", public, tools')
        connection.execute("INSERT INTO account_s1 (workspace_id) VALUES ('a')")
        connection.execute(
            "INSERT INTO item_s1 (workspace_id, account_id) SELECT 'a', id FROM account_s1"
        )
        connection.execute(
            "INSERT INTO log_s1 (workspace_id, item_id, body) SELECT 'a', id, 'x' FROM item_s1"
        )
    assert wrong(world, what) == []
    done = privacy.purge(world.load(what), "a", allow=frozenset({"deletes-data"}))
    assert done.total == 3


@pytest.mark.needs(superuser=True)
def test_apply_and_moves_call_nothing_planted(world: World, clusters: Clusters) -> None:
    options = cut("1 month", 1, default=True)
    what = layout({"s1": ["a"]}, ddl=schema(CHECKED, functions=CAPTURED), tables=options)
    world.apply(what)
    put(world, OLD)
    other = mallory(world, clusters)
    role = f"m_{database_name(world.dsn('core'))}"
    try:
        plant(world, other)
        (failure,) = upkeep.maintain(world.load(what), move=10).failures
        assert failure.code == "PS558"
        assert f"because {role} may create in it" in (failure.hint or "")
        again = CHECKED + ",  CONSTRAINT log_again CHECK (fine(body))\n"
        more = layout({"s1": ["a"]}, ddl=schema(again, functions=CAPTURED), tables=options)
        with pytest.raises(ApplyFailed) as failed:
            apply(world.load(more))
        assert failed.value.code == "PS558"
        (refused,) = {f for f in wrong(world, what) if "weight(character varying)" in f}
        assert "SET search_path" in refused
        assert not caught(world)
    finally:
        world.execute(f"DROP OWNED BY {role}", f"DROP ROLE {role}")
    world.converge(more)
    maintain(world, more, move=10)
    assert world.value("SELECT count(*) FROM ONLY log_s1_default") == 0


def test_sessions_have_an_empty_path_again(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a statement that allows no transaction too: what follows it reads catalogues."""
    world.apply(layout({"s1": ["a"]}))
    paths: dict[Kind, str] = {}
    record = journal.record

    def recorded(connection: db.Connection, run_id: UUID, step: Step, **more: Any) -> None:
        row = connection.execute("SHOW search_path").fetchone()
        assert row is not None
        paths[step.kind] = row["search_path"]
        record(connection, run_id, step, **more)

    monkeypatch.setattr(journal, "record", recorded)
    more = "CREATE INDEX log_body_idx ON log (body);\n"
    what = layout({"s1": ["a"]}, ddl=schema(CHECKED) + more)
    world.apply(what)
    # A transaction has the path to its end, where its journal row is.
    assert paths == {
        Kind.CONCURRENT: "",
        Kind.METADATA: "public, pg_temp",
        Kind.VALIDATE: "public, pg_temp",
    }
    with db.session(world.load(what), "core") as connection:
        assert connection.execute("SHOW search_path").fetchone() == {"search_path": ""}
