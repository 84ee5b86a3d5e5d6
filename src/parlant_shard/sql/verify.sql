-- name: snapshot
-- The snapshot of this transaction: when it was taken, and the oldest transaction it does not see.
SELECT pg_catalog.to_char(pg_catalog.timezone('UTC', pg_catalog.transaction_timestamp()),
                          'YYYY-MM-DD"T"HH24:MI:SS.US"Z"') AS taken_at,
       pg_catalog.pg_snapshot_xmin(pg_catalog.pg_current_snapshot())::text::bigint AS xmin,
       pg_catalog.pg_snapshot_xmax(pg_catalog.pg_current_snapshot())::text::bigint AS xmax,
       pg_catalog.current_setting('block_size')::bigint AS block_size;

-- name: heap
-- How large a table is now, and which file holds it.
SELECT pg_catalog.pg_relation_size(c.oid) / pg_catalog.current_setting('block_size')::bigint AS pages,
       pg_catalog.pg_relation_filenode(c.oid)::bigint AS filenode,
       greatest(c.reltuples, 0)::bigint AS rows
  FROM pg_catalog.pg_class c
  JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace AND n.nspname = %(namespace)s
 WHERE c.relname = %(table)s;

-- name: hidden
-- Tables of which our role does not see every row: no SELECT, or policies that do not let it.
SELECT c.relname AS name,
       pg_catalog.has_table_privilege(c.oid, 'SELECT') AS readable,
       pg_catalog.row_security_active(c.oid) AS guarded,
       EXISTS (SELECT FROM pg_catalog.pg_policy p
                WHERE p.polrelid = c.oid AND p.polpermissive AND p.polcmd IN ('r', '*')
                  AND pg_catalog.pg_get_expr(p.polqual, p.polrelid) = 'true'
                  AND (0 = ANY (p.polroles) OR EXISTS (
                        SELECT FROM pg_catalog.unnest(p.polroles) o(id)
                         WHERE pg_catalog.pg_has_role(o.id, 'USAGE'))))
       AND NOT EXISTS (SELECT FROM pg_catalog.pg_policy p
                WHERE p.polrelid = c.oid AND NOT p.polpermissive AND p.polcmd IN ('r', '*')
                  AND pg_catalog.pg_get_expr(p.polqual, p.polrelid) IS DISTINCT FROM 'true'
                  AND (0 = ANY (p.polroles) OR EXISTS (
                        SELECT FROM pg_catalog.unnest(p.polroles) o(id)
                         WHERE pg_catalog.pg_has_role(o.id, 'USAGE')))) AS open
  FROM pg_catalog.pg_class c
  JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace AND n.nspname = %(namespace)s
 WHERE c.relname = ANY (%(tables)s) AND c.relkind IN ('r', 'p')
   AND (NOT pg_catalog.has_table_privilege(c.oid, 'SELECT')
        OR pg_catalog.row_security_active(c.oid))
 ORDER BY 1;

-- name: bypassing
-- Roles that pass over row-level security and are the application's: itself, whoever acts as it,
-- and whomever it can become.
WITH RECURSIVE acts AS (
  SELECT r.oid, false AS upwards FROM pg_catalog.pg_roles r WHERE r.rolname = %(role)s
  UNION SELECT m.member, false FROM acts a JOIN pg_catalog.pg_auth_members m ON m.roleid = a.oid
         WHERE NOT a.upwards
), becomes AS (
  SELECT r.oid FROM pg_catalog.pg_roles r WHERE r.rolname = %(role)s
  UNION SELECT m.roleid FROM becomes b JOIN pg_catalog.pg_auth_members m ON m.member = b.oid
)
SELECT r.rolname AS name, r.rolsuper AS superuser, r.rolbypassrls AS bypasses,
       r.oid IN (SELECT b.oid FROM becomes b) AND r.rolname <> %(role)s AS becomes
  FROM pg_catalog.pg_roles r
 WHERE r.oid IN (SELECT a.oid FROM acts a UNION SELECT b.oid FROM becomes b)
   AND (r.rolsuper OR r.rolbypassrls)
 ORDER BY 1;

-- name: owning
-- Roles that the application is or can become and that own tables of tenants: they may drop the wall.
WITH RECURSIVE becomes AS (
  SELECT r.oid FROM pg_catalog.pg_roles r WHERE r.rolname = %(role)s
  UNION SELECT m.roleid FROM becomes b JOIN pg_catalog.pg_auth_members m ON m.member = b.oid
)
SELECT r.rolname AS name, count(*) AS tables, min(c.relname::text) AS first
  FROM pg_catalog.pg_class c
  JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace AND n.nspname = %(namespace)s
  JOIN pg_catalog.pg_roles r ON r.oid = c.relowner
 WHERE c.relname = ANY (%(tables)s) AND c.relowner IN (SELECT b.oid FROM becomes b)
 GROUP BY 1 ORDER BY 1;

-- name: superuser_owners
-- Tables whose owner is a superuser: whoever works as their owner sees everything.
SELECT r.rolname AS name, count(*) AS tables, min(c.relname::text) AS first
  FROM pg_catalog.pg_class c
  JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace AND n.nspname = %(namespace)s
  JOIN pg_catalog.pg_roles r ON r.oid = c.relowner AND r.rolsuper
 WHERE c.relname = ANY (%(tables)s)
 GROUP BY 1 ORDER BY 1;

