"""A cluster to route to: two servers, three shards, four workspaces, and rows of each."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from protocol import SCHEMA, Layout, World, layout

from parlant_shard.apply import apply
from parlant_shard.topology import Topology
from servers import Clusters

DDL = (
    "CREATE TYPE colour AS ENUM ('red', 'green');"
    "CREATE TABLE country (id text PRIMARY KEY, name text);"
    "CREATE TABLE machine (id int PRIMARY KEY, note text);"
    + SCHEMA.replace("name text\n", "name text,\n  tint colour\n").replace(
        "size integer DEFAULT 0",
        "size integer DEFAULT 0,\n  country_id text REFERENCES country (id),\n  data jsonb",
    )
)
SHARDS: dict[str, Any] = {
    "s1": ["ws1", "ws2"],
    "s2": ("east", ["acme"]),
    "s3": ("east", ["globex"]),
}
WORKSPACES = ("ws1", "ws2", "acme", "globex")
TWO_SERVERS = layout(SHARDS, ddl=DDL, tables={"country": {"kind": "reference"}})

# One account and two items of each workspace, with ids that say whose they are.
ACCOUNTS = {w: f"00000000-0000-0000-0000-00000000000{n}" for n, w in enumerate(WORKSPACES, 1)}
ITEMS = {
    w: [f"00000000-0000-0000-000{n}-00000000000{i}" for i in (1, 2)]
    for n, w in enumerate(WORKSPACES, 1)
}
HOMES = {
    "ws1": ("core", "s1"),
    "ws2": ("core", "s1"),
    "acme": ("east", "s2"),
    "globex": ("east", "s3"),
}


def fill(world: World) -> None:
    """Write the rows of every workspace where they belong, without the router."""
    for workspace, (server, shard) in HOMES.items():
        account = ACCOUNTS[workspace]
        world.execute(
            f"INSERT INTO account_{shard} (id, workspace_id, name, tint) "
            f"VALUES ('{account}', '{workspace}', 'of {workspace}', 'red')",
            *(
                f"INSERT INTO item_{shard} (id, account_id, note, workspace_id) "
                f"VALUES ('{item}', '{account}', 'note {n} of {workspace}', '{workspace}')"
                for n, item in enumerate(ITEMS[workspace], 1)
            ),
            server=server,
        )


def applied(world: World, what: Layout = TWO_SERVERS) -> Topology:
    topology = world.load(what)
    apply(topology)
    return topology


def lasting_world(directory: Path, clusters: Clusters) -> World:
    """A world whose databases stay until the session ends: for the fixture of a module."""
    world = World(directory, clusters)
    for server in ("core", "east"):
        world.dsns[server] = clusters.get(0).new_database("r", keep=True)
    return world
