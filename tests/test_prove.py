"""The proof alone: texts that break the invariant, however they came about, are not accepted."""

from __future__ import annotations

from dataclasses import replace

import pytest

from parlant_shard.router.prove import Invariant, Unproven, prove

ONE = Invariant(
    namespace="public",
    key="workspace_id",
    guarded={"agent_s1", "event_s1"},
    open={"user"},
    writable=(),
    params={1},
    row_params={9},
    key_cast="text",
    types={"mood"},
    own_functions={"touch", "lower"},
    columns={"id", "name", "workspace_id"},
)
SEVERAL = Invariant(
    namespace="public",
    key="workspace_id",
    guarded={"agent_s1"},
    open=(),
    writable=(),
    params={1},
    row_params=(),
    types=(),
    own_functions=(),
    several=True,
)
WRITABLE = replace(ONE, guarded=(), writable={"user"}, params=())
GUARD = "workspace_id OPERATOR(pg_catalog.=) $1"
MANY = "workspace_id OPERATOR(pg_catalog.=) ANY ($1::text[])"

PROVEN = [
    f"SELECT * FROM (SELECT id, name FROM public.agent_s1 WHERE {GUARD}) AS a",
    "WITH x AS (SELECT 1) SELECT * FROM x, public.user",
    f"UPDATE public.agent_s1 AS a SET name = 'x' WHERE a.{GUARD} AND (true)",
    f"DELETE FROM public.agent_s1 AS a WHERE a.{GUARD}",
    "INSERT INTO public.agent_s1 (workspace_id, id) VALUES ($1, 2), ($1::text, 3), ($9, 4)",
    "INSERT INTO public.agent_s1 AS a (id, workspace_id) VALUES (2, $1) ON CONFLICT (id) "
    f"DO UPDATE SET id = 3 WHERE a.{GUARD} AND (true)",
    "INSERT INTO public.agent_s1 (workspace_id, id) SELECT $1, id FROM "
    f"(SELECT id FROM public.agent_s1 WHERE {GUARD}) a UNION ALL SELECT $1, 2",
    f"EXPLAIN SELECT * FROM (SELECT id FROM public.agent_s1 WHERE {GUARD}) AS a",
    "SELECT now(), 'sad'::mood, CAST($2 AS uuid)",
    "SELECT x.total, (x).total FROM (SELECT count(*) AS total FROM public.user) x",
    "SELECT e.key, (e).value FROM jsonb_each($2) e",
    "SELECT pg_catalog.lower('x'), 1 OPERATOR(pg_catalog.+) 2, 'x'::pg_catalog.text",
    "SELECT id FROM public.user u ORDER BY id USING OPERATOR(pg_catalog.<) FOR UPDATE OF u",
    f"SELECT * FROM public.agent_s1 TABLESAMPLE system (1) WHERE {GUARD}",
    f"MERGE INTO public.agent_s1 a USING public.user u ON a.{GUARD} AND (a.id = u.id) "
    "WHEN MATCHED THEN UPDATE SET name = u.name WHEN MATCHED THEN DELETE",
    "WITH RECURSIVE x AS (SELECT 1 AS id UNION ALL SELECT id + 1 FROM x) SELECT id FROM x",
    "INSERT INTO public.agent_s1 (workspace_id) VALUES ($1) ON CONFLICT DO NOTHING",
    f"MERGE INTO public.agent_s1 a USING public.user u ON a.{GUARD} "
    "WHEN NOT MATCHED THEN DO NOTHING",
]

LOOSE = '"agent_s1" without the condition on "workspace_id"'
LOOSE_EVENTS = '"event_s1" without the condition on "workspace_id"'
NOT_HELD = 'the change of "a" is not held to the tenant'
NEW_ROW = "a new row that does not carry the tenant"
ASSIGNED = "the key is assigned"
NOT_ONCE = "an INSERT that does not give the key once"
MERGE = "a form of MERGE that cannot be held to the tenant"

