"""The topology file as frozen models: what it may hold, and nothing about whether it makes sense.

Shapes, types and the spelling of single values are settled here; what needs two places of the file,
the schema or the disk is settled in `checks`. A validator raises `mistake(code, message, hint)`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from psycopg.conninfo import conninfo_to_dict
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    PlainValidator,
    PrivateAttr,
    StrictBool,
    StrictInt,
    StrictStr,
    WithJsonSchema,
)
from pydantic_core import PydanticCustomError

from parlant_shard.control import Epoch
from parlant_shard.names import MAX_BYTES, byte_length, suffixed
from parlant_shard.topology.codes import Code
from parlant_shard.topology.interval import Interval
from parlant_shard.topology.size import PATTERN as SIZE_PATTERN
from parlant_shard.topology.size import Size

BUCKET_COUNT = 4096  # fixed for good: another number would move almost every workspace

# What recorded changes of rows go to, one per shard: a table of ours that no schema declares.
AUDIT_TABLE = "parlant_shard_audit"

_RESERVED_SHARDS = frozenset({"global"})  # <table>_global is the federated view
_RESERVED_NAMESPACES = frozenset({"information_schema", "parlant_shard"})
_TIME_UNITS = ("hour", "day", "week", "month", "quarter", "year")


def mistake(code: Code, message: str, hint: str | None = None) -> PydanticCustomError:
    """Return what a validator raises; the loader turns it into a TopologyError with the line."""
    # message and hint are parameters, not the template: a brace in a name must stay a brace
    return PydanticCustomError(code.value, "{text}", {"text": message, "hint": hint})


# --- single values -------------------------------------------------------------------------------


def _name(what: str, pattern: str, longest: int, reserved: frozenset[str]) -> AfterValidator:
    allowed = re.compile(pattern)

    def check(value: str) -> str:
        if len(value) > longest:
            raise mistake(
                Code.NAME_TOO_LONG,
                f'{what} "{value}" is longer than {longest} characters',
                "the name becomes part of the names of tables and indexes; choose a shorter one",
            )
        if not allowed.fullmatch(value):
            marks = "underscores and dashes" if "_-]" in pattern else "and underscores"
            raise mistake(
                Code.BAD_NAME,
                f'{what} "{value}" is not a valid name',
                f"use lower-case letters, digits{',' if '_-]' in pattern else ''} {marks}, "
                "and begin with a letter",
            )
        if value in reserved:
            raise mistake(
                Code.BAD_NAME, f'{what} "{value}" is reserved', "choose another name for it"
            )
        return value

    return AfterValidator(check)


def _identifier(value: str) -> str:
    if not value or "\0" in value:
        raise mistake(Code.BAD_NAME, f'"{value}" is not a name', "write the name as it is stored")
    if byte_length(value) > MAX_BYTES:
        raise mistake(
            Code.NAME_TOO_LONG,
            f'"{value}" is longer than {MAX_BYTES} bytes',
            "PostgreSQL would cut it; choose a shorter name",
        )
    return value


def _namespace(value: str) -> str:
    if value in _RESERVED_NAMESPACES or value.startswith("pg_"):
        raise mistake(
            Code.BAD_NAME,
            f'namespace "{value}" is reserved',
            'choose another schema, e.g. "public"',
        )
    return value


def _role(value: str) -> str:
    if value in {"public", "none"} or value.startswith("pg_"):
        raise mistake(Code.BAD_NAME, f'role "{value}" is reserved', "choose another role name")
    return value


def _interval(value: object) -> Interval:
    if isinstance(value, Interval):
        return value
    hint = 'write a number and a unit, e.g. "1 month", "90 days" or "30 s"'
    if not isinstance(value, str):
        raise mistake(Code.INTERVAL, f"{scalar(value)} is not an interval", hint)
    try:
        return Interval.parse(value)
    except ValueError as exc:
        raise mistake(Code.INTERVAL, str(exc), hint) from None


def _size(value: object) -> Size:
    if isinstance(value, Size):
        return value
    try:
        return Size.parse(scalar(value))
    except ValueError as exc:
        hint = 'write a number and kB, MB, GB or TB, e.g. "500 GB"; units are binary'
        raise mistake(Code.SIZE, str(exc), hint) from None


def scalar(value: object) -> str:
    """Return a value as the file has it, for a message."""
    match value:
        case None:
            return "an empty value"
        case bool():
            return "true" if value else "false"
        case Mapping():
            return "a mapping"
        case list() | tuple():
            return "a list"
        case _:
            return str(value)


def _positive(value: Interval) -> Interval:
    if not value:
        raise mistake(Code.INTERVAL, f'"{value}" is no time at all', "use at least 1")
    return value


# Beyond it moments leave the calendar.
_LONGEST = Interval(1000, "year")


def _kept(value: Interval) -> Interval:
    try:
        too_long = _positive(value).bounds[0] > _LONGEST.bounds[1]
    except OverflowError:
        too_long = True
    if too_long:
        raise mistake(
            Code.INTERVAL,
            f'"{value}" is longer than {_LONGEST}',
            "leave retention out to keep everything",
        )
    return value


def _fixed(value: Interval) -> Interval:
    if not value.is_fixed:
        raise mistake(
            Code.INTERVAL,
            f'"{value}" has no fixed length',
            "use seconds, minutes, hours, days or weeks here",
        )
    return value


def _place(value: str) -> str:
    if not value.strip() or "\0" in value:
        raise mistake(
            Code.BAD_NAME,
            "the archive has no place to go",
            "name a directory (relative to this file) or a URL, e.g. archive/ or s3://bucket/path",
        )
    return value


def _partition_width(value: Interval) -> Interval:
    if value.unit not in _TIME_UNITS:
        raise mistake(
            Code.INTERVAL,
            f'partitions of "{value}" are not supported',
            f"use one of the units {', '.join(_TIME_UNITS)}",
        )
    return value


_MOST_AHEAD = 1000


def _premake(value: int) -> int:
    if value < 1:
        raise mistake(
            Code.PREMAKE,
            f"premake is {value}, at least 1 is needed",
            "without a partition beyond the current one, rows are refused when the interval ends",
        )
    if value > _MOST_AHEAD:
        raise mistake(
            Code.PREMAKE,
            f"premake is {value}, at most {_MOST_AHEAD} is supported",
            "every partition is a table with its indexes: a few intervals are enough",
        )
    return value


def _workspace(value: object) -> str:
    match value:
        case str():
            pass
        case None:
            raise mistake(
                Code.WORKSPACE_TYPE, "a workspace is left empty", "name it or remove the entry"
            )
        case Mapping() | list() | tuple():
            raise mistake(
                Code.WORKSPACE_TYPE,
                f"a workspace is {scalar(value)}, not a string",
                "write names only: [ws1, ws2]",
            )
        case _:
            raise mistake(
                Code.WORKSPACE_TYPE,
                f"workspace {scalar(value)} is not a string",
                f'quote it: "{scalar(value)}"',
            )
    if not value:
        raise mistake(
            Code.WORKSPACE_EMPTY, "a workspace is an empty string", "name it or remove the entry"
        )
    if "\0" in value:
        raise mistake(
            Code.WORKSPACE_EMPTY,
            f"workspace {value!r} holds a NUL character",
            "PostgreSQL cannot store it in a text column",
        )
    return value


_BUCKET_HINT = f"write a range like 0-{BUCKET_COUNT - 1}, a number, or a list of these"
_BUCKET_RANGE = re.compile(r"\s*([0-9]{1,9})\s*(?:-\s*([0-9]{1,9})\s*)?")


def _bucket_ranges(value: object) -> tuple[tuple[int, int], ...]:
    items = value if isinstance(value, list | tuple) else (value,)
    if not items:
        raise mistake(Code.BUCKETS_SYNTAX, "the list of buckets is empty", _BUCKET_HINT)
    return tuple(_bucket_range(item) for item in items)


def _bucket_range(item: object) -> tuple[int, int]:
    match item:
        case bool():
            low = high = -1
        case int():
            low = high = item
        case (int(low), int(high)):
            pass
        case str():
            found = _BUCKET_RANGE.fullmatch(item)
            low = int(found[1]) if found else -1
            high = int(found[2] or found[1]) if found else -1
        case _:
            low = high = -1
    if low < 0 and not isinstance(item, int):
        raise mistake(
            Code.BUCKETS_SYNTAX, f'"{scalar(item)}" is not a range of buckets', _BUCKET_HINT
        )
    shown = scalar(item) if not isinstance(item, tuple) else bucket_text((low, high))
    if isinstance(item, bool) or not (0 <= low < BUCKET_COUNT and 0 <= high < BUCKET_COUNT):
        raise mistake(
            Code.BUCKETS_SYNTAX,
            f'bucket range "{shown}" is outside 0-{BUCKET_COUNT - 1}',
            _BUCKET_HINT,
        )
    if low > high:
        raise mistake(
            Code.BUCKETS_SYNTAX, f'bucket range "{shown}" runs backwards', f"write {high}-{low}"
        )
    return low, high


def bucket_text(bounds: tuple[int, int]) -> str:
    """Return `0-99`, or `7` for a range of one."""
    return str(bounds[0]) if bounds[0] == bounds[1] else f"{bounds[0]}-{bounds[1]}"


def _dsn(value: str) -> str:
    # libpq's own message quotes parts of the string, so neither it nor the string is repeated
    if not value.strip():
        raise mistake(
            Code.BAD_DSN,
            "the connection string is empty",
            "is the environment variable set to an empty text?",
        )
    try:
        conninfo_to_dict(value)
    except Exception:
        raise mistake(
            Code.BAD_DSN,
            "libpq cannot read this connection string",
            'use "host=... dbname=... user=..." or "postgresql://user@host/dbname"; '
            "percent-encode special characters of a password in a URL",
        ) from None
    return value


_INTERVAL_SCHEMA = {
    "type": "string",
    "pattern": r"^\s*[0-9]{1,6}\s*[A-Za-z]+\s*$",
    "examples": ["1 month", "90 days", "30 s"],
}
_BUCKET_ITEM = {
    "anyOf": [
        {"type": "integer", "minimum": 0, "maximum": BUCKET_COUNT - 1},
        {"type": "string", "pattern": r"^\s*[0-9]+\s*(-\s*[0-9]+\s*)?$"},
    ]
}

_ROW_AUDIT_SCHEMA = {
    "anyOf": [
        {"type": "boolean"},
        {
            "type": "object",
            "additionalProperties": False,
            "properties": {"columns": {"type": "array", "items": {"type": "string"}}},
        },
    ]
}

Span = Annotated[
    Interval,
    PlainValidator(_interval),
    PlainSerializer(str, return_type=str),
    WithJsonSchema(_INTERVAL_SCHEMA),
]
Capacity = Annotated[
    Size,
    PlainValidator(_size),
    PlainSerializer(str, return_type=str),
    WithJsonSchema(
        {"type": "string", "pattern": rf"^{SIZE_PATTERN.pattern}$", "examples": ["500 GB"]}
    ),
]
Duration = Annotated[Span, AfterValidator(_positive), AfterValidator(_fixed)]
Name = Annotated[StrictStr, AfterValidator(_identifier)]
Namespace = Annotated[Name, AfterValidator(_namespace)]
TopologyName = Annotated[StrictStr, _name("topology", "[a-z][a-z0-9_-]{0,39}", 40, frozenset())]
ServerName = Annotated[StrictStr, _name("server", "[a-z][a-z0-9_]{0,30}", 31, frozenset())]
ShardName = Annotated[StrictStr, _name("shard", "[a-z][a-z0-9_]{0,30}", 31, _RESERVED_SHARDS)]
Workspace = Annotated[
    str, PlainValidator(_workspace), WithJsonSchema({"type": "string", "minLength": 1})
]
Buckets = Annotated[
    tuple[tuple[int, int], ...],
    PlainValidator(_bucket_ranges),
    PlainSerializer(lambda value: [bucket_text(item) for item in value], return_type=list[str]),
    WithJsonSchema(
        {"anyOf": [*_BUCKET_ITEM["anyOf"], {"type": "array", "items": _BUCKET_ITEM, "minItems": 1}]}
    ),
]
Dsn = Annotated[StrictStr, AfterValidator(_dsn)]


def _secret(default: Any = None) -> Any:
    # not in repr, not in a dump: a plan, a log or a map must not carry a password by accident
    return Field(default=default, repr=False, exclude=True)


# --- the sections of the file --------------------------------------------------------------------


class Section(BaseModel):
    """What all sections share: unknown keys are mistakes, values never change."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)


