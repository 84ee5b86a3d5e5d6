-- name: facts
-- One row: what this server is, and what our role may do.
SELECT current_setting('server_version_num')::int AS version_num,
       current_database() AS database,
       current_user AS "user",
       pg_catalog.timezone('UTC', pg_catalog.clock_timestamp()) AS now,
       pg_catalog.pg_is_in_recovery() AS in_recovery,
       (SELECT pg_catalog.concat_ws('/', c.system_identifier, d.oid, pg_catalog.pg_postmaster_start_time())
          FROM pg_catalog.pg_control_system() c, pg_catalog.pg_database d
         WHERE d.datname = current_database()) AS identity,
       current_setting('transaction_read_only')::bool AS read_only,
       r.rolsuper AS superuser,
       r.rolcreatedb AS create_database,
       r.rolcreaterole AS create_role,
       r.rolreplication AS replication,
       pg_catalog.has_database_privilege(current_database(), 'CREATE') AS create_schema,
       coalesce((SELECT pg_catalog.has_schema_privilege(n.oid, 'CREATE')
                   FROM pg_catalog.pg_namespace n WHERE n.nspname = %(namespace)s), false)
         AS create_in_namespace,
       EXISTS (SELECT FROM pg_catalog.pg_namespace n WHERE n.nspname = %(namespace)s)
         AS namespace_exists,
       coalesce((SELECT pg_catalog.has_foreign_data_wrapper_privilege(w.oid, 'USAGE')
                   FROM pg_catalog.pg_foreign_data_wrapper w WHERE w.fdwname = 'postgres_fdw'), false)
         AS use_fdw,
       coalesce((SELECT pg_catalog.pg_has_role(g.oid, 'MEMBER')
                   FROM pg_catalog.pg_roles g WHERE g.rolname = 'pg_create_subscription'), false)
         AS create_subscription,
       (SELECT pg_catalog.array_agg(x.name::text) FROM pg_catalog.pg_available_extensions x)
         AS extensions_available,
       (SELECT pg_catalog.array_agg(DISTINCT x.name::text)
          FROM pg_catalog.pg_available_extension_versions x WHERE x.trusted) AS extensions_trusted,
       (SELECT pg_catalog.array_agg(x.rolname::text) FROM pg_catalog.pg_roles x) AS roles,
       (SELECT pg_catalog.jsonb_object_agg(s.name, s.setting) FROM pg_catalog.pg_settings s
         WHERE s.name IN ('wal_level', 'max_replication_slots', 'max_wal_senders', 'server_encoding',
                          'max_logical_replication_workers', 'max_active_replication_origins',
                          'max_locks_per_transaction',
                          'max_connections', 'max_prepared_transactions', 'max_slot_wal_keep_size',
                          'constraint_exclusion', 'password_encryption', 'server_version',
                          'default_transaction_read_only', 'max_worker_processes',
                          'shared_preload_libraries', 'log_statement', 'data_checksums'))
         AS settings,
       (SELECT s.reset_val FROM pg_catalog.pg_settings s WHERE s.name = 'TimeZone') AS timezone
  FROM pg_catalog.pg_roles r
 WHERE r.rolname = current_user;

-- name: event_triggers
-- Event triggers that run for our statements. Those of an extension are its own affair: `extension`.
SELECT t.evtname::text AS name, t.evtevent::text AS event,
       coalesce(t.evttags::text[], '{}') AS tags,
       n.nspname || '.' || p.proname AS function,
       (SELECT x.extname::text FROM pg_catalog.pg_depend d
          JOIN pg_catalog.pg_extension x ON x.oid = d.refobjid
         WHERE d.classid = 'pg_catalog.pg_event_trigger'::pg_catalog.regclass AND d.objid = t.oid
           AND d.refclassid = 'pg_catalog.pg_extension'::pg_catalog.regclass
           AND d.deptype = 'e') AS extension
  FROM pg_catalog.pg_event_trigger t
  JOIN pg_catalog.pg_proc p ON p.oid = t.evtfoid
  JOIN pg_catalog.pg_namespace n ON n.oid = p.pronamespace
 WHERE t.evtenabled IN ('O', 'A')
 ORDER BY t.evtname;

