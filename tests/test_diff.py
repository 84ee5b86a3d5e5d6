"""Changes from two catalogues: what is dropped in which order, what is left alone, what is refused.

Each case is a pair of values; that the changes lead from one to the other on a server is shown by
tests/server/test_protocol.py.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import pytest

from parlant_shard import changes as c
from parlant_shard.catalog import (
    Bound,
    Catalog,
    Check,
    EnumType,
    Foreign,
    ForeignKey,
    Index,
    Managed,
    Placement,
    Relkind,
    Table,
    Window,
)
from parlant_shard.diff import GUARD, Context, diff, guarded, temporary
from parlant_shard.errors import SchemaError

NOW = datetime(2026, 5, 10, 12)
CONTEXT = Context(coordinator="core", publication="p", slots=frozenset(), now=NOW)
DAY = timedelta(days=1)


def changes(live: Catalog, desired: Catalog) -> tuple[c.Change, ...]:
    return diff({"core": live}, {"core": desired}, CONTEXT)


def catalog(*tables: Table, **parts: Any) -> Catalog:
    """Return a catalogue in which every table but a partition is one of shard s1."""
    return Catalog(
        tables={t.name: t for t in tables},
        managed={
            ("table", t.name): Managed(
                kind="table", name=t.name, logical=t.name.removesuffix("_s1"), shard="s1"
            )
            for t in tables
            if t.parent is None
        },
        **{"internal_version": 1, **parts},
    )


def refers(name: str, *to: str, **parts: Any) -> Table:
    keys = tuple(
        ForeignKey(name=f"{name}_{t}", columns=("x",), ref_table=t, ref_columns=("id",)) for t in to
    )
    return Table(name=name, foreign_keys=keys, **parts)


PARENT = Table(name="log_s1", kind=Relkind.PARTITIONED, partition_by="at")


def leaf(name: str, lower: datetime | None, upper: datetime | None, **parts: Any) -> Table:
    return Table(name=name, parent="log_s1", bound=Bound(lower=lower, upper=upper), **parts)


# --- what goes ------------------------------------------------------------------------------------


def test_a_table_goes_before_those_that_it_refers_to() -> None:
    live = catalog(refers("a_s1"), refers("b_s1", "a_s1", "b_s1"), refers("c_s1", "b_s1", "a_s1"))
    found = changes(live, catalog())
    assert all(isinstance(x, c.DropTable) and x.why is c.Why.REMOVED for x in found)
    assert [x.table.name for x in found if isinstance(x, c.DropTable)] == ["c_s1", "b_s1", "a_s1"]


def test_of_tables_that_refer_to_each_other_the_foreign_key_goes_first() -> None:
    live = catalog(refers("a_s1", "b_s1"), refers("b_s1", "a_s1"))
    found = changes(live, catalog())
    assert [(type(x).__name__, getattr(x, "name", None)) for x in found] == [
        ("DropConstraint", "b_s1_a_s1"),
        ("DropTable", None),
        ("DropTable", None),
    ]
    assert [x.table.name for x in found if isinstance(x, c.DropTable)] == ["a_s1", "b_s1"]


@pytest.mark.parametrize("rows", ["none", "in the table", "in a partition"])
def test_a_table_that_goes_has_rows_where_it_or_a_partition_has(rows: str) -> None:
    live = catalog(
        replace(PARENT, populated=rows == "in the table"),
        leaf("log_s1_p1", NOW - DAY, NOW),
        leaf("log_s1_p2", NOW, NOW + DAY, populated=rows == "in a partition"),
    )
    (dropped,) = changes(live, catalog())
    assert isinstance(dropped, c.DropTable)
    assert dropped.populated is (rows != "none")


def test_what_nobody_registered_stays() -> None:
    live = catalog(refers("a_s1"))
    foreign = replace(live, managed={})
    assert changes(foreign, catalog()) == ()


# --- what is of another kind ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("live", "desired", "code"),
    [
        (replace(PARENT, populated=True), Table(name="log_s1"), "PS223"),
        (Table(name="log_s1", populated=True), PARENT, "PS223"),
        (Table(name="log_s1", populated=True), replace(PARENT, kind=Relkind.FOREIGN), "PS225"),
        (replace(PARENT, populated=True), replace(PARENT, partition_by="made_at"), "PS223"),
    ],
)
def test_a_table_with_rows_becomes_no_other(live: Table, desired: Table, code: str) -> None:
    with pytest.raises(SchemaError) as refused:
        changes(catalog(live), catalog(desired))
    assert refused.value.code == code
    # Without rows it is dropped and created; so nobody needs leave to lose any.
    empty = replace(live, populated=False)
    dropped, created = changes(catalog(empty), catalog(desired))
    assert isinstance(dropped, c.DropTable)
    assert isinstance(created, c.CreateTable)
    assert (dropped.why, dropped.populated) == (c.Why.REPLACED, False)


def test_rows_of_a_partition_are_rows_of_the_table() -> None:
    live = catalog(PARENT, leaf("log_s1_p1", NOW, NOW + DAY, populated=True))
    with pytest.raises(SchemaError) as refused:
        changes(live, catalog(Table(name="log_s1")))
    assert refused.value.code == "PS223"


def test_a_foreign_table_that_leads_elsewhere_is_made_anew() -> None:
    def foreign(server: str) -> Table:
        return Table(name="a_s1", kind=Relkind.FOREIGN, foreign=Foreign(server=server, options=()))

    assert changes(catalog(foreign("east")), catalog(foreign("east"))) == ()
    dropped, created = changes(catalog(foreign("east")), catalog(foreign("west")))
    assert isinstance(dropped, c.DropTable)
    assert isinstance(created, c.CreateTable)
    # Its rows are elsewhere, whatever the catalogue counts here.
    full = replace(foreign("east"), populated=True)
    dropped, _ = changes(catalog(full), catalog(foreign("west")))
    assert isinstance(dropped, c.DropTable)
    assert not dropped.populated


# --- constraints ----------------------------------------------------------------------------------

CHECK = Check(name="a_s1_check", definition="CHECK ((x > 0))")
OTHER = replace(CHECK, definition="CHECK ((x > 1))")


@pytest.mark.parametrize(
    ("live", "desired", "kinds"),
    [
        ((CHECK,), (CHECK,), []),
        ((), (CHECK,), ["AddCheck"]),
        ((CHECK,), (), ["DropConstraint"]),
        ((replace(CHECK, inherited=True),), (), []),
        ((OTHER,), (CHECK,), ["SwapCheck"]),
        ((replace(CHECK, valid=False),), (CHECK,), ["ValidateConstraint"]),
        # What a killed run left under the temporary name: taken further, or dropped.
        ((replace(CHECK, name=temporary(CHECK.name)),), (CHECK,), ["SwapCheck"]),
        ((OTHER, replace(CHECK, name=temporary(CHECK.name))), (CHECK,), ["SwapCheck"]),
        ((CHECK, replace(CHECK, name=temporary(CHECK.name))), (CHECK,), ["DropConstraint"]),
        (
            (OTHER, replace(OTHER, name=temporary(CHECK.name))),
            (CHECK,),
            ["DropConstraint", "SwapCheck"],
        ),
    ],
)
def test_a_check_is_never_missing_between_two(
    live: tuple[Check, ...], desired: tuple[Check, ...], kinds: list[str]
) -> None:
    found = changes(
        catalog(Table(name="a_s1", checks=live)), catalog(Table(name="a_s1", checks=desired))
    )
    assert [type(x).__name__ for x in found] == kinds
    dropped = [x for x in found if isinstance(x, c.DropConstraint)]
    assert all((x.why is c.Why.REMOVED) is (x.name == CHECK.name) for x in dropped)
    swapped = [x for x in found if isinstance(x, c.SwapCheck)]
    begun = replace(CHECK, name=temporary(CHECK.name)) in live
    assert all((x.begun is not None) is begun for x in swapped)


@pytest.mark.parametrize(
    ("change", "kinds"),
    [
        ({}, []),
        ({"valid": False}, ["ValidateConstraint"]),
        ({"inherited": True}, []),
        ({"on_delete": "c"}, ["DropConstraint", "AddForeignKey"]),
        ({"set_columns": ("x",)}, ["DropConstraint", "AddForeignKey"]),
        ({"deferrable": True}, ["DropConstraint", "AddForeignKey"]),
    ],
)
def test_a_foreign_key_is_validated_or_made_anew(change: dict[str, Any], kinds: list[str]) -> None:
    wanted = refers("b_s1", "a_s1")
    (fk,) = wanted.foreign_keys
    live = replace(wanted, foreign_keys=(replace(fk, **change),))
    found = changes(catalog(refers("a_s1"), live), catalog(refers("a_s1"), wanted))
    assert [type(x).__name__ for x in found] == kinds
    assert all(x.why is c.Why.REPLACED for x in found if isinstance(x, c.DropConstraint))


def test_a_foreign_key_that_nobody_declares_goes_unless_it_is_the_parents() -> None:
    wanted = refers("b_s1")
    (fk,) = refers("b_s1", "a_s1").foreign_keys
    for inherited in (False, True):
        live = replace(wanted, foreign_keys=(replace(fk, inherited=inherited),))
        found = changes(catalog(refers("a_s1"), live), catalog(refers("a_s1"), wanted))
        assert [type(x).__name__ for x in found] == ([] if inherited else ["DropConstraint"])


# --- partitions -----------------------------------------------------------------------------------

DEFAULT = Table(name="log_s1_default", parent="log_s1", bound=Bound(default=True), populated=True)


@pytest.mark.parametrize(
    ("default", "lower", "proves"),
    [
        (DEFAULT, NOW + DAY, True),
        (DEFAULT, NOW + timedelta(microseconds=1), True),
        (DEFAULT, NOW, False),  # rows of it come now: the proof would refuse them
        (DEFAULT, NOW - DAY, False),
        (DEFAULT, None, False),
        (replace(DEFAULT, populated=False), NOW + DAY, False),  # nothing to scan
        (leaf("log_s1_p1", NOW, NOW + DAY, populated=True), NOW + DAY, False),  # no default
    ],
)
def test_a_default_partition_proves_that_a_range_ahead_is_empty(
    default: Table, lower: datetime | None, proves: bool
) -> None:
    made = leaf("log_s1_p2", lower, NOW + 2 * DAY)
    assert guarded(made, [default], NOW) is (default if proves else None)


def index(name: str, definition: str = "btree (body)", **parts: Any) -> Index:
    return Index(name=name, unique=False, definition=definition, **parts)


@pytest.mark.parametrize(
    ("old", "why"),
    [
        (index("by_hand"), None),
        (index("log_s1_p1_body_idx"), c.Why.REMOVED),
        (index("log_s1_p1_at_idx", "btree (at)"), None),  # of a window that other partitions have
        (index("log_s1_p1_body_idx", valid=False), c.Why.LEFTOVER),
        (index("by_hand", valid=False), c.Why.LEFTOVER),
        (index("by_hand_ccnew"), c.Why.LEFTOVER),
        (index("log_s1_p1_body_idx", parent="log_s1_body_idx"), None),
    ],
)
def test_an_index_of_a_partition_that_nobody_declares(old: Index, why: c.Why | None) -> None:
    window = Window(by="at", seconds=86_400)
    rolling = index("log_s1_p2_at_idx", "btree (at)", window=window)
    first, second = leaf("log_s1_p1", NOW - DAY, NOW), leaf("log_s1_p2", NOW, NOW + DAY)
    second = replace(second, indexes=(rolling,))
    live = catalog(PARENT, replace(first, indexes=(old,)), second)
    found = changes(live, catalog(PARENT, first, second))
    assert [x.why for x in found if isinstance(x, c.DropIndex)] == ([] if why is None else [why])
    assert len(found) == (why is not None)


@pytest.mark.parametrize(
    ("name", "inherited", "goes"),
    [
        (GUARD, False, True),
        ("log_s1_check", False, True),  # ours by its end: of a check that is not wanted any more
        ("log_check_s1", False, True),
        ("by_hand", False, False),
        ("log_check_s1", True, False),
    ],
)
def test_a_check_of_a_partition_that_nobody_declares(
    name: str, inherited: bool, goes: bool
) -> None:
    name = name.replace("log_s1_check", "log_s1_check_s1")
    part = leaf("log_s1_p1", NOW, NOW + DAY)
    check = Check(name=name, definition="CHECK ((x > 0))", inherited=inherited)
    live = catalog(PARENT, replace(part, checks=(check,)))
    found = changes(live, catalog(PARENT, part))
    assert [(type(x).__name__, x.why) for x in found if isinstance(x, c.DropConstraint)] == (
        [("DropConstraint", c.Why.LEFTOVER)] if goes else []
    )
    assert len(found) == goes


# --- the rest -------------------------------------------------------------------------------------


def test_labels_are_added_where_they_belong_and_never_reordered() -> None:
    def found(live: str, desired: str) -> list[tuple[str, str | None]]:
        enums = [{"e": EnumType(name="e", labels=tuple(x))} for x in (live, desired)]
        adding = changes(catalog(enums=enums[0]), catalog(enums=enums[1]))
        assert all(isinstance(x, c.AddEnumLabel) for x in adding)
        return [(x.label, x.before) for x in adding if isinstance(x, c.AddEnumLabel)]

    assert found("ac", "abcd") == [("b", "c"), ("d", None)]
    assert found("c", "abc") == [("a", "c"), ("b", "c")]
    assert found("axc", "ac") == []  # labels that nobody declares stay
    for live, desired in (("ab", "ba"), ("axb", "bxa"), ("abc", "cba")):
        with pytest.raises(SchemaError) as refused:
            found(live, desired)
        assert refused.value.code == "PS221"


def test_a_server_of_a_newer_release_is_left_alone() -> None:
    (upgrade,) = changes(catalog(internal_version=1), catalog(internal_version=2))
    assert upgrade == c.CreateInternal(server="core", version=1)
    with pytest.raises(SchemaError) as refused:
        changes(catalog(internal_version=3), catalog(internal_version=2))
    assert refused.value.code == "PS220"


def test_a_workspace_that_moves_is_written_and_not_deleted() -> None:
    def rows(**shards: str) -> frozenset[Placement]:
        return frozenset(Placement(workspace=w, shard=s) for w, s in shards.items())

    live = catalog(placements=rows(a="s1", b="s1", c="s1"))
    (change,) = changes(live, catalog(placements=rows(a="s1", b="s2", d="s1")))
    assert isinstance(change, c.SetPlacements)
    assert [(p.workspace, p.shard) for p in change.upsert] == [("b", "s2"), ("d", "s1")]
    assert [p.workspace for p in change.delete] == ["c"]
