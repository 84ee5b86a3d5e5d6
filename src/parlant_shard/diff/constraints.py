"""Compare checks, keys and foreign keys of a table."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from parlant_shard import changes as c
from parlant_shard.catalog import Check, ForeignKey, Relkind, Table
from parlant_shard.diff.indexes import index_named
from parlant_shard.diff.leftovers import not_null_proof, temporary


def checks(
    on: dict[str, Any], live: Table, table: Table, leaves: tuple[Table, ...]
) -> Iterator[c.Change]:
    existing = {check.name: check for check in live.checks}
    foreign = table.kind is Relkind.FOREIGN
    for column in table.columns:
        # A proof of NOT NULL that a killed or failed run left: taken further, or not needed.
        name = not_null_proof(table.name, column.name)
        was = live.column(column.name)
        due = column.not_null and was is not None and not was.not_null
        left = existing.pop(name, None)
        for target, found in ((table, left), *((x, _check_named(x, name)) for x in leaves)):
            if found is not None and not found.inherited and not due:
                yield c.DropConstraint(
                    **{**on, "table": target},
                    name=name,
                    why=c.Why.LEFTOVER,
                )
    for check in table.checks:
        old = existing.pop(check.name, None)
        begun = existing.pop(temporary(check.name), None)
        if old is not None and old.definition == check.definition:
            if begun is not None:
                yield c.DropConstraint(**on, name=begun.name, why=c.Why.LEFTOVER)
            if not old.valid and not foreign:
                yield from _validate_check(on, old, leaves)
            continue
        if begun is not None and begun.definition != check.definition:
            yield c.DropConstraint(**on, name=begun.name, why=c.Why.LEFTOVER)
            begun = None
        if old is None and begun is None:
            yield c.AddCheck(**on, check=check, leaves=leaves)
        else:
            yield c.SwapCheck(
                **on,
                old=old or check,
                new=check,
                begun=begun,
                narrows=old is not None and narrows(old, check),
                leaves=leaves,
            )
    for old in existing.values():
        if not old.inherited:
            yield c.DropConstraint(**on, name=old.name, why=c.Why.REMOVED)


def _check_named(table: Table, name: str) -> Check | None:
    return next((check for check in table.checks if check.name == name), None)


def _validate_check(
    on: dict[str, Any], check: Check, leaves: tuple[Table, ...]
) -> Iterator[c.Change]:
    for leaf in leaves:
        if any(x.name == check.name and not x.valid for x in leaf.checks):
            yield c.ValidateConstraint(**{**on, "table": leaf}, name=check.name)
    yield c.ValidateConstraint(**on, name=check.name)


def narrows(old: Check, new: Check) -> bool:
    """Whether the new list of workspaces lacks one of the old (any change of buckets may)."""
    if "bucket(" in old.definition or "bucket(" in new.definition:
        return True
    return bool(listed(old) - listed(new))


def listed(check: Check) -> frozenset[str]:
    """The workspaces of a list CHECK of ours."""
    found: set[str] = set()
    for literal in re.findall(r"'(\{(?:[^']|'')*\})'", check.definition):
        found.update(_array(literal.replace("''", "'")))
    return frozenset(found)


def _array(text: str) -> list[str]:
    items = re.findall(r'"((?:[^"\\]|\\.)*)"|([^,{}]+)', text[1:-1])
    return [plain or re.sub(r"\\(.)", r"\1", quoted) for quoted, plain in items]


def keys(on: dict[str, Any], live: Table, table: Table) -> Iterator[c.Change]:
    existing = {key.name: key for key in live.keys}
    for key in table.keys:
        old = existing.pop(key.name, None)
        if old is not None and old.definition == key.definition:
            continue
        if old is not None:
            yield c.DropConstraint(**on, name=old.name, why=c.Why.REPLACED)
        yield c.AddKey(**on, key=key, index=index_named(live, key.name))
    for old in existing.values():
        if not old.inherited:
            yield c.DropConstraint(**on, name=old.name, why=c.Why.REMOVED)


def points_elsewhere(old: ForeignKey, new: ForeignKey) -> bool:
    """Whether it refers to the same rows, through a key table or without one."""
    same = (old.columns, old.ref_table, old.ref_columns)
    return old.key_table != new.key_table and same == (new.columns, new.ref_table, new.ref_columns)


def foreign_keys(
    on: dict[str, Any], live: Table, table: Table, leaves: tuple[Table, ...]
) -> Iterator[c.Change]:
    existing = {fk.name: fk for fk in live.foreign_keys}
    for fk in table.foreign_keys:
        old = existing.pop(fk.name, None)
        begun = existing.pop(temporary(fk.name), None)
        if old is not None and points_elsewhere(old, fk):
            yield c.SwapForeignKey(**on, foreign_key=fk, begun=begun, leaves=leaves)
            continue
        if begun is not None and not begun.inherited:
            yield c.DropConstraint(**on, name=begun.name, why=c.Why.LEFTOVER)
        if old is not None and replace(old, valid=True, inherited=False) == fk:
            if not old.valid:
                yield c.ValidateConstraint(**on, name=fk.name)
            continue
        if old is not None:
            yield c.DropConstraint(**on, name=old.name, why=c.Why.REPLACED)
        yield c.AddForeignKey(**on, foreign_key=fk, leaves=leaves)
    for old in existing.values():
        if not old.inherited:
            yield c.DropConstraint(**on, name=old.name, why=c.Why.REMOVED)
