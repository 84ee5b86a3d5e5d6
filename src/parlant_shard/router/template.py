"""From a statement's text to a template: everything that needs no value and no placement.

This is the expensive part, 0.2 to 0.8 ms, and is cached by the text.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import Enum
from functools import lru_cache

from parlant_shard.router import placeholders
from parlant_shard.router.analysis import KINDS, Analysis
from parlant_shard.router.model import Evidence, Ref, Refusal, Term, Workspaces
from parlant_shard.router.parsing import IDENT, PARAM, Node, SyntaxFault, parse_tree, scan
from parlant_shard.router.placeholders import PlaceholderFault, Style, Text
from parlant_shard.router.question import Question
from parlant_shard.router.reading import relations
from parlant_shard.router.splice import Piece, Splicer, assemble
from parlant_shard.router.tokens import Tokens, check_size
from parlant_shard.router.tree import calls_aggregate
from parlant_shard.shardmap import ShardMap

CACHED_STATEMENTS = 4096


class Given(Enum):
    """What kind of parameters came with a statement."""

    NOTHING = 0
    SEQUENCE = 1
    MAPPING = 2


class Catalogue:
    """A shard map as the cache sees it: equal where the tables are, whatever the placement."""

    __slots__ = ("_hash", "digest", "map")

    def __init__(self, shard_map: ShardMap) -> None:
        self.map = shard_map
        self.digest = shard_map.catalogue
        self._hash = hash(self.digest)

    def __hash__(self) -> int:
        return self._hash

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Catalogue) and self.digest == other.digest


@dataclass(frozen=True, slots=True, kw_only=True)
class Refused:
    """A text that is never routed."""

    statement: str
    code: str
    reason: str
    hint: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Guarded:
    """What the statement says of the tenant of one reference.

    `direct` holds for the reference itself, `inferred` through equal columns as well. `new` says
    that it is of new rows of a table with shared ones: NULL is a value there.
    """

    table: str
    direct: tuple[Workspaces, ...]
    inferred: tuple[Evidence, ...]
    new: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Template:
    """An analysed statement. `equal` are values that must be the workspace itself.

    `guarded` are its sharded tables, `shared` its reference tables with the key. `held` is one of
    these that it changes, `nobodys` another reference or host table that it changes. `question` is
    what is asked after an UPDATE or DELETE of `held` that met no row; `certain` is an INSERT into
    it that writes a row unless another's is in its way.
    """

    statement: str
    writes: bool
    locks: bool
    style: Style
    escaped: bool
    numbers: int
    sources: Mapping[int, int | str]
    pieces: tuple[Piece, ...]
    guarded: tuple[Guarded, ...]
    shared: tuple[Guarded, ...]
    held: str | None
    nobodys: str | None
    question: tuple[Piece, ...]
    certain: bool
    references: tuple[str, ...]
    hosts: tuple[str, ...]
    target: Ref | None
    equal: tuple[Term, ...]
    flat: bool
    inserts: bool
    locked: str | None
    analyze: bool
    shows_row: bool


@lru_cache(maxsize=CACHED_STATEMENTS)
def template(catalogue: Catalogue, sql: str, given: Given) -> Template | Refused:
    """Analyse a statement once. Pure: the same text gives the same answer.

    Raises RecursionError, which is not remembered: how deep the caller's stack is says nothing
    about the statement.
    """
    statement = ""
    try:
        text, tokens, tree, begin = _read(sql, given)
        root = tree["ExplainStmt"]["query"] if "ExplainStmt" in tree else tree
        statement = KINDS.get(next(iter(root)), "")
        if not statement:
            raise _not_routed(next(iter(root)))
        return _analysed(catalogue.map, text, tokens, root, begin, "ExplainStmt" in tree)
    except Refusal as refusal:
        return Refused(
            statement=statement, code=refusal.code, reason=refusal.reason, hint=refusal.hint
        )


def _read(sql: str, given: Given) -> tuple[Text, Tokens, Node, int]:
    """Text, tokens, tree, and where the statement proper begins (behind EXPLAIN)."""
    try:
        text = placeholders.read(sql, percent=_percent(sql, given))
    except PlaceholderFault as fault:
        raise Refusal("PS620", str(fault), _PLACEHOLDERS) from None
    except UnicodeEncodeError:
        raise Refusal("PS621", "the text is not valid Unicode", "send valid UTF-8") from None
    try:
        tokens = Tokens(text.server, scan(text.server))
        check_size(tokens)
        statements = parse_tree(text.server)
    except SyntaxFault as fault:
        raise _syntax(fault) from None
    if len(statements) != 1:
        raise Refusal(
            "PS601",
            "the text holds no statement"
            if not statements
            else f"the text holds {len(statements)} statements",
            "send one statement a call",
        )
    _check_characters(text, tokens)
    text = _check_placeholders(text, tokens, given)
    if text.style is Style.NONE and given is Given.MAPPING:
        text = replace(text, style=Style.NAMED)  # psycopg takes no sequence beside a mapping
    tree: Node = statements[0]["stmt"]
    begin = 0
    if "ExplainStmt" in tree:
        begin = _behind_explain(tokens)
    return text, tokens, tree, begin


def _percent(sql: str, given: Given) -> bool:
    if given is Given.MAPPING:
        return True
    if given is Given.NOTHING:
        # No parameters means that % is literal; but whoever asks where a statement would go may
        # leave the values out. Only what stands outside literals and comments counts.
        return placeholders.has_percent_placeholders(sql) and _stands_free(sql)
    if _NUMBERED.search(sql) is None:
        return True
    return placeholders.has_percent_placeholders(sql) and _stands_free(sql)


def _stands_free(sql: str) -> bool:
    """Whether a `%s` or `%(name)s` stands where PostgreSQL's scanner sees an operator."""
    try:
        tokens = scan(sql.encode())
    except (SyntaxFault, UnicodeEncodeError):
        return False
    text = sql.encode()
    for number, token in enumerate(tokens[:-1]):
        following = tokens[number + 1]
        if text[token.end - 1 : token.end] != b"%" or following.start != token.end:
            continue
        if token.end - token.start <= 8 and text[following.start : following.end] in {
            b"s",
            b"b",
            b"t",
            b"(",
        }:
            return True
    return False


