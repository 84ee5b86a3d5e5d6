"""What `maintain` is to do on a table, at the borders of each condition: nothing goes too early."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from parlant_shard import changes as c
from parlant_shard.catalog import (
    Bound,
    Catalog,
    Column,
    Facts,
    ForeignKey,
    Index,
    Managed,
    Relkind,
    Retired,
    Table,
)
from parlant_shard.maintain.defaults import Contents
from parlant_shard.maintain.model import Found, GivenUp, Noun
from parlant_shard.maintain.table import Server, Work
from parlant_shard.topology import Topology, parse_topology

NOW = datetime(2026, 5, 20, 12)
TODAY, DAY, MOMENT = datetime(2026, 5, 20), timedelta(days=1), timedelta(microseconds=1)
KEPT = 10 * DAY  # the retention
CUTOFF = NOW - KEPT
PARENT = Table(
    name="log_s1",
    kind=Relkind.PARTITIONED,
    partition_by="at",
    columns=(Column(name="at", type="timestamp with time zone", not_null=True),),
)
MANAGED = Managed(kind="table", name="log_s1", logical="log", shard="s1")


def topology(partition: str = "retention: 10 days, archive: /archive, grace: 3 days") -> Topology:
    text = (
        "version: 1\nname: t\nschema: {from: core}\nservers:\n  core: {dsn: 'host=core'}\n"
        "coordinator: core\nshards:\n  s1: {server: core, workspaces: [a]}\ntables:\n"
        f"  log: {{partition: {{by: at, every: 1 day, premake: 2, {partition}}}}}\n"
    )
    return parse_topology(text.encode(), file=Path("t.yaml"))


def leaf(name: str, lower: datetime | None, upper: datetime | None, **parts: Any) -> Table:
    bound = Bound(lower=lower, upper=upper)
    return Table(name=name, parent="log_s1", columns=PARENT.columns, bound=bound, **parts)


DEFAULT = replace(leaf("log_s1_default", None, None), bound=Bound(default=True), populated=True)


def row(
    name: str, lower: datetime | None, upper: datetime | None, state: str, **parts: Any
) -> Retired:
    return Retired(
        name=name, relid=1, logical="log", shard="s1", parent=parts.pop("parent", "log_s1"),
        lower=lower, upper=upper, state=state, **parts,
    )  # fmt: skip


def work(
    *leaves: Table,
    retired: tuple[Retired, ...] = (),
    apart: tuple[Table, ...] = (),
    what: Topology | None = None,
    defaults: Mapping[str, Contents] | None = None,
    move: int | None = None,
) -> tuple[dict[Noun, list[Any]], list[str]]:
    """Return what is to be done on the table by its kind, and the notices."""
    catalog = Catalog(
        tables={t.name: t for t in (PARENT, *leaves, *apart)},
        managed={("table", "log_s1"): MANAGED},
        retired=retired,
    )
    facts = Facts(
        server="core", version_num=180_000, database="d", host="h", port="1", user="u",
        password=None, now=NOW, settings={}, superuser=True, roles=frozenset(), can=frozenset(),
        extensions_available=frozenset(),
    )  # fmt: skip
    found = Found(
        server="core", facts=facts, catalog=catalog, tables=frozenset({"log_s1"}),
        defaults=defaults or {},
    )  # fmt: skip
    taken = {*catalog.tables, *(r.name for r in retired)}
    server = Server(topology=what or topology(), found=found, now=NOW, move=move, taken=taken)
    return dict(Work(server, PARENT, MANAGED, leaves)), server.notices


# --- detach ---------------------------------------------------------------------------------------


def detached(*leaves: Table, **options: Any) -> list[str]:
    changes, _ = work(*leaves, **options)
    return [x.table.name for x in changes[Noun.DETACH] if isinstance(x, c.DetachPartition)]


@pytest.mark.parametrize(
    ("lower", "upper", "goes"),
    [
        (CUTOFF - DAY, CUTOFF, True),
        (CUTOFF - DAY, CUTOFF + MOMENT, False),  # its newest row may be within the retention
        (CUTOFF - 30 * DAY, CUTOFF + MOMENT, False),
        (None, CUTOFF, True),
        (CUTOFF - DAY, None, False),
        (None, None, False),
    ],
)
def test_a_partition_goes_when_all_of_it_is_older_than_the_retention(
    lower: datetime | None, upper: datetime | None, goes: bool
) -> None:
    assert detached(leaf("old", lower, upper)) == (["old"] if goes else [])
    assert detached(leaf("old", lower, upper), what=topology("grace: 3 days")) == []


def test_a_default_partition_and_one_that_is_pending_stay() -> None:
    pending = leaf("pending", CUTOFF - DAY, CUTOFF, detach_pending=True)
    assert detached(DEFAULT, pending) == []
    # Where there is a default partition, PostgreSQL cannot detach concurrently.
    for leaves, at_once in (([], False), ([DEFAULT], True)):
        changes, _ = work(leaf("old", CUTOFF - DAY, CUTOFF), *leaves)
        assert [x.at_once for x in changes[Noun.DETACH]] == [at_once]


@pytest.mark.parametrize(
    ("state", "until", "goes"),
    [
        ("restored", NOW + MOMENT, False),
        ("restored", NOW, True),
        ("restored", None, True),
        ("detached", NOW + DAY, True),  # it was restored once, and that is over
    ],
)
def test_one_that_was_restored_is_kept_for_as_long_as_was_said(
    state: str, until: datetime | None, goes: bool
) -> None:
    retired = (row("old", CUTOFF - DAY, CUTOFF, state, kept_until=until, archive="a"),)
    part = leaf("old", CUTOFF - DAY, CUTOFF)
    assert detached(part, retired=retired) == (["old"] if goes else [])


def test_an_announcement_is_good_for_the_very_range() -> None:
    due, later = leaf("old", CUTOFF - DAY, CUTOFF), leaf("old", CUTOFF - DAY, CUTOFF + DAY)
    for part, announced in ((due, True), (leaf("old", CUTOFF - 2 * DAY, CUTOFF), False)):
        changes, _ = work(part, retired=(row("old", CUTOFF - DAY, CUTOFF, "detaching"),))
        assert [x.announced for x in changes[Noun.DETACH]] == [announced]
    # Not due any more: the announcement goes, the partition stays.
    changes, _ = work(later, retired=(row("old", CUTOFF - DAY, CUTOFF, "detaching"),))
    assert [type(x) for x in changes[Noun.DETACH]] == [c.ForgetDetach]


# --- archive and drop -----------------------------------------------------------------------------

APART = Table(name="old", columns=PARENT.columns)
GRACE = 3 * DAY


def archived(retired: Retired, apart: Table = APART, what: Topology | None = None) -> list[Any]:
    changes, _ = work(retired=(retired,), apart=(apart,), what=what)
    return changes[Noun.ARCHIVE]


@pytest.mark.parametrize(
    ("change", "goes"),
    [
        ({}, True),
        ({"detached_at": NOW - GRACE + MOMENT}, False),
        ({"detached_at": None}, False),
        ({"state": "detaching"}, False),
        ({"state": "restored"}, False),
        ({"state": "archived"}, False),
        ({"parent": "other_s1"}, False),
        ({"present": False}, False),
        ({"upper": CUTOFF + MOMENT}, False),  # the retention is longer now
        ({"upper": None}, True),
        # Restored beside its table, for a time: the retention is no matter.
        ({"upper": CUTOFF + DAY, "archive": "a"}, True),
        ({"upper": CUTOFF + DAY, "archive": "a", "kept_until": NOW - DAY}, False),
    ],
)
def test_a_detached_partition_is_dropped_when_its_grace_has_passed(
    change: dict[str, Any], goes: bool
) -> None:
    facts = {"detached_at": NOW - GRACE, "state": "detached", "upper": CUTOFF, **change}
    retired = row("old", CUTOFF - DAY, facts.pop("upper"), facts.pop("state"), **facts)
    found = archived(retired)
    assert [type(x) for x in found] == ([c.ArchivePartition] if goes else [])
    # Without a place for archives nothing is dropped, ever.
    assert archived(retired, what=topology("retention: 10 days, grace: 3 days")) == []
    # Without a retention only what was restored for a time is.
    forever = archived(retired, what=topology("archive: /archive, grace: 3 days"))
    assert [type(x) for x in forever] == ([c.ArchivePartition] if goes and retired.is_copy else [])


def test_what_would_not_have_expired_now_is_told_once() -> None:
    retired = tuple(
        row(f"old{n}", CUTOFF, CUTOFF + DAY, "detached", detached_at=NOW - GRACE) for n in (1, 2)
    )
    changes, notices = work(
        retired=retired, apart=tuple(replace(APART, name=r.name) for r in retired)
    )
    assert changes[Noun.ARCHIVE] == []
    (notice,) = [n for n in notices if "would not have expired" in n]
    assert '2 detached partitions, the first of them "old1"' in notice
    assert "ATTACH PARTITION" in notice


@pytest.mark.parametrize("kind", [Relkind.PARTITIONED, Relkind.FOREIGN])
def test_a_detached_partition_that_is_no_plain_table_is_kept(kind: Relkind) -> None:
    retired = row("old", CUTOFF - DAY, CUTOFF, "detached", detached_at=NOW - GRACE)
    (given_up,) = archived(retired, replace(APART, kind=kind))
    assert isinstance(given_up, GivenUp)
    assert given_up.code == "PS532"


# --- premake --------------------------------------------------------------------------------------


def made(*leaves: Table, **options: Any) -> list[Bound]:
    changes, _ = work(*leaves, **options)
    found = [x.table.bound for x in changes[Noun.PREMAKE] if isinstance(x, c.CreatePartition)]
    return sorted((b for b in found if b), key=lambda b: b.lower or NOW)


def days(*numbers: int) -> list[Bound]:
    return [Bound(lower=TODAY + n * DAY, upper=TODAY + (n + 1) * DAY) for n in numbers]


def test_every_range_is_made_from_the_retention_to_premake() -> None:
    assert made(leaf("p", TODAY, TODAY + DAY)) == days(*range(-10, 0), 1, 2)
    assert made(leaf("p", TODAY - 10 * DAY, TODAY + 2 * DAY)) == days(2)
    # Without a retention, from the oldest partition that is there.
    forever = topology("grace: 3 days")
    assert made(leaf("p", TODAY, TODAY + DAY), what=forever) == days(1, 2)
    parts = leaf("p", TODAY, TODAY + DAY), leaf("q", TODAY - 3 * DAY, TODAY - 2 * DAY)
    assert made(*parts, what=forever) == days(-2, -1, 1, 2)


@pytest.mark.parametrize("state", ["detaching", "detached", "archived", "restoring", "restored"])
def test_a_retired_range_is_not_made_again(state: str) -> None:
    """By whatever clock it was retired: rows of it are elsewhere."""
    gone = row("gone", TODAY - 3 * DAY, TODAY - 2 * DAY, state, present=False)
    part = leaf("p", TODAY, TODAY + DAY)
    assert made(part, retired=(gone,)) == days(*range(-10, -3), -2, -1, 1, 2)
    other = replace(gone, parent="other_s1")
    assert made(part, retired=(other,)) == days(*range(-10, 0), 1, 2)


@pytest.mark.parametrize(
    ("lower", "upper", "rows"),
    [
        (TODAY + DAY, TODAY + 2 * DAY, 8),
        (TODAY + DAY, TODAY + DAY + timedelta(hours=1), 1),
        (TODAY + DAY + timedelta(hours=1), TODAY + 2 * DAY - timedelta(hours=1), 3),
        (TODAY + DAY, TODAY + DAY + timedelta(minutes=1), 1),  # by whole hours
        (TODAY + DAY - timedelta(hours=1), TODAY + DAY, 0),
        (TODAY + 2 * DAY, TODAY + 3 * DAY, 16),
    ],
)
def test_rows_of_a_default_partition_are_counted_within_a_range(
    lower: datetime, upper: datetime, rows: int
) -> None:
    hours = {hour(TODAY + DAY): 1, hour(TODAY + DAY) + 7: 3, hour(TODAY + 2 * DAY) - 1: 4,
             hour(TODAY + 2 * DAY): 16, None: 100}  # fmt: skip
    assert Contents(rows=124, hours=hours).within(lower, upper) == rows


def hour(moment: datetime) -> int:
    return int((moment - datetime(1970, 1, 1)) / timedelta(hours=1))


def test_a_range_whose_rows_are_in_the_default_partition_is_not_made() -> None:
    held = {DEFAULT.name: Contents(rows=5, hours={hour(TODAY + DAY): 5})}
    parts = leaf("p", TODAY - 10 * DAY, TODAY + DAY), DEFAULT
    assert made(*parts, defaults=held) == days(2)
    changes, _ = work(*parts, defaults=held)
    (given_up,) = [x for x in changes[Noun.PREMAKE] if isinstance(x, GivenUp)]
    assert given_up.code == "PS581"
    # Asked for, the rows are moved into it instead.
    changes, _ = work(*parts, defaults=held, move=5)
    (moved,) = changes[Noun.MOVE]
    assert isinstance(moved, c.MoveRows)
    assert [x.bound for x in moved.partitions] == days(1)
    assert moved.remainder.bound == Bound(default=True)


def test_rows_that_others_refer_to_are_not_moved() -> None:
    held = {DEFAULT.name: Contents(rows=5, hours={hour(TODAY + DAY): 5})}
    parts = leaf("p", TODAY - 10 * DAY, TODAY + DAY), DEFAULT
    fk = ForeignKey(name="f", columns=("x",), ref_table="log_s1", ref_columns=("id",))
    changes, _ = work(*parts, defaults=held, move=5, apart=(Table(name="o", foreign_keys=(fk,)),))
    (given_up,) = changes[Noun.MOVE]
    assert given_up.code == "PS583"
    # And of too many rows nobody knows which ranges they need.
    many = {DEFAULT.name: Contents(rows=6)}
    changes, _ = work(*parts, defaults=many, move=5)
    (given_up,) = changes[Noun.MOVE]
    assert given_up.code == "PS582"


# --- what a killed run left -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("registered", "kinds"),
    [(True, [c.FinalizeDetach, c.SettleDetach]), (False, [c.FinalizeDetach])],
)
def test_an_interrupted_detach_is_finished(registered: bool, kinds: list[Any]) -> None:
    pending = leaf("old", CUTOFF - DAY, CUTOFF, detach_pending=True)
    retired = (row("old", CUTOFF - DAY, CUTOFF, "detaching", present=False),)
    changes, notices = work(pending, retired=retired if registered else ())
    assert [type(x) for x in changes[Noun.FINALISE]] == kinds
    assert any("detached by somebody else" in n for n in notices) is not registered


@pytest.mark.parametrize(
    ("change", "settles"),
    [({}, True), ({"state": "detached"}, False), ({"present": False}, False),
     ({"parent": "other_s1"}, False)],
)  # fmt: skip
def test_a_detach_whose_end_was_not_recorded_is(change: dict[str, Any], settles: bool) -> None:
    facts = {"state": "detaching", **change}
    retired = row("old", CUTOFF - DAY, CUTOFF, facts.pop("state"), **facts)
    changes, _ = work(retired=(retired,), apart=(APART,))
    assert [type(x) for x in changes[Noun.FINALISE]] == ([c.SettleDetach] if settles else [])


def test_a_partition_in_the_window_has_its_index_and_none_outside() -> None:
    what = parse_topology(
        (
            b"version: 1\nname: t\nschema: {from: core}\nservers:\n  core: {dsn: 'host=core'}\n"
            b"coordinator: core\nshards:\n  s1: {server: core, workspaces: [a]}\ntables:\n"
            b"  log: {partition: {by: at, every: 1 day, premake: 1}}\n"
            b"indexes:\n  recent: {on: log, columns: [body], window: 2 days}\n"
        ),
        file=Path("t.yaml"),
    )
    index = Index(name="log_s1_p1_recent", unique=False, definition="btree (body)")

    def part(number: int, upper: datetime, *, has: bool) -> Table:
        name = f"log_s1_p{number}"
        own = (replace(index, name=f"{name}_recent"),) if has else ()
        return leaf(name, upper - DAY, upper, indexes=own)

    edge = NOW - 2 * DAY
    changes, _ = work(
        part(1, edge, has=True),
        part(2, edge + MOMENT + DAY, has=False),
        part(3, edge + 3 * DAY, has=True),
        leaf("log_s1_p4", edge - 2 * DAY, edge - DAY),
        what=what,
    )
    found = [(type(x), x.table.name) for x in changes[Noun.ROLL]]
    assert found == [(c.DropIndex, "log_s1_p1"), (c.CreateIndex, "log_s1_p2")]