class SchemaSource(Section):
    """Where the tables to shard are declared: exactly one of the three."""

    preset: StrictStr | None = None
    files: tuple[StrictStr, ...] | None = None
    from_: StrictStr | None = Field(default=None, alias="from")


class Replica(Section):
    """A read-only copy of a server and how far it may lag to be used."""

    dsn: Dsn | None = _secret()
    dsn_file: StrictStr | None = None
    max_lag: Duration | None = None


class Server(Section):
    """One PostgreSQL database: by connection string, or a local one that the tool runs itself.

    `dsn`, `admin_dsn` and `peer_dsn` hold the text of their `_file` twin where that is given. They
    are None for an embedded server until it runs (`Topology.with_dsns`).
    """

    dsn: Dsn | None = _secret()
    dsn_file: StrictStr | None = None
    admin_dsn: Dsn | None = _secret()
    admin_dsn_file: StrictStr | None = None
    peer_dsn: Dsn | None = _secret()
    peer_dsn_file: StrictStr | None = None
    embedded: Path | None = None
    replicas: tuple[Replica, ...] = ()
    capacity: Capacity | None = None

    @property
    def admin(self) -> str | None:
        """How we reach it for everything but routed statements: past a pooler."""
        return self.admin_dsn or self.dsn

    @property
    def peer(self) -> str | None:
        """How other servers reach it: for postgres_fdw and subscriptions."""
        return self.peer_dsn or self.admin


