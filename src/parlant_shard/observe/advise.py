"""`advise`: rules over the figures. Pure: figures in, findings out."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from functools import cached_property
from typing import Any

from parlant_shard import canonical
from parlant_shard.ddl import Ddl
from parlant_shard.diff import LEFTOVER
from parlant_shard.names import brief, suffixed
from parlant_shard.observe import remedy
from parlant_shard.observe.bloat import built_bytes, entries
from parlant_shard.observe.declared import Declaration, undeclared
from parlant_shard.observe.figures import (
    ForeignKeyFigures,
    IndexFigures,
    Observed,
    ServerFigures,
    TableFigures,
    unquoted,
)
from parlant_shard.observe.finding import Finding, Kind, ordered
from parlant_shard.observe.fold import ShardIndex, ShardTable, shard_indexes, shard_tables
from parlant_shard.observe.overlap import Covered, How, covered
from parlant_shard.render import size
from parlant_shard.topology import Interval, Topology

_PLAIN = re.compile(r"[a-z_][a-z0-9_]*")
_YAML_WORDS = frozenset({"y", "n", "yes", "no", "on", "off", "true", "false", "null"})

Declarations = Mapping[str, Mapping[str, Declaration]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """From where on something is worth a word."""

    min_age: timedelta = timedelta(days=7)
    reads: int = 100  # of the table: builds of indexes count as reads, and fewer prove nothing
    unused_bytes: int = 1024 * 1024  # a smaller index is not worth the trouble
    bloat_bytes: int = 8 * 1024 * 1024  # wasted by one index; below, a rebuild is not worth it
    bloat_ratio: float = 2.0  # random inserts alone leave pages a third empty
    fk_rows: int = 1_000  # of the referencing table; a smaller one is read whole at once
    fk_sure_rows: int = 10_000
    small_table: int = 1024 * 1024  # bytes; PostgreSQL may read it whole whatever indexes it has
    dead_rows: int = 10_000
    dead_ratio: float = 0.3  # autovacuum comes at 0.2 by default


DEFAULTS = Limits()


def advise(
    observed: Observed, declared: Declarations, limits: Limits = DEFAULTS
) -> tuple[Finding, ...]:
    """Apply every rule; one finding per logical object, with the shards that it is true of."""
    state = _State(observed, declared, limits)
    found = [*state.invalid(), *state.redundant(), *state.unused(), *state.bloated()]
    found += [*state.missing(), *state.dead_rows(), *state.never_analyzed()]
    return ordered(found)


def young(observed: Observed, limits: Limits = DEFAULTS) -> Iterator[str]:
    """Say where statistics are too young to call anything unused."""
    for server in observed.servers.values():
        begins = [server.since, *(r.since for r in server.replicas)]
        known = [server.now - b for b in begins if b is not None]
        if known and min(known) < limits.min_age:
            yield (
                f'server "{server.name}" has counted for {_span(min(known))} only, '
                f"{_span(limits.min_age)} are asked for (--min-age): no index is called unused"
            )


def suspects(limits: Limits = DEFAULTS) -> Callable[[ServerFigures], Iterable[IndexFigures]]:
    """The indexes that the estimate calls bloated: those are worth reading to know better."""

    def choose(server: ServerFigures) -> Iterator[IndexFigures]:
        tables = {t.oid: t for t in server.tables}
        for index in server.indexes:
            if _wasted(server, index, tables[index.rel], limits, measured=False):
                yield index

    return choose


def _wasted(
    server: ServerFigures,
    index: IndexFigures,
    table: TableFigures,
    limits: Limits,
    *,
    measured: bool,
) -> int:
    """The bytes that a rebuild would free; 0 below the limits."""
    if index.partitioned or not index.valid or index.bytes < limits.bloat_bytes:
        return 0
    built = built_bytes(index, table, server.widths, server.block_size)
    if built is None:
        return 0
    if measured and index.oid in server.densities:
        built = int(index.bytes * server.densities[index.oid] / index.fillfactor)
    wasted = index.bytes - built
    if wasted < limits.bloat_bytes or index.bytes < built * limits.bloat_ratio:
        return 0
    return wasted


class _State:
    def __init__(self, observed: Observed, declared: Declarations, limits: Limits) -> None:
        self.observed, self.declared, self.limits = observed, declared, limits
        self.topology: Topology = observed.topology
        self.ddl = Ddl(observed.topology.namespace)
        self.servers = observed.servers
        names = {table: tuple(items) for table, items in declared.items()}
        # Of a table that is locked somewhere not enough is known.
        locked = {t.logical for s in self.servers.values() for t in s.tables if t.locked}
        self.tables = {
            n: {k: t for k, t in shard_tables(n, s.tables).items() if t.logical not in locked}
            for n, s in self.servers.items()
        }
        found = [i for s in self.servers.values() for i in shard_indexes(s, names)]
        self.indexes = [i for i in found if i.table.logical not in locked]

    @cached_property
    def _by_table(self) -> Mapping[tuple[str, int], list[ShardIndex]]:
        found: dict[tuple[str, int], list[ShardIndex]] = {}
        for index in self.indexes:
            found.setdefault((index.server, index.table.root.oid), []).append(index)
        return found

    # --- what several rules share -----------------------------------------------------------------

    def _declared(self, table: ShardTable, index: str) -> str | None:
        found = self.declared.get(table.logical, {}).get(index)
        if found is not None:
            return f"{found.place}: {found.remove}"
        return undeclared(self.topology, table)

    def _finding(
        self, kind: Kind, group: list[ShardIndex], statements: list[tuple[str, tuple[str, ...]]],
        **rest: Any,
    ) -> Finding:  # fmt: skip
        first = group[0]
        return Finding(
            kind=kind,
            servers=tuple(dict.fromkeys(i.server for i in group)),
            shards=tuple(dict.fromkeys(i.table.shard for i in group if i.table.shard)),
            table=first.table.logical,
            index=first.name,
            statements=_together(statements),
            objects=tuple(i.root.name for i in group),
            **rest,
        )

    # --- INVALID ----------------------------------------------------------------------------------

    def invalid(self) -> Iterator[Finding]:
        """Indexes that cost writes and serve no read."""
        for index in self.indexes:
            server = self.servers[index.server]
            members = [index.root, *index.parts]
            if all(m.valid for m in members):
                continue
            tables_ = {t.oid for t in index.table.members}
            if any(i.building for i in server.indexes if i.rel in tables_):
                continue  # on a partition, it may not be attached yet
            tables = {t.oid: t for t in server.tables}
            broken = [m for m in index.parts if not m.valid] or [index.root]
            if index.root.partitioned:
                attached = {p.rel: p for p in index.parts}
                parts = [(t, attached.get(t.oid)) for t in index.table.members if not t.partitioned]
                sql = remedy.mend(
                    self.ddl, index.root, tables[index.root.rel], None, parts, server.version_num
                )
            else:
                sql = tuple(
                    s
                    for m in broken
                    for s in remedy.mend(self.ddl, m, tables[m.rel], None, (), server.version_num)
                )
            leftover = all(LEFTOVER.search(m.name) for m in broken)
            if index.root.constraint is not None:
                sql = ()
            names = ", ".join(f'"{m.name}"' for m in broken)
            yield self._finding(
                Kind.INVALID,
                [index],
                [(index.server, sql)] if sql else [],
                sure=True,
                bytes=sum(m.bytes for m in broken) if leftover else 0,
                evidence=f"{names}: INVALID, so every write pays for it and no query uses it"
                + ("; an interrupted REINDEX CONCURRENTLY left it" if leftover else ""),
                declared=f"`parlant-shard maintain {self.topology.file}` repairs INVALID indexes "
                "that the topology's tables should have, and drops what a REINDEX left",
                unless="a build of it is running in a session that cannot be seen from here",
            )

    # --- redundant --------------------------------------------------------------------------------

    def redundant(self) -> Iterator[Finding]:
        """Indexes whose work another one does."""
        groups: dict[tuple[str, str, str, How], list[tuple[ShardIndex, ShardIndex, Covered]]] = {}
        for pair in self._covered:
            index, by, found = pair
            key = (index.table.logical, index.name, by.name, found.how)
            groups.setdefault(key, []).append(pair)
        for (_, _, other, how), pairs in groups.items():
            indexes = [p[0] for p in pairs]
            index, by, found = pairs[0]
            elsewhere = self._elsewhere(indexes)
            scans = sum(i.scans for i in indexes)
            shape, wide = (", ".join(x.root.keys) for x in (index, by))
            evidence = (
                f"({shape}) and ({wide}) of {other} do the same"
                if how is How.DUPLICATE
                else f"({shape}) is the beginning of ({wide}) of {other}"
            )
            if found.fixed:
                evidence += f"; its predicate leaves one value of {', '.join(found.fixed)}"
            if how is How.WHOLE:
                evidence += f"; it holds only rows WHERE {index.root.predicate}"
            evidence += (
                f". It has {size(sum(i.bytes for i in indexes))} and {scans} scans, which would go "
                f"to {other} ({size(sum(p[1].bytes for p in pairs))})"
            )
            yield self._finding(
                Kind(how.value),
                indexes,
                [(i.server, remedy.drop(self.ddl, i)) for i in indexes],
                sure=how is not How.WHOLE and not elsewhere,
                bytes=sum(i.bytes for i in indexes),
                evidence=evidence,
                covered_by=other,
                declared=self._declared(index.table, index.name)
                if not elsewhere
                else f"leave the declaration as it is, and declare {other}: on "
                f"{', '.join(elsewhere)} nothing else does its work",
                unless=_unless_redundant(how, index.root, by.root) + self._passing(by),
            )

    def _elsewhere(self, indexes: list[ShardIndex]) -> list[str]:
        """The shards, or servers, on which an index of that name has work of its own."""
        index = indexes[0]
        if index.name not in self.declared.get(index.table.logical, {}):
            return []  # nothing makes it again
        mine = {(i.server, i.table.root.oid) for i in indexes}
        return sorted(
            i.table.shard or i.server
            for i in self.indexes
            if (i.table.logical, i.name) == (index.table.logical, index.name)
            and (i.server, i.table.root.oid) not in mine
        )

    def _passing(self, by: ShardIndex) -> str:
        """Warn of an index that stays only until the next apply."""
        known = by.name in self.declared.get(by.table.logical, {}) or by.root.protected
        if known or self.topology.schema_source.from_ is not None:
            return ""
        return (
            f"; {by.name} goes with the next apply, because nothing declares it: write it into "
            "`indexes` first"
        )

    @cached_property
    def _covered(self) -> list[tuple[ShardIndex, ShardIndex, Covered]]:
        """Covered indexes with those that stay; of a partitioned table, covered on every leaf."""
        by_part = {(i.server, p.oid): i for i in self.indexes for p in i.parts}
        groups: dict[tuple[str, int], list[IndexFigures]] = {}
        for index in self.indexes:
            for part in index.parts:
                groups.setdefault((index.server, part.rel), []).append(part)
        pairs: dict[tuple[int, int], list[Covered]] = {}
        ends: dict[int, ShardIndex] = {}
        for (server, _), parts in groups.items():
            lasts = self._lasts(server, by_part)
            for found in covered(parts, lasts):
                index = by_part[server, found.index.oid]
                by = by_part[server, found.by.oid]
                ends[id(index)], ends[id(by)] = index, by
                pairs.setdefault((id(index), id(by)), []).append(found)
        return [
            (ends[narrow], ends[wide], found_[0])
            for (narrow, wide), found_ in pairs.items()
            if len(found_) == len(ends[narrow].parts) and ends[narrow].root.valid
        ]

    def _lasts(
        self, server: str, by_part: Mapping[tuple[str, int], ShardIndex]
    ) -> Callable[[IndexFigures, IndexFigures], bool]:
        """Whether one index stays on a partition, and comes to new ones, wherever another does."""

        def window(index: ShardIndex) -> Interval | None:
            options = self.topology.indexes.get(index.name)
            return options.window if options is not None else None

        def lasts(wide: IndexFigures, narrow: IndexFigures) -> bool:
            one, other = by_part[server, wide.oid], by_part[server, narrow.oid]
            if not one.own or not other.own:
                return not one.own
            mine, theirs = window(one), window(other)
            if mine is None or theirs is None:
                return mine is None  # by hand, it stays where it is
            return mine == theirs or mine.bounds[0] >= theirs.bounds[1]

        return lasts

    # --- unused -----------------------------------------------------------------------------------

    def unused(self) -> Iterator[Finding]:
        """Indexes that nothing has read, anywhere, for long enough."""
        if self.observed.failed:
            return  # what a server that cannot be read uses is not known
        groups: dict[tuple[str, str], list[ShardIndex]] = {}
        for index in self.indexes:
            groups.setdefault((index.table.logical, index.name), []).append(index)
        # Said already with a better reason, or about to do the work of one that goes.
        redundant = {(i.server, i.root.oid) for pair in self._covered for i in pair[:2]}
        going = {(i.server, i.root.oid) for i, *_ in self._covered}
        # The largest first: of several that serve the same foreign key, the smallest stays.
        for group in sorted(groups.values(), key=lambda g: -sum(i.bytes for i in g)):
            if any((i.server, i.root.oid) in redundant for i in group):
                continue
            ages = [self._observed(i) for i in group]
            if any(a is None or a < self.limits.min_age for a in ages):
                continue
            if any(self._used(i) or self._needed(i, going) for i in group):
                continue
            reads = sum(i.table.reads for i in group)
            if reads < self.limits.reads or sum(i.bytes for i in group) < self.limits.unused_bytes:
                continue
            going |= {(i.server, i.root.oid) for i in group}
            yield self._unused(group, min(a for a in ages if a is not None), reads)

    def _unused(self, group: list[ShardIndex], age: timedelta, reads: int) -> Finding:
        replicas = sum(len(self.servers[s].replicas) for s in {i.server for i in group})
        of_them = f" and {replicas} replicas" if replicas else ""
        small = all(i.table.sum("heap_bytes") < self.limits.small_table for i in group)
        expression = 0 in group[0].root.numbers
        known = all(self._made(i) is not None for i in group)
        unless = "a rare job (month end, a restore, an audit) needs it"
        if not known:
            unless += "; it was made after the statistics began, which the journal does not say"
        promoted = {i.server for i in group if (self.servers[i.server].timeline or 1) > 1}
        if promoted:
            names = ", ".join(f'"{name}"' for name in sorted(promoted))
            unless += (
                f"; it was used on the primary before: server {names} was promoted or restored "
                "once, and its counters are its own only"
            )
        if not all(self.topology.servers[i.server].replicas for i in group):
            unless += "; a replica that the topology does not name uses it"
        if expression:
            unless += "; its statistics on the expression serve the planner"
        if small:
            unless += "; the table is small, so PostgreSQL reads it whole; that changes with growth"
        return self._finding(
            Kind.UNUSED,
            group,
            [(i.server, remedy.drop(self.ddl, i)) for i in group],
            sure=known and not small and not promoted,
            bytes=sum(i.bytes for i in group),
            evidence=f"no scan on {len(group)} {'shards' if group[0].table.shard else 'servers'}"
            f"{of_them} in {_span(age)}, in which the table was read {reads} times",
            declared=self._declared(group[0].table, group[0].name),
            unless=unless,
        )

    def _made(self, index: ShardIndex) -> datetime | None:
        made = self.servers[index.server].made
        with_table = made.get(index.table.root.name) if index.root.with_table else None
        return made.get(index.root.name) or with_table

    def _observed(self, index: ShardIndex) -> timedelta | None:
        """For how long all servers that could use an index have counted."""
        server = self.servers[index.server]
        begins = [server.since, *(r.since for r in server.replicas)]
        if any(b is None for b in begins) or any(r.error for r in server.replicas):
            return None
        if any(p.name not in r.usage for r in server.replicas for p in index.parts):
            return None  # that replica is behind, or it is another database
        made = self._made(index)
        known = [b for b in (*begins, made) if b is not None]
        return server.now - max(known)

    def _used(self, index: ShardIndex) -> bool:
        if any(p.scans or p.last_scan for p in index.parts):
            return True
        usage = [
            r.usage[p.name]
            for r in self.servers[index.server].replicas
            for p in index.parts
            if p.name in r.usage
        ]
        return any(scans or last for scans, last in usage)

    def _needed(self, index: ShardIndex, going: set[tuple[str, int]]) -> bool:
        """Whether it does more than serve reads, or serves deletes that have not come yet.

        `going` are those that are advised to be dropped already, each as (server, oid).
        """
        if not index.root.valid or any(p.protected for p in (index.root, *index.parts)):
            return True
        table = index.table
        beside = self._by_table[index.server, table.root.oid]
        others = [
            i.root
            for i in beside
            if i is not index and _whole(i) and (i.server, i.root.oid) not in going
        ]
        keys = [k for k in self.servers[index.server].foreign_keys if k.rel == table.root.oid]
        return any(
            self._serves(index.root, k) and not any(self._serves(o, k) for o in others)
            for k in keys
        )

    # --- foreign keys -----------------------------------------------------------------------------

    def _serves(self, index: IndexFigures, key: ForeignKeyFigures) -> bool:
        """Whether PostgreSQL can find a foreign key's rows with it.

        The distribution key may be absent: beside the other column it distinguishes little.
        """
        if not index.valid or index.method not in {"btree", "hash"}:
            return False
        columns = set(key.columns)
        bare = columns - {self.topology.key}
        if index.predicate is not None and index.predicate not in {
            f"({c} IS NOT NULL)" for c in columns
        }:
            return False
        names = [unquoted(c) for c in index.keys]
        return any(wanted and set(names[: len(wanted)]) == wanted for wanted in (columns, bare))

    def missing(self) -> Iterator[Finding]:
        """Foreign keys whose rows have to be looked for in the whole table."""
        groups: dict[tuple[str, tuple[str, ...]], list[tuple[ShardTable, ForeignKeyFigures]]] = {}
        for name, server in self.servers.items():
            by_oid = {t.root.oid: t for t in self.tables[name].values()}
            for key in server.foreign_keys:
                table = by_oid.get(key.rel)
                if table is None or any(
                    _whole(i) and self._serves(i.root, key)
                    for i in self._by_table.get((name, key.rel), ())
                ):
                    continue
                groups.setdefault((table.logical, key.columns), []).append((table, key))
        for (logical, columns), pairs in groups.items():
            rows = max(t.sum("rows") for t, _ in pairs)
            if rows < self.limits.fk_rows:
                continue
            deleted = sum(k.ref_deleted for _, k in pairs)
            wanted = [c for c in columns if c != self.topology.key] or list(columns)
            tables = [t for t, _ in pairs]
            name = self._free(logical, wanted, tables)
            other = pairs[0][1].ref_table.removesuffix(f"_{tables[0].shard}")
            near = {n for t, k in pairs if (n := self._beginning(t, k)) is not None}
            unless = f"rows of {other} are never deleted and their keys never change"
            if near:
                unless += f"; {', '.join(sorted(near))} finds few rows for its first column"
            yield Finding(
                kind=Kind.MISSING,
                sure=bool(deleted) and rows >= self.limits.fk_sure_rows and not near,
                servers=tuple(dict.fromkeys(t.server for t in tables)),
                shards=tuple(dict.fromkeys(t.shard for t in tables if t.shard)),
                table=logical,
                index=name,
                bytes=0,
                evidence=f"no index begins with ({', '.join(wanted)}), which references {other}: "
                f"every delete there reads {logical} whole, up to {rows} rows "
                f"({size(max(t.sum('heap_bytes') for t in tables))}) on a shard; {other} had "
                f"{deleted} deletes since the statistics began",
                statements=_together(
                    [(t.server, remedy.create(self.ddl, t, name, wanted)) for t in tables]
                ),
                objects=tuple(k.name for _, k in pairs),
                declared=self._to_declare(logical, name, wanted),
                unless=unless,
            )

    def _beginning(self, table: ShardTable, key: ForeignKeyFigures) -> str | None:
        """An index that begins with one of several columns of a key, which may be enough."""
        for index in self._by_table.get((table.server, table.root.oid), ()):
            first = unquoted(index.root.keys[0])
            if first not in key.columns or first == self.topology.key or not _whole(index):
                continue
            if self._serves(index.root, replace(key, columns=(first,))):
                return index.name
        return None

    def _free(self, logical: str, columns: list[str], tables: list[ShardTable]) -> str:
        """A name for an index, as PostgreSQL would give it, that no table or index has."""
        servers = self.servers.values()
        taken = {i.name for s in servers for i in s.indexes}
        taken |= {t.name for s in servers for t in s.tables}
        for number in itertools.count():
            name = suffixed(logical, f"{brief('_'.join(columns))}_idx{number or ''}")
            physical = {suffixed(name, t.shard) if t.shard else name for t in tables}
            if not physical & taken and name not in self.declared.get(logical, {}):
                return name
        raise AssertionError

    def _to_declare(self, table: str, name: str, columns: list[str]) -> str:
        return (
            f"write `{index_entry(table, name, columns)}` into {self.topology.file} and run apply, "
            "which builds it online; apply drops an index that nothing declares"
        )

    # --- bloat ------------------------------------------------------------------------------------

    def bloated(self) -> Iterator[Finding]:
        """Indexes that a rebuild would make much smaller."""
        groups: dict[tuple[str, str], list[tuple[ShardIndex, IndexFigures, int]]] = {}
        for index in self.indexes:
            server = self.servers[index.server]
            tables = {t.oid: t for t in index.table.members}
            for part in index.parts:
                wasted = _wasted(server, part, tables[part.rel], self.limits, measured=True)
                if wasted:
                    key = (index.table.logical, index.name)
                    groups.setdefault(key, []).append((index, part, wasted))
        for rows in groups.values():
            parts = [p for _, p, _ in rows]
            wasted = sum(w for *_, w in rows)
            bytes_ = sum(p.bytes for p in parts)
            count = round(
                sum(entries(p, t) for i, p, _ in rows for t in i.table.members if t.oid == p.rel)
            )
            measured = all(p.oid in self.servers[i.server].densities for i, p, _ in rows)
            how = "measured with pgstattuple" if measured else "estimated from the statistics"
            yield self._finding(
                Kind.BLOATED,
                list({id(i): i for i, _, _ in rows}.values()),
                [(i.server, remedy.rebuild(self.ddl, [p])) for i, p, _ in rows],
                sure=measured,
                bytes=wasted,
                evidence=f"{size(bytes_)} for {count} entries; built anew it would have "
                f"{size(bytes_ - wasted)}, {how}",
                unless="its free space is about to be used again, as between a delete and a load"
                if measured
                else "the estimate is off: old statistics, or keys much wider than their mean; "
                "with the extension pgstattuple it is measured",
            )

    # --- upkeep -----------------------------------------------------------------------------------

    def dead_rows(self) -> Iterator[Finding]:
        """Tables that autovacuum does not keep up with."""
        for table in self._all():
            for member in table.members:
                whole = member.rows + member.dead_rows
                if (
                    member.dead_rows < self.limits.dead_rows
                    or member.dead_rows < whole * self.limits.dead_ratio
                ):
                    continue
                yield self._upkeep(
                    Kind.DEAD_ROWS,
                    table,
                    member.name,
                    remedy.vacuum(self.topology.namespace, member.name),
                    evidence=f'"{member.name}" has {member.dead_rows} dead rows beside '
                    f"{member.rows} live ones; last vacuum: {member.last_vacuum or 'none'}",
                    unless="a vacuum is running now, or a long transaction, replication slot or "
                    "prepared transaction keeps the rows alive: end that first",
                )

    def never_analyzed(self) -> Iterator[Finding]:
        """Partitioned tables without statistics of the whole: autovacuum leaves them out."""
        for table in self._all():
            if not table.root.partitioned or table.root.tuples >= 0 or not table.sum("rows"):
                continue
            yield self._upkeep(
                Kind.NEVER_ANALYZED,
                table,
                table.root.name,
                remedy.analyze(self.topology.namespace, table.root.name),
                evidence=f'"{table.root.name}" is partitioned and was never analyzed: the planner '
                "guesses where it joins or groups the table as a whole",
                declared=f"`parlant-shard maintain {self.topology.file}` does it",
                unless="no query reads more than one partition of it",
            )

    def _all(self) -> list[ShardTable]:
        return [t for tables in self.tables.values() for t in tables.values()]

    def _upkeep(
        self, kind: Kind, table: ShardTable, name: str, sql: tuple[str, ...], **rest: Any
    ) -> Finding:
        return Finding(
            kind=kind,
            sure=True,
            servers=(table.server,),
            shards=(table.shard,) if table.shard else (),
            table=table.logical,
            index=None,
            bytes=0,
            statements=((table.server, sql),),
            objects=(name,),
            **rest,
        )


def _whole(index: ShardIndex) -> bool:
    """Whether every partition has it."""
    return not index.own or len(index.parts) == sum(not m.partitioned for m in index.table.members)


def _unless_redundant(how: How, narrow: IndexFigures, wide: IndexFigures) -> str:
    if how is How.WHOLE:
        return (
            "it is so much smaller that it stays in memory where the other does not: compare the "
            "sizes and the hit ratios"
        )
    lost = [c for c in narrow.columns if c not in wide.columns]
    if lost:
        return f"index-only scans read {', '.join(lost)} from it"
    if how is How.DUPLICATE:
        return "nothing: it can be dropped"
    return "scans of many rows gain from its being narrower than the other"


def _together(
    statements: Iterable[tuple[str, tuple[str, ...]]],
) -> tuple[tuple[str, tuple[str, ...]], ...]:
    """Statements by server, in the order of their first mention."""
    found: dict[str, tuple[str, ...]] = {}
    for server, sql in statements:
        found[server] = (*found.get(server, ()), *sql)
    return tuple(found.items())


def _span(age: timedelta) -> str:
    return f"{age.days} days" if age.days else f"{round(age.total_seconds() / 60)} minutes"


def index_entry(table: str, name: str, columns: Iterable[str]) -> str:
    """The entry of `indexes:` for the topology file, quoted where YAML or the columns need it."""
    listed = ", ".join(_scalar(c if _PLAIN.fullmatch(c) else canonical.quote(c)) for c in columns)
    return f"indexes: {{{_scalar(name)}: {{on: {_scalar(table)}, columns: [{listed}]}}}}"


def _scalar(text: str) -> str:
    # YAML reads words such as `on` and `no` as something else than text.
    plain = _PLAIN.fullmatch(text) and text.lower() not in _YAML_WORDS
    return text if plain else json.dumps(text, ensure_ascii=False)
