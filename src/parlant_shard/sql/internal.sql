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

-- name: upgrade_3
-- From version 3 to 4: keys of reference tables that are sealed, and what was last seen of each copy.
ALTER TABLE parlant_shard.object DROP CONSTRAINT object_kind_check;
ALTER TABLE parlant_shard.object ADD CONSTRAINT object_kind_check CHECK (kind IN ('table', 'view', 'key', 'seal'));
CREATE TABLE parlant_shard.copy (
  topology text NOT NULL,
  server text NOT NULL,
  generation bigint NOT NULL DEFAULT 1,
  system_identifier text,
  timeline int,
  confirmed pg_lsn,
  replayed pg_lsn,
  transactions bigint,
  seen_at timestamptz,
  compared_at timestamptz,
  sealed_from pg_lsn,
  PRIMARY KEY (topology, server)
);
COMMENT ON TABLE parlant_shard.copy IS 'What was last seen of the copies of reference tables: on the coordinator of each, on a server of its own. A repair makes a new generation.';
CREATE TABLE parlant_shard.sealed (
  tab text NOT NULL,
  key jsonb NOT NULL,
  pending int NOT NULL DEFAULT 1,
  at timestamptz NOT NULL DEFAULT clock_timestamp(),
  PRIMARY KEY (tab, key)
);
COMMENT ON TABLE parlant_shard.sealed IS 'Keys of reference tables that no new row may refer to: the coordinator deletes them. pending counts the deletions that replication has not brought yet.';
CREATE TABLE parlant_shard.seal (
  tab text NOT NULL,
  keys jsonb NOT NULL
);
COMMENT ON TABLE parlant_shard.seal IS 'Stays empty: an insert by the coordinator seals keys, or is refused because a row uses one.';
CREATE FUNCTION parlant_shard.key_columns(columns text[], prefix text) RETURNS text
  LANGUAGE plpgsql IMMUTABLE SET search_path = pg_catalog, pg_temp
  AS $$
BEGIN
  -- Not in SQL, which would plan the query anew with every call.
  RETURN (SELECT string_agg(prefix || quote_ident(c.name), ', ' ORDER BY c.place)
            FROM unnest(columns) WITH ORDINALITY AS c(name, place));
END
$$;
CREATE FUNCTION parlant_shard.key_equals(relation regclass, columns text[], one text, other text) RETURNS text
  LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp
  AS $$
DECLARE
  wanted text;
  terms text[] := '{}';
  operator_schema name;
  operator_name name;
BEGIN
  FOREACH wanted IN ARRAY columns LOOP
    SELECT 'pg_catalog', '=' INTO operator_schema, operator_name
      FROM pg_attribute a JOIN pg_type t ON t.oid = a.atttypid AND t.typnamespace = 'pg_catalog'::regnamespace
     WHERE a.attrelid = relation AND a.attname = wanted;
    IF NOT FOUND THEN
      -- The operator of the type's own index, wherever that is: citext's is not in pg_catalog.
      SELECT n.nspname, o.oprname INTO STRICT operator_schema, operator_name
        FROM pg_attribute a
        JOIN pg_index i ON i.indrelid = a.attrelid AND i.indisunique AND i.indpred IS NULL
        CROSS JOIN LATERAL unnest(i.indkey::int2[], i.indclass::oid[]) AS k(num, class)
        JOIN pg_opclass p ON p.oid = k.class
        JOIN pg_am m ON m.oid = p.opcmethod AND m.amname = 'btree'
        JOIN pg_amop s ON s.amopfamily = p.opcfamily AND s.amopstrategy = 3 AND s.amoplefttype = p.opcintype
                      AND s.amoprighttype = p.opcintype
        JOIN pg_operator o ON o.oid = s.amopopr
        JOIN pg_namespace n ON n.oid = o.oprnamespace
       WHERE a.attrelid = relation AND a.attname = wanted AND k.num = a.attnum
       LIMIT 1;
    END IF;
    terms := terms || format('%1$s%2$I OPERATOR(%3$I.%4$s) %5$s%2$I', one, wanted, operator_schema, operator_name, other);
  END LOOP;
  RETURN array_to_string(terms, ' AND ');
