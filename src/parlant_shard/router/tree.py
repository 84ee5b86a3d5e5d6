"""Small questions to nodes of PostgreSQL's parse tree."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Any

from parlant_shard.router.allowed import AGGREGATES
from parlant_shard.router.model import Constant, Param, Term
from parlant_shard.router.parsing import Node


def text_of(node: Node) -> str:
    return str(node.get("String", {}).get("sval", ""))


def alias_of(node: Node) -> str | None:
    alias = node.get("alias")
    return str(alias["aliasname"]) if alias else None


# Casts that leave a name or an id what it is. Any other may cut it, round it, or fold it.
_SAME_VALUE = frozenset(["text", "varchar", "uuid", "int8", "int4"])


def type_name(node: Node) -> str | None:
    """The bare name of a type; None with a type modifier, which may change the value."""
    if node.get("typmods") or node.get("pct_type") or node.get("setof"):
        return None
    names = [text_of(n) for n in node.get("names", ())]
    return names[-1] if names else None


def uncast(node: Any) -> Node:
    """What is behind casts that do not change a value."""
    while isinstance(node, dict) and "TypeCast" in node:
        if type_name(node["TypeCast"]["typeName"]) not in _SAME_VALUE:
            break
        node = node["TypeCast"]["arg"]
    return node if isinstance(node, dict) else {}


def is_folded(node: Any) -> bool:
    """Whether a cast to a number or a uuid is in it: equal ones may have had different texts."""
    if isinstance(node, list | tuple):
        return any(is_folded(n) for n in node)
    if not isinstance(node, dict):
        return False
    cast = node.get("TypeCast")
    if cast is not None and type_name(cast["typeName"]) not in {"text", "varchar"}:
        return True
    return any(is_folded(body) for body in node.values())


def cast_to(node: Node, name: str | None) -> Node:
    """What is behind casts to exactly one type, which is not an array."""
    while "TypeCast" in node:
        to = node["TypeCast"]["typeName"]
        if name is None or type_name(to) != name or to.get("arrayBounds"):
            break
        node = node["TypeCast"]["arg"]
    return node


def term_of(node: Any) -> Term | None:
    """A constant or a parameter, casts aside. None for anything else."""
    node = uncast(node)
    if "ParamRef" in node:
        return Param(node["ParamRef"].get("number", 0))
    constant = node.get("A_Const")
    if constant is None:
        return None
    if constant.get("isnull"):
        return Constant(None)
    if "sval" in constant:
        return Constant(constant["sval"].get("sval", ""))
    if "ival" in constant:
        return Constant(str(constant["ival"].get("ival", 0)))
    if "fval" in constant:
        return Constant(constant["fval"]["fval"])
    return None


def conjuncts(node: Node) -> Iterator[Node]:
    body = node.get("BoolExpr")
    if body is not None and body.get("boolop") == "AND_EXPR":
        for part in body["args"]:
            yield from conjuncts(part)
    else:
        yield node


def leaves(node: Node) -> Iterator[Node]:
    if node.get("op", "SETOP_NONE") == "SETOP_NONE":
        yield node
    else:
        yield from leaves(node["larg"])
        yield from leaves(node["rarg"])


def has_star(node: Node) -> bool:
    return any(
        "A_Star" in t["ResTarget"]["val"].get("ColumnRef", {}).get("fields", [{}])[-1]
        for t in node.get("targetList", ())
    )


def is_transparent(node: Node) -> bool:
    """Whether a condition on the result is one on the rows: nothing counts, cuts or groups."""
    if any(
        part in node
        for part in (
            "distinctClause",
            "groupClause",
            "havingClause",
            "limitCount",
            "limitOffset",
            "windowClause",
            "withClause",
        )
    ):
        return False
    return not any(calls_aggregate(t) for t in node.get("targetList", ()))


def calls_aggregate(node: Any) -> bool:
    """Whether an expression has an aggregate or a window function, at whatever query level.

    One inside of a sub-query may belong to the outer level, so it counts.
    """
    if isinstance(node, list | tuple):
        return any(calls_aggregate(n) for n in node)
    if not isinstance(node, dict):
        return False
    call = node.get("FuncCall")
    if call is not None and ("over" in call or _is_aggregate(call)):
        return True
    if not _SQL_AGGREGATES.isdisjoint(node):
        return True
    return any(calls_aggregate(body) for body in node.values())


_SQL_AGGREGATES = frozenset(["JsonArrayAgg", "JsonObjectAgg"])
_MARKS = ("agg_star", "agg_distinct", "agg_within_group", "agg_order", "agg_filter")


def labels(node: Any) -> Iterator[str]:
    """Every name that a statement gives to a column: AS, aliases, column definitions."""
    if isinstance(node, list | tuple):
        for entry in node:
            yield from labels(entry)
    elif isinstance(node, dict):
        for tag, body in node.items():
            if tag == "ResTarget" and "name" in body:
                yield body["name"]
            elif tag == "aliasname":  # the column of a function that returns one value
                yield body
            elif tag == "ColumnDef" and "colname" in body:
                yield body["colname"]
            elif tag in {"colnames", "aliascolnames"}:
                yield from (text_of(n) for n in body)
            if isinstance(body, dict | list):
                yield from labels(body)


def column_refs(node: Any, *, aggregates: bool = True) -> Iterator[Node]:
    """The columns of an expression and of its sub-queries; without those inside of aggregates."""
    if isinstance(node, list | tuple):
        for entry in node:
            yield from column_refs(entry, aggregates=aggregates)
    elif isinstance(node, dict):
        for tag, body in node.items():
            if tag == "ColumnRef":
                yield body
            elif tag == "SubLink":
                # Correlated columns among them; a name too many does no harm to who asks.
                for column in column_refs(list(body.values())):
                    if "A_Star" not in column["fields"][-1]:
                        yield column
            elif tag == "FuncCall" and not aggregates and _is_aggregate(body):
                continue
            elif isinstance(body, dict | list):
                yield from column_refs(body, aggregates=aggregates)


def _is_aggregate(call: Node) -> bool:
    if "over" in call:
        return False  # a window function's arguments are seen after grouping
    return any(call.get(m) for m in _MARKS) or text_of(call["funcname"][-1]) in AGGREGATES


def table_offsets(items: Any) -> set[int]:
    """The offsets of the tables in a FROM clause, those in its sub-queries left out."""
    found: set[int] = set()

    def look(node: object) -> None:
        if isinstance(node, list | tuple):
            for entry in node:
                look(entry)
        elif isinstance(node, dict):
            for tag, body in node.items():
                if tag == "RangeVar":
                    found.add(body["location"])
                elif tag in {"JoinExpr", "larg", "rarg", "RangeTableSample", "relation"}:
                    look(body)

    look(items)
    return found


def locked_offsets(items: Any, names: Collection[str] | None) -> Iterator[int]:
    """The offsets of the tables whose rows FOR UPDATE locks: OF some names, or of everything.

    A lock on a sub-query is one on the tables of its FROM clause, whatever they are called there.
    """
    for item in items:
        tag, body = next(iter(item.items()))
        covered = names is None or (alias_of(body) or body.get("relname")) in names
        match tag:
            case "RangeVar" if covered:
                yield body["location"]
            case "RangeTableSample":
                yield from locked_offsets([body["relation"]], names)
            case "JoinExpr":
                yield from locked_offsets([body["larg"], body["rarg"]], names)
            case "RangeSubselect" if covered:
                for leaf in leaves(body["subquery"].get("SelectStmt", {})):
                    yield from locked_offsets(leaf.get("fromClause", ()), None)
