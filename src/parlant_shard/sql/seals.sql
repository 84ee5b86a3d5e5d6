-- name: old
-- Keys that were sealed last longer ago than `age` seconds, with their key tables.
SELECT s.tab, s.key, s.pending, s.at::text AS at, o.logical, n.nspname::text AS schema, c.relname::text AS name,
       ARRAY(SELECT a.attname::text FROM pg_catalog.pg_attribute a
              WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped ORDER BY a.attnum) AS columns
  FROM parlant_shard.sealed s
  JOIN parlant_shard.object o ON o.kind = 'key' AND o.name = s.tab AND o.topology = %(topology)s
  JOIN pg_catalog.pg_class c ON c.oid = pg_catalog.to_regclass(o.name)
  JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
 WHERE s.at <= pg_catalog.clock_timestamp() - pg_catalog.make_interval(secs => %(age)s)
 ORDER BY s.tab, s.at
 LIMIT %(limit)s;
