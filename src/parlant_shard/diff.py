"""Compare live catalogues with desired ones: (live, desired) → changes. Pure and total.

What nobody registered as ours is never dropped or altered. A half-done change of an earlier run
is recognised by its temporary name and taken further, never begun twice.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from parlant_shard import canonical
from parlant_shard import changes as c
from parlant_shard.catalog import (
    Catalog,
    Check,
    Column,
    Index,
    Managed,
    Relkind,
    Table,
    View,
)
from parlant_shard.errors import SchemaError
from parlant_shard.names import brief, leaf_item, suffixed

# Behind an object's name while its successor is built. A leftover of a killed run is known by it.
NEW = "new"

# The comment of a column whose old rows do not have its default yet.
FILLING = "parlant-shard: being filled"

_ROLLING = re.compile(r"'(\d{4}-\d\d-\d\d)(?: 00:00:00(?:\+00)?)?'::(?=timestamp|date)")
# Triggers on reference tables that `desired` makes; others of that prefix belong to other commands.
_OUR_TRIGGERS = {"parlant_shard_cascade", "parlant_shard_guard", "parlant_shard_no_truncate"}
_LEFTOVER = re.compile(r"_ccnew\d*$|_ccold\d*$")


@dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    """What a comparison must know beside the catalogues: the names that belong to the topology."""

    coordinator: str
    publication: str
    slots: frozenset[str]  # every slot that this topology may have made


def temporary(name: str) -> str:
    return suffixed(name, NEW)


def not_null_proof(table: str, column: str) -> str:
    """The name of the CHECK that proves a column NOT NULL, until SET NOT NULL has used it."""
    return suffixed(table, f"{brief(column)}_not_null")


def diff(
    live: Mapping[str, Catalog], desired: Mapping[str, Catalog], context: Context
) -> tuple[c.Change, ...]:
    """Return the changes of all servers, in no particular order across servers."""
    found: list[c.Change] = []
    for server in sorted(desired):
        found += _server(server, live[server], desired[server], context)
    return tuple(found)


def _server(server: str, live: Catalog, desired: Catalog, context: Context) -> Iterator[c.Change]:
    if live.internal_version < desired.internal_version:
        yield c.CreateInternal(server=server)
    elif live.internal_version > desired.internal_version:
        raise SchemaError(
            f'server "{server}" has version {live.internal_version} of the schema parlant_shard; '
            f"this release knows version {desired.internal_version}",
            code="PS220",
            hint="upgrade parlant-shard on this machine",
        )
    for extension in sorted(desired.extensions - live.extensions):
        yield c.CreateExtension(server=server, name=extension)
    yield from _enums(server, live, desired)
    for signature, function in sorted(desired.functions.items()):
        existing = live.functions.get(signature)
        if existing is None or existing.definition != function.definition:
            yield c.SetFunction(server=server, function=function, exists=existing is not None)
    tables = tuple(_tables(server, live, desired))
    yield from tables
    yield from _federation(server, live, desired)
    yield from _views(server, live, desired, _blocked_by_views(tables))
    yield from _replication(server, live, desired, context)
    yield from _placement(server, live, desired, context.coordinator)


def _enums(server: str, live: Catalog, desired: Catalog) -> Iterator[c.Change]:
    for name, enum in sorted(desired.enums.items()):
        existing = live.enums.get(name)
        if existing is None:
            yield c.CreateEnum(server=server, enum=enum)
            continue
        common = [label for label in existing.labels if label in enum.labels]
        if common != [label for label in enum.labels if label in existing.labels]:
            raise SchemaError(
                f'the labels of enum "{name}" stand in another order on server "{server}"',
                code="PS221",
                hint="PostgreSQL cannot reorder an enum; restore the order in the schema",
            )
        for position, label in enumerate(enum.labels):
            if label not in existing.labels:
                following = next(
                    (x for x in enum.labels[position + 1 :] if x in existing.labels), None
                )
                yield c.AddEnumLabel(server=server, enum=enum, label=label, before=following)


# --- tables ---------------------------------------------------------------------------------------


def _tables(server: str, live: Catalog, desired: Catalog) -> Iterator[c.Change]:
    leaves = _by_parent(desired.tables.values())
    live_leaves = _by_parent(live.tables.values())
    creating = {
        name
        for name, table in desired.tables.items()
        if table.parent is None and _replaceable(live, live.tables.get(name), table, live_leaves)
    }
    replaced = {n: desired.managed["table", n] for n in creating if n in live.tables}
    yield from _drops(server, live, replaced, live_leaves, c.Why.REPLACED)
    created: set[str] = set()
    added: list[c.Change] = []
    for name, table in desired.tables.items():
        if table.parent is not None:
            continue
        managed = desired.managed["table", name]
        existing = live.tables.get(name)
        if name in creating:
            _check_names(server, table, live)
            # A parent that is created earlier in this plan is nobody's yet: its foreign keys can
            # be part of the creation. Locking a live parent is a step of its own.
            now = tuple(
                fk for fk in table.foreign_keys if fk.ref_table in created or fk.ref_table == name
            )
            yield c.CreateTable(
                server=server,
                table=table,
                shard=managed.shard,
                managed=managed,
                foreign_keys=now,
                weaker=table.kind is Relkind.PARTITIONED,
            )
            created.add(name)
            added += [
                c.AddForeignKey(
                    server=server, table=table, shard=managed.shard, foreign_key=fk, fresh=True
                )
                for fk in table.foreign_keys
                if fk not in now
            ]
            for leaf in leaves.get(name, ()):
                yield c.CreatePartition(
                    server=server, table=leaf, shard=managed.shard, parent=table
                )
            continue
        assert existing is not None
        if ("table", name) not in live.managed:
            if name in live.other_relations:
                _refuse_name(server, name, live.other_relations[name])
            if managed.shard and not _looks_ours(existing):
                foreign = "FOREIGN TABLE" if existing.kind is Relkind.FOREIGN else "TABLE"
                raise SchemaError(
                    f'{foreign.lower()} "{name}" exists on server "{server}" and is not managed by '
                    "parlant-shard",
                    code="PS222",
                    hint=f"ALTER {foreign} {canonical.quote(name)} RENAME TO …; or choose another "
                    "shard name",
                )
            if not managed.shard:
                continue  # an existing reference or host table is its owner's business
            yield c.RegisterTable(server=server, table=table, shard=managed.shard, managed=managed)
        yield from _table(
            server,
            existing,
            table,
            managed,
            live,
            leaves.get(name, ()),
            live_leaves.get(name, ()),
        )
    yield from added
    yield from _dropped(server, live, desired, live_leaves)


def _by_parent(tables: Iterable[Table]) -> dict[str, list[Table]]:
    found: dict[str, list[Table]] = {}
    for table in tables:
        if table.parent is not None:
            found.setdefault(table.parent, []).append(table)
    return found


def _replaceable(
    live: Catalog, existing: Table | None, table: Table, live_leaves: Mapping[str, list[Table]]
) -> bool:
    """Whether the table is to be created: it is missing, or of another kind, ours and empty."""
    if existing is None:
        return True
    same = existing.kind is table.kind and existing.partition_by == table.partition_by
    moved = existing.foreign and table.foreign and existing.foreign.server != table.foreign.server
    if (same and not moved) or ("table", table.name) not in live.managed:
        return False
    if existing.kind is Relkind.FOREIGN:
        return True
    if _populated(existing, live_leaves) and table.kind is Relkind.FOREIGN:
        raise SchemaError(
            f'table "{table.name}" still has rows here, but the topology puts its shard on another '
            "server",
            code="PS225",
            hint="put the shard back on its server, add a new shard on the other server and move "
            "the workspaces there one by one",
        )
    if _populated(existing, live_leaves):
        was = (
            f'partitioned by "{existing.partition_by}"'
            if existing.partition_by
            else "not partitioned"
        )
        raise SchemaError(
            f'table "{table.name}" has rows and is {was}: its partitioning cannot be changed in '
            "place",
            code="PS223",
            hint="restore the topology's `partition:` for this table; a shard with the new layout "
            "can be filled by moving its workspaces there",
        )
    return True


def _check_names(server: str, table: Table, live: Catalog) -> None:
    """A table shares its names with types, views and sequences, and its indexes with everything."""
    taken = {**live.other_relations, **dict.fromkeys(live.views, "view")}
    taken |= dict.fromkeys(live.enums, "type")
    if table.name in taken:
        _refuse_name(server, table.name, taken[table.name])
    wanted = _index_names(table)
    for name in sorted(wanted):
        if name in live.tables:
            _refuse_name(server, name, "table")
        if name in taken and "type" not in taken[name]:
            _refuse_name(server, name, taken[name])
    for other in live.tables.values():
        if other.name != table.name:
            for name in sorted(wanted & _index_names(other)):
                _refuse_name(server, name, f'index of table "{other.name}"')


def _index_names(table: Table) -> frozenset[str]:
    return frozenset((*(k.name for k in table.keys), *(i.name for i in table.indexes)))


def _refuse_name(server: str, name: str, what: str) -> None:
    kind = what.split(" of ", maxsplit=1)[0].upper()
    statement = f"ALTER {kind} {canonical.quote(name)} RENAME TO …; or " if " " not in kind else ""
    article = "an" if what[0] in "aeiou" else "a"
    raise SchemaError(
        f'the name "{name}" is taken by {article} {what} on server "{server}"',
        code="PS222",
        hint=f"{statement}choose another shard name",
    )


def _populated(table: Table, live_leaves: Mapping[str, list[Table]]) -> bool:
    return table.populated or any(leaf.populated for leaf in live_leaves.get(table.name, ()))


def _looks_ours(table: Table) -> bool:
    """Whether a table that lost its registration has our CHECK: a restored dump, for example."""
    return any(check.name.endswith("_workspace_check") for check in table.checks)


def _dropped(
    server: str, live: Catalog, desired: Catalog, live_leaves: Mapping[str, list[Table]]
) -> Iterator[c.Change]:
    gone = {
        m.name: m
        for (kind, name), m in live.managed.items()
        if kind == "table" and ("table", name) not in desired.managed and name in live.tables
    }
    yield from _drops(server, live, gone, live_leaves, c.Why.REMOVED)


def _drops(
    server: str,
    live: Catalog,
    gone: Mapping[str, Managed],
    live_leaves: Mapping[str, list[Table]],
    why: c.Why,
) -> Iterator[c.Change]:
    """Drop tables, referencing ones first."""
    waiting = dict(sorted(gone.items()))
    while waiting:
        free = [
            name
            for name in waiting
            if not any(
                fk.ref_table == name
                for other in waiting
                if other != name
                for fk in live.tables[other].foreign_keys
            )
        ]
        if not free:
            # A cycle: the table that sorts first goes once nobody refers to it any more.
            free = list(waiting)[:1]
            for other, registered in waiting.items():
                for fk in live.tables[other].foreign_keys:
                    if fk.ref_table == free[0] and other != free[0] and not fk.inherited:
                        yield c.DropConstraint(
                            server=server,
                            table=live.tables[other],
                            shard=registered.shard,
                            name=fk.name,
                            why=c.Why.REPLACED,
                        )
        for name in free:
            managed = waiting.pop(name)
            yield c.DropTable(
                server=server,
                table=live.tables[name],
                shard=managed.shard,
                populated=why is c.Why.REMOVED and _populated(live.tables[name], live_leaves),
                why=why,
            )


def _table(
    server: str,
    live: Table,
    table: Table,
    managed: Managed,
    catalog: Catalog,
    leaves: Iterable[Table],
    live_leaves: Iterable[Table],
) -> Iterator[c.Change]:
    """Compare one table of ours: `leaves` are the desired partitions, `live_leaves` the live."""
    leaves, live_leaves = tuple(leaves), tuple(live_leaves)
    on = {"server": server, "table": table, "shard": managed.shard}
    pending = [leaf for leaf in live_leaves if leaf.detach_pending]
    for leaf in pending:
        # First of all: PostgreSQL 18 refuses to finalise once the parent was altered.
        yield c.FinalizeDetach(server=server, table=leaf, shard=managed.shard)
    existing = tuple(leaf for leaf in live_leaves if not leaf.detach_pending)
    yield from _columns(on, live, table, catalog, existing)
    yield from _checks(on, live, table, existing)
    by_name = {leaf.name: leaf for leaf in existing}
    for leaf in leaves:
        if leaf.name in by_name:
            # Before the parent's: it adopts what its partitions have, instead of building it.
            yield from _leaf_keys(server, managed.shard, by_name[leaf.name], leaf)
    yield from _keys(on, live, table)
    yield from _foreign_keys(on, live, table, existing)
    yield from _indexes(on, live, table, leaves, existing)
    yield from _triggers_and_policies(on, live, table)
    yield from _properties(on, live, table)
    windowed = {i.definition for leaf in leaves for i in leaf.indexes if i.window}
    for leaf in leaves:
        if leaf.name in by_name:
            yield from _leaf(server, managed.shard, by_name[leaf.name], leaf, table, windowed)
            yield from _leaf_leftovers(on, live, table, by_name[leaf.name])
        else:
            yield c.CreatePartition(server=server, table=leaf, shard=managed.shard, parent=table)


def _columns(
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


def _checks(
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


def _keys(on: dict[str, Any], live: Table, table: Table) -> Iterator[c.Change]:
    existing = {key.name: key for key in live.keys}
    for key in table.keys:
        old = existing.pop(key.name, None)
        if old is not None and old.definition == key.definition:
            continue
        if old is not None:
            yield c.DropConstraint(**on, name=old.name, why=c.Why.REPLACED)
        yield c.AddKey(**on, key=key, index=_index_named(live, key.name))
    for old in existing.values():
        if not old.inherited:
            yield c.DropConstraint(**on, name=old.name, why=c.Why.REMOVED)


def _foreign_keys(
    on: dict[str, Any], live: Table, table: Table, leaves: tuple[Table, ...]
) -> Iterator[c.Change]:
    existing = {fk.name: fk for fk in live.foreign_keys}
    for fk in table.foreign_keys:
        old = existing.pop(fk.name, None)
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


def _index_named(table: Table, name: str) -> Index | None:
    return next((i for i in table.indexes if i.name == name), None)


def same_index(live: Index, desired: Index) -> bool:
    """Whether a live index does what is desired; a rolling one may reach further back."""
    if live.unique != desired.unique:
        return False
    if live.definition == desired.definition:
        return True
    if desired.window is None:
        return False
    old, new = _ROLLING.search(live.definition), _ROLLING.search(desired.definition)
    if old is None or new is None:
        return False
    masked = _ROLLING.sub("", live.definition), _ROLLING.sub("", desired.definition)
    return masked[0] == masked[1] and old[1] <= new[1]


def _indexes(
    on: dict[str, Any],
    live: Table,
    table: Table,
    leaves: tuple[Table, ...],
    live_leaves: tuple[Table, ...],
) -> Iterator[c.Change]:
    existing = {index.name: index for index in live.indexes}
    partitioned = table.kind is Relkind.PARTITIONED
    for key in table.keys:
        existing.pop(key.name, None)  # `_keys` takes the leftover of a key further
    for index in table.indexes:
        old = existing.pop(index.name, None)
        begun = existing.pop(temporary(index.name), None)
        if old is not None and same_index(old, index):
            if begun is not None:
                yield c.DropIndex(**on, index=begun, why=c.Why.LEFTOVER)
            if partitioned:
                yield from _partitioned_index(on, old, index, leaves, live_leaves)
            elif not old.valid:
                yield c.DropIndex(**on, index=old, why=c.Why.REBUILT)
                yield c.CreateIndex(**on, index=index)
            if old.comment != index.comment:
                yield c.CommentIndex(**on, index=index)
            continue
        if old is None and begun is None:
            yield c.CreateIndex(**on, index=index, leaves=live_leaves)
            continue
        successor = replace(index, name=temporary(index.name))
        standing = live_leaves
        if partitioned:
            # An earlier replacement died before its last renames: finish them, the names are
            # needed again.
            standing = tuple(_with_final_name(table, x, index.name, on) for x in live_leaves)
            for before, after in zip(live_leaves, standing, strict=True):
                if before != after:
                    yield from _leaf_rename(on, table, before, index.name)
        if begun is not None and not same_index(begun, index):
            yield c.DropIndex(**on, index=begun, why=c.Why.LEFTOVER)
            # Its partitions' indexes go with it.
            standing = tuple(_without_index(leaf, begun.name) for leaf in standing)
            begun = None
        if begun is None:
            yield c.CreateIndex(**on, index=successor, successor=True, leaves=standing)
        elif partitioned:
            yield from _partitioned_index(on, begun, successor, leaves, live_leaves, successor=True)
        elif not begun.valid:
            yield c.DropIndex(**on, index=begun, why=c.Why.LEFTOVER)
            yield c.CreateIndex(**on, index=successor)
        if old is not None:
            yield c.DropIndex(**on, index=old, why=c.Why.REPLACED)
        yield c.RenameIndex(**on, old=successor.name, new=index.name)
        if partitioned:
            for leaf in live_leaves:
                yield from _leaf_rename(on, table, leaf, index.name)
    for old in existing.values():
        if old.parent is not None:
            continue
        leftover = not old.valid or _LEFTOVER.search(old.name)
        why = c.Why.LEFTOVER if leftover else c.Why.REMOVED
        yield c.DropIndex(**on, index=old, why=why)


def _without_index(leaf: Table, parent: str) -> Table:
    return replace(leaf, indexes=tuple(i for i in leaf.indexes if i.parent != parent))


def _with_final_name(parent: Table, leaf: Table, index: str, on: dict[str, Any]) -> Table:
    shard = str(on["shard"])
    old = leaf_item(leaf.name, parent.name, temporary(index), shard)
    new = leaf_item(leaf.name, parent.name, index, shard)
    return replace(
        leaf,
        indexes=tuple(
            replace(i, name=new) if (i.name, i.parent) == (old, index) else i for i in leaf.indexes
        ),
    )


def _leaf_rename(on: dict[str, Any], parent: Table, leaf: Table, index: str) -> Iterator[c.Change]:
    """The index of a partition follows its parent's name."""
    shard = str(on["shard"])
    old = leaf_item(leaf.name, parent.name, temporary(index), shard)
    new = leaf_item(leaf.name, parent.name, index, shard)
    here = {**on, "table": leaf}
    stale = _index_named(leaf, new)
    if stale is not None and stale.parent is None:
        # Built for an earlier definition, and never attached.
        yield c.DropIndex(**here, index=stale, why=c.Why.LEFTOVER)
    yield c.RenameIndex(**here, old=old, new=new)


