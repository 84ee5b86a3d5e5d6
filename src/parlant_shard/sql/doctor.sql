-- name: identity
-- Which database this is, whatever name it was reached by.
SELECT (SELECT c.system_identifier FROM pg_catalog.pg_control_system() c)::text AS system,
       d.oid::text AS database
  FROM pg_catalog.pg_database d WHERE d.datname = pg_catalog.current_database();

-- name: settings
-- The settings that checks look at: what holds for our session, and what it started with.
SELECT s.name, s.setting, s.reset_val
  FROM pg_catalog.pg_settings s
 WHERE s.name IN ('TimeZone', 'constraint_exclusion', 'default_transaction_read_only',
                  'log_min_duration_statement', 'log_statement', 'max_active_replication_origins',
                  'max_connections', 'max_locks_per_transaction', 'max_logical_replication_workers',
                  'max_prepared_transactions', 'max_replication_slots', 'max_slot_wal_keep_size',
                  'max_wal_senders', 'max_worker_processes', 'pg_stat_statements.track_utility',
                  'server_encoding', 'shared_preload_libraries', 'wal_level');

-- name: overrides
-- TimeZone and constraint_exclusion as set for a role or for this database.
SELECT r.rolname AS role, s.setdatabase <> 0 AS in_database,
       pg_catalog.lower(pg_catalog.split_part(c.item, '=', 1)) AS name,
       pg_catalog.substr(c.item, pg_catalog.strpos(c.item, '=') + 1) AS value
  FROM pg_catalog.pg_db_role_setting s
  CROSS JOIN LATERAL pg_catalog.unnest(s.setconfig) c(item)
  LEFT JOIN pg_catalog.pg_roles r ON r.oid = s.setrole
 WHERE s.setdatabase IN (0, (SELECT d.oid FROM pg_catalog.pg_database d
                              WHERE d.datname = pg_catalog.current_database()))
   AND pg_catalog.lower(pg_catalog.split_part(c.item, '=', 1)) IN ('timezone', 'constraint_exclusion')
 ORDER BY 1, 2, 3;

-- name: login
-- How the server itself sees this connection.
SELECT coalesce((SELECT g.encrypted FROM pg_catalog.pg_stat_gssapi g
                  WHERE g.pid = pg_catalog.pg_backend_pid()), false) AS gss_encrypted,
       pg_catalog.pg_has_role('pg_read_all_stats', 'USAGE') AS sees_all;

-- name: system_user
-- How we logged in (16 and later): null where nothing was asked for.
SELECT system_user AS who;

-- name: own_schema
-- Whether our schema exists, and whether we may look into it.
SELECT pg_catalog.has_schema_privilege(n.oid, 'USAGE') AS usable
  FROM pg_catalog.pg_namespace n WHERE n.nspname = 'parlant_shard';

-- name: managed
-- The managed tables with their owners, and whether we are such an owner.
SELECT o.name, o.logical, o.shard, pg_catalog.pg_get_userbyid(c.relowner) AS owner,
       pg_catalog.pg_has_role(c.relowner, 'USAGE') AS owned
  FROM parlant_shard.object o
  LEFT JOIN pg_catalog.pg_class c ON c.relname = o.name AND c.relnamespace =
       (SELECT n.oid FROM pg_catalog.pg_namespace n WHERE n.nspname = %(namespace)s)
 WHERE o.topology = %(topology)s AND o.kind = 'table'
 ORDER BY o.name;

-- name: extensions
-- Extensions of this database.
SELECT x.extname::text AS name FROM pg_catalog.pg_extension x ORDER BY 1;

-- name: slots
-- Every replication slot of the cluster, with the WAL that it keeps.
SELECT s.slot_name::text AS name, s.database = pg_catalog.current_database() AS here, s.active,
       s.wal_status, CASE WHEN NOT pg_catalog.pg_is_in_recovery()
            THEN (pg_catalog.pg_current_wal_lsn() - s.restart_lsn)::bigint END AS kept
  FROM pg_catalog.pg_replication_slots s ORDER BY 1;

