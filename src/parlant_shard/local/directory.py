"""The directory of a local server: its lock, its files, and what the file system refuses."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import time
from collections.abc import Iterator
from pathlib import Path

from parlant_shard.errors import ServerError
from parlant_shard.local.accounts import Account

# Where the data and binaries go that the account cannot use at their own place.
STATE = Path("/var/lib/parlant-shard")

_LOCK_TIMEOUT = 300.0  # longer than everything that another process may do under the lock


@contextlib.contextmanager
def explained(directory: Path) -> Iterator[None]:
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
def locked(directory: Path) -> Iterator[None]:
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


def initialised(directory: Path) -> bool:
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


def read_file(path: Path) -> str | None:
    try:
        return path.read_text(errors="replace").strip()
    except FileNotFoundError:
        return None


def write_file(path: Path, text: str, account: Account | None = None) -> None:
    """Replace a file whole, readable by its owner only: this user, or `account`."""
    fresh = path.with_name(path.name + ".new")
    fresh.unlink(missing_ok=True)
    with open(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        if account is not None:
            os.chown(file.fileno(), account.uid, account.gid)
        file.write(text)
    fresh.replace(path)


def state_directory() -> Path:
    if not STATE.is_dir():
        STATE.mkdir(parents=True, exist_ok=True)
        STATE.chmod(0o755)
    return STATE
