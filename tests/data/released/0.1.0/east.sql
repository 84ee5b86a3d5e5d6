
SET statement_timeout = 0;
SET lock_timeout = 0;
SET idle_in_transaction_session_timeout = 0;
SET client_encoding = 'UTF8';
SET standard_conforming_strings = on;
SELECT pg_catalog.set_config('search_path', '', false);
SET check_function_bodies = false;
SET xmloption = content;
SET client_min_messages = warning;
SET row_security = off;
CREATE SCHEMA parlant_shard;
CREATE TYPE public.mood AS ENUM (
    'calm',
    'it''s "odd"'
);
CREATE FUNCTION parlant_shard.audit_append() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
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
CREATE FUNCTION parlant_shard.audit_refuse() RETURNS trigger
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
BEGIN
  RAISE EXCEPTION 'the audit trail is append-only' USING ERRCODE = '42501';
END
$$;
CREATE FUNCTION parlant_shard.bucket(workspace text) RETURNS integer
    LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
    AS $$ SELECT (pg_catalog.get_byte(h, 0) * 256 + pg_catalog.get_byte(h, 1)) % 4096
          FROM pg_catalog.sha256(pg_catalog.convert_to(workspace, 'UTF8')) AS h $$;
COMMENT ON FUNCTION parlant_shard.bucket(workspace text) IS 'The hash bucket of a workspace: the first two bytes of sha256 over its UTF-8 bytes, modulo 4096.';
CREATE FUNCTION parlant_shard.cascade_account() RETURNS trigger
    LANGUAGE plpgsql
    AS $$
BEGIN
  IF pg_catalog.current_setting('session_replication_role') <> 'replica' THEN
    RETURN NULL;
  END IF;
  RETURN NULL;
END;
$$;
CREATE FUNCTION parlant_shard.cascade_workspace() RETURNS trigger
    LANGUAGE plpgsql
    AS $$
BEGIN
  IF pg_catalog.current_setting('session_replication_role') <> 'replica' THEN
    RETURN NULL;
  END IF;
  RETURN NULL;
END;
$$;
CREATE FUNCTION parlant_shard.refuse_write() RETURNS trigger
    LANGUAGE plpgsql
    AS $$
BEGIN
  RAISE EXCEPTION 'table "%" is a copy on this server', TG_TABLE_NAME
    USING ERRCODE = '25006',
          HINT = 'write it on the coordinator; replication brings it here';
END;
$$;
CREATE FUNCTION parlant_shard.row_audit_agent_s2() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
BEGIN
  -- Whoever may call it could hang it on a table of his own and write what he likes.
  IF TG_TABLE_SCHEMA <> 'public' OR TG_TABLE_NAME <> 'agent_s2' THEN
    RAISE EXCEPTION 'this function is for another table' USING ERRCODE = '42501';
  END IF;
  IF TG_OP = 'INSERT' THEN
    INSERT INTO "public"."parlant_shard_audit_s2" (at, transaction_id, "workspace_id", table_name, operation, row_key, actor, application_actor)
    SELECT clock_timestamp(), pg_current_xact_id(), r."workspace_id", 'agent', TG_OP, jsonb_build_object('id', r."id"),
           session_user, left(nullif(current_setting('parlant.actor', true), ''), 200)
      FROM new_rows r;
  ELSIF TG_OP = 'DELETE' THEN
    INSERT INTO "public"."parlant_shard_audit_s2" (at, transaction_id, "workspace_id", table_name, operation, row_key, actor, application_actor)
    SELECT clock_timestamp(), pg_current_xact_id(), r."workspace_id", 'agent', TG_OP, jsonb_build_object('id', r."id"),
           session_user, left(nullif(current_setting('parlant.actor', true), ''), 200)
      FROM old_rows r;
  ELSE
    INSERT INTO "public"."parlant_shard_audit_s2" (at, transaction_id, "workspace_id", table_name, operation, row_key, changed_columns, actor,
                          application_actor)
    SELECT clock_timestamp(), pg_current_xact_id(), c.workspace, 'agent', TG_OP, c.row_key, c.changed,
           session_user, left(nullif(current_setting('parlant.actor', true), ''), 200)
      FROM (SELECT p.workspace, p.row_key,
                   CASE WHEN p.old_row IS NULL OR p.new_row IS NULL THEN '{id}'::text[]
                        ELSE ARRAY(SELECT k.name FROM jsonb_object_keys(p.new_row) k(name)
                                    WHERE p.old_row -> k.name IS DISTINCT FROM p.new_row -> k.name
                                      AND ('{}'::text[] = '{}' OR k.name = ANY ('{}'::text[]))
                                    ORDER BY k.name)
                   END AS changed
              FROM (SELECT s.workspace, s.row_key,
                           (array_agg(s.content) FILTER (WHERE NOT s.is_new))[1] AS old_row,
                           (array_agg(s.content) FILTER (WHERE s.is_new))[1] AS new_row
                      FROM (SELECT r."workspace_id" AS workspace, jsonb_build_object('id', r."id") AS row_key, to_jsonb(r) AS content,
                                   false AS is_new
                              FROM old_rows r
                             UNION ALL
                            SELECT r."workspace_id", jsonb_build_object('id', r."id"), to_jsonb(r), true FROM new_rows r) s
                     GROUP BY s.workspace, s.row_key) p) c
     WHERE c.changed <> '{}';
  END IF;
  RETURN NULL;
END;
$$;
CREATE FUNCTION parlant_shard.row_audit_agent_s3() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
BEGIN
  -- Whoever may call it could hang it on a table of his own and write what he likes.
  IF TG_TABLE_SCHEMA <> 'public' OR TG_TABLE_NAME <> 'agent_s3' THEN
    RAISE EXCEPTION 'this function is for another table' USING ERRCODE = '42501';
  END IF;
  IF TG_OP = 'INSERT' THEN
    INSERT INTO "public"."parlant_shard_audit_s3" (at, transaction_id, "workspace_id", table_name, operation, row_key, actor, application_actor)
    SELECT clock_timestamp(), pg_current_xact_id(), r."workspace_id", 'agent', TG_OP, jsonb_build_object('id', r."id"),
           session_user, left(nullif(current_setting('parlant.actor', true), ''), 200)
      FROM new_rows r;
  ELSIF TG_OP = 'DELETE' THEN
    INSERT INTO "public"."parlant_shard_audit_s3" (at, transaction_id, "workspace_id", table_name, operation, row_key, actor, application_actor)
    SELECT clock_timestamp(), pg_current_xact_id(), r."workspace_id", 'agent', TG_OP, jsonb_build_object('id', r."id"),
           session_user, left(nullif(current_setting('parlant.actor', true), ''), 200)
      FROM old_rows r;
  ELSE
    INSERT INTO "public"."parlant_shard_audit_s3" (at, transaction_id, "workspace_id", table_name, operation, row_key, changed_columns, actor,
                          application_actor)
    SELECT clock_timestamp(), pg_current_xact_id(), c.workspace, 'agent', TG_OP, c.row_key, c.changed,
           session_user, left(nullif(current_setting('parlant.actor', true), ''), 200)
      FROM (SELECT p.workspace, p.row_key,
                   CASE WHEN p.old_row IS NULL OR p.new_row IS NULL THEN '{id}'::text[]
                        ELSE ARRAY(SELECT k.name FROM jsonb_object_keys(p.new_row) k(name)
                                    WHERE p.old_row -> k.name IS DISTINCT FROM p.new_row -> k.name
                                      AND ('{}'::text[] = '{}' OR k.name = ANY ('{}'::text[]))
                                    ORDER BY k.name)
                   END AS changed
              FROM (SELECT s.workspace, s.row_key,
                           (array_agg(s.content) FILTER (WHERE NOT s.is_new))[1] AS old_row,
                           (array_agg(s.content) FILTER (WHERE s.is_new))[1] AS new_row
                      FROM (SELECT r."workspace_id" AS workspace, jsonb_build_object('id', r."id") AS row_key, to_jsonb(r) AS content,
                                   false AS is_new
                              FROM old_rows r
                             UNION ALL
                            SELECT r."workspace_id", jsonb_build_object('id', r."id"), to_jsonb(r), true FROM new_rows r) s
                     GROUP BY s.workspace, s.row_key) p) c
     WHERE c.changed <> '{}';
  END IF;
  RETURN NULL;
