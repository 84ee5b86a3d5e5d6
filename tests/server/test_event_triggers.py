"""Event triggers of the site run with our statements: what they change is found and put right."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from protocol import BY_MONTH, World, layout

from parlant_shard.apply import apply
from parlant_shard.errors import ApplyFailed
from parlant_shard.planner import make_plan
from servers import Clusters

pytestmark = pytest.mark.needs(superuser=True)

LAYOUT = layout({"one": ["ws1"]})
MORE = layout({"one": ["ws1"], "two": ["ws2"]})

# As managed providers recommend it: every new table gets row-level security, and so shows no row.
ENABLE = """
CREATE FUNCTION public.secure() RETURNS event_trigger LANGUAGE plpgsql AS $$
DECLARE made record;
BEGIN
  FOR made IN SELECT * FROM pg_event_trigger_ddl_commands() WHERE command_tag = 'CREATE TABLE'
     AND schema_name = 'public' LOOP
    EXECUTE format('ALTER TABLE %s ENABLE ROW LEVEL SECURITY', made.object_identity);
  END LOOP;
END $$"""
ON_CREATE = (
    "CREATE EVENT TRIGGER secure ON ddl_command_end WHEN TAG IN ('CREATE TABLE') "
    "EXECUTE FUNCTION public.secure()"
)
# It insists: what `apply` repairs is broken again within the same statement.
INSIST = """
CREATE FUNCTION public.insist() RETURNS event_trigger LANGUAGE plpgsql AS $$
DECLARE altered record;
BEGIN
  FOR altered IN SELECT * FROM pg_event_trigger_ddl_commands() WHERE object_type = 'table'
     AND schema_name = 'public' LOOP
    IF NOT (SELECT relrowsecurity FROM pg_class WHERE oid = altered.objid) THEN
      EXECUTE format('ALTER TABLE %s ENABLE ROW LEVEL SECURITY', altered.object_identity);
    END IF;
  END LOOP;
END $$"""
ON_ALTER = (
    "CREATE EVENT TRIGGER insist ON ddl_command_end WHEN TAG IN ('CREATE TABLE', 'ALTER TABLE') "
    "EXECUTE FUNCTION public.insist()"
)
# It leaves what `apply` may take away only with leave.
ADDS = """
CREATE FUNCTION public.adds() RETURNS event_trigger LANGUAGE plpgsql AS $$
DECLARE made record;
BEGIN
  FOR made IN SELECT * FROM pg_event_trigger_ddl_commands() WHERE command_tag = 'CREATE TABLE'
     AND schema_name = 'public' AND object_identity LIKE '%account%' LOOP
    EXECUTE format('CREATE INDEX ON %s (name)', made.object_identity);
  END LOOP;
