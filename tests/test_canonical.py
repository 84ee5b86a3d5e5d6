"""Text in PostgreSQL's own form. Whether a server writes the same is tested in server/."""

from __future__ import annotations

import re

import postgast
import pytest
from hypothesis import given
from hypothesis import strategies as st

from parlant_shard import canonical
from parlant_shard.introspect import branches, unquote

names = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1)


@pytest.mark.parametrize(
    ("name", "quoted"),
    [
        ("item", "item"),
        ("_a1", "_a1"),
        ("Item", '"Item"'),
        ("user", '"user"'),
        ("order", '"order"'),
        ("name", "name"),  # an unreserved keyword
        ("timestamp", '"timestamp"'),  # a type's keyword
        ("left", '"left"'),
        ("a b", '"a b"'),
        ('a"b', '"a""b"'),
        ("1a", '"1a"'),
        ("ü", '"ü"'),
    ],
)
def test_identifiers_are_quoted_as_the_server_does(name: str, quoted: str) -> None:
    assert canonical.quote(name) == quoted


@given(names)
def test_a_quoted_identifier_reads_back(name: str) -> None:
    assert unquote(canonical.quote(name)) == name


@given(st.lists(names))
def test_every_check_is_an_expression(workspaces: list[str]) -> None:
    for definition in (
        canonical.list_check("the key", "text", workspaces),
        canonical.list_check("user", "character varying(40)", workspaces),
        canonical.bucket_check("k", "text", [(0, 5), (7, 9)], workspaces, workspaces[:2]),
    ):
        postgast.parse(f"CREATE TABLE t (k text, {definition})")


@pytest.mark.parametrize(("count", "pieces"), [(0, 1), (1, 1), (100, 1), (101, 2), (1000, 10)])
def test_lists_are_cut_where_the_planner_stops(count: int, pieces: int) -> None:
    text = canonical.list_check("k", "text", [f"w{i}" for i in range(count)])
    assert text.count("= ANY") == pieces
    assert all(len(p.split(",")) <= 100 for p in re.findall(r"\{([^}]*)\}", text))


COLUMNS = ("id", "user", "a,b")


@pytest.mark.parametrize(
    "text",
    [
        'SELECT id, "user", "a,b" FROM public.item_s1;',
        ' SELECT item_s1.id,\n    item_s1."user",\n    item_s1."a,b"\n   FROM public.item_s1\n'
        'UNION ALL\n SELECT item_s2.id,\n    item_s2."user",\n    item_s2."a,b"\n'
        "   FROM public.item_s2;",
    ],
)
def test_branches_of_a_view_are_read(text: str) -> None:
    found = branches(text, COLUMNS, "public")
    assert found is not None
    assert found[0] == "item_s1"
    assert len(found) == text.count("SELECT")


def test_branches_of_odd_names_are_read() -> None:
    text = 'SELECT "My ""t"".x".id FROM "My schema"."My ""t"".x"'
    assert branches(text, ("id",), "My schema") == ('My "t".x',)


@pytest.mark.parametrize(
    "text",
    [
        'SELECT id, "user", "a,b" FROM public.item_s1 WHERE id = 1;',
        'SELECT id, "user" FROM public.item_s1;',
        'SELECT "user", id, "a,b" FROM public.item_s1;',
        'SELECT id, "user", "a,b" FROM other.item_s1;',
        'SELECT id, upper("user") AS "user", "a,b" FROM public.item_s1;',
        'SELECT id, "user", "a,b" FROM public.a UNION SELECT id, "user", "a,b" FROM public.b;',
        'SELECT id, "user", "a,b" FROM public.a, public.b;',
        'SELECT id, "user", "a,b" FROM public.a UNION ALL SELECT 1;',
        'SELECT DISTINCT id, "user", "a,b" FROM public.a;',
        'SELECT id, "user", "a,b" FROM public.a LIMIT 1;',
        "",
    ],
)
def test_anything_else_is_not_ours(text: str) -> None:
    assert branches(text, COLUMNS, "public") is None


def test_a_renamed_column_is_not_ours() -> None:
    # Two columns of one type, exchanged: the names of the view look right.
    assert branches("SELECT b AS a, a AS b FROM public.t", ("a", "b"), "public") is None