class Shard(Section):
    """A named set of tables on one server, and who lives there."""

    server: StrictStr
    workspaces: tuple[Workspace, ...] = ()
    buckets: Buckets = ()
    capacity: Capacity | None = None


class Archive(Section):
    """Where expired partitions are written to: a directory, or an fsspec URL (`s3://…`)."""

    to: Annotated[StrictStr, AfterValidator(_place)]
    parquet: StrictBool = False

    @property
    def shown(self) -> str:
        """The target as messages and plans may have it."""
        return without_password(self.to)


def without_password(text: str) -> str:
    """URLs without a user and password. A name before the `@` alone says where: `abfs://box@…`."""
    return re.sub(r"(?<=://)[^/\s]*:[^/\s]*@", "", text)


def _archive(value: object) -> object:
    return {"to": value} if isinstance(value, str) else value


Archiving = Annotated[Archive, BeforeValidator(_archive, json_schema_input_type=str | Archive)]


class Partition(Section):
    """How a table is cut by time inside each shard; `epoch` is what a whole number counts."""

    by: Name
    epoch: Epoch | None = None
    every: Annotated[Span, AfterValidator(_positive), AfterValidator(_partition_width)]
    premake: Annotated[StrictInt, AfterValidator(_premake)] = 3
    retention: Annotated[Span, AfterValidator(_kept)] | None = None
    archive: Archiving | None = None
    grace: Annotated[Span, AfterValidator(_fixed)] = Interval(7, "day")
    default: StrictBool = False

    @property
    def whole_days(self) -> bool:
        """Whether it is cut at midnight only."""
        return not self.every.is_fixed or not self.every.timedelta.seconds

    @property
    def reaches_back(self) -> bool:
        """Whether rows older than the newest partition may come: all of the retention is made."""
        return True


