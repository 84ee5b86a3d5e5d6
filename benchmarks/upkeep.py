"""`maintain` beside pg-partsmith and pg_partman, on the same tables in the same run.

pg_partman is an extension: its files are taken from PARLANT_SHARD_BENCH_PARTMAN, a directory that
has `extension/pg_partman.control` (the Debian package postgresql-15-partman, unpacked, has one in
usr/share/postgresql/15). What is not there is left out of the table.
"""

from __future__ import annotations

import multiprocessing
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from multiprocessing.queues import Queue
from multiprocessing.synchronize import Event
from pathlib import Path

import psycopg
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from psycopg.sql import SQL, Identifier, Literal

from parlant_shard import local
from parlant_shard import maintain as upkeep
from parlant_shard.apply import apply
from parlant_shard.topology import Topology, load_topology

Row = tuple[str, str, str, str]

TABLES = 10
PARTITIONS = 100
_SCHEMA = (
    "CREATE TABLE metric (id bigint NOT NULL, workspace_id text NOT NULL, value float8, "
    "at timestamp NOT NULL, PRIMARY KEY (id, at));\nCREATE INDEX metric_at_idx ON metric (at);\n"
)


def _topology(home: Path, dsn: str, name: str, premake: int, retention: int) -> Topology:
    """Load a topology of ten shards, whose one table is cut by days."""
    (home / f"{name}.sql").write_text(_SCHEMA, encoding="utf-8")
    shards = "".join(f"  s{i}: {{server: core, workspaces: [w{i}]}}\n" for i in range(TABLES))
    file = home / f"{name}.yaml"
    file.write_text(
        f"version: 1\nname: {name}\nschema: {{files: [{name}.sql]}}\nkey: workspace_id\n"
        f'servers: {{core: {{dsn: "{dsn}"}}}}\ncoordinator: core\nshards:\n{shards}'
        "tables:\n  metric: {partition: {by: at, every: 1 day, "
        f"premake: {premake}, retention: {retention} days}}}}\n",
        encoding="utf-8",
    )
    return load_topology(file)


def _plain(dsn: str, names: list[str]) -> None:
    """Make the same tables without partitions, for the other tools."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        for name in names:
            connection.execute(
                f"CREATE TABLE {name} (id bigint NOT NULL, workspace_id text NOT NULL CHECK "
                "(workspace_id = 'w'), value float8, at timestamp NOT NULL, PRIMARY KEY (id, at)) "
                "PARTITION BY RANGE (at)"
            )
            connection.execute(f"CREATE INDEX ON {name} (at)")


def _database(dsn: str, name: str) -> str:
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute(f'CREATE DATABASE "{name}"')
    return make_conninfo(dsn, dbname=name)


Tool = Callable[[datetime], object]


@dataclass
class Contestant:
    """One tool with its tables: `run` brings them to a moment."""

    name: str
    dsn: str
    tables: list[str]
    run: Tool
    waits: dict[str, float] = field(default_factory=dict)


def _ours(home: Path, dsn: str) -> Contestant:
    place = _database(dsn, "ours")
    topology = _topology(home, place, "ours", 30, PARTITIONS - 31)
    apply(topology)
    return Contestant(
        "maintain",
        place,
        [f"metric_s{i}" for i in range(TABLES)],
        lambda now: _checked(upkeep.maintain(topology, now=now)),
    )


def _checked(report: upkeep.Report) -> None:
    if report.failures or report.postponed:
        raise RuntimeError([*(f.message for f in report.failures), *report.postponed])


def _partsmith(dsn: str) -> Contestant | None:
    try:
        import pg_partsmith
        import sqlalchemy
        from pg_partsmith import sync
    except ImportError:
        return None
    place = _database(dsn, "partsmith")
    tables = [f"metric_s{i}" for i in range(TABLES)]
    _plain(place, tables)
    parts = conninfo_to_dict(place)
    url = sqlalchemy.URL.create(
        "postgresql+psycopg",
        username=str(parts["user"]),
        password=str(parts.get("password") or "") or None,
        host=str(parts["host"]),
        port=int(str(parts["port"])),
        database=str(parts["dbname"]),
    )
    engine = sqlalchemy.create_engine(url, connect_args={"options": "-c TimeZone=UTC"})
    service = sync.PartitionLifecycleService(
        repo=sync.PostgresPartitionRepository(engine),
        metadata=sync.PostgresMetadataProvider(engine),
        locks=sync.PostgresAdvisoryLockManager(engine),
    )
    configs = [
        pg_partsmith.TablePartitionConfig(
            schema="public",
            table_name=table,
            partition_column="at",
            granularity=pg_partsmith.PartitionGranularity.DAY,
            create_ahead_count=31,
            retention_count=PARTITIONS - 31,
        )
        for table in tables
    ]

    def run(now: datetime) -> None:
        for config in configs:
            plan = service.plan(config, now=now.replace(tzinfo=UTC))
            service.apply(config, plan)

    today = datetime.now(UTC).replace(tzinfo=None)
    for days in (PARTITIONS - 31, PARTITIONS - 62, 7):  # it makes what is ahead of its clock
        run(today - timedelta(days=days))
    return Contestant("pg-partsmith", place, tables, run)


@contextmanager
def _partman(dsn: str) -> Iterator[Contestant | None]:
    """pg_partman goes by the server's clock alone: it is measured where nothing is to be done."""
    files = os.environ.get("PARLANT_SHARD_BENCH_PARTMAN")
    if not files:
        yield None
        return
    place = _database(dsn, "partman")
    tables = [f"metric_s{i}" for i in range(TABLES)]
    _plain(place, tables)
    with psycopg.connect(place, autocommit=True) as connection:
        connection.execute("CREATE SCHEMA partman")
        connection.execute("CREATE EXTENSION pg_partman SCHEMA partman")
        for table in tables:
            start = datetime.now(UTC) - timedelta(days=PARTITIONS - 31)
            connection.execute(
                "SELECT partman.create_parent(%s, 'at', 'native', 'daily', p_premake := 30, "
                "p_start_partition := %s)",
                [f"public.{table}", start.date().isoformat()],
            )
            connection.execute(f"DROP TABLE IF EXISTS {table}_default")
        connection.execute(
            "UPDATE partman.part_config SET retention = %s, retention_keep_table = true",
            [f"{PARTITIONS - 31} days"],
        )

        def run(_now: datetime) -> None:
            connection.execute("SELECT partman.run_maintenance(p_analyze := false)")

        yield Contestant("pg_partman", place, tables, run)


