-- name: waited_for
-- Whom a session waits for: transactions of sessions, and prepared ones, which have no process (pg_blocking_pids says 0).
WITH conflict (wanted, held) AS (
  VALUES ('AccessShareLock', ARRAY['AccessExclusiveLock']),
         ('RowShareLock', ARRAY['ExclusiveLock', 'AccessExclusiveLock']),
         ('RowExclusiveLock', ARRAY['ShareLock', 'ShareRowExclusiveLock', 'ExclusiveLock', 'AccessExclusiveLock']),
         ('ShareUpdateExclusiveLock', ARRAY['ShareUpdateExclusiveLock', 'ShareLock', 'ShareRowExclusiveLock',
                                            'ExclusiveLock', 'AccessExclusiveLock']),
         ('ShareLock', ARRAY['RowExclusiveLock', 'ShareUpdateExclusiveLock', 'ShareRowExclusiveLock',
                             'ExclusiveLock', 'AccessExclusiveLock']),
         ('ShareRowExclusiveLock', ARRAY['RowExclusiveLock', 'ShareUpdateExclusiveLock', 'ShareLock',
                                         'ShareRowExclusiveLock', 'ExclusiveLock', 'AccessExclusiveLock']),
         ('ExclusiveLock', ARRAY['RowShareLock', 'RowExclusiveLock', 'ShareUpdateExclusiveLock', 'ShareLock',
                                 'ShareRowExclusiveLock', 'ExclusiveLock', 'AccessExclusiveLock']),
         ('AccessExclusiveLock', ARRAY['AccessShareLock', 'RowShareLock', 'RowExclusiveLock',
                                       'ShareUpdateExclusiveLock', 'ShareLock', 'ShareRowExclusiveLock',
                                       'ExclusiveLock', 'AccessExclusiveLock'])
)
SELECT DISTINCT NULL::int AS pid, h.virtualtransaction AS transaction, NULL::text AS name, NULL::int AS age
  FROM pg_catalog.pg_locks w
  JOIN conflict c ON c.wanted = w.mode
  JOIN pg_catalog.pg_locks h ON h.pid IS NULL AND h.granted AND h.mode = ANY (c.held)
   AND (h.locktype, h.database, h.relation, h.page, h.tuple, h.virtualxid, h.transactionid, h.classid, h.objid, h.objsubid)
       IS NOT DISTINCT FROM
       (w.locktype, w.database, w.relation, w.page, w.tuple, w.virtualxid, w.transactionid, w.classid, w.objid, w.objsubid)
 WHERE w.pid = %(pid)s AND NOT w.granted
UNION ALL
SELECT a.pid, '', a.application_name,
       extract(epoch FROM pg_catalog.clock_timestamp() - a.xact_start)::int
  FROM pg_catalog.unnest(pg_catalog.pg_blocking_pids(%(pid)s)) AS b(pid)
  JOIN pg_catalog.pg_stat_activity a ON a.pid = b.pid;

-- name: senders
-- Senders of this database that wait for a lock: the first copy of a table waits for every transaction that is open.
SELECT DISTINCT l.pid
  FROM pg_catalog.pg_locks l
  JOIN pg_catalog.pg_stat_activity a ON a.pid = l.pid AND a.backend_type = 'walsender'
 WHERE NOT l.granted AND a.datname = current_database();

-- name: prepared
-- The prepared transactions of the server, with the virtual id under which pg_locks has their locks.
SELECT l.virtualtransaction AS transaction, p.gid, p.owner::text AS owner, p.database::text AS database,
       extract(epoch FROM pg_catalog.clock_timestamp() - p.prepared)::int AS age
  FROM pg_catalog.pg_prepared_xacts p
  JOIN pg_catalog.pg_locks l ON l.locktype = 'transactionid' AND l.transactionid = p.transaction
       AND l.pid IS NULL AND l.granted;

-- name: exclusive
-- Who has locked tables of ours so that nobody can even read their definition.
SELECT l.pid, l.virtualtransaction AS transaction, a.application_name AS name, c.relname::text AS "table",
       extract(epoch FROM pg_catalog.clock_timestamp() - a.xact_start)::int AS age
  FROM pg_catalog.pg_locks l
  JOIN pg_catalog.pg_class c ON c.oid = l.relation AND c.relkind IN ('r', 'p', 'v', 'f')
  JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
       AND n.nspname IN (%(namespace)s, 'parlant_shard')
  LEFT JOIN pg_catalog.pg_stat_activity a USING (pid)
 WHERE l.locktype = 'relation' AND l.granted AND l.mode = 'AccessExclusiveLock'
   AND l.pid IS DISTINCT FROM pg_catalog.pg_backend_pid()
   AND l.database = (SELECT d.oid FROM pg_catalog.pg_database d WHERE d.datname = current_database())
 ORDER BY a.xact_start NULLS FIRST, c.relname
 LIMIT 3;
