"""Rows of other workspaces that refer to reference rows of this one: a purge would take them too.

Foreign keys between sharded tables hold the workspace, so no row there can point into another one.
A reference table's cannot: whoever uses another workspace's row would lose his own by the cascade.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from psycopg.sql import SQL, Composed, Identifier, Literal

from parlant_shard.catalog import Catalog, ForeignKey
from parlant_shard.errors import ShardError
from parlant_shard.plan import TIMEOUTS, Kind
from parlant_shard.privacy.holdings import Holding, Where
from parlant_shard.privacy.home import Home, sees_every_row
from parlant_shard.privacy.steps import Found
from parlant_shard.topology import Topology


def refuse_entangled(
    topology: Topology, home: Home, live: Mapping[str, Catalog], found: Iterable[Found]
) -> None:
    """Raise ShardError (PS743) where the purge would delete or change another workspace's rows."""
    filled = [
        f.holding for f in found if f.rows and f.holding.where in {Where.COORDINATOR, Where.COPY}
    ]
    holdings = [f.holding for f in found]
    for server in live:
        targets = {h.table.name: h for h in filled if h.server == server}
        queries = list(_queries(home, [h for h in holdings if h.server == server], targets))
        if not queries:
            continue
        with sees_every_row(topology, server) as connection:
            connection.execute(
                "SELECT pg_catalog.set_config('statement_timeout', %s, false)",
                [str(TIMEOUTS[Kind.VALIDATE][1])],
            )
            for child, fk, query in queries:
                row = connection.execute(query).fetchone()
                if row is not None:
                    raise ShardError(
                        f'rows of workspace "{row["workspace"]}" in "{child.table.name}" on server '
                        f'"{server}" refer to rows of workspace "{home.workspace}" in '
                        f'"{fk.ref_table}": a purge would reach them',
                        code="PS743",
                        hint=f"clear or change {', '.join(fk.columns)} of those rows first; "
                        "nothing was deleted",
                    )


def _queries(
    home: Home, here: list[Holding], targets: Mapping[str, Holding]
) -> Iterator[tuple[Holding, ForeignKey, Composed]]:
    for child in here:
        for fk in child.parent.foreign_keys:
            target = targets.get(fk.ref_table)
            if target is None or fk.columns == (child.column,):
                continue
            same = SQL(" AND ").join(
                SQL("c.{} = r.{}").format(Identifier(own), Identifier(theirs))
                for own, theirs in zip(fk.columns, fk.ref_columns, strict=True)
            )
            yield (
                child,
                fk,
                SQL(
                    "SELECT c.{column}::text AS workspace FROM ONLY {child} AS c WHERE "
                    "c.{column} IS DISTINCT FROM {workspace} AND EXISTS "
                    "(SELECT FROM {target} AS r WHERE r.{key} = {workspace} AND {same}) LIMIT 1"
                ).format(
                    column=Identifier(child.column),
                    child=child.name,
                    workspace=Literal(home.workspace),
                    target=target.name,
                    key=Identifier(target.column),
                    same=same,
                ),
            )
