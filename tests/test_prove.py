"""The proof alone: texts that break the invariant, however they came about, are not accepted."""

from __future__ import annotations

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
    own_functions={"touch"},
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
GUARD = "workspace_id OPERATOR(pg_catalog.=) $1"

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
]

BROKEN = {
    "condition beside others": f"SELECT id FROM public.agent_s1 a WHERE a.{GUARD} AND a.id = 1",
    "condition of a join": "SELECT a.id FROM public.agent_s1 a LEFT JOIN public.user u ON true "
    f"WHERE a.{GUARD}",
    "condition in ON": f"SELECT a.id FROM public.user u LEFT JOIN public.agent_s1 a ON a.{GUARD}",
    "no condition": "SELECT * FROM public.agent_s1",
    "condition of another parameter": "SELECT * FROM public.agent_s1 "
    "WHERE workspace_id OPERATOR(pg_catalog.=) $2",
    "condition under OR": f"SELECT * FROM public.agent_s1 WHERE {GUARD} OR true",
    "condition under NOT": f"SELECT * FROM public.agent_s1 WHERE NOT {GUARD}",
    "operator of another schema": "SELECT * FROM public.agent_s1 "
    "WHERE workspace_id OPERATOR(x.=) $1",
    "operator of the search path": "SELECT * FROM public.agent_s1 WHERE workspace_id = $1",
    "condition on the other table": "SELECT * FROM public.agent_s1 a, public.event_s1 e "
    f"WHERE a.{GUARD}",
    "bare key over two tables": f"SELECT * FROM public.agent_s1 a, public.event_s1 e WHERE {GUARD}",
    "nullable side": f"SELECT * FROM public.user u LEFT JOIN public.agent_s1 a ON true "
    f"WHERE a.{GUARD}",
    "full join": f"SELECT * FROM public.user u FULL JOIN public.agent_s1 a ON a.{GUARD}",
    "left side of a left join": f"SELECT * FROM public.agent_s1 a LEFT JOIN public.user u "
    f"ON a.{GUARD}",
    "renamed columns": f"SELECT * FROM public.agent_s1 a(workspace_id) WHERE a.{GUARD}",
    "join alias hides the table": "SELECT * FROM (public.agent_s1 a JOIN public.user u ON true) j "
    f"WHERE a.{GUARD}",
    "condition in HAVING": f"SELECT max(id) FROM public.agent_s1 a HAVING {GUARD}",
    "unqualified relation": f"SELECT * FROM agent_s1 WHERE {GUARD}",
    "another shard": f"SELECT * FROM public.agent_s2 WHERE {GUARD}",
    "another schema": f"SELECT * FROM private.agent_s1 WHERE {GUARD}",
    "a catalogue": "SELECT * FROM pg_catalog.pg_stats",
    "a sub-query in a function": "SELECT coalesce((SELECT max(id) FROM public.agent_s1), 1)",
    "a sub-query in LIMIT": "SELECT 1 LIMIT (SELECT count(*) FROM public.agent_s1)",
    "one branch of a union": f"SELECT 1 FROM public.agent_s1 WHERE {GUARD} "
    "UNION SELECT 1 FROM public.agent_s1",
    "a CTE's name is no target": "WITH agent_s1 AS (SELECT 1) DELETE FROM agent_s1",
    "a CTE out of sight": "SELECT * FROM (WITH x AS (SELECT 1) SELECT * FROM x) y, x",
    "delete without condition": "DELETE FROM public.agent_s1 AS a",
    "delete with the condition second": f"DELETE FROM public.agent_s1 AS a WHERE true AND {GUARD}",
    "update of the key": f"UPDATE public.agent_s1 AS a SET workspace_id = 'x' WHERE a.{GUARD}",
    "update of the key among others": "UPDATE public.agent_s1 AS a SET (id, workspace_id) = "
    f"(SELECT 1, 'x') WHERE a.{GUARD}",
    "update of a reference table": "UPDATE public.user SET name = 'x'",
    "insert without the key": "INSERT INTO public.agent_s1 (id) VALUES (1)",
    "insert without columns": "INSERT INTO public.agent_s1 VALUES ($1, 1)",
    "insert with the key twice": "INSERT INTO public.agent_s1 (workspace_id, workspace_id) "
    "VALUES ($1, $2)",
    "second row of another": "INSERT INTO public.agent_s1 (workspace_id) VALUES ($1), ('ws2')",
    "key cut by a cast": "INSERT INTO public.agent_s1 (workspace_id) VALUES ($1::varchar(4))",
    "key through a number": "INSERT INTO public.agent_s1 (workspace_id) VALUES ($1::int4)",
    "the user's parameter, cast": "INSERT INTO public.agent_s1 (workspace_id) VALUES ($9::text)",
    "the user's parameter as a condition": "SELECT id FROM public.agent_s1 "
    "WHERE workspace_id OPERATOR(pg_catalog.=) $9",
    "a condition on a cast": "SELECT id FROM public.agent_s1 "
    "WHERE workspace_id OPERATOR(pg_catalog.=) $1::varchar(4)",
    "key by default": "INSERT INTO public.agent_s1 (workspace_id) VALUES (DEFAULT)",
    "key from an expression": "INSERT INTO public.agent_s1 (workspace_id) VALUES ($1 || 'x')",
    "key from a sub-query": "INSERT INTO public.agent_s1 (workspace_id) "
    "SELECT name FROM public.user",
    "a star in front of the key": "INSERT INTO public.agent_s1 (id, workspace_id) "
    "SELECT u.*, $1 FROM public.user u",
    "conflict without condition": "INSERT INTO public.agent_s1 AS a (workspace_id) VALUES ($1) "
    "ON CONFLICT (id) DO UPDATE SET id = 1",
    "conflict that sets the key": "INSERT INTO public.agent_s1 AS a (workspace_id) VALUES ($1) "
    f"ON CONFLICT (id) DO UPDATE SET workspace_id = 'x' WHERE a.{GUARD}",
    "merge without condition": "MERGE INTO public.agent_s1 a USING public.user u ON a.id = u.id "
    "WHEN MATCHED THEN DELETE",
    "merge by source": f"MERGE INTO public.agent_s1 a USING public.user u ON a.{GUARD} "
    "WHEN NOT MATCHED BY SOURCE THEN DELETE",
    "merge that inserts": f"MERGE INTO public.agent_s1 a USING public.user u ON a.{GUARD} "
    "WHEN NOT MATCHED THEN INSERT (id) VALUES (1)",
    "select into": f"SELECT * INTO x FROM public.agent_s1 WHERE {GUARD}",
    "two statements": "SELECT 1; SELECT 2",
    "a function": "SELECT pg_read_file('x')",
    "a function with a schema": "SELECT pg_catalog.set_config('a', 'b', true)",
    "a function of the schema": "SELECT touch()",
    "a function of the schema as a field": "SELECT (u).touch FROM public.user u",
    "a function as a field of a value": "SELECT ('/etc/hostname').pg_read_file",
    "a function as a column of a function": "SELECT z.pg_read_file FROM unnest(ARRAY['x']) z",
    "the same under a label of that name": "SELECT z.pg_read_file AS pg_read_file "
    "FROM unnest(ARRAY['x']) z",
    "a cast as a field": "SELECT ('user').regclass",
    "a function in FROM": "SELECT * FROM pg_ls_dir('.')",
    "a type that names a table": "SELECT 'x'::regclass",
    "a system column": f"DELETE FROM public.agent_s1 AS a WHERE a.{GUARD} AND a.ctid = '(0,1)'",
    "another statement": "TRUNCATE public.agent_s1",
    "explain of another statement": "EXPLAIN CREATE TABLE x AS SELECT 1",
    "a cursor": f"UPDATE public.agent_s1 AS a SET id = 1 WHERE a.{GUARD} AND (CURRENT OF c)",
    "for update of a qualified name": "SELECT * FROM public.user FOR UPDATE OF public.user",
    "no SQL": "SELEC 1",
}


@pytest.mark.parametrize("text", PROVEN)
def test_what_keeps_the_invariant_is_proven(text: str) -> None:
    prove(text.encode(), ONE)


@pytest.mark.parametrize("name", BROKEN)
def test_what_breaks_the_invariant_is_not(name: str) -> None:
    with pytest.raises(Unproven):
        prove(BROKEN[name].encode(), ONE)


def test_several_workspaces_are_a_list_and_only_read() -> None:
    many = "workspace_id OPERATOR(pg_catalog.=) ANY ($1::text[])"
    prove(f"SELECT id FROM public.agent_s1 WHERE {many}".encode(), SEVERAL)
    for text in (
        f"SELECT id FROM public.agent_s1 WHERE {GUARD}",
        f"SELECT id FROM public.agent_s1 WHERE NOT ({many})",
        "SELECT id FROM public.agent_s1 WHERE workspace_id OPERATOR(pg_catalog.=) ALL ($1::text[])",
        f"DELETE FROM public.agent_s1 AS a WHERE a.{many}",
        "INSERT INTO public.agent_s1 (workspace_id) VALUES ($1)",
    ):
        with pytest.raises(Unproven):
            prove(text.encode(), SEVERAL)