def _partitioned_index(
    on: dict[str, Any],
    old: Index,
    index: Index,
    leaves: tuple[Table, ...],
    live_leaves: tuple[Table, ...],
    *,
    successor: bool = False,
) -> Iterator[c.Change]:
    """Every existing partition has a valid, attached index, and the parent's is valid."""
    lacking = []
    for leaf in live_leaves:
        attached = next((i for i in leaf.indexes if i.parent == index.name), None)
        if attached is None:
            lacking.append(leaf)
        elif not attached.valid:
            yield c.ReindexAttached(**{**on, "table": leaf}, index=attached)
    if lacking:
        yield c.CreateIndex(
            **on, index=index, exists=True, successor=successor, leaves=tuple(lacking)
        )
    elif not old.valid and all(
        any(i.parent == index.name and i.valid for i in leaf.indexes) for leaf in live_leaves
    ):
        # All partitions are fine, the parent is not: attaching one of them again validates it.
        yield c.CreateIndex(
            **on, index=index, exists=True, successor=successor, leaves=live_leaves[:1]
        )


def _leaf_leftovers(
    on: dict[str, Any], live: Table, table: Table, leaf: Table
) -> Iterator[c.Change]:
    """Constraints that a run put on a partition ahead of its parent, for what is no longer wanted.

    Those that this plan is about to use stay: the parent's change takes them further.
    """
    checks = {check.name: check for check in live.checks}
    ours, due = set(), set()
    for check in table.checks:
        ours |= {check.name, temporary(check.name)}
        old = checks.get(check.name)
        if old is None and temporary(check.name) not in checks:
            due.add(check.name)
        elif old is None or old.definition != check.definition:
            due.add(temporary(check.name))
    suffix = f"_{on['shard']}"  # what every name of ours ends with
    for check in leaf.checks:
        mine = check.name in ours or check.name.endswith(suffix)
        if mine and check.name not in due and not check.inherited:
            yield c.DropConstraint(
                **{**on, "table": leaf},
                name=check.name,
                why=c.Why.LEFTOVER,
            )
    wanted = {fk.name for fk in table.foreign_keys}
    for fk in leaf.foreign_keys:
        if not fk.inherited and fk.name not in wanted and fk.name.endswith(suffix):
            yield c.DropConstraint(
                **{**on, "table": leaf},
                name=fk.name,
                why=c.Why.LEFTOVER,
            )