END
$$;
CREATE FUNCTION parlant_shard.seal_keys() RETURNS trigger
  LANGUAGE plpgsql SECURITY DEFINER
  SET search_path = pg_catalog, pg_temp SET lock_timeout = '5s' SET "TimeZone" = 'UTC'
  SET extra_float_digits = 1 SET "IntervalStyle" = 'postgres' SET bytea_output = 'hex' SET lc_monetary = 'C'
  AS $$
DECLARE
  relation regclass;
  columns text[];
  asked jsonb;
  done jsonb;
  rest jsonb;
  found_text text;
  found_detail text;
  found_table text;
  found_schema text;
  found_constraint text;
BEGIN
  SELECT c.oid, array_agg(a.attname::text ORDER BY a.attnum) INTO relation, columns
    FROM parlant_shard.object o
    JOIN pg_class c ON c.oid = to_regclass(o.name)
    JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
   WHERE o.kind = 'key' AND o.name = NEW.tab GROUP BY c.oid;
  IF relation IS NULL THEN
    RAISE object_not_in_prerequisite_state USING MESSAGE = format('this server keeps no key table %s', NEW.tab);
  END IF;
  -- What is deferrable is checked now: at the commit of this session the coordinator has decided.
  SET CONSTRAINTS ALL IMMEDIATE;
  -- Locked in one order; who holds a key is waited for.
  EXECUTE format('SELECT FROM %1$s k JOIN jsonb_populate_recordset(NULL::%1$s, $1) a ON %2$s ORDER BY %3$s FOR UPDATE OF k',
                 relation, parlant_shard.key_equals(relation, columns, 'k.', 'a.'), parlant_shard.key_columns(columns, 'k.'))
    USING NEW.keys;
  BEGIN
    EXECUTE format('WITH gone AS (DELETE FROM %1$s k USING jsonb_populate_recordset(NULL::%1$s, $1) a WHERE %2$s '
                   'RETURNING to_jsonb(a.*) AS asked, to_jsonb(k.*) AS key) '
                   'SELECT coalesce(jsonb_agg(asked), ''[]''), coalesce(jsonb_agg(key), ''[]'') FROM gone',
                   relation, parlant_shard.key_equals(relation, columns, 'k.', 'a.'))
      INTO asked, done USING NEW.keys;
  EXCEPTION WHEN foreign_key_violation OR restrict_violation THEN
    GET STACKED DIAGNOSTICS found_text = MESSAGE_TEXT, found_detail = PG_EXCEPTION_DETAIL, found_table = TABLE_NAME,
                            found_schema = SCHEMA_NAME, found_constraint = CONSTRAINT_NAME;
    -- postgres_fdw passes on the texts alone: the coordinator reads the names from the hint.
    RAISE foreign_key_violation USING MESSAGE = found_text, DETAIL = found_detail,
      HINT = jsonb_build_object('schema', found_schema, 'table', found_table, 'constraint', found_constraint)::text;
  END;
  -- This server is behind: keys that were deleted, added again and are deleted once more.
  EXECUTE format('SELECT coalesce(jsonb_agg(x.key), ''[]'') FROM (SELECT to_jsonb(a.*) AS key FROM jsonb_populate_recordset(NULL::%s, $1) a '
                 'EXCEPT SELECT jsonb_array_elements($2)) x', relation)
    INTO rest USING NEW.keys, asked;
  PERFORM FROM parlant_shard.sealed s
    WHERE s.tab = NEW.tab AND s.key IN (SELECT jsonb_array_elements(rest)) ORDER BY s.key FOR UPDATE;
  WITH again AS (
    UPDATE parlant_shard.sealed s SET pending = s.pending + 1, at = clock_timestamp()
     WHERE s.tab = NEW.tab AND s.key IN (SELECT jsonb_array_elements(rest)) RETURNING s.key)
  SELECT coalesce(jsonb_agg(x.key), '[]') INTO rest
    FROM jsonb_array_elements(rest) AS x(key) WHERE NOT EXISTS (SELECT FROM again WHERE again.key = x.key);
  IF rest <> '[]' THEN
    -- Not here yet: sealed in advance, so that it is not admitted when it arrives. That it is not here has to be
    -- certain, and this session may have an old snapshot: the index knows, and holds up whoever brings the key.
    BEGIN
      EXECUTE format('INSERT INTO %1$s SELECT * FROM jsonb_populate_recordset(NULL::%1$s, $1)', relation) USING rest;
    EXCEPTION WHEN unique_violation THEN
      RAISE serialization_failure USING
        MESSAGE = format('a row of %s arrived in this moment', split_part(NEW.tab, '.', 2));
    END;
    EXECUTE format('DELETE FROM %1$s k USING jsonb_populate_recordset(NULL::%1$s, $1) a WHERE %2$s',
                   relation, parlant_shard.key_equals(relation, columns, 'k.', 'a.')) USING rest;
    done := done || rest;
  END IF;
  INSERT INTO parlant_shard.sealed (tab, key) SELECT NEW.tab, jsonb_array_elements(done)
    ON CONFLICT (tab, key) DO UPDATE SET pending = sealed.pending + 1, at = clock_timestamp();
  RETURN NULL;
