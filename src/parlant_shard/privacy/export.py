"""Everything of one workspace in one file: what a tenant may ask for, and take elsewhere.

The file is a tar: per table a member of COPY text, compressed with zstd, and as the last member
`manifest.json`, which says what each holds. Rows of the shard are of one snapshot. Rows of the
coordinator are of one that was taken after it, so that what they are referred by finds them.
"""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from typing import Any

from psycopg.sql import SQL, Composed, Identifier

from parlant_shard import __version__, db, trail
from parlant_shard.catalog import Catalog, Table
from parlant_shard.ddl import names, render
from parlant_shard.errors import ServerError, TopologyError
from parlant_shard.introspect import introspect
from parlant_shard.plan import TIMEOUTS, Kind
from parlant_shard.privacy.holdings import Holding, Where, holdings
from parlant_shard.privacy.home import Archives, Home, archives, find_home, sees_every_row
from parlant_shard.privacy.order import parents_first
from parlant_shard.privacy.tarball import Tarball
from parlant_shard.shardmap import ShardMap
from parlant_shard.sqlfiles import queries
from parlant_shard.topology import AUDIT_TABLE, Topology

FORMAT_VERSION = 1
MANIFEST = "manifest.json"
ALGORITHM = "sum(hashtextextended(ROW(columns)::text, 0)::numeric)"
# What the text of the values depends on: whoever computes the checksum elsewhere sets the same.
SETTINGS = {
    name: db.SESSION[name]
    for name in ("TimeZone", "DateStyle", "IntervalStyle", "extra_float_digits", "bytea_output")
}
# How often the list of tables is read again when it changed before the snapshot was taken.
_ATTEMPTS = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Exported:
    """What an export wrote. `tables` are those of the manifest."""

    workspace: str
    shard: str
    file: Path
    bytes: int
    tables: tuple[Mapping[str, Any], ...]
    archives: tuple[Mapping[str, Any], ...]
    notices: tuple[str, ...]
    seconds: float

    @property
    def rows(self) -> int:
        return sum(t["rows"] for t in self.tables)

    def to_json(self) -> dict[str, Any]:
        return {
            "workspace": self.workspace,
            "shard": self.shard,
            "file": str(self.file),
            "bytes": self.bytes,
            "rows": self.rows,
            "tables": [
                {k: t[k] for k in ("table", "file", "rows", "checksum")} for t in self.tables
            ],
            "archives": list(self.archives),
            "notices": list(self.notices),
            "seconds": round(self.seconds, 3),
        }


def export(
    topology: Topology,
    workspace: str,
    *,
    file: Path | None = None,
    tell: Callable[[str], None] = lambda _text: None,
) -> Exported:
    """Write the rows of a workspace to a file. Changes nothing on the servers.

    A killed export leaves `<name>.part` at most, which the next one overwrites: a snapshot cannot
    be taken up again, so it starts over. Raises TopologyError (PS324) for an unknown workspace,
    (PS326) for what cannot be one.
    """
    began = time.monotonic()
    home = find_home(topology, workspace)
    target, part = _paths(home.workspace, file)
    _refuse_existing(target)
    with ExitStack() as stack:
        entry = stack.enter_context(trail.recorded(topology, "workspace export", tell=tell))
        entry.objects = [home.workspace]
        tarball = stack.enter_context(Tarball(part))
        sources = _sources(topology, home, stack)
        tables = [_member(tarball, source, home.workspace, tell) for source in sources.members()]
        data = _manifest(topology, home, sources, tables)
        tarball.text(MANIFEST, json.dumps(data, indent=1, ensure_ascii=False) + "\n")
        _refuse_existing(target)
        size = tarball.commit(target)
        entry.detail = {"tables": len(tables), "rows": sum(t["rows"] for t in tables)}
    return Exported(
        workspace=home.workspace,
        shard=home.shard,
        file=target,
        bytes=size,
        tables=tuple(tables),
        archives=tuple(data["not_included"]["archives"]),
        notices=tuple(data["notices"]),
        seconds=time.monotonic() - began,
    )