END;
$$;
SET default_tablespace = '';
SET default_table_access_method = heap;
CREATE TABLE parlant_shard.audit (
    id bigint NOT NULL,
    at timestamp with time zone NOT NULL,
    topology text NOT NULL,
    command text NOT NULL,
    objects text[] NOT NULL,
    result text NOT NULL,
    detail jsonb NOT NULL,
    run_id uuid,
    actor text NOT NULL,
    client_address inet,
    os_user text NOT NULL,
    os_host text NOT NULL,
    previous text NOT NULL,
    hash text NOT NULL,
    CONSTRAINT audit_result_check CHECK ((result = ANY (ARRAY['begun'::text, 'done'::text, 'findings'::text, 'refused'::text, 'failed'::text, 'interrupted'::text])))
);
COMMENT ON TABLE parlant_shard.audit IS 'Coordinator: who did what, when, from where and with which result. Append-only; each row has the hash of the one before.';
CREATE TABLE parlant_shard.directory (
    topology text NOT NULL,
    workspace_id text NOT NULL,
    shard text NOT NULL,
    state text DEFAULT 'active'::text NOT NULL,
    epoch bigint DEFAULT 1 NOT NULL,
    updated_at timestamp with time zone DEFAULT now() NOT NULL,
    CONSTRAINT directory_workspace_id_check CHECK ((workspace_id <> ''::text))
);
COMMENT ON TABLE parlant_shard.directory IS 'Coordinator: the shard of every workspace. Can be rebuilt from the placement rows.';
CREATE TABLE parlant_shard.map (
    topology text NOT NULL,
    map jsonb NOT NULL,
    epoch bigint NOT NULL,
    updated_at timestamp with time zone DEFAULT now() NOT NULL
);
COMMENT ON TABLE parlant_shard.map IS 'Coordinator: the shard map that routers follow. The epoch grows with every change.';
CREATE TABLE parlant_shard.meta (
    version integer NOT NULL,
    singleton boolean DEFAULT true NOT NULL,
    CONSTRAINT meta_singleton_check CHECK (singleton)
);
COMMENT ON TABLE parlant_shard.meta IS 'The version of this schema.';
CREATE TABLE parlant_shard.object (
    topology text NOT NULL,
    kind text NOT NULL,
    name text NOT NULL,
    logical text NOT NULL,
    shard text DEFAULT ''::text NOT NULL,
    CONSTRAINT object_kind_check CHECK ((kind = ANY (ARRAY['table'::text, 'view'::text])))
);
COMMENT ON TABLE parlant_shard.object IS 'What parlant-shard created in this database, and what for. Nothing else is ever dropped.';
CREATE TABLE parlant_shard.placement (
    topology text NOT NULL,
    workspace_id text NOT NULL,
    shard text NOT NULL,
    state text DEFAULT 'active'::text NOT NULL,
    epoch bigint DEFAULT 1 NOT NULL,
    updated_at timestamp with time zone DEFAULT now() NOT NULL,
    CONSTRAINT placement_workspace_id_check CHECK ((workspace_id <> ''::text))
);
COMMENT ON TABLE parlant_shard.placement IS 'The workspaces whose rows this server holds: the truth about placement.';
CREATE TABLE parlant_shard.retired (
    topology text NOT NULL,
    name text NOT NULL,
    relid oid NOT NULL,
    logical text NOT NULL,
    shard text NOT NULL,
    parent text NOT NULL,
    lower_bound timestamp without time zone,
    upper_bound timestamp without time zone,
    state text NOT NULL,
    detached_at timestamp without time zone,
    archive text,
    rows bigint,
    kept_until timestamp without time zone,
    updated_at timestamp with time zone DEFAULT now() NOT NULL,
    CONSTRAINT retired_state_check CHECK ((state = ANY (ARRAY['detaching'::text, 'detached'::text, 'archived'::text, 'restoring'::text, 'restored'::text])))
);
COMMENT ON TABLE parlant_shard.retired IS 'Partitions that maintain detached, with their bounds in UTC and their archives. Their ranges are not made again.';
CREATE TABLE parlant_shard.run (
    run_id uuid NOT NULL,
    topology text NOT NULL,
    command text NOT NULL,
    state text NOT NULL,
    fingerprint text NOT NULL,
    topology_sha256 text NOT NULL,
    steps integer NOT NULL,
    step_ids text[] NOT NULL,
    started_at timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
    finished_at timestamp with time zone,
    actor text DEFAULT SESSION_USER NOT NULL,
    detail text,
    CONSTRAINT run_state_check CHECK ((state = ANY (ARRAY['running'::text, 'done'::text, 'failed'::text, 'interrupted'::text])))
);
COMMENT ON TABLE parlant_shard.run IS 'Coordinator: every apply, with its outcome.';
CREATE TABLE parlant_shard.sample (
    topology text NOT NULL,
    taken_at timestamp with time zone DEFAULT now() NOT NULL,
    shard text NOT NULL,
    logical text NOT NULL,
    workspace_id text DEFAULT ''::text NOT NULL,
    rows double precision NOT NULL,
    bytes bigint NOT NULL
);
COMMENT ON TABLE parlant_shard.sample IS 'Sizes of shard tables, one a day, of the whole table and (estimated) of each workspace: what forecasts are made of.';
CREATE TABLE parlant_shard.shard (
    topology text NOT NULL,
    shard text NOT NULL,
    server text NOT NULL
);
COMMENT ON TABLE parlant_shard.shard IS 'Coordinator: the server of every shard.';
CREATE TABLE parlant_shard.signing_key (
    id text NOT NULL,
    inner_pad bytea NOT NULL,
    outer_pad bytea NOT NULL,
    added_at timestamp with time zone DEFAULT now() NOT NULL
);
COMMENT ON TABLE parlant_shard.signing_key IS 'What workspace tokens are checked with: the two blocks that HMAC-SHA256 makes of each key.';
CREATE TABLE parlant_shard.step (
    run_id uuid NOT NULL,
    step_id text NOT NULL,
    title text NOT NULL,
    started_at timestamp with time zone NOT NULL,
    finished_at timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
    attempts integer DEFAULT 1 NOT NULL
);
COMMENT ON TABLE parlant_shard.step IS 'The steps done on this server; a transactional step commits together with its row.';
CREATE TABLE public.account (
    id text NOT NULL,
    name text NOT NULL,
    created_at timestamp with time zone NOT NULL
);
CREATE TABLE public.agent_s2 (
    id uuid DEFAULT gen_random_uuid() NOT NULL,
    workspace_id text NOT NULL,
    name character varying(40) NOT NULL,
    note text,
    CONSTRAINT agent_name_check_s2 CHECK ((length((name)::text) > 1)),
    CONSTRAINT agent_s2_workspace_check CHECK ((workspace_id = ANY ('{initech}'::text[])))
);
CREATE TABLE public.agent_s3 (
    id uuid DEFAULT gen_random_uuid() NOT NULL,
    workspace_id text NOT NULL,
    name character varying(40) NOT NULL,
    note text,
    CONSTRAINT agent_name_check_s3 CHECK ((length((name)::text) > 1)),
    CONSTRAINT agent_s3_workspace_check CHECK (((parlant_shard.bucket(workspace_id) >= 0) AND (parlant_shard.bucket(workspace_id) <= 4095) AND (workspace_id <> ALL ('{acme,globex,initech}'::text[]))))
);
CREATE TABLE public.event_s2 (
    id uuid DEFAULT gen_random_uuid() NOT NULL,
    session_id uuid NOT NULL,
    "offset" integer NOT NULL,
    created_at timestamp with time zone DEFAULT now() NOT NULL,
    body jsonb,
    workspace_id text NOT NULL,
    CONSTRAINT event_s2_workspace_check CHECK ((workspace_id = ANY ('{initech}'::text[])))
)
PARTITION BY RANGE (created_at);
COMMENT ON TABLE public.event_s2 IS 'What was said.';
CREATE TABLE public.event_s2_p20260101 (
    id uuid DEFAULT gen_random_uuid() NOT NULL,
    session_id uuid NOT NULL,
    "offset" integer NOT NULL,
    created_at timestamp with time zone DEFAULT now() NOT NULL,
    body jsonb,
    workspace_id text NOT NULL,
    CONSTRAINT event_s2_p20260101_created_at_check CHECK (((created_at IS NOT NULL) AND (created_at >= '2026-01-01 00:00:00+00'::timestamp with time zone) AND (created_at < '2026-02-01 00:00:00+00'::timestamp with time zone))),
    CONSTRAINT event_s2_workspace_check CHECK ((workspace_id = ANY ('{initech}'::text[])))
);
CREATE TABLE public.event_s2_p20260201 (
    id uuid DEFAULT gen_random_uuid() NOT NULL,
    session_id uuid NOT NULL,
    "offset" integer NOT NULL,
    created_at timestamp with time zone DEFAULT now() NOT NULL,
    body jsonb,
    workspace_id text NOT NULL,
    CONSTRAINT event_s2_workspace_check CHECK ((workspace_id = ANY ('{initech}'::text[])))
);
CREATE TABLE public.event_s2_p20260301 (
    id uuid DEFAULT gen_random_uuid() NOT NULL,
    session_id uuid NOT NULL,
    "offset" integer NOT NULL,
    created_at timestamp with time zone DEFAULT now() NOT NULL,
    body jsonb,
    workspace_id text NOT NULL,
    CONSTRAINT event_s2_workspace_check CHECK ((workspace_id = ANY ('{initech}'::text[])))
);
CREATE TABLE public.event_s2_p20260401 (
    id uuid DEFAULT gen_random_uuid() NOT NULL,
    session_id uuid NOT NULL,
    "offset" integer NOT NULL,
    created_at timestamp with time zone DEFAULT now() NOT NULL,
    body jsonb,
    workspace_id text NOT NULL,
    CONSTRAINT event_s2_workspace_check CHECK ((workspace_id = ANY ('{initech}'::text[])))
);
CREATE TABLE public.event_s2_p20260501 (
    id uuid DEFAULT gen_random_uuid() NOT NULL,
    session_id uuid NOT NULL,
    "offset" integer NOT NULL,
    created_at timestamp with time zone DEFAULT now() NOT NULL,
    body jsonb,
    workspace_id text NOT NULL,
    CONSTRAINT event_s2_workspace_check CHECK ((workspace_id = ANY ('{initech}'::text[])))
);
CREATE TABLE public.event_s2_p20260601 (
    id uuid DEFAULT gen_random_uuid() NOT NULL,
    session_id uuid NOT NULL,
    "offset" integer NOT NULL,
    created_at timestamp with time zone DEFAULT now() NOT NULL,
    body jsonb,
    workspace_id text NOT NULL,
    CONSTRAINT event_s2_workspace_check CHECK ((workspace_id = ANY ('{initech}'::text[])))
);
CREATE TABLE public.event_s2_p20260701 (
    id uuid DEFAULT gen_random_uuid() NOT NULL,
    session_id uuid NOT NULL,
    "offset" integer NOT NULL,
    created_at timestamp with time zone DEFAULT now() NOT NULL,
    body jsonb,
    workspace_id text NOT NULL,
    CONSTRAINT event_s2_workspace_check CHECK ((workspace_id = ANY ('{initech}'::text[])))
);
CREATE TABLE public.event_s3 (
    id uuid DEFAULT gen_random_uuid() NOT NULL,
    session_id uuid NOT NULL,
    "offset" integer NOT NULL,
    created_at timestamp with time zone DEFAULT now() NOT NULL,
    body jsonb,
    workspace_id text NOT NULL,
    CONSTRAINT event_s3_workspace_check CHECK (((parlant_shard.bucket(workspace_id) >= 0) AND (parlant_shard.bucket(workspace_id) <= 4095) AND (workspace_id <> ALL ('{acme,globex,initech}'::text[]))))
)
PARTITION BY RANGE (created_at);
COMMENT ON TABLE public.event_s3 IS 'What was said.';
CREATE TABLE public.event_s3_p20260101 (
    id uuid DEFAULT gen_random_uuid() NOT NULL,
    session_id uuid NOT NULL,
    "offset" integer NOT NULL,
    created_at timestamp with time zone DEFAULT now() NOT NULL,
    body jsonb,
    workspace_id text NOT NULL,
    CONSTRAINT event_s3_p20260101_created_at_check CHECK (((created_at IS NOT NULL) AND (created_at >= '2026-01-01 00:00:00+00'::timestamp with time zone) AND (created_at < '2026-02-01 00:00:00+00'::timestamp with time zone))),
    CONSTRAINT event_s3_workspace_check CHECK (((parlant_shard.bucket(workspace_id) >= 0) AND (parlant_shard.bucket(workspace_id) <= 4095) AND (workspace_id <> ALL ('{acme,globex,initech}'::text[]))))
);
CREATE TABLE public.event_s3_p20260201 (
    id uuid DEFAULT gen_random_uuid() NOT NULL,
    session_id uuid NOT NULL,
    "offset" integer NOT NULL,
    created_at timestamp with time zone DEFAULT now() NOT NULL,
    body jsonb,
    workspace_id text NOT NULL,
    CONSTRAINT event_s3_workspace_check CHECK (((parlant_shard.bucket(workspace_id) >= 0) AND (parlant_shard.bucket(workspace_id) <= 4095) AND (workspace_id <> ALL ('{acme,globex,initech}'::text[]))))
);
CREATE TABLE public.event_s3_p20260301 (
    id uuid DEFAULT gen_random_uuid() NOT NULL,
    session_id uuid NOT NULL,
    "offset" integer NOT NULL,
    created_at timestamp with time zone DEFAULT now() NOT NULL,
    body jsonb,
    workspace_id text NOT NULL,
    CONSTRAINT event_s3_workspace_check CHECK (((parlant_shard.bucket(workspace_id) >= 0) AND (parlant_shard.bucket(workspace_id) <= 4095) AND (workspace_id <> ALL ('{acme,globex,initech}'::text[]))))
);
CREATE TABLE public.event_s3_p20260401 (
    id uuid DEFAULT gen_random_uuid() NOT NULL,
    session_id uuid NOT NULL,
    "offset" integer NOT NULL,
    created_at timestamp with time zone DEFAULT now() NOT NULL,
    body jsonb,
    workspace_id text NOT NULL,
    CONSTRAINT event_s3_workspace_check CHECK (((parlant_shard.bucket(workspace_id) >= 0) AND (parlant_shard.bucket(workspace_id) <= 4095) AND (workspace_id <> ALL ('{acme,globex,initech}'::text[]))))
);
CREATE TABLE public.event_s3_p20260501 (
    id uuid DEFAULT gen_random_uuid() NOT NULL,
    session_id uuid NOT NULL,
    "offset" integer NOT NULL,
    created_at timestamp with time zone DEFAULT now() NOT NULL,
    body jsonb,
    workspace_id text NOT NULL,
    CONSTRAINT event_s3_workspace_check CHECK (((parlant_shard.bucket(workspace_id) >= 0) AND (parlant_shard.bucket(workspace_id) <= 4095) AND (workspace_id <> ALL ('{acme,globex,initech}'::text[]))))
);
CREATE TABLE public.event_s3_p20260601 (
    id uuid DEFAULT gen_random_uuid() NOT NULL,
    session_id uuid NOT NULL,
    "offset" integer NOT NULL,
    created_at timestamp with time zone DEFAULT now() NOT NULL,
    body jsonb,
    workspace_id text NOT NULL,
    CONSTRAINT event_s3_workspace_check CHECK (((parlant_shard.bucket(workspace_id) >= 0) AND (parlant_shard.bucket(workspace_id) <= 4095) AND (workspace_id <> ALL ('{acme,globex,initech}'::text[]))))
);
CREATE TABLE public.event_s3_p20260701 (
    id uuid DEFAULT gen_random_uuid() NOT NULL,
    session_id uuid NOT NULL,
    "offset" integer NOT NULL,
    created_at timestamp with time zone DEFAULT now() NOT NULL,
    body jsonb,
    workspace_id text NOT NULL,
    CONSTRAINT event_s3_workspace_check CHECK (((parlant_shard.bucket(workspace_id) >= 0) AND (parlant_shard.bucket(workspace_id) <= 4095) AND (workspace_id <> ALL ('{acme,globex,initech}'::text[]))))
);
CREATE TABLE public.parlant_shard_audit_s2 (
    at timestamp with time zone NOT NULL,
    transaction_id xid8 NOT NULL,
    workspace_id text NOT NULL,
    table_name text NOT NULL,
    operation text NOT NULL,
    row_key jsonb NOT NULL,
    changed_columns text[],
    actor text NOT NULL,
    application_actor text
)
PARTITION BY RANGE (at);
COMMENT ON TABLE public.parlant_shard_audit_s2 IS 'parlant-shard: recorded changes of rows';
CREATE TABLE public.parlant_shard_audit_s2_p20260201 (
    at timestamp with time zone NOT NULL,
    transaction_id xid8 NOT NULL,
    workspace_id text NOT NULL,
    table_name text NOT NULL,
    operation text NOT NULL,
    row_key jsonb NOT NULL,
    changed_columns text[],
    actor text NOT NULL,
    application_actor text
);
CREATE TABLE public.parlant_shard_audit_s2_p20260301 (
    at timestamp with time zone NOT NULL,
    transaction_id xid8 NOT NULL,
    workspace_id text NOT NULL,
    table_name text NOT NULL,
    operation text NOT NULL,
    row_key jsonb NOT NULL,
    changed_columns text[],
    actor text NOT NULL,
    application_actor text
);
CREATE TABLE public.parlant_shard_audit_s2_p20260401 (
    at timestamp with time zone NOT NULL,
    transaction_id xid8 NOT NULL,
    workspace_id text NOT NULL,
    table_name text NOT NULL,
    operation text NOT NULL,
    row_key jsonb NOT NULL,
    changed_columns text[],
    actor text NOT NULL,
    application_actor text
);
CREATE TABLE public.parlant_shard_audit_s2_p20260501 (
    at timestamp with time zone NOT NULL,
    transaction_id xid8 NOT NULL,
    workspace_id text NOT NULL,
    table_name text NOT NULL,
    operation text NOT NULL,
    row_key jsonb NOT NULL,
    changed_columns text[],
    actor text NOT NULL,
    application_actor text
);
CREATE TABLE public.parlant_shard_audit_s2_p20260601 (
    at timestamp with time zone NOT NULL,
    transaction_id xid8 NOT NULL,
    workspace_id text NOT NULL,
    table_name text NOT NULL,
    operation text NOT NULL,
    row_key jsonb NOT NULL,
    changed_columns text[],
    actor text NOT NULL,
    application_actor text
);
CREATE TABLE public.parlant_shard_audit_s2_p20260701 (
    at timestamp with time zone NOT NULL,
    transaction_id xid8 NOT NULL,
    workspace_id text NOT NULL,
    table_name text NOT NULL,
    operation text NOT NULL,
    row_key jsonb NOT NULL,
    changed_columns text[],
    actor text NOT NULL,
    application_actor text
);
CREATE TABLE public.parlant_shard_audit_s2_p20260801 (
    at timestamp with time zone NOT NULL,
    transaction_id xid8 NOT NULL,
    workspace_id text NOT NULL,
    table_name text NOT NULL,
    operation text NOT NULL,
    row_key jsonb NOT NULL,
    changed_columns text[],
    actor text NOT NULL,
    application_actor text
);
CREATE TABLE public.parlant_shard_audit_s3 (
    at timestamp with time zone NOT NULL,
    transaction_id xid8 NOT NULL,
    workspace_id text NOT NULL,
    table_name text NOT NULL,
    operation text NOT NULL,
    row_key jsonb NOT NULL,
    changed_columns text[],
    actor text NOT NULL,
    application_actor text
)
PARTITION BY RANGE (at);
COMMENT ON TABLE public.parlant_shard_audit_s3 IS 'parlant-shard: recorded changes of rows';
CREATE TABLE public.parlant_shard_audit_s3_p20260201 (
    at timestamp with time zone NOT NULL,
    transaction_id xid8 NOT NULL,
    workspace_id text NOT NULL,
    table_name text NOT NULL,
    operation text NOT NULL,
    row_key jsonb NOT NULL,
    changed_columns text[],
    actor text NOT NULL,
    application_actor text
);
CREATE TABLE public.parlant_shard_audit_s3_p20260301 (
    at timestamp with time zone NOT NULL,
    transaction_id xid8 NOT NULL,
    workspace_id text NOT NULL,
    table_name text NOT NULL,
    operation text NOT NULL,
    row_key jsonb NOT NULL,
    changed_columns text[],
    actor text NOT NULL,
    application_actor text
);
CREATE TABLE public.parlant_shard_audit_s3_p20260401 (
    at timestamp with time zone NOT NULL,
    transaction_id xid8 NOT NULL,
    workspace_id text NOT NULL,
    table_name text NOT NULL,
    operation text NOT NULL,
    row_key jsonb NOT NULL,
    changed_columns text[],
    actor text NOT NULL,
    application_actor text
);
CREATE TABLE public.parlant_shard_audit_s3_p20260501 (
    at timestamp with time zone NOT NULL,
    transaction_id xid8 NOT NULL,
    workspace_id text NOT NULL,
    table_name text NOT NULL,
    operation text NOT NULL,
    row_key jsonb NOT NULL,
    changed_columns text[],
    actor text NOT NULL,
    application_actor text
);
CREATE TABLE public.parlant_shard_audit_s3_p20260601 (
    at timestamp with time zone NOT NULL,
    transaction_id xid8 NOT NULL,
    workspace_id text NOT NULL,
    table_name text NOT NULL,
    operation text NOT NULL,
    row_key jsonb NOT NULL,
    changed_columns text[],
    actor text NOT NULL,
    application_actor text
);
CREATE TABLE public.parlant_shard_audit_s3_p20260701 (
    at timestamp with time zone NOT NULL,
    transaction_id xid8 NOT NULL,
    workspace_id text NOT NULL,
    table_name text NOT NULL,
    operation text NOT NULL,
    row_key jsonb NOT NULL,
    changed_columns text[],
    actor text NOT NULL,
    application_actor text
);
CREATE TABLE public.parlant_shard_audit_s3_p20260801 (
    at timestamp with time zone NOT NULL,
    transaction_id xid8 NOT NULL,
    workspace_id text NOT NULL,
    table_name text NOT NULL,
    operation text NOT NULL,
    row_key jsonb NOT NULL,
    changed_columns text[],
    actor text NOT NULL,
    application_actor text
);
CREATE TABLE public.session_s2 (
    id uuid DEFAULT gen_random_uuid() NOT NULL,
    agent_id uuid NOT NULL,
    title text,
    mood public.mood DEFAULT 'calm'::public.mood NOT NULL,
    words integer GENERATED ALWAYS AS (length(title)) STORED,
    started_at timestamp with time zone NOT NULL,
    workspace_id text NOT NULL,
    CONSTRAINT session_s2_workspace_check CHECK ((workspace_id = ANY ('{initech}'::text[])))
);
CREATE TABLE public.session_s3 (
    id uuid DEFAULT gen_random_uuid() NOT NULL,
    agent_id uuid NOT NULL,
    title text,
    mood public.mood DEFAULT 'calm'::public.mood NOT NULL,
    words integer GENERATED ALWAYS AS (length(title)) STORED,
    started_at timestamp with time zone NOT NULL,
    workspace_id text NOT NULL,
    CONSTRAINT session_s3_workspace_check CHECK (((parlant_shard.bucket(workspace_id) >= 0) AND (parlant_shard.bucket(workspace_id) <= 4095) AND (workspace_id <> ALL ('{acme,globex,initech}'::text[]))))
);
CREATE TABLE public.workspace (
    id text NOT NULL,
    owner_id text NOT NULL,
    name text NOT NULL
);
ALTER TABLE ONLY public.event_s2 ATTACH PARTITION public.event_s2_p20260201 FOR VALUES FROM ('2026-02-01 00:00:00+00') TO ('2026-03-01 00:00:00+00');
ALTER TABLE ONLY public.event_s2 ATTACH PARTITION public.event_s2_p20260301 FOR VALUES FROM ('2026-03-01 00:00:00+00') TO ('2026-04-01 00:00:00+00');
ALTER TABLE ONLY public.event_s2 ATTACH PARTITION public.event_s2_p20260401 FOR VALUES FROM ('2026-04-01 00:00:00+00') TO ('2026-05-01 00:00:00+00');
ALTER TABLE ONLY public.event_s2 ATTACH PARTITION public.event_s2_p20260501 FOR VALUES FROM ('2026-05-01 00:00:00+00') TO ('2026-06-01 00:00:00+00');
ALTER TABLE ONLY public.event_s2 ATTACH PARTITION public.event_s2_p20260601 FOR VALUES FROM ('2026-06-01 00:00:00+00') TO ('2026-07-01 00:00:00+00');
ALTER TABLE ONLY public.event_s2 ATTACH PARTITION public.event_s2_p20260701 FOR VALUES FROM ('2026-07-01 00:00:00+00') TO ('2026-08-01 00:00:00+00');
ALTER TABLE ONLY public.event_s3 ATTACH PARTITION public.event_s3_p20260201 FOR VALUES FROM ('2026-02-01 00:00:00+00') TO ('2026-03-01 00:00:00+00');
ALTER TABLE ONLY public.event_s3 ATTACH PARTITION public.event_s3_p20260301 FOR VALUES FROM ('2026-03-01 00:00:00+00') TO ('2026-04-01 00:00:00+00');
ALTER TABLE ONLY public.event_s3 ATTACH PARTITION public.event_s3_p20260401 FOR VALUES FROM ('2026-04-01 00:00:00+00') TO ('2026-05-01 00:00:00+00');
ALTER TABLE ONLY public.event_s3 ATTACH PARTITION public.event_s3_p20260501 FOR VALUES FROM ('2026-05-01 00:00:00+00') TO ('2026-06-01 00:00:00+00');
ALTER TABLE ONLY public.event_s3 ATTACH PARTITION public.event_s3_p20260601 FOR VALUES FROM ('2026-06-01 00:00:00+00') TO ('2026-07-01 00:00:00+00');
ALTER TABLE ONLY public.event_s3 ATTACH PARTITION public.event_s3_p20260701 FOR VALUES FROM ('2026-07-01 00:00:00+00') TO ('2026-08-01 00:00:00+00');
ALTER TABLE ONLY public.parlant_shard_audit_s2 ATTACH PARTITION public.parlant_shard_audit_s2_p20260201 FOR VALUES FROM ('2026-02-01 00:00:00+00') TO ('2026-03-01 00:00:00+00');
ALTER TABLE ONLY public.parlant_shard_audit_s2 ATTACH PARTITION public.parlant_shard_audit_s2_p20260301 FOR VALUES FROM ('2026-03-01 00:00:00+00') TO ('2026-04-01 00:00:00+00');
ALTER TABLE ONLY public.parlant_shard_audit_s2 ATTACH PARTITION public.parlant_shard_audit_s2_p20260401 FOR VALUES FROM ('2026-04-01 00:00:00+00') TO ('2026-05-01 00:00:00+00');
ALTER TABLE ONLY public.parlant_shard_audit_s2 ATTACH PARTITION public.parlant_shard_audit_s2_p20260501 FOR VALUES FROM ('2026-05-01 00:00:00+00') TO ('2026-06-01 00:00:00+00');
ALTER TABLE ONLY public.parlant_shard_audit_s2 ATTACH PARTITION public.parlant_shard_audit_s2_p20260601 FOR VALUES FROM ('2026-06-01 00:00:00+00') TO ('2026-07-01 00:00:00+00');
ALTER TABLE ONLY public.parlant_shard_audit_s2 ATTACH PARTITION public.parlant_shard_audit_s2_p20260701 FOR VALUES FROM ('2026-07-01 00:00:00+00') TO ('2026-08-01 00:00:00+00');
ALTER TABLE ONLY public.parlant_shard_audit_s2 ATTACH PARTITION public.parlant_shard_audit_s2_p20260801 FOR VALUES FROM ('2026-08-01 00:00:00+00') TO ('2026-09-01 00:00:00+00');
ALTER TABLE ONLY public.parlant_shard_audit_s3 ATTACH PARTITION public.parlant_shard_audit_s3_p20260201 FOR VALUES FROM ('2026-02-01 00:00:00+00') TO ('2026-03-01 00:00:00+00');
ALTER TABLE ONLY public.parlant_shard_audit_s3 ATTACH PARTITION public.parlant_shard_audit_s3_p20260301 FOR VALUES FROM ('2026-03-01 00:00:00+00') TO ('2026-04-01 00:00:00+00');
ALTER TABLE ONLY public.parlant_shard_audit_s3 ATTACH PARTITION public.parlant_shard_audit_s3_p20260401 FOR VALUES FROM ('2026-04-01 00:00:00+00') TO ('2026-05-01 00:00:00+00');
ALTER TABLE ONLY public.parlant_shard_audit_s3 ATTACH PARTITION public.parlant_shard_audit_s3_p20260501 FOR VALUES FROM ('2026-05-01 00:00:00+00') TO ('2026-06-01 00:00:00+00');
ALTER TABLE ONLY public.parlant_shard_audit_s3 ATTACH PARTITION public.parlant_shard_audit_s3_p20260601 FOR VALUES FROM ('2026-06-01 00:00:00+00') TO ('2026-07-01 00:00:00+00');
ALTER TABLE ONLY public.parlant_shard_audit_s3 ATTACH PARTITION public.parlant_shard_audit_s3_p20260701 FOR VALUES FROM ('2026-07-01 00:00:00+00') TO ('2026-08-01 00:00:00+00');
ALTER TABLE ONLY public.parlant_shard_audit_s3 ATTACH PARTITION public.parlant_shard_audit_s3_p20260801 FOR VALUES FROM ('2026-08-01 00:00:00+00') TO ('2026-09-01 00:00:00+00');
INSERT INTO parlant_shard.meta VALUES
	(3, true);
