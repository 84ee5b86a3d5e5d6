"""A cluster behind row-level security, and who may come to it: the application, analytics, others.

Roles are of a whole server, so each world makes up names and drops them at the end.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import psycopg
from client_world import DDL, SHARDS
from protocol import Layout, World, layout
from psycopg.conninfo import make_conninfo
from psycopg.sql import SQL, Identifier, Literal

from parlant_shard.topology import Topology
from servers import Clusters

PASSWORD = "Behind-The-Wall-71c0"
KEY = "0123456789abcdef0123456789abcdef"
OTHER_KEY = "fedcba9876543210fedcba9876543210"
SET = "SELECT set_config('parlant.workspace_id', %s, true)"
KEYED = (
    DDL + "CREATE TABLE api_key (id text PRIMARY KEY, name text, workspace_id text);"
    "CREATE INDEX account_search_idx ON account USING gin "
    "(to_tsvector('english', coalesce(name, ''))) WHERE name <> 'hidden';"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Roles:
    """The names of the roles of one world."""

    application: str
    analytics: str
    stranger: str

    @property
    def all(self) -> tuple[str, ...]:
        return self.application, self.analytics, self.stranger


@contextmanager
def roles(clusters: Clusters) -> Iterator[Roles]:
    """Make roles that may log in and nothing else, on every server; drop them at the end."""
    suffix = secrets.token_hex(4)
    found = Roles(
        application=f"app_{suffix}", analytics=f"analytics_{suffix}", stranger=f"stranger_{suffix}"
    )
    for index in range(clusters.distinct):
        with clusters.get(index).connect() as connection:
            for role in found.all:
                connection.execute(
                    SQL("CREATE ROLE {} LOGIN PASSWORD {}").format(
                        Identifier(role), Literal(PASSWORD)
                    )
                )
    try:
        yield found
    finally:
        for index in range(clusters.distinct):
            for role in found.all:
                drop_role(clusters, index, role)


def drop_role(clusters: Clusters, index: int, role: str) -> None:
    """Drop a role with what was granted to it, in every database."""
    with clusters.get(index).connect() as connection:
        databases = connection.execute(
            "SELECT DISTINCT d.datname FROM pg_shdepend s JOIN pg_database d ON d.oid = s.dbid "
            "WHERE s.refclassid = 'pg_authid'::regclass "
            "AND s.refobjid = (SELECT oid FROM pg_roles WHERE rolname = %s)",
            [role],
        ).fetchall()
        for (database,) in databases:
            with clusters.get(index).connect(database) as inside:
                inside.execute(SQL("DROP OWNED BY {}").format(Identifier(role)))
        connection.execute(SQL("DROP ROLE IF EXISTS {}").format(Identifier(role)))


def behind(found: Roles, *, ddl: str = KEYED, tables: Any = None, **isolation: Any) -> Layout:
    """The layout of `client_world` with the wall."""
    return layout(
        SHARDS,
        ddl=ddl,
        tables={
            "country": {"kind": "reference"},
            "api_key": {"kind": "reference"},
            **(tables or {}),
        },
        isolation={
            "rls": True,
            "role": found.application,
            "analytics": found.analytics,
            **isolation,
        },
        lookup="trusted",
    )


def seen_as(topology: Topology, role: str) -> Topology:
    """The topology as an application has it that connects as this role."""
    servers = {
        name: server.model_copy(update={"dsn": as_role(server.dsn or "", role)})
        for name, server in topology.servers.items()
    }
    return topology.model_copy(update={"servers": servers})


def as_role(dsn: str, role: str) -> str:
    return make_conninfo(dsn, user=role, password=PASSWORD)


def connected(world: World, role: str, server: str = "core") -> psycopg.Connection[Any]:
    return psycopg.connect(as_role(world.dsn(server), role), autocommit=True)
