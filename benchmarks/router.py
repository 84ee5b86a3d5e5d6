"""Routing: what it costs to decide, and what a routed query costs beside the same one by hand."""

from __future__ import annotations

import asyncio
import statistics
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import UUID

import psycopg
import sqlglot
from psycopg.conninfo import make_conninfo

from benchmarks.cluster import fresh, topology
from parlant_shard import AsyncRouter, Router
from parlant_shard.apply import apply
from parlant_shard.planner import map_of, read_state
from parlant_shard.router import rewrite
from parlant_shard.topology import Topology

Row = tuple[str, str, str, str]

SESSION = UUID(int=7)
AGENTS = (
    "SELECT id, name, status, last_active_at FROM parlant_agent "
    "WHERE workspace_id = %s AND status = 'active' ORDER BY last_active_at DESC LIMIT 20"
)
SESSIONS = (
    "SELECT id, title, status, last_activity_at FROM parlant_session "
    "WHERE agent_id = %s AND status = 'active' ORDER BY last_activity_at DESC LIMIT 10"
)
EVENTS = (
    'SELECT id, "offset", event_type, content FROM parlant_event WHERE session_id = %s '
    'ORDER BY "offset" LIMIT 50'
)
JOIN = (
    "SELECT a.name, count(DISTINCT s.id) AS sessions, count(e.id) AS events FROM parlant_agent a "
    "LEFT JOIN parlant_session s ON s.agent_id = a.id "
    "LEFT JOIN parlant_event e ON e.session_id = s.id "
    "WHERE a.workspace_id = %s GROUP BY a.id, a.name ORDER BY events DESC LIMIT 10"
)
DOCUMENT: dict[str, tuple[str, list[Any]]] = {
    "agents": (AGENTS, ["w0x0"]),
    "sessions": (SESSIONS, [SESSION]),
    "events": (EVENTS, [SESSION]),
    "3-table join": (JOIN, ["w0x0"]),
}


def routing(dsns: dict[str, str], home: Path) -> list[Row]:
    """The pure decision: a statement seen before, and a new one beside sqlglot's parse alone."""
    found = _cluster(dsns, home, "routing")
    shard_map = map_of(read_state(found))
    rows: list[Row] = []
    for name, (sql, params) in DOCUMENT.items():

        def decide(sql: str = sql, params: list[Any] = params) -> None:
            rewrite(sql, shard_map=shard_map, workspace="w0x0", params=params)

        def parse(sql: str = sql) -> None:
            sqlglot.parse_one(sql, read="postgres")

        seen = _p50(decide, 3000)
        new = _p50(decide, 200, before=_forget)
        alone = _p50(parse, 200)
        rows.append(
            (
                f"route {name}: new statement",
                f"{new:.0f} us",
                f"sqlglot's parse alone {alone:.0f} us",
                f"{new / alone:.1f}x",
            )
        )
        rows.append(
            (
                f"route {name}: seen statement",
                f"{seen:.1f} us",
                f"new {new:.0f} us",
                f"{seen / new:.3f}x",
            )
        )
    return rows


def routed_queries(dsns: dict[str, str], home: Path) -> list[Row]:
    """A point read and the events of a session through the client, beside psycopg by hand."""
    places = fresh(dict(list(dsns.items())[:1]), "routed")
    found = topology(home, places, shards=2, name="routed")
    apply(found)
    place = next(iter(places.values()))
    _fill(place)
    rows: list[Row] = []
    for prepared in (True, False):
        threshold = 5 if prepared else None
        for workers in (1, 8):
            rows += _sync(found, place, threshold, workers)
            rows.append(_async(found, place, threshold, workers))
    return rows


def _sync(found: Topology, place: str, threshold: int | None, workers: int) -> list[Row]:
    options = {"prepare_threshold": threshold, "max_size": 8}
    by_hand = _by_hand(found)
    with Router(found, **options) as router:

        def plain(stop: float, times: list[float]) -> None:
            with psycopg.connect(place, autocommit=True) as connection:
                connection.prepare_threshold = threshold
                _loop(lambda: connection.execute(by_hand, [SESSION]).fetchall(), stop, times)

        def routed(stop: float, times: list[float]) -> None:
            with router.workspace("w0x0") as connection:
                _loop(lambda: connection.execute(EVENTS, [SESSION]).fetchall(), stop, times)

        hand, ours = _side_by_side(plain, routed, workers)
    return [_row("sync", threshold, workers, hand, ours)]


