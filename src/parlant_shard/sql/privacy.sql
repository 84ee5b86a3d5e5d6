-- name: relations
-- Every table of the namespace and what it is a partition of: equal before and after, nothing was made, dropped or detached.
SELECT c.oid::bigint AS oid, c.relname::text AS name, i.inhparent::bigint AS parent, i.inhdetachpending AS pending
  FROM pg_catalog.pg_class c
  JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace AND n.nspname = %(namespace)s
  LEFT JOIN pg_catalog.pg_inherits i ON i.inhrelid = c.oid
 WHERE c.relkind IN ('r', 'p')
 ORDER BY c.oid, i.inhparent;

-- name: snapshot
-- The clock at which a snapshot was taken, in UTC.
SELECT pg_catalog.to_char(pg_catalog.timezone('UTC', pg_catalog.clock_timestamp()), 'YYYY-MM-DD"T"HH24:MI:SS"Z"') AS taken_at;

-- name: open
-- Every open transaction of the server but this one; a prepared one has no virtual id of its own to hold.
SELECT DISTINCT l.virtualtransaction AS transaction
  FROM pg_catalog.pg_locks l
 WHERE (l.locktype = 'virtualxid' OR l.pid IS NULL) AND l.pid IS DISTINCT FROM pg_catalog.pg_backend_pid();

-- name: writers
-- Which of some transactions hold a lock on some tables under which rows are written, and whose they are.
SELECT DISTINCT ON (l.virtualtransaction) l.virtualtransaction AS transaction, l.pid, a.usename::text AS name,
       NULL::int AS age, c.relname::text AS table
  FROM pg_catalog.pg_locks l
  JOIN pg_catalog.pg_class c ON c.oid = l.relation
  JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace AND n.nspname = %(namespace)s
  LEFT JOIN pg_catalog.pg_stat_activity a ON a.pid = l.pid
 WHERE l.locktype = 'relation' AND l.granted
   AND l.database = (SELECT d.oid FROM pg_catalog.pg_database d WHERE d.datname = pg_catalog.current_database())
   AND l.mode IN ('RowExclusiveLock', 'ShareRowExclusiveLock', 'ExclusiveLock', 'AccessExclusiveLock')
   AND c.relname = ANY (%(tables)s::text[]) AND l.virtualtransaction = ANY (%(known)s::text[])
 ORDER BY l.virtualtransaction, c.relname;

-- name: archives
-- Partitions of a shard whose rows are in an archive, whether a table has them as well or not.
SELECT r.logical AS "table", r.shard, r.name AS partition, r.lower_bound AS "from", r.upper_bound AS "to",
       r.rows, r.archive AS path, r.state
  FROM parlant_shard.retired r
 WHERE r.topology = %(topology)s AND r.shard = %(shard)s AND r.archive IS NOT NULL
 ORDER BY r.logical, r.lower_bound, r.name;

-- name: publish
-- Put the workspaces that routers refuse into the stored map, with the next epoch.
UPDATE parlant_shard.map AS m
   SET map = pg_catalog.jsonb_set(pg_catalog.jsonb_set(m.map, ARRAY['purged'], d.purged), ARRAY['epoch'], pg_catalog.to_jsonb(m.epoch + 1)),
       epoch = m.epoch + 1, updated_at = pg_catalog.now()
  FROM (SELECT coalesce(pg_catalog.jsonb_agg(d.workspace_id ORDER BY d.workspace_id COLLATE "C"), '[]') AS purged
          FROM parlant_shard.directory d
         WHERE d.topology = %(topology)s AND d.state IN ('purging', 'purged')) AS d
 WHERE m.topology = %(topology)s AND m.map -> 'purged' IS DISTINCT FROM d.purged;

-- name: refused
-- The row of a workspace that is being purged or was, and the server of its shard.
SELECT d.state, s.server
  FROM parlant_shard.directory d
  LEFT JOIN parlant_shard.shard s ON s.topology = d.topology AND s.shard = d.shard
 WHERE d.topology = %(topology)s AND d.workspace_id = %(workspace)s AND d.state IN ('purging', 'purged');

-- name: forget_placement
DELETE FROM parlant_shard.placement p
 WHERE p.topology = %(topology)s AND p.workspace_id = %(workspace)s AND p.state = 'purged';

-- name: forget_directory
DELETE FROM parlant_shard.directory d
 WHERE d.topology = %(topology)s AND d.workspace_id = %(workspace)s AND d.state = 'purged';
