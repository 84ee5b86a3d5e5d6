"""The proof, of reference tables with the key: own and shared rows are read, own ones changed."""

from __future__ import annotations

from dataclasses import replace

import pytest

from parlant_shard.router.prove import Invariant, Unproven, prove
from test_prove import GUARD, NEW_ROW, ONE, SEVERAL

SHARED = replace(ONE, shared={"plan"})
MINE = f"{GUARD} OR workspace_id IS NULL"

# On the coordinator, in a workspace's name and in nobody's; and what is asked after a change.
HELD = replace(SHARED, guarded=(), held={"plan"})
NOBODY = replace(HELD, params=(), row_params={9}, nobody=True)
QUESTION = replace(HELD, writable={"user"}, question=True)
QUESTION_OF_NOBODY = replace(NOBODY, writable={"user"}, question=True)

LOOSE = '"plan" without the condition on "workspace_id"'
NOT_HELD = 'the change of "p" is not held to the tenant'
TELLS = "a question that answers with more than a constant"

PROVEN = [
    f"SELECT * FROM (SELECT id FROM public.plan WHERE {MINE}) AS plan",
    f"SELECT 1 FROM public.plan p WHERE p.{GUARD} OR p.workspace_id IS NULL",
    f"SELECT 1 FROM public.plan TABLESAMPLE system (10) WHERE {MINE}",
    "UPDATE public.agent_s1 AS a SET name = p.name FROM "
    f"(SELECT name FROM public.plan WHERE {MINE}) p WHERE a.{GUARD} AND (true)",
    f"MERGE INTO public.agent_s1 a USING (SELECT id FROM public.plan WHERE {MINE}) p ON a.{GUARD} "
    "AND (a.id = p.id) WHEN MATCHED THEN DELETE",
]

