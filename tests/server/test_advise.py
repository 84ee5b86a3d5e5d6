"""`advise` on real servers: each rule finds what it should, and nothing like it that is right."""

from __future__ import annotations

import json
import re
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest
from protocol import SCHEMA, Layout, World, layout
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from ruamel.yaml import YAML

import parlant_shard
from parlant_shard.cli import run
from parlant_shard.observe import Advice, Finding, Kind, Limits, advise
from parlant_shard.observe.advise import advise as judge
from parlant_shard.observe.advise import index_entry
from parlant_shard.observe.declared import declarations
from parlant_shard.observe.overlap import How, covers
from parlant_shard.observe.read import observe
from parlant_shard.topology import index_column
from servers import Clusters

pytestmark = pytest.mark.matrix

DATA = Path(__file__).parent.parent / "data"
PARTS = {"log": {"partition": {"by": "at", "every": "1 month", "premake": 1}}}
# What real servers would have after a week; a test does not wait for it.
ANY = Limits(min_age=timedelta(0), reads=1, unused_bytes=0, fk_rows=10, fk_sure_rows=10)
ONE = layout({"s1": ["a"]})
TWO = layout({"s1": ["a"], "s2": ("west", ["b"])}, servers=["west"])
NOBODY = "00000000-0000-0000-0000-000000000000"
PLACES = (("core", "s1", "a"), ("west", "s2", "b"))


@pytest.fixture
def world(tmp_path: Path, clusters: Clusters) -> World:
    return World(tmp_path, clusters)


def fill(world: World, rows: int = 100, places: Any = PLACES[:1]) -> None:
    for server, shard, workspace in places:
        world.execute(
            f"INSERT INTO account_{shard} (workspace_id) VALUES ('{workspace}')",
            f"INSERT INTO item_{shard} (workspace_id, account_id, note) SELECT '{workspace}', id, "
            f"'n' || g FROM account_{shard}, generate_series(1, {rows}) g",
            f"INSERT INTO log_{shard} (workspace_id, item_id) SELECT '{workspace}', id "
            f"FROM item_{shard}",
            "SELECT pg_stat_force_next_flush()",
            server=server,
        )


def use(world: World, table: str, where: str, server: str = "core") -> None:
    """Make PostgreSQL use an index."""
    with world.connect(server) as connection:
        connection.execute("SET enable_seqscan = off")
        connection.execute(f"SELECT * FROM {table} WHERE {where}")
        connection.execute("SELECT pg_stat_force_next_flush()")


def look(world: World, what: Layout, limits: Limits = ANY) -> Advice:
    found = advise(world.load(what), limits)
    assert found.failed == {}
    return found


def of(found: Advice | tuple[Finding, ...], *kinds: Kind) -> list[Finding]:
    rows = found.findings if isinstance(found, Advice) else found
    return [f for f in rows if f.kind in kinds]


def follow(world: World, finding: Finding) -> None:
    """Run the statements of an advice, as a person would."""
    for server, statements in finding.statements:
        with world.connect(server) as connection:
            for statement in statements:
                connection.execute(statement)


def file_of(world: World, what: Layout) -> str:
    topology = world.load(what)
    for name, dsn in world.dsns.items():
        text = topology.file.read_text().replace(f"${{{name}}}", dsn.replace("'", "\\'"))
        topology.file.write_text(text)
    return str(topology.file)


# --- redundant ------------------------------------------------------------------------------------

# The index that may stay first, then the one that may go, and how the first covers the second.
PAIRS = [
    ("(note, size)", "(note)", How.PREFIX),
    ("(note, size)", "(note) INCLUDE (size)", How.PREFIX),
    ("(note) INCLUDE (size)", "(note)", How.PREFIX),
    ("(size) INCLUDE (note)", "(size) INCLUDE (account_id)", None),
    ("(note DESC, size)", "(note)", How.PREFIX),  # read backward
    ("(note, size DESC)", "(note DESC, size)", How.DUPLICATE),
    ("(note, size)", "(note, size DESC)", None),  # neither way gives its order
    ("(note NULLS FIRST)", "(note)", None),
    ("(note DESC NULLS LAST)", "(note NULLS FIRST)", How.DUPLICATE),
    ('(note COLLATE "C", size)', "(note)", None),
    ("(note varchar_pattern_ops, size)", "(note)", None),
    ("(size, note)", "(note)", None),
    ("(note, size) WHERE size > 0", "(note) WHERE size > 0", How.PREFIX),
    ("(note, size) WHERE size > 0", "(note) WHERE size > 1", None),
    ("(note, size) WHERE size > 0", "(note)", None),
    ("(note, size)", "(note) WHERE size > 0", How.WHOLE),
    # The predicate leaves one value of a column, which then distinguishes nothing.
    ("(note, account_id) WHERE size = 1", "(size, note) WHERE size = 1", How.PREFIX),
    ("(note) WHERE size IS NULL", "(note, size) WHERE size IS NULL", How.DUPLICATE),
    ("(note) WHERE size = 1 OR size = 2", "(size, note) WHERE size = 1 OR size = 2", None),
    ("(note) WHERE note = 'a AND (b' AND size = 1", "(size) WHERE note = 'a AND (b' AND size = 1",
     None),
    ("(note) WHERE account_id IS NULL AND size = 1",
     "(account_id, size, note) WHERE account_id IS NULL AND size = 1", How.DUPLICATE),
    ("(note) WHERE note <> 'x) AND (size = 1) AND (y'",
     "(size, note) WHERE note <> 'x) AND (size = 1) AND (y'", None),
    ("(lower(note), size)", "(lower(note))", How.PREFIX),
    ("(lower(note), size)", "(upper(note))", None),
    ("USING hash (note)", "USING hash (note)", How.DUPLICATE),
    ("USING hash (note)", "(note)", None),
    ("USING gin (to_tsvector('simple', note))", "USING gin (to_tsvector('simple', note))",
     How.DUPLICATE),
    # Uniqueness is never given up.
    ("(size)", "UNIQUE (size)", None),
    ("UNIQUE (note)", "(note)", How.DUPLICATE),
    ("UNIQUE (note)", "UNIQUE (note)", How.DUPLICATE),
    ("UNIQUE (note, size)", "UNIQUE (note)", None),
    ("UNIQUE (note)", "UNIQUE (note) NULLS NOT DISTINCT", None),
    ("UNIQUE (size, note)", "(size)", How.PREFIX),
]  # fmt: skip


