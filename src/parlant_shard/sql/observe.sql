-- name: server
-- What the server is, since when it counts, and the counters of this database. Times in UTC.
SELECT current_setting('server_version') AS version,
       current_setting('server_version_num')::int AS version_num,
       current_setting('block_size')::int AS block_size,
       current_setting('track_counts')::bool AS counting,
       pg_catalog.timezone('UTC', pg_catalog.clock_timestamp()) AS now,
       pg_catalog.timezone('UTC', pg_catalog.pg_postmaster_start_time()) AS started_at,
       pg_catalog.pg_is_in_recovery() AS in_recovery,
       pg_catalog.timezone('UTC', d.stats_reset) AS reset_at,
       -- An unclean stop loses every counter and sets all of these to the moment of the recovery.
       (SELECT pg_catalog.timezone('UTC', min(x.at))
          FROM (SELECT stats_reset FROM pg_catalog.pg_stat_bgwriter
                UNION ALL SELECT stats_reset FROM pg_catalog.pg_stat_archiver
                UNION ALL SELECT stats_reset FROM pg_catalog.pg_stat_wal) x(at)) AS kept_since,
       pg_catalog.pg_has_role('pg_read_all_stats', 'USAGE') AS all_stats,
       pg_catalog.pg_database_size(d.datid)::bigint AS bytes,
       d.blks_hit, d.blks_read, d.temp_bytes, d.deadlocks, d.xact_commit, d.xact_rollback
  FROM pg_catalog.pg_stat_database d
 WHERE d.datname = current_database();

-- name: timeline
-- Above 1 the server was promoted once: the counters of the one before it did not come along.
SELECT CASE WHEN NOT pg_catalog.pg_is_in_recovery()
            THEN ('x' || pg_catalog.substr(pg_catalog.pg_walfile_name(pg_catalog.pg_current_wal_lsn()), 1, 8))::bit(32)::int
       END AS timeline;

-- name: applied
-- Whether the schema parlant_shard is there.
SELECT EXISTS (SELECT FROM pg_catalog.pg_class c
                 JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
                WHERE n.nspname = 'parlant_shard' AND c.relname = 'object') AS found;