class AuditPartition(Partition):
    """How recorded changes of rows are cut: they are of now, so the past gets no partitions."""

    by: Name = "at"
    every: Annotated[Span, AfterValidator(_positive)] = Interval(1, "month")

    @property
    def reaches_back(self) -> bool:
        return False


class RowAudit(Section):
    """Whose changes are recorded: of all rows, or only updates that change one of `columns`."""

    columns: tuple[Name, ...] = ()


def _row_audit(value: object) -> object:
    if isinstance(value, bool):
        return {} if value else None
    return value


class TableOptions(Section):
    """What differs from what is inferred; `path` is the foreign key that leads to the tenant."""

    kind: Literal["sharded", "reference", "host"] | None = None
    partition: Partition | None = None
    path: Name | None = None
    audit: Annotated[
        RowAudit | None, BeforeValidator(_row_audit), WithJsonSchema(_ROW_AUDIT_SCHEMA)
    ] = None


class IndexColumn(Section):
    """One entry of an index: `created_at desc nulls last`."""

    name: str
    descending: bool = False
    nulls: Literal["first", "last"] | None = None


_INDEX_COLUMN = re.compile(
    r'\s*(?:"((?:[^"]|"")+)"|([^\s",();]+))'
    r"(?:\s+(asc|desc))?(?:\s+nulls\s+(first|last))?\s*",
    re.IGNORECASE,
)


