"""Cut and insert: from an analysed statement to a template of the text that is sent."""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import Enum

from parlant_shard.canonical import quote
from parlant_shard.router.analysis import Analysis
from parlant_shard.router.model import (
    Dependent,
    Insertion,
    Item,
    Param,
    Ref,
    Refusal,
    Scope,
    Star,
    Term,
)
from parlant_shard.router.parsing import Node
from parlant_shard.router.placeholders import Text
from parlant_shard.router.search import Search
from parlant_shard.router.tree import cast_to, leaves, table_offsets, term_of


@dataclass(frozen=True, slots=True)
class Physical:
    """A slot for the physical name of a sharded table, with its schema."""

    table: str


@dataclass(frozen=True, slots=True)
class Tenant:
    """A slot for the workspace's value."""


@dataclass(frozen=True, slots=True)
class Predicate:
    """A slot for `before [q.]key = <workspace> after`; left out where every workspace is read.

    With `shared` it lets the shared rows through as well: `OR [q.]key IS NULL`. Where the statement
    has no workspace, it lets through them alone.
    """

    qualifier: str
    before: str = ""
    after: str = ""
    shared: bool = False


@dataclass(frozen=True, slots=True)
class Untouchable:
    """A slot for the condition of a question: the shared rows, or all if nobody is the caller."""


@dataclass(frozen=True, slots=True)
class Suffixed:
    """A slot for the physical name of a constraint or another object of one shard."""

    name: str


@dataclass(frozen=True, slots=True)
class Searched:
    """A slot for the function of one shard that searches with a full-text index."""

    index: str


class Turn(Enum):
    """What follows is for some places only: the original, what stands for it on a shard, both."""

    ORIGINAL = 1
    SHARD = 2
    BOTH = 3


@dataclass(frozen=True, slots=True)
class Hole:
    """A placeholder of the user's: where its value comes from, and its text."""

    source: int | str
    text: str


@dataclass(frozen=True, slots=True)
class Span:
    """A piece of the original text that moves to another place."""

    start: int
    end: int


Piece = str | Physical | Tenant | Predicate | Untouchable | Suffixed | Searched | Turn | Hole
Inserted = Piece | Span


@dataclass(frozen=True, slots=True)
class Edit:
    """Replace `[start, end)` of the server's text. Equal starts keep the order of their making."""

    start: int
    end: int
    pieces: tuple[Inserted, ...]


_BEHIND_GROUP_BY = frozenset(
    [
        *["HAVING", "WINDOW", "ORDER", "LIMIT", "OFFSET", "FETCH", "FOR"],
        *["UNION", "INTERSECT", "EXCEPT", "RETURNING", "ON"],
    ]
)


_SCHEMA_DOT = "."

# The names of key types in the parse tree.
KEY_CASTS = {
    "text": "text",
    "uuid": "uuid",
    "bigint": "int8",
    "integer": "int4",
    "smallint": "int2",
    "character varying": "varchar",
}


