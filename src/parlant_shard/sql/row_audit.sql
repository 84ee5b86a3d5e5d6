-- name: body
-- What a trigger on a recorded table does: one INSERT … SELECT per statement. Updates pair old and new rows by
-- GROUP BY, not by a join: PL/pgSQL keeps the plan it made for the first statement, and a nested loop that was
-- right for one row would be quadratic for ten thousand. A row whose key changed is written under both keys.

BEGIN
  -- Whoever may call it could hang it on a table of his own and write what he likes.
  IF TG_TABLE_SCHEMA <> {namespace} OR TG_TABLE_NAME <> {physical} THEN
    RAISE EXCEPTION 'this function is for another table' USING ERRCODE = '42501';
  END IF;
  IF TG_OP = 'INSERT' THEN
    INSERT INTO {target} (at, transaction_id, {key}, table_name, operation, row_key, actor, application_actor)
    SELECT clock_timestamp(), pg_current_xact_id(), r.{key}, {logical}, TG_OP, {row_key},
           session_user, left(nullif(current_setting('parlant.actor', true), ''), 200)
      FROM new_rows r;
  ELSIF TG_OP = 'DELETE' THEN
    INSERT INTO {target} (at, transaction_id, {key}, table_name, operation, row_key, actor, application_actor)
    SELECT clock_timestamp(), pg_current_xact_id(), r.{key}, {logical}, TG_OP, {row_key},
           session_user, left(nullif(current_setting('parlant.actor', true), ''), 200)
      FROM old_rows r;
  ELSE
    INSERT INTO {target} (at, transaction_id, {key}, table_name, operation, row_key, changed_columns, actor,
                          application_actor)
    SELECT clock_timestamp(), pg_current_xact_id(), c.workspace, {logical}, TG_OP, c.row_key, c.changed,
           session_user, left(nullif(current_setting('parlant.actor', true), ''), 200)
      FROM (SELECT p.workspace, p.row_key,
                   CASE WHEN p.old_row IS NULL OR p.new_row IS NULL THEN {keys}::text[]
                        ELSE ARRAY(SELECT k.name FROM jsonb_object_keys(p.new_row) k(name)
                                    WHERE p.old_row -> k.name IS DISTINCT FROM p.new_row -> k.name
                                      AND ({watched}::text[] = '{{}}' OR k.name = ANY ({watched}::text[]))
                                    ORDER BY k.name)
                   END AS changed
              FROM (SELECT s.workspace, s.row_key,
                           (array_agg(s.content) FILTER (WHERE NOT s.is_new))[1] AS old_row,
                           (array_agg(s.content) FILTER (WHERE s.is_new))[1] AS new_row
                      FROM (SELECT r.{key} AS workspace, {row_key} AS row_key, to_jsonb(r) AS content,
                                   false AS is_new
                              FROM old_rows r
                             UNION ALL
                            SELECT r.{key}, {row_key}, to_jsonb(r), true FROM new_rows r) s
                     GROUP BY s.workspace, s.row_key) p) c
     WHERE c.changed <> '{{}}';
  END IF;
  RETURN NULL;
END;
