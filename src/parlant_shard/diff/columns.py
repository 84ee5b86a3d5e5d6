"""Compare the columns of a table."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

from parlant_shard import changes as c
from parlant_shard.catalog import Catalog, Check, Column, Table
from parlant_shard.diff.leftovers import FILLING
from parlant_shard.errors import SchemaError


def columns(
    on: dict[str, Any], live: Table, table: Table, catalog: Catalog, leaves: tuple[Table, ...]
) -> Iterator[c.Change]:
    add = partial(c.AddColumn, **on)
    viewed = any(table.name in view.sources for view in catalog.views.values())
    existing = {column.name: column for column in live.columns}
    for column in table.columns:
        old = existing.pop(column.name, None)
        if old is None:
            yield add(column=column, leaves=leaves)
        elif old.comment == FILLING:
            yield add(
                column=column, leaves=leaves, begun=True, proved=old.not_null, checks=live.checks
            )
        elif old != column:
            yield from _altered(on, old, column, leaves, viewed, live.checks)
    for old in existing.values():
        yield c.DropColumn(**on, column=old)


def _altered(
    on: dict[str, Any],
    old: Column,
    new: Column,
    leaves: tuple[Table, ...],
    viewed: bool,
    proofs: tuple[Check, ...],
) -> Iterator[c.Change]:
    table = on["table"]
    assert isinstance(table, Table)
    if old.generated != new.generated or (new.generated and old.default != new.default):
        raise SchemaError(
            f'column "{table.name}.{new.name}": the generation expression cannot be changed in '
            "place",
            code="PS224",
            hint="add a column of another name with the new expression, then drop this one",
        )
    yield c.AlterColumn(
        **on,
        old=old,
        new=new,
        leaves=leaves,
        viewed=viewed,
        begun=proofs,
    )
