-- name: on_schema
-- What the role lacks on a schema, the first that a statement needs.
SELECT CASE WHEN NOT pg_catalog.has_schema_privilege(n.oid, 'USAGE') THEN 'USAGE'
            WHEN NOT pg_catalog.has_schema_privilege(n.oid, 'CREATE') THEN 'CREATE' END AS lacks
  FROM pg_catalog.pg_namespace n WHERE n.nspname = %(name)s;

-- name: on_table
-- The tables and views of that name, and whether the role may read them; none of PostgreSQL's own.
SELECT n.nspname AS namespace, pg_catalog.has_table_privilege(c.oid, 'SELECT') AS readable
  FROM pg_catalog.pg_class c
  JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
 WHERE c.relname = %(name)s AND c.relkind IN ('r', 'p', 'v', 'm', 'f')
   AND n.nspname NOT IN ('pg_catalog', 'information_schema');
