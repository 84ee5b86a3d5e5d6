"""What `route` and `query` print."""

from __future__ import annotations

import json
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from itertools import pairwise
from typing import Any, NamedTuple
from uuid import UUID

import pytest

from parlant_shard import explain
from parlant_shard.router.route import Kind, Route, RouteTarget


class Column(NamedTuple):
    name: str


def test_what_was_written_is_underlined_line_by_line() -> None:
    before = "SELECT *\n\tFROM a\nWHERE x = 1"
    after = 'SELECT *\n\tFROM "p"."a_s1"\nWHERE k = %s AND (x = 1)'
    lines = explain.marked(before, after)
    texts = [line for line in lines if "^" not in line]
    assert texts == ["  " + line for line in after.split("\n")]
    for text, under in pairwise(lines):
        if "^" in under:
            assert len(under) <= len(text)
            assert set(under) <= {" ", "\t", "^"}
    assert lines[0] == "  SELECT *"
    assert "^" not in lines[1]


def test_an_unchanged_text_has_no_marks() -> None:
    assert explain.marked("SELECT 1", "SELECT 1") == ["  SELECT 1"]


def test_marks_are_styled_where_they_can_be() -> None:
    lines = explain.marked("FROM a", "FROM a_s1 AS a", lambda text: f"<{text}>")
    (line,) = lines
    assert line.replace("<", "").replace(">", "") == "  FROM a_s1 AS a"
    assert "<" in line


def test_a_refusal_has_its_code_and_hint() -> None:
    route = Route(kind=Kind.REFUSED, code="PS608", reason="nothing says so", hint="say so")
    assert explain.route_text(route, "SELECT") == (
        "refused: nowhere\nPS608: nothing says so\n  hint: say so"
    )


def test_targets_with_one_text_show_it_once() -> None:
    targets = tuple(
        RouteTarget(shard=s, server="core", sql="SELECT 1", params=["ws1"]) for s in ("s1", "s2")
    )
    route = Route(kind=Kind.MULTI, targets=targets, workspaces=("a", "b"), why=("two",))
    text = explain.route_text(route, "SELECT 1")
    assert text.count("SELECT 1") == 1
    assert 'workspaces: "a", "b"' in text
    assert 'params: ["ws1"]' in text


@pytest.mark.parametrize(
    ("value", "wanted"),
    [
        (None, None),
        (True, True),
        (7, 7),
        (1.5, 1.5),
        (float("nan"), "nan"),
        (Decimal("12"), 12),
        (Decimal("2.50"), 2.5),
        (Decimal("0.1234567890123456789"), "0.1234567890123456789"),
        (Decimal("NaN"), "NaN"),
        (b"\x00\xff", "00ff"),
        (date(2026, 1, 2), "2026-01-02"),
        (datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC), "2026-01-02T03:04:05+00:00"),
        (timedelta(days=1, hours=2, microseconds=5), "P1DT2H0M0.000005S"),
        (timedelta(seconds=-1), "-P0DT0H0M1S"),
        (UUID(int=1), "00000000-0000-0000-0000-000000000001"),
        ({"a": [Decimal("1.5"), b"\x01"]}, {"a": [1.5, "01"]}),
    ],
)
def test_values_as_json(value: Any, wanted: Any) -> None:
    found = explain.plain(value)
    assert found == wanted
    assert type(found) is type(wanted)
    json.dumps(found, allow_nan=False)


def test_repeated_columns_keep_their_values() -> None:
    names = explain.columns_of([Column("id"), Column("n"), Column("id")])
    assert names == ["id", "n", "id_2"]
    data = json.loads(explain.rows_json(names, [(1, 2, 3)], "SELECT 1"))
    assert data["rows"] == [{"id": 1, "n": 2, "id_2": 3}]
    assert data["format_version"] == 1


def test_csv_tells_null_from_an_empty_text_in_one_column() -> None:
    assert explain.rows_csv(["a"], [(None,), ("",), ("x,y",)]) == 'a\n\n""\n"x,y"\n'


def test_a_table_stays_in_its_lines() -> None:
    text = explain.rows_table(["a"], [("two\nlines",), (None,)])
    assert text.splitlines() == ["a", "----------", "two\\nlines", "", "(2 rows)"]


def test_the_question_after_a_change_is_shown() -> None:
    target = RouteTarget(shard=None, server="core", sql="UPDATE t SET n = 1")
    question = RouteTarget(shard=None, server="core", sql="SELECT 1\nFROM t LIMIT 1", params=["a"])
    route = Route(kind=Kind.DIRECT, targets=(target,), why=("so",), held="t", question=question)
    text = explain.route_text(route, target.sql)
    assert text.endswith(
        "if it changes no row, the client asks whether it met rows that it may not change:\n"
        '  SELECT 1\n  FROM t LIMIT 1\n  params: ["a"]'
    )
    assert route.to_data()["question"] == {"sql": question.sql, "params": ["a"]}
    assert Route(kind=Kind.ANY).to_data()["question"] is None
