"""Rows of other workspaces that refer to reference rows of this one: a purge would take them too.

Foreign keys between sharded tables hold the workspace, so no row there can point into another one.
A reference table's cannot: whoever uses another workspace's row would lose his own by the cascade.
So would he over tables in between that do not say whose their rows are: the row of the workspace
takes those of `team` along, and these the tasks of everybody.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace

from psycopg.sql import SQL, Composed, Identifier, Literal

from parlant_shard import db
from parlant_shard.catalog import Catalog, ForeignKey, Relkind, Table
from parlant_shard.ddl import names
from parlant_shard.errors import ShardError
from parlant_shard.plan import TIMEOUTS, Kind
from parlant_shard.privacy.holdings import Holding, Where
from parlant_shard.privacy.home import Home, sees_every_row
from parlant_shard.privacy.steps import Found
from parlant_shard.topology import Topology

# Cascade, SET NULL, SET DEFAULT: what a foreign key does to the rows that refer.
_ACTS = frozenset({"c", "n", "d"})


@dataclass(frozen=True, slots=True, kw_only=True)
class _Reached:
    """Rows of a table that the purge deletes, or changes: `changed` are the columns, None for all.

    `condition` holds for them where the table goes by `alias`. `way` names the tables that lead
    there; the first is the one whose rows are the workspace's own.
    """

    name: Identifier
    alias: Identifier
    condition: Composed
    way: tuple[str, ...]
    changed: frozenset[str] | None = None

    def touches(self, columns: Iterable[str]) -> bool:
        return self.changed is None or bool(self.changed.intersection(columns))


def refuse_entangled(
    topology: Topology, home: Home, live: Mapping[str, Catalog], found: Iterable[Found]
) -> None:
    """Raise ShardError (PS743) where the purge would delete or change another workspace's rows."""
    found = tuple(found)
    coordinator = live[topology.coordinator]
    own = {f.holding.table.name for f in found if f.holding.where is Where.COORDINATOR}
    starts = {
        f.holding.table.name: f.holding
        for f in found
        if f.rows and f.holding.where in {Where.COORDINATOR, Where.COPY}
    }
    # Copies of reference tables have no foreign keys: the coordinator's lead on.
    between = [
        table
        for name, table in sorted(coordinator.tables.items())
        if name not in own and table.parent is None and table.kind is not Relkind.FOREIGN
    ]
    reached = [r for h in starts.values() for r in _follow(_start(home, h), h.namespace, between)]
    for server, catalog in live.items():
        mine = [f.holding for f in found if f.holding.server == server]
        used = {fk.ref_table for h in mine for fk in h.parent.foreign_keys}
        there = [r for r in reached if r.way[-1] in used]
        here = [r for r in there if catalog.tables.keys() >= set(r.way)]
        if far := [r for r in there if r not in here]:
            with _patient(topology, topology.coordinator) as connection:
                here += [_carried(connection, r, coordinator.tables[r.way[-1]]) for r in far]
        queries = list(_queries(home, mine, here))
        if not queries:
            continue
        with _patient(topology, server) as connection:
            for child, fk, way, query in queries:
                row = connection.execute(query).fetchone()
                if row is not None:
                    over = "".join(f', over "{table}"' for table in way[:0:-1])
                    raise ShardError(
                        f'rows of workspace "{row["workspace"]}" in "{child.table.name}" on server '
                        f'"{server}" refer to rows of workspace "{home.workspace}" in '
                        f'"{way[0]}"{over}: a purge would reach them',
                        code="PS743",
                        hint=f"clear or change {', '.join(fk.columns)} of those rows first; "
                        "nothing was deleted",
                    )


@contextmanager
def _patient(topology: Topology, server: str) -> Iterator[db.Connection]:
    with sees_every_row(topology, server) as connection:
        connection.execute(
            "SELECT pg_catalog.set_config('statement_timeout', %s, false)",
            [str(TIMEOUTS[Kind.VALIDATE][1])],
        )
        yield connection


def _start(home: Home, holding: Holding) -> _Reached:
    alias = Identifier("r")
    return _Reached(
        name=holding.name,
        alias=alias,
        condition=SQL("{}.{} = {}").format(
            alias, Identifier(holding.column), Literal(home.workspace)
        ),
        way=(holding.table.name,),
    )