INSERT INTO parlant_shard.object VALUES
	('released', 'table', 'account', 'account', ''),
	('released', 'table', 'workspace', 'workspace', ''),
	('released', 'table', 'parlant_shard_audit_s2', 'parlant_shard_audit', 's2'),
	('released', 'table', 'agent_s2', 'agent', 's2'),
	('released', 'table', 'session_s2', 'session', 's2'),
	('released', 'table', 'event_s2', 'event', 's2'),
	('released', 'table', 'parlant_shard_audit_s3', 'parlant_shard_audit', 's3'),
	('released', 'table', 'agent_s3', 'agent', 's3'),
	('released', 'table', 'session_s3', 'session', 's3'),
	('released', 'table', 'event_s3', 'event', 's3');
INSERT INTO parlant_shard.placement VALUES
	('released', 'initech', 's2', 'active', 1, '2026-02-10 12:00:01.503243+00'),
	('released', 'umbrella', 's3', 'active', 1, '2026-02-10 12:00:01.674453+00');
INSERT INTO parlant_shard.retired VALUES
	('released', 'event_s2_p20251101', 16610, 'event', 's2', 'event_s2', '2025-11-01 00:00:00', '2025-12-01 00:00:00', 'archived', '2026-04-05 03:00:00', 'released/s2/event_s2_p20251101.4109f33c4e02.json', 6, NULL, '2026-04-13 03:00:00.917657+00'),
	('released', 'event_s2_p20251201', 16624, 'event', 's2', 'event_s2', '2025-12-01 00:00:00', '2026-01-01 00:00:00', 'archived', '2026-04-05 03:00:00', 'released/s2/event_s2_p20251201.8e05d2d19a6f.json', 6, NULL, '2026-04-13 03:00:00.950554+00'),
	('released', 'event_s3_p20251101', 16779, 'event', 's3', 'event_s3', '2025-11-01 00:00:00', '2025-12-01 00:00:00', 'archived', '2026-04-05 03:00:00', 'released/s3/event_s3_p20251101.79e43f66d20d.json', 6, NULL, '2026-04-13 03:00:00.989907+00'),
	('released', 'event_s3_p20251201', 16793, 'event', 's3', 'event_s3', '2025-12-01 00:00:00', '2026-01-01 00:00:00', 'archived', '2026-04-05 03:00:00', 'released/s3/event_s3_p20251201.d32c86f6467b.json', 6, NULL, '2026-04-13 03:00:01.033627+00'),
	('released', 'event_s2_p20260101', 16638, 'event', 's2', 'event_s2', '2026-01-01 00:00:00', '2026-02-01 00:00:00', 'detached', '2026-05-02 03:00:00', NULL, NULL, NULL, '2026-05-02 03:00:01.118284+00'),
	('released', 'event_s3_p20260101', 16807, 'event', 's3', 'event_s3', '2026-01-01 00:00:00', '2026-02-01 00:00:00', 'detached', '2026-05-02 03:00:00', NULL, NULL, NULL, '2026-05-02 03:00:01.13467+00');
