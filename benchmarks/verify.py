"""`verify` over a million rows: what each check costs, beside counting the rows."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psycopg

from benchmarks.cluster import fresh, topology
from parlant_shard.apply import apply
from parlant_shard.verify import verify

Row = tuple[str, str, str, str]

_SHARDS = 4
_SESSIONS = 5_000  # of a shard; each has 50 events
_EVENTS = 50


def verifying(dsns: dict[str, str], home: Path) -> list[Row]:
    """A million events (and their sessions) over four shards on two servers."""
    places = fresh(dict(list(dsns.items())[:2]), "verified")
    found = topology(home, places, shards=_SHARDS, name="verified")
    apply(found)
    names = list(places)
    with psycopg.connect(places[names[0]], autocommit=True) as connection:
        connection.execute("INSERT INTO \"user\" (id, name, email) VALUES ('u', 'bench', 'b@b')")
        for shard in range(_SHARDS):
            connection.execute(
                "INSERT INTO workspace (id, name) SELECT %s || i, 'bench' "
                "FROM generate_series(0, 2) i",
                [f"w{shard}x"],
            )
    time.sleep(2)  # the copies come
    shards = [(f"s{n}", places[names[n % len(names)]]) for n in range(_SHARDS)]
    with ThreadPoolExecutor(max_workers=2) as pool:
        list(pool.map(_fill, *zip(*shards, strict=True)))
        began = time.perf_counter()
        total = sum(pool.map(_count, *zip(*shards, strict=True)))
        counting = time.perf_counter() - began
    rows: list[Row] = []
    began = time.perf_counter()
    report = verify(found)
    took = time.perf_counter() - began
    assert report.ok, report.to_text()
    beside = f"counting sessions and events {counting:.2f} s"
    rows.append(
        (
            f"verify, {total:,} rows in {_SHARDS} shards on 2 servers",
            f"{took:.1f} s",
            beside,
            f"{took / counting:.0f}x",
        )
    )
    rows += [
        (f"verify: {c.name}", f"{c.seconds:.2f} s", beside, f"{c.seconds / counting:.1f}x")
        for c in report.checks
        if c.seconds >= 0.1
    ]
    began = time.perf_counter()
    assert verify(found, workspace="w0x0").ok
    one = time.perf_counter() - began
    rows.append(
        (
            "verify --workspace, a twelfth of it",
            f"{one:.1f} s",
            f"all {took:.1f} s",
            f"{one / took:.2f}x",
        )
    )
    return rows


def _fill(shard: str, place: str) -> None:
    """Three workspaces a shard, with agents, sessions and events."""
    with psycopg.connect(place, autocommit=True) as connection:
        connection.execute(
            f"INSERT INTO parlant_agent_{shard} (id, workspace_id, created_by, name) "
            "SELECT gen_random_uuid(), %s || i, 'u', 'agent' FROM generate_series(0, 2) i",
            [f"w{shard[1:]}x"],
        )
        connection.execute(
            f"INSERT INTO parlant_session_{shard} (workspace_id, agent_id, mode) "
            f"SELECT workspace_id, id, 'auto' FROM parlant_agent_{shard}, "
            f"generate_series(1, {_SESSIONS // 3})"
        )
        connection.execute(
            f"INSERT INTO parlant_event_{shard} "
            '(workspace_id, session_id, "offset", event_type, content) '
            "SELECT workspace_id, id, i, 'customer_message', '{\"text\": \"hello\"}' "
            f"FROM parlant_session_{shard}, generate_series(1, {_EVENTS}) i"
        )
        connection.execute("VACUUM ANALYZE")


def _count(shard: str, place: str) -> int:
    with psycopg.connect(place, autocommit=True) as connection:
        row = connection.execute(
            f"SELECT (SELECT count(*) FROM parlant_session_{shard}) "
            f"+ (SELECT count(*) FROM parlant_event_{shard})"
        ).fetchone()
    assert row is not None
    return int(row[0])
