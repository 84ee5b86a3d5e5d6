"""Find the process that serves a directory, and what a killed one left."""

from __future__ import annotations

import contextlib
import os
import signal
from pathlib import Path

from parlant_shard.local.accounts import SHORT_TIMEOUT, run_as
from parlant_shard.local.directory import read_file


def pid_file(directory: Path) -> list[str]:
    """Return the lines of postmaster.pid: pid, data, start time, port, ..., the 8th is a state."""
    return (read_file(directory / "data" / "postmaster.pid") or "").splitlines()


def postmaster(directory: Path) -> int | None:
    """Return the process that serves `directory`, whether or not it answers yet."""
    first = pid_file(directory)[:1]
    if not first or not first[0].strip().isdecimal():
        return None
    pid = int(first[0])
    return pid if serves(pid, directory) else None


def serves(pid: int, directory: Path) -> bool:
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
    command = run_as(ps, None, timeout=SHORT_TIMEOUT).stdout
    return "postgres" in command and os.path.realpath(directory / "data") in command


def clear_remains(directory: Path) -> None:
    """Clear what a killed server left and what would keep the next one from starting.

    PostgreSQL itself takes over the postmaster.pid of a process that is gone, but not when its
    number belongs to another process by now or to a zombie.
    """
    for pid in _children_of_dead_postmaster(directory):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGQUIT)
    first = pid_file(directory)[:1]
    if first and first[0].strip().isdecimal() and postmaster(directory) is None:
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