def test_pairs(world: World) -> None:
    world.apply(ONE)
    with world.connect() as connection:
        for n, pair in enumerate(PAIRS):
            for side, shape in zip("ab", pair[:2], strict=True):
                unique = "UNIQUE " if shape.startswith("UNIQUE ") else ""
                using = shape.removeprefix("UNIQUE ")
                using = using if using.startswith("USING") else f"USING btree {using}"
                connection.execute(f"CREATE {unique}INDEX {side}{n} ON item_s1 {using}")
        connection.execute(
            "ALTER TABLE item_s1 ADD CONSTRAINT deferred UNIQUE (note, size) DEFERRABLE, "
            "ADD CONSTRAINT key UNIQUE (note, size)"
        )
        connection.execute("CREATE UNIQUE INDEX at_once ON item_s1 (note, size)")
    seen = observe(world.load(ONE), statements=False, structure=False).servers["core"]
    by_name = {i.name: i for i in seen.indexes}
    for n, (wide, narrow, how) in enumerate(PAIRS):
        assert covers(by_name[f"a{n}"], by_name[f"b{n}"]) == how, (wide, narrow)
    # A deferrable constraint lets a duplicate in until the end of a transaction: it does not do the
    # work of a unique index, whose violation ends the statement. One that is immediate does.
    deferred, unique, key = by_name["deferred"], by_name["at_once"], by_name["key"]
    assert (covers(deferred, unique), covers(key, unique)) == (None, How.DUPLICATE)
    assert covers(unique, deferred) is covers(unique, key) is None  # a constraint is never given up
    # The primary key's own index goes for no other.
    assert covers(by_name["a0"], by_name["item_pkey_s1"]) is None
    assert not any(covers(i, by_name["item_pkey_s1"]) for i in seen.indexes)


def test_one_of_a_kind_stays(world: World) -> None:
    """Of several that do the same one stays, and no advice leads to another that goes."""
    world.apply(ONE)
    world.execute(
        "CREATE INDEX x_s1 ON item_s1 (note)",
        "CREATE INDEX y_s1 ON item_s1 (note DESC)",
        "CREATE INDEX z_s1 ON item_s1 (note, size)",
        "CREATE INDEX partly_s1 ON item_s1 (note) WHERE size > 0",
        "CREATE INDEX key_s1 ON item_s1 (id)",
    )
    found = of(look(world, ONE), Kind.DUPLICATE, Kind.PREFIX, Kind.PARTIAL)
    assert {(f.index, f.covered_by, f.sure) for f in found} == {
        ("item_note_idx", "z", True),
        ("x", "z", True),
        ("y", "z", True),
        ("partly", "z", False),
        ("key", "item_pkey", True),
    }