def _leaf_keys(server: str, shard: str, live: Table, leaf: Table) -> Iterator[c.Change]:
    definitions = {key.definition for key in live.keys}
    for key in leaf.keys:
        if key.definition not in definitions:
            yield c.AddKey(
                server=server,
                table=leaf,
                shard=shard,
                key=key,
                index=_index_named(live, key.name),
            )


def _leaf(
    server: str,
    shard: str,
    live: Table,
    leaf: Table,
    parent: Table,
    windowed: Collection[str],
) -> Iterator[c.Change]:
    """Compare what a partition has by itself; the rest it inherits."""
    on: dict[str, Any] = {"server": server, "table": leaf, "shard": shard}
    spare = {i.name: i for i in live.indexes if i.parent is None}
    for key in leaf.keys:
        spare.pop(key.name, None)
    for index in leaf.indexes:
        if index.parent is not None:
            # Built, not yet attached: the parent's change attaches it, or builds it again.
            spare.pop(index.name, None)
            unfinished = leaf_item(leaf.name, parent.name, temporary(index.parent), shard)
            spare.pop(unfinished, None)
            if any(i.name == unfinished and i.parent == index.parent for i in live.indexes):
                yield from _leaf_rename(on, parent, leaf, index.parent)
            continue
        match = next((i for i in spare.values() if same_index(i, index)), None)
        if match is None:
            yield c.CreateIndex(**on, index=index)
            continue
        spare.pop(match.name)
        if not match.valid:
            yield c.DropIndex(**on, index=match, why=c.Why.REBUILT)
            yield c.CreateIndex(**on, index=replace(index, name=match.name))
    for old in spare.values():
        if not old.valid or _LEFTOVER.search(old.name):
            yield c.DropIndex(**on, index=old, why=c.Why.LEFTOVER)
        elif (
            old.name.startswith(f"{leaf.name}_")
            and old.definition not in windowed
            # What the parent's index lacks here is not built, this one is attached.
            and not any(i.parent and same_index(old, i) for i in leaf.indexes)
        ):
            yield c.DropIndex(**on, index=old, why=c.Why.REMOVED)
        # One of a window that has passed stays: `maintain` retires it.
    yield from _properties(on, live, leaf)


