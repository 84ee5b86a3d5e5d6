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
    own_functions={"touch"},
    columns={"id", "name", "workspace_id"},
    shared={"plan"},
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
MINE = f"{GUARD} OR workspace_id IS NULL"

# On the coordinator, in a workspace's name and in nobody's; and what is asked after a change.
HELD = replace(ONE, guarded=(), held={"plan"})
NOBODY = replace(HELD, params=(), row_params={9}, nobody=True)
QUESTION = replace(HELD, writable={"user"}, question=True)
QUESTION_OF_NOBODY = replace(NOBODY, writable={"user"}, question=True)

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
    f"SELECT * FROM (SELECT id FROM public.plan WHERE {MINE}) AS plan",
    f"SELECT 1 FROM public.plan p WHERE p.{GUARD} OR p.workspace_id IS NULL",
    f"SELECT 1 FROM public.plan TABLESAMPLE system (10) WHERE {MINE}",
    "UPDATE public.agent_s1 AS a SET name = p.name FROM "
    f"(SELECT name FROM public.plan WHERE {MINE}) p WHERE a.{GUARD} AND (true)",
    f"MERGE INTO public.agent_s1 a USING (SELECT id FROM public.plan WHERE {MINE}) p ON a.{GUARD} "
    "AND (a.id = p.id) WHEN MATCHED THEN DELETE",
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
    "shared: no condition": "SELECT * FROM public.plan",
    "shared: OR without IS NULL": f"SELECT * FROM public.plan WHERE {GUARD} OR true",
    "shared: the tenant twice": f"SELECT * FROM public.plan WHERE {GUARD} OR {GUARD}",
    "shared: NULL twice": "SELECT * FROM public.plan "
    "WHERE workspace_id IS NULL OR workspace_id IS NULL",
    "shared: NULL first": f"SELECT * FROM public.plan WHERE workspace_id IS NULL OR {GUARD}",
    "shared: the tenant alone": f"SELECT * FROM public.plan WHERE {GUARD}",
    "shared: NULL alone": "SELECT * FROM public.plan WHERE workspace_id IS NULL",
    "shared: IS NOT NULL": f"SELECT * FROM public.plan WHERE {GUARD} OR workspace_id IS NOT NULL",
    "shared: IS NOT NULL alone": "SELECT * FROM public.plan WHERE workspace_id IS NOT NULL",
    "shared: AND": f"SELECT * FROM public.plan WHERE {GUARD} AND workspace_id IS NULL",
    "shared: a third part": f"SELECT * FROM public.plan WHERE {MINE} OR id = 'x'",
    "shared: a condition beside it": f"SELECT * FROM public.plan WHERE ({MINE}) AND id = 'x'",
    "shared: NOT": f"SELECT * FROM public.plan WHERE NOT ({MINE})",
    "shared: NOT of the tenant": f"SELECT * FROM public.plan WHERE (NOT {GUARD}) OR "
    "workspace_id IS NULL",
    "shared: another column is NULL": f"SELECT * FROM public.plan WHERE {GUARD} OR id IS NULL",
    "shared: another column is the tenant": "SELECT * FROM public.plan "
    "WHERE id OPERATOR(pg_catalog.=) $1 OR workspace_id IS NULL",
    "shared: another parameter": "SELECT * FROM public.plan "
    "WHERE workspace_id OPERATOR(pg_catalog.=) $2 OR workspace_id IS NULL",
    "shared: the user's parameter": "SELECT * FROM public.plan "
    "WHERE workspace_id OPERATOR(pg_catalog.=) $9 OR workspace_id IS NULL",
    "shared: a constant": "SELECT * FROM public.plan "
    "WHERE workspace_id OPERATOR(pg_catalog.=) 'ws1' OR workspace_id IS NULL",
    "shared: a cast of the parameter": "SELECT * FROM public.plan "
    "WHERE workspace_id OPERATOR(pg_catalog.=) $1::varchar(4) OR workspace_id IS NULL",
    "shared: the search path's operator": "SELECT * FROM public.plan "
    "WHERE workspace_id = $1 OR workspace_id IS NULL",
    "shared: another operator": "SELECT * FROM public.plan "
    "WHERE workspace_id OPERATOR(pg_catalog.<>) $1 OR workspace_id IS NULL",
    "shared: operator of another schema": "SELECT * FROM public.plan "
    "WHERE workspace_id OPERATOR(x.=) $1 OR workspace_id IS NULL",
    "shared: NULL of an expression": f"SELECT * FROM public.plan WHERE {GUARD} OR "
    "coalesce(workspace_id, NULL) IS NULL",
    "shared: NULL of a parameter": f"SELECT * FROM public.plan WHERE {GUARD} OR $2 IS NULL",
    "shared: NULL of another relation": f"SELECT * FROM public.plan p WHERE p.{GUARD} OR "
    "q.workspace_id IS NULL",
    "shared: both of another relation": f"SELECT * FROM public.plan p WHERE q.{GUARD} OR "
    "q.workspace_id IS NULL",
    "shared: one part qualified": f"SELECT * FROM public.plan p WHERE p.{GUARD} OR "
    "workspace_id IS NULL",
    "shared: two relations": f"SELECT * FROM public.plan p, public.user u WHERE p.{GUARD} OR "
    "p.workspace_id IS NULL",
    "shared: in ON": f"SELECT * FROM public.user u JOIN public.plan p ON p.{GUARD} OR "
    "p.workspace_id IS NULL",
    "shared: nullable side": f"SELECT * FROM public.user u LEFT JOIN public.plan p ON true "
    f"WHERE p.{GUARD} OR p.workspace_id IS NULL",
    "shared: renamed columns": f"SELECT * FROM public.plan p (workspace_id) WHERE p.{GUARD} OR "
    "p.workspace_id IS NULL",
    "shared: in HAVING": f"SELECT max(id) FROM public.plan HAVING {MINE}",
    "shared: one branch of a union": f"SELECT 1 FROM public.plan WHERE {MINE} UNION "
    "SELECT 1 FROM public.plan",
    "shared: a sub-query": "SELECT (SELECT max(id) FROM public.plan)",
    "shared: a CTE": "WITH x AS (SELECT * FROM public.plan) SELECT * FROM x",
    "shared: LATERAL": "SELECT * FROM public.user u, LATERAL (SELECT 1 FROM public.plan) p",
    "shared: FROM of an update": "UPDATE public.agent_s1 AS a SET name = p.name FROM public.plan p "
    f"WHERE a.{GUARD} AND (p.{GUARD} OR p.workspace_id IS NULL)",
    "shared: USING of a delete": "DELETE FROM public.agent_s1 AS a USING public.plan p "
    f"WHERE a.{GUARD} AND (p.{GUARD} OR p.workspace_id IS NULL)",
    "shared: the source of a merge": "MERGE INTO public.agent_s1 a USING public.plan p "
    f"ON a.{GUARD} AND (a.id = p.id) WHEN MATCHED THEN DELETE",
    "shared: the tenant's condition on a sharded table": "SELECT * FROM public.agent_s1 "
    f"WHERE {MINE}",
    "shared: changed on a shard": f"UPDATE public.plan AS p SET name = 'x' WHERE p.{GUARD}",
    "shared: a new row on a shard": "INSERT INTO public.plan (workspace_id) VALUES ($1)",
}

