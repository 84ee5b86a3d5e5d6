"""Catalogues as values: comparison, fingerprints, and what must not reach a text."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from parlant_shard.canonical import list_check
from parlant_shard.catalog import (
    Catalog,
    Check,
    Column,
    ForeignKey,
    Index,
    Key,
    Managed,
    Placement,
    Subscription,
    Table,
    Trigger,
    UserMapping,
    Window,
    fingerprint,
    plain,
)
from parlant_shard.diff import Context, diff, listed, narrows, same_index

TABLE = Table(
    name="item_s1",
    columns=(Column(name="id", type="uuid", not_null=True), Column(name="note", type="text")),
    keys=(Key(name="item_pkey_s1", primary=True, columns=("id",), definition="PRIMARY KEY (id)"),),
    checks=(Check(name="item_s1_workspace_check", definition="CHECK ((k = ANY ('{a}'::text[])))"),),
    foreign_keys=(
        ForeignKey(name="f", columns=("id",), ref_table="account_s1", ref_columns=("id",)),
    ),
    indexes=(Index(name="i", unique=False, definition="btree (note)"),),
    triggers=(
        Trigger(name="t", head="CREATE TRIGGER t AFTER INSERT", tail="EXECUTE FUNCTION f()"),
    ),
)
CATALOG = Catalog(
    tables={
        "item_s1": TABLE,
        "account_s1": replace(TABLE, name="account_s1", foreign_keys=(), checks=(), indexes=()),
    },
    managed={
        ("table", n): Managed(kind="table", name=n, logical=n.removesuffix("_s1"), shard="s1")
        for n in ("item_s1", "account_s1")
    },
    user_mappings={
        ("east", "me"): UserMapping(server="east", role="me", user="you", password="hunter2")
    },
    subscriptions={
        "s": Subscription(
            name="s", slot="s", publication="p", peer=(("host", "h"),), password="hunter2"
        )
    },
    placements=frozenset(
        {Placement(workspace="b", shard="s1"), Placement(workspace="a", shard="s1")}
    ),
    directory=frozenset({Placement(workspace="a", shard="s1")}),
    shards={"s1": "core"},
    internal_version=1,
)
CONTEXT = Context(coordinator="core", publication="p", slots=frozenset())


def test_nothing_differs_from_itself() -> None:
    assert diff({"core": CATALOG}, {"core": CATALOG}, CONTEXT) == ()


def test_no_password_in_text_or_json() -> None:
    assert "hunter2" not in repr(CATALOG)
    assert "hunter2" not in json.dumps(plain(CATALOG))


def test_a_fingerprint_is_of_the_state_alone() -> None:
    same = replace(CATALOG, tables=dict(reversed(CATALOG.tables.items())))
    assert fingerprint({"core": CATALOG}) == fingerprint({"core": same})
    full = replace(TABLE, populated=True)
    grown = replace(CATALOG, tables={**CATALOG.tables, "item_s1": full})
    assert fingerprint({"core": CATALOG}) == fingerprint({"core": grown})


@pytest.mark.parametrize(
    "changed",
    [
        replace(CATALOG, shards={}),
        replace(CATALOG, directory=frozenset()),
        replace(CATALOG, tables={**CATALOG.tables, "item_s1": replace(TABLE, comment="x")}),
        replace(CATALOG, internal_version=0),
    ],
)
def test_a_fingerprint_changes_with_the_state(changed: Catalog) -> None:
    assert fingerprint({"core": CATALOG}) != fingerprint({"core": changed})


def test_a_fingerprint_holds_the_other_texts_apart() -> None:
    assert fingerprint({}, "ab", "c") != fingerprint({}, "a", "bc")


@pytest.mark.parametrize(
    "names", [["a"], [], ["it's", 'q"q', "b\\s", "a,b", "{x}", "NULL", " ", "ü🎉", "''", '"']]
)
@pytest.mark.parametrize("kind", ["text", "character varying(40)"])
def test_the_workspaces_of_a_check_are_read_back(names: list[str], kind: str) -> None:
    check = Check(name="c", definition=list_check("the key", kind, names))
    assert listed(check) == {*names}


@pytest.mark.parametrize("count", [99, 100, 101, 250])
def test_a_long_list_is_read_back(count: int) -> None:
    names = [f"w{i}" for i in range(count)]
    assert listed(Check(name="c", definition=list_check("k", "text", names))) == {*names}


def test_a_check_narrows_when_a_workspace_goes() -> None:
    def check(*names: str) -> Check:
        return Check(name="c", definition=list_check("k", "text", names))

    assert narrows(check("a", "b"), check("a"))
    assert narrows(check("a"), check("b"))
    assert not narrows(check("a"), check("a", "b"))


def test_a_rolling_index_may_reach_further_back() -> None:
    def index(day: str, keys: str = "note") -> Index:
        definition = f"btree ({keys}) WHERE (at >= '{day} 00:00:00+00'::timestamp with time zone)"
        return Index(name="i", unique=False, definition=definition)

    wanted = replace(index("2026-05-10"), window=Window(by="at", seconds=86_400))
    assert same_index(index("2026-05-10"), wanted)
    assert same_index(index("2026-05-01"), wanted)
    assert not same_index(index("2026-05-11"), wanted)
    assert not same_index(index("2026-05-01", "id"), wanted)
    assert not same_index(index("2026-05-01"), replace(wanted, window=None))
    assert not same_index(replace(index("2026-05-01"), unique=True), wanted)