END
$$;
CREATE TRIGGER seal_keys BEFORE INSERT ON parlant_shard.seal FOR EACH ROW EXECUTE FUNCTION parlant_shard.seal_keys();
CREATE FUNCTION parlant_shard.admit_key() RETURNS trigger
  LANGUAGE plpgsql SECURITY DEFINER
  SET search_path = pg_catalog, pg_temp SET "TimeZone" = 'UTC'
  SET extra_float_digits = 1 SET "IntervalStyle" = 'postgres' SET bytea_output = 'hex' SET lc_monetary = 'C'
  AS $$
DECLARE
  relation regclass := TG_ARGV[0];
  columns text[] := TG_ARGV[1];
  own text := parlant_shard.key_columns(columns, '($1).');
  old_key jsonb;
  new_key jsonb;
  left_over int;
  changed int := 0;
BEGIN
  -- Only for what replication applies: the copy's guard refuses writes by hand, and a repair fills the key table itself.
  IF current_setting('session_replication_role') <> 'replica' THEN
    RETURN NULL;
  END IF;
  IF TG_OP <> 'INSERT' THEN
    EXECUTE 'SELECT to_jsonb(k.*) FROM (SELECT ' || own || ') k' INTO old_key USING OLD;
    IF jsonb_path_exists(old_key, '$.* ? (@ == null)') THEN old_key := NULL; END IF;
  END IF;
  IF TG_OP <> 'DELETE' THEN
    EXECUTE 'SELECT to_jsonb(k.*) FROM (SELECT ' || own || ') k' INTO new_key USING NEW;
    IF jsonb_path_exists(new_key, '$.* ? (@ == null)') THEN new_key := NULL; END IF;
  END IF;
  IF old_key IS NOT DISTINCT FROM new_key THEN
    RETURN NULL;
  END IF;
  IF old_key IS NOT NULL THEN
    UPDATE parlant_shard.sealed s SET pending = s.pending - 1 WHERE s.tab = TG_ARGV[0] AND s.key = old_key
      RETURNING s.pending INTO left_over;
    IF left_over <= 0 THEN
      DELETE FROM parlant_shard.sealed s WHERE s.tab = TG_ARGV[0] AND s.key = old_key;
    END IF;
  END IF;
  IF old_key IS NOT NULL AND new_key IS NOT NULL THEN
    -- In place: whoever waits for the row then finds its new key.
    EXECUTE format('UPDATE %1$s k SET (%2$s) = ROW(%3$s) WHERE %4$s AND NOT EXISTS (SELECT FROM %1$s x WHERE %5$s)',
                   relation, parlant_shard.key_columns(columns, ''), parlant_shard.key_columns(columns, '($2).'),
                   parlant_shard.key_equals(relation, columns, 'k.', '($1).'),
                   parlant_shard.key_equals(relation, columns, 'x.', '($2).')
                   || ' AND NOT (' || parlant_shard.key_equals(relation, columns, 'x.', '($1).') || ')')
      USING OLD, NEW;
    GET DIAGNOSTICS changed = ROW_COUNT;
  END IF;
  IF old_key IS NOT NULL AND changed = 0 THEN
    EXECUTE format('DELETE FROM %s k WHERE %s', relation, parlant_shard.key_equals(relation, columns, 'k.', '($1).'))
      USING OLD;
  END IF;
  IF new_key IS NOT NULL THEN
    IF changed = 0 THEN
      EXECUTE format('INSERT INTO %s (%s) SELECT %s ON CONFLICT DO NOTHING', relation,
                     parlant_shard.key_columns(columns, ''), own) USING NEW;
    END IF;
    -- Only now: who seals the key in advance was waited for, and has committed.
    IF EXISTS (SELECT FROM parlant_shard.sealed s WHERE s.tab = TG_ARGV[0] AND s.key = new_key) THEN
      EXECUTE format('DELETE FROM %s k WHERE %s', relation, parlant_shard.key_equals(relation, columns, 'k.', '($1).'))
        USING NEW;
    END IF;
  END IF;
  RETURN NULL;
