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

-- name: gone
-- Whether a table is there no more. Names are looked up as they are now, whatever the snapshot.
SELECT pg_catalog.to_regclass(pg_catalog.format('%%I.%%I', %(namespace)s::text, %(table)s::text)) IS NULL AS gone;

-- name: rewritten
-- Tables, or partitions of them, that have another file now than this snapshot shows.
SELECT c.relname AS name
  FROM pg_catalog.pg_class c
  JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace AND n.nspname = %(namespace)s
 WHERE c.relkind = 'r'
   -- The function sees what is committed, and gives NULL for a table that is gone.
   AND c.relfilenode <> pg_catalog.pg_relation_filenode(c.oid)
   AND (c.relname = ANY (%(tables)s)
        OR EXISTS (SELECT FROM pg_catalog.pg_inherits i
                     JOIN pg_catalog.pg_class p ON p.oid = i.inhparent AND p.relname = ANY (%(tables)s)
                      AND p.relnamespace = n.oid
                    WHERE i.inhrelid = c.oid))
 ORDER BY 1;

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

-- name: application
-- The roles that are the application's: itself, whoever acts as it, and whomever it can become.
WITH RECURSIVE acts AS (
  SELECT r.oid FROM pg_catalog.pg_roles r WHERE r.rolname = %(role)s
  UNION SELECT m.member FROM acts a JOIN pg_catalog.pg_auth_members m ON m.roleid = a.oid
   -- From 16 on, who made a role can grant it; that alone is no way to act as it.
   WHERE coalesce((pg_catalog.to_jsonb(m) ->> 'inherit_option')::bool, true)
      OR coalesce((pg_catalog.to_jsonb(m) ->> 'set_option')::bool, true)
), becomes AS (
  SELECT r.oid FROM pg_catalog.pg_roles r WHERE r.rolname = %(role)s
  UNION SELECT m.roleid FROM becomes b JOIN pg_catalog.pg_auth_members m ON m.member = b.oid
)
SELECT r.rolname AS name, r.oid IN (SELECT b.oid FROM becomes b) AND r.rolname <> %(role)s AS becomes,
       r.rolsuper AS superuser, r.rolbypassrls AS bypasses, r.rolreplication AS replicates,
       -- From 16 on, only those roles that it has the ADMIN OPTION for.
       r.rolcreaterole AND pg_catalog.current_setting('server_version_num')::int < 160000 AS makes_roles
  FROM pg_catalog.pg_roles r
 WHERE r.oid IN (SELECT a.oid FROM acts a UNION SELECT b.oid FROM becomes b)
 ORDER BY 1;

-- name: reaching
-- Which of some roles others of them can become.
WITH RECURSIVE reach AS (
  SELECT m.member AS who, m.roleid AS target FROM pg_catalog.pg_auth_members m
   WHERE m.member IN (SELECT r.oid FROM pg_catalog.pg_roles r WHERE r.rolname = ANY (%(roles)s))
  UNION SELECT r.who, m.roleid FROM reach r JOIN pg_catalog.pg_auth_members m ON m.member = r.target
)
SELECT w.rolname AS name, t.rolname AS target
  FROM reach r
  JOIN pg_catalog.pg_roles w ON w.oid = r.who
  JOIN pg_catalog.pg_roles t ON t.oid = r.target
 WHERE w.rolname <> t.rolname
   AND (t.rolname = ANY (%(targets)s) OR t.rolsuper OR t.rolbypassrls)
 ORDER BY 1, 2;