def test_the_document(world: World) -> None:
    """Its literal list of indexes on the tables of the preset, each as it stands there."""
    presets = Path(parlant_shard.__file__).parent / "presets"
    references = ("user", "workspace", "knowledge_base", "workflow", "api_key")
    what = layout(
        {"s1": ["a"]},
        ddl=(presets / "parlant.sql").read_text(),
        tables={
            **{t: {"kind": "reference"} for t in references},
            "parlant_agent_tool": {"path": "agent_id"},
            "parlant_journey_guideline": {"path": "journey_id"},
        },
        # Its two indexes with CURRENT_DATE cannot exist; this is what they become.
        indexes={
            "parlant_recently_active_agents_idx": {
                "on": "parlant_agent", "columns": ["workspace_id", "last_active_at desc"],
                "where": "deleted_at IS NULL", "window": "30 days", "by": "last_active_at",
            },
            "parlant_recent_events_only_idx": {
                "on": "parlant_event", "columns": ["session_id", "created_at desc", "event_type"],
                "window": "90 days", "by": "created_at",
            },
        },
    )  # fmt: skip
    world.apply(what)
    text = (DATA / "strategy.sql").read_text()
    literal = re.findall(r"^CREATE INDEX (?!CONCURRENTLY)(\w+)\s+ON (\w+)(.*?);", text, re.S | re.M)
    assert len(literal) == 17
    rejected = []
    with world.connect() as connection:
        for name, table, shape in literal:
            try:
                connection.execute(f"CREATE INDEX {name} ON {table}_s1{shape}")
            except psycopg.Error as error:
                rejected.append((name, error.sqlstate))
        assert rejected == [
            ("parlant_event_session_type_offset_idx", "42601"),
            ("parlant_recently_active_agents_idx", "42P17"),
            ("parlant_recent_events_only_idx", "42P17"),
        ]
        connection.execute(
            "CREATE INDEX parlant_event_session_type_offset_idx "
            'ON parlant_event_s1 (session_id, event_type, "offset")'
        )
    found = of(look(world, what), Kind.DUPLICATE, Kind.PREFIX, Kind.PARTIAL)
    assert {(f.index, f.covered_by, f.kind.value) for f in found if f.sure} == {
        # Section 1: WHERE status = 'active' leaves one status, so section 5 says the same shorter.
        ("parlant_session_workspace_agent_active_idx",
         "parlant_active_sessions_only_idx", "duplicate"),
        # Section 2 makes two of the schema's needless: (created_at), read backward, and
        # (session_id, event_type).
        ("parlant_event_created_at_idx",
         "parlant_event_created_at_type_idx", "prefix-redundant"),
        ("parlant_event_session_id_event_type_idx",
         "parlant_event_session_type_offset_idx", "prefix-redundant"),
        # The schema's own: an index on (x) beside one on (x, y). Unique ones are named first.
        ("parlant_event_session_id_idx",
         "parlant_event_session_offset_idx", "prefix-redundant"),
        ("parlant_agent_api_key_agent_id_idx",
         "parlant_agent_api_key_unique", "prefix-redundant"),
        ("parlant_agent_knowledge_base_agent_id_idx",
         "parlant_agent_kb_unique", "prefix-redundant"),
        ("parlant_agent_tool_agent_id_idx",
         "parlant_agent_tool_unique", "prefix-redundant"),
        ("parlant_agent_workflow_agent_id_idx",
         "parlant_agent_workflow_unique", "prefix-redundant"),
        ("parlant_journey_guideline_journey_id_idx",
         "parlant_journey_guideline_unique", "prefix-redundant"),
        ("parlant_term_agent_id_idx",
         "parlant_term_agent_name_idx", "prefix-redundant"),
        ("parlant_tool_integration_parlant_tool_id_idx",
         "parlant_tool_integration_unique", "prefix-redundant"),
        ("parlant_variable_session_id_idx",
         "parlant_variable_session_key_idx", "prefix-redundant"),
        ("parlant_canned_response_agent_id_idx",
         "parlant_canned_response_agent_id_category_idx", "prefix-redundant"),
        ("parlant_guideline_agent_id_idx",
         "parlant_guideline_agent_id_enabled_idx", "prefix-redundant"),
        ("parlant_journey_agent_id_idx",
         "parlant_journey_agent_id_enabled_idx", "prefix-redundant"),
        ("parlant_journey_state_journey_id_idx",
         "parlant_journey_state_journey_id_state_type_idx", "prefix-redundant"),
        ("parlant_journey_transition_journey_id_idx",
         "parlant_journey_transition_journey_id_from_idx", "prefix-redundant"),
        ("parlant_session_agent_id_idx",
         "parlant_session_agent_id_last_activity_at_idx", "prefix-redundant"),
        ("parlant_session_workflow_session_id_idx",
         "parlant_session_workflow_session_id_status_idx", "prefix-redundant"),
        ("parlant_tool_integration_type_idx",
         "parlant_tool_integration_type_target_id_idx", "prefix-redundant"),
        ("parlant_variable_agent_id_idx",
         "parlant_variable_agent_id_key_idx", "prefix-redundant"),
        # (workspace_id) beside the key (workspace_id, id) that sharding adds.
        ("parlant_agent_workspace_id_idx",
         "parlant_agent_workspace_id_id_key", "prefix-redundant"),
        ("parlant_session_workspace_id_idx",
         "parlant_session_workspace_id_id_key", "prefix-redundant"),
        ("parlant_tool_workspace_id_idx",
         "parlant_tool_workspace_id_id_key", "prefix-redundant"),
    }  # fmt: skip
    # Section 5 repeats section 4's join index for recent rows: smaller, so it may be meant.
    assert [(f.index, f.covered_by) for f in found if not f.sure] == [
        ("parlant_recent_events_only_idx", "parlant_session_event_join_idx")
    ]


def test_partitions_and_shards_are_one_finding(world: World) -> None:
    what = layout({"s1": ["a"], "s2": ("west", ["b"])}, servers=["west"], tables=PARTS)
    world.apply(what)
    for server, shard, _ in PLACES:
        world.execute(f"CREATE INDEX by_hand_{shard} ON log_{shard} (item_id)", server=server)
    (found,) = of(look(world, what), Kind.PREFIX)
    assert (found.index, found.covered_by, found.shards) == (
        "by_hand",
        "log_item_idx",
        ("s1", "s2"),
    )
    assert [s for s, _ in found.statements] == ["core", "west"]
    # A partitioned index cannot be dropped concurrently: it gives up instead of making others wait.
    assert found.statements[0][1][0] == "SET lock_timeout = '1s'"
    assert "nothing declares it" in (found.declared or "")
    follow(world, found)
    assert of(look(world, what), Kind.PREFIX) == []
    # What one partition alone has does no work for the others.
    leaf = world.value(
        "SELECT inhrelid::regclass::text FROM pg_inherits WHERE inhparent = 'log_s1'::regclass "
        "ORDER BY 1 LIMIT 1"
    )
    world.execute(
        "CREATE INDEX by_body_s1 ON log_s1 (body)", f"CREATE INDEX alone ON {leaf} (body, at)"
    )
    assert of(look(world, what), Kind.PREFIX) == []


# --- unused ---------------------------------------------------------------------------------------


