"""Changes → an ordered plan: every step with its SQL, server, lock, hazards and timeouts.

Order is by phase. Within a phase servers do not depend on each other and run in parallel; on one
server steps run one after the other, in the order of the plan. The phases are listed in `Phase`.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from enum import IntEnum, StrEnum
from typing import Any, assert_never

from psycopg.conninfo import make_conninfo
from psycopg.sql import SQL, Composable, Identifier, Literal

from parlant_shard import canonical
from parlant_shard import changes as c
from parlant_shard.catalog import Check, Column, ForeignKey, Index, Key, Managed, Relkind, Table
from parlant_shard.ddl import Ddl, fdw_options, names, render, storage, text
from parlant_shard.desired import PEER_OPTIONS, Peer
from parlant_shard.diff import listed, temporary
from parlant_shard.names import suffixed
from parlant_shard.sqlfiles import queries

FORMAT_VERSION = 1


class Hazard(StrEnum):
    """What an operator must know before a step runs. Only the first two need `--allow`."""

    DELETES_DATA = "deletes-data"
    DROPS_OBJECT = "drops-object"
    WEAKER_UNIQUENESS = "weaker-uniqueness"
    BLOCKS_WRITES = "blocks-writes"
    BLOCKS_READS = "blocks-reads"
    TABLE_REWRITE = "table-rewrite"
    FULL_SCAN = "full-scan"
    INDEX_BUILD = "index-build"
    VIEW_UNAVAILABLE = "view-unavailable"
    MAY_FAIL_ON_DATA = "may-fail-on-data"


NEEDS_ALLOW = frozenset({Hazard.DELETES_DATA, Hazard.DROPS_OBJECT})


class Lock(StrEnum):
    """PostgreSQL's names of the table lock modes that our steps take."""

    ACCESS_SHARE = "ACCESS SHARE"
    ROW_SHARE = "ROW SHARE"
    ROW_EXCLUSIVE = "ROW EXCLUSIVE"
    SHARE_UPDATE_EXCLUSIVE = "SHARE UPDATE EXCLUSIVE"
    SHARE = "SHARE"
    SHARE_ROW_EXCLUSIVE = "SHARE ROW EXCLUSIVE"
    ACCESS_EXCLUSIVE = "ACCESS EXCLUSIVE"


class Kind(StrEnum):
    """How a step is run: what its timeouts are and whether it is simply tried again."""

    METADATA = "metadata"  # a brief strong lock: short lock timeout, retried with back-off
    VALIDATE = "validate"  # a scan under a weak lock: long statement timeout, retried
    CONCURRENT = "concurrent"  # CONCURRENTLY: no lock timeout, never retried blindly, probed
    BATCHES = "batches"  # repeated until it changes no row, each round by itself
    WAIT = "wait"  # asked again until it says true


# (lock_timeout, statement_timeout) in milliseconds. A metadata step queues in front of everybody
# who comes after it: one second is the longest that readers and writers may wait behind it. A
# CONCURRENTLY statement blocks nobody while it waits, and a lock timeout would leave an INVALID
# index behind; its bound is six hours, and the executor watches it.
TIMEOUTS = {
    Kind.METADATA: (1_000, 10_000),
    Kind.VALIDATE: (1_000, 6 * 3_600_000),
    Kind.CONCURRENT: (0, 6 * 3_600_000),
    Kind.BATCHES: (1_000, 60_000),
    Kind.WAIT: (1_000, 30_000),
}


class Phase(IntEnum):
    """The order of everything. Gaps leave room; the reasons stand beside."""

    INTERNAL_COORDINATOR = 10  # the run is recorded there
    INTERNAL = 11
    FINALIZE = 15  # PostgreSQL 18 cannot finalise a detach once the parent was altered
    DROP_VIEWS = 18  # views that would block a change; created again below
    TYPES_COORDINATOR = 20  # a foreign table must know an enum value before it reads one
    TYPES = 21
    FUNCTIONS = 22
    REFERENCE_COPIES = 30  # a subscriber needs a column before the publisher sends it
    REFERENCE = 31
    REFERENCE_KEYS = 32  # foreign keys, when all tables are there
    PUBLICATION = 33
    SLOTS = 34
    SUBSCRIPTIONS = 35
    NARROW = 40  # a workspace is given up before another shard admits it
    SHARDS = 45
    FOREIGN_KEYS = 46
    FOREIGN_SERVERS = 48
    FOREIGN = 50
    WIDEN = 55  # after the foreign tables: their CHECKs would hide rows that are already there
    VIEWS = 60
    DROP_FOREIGN = 70
    DROP_SHARDS = 75
    DROP_REPLICATION = 80
    DROP_SLOTS = 81
    DROP_REST = 85
    PLACEMENT = 90
    DIRECTORY = 95  # last: routers follow it


@dataclass(frozen=True, slots=True, kw_only=True)
class Probe:
    """How to see whether a step that no transaction protects is done, absent or half done.

    `query` returns one text: 'done', 'absent' or 'half'; `clear` removes what is half done.
    """

    query: str
    clear: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One unit of work on one server: done entirely, or not at all, or repaired by its probe."""

    id: str
    phase: int
    server: str
    shard: str | None
    title: str
    sql: tuple[str, ...]
    transactional: bool
    lock: str | None
    hazards: tuple[str, ...]
    lock_timeout_ms: int
    statement_timeout_ms: int
    kind: Kind
    probe: Probe | None = None
    secret: str | None = None  # the server whose password replaces its mark in the SQL

    def to_json(self) -> dict[str, Any]:
        found: dict[str, Any] = {
            "id": self.id,
            "server": self.server,
            "shard": self.shard,
            "title": self.title,
            "sql": list(self.sql),
            "transactional": self.transactional,
            "lock": self.lock,
            "hazards": list(self.hazards),
            "lock_timeout_ms": self.lock_timeout_ms,
            "statement_timeout_ms": self.statement_timeout_ms,
            "phase": self.phase,
            "kind": self.kind.value,
        }
        if self.probe is not None:
            found["probe"] = {"query": self.probe.query, "clear": list(self.probe.clear)}
        if self.secret is not None:
            found["secret"] = self.secret
        return found

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> Step:
        probe = data.get("probe")
        return Step(
            id=data["id"],
            phase=data["phase"],
            server=data["server"],
            shard=data["shard"],
            title=data["title"],
            sql=tuple(data["sql"]),
            transactional=data["transactional"],
            lock=data["lock"],
            hazards=tuple(data["hazards"]),
            lock_timeout_ms=data["lock_timeout_ms"],
            statement_timeout_ms=data["statement_timeout_ms"],
            kind=Kind(data["kind"]),
            probe=None if probe is None else Probe(query=probe["query"], clear=tuple(probe["clear"])),
            secret=data.get("secret"),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What `apply` executes. `fingerprint` is of the live catalogues that it was made for."""

    topology: str
    file: str
    sha256: str
    fingerprint: str
    steps: tuple[Step, ...]
    notices: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        return {
            "format_version": FORMAT_VERSION,
            "topology": {"name": self.topology, "file": self.file, "sha256": self.sha256},
            "fingerprint": self.fingerprint,
            "steps": [s.to_json() for s in self.steps],
            "notices": list(self.notices),
        }

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> Plan:
        return Plan(
            topology=data["topology"]["name"],
            file=data["topology"]["file"],
            sha256=data["topology"]["sha256"],
            fingerprint=data["fingerprint"],
            steps=tuple(Step.from_json(s) for s in data["steps"]),
            notices=tuple(data["notices"]),
        )

    @property
    def hazards(self) -> tuple[str, ...]:
        return tuple(sorted({h for s in self.steps for h in s.hazards}))


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """What building needs beside the changes."""

    topology: str
    namespace: str
    coordinator: str
    key: str
    key_type: str
    shard_servers: frozenset[str]
    peers: Mapping[str, Peer]
    majors: Mapping[str, int]


