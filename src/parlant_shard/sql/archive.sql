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
-- What the text of a value depends on, for one transaction; and that a policy is an error here, not a filter.
SELECT pg_catalog.set_config('TimeZone', 'UTC', true),
       pg_catalog.set_config('DateStyle', 'ISO, YMD', true),
       pg_catalog.set_config('IntervalStyle', 'postgres', true),
       pg_catalog.set_config('extra_float_digits', '1', true),
       pg_catalog.set_config('bytea_output', 'hex', true),
       pg_catalog.set_config('lc_monetary', 'C', true),
       pg_catalog.set_config('xmloption', 'content', true),
       pg_catalog.set_config('row_security', 'off', true);

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