-- name: owners
-- Who owns tables of tenants.
SELECT DISTINCT r.rolname AS name
  FROM pg_catalog.pg_class c
  JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace AND n.nspname = %(namespace)s
  JOIN pg_catalog.pg_roles r ON r.oid = c.relowner
 WHERE c.relname = ANY (%(tables)s) ORDER BY 1;

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
       pg_catalog.string_agg(DISTINCT x.privilege_type || coalesce(' (' || x.attname || ')', ''), ', ')
         AS privileges
  FROM pg_catalog.pg_class c
  JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace AND n.nspname = 'parlant_shard'
  CROSS JOIN LATERAL (
    SELECT a.grantee, a.privilege_type, NULL AS attname FROM pg_catalog.aclexplode(c.relacl) a
     UNION ALL
    SELECT a.grantee, a.privilege_type, t.attname::text
      FROM pg_catalog.pg_attribute t CROSS JOIN LATERAL pg_catalog.aclexplode(t.attacl) a
     WHERE t.attrelid = c.oid AND t.attnum > 0) x
  LEFT JOIN pg_catalog.pg_roles g ON g.oid = x.grantee
 WHERE c.relkind IN ('r', 'p', 'v', 'm', 'S') AND x.grantee <> c.relowner
   AND (x.grantee = 0 OR g.rolname = ANY (%(roles)s))
   AND NOT (c.relname = 'map' AND x.grantee <> 0 AND x.privilege_type = 'SELECT')
 GROUP BY 1, 2
 UNION ALL
SELECT 'schema ' || n.nspname, coalesce(g.rolname, 'PUBLIC'),
       pg_catalog.string_agg(DISTINCT x.privilege_type, ', ')
  FROM pg_catalog.pg_namespace n
  CROSS JOIN LATERAL pg_catalog.aclexplode(n.nspacl) x
  LEFT JOIN pg_catalog.pg_roles g ON g.oid = x.grantee
 WHERE n.nspname = 'parlant_shard' AND x.grantee <> n.nspowner
   AND (x.grantee = 0 OR (g.rolname = ANY (%(roles)s) AND x.privilege_type <> 'USAGE'))
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

-- name: schema_grants
-- Who may make objects in schemas of statements' search_path: PUBLIC and the application.
SELECT n.nspname AS schema, coalesce(g.rolname, 'PUBLIC') AS role
  FROM pg_catalog.pg_namespace n
  CROSS JOIN LATERAL pg_catalog.aclexplode(n.nspacl) x
  LEFT JOIN pg_catalog.pg_roles g ON g.oid = x.grantee
 WHERE n.nspname IN (%(namespace)s, 'public') AND x.privilege_type = 'CREATE'
   AND x.grantee <> n.nspowner AND (x.grantee = 0 OR g.rolname = ANY (%(roles)s))
 GROUP BY 1, 2 ORDER BY 1, 2;

-- name: default_grants
-- What PUBLIC gets of every table that an owner of our tables makes: of the next partition too.
SELECT r.rolname AS owner, pg_catalog.string_agg(DISTINCT x.privilege_type, ', ') AS privileges
  FROM pg_catalog.pg_default_acl d
  JOIN pg_catalog.pg_roles r ON r.oid = d.defaclrole AND r.rolname = ANY (%(owners)s)
  LEFT JOIN pg_catalog.pg_namespace n ON n.oid = d.defaclnamespace
  CROSS JOIN LATERAL pg_catalog.aclexplode(d.defaclacl) x
 WHERE d.defaclobjtype = 'r' AND x.grantee = 0
   AND (d.defaclnamespace = 0 OR n.nspname IN (%(namespace)s, 'parlant_shard'))
 GROUP BY 1 ORDER BY 1;

-- name: server_grants
-- Foreign servers of ours that PUBLIC or the application may use, and user mappings of theirs.
SELECT 'foreign server ' || s.srvname AS name, coalesce(g.rolname, 'PUBLIC') AS role
  FROM pg_catalog.pg_foreign_server s
  CROSS JOIN LATERAL pg_catalog.aclexplode(s.srvacl) x
  LEFT JOIN pg_catalog.pg_roles g ON g.oid = x.grantee
 WHERE s.srvname LIKE 'parlant\_shard\_%%' AND x.grantee <> s.srvowner
   AND (x.grantee = 0 OR g.rolname = ANY (%(roles)s))
 UNION ALL