-- name: relations
-- Every relation of the namespace, with what belongs to the relation itself.
SELECT c.oid, c.relname AS name, c.relkind::text AS kind, c.relpersistence::text AS persistence,
       c.reloptions AS options, c.relreplident::text AS replica_identity,
       c.relrowsecurity AS row_security, c.relforcerowsecurity AS force_row_security,
       pg_catalog.obj_description(c.oid, 'pg_class') AS comment,
       CASE WHEN c.relkind = 'p' THEN pg_catalog.pg_get_partkeydef(c.oid) END AS partition_key,
       CASE WHEN c.relispartition THEN pg_catalog.pg_get_expr(c.relpartbound, c.oid) END AS bound,
       p.relname AS parent, pn.nspname AS parent_schema, i.inhdetachpending AS detach_pending,
       c.relispartition AS is_partition,
       s.srvname AS foreign_server, ft.ftoptions AS foreign_options,
       CASE WHEN c.relkind = 'v' THEN pg_catalog.pg_get_viewdef(c.oid) END AS view_text,
       c.relkind = 'r' AND pg_catalog.pg_relation_size(c.oid) > 0 AS populated,
       d.deptype IS NOT NULL AS of_extension,
       pg_catalog.pg_get_userbyid(c.relowner)::text AS owner,
       pg_catalog.pg_has_role(c.relowner, 'USAGE') AS owned
  FROM pg_catalog.pg_class c
  JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace AND n.nspname = %(namespace)s
  LEFT JOIN pg_catalog.pg_inherits i ON i.inhrelid = c.oid AND c.relkind IN ('r', 'p', 'f')
  LEFT JOIN pg_catalog.pg_class p ON p.oid = i.inhparent
  LEFT JOIN pg_catalog.pg_namespace pn ON pn.oid = p.relnamespace
  LEFT JOIN pg_catalog.pg_foreign_table ft ON ft.ftrelid = c.oid
  LEFT JOIN pg_catalog.pg_foreign_server s ON s.oid = ft.ftserver
  LEFT JOIN pg_catalog.pg_depend d ON d.classid = 'pg_catalog.pg_class'::regclass
       AND d.objid = c.oid AND d.deptype = 'e'
 WHERE c.relkind IN ('r', 'p', 'f', 'v', 'm', 'S', 'c')
 ORDER BY c.relname;

-- name: columns
-- Columns in order; defaults and types as PostgreSQL deparses them.
SELECT a.attrelid AS oid, a.attnum AS num, a.attname AS name,
       pg_catalog.format_type(a.atttypid, a.atttypmod) AS type,
       a.attnotnull AS not_null, a.attidentity::text AS identity, a.attgenerated::text AS generated,
       pg_catalog.pg_get_expr(d.adbin, d.adrelid) AS "default",
       CASE WHEN a.attcollation <> t.typcollation
            THEN pg_catalog.format('%%I.%%I', cn.nspname, co.collname) END AS collation,
       pg_catalog.col_description(a.attrelid, a.attnum) AS comment
  FROM pg_catalog.pg_attribute a
  JOIN pg_catalog.pg_class c ON c.oid = a.attrelid AND c.relkind IN ('r', 'p', 'f', 'v')
  JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace AND n.nspname = %(namespace)s
  JOIN pg_catalog.pg_type t ON t.oid = a.atttypid
  LEFT JOIN pg_catalog.pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
  LEFT JOIN pg_catalog.pg_collation co ON co.oid = a.attcollation
  LEFT JOIN pg_catalog.pg_namespace cn ON cn.oid = co.collnamespace
 WHERE a.attnum > 0 AND NOT a.attisdropped
 ORDER BY a.attrelid, a.attnum;

