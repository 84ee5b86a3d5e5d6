"""Read a statement as PostgreSQL does: relations, query levels, and what it says of the tenant.

Works on the tree of PostgreSQL's own parser. Everything that is not understood is refused.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from parlant_shard.router.allowed import SYSTEM_COLUMNS, TYPES, is_allowed_call
from parlant_shard.router.columns import Columns, refuse_system_column
from parlant_shard.router.grouping import dependents
from parlant_shard.router.model import (
    Constant,
    Dependent,
    Derived,
    Id,
    Insertion,
    Item,
    Ref,
    Refusal,
    Relation,
    Role,
    Scope,
    Workspaces,
)
from parlant_shard.router.parsing import Node
from parlant_shard.router.scopes import common, find, needs_all, renamed
from parlant_shard.router.search import Search, searches
from parlant_shard.router.tenants import Tenants
from parlant_shard.router.tokens import Tokens
from parlant_shard.router.tree import (
    alias_of,
    has_star,
    is_folded,
    leaves,
    locked_offsets,
    term_of,
    text_of,
)
from parlant_shard.shardmap import ShardMap

DML = ("InsertStmt", "UpdateStmt", "DeleteStmt", "MergeStmt")
KINDS = {
    "SelectStmt": "select",
    "InsertStmt": "insert",
    "UpdateStmt": "update",
    "DeleteStmt": "delete",
    "MergeStmt": "merge",
}
_NO_NAMES: Mapping[str, Derived] = {}


class Analysis:
    """One statement, read once. `refs` are in the order of the text."""

    def __init__(self, tree: Node, tokens: Tokens, shard_map: ShardMap) -> None:
        self.map = shard_map
        self.key = shard_map.key
        self.tenants = Tenants(self.key, shard_map.lookup_types)
        self.columns = Columns(tree, tokens, shard_map, self.tenants)
        self.tokens = tokens
        self.refs: list[Ref] = []
        self.relations: set[Relation] = set()
        self.scopes: list[Scope] = []
        self.insertions: list[Insertion] = []
        self.constraints: list[tuple[Ref, str, tuple[int, int]]] = []
        self.joins: list[tuple[Ref, Node]] = []  # MERGE targets and their conditions
        self.dependents: list[Dependent] = []
        self.locked: str | None = None  # a table without a workspace whose rows are locked
        self._lock_later: list[tuple[list[Node], Any]] = []
        self.writes = False
        self.locks = False
        self._later: list[tuple[Node, Scope, frozenset[int]]] = []
        self.root_tag, self.root = next(iter(tree.items()))
        self.statement = KINDS[self.root_tag]
        self._handlers: dict[str, Callable[[Any, Scope], None]] = {
            "ColumnRef": self.columns.check,
            "FuncCall": self._function,
            "typeName": self._type,
            "TypeName": self._type,
            "A_Expr": self._operator,
            "SubLink": self._sublink,
            "A_Indirection": self._indirection,
            "MultiAssignRef": self._multi_assign,
            "SelectStmt": self._subquery,
            "CurrentOfExpr": self._current_of,
            "RangeVar": self._stray,
            "SortBy": self._sort,
            "CollateClause": self._collation,
        }
        self._statement(self.root_tag, self.root, _NO_NAMES, None)
        for node, scope, gain in self._later:
            self.tenants.learn(node, scope, gain)
        self.searches: list[Search] = []
        if any(r.spec.searches for r in self.refs):
            conditions = [(node, scope) for node, scope, _ in self._later]
            self.searches += searches(conditions, self.tenants, tokens)
        self._check_locks()
        self.refs.sort(key=lambda r: r.offset)

    # --- statements -------------------------------------------------------------------------------

    def _statement(
        self,
        tag: str,
        node: Node,
        ctes: Mapping[str, Derived],
        outer: Scope | None,
    ) -> Derived:
        match tag:
            case "SelectStmt":
                return self._select(node, ctes, outer)
            case "InsertStmt":
                found = self._insert(node, ctes, outer)
            case "UpdateStmt" | "DeleteStmt":
                found = self._change(tag, node, ctes, outer)
            case "MergeStmt":
                found = self._merge(node, ctes, outer)
            case _:
                raise Refusal("PS602", f"{tag} inside a query is not routed", _ONLY)
        self.writes = True
        return found

    def _with(
        self, clause: Node | None, ctes: Mapping[str, Derived], outer: Scope | None
    ) -> Mapping[str, Derived]:
        """Names in scope behind a WITH: without RECURSIVE each body sees the earlier ones only."""
        if clause is None:
            return ctes
        known = dict(ctes)
        entries = [c["CommonTableExpr"] for c in clause["ctes"]]
        recursive = bool(clause.get("recursive"))
        if recursive:
            known.update({c["ctename"]: Derived() for c in entries})
        for entry in entries:
            for unsupported in ("search_clause", "cycle_clause"):
                if unsupported in entry:
                    raise Refusal("PS619", "SEARCH and CYCLE of a recursive query", _REWRITE)
            tag, body = next(iter(entry["ctequery"].items()))
            derived = self._statement(tag, body, dict(known), outer)
            self.tenants.opaque(derived.outputs.values())  # it may be read in several places
            names = [text_of(n) for n in entry.get("aliascolnames", ())]
            known[entry["ctename"]] = renamed(derived, names) if names else derived
        return known

    def _select(self, node: Node, ctes: Mapping[str, Derived], outer: Scope | None) -> Derived:
        if "intoClause" in node:
            raise Refusal("PS602", "SELECT INTO creates a table", _ONLY)
        ctes = self._with(node.get("withClause"), ctes, outer)
        if node.get("lockingClause"):
            self.locks = True
            self._lock_later.append((node["lockingClause"], node.get("fromClause", ())))
        if node.get("op", "SETOP_NONE") != "SETOP_NONE":
            left = self._select(node["larg"], ctes, outer)
            self._select(node["rarg"], ctes, outer)
            scope = Scope(outer, ctes, items=[Item("", left.columns, {})])
            for part in ("sortClause", "limitOffset", "limitCount"):
                self._expression(node.get(part), scope)
            return Derived(left.columns)
        scope = Scope(outer, ctes)
        self.scopes.append(scope)
        for item in node.get("fromClause", ()):
            scope.items += self._from(item, scope, nullable=False)
        for part in (
            "targetList",
            "whereClause",
            "groupClause",
            "havingClause",
            "windowClause",
            "valuesLists",
            "sortClause",
            "distinctClause",
            "limitOffset",
            "limitCount",
        ):
            if part == "targetList":
                self._targets(node.get(part, ()), scope)
            elif part in {"groupClause", "sortClause", "distinctClause"}:
                self._expression(self._without_labels(node, part, scope), scope)
            else:
                self._expression(node.get(part), scope)
        if "whereClause" in node:
            # Now: what encloses this query may not restrict its rows, but its own WHERE does.
            self._later.append((node["whereClause"], scope, self.tenants.gainers(scope.items)))
        self.dependents += dependents(node, scope, self.tenants)
        return self.columns.outputs(node, scope)

    def _without_labels(self, node: Node, part: str, scope: Scope) -> list[Node]:
        """The entries of a clause that are no output column's label.

        ORDER BY takes a bare name for a label first. GROUP BY takes it for a column first, but a
        key that only the shards have is no column of the application's.
        """
        given = {t["ResTarget"].get("name") for t in node.get("targetList", ())}
        native = any(i.columns and self.key in i.columns for i in scope.items)

        def is_label(entry: Node) -> bool:
            column = entry.get("SortBy", {}).get("node", entry).get("ColumnRef", {})
            names = [text_of(f) for f in column.get("fields", ())]
            if len(names) != 1 or names[0] not in given:
                return False
            return part == "sortClause" or (names[0] == self.key and not native)

        for entry in node.get(part, ()):
            if "GroupingSet" in entry and self.key in given and not native:
                raise Refusal(
                    "PS619",
                    f'GROUPING SETS beside a column that is labelled "{self.key}"',
                    "give the column another label",
                )
        return [entry for entry in node.get(part, ()) if not is_label(entry)]

    def _check_locks(self) -> None:
        """Find tables of nobody's whose rows a FOR UPDATE covers, by name or because all are."""
        of = {r.offset: r for r in self.refs}
        for clauses, items in self._lock_later:
            for clause in clauses:
                rels = clause["LockingClause"].get("lockedRels")
                names = None if rels is None else {r["RangeVar"]["relname"] for r in rels}
                for offset in locked_offsets(items, names):
                    ref = of.get(offset)
                    if ref is not None and not ref.sharded:
                        self.locked = ref.table

    def _insert(self, node: Node, ctes: Mapping[str, Derived], outer: Scope | None) -> Derived:
        ctes = self._with(node.get("withClause"), ctes, outer)
        ref = self._target(node["relation"], "insert")
        scope = Scope(None, ctes)
        self.scopes.append(scope)
        scope.items.append(self._item(ref))
        columns = tuple(c["ResTarget"]["name"] for c in node.get("cols", ()))
        listed = bool(columns)
        for name in columns:
            if columns.count(name) > 1 and not any(
                c["ResTarget"].get("indirection") for c in node["cols"]
            ):
                raise Refusal("PS619", f'the column "{name}" is listed twice', "list it once")
        source = node.get("selectStmt", {}).get("SelectStmt")
        rows: list[list[Node]] = []
        width = 0
        if source is not None:
            self._select(source, ctes, None)
            if "valuesLists" in source:
                rows = [r["List"]["items"] for r in source["valuesLists"]]
                width = max(len(row) for row in rows)
                if listed and width > len(columns):
                    raise Refusal(
                        "PS619",
                        f"{width} values for the {len(columns)} columns that are listed",
                        "list a column for every value",
                    )
            else:
                branches = list(leaves(source))
                width = len(branches[0].get("targetList", ()))
                if not listed and any(has_star(b) for b in branches):
                    raise Refusal(
                        "PS619",
                        "an INSERT without a column list whose SELECT has a star",
                        "list the columns of the INSERT",
                    )
        if not listed and source is not None:
            own = [c.name for c in ref.spec.columns]
            if width > len(own):
                raise Refusal(
                    "PS619",
                    f'{width} values for the {len(own)} columns of "{ref.table}"',
                    "list the columns",
                )
            columns = tuple(own[:width])
        conflict = node.get("onConflictClause")
        if conflict is not None:
            self._conflict(conflict, ref, scope)
        self._returning(node, scope)
        if ref.guarded:
            self._inserted(ref, columns, rows, source)
            self.insertions.append(Insertion(ref, node, columns, listed, conflict))
        return self._returned(node, scope)

    def _inserted(
        self, ref: Ref, columns: tuple[str, ...], rows: list[list[Node]], source: Node | None
    ) -> None:
        """Learn the tenant of the new rows: from the key, or from the row that they belong to."""
        if self.key in columns:
            at = columns.index(self.key)
            terms = [term_of(row[at]) if at < len(row) else None for row in rows]
            known = [t for t in terms if t is not None]
            if known:
                ref.given.append(Workspaces(tuple(dict.fromkeys(known))))
            elif source is not None and not rows:
                for leaf in leaves(source):
                    targets = leaf.get("targetList", ())
                    term = term_of(targets[at]["ResTarget"]["val"]) if at < len(targets) else None
                    if term is not None:
                        ref.given.append(Workspaces((term,)))
        if not ref.sharded:
            return
        for link in ref.spec.links:
            if link.column not in columns:
                continue
            at = columns.index(link.column)
            cells = [row[at] if at < len(row) else {} for row in rows]
            type_ = self.tenants.looked_up(ref, link.column, folded=is_folded(cells))
            values = {term_of(cell) for cell in cells}
            if len(values) == 1 and type_ is not None:
                (value,) = values
                if value is not None and value != Constant(None):
                    ref.given.append(Id(link.table, link.ref_column, value, type_))

    def _conflict(self, clause: Node, ref: Ref, scope: Scope) -> None:
        target = scope.items[0]
        excluded = Item("excluded", target.columns, target.outputs, ref)
        infer = clause.get("infer", {})
        if "conname" in infer:
            name = infer["conname"]
            if not ref.sharded:
                pass
            elif name not in ref.spec.constraints:
                raise Refusal(
                    "PS628",
                    f'"{name}" is no unique constraint of "{ref.table}"',
                    "name the columns: ON CONFLICT (column, ...)",
                )
            else:
                self.constraints.append((ref, name, self._constraint_span(ref, name)))
        inner = Scope(None, scope.ctes, items=[scope.items[0]])
        self._expression(infer.get("indexElems"), inner)
        self._expression(infer.get("whereClause"), inner)
        for element in infer.get("indexElems", ()):
            if "opclass" in element.get("IndexElem", {}):
                raise Refusal("PS619", "an operator class in ON CONFLICT", _REWRITE)
        update = Scope(None, scope.ctes, items=[scope.items[0], excluded])
        self._assignments(clause.get("targetList", ()), ref, update)
        self._expression(clause.get("whereClause"), update)

    def _constraint_span(self, ref: Ref, name: str) -> tuple[int, int]:
        tokens = self.tokens
        first = tokens.at(ref.offset)
        for at in tokens.after(first, tokens.depth[first]):
            if (tokens.words[at], tokens.word(at - 1)) == ("CONSTRAINT", "ON"):
                token = tokens.tokens[at + 1]
                return token.start, token.end
        raise Refusal("PS619", f'ON CONSTRAINT "{name}"', _REWRITE)

    def _change(
        self, tag: str, node: Node, ctes: Mapping[str, Derived], outer: Scope | None
    ) -> Derived:
        ctes = self._with(node.get("withClause"), ctes, outer)
        role: Role = "update" if tag == "UpdateStmt" else "delete"
        ref = self._target(node["relation"], role)
        if ref.shared and node is not self.root:
            raise Refusal(
                "PS664",
                f'a change of "{ref.table}", which has rows of workspaces and shared rows, inside '
                "WITH: the client could not tell rows that it may not change from missing rows",
                "send it as a statement of its own",
            )
        scope = Scope(None, ctes)
        self.scopes.append(scope)
        scope.items.append(self._item(ref))
        for item in (*node.get("fromClause", ()), *node.get("usingClause", ())):
            scope.items += self._from(item, scope, nullable=False)
        self._assignments(node.get("targetList", ()), ref, scope)
        self._expression(node.get("whereClause"), scope)
        if "whereClause" in node:
            self._later.append((node["whereClause"], scope, self.tenants.gainers(scope.items)))
        self._returning(node, scope)
        return self._returned(node, scope)

    def _merge(self, node: Node, ctes: Mapping[str, Derived], outer: Scope | None) -> Derived:
        ctes = self._with(node.get("withClause"), ctes, outer)
        ref = self._target(node["relation"], "merge")
        scope = Scope(None, ctes)
        self.scopes.append(scope)
        target = self._item(ref)
        source = self._from(node["sourceRelation"], scope, nullable=False)
        scope.items += [*source, target]  # RETURNING * has the source's columns first
        self._expression(node["joinCondition"], scope)
        for entry in node["mergeWhenClauses"]:
            clause = entry["MergeWhenClause"]
            if clause.get("matchKind") == "MERGE_WHEN_NOT_MATCHED_BY_SOURCE":
                raise Refusal(
                    "PS619",
                    "MERGE with WHEN NOT MATCHED BY SOURCE also acts on rows that the source says "
                    "nothing of",
                    "write it as a DELETE or UPDATE of its own",
                )
            self._expression(clause.get("condition"), scope)
            if clause.get("commandType") == "CMD_INSERT":
                if ref.sharded:
                    raise Refusal(
                        "PS619",
                        "MERGE with an INSERT into a sharded table",
                        "use INSERT ... ON CONFLICT DO UPDATE",
                    )
                self._expression(clause.get("values"), Scope(None, ctes, items=source))
            else:
                self._assignments(clause.get("targetList", ()), ref, scope)
        if ref.shared:
            raise Refusal(
                "PS664",
                f'MERGE into "{ref.table}", which has rows of workspaces and shared rows',
                "use INSERT ... ON CONFLICT DO UPDATE, or an UPDATE",
            )
        if ref.sharded:
            self.joins.append((ref, node))
            self._later.append((node["joinCondition"], scope, frozenset([id(ref)])))
        self._returning(node, scope, target)
        return self._returned(node, scope)

    def _target(self, node: Node, role: Role) -> Ref:
        """The table that a statement changes: never a CTE, whatever the name."""
        ref = self._ref(node, role)
        self.relations.add(Relation(ref.offset, ref.table, target=True, cte=False))
        return ref

    def _assignments(self, targets: Iterable[Node], ref: Ref, scope: Scope) -> None:
        for entry in targets:
            target = entry["ResTarget"]
            if ref.guarded and target.get("name") == self.key:
                raise Refusal(
                    "PS613",
                    f'"{self.key}" of "{ref.table}" cannot be assigned: a row stays in its '
                    "workspace",
                    "leave it out; a workspace moves as a whole",
                )
            self._expression(target.get("indirection"), scope)
            self._expression(target.get("val"), scope)

    def _returning(self, node: Node, scope: Scope, target: Item | None = None) -> None:
        clause = node.get("returningClause")
        if clause is None:
            return
        if clause.get("options"):
            raise Refusal("PS619", "RETURNING WITH (OLD AS ..., NEW AS ...)", _REWRITE)
        target = target or scope.items[0]
        extra = [
            Item(name, target.columns, {}, target.ref)
            for name in ("old", "new")
            if all(i.name != name for i in scope.items)
        ]
        inner = Scope(None, scope.ctes, items=[*scope.items, *extra], merged=scope.merged)
        self._targets(clause["exprs"], inner)
        scope.stars += inner.stars

    def _returned(self, node: Node, scope: Scope) -> Derived:
        clause = node.get("returningClause")
        if clause is None:
            return Derived(())
        return self.columns.outputs({"targetList": clause["exprs"]}, scope, transparent=False)

    # --- FROM -------------------------------------------------------------------------------------

    def _from(self, node: Node, scope: Scope, *, nullable: bool) -> list[Item]:
        tag, body = next(iter(node.items()))
        match tag:
            case "RangeVar":
                return [self._range_var(body, scope, nullable=nullable)]
            case "RangeTableSample":
                return [self._sample(body, scope, nullable=nullable)]
            case "RangeSubselect":
                return [self._subselect(body, scope)]
            case "RangeFunction":
                return [self._range_function(body, scope)]
            case "RangeTableFunc" | "JsonTable":
                self._expression(body, scope)
                return [Item(alias_of(body) or "", None, {})]
            case "JoinExpr":
                return self._join(body, scope, nullable=nullable)
        raise Refusal("PS619", f"{tag} in FROM", _REWRITE)

    def _range_var(self, node: Node, scope: Scope, *, nullable: bool) -> Item:
        name = node["relname"]
        if "schemaname" not in node and "catalogname" not in node and name in scope.ctes:
            self.relations.add(Relation(node["location"], name, target=False, cte=True))
            derived = scope.ctes[name]
            return self._aliased(
                Item(alias_of(node) or name, derived.columns, derived.outputs), node
            )
        ref = self._ref(node, "from")
        ref.nullable = nullable
        self.relations.add(Relation(ref.offset, ref.table, target=False, cte=False))
        self.tenants.gain[id(ref)] = {id(ref)}
        return self._aliased(self._item(ref), node)

    def _sample(self, node: Node, scope: Scope, *, nullable: bool) -> Item:
        body = node["relation"].get("RangeVar")
        if body is None:
            raise Refusal("PS619", "TABLESAMPLE of something else than a table", _REWRITE)
        method = [text_of(n) for n in node["method"]]
        if method[-1].lower() not in {"system", "bernoulli"} or len(method) > 1:
            raise Refusal("PS619", f'the sampling method "{".".join(method)}"', _REWRITE)
        item = self._range_var(body, scope, nullable=nullable)
        self._expression(node.get("args"), scope)
        self._expression(node.get("repeatable"), scope)
        if item.ref is None:
            raise Refusal("PS619", "TABLESAMPLE of something else than a table", _REWRITE)
        tokens = self.tokens
        first = tokens.at(item.ref.offset)
        for at in tokens.after(first, tokens.depth[first]):
            if tokens.words[at] == "TABLESAMPLE":
                end = tokens.close(_next_open(tokens, at))
                if tokens.word(end + 1) == "REPEATABLE":
                    end = tokens.close(end + 2)
                item.ref.sample = (tokens.tokens[at].start, tokens.tokens[end].end)
                return item
        raise Refusal("PS619", "TABLESAMPLE", _REWRITE)

    def _subselect(self, node: Node, scope: Scope) -> Item:
        tag, body = next(iter(node["subquery"].items()))
        around = scope if node.get("lateral") else scope.outer
        derived = self._statement(tag, body, scope.ctes, around)
        item = Item(alias_of(node) or "", derived.columns, derived.outputs)
        return self._aliased(item, node)

    def _range_function(self, node: Node, scope: Scope) -> Item:
        for entry in node["functions"]:
            self._expression(entry["List"]["items"], scope)
        for column in node.get("coldeflist", ()):
            self._expression(column, scope)
        name = alias_of(node)
        if name is None:
            first = node["functions"][0]["List"]["items"][0]
            call = first.get("FuncCall")
            name = text_of(call["funcname"][-1]) if call else ""
        return Item(name, None, {})

    def _join(self, node: Node, scope: Scope, *, nullable: bool) -> list[Item]:
        kind = node.get("jointype", "JOIN_INNER")
        if kind not in {"JOIN_INNER", "JOIN_LEFT", "JOIN_RIGHT", "JOIN_FULL"}:
            raise Refusal("PS619", f"{kind} in FROM", _REWRITE)
        left = self._from(
            node["larg"], scope, nullable=nullable or kind in {"JOIN_RIGHT", "JOIN_FULL"}
        )
        # A LATERAL right side sees the left one.
        inner = Scope(scope.outer, scope.ctes, items=[*scope.items, *left])
        right = self._from(
            node["rarg"], inner, nullable=nullable or kind in {"JOIN_LEFT", "JOIN_FULL"}
        )
        items = [*left, *right]
        gain = {
            "JOIN_INNER": self.tenants.gainers(items),
            "JOIN_LEFT": self.tenants.gainers(right),
            "JOIN_RIGHT": self.tenants.gainers(left),
            "JOIN_FULL": frozenset[int](),
        }[kind]
        if "join_using_alias" in node:
            raise Refusal("PS619", "JOIN ... USING (...) AS alias", _REWRITE)
        shared = [text_of(n) for n in node.get("usingClause", ())]
        self.columns.names.update(shared)
        if node.get("isNatural"):
            shared = common(left, right)
            needs_all(items)
        if shared or node.get("isNatural"):
            scope.merged = True
            inner.merged = True
        for column in shared:
            a, b = find(left, column), find(right, column)
            if a is not None and b is not None:
                self.tenants.bond(a, b, gain)
        if "quals" in node:
            seen = Scope(scope.outer, scope.ctes, items=items)
            self._expression(node["quals"], seen)
            self._later.append((node["quals"], seen, gain))
        if "alias" in node:
            needs_all(items)
            columns: list[str] | None = []
            outputs: dict[str, tuple[Ref, str]] = {}
            for item in items:
                outputs |= item.outputs
                if columns is not None and item.columns is not None:
                    columns += item.columns
                else:
                    columns = None
            if shared:
                columns = None
            whole = Item(alias_of(node) or "", tuple(columns) if columns else None, outputs)
            return [self._aliased(whole, node)]
        return items

    def _ref(self, node: Node, role: Role) -> Ref:
        name = node["relname"]
        schema = node.get("schemaname")
        where = ".".join(x for x in (node.get("catalogname"), schema, name) if x)
        if schema in {"pg_catalog", "information_schema"} or (
            schema is None and (name.startswith("pg_") or name == "information_schema")
        ):
            raise Refusal(
                "PS604",
                f'"{where}" is a relation of the system, which shows all workspaces',
                "ask the server directly, with a role that may",
            )
        if "catalogname" in node or schema not in {None, self.map.namespace}:
            raise Refusal(
                "PS603",
                f'there is no table "{where}" in the shard map',
                self._elsewhere(node, schema),
            )
        spec = self.map.tables.get(name)
        if spec is None:
            raise Refusal(
                "PS603", f'there is no table "{name}" in the shard map', self._known(name)
            )
        first, last = self.tokens.name(node["location"])
        start, end = self.tokens.tokens[first].start, self.tokens.tokens[last].end
        if self.tokens.word(last + 1) == "*" and role != "insert":
            end = self.tokens.tokens[last + 1].end
        if not node.get("inh"):
            if self.tokens.word(first - 1) == "ONLY":
                start = self.tokens.tokens[first - 1].start
            elif self.tokens.word(first - 2) == "ONLY":
                start = self.tokens.tokens[first - 2].start
                end = self.tokens.tokens[last + 1].end
        ref = Ref(
            table=name,
            spec=spec,
            role=role,
            span=(start, end),
            offset=node["location"],
            alias=alias_of(node),
            qualified=schema is not None,
        )
        self.refs.append(ref)
        return ref

    def _elsewhere(self, node: Node, schema: str | None) -> str:
        """What to do about a table of another database or schema."""
        if "catalogname" in node:
            return "leave the name of the database out"
        if schema == "parlant_shard":
            return "the tool's own tables are not routed: ask the server directly"
        return (
            f'a router knows the tables of the schema "{self.map.namespace}" alone; ask for others '
            "directly, on a connection of your own"
        )

    def _known(self, name: str) -> str:
        for table, spec in self.map.tables.items():
            if spec.kind == "sharded" and any(
                self.map.physical(table, shard) == name for shard in self.map.shards
            ):
                return f'name the table as the application knows it: "{table}"'
        if name.endswith("_global") and name.removesuffix("_global") in self.map.tables:
            return (
                f'name the table itself, "{name.removesuffix("_global")}", and ask for all '
                "workspaces: router.all_workspaces(), or --all"
            )
        same = sorted(t for t in self.map.tables if t.lower() == name.lower())
        if same:
            return f'write it as it was created, in quotes if it has capitals: "{same[0]}"'
        return (
            "check the spelling; if the table is new, add it to the schema of the topology and "
            "run `parlant-shard apply`"
        )

    def _item(self, ref: Ref) -> Item:
        columns = tuple(c.name for c in ref.spec.columns)
        outputs = {c: (ref, c) for c in columns}
        if ref.spec.key_added:
            outputs[self.key] = (ref, self.key)
        self.tenants.gain.setdefault(id(ref), {id(ref)})
        return Item(ref.name, columns, outputs, ref)

    def _aliased(self, item: Item, node: Node) -> Item:
        names = [text_of(n) for n in node.get("alias", {}).get("colnames", ())]
        if not names:
            return item
        derived = renamed(Derived(item.columns, item.outputs), names)
        needs_all([item])
        return Item(item.name, derived.columns, derived.outputs, item.ref, renamed=True)

    # --- target lists -----------------------------------------------------------------------------

    def _targets(self, targets: Iterable[Node], scope: Scope) -> None:
        for entry in targets:
            target = entry["ResTarget"]
            value = target["val"]
            column = value.get("ColumnRef")
            if column is not None and "A_Star" in column["fields"][-1]:
                self.columns.star(column, scope)
                continue
            if column is not None and len(column["fields"]) == 1:
                self.columns.refuse_bare_row(text_of(column["fields"][0]), scope)
            self._expression(value, scope)

    # --- expressions ------------------------------------------------------------------------------

    def _subquery(self, node: Node, scope: Scope) -> None:
        self._select(node, scope.ctes, scope)

    def _expression(self, node: Any, scope: Scope) -> None:
        if isinstance(node, list):
            for entry in node:
                self._expression(entry, scope)
        elif isinstance(node, dict):
            for tag, body in node.items():
                handler = self._handlers.get(tag)
                if handler is not None:
                    handler(body, scope)
                elif isinstance(body, dict | list):
                    if tag in DML:
                        raise Refusal("PS602", "a change inside an expression", _ONLY)
                    self._expression(body, scope)

    def _stray(self, _node: Node, _scope: Scope) -> None:
        raise Refusal("PS619", "a table in a place where none is expected", _REWRITE)

    def _current_of(self, _node: Node, _scope: Scope) -> None:
        raise Refusal(
            "PS619", "WHERE CURRENT OF depends on a cursor", "select the row by its primary key"
        )

    def _multi_assign(self, node: Node, scope: Scope) -> None:
        if node.get("colno", 1) == 1:  # the tree repeats the source for every column
            self._expression(node["source"], scope)

    def _sublink(self, node: Node, scope: Scope) -> None:
        self._schema_of(node.get("operName", ()))
        self._expression(node.get("testexpr"), scope)
        tag, body = next(iter(node["subselect"].items()))
        self._statement(tag, body, scope.ctes, scope)

    def _sort(self, node: Node, scope: Scope) -> None:
        self._schema_of(node.get("useOp", ()))
        self._expression(node.get("node"), scope)

    def _collation(self, node: Node, scope: Scope) -> None:
        self._expression(node.get("arg"), scope)

    def _operator(self, node: Node, scope: Scope) -> None:
        self._schema_of(node.get("name", ()))
        self._expression(node.get("lexpr"), scope)
        self._expression(node.get("rexpr"), scope)

    @staticmethod
    def _schema_of(name: Iterable[Node]) -> None:
        parts = [text_of(n) for n in name]
        if len(parts) > 1 and parts[0] != "pg_catalog":
            raise Refusal(
                "PS607",
                f'the operator "{".".join(parts)}" is not one of pg_catalog',
                "write the operator without a schema",
            )

    def _function(self, node: Node, scope: Scope) -> None:
        parts = [text_of(n) for n in node["funcname"]]
        name = parts[-1]
        schema = parts[0] if len(parts) > 1 else None
        own = schema != "pg_catalog" and name in self.map.functions
        if len(parts) > 2 or own or not is_allowed_call(schema, name, self.map.namespace):
            raise Refusal(
                "PS605",
                f'the function "{".".join(parts)}" is not on the list of allowed functions',
                "functions that could read or change what belongs to other workspaces, to the "
                "session or to the server are not routed (docs/router.md)",
            )
        for part in ("args", "agg_order", "agg_filter", "over"):
            self._expression(node.get(part), scope)

    def _type(self, node: Node, scope: Scope) -> None:
        parts = [text_of(n) for n in node.get("names", ())]
        schema = parts[0] if len(parts) > 1 else None
        name = parts[-1] if parts else ""
        known = (schema in {None, "pg_catalog", self.map.namespace} and name in TYPES) or (
            schema in {None, self.map.namespace} and name in self.map.types
        )
        if not known or node.get("pct_type") or len(parts) > 2:
            raise Refusal(
                "PS606",
                f'the type "{".".join(parts)}" is not on the list of allowed types',
                "types that name tables, roles or functions are not routed (docs/router.md)",
            )
        self._expression(node.get("typmods"), scope)

    def _indirection(self, node: Node, scope: Scope) -> None:
        self._expression(node["arg"], scope)
        for entry in node["indirection"]:
            if "String" in entry:
                name = text_of(entry)
                if name in SYSTEM_COLUMNS:
                    refuse_system_column(name)
                self.columns.check_field(name)
            else:
                self._expression(entry, scope)


_ONLY = "one SELECT, INSERT, UPDATE, DELETE or MERGE per call is routed"
_REWRITE = "write the statement without it, or send it to the server directly"


def _next_open(tokens: Tokens, at: int) -> int:
    while tokens.word(at) != "(":
        at += 1
        if at > len(tokens.tokens):
            raise Refusal("PS619", "TABLESAMPLE", _REWRITE)
    return at
