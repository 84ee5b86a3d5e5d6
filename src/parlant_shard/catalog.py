"""What a database holds, as frozen values in PostgreSQL's own canonical text.

Live servers, the scratch database and the desired state are all this one type, so that a diff
compares like with like. Texts (types, defaults, expressions, definitions) are what PostgreSQL
deparses with an empty `search_path`, `TimeZone = UTC` and `DateStyle = ISO`: names outside
`pg_catalog` are schema-qualified.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from datetime import datetime
from enum import Enum, StrEnum
from typing import Any

from parlant_shard.control import Epoch


class Relkind(StrEnum):
    """`pg_class.relkind`, the kinds that we manage."""

    TABLE = "r"
    PARTITIONED = "p"
    FOREIGN = "f"


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """One column. `default` holds the generation expression of a generated column."""

    name: str
    type: str
    not_null: bool = False
    default: str | None = None
    identity: str = ""  # '' | 'a' always | 'd' by default
    generated: str = ""  # '' | 's' stored | 'v' virtual
    collation: str | None = None  # only where it is not the type's own
    comment: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Key:
    """A PRIMARY KEY, UNIQUE or EXCLUDE constraint; `definition` is table-independent text."""

    name: str
    primary: bool
    columns: tuple[str, ...]
    definition: str
    valid: bool = True
    inherited: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """A CHECK constraint; `definition` starts with `CHECK (` and never ends with `NOT VALID`.

    One that is NOT ENFORCED (18) says so at its end, and is `valid`: there is nothing to validate.
    """

    name: str
    definition: str
    valid: bool = True
    inherited: bool = False

    @property
    def unenforced(self) -> bool:
        return self.definition.endswith(" NOT ENFORCED")


@dataclass(frozen=True, slots=True, kw_only=True)
class ForeignKey:
    """A foreign key. Actions are PostgreSQL's letters: a, r, c, n, d; match is s or f.

    With a `key_table` it points at that table of keys of `ref_table`, and not at the copy itself.
    """

    name: str
    columns: tuple[str, ...]
    ref_table: str
    ref_columns: tuple[str, ...]
    on_delete: str = "a"
    on_update: str = "a"
    match: str = "s"
    set_columns: tuple[str, ...] = ()
    deferrable: bool = False
    initially_deferred: bool = False
    unenforced: bool = False  # NOT ENFORCED (18)
    valid: bool = True
    inherited: bool = False
    key_table: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Index:
    """An index that no constraint owns.

    `definition` is the text behind `USING` (method, keys, INCLUDE, WITH, WHERE). `parent` names
    the partitioned index it is attached to. `window` is set on desired indexes whose predicate
    (or, on partitioned tables, whose presence) rolls with the clock.
    """

    name: str
    unique: bool
    definition: str
    valid: bool = True
    parent: str | None = None
    comment: str | None = None
    window: Window | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """How far back a rolling index reaches: rows with `by` younger than `seconds`."""

    by: str
    seconds: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Trigger:
    """A row or statement trigger: `head` up to ON, `tail` behind the table's name."""

    name: str
    head: str
    tail: str
    enabled: str = "O"  # O origin, D disabled, R replica, A always


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """A row-level security policy. `command` is r, a, w, d or *."""

    name: str
    command: str
    permissive: bool
    roles: tuple[str, ...]
    using: str | None
    check: str | None


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class Grant:
    """A table privilege of a role other than the owner; the role '' is PUBLIC."""

    role: str
    privilege: str
    grantable: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Bound:
    """A RANGE bound on one control column: from inclusive, to exclusive; None is unbounded.

    Times carry no zone: they are UTC, also where the column holds numbers or ids (`control`). A
    DEFAULT partition has neither and `default` true.
    """

    lower: datetime | None = None
    upper: datetime | None = None
    default: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Foreign:
    """What a foreign table stands for."""

    server: str
    options: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """A table, partitioned table, partition or foreign table of the namespace."""

    name: str
    kind: Relkind = Relkind.TABLE
    columns: tuple[Column, ...] = ()
    keys: tuple[Key, ...] = ()
    checks: tuple[Check, ...] = ()
    foreign_keys: tuple[ForeignKey, ...] = ()
    indexes: tuple[Index, ...] = ()
    triggers: tuple[Trigger, ...] = ()
    policies: tuple[Policy, ...] = ()
    grants: tuple[Grant, ...] = ()
    options: tuple[tuple[str, str], ...] = ()
    comment: str | None = None
    unlogged: bool = False
    replica_identity: str = "d"  # d default, f full, n nothing, or "i:<index name>"
    row_security: bool = False
    force_row_security: bool = False
    partition_by: str | None = None  # the control column
    epoch: Epoch | None = field(default=None, compare=False)  # what it counts, as declared
    parent: str | None = None
    bound: Bound | None = None
    foreign: Foreign | None = None
    detach_pending: bool = False
    # Not part of the state: whether the heap has any page. Left out of comparison and fingerprint.
    populated: bool = field(default=False, compare=False)
    owner: str = field(default="", compare=False)
    owned: bool = field(default=True, compare=False)  # whether our role acts as the owner

    def column(self, name: str) -> Column | None:
        return next((c for c in self.columns if c.name == name), None)

    @property
    def stored_columns(self) -> tuple[str, ...]:
        """Those that COPY reads and writes: a generated column follows from the others."""
        return tuple(c.name for c in self.columns if not c.generated)

    @property
    def primary_key(self) -> Key | None:
        return next((k for k in self.keys if k.primary), None)