-- name: constraints
-- Keys, checks and foreign keys. NOT NULL rows (18) are read as the column's attribute instead.
SELECT o.oid, o.conrelid AS rel, o.conname AS name, o.contype::text AS type,
       o.convalidated AS validated,
       coalesce((pg_catalog.to_jsonb(o) ->> 'conenforced')::bool, true) AS enforced,
       o.condeferrable AS "deferrable", o.condeferred AS deferred,
       NOT o.conislocal OR o.conparentid <> 0 AS inherited,
       o.conkey AS key, o.confrelid AS ref, r.relname AS ref_table, rn.nspname AS ref_schema,
       o.confkey AS ref_key, o.confupdtype::text AS on_update, o.confdeltype::text AS on_delete,
       o.confmatchtype::text AS match, o.confdelsetcols AS set_key,
       CASE WHEN o.contype IN ('c', 'p', 'u', 'x') THEN pg_catalog.pg_get_constraintdef(o.oid) END
         AS definition,
       CASE WHEN o.contype = 'f' THEN ARRAY(
              SELECT a.attname::text FROM pg_catalog.unnest(o.confkey) WITH ORDINALITY k(num, pos)
                JOIN pg_catalog.pg_attribute a ON a.attrelid = o.confrelid AND a.attnum = k.num
               ORDER BY k.pos) END AS ref_columns,
       x.indisvalid AS index_valid
  FROM pg_catalog.pg_constraint o
  JOIN pg_catalog.pg_class c ON c.oid = o.conrelid
  JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace AND n.nspname = %(namespace)s
  LEFT JOIN pg_catalog.pg_class r ON r.oid = o.confrelid
  LEFT JOIN pg_catalog.pg_namespace rn ON rn.oid = r.relnamespace
  LEFT JOIN pg_catalog.pg_index x ON x.indexrelid = o.conindid AND o.contype IN ('p', 'u', 'x')
 WHERE o.contype IN ('p', 'u', 'x', 'c', 'f')
   -- A key to a partitioned table has a row for each of its partitions too.
   AND NOT EXISTS (SELECT FROM pg_catalog.pg_constraint w
                    WHERE w.oid = o.conparentid AND w.conrelid = o.conrelid)
 ORDER BY o.conrelid, o.conname;

-- name: indexes
-- Indexes that no constraint owns, INVALID ones included.
SELECT i.indrelid AS rel, c.relname AS name, i.indisunique AS "unique",
       i.indisvalid AND i.indisready AS valid, i.indisreplident AS replica_identity,
       pg_catalog.pg_get_indexdef(i.indexrelid) AS definition,
       pg_catalog.format(' %%I.%%I USING ', n.nspname, t.relname) AS marker,
       p.relname AS parent, pg_catalog.obj_description(c.oid, 'pg_class') AS comment
  FROM pg_catalog.pg_index i
  JOIN pg_catalog.pg_class c ON c.oid = i.indexrelid
  JOIN pg_catalog.pg_class t ON t.oid = i.indrelid AND t.relkind IN ('r', 'p')
  JOIN pg_catalog.pg_namespace n ON n.oid = t.relnamespace AND n.nspname = %(namespace)s
  LEFT JOIN pg_catalog.pg_inherits h ON h.inhrelid = c.oid
  LEFT JOIN pg_catalog.pg_class p ON p.oid = h.inhparent
 WHERE NOT EXISTS (SELECT FROM pg_catalog.pg_constraint o
                    WHERE o.conindid = i.indexrelid AND o.contype IN ('p', 'u', 'x'))
 ORDER BY i.indrelid, c.relname;

-- name: replica_identity_keys
-- Constraint indexes used as REPLICA IDENTITY USING INDEX.
SELECT i.indrelid AS rel, c.relname AS name
  FROM pg_catalog.pg_index i
  JOIN pg_catalog.pg_class c ON c.oid = i.indexrelid
  JOIN pg_catalog.pg_class t ON t.oid = i.indrelid AND t.relreplident = 'i'
  JOIN pg_catalog.pg_namespace n ON n.oid = t.relnamespace AND n.nspname = %(namespace)s
 WHERE i.indisreplident;

-- name: triggers
-- Triggers that somebody declared: neither constraint triggers of the system nor clones on leaves.
SELECT t.tgrelid AS rel, t.tgname AS name, t.tgenabled::text AS enabled,
       pg_catalog.pg_get_triggerdef(t.oid) AS definition,
       pg_catalog.format(' ON %%I.%%I ', n.nspname, c.relname) AS marker
  FROM pg_catalog.pg_trigger t
  JOIN pg_catalog.pg_class c ON c.oid = t.tgrelid
  JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace AND n.nspname = %(namespace)s
 WHERE NOT t.tgisinternal AND t.tgparentid = 0
 ORDER BY t.tgrelid, t.tgname;