def _paths(workspace: str, file: Path | None) -> tuple[Path, Path]:
    """The file and its part. A part has no moment in its name: the next export overwrites it."""
    if file is not None:
        return file, file.with_name(f"{file.name}.part")
    safe = re.sub(r"[^A-Za-z0-9_]", "_", workspace)[:60]
    if safe != workspace:  # two workspaces must not share a name
        safe = f"{safe}-{sha256(workspace.encode()).hexdigest()[:8]}"
    stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ")
    return Path(f"{safe}-{stamp}.tar"), Path(f"{safe}.tar.part")


def _refuse_existing(file: Path) -> None:
    if os.path.lexists(file):
        raise TopologyError(
            f'"{file}" exists already',
            code="PS746",
            hint="remove it, or name another file: -o FILE",
        )


# --- reading --------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class _Source:
    """A holding and the connection whose snapshot it is read in."""

    holding: Holding
    kind: str
    connection: db.Connection


@dataclass(frozen=True, slots=True, kw_only=True)
class _Sources:
    shard_map: ShardMap
    connections: Mapping[str, db.Connection]
    found: tuple[Holding, ...]
    taken_at: Mapping[str, str]
    archives: Archives
    recorded: tuple[str, ...]  # tables of recorded changes

    def members(self) -> list[_Source]:
        """What other rows refer to comes first, so that it can be loaded in this order."""
        return [
            _Source(
                holding=h,
                kind=self.shard_map.tables[h.logical].kind
                if h.logical in self.shard_map.tables
                else "sharded",
                connection=self.connections[h.server],
            )
            for h in parents_first(self.found)
        ]


def _sources(topology: Topology, home: Home, stack: ExitStack) -> _Sources:
    shard_map = home.shard_map
    connections, catalogs, taken_at = {}, {}, {}
    for server in dict.fromkeys((home.server, topology.coordinator)):
        connections[server] = stack.enter_context(sees_every_row(topology, server))
        catalogs[server] = stack.enter_context(
            _snapshot(topology, server, connections[server], home)
        )
        row = connections[server].execute(queries("privacy")["snapshot"]).fetchone()
        assert row is not None
        taken_at[server] = row["taken_at"]
    everything = holdings(shard_map, catalogs, leaves=False)
    found = tuple(h for h in everything if _is_asked(h, home))
    return _Sources(
        shard_map=shard_map,
        connections=connections,
        found=found,
        taken_at=taken_at,
        archives=archives(connections[home.server], topology, home.shard),
        recorded=tuple(
            h.table.name
            for h in everything
            if h.logical == AUDIT_TABLE and (h.server, h.shard) == (home.server, home.shard)
        ),
    )


@contextmanager
def _snapshot(
    topology: Topology, server: str, connection: db.Connection, home: Home
) -> Iterator[Catalog]:
    """Take the locks that keep the tables, then a snapshot in which the same tables are there."""
    relations, about = queries("privacy")["relations"], {"namespace": topology.namespace}
    connection.execute(
        "SELECT pg_catalog.set_config('statement_timeout', %s, false), "
        "pg_catalog.set_config('idle_in_transaction_session_timeout', '0', false)",
        [str(TIMEOUTS[Kind.VALIDATE][1])],
    )
    for _ in range(_ATTEMPTS):
        before = connection.execute(relations, about).fetchall()
        catalog = introspect(
            connection,
            namespace=topology.namespace,
            topology=topology.name,
            epochs=topology.epochs,
            server=server,
        )
        found = holdings(home.shard_map, {server: catalog}, leaves=False)
        mine = [h.name for h in found if _is_asked(h, home)]
        connection.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
        try:
            if mine:  # LOCK takes no snapshot: what comes after it does
                connection.execute(
                    SQL("LOCK TABLE {} IN ACCESS SHARE MODE").format(SQL(", ").join(mine))
                )
            if connection.execute(relations, about).fetchall() == before:
                yield catalog
                return
        finally:
            connection.execute("ROLLBACK")
    raise ServerError(
        f'server "{server}": its tables changed each time before a snapshot could be taken',
        code="PS742",
        hint="wait until `apply` or `maintain` has finished, then run it again",
    )


def _is_asked(holding: Holding, home: Home) -> bool:
    at_home = holding.shard == home.shard and holding.server == home.server
    return (at_home or holding.where is Where.COORDINATOR) and holding.logical != AUDIT_TABLE


