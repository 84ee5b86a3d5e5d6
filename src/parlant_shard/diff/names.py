"""Refuse names that something else has already."""

from __future__ import annotations

from parlant_shard import canonical
from parlant_shard.catalog import Catalog, Table
from parlant_shard.errors import SchemaError


def check_names(server: str, table: Table, live: Catalog) -> None:
    """A table shares its names with types, views and sequences, and its indexes with everything."""
    taken = {**live.other_relations, **dict.fromkeys(live.views, "view")}
    taken |= dict.fromkeys(live.enums, "type")
    if table.name in taken:
        refuse_name(server, table.name, taken[table.name])
    wanted = _index_names(table)
    for name in sorted(wanted):
        if name in live.tables:
            refuse_name(server, name, "table")
        if name in taken and "type" not in taken[name]:
            refuse_name(server, name, taken[name])
    for other in live.tables.values():
        if other.name != table.name:
            for name in sorted(wanted & _index_names(other)):
                refuse_name(server, name, f'index of table "{other.name}"')


def _index_names(table: Table) -> frozenset[str]:
    return frozenset((*(k.name for k in table.keys), *(i.name for i in table.indexes)))


def refuse_name(server: str, name: str, what: str) -> None:
    kind = what.split(" of ", maxsplit=1)[0].upper()
    statement = f"ALTER {kind} {canonical.quote(name)} RENAME TO …; or " if " " not in kind else ""
    article = "an" if what[0] in "aeiou" else "a"
    raise SchemaError(
        f'the name "{name}" is taken by {article} {what} on server "{server}"',
        code="PS222",
        hint=f"{statement}choose another shard name",
    )