-- name: tables
-- Every managed table of the topology with its partitions; the root is registered.
WITH RECURSIVE member AS (
  SELECT c.oid, c.relname::text AS root, o.logical, o.shard, 0 AS depth
    FROM parlant_shard.object o
    JOIN pg_catalog.pg_class c ON c.relname = o.name AND c.relkind IN ('r', 'p')
    JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace AND n.nspname = %(namespace)s
   WHERE o.topology = %(topology)s AND o.kind = 'table'
  UNION ALL
  SELECT i.inhrelid, m.root, m.logical, m.shard, m.depth + 1
    FROM member m JOIN pg_catalog.pg_inherits i ON i.inhparent = m.oid
), busy AS MATERIALIZED (
  -- Asking for the size of these would wait, for hours where VACUUM FULL rewrites one.
  SELECT DISTINCT l.relation
    FROM pg_catalog.pg_locks l
    JOIN pg_catalog.pg_database d ON d.oid = l.database AND d.datname = current_database()
   WHERE l.locktype = 'relation' AND l.mode = 'AccessExclusiveLock' AND l.pid <> pg_catalog.pg_backend_pid()
), locked AS MATERIALIZED (
  SELECT b.relation AS oid FROM busy b
  UNION SELECT i.indrelid FROM busy b JOIN pg_catalog.pg_index i ON i.indexrelid = b.relation
  UNION SELECT t.oid FROM busy b JOIN pg_catalog.pg_class t ON t.reltoastrelid = b.relation
)
SELECT m.oid::bigint AS oid, c.relname::text AS name, m.root, m.logical, m.shard, m.depth > 0 AS leaf,
       c.relkind = 'p' AS partitioned, l.oid IS NOT NULL AS locked, c.reltuples::float8 AS tuples,
       CASE WHEN l.oid IS NULL THEN coalesce(pg_catalog.pg_relation_size(m.oid), 0)
            ELSE c.relpages::bigint * current_setting('block_size')::int END::bigint AS heap_bytes,
       CASE WHEN l.oid IS NULL THEN coalesce(pg_catalog.pg_indexes_size(m.oid), 0)
            ELSE (SELECT coalesce(sum(x.relpages::bigint), 0) * current_setting('block_size')::int
                    FROM pg_catalog.pg_index i JOIN pg_catalog.pg_class x ON x.oid = i.indexrelid
                   WHERE i.indrelid = m.oid) END::bigint AS index_bytes,
       CASE WHEN l.oid IS NULL
            THEN greatest(coalesce(pg_catalog.pg_table_size(m.oid) - pg_catalog.pg_relation_size(m.oid), 0), 0)
            ELSE (SELECT coalesce(sum(x.relpages::bigint), 0) * current_setting('block_size')::int
                    FROM pg_catalog.pg_class x WHERE x.oid = c.reltoastrelid) END::bigint AS toast_bytes,
       -- A reset or an unclean stop loses the estimate; VACUUM and ANALYZE left one in the catalogue.
       CASE WHEN c.relkind = 'r' AND coalesce(s.last_vacuum, s.last_autovacuum, s.last_analyze, s.last_autoanalyze)
                 IS NULL
            THEN greatest(coalesce(s.n_live_tup, 0), c.reltuples::bigint)
            ELSE coalesce(s.n_live_tup, 0) END AS rows,
       coalesce(s.n_dead_tup, 0) AS dead_rows,
       coalesce(s.seq_scan, 0) AS seq_scans, coalesce(s.idx_scan, 0) AS idx_scans,
       coalesce(s.n_tup_ins, 0) AS inserted, coalesce(s.n_tup_upd, 0) AS updated,
       coalesce(s.n_tup_del, 0) AS deleted,
       pg_catalog.timezone('UTC', greatest(s.last_vacuum, s.last_autovacuum)) AS last_vacuum,
       pg_catalog.timezone('UTC', greatest(s.last_analyze, s.last_autoanalyze)) AS last_analyze,
       coalesce(i.heap_blks_hit, 0) AS heap_hit, coalesce(i.heap_blks_read, 0) AS heap_read,
       coalesce(i.idx_blks_hit, 0) AS index_hit, coalesce(i.idx_blks_read, 0) AS index_read
  FROM member m
  JOIN pg_catalog.pg_class c ON c.oid = m.oid
  LEFT JOIN locked l ON l.oid = m.oid
  LEFT JOIN pg_catalog.pg_stat_all_tables s ON s.relid = m.oid
  LEFT JOIN pg_catalog.pg_statio_all_tables i ON i.relid = m.oid
 ORDER BY m.shard, m.logical, m.depth, c.relname;