def unused(found: Advice | tuple[Finding, ...]) -> set[str | None]:
    return {f.index for f in of(found, Kind.UNUSED)}


def test_unused(world: World) -> None:
    what = layout(
        {"s1": ["a"], "s2": ("west", ["b"])},
        servers=["west"],
        indexes={"item_size_idx": {"on": "item", "columns": ["size"]}},
    )
    world.apply(what)
    fill(world, places=PLACES)
    for server, shard, _ in PLACES:
        world.execute(
            f"CREATE UNIQUE INDEX only_unique_{shard} ON item_{shard} (workspace_id, note, id)",
            f"CREATE INDEX serves_deletes_{shard} ON item_{shard} (account_id)",
            server=server,
        )
    found = look(world, what)
    # Not the keys, nor what is unique, nor what deletes of accounts and items would need.
    assert unused(found) == {"item_note_idx", "item_size_idx"}
    (size,) = (f for f in of(found, Kind.UNUSED) if f.index == "item_size_idx")
    assert size.shards == ("s1", "s2")
    assert size.statements == tuple(
        (server, (f'DROP INDEX CONCURRENTLY "public"."item_size_idx_{shard}"',))
        for server, shard, _ in PLACES
    )
    line = next(n for n, text in enumerate(what.text.splitlines(), 1) if '"item_size_idx"' in text)
    assert f":{line}, indexes: delete" in (size.declared or "")
    assert not size.sure  # the table is small
    assert "small" in size.unless
    (note,) = (f for f in of(found, Kind.UNUSED) if f.index == "item_note_idx")
    assert "schema.sql:13: delete that statement" in (note.declared or "")
    # Used on one shard: it is used.
    use(world, "item_s2", "note = 'n7'", server="west")
    assert unused(look(world, what)) == {"item_size_idx"}
    # What is small, hardly read or young is left alone: all shards together.
    both = size.bytes
    assert unused(look(world, what, replace(ANY, unused_bytes=both))) == {"item_size_idx"}
    assert unused(look(world, what, replace(ANY, unused_bytes=both + 1))) == set()
    assert unused(look(world, what, replace(ANY, unused_bytes=1 << 30))) == set()
    assert unused(look(world, what, replace(ANY, reads=1 << 30))) == set()
    late = look(world, what, replace(ANY, min_age=timedelta(days=9000)))
    assert unused(late) == set()
    assert any("no index is called unused" in n for n in late.notices)
    total = sum(
        world.value(
            "SELECT coalesce(seq_scan, 0) + coalesce(idx_scan, 0) FROM pg_stat_user_tables "
            f"WHERE relname = 'item_{shard}'",
            server=server,
        )
        for server, shard, _ in PLACES
    )
    (size,) = (f for f in of(look(world, what), Kind.UNUSED) if f.index == "item_size_idx")
    assert f"the table was read {total} times" in size.evidence
    # The first of its shards counts as much as the last.
    use(world, "item_s1", "size = 7")
    assert unused(look(world, what)) == set()


def test_one_that_serves_a_foreign_key_stays(world: World) -> None:
    """Unused indexes that serve the same deletes do not excuse each other."""
    world.apply(ONE)
    fill(world, rows=1000)
    world.execute(
        "CREATE INDEX narrow_s1 ON item_s1 (account_id, size)",
        "CREATE INDEX wide_s1 ON item_s1 (account_id, note, id)",
        "CREATE INDEX widest_s1 ON item_s1 (account_id, id, note, size)",
        "ANALYZE item_s1",
    )
    serving = {"narrow", "wide", "widest"}
    assert unused(look(world, ONE)) & serving == {"wide", "widest"}
    use(world, "item_s1", f"account_id = '{NOBODY}'")
    used = {
        name.removesuffix("_s1")
        for (name,) in world.rows(
            "SELECT indexrelname FROM pg_stat_user_indexes WHERE relname = 'item_s1' "
            "AND idx_scan > 0"
        )
    }
    # Beside one that is read, all the others may go.
    assert unused(look(world, ONE)) & serving == serving - used
    assert used & serving


def test_the_age_of_what_was_observed(world: World) -> None:
    """Statistics count from their reset, an index from when the journal says it was made."""
    world.apply(ONE)
    fill(world)
    topology = world.load(ONE)
    seen = observe(topology, statements=False)
    core = seen.servers["core"]
    week = replace(ANY, min_age=timedelta(days=7))

    def judged(**changes: Any) -> set[str | None]:
        server = replace(core, **changes)
        return unused(judge(replace(seen, servers={"core": server}), declarations(topology), week))

    assert core.since is not None
    old = core.now - timedelta(days=30)
    assert "item_s1" in core.made
    assert judged() == set()
    assert judged(since=old) == set()  # its table was made a moment ago
    assert judged(since=old, made={"item_s1": old}) == {"item_note_idx"}
    assert judged(since=core.now - timedelta(days=6), made={"item_s1": old}) == set()
    assert judged(since=old, made={"item_s1": old, "item_note_idx_s1": core.now}) == set()
    assert judged(since=None, made={"item_s1": old}) == set()
    # Of several servers the one that has counted for the shortest time decides.
    both = layout({"s1": ["a"], "s2": ("west", ["b"])}, servers=["west"])
    world.apply(both)
    fill(world, places=PLACES)
    topology = world.load(both)
    seen = observe(topology, statements=False)
    for young in ("core", "west"):
        counted = {
            name: replace(
                server,
                since=server.now - timedelta(days=6 if name == young else 30),
                made={f"item_{shard}": old for shard in ("s1", "s2")},
            )
            for name, server in seen.servers.items()
        }
        found = judge(replace(seen, servers=counted), declarations(topology), week)
        assert unused(found) == set()
        found = judge(
            replace(seen, servers=counted),
            declarations(topology),
            replace(week, min_age=timedelta(days=6)),
        )
        assert unused(found) == {"item_note_idx"}
    topology = world.load(ONE)
    world.execute("SELECT pg_stat_reset()")
    again = observe(topology, statements=False).servers["core"]
    assert again.since is not None
    assert again.since > core.since
    assert again.since > core.now


