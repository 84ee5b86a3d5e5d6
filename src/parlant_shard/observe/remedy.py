"""The statements of an advice, in the form that does not get in the application's way. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from psycopg.sql import SQL, Composable, Identifier

from parlant_shard.catalog import Index
from parlant_shard.ddl import Ddl, names, render
from parlant_shard.diff import LEFTOVER
from parlant_shard.names import leaf_item, suffixed
from parlant_shard.observe.figures import IndexFigures, TableFigures
from parlant_shard.observe.fold import ShardIndex, ShardTable

# PostgreSQL 17 before 17.10 and 18 before 18.4 do not make a partitioned index valid by attaching
# one of its indexes again.
_STAYS_INVALID = ((170_000, 170_010), (180_000, 180_004))


def _brief(*statements: Composable) -> tuple[Composable, ...]:
    """Statements that lock readers out: they give up at once instead of making others queue."""
    return (SQL("SET lock_timeout = '1s'"), *statements, SQL("RESET lock_timeout"))


def _texts(statements: Sequence[Composable]) -> tuple[str, ...]:
    return tuple(render(s) for s in statements)


def drop(ddl: Ddl, index: ShardIndex) -> tuple[str, ...]:
    """Drop an index: online, or in a moment without readers where it is partitioned."""
    if index.root.partitioned:
        return _texts(_brief(SQL("DROP INDEX {}").format(ddl.name(index.root.name))))
    parts = [SQL("DROP INDEX CONCURRENTLY {}").format(ddl.name(p.name)) for p in index.parts]
    return _texts(parts)


def rebuild(ddl: Ddl, indexes: Sequence[IndexFigures]) -> tuple[str, ...]:
    return _texts([SQL("REINDEX INDEX CONCURRENTLY {}").format(ddl.name(i.name)) for i in indexes])


def create(ddl: Ddl, table: ShardTable, name: str, columns: Sequence[str]) -> tuple[str, ...]:
    """Build an index online; on a partitioned table partition by partition."""
    index = Index(
        name=suffixed(name, table.shard) if table.shard else name,
        unique=False,
        definition=render(SQL("btree ({})").format(names(columns))),
    )
    if not table.root.partitioned:
        return _texts([ddl.create_index(table.root.name, index, concurrently=True)])
    statements: list[Composable] = [ddl.create_index(table.root.name, index, only=True)]
    for leaf in table.members:
        if leaf.partitioned:
            continue
        own = leaf_item(leaf.name, table.root.name, index.name, table.shard)
        part = Index(name=own, unique=False, definition=index.definition)
        statements.append(ddl.create_index(leaf.name, part, concurrently=True))
        statements.append(_attach(ddl, index.name, own))
    return _texts(statements)


def _attach(ddl: Ddl, parent: str, leaf: str) -> Composable:
    return SQL("ALTER INDEX {} ATTACH PARTITION {}").format(ddl.name(parent), ddl.name(leaf))


def mend(
    ddl: Ddl,
    index: IndexFigures,
    table: TableFigures,
    parent: IndexFigures | None,
    parts: Sequence[tuple[TableFigures, IndexFigures | None]],
    version_num: int,
) -> tuple[str, ...]:
    """Make an INVALID index valid, or take it away.

    `parts` are, for a partitioned index, the partitions with what each has attached to it.
    """
    name = ddl.name(index.name)
    shape = Index(name=index.name, unique=index.unique, definition=index.tail)
    if index.partitioned:
        lacking = [leaf for leaf, part in parts if part is None]
        broken = [part for _, part in parts if part is not None and not part.valid]
        attached = [part for _, part in parts if part is not None]
        statements: list[Composable] = []
        if not lacking and not broken and attached:
            if not any(low <= version_num < high for low, high in _STAYS_INVALID):
                return _texts([_attach(ddl, index.name, attached[0].name)])
            # The indexes of the partitions go with it.
            statements += _brief(SQL("DROP INDEX {}").format(name))
            statements.append(ddl.create_index(table.name, shape, only=True))
            lacking = [leaf for leaf, _ in parts]
        for part in broken:
            statements += [
                SQL("REINDEX INDEX CONCURRENTLY {}").format(ddl.name(part.name)),
                _attach(ddl, index.name, part.name),
            ]
        for leaf in lacking:
            own = leaf_item(leaf.name, table.name, index.name, table.shard)
            built = Index(name=own, unique=index.unique, definition=index.tail)
            statements += [
                ddl.create_index(leaf.name, built, concurrently=True),
                _attach(ddl, index.name, own),
            ]
        return _texts(statements)
    if parent is not None:
        return _texts(
            [
                SQL("REINDEX INDEX CONCURRENTLY {}").format(name),
                _attach(ddl, parent.name, index.name),
            ]
        )
    away = SQL("DROP INDEX CONCURRENTLY {}").format(name)
    if LEFTOVER.search(index.name):
        return _texts([away])
    return _texts([away, ddl.create_index(table.name, shape, concurrently=True)])


def vacuum(namespace: str, table: str) -> tuple[str, ...]:
    return _texts([SQL("VACUUM (ANALYZE) {}").format(Identifier(namespace, table))])


def analyze(namespace: str, table: str) -> tuple[str, ...]:
    return _texts([SQL("ANALYZE {}").format(Identifier(namespace, table))])
