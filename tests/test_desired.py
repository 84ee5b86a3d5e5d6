"""The desired catalogue: who may live in a shard table, what its keys hold, what is not made again.

What a server makes of it is shown by tests/server/test_protocol.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from parlant_shard.catalog import (
    Catalog,
    Column,
    Facts,
    ForeignKey,
    Key,
    Managed,
    Placement,
    Retired,
    Table,
)
from parlant_shard.desired import Peer, desired
from parlant_shard.shardmap import bucket
from parlant_shard.tenancy import tenancy
from parlant_shard.topology import parse_topology

NOW = datetime(2026, 5, 20, 12)
TODAY, DAY = datetime(2026, 5, 20), timedelta(days=1)


def table(name: str, *columns: Column, keys: tuple[Key, ...] = (), **refers: Any) -> Table:
    """Return a table with `id`, and foreign keys: column → (table, what else the key says)."""
    return Table(
        name=name,
        columns=(Column(name="id", type="uuid", not_null=True), *columns,
                 *(Column(name=c, type="uuid") for c in refers)),
        keys=(Key(name=f"{name}_pkey", primary=True, columns=("id",),
                  definition="PRIMARY KEY (id)"), *keys),
        foreign_keys=tuple(
            ForeignKey(name=f"{name}_{c}_fkey", columns=(c,), ref_table=to, ref_columns=("id",),
                       **more)
            for c, (to, more) in refers.items()
        ),
    )  # fmt: skip


ACCOUNT = table("account", Column(name="workspace_id", type="text"))
ITEM = table("item", account_id=("account", {}))
LOG = table("log", Column(name="at", type="timestamp with time zone", not_null=True),
            account_id=("account", {}))  # fmt: skip


def built(
    shards: str, *tables: Table, live: Mapping[str, Catalog] | None = None, more: str = ""
) -> Catalog:
    """Return what the coordinator shall hold."""
    text = (
        "version: 1\nname: t\nschema: {from: core}\nkey: workspace_id\n"
        "servers: {core: {dsn: 'host=core dbname=x'}}\ncoordinator: core\n"
        f"shards: {{{shards}}}\n{more}"
    )
    topology = parse_topology(text.encode(), file=Path("t.yaml"))
    base = Catalog(tables={t.name: t for t in tables})
    facts = Facts(
        server="core", version_num=180_000, database="d", host="h", port="1", user="u",
        password=None, now=NOW, settings={}, superuser=True, roles=frozenset(), can=frozenset(),
        extensions_available=frozenset(),
    )  # fmt: skip
    peer = Peer(options=(), user="u", password=None)
    return desired(
        {18: base}, topology, tenancy(base, topology), {"core": facts}, live or {"core": Catalog()},
        {"core": peer},
    ).catalogs["core"]  # fmt: skip


ONE = "s1: {server: core, workspaces: [a, b]}"
BUCKETS = (
    "s1: {server: core, workspaces: [a, b], buckets: 0-2047}, "
    "s2: {server: core, workspaces: [c], buckets: [2048-3000, 3001-4095]}"
)


def check(catalog: Catalog, table: str) -> str:
    (found,) = (c for c in catalog.tables[table].checks if c.name.endswith("_workspace_check"))
    return found.definition


def test_a_shard_admits_its_own_workspaces_alone() -> None:
    found = built(f"{ONE}, s2: {{server: core, workspaces: [c]}}", ACCOUNT, ITEM)
    for name in ("account", "item"):
        assert check(found, f"{name}_s1") == "CHECK ((workspace_id = ANY ('{a,b}'::text[])))"
        assert check(found, f"{name}_s2") == "CHECK ((workspace_id = ANY ('{c}'::text[])))"


def test_a_shard_of_buckets_leaves_out_what_is_listed_elsewhere_and_admits_its_own() -> None:
    found = built(BUCKETS, ACCOUNT)
    call = "parlant_shard.bucket(workspace_id)"
    assert check(found, "account_s1") == (
        f"CHECK (((({call} >= 0) AND ({call} <= 2047) AND (workspace_id <> ALL "
        "('{c}'::text[]))) OR (workspace_id = ANY ('{a,b}'::text[]))))"
    )
    second = check(found, "account_s2")
    for part in (
        f"({call} >= 2048) AND ({call} <= 3000)",
        f"({call} >= 3001) AND ({call} <= 4095)",
        "workspace_id <> ALL ('{a,b}'::text[])",
        "workspace_id = ANY ('{c}'::text[])",
    ):
        assert part in second  # fmt: skip


def test_a_row_is_of_one_workspace_always() -> None:
    """The column is there and not NULL, whatever the schema says."""
    found = built(ONE, ACCOUNT, ITEM)
    for name in ("account_s1", "item_s1"):
        column = found.tables[name].column("workspace_id")
        assert column is not None
        assert (column.type, column.not_null) == ("text", True)


@pytest.mark.parametrize(
    ("says", "becomes"),
    [
        ({}, {}),
        ({"on_delete": "c", "on_update": "c"}, {"on_delete": "c", "on_update": "c"}),
        # The workspace must not be cleared or set with it.
        ({"on_delete": "n"}, {"on_delete": "n", "set_columns": ("account_id",)}),
        ({"on_delete": "d"}, {"on_delete": "d", "set_columns": ("account_id",)}),
        ({"on_update": "n"}, {"on_update": "a"}),
        ({"on_update": "d"}, {"on_update": "a"}),
        ({"match": "f"}, {"match": "s"}),
        ({"deferrable": True}, {"deferrable": True}),
    ],
)
def test_a_foreign_key_refers_within_the_workspace(
    says: dict[str, Any], becomes: dict[str, Any]
) -> None:
    found = built(ONE, ACCOUNT, table("item", account_id=("account", says)))
    (fk,) = found.tables["item_s1"].foreign_keys
    assert fk == ForeignKey(
        name="item_account_id_fkey_s1",
        columns=("workspace_id", "account_id"),
        ref_table="account_s1",
        ref_columns=("workspace_id", "id"),
        **becomes,
    )
    # What it refers to is unique with the workspace.
    definitions = {k.columns: k.definition for k in found.tables["account_s1"].keys}
    assert definitions[("workspace_id", "id")] == "UNIQUE (workspace_id, id)"
    assert definitions[("id",)] == "PRIMARY KEY (id)"


# --- partitions -----------------------------------------------------------------------------------

DAILY = "tables: {log: {partition: {by: at, every: 1 day, premake: 2, retention: 3 days}}}\n"


def ranges(catalog: Catalog) -> list[int]:
    """Return the days of the partitions, from today on."""
    bounds = [t.bound for t in catalog.tables.values() if t.parent == "log_s1" and t.bound]
    assert all(b.lower and b.upper and b.upper - b.lower == DAY for b in bounds)
    return sorted((b.lower - TODAY) // DAY for b in bounds if b.lower)


def test_partitions_reach_from_the_retention_to_premake() -> None:
    assert ranges(built(ONE, ACCOUNT, LOG, more=DAILY)) == [-3, -2, -1, 0, 1, 2]


@pytest.mark.parametrize("state", ["detaching", "detached", "archived", "restoring", "restored"])
def test_a_retired_range_is_not_made_again_by_apply(state: str) -> None:
    gone = Retired(
        name="log_s1_p20260518", relid=1, logical="log", shard="s1", parent="log_s1",
        lower=TODAY - 2 * DAY, upper=TODAY - DAY, state=state,
    )  # fmt: skip
    found = built(ONE, ACCOUNT, LOG, more=DAILY, live={"core": Catalog(retired=(gone,))})
    assert ranges(found) == [-3, -1, 0, 1, 2]
    # Its name is an archive's: a partition of another range does not take it.
    later = Retired(
        name="log_s1_p20260521", relid=1, logical="log", shard="s1", parent="other_s1",
        lower=TODAY, upper=TODAY + DAY, state=state,
    )  # fmt: skip
    found = built(ONE, ACCOUNT, LOG, more=DAILY, live={"core": Catalog(retired=(later,))})
    assert ranges(found) == [-3, -2, -1, 0, 1, 2]
    assert "log_s1_p20260521" not in found.tables
    assert "log_s1_p20260521_x" in found.tables


# --- the directory --------------------------------------------------------------------------------


def directory(shards: str, *rows: Placement) -> dict[str, tuple[str, str]]:
    live = {"core": Catalog(directory=frozenset(rows), managed={
        ("table", "account_s1"): Managed(kind="table", name="account_s1", logical="account",
                                         shard="s1")})}  # fmt: skip
    found = built(shards, ACCOUNT, live=live).directory
    assert len({p.workspace for p in found}) == len(found)
    return {p.workspace: (p.shard, p.state) for p in found}


@pytest.mark.parametrize("state", ["purging", "purged"])
def test_what_was_purged_stays_so_though_the_file_lists_it(state: str) -> None:
    rows = (Placement(workspace="a", shard="s1", state=state), Placement(workspace="b", shard="s1"))
    assert directory(ONE, *rows) == {"a": ("s1", state), "b": ("s1", "active")}
    # Nor does it forget what the file does not list any more, where a bucket has it.
    rows = (Placement(workspace="z", shard="s1", state=state),)
    home = "s1" if bucket("z") < 2048 else "s2"
    assert directory(BUCKETS, *rows)["z"] == (home, state)


def test_a_workspace_of_a_bucket_is_on_the_shard_of_its_bucket() -> None:
    numbers = {bucket(f"w{n}"): f"w{n}" for n in range(60_000)}
    homes = {0: "s1", 2047: "s1", 2048: "s2", 3000: "s2", 3001: "s2", 4095: "s2"}
    rows = [Placement(workspace=numbers[n], shard="s1") for n in homes]
    found = directory(BUCKETS, *rows)
    assert {n: found[numbers[n]][0] for n in homes} == homes
    # Of no bucket and on no list: nobody places it.
    assert "w1" not in directory(ONE, Placement(workspace="w1", shard="s1"))