def _triggers_and_policies(on: dict[str, Any], live: Table, table: Table) -> Iterator[c.Change]:
    triggers = {t.name: t for t in live.triggers}
    for trigger in table.triggers:
        old = triggers.pop(trigger.name, None)
        if old != trigger:
            yield c.SetTrigger(**on, trigger=trigger, exists=old is not None)
    for name, trigger in triggers.items():
        if not name.startswith("parlant_shard_") or name in _OUR_TRIGGERS:
            yield c.DropTrigger(**on, trigger=trigger)
    policies = {p.name: p for p in live.policies}
    for policy in table.policies:
        old_policy = policies.pop(policy.name, None)
        if old_policy != policy:
            yield c.SetPolicy(**on, policy=policy, exists=old_policy is not None)
    for name, policy in policies.items():
        if not name.startswith("parlant_shard_"):
            yield c.DropPolicy(**on, policy=policy)


def _properties(on: dict[str, Any], live: Table, table: Table) -> Iterator[c.Change]:
    # Privileges that the schema does not name stay: applications are granted theirs by hand.
    missing = tuple(g for g in table.grants if g not in live.grants)
    if missing:
        yield c.AddGrants(**on, grants=missing)
    for aspect, differs in (
        (c.Aspect.COMMENT, live.comment != table.comment),
        (c.Aspect.OPTIONS, live.options != table.options),
        (c.Aspect.REPLICA_IDENTITY, live.replica_identity != table.replica_identity),
        (
            c.Aspect.ROW_SECURITY,
            (live.row_security, live.force_row_security)
            != (table.row_security, table.force_row_security),
        ),
        (c.Aspect.FOREIGN_OPTIONS, live.foreign != table.foreign),
        (c.Aspect.PERSISTENCE, live.unlogged != table.unlogged),
    ):
        if differs:
            yield c.AlterTable(**on, aspect=aspect, live=live)


