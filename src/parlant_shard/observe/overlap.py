"""Which indexes of one table do work that another one does already. Pure.

An index does another's work when every search and every order that the other serves, it serves too:
the other's key columns are the beginning of its own, by the same operator classes and collations,
in the same direction or all of them reversed (an index is read both ways), over the same rows. A
column that the predicate fixes to one value (`WHERE status = 'active'`, `WHERE deleted_at IS NULL`)
distinguishes no rows, so it does not count as a key column. Uniqueness is work as well: an index
that enforces it is never given up for one that does not.

    (a)                       is covered by  (a, b)
    (a)                       is covered by  (a DESC, b)     read backward
    (a, s, b) WHERE s = 'x'   is covered by  (a, b) WHERE s = 'x', and the other way round
    (a, b)                    is not         (a, b DESC)     neither direction gives its order
    (a) WHERE p               perhaps by     (a, b)          the partial one is smaller on purpose
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import StrEnum

from parlant_shard.observe.figures import IndexFigures

# DESC and NULLS FIRST, the two bits of pg_index.indoption.
_REVERSED = 3


class How(StrEnum):
    """How one index covers another."""

    DUPLICATE = "duplicate"
    PREFIX = "prefix-redundant"
    WHOLE = "partial-redundant"  # the other is partial, this one is not


_RANK = {How.DUPLICATE: 0, How.PREFIX: 1, How.WHOLE: 2}


@dataclass(frozen=True, slots=True, kw_only=True)
class Covered:
    """An index that could go, and the one that stays in its place."""

    index: IndexFigures
    by: IndexFigures
    how: How
    fixed: tuple[str, ...] = ()  # columns that the predicate makes meaningless


_LITERAL = re.compile(r"'(?:[^']|'')*'")
_FIXED = re.compile(
    r"""\A\((?P<column>[a-z_][a-z0-9_$]*|"(?:[^"]|"")+")\s
        (?:IS\sNULL|=\s(?:''|-?\d+|true|false)(?:::[\w."\s]+)?)\)\Z""",
    re.VERBOSE,
)


def fixed_columns(predicate: str | None) -> frozenset[str]:
    """The columns that a predicate, as PostgreSQL deparses it, leaves one value only."""
    if predicate is None:
        return frozenset()
    text = _LITERAL.sub("''", predicate)
    matches = (_FIXED.match(part) for part in _conjuncts(text))
    return frozenset(m["column"] for m in matches if m)


def _conjuncts(text: str) -> list[str]:
    """The conditions that AND joins on the outermost level: `((a = 1) AND (b IS NULL))`."""
    if not text.startswith("(("):
        return [text]
    parts, depth, begin = [], 0, 1
    for position, character in enumerate(text):
        depth += {"(": 1, ")": -1}.get(character, 0)
        if depth == 1 and text.startswith(") AND ", position):
            parts.append(text[begin : position + 1])
            begin = position + len(") AND ")
        elif depth == 1 and text.startswith(") OR ", position):
            return [text]
    return [*parts, text[begin:-1]]


@dataclass(frozen=True, slots=True)
class _Key:
    """One key column with all that decides what it can be searched and sorted by."""

    column: str
    collation: int
    opclass: int
    options: str
    flags: int

    def reversed(self) -> _Key:
        return _Key(self.column, self.collation, self.opclass, self.options, self.flags ^ _REVERSED)


def _keys(index: IndexFigures, fixed: frozenset[str] = frozenset()) -> tuple[_Key, ...]:
    return tuple(
        _Key(
            index.columns[i],
            index.collations[i],
            index.classes[i],
            index.class_options[i],
            index.flags[i],
        )
        for i in range(index.key_count)
        if index.columns[i] not in fixed
    )


def covers(wide: IndexFigures, narrow: IndexFigures) -> How | None:
    """Say how `wide` does the work of `narrow`; None where it does not."""
    if (
        not (wide.valid and narrow.valid)
        or (wide.rel, wide.method) != (narrow.rel, narrow.method)
        or not _may_go(narrow, wide)
    ):
        return None
    same_rows = wide.predicate == narrow.predicate
    if not same_rows and (wide.predicate is not None or narrow.method != "btree"):
        return None
    fixed = (
        fixed_columns(narrow.predicate) if same_rows and narrow.method == "btree" else frozenset()
    )
    one, other = _keys(narrow, fixed), _keys(wide, fixed)
    if narrow.method != "btree":
        # Their options decide what they can do: a BRIN index of larger ranges is no substitute.
        return How.DUPLICATE if one == other and narrow.tail == wide.tail else None
    begins = other[: len(one)]
    if not one or begins not in (one, tuple(k.reversed() for k in one)):
        return None
    if not set(narrow.columns[narrow.key_count :]) <= set(wide.columns):
        return None
    if not same_rows:
        return How.WHOLE
    alike = len(one) == len(other) and set(narrow.columns) - fixed == set(wide.columns) - fixed
    return How.DUPLICATE if alike else How.PREFIX


def _may_go(narrow: IndexFigures, wide: IndexFigures) -> bool:
    """Whether nothing but searching depends on `narrow`."""
    if narrow.constraint is not None or narrow.replica_identity:
        return False
    if narrow.referenced or narrow.clustered:
        return False
    if not narrow.unique:
        return True
    # The same uniqueness, by the very same columns, enforced at once: only the index of a
    # constraint can be deferred, and `narrow` is none.
    return (
        wide.unique
        and wide.immediate
        and wide.nulls_not_distinct == narrow.nulls_not_distinct
        and wide.predicate == narrow.predicate
        and sorted(wide.keys) == sorted(narrow.keys)
    )


def covered(
    indexes: Iterable[IndexFigures],
    lasts: Callable[[IndexFigures, IndexFigures], bool] = lambda _wide, _narrow: True,
) -> list[Covered]:
    """The indexes of one table that could go, each with one that stays. Never both of a pair.

    `lasts(wide, narrow)` says whether `wide` will be there for as long as `narrow`.
    """
    rows = sorted(indexes, key=lambda i: i.name)
    better: dict[int, list[tuple[IndexFigures, How]]] = {}
    for index in rows:
        better[index.oid] = [
            (other, how)
            for other in rows
            if other is not index
            and (how := covers(other, index)) is not None
            and lasts(other, index)
            and (
                covers(index, other) is None
                or not lasts(index, other)
                or _worth(other) > _worth(index)
            )
        ]
    found = []
    for index in rows:
        reasons = [r for r in better[index.oid] if not better[r[0].oid]]
        if not reasons:
            continue
        # The same rows before more rows, a full equivalent before a wider one, what is there for
        # another reason as well, the narrowest.
        by, how = min(
            reasons,
            key=lambda r: (_RANK[r[1]], not r[0].protected, len(r[0].columns), r[0].name),
        )
        fixed = fixed_columns(index.predicate) & set(index.keys) if how is not How.WHOLE else ()
        found.append(Covered(index=index, by=by, how=how, fixed=tuple(sorted(fixed))))
    return found


def _worth(index: IndexFigures) -> tuple[object, ...]:
    """Of two that do the same, the greater one stays; names decide in the end."""
    return (
        index.constraint is not None,
        index.replica_identity or index.referenced,
        index.unique,
        -len(index.columns),
        tuple(-ord(c) for c in index.name),
    )
