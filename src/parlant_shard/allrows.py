"""What makes a session see every row of a table, or fail: policies must never hide rows from us."""

from __future__ import annotations

from collections.abc import Iterable

from psycopg.sql import SQL, Composable, Composed, Literal

# A policy of ours lets the owner see everything; then row_security stays on, because off refuses
# every table whose policies are forced. Anywhere else off makes PostgreSQL refuse what it would
# filter.
_STATEMENT = """\
SELECT pg_catalog.set_config('row_security', CASE WHEN EXISTS (
  SELECT FROM pg_catalog.pg_class c
    JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace AND n.nspname = {namespace}
   WHERE c.relkind IN ('r', 'p'){only} AND pg_catalog.row_security_active(c.oid)
     AND (NOT EXISTS (SELECT FROM pg_catalog.pg_policy p
                       WHERE p.polrelid = c.oid AND p.polpermissive AND p.polcmd IN ('r', '*')
                         AND pg_catalog.pg_get_expr(p.polqual, p.polrelid) = 'true'
                         AND (0 = ANY (p.polroles) OR EXISTS (
                               SELECT FROM pg_catalog.unnest(p.polroles) o(id)
                                WHERE pg_catalog.pg_has_role(o.id, 'USAGE'))))
          OR EXISTS (SELECT FROM pg_catalog.pg_policy p
                      WHERE p.polrelid = c.oid AND NOT p.polpermissive AND p.polcmd IN ('r', '*')
                        AND pg_catalog.pg_get_expr(p.polqual, p.polrelid) IS DISTINCT FROM 'true'
                        AND (0 = ANY (p.polroles) OR EXISTS (
                              SELECT FROM pg_catalog.unnest(p.polroles) o(id)
                               WHERE pg_catalog.pg_has_role(o.id, 'USAGE')))))
  ) THEN 'off' ELSE 'on' END, {local})"""


def every_row(
    namespace: str, tables: Iterable[str] | None = None, *, local: bool = True
) -> Composed:
    """Return the statement after which reading these tables (None: all) gives every row or fails.

    It holds for the transaction, or with `local=False` for the session.
    """
    only: Composable = SQL("")
    if tables is not None:
        only = SQL(" AND c.relname = ANY ({}::text[])").format(Literal(list(tables)))
    return SQL(_STATEMENT).format(namespace=Literal(namespace), only=only, local=Literal(local))