-- name: policies
-- Row-level security policies.
SELECT p.polrelid AS rel, p.polname AS name, p.polcmd::text AS command,
       p.polpermissive AS permissive,
       ARRAY(SELECT CASE WHEN o.id = 0 THEN '' ELSE pg_catalog.pg_get_userbyid(o.id)::text END
               FROM pg_catalog.unnest(p.polroles) o(id) ORDER BY 1) AS roles,
       pg_catalog.pg_get_expr(p.polqual, p.polrelid) AS "using",
       pg_catalog.pg_get_expr(p.polwithcheck, p.polrelid) AS "check"
  FROM pg_catalog.pg_policy p
  JOIN pg_catalog.pg_class c ON c.oid = p.polrelid
  JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace AND n.nspname = %(namespace)s
 ORDER BY p.polrelid, p.polname;

-- name: grants
-- Privileges on relations, the owner's own left out.
SELECT c.oid AS rel, CASE WHEN x.grantee = 0 THEN '' ELSE pg_catalog.pg_get_userbyid(x.grantee)::text END AS role,
       x.privilege_type AS privilege, x.is_grantable AS grantable
  FROM pg_catalog.pg_class c
  JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace AND n.nspname = %(namespace)s
  CROSS JOIN LATERAL pg_catalog.aclexplode(c.relacl) x
 WHERE c.relkind IN ('r', 'p', 'f', 'v') AND x.grantee <> c.relowner
 ORDER BY 1, 2, 3;

-- name: enums
-- Enum types with their labels in sort order.
SELECT t.typname AS name,
       pg_catalog.array_agg(e.enumlabel::text ORDER BY e.enumsortorder) AS labels
  FROM pg_catalog.pg_type t
  JOIN pg_catalog.pg_namespace n ON n.oid = t.typnamespace AND n.nspname = %(namespace)s
  JOIN pg_catalog.pg_enum e ON e.enumtypid = t.oid
 GROUP BY t.typname ORDER BY t.typname;

-- name: functions
-- Functions and procedures that no extension owns.
SELECT p.proname AS name,
       CASE WHEN n.nspname = 'parlant_shard' THEN 'parlant_shard.' ELSE '' END
         || pg_catalog.format('%%I(%%s)', p.proname, pg_catalog.pg_get_function_identity_arguments(p.oid))
         AS signature,
       pg_catalog.pg_get_functiondef(p.oid) AS definition,
       -- Of the functions of the wall: who may call them and name them, beside the owner.
       CASE WHEN n.nspname = 'parlant_shard' AND p.proname !~ '^(refuse|cascade|row_audit)_' THEN ARRAY(
              SELECT CASE WHEN x.grantee = 0 THEN '' ELSE pg_catalog.pg_get_userbyid(x.grantee)::text END
                FROM pg_catalog.aclexplode(coalesce(p.proacl, pg_catalog.acldefault('f', p.proowner))) x
               WHERE x.grantee <> p.proowner
                 AND (x.grantee = 0 OR (pg_catalog.has_schema_privilege(x.grantee, n.oid, 'USAGE')
                      AND (SELECT pg_catalog.has_schema_privilege(x.grantee, o.oid, 'USAGE')
                             FROM pg_catalog.pg_namespace o WHERE o.nspname = %(namespace)s)))
               ORDER BY 1) END AS executors
  FROM pg_catalog.pg_proc p
  JOIN pg_catalog.pg_namespace n ON n.oid = p.pronamespace
       AND (n.nspname = %(namespace)s OR (n.nspname = 'parlant_shard'
            AND (p.proname IN ('refuse_write', 'refuse_truncate', 'workspace')
                 OR p.proname ~ '^(cascade|workspace_of|match|row_audit)_')))
 WHERE p.prokind IN ('f', 'p', 'w')
   AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend d
                    WHERE d.classid = 'pg_catalog.pg_proc'::regclass AND d.objid = p.oid
                      AND d.deptype IN ('e', 'i'))
 ORDER BY 2;

-- name: other_types
-- Types of the namespace that belong to no table: their names are taken for tables too.
SELECT t.typname AS name, t.typtype::text AS type
  FROM pg_catalog.pg_type t
  JOIN pg_catalog.pg_namespace n ON n.oid = t.typnamespace AND n.nspname = %(namespace)s
 WHERE t.typtype <> 'e'
   AND NOT EXISTS (SELECT FROM pg_catalog.pg_type e WHERE e.typarray = t.oid)
   AND (t.typrelid = 0 OR EXISTS (
         SELECT FROM pg_catalog.pg_class c WHERE c.oid = t.typrelid AND c.relkind = 'c'))
   AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend d
                    WHERE d.classid = 'pg_catalog.pg_type'::regclass AND d.objid = t.oid AND d.deptype = 'e');

