"""Find the tenant of every table: which tables are sharded, and how each reaches the key.

A table is sharded when it has the distribution key or reaches, over foreign keys, a table that
has it. The way is the shortest one; NOT NULL columns are preferred, because a row without a
parent has no tenant. Two ways of the same length are a choice that only the owner can make.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from parlant_shard.catalog import Catalog, ForeignKey, Relkind, Table
from parlant_shard.errors import SchemaError
from parlant_shard.topology import Topology

Kind = Literal["sharded", "reference", "host"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Tenancy:
    """What every base table is. `paths` holds the foreign keys of tables that lack the key."""

    kinds: Mapping[str, Kind]
    paths: Mapping[str, tuple[ForeignKey, ...]]
    key: str
    key_type: str
    order: tuple[str, ...]  # sharded tables, referenced ones first
    notices: tuple[str, ...] = ()

    @property
    def sharded(self) -> tuple[str, ...]:
        return self.order

    def of_kind(self, kind: Kind) -> tuple[str, ...]:
        return tuple(sorted(t for t, k in self.kinds.items() if k == kind))


def tenancy(base: Catalog, topology: Topology) -> Tenancy:
    """Classify the base tables. Raises SchemaError (PS210-PS216) with the line that decides."""
    tables = base.tables
    key = topology.key
    stated = {name: o.kind for name, o in topology.tables.items() if o.kind is not None}
    for name in topology.tables:
        if name not in tables:
            raise SchemaError(
                f'table "{name}" is not in the schema',
                code="PS210",
                hint="name a table of the schema, or remove the entry",
                file=str(topology.file),
                line=topology.line(f"tables.{name}"),
                path=f"tables.{name}",
            )
    roots = {
        name
        for name, table in tables.items()
        if table.column(key) is not None and stated.get(name, "sharded") == "sharded"
    }
    if not roots:
        raise SchemaError(
            f'no table of the schema has the column "{key}"',
            code="PS211",
            hint="set `key:` to the column that names the tenant",
            file=str(topology.file),
            line=topology.line("key") or 1,
            path="key",
        )
    paths = _paths(tables, roots, stated, topology)
    kinds: dict[str, Kind] = {}
    for name in sorted(tables):
        kinds[name] = stated.get(name, "sharded" if name in roots or name in paths else "host")
        if kinds[name] == "sharded" and name not in roots and name not in paths:
            raise SchemaError(
                f'table "{name}" is declared sharded, but has no column "{key}" and no foreign key '
                "that leads to it",
                code="PS212",
                hint=f'add the column "{key}" to it, or declare it `kind: host` or '
                "`kind: reference`",
                file=str(topology.file),
                line=topology.line(f"tables.{name}"),
                path=f"tables.{name}",
            )
    sharded = {n for n, k in kinds.items() if k == "sharded"}
    for name in sorted(sharded):
        if tables[name].kind is not Relkind.TABLE:
            raise SchemaError(
                f'table "{name}" of the schema is already partitioned or foreign',
                code="PS213",
                hint="declare it as a plain table and let the topology's `partition:` cut it",
            )
    key_type, notices = _key_type(tables, roots & sharded, topology)
    return Tenancy(
        kinds=kinds,
        paths={n: p for n, p in paths.items() if n in sharded},
        key=key,
        key_type=key_type,
        order=_order(tables, sharded),
        notices=tuple(notices),
    )


def _key_type(
    tables: Mapping[str, Table], roots: set[str], topology: Topology
) -> tuple[str, list[str]]:
    key = topology.key
    types: dict[str, list[str]] = {}
    notices = []
    for name in sorted(roots):
        column = tables[name].column(key)
        assert column is not None
        types.setdefault(column.type, []).append(name)
        if not column.not_null:
            notices.append(
                f'"{name}.{key}" may be NULL in the schema; on the shards it is NOT NULL, because '
                "a row without a tenant has no shard"
            )
    if len(types) > 1:
        listed = "; ".join(f"{t}: {', '.join(n)}" for t, n in sorted(types.items()))
        raise SchemaError(
            f'the column "{key}" has different types: {listed}',
            code="PS214",
            hint="give it one type everywhere: foreign keys between them would compare unlike "
            "values",
            file=str(topology.file),
            line=topology.line("key") if topology.states("key") else None,
            path="key",
        )
    return next(iter(types)), notices


def _paths(
    tables: Mapping[str, Table],
    roots: set[str],
    stated: Mapping[str, str | None],
    topology: Topology,
) -> dict[str, tuple[ForeignKey, ...]]:
    """Walk from the roots outwards, one foreign key a round: shortest ways by construction."""
    paths: dict[str, tuple[ForeignKey, ...]] = {}
    reached = set(roots)
    waiting = {n for n in tables if n not in roots and stated.get(n, "sharded") == "sharded"}
    while True:
        found: dict[str, tuple[ForeignKey, ...]] = {}
        for name in sorted(waiting):
            candidates = [
                fk
                for fk in tables[name].foreign_keys
                if fk.ref_table in reached and fk.ref_table != name
            ]
            options = topology.tables.get(name)
            wanted = options.path if options else None
            if wanted is not None:
                step = _stated(name, wanted, tables[name], topology)
                if step.ref_table not in reached:
                    continue  # a later round reaches its parent, or PS212 says that none does
            elif candidates:
                step = _choose(name, candidates, tables[name], topology)
            else:
                continue
            found[name] = (step, *paths.get(step.ref_table, ()))
        if not found:
            return paths
        paths.update(found)
        reached |= found.keys()
        waiting -= found.keys()


def _stated(name: str, wanted: str, table: Table, topology: Topology) -> ForeignKey:
    matching = [fk for fk in table.foreign_keys if wanted in fk.columns]
    if len(matching) != 1:
        known = ", ".join(sorted({c for fk in table.foreign_keys for c in fk.columns})) or "none"
        raise SchemaError(
            f'table "{name}" has no single foreign key on the column "{wanted}"',
            code="PS215",
            hint=f"columns of its foreign keys: {known}",
            file=str(topology.file),
            line=topology.line(f"tables.{name}.path"),
            path=f"tables.{name}.path",
        )
    return matching[0]


def _choose(
    name: str, candidates: list[ForeignKey], table: Table, topology: Topology
) -> ForeignKey:
    required = {c.name for c in table.columns if c.not_null}
    certain = [fk for fk in candidates if required.issuperset(fk.columns)]
    pool = certain or candidates
    if len(pool) > 1:
        ways = ", ".join(f'"{fk.columns[0]}" (to {fk.ref_table})' for fk in pool)
        raise SchemaError(
            f'table "{name}" reaches its tenant over more than one foreign key: {ways}',
            code="PS216",
            hint=f"say which one names the tenant: tables: {{{name}: {{path: "
            f"{pool[0].columns[0]}}}}}; rows in which they disagree must be fixed first",
            file=str(topology.file),
            line=topology.line("tables") if topology.states("tables") else None,
            path=f"tables.{name}",
        )
    return pool[0]


def _order(tables: Mapping[str, Table], sharded: set[str]) -> tuple[str, ...]:
    """Referenced tables first; a cycle is broken at the name that sorts first."""
    placed: list[str] = []
    rest = sorted(sharded)
    while rest:
        ready = [
            n
            for n in rest
            if all(
                fk.ref_table in placed or fk.ref_table not in sharded or fk.ref_table == n
                for fk in tables[n].foreign_keys
            )
        ] or rest[:1]
        placed += ready
        rest = [n for n in rest if n not in ready]
    return tuple(placed)