# What the proof must say, the text, and what it may touch if that is not ONE. Every refusal of
# prove.py has a text here that nothing but it refuses.
BROKEN: dict[str, tuple[str, str] | tuple[str, str, Invariant]] = {
    "condition beside others": (
        LOOSE,
        f"SELECT id FROM public.agent_s1 a WHERE a.{GUARD} AND a.id = 1",
    ),
    "condition of a join": (
        LOOSE,
        f"SELECT a.id FROM public.agent_s1 a LEFT JOIN public.user u ON true WHERE a.{GUARD}",
    ),
    "condition in ON": (
        LOOSE,
        f"SELECT a.id FROM public.user u LEFT JOIN public.agent_s1 a ON a.{GUARD}",
    ),
    "no condition": (LOOSE, "SELECT * FROM public.agent_s1"),
    "condition of another parameter": (
        LOOSE,
        "SELECT * FROM public.agent_s1 WHERE workspace_id OPERATOR(pg_catalog.=) $2",
    ),
    "condition under OR": (LOOSE, f"SELECT * FROM public.agent_s1 WHERE {GUARD} OR true"),
    "condition under NOT": (LOOSE, f"SELECT * FROM public.agent_s1 WHERE NOT {GUARD}"),
    "operator of another schema": (
        LOOSE,
        "SELECT * FROM public.agent_s1 WHERE workspace_id OPERATOR(x.=) $1",
    ),
    "operator of the search path": (LOOSE, "SELECT * FROM public.agent_s1 WHERE workspace_id = $1"),
    "condition on the other table": (
        LOOSE,
        f"SELECT * FROM public.agent_s1 a, public.event_s1 e WHERE a.{GUARD}",
    ),
    "bare key over two tables": (
        LOOSE,
        f"SELECT * FROM public.agent_s1 a, public.event_s1 e WHERE {GUARD}",
    ),
    "nullable side": (
        LOOSE,
        f"SELECT * FROM public.user u LEFT JOIN public.agent_s1 a ON true WHERE a.{GUARD}",
    ),
    "full join": (LOOSE, f"SELECT * FROM public.user u FULL JOIN public.agent_s1 a ON a.{GUARD}"),
    "left side of a left join": (
        LOOSE,
        f"SELECT * FROM public.agent_s1 a LEFT JOIN public.user u ON a.{GUARD}",
    ),
    "renamed columns": (
        '"agent_s1" with renamed columns',
        f"SELECT * FROM public.agent_s1 a(workspace_id) WHERE a.{GUARD}",
    ),
    "join alias hides the table": (
        LOOSE,
        f"SELECT * FROM (public.agent_s1 a JOIN public.user u ON true) j WHERE a.{GUARD}",
    ),
    "condition in HAVING": (LOOSE, f"SELECT max(id) FROM public.agent_s1 a HAVING {GUARD}"),
    "unqualified relation": (
        'the unqualified relation "agent_s1"',
        f"SELECT * FROM agent_s1 WHERE {GUARD}",
    ),
    "another shard": ('the relation "agent_s2"', f"SELECT * FROM public.agent_s2 WHERE {GUARD}"),
    "another schema": ('the schema of "agent_s1"', f"SELECT * FROM private.agent_s1 WHERE {GUARD}"),
    "a catalogue": ('the schema of "pg_stats"', "SELECT * FROM pg_catalog.pg_stats"),
    "a sub-query in a function": (
        LOOSE,
        "SELECT coalesce((SELECT max(id) FROM public.agent_s1), 1)",
    ),
    "a sub-query in LIMIT": (LOOSE, "SELECT 1 LIMIT (SELECT count(*) FROM public.agent_s1)"),
    "one branch of a union": (
        LOOSE,
        f"SELECT 1 FROM public.agent_s1 WHERE {GUARD} UNION SELECT 1 FROM public.agent_s1",
    ),
    "a CTE's name is no target": (
        'the target "agent_s1" is not qualified',
        "WITH agent_s1 AS (SELECT 1) DELETE FROM agent_s1",
    ),
    "a CTE out of sight": (
        'the unqualified relation "x"',
        "SELECT * FROM (WITH x AS (SELECT 1) SELECT * FROM x) y, x",
    ),
    "delete without condition": (NOT_HELD, "DELETE FROM public.agent_s1 AS a"),
    "delete with the condition second": (
        NOT_HELD,
        f"DELETE FROM public.agent_s1 AS a WHERE true AND {GUARD}",
    ),
    "update of the key": (
        ASSIGNED,
        f"UPDATE public.agent_s1 AS a SET workspace_id = 'x' WHERE a.{GUARD}",
    ),
    "update of the key among others": (
        ASSIGNED,
        f"UPDATE public.agent_s1 AS a SET (id, workspace_id) = (SELECT 1, 'x') WHERE a.{GUARD}",
    ),
    "update of a reference table": ('the target "user"', "UPDATE public.user SET name = 'x'"),
    "insert without the key": (NOT_ONCE, "INSERT INTO public.agent_s1 (id) VALUES (1)"),
    "insert without columns": (NOT_ONCE, "INSERT INTO public.agent_s1 VALUES ($1, 1)"),
    "insert with the key twice": (
        NOT_ONCE,
        "INSERT INTO public.agent_s1 (workspace_id, workspace_id) VALUES ($1, $2)",
    ),
    "second row of another": (
        NEW_ROW,
        "INSERT INTO public.agent_s1 (workspace_id) VALUES ($1), ('ws2')",
    ),
    "key cut by a cast": (
        NEW_ROW,
        "INSERT INTO public.agent_s1 (workspace_id) VALUES ($1::varchar(4))",
    ),
    "key through a number": (
        NEW_ROW,
        "INSERT INTO public.agent_s1 (workspace_id) VALUES ($1::int4)",
    ),
    "the user's parameter, cast": (
        NEW_ROW,
        "INSERT INTO public.agent_s1 (workspace_id) VALUES ($9::text)",
    ),
    "the user's parameter as a condition": (
        LOOSE,
        "SELECT id FROM public.agent_s1 WHERE workspace_id OPERATOR(pg_catalog.=) $9",
    ),
    "a condition on a cast": (
        LOOSE,
        "SELECT id FROM public.agent_s1 WHERE workspace_id OPERATOR(pg_catalog.=) $1::varchar(4)",
    ),
    "key by default": (NEW_ROW, "INSERT INTO public.agent_s1 (workspace_id) VALUES (DEFAULT)"),
    "key from an expression": (
        NEW_ROW,
        "INSERT INTO public.agent_s1 (workspace_id) VALUES ($1 || 'x')",
    ),
    "key from a sub-query": (
        NEW_ROW,
        "INSERT INTO public.agent_s1 (workspace_id) SELECT name FROM public.user",
    ),
    "a star in front of the key": (
        "a star in front of the key",
        "INSERT INTO public.agent_s1 (id, workspace_id) SELECT u.*, $1 FROM public.user u",
    ),
    "conflict without condition": (
        NOT_HELD,
        "INSERT INTO public.agent_s1 AS a (workspace_id) VALUES ($1) "
        "ON CONFLICT (id) DO UPDATE SET id = 1",
    ),
    "conflict that sets the key": (
        ASSIGNED,
        "INSERT INTO public.agent_s1 AS a (workspace_id) VALUES ($1) "
        f"ON CONFLICT (id) DO UPDATE SET workspace_id = 'x' WHERE a.{GUARD}",
    ),
    "merge without condition": (
        NOT_HELD,
        "MERGE INTO public.agent_s1 a USING public.user u ON a.id = u.id WHEN MATCHED THEN DELETE",
    ),
    "merge by source": (
        MERGE,
        f"MERGE INTO public.agent_s1 a USING public.user u ON a.{GUARD} "
        "WHEN NOT MATCHED BY SOURCE THEN DELETE",
    ),
    "merge that inserts": (
        MERGE,
        f"MERGE INTO public.agent_s1 a USING public.user u ON a.{GUARD} "
        "WHEN NOT MATCHED THEN INSERT (id) VALUES (1)",
    ),
    "select into": ("SELECT INTO", f"SELECT * INTO x FROM public.agent_s1 WHERE {GUARD}"),
    "two statements": ("not exactly one statement", "SELECT 1; SELECT 2"),
    "a function": ('the function "pg_read_file"', "SELECT pg_read_file('x')"),
    "a function with a schema": (
        'the function "pg_catalog.set_config"',
        "SELECT pg_catalog.set_config('a', 'b', true)",
    ),
    "a function of the schema": ('the function "touch"', "SELECT touch()"),
    "a function of the schema as a field": (
        '"touch", which may be a call written as a field',
        "SELECT (u).touch FROM public.user u",
    ),
    "a function as a field of a value": (
        '"pg_read_file", which may be a call written as a field',
        "SELECT ('/etc/hostname').pg_read_file",
    ),
    "a function as a column of a function": (
        '"pg_read_file", which may be a call written as a field',
        "SELECT z.pg_read_file FROM unnest(ARRAY['x']) z",
    ),
    "the same under a label of that name": (
        '"pg_read_file", which may be a call written as a field',
        "SELECT z.pg_read_file AS pg_read_file FROM unnest(ARRAY['x']) z",
    ),
    "a cast as a field": (
        '"regclass", which may be a call written as a field',
        "SELECT ('user').regclass",
    ),
    "a function in FROM": ('the function "pg_ls_dir"', "SELECT * FROM pg_ls_dir('.')"),
    "a type that names a table": ('the type "regclass"', "SELECT 'x'::regclass"),
    "a system column": (
        'the system column "ctid"',
        f"DELETE FROM public.agent_s1 AS a WHERE a.{GUARD} AND a.ctid = '(0,1)'",
    ),
    "another statement": ("a TruncateStmt", "TRUNCATE public.agent_s1"),
    "explain of another statement": ("a CreateTableAsStmt", "EXPLAIN CREATE TABLE x AS SELECT 1"),
    "for update of a qualified name": (
        "FOR UPDATE OF a qualified name",
        "SELECT * FROM public.user FOR UPDATE OF public.user",
    ),
    "no SQL": ('PostgreSQL does not parse it: syntax error at or near "SELEC"', "SELEC 1"),
    "nothing": ("not exactly one statement", ""),
    "search of a recursive query": (
        "SEARCH or CYCLE",
        "WITH RECURSIVE x AS (SELECT 1 AS id UNION ALL SELECT id + 1 FROM x) SEARCH DEPTH "
        "FIRST BY id SET name SELECT id FROM x",
    ),
    "cycle of a recursive query": (
        "SEARCH or CYCLE",
        "WITH RECURSIVE x AS (SELECT 1 AS id UNION ALL SELECT id + 1 FROM x) CYCLE id SET name "
        "USING path SELECT id FROM x",
    ),
    "another database": (
        'the schema of "agent_s1"',
        f"SELECT * FROM other.public.agent_s1 WHERE {GUARD}",
    ),
    "condition of an OR in a delete": (
        NOT_HELD,
        f"DELETE FROM public.agent_s1 AS a WHERE a.{GUARD} OR true",
    ),
    "condition of an OR in an update": (
        NOT_HELD,
        f"UPDATE public.agent_s1 AS a SET name = 'x' WHERE a.{GUARD} OR (a.id = 1)",
    ),
    "condition of an OR in a conflict": (
        NOT_HELD,
        "INSERT INTO public.agent_s1 AS a (workspace_id) VALUES ($1) ON CONFLICT (id) DO "
        f"UPDATE SET id = 1 WHERE a.{GUARD} OR true",
    ),
    "condition of an OR in a merge": (
        NOT_HELD,
        f"MERGE INTO public.agent_s1 a USING public.user u ON a.{GUARD} OR a.id = u.id WHEN "
        "MATCHED THEN DELETE",
    ),
    "condition of another's key in a delete": (
        NOT_HELD,
        "DELETE FROM public.agent_s1 AS a USING (SELECT id, workspace_id FROM public.agent_s1 "
        f"WHERE {GUARD}) AS b WHERE b.{GUARD}",
    ),
    "bare key in a delete": (NOT_HELD, f"DELETE FROM public.agent_s1 AS a WHERE {GUARD}"),
    "an unqualified target": (
        'the target "agent_s1" is not qualified',
        f"DELETE FROM agent_s1 AS a WHERE a.{GUARD}",
    ),
    "a target in another schema": (
        'the target "agent_s1" is not qualified',
        f"DELETE FROM private.agent_s1 AS a WHERE a.{GUARD}",
    ),
    "a target in another database": (
        'the target "agent_s1" is not qualified',
        f"DELETE FROM other.public.agent_s1 AS a WHERE a.{GUARD}",
    ),
    "a target on another shard": (
        'the target "agent_s2"',
        f"DELETE FROM public.agent_s2 AS a WHERE a.{GUARD}",
    ),
    "a reference table under the condition": (
        'the target "user"',
        f"UPDATE public.user AS u SET name = 'x' WHERE u.{GUARD}",
    ),
    "a table in USING without condition": (
        LOOSE_EVENTS,
        f"DELETE FROM public.agent_s1 AS a USING public.event_s1 e WHERE a.{GUARD} AND (a.id = "
        "e.id)",
    ),
    "a table in the FROM of an update without condition": (
        LOOSE_EVENTS,
        f"UPDATE public.agent_s1 AS a SET name = e.name FROM public.event_s1 e WHERE a.{GUARD} "
        "AND (a.id = e.id)",
    ),
    "a merge's source without condition": (
        LOOSE_EVENTS,
        f"MERGE INTO public.agent_s1 a USING public.event_s1 e ON a.{GUARD} AND (a.id = e.id) "
        "WHEN MATCHED THEN DELETE",
    ),
    "a sub-query of a merge's action without condition": (
        LOOSE_EVENTS,
        f"MERGE INTO public.agent_s1 a USING public.user u ON a.{GUARD} AND (a.id = u.id) WHEN "
        "MATCHED THEN UPDATE SET name = (SELECT max(name) FROM public.event_s1)",
    ),
    "a merge that sets the key": (
        ASSIGNED,
        f"MERGE INTO public.agent_s1 a USING public.user u ON a.{GUARD} AND (a.id = u.id) WHEN "
        "MATCHED THEN UPDATE SET workspace_id = 'x'",
    ),
    "a sub-query in SET without condition": (
        LOOSE_EVENTS,
        "UPDATE public.agent_s1 AS a SET name = (SELECT max(name) FROM public.event_s1) WHERE "
        f"a.{GUARD}",
    ),
    "a sub-query behind the guard without condition": (
        LOOSE_EVENTS,
        f"DELETE FROM public.agent_s1 AS a WHERE a.{GUARD} AND (a.id IN (SELECT id FROM "
        "public.event_s1))",
    ),
    "a sub-query in RETURNING without condition": (
        LOOSE_EVENTS,
        f"DELETE FROM public.agent_s1 AS a WHERE a.{GUARD} RETURNING (SELECT max(id) FROM "
        "public.event_s1)",
    ),
    "a sub-query in a new row without condition": (
        LOOSE_EVENTS,
        "INSERT INTO public.agent_s1 (workspace_id, id) VALUES ($1, (SELECT max(id) FROM "
        "public.event_s1))",
    ),
    "a sub-query in RETURNING of new rows without condition": (
        LOOSE_EVENTS,
        "INSERT INTO public.agent_s1 (workspace_id) VALUES ($1) RETURNING (SELECT max(id) FROM "
        "public.event_s1)",
    ),
    "a sub-query in a conflict's SET without condition": (
        LOOSE_EVENTS,
        "INSERT INTO public.agent_s1 AS a (workspace_id) VALUES ($1) ON CONFLICT (id) DO "
        f"UPDATE SET id = (SELECT max(id) FROM public.event_s1) WHERE a.{GUARD}",
    ),
    "a sub-query in a conflict's condition without condition": (
        LOOSE_EVENTS,
        "INSERT INTO public.agent_s1 AS a (workspace_id) VALUES ($1) ON CONFLICT (id) DO "
        f"UPDATE SET id = 1 WHERE a.{GUARD} AND (EXISTS (SELECT FROM public.event_s1))",
    ),
    "a sub-query in a merge's condition without condition": (
        LOOSE_EVENTS,
        f"MERGE INTO public.agent_s1 a USING public.user u ON a.{GUARD} "
        "AND (a.id IN (SELECT id FROM public.event_s1)) WHEN MATCHED THEN DELETE",
    ),
    "a sub-query in RETURNING of a merge without condition": (
        LOOSE_EVENTS,
        f"MERGE INTO public.agent_s1 a USING public.user u ON a.{GUARD} "
        "WHEN MATCHED THEN DELETE RETURNING (SELECT max(id) FROM public.event_s1)",
    ),
    "a sub-query in what conflicts without condition": (
        LOOSE_EVENTS,
        "INSERT INTO public.agent_s1 (workspace_id) VALUES ($1) "
        "ON CONFLICT (id) WHERE (EXISTS (SELECT FROM public.event_s1)) DO NOTHING",
    ),
    "a sub-query in a subscript of a new row without condition": (
        LOOSE_EVENTS,
        "INSERT INTO public.agent_s1 (workspace_id, name[(SELECT max(id) FROM public.event_s1)]) "
        "VALUES ($1, 2)",
    ),
    "a type of XMLSERIALIZE": (
        'the type "regclass"',
        "SELECT XMLSERIALIZE(CONTENT $2 AS regclass)",
    ),
    "a CTE without condition": (
        LOOSE,
        "WITH x AS (SELECT id FROM public.agent_s1) SELECT id FROM x",
    ),
    "a CTE of a change without condition": (
        NOT_HELD,
        "WITH x AS (DELETE FROM public.agent_s1 AS a RETURNING id) SELECT id FROM x",
    ),
    "a CTE of a new row without condition": (
        LOOSE,
        "WITH x AS (SELECT id FROM public.agent_s1) INSERT INTO public.agent_s1 (workspace_id) "
        "VALUES ($1)",
    ),
    "a CTE of a delete without condition": (
        LOOSE_EVENTS,
        "WITH x AS (SELECT id FROM public.event_s1) DELETE FROM public.agent_s1 AS a WHERE "
        f"a.{GUARD}",
    ),
    "a CTE of a merge without condition": (
        LOOSE_EVENTS,
        "WITH x AS (SELECT id FROM public.event_s1) MERGE INTO public.agent_s1 a USING x ON "
        f"a.{GUARD} WHEN MATCHED THEN DELETE",
    ),
    "a CTE before its name is there": (
        'the unqualified relation "x"',
        "WITH x AS (SELECT id FROM x) SELECT id FROM x",
    ),
    "a sub-query in FROM without condition": (
        LOOSE,
        "SELECT * FROM (SELECT id FROM public.agent_s1) AS a",
    ),
    "a sub-query in a function in FROM": (
        LOOSE,
        "SELECT * FROM unnest(ARRAY(SELECT id FROM public.agent_s1)) a",
    ),
    "a sub-query in ON": (
        LOOSE,
        "SELECT 1 FROM public.user u JOIN public.user v ON EXISTS (SELECT FROM public.agent_s1)",
    ),
    "a sub-query in what a sample takes": (
        LOOSE,
        "SELECT 1 FROM public.user TABLESAMPLE system ((SELECT count(*) FROM public.agent_s1))",
    ),
    "a sub-query in what repeats a sample": (
        LOOSE,
        "SELECT 1 FROM public.user TABLESAMPLE system (1) REPEATABLE ((SELECT count(*) FROM "
        "public.agent_s1))",
    ),
    "a sample without condition": (LOOSE, "SELECT * FROM public.agent_s1 TABLESAMPLE system (1)"),
    "the other side of a join": (
        LOOSE_EVENTS,
        f"SELECT 1 FROM (SELECT id FROM public.agent_s1 WHERE {GUARD}) a JOIN public.event_s1 e "
        "ON true",
    ),
    "the left side of a join": (
        LOOSE_EVENTS,
        f"SELECT 1 FROM public.event_s1 e JOIN (SELECT id FROM public.agent_s1 WHERE {GUARD}) a "
        "ON true",
    ),
    "the other branch of a union": (
        LOOSE,
        f"SELECT 1 FROM public.agent_s1 UNION SELECT 1 FROM public.agent_s1 WHERE {GUARD}",
    ),
    "another column than the key": (
        LOOSE,
        "SELECT * FROM public.agent_s1 WHERE id OPERATOR(pg_catalog.=) $1",
    ),
    "the key of another qualifier": (LOOSE, f"SELECT * FROM public.agent_s1 a WHERE b.{GUARD}"),
    "the key behind a schema": (
        LOOSE,
        f"SELECT * FROM public.agent_s1 WHERE public.agent_s1.{GUARD}",
    ),
    "another operator": (
        LOOSE,
        "SELECT * FROM public.agent_s1 WHERE workspace_id OPERATOR(pg_catalog.<>) $1",
    ),
    "new rows from the first branch of a union": (
        NEW_ROW,
        "INSERT INTO public.agent_s1 (workspace_id) SELECT 'ws2' UNION ALL SELECT $1",
    ),
    "new rows from the second branch of a union": (
        NEW_ROW,
        "INSERT INTO public.agent_s1 (workspace_id) SELECT $1 UNION ALL SELECT 'ws2'",
    ),
    "new rows from the third branch of a union": (
        NEW_ROW,
        "INSERT INTO public.agent_s1 (workspace_id) SELECT $1 UNION ALL (SELECT $1 UNION "
        "SELECT 'ws2')",
    ),
    "a short row": (NEW_ROW, "INSERT INTO public.agent_s1 (id, workspace_id) VALUES (1)"),
    "key cast to an array": (
        NEW_ROW,
        "INSERT INTO public.agent_s1 (workspace_id) VALUES ($1::text[])",
    ),
    "key cut by a type modifier": (
        NEW_ROW,
        "INSERT INTO public.agent_s1 (workspace_id) VALUES ($1::text(4))",
    ),
    "another parameter as the key": (
        NEW_ROW,
        "INSERT INTO public.agent_s1 (workspace_id) VALUES ($2)",
    ),
    "default values": (NOT_ONCE, "INSERT INTO public.agent_s1 DEFAULT VALUES"),
    "a star among the key's columns": (
        "a star in front of the key",
        "INSERT INTO public.agent_s1 (id, name, workspace_id) SELECT 1, u.*, $1 FROM public.user u",
    ),
    "a change of a CTE in an expression": (
        NOT_HELD,
        "SELECT (WITH x AS (DELETE FROM public.agent_s1 AS a RETURNING id) SELECT count(*) FROM x)",
    ),
    "a cursor": (
        "a CurrentOfExpr",
        "UPDATE public.user SET name = 'x' WHERE CURRENT OF c",
        WRITABLE,
    ),
    "a bare system column": ('the system column "xmin"', "SELECT xmin FROM public.user"),
    "a column with a schema": (
        "a column with a schema",
        "SELECT public.user.name FROM public.user",
    ),
    "a function of the schema with the name of an allowed one": (
        'the function "lower"',
        "SELECT lower('x')",
    ),
    "a function of another database": (
        'the function "public.pg_catalog.upper"',
        "SELECT public.pg_catalog.upper('x')",
    ),
    "a function of the schema in its schema": (
        'the function "public.touch"',
        "SELECT public.touch()",
    ),
    "an operator with a schema": ('the operator "public.+"', "SELECT 1 OPERATOR(public.+) 2"),
    "an operator with a schema before ANY": (
        'the operator "public.="',
        "SELECT 1 OPERATOR(public.=) ANY (SELECT 2)",
    ),
    "an operator with a schema in ORDER BY": (
        'the operator "public.<"',
        "SELECT id FROM public.user ORDER BY id USING OPERATOR(public.<)",
    ),
    "a type with two schemas": ('the type "other.public.text"', "SELECT 'x'::other.public.text"),
    "a set of a type": ('the type "text"', "SELECT 'x'::SETOF text"),
    "a type of another schema": ('the type "private.text"', "SELECT 'x'::private.text"),
    "a type of ours in pg_catalog": ('the type "pg_catalog.mood"', "SELECT 'x'::pg_catalog.mood"),
    "a type in a column list": (
        'the type "agent_s1"',
        "SELECT * FROM json_to_record($2) AS x (id agent_s1)",
    ),
    "a type of a function's result": (
        'the type "regclass"',
        "SELECT JSON_VALUE($2, '$' RETURNING regclass)",
    ),
    "several: one workspace's condition": (
        LOOSE,
        f"SELECT id FROM public.agent_s1 WHERE {GUARD}",
        SEVERAL,
    ),
    "several: a list negated": (
        LOOSE,
        f"SELECT id FROM public.agent_s1 WHERE NOT ({MANY})",
        SEVERAL,
    ),
    "several: all of the list": (
        LOOSE,
        "SELECT id FROM public.agent_s1 WHERE workspace_id OPERATOR(pg_catalog.=) ALL ($1::text[])",
        SEVERAL,
    ),
    "several: another list": (
        LOOSE,
        "SELECT id FROM public.agent_s1 WHERE workspace_id OPERATOR(pg_catalog.=) ANY ($2::text[])",
        SEVERAL,
    ),
    "several: a change": (
        "a change for several workspaces",
        f"DELETE FROM public.agent_s1 AS a WHERE a.{MANY}",
        SEVERAL,
    ),
    "several: a new row": (
        "a change for several workspaces",
        "INSERT INTO public.agent_s1 (workspace_id) VALUES ($1)",
        SEVERAL,
    ),
    "one: a list": (LOOSE, f"SELECT id FROM public.agent_s1 WHERE {MANY}"),
}


@pytest.mark.parametrize("text", PROVEN)
def test_what_keeps_the_invariant_is_proven(text: str) -> None:
    prove(text.encode(), ONE)


@pytest.mark.parametrize("name", BROKEN)
def test_what_breaks_the_invariant_is_not(name: str) -> None:
    words, text, *given = BROKEN[name]
    with pytest.raises(Unproven) as refused:
        prove(text.encode(), *(given or [ONE]))
    assert str(refused.value) == words


def test_several_workspaces_are_a_list() -> None:
    prove(f"SELECT id FROM public.agent_s1 WHERE {MANY}".encode(), SEVERAL)


@pytest.mark.parametrize(
    "text",
    [
        "UPDATE public.user SET name = 'x'",
        "MERGE INTO public.user u USING (VALUES (1)) v(id) ON u.id = v.id "
        "WHEN NOT MATCHED THEN INSERT (name) VALUES ('x')",
    ],
)
def test_what_is_writable_needs_no_condition(text: str) -> None:
    prove(text.encode(), WRITABLE)
