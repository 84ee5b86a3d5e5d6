"""The last word: does a text, as it will be sent, touch one tenant's rows only?

Knows nothing of how the text came about. It parses the text with PostgreSQL's parser and accepts
it only if every relation is a CTE, a reference table, or a shard table under the tenant's
condition; every new row carries the tenant; the key is never assigned; every function and type
is on the list; and every node of the tree is of a kind that is known to be harmless. A reference
table with the key is read under a third kind of guard, "mine and the shared ones".
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from parlant_shard.router.allowed import (
    FIELDS,
    FUNCTIONS,
    SYSTEM_COLUMNS,
    TYPES,
    is_allowed_call,
    may_be_a_field,
)
from parlant_shard.router.parsing import Node, SyntaxFault, parse_tree


class Unproven(Exception):
    """The text breaks the invariant, or holds something that this check does not know."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Invariant:
    """What a text may touch.

    `guarded` relations need the tenant's condition, `open` ones do not. `writable` are open
    relations that may be written. `params` hold the workspace; `row_params` are parameters of
    the user's that were compared with it, for new rows alone. `key_cast` is the key's own type.
    `columns` are those of the application's tables: `x.name` with another name could be a call.
    With `several` the condition is `= ANY (parameter)` and nothing may be written. `searches` are
    functions of ours that return keys of the workspace's own rows and nothing else.

    `shared` relations have rows of workspaces and rows with a NULL key, which all read. They are
    read under `key = parameter OR key IS NULL`, and changed, if they are `held` too, under the
    tenant's condition alone. For `nobody` there is no workspace: both are `key IS NULL`, and new
    rows carry NULL. A `question` may read the shared rows alone, or all in the name of nobody; it
    changes nothing and answers a constant.
    """

    namespace: str
    key: str
    guarded: Collection[str]
    open: Collection[str]
    writable: Collection[str]
    params: Collection[int]
    row_params: Collection[int]
    types: Collection[str]
    own_functions: Collection[str]
    columns: Collection[str] = frozenset()
    key_cast: str | None = None
    several: bool = False
    searches: Collection[str] = frozenset()
    shared: Collection[str] = frozenset()
    held: Collection[str] = frozenset()
    nobody: bool = False
    question: bool = False


# Nodes that only hold others. Whatever is not here and has no method of its own is refused.
_NODES = """
A_ArrayExpr A_Const A_Indices A_Star Alias BitString Boolean BooleanTest BoolExpr CaseExpr CaseWhen
CoalesceExpr CollateClause ColumnDef CommonTableExpr DefElem Float GroupingFunc GroupingSet
IndexElem Integer JsonAggConstructor JsonArgument JsonArrayAgg JsonArrayConstructor
JsonArrayQueryConstructor JsonBehavior JsonFormat JsonFuncExpr JsonIsPredicate JsonKeyValue
JsonObjectAgg JsonObjectConstructor JsonOutput JsonParseExpr JsonReturning JsonScalarExpr
JsonSerializeExpr JsonTable JsonTableColumn JsonTablePathSpec JsonValueExpr List LockingClause
MergeSupportFunc MergeWhenClause MinMaxExpr MultiAssignRef NamedArgExpr NullTest ParamRef
RangeFunction RangeSubselect RangeTableFunc RangeTableFuncCol RangeTableSample ResTarget
ReturningClause RowExpr SetToDefault SortBy SQLValueFunction String SubLink TypeCast WindowDef
XmlExpr XmlSerialize
"""
_PLAIN = frozenset(_NODES.split())


def prove(text: bytes, invariant: Invariant) -> None:
    """Return if the text keeps the invariant; raise Unproven with the reason otherwise."""
    try:
        statements = parse_tree(text)
    except SyntaxFault as fault:
        raise Unproven(f"PostgreSQL does not parse it: {fault}") from None
    if len(statements) != 1:
        raise Unproven("not exactly one statement")
    tree = statements[0]["stmt"]
    if "ExplainStmt" in tree:
        tree = tree["ExplainStmt"]["query"]
    proof = _Proof(invariant, tree)
    if invariant.question:
        proof.answers_a_constant(tree)
    proof.statement(tree, frozenset())


