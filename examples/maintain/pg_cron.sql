-- Schedules inside PostgreSQL, with the extension pg_cron, in the database that it is installed for.

-- 1. On servers of your own: run the command itself, every hour at :07. COPY TO PROGRAM needs a
-- superuser or a member of pg_execute_server_program, and parlant-shard, the topology and its
-- environment on the database's machine, readable for the server's account. Managed services do not
-- allow it: there a CronJob or a timer elsewhere runs the command, and the job below watches it.
SELECT cron.schedule(
  'parlant-shard maintain',
  '7 * * * *',
  $$COPY (SELECT 1) TO PROGRAM 'set -a; . /etc/parlant-shard/environment; /usr/local/bin/parlant-shard maintain /etc/parlant-shard/topology.yaml --metrics-file /var/lib/node_exporter/textfile/parlant_shard.prom'$$
);

-- 2. Everywhere: a watch that needs no other program. The job fails, with a line in
-- cron.job_run_details and in the server's log, when a table that is cut by time has no partition
-- ahead of the current one: an interval is left then. It reads bounds that are dates or timestamps;
-- tables that are cut by a number or a UUIDv7 it leaves out.
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
      JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum = t.partattrs[0]
       AND a.atttypid IN ('date'::regtype, 'timestamp'::regtype, 'timestamptz'::regtype)
      JOIN parlant_shard.object o ON o.name = c.relname AND o.kind = 'table'
     WHERE NOT EXISTS (
       SELECT FROM pg_inherits i
         JOIN pg_class leaf ON leaf.oid = i.inhrelid
        CROSS JOIN LATERAL (SELECT regexp_match(pg_get_expr(leaf.relpartbound, leaf.oid),
                                                'FROM \(''([0-9]{4}-[0-9]{2}-[^'']*)''\)') AS found) bound
        WHERE i.inhparent = c.oid
          AND bound.found[1]::timestamptz > now());
    IF short IS NOT NULL THEN
      RAISE EXCEPTION 'no partition lies ahead of now in %: does parlant-shard maintain run?', short;
    END IF;
  END
  $watch$
  $$
);
