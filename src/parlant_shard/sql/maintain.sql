-- name: tables
-- The shard tables of the topology on this server.
SELECT o.name, c.relkind = 'p' AS partitioned
  FROM parlant_shard.object o
  JOIN pg_catalog.pg_class c ON c.relname = o.name AND c.relkind IN ('r', 'p')
  JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace AND n.nspname = %(namespace)s
 WHERE o.topology = %(topology)s AND o.kind = 'table' AND o.shard <> ''
 ORDER BY o.name;

-- name: lock
-- Take every lock that is free.
SELECT k.name, pg_catalog.pg_try_advisory_lock(pg_catalog.hashtextextended(k.name, 0)) AS held
  FROM pg_catalog.unnest(%(keys)s::text[]) AS k(name);

-- name: analyzed
-- When the statistics of partitioned tables were taken, in UTC.
SELECT s.relname::text AS name,
       pg_catalog.timezone('UTC', greatest(s.last_analyze, s.last_autoanalyze)) AS at
  FROM pg_catalog.pg_stat_user_tables s
  JOIN pg_catalog.pg_class c ON c.oid = s.relid AND c.relkind = 'p'
 WHERE s.schemaname = %(namespace)s;

-- name: users
-- Transactions that use a table now. One without a process is a prepared transaction.
SELECT l.pid, l.virtualtransaction AS transaction, a.application_name AS name,
       extract(epoch FROM pg_catalog.clock_timestamp() - a.xact_start)::int AS age
  FROM pg_catalog.pg_locks l
  LEFT JOIN pg_catalog.pg_stat_activity a USING (pid)
 WHERE l.locktype = 'relation' AND l.granted AND l.pid IS DISTINCT FROM pg_catalog.pg_backend_pid()
   AND l.relation = pg_catalog.to_regclass(%(table)s)
   AND l.database = (SELECT d.oid FROM pg_catalog.pg_database d WHERE d.datname = current_database())
 ORDER BY a.xact_start NULLS FIRST;

-- name: interrupt_dead
-- Runs that still say running and whose locks we hold. Other maintainers live where `alone` is false.
UPDATE parlant_shard.run SET state = 'interrupted', finished_at = clock_timestamp()
 WHERE topology = %(topology)s AND state = 'running' AND (%(alone)s OR command <> 'maintain')
RETURNING run_id, command;

-- name: bounds
-- The partitions of the shard tables, detached ones apart.
SELECT o.logical, o.shard, p.relname::text AS parent, c.relname::text AS partition,
       pg_catalog.pg_get_expr(c.relpartbound, c.oid) AS bound
  FROM parlant_shard.object o
  JOIN pg_catalog.pg_class p ON p.relname = o.name AND p.relkind = 'p'
  JOIN pg_catalog.pg_namespace n ON n.oid = p.relnamespace AND n.nspname = %(namespace)s
  LEFT JOIN pg_catalog.pg_inherits i ON i.inhparent = p.oid AND NOT i.inhdetachpending
  LEFT JOIN pg_catalog.pg_class c ON c.oid = i.inhrelid
 WHERE o.topology = %(topology)s AND o.kind = 'table' AND o.shard <> ''
 ORDER BY p.relname, c.relname;