# --- federation, replication, placement -----------------------------------------------------------


def _federation(server: str, live: Catalog, desired: Catalog) -> Iterator[c.Change]:
    for name, wanted in sorted(desired.foreign_servers.items()):
        existing = live.foreign_servers.get(name)
        if existing != wanted:
            yield c.SetForeignServer(server=server, foreign_server=wanted, live=existing)
    for pair, mapping in sorted(desired.user_mappings.items()):
        old = live.user_mappings.get(pair)
        # A role that may not read the options sees an empty user: then there is nothing to compare.
        if old is None or (old.user and old != mapping):
            yield c.SetUserMapping(server=server, mapping=mapping, live=old)
    for name, gone in sorted(live.foreign_servers.items()):
        if name not in desired.foreign_servers and any(
            t.foreign and t.foreign.server == name and ("table", t.name) in live.managed
            for t in live.tables.values()
        ):
            yield c.DropForeignServer(server=server, foreign_server=gone)


def _blocked_by_views(tables: Iterable[c.Change]) -> frozenset[str]:
    """Tables that cannot change while a view reads them: retyped columns, and replaced tables."""
    return frozenset(
        change.table.name
        for change in tables
        if (isinstance(change, c.DropTable) and change.why is c.Why.REPLACED)
        or (
            isinstance(change, c.AlterColumn)
            and (change.old.type, change.old.collation) != (change.new.type, change.new.collation)
        )
    )


