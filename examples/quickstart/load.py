"""Insert a few rows: people and workspaces on the coordinator, the rest into the shard tables."""

import sys
import time

import psycopg
from psycopg.sql import SQL, Composed, Identifier

from parlant_shard import Topology, load_topology, local

PEOPLE = {"ws1": "ada", "ws2": "ben", "acme": "carla", "globex": "dev"}


def connect(topology: Topology, server: str) -> psycopg.Connection:
    directory = topology.servers[server].embedded
    assert directory is not None  # both servers of this topology are embedded
    return psycopg.connect(local.conninfo(directory), autocommit=True)


def main() -> None:
    topology = load_topology(sys.argv[1])
    with connect(topology, topology.coordinator) as core:
        for workspace, user in PEOPLE.items():
            core.execute('INSERT INTO "user" (id, name) VALUES (%s, %s)', [user, user.title()])
            core.execute(
                "INSERT INTO workspace (id, name, owner_id) VALUES (%s, %s, %s)",
                [workspace, workspace.upper(), user],
            )
    for shard, options in topology.shards.items():
        with connect(topology, options.server) as server:
            wait_for_workspaces(server)
            for workspace in options.workspaces:
                load(server, shard, workspace)


def wait_for_workspaces(server: psycopg.Connection) -> None:
    """Reference tables arrive by replication: foreign keys hold as soon as they are there."""
    while server.execute("SELECT count(*) FROM workspace").fetchone() != (len(PEOPLE),):
        time.sleep(0.05)


def load(server: psycopg.Connection, shard: str, workspace: str) -> None:
    """Insert one agent with one conversation. Without the router, a table is named by its shard."""

    def insert(table: str, columns: str) -> Composed:
        names = [Identifier(column) for column in columns.split()]
        return SQL("INSERT INTO {} ({}) VALUES ({}) RETURNING id").format(
            Identifier(f"{table}_{shard}"),
            SQL(", ").join(names),
            SQL(", ").join(SQL("%s") for _ in names),
        )

    agent = server.execute(
        insert("parlant_agent", "workspace_id created_by name"),
        [workspace, PEOPLE[workspace], "Order desk"],
    ).fetchone()
    assert agent is not None
    session = server.execute(
        insert("parlant_session", "workspace_id agent_id title"),
        [workspace, agent[0], "Where is my order?"],
    ).fetchone()
    assert session is not None
    for offset, kind in enumerate(("customer_message", "tool_call", "agent_message")):
        server.execute(
            insert("parlant_event", "workspace_id session_id offset event_type content"),
            [workspace, session[0], offset, kind, "{}"],
        )


if __name__ == "__main__":
    main()
