"""Start, stop, remove and describe the server of a directory."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from psycopg.conninfo import make_conninfo

from parlant_shard.errors import ServerError
from parlant_shard.local.accounts import Account, account_of, run_as
from parlant_shard.local.binaries import (
    Binaries,
    binaries_for,
    require_same_major,
    statements_library,
)
from parlant_shard.local.data import initialise
from parlant_shard.local.directory import (
    STATE,
    explained,
    initialised,
    locked,
    read_file,
    write_file,
)
from parlant_shard.local.ports import free_port, is_free, kept_port
from parlant_shard.local.postmaster import clear_remains, pid_file, postmaster, serves
from parlant_shard.local.settings import (
    HOST,
    NO_SETTINGS,
    NOT_DURABLE,
    SETTINGS,
    SINCE_18,
    SUPERUSER,
    render_settings,
)

# Seconds.
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


def up(
    directory: Path, *, durable: bool = True, settings: Mapping[str, str] = NO_SETTINGS
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
    with explained(directory):
        directory.mkdir(parents=True, exist_ok=True)
        with locked(directory):
            pid = postmaster(directory)
            if pid is None:
                account = account_of(directory)
                binaries = binaries_for(account)
                if not initialised(directory):
                    initialise(directory, binaries, account, durable=durable)
                require_same_major(directory, binaries)
                config = {
                    **SETTINGS,
                    **(SINCE_18 if int(binaries.major) >= 18 else {}),
                    **({} if durable else NOT_DURABLE),
                    **settings,
                }
                _start(directory, binaries, account, config)
            elif not _await_ready(directory, pid):
                raise _start_failed(directory, _log_tail(directory, 0))
            return _describe(directory)


def down(directory: Path) -> bool:
    """Stop the server of `directory`; return False when it was not running.

    Raises ServerError PS425 when it does not stop, PS426 and PS427 as `up` does.
    """
    directory = Path(os.path.abspath(directory))
    with explained(directory):
        if not directory.is_dir():
            return False
        with locked(directory):
            return _stop(directory)


def remove(directory: Path) -> None:
    """Stop the server of `directory` and delete it with all its data, also when they lie elsewhere.

    Does nothing when there is no such directory. Raises as `down` does.
    """
    directory = Path(os.path.abspath(directory))
    with explained(directory):
        if not directory.is_dir():
            return
        with locked(directory):
            _stop(directory)
            home = (directory / "data").resolve().parent
            if home.parent == STATE.resolve():
                shutil.rmtree(home, ignore_errors=True)
            shutil.rmtree(directory)


def status(directory: Path) -> LocalServer | None:
    """Describe the server of `directory`; None when it was never initialised.

    Raises ServerError PS426 when its files may not be read.
    """
    directory = Path(os.path.abspath(directory))
    with explained(directory):
        return _describe(directory) if initialised(directory) else None


def conninfo(directory: Path, dbname: str = "postgres") -> str:
    """Return the libpq connection string of the superuser, with the password.

    Does not look whether the server runs. Raises ServerError PS421 when there is none to run.
    """
    directory = Path(os.path.abspath(directory))
    with explained(directory):
        password = directory / "password"
        if not initialised(directory) or not password.exists():
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
    pid = postmaster(directory)
    port = pid_file(directory)[3:4] if pid is not None else []
    return LocalServer(
        directory=directory,
        port=int(port[0]) if port and port[0].isdecimal() else kept_port(directory) or 0,
        running=pid is not None,
        pid=pid,
        version=read_file(directory / "version")
        or read_file(directory / "data" / "PG_VERSION")
        or "",
    )


def _start(
    directory: Path, binaries: Binaries, account: Account | None, config: Mapping[str, str]
) -> None:
    data = (directory / "data").resolve()
    log = directory / "log"
    library = statements_library(binaries)
    port = kept_port(directory)
    pg_ctl = [str(binaries.directory / "pg_ctl"), "start", "--silent", "--wait"]
    pg_ctl += [f"--timeout={_START_TIMEOUT:.0f}", f"--pgdata={data}"]
    said: list[str] = []
    for attempt in range(_START_ATTEMPTS):
        clear_remains(directory)
        if port is None or not is_free(port):
            port = free_port()
        if kept_port(directory) != port:
            write_file(directory / "port", str(port))
        text = render_settings({**library, **config}, port)
        write_file(data / "parlant-shard.conf", text, account)
        begin = log.stat().st_size if log.exists() else 0
        # Opened here and inherited: the account may not be able to write below the directory.
        with open(os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), "ab") as output:
            run_as(pg_ctl, account, timeout=_START_TIMEOUT + 30, output=output.fileno())
        pid = postmaster(directory)
        if pid is not None and _await_ready(directory, pid):
            write_file(directory / "version", binaries.version)
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


def _stop(directory: Path) -> bool:
    pid = postmaster(directory)
    if pid is None:
        return False
    # Fast first. Immediate when something keeps it (a stuck archiver, a subscriber that does not
    # read): the next start recovers.
    for number, timeout in ((signal.SIGINT, _STOP_TIMEOUT), (signal.SIGQUIT, _ABORT_TIMEOUT)):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline:
            if postmaster(directory) is None and not serves(pid, directory):
                return True
            time.sleep(0.02)
    raise ServerError(
        f'the local server in "{directory}" (process {pid}) does not stop',
        code="PS425",
        hint=f'see "{directory / "log"}"',
    )


def _await_ready(directory: Path, pid: int) -> bool:
    deadline = time.monotonic() + _START_TIMEOUT
    while time.monotonic() < deadline and postmaster(directory) == pid:
        if [line.strip() for line in pid_file(directory)[7:8]] == ["ready"]:
            return True
        time.sleep(0.05)
    return False