-- name: subscriptions
-- Subscriptions of this database: on, copied, connected, and how often they failed.
SELECT s.subname::text AS name, s.subenabled AS enabled,
       (SELECT pg_catalog.array_agg(c.relname::text ORDER BY c.relname)
          FROM pg_catalog.pg_subscription_rel r JOIN pg_catalog.pg_class c ON c.oid = r.srrelid
         WHERE r.srsubid = s.oid AND r.srsubstate NOT IN ('r', 's')) AS unsynced,
       EXISTS (SELECT FROM pg_catalog.pg_stat_subscription w
                WHERE w.subid = s.oid AND w.relid IS NULL AND w.pid IS NOT NULL) AS running,
       EXISTS (SELECT FROM pg_catalog.pg_stat_subscription w
                WHERE w.subid = s.oid AND w.relid IS NOT NULL AND w.pid IS NOT NULL) AS copying,
       coalesce(t.apply_error_count, 0) AS apply_errors, coalesce(t.sync_error_count, 0) AS sync_errors
  FROM pg_catalog.pg_subscription s
  JOIN pg_catalog.pg_database d ON d.oid = s.subdbid AND d.datname = pg_catalog.current_database()
  LEFT JOIN pg_catalog.pg_stat_subscription_stats t ON t.subid = s.oid
 WHERE s.subname LIKE 'parlant\_shard\_%%'
 ORDER BY 1;

-- name: indexes
-- INVALID indexes; `lacking` names the partitions that an INVALID partitioned index still needs.
SELECT c.relname AS name, t.relname AS "table", c.relkind = 'I' AS partitioned, p.relname AS parent,
       (SELECT o.conname FROM pg_catalog.pg_constraint o
         WHERE o.conindid = c.oid AND o.contype IN ('p', 'u', 'x')) AS "constraint",
       EXISTS (SELECT FROM pg_catalog.pg_stat_progress_create_index b
                WHERE b.relid = t.oid AND b.datid = (SELECT d.oid FROM pg_catalog.pg_database d
                      WHERE d.datname = pg_catalog.current_database())) AS building,
       CASE WHEN c.relkind = 'I' THEN ARRAY(
              SELECT l.relname::text
                FROM pg_catalog.pg_inherits h JOIN pg_catalog.pg_class l ON l.oid = h.inhrelid
               WHERE h.inhparent = t.oid AND NOT EXISTS (
                       SELECT FROM pg_catalog.pg_inherits x
                         JOIN pg_catalog.pg_index y ON y.indexrelid = x.inhrelid
                        WHERE x.inhparent = c.oid AND y.indrelid = l.oid AND y.indisvalid)
               ORDER BY 1) END AS lacking,
       CASE WHEN c.relkind = 'I' THEN
              (SELECT pg_catalog.min(l.relname::text) FROM pg_catalog.pg_inherits x
                 JOIN pg_catalog.pg_class l ON l.oid = x.inhrelid WHERE x.inhparent = c.oid)
            END AS some_leaf
  FROM pg_catalog.pg_index i
  JOIN pg_catalog.pg_class c ON c.oid = i.indexrelid
  JOIN pg_catalog.pg_class t ON t.oid = i.indrelid
  JOIN pg_catalog.pg_namespace n ON n.oid = t.relnamespace AND n.nspname = %(namespace)s
  LEFT JOIN pg_catalog.pg_inherits h ON h.inhrelid = c.oid
  LEFT JOIN pg_catalog.pg_class p ON p.oid = h.inhparent
 WHERE NOT (i.indisvalid AND i.indisready AND i.indislive)
 ORDER BY 2, 1;

-- name: detaching
-- Partitions whose DETACH CONCURRENTLY was begun and not finished.
SELECT p.relname AS parent, c.relname AS partition
  FROM pg_catalog.pg_inherits i
  JOIN pg_catalog.pg_class c ON c.oid = i.inhrelid
  JOIN pg_catalog.pg_class p ON p.oid = i.inhparent
  JOIN pg_catalog.pg_namespace n ON n.oid = p.relnamespace AND n.nspname = %(namespace)s
 WHERE i.inhdetachpending ORDER BY 1, 2;

-- name: constraints
-- Constraints that were added NOT VALID; NOT ENFORCED ones (18) are meant to be so.
SELECT c.relname AS "table", o.conname AS name, o.contype::text AS type
  FROM pg_catalog.pg_constraint o
  JOIN pg_catalog.pg_class c ON c.oid = o.conrelid
  JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace AND n.nspname = %(namespace)s
 WHERE NOT o.convalidated AND o.conparentid = 0
   AND coalesce((pg_catalog.to_jsonb(o) ->> 'conenforced')::bool, true)
 ORDER BY 1, 2;

