-- name: store
-- Keep a map that differs from the stored one, with the next epoch. No row: nothing changed.
INSERT INTO parlant_shard.map AS old (topology, map, epoch)
VALUES (%(topology)s, %(map)s, 1)
ON CONFLICT (topology) DO UPDATE
   SET map = pg_catalog.jsonb_set(EXCLUDED.map, '{epoch}', pg_catalog.to_jsonb(old.epoch + 1)),
       epoch = old.epoch + 1, updated_at = pg_catalog.now()
 WHERE (old.map OPERATOR(pg_catalog.-) 'epoch'::text)
       OPERATOR(pg_catalog.<>) (EXCLUDED.map OPERATOR(pg_catalog.-) 'epoch'::text)
RETURNING epoch;

-- name: notify
-- Routers listen; they hear it when this transaction commits.
SELECT pg_catalog.pg_notify('parlant_shard', %(topology)s);

-- name: load
-- The stored map of one topology.
SELECT m.map, m.epoch FROM parlant_shard.map m WHERE m.topology = %(topology)s;

-- name: missing_grants
-- Whether the application's role exists and still needs its right to read the map.
SELECT NOT (pg_catalog.has_schema_privilege(r.oid, n.oid, 'USAGE')
            AND pg_catalog.has_table_privilege(r.oid, c.oid, 'SELECT')) AS needed
  FROM pg_catalog.pg_roles r, pg_catalog.pg_class c
  JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace AND n.nspname = 'parlant_shard'
 WHERE r.rolname = %(role)s AND c.relname = 'map';

-- name: referenced
-- The single column that a foreign key of a shard's table points at.
SELECT f.relname::text AS "table", a.attname::text AS "column"
  FROM pg_catalog.pg_constraint k
  JOIN pg_catalog.pg_class t ON t.oid = k.conrelid
  JOIN pg_catalog.pg_namespace n ON n.oid = t.relnamespace AND n.nspname = %(namespace)s
  JOIN pg_catalog.pg_class f ON f.oid = k.confrelid
  JOIN pg_catalog.pg_attribute a ON a.attrelid = f.oid AND a.attnum = k.confkey[1]
 WHERE k.contype = 'f' AND pg_catalog.cardinality(k.confkey) = 1
   AND t.relname = %(table)s AND k.conname = %(constraint)s;

-- name: generated
-- The generated columns of a table: COPY without a column list leaves them out.
SELECT a.attname::text AS name
  FROM pg_catalog.pg_attribute a
  JOIN pg_catalog.pg_class t ON t.oid = a.attrelid
  JOIN pg_catalog.pg_namespace n ON n.oid = t.relnamespace AND n.nspname = %(namespace)s
 WHERE t.relname = %(table)s AND a.attnum > 0 AND NOT a.attisdropped AND a.attgenerated <> '';