SELECT 'user mapping for foreign server ' || m.srvname,
       CASE WHEN m.umuser = 0 THEN 'PUBLIC' ELSE m.usename END
  FROM pg_catalog.pg_user_mappings m
 WHERE m.srvname LIKE 'parlant\_shard\_%%' AND (m.umuser = 0 OR m.usename = ANY (%(roles)s))
 ORDER BY 1, 2;

-- name: relation_grants
-- Relations on which PUBLIC has rights, and rights of the application that no policy narrows.
SELECT c.relname AS name, coalesce(g.rolname, 'PUBLIC') AS role, x.grantee = 0 AS public,
       pg_catalog.string_agg(DISTINCT x.privilege_type || coalesce(' (' || x.attname || ')', '')
         || CASE WHEN x.is_grantable THEN ' WITH GRANT OPTION' ELSE '' END, ', ') AS privileges
  FROM pg_catalog.pg_class c
  JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace AND n.nspname = %(namespace)s
  CROSS JOIN LATERAL (
    SELECT a.grantee, a.privilege_type, a.is_grantable, NULL AS attname
      FROM pg_catalog.aclexplode(c.relacl) a
     UNION ALL
    SELECT a.grantee, a.privilege_type, a.is_grantable, t.attname::text
      FROM pg_catalog.pg_attribute t CROSS JOIN LATERAL pg_catalog.aclexplode(t.attacl) a
     WHERE t.attrelid = c.oid AND t.attnum > 0) x
  LEFT JOIN pg_catalog.pg_roles g ON g.oid = x.grantee
 WHERE c.relname = ANY (%(tables)s)
   AND (x.grantee = 0
        OR (c.relkind IN ('r', 'p') AND g.rolname = ANY (%(roles)s)
            AND (x.is_grantable OR x.privilege_type IN ('TRUNCATE', 'TRIGGER', 'REFERENCES'))))
 GROUP BY 1, 2, 3 ORDER BY 1, 2;

-- name: revealing_views
-- Views that show the application rows of tenants' tables with the rights of an owner who sees all.
WITH RECURSIVE shown AS (
  SELECT c.oid, c.relname AS source
    FROM pg_catalog.pg_class c
    JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace AND n.nspname = %(namespace)s
   WHERE c.relname = ANY (%(tables)s)
  UNION
  SELECT r.ev_class, s.source
    FROM shown s
    JOIN pg_catalog.pg_depend d ON d.refclassid = 'pg_catalog.pg_class'::regclass AND d.refobjid = s.oid
         AND d.classid = 'pg_catalog.pg_rewrite'::regclass
    JOIN pg_catalog.pg_rewrite r ON r.oid = d.objid
)
SELECT n.nspname AS namespace, v.relname AS name, v.relkind = 'm' AS stored, o.rolname AS owner,
       min(s.source::text) AS source, min(g.name) AS reader
  FROM shown s
  JOIN pg_catalog.pg_class v ON v.oid = s.oid AND v.relkind IN ('v', 'm')
  JOIN pg_catalog.pg_namespace n ON n.oid = v.relnamespace
  JOIN pg_catalog.pg_roles o ON o.oid = v.relowner
  CROSS JOIN LATERAL pg_catalog.unnest(%(roles)s::text[]) g(name)
 WHERE (v.relkind = 'm' OR NOT EXISTS (
         SELECT FROM pg_catalog.pg_options_to_table(v.reloptions) p
          WHERE p.option_name = 'security_invoker' AND p.option_value::bool))
   AND (o.rolsuper OR o.rolbypassrls OR EXISTS (
         SELECT FROM pg_catalog.unnest(%(passing)s::text[]) p(name)
          WHERE pg_catalog.pg_has_role(o.oid, p.name::name, 'USAGE')))
   AND pg_catalog.has_schema_privilege(g.name::name, n.oid, 'USAGE')
   AND pg_catalog.has_any_column_privilege(g.name::name, v.oid, 'SELECT')
 GROUP BY 1, 2, 3, 4 ORDER BY 1, 2;

