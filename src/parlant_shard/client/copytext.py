"""COPY, read and written anew: what it copies, and the statements that do it on one shard.

Rows that come in are staged in a temporary table of the same transaction and inserted from there:
so the tenant is added to every row, defaults of unlisted columns apply, and a row that names
another workspace stops everything. COPY takes no parameters, so values become literals there.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from psycopg import sql

from parlant_shard.client import failures
from parlant_shard.client.steps import Context
from parlant_shard.router import placeholders
from parlant_shard.router.model import Refusal
from parlant_shard.router.parsing import COMMENTS, SyntaxFault, parse_tree, scan
from parlant_shard.router.placeholders import PlaceholderFault
from parlant_shard.router.query import Query, query_text
from parlant_shard.router.route import Kind, Params, Route, RouteTarget, Unroutable
from parlant_shard.shardmap import MapTable, ShardMap

_TEXT_OPTIONS = ("format", "delimiter", "null", "header", "quote", "escape", "encoding")
_COLUMN_OPTIONS = ("force_quote", "force_not_null", "force_null")
_OPEN, _CLOSE = ord("("), ord(")")

_FORMS = (
    "COPY table [(columns)] FROM STDIN, COPY table [(columns)] TO STDOUT and "
    "COPY (SELECT …) TO STDOUT"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class CopyOut:
    """`query` is to be routed; its answer is copied."""

    query: str
    options: sql.Composable


@dataclass(frozen=True, slots=True, kw_only=True)
class CopyIn:
    """`columns` are as they were listed; None means all of the application's."""

    table: str
    about: MapTable
    columns: tuple[str, ...] | None
    options: sql.Composable


@dataclass(frozen=True, slots=True, kw_only=True)
class Staging:
    """The statements of a staged COPY, in their order; `check` counts rows of somebody else."""

    create: sql.Composed
    copy: sql.Composed
    check: sql.Composed | None
    insert: sql.Composed
    drop: sql.Composed


def read(query: Query, params: Params, shard_map: ShardMap) -> CopyOut | CopyIn:
    """Understand a COPY statement. Raises Unroutable (PS646, PS650 to PS652)."""
    try:
        text = query_text(query)
    except Refusal as refusal:
        raise _refused(refusal.code, refusal.reason, refusal.hint) from None
    try:
        found = placeholders.read(text, percent=bool(params))
        statements = parse_tree(found.server)
    except (SyntaxFault, PlaceholderFault, UnicodeEncodeError) as error:
        raise _refused("PS650", f"PostgreSQL does not accept the COPY statement: {error}") from None
    node = statements[0].get("stmt", {}).get("CopyStmt") if len(statements) == 1 else None
    if node is None:
        raise _refused("PS650", "copy() takes one COPY statement")
    if node.get("filename") or node.get("is_program"):
        raise _refused("PS650", "COPY reads and writes the client's own stream only")
    if node.get("whereClause"):
        raise _refused("PS650", "COPY … WHERE is not routed")
    if found.style is placeholders.Style.NUMBERED or (params and not _percent(found)):
        raise _refused("PS650", 'placeholders of COPY are written "%s" or "%(name)s"')
    options = _options(node.get("options", []))
    if "query" in node:
        if "SelectStmt" not in node["query"]:
            raise _refused("PS650", "COPY of a query takes a SELECT")
        tokens = [t for t in scan(found.server) if t.kind not in COMMENTS]
        start = next(t.end for t in tokens if t.kind == _OPEN)
        end = _closing(tokens)
        query = found.client[found.to_client(start) : found.to_client(end)].decode()
        return CopyOut(query=query, options=options)
    if found.holes:
        raise _refused("PS650", "COPY of a table takes no parameters")
    table, about = _table(node["relation"], shard_map)
    columns = tuple(c["String"]["sval"] for c in node.get("attlist", ())) or None
    for name in columns or ():
        if not about.has(name) and not (about.kind == "sharded" and name == shard_map.key):
            raise _refused(
                "PS651", f'table "{table}" has no column "{name}"', "name columns of the table"
            )
    if node.get("is_from"):
        return CopyIn(table=table, about=about, columns=columns, options=options)
    names = columns or tuple(c.name for c in about.columns)
    rows = sql.SQL("SELECT {} FROM {}").format(_names(names), sql.Identifier(table))
    return CopyOut(query=rows.as_string(None), options=options)


