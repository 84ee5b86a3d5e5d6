-- name: create
-- Version 1 of the schema that holds our state, the same on every server; upgrades follow it.
CREATE SCHEMA IF NOT EXISTS parlant_shard;
REVOKE ALL ON SCHEMA parlant_shard FROM PUBLIC;
CREATE TABLE parlant_shard.meta (
  version int NOT NULL,
  singleton bool PRIMARY KEY DEFAULT true CHECK (singleton)
);
COMMENT ON TABLE parlant_shard.meta IS 'The version of this schema.';
CREATE TABLE parlant_shard.object (
  topology text NOT NULL,
  kind text NOT NULL CHECK (kind IN ('table', 'view')),
  name text NOT NULL,
  logical text NOT NULL,
  shard text NOT NULL DEFAULT '',
  PRIMARY KEY (kind, name)
);
COMMENT ON TABLE parlant_shard.object IS 'What parlant-shard created in this database, and what for. Nothing else is ever dropped.';
CREATE TABLE parlant_shard.shard (
  topology text NOT NULL,
  shard text NOT NULL,
  server text NOT NULL,
  PRIMARY KEY (topology, shard)
);
COMMENT ON TABLE parlant_shard.shard IS 'Coordinator: the server of every shard.';
CREATE TABLE parlant_shard.directory (
  topology text NOT NULL,
  workspace_id text NOT NULL CHECK (workspace_id <> ''),
  shard text NOT NULL,
  state text NOT NULL DEFAULT 'active',
  epoch bigint NOT NULL DEFAULT 1,
  updated_at timestamptz NOT NULL DEFAULT now(),
  PRIMARY KEY (topology, workspace_id)
);
COMMENT ON TABLE parlant_shard.directory IS 'Coordinator: the shard of every workspace. Can be rebuilt from the placement rows.';
CREATE TABLE parlant_shard.placement (
  topology text NOT NULL,
  workspace_id text NOT NULL CHECK (workspace_id <> ''),
  shard text NOT NULL,
  state text NOT NULL DEFAULT 'active',
  epoch bigint NOT NULL DEFAULT 1,
  updated_at timestamptz NOT NULL DEFAULT now(),
  PRIMARY KEY (topology, workspace_id)
);
COMMENT ON TABLE parlant_shard.placement IS 'The workspaces whose rows this server holds: the truth about placement.';
CREATE TABLE parlant_shard.run (
  run_id uuid PRIMARY KEY,
  topology text NOT NULL,
  command text NOT NULL,
  state text NOT NULL CHECK (state IN ('running', 'done', 'failed', 'interrupted')),
  fingerprint text NOT NULL,
  topology_sha256 text NOT NULL,
  steps int NOT NULL,
  step_ids text[] NOT NULL,
  started_at timestamptz NOT NULL DEFAULT clock_timestamp(),
  finished_at timestamptz,
  actor text NOT NULL DEFAULT session_user,
  detail text
);
CREATE INDEX run_started_at_idx ON parlant_shard.run (topology, started_at DESC);
COMMENT ON TABLE parlant_shard.run IS 'Coordinator: every apply, with its outcome.';
CREATE TABLE parlant_shard.step (
  run_id uuid NOT NULL,
  step_id text NOT NULL,
  title text NOT NULL,
  started_at timestamptz NOT NULL,
  finished_at timestamptz NOT NULL DEFAULT clock_timestamp(),
  attempts int NOT NULL DEFAULT 1,
  PRIMARY KEY (run_id, step_id)
);
COMMENT ON TABLE parlant_shard.step IS 'The steps done on this server; a transactional step commits together with its row.';
CREATE FUNCTION parlant_shard.bucket(workspace text) RETURNS int
  LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
  AS $$ SELECT (pg_catalog.get_byte(h, 0) * 256 + pg_catalog.get_byte(h, 1)) % 4096
          FROM pg_catalog.sha256(pg_catalog.convert_to(workspace, 'UTF8')) AS h $$;
COMMENT ON FUNCTION parlant_shard.bucket(text) IS 'The hash bucket of a workspace: the first two bytes of sha256 over its UTF-8 bytes, modulo 4096.';
INSERT INTO parlant_shard.meta (version) VALUES (1);

-- name: upgrade_1
-- From version 1 to 2: the map that routers read.
CREATE TABLE parlant_shard.map (
  topology text PRIMARY KEY,
  map jsonb NOT NULL,
  epoch bigint NOT NULL,
  updated_at timestamptz NOT NULL DEFAULT now()
);
COMMENT ON TABLE parlant_shard.map IS 'Coordinator: the shard map that routers follow. The epoch grows with every change.';
UPDATE parlant_shard.meta SET version = 2;

