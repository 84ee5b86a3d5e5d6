"""Compare key tables, the triggers that come and go with them, and the ways to seal keys."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace

from parlant_shard import changes as c
from parlant_shard.catalog import Catalog, Table, Trigger
from parlant_shard.desired import ADMIT, SEAL_DELETE
from parlant_shard.diff.context import Context
from parlant_shard.errors import SchemaError
from parlant_shard.names import suffixed


def settled(live: Catalog, desired: Catalog) -> Catalog:
    """The live catalogue with the triggers of key tables that this plan makes or drops.

    They come and go in one transaction with the key table, so they are no change of their own.
    """
    tables = dict(live.tables)
    for name, key in desired.keys.items():
        table, wanted = tables.get(key.table), desired.tables[key.table]
        if name in live.keys or table is None:
            continue
        new = [t for t in wanted.triggers if t.name == suffixed(ADMIT, name)]
        tables[key.table] = _with(table, new)
    for name, key in live.keys.items():
        table = tables.get(key.table)
        if name not in desired.keys and table is not None:
            tables[key.table] = _without(table, suffixed(ADMIT, name))
    return replace(live, tables=tables)


def _with(table: Table, triggers: list[Trigger]) -> Table:
    mine = {t.name for t in triggers}
    return replace(table, triggers=(*(t for t in table.triggers if t.name not in mine), *triggers))


def _without(table: Table, trigger: str) -> Table:
    return replace(table, triggers=tuple(t for t in table.triggers if t.name != trigger))


def key_tables(server: str, live: Catalog, desired: Catalog) -> Iterator[c.Change]:
    schema = live.key_schema_owner is not None
    for name, key in sorted(desired.keys.items()):
        copy, old = desired.tables[key.table], live.keys.get(name)
        # A type does not change: PostgreSQL refuses that for a column that is published by name.
        if old is not None and old.column_names == key.column_names:
            continue
        if old is not None:
            yield c.DropKeys(server=server, table=copy, key=old, trigger=suffixed(ADMIT, name))
        if name in live.strange_keys:
            raise SchemaError(
                f'the name "{name}" is taken in the schema of the key tables on server "{server}"',
                code="PS282",
                hint=f"ALTER TABLE … RENAME TO …, or drop it: parlant-shard keeps the keys of "
                f'reference table "{key.table}" there',
            )
        trigger = next(t for t in copy.triggers if t.name == suffixed(ADMIT, name))
        yield c.CreateKeys(server=server, table=copy, key=key, trigger=trigger, schema=not schema)
        schema = True
    for name, key in sorted(live.keys.items()):
        if name not in desired.keys:
            copy = live.tables.get(key.table) or Table(name=key.table)
            yield c.DropKeys(
                server=server,
                table=copy,
                key=key,
                trigger=suffixed(ADMIT, name),
                last=not desired.keys,
            )


def seals(server: str, live: Catalog, desired: Catalog) -> Iterator[c.Change]:
    for role in sorted(desired.sealers - live.sealers):
        yield c.GrantSeal(server=server, role=role)
    for name, seal in sorted(desired.seals.items()):
        if live.seals.get(name) != seal:
            yield c.SetSeal(server=server, seal=seal)
    for name, seal in sorted(live.seals.items()):
        if name not in desired.seals:
            yield c.DropSeal(server=server, seal=seal)


def awaited(
    changes: list[c.Change], desired: Mapping[str, Catalog], context: Context
) -> Iterator[c.Change]:
    """Before a foreign key relies on sealed keys, what was deleted before has to have arrived.

    A deletion of before the trigger on the coordinator was not sealed; replayed later, it would
    count as the one of a key that was sealed since.
    """
    home = desired.get(context.coordinator)
    if home is None:
        return  # one server alone is compared
    relies = any(
        (isinstance(x, c.SetTrigger) and x.trigger.name.startswith(SEAL_DELETE))
        or (isinstance(x, c.SwapForeignKey | c.AddForeignKey) and x.foreign_key.key_table)
        or (isinstance(x, c.CreateTable) and any(fk.key_table for fk in x.foreign_keys))
        for x in changes
    )
    slots = tuple(
        (server, slot)
        for server, slot in sorted(context.slot_of.items())
        if server in home.seals and slot not in context.broken
    )
    if relies and slots:
        yield c.AwaitSeals(server=context.coordinator, slots=slots)