-- name: extensions
-- Extensions of this database.
SELECT extname::text AS name FROM pg_catalog.pg_extension;

-- name: foreign_servers
-- postgres_fdw servers, with our role's view of their user mappings.
SELECT s.srvname AS name, s.srvoptions AS options
  FROM pg_catalog.pg_foreign_server s
  JOIN pg_catalog.pg_foreign_data_wrapper w ON w.oid = s.srvfdw AND w.fdwname = 'postgres_fdw'
 ORDER BY s.srvname;

-- name: user_mappings
-- User mappings; the options are null where our role may not read them.
SELECT m.srvname AS server, m.usename AS role, m.umoptions AS options
  FROM pg_catalog.pg_user_mappings m ORDER BY 1, 2;

-- name: publications
-- Publications with explicit tables and columns.
SELECT p.pubname AS name, t.tablename AS "table", t.attnames::text[] AS columns,
       t.rowfilter IS NOT NULL AS filtered,
       pg_catalog.array_remove(ARRAY[CASE WHEN p.pubinsert THEN 'insert' END,
         CASE WHEN p.pubupdate THEN 'update' END, CASE WHEN p.pubdelete THEN 'delete' END,
         CASE WHEN p.pubtruncate THEN 'truncate' END], NULL) AS operations
  FROM pg_catalog.pg_publication p
  LEFT JOIN pg_catalog.pg_publication_tables t ON t.pubname = p.pubname AND t.schemaname = %(namespace)s
 ORDER BY 1, 2;

-- name: subscriptions
-- Subscriptions of this database. The connection string is asked for apart: not every role may.
SELECT s.subname AS name, s.subslotname AS slot, s.subpublications[1] AS publication,
       s.subenabled AS enabled,
       (SELECT pg_catalog.array_agg(c.relname::text ORDER BY c.relname)
          FROM pg_catalog.pg_subscription_rel r JOIN pg_catalog.pg_class c ON c.oid = r.srrelid
         WHERE r.srsubid = s.oid) AS tables,
       NOT EXISTS (SELECT FROM pg_catalog.pg_subscription_rel r
                    WHERE r.srsubid = s.oid AND r.srsubstate NOT IN ('r', 's')) AS synced,
       (SELECT (max(r.srsublsn) - '0/0')::bigint FROM pg_catalog.pg_subscription_rel r
         WHERE r.srsubid = s.oid) AS copied,
       pg_catalog.has_table_privilege('pg_catalog.pg_replication_origin_status', 'SELECT')
         AND pg_catalog.has_function_privilege('pg_catalog.pg_show_replication_origin_status()', 'EXECUTE')
         AS origins,
       CASE WHEN pg_catalog.has_column_privilege('pg_catalog.pg_subscription', 'subconninfo', 'SELECT')
            THEN true ELSE false END AS readable
  FROM pg_catalog.pg_subscription s
  JOIN pg_catalog.pg_database d ON d.oid = s.subdbid AND d.datname = current_database()
 ORDER BY 1;

-- name: subscription_conninfo
SELECT s.subname AS name, s.subconninfo AS conninfo
  FROM pg_catalog.pg_subscription s
  JOIN pg_catalog.pg_database d ON d.oid = s.subdbid AND d.datname = current_database();

-- name: slots
-- Logical slots of this database.
SELECT slot_name::text AS name FROM pg_catalog.pg_replication_slots
 WHERE slot_type = 'logical' AND database = current_database();

-- name: replayed
-- Up to which position of the publisher's WAL subscriptions replayed; not every role may ask.
SELECT s.subname AS name, (o.remote_lsn - '0/0')::bigint AS replayed
  FROM pg_catalog.pg_subscription s
  JOIN pg_catalog.pg_database d ON d.oid = s.subdbid AND d.datname = current_database()
  JOIN pg_catalog.pg_replication_origin_status o ON o.external_id = 'pg_' || s.oid
 WHERE o.remote_lsn <> '0/0';

