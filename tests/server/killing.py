"""A process that is killed with SIGKILL at a chosen moment, again and again, until it gets through.

`event_at`, `record_events` and `until_it_ends` are for a script that runs in a process of its own;
`kills` runs such a script and says how often it was killed.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import parlant_shard
from parlant_shard import journal

SRC = Path(parlant_shard.__file__).parents[1]


def event_at(moment: str, count: int) -> Callable[[str], None]:
    """Return what is called with the name of every event: it kills at the count-th `moment`."""
    seen, lock = 0, threading.Lock()

    def event(name: str) -> None:
        nonlocal seen
        with lock:
            seen += name == moment
            if seen == count:
                os.kill(os.getpid(), signal.SIGKILL)

    return event


def record_events(event: Callable[[str], None]) -> None:
    """Make an event `record` of each row of the journal.

    The work and the row of a step are done then, but not yet committed (where there is a
    transaction to commit).
    """
    original = journal.record

    def record(*args: Any, **options: Any) -> None:
        original(*args, **options)
        event("record")

    journal.record = record


def until_it_ends(attempt: Callable[[int], None]) -> None:
    """Run attempts, numbered from 0, and exit with the code of the first that is not killed.

    There are as many at the most as the script's last argument says; printed is how many were
    killed. Each is forked, so that none pays for the imports and each counts its events anew.
    """
    limit = int(sys.argv[-1])
    for number in range(limit):
        child = os.fork()
        if child == 0:
            code = 0
            try:
                attempt(number)
            except BaseException:
                traceback.print_exc()
                code = 1
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
        status = os.waitpid(child, 0)[1]
        if not os.WIFSIGNALED(status):
            print("kills", number)
            sys.exit(os.waitstatus_to_exitcode(status))
    print("kills", limit)


def environment() -> dict[str, str]:
    """Return what another process needs to import the product."""
    return {**os.environ, "PYTHONPATH": str(SRC), "PYTHONUNBUFFERED": "1"}


def kills(
    script: str, *arguments: object, limit: int = 200, ends: bool = True, timeout: float = 280
) -> int:
    """Run a script that ends in `until_it_ends`; return how often it was killed.

    Where it need not come to an end (`ends`), it may have been killed `limit` times.
    """
    path = os.pathsep.join((str(SRC), str(Path(__file__).parent)))
    done = subprocess.run(
        [sys.executable, "-c", script, *map(str, arguments), str(limit)],
        capture_output=True,
        text=True,
        env={**environment(), "PYTHONPATH": path},
        timeout=timeout,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-500:] + done.stderr[-3000:]
    found = re.search(r"^kills (\d+)$", done.stdout, re.MULTILINE)
    assert found is not None
    count = int(found[1])
    assert count < limit or not ends, "it never came to an end"
    return count
