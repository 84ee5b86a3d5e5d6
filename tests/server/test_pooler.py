"""Plan and apply through PgBouncer: refused per transaction, accepted per session."""

from __future__ import annotations

import os
import pwd
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path

import psycopg
import pytest
from protocol import World, layout
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from parlant_shard.apply import apply
from parlant_shard.cli import run
from parlant_shard.errors import CannotConnect, TopologyError
from parlant_shard.planner import make_plan
from parlant_shard.pooling import Pooling, pooling_of
from parlant_shard.topology import load_topology
from parlant_shard.workspace import place
from servers import Clusters, database_name, scratch_directory

# Debian's package puts it where only root's PATH looks.
BINARY = shutil.which("pgbouncer") or shutil.which("pgbouncer", path="/usr/sbin:/usr/local/sbin")

pytestmark = pytest.mark.skipif(BINARY is None, reason="needs pgbouncer on PATH")

Bouncer = Callable[[str, str], str]
"""Called with a conninfo and a pool mode; returns the conninfo that leads through a pooler."""


@pytest.fixture
def world(tmp_path: Path, clusters: Clusters) -> World:
    return World(tmp_path, clusters)


@pytest.fixture
def bouncer() -> Iterator[Bouncer]:
    assert BINARY is not None
    binary: str = BINARY
    started: list[subprocess.Popen[bytes]] = []
    directories: list[Path] = []

    def start(conninfo: str, mode: str) -> str:
        directory = scratch_directory()
        directories.append(directory)
        with closing(socket.socket()) as probe:
            probe.bind(("127.0.0.1", 0))
            port = int(probe.getsockname()[1])
        behind = {
            name: value
            for name, value in conninfo_to_dict(conninfo).items()
            if name in {"host", "port", "user", "password"}
        }
        # Whoever comes is let in, as the user that the entry names.
        pooled = {"host": "127.0.0.1", "port": port, "dbname": database_name(conninfo)}
        config = directory / "pgbouncer.ini"
        entry = " ".join(f"{name}={value}" for name, value in behind.items())
        config.write_text(
            f"[databases]\n* = {entry}\n[pgbouncer]\nlisten_addr = 127.0.0.1\n"
            f"listen_port = {port}\nunix_socket_dir =\nauth_type = any\npool_mode = {mode}\n"
            "default_pool_size = 10\n"
        )
        config.chmod(0o644)
        # It refuses to run as root, as PostgreSQL does.
        account = pwd.getpwnam("nobody") if os.geteuid() == 0 else None
        process = subprocess.Popen(
            [binary, "--quiet", str(config)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd="/",
            user=None if account is None else account.pw_uid,
            group=None if account is None else account.pw_gid,
            extra_groups=None if account is None else [],
        )
        started.append(process)
        through = make_conninfo(**pooled, user="anybody")
        deadline = time.monotonic() + 20
        while True:
            try:
                psycopg.connect(through).close()
                break
            except psycopg.OperationalError:
                assert process.poll() is None, "pgbouncer ended"
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.1)
        return through

    yield start
    for process in started:
        process.terminate()
        with suppress(subprocess.TimeoutExpired):
            process.wait(10)
        process.kill()
        process.wait()
    for directory in directories:
        shutil.rmtree(directory, ignore_errors=True)


SHARDS = {"s1": ["ws1"]}


@pytest.mark.parametrize("mode", ["transaction", "statement"])
def test_a_pooler_per_transaction_is_refused_before_anything_is_set(
    world: World, bouncer: Bouncer, mode: str, capsys: pytest.CaptureFixture[str]
) -> None:
    direct = world.dsn("core")
    world.dsns["core"] = through = bouncer(direct, mode)
    topology = world.load(layout(SHARDS))
    for attempt in (make_plan, apply, lambda t: place(t, "ws2", "s1")):
        with pytest.raises(TopologyError) as refused:
            attempt(topology)
        error = refused.value
        assert (error.code, error.exit_code) == ("PS170", 4)
        assert error.message == (
            'the dsn of server "core" leads through a pooler in transaction mode, where session '
            "settings, advisory locks and CONCURRENTLY do not work"
        )
        assert error.hint == (
            "give the server's own address as admin_dsn; dsn may stay the pooler's"
        )
        assert (error.path, error.file) == ("servers.core.dsn", str(topology.file))
        assert error.line is not None
        assert topology.file.read_text().splitlines()[error.line - 1].strip().startswith('"dsn":')
    # The connections that the pooler hands to the next client are as they were.
    with psycopg.connect(through, autocommit=True) as connection:
        assert connection.execute("SHOW search_path").fetchone() == ('"$user", public',)
        assert connection.execute("SHOW lock_timeout").fetchone() == ("0",)
    with psycopg.connect(direct) as connection:
        assert connection.execute(
            "SELECT count(*) FROM pg_namespace WHERE nspname = 'parlant_shard'"
        ).fetchone() == (0,)
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("core", through)
        assert run(["apply", str(topology.file), "--yes"]) == 4
    assert "error PS170: " in capsys.readouterr().err


def test_the_servers_own_address_as_admin_dsn_leads_past_it(world: World, bouncer: Bouncer) -> None:
    direct = world.dsn("core")
    file = world.load(layout(SHARDS)).file
    text = file.read_text().replace(
        '"dsn": "${core}"', '"dsn": "${pooled}", "admin_dsn": "${core}"'
    )
    file.write_text(text)
    environ = {"core": direct, "pooled": bouncer(direct, "transaction")}
    topology = load_topology(file, environ=environ)
    assert apply(topology).done
    assert make_plan(topology).steps == ()
    # The other way round, the key with the mistake is named.
    swapped = load_topology(file, environ={"core": environ["pooled"], "pooled": direct})
    with pytest.raises(TopologyError) as refused:
        make_plan(swapped)
    assert refused.value.path == "servers.core.admin_dsn"


def test_a_pooler_per_session_will_do(world: World, bouncer: Bouncer) -> None:
    world.dsns["core"] = through = bouncer(world.dsn("core"), "session")
    assert pooling_of(through, server="core") is Pooling.SESSION
    world.converge(layout(SHARDS))


def test_nobody_answers(world: World, bouncer: Bouncer) -> None:
    through = bouncer(world.dsn("core"), "transaction")
    with pytest.raises(CannotConnect) as refused:
        pooling_of(make_conninfo(through, dbname="nowhere"), server="core")
    assert refused.value.code == "PS401"