def _async(found: Topology, place: str, threshold: int | None, workers: int) -> Row:
    by_hand = _by_hand(found)

    async def main() -> tuple[float, float]:
        async with AsyncRouter(found, prepare_threshold=threshold, max_size=8) as router:

            async def plain(stop: float, times: list[float]) -> None:
                connection = await psycopg.AsyncConnection.connect(place, autocommit=True)
                connection.prepare_threshold = threshold
                async with connection:
                    while time.perf_counter() < stop:
                        began = time.perf_counter()
                        await (await connection.execute(by_hand, [SESSION])).fetchall()
                        times.append(time.perf_counter() - began)

            async def routed(stop: float, times: list[float]) -> None:
                async with router.workspace("w0x0") as connection:
                    while time.perf_counter() < stop:
                        began = time.perf_counter()
                        await (await connection.execute(EVENTS, [SESSION])).fetchall()
                        times.append(time.perf_counter() - began)

            hand: list[float] = []
            ours: list[float] = []
            for _ in range(_ROUNDS):
                for work, times in ((plain, hand), (routed, ours)):
                    stop = time.perf_counter() + _SLICE
                    await asyncio.gather(*(work(stop, times) for _ in range(workers)))
            return statistics.median(hand), statistics.median(ours)

    hand, ours = asyncio.run(main())
    return _row("async", threshold, workers, hand, ours)


_ROUNDS = 6
_SLICE = 0.4


def _side_by_side(
    plain: Callable[[float, list[float]], None],
    routed: Callable[[float, list[float]], None],
    workers: int,
) -> tuple[float, float]:
    """Medians of both, in short slices that take turns, so that noise meets both alike."""
    hand: list[float] = []
    ours: list[float] = []
    for _ in range(_ROUNDS):
        for work, times in ((plain, hand), (routed, ours)):
            stop = time.perf_counter() + _SLICE
            threads = [threading.Thread(target=work, args=(stop, times)) for _ in range(workers)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
    return statistics.median(hand), statistics.median(ours)


def _loop(work: Callable[[], object], stop: float, times: list[float]) -> None:
    while time.perf_counter() < stop:
        began = time.perf_counter()
        work()
        times.append(time.perf_counter() - began)


def _row(kind: str, threshold: int | None, workers: int, hand: float, ours: float) -> Row:
    how = "prepared" if threshold is not None else "not prepared"
    who = "1 worker" if workers == 1 else f"{workers} workers"
    return (
        f"events of a session, {kind}, {how}, {who}",
        f"{ours * 1e3:.3f} ms",
        f"by hand on the shard {hand * 1e3:.3f} ms",
        f"{ours / hand:.2f}x",
    )


def _by_hand(found: Topology) -> str:
    return EVENTS.replace("FROM parlant_event WHERE", "FROM parlant_event_s0 WHERE").replace(
        "session_id = %s", "workspace_id = 'w0x0' AND session_id = %s"
    )


def _p50(
    work: Callable[[], object], repeat: int, before: Callable[[], None] | None = None
) -> float:
    """The median of many runs, in microseconds of this thread's own time: it waits for nothing."""
    work()
    times = []
    for _ in range(repeat):
        if before is not None:
            before()
        began = time.thread_time()
        work()
        times.append(time.thread_time() - began)
    return statistics.median(times) * 1e6


def _forget() -> None:
    """Empty the caches of analyses and texts."""
    sys.modules["parlant_shard.router.template"].template.cache_clear()  # type: ignore[attr-defined]
    sys.modules["parlant_shard.router.rewrite"]._rendered.cache_clear()  # type: ignore[attr-defined]


def _cluster(dsns: dict[str, str], home: Path, name: str) -> Topology:
    places = fresh(dict(list(dsns.items())[:1]), name)
    found = topology(home, places, shards=2, name=name)
    apply(found)
    return found


def _fill(place: str) -> None:
    with psycopg.connect(make_conninfo(place), autocommit=True) as connection:
        connection.execute("INSERT INTO workspace (id, name) VALUES ('w0x0', 'bench')")
        connection.execute("INSERT INTO \"user\" (id, name, email) VALUES ('u', 'bench', 'b@b')")
        connection.execute(
            "INSERT INTO parlant_agent_s0 (id, workspace_id, created_by, name) "
            "VALUES (gen_random_uuid(), 'w0x0', 'u', 'agent')"
        )
        connection.execute(
            "INSERT INTO parlant_session_s0 (id, workspace_id, agent_id, mode) "
            "SELECT %s, 'w0x0', id, 'auto' FROM parlant_agent_s0",
            [SESSION],
        )
        connection.execute(
            "INSERT INTO parlant_event_s0 "
            '(workspace_id, session_id, "offset", event_type, content) '
            "SELECT 'w0x0', %s, i, 'customer_message', '{\"text\": \"hello\"}' "
            "FROM generate_series(1, 50) i",
            [SESSION],
        )
        connection.execute("ANALYZE")


__all__ = ["routed_queries", "routing"]
