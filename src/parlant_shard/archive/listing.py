"""What is archived: the rows of the servers against the files of the targets."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import Any

from parlant_shard import db
from parlant_shard.archive.manifest import Manifest, parse
from parlant_shard.archive.stream import check
from parlant_shard.archive.target import Target, open_target, trouble
from parlant_shard.errors import ArchiveError, ShardError
from parlant_shard.horizon import utc
from parlant_shard.sqlfiles import queries
from parlant_shard.topology import Archive, Topology


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One archive. `state` is archived, restored, missing, corrupt or unrecorded."""

    table: str
    server: str | None
    shard: str
    partition: str
    lower: datetime | None
    upper: datetime | None
    rows: int | None
    path: str
    state: str
    bytes: int | None = None
    kept_until: datetime | None = None
    confirmed: bool = True  # whether the server's own row says so
    detail: str | None = None

    def to_json(self) -> dict[str, Any]:
        return {
            "table": self.table,
            "server": self.server,
            "shard": self.shard,
            "partition": self.partition,
            "from": utc(self.lower),
            "to": utc(self.upper),
            "rows": self.rows,
            "path": self.path,
            "state": self.state,
            "bytes": self.bytes,
            "kept_until": utc(self.kept_until),
            "confirmed": self.confirmed,
            "detail": self.detail,
        }


def listing(
    topology: Topology, *, verify: bool = False
) -> tuple[list[Entry], dict[str, ShardError]]:
    """Return every archive, and what went wrong by server or target.

    While a server is down, what lies in the targets is listed for it unconfirmed. `verify` reads
    every file to its end.
    """
    failed: dict[str, ShardError] = {}

    def rows(server: str) -> list[dict[str, Any]]:
        try:
            return recorded(topology, server)
        except ShardError as error:
            failed[server] = error
            return []

    servers = list(topology.servers)
    with ThreadPoolExecutor(max_workers=max(1, min(8, len(servers)))) as pool:
        found = dict(zip(servers, pool.map(rows, servers), strict=True))
    work: list[Callable[[], Entry]] = []
    seen: set[tuple[str, str]] = set()
    for server in servers:
        for row in found[server]:
            try:
                target, path = locate(topology, row["logical"], row["archive"])
            except ShardError as error:
                failed.setdefault(f'table "{row["logical"]}"', error)
                continue
            seen.add((target.text, path))
            work.append(partial(_recorded, target, path, server, row, verify=verify))
    for target in targets(topology, failed):
        try:
            paths = target.manifests(topology.name)
        except OSError as error:
            failed[target.text] = trouble(target, "listing archives", error)
            continue
        work += [
            partial(_unrecorded, topology, target, path, failed, verify=verify)
            for path in paths
            if (target.text, path) not in seen
        ]
    # A store answers each request after a while: several at once.
    with ThreadPoolExecutor(max_workers=8) as pool:
        entries = list(pool.map(lambda examined: examined(), work))
    entries.sort(key=lambda e: (e.table, e.shard, e.lower or datetime.min, e.partition, e.path))
    return entries, failed


def unrecorded(
    topology: Topology, shard: str, known: Iterable[tuple[str, str]]
) -> tuple[list[Entry], dict[str, ShardError]]:
    """Return the archives of a shard in the targets apart from `known`, and what went wrong.

    `known` are logical table and recorded path of those that servers know of.
    """
    failed: dict[str, ShardError] = {}
    seen: set[tuple[str, str]] = set()
    for logical, where in known:
        try:
            target, path = locate(topology, logical, where)
            seen.add((target.text, path))
        except ShardError as error:
            failed[f'table "{logical}"'] = error
    entries = []
    for target in targets(topology, failed):
        try:
            entries += [
                _unrecorded(topology, target, path, failed, verify=False)
                for path in target.manifests(topology.name)
                if (target.text, path) not in seen and path.split("/")[-2] == shard
            ]
        except OSError as error:
            failed[target.text] = trouble(target, "listing archives", error)
    return entries, failed


def recorded(topology: Topology, server: str) -> list[dict[str, Any]]:
    """The archives that a server's rows name. Raises CannotConnect, ServerError."""
    with db.session(topology, server, doing="reading its archives") as connection:
        known = connection.execute(queries("archive")["exists"]).fetchone()
        if known is None or not known["found"]:
            return []
        return connection.execute(
            queries("archive")["recorded"], {"topology": topology.name}
        ).fetchall()


