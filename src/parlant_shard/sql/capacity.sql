-- name: load
-- What replication takes of this server's limits for good; the first copy of a table goes again.
SELECT (SELECT count(*) FROM pg_catalog.pg_replication_slots s
         WHERE s.slot_name !~ '^pg_[0-9]+_sync_') AS slots,
       (SELECT count(*) FROM pg_catalog.pg_stat_replication r
         WHERE coalesce(r.application_name, '') !~ '^pg_[0-9]+_sync_') AS senders,
       (SELECT count(*) FROM pg_catalog.pg_replication_origin) AS origins,
       (SELECT count(*) FROM pg_catalog.pg_stat_subscription s
         WHERE s.pid IS NOT NULL AND s.relid IS NULL
           AND pg_catalog.to_jsonb(s) ->> 'leader_pid' IS NULL) AS workers,
       (SELECT count(*) FROM pg_catalog.pg_stat_activity a
         WHERE a.backend_type NOT IN ('client backend', 'parallel worker', 'walsender', 'checkpointer',
               'background writer', 'walwriter', 'walsummarizer', 'walreceiver', 'autovacuum launcher',
               'autovacuum worker', 'archiver', 'startup', 'slotsync worker', 'io worker',
               'standalone backend')
           AND a.pid NOT IN (SELECT s.pid FROM pg_catalog.pg_stat_subscription s
                              WHERE s.pid IS NOT NULL AND s.relid IS NOT NULL)) AS processes,
       (SELECT pg_catalog.array_agg(s.subname::text) FROM pg_catalog.pg_stat_subscription s
         WHERE s.pid IS NOT NULL AND s.relid IS NULL) AS running;

-- name: copied
-- Whether a subscription has copied all its tables; else the limit that leaves it without a worker.
WITH subscription AS (
  SELECT s.oid FROM pg_catalog.pg_subscription s
    JOIN pg_catalog.pg_database d ON d.oid = s.subdbid AND d.datname = current_database()
   WHERE s.subname = {name}
), copy AS (
  SELECT count(*) = {count} AND coalesce(bool_and(r.srsubstate IN ('r', 's')), true) AS done
    FROM pg_catalog.pg_subscription_rel r JOIN subscription s ON s.oid = r.srsubid
)
SELECT c.done,
       CASE WHEN c.done THEN NULL
            WHEN (SELECT count(*) = 2 FROM (SELECT DISTINCT w.relid IS NULL
                    FROM pg_catalog.pg_stat_subscription w JOIN subscription s ON s.oid = w.subid
                   WHERE w.pid IS NOT NULL) AS both_kinds) THEN NULL
            WHEN (SELECT count(*) FROM pg_catalog.pg_stat_subscription w
                   WHERE w.pid IS NOT NULL AND w.relid IS NULL)
                 >= current_setting('max_logical_replication_workers')::int
            THEN 'max_logical_replication_workers'
            WHEN (SELECT count(*) FROM pg_catalog.pg_stat_activity a
                   WHERE a.backend_type NOT IN ('client backend', 'parallel worker', 'walsender',
                         'checkpointer', 'background writer', 'walwriter', 'walsummarizer',
                         'walreceiver', 'autovacuum launcher', 'autovacuum worker', 'archiver',
                         'startup', 'slotsync worker', 'io worker', 'standalone backend')
                     AND a.pid NOT IN (SELECT w.pid FROM pg_catalog.pg_stat_subscription w
                                        WHERE w.pid IS NOT NULL AND w.relid IS NOT NULL))
                 >= current_setting('max_worker_processes')::int
            THEN 'max_worker_processes' END AS lacks
  FROM copy c