END
$$;
CREATE FUNCTION parlant_shard.send_seals(tab text, keys jsonb, servers text[], foreign_tables text[]) RETURNS void
  LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
  AS $$
DECLARE
  found_text text;
  found_detail text;
  found_hint text;
  about jsonb;
BEGIN
  FOR place IN 1 .. cardinality(servers) LOOP
    BEGIN
      EXECUTE format('INSERT INTO parlant_shard.%I (tab, keys) VALUES ($1, $2)', foreign_tables[place]) USING tab, keys;
    EXCEPTION
      WHEN foreign_key_violation THEN
        GET STACKED DIAGNOSTICS found_text = MESSAGE_TEXT, found_detail = PG_EXCEPTION_DETAIL, found_hint = PG_EXCEPTION_HINT;
        about := found_hint;
        RAISE foreign_key_violation USING MESSAGE = found_text, DETAIL = found_detail,
          HINT = format('the rows are on server "%s": delete them or point them at another row first', servers[place]),
          SCHEMA = about ->> 'schema', TABLE = about ->> 'table', CONSTRAINT = about ->> 'constraint';
      WHEN serialization_failure THEN
        GET STACKED DIAGNOSTICS found_text = MESSAGE_TEXT;
        RAISE serialization_failure USING MESSAGE = format('server "%s": %s', servers[place], found_text),
          HINT = 'try the transaction again; if that does not help, look at `parlant-shard status`';
      WHEN lock_not_available THEN
        GET STACKED DIAGNOSTICS found_text = MESSAGE_TEXT;
        RAISE lock_not_available USING MESSAGE = format('server "%s": %s', servers[place], found_text),
          HINT = 'an open transaction there uses the key; try again when it has ended';
      WHEN sqlclient_unable_to_establish_sqlconnection OR connection_failure THEN
        GET STACKED DIAGNOSTICS found_text = MESSAGE_TEXT, found_detail = PG_EXCEPTION_DETAIL;
        RAISE sqlclient_unable_to_establish_sqlconnection USING MESSAGE = format('server "%s": %s', servers[place], found_text),
          DETAIL = found_detail,
          HINT = 'rows there may refer to the key, so the server must answer; other rows can be written meanwhile';
    END;
  END LOOP;