def index_column(text: str) -> IndexColumn:
    """Read `name [asc|desc] [nulls first|last]`; raise a mistake where it is something else."""
    found = _INDEX_COLUMN.fullmatch(text)
    if found is None:
        raise mistake(
            Code.INDEX_COLUMN,
            f'"{text}" is not an index column',
            "write: name [asc|desc] [nulls first|last]; expressions belong into the schema's DDL",
        )
    quoted, plain, order, nulls = found.groups()
    return IndexColumn(
        name=quoted.replace('""', '"') if quoted else plain,
        descending=(order or "").lower() == "desc",
        nulls=None if nulls is None else "first" if nulls.lower() == "first" else "last",
    )


def _index_column_text(value: str) -> str:
    index_column(value)
    return value


class IndexOptions(Section):
    """An index beside those that the schema declares; with `window`, of recent rows only."""

    on: Name
    columns: tuple[Annotated[StrictStr, AfterValidator(_index_column_text)], ...]
    where: StrictStr | None = None
    using: Annotated[StrictStr, _name("access method", "[a-z][a-z0-9_]{0,62}", 63, frozenset())] = (
        "btree"
    )
    unique: StrictBool = False
    include: tuple[Name, ...] = ()
    window: Annotated[Span, AfterValidator(_positive)] | None = None
    by: Name | None = None

    @property
    def index_columns(self) -> tuple[IndexColumn, ...]:
        """The columns with their order, read from the text."""
        return tuple(index_column(text) for text in self.columns)


class Rule(Section):
    """Where reads of some tables, or of some class of statement, may be answered."""

    tables: tuple[Name, ...] = ()
    statements: Literal["read", "point-read", "analytics"] = "read"
    read: Literal["primary", "replica", "cache"] = "primary"
    ttl: Duration | None = None
    max_lag: Duration | None = None


# A key that can be guessed is none: tokens are seen by whoever can run SQL.
SIGNING_KEY_BYTES = 32


class Isolation(Section):
    """The second wall: row-level security on the shards; signed means a token in the setting.

    `role` is the application's, `analytics` reads all workspaces. Tokens are signed with `key`;
    those of `previous_key` are accepted as well, while it is being replaced. Both hold the text of
    their `_file` twin where that is given.
    """

    rls: StrictBool = False
    signed: StrictBool = False
    role: Annotated[Name, AfterValidator(_role)] | None = None
    analytics: Annotated[Name, AfterValidator(_role)] | None = None
    key: StrictStr | None = _secret()
    key_file: StrictStr | None = None
    previous_key: StrictStr | None = _secret()
    previous_key_file: StrictStr | None = None


class Audit(Section):
    """How long recorded changes of rows stay (for ever by default), and where they go then."""

    retention: Annotated[Span, AfterValidator(_kept)] | None = None
    archive: Archiving | None = None