def upkeep_with_others(_dsns: dict[str, str], _home: Path) -> list[Row]:
    """Nothing to do over 1,000 partitions; then a day passes, while rows are read and written."""
    settings = {}
    if files := os.environ.get("PARLANT_SHARD_BENCH_PARTMAN"):
        settings["extension_control_path"] = f"$system:{files}"
    with tempfile.TemporaryDirectory(prefix="parlant-shard-bench-") as home:
        directory = Path(home) / "server"
        local.up(directory, durable=False, settings=settings)
        try:
            dsn = local.conninfo(directory)
            with _partman(dsn) as partman:
                found = [_ours(Path(home), dsn), _partsmith(dsn), partman]
                return _measured([c for c in found if c is not None])
        finally:
            local.down(directory)


def _measured(contestants: list[Contestant]) -> list[Row]:
    now = datetime.now(UTC).replace(tzinfo=None)
    rows: list[Row] = []
    idle: dict[str, list[float]] = {c.name: [] for c in contestants}
    for contestant in contestants:
        contestant.run(now)  # settles what the way of making the tables left
    for _ in range(5):  # in turns: what else the machine does meets all of them
        for contestant in contestants:
            began = time.perf_counter()
            contestant.run(now)
            idle[contestant.name].append(time.perf_counter() - began)
    ours = statistics.median(idle["maintain"])
    rows.append((f"nothing to do, {_count(contestants[0])} partitions", f"{ours:.2f} s", "", ""))
    for contestant in contestants[1:]:
        theirs = statistics.median(idle[contestant.name])
        beside = f"{contestant.name}, {_count(contestant)} partitions: {theirs:.2f} s"
        rows.append(("", f"{ours:.2f} s", beside, f"{ours / theirs:.2f}x"))
    took: dict[str, float] = {}
    for contestant in contestants:
        if contestant.name == "pg_partman":
            continue
        took[contestant.name] = _under_load(contestant, now + timedelta(days=1))
    mine = contestants[0]
    rows.append(
        (
            f"a day passes: {TABLES} premade, {TABLES} detached, under load",
            f"{took['maintain']:.1f} s; longest read {_ms(mine, 'read')}, write "
            f"{_ms(mine, 'write')}",
            "",
            "",
        )
    )
    for contestant in contestants[1:]:
        if contestant.name not in took:
            continue
        rows.append(
            (
                "",
                f"{took['maintain']:.1f} s",
                f"{contestant.name}: {took[contestant.name]:.1f} s; longest read "
                f"{_ms(contestant, 'read')}, write {_ms(contestant, 'write')}",
                f"{took['maintain'] / took[contestant.name]:.2f}x",
            )
        )
    return rows


def _count(contestant: Contestant) -> int:
    with psycopg.connect(contestant.dsn) as connection:
        row = connection.execute(
            "SELECT count(*) FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid "
            "WHERE c.relkind = 'r' AND i.inhparent = ANY (%s::regclass[])",
            [contestant.tables],
        ).fetchone()
    assert row is not None
    return int(row[0])


def _ms(contestant: Contestant, kind: str) -> str:
    return f"{contestant.waits[kind] * 1000:.0f} ms"


def _victim(dsn: str, kind: str, table: str, workspace: str, stop: Event, found: Queue) -> None:
    """Read or write until told to stop; a process of its own, so that it waits for PostgreSQL."""
    query = (
        SQL("SELECT count(*) FROM {} WHERE at > now() - interval '2 days'")
        if kind == "read"
        else SQL("INSERT INTO {} SELECT (random() * 1e15)::bigint, {}, 0, now()")
    ).format(Identifier(table), Literal(workspace))
    longest = 0.0
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute(query)
        while not stop.is_set():
            began = time.perf_counter()
            connection.execute(query)
            longest = max(longest, time.perf_counter() - began)
    found.put((kind, longest))


def _under_load(contestant: Contestant, now: datetime) -> float:
    """Run once while a reader and a writer use a table; note their longest statements."""
    context = multiprocessing.get_context("spawn")
    stop, found = context.Event(), context.Queue()
    workspace = "w0" if contestant.name == "maintain" else "w"
    victims = [
        context.Process(
            target=_victim,
            args=(contestant.dsn, kind, contestant.tables[0], workspace, stop, found),
        )
        for kind in ("read", "write")
    ]
    for victim in victims:
        victim.start()
    time.sleep(3)
    began = time.perf_counter()
    contestant.run(now)
    took = time.perf_counter() - began
    stop.set()
    for victim in victims:
        victim.join()
        if victim.exitcode:
            raise RuntimeError(f"{contestant.name}: a reader or writer failed")
    contestant.waits = dict(found.get() for _ in victims)
    return took