INSERT INTO parlant_shard.sample VALUES
	('released', '2026-04-05 03:00:01.17604+00', 's2', 'event', '', 22, 311296),
	('released', '2026-04-05 03:00:01.17604+00', 's3', 'event', '', 22, 311296),
	('released', '2026-04-05 03:00:01.17604+00', 's2', 'parlant_shard_audit', '', 3, 114688),
	('released', '2026-04-05 03:00:01.17604+00', 's3', 'parlant_shard_audit', '', 3, 114688),
	('released', '2026-04-05 03:00:01.17604+00', 's2', 'event', 'initech', 22, 311296),
	('released', '2026-04-05 03:00:01.17604+00', 's3', 'event', 'umbrella', 22, 311296),
	('released', '2026-04-05 03:00:01.17604+00', 's2', 'parlant_shard_audit', 'initech', 3, 114688),
	('released', '2026-04-05 03:00:01.17604+00', 's3', 'parlant_shard_audit', 'umbrella', 3, 114688),
	('released', '2026-04-13 03:00:01.073276+00', 's2', 'event', '', 22, 294912),
	('released', '2026-04-13 03:00:01.073276+00', 's3', 'event', '', 22, 294912),
	('released', '2026-04-13 03:00:01.073276+00', 's2', 'parlant_shard_audit', '', 3, 114688),
	('released', '2026-04-13 03:00:01.073276+00', 's3', 'parlant_shard_audit', '', 3, 114688),
	('released', '2026-04-13 03:00:01.073276+00', 's2', 'event', 'initech', 22, 294912),
	('released', '2026-04-13 03:00:01.073276+00', 's3', 'event', 'umbrella', 22, 294912),
	('released', '2026-04-13 03:00:01.073276+00', 's2', 'parlant_shard_audit', 'initech', 3, 114688),
	('released', '2026-04-13 03:00:01.073276+00', 's3', 'parlant_shard_audit', 'umbrella', 3, 114688),
	('released', '2026-05-02 03:00:01.167581+00', 's2', 'event', '', 15, 278528),
	('released', '2026-05-02 03:00:01.167581+00', 's3', 'event', '', 15, 278528),
	('released', '2026-05-02 03:00:01.167581+00', 's2', 'parlant_shard_audit', '', 3, 131072),
	('released', '2026-05-02 03:00:01.167581+00', 's3', 'parlant_shard_audit', '', 3, 131072),
	('released', '2026-05-02 03:00:01.167581+00', 's2', 'event', 'initech', 15, 278528),
	('released', '2026-05-02 03:00:01.167581+00', 's3', 'event', 'umbrella', 15, 278528),
	('released', '2026-05-02 03:00:01.167581+00', 's2', 'parlant_shard_audit', 'initech', 3, 131072),
	('released', '2026-05-02 03:00:01.167581+00', 's3', 'parlant_shard_audit', 'umbrella', 3, 131072);
