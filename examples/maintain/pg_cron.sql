-- Schedules inside PostgreSQL, with the extension pg_cron, in the database that it is installed for.

-- 1. On servers of your own: run the command itself, every hour at :07. COPY FROM PROGRAM needs a
-- superuser or a member of pg_execute_server_program, and parlant-shard, the topology and its
-- environment on the database's machine. Managed services do not allow it: there a CronJob or a
-- timer elsewhere runs the command, and the job below watches it.
SELECT cron.schedule(
  'parlant-shard maintain',
  '7 * * * *',
  $$COPY (SELECT 1) TO PROGRAM '/usr/local/bin/parlant-shard maintain /etc/parlant-shard/topology.yaml --metrics-file /var/lib/node_exporter/parlant_shard.prom'$$
);

-- 2. Everywhere: a watch that needs no other program. The job fails, with a line in
-- cron.job_run_details and in the server's log, when a table that is cut by time has no partition
-- for a row of seven days from now. It reads bounds that are moments, not numbers or ids.
SELECT cron.schedule(
  'parlant-shard horizon',
  '37 * * * *',
  $$
  DO $watch$
  DECLARE
    short text;
  BEGIN
    SELECT string_agg(c.oid::regclass::text, ', ') INTO short
      FROM pg_partitioned_table t
      JOIN pg_class c ON c.oid = t.partrelid
      JOIN parlant_shard.object o ON o.name = c.relname AND o.kind = 'table'
     WHERE NOT EXISTS (
       SELECT FROM pg_inherits i
         JOIN pg_class leaf ON leaf.oid = i.inhrelid
        CROSS JOIN LATERAL (SELECT regexp_match(pg_get_expr(leaf.relpartbound, leaf.oid),
                                                'TO \(''([0-9][^'']*)''\)') AS found) bound
        WHERE i.inhparent = c.oid
          AND bound.found[1]::timestamptz > now() + interval '7 days');
    IF short IS NOT NULL THEN
      RAISE EXCEPTION 'partitions of % end within seven days: does parlant-shard maintain run?', short;
    END IF;
  END
  $watch$
  $$
);