-- name: internal_grants
-- What PUBLIC and the application may do with our own schema, beyond reading the map and what
-- functions need.
SELECT n.nspname || '.' || c.relname AS name, coalesce(g.rolname, 'PUBLIC') AS role,
       pg_catalog.string_agg(DISTINCT x.privilege_type, ', ') AS privileges
  FROM pg_catalog.pg_class c
  JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace AND n.nspname = 'parlant_shard'
  CROSS JOIN LATERAL pg_catalog.aclexplode(c.relacl) x
  LEFT JOIN pg_catalog.pg_roles g ON g.oid = x.grantee
 WHERE c.relkind IN ('r', 'p', 'v', 'm', 'S') AND x.grantee <> c.relowner
   AND (x.grantee = 0 OR g.rolname = %(role)s)
   AND NOT (c.relname = 'map' AND x.grantee <> 0 AND x.privilege_type = 'SELECT')
 GROUP BY 1, 2
 UNION ALL
SELECT 'schema ' || n.nspname, coalesce(g.rolname, 'PUBLIC'),
       pg_catalog.string_agg(DISTINCT x.privilege_type, ', ')
  FROM pg_catalog.pg_namespace n
  CROSS JOIN LATERAL pg_catalog.aclexplode(n.nspacl) x
  LEFT JOIN pg_catalog.pg_roles g ON g.oid = x.grantee
 WHERE n.nspname = 'parlant_shard' AND x.grantee <> n.nspowner
   AND (x.grantee = 0 OR (g.rolname = %(role)s AND x.privilege_type <> 'USAGE'))
 GROUP BY 1, 2
 ORDER BY 1, 2;

-- name: carried_grants
-- Tables on which the application has a privilege, however it came by it.
SELECT c.relname AS name
  FROM pg_catalog.pg_class c
  JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace AND n.nspname = %(namespace)s
  JOIN pg_catalog.pg_roles g ON g.rolname = %(role)s
 WHERE c.relname = ANY (%(tables)s) AND c.relkind IN ('r', 'p')
   AND pg_catalog.has_table_privilege(g.oid, c.oid, %(privilege)s)
 ORDER BY 1;

-- name: creating
-- Schemas of statements' search_path in which the application may make functions and operators.
SELECT n.nspname AS name
  FROM pg_catalog.pg_namespace n
  JOIN pg_catalog.pg_roles g ON g.rolname = %(role)s
 WHERE n.nspname IN (%(namespace)s, 'public')
   AND pg_catalog.has_schema_privilege(g.oid, n.oid, 'CREATE')
 ORDER BY 1;

-- name: server_grants
-- Foreign servers of ours that PUBLIC or the application may use, and user mappings of theirs.
SELECT 'foreign server ' || s.srvname AS name, coalesce(g.rolname, 'PUBLIC') AS role
  FROM pg_catalog.pg_foreign_server s
  CROSS JOIN LATERAL pg_catalog.aclexplode(s.srvacl) x
  LEFT JOIN pg_catalog.pg_roles g ON g.oid = x.grantee
 WHERE s.srvname LIKE 'parlant\_shard\_%%' AND x.grantee <> s.srvowner
   AND (x.grantee = 0 OR g.rolname = %(role)s)
 UNION ALL
SELECT 'user mapping for foreign server ' || m.srvname,
       CASE WHEN m.umuser = 0 THEN 'PUBLIC' ELSE m.usename END
  FROM pg_catalog.pg_user_mappings m
 WHERE m.srvname LIKE 'parlant\_shard\_%%' AND (m.umuser = 0 OR m.usename = %(role)s)
 ORDER BY 1, 2;

-- name: relation_grants
-- Relations on which PUBLIC has rights.
SELECT c.relname AS name, pg_catalog.string_agg(DISTINCT x.privilege_type, ', ') AS privileges
  FROM pg_catalog.pg_class c
  JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace AND n.nspname = %(namespace)s
  CROSS JOIN LATERAL (
    SELECT a.grantee, a.privilege_type FROM pg_catalog.aclexplode(c.relacl) a
     UNION ALL
    SELECT a.grantee, a.privilege_type || ' (' || t.attname || ')'
      FROM pg_catalog.pg_attribute t CROSS JOIN LATERAL pg_catalog.aclexplode(t.attacl) a
     WHERE t.attrelid = c.oid AND t.attnum > 0) x
 WHERE c.relname = ANY (%(tables)s) AND x.grantee = 0
 GROUP BY 1 ORDER BY 1;

-- name: foreign_columns
-- Columns of foreign tables that read a remote column of another name.
SELECT c.relname AS "table", a.attname AS "column",
       pg_catalog.array_to_string(a.attfdwoptions, ', ') AS options
  FROM pg_catalog.pg_attribute a
  JOIN pg_catalog.pg_class c ON c.oid = a.attrelid AND c.relkind = 'f'
  JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace AND n.nspname = %(namespace)s
 WHERE a.attfdwoptions IS NOT NULL AND a.attnum > 0 AND NOT a.attisdropped
 ORDER BY 1, 2;