-- name: definer_functions
-- Functions that the application may call, and that act with the rights of an owner who sees all.
SELECT CASE WHEN n.nspname = %(namespace)s THEN '' ELSE pg_catalog.quote_ident(n.nspname) || '.' END
         || pg_catalog.format('%%I(%%s)', p.proname, pg_catalog.pg_get_function_identity_arguments(p.oid))
         AS signature,
       p.oid::text AS id, o.rolname AS owner, min(g.name) AS caller
  FROM pg_catalog.pg_proc p
  JOIN pg_catalog.pg_namespace n ON n.oid = p.pronamespace
       AND n.nspname NOT IN ('pg_catalog', 'information_schema')
  JOIN pg_catalog.pg_roles o ON o.oid = p.proowner
  CROSS JOIN LATERAL pg_catalog.unnest(%(roles)s::text[]) g(name)
 WHERE p.prosecdef
   AND p.prorettype NOT IN ('pg_catalog.trigger'::regtype, 'pg_catalog.event_trigger'::regtype)
   AND (o.rolsuper OR o.rolbypassrls OR EXISTS (
         SELECT FROM pg_catalog.unnest(%(passing)s::text[]) w(name)
          WHERE pg_catalog.pg_has_role(o.oid, w.name::name, 'USAGE')))
   AND pg_catalog.has_schema_privilege(g.name::name, n.oid, 'USAGE')
   AND pg_catalog.has_function_privilege(g.name::name, p.oid, 'EXECUTE')
   AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend d
                    WHERE d.classid = 'pg_catalog.pg_proc'::regclass AND d.objid = p.oid AND d.deptype = 'e')
 GROUP BY 1, 2, 3 ORDER BY 1;

-- name: strangers
-- What of our own schema belongs to somebody who is neither its owner nor may act as that one.
SELECT x.kind, x.name, r.rolname AS owner
  FROM pg_catalog.pg_namespace n
  CROSS JOIN LATERAL (
    SELECT 'function' AS kind, p.oid::regprocedure::text AS name, p.proowner AS owner
      FROM pg_catalog.pg_proc p WHERE p.pronamespace = n.oid
     UNION ALL
    SELECT 'table', c.oid::regclass::text, c.relowner
      FROM pg_catalog.pg_class c WHERE c.relnamespace = n.oid AND c.relkind IN ('r', 'p', 'v', 'm')) x
  JOIN pg_catalog.pg_roles r ON r.oid = x.owner
 WHERE n.nspname = 'parlant_shard' AND NOT r.rolsuper
   AND NOT pg_catalog.pg_has_role(x.owner, n.nspowner, 'MEMBER')
   AND NOT r.rolname = ANY (%(owners)s)
 ORDER BY 1, 2;

-- name: own_functions
-- The functions that our schema brings with it: what they do, and as whom.
SELECT p.proname AS name, p.prosrc AS body, p.prosecdef AS definer,
       'search_path=pg_catalog, pg_temp' = ANY (p.proconfig) AS pinned
  FROM pg_catalog.pg_proc p
  JOIN pg_catalog.pg_namespace n ON n.oid = p.pronamespace AND n.nspname = 'parlant_shard'
 WHERE p.proname = ANY (%(names)s)
 ORDER BY 1;

-- name: own_triggers
-- The triggers that guard the audit trail.
SELECT t.tgname AS name
  FROM pg_catalog.pg_trigger t
 WHERE t.tgrelid = pg_catalog.to_regclass('parlant_shard.audit') AND t.tgenabled = 'A'
   AND (t.tgname, t.tgfoid::regproc::text, t.tgtype) IN (
     ('audit_append', 'parlant_shard.audit_append', 7),
     ('audit_refuse', 'parlant_shard.audit_refuse', 58))
   AND t.tgqual IS NULL AND t.tgattr::text = '';

