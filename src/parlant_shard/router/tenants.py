"""What a statement says of its tenant: workspaces, ids, and columns that must be equal."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator

from parlant_shard.router.model import (
    Constant,
    Evidence,
    Id,
    Item,
    Param,
    Ref,
    Scope,
    Term,
    Workspaces,
)
from parlant_shard.router.parsing import Node
from parlant_shard.router.scopes import named
from parlant_shard.router.tree import conjuncts, is_folded, term_of, text_of, uncast
from parlant_shard.shardmap import id_type


class Tenants:
    """Collects evidence for the references of one statement.

    `gain` says, for each reference, whether a condition on what came of it is one on its rows;
    where something counts, cuts or groups in between, it is not.
    """

    def __init__(self, key: str, lookup_types: Collection[str]) -> None:
        self.key = key
        self.lookup_types = lookup_types
        self.folded = False  # of the condition that is being read
        self.gain: dict[int, set[int]] = {}

    def gainers(self, items: Iterable[Item]) -> frozenset[int]:
        """The references that a condition over these items restricts."""
        found: set[int] = set()
        for item in items:
            for ref, _ in item.outputs.values():
                found |= self.gain.get(id(ref), set())
        return frozenset(found)

    def opaque(self, outputs: Iterable[tuple[Ref, str]]) -> None:
        """From outside, nothing restricts the rows behind these columns any more."""
        for ref, _ in outputs:
            self.gain[id(ref)] = set()

    def base(self, column: Node, scope: Scope) -> tuple[Ref, str] | None:
        """The column of a table that a name stands for, through sub-queries and CTEs."""
        if "A_Star" in column["fields"][-1]:
            return None
        names = [text_of(f) for f in column["fields"]]
        if len(names) > 1:
            item = named(scope, names[-2])
            return item.outputs.get(names[-1]) if item is not None else None
        level: Scope | None = scope
        added: tuple[Ref, str] | None = None
        while level is not None:
            native = [i for i in level.items if i.columns and names[0] in i.columns]
            if native:
                # A column of the application's, in whatever level, comes before one of ours.
                return native[0].outputs.get(names[0])
            if any(i.columns is None for i in level.items):
                return None
            for item in level.items:
                if added is None and names[0] in item.outputs:
                    added = item.outputs[names[0]]
            level = level.outer
        return added

    def learn(self, node: Node, scope: Scope, gain: frozenset[int]) -> None:
        for condition in conjuncts(node):
            if condition.get("BoolExpr", {}).get("boolop") == "OR_EXPR":
                self._learn_either(condition["BoolExpr"]["args"], scope, gain)
            self._learn_one(condition, scope, gain)

    def _learn_one(self, condition: Node, scope: Scope, gain: frozenset[int]) -> None:
        body = condition.get("A_Expr")
        if body is None or [text_of(n) for n in body.get("name", ())][-1:] != ["="]:
            return
        left, right = uncast(body.get("lexpr")), uncast(body.get("rexpr"))
        self.folded = is_folded([body.get("lexpr"), body.get("rexpr")])
        match body["kind"]:
            case "AEXPR_OP":
                self._learn_equal(left, right, scope, gain)
            case "AEXPR_IN":
                terms = [term_of(n) for n in right.get("List", {}).get("items", ())]
                self._learn_list(left, terms, scope, gain)
            case "AEXPR_OP_ANY":
                if "ParamRef" in right:
                    evidence = Workspaces((Param(right["ParamRef"].get("number", 0)),), True)
                    self._give(left, evidence, scope, gain)
                elif "A_ArrayExpr" in right:
                    items = right["A_ArrayExpr"].get("elements", ())
                    self._learn_list(left, [term_of(n) for n in items], scope, gain)

    def _learn_either(self, parts: list[Node], scope: Scope, gain: frozenset[int]) -> None:
        """`key = a OR key = b` says what `key IN (a, b)` says.

        With `OR key IS NULL` it says the same of a table that has shared rows, which every
        workspace reads. Not on the nullable side of a join: there it also finds what is missing.
        """
        bases: list[tuple[Ref, str]] = []
        terms: list[Term | None] = []
        first: Node = {}
        tests = [p for p in parts if p.get("NullTest", {}).get("nulltesttype") == "IS_NULL"]
        for test in tests:
            base = self._key_of(test["NullTest"]["arg"], scope)
            if base is None or not base[0].shared or base[0].nullable:
                return
            bases.append(base)
        parts = [p for p in parts if p not in tests]
        if tests and len(parts) == 1:
            base = self._key_of(parts[0].get("A_Expr", {}).get("lexpr"), scope)
            if base is not None and all(b[0] is base[0] for b in bases):
                self._learn_one(parts[0], scope, gain)
            return
        for part in parts:
            body = part.get("A_Expr", {})
            if body.get("kind") != "AEXPR_OP" or [text_of(n) for n in body["name"]][-1:] != ["="]:
                return
            column, value = uncast(body.get("lexpr")), uncast(body.get("rexpr"))
            base = self._key_of(column, scope)
            if base is None:
                return
            first = first or column
            bases.append(base)
            terms.append(term_of(value))
        if all(b[0] is bases[0][0] for b in bases):
            self._learn_list(first, terms, scope, gain)

    def _key_of(self, node: object, scope: Scope) -> tuple[Ref, str] | None:
        """The reference whose key a name is; None for anything else."""
        column = uncast(node)
        base = self.base(column["ColumnRef"], scope) if "ColumnRef" in column else None
        return base if base is not None and base[1] == self.key else None

    def _learn_equal(self, left: Node, right: Node, scope: Scope, gain: frozenset[int]) -> None:
        if "ColumnRef" in left and "ColumnRef" in right:
            a = self.base(left["ColumnRef"], scope)
            b = self.base(right["ColumnRef"], scope)
            if a is not None and b is not None:
                self.bond(a, b, gain)
            return
        if "ColumnRef" not in left:
            left, right = right, left
        term = term_of(right)
        if "ColumnRef" in left and term is not None:
            self._give(left, Workspaces((term,)), scope, gain)

    def _learn_list(
        self, column: Node, terms: list[Term | None], scope: Scope, gain: frozenset[int]
    ) -> None:
        known = tuple(dict.fromkeys(t for t in terms if t is not None))
        if known and len([t for t in terms if t is None]) == 0:
            self._give(column, Workspaces(known), scope, gain)

    def _give(self, column: Node, evidence: Workspaces, scope: Scope, gain: frozenset[int]) -> None:
        base = self.base(column["ColumnRef"], scope) if "ColumnRef" in column else None
        if base is None or id(base[0]) not in gain or not base[0].guarded:
            return
        ref, name = base
        if name == self.key:
            ref.given.append(evidence)
            return
        if not ref.sharded:
            return  # the id of a row of a reference table is looked up nowhere
        if evidence.array or len(evidence.terms) != 1:
            return
        found = self._identity(ref, name, evidence.terms[0])
        if found is not None:
            ref.given.append(found)

    def _identity(self, ref: Ref, column: str, term: Term) -> Evidence | None:
        type_ = self.looked_up(ref, column, folded=self.folded)
        if type_ is None or term == Constant(None):
            return None
        for link in ref.spec.links:
            if link.column == column:
                return Id(link.table, link.ref_column, term, type_)
        if ref.spec.primary_key == (column,):
            return Id(ref.table, column, term, type_)
        return None

    def looked_up(self, ref: Ref, column: str, *, folded: bool) -> str | None:
        """The type of a column, if rows are looked up by values of it.

        Not by a text that was cast to a number or a uuid: '05' is 5 then, and another text.
        """
        type_ = id_type(ref.spec.type_of(column))
        if folded and type_ in {"text", "character varying", "character"}:
            return None
        return type_ if type_ in self.lookup_types else None

    def bond(self, a: tuple[Ref, str], b: tuple[Ref, str], gain: frozenset[int]) -> None:
        """Two columns are equal: where that means the same tenant, each follows the other."""
        if a[0] is b[0] or not (a[0].guarded and b[0].guarded):
            return
        if not self._same_tenant(a, b):
            return
        if id(a[0]) in gain:
            a[0].follows.append(b[0])
        if id(b[0]) in gain:
            b[0].follows.append(a[0])

    def _same_tenant(self, a: tuple[Ref, str], b: tuple[Ref, str]) -> bool:
        if a[1] == self.key and b[1] == self.key:
            return True
        if a[0].shared or b[0].shared:
            return False

        def rows(column: tuple[Ref, str]) -> set[tuple[str, str]]:
            ref, name = column
            found = {(x.table, x.ref_column) for x in ref.spec.links if x.column == name}
            if ref.spec.primary_key == (name,):
                found.add((ref.table, name))
            return found

        return bool(rows(a) & rows(b))

    def evidence(self, ref: Ref) -> Iterator[Evidence]:
        """What the statement says of a ref's tenant, nearest first."""
        seen = {id(ref)}
        waiting = [ref]
        while waiting:
            following: list[Ref] = []
            for one in waiting:
                yield from one.given
                for other in one.follows:
                    if id(other) not in seen:
                        seen.add(id(other))
                        following.append(other)
            waiting = following
