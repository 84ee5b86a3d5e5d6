-- name: tables
-- The shard tables with their sizes, and their columns that hold a moment, or may do so.
WITH RECURSIVE member AS (
  SELECT c.oid AS root, c.oid, c.relkind, o.name, o.logical, o.shard
    FROM parlant_shard.object o
    JOIN pg_catalog.pg_class c ON c.relname = o.name AND c.relkind IN ('r', 'p')
    JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace AND n.nspname = %(namespace)s
   WHERE o.topology = %(topology)s AND o.kind = 'table' AND o.shard <> ''
  UNION ALL
  SELECT m.root, c.oid, c.relkind, m.name, m.logical, m.shard
    FROM member m
    JOIN pg_catalog.pg_inherits i ON i.inhparent = m.oid
    JOIN pg_catalog.pg_class c ON c.oid = i.inhrelid
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
), sized AS (
  SELECT m.*, greatest(c.reltuples, 0) AS tuples,
         CASE WHEN k.oid IS NULL THEN pg_catalog.pg_total_relation_size(m.oid)
              ELSE current_setting('block_size')::int
                   * (SELECT sum(x.relpages::bigint) FROM pg_catalog.pg_class x
                       WHERE x.oid IN (m.oid, c.reltoastrelid) OR x.oid IN (
                             SELECT i.indexrelid FROM pg_catalog.pg_index i WHERE i.indrelid = m.oid)) END AS bytes,
         CASE WHEN k.oid IS NULL THEN pg_catalog.pg_relation_size(m.oid)
              ELSE c.relpages::bigint * current_setting('block_size')::int END AS heap
    FROM member m
    JOIN pg_catalog.pg_class c ON c.oid = m.oid
    LEFT JOIN locked k ON k.oid = m.oid
)
SELECT m.name, m.logical, m.shard, pg_catalog.row_security_active(m.root) AS policies,
       coalesce(sum(m.tuples) FILTER (WHERE m.relkind = 'r'), 0)::float8 AS rows,
       coalesce(sum(m.bytes) FILTER (WHERE m.relkind = 'r'), 0)::bigint AS bytes,
       coalesce(sum(m.heap) FILTER (WHERE m.relkind = 'r'), 0)::bigint AS heap,
       (SELECT pg_catalog.json_agg(pg_catalog.json_build_object(
                 'name', a.attname, 'type', pg_catalog.format_type(a.atttypid, NULL), 'fresh', coalesce(
                 CASE WHEN m.root IN (SELECT k.oid FROM locked k) THEN NULL
                      ELSE pg_catalog.pg_get_expr(d.adbin, d.adrelid) END ~* '^\(*(now\(\)|current_(timestamp|date)|(clock|statement)_timestamp\(\))', false))
               ORDER BY a.attnum)
          FROM pg_catalog.pg_attribute a
          LEFT JOIN pg_catalog.pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
         WHERE a.attrelid = m.root AND a.attnum > 0 AND NOT a.attisdropped
           AND a.atttypid IN ('pg_catalog.timestamp'::regtype, 'pg_catalog.timestamptz'::regtype,
                              'pg_catalog.date'::regtype, 'pg_catalog.int4'::regtype,
                              'pg_catalog.int8'::regtype, 'pg_catalog.uuid'::regtype)) AS moments
  FROM sized m
 GROUP BY m.root, m.name, m.logical, m.shard ORDER BY m.shard, m.logical;

-- name: server
-- The size of the database and the moment, and whether this server has samples.
SELECT pg_catalog.pg_database_size(pg_catalog.current_database())::bigint AS bytes,
       pg_catalog.timezone('UTC', pg_catalog.clock_timestamp()) AS now,
       pg_catalog.to_regclass('parlant_shard.sample') IS NOT NULL AS samples;

-- name: inflow
-- Rows by workspace and age: in days up to {daily}, from there in weeks; no age where there is no moment,
-- or one that is more than a day ahead: such rows did not come today.
SELECT r.workspace,
       CASE WHEN r.age < -1 THEN NULL
            WHEN r.age < {daily} THEN greatest(r.age, 0)
            ELSE {daily} + least((r.age - {daily}) / 7, {weekly}) END AS place,
       count(*)::float8 AS rows
  FROM (SELECT {key}::text AS workspace,
               CASE WHEN pg_catalog.isfinite(t.moment)
                    THEN pg_catalog.floor(extract(epoch FROM ({now}::timestamp - t.moment::timestamp)) / 86400)::int
               END AS age
          FROM (SELECT {key}, {moment} AS moment FROM {table} {sample}) AS t) AS r
 GROUP BY 1, 2;

-- name: counts
-- Rows by workspace of a table without a moment.
SELECT {key}::text AS workspace, NULL::int AS place, count(*)::float8 AS rows
  FROM {table} {sample} GROUP BY 1;

-- name: retired
-- Partitions that are no longer attached: their rows came in, too.
SELECT r.shard, r.logical, r.lower_bound AS lower, r.upper_bound AS upper, r.rows::float8 AS rows
  FROM parlant_shard.retired r
 WHERE r.topology = %(topology)s AND r.rows > 0 AND r.state IN ('archived', 'detached')
   AND r.lower_bound IS NOT NULL AND r.upper_bound IS NOT NULL;

-- name: samples
-- The last sample of each day, in days before the moment.
SELECT DISTINCT ON (s.shard, s.logical, s.workspace_id, d.ago)
       s.shard, s.logical, s.workspace_id AS workspace, s.rows, s.bytes,
       extract(epoch FROM (%(now)s::timestamp - pg_catalog.timezone('UTC', s.taken_at)))::float8 / 86400 AS ago
  FROM parlant_shard.sample s
 CROSS JOIN LATERAL (SELECT pg_catalog.floor(
         extract(epoch FROM (%(now)s::timestamp - pg_catalog.timezone('UTC', s.taken_at))) / 86400) AS ago) d
 WHERE s.topology = %(topology)s AND s.taken_at <= pg_catalog.timezone('UTC', %(now)s::timestamp)
 ORDER BY s.shard, s.logical, s.workspace_id, d.ago, s.taken_at DESC;
