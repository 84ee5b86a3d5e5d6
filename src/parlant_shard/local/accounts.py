"""The account that a local server runs as; PostgreSQL refuses root."""

from __future__ import annotations

import contextlib
import errno
import os
import pwd
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from parlant_shard.errors import ServerError

# Accounts that packages of PostgreSQL make (Debian and Red Hat, macOS, BSD), then the common one.
_ACCOUNTS = ("postgres", "_postgres", "pgsql", "nobody")
_OWN_ACCOUNT = "parlant-shard"

SHORT_TIMEOUT = 30.0  # seconds; `postgres --version` and its like on a machine that is busy


@dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    name: str
    uid: int
    gid: int


def account_of(directory: Path) -> Account | None:
    """Return the account that the server runs as; None for the one that runs this process."""
    if os.geteuid() != 0:
        return None
    with contextlib.suppress(FileNotFoundError):
        owner = os.stat(directory / "data")
        if owner.st_uid != 0:
            return Account(name=str(owner.st_uid), uid=owner.st_uid, gid=owner.st_gid)
    for name in (*_ACCOUNTS, _OWN_ACCOUNT):
        if (known := _known_account(name)) is not None:
            return known
    useradd = shutil.which("useradd", path="/usr/sbin:/sbin:/usr/bin:/bin")
    if useradd is not None:
        command = [useradd, "--system", "--no-create-home", "--shell", "/bin/false", _OWN_ACCOUNT]
        run_as(command, None, timeout=SHORT_TIMEOUT)
        if (made := _known_account(_OWN_ACCOUNT)) is not None:
            return made
    raise ServerError(
        "PostgreSQL refuses to run as root, and there is no other account to run it as",
        code="PS426",
        hint="run the command as an ordinary user, or make an account named `postgres`",
    )


def _known_account(name: str) -> Account | None:
    try:
        entry = pwd.getpwnam(name)
    except KeyError:
        return None
    return Account(name=name, uid=entry.pw_uid, gid=entry.pw_gid)


def run_as(
    command: list[str], account: Account | None, *, timeout: float, output: int = subprocess.PIPE
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


def can_enter(directory: Path, account: Account | None) -> bool:
    if account is None:
        return True
    command = ["/bin/sh", "-c", 'cd "$0"', str(directory)]
    return run_as(command, account, timeout=SHORT_TIMEOUT).returncode == 0