INSERT INTO parlant_shard.step VALUES
	('a7dff159-4fbe-4ebb-8397-ed867c8ca027', '33732971022e', 'create the schema parlant_shard for placement, journal and runs', '2026-02-10 12:00:00+00', '2026-02-10 12:00:01.110838+00', 1),
	('a7dff159-4fbe-4ebb-8397-ed867c8ca027', '5357a70e0b36', 'create enum "mood"', '2026-02-10 12:00:00+00', '2026-02-10 12:00:01.122818+00', 1),
	('a7dff159-4fbe-4ebb-8397-ed867c8ca027', '4ba458c8f5ef', 'create function parlant_shard.cascade_account()', '2026-02-10 12:00:00+00', '2026-02-10 12:00:01.131914+00', 1),
	('a7dff159-4fbe-4ebb-8397-ed867c8ca027', 'ed3b3b445ae1', 'create function parlant_shard.cascade_workspace()', '2026-02-10 12:00:00+00', '2026-02-10 12:00:01.134006+00', 1),
	('a7dff159-4fbe-4ebb-8397-ed867c8ca027', 'ebded50fff6d', 'create function parlant_shard.refuse_write()', '2026-02-10 12:00:00+00', '2026-02-10 12:00:01.134801+00', 1),
	('a7dff159-4fbe-4ebb-8397-ed867c8ca027', '3b39541ddadc', 'create function parlant_shard.row_audit_agent_s2()', '2026-02-10 12:00:00+00', '2026-02-10 12:00:01.135777+00', 1),
	('a7dff159-4fbe-4ebb-8397-ed867c8ca027', '5bc5de02eb4a', 'create function parlant_shard.row_audit_agent_s3()', '2026-02-10 12:00:00+00', '2026-02-10 12:00:01.136565+00', 1),
	('a7dff159-4fbe-4ebb-8397-ed867c8ca027', '5852660b8998', 'create table "account" with its constraints and indexes', '2026-02-10 12:00:00+00', '2026-02-10 12:00:01.147202+00', 1),
	('a7dff159-4fbe-4ebb-8397-ed867c8ca027', 'e95f8e46ae8f', 'create table "workspace" with its constraints and indexes', '2026-02-10 12:00:00+00', '2026-02-10 12:00:01.150642+00', 1),
	('a7dff159-4fbe-4ebb-8397-ed867c8ca027', 'd6ac087cd997', 'create subscription "parlant_shard_released_east" to the reference tables', '2026-02-10 12:00:00+00', '2026-02-10 12:00:01.207643+00', 1),
	('a7dff159-4fbe-4ebb-8397-ed867c8ca027', '576cf3421428', 'wait until "parlant_shard_released_east" has copied the reference tables', '2026-02-10 12:00:00+00', '2026-02-10 12:00:01.318384+00', 1),
	('a7dff159-4fbe-4ebb-8397-ed867c8ca027', 'cbe8f029628a', 'create partitioned table "parlant_shard_audit_s2" with its constraints and indexes', '2026-02-10 12:00:00+00', '2026-02-10 12:00:01.321772+00', 1),
	('a7dff159-4fbe-4ebb-8397-ed867c8ca027', '69bb7c784046', 'create partition "parlant_shard_audit_s2_p20260201" and attach it to "parlant_shard_audit_s2"', '2026-02-10 12:00:00+00', '2026-02-10 12:00:01.325074+00', 1),
	('a7dff159-4fbe-4ebb-8397-ed867c8ca027', 'f65c71a01c35', 'create partition "parlant_shard_audit_s2_p20260301" and attach it to "parlant_shard_audit_s2"', '2026-02-10 12:00:00+00', '2026-02-10 12:00:01.330279+00', 1),
	('a7dff159-4fbe-4ebb-8397-ed867c8ca027', '7d9afffa3f6d', 'create partition "parlant_shard_audit_s2_p20260401" and attach it to "parlant_shard_audit_s2"', '2026-02-10 12:00:00+00', '2026-02-10 12:00:01.336463+00', 1),
	('a7dff159-4fbe-4ebb-8397-ed867c8ca027', '250709b164e8', 'create partition "parlant_shard_audit_s2_p20260501" and attach it to "parlant_shard_audit_s2"', '2026-02-10 12:00:00+00', '2026-02-10 12:00:01.342616+00', 1),
	('a7dff159-4fbe-4ebb-8397-ed867c8ca027', '4ea91fde74a0', 'create table "agent_s2" with its constraints and indexes', '2026-02-10 12:00:00+00', '2026-02-10 12:00:01.352582+00', 1),
	('a7dff159-4fbe-4ebb-8397-ed867c8ca027', '41f91a799109', 'create table "session_s2" with its constraints and indexes', '2026-02-10 12:00:00+00', '2026-02-10 12:00:01.359428+00', 1),
	('a7dff159-4fbe-4ebb-8397-ed867c8ca027', 'c7ffa0d4705a', 'create partitioned table "event_s2" with its constraints and indexes', '2026-02-10 12:00:00+00', '2026-02-10 12:00:01.374623+00', 1),
	('a7dff159-4fbe-4ebb-8397-ed867c8ca027', '0dda923da16b', 'create partition "event_s2_p20251101" and attach it to "event_s2"', '2026-02-10 12:00:00+00', '2026-02-10 12:00:01.380099+00', 1),
	('a7dff159-4fbe-4ebb-8397-ed867c8ca027', '51a68f6b369f', 'create partition "event_s2_p20251201" and attach it to "event_s2"', '2026-02-10 12:00:00+00', '2026-02-10 12:00:01.386996+00', 1),
	('a7dff159-4fbe-4ebb-8397-ed867c8ca027', 'b20e17f6734b', 'create partition "event_s2_p20260101" and attach it to "event_s2"', '2026-02-10 12:00:00+00', '2026-02-10 12:00:01.395158+00', 1),
	('a7dff159-4fbe-4ebb-8397-ed867c8ca027', 'f8f0d949a3bc', 'create partition "event_s2_p20260201" and attach it to "event_s2"', '2026-02-10 12:00:00+00', '2026-02-10 12:00:01.407143+00', 1),
	('a7dff159-4fbe-4ebb-8397-ed867c8ca027', '5e949b6745a8', 'create partition "event_s2_p20260301" and attach it to "event_s2"', '2026-02-10 12:00:00+00', '2026-02-10 12:00:01.411217+00', 1),
	('a7dff159-4fbe-4ebb-8397-ed867c8ca027', '4314c9b6f627', 'create partition "event_s2_p20260401" and attach it to "event_s2"', '2026-02-10 12:00:00+00', '2026-02-10 12:00:01.419764+00', 1),
	('a7dff159-4fbe-4ebb-8397-ed867c8ca027', '4a5afc5a8b28', 'create partitioned table "parlant_shard_audit_s3" with its constraints and indexes', '2026-02-10 12:00:00+00', '2026-02-10 12:00:01.426674+00', 1),
	('a7dff159-4fbe-4ebb-8397-ed867c8ca027', 'e7272eafd9f8', 'create partition "parlant_shard_audit_s3_p20260201" and attach it to "parlant_shard_audit_s3"', '2026-02-10 12:00:00+00', '2026-02-10 12:00:01.429137+00', 1),
	('a7dff159-4fbe-4ebb-8397-ed867c8ca027', '3eb1a8ba60ee', 'create partition "parlant_shard_audit_s3_p20260301" and attach it to "parlant_shard_audit_s3"', '2026-02-10 12:00:00+00', '2026-02-10 12:00:01.431743+00', 1),
	('a7dff159-4fbe-4ebb-8397-ed867c8ca027', '53ef2d64aeb3', 'create partition "parlant_shard_audit_s3_p20260401" and attach it to "parlant_shard_audit_s3"', '2026-02-10 12:00:00+00', '2026-02-10 12:00:01.43945+00', 1),
	('a7dff159-4fbe-4ebb-8397-ed867c8ca027', '8391f9906b26', 'create partition "parlant_shard_audit_s3_p20260501" and attach it to "parlant_shard_audit_s3"', '2026-02-10 12:00:00+00', '2026-02-10 12:00:01.442487+00', 1),
	('a7dff159-4fbe-4ebb-8397-ed867c8ca027', '7d4f229a97ec', 'create table "agent_s3" with its constraints and indexes', '2026-02-10 12:00:00+00', '2026-02-10 12:00:01.450781+00', 1),
	('a7dff159-4fbe-4ebb-8397-ed867c8ca027', '5cbbf69e0d6e', 'create table "session_s3" with its constraints and indexes', '2026-02-10 12:00:00+00', '2026-02-10 12:00:01.458529+00', 1),
	('a7dff159-4fbe-4ebb-8397-ed867c8ca027', '720dabea6336', 'create partitioned table "event_s3" with its constraints and indexes', '2026-02-10 12:00:00+00', '2026-02-10 12:00:01.460688+00', 1),
	('a7dff159-4fbe-4ebb-8397-ed867c8ca027', 'c00551cc8bc1', 'create partition "event_s3_p20251101" and attach it to "event_s3"', '2026-02-10 12:00:00+00', '2026-02-10 12:00:01.464397+00', 1),
	('a7dff159-4fbe-4ebb-8397-ed867c8ca027', '825ac04ffc04', 'create partition "event_s3_p20251201" and attach it to "event_s3"', '2026-02-10 12:00:00+00', '2026-02-10 12:00:01.468139+00', 1),
	('a7dff159-4fbe-4ebb-8397-ed867c8ca027', '26dcd6ca2757', 'create partition "event_s3_p20260101" and attach it to "event_s3"', '2026-02-10 12:00:00+00', '2026-02-10 12:00:01.472134+00', 1),
	('a7dff159-4fbe-4ebb-8397-ed867c8ca027', '57ba2e5eeeac', 'create partition "event_s3_p20260201" and attach it to "event_s3"', '2026-02-10 12:00:00+00', '2026-02-10 12:00:01.476203+00', 1),
	('a7dff159-4fbe-4ebb-8397-ed867c8ca027', '65e800427a2b', 'create partition "event_s3_p20260301" and attach it to "event_s3"', '2026-02-10 12:00:00+00', '2026-02-10 12:00:01.482358+00', 1),
	('a7dff159-4fbe-4ebb-8397-ed867c8ca027', '8d1daf8281b4', 'create partition "event_s3_p20260401" and attach it to "event_s3"', '2026-02-10 12:00:00+00', '2026-02-10 12:00:01.488042+00', 1),
	('a7dff159-4fbe-4ebb-8397-ed867c8ca027', '19cdb2844f54', 'place 1 workspace on this server', '2026-02-10 12:00:00+00', '2026-02-10 12:00:01.504902+00', 1),
	('011479b6-1efc-412d-91a4-947c620b55a2', 'fcb00821d5a6', 'create partition "event_s2_p20260501" and attach it to "event_s2"', '2026-04-05 03:00:00+00', '2026-04-05 03:00:00.97847+00', 1),
	('011479b6-1efc-412d-91a4-947c620b55a2', '70da102ea6c6', 'create partition "event_s3_p20260501" and attach it to "event_s3"', '2026-04-05 03:00:00+00', '2026-04-05 03:00:00.995286+00', 1),
	('011479b6-1efc-412d-91a4-947c620b55a2', '3240b67551d4', 'create partition "event_s2_p20260601" and attach it to "event_s2"', '2026-04-05 03:00:00+00', '2026-04-05 03:00:01.014886+00', 1),
	('011479b6-1efc-412d-91a4-947c620b55a2', 'ddf6defa487b', 'create partition "event_s3_p20260601" and attach it to "event_s3"', '2026-04-05 03:00:00+00', '2026-04-05 03:00:01.033328+00', 1),
	('011479b6-1efc-412d-91a4-947c620b55a2', '16798e388ee2', 'create partition "parlant_shard_audit_s2_p20260601" and attach it to "parlant_shard_audit_s2"', '2026-04-05 03:00:00+00', '2026-04-05 03:00:01.042643+00', 1),
	('011479b6-1efc-412d-91a4-947c620b55a2', 'b1dbe9f44e95', 'create partition "parlant_shard_audit_s2_p20260701" and attach it to "parlant_shard_audit_s2"', '2026-04-05 03:00:00+00', '2026-04-05 03:00:01.052616+00', 1),
	('011479b6-1efc-412d-91a4-947c620b55a2', '7f0d4fd0da82', 'create partition "parlant_shard_audit_s3_p20260601" and attach it to "parlant_shard_audit_s3"', '2026-04-05 03:00:00+00', '2026-04-05 03:00:01.06307+00', 1),
	('011479b6-1efc-412d-91a4-947c620b55a2', '97b2b518136f', 'create partition "parlant_shard_audit_s3_p20260701" and attach it to "parlant_shard_audit_s3"', '2026-04-05 03:00:00+00', '2026-04-05 03:00:01.068617+00', 1),
	('011479b6-1efc-412d-91a4-947c620b55a2', '0cf712454afc', 'drop out-of-window index "event_s2_p20260101_recent_idx" of "event_s2_p20260101" concurrently', '2026-04-05 03:00:00+00', '2026-04-05 03:00:01.071869+00', 1),
	('011479b6-1efc-412d-91a4-947c620b55a2', 'f056decd96d1', 'drop out-of-window index "event_s3_p20260101_recent_idx" of "event_s3_p20260101" concurrently', '2026-04-05 03:00:00+00', '2026-04-05 03:00:01.074323+00', 1),
	('011479b6-1efc-412d-91a4-947c620b55a2', '49017ba816f7', 'announce the detach of expired partition "event_s2_p20251101"', '2026-04-05 03:00:00+00', '2026-04-05 03:00:01.078453+00', 1),
	('011479b6-1efc-412d-91a4-947c620b55a2', '0a2103ad3972', 'detach expired partition "event_s2_p20251101" of "event_s2" concurrently', '2026-04-05 03:00:00+00', '2026-04-05 03:00:01.087983+00', 1),
	('011479b6-1efc-412d-91a4-947c620b55a2', '5d1459da5df4', 'drop foreign key "event_session_id_fkey_s2" of the detached "event_s2_p20251101", which would hold up whoever deletes from "session_s2"', '2026-04-05 03:00:00+00', '2026-04-05 03:00:01.090395+00', 1),
	('011479b6-1efc-412d-91a4-947c620b55a2', '018775ae3903', 'record that "event_s2_p20251101" is detached', '2026-04-05 03:00:00+00', '2026-04-05 03:00:01.092431+00', 1),
	('011479b6-1efc-412d-91a4-947c620b55a2', '2c3343390e0f', 'announce the detach of expired partition "event_s2_p20251201"', '2026-04-05 03:00:00+00', '2026-04-05 03:00:01.096339+00', 1),
	('011479b6-1efc-412d-91a4-947c620b55a2', '29ef3e714934', 'detach expired partition "event_s2_p20251201" of "event_s2" concurrently', '2026-04-05 03:00:00+00', '2026-04-05 03:00:01.105396+00', 1),
	('011479b6-1efc-412d-91a4-947c620b55a2', '0ad9d23fcea9', 'drop foreign key "event_session_id_fkey_s2" of the detached "event_s2_p20251201", which would hold up whoever deletes from "session_s2"', '2026-04-05 03:00:00+00', '2026-04-05 03:00:01.107726+00', 1),
	('011479b6-1efc-412d-91a4-947c620b55a2', 'b076cc3299f0', 'record that "event_s2_p20251201" is detached', '2026-04-05 03:00:00+00', '2026-04-05 03:00:01.108807+00', 1),
	('011479b6-1efc-412d-91a4-947c620b55a2', '7c018aea945b', 'announce the detach of expired partition "event_s3_p20251101"', '2026-04-05 03:00:00+00', '2026-04-05 03:00:01.111392+00', 1),
	('011479b6-1efc-412d-91a4-947c620b55a2', '518d1eb08eff', 'detach expired partition "event_s3_p20251101" of "event_s3" concurrently', '2026-04-05 03:00:00+00', '2026-04-05 03:00:01.117776+00', 1),
	('011479b6-1efc-412d-91a4-947c620b55a2', 'd1de1d23cbf8', 'drop foreign key "event_session_id_fkey_s3" of the detached "event_s3_p20251101", which would hold up whoever deletes from "session_s3"', '2026-04-05 03:00:00+00', '2026-04-05 03:00:01.119817+00', 1),
	('011479b6-1efc-412d-91a4-947c620b55a2', '69637ccf9c75', 'record that "event_s3_p20251101" is detached', '2026-04-05 03:00:00+00', '2026-04-05 03:00:01.123639+00', 1),
	('011479b6-1efc-412d-91a4-947c620b55a2', 'c9138c61dc75', 'announce the detach of expired partition "event_s3_p20251201"', '2026-04-05 03:00:00+00', '2026-04-05 03:00:01.126438+00', 1),
	('011479b6-1efc-412d-91a4-947c620b55a2', 'b44e3a95f84e', 'detach expired partition "event_s3_p20251201" of "event_s3" concurrently', '2026-04-05 03:00:00+00', '2026-04-05 03:00:01.132884+00', 1),
	('011479b6-1efc-412d-91a4-947c620b55a2', '6abf9c7262d0', 'drop foreign key "event_session_id_fkey_s3" of the detached "event_s3_p20251201", which would hold up whoever deletes from "session_s3"', '2026-04-05 03:00:00+00', '2026-04-05 03:00:01.13503+00', 1),
	('011479b6-1efc-412d-91a4-947c620b55a2', '15d3cbe476dd', 'record that "event_s3_p20251201" is detached', '2026-04-05 03:00:00+00', '2026-04-05 03:00:01.136341+00', 1),
	('011479b6-1efc-412d-91a4-947c620b55a2', 'd853c248eb50', 'take statistics of "event_s2" and its partitions', '2026-04-05 03:00:00+00', '2026-04-05 03:00:01.139752+00', 1),
	('011479b6-1efc-412d-91a4-947c620b55a2', 'a52cd26e7ec8', 'take statistics of "event_s3" and its partitions', '2026-04-05 03:00:00+00', '2026-04-05 03:00:01.143454+00', 1),
	('011479b6-1efc-412d-91a4-947c620b55a2', '8fc80efadeef', 'take statistics of "parlant_shard_audit_s2" and its partitions', '2026-04-05 03:00:00+00', '2026-04-05 03:00:01.149308+00', 1),
	('011479b6-1efc-412d-91a4-947c620b55a2', 'd588b75ff962', 'take statistics of "parlant_shard_audit_s3" and its partitions', '2026-04-05 03:00:00+00', '2026-04-05 03:00:01.151685+00', 1),
	('6e417353-6ea5-434d-975e-5aa9fd24da7c', '597231d01a26', 'drop out-of-window index "event_s2_p20260201_recent_idx" of "event_s2_p20260201" concurrently', '2026-04-13 03:00:00+00', '2026-04-13 03:00:00.866109+00', 1),
	('6e417353-6ea5-434d-975e-5aa9fd24da7c', 'a545ba4bf369', 'drop out-of-window index "event_s3_p20260201_recent_idx" of "event_s3_p20260201" concurrently', '2026-04-13 03:00:00+00', '2026-04-13 03:00:00.870428+00', 1),
	('6e417353-6ea5-434d-975e-5aa9fd24da7c', '22128465c513', 'archive detached partition "event_s2_p20251101" to "archive/", verify the archive, then drop the partition', '2026-04-13 03:00:00+00', '2026-04-13 03:00:00.927443+00', 1),
	('6e417353-6ea5-434d-975e-5aa9fd24da7c', 'ce6bba33db29', 'archive detached partition "event_s2_p20251201" to "archive/", verify the archive, then drop the partition', '2026-04-13 03:00:00+00', '2026-04-13 03:00:00.959418+00', 1),
	('6e417353-6ea5-434d-975e-5aa9fd24da7c', '2320de1d1d0c', 'archive detached partition "event_s3_p20251101" to "archive/", verify the archive, then drop the partition', '2026-04-13 03:00:00+00', '2026-04-13 03:00:00.997578+00', 1),
	('6e417353-6ea5-434d-975e-5aa9fd24da7c', '96096cd334ed', 'archive detached partition "event_s3_p20251201" to "archive/", verify the archive, then drop the partition', '2026-04-13 03:00:00+00', '2026-04-13 03:00:01.036487+00', 1),
	('6e417353-6ea5-434d-975e-5aa9fd24da7c', 'd853c248eb50', 'take statistics of "event_s2" and its partitions', '2026-04-13 03:00:00+00', '2026-04-13 03:00:01.045378+00', 1),
	('6e417353-6ea5-434d-975e-5aa9fd24da7c', 'a52cd26e7ec8', 'take statistics of "event_s3" and its partitions', '2026-04-13 03:00:00+00', '2026-04-13 03:00:01.047445+00', 1),
	('6e417353-6ea5-434d-975e-5aa9fd24da7c', '8fc80efadeef', 'take statistics of "parlant_shard_audit_s2" and its partitions', '2026-04-13 03:00:00+00', '2026-04-13 03:00:01.049725+00', 1),
	('6e417353-6ea5-434d-975e-5aa9fd24da7c', 'd588b75ff962', 'take statistics of "parlant_shard_audit_s3" and its partitions', '2026-04-13 03:00:00+00', '2026-04-13 03:00:01.053348+00', 1),
	('91943e60-9af0-43fa-aff5-1e1d2ccaa370', '62954da54a30', 'create partition "event_s2_p20260701" and attach it to "event_s2"', '2026-05-02 03:00:00+00', '2026-05-02 03:00:01.046321+00', 1),
	('91943e60-9af0-43fa-aff5-1e1d2ccaa370', 'ca84ea996d5b', 'create partition "event_s3_p20260701" and attach it to "event_s3"', '2026-05-02 03:00:00+00', '2026-05-02 03:00:01.065055+00', 1),
	('91943e60-9af0-43fa-aff5-1e1d2ccaa370', 'e1479d6cf9a3', 'create partition "parlant_shard_audit_s2_p20260801" and attach it to "parlant_shard_audit_s2"', '2026-05-02 03:00:00+00', '2026-05-02 03:00:01.082204+00', 1),
	('91943e60-9af0-43fa-aff5-1e1d2ccaa370', '8e6a1284bbd9', 'create partition "parlant_shard_audit_s3_p20260801" and attach it to "parlant_shard_audit_s3"', '2026-05-02 03:00:00+00', '2026-05-02 03:00:01.091727+00', 1),
	('91943e60-9af0-43fa-aff5-1e1d2ccaa370', 'f3db90d9791c', 'announce the detach of expired partition "event_s2_p20260101"', '2026-05-02 03:00:00+00', '2026-05-02 03:00:01.101569+00', 1),
	('91943e60-9af0-43fa-aff5-1e1d2ccaa370', 'd39a028c4694', 'detach expired partition "event_s2_p20260101" of "event_s2" concurrently', '2026-05-02 03:00:00+00', '2026-05-02 03:00:01.116201+00', 1),
	('91943e60-9af0-43fa-aff5-1e1d2ccaa370', 'c5a1e9774170', 'drop foreign key "event_session_id_fkey_s2" of the detached "event_s2_p20260101", which would hold up whoever deletes from "session_s2"', '2026-05-02 03:00:00+00', '2026-05-02 03:00:01.117998+00', 1),
	('91943e60-9af0-43fa-aff5-1e1d2ccaa370', '982aa5d50f82', 'record that "event_s2_p20260101" is detached', '2026-05-02 03:00:00+00', '2026-05-02 03:00:01.118738+00', 1),
	('91943e60-9af0-43fa-aff5-1e1d2ccaa370', '5fed70ed7b73', 'announce the detach of expired partition "event_s3_p20260101"', '2026-05-02 03:00:00+00', '2026-05-02 03:00:01.120698+00', 1),
	('91943e60-9af0-43fa-aff5-1e1d2ccaa370', 'eca2260c592e', 'detach expired partition "event_s3_p20260101" of "event_s3" concurrently', '2026-05-02 03:00:00+00', '2026-05-02 03:00:01.133046+00', 1),
	('91943e60-9af0-43fa-aff5-1e1d2ccaa370', 'bbdaaeefc065', 'drop foreign key "event_session_id_fkey_s3" of the detached "event_s3_p20260101", which would hold up whoever deletes from "session_s3"', '2026-05-02 03:00:00+00', '2026-05-02 03:00:01.134428+00', 1),
	('91943e60-9af0-43fa-aff5-1e1d2ccaa370', '6807cc7e1f93', 'record that "event_s3_p20260101" is detached', '2026-05-02 03:00:00+00', '2026-05-02 03:00:01.135044+00', 1),
	('91943e60-9af0-43fa-aff5-1e1d2ccaa370', 'd853c248eb50', 'take statistics of "event_s2" and its partitions', '2026-05-02 03:00:00+00', '2026-05-02 03:00:01.14032+00', 1),
	('91943e60-9af0-43fa-aff5-1e1d2ccaa370', 'a52cd26e7ec8', 'take statistics of "event_s3" and its partitions', '2026-05-02 03:00:00+00', '2026-05-02 03:00:01.143586+00', 1),
	('91943e60-9af0-43fa-aff5-1e1d2ccaa370', '8fc80efadeef', 'take statistics of "parlant_shard_audit_s2" and its partitions', '2026-05-02 03:00:00+00', '2026-05-02 03:00:01.146638+00', 1),
	('91943e60-9af0-43fa-aff5-1e1d2ccaa370', 'd588b75ff962', 'take statistics of "parlant_shard_audit_s3" and its partitions', '2026-05-02 03:00:00+00', '2026-05-02 03:00:01.151266+00', 1);
