"""Ask the coordinator about all shards: one federated view per table, named <table>_global."""

import sys

import psycopg

from parlant_shard import load_topology, local

topology = load_topology(sys.argv[1])
directory = topology.servers[topology.coordinator].embedded
assert directory is not None
with psycopg.connect(local.conninfo(directory)) as core:
    rows = core.execute(
        "SELECT a.workspace_id, a.name, count(*) FROM parlant_agent_global a "
        "JOIN parlant_session_global s USING (workspace_id) "
        "JOIN parlant_event_global e ON e.workspace_id = s.workspace_id AND e.session_id = s.id "
        "WHERE s.agent_id = a.id GROUP BY 1, 2 ORDER BY 1"
    ).fetchall()
    for workspace, agent, events in rows:
        print(f"{workspace}: {agent}, {events} events")
    assert len(rows) == 4, rows

    plan = core.execute(
        "EXPLAIN (COSTS OFF) SELECT * FROM parlant_agent_global WHERE workspace_id = 'acme'"
    ).fetchall()
    print("\n".join(line for (line,) in plan))  # the other shards are not asked
    assert "shard_1" not in str(plan), plan
    assert "shard_3" not in str(plan), plan
