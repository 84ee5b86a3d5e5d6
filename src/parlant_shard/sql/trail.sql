-- name: record
-- One row at the end of the chain; number, time, actor, address and hashes are the trigger's.
INSERT INTO parlant_shard.audit (topology, command, objects, result, detail, run_id, os_user, os_host)
VALUES (%(topology)s, %(command)s, %(objects)s, %(result)s, %(detail)s, %(run_id)s, %(os_user)s, %(os_host)s);

-- name: history
-- The newest rows of a topology.
SELECT a.id, a.at, a.command, a.objects, a.result, a.detail, a.run_id, a.actor,
       pg_catalog.host(a.client_address) AS client_address, a.os_user, a.os_host
  FROM parlant_shard.audit a
 WHERE a.topology = %(topology)s ORDER BY a.id DESC LIMIT %(limit)s;

-- name: check
-- The whole chain: how many rows, the hash of the last, and the first row that does not follow from the one before.
-- The expression is that of the trigger, written out again: a changed function must not vouch for itself.
SELECT count(*) AS rows,
       (pg_catalog.array_agg(c.hash ORDER BY c.id DESC))[1] AS head,
       min(c.id) FILTER (WHERE NOT c.fits) AS broken_at
  FROM (SELECT a.id, a.hash,
               a.id = pg_catalog.row_number() OVER w
               AND a.previous = coalesce(pg_catalog.lag(a.hash) OVER w, '')
               AND a.hash = pg_catalog.encode(pg_catalog.sha256(pg_catalog.convert_to(
                     pg_catalog.jsonb_build_array(
                       a.previous, a.id, extract(epoch FROM a.at), a.topology, a.command, a.objects, a.result,
                       a.detail, a.run_id, a.actor, a.client_address, a.os_user, a.os_host)::text,
                     'UTF8')), 'hex') AS fits
          FROM parlant_shard.audit a
        WINDOW w AS (ORDER BY a.id)) c;

-- name: estimates
-- The rows (estimated) of tables and their partitions, before they go.
SELECT c.relname::text AS name,
       (SELECT coalesce(sum(greatest(s.n_live_tup, t.reltuples::bigint, 0)), 0)::bigint
          FROM (SELECT c.oid UNION SELECT p.relid FROM pg_catalog.pg_partition_tree(c.oid) p) m(oid)
          JOIN pg_catalog.pg_class t ON t.oid = m.oid AND t.relkind = 'r'
          LEFT JOIN pg_catalog.pg_stat_all_tables s ON s.relid = t.oid) AS rows
  FROM pg_catalog.pg_class c
  JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace AND n.nspname = %(namespace)s
 WHERE c.relname = ANY (%(names)s::text[]) AND c.relkind IN ('r', 'p');