def _follow(reached: _Reached, namespace: str, between: Iterable[Table]) -> Iterator[_Reached]:
    """The rows and what hangs on them, over tables without the key; each table once a way."""
    yield reached
    for table in between:
        if table.name in reached.way:
            continue
        for fk in table.foreign_keys:
            action = fk.on_delete if reached.changed is None else fk.on_update
            if fk.ref_table != reached.way[-1] or action not in _ACTS or fk.unenforced:
                continue
            if not reached.touches(fk.ref_columns):
                continue
            goes = reached.changed is None and action == "c"
            alias = Identifier(f"r{len(reached.way)}")
            then = _Reached(
                name=Identifier(namespace, table.name),
                alias=alias,
                condition=_referring(alias, fk, reached),
                way=(*reached.way, table.name),
                changed=None if goes else frozenset(fk.set_columns or fk.columns),
            )
            yield from _follow(_descended(then, table), namespace, between)


def _descended(reached: _Reached, table: Table) -> _Reached:
    """The rows and those below them, where the table's rows hang on each other to any depth."""
    for fk in table.foreign_keys:
        own = fk.ref_table == table.name and not fk.unenforced
        if reached.changed is None and own and fk.on_delete == "c":
            # Aliases of the outer query are not seen from the inside: it refers to none of them.
            alias, tree = reached.alias, Identifier("tree")
            condition = SQL(
                "({ours}) IN (WITH RECURSIVE tree AS ("
                "SELECT {ours} FROM {name} AS {alias} WHERE {condition} UNION "
                "SELECT {ours} FROM {name} AS {alias} JOIN tree ON {same}) "
                "SELECT {refs} FROM tree)"
            ).format(
                ours=SQL(", ").join(
                    SQL("{}.{}").format(alias, Identifier(c)) for c in fk.ref_columns
                ),
                name=reached.name,
                alias=alias,
                condition=reached.condition,
                same=_same(alias, fk, tree),
                refs=names(fk.ref_columns),
            )
            return replace(reached, condition=condition)
    return reached


def _carried(connection: db.Connection, reached: _Reached, table: Table) -> _Reached:
    """The same rows by their keys, for a server that lacks a table of the way (a host table)."""
    key = table.primary_key or table.keys[0]  # a copy has one: replication asks for it
    columns = [SQL("{}.{}::text").format(reached.alias, Identifier(c)) for c in key.columns]
    rows = connection.execute(
        SQL("SELECT ARRAY[{}] AS key FROM {} AS {} WHERE {}").format(
            SQL(", ").join(columns), reached.name, reached.alias, reached.condition
        )
    ).fetchall()
    values = [Literal([r["key"][n] for r in rows]) for n in range(len(columns))]
    condition = SQL("({}) IN (SELECT * FROM unnest({}))").format(
        SQL(", ").join(columns), SQL(", ").join(SQL("{}::text[]").format(v) for v in values)
    )
    return replace(reached, condition=condition)


def _referring(alias: Identifier, fk: ForeignKey, reached: _Reached) -> Composed:
    return SQL("EXISTS (SELECT FROM {} AS {} WHERE {} AND {})").format(
        reached.name, reached.alias, _same(alias, fk, reached.alias), reached.condition
    )


def _same(child: Identifier, fk: ForeignKey, target: Identifier) -> Composed:
    return SQL(" AND ").join(
        SQL("{}.{} = {}.{}").format(child, Identifier(own), target, Identifier(theirs))
        for own, theirs in zip(fk.columns, fk.ref_columns, strict=True)
    )


def _queries(
    home: Home, here: list[Holding], reached: Iterable[_Reached]
) -> Iterator[tuple[Holding, ForeignKey, tuple[str, ...], Composed]]:
    targets: dict[str, list[_Reached]] = {}
    for rows in reached:
        targets.setdefault(rows.way[-1], []).append(rows)
    child_alias = Identifier("c")
    for child in here:
        for fk in child.parent.foreign_keys:
            for target in targets.get(fk.ref_table, ()):
                own = fk.columns == (child.column,)
                if own or fk.unenforced or not target.touches(fk.ref_columns):
                    continue
                yield (
                    child,
                    fk,
                    target.way,
                    SQL(
                        "SELECT c.{column}::text AS workspace FROM ONLY {child} AS c WHERE "
                        "c.{column} IS DISTINCT FROM {workspace} AND {refers} LIMIT 1"
                    ).format(
                        column=Identifier(child.column),
                        child=child.name,
                        workspace=Literal(home.workspace),
                        refers=_referring(child_alias, fk, target),
                    ),
                )
