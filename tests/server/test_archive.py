"""Archives: what goes into the file comes out again, and the table goes only then."""

from __future__ import annotations

import hashlib
import json
import stat
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest
import zstandard
from protocol import SCHEMA, Layout, World, layout
from test_maintain import cut, maintain, months, now_of, put, settled

from parlant_shard import maintain as upkeep
from parlant_shard.maintain import Report
from servers import Clusters

pytestmark = pytest.mark.matrix

# Every kind of value whose text has a trap.
RICH = SCHEMA.replace(
    "  body text\n",
    """  body text,
  mood mood,
  doc jsonb,
  tags text[],
  raw bytea,
  amount numeric(12,2),
  ratio double precision,
  span interval,
  day date,
  short bpchar(5),
  flag boolean,
  size integer GENERATED ALWAYS AS (length(body)) STORED
""",
)
RICH = "CREATE TYPE mood AS ENUM ('calm', 'it''s \"odd\"');\n" + RICH
VALUES = (
    r"""E'tab\there', 'calm', '{"a": [1, "\u00e9"]}', ARRAY['x,y', NULL, '"q"'], '\x00ff5c',
    1.50, 0.1, '1 mon 2 days 03:04:05.6', '2026-02-28', 'ab', true""",
    r"""E'line\nbreak\r\\N \\. \\\\', 'it''s "odd"', 'null', '{}', '', 'NaN', 'NaN',
    '-1 day', 'infinity', '', false""",
    "'žluťoučký 🐎', NULL, NULL, NULL, NULL, NULL, '-Infinity', NULL, NULL, NULL, NULL",
    "NULL, NULL, NULL, NULL, NULL, -0.01, 1e-300, NULL, '0044-03-15 BC', NULL, NULL",
    r"E'\\N', NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL",
)


@pytest.fixture
def world(tmp_path: Path, clusters: Clusters) -> World:
    """Give the databases of one server."""
    return World(tmp_path, clusters)


def kept(**more: Any) -> dict[str, Any]:
    more.setdefault("archive", "old/")
    return cut("1 month", 1, retention="2 months", **more)


def fill(world: World, moment: datetime, shard: str = "s1", server: str = "core") -> None:
    """Insert the values, and some more rows."""
    put(world, moment, shard, server)
    columns = "body, mood, doc, tags, raw, amount, ratio, span, day, short, flag"
    for values in VALUES:
        world.execute(
            f"INSERT INTO log_{shard} (workspace_id, item_id, at, {columns}) VALUES ('a', "
            f"(SELECT id FROM item_{shard} LIMIT 1), '{moment.isoformat()}Z', {values})",
            server=server,
        )


def retired(world: World, server: str = "core") -> dict[str, tuple[Any, ...]]:
    rows = world.rows("SELECT name, state, archive, rows FROM parlant_shard.retired", server=server)
    return {name: tuple(more) for name, *more in rows}


def files(world: World) -> list[str]:
    root = world.directory / "old"
    return sorted(str(f.relative_to(root)) for f in root.rglob("*") if f.is_file())


def expire(world: World, what: Layout) -> tuple[datetime, Report]:
    """Detach what the layout's retention ends, and archive it by a later clock."""
    start = now_of(world)
    now = months(start, 4)
    maintain(world, what, now)
    later = now + timedelta(days=8)
    return later, maintain(world, what, later)


def test_a_partition_becomes_a_file(world: World) -> None:
    what = layout({"s1": ["a"]}, ddl=RICH, tables=kept())
    world.apply(what)
    start = now_of(world)
    fill(world, start)
    name = f"log_s1_p{months(start, 0):%Y%m%d}"
    columns = [
        c
        for (c,) in world.rows(
            "SELECT attname FROM pg_attribute WHERE attrelid = 'log_s1'::regclass AND attnum > 0 "
            "AND attgenerated = '' ORDER BY attnum"
        )
    ]
    with world.connect() as connection:
        connection.execute("SET TimeZone = UTC")
        with connection.cursor().copy(f"COPY {name} ({', '.join(columns)}) TO STDOUT") as copy:
            expected = sorted(bytes(row) for row in copy)
    later, report = expire(world, what)
    assert report.exit_code == 0
    assert world.value(f"SELECT to_regclass('{name}')") is None
    state, path, rows = retired(world)[name]
    assert (state, rows) == ("archived", 6)
    root = world.directory / "old"
    manifest = json.loads((root / path).read_text())
    data = (root / path).with_name(manifest["file"]["name"]).read_bytes()
    assert hashlib.sha256(data).hexdigest() == manifest["file"]["sha256"]
    text = zstandard.ZstdDecompressor().decompressobj().decompress(data)
    assert sorted(text.splitlines(keepends=True)) == expected
    settled(world, what, later)