class Splicer:
    """Makes the edits of one statement."""

    def __init__(self, analysis: Analysis, *, numbered: bool) -> None:
        self.a = analysis
        self.numbered = numbered
        self.uses: Counter[str] = Counter(analysis.tokens.words if numbered else ())
        self.places: dict[int, int] = {}  # how often a parameter is the key of a new row
        self.counted: dict[int, int] = {}  # and how often it is used at all
        self.key = quote(analysis.key)
        self.edits: list[Edit] = []
        self.equal: list[Term] = []  # values that must be the workspace itself

    def make(self) -> list[Edit]:
        for search in self.a.searches:
            self.a.columns.names.add(search.by.column)
        for start, end in self.a.columns.schema_names:
            self._put(start, end)
        for ref in self.a.refs:
            self._reference(ref)
        for dependent in self.a.dependents:
            self._group_by(dependent)
        for insertion in self.a.insertions:
            self._insertion(insertion)
        for ref, node in self.a.joins:
            self._merge_condition(ref, node)
        for _, name, (start, end) in self.a.constraints:
            self._put(start, end, Suffixed(name))
        self._stars()
        for search in self.a.searches:
            self._search(search)
        self._check_uses()
        return sorted(self.edits, key=lambda e: e.start)

    def _put(self, start: int, end: int, *pieces: Inserted) -> None:
        self.edits.append(Edit(start, end, pieces))

    def _search(self, found: Search) -> None:
        """On a shard, let a full-text index answer a condition; nowhere if something else is there.

        What locks or changes rows checks the condition again, for rows that changed meanwhile.
        """
        start, end = found.span
        if any(e.start < end and start < e.end for e in self.edits):
            return
        by = f"{quote(found.ref.name)}.{quote(found.by.column)} OPERATOR(pg_catalog.=) "
        again: tuple[Inserted, ...] = ()
        if self.a.writes or self.a.locks:
            again = (" AND ", Span(start, end))
        self._put(
            start,
            end,
            Turn.ORIGINAL,
            Span(start, end),
            Turn.SHARD,
            f"{by}ANY (ARRAY(SELECT ",
            Searched(found.by.index),
            "(",
            Span(*found.query),
            ")))",
            *again,
            Turn.BOTH,
        )

    # --- references -------------------------------------------------------------------------------

    def _reference(self, ref: Ref) -> None:
        start, end = ref.span
        if not ref.guarded:
            if not ref.qualified:
                self._put(start, start, quote(self.a.map.namespace), _SCHEMA_DOT)
            return
        label = "" if ref.alias is not None else f" AS {quote(ref.table)}"
        name = self._name(ref)
        if ref.role != "from":
            self._put(start, end, name, label)
            if ref.role in {"update", "delete"}:
                self._condition_of_change(ref)
            return
        tokens = self.a.tokens
        before = tokens.at(start) - 1
        if tokens.word(before) == "TABLE":
            self._put(tokens.tokens[before].start, tokens.tokens[before].end, "SELECT * FROM")
        sample: tuple[Inserted, ...] = ()
        if ref.sample is not None:
            sample = (" ", Span(*ref.sample))
            self._put(*ref.sample)
        self._put(
            start,
            end,
            "(SELECT ",
            ", ".join(self._columns(ref)),
            " FROM ",
            name,
            *sample,
            Predicate("", before=" WHERE ", shared=ref.shared),
            f"){label}",
        )

    def _name(self, ref: Ref) -> str | Physical:
        if ref.sharded:
            return Physical(ref.table)
        return f"{quote(self.a.map.namespace)}.{quote(ref.table)}"

    def _columns(self, ref: Ref) -> list[str]:
        """The application's columns in its order; only those that are named, where that is all."""
        names = [c.name for c in ref.spec.columns]
        if not ref.whole:
            used = [n for n in names if n in self.a.columns.names]
            names = used or [*ref.spec.primary_key[:1], *names][:1]
        if ref.shows_key:
            names = [*names, self.a.key]
        return [quote(n) for n in names]

    def _condition_of_change(self, ref: Ref) -> None:
        """`WHERE tenant AND (old)`, or a WHERE of our own in front of RETURNING or the end."""
        tokens = self.a.tokens
        first = tokens.at(ref.offset)
        depth = tokens.depth[first]
        if tokens.word(first - 1) == "(":  # ONLY (t)
            depth -= 1
        where = None
        last = first
        for at in tokens.after(first, depth):
            word = tokens.words[at]
            if word == "WHERE" and where is None:
                where = at
            elif word == "RETURNING":
                break
            last = at
        predicate = quote(ref.name)
        if where is not None:
            begin = tokens.tokens[where].end
            finish = tokens.tokens[last].end
            self._put(begin, begin, Predicate(predicate, after=" AND "), "(")
            self._put(finish, finish, ")")
        else:
            place = max(tokens.tokens[last].end, ref.span[1])
            self._put(place, place, Predicate(predicate, before=" WHERE "))

    def _group_by(self, dependent: Dependent) -> None:
        """Add columns to the GROUP BY of the query that a table stands in."""
        tokens = self.a.tokens
        at = tokens.at(dependent.ref.offset)
        depth = tokens.depth[at]
        for before in range(at, -1, -1):
            depth = min(depth, tokens.depth[before])
            if tokens.words[before] == "SELECT" and tokens.depth[before] == depth:
                break
        group = None
        last = at
        for number in tokens.after(at, depth):
            word = tokens.words[number]
            if word == "GROUP":
                group = number
            elif group is not None and word in _BEHIND_GROUP_BY:
                break
            last = number
        if group is None:
            raise Refusal("PS619", "this GROUP BY", "group by every column that is selected")
        place = tokens.tokens[last].end
        name = quote(dependent.ref.name)
        listed = ", ".join(f"{name}.{quote(n)}" for n in dependent.names)
        self._put(place, place, f", {listed}")

    # --- INSERT -----------------------------------------------------------------------------------

    def _insertion(self, found: Insertion) -> None:
        tokens = self.a.tokens
        node = found.node
        start = tokens.at(found.ref.offset)
        depth = tokens.depth[start]
        source = node.get("selectStmt", {}).get("SelectStmt")
        listed = self.a.key in found.columns
        if source is None:  # DEFAULT VALUES
            at = next(i for i in tokens.after(start, depth) if tokens.words[i] == "DEFAULT")
            span = tokens.tokens[at].start, tokens.tokens[at + 1].end
            self._put(*span, f"({self.key}) VALUES (", Tenant(), ")")
        else:
            names = ", ".join(quote(c) for c in found.columns)
            if found.listed and not listed:
                place = node["cols"][0]["ResTarget"]["location"]
                self._put(place, place, f"{self.key}, ")
            elif not found.listed:
                place = self._behind_target(found.ref)
                keyed = "" if listed else f"{self.key}, "
                self._put(place, place, f" ({keyed}{names})")
            if "valuesLists" in source:
                self._values(found, source["valuesLists"], listed)
            else:
                self._selected(found, source, listed)
        if found.conflict is not None and found.conflict.get("action") == "ONCONFLICT_UPDATE":
            self._condition_of_conflict(found.ref, start, depth)

    def _behind_target(self, ref: Ref) -> int:
        """The end of the table's name and alias."""
        tokens = self.a.tokens
        _, last = tokens.name(ref.offset)
        if ref.alias is not None:
            last += 2 if tokens.word(last + 1) == "AS" else 1
        return tokens.tokens[last].end

    def _values(self, found: Insertion, rows: Sequence[Node], listed: bool) -> None:
        tokens = self.a.tokens
        start = tokens.at(found.ref.offset)
        depth = tokens.depth[start]
        opening: list[int] = []
        values = False
        for at in tokens.after(start, depth):
            if tokens.words[at] == "VALUES":
                values = True
            elif values and tokens.words[at] == "(" and len(opening) < len(rows):
                opening.append(at)
        if len(opening) != len(rows):
            raise Refusal("PS619", "VALUES in this form", "write INSERT ... VALUES (...), (...)")
        at_column = found.columns.index(self.a.key) if listed else 0
        for paren, row in zip(opening, rows, strict=True):
            items = row["List"]["items"]
            if not listed:
                place = tokens.tokens[paren].end
                self._put(place, place, Tenant(), ", ")
                continue
            value = items[at_column] if at_column < len(items) else {}
            if "SetToDefault" in value:
                token = tokens.tokens[tokens.at(value["SetToDefault"]["location"])]
                self._put(token.start, token.end, Tenant())
                continue
            self._must_be_tenant(found.ref, value)

    def _must_be_tenant(self, ref: Ref, value: Node) -> None:
        """Compare a value with the workspace at every call, and put the workspace in its place.

        A parameter that is sent under its number cannot be taken out; then it must stand here
        alone, because another use of it may decide its type and with that its value.
        """
        inner = cast_to(value, KEY_CASTS.get(self.a.map.key_type))
        term = term_of(inner) if "ParamRef" in inner or "A_Const" in inner else None
        tokens = self.a.tokens
        if isinstance(term, Param) and self.numbered:
            uses = self.uses[f"${term.number}"]
            self.places[term.number] = self.places.get(term.number, 0) + 1
            if inner is not value or uses < self.places[term.number]:
                term = None
            else:
                self.counted[term.number] = uses
        elif term is not None:
            location = next(iter(inner.values())).get("location", 0)
            token = tokens.tokens[tokens.at(location)]
            self._put(token.start, token.end, Tenant())
        if term is None:
            raise Refusal(
                "PS614",
                f'the value of "{self.a.key}" for "{ref.table}" is an expression, so the workspace '
                "of the row cannot be proved",
                "give it as a constant or a parameter, or leave the column out",
            )
        self.equal.append(term)

    def _check_uses(self) -> None:
        for number, uses in self.counted.items():
            if uses != self.places[number]:
                raise Refusal(
                    "PS614",
                    f'"${number}" is the workspace of a new row and is used for something else too',
                    f'give "{self.a.key}" a parameter of its own, or leave the column out',
                )

    def _selected(self, found: Insertion, source: Node, listed: bool) -> None:
        if not listed:
            if any(_counts_columns(s) for s in _all(source)):
                raise Refusal(
                    "PS619",
                    "INSERT ... SELECT that sorts or groups by a column's number",
                    "sort or group by the column's name",
                )
            for leaf in leaves(source):
                targets = leaf.get("targetList", ())
                if "valuesLists" in leaf or not targets:
                    raise Refusal("PS619", "INSERT ... SELECT in this form", "use VALUES")
                place = targets[0]["ResTarget"]["location"]
                if place < 0:  # TABLE t
                    raise Refusal("PS619", "INSERT ... TABLE", "write SELECT and list the columns")
                self._put(place, place, Tenant(), ", ")
            return
        at = found.columns.index(self.a.key)
        if "distinctClause" in source and "sortClause" in source:
            raise Refusal(
                "PS619",
                f'INSERT ... SELECT DISTINCT with ORDER BY that also selects "{self.a.key}"',
                f'leave "{self.a.key}" out: it is filled in',
            )
        for leaf in leaves(source):
            targets = leaf.get("targetList", ())
            if at >= len(targets) or any(_is_star(t) for t in targets[: at + 1]):
                raise Refusal(
                    "PS614",
                    f'the value of "{self.a.key}" for "{found.ref.table}" cannot be proved behind '
                    "a star",
                    "list the columns of the SELECT",
                )
            value = targets[at]["ResTarget"]["val"]
            if "ColumnRef" in value and self._is_key_of_a_ref(leaf, value["ColumnRef"]):
                first, last = self.a.tokens.name(value["ColumnRef"]["location"])
                tokens = self.a.tokens.tokens
                self._put(tokens[first].start, tokens[last].end, Tenant())
            else:
                self._must_be_tenant(found.ref, value)

    def _is_key_of_a_ref(self, leaf: Node, column: Node) -> bool:
        """Whether a selected column is the key of a table that the tenant's condition guards."""
        fields = [f["String"]["sval"] for f in column["fields"] if "String" in f]
        if not fields or fields[-1] != self.a.key:
            return False
        for scope in self.a.scopes:
            items = [i for i in scope.items if i.ref is not None and i.ref.sharded]
            here = {i.ref.offset for i in items if i.ref is not None}
            if here and here == table_offsets(leaf.get("fromClause", ())):
                owners = [i for i in items if self.a.key in i.outputs]
                if len(fields) > 1:
                    owners = [i for i in owners if i.name == fields[-2]]
                return len(owners) == 1 and owners[0].ref is not None and not owners[0].ref.nullable
        return False

    def _condition_of_conflict(self, ref: Ref, start: int, depth: int) -> None:
        """DO UPDATE may touch the existing row only where it is the tenant's own."""
        tokens = self.a.tokens
        update = where = None
        last = start
        for at in tokens.after(start, depth):
            word = tokens.words[at]
            if word == "UPDATE" and tokens.word(at - 1) == "DO":
                update = at
            elif word == "WHERE" and update is not None:
                where = at
            elif word == "RETURNING":
                break
            last = at
        finish = tokens.tokens[last].end
        if where is not None:
            begin = tokens.tokens[where].end
            self._put(begin, begin, Predicate(quote(ref.name), after=" AND "), "(")
            self._put(finish, finish, ")")
        else:
            self._put(finish, finish, Predicate(quote(ref.name), before=" WHERE "))

    def _merge_condition(self, ref: Ref, node: Node) -> None:
        tokens = self.a.tokens
        start = tokens.at(ref.offset)
        on = None
        last = start
        cases = 0
        for at in tokens.after(start, tokens.depth[start]):
            word = tokens.words[at]
            if word == "CASE":
                cases += 1
            elif word == "END":
                cases -= 1
            elif word == "ON":  # the last one before WHEN: a join of the source has its own
                on = at
            elif word == "WHEN" and cases == 0:
                break
            last = at
        if on is None:
            raise Refusal("PS619", "MERGE in this form", "use INSERT ... ON CONFLICT DO UPDATE")
        begin, finish = tokens.tokens[on].end, tokens.tokens[last].end
        self._put(begin, begin, Predicate(quote(ref.name), after=" AND "), "(")
        self._put(finish, finish, ")")

    # --- stars ------------------------------------------------------------------------------------

    def _stars(self) -> None:
        """Write out `*` where the shard's table has a column that the application does not know."""
        for scope in self.a.scopes:
            for star in scope.stars:
                covered = [i for i in scope.items if star.qualifier in {None, i.name}]
                if star.qualifier in {"old", "new"} and not covered:
                    covered = [Item(star.qualifier, scope.items[0].columns, {}, scope.items[0].ref)]
                if not any(_shows_more(i) for i in covered):
                    continue
                self._write_out(star, covered, scope)

    def _write_out(self, star: Star, items: Iterable[Item], scope: Scope) -> None:
        names: list[str] = []
        if star.span[0] < 0 or (scope.merged and star.qualifier is None):
            raise Refusal(
                "PS619",
                "a star over a NATURAL or USING join that also needs the key",
                "list the columns",
            )
        for item in items:
            if not item.name:
                raise Refusal(
                    "PS619", "a star over a sub-query without an alias", "give it an alias"
                )
            if _shows_more(item):
                names += [f"{quote(item.name)}.{quote(c)}" for c in item.columns or ()]
            else:
                names.append(f"{quote(item.name)}.*")
        self._put(*star.span, ", ".join(names))


