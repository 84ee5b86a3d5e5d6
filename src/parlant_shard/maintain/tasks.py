"""What is to be done on one server, from what is there and the clock. Pure.

A task is one kind of work on one table: its steps depend on each other, tasks hardly do.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from enum import IntEnum
from typing import Any

from parlant_shard import changes as c
from parlant_shard import partitions
from parlant_shard.catalog import Bound, Catalog, Check, Facts, ForeignKey, Managed, Relkind, Table
from parlant_shard.diff import by_parent
from parlant_shard.maintain import indexes, leaf
from parlant_shard.names import suffixed
from parlant_shard.plan import Step, Target, build
from parlant_shard.topology import Partition, Topology

# Statistics of a partitioned table are taken when its partitions change, and this often.
STATISTICS_AGE = timedelta(days=7)


class Noun(IntEnum):
    """The kinds of work, in their order. Premake stands before detach: a detach that waits for a
    long reader blocks the attaching of partitions, a missing partition refuses rows."""

    FINALISE = 1
    REPAIR = 2
    PREMAKE = 3
    ROLL = 4
    VALIDATE = 5
    DETACH = 6
    ANALYZE = 7


# What fails for one partition must not stop the others.
_ONE_BY_ONE = frozenset({Noun.PREMAKE, Noun.DETACH})
_CHANGES_PARTITIONS = frozenset({Noun.FINALISE, Noun.PREMAKE, Noun.DETACH})


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """One kind of work on one shard table. `given_up` says why it cannot even begin.

    An urgent premake is one for rows of now or of the next interval: inserts fail without it.
    """

    server: str
    shard: str
    logical: str
    table: str
    noun: Noun
    steps: tuple[Step, ...]
    given_up: str | None = None
    urgent: bool = False

    @property
    def rank(self) -> tuple[int, bool]:
        """The place in the order of a run. A repair may take hours: what is urgent goes first."""
        return (Noun.REPAIR, False) if self.urgent else (self.noun, True)


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """What one server holds, read under the locks on its tables."""

    server: str
    facts: Facts
    catalog: Catalog
    tables: frozenset[str]  # those that are ours to work on: we hold their locks
    analyzed: Mapping[str, datetime | None] = field(default_factory=dict)  # partitioned tables
    default_rows: Mapping[str, int] = field(default_factory=dict)  # default partition → rows


def tasks(topology: Topology, found: Found, now: datetime) -> tuple[list[Task], list[str]]:
    """Return the tasks of a server in their order, and notices."""
    builder = _Tasks(topology, found, now)
    every = sorted(builder.all(), key=lambda t: (t.rank, t.table))
    return every, builder.notices


class _Tasks:
    def __init__(self, topology: Topology, found: Found, now: datetime) -> None:
        self.topology, self.found, self.now = topology, found, now
        self.live = found.catalog
        self.notices: list[str] = []
        self.leaves = by_parent(self.live.tables.values())
        self.target = Target(
            topology=topology.name,
            namespace=topology.namespace,
            coordinator=topology.coordinator,
            key=topology.key,
            key_type="",
            peers={},
            majors={found.server: found.facts.major},
        )

    def all(self) -> Iterator[Task]:
        for (kind, name), managed in sorted(self.live.managed.items()):
            table = self.live.tables.get(name)
            if kind == "table" and table is not None and name in self.found.tables:
                yield from self._table(table, managed)

    def _table(self, table: Table, managed: Managed) -> Iterator[Task]:
        every = tuple(self.leaves.get(table.name, ()))
        leaves = tuple(x for x in every if not x.detach_pending)
        pending = tuple(x for x in every if x.detach_pending)
        on: dict[str, Any] = {
            "server": self.found.server,
            "table": table,
            "shard": managed.shard,
        }
        rolling = indexes.windows(self.topology.indexes, managed.logical)
        rolled: list[c.Change]
        if table.kind is Relkind.PARTITIONED:
            rolled = list(indexes.roll_partitions(on, rolling, managed.logical, leaves, self.now))
        else:
            rolled = list(indexes.roll_plain(on, rolling, table, self.now))
        skip = frozenset(x.index.name for x in rolled if isinstance(x, c.CreateIndex | c.DropIndex))
        mended = list(indexes.repair(on, table, leaves, skip))
        self.notices += [x for x in mended if isinstance(x, str)]
        changed = False
        work: tuple[tuple[Noun, Iterable[c.Change | str]], ...] = (
            (Noun.FINALISE, self._finalise(on, managed, pending)),
            (Noun.REPAIR, [x for x in mended if not isinstance(x, str)]),
            (Noun.PREMAKE, self._premake(on, managed, table, leaves, rolling)),
            (Noun.ROLL, rolled),
            (Noun.VALIDATE, _validate(on, table, leaves)),
            (Noun.DETACH, self._detach(on, managed, leaves)),
        )
        for noun, planned in work:
            changes = list(planned)
            changed = changed or bool(changes and noun in _CHANGES_PARTITIONS)
            if noun in _ONE_BY_ONE:
                for change in changes:
                    yield replace(
                        self._task(managed, noun, change), urgent=self._urgent(managed, change)
                    )
            elif changes:
                yield self._task(managed, noun, *changes)
        if table.kind is Relkind.PARTITIONED and (changed or self._is_stale(table.name)):
            yield self._task(managed, Noun.ANALYZE, c.AnalyzeTable(**on))

    def _task(self, managed: Managed, noun: Noun, *changes: c.Change | str) -> Task:
        given_up = next((x for x in changes if isinstance(x, str)), None)
        steps = build([x for x in changes if not isinstance(x, str)], self.target)
        return Task(
            server=self.found.server,
            shard=managed.shard,
            logical=managed.logical,
            table=managed.name,
            noun=noun,
            steps=tuple(replace(s, phase=int(noun)) for s in steps),
            given_up=given_up,
        )

    def _urgent(self, managed: Managed, change: c.Change | str) -> bool:
        partition = self._partition(managed.logical)
        if not isinstance(change, c.CreatePartition) or partition is None:
            return False
        bound = change.table.bound
        if bound is None or bound.lower is None or bound.upper is None:
            return False
        following = partitions.shift(
            partition.every, partitions.floor(partition.every, self.now), 1
        )
        return bound.upper > self.now and bound.lower <= following

    def _partition(self, logical: str) -> Partition | None:
        return self.topology.partition_of(logical)

    def _finalise(
        self, on: dict[str, Any], managed: Managed, pending: tuple[Table, ...]
    ) -> list[c.Change]:
        """What a killed run left: a detach in its middle, or one whose end was not recorded."""
        found: list[c.Change] = []
        for table in pending:
            here = {**on, "table": table}
            found.append(c.FinalizeDetach(**here))
            if any(r.name == table.name for r in self.live.retired):
                found.append(c.SettleDetach(**here, now=self.now))
        for row in self.live.retired:
            if row.parent != managed.name or row.state != "detaching" or not row.present:
                continue
            found.append(
                c.SettleDetach(**{**on, "table": self.live.tables[row.name]}, now=self.now)
            )
        return found

    def _premake(
        self,
        on: dict[str, Any],
        managed: Managed,
        table: Table,
        leaves: tuple[Table, ...],
        rolling: Mapping[str, timedelta],
    ) -> Iterator[c.Change | str]:
        partition = self._partition(managed.logical)
        if partition is None or table.partition_by != partition.by:
            return  # not cut by time (any more): a matter for `plan`
        bounds = [(x.bound.lower, x.bound.upper) for x in leaves if x.bound and not x.bound.default]
        if partition.retention is not None and partition.reaches_back:
            oldest: datetime | None = partitions.before(partition.retention, self.now)
        else:
            oldest = min((lower for lower, _ in bounds if lower is not None), default=None)
        retired = [(r.lower, r.upper) for r in self.live.retired if r.parent == table.name]
        missing = partitions.uncovered(
            partitions.wanted(partition.every, self.now, partition.premake, oldest),
            [*bounds, *retired],
        )
        sibling = leaf.newest(leaves)
        if missing and sibling is None:
            yield f'table "{table.name}" has no partition that a new one could be made like'
            return
        patterns = indexes.patterns(rolling, managed.logical, leaves)
        taken = set(self.live.tables)
        # Those ahead of the clock first: they are what inserts wait for.
        for lower, upper in sorted(missing, key=lambda r: (r[1] <= self.now, r[0])):
            name = suffixed(table.name, partitions.suffix(lower))
            while name in taken:  # a detached partition keeps its name
                name = suffixed(name, "x")
            taken.add(name)
            past = {
                patterns[n].definition
                for n in patterns
                if indexes.outside(upper, rolling[n], self.now)
            }
            assert sibling is not None
            yield c.CreatePartition(
                server=on["server"],
                shard=on["shard"],
                parent=table,
                table=leaf.like(
                    sibling, table, name, Bound(lower=lower, upper=upper), on["shard"], past
                ),
            )

    def _detach(
        self, on: dict[str, Any], managed: Managed, leaves: tuple[Table, ...]
    ) -> Iterator[c.Change]:
        """Retire by the real bounds: what ends before the retention begins."""
        partition = self._partition(managed.logical)
        announced = {
            r.name: (r.lower, r.upper)
            for r in self.live.retired
            if r.state == "detaching" and r.known
        }
        has_default = any(x.bound and x.bound.default for x in leaves)
        cutoff = (
            partitions.before(partition.retention, self.now)
            if partition and partition.retention
            else None
        )
        for table in sorted(leaves, key=lambda x: (x.bound and x.bound.upper) or datetime.max):
            upper = table.bound.upper if table.bound else None
            here = {**on, "table": table}
            if cutoff is not None and upper is not None and upper <= cutoff:
                assert table.bound is not None
                yield c.DetachPartition(
                    **here,
                    logical=managed.logical,
                    now=self.now,
                    at_once=has_default,
                    announced=announced.get(table.name) == (table.bound.lower, upper),
                )
            elif table.name in announced:
                yield c.ForgetDetach(**here)

    def _is_stale(self, name: str) -> bool:
        """By the real clock: statistics were really taken then, whatever --now says."""
        taken = self.found.analyzed.get(name)
        return taken is None or taken < self.found.facts.now - STATISTICS_AGE


def _validate(on: dict[str, Any], table: Table, leaves: tuple[Table, ...]) -> list[c.Change]:
    """Partitions first: then their parent has nothing left to scan."""
    found: list[c.Change] = []
    for target in (*leaves, table):
        constraints: tuple[Check | ForeignKey, ...] = (*target.checks, *target.foreign_keys)
        found += [
            c.ValidateConstraint(**{**on, "table": target}, name=item.name)
            for item in constraints
            if not item.valid and not item.inherited
        ]
    return found