def secret_mark(server: str) -> str:
    """What stands in a plan for a password. The executor puts the real one in, quoted."""
    return f"<password of server {server}>"


def build(changes: Iterable[c.Change], target: Target) -> tuple[Step, ...]:
    """Turn changes into ordered steps with ids that are the same for the same work."""
    drafts = [d for change in _staged(changes, target) for d in _Builder(target).drafts(change)]
    drafts.sort(key=lambda d: d.phase)  # stable: the order of changes stays within a phase
    seen: dict[str, int] = {}
    steps = []
    for draft in drafts:
        digest = hashlib.sha256("\0".join((draft.server, *draft.sql)).encode()).hexdigest()[:12]
        count = seen[digest] = seen.get(digest, 0) + 1
        lock_timeout, statement_timeout = TIMEOUTS[draft.kind]
        steps.append(
            Step(
                id=digest if count == 1 else f"{digest}-{count}",
                phase=int(draft.phase),
                server=draft.server,
                shard=draft.shard or None,
                title=draft.title,
                sql=draft.sql,
                transactional=draft.transactional,
                lock=draft.lock,
                hazards=tuple(h.value for h in draft.hazards),
                lock_timeout_ms=lock_timeout,
                statement_timeout_ms=statement_timeout,
                kind=draft.kind,
                probe=draft.probe,
                secret=draft.secret,
            )
        )
    return tuple(steps)


def _staged(changes: Iterable[c.Change], target: Target) -> Iterator[c.Change]:
    """Split the CHECK changes of shards that give to and take from each other.

    A shard that loses ws1 and gains ws2 from a shard that still admits ws2 first shrinks to what
    it keeps; the widening comes when every shard has given up what it loses.
    """
    changes = tuple(changes)
    lost = {
        workspace
        for change in changes
        if isinstance(change, c.SwapCheck) and change.narrows and change.table.kind is not Relkind.FOREIGN
        for workspace in listed(change.old) - listed(change.new)
    }
    for change in changes:
        if (
            isinstance(change, c.SwapCheck)
            and change.narrows
            and change.begun is None
            and change.table.kind is not Relkind.FOREIGN
            and "bucket(" not in change.old.definition + change.new.definition
            and (listed(change.new) - listed(change.old)) & lost
        ):
            kept = sorted(listed(change.old) & listed(change.new))
            middle = Check(
                name=change.new.name,
                definition=canonical.list_check(target.key, target.key_type, kept),
            )
            yield replace(change, new=middle)
            yield replace(change, old=middle, narrows=False)
        else:
            yield change


@dataclass(frozen=True, slots=True, kw_only=True)
class _Draft:
    """A step before it has an id and timeouts."""

    phase: Phase
    server: str
    title: str
    sql: tuple[str, ...]
    shard: str = ""
    kind: Kind = Kind.METADATA
    lock: Lock | None = None
    hazards: tuple[Hazard, ...] = ()
    probe: Probe | None = None
    secret: str | None = None

    @property
    def transactional(self) -> bool:
        return self.kind in {Kind.METADATA, Kind.VALIDATE}