SHARED_BROKEN = {
    "no condition": (LOOSE, "SELECT * FROM public.plan"),
    "OR without IS NULL": (LOOSE, f"SELECT * FROM public.plan WHERE {GUARD} OR true"),
    "the tenant twice": (LOOSE, f"SELECT * FROM public.plan WHERE {GUARD} OR {GUARD}"),
    "NULL twice": (
        LOOSE,
        "SELECT * FROM public.plan WHERE workspace_id IS NULL OR workspace_id IS NULL",
    ),
    "NULL first": (LOOSE, f"SELECT * FROM public.plan WHERE workspace_id IS NULL OR {GUARD}"),
    "the tenant alone": (LOOSE, f"SELECT * FROM public.plan WHERE {GUARD}"),
    "NULL alone": (LOOSE, "SELECT * FROM public.plan WHERE workspace_id IS NULL"),
    "IS NOT NULL": (LOOSE, f"SELECT * FROM public.plan WHERE {GUARD} OR workspace_id IS NOT NULL"),
    "IS NOT NULL alone": (LOOSE, "SELECT * FROM public.plan WHERE workspace_id IS NOT NULL"),
    "AND": (LOOSE, f"SELECT * FROM public.plan WHERE {GUARD} AND workspace_id IS NULL"),
    "a third part": (LOOSE, f"SELECT * FROM public.plan WHERE {MINE} OR id = 'x'"),
    "a condition beside it": (LOOSE, f"SELECT * FROM public.plan WHERE ({MINE}) AND id = 'x'"),
    "NOT": (LOOSE, f"SELECT * FROM public.plan WHERE NOT ({MINE})"),
    "NOT of the tenant": (
        LOOSE,
        f"SELECT * FROM public.plan WHERE (NOT {GUARD}) OR workspace_id IS NULL",
    ),
    "another column is NULL": (LOOSE, f"SELECT * FROM public.plan WHERE {GUARD} OR id IS NULL"),
    "another column is the tenant": (
        LOOSE,
        "SELECT * FROM public.plan WHERE id OPERATOR(pg_catalog.=) $1 OR workspace_id IS NULL",
    ),
    "another parameter": (
        LOOSE,
        "SELECT * FROM public.plan "
        "WHERE workspace_id OPERATOR(pg_catalog.=) $2 OR workspace_id IS NULL",
    ),
    "the user's parameter": (
        LOOSE,
        "SELECT * FROM public.plan "
        "WHERE workspace_id OPERATOR(pg_catalog.=) $9 OR workspace_id IS NULL",
    ),
    "a constant": (
        LOOSE,
        "SELECT * FROM public.plan "
        "WHERE workspace_id OPERATOR(pg_catalog.=) 'ws1' OR workspace_id IS NULL",
    ),
    "a cast of the parameter": (
        LOOSE,
        "SELECT * FROM public.plan "
        "WHERE workspace_id OPERATOR(pg_catalog.=) $1::varchar(4) OR workspace_id IS NULL",
    ),
    "the search path's operator": (
        LOOSE,
        "SELECT * FROM public.plan WHERE workspace_id = $1 OR workspace_id IS NULL",
    ),
    "another operator": (
        LOOSE,
        "SELECT * FROM public.plan "
        "WHERE workspace_id OPERATOR(pg_catalog.<>) $1 OR workspace_id IS NULL",
    ),
    "operator of another schema": (
        LOOSE,
        "SELECT * FROM public.plan WHERE workspace_id OPERATOR(x.=) $1 OR workspace_id IS NULL",
    ),
    "NULL of an expression": (
        LOOSE,
        f"SELECT * FROM public.plan WHERE {GUARD} OR coalesce(workspace_id, NULL) IS NULL",
    ),
    "NULL of a parameter": (LOOSE, f"SELECT * FROM public.plan WHERE {GUARD} OR $2 IS NULL"),
    "NULL of another relation": (
        LOOSE,
        f"SELECT * FROM public.plan p WHERE p.{GUARD} OR q.workspace_id IS NULL",
    ),
    "both of another relation": (
        LOOSE,
        f"SELECT * FROM public.plan p WHERE q.{GUARD} OR q.workspace_id IS NULL",
    ),
    "one part qualified": (
        LOOSE,
        f"SELECT * FROM public.plan p WHERE p.{GUARD} OR workspace_id IS NULL",
    ),
    "two relations": (
        LOOSE,
        f"SELECT * FROM public.plan p, public.user u WHERE p.{GUARD} OR p.workspace_id IS NULL",
    ),
    "in ON": (
        LOOSE,
        f"SELECT * FROM public.user u JOIN public.plan p ON p.{GUARD} OR p.workspace_id IS NULL",
    ),
    "nullable side": (
        LOOSE,
        f"SELECT * FROM public.user u LEFT JOIN public.plan p ON true "
        f"WHERE p.{GUARD} OR p.workspace_id IS NULL",
    ),
    "renamed columns": (
        '"plan" with renamed columns',
        f"SELECT * FROM public.plan p (workspace_id) WHERE p.{GUARD} OR p.workspace_id IS NULL",
    ),
    "in HAVING": (LOOSE, f"SELECT max(id) FROM public.plan HAVING {MINE}"),
    "one branch of a union": (
        LOOSE,
        f"SELECT 1 FROM public.plan WHERE {MINE} UNION SELECT 1 FROM public.plan",
    ),
    "a sub-query": (LOOSE, "SELECT (SELECT max(id) FROM public.plan)"),
    "a CTE": (LOOSE, "WITH x AS (SELECT * FROM public.plan) SELECT * FROM x"),
    "LATERAL": (LOOSE, "SELECT * FROM public.user u, LATERAL (SELECT 1 FROM public.plan) p"),
    "FROM of an update": (
        LOOSE,
        "UPDATE public.agent_s1 AS a SET name = p.name FROM public.plan p "
        f"WHERE a.{GUARD} AND (p.{GUARD} OR p.workspace_id IS NULL)",
    ),
    "USING of a delete": (
        LOOSE,
        "DELETE FROM public.agent_s1 AS a USING public.plan p "
        f"WHERE a.{GUARD} AND (p.{GUARD} OR p.workspace_id IS NULL)",
    ),
    "the source of a merge": (
        LOOSE,
        "MERGE INTO public.agent_s1 a USING public.plan p "
        f"ON a.{GUARD} AND (a.id = p.id) WHEN MATCHED THEN DELETE",
    ),
    "the tenant's condition on a sharded table": (
        '"agent_s1" without the condition on "workspace_id"',
        f"SELECT * FROM public.agent_s1 WHERE {MINE}",
    ),
    "changed on a shard": (
        'the target "plan"',
        f"UPDATE public.plan AS p SET name = 'x' WHERE p.{GUARD}",
    ),
    "a new row on a shard": (
        'the target "plan"',
        "INSERT INTO public.plan (workspace_id) VALUES ($1)",
    ),
}

HELD_BROKEN = {
    "no condition": (NOT_HELD, "DELETE FROM public.plan AS p"),
    "what it reads": (
        NOT_HELD,
        f"DELETE FROM public.plan AS p WHERE p.{GUARD} OR p.workspace_id IS NULL",
    ),
    "the shared rows": (NOT_HELD, "DELETE FROM public.plan AS p WHERE p.workspace_id IS NULL"),
    "the tenant second": (NOT_HELD, f"DELETE FROM public.plan AS p WHERE true AND p.{GUARD}"),
    "of another relation": (
        NOT_HELD,
        f"DELETE FROM public.plan AS p USING (SELECT 1) q WHERE q.{GUARD}",
    ),
    "not qualified": (NOT_HELD, f"DELETE FROM public.plan AS p WHERE {GUARD}"),
    "the key to NULL": (
        "the key is assigned",
        f"UPDATE public.plan AS p SET workspace_id = NULL WHERE p.{GUARD}",
    ),
    "the key": (
        "the key is assigned",
        f"UPDATE public.plan AS p SET workspace_id = 'x' WHERE p.{GUARD}",
    ),
    "a shared row": (NEW_ROW, "INSERT INTO public.plan (id, workspace_id) VALUES (1, NULL)"),
    "another's row": (NEW_ROW, "INSERT INTO public.plan (id, workspace_id) VALUES (1, $2)"),
    "no key": (
        "an INSERT that does not give the key once",
        "INSERT INTO public.plan (id) VALUES (1)",
    ),
    "the second row": (NEW_ROW, "INSERT INTO public.plan (workspace_id) VALUES ($1), (NULL)"),
    "conflict without condition": (
        NOT_HELD,
        "INSERT INTO public.plan AS p (workspace_id) VALUES ($1) "
        "ON CONFLICT (id) DO UPDATE SET name = 'x'",
    ),
    "conflict with a shared row": (
        NOT_HELD,
        "INSERT INTO public.plan AS p (workspace_id) VALUES ($1) "
        f"ON CONFLICT (id) DO UPDATE SET name = 'x' WHERE p.{GUARD} OR p.workspace_id IS NULL",
    ),
    "merge": (
        NOT_HELD,
        "MERGE INTO public.plan p USING public.user u ON p.id = u.id WHEN MATCHED THEN DELETE",
    ),
    "another reference table": ('the target "user"', "DELETE FROM public.user AS u"),
}

