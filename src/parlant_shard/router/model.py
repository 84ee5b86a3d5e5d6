"""What an analysed statement is made of. Offsets count bytes of the text that the server sees."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from parlant_shard.router.parsing import Node
from parlant_shard.shardmap import MapTable

Role = Literal["from", "insert", "update", "delete", "merge"]


class Refusal(Exception):
    """A statement that is not routed: the code, the reason in one sentence, and what to do."""

    def __init__(self, code: str, reason: str, hint: str) -> None:
        super().__init__(reason)
        self.code = code
        self.reason = reason
        self.hint = hint


@dataclass(frozen=True, slots=True)
class Constant:
    """A constant of the statement's text."""

    value: str | None


@dataclass(frozen=True, slots=True)
class Param:
    """The value of a parameter, by its number in the server's text."""

    number: int


Term = Constant | Param


@dataclass(frozen=True, slots=True)
class Workspaces:
    """The statement names its workspaces: equality with one term, IN with several.

    With `array` the only term is a parameter that holds a list (`= ANY (%s)`).
    """

    terms: tuple[Term, ...]
    array: bool = False


@dataclass(frozen=True, slots=True)
class Id:
    """The statement names a row of a sharded table by a unique column.

    `type` is that of the column which the statement compares: the row's own, or one that refers
    to it.
    """

    table: str
    column: str
    term: Term
    type: str


Evidence = Workspaces | Id


@dataclass(eq=False, slots=True)
class Ref:
    """One reference to a table of the application.

    `span` covers the name with its schema, ONLY and `*`. `nullable` refs may be null-extended by
    an outer join. `given` is what the statement says about the rows that matter.
    """

    table: str
    spec: MapTable
    role: Role
    span: tuple[int, int]
    offset: int
    alias: str | None = None
    qualified: bool = False
    nullable: bool = False
    sample: tuple[int, int] | None = None
    shows_key: bool = False
    whole: bool = False  # a star or a whole row needs every column
    given: list[Evidence] = field(default_factory=list)
    follows: list[Ref] = field(default_factory=list)  # rows that matter are in these refs' tenant

    @property
    def name(self) -> str:
        return self.alias or self.table

    @property
    def sharded(self) -> bool:
        return self.spec.kind == "sharded"

    @property
    def shared(self) -> bool:
        """A reference table with the key: rows of workspaces, and shared ones."""
        return self.spec.keyed is not None

    @property
    def guarded(self) -> bool:
        """Whether the router's condition stands before its rows; if read, in a sub-select."""
        return self.sharded or self.shared


@dataclass(eq=False, slots=True)
class Item:
    """A name in a FROM clause: its columns (None: not known), and where they come from."""

    name: str
    columns: tuple[str, ...] | None
    outputs: Mapping[str, tuple[Ref, str]]
    ref: Ref | None = None
    renamed: bool = False  # by a column alias list


@dataclass(eq=False, slots=True)
class Scope:
    """A query level: what its names may mean, and the level around it."""

    outer: Scope | None
    ctes: Mapping[str, Derived]
    items: list[Item] = field(default_factory=list)
    merged: bool = False  # has a NATURAL join or USING
    stars: list[Star] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Star:
    """`*` or `q.*` in a target list."""

    span: tuple[int, int]
    qualifier: str | None


@dataclass(frozen=True, slots=True)
class Derived:
    """The columns of a sub-query or CTE, and the base column behind each where it is one."""

    columns: tuple[str, ...] | None = None
    outputs: Mapping[str, tuple[Ref, str]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Dependent:
    """Columns that a query uses because it groups by their table's primary key.

    A sub-select has no key, so they must be grouped by as well: the groups stay the same. `names`
    are as the query sees them.
    """

    ref: Ref
    names: tuple[str, ...]


@dataclass(eq=False, slots=True)
class Insertion:
    """What splicing must know of an INSERT into a table with the router's condition."""

    ref: Ref
    node: Node
    columns: tuple[str, ...]
    listed: bool  # a column list was written
    conflict: Node | None


@dataclass(frozen=True, slots=True)
class Relation:
    """A name that stands for a relation, as one of the parsers sees it."""

    offset: int
    name: str
    target: bool
    cte: bool