_NUMBERED = re.compile(r"\$[0-9]")
_PLACEHOLDERS = 'write every value as "%s", every value as "%(name)s", or every value as "$1"'


def _syntax(fault: SyntaxFault) -> Refusal:
    hint = "correct the statement; nothing was sent"
    near = re.search(r'at or near "([^"]*)"', str(fault))
    if near is not None and near[1].lower() in {"offset", "user", "order", "end", "limit"}:
        hint = f'"{near[1]}" is a reserved word: as a name it is written in double quotes'
    return Refusal("PS600", f"PostgreSQL would not parse the statement: {fault}", hint)


def _check_characters(text: Text, tokens: Tokens) -> None:
    if text.server.isascii():
        return
    for token in tokens.tokens:
        word = text.server[token.start : token.end]
        if token.kind == IDENT and not word.isascii() and not word.startswith(b'"'):
            raise Refusal(
                "PS621",
                f'the name "{word.decode()}" has characters outside ASCII',
                "put it in double quotes (a no-break space is part of a name for PostgreSQL)",
            )


def _check_placeholders(text: Text, tokens: Tokens, given: Given) -> Text:
    """Every placeholder must be a parameter for PostgreSQL, and of the style of the values."""
    found = {(t.start, t.end) for t in tokens.tokens if t.kind == PARAM}
    for hole in text.holes:
        if hole.server not in found:
            raise Refusal(
                "PS620",
                "a placeholder stands inside a literal, a comment or a name",
                'a percent sign that is none is written "%%"',
            )
    positional = text.style is Style.POSITIONAL or (text.style is Style.NONE and found)
    if positional and given is Given.MAPPING:
        raise Refusal(
            "PS620",
            "the statement has positional placeholders, and the parameters are an object of names",
            'give a list of values, in their order, or write every value as "%(name)s"',
        )
    if text.style is Style.NAMED and given is Given.SEQUENCE:
        raise Refusal(
            "PS620",
            "the statement has named placeholders, and the parameters are no object of names",
            'give every value under its name, or write every value as "%s"',
        )
    if text.style is Style.NONE and found:
        highest = max(int(text.server[start + 1 : end]) for start, end in found)
        if not 0 < highest <= 65535 or text.escaped:
            raise Refusal("PS620", f'"${highest}" cannot be bound', _PLACEHOLDERS)
        return Text(text.client, text.server, Style.NUMBERED, (), highest, escaped=False)
    if len(found) != len(text.holes):
        raise Refusal("PS620", '"%s" and "$1" cannot be mixed', _PLACEHOLDERS)
    return text


