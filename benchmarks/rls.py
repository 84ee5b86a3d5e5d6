"""Row-level security: what a statement costs with it, beside the same one without, in one run."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psycopg
from psycopg.conninfo import make_conninfo

from benchmarks.cluster import fresh, topology
from parlant_shard import Router
from parlant_shard.apply import apply
from parlant_shard.topology import Topology

Row = tuple[str, str, str, str]

WORKSPACES = 20
AGENTS = 40_000
ROLE = "bench_application"
PASSWORD = "bench-application"  # of servers that live as long as the benchmark
KEY = "0123456789abcdef0123456789abcdef"
KINDS = {
    "plain": f"isolation: {{rls: true, role: {ROLE}}}",
    "signed": f"isolation: {{rls: true, signed: true, role: {ROLE}, key: {KEY}}}",
}
POINT = "SELECT name, status FROM parlant_agent WHERE id = %s"
VECTOR = (
    "to_tsvector('english', coalesce(name, '') || ' ' || coalesce(description, '') || ' ' || "
    "coalesce(system_prompt, ''))"
)
SEARCH = (
    f"SELECT id, name FROM parlant_agent WHERE {VECTOR} @@ plainto_tsquery('english', %s) "
    "AND deleted_at IS NULL"
)
# The same condition in a form in which the router does not know it: the policy keeps the index.
UNKNOWN = SEARCH.replace("coalesce(system_prompt, '')", "coalesce(system_prompt, '') || ''")


def row_level_security(dsns: dict[str, str], home: Path) -> list[Row]:
    """Reads through the router with the wall, plain and signed, against those without it."""
    server = dict(list(dsns.items())[:1])
    with psycopg.connect(next(iter(server.values())), autocommit=True) as connection:
        connection.execute(f"CREATE ROLE {ROLE} LOGIN PASSWORD '{PASSWORD}'")
    bare = _world(server, home, "bare", "")
    rows: list[Row] = []
    for kind, isolation in KINDS.items():
        walled = _world(server, home, kind, isolation)
        with Router(bare) as without, Router(_as_application(walled)) as behind:
            for what, sql, params in (
                ("a row by its key", POINT, [_some_id(walled)]),
                ("full text, 2 rows", SEARCH, ["w77 & x7"]),
                ("full text, 40 rows", SEARCH, ["w77"]),
                ("full text, every row of the workspace", SEARCH, ["lorem"]),
                ("full text, a condition no index has", UNKNOWN, ["w77"]),
            ):
                mine, theirs = _in_turns(_call(behind, sql, params), _call(without, sql, params))
                rows.append(
                    (
                        f"{what}, {kind}",
                        f"{mine * 1e3:.3f} ms",
                        f"without row-level security {theirs * 1e3:.3f} ms",
                        f"{mine / theirs:.2f}x",
                    )
                )
            rows.append(_in_transaction(kind, behind, without))
    return rows


def _in_transaction(kind: str, behind: Router, without: Router) -> Row:
    def ten(router: Router) -> Callable[[], object]:
        def work() -> None:
            with router.transaction(workspace="w0x0") as connection:
                for _ in range(10):
                    connection.execute("SELECT count(*) FROM parlant_agent WHERE id = %s", [_NONE])

        return work

    mine, theirs = _in_turns(ten(behind), ten(without))
    return (
        f"a transaction of ten reads, {kind}",
        f"{mine * 1e3:.3f} ms",
        f"without row-level security {theirs * 1e3:.3f} ms",
        f"{mine / theirs:.2f}x",
    )


_NONE = "00000000-0000-0000-0000-000000000000"


def _call(router: Router, sql: str, params: list[Any]) -> Callable[[], object]:
    return lambda: router.execute(sql, params, workspace="w0x0").fetchall()


def _in_turns(one: Callable[[], object], other: Callable[[], object]) -> tuple[float, float]:
    """The 10th percentiles of both, in slices that take turns.

    What disturbs one disturbs the other, and the fastest tenth was disturbed least.
    """
    times: tuple[list[float], list[float]] = ([], [])
    for work in (one, other):
        for _ in range(10):
            work()
    end = time.monotonic() + 6
    while time.monotonic() < end:
        for work, found in zip((one, other), times, strict=True):
            for _ in range(5):
                began = time.perf_counter()
                work()
                found.append(time.perf_counter() - began)
    return statistics.quantiles(times[0], n=10)[0], statistics.quantiles(times[1], n=10)[0]


def _world(server: dict[str, str], home: Path, name: str, isolation: str) -> Topology:
    places = fresh(server, f"rls_{name}")
    found = topology(
        home, places, shards=1, workspaces=WORKSPACES, name=f"rls-{name}", extra=isolation
    )
    apply(found)
    with psycopg.connect(next(iter(places.values())), autocommit=True) as connection:
        connection.execute("INSERT INTO \"user\" (id, name, email) VALUES ('u', 'bench', 'b@b')")
        connection.execute(
            "INSERT INTO workspace (id, name) SELECT 'w0x' || i, 'bench' "
            f"FROM generate_series(0, {WORKSPACES - 1}) i"
        )
        connection.execute(
            "INSERT INTO parlant_agent_s0 (id, workspace_id, created_by, name, description) "
            "SELECT (lpad(to_hex(i), 32, '0'))::uuid, 'w0x' || i %% %s, 'u', 'agent ' || i, "
            "'lorem ipsum dolor sit amet w' || (i / %s) %% 50 + 50 || ' x' || (i / %s) %% 1000 "
            "FROM generate_series(1, %s) i",
            [WORKSPACES, WORKSPACES, WORKSPACES, AGENTS],
        )
        connection.execute("VACUUM ANALYZE")
    return found


def _some_id(found: Topology) -> str:
    dsn = next(iter(found.servers.values())).dsn
    with psycopg.connect(dsn or "") as connection:
        row = connection.execute(
            "SELECT id::text FROM parlant_agent_s0 WHERE workspace_id = 'w0x0' LIMIT 1"
        ).fetchone()
    assert row is not None
    return str(row[0])


def _as_application(found: Topology) -> Topology:
    servers = {
        name: server.model_copy(
            update={"dsn": make_conninfo(server.dsn or "", user=ROLE, password=PASSWORD)}
        )
        for name, server in found.servers.items()
    }
    return found.model_copy(update={"servers": servers})


__all__ = ["row_level_security"]
