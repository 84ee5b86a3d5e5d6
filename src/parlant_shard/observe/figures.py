"""What was read of the servers, as frozen values, and what its physical names stand for. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from parlant_shard.errors import ShardError
from parlant_shard.names import HASH_DIGITS, MAX_BYTES, byte_length, leaf_item, suffixed
from parlant_shard.topology import Topology


@dataclass(frozen=True, slots=True, kw_only=True)
class TableFigures:
    """A table or partition. Counters run since the statistics were reset; sizes are bytes.

    `root` is the shard table that it belongs to, `logical` the table as the application knows it;
    `tuples` is what VACUUM and ANALYZE left in the catalogue (-1: never looked at). Times are UTC.
    While it is `locked`, sizes are those of the catalogue as well, and its indexes are not read.
    """

    oid: int
    name: str
    root: str
    logical: str
    shard: str
    leaf: bool
    partitioned: bool
    locked: bool
    tuples: float
    heap_bytes: int
    index_bytes: int
    toast_bytes: int
    rows: int
    dead_rows: int
    seq_scans: int
    idx_scans: int
    inserted: int
    updated: int
    deleted: int
    last_vacuum: datetime | None
    last_analyze: datetime | None
    heap_hit: int
    heap_read: int
    index_hit: int
    index_read: int


@dataclass(frozen=True, slots=True, kw_only=True)
class IndexFigures:
    """An index with its structure, as `pg_index` has it.

    `columns` are key columns (the first `key_count`) and included ones: names, quoted where needed,
    or expressions; `numbers` are attribute numbers (0: an expression); `classes`, `collations` and
    `flags` are of the key columns (flags: 1 DESC, 2 NULLS FIRST); `definition` is the whole
    statement and `marker` what stands between the index's name and its method there. `building`:
    some index of its table is being built; `with_table`: it was made together with its table.
    """

    oid: int
    rel: int
    name: str
    method: str
    partitioned: bool
    parent: int | None
    unique: bool
    immediate: bool
    nulls_not_distinct: bool
    valid: bool
    replica_identity: bool
    clustered: bool
    key_count: int
    columns: tuple[str, ...]
    numbers: tuple[int, ...]
    classes: tuple[int, ...]
    collations: tuple[int, ...]
    flags: tuple[int, ...]
    class_options: tuple[str, ...]
    attributes: tuple[str, ...]
    predicate: str | None
    definition: str
    marker: str
    constraint: str | None
    referenced: bool
    building: bool
    with_table: bool
    tuples: float
    fillfactor: int
    bytes: int
    scans: int
    tuples_read: int
    tuples_fetched: int
    last_scan: datetime | None
    hit: int
    read: int

    @property
    def keys(self) -> tuple[str, ...]:
        return self.columns[: self.key_count]

    @property
    def tail(self) -> str:
        """The definition from the method on: `btree (a, b) WHERE c`."""
        return self.definition.partition(self.marker)[2]

    @property
    def protected(self) -> bool:
        """Whether it does something that no other index does by being used."""
        return (
            self.unique
            or self.constraint is not None
            or self.replica_identity
            or self.clustered
            or self.referenced
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class ForeignKeyFigures:
    """A foreign key of a root table; `ref_deleted` counts rows deleted where it points."""

    rel: int
    name: str
    ref_table: str
    columns: tuple[str, ...]
    ref_deleted: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Replica:
    """Index use on a replica: name → (scans, last scan). `error` where it cannot be read."""

    number: int
    since: datetime | None = None
    usage: Mapping[str, tuple[int, datetime | None]] = field(default_factory=dict)
    error: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Statement:
    """A normalised statement of one server; times are milliseconds, blocks are buffers."""

    text: str
    calls: int
    rows: int
    total_ms: float
    hit: int
    read: int
    read_ms: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Database:
    """Counters of a whole database."""

    bytes: int
    hit: int
    read: int
    temp_bytes: int
    deadlocks: int
    commits: int
    rollbacks: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerFigures:
    """One server. `since` is when its counters began; None where nothing says so.

    `made` is when the journal says that a table or index was made. `widths` maps (relation,
    attribute) to the mean width in bytes and the share of NULL.
    """

    name: str
    version: str
    version_num: int
    block_size: int
    now: datetime
    started_at: datetime
    since: datetime | None
    database: Database
    tables: tuple[TableFigures, ...] = ()
    indexes: tuple[IndexFigures, ...] = ()
    foreign_keys: tuple[ForeignKeyFigures, ...] = ()
    widths: Mapping[tuple[str, str], tuple[int, float]] = field(default_factory=dict)
    made: Mapping[str, datetime] = field(default_factory=dict)
    densities: Mapping[int, float] = field(default_factory=dict)
    replicas: tuple[Replica, ...] = ()
    statements: tuple[Statement, ...] | None = None
    statements_since: datetime | None = None
    timeline: int | None = None  # above 1 it was promoted; None where it does not say
    notices: tuple[str, ...] = ()

    @property
    def observed(self) -> timedelta | None:
        return None if self.since is None else self.now - self.since


@dataclass(frozen=True, slots=True, kw_only=True)
class Observed:
    """What was read of all servers of a topology."""

    topology: Topology
    servers: Mapping[str, ServerFigures]
    failed: Mapping[str, ShardError] = field(default_factory=dict)

    @property
    def notices(self) -> tuple[str, ...]:
        return tuple(n for server in self.servers.values() for n in server.notices)


def merged(one: Statement, other: Statement) -> Statement:
    """The sum of the same statement on two shards or servers."""
    return Statement(
        text=one.text,
        calls=one.calls + other.calls,
        rows=one.rows + other.rows,
        total_ms=one.total_ms + other.total_ms,
        hit=one.hit + other.hit,
        read=one.read + other.read,
        read_ms=one.read_ms + other.read_ms,
    )


def ratio(hit: int, read: int) -> float | None:
    """The share of blocks that were found in shared buffers; None where none was asked for."""
    return round(hit / (hit + read), 4) if hit + read else None


def unquoted(column: str) -> str:
    """The name of a column from the text of an index definition."""
    return column[1:-1].replace('""', '"') if column.startswith('"') else column


# --- names ----------------------------------------------------------------------------------------

_SHORTENED = re.compile(rf"^(.*)_([0-9a-f]{{{HASH_DIGITS}}})$", re.S)
_HEAD = 20  # of a shortened name: its length depends on the shard's name, this does not


def logical_index(index: IndexFigures, table: TableFigures, declared: Iterable[str] = ()) -> str:
    """The name that an index of a shard table or partition has in the schema.

    `declared` are names that the schema and the topology use: they are recognised exactly, also
    where the physical name was shortened. Other names lose the shard's suffix.
    """
    for name in declared:
        if index.name in _physical(name, table):
            return name
    if table.leaf:
        part = index.name.removeprefix(f"{table.name}_")
        return f"{table.logical}_{part}" if part != index.name else index.name
    if not table.shard or not index.name.endswith(f"_{table.shard}"):
        return index.name
    stem = index.name.removesuffix(f"_{table.shard}")
    cut = _SHORTENED.match(stem)
    if cut and byte_length(index.name) > MAX_BYTES - 4:
        return f"{cut[1][:_HEAD]}_{cut[2]}"
    return stem


def _physical(name: str, table: TableFigures) -> tuple[str, ...]:
    if table.leaf:
        return (leaf_item(table.name, table.logical, name),)
    return (suffixed(name, table.shard) if table.shard else name,)