def targets(topology: Topology, failed: dict[str, ShardError] | None = None) -> list[Target]:
    """The targets that the topology names, each once; what cannot be opened goes to `failed`."""
    found: dict[str, Target] = {}
    for logical, partition in topology.cut.items():
        if partition.archive is None:
            continue
        try:
            # Files are read here: no Parquet is written, its package is not needed.
            target = open_target(topology, Archive(to=partition.archive.to))
        except ShardError as error:
            if failed is None:
                raise
            failed[f'table "{logical}"'] = error
        else:
            found.setdefault(target.text, target)
    return list(found.values())


def _own(topology: Topology, logical: str) -> Target | None:
    partition = topology.partition_of(logical)
    if partition is None or partition.archive is None:
        return None
    return open_target(topology, Archive(to=partition.archive.to))


def recorded_as(topology: Topology, logical: str, target: Target, path: str) -> str:
    """What `locate` finds an archive by: relative to the table's own target, else whole."""
    own = _own(topology, logical)
    is_own = own is not None and own.text == target.text
    return target.recorded(path) if is_own else target.whole(path)


def locate(topology: Topology, logical: str, where: str) -> tuple[Target, str]:
    """The target and path of a recorded archive, also where the topology names another now."""
    own = _own(topology, logical)
    if own is not None and (path := own.relative(where)) is not None:
        return own, path
    for target in targets(topology):
        path = target.relative(where)
        if path is not None:
            return target, path
    head, _, name = where.rpartition("/")
    outside = "/" if where.startswith("/") else "."
    return open_target(topology, Archive(to=head or outside)), name


def beside(path: str, name: str) -> str:
    """The path of a file that lies where the manifest lies."""
    folder = path.rpartition("/")[0]
    return f"{folder}/{name}" if folder else name


def _recorded(
    target: Target, path: str, server: str, row: dict[str, Any], *, verify: bool
) -> Entry:
    state = "archived" if row["state"] == "archived" else "restored"
    manifest, problem, detail = _examined(target, path, verify=verify)
    return Entry(
        table=row["logical"],
        server=server,
        shard=row["shard"],
        partition=row["name"],
        lower=row["lower"],
        upper=row["upper"],
        rows=row["rows"],
        path=target.whole(path),
        state=problem or state,
        bytes=manifest.file.bytes if manifest else None,
        kept_until=row["kept_until"] if state == "restored" else None,
        detail=detail,
    )


def _unrecorded(
    topology: Topology, target: Target, path: str, failed: dict[str, ShardError], *, verify: bool
) -> Entry:
    manifest, problem, detail = _examined(target, path, verify=verify)
    folder, _, name = path.rpartition("/")
    shard = manifest.shard if manifest else folder.rpartition("/")[2]
    options = topology.shards.get(shard)
    # While the server does not answer, nobody knows whether its row names this one.
    silent = options is not None and options.server in failed
    state = "archived" if silent else "unrecorded"
    return Entry(
        table=manifest.table if manifest else "",
        server=options.server if options else None,
        shard=shard,
        partition=manifest.partition if manifest else name.rsplit(".", 2)[0],
        lower=manifest.lower if manifest else None,
        upper=manifest.upper if manifest else None,
        rows=manifest.rows if manifest else None,
        path=target.whole(path),
        state=problem or state,
        bytes=manifest.file.bytes if manifest else None,
        confirmed=False,
        detail=detail,
    )


def _examined(
    target: Target, path: str, *, verify: bool
) -> tuple[Manifest | None, str | None, str | None]:
    """The manifest, what is wrong with the archive, and why."""
    try:
        manifest, data = examine(target, path)
        if verify:
            with target.open(data) as file:
                check(file, manifest)
    except ArchiveError as error:
        return None, "missing" if error.code == "PS553" else "corrupt", error.message
    except OSError as error:
        return None, "missing", trouble(target, "reading an archive", error).message
    return manifest, None, None


def examine(target: Target, path: str) -> tuple[Manifest, str]:
    """Read a manifest and find its file.

    Raises ArchiveError: PS553 where either is missing, PS543 or PS542 where one is damaged, and
    OSError.
    """
    if target.size(path) is None:
        raise _missing(target, path)
    manifest = parse(target.read(path), where=target.whole(path))
    data = beside(path, manifest.file.name)
    size = target.size(data)
    if size is None:
        raise _missing(target, data)
    if size != manifest.file.bytes:
        raise ArchiveError(
            f'archive "{target.whole(data)}" is corrupt: it has {size} bytes instead of '
            f"{manifest.file.bytes}",
            code="PS542",
            hint="restore the file from a backup of the archive",
        )
    return manifest, data


def _missing(target: Target, path: str) -> ArchiveError:
    return ArchiveError(
        f'archive file "{target.whole(path)}" does not exist',
        code="PS553",
        hint="is the target of the topology the right one, and its disk mounted? "
        "`parlant-shard archive list` shows what is there",
    )
