"""Embedded servers and topologies for the benchmarks."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import psycopg

from parlant_shard import local
from parlant_shard.topology import Topology, load_topology


@contextmanager
def servers(*names: str) -> Iterator[dict[str, str]]:
    """Start one embedded server per name; yield their conninfos; stop and remove them."""
    with tempfile.TemporaryDirectory(prefix="parlant-shard-bench-") as home:
        started: list[Path] = []
        try:
            found = {}
            for name in names:
                directory = Path(home) / name
                local.up(directory, durable=False)
                started.append(directory)
                found[name] = local.conninfo(directory)
            yield found
        finally:
            for directory in started:
                local.down(directory)


def fresh(dsns: Mapping[str, str], suffix: str) -> dict[str, str]:
    """Create a database of that name on every server and return their conninfos."""
    found = {}
    for name, dsn in dsns.items():
        with psycopg.connect(dsn, autocommit=True) as connection:
            connection.execute(f'CREATE DATABASE "{suffix}"')
        found[name] = psycopg.conninfo.make_conninfo(dsn, dbname=suffix)
    return found


def topology(
    directory: Path,
    dsns: Mapping[str, str],
    *,
    shards: int,
    workspaces: int = 3,
    name: str = "bench",
    extra: str = "",
) -> Topology:
    """Write and load a topology of the preset with so many shards, spread over the servers."""
    lines = ["version: 1", f"name: {name}", "schema: {preset: parlant}", "servers:"]
    lines += [f'  {server}: {{dsn: "{dsn}"}}' for server, dsn in dsns.items()]
    order = list(dsns)
    lines += [f"coordinator: {order[0]}", "shards:"]
    for number in range(shards):
        members = ", ".join(f"w{number}x{i}" for i in range(workspaces))
        server = order[number % len(order)]
        lines.append(f"  s{number}: {{server: {server}, workspaces: [{members}]}}")
    file = directory / f"{name}.yaml"
    file.write_text("\n".join([*lines, extra]) + "\n", encoding="utf-8")
    return load_topology(file)