def _runs(tokens: Tokens) -> bool:
    """Whether an EXPLAIN also runs the statement: ANALYZE, in whatever spelling."""
    if tokens.word(1) != "(":
        return tokens.word(1) in {"ANALYZE", "ANALYSE"} or tokens.word(2) in {"ANALYZE", "ANALYSE"}
    return any(w.upper() in {"ANALYZE", "ANALYSE"} for w in tokens.words[2 : tokens.close(1)])


def _behind_explain(tokens: Tokens) -> int:
    at = 1
    if tokens.word(1) == "(" and tokens.tokens:
        at = tokens.close(1) + 1
    else:
        while tokens.word(at) in {"ANALYZE", "ANALYSE", "VERBOSE"}:
            at += 1
    return tokens.start(at)


_KINDS_NOT_ROUTED = {
    "TransactionStmt": (
        "transaction commands are not routed",
        "open a transaction with the client: `with router.transaction(workspace=...)`",
    ),
    "VariableSetStmt": ("session settings are not routed", "set it for the role or the server"),
    "VariableShowStmt": ("SHOW", "ask the server directly"),
    "DiscardStmt": ("DISCARD", "connections belong to the pool"),
    "CopyStmt": ("COPY", "use the client's `copy()`"),
    "LockStmt": ("LOCK TABLE locks every workspace of a shard", "use SELECT ... FOR UPDATE"),
    "CallStmt": ("CALL runs a procedure", "send what it does as statements"),
    "DoStmt": ("DO runs code of its own", "send what it does as statements"),
    "ExecuteStmt": ("EXECUTE", "send the statement itself; the client prepares it"),
    "PrepareStmt": ("PREPARE", "send the statement itself; the client prepares it"),
    "DeallocateStmt": ("DEALLOCATE", "the client looks after prepared statements"),
    "DeclareCursorStmt": ("DECLARE CURSOR", "use a server-side cursor of the client"),
    "FetchStmt": ("FETCH", "use a server-side cursor of the client"),
    "ClosePortalStmt": ("CLOSE", "use a server-side cursor of the client"),
    "NotifyStmt": ("NOTIFY reaches every workspace", "send it to the server directly"),
    "ListenStmt": ("LISTEN belongs to one connection", "listen on a connection of your own"),
    "UnlistenStmt": ("UNLISTEN belongs to one connection", "listen on a connection of your own"),
    "TruncateStmt": ("TRUNCATE empties every workspace of a shard", "use DELETE"),
    "VacuumStmt": ("VACUUM and ANALYZE work on whole shards", "leave it to autovacuum"),
    "ClusterStmt": ("CLUSTER locks every workspace of a shard", "leave it to the administrator"),
    "ReindexStmt": ("REINDEX locks every workspace of a shard", "leave it to the administrator"),
    "RefreshMatViewStmt": ("REFRESH MATERIALIZED VIEW", "send it to the server directly"),
    "CheckPointStmt": ("CHECKPOINT", "leave it to the administrator"),
    "LoadStmt": ("LOAD", "leave it to the administrator"),
    "ConstraintsSetStmt": ("SET CONSTRAINTS", "declare the constraint as you need it"),
    "CreateTableAsStmt": ("CREATE TABLE AS makes a copy outside of the shards", "use SELECT"),
}