def test_a_server_that_was_promoted(world: World) -> None:
    """Its counters do not say what the primary before it used."""
    world.apply(ONE)
    fill(world)
    topology = world.load(ONE)
    seen = observe(topology, statements=False)
    core = seen.servers["core"]
    assert core.timeline == 1
    limits = replace(ANY, small_table=0)

    def judged(timeline: int | None) -> Finding:
        server = replace(core, timeline=timeline)
        found = judge(replace(seen, servers={"core": server}), declarations(topology), limits)
        (one,) = (f for f in of(found, Kind.UNUSED) if f.index == "item_note_idx")
        return one

    assert judged(1).sure
    assert judged(None).sure
    assert not judged(2).sure
    assert 'server "core" was promoted or restored once' in judged(2).unless


def test_a_replica_uses_it(world: World) -> None:
    what = Layout(
        text=json.dumps(
            {
                **json.loads(ONE.text),
                "servers": {"core": {"dsn": "${core}", "replicas": [{"dsn": "${copy}"}]}},
            }
        ),
        files=ONE.files,
    )
    world.execute(
        "CREATE TABLE item_s1 (note text)",
        "CREATE INDEX item_note_idx_s1 ON item_s1 (note)",
        server="copy",
    )
    world.apply(what)
    fill(world)
    assert unused(look(world, what)) == {"item_note_idx"}
    use(world, "item_s1", "note = 'x'", server="copy")
    assert unused(look(world, what)) == set()
    dsn = world.dsns["copy"]
    world.dsns["copy"] = make_conninfo("", **{**conninfo_to_dict(dsn), "port": 1})
    found = look(world, what)
    assert unused(found) == set()
    assert any("replica 1" in n and "cannot be read" in n for n in found.notices)
    world.dsns["copy"] = dsn


# --- INVALID --------------------------------------------------------------------------------------


def invalid(world: World, statement: str) -> None:
    """Run a CREATE or REINDEX INDEX CONCURRENTLY that is cancelled while it waits."""
    with world.connect() as other, world.connect() as building:
        other.execute("BEGIN ISOLATION LEVEL REPEATABLE READ")
        other.execute("SELECT 1 FROM account_s1")
        building.execute("SET statement_timeout = '300ms'")
        with pytest.raises(psycopg.errors.QueryCanceled):
            building.execute(statement)
        other.execute("ROLLBACK")


def test_invalid(world: World) -> None:
    what = layout({"s1": ["a"]}, tables=PARTS)
    world.apply(what)
    fill(world)
    assert of(look(world, what), Kind.INVALID) == []
    leaves = [
        r[0]
        for r in world.rows(
            "SELECT inhrelid::regclass::text FROM pg_inherits WHERE inhparent = 'log_s1'::regclass"
        )
    ]
    invalid(world, "CREATE INDEX CONCURRENTLY plain_s1 ON item_s1 (size)")
    invalid(world, "REINDEX INDEX CONCURRENTLY item_note_idx_s1")
    invalid(world, f"CREATE INDEX CONCURRENTLY alone ON {leaves[0]} (body)")
    # A partitioned index of which a partition has none, and one whose part is INVALID.
    world.execute("CREATE INDEX lacking_s1 ON ONLY log_s1 (body, at)")
    world.execute("CREATE INDEX broken_s1 ON ONLY log_s1 (at, body)")
    for n, leaf in enumerate(leaves):
        world.execute(f"CREATE INDEX broken_{n} ON {leaf} (at, body)")
        world.execute(f"ALTER INDEX broken_s1 ATTACH PARTITION broken_{n}")
    world.execute("UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'broken_0'::regclass")
    world.execute("UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'broken_s1'::regclass")
    found = of(look(world, what), Kind.INVALID)
    assert {f.index for f in found} == {
        "plain", "item_note_idx_s1_ccnew", "alone", "lacking", "broken"
    }  # fmt: skip
    by_name = {f.index: f.statements[0][1] for f in found}
    assert by_name["item_note_idx_s1_ccnew"] == (
        'DROP INDEX CONCURRENTLY "public"."item_note_idx_s1_ccnew"',
    )
    assert by_name["broken"][0] == 'REINDEX INDEX CONCURRENTLY "public"."broken_0"'
    for finding in found:
        assert "maintain" in (finding.declared or "")
        follow(world, finding)
    assert of(look(world, what), Kind.INVALID) == []
    assert world.value("SELECT count(*) FROM pg_index WHERE NOT indisvalid") == 0
    assert world.value("SELECT indisvalid FROM pg_index WHERE indexrelid = 'lacking_s1'::regclass")


# --- foreign keys ---------------------------------------------------------------------------------


def missing(found: Advice) -> set[tuple[str, str | None]]:
    return {(f.table, f.index) for f in of(found, Kind.MISSING)}