def _percent(found: placeholders.Text) -> bool:
    return found.style in {placeholders.Style.POSITIONAL, placeholders.Style.NAMED}


def _closing(tokens: list[Any]) -> int:
    depth = 0
    for token in tokens:
        if token.kind == _OPEN:
            depth += 1
        elif token.kind == _CLOSE:
            depth -= 1
            if depth == 0:
                return int(token.start)
    raise _refused("PS650", "COPY of a query needs parentheses around it")


def _table(relation: Mapping[str, Any], shard_map: ShardMap) -> tuple[str, MapTable]:
    name = relation["relname"]
    about = shard_map.tables.get(name)
    if relation.get("catalogname") or relation.get("schemaname", shard_map.namespace) != (
        shard_map.namespace
    ):
        about = None
    if about is None or about.kind == "host":
        shown = ".".join(filter(None, (relation.get("schemaname"), name)))
        raise _refused(
            "PS651",
            f'"{shown}" is no sharded or reference table',
            "name a table as the application knows it",
        )
    return name, about


def _options(items: list[Any]) -> sql.Composable:
    parts: list[sql.Composable] = []
    for item in items:
        element = item["DefElem"]
        name, argument = element["defname"], element.get("arg")
        if name in _TEXT_OPTIONS:
            parts.append(sql.SQL(name.upper()) + _value(argument))
        elif name in _COLUMN_OPTIONS:
            parts.append(sql.SQL(name.upper()) + _columns(argument))
        else:
            raise _refused(
                "PS652",
                f'the option "{name}" of COPY is not supported',
                f"use these: {', '.join((*_TEXT_OPTIONS, *_COLUMN_OPTIONS))}",
            )
    return sql.SQL(" WITH ({})").format(sql.SQL(", ").join(parts)) if parts else sql.SQL("")


def _value(argument: Any) -> sql.Composable:
    match argument:
        case None:
            return sql.SQL("")
        case {"String": {"sval": str(text)}}:
            return sql.SQL(" ") + sql.Literal(text)
        case {"String": {}}:
            return sql.SQL(" ''")
        case {"Boolean": {"boolval": True}}:
            return sql.SQL(" true")
        case {"Boolean": {}}:
            return sql.SQL(" false")
        case {"Integer": {"ival": int(number)}}:
            return sql.SQL(" ") + sql.Literal(number)
        case {"Integer": {}}:
            return sql.SQL(" 0")
    raise _refused("PS652", "an option of COPY has a value of an unknown form")


def _columns(argument: Any) -> sql.Composable:
    match argument:
        case {"A_Star": _}:
            return sql.SQL(" *")
        case {"List": {"items": items}}:
            return sql.SQL(" ({})").format(_names(i["String"]["sval"] for i in items))
    raise _refused("PS652", "an option of COPY has a value of an unknown form")


def _names(names: Any) -> sql.Composed:
    return sql.SQL(", ").join(map(sql.Identifier, names))


def _refused(code: str, reason: str, hint: str = f"known forms: {_FORMS}") -> Unroutable:
    return Unroutable(
        Route(
            kind=Kind.REFUSED, statement="copy", code=code, reason=reason, hint=hint, why=(reason,)
        )
    )


# --- what is sent ---------------------------------------------------------------------------------


def out_text(target: RouteTarget, options: sql.Composable) -> str:
    """The COPY around a routed query. psycopg puts the parameters in as literals."""
    end = options.as_string(None)
    if target.params:
        end = end.replace("%", "%%")
    # A line of its own: the query may end with a comment.
    return f"COPY (\n{target.sql}\n) TO STDOUT{end}"


