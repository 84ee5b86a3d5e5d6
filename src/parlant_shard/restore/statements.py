"""What the statements of a manifest may do: make that one table, and call nothing of its own.

Whoever can write into the archive must not run statements as us. A CHECK calls its functions for
each row that is loaded, and so does a default, by the rights of the one who loads.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import postgast
from postgast import pg_query_pb2 as pb

from parlant_shard import db
from parlant_shard.archive import Manifest, standalone
from parlant_shard.catalog import Table
from parlant_shard.errors import ArchiveError
from parlant_shard.sqlfiles import queries

# What `standalone` writes into a manifest.
_PROPERTIES = frozenset({"relation", "table_elts", "oncommit"})
_OF_COLUMNS = frozenset({pb.CONSTR_NOTNULL, pb.CONSTR_GENERATED})
_OF_TABLES = frozenset({pb.CONSTR_CHECK, pb.CONSTR_PRIMARY, pb.CONSTR_UNIQUE, pb.CONSTR_EXCLUSION})
_BUILT_IN = "pg_catalog"


def check_ddl(
    connection: db.Connection, manifest: Manifest, parent: Table, leaves: Iterable[Table]
) -> None:
    """Raise ArchiveError (PS554) where a manifest's statements do more than make the table.

    They may call what the parent and its partitions call, and functions of PostgreSQL that are not
    volatile.
    """
    try:
        trees = [postgast.parse(text) for text in manifest.ddl]
    except postgast.PgQueryError as error:
        raise _refused(manifest, "holds a statement that PostgreSQL does not read") from error
    first, *others = [s.stmt for tree in trees for s in tree.stmts] or [pb.Node()]
    if not _is_table(manifest, first) or not all(_is_index(manifest, o) for o in others):
        raise _refused(manifest, "holds statements that do not make this one table")
    known = [s for t in (parent, *leaves) for s in standalone(t, manifest.namespace, ())[1]]
    called = _called(trees)
    called -= _called(map(postgast.parse, known)) if called else set()
    foreign = {name for schema, name in called if schema != _BUILT_IN}
    rows = connection.execute(
        queries("archive")["volatile"], {"names": sorted({name for _, name in called})}
    ).fetchall()
    if unsafe := sorted(foreign | {row["name"] for row in rows}):
        names = ", ".join(f'"{name}"' for name in unsafe)
        raise _refused(
            manifest, f'holds statements that call {names}, which table "{parent.name}" does not'
        )


def _is_table(manifest: Manifest, statement: Any) -> bool:
    if statement.WhichOneof("node") != "create_stmt":
        return False
    create = statement.create_stmt
    return (
        _is_here(manifest, create.relation)
        and create.oncommit == pb.ONCOMMIT_NOOP
        and {field.name for field, _ in create.ListFields()} <= _PROPERTIES
        and all(map(_is_plain, create.table_elts))
    )


def _is_plain(item: Any) -> bool:
    """Whether it is a column without a default, or a constraint that needs no other table."""
    match item.WhichOneof("node"):
        case "column_def":
            return all(c.constraint.contype in _OF_COLUMNS for c in item.column_def.constraints)
        case "constraint":
            return item.constraint.contype in _OF_TABLES
        case _:
            return False


def _is_index(manifest: Manifest, statement: Any) -> bool:
    return statement.WhichOneof("node") == "index_stmt" and _is_here(
        manifest, statement.index_stmt.relation
    )


def _is_here(manifest: Manifest, relation: Any) -> bool:
    place = (relation.schemaname, relation.relname)
    return place == (manifest.namespace, manifest.partition) and relation.relpersistence == "p"


def _called(trees: Iterable[Any]) -> set[tuple[str, str]]:
    """The functions, and the operators that are written with a schema: schema and name."""
    found = set()
    for tree in trees:
        for name in _names(tree):
            parts = [part.string.sval for part in name]
            found.add((parts[0] if len(parts) > 1 else _BUILT_IN, parts[-1]))
    return found


def _names(tree: Any) -> Iterator[Any]:
    for call in postgast.find_nodes(tree, pb.FuncCall):
        yield call.funcname
    for operator in postgast.find_nodes(tree, pb.A_Expr):
        if len(operator.name) > 1:
            yield operator.name


def _refused(manifest: Manifest, why: str) -> ArchiveError:
    return ArchiveError(
        f'the manifest of partition "{manifest.partition}" {why}',
        code="PS554",
        hint="look at the `ddl` of the manifest; restore it by hand if it is right",
    )
