"""What a deleted or changed reference row means on a server that only has a copy of it.

Changes that logical replication applies fire no foreign key, and neither do those that a trigger
makes under it: the apply worker runs as replica. So every level of the cascade is spelled out in
the body of one trigger function per reference table.

Parents first. A row that is being inserted below a row holds that row's key; the deletion of the
parent waits for it, and the next statement, with a newer snapshot, finds it. Children first, the
insert would be seen by neither statement, and its row would stay without a parent.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from psycopg.sql import SQL, Composable, Composed, Identifier

from parlant_shard.catalog import ForeignKey, Relkind, Table
from parlant_shard.ddl import names, render, text


def cascade_body(namespace: str, reference: str, tables: Mapping[str, Table]) -> str:
    """Return the plpgsql body: CASCADE and SET NULL as the foreign keys declare them.

    `tables` is what the server is to hold. Whatever restricts a deletion points at a key table
    instead (holding.py), and nothing that restricts is below a CASCADE.
    """
    return _Body(namespace, reference, tables).text()


def carries_updates(reference: str, tables: Mapping[str, Table]) -> bool:
    """Whether a changed key is carried out on this server."""
    return bool(_carried(_roots(tables), reference))


def _roots(tables: Mapping[str, Table]) -> list[Table]:
    return [
        t for _, t in sorted(tables.items()) if t.parent is None and t.kind is not Relkind.FOREIGN
    ]


def _carried(roots: Iterable[Table], reference: str) -> list[tuple[Table, ForeignKey]]:
    """The foreign keys that carry a changed key out: to the copy, or to a key table."""
    return [
        (t, fk)
        for t in roots
        for fk in t.foreign_keys
        if fk.ref_table == reference and fk.on_update in {"c", "n"} and not fk.unenforced
    ]


@dataclass(slots=True)
class _Level:
    """A table whose rows are deleted and that others refer to.

    `columns` are those that they refer to, each with its place in the names of variables.
    """

    table: Table
    number: int
    columns: dict[str, int] = field(default_factory=dict)

    def variables(self, kind: str) -> list[Identifier]:
        return [Identifier(f"{kind}_{self.number}_{place}") for place in self.columns.values()]


class _Body:
    def __init__(self, namespace: str, reference: str, tables: Mapping[str, Table]) -> None:
        self.namespace, self.reference = namespace, reference
        self.roots = _roots(tables)
        self.levels: dict[str, _Level] = {}
        self._find_levels()

    def text(self) -> str:
        declared = "".join(
            f"  {render(variable)} {_type(level.table, column)}[];\n"
            for level in self.levels.values()
            for kind in ("now", "next", "got")
            for column, variable in zip(level.columns, level.variables(kind), strict=True)
        )
        # Only for what replication applies: a write by hand is refused by the guard.
        return (
            ("\nDECLARE\n" + declared if declared else "\n")
            + "BEGIN\n"
            + "  IF pg_catalog.current_setting('session_replication_role') <> 'replica' THEN\n"
            + "    RETURN NULL;\n  END IF;\n"
            + self._updates()
            + self._first()
            + self._rest()
            + "  RETURN NULL;\nEND;\n"
        )

    def _children(self, table: str) -> list[tuple[Table, ForeignKey]]:
        """The foreign keys that do something when a row of `table` is deleted."""
        return [
            (t, fk)
            for t in self.roots
            for fk in t.foreign_keys
            if fk.ref_table == table
            and fk.on_delete in {"c", "n"}
            and not fk.unenforced  # that one carries nothing out
            and fk.key_table is None  # that one restricts
        ]

    def _find_levels(self) -> None:
        """The tables that a cascade reaches and that have children of their own."""
        ahead = [t for t, fk in self._children(self.reference) if fk.on_delete == "c"]
        seen: set[str] = set()
        while ahead:
            table = ahead.pop(0)
            if table.name in seen:
                continue
            seen.add(table.name)
            below = self._children(table.name)
            if not below:
                continue
            level = self.levels[table.name] = _Level(table, len(self.levels) + 1)
            for column in sorted({c for _, fk in below for c in fk.ref_columns}):
                level.columns[column] = len(level.columns) + 1
            ahead += [t for t, fk in below if fk.on_delete == "c"]

    # --- statements ------------------------------------------------------------------------------

    def _updates(self) -> str:
        """A changed key, for the foreign keys that carry it out."""
        carried = _carried(self.roots, self.reference)
        statements = dict.fromkeys(self._changed(child, fk) for child, fk in carried)
        if not statements:
            return ""
        return (
            "  IF TG_OP = 'UPDATE' THEN\n" + "".join(statements) + "    RETURN NULL;\n  END IF;\n"
        )

    def _changed(self, child: Table, fk: ForeignKey) -> str:
        pairs = list(zip(fk.columns, fk.ref_columns, strict=True))
        if fk.on_update == "n":
            values = [SQL("{} = NULL").format(Identifier(own)) for own, _ in pairs]
        else:
            values = [
                SQL("{} = NEW.{}").format(Identifier(own), Identifier(theirs))
                for own, theirs in pairs
            ]
        differs = SQL(" OR ").join(
            SQL("OLD.{0} IS DISTINCT FROM NEW.{0}").format(Identifier(theirs))
            for _, theirs in pairs
        )
        statement = SQL("UPDATE {} SET {} WHERE {}").format(
            self._name(child), SQL(", ").join(values), _old(fk)
        )
        return f"    IF {render(differs)} THEN\n      {render(statement)};\n    END IF;\n"

    def _first(self) -> str:
        """What refers to the deleted row itself."""
        lines: list[str] = []
        seen: set[str] = set()
        for child, fk in self._children(self.reference):
            statement = render(self._acted(child, fk, SQL(""), _old(fk)))
            if statement in seen:
                continue
            seen.add(statement)
            lines += self._with_result(child, fk, statement)
        return "".join(f"  {line}\n" for line in lines)

    def _rest(self) -> str:
        """Level by level, until a round deletes nothing that others refer to; cycles end too."""
        if not self.levels:
            return ""
        anything = " OR ".join(
            f"{render(level.variables('next')[0])} IS NOT NULL" for level in self.levels.values()
        )
        lines = [f"  WHILE {anything} LOOP\n"]
        for level in self.levels.values():
            for now, later in zip(level.variables("now"), level.variables("next"), strict=True):
                lines.append(f"    {render(now)} := {render(later)}; {render(later)} := NULL;\n")
        for level in self.levels.values():
            for child, fk in self._children(level.table.name):
                gone = SQL("unnest({}) AS p({})").format(
                    SQL(", ").join(level.variables("now")), names(level.columns)
                )
                where = SQL(" AND ").join(
                    SQL("c.{} = p.{}").format(Identifier(own), Identifier(theirs))
                    for own, theirs in zip(fk.columns, fk.ref_columns, strict=True)
                )
                statement = render(self._acted(child, fk, gone, where))
                lines += [f"    {line}\n" for line in self._with_result(child, fk, statement)]
        lines.append("  END LOOP;\n")
        return "".join(lines)

    def _acted(
        self, child: Table, fk: ForeignKey, source: Composable, where: Composable
    ) -> Composed:
        if fk.on_delete == "c":
            using = SQL(" USING {}").format(source) if render(source) else SQL("")
            return SQL("DELETE FROM {} AS c{} WHERE {}").format(self._name(child), using, where)
        cleared = SQL(", ").join(
            SQL("{} = NULL").format(Identifier(column)) for column in fk.set_columns or fk.columns
        )
        origin = SQL(" FROM {}").format(source) if render(source) else SQL("")
        return SQL("UPDATE {} AS c SET {}{} WHERE {}").format(
            self._name(child), cleared, origin, where
        )

    def _with_result(self, child: Table, fk: ForeignKey, statement: str) -> list[str]:
        """The statement; where others refer to the rows that it deletes, their keys are kept."""
        level = self.levels.get(child.name) if fk.on_delete == "c" else None
        if level is None:
            return [f"{statement};"]
        returned = SQL(", ").join(
            SQL("c.{}").format(Identifier(column)) for column in level.columns
        )
        gathered = SQL(", ").join(
            SQL("array_agg(g.{})").format(Identifier(column)) for column in level.columns
        )
        got = SQL(", ").join(level.variables("got"))
        return [
            render(
                SQL("WITH g AS ({} RETURNING {}) SELECT {} INTO {} FROM g;").format(
                    text(statement), returned, gathered, got
                )
            ),
            *(
                f"{render(later)} := {render(later)} || {render(found)};"
                for later, found in zip(
                    level.variables("next"), level.variables("got"), strict=True
                )
            ),
        ]

    def _name(self, table: Table) -> Identifier:
        return Identifier(self.namespace, table.name)


def _old(fk: ForeignKey) -> Composed:
    return SQL(" AND ").join(
        SQL("{} = OLD.{}").format(Identifier(own), Identifier(theirs))
        for own, theirs in zip(fk.columns, fk.ref_columns, strict=True)
    )


def _type(table: Table, column: str) -> str:
    found = table.column(column)
    assert found is not None
    return found.type