class _Builder:
    def __init__(self, target: Target) -> None:
        self.target = target
        self.ddl = Ddl(target.namespace)

    def drafts(self, change: c.Change) -> Iterator[_Draft]:
        match change:
            case (
                c.CreateInternal()
                | c.CreateExtension()
                | c.CreateEnum()
                | c.AddEnumLabel()
                | c.SetFunction()
            ):
                yield from self._database(change)
            case c.CreateTable() | c.CreatePartition() | c.FinalizeDetach() | c.DropTable():
                yield from self._whole_table(change)
            case c.RegisterTable():
                yield self._on(
                    change,
                    f'register table "{change.table.name}" as managed',
                    self._register(change.managed),
                    lock=Lock.ROW_EXCLUSIVE,
                )
            case c.AddColumn() | c.DropColumn() | c.AlterColumn():
                yield from self._column(change)
            case (
                c.AddKey()
                | c.AddCheck()
                | c.SwapCheck()
                | c.AddForeignKey()
                | c.ValidateConstraint()
                | c.DropConstraint()
            ):
                yield from self._constraint(change)
            case (
                c.CreateIndex()
                | c.DropIndex()
                | c.RenameIndex()
                | c.ReindexAttached()
                | c.CommentIndex()
            ):
                yield from self._index(change)
            case (
                c.SetTrigger()
                | c.DropTrigger()
                | c.SetPolicy()
                | c.DropPolicy()
                | c.AddGrants()
                | c.AlterTable()
            ):
                yield from self._property(change)
            case (
                c.SetForeignServer()
                | c.DropForeignServer()
                | c.SetUserMapping()
                | c.CreateView()
                | c.DropView()
            ):
                yield from self._federation(change)
            case (
                c.SetPublication()
                | c.DropPublication()
                | c.CreateSlot()
                | c.DropSlot()
                | c.CreateSubscription()
                | c.ReconnectSubscription()
                | c.RefreshSubscription()
                | c.AwaitSubscription()
                | c.DropSubscription()
            ):
                yield from self._replication(change)
            case c.SetPlacements() | c.SetDirectory():
                yield from self._placement(change)
            case _:
                assert_never(change)

    # --- helpers ---------------------------------------------------------------------------------

    def _on(
        self,
        change: c.OnTable,
        title: str,
        *sql: Composable,
        phase: Phase | None = None,
        kind: Kind = Kind.METADATA,
        lock: Lock | None = Lock.ACCESS_EXCLUSIVE,
        hazards: tuple[Hazard, ...] = (),
        probe: Probe | None = None,
    ) -> _Draft:
        return _Draft(
            phase=phase or self._phase(change),
            server=change.server,
            shard=change.shard,
            title=title,
            sql=tuple(render(s) for s in sql),
            kind=kind,
            lock=lock,
            hazards=hazards,
            probe=probe,
        )

    def _phase(self, change: c.OnTable) -> Phase:
        if change.table.kind is Relkind.FOREIGN:
            return Phase.FOREIGN
        if not change.shard:
            copy = change.server != self.target.coordinator
            return Phase.REFERENCE_COPIES if copy else Phase.REFERENCE
        return Phase.SHARDS

    def _drop_phase(self, change: c.OnTable) -> Phase:
        if change.table.kind is Relkind.FOREIGN:
            return Phase.DROP_FOREIGN
        return Phase.DROP_SHARDS if change.shard else Phase.DROP_REST

    def _register(self, managed: Managed) -> Composable:
        return SQL(
            "INSERT INTO parlant_shard.object (topology, kind, name, logical, shard) "
            "VALUES ({}, {}, {}, {}, {}) ON CONFLICT (kind, name) DO UPDATE "
            "SET topology = EXCLUDED.topology, logical = EXCLUDED.logical, shard = EXCLUDED.shard"
        ).format(
            *map(
                Literal,
                (self.target.topology, managed.kind, managed.name, managed.logical, managed.shard),
            )
        )

    def _unregister(self, kind: str, name: str) -> Composable:
        return SQL("DELETE FROM parlant_shard.object WHERE kind = {} AND name = {}").format(
            Literal(kind), Literal(name)
        )

    def _index_probe(self, name: str, clear: Composable) -> Probe:
        return Probe(
            query=render(
                SQL(
                    "SELECT coalesce((SELECT CASE WHEN i.indisvalid AND i.indisready THEN 'done' "
                    "ELSE 'half' END FROM pg_catalog.pg_index i "
                    "WHERE i.indexrelid = pg_catalog.to_regclass({})), 'absent') AS state"
                ).format(Literal(self._qualified(name)))
            ),
            clear=(render(clear),),
        )

    def _qualified(self, name: str) -> str:
        return f"{canonical.quote(self.target.namespace)}.{canonical.quote(name)}"

    def _drop_index(self, name: str, *, concurrently: bool = True) -> Composable:
        return SQL("DROP INDEX {}{}").format(
            SQL("CONCURRENTLY " if concurrently else ""), self.ddl.name(name)
        )

    def _populated_hazard(self, change: c.OnTable, *hazards: Hazard) -> tuple[Hazard, ...]:
        return hazards if change.table.populated or change.table.kind is Relkind.PARTITIONED else ()

    # --- the database ----------------------------------------------------------------------------

    def _database(
        self,
        change: c.CreateInternal | c.CreateExtension | c.CreateEnum | c.AddEnumLabel | c.SetFunction,
    ) -> Iterator[_Draft]:
        is_coordinator = change.server == self.target.coordinator
        types = Phase.TYPES_COORDINATOR if is_coordinator else Phase.TYPES
        match change:
            case c.CreateInternal():
                yield _Draft(
                    phase=Phase.INTERNAL_COORDINATOR if is_coordinator else Phase.INTERNAL,
                    server=change.server,
                    title="create the schema parlant_shard for placement, journal and runs",
                    sql=_statements(queries("internal")["create"]),
                    lock=Lock.ACCESS_EXCLUSIVE,
                )
            case c.CreateExtension(name=name):
                schema = "parlant_shard" if name == "postgres_fdw" else self.target.namespace
                yield _Draft(
                    phase=types,
                    server=change.server,
                    title=f'create extension "{name}"',
                    sql=(
                        render(
                            SQL("CREATE EXTENSION {} SCHEMA {}").format(
                                Identifier(name), Identifier(schema)
                            )
                        ),
                    ),
                )
            case c.CreateEnum(enum=enum):
                yield _Draft(
                    phase=types,
                    server=change.server,
                    title=f'create enum "{enum.name}"',
                    sql=(render(self.ddl.create_enum(enum)),),
                )
            case c.AddEnumLabel(enum=enum, label=label, before=before):
                statement = SQL("ALTER TYPE {} ADD VALUE {}").format(
                    self.ddl.name(enum.name), Literal(label)
                )
                if before is not None:
                    statement += SQL(" BEFORE {}").format(Literal(before))
                yield _Draft(
                    phase=types,
                    server=change.server,
                    title=f'add label "{label}" to enum "{enum.name}"',
                    sql=(render(statement),),
                )
            case c.SetFunction(function=function, exists=exists):
                yield _Draft(
                    phase=Phase.FUNCTIONS,
                    server=change.server,
                    title=f"{'replace' if exists else 'create'} function {function.signature}",
                    # A body may name what is created later, or with another search_path.
                    sql=("SET LOCAL check_function_bodies = off", function.definition),
                )

    # --- tables ----------------------------------------------------------------------------------

    def _whole_table(
        self, change: c.CreateTable | c.CreatePartition | c.FinalizeDetach | c.DropTable
    ) -> Iterator[_Draft]:
        table = change.table
        match change:
            case c.CreateTable():
                sql = [self.ddl.create_table(table, change.foreign_keys)]
                sql += [self.ddl.create_index(table.name, i) for i in table.indexes]
                sql += self.ddl.dressing(table)
                what = {
                    Relkind.TABLE: "table",
                    Relkind.PARTITIONED: "partitioned table",
                    Relkind.FOREIGN: "foreign table",
                }[table.kind]
                yield self._on(
                    change,
                    f'create {what} "{table.name}" with its constraints and indexes',
                    *sql,
                    self._register(change.managed),
                    hazards=(Hazard.WEAKER_UNIQUENESS,) if change.weaker else (),
                )
            case c.CreatePartition(parent=parent):
                yield self._on(
                    change,
                    f'create partition "{table.name}" and attach it to "{parent.name}"',
                    *self.ddl.create_partition(parent, table),
                )
            case c.FinalizeDetach():
                assert table.parent is not None
                yield self._on(
                    change,
                    f'finalise the interrupted detach of partition "{table.name}"',
                    self.ddl.alter(
                        table.parent, SQL("DETACH PARTITION {} FINALIZE").format(self.ddl.name(table.name))
                    ),
                    phase=Phase.FINALIZE,
                )
            case c.DropTable():
                yield from self._drop_table(change)

    def _drop_table(self, change: c.DropTable) -> Iterator[_Draft]:
        table = change.table
        foreign = table.kind is Relkind.FOREIGN
        replaced = change.why is c.Why.REPLACED
        for fk in change.foreign_keys:
            yield self._on(
                change,
                f'drop foreign key "{fk.name}", which closes a cycle between tables that go',
                self.ddl.alter(table.name, SQL("DROP CONSTRAINT {}").format(Identifier(fk.name))),
                phase=self._drop_phase(change),
                hazards=(Hazard.DROPS_OBJECT,),
            )
        sql: list[Composable] = []
        if not foreign and not change.populated:
            # It was empty when the plan was made. Whoever wrote since then must not lose it.
            sql.append(
                SQL("LOCK TABLE {} IN ACCESS EXCLUSIVE MODE").format(self.ddl.name(table.name))
            )
            sql.append(
                SQL(
                    "DO $check$BEGIN IF EXISTS (SELECT FROM {}) THEN RAISE EXCEPTION "
                    "USING ERRCODE = 'PS001', MESSAGE = {}; END IF; END$check$"
                ).format(
                    self.ddl.name(table.name),
                    Literal(f'table "{table.name}" is not empty any more'),
                )
            )
        sql.append(
            SQL("DROP {}TABLE {}").format(
                SQL("FOREIGN " if foreign else ""), self.ddl.name(table.name)
            )
        )
        sql.append(self._unregister("table", table.name))
        hazards: tuple[Hazard, ...] = ()
        if not (foreign and replaced):
            hazards = (Hazard.DROPS_OBJECT,)
        if change.populated:
            hazards = (Hazard.DELETES_DATA, *hazards)
        yield self._on(
            change,
            f'drop {"foreign " if foreign else ""}table "{table.name}"'
            + (" with its rows" if change.populated else ""),
            *sql,
            # A replaced table goes right before its successor of the same name comes.
            phase=self._replaced_phase(change) if replaced else self._drop_phase(change),
            hazards=hazards,
        )

    def _replaced_phase(self, change: c.DropTable) -> Phase:
        # A foreign table makes room for a local table of the same name, and the reverse.
        return Phase.SHARDS if change.table.kind is not Relkind.FOREIGN else Phase.NARROW

    # --- columns ---------------------------------------------------------------------------------

    def _column(self, change: c.AddColumn | c.DropColumn | c.AlterColumn) -> Iterator[_Draft]:
        match change:
            case c.AddColumn():
                yield from self._add_column(change)
            case c.DropColumn(column=column):
                foreign = change.table.kind is Relkind.FOREIGN
                action = SQL("DROP COLUMN {}").format(Identifier(column.name))
                alter = self.ddl.alter_foreign if foreign else self.ddl.alter
                yield self._on(
                    change,
                    f'drop column "{column.name}" of "{change.table.name}"',
                    alter(change.table.name, action),
                    phase=self._drop_phase(change),
                    hazards=() if foreign else (Hazard.DELETES_DATA,),
                )
            case c.AlterColumn():
                yield from self._alter_column(change)

    def _add_column(self, change: c.AddColumn) -> Iterator[_Draft]:
        table, column = change.table, change.column
        title = f'add column "{column.name}" to "{table.name}"'
        if table.kind is Relkind.FOREIGN:
            yield self._on(
                change,
                title,
                self.ddl.alter_foreign(table.name, SQL("ADD COLUMN ") + self.ddl.column(column)),
            )
            return
        comment = [self.ddl.comment_column(table.name, column)] if column.comment else []
        rewrites = bool(column.identity) or column.generated == "s"
        if rewrites:
            yield self._on(
                change,
                f"{title}, which rewrites the table",
                self.ddl.alter(table.name, SQL("ADD COLUMN ") + self.ddl.column(column)),
                *comment,
                hazards=(Hazard.TABLE_REWRITE, Hazard.BLOCKS_WRITES, Hazard.BLOCKS_READS),
            )
            return
        if column.default is None or _is_constant(column.default):
            late = column.not_null and column.default is None
            added = replace(column, not_null=column.not_null and not late)
            yield self._on(
                change,
                title,
                self.ddl.alter(table.name, SQL("ADD COLUMN ") + self.ddl.column(added)),
                *comment,
            )
            if late:
                yield from self._set_not_null(change, column.name, change.leaves)
            return
        # A volatile default would rewrite the table under a lock that blocks everybody.
        yield self._on(
            change,
            title,
            self.ddl.alter(
                table.name,
                SQL("ADD COLUMN ") + self.ddl.column(replace(column, default=None, not_null=False)),
            ),
            self.ddl.alter(
                table.name,
                SQL("ALTER COLUMN {} SET DEFAULT ").format(Identifier(column.name))
                + text(column.default),
            ),
            *comment,
        )
        yield self._on(
            change,
            f'fill column "{column.name}" of "{table.name}" in batches',
            SQL(
                "UPDATE {table} SET {column} = DEFAULT WHERE (tableoid, ctid) IN "
                "(SELECT tableoid, ctid FROM {table} WHERE {column} IS NULL LIMIT 5000)"
            ).format(table=self.ddl.name(table.name), column=Identifier(column.name)),
            kind=Kind.BATCHES,
            lock=Lock.ROW_EXCLUSIVE,
            hazards=(Hazard.FULL_SCAN,),
        )
        if column.not_null:
            yield from self._set_not_null(change, column.name, change.leaves)

    def _set_not_null(
        self, change: c.OnTable, column: str, leaves: tuple[Table, ...]
    ) -> Iterator[_Draft]:
        """Prove it with a CHECK first: SET NOT NULL alone scans under the strongest lock."""
        table = change.table
        name = suffixed(suffixed(table.name, column), "not_null")
        targets = leaves if table.kind is Relkind.PARTITIONED else (table,)
        definition = SQL("CHECK ({} IS NOT NULL)").format(Identifier(column))
        for target in targets:
            yield self._on(
                change,
                f'announce that "{target.name}.{column}" is not null',
                self.ddl.alter(
                    target.name,
                    SQL("ADD CONSTRAINT {} ").format(Identifier(name))
                    + definition
                    + SQL(" NOT VALID"),
                ),
            )
            yield self._on(
                change,
                f'check that "{target.name}.{column}" is not null',
                self._validate(target.name, name),
                kind=Kind.VALIDATE,
                lock=Lock.SHARE_UPDATE_EXCLUSIVE,
                hazards=(Hazard.FULL_SCAN, Hazard.MAY_FAIL_ON_DATA),
            )
        yield self._on(
            change,
            f'set "{table.name}.{column}" NOT NULL',
            self.ddl.alter(
                table.name, SQL("ALTER COLUMN {} SET NOT NULL").format(Identifier(column))
            ),
        )
        for target in targets:
            yield self._on(
                change,
                f'drop the check that proved "{target.name}.{column}" not null',
                self.ddl.alter(target.name, SQL("DROP CONSTRAINT {}").format(Identifier(name))),
            )

    def _validate(self, table: str, name: str) -> Composable:
        return self.ddl.alter(table, SQL("VALIDATE CONSTRAINT {}").format(Identifier(name)))

    def _alter_column(self, change: c.AlterColumn) -> Iterator[_Draft]:
        table, old, new = change.table, change.old, change.new
        foreign = table.kind is Relkind.FOREIGN
        alter = self.ddl.alter_foreign if foreign else self.ddl.alter
        column = Identifier(new.name)

        def act(title: str, action: Composable, **options: Any) -> _Draft:
            return self._on(change, title, alter(table.name, action), **options)

        if old.type != new.type or old.collation != new.collation:
            action = SQL("ALTER COLUMN {} TYPE ").format(column) + text(new.type)
            if new.collation:
                action += SQL(" COLLATE ") + text(new.collation)
            if not foreign:
                action += SQL(" USING {}::").format(column) + text(new.type)
            safe = foreign or _widens(old, new)
            yield act(
                f'change the type of "{table.name}.{new.name}" from {old.type} to {new.type}',
                action,
                hazards=()
                if safe
                else (
                    Hazard.TABLE_REWRITE,
                    Hazard.BLOCKS_WRITES,
                    Hazard.BLOCKS_READS,
                    Hazard.MAY_FAIL_ON_DATA,
                ),
            )
        if old.identity != new.identity:
            if new.identity and old.identity:
                action = SQL("ALTER COLUMN {} SET GENERATED ").format(column)
                action += SQL("ALWAYS" if new.identity == "a" else "BY DEFAULT")
            elif new.identity:
                action = SQL("ALTER COLUMN {} ADD GENERATED ").format(column)
                action += SQL(("ALWAYS" if new.identity == "a" else "BY DEFAULT") + " AS IDENTITY")
            else:
                action = SQL("ALTER COLUMN {} DROP IDENTITY").format(column)
            yield act(f'change the identity of "{table.name}.{new.name}"', action)
        if old.default != new.default and not new.generated and not foreign:
            if new.default is None:
                action = SQL("ALTER COLUMN {} DROP DEFAULT").format(column)
            else:
                action = SQL("ALTER COLUMN {} SET DEFAULT ").format(column) + text(new.default)
            yield act(f'change the default of "{table.name}.{new.name}"', action)
        if old.not_null and not new.not_null:
            yield act(
                f'allow NULL in "{table.name}.{new.name}"',
                SQL("ALTER COLUMN {} DROP NOT NULL").format(column),
            )
        if new.not_null and not old.not_null:
            if foreign:
                yield act(
                    f'set "{table.name}.{new.name}" NOT NULL',
                    SQL("ALTER COLUMN {} SET NOT NULL").format(column),
                )
            else:
                yield from self._set_not_null(change, new.name, change.leaves)
        if old.comment != new.comment and not foreign:
            yield self._on(
                change,
                f'set the comment of "{table.name}.{new.name}"',
                self.ddl.comment_column(table.name, new),
                lock=Lock.SHARE_UPDATE_EXCLUSIVE,
            )

    # --- constraints -----------------------------------------------------------------------------

    def _constraint(
        self,
        change: c.AddKey
        | c.AddCheck
        | c.SwapCheck
        | c.AddForeignKey
        | c.ValidateConstraint
        | c.DropConstraint,
    ) -> Iterator[_Draft]:
        table = change.table
        match change:
            case c.AddKey(key=key, index=index):
                yield from self._add_key(change, key, index)
            case c.AddCheck(check=check, leaves=leaves):
                yield from self._add_check(change, check, leaves, self._phase(change))
            case c.SwapCheck():
                yield from self._swap_check(change)
            case c.AddForeignKey():
                yield from self._add_foreign_key(change)
            case c.ValidateConstraint(name=name):
                yield self._on(
                    change,
                    f'validate constraint "{name}" of "{table.name}"',
                    self._validate(table.name, name),
                    phase=Phase.FOREIGN_KEYS if change.shard else Phase.REFERENCE_KEYS,
                    kind=Kind.VALIDATE,
                    lock=Lock.SHARE_UPDATE_EXCLUSIVE,
                    hazards=(Hazard.FULL_SCAN, Hazard.MAY_FAIL_ON_DATA),
                )
            case c.DropConstraint(name=name, why=why):
                foreign = table.kind is Relkind.FOREIGN
                alter = self.ddl.alter_foreign if foreign else self.ddl.alter
                yield self._on(
                    change,
                    f'drop {why.value} constraint "{name}" of "{table.name}"',
                    alter(table.name, SQL("DROP CONSTRAINT {}").format(Identifier(name))),
                    hazards=(Hazard.DROPS_OBJECT,)
                    if why is c.Why.REMOVED and not foreign
                    else (),
                )

    def _add_key(self, change: c.AddKey, key: Key, index: Index | None) -> Iterator[_Draft]:
        table = change.table
        add = SQL("ADD ") + self.ddl.constraint(key.name, key.definition)
        if table.kind is Relkind.PARTITIONED or key.definition.startswith("EXCLUDE"):
            yield self._on(
                change,
                f'add constraint "{key.name}" to "{table.name}", which builds its index under the '
                "lock",
                self.ddl.alter(table.name, add),
                hazards=(Hazard.BLOCKS_WRITES, Hazard.BLOCKS_READS, Hazard.INDEX_BUILD),
            )
            return
        if index is not None and not index.valid:
            yield self._dropped_index(change, index, c.Why.LEFTOVER)
            index = None
        if index is None:
            yield self._on(
                change,
                f'build the index of constraint "{key.name}" on "{table.name}"',
                self.ddl.unique_index(table.name, key, include=_key_index(key)),
                kind=Kind.CONCURRENT,
                lock=Lock.SHARE_UPDATE_EXCLUSIVE,
                hazards=(Hazard.INDEX_BUILD, Hazard.MAY_FAIL_ON_DATA),
                probe=self._index_probe(key.name, self._drop_index(key.name)),
            )
        kind = "PRIMARY KEY" if key.primary else "UNIQUE"
        tail = re.search(r"(?: DEFERRABLE| INITIALLY DEFERRED)+$", key.definition)
        yield self._on(
            change,
            f'add constraint "{key.name}" to "{table.name}" with that index',
            self.ddl.alter(
                table.name,
                SQL("ADD CONSTRAINT {} ").format(Identifier(key.name))
                + text(f"{kind} USING INDEX ")
                + Identifier(key.name)
                + text(tail[0] if tail else ""),
            ),
        )

    def _add_check(
        self,
        change: c.OnTable,
        check: Check,
        leaves: tuple[Table, ...],
        phase: Phase,
        begun: Check | None = None,
    ) -> Iterator[_Draft]:
        """NOT VALID and VALIDATE apart; partitions first, so that the parent only merges."""
        table = change.table
        if table.kind is Relkind.FOREIGN:
            yield self._on(
                change,
                f'add check "{check.name}" to foreign table "{table.name}"',
                self.ddl.alter_foreign(
                    table.name, SQL("ADD ") + self.ddl.constraint(check.name, check.definition)
                ),
                phase=phase,
            )
            return
        partitioned = table.kind is Relkind.PARTITIONED
        for target in leaves if partitioned else (table,):
            existing = begun if not partitioned else _named(target.checks, check.name)
            if existing is None:
                yield self._on(
                    change,
                    f'add check "{check.name}" to "{target.name}", not yet validated',
                    self.ddl.alter(
                        target.name,
                        SQL("ADD ")
                        + self.ddl.constraint(check.name, check.definition)
                        + SQL(" NOT VALID"),
                    ),
                    phase=phase,
                )
            if existing is None or not existing.valid:
                yield self._on(
                    change,
                    f'validate check "{check.name}" of "{target.name}"',
                    self._validate(target.name, check.name),
                    phase=phase,
                    kind=Kind.VALIDATE,
                    lock=Lock.SHARE_UPDATE_EXCLUSIVE,
                    hazards=(Hazard.FULL_SCAN, Hazard.MAY_FAIL_ON_DATA),
                )
        if partitioned and begun is None:
            yield self._on(
                change,
                f'add check "{check.name}" to "{table.name}", merging that of its partitions',
                self.ddl.alter(
                    table.name, SQL("ADD ") + self.ddl.constraint(check.name, check.definition)
                ),
                phase=phase,
            )

    def _swap_check(self, change: c.SwapCheck) -> Iterator[_Draft]:
        table, new = change.table, change.new
        phase = (
            Phase.FOREIGN
            if table.kind is Relkind.FOREIGN
            else Phase.NARROW
            if change.narrows
            else Phase.WIDEN
        )
        if table.kind is Relkind.FOREIGN:
            # A foreign table's CHECK is believed, not enforced: both changes are metadata.
            yield self._on(
                change,
                f'replace check "{new.name}" of foreign table "{table.name}"',
                self.ddl.alter_foreign(
                    table.name, SQL("DROP CONSTRAINT {}").format(Identifier(change.old.name))
                ),
                self.ddl.alter_foreign(
                    table.name, SQL("ADD ") + self.ddl.constraint(new.name, new.definition)
                ),
                phase=phase,
            )
            return
        successor = replace(new, name=temporary(new.name))
        yield from self._add_check(change, successor, change.leaves, phase, change.begun)
        statements = []
        if change.old is not change.new:
            statements.append(
                self.ddl.alter(
                    table.name, SQL("DROP CONSTRAINT {}").format(Identifier(change.old.name))
                )
            )
        statements.append(
            self.ddl.alter(
                table.name,
                SQL("RENAME CONSTRAINT {} TO {}").format(
                    Identifier(successor.name), Identifier(new.name)
                ),
            )
        )
        yield self._on(
            change,
            f'put the new check in the place of "{new.name}" on "{table.name}"',
            *statements,
            phase=phase,
        )

    def _add_foreign_key(self, change: c.AddForeignKey) -> Iterator[_Draft]:
        table, fk = change.table, change.foreign_key
        phase = Phase.FOREIGN_KEYS if change.shard else Phase.REFERENCE_KEYS
        add = SQL("ADD ") + self.ddl.named_foreign_key(fk)
        if change.fresh:
            yield self._on(
                change,
                f'add foreign key "{fk.name}" to "{table.name}"',
                self.ddl.alter(table.name, add),
                phase=phase,
                lock=Lock.SHARE_ROW_EXCLUSIVE,
            )
            return
        partitioned = table.kind is Relkind.PARTITIONED
        for target in change.leaves if partitioned else (table,):
            existing = _named(target.foreign_keys, fk.name) if partitioned else None
            if existing is None:
                yield self._on(
                    change,
                    f'add foreign key "{fk.name}" to "{target.name}", not yet validated',
                    self.ddl.alter(target.name, add + SQL(" NOT VALID")),
                    phase=phase,
                    lock=Lock.SHARE_ROW_EXCLUSIVE,
                )
            if existing is None or not existing.valid:
                yield self._on(
                    change,
                    f'validate foreign key "{fk.name}" of "{target.name}"',
                    self._validate(target.name, fk.name),
                    phase=phase,
                    kind=Kind.VALIDATE,
                    lock=Lock.SHARE_UPDATE_EXCLUSIVE,
                    hazards=(Hazard.FULL_SCAN, Hazard.MAY_FAIL_ON_DATA),
                )
        if partitioned:
            yield self._on(
                change,
                f'add foreign key "{fk.name}" to "{table.name}", adopting those of its partitions',
                self.ddl.alter(table.name, add),
                phase=phase,
                lock=Lock.SHARE_ROW_EXCLUSIVE,
            )

    # --- indexes ---------------------------------------------------------------------------------

    def _index(
        self,
        change: c.CreateIndex | c.DropIndex | c.RenameIndex | c.ReindexAttached | c.CommentIndex,
    ) -> Iterator[_Draft]:
        table = change.table
        match change:
            case c.CreateIndex():
                yield from self._create_index(change)
            case c.DropIndex(index=index, why=why):
                yield self._dropped_index(change, index, why)
            case c.RenameIndex(old=old, new=new):
                yield self._on(
                    change,
                    f'rename index "{old}" to "{new}"',
                    SQL("ALTER INDEX {} RENAME TO {}").format(self.ddl.name(old), Identifier(new)),
                    lock=Lock.SHARE_UPDATE_EXCLUSIVE,
                )
            case c.ReindexAttached(index=index):
                leaf_index = self.ddl.name(index.name)
                yield self._on(
                    change,
                    f'rebuild the INVALID index "{index.name}" of partition "{table.name}"',
                    SQL("REINDEX INDEX CONCURRENTLY {}").format(leaf_index),
                    kind=Kind.CONCURRENT,
                    lock=Lock.SHARE_UPDATE_EXCLUSIVE,
                    hazards=(Hazard.INDEX_BUILD,),
                    # A REINDEX that dies leaves the old index INVALID as it was: run it again.
                    probe=Probe(
                        query=self._index_probe(index.name, SQL("SELECT 1")).query.replace(
                            "'half'", "'absent'"
                        )
                    ),
                )
                assert index.parent is not None
                yield self._attach_index(change, index.parent, index.name)
            case c.CommentIndex(index=index):
                yield self._on(
                    change,
                    f'set the comment of index "{index.name}"',
                    self.ddl.comment("INDEX", index.name, index.comment),
                    lock=Lock.SHARE_UPDATE_EXCLUSIVE,
                )

    def _attach_index(self, change: c.OnTable, parent: str, leaf_index: str) -> _Draft:
        return self._on(
            change,
            f'attach index "{leaf_index}" to "{parent}"',
            SQL("ALTER INDEX {} ATTACH PARTITION {}").format(
                self.ddl.name(parent), self.ddl.name(leaf_index)
            ),
        )

    def _create_index(self, change: c.CreateIndex) -> Iterator[_Draft]:
        table, index = change.table, change.index
        if table.kind is not Relkind.PARTITIONED:
            yield self._built_index(change, table, index)
            if index.comment is not None:
                yield self._on(
                    change,
                    f'set the comment of index "{index.name}"',
                    self.ddl.comment("INDEX", index.name, index.comment),
                    lock=Lock.SHARE_UPDATE_EXCLUSIVE,
                )
            return
        if not change.exists:
            yield self._on(
                change,
                f'declare index "{index.name}" on "{table.name}" alone',
                self.ddl.create_index(table.name, index, only=True),
                lock=Lock.SHARE,
            )
        for leaf in change.leaves:
            attached = next((i for i in leaf.indexes if i.parent == index.name), None)
            name = attached.name if attached else suffixed(leaf.name, index.name)
            built = next((i for i in leaf.indexes if i.name == name), None)
            if built is not None and not built.valid:
                yield self._dropped_index(replace(change, table=leaf), built, c.Why.LEFTOVER)
                built = None
            if built is None:
                yield self._built_index(change, leaf, replace(index, name=name, parent=None))
            yield self._attach_index(change, index.name, name)

    def _built_index(self, change: c.CreateIndex, table: Table, index: Index) -> _Draft:
        return self._on(
            change,
            f'build index "{index.name}" on "{table.name}" concurrently',
            self.ddl.create_index(table.name, index, concurrently=True),
            kind=Kind.CONCURRENT,
            lock=Lock.SHARE_UPDATE_EXCLUSIVE,
            hazards=(Hazard.INDEX_BUILD, *((Hazard.MAY_FAIL_ON_DATA,) if index.unique else ())),
            probe=self._index_probe(index.name, self._drop_index(index.name)),
        )

    def _dropped_index(self, change: c.OnTable, index: Index, why: c.Why) -> _Draft:
        partitioned = change.table.kind is Relkind.PARTITIONED
        hazards = (Hazard.DROPS_OBJECT,) if why is c.Why.REMOVED else ()
        if partitioned:
            return self._on(
                change,
                f'drop {why.value} index "{index.name}" of "{change.table.name}" and its partitions',
                self._drop_index(index.name, concurrently=False),
                hazards=hazards,
            )
        state = "INVALID " if not index.valid else ""
        return self._on(
            change,
            f'drop {why.value} {state}index "{index.name}" of "{change.table.name}" concurrently',
            self._drop_index(index.name),
            kind=Kind.CONCURRENT,
            lock=Lock.SHARE_UPDATE_EXCLUSIVE,
            hazards=hazards,
            probe=Probe(
                query=render(
                    SQL(
                        "SELECT CASE WHEN pg_catalog.to_regclass({}) IS NULL THEN 'done' "
                        "ELSE 'absent' END AS state"
                    ).format(Literal(self._qualified(index.name)))
                )
            ),
        )

    # --- triggers, policies, grants, properties --------------------------------------------------

    def _property(
        self,
        change: c.SetTrigger
        | c.DropTrigger
        | c.SetPolicy
        | c.DropPolicy
        | c.AddGrants
        | c.AlterTable,
    ) -> Iterator[_Draft]:
        table = change.table
        match change:
            case c.SetTrigger(trigger=trigger, exists=exists):
                constraint = exists and trigger.head.startswith("CREATE CONSTRAINT")
                sql: list[Composable] = []
                if constraint:
                    sql.append(self._drop_trigger(table.name, trigger.name))
                sql += self.ddl.trigger(table.name, trigger, replace=exists and not constraint)
                yield self._on(
                    change,
                    f'{"replace" if exists else "create"} trigger "{trigger.name}" on "{table.name}"',
                    *sql,
                    lock=Lock.ACCESS_EXCLUSIVE if constraint else Lock.SHARE_ROW_EXCLUSIVE,
                )
            case c.DropTrigger(trigger=trigger):
                yield self._on(
                    change,
                    f'drop trigger "{trigger.name}" of "{table.name}"',
                    self._drop_trigger(table.name, trigger.name),
                    hazards=(Hazard.DROPS_OBJECT,),
                )
            case c.SetPolicy(policy=policy, exists=exists):
                drop = SQL("DROP POLICY {} ON {}").format(
                    Identifier(policy.name), self.ddl.name(table.name)
                )
                yield self._on(
                    change,
                    f'{"replace" if exists else "create"} policy "{policy.name}" on "{table.name}"',
                    *([drop] if exists else []),
                    self.ddl.policy(table.name, policy),
                )
            case c.DropPolicy(policy=policy):
                yield self._on(
                    change,
                    f'drop policy "{policy.name}" of "{table.name}"',
                    SQL("DROP POLICY {} ON {}").format(
                        Identifier(policy.name), self.ddl.name(table.name)
                    ),
                    hazards=(Hazard.DROPS_OBJECT,),
                )
            case c.AddGrants(grants=grants):
                yield self._on(
                    change,
                    f'grant {", ".join(sorted({g.privilege for g in grants}))} on "{table.name}"',
                    *(self.ddl.grant(table.name, g) for g in grants),
                    lock=None,
                )
            case c.AlterTable(aspect=aspect, live=live):
                yield self._altered_table(change, aspect, live)

    def _drop_trigger(self, table: str, trigger: str) -> Composable:
        return SQL("DROP TRIGGER {} ON {}").format(Identifier(trigger), self.ddl.name(table))

    def _altered_table(self, change: c.AlterTable, aspect: c.Aspect, live: Table) -> _Draft:
        table = change.table
        title = f'set the {aspect.value} of "{table.name}"'
        match aspect:
            case c.Aspect.COMMENT:
                foreign = table.kind is Relkind.FOREIGN
                return self._on(
                    change,
                    title,
                    self.ddl.comment("FOREIGN TABLE" if foreign else "TABLE", table.name, table.comment),
                    lock=Lock.SHARE_UPDATE_EXCLUSIVE,
                )
            case c.Aspect.OPTIONS:
                gone = sorted(dict(live.options).keys() - dict(table.options).keys())
                changed = tuple(o for o in table.options if o not in live.options)
                statements = []
                if changed:
                    action = SQL("SET (") + storage(changed) + SQL(")")
                    statements.append(self.ddl.alter(table.name, action))
                if gone:
                    action = SQL("RESET (") + names(gone) + SQL(")")
                    statements.append(self.ddl.alter(table.name, action))
                return self._on(change, title, *statements, lock=Lock.SHARE_UPDATE_EXCLUSIVE)
            case c.Aspect.REPLICA_IDENTITY:
                return self._on(change, title, self.ddl.replica_identity(table))
            case c.Aspect.ROW_SECURITY:
                return self._on(change, title, *self.ddl.row_security(table))
            case c.Aspect.FOREIGN_OPTIONS:
                assert table.foreign is not None
                assert live.foreign is not None
                return self._on(
                    change,
                    title,
                    self.ddl.alter_foreign(
                        table.name,
                        SQL("OPTIONS (")
                        + _changed_options(live.foreign.options, table.foreign.options)
                        + SQL(")"),
                    ),
                )
            case _:
                assert_never(aspect)

    # --- federation ------------------------------------------------------------------------------

    def _federation(
        self,
        change: c.SetForeignServer
        | c.DropForeignServer
        | c.SetUserMapping
        | c.CreateView
        | c.DropView,
    ) -> Iterator[_Draft]:
        match change:
            case c.SetForeignServer(foreign_server=server, live=live):
                name = Identifier(server.name)
                if live is None:
                    statement = SQL(
                        "CREATE SERVER {} FOREIGN DATA WRAPPER postgres_fdw OPTIONS ({})"
                    ).format(name, fdw_options(server.options))
                else:
                    statement = SQL("ALTER SERVER {} OPTIONS ({})").format(
                        name, _changed_options(live.options, server.options)
                    )
                yield _Draft(
                    phase=Phase.FOREIGN_SERVERS,
                    server=change.server,
                    title=f'{"create" if live is None else "alter"} foreign server "{server.name}"',
                    sql=(render(statement),),
                )
            case c.DropForeignServer(foreign_server=server):
                yield _Draft(
                    phase=Phase.DROP_REST,
                    server=change.server,
                    title=f'drop foreign server "{server.name}" and its user mappings',
                    sql=(render(SQL("DROP SERVER {} CASCADE").format(Identifier(server.name))),),
                )
            case c.SetUserMapping(mapping=mapping, live=live):
                yield self._user_mapping(change)
            case c.CreateView():
                yield from self._create_view(change)
            case c.DropView(view=view, why=why):
                rebuilt = why is c.Why.REBUILT
                yield _Draft(
                    phase=Phase.DROP_VIEWS if rebuilt else Phase.VIEWS,
                    server=change.server,
                    title=f'drop view "{view.name}"'
                    + (", which blocks a change below; it is created again" if rebuilt else ""),
                    sql=(
                        render(SQL("DROP VIEW {}").format(self.ddl.name(view.name))),
                        render(self._unregister("view", view.name)),
                    ),
                    lock=Lock.ACCESS_EXCLUSIVE,
                    hazards=(Hazard.VIEW_UNAVAILABLE,) if rebuilt else (Hazard.DROPS_OBJECT,),
                )

    def _user_mapping(self, change: c.SetUserMapping) -> _Draft:
        mapping, live = change.mapping, change.live
        server = mapping.server.removeprefix("parlant_shard_")
        wanted = [("user", mapping.user)]
        if mapping.password is not None:
            wanted.append(("password", secret_mark(server)))
        where = SQL("{} SERVER {}").format(Identifier(mapping.role), Identifier(mapping.server))
        if live is None:
            statement = SQL("CREATE USER MAPPING FOR {} OPTIONS ({})").format(
                where, fdw_options(wanted)
            )
        else:
            had = [("user", live.user)] + ([("password", "")] if live.password is not None else [])
            statement = SQL("ALTER USER MAPPING FOR {} OPTIONS ({})").format(
                where, _changed_options(had, wanted)
            )
        return _Draft(
            phase=Phase.FOREIGN_SERVERS,
            server=change.server,
            title=f'{"create" if live is None else "alter"} the user mapping of "{mapping.role}" on '
            f'"{mapping.server}"',
            sql=(render(statement),),
            secret=server if mapping.password is not None else None,
        )

    def _create_view(self, change: c.CreateView) -> Iterator[_Draft]:
        view = change.view
        grants = [self.ddl.grant(view.name, g) for g in view.grants]
        if not change.swap:
            sql: list[Composable] = [self.ddl.create_view(view, replace=change.exists)]
            title = f'{"replace" if change.exists else "create"} federated view "{view.name}"'
        else:
            successor = temporary(view.name)
            sql = [
                SQL("DROP VIEW IF EXISTS {}").format(self.ddl.name(successor)),
                self.ddl.create_view(view, name=successor),
                SQL("DROP VIEW {}").format(self.ddl.name(view.name)),
                SQL("ALTER VIEW {} RENAME TO {}").format(
                    self.ddl.name(successor), Identifier(view.name)
                ),
            ]
            title = f'swap federated view "{view.name}": its columns changed'
        yield _Draft(
            phase=Phase.VIEWS,
            server=change.server,
            title=title,
            sql=tuple(render(s) for s in (*sql, *grants, self._register(change.managed))),
            lock=Lock.ACCESS_EXCLUSIVE,
        )

    # --- reference tables ------------------------------------------------------------------------

    def _replication(
        self,
        change: c.SetPublication
        | c.DropPublication
        | c.CreateSlot
        | c.DropSlot
        | c.CreateSubscription
        | c.ReconnectSubscription
        | c.RefreshSubscription
        | c.AwaitSubscription
        | c.DropSubscription,
    ) -> Iterator[_Draft]:
        def draft(phase: Phase, title: str, *sql: Composable, **options: Any) -> _Draft:
            return _Draft(
                phase=phase,
                server=change.server,
                title=title,
                sql=tuple(render(s) for s in sql),
                **options,
            )

        match change:
            case c.SetPublication(publication=publication, exists=exists):
                tables = SQL(", ").join(
                    SQL("{} ({})").format(self.ddl.name(table), names(columns))
                    for table, columns in publication.tables
                )
                verb = "ALTER PUBLICATION {} SET TABLE " if exists else "CREATE PUBLICATION {} FOR TABLE "
                yield draft(
                    Phase.PUBLICATION,
                    f'{"alter" if exists else "create"} publication "{publication.name}" of the '
                    "reference tables",
                    text(verb).format(Identifier(publication.name)) + tables,
                    lock=Lock.SHARE_UPDATE_EXCLUSIVE,
                )
            case c.DropPublication(publication=publication):
                yield draft(
                    Phase.DROP_REST,
                    f'drop publication "{publication.name}"',
                    SQL("DROP PUBLICATION {}").format(Identifier(publication.name)),
                )
            case c.CreateSlot(name=name):
                # Apart from the subscription: CREATE SUBSCRIPTION would wait for its own
                # transaction where both databases are in one cluster.
                yield draft(
                    Phase.SLOTS,
                    f'create replication slot "{name}"',
                    SQL(
                        "SELECT pg_catalog.pg_create_logical_replication_slot({}, 'pgoutput')"
                    ).format(Literal(name)),
                    kind=Kind.CONCURRENT,
                    probe=self._slot_probe(name, present="done", missing="absent"),
                )
            case c.DropSlot(name=name):
                yield draft(
                    Phase.DROP_SLOTS,
                    f'drop replication slot "{name}"',
                    SQL("SELECT pg_catalog.pg_drop_replication_slot({})").format(Literal(name)),
                    kind=Kind.CONCURRENT,
                    probe=self._slot_probe(name, present="absent", missing="done"),
                )
            case c.CreateSubscription(subscription=subscription, publisher=publisher):
                yield draft(
                    Phase.SUBSCRIPTIONS,
                    f'create subscription "{subscription.name}" to the reference tables',
                    SQL(
                        "CREATE SUBSCRIPTION {} CONNECTION {} PUBLICATION {} "
                        "WITH (create_slot = false, slot_name = {}, copy_data = true)"
                    ).format(
                        Identifier(subscription.name),
                        Literal(self._conninfo(publisher)),
                        Identifier(subscription.publication),
                        Literal(subscription.slot),
                    ),
                    secret=publisher if self.target.peers[publisher].password else None,
                    lock=Lock.ACCESS_SHARE,
                )
            case c.ReconnectSubscription(subscription=subscription, publisher=publisher):
                yield draft(
                    Phase.SUBSCRIPTIONS,
                    f'point subscription "{subscription.name}" at the coordinator',
                    SQL("ALTER SUBSCRIPTION {} CONNECTION {}").format(
                        Identifier(subscription.name), Literal(self._conninfo(publisher))
                    ),
                    secret=publisher if self.target.peers[publisher].password else None,
                )
            case c.RefreshSubscription(subscription=subscription):
                yield draft(
                    Phase.SUBSCRIPTIONS,
                    f'refresh the tables of subscription "{subscription.name}"',
                    SQL("ALTER SUBSCRIPTION {} REFRESH PUBLICATION").format(
                        Identifier(subscription.name)
                    ),
                    kind=Kind.CONCURRENT,
                    lock=Lock.ACCESS_SHARE,
                )
            case c.AwaitSubscription(subscription=subscription):
                yield draft(
                    Phase.SUBSCRIPTIONS,
                    f'wait until "{subscription.name}" has copied the reference tables',
                    SQL(
                        "SELECT count(*) = {} AND coalesce(bool_and(r.srsubstate IN ('r', 's')), true) "
                        "AS done FROM pg_catalog.pg_subscription_rel r "
                        "JOIN pg_catalog.pg_subscription s ON s.oid = r.srsubid WHERE s.subname = {}"
                    ).format(Literal(len(subscription.tables)), Literal(subscription.name)),
                    kind=Kind.WAIT,
                )
            case c.DropSubscription(subscription=subscription):
                name = Identifier(subscription.name)
                yield draft(
                    Phase.DROP_REPLICATION,
                    f'drop subscription "{subscription.name}"; its slot goes on the coordinator',
                    SQL("ALTER SUBSCRIPTION {} DISABLE").format(name),
                    SQL("ALTER SUBSCRIPTION {} SET (slot_name = NONE)").format(name),
                    SQL("DROP SUBSCRIPTION {}").format(name),
                )

    def _conninfo(self, server: str) -> str:
        peer = self.target.peers[server]
        options = {k: v for k, v in peer.options if k in PEER_OPTIONS}
        if peer.password is not None:
            options["password"] = secret_mark(server)
        return make_conninfo(user=peer.user, **options)

    def _slot_probe(self, name: str, *, present: str, missing: str) -> Probe:
        return Probe(
            query=render(
                SQL(
                    "SELECT CASE WHEN EXISTS (SELECT FROM pg_catalog.pg_replication_slots "
                    "WHERE slot_name = {}) THEN {} ELSE {} END AS state"
                ).format(Literal(name), Literal(present), Literal(missing))
            )
        )

    # --- placement -------------------------------------------------------------------------------

    def _placement(self, change: c.SetPlacements | c.SetDirectory) -> Iterator[_Draft]:
        directory = isinstance(change, c.SetDirectory)
        table = Identifier("parlant_shard", "directory" if directory else "placement")
        topology = Literal(self.target.topology)
        sql: list[Composable] = []
        if isinstance(change, c.SetDirectory) and change.shards_changed:
            sql.append(SQL("DELETE FROM parlant_shard.shard WHERE topology = {}").format(topology))
            sql += [
                SQL(
                    "INSERT INTO parlant_shard.shard (topology, shard, server) VALUES ({}, {}, {})"
                ).format(topology, Literal(shard), Literal(server))
                for shard, server in change.shards
            ]
        if change.delete:
            sql.append(
                SQL("DELETE FROM {} WHERE topology = {} AND workspace_id = ANY ({}::text[])").format(
                    table, topology, Literal(canonical.array(p.workspace for p in change.delete))
                )
            )
        if change.upsert:
            sql.append(
                SQL(
                    "INSERT INTO {} AS old (topology, workspace_id, shard, state) "
                    "SELECT {}, w, s, t FROM unnest({}::text[], {}::text[], {}::text[]) "
                    "AS new (w, s, t) ON CONFLICT (topology, workspace_id) DO UPDATE SET "
                    "shard = EXCLUDED.shard, state = EXCLUDED.state, epoch = old.epoch + 1, "
                    "updated_at = pg_catalog.now()"
                ).format(
                    table,
                    topology,
                    Literal(canonical.array(p.workspace for p in change.upsert)),
                    Literal(canonical.array(p.shard for p in change.upsert)),
                    Literal(canonical.array(p.state for p in change.upsert)),
                )
            )
        parts = []
        if change.upsert:
            parts.append(f"place {_count(len(change.upsert), 'workspace')}")
        if change.delete:
            parts.append(f"forget {_count(len(change.delete), 'workspace')}")
        if isinstance(change, c.SetDirectory) and change.shards_changed:
            parts.append(f"record {_count(len(change.shards), 'shard')}")
        where = "in the directory" if directory else "on this server"
        yield _Draft(
            phase=Phase.DIRECTORY if directory else Phase.PLACEMENT,
            server=change.server,
            title=f"{', '.join(parts)} {where}",
            sql=tuple(render(s) for s in sql),
            lock=Lock.ROW_EXCLUSIVE,
        )


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _statements(script: str) -> tuple[str, ...]:
    """Split our own SQL file: one statement per execute, `;` at the end of a line ends one."""
    return tuple(s.strip() for s in re.split(r";[ \t]*(?:\n|\Z)", script) if s.strip())


