
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
CREATE EXTENSION IF NOT EXISTS postgres_fdw WITH SCHEMA parlant_shard;
COMMENT ON EXTENSION postgres_fdw IS 'foreign-data wrapper for remote PostgreSQL servers';
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
CREATE FUNCTION parlant_shard.refuse_truncate() RETURNS trigger
    LANGUAGE plpgsql
    AS $$
BEGIN
  RAISE EXCEPTION 'table "%" has copies on other servers', TG_TABLE_NAME
    USING ERRCODE = '0A000',
          HINT = 'use DELETE, which is replicated';
END;
$$;
CREATE FUNCTION parlant_shard.row_audit_agent_s1() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
BEGIN
  -- Whoever may call it could hang it on a table of his own and write what he likes.
  IF TG_TABLE_SCHEMA <> 'public' OR TG_TABLE_NAME <> 'agent_s1' THEN
    RAISE EXCEPTION 'this function is for another table' USING ERRCODE = '42501';
  END IF;
  IF TG_OP = 'INSERT' THEN
    INSERT INTO "public"."parlant_shard_audit_s1" (at, transaction_id, "workspace_id", table_name, operation, row_key, actor, application_actor)
    SELECT clock_timestamp(), pg_current_xact_id(), r."workspace_id", 'agent', TG_OP, jsonb_build_object('id', r."id"),
           session_user, left(nullif(current_setting('parlant.actor', true), ''), 200)
      FROM new_rows r;
  ELSIF TG_OP = 'DELETE' THEN
    INSERT INTO "public"."parlant_shard_audit_s1" (at, transaction_id, "workspace_id", table_name, operation, row_key, actor, application_actor)
    SELECT clock_timestamp(), pg_current_xact_id(), r."workspace_id", 'agent', TG_OP, jsonb_build_object('id', r."id"),
           session_user, left(nullif(current_setting('parlant.actor', true), ''), 200)
      FROM old_rows r;
  ELSE
    INSERT INTO "public"."parlant_shard_audit_s1" (at, transaction_id, "workspace_id", table_name, operation, row_key, changed_columns, actor,
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
CREATE SERVER parlant_shard_east FOREIGN DATA WRAPPER postgres_fdw OPTIONS (
    async_capable 'true',
    dbname '${east.dbname}',
    fetch_size '1000',
    host '${east.host}',
    port '${east.port}',
    use_remote_estimate 'false'
);
CREATE USER MAPPING FOR CURRENT_USER SERVER parlant_shard_east OPTIONS (
    password '${east.password}',
    "user" '${east.user}'
);
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
CREATE TABLE public.agent_s1 (
    id uuid DEFAULT gen_random_uuid() NOT NULL,
    workspace_id text NOT NULL,
    name character varying(40) NOT NULL,
    note text,
    CONSTRAINT agent_name_check_s1 CHECK ((length((name)::text) > 1)),
    CONSTRAINT agent_s1_workspace_check CHECK ((workspace_id = ANY ('{acme,globex}'::text[])))
);
CREATE FOREIGN TABLE public.agent_s2 (
    id uuid NOT NULL,
    workspace_id text NOT NULL,
    name character varying(40) NOT NULL,
    note text,
    CONSTRAINT agent_s2_workspace_check CHECK ((workspace_id = ANY ('{initech}'::text[])))
)
SERVER parlant_shard_east
OPTIONS (
    schema_name 'public',
    table_name 'agent_s2'
);
CREATE FOREIGN TABLE public.agent_s3 (
    id uuid NOT NULL,
    workspace_id text NOT NULL,
    name character varying(40) NOT NULL,
    note text,
    CONSTRAINT agent_s3_workspace_check CHECK (((parlant_shard.bucket(workspace_id) >= 0) AND (parlant_shard.bucket(workspace_id) <= 4095) AND (workspace_id <> ALL ('{acme,globex,initech}'::text[]))))
)
SERVER parlant_shard_east
OPTIONS (
    schema_name 'public',
    table_name 'agent_s3'
);
CREATE VIEW public.agent_global WITH (security_invoker='true') AS
 SELECT agent_s1.id,
    agent_s1.workspace_id,
    agent_s1.name,
    agent_s1.note
   FROM public.agent_s1
UNION ALL
 SELECT agent_s2.id,
    agent_s2.workspace_id,
    agent_s2.name,
    agent_s2.note
   FROM public.agent_s2
UNION ALL
 SELECT agent_s3.id,
    agent_s3.workspace_id,
    agent_s3.name,
    agent_s3.note
   FROM public.agent_s3;
CREATE TABLE public.event_s1 (
    id uuid DEFAULT gen_random_uuid() NOT NULL,
    session_id uuid NOT NULL,
    "offset" integer NOT NULL,
    created_at timestamp with time zone DEFAULT now() NOT NULL,
    body jsonb,
    workspace_id text NOT NULL,
    CONSTRAINT event_s1_workspace_check CHECK ((workspace_id = ANY ('{acme,globex}'::text[])))
)
PARTITION BY RANGE (created_at);
COMMENT ON TABLE public.event_s1 IS 'What was said.';
CREATE FOREIGN TABLE public.event_s2 (
    id uuid NOT NULL,
    session_id uuid NOT NULL,
    "offset" integer NOT NULL,
    created_at timestamp with time zone NOT NULL,
    body jsonb,
    workspace_id text NOT NULL,
    CONSTRAINT event_s2_workspace_check CHECK ((workspace_id = ANY ('{initech}'::text[])))
)
SERVER parlant_shard_east
OPTIONS (
    schema_name 'public',
    table_name 'event_s2'
);
CREATE FOREIGN TABLE public.event_s3 (
    id uuid NOT NULL,
    session_id uuid NOT NULL,
    "offset" integer NOT NULL,
    created_at timestamp with time zone NOT NULL,
    body jsonb,
    workspace_id text NOT NULL,
    CONSTRAINT event_s3_workspace_check CHECK (((parlant_shard.bucket(workspace_id) >= 0) AND (parlant_shard.bucket(workspace_id) <= 4095) AND (workspace_id <> ALL ('{acme,globex,initech}'::text[]))))
)
SERVER parlant_shard_east
OPTIONS (
    schema_name 'public',
    table_name 'event_s3'
);
CREATE VIEW public.event_global WITH (security_invoker='true') AS
 SELECT event_s1.id,
    event_s1.session_id,
    event_s1."offset",
    event_s1.created_at,
    event_s1.body,
    event_s1.workspace_id
   FROM public.event_s1
UNION ALL
 SELECT event_s2.id,
    event_s2.session_id,
    event_s2."offset",
    event_s2.created_at,
    event_s2.body,
    event_s2.workspace_id
   FROM public.event_s2
UNION ALL
 SELECT event_s3.id,
    event_s3.session_id,
    event_s3."offset",
    event_s3.created_at,
    event_s3.body,
    event_s3.workspace_id
   FROM public.event_s3;
CREATE TABLE public.event_s1_p20260101 (
    id uuid DEFAULT gen_random_uuid() NOT NULL,
    session_id uuid NOT NULL,
    "offset" integer NOT NULL,
    created_at timestamp with time zone DEFAULT now() NOT NULL,
    body jsonb,
    workspace_id text NOT NULL,
    CONSTRAINT event_s1_p20260101_created_at_check CHECK (((created_at IS NOT NULL) AND (created_at >= '2026-01-01 00:00:00+00'::timestamp with time zone) AND (created_at < '2026-02-01 00:00:00+00'::timestamp with time zone))),
    CONSTRAINT event_s1_workspace_check CHECK ((workspace_id = ANY ('{acme,globex}'::text[])))
);
CREATE TABLE public.event_s1_p20260201 (
    id uuid DEFAULT gen_random_uuid() NOT NULL,
    session_id uuid NOT NULL,
    "offset" integer NOT NULL,
    created_at timestamp with time zone DEFAULT now() NOT NULL,
    body jsonb,
    workspace_id text NOT NULL,
    CONSTRAINT event_s1_workspace_check CHECK ((workspace_id = ANY ('{acme,globex}'::text[])))
);
CREATE TABLE public.event_s1_p20260301 (
    id uuid DEFAULT gen_random_uuid() NOT NULL,
    session_id uuid NOT NULL,
    "offset" integer NOT NULL,
    created_at timestamp with time zone DEFAULT now() NOT NULL,
    body jsonb,
    workspace_id text NOT NULL,
    CONSTRAINT event_s1_workspace_check CHECK ((workspace_id = ANY ('{acme,globex}'::text[])))
);
CREATE TABLE public.event_s1_p20260401 (
    id uuid DEFAULT gen_random_uuid() NOT NULL,
    session_id uuid NOT NULL,
    "offset" integer NOT NULL,
    created_at timestamp with time zone DEFAULT now() NOT NULL,
    body jsonb,
    workspace_id text NOT NULL,
    CONSTRAINT event_s1_workspace_check CHECK ((workspace_id = ANY ('{acme,globex}'::text[])))
);
CREATE TABLE public.event_s1_p20260501 (
    id uuid DEFAULT gen_random_uuid() NOT NULL,
    session_id uuid NOT NULL,
    "offset" integer NOT NULL,
    created_at timestamp with time zone DEFAULT now() NOT NULL,
    body jsonb,
    workspace_id text NOT NULL,
    CONSTRAINT event_s1_workspace_check CHECK ((workspace_id = ANY ('{acme,globex}'::text[])))
);
CREATE TABLE public.event_s1_p20260601 (
    id uuid DEFAULT gen_random_uuid() NOT NULL,
    session_id uuid NOT NULL,
    "offset" integer NOT NULL,
    created_at timestamp with time zone DEFAULT now() NOT NULL,
    body jsonb,
    workspace_id text NOT NULL,
    CONSTRAINT event_s1_workspace_check CHECK ((workspace_id = ANY ('{acme,globex}'::text[])))
);
CREATE TABLE public.event_s1_p20260701 (
    id uuid DEFAULT gen_random_uuid() NOT NULL,
    session_id uuid NOT NULL,
    "offset" integer NOT NULL,
    created_at timestamp with time zone DEFAULT now() NOT NULL,
    body jsonb,
    workspace_id text NOT NULL,
    CONSTRAINT event_s1_workspace_check CHECK ((workspace_id = ANY ('{acme,globex}'::text[])))
);
CREATE TABLE public.parlant_shard_audit_s1 (
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
COMMENT ON TABLE public.parlant_shard_audit_s1 IS 'parlant-shard: recorded changes of rows';
CREATE TABLE public.parlant_shard_audit_s1_p20260201 (
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
CREATE TABLE public.parlant_shard_audit_s1_p20260301 (
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
CREATE TABLE public.parlant_shard_audit_s1_p20260401 (
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
CREATE TABLE public.parlant_shard_audit_s1_p20260501 (
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
CREATE TABLE public.parlant_shard_audit_s1_p20260601 (
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
CREATE TABLE public.parlant_shard_audit_s1_p20260701 (
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
CREATE TABLE public.parlant_shard_audit_s1_p20260801 (
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
CREATE TABLE public.session_s1 (
    id uuid DEFAULT gen_random_uuid() NOT NULL,
    agent_id uuid NOT NULL,
    title text,
    mood public.mood DEFAULT 'calm'::public.mood NOT NULL,
    words integer GENERATED ALWAYS AS (length(title)) STORED,
    started_at timestamp with time zone NOT NULL,
    workspace_id text NOT NULL,
    CONSTRAINT session_s1_workspace_check CHECK ((workspace_id = ANY ('{acme,globex}'::text[])))
);
CREATE FOREIGN TABLE public.session_s2 (
    id uuid NOT NULL,
    agent_id uuid NOT NULL,
    title text,
    mood public.mood NOT NULL,
    words integer,
    started_at timestamp with time zone NOT NULL,
    workspace_id text NOT NULL,
    CONSTRAINT session_s2_workspace_check CHECK ((workspace_id = ANY ('{initech}'::text[])))
)
SERVER parlant_shard_east
OPTIONS (
    schema_name 'public',
    table_name 'session_s2'
);
CREATE FOREIGN TABLE public.session_s3 (
    id uuid NOT NULL,
    agent_id uuid NOT NULL,
    title text,
    mood public.mood NOT NULL,
    words integer,
    started_at timestamp with time zone NOT NULL,
    workspace_id text NOT NULL,
    CONSTRAINT session_s3_workspace_check CHECK (((parlant_shard.bucket(workspace_id) >= 0) AND (parlant_shard.bucket(workspace_id) <= 4095) AND (workspace_id <> ALL ('{acme,globex,initech}'::text[]))))
)
SERVER parlant_shard_east
OPTIONS (
    schema_name 'public',
    table_name 'session_s3'
);
CREATE VIEW public.session_global WITH (security_invoker='true') AS
 SELECT session_s1.id,
    session_s1.agent_id,
    session_s1.title,
    session_s1.mood,
    session_s1.words,
    session_s1.started_at,
    session_s1.workspace_id
   FROM public.session_s1
UNION ALL
 SELECT session_s2.id,
    session_s2.agent_id,
    session_s2.title,
    session_s2.mood,
    session_s2.words,
    session_s2.started_at,
    session_s2.workspace_id
   FROM public.session_s2
UNION ALL
 SELECT session_s3.id,
    session_s3.agent_id,
    session_s3.title,
    session_s3.mood,
    session_s3.words,
    session_s3.started_at,
    session_s3.workspace_id
   FROM public.session_s3;
CREATE TABLE public.workspace (
    id text NOT NULL,
    owner_id text NOT NULL,
    name text NOT NULL
);
ALTER TABLE ONLY public.event_s1 ATTACH PARTITION public.event_s1_p20260201 FOR VALUES FROM ('2026-02-01 00:00:00+00') TO ('2026-03-01 00:00:00+00');
ALTER TABLE ONLY public.event_s1 ATTACH PARTITION public.event_s1_p20260301 FOR VALUES FROM ('2026-03-01 00:00:00+00') TO ('2026-04-01 00:00:00+00');
ALTER TABLE ONLY public.event_s1 ATTACH PARTITION public.event_s1_p20260401 FOR VALUES FROM ('2026-04-01 00:00:00+00') TO ('2026-05-01 00:00:00+00');
ALTER TABLE ONLY public.event_s1 ATTACH PARTITION public.event_s1_p20260501 FOR VALUES FROM ('2026-05-01 00:00:00+00') TO ('2026-06-01 00:00:00+00');
ALTER TABLE ONLY public.event_s1 ATTACH PARTITION public.event_s1_p20260601 FOR VALUES FROM ('2026-06-01 00:00:00+00') TO ('2026-07-01 00:00:00+00');
ALTER TABLE ONLY public.event_s1 ATTACH PARTITION public.event_s1_p20260701 FOR VALUES FROM ('2026-07-01 00:00:00+00') TO ('2026-08-01 00:00:00+00');
ALTER TABLE ONLY public.parlant_shard_audit_s1 ATTACH PARTITION public.parlant_shard_audit_s1_p20260201 FOR VALUES FROM ('2026-02-01 00:00:00+00') TO ('2026-03-01 00:00:00+00');
ALTER TABLE ONLY public.parlant_shard_audit_s1 ATTACH PARTITION public.parlant_shard_audit_s1_p20260301 FOR VALUES FROM ('2026-03-01 00:00:00+00') TO ('2026-04-01 00:00:00+00');
ALTER TABLE ONLY public.parlant_shard_audit_s1 ATTACH PARTITION public.parlant_shard_audit_s1_p20260401 FOR VALUES FROM ('2026-04-01 00:00:00+00') TO ('2026-05-01 00:00:00+00');
ALTER TABLE ONLY public.parlant_shard_audit_s1 ATTACH PARTITION public.parlant_shard_audit_s1_p20260501 FOR VALUES FROM ('2026-05-01 00:00:00+00') TO ('2026-06-01 00:00:00+00');
ALTER TABLE ONLY public.parlant_shard_audit_s1 ATTACH PARTITION public.parlant_shard_audit_s1_p20260601 FOR VALUES FROM ('2026-06-01 00:00:00+00') TO ('2026-07-01 00:00:00+00');
ALTER TABLE ONLY public.parlant_shard_audit_s1 ATTACH PARTITION public.parlant_shard_audit_s1_p20260701 FOR VALUES FROM ('2026-07-01 00:00:00+00') TO ('2026-08-01 00:00:00+00');
ALTER TABLE ONLY public.parlant_shard_audit_s1 ATTACH PARTITION public.parlant_shard_audit_s1_p20260801 FOR VALUES FROM ('2026-08-01 00:00:00+00') TO ('2026-09-01 00:00:00+00');
INSERT INTO parlant_shard.audit VALUES
	(1, '2026-02-10 12:00:03.318306+00', 'released', 'apply', '{core,east}', 'done', '{"steps": 76, "topology_sha256": "fe09bb8bbe9cda41bb6e9dfe88e01e835d173e00a4d6e6c456c6707a2ce96907"}', 'a7dff159-4fbe-4ebb-8397-ed867c8ca027', 'postgres', '127.0.0.1', 'operator', 'localhost', '', '12a2b137adc4b511741d63b3cc62d91e2bf1907f8f04eefa6e0fcef101528187'),
	(2, '2026-02-10 12:00:03.485664+00', 'released', 'workspace add', '{umbrella}', 'done', '{"shard": "s3"}', NULL, 'postgres', '127.0.0.1', 'operator', 'localhost', '12a2b137adc4b511741d63b3cc62d91e2bf1907f8f04eefa6e0fcef101528187', '333783f417150bf2204dcd4c9dd42080754cfa089c9321236fe56655a4c7dab6'),
	(3, '2026-04-05 03:00:01.21418+00', 'released', 'maintain', '{event_s1_p20251101,event_s1}', 'begun', '{"step": "1c8badaa1dcf", "shard": "s1", "title": "detach expired partition \"event_s1_p20251101\" of \"event_s1\" concurrently", "server": "core", "rows_estimated": {"event_s1": 68, "event_s1_p20251101": 12}}', '011479b6-1efc-412d-91a4-947c620b55a2', 'postgres', '127.0.0.1', 'operator', 'localhost', '333783f417150bf2204dcd4c9dd42080754cfa089c9321236fe56655a4c7dab6', '781850ab0de3e9b4ab24ff456a6b17bb7c16b611a26a9324374dc451973ca074'),
	(4, '2026-04-05 03:00:01.217516+00', 'released', 'maintain', '{event_s1_p20251101,event_s1}', 'done', '{"step": "1c8badaa1dcf", "shard": "s1", "title": "detach expired partition \"event_s1_p20251101\" of \"event_s1\" concurrently", "server": "core", "rows_estimated": {"event_s1": 68, "event_s1_p20251101": 12}}', '011479b6-1efc-412d-91a4-947c620b55a2', 'postgres', '127.0.0.1', 'operator', 'localhost', '781850ab0de3e9b4ab24ff456a6b17bb7c16b611a26a9324374dc451973ca074', '36cc85832ab623720bec48451dbea23ab3fa4b588620e30b7dc343db4de1ca91'),
	(5, '2026-04-05 03:00:01.223145+00', 'released', 'maintain', '{event_s1_p20251201,event_s1}', 'begun', '{"step": "7b058b91babb", "shard": "s1", "title": "detach expired partition \"event_s1_p20251201\" of \"event_s1\" concurrently", "server": "core", "rows_estimated": {"event_s1": 56, "event_s1_p20251201": 12}}', '011479b6-1efc-412d-91a4-947c620b55a2', 'postgres', '127.0.0.1', 'operator', 'localhost', '36cc85832ab623720bec48451dbea23ab3fa4b588620e30b7dc343db4de1ca91', '36ad86cc120391bc239f5d7ce2a71fc0ee81e6592129e77668c91b480bbff7de'),
	(6, '2026-04-05 03:00:01.226279+00', 'released', 'maintain', '{event_s1_p20251201,event_s1}', 'done', '{"step": "7b058b91babb", "shard": "s1", "title": "detach expired partition \"event_s1_p20251201\" of \"event_s1\" concurrently", "server": "core", "rows_estimated": {"event_s1": 56, "event_s1_p20251201": 12}}', '011479b6-1efc-412d-91a4-947c620b55a2', 'postgres', '127.0.0.1', 'operator', 'localhost', '36ad86cc120391bc239f5d7ce2a71fc0ee81e6592129e77668c91b480bbff7de', 'dfd16126246e951278068a311dc0cc6054615f9a4dd2868f1483fa575d5e6630'),
	(7, '2026-04-05 03:00:01.349811+00', 'released', 'maintain', '{event_s2_p20251101,event_s2}', 'begun', '{"step": "0a2103ad3972", "shard": "s2", "title": "detach expired partition \"event_s2_p20251101\" of \"event_s2\" concurrently", "server": "east", "rows_estimated": {"event_s2": 34, "event_s2_p20251101": 6}}', '011479b6-1efc-412d-91a4-947c620b55a2', 'postgres', '127.0.0.1', 'operator', 'localhost', 'dfd16126246e951278068a311dc0cc6054615f9a4dd2868f1483fa575d5e6630', 'af3ef22463dc7e01a5a442b4dd3f433742762ce88e83d22601c624277af71f31'),
	(8, '2026-04-05 03:00:01.354424+00', 'released', 'maintain', '{event_s2_p20251101,event_s2}', 'done', '{"step": "0a2103ad3972", "shard": "s2", "title": "detach expired partition \"event_s2_p20251101\" of \"event_s2\" concurrently", "server": "east", "rows_estimated": {"event_s2": 34, "event_s2_p20251101": 6}}', '011479b6-1efc-412d-91a4-947c620b55a2', 'postgres', '127.0.0.1', 'operator', 'localhost', 'af3ef22463dc7e01a5a442b4dd3f433742762ce88e83d22601c624277af71f31', '8d0d44875b3478e95a8f3215088348d5085b3b011f90e478eb0a276071ed646a'),
	(9, '2026-04-05 03:00:01.367653+00', 'released', 'maintain', '{event_s2_p20251201,event_s2}', 'begun', '{"step": "29ef3e714934", "shard": "s2", "title": "detach expired partition \"event_s2_p20251201\" of \"event_s2\" concurrently", "server": "east", "rows_estimated": {"event_s2": 28, "event_s2_p20251201": 6}}', '011479b6-1efc-412d-91a4-947c620b55a2', 'postgres', '127.0.0.1', 'operator', 'localhost', '8d0d44875b3478e95a8f3215088348d5085b3b011f90e478eb0a276071ed646a', 'a1b5e58e78fb7a1e491e1f07792df75443826f9dd261ec9c58c5e6a38f4c36bc'),
	(10, '2026-04-05 03:00:01.371812+00', 'released', 'maintain', '{event_s2_p20251201,event_s2}', 'done', '{"step": "29ef3e714934", "shard": "s2", "title": "detach expired partition \"event_s2_p20251201\" of \"event_s2\" concurrently", "server": "east", "rows_estimated": {"event_s2": 28, "event_s2_p20251201": 6}}', '011479b6-1efc-412d-91a4-947c620b55a2', 'postgres', '127.0.0.1', 'operator', 'localhost', 'a1b5e58e78fb7a1e491e1f07792df75443826f9dd261ec9c58c5e6a38f4c36bc', 'b09e9251a8839dfbf1cd4c7cff2b5b5a66dabb2b292d4ce2f02ae6e098841073'),
	(11, '2026-04-05 03:00:01.379984+00', 'released', 'maintain', '{event_s3_p20251101,event_s3}', 'begun', '{"step": "518d1eb08eff", "shard": "s3", "title": "detach expired partition \"event_s3_p20251101\" of \"event_s3\" concurrently", "server": "east", "rows_estimated": {"event_s3": 34, "event_s3_p20251101": 6}}', '011479b6-1efc-412d-91a4-947c620b55a2', 'postgres', '127.0.0.1', 'operator', 'localhost', 'b09e9251a8839dfbf1cd4c7cff2b5b5a66dabb2b292d4ce2f02ae6e098841073', '3857676ad063e488b2d15bc55efe4fb1cc51697f383e41c1e60bd6d3cd3fa10a'),
	(12, '2026-04-05 03:00:01.384147+00', 'released', 'maintain', '{event_s3_p20251101,event_s3}', 'done', '{"step": "518d1eb08eff", "shard": "s3", "title": "detach expired partition \"event_s3_p20251101\" of \"event_s3\" concurrently", "server": "east", "rows_estimated": {"event_s3": 34, "event_s3_p20251101": 6}}', '011479b6-1efc-412d-91a4-947c620b55a2', 'postgres', '127.0.0.1', 'operator', 'localhost', '3857676ad063e488b2d15bc55efe4fb1cc51697f383e41c1e60bd6d3cd3fa10a', '7632a35b33e4df2beec3b18b5c5a22aa7f5b68949002df4904cd8bf5a5177aa4'),
	(13, '2026-04-05 03:00:01.395214+00', 'released', 'maintain', '{event_s3_p20251201,event_s3}', 'begun', '{"step": "b44e3a95f84e", "shard": "s3", "title": "detach expired partition \"event_s3_p20251201\" of \"event_s3\" concurrently", "server": "east", "rows_estimated": {"event_s3": 28, "event_s3_p20251201": 6}}', '011479b6-1efc-412d-91a4-947c620b55a2', 'postgres', '127.0.0.1', 'operator', 'localhost', '7632a35b33e4df2beec3b18b5c5a22aa7f5b68949002df4904cd8bf5a5177aa4', 'c9f673cad1dd7cd8f271b40ca14894ce77d60f60af78bb35abacfcbb826c64b6'),
	(14, '2026-04-05 03:00:01.399282+00', 'released', 'maintain', '{event_s3_p20251201,event_s3}', 'done', '{"step": "b44e3a95f84e", "shard": "s3", "title": "detach expired partition \"event_s3_p20251201\" of \"event_s3\" concurrently", "server": "east", "rows_estimated": {"event_s3": 28, "event_s3_p20251201": 6}}', '011479b6-1efc-412d-91a4-947c620b55a2', 'postgres', '127.0.0.1', 'operator', 'localhost', 'c9f673cad1dd7cd8f271b40ca14894ce77d60f60af78bb35abacfcbb826c64b6', 'ac4b31e56795913efe97dba809bffb3275460123357d705105114861b4681db3'),
	(15, '2026-04-05 03:00:01.458233+00', 'released', 'maintain', '{}', 'done', '{"now": "2026-04-05T03:00:00Z", "steps": 45}', '011479b6-1efc-412d-91a4-947c620b55a2', 'postgres', '127.0.0.1', 'operator', 'localhost', 'ac4b31e56795913efe97dba809bffb3275460123357d705105114861b4681db3', '54850f8661c44cf6f341cddfcb1cada98be33944d78e9d4369946a7b0ed3d2ef'),
	(16, '2026-04-13 03:00:01.10075+00', 'released', 'maintain', '{event_s1_p20251101,archive/}', 'begun', '{"step": "2bad0f1e36b8", "shard": "s1", "title": "archive detached partition \"event_s1_p20251101\" to \"archive/\", verify the archive, then drop the partition", "server": "core", "rows_estimated": {"event_s1_p20251101": 12}}', '6e417353-6ea5-434d-975e-5aa9fd24da7c', 'postgres', '127.0.0.1', 'operator', 'localhost', '54850f8661c44cf6f341cddfcb1cada98be33944d78e9d4369946a7b0ed3d2ef', '6c311d19979d0f1a9829f23cf1a0f4a78c0344df98d892e07c34e2bd2828d2c0'),
	(17, '2026-04-13 03:00:01.104912+00', 'released', 'maintain', '{event_s2_p20251101,archive/}', 'begun', '{"step": "22128465c513", "shard": "s2", "title": "archive detached partition \"event_s2_p20251101\" to \"archive/\", verify the archive, then drop the partition", "server": "east", "rows_estimated": {"event_s2_p20251101": 6}}', '6e417353-6ea5-434d-975e-5aa9fd24da7c', 'postgres', '127.0.0.1', 'operator', 'localhost', '6c311d19979d0f1a9829f23cf1a0f4a78c0344df98d892e07c34e2bd2828d2c0', '72cba8a66164908d400ec79edf89aab74562d11eeb6a1f176456e28005525113'),
	(18, '2026-04-13 03:00:01.154847+00', 'released', 'maintain', '{event_s2_p20251101,archive/}', 'done', '{"step": "22128465c513", "shard": "s2", "title": "archive detached partition \"event_s2_p20251101\" to \"archive/\", verify the archive, then drop the partition", "server": "east", "rows_estimated": {"event_s2_p20251101": 6}}', '6e417353-6ea5-434d-975e-5aa9fd24da7c', 'postgres', '127.0.0.1', 'operator', 'localhost', '72cba8a66164908d400ec79edf89aab74562d11eeb6a1f176456e28005525113', '7319a4f0aa2d6f0783ac23a40602884e5bc62c4d8d002b0933851f641f88321a'),
	(19, '2026-04-13 03:00:01.156549+00', 'released', 'maintain', '{event_s1_p20251101,archive/}', 'done', '{"step": "2bad0f1e36b8", "shard": "s1", "title": "archive detached partition \"event_s1_p20251101\" to \"archive/\", verify the archive, then drop the partition", "server": "core", "rows_estimated": {"event_s1_p20251101": 12}}', '6e417353-6ea5-434d-975e-5aa9fd24da7c', 'postgres', '127.0.0.1', 'operator', 'localhost', '7319a4f0aa2d6f0783ac23a40602884e5bc62c4d8d002b0933851f641f88321a', '1b423ea56ac072a739c7725c0c973599ccd83a3afe7040f17100022abee9c3a5'),
	(20, '2026-04-13 03:00:01.157904+00', 'released', 'maintain', '{event_s2_p20251201,archive/}', 'begun', '{"step": "ce6bba33db29", "shard": "s2", "title": "archive detached partition \"event_s2_p20251201\" to \"archive/\", verify the archive, then drop the partition", "server": "east", "rows_estimated": {"event_s2_p20251201": 6}}', '6e417353-6ea5-434d-975e-5aa9fd24da7c', 'postgres', '127.0.0.1', 'operator', 'localhost', '1b423ea56ac072a739c7725c0c973599ccd83a3afe7040f17100022abee9c3a5', '2f075452ba3f83930aa4229178debe876b73d244cdc5b9563b2ce8dff2de0418'),
	(21, '2026-04-13 03:00:01.158977+00', 'released', 'maintain', '{event_s1_p20251201,archive/}', 'begun', '{"step": "6b1ceb7604ee", "shard": "s1", "title": "archive detached partition \"event_s1_p20251201\" to \"archive/\", verify the archive, then drop the partition", "server": "core", "rows_estimated": {"event_s1_p20251201": 12}}', '6e417353-6ea5-434d-975e-5aa9fd24da7c', 'postgres', '127.0.0.1', 'operator', 'localhost', '2f075452ba3f83930aa4229178debe876b73d244cdc5b9563b2ce8dff2de0418', 'e060e60eab4883b5c93fb729d176355924b7a3b17522727143b4716db7beec85'),
	(22, '2026-04-13 03:00:01.186645+00', 'released', 'maintain', '{event_s2_p20251201,archive/}', 'done', '{"step": "ce6bba33db29", "shard": "s2", "title": "archive detached partition \"event_s2_p20251201\" to \"archive/\", verify the archive, then drop the partition", "server": "east", "rows_estimated": {"event_s2_p20251201": 6}}', '6e417353-6ea5-434d-975e-5aa9fd24da7c', 'postgres', '127.0.0.1', 'operator', 'localhost', 'e060e60eab4883b5c93fb729d176355924b7a3b17522727143b4716db7beec85', 'e813e1d91e1f41f7653898edb5b94eb24616a7c00da13570c066ee3f60f3076e'),
	(23, '2026-04-13 03:00:01.193605+00', 'released', 'maintain', '{event_s3_p20251101,archive/}', 'begun', '{"step": "2320de1d1d0c", "shard": "s3", "title": "archive detached partition \"event_s3_p20251101\" to \"archive/\", verify the archive, then drop the partition", "server": "east", "rows_estimated": {"event_s3_p20251101": 6}}', '6e417353-6ea5-434d-975e-5aa9fd24da7c', 'postgres', '127.0.0.1', 'operator', 'localhost', 'e813e1d91e1f41f7653898edb5b94eb24616a7c00da13570c066ee3f60f3076e', 'a972365cefa970261dfa43168dc21ff92098991dfea6f3199682f76128fa0189'),
	(24, '2026-04-13 03:00:01.204868+00', 'released', 'maintain', '{event_s1_p20251201,archive/}', 'done', '{"step": "6b1ceb7604ee", "shard": "s1", "title": "archive detached partition \"event_s1_p20251201\" to \"archive/\", verify the archive, then drop the partition", "server": "core", "rows_estimated": {"event_s1_p20251201": 12}}', '6e417353-6ea5-434d-975e-5aa9fd24da7c', 'postgres', '127.0.0.1', 'operator', 'localhost', 'a972365cefa970261dfa43168dc21ff92098991dfea6f3199682f76128fa0189', 'a722a2a0d43bf9221ee459a29915a065652b99e274c4ceb08920645e6562386c'),
	(25, '2026-04-13 03:00:01.224663+00', 'released', 'maintain', '{event_s3_p20251101,archive/}', 'done', '{"step": "2320de1d1d0c", "shard": "s3", "title": "archive detached partition \"event_s3_p20251101\" to \"archive/\", verify the archive, then drop the partition", "server": "east", "rows_estimated": {"event_s3_p20251101": 6}}', '6e417353-6ea5-434d-975e-5aa9fd24da7c', 'postgres', '127.0.0.1', 'operator', 'localhost', 'a722a2a0d43bf9221ee459a29915a065652b99e274c4ceb08920645e6562386c', '96fe1cc6237143903f7c7b1eeb2dac2985860027cd0da6ff9b7a6cb7e999a39e'),
	(26, '2026-04-13 03:00:01.228515+00', 'released', 'maintain', '{event_s3_p20251201,archive/}', 'begun', '{"step": "96096cd334ed", "shard": "s3", "title": "archive detached partition \"event_s3_p20251201\" to \"archive/\", verify the archive, then drop the partition", "server": "east", "rows_estimated": {"event_s3_p20251201": 6}}', '6e417353-6ea5-434d-975e-5aa9fd24da7c', 'postgres', '127.0.0.1', 'operator', 'localhost', '96fe1cc6237143903f7c7b1eeb2dac2985860027cd0da6ff9b7a6cb7e999a39e', 'b712d3045eb81beee7cc1bcfb9f8739e9f887611fc4bce84339b6ecd46105a12'),
	(27, '2026-04-13 03:00:01.263654+00', 'released', 'maintain', '{event_s3_p20251201,archive/}', 'done', '{"step": "96096cd334ed", "shard": "s3", "title": "archive detached partition \"event_s3_p20251201\" to \"archive/\", verify the archive, then drop the partition", "server": "east", "rows_estimated": {"event_s3_p20251201": 6}}', '6e417353-6ea5-434d-975e-5aa9fd24da7c', 'postgres', '127.0.0.1', 'operator', 'localhost', 'b712d3045eb81beee7cc1bcfb9f8739e9f887611fc4bce84339b6ecd46105a12', 'ced0180bafecd8b005cf429038a5598bb3906f0cd7822d7e7adee27306dba409'),
	(28, '2026-04-13 03:00:01.312873+00', 'released', 'maintain', '{}', 'done', '{"now": "2026-04-13T03:00:00Z", "steps": 15}', '6e417353-6ea5-434d-975e-5aa9fd24da7c', 'postgres', '127.0.0.1', 'operator', 'localhost', 'ced0180bafecd8b005cf429038a5598bb3906f0cd7822d7e7adee27306dba409', '0b55c9919c3c4bba6102cc8e2d8458f7b92e04f772e164a80da52f25ce07f7d7'),
	(29, '2026-05-02 03:00:01.236626+00', 'released', 'maintain', '{event_s1_p20260101,event_s1}', 'begun', '{"step": "e9a1fe74910f", "shard": "s1", "title": "detach expired partition \"event_s1_p20260101\" of \"event_s1\" concurrently", "server": "core", "rows_estimated": {"event_s1": 44, "event_s1_p20260101": 14}}', '91943e60-9af0-43fa-aff5-1e1d2ccaa370', 'postgres', '127.0.0.1', 'operator', 'localhost', '0b55c9919c3c4bba6102cc8e2d8458f7b92e04f772e164a80da52f25ce07f7d7', 'a0804d5e1af9c2dcaddcda5f55d7e67e100c52d9ca400f72e21dc80f980b904a'),
	(30, '2026-05-02 03:00:01.243704+00', 'released', 'maintain', '{event_s1_p20260101,event_s1}', 'done', '{"step": "e9a1fe74910f", "shard": "s1", "title": "detach expired partition \"event_s1_p20260101\" of \"event_s1\" concurrently", "server": "core", "rows_estimated": {"event_s1": 44, "event_s1_p20260101": 14}}', '91943e60-9af0-43fa-aff5-1e1d2ccaa370', 'postgres', '127.0.0.1', 'operator', 'localhost', 'a0804d5e1af9c2dcaddcda5f55d7e67e100c52d9ca400f72e21dc80f980b904a', 'f7ed18ecacf31d2e25fe6643b8dfd3acf31dd9c8593cef9b95fcc6cbdc4297bc'),
	(31, '2026-05-02 03:00:01.290748+00', 'released', 'maintain', '{event_s2_p20260101,event_s2}', 'begun', '{"step": "d39a028c4694", "shard": "s2", "title": "detach expired partition \"event_s2_p20260101\" of \"event_s2\" concurrently", "server": "east", "rows_estimated": {"event_s2": 22, "event_s2_p20260101": 7}}', '91943e60-9af0-43fa-aff5-1e1d2ccaa370', 'postgres', '127.0.0.1', 'operator', 'localhost', 'f7ed18ecacf31d2e25fe6643b8dfd3acf31dd9c8593cef9b95fcc6cbdc4297bc', '58659b13f874c74cec24797135bd53cfd30bf3092390a0e241e5567364405bd2'),
	(32, '2026-05-02 03:00:01.297969+00', 'released', 'maintain', '{event_s2_p20260101,event_s2}', 'done', '{"step": "d39a028c4694", "shard": "s2", "title": "detach expired partition \"event_s2_p20260101\" of \"event_s2\" concurrently", "server": "east", "rows_estimated": {"event_s2": 22, "event_s2_p20260101": 7}}', '91943e60-9af0-43fa-aff5-1e1d2ccaa370', 'postgres', '127.0.0.1', 'operator', 'localhost', '58659b13f874c74cec24797135bd53cfd30bf3092390a0e241e5567364405bd2', '84e99bb1d64aa424898cdd680d0bfc2f9f277e8b2f0bf36113f7c2ac8b614abf'),
	(33, '2026-05-02 03:00:01.304187+00', 'released', 'maintain', '{event_s3_p20260101,event_s3}', 'begun', '{"step": "eca2260c592e", "shard": "s3", "title": "detach expired partition \"event_s3_p20260101\" of \"event_s3\" concurrently", "server": "east", "rows_estimated": {"event_s3": 22, "event_s3_p20260101": 7}}', '91943e60-9af0-43fa-aff5-1e1d2ccaa370', 'postgres', '127.0.0.1', 'operator', 'localhost', '84e99bb1d64aa424898cdd680d0bfc2f9f277e8b2f0bf36113f7c2ac8b614abf', '43858ede45041200ce7c5b2b48aa198c83ae820dd585fd9e0b9d4764f178423f'),
	(34, '2026-05-02 03:00:01.314758+00', 'released', 'maintain', '{event_s3_p20260101,event_s3}', 'done', '{"step": "eca2260c592e", "shard": "s3", "title": "detach expired partition \"event_s3_p20260101\" of \"event_s3\" concurrently", "server": "east", "rows_estimated": {"event_s3": 22, "event_s3_p20260101": 7}}', '91943e60-9af0-43fa-aff5-1e1d2ccaa370', 'postgres', '127.0.0.1', 'operator', 'localhost', '43858ede45041200ce7c5b2b48aa198c83ae820dd585fd9e0b9d4764f178423f', '2c69a4655fce57abdd637038a6b12bb25c4e9372e215006790110e4950da202d'),
	(35, '2026-05-02 03:00:01.363116+00', 'released', 'maintain', '{}', 'done', '{"now": "2026-05-02T03:00:00Z", "steps": 24}', '91943e60-9af0-43fa-aff5-1e1d2ccaa370', 'postgres', '127.0.0.1', 'operator', 'localhost', '2c69a4655fce57abdd637038a6b12bb25c4e9372e215006790110e4950da202d', 'dd4b1f01e94ee87f336046a42d3e17192873599956c7acbc4888b5aa50ddab51'),
	(36, '2026-05-02 03:00:02.116207+00', 'released', 'workspace export', '{acme}', 'done', '{"rows": 31, "tables": 5}', NULL, 'postgres', '127.0.0.1', 'operator', 'localhost', 'dd4b1f01e94ee87f336046a42d3e17192873599956c7acbc4888b5aa50ddab51', '78881b4d1d45b627d709a20e76f323cd57f6a86d90626eca70c5ac305aa2a705'),
	(37, '2026-05-02 03:00:03.338204+00', 'released', 'plan', '{}', 'done', '{"steps": 57, "topology_sha256": "f4e4f30b96631b3fc8b6679bd87ef52e78559a0a530947c83b63a6e3892aa49c"}', NULL, 'postgres', '127.0.0.1', 'operator', 'localhost', '78881b4d1d45b627d709a20e76f323cd57f6a86d90626eca70c5ac305aa2a705', 'be5046fc81ff668f05c0588636be54d3d86063e01dec4b969b20e1789be680ea');
INSERT INTO parlant_shard.directory VALUES
	('released', 'acme', 's1', 'active', 1, '2026-02-10 12:00:03.297875+00'),
	('released', 'globex', 's1', 'active', 1, '2026-02-10 12:00:03.297875+00'),
	('released', 'initech', 's2', 'active', 1, '2026-02-10 12:00:03.297875+00'),
	('released', 'umbrella', 's3', 'active', 1, '2026-02-10 12:00:03.467569+00');
INSERT INTO parlant_shard.map VALUES
	('released', '{"key": "workspace_id", "epoch": 1, "types": ["mood"], "lookup": true, "purged": [], "shards": {"s1": {"server": "core", "buckets": [], "workspaces": ["acme", "globex"]}, "s2": {"server": "east", "buckets": [], "workspaces": ["initech"]}, "s3": {"server": "east", "buckets": [[0, 4095]], "workspaces": []}}, "tables": {"agent": {"kind": "sharded", "links": [], "columns": [{"name": "id", "type": "uuid"}, {"name": "workspace_id", "type": "text"}, {"name": "name", "type": "character varying(40)"}, {"name": "note", "type": "text"}], "searches": [], "key_added": false, "constraints": ["agent_pkey", "agent_workspace_id_name_key"], "partitioned": false, "primary_key": ["id"]}, "event": {"kind": "sharded", "links": [{"table": "session", "column": "session_id", "ref_column": "id"}], "columns": [{"name": "id", "type": "uuid"}, {"name": "session_id", "type": "uuid"}, {"name": "offset", "type": "integer"}, {"name": "created_at", "type": "timestamp with time zone"}, {"name": "body", "type": "jsonb"}], "searches": [], "key_added": true, "constraints": ["event_pkey"], "partitioned": true, "primary_key": ["id"]}, "account": {"kind": "reference", "links": [], "columns": [{"name": "id", "type": "text"}, {"name": "name", "type": "text"}, {"name": "created_at", "type": "timestamp with time zone"}], "searches": [], "key_added": false, "constraints": ["account_pkey"], "partitioned": false, "primary_key": ["id"]}, "session": {"kind": "sharded", "links": [{"table": "agent", "column": "agent_id", "ref_column": "id"}], "columns": [{"name": "id", "type": "uuid"}, {"name": "agent_id", "type": "uuid"}, {"name": "title", "type": "text"}, {"name": "mood", "type": "public.mood"}, {"name": "words", "type": "integer"}, {"name": "started_at", "type": "timestamp with time zone"}], "searches": [], "key_added": true, "constraints": ["session_pkey"], "partitioned": false, "primary_key": ["id"]}, "workspace": {"kind": "reference", "links": [], "columns": [{"name": "id", "type": "text"}, {"name": "owner_id", "type": "text"}, {"name": "name", "type": "text"}], "searches": [], "key_added": false, "constraints": ["workspace_pkey"], "partitioned": false, "primary_key": ["id"]}}, "key_type": "text", "topology": "released", "functions": [], "namespace": "public", "coordinator": "core", "format_version": 1}', 1, '2026-02-10 12:00:03.29969+00');
INSERT INTO parlant_shard.meta VALUES
	(3, true);
INSERT INTO parlant_shard.object VALUES
	('released', 'table', 'account', 'account', ''),
	('released', 'table', 'workspace', 'workspace', ''),
	('released', 'table', 'parlant_shard_audit_s1', 'parlant_shard_audit', 's1'),
	('released', 'table', 'agent_s1', 'agent', 's1'),
	('released', 'table', 'session_s1', 'session', 's1'),
	('released', 'table', 'event_s1', 'event', 's1'),
	('released', 'table', 'agent_s2', 'agent', 's2'),
	('released', 'table', 'session_s2', 'session', 's2'),
	('released', 'table', 'event_s2', 'event', 's2'),
	('released', 'table', 'agent_s3', 'agent', 's3'),
	('released', 'table', 'session_s3', 'session', 's3'),
	('released', 'table', 'event_s3', 'event', 's3'),
	('released', 'view', 'agent_global', 'agent', ''),
	('released', 'view', 'session_global', 'session', ''),
	('released', 'view', 'event_global', 'event', '');
INSERT INTO parlant_shard.placement VALUES
	('released', 'acme', 's1', 'active', 1, '2026-02-10 12:00:03.29537+00'),
	('released', 'globex', 's1', 'active', 1, '2026-02-10 12:00:03.29537+00');
INSERT INTO parlant_shard.retired VALUES
	('released', 'event_s1_p20251101', 16692, 'event', 's1', 'event_s1', '2025-11-01 00:00:00', '2025-12-01 00:00:00', 'archived', '2026-04-05 03:00:00', 'released/s1/event_s1_p20251101.b4058de23802.json', 12, NULL, '2026-04-13 03:00:01.146214+00'),
	('released', 'event_s1_p20251201', 16706, 'event', 's1', 'event_s1', '2025-12-01 00:00:00', '2026-01-01 00:00:00', 'archived', '2026-04-05 03:00:00', 'released/s1/event_s1_p20251201.c4ed40ead18a.json', 12, NULL, '2026-04-13 03:00:01.194816+00'),
	('released', 'event_s1_p20260101', 16720, 'event', 's1', 'event_s1', '2026-01-01 00:00:00', '2026-02-01 00:00:00', 'detached', '2026-05-02 03:00:00', NULL, NULL, NULL, '2026-05-02 03:00:01.245106+00');
INSERT INTO parlant_shard.run VALUES
	('a7dff159-4fbe-4ebb-8397-ed867c8ca027', 'released', 'apply', 'done', '959076cc5f0fc6ec3f29012da6020129bacb2a89cd26f293b171255d4e966950', 'fe09bb8bbe9cda41bb6e9dfe88e01e835d173e00a4d6e6c456c6707a2ce96907', 76, '{b51a2c861dac,33732971022e,ba93070eba11,6358bbd32d23,5357a70e0b36,b617eaaf0d6d,cc9f946bf4a8,4ba458c8f5ef,ed3b3b445ae1,ebded50fff6d,3b39541ddadc,5bc5de02eb4a,5852660b8998,e95f8e46ae8f,f0e987129dd2,98d6e0b26479,3e41464bab69,ca61f558eed9,d6ac087cd997,576cf3421428,f6eaede7234d,e3d680b94ae0,98865de0aad5,b3a2e2eb2f78,471cb974c25f,90bfbcbd9a75,3626f6da0e58,6be8f2b4f291,cf4181e0f860,23212d1407f7,39f5e9e4a853,5404443c17ba,acf9aaedec35,0afc5f8cc842,cbe8f029628a,69bb7c784046,f65c71a01c35,7d9afffa3f6d,250709b164e8,4ea91fde74a0,41f91a799109,c7ffa0d4705a,0dda923da16b,51a68f6b369f,b20e17f6734b,f8f0d949a3bc,5e949b6745a8,4314c9b6f627,4a5afc5a8b28,e7272eafd9f8,3eb1a8ba60ee,53ef2d64aeb3,8391f9906b26,7d4f229a97ec,5cbbf69e0d6e,720dabea6336,c00551cc8bc1,825ac04ffc04,26dcd6ca2757,57ba2e5eeeac,65e800427a2b,8d1daf8281b4,4ec7b3326365,ab182e1a1deb,8cda600e0b00,472b57c67bcc,0c57a7a9c08a,9e86c6cab58a,947e713adedd,767132f30dd7,846e7011c2a1,1e1def6ea77d,850ba8ad10b2,b99ed781df1f,19cdb2844f54,458ce09b0041}', '2026-02-10 12:00:02.796214+00', '2026-02-10 12:00:03.301697+00', 'postgres', NULL),
	('011479b6-1efc-412d-91a4-947c620b55a2', 'released', 'maintain', 'done', 'b5e456727d94f8d09b9b7684773d2f06b34a763ba6dc84d6f84c1e2d739257a9', 'fe09bb8bbe9cda41bb6e9dfe88e01e835d173e00a4d6e6c456c6707a2ce96907', 45, '{fcb00821d5a6,70da102ea6c6,d30d7fd4a46d,3240b67551d4,ddf6defa487b,16798e388ee2,b1dbe9f44e95,7f0d4fd0da82,97b2b518136f,69e625523806,08ee1a5bbf43,2e753d301330,0cf712454afc,f056decd96d1,2fef8b655997,49017ba816f7,0a2103ad3972,5d1459da5df4,018775ae3903,2c3343390e0f,29ef3e714934,0ad9d23fcea9,b076cc3299f0,7c018aea945b,518d1eb08eff,d1de1d23cbf8,69637ccf9c75,c9138c61dc75,b44e3a95f84e,6abf9c7262d0,15d3cbe476dd,effdcf21725d,1c8badaa1dcf,11c54dc0886c,9fc86e0b4893,84d63256b87c,7b058b91babb,01b5570ec035,af3f8d9fc8b0,d853c248eb50,a52cd26e7ec8,8fc80efadeef,d588b75ff962,a41b88f51502,df884a61ed26}', '2026-04-05 03:00:01.166776+00', '2026-04-05 03:00:01.421871+00', 'postgres', NULL),
	('6e417353-6ea5-434d-975e-5aa9fd24da7c', 'released', 'maintain', 'done', '01a72ec40d3b88a8e85308bbeabee4a3c2e2289916c31c8c625ac636773e71d9', 'fe09bb8bbe9cda41bb6e9dfe88e01e835d173e00a4d6e6c456c6707a2ce96907', 15, '{597231d01a26,a545ba4bf369,5ee3de030fb0,22128465c513,ce6bba33db29,2320de1d1d0c,96096cd334ed,2bad0f1e36b8,6b1ceb7604ee,d853c248eb50,a52cd26e7ec8,8fc80efadeef,d588b75ff962,a41b88f51502,df884a61ed26}', '2026-04-13 03:00:01.060018+00', '2026-04-13 03:00:01.28273+00', 'postgres', NULL),
	('91943e60-9af0-43fa-aff5-1e1d2ccaa370', 'released', 'maintain', 'done', 'b0f6fb2d838ff891ef656a6e8ea1acf4ccb63e7873cdd2b1558593e571788208', 'fe09bb8bbe9cda41bb6e9dfe88e01e835d173e00a4d6e6c456c6707a2ce96907', 24, '{62954da54a30,ca84ea996d5b,e1479d6cf9a3,8e6a1284bbd9,9943d93d29e1,5a1c01b16982,f3db90d9791c,d39a028c4694,c5a1e9774170,982aa5d50f82,5fed70ed7b73,eca2260c592e,bbdaaeefc065,6807cc7e1f93,a7b0031cbf66,e9a1fe74910f,3109605f909c,a2bb4b153507,d853c248eb50,a52cd26e7ec8,8fc80efadeef,d588b75ff962,a41b88f51502,df884a61ed26}', '2026-05-02 03:00:01.185943+00', '2026-05-02 03:00:01.335613+00', 'postgres', NULL);
INSERT INTO parlant_shard.sample VALUES
	('released', '2026-04-05 03:00:01.425112+00', 's1', 'event', '', 44, 311296),
	('released', '2026-04-05 03:00:01.425112+00', 's1', 'parlant_shard_audit', '', 6, 114688),
	('released', '2026-04-05 03:00:01.425112+00', 's1', 'event', 'acme', 22, 155648),
	('released', '2026-04-05 03:00:01.425112+00', 's1', 'event', 'globex', 22, 155648),
	('released', '2026-04-05 03:00:01.425112+00', 's1', 'parlant_shard_audit', 'acme', 3, 57344),
	('released', '2026-04-05 03:00:01.425112+00', 's1', 'parlant_shard_audit', 'globex', 3, 57344),
	('released', '2026-04-13 03:00:01.287455+00', 's1', 'event', '', 44, 294912),
	('released', '2026-04-13 03:00:01.287455+00', 's1', 'parlant_shard_audit', '', 6, 114688),
	('released', '2026-04-13 03:00:01.287455+00', 's1', 'event', 'acme', 22, 147456),
	('released', '2026-04-13 03:00:01.287455+00', 's1', 'event', 'globex', 22, 147456),
	('released', '2026-04-13 03:00:01.287455+00', 's1', 'parlant_shard_audit', 'acme', 3, 57344),
	('released', '2026-04-13 03:00:01.287455+00', 's1', 'parlant_shard_audit', 'globex', 3, 57344),
	('released', '2026-05-02 03:00:01.337889+00', 's1', 'event', '', 30, 278528),
	('released', '2026-05-02 03:00:01.337889+00', 's1', 'parlant_shard_audit', '', 6, 131072),
	('released', '2026-05-02 03:00:01.337889+00', 's1', 'event', 'acme', 15, 139264),
	('released', '2026-05-02 03:00:01.337889+00', 's1', 'event', 'globex', 15, 139264),
	('released', '2026-05-02 03:00:01.337889+00', 's1', 'parlant_shard_audit', 'acme', 3, 65536),
	('released', '2026-05-02 03:00:01.337889+00', 's1', 'parlant_shard_audit', 'globex', 3, 65536);
INSERT INTO parlant_shard.shard VALUES
	('released', 's1', 'core'),
	('released', 's2', 'east'),
	('released', 's3', 'east');
INSERT INTO parlant_shard.step VALUES
	('a7dff159-4fbe-4ebb-8397-ed867c8ca027', 'b51a2c861dac', 'create the schema parlant_shard for placement, journal and runs', '2026-02-10 12:00:00+00', '2026-02-10 12:00:02.791768+00', 1),
	('a7dff159-4fbe-4ebb-8397-ed867c8ca027', 'ba93070eba11', 'create extension "postgres_fdw"', '2026-02-10 12:00:00+00', '2026-02-10 12:00:02.906585+00', 1),
	('a7dff159-4fbe-4ebb-8397-ed867c8ca027', '6358bbd32d23', 'create enum "mood"', '2026-02-10 12:00:00+00', '2026-02-10 12:00:02.911666+00', 1),
	('a7dff159-4fbe-4ebb-8397-ed867c8ca027', 'b617eaaf0d6d', 'create function parlant_shard.refuse_truncate()', '2026-02-10 12:00:00+00', '2026-02-10 12:00:02.923803+00', 1),
	('a7dff159-4fbe-4ebb-8397-ed867c8ca027', 'cc9f946bf4a8', 'create function parlant_shard.row_audit_agent_s1()', '2026-02-10 12:00:00+00', '2026-02-10 12:00:02.925476+00', 1),
	('a7dff159-4fbe-4ebb-8397-ed867c8ca027', 'f0e987129dd2', 'create table "account" with its constraints and indexes', '2026-02-10 12:00:00+00', '2026-02-10 12:00:02.951035+00', 1),
	('a7dff159-4fbe-4ebb-8397-ed867c8ca027', '98d6e0b26479', 'create table "workspace" with its constraints and indexes', '2026-02-10 12:00:00+00', '2026-02-10 12:00:02.954457+00', 1),
	('a7dff159-4fbe-4ebb-8397-ed867c8ca027', '3e41464bab69', 'create publication "parlant_shard_released" of the reference tables', '2026-02-10 12:00:00+00', '2026-02-10 12:00:02.955856+00', 1),
	('a7dff159-4fbe-4ebb-8397-ed867c8ca027', 'ca61f558eed9', 'create replication slot "parlant_shard_released_east"', '2026-02-10 12:00:00+00', '2026-02-10 12:00:02.966242+00', 1),
	('a7dff159-4fbe-4ebb-8397-ed867c8ca027', 'f6eaede7234d', 'create partitioned table "parlant_shard_audit_s1" with its constraints and indexes', '2026-02-10 12:00:00+00', '2026-02-10 12:00:03.114838+00', 1),
	('a7dff159-4fbe-4ebb-8397-ed867c8ca027', 'e3d680b94ae0', 'create partition "parlant_shard_audit_s1_p20260201" and attach it to "parlant_shard_audit_s1"', '2026-02-10 12:00:00+00', '2026-02-10 12:00:03.122068+00', 1),
	('a7dff159-4fbe-4ebb-8397-ed867c8ca027', '98865de0aad5', 'create partition "parlant_shard_audit_s1_p20260301" and attach it to "parlant_shard_audit_s1"', '2026-02-10 12:00:00+00', '2026-02-10 12:00:03.132287+00', 1),
	('a7dff159-4fbe-4ebb-8397-ed867c8ca027', 'b3a2e2eb2f78', 'create partition "parlant_shard_audit_s1_p20260401" and attach it to "parlant_shard_audit_s1"', '2026-02-10 12:00:00+00', '2026-02-10 12:00:03.142525+00', 1),
	('a7dff159-4fbe-4ebb-8397-ed867c8ca027', '471cb974c25f', 'create partition "parlant_shard_audit_s1_p20260501" and attach it to "parlant_shard_audit_s1"', '2026-02-10 12:00:00+00', '2026-02-10 12:00:03.148597+00', 1),
	('a7dff159-4fbe-4ebb-8397-ed867c8ca027', '90bfbcbd9a75', 'create table "agent_s1" with its constraints and indexes', '2026-02-10 12:00:00+00', '2026-02-10 12:00:03.15904+00', 1),
	('a7dff159-4fbe-4ebb-8397-ed867c8ca027', '3626f6da0e58', 'create table "session_s1" with its constraints and indexes', '2026-02-10 12:00:00+00', '2026-02-10 12:00:03.167532+00', 1),
	('a7dff159-4fbe-4ebb-8397-ed867c8ca027', '6be8f2b4f291', 'create partitioned table "event_s1" with its constraints and indexes', '2026-02-10 12:00:00+00', '2026-02-10 12:00:03.175001+00', 1),
	('a7dff159-4fbe-4ebb-8397-ed867c8ca027', 'cf4181e0f860', 'create partition "event_s1_p20251101" and attach it to "event_s1"', '2026-02-10 12:00:00+00', '2026-02-10 12:00:03.184619+00', 1),
	('a7dff159-4fbe-4ebb-8397-ed867c8ca027', '23212d1407f7', 'create partition "event_s1_p20251201" and attach it to "event_s1"', '2026-02-10 12:00:00+00', '2026-02-10 12:00:03.199392+00', 1),
	('a7dff159-4fbe-4ebb-8397-ed867c8ca027', '39f5e9e4a853', 'create partition "event_s1_p20260101" and attach it to "event_s1"', '2026-02-10 12:00:00+00', '2026-02-10 12:00:03.209126+00', 1),
	('a7dff159-4fbe-4ebb-8397-ed867c8ca027', '5404443c17ba', 'create partition "event_s1_p20260201" and attach it to "event_s1"', '2026-02-10 12:00:00+00', '2026-02-10 12:00:03.225025+00', 1),
	('a7dff159-4fbe-4ebb-8397-ed867c8ca027', 'acf9aaedec35', 'create partition "event_s1_p20260301" and attach it to "event_s1"', '2026-02-10 12:00:00+00', '2026-02-10 12:00:03.234739+00', 1),
	('a7dff159-4fbe-4ebb-8397-ed867c8ca027', '0afc5f8cc842', 'create partition "event_s1_p20260401" and attach it to "event_s1"', '2026-02-10 12:00:00+00', '2026-02-10 12:00:03.24436+00', 1),
	('a7dff159-4fbe-4ebb-8397-ed867c8ca027', '4ec7b3326365', 'create foreign server "parlant_shard_east"', '2026-02-10 12:00:00+00', '2026-02-10 12:00:03.281588+00', 1),
	('a7dff159-4fbe-4ebb-8397-ed867c8ca027', 'ab182e1a1deb', 'create the user mapping of "postgres" on "parlant_shard_east"', '2026-02-10 12:00:00+00', '2026-02-10 12:00:03.283849+00', 1),
	('a7dff159-4fbe-4ebb-8397-ed867c8ca027', '8cda600e0b00', 'create foreign table "agent_s2" with its constraints and indexes', '2026-02-10 12:00:00+00', '2026-02-10 12:00:03.285129+00', 1),
	('a7dff159-4fbe-4ebb-8397-ed867c8ca027', '472b57c67bcc', 'create foreign table "session_s2" with its constraints and indexes', '2026-02-10 12:00:00+00', '2026-02-10 12:00:03.286155+00', 1),
	('a7dff159-4fbe-4ebb-8397-ed867c8ca027', '0c57a7a9c08a', 'create foreign table "event_s2" with its constraints and indexes', '2026-02-10 12:00:00+00', '2026-02-10 12:00:03.287223+00', 1),
	('a7dff159-4fbe-4ebb-8397-ed867c8ca027', '9e86c6cab58a', 'create foreign table "agent_s3" with its constraints and indexes', '2026-02-10 12:00:00+00', '2026-02-10 12:00:03.288379+00', 1),
	('a7dff159-4fbe-4ebb-8397-ed867c8ca027', '947e713adedd', 'create foreign table "session_s3" with its constraints and indexes', '2026-02-10 12:00:00+00', '2026-02-10 12:00:03.289431+00', 1),
	('a7dff159-4fbe-4ebb-8397-ed867c8ca027', '767132f30dd7', 'create foreign table "event_s3" with its constraints and indexes', '2026-02-10 12:00:00+00', '2026-02-10 12:00:03.290418+00', 1),
	('a7dff159-4fbe-4ebb-8397-ed867c8ca027', '846e7011c2a1', 'create federated view "agent_global"', '2026-02-10 12:00:00+00', '2026-02-10 12:00:03.291808+00', 1),
	('a7dff159-4fbe-4ebb-8397-ed867c8ca027', '1e1def6ea77d', 'create federated view "session_global"', '2026-02-10 12:00:00+00', '2026-02-10 12:00:03.293235+00', 1),
	('a7dff159-4fbe-4ebb-8397-ed867c8ca027', '850ba8ad10b2', 'create federated view "event_global"', '2026-02-10 12:00:00+00', '2026-02-10 12:00:03.294777+00', 1),
	('a7dff159-4fbe-4ebb-8397-ed867c8ca027', 'b99ed781df1f', 'place 2 workspaces on this server', '2026-02-10 12:00:00+00', '2026-02-10 12:00:03.297414+00', 1),
	('a7dff159-4fbe-4ebb-8397-ed867c8ca027', '458ce09b0041', 'place 3 workspaces, record 3 shards in the directory', '2026-02-10 12:00:00+00', '2026-02-10 12:00:03.299175+00', 1),
	('011479b6-1efc-412d-91a4-947c620b55a2', 'd30d7fd4a46d', 'create partition "event_s1_p20260501" and attach it to "event_s1"', '2026-04-05 03:00:00+00', '2026-04-05 03:00:01.187178+00', 1),
	('011479b6-1efc-412d-91a4-947c620b55a2', '69e625523806', 'create partition "event_s1_p20260601" and attach it to "event_s1"', '2026-04-05 03:00:00+00', '2026-04-05 03:00:01.192919+00', 1),
	('011479b6-1efc-412d-91a4-947c620b55a2', '08ee1a5bbf43', 'create partition "parlant_shard_audit_s1_p20260601" and attach it to "parlant_shard_audit_s1"', '2026-04-05 03:00:00+00', '2026-04-05 03:00:01.197316+00', 1),
	('011479b6-1efc-412d-91a4-947c620b55a2', '2e753d301330', 'create partition "parlant_shard_audit_s1_p20260701" and attach it to "parlant_shard_audit_s1"', '2026-04-05 03:00:00+00', '2026-04-05 03:00:01.2043+00', 1),
	('011479b6-1efc-412d-91a4-947c620b55a2', '2fef8b655997', 'drop out-of-window index "event_s1_p20260101_recent_idx" of "event_s1_p20260101" concurrently', '2026-04-05 03:00:00+00', '2026-04-05 03:00:01.206362+00', 1),
	('011479b6-1efc-412d-91a4-947c620b55a2', 'effdcf21725d', 'announce the detach of expired partition "event_s1_p20251101"', '2026-04-05 03:00:00+00', '2026-04-05 03:00:01.209389+00', 1),
	('011479b6-1efc-412d-91a4-947c620b55a2', '1c8badaa1dcf', 'detach expired partition "event_s1_p20251101" of "event_s1" concurrently', '2026-04-05 03:00:00+00', '2026-04-05 03:00:01.217162+00', 1),
	('011479b6-1efc-412d-91a4-947c620b55a2', '11c54dc0886c', 'drop foreign key "event_session_id_fkey_s1" of the detached "event_s1_p20251101", which would hold up whoever deletes from "session_s1"', '2026-04-05 03:00:00+00', '2026-04-05 03:00:01.218474+00', 1),
	('011479b6-1efc-412d-91a4-947c620b55a2', '9fc86e0b4893', 'record that "event_s1_p20251101" is detached', '2026-04-05 03:00:00+00', '2026-04-05 03:00:01.219276+00', 1),
	('011479b6-1efc-412d-91a4-947c620b55a2', '84d63256b87c', 'announce the detach of expired partition "event_s1_p20251201"', '2026-04-05 03:00:00+00', '2026-04-05 03:00:01.221136+00', 1),
	('011479b6-1efc-412d-91a4-947c620b55a2', '7b058b91babb', 'detach expired partition "event_s1_p20251201" of "event_s1" concurrently', '2026-04-05 03:00:00+00', '2026-04-05 03:00:01.225959+00', 1),
	('011479b6-1efc-412d-91a4-947c620b55a2', '01b5570ec035', 'drop foreign key "event_session_id_fkey_s1" of the detached "event_s1_p20251201", which would hold up whoever deletes from "session_s1"', '2026-04-05 03:00:00+00', '2026-04-05 03:00:01.227294+00', 1),
	('011479b6-1efc-412d-91a4-947c620b55a2', 'af3f8d9fc8b0', 'record that "event_s1_p20251201" is detached', '2026-04-05 03:00:00+00', '2026-04-05 03:00:01.227953+00', 1),
	('011479b6-1efc-412d-91a4-947c620b55a2', 'a41b88f51502', 'take statistics of "event_s1" and its partitions', '2026-04-05 03:00:00+00', '2026-04-05 03:00:01.230045+00', 1),
	('011479b6-1efc-412d-91a4-947c620b55a2', 'df884a61ed26', 'take statistics of "parlant_shard_audit_s1" and its partitions', '2026-04-05 03:00:00+00', '2026-04-05 03:00:01.231664+00', 1),
	('6e417353-6ea5-434d-975e-5aa9fd24da7c', '5ee3de030fb0', 'drop out-of-window index "event_s1_p20260201_recent_idx" of "event_s1_p20260201" concurrently', '2026-04-13 03:00:00+00', '2026-04-13 03:00:01.088927+00', 1),
	('6e417353-6ea5-434d-975e-5aa9fd24da7c', '2bad0f1e36b8', 'archive detached partition "event_s1_p20251101" to "archive/", verify the archive, then drop the partition', '2026-04-13 03:00:00+00', '2026-04-13 03:00:01.155176+00', 1),
	('6e417353-6ea5-434d-975e-5aa9fd24da7c', '6b1ceb7604ee', 'archive detached partition "event_s1_p20251201" to "archive/", verify the archive, then drop the partition', '2026-04-13 03:00:00+00', '2026-04-13 03:00:01.201235+00', 1),
	('6e417353-6ea5-434d-975e-5aa9fd24da7c', 'a41b88f51502', 'take statistics of "event_s1" and its partitions', '2026-04-13 03:00:00+00', '2026-04-13 03:00:01.215564+00', 1),
	('6e417353-6ea5-434d-975e-5aa9fd24da7c', 'df884a61ed26', 'take statistics of "parlant_shard_audit_s1" and its partitions', '2026-04-13 03:00:00+00', '2026-04-13 03:00:01.223555+00', 1),
	('91943e60-9af0-43fa-aff5-1e1d2ccaa370', '9943d93d29e1', 'create partition "event_s1_p20260701" and attach it to "event_s1"', '2026-05-02 03:00:00+00', '2026-05-02 03:00:01.215663+00', 1),
	('91943e60-9af0-43fa-aff5-1e1d2ccaa370', '5a1c01b16982', 'create partition "parlant_shard_audit_s1_p20260801" and attach it to "parlant_shard_audit_s1"', '2026-05-02 03:00:00+00', '2026-05-02 03:00:01.226588+00', 1),
	('91943e60-9af0-43fa-aff5-1e1d2ccaa370', 'a7b0031cbf66', 'announce the detach of expired partition "event_s1_p20260101"', '2026-05-02 03:00:00+00', '2026-05-02 03:00:01.229421+00', 1),
	('91943e60-9af0-43fa-aff5-1e1d2ccaa370', 'e9a1fe74910f', 'detach expired partition "event_s1_p20260101" of "event_s1" concurrently', '2026-05-02 03:00:00+00', '2026-05-02 03:00:01.243326+00', 1),
	('91943e60-9af0-43fa-aff5-1e1d2ccaa370', '3109605f909c', 'drop foreign key "event_session_id_fkey_s1" of the detached "event_s1_p20260101", which would hold up whoever deletes from "session_s1"', '2026-05-02 03:00:00+00', '2026-05-02 03:00:01.244809+00', 1),
	('91943e60-9af0-43fa-aff5-1e1d2ccaa370', 'a2bb4b153507', 'record that "event_s1_p20260101" is detached', '2026-05-02 03:00:00+00', '2026-05-02 03:00:01.245593+00', 1),
	('91943e60-9af0-43fa-aff5-1e1d2ccaa370', 'a41b88f51502', 'take statistics of "event_s1" and its partitions', '2026-05-02 03:00:00+00', '2026-05-02 03:00:01.247598+00', 1),
	('91943e60-9af0-43fa-aff5-1e1d2ccaa370', 'df884a61ed26', 'take statistics of "parlant_shard_audit_s1" and its partitions', '2026-05-02 03:00:00+00', '2026-05-02 03:00:01.249195+00', 1);
INSERT INTO public.account VALUES
	('ann', 'Ann', '2026-02-10 12:00:00+00');
INSERT INTO public.agent_s1 VALUES
	('1e638cbb-bc93-2218-3a5e-4ee0ad600b54', 'acme', 'agent 2', NULL),
	('1e08c917-280e-e486-5789-844cefcd1833', 'globex', 'agent 2', NULL),
	('f31b288d-1fb2-8e18-e7d4-a15aef10f530', 'acme', 'agent 1', 'old'),
	('2f0a3cd1-732e-c1a8-71d7-39de42a1f774', 'globex', 'agent 1', 'old');
INSERT INTO public.event_s1_p20260101 VALUES
	('a97fa419-5681-ee67-92ef-cc32715d9033', '9ef3ed23-1cb6-7649-b33a-5a530e2d8d26', 12, '2026-01-01 00:00:00+00', '{"text": "a\\b\n12"}', 'acme'),
	('2fc37337-8e91-84d9-5940-02e65336ed08', '33580ed9-ddf9-f997-481c-23023ef77a1a', 13, '2026-01-06 00:00:00+00', '{"text": "a\\b\n13"}', 'acme'),
	('da0afebc-b256-93b0-be14-ca8998d2fa48', '84ba6e1a-a5cc-23fc-4c72-4c95e1627a48', 14, '2026-01-11 00:00:00+00', '{"text": "a\\b\n14"}', 'acme'),
	('1349b3f8-b0b2-8de7-02c1-2b24159f40a7', '706ab5ec-fc44-40b8-22cd-176f6792fe84', 15, '2026-01-16 00:00:00+00', '{"text": "a\\b\n15"}', 'acme'),
	('8f3f0b9f-1408-0336-1dd9-c5994c75e12f', 'bde01264-d602-a21b-21d4-a30ef81254cd', 16, '2026-01-21 00:00:00+00', '{"text": "a\\b\n16"}', 'acme'),
	('ae86c219-82be-f4ea-2791-279d7bd15f2f', 'a44b522e-96d0-91cb-7ac8-d419ba920bee', 17, '2026-01-26 00:00:00+00', '{"text": "a\\b\n17"}', 'acme'),
	('750a2098-fefe-3f96-cbb7-d70d8f53122c', '9ef3ed23-1cb6-7649-b33a-5a530e2d8d26', 18, '2026-01-31 00:00:00+00', '{"text": "a\\b\n18"}', 'acme'),
	('70337a14-6b6f-654d-23f6-aa36e48fce75', '75a57d1f-6a28-160d-6ed7-a04f4b795c36', 12, '2026-01-01 00:00:00+00', '{"text": "a\\b\n12"}', 'globex'),
	('c6c3b827-1713-a5ad-f34d-97ae896a0dc1', 'ab41a5fc-76a3-ce76-cf3d-daa06c76e8c7', 13, '2026-01-06 00:00:00+00', '{"text": "a\\b\n13"}', 'globex'),
	('eed6088d-d821-d164-4427-e395c875d306', '27e44e08-25fd-f899-b876-84719b570725', 14, '2026-01-11 00:00:00+00', '{"text": "a\\b\n14"}', 'globex'),
	('5bd8b8ec-ba2a-29ef-b7b5-e204f42efab2', 'a2f3ea90-c290-15fd-1553-4edcaa634a6d', 15, '2026-01-16 00:00:00+00', '{"text": "a\\b\n15"}', 'globex'),
	('0daf57d9-1cfe-4476-86fa-4b221d3bc436', '5ac59229-07e5-e90e-b34f-17a265cad575', 16, '2026-01-21 00:00:00+00', '{"text": "a\\b\n16"}', 'globex'),
	('a087b934-e3e5-d328-9432-699f197d90b8', '1500e7fd-64ff-ea88-7a86-ae6488267824', 17, '2026-01-26 00:00:00+00', '{"text": "a\\b\n17"}', 'globex'),
	('7c3194bd-3b1a-7aa3-211b-0172ccb74868', '75a57d1f-6a28-160d-6ed7-a04f4b795c36', 18, '2026-01-31 00:00:00+00', '{"text": "a\\b\n18"}', 'globex');
INSERT INTO public.event_s1_p20260201 VALUES
	('41a05438-5105-a398-3eec-bfc40dc232ee', '33580ed9-ddf9-f997-481c-23023ef77a1a', 19, '2026-02-05 00:00:00+00', '{"text": "a\\b\n19"}', 'acme'),
	('83d0048b-67a4-aa89-97a9-596535e3f337', '84ba6e1a-a5cc-23fc-4c72-4c95e1627a48', 20, '2026-02-10 00:00:00+00', '{"text": "a\\b\n20"}', 'acme'),
	('78819aa7-9189-5f26-a4d5-4a6645cb4b5b', '706ab5ec-fc44-40b8-22cd-176f6792fe84', 21, '2026-02-15 00:00:00+00', '{"text": "a\\b\n21"}', 'acme'),
	('fecc367f-5c57-6711-3ddb-2cca9e427e66', 'bde01264-d602-a21b-21d4-a30ef81254cd', 22, '2026-02-20 00:00:00+00', '{"text": "a\\b\n22"}', 'acme'),
	('9c76a7d1-0f5c-b030-6186-85b0da03efbc', 'a44b522e-96d0-91cb-7ac8-d419ba920bee', 23, '2026-02-25 00:00:00+00', '{"text": "a\\b\n23"}', 'acme'),
	('10922e5b-a11b-568e-a350-a5eb0430b303', 'ab41a5fc-76a3-ce76-cf3d-daa06c76e8c7', 19, '2026-02-05 00:00:00+00', '{"text": "a\\b\n19"}', 'globex'),
	('c16fdda2-b892-0333-d3db-38642010695e', '27e44e08-25fd-f899-b876-84719b570725', 20, '2026-02-10 00:00:00+00', '{"text": "a\\b\n20"}', 'globex'),
	('6b26c539-251f-596a-f133-2359cf1fbc7d', 'a2f3ea90-c290-15fd-1553-4edcaa634a6d', 21, '2026-02-15 00:00:00+00', '{"text": "a\\b\n21"}', 'globex'),
	('e62d2295-843f-900a-36cd-a8a0edd7eca8', '5ac59229-07e5-e90e-b34f-17a265cad575', 22, '2026-02-20 00:00:00+00', '{"text": "a\\b\n22"}', 'globex'),
	('02d0f6b7-cd5e-c383-8bc6-1b60de41cef1', '1500e7fd-64ff-ea88-7a86-ae6488267824', 23, '2026-02-25 00:00:00+00', '{"text": "a\\b\n23"}', 'globex');
INSERT INTO public.event_s1_p20260301 VALUES
	('87f57f89-62d6-583a-1787-2903e69afa05', '9ef3ed23-1cb6-7649-b33a-5a530e2d8d26', 24, '2026-03-02 00:00:00+00', '{"text": "a\\b\n24"}', 'acme'),
	('8de6e8bd-0ebd-a1ca-ebe4-b6439afaed86', '33580ed9-ddf9-f997-481c-23023ef77a1a', 25, '2026-03-07 00:00:00+00', '{"text": "a\\b\n25"}', 'acme'),
	('93f5afcb-7d54-b414-2e94-712584b88c16', '84ba6e1a-a5cc-23fc-4c72-4c95e1627a48', 26, '2026-03-12 00:00:00+00', '{"text": "a\\b\n26"}', 'acme'),
	('c88f1af5-e71d-d1bc-4f89-d0166cdcb384', '706ab5ec-fc44-40b8-22cd-176f6792fe84', 27, '2026-03-17 00:00:00+00', '{"text": "a\\b\n27"}', 'acme'),
	('14cf84a0-842f-01c7-65cc-8b66860d3d91', 'bde01264-d602-a21b-21d4-a30ef81254cd', 28, '2026-03-22 00:00:00+00', '{"text": "a\\b\n28"}', 'acme'),
	('8adc7e70-8f23-4696-2b0e-1191c1f1af04', 'a44b522e-96d0-91cb-7ac8-d419ba920bee', 29, '2026-03-27 00:00:00+00', '{"text": "a\\b\n29"}', 'acme'),
	('8610f1ec-27b8-3e7c-72c0-97040a562339', '75a57d1f-6a28-160d-6ed7-a04f4b795c36', 24, '2026-03-02 00:00:00+00', '{"text": "a\\b\n24"}', 'globex'),
	('58fa5963-45ad-d47e-ecd5-ac4d58347a09', 'ab41a5fc-76a3-ce76-cf3d-daa06c76e8c7', 25, '2026-03-07 00:00:00+00', '{"text": "a\\b\n25"}', 'globex'),
	('21f39628-51ee-46ca-b389-17a29ea2ac16', '27e44e08-25fd-f899-b876-84719b570725', 26, '2026-03-12 00:00:00+00', '{"text": "a\\b\n26"}', 'globex'),
	('05eba832-7644-d418-6094-dcee570129bc', 'a2f3ea90-c290-15fd-1553-4edcaa634a6d', 27, '2026-03-17 00:00:00+00', '{"text": "a\\b\n27"}', 'globex'),
	('a39abefc-5e54-efb1-875e-df0bcf98f442', '5ac59229-07e5-e90e-b34f-17a265cad575', 28, '2026-03-22 00:00:00+00', '{"text": "a\\b\n28"}', 'globex'),
	('0dbfc5c2-0a7a-2cdd-82fa-17f0d763f2da', '1500e7fd-64ff-ea88-7a86-ae6488267824', 29, '2026-03-27 00:00:00+00', '{"text": "a\\b\n29"}', 'globex');
INSERT INTO public.event_s1_p20260401 VALUES
	('62f3d487-152e-c344-325a-02f4e5f2d46d', '9ef3ed23-1cb6-7649-b33a-5a530e2d8d26', 30, '2026-04-01 00:00:00+00', '{"text": "a\\b\n30"}', 'acme'),
	('e0e185d4-3e44-9c70-3572-02518571f766', '33580ed9-ddf9-f997-481c-23023ef77a1a', 31, '2026-04-06 00:00:00+00', '{"text": "a\\b\n31"}', 'acme'),
	('88570e61-9a4b-6dab-24ce-4f7239dcaab2', '84ba6e1a-a5cc-23fc-4c72-4c95e1627a48', 32, '2026-04-11 00:00:00+00', '{"text": "a\\b\n32"}', 'acme'),
	('e116a13b-116e-606e-c82e-5480e2301e65', '706ab5ec-fc44-40b8-22cd-176f6792fe84', 33, '2026-04-16 00:00:00+00', '{"text": "a\\b\n33"}', 'acme'),
	('5d425045-b0d2-580c-7f60-e047119cf8af', '75a57d1f-6a28-160d-6ed7-a04f4b795c36', 30, '2026-04-01 00:00:00+00', '{"text": "a\\b\n30"}', 'globex'),
	('4df4dd5a-187d-0507-0ff5-d5f42767a0e7', 'ab41a5fc-76a3-ce76-cf3d-daa06c76e8c7', 31, '2026-04-06 00:00:00+00', '{"text": "a\\b\n31"}', 'globex'),
	('31f94e6a-400d-ca4c-d511-6ef4903247c6', '27e44e08-25fd-f899-b876-84719b570725', 32, '2026-04-11 00:00:00+00', '{"text": "a\\b\n32"}', 'globex'),
	('c161d19f-cd7f-fadc-50be-eb5c1ba1de29', 'a2f3ea90-c290-15fd-1553-4edcaa634a6d', 33, '2026-04-16 00:00:00+00', '{"text": "a\\b\n33"}', 'globex');
INSERT INTO public.parlant_shard_audit_s1_p20260201 VALUES
	('2026-02-10 12:00:03.510254+00', '786', 'acme', 'agent', 'INSERT', '{"id": "f31b288d-1fb2-8e18-e7d4-a15aef10f530"}', NULL, 'postgres', NULL),
	('2026-02-10 12:00:03.510603+00', '786', 'acme', 'agent', 'INSERT', '{"id": "1e638cbb-bc93-2218-3a5e-4ee0ad600b54"}', NULL, 'postgres', NULL),
	('2026-02-10 12:00:03.524305+00', '789', 'acme', 'agent', 'UPDATE', '{"id": "f31b288d-1fb2-8e18-e7d4-a15aef10f530"}', '{note}', 'postgres', NULL),
	('2026-02-10 12:00:03.540311+00', '790', 'globex', 'agent', 'INSERT', '{"id": "2f0a3cd1-732e-c1a8-71d7-39de42a1f774"}', NULL, 'postgres', NULL),
	('2026-02-10 12:00:03.540391+00', '790', 'globex', 'agent', 'INSERT', '{"id": "1e08c917-280e-e486-5789-844cefcd1833"}', NULL, 'postgres', NULL),
	('2026-02-10 12:00:03.554843+00', '793', 'globex', 'agent', 'UPDATE', '{"id": "2f0a3cd1-732e-c1a8-71d7-39de42a1f774"}', '{note}', 'postgres', NULL);
INSERT INTO public.session_s1 VALUES
	('9ef3ed23-1cb6-7649-b33a-5a530e2d8d26', '1e638cbb-bc93-2218-3a5e-4ee0ad600b54', 'žluťoučký	1', 'calm', DEFAULT, '2025-11-02 00:00:00+00', 'acme'),
	('33580ed9-ddf9-f997-481c-23023ef77a1a', 'f31b288d-1fb2-8e18-e7d4-a15aef10f530', 'žluťoučký	2', 'calm', DEFAULT, '2025-11-03 00:00:00+00', 'acme'),
	('84ba6e1a-a5cc-23fc-4c72-4c95e1627a48', '1e638cbb-bc93-2218-3a5e-4ee0ad600b54', 'žluťoučký	3', 'it''s "odd"', DEFAULT, '2025-11-04 00:00:00+00', 'acme'),
	('706ab5ec-fc44-40b8-22cd-176f6792fe84', 'f31b288d-1fb2-8e18-e7d4-a15aef10f530', 'žluťoučký	4', 'calm', DEFAULT, '2025-11-05 00:00:00+00', 'acme'),
	('bde01264-d602-a21b-21d4-a30ef81254cd', '1e638cbb-bc93-2218-3a5e-4ee0ad600b54', 'žluťoučký	5', 'calm', DEFAULT, '2025-11-06 00:00:00+00', 'acme'),
	('a44b522e-96d0-91cb-7ac8-d419ba920bee', 'f31b288d-1fb2-8e18-e7d4-a15aef10f530', 'žluťoučký	6', 'calm', DEFAULT, '2025-11-07 00:00:00+00', 'acme'),
	('75a57d1f-6a28-160d-6ed7-a04f4b795c36', '1e08c917-280e-e486-5789-844cefcd1833', 'žluťoučký	1', 'calm', DEFAULT, '2025-11-02 00:00:00+00', 'globex'),
	('ab41a5fc-76a3-ce76-cf3d-daa06c76e8c7', '2f0a3cd1-732e-c1a8-71d7-39de42a1f774', 'žluťoučký	2', 'calm', DEFAULT, '2025-11-03 00:00:00+00', 'globex'),
	('27e44e08-25fd-f899-b876-84719b570725', '1e08c917-280e-e486-5789-844cefcd1833', 'žluťoučký	3', 'it''s "odd"', DEFAULT, '2025-11-04 00:00:00+00', 'globex'),
	('a2f3ea90-c290-15fd-1553-4edcaa634a6d', '2f0a3cd1-732e-c1a8-71d7-39de42a1f774', 'žluťoučký	4', 'calm', DEFAULT, '2025-11-05 00:00:00+00', 'globex'),
	('5ac59229-07e5-e90e-b34f-17a265cad575', '1e08c917-280e-e486-5789-844cefcd1833', 'žluťoučký	5', 'calm', DEFAULT, '2025-11-06 00:00:00+00', 'globex'),
	('1500e7fd-64ff-ea88-7a86-ae6488267824', '2f0a3cd1-732e-c1a8-71d7-39de42a1f774', 'žluťoučký	6', 'calm', DEFAULT, '2025-11-07 00:00:00+00', 'globex');
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
ALTER TABLE ONLY public.agent_s1
    ADD CONSTRAINT agent_pkey_s1 PRIMARY KEY (id);
ALTER TABLE ONLY public.agent_s1
    ADD CONSTRAINT agent_workspace_id_id_key_s1 UNIQUE (workspace_id, id);
ALTER TABLE ONLY public.agent_s1
    ADD CONSTRAINT agent_workspace_id_name_key_s1 UNIQUE (workspace_id, name);
ALTER TABLE ONLY public.event_s1_p20260101
    ADD CONSTRAINT event_s1_p20260101_pkey PRIMARY KEY (id);
ALTER TABLE ONLY public.event_s1_p20260201
    ADD CONSTRAINT event_s1_p20260201_pkey PRIMARY KEY (id);
ALTER TABLE ONLY public.event_s1_p20260301
    ADD CONSTRAINT event_s1_p20260301_pkey PRIMARY KEY (id);
ALTER TABLE ONLY public.event_s1_p20260401
    ADD CONSTRAINT event_s1_p20260401_pkey PRIMARY KEY (id);
ALTER TABLE ONLY public.event_s1_p20260501
    ADD CONSTRAINT event_s1_p20260501_pkey PRIMARY KEY (id);
ALTER TABLE ONLY public.event_s1_p20260601
    ADD CONSTRAINT event_s1_p20260601_pkey PRIMARY KEY (id);
ALTER TABLE ONLY public.event_s1_p20260701
    ADD CONSTRAINT event_s1_p20260701_pkey PRIMARY KEY (id);
ALTER TABLE ONLY public.session_s1
    ADD CONSTRAINT session_pkey_s1 PRIMARY KEY (id);
ALTER TABLE ONLY public.session_s1
    ADD CONSTRAINT session_workspace_id_id_key_s1 UNIQUE (workspace_id, id);
ALTER TABLE ONLY public.workspace
    ADD CONSTRAINT workspace_pkey PRIMARY KEY (id);
CREATE INDEX audit_topology_idx ON parlant_shard.audit USING btree (topology, id DESC);
CREATE INDEX run_started_at_idx ON parlant_shard.run USING btree (topology, started_at DESC);
CREATE INDEX event_s1_p20260101_session_idx ON public.event_s1_p20260101 USING btree (session_id, created_at);
CREATE INDEX event_session_idx_s1 ON ONLY public.event_s1 USING btree (session_id, created_at);
CREATE INDEX event_s1_p20260201_session_idx ON public.event_s1_p20260201 USING btree (session_id, created_at);
CREATE INDEX event_s1_p20260301_recent_idx ON public.event_s1_p20260301 USING btree (created_at DESC);
CREATE INDEX event_s1_p20260301_session_idx ON public.event_s1_p20260301 USING btree (session_id, created_at);
CREATE INDEX event_s1_p20260401_recent_idx ON public.event_s1_p20260401 USING btree (created_at DESC);
CREATE INDEX event_s1_p20260401_session_idx ON public.event_s1_p20260401 USING btree (session_id, created_at);
CREATE INDEX event_s1_p20260501_recent_idx ON public.event_s1_p20260501 USING btree (created_at DESC);
CREATE INDEX event_s1_p20260501_session_idx ON public.event_s1_p20260501 USING btree (session_id, created_at);
CREATE INDEX event_s1_p20260601_recent_idx ON public.event_s1_p20260601 USING btree (created_at DESC);
CREATE INDEX event_s1_p20260601_session_idx ON public.event_s1_p20260601 USING btree (session_id, created_at);
CREATE INDEX event_s1_p20260701_recent_idx ON public.event_s1_p20260701 USING btree (created_at DESC);
CREATE INDEX event_s1_p20260701_session_idx ON public.event_s1_p20260701 USING btree (session_id, created_at);
CREATE INDEX parlant_shard_audit_key_idx_s1 ON ONLY public.parlant_shard_audit_s1 USING btree (workspace_id, at);
CREATE INDEX parlant_shard_audit_s1_p20260201_key_idx ON public.parlant_shard_audit_s1_p20260201 USING btree (workspace_id, at);
CREATE INDEX parlant_shard_audit_s1_p20260301_key_idx ON public.parlant_shard_audit_s1_p20260301 USING btree (workspace_id, at);
CREATE INDEX parlant_shard_audit_s1_p20260401_key_idx ON public.parlant_shard_audit_s1_p20260401 USING btree (workspace_id, at);
CREATE INDEX parlant_shard_audit_s1_p20260501_key_idx ON public.parlant_shard_audit_s1_p20260501 USING btree (workspace_id, at);
CREATE INDEX parlant_shard_audit_s1_p20260601_key_idx ON public.parlant_shard_audit_s1_p20260601 USING btree (workspace_id, at);
CREATE INDEX parlant_shard_audit_s1_p20260701_key_idx ON public.parlant_shard_audit_s1_p20260701 USING btree (workspace_id, at);
CREATE INDEX parlant_shard_audit_s1_p20260801_key_idx ON public.parlant_shard_audit_s1_p20260801 USING btree (workspace_id, at);
CREATE INDEX session_agent_idx_s1 ON public.session_s1 USING btree (agent_id, started_at DESC);
ALTER INDEX public.event_session_idx_s1 ATTACH PARTITION public.event_s1_p20260201_session_idx;
ALTER INDEX public.event_session_idx_s1 ATTACH PARTITION public.event_s1_p20260301_session_idx;
ALTER INDEX public.event_session_idx_s1 ATTACH PARTITION public.event_s1_p20260401_session_idx;
ALTER INDEX public.event_session_idx_s1 ATTACH PARTITION public.event_s1_p20260501_session_idx;
ALTER INDEX public.event_session_idx_s1 ATTACH PARTITION public.event_s1_p20260601_session_idx;
ALTER INDEX public.event_session_idx_s1 ATTACH PARTITION public.event_s1_p20260701_session_idx;
ALTER INDEX public.parlant_shard_audit_key_idx_s1 ATTACH PARTITION public.parlant_shard_audit_s1_p20260201_key_idx;
ALTER INDEX public.parlant_shard_audit_key_idx_s1 ATTACH PARTITION public.parlant_shard_audit_s1_p20260301_key_idx;
ALTER INDEX public.parlant_shard_audit_key_idx_s1 ATTACH PARTITION public.parlant_shard_audit_s1_p20260401_key_idx;
ALTER INDEX public.parlant_shard_audit_key_idx_s1 ATTACH PARTITION public.parlant_shard_audit_s1_p20260501_key_idx;
ALTER INDEX public.parlant_shard_audit_key_idx_s1 ATTACH PARTITION public.parlant_shard_audit_s1_p20260601_key_idx;
ALTER INDEX public.parlant_shard_audit_key_idx_s1 ATTACH PARTITION public.parlant_shard_audit_s1_p20260701_key_idx;
ALTER INDEX public.parlant_shard_audit_key_idx_s1 ATTACH PARTITION public.parlant_shard_audit_s1_p20260801_key_idx;
CREATE TRIGGER audit_append BEFORE INSERT ON parlant_shard.audit FOR EACH ROW EXECUTE FUNCTION parlant_shard.audit_append();
ALTER TABLE parlant_shard.audit ENABLE ALWAYS TRIGGER audit_append;
CREATE TRIGGER audit_refuse BEFORE DELETE OR UPDATE OR TRUNCATE ON parlant_shard.audit FOR EACH STATEMENT EXECUTE FUNCTION parlant_shard.audit_refuse();
ALTER TABLE parlant_shard.audit ENABLE ALWAYS TRIGGER audit_refuse;
CREATE TRIGGER parlant_shard_audit_delete AFTER DELETE ON public.agent_s1 REFERENCING OLD TABLE AS old_rows FOR EACH STATEMENT EXECUTE FUNCTION parlant_shard.row_audit_agent_s1();
CREATE TRIGGER parlant_shard_audit_insert AFTER INSERT ON public.agent_s1 REFERENCING NEW TABLE AS new_rows FOR EACH STATEMENT EXECUTE FUNCTION parlant_shard.row_audit_agent_s1();
CREATE TRIGGER parlant_shard_audit_update AFTER UPDATE ON public.agent_s1 REFERENCING OLD TABLE AS old_rows NEW TABLE AS new_rows FOR EACH STATEMENT EXECUTE FUNCTION parlant_shard.row_audit_agent_s1();
CREATE TRIGGER parlant_shard_no_truncate BEFORE TRUNCATE ON public.account FOR EACH STATEMENT EXECUTE FUNCTION parlant_shard.refuse_truncate();
CREATE TRIGGER parlant_shard_no_truncate BEFORE TRUNCATE ON public.workspace FOR EACH STATEMENT EXECUTE FUNCTION parlant_shard.refuse_truncate();
ALTER TABLE ONLY public.agent_s1
    ADD CONSTRAINT agent_workspace_id_fkey_s1 FOREIGN KEY (workspace_id) REFERENCES public.workspace(id);
ALTER TABLE public.event_s1
    ADD CONSTRAINT event_session_id_fkey_s1 FOREIGN KEY (workspace_id, session_id) REFERENCES public.session_s1(workspace_id, id) ON DELETE CASCADE;
ALTER TABLE ONLY public.session_s1
    ADD CONSTRAINT session_agent_id_fkey_s1 FOREIGN KEY (workspace_id, agent_id) REFERENCES public.agent_s1(workspace_id, id) ON DELETE CASCADE;
ALTER TABLE ONLY public.workspace
    ADD CONSTRAINT workspace_owner_id_fkey FOREIGN KEY (owner_id) REFERENCES public.account(id);
ALTER TABLE public.parlant_shard_audit_s1 ENABLE ROW LEVEL SECURITY;
ALTER TABLE public.parlant_shard_audit_s1_p20260201 ENABLE ROW LEVEL SECURITY;
ALTER TABLE public.parlant_shard_audit_s1_p20260301 ENABLE ROW LEVEL SECURITY;
ALTER TABLE public.parlant_shard_audit_s1_p20260401 ENABLE ROW LEVEL SECURITY;
ALTER TABLE public.parlant_shard_audit_s1_p20260501 ENABLE ROW LEVEL SECURITY;
ALTER TABLE public.parlant_shard_audit_s1_p20260601 ENABLE ROW LEVEL SECURITY;
ALTER TABLE public.parlant_shard_audit_s1_p20260701 ENABLE ROW LEVEL SECURITY;
ALTER TABLE public.parlant_shard_audit_s1_p20260801 ENABLE ROW LEVEL SECURITY;
CREATE PUBLICATION parlant_shard_released WITH (publish = 'insert, update, delete');
ALTER PUBLICATION parlant_shard_released ADD TABLE ONLY public.account (id, name, created_at);
ALTER PUBLICATION parlant_shard_released ADD TABLE ONLY public.workspace (id, owner_id, name);
REVOKE ALL ON FUNCTION parlant_shard.audit_append() FROM PUBLIC;
REVOKE ALL ON FUNCTION parlant_shard.audit_refuse() FROM PUBLIC;
REVOKE ALL ON TABLE parlant_shard.audit FROM CURRENT_USER;
GRANT SELECT,INSERT,REFERENCES,TRIGGER ON TABLE parlant_shard.audit TO CURRENT_USER;