-- name: slot_states
-- Every slot of the server: names are the server's, not the database's. Later majors say why one is invalid.
SELECT s.slot_name::text AS name, s.slot_type = 'logical' AS logical, s.plugin::text AS plugin, s.temporary,
       s.database::text AS database, coalesce(s.database = current_database(), false) AS here, s.active,
       s.wal_status,
       coalesce(pg_catalog.to_jsonb(s) ->> 'invalidation_reason',
                CASE WHEN (pg_catalog.to_jsonb(s) ->> 'conflicting')::bool THEN 'conflict with recovery' END,
                CASE WHEN s.wal_status = 'lost' THEN 'wal_removed' END) AS invalid,
       (s.confirmed_flush_lsn - '0/0')::bigint AS confirmed,
       CASE WHEN t.stats_reset IS NULL THEN t.total_txns END AS transactions
  FROM pg_catalog.pg_replication_slots s
  LEFT JOIN pg_catalog.pg_stat_replication_slots t ON t.slot_name = s.slot_name;

-- name: wal_end
SELECT CASE WHEN NOT pg_catalog.pg_is_in_recovery()
            THEN (pg_catalog.pg_current_wal_insert_lsn() - '0/0')::bigint END AS position;

-- name: internal_schema
-- Our own schema, where there is one of that name: may we use it, and is it ours?
SELECT pg_catalog.pg_get_userbyid(n.nspowner)::text AS owner,
       pg_catalog.has_schema_privilege(n.oid, 'USAGE') AS usable,
       pg_catalog.pg_has_role(n.nspowner, 'USAGE') AS owned,
       (SELECT count(*) FROM pg_catalog.pg_class c
         WHERE c.relnamespace = n.oid AND c.relkind = 'r'
           AND c.relname IN ('meta', 'object', 'shard', 'directory', 'placement', 'run', 'step'))
         AS ours,
       EXISTS (SELECT FROM pg_catalog.pg_class c
                WHERE c.relnamespace = n.oid AND c.relkind = 'r' AND c.relname = 'map') AS map,
       EXISTS (SELECT FROM pg_catalog.pg_class c
                WHERE c.relnamespace = n.oid AND c.relkind = 'r' AND c.relname = 'retired') AS retired,
       EXISTS (SELECT FROM pg_catalog.pg_class c
                WHERE c.relnamespace = n.oid AND c.relkind = 'r' AND c.relname = 'signing_key') AS signing_key,
       EXISTS (SELECT FROM pg_catalog.pg_class c
                WHERE c.relnamespace = n.oid AND c.relkind = 'r' AND c.relname = 'audit') AS audit,
       EXISTS (SELECT FROM pg_catalog.pg_class c
                WHERE c.relnamespace = n.oid AND c.relkind = 'r' AND c.relname = 'sealed') AS sealed,
       EXISTS (SELECT FROM pg_catalog.pg_class c WHERE c.relnamespace = n.oid) AS filled
  FROM pg_catalog.pg_namespace n WHERE n.nspname = 'parlant_shard';

-- name: retired
-- Partitions that `maintain` detaches or has detached.
SELECT r.name, r.relid::bigint AS relid, r.logical, r.shard, r.parent, r.lower_bound AS lower,
       r.upper_bound AS upper, r.state, r.detached_at,
       r.kept_until, r.archive, r.rows,
       c.oid IS NOT NULL AS known, c.oid IS NOT NULL AND NOT c.relispartition AS present
  FROM parlant_shard.retired r
  LEFT JOIN pg_catalog.pg_class c ON c.oid = r.relid AND c.relname = r.name
 WHERE r.topology = %(topology)s
 ORDER BY r.parent, r.lower_bound, r.name;

-- name: internal_rows
-- Our own rows, one object per list.
SELECT (SELECT version FROM parlant_shard.meta) AS version,
       (SELECT pg_catalog.array_agg(ARRAY[o.kind, o.name, o.logical, o.shard]) FROM parlant_shard.object o
         WHERE o.topology = %(topology)s) AS managed,
       (SELECT pg_catalog.array_agg(ARRAY[o.name, o.topology, o.kind]) FROM parlant_shard.object o
         WHERE o.topology <> %(topology)s) AS of_other_topologies,
       (SELECT pg_catalog.array_agg(ARRAY[p.workspace_id, p.shard, p.state]) FROM parlant_shard.placement p
         WHERE p.topology = %(topology)s) AS placements,
       (SELECT pg_catalog.array_agg(ARRAY[d.workspace_id, d.shard, d.state]) FROM parlant_shard.directory d
         WHERE d.topology = %(topology)s) AS directory,
       (SELECT pg_catalog.array_agg(ARRAY[s.shard, s.server]) FROM parlant_shard.shard s
         WHERE s.topology = %(topology)s) AS shards;

