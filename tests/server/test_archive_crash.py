"""An archiver or a restore that is killed anywhere: every row is in a table or an archive."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest
from killing import kills
from protocol import World, layout
from test_archive import RICH, copied, files, fill, kept, retired, stored, there, this_month
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
# in the middle of a file. Every run gets further than the one before.
KILLER = r"""
import sys
from killing import event_at, until_it_ends
from parlant_shard import journal, maintain
from parlant_shard.archive import making, stream, target
from parlant_shard.restore import restore, run
from parlant_shard.topology import Interval, load_topology

what, file, argument, first, step = *sys.argv[1:4], *map(int, sys.argv[4:6])
topology = load_topology(file)

def attempt(number):
    event = event_at("call", first + number * step)

    def around(owner, name):
        original = getattr(owner, name)

        def wrapped(*args, **options):
            event("call")
            found = original(*args, **options)
            event("call")
            return found

        setattr(owner, name, wrapped)

    def middle(owner, name):
        original = getattr(owner, name)

        def pieces(*args):
            for piece in original(*args):
                event("call")
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

until_it_ends(attempt)
"""


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
    assert kills(KILLER, "maintain", written(world, what), later.isoformat(), 1, 3) > 6
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
    assert kills(KILLER, how, written(world, what), name, 1, 3) > 3
    if how == "beside":
        assert copied(world, name, columns) == before
        assert retired(world)[name][0] == "detached"
        return
    assert copied(world, "log_s1", columns) == before
    assert retired(world)[name][0] == "restored"
    world.settled(what)
    settled(world, what, now)
