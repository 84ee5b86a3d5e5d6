-- name: table
-- A table under our lock: which one it is, and the columns that a COPY reads, with their types.
SELECT c.oid::bigint AS relid, c.relispartition AS attached,
       ARRAY(SELECT ARRAY[a.attname::text, pg_catalog.format_type(a.atttypid, a.atttypmod)]
               FROM pg_catalog.pg_attribute a
              WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped AND a.attgenerated = ''
              ORDER BY a.attnum) AS columns
  FROM pg_catalog.pg_class c
 WHERE c.oid = pg_catalog.to_regclass(%(table)s);

-- name: settings
-- What the text of a value depends on, for one transaction.
SELECT pg_catalog.set_config('TimeZone', 'UTC', true),
       pg_catalog.set_config('DateStyle', 'ISO, YMD', true),
       pg_catalog.set_config('IntervalStyle', 'postgres', true),
       pg_catalog.set_config('extra_float_digits', '1', true),
       pg_catalog.set_config('bytea_output', 'hex', true),
       pg_catalog.set_config('lc_monetary', 'C', true),
       pg_catalog.set_config('xmloption', 'content', true);

-- name: exists
SELECT pg_catalog.to_regclass('parlant_shard.retired') IS NOT NULL AS found;

-- name: recorded
-- The partitions of a topology that were archived once, whatever became of them.
SELECT r.name, r.logical, r.shard, r.parent, r.lower_bound AS lower, r.upper_bound AS upper,
       r.state, r.archive, r.rows, r.kept_until
  FROM parlant_shard.retired r
 WHERE r.topology = %(topology)s AND r.archive IS NOT NULL
 ORDER BY r.logical, r.shard, r.lower_bound, r.name;

-- name: archived
-- The archive is verified and the table gone: the row says so in the same transaction.
UPDATE parlant_shard.retired SET state = 'archived', archive = %(archive)s, rows = %(rows)s,
       kept_until = NULL, updated_at = pg_catalog.now()
 WHERE topology = %(topology)s AND name = %(name)s AND state = 'detached' AND relid = %(relid)s;

-- name: row
-- What became of one partition.
SELECT r.name, r.relid::bigint AS relid, r.logical, r.shard, r.parent, r.lower_bound AS lower,
       r.upper_bound AS upper, r.state, r.detached_at, r.kept_until, r.archive, r.rows,
       c.oid IS NOT NULL AS known, c.oid IS NOT NULL AND NOT c.relispartition AS present
  FROM parlant_shard.retired r
  LEFT JOIN pg_catalog.pg_class c ON c.oid = r.relid AND c.relname = r.name
 WHERE r.topology = %(topology)s AND r.name = %(name)s;

-- name: has_parent
-- Whether a partitioned table is here, not a foreign table that leads to another server.
SELECT EXISTS (SELECT FROM pg_catalog.pg_class c
                WHERE c.oid = pg_catalog.to_regclass(%(table)s) AND c.relkind = 'p') AS found;

-- name: forget
-- The record went to the server that has the shard now.
DELETE FROM parlant_shard.retired r
 WHERE r.topology = %(topology)s AND r.name = %(name)s AND r.state = 'archived';

-- name: taken
-- What has the name of a partition that is to come back.
SELECT pg_catalog.to_regclass(%(table)s) IS NOT NULL AS found;

-- name: loaded
-- The table is there again, in the same transaction: to be attached, or standing beside.
INSERT INTO parlant_shard.retired AS r
  (topology, name, relid, logical, shard, parent, lower_bound, upper_bound, state, detached_at, archive, rows)
VALUES (%(topology)s, %(name)s, pg_catalog.to_regclass(%(table)s)::oid, %(logical)s, %(shard)s, %(parent)s,
        %(lower)s, %(upper)s, %(state)s, %(detached_at)s, %(archive)s, %(rows)s)
ON CONFLICT (topology, name) DO UPDATE SET relid = EXCLUDED.relid, state = EXCLUDED.state,
       detached_at = EXCLUDED.detached_at, archive = EXCLUDED.archive, rows = EXCLUDED.rows,
       kept_until = NULL, updated_at = pg_catalog.now();

-- name: keep
-- A restored partition stays longer, or shorter.
UPDATE parlant_shard.retired SET kept_until = %(kept_until)s, updated_at = pg_catalog.now()
 WHERE topology = %(topology)s AND name = %(name)s AND state = 'restored';

-- name: volatile
-- Those of PostgreSQL's own functions that may do anything.
SELECT DISTINCT p.proname::text AS name
  FROM pg_catalog.pg_proc p
 WHERE p.pronamespace = 'pg_catalog'::regnamespace AND p.provolatile = 'v' AND p.proname = ANY (%(names)s::text[])
 ORDER BY name;
