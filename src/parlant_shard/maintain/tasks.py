"""What is to be done on one server, from what is there and the clock. Pure.

A task is one kind of work on one table: its steps depend on each other, tasks hardly do.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from enum import IntEnum
from types import MappingProxyType
from typing import Any

from parlant_shard import changes as c
from parlant_shard import control, partitions
from parlant_shard.catalog import (
    Bound,
    Catalog,
    Check,
    Facts,
    ForeignKey,
    Managed,
    Relkind,
    Retired,
    Table,
)
from parlant_shard.ddl import Ddl, control_of, render
from parlant_shard.diff import GUARD, by_parent, guarded
from parlant_shard.maintain import indexes, leaf
from parlant_shard.maintain.defaults import MOST, Contents
from parlant_shard.names import suffixed
from parlant_shard.plan import Step, Target, build
from parlant_shard.topology import Partition, Topology

# Statistics of a partitioned table are taken when its partitions change, and this often.
STATISTICS_AGE = timedelta(days=7)
# Those of a foreign table are fetched over the network: less often where nothing comes and goes.
PLAIN_AGE = timedelta(days=30)
# Partitions of one table that a run makes: a clock that is far off must not fill the catalogue.
MOST_NEW = 2_000
# Intervals that are looked back for gaps: eleven years of hours.
_LOOK_BACK = 100_000
# Before it, postgres_fdw fetches every row of a table for its statistics.
_SAMPLES = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class GivenUp:
    """Why a piece of work cannot even begin, and what to run then (None: `apply`)."""

    message: str
    code: str = "PS530"
    hint: str | None = None


class Noun(IntEnum):
    """The kinds of work, in their order. Premake stands before detach: a detach that waits for a
    long reader blocks the attaching of partitions, a missing partition refuses rows."""

    FINALISE = 1
    REPAIR = 2
    PREMAKE = 3
    MOVE = 4
    ROLL = 5
    VALIDATE = 6
    DETACH = 7
    ARCHIVE = 8
    ANALYZE = 9


# What fails for one partition must not stop the others.
_ONE_BY_ONE = frozenset({Noun.PREMAKE, Noun.DETACH, Noun.ARCHIVE})
CHANGES_PARTITIONS = frozenset({Noun.FINALISE, Noun.PREMAKE, Noun.MOVE, Noun.DETACH})


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """One kind of work on one shard table. `given_up` says why it cannot even begin.

    `partition` is the one that it is about, where it is about one; `peer` the server that a foreign
    table is on. An urgent premake is one for rows of now or of the next interval: inserts fail
    without it.
    """

    server: str
    shard: str
    logical: str
    table: str
    noun: Noun
    steps: tuple[Step, ...]
    given_up: GivenUp | None = None
    urgent: bool = False
    archive: c.ArchivePartition | None = None
    moves: Moved | None = None
    partition: str | None = None
    peer: str | None = None

    @property
    def rank(self) -> tuple[int, bool]:
        """The place in the order of a run. A repair may take hours: what is urgent goes first."""
        return (Noun.REPAIR, False) if self.urgent else (self.noun, True)


@dataclass(frozen=True, slots=True, kw_only=True)
class Moved:
    """Rows of a default partition that a task moves."""

    server: str
    table: str
    default: str
    rows: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """What one server holds, read under the locks on its tables."""

    server: str
    facts: Facts
    catalog: Catalog
    tables: frozenset[str]  # those that are ours to work on: we hold their locks
    analyzed: Mapping[str, datetime | None] = field(default_factory=dict)  # partitioned tables
    analyzed_foreign: Mapping[str, datetime] = field(default_factory=dict)  # by the step's id
    defaults: Mapping[str, Contents] = field(default_factory=dict)  # default partition → its rows
    copies: Mapping[str, tuple[str, ...]] = field(default_factory=dict)  # table → a dead run's


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
    builder = _Tasks(topology, found, now, others, move)
    every = sorted(builder.all(), key=lambda t: (t.rank, t.table))
    return every, builder.notices


class _Tasks:
    def __init__(
        self,
        topology: Topology,
        found: Found,
        now: datetime,
        others: Mapping[str, frozenset[tuple[str, str]]],
        move: int | None,
    ) -> None:
        self.topology, self.found, self.now = topology, found, now
        self.others, self.move = others, move
        self.live = found.catalog
        self.taken = set(found.catalog.tables)  # the names of tables that are there, or will be
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
        on: dict[str, Any] = {
            "server": self.found.server,
            "table": table,
            "shard": managed.shard,
        }
        task = self._task(managed, Noun.ANALYZE, c.AnalyzeTable(**on))
        taken = self.found.analyzed_foreign.get(task.steps[0].id)
        age = STATISTICS_AGE if self._partition(managed.logical) else PLAIN_AGE
        if (
            taken is None
            or taken < self.found.facts.now - age
            or (managed.shard, managed.logical) in self.others[shard.server]
        ):
            yield replace(task, peer=shard.server)

    def _table(self, table: Table, managed: Managed) -> Iterator[Task]:
        every = tuple(self.leaves.get(table.name, ()))
        if table.epoch is not None and not control.plausible(
            m for x in every if x.bound for m in (x.bound.lower, x.bound.upper)
        ):
            # Read in a wrong unit, every partition would be expired.
            reason = f'the partitions of "{table.name}" do not count {table.epoch}'
            hint = "give `epoch:` the unit that it had when they were made"
            given_up = GivenUp(message=reason, code="PS580", hint=hint)
            yield self._task(managed, Noun.PREMAKE, given_up)
            return
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
        work: tuple[tuple[Noun, Iterable[c.Change | GivenUp]], ...] = (
            (Noun.FINALISE, [*self._clear(on, leaves), *self._finalise(on, managed, pending)]),
            (Noun.REPAIR, [x for x in mended if not isinstance(x, str)]),
            (Noun.PREMAKE, self._premake(on, managed, table, leaves, rolling)),
            (Noun.MOVE, self._move(on, managed, table, leaves, rolling)),
            (Noun.ROLL, rolled),
            (Noun.VALIDATE, _validate(on, table, leaves)),
            (Noun.DETACH, self._detach(on, managed, leaves)),
            (Noun.ARCHIVE, self._archive(on, managed, table)),
        )
        for noun, planned in work:
            changes = list(planned)
            changed = changed or bool(changes and noun in CHANGES_PARTITIONS)
            if noun in _ONE_BY_ONE:
                for change in changes:
                    yield replace(
                        self._task(managed, noun, change), urgent=self._urgent(managed, change)
                    )
            elif changes:
                yield self._task(managed, noun, *changes)
        if table.kind is Relkind.PARTITIONED and (changed or self._is_stale(table.name)):
            yield self._task(managed, Noun.ANALYZE, c.AnalyzeTable(**on))

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
                (x.table.name for x in changes if isinstance(x, c.OnTable) and noun in _ONE_BY_ONE),
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

    def _clear(self, on: dict[str, Any], leaves: tuple[Table, ...]) -> Iterator[c.Change]:
        """What a killed run left at a default partition: a guard, which refuses rows, or copies."""
        for x in leaves:
            if any(check.name == GUARD for check in x.checks):
                yield c.DropConstraint(**{**on, "table": x}, name=GUARD, why=c.Why.LEFTOVER)
        copies = self.found.copies.get(on["table"].name)
        if copies:
            yield c.DropCopies(**on, names=copies)

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
            else:
                self.notices.append(
                    f'partition "{table.name}" of "{managed.name}" on server "{on["server"]}" is '
                    "detached by somebody else: its rows stay in it, nobody archives it, and its "
                    "range gets a new partition where it is not expired"
                )
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
    ) -> Iterator[c.Change | GivenUp]:
        partition = self._partition(managed.logical)
        if table.partition_by is None:
            return  # not cut by time, or not yet: a matter for `apply`
        if partition is None or table.partition_by != partition.by:
            says = f'cut by "{partition.by}"' if partition else "not cut by time"
            yield GivenUp(
                message=f'table "{table.name}" is partitioned by "{table.partition_by}", and the '
                f"topology says that it is {says}: nobody makes its partitions",
                code="PS531",
                hint="restore `partition:` of the table in the topology file; `parlant-shard plan "
                f"{self.topology.file}` shows what becomes of the table otherwise",
            )
            return
        bounds = [(x.bound.lower, x.bound.upper) for x in leaves if x.bound and not x.bound.default]
        if partition.retention is not None and partition.reaches_back:
            oldest: datetime | None = partitions.before(partition.retention, self.now)
        else:
            oldest = min((lower for lower, _ in bounds if lower is not None), default=None)
        if oldest is not None:
            current = partitions.floor(partition.every, self.now)
            oldest = max(oldest, partitions.earlier(partition.every, current, _LOOK_BACK))
        retired = [(r.lower, r.upper) for r in self.live.retired if r.parent == table.name]
        missing = partitions.uncovered(
            control_of(table).fitting(
                partitions.wanted(partition.every, self.now, partition.premake, oldest)
            ),
            [*bounds, *retired],
        )
        sibling = leaf.newest(leaves)
        if missing and sibling is None:
            yield GivenUp(
                message=f'table "{table.name}" has no partition that a new one could be made like'
            )
            return
        default = _default_of(leaves)
        held = self.found.defaults.get(default.name) if default else None
        free: list[partitions.Range] = []
        kept: list[tuple[datetime, datetime, int]] = []
        if len(missing) > MOST_NEW:
            self.notices.append(
                f'table "{table.name}" on server "{on["server"]}" lacks {len(missing)} partitions: '
                f"this run makes {MOST_NEW} of them, run it again for the others"
            )
        # Those ahead of the clock first: they are what inserts wait for.
        for lower, upper in sorted(missing, key=lambda r: (r[1] <= self.now, r[0]))[:MOST_NEW]:
            rows = held.within(lower, upper) if held else 0
            if not rows:
                free.append((lower, upper))
            else:
                kept.append((lower, upper, rows))
        if kept and default is not None and self.move is None:
            yield self._kept_out(table, default, kept)
        for made in self._new(on, managed, table, leaves, rolling, free):
            yield c.CreatePartition(
                server=on["server"],
                shard=on["shard"],
                parent=table,
                table=made,
                default=guarded(made, leaves, self.now),
            )

    def _kept_out(
        self, table: Table, default: Table, kept: list[tuple[datetime, datetime, int]]
    ) -> GivenUp:
        """One message for all partitions of a table that rows of its default partition keep out."""
        lower, upper = min(x[0] for x in kept), max(x[1] for x in kept)
        what = f'the partition of "{table.name}" from {lower} to {upper} is'
        if len(kept) > 1:
            what = f'{len(kept)} partitions of "{table.name}" between {lower} and {upper} are'
        return GivenUp(
            message=f'{what} not made: default partition "{default.name}" holds '
            f"{sum(x[2] for x in kept)} rows of {'it' if len(kept) == 1 else 'them'}",
            code="PS581",
            hint=f"run `parlant-shard maintain {self.topology.file} --move-default-rows`",
        )

    def _new(
        self,
        on: dict[str, Any],
        managed: Managed,
        table: Table,
        leaves: tuple[Table, ...],
        rolling: Mapping[str, timedelta],
        ranges: Iterable[partitions.Range],
    ) -> Iterator[Table]:
        """New partitions like their newest sibling."""
        sibling = leaf.newest(leaves)
        patterns = indexes.patterns(rolling, managed.logical, leaves)
        for lower, upper in ranges:
            name = suffixed(table.name, partitions.suffix(lower))
            while name in self.taken:  # a detached partition keeps its name
                name = suffixed(name, "x")
            self.taken.add(name)
            past = {
                patterns[n].definition
                for n in patterns
                if indexes.outside(upper, rolling[n], self.now)
            }
            assert sibling is not None
            yield leaf.like(
                sibling, table, name, Bound(lower=lower, upper=upper), on["shard"], past
            )

    def _move(
        self,
        on: dict[str, Any],
        managed: Managed,
        table: Table,
        leaves: tuple[Table, ...],
        rolling: Mapping[str, timedelta],
    ) -> Iterator[c.Change | GivenUp]:
        """Partitions for what a default partition holds, also for what has expired: they go the
        way of all partitions."""
        partition, default = self._partition(managed.logical), _default_of(leaves)
        held = self.found.defaults.get(default.name) if default else None
        if self.move is None or partition is None or default is None or held is None:
            return
        if table.partition_by != partition.by or not held.rows:
            return
        if held.hours is None:
            yield GivenUp(
                message=f'default partition "{default.name}" holds more than {self.move} rows: '
                "readers and writers would wait for about a second for each million of them, and "
                "longer where a foreign key without CASCADE is checked",
                code="PS582",
                hint="add --move-limit with a larger number, in a quiet hour",
            )
            return
        referring = sorted(
            t.name
            for t in self.live.tables.values()
            if any(fk.ref_table == table.name for fk in t.foreign_keys)
        )
        if referring:
            yield GivenUp(
                message=f'rows of default partition "{default.name}" cannot be moved: '
                f'"{referring[0]}" refers to "{table.name}"',
                code="PS583",
                hint="PostgreSQL detaches no partition to whose rows others refer; drop the "
                "foreign key, move the rows, add it again",
            )
            return
        bounds = [(x.bound.lower, x.bound.upper) for x in leaves if x.bound and not x.bound.default]
        ranges = control_of(table).fitting(held.ranges(partition.every, bounds))
        stay = held.rows - sum(held.within(*r) for r in ranges)
        if stay:
            self.notices.append(
                f'{stay} rows stay in default partition "{default.name}": they are of no moment '
                "that a partition could have"
            )
        if len(ranges) > MOST:
            self.notices.append(
                f'the rows of default partition "{default.name}" need {len(ranges)} partitions; '
                f"this run makes the first {MOST}, run it again for the others"
            )
        if ranges:
            made = tuple(self._new(on, managed, table, leaves, rolling, ranges[:MOST]))
            rest = leaf.like(default, table, default.name, Bound(default=True), on["shard"], ())
            yield c.MoveRows(
                **on,
                default=default,
                partitions=made,
                remainder=replace(rest, comment=default.comment),
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
        kept = {
            r.name
            for r in self.live.retired
            if r.state == "restored" and r.kept_until is not None and r.kept_until > self.now
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
            if table.name in kept:
                continue
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

    def _archive(
        self, on: dict[str, Any], managed: Managed, parent: Table
    ) -> Iterator[c.Change | GivenUp]:
        """Detached partitions whose grace has passed, the oldest first."""
        partition = self._partition(managed.logical)
        if partition is None:
            return
        cutoff = partitions.before(partition.retention, self.now) if partition.retention else None
        again: list[tuple[Retired, Table]] = []
        for row in self.live.retired:
            table = self.live.tables.get(row.name)
            if row.parent != managed.name or row.state != "detached" or not row.present:
                continue
            if table is None or row.detached_at is None:
                continue
            is_copy = row.archive is not None  # restored beside its table, for a time
            if not is_copy and (cutoff is None or (row.upper is not None and row.upper > cutoff)):
                again.append((row, table))
                continue
            if partition.archive is None or row.detached_at + partition.grace.timedelta > self.now:
                continue
            if table.kind is not Relkind.TABLE:
                yield GivenUp(
                    message=f'detached partition "{table.name}" is partitioned itself, or a '
                    "foreign table: it is kept and not archived",
                    code="PS532",
                    hint="save its rows where you want them, then drop it",
                )
                continue
            yield c.ArchivePartition(
                **{**on, "table": table},
                retired=row,
                target=partition.archive.shown,
                enums=tuple(self.live.enums.values()),
            )
        if again:
            self._wanted_again(on, parent, again)

    def _wanted_again(
        self, on: dict[str, Any], parent: Table, again: list[tuple[Retired, Table]]
    ) -> None:
        """The retention grew after a detach: only a person knows whether the rows shall be seen."""
        row, table = again[0]
        one = replace(table, bound=Bound(lower=row.lower, upper=row.upper))
        what = "1 detached partition"
        if len(again) > 1:
            what = f'{len(again)} detached partitions, the first of them "{table.name}",'
        self.notices.append(
            f'{what} of "{parent.name}" on server "{on["server"]}" would not have expired by the '
            "retention that the topology says now: kept and not archived, the rows are not seen; "
            f"`{render(Ddl(self.topology.namespace).attach(parent, one))}` brings "
            f'"{table.name}" back'
        )

    def _is_stale(self, name: str) -> bool:
        """By the real clock: statistics were really taken then, whatever --now says."""
        taken = self.found.analyzed.get(name)
        return taken is None or taken < self.found.facts.now - STATISTICS_AGE


def _default_of(leaves: tuple[Table, ...]) -> Table | None:
    return next((x for x in leaves if x.bound and x.bound.default), None)


def _validate(on: dict[str, Any], table: Table, leaves: tuple[Table, ...]) -> list[c.Change]:
    """Partitions first: then their parent has nothing left to scan."""
    found: list[c.Change] = []
    for target in (*leaves, table):
        constraints: tuple[Check | ForeignKey, ...] = (*target.checks, *target.foreign_keys)
        found += [
            c.ValidateConstraint(**{**on, "table": target}, name=item.name)
            for item in constraints
            if not item.valid and not item.inherited and item.name != GUARD
        ]
    return found
