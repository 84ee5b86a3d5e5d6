"""`make bench`: a table of measurements, each beside what it is compared with in the same run."""

from __future__ import annotations

import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

import psycopg

from benchmarks.archive import archiving
from benchmarks.audit import row_audit
from benchmarks.cluster import fresh, servers, topology
from benchmarks.rls import row_level_security
from benchmarks.router import routed_queries, routing
from benchmarks.seal import sealing
from benchmarks.upkeep import upkeep_with_others
from benchmarks.verify import verifying
from parlant_shard.apply import apply
from parlant_shard.planner import make_plan, read_servers
from parlant_shard.render import table

Row = tuple[str, str, str, str]


def timed(work: Callable[[], object], repeat: int = 1) -> float:
    """The median of `repeat` runs, in seconds."""
    found = []
    for _ in range(repeat):
        began = time.perf_counter()
        work()
        found.append(time.perf_counter() - began)
    return statistics.median(found)


def plan_and_apply(dsns: dict[str, str], home: Path) -> list[Row]:
    """Apply 8 shards, then 64; a plan with nothing to do, against only reading the catalogues."""
    rows: list[Row] = []
    for shards in (8, 64):
        found = topology(home, fresh(dsns, f"plan{shards}"), shards=shards, name=f"plan{shards}")
        took = timed(lambda t=found: apply(t))
        rows.append((f"apply {shards} shards x 18 tables", f"{took:.1f} s", "", ""))
        reading = timed(lambda t=found: read_servers(t), 3)
        planning = timed(lambda t=found: make_plan(t), 3)
        rows.append(
            (
                f"plan with nothing to do, {shards} x 18",
                f"{planning:.2f} s",
                f"reading the catalogues alone {reading:.2f} s",
                f"{planning / reading:.1f}x",
            )
        )
    return rows


def view_planning(dsns: dict[str, str], home: Path) -> list[Row]:
    """Planning a point query through the federated view, against the shard table itself."""
    rows: list[Row] = []
    server = dict(list(dsns.items())[:1])
    for shards in (8, 32, 64):
        places = fresh(server, f"view{shards}")
        apply(topology(home, places, shards=shards, name=f"view{shards}"))
        with psycopg.connect(next(iter(places.values())), autocommit=True) as connection:

            def planning(name: str, c: psycopg.Connection = connection) -> float:
                query = (
                    "EXPLAIN (SUMMARY, FORMAT JSON) SELECT * FROM "
                    f"{name} WHERE workspace_id = 'w0x0' AND id = gen_random_uuid()"
                )
                times = []
                for _ in range(30):
                    row = c.execute(query).fetchone()
                    assert row is not None
                    times.append(row[0][0]["Planning Time"])
                return statistics.median(times[5:])

            direct, view = planning("parlant_agent_s0"), planning("parlant_agent_global")
        rows.append(
            (
                f"planning through a view over {shards} shards",
                f"{view:.2f} ms",
                f"the shard itself {direct:.2f} ms",
                f"{view / direct:.0f}x",
            )
        )
    return rows


def check_price(dsns: dict[str, str], _home: Path) -> list[Row]:
    """A prepared insert under the CHECK on the key, against the same table without it."""
    from parlant_shard.canonical import list_check

    rows: list[Row] = []
    place = next(iter(fresh(dict(list(dsns.items())[:1]), "price").values()))
    with psycopg.connect(place, autocommit=True) as connection:

        def insert(check: str) -> float:
            connection.execute("DROP TABLE IF EXISTS t")
            connection.execute(f"CREATE TABLE t (workspace_id text, n int{check})")
            query = "INSERT INTO t VALUES (%s, %s)"
            for number in range(200):
                connection.execute(query, ["w0", number], prepare=True)
            return timed(lambda: connection.execute(query, ["w0", 1], prepare=True), 2000)

        for count in (10, 100, 1000):
            plain = insert("")
            names = [f"w{i}" for i in range(count)]
            checked = insert(", CONSTRAINT c " + list_check("workspace_id", "text", names))
            rows.append(
                (
                    f"prepared insert, CHECK of {count} workspaces",
                    f"{checked * 1000:.3f} ms",
                    f"without CHECK {plain * 1000:.3f} ms",
                    f"{checked / plain:.2f}x",
                )
            )
    return rows


