"""An independent judge of routed statements, with PostgreSQL's parser through pglast.

It knows the invariant and nothing of how the router works: one statement; every relation is a
table of the target's shard under its tenant predicate, a reference table, a federated view, or a
CTE; a write reaches rows of its own workspace only. Of a reference table with the key a statement
sees rows of its workspaces and shared ones, or with no workspace the shared ones alone. pglast is
a test dependency (GPL).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from pglast import ast, parse_sql
from pglast.enums import (
    A_Expr_Kind,
    BoolExprType,
    CmdType,
    JoinType,
    MergeMatchKind,
    NullTestType,
    SetOperation,
)
from psycopg._queries import PostgresQuery
from psycopg.adapt import Transformer

from parlant_shard.names import suffixed
from parlant_shard.router.route import Kind, Params, Route, RouteTarget
from parlant_shard.shardmap import ShardMap

# Not a list of what is dangerous: what must certainly not get through, whatever a router allows.
FORBIDDEN = frozenset(
    [
        "query_to_xml",
        "table_to_xml",
        "schema_to_xml",
        "database_to_xml",
        "cursor_to_xml",
        "ts_stat",
        "ts_rewrite",
        "set_config",
        "pg_read_file",
        "pg_read_binary_file",
        "pg_ls_dir",
        "lo_import",
        "lo_export",
        "lo_get",
        "lo_put",
        "pg_terminate_backend",
        "pg_cancel_backend",
        "dblink",
        "dblink_exec",
        "nextval",
        "setval",
        "currval",
        "pg_advisory_lock",
        "pg_sleep",
        "pg_export_snapshot",
        "pg_notify",
        "query_to_xmlschema",
        "txid_current",
        "pg_get_viewdef",
        "has_table_privilege",
        "to_regclass",
        "pg_relation_size",
    ]
)
FORBIDDEN_TYPES = frozenset({"regclass", "regproc", "regprocedure", "regrole", "regnamespace"})
_KEYED = "mine and shared"  # marks the guard of a reference table with the key
STATEMENTS = (ast.SelectStmt, ast.InsertStmt, ast.UpdateStmt, ast.DeleteStmt, ast.MergeStmt)
Ctes = frozenset[str]


def sent(sql: str, params: Params, *, numbered: bool) -> tuple[str, dict[int, Any]]:
    """Return the text as psycopg sends it, and the value of each `$n`."""
    if numbered or params is None:
        return sql, dict(enumerate(params or (), 1))
    query = PostgresQuery(Transformer(None))
    query.convert(sql, params)
    if isinstance(params, Mapping):
        values = [params[name] for name in query._order or ()]
    else:
        values = list(params)
    return query.query.decode(), dict(enumerate(values, 1))


def complaints(route: Route, shard_map: ShardMap) -> list[str]:
    """Return what is wrong with an accepted route; nothing is the answer one hopes for."""
    found = []
    if route.kind in {Kind.REFUSED, Kind.LOOKUP}:
        return [] if not route.targets else ["a refused statement has targets"]
    if not route.targets:
        found.append("an accepted statement has no target")
    for target in route.targets:
        found += [f"{target.shard}: {c}" for c in _Judge(route, target, shard_map).complaints()]
    return found


class _Judge:
    def __init__(self, route: Route, target: RouteTarget, shard_map: ShardMap) -> None:
        self.route, self.target, self.map = route, target, shard_map
        self.text, self.values = sent(target.sql, target.params, numbered=route.numbered)
        self.physical: dict[str, str] = {}
        if target.shard is not None:
            self.physical = {
                shard_map.physical(name, target.shard): name
                for name, table in shard_map.tables.items()
                if table.kind == "sharded"
            }
        views = route.kind in {Kind.ALL, Kind.MULTI}
        self.views = {
            suffixed(name, "global"): name
            for name, table in shard_map.tables.items()
            if views and target.shard is None and table.kind == "sharded"
        }
        self.shared = {n for n, t in shard_map.tables.items() if t.kind == "reference"}
        if target.server == shard_map.coordinator and target.shard is None:
            self.shared |= {n for n, t in shard_map.tables.items() if t.kind == "host"}
        self.keyed: set[str] = set()
        if route.kind is not Kind.ALL:
            self.keyed = {n for n, t in shard_map.tables.items() if t.keyed is not None}
        self.shared -= self.keyed
        self.found: list[str] = []
        # Who changes a reference table with the key and no workspace: shared rows are what it has.
        self.nobody = target.shard is None and not route.workspaces and route.kind is Kind.DIRECT

    def complaints(self) -> list[str]:
        try:
            statements = parse_sql(self.text)
        except Exception as error:
            return [f"PostgreSQL does not parse it: {error}"]
        if len(statements) != 1:
            return [f"{len(statements)} statements"]
        root = statements[0].stmt
        if isinstance(root, ast.ExplainStmt):
            root = root.query
        if not isinstance(root, STATEMENTS):
            return [f"a {type(root).__name__}"]
        if self.views and not isinstance(root, ast.SelectStmt):
            self._complain("a write on federated views")
        self._visit(root, frozenset())
        return self.found

    def _complain(self, text: str) -> None:
        self.found.append(text)

    # --- walking ---------------------------------------------------------------------------------

    def _visit(self, node: Any, ctes: Ctes) -> None:
        """Check a node and what is below it. `ctes` are the names visible there."""
        match node:
            case None:
                return
            case list() | tuple():
                for item in node:
                    self._visit(item, ctes)
                return
            case ast.SelectStmt() | ast.InsertStmt() | ast.UpdateStmt() | ast.DeleteStmt():
                self._statement(node, ctes)
                return
            case ast.MergeStmt():
                self._statement(node, ctes)
                return
            case ast.LockingClause():
                return  # names aliases, not relations
            case ast.RangeVar():
                self._relation(node, ctes, guarded=False)
                return
            case ast.FuncCall():
                self._function([f.sval for f in node.funcname])
            case ast.TypeName():
                if {n.sval for n in node.names or ()} & (FORBIDDEN_TYPES | {*self.physical}):
                    self._complain(f"the type {[n.sval for n in node.names]}")
            case ast.A_Expr():
                if len(node.name) > 1 and node.name[0].sval != "pg_catalog":
                    self._complain(f"an operator of schema {node.name[0].sval}")
            case ast.IntoClause():
                self._complain("SELECT INTO")
        for child in _children(node):
            self._visit(child, ctes)

    def _function(self, name: list[str]) -> None:
        if name[-1] in FORBIDDEN or name[-1] in self.map.functions:
            self._complain(f"the function {name[-1]}")
        if len(name) > 1 and name[:-1] != ["pg_catalog"]:
            self._complain(f"a function of schema {name[0]}")

    def _statement(self, node: Any, ctes: Ctes) -> None:
        clause = node.withClause
        if clause is not None:
            names = [c.ctename for c in clause.ctes]
            seen = ctes | frozenset(names) if clause.recursive else ctes
            for cte in clause.ctes:
                self._visit(cte.ctequery, seen)
                seen |= {cte.ctename}
            ctes |= frozenset(names)
        if isinstance(node, ast.SelectStmt):
            self._select(node, ctes)
            return
        if node.relation.schemaname not in {None, self.map.namespace}:
            self._complain(f"a write to schema {node.relation.schemaname}")
        if node.relation.relname in self.physical or (
            node.relation.relname in self.keyed and self.target.shard is None
        ):
            self._write(node)
        elif node.relation.relname not in self.shared:
            self._complain(f"a write to {node.relation.relname}")
        if node.relation.relname in self.physical and node.relation.schemaname is None:
            self._complain(f"{node.relation.relname} without its schema")
        for child in _children(node, but=("withClause", "relation")):
            self._visit(child, ctes)

    def _select(self, node: ast.SelectStmt, ctes: Ctes) -> None:
        guarded = {column[:-1] for column in self._guards(node.whereClause)}
        items = node.fromClause or ()
        if len(items) != 1 or isinstance(items[0], ast.JoinExpr):
            guarded.discard(())  # whose key would that be?
        elif (mine := self._mine_and_shared(node.whereClause)) is not None:
            guarded.add((_KEYED, *mine))
        for item in items:
            self._from(item, ctes, guarded)
        for child in _children(node, but=("withClause", "fromClause", "larg", "rarg")):
            self._visit(child, ctes)
        if node.op != SetOperation.SETOP_NONE:
            self._visit(node.larg, ctes)
            self._visit(node.rarg, ctes)
        if len(node.fromClause or ()) == 1 and isinstance(node.fromClause[0], ast.RangeVar):
            self._columns(node, node.fromClause[0])

    def _columns(self, node: ast.SelectStmt, relation: ast.RangeVar) -> None:
        """A bare guard, `(SELECT … FROM shard WHERE key = $k)`, lists columns of the application.

        In its order; those that nobody asks for may be missing, and a key that we added may follow
        for who names it.
        """
        logical = self.physical.get(relation.relname)
        if logical is None or relation.schemaname is None or relation.alias is not None:
            return
        listed = [
            t.val.fields[-1].sval
            if isinstance(t.val, ast.ColumnRef) and isinstance(t.val.fields[-1], ast.String)
            else None
            for t in node.targetList or ()
        ]
        table = self.map.tables[logical]
        added = [self.map.key] if table.key_added else []
        columns = iter([*(c.name for c in table.columns), *added])
        if not all(name in columns for name in listed):
            self._complain(f"{relation.relname} is read with the columns {listed}")

    def _from(self, item: Any, ctes: Ctes, guarded: set[tuple[str, ...]]) -> None:
        match item:
            case ast.JoinExpr():
                self._from(item.larg, ctes, guarded)
                right = guarded
                if item.jointype == JoinType.JOIN_LEFT and isinstance(item.rarg, ast.RangeVar):
                    # ON decides which rows of the right side come in at all.
                    right = {column[:-1] for column in self._guards(item.quals)} - {()}
                self._from(item.rarg, ctes, right)
                self._visit(item.quals, ctes)
            case ast.RangeTableSample():
                self._from(item.relation, ctes, guarded)
                self._visit(item.args, ctes)
                self._visit(item.repeatable, ctes)
            case ast.RangeVar():
                name = item.alias.aliasname if item.alias else item.relname
                wanted = {(name,), ()}
                if item.relname in self.keyed:
                    wanted = {(_KEYED, name), (_KEYED,)}
                self._relation(item, ctes, guarded=not guarded.isdisjoint(wanted))
            case _:
                self._visit(item, ctes)

    def _relation(self, node: ast.RangeVar, ctes: Ctes, *, guarded: bool) -> None:
        name = node.relname
        if node.schemaname is None and name in ctes:
            return
        if node.catalogname or node.schemaname not in {None, self.map.namespace}:
            self._complain(f"a relation of schema {node.schemaname}: {name}")
        elif name in self.physical:
            if node.schemaname is None:
                self._complain(f"{name} without its schema")
            if not guarded:
                self._complain(f"{name} without the tenant predicate")
        elif name in self.keyed:
            if not guarded:
                self._complain(f"{name} without the condition that it is mine or shared")
        elif name not in self.shared and name not in self.views:
            self._complain(f"the relation {name}")

    # --- predicates ------------------------------------------------------------------------------

    def _guards(self, where: Any) -> Iterator[tuple[str, ...]]:
        """Yield the columns (`a.workspace_id`) that a condition surely equates with the tenant.

        Who has no workspace has the shared rows, which have none.
        """
        match where:
            case ast.NullTest() if self.nobody and (null := self._is_null(where)) is not None:
                yield null
            case ast.BoolExpr() if where.boolop == BoolExprType.AND_EXPR:
                for part in where.args:
                    yield from self._guards(part)
            case ast.A_Expr() if [n.sval for n in where.name] == ["pg_catalog", "="]:
                kind, column = where.kind, where.lexpr
                if kind == A_Expr_Kind.AEXPR_OP_ANY and not self.route.writes:
                    tenant = self._are_tenants(where.rexpr)
                else:
                    tenant = kind == A_Expr_Kind.AEXPR_OP and self._is_tenant(where.rexpr)
                if (
                    tenant
                    and isinstance(column, ast.ColumnRef)
                    and all(isinstance(f, ast.String) for f in column.fields)
                ):
                    path = tuple(f.sval for f in column.fields)
                    if path[-1] == self.map.key:
                        yield path

    def _mine_and_shared(self, where: Any) -> tuple[str, ...] | None:
        """The qualifier of `key = tenant OR key IS NULL`, or `key IS NULL` of who has no workspace.

        None for anything else, narrower or wider.
        """
        if not self.route.workspaces and (null := self._is_null(where)) is not None:
            return null[:-1]
        if not isinstance(where, ast.BoolExpr) or where.boolop != BoolExprType.OR_EXPR:
            return None
        if len(where.args) != 2:
            return None
        null, equal = self._is_null(where.args[1]), where.args[0]
        if null is None or not isinstance(equal, ast.A_Expr):
            return None
        if [n.sval for n in equal.name] != ["pg_catalog", "="]:
            return None
        value = equal.rexpr
        while isinstance(value, ast.TypeCast):
            value = value.arg
        found = self.values.get(value.number) if isinstance(value, ast.ParamRef) else None
        named = found if equal.kind == A_Expr_Kind.AEXPR_OP_ANY else [found]
        ours = {*self.route.workspaces} or {""}
        if not isinstance(named, list) or not ours.issuperset(named):
            return None
        path = self._path(equal.lexpr)
        return path[:-1] if path is not None and path == null else None

    def _is_null(self, node: Any) -> tuple[str, ...] | None:
        if not isinstance(node, ast.NullTest) or node.nulltesttype != NullTestType.IS_NULL:
            return None
        return self._path(node.arg)

    def _path(self, column: Any) -> tuple[str, ...] | None:
        if not isinstance(column, ast.ColumnRef):
            return None
        path = tuple(f.sval for f in column.fields if isinstance(f, ast.String))
        return path if path and path[-1] == self.map.key else None

    def _are_tenants(self, node: Any) -> bool:
        """Say whether an expression is a parameter that holds a list of such workspaces."""
        while isinstance(node, ast.TypeCast):
            node = node.arg
        values = self.values.get(node.number) if isinstance(node, ast.ParamRef) else None
        return isinstance(values, list) and all(map(self._is_ours, values))

    def _is_tenant(self, node: Any) -> bool:
        """Say whether an expression is a parameter that holds a workspace of this target."""
        while isinstance(node, ast.TypeCast):
            node = node.arg
        if not isinstance(node, ast.ParamRef) or node.number not in self.values:
            return False
        return self._is_ours(self.values[node.number])

    def _is_key(self, node: Any) -> bool:
        """Say whether an expression in the place of the key is the tenant, written out or not."""
        if self.nobody and isinstance(node, ast.A_Const):
            return bool(node.isnull)
        if self.nobody and isinstance(node, ast.ParamRef):
            return self.values.get(node.number) is None
        if isinstance(node, ast.A_Const) and isinstance(node.val, ast.String):
            return self._is_ours(node.val.sval)
        return self._is_tenant(node)

    def _is_ours(self, value: Any) -> bool:
        if value is None and not self.route.workspaces:
            return True  # nobody: no key equals NULL, so what is routed so finds no row
        if value not in self.route.workspaces:
            return False
        return self.target.shard is None or self.map.place(value) == self.target.shard

    def _write(self, node: Any) -> None:
        logical = self.physical.get(node.relation.relname, node.relation.relname)
        match node:
            case ast.InsertStmt():
                self._insert(node)
            case ast.MergeStmt():
                self._merge(node)
            case ast.UpdateStmt() | ast.DeleteStmt():
                alias = node.relation.alias
                name = alias.aliasname if alias else node.relation.relname
                if not {(name,), ()} & {g[:-1] for g in self._guards(node.whereClause)}:
                    self._complain(f"a write to {logical} without the tenant predicate")
                if isinstance(node, ast.UpdateStmt):
                    self._assignments(node.targetList)

    def _assignments(self, targets: Iterable[Any]) -> None:
        if any(t.name == self.map.key for t in targets or ()):
            self._complain("an assignment to the key")

    def _insert(self, node: ast.InsertStmt) -> None:
        columns = [c.name for c in node.cols or ()]
        if columns.count(self.map.key) != 1:
            self._complain(f"an INSERT with the columns {columns}")
            return
        self._keys(node.selectStmt, columns.index(self.map.key), len(columns))
        conflict = node.onConflictClause
        if conflict is not None and conflict.targetList:
            self._assignments(conflict.targetList)
            if not list(self._guards(conflict.whereClause)):
                self._complain("DO UPDATE without the tenant predicate")

    def _keys(self, source: Any, at: int, width: int) -> None:
        """Require the tenant's parameter in the key's place of every row that is inserted."""
        if source is None:
            self._complain("an INSERT of DEFAULT VALUES")
            return
        if source.op != SetOperation.SETOP_NONE:
            self._keys(source.larg, at, width)
            self._keys(source.rarg, at, width)
            return
        for row in source.valuesLists or ():
            if len(row) <= at or not self._is_key(row[at]):
                self._complain("a row whose key is not the tenant")
        if source.valuesLists:
            return
        targets = [t.val for t in source.targetList or ()]
        starred = any(
            isinstance(t, ast.ColumnRef) and isinstance(t.fields[-1], ast.A_Star)
            for t in targets[: at + 1]
        )
        # Behind a star only what is counted from the end is known.
        place = at - width if starred else at
        if not -len(targets) <= place < len(targets) or not self._is_key(targets[place]):
            self._complain("a selected row whose key is not the tenant")

    def _merge(self, node: ast.MergeStmt) -> None:
        alias = node.relation.alias
        name = alias.aliasname if alias else node.relation.relname
        if (name,) not in {g[:-1] for g in self._guards(node.joinCondition)}:
            self._complain("MERGE without the tenant predicate in ON")
        for clause in node.mergeWhenClauses:
            own = (name,) in {g[:-1] for g in self._guards(clause.condition)}
            by_source = clause.matchKind == MergeMatchKind.MERGE_WHEN_NOT_MATCHED_BY_SOURCE
            if by_source and not own and clause.commandType != CmdType.CMD_NOTHING:
                self._complain("NOT MATCHED BY SOURCE reaches other workspaces")
            if clause.commandType == CmdType.CMD_UPDATE:
                self._assignments(clause.targetList)
            if clause.commandType == CmdType.CMD_INSERT:
                columns = [c.name for c in clause.targetList or ()]
                if columns.count(self.map.key) != 1 or not self._is_key(
                    (clause.values or ())[columns.index(self.map.key)]
                ):
                    self._complain("MERGE inserts a row whose key is not the tenant")


def _children(node: Any, *, but: tuple[str, ...] = ()) -> Iterator[Any]:
    for name in node if isinstance(node, ast.Node) else ():
        value = getattr(node, name)
        if name not in but and isinstance(value, ast.Node | tuple | list):
            yield value
