"""How a foreign key to a reference table holds on a server that has a copy of the table.

The coordinator has committed a deletion before replication brings it to the other servers. So a
foreign key there can neither stop it nor check it. There are two ways to make it hold:

* *Sealed*: it points at a key table. The coordinator takes the key out of that table before its
  own transaction commits, and PostgreSQL refuses that while a row uses the key.
* *Replayed*: it points at the copy. A trigger carries its action out when the deletion arrives.

A replayed action must never fail: the deletion is a fact, and replication would stop. So an action
that the child can refuse is not replayed: such a foreign key is sealed, which is stricter than it
was declared. The same holds for a changed key; where an action is replayed on delete and nothing
is declared on update, the coordinator refuses the change of a key.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace

from parlant_shard import canonical
from parlant_shard.catalog import ForeignKey, Table

# The types whose texts as PostgreSQL deparses them end like this have elements.
_ARRAY = "[]"


@dataclass(frozen=True, slots=True, kw_only=True)
class Holding:
    """How one foreign key holds. `delete` is sealed or replayed; `update` also refused.

    `why` says why it is stricter than declared; None where it is not.
    """

    delete: str
    update: str
    why: str | None = None

    @property
    def sealed(self) -> bool:
        return self.delete == "sealed"


def holding(
    tables: Mapping[str, Table],
    sharded: Collection[str],
    child: Table,
    fk: ForeignKey,
    *,
    cut_by: str | None = None,
) -> Holding:
    """Return how `fk` of the table `child` to a reference table holds.

    `tables` is the schema as declared; `sharded` names those of its tables that are sharded.
    `cut_by` is the column that the child is partitioned by.
    """
    look = _Look(tables, sharded)
    update = _refuses_update(look, child, fk, cut_by)
    carried = fk.on_update in {"c", "n"} and update is None
    if fk.on_delete in {"a", "r"}:
        return Holding(
            delete="sealed",
            update="replayed" if carried else "sealed",
            why=update if fk.on_update in {"c", "n", "d"} else None,
        )
    refusal = _refuses_delete(look, child, fk, cut_by)
    if refusal is not None:
        return Holding(delete="sealed", update="replayed" if carried else "sealed", why=refusal)
    return Holding(
        delete="replayed",
        update="replayed" if carried else "refused",
        why=update if fk.on_update in {"c", "n", "d"} else None,
    )


def as_held(fk: ForeignKey, held: Holding, key_table: str | None) -> ForeignKey:
    """The foreign key as a server with a copy has it: where it points, and what is carried out."""
    on_update = fk.on_update if held.update == "replayed" or fk.on_update == "r" else "a"
    if not held.sealed:
        return replace(fk, on_update=on_update)
    return replace(
        fk,
        key_table=key_table,
        on_delete=fk.on_delete if fk.on_delete == "r" else "a",
        on_update=on_update,
        set_columns=(),
    )


@dataclass(frozen=True, slots=True)
class _Look:
    tables: Mapping[str, Table]
    sharded: Collection[str]

    def children(self, name: str) -> list[tuple[Table, ForeignKey]]:
        return [
            (self.tables[other], fk)
            for other in sorted(self.sharded)
            for fk in self.tables[other].foreign_keys
            if fk.ref_table == name and not fk.unenforced
        ]


def _refuses_delete(
    look: _Look, child: Table, fk: ForeignKey, cut_by: str | None, seen: tuple[str, ...] = ()
) -> str | None:
    """Why the child can refuse what `fk` does on delete; None where it cannot."""
    match fk.on_delete:
        case "d":
            return "SET DEFAULT needs a row that may be missing by then"
        case "n":
            cleared = fk.set_columns or fk.columns
            if fk.match == "f" and set(cleared) != set(fk.columns):
                return "MATCH FULL refuses a key that is NULL in part"
            return _refuses_change(look, child, cleared, fk, cut_by, null=True)
        case "c":
            return _refuses_cascade(look, child, seen)
        case _:
            return f'foreign key "{fk.name}" of "{child.name}" restricts'


def _refuses_cascade(look: _Look, child: Table, seen: tuple[str, ...]) -> str | None:
    if child.name in seen:
        return None
    if (trigger := _fires(child, "DELETE")) is not None:
        return trigger
    for grandchild, below in look.children(child.name):
        for column in below.ref_columns:
            found = child.column(column)
            if found is not None and found.type.endswith(_ARRAY):
                return f'"{grandchild.name}" refers to "{column}" of "{child.name}", an array'
        why = _refuses_delete(look, grandchild, below, None, (*seen, child.name))
        if why is not None:
            return why
    return None


def _refuses_update(look: _Look, child: Table, fk: ForeignKey, cut_by: str | None) -> str | None:
    """Why the child can refuse what `fk` does when the key changes."""
    match fk.on_update:
        case "c":
            parent = look.tables.get(fk.ref_table)
            for own, theirs in zip(fk.columns, fk.ref_columns, strict=True):
                mine, other = child.column(own), parent.column(theirs) if parent else None
                if mine is not None and other is not None and mine.type != other.type:
                    return f'"{own}" of "{child.name}" is {mine.type}, the key is {other.type}'
            return _refuses_change(look, child, fk.columns, fk, cut_by, null=False)
        case "n":
            return _refuses_change(look, child, fk.columns, fk, cut_by, null=True)
        case "d":
            return "SET DEFAULT needs a row that may be missing by then"
        case _:
            return None


def _refuses_change(
    look: _Look,
    child: Table,
    columns: Collection[str],
    fk: ForeignKey,
    cut_by: str | None,
    *,
    null: bool,
) -> str | None:
    """Why the child can refuse another value (or NULL) in these columns."""
    if (trigger := _fires(child, "UPDATE")) is not None:
        return trigger
    for name in sorted(columns):
        where = f'"{name}" of "{child.name}"'
        column = child.column(name)
        if null and column is not None and column.not_null:
            return f"{where} is NOT NULL"
        if name == cut_by:
            return f"{where} is what the table is partitioned by"
        for check in child.checks:
            if not check.unenforced and _reads(check.definition, name):
                return f'the CHECK "{check.name}" reads {where}'
        for other in child.columns:
            if other.generated and _reads(other.default or "", name):
                return f'the generated column "{other.name}" reads {where}'
        for key in child.keys:
            strict = (
                "NULLS NOT DISTINCT" in key.definition
                if null
                else (key.definition.startswith("EXCLUDE"))
            )
            if name in key.columns and strict:
                return f'the constraint "{key.name}" reads {where}'
        for index in child.indexes:
            if (
                index.unique
                and "NULLS NOT DISTINCT" in index.definition
                and null
                and _reads(index.definition, name)
            ):
                return f'the unique index "{index.name}" reads {where}'
        for own in child.foreign_keys:
            if own is fk or own.unenforced or name not in own.columns:
                continue
            if not null or own.match == "f":
                return f'the foreign key "{own.name}" reads {where} too'
        for other_table, below in look.children(child.name):
            if name in below.ref_columns:
                return f'"{other_table.name}" refers to {where}'
    return None


def _fires(table: Table, event: str) -> str | None:
    """A trigger of the schema that fires in replication too: nobody knows what it does."""
    for trigger in table.triggers:
        if trigger.enabled in {"A", "R"} and event in trigger.head:
            return f'the trigger "{trigger.name}" of "{table.name}" fires in replication too'
    return None


def _reads(expression: str, column: str) -> bool:
    """Whether an expression as PostgreSQL deparses it may name the column."""
    name = canonical.quote(column)
    if name.startswith('"'):
        return name in expression
    return re.search(rf"(?<![\w$\"]){re.escape(name)}(?![\w$\"])", expression) is not None
