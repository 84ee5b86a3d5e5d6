"""All that reads or moves rows works for an owner whom forced policies bind, and sees every row."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest
from protocol import Layout, World, layout
from psycopg.conninfo import make_conninfo
from rls_world import PASSWORD, Roles, drop_role, roles
from test_maintain import months, now_of

from parlant_shard.cli import run
from servers import Clusters, database_name

pytestmark = pytest.mark.matrix


@pytest.fixture
def who(clusters: Clusters) -> Iterator[Roles]:
    with roles(clusters) as found:
        yield found


@pytest.fixture
def owned(tmp_path: Path, clusters: Clusters, who: Roles) -> Iterator[World]:
    """Give a world whose role is no superuser and has no BYPASSRLS."""
    world = World(tmp_path, clusters)
    owner = f"owner_{who.application}"
    admin = world.dsn("core")
    world.execute(
        f"CREATE ROLE \"{owner}\" LOGIN CREATEDB PASSWORD '{PASSWORD}'",
        f'GRANT CREATE, TEMPORARY ON DATABASE {database_name(admin)} TO "{owner}"',
        f'GRANT CREATE ON SCHEMA public TO "{owner}"',
    )
    world.dsns["core"] = make_conninfo(admin, user=owner, password=PASSWORD)
    try:
        yield world
        world.dsns["core"] = admin
    finally:
        clusters.drop_databases()
        for index in range(clusters.distinct):
            drop_role(clusters, index, owner)


def walled(who: Roles) -> Layout:
    cut = {
        "by": "at",
        "every": "1 month",
        "premake": 1,
        "retention": "2 months",
        "archive": "archive/",
        "default": True,
    }
    return layout(
        {"s1": ["ws1", "ws2"]},
        tables={"log": {"partition": cut}},
        isolation={"rls": True, "role": who.application, "analytics": who.analytics},
    )


def command(world: World, what: Layout, *words: str, code: int = 0) -> None:
    file = world.load(what).file
    text = file.read_text()
    for name, dsn in world.dsns.items():
        text = text.replace(f"${{{name}}}", dsn)
    file.write_text(text)
    first, *rest = words
    count = 2 if first in {"workspace", "archive"} else 1
    head, tail = words[:count], rest[count - 1 :]
    assert run([*head, str(file), *tail]) == code


def put(world: World, workspace: str, moment: datetime) -> None:
    world.execute(
        f"WITH a AS (INSERT INTO account_s1 (workspace_id) VALUES ('{workspace}') RETURNING id), "
        "i AS (INSERT INTO item_s1 (workspace_id, account_id) "
        f"SELECT '{workspace}', id FROM a RETURNING id) SELECT 1 FROM i",
        f"INSERT INTO log_s1 (workspace_id, item_id, at) SELECT '{workspace}', id, "
        f"'{moment.isoformat()}Z' FROM item_s1 WHERE workspace_id = '{workspace}' LIMIT 1",
    )


def test_every_command(owned: World, who: Roles, capfd: pytest.CaptureFixture[str]) -> None:
    what = walled(who)
    owned.apply(what)
    start = now_of(owned)
    for workspace in ("ws1", "ws2"):
        put(owned, workspace, start)
        put(owned, workspace, start + timedelta(days=600))  # into the default partition
    command(owned, what, "maintain", "--move-default-rows")
    assert owned.value("SELECT count(*) FROM log_s1_default") == 0
    assert owned.value("SELECT count(*) FROM log_s1") == 4
    name = f"log_s1_p{months(start, 0):%Y%m%d}"
    later = months(start, 4)
    command(owned, what, "maintain", "--now", later.isoformat())
    command(owned, what, "maintain", "--now", (later + timedelta(days=8)).isoformat())
    assert owned.value(f"SELECT to_regclass('{name}')") is None
    capfd.readouterr()
    command(owned, what, "archive", "list", "--verify", "--output", "json")
    found = json.loads(capfd.readouterr().out)["archives"]
    assert {a["partition"]: a["rows"] for a in found}[name] == 2
    command(owned, what, "archive", "restore", name)
    assert owned.value("SELECT count(*) FROM log_s1") == 4
    assert owned.value("SELECT count(*) FROM log_global") == 4
    for words in (["plan"], ["status"], ["monitor"], ["advise"], ["forecast"], ["doctor"]):
        command(owned, what, *words)
    file = owned.directory / "ws1.tar"
    command(owned, what, "workspace", "export", "ws1", "-o", str(file))
    assert file.exists()
    command(owned, what, "workspace", "purge", "ws1", "--allow", "deletes-data", "--yes")
    assert owned.rows("SELECT DISTINCT workspace_id FROM log_s1") == [("ws2",)]
    assert owned.rows("SELECT DISTINCT workspace_id FROM account_s1") == [("ws2",)]


def test_a_policy_that_hides_rows_from_the_owner_stops_it(
    owned: World, who: Roles, capfd: pytest.CaptureFixture[str]
) -> None:
    """An archive without the hidden rows would be the end of them."""
    what = walled(who)
    owned.apply(what)
    start = now_of(owned)
    put(owned, "ws1", start)
    later = months(start, 4)
    command(owned, what, "maintain", "--now", later.isoformat())
    name = f"log_s1_p{months(start, 0):%Y%m%d}"
    owned.execute(f"CREATE POLICY hides ON {name} AS RESTRICTIVE USING (workspace_id <> 'ws1')")
    assert owned.value(f"SELECT count(*) FROM {name}") == 0
    due = (later + timedelta(days=8)).isoformat()
    command(owned, what, "maintain", "--now", due, code=1)
    assert "row-level security" in capfd.readouterr().err
    with psycopg.connect(owned.dsns["core"], autocommit=True) as connection:
        connection.execute(f"DROP POLICY hides ON {name}")
    command(owned, what, "maintain", "--now", due)
    assert owned.value(f"SELECT to_regclass('{name}')") is None
    assert _rows(owned) == 1


def _rows(world: World) -> Any:
    manifests = [json.loads(f.read_text()) for f in world.directory.glob("archive/**/*.json")]
    return sum(m["rows"] for m in manifests)