-- name: key_tables
-- The columns of our key tables, as they are registered.
SELECT o.name AS registered, c.relname::text AS name, o.logical, a.attname AS column,
       pg_catalog.format_type(a.atttypid, a.atttypmod) AS type,
       CASE WHEN a.attcollation <> t.typcollation
            THEN pg_catalog.format('%%I.%%I', cn.nspname, co.collname) END AS collation
  FROM parlant_shard.object o
  JOIN pg_catalog.pg_class c ON c.oid = pg_catalog.to_regclass(o.name) AND c.relkind = 'r'
  JOIN pg_catalog.pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
  JOIN pg_catalog.pg_type t ON t.oid = a.atttypid
  LEFT JOIN pg_catalog.pg_collation co ON co.oid = a.attcollation
  LEFT JOIN pg_catalog.pg_namespace cn ON cn.oid = co.collnamespace
 WHERE o.kind = 'key' AND o.topology = %(topology)s
 ORDER BY o.name, a.attnum;

-- name: key_schema
-- The schema of the key tables: whose it is, and what is there that nobody registered.
SELECT pg_catalog.pg_get_userbyid(n.nspowner)::text AS owner, pg_catalog.pg_has_role(n.nspowner, 'USAGE') AS owned,
       ARRAY(SELECT c.relname::text FROM pg_catalog.pg_class c
              WHERE c.relnamespace = n.oid AND c.relkind <> 'i'
                AND NOT EXISTS (SELECT FROM parlant_shard.object o
                                 WHERE o.kind = 'key' AND pg_catalog.to_regclass(o.name) = c.oid)) AS strange
  FROM pg_catalog.pg_namespace n WHERE n.nspname = %(schema)s;

-- name: seals
-- The foreign tables that keys are sealed through, as they are registered.
SELECT o.name AS server, c.relname::text AS name, s.srvname::text AS foreign_server
  FROM parlant_shard.object o
  JOIN pg_catalog.pg_foreign_table f ON true
  JOIN pg_catalog.pg_foreign_server s ON s.oid = f.ftserver AND s.srvname = 'parlant_shard_seal_' || o.name
  JOIN pg_catalog.pg_class c ON c.oid = f.ftrelid
  JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace AND n.nspname = 'parlant_shard'
 WHERE o.kind = 'seal' AND o.topology = %(topology)s
 ORDER BY o.name;

-- name: sealers
-- The roles that may seal keys here.
SELECT r.rolname::text AS role FROM pg_catalog.pg_roles r
 WHERE pg_catalog.has_table_privilege(r.oid, 'parlant_shard.seal', 'INSERT')
   AND pg_catalog.has_schema_privilege(r.oid, 'parlant_shard', 'USAGE');

-- name: signing_keys
-- The keys that workspace tokens may be signed with, without the keys.
SELECT k.id FROM parlant_shard.signing_key k;

-- name: unsafe
-- Why policies would not bind the role of the application; null where they do.
SELECT r.rolname AS name,
       CASE WHEN r.rolsuper THEN 'is a superuser'
            WHEN r.rolbypassrls THEN 'has BYPASSRLS'
            WHEN r.rolname = current_user THEN 'owns the tables'
            WHEN pg_catalog.pg_has_role(r.oid, pg_catalog.to_regrole(pg_catalog.quote_ident(current_user)), 'MEMBER')
              THEN 'is a member of the role that owns the tables'
            WHEN a.oid IS NOT NULL AND pg_catalog.pg_has_role(r.oid, a.oid, 'MEMBER')
              THEN 'is a member of the role of isolation.analytics'
       END AS why
  FROM pg_catalog.pg_roles r
  LEFT JOIN pg_catalog.pg_roles a ON a.rolname = %(analytics)s
 WHERE r.rolname = %(role)s;