HELD_BROKEN = {
    "no condition": "DELETE FROM public.plan AS p",
    "what it reads": f"DELETE FROM public.plan AS p WHERE p.{GUARD} OR p.workspace_id IS NULL",
    "the shared rows": "DELETE FROM public.plan AS p WHERE p.workspace_id IS NULL",
    "the tenant second": f"DELETE FROM public.plan AS p WHERE true AND p.{GUARD}",
    "of another relation": f"DELETE FROM public.plan AS p USING (SELECT 1) q WHERE q.{GUARD}",
    "not qualified": f"DELETE FROM public.plan AS p WHERE {GUARD}",
    "the key to NULL": f"UPDATE public.plan AS p SET workspace_id = NULL WHERE p.{GUARD}",
    "the key": f"UPDATE public.plan AS p SET workspace_id = 'x' WHERE p.{GUARD}",
    "a shared row": "INSERT INTO public.plan (id, workspace_id) VALUES (1, NULL)",
    "another's row": "INSERT INTO public.plan (id, workspace_id) VALUES (1, $2)",
    "no key": "INSERT INTO public.plan (id) VALUES (1)",
    "the second row": "INSERT INTO public.plan (workspace_id) VALUES ($1), (NULL)",
    "conflict without condition": "INSERT INTO public.plan AS p (workspace_id) VALUES ($1) "
    "ON CONFLICT (id) DO UPDATE SET name = 'x'",
    "conflict with a shared row": "INSERT INTO public.plan AS p (workspace_id) VALUES ($1) "
    f"ON CONFLICT (id) DO UPDATE SET name = 'x' WHERE p.{GUARD} OR p.workspace_id IS NULL",
    "merge": "MERGE INTO public.plan p USING public.user u ON p.id = u.id WHEN MATCHED THEN DELETE",
    "another reference table": "DELETE FROM public.user AS u",
}
NOBODY_BROKEN = {
    "no condition": "SELECT * FROM public.plan",
    "the rows of workspaces": "SELECT * FROM public.plan WHERE workspace_id IS NOT NULL",
    "a workspace and the shared ones": f"SELECT * FROM public.plan WHERE {MINE}",
    "another column": "SELECT * FROM public.plan WHERE id IS NULL",
    "NULL or true": "SELECT * FROM public.plan WHERE workspace_id IS NULL OR true",
    "NULL and more": "SELECT * FROM public.plan WHERE workspace_id IS NULL AND true",
    "NOT": "SELECT * FROM public.plan WHERE NOT workspace_id IS NULL",
    "a change without condition": "DELETE FROM public.plan AS p",
    "a change of workspaces' rows": "DELETE FROM public.plan AS p WHERE p.workspace_id IS NOT NULL",
    "a change of a parameter's": f"DELETE FROM public.plan AS p WHERE p.{GUARD}",
    "a new row of a workspace": "INSERT INTO public.plan (workspace_id) VALUES ('x')",
    "a new row of a parameter's": "INSERT INTO public.plan (workspace_id) VALUES ($1)",
    "a new row without the key": "INSERT INTO public.plan (id) VALUES (1)",
    "a conflict with a workspace's": "INSERT INTO public.plan AS p (workspace_id) VALUES (NULL) "
    "ON CONFLICT (id) DO UPDATE SET name = 'x' WHERE p.workspace_id IS NOT NULL",
}
OTHERS = "(SELECT id FROM public.plan WHERE workspace_id IS {}NULL) AS plan"
QUESTION_BROKEN = {
    "it shows a column": f"SELECT id FROM {OTHERS.format('')}",
    "it shows two": f"SELECT 1, id FROM {OTHERS.format('')}",
    "it shows a sub-query": f"SELECT (SELECT max(id) FROM {OTHERS.format('')})",
    "it changes": f"WITH x AS (DELETE FROM public.plan AS p WHERE p.{GUARD}) SELECT 1",
    "it changes another table": "WITH x AS (DELETE FROM public.user) SELECT 1",
    "it is a change": f"DELETE FROM public.plan AS p WHERE p.{GUARD}",
    "it reads other workspaces' rows": f"SELECT 1 FROM {OTHERS.format('NOT ')}",
    "it reads all": "SELECT 1 FROM public.plan",
    "it reads a shard": "SELECT 1 FROM public.agent_s1",
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


@pytest.mark.parametrize(
    "text",
    [
        f"UPDATE public.plan AS p SET name = 'x' WHERE p.{GUARD} AND (p.id = 'y' OR true)",
        f"DELETE FROM public.plan AS p USING (SELECT id FROM public.plan WHERE {MINE}) q "
        f"WHERE p.{GUARD}",
        "INSERT INTO public.plan AS p (id, workspace_id) VALUES (1, $1), (2, $9) "
        f"ON CONFLICT (id) DO UPDATE SET name = 'x' WHERE p.{GUARD}",
    ],
)
def test_a_workspace_changes_its_own_rows_of_a_shared_table(text: str) -> None:
    prove(text.encode(), HELD)


@pytest.mark.parametrize("name", HELD_BROKEN)
def test_a_workspace_changes_nothing_else_of_a_shared_table(name: str) -> None:
    with pytest.raises(Unproven):
        prove(HELD_BROKEN[name].encode(), HELD)


@pytest.mark.parametrize(
    "text",
    [
        "SELECT * FROM (SELECT id FROM public.plan WHERE workspace_id IS NULL) AS plan",
        "DELETE FROM public.plan AS p WHERE p.workspace_id IS NULL AND (true OR false)",
        "INSERT INTO public.plan AS p (id, workspace_id) VALUES (1, NULL), (2, $9) "
        "ON CONFLICT (id) DO UPDATE SET name = 'x' WHERE p.workspace_id IS NULL",
    ],
)
def test_nobody_has_the_shared_rows(text: str) -> None:
    prove(text.encode(), NOBODY)


@pytest.mark.parametrize("name", NOBODY_BROKEN)
def test_nobody_has_no_rows_of_workspaces(name: str) -> None:
    with pytest.raises(Unproven):
        prove(NOBODY_BROKEN[name].encode(), NOBODY)


def test_a_change_in_the_name_of_nobody_is_none_of_a_shard() -> None:
    for text in (
        "DELETE FROM public.agent_s1 AS a WHERE a.workspace_id IS NULL",
        "INSERT INTO public.agent_s1 (workspace_id) VALUES (NULL)",
    ):
        with pytest.raises(Unproven):
            prove(text.encode(), replace(NOBODY, guarded={"agent_s1"}))


def test_a_question_answers_with_a_constant() -> None:
    prove(f"SELECT 1 FROM {OTHERS.format('')} WHERE id = 'x' LIMIT 1".encode(), QUESTION)
    everything = b"SELECT 1 FROM (SELECT id FROM public.plan WHERE true) AS plan LIMIT 1"
    prove(everything, QUESTION_OF_NOBODY)
    for invariant in (NOBODY, QUESTION, HELD):
        with pytest.raises(Unproven):
            prove(everything, invariant)


@pytest.mark.parametrize("name", QUESTION_BROKEN)
def test_a_question_that_says_or_does_more_is_not_proven(name: str) -> None:
    with pytest.raises(Unproven):
        prove(QUESTION_BROKEN[name].encode(), QUESTION)


def test_several_workspaces_see_the_shared_rows_too() -> None:
    many = "workspace_id OPERATOR(pg_catalog.=) ANY ($1::text[])"
    where = replace(SEVERAL, shared={"plan"}, held={"plan"})
    prove(f"SELECT id FROM public.plan WHERE {many} OR workspace_id IS NULL".encode(), where)
    for text in (
        f"SELECT id FROM public.plan WHERE {many}",
        f"SELECT id FROM public.plan WHERE {MINE}",
        f"DELETE FROM public.plan AS p WHERE p.{many}",
    ):
        with pytest.raises(Unproven):
            prove(text.encode(), where)
