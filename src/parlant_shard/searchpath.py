"""The search_path under which functions of the application find what they name without a schema.

Our sessions have an empty one (CVE-2018-1058): whoever may create functions or operators in a
schema of the path can capture calls of whoever runs with it. But a CHECK, a generated column, an
index or a trigger may call functions that rely on the path of the application. So statements that
evaluate those, and no others, get a path of the schemas in which nobody can plant anything: the
topology's namespace, `public`, and the schemas of extensions.

A schema is on the path only if every role that may create in it, or owns a function, operator or
type in it, could take over the session anyway: superusers, the session's own role, the database's
owner, the owner of the namespace. Every table and view has a type; and `f(x)` is a cast where `f`
is a domain, whose CHECK can call anything. `pg_temp` stands at the end, so that no temporary table
hides another.
"""

from __future__ import annotations

from psycopg.sql import SQL, Composed, Literal

_SCHEMAS = """\
WITH trusted AS (
  SELECT r.oid FROM pg_catalog.pg_roles r
   WHERE r.rolsuper OR r.rolname IN (current_user, 'pg_database_owner')
   UNION SELECT d.datdba FROM pg_catalog.pg_database d WHERE d.datname = current_database()
   UNION SELECT n.nspowner FROM pg_catalog.pg_namespace n WHERE n.nspname = {namespace}
), schemas AS (
  SELECT n.oid, n.nspname, n.nspowner, n.nspacl,
         CASE n.nspname WHEN {namespace} THEN 0 WHEN 'public' THEN 1 ELSE 2 END AS rank
    FROM pg_catalog.pg_namespace n
   WHERE n.nspname IN ({namespace}, 'public')
      OR (n.nspname NOT IN ('pg_catalog', 'parlant_shard')
          AND EXISTS (SELECT FROM pg_catalog.pg_extension e WHERE e.extnamespace = n.oid))
), others AS (
  SELECT DISTINCT s.oid, s.nspname, s.rank, x.role
    FROM schemas s
   CROSS JOIN LATERAL (
          SELECT s.nspowner AS role
           UNION ALL SELECT a.grantee
            FROM pg_catalog.aclexplode(
                   coalesce(s.nspacl, pg_catalog.acldefault('n', s.nspowner))) a
           WHERE a.privilege_type = 'CREATE'
           UNION ALL SELECT p.proowner FROM pg_catalog.pg_proc p WHERE p.pronamespace = s.oid
           UNION ALL SELECT o.oprowner FROM pg_catalog.pg_operator o WHERE o.oprnamespace = s.oid
           UNION ALL SELECT t.typowner FROM pg_catalog.pg_type t WHERE t.typnamespace = s.oid
         ) x
   WHERE x.role NOT IN (SELECT t.oid FROM trusted t)
)
"""

_SET = """\
SELECT pg_catalog.set_config('search_path', coalesce((
         SELECT pg_catalog.string_agg(pg_catalog.quote_ident(s.nspname) || ', ', ''
                                      ORDER BY s.rank, s.nspname)
           FROM schemas s WHERE s.oid NOT IN (SELECT o.oid FROM others o)), '') || 'pg_temp',
       {local})"""

_REFUSED = """\
SELECT o.nspname::text AS schema,
       pg_catalog.array_agg(coalesce(r.rolname::text, 'PUBLIC') ORDER BY r.rolname) AS roles
  FROM others o LEFT JOIN pg_catalog.pg_roles r ON r.oid = o.role
 WHERE o.rank < 2
 GROUP BY o.rank, o.nspname ORDER BY o.rank"""

# For a session whose path was set with `local=False`.
CLOSED = SQL("SELECT pg_catalog.set_config('search_path', '', false)")


def opened(namespace: str, *, local: bool = True) -> Composed:
    """Return the statement after which functions of the application find what they name.

    It holds for the transaction, or with `local=False` until CLOSED is run.
    """
    return SQL(_SCHEMAS + _SET).format(namespace=Literal(namespace), local=Literal(local))


def refused(namespace: str) -> Composed:
    """Return the query for the schemas that are left out, each with the roles that are why."""
    return SQL(_SCHEMAS + _REFUSED).format(namespace=Literal(namespace))