NOBODY_BROKEN = {
    "no condition": (LOOSE, "SELECT * FROM public.plan"),
    "the rows of workspaces": (LOOSE, "SELECT * FROM public.plan WHERE workspace_id IS NOT NULL"),
    "a workspace and the shared ones": (LOOSE, f"SELECT * FROM public.plan WHERE {MINE}"),
    "another column": (LOOSE, "SELECT * FROM public.plan WHERE id IS NULL"),
    "NULL or true": (LOOSE, "SELECT * FROM public.plan WHERE workspace_id IS NULL OR true"),
    "NULL and more": (LOOSE, "SELECT * FROM public.plan WHERE workspace_id IS NULL AND true"),
    "NOT": (LOOSE, "SELECT * FROM public.plan WHERE NOT workspace_id IS NULL"),
    "a change without condition": (NOT_HELD, "DELETE FROM public.plan AS p"),
    "a change of workspaces' rows": (
        NOT_HELD,
        "DELETE FROM public.plan AS p WHERE p.workspace_id IS NOT NULL",
    ),
    "a change of a parameter's": (NOT_HELD, f"DELETE FROM public.plan AS p WHERE p.{GUARD}"),
    "a new row of a workspace": (NEW_ROW, "INSERT INTO public.plan (workspace_id) VALUES ('x')"),
    "a new row of a parameter's": (NEW_ROW, "INSERT INTO public.plan (workspace_id) VALUES ($1)"),
    "a new row without the key": (
        "an INSERT that does not give the key once",
        "INSERT INTO public.plan (id) VALUES (1)",
    ),
    "a conflict with a workspace's": (
        NOT_HELD,
        "INSERT INTO public.plan AS p (workspace_id) VALUES (NULL) "
        "ON CONFLICT (id) DO UPDATE SET name = 'x' WHERE p.workspace_id IS NOT NULL",
    ),
}

OTHERS = "(SELECT id FROM public.plan WHERE workspace_id IS {}NULL) AS plan"

QUESTION_BROKEN = {
    "it shows a column": (TELLS, f"SELECT id FROM {OTHERS.format('')}"),
    "it shows two": (TELLS, f"SELECT 1, id FROM {OTHERS.format('')}"),
    "it shows a sub-query": (TELLS, f"SELECT (SELECT max(id) FROM {OTHERS.format('')})"),
    "it changes": (
        "a change in a question",
        f"WITH x AS (DELETE FROM public.plan AS p WHERE p.{GUARD}) SELECT 1",
    ),
    "it changes another table": (
        "a change in a question",
        "WITH x AS (DELETE FROM public.user) SELECT 1",
    ),
    "it is a change": (TELLS, f"DELETE FROM public.plan AS p WHERE p.{GUARD}"),
    "it reads other workspaces' rows": (LOOSE, f"SELECT 1 FROM {OTHERS.format('NOT ')}"),
    "it reads all": (LOOSE, "SELECT 1 FROM public.plan"),
    "it reads a shard": ('the relation "agent_s1"', "SELECT 1 FROM public.agent_s1"),
}

EVERY = [
    (name, words, text, invariant)
    for broken, invariant in (
        (SHARED_BROKEN, SHARED),
        (HELD_BROKEN, HELD),
        (NOBODY_BROKEN, NOBODY),
        (QUESTION_BROKEN, QUESTION),
    )
    for name, (words, text) in broken.items()
]


@pytest.mark.parametrize("text", PROVEN)
def test_a_workspace_reads_its_own_and_the_shared_rows(text: str) -> None:
    prove(text.encode(), SHARED)


@pytest.mark.parametrize(
    ("words", "text", "invariant"), [e[1:] for e in EVERY], ids=[e[0] for e in EVERY]
)
def test_anything_else_is_refused(words: str, text: str, invariant: Invariant) -> None:
    with pytest.raises(Unproven) as refused:
        prove(text.encode(), invariant)
    assert str(refused.value) == words


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
