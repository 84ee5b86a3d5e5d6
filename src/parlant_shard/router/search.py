"""Full-text conditions that an index can answer behind row-level security.

`@@` is not leakproof, so under a policy PostgreSQL keeps it from the index and runs it for every
row of the workspace. Where a statement searches for exactly what a full-text index holds,

    to_tsvector('english', coalesce(name, '')) @@ plainto_tsquery('english', %s)

becomes

    t.id = ANY (ARRAY(SELECT parlant_shard.match_name_idx_s1(plainto_tsquery('english', %s))))

The function reads the workspace out of the same setting as the policies, searches with the index,
and returns keys of that workspace's rows. It cannot widen what a statement sees: the table keeps
its tenant's condition and its policy. It gives the same rows where the expression is the index's
own, and the index's predicate stands beside it: this is compared on the parse trees.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from parlant_shard.router.model import Item, Ref, Scope
from parlant_shard.router.parsing import Node, parse_tree
from parlant_shard.router.tenants import Tenants
from parlant_shard.router.tokens import Tokens
from parlant_shard.router.tree import column_refs, conjuncts, text_of, type_name
from parlant_shard.shardmap import MapSearch, MapTable

_QUERIES = frozenset(["to_tsquery", "plainto_tsquery", "phraseto_tsquery", "websearch_to_tsquery"])
_TEXT_LIKE = ("text", "character varying")


@dataclass(frozen=True, slots=True)
class Search:
    """A condition to replace: its span, that of the query in it, and what answers it."""

    span: tuple[int, int]
    query: tuple[int, int]
    ref: Ref
    by: MapSearch


def searches(
    conditions: Iterable[tuple[Node, Scope]], tenants: Tenants, tokens: Tokens
) -> Iterator[Search]:
    """Find the conditions of a statement that a full-text index can answer."""
    for where, scope in conditions:
        parts = list(conjuncts(where))
        for part in parts:
            found = _search(part, parts, scope, tenants, tokens)
            if found is not None:
                yield found


def _search(
    part: Node, parts: list[Node], scope: Scope, tenants: Tenants, tokens: Tokens
) -> Search | None:
    body = part.get("A_Expr", {})
    if body.get("kind") != "AEXPR_OP" or [text_of(n) for n in body["name"]] != ["@@"]:
        return None
    vector, query = body.get("lexpr", {}), body.get("rexpr", {})
    if _called(vector) != "to_tsvector" or _called(query) not in _QUERIES:
        return None
    if not _is_fixed(query["FuncCall"].get("args", ())):
        return None
    ref = _only_ref(vector, scope, tenants)
    if ref is None or ref.nullable or ref.sample is not None:
        return None
    beside = {_normal(p, ref.spec) for p in parts if _only_ref(p, scope, tenants) is ref}
    wanted = _normal(vector, ref.spec)
    for by in ref.spec.searches:
        expression, predicates = _of_index(by, ref.spec)
        if expression == wanted and predicates <= beside:
            span = _spans(vector, query, tokens)
            return None if span is None else Search(*span, ref, by)
    return None


def _called(node: Node) -> str | None:
    """The function that a node calls, plainly: a built-in one without frills."""
    call = node.get("FuncCall")
    if call is None or set(call) - {"funcname", "args", "funcformat", "location"}:
        return None
    names = [text_of(n) for n in call["funcname"]]
    return names[-1] if len(names) == 1 or names[:-1] == ["pg_catalog"] else None


def _is_fixed(node: Any) -> bool:
    """Whether an expression has nothing but constants and parameters, casts aside."""
    if isinstance(node, list | tuple):
        return all(map(_is_fixed, node))
    if "TypeCast" in node:
        return _is_fixed(node["TypeCast"]["arg"])
    return "ParamRef" in node or "A_Const" in node


def _only_ref(vector: Node, scope: Scope, tenants: Tenants) -> Ref | None:
    """The table of all columns of an expression, where it stands in this query's own FROM."""
    found: set[int] = set()
    owner: Item | None = None
    for column in column_refs(vector):
        base = tenants.base(column, scope)
        item = next((i for i in scope.items if base is not None and i.ref is base[0]), None)
        if item is None:
            return None
        found.add(id(item))
        owner = item
    ref = owner.ref if owner is not None and len(found) == 1 and not owner.renamed else None
    if ref is None or not ref.sharded:
        return None
    return ref if ref.role in {"from", "update", "delete"} else None


def _spans(
    vector: Node, query: Node, tokens: Tokens
) -> tuple[tuple[int, int], tuple[int, int]] | None:
    """The text from the one call to the end of the other; None where brackets would not match."""
    begin, left_end = _call_tokens(vector, tokens)
    right, end = _call_tokens(query, tokens)
    between = tokens.words[left_end + 1 : right]
    if between != [")"] * between.count(")") + ["@@"] + ["("] * between.count("("):
        return None
    if between.count("(") != between.count(")"):
        return None
    starts = [t.start for t in tokens.tokens]
    ends = [t.end for t in tokens.tokens]
    return (starts[begin], ends[end]), (starts[right], ends[end])


def _call_tokens(node: Node, tokens: Tokens) -> tuple[int, int]:
    first, last = tokens.name(node["FuncCall"]["location"])
    return first, tokens.close(last + 1)


@lru_cache(maxsize=256)
def _of_index(by: MapSearch, spec: MapTable) -> tuple[str, frozenset[str]]:
    """The expression and the predicate of an index, in the form in which they are compared."""
    where = f" WHERE {by.predicate}" if by.predicate else ""
    (statement,) = parse_tree(f"SELECT {by.expression}{where}".encode())  # parsed only
    select = statement["stmt"]["SelectStmt"]
    predicates = list(conjuncts(select["whereClause"])) if by.predicate else []
    return (
        _normal(select["targetList"][0]["ResTarget"]["val"], spec),
        frozenset(_normal(p, spec) for p in predicates),
    )


def _normal(node: Any, spec: MapTable) -> str:
    """An expression as text that is the same where the meaning is: for columns of one table."""
    return json.dumps(_reduced(node, spec), sort_keys=True)


def _reduced(node: Any, spec: MapTable) -> Any:
    if isinstance(node, list | tuple):
        return [_reduced(n, spec) for n in node]
    if not isinstance(node, dict):
        return node
    if "TypeCast" in node:
        inner, to = node["TypeCast"]["arg"], type_name(node["TypeCast"]["typeName"])
        plain = "A_Const" in inner and to in {"text", "varchar", "regconfig"}
        if plain or (to == "text" and _is_text(inner, spec)):
            return _reduced(inner, spec)
    if "ColumnRef" in node:
        return {"column": text_of(node["ColumnRef"]["fields"][-1])}
    if "FuncCall" in node and _called(node) is not None:
        args = node["FuncCall"].get("args", ())
        return {"call": _called(node), "args": _reduced(args, spec)}
    return {k: _reduced(v, spec) for k, v in node.items() if k not in {"location", "names"}} | (
        {"names": [text_of(n) for n in node["names"]][-1:]} if "names" in node else {}
    )


def _is_text(node: Node, spec: MapTable) -> bool:
    if "ColumnRef" not in node:
        return False
    kind = spec.type_of(text_of(node["ColumnRef"]["fields"][-1])) or ""
    return kind.startswith(_TEXT_LIKE)
