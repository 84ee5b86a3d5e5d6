"""An archiver or a restore that is killed anywhere: every row is in a table or an archive."""

from __future__ import annotations

import re
import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import pytest
from protocol import World, layout
from test_archive import RICH, copied, files, fill, kept, retired, stored, there, this_month
from test_crash import environment
from test_maintain import maintain, months, now_of, settled
from test_maintain_crash import written

from parlant_shard.archive import listing
from parlant_shard.restore import restore
from servers import Clusters

pytestmark = pytest.mark.matrix


@pytest.fixture
def world(tmp_path: Path, clusters: Clusters) -> World:
    """Give the databases of one server."""
    return World(tmp_path, clusters)


# Kills the process at the n-th of these moments: before and after each call of the protocol, and
# in the middle of a file. Each attempt counts anew, so every run gets further than the one before.
KILLER = r"""
import os, signal, sys, traceback
from parlant_shard import db, journal, maintain
from parlant_shard.archive import making, parquet, stream, target
from parlant_shard.restore import restore, run
from parlant_shard.topology import Interval, load_topology

what, file, argument = sys.argv[1:4]
topology = load_topology(file)

def attempt(count):
    seen = [0]

    def event():
        seen[0] += 1
        if seen[0] == count:
            os.kill(os.getpid(), signal.SIGKILL)

    def around(owner, name):
        original = getattr(owner, name)

        def wrapped(*args, **options):
            event()
            found = original(*args, **options)
            event()
            return found

        setattr(owner, name, wrapped)

    def middle(owner, name):
        original = getattr(owner, name)

        def pieces(*args):
            for piece in original(*args):
                event()
                yield piece

        setattr(owner, name, pieces)

    for name in ("_copy", "_verify", "_described", "_drop", "_discard"):
        around(making._Making, name)
    for name in ("begin", "open", "remove"):
        around(target.Directory, name)
    around(target._Renamed, "commit")
    around(target, "_sync")
    around(making, "tally")
    around(journal, "record")
    around(run, "tally")
    around(run._Restoring, "_remember")
    middle(stream, "read")
    if what == "maintain":
        report = maintain.maintain(topology, now=maintain.moment(argument))
        assert not report.failures, report.failures
    else:
        restore(topology, argument, keep=Interval(400, "day"), beside=what == "beside")

count = int(sys.argv[4])
step = int(sys.argv[5])
for number in range(200):
    child = os.fork()
    if child == 0:
        try:
            attempt(count + number * step)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    status = os.waitpid(child, 0)[1]
    if not os.WIFSIGNALED(status):
        print("kills", number)
        sys.exit(os.waitstatus_to_exitcode(status))
sys.exit("it never came to an end")
"""


def killed(file: Path, what: str, argument: str, *, first: int, step: int) -> int:
    done = subprocess.run(
        [sys.executable, "-c", KILLER, what, str(file), argument, str(first), str(step)],
        capture_output=True,
        text=True,
        env=environment(),
        timeout=280,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-500:] + done.stderr[-3000:]
    found = re.search(r"^kills (\d+)$", done.stdout, re.MULTILINE)
    assert found is not None
    return int(found[1])


def only(world: World, name: str) -> None:
    """Leave nothing else to archive: empty partitions would only take their time."""
    world.execute(
        f"DELETE FROM parlant_shard.retired WHERE name <> '{name}' AND state = 'detached'"
    )


def test_killed_while_archiving(world: World) -> None:
    what = layout({"s1": ["a"]}, ddl=RICH, tables=kept(archive={"to": "old/", "parquet": True}))
    world.apply(what)
    fill(world, now_of(world))
    name, columns = this_month(world), stored(world)
    before = copied(world, name, columns)
    now = months(now_of(world), 4)
    maintain(world, what, now)
    only(world, name)
    later = now + timedelta(days=8)
    assert killed(written(world, what), "maintain", later.isoformat(), first=1, step=3) > 6
    assert not there(world, name)
    assert retired(world)[name][0] == "archived"
    assert {e.state for e in listing(world.load(what), verify=True)[0]} == {"archived"}
    assert len(files(world)) == 3, files(world)
    maintain(world, what, later)  # statistics, and ranges whose rows `only` removed
    assert maintain(world, what, later).plan.steps == ()
    restore(world.load(what), name)
    assert copied(world, "log_s1", columns) == before


@pytest.mark.parametrize("how", ["restore", "beside"])
def test_killed_while_restoring(world: World, how: str) -> None:
    what = layout({"s1": ["a"]}, ddl=RICH, tables=kept())
    world.apply(what)
    fill(world, now_of(world))
    name, columns = this_month(world), stored(world)
    before = copied(world, name, columns)
    now = months(now_of(world), 4)
    maintain(world, what, now)
    maintain(world, what, now + timedelta(days=8))
    assert not there(world, name)
    assert killed(written(world, what), how, name, first=1, step=3) > 3
    if how == "beside":
        assert copied(world, name, columns) == before
        assert retired(world)[name][0] == "detached"
        return
    assert copied(world, "log_s1", columns) == before
    assert retired(world)[name][0] == "restored"
    world.settled(what)
    settled(world, what, now)