_SCHEMA_CHANGES = (
    *("Create", "Alter", "Drop", "Define", "Rename", "Grant", "Comment", "Rule", "View"),
    *("Index", "Import", "SecLabel", "Reassign"),
)


def _not_routed(tag: str) -> Refusal:
    if tag in _KINDS_NOT_ROUTED:
        what, hint = _KINDS_NOT_ROUTED[tag]
        return Refusal(
            "PS602", what if " " in what and not what.isupper() else f"{what} is not routed", hint
        )
    if tag.startswith(_SCHEMA_CHANGES):
        return Refusal(
            "PS602",
            "a change of the schema is not routed",
            "change the topology or the schema's files, then `parlant-shard plan` and `apply`",
        )
    return Refusal(
        "PS602",
        f"{tag.removesuffix('Stmt')} is not routed",
        "one SELECT, INSERT, UPDATE, DELETE or MERGE per call is routed",
    )


def _analysed(
    shard_map: ShardMap, text: Text, tokens: Tokens, root: Node, begin: int, explain: bool
) -> Template:
    try:
        analysis = Analysis(root, tokens, shard_map)
    except KeyError as error:
        # A field or a token that this release does not know where to find.
        raise Refusal(
            "PS619", f"the statement has a form that is not understood ({error})", "rewrite it"
        ) from error
    seen = relations(tokens, begin)
    if seen != analysis.relations:
        hint = "write it in a plainer form; what is read in two ways is not sent"
        for relation in seen - analysis.relations:
            if relation.name in shard_map.tables:
                hint = f'write "{relation.name}" in double quotes: it is a reserved word'
        raise Refusal("PS617", "the two parsers see different tables in the statement", hint)
    target = next((r for r in analysis.refs if r.role != "from"), None)
    _check_mixture(analysis, target)
    splicer = Splicer(analysis, numbered=text.style is Style.NUMBERED)
    try:
        edits = splicer.make()
        question = [] if explain else Question(analysis, numbered=splicer.numbered).make()
    except (KeyError, StopIteration) as error:
        raise Refusal(
            "PS619", "the statement has a form that cannot be rewritten", "rewrite it"
        ) from error
    sources: Mapping[int, int | str] = {h.number: h.source for h in text.holes}
    if text.style is Style.NUMBERED:
        sources = {n: n - 1 for n in range(1, text.numbers + 1)}
    return Template(
        statement=analysis.statement,
        writes=analysis.writes,
        locks=analysis.locks,
        style=text.style,
        escaped=text.escaped,
        numbers=text.numbers,
        sources=sources,
        pieces=tuple(assemble(text, edits)),
        guarded=tuple(_guarded(analysis, r) for r in analysis.refs if r.sharded),
        shared=tuple(_guarded(analysis, r) for r in analysis.refs if r.shared),
        held=next((r.table for r in analysis.refs if r.shared and r.role != "from"), None),
        nobodys=next((r.table for r in analysis.refs if not r.guarded and r.role != "from"), None),
        question=tuple(assemble(text, question)) if question else (),
        certain=not explain and _writes_for_certain(analysis),
        references=_names(analysis, "reference"),
        hosts=_names(analysis, "host"),
        target=target,
        equal=tuple(splicer.equal),
        flat=not explain and _is_flat(analysis),
        inserts=bool(analysis.insertions),
        locked=analysis.locked,
        analyze=explain and _runs(tokens),
        shows_row=not explain and _shows_row(analysis),
    )


def _names(analysis: Analysis, kind: str) -> tuple[str, ...]:
    return tuple(sorted({r.table for r in analysis.refs if r.spec.kind == kind}))


