"""Rows that a foreign key will not admit: which they are, before and after PostgreSQL says no."""

from __future__ import annotations

import psycopg
from psycopg.sql import SQL, Identifier, Literal

from parlant_shard import canonical, db
from parlant_shard.plan import SOME, Orphans

# Milliseconds. A plan looks at whole tables for this, and goes without the answer after that.
LOOK = 60_000

_ABOUT = """
SELECT r.relname::text AS references, rn.nspname::text AS schema,
       ARRAY(SELECT a.attname::text FROM pg_catalog.unnest(o.conkey) WITH ORDINALITY k(num, place)
               JOIN pg_catalog.pg_attribute a ON a.attrelid = o.conrelid AND a.attnum = k.num
              ORDER BY k.place) AS columns,
       ARRAY(SELECT a.attname::text FROM pg_catalog.unnest(o.confkey) WITH ORDINALITY k(num, place)
               JOIN pg_catalog.pg_attribute a ON a.attrelid = o.confrelid AND a.attnum = k.num
              ORDER BY k.place) AS ref_columns
  FROM pg_catalog.pg_constraint o
  JOIN pg_catalog.pg_class c ON c.oid = o.conrelid
  JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
  JOIN pg_catalog.pg_class r ON r.oid = o.confrelid
  JOIN pg_catalog.pg_namespace rn ON rn.oid = r.relnamespace
 WHERE o.contype = 'f' AND n.nspname = %s AND c.relname = %s AND o.conname = %s
"""


def orphans(
    connection: db.Connection, server: str, namespace: str, table: str, constraint: str
) -> Orphans | None:
    """The rows of `table` that have no row where its foreign key `constraint` points.

    None if there are none, or no such foreign key. Raises psycopg.Error if they cannot be read; if
    that takes too long, neither number nor keys are known.
    """
    about = connection.execute(_ABOUT, [namespace, table, constraint]).fetchone()
    if about is None:
        return None
    columns = [Identifier("c", name) for name in about["columns"]]
    where = SQL("{} AND NOT EXISTS (SELECT FROM {} AS p WHERE {})").format(
        SQL(" AND ").join(SQL("{} IS NOT NULL").format(c) for c in columns),
        Identifier(about["schema"], about["references"]),
        SQL(" AND ").join(
            SQL("{} = {}").format(Identifier("p", theirs), mine)
            for theirs, mine in zip(about["ref_columns"], columns, strict=True)
        ),
    )
    target = Identifier(namespace, table)
    query = SQL(
        "SELECT sum(f.rows)::bigint AS rows, (pg_catalog.array_agg(f.key ORDER BY f.key))[:{}] "
        "AS keys FROM (SELECT pg_catalog.concat_ws(', ', {}) AS key, count(*) AS rows "
        "FROM {} AS c WHERE {} GROUP BY 1) AS f"
    ).format(Literal(SOME), SQL(", ").join(columns), target, where)
    rows, keys = None, []
    try:
        with connection.transaction():
            connection.execute(
                "SELECT pg_catalog.set_config('statement_timeout', %s, true)", [str(LOOK)]
            )
            found = connection.execute(query).fetchone()
        assert found is not None
        if found["rows"] is None:
            return None
        rows, keys = found["rows"], [canonical.literal(key) for key in found["keys"]]
    except psycopg.errors.QueryCanceled:
        pass
    return Orphans(
        server=server,
        table=table,
        foreign_key=constraint,
        references=about["references"],
        rows=rows,
        keys=tuple(keys),
        query=SQL("SELECT c.* FROM {} AS c WHERE {}").format(target, where).as_string(connection),
    )
