-- name: tables
-- Live rows (estimated) and bytes of every managed table of the topology, partitions included.
WITH RECURSIVE member AS (
  SELECT c.oid, o.name AS root, o.logical, o.shard, c.relkind
    FROM parlant_shard.object o
    JOIN pg_catalog.pg_class c ON c.relname = o.name
    JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace AND n.nspname = %(namespace)s
   WHERE o.topology = %(topology)s AND o.kind = 'table' AND c.relkind IN ('r', 'p')
  UNION ALL
  SELECT i.inhrelid, m.root, m.logical, m.shard, c.relkind
    FROM member m
    JOIN pg_catalog.pg_inherits i ON i.inhparent = m.oid
    JOIN pg_catalog.pg_class c ON c.oid = i.inhrelid
)
SELECT m.logical, m.shard,
       coalesce(sum(s.n_live_tup), 0)::bigint AS rows,
       coalesce(sum(CASE WHEN m.relkind = 'r' THEN pg_catalog.pg_total_relation_size(m.oid) END), 0)::bigint AS bytes,
       count(*) FILTER (WHERE m.relkind = 'r' AND c.relispartition) AS partitions
  FROM member m
  JOIN pg_catalog.pg_class c ON c.oid = m.oid
  LEFT JOIN pg_catalog.pg_stat_user_tables s ON s.relid = m.oid AND m.relkind = 'r'
 GROUP BY m.logical, m.shard ORDER BY m.shard, m.logical;

-- name: partitions
-- Partitions of the managed tables with their bounds; detached ones are no longer listed.
SELECT o.logical, o.shard, p.relname AS parent, c.relname AS partition,
       pg_catalog.pg_get_expr(c.relpartbound, c.oid) AS bound, i.inhdetachpending AS detach_pending,
       pg_catalog.pg_total_relation_size(c.oid)::bigint AS bytes
  FROM parlant_shard.object o
  JOIN pg_catalog.pg_class p ON p.relname = o.name
  JOIN pg_catalog.pg_namespace n ON n.oid = p.relnamespace AND n.nspname = %(namespace)s
  JOIN pg_catalog.pg_inherits i ON i.inhparent = p.oid
  JOIN pg_catalog.pg_class c ON c.oid = i.inhrelid AND c.relispartition
 WHERE o.topology = %(topology)s AND o.kind = 'table'
 ORDER BY o.shard, o.logical, c.relname;

-- name: replication
-- How far the copies of reference tables are behind: bytes of WAL not yet confirmed, per slot. Nothing confirms a lost one.
SELECT s.slot_name::text AS slot, s.active,
       CASE WHEN s.wal_status <> 'lost'
            THEN (pg_catalog.pg_current_wal_lsn() - s.confirmed_flush_lsn)::bigint END AS behind,
       s.wal_status, s.confirmed_flush_lsn::text AS confirmed, pg_catalog.pg_current_wal_lsn()::text AS current
  FROM pg_catalog.pg_replication_slots s
 WHERE s.slot_name LIKE 'parlant\_shard\_%%' AND s.database = current_database()
   AND %(namespace)s <> '' AND %(topology)s <> ''
 ORDER BY 1;
