"""What recording changes of rows costs: the same statements on the same table, with and without.

The strategy document allows 5 ms for a query under audit.
"""

from __future__ import annotations

import statistics
import time
from pathlib import Path

import psycopg

from benchmarks.cluster import fresh, topology
from parlant_shard.apply import apply

Row = tuple[str, str, str, str]

_COLUMNS = "(workspace_id, name, display_name, description, tool_type, parameters)"
_VALUES = "'w0x0', gen_random_uuid()::text, 'n', repeat('d', 500), 'custom', '{\"a\": 1}'"
_ROUNDS = 400


def row_audit(dsns: dict[str, str], home: Path) -> list[Row]:
    """Inserts, updates and deletes of one row and of many; the two tables take turns."""
    server = dict(list(dsns.items())[:1])
    places = {kind: next(iter(fresh(server, f"audit_{kind}").values())) for kind in ("off", "on")}
    for kind, place in places.items():
        audit = f"tables:\n  parlant_tool: {{audit: {str(kind == 'on').lower()}}}\n"
        apply(topology(home, {"core": place}, shards=1, name=f"audit-{kind}", extra=audit))
    connections = {k: psycopg.connect(p, autocommit=True) for k, p in places.items()}
    for connection in connections.values():
        connection.execute("INSERT INTO workspace (id, name) VALUES ('w0x0', 'bench')")
    insert = f"INSERT INTO parlant_tool_s0 {_COLUMNS} SELECT {_VALUES}"
    one = "(SELECT id FROM parlant_tool_s0 LIMIT 1)"
    found: list[Row] = []
    for what, statement, rounds in (
        ("insert of 1 row", insert, _ROUNDS),
        (
            "update of 1 row by its key",
            f"UPDATE parlant_tool_s0 SET description = description || 'x' WHERE id = {one}",
            _ROUNDS,
        ),
        ("delete of 1 row by its key", f"DELETE FROM parlant_tool_s0 WHERE id = {one}", _ROUNDS),
        ("insert of 1,000 rows", f"{insert} FROM generate_series(1, 1000)", 10),
        ("update of 1,000 rows", "UPDATE parlant_tool_s0 SET display_name = 'm'", 10),
    ):
        if what.startswith("update of 1,000"):
            for connection in connections.values():
                connection.execute(
                    "DELETE FROM parlant_tool_s0 WHERE id NOT IN "
                    "(SELECT id FROM parlant_tool_s0 LIMIT 1000)"
                )
                connection.execute("VACUUM ANALYZE parlant_tool_s0")
        times: dict[str, list[float]] = {"off": [], "on": []}
        for number in range(rounds + rounds // 10):
            for kind, connection in connections.items():
                began = time.perf_counter()
                connection.execute(statement, prepare=True)
                if number >= rounds // 10:  # the first tenth warms up
                    times[kind].append((time.perf_counter() - began) * 1000)
        # The faster quarter: what else runs on the machine hits both, but not at the same moment.
        off, on = (statistics.quantiles(times[kind], n=4)[0] for kind in ("off", "on"))
        worst = statistics.quantiles(times["on"], n=100)[98] if rounds > 100 else max(times["on"])
        found.append(
            (
                f"{what}, recorded (99th percentile {worst:.2f} ms)",
                f"{on:.2f} ms",
                f"not recorded {off:.2f} ms: {on - off:+.2f} ms",
                f"{on / off:.2f}x",
            )
        )
    for connection in connections.values():
        connection.close()
    return found