INSERT INTO public.account VALUES
	('ann', 'Ann', '2026-02-10 12:00:00+00');
INSERT INTO public.agent_s2 VALUES
	('c52f706f-8dbd-e0ae-482c-d461512d1fcf', 'initech', 'agent 2', NULL),
	('d91489de-2016-7f84-5a1d-0bfcc4b8ec2f', 'initech', 'agent 1', 'old');
INSERT INTO public.agent_s3 VALUES
	('9042a134-0992-ba1a-56dc-debb7427d7bb', 'umbrella', 'agent 2', NULL),
	('06701500-b396-3dfc-31b9-ef9c68dbf918', 'umbrella', 'agent 1', 'old');
INSERT INTO public.event_s2_p20260101 VALUES
	('1bedea21-0b15-7f1f-7dbd-847c6d50759f', '5335b097-1006-caf4-2531-718adf698077', 12, '2026-01-01 00:00:00+00', '{"text": "a\\b\n12"}', 'initech'),
	('6a3fa52e-a94c-9827-8d4f-c6084401cd39', 'e2cad3c2-cd45-4e12-9bb1-f81c02669784', 13, '2026-01-06 00:00:00+00', '{"text": "a\\b\n13"}', 'initech'),
	('aca227e6-5351-4dc1-e3dd-c1617a15e238', '55d76d55-8817-7dfe-13a4-10d4e976861c', 14, '2026-01-11 00:00:00+00', '{"text": "a\\b\n14"}', 'initech'),
	('92563be9-d859-d1ec-8d98-e1fa3a32ba70', '0446f39e-ff67-8a7e-0c00-ae3432fc195c', 15, '2026-01-16 00:00:00+00', '{"text": "a\\b\n15"}', 'initech'),
	('7cb7b575-714b-b96c-0720-d79583b57fdd', '7bf2402d-5a7d-0fd8-45bc-648abd3d1418', 16, '2026-01-21 00:00:00+00', '{"text": "a\\b\n16"}', 'initech'),
	('6e477dc8-092b-7b0a-9f92-27513285e201', '394bedf5-aaaf-bd18-3ff1-8a3036e9b935', 17, '2026-01-26 00:00:00+00', '{"text": "a\\b\n17"}', 'initech'),
	('21939ffe-5225-6e70-5844-70d7b3abd792', '5335b097-1006-caf4-2531-718adf698077', 18, '2026-01-31 00:00:00+00', '{"text": "a\\b\n18"}', 'initech');
INSERT INTO public.event_s2_p20260201 VALUES
	('9682c87c-4861-fb0f-1eb9-c9050215f499', 'e2cad3c2-cd45-4e12-9bb1-f81c02669784', 19, '2026-02-05 00:00:00+00', '{"text": "a\\b\n19"}', 'initech'),
	('fba0c020-17c0-9c32-156d-74b7c4fe9717', '55d76d55-8817-7dfe-13a4-10d4e976861c', 20, '2026-02-10 00:00:00+00', '{"text": "a\\b\n20"}', 'initech'),
	('01ca8138-0add-d130-9e56-906c5cc0dbe0', '0446f39e-ff67-8a7e-0c00-ae3432fc195c', 21, '2026-02-15 00:00:00+00', '{"text": "a\\b\n21"}', 'initech'),
	('bb24b609-e2a7-6f72-f033-ad974d9954a4', '7bf2402d-5a7d-0fd8-45bc-648abd3d1418', 22, '2026-02-20 00:00:00+00', '{"text": "a\\b\n22"}', 'initech'),
	('549dcb38-920a-e30d-ba29-b6da5741ac8a', '394bedf5-aaaf-bd18-3ff1-8a3036e9b935', 23, '2026-02-25 00:00:00+00', '{"text": "a\\b\n23"}', 'initech');
INSERT INTO public.event_s2_p20260301 VALUES
	('cc762432-28cd-0d8c-cea1-e49612db94a7', '5335b097-1006-caf4-2531-718adf698077', 24, '2026-03-02 00:00:00+00', '{"text": "a\\b\n24"}', 'initech'),
	('3fd73f2f-c957-2b40-f08a-980fedbbe951', 'e2cad3c2-cd45-4e12-9bb1-f81c02669784', 25, '2026-03-07 00:00:00+00', '{"text": "a\\b\n25"}', 'initech'),
	('533a0e48-cd4e-7ebd-6d76-305db701ca48', '55d76d55-8817-7dfe-13a4-10d4e976861c', 26, '2026-03-12 00:00:00+00', '{"text": "a\\b\n26"}', 'initech'),
	('ccfb79e0-30b4-c766-2486-bd265c3d9ee9', '0446f39e-ff67-8a7e-0c00-ae3432fc195c', 27, '2026-03-17 00:00:00+00', '{"text": "a\\b\n27"}', 'initech'),
	('20d6cdf9-713a-74d6-98e8-8c1144283669', '7bf2402d-5a7d-0fd8-45bc-648abd3d1418', 28, '2026-03-22 00:00:00+00', '{"text": "a\\b\n28"}', 'initech'),
	('42620837-4940-9f99-238f-220490405b32', '394bedf5-aaaf-bd18-3ff1-8a3036e9b935', 29, '2026-03-27 00:00:00+00', '{"text": "a\\b\n29"}', 'initech');
INSERT INTO public.event_s2_p20260401 VALUES
	('8c0f395b-76fa-e650-bd40-8cb3f34b96fd', '5335b097-1006-caf4-2531-718adf698077', 30, '2026-04-01 00:00:00+00', '{"text": "a\\b\n30"}', 'initech'),
	('3e9da751-9ca1-8faf-26f9-c571ece81563', 'e2cad3c2-cd45-4e12-9bb1-f81c02669784', 31, '2026-04-06 00:00:00+00', '{"text": "a\\b\n31"}', 'initech'),
	('50571547-7107-978f-e3f9-e54541f247d6', '55d76d55-8817-7dfe-13a4-10d4e976861c', 32, '2026-04-11 00:00:00+00', '{"text": "a\\b\n32"}', 'initech'),
	('f9967dcf-5c37-8487-5cef-6f57c482161e', '0446f39e-ff67-8a7e-0c00-ae3432fc195c', 33, '2026-04-16 00:00:00+00', '{"text": "a\\b\n33"}', 'initech');
INSERT INTO public.event_s3_p20260101 VALUES
	('66c873ed-834e-c488-9d20-a0b57c2ae412', 'cd0f6f5c-afaf-fe9e-6333-96ce80257208', 12, '2026-01-01 00:00:00+00', '{"text": "a\\b\n12"}', 'umbrella'),
	('acf6c562-a31a-14cc-5001-56fe84760dea', '5e531d0e-dfcb-7fd7-896c-593f94b4cb37', 13, '2026-01-06 00:00:00+00', '{"text": "a\\b\n13"}', 'umbrella'),
	('e5398638-6edc-1f52-ec52-2fdec148c947', 'a9cadba0-32a2-c4cd-1755-33069433c9ab', 14, '2026-01-11 00:00:00+00', '{"text": "a\\b\n14"}', 'umbrella'),
	('e2975a4e-028c-f71c-bdbc-fb6b0fab16a1', '99498fdf-7510-c2c2-db29-c823ab081bc7', 15, '2026-01-16 00:00:00+00', '{"text": "a\\b\n15"}', 'umbrella'),
	('e1298175-d56f-129e-c9fd-6d2676b3f609', 'bc2f3545-a37d-0046-1c3d-ca4a5b0e70f8', 16, '2026-01-21 00:00:00+00', '{"text": "a\\b\n16"}', 'umbrella'),
	('6c255180-6fc3-480e-a646-027aee541479', 'c01045b8-80f6-bfa9-bb7c-d259936a216a', 17, '2026-01-26 00:00:00+00', '{"text": "a\\b\n17"}', 'umbrella'),
	('260d592f-ec04-9e12-6d76-e2d9433ed284', 'cd0f6f5c-afaf-fe9e-6333-96ce80257208', 18, '2026-01-31 00:00:00+00', '{"text": "a\\b\n18"}', 'umbrella');
INSERT INTO public.event_s3_p20260201 VALUES
	('ec82418b-417b-e97b-226c-7bba53eedf05', '5e531d0e-dfcb-7fd7-896c-593f94b4cb37', 19, '2026-02-05 00:00:00+00', '{"text": "a\\b\n19"}', 'umbrella'),
	('74fd8a47-49c1-28ce-2241-52edeb26bcbd', 'a9cadba0-32a2-c4cd-1755-33069433c9ab', 20, '2026-02-10 00:00:00+00', '{"text": "a\\b\n20"}', 'umbrella'),
	('9dce154b-c841-1f6d-571b-fe9d7d1c82d0', '99498fdf-7510-c2c2-db29-c823ab081bc7', 21, '2026-02-15 00:00:00+00', '{"text": "a\\b\n21"}', 'umbrella'),
	('4debf768-6af6-ee2d-5fd0-074a9fe6ecb5', 'bc2f3545-a37d-0046-1c3d-ca4a5b0e70f8', 22, '2026-02-20 00:00:00+00', '{"text": "a\\b\n22"}', 'umbrella'),
	('4b908968-bea6-46f3-dde1-52b1ea9acb44', 'c01045b8-80f6-bfa9-bb7c-d259936a216a', 23, '2026-02-25 00:00:00+00', '{"text": "a\\b\n23"}', 'umbrella');
INSERT INTO public.event_s3_p20260301 VALUES
	('1090cd04-2c5e-00e6-df69-4f16087eefb7', 'cd0f6f5c-afaf-fe9e-6333-96ce80257208', 24, '2026-03-02 00:00:00+00', '{"text": "a\\b\n24"}', 'umbrella'),
	('e1920864-3a59-5d67-74dc-ed520ca231f0', '5e531d0e-dfcb-7fd7-896c-593f94b4cb37', 25, '2026-03-07 00:00:00+00', '{"text": "a\\b\n25"}', 'umbrella'),
	('40ccd85c-1ea7-61b0-7c4a-d58260762908', 'a9cadba0-32a2-c4cd-1755-33069433c9ab', 26, '2026-03-12 00:00:00+00', '{"text": "a\\b\n26"}', 'umbrella'),
	('227331b2-3e63-d48a-67e7-4dbfcf907352', '99498fdf-7510-c2c2-db29-c823ab081bc7', 27, '2026-03-17 00:00:00+00', '{"text": "a\\b\n27"}', 'umbrella'),
	('099b4d97-9e63-aa9d-5a9b-2b883f202434', 'bc2f3545-a37d-0046-1c3d-ca4a5b0e70f8', 28, '2026-03-22 00:00:00+00', '{"text": "a\\b\n28"}', 'umbrella'),
	('62379a60-db68-91fc-a1d5-e2fc16df5069', 'c01045b8-80f6-bfa9-bb7c-d259936a216a', 29, '2026-03-27 00:00:00+00', '{"text": "a\\b\n29"}', 'umbrella');
INSERT INTO public.event_s3_p20260401 VALUES
	('1fbf4f6f-0f32-57dc-10aa-58467ad083ef', 'cd0f6f5c-afaf-fe9e-6333-96ce80257208', 30, '2026-04-01 00:00:00+00', '{"text": "a\\b\n30"}', 'umbrella'),
	('0f7a33d7-8856-d782-f361-481599c3ac4e', '5e531d0e-dfcb-7fd7-896c-593f94b4cb37', 31, '2026-04-06 00:00:00+00', '{"text": "a\\b\n31"}', 'umbrella'),
	('a26ef104-0032-9bb0-3955-5b66f6f40c1b', 'a9cadba0-32a2-c4cd-1755-33069433c9ab', 32, '2026-04-11 00:00:00+00', '{"text": "a\\b\n32"}', 'umbrella'),
	('a1b9a89b-9efb-0d2b-72cf-ece1a83ebc71', '99498fdf-7510-c2c2-db29-c823ab081bc7', 33, '2026-04-16 00:00:00+00', '{"text": "a\\b\n33"}', 'umbrella');