class _Proof:
    def __init__(self, invariant: Invariant, tree: Node) -> None:
        self.i = invariant
        self.tree = tree
        self.given: set[str] | None = None

    def answers_a_constant(self, tree: Node) -> None:
        targets = tree.get("SelectStmt", {}).get("targetList", ())
        if len(targets) != 1 or "A_Const" not in targets[0]["ResTarget"]["val"]:
            raise Unproven("a question that answers with more than a constant")

    def statement(self, tree: Node, ctes: frozenset[str]) -> None:
        tag, node = next(iter(tree.items()))
        match tag:
            case "SelectStmt":
                self.select(node, ctes)
            case "InsertStmt":
                self.insert(node, self._ctes(node, ctes))
            case "UpdateStmt" | "DeleteStmt":
                self.change(node, self._ctes(node, ctes))
            case "MergeStmt":
                self.merge(node, self._ctes(node, ctes))
            case _:
                raise Unproven(f"a {tag}")

    def _ctes(self, node: Node, ctes: frozenset[str]) -> frozenset[str]:
        clause = node.get("withClause")
        if clause is None:
            return ctes
        bodies = [c["CommonTableExpr"] for c in clause["ctes"]]
        if clause.get("recursive"):
            ctes |= {b["ctename"] for b in bodies}
        for body in bodies:
            if "search_clause" in body or "cycle_clause" in body:
                raise Unproven("SEARCH or CYCLE")
            self.statement(body["ctequery"], ctes)
            ctes |= {body["ctename"]}
        return ctes

    # --- queries ----------------------------------------------------------------------------------

    def select(self, node: Node, ctes: frozenset[str]) -> None:
        if "intoClause" in node:
            raise Unproven("SELECT INTO")
        ctes = self._ctes(node, ctes)
        if "larg" in node:
            self.select(node["larg"], ctes)
            self.select(node["rarg"], ctes)
        items = node.get("fromClause", ())
        guard = node.get("whereClause", {}) if len(items) == 1 else None
        for item in items:
            self._from(item, ctes, guard=guard)
        for field, value in node.items():
            if field == "lockingClause":
                self._locking(value)
            elif field not in {"fromClause", "withClause", "larg", "rarg"}:
                self._any(value, ctes)

    def _locking(self, clauses: list[Node]) -> None:
        for clause in clauses:
            for relation in clause["LockingClause"].get("lockedRels", ()):
                if "schemaname" in relation["RangeVar"]:
                    raise Unproven("FOR UPDATE OF a qualified name")

    def _from(self, node: Node, ctes: frozenset[str], *, guard: Node | None = None) -> None:
        """Check a FROM item. `guard` is the query's WHERE if the query has nothing but this item
        in FROM: it must be the condition that the item needs, and nothing else."""
        tag, body = next(iter(node.items()))
        match tag:
            case "RangeVar":
                self._relation(body, ctes, guard)
            case "RangeTableSample":
                self._any(body.get("args"), ctes)
                self._any(body.get("repeatable"), ctes)
                self._relation(body["relation"]["RangeVar"], ctes, guard)
            case "JoinExpr":
                self._from(body["larg"], ctes)
                self._from(body["rarg"], ctes)
                self._any(body.get("quals"), ctes)
            case "RangeSubselect":
                self.statement(body["subquery"], ctes)
            case _:  # a function, or what nobody knows yet
                self._any(node, ctes)

    def _relation(self, node: Node, ctes: frozenset[str], guard: Node | None) -> None:
        name = node["relname"]
        if "schemaname" not in node and "catalogname" not in node:
            if name in ctes:
                return
            raise Unproven(f'the unqualified relation "{name}"')
        if "catalogname" in node or node["schemaname"] != self.i.namespace:
            raise Unproven(f'the schema of "{name}"')
        if name in self.i.open:
            return
        if name in self.i.guarded:
            found = self._guarded_name(guard or {})
        elif name in self.i.shared:
            found = self._shared_name(guard or {})
        else:
            raise Unproven(f'the relation "{name}"')
        alias = node.get("alias", {})
        if "colnames" in alias:
            raise Unproven(f'"{name}" with renamed columns')
        if found is None or found not in {"", alias.get("aliasname", name)}:
            raise Unproven(f'"{name}" without the condition on "{self.i.key}"')

    def _guarded_name(self, condition: Node) -> str | None:
        """The qualifier of `[q.]key = tenant`, '' without one; None for any other condition."""
        body = condition.get("A_Expr")
        if body is None or [_string(n) for n in body.get("name", ())] != ["pg_catalog", "="]:
            return None
        wanted = "AEXPR_OP_ANY" if self.i.several else "AEXPR_OP"
        if body.get("kind") != wanted:
            return None
        fields = body.get("lexpr", {}).get("ColumnRef", {}).get("fields", ())
        names = [_string(f) for f in fields]
        value = body.get("rexpr", {})
        if self.i.several and "TypeCast" in value:
            value = value["TypeCast"]["arg"]
        if not self._is_tenant(value) or not names or names[-1] != self.i.key or len(names) > 2:
            return None
        return names[0] if len(names) == 2 else ""

    def _shared_name(self, condition: Node) -> str | None:
        """The qualifier of `[q.]key = tenant OR [q.]key IS NULL`; None for anything else."""
        if self.i.question:
            everything = condition.get("A_Const", {}).get("boolval", {}).get("boolval")
            if self.i.nobody and everything is True:
                return ""
            others = self._null_name(condition)
            if others is not None:
                return others
        if self.i.nobody:
            return self._null_name(condition)
        body = condition.get("BoolExpr", {})
        parts = body.get("args", ())
        if body.get("boolop") != "OR_EXPR" or len(parts) != 2:
            return None
        mine, shared = self._guarded_name(parts[0]), self._null_name(parts[1])
        return mine if mine is not None and mine == shared else None

    def _null_name(self, condition: Node) -> str | None:
        """The qualifier of `[q.]key IS NULL`; None for any other condition."""
        test = condition.get("NullTest", {})
        names = [_string(f) for f in test.get("arg", {}).get("ColumnRef", {}).get("fields", ())]
        if test.get("nulltesttype") != "IS_NULL" or not names or names[-1] != self.i.key:
            return None
        if len(names) > 2:
            return None
        return names[0] if len(names) == 2 else ""

    def _is_tenant(self, value: Node) -> bool:
        param = value.get("ParamRef")
        return param is not None and param.get("number", 0) in self.i.params

    def _is_tenants_row(self, value: Node) -> bool:
        """Whether a value in the key's place is the workspace, at most cast to the key's type."""
        if value.get("ParamRef", {}).get("number", 0) in self.i.row_params:
            return True
        if self.i.nobody:
            return bool(value.get("A_Const", {}).get("isnull"))
        while "TypeCast" in value:
            to = value["TypeCast"]["typeName"]
            names = [_string(n) for n in to.get("names", ())]
            if to.get("typmods") or to.get("arrayBounds") or names[-1:] != [self.i.key_cast]:
                return False
            value = value["TypeCast"]["arg"]
        return self._is_tenant(value)

    # --- changes ----------------------------------------------------------------------------------

    def _target(self, node: Node) -> str | None:
        """The label of a guarded target; None for one that needs no guard."""
        name = node["relname"]
        if "catalogname" in node or node.get("schemaname") != self.i.namespace:
            raise Unproven(f'the target "{name}" is not qualified')
        if name in self.i.writable and not self.i.question:
            return None
        if self.i.question:
            raise Unproven("a change in a question")
        if name not in self.i.held and (name not in self.i.guarded or self.i.nobody):
            raise Unproven(f'the target "{name}"')
        if self.i.several:
            raise Unproven("a change for several workspaces")
        return str(node.get("alias", {}).get("aliasname", name))

    def _first_guards(self, condition: Any, label: str) -> None:
        parts = _conjuncts(condition)
        name = None
        if parts and self.i.nobody:
            name = self._null_name(parts[0])
        elif parts:
            name = self._guarded_name(parts[0])
        if name != label:
            raise Unproven(f'the change of "{label}" is not held to the tenant')

    def _no_key(self, targets: list[Node]) -> None:
        if any(t["ResTarget"].get("name") == self.i.key for t in targets):
            raise Unproven("the key is assigned")

    def change(self, node: Node, ctes: frozenset[str]) -> None:
        label = self._target(node["relation"])
        if label is not None:
            self._first_guards(node.get("whereClause"), label)
            self._no_key(node.get("targetList", []))
        for item in (*node.get("fromClause", ()), *node.get("usingClause", ())):
            self._from(item, ctes)
        for part in ("targetList", "whereClause", "returningClause"):
            self._any(node.get(part), ctes)

    def insert(self, node: Node, ctes: frozenset[str]) -> None:
        label = self._target(node["relation"])
        source = node.get("selectStmt", {}).get("SelectStmt")
        if source is not None:
            self.select(source, ctes)
        conflict = node.get("onConflictClause")
        if label is not None:
            columns = [c["ResTarget"].get("name") for c in node.get("cols", ())]
            if columns.count(self.i.key) != 1:
                raise Unproven("an INSERT that does not give the key once")
            assert source is not None  # DEFAULT VALUES takes no list of columns
            self._rows_carry(source, columns.index(self.i.key))
            if conflict is not None and conflict.get("action") == "ONCONFLICT_UPDATE":
                self._first_guards(conflict.get("whereClause"), label)
                self._no_key(conflict.get("targetList", []))
        self._any(node.get("cols"), ctes)
        if conflict is not None:
            for part in ("infer", "targetList", "whereClause"):
                self._any(conflict.get(part), ctes)
        self._any(node.get("returningClause"), ctes)

    def _rows_carry(self, source: Node, at: int) -> None:
        if "larg" in source:
            self._rows_carry(source["larg"], at)
            self._rows_carry(source["rarg"], at)
            return
        if "valuesLists" in source:
            values = [row["List"]["items"] for row in source["valuesLists"]]
        else:
            targets = [t["ResTarget"]["val"] for t in source.get("targetList", ())]
            if any("A_Star" in str(t.get("ColumnRef", "")) for t in targets[:at]):
                raise Unproven("a star in front of the key")
            values = [targets]
        for row in values:
            if at >= len(row) or not self._is_tenants_row(row[at]):
                raise Unproven("a new row that does not carry the tenant")

    def merge(self, node: Node, ctes: frozenset[str]) -> None:
        label = self._target(node["relation"])
        if label is not None:
            self._first_guards(node.get("joinCondition"), label)
        self._from(node["sourceRelation"], ctes)
        for entry in node["mergeWhenClauses"]:
            clause = entry["MergeWhenClause"]
            if label is None:
                continue
            kind = clause.get("matchKind")
            if clause.get("commandType") == "CMD_INSERT" or kind not in {
                "MERGE_WHEN_MATCHED",
                "MERGE_WHEN_NOT_MATCHED_BY_TARGET",
            }:
                raise Unproven("a form of MERGE that cannot be held to the tenant")
            self._no_key(clause.get("targetList", []))
        for part in ("joinCondition", "mergeWhenClauses", "returningClause"):
            self._any(node.get(part), ctes)

    # --- everything else --------------------------------------------------------------------------

    def _any(self, node: Any, ctes: frozenset[str]) -> None:
        if isinstance(node, list):
            for entry in node:
                self._any(entry, ctes)
            return
        if not isinstance(node, dict):
            return
        for tag, body in node.items():
            if tag[0].islower():
                if tag in {"typeName", "type_name"}:
                    self._type(body)
                elif tag in {"operName", "useOp"}:
                    self._operator(body)
                elif isinstance(body, dict | list):
                    self._any(body, ctes)
            elif tag == "SelectStmt":
                self.select(body, ctes)
            elif tag == "ColumnRef":
                self._column(body)
            elif tag == "FuncCall":
                self._function(body)
                self._any(body, ctes)
            elif tag == "A_Expr":
                self._operator(body.get("name", ()))
                self._any(body, ctes)
            elif tag == "TypeName":
                self._type(body)
            elif tag == "A_Indirection":
                self._any(body["arg"], ctes)
                for entry in body["indirection"]:
                    if "String" in entry:
                        self._field(_string(entry))
                    self._any(entry, ctes)
            elif tag in _PLAIN:
                self._any(body, ctes)
            else:
                raise Unproven(f"a {tag}")

    def _column(self, node: Node) -> None:
        names = [_string(f) for f in node["fields"] if "String" in f]
        if names and names[-1] in SYSTEM_COLUMNS:
            raise Unproven(f'the system column "{names[-1]}"')
        if len(names) > 2:
            raise Unproven("a column with a schema")
        if len(names) == 2:
            self._field(names[1])

    def _field(self, name: str) -> None:
        """`x.name` calls the function `name` where x has no such field."""
        if name in self.i.columns or name in FUNCTIONS or name in FIELDS:
            return
        if self.given is None:
            self.given = set(_labels(self.tree))
        if name in self.i.own_functions or name not in self.given or not may_be_a_field(name):
            raise Unproven(f'"{name}", which may be a call written as a field')

    def _function(self, node: Node) -> None:
        names = [_string(n) for n in node["funcname"]]
        schema = names[0] if len(names) == 2 else None
        if schema == "parlant_shard" and names[1] in self.i.searches:
            return
        if len(names) > 2 or not is_allowed_call(schema, names[-1], self.i.namespace):
            raise Unproven(f'the function "{".".join(names)}"')
        if names[0] != "pg_catalog" and names[-1] in self.i.own_functions:
            raise Unproven(f'the function "{".".join(names)}"')

    def _operator(self, name: Any) -> None:
        names = [_string(n) for n in name]
        if len(names) > 1 and names[0] != "pg_catalog":
            raise Unproven(f'the operator "{".".join(names)}"')

    def _type(self, node: Node) -> None:
        names = [_string(n) for n in node.get("names", ())]
        if len(names) > 2 or node.get("pct_type") or node.get("setof"):
            raise Unproven(f'the type "{".".join(names)}"')
        schema = names[0] if len(names) == 2 else None
        if names[-1] in TYPES and schema in {None, "pg_catalog", self.i.namespace}:
            return
        if names[-1] in self.i.types and schema in {None, self.i.namespace}:
            return
        raise Unproven(f'the type "{".".join(names)}"')


def _labels(node: Any) -> Iterator[str]:
    """Every name that the text gives to a column."""
    waiting = [node]
    while waiting:
        found = waiting.pop()
        if isinstance(found, list):
            waiting += found
        elif isinstance(found, dict):
            for tag, body in found.items():
                if tag in {"name", "colname", "aliasname"} and isinstance(body, str):
                    yield body
                elif tag in {"colnames", "aliascolnames"}:
                    yield from map(_string, body)
                waiting.append(body)


def _string(node: Mapping[str, Any]) -> str:
    return str(node.get("String", {}).get("sval", ""))


def _conjuncts(node: Any) -> list[Node]:
    if not node:
        return []
    body = node.get("BoolExpr")
    if body is None or body.get("boolop") != "AND_EXPR":
        return [node]
    return [part for arg in body["args"] for part in _conjuncts(arg)]