def _guarded(analysis: Analysis, ref: Ref) -> Guarded:
    return Guarded(
        table=ref.table,
        direct=tuple(e for e in ref.given if isinstance(e, Workspaces)),
        inferred=tuple(analysis.tenants.evidence(ref)),
        new=ref.shared and ref.role == "insert",
    )


def _check_mixture(analysis: Analysis, target: Ref | None) -> None:
    kinds = {r.spec.kind: r.table for r in analysis.refs}
    if "host" in kinds and "sharded" in kinds:
        raise Refusal(
            "PS615",
            f'"{kinds["host"]}" is on the coordinator only and cannot be joined with '
            f'"{kinds["sharded"]}"',
            f'use the two in two statements; or declare "{kinds["host"]}" as `kind: reference` in '
            "the topology and apply it, if every workspace may read all of its rows",
        )
    held = next((r for r in analysis.refs if r.shared and r.role in {"update", "delete"}), None)
    if held is not None and any(r is not held and r.role != "from" for r in analysis.refs):
        raise Refusal(
            "PS664",
            f'a change of "{held.table}", which has rows of workspaces and shared rows, together '
            "with another change",
            "send each change as a statement of its own",
        )
    written = {r.spec.kind for r in analysis.refs if r.role != "from"}
    if target is not None and "reference" in written and "sharded" in kinds:
        raise Refusal(
            "PS616",
            f'a change of the reference table "{target.table}" together with the sharded table '
            f'"{kinds["sharded"]}"',
            "reference tables are changed on the coordinator, in a statement of their own",
        )


def _writes_for_certain(analysis: Analysis) -> bool:
    """Whether it is an INSERT of values that updates what is there already, without a condition."""
    if analysis.root_tag != "InsertStmt" or not any(
        r.shared and r.role == "insert" and r.offset == analysis.root["relation"]["location"]
        for r in analysis.refs
    ):
        return False
    conflict = analysis.root.get("onConflictClause", {})
    return (
        conflict.get("action") == "ONCONFLICT_UPDATE"
        and "whereClause" not in conflict
        and "valuesLists" in analysis.root.get("selectStmt", {}).get("SelectStmt", {})
    )


def _is_flat(analysis: Analysis) -> bool:
    """Whether the result over several shards is simply the rows of each, one after another."""
    root = analysis.root
    sharded = [r for r in analysis.refs if r.sharded]
    return (
        analysis.root_tag == "SelectStmt"
        and len(sharded) == 1
        and not any(r.shared for r in analysis.refs)  # a part would see its own workspaces' alone
        and not analysis.locks
        and not any(
            part in root
            for part in (
                "larg",
                "withClause",
                "distinctClause",
                "groupClause",
                "havingClause",
                "windowClause",
                "sortClause",
                "limitCount",
                "limitOffset",
                "valuesLists",
            )
        )
        and not any(calls_aggregate(t) for t in root.get("targetList", ()))
        and any(sharded[0] is i.ref for i in analysis.scopes[0].items)
        and not sharded[0].nullable
    )


def _shows_row(analysis: Analysis) -> bool:
    """Whether a row of the result, or one that is changed, proves that its tables have rows.

    True of one query level without aggregates: then there is a row only where the FROM clause has
    one, and where there is none nothing was done. An INSERT, a sub-query or a CTE may do something,
    or answer something (`SELECT count(*)`, `EXISTS`), where the row that it names is not.
    """
    root = analysis.root
    groups = root.get("groupClause", ())
    return (
        analysis.root_tag in {"SelectStmt", "UpdateStmt", "DeleteStmt"}
        and len(analysis.scopes) == 1
        and "larg" not in root
        and "withClause" not in root
        and not any("GroupingSet" in group for group in groups)
        and (bool(groups) or not (calls_aggregate(root) or "havingClause" in root))
        and any(r.sharded and not r.nullable for r in analysis.refs)
    )