def fdw_options(dsns: dict[str, str], home: Path) -> list[Row]:
    """The postgres_fdw settings of ours, each against its opposite, on 40,000 remote rows."""
    rows: list[Row] = []
    places = fresh(dsns, "fdw")
    found = topology(home, places, shards=len(places), name="fdw")
    apply(found)
    servers_ = list(places)
    for number, server in enumerate(servers_):
        with psycopg.connect(places[server], autocommit=True) as connection:
            _fill(connection, places, number)
            connection.execute("ANALYZE")
    with psycopg.connect(places[servers_[0]], autocommit=True) as connection:
        scan = "SELECT count(*), max(length(description)) FROM parlant_tool_global"
        point = "SELECT * FROM parlant_tool_global WHERE workspace_id = 'w1x0' AND name = 't77'"
        remote = [f"parlant_shard_{s}" for s in servers_[1:]]

        def option(name: str, value: str) -> None:
            for server in remote:
                connection.execute(f"ALTER SERVER {server} OPTIONS (SET {name} '{value}')")

        for name, ours, other, query, what in (
            ("async_capable", "true", "false", scan, "scan of all shards"),
            ("fetch_size", "1000", "100", scan, "scan of all shards"),
            ("use_remote_estimate", "false", "true", point, "point read through the view"),
        ):
            option(name, other)
            theirs = timed(lambda q=query: connection.execute(q).fetchall(), 7)
            option(name, ours)
            mine = timed(lambda q=query: connection.execute(q).fetchall(), 7)
            rows.append(
                (
                    f"{what}, {name} = {ours}",
                    f"{mine * 1000:.1f} ms",
                    f"{name} = {other}: {theirs * 1000:.1f} ms",
                    f"{mine / theirs:.2f}x",
                )
            )
    return rows


def _fill(connection: psycopg.Connection, places: dict[str, str], number: int) -> None:
    """Tools refer to their workspace: create it on the coordinator and wait until it is here."""
    with psycopg.connect(next(iter(places.values())), autocommit=True) as coordinator:
        coordinator.execute(
            "INSERT INTO workspace (id, name) VALUES (%s, 'bench') ON CONFLICT DO NOTHING",
            [f"w{number}x0"],
        )
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        if (
            connection.execute("SELECT FROM workspace WHERE id = %s", [f"w{number}x0"]).fetchone()
            is not None
        ):
            break
        time.sleep(0.05)
    connection.execute(
        f"INSERT INTO parlant_tool_s{number} (workspace_id, name, display_name, description, "
        f"tool_type, parameters) SELECT 'w{number}x0', 't' || i, 'n', repeat('d', 200), 'custom', "
        "'{}' FROM generate_series(1, 40000) i"
    )


def waits(dsns: dict[str, str], home: Path) -> list[Row]:
    """How long a reader and a writer of a shard wait while an apply changes it."""
    places = fresh(dict(list(dsns.items())[:1]), "waits")
    first = topology(home, places, shards=2, name="waits")
    apply(first)
    place = next(iter(places.values()))
    with psycopg.connect(place, autocommit=True) as connection:
        connection.execute("INSERT INTO workspace (id, name) VALUES ('w0x0', 'bench')")
    stop, recording = threading.Event(), threading.Event()
    quiet: dict[str, list[float]] = {"read": [], "write": []}
    busy: dict[str, list[float]] = {"read": [], "write": []}
    errors: list[BaseException] = []

    def victim(kind: str, query: str) -> None:
        with psycopg.connect(place, autocommit=True) as connection:
            while not stop.is_set():
                began = time.perf_counter()
                try:
                    connection.execute(query)
                except psycopg.Error as error:
                    errors.append(error)
                (busy if recording.is_set() else quiet)[kind].append(time.perf_counter() - began)

    threads = [
        threading.Thread(target=victim, args=("read", "SELECT count(*) FROM parlant_tool_s0")),
        threading.Thread(
            target=victim,
            args=(
                "write",
                "INSERT INTO parlant_tool_s0 (workspace_id, name, display_name, description, "
                "tool_type, parameters) VALUES ('w0x0', gen_random_uuid()::text, 'n', 'd', "
                "'custom', '{}')",
            ),
        ),
    ]
    for thread in threads:
        thread.start()
    time.sleep(3)
    recording.set()
    changed = topology(
        home,
        places,
        shards=3,
        workspaces=4,
        name="waits",
        extra="indexes:\n  bench_idx: {on: parlant_tool, columns: [display_name, name]}\n",
    )
    apply(changed)
    stop.set()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]
    return [
        (
            f"longest {kind} during an apply ({len(busy[kind])} statements, 0 errors)",
            f"{max(busy[kind]) * 1000:.0f} ms",
            f"before it {max(quiet[kind]) * 1000:.0f} ms",
            f"{max(busy[kind]) / max(quiet[kind]):.1f}x",
        )
        for kind in ("read", "write")
    ]


def main() -> int:
    found = (
        *(plan_and_apply, view_planning, check_price, fdw_options, waits),
        *(routing, routed_queries, upkeep_with_others, archiving),
        *(row_level_security, row_audit, verifying, sealing),
    )
    parts = {f.__name__: f for f in found}
    wanted = sys.argv[1:] or list(parts)
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as home, servers("core", "east", "west") as dsns:
        for name in wanted:
            print(f"{name} ...", file=sys.stderr)
            rows += parts[name](dsns, Path(home))
    print(table(["what", "measured", "beside it, in the same run", "ratio"], rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