def _member(
    tarball: Tarball, source: _Source, workspace: str, tell: Callable[[str], None]
) -> dict[str, Any]:
    holding = source.holding
    table, columns = holding.table, stored(holding.table)
    rows = _rows(holding, workspace)
    tally = (
        SQL(
            "SELECT count(*) AS rows, coalesce(sum(pg_catalog.hashtextextended("
            "ROW({})::text, 0)::numeric), 0)::text AS checksum FROM "
        ).format(names(columns))
        + rows
    )
    row = source.connection.execute(tally).fetchone()
    assert row is not None
    detached = holding.where is Where.DETACHED
    name = f"{_safe(table.name if detached else holding.logical)}.copy.zst"
    copy = SQL("COPY (SELECT {} FROM ").format(names(columns)) + rows + SQL(") TO STDOUT")
    with source.connection.cursor() as cursor, cursor.copy(copy) as stream:
        extent = tarball.rows(name, stream)
    if extent.rows != row["rows"]:
        raise ServerError(
            f'server "{holding.server}": "{table.name}" gave {extent.rows} rows and counted '
            f"{row['rows']} in one snapshot",
            code="PS747",
            hint="look at the server's log and its indexes (amcheck), then run it again",
        )
    tell(f"{holding.logical}: {extent.rows} rows")
    types = {c.name: c for c in table.columns}
    return {
        "table": holding.logical,
        "kind": source.kind,
        "detached": detached,
        "file": name,
        "columns": [
            {"name": c, "type": types[c].type, "not_null": types[c].not_null} for c in columns
        ],
        "load": render(
            SQL("COPY {} ({}) FROM STDIN").format(Identifier(holding.logical), names(columns))
        ),
        "rows": extent.rows,
        "checksum": row["checksum"],
        "bytes": extent.bytes,
        "sha256": extent.sha256,
    }


def _rows(holding: Holding, workspace: str) -> Composed:
    return SQL("{} WHERE {}").format(holding.name, holding.condition(workspace))


def stored(table: Table) -> tuple[str, ...]:
    """The columns that COPY takes: not those that PostgreSQL computes."""
    return tuple(c.name for c in table.columns if not c.generated)


def _safe(name: str) -> str:
    """A member's name: no directory, and another one for each table."""
    return re.sub(r"[/\\%]", lambda found: f"%{ord(found[0]):02X}", name)


# --- the manifest ---------------------------------------------------------------------------------


def _manifest(
    topology: Topology, home: Home, sources: _Sources, tables: list[dict[str, Any]]
) -> dict[str, Any]:
    shard_map = home.shard_map
    without = sorted(
        name
        for name, about in shard_map.tables.items()
        if about.kind != "sharded" and name not in {t["table"] for t in tables}
    )
    return {
        "format_version": FORMAT_VERSION,
        "what": "workspace",
        "made_by": f"parlant-shard {__version__}",
        "topology": topology.name,
        "workspace": home.workspace,
        "key": shard_map.key,
        "shard": home.shard,
        "taken_at": dict(sources.taken_at),
        "format": "COPY text, UTF8, zstd",
        "settings": SETTINGS,
        "checksum": ALGORITHM,
        "rows": sum(t["rows"] for t in tables),
        "tables": tables,
        "not_included": {
            "tables": without,
            "recorded_changes": list(sources.recorded),
            "archives": list(sources.archives.found),
        },
        "notices": list(_notices(without, sources.recorded, sources.archives)),
    }


def _notices(without: list[str], recorded: tuple[str, ...], archived: Archives) -> Iterator[str]:
    if without:
        yield (
            f"tables that do not say whose their rows are, and are not included: "
            f"{', '.join(without)}"
        )
    if recorded:
        yield f"recorded changes are not included: {', '.join(recorded)}"
    for entry in archived.found:
        yield (
            f'archive "{entry["path"]}" of "{entry["table"]}" ({entry["from"]} to {entry["to"]}) '
            "may hold rows of the workspace, and is not included"
        )
    for why in archived.unread:
        yield f"other archives may hold rows of the workspace: {why}"
