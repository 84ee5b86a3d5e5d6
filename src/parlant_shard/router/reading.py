"""The first reading: sqlglot's view of a statement's relations.

It resolves names by PostgreSQL's rules on sqlglot's own tree. The analysis does the same on the
tree of PostgreSQL's parser; a statement is routed only where both see the same relations, in the
same places, as the same thing. A text that two parsers read differently is refused.
"""

from __future__ import annotations

from typing import Any

from sqlglot import ErrorLevel, exp
from sqlglot.dialects.postgres import Postgres

from parlant_shard.router.model import Refusal, Relation
from parlant_shard.router.tokens import Tokens

_DIALECT = Postgres()
_CHANGES = (exp.Insert, exp.Update, exp.Delete, exp.Merge)
_ROOTS = (exp.Select, exp.SetOperation, exp.Values, *_CHANGES)


def text_for_sqlglot(tokens: Tokens, begin: int) -> str:
    """The statement with comments blanked and parameters as names, every byte in its place.

    sqlglot takes `$1,$` for the tag of a dollar-quoted string, and comments can switch how it
    reads a function.
    """
    text = bytearray(tokens.text)
    text[:begin] = b" " * begin
    for comment in tokens.comments:
        text[comment.start : comment.end] = b" " * (comment.end - comment.start)
    for param in tokens.params():
        text[param.start] = ord("_")
    return text.decode()


def relations(tokens: Tokens, begin: int) -> set[Relation]:
    """Parse with sqlglot and resolve every relation. Raises Refusal (PS617) where it cannot."""
    text = text_for_sqlglot(tokens, begin)
    try:
        trees = _DIALECT.parse(text, error_level=ErrorLevel.IMMEDIATE)
    except Exception as error:  # its own errors, and whatever a defect of it raises
        raise Refusal(
            "PS617",
            "the statement uses syntax that only one of the two parsers understands",
            "write it in a plainer form; PostgreSQL accepts it, the router cannot prove it",
        ) from error
    found = [tree for tree in trees if tree is not None]
    if len(found) != 1 or not isinstance(_unwrapped(found[0]), _ROOTS):
        raise Refusal(
            "PS617",
            "the two parsers take the statement for different kinds",
            "write it in a plainer form",
        )
    reader = _Reader()
    if "WITH" in tokens.words:
        reader.node(found[0], frozenset())
    else:
        reader.flat(found[0])
    if text.isascii():
        return reader.found
    return {Relation(len(text[: r.offset].encode()), r.name, r.target, r.cte) for r in reader.found}


def _unwrapped(tree: Any) -> Any:
    while isinstance(tree, exp.Subquery | exp.Paren):
        tree = tree.this
    return tree


def _fold(identifier: Any) -> str:
    """PostgreSQL folds ASCII letters of unquoted names only."""
    name: str = identifier.name
    if identifier.args.get("quoted"):
        return name
    return "".join(chr(ord(c) + 32) if "A" <= c <= "Z" else c for c in name)


class _Reader:
    def __init__(self) -> None:
        self.found: set[Relation] = set()

    def flat(self, tree: Any) -> None:
        """The same for a statement without WITH, where every name is a relation: much faster."""
        for table in tree.find_all(exp.Table):
            node, parent = table, table.parent
            if isinstance(parent, exp.Lock):
                continue  # names behind FOR UPDATE OF are aliases
            if isinstance(parent, exp.Schema):  # INSERT INTO t (column, ...)
                node, parent = parent, parent.parent
            target = isinstance(parent, _CHANGES) and parent.this is node
            if isinstance(table.this, exp.Identifier):
                self._identifier(table, frozenset(), target=target)

    def node(self, tree: Any, ctes: frozenset[str]) -> None:
        ctes = self._with(tree, ctes)
        for name, value in tree.args.items():
            if name in {"with_", "with"} or value is None:
                continue
            if name == "this" and isinstance(tree, _CHANGES):
                self._target(value, ctes)
            elif name == "locks":
                continue  # names behind FOR UPDATE OF are aliases
            else:
                self._any(value, ctes)

    def _any(self, value: Any, ctes: frozenset[str]) -> None:
        if isinstance(value, exp.Table):
            self._table(value, ctes, target=False)
        elif isinstance(value, exp.Expression):
            self.node(value, ctes)
        elif isinstance(value, list):
            for entry in value:
                self._any(entry, ctes)

    def _with(self, tree: Any, ctes: frozenset[str]) -> frozenset[str]:
        clause = tree.args.get("with_") or tree.args.get("with")
        if clause is None:
            return ctes
        entries = clause.expressions
        if clause.args.get("recursive"):
            ctes = ctes | {_fold(e.args["alias"].this) for e in entries}
        for entry in entries:
            self._any(entry.this, ctes)
            ctes = ctes | {_fold(entry.args["alias"].this)}
        return ctes

    def _target(self, value: Any, ctes: frozenset[str]) -> None:
        if isinstance(value, exp.Schema):
            value = value.this
        if isinstance(value, exp.Table):
            self._table(value, ctes, target=True)
        else:
            self._any(value, ctes)

    def _table(self, table: Any, ctes: frozenset[str], *, target: bool) -> None:
        identifier = table.this
        if isinstance(identifier, exp.Identifier):
            self._identifier(table, ctes, target=target)
        else:
            self._any(identifier, ctes)
        rest = [v for k, v in table.args.items() if k not in {"this", "db", "catalog", "alias"}]
        self._any(rest, ctes)

    def _identifier(self, table: Any, ctes: frozenset[str], *, target: bool) -> None:
        name = _fold(table.this)
        first = table.args.get("catalog") or table.args.get("db") or table.this
        plain = first is table.this
        offset = first.meta.get("start", -1)
        self.found.add(Relation(offset, name, target, cte=plain and not target and name in ctes))
