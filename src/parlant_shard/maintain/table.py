"""What is to be done on one shard table, from what is there and the clock. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

from parlant_shard import changes as c
from parlant_shard import control, partitions
from parlant_shard.catalog import (
    Bound,
    Catalog,
    Check,
    ForeignKey,
    Managed,
    Relkind,
    Retired,
    Table,
)
from parlant_shard.ddl import Ddl, control_of, render
from parlant_shard.diff import GUARD, guarded
from parlant_shard.maintain import indexes, leaf
from parlant_shard.maintain.defaults import MOST
from parlant_shard.maintain.model import Found, GivenUp, Noun
from parlant_shard.names import suffixed
from parlant_shard.topology import Topology

# Partitions of one table that a run makes: a clock that is far off must not fill the catalogue.
MOST_NEW = 2_000
# Intervals that are looked back for gaps: eleven years of hours.
_LOOK_BACK = 100_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    """What the tables of one server have in common. `taken` and `notices` grow with each table.

    `move`: rows of default partitions are moved, where there are not more than that.
    """

    topology: Topology
    found: Found
    now: datetime
    move: int | None
    taken: set[str]  # the names of tables that are there, will be, or are in an archive
    notices: list[str] = field(default_factory=list)

    @property
    def name(self) -> str:
        return self.found.server


class Work:
    """The work on one shard table, by its kind."""

    def __init__(
        self, server: Server, table: Table, managed: Managed, leaves: Iterable[Table]
    ) -> None:
        self.server, self.table, self.managed = server, table, managed
        self.now = server.now
        self.every = tuple(leaves)
        self.leaves = tuple(x for x in self.every if not x.detach_pending)
        self.pending = tuple(x for x in self.every if x.detach_pending)
        self.bounds = [
            (x.bound.lower, x.bound.upper) for x in self.leaves if x.bound and not x.bound.default
        ]
        self.partition = server.topology.partition_of(managed.logical)
        self.cutoff = (
            partitions.before(self.partition.retention, self.now)
            if self.partition and self.partition.retention
            else None
        )
        self.default = next((x for x in self.leaves if x.bound and x.bound.default), None)
        self.held = server.found.defaults.get(self.default.name) if self.default else None
        self.rolling = indexes.windows(server.topology.indexes, managed.logical)
        self.on: dict[str, Any] = {"server": server.name, "table": table, "shard": managed.shard}

    @property
    def live(self) -> Catalog:
        return self.server.found.catalog

    def unreadable(self) -> GivenUp | None:
        """Why the bounds of the partitions cannot be read; then nothing is to be done."""
        if self.table.epoch is None or control.plausible(
            m for x in self.every if x.bound for m in (x.bound.lower, x.bound.upper)
        ):
            return None
        # Read in a wrong unit, every partition would be expired.
        return GivenUp(
            message=f'the partitions of "{self.table.name}" do not count {self.table.epoch}',
            code="PS580",
            hint="give `epoch:` the unit that it had when they were made",
        )

    def __iter__(self) -> Iterator[tuple[Noun, list[c.Change | GivenUp]]]:
        """Each kind of work, in order."""
        rolled = self._roll()
        made_anew = frozenset(
            x.index.name for x in rolled if isinstance(x, c.CreateIndex | c.DropIndex)
        )
        mended = list(indexes.repair(self.on, self.table, self.leaves, made_anew))
        self.server.notices.extend(x for x in mended if isinstance(x, str))
        yield Noun.FINALISE, [*self._clear(), *self._finalise()]
        yield Noun.REPAIR, [x for x in mended if not isinstance(x, str)]
        yield Noun.PREMAKE, list(self._premake())
        yield Noun.MOVE, list(self._move())
        yield Noun.ROLL, [*rolled]
        yield Noun.VALIDATE, list(self._validate())
        yield Noun.DETACH, list(self._detach())
        yield Noun.ARCHIVE, list(self._archive())

    def _roll(self) -> list[c.Change]:
        if self.table.kind is not Relkind.PARTITIONED:
            return list(indexes.roll_plain(self.on, self.rolling, self.table, self.now))
        logical = self.managed.logical
        return list(indexes.roll_partitions(self.on, self.rolling, logical, self.leaves, self.now))

    def _clear(self) -> Iterator[c.Change]:
        """What a killed run left at a default partition: a guard, which refuses rows, or copies."""
        for x in self.leaves:
            if any(check.name == GUARD for check in x.checks):
                yield c.DropConstraint(**{**self.on, "table": x}, name=GUARD, why=c.Why.LEFTOVER)
        copies = self.server.found.copies.get(self.table.name)
        if copies:
            yield c.DropCopies(**self.on, names=copies)

    def _finalise(self) -> Iterator[c.Change]:
        """What a killed run left: a detach in its middle, or one whose end was not recorded."""
        for table in self.pending:
            here = {**self.on, "table": table}
            yield c.FinalizeDetach(**here)
            if any(r.name == table.name for r in self.live.retired):
                yield c.SettleDetach(**here, now=self.now)
            else:
                self.server.notices.append(
                    f'partition "{table.name}" of "{self.table.name}" on server '
                    f'"{self.server.name}" is detached by somebody else: its rows stay in it, '
                    "nobody archives it, and its range gets a new partition where it is not expired"
                )
        for row in self.live.retired:
            if row.parent != self.table.name or row.state != "detaching" or not row.present:
                continue
            here = {**self.on, "table": self.live.tables[row.name]}
            yield c.SettleDetach(**here, now=self.now)

    def _premake(self) -> Iterator[c.Change | GivenUp]:
        table, partition = self.table, self.partition
        if table.partition_by is None:
            return  # not cut by time, or not yet: a matter for `apply`
        if partition is None or table.partition_by != partition.by:
            says = f'cut by "{partition.by}"' if partition else "not cut by time"
            yield GivenUp(
                message=f'table "{table.name}" is partitioned by "{table.partition_by}", and the '
                f"topology says that it is {says}: nobody makes its partitions",
                code="PS531",
                hint="restore `partition:` of the table in the topology file; `parlant-shard plan "
                f"{self.server.topology.file}` shows what becomes of the table otherwise",
            )
            return
        if partition.retention is not None and partition.reaches_back:
            oldest: datetime | None = partitions.before(partition.retention, self.now)
        else:
            oldest = min((lower for lower, _ in self.bounds if lower is not None), default=None)
        if oldest is not None:
            current = partitions.floor(partition.every, self.now)
            oldest = max(oldest, partitions.earlier(partition.every, current, _LOOK_BACK))
        retired = [(r.lower, r.upper) for r in self.live.retired if r.parent == table.name]
        missing = partitions.uncovered(
            control_of(table).fitting(
                partitions.wanted(partition.every, self.now, partition.premake, oldest)
            ),
            [*self.bounds, *retired],
        )
        if missing and leaf.newest(self.leaves) is None:
            yield GivenUp(
                message=f'table "{table.name}" has no partition that a new one could be made like'
            )
            return
        free: list[partitions.Range] = []
        kept: list[tuple[datetime, datetime, int]] = []
        if len(missing) > MOST_NEW:
            self.server.notices.append(
                f'table "{table.name}" on server "{self.server.name}" lacks {len(missing)} '
                f"partitions: this run makes {MOST_NEW} of them, run it again for the others"
            )
        # Those ahead of the clock first: they are what inserts wait for.
        for lower, upper in sorted(missing, key=lambda r: (r[1] <= self.now, r[0]))[:MOST_NEW]:
            rows = self._held_within(lower, upper)
            if not rows:
                free.append((lower, upper))
            else:
                kept.append((lower, upper, rows))
        if kept and self.default is not None and self.server.move is None:
            yield self._kept_out(self.default, kept)
        for made in self._new(free):
            yield c.CreatePartition(
                server=self.server.name,
                shard=self.managed.shard,
                parent=table,
                table=made,
                default=guarded(made, self.leaves, self.now),
            )

    def _held_within(self, lower: datetime, upper: datetime) -> int:
        """How many rows of the default partition keep a partition of that range from being made.

        Where it has too many to look at, all may: ATTACH would scan them under a lock that nobody
        gets past, at every run. Ahead of the clock the guard finds out without such a lock.
        """
        if self.held is None:
            return 0
        made = replace(self.table, bound=Bound(lower=lower, upper=upper))
        if self.held.hours is None and guarded(made, self.leaves, self.now) is None:
            return self.held.rows
        return self.held.within(lower, upper)

    def _kept_out(self, default: Table, kept: list[tuple[datetime, datetime, int]]) -> GivenUp:
        """One message for all partitions of a table that rows of its default partition keep out."""
        lower, upper = min(x[0] for x in kept), max(x[1] for x in kept)
        what = f'the partition of "{self.table.name}" from {lower} to {upper} is'
        if len(kept) > 1:
            what = f'{len(kept)} partitions of "{self.table.name}" between {lower} and {upper} are'
        them = "it" if len(kept) == 1 else "them"
        hint = f"run `parlant-shard maintain {self.server.topology.file} --move-default-rows"
        if self.held is not None and self.held.hours is None:
            holds = f"more than {self.held.rows} rows, too many to see whether one is of {them}"
            hint += " --move-limit` with a larger number, in a quiet hour"
        else:
            holds = f"{sum(x[2] for x in kept)} rows of {them}"
            hint += "`"
        return GivenUp(
            message=f'{what} not made: default partition "{default.name}" holds {holds}',
            code="PS581",
            hint=hint,
        )

    def _new(self, ranges: Iterable[partitions.Range]) -> Iterator[Table]:
        """New partitions like their newest sibling."""
        sibling, rolling = leaf.newest(self.leaves), self.rolling
        patterns = indexes.patterns(rolling, self.managed.logical, self.leaves)
        for lower, upper in ranges:
            name = suffixed(self.table.name, partitions.suffix(lower))
            while name in self.server.taken:  # a retired partition keeps its name
                name = suffixed(name, "x")
            self.server.taken.add(name)
            past = {
                patterns[n].definition
                for n in patterns
                if indexes.outside(upper, rolling[n], self.now)
            }
            assert sibling is not None
            bound = Bound(lower=lower, upper=upper)
            yield leaf.like(sibling, self.table, name, bound, self.managed.shard, past)

    def _move(self) -> Iterator[c.Change | GivenUp]:
        """Partitions for what a default partition holds, also for what has expired: they go the
        way of all partitions."""
        table, partition, default, held = self.table, self.partition, self.default, self.held
        move = self.server.move
        if move is None or partition is None or default is None or held is None:
            return
        if table.partition_by != partition.by or not held.rows:
            return
        if held.hours is None:
            yield GivenUp(
                message=f'default partition "{default.name}" holds more than {move} rows: '
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
        ranges = control_of(table).fitting(held.ranges(partition.every, self.bounds))
        stay = held.rows - sum(held.within(*r) for r in ranges)
        if stay:
            self.server.notices.append(
                f'{stay} rows stay in default partition "{default.name}": they are of no moment '
                "that a partition could have"
            )
        if len(ranges) > MOST:
            self.server.notices.append(
                f'the rows of default partition "{default.name}" need {len(ranges)} partitions; '
                f"this run makes the first {MOST}, run it again for the others"
            )
        if ranges:
            shard = self.managed.shard
            rest = leaf.like(default, table, default.name, Bound(default=True), shard, ())
            yield c.MoveRows(
                **self.on,
                default=default,
                partitions=tuple(self._new(ranges[:MOST])),
                remainder=replace(rest, comment=default.comment),
            )

    def _validate(self) -> Iterator[c.Change]:
        """Partitions first: then their parent has nothing left to scan."""
        for target in (*self.leaves, self.table):
            constraints: tuple[Check | ForeignKey, ...] = (*target.checks, *target.foreign_keys)
            for item in constraints:
                if not item.valid and not item.inherited and item.name != GUARD:
                    yield c.ValidateConstraint(**{**self.on, "table": target}, name=item.name)

    def _detach(self) -> Iterator[c.Change]:
        """Retire by the real bounds: what ends before the retention begins."""
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
        for table in sorted(self.leaves, key=lambda x: (x.bound and x.bound.upper) or datetime.max):
            upper = table.bound.upper if table.bound else None
            here = {**self.on, "table": table}
            if table.name in kept:
                continue
            if self.cutoff is not None and upper is not None and upper <= self.cutoff:
                assert table.bound is not None
                yield c.DetachPartition(
                    **here,
                    logical=self.managed.logical,
                    now=self.now,
                    at_once=self.default is not None,
                    announced=announced.get(table.name) == (table.bound.lower, upper),
                )
            elif table.name in announced:
                yield c.ForgetDetach(**here)

    def _archive(self) -> Iterator[c.Change | GivenUp]:
        """Detached partitions whose grace has passed, the oldest first."""
        partition, cutoff = self.partition, self.cutoff
        if partition is None:
            return
        again: list[tuple[Retired, Table]] = []
        for row in self.live.retired:
            table = self.live.tables.get(row.name)
            if row.parent != self.table.name or row.state != "detached" or not row.present:
                continue
            if table is None or row.detached_at is None:
                continue
            if not row.is_copy and (
                cutoff is None or (row.upper is not None and row.upper > cutoff)
            ):
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
                **{**self.on, "table": table},
                retired=row,
                target=partition.archive.shown,
                enums=tuple(self.live.enums.values()),
            )
        if again:
            self._wanted_again(again)

    def _wanted_again(self, again: list[tuple[Retired, Table]]) -> None:
        """The retention grew after a detach: only a person knows whether the rows shall be seen."""
        row, table = again[0]
        parent, one = self.table, replace(table, bound=Bound(lower=row.lower, upper=row.upper))
        what = "1 detached partition"
        if len(again) > 1:
            what = f'{len(again)} detached partitions, the first of them "{table.name}",'
        self.server.notices.append(
            f'{what} of "{parent.name}" on server "{self.server.name}" would not have expired by '
            "the retention that the topology says now: kept and not archived, the rows are not "
            "seen; "
            f"`{render(Ddl(self.server.topology.namespace).attach(parent, one))}` brings "
            f'"{table.name}" back'
        )
