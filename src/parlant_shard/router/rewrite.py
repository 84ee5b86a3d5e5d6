"""Route a statement: which shard, which text, which parameters; or why not."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from functools import lru_cache
from typing import Any
from uuid import UUID

from parlant_shard.canonical import quote
from parlant_shard.names import suffixed
from parlant_shard.router import placeholders
from parlant_shard.router.model import Constant, Id, Param, Refusal, Term, Workspaces
from parlant_shard.router.parsing import PARAM, scan
from parlant_shard.router.placeholders import Style
from parlant_shard.router.prove import Invariant, Unproven, prove
from parlant_shard.router.query import Query, query_text
from parlant_shard.router.route import Kind, Lookup, Params, Route, RouteTarget
from parlant_shard.router.splice import (
    KEY_CASTS,
    Hole,
    Physical,
    Predicate,
    Searched,
    Suffixed,
    Tenant,
    Turn,
    Untouchable,
)
from parlant_shard.router.template import Catalogue, Given, Refused, Template, template
from parlant_shard.shardmap import ShardMap, id_type, id_value, search_name, spelled

_CACHED_TEXTS = 16_384
_UNKNOWN = object()


def rewrite(
    sql: Query,
    *,
    shard_map: ShardMap,
    workspace: str | None = None,
    params: Params = None,
    all_workspaces: bool = False,
    absent: bool = False,
    shard: str | None = None,
) -> Route:
    """Say where a statement goes and as what. Sends nothing; the same arguments, the same answer.

    `workspace` is the caller's context; without it the statement must name its workspaces or a
    row of one (then the kind is LOOKUP, unless the params are not known). `all_workspaces` asks
    for a read across all of them. `absent` routes a statement whose looked-up row does not exist:
    to `shard` or any other, as a tenant that has no rows. Raises nothing for a statement: what
    cannot be proved is a Route of kind REFUSED.
    """
    try:
        text = query_text(sql)
    except Refusal as refusal:
        return refused("", refusal)
    body, comment = _split_comment(text, params)
    given = (
        Given.NOTHING
        if params is None
        else Given.MAPPING
        if isinstance(params, Mapping)
        else Given.SEQUENCE
    )
    catalogue = _catalogue(shard_map)
    try:
        found = template(catalogue, body, given)
    except RecursionError:
        return refused("", _TOO_DEEP)
    if isinstance(found, Refused):
        return refused(found.statement, Refusal(found.code, found.reason, found.hint))
    call = _Call(found, shard_map, catalogue, params, comment, body, given)
    try:
        call.check_params()
        if absent:
            return call.absent(shard)
        return call.route(workspace, all_workspaces=all_workspaces)
    except Refusal as refusal:
        return refused(found.statement, refusal, writes=found.writes)
    except RecursionError:
        return refused(found.statement, _TOO_DEEP, writes=found.writes)


_TOO_DEEP = Refusal("PS619", "the statement is nested too deeply", "split it")


def refused(statement: str, refusal: Refusal, *, writes: bool = False) -> Route:
    """The route of a statement that goes nowhere."""
    return Route(
        kind=Kind.REFUSED,
        statement=statement,
        why=(refusal.reason,),
        code=refusal.code,
        reason=refusal.reason,
        hint=refusal.hint,
        writes=writes,
    )


def _split_comment(sql: str, params: Params) -> tuple[str, str]:
    """Cut off a comment at the very end, as tracing libraries add it: a new one for every call."""
    if not sql.endswith("*/"):
        return sql, ""
    begin = sql.rfind("/*", 0, -2)
    inner = sql[begin + 2 : -2]
    if begin < 0 or "*/" in inner or "\0" in inner or not inner.isascii():
        return sql, ""
    if inner.endswith("/"):
        return sql, ""  # with the end's asterisk it opens another comment, within this one
    line = max(sql.rfind("\n", 0, begin), sql.rfind("\r", 0, begin)) + 1
    if "--" in sql[line:begin]:
        return sql, ""  # it may begin within a line comment: then its next line is no comment
    if params is not None and "%" in inner:
        return sql, ""
    if params is None and placeholders.has_percent_placeholders(inner):
        return sql, ""
    body = sql[:begin].rstrip(_SPACE)
    return body, sql[len(body) :]


_SPACE = " \t\n\r\f"
"""What PostgreSQL 15 takes for white space. To Python other characters are, too; to PostgreSQL they
belong to a word or are an error."""


_catalogues: dict[int, tuple[ShardMap, Catalogue]] = {}


def _catalogue(shard_map: ShardMap) -> Catalogue:
    known = _catalogues.get(id(shard_map))
    if known is not None and known[0] is shard_map:
        return known[1]
    made = Catalogue(shard_map)
    if len(_catalogues) > 64:
        _catalogues.clear()
    _catalogues[id(shard_map)] = (shard_map, made)
    return made


@dataclass(frozen=True, slots=True)
class _Text:
    """A proven text for one place. `order` says where each value comes from, None: the tenant."""

    sql: str
    order: tuple[int | str | None, ...]
    tenant_name: str
    tenants: int
    kept: tuple[int, ...] | None = None  # the numbers of its "$n" in the original, in their order


class _Call:
    """One statement with its values."""

    __slots__ = ("body", "catalogue", "comment", "given", "map", "params", "t")

    def __init__(
        self,
        found: Template,
        shard_map: ShardMap,
        catalogue: Catalogue,
        params: Params,
        comment: str,
        body: str,
        given: Given,
    ) -> None:
        self.t = found
        self.map = shard_map
        self.catalogue = catalogue
        self.params = params
        self.comment = comment
        self.body = body
        self.given = given

    # --- values -----------------------------------------------------------------------------------

    def check_params(self) -> None:
        params, t, given = self.params, self.t, self.given
        if params is None or given is Given.NOTHING:
            return
        if given is Given.MAPPING:
            assert isinstance(params, Mapping)
            missing = [s for s in t.sources.values() if s not in params]
            if missing:
                raise Refusal(
                    "PS620", f'there is no value for "%({missing[0]})s"', "give every value"
                )
        elif isinstance(params, str | bytes) or not isinstance(params, Sequence):
            raise Refusal(
                "PS620",
                f"the parameters are of type {type(params).__name__}",
                "give them in a list, or in a mapping for %(name)s",
            )
        elif len(params) != t.numbers:
            count = len(params)
            raise Refusal(
                "PS620",
                f"the statement has {t.numbers} placeholders and {count} values were given",
                "give one value for each, in a list",
            )

    def _value(self, term: Term) -> Any:
        if isinstance(term, Constant):
            return term.value
        if self.params is None:
            return _UNKNOWN
        source = self.t.sources.get(term.number)
        if source is None:
            return _UNKNOWN
        return self.params[source]  # type: ignore[index]

    def _workspaces(self, evidence: Workspaces) -> list[str] | None:
        """The workspaces that a condition names; None where a value is not known."""
        values: list[Any] = []
        for term in evidence.terms:
            value = self._value(term)
            if value is _UNKNOWN:
                return None
            if evidence.array:
                if not isinstance(value, list | tuple | set | frozenset):
                    return None
                values += value
            else:
                values.append(value)
        return [self._name(v) for v in values]

    def _name(self, value: Any) -> str:
        if value is None:
            raise Refusal(
                "PS611",
                f'"{self.map.key}" is compared with NULL, which no row equals',
                "give the workspace",
            )
        return key_text(value, self.map.key_type)

    # --- where ------------------------------------------------------------------------------------

    def route(self, workspace: str | None, *, all_workspaces: bool) -> Route:
        t = self.t
        if t.locked is not None and (workspace is not None or t.guarded or self._of_shared()):
            raise Refusal(
                "PS616",
                f'"{t.locked}" belongs to no workspace: a lock on its rows stops other workspaces',
                "lock the rows of the sharded tables alone: FOR UPDATE OF alias",
            )
        if t.analyze and (t.guarded or t.shared) and not all_workspaces:
            raise Refusal(
                "PS602",
                "EXPLAIN ANALYZE counts the rows of other workspaces that a condition met",
                "use EXPLAIN without ANALYZE, or ask the server directly",
            )
        home = ""
        if workspace is not None:
            workspace = key_text(workspace, self.map.key_type)
            if not workspace:
                raise Refusal("PS611", "the workspace is empty", "give the workspace")
            home = self._shard(workspace)
        if not t.guarded and not t.shared:
            return self._unsharded(workspace)
        if all_workspaces:
            return self._all()
        if not t.guarded:
            return self._keyed(workspace)
        if workspace is not None:
            self._check_agreement(workspace)
            return self._direct(home, [workspace], (f'the caller\'s workspace is "{workspace}"',))
        return self._derived()

    def absent(self, shard: str | None) -> Route:
        """Where a statement goes that names a row which is on no shard: it finds nothing there."""
        if self.t.inserts:
            raise Refusal(
                "PS625",
                "the row that the new row refers to is on no shard, so it has no workspace",
                "insert the row that it refers to first, or give the workspace",
            )
        why = ("no shard has the row that it names",)
        return self._direct(shard or min(self.map.shards), [], why)

    def _shard(self, workspace: str) -> str:
        shard = self.map.place(workspace)
        if shard is None and workspace in self.map.purged:
            raise Refusal(
                "PS609",
                f'workspace "{workspace}" is on no shard: it was purged, or is being purged',
                "its rows are deleted; `parlant-shard workspace add` places it anew",
            )
        if shard is None:
            raise Refusal(
                "PS609",
                f'workspace "{workspace}" is on no shard',
                "place it with `parlant-shard workspace add`; an unknown workspace is never "
                "looked for everywhere",
            )
        return shard

    def _check_agreement(self, workspace: str) -> None:
        for guarded in (*self.t.guarded, *(g for g in self.t.shared if not g.new)):
            for evidence in guarded.direct:
                named = self._workspaces(evidence)
                if named is not None and set(named) != {workspace}:
                    other = next((n for n in named if n != workspace), "nobody")
                    raise Refusal(
                        "PS610",
                        f'the statement names workspace "{other}" for "{guarded.table}", the '
                        f'caller is "{workspace}"',
                        "leave one of the two out",
                    )

    def _check_equal(self, workspace: str) -> None:
        for term in self.t.equal:
            value = self._value(term)
            if value is _UNKNOWN:
                continue  # without values there are no params to send either
            if value is None and self.t.held is not None:
                raise Refusal(
                    "PS662",
                    f'a new row of "{self.t.held}" has a NULL for "{self.map.key}", so it would be '
                    f'a shared row, but the statement belongs to workspace "{workspace}"',
                    "leave the column out, and the router fills it in; to write a shared row, send "
                    "the INSERT without a workspace",
                )
            if self._name(value) != workspace:
                raise Refusal(
                    "PS610",
                    f'a new row names workspace "{self._name(value)}", the statement belongs to '
                    f'"{workspace}"',
                    "leave the column out: it is filled in",
                )

    def _unsharded(self, workspace: str | None) -> Route:
        """Reference tables, host tables, or no table at all."""
        t = self.t
        if t.writes and workspace is not None and t.target is not None:
            raise Refusal(
                "PS616",
                f'"{t.target.table}" belongs to no workspace, and the caller is a workspace: a '
                "change there may reach every workspace",
                "send it without a workspace",
            )
        direct = t.writes or bool(t.hosts) or t.locks
        why = (
            f'"{t.hosts[0]}" is on the coordinator only'
            if t.hosts
            else f'the reference table "{t.references[0]}" is changed on the coordinator'
            if t.references and direct
            else "reference tables are the same on every server"
            if t.references
            else "no table of the application"
        )
        text = self._text(None, several=False)
        return Route(
            kind=Kind.DIRECT if direct else Kind.ANY,
            statement=t.statement,
            targets=(self._target(text, None, self.map.coordinator, None),),
            workspaces=(workspace,) if workspace is not None else (),
            why=(why,),
            writes=t.writes or t.locks,
            numbered=t.style is Style.NUMBERED,
        )

    def _keyed(self, workspace: str | None) -> Route:
        """Reference tables of which each workspace sees its own rows and the shared ones."""
        t = self.t
        names = [workspace] if workspace is not None else self._of_shared()
        if workspace is not None:
            self._check_agreement(workspace)
        for name in names:
            self._shard(name)
        changes = t.held or t.nobodys
        if t.nobodys is not None and workspace is not None:
            raise Refusal(
                "PS616",
                f'"{t.nobodys}" belongs to no workspace, and the caller is a workspace: a change '
                "there may reach every workspace",
                "send it without a workspace",
            )
        if t.held is not None and len(names) > 1:
            raise Refusal(
                "PS612",
                f"the change concerns {len(names)} workspaces",
                "change one workspace at a time",
            )
        if t.held is not None and names:
            self._check_equal(names[0])
        elif any(self._value(term) is not None for term in t.equal):
            raise self._no_workspace(t.shared[0].table, unknown=True)
        nobody, several = not names, len(names) > 1
        tenant = names if several else names[0] if names else None
        server = self.map.coordinator
        text = self._text(None, several=several, nobody=nobody)
        question = None
        if t.question:
            asked = self._text(None, several=False, nobody=nobody, question=True)
            question = self._target(asked, None, server, tenant)
        direct = t.writes or bool(t.hosts) or t.locks
        seen = "shared rows" if nobody else "rows of its workspace and shared rows"
        if several:
            seen = "rows of its workspaces and shared rows"
        what = f'of "{t.shared[0].table}" the statement sees {seen}'
        return Route(
            kind=Kind.DIRECT if direct else Kind.ANY,
            statement=t.statement,
            targets=(self._target(text, None, server, tenant),),
            workspaces=tuple(names),
            why=(what, *((f'"{changes}" is changed on the coordinator',) if changes else ())),
            writes=t.writes or t.locks,
            numbered=t.style is Style.NUMBERED,
            held=t.held,
            question=question,
            certain=t.certain,
        )

    def _of_shared(self) -> list[str]:
        """The workspaces that the conditions and new rows of reference tables name."""
        named: dict[str, None] = {}
        for shared in self.t.shared:
            for evidence in shared.direct if shared.new else shared.inferred:
                if not isinstance(evidence, Workspaces):
                    continue
                if shared.new:  # a NULL there is a shared row
                    values = [self._value(term) for term in evidence.terms]
                    unknown = any(v is _UNKNOWN for v in values)
                    names = None if unknown else self._names_of(values)
                else:
                    names = self._workspaces(evidence)
                if names is None:
                    raise self._no_workspace(shared.table, unknown=True)
                named.update(dict.fromkeys(names))
                if not shared.new:
                    break
        return list(named)

    def _names_of(self, values: Iterable[Any]) -> list[str]:
        return [self._name(v) for v in values if v is not None]

    def _all(self) -> Route:
        t = self.t
        if t.writes:
            raise Refusal(
                "PS622",
                "a change of all workspaces is not routed",
                "change one workspace at a time",
            )
        if t.locks:
            raise Refusal(
                "PS623", "rows of all workspaces cannot be locked", "leave FOR UPDATE out"
            )
        text = self._text(None, several=False, everyone=True)
        return Route(
            kind=Kind.ALL,
            statement=t.statement,
            targets=(self._target(text, None, self.map.coordinator, None),),
            why=(
                "all workspaces were asked for: through the federated views"
                if t.guarded
                else "all workspaces were asked for: the rows of all",
            ),
            numbered=t.style is Style.NUMBERED,
        )

    def _derived(self) -> Route:
        """Without a context the statement itself must say whose rows it is about."""
        named: dict[str, None] = {}
        lookups: dict[Lookup, None] = {}
        for guarded in self.t.guarded:
            found, look, unknown = self._of(guarded.inferred)
            if found is not None:
                named.update(dict.fromkeys(found))
            elif look is not None:
                lookups[look] = None
            else:
                raise self._no_workspace(guarded.table, unknown=unknown)
        if lookups:
            return self._lookup(list(lookups), list(named))
        named.update(dict.fromkeys(self._of_shared()))
        if not named:
            raise Refusal("PS611", "the list of workspaces is empty", "give a workspace")
        return self._named(list(named))

    def _of(self, inferred: Iterable[object]) -> tuple[list[str] | None, Lookup | None, bool]:
        look = None
        unknown = False
        for evidence in inferred:
            if isinstance(evidence, Workspaces):
                names = self._workspaces(evidence)
                if names is not None:
                    return names, None, False
                unknown = True
            elif isinstance(evidence, Id) and look is None:
                value = self._value(evidence.term)
                if value is _UNKNOWN:
                    unknown = True
                elif value is not None:
                    look = self._looked_up(evidence, value)
        return None, look, unknown

    def _looked_up(self, evidence: Id, value: Any) -> Lookup | None:
        """The row to look up; its column may be of another type than the one that refers to it."""
        table, column = evidence.table, evidence.column
        own = id_type(self.map.tables[table].type_of(column))
        if own is None:
            return None
        try:
            found = id_value(value, evidence.type)
            if own != evidence.type and found is not None:
                found = id_value(found, own)
        except (TypeError, ValueError):
            raise Refusal(
                "PS620",
                f'the id that decides the workspace cannot be compared with "{table}.{column}" '
                f"({own}) before it is sent",
                f"give the id as it is stored, as a value of type {own}, or give the workspace",
            ) from None
        possible = found is not None
        return Lookup(
            table=table,
            column=column,
            value=found if possible else str(value),
            possible=possible,
        )

    def _no_workspace(self, table: str, *, unknown: bool) -> Refusal:
        if unknown and self.params is None:
            return Refusal(
                "PS608",
                f'the workspace of "{table}" is a parameter, and no values were given',
                "give the parameters, or the workspace",
            )
        if unknown:
            return Refusal(
                "PS608",
                f'the workspace of "{table}" is compared with an array that is no list',
                "give the workspaces in a list, or give the workspace",
            )
        key = self.map.key
        row = ", or the id of one row," if self.map.lookup else ""
        hint = (
            f'give the workspace, or name "{key}" among the columns, with one value for all rows'
            if self.t.inserts
            else f'give the workspace, or require that "{key}"{row} equals a value, joined to the '
            "rest by AND: a range, an OR or an expression does not name one"
        )
        if not self.t.writes and not self.t.locks:
            hint += "; to read all workspaces: router.all_workspaces(), or --all"
        return Refusal(
            "PS608", f'nothing says which workspace the rows of "{table}" belong to', hint
        )

    def _lookup(self, lookups: list[Lookup], named: list[str]) -> Route:
        if len(lookups) > 1 or named:
            raise Refusal(
                "PS608",
                "the statement names several rows, which may belong to different workspaces",
                "give the workspace to the call (workspace=…, or --workspace): a condition on one "
                "table says nothing of the other's rows",
            )
        if not self.map.lookup:
            raise Refusal(
                "PS624",
                "an id alone does not decide the workspace: row-level security is on and a "
                "look-up is no authorisation",
                "give the workspace, or set `lookup: trusted` in the topology",
            )
        (look,) = lookups
        return Route(
            kind=Kind.LOOKUP,
            statement=self.t.statement,
            lookup=look,
            why=(f'the row of "{look.table}" with this "{look.column}" says the workspace',),
            writes=self.t.writes or self.t.locks,
            numbered=self.t.style is Style.NUMBERED,
            shows_row=self.t.shows_row,
        )

    def _named(self, names: list[str]) -> Route:
        t = self.t
        places: dict[str, list[str]] = {}
        for name in names:
            places.setdefault(self._shard(name), []).append(name)
        if len(names) == 1:
            (shard,) = places
            return self._direct(shard, names, (f'the statement names workspace "{names[0]}"',))
        if t.writes:
            raise Refusal(
                "PS612",
                f"the change concerns {len(names)} workspaces",
                "change one workspace at a time: a transaction belongs to one of them",
            )
        if len(places) == 1:
            (shard,) = places
            return self._direct(shard, names, (f"its {len(names)} workspaces share a shard",))
        if t.locks:
            raise Refusal(
                "PS623",
                "rows on several shards cannot be locked together",
                "lock one workspace at a time",
            )
        if t.flat:
            return Route(
                kind=Kind.MULTI,
                statement=t.statement,
                targets=tuple(
                    self._target(
                        self._text(shard, several=True), shard, self.map.shards[shard].server, own
                    )
                    for shard, own in places.items()
                ),
                workspaces=tuple(names),
                why=(f"its workspaces are on {len(places)} shards; the rows follow one another",),
                numbered=t.style is Style.NUMBERED,
            )
        text = self._text(None, several=True)
        return Route(
            kind=Kind.MULTI,
            statement=t.statement,
            targets=(self._target(text, None, self.map.coordinator, names),),
            workspaces=tuple(names),
            why=(
                f"its workspaces are on {len(places)} shards, and their rows must be seen "
                "together: through the federated views",
            ),
            numbered=t.style is Style.NUMBERED,
        )

    def _direct(self, shard: str, names: list[str], why: tuple[str, ...]) -> Route:
        """To one shard, as workspaces of it; without any, as a tenant that no row has."""
        t = self.t
        for name in names:
            self._check_equal(name)
        several = len(names) > 1
        text = self._text(shard, several=several)
        # Nobody is NULL: no key equals it, of whatever type it is.
        tenant = names if several else names[0] if names else None
        return Route(
            kind=Kind.DIRECT,
            statement=t.statement,
            targets=(self._target(text, shard, self.map.shards[shard].server, tenant),),
            workspaces=tuple(names),
            why=why,
            writes=t.writes or t.locks,
            numbered=t.style is Style.NUMBERED,
        )

    # --- as what ----------------------------------------------------------------------------------

    def _text(
        self,
        shard: str | None,
        *,
        several: bool,
        everyone: bool = False,
        nobody: bool = False,
        question: bool = False,
    ) -> _Text:
        whose = _Whose(several=several, everyone=everyone, nobody=nobody)
        found = _rendered(self.catalogue, self.body, self.given, shard, whose, question)
        if isinstance(found, str):
            raise Refusal(
                "PS618",
                f"the rewritten statement could not be proved: {found}",
                "write it in a plainer form; if it is ordinary SQL, please report it",
            )
        return found

    def _target(
        self, text: _Text, shard: str | None, server: str, tenant: str | list[str] | None
    ) -> RouteTarget:
        comment = self.comment
        if comment and text.tenants and self.t.style in {Style.NONE}:
            comment = comment.replace("%", "%%")
        return RouteTarget(
            shard=shard, server=server, sql=text.sql + comment, params=self._params(text, tenant)
        )

    def _params(self, text: _Text, tenant: str | list[str] | None) -> Params:
        params = self.params
        if text.kept is not None and params is not None:
            values = [*params, tenant]
            return [values[n - 1] for n in text.kept]
        every = self.t.style is not Style.POSITIONAL or len(text.order) == self.t.numbers
        if not text.tenants and every:
            return params
        if params is None:
            return ([tenant] * text.tenants or None) if self.t.style is Style.NONE else None
        if self.given is Given.MAPPING:
            assert isinstance(params, Mapping)
            return {**params, text.tenant_name: tenant}
        if self.t.style is Style.NUMBERED:
            return [*params, tenant]
        return [tenant if source is None else params[source] for source in text.order]  # type: ignore[index]


def key_text(value: Any, key_type: str) -> str:
    """A value of the distribution key as the map spells it. Raises Refusal (PS620)."""
    # A text or number as psycopg sends it, whatever an enum or another subclass prints or calls its
    # value: what is bound beside it must be the same workspace.
    if isinstance(value, str):
        value = str.__str__(value)
    elif isinstance(value, int) and not isinstance(value, bool):
        value = int.__index__(value)
    elif isinstance(value, Enum):
        # psycopg would send its name, and its text is another one again.
        raise Refusal(
            "PS620", f"a workspace cannot be of type {type(value).__name__}", "give its value"
        )
    if isinstance(value, bytes | bytearray | memoryview | list | tuple | dict | set):
        raise Refusal(
            "PS620", f"a workspace cannot be of type {type(value).__name__}", "give its name"
        )
    try:
        text = str(value) if isinstance(value, UUID) else spelled(str(value), key_type)
    except ValueError:
        text = None
    if text is not None:
        return text
    return value if isinstance(value, str) else repr(value)[:64]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Whose:
    """Whose rows a text is about, if not those of one workspace."""

    several: bool = False
    everyone: bool = False
    nobody: bool = False  # shared rows alone


@lru_cache(maxsize=_CACHED_TEXTS)
def _rendered(
    catalogue: Catalogue,
    body: str,
    given: Given,
    shard: str | None,
    whose: _Whose,
    question: bool,
) -> _Text | str:
    """The text for one place, proven; or what stands against it."""
    t = template(catalogue, body, given)
    assert isinstance(t, Template)
    maker = _Maker(t, catalogue.map, shard, whose, question=question)
    made = maker.make()
    try:
        prove(maker.server_text(made), maker.invariant(made))
    except Unproven as unproven:
        return str(unproven)
    except (KeyError, IndexError, TypeError, AttributeError) as error:
        return f"a form that the proof does not know ({type(error).__name__})"
    return made


class _Maker:
    """Fills a template's slots for one shard, or for the federated views (no shard)."""

    def __init__(
        self,
        t: Template,
        shard_map: ShardMap,
        shard: str | None,
        whose: _Whose,
        *,
        question: bool,
    ) -> None:
        self.t = t
        self.map = shard_map
        self.shard = shard
        self.several, self.everyone, self.nobody = whose.several, whose.everyone, whose.nobody
        self.question = question
        self.order: list[int | str | None] = []
        self.tenant_name = "parlant_workspace"
        while self.tenant_name in t.sources.values():
            self.tenant_name += "_"

    def make(self) -> _Text:
        t = self.t
        parts: list[str] = []
        pieces = t.question if self.question else t.pieces
        slots = not (self.everyone or self.nobody) and any(
            isinstance(p, Tenant | Predicate) for p in pieces
        )
        escape = slots and t.style is Style.NONE and not t.escaped
        apart = self.shard is not None and not self.several
        turn = Turn.BOTH
        for piece in pieces:
            if isinstance(piece, Turn):
                turn = piece
                continue
            if turn is (Turn.ORIGINAL if apart else Turn.SHARD):
                continue
            match piece:
                case str():
                    parts.append(piece.replace("%", "%%") if escape else piece)
                case Physical(table):
                    parts.append(f"{quote(self.map.namespace)}.{quote(self._physical(table))}")
                case Searched(index):
                    name = quote(search_name(index, self.shard or ""))
                    parts.append(f"parlant_shard.{name}")
                case Suffixed(name):
                    parts.append(quote(suffixed(name, self.shard) if self.shard else name))
                case Tenant():
                    parts.append(self._tenant())
                case Predicate():
                    parts.append(self._predicate(piece))
                case Untouchable():
                    parts.append("true" if self.nobody else f"{quote(self.map.key)} IS NULL")
                case Hole(source, text):
                    self.order.append(source)
                    parts.append(text)
        text, kept = "".join(parts), None
        if self.question and t.style is Style.NUMBERED:
            text, kept = _numbered_anew(text)
        return _Text(
            text,
            tuple(self.order),
            self.tenant_name,
            sum(source is None for source in self.order),
            kept,
        )

    def _physical(self, table: str) -> str:
        return suffixed(table, self.shard if self.shard is not None else "global")

    def _tenant(self) -> str:
        if self.nobody:
            return "NULL"
        self.order.append(None)
        match self.t.style:
            case Style.NUMBERED:
                return f"${self.t.numbers + 1}"
            case Style.NAMED:
                return f"%({self.tenant_name})s"
        return "%s"

    def _predicate(self, piece: Predicate) -> str:
        if self.everyone:
            return ""
        qualifier = f"{piece.qualifier}." if piece.qualifier else ""
        column = f"{qualifier}{quote(self.map.key)}"
        if self.nobody:
            return f"{piece.before}{column} IS NULL{piece.after}"
        if self.several:
            kind = self.map.key_type if self.map.key_type in _EXACT else "text"
            value = f"ANY ({self._tenant()}::{kind}[])"
        else:
            value = self._tenant()
        shared = f" OR {column} IS NULL" if piece.shared else ""
        return f"{piece.before}{column} OPERATOR(pg_catalog.=) {value}{shared}{piece.after}"

    def server_text(self, made: _Text) -> bytes:
        """What the server will see of it."""
        percent = self.t.style in {Style.POSITIONAL, Style.NAMED} or self.t.escaped
        percent = percent or (self.t.style is Style.NONE and made.tenants > 0)
        self.read = placeholders.read(made.sql, percent=percent)
        return self.read.server

    def invariant(self, made: _Text) -> Invariant:
        """What the text may touch, and which of its parameters hold the workspace."""
        equal = {t.number for t in self.t.equal if isinstance(t, Param)}
        if self.t.style is Style.NUMBERED:
            last = self.t.numbers + 1
            params = {last} if made.tenants else set()
            if made.kept is not None:
                params = {n for n, number in enumerate(made.kept, 1) if number == last}
        else:
            params = {
                hole.number
                for hole, source in zip(self.read.holes, made.order, strict=True)
                if source is None
            }
        tables = self.map.tables
        physical = {
            suffixed(name, self.shard if self.shard is not None else "global")
            for name, spec in tables.items()
            if spec.kind == "sharded"
        }
        shared = {name for name, spec in tables.items() if spec.keyed is not None}
        others = {name for name, spec in tables.items() if spec.kind != "sharded"} - shared
        unsharded = self.shard is None and not self.t.guarded
        return Invariant(
            namespace=self.map.namespace,
            key=self.map.key,
            guarded=frozenset() if self.everyone or unsharded else physical,
            open=others | physical | shared if self.everyone else others,
            shared=frozenset() if self.everyone else shared,
            held=shared if unsharded and not self.everyone else frozenset(),
            nobody=self.nobody,
            question=self.question,
            writable=others if unsharded else frozenset(),
            params=params,
            row_params=equal if self.t.style is Style.NUMBERED else frozenset(),
            key_cast=KEY_CASTS.get(self.map.key_type),
            types=frozenset(self.map.types),
            own_functions=frozenset(self.map.functions),
            columns=self.map.column_names,
            several=self.several,
            searches=frozenset(
                search_name(by.index, self.shard)
                for spec in tables.values()
                for by in spec.searches
            )
            if self.shard is not None
            else frozenset(),
        )


def _numbered_anew(text: str) -> tuple[str, tuple[int, ...]]:
    """Number the parameters that are left from 1 on: PostgreSQL wants a type for each number."""
    found: dict[int, int] = {}
    parts: list[str] = []
    raw, at = text.encode(), 0
    for token in scan(raw):
        if token.kind == PARAM:
            number = int(raw[token.start + 1 : token.end])
            place = found.setdefault(number, len(found) + 1)
            parts += [raw[at : token.start].decode(), f"${place}"]
            at = token.end
    return "".join([*parts, raw[at:].decode()]), tuple(found)


_EXACT = frozenset(["uuid", "bigint", "integer", "smallint", "character varying"])


def changed_parts(before: str, after: str) -> Sequence[tuple[int, int]]:
    """The pieces of a rewritten text that are not in the original: `[start, end)` in `after`."""
    from difflib import SequenceMatcher

    matcher = SequenceMatcher(a=before, b=after, autojunk=False)
    return [
        (j1, j2)
        for tag, _, _, j1, j2 in matcher.get_opcodes()
        if tag in {"replace", "insert"} and j2 > j1
    ]