-- name: indexes
-- Every index of these tables: its structure, size and use.
WITH mine AS MATERIALIZED (
  SELECT d.oid FROM pg_catalog.pg_database d WHERE d.datname = current_database()
), building AS MATERIALIZED (
  -- Whose build it is, everybody sees; of which table, only who may read all statistics.
  SELECT coalesce(nullif(b.relid, 0), l.relation) AS rel
    FROM pg_catalog.pg_stat_progress_create_index b
    JOIN mine d ON d.oid = b.datid
    LEFT JOIN pg_catalog.pg_locks l ON l.pid = b.pid AND l.database = d.oid AND l.locktype = 'relation'
         AND l.mode = 'ShareUpdateExclusiveLock'
)
SELECT i.indexrelid::bigint AS oid, i.indrelid::bigint AS rel, c.relname::text AS name,
       a.amname::text AS method, c.relkind = 'I' AS partitioned, h.inhparent::bigint AS parent,
       i.indisunique AS "unique", i.indimmediate AS immediate,
       i.indnullsnotdistinct AS nulls_not_distinct,
       i.indisvalid AND i.indisready AND i.indislive AS valid,
       i.indisreplident AS replica_identity, i.indisclustered AS clustered,
       i.indnkeyatts::int AS key_count,
       ARRAY(SELECT pg_catalog.pg_get_indexdef(i.indexrelid, k, false)
               FROM pg_catalog.generate_series(1, i.indnatts) k) AS columns,
       ARRAY(SELECT n::int FROM pg_catalog.unnest(i.indkey::int2[]) n) AS numbers,
       ARRAY(SELECT o::bigint FROM pg_catalog.unnest(i.indclass::oid[]) o) AS classes,
       ARRAY(SELECT o::bigint FROM pg_catalog.unnest(i.indcollation::oid[]) o) AS collations,
       ARRAY(SELECT o::int FROM pg_catalog.unnest(i.indoption::int2[]) o) AS flags,
       ARRAY(SELECT coalesce(t.attoptions::text, '') FROM pg_catalog.pg_attribute t
              WHERE t.attrelid = i.indexrelid ORDER BY t.attnum) AS class_options,
       ARRAY(SELECT t.attname::text FROM pg_catalog.pg_attribute t
              WHERE t.attrelid = i.indexrelid ORDER BY t.attnum) AS attributes,
       pg_catalog.pg_get_expr(i.indpred, i.indrelid) AS predicate,
       pg_catalog.pg_get_indexdef(i.indexrelid) AS definition,
       pg_catalog.format(' %%I.%%I USING ', n.nspname, t.relname) AS marker,
       (SELECT min(o.conname::text) FROM pg_catalog.pg_constraint o
         WHERE o.conindid = i.indexrelid AND o.conrelid = i.indrelid AND o.contype IN ('p', 'u', 'x'))
         AS "constraint",
       EXISTS (SELECT FROM pg_catalog.pg_constraint o
                WHERE o.conindid = i.indexrelid AND o.contype = 'f') AS referenced,
       i.indrelid IN (SELECT b.rel FROM building b) AS building,
       -- System columns are as old as their table.
       EXISTS (SELECT FROM pg_catalog.pg_attribute a
                 JOIN pg_catalog.pg_attribute t ON t.attrelid = i.indrelid AND t.attnum = -1 AND t.xmin = a.xmin
                WHERE a.attrelid = i.indexrelid AND a.attnum = 1) AS with_table,
       c.reltuples::float8 AS tuples,
       coalesce((SELECT o.option_value::int FROM pg_catalog.pg_options_to_table(c.reloptions) o
                  WHERE o.option_name = 'fillfactor'), 90) AS fillfactor,
       coalesce(pg_catalog.pg_relation_size(c.oid), 0)::bigint AS bytes,
       coalesce(s.idx_scan, 0) AS scans, coalesce(s.idx_tup_read, 0) AS tuples_read,
       coalesce(s.idx_tup_fetch, 0) AS tuples_fetched,
       -- Since 16; absent before.
       pg_catalog.timezone('UTC', (pg_catalog.to_jsonb(s) ->> 'last_idx_scan')::timestamptz) AS last_scan,
       coalesce(b.idx_blks_hit, 0) AS hit, coalesce(b.idx_blks_read, 0) AS read
  FROM pg_catalog.pg_index i
  JOIN pg_catalog.pg_class c ON c.oid = i.indexrelid
  JOIN pg_catalog.pg_am a ON a.oid = c.relam
  JOIN pg_catalog.pg_class t ON t.oid = i.indrelid
  JOIN pg_catalog.pg_namespace n ON n.oid = t.relnamespace
  LEFT JOIN pg_catalog.pg_inherits h ON h.inhrelid = c.oid
  LEFT JOIN pg_catalog.pg_stat_all_indexes s ON s.indexrelid = c.oid
  LEFT JOIN pg_catalog.pg_statio_all_indexes b ON b.indexrelid = c.oid
 WHERE i.indrelid = ANY (%(tables)s::bigint[]::oid[])
 ORDER BY i.indrelid, c.relname;