def _version(value: object) -> object:
    if type(value) is not int or value != 1:
        shown = f'"{value}"' if isinstance(value, str) else scalar(value)
        raise mistake(
            Code.VERSION,
            f"version {shown} of the topology file is not supported",
            "this release reads version 1; write: version: 1",
        )
    return 1


class Topology(Section):
    """One topology file. Make it with `load_topology`, which also checks what spans sections."""

    version: Annotated[Literal[1], BeforeValidator(_version)]
    name: TopologyName
    schema_source: SchemaSource = Field(alias="schema")
    key: Name = "workspace_id"
    namespace: Namespace = "public"
    servers: dict[ServerName, Server]
    coordinator: StrictStr
    shards: dict[ShardName, Shard]
    tables: dict[Name, TableOptions] = Field(default_factory=dict)
    indexes: dict[Name, IndexOptions] = Field(default_factory=dict)
    routing: tuple[Rule, ...] = ()
    isolation: Isolation = Isolation()
    audit: Audit = Audit()
    lookup: Literal["context", "trusted"] = "context"
    map_max_stale: Duration = Interval(10, "minute")

    _file: Path = PrivateAttr(default=Path("topology.yaml"))
    _sha256: str = PrivateAttr(default="")
    _schema_files: tuple[Path, ...] = PrivateAttr(default=())
    _lines: dict[tuple[str, ...], int] = PrivateAttr(default_factory=dict)

    @property
    def file(self) -> Path:
        """The topology file, as it was named."""
        return self._file

    @property
    def sha256(self) -> str:
        """SHA-256 of the file's bytes, in hex."""
        return self._sha256

    @property
    def directory(self) -> Path:
        """The directory that relative paths of the file start at, absolute."""
        return self._file.absolute().parent

    @property
    def schema_files(self) -> tuple[Path, ...]:
        """The DDL files, in order; empty when the schema is read from a live database."""
        return self._schema_files

    @property
    def uses_buckets(self) -> bool:
        """Whether every workspace is known, because buckets catch those that are not listed."""
        return any(shard.buckets for shard in self.shards.values())

    @property
    def epochs(self) -> dict[str, Epoch | None]:
        """What the control column of each shard table counts, where the table is cut by time."""
        return {
            suffixed(name, shard): options.partition.epoch
            for name, options in self.tables.items()
            if options.partition is not None
            for shard in self.shards
        }

    @property
    def cut(self) -> dict[str, Partition]:
        """The tables that are cut by time, that of recorded changes among them."""
        names = [*self.tables, AUDIT_TABLE]
        return {n: p for n in names if (p := self.partition_of(n)) is not None}

    def partition_of(self, logical: str) -> Partition | None:
        """Return how a table is cut by time: one of `tables`, or that of recorded changes."""
        if logical == AUDIT_TABLE:
            return AuditPartition(retention=self.audit.retention, archive=self.audit.archive)
        options = self.tables.get(logical)
        return options.partition if options else None

    def resolve(self, path: str | Path) -> Path:
        """Return a path of the file as an absolute one."""
        return (self.directory / Path(path).expanduser()).resolve()

    def line(self, path: str) -> int | None:
        """Return the line of a dotted path (`shards.shard_1.server`), or of what holds it."""
        return line_of(self._lines, tuple(path.split(".")))

    def states(self, path: str) -> bool:
        """Whether the file itself has this path: what a preset adds is not stated."""
        return tuple(path.split(".")) in self._lines

    def with_dsns(self, dsns: Mapping[str, str]) -> Topology:
        """Return a copy in which these servers have these connection strings (embedded ones)."""
        servers = {
            name: server.model_copy(update={"dsn": dsns[name]}) if name in dsns else server
            for name, server in self.servers.items()
        }
        return self.model_copy(update={"servers": servers})


def line_of(lines: Mapping[tuple[str, ...], int], path: tuple[str, ...]) -> int | None:
    """Return the line of a path, else of the nearest thing around it."""
    for end in range(len(path), -1, -1):
        if path[:end] in lines:
            return lines[path[:end]]
    return None