def _views(
    server: str, live: Catalog, desired: Catalog, blocked: frozenset[str]
) -> Iterator[c.Change]:
    for name, view in desired.views.items():
        managed = desired.managed["view", name]
        old = live.views.get(name)
        if old is not None and blocked.intersection(old.sources):
            yield c.DropView(server=server, view=old, why=c.Why.REBUILT)
            yield c.CreateView(server=server, view=view, managed=managed)
            continue
        if old is None:
            taken = "table" if name in live.tables else live.other_relations.get(name)
            if taken:
                _refuse_name(server, name, taken)
            yield c.CreateView(server=server, view=view, managed=managed)
            continue
        if name in live.other_relations:
            _refuse_name(server, name, live.other_relations[name])
        if ("view", name) not in live.managed and old.text is not None:
            raise SchemaError(
                f'view "{name}" exists on server "{server}" and is not managed by parlant-shard',
                code="PS222",
                hint=f"ALTER VIEW {canonical.quote(name)} RENAME TO …",
            )
        if _same_view(old, view):
            if ("view", name) not in live.managed:  # its registration was lost
                yield c.CreateView(server=server, view=view, managed=managed, exists=True)
            continue
        appends = (
            view.columns[: len(old.columns)] == old.columns
            and view.types[: len(old.types)] == old.types
        )
        yield c.CreateView(server=server, view=view, managed=managed, exists=True, swap=not appends)
    for (kind, name), _ in sorted(live.managed.items()):
        if kind == "view" and name not in desired.views and name in live.views:
            yield c.DropView(server=server, view=live.views[name], why=c.Why.REMOVED)


