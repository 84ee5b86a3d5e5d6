"""How a foreign key to a reference table holds: the table of docs/reference-tables.md, and why."""

from __future__ import annotations

from dataclasses import replace

import pytest

from parlant_shard.catalog import Check, Column, ForeignKey, Index, Key, Table, Trigger
from parlant_shard.holding import Holding, as_held, holding

COUNTRY = Table(
    name="country",
    columns=(Column(name="code", type="text", not_null=True),),
    keys=(Key(name="country_pkey", primary=True, columns=("code",), definition="PRIMARY KEY"),),
)
FK = ForeignKey(name="fk", columns=("country",), ref_table="country", ref_columns=("code",))
AGENT = Table(
    name="agent",
    columns=(
        Column(name="id", type="uuid", not_null=True),
        Column(name="country", type="text"),
        Column(name="label", type="text[]"),
    ),
    keys=(Key(name="agent_pkey", primary=True, columns=("id",), definition="PRIMARY KEY (id)"),),
)
BELOW = ForeignKey(name="below", columns=("agent",), ref_table="agent", ref_columns=("id",))


def held(
    on_delete: str, on_update: str = "a", *, agent: Table = AGENT, below: ForeignKey | None = None
) -> Holding:
    fk = replace(FK, on_delete=on_delete, on_update=on_update)
    agent = replace(agent, foreign_keys=(*agent.foreign_keys, fk))
    tables = {"country": COUNTRY, "agent": agent}
    if below is not None:
        columns = (Column(name="agent", type="uuid"),)
        tables["message"] = Table(name="message", columns=columns, foreign_keys=(below,))
    return holding(tables, [t for t in tables if t != "country"], agent, fk, cut_by="day")


@pytest.mark.parametrize(
    ("on_delete", "on_update", "delete", "update"),
    [
        ("a", "a", "sealed", "sealed"),
        ("r", "a", "sealed", "sealed"),
        ("d", "a", "sealed", "sealed"),
        ("a", "c", "sealed", "replayed"),
        ("r", "n", "sealed", "replayed"),
        ("a", "d", "sealed", "sealed"),
        ("c", "a", "replayed", "refused"),
        ("n", "r", "replayed", "refused"),
        ("c", "c", "replayed", "replayed"),
        ("n", "n", "replayed", "replayed"),
        ("c", "d", "replayed", "refused"),
    ],
)
def test_actions(on_delete: str, on_update: str, delete: str, update: str) -> None:
    found = held(on_delete, on_update)
    assert (found.delete, found.update) == (delete, update)


def with_column(**change: object) -> Table:
    columns = (AGENT.columns[0], replace(AGENT.columns[1], **change), *AGENT.columns[2:])
    return replace(AGENT, columns=columns)


@pytest.mark.parametrize(
    ("agent", "why"),
    [
        (with_column(not_null=True), "NOT NULL"),
        (
            replace(AGENT, checks=(Check(name="k", definition="CHECK ((country <> ''::text))"),)),
            'CHECK "k"',
        ),
        (
            replace(
                AGENT,
                keys=(
                    Key(
                        name="u",
                        primary=False,
                        columns=("country",),
                        definition="UNIQUE NULLS NOT DISTINCT (country)",
                    ),
                ),
            ),
            'constraint "u"',
        ),
        (
            replace(
                AGENT,
                indexes=(
                    Index(
                        name="i",
                        unique=True,
                        definition="btree (lower(country)) NULLS NOT DISTINCT",
                    ),
                ),
            ),
            'unique index "i"',
        ),
        (
            replace(
                AGENT,
                columns=(
                    *AGENT.columns,
                    Column(name="g", type="text", generated="s", default="upper(country)"),
                ),
            ),
            'generated column "g"',
        ),
        (
            replace(
                AGENT,
                foreign_keys=(
                    ForeignKey(
                        name="other",
                        columns=("country", "id"),
                        ref_table="x",
                        ref_columns=("a", "b"),
                        match="f",
                    ),
                ),
            ),
            'foreign key "other"',
        ),
        (
            replace(
                AGENT,
                triggers=(
                    Trigger(name="t", head="CREATE TRIGGER t BEFORE UPDATE", tail="", enabled="A"),
                ),
            ),
            'trigger "t"',
        ),
    ],
)
def test_set_null_that_the_child_can_refuse_is_sealed(agent: Table, why: str) -> None:
    found = held("n", agent=agent)
    assert found.sealed
    assert why in (found.why or "")
    assert held("c", agent=agent).delete == "replayed"


@pytest.mark.parametrize(
    ("below", "sealed"),
    [
        (replace(BELOW, on_delete="c"), False),
        (replace(BELOW, on_delete="n"), False),
        (replace(BELOW, on_delete="a"), True),
        (replace(BELOW, on_delete="r"), True),
        (replace(BELOW, on_delete="d"), True),
        (replace(BELOW, on_delete="a", unenforced=True), False),
        (replace(BELOW, on_delete="c", columns=("agent",), ref_columns=("label",)), True),
    ],
)
def test_what_restricts_below_a_cascade_seals_it(below: ForeignKey, sealed: bool) -> None:
    assert held("c", below=below).sealed is sealed


def test_a_column_that_others_refer_to_is_not_cleared() -> None:
    below = replace(BELOW, columns=("agent",), ref_columns=("country",))
    assert held("n", below=below).sealed
    assert held("c", "c", below=replace(below, on_delete="c")).update == "refused"


def test_what_changes_as_a_key_does_must_have_its_type() -> None:
    assert held("a", "c", agent=with_column(type="character varying(2)")).update == "sealed"
    assert held("c", "c", agent=with_column(type="character varying(2)")).update == "refused"


def test_the_foreign_key_says_what_is_done() -> None:
    fk = replace(FK, on_delete="n", on_update="c", set_columns=("country",))
    sealed = as_held(fk, Holding(delete="sealed", update="sealed", why="x"), "country")
    assert (sealed.key_table, sealed.on_delete, sealed.on_update) == ("country", "a", "a")
    assert sealed.set_columns == ()
    replayed = as_held(fk, Holding(delete="replayed", update="refused"), "country")
    assert (replayed.key_table, replayed.on_delete, replayed.on_update) == (None, "n", "a")
