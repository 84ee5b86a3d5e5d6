"""What is asked after a change of a table with shared rows that met no row.

A workspace's `UPDATE t SET ... FROM f WHERE c RETURNING r` changes its own rows alone. If that is
none, `SELECT 1 FROM (SELECT ... FROM t WHERE key IS NULL) AS t, f WHERE c LIMIT 1` tells whether it
meant a shared row: the change is then an error, where PostgreSQL would say 0 rows. The text is cut
and spliced as that of the change is, and proved as well.
"""

from __future__ import annotations

from collections.abc import Mapping

from parlant_shard.canonical import quote
from parlant_shard.router.model import Ref
from parlant_shard.router.splice import Edit, Splicer, Untouchable


class Question(Splicer):
    """Makes the edits that turn a change into the question."""

    def make(self) -> list[Edit]:
        """The edits of the question; empty for a statement after which nothing is asked."""
        ref = next((r for r in self.a.refs if r.shared and r.role in {"update", "delete"}), None)
        if ref is None:
            return []
        self.edits = []
        for start, end in self.a.columns.schema_names:
            self._put(start, end)
        for other in self.a.refs:
            if other is not ref:
                self._reference(other)
        for dependent in self.a.dependents:
            self._group_by(dependent)
        within = self.edits
        self.edits = []
        self._ask(ref)
        cuts = [(e.start, e.end) for e in self.edits]
        self.edits += [
            e for e in within if not any(start <= e.start and e.end <= end for start, end in cuts)
        ]
        return sorted(self.edits, key=lambda e: e.start)

    def _ask(self, ref: Ref) -> None:
        tokens = self.a.tokens
        first = tokens.at(ref.offset)
        depth = tokens.depth[first] - (tokens.word(first - 1) == "(")  # ONLY (t)
        at = dict.fromkeys(("SET", "FROM", "USING", "WHERE", "RETURNING"), -1)
        if ref.role == "update":
            at["SET"] = tokens.at(self.a.root["targetList"][0]["ResTarget"]["location"])
            while tokens.words[at["SET"]] != "SET" or tokens.depth[at["SET"]] != depth:
                at["SET"] -= 1
        end = tokens.tokens[first].end
        for number in tokens.after(max(first, at["SET"]), depth):
            word = tokens.words[number]
            end = tokens.tokens[number].end
            if at.get(word) == -1 and not (
                word == "FROM" and tokens.word(number - 1) == "DISTINCT"
            ):
                at[word] = number
        verb = tokens.at(ref.span[0]) - (1 if ref.role == "update" else 2)
        label = "" if ref.alias is not None else f" AS {quote(ref.table)}"
        self._put(
            tokens.tokens[verb].start,
            ref.span[1],
            "SELECT 1 FROM (SELECT ",
            ", ".join(self._columns(ref)),
            f" FROM {self._name(ref)} WHERE ",
            Untouchable(),
            f"){label}",
        )
        self._join_up(ref, at, end)
        if at["RETURNING"] >= 0:
            self._put(tokens.tokens[at["RETURNING"]].start, end, " LIMIT 1")
        else:
            self._put(end, end, " LIMIT 1")

    def _join_up(self, ref: Ref, at: Mapping[str, int], end: int) -> None:
        """Cut SET out, and put a comma where FROM or USING stood."""
        tokens = self.a.tokens.tokens
        source = at["FROM" if ref.role == "update" else "USING"]
        if "usingClause" not in self.a.root and "fromClause" not in self.a.root:
            source = -1
        if source >= 0:
            begin = tokens[at["SET"]].start if ref.role == "update" else tokens[source].start
            self._put(begin, tokens[source].end, ", ")
        elif ref.role == "update":
            stops = [tokens[at[w]].start for w in ("WHERE", "RETURNING") if at[w] >= 0]
            self._put(tokens[at["SET"]].start, min([*stops, end]))
