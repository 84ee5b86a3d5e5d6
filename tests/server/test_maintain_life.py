"""Three years of three servers: cron runs by a clock that hurries, while rows are written and read.

PARLANT_SHARD_TEST_FULL=1 makes the clock go day by day instead of ten days at a time.
"""

from __future__ import annotations

import json
import os
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import zstandard
from protocol import World, layout
from test_maintain import cut, months, now_of

from parlant_shard import maintain as upkeep
from servers import Clusters

STEP = timedelta(days=1 if os.environ.get("PARLANT_SHARD_TEST_FULL") == "1" else 10, hours=1)
SHARDS = {"s1": ("core", "a"), "s2": ("east", "b"), "s3": ("west", "c")}
LIFE = layout(
    {shard: (server, [tenant]) for shard, (server, tenant) in SHARDS.items()},
    tables=cut("1 month", 2, retention="3 months", archive="archive/"),
    indexes={"log_recent_idx": {"on": "log", "columns": ["at desc"], "window": "40 days"}},
)


@pytest.fixture
def world(tmp_path: Path, clusters: Clusters) -> World:
    """Give the databases of three servers."""
    return World(tmp_path, clusters, over=3)


class Traffic:
    """Inserts at a moving clock, late rows, and readers, on all servers at once."""

    def __init__(self, world: World, begin: datetime) -> None:
        self.world, self.clock = world, begin
        self.stop = threading.Event()
        self.errors: list[str] = []
        self.written: dict[str, list[str]] = {shard: [] for shard in SHARDS}
        self.threads = [
            threading.Thread(target=self._guarded, args=(shard, action))
            for shard in SHARDS
            for action in (self._write, self._read)
        ]

    def __enter__(self) -> Traffic:
        for thread in self.threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop.set()
        for thread in self.threads:
            thread.join(30)

    def _guarded(self, shard: str, action: Callable[[str, Any], Iterator[None]]) -> None:
        try:
            with self.world.connect(SHARDS[shard][0]) as connection:
                connection.execute("SET statement_timeout = '20s'")
                for _ in action(shard, connection):
                    if self.stop.wait(0.02):
                        return
        except Exception as error:
            self.errors.append(f"{shard}: {error!r}")

    def _write(self, shard: str, connection: Any) -> Iterator[None]:
        tenant = SHARDS[shard][1]
        (item,) = connection.execute(f"SELECT id FROM item_{shard} LIMIT 1").fetchone()
        number = 0
        while True:
            number += 1
            # Most rows are of now, some are late, and some of the next month.
            late = timedelta(days=(0, 0, 0, -20, 0, 25)[number % 6])
            (row,) = connection.execute(
                f"INSERT INTO log_{shard} (workspace_id, item_id, at) VALUES (%s, %s, %s) "
                "RETURNING id",
                [tenant, item, f"{self.clock + late}Z"],
            ).fetchone()
            self.written[shard].append(str(row))
            yield

    def _read(self, shard: str, connection: Any) -> Iterator[None]:
        while True:
            with connection.transaction():
                connection.execute(f"SELECT count(*), max(at) FROM log_{shard}").fetchone()
                time.sleep(0.02)
                connection.execute(f"SELECT count(*) FROM log_{shard}").fetchone()
            yield


def live(world: World, shard: str) -> list[str]:
    """The rows of every table that was ever a partition, attached or not."""
    found = []
    for (name,) in world.rows(
        f"SELECT relname FROM pg_class WHERE relname LIKE 'log\\_{shard}\\_p%' AND relkind = 'r'",
        server=SHARDS[shard][0],
    ):
        found += [
            str(i) for (i,) in world.rows(f'SELECT id FROM "{name}"', server=SHARDS[shard][0])
        ]
    return found


def archived(world: World, shard: str) -> list[str]:
    """The rows of the archives, read by nothing of ours."""
    found = []
    for file in (world.directory / "archive").rglob("*.json"):
        manifest = json.loads(file.read_text())
        if manifest["shard"] != shard:
            continue
        names = [c["name"] for c in manifest["columns"]]
        packed = (file.parent / manifest["file"]["name"]).read_bytes()
        text = zstandard.ZstdDecompressor().decompressobj().decompress(packed).decode()
        rows = [line.split("\t") for line in text.splitlines()]
        assert len(rows) == manifest["rows"]
        found += [row[names.index("id")] for row in rows]
    return found


@pytest.mark.timeout(3600)
def test_three_years(world: World) -> None:
    world.apply(LIFE)
    for shard, (server, tenant) in SHARDS.items():
        world.execute(
            f"INSERT INTO account_{shard} (workspace_id) VALUES ('{tenant}')",
            f"INSERT INTO item_{shard} (workspace_id, account_id) "
            f"SELECT '{tenant}', id FROM account_{shard}",
            server=server,
        )
    topology = world.load(LIFE)
    now = begin = now_of(world)
    with Traffic(world, now) as traffic:
        while now < begin + timedelta(days=3 * 365):
            now += STEP
            report = upkeep.maintain(topology, now=now)
            assert [f.message for f in report.failures] == []
            assert traffic.errors == []
            # Never under premake, on any shard.
            assert {c.horizon.until for c in report.cuts} == {months(now, 3)}
            assert len(report.cuts) == len(SHARDS)
            traffic.clock = now
    assert traffic.errors == []
    assert upkeep.maintain(topology, now=now).postponed == []
    for shard in SHARDS:
        held, packed = live(world, shard), archived(world, shard)
        assert packed, "nothing was archived"
        # Each row is in a table or in an archive, exactly once.
        assert Counter(held + packed) == Counter(traffic.written[shard])