@dataclass(frozen=True, slots=True, kw_only=True)
class EnumType:
    """An enum with its labels in sort order."""

    name: str
    labels: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Function:
    """A function or procedure; `definition` is the whole `CREATE OR REPLACE` text.

    `executors` are the roles beside the owner that may call one of ours for the wall ('' is
    PUBLIC), and can name it; None for all others, whose privileges are not managed.
    """

    signature: str
    definition: str
    executors: tuple[str, ...] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """A view. One of ours is `sources` (bare branches) and `columns`; any other only `text`."""

    name: str
    columns: tuple[str, ...]
    types: tuple[str, ...]
    sources: tuple[str, ...]
    security_invoker: bool
    text: str | None = None
    comment: str | None = None
    grants: tuple[Grant, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class ForeignServer:
    """A postgres_fdw server of ours with its options, sorted."""

    name: str
    options: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class UserMapping:
    """Who a local role is on a foreign server. The password never reaches text or JSON."""

    server: str
    role: str
    user: str
    password: str | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Publication:
    """A publication of ours: tables with their explicit columns.

    `operations` are those that are published, `filtered` names tables with a condition on rows.
    """

    name: str
    tables: tuple[tuple[str, tuple[str, ...]], ...]
    operations: tuple[str, ...] = ("insert", "update", "delete")
    filtered: tuple[str, ...] = ()


# What of a subscription's connection string says whom it reads from, and how safely.
SUBSCRIPTION_PEER = (
    "host",
    "port",
    "dbname",
    "user",
    "sslmode",
    "sslrootcert",
    "sslcert",
    "sslkey",
    "sslcrl",
    "sslcrldir",
    "channel_binding",
    "ssl_min_protocol_version",
    "ssl_max_protocol_version",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Subscription:
    """A subscription of ours; `tables` are those whose relation state exists already."""

    name: str
    slot: str
    publication: str
    tables: tuple[str, ...] = ()
    enabled: bool = True
    # Where it reads from, and how (SUBSCRIPTION_PEER); None where the role may not read it.
    peer: tuple[tuple[str, str], ...] | None = field(default=None, compare=False)
    password: str | None = field(default=None, repr=False, compare=False)
    synced: bool = field(default=True, compare=False)
    # Positions in the WAL of the publisher, as numbers: what was replayed last (None where nothing
    # was, or the role may not read it), and up to which the first copy of a table went.
    replayed: int | None = field(default=None, compare=False)
    copied: int | None = field(default=None, compare=False)

    @property
    def position(self) -> int | None:
        """The furthest position of the publisher that this copy has seen for certain."""
        return max((p for p in (self.replayed, self.copied) if p is not None), default=None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Slot:
    """A replication slot of the server with a name of ours, whatever made it.

    `here`: of this very database. `invalid` is the reason for which it can be read no more.
    `confirmed` is a position in the WAL. `transactions` is how many it decoded, by the statistics,
    which a crash of the server resets.
    """

    name: str
    logical: bool
    plugin: str | None
    temporary: bool
    database: str | None
    here: bool
    active: bool
    wal_status: str | None
    invalid: str | None
    confirmed: int | None
    transactions: int | None


# States of a placement that routers refuse: the workspace is being purged, or it was.
REFUSED = frozenset({"purging", "purged"})


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class Placement:
    """A workspace's row on the server of its shard, or in the coordinator's directory."""

    workspace: str
    shard: str
    state: str = "active"


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyTable:
    """The keys of a reference table that rows of this server may refer to (holding.py).

    `table` is the reference table, `columns` are those of one of its keys.
    """

    name: str
    table: str
    columns: tuple[Column, ...]

    @property
    def column_names(self) -> tuple[str, ...]:
        return tuple(c.name for c in self.columns)


@dataclass(frozen=True, slots=True, kw_only=True)
class Seal:
    """Coordinator: the foreign table that keys of a server are sealed through."""

    server: str
    name: str
    foreign_server: str


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class Managed:
    """A registered object: what it is for. `logical` is the table as the application knows it."""

    kind: str  # table | view | key | seal
    name: str
    logical: str
    shard: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Retired:
    """A partition that `maintain` detaches or has detached: its range is not made again.

    `state` is detaching, detached, archived, restoring or restored. `detached_at` is by the clock
    of that run, in UTC. `archive` is the manifest, relative to the target (or a URL); one that was
    restored is not detached before `kept_until`, which stays when it is.
    """

    name: str
    relid: int
    logical: str
    shard: str
    parent: str
    lower: datetime | None
    upper: datetime | None
    state: str
    detached_at: datetime | None = None
    kept_until: datetime | None = None
    archive: str | None = None
    rows: int | None = None
    known: bool = True  # the very table is still there
    present: bool = True  # and detached

    @property
    def is_copy(self) -> bool:
        """Whether it was restored beside its table, for a time, and not attached since."""
        return self.archive is not None and self.kept_until is None


@dataclass(frozen=True, slots=True, kw_only=True)
class Catalog:
    """Everything of one server that a plan compares. Mappings are keyed by name."""

    extensions: frozenset[str] = frozenset()
    roles: frozenset[str] = frozenset()  # of the whole server: only those that the topology names
    enums: Mapping[str, EnumType] = field(default_factory=dict)
    functions: Mapping[str, Function] = field(default_factory=dict)
    tables: Mapping[str, Table] = field(default_factory=dict)
    views: Mapping[str, View] = field(default_factory=dict)
    foreign_servers: Mapping[str, ForeignServer] = field(default_factory=dict)
    user_mappings: Mapping[tuple[str, str], UserMapping] = field(default_factory=dict)
    publications: Mapping[str, Publication] = field(default_factory=dict)
    subscriptions: Mapping[str, Subscription] = field(default_factory=dict)
    slots: frozenset[str] = frozenset()
    # Every slot of the server with a name of ours, and where its WAL ends (None in recovery).
    slot_states: Mapping[str, Slot] = field(default_factory=dict, compare=False)
    wal_end: int | None = field(default=None, compare=False)
    # State of our own schema `parlant_shard`: its version (0: absent) and rows.
    internal_version: int = 0
    shards: Mapping[str, str] = field(default_factory=dict)  # coordinator: shard → server
    directory: frozenset[Placement] = frozenset()  # coordinator: every workspace
    placements: frozenset[Placement] = frozenset()  # this server's own workspaces
    signing_keys: frozenset[str] = frozenset()  # ids of the keys that tokens may be signed with
    managed: Mapping[tuple[str, str], Managed] = field(default_factory=dict)
    keys: Mapping[str, KeyTable] = field(default_factory=dict)
    seals: Mapping[str, Seal] = field(default_factory=dict)
    # The schema of the key tables: whose it is (None: there is none), and what is there that nobody
    # registered.
    key_schema_owner: str | None = field(default=None, compare=False)
    key_schema_owned: bool = field(default=False, compare=False)
    strange_keys: frozenset[str] = field(default=frozenset(), compare=False)
    # Roles that may seal keys of this server: the coordinator comes as one of them.
    sealers: frozenset[str] = field(default=frozenset(), compare=False)
    # Names taken by what we do not model, with what has them: "view", "sequence", "type" …
    other_relations: Mapping[str, str] = field(default_factory=dict)
    unsupported: tuple[str, ...] = field(default=(), compare=False)
    retired: tuple[Retired, ...] = field(default=(), compare=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class EventTrigger:
    """An event trigger that runs for our statements. `tags` are its command tags; empty for all.

    `function` is its name with the schema, unquoted. `extension` is the one that it belongs to.
    """

    name: str
    event: str  # ddl_command_start, ddl_command_end, sql_drop, table_rewrite, login
    tags: tuple[str, ...]
    function: str
    extension: str | None = None

    def __str__(self) -> str:
        when = self.event + (f" of {', '.join(self.tags)}" if self.tags else "")
        whose = f"extension {self.extension}" if self.extension else f"function {self.function}"
        return f'"{self.name}" ({when}; {whose})'


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What a server is and what our role may do there. Not compared, not part of a fingerprint."""

    server: str
    version_num: int
    database: str
    host: str
    port: str
    user: str
    password: str | None = field(repr=False)
    now: datetime  # the database's clock, UTC, without zone
    settings: Mapping[str, str]
    superuser: bool
    roles: frozenset[str]  # roles of the cluster
    can: frozenset[str]  # create-database, create-schema, create-role, replication, subscribe, fdw
    extensions_available: frozenset[str]
    extensions_trusted: frozenset[str] = frozenset()
    in_recovery: bool = False
    read_only: bool = False
    identity: str = ""  # of this very database, whatever address led to it
    unsafe: Mapping[str, str] = field(default_factory=dict)  # role of the wall → why it is none
    sslmode: str | None = None  # what our own connection asks for, wherever that is said
    event_triggers: tuple[EventTrigger, ...] = ()

    @property
    def major(self) -> int:
        return self.version_num // 10000


_FIELDS: dict[type, tuple[str, ...]] = {}


def _compared(kind: type) -> tuple[str, ...]:
    """The fields of a value that are state: no secrets, nothing incidental."""
    if kind not in _FIELDS:
        _FIELDS[kind] = tuple(f.name for f in fields(kind) if f.repr and f.compare)
    return _FIELDS[kind]


def plain(value: Any) -> Any:
    """Turn a catalogue value into JSON-ready data, sorted, without secrets or incidental fields."""
    match value:
        case None | bool() | int():
            return value
        case Enum():
            return value.value
        case str():
            return value
        case tuple():
            return [plain(v) for v in value]
        case Mapping():
            return {str(k): plain(v) for k, v in sorted(value.items(), key=lambda kv: str(kv[0]))}
        case frozenset():
            return sorted(map(plain, value), key=lambda v: json.dumps(v, sort_keys=True))
        case datetime():
            return value.isoformat(sep=" ")
    found = {}
    for name in _compared(type(value)):
        inner = getattr(value, name)
        if inner:
            found[name] = plain(inner)
    return found


def fingerprint(catalogs: Mapping[str, Catalog], *extra: str) -> str:
    """Hash the catalogues of all servers (and more text) into 64 hex digits."""
    digest = hashlib.sha256()
    digest.update(json.dumps(plain(catalogs), sort_keys=True, ensure_ascii=True).encode())
    for text in extra:
        digest.update(b"\0" + text.encode())
    return digest.hexdigest()
