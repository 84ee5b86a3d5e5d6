"""Real PostgreSQL for tests, from one of three providers.

PARLANT_SHARD_TEST_PROVIDER names it:

- `embedded` (default): up to three servers that `parlant_shard.local` starts in a temporary
  directory, anew for each process of pytest-xdist;
- `dsn`: the servers of PARLANT_SHARD_TEST_DSN, one or several separated by white space (URLs) or
  by lines (`host=... port=...`), used in turn; the role must be able to create databases;
- `testcontainers`: one container each of PARLANT_SHARD_TEST_IMAGE, by default `postgres:15`.

A test says what it needs beyond one server with `@pytest.mark.needs(...)` (the arguments of
`Clusters.need`) and is skipped with a reason where the provider has less.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
import shutil
import socket
import tempfile
import time
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from itertools import groupby
from pathlib import Path
from typing import Any, NoReturn, Protocol

import psycopg
import pytest
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from parlant_shard import ShardError, local

Connection = psycopg.Connection[tuple[Any, ...]]
MAX_CLUSTERS = 3
_SCRATCH = "parlant-shard-tests-"
# Every plan makes a database to read the schema in: in memory that costs a sixth of the time.
_MEMORY = Path("/dev/shm")
_ROOM = 4 * 2**30  # bytes; the three servers of one process of pytest-xdist need some 0.2 of it


class Cluster:
    """One PostgreSQL server, and the databases that tests made on it."""

    def __init__(self, admin_dsn: str, *, peer_address: tuple[str, int] | None = None) -> None:
        self.admin_dsn = admin_dsn
        self._peer_address = peer_address
        self._databases: dict[str, bool] = {}  # name → kept until the session ends

    @cached_property
    def major(self) -> int:
        """The major version of the server."""
        return int(self.setting("server_version_num")) // 10_000

    def setting(self, name: str) -> str:
        """Return a setting of the server as text."""
        with self.connect() as connection:
            row = connection.execute("SELECT current_setting(%s)", [name]).fetchone()
        assert row is not None
        return str(row[0])

    def connect(self, dbname: str | None = None) -> Connection:
        """Open an autocommit connection of the administrator."""
        # Where the server was made without a locale, psycopg would return text as bytes.
        options = {"client_encoding": "UTF8"} | ({"dbname": dbname} if dbname else {})
        return psycopg.connect(
            make_conninfo(self.admin_dsn, connect_timeout=10, **options), autocommit=True
        )

    def new_database(self, prefix: str = "t", *, keep: bool = False) -> str:
        """Create an empty database and return its conninfo.

        It is dropped after the test that runs; with `keep`, when the session ends (for fixtures
        of a wider scope).
        """
        name = f"{prefix}_{secrets.token_hex(5)}"
        with self.connect() as connection:
            # template0 takes no connections, so workers never wait for each other here.
            connection.execute(
                sql.SQL("CREATE DATABASE {} TEMPLATE template0 ENCODING 'UTF8'").format(
                    sql.Identifier(name)
                )
            )
            self._databases[name] = keep
            if connection.info.parameter_status("TimeZone") not in {"UTC", "Etc/UTC"}:
                connection.execute(
                    sql.SQL("ALTER DATABASE {} SET TimeZone = 'UTC'").format(sql.Identifier(name))
                )
        return make_conninfo(self.admin_dsn, dbname=name)

    def peer_dsn(self, conninfo: str) -> str:
        """Return the conninfo by which *another cluster* reaches a database of this one.

        It is the same text except for containers whose own address this machine cannot reach.
        """
        if self._peer_address is None:
            return conninfo
        host, port = self._peer_address
        return make_conninfo(conninfo, host=host, port=port)

    def let_go(self, dsn: str) -> None:
        """Let a database that was kept be dropped after the test that runs, or the next."""
        self._databases[database_name(dsn)] = False

    def expired(self, *, everything: bool) -> list[str]:
        """Return the databases to drop now."""
        return [name for name, keep in self._databases.items() if everything or not keep]

    def drop_subscriptions(self, admin: Connection, databases: Sequence[str]) -> set[str]:
        """Drop the subscriptions in databases without asking their publishers; return the slots.

        Terminates all connections to such a database first: what a failed test left must not block.
        """
        slots: set[str] = set()
        found = admin.execute(
            "SELECT d.datname, s.subname, s.subslotname FROM pg_subscription s "
            "JOIN pg_database d ON d.oid = s.subdbid WHERE d.datname = ANY(%s)",
            [list(databases)],
        ).fetchall()
        for name, of_database in groupby(sorted(found), key=lambda row: row[0]):
            try:
                connection = self.connect(name)
            except psycopg.OperationalError:
                continue  # the test itself dropped it, or it takes no connections
            with connection:
                connection.execute("SET lock_timeout = '10s'; SET statement_timeout = '30s'")
                connection.execute(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> "
                    "pg_backend_pid() AND datname = current_database() "
                    "AND backend_type = 'client backend'"
                )
                for _, subscription, slot in of_database:
                    named = sql.Identifier(subscription)
                    for statement in (
                        "ALTER SUBSCRIPTION {} DISABLE",
                        "ALTER SUBSCRIPTION {} SET (slot_name = NONE)",
                        "DROP SUBSCRIPTION {}",
                    ):
                        connection.execute(sql.SQL(statement).format(named))
                    if slot:
                        slots.add(slot)
        return slots

    def drop_slots(self, admin: Connection, databases: Sequence[str], slots: Iterable[str]) -> None:
        """Drop the replication slots of databases and those with these names."""
        deadline = time.monotonic() + 20
        while left := admin.execute(
            "SELECT slot_name, active_pid FROM pg_replication_slots "
            "WHERE database = ANY(%s) OR slot_name = ANY(%s)",
            [list(databases), list(slots)],
        ).fetchall():
            for slot, pid in left:
                if pid is not None:
                    admin.execute("SELECT pg_terminate_backend(%s)", [pid])
                # Its walsender may take a moment to go: tried again until the deadline.
                with contextlib.suppress(
                    psycopg.errors.ObjectInUse, psycopg.errors.UndefinedObject
                ):
                    admin.execute("SELECT pg_drop_replication_slot(%s)", [slot])
            if time.monotonic() > deadline:
                raise TimeoutError(f"replication slots stay in use: {left}")

    def drop_database(self, name: str) -> None:
        """Drop a database whatever is connected to it."""
        with self.connect() as admin:
            self.drop(admin, [name])

    def drop(self, admin: Connection, databases: Iterable[str]) -> None:
        """Drop databases whatever is connected to them."""
        for name in databases:
            drop = sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name))
            for attempt in range(5):
                try:
                    admin.execute(drop)
                    break
                except psycopg.errors.ObjectInUse:
                    if attempt == 4:
                        raise
                    time.sleep(0.2 * 2**attempt)  # a worker of a dropped subscription
            self._databases.pop(name, None)


class Clusters(ABC):
    """The servers of a provider: `get(i)` starts the i-th one when it is first asked for."""

    def __init__(self, distinct: int) -> None:
        self.distinct = distinct
        self._started: dict[int, Cluster] = {}

    def get(self, index: int = 0) -> Cluster:
        """Return a cluster; where the provider has fewer, several numbers mean the same one."""
        if not 0 <= index < MAX_CLUSTERS:
            raise IndexError(f"there are clusters 0 to {MAX_CLUSTERS - 1}, not {index}")
        number = index % self.distinct
        if number not in self._started:
            self._started[number] = self._start(number)
        return self._started[number]

    def need(
        self,
        *,
        clusters: int = 1,
        major: int = 15,
        logical: bool = False,
        superuser: bool = False,
        extensions: Sequence[str] = (),
    ) -> None:
        """Skip the running test where the provider has less than this on the first clusters."""
        if self.distinct < clusters:
            _skip(f"needs {clusters} clusters, the provider has {self.distinct}")
        for index in range(clusters):
            cluster = self.get(index)
            if cluster.major < major:
                _skip(f"needs PostgreSQL {major}, the server has {cluster.major}")
            if logical and cluster.setting("wal_level") != "logical":
                _skip("needs wal_level = logical")
            if superuser and cluster.setting("is_superuser") != "on":
                _skip("needs a superuser")
            if extensions:
                with cluster.connect() as connection:
                    rows = connection.execute("SELECT name FROM pg_available_extensions")
                    if missing := set(extensions) - {row[0] for row in rows}:
                        _skip(f"needs the extensions {', '.join(sorted(missing))}")

    def drop_databases(self, *, everything: bool = False) -> None:
        """Drop what tests created: subscriptions, then slots, then databases, on all clusters."""
        expired = {
            cluster: names
            for cluster in self._started.values()
            if (names := cluster.expired(everything=everything))
        }
        if not expired:
            return
        slots: set[str] = set()
        with contextlib.ExitStack() as stack:
            admins = {c: stack.enter_context(c.connect()) for c in self._started.values()}
            for cluster, names in expired.items():
                slots |= cluster.drop_subscriptions(admins[cluster], names)
            for cluster, admin in admins.items():
                cluster.drop_slots(admin, expired.get(cluster, []), slots)
            for cluster, names in expired.items():
                cluster.drop(admins[cluster], names)

    def close(self) -> None:
        """Drop all databases and stop what was started."""
        try:
            self.drop_databases(everything=True)
        finally:
            self._started.clear()
            self._stop()

    @abstractmethod
    def _start(self, number: int) -> Cluster: ...

    @abstractmethod
    def _stop(self) -> None: ...


def provide() -> Clusters:
    """Return the clusters of the provider that the environment names; nothing starts yet."""
    match os.environ.get("PARLANT_SHARD_TEST_PROVIDER") or "embedded":
        case "embedded":
            return _Embedded()
        case "dsn":
            return _Dsn(os.environ.get("PARLANT_SHARD_TEST_DSN", ""))
        case "testcontainers":
            return _Containers(os.environ.get("PARLANT_SHARD_TEST_IMAGE") or "postgres:15")
        case other:
            raise pytest.UsageError(
                f'PARLANT_SHARD_TEST_PROVIDER is "{other}", not embedded, dsn or testcontainers'
            )


class _Embedded(Clusters):
    def __init__(self) -> None:
        super().__init__(MAX_CLUSTERS)
        self._stack = contextlib.ExitStack()
        self._scratch: Path | None = None

    def _start(self, number: int) -> Cluster:
        if self._scratch is None:
            self._scratch = self._stack.enter_context(scratch_space())
        directory = self._scratch / f"cluster{number}"
        local.up(directory, durable=False)
        cluster = Cluster(local.conninfo(directory))
        if cluster.major >= 16:
            _cheap_login(cluster)
        return cluster

    def _stop(self) -> None:
        self._stack.close()
        self._scratch = None


def _cheap_login(cluster: Cluster) -> None:
    """Keep the password, but not what each of thousands of logins pays against guessing it."""
    login = conninfo_to_dict(cluster.admin_dsn)
    with cluster.connect() as connection:
        connection.execute("SET scram_iterations = 1")
        connection.execute(
            sql.SQL("ALTER ROLE {} PASSWORD {}").format(
                sql.Identifier(str(login["user"])), sql.Literal(login["password"])
            )
        )


def scratch_directory(prefix: str = _SCRATCH) -> Path:
    """Make a temporary directory which PostgreSQL's account can enter when root runs the tests.

    pytest's own are closed to others, and so the data would lie elsewhere. It lies in memory where
    there is room: nothing here tests that data outlive the machine. The caller removes it.
    """
    directory = Path(tempfile.mkdtemp(prefix=prefix, dir=_roomy()))
    directory.chmod(0o711)
    return directory


def _roomy() -> Path | None:
    """Return the directory in memory; None where the usual one for temporary files does better."""
    if "TMPDIR" in os.environ or not os.access(_MEMORY, os.W_OK | os.X_OK):
        return None
    return _MEMORY if shutil.disk_usage(_MEMORY).free >= _ROOM else None


@contextlib.contextmanager
def scratch_space() -> Iterator[Path]:
    """Give such a directory for local servers; what runs there is stopped and removed afterwards.

    When this process is killed, the next session does that: a lock tells that nobody uses it.
    """
    _remove_scratch_of_dead_sessions()
    unnamed = scratch_directory(f"new-{_SCRATCH}")
    alive = os.open(unnamed / "alive", os.O_RDWR | os.O_CREAT)
    fcntl.flock(alive, fcntl.LOCK_EX)
    # Renamed when the lock is held: another session never sees it without.
    scratch = unnamed.rename(unnamed.with_name(unnamed.name.removeprefix("new-")))
    try:
        yield scratch
        _remove_scratch(scratch)
    finally:
        os.close(alive)


def _remove_scratch(scratch: Path) -> None:
    for directory in scratch.iterdir():
        if directory.is_dir():
            local.remove(directory)
    shutil.rmtree(scratch, ignore_errors=True)


def _remove_scratch_of_dead_sessions() -> None:
    """Stop the servers of sessions that were killed: nobody holds the lock of their directory."""
    places = {Path(tempfile.gettempdir()), _MEMORY}
    for scratch in (found for place in places for found in place.glob(_SCRATCH + "*")):
        with contextlib.suppress(OSError, ShardError):
            alive = os.open(scratch / "alive", os.O_RDWR)
            try:
                fcntl.flock(alive, fcntl.LOCK_EX | fcntl.LOCK_NB)
                _remove_scratch(scratch)
            finally:
                os.close(alive)


class _Dsn(Clusters):
    def __init__(self, text: str) -> None:
        self._dsns = text.split() if "://" in text else text.strip().splitlines()
        if not self._dsns:
            raise pytest.UsageError("PARLANT_SHARD_TEST_DSN is empty")
        super().__init__(min(len(self._dsns), MAX_CLUSTERS))

    def _start(self, number: int) -> Cluster:
        return Cluster(make_conninfo(self._dsns[number]))

    def _stop(self) -> None:
        pass


class _Containers(Clusters):
    def __init__(self, image: str) -> None:
        super().__init__(MAX_CLUSTERS)
        self._image = image
        self._containers: list[Any] = []

    def _start(self, number: int) -> Cluster:
        from testcontainers.core.container import DockerContainer

        password = secrets.token_urlsafe(12)
        here = ("listen_addresses", "unix_socket_directories")  # the image knows better
        settings = {name: value for name, value in local.SETTINGS.items() if name not in here}
        settings |= {"fsync": "off", "shared_preload_libraries": "pg_stat_statements"}
        command = ["postgres"]
        for name, value in settings.items():
            command += ["-c", f"{name}={value}"]
        container = (
            DockerContainer(self._image)
            .with_env("POSTGRES_PASSWORD", password)
            .with_exposed_ports(5432)
            .with_command(command)
            .with_kwargs(shm_size="256m")  # parallel queries; Docker's own limit is 64 MB
        )
        self._containers.append(container)  # first: it may exist even when its start fails
        container.start()
        own = self._own_address(container)
        login = make_conninfo(user="postgres", password=password, dbname="postgres")
        # The mapped port of the host cannot be reached from another container. Its own address
        # can, and mostly from here too: then one conninfo does for everybody.
        if own is not None and _answers(*own):
            cluster = Cluster(make_conninfo(login, host=own[0], port=own[1]))
        else:
            host = str(container.get_container_host_ip())
            port = int(container.get_exposed_port(5432))
            cluster = Cluster(make_conninfo(login, host=host, port=port), peer_address=own)
        _await_connection(cluster)
        return cluster

    @staticmethod
    def _own_address(container: Any) -> tuple[str, int] | None:
        wrapped = container.get_wrapped_container()
        wrapped.reload()
        for network in wrapped.attrs["NetworkSettings"]["Networks"].values():
            if network.get("IPAddress"):
                return str(network["IPAddress"]), 5432
        return None

    def _stop(self) -> None:
        for container in self._containers:
            container.stop()
        self._containers.clear()


def _answers(host: str, port: int) -> bool:
    """Say whether a port opens within the time that an image needs to initialise."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        try:
            socket.create_connection((host, port), timeout=2).close()
        except ConnectionRefusedError:
            time.sleep(0.2)  # there is a way to it, but the server is not up yet
        except OSError:
            return False
        else:
            return True
    return False


def _await_connection(cluster: Cluster) -> None:
    deadline = time.monotonic() + 90
    while True:
        try:
            cluster.connect().close()
            return
        except psycopg.OperationalError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.2)


def _skip(reason: str) -> NoReturn:
    pytest.skip(f"{os.environ.get('PARLANT_SHARD_TEST_PROVIDER') or 'embedded'}: {reason}")


def database_name(conninfo: str) -> str:
    """Return the name of the database that a conninfo means."""
    return str(conninfo_to_dict(conninfo)["dbname"])


def each(conninfos: Iterable[str]) -> Iterator[psycopg.Connection[tuple[Any, ...]]]:
    """Open an autocommit connection to each database, one after the other."""
    for conninfo in conninfos:
        with psycopg.connect(conninfo, autocommit=True) as connection:
            yield connection


class MakeDatabases(Protocol):
    """Create `n` empty databases, spread in turn over the first `clusters` clusters."""

    def __call__(self, n: int, clusters: int | None = None) -> list[str]:
        """Return their conninfos."""
