"""Names at a query level: which item a qualifier means, and which column a name."""

from __future__ import annotations

from collections.abc import Iterable

from parlant_shard.router.model import Derived, Item, Ref, Scope


def named(scope: Scope, name: str | None) -> Item | None:
    level: Scope | None = scope
    while level is not None:
        for item in level.items:
            if item.name == name:
                return item
        level = level.outer
    return None


def needs_all(items: Iterable[Item]) -> None:
    for item in items:
        if item.ref is not None:
            item.ref.whole = True


def find(items: Iterable[Item], column: str) -> tuple[Ref, str] | None:
    for item in items:
        if item.columns is not None and column in item.columns:
            return item.outputs.get(column)
    return None


def common(left: Iterable[Item], right: Iterable[Item]) -> list[str]:
    names = {c for i in left for c in i.columns or ()}
    return sorted(names & {c for i in right for c in i.columns or ()})


def renamed(derived: Derived, names: list[str]) -> Derived:
    if derived.columns is None or len(names) > len(derived.columns):
        return Derived()
    columns = (*names, *derived.columns[len(names) :])
    outputs = {
        new: derived.outputs[old]
        for new, old in zip(columns, derived.columns, strict=True)
        if old in derived.outputs
    }
    return Derived(columns, outputs)