END $$"""
ON_ACCOUNT = (
    "CREATE EVENT TRIGGER adds ON ddl_command_end WHEN TAG IN ('CREATE TABLE') "
    "EXECUTE FUNCTION public.adds()"
)


@pytest.fixture
def guarded(tmp_path: Path, clusters: Clusters) -> Iterator[World]:
    """Give a world with one shard, whose event triggers are gone before others clean up."""
    world = World(tmp_path, clusters)
    world.apply(LAYOUT)
    yield world
    for name in ("secure", "insist", "adds"):
        world.execute(f"DROP EVENT TRIGGER IF EXISTS {name}")


def protected(world: World) -> list[str]:
    rows = world.rows(
        "SELECT relname::text FROM pg_class WHERE relrowsecurity "
        "AND relnamespace = 'public'::regnamespace ORDER BY 1"
    )
    return [name for (name,) in rows]


def test_row_level_security_that_an_event_trigger_enables_is_taken_back(guarded: World) -> None:
    guarded.execute(ENABLE, ON_CREATE)
    said: list[str] = []
    apply(guarded.load(MORE), listener=lambda _event, _step, text: said.append(text))
    assert protected(guarded) == []
    guarded.settled(MORE)
    assert [text for text in said if text.startswith("the servers still differ: 3 steps left")]
    assert any('"secure"' in notice for notice in guarded.plan(MORE).notices)


def test_an_event_trigger_that_insists_makes_apply_fail(guarded: World) -> None:
    before = guarded.value("SELECT epoch FROM parlant_shard.map")
    guarded.execute(INSIST, ON_ALTER)
    with pytest.raises(ApplyFailed) as caught:
        guarded.apply(MORE)
    assert caught.value.code == "PS521"
    assert 'set the row-level security of "account_two"' in caught.value.message
    assert '"insist" (ddl_command_end of CREATE TABLE, ALTER TABLE; function public.insist)' in (
        caught.value.hint or ""
    )
    # No router is sent to tables in which it would find nothing.
    assert guarded.value("SELECT epoch FROM parlant_shard.map") == before
    guarded.execute("DROP EVENT TRIGGER insist")
    guarded.converge(MORE)
    assert protected(guarded) == []


def test_what_an_event_trigger_adds_is_not_dropped_without_leave(guarded: World) -> None:
    guarded.execute(ADDS, ON_ACCOUNT)
    with pytest.raises(ApplyFailed) as caught:
        guarded.apply(MORE)
    assert caught.value.code == "PS521"
    assert "account_two_name_idx" in caught.value.message
    assert guarded.value("SELECT count(*) FROM pg_class WHERE relname = 'account_two_name_idx'")
    guarded.converge(MORE, allow=frozenset({"drops-object"}))


# Grants of the shard map come last of all.
ON_GRANT = (
    "CREATE FUNCTION public.granted() RETURNS event_trigger LANGUAGE plpgsql AS "
    "$$ BEGIN ALTER TABLE public.account_one ENABLE ROW LEVEL SECURITY; END $$",
    "CREATE EVENT TRIGGER granted ON ddl_command_end WHEN TAG IN ('GRANT') "
    "EXECUTE FUNCTION public.granted()",
)


def test_nothing_of_ours_comes_after_the_look(guarded: World) -> None:
    """A grant on the shard map is a statement as any other."""
    role = f"app_{guarded.name}"
    named = layout({"one": ["ws1"]}, isolation={"role": role})
    guarded.execute(*ON_GRANT)
    try:
        apply(guarded.load(named))
        guarded.settled(named)
        assert protected(guarded) == []
    finally:
        guarded.execute("DROP EVENT TRIGGER granted", f"DROP OWNED BY {role}", f"DROP ROLE {role}")


def test_a_partition_that_an_event_trigger_adds_is_part_of_the_look(
    tmp_path: Path, clusters: Clusters
) -> None:
    """It needs the keys that its table's other partitions have."""
    world = World(tmp_path, clusters)
    parted = layout({"one": ["ws1"]}, tables=BY_MONTH)
    world.dsn("core")
    world.execute(
        "CREATE FUNCTION public.far() RETURNS event_trigger LANGUAGE plpgsql AS $$ BEGIN "
        "IF to_regclass('public.log_one') IS NOT NULL AND to_regclass('public.log_far') IS NULL "
        "THEN CREATE TABLE public.log_far PARTITION OF public.log_one "
        "FOR VALUES FROM ('2131-01-01') TO ('2131-02-01'); END IF; END $$",
        "CREATE EVENT TRIGGER far ON ddl_command_end WHEN TAG IN ('CREATE TABLE') "
        "EXECUTE FUNCTION public.far()",
    )
    world.apply(parted)
    world.execute("DROP EVENT TRIGGER far")
    assert [s.title for s in make_plan(world.load(parted)).steps] == []


def test_beside_a_saved_plan_nothing_is_repaired(guarded: World) -> None:
    guarded.execute(ENABLE, ON_CREATE)
    topology = guarded.load(MORE)
    with pytest.raises(ApplyFailed) as caught:
        apply(topology, saved=make_plan(topology))
    assert caught.value.code == "PS521"
    assert protected(guarded) == ["account_two", "item_two", "log_two"]
    guarded.converge(MORE)


@pytest.mark.needs(major=17)
def test_an_event_trigger_at_login_changes_no_table(guarded: World) -> None:
    guarded.execute(
        "CREATE FUNCTION public.hello() RETURNS event_trigger LANGUAGE plpgsql AS "
        "$$ BEGIN NULL; END $$",
        "CREATE EVENT TRIGGER hello ON login EXECUTE FUNCTION public.hello()",
    )
    try:
        assert not [n for n in guarded.plan(MORE).notices if "hello" in n]
    finally:
        guarded.execute("DROP EVENT TRIGGER hello")


def test_a_disabled_event_trigger_is_not_named(guarded: World) -> None:
    guarded.execute(ENABLE, ON_CREATE, "ALTER EVENT TRIGGER secure DISABLE")
    assert not [n for n in guarded.plan(MORE).notices if "secure" in n]


def test_a_session_of_ours_can_be_told_by_its_name(guarded: World) -> None:
    """The hint of `doctor` says how a function leaves out our sessions."""
    guarded.execute(
        ENABLE.replace("BEGIN\n", "BEGIN\n  IF current_setting('application_name') LIKE "
                       "'parlant-shard%' THEN RETURN; END IF;\n", 1),
        ON_CREATE,
    )  # fmt: skip
    topology = guarded.load(MORE)
    apply(topology, saved=make_plan(topology))
    assert protected(guarded) == []
    with psycopg.connect(guarded.dsn("core"), autocommit=True) as site:
        site.execute("CREATE TABLE of_the_site (id int)")
    assert protected(guarded) == ["of_the_site"]