def _named(items: Iterable[Any], name: str) -> Any:
    return next((i for i in items if i.name == name), None)


def _key_index(key: Key) -> str:
    """From a key's definition, what follows the table in CREATE UNIQUE INDEX."""
    body = re.sub(r"(?: DEFERRABLE| INITIALLY DEFERRED)+$", "", key.definition)
    body = re.sub(r"^(?:PRIMARY KEY|UNIQUE) ?", "", body)
    if body.startswith("NULLS NOT DISTINCT "):
        return body.removeprefix("NULLS NOT DISTINCT ") + " NULLS NOT DISTINCT"
    return body


_CONSTANT = re.compile(
    r"(?:'(?:[^']|'')*'|-?\d+(?:\.\d+)?|\(-?\d+(?:\.\d+)?\)|true|false|NULL)(?:::[\w .\"\[\](),]+)?\Z"
)


def _is_constant(default: str) -> bool:
    """Whether PostgreSQL evaluates the default once and stores it in the catalogue."""
    return bool(_CONSTANT.match(default)) or default in {
        "now()",
        "CURRENT_TIMESTAMP",
        "CURRENT_DATE",
        "LOCALTIMESTAMP",
        "ARRAY[]::text[]",
    }


def _widens(old: Column, new: Column) -> bool:
    """Whether the change of type needs no rewrite: varchar(n) to a longer one or to text."""
    before = re.fullmatch(r"character varying(?:\((\d+)\))?", old.type)
    if before is None or old.collation != new.collation:
        return False
    after = re.fullmatch(r"character varying(?:\((\d+)\))?", new.type)
    if new.type == "text" or (after and after[1] is None):
        return True
    return bool(after and before[1] and int(after[1]) >= int(before[1]))


def _changed_options(
    old: Iterable[tuple[str, str]], new: Iterable[tuple[str, str]]
) -> Composable:
    before, after = dict(old), dict(new)
    parts: list[Composable] = []
    for name, value in after.items():
        if name not in before:
            parts.append(SQL("ADD ") + fdw_options([(name, value)]))
        elif before[name] != value:
            parts.append(SQL("SET ") + fdw_options([(name, value)]))
    parts += [SQL("DROP {}").format(Identifier(name)) for name in before if name not in after]
    return SQL(", ").join(parts)


def foreign_key_targets(foreign_keys: Iterable[ForeignKey]) -> frozenset[str]:
    return frozenset(fk.ref_table for fk in foreign_keys)
