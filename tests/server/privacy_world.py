"""The preset on two servers, with rows of five workspaces and what each of them owns."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

import psycopg
from protocol import Layout, World, layout
from psycopg import sql
from tenants import reference_rows, rows

import clocks
from parlant_shard import maintain
from parlant_shard.apply import apply
from parlant_shard.names import suffixed
from parlant_shard.planner import read_servers
from router_cases import TABLES
from servers import Clusters

SHARDS: dict[str, Any] = {
    "shard_1": ["ws_c", "ws_d"],
    "shard_2": ("east", ["ws_e"]),
    "shard_3": ("east", ["ws_a", "ws_b"]),
}
HOMES = {
    "ws_a": ("east", "shard_3"),
    "ws_b": ("east", "shard_3"),
    "ws_c": ("core", "shard_1"),
    "ws_d": ("core", "shard_1"),
    "ws_e": ("east", "shard_2"),
}
OWNED = {"knowledge_base": "kb", "workflow": "wf", "api_key": "key"}
PRESET = layout(
    SHARDS,
    ddl=None,
    schema={"preset": "parlant"},
    tables={
        "parlant_event": {
            "partition": {
                "by": "created_at",
                "every": "1 month",
                "premake": 1,
                "retention": "6 months",
            }
        }
    },
)


def lasting_world(directory: Path, clusters: Clusters) -> World:
    """The world for the fixture of a module; some old partitions of every shard are detached."""
    world = World(directory, clusters, over=2)
    for number, server in enumerate(("core", "east")):
        cluster = clusters.get(number)
        world.dsns[server] = cluster.new_database("v", keep=True)
    topology = world.load(PRESET)
    apply(topology)
    fill(world)
    now = clocks.now()
    report = maintain.maintain(topology, now=now + timedelta(days=110))
    assert not report.failures
    return world


def fill(world: World) -> None:
    shared = reference_rows()
    del shared["billing_plan"]
    with world.connect() as connection:
        for table, found in shared.items():
            load(connection, table, found)
        for ws in HOMES:
            for table, prefix in OWNED.items():
                row = {"id": f"{prefix} of {ws}", "name": f"own {ws}", "workspace_id": ws}
                load(connection, table, [row])
    _arrived(world)
    for ws in HOMES:
        put(world, ws)


def put(world: World, ws: str) -> None:
    """Write the rows of a workspace: events of the last 160 days, one a day."""
    server, shard = HOMES[ws]
    now = clocks.now()
    with world.connect(server) as connection:
        for table, found in rows(ws).items():
            for number, row in enumerate(found):
                row["workspace_id"] = ws
                if table == "parlant_event":
                    row["created_at"] = now - timedelta(days=number)
            load(connection, suffixed(table, shard), found)


def _arrived(world: World) -> None:
    with world.connect("east") as connection:
        for _ in range(600):
            row = connection.execute("SELECT count(*) FROM api_key").fetchone()
            if row is not None and row[0] == 10:
                return
            connection.execute("SELECT pg_sleep(0.05)")
    raise TimeoutError("the reference rows do not reach the copy")


def load(connection: psycopg.Connection[Any], table: str, found: list[dict[str, Any]]) -> None:
    columns = list(found[0])
    statement = sql.SQL("COPY {} ({}) FROM STDIN").format(
        sql.Identifier(table), sql.SQL(", ").join(map(sql.Identifier, columns))
    )
    with connection.cursor().copy(statement) as copy:
        for row in found:
            copy.write_row([row[c] for c in columns])


def holding_tables(world: World, what: Layout, server: str) -> dict[str, str]:
    """Every plain table of the server that could hold rows of a workspace → the column."""
    live, _ = read_servers(world.load(what))
    found = {
        name: "workspace_id"
        for name, table in live[server].tables.items()
        if table.kind.value == "r" and table.column("workspace_id") is not None
    }
    return {**found, "workspace": "id"} if "workspace" in live[server].tables else found


def contents(world: World, what: Layout = PRESET) -> dict[tuple[str, str, str], tuple[int, str]]:
    """Rows and checksum of every workspace in every table of every server."""
    found = {}
    for server in ("core", "east"):
        with world.connect(server) as connection:
            connection.execute("SET TimeZone = UTC")
            for table, column in holding_tables(world, what, server).items():
                query = sql.SQL(
                    "SELECT {0}, count(*), sum(hashtextextended(t::text, 0)::numeric)::text "
                    "FROM {1} t WHERE {0} IS NOT NULL GROUP BY 1"
                ).format(sql.Identifier(column), sql.Identifier("public", table))
                for ws, count, checksum in connection.execute(query):
                    found[server, table, ws] = (count, checksum)
    return found


def of(found: dict[tuple[str, str, str], Any], *workspaces: str) -> dict[Any, Any]:
    return {key: value for key, value in found.items() if key[2] in workspaces}


def total(workspace_rows: dict[str, list[Any]]) -> int:
    assert set(workspace_rows) == set(TABLES.values())
    return sum(map(len, workspace_rows.values()))
