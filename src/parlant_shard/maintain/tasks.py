"""What is to be done on one server, from what is there and the clock. Pure.

A task is one kind of work on one table: its steps depend on each other, tasks hardly do.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from datetime import datetime, timedelta
from types import MappingProxyType

from parlant_shard import changes as c
from parlant_shard import partitions
from parlant_shard.catalog import Managed, Relkind, Table
from parlant_shard.diff import by_parent
from parlant_shard.maintain.model import (
    CHANGES_PARTITIONS,
    ONE_BY_ONE,
    Found,
    GivenUp,
    Moved,
    Noun,
    Task,
)
from parlant_shard.maintain.table import Server, Work
from parlant_shard.plan import Target, build
from parlant_shard.topology import Topology

# Statistics of a partitioned table are taken when its partitions change, and this often.
STATISTICS_AGE = timedelta(days=7)
# Those of a foreign table are fetched over the network: less often where nothing comes and goes.
PLAIN_AGE = timedelta(days=30)
# Before it, postgres_fdw fetches every row of a table for its statistics.
_SAMPLES = 16


def tasks(
    topology: Topology,
    found: Found,
    now: datetime,
    others: Mapping[str, frozenset[tuple[str, str]]] = MappingProxyType({}),
    *,
    move: int | None = None,
) -> tuple[list[Task], list[str]]:
    """Return the tasks of a server in their order, and notices.

    `others` are the other servers that answer, each with the tables (shard, logical name) whose
    partitions change. `move`: rows of default partitions are moved, where there are not more than
    that.
    """
    # A retired name is that of an archive: a second partition of it would take over its record.
    taken = {*found.catalog.tables, *(r.name for r in found.catalog.retired)}
    server = Server(topology=topology, found=found, now=now, move=move, taken=taken)
    every = sorted(_Tasks(server, others).all(), key=lambda t: (t.rank, t.table))
    return every, server.notices


class _Tasks:
    def __init__(self, server: Server, others: Mapping[str, frozenset[tuple[str, str]]]) -> None:
        self.server, self.others = server, others
        self.topology, self.found, self.now = server.topology, server.found, server.now
        self.live = self.found.catalog
        self.leaves = by_parent(self.live.tables.values())
        topology = self.topology
        self.target = Target(
            topology=topology.name,
            namespace=topology.namespace,
            coordinator=topology.coordinator,
            key=topology.key,
            key_type="",
            peers={},
            majors={server.name: self.found.facts.major},
        )

    def all(self) -> Iterator[Task]:
        for (kind, name), managed in sorted(self.live.managed.items()):
            table = self.live.tables.get(name)
            if kind != "table" or table is None or name not in self.found.tables:
                continue
            if table.kind is Relkind.FOREIGN:
                yield from self._foreign(table, managed)
            else:
                yield from self._table(table, managed)

    def _foreign(self, table: Table, managed: Managed) -> Iterator[Task]:
        """Statistics of the tables behind the federated views: no autovacuum takes them."""
        shard = self.topology.shards.get(managed.shard)
        if self.found.facts.major < _SAMPLES or shard is None or shard.server not in self.others:
            return
        task = self._analyze(table, managed)
        taken = self.found.analyzed_foreign.get(task.steps[0].id)
        age = STATISTICS_AGE if self.topology.partition_of(managed.logical) else PLAIN_AGE
        if (
            taken is None
            or taken < self.found.facts.now - age
            or (managed.shard, managed.logical) in self.others[shard.server]
        ):
            yield replace(task, peer=shard.server)

    def _table(self, table: Table, managed: Managed) -> Iterator[Task]:
        work = Work(self.server, table, managed, self.leaves.get(table.name, ()))
        if (reason := work.unreadable()) is not None:
            yield self._task(managed, Noun.PREMAKE, reason)
            return
        changed = False
        for noun, changes in work:
            changed = changed or bool(changes and noun in CHANGES_PARTITIONS)
            if noun in ONE_BY_ONE:
                for change in changes:
                    yield replace(
                        self._task(managed, noun, change), urgent=self._urgent(managed, change)
                    )
            elif changes:
                yield self._task(managed, noun, *changes)
        if table.kind is Relkind.PARTITIONED and (changed or self._is_stale(table.name)):
            yield self._analyze(table, managed)

    def _analyze(self, table: Table, managed: Managed) -> Task:
        change = c.AnalyzeTable(server=self.found.server, table=table, shard=managed.shard)
        return self._task(managed, Noun.ANALYZE, change)

    def _task(self, managed: Managed, noun: Noun, *changes: c.Change | GivenUp) -> Task:
        given_up = next((x for x in changes if isinstance(x, GivenUp)), None)
        steps = build([x for x in changes if not isinstance(x, GivenUp)], self.target)
        return Task(
            server=self.found.server,
            shard=managed.shard,
            logical=managed.logical,
            table=managed.name,
            noun=noun,
            steps=tuple(replace(s, phase=int(noun)) for s in steps),
            given_up=given_up,
            archive=next((x for x in changes if isinstance(x, c.ArchivePartition)), None),
            moves=next((self._moved(x) for x in changes if isinstance(x, c.MoveRows)), None),
            partition=next(
                (x.table.name for x in changes if isinstance(x, c.OnTable) and noun in ONE_BY_ONE),
                None,
            ),
        )

    def _moved(self, change: c.MoveRows) -> Moved:
        held = self.found.defaults[change.default.name]
        ranges = [x.bound for x in change.partitions if x.bound is not None]
        return Moved(
            server=change.server,
            table=change.table.name,
            default=change.default.name,
            rows=sum(held.within(b.lower, b.upper) for b in ranges if b.lower and b.upper),
        )

    def _urgent(self, managed: Managed, change: c.Change | GivenUp) -> bool:
        partition = self.topology.partition_of(managed.logical)
        if not isinstance(change, c.CreatePartition) or partition is None:
            return False
        bound = change.table.bound
        if bound is None or bound.lower is None or bound.upper is None:
            return False
        following = partitions.shift(
            partition.every, partitions.floor(partition.every, self.now), 1
        )
        return bound.upper > self.now and bound.lower <= following

    def _is_stale(self, name: str) -> bool:
        """By the real clock: statistics were really taken then, whatever --now says."""
        taken = self.found.analyzed.get(name)
        return taken is None or taken < self.found.facts.now - STATISTICS_AGE