def test_missing_foreign_key_indexes(world: World) -> None:
    what = layout({"s1": ["a"]}, tables=PARTS)
    world.apply(what)
    fill(world)
    world.execute("DELETE FROM item_s1 WHERE note = 'n1'", "SELECT pg_stat_force_next_flush()")
    found = look(world, what)
    # The log has (item_id, at); an account's items have none. The tenant in it changes nothing.
    assert missing(found) == {("item", "item_account_id_idx")}
    (item,) = of(found, Kind.MISSING)
    assert not item.sure  # no account was ever deleted
    assert "indexes: {item_account_id_idx: {on: item, columns: [account_id]}}" in (
        item.declared or ""
    )
    assert missing(look(world, what, replace(ANY, fk_rows=101))) == set()
    # What does not serve: a partial one, one that begins with another column, an INVALID one.
    world.execute(
        "CREATE INDEX some_s1 ON item_s1 (account_id) WHERE size > 0",
        "CREATE INDEX behind_s1 ON item_s1 (note, account_id)",
    )
    invalid(world, "CREATE INDEX CONCURRENTLY broken_s1 ON item_s1 (account_id)")
    assert missing(look(world, what)) == {("item", "item_account_id_idx")}
    for serves in (
        "(workspace_id, account_id)", "(account_id, workspace_id, note)",
        "(account_id) WHERE account_id IS NOT NULL",
    ):  # fmt: skip
        world.execute(f"CREATE INDEX serves_s1 ON item_s1 {serves}")
        assert missing(look(world, what)) == set(), serves
        world.execute("DROP INDEX serves_s1")
    follow(world, item)
    assert missing(look(world, what)) == set()
    # On a partitioned table: the parent's, each partition's, attached.
    world.execute("DROP INDEX log_item_idx_s1")
    (log,) = of(look(world, what), Kind.MISSING)
    assert (log.index, log.sure) == ("log_item_id_idx", True)
    assert "had 1 deletes" in log.evidence
    follow(world, log)
    assert missing(look(world, what)) == set()
    assert world.value(
        "SELECT indisvalid FROM pg_index WHERE indexrelid = 'log_item_id_idx_s1'::regclass"
    )


# --- bloat and upkeep -----------------------------------------------------------------------------


@pytest.mark.needs(extensions=["pgstattuple"])
def test_bloat_and_dead_rows(world: World) -> None:
    limits = replace(ANY, bloat_bytes=200_000, dead_rows=1_000)
    world.apply(ONE)
    for table in ("item_s1", "log_s1"):
        world.execute(f"ALTER TABLE {table} SET (autovacuum_enabled = off)")
    fill(world, 20_000)
    world.execute("VACUUM ANALYZE item_s1")
    assert of(look(world, ONE, limits), Kind.BLOATED, Kind.DEAD_ROWS) == []
    world.execute(
        "DELETE FROM item_s1 WHERE note > 'n15'",
        "SELECT pg_stat_force_next_flush()",
    )
    item, log = sorted(of(look(world, ONE, limits), Kind.DEAD_ROWS), key=lambda f: f.table)
    assert item.statements == (("core", ('VACUUM (ANALYZE) "public"."item_s1"',)),)
    for dead in (item, log):
        follow(world, dead)
    found = look(world, ONE, limits)
    assert of(found, Kind.DEAD_ROWS) == []
    # Keys are random, so their pages are two thirds empty; so are those of the notes that stay.
    bloated = {f.index: f for f in of(found, Kind.BLOATED)}
    assert "item_workspace_id_id_key" in bloated or "item_pkey" in bloated
    estimate = next(iter(bloated.values()))
    assert not estimate.sure
    assert "estimated" in estimate.evidence
    world.execute("CREATE EXTENSION pgstattuple")
    measured = {f.index: f for f in of(look(world, ONE, limits), Kind.BLOATED)}
    finding = measured[estimate.index]
    assert finding.sure
    # The estimate leaves out what is measured: it agrees within a fifth.
    assert finding.bytes == pytest.approx(estimate.bytes, rel=0.2)
    before = world.value(f"SELECT pg_relation_size('{finding.objects[0]}')")
    follow(world, finding)
    after = world.value(f"SELECT pg_relation_size('{finding.objects[0]}')")
    assert before - after == pytest.approx(estimate.bytes, rel=0.2)
    assert finding.index not in {f.index for f in of(look(world, ONE, limits), Kind.BLOATED)}


def test_never_analyzed(world: World) -> None:
    what = layout({"s1": ["a"]}, tables=PARTS)
    world.apply(what)
    assert of(look(world, what), Kind.NEVER_ANALYZED) == []  # no row, nothing to know
    fill(world)
    (found,) = of(look(world, what), Kind.NEVER_ANALYZED)
    assert found.objects == ("log_s1",)
    follow(world, found)
    assert of(look(world, what), Kind.NEVER_ANALYZED) == []


# --- command line ---------------------------------------------------------------------------------


def test_the_command_line(world: World, capfd: pytest.CaptureFixture[str]) -> None:
    world.apply(TWO)
    world.execute("CREATE INDEX twice_s1 ON item_s1 (note)")
    file = file_of(world, TWO)
    assert run(["advise", file]) == 0
    out = capfd.readouterr().out
    assert "duplicate: twice of item (s1, " in out
    assert 'DROP INDEX CONCURRENTLY "public"."twice_s1";' in out
    assert run(["advise", file, "--min-age", "0 days", "--output", "json"]) == 0
    data = json.loads(capfd.readouterr().out)
    assert data["format_version"] == 1
    (found,) = (f for f in data["findings"] if f["kind"] == "duplicate")
    assert found["confidence"] == "high"
    assert found["covered_by"] == "item_note_idx"
    assert found["objects"] == ["twice_s1"]
    assert found["bytes"] > 0
    for wrong in ("1 month", "soon"):
        assert run(["advise", file, "--min-age", wrong]) == 64
        assert "--min-age" in capfd.readouterr().err


