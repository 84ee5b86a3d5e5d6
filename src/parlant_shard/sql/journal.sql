-- name: schema
-- Our schema, where there is one: whose it is, whether we may use it, and whether it is filled.
SELECT pg_catalog.pg_get_userbyid(n.nspowner)::text AS owner,
       pg_catalog.has_schema_privilege(n.oid, 'USAGE') AS usable,
       EXISTS (SELECT FROM pg_catalog.pg_class c
                WHERE c.relnamespace = n.oid AND c.relname = 'step') AS present
  FROM pg_catalog.pg_namespace n WHERE n.nspname = 'parlant_shard';

-- name: start
-- Record a run on the coordinator.
INSERT INTO parlant_shard.run (run_id, topology, command, state, fingerprint, topology_sha256, steps, step_ids)
VALUES (%(run_id)s, %(topology)s, %(command)s, 'running', %(fingerprint)s, %(sha256)s, %(steps)s, %(step_ids)s);

-- name: interrupt_others
-- We hold the lock, so a run that still says running has died.
UPDATE parlant_shard.run SET state = 'interrupted', finished_at = clock_timestamp()
 WHERE topology = %(topology)s AND state = 'running'
RETURNING run_id, command;

-- name: finish
UPDATE parlant_shard.run SET state = %(state)s, detail = %(detail)s, finished_at = clock_timestamp()
 WHERE run_id = %(run_id)s;

-- name: step
-- In the transaction of a transactional step; right after any other.
INSERT INTO parlant_shard.step (run_id, step_id, title, started_at, attempts)
VALUES (%(run_id)s, %(step_id)s, %(title)s, %(started_at)s, %(attempts)s)
ON CONFLICT (run_id, step_id) DO NOTHING;

-- name: is_free
-- A row where the step has none; rolled back. A look alone would not see, nor wait for, what is about to be committed.
INSERT INTO parlant_shard.step (run_id, step_id, title, started_at, attempts)
VALUES (%(run_id)s, %(step_id)s, '', clock_timestamp(), 0)
ON CONFLICT (run_id, step_id) DO NOTHING RETURNING step_id;

-- name: unfinished
-- The newest run of this plan, where it did not reach its end. One that did ends those before it.
SELECT newest.step_ids
  FROM (SELECT state, step_ids FROM parlant_shard.run
         WHERE topology = %(topology)s AND fingerprint = %(fingerprint)s
         ORDER BY started_at DESC LIMIT 1) AS newest
 WHERE newest.state IN ('interrupted', 'failed', 'running');

-- name: last
-- The newest run, whatever became of it.
SELECT run_id, command, state, steps, started_at, finished_at, actor, detail FROM parlant_shard.run
 WHERE topology = %(topology)s ORDER BY started_at DESC LIMIT 1;

-- name: history
SELECT run_id, command, state, steps, started_at, finished_at, actor, detail FROM parlant_shard.run
 WHERE topology = %(topology)s ORDER BY started_at DESC LIMIT %(limit)s;

-- name: steps_of
SELECT count(*) AS done FROM parlant_shard.step WHERE run_id = %(run_id)s;
