"""Which tables are sharded, and over which foreign keys each reaches its tenant."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from parlant_shard.catalog import Catalog, Column, ForeignKey, Relkind, Table
from parlant_shard.errors import SchemaError
from parlant_shard.tenancy import Tenancy, tenancy
from parlant_shard.topology import parse_topology

HEAD = """
version: 1
name: t
schema: {from: core}
servers: {core: {dsn: "host=nowhere dbname=x"}}
coordinator: core
shards: {s1: {server: core, workspaces: [a]}}
"""


def table(name: str, *columns: str, **references: str) -> Table:
    """Make a table. A column is `name` or `name!` (NOT NULL); references are column → table."""
    return Table(
        name=name,
        columns=tuple(
            Column(name=c.rstrip("!"), type="text", not_null=c.endswith("!")) for c in columns
        ),
        foreign_keys=tuple(
            ForeignKey(name=f"{name}_{c}_fkey", columns=(c,), ref_table=target, ref_columns=("id",))
            for c, target in references.items()
        ),
    )


def found(*tables: Table, more: str = "") -> Tenancy:
    topology = parse_topology((HEAD + more).encode(), file=Path("t.yaml"))
    return tenancy(Catalog(tables={t.name: t for t in tables}), topology)


ACCOUNT = table("account", "id!", "workspace_id!")


def ways(of: Tenancy, name: str) -> list[str]:
    return [fk.name for fk in of.paths[name]]


def test_tables_reach_the_key_over_foreign_keys() -> None:
    result = found(
        ACCOUNT,
        table("item", "id!", "account_id!", account_id="account"),
        table("log", "id!", "item_id", item_id="item"),
        table("country", "id!"),
    )
    assert result.kinds == {
        "account": "sharded", "item": "sharded", "log": "sharded", "country": "host"
    }  # fmt: skip
    assert ways(result, "log") == ["log_item_id_fkey", "item_account_id_fkey"]
    assert "account" not in result.paths
    assert result.order == ("account", "item", "log")


def test_the_shortest_way_wins() -> None:
    result = found(
        ACCOUNT,
        table("item", "id!", "account_id!", account_id="account"),
        table("log", "id!", "item_id!", "account_id", item_id="item", account_id="account"),
    )
    assert ways(result, "log") == ["log_account_id_fkey"]


def test_a_way_that_is_never_null_is_preferred() -> None:
    result = found(
        ACCOUNT,
        table("item", "id!", "maker", "owner!", maker="account", owner="account"),
    )
    assert ways(result, "item") == ["item_owner_fkey"]


AMBIGUOUS = (ACCOUNT, table("item", "id!", "a!", "b!", a="account", b="account"))


def test_two_ways_are_a_choice_of_the_owner() -> None:
    with pytest.raises(SchemaError) as refused:
        found(*AMBIGUOUS)
    assert refused.value.code == "PS216"
    assert refused.value.message == (
        'table "item" reaches its tenant over more than one foreign key: '
        '"a" (to account), "b" (to account)'
    )
    assert refused.value.hint == (
        "say which one names the tenant: tables: {item: {path: a}}; rows in which they disagree "
        "must be fixed first"
    )


def test_the_owner_chooses() -> None:
    assert ways(found(*AMBIGUOUS, more="tables: {item: {path: b}}"), "item") == ["item_b_fkey"]


def test_a_path_needs_a_foreign_key() -> None:
    with pytest.raises(SchemaError, match='no single foreign key on the column "id"') as refused:
        found(*AMBIGUOUS, more="tables: {item: {path: id}}")
    assert refused.value.code == "PS215"
    assert refused.value.hint == "columns of its foreign keys: a, b"


def test_reference_and_host_tables_lead_nowhere() -> None:
    tables = (ACCOUNT, table("item", "id!", "account_id!", account_id="account"))
    result = found(
        *tables,
        table("log", "id!", "item_id!", item_id="item"),
        more="tables: {item: {kind: reference}}",
    )
    assert result.kinds == {"account": "sharded", "item": "reference", "log": "host"}
    assert result.of_kind("reference") == ("item",)


@pytest.mark.parametrize(
    ("tables", "more", "code"),
    [
        ((ACCOUNT,), "tables: {nothing: {kind: host}}", "PS210"),
        ((table("item", "id!"),), "", "PS211"),
        ((ACCOUNT, table("item", "id!")), "tables: {item: {kind: sharded}}", "PS212"),
    ],
)
def test_refusals(tables: tuple[Table, ...], more: str, code: str) -> None:
    with pytest.raises(SchemaError) as refused:
        found(*tables, more=more)
    assert refused.value.code == code
    assert refused.value.exit_code == 4
    assert refused.value.line


def test_a_partitioned_table_of_the_schema_is_refused() -> None:
    cut = Table(name="log", kind=Relkind.PARTITIONED, columns=ACCOUNT.columns, partition_by="id")
    with pytest.raises(SchemaError) as refused:
        found(ACCOUNT, cut)
    assert refused.value.code == "PS213"


def test_the_key_has_one_type() -> None:
    other = Table(name="other", columns=(Column(name="workspace_id", type="uuid"),))
    with pytest.raises(SchemaError, match="text: account; uuid: other") as refused:
        found(ACCOUNT, other)
    assert refused.value.code == "PS214"


def test_a_key_that_may_be_null_is_told() -> None:
    result = found(table("account", "id!", "workspace_id"))
    assert any('"account.workspace_id" may be NULL' in notice for notice in result.notices)


def test_cycles_end() -> None:
    result = found(
        table("account", "id!", "workspace_id!", "first", "parent", first="item", parent="account"),
        table("item", "id!", "account_id!", "next", account_id="account", next="item"),
    )
    assert set(result.order) == {"account", "item"}
    assert ways(result, "item") == ["item_account_id_fkey"]


def test_the_same_tables_in_another_order_are_the_same() -> None:
    tables: tuple[Any, ...] = (
        ACCOUNT,
        table("item", "id!", "account_id!", account_id="account"),
        table("log", "id!", "item_id!", item_id="item"),
    )
    assert found(*tables) == found(*reversed(tables))