def test_the_entry_to_write_is_read_back() -> None:
    """Names with spaces, quotes and words of YAML come through the file as they are."""
    names = ["plain", "created At", 'Ev: "Ü"', "no", "{x}"]
    for name in names:
        entry = YAML(typ="safe").load(index_entry(name, f"{name}_idx", names))
        ((index, options),) = entry["indexes"].items()
        assert (index, options["on"]) == (f"{name}_idx", name)
        assert [index_column(c).name for c in options["columns"]] == names


# --- what is easily taken for something else ------------------------------------------------------


def test_an_index_by_hand_has_no_known_age(world: World) -> None:
    """The journal dates what apply made, with its table or alone; not what a person added since."""
    world.apply(ONE)
    fill(world, 20_000)
    world.execute("CREATE INDEX by_hand_s1 ON item_s1 (size)")
    seen = observe(world.load(ONE), statements=False)
    core = seen.servers["core"]
    old = core.now - timedelta(days=30)
    server = replace(core, since=old, made=dict.fromkeys(core.made, old))
    found = judge(
        replace(seen, servers={"core": server}),
        declarations(world.load(ONE)),
        replace(ANY, small_table=0),
    )
    sure = {f.index: f.sure for f in of(found, Kind.UNUSED)}
    assert sure == {"item_note_idx": True, "by_hand": False}


def test_a_replica_that_lacks_the_index(world: World) -> None:
    """Another database, or a replica far behind: what it uses is not known."""
    what = Layout(
        text=json.dumps(
            {
                **json.loads(ONE.text),
                "servers": {"core": {"dsn": "${core}", "replicas": [{"dsn": "${copy}"}]}},
            }
        ),
        files=ONE.files,
    )
    world.execute("SELECT 1", server="copy")
    world.apply(what)
    fill(world)
    found = look(world, what)
    assert unused(found) == set()
    assert any("replica 1" in n and "has none of" in n for n in found.notices)


def test_a_build_that_runs_is_no_failure(world: World) -> None:
    """Neither on the table, nor on a partition whose index is not attached yet, nor another's."""
    what = layout({"s1": ["a"]}, tables=PARTS)
    world.apply(what)
    fill(world)
    leaf = world.value(
        "SELECT inhrelid::regclass::text FROM pg_inherits WHERE inhparent = 'log_s1'::regclass "
        "ORDER BY 1 DESC LIMIT 1"
    )
    role = f"watch_{world.name}"
    world.execute(
        "CREATE INDEX body_s1 ON ONLY log_s1 (body)",
        f"CREATE ROLE {role} LOGIN PASSWORD 'watch'",
        f"GRANT USAGE ON SCHEMA parlant_shard TO {role}",
        f"GRANT SELECT ON parlant_shard.object, parlant_shard.step TO {role}",
    )
    own = world.dsns["core"]
    try:
        for table, name in ((leaf, "part_of_body"), ("item_s1", "size_s1")):
            with world.connect() as other, world.connect() as building:
                other.execute("BEGIN ISOLATION LEVEL REPEATABLE READ")
                other.execute("SELECT 1 FROM account_s1")
                with ThreadPoolExecutor(1) as pool:
                    build = pool.submit(
                        building.execute, f"CREATE INDEX CONCURRENTLY {name} ON {table} (id, id)"
                    )
                    try:
                        while not world.rows(f"SELECT FROM pg_class WHERE relname = '{name}'"):
                            time.sleep(0.05)
                        assert of(look(world, what), Kind.INVALID) == [] if table == leaf else True
                        world.dsns["core"] = make_conninfo(own, user=role, password="watch")
                        found = of(look(world, what), Kind.INVALID)
                        assert [f.index for f in found if table != leaf and f.index == "size"] == []
                        assert table != leaf or found == []
                    finally:
                        world.dsns["core"] = own
                        other.execute("ROLLBACK")
                        build.result()
        (found_,) = of(look(world, what), Kind.INVALID)
        assert found_.index == "body"
    finally:
        world.dsns["core"] = own
        world.execute(f"DROP OWNED BY {role}", f"DROP ROLE {role}")


def test_a_rolling_index_covers_nothing_for_long(world: World) -> None:
    """An index that leaves old partitions cannot stand in for one that stays on them."""
    rolling = {"on": "log", "by": "at"}
    what = layout(
        {"s1": ["a"]},
        tables=PARTS,
        indexes={
            "recent": {**rolling, "columns": ["body", "item_id"], "window": "90 days"},
            "newest": {**rolling, "columns": ["at", "item_id", "body"], "window": "30 days"},
            "always": {"on": "log", "columns": ["body"]},
            "longer": {**rolling, "columns": ["at", "item_id"], "window": "90 days"},
            "inner": {**rolling, "columns": ["at", "body"], "window": "30 days"},
            "outer": {**rolling, "columns": ["at", "body", "item_id"], "window": "90 days"},
        },
    )
    world.apply(what)
    fill(world)
    found = of(look(world, what), Kind.PREFIX, Kind.DUPLICATE)
    assert {(f.index, f.covered_by) for f in found} == {("inner", "outer")}


