"""Which archive is meant, and whether it fits the table that it goes back to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from parlant_shard import canonical, db
from parlant_shard.archive import Manifest, Target, examine, locate, recorded_as, targets
from parlant_shard.catalog import Catalog, Retired, Table
from parlant_shard.errors import ArchiveError, CannotConnect
from parlant_shard.maintain.defaults import Contents
from parlant_shard.sqlfiles import queries
from parlant_shard.topology import Shard, Topology


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """An archive with the server it goes to. `path` is the manifest's, `data` the file's.

    `recorded` is what finds it again from `parlant_shard.retired`. `origin` is the server that has
    the row, where the shard has left it since.
    """

    server: str
    row: Retired | None
    target: Target
    path: str
    data: str
    manifest: Manifest
    recorded: str
    origin: str | None = None


def find_row(topology: Topology, partition: str) -> tuple[str, Retired] | None:
    """The server that knows a partition, and its row. Raises CannotConnect where one is silent.

    A server that does not answer matters only where no other knows the partition.
    """
    silent: CannotConnect | None = None
    for server in topology.servers:
        try:
            with db.session(topology, server, doing="looking for the partition") as connection:
                row = row_of(connection, topology, partition)
        except CannotConnect as error:
            silent = error
            continue
        if row is not None:
            return server, row
    if silent is not None:
        raise silent
    return None


def row_of(connection: db.Connection, topology: Topology, partition: str) -> Retired | None:
    known = connection.execute(queries("archive")["exists"]).fetchone()
    if known is None or not known["found"]:
        return None
    row: dict[str, Any] | None = connection.execute(
        queries("archive")["row"], {"topology": topology.name, "name": partition}
    ).fetchone()
    return None if row is None else Retired(**row)


def find(topology: Topology, partition: str, archive: str | None) -> Request:
    """Find the archive of a partition: the recorded one, or that of a path.

    Raises ArchiveError (PS542, PS543, PS548, PS553), CannotConnect, OSError.
    """
    found = find_row(topology, partition)
    server, row = found if found is not None else (None, None)
    if archive is None:
        if row is not None and row.archive is None and row.state == "detached" and row.present:
            raise _kept(topology, row)
        if row is None or row.archive is None:
            raise ArchiveError(
                f'no archive of partition "{partition}" is recorded in topology "{topology.name}"',
                code="PS548",
                hint="`parlant-shard archive list` shows what there is; `--archive PATH` takes one "
                "that is not recorded",
            )
        target, path = locate(topology, row.logical, row.archive)
    else:
        target, path = _chosen(topology, row, archive)
    manifest, data = examine(target, path)
    if (manifest.topology, manifest.partition) != (topology.name, partition):
        raise ArchiveError(
            f'archive "{target.whole(path)}" is of partition "{manifest.partition}" of topology '
            f'"{manifest.topology}", not of "{partition}" of topology "{topology.name}"',
            code="PS548",
            hint="name the partition that the archive is of, and its topology; the manifest has "
            "the statements to restore it by hand: docs/archive.md",
        )
    shard, origin = topology.shards.get(manifest.shard), None
    if row is not None and server is not None and _has_left(topology, server, row, shard):
        origin, server = server, None
    if server is None:
        if shard is None:
            raise ArchiveError(
                f'the archive is of shard "{manifest.shard}", which topology "{topology.name}" '
                "does not have",
                code="PS548",
                hint="the manifest has the statements to restore it by hand: docs/archive.md",
            )
        server = shard.server
    return Request(
        server=server,
        row=row,
        target=target,
        path=path,
        data=data,
        manifest=manifest,
        recorded=recorded_as(topology, manifest.table, target, path),
        origin=origin,
    )


def _has_left(topology: Topology, server: str, row: Retired, shard: Shard | None) -> bool:
    """Whether the shard is on another server now, without tables on this one."""
    if row.state != "archived" or shard is None or shard.server == server:
        return False
    parent = f"{canonical.quote(topology.namespace)}.{canonical.quote(row.parent)}"
    with db.session(topology, server, doing="looking for the table") as connection:
        found = connection.execute(queries("archive")["has_parent"], {"table": parent}).fetchone()
    return found is not None and not found["found"]


def _kept(topology: Topology, row: Retired) -> ArchiveError:
    place = canonical.quote(topology.namespace)
    return ArchiveError(
        f'partition "{row.name}" is detached and not archived: its rows are still in its table',
        code="PS548",
        hint="to attach it again, raise `retention` of its table first, then run ALTER TABLE "
        f"{place}.{canonical.quote(row.parent)} ATTACH PARTITION "
        f"{place}.{canonical.quote(row.name)} FOR VALUES FROM (…) TO (…), with the bounds of its "
        "CHECK",
    )


def _chosen(topology: Topology, row: Retired | None, archive: str) -> tuple[Target, str]:
    """A path is one in a target of the topology, or that of a file elsewhere, from here."""
    for target in targets(topology):
        path = target.relative(archive)
        if path is not None and target.size(path) is not None:
            return target, path
    if "://" not in archive:
        archive = str(Path(archive).absolute())
    return locate(topology, row.logical if row else "", archive)


# --- does it fit? ---------------------------------------------------------------------------------


def check_columns(manifest: Manifest, parent: Table) -> None:
    """Raises ArchiveError (PS551): a column of the file has no place in the table any more."""
    gone = [c.name for c in manifest.columns if parent.column(c.name) is None]
    if gone and manifest.rows:
        raise ArchiveError(
            f'the {manifest.rows} rows of partition "{manifest.partition}" have columns that table '
            f'"{parent.name}" has no more: {_quoted(gone)}',
            code="PS551",
            hint=BESIDE,
        )
    stored = set(parent.stored_columns)
    made = [c.name for c in manifest.columns if c.name not in stored]
    if made and manifest.rows:
        raise ArchiveError(
            f'the {manifest.rows} rows of partition "{manifest.partition}" have columns that are '
            f'generated in table "{parent.name}" now: {_quoted(made)}',
            code="PS551",
            hint=BESIDE,
        )


BESIDE = "`parlant-shard archive restore --beside` restores it as a table of its own"


def check_range(manifest: Manifest, leaves: list[Table], defaults: Mapping[str, Contents]) -> None:
    """Raises ArchiveError (PS550): a partition covers the range, or a part of it.

    So does a default partition that holds rows of the range.
    """
    for leaf in leaves:
        bound = leaf.bound
        if bound is None:
            continue
        if bound.default:
            _check_default(manifest, leaf.name, defaults.get(leaf.name))
            continue
        below = bound.upper is not None and manifest.lower is not None
        above = bound.lower is not None and manifest.upper is not None
        if below and bound.upper <= manifest.lower:  # type: ignore[operator]  # `below` says so
            continue
        if above and bound.lower >= manifest.upper:  # type: ignore[operator]
            continue
        raise ArchiveError(
            f'partition "{manifest.partition}" ({manifest.lower} to {manifest.upper}) overlaps '
            f'partition "{leaf.name}" ({bound.lower} to {bound.upper})',
            code="PS550",
            hint=BESIDE,
        )


def _check_default(manifest: Manifest, default: str, held: Contents | None) -> None:
    if held is None or manifest.lower is None or manifest.upper is None:
        return  # ATTACH looks itself
    rows = held.within(manifest.lower, manifest.upper)
    if rows:
        raise ArchiveError(
            f'partition "{manifest.partition}" ({manifest.lower} to {manifest.upper}) cannot be '
            f'attached: default partition "{default}" holds {rows} rows of its range',
            code="PS550",
            hint=BESIDE,
        )


def check_name(row: Retired | None, catalog: Catalog, partition: str) -> None:
    """Raises ArchiveError (PS549): the partition is there, or something else has its name."""
    table = catalog.tables.get(partition)
    if table is not None and not (row is not None and row.state == "restoring" and row.present):
        where = "attached" if table.parent else "there, detached"
        state = f' (state "{row.state}")' if row is not None and row.known else ""
        raise ArchiveError(
            f'table "{partition}" is {where} already{state}',
            code="PS549",
            hint="drop or rename it first, where it is not the partition itself",
        )
    if partition in catalog.other_relations or partition in catalog.views:
        raise ArchiveError(
            f'something else is called "{partition}"',
            code="PS549",
            hint="rename it first",
        )


def _quoted(names: list[str]) -> str:
    return ", ".join(f'"{n}"' for n in names)