INSERT INTO public.parlant_shard_audit_s2_p20260201 VALUES
	('2026-02-10 12:00:01.786903+00', '781', 'initech', 'agent', 'INSERT', '{"id": "d91489de-2016-7f84-5a1d-0bfcc4b8ec2f"}', NULL, 'postgres', NULL),
	('2026-02-10 12:00:01.787164+00', '781', 'initech', 'agent', 'INSERT', '{"id": "c52f706f-8dbd-e0ae-482c-d461512d1fcf"}', NULL, 'postgres', NULL),
	('2026-02-10 12:00:01.798844+00', '784', 'initech', 'agent', 'UPDATE', '{"id": "d91489de-2016-7f84-5a1d-0bfcc4b8ec2f"}', '{note}', 'postgres', NULL);
INSERT INTO public.parlant_shard_audit_s3_p20260201 VALUES
	('2026-02-10 12:00:01.820362+00', '785', 'umbrella', 'agent', 'INSERT', '{"id": "06701500-b396-3dfc-31b9-ef9c68dbf918"}', NULL, 'postgres', NULL),
	('2026-02-10 12:00:01.820506+00', '785', 'umbrella', 'agent', 'INSERT', '{"id": "9042a134-0992-ba1a-56dc-debb7427d7bb"}', NULL, 'postgres', NULL),
	('2026-02-10 12:00:01.836199+00', '788', 'umbrella', 'agent', 'UPDATE', '{"id": "06701500-b396-3dfc-31b9-ef9c68dbf918"}', '{note}', 'postgres', NULL);
INSERT INTO public.session_s2 VALUES
	('5335b097-1006-caf4-2531-718adf698077', 'c52f706f-8dbd-e0ae-482c-d461512d1fcf', 'žluťoučký	1', 'calm', DEFAULT, '2025-11-02 00:00:00+00', 'initech'),
	('e2cad3c2-cd45-4e12-9bb1-f81c02669784', 'd91489de-2016-7f84-5a1d-0bfcc4b8ec2f', 'žluťoučký	2', 'calm', DEFAULT, '2025-11-03 00:00:00+00', 'initech'),
	('55d76d55-8817-7dfe-13a4-10d4e976861c', 'c52f706f-8dbd-e0ae-482c-d461512d1fcf', 'žluťoučký	3', 'it''s "odd"', DEFAULT, '2025-11-04 00:00:00+00', 'initech'),
	('0446f39e-ff67-8a7e-0c00-ae3432fc195c', 'd91489de-2016-7f84-5a1d-0bfcc4b8ec2f', 'žluťoučký	4', 'calm', DEFAULT, '2025-11-05 00:00:00+00', 'initech'),
	('7bf2402d-5a7d-0fd8-45bc-648abd3d1418', 'c52f706f-8dbd-e0ae-482c-d461512d1fcf', 'žluťoučký	5', 'calm', DEFAULT, '2025-11-06 00:00:00+00', 'initech'),
	('394bedf5-aaaf-bd18-3ff1-8a3036e9b935', 'd91489de-2016-7f84-5a1d-0bfcc4b8ec2f', 'žluťoučký	6', 'calm', DEFAULT, '2025-11-07 00:00:00+00', 'initech');
INSERT INTO public.session_s3 VALUES
	('cd0f6f5c-afaf-fe9e-6333-96ce80257208', '9042a134-0992-ba1a-56dc-debb7427d7bb', 'žluťoučký	1', 'calm', DEFAULT, '2025-11-02 00:00:00+00', 'umbrella'),
	('5e531d0e-dfcb-7fd7-896c-593f94b4cb37', '06701500-b396-3dfc-31b9-ef9c68dbf918', 'žluťoučký	2', 'calm', DEFAULT, '2025-11-03 00:00:00+00', 'umbrella'),
	('a9cadba0-32a2-c4cd-1755-33069433c9ab', '9042a134-0992-ba1a-56dc-debb7427d7bb', 'žluťoučký	3', 'it''s "odd"', DEFAULT, '2025-11-04 00:00:00+00', 'umbrella'),
	('99498fdf-7510-c2c2-db29-c823ab081bc7', '06701500-b396-3dfc-31b9-ef9c68dbf918', 'žluťoučký	4', 'calm', DEFAULT, '2025-11-05 00:00:00+00', 'umbrella'),
	('bc2f3545-a37d-0046-1c3d-ca4a5b0e70f8', '9042a134-0992-ba1a-56dc-debb7427d7bb', 'žluťoučký	5', 'calm', DEFAULT, '2025-11-06 00:00:00+00', 'umbrella'),
	('c01045b8-80f6-bfa9-bb7c-d259936a216a', '06701500-b396-3dfc-31b9-ef9c68dbf918', 'žluťoučký	6', 'calm', DEFAULT, '2025-11-07 00:00:00+00', 'umbrella');
INSERT INTO public.workspace VALUES
	('acme', 'ann', 'Acme'),
	('globex', 'ann', 'Globex'),
	('initech', 'ann', 'Initech'),
	('umbrella', 'ann', 'Umbrella'),
	('hooli', 'ann', 'Hooli');
ALTER TABLE ONLY parlant_shard.audit
    ADD CONSTRAINT audit_pkey PRIMARY KEY (id);
ALTER TABLE ONLY parlant_shard.directory
    ADD CONSTRAINT directory_pkey PRIMARY KEY (topology, workspace_id);
ALTER TABLE ONLY parlant_shard.map
    ADD CONSTRAINT map_pkey PRIMARY KEY (topology);
ALTER TABLE ONLY parlant_shard.meta
    ADD CONSTRAINT meta_pkey PRIMARY KEY (singleton);
ALTER TABLE ONLY parlant_shard.object
    ADD CONSTRAINT object_pkey PRIMARY KEY (kind, name);
ALTER TABLE ONLY parlant_shard.placement
    ADD CONSTRAINT placement_pkey PRIMARY KEY (topology, workspace_id);
ALTER TABLE ONLY parlant_shard.retired
    ADD CONSTRAINT retired_pkey PRIMARY KEY (topology, name);
ALTER TABLE ONLY parlant_shard.run
    ADD CONSTRAINT run_pkey PRIMARY KEY (run_id);
ALTER TABLE ONLY parlant_shard.sample
    ADD CONSTRAINT sample_pkey PRIMARY KEY (topology, shard, logical, workspace_id, taken_at);
ALTER TABLE ONLY parlant_shard.shard
    ADD CONSTRAINT shard_pkey PRIMARY KEY (topology, shard);
ALTER TABLE ONLY parlant_shard.signing_key
    ADD CONSTRAINT signing_key_pkey PRIMARY KEY (id);
ALTER TABLE ONLY parlant_shard.step
    ADD CONSTRAINT step_pkey PRIMARY KEY (run_id, step_id);
ALTER TABLE ONLY public.account
    ADD CONSTRAINT account_pkey PRIMARY KEY (id);
ALTER TABLE ONLY public.agent_s2
    ADD CONSTRAINT agent_pkey_s2 PRIMARY KEY (id);
ALTER TABLE ONLY public.agent_s3
    ADD CONSTRAINT agent_pkey_s3 PRIMARY KEY (id);
ALTER TABLE ONLY public.agent_s2
    ADD CONSTRAINT agent_workspace_id_id_key_s2 UNIQUE (workspace_id, id);
ALTER TABLE ONLY public.agent_s3
    ADD CONSTRAINT agent_workspace_id_id_key_s3 UNIQUE (workspace_id, id);
ALTER TABLE ONLY public.agent_s2
    ADD CONSTRAINT agent_workspace_id_name_key_s2 UNIQUE (workspace_id, name);
ALTER TABLE ONLY public.agent_s3
    ADD CONSTRAINT agent_workspace_id_name_key_s3 UNIQUE (workspace_id, name);
ALTER TABLE ONLY public.event_s2_p20260101
    ADD CONSTRAINT event_s2_p20260101_pkey PRIMARY KEY (id);
ALTER TABLE ONLY public.event_s2_p20260201
    ADD CONSTRAINT event_s2_p20260201_pkey PRIMARY KEY (id);
ALTER TABLE ONLY public.event_s2_p20260301
    ADD CONSTRAINT event_s2_p20260301_pkey PRIMARY KEY (id);
ALTER TABLE ONLY public.event_s2_p20260401
    ADD CONSTRAINT event_s2_p20260401_pkey PRIMARY KEY (id);
ALTER TABLE ONLY public.event_s2_p20260501
    ADD CONSTRAINT event_s2_p20260501_pkey PRIMARY KEY (id);
ALTER TABLE ONLY public.event_s2_p20260601
    ADD CONSTRAINT event_s2_p20260601_pkey PRIMARY KEY (id);
ALTER TABLE ONLY public.event_s2_p20260701
    ADD CONSTRAINT event_s2_p20260701_pkey PRIMARY KEY (id);
ALTER TABLE ONLY public.event_s3_p20260101
    ADD CONSTRAINT event_s3_p20260101_pkey PRIMARY KEY (id);
ALTER TABLE ONLY public.event_s3_p20260201
    ADD CONSTRAINT event_s3_p20260201_pkey PRIMARY KEY (id);
ALTER TABLE ONLY public.event_s3_p20260301
    ADD CONSTRAINT event_s3_p20260301_pkey PRIMARY KEY (id);
ALTER TABLE ONLY public.event_s3_p20260401
    ADD CONSTRAINT event_s3_p20260401_pkey PRIMARY KEY (id);
ALTER TABLE ONLY public.event_s3_p20260501
    ADD CONSTRAINT event_s3_p20260501_pkey PRIMARY KEY (id);
ALTER TABLE ONLY public.event_s3_p20260601
    ADD CONSTRAINT event_s3_p20260601_pkey PRIMARY KEY (id);
ALTER TABLE ONLY public.event_s3_p20260701
    ADD CONSTRAINT event_s3_p20260701_pkey PRIMARY KEY (id);
ALTER TABLE ONLY public.session_s2
    ADD CONSTRAINT session_pkey_s2 PRIMARY KEY (id);
ALTER TABLE ONLY public.session_s3
    ADD CONSTRAINT session_pkey_s3 PRIMARY KEY (id);
ALTER TABLE ONLY public.session_s2
    ADD CONSTRAINT session_workspace_id_id_key_s2 UNIQUE (workspace_id, id);
ALTER TABLE ONLY public.session_s3
    ADD CONSTRAINT session_workspace_id_id_key_s3 UNIQUE (workspace_id, id);
ALTER TABLE ONLY public.workspace
    ADD CONSTRAINT workspace_pkey PRIMARY KEY (id);
