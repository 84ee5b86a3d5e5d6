"""What a delete of a reference row means on a server that only has a copy of it.

Deletes that logical replication applies fire no foreign key, and neither do the deletes that a
trigger makes under it: the apply worker runs as replica. So every level of the cascade is spelled
out, children first, in the body of one trigger function per reference table.
"""

from __future__ import annotations

from collections.abc import Mapping

from psycopg.sql import SQL, Composable, Composed, Identifier

from parlant_shard.catalog import ForeignKey, Relkind, Table
from parlant_shard.ddl import names, render


def cascade_body(namespace: str, reference: str, tables: Mapping[str, Table]) -> str:
    """Return the plpgsql body: CASCADE, SET NULL and SET DEFAULT as the foreign keys declare them.

    `tables` is what the server is to hold. NO ACTION and RESTRICT cannot stop a delete that the
    coordinator has committed already: such rows stay, and the audit reports them.
    """
    statements: dict[str, None] = {}  # two ways to the same rows need one statement

    def add(statement: Composed) -> None:
        # The last place counts: by then all that hangs on the rows is gone.
        text = render(statement)
        statements.pop(text, None)
        statements[text] = None

    def qualified(table: str) -> Identifier:
        return Identifier(namespace, table)

    def referencing(table: str) -> list[tuple[Table, ForeignKey]]:
        return [
            (t, fk)
            for _, t in sorted(tables.items())
            if t.parent is None and t.kind is not Relkind.FOREIGN
            for fk in t.foreign_keys
            if fk.ref_table == table and not fk.unenforced  # that one carries nothing out
        ]

    def follow(table: str, condition: Composable, trail: tuple[str, ...]) -> None:
        for child, fk in referencing(table):
            if child.name in trail:
                continue  # a cycle: its rows go with their parents
            where = SQL("({}) IN (SELECT {} FROM {} WHERE {})").format(
                names(fk.columns), names(fk.ref_columns), qualified(table), condition
            )
            act(child, fk, where, trail)

    def act(child: Table, fk: ForeignKey, where: Composable, trail: tuple[str, ...]) -> None:
        if fk.on_delete == "c":
            follow(child.name, where, (*trail, child.name))
            add(SQL("DELETE FROM {} WHERE {}").format(qualified(child.name), where))
        elif fk.on_delete in {"n", "d"}:
            value = SQL("NULL" if fk.on_delete == "n" else "DEFAULT")
            cleared = SQL(", ").join(
                SQL("{} = {}").format(Identifier(c), value) for c in fk.set_columns or fk.columns
            )
            add(SQL("UPDATE {} SET {} WHERE {}").format(qualified(child.name), cleared, where))

    for child, fk in referencing(reference):
        where = SQL(" AND ").join(
            SQL("{} = OLD.{}").format(Identifier(own), Identifier(theirs))
            for own, theirs in zip(fk.columns, fk.ref_columns, strict=True)
        )
        act(child, fk, where, (child.name,))
    lines = "".join(f"  {s};\n" for s in statements)
    # Only for what replication applies: a delete by hand is refused by the guard.
    return (
        "\nBEGIN\n  IF pg_catalog.current_setting('session_replication_role') <> 'replica' THEN\n"
        f"    RETURN NULL;\n  END IF;\n{lines}  RETURN NULL;\nEND;\n"
    )
