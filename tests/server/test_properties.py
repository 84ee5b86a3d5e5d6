"""Random topologies and edits: applied one after the other they end as a fresh one."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from protocol import DELETES, DROPS, NONE, SCHEMA, Layout, World, layout

from parlant_shard.plan import NEEDS_ALLOW
from servers import Clusters

SERVERS = ("core", "east")
WORKSPACES = ("a", "b", "it's", "d,e", "ws{5}", "ü")

COLUMNS = {
    "color text": "item",
    "grade integer NOT NULL DEFAULT 3": "item",
    "stamp timestamptz NOT NULL DEFAULT clock_timestamp()": "log",
    "tags text[] DEFAULT '{}'": "log",
}
STATEMENTS = (
    "CREATE INDEX item_size_idx ON item (size DESC)",
    "CREATE INDEX log_body_idx ON log (body, at) WHERE body IS NOT NULL",
    "CREATE UNIQUE INDEX account_name_idx ON account (workspace_id, name, id)",
    "ALTER TABLE item ADD CONSTRAINT item_size_check CHECK (size >= 0)",
    "ALTER TABLE log ADD CONSTRAINT log_body_check CHECK (body <> '')",
    "ALTER TABLE item ADD CONSTRAINT item_note_key UNIQUE (account_id, note, id)",
    "ALTER TABLE log ENABLE ROW LEVEL SECURITY",
    "CREATE POLICY all_items ON item USING (true)",
    "ALTER TABLE item SET (fillfactor = 80)",
    "ALTER TABLE log REPLICA IDENTITY FULL",
    "COMMENT ON TABLE item IS 'it''s an item'",
    "ALTER TABLE item ALTER note TYPE varchar(40)",
    "CREATE TABLE tag (id uuid PRIMARY KEY, item_id uuid NOT NULL REFERENCES item (id))",
)


@st.composite
def shards(draw: st.DrawFn) -> dict[str, Any]:
    """Return one to three shards; each workspace is on one of them or nowhere."""
    names = draw(st.lists(st.sampled_from(["s1", "s2", "s3"]), min_size=1, unique=True))
    homes = {w: draw(st.sampled_from([*names, None])) for w in WORKSPACES}
    found: dict[str, Any] = {
        name: {
            "server": draw(st.sampled_from(SERVERS)),
            "workspaces": [w for w, home in homes.items() if home == name],
        }
        for name in names
    }
    cuts = draw(st.sampled_from([(), ((0, 4095),), ((0, 1000), (1001, 4095))]))
    for name, (low, high) in zip(names, cuts, strict=False):
        found[name]["buckets"] = f"{low}-{high}"
    if len(cuts) > len(names):
        found[names[-1]]["buckets"] = "0-4095"
    return found


@st.composite
def layouts(draw: st.DrawFn) -> Layout:
    schema = SCHEMA
    for column in draw(st.sets(st.sampled_from(sorted(COLUMNS)))):
        schema += f"ALTER TABLE {COLUMNS[column]} ADD {column};\n"
    for statement in draw(st.lists(st.sampled_from(STATEMENTS), unique=True, max_size=5)):
        schema += statement + ";\n"
    every = draw(st.sampled_from([None, "1 month", "1 week"]))
    partition = {"by": "at", "every": every, "premake": draw(st.integers(1, 2))}
    tables = {"log": {"partition": partition}} if every else {}
    return layout(draw(shards()), ddl=schema, servers=SERVERS, tables=tables)


class Bench:
    """One world that is emptied and used again: creating databases costs more than the test."""

    def __init__(self, directory: Path, clusters: Clusters) -> None:
        self.world, self.fresh = World(directory, clusters), World(directory, clusters)
        for world in (self.world, self.fresh):
            for server in SERVERS:
                world.dsns[server] = clusters.get(0).new_database("p", keep=True)

    def clear(self) -> None:
        for world in (self.world, self.fresh):
            for server in SERVERS:
                world.execute(
                    "DROP SCHEMA public CASCADE",
                    "DROP SCHEMA IF EXISTS parlant_shard CASCADE",
                    "CREATE SCHEMA public",
                    server=server,
                )


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory, clusters: Clusters) -> Iterator[Bench]:
    return Bench(tmp_path_factory.mktemp("bench"), clusters)


def go(world: World, what: Layout) -> None:
    """Apply by the protocol with whatever permissions the plan needs."""
    needed = NEEDS_ALLOW.intersection(world.plan(what).hazards)
    assert needed <= DROPS | DELETES
    world.apply(what, allow=frozenset(needed) or NONE)
    world.settled(what)


@settings(
    max_examples=6,
    derandomize=True,
    deadline=None,
    database=None,
    # A failure is told as it is: to make it smaller would take a hundred clusters.
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
@given(first=layouts(), then=layouts())
def test_an_edited_cluster_equals_a_fresh_one(bench: Bench, first: Layout, then: Layout) -> None:
    bench.clear()
    go(bench.world, first)
    go(bench.world, then)
    if not _cuts_differently(first, then):
        bench.world.equals(bench.fresh, then)


def _cuts_differently(first: Layout, then: Layout) -> bool:
    """Whether both cut the table by time and not alike: then old partitions stay, as they must."""

    def cut(what: Layout) -> str | None:
        _, found, rest = what.text.partition('"partition"')
        return rest if found else None

    return None not in {cut(first), cut(then)} and cut(first) != cut(then)
