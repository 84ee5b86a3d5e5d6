"""Where the indexes of a topology are declared: what is not changed there comes back. Pure."""

from __future__ import annotations

from dataclasses import dataclass

import postgast

from parlant_shard.observe.fold import ShardTable
from parlant_shard.planner import statements_of
from parlant_shard.topology import Topology


@dataclass(frozen=True, slots=True, kw_only=True)
class Declaration:
    """One declared index. `place` says where, `remove` what to do there to get rid of it."""

    table: str
    name: str
    place: str
    remove: str


def declarations(topology: Topology) -> dict[str, dict[str, Declaration]]:
    """Every index that the schema or the topology names: logical table → name → where.

    A schema that is read from a live database names none here.
    """
    found: dict[str, dict[str, Declaration]] = {}
    apply = f"then run `parlant-shard apply {topology.file}`, which drops it online"
    preset = topology.schema_source.preset
    if topology.schema_source.from_ is None:
        for statement in statements_of(topology):
            if statement.kind != "index_stmt":
                continue
            node = postgast.parse(statement.text).stmts[0].stmt.index_stmt
            if not node.idxname:
                continue
            place = f"{statement.file}:{statement.line}"
            remove = f"delete that statement, {apply}"
            if preset is not None:
                place = f'preset "{preset}"'
                remove = (
                    f"the preset brings it: put your own copy of the DDL under `schema: {{files: "
                    f"[...]}}`, without this index, {apply}"
                )
            table = str(node.relation.relname)
            found.setdefault(table, {})[node.idxname] = Declaration(
                table=table, name=node.idxname, place=place, remove=remove
            )
    for name, options in topology.indexes.items():
        stated = topology.states(f"indexes.{name}")
        line = topology.line(f"indexes.{name}")
        found.setdefault(options.on, {})[name] = Declaration(
            table=options.on,
            name=name,
            place=f"{topology.file}:{line}, indexes" if stated else f'preset "{preset}"',
            remove=f'delete "{name}" from `indexes`, {apply}'
            if stated
            else "the preset brings it: put your own copy of the DDL under `schema: {files: [...]}`"
            f", which leaves this index out, {apply}",
        )
    return found


def undeclared(topology: Topology, table: ShardTable) -> str | None:
    """What becomes of an index that nothing declares; None where it declares itself."""
    origin = topology.schema_source.from_
    if origin is not None:
        if not table.shard:
            return None
        return (
            f'the schema is read from server "{origin}": drop it from the un-sharded table there '
            "as well, or the next apply makes it again"
        )
    return f"nothing declares it: `parlant-shard apply {topology.file}` drops it online"
