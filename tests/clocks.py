"""Servers whose clock is shifted: PARLANT_SHARD_TEST_CLOCK says where to.

- `+45d`: so many days ahead;
- `03-01` or `12-31T23:59`: the next such moment of a year, in UTC;
- `2028-02-29`: that moment.

Only the servers' clocks are shifted, by Debian's libfaketime, and the clocks of the tests' own
process follow where a test asks `now()`: Python hangs under that library. So what compares the
client's clock with the servers' shows as well. Only embedded servers can be shifted.
"""

from __future__ import annotations

import atexit
import os
import re
import shutil
import struct
import subprocess
import tempfile
import time
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from parlant_shard import signing
from parlant_shard.local import server

CLOCK = os.environ.get("PARLANT_SHARD_TEST_CLOCK", "")
_LIBRARIES = (
    "/usr/lib/x86_64-linux-gnu/faketime/libfaketime.so.1",
    "/usr/lib/aarch64-linux-gnu/faketime/libfaketime.so.1",
    "/usr/lib/faketime/libfaketime.so.1",
    "/usr/lib64/faketime/libfaketime.so.1",
)


def now() -> datetime:
    """Return the servers' present, in UTC without a zone."""
    return _present() + shift()


def _present() -> datetime:
    return datetime.now(UTC).replace(tzinfo=None)


@cache
def shift() -> timedelta:
    """How far ahead the servers' clocks are in this process of pytest."""
    return shift_of(CLOCK, _present()) if CLOCK else timedelta(0)


def shift_of(text: str, present: datetime) -> timedelta:
    """Read PARLANT_SHARD_TEST_CLOCK. Raises ValueError for what is no moment."""
    if days := re.fullmatch(r"\+(\d+)d", text):
        return timedelta(days=int(days[1]))
    if re.match(r"\d\d-\d\d", text):
        years = range(present.year, present.year + 9)  # 29 February is rare
        return next(m for y in years if (m := _moment(f"{y}-{text}")) and m > present) - present
    return datetime.fromisoformat(text) - present


def _moment(text: str) -> datetime | None:
    try:
        return datetime.fromisoformat(text)
    except ValueError:
        return None


def library() -> str | None:
    """Return the path of libfaketime; None where it is not installed."""
    return next((path for path in _LIBRARIES if Path(path).exists()), None)


# While it waits in one of these, libfaketime shows the real time to signal handlers: PostgreSQL's
# statement_timeout, lock_timeout and deadlock_timeout then never end a wait.
_WAITS = {
    *("epoll_wait", "epoll_pwait", "poll", "ppoll", "select", "pselect", "sem_timedwait"),
    *("sleep", "usleep", "nanosleep", "clock_nanosleep"),
}


def without_waits(content: bytes) -> bytes:
    """Return a shared library (ELF, 64 bits) that does not define the functions of `_WAITS`.

    The dynamic linker then finds those of libc. Every wait has a relative limit, which is the same
    by any clock.
    """
    found = bytearray(content)
    sections, size, count = (
        struct.unpack_from("<Q", found, 0x28)[0],
        *struct.unpack_from("<HH", found, 0x3A),
    )
    headers = [struct.unpack_from("<IIQQQQIIQQ", found, sections + i * size) for i in range(count)]
    for _, kind, _, _, offset, length, link, _, _, width in headers:
        if kind != 11:  # SHT_DYNSYM
            continue
        names = headers[link][4]
        for entry in range(offset, offset + length, width):
            start = names + struct.unpack_from("<I", found, entry)[0]
            if bytes(found[start : found.index(0, start)]).decode() in _WAITS:
                struct.pack_into("<HQ", found, entry + 6, 0, 0)  # undefined, at no address
    return bytes(found)


@cache
def _prepared(path: str) -> str:
    """Write that library to where the account of the servers can read it; return its path."""
    directory = Path(tempfile.mkdtemp(prefix="parlant-shard-clock-"))
    directory.chmod(0o755)
    atexit.register(shutil.rmtree, directory, ignore_errors=True)
    copy = directory / "libfaketime.so"
    copy.write_bytes(without_waits(Path(path).read_bytes()))
    copy.chmod(0o755)
    return str(copy)


def shift_servers() -> None:
    """Shift the clock of every server that this process starts from now on."""
    if not CLOCK:
        return
    preload = library()
    if preload is None:
        raise pytest.UsageError("PARLANT_SHARD_TEST_CLOCK needs libfaketime: see .ci/components")
    preload = _prepared(preload)
    original, seconds = server.run_as, round(shift().total_seconds())

    def run_as(command: list[str], *args: Any, **options: Any) -> subprocess.CompletedProcess[str]:
        faked = [
            "/usr/bin/env",
            f"LD_PRELOAD={preload}",
            f"FAKETIME={seconds:+d}",
            # Timeouts are of the real time, and so are the times of files.
            "FAKETIME_DONT_FAKE_MONOTONIC=1",
            "NO_FAKE_STAT=1",
        ]
        return original([*faked, *command], *args, **options)

    server.run_as = run_as  # type: ignore[attr-defined]
    # A token expires by the servers' clock: hosts of an application and its servers agree.
    signing.time = SimpleNamespace(time=lambda: time.time() + seconds)  # type: ignore[attr-defined]
