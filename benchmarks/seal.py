"""What sealed foreign keys cost: deletions of reference rows, and inserts on a shard.

A deletion is measured on an open connection, against the same deletion without the trigger that
seals, with one and with two other servers. An insert on a shard is measured against one whose
foreign key refers to the copy, as those of 0.1.0 did. Both sides take turns.
"""

from __future__ import annotations

import statistics
import time
from pathlib import Path

import psycopg
from psycopg.sql import SQL, Identifier

from benchmarks.cluster import fresh
from parlant_shard.apply import apply
from parlant_shard.topology import load_topology

Row = tuple[str, str, str, str]

_SCHEMA = """
CREATE TABLE country (code text PRIMARY KEY, name text);
CREATE TABLE account (
  id uuid PRIMARY KEY DEFAULT gen_random_uuid(), workspace_id text NOT NULL,
  country text REFERENCES country (code), note text
);
"""
_DELETES = 300
_INSERTS = 3000


def sealing(dsns: dict[str, str], home: Path) -> list[Row]:
    """Deletions with one and two other servers, and inserts on one of them."""
    found: list[Row] = []
    for others in (1, 2):
        chosen = dict(list(dsns.items())[: others + 1])
        places = fresh(chosen, f"seal{others}")
        _apply(home / f"seal{others}", places)
        found.append(_deletions(places, others))
        if others == 1:
            found.append(_inserts(places))
    return found


def _apply(home: Path, places: dict[str, str]) -> None:
    home.mkdir()
    (home / "schema.sql").write_text(_SCHEMA, encoding="utf-8")
    lines = ["version: 1", f"name: {home.name}", "servers:"]
    lines += [f'  {name}: {{dsn: "{dsn}"}}' for name, dsn in places.items()]
    lines += [f"coordinator: {next(iter(places))}", "shards:"]
    lines += [f"  s_{name}: {{server: {name}, workspaces: [{name}]}}" for name in places]
    lines += ["schema: {files: [schema.sql]}", "tables: {country: {kind: reference}}"]
    file = home / "topology.yaml"
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")
    apply(load_topology(file))


def _deletions(places: dict[str, str], others: int) -> Row:
    times: dict[str, list[float]] = {"sealed": [], "not": []}
    with psycopg.connect(next(iter(places.values())), autocommit=True) as connection:
        connection.execute("INSERT INTO country SELECT 'k' || n FROM generate_series(1, 2000) n")
        time.sleep(3)  # until the rows have arrived everywhere
        trigger = Identifier("parlant_shard_seal_delete_country")
        for number in range(_DELETES):
            for place, kind in enumerate(times):
                word = SQL("ENABLE" if kind == "sealed" else "DISABLE")
                connection.execute(SQL("ALTER TABLE country {} TRIGGER {}").format(word, trigger))
                key = f"k{2 * number + place + 1}"
                began = time.perf_counter()
                connection.execute("DELETE FROM country WHERE code = %s", [key])
                if number >= _DELETES // 10:  # the first tenth warms up
                    times[kind].append((time.perf_counter() - began) * 1000)
    sealed, plain = (statistics.median(times[kind]) for kind in times)
    worst = statistics.quantiles(times["sealed"], n=20)[18]
    return (
        f"delete of a reference row, sealed on {others} (95th percentile {worst:.2f} ms)",
        f"{sealed:.2f} ms",
        f"without the seal {plain:.2f} ms: {sealed - plain:+.2f} ms",
        f"{sealed / plain:.1f}x",
    )


def _inserts(places: dict[str, str]) -> Row:
    name, dsn = list(places.items())[1]
    times: dict[str, list[float]] = {"key table": [], "copy": []}
    with psycopg.connect(dsn, autocommit=True) as connection:
        sealed = Identifier(f"account_s_{name}")
        connection.execute(SQL("CREATE TABLE as_before (LIKE {} INCLUDING ALL)").format(sealed))
        connection.execute("ALTER TABLE as_before ADD FOREIGN KEY (country) REFERENCES country")
        insert = SQL("INSERT INTO {} (workspace_id, country, note) VALUES (%s, 'k2000', 'n')")
        statements = {"key table": insert.format(sealed)}
        statements["copy"] = insert.format(Identifier("as_before"))
        for number in range(_INSERTS):
            for kind in times if number % 2 else reversed(times):
                began = time.perf_counter()
                connection.execute(statements[kind], [name], prepare=True)
                if number >= _INSERTS // 10:
                    times[kind].append((time.perf_counter() - began) * 1e6)
    ours, before = (statistics.median(times[kind]) for kind in times)
    return (
        "insert on a shard, foreign key to the key table",
        f"{ours:.0f} us",
        f"to the copy {before:.0f} us",
        f"{ours / before:.2f}x",
    )