def _same_view(live: View, view: View) -> bool:
    return (
        live.columns == view.columns
        and live.types == view.types
        and live.sources == view.sources
        and live.security_invoker == view.security_invoker
        and set(view.grants) <= set(live.grants)
    )


def _replication(
    server: str, live: Catalog, desired: Catalog, context: Context
) -> Iterator[c.Change]:
    for name, publication in sorted(desired.publications.items()):
        existing = live.publications.get(name)
        if existing != publication:
            yield c.SetPublication(
                server=server, publication=publication, exists=existing is not None
            )
    for slot in sorted(desired.slots - live.slots):
        yield c.CreateSlot(server=server, name=slot)
    for name, subscription in sorted(desired.subscriptions.items()):
        old = live.subscriptions.get(name)
        if old is None:
            yield c.CreateSubscription(
                server=server, subscription=subscription, publisher=context.coordinator
            )
            yield c.AwaitSubscription(server=server, subscription=subscription)
            continue
        if old.peer is not None and (old.peer, old.password) != (
            subscription.peer,
            subscription.password,
        ):
            yield c.ReconnectSubscription(
                server=server, subscription=subscription, publisher=context.coordinator
            )
        if set(old.tables) != set(subscription.tables):
            yield c.RefreshSubscription(server=server, subscription=subscription)
            yield c.AwaitSubscription(server=server, subscription=subscription)
        elif not old.synced:
            yield c.AwaitSubscription(server=server, subscription=subscription)
    for name, gone in sorted(live.subscriptions.items()):
        if name not in desired.subscriptions and gone.publication == context.publication:
            yield c.DropSubscription(server=server, subscription=gone)
    for slot in sorted((live.slots & context.slots) - desired.slots):
        yield c.DropSlot(server=server, name=slot)
    unused = live.publications.get(context.publication)
    if unused is not None and context.publication not in desired.publications:
        yield c.DropPublication(server=server, publication=unused)


def _placement(
    server: str, live: Catalog, desired: Catalog, coordinator: str
) -> Iterator[c.Change]:
    for found, wanted, kind in (
        (live.placements, desired.placements, c.SetPlacements),
        (live.directory, desired.directory, c.SetDirectory),
    ):
        kept = {p.workspace for p in wanted}
        upsert = tuple(sorted(wanted - found))
        delete = tuple(sorted(p for p in found if p.workspace not in kept))
        if kind is c.SetPlacements:
            if upsert or delete:
                yield c.SetPlacements(server=server, upsert=upsert, delete=delete)
            continue
        shards_changed = dict(live.shards) != dict(desired.shards)
        if server == coordinator and (upsert or delete or shards_changed):
            yield c.SetDirectory(
                server=server,
                upsert=upsert,
                delete=delete,
                shards=tuple(sorted(desired.shards.items())),
                shards_changed=shards_changed,
            )
