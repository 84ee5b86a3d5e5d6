"""What a purge deletes, in which order, and that each statement names the workspace."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

import pytest

from parlant_shard.catalog import Catalog, Column, ForeignKey, Index, Placement, Table
from parlant_shard.plan import Kind, Step
from parlant_shard.privacy.holdings import Holding, Where
from parlant_shard.privacy.home import Home
from parlant_shard.privacy.order import groups
from parlant_shard.privacy.steps import Found, Stage, closing, deleting, settling, totals
from parlant_shard.shardmap import ShardMap
from parlant_shard.topology import AUDIT_TABLE

MINE = "\"workspace_id\" OPERATOR(pg_catalog.=) 'it''s'"


def table(name: str, *refers: str, **parts: Any) -> Table:
    """Return a table whose column x refers to others; `null` says whether it may be NULL."""
    null, on_delete = parts.pop("null", True), parts.pop("on_delete", "a")
    return Table(
        name=name,
        columns=(Column(name="workspace_id", type="text", not_null=True),
                 Column(name="x", type="uuid", not_null=not null)),
        foreign_keys=tuple(
            ForeignKey(name=f"{name}_{r}", columns=("workspace_id", "x"), ref_table=r,
                       ref_columns=("workspace_id", "id"), on_delete=on_delete)
            for r in refers
        ),
        **parts,
    )  # fmt: skip


def found(
    held: Table, rows: int = 1, *, where: Where = Where.SHARD, server: str = "core",
    logical: str | None = None, parent: Table | None = None,
) -> Found:  # fmt: skip
    holding = Holding(
        namespace="public", server=server, shard="s1", logical=logical or held.name, where=where,
        table=held, parent=parent or held, column="workspace_id",
    )  # fmt: skip
    return Found(holding=holding, rows=rows)


def tables(steps: Iterable[Step]) -> list[str]:
    """Return the tables of the steps, in their order."""
    return [m[1] for s in steps if (m := re.search(r'(?:from|in) (?:\w+ \w+ )?"(\w+)"', s.title))]


def test_rows_go_before_those_that_they_refer_to() -> None:
    a, b, c, d = table("a"), table("b", "a"), table("c", "b", "d"), table("d", "a")
    steps = deleting("it's", map(found, (a, b, c, d)))
    assert tables(steps)[0] == "c"
    assert tables(steps)[-1] == "a"
    assert sorted(tables(steps)) == ["a", "b", "c", "d"]
    assert groups({t.name: t for t in (a, b, c, d)}) == [("c",), ("b",), ("d",), ("a",)]


def test_the_shards_go_before_the_coordinator_and_what_was_recorded_last() -> None:
    steps = deleting(
        "it's",
        [
            found(table("recorded"), logical=AUDIT_TABLE),
            found(table("plan"), where=Where.COORDINATOR),
            found(table("plan"), where=Where.COPY, server="east"),
            found(table("item")),
            found(table("empty"), rows=0),
            found(table("item2"), server="east"),
            found(table("old"), where=Where.DETACHED),
        ],
    )
    assert [(Stage(s.phase), s.server) for s in steps] == [
        (Stage.ROWS, "core"),
        (Stage.ROWS, "core"),
        (Stage.ROWS, "east"),
        (Stage.REFERENCE, "core"),
        (Stage.COPIES, "east"),
        (Stage.RECORDED, "core"),
    ]
    assert "detached" in steps[0].title  # a foreign key of it could hold up the others
    assert [s.kind for s in steps if s.phase == Stage.COPIES] == [Kind.WAIT]
    # A copy is the coordinator's: nothing is deleted there, only waited for.
    assert not any("DELETE" in q for s in steps if s.phase == Stage.COPIES for q in s.sql)


@pytest.mark.parametrize("indexed", [True, False])
def test_a_batch_takes_rows_of_the_workspace_alone(indexed: bool) -> None:
    index = Index(name="i", unique=False, definition="btree (workspace_id, x)")
    (step,) = deleting("it's", [found(table("item", indexes=(index,) if indexed else ()))])
    assert step.hazards == ("deletes-data",)
    delete = step.sql[0]
    assert delete.count("DELETE FROM ONLY") == 1
    # A row may have changed hands between its look-up and its delete.
    assert delete.count(MINE) == (2 if indexed else 1)
    assert re.search(rf"(?:AND|WHERE) {re.escape(MINE)} RETURNING", delete)
    assert len(step.sql) == (1 if indexed else 2)


@pytest.mark.parametrize(
    ("index", "indexed"),
    [
        (Index(name="i", unique=False, definition="btree (workspace_id)"), True),
        (Index(name="i", unique=False, definition="btree (x, workspace_id)"), False),
        (Index(name="i", unique=False, definition="btree (workspace_id) WHERE (x > 0)"), False),
        (Index(name="i", unique=False, definition="btree (workspace_id)", valid=False), False),
        (Index(name="i", unique=False, definition="btree (workspace_id_old)"), False),
        (Index(name="i", unique=False, definition="hash (workspace_id)"), False),
    ],
)
def test_only_an_index_of_all_rows_finds_those_of_a_workspace(index: Index, indexed: bool) -> None:
    assert found(table("item", indexes=(index,))).holding.is_indexed is indexed


def test_rows_that_refer_to_each_other() -> None:
    def cycle(**parts: Any) -> tuple[Step, ...]:
        return deleting("it's", map(found, (table("a", "b", **parts), table("b", "a", **parts))))

    # What can be NULL is cleared first: but never the column of the workspace.
    steps = cycle()
    assert [s.title.split()[0] for s in steps] == ["clear", "clear", "delete", "delete"]
    assert all('SET "x" = NULL WHERE' in s.sql[0] and MINE in s.sql[0] for s in steps[:2])
    # Else one statement sees them all go, and each part of it has its condition.
    (step,) = cycle(null=False)
    assert (step.kind, step.sql[0].count("DELETE FROM"), step.sql[0].count(MINE)) == (
        Kind.VALIDATE, 2, 2,
    )  # fmt: skip
    # Nothing refuses a delete that takes the others along.
    assert [s.title.split()[0] for s in cycle(on_delete="c")] == ["delete", "delete"]


def test_copies_are_not_counted_twice() -> None:
    plan, item = table("plan"), table("item")
    assert totals(
        [
            found(plan, 2, where=Where.COORDINATOR),
            found(plan, 2, where=Where.COPY, server="east"),
            found(item, 3),
            found(item, 4, server="east"),
            found(table("item_old"), 5, where=Where.DETACHED, logical="item"),
            found(table("none"), 0),
        ]
    ) == {"plan": 2, "item": 12}


@pytest.mark.parametrize(
    ("state", "placed", "closes", "settles"),
    [
        (None, None, [Stage.CLOSE_MAP, Stage.CLOSE], [Stage.SETTLE, Stage.SETTLE_MAP]),
        ("active", "active", [Stage.CLOSE_MAP, Stage.CLOSE], [Stage.SETTLE, Stage.SETTLE_MAP]),
        ("purging", "active", [Stage.CLOSE], [Stage.SETTLE, Stage.SETTLE_MAP]),
        ("purging", "purging", [], [Stage.SETTLE, Stage.SETTLE_MAP]),
        ("purging", "purged", [], [Stage.SETTLE_MAP]),
        # Rows came back after a purge: routers refuse it already, and must go on doing so.
        ("purged", "purged", [Stage.CLOSE_MAP], [Stage.SETTLE_MAP]),
    ],
)
def test_a_purge_that_was_killed_goes_on_where_it_was(
    state: str | None, placed: str | None, closes: list[Stage], settles: list[Stage]
) -> None:
    shard_map = ShardMap(
        topology="t", namespace="public", key="workspace_id", key_type="text", coordinator="core",
        shards={}, tables={},
    )  # fmt: skip
    home = Home(workspace="w", shard="s1", server="east", state=state, shard_map=shard_map)
    rows = {Placement(workspace="other", shard="s1", state="active")}
    if placed is not None:
        rows.add(Placement(workspace="w", shard="s1", state=placed))
    live = {"east": Catalog(placements=frozenset(rows)), "core": Catalog()}
    assert [Stage(s.phase) for s in closing(home, "t", "core", live)] == closes
    assert [Stage(s.phase) for s in settling(home, "t", "core", live)] == settles
