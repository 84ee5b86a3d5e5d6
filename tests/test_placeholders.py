"""Placeholders: the text that psycopg sends, and the way back to the original."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from psycopg._queries import _query2pg  # type: ignore[attr-defined]

from parlant_shard.router.placeholders import PlaceholderFault, Style, read


@pytest.mark.parametrize(
    ("sql", "server", "style"),
    [
        ("a = %s AND b = %s", "a = $1 AND b = $2", Style.POSITIONAL),
        ("a = %(x)s AND b = %(y)s AND c = %(x)s", "a = $1 AND b = $2 AND c = $1", Style.NAMED),
        ("a LIKE 'x%%' AND b = %b", "a LIKE 'x%' AND b = $1", Style.POSITIONAL),
        ("a %% 2 = %t", "a % 2 = $1", Style.POSITIONAL),
        ("a = 'é' AND b = %s", "a = 'é' AND b = $1", Style.POSITIONAL),
        ("SELECT 1", "SELECT 1", Style.NONE),
    ],
)
def test_the_server_sees_what_psycopg_sends(sql: str, server: str, style: Style) -> None:
    text = read(sql, percent=True)
    assert (text.server.decode(), text.style) == (server, style)


@pytest.mark.parametrize("sql", ["a = %s AND b = %(x)s", "100%", "a %x b", "% s"])
def test_what_psycopg_would_not_take_is_said(sql: str) -> None:
    with pytest.raises(PlaceholderFault):
        read(sql, percent=True)


def test_without_parameters_a_percent_sign_is_itself() -> None:
    assert read("a LIKE '%s%'", percent=False).server == b"a LIKE '%s%'"


_PARTS = st.lists(
    st.sampled_from(["%s", "%%", "é", "'", " a", "$1", "\n", "/*", "%b"]), max_size=12
)


@given(_PARTS)
def test_it_is_psycopgs_own_reading_and_every_place_is_found_again(parts: list[str]) -> None:
    sql = "".join(parts)
    text = read(sql, percent=True)
    assert text.server == _query2pg(sql.encode(), "utf-8")[0]
    for hole in text.holes:
        assert text.to_client(hole.server[0]) == hole.client[0]
        assert text.to_client(hole.server[1]) == hole.client[1]
    assert text.to_client(len(text.server)) == len(text.client)