CREATE INDEX audit_topology_idx ON parlant_shard.audit USING btree (topology, id DESC);
CREATE INDEX run_started_at_idx ON parlant_shard.run USING btree (topology, started_at DESC);
CREATE INDEX event_s2_p20260101_session_idx ON public.event_s2_p20260101 USING btree (session_id, created_at);
CREATE INDEX event_session_idx_s2 ON ONLY public.event_s2 USING btree (session_id, created_at);
CREATE INDEX event_s2_p20260201_session_idx ON public.event_s2_p20260201 USING btree (session_id, created_at);
CREATE INDEX event_s2_p20260301_recent_idx ON public.event_s2_p20260301 USING btree (created_at DESC);
CREATE INDEX event_s2_p20260301_session_idx ON public.event_s2_p20260301 USING btree (session_id, created_at);
CREATE INDEX event_s2_p20260401_recent_idx ON public.event_s2_p20260401 USING btree (created_at DESC);
CREATE INDEX event_s2_p20260401_session_idx ON public.event_s2_p20260401 USING btree (session_id, created_at);
CREATE INDEX event_s2_p20260501_recent_idx ON public.event_s2_p20260501 USING btree (created_at DESC);
CREATE INDEX event_s2_p20260501_session_idx ON public.event_s2_p20260501 USING btree (session_id, created_at);
CREATE INDEX event_s2_p20260601_recent_idx ON public.event_s2_p20260601 USING btree (created_at DESC);
CREATE INDEX event_s2_p20260601_session_idx ON public.event_s2_p20260601 USING btree (session_id, created_at);
CREATE INDEX event_s2_p20260701_recent_idx ON public.event_s2_p20260701 USING btree (created_at DESC);
CREATE INDEX event_s2_p20260701_session_idx ON public.event_s2_p20260701 USING btree (session_id, created_at);
CREATE INDEX event_s3_p20260101_session_idx ON public.event_s3_p20260101 USING btree (session_id, created_at);
CREATE INDEX event_session_idx_s3 ON ONLY public.event_s3 USING btree (session_id, created_at);
CREATE INDEX event_s3_p20260201_session_idx ON public.event_s3_p20260201 USING btree (session_id, created_at);
CREATE INDEX event_s3_p20260301_recent_idx ON public.event_s3_p20260301 USING btree (created_at DESC);
CREATE INDEX event_s3_p20260301_session_idx ON public.event_s3_p20260301 USING btree (session_id, created_at);
CREATE INDEX event_s3_p20260401_recent_idx ON public.event_s3_p20260401 USING btree (created_at DESC);
CREATE INDEX event_s3_p20260401_session_idx ON public.event_s3_p20260401 USING btree (session_id, created_at);
CREATE INDEX event_s3_p20260501_recent_idx ON public.event_s3_p20260501 USING btree (created_at DESC);
CREATE INDEX event_s3_p20260501_session_idx ON public.event_s3_p20260501 USING btree (session_id, created_at);
CREATE INDEX event_s3_p20260601_recent_idx ON public.event_s3_p20260601 USING btree (created_at DESC);
CREATE INDEX event_s3_p20260601_session_idx ON public.event_s3_p20260601 USING btree (session_id, created_at);
CREATE INDEX event_s3_p20260701_recent_idx ON public.event_s3_p20260701 USING btree (created_at DESC);
CREATE INDEX event_s3_p20260701_session_idx ON public.event_s3_p20260701 USING btree (session_id, created_at);
CREATE INDEX parlant_shard_audit_key_idx_s2 ON ONLY public.parlant_shard_audit_s2 USING btree (workspace_id, at);
CREATE INDEX parlant_shard_audit_key_idx_s3 ON ONLY public.parlant_shard_audit_s3 USING btree (workspace_id, at);
CREATE INDEX parlant_shard_audit_s2_p20260201_key_idx ON public.parlant_shard_audit_s2_p20260201 USING btree (workspace_id, at);
CREATE INDEX parlant_shard_audit_s2_p20260301_key_idx ON public.parlant_shard_audit_s2_p20260301 USING btree (workspace_id, at);
CREATE INDEX parlant_shard_audit_s2_p20260401_key_idx ON public.parlant_shard_audit_s2_p20260401 USING btree (workspace_id, at);
CREATE INDEX parlant_shard_audit_s2_p20260501_key_idx ON public.parlant_shard_audit_s2_p20260501 USING btree (workspace_id, at);
CREATE INDEX parlant_shard_audit_s2_p20260601_key_idx ON public.parlant_shard_audit_s2_p20260601 USING btree (workspace_id, at);
CREATE INDEX parlant_shard_audit_s2_p20260701_key_idx ON public.parlant_shard_audit_s2_p20260701 USING btree (workspace_id, at);
CREATE INDEX parlant_shard_audit_s2_p20260801_key_idx ON public.parlant_shard_audit_s2_p20260801 USING btree (workspace_id, at);
CREATE INDEX parlant_shard_audit_s3_p20260201_key_idx ON public.parlant_shard_audit_s3_p20260201 USING btree (workspace_id, at);
CREATE INDEX parlant_shard_audit_s3_p20260301_key_idx ON public.parlant_shard_audit_s3_p20260301 USING btree (workspace_id, at);
CREATE INDEX parlant_shard_audit_s3_p20260401_key_idx ON public.parlant_shard_audit_s3_p20260401 USING btree (workspace_id, at);
CREATE INDEX parlant_shard_audit_s3_p20260501_key_idx ON public.parlant_shard_audit_s3_p20260501 USING btree (workspace_id, at);
CREATE INDEX parlant_shard_audit_s3_p20260601_key_idx ON public.parlant_shard_audit_s3_p20260601 USING btree (workspace_id, at);
CREATE INDEX parlant_shard_audit_s3_p20260701_key_idx ON public.parlant_shard_audit_s3_p20260701 USING btree (workspace_id, at);
CREATE INDEX parlant_shard_audit_s3_p20260801_key_idx ON public.parlant_shard_audit_s3_p20260801 USING btree (workspace_id, at);
CREATE INDEX session_agent_idx_s2 ON public.session_s2 USING btree (agent_id, started_at DESC);
CREATE INDEX session_agent_idx_s3 ON public.session_s3 USING btree (agent_id, started_at DESC);
ALTER INDEX public.event_session_idx_s2 ATTACH PARTITION public.event_s2_p20260201_session_idx;
ALTER INDEX public.event_session_idx_s2 ATTACH PARTITION public.event_s2_p20260301_session_idx;
ALTER INDEX public.event_session_idx_s2 ATTACH PARTITION public.event_s2_p20260401_session_idx;
ALTER INDEX public.event_session_idx_s2 ATTACH PARTITION public.event_s2_p20260501_session_idx;
ALTER INDEX public.event_session_idx_s2 ATTACH PARTITION public.event_s2_p20260601_session_idx;
ALTER INDEX public.event_session_idx_s2 ATTACH PARTITION public.event_s2_p20260701_session_idx;
ALTER INDEX public.event_session_idx_s3 ATTACH PARTITION public.event_s3_p20260201_session_idx;
ALTER INDEX public.event_session_idx_s3 ATTACH PARTITION public.event_s3_p20260301_session_idx;
ALTER INDEX public.event_session_idx_s3 ATTACH PARTITION public.event_s3_p20260401_session_idx;
ALTER INDEX public.event_session_idx_s3 ATTACH PARTITION public.event_s3_p20260501_session_idx;
ALTER INDEX public.event_session_idx_s3 ATTACH PARTITION public.event_s3_p20260601_session_idx;
ALTER INDEX public.event_session_idx_s3 ATTACH PARTITION public.event_s3_p20260701_session_idx;
ALTER INDEX public.parlant_shard_audit_key_idx_s2 ATTACH PARTITION public.parlant_shard_audit_s2_p20260201_key_idx;
ALTER INDEX public.parlant_shard_audit_key_idx_s2 ATTACH PARTITION public.parlant_shard_audit_s2_p20260301_key_idx;
ALTER INDEX public.parlant_shard_audit_key_idx_s2 ATTACH PARTITION public.parlant_shard_audit_s2_p20260401_key_idx;
ALTER INDEX public.parlant_shard_audit_key_idx_s2 ATTACH PARTITION public.parlant_shard_audit_s2_p20260501_key_idx;
ALTER INDEX public.parlant_shard_audit_key_idx_s2 ATTACH PARTITION public.parlant_shard_audit_s2_p20260601_key_idx;
ALTER INDEX public.parlant_shard_audit_key_idx_s2 ATTACH PARTITION public.parlant_shard_audit_s2_p20260701_key_idx;
ALTER INDEX public.parlant_shard_audit_key_idx_s2 ATTACH PARTITION public.parlant_shard_audit_s2_p20260801_key_idx;
ALTER INDEX public.parlant_shard_audit_key_idx_s3 ATTACH PARTITION public.parlant_shard_audit_s3_p20260201_key_idx;
ALTER INDEX public.parlant_shard_audit_key_idx_s3 ATTACH PARTITION public.parlant_shard_audit_s3_p20260301_key_idx;
ALTER INDEX public.parlant_shard_audit_key_idx_s3 ATTACH PARTITION public.parlant_shard_audit_s3_p20260401_key_idx;
ALTER INDEX public.parlant_shard_audit_key_idx_s3 ATTACH PARTITION public.parlant_shard_audit_s3_p20260501_key_idx;
ALTER INDEX public.parlant_shard_audit_key_idx_s3 ATTACH PARTITION public.parlant_shard_audit_s3_p20260601_key_idx;
ALTER INDEX public.parlant_shard_audit_key_idx_s3 ATTACH PARTITION public.parlant_shard_audit_s3_p20260701_key_idx;
ALTER INDEX public.parlant_shard_audit_key_idx_s3 ATTACH PARTITION public.parlant_shard_audit_s3_p20260801_key_idx;
CREATE TRIGGER audit_append BEFORE INSERT ON parlant_shard.audit FOR EACH ROW EXECUTE FUNCTION parlant_shard.audit_append();
ALTER TABLE parlant_shard.audit ENABLE ALWAYS TRIGGER audit_append;
CREATE TRIGGER audit_refuse BEFORE DELETE OR UPDATE OR TRUNCATE ON parlant_shard.audit FOR EACH STATEMENT EXECUTE FUNCTION parlant_shard.audit_refuse();
ALTER TABLE parlant_shard.audit ENABLE ALWAYS TRIGGER audit_refuse;
CREATE TRIGGER parlant_shard_audit_delete AFTER DELETE ON public.agent_s2 REFERENCING OLD TABLE AS old_rows FOR EACH STATEMENT EXECUTE FUNCTION parlant_shard.row_audit_agent_s2();
CREATE TRIGGER parlant_shard_audit_delete AFTER DELETE ON public.agent_s3 REFERENCING OLD TABLE AS old_rows FOR EACH STATEMENT EXECUTE FUNCTION parlant_shard.row_audit_agent_s3();
CREATE TRIGGER parlant_shard_audit_insert AFTER INSERT ON public.agent_s2 REFERENCING NEW TABLE AS new_rows FOR EACH STATEMENT EXECUTE FUNCTION parlant_shard.row_audit_agent_s2();
CREATE TRIGGER parlant_shard_audit_insert AFTER INSERT ON public.agent_s3 REFERENCING NEW TABLE AS new_rows FOR EACH STATEMENT EXECUTE FUNCTION parlant_shard.row_audit_agent_s3();
CREATE TRIGGER parlant_shard_audit_update AFTER UPDATE ON public.agent_s2 REFERENCING OLD TABLE AS old_rows NEW TABLE AS new_rows FOR EACH STATEMENT EXECUTE FUNCTION parlant_shard.row_audit_agent_s2();
CREATE TRIGGER parlant_shard_audit_update AFTER UPDATE ON public.agent_s3 REFERENCING OLD TABLE AS old_rows NEW TABLE AS new_rows FOR EACH STATEMENT EXECUTE FUNCTION parlant_shard.row_audit_agent_s3();
CREATE TRIGGER parlant_shard_cascade AFTER DELETE ON public.account FOR EACH ROW EXECUTE FUNCTION parlant_shard.cascade_account();
ALTER TABLE public.account ENABLE ALWAYS TRIGGER parlant_shard_cascade;
CREATE TRIGGER parlant_shard_cascade AFTER DELETE ON public.workspace FOR EACH ROW EXECUTE FUNCTION parlant_shard.cascade_workspace();
ALTER TABLE public.workspace ENABLE ALWAYS TRIGGER parlant_shard_cascade;
CREATE TRIGGER parlant_shard_guard BEFORE INSERT OR DELETE OR UPDATE OR TRUNCATE ON public.account FOR EACH STATEMENT EXECUTE FUNCTION parlant_shard.refuse_write();
CREATE TRIGGER parlant_shard_guard BEFORE INSERT OR DELETE OR UPDATE OR TRUNCATE ON public.workspace FOR EACH STATEMENT EXECUTE FUNCTION parlant_shard.refuse_write();
ALTER TABLE ONLY public.agent_s2
    ADD CONSTRAINT agent_workspace_id_fkey_s2 FOREIGN KEY (workspace_id) REFERENCES public.workspace(id);
ALTER TABLE ONLY public.agent_s3
    ADD CONSTRAINT agent_workspace_id_fkey_s3 FOREIGN KEY (workspace_id) REFERENCES public.workspace(id);
ALTER TABLE public.event_s2
    ADD CONSTRAINT event_session_id_fkey_s2 FOREIGN KEY (workspace_id, session_id) REFERENCES public.session_s2(workspace_id, id) ON DELETE CASCADE;
ALTER TABLE public.event_s3
    ADD CONSTRAINT event_session_id_fkey_s3 FOREIGN KEY (workspace_id, session_id) REFERENCES public.session_s3(workspace_id, id) ON DELETE CASCADE;
ALTER TABLE ONLY public.session_s2
    ADD CONSTRAINT session_agent_id_fkey_s2 FOREIGN KEY (workspace_id, agent_id) REFERENCES public.agent_s2(workspace_id, id) ON DELETE CASCADE;
ALTER TABLE ONLY public.session_s3
    ADD CONSTRAINT session_agent_id_fkey_s3 FOREIGN KEY (workspace_id, agent_id) REFERENCES public.agent_s3(workspace_id, id) ON DELETE CASCADE;
ALTER TABLE public.parlant_shard_audit_s2 ENABLE ROW LEVEL SECURITY;
ALTER TABLE public.parlant_shard_audit_s2_p20260201 ENABLE ROW LEVEL SECURITY;
ALTER TABLE public.parlant_shard_audit_s2_p20260301 ENABLE ROW LEVEL SECURITY;
ALTER TABLE public.parlant_shard_audit_s2_p20260401 ENABLE ROW LEVEL SECURITY;
ALTER TABLE public.parlant_shard_audit_s2_p20260501 ENABLE ROW LEVEL SECURITY;
ALTER TABLE public.parlant_shard_audit_s2_p20260601 ENABLE ROW LEVEL SECURITY;
ALTER TABLE public.parlant_shard_audit_s2_p20260701 ENABLE ROW LEVEL SECURITY;
ALTER TABLE public.parlant_shard_audit_s2_p20260801 ENABLE ROW LEVEL SECURITY;
ALTER TABLE public.parlant_shard_audit_s3 ENABLE ROW LEVEL SECURITY;
ALTER TABLE public.parlant_shard_audit_s3_p20260201 ENABLE ROW LEVEL SECURITY;
ALTER TABLE public.parlant_shard_audit_s3_p20260301 ENABLE ROW LEVEL SECURITY;
ALTER TABLE public.parlant_shard_audit_s3_p20260401 ENABLE ROW LEVEL SECURITY;
ALTER TABLE public.parlant_shard_audit_s3_p20260501 ENABLE ROW LEVEL SECURITY;
ALTER TABLE public.parlant_shard_audit_s3_p20260601 ENABLE ROW LEVEL SECURITY;
ALTER TABLE public.parlant_shard_audit_s3_p20260701 ENABLE ROW LEVEL SECURITY;
ALTER TABLE public.parlant_shard_audit_s3_p20260801 ENABLE ROW LEVEL SECURITY;
CREATE SUBSCRIPTION parlant_shard_released_east CONNECTION 'user=${core.user} dbname=${core.dbname} host=${core.host} port=${core.port} password=''${core.password}''' PUBLICATION parlant_shard_released WITH (connect = false, slot_name = 'parlant_shard_released_east');
REVOKE ALL ON FUNCTION parlant_shard.audit_append() FROM PUBLIC;
REVOKE ALL ON FUNCTION parlant_shard.audit_refuse() FROM PUBLIC;
REVOKE ALL ON TABLE parlant_shard.audit FROM CURRENT_USER;
GRANT SELECT,INSERT,REFERENCES,TRIGGER ON TABLE parlant_shard.audit TO CURRENT_USER;
