"""The role of the application: created where it is missing, wherever the tables are."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest
from protocol import Layout, World, layout
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from parlant_shard.apply import apply
from parlant_shard.cli import run
from parlant_shard.errors import PrivilegeError
from parlant_shard.planner import make_plan
from servers import Clusters, database_name

pytestmark = pytest.mark.needs(superuser=True)

SHARDS = {"s1": ["a"], "s2": ("east", ["b"])}
PASSWORD = "Tell-Nobody-19b3e6"
Named = Callable[[str], str]


@pytest.fixture
def named(clusters: Clusters) -> Iterator[Named]:
    """Give a function that makes up the name of a role; it is dropped everywhere afterwards."""
    names: list[str] = []

    def name(prefix: str) -> str:
        names.append(f"{prefix}_{secrets.token_hex(4)}")
        return names[-1]

    yield name
    clusters.drop_databases()
    for index in range(clusters.distinct):
        with clusters.get(index).connect() as connection:
            for role in reversed(names):
                connection.execute(f'DROP ROLE IF EXISTS "{role}"')


def roles(world: World, role: str, *, server: str = "core") -> list[tuple[object, ...]]:
    return world.rows(
        "SELECT rolcanlogin, rolbypassrls, rolsuper, rolcreaterole FROM pg_roles "
        f"WHERE rolname = '{role}'",
        server=server,
    )


def asking(role: str, **isolation: object) -> Layout:
    return layout(SHARDS, servers=("east", "spare"), isolation={"role": role, **isolation})


def test_a_missing_role_is_created(tmp_path: Path, clusters: Clusters, named: Named) -> None:
    world = World(tmp_path, clusters, over=2)
    role = named("app")
    what = asking(role)
    plan = world.plan(what)
    steps = [s for s in plan.steps if "role" in s.title]
    assert [(s.server, s.title, s.shard) for s in steps] == [
        ("core", f'create role "{role}" of the application', None),
        ("east", f'create role "{role}" of the application', None),
    ]
    assert {(s.transactional, s.hazards, s.lock) for s in steps} == {(True, (), None)}
    assert not [n for n in plan.notices if "isolation" in n]
    world.converge(what)
    for server in ("core", "east"):
        assert roles(world, role, server=server) == [(False, False, False, False)]
    # Dropped by hand, it is made again.
    world.execute(f'DROP OWNED BY "{role}"', f'DROP ROLE "{role}"', server="east")
    remaining = make_plan(world.load(what)).steps
    assert {s.title for s in remaining} == {f'create role "{role}" of the application'}
    assert "east" in {s.server for s in remaining}
    world.converge(what)


def test_databases_of_one_server_have_one_role(
    tmp_path: Path, clusters: Clusters, named: Named
) -> None:
    """Both lanes create it at once; the second finds it made, or waits for the first."""
    world = World(tmp_path, clusters)
    for _ in range(3):
        role = named("app")
        plan = world.plan(asking(role))
        assert [s.server for s in plan.steps if "role" in s.title] == ["core", "east"]
        world.converge(asking(role))
        assert roles(world, role) == [(False, False, False, False)]


def test_a_role_that_is_there_needs_no_step(
    tmp_path: Path, clusters: Clusters, named: Named
) -> None:
    world = World(tmp_path, clusters)
    role = named("app")
    world.execute(f'CREATE ROLE "{role}" LOGIN')
    assert not [s.title for s in world.plan(asking(role)).steps if "role" in s.title]
    world.converge(asking(role))
    assert roles(world, role) == [(True, False, False, False)]


def test_a_live_schema_may_grant_to_it_before_it_is_everywhere(
    tmp_path: Path, clusters: Clusters, named: Named
) -> None:
    if clusters.distinct < 2:
        pytest.skip("needs a server that lacks a role of another")
    world = World(tmp_path, clusters, over=2)
    role = named("app")
    world.execute(
        "CREATE TABLE account (id uuid PRIMARY KEY, workspace_id text NOT NULL)",
        f'CREATE ROLE "{role}"',
        f'GRANT SELECT ON account TO "{role}"',
    )
    what = layout(SHARDS, ddl=None, schema={"from": "core"}, isolation={"role": role})
    assert [s.server for s in world.plan(what).steps if "role" in s.title] == ["east"]
    world.converge(what)
    assert world.value(
        f"SELECT has_table_privilege('{role}', 'account_s2', 'SELECT')", server="east"
    )


def test_without_the_right_to_create_roles(
    tmp_path: Path, clusters: Clusters, named: Named, capsys: pytest.CaptureFixture[str]
) -> None:
    world = World(tmp_path, clusters)
    role, owner = named("app"), named("owner")
    superuser = {}
    world.execute(f"CREATE ROLE \"{owner}\" LOGIN CREATEDB PASSWORD '{PASSWORD}'")
    alone = layout({"s1": ["a"]}, isolation={"role": role})
    superuser["core"] = world.dsn("core")
    world.execute(
        f'GRANT CREATE ON DATABASE {database_name(superuser["core"])} TO "{owner}"',
        f'GRANT CREATE ON SCHEMA public TO "{owner}"',
    )
    world.dsns["core"] = make_conninfo(superuser["core"], user=owner, password=PASSWORD)
    topology = world.load(alone)
    for attempt in (make_plan, apply):
        with pytest.raises(PrivilegeError) as refused:
            attempt(topology)
        error = refused.value
        assert (error.code, error.exit_code) == ("PS412", 4)
        assert error.message == (
            f'role "{owner}" may not create the role "{role}" of isolation.role on server "core"'
        )
        assert error.hint == f'on server "core": CREATE ROLE {role} NOLOGIN NOBYPASSRLS'
        assert (error.file, error.path) == (str(topology.file), "isolation.role")
        assert error.line is not None
        assert '"role": ' in topology.file.read_text().splitlines()[error.line - 1]
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("core", world.dsn("core"))
        assert run(["apply", str(topology.file), "--yes"]) == 4
    assert f"CREATE ROLE {role} NOLOGIN NOBYPASSRLS" in capsys.readouterr().err
    with psycopg.connect(superuser["core"], autocommit=True) as connection:
        schemas = "SELECT count(*) FROM pg_namespace WHERE nspname = 'parlant_shard'"
        assert connection.execute(schemas).fetchone() == (0,)
        # The statement of the hint is enough, and so is the right to create roles.
        connection.execute((error.hint or "").partition(": ")[2].encode())
    world.converge(alone)
    with psycopg.connect(superuser["core"], autocommit=True) as connection:
        connection.execute(f'DROP OWNED BY "{role}"')  # what was granted to it
        connection.execute(f'DROP ROLE "{role}"')
        connection.execute(f'ALTER ROLE "{owner}" CREATEROLE')
    world.converge(alone)
    assert roles(world, role) == [(False, False, False, False)]
    assert conninfo_to_dict(world.dsn("core"))["user"] == owner