-- name: partitioned
-- How many locks a query takes that prunes no partition: one per relation and per index of it.
SELECT r.relname AS name, count(*) AS relations,
       sum(1 + (SELECT count(*) FROM pg_catalog.pg_index i WHERE i.indrelid = t.relid))::bigint AS locks
  FROM pg_catalog.pg_class r
  JOIN pg_catalog.pg_namespace n ON n.oid = r.relnamespace AND n.nspname = %(namespace)s
  CROSS JOIN LATERAL pg_catalog.pg_partition_tree(r.oid) t
 WHERE r.relkind = 'p' AND NOT r.relispartition
 GROUP BY 1 ORDER BY 1;

-- name: transactions
-- Transactions of this database that are open for long.
SELECT a.pid, a.usename AS "user", a.application_name AS application, a.state,
       extract(epoch FROM pg_catalog.clock_timestamp() - a.xact_start)::bigint AS seconds
  FROM pg_catalog.pg_stat_activity a
 WHERE a.datname = pg_catalog.current_database() AND a.pid <> pg_catalog.pg_backend_pid()
   AND a.backend_type = 'client backend'
   AND a.xact_start < pg_catalog.clock_timestamp() - %(seconds)s * interval '1 second'
 ORDER BY a.xact_start;

-- name: prepared
-- Prepared transactions of this database that wait for long.
SELECT p.gid, p.owner,
       extract(epoch FROM pg_catalog.clock_timestamp() - p.prepared)::bigint AS seconds
  FROM pg_catalog.pg_prepared_xacts p
 WHERE p.database = pg_catalog.current_database()
   AND p.prepared < pg_catalog.clock_timestamp() - %(seconds)s * interval '1 second'
 ORDER BY p.prepared;

-- name: parlant_columns
-- The columns of everything that could be a table of Parlant's.
SELECT c.relname AS "table", a.attname AS name, pg_catalog.format_type(a.atttypid, a.atttypmod) AS type
  FROM pg_catalog.pg_class c
  JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace AND n.nspname = %(namespace)s
  JOIN pg_catalog.pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
 WHERE c.relkind IN ('r', 'p') AND NOT c.relispartition AND c.relname LIKE 'parlant\_%%'
 ORDER BY 1, a.attnum;

-- name: enums
-- Enum types with their labels.
SELECT t.typname AS name, pg_catalog.array_agg(e.enumlabel::text ORDER BY e.enumsortorder) AS labels
  FROM pg_catalog.pg_type t
  JOIN pg_catalog.pg_namespace n ON n.oid = t.typnamespace AND n.nspname = %(namespace)s
  JOIN pg_catalog.pg_enum e ON e.enumtypid = t.oid
 GROUP BY 1 ORDER BY 1;

-- name: tenant_links
-- Foreign keys of one column between two tables that both have the key.
SELECT c.relname AS child, a.attname AS child_column, p.relname AS parent, b.attname AS parent_column
  FROM pg_catalog.pg_constraint o
  JOIN pg_catalog.pg_class c ON c.oid = o.conrelid AND c.relkind IN ('r', 'p') AND NOT c.relispartition
  JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace AND n.nspname = %(namespace)s
  JOIN pg_catalog.pg_class p ON p.oid = o.confrelid AND p.relnamespace = n.oid
  JOIN pg_catalog.pg_attribute a ON a.attrelid = c.oid AND a.attnum = o.conkey[1]
  JOIN pg_catalog.pg_attribute b ON b.attrelid = p.oid AND b.attnum = o.confkey[1]
 WHERE o.contype = 'f' AND o.conparentid = 0 AND pg_catalog.cardinality(o.conkey) = 1
   AND a.attname <> %(key)s
   AND (SELECT count(*) FROM pg_catalog.pg_attribute k
         WHERE k.attrelid IN (c.oid, p.oid) AND k.attname = %(key)s AND NOT k.attisdropped)
       = CASE WHEN c.oid = p.oid THEN 1 ELSE 2 END
 ORDER BY 1, 2, 3;