-- name: foreign_keys
-- Foreign keys of these tables, with the rows deleted from the tables that they point at.
SELECT o.conrelid::bigint AS rel, o.conname::text AS name, r.relname::text AS ref_table,
       ARRAY(SELECT a.attname::text FROM pg_catalog.unnest(o.conkey) WITH ORDINALITY k(num, pos)
               JOIN pg_catalog.pg_attribute a ON a.attrelid = o.conrelid AND a.attnum = k.num
              ORDER BY k.pos) AS columns,
       (SELECT coalesce(sum(s.n_tup_del), 0)::bigint FROM pg_catalog.pg_stat_all_tables s
         WHERE s.relid IN (SELECT p.relid FROM pg_catalog.pg_partition_tree(o.confrelid) p
                           UNION ALL SELECT o.confrelid)) AS ref_deleted
  FROM pg_catalog.pg_constraint o
  JOIN pg_catalog.pg_class r ON r.oid = o.confrelid
 WHERE o.contype = 'f' AND o.conparentid = 0 AND o.conrelid = ANY (%(tables)s::bigint[]::oid[])
 ORDER BY o.conrelid, o.conname;

-- name: widths
-- The mean width of columns and index expressions, in bytes, and the share of NULL.
SELECT s.tablename::text AS relation, s.attname::text AS attribute, s.avg_width::int AS width,
       s.null_frac::float8 AS nulls
  FROM pg_catalog.pg_stats s
 WHERE s.schemaname = %(namespace)s AND NOT s.inherited;

-- name: readable
-- Whether the journal and the column statistics can be read.
SELECT pg_catalog.has_table_privilege('parlant_shard.step', 'SELECT') AS journal,
       NOT EXISTS (SELECT FROM pg_catalog.unnest(%(tables)s::bigint[]) t(oid)
                    WHERE NOT pg_catalog.has_table_privilege(t.oid::oid, 'SELECT')) AS contents;

-- name: made
-- When the journal says that a table or index was made: by the first name in a step's title, or the
-- new one of a rename.
SELECT m.name, pg_catalog.timezone('UTC', max(m.finished_at)) AS at
  FROM (SELECT CASE WHEN s.title LIKE 'rename %%'
                    THEN pg_catalog.substring(s.title, ' to "([^"]+)"$')
                    ELSE pg_catalog.substring(s.title, '^[^"]*"([^"]+)"') END AS name, s.finished_at
          FROM parlant_shard.step s
         WHERE s.title ~ '^(create|build|declare|rename|rebuild) ') m
 WHERE m.name IS NOT NULL
 GROUP BY 1;

-- name: usage
-- What a replica did with the indexes of the namespace.
SELECT s.indexrelname::text AS name, s.idx_scan AS scans,
       pg_catalog.timezone('UTC', (pg_catalog.to_jsonb(s) ->> 'last_idx_scan')::timestamptz) AS last_scan
  FROM pg_catalog.pg_stat_all_indexes s
 WHERE s.schemaname = %(namespace)s;

-- name: views
-- The federated views.
SELECT o.name FROM parlant_shard.object o WHERE o.topology = %(topology)s AND o.kind = 'view';

-- name: extensions
-- Where the extensions are that we know how to use.
SELECT x.extname::text AS name, n.nspname::text AS schema, x.extversion AS version
  FROM pg_catalog.pg_extension x
  JOIN pg_catalog.pg_namespace n ON n.oid = x.extnamespace
 WHERE x.extname IN ('pg_stat_statements', 'pgstattuple');

-- name: loaded
-- Whether the server has loaded the library of pg_stat_statements.
SELECT current_setting('pg_stat_statements.max', true) IS NOT NULL AS loaded;

-- name: statement_columns
-- The columns of the view: they depend on the extension's version, not on the server's.
SELECT a.attname::text AS name
  FROM pg_catalog.pg_attribute a
  JOIN pg_catalog.pg_class c ON c.oid = a.attrelid AND c.relname = 'pg_stat_statements'
  JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace AND n.nspname = %(schema)s
 WHERE a.attnum > 0 AND NOT a.attisdropped;
