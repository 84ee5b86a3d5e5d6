"""Restore an archived partition: load it beside, verify it, then attach it without a scan.

The table is made like the newest partition, under a CHECK that says what the bound will say (so
that ATTACH reads nothing), loaded, compared with the manifest and committed as `restoring`. Foreign
keys follow in two short steps each, then ATTACH. A kill in between leaves a table that no query
sees, and the next run goes on there.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any
from uuid import uuid4

import psycopg
from psycopg.sql import SQL, Composable, Identifier, Literal

from parlant_shard import canonical, db, journal, searchpath, trail
from parlant_shard.archive import check, load, settings, tally, trouble
from parlant_shard.catalog import ForeignKey, Retired, Table
from parlant_shard.ddl import Ddl, render, text
from parlant_shard.diff import by_parent
from parlant_shard.errors import ApplyFailed, ArchiveError, Locked, ShardError
from parlant_shard.executor import Executor, Listener, quiet
from parlant_shard.maintain.model import Found
from parlant_shard.maintain.site import Site
from parlant_shard.plan import Kind, Lock, Plan, Step
from parlant_shard.plan.model import TIMEOUTS
from parlant_shard.restore.request import (
    BESIDE,
    Request,
    check_columns,
    check_name,
    check_range,
    find,
    row_of,
)
from parlant_shard.restore.shape import Shape
from parlant_shard.restore.statements import check_ddl
from parlant_shard.sqlfiles import queries
from parlant_shard.topology import Interval, Topology

# How long a restored partition stays where the table has no grace of its own.
_GRACE = Interval(7, "day")
COMMAND = "archive restore"  # in the journal and in the audit trail


@dataclass(frozen=True, slots=True, kw_only=True)
class Restored:
    """What came back. `state` is restored (attached) or detached (beside)."""

    table: str
    server: str
    shard: str
    partition: str
    rows: int
    path: str
    state: str
    kept_until: datetime
    steps: int

    def to_json(self) -> dict[str, Any]:
        return {
            "table": self.table,
            "server": self.server,
            "shard": self.shard,
            "partition": self.partition,
            "rows": self.rows,
            "path": self.path,
            "state": self.state,
            "kept_until": f"{self.kept_until.isoformat()}Z",
            "steps": self.steps,
        }


def restore(
    topology: Topology,
    partition: str,
    *,
    beside: bool = False,
    keep: Interval | None = None,
    archive: str | None = None,
    listener: Listener = quiet,
) -> Restored:
    """Bring an archived partition back from its archive, or from that of a path.

    Attached, `maintain` leaves it alone for `keep` (default: the table's grace); `beside`, it is a
    table of its own, and is archived again after that time. Raises ArchiveError, Locked (PS501,
    PS555), CannotConnect, ApplyFailed; then nothing is visible that was not before.
    """
    request = _asked(topology, partition, archive)
    parent = request.row.parent if request.row else request.manifest.parent
    with ExitStack() as stack:
        token = secrets.token_hex(4)
        sites = {
            name: Site(topology, name, token)
            for name in dict.fromkeys([topology.coordinator, request.server])
        }
        for site in sites.values():
            stack.callback(site.close)
            site.open()
        site = sites[request.server]
        found = site.read(listener, only=parent)
        if parent not in found.tables:
            raise _not_ours(site, parent)
        # The row as it is under the lock: another run may have been faster.
        request = replace(request, row=row_of(site.connection, topology, partition))
        coordinator = sites[topology.coordinator].connection
        entry = stack.enter_context(
            trail.recorded(
                topology,
                COMMAND,
                tell=lambda text: listener("note", None, text),
                connection=lambda: coordinator,
            )
        )
        entry.objects = [partition]
        work = _Restoring(
            topology, site, coordinator, found, request, listener, beside=beside, keep=keep
        )
        entry.run_id = work.run_id
        try:
            return work.run(coordinator)
        except OSError as error:
            raise _unreadable(request, error) from error
        finally:
            work.close()


def _asked(topology: Topology, partition: str, archive: str | None) -> Request:
    """The archive, read to its end: what is damaged is found before anything is made."""
    try:
        request = find(topology, partition, archive)
    except OSError as error:
        raise ArchiveError(
            f'the archive of partition "{partition}" cannot be read: {error}',
            code="PS541",
            hint="look whether the target can be reached; nothing was changed",
        ) from error
    try:
        with request.target.open(request.data) as file:
            check(file, request.manifest)
    except OSError as error:
        raise _unreadable(request, error) from error
    return request


def _unreadable(request: Request, error: OSError) -> ArchiveError:
    return trouble(request.target, f'restoring "{request.manifest.partition}"', error)


def _not_ours(site: Site, parent: str) -> Exception:
    if parent in site.elsewhere:
        return Locked(
            f'another run works on table "{parent}" of server "{site.server}"',
            code="PS555",
            hint="wait for it; nothing was changed",
        )
    return ArchiveError(
        f'server "{site.server}" has no partitioned table "{parent}" of this topology',
        code="PS548",
        hint="the manifest has the statements to restore it by hand: docs/archive.md",
    )


class _Restoring(Executor):
    def __init__(
        self,
        topology: Topology,
        site: Site,
        coordinator: db.Connection,
        found: Found,
        request: Request,
        listener: Listener,
        *,
        beside: bool,
        keep: Interval | None,
    ) -> None:
        super().__init__(
            topology,
            uuid4(),
            listener,
            command=COMMAND,
            application=f"parlant-shard maintain {site.token} {topology.name}"[:63],
            peers={},
        )
        self.site, self.found, self.request = site, found, request
        self.coordinator = coordinator
        self.beside, self.keep = beside, keep
        self.manifest = request.manifest
        self.row: Retired | None = request.row
        self.name = self.manifest.partition
        self.ddl = Ddl(topology.namespace)
        self.table = self.ddl.name(self.name)
        self.now = found.facts.now
        self.parent = found.catalog.tables[self._parent_name()]
        self.leaves = by_parent(found.catalog.tables.values()).get(self.parent.name, [])
        self.shape = Shape(topology, self.manifest, self.parent, self.leaves, self.now)
        self.columns = self.manifest.names
        if not beside and not self.manifest.rows:  # a column that is gone held nothing
            self.columns = tuple(c for c in self.columns if c in self.parent.stored_columns)

    def _parent_name(self) -> str:
        return self.row.parent if self.row else self.manifest.parent

    # --- the run ----------------------------------------------------------------------------------

    def run(self, coordinator: db.Connection) -> Restored:
        row = self.row
        if row is not None and self._is_there(row):
            return self._kept(row)
        resumed = self._is_resumed()
        if not resumed:
            check_name(row, self.found.catalog, self.name)
        if self.beside:
            check_ddl(self.site.connection, self.manifest, self.parent, self.leaves)
        else:
            check_range(self.manifest, self.shape.leaves, self.found.defaults)
            check_columns(self.manifest, self.parent)
        steps = tuple(self._steps(resumed))
        plan = Plan(
            topology=self.topology.name,
            file=str(self.topology.file),
            sha256=self.topology.sha256,
            schema_sha256="",
            fingerprint=hashlib.sha256(self.request.recorded.encode()).hexdigest(),
            steps=steps,
        )
        journal.begin(coordinator, self.run_id, plan, command=COMMAND)
        state, detail = "interrupted", None
        try:
            for step in steps:
                self._step(step)
            state = "done"
        except Exception as error:
            state, detail = "failed", str(error)
            raise
        finally:
            try:
                journal.finish(coordinator, self.run_id, state, detail)
            except psycopg.Error as error:
                self.listener("note", None, f"the end of the run was not recorded: {error}")
        if self.request.origin is not None:
            self._leave(self.request.origin)
        return self._restored(len(steps))

    def _leave(self, origin: str) -> None:
        """The row on the server that the shard has left: there is another one now."""
        try:
            with db.session(self.topology, origin, doing="moving the record") as connection:
                connection.execute(
                    queries("archive")["forget"],
                    {"topology": self.topology.name, "name": self.name},
                )
        except ShardError as error:
            self.listener("note", None, f"the record of the archive stays twice: {error.message}")

    def _is_there(self, row: Retired) -> bool:
        """Whether it is attached already, with the rows of this very archive."""
        return (
            row.state == "restored"
            and row.known
            and not self.beside
            and row.archive == self.request.recorded
        )

    def _is_resumed(self) -> bool:
        """Whether an earlier run loaded these very rows, and was killed before the attach."""
        row = self.row
        return (
            row is not None
            and row.state == "restoring"
            and row.present
            and not self.beside
            and row.archive == self.request.recorded
            # Else ATTACH would refuse it, now and whenever this is run again.
            and self.shape.fits(self.found.catalog.tables.get(self.name))
        )

    def _kept(self, row: Retired) -> Restored:
        until = row.kept_until or self.now
        if self.keep is not None:
            until = self._until()
            self.site.connection.execute(
                queries("archive")["keep"],
                {"topology": self.topology.name, "name": self.name, "kept_until": until},
            )
        return replace(self._restored(0), kept_until=until)

    def _restored(self, steps: int) -> Restored:
        return Restored(
            table=self.manifest.table,
            server=self.site.server,
            shard=self.manifest.shard,
            partition=self.name,
            rows=self.manifest.rows,
            path=self.request.target.whole(self.request.path),
            state="detached" if self.beside else "restored",
            kept_until=self._until(),
            steps=steps,
        )

    def _grace(self) -> timedelta:
        partition = self.topology.partition_of(self.manifest.table)
        return (partition.grace if partition else _GRACE).timedelta

    def _until(self) -> datetime:
        return self.now + (self._grace() if self.keep is None else self.keep.bounds[1])

    def _trail(self) -> db.Connection | None:
        return self.coordinator

    def _check_lock(self) -> None:
        """Raise ApplyFailed (PS516) where the session with the locks is gone."""
        try:
            self.site.require_locks(hint="run the same command again: it resumes")
        except ApplyFailed:
            self.stop.set()
            raise

    # --- the plan ---------------------------------------------------------------------------------

    def _steps(self, resumed: bool) -> Iterator[Step]:
        if self.beside:
            yield self._planned(
                f'create table "{self.name}" and load its {self.manifest.rows} archived rows',
                *map(text, self.manifest.ddl),
                self.ddl.copy_in(self.table, self.manifest.names),
                kind=Kind.ARCHIVE,
            )
            return
        there = self.found.catalog.tables.get(self.name) if resumed else None
        if there is None:
            yield self._planned(
                f'create table "{self.name}" and load its {self.manifest.rows} archived rows',
                *self.shape.create(),
                self.ddl.copy_in(self.table, self.columns),
                *self.shape.finish(),
                kind=Kind.ARCHIVE,
            )
        for key in self.parent.foreign_keys:
            yield from self._foreign_key(key, there)
        yield self._planned(
            f'attach partition "{self.name}" to "{self.parent.name}"', *self._attach()
        )

    def _planned(
        self,
        title: str,
        *sql: Composable,
        kind: Kind = Kind.METADATA,
        lock: Lock = Lock.ACCESS_EXCLUSIVE,
    ) -> Step:
        statements = tuple(render(s) for s in sql)
        digest = hashlib.sha256("\0".join((self.site.server, *statements)).encode()).hexdigest()
        return Step(
            id=digest[:12],
            phase=0,
            server=self.site.server,
            shard=self.manifest.shard,
            title=title,
            sql=statements,
            transactional=kind is not Kind.ARCHIVE,
            lock=lock,
            hazards=(),
            lock_timeout_ms=TIMEOUTS[kind][0],
            statement_timeout_ms=TIMEOUTS[kind][1],
            kind=kind,
        )

    def _foreign_key(self, key: ForeignKey, there: Table | None) -> Iterator[Step]:
        """Not with the table: the lock on what it refers to would last as long as the load."""
        mine = next((k for k in there.foreign_keys if k.name == key.name), None) if there else None
        drop: list[Composable] = []
        if mine is not None and mine.unenforced != key.unenforced:  # ATTACH would refuse it
            drop.append(
                self.ddl.alter(self.name, SQL("DROP CONSTRAINT {}").format(Identifier(key.name)))
            )
            mine = None
        if mine is None:
            yield self._planned(
                f'add foreign key "{key.name}" to "{self.name}"',
                *drop,
                self.ddl.alter(
                    self.name,
                    SQL("ADD ")
                    + self.ddl.named_foreign_key(key)
                    + SQL("" if key.unenforced else " NOT VALID"),
                ),
                lock=Lock.SHARE_ROW_EXCLUSIVE,
            )
        if not key.unenforced and (mine is None or not mine.valid):
            yield self._planned(
                f'validate foreign key "{key.name}" of "{self.name}"',
                self.ddl.alter(
                    self.name, SQL("VALIDATE CONSTRAINT {}").format(Identifier(key.name))
                ),
                kind=Kind.VALIDATE,
                lock=Lock.SHARE_UPDATE_EXCLUSIVE,
            )

    def _attach(self) -> Iterator[Composable]:
        placed = replace(self.parent, name=self.name, bound=self.shape.bound)
        yield self.ddl.attach(self.parent, placed)
        yield self.ddl.alter(
            self.name, SQL("DROP CONSTRAINT {}").format(Identifier(self.shape.check_name))
        )
        yield SQL(
            "UPDATE parlant_shard.retired SET state = 'restored', detached_at = NULL, "
            "kept_until = {}::timestamp, updated_at = pg_catalog.now() "
            "WHERE topology = {} AND name = {} AND state = 'restoring'"
        ).format(
            Literal(self._until().isoformat(sep=" ")),
            Literal(self.topology.name),
            Literal(self.name),
        )

    # --- the load ---------------------------------------------------------------------------------

    def _archive(self, step: Step) -> None:
        """One transaction: the table with its rows, compared with the manifest, and its row."""

        def work(connection: db.Connection) -> None:
            settings(connection, self.topology.namespace)
            connection.execute(searchpath.opened(self.topology.namespace))
            if self.row is not None and self.row.state == "restoring" and self.row.present:
                # What a killed run loaded for another purpose. It was never visible.
                connection.execute(SQL("DROP TABLE {}").format(self.table))
            taken = connection.execute(
                queries("archive")["taken"], {"table": self._qualified()}
            ).fetchone()
            if taken is None or taken["found"]:
                raise ArchiveError(
                    f'table "{self.name}" is there already',
                    code="PS549",
                    hint="drop or rename it first, where it is not the partition itself",
                )
            before: list[Composable] = [text(s) for s in self.manifest.ddl]
            after: list[Composable] = []
            if self.beside and self.parent.row_security:
                # Default privileges may let others read it, and it has no policy: they see nothing.
                after = [self.ddl.alter(self.name, SQL("ENABLE ROW LEVEL SECURITY"))]
            if not self.beside:
                before, after = list(self.shape.create()), list(self.shape.finish())
            for statement in before:
                connection.execute(text(render(statement)))
            with self.request.target.open(self.request.data) as file:
                load(connection, self.ddl, self.table, self.columns, file, self.manifest)
            if tally(connection, self.ddl, self.table, self.columns) != (
                self.manifest.rows,
                self.manifest.checksum.value,
            ):
                raise self._unfit("are not the same in the table as in the archive")
            if not self.beside:
                self._check_rows(connection)
            for statement in after:
                connection.execute(text(render(statement)))
            self._remember(connection)

        try:
            self.transaction(step, work)
        except psycopg.DataError as error:
            raise self._unfit(f"do not fit into the table [{error.sqlstate}]") from error
        except psycopg.IntegrityError as error:
            wrapped = db.wrap(error, server=self.site.server, doing=f'restoring "{self.name}"')
            raise ArchiveError(
                wrapped.message, code="PS552", hint=None if self.beside else BESIDE
            ) from error
        except (psycopg.errors.UndefinedObject, psycopg.errors.UndefinedFunction) as error:
            if not self.beside or db.unresolved(error) is not None:
                raise
            said = error.diag.message_primary or "something is missing"
            raise ArchiveError(
                f'table "{self.name}" cannot be made as it was: {said}',
                code="PS552",
                hint="make what is missing first, then run it again; the manifest has the enum "
                "types under `types`",
            ) from error

    def _unfit(self, how: str) -> ArchiveError:
        """What PostgreSQL says of a value quotes it: the types say enough."""
        changed = []
        for column in self.manifest.columns:
            now = self.parent.column(column.name)
            if now is not None and now.type != column.type:
                changed.append(f'"{column.name}" from {column.type} to {now.type}')
        why = f"; types changed: {', '.join(changed)}" if changed and not self.beside else ""
        return ArchiveError(
            f'the rows of partition "{self.name}" {how}{why}',
            code="PS552",
            hint=None if self.beside else BESIDE,
        )

    def _check_rows(self, connection: db.Connection) -> None:
        """Raises ArchiveError (PS552): how many rows do not fulfil which constraints."""
        found = []
        for what, condition in self.shape.conditions():
            row = connection.execute(
                SQL("SELECT count(*) AS rows FROM ONLY {} AS archived WHERE ").format(self.table)
                + condition
            ).fetchone()
            if row is not None and row["rows"]:
                found.append(f"{row['rows']} rows {what}")
        if found:
            raise ArchiveError(
                f'partition "{self.name}" cannot be attached to "{self.parent.name}" any more: '
                f"{'; '.join(found)}",
                code="PS552",
                hint=BESIDE,
            )

    def _remember(self, connection: db.Connection) -> None:
        connection.execute(
            queries("archive")["loaded"],
            {
                "topology": self.topology.name,
                "name": self.name,
                "table": self._qualified(),
                "logical": self.manifest.table,
                "shard": self.manifest.shard,
                "parent": self.parent.name,
                "lower": self.shape.bound.lower,
                "upper": self.shape.bound.upper,
                "state": "detached" if self.beside else "restoring",
                # After the grace it is archived again: --keep moves that moment.
                "detached_at": self._until() - self._grace() if self.beside else None,
                "archive": self.request.recorded,
                "rows": self.manifest.rows,
            },
        )

    def _qualified(self) -> str:
        return f"{canonical.quote(self.topology.namespace)}.{canonical.quote(self.name)}"