def in_route(copy: CopyIn, shard_map: ShardMap, context: Context) -> Route:
    """Where the rows go. Raises Unroutable (PS616, PS622, PS654)."""
    home, workspace = context.home(shard_map), context.named(shard_map)
    if context.everything:
        raise _refused(
            "PS622", "a change of all workspaces is not routed", "change one workspace at a time"
        )
    if copy.about.kind == "reference":
        if workspace is not None and copy.about.keyed is not None:
            raise _refused(
                "PS616",
                f'COPY into the reference table "{copy.table}" takes rows of any workspace, and '
                f'the caller is workspace "{workspace}"',
                "write the rows of the workspace with INSERT, or copy without a workspace: "
                "router.copy(…)",
            )
        if workspace is not None:
            raise _refused(
                "PS616",
                f'the reference table "{copy.table}" belongs to no workspace',
                "change it without a workspace: router.copy(…)",
            )
        server, shard = shard_map.coordinator, None
    elif home is not None:
        server, shard = home
    else:
        raise _refused(
            "PS654",
            "nothing says which workspace the copied rows belong to"
            if not workspace
            else f'workspace "{workspace}" is on no shard',
            "copy on a connection of a workspace: router.workspace(…) or router.copy(workspace=…)",
        )
    return Route(
        kind=Kind.DIRECT,
        statement="copy",
        targets=(RouteTarget(shard=shard, server=server, sql=""),),
        workspaces=(workspace,) if workspace else (),
        writes=True,
    )


def direct(copy: CopyIn, shard_map: ShardMap) -> sql.Composed:
    """COPY into a reference table, on the coordinator."""
    columns = sql.SQL(" ({})").format(_names(copy.columns)) if copy.columns else sql.SQL("")
    return sql.SQL("COPY {}{} FROM STDIN{}").format(
        sql.Identifier(shard_map.namespace, copy.table), columns, copy.options
    )


def staged(
    copy: CopyIn,
    shard_map: ShardMap,
    *,
    shard: str,
    workspace: str,
    generated: frozenset[str] = frozenset(),
) -> Staging:
    """COPY into a shard's table by way of a temporary one."""
    key = shard_map.key
    columns = copy.columns or tuple(c.name for c in copy.about.columns if c.name not in generated)
    table = sql.Identifier(shard_map.namespace, shard_map.physical(copy.table, shard))
    name = f"parlant_shard_copy_{secrets.token_hex(6)}"
    stage = sql.Identifier("pg_temp", name)
    own = key in columns
    into = _names(columns if own else (*columns, key))
    values = _names(columns)
    if not own:
        values += sql.SQL(", {}").format(sql.Literal(workspace))
    return Staging(
        create=sql.SQL(
            "CREATE TEMPORARY TABLE {} ON COMMIT DROP AS SELECT {} FROM {} WITH NO DATA"
        ).format(sql.Identifier(name), _names(columns), table),
        copy=sql.SQL("COPY {} ({}) FROM STDIN{}").format(stage, _names(columns), copy.options),
        check=sql.SQL(
            "SELECT pg_catalog.count(*) FROM {} WHERE {}::pg_catalog.text IS DISTINCT FROM {}"
        ).format(stage, sql.Identifier(key), sql.Literal(workspace))
        if own
        else None,
        # As COPY does: given values win over GENERATED ALWAYS AS IDENTITY.
        insert=sql.SQL("INSERT INTO {} ({}) OVERRIDING SYSTEM VALUE SELECT {} FROM {}").format(
            table, into, values, stage
        ),
        drop=sql.SQL("DROP TABLE {}").format(stage),
    )


def foreign_rows(count: int, workspace: str) -> Unroutable:
    return failures.refused(
        Route(kind=Kind.REFUSED, statement="copy", workspaces=(workspace,)),
        "PS653",
        f"{count} of the copied rows name{'s' if count == 1 else ''} another workspace than "
        f'"{workspace}"',
        "nothing was inserted; copy the rows of one workspace at a time",
    )
