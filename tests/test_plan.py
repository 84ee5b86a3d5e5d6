"""Plans as values: JSON and back, ids, passwords, and the order of the steps."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from psycopg.conninfo import conninfo_to_dict

from parlant_shard import changes as c
from parlant_shard.catalog import Column, Index, Managed, Relkind, Subscription, Table, UserMapping
from parlant_shard.desired import Peer
from parlant_shard.executor import with_secret
from parlant_shard.plan import Kind, Plan, Probe, Step, Target, build, secret_mark

TABLE = Table(name="item_s1", columns=(Column(name="id", type="uuid"),))
ON: dict[str, Any] = {"server": "core", "table": TABLE, "shard": "s1"}


def target(password: str | None = "secret") -> Target:
    peer = Peer(options=(("dbname", "d"), ("host", "h")), user="u", password=password)
    return Target(
        topology="t",
        namespace="public",
        coordinator="core",
        key="workspace_id",
        key_type="text",
        peers={"core": peer, "east": peer},
        majors={"core": 18, "east": 18},
    )


CHANGES: list[c.Change] = [
    c.AddColumn(**ON, column=Column(name="a", type="text")),
    c.DropColumn(**ON, column=Column(name="b", type="text")),
    c.CreateIndex(**ON, index=Index(name="i", unique=True, definition="btree (id)")),
    c.CreateTable(
        **ON,
        managed=Managed(kind="table", name="item_s1", logical="item", shard="s1"),
        foreign_keys=(),
    ),
    c.CreateInternal(server="core"),
    c.SetUserMapping(
        server="core",
        mapping=UserMapping(server="parlant_shard_east", role="r", user="u", password="secret"),
        live=None,
    ),
    c.CreateSubscription(
        server="east",
        subscription=Subscription(name="s", slot="s", publication="p"),
        publisher="core",
    ),
]


def test_a_plan_travels_as_json() -> None:
    steps = build(CHANGES, target())
    plan = Plan(
        topology="t",
        file="t.yaml",
        sha256="0",
        schema_sha256="2",
        fingerprint="1",
        steps=steps,
        notices=("n",),
    )
    text = json.dumps(plan.to_json())
    assert Plan.from_json(json.loads(text)) == plan
    assert "secret" not in text.replace('"secret":', "")
    assert any(step.probe is not None for step in steps)
    assert any(step.secret is not None for step in steps)


def test_the_same_changes_are_the_same_plan() -> None:
    assert build(CHANGES, target()) == build(list(CHANGES), target())
    ids = [s.id for s in build([*CHANGES, *CHANGES], target())]
    assert len(set(ids)) == len(ids)


def test_steps_are_in_the_order_of_their_phases() -> None:
    phases = [s.phase for s in build(reversed(CHANGES), target())]
    assert phases == sorted(phases)
    titles = [s.title for s in build(reversed(CHANGES), target())]
    assert titles[0].startswith("create the schema parlant_shard")
    assert titles[-1].startswith("drop column")


def test_an_index_of_a_shard_is_built_concurrently() -> None:
    (step,) = build([CHANGES[2]], target())
    assert step.sql == (
        'CREATE UNIQUE INDEX CONCURRENTLY "i" ON "public"."item_s1" USING btree (id)',
    )
    assert (step.kind, step.transactional, step.lock_timeout_ms) == (Kind.CONCURRENT, False, 0)
    assert step.lock == "SHARE UPDATE EXCLUSIVE"
    assert set(step.hazards) == {"index-build", "may-fail-on-data"}


def test_dropping_a_column_of_a_foreign_table_deletes_nothing() -> None:
    foreign = replace(TABLE, kind=Relkind.FOREIGN)
    (step,) = build(
        [
            c.DropColumn(
                server="core", table=foreign, shard="s1", column=Column(name="b", type="text")
            )
        ],
        target(),
    )
    assert step.hazards == ()
    (step,) = build([CHANGES[1]], target())
    assert step.hazards == ("deletes-data",)


@given(st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1))
def test_a_password_is_quoted_for_where_it_stands(password: str) -> None:
    peers = target(password).peers
    mapping, subscription = build(CHANGES[5:], target(password))
    if mapping.server != "core":
        mapping, subscription = subscription, mapping
    (sql,) = with_secret(mapping, dict(peers))
    marker = '"password" '
    assert _unquoted(sql[sql.index(marker) + len(marker) :].removesuffix(")")) == password
    (sql,) = with_secret(subscription, dict(peers))
    start = sql.index("CONNECTION ") + len("CONNECTION ")
    conninfo = _unquoted(sql[start : sql.rindex(' PUBLICATION "p" WITH (')])
    assert conninfo_to_dict(conninfo)["password"] == password


def _unquoted(literal: str) -> str:
    """Read a string constant under standard_conforming_strings; E'' where it has backslashes."""
    literal = literal.strip()
    escaped = literal.startswith("E")
    body = literal.removeprefix("E")
    assert body[0] == body[-1] == "'"
    body = body[1:-1].replace("''", "'")
    return body.replace("\\\\", "\\") if escaped else body


def test_a_step_without_a_secret_is_left_alone() -> None:
    step = Step(
        id="1", phase=1, server="core", shard=None, title="t",
        sql=(f"SELECT '{secret_mark('core')}'",),
        transactional=True, lock=None, hazards=(), lock_timeout_ms=1, statement_timeout_ms=1,
        kind=Kind.METADATA, probe=Probe(query="SELECT 1"),
    )  # fmt: skip
    assert with_secret(step, {}) == step.sql


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: type(change).__name__)
def test_every_step_states_its_timeouts(change: c.Change) -> None:
    for step in build([change], target()):
        assert step.statement_timeout_ms > 0
        assert step.lock_timeout_ms > 0 or step.kind is Kind.CONCURRENT
