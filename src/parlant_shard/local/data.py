"""Make the data of a local server."""

from __future__ import annotations

import os
import secrets
import shutil
import tempfile
from pathlib import Path

from parlant_shard.errors import ServerError
from parlant_shard.local.accounts import Account, can_enter, run_as
from parlant_shard.local.binaries import Binaries
from parlant_shard.local.directory import STATE, state_directory, write_file
from parlant_shard.local.ports import free_port
from parlant_shard.local.settings import SUPERUSER

_INITDB_TIMEOUT = 180.0  # seconds as a rule; minutes on a disk that syncs slowly


def initialise(
    directory: Path, binaries: Binaries, account: Account | None, *, durable: bool
) -> None:
    """Make `data`, `password` and `port`; `data` appears last and complete."""
    home = directory if can_enter(directory, account) else _home_elsewhere(directory, account)
    fresh = home / "data.new"
    shutil.rmtree(fresh, ignore_errors=True)
    password = secrets.token_urlsafe(24)
    secret = home / "initdb-password"
    try:
        fresh.mkdir(mode=0o700)
        if account is not None:
            os.chown(fresh, account.uid, account.gid)
        write_file(secret, password, account)
        _initdb(fresh, binaries, account, secret, durable=durable)
        with open(fresh / "postgresql.conf", "a") as config:
            config.write("\n# Written anew at each start:\ninclude = 'parlant-shard.conf'\n")
        write_file(directory / "password", password)
        write_file(directory / "port", str(free_port()))
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
    data: Path, binaries: Binaries, account: Account | None, secret: Path, *, durable: bool
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
        answer = run_as([*command, f"--locale={locale}"], account, timeout=_INITDB_TIMEOUT)
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


def _home_elsewhere(directory: Path, account: Account | None) -> Path:
    home = Path(tempfile.mkdtemp(prefix=f"{directory.name}-", dir=state_directory()))
    home.chmod(0o711)
    if not can_enter(home, account):
        home.rmdir()
        raise ServerError(
            f'the account "{account.name if account else ""}", which PostgreSQL runs as because it '
            f'refuses to run as root, can enter neither "{directory}" nor "{STATE}"',
            code="PS426",
            hint="choose a directory that it can enter, or run the command as an ordinary user",
        )
    return home