def test_what_cluster_and_options_need(world: World) -> None:
    world.apply(ONE)
    world.execute(
        "CREATE INDEX sorted_s1 ON item_s1 (size)",
        "CREATE INDEX wide_s1 ON item_s1 (size, note)",
        "ALTER TABLE item_s1 CLUSTER ON sorted_s1",
        "CREATE INDEX fine_s1 ON item_s1 USING brin (size) WITH (pages_per_range = 4)",
        "CREATE INDEX coarse_s1 ON item_s1 USING brin (size) WITH (pages_per_range = 128)",
    )
    found = of(look(world, ONE), Kind.DUPLICATE, Kind.PREFIX)
    assert {f.index for f in found} == set()


def test_a_name_that_is_taken(world: World) -> None:
    """PostgreSQL itself calls a partial index item_account_id_idx."""
    world.apply(ONE)
    fill(world)
    world.execute("CREATE INDEX item_account_id_idx_s1 ON item_s1 (account_id) WHERE size > 0")
    found = {f.table: f for f in of(look(world, ONE), Kind.MISSING)}["item"]
    follow(world, found)
    assert "item" not in {f.table for f in of(look(world, ONE), Kind.MISSING)}
    assert f"{found.index}: {{on: item" in (found.declared or "")


def test_statistics_that_are_older_than_the_rows(world: World) -> None:
    """An index that grew with its table is not bloated, whatever ANALYZE knew before."""
    limits = replace(ANY, bloat_bytes=200_000)
    world.apply(ONE)
    world.execute("ALTER TABLE item_s1 SET (autovacuum_enabled = off)")
    fill(world)
    world.execute("ANALYZE item_s1")
    fill(world, 20_000)
    assert of(look(world, ONE, limits), Kind.BLOATED) == []


def test_a_reference_table_while_a_server_is_away(world: World) -> None:
    """Its copy there may be the one whose index is used."""
    what = layout(
        {"s1": ["a"], "s2": ("west", ["b"])},
        ddl=SCHEMA + "CREATE TABLE plan (id text PRIMARY KEY, name text);\n"
        "CREATE INDEX plan_name_idx ON plan (name);",
        servers=["west"],
        tables={"plan": {"kind": "reference"}},
    )
    world.apply(what)
    world.execute(
        "INSERT INTO plan SELECT g, g FROM generate_series(1, 100) g",
        "SELECT count(*) FROM plan",
        "SELECT pg_stat_force_next_flush()",
    )
    seen = observe(world.load(what), statements=False)
    declared = declarations(world.load(what))
    assert "plan_name_idx" in unused(judge(seen, declared, ANY))
    away = replace(
        seen,
        servers={"core": seen.servers["core"]},
        failed={"west": parlant_shard.ShardError("x", code="PS401")},
    )
    assert unused(judge(away, declared, ANY)) == set()


def test_what_stays_must_stay_everywhere(world: World) -> None:
    """A declared index is made again by apply, and one by hand is dropped by it."""
    world.apply(TWO)
    world.execute("CREATE INDEX by_hand_s1 ON item_s1 (note, size)")
    (found,) = of(look(world, TWO), Kind.PREFIX)
    assert (found.index, found.covered_by, found.shards) == ("item_note_idx", "by_hand", ("s1",))
    assert not found.sure
    assert "declare by_hand: on s2 nothing else" in (found.declared or "")
    assert "by_hand goes with the next apply" in found.unless
    world.execute("CREATE INDEX by_hand_s2 ON item_s2 (note, size)", server="west")
    (found,) = of(look(world, TWO), Kind.PREFIX)
    assert (found.sure, found.shards) == (True, ("s1", "s2"))
    assert "delete that statement" in (found.declared or "")
    assert "by_hand goes with the next apply" in found.unless


def test_keys_of_several_columns(world: World) -> None:
    """The first of them may be enough: that depends on how many rows share it."""
    ddl = """
    CREATE TABLE line (workspace_id text, number int, part int, PRIMARY KEY (number, part));
    CREATE TABLE use (id int PRIMARY KEY, workspace_id text, number int, part int,
      FOREIGN KEY (number, part) REFERENCES line (number, part));
    CREATE TABLE plan (id text PRIMARY KEY);
    CREATE TABLE note (id int PRIMARY KEY, plan_id text REFERENCES plan (id));
    """
    kinds = {"plan": {"kind": "host"}, "note": {"kind": "host"}}
    what = layout({"s1": ["a"]}, ddl=ddl, tables=kinds)
    world.apply(what)
    world.execute(
        "INSERT INTO line_s1 SELECT 'a', g, 1 FROM generate_series(1, 500) g",
        "INSERT INTO use_s1 SELECT g, 'a', g, 1 FROM generate_series(1, 400) g",
        "DELETE FROM line_s1 WHERE number > 400",
        "INSERT INTO plan VALUES ('p')",
        "INSERT INTO note SELECT g, 'p' FROM generate_series(1, 400) g",
        "SELECT pg_stat_force_next_flush()",
    )
    found = {f.table: f for f in of(look(world, what), Kind.MISSING)}
    assert found["use"].sure
    assert "apply drops an index that nothing declares" in (found["note"].declared or "")
    world.execute("CREATE INDEX by_number_s1 ON use_s1 (number)")
    found = {f.table: f for f in of(look(world, what), Kind.MISSING)}
    assert not found["use"].sure
    assert "by_number finds few rows" in found["use"].unless
    world.execute("CREATE INDEX by_part_s1 ON use_s1 (part, number)")
    assert "use" not in {f.table for f in of(look(world, what), Kind.MISSING)}
