-- name: read_only
SELECT pg_catalog.current_setting('transaction_read_only')::bool AS read_only;

-- name: tables
-- The shard tables of the topology on this server, and the foreign tables that lead to others.
SELECT o.name, c.relkind = 'p' AS partitioned
  FROM parlant_shard.object o
  JOIN pg_catalog.pg_class c ON c.relname = o.name AND c.relkind IN ('r', 'p', 'f')
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

-- name: analyzed_foreign
-- When the statistics of foreign tables were taken, in UTC. PostgreSQL keeps no time of these.
SELECT s.step_id, pg_catalog.timezone('UTC', max(s.finished_at)) AS at
  FROM parlant_shard.step s
 WHERE s.title LIKE 'take statistics of foreign table%%'
 GROUP BY s.step_id;

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
 WHERE topology = %(topology)s AND state = 'running' AND (%(alone)s OR command NOT IN ('maintain', 'archive restore'))
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

-- name: copies
-- Tables with rows on their way out of a default partition, and the quoted name of whose.
SELECT c.relname::text AS name, pg_catalog.substr(d.description, pg_catalog.strpos(
         pg_catalog.substr(d.description, pg_catalog.length(%(mark)s) + 1), ' ')
         + pg_catalog.length(%(mark)s) + 1) AS "table"
  FROM pg_catalog.pg_class c
  JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace AND n.nspname = 'parlant_shard'
  JOIN pg_catalog.pg_description d ON d.objoid = c.oid AND d.objsubid = 0
       AND d.classoid = 'pg_catalog.pg_class'::regclass
 WHERE c.relkind = 'r' AND pg_catalog.starts_with(d.description, %(mark)s)
 ORDER BY c.relname;

-- name: transactions
-- Transactions of this database that are open now. Those of the server itself have no user.
SELECT l.pid, l.virtualtransaction AS transaction, a.application_name AS name,
       extract(epoch FROM pg_catalog.clock_timestamp() - a.xact_start)::int AS age
  FROM pg_catalog.pg_locks l
  JOIN pg_catalog.pg_stat_activity a USING (pid)
 WHERE l.locktype = 'virtualxid' AND l.granted AND l.mode = 'ExclusiveLock'
   AND l.pid <> pg_catalog.pg_backend_pid() AND a.usesysid IS NOT NULL
   AND a.datname = current_database()
 ORDER BY a.xact_start NULLS FIRST;

-- name: sample
-- Store the sizes of tables that were analysed and have no sample of the last 20 hours, and what the statistics say of their workspaces.
WITH RECURSIVE member AS (
  SELECT c.oid, c.relkind, c.relkind = 'p' AS partitioned, o.name, o.logical, o.shard
    FROM parlant_shard.object o
    JOIN pg_catalog.pg_class c ON c.relname = o.name AND c.relkind IN ('r', 'p')
    JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace AND n.nspname = %(namespace)s
   WHERE o.topology = %(topology)s AND o.kind = 'table' AND o.shard <> ''
     AND o.name = ANY (%(tables)s::text[])
     AND NOT EXISTS (SELECT FROM parlant_shard.sample p
                      WHERE p.topology = o.topology AND p.shard = o.shard AND p.logical = o.logical
                        AND p.workspace_id = '' AND p.taken_at > now() - interval '20 hours')
  UNION ALL
  SELECT c.oid, c.relkind, m.partitioned, m.name, m.logical, m.shard
    FROM member m
    JOIN pg_catalog.pg_inherits i ON i.inhparent = m.oid
    JOIN pg_catalog.pg_class c ON c.oid = i.inhrelid
), size AS (
  SELECT m.name, m.partitioned, m.logical, m.shard, sum(greatest(c.reltuples, 0))::float8 AS rows,
         sum(pg_catalog.pg_total_relation_size(m.oid))::bigint AS bytes
    FROM member m
    JOIN pg_catalog.pg_class c ON c.oid = m.oid
   WHERE m.relkind = 'r'
   GROUP BY m.name, m.partitioned, m.logical, m.shard
  HAVING bool_or(c.reltuples >= 0)
)
INSERT INTO parlant_shard.sample (topology, shard, logical, workspace_id, rows, bytes)
SELECT %(topology)s, s.shard, s.logical, '', s.rows, s.bytes FROM size s
UNION ALL
SELECT %(topology)s, s.shard, s.logical, v.workspace, s.rows * v.part, (s.bytes * v.part)::bigint
  FROM size s
  JOIN pg_catalog.pg_stats t ON t.schemaname = %(namespace)s AND t.tablename = s.name
       AND t.attname = %(key)s AND t.inherited = s.partitioned
 CROSS JOIN LATERAL ROWS FROM (pg_catalog.unnest(t.most_common_vals::text::text[]),
                                pg_catalog.unnest(t.most_common_freqs)) AS v(workspace, part)
 WHERE v.workspace <> ''
   -- Statistics name a workspace until the next ANALYZE, also one that was purged.
   AND NOT EXISTS (SELECT FROM parlant_shard.placement p
                    WHERE p.topology = %(topology)s AND p.workspace_id = v.workspace
                      AND p.state IN ('purging', 'purged'));

-- name: thin
-- Forget samples that are older than a forecast looks back.
DELETE FROM parlant_shard.sample
 WHERE topology = %(topology)s AND taken_at < now() - interval '2 years';