END
$$;
CREATE FUNCTION parlant_shard.seal_deleted() RETURNS trigger
  LANGUAGE plpgsql SECURITY DEFINER
  SET search_path = pg_catalog, pg_temp SET "TimeZone" = 'UTC'
  SET extra_float_digits = 1 SET "IntervalStyle" = 'postgres' SET bytea_output = 'hex' SET lc_monetary = 'C'
  AS $$
DECLARE
  columns text[] := TG_ARGV[1];
  keys jsonb;
BEGIN
  EXECUTE format('SELECT jsonb_agg(to_jsonb(k.*) ORDER BY to_jsonb(k.*)) FROM (SELECT DISTINCT %1$s FROM gone g WHERE (%1$s) IS NOT NULL '
                 'AND NOT EXISTS (SELECT FROM %2$s r WHERE %3$s)) k',
                 parlant_shard.key_columns(columns, 'g.'), TG_RELID::regclass,
                 parlant_shard.key_equals(TG_RELID, columns, 'r.', 'g.')) INTO keys;
  IF keys IS NOT NULL THEN
    PERFORM parlant_shard.send_seals(TG_ARGV[0], keys, TG_ARGV[2]::text[], TG_ARGV[3]::text[]);
  END IF;
  RETURN NULL;
END
$$;
CREATE FUNCTION parlant_shard.seal_changed() RETURNS trigger
  LANGUAGE plpgsql SECURITY DEFINER
  SET search_path = pg_catalog, pg_temp SET "TimeZone" = 'UTC'
  SET extra_float_digits = 1 SET "IntervalStyle" = 'postgres' SET bytea_output = 'hex' SET lc_monetary = 'C'
  AS $$
DECLARE
  columns text[] := TG_ARGV[1];
  keys jsonb;
  same bool;
BEGIN
  EXECUTE format('SELECT ROW(%s)::text = ROW(%s)::text', parlant_shard.key_columns(columns, '($1).'),
                 parlant_shard.key_columns(columns, '($2).')) INTO same USING OLD, NEW;
  IF same THEN
    RETURN NULL;
  END IF;
  EXECUTE format('SELECT jsonb_agg(to_jsonb(k.*)) FROM (SELECT %1$s WHERE (%1$s) IS NOT NULL '
                 'AND NOT EXISTS (SELECT FROM %2$s r WHERE %3$s)) k',
                 parlant_shard.key_columns(columns, '($1).'), TG_RELID::regclass,
                 parlant_shard.key_equals(TG_RELID, columns, 'r.', '($1).')) INTO keys USING OLD;
  IF keys IS NULL THEN
    RETURN NULL;
  END IF;
  IF TG_NARGS < 3 THEN
    RAISE feature_not_supported USING
      MESSAGE = format('the key of a row of "%s" cannot be changed: rows on other servers may refer to it', TG_TABLE_NAME),
      DETAIL = format('Key (%s)=(%s) is to change.', parlant_shard.key_columns(columns, ''),
                      (SELECT string_agg(keys -> 0 ->> c.name, ', ' ORDER BY c.place)
                         FROM unnest(columns) WITH ORDINALITY AS c(name, place))),
      HINT = 'insert a row with the new key, point the rows that refer to the old one at it, then delete the old one',
      SCHEMA = TG_TABLE_SCHEMA, TABLE = TG_TABLE_NAME;
  END IF;
  PERFORM parlant_shard.send_seals(TG_ARGV[0], keys, TG_ARGV[2]::text[], TG_ARGV[3]::text[]);
  RETURN NULL;
END
$$;
REVOKE ALL ON FUNCTION parlant_shard.seal_keys(), parlant_shard.admit_key(), parlant_shard.seal_deleted(),
  parlant_shard.seal_changed(), parlant_shard.send_seals(text, jsonb, text[], text[]),
  parlant_shard.key_columns(text[], text), parlant_shard.key_equals(regclass, text[], text, text) FROM PUBLIC;
REVOKE ALL ON parlant_shard.copy, parlant_shard.sealed, parlant_shard.seal FROM PUBLIC;
UPDATE parlant_shard.meta SET version = 4;
