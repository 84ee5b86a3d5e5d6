"""Archive a detached partition: write, verify, describe, and only then drop. The protocol.

1. In one transaction, under a lock that keeps writers out: count and hash the rows, COPY them
   through zstd into a file.
2. Read the file again from its target and load it, under the settings of a restore, into a
   temporary table with the CHECKs, generated columns and expression indexes of the partition. Its
   rows must have the same count and hash: this proves that it restores.
3. Write the manifest. From here on the archive exists.
4. In one transaction, under a lock that keeps everybody out: count and hash again, drop the table
   and record the archive.

A kill before 3 leaves a file that counts for nothing, between 3 and 4 an archive that the next run
verifies again and uses. The table is there until the transaction of 4 is committed.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, BinaryIO

import psycopg
from psycopg.sql import SQL, Identifier

from parlant_shard import __version__, canonical, db, searchpath
from parlant_shard.allrows import every_row
from parlant_shard.archive import parquet, stream
from parlant_shard.archive.manifest import (
    SETTINGS,
    Checksum,
    File,
    Manifest,
    Parquet,
    columns_of,
    content_id,
    parse,
    standalone,
    stem,
)
from parlant_shard.archive.target import Pending, Target, open_target, trouble
from parlant_shard.changes import ArchivePartition
from parlant_shard.ddl import Ddl
from parlant_shard.errors import ArchiveError
from parlant_shard.executor import Executor
from parlant_shard.plan import Step
from parlant_shard.plan.upkeep import CHECK_TABLE
from parlant_shard.sqlfiles import queries
from parlant_shard.topology import Archive, Topology


@dataclass(frozen=True, slots=True, kw_only=True)
class Archived:
    """A partition that is a file now. `path` is what another program can open."""

    server: str
    shard: str
    logical: str
    partition: str
    rows: int
    bytes: int
    path: str


# Classes of errors by which a table says that it does not take a row, however often it is tried.
_JUDGEMENTS = frozenset({"0A", "22", "23", "2F", "38", "39", "3F", "42", "P0"})


class _Changed(Exception):
    """The rows are not those of the archive any more."""


def archive(executor: Executor, step: Step, change: ArchivePartition) -> Archived:
    """Write a detached partition to its archive, verify that, and drop the partition.

    Raises ArchiveError (PS540 to PS546), psycopg.Error; then the partition is still there.
    """
    options = executor.topology.partition_of(change.retired.logical)
    assert options is not None
    assert options.archive is not None
    return _Making(executor, step, change, options.archive).run(options.by)


class _Making:
    def __init__(
        self, executor: Executor, step: Step, change: ArchivePartition, options: Archive
    ) -> None:
        self.executor, self.step, self.change, self.options = executor, step, change, options
        self.topology: Topology = executor.topology
        self.row = change.retired
        self.ddl = Ddl(self.topology.namespace)
        self.table = self.ddl.name(self.row.name)
        self.columns = columns_of(change.table, self.topology.namespace, change.enums)
        self.doing = f'archiving partition "{self.row.name}" on server "{change.server}"'
        # Before any work: what is missing on this machine stops it here.
        self.target: Target = open_target(self.topology, options)

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(c.name for c in self.columns)

    def run(self, control: str) -> Archived:
        try:
            self.target.clear(f"{self.topology.name}/{self.row.shard}", self.row.name)
            for _ in (1, 2):
                path, manifest, is_new = self._archived(control)
                try:
                    self._drop(path, manifest)
                except _Changed:
                    if is_new:
                        self._discard(path)
                    continue
                return Archived(
                    server=self.change.server,
                    shard=self.row.shard,
                    logical=self.row.logical,
                    partition=self.row.name,
                    rows=manifest.rows,
                    bytes=manifest.file.bytes,
                    path=self.target.whole(f"{path}.json"),
                )
        except OSError as error:
            raise trouble(self.target, self.doing, error) from error
        raise ArchiveError(
            f"{self.doing}: its rows were changed while it was archived, twice",
            code="PS544",
            hint="find out who writes into a detached partition; it was kept, and the next run "
            "tries again",
        )

    def _archived(self, control: str) -> tuple[str, Manifest, bool]:
        """A verified archive of the rows: path without suffix, and whether it is new."""
        draft = self._copy(control)
        if isinstance(draft, tuple):
            path, manifest = draft
            try:
                self._verify(path, manifest)
                if self.options.parquet and manifest.parquet is None:
                    manifest = self._described(path, manifest)
                return path, manifest, False
            except ArchiveError:  # it is damaged, and the rows are here: it is made again
                self._discard(path)
                return self._archived(control)
        path = draft.path
        try:
            self._verify(path, draft.manifest)
            return path, self._described(path, draft.manifest), True
        except BaseException:
            self._discard(path)
            raise

    # --- the steps of the protocol ----------------------------------------------------------------

    def _copy(self, control: str) -> _Draft | tuple[str, Manifest]:
        """Step 1. Return what was written, or the archive of these very rows that is there."""
        found: _Draft | tuple[str, Manifest] | None = None

        def work(connection: db.Connection) -> None:
            nonlocal found
            if isinstance(found, _Draft):  # the connection was lost at its COMMIT
                found.pending.abort()
            settings(connection, self.topology.namespace)
            self._require_target(connection)
            connection.execute(SQL("LOCK TABLE {} IN SHARE MODE").format(self.table))
            self._check(connection)
            rows, checksum = tally(connection, self.ddl, self.table, self.names)
            bounds = (self.row.lower, self.row.upper)
            content = content_id(self.row.name, bounds, self.columns, rows, checksum)
            path = stem(self.topology.name, self.row.shard, self.row.name, content)
            known = self._known(path)
            if known is not None:
                found = path, known
                return
            pending = self.target.begin(f"{path}.copy.zst")
            try:
                with connection.cursor().copy(self.ddl.copy_out(self.row.name, self.names)) as copy:
                    extent = stream.write(copy, pending.stream)
            except BaseException:
                pending.abort()
                raise
            manifest = self._manifest(connection, control, path, extent, rows, checksum)
            found = _Draft(path=path, pending=pending, manifest=manifest)
            if extent.rows != rows:
                raise ArchiveError(
                    f"{self.doing}: COPY wrote {extent.rows} rows, the table has {rows}",
                    code="PS546",
                    hint="this must not happen under the lock; the partition was kept",
                )

        try:
            self.executor.transaction(self.step, work, recorded=False)
            assert found is not None
            if isinstance(found, _Draft):
                found.pending.commit()
        except BaseException:
            if isinstance(found, _Draft):
                found.pending.abort()
            raise
        return found

    def _verify(self, path: str, manifest: Manifest) -> None:
        """Step 2. Raises ArchiveError (PS542, PS546, PS557)."""
        copy = Identifier("pg_temp", CHECK_TABLE)
        create, after = self.ddl.rehearsal(self.change.table, CHECK_TABLE)

        def work(connection: db.Connection) -> None:
            settings(connection, self.topology.namespace)
            connection.execute(searchpath.opened(self.topology.namespace))
            connection.execute(create)
            with self.target.open(f"{path}.copy.zst") as file:
                load(connection, self.ddl, copy, self.names, file, manifest)
            found = tally(connection, self.ddl, copy, self.names)
            if found != (manifest.rows, manifest.checksum.value):
                raise _does_not_restore(manifest)
            for statement in after:
                connection.execute(statement)

        try:
            self.executor.transaction(self.step, work, recorded=False)
        except psycopg.Error as error:
            kind = (error.sqlstate or "")[:2]
            if kind not in _JUDGEMENTS:
                raise
            if kind == "22" and "function" not in (error.diag.context or ""):
                raise _does_not_restore(manifest) from error  # the text of a value
            raise self._refused(error) from error

    def _refused(self, error: psycopg.Error) -> ArchiveError:
        """What a restore would fail with: the table itself does not take its own rows."""
        wrapped = db.wrap(error, server=self.change.server, doing=self.doing)
        hint = "fix the rows or the constraint"
        if db.unresolved(error) is not None:
            hint = self.executor.self_contained(self.change.server)
        elif error.diag.constraint_name:
            hint = f'fix the rows, or drop the constraint "{error.diag.constraint_name}"'
        return ArchiveError(
            f"{wrapped.message}: its archive could not be restored",
            code="PS557",
            hint=f"{hint}; the partition was kept, and the next `maintain` tries again",
        )

    def _described(self, path: str, manifest: Manifest) -> Manifest:
        """Step 3, with the Parquet file before it where there is to be one."""
        if self.options.parquet:
            manifest = manifest.model_copy(update={"parquet": self._parquet(path, manifest)})
        self.target.write(f"{path}.json", manifest.text().encode())
        # What was written is what is read: the table goes only where this can be used.
        if parse(self.target.read(f"{path}.json"), where=f"{path}.json") != manifest:
            raise ArchiveError(
                f'{self.doing}: the manifest in "{self.target.text}" is not what was written',
                code="PS543",
                hint="look at the storage; the partition was kept",
            )
        return manifest

    def _drop(self, path: str, manifest: Manifest) -> None:
        """Step 4. Raises _Changed where the rows are not those of the archive."""

        def work(connection: db.Connection) -> None:
            settings(connection, self.topology.namespace)
            connection.execute(SQL("LOCK TABLE {} IN ACCESS EXCLUSIVE MODE").format(self.table))
            self._check(connection)
            found = tally(connection, self.ddl, self.table, self.names)
            if found != (manifest.rows, manifest.checksum.value):
                raise _Changed
            connection.execute(SQL("DROP TABLE {}").format(self.table))
            done = connection.execute(
                queries("archive")["archived"],
                {
                    "topology": self.topology.name,
                    "name": self.row.name,
                    "relid": self.row.relid,
                    "archive": self.target.recorded(f"{path}.json"),
                    "rows": manifest.rows,
                },
            )
            if done.rowcount != 1:
                raise self._another("its row in parlant_shard.retired changed")

        self.executor.transaction(self.step, work)

    def _require_target(self, connection: db.Connection) -> None:
        """A disk that is not mounted must not be mistaken for a target that is new."""
        if not self.target.is_gone():
            return
        known = connection.execute(
            queries("archive")["recorded"], {"topology": self.topology.name}
        ).fetchall()
        if any(row["logical"] == self.row.logical for row in known):
            raise ArchiveError(
                f'{self.doing}: directory "{self.target.text}" does not exist, and archives of '
                f'"{self.row.logical}" were written before',
                code="PS541",
                hint="is its disk mounted? Where `archive:` names a new place, make the directory "
                "first, and move the archives there",
            )

    # --- parts ------------------------------------------------------------------------------------

    def _check(self, connection: db.Connection) -> None:
        """Under the lock: it is the very table that was retired, with the columns that we know."""
        row = connection.execute(
            queries("archive")["table"], {"table": self._qualified()}
        ).fetchone()
        if row is None or row["relid"] != self.row.relid or row["attached"]:
            raise self._another("it is not the table that was detached")
        if [tuple(c) for c in row["columns"]] != [(c.name, c.type) for c in self.columns]:
            raise self._another("its columns changed")

    def _another(self, what: str) -> ArchiveError:
        return ArchiveError(
            f"{self.doing}: {what}",
            code="PS545",
            hint="somebody else works on it; nothing was dropped, the next run looks again",
        )

    def _qualified(self) -> str:
        quote = canonical.quote
        return f"{quote(self.topology.namespace)}.{quote(self.row.name)}"

    def _known(self, path: str) -> Manifest | None:
        """The manifest of an archive of these very rows, where there is a whole one."""
        if self.target.size(f"{path}.json") is None:
            return None
        try:
            manifest = parse(self.target.read(f"{path}.json"), where=f"{path}.json")
        except ArchiveError:
            return None
        size = self.target.size(f"{path}.copy.zst")
        return manifest if size == manifest.file.bytes else None

    def _discard(self, path: str) -> None:
        """The manifest first: without it there is no archive."""
        for suffix in ("json", "copy.zst", "parquet"):
            self.target.remove(f"{path}.{suffix}")

    def _parquet(self, path: str, manifest: Manifest) -> Parquet:
        name = f"{path}.parquet"
        with self.target.writing(name) as out, self.target.open(f"{path}.copy.zst") as file:
            lost = parquet.write(stream.read(file, manifest), manifest.columns, out)
        digest, size = hashlib.sha256(), 0
        with self.target.open(name) as file:
            while chunk := file.read(stream.CHUNK):
                digest.update(chunk)
                size += len(chunk)
        return Parquet(
            name=name.rpartition("/")[2],
            bytes=size,
            sha256=digest.hexdigest(),
            unrepresentable=lost,
        )

    def _manifest(
        self,
        connection: db.Connection,
        control: str,
        path: str,
        extent: stream.Extent,
        rows: int,
        checksum: str,
    ) -> Manifest:
        types, ddl = standalone(self.change.table, self.topology.namespace, self.change.enums)
        status = connection.info.parameter_status
        fields: dict[str, Any] = {"from": self.row.lower, "to": self.row.upper}
        return Manifest(
            **fields,
            topology=self.topology.name,
            server=self.change.server,
            shard=self.row.shard,
            table=self.row.logical,
            partition=self.row.name,
            parent=self.row.parent,
            namespace=self.topology.namespace,
            control=control,
            rows=rows,
            checksum=Checksum(value=checksum),
            columns=tuple(self.columns),
            types=tuple(types),
            ddl=tuple(ddl),
            settings=SETTINGS,
            file=File(
                name=f"{path.rpartition('/')[2]}.copy.zst",
                bytes=extent.bytes,
                sha256=extent.sha256,
                format="COPY text",
                compression="zstd",
                uncompressed_bytes=extent.uncompressed,
            ),
            server_version=str(status("server_version")),
            server_encoding=str(status("server_encoding")),
            tool_version=__version__,
            created_at=datetime.now(UTC).replace(tzinfo=None, microsecond=0),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Draft:
    path: str
    pending: Pending
    manifest: Manifest


def load(
    connection: db.Connection,
    ddl: Ddl,
    table: Identifier,
    columns: tuple[str, ...],
    file: BinaryIO,
    manifest: Manifest,
) -> None:
    """COPY an archive into a table. Raises ArchiveError (PS542), OSError, psycopg.Error."""
    with connection.cursor().copy(ddl.copy_in(table, columns)) as copy:
        for piece in stream.read(file, manifest):
            copy.write(piece)


def tally(
    connection: db.Connection, ddl: Ddl, table: Identifier, columns: tuple[str, ...]
) -> tuple[int, str]:
    """Count and hash the rows of a table. The transaction has our settings."""
    row = connection.execute(ddl.tally(table, columns)).fetchone()
    assert row is not None
    return row["rows"], row["checksum"]


def settings(connection: db.Connection, namespace: str) -> None:
    """For one transaction: what the text of values depends on, and no filter by a policy."""
    connection.execute(queries("archive")["settings"])
    connection.execute(every_row(namespace))


def _does_not_restore(manifest: Manifest) -> ArchiveError:
    return ArchiveError(
        f'archive "{manifest.file.name}" of partition "{manifest.partition}" does not give back '
        "its rows: loaded into a table, they have another checksum",
        code="PS546",
        hint="a type whose text does not read back the same may be the reason; the partition was "
        "kept",
    )