def _shows_more(item: Item) -> bool:
    """Whether the table in the rewritten text has more columns than the application knows."""
    ref = item.ref
    if ref is None or not ref.sharded:
        return False
    if ref.role != "from":
        return True
    return ref.shows_key


def _is_star(target: Node) -> bool:
    value = target["ResTarget"]["val"].get("ColumnRef")
    return value is not None and "A_Star" in value["fields"][-1]


def _all(source: Node) -> list[Node]:
    found: list[Node] = list(source.get("sortClause", ()))
    for leaf in leaves(source):
        for part in ("sortClause", "groupClause", "distinctClause"):
            found += leaf.get(part, ())
    return found


def _counts_columns(entry: Node) -> bool:
    """Whether an entry of ORDER BY or GROUP BY is a target's number, in a grouping set too."""
    inner = _sorted(entry)
    if "GroupingSet" in inner:
        return any(_counts_columns(e) for e in inner["GroupingSet"].get("content", ()))
    return "ival" in inner.get("A_Const", {})


def _sorted(entry: Node) -> Node:
    node: Node = entry.get("SortBy", {}).get("node", entry)
    return node


def assemble(text: Text, edits: Sequence[Edit]) -> list[Piece]:
    """Cut the client's text along the edits: literal text, placeholders and slots, in order.

    Raises Refusal where an edit would cut through a placeholder or another edit.
    """
    pieces: list[Piece] = []
    holes = {h.server[0]: h for h in text.holes}
    starts = sorted(holes)

    def copy(start: int, end: int) -> None:
        at = start
        for index in range(max(0, bisect_right(starts, start) - 1), len(starts)):
            begin = starts[index]
            hole = holes[begin]
            if begin >= end:
                break
            if hole.server[1] <= start:
                continue
            if begin < start or hole.server[1] > end:
                raise Refusal("PS620", "a placeholder in the middle of a name", "move it")
            _literal(pieces, text, at, begin)
            shown = text.client[hole.client[0] : hole.client[1]].decode()
            pieces.append(Hole(hole.source, shown))
            at = hole.server[1]
        _literal(pieces, text, at, end)

    position = 0
    for edit in edits:
        if edit.start < position:
            raise Refusal("PS619", "this combination of clauses", "split the statement")
        copy(position, edit.start)
        if edit.pieces and not _is_mark(edit.pieces[0]) and _touches(text.server, edit.start - 1):
            pieces.append(" ")
        for piece in edit.pieces:
            if isinstance(piece, Span):
                copy(piece.start, piece.end)
            elif isinstance(piece, str) and text.escaped:
                pieces.append(piece.replace("%", "%%"))
            elif piece != "":
                pieces.append(piece)
        if edit.pieces and edit.pieces[-1] != _SCHEMA_DOT and _touches(text.server, edit.end):
            pieces.append(" ")
        position = edit.end
    copy(position, len(text.server))
    return pieces


def _is_mark(piece: Inserted) -> bool:
    return isinstance(piece, str) and piece[:1] in {")", ",", " "}


def _touches(text: bytes, at: int) -> bool:
    """Whether the character there would run into a name beside it: `FROM"t"WHERE`."""
    character = text[at : at + 1]
    return character.isalnum() or character in {b"_", b'"', b"$"} or character >= b"\x80"


def _literal(pieces: list[Piece], text: Text, start: int, end: int) -> None:
    if end > start:
        pieces.append(text.client[text.to_client(start) : text.to_client(end)].decode())