-- name: trail_meddlers
-- What else acts on inserts into the audit trail: triggers and rules that are not ours.
SELECT 'trigger' AS kind, t.tgname AS name
  FROM pg_catalog.pg_trigger t
 WHERE t.tgrelid = pg_catalog.to_regclass('parlant_shard.audit') AND NOT t.tgisinternal
   AND t.tgname NOT IN ('audit_append', 'audit_refuse')
UNION ALL
SELECT 'rule', r.rulename
  FROM pg_catalog.pg_rewrite r
 WHERE r.ev_class = pg_catalog.to_regclass('parlant_shard.audit')
 ORDER BY 1, 2;

-- name: switched_off
-- Foreign keys of which a trigger is disabled, on either side; nobody sees it in the constraint.
SELECT DISTINCT c.relname AS "table", o.conname AS name, w.relname AS "on"
  FROM pg_catalog.pg_trigger t
  JOIN pg_catalog.pg_constraint o ON o.oid = t.tgconstraint AND o.contype = 'f'
  JOIN pg_catalog.pg_class c ON c.oid = o.conrelid
  JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace AND n.nspname = %(namespace)s
  JOIN pg_catalog.pg_class w ON w.oid = t.tgrelid
 WHERE t.tgisinternal AND t.tgenabled NOT IN ('O', 'A')
 ORDER BY 1, 2, 3;

-- name: leaf_triggers
-- Triggers of partitions that are not enabled as those of the parent are.
SELECT c.relname AS "table", t.tgname AS name
  FROM pg_catalog.pg_trigger t
  JOIN pg_catalog.pg_trigger p ON p.oid = t.tgparentid AND p.tgenabled <> t.tgenabled
  JOIN pg_catalog.pg_class c ON c.oid = t.tgrelid
  JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace AND n.nspname = %(namespace)s
 WHERE NOT t.tgisinternal
 ORDER BY 1, 2;

-- name: rules
-- Rewrite rules of tables: they change what statements do.
SELECT c.relname AS "table", r.rulename AS name
  FROM pg_catalog.pg_rewrite r
  JOIN pg_catalog.pg_class c ON c.oid = r.ev_class AND c.relkind IN ('r', 'p', 'f')
  JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace AND n.nspname = %(namespace)s
 ORDER BY 1, 2;

-- name: heirs
-- Tables that inherit from one that is not partitioned: their rows appear in it.
SELECT p.relname AS "table", i.inhrelid::regclass::text AS name
  FROM pg_catalog.pg_inherits i
  JOIN pg_catalog.pg_class p ON p.oid = i.inhparent AND p.relkind IN ('r', 'f')
  JOIN pg_catalog.pg_namespace n ON n.oid = p.relnamespace AND n.nspname = %(namespace)s
 ORDER BY 1, 2;

-- name: unproved_not_nulls
-- NOT NULL constraints that are NOT VALID (18).
SELECT c.relname AS "table", o.conname AS name
  FROM pg_catalog.pg_constraint o
  JOIN pg_catalog.pg_class c ON c.oid = o.conrelid
  JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace AND n.nspname = %(namespace)s
 WHERE o.contype = 'n' AND NOT o.convalidated
 ORDER BY 1, 2;

-- name: lost_slots
-- Slots of ours that can no longer be read from: what they waited for is gone.
SELECT s.slot_name::text AS name
  FROM pg_catalog.pg_replication_slots s
 WHERE s.slot_type = 'logical' AND s.database = current_database() AND s.wal_status = 'lost'
   AND s.slot_name LIKE 'parlant\_shard\_%%'
 ORDER BY 1;

-- name: foreign_columns
-- Columns of foreign tables that read a remote column of another name.
SELECT c.relname AS "table", a.attname AS "column",
       pg_catalog.array_to_string(a.attfdwoptions, ', ') AS options
  FROM pg_catalog.pg_attribute a
  JOIN pg_catalog.pg_class c ON c.oid = a.attrelid AND c.relkind = 'f'
  JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace AND n.nspname = %(namespace)s
 WHERE a.attfdwoptions IS NOT NULL AND a.attnum > 0 AND NOT a.attisdropped
 ORDER BY 1, 2;