-- name: upgrade_2
-- From version 2 to 3: the partitions that were retired, with their archives, samples of growth, the audit trail.
CREATE TABLE parlant_shard.retired (
  topology text NOT NULL,
  name text NOT NULL,
  relid oid NOT NULL,
  logical text NOT NULL,
  shard text NOT NULL,
  parent text NOT NULL,
  lower_bound timestamp,
  upper_bound timestamp,
  state text NOT NULL CHECK (state IN ('detaching', 'detached', 'archived', 'restoring', 'restored')),
  detached_at timestamp,
  archive text,
  rows bigint,
  kept_until timestamp,
  updated_at timestamptz NOT NULL DEFAULT now(),
  PRIMARY KEY (topology, name)
);
COMMENT ON TABLE parlant_shard.retired IS 'Partitions that maintain detached, with their bounds in UTC and their archives. Their ranges are not made again.';
CREATE TABLE parlant_shard.sample (
  topology text NOT NULL,
  taken_at timestamptz NOT NULL DEFAULT now(),
  shard text NOT NULL,
  logical text NOT NULL,
  workspace_id text NOT NULL DEFAULT '',
  rows double precision NOT NULL,
  bytes bigint NOT NULL,
  PRIMARY KEY (topology, shard, logical, workspace_id, taken_at)
);
COMMENT ON TABLE parlant_shard.sample IS 'Sizes of shard tables, one a day, of the whole table and (estimated) of each workspace: what forecasts are made of.';
CREATE TABLE parlant_shard.signing_key (
  id text PRIMARY KEY,
  inner_pad bytea NOT NULL,
  outer_pad bytea NOT NULL,
  added_at timestamptz NOT NULL DEFAULT now()
);
REVOKE ALL ON parlant_shard.signing_key FROM PUBLIC;
COMMENT ON TABLE parlant_shard.signing_key IS 'What workspace tokens are checked with: the two blocks that HMAC-SHA256 makes of each key.';
CREATE TABLE parlant_shard.audit (
  id bigint PRIMARY KEY,
  at timestamptz NOT NULL,
  topology text NOT NULL,
  command text NOT NULL,
  objects text[] NOT NULL,
  result text NOT NULL CHECK (result IN ('begun', 'done', 'findings', 'refused', 'failed', 'interrupted')),
  detail jsonb NOT NULL,
  run_id uuid,
  actor text NOT NULL,
  client_address inet,
  os_user text NOT NULL,
  os_host text NOT NULL,
  previous text NOT NULL,
  hash text NOT NULL
);
CREATE INDEX audit_topology_idx ON parlant_shard.audit (topology, id DESC);
COMMENT ON TABLE parlant_shard.audit IS 'Coordinator: who did what, when, from where and with which result. Append-only; each row has the hash of the one before.';
CREATE FUNCTION parlant_shard.audit_append() RETURNS trigger
  LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
  AS $$
DECLARE
  last record;
BEGIN
  -- One after the other. Whoever may log in can take an advisory lock; this row only its owner can.
  PERFORM FROM parlant_shard.meta FOR UPDATE;
  SELECT a.id, a.hash INTO last FROM parlant_shard.audit a ORDER BY a.id DESC LIMIT 1;
  NEW.id := coalesce(last.id, 0) + 1;
  NEW.at := pg_catalog.clock_timestamp();
  NEW.actor := session_user;
  NEW.client_address := pg_catalog.inet_client_addr();
  NEW.previous := coalesce(last.hash, '');
  NEW.hash := pg_catalog.encode(pg_catalog.sha256(pg_catalog.convert_to(pg_catalog.jsonb_build_array(
    NEW.previous, NEW.id, extract(epoch FROM NEW.at), NEW.topology, NEW.command, NEW.objects, NEW.result,
    NEW.detail, NEW.run_id, NEW.actor, NEW.client_address, NEW.os_user, NEW.os_host)::text, 'UTF8')), 'hex');
  RETURN NEW;
END
$$;
CREATE TRIGGER audit_append BEFORE INSERT ON parlant_shard.audit
  FOR EACH ROW EXECUTE FUNCTION parlant_shard.audit_append();
ALTER TABLE parlant_shard.audit ENABLE ALWAYS TRIGGER audit_append;
CREATE FUNCTION parlant_shard.audit_refuse() RETURNS trigger
  LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
  AS $$
BEGIN
  RAISE EXCEPTION 'the audit trail is append-only' USING ERRCODE = '42501';
END
$$;
CREATE TRIGGER audit_refuse BEFORE UPDATE OR DELETE OR TRUNCATE ON parlant_shard.audit
  FOR EACH STATEMENT EXECUTE FUNCTION parlant_shard.audit_refuse();
ALTER TABLE parlant_shard.audit ENABLE ALWAYS TRIGGER audit_refuse;
REVOKE ALL ON FUNCTION parlant_shard.audit_append(), parlant_shard.audit_refuse() FROM PUBLIC;
DO $$
DECLARE
  granted record;
BEGIN
  -- What default privileges gave to others: who reads the keys can sign, who inserts can forge.
  FOR granted IN
    SELECT DISTINCT c.oid::regclass AS relation, a.grantee::regrole AS grantee
      FROM pg_catalog.pg_class c, LATERAL pg_catalog.aclexplode(c.relacl) a
     WHERE c.oid IN ('parlant_shard.signing_key'::regclass, 'parlant_shard.audit'::regclass)
       AND a.grantee NOT IN (0, c.relowner)
  LOOP
    EXECUTE format('REVOKE ALL ON %s FROM %s', granted.relation, granted.grantee);
  END LOOP;
END
$$;
REVOKE ALL ON parlant_shard.audit FROM PUBLIC;
REVOKE UPDATE, DELETE, TRUNCATE ON parlant_shard.audit FROM CURRENT_USER;
UPDATE parlant_shard.meta SET version = 3;
