"""The shard map: where every workspace is, and what the router must know of the tables.

One frozen value that `apply` stores on the coordinator and that a file can carry elsewhere. It
holds no address and no password: clients know their servers from the topology.
"""

from __future__ import annotations

import json
from bisect import bisect_right
from collections.abc import Collection, Iterable, Mapping
from dataclasses import asdict, dataclass
from decimal import Decimal, InvalidOperation
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from typing import Any, Literal
from uuid import UUID

from parlant_shard.errors import RoutingError
from parlant_shard.names import suffixed
from parlant_shard.topology.model import BUCKET_COUNT, Topology

BUCKETS = BUCKET_COUNT
FORMAT_VERSION = 2
UNKNOWN_FORMAT = "PS660"
"""The code of the error for a map of a format that this release does not know."""
_FIRST_FORMAT = 1  # 0.1.0: without `keyed`

TableKind = Literal["sharded", "reference", "host"]
Keyed = Literal["nullable", "required"]

ID_TYPES = ("uuid", "text", "character varying", "character", "bigint", "integer", "smallint")
"""Types of columns by whose values a row can be looked up, without a length."""


def bucket(workspace: str) -> int:
    """Return the bucket of a workspace: the first two bytes of the SHA-256 of its UTF-8, mod 4096.

    The same function exists in SQL; what it returns is part of the interface and never changes.
    """
    digest = sha256(workspace.encode()).digest()
    return (digest[0] * 256 + digest[1]) % BUCKETS


_INTEGERS = {"smallint": 15, "integer": 31, "bigint": 63}


def spelled(workspace: str, key_type: str) -> str | None:
    """A workspace as PostgreSQL writes values of the key's type; None for what is none of it.

    The map and the directory know each workspace by this text, and buckets are computed from it.
    """
    try:
        if key_type == "uuid":
            return str(UUID(workspace))
        if key_type in _INTEGERS:
            number, limit = int(workspace), 1 << _INTEGERS[key_type]
            return str(number) if -limit <= number < limit else None
    except ValueError:
        return None
    return workspace


def id_type(type_: str | None) -> str | None:
    """The type of an id's column, as ID_TYPES has it. None: rows are not looked up by it."""
    base = (type_ or "").partition("(")[0]
    return base if base in ID_TYPES else None


def id_value(value: Any, type_: str) -> str | int | None:
    """An id in the one spelling by which it is looked up. None: no row of that type can equal it.

    Wider than PostgreSQL's own input: the value that the statement itself carries is judged by the
    server. Raises ValueError or TypeError if only the server can say what the value equals.
    """
    if isinstance(value, str):
        value = str.__str__(value)  # an enum of texts shows its name otherwise
    if type_ == "uuid":
        return _uuid(value)
    if type_ in _INTEGERS:
        number = _integer(value)
        limit = 1 << _INTEGERS[type_]
        return number if number is not None and -limit <= number < limit else None
    if not isinstance(value, str | int | UUID) or isinstance(value, bool):
        raise TypeError("no text")
    text = str(value)
    if "\0" in text or not _is_encodable(text):
        return None
    # Blanks at the end of a char(n) do not count.
    return text.rstrip(" ") if type_ == "character" else text


def _uuid(value: Any) -> str | None:
    if isinstance(value, bytes | bytearray | memoryview | list | tuple | dict | set):
        raise TypeError("no uuid")
    try:
        return str(value if isinstance(value, UUID) else UUID(str(value)))
    except ValueError:
        return None


def _integer(value: Any) -> int | None:
    """The integer that a value is equal to. A fraction may have been cast, which rounds it."""
    if isinstance(value, int):
        return int(value)
    if isinstance(value, str):
        for base in (10, 0):
            try:
                return int(value, base)
            except ValueError:
                continue
    elif not isinstance(value, float | Decimal):
        raise TypeError("no number")
    try:
        number = Decimal(value)
    except InvalidOperation:
        return None
    if not number.is_finite() or number != number.to_integral_value():
        raise ValueError("a fraction")
    return int(number) if abs(number) < 1 << 64 else None


class Placer:
    """Finds the shard of a workspace; made once, asked often. Lists win over buckets."""

    __slots__ = ("_listed", "_refused", "_shards", "_starts")

    def __init__(
        self,
        listed: Mapping[str, str],
        ranges: Iterable[tuple[int, int, str]] = (),
        refused: Collection[str] = (),
    ) -> None:
        self._listed = listed
        self._refused = frozenset(refused)
        spans = sorted(ranges)
        self._starts = [low for low, _, _ in spans]
        self._shards = [(high, name) for _, high, name in spans]

    def __call__(self, workspace: str) -> str | None:
        """Return the shard's name, or None for a workspace that nobody placed or that is purged."""
        if workspace in self._refused:
            return None
        listed = self._listed.get(workspace)
        if listed is not None or not self._starts or not _is_storable(workspace):
            return listed
        return self.of_bucket(bucket(workspace))

    def of_bucket(self, number: int) -> str | None:
        """Return the shard that holds a bucket, None where buckets are not used."""
        at = bisect_right(self._starts, number) - 1
        if at < 0:
            return None
        high, name = self._shards[at]
        return name if number <= high else None


class ShardOf(Placer):
    """The placement that a topology file states."""

    __slots__ = ()

    def __init__(self, topology: Topology) -> None:
        super().__init__(
            {w: name for name, shard in topology.shards.items() for w in shard.workspaces},
            ((low, high, n) for n, s in topology.shards.items() for low, high in s.buckets),
        )


def shard_of(topology: Topology, workspace: str) -> str | None:
    """Return the shard of one workspace, or None: an unknown workspace is never a broadcast."""
    return ShardOf(topology)(workspace)


@dataclass(frozen=True, slots=True, kw_only=True)
class MapShard:
    """A shard: the server it is on, the workspaces listed on it, its bucket ranges (inclusive)."""

    server: str
    workspaces: tuple[str, ...] = ()
    buckets: tuple[tuple[int, int], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class MapColumn:
    """A column as the application knows it; `type` is PostgreSQL's text."""

    name: str
    type: str


@dataclass(frozen=True, slots=True, kw_only=True)
class MapLink:
    """A foreign key of one column between sharded tables: where an id leads."""

    column: str
    table: str
    ref_column: str


@dataclass(frozen=True, slots=True, kw_only=True)
class MapSearch:
    """A full-text index that answers behind row-level security: what it holds, and of which rows.

    `expression` and `predicate` are PostgreSQL's text; `column` is the primary key, by which the
    rows are found.
    """

    index: str
    column: str
    expression: str
    predicate: str | None = None


def search_name(index: str, shard: str) -> str:
    """The name of the function that searches with an index of a shard, in parlant_shard."""
    return suffixed(f"match_{index}", shard)


@dataclass(frozen=True, slots=True, kw_only=True)
class MapTable:
    """A table of the application.

    `columns` are the application's own, in its order; `key_added` says that the shards' tables
    have the distribution key besides. `constraints` names the application's unique constraints
    and primary key (for ON CONFLICT ON CONSTRAINT). `partitioned` tables are cut by time: their
    uniqueness holds per partition. `keyed` is set for a reference table that has the key: its rows
    belong to workspaces, and where the key may be NULL, to everybody (shared rows).
    """

    kind: TableKind
    columns: tuple[MapColumn, ...]
    key_added: bool = False
    primary_key: tuple[str, ...] = ()
    constraints: tuple[str, ...] = ()
    links: tuple[MapLink, ...] = ()
    partitioned: bool = False
    searches: tuple[MapSearch, ...] = ()
    keyed: Keyed | None = None

    def has(self, column: str) -> bool:
        return any(c.name == column for c in self.columns)

    def type_of(self, column: str) -> str | None:
        return next((c.type for c in self.columns if c.name == column), None)


@dataclass(frozen=True, kw_only=True)
class ShardMap:
    """Placement and catalogue, as routing needs them. Immutable; a change is a new map."""

    topology: str
    namespace: str
    key: str
    key_type: str
    coordinator: str
    shards: Mapping[str, MapShard]
    tables: Mapping[str, MapTable]
    types: tuple[str, ...] = ()  # enums of the schema
    functions: tuple[str, ...] = ()  # functions of the schema: never callable by default
    lookup: bool = True  # whether an id alone, without a context, may decide
    # By which types of columns rows are looked up; behind row-level security there are functions.
    lookup_types: tuple[str, ...] = ID_TYPES
    purged: tuple[str, ...] = ()  # workspaces that are being purged or were: on no shard
    epoch: int = 0  # grows with every stored map

    @cached_property
    def place(self) -> Placer:
        return Placer(
            {w: name for name, shard in self.shards.items() for w in shard.workspaces},
            ((low, high, n) for n, s in self.shards.items() for low, high in s.buckets),
            self.purged,
        )

    @cached_property
    def column_names(self) -> frozenset[str]:
        """The columns of every table of the application, and the key."""
        names = {c.name for table in self.tables.values() for c in table.columns}
        return frozenset(names | {self.key})

    @cached_property
    def catalogue(self) -> str:
        """A digest of everything but the placement: analyses of statements depend on no more."""
        data = self.to_data()
        for name in ("shards", "purged", "epoch"):
            del data[name]
        return sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()

    @property
    def servers(self) -> tuple[str, ...]:
        """Every server that has a shard, and the coordinator, sorted."""
        return tuple(sorted({self.coordinator, *(s.server for s in self.shards.values())}))

    def physical(self, table: str, shard: str) -> str:
        """The name of a sharded table's physical table on a shard."""
        return suffixed(table, shard)

    def to_data(self) -> dict[str, Any]:
        """Return JSON-ready data; `from_data` reads it back."""
        return {
            "format_version": FORMAT_VERSION,
            "topology": self.topology,
            "namespace": self.namespace,
            "key": self.key,
            "key_type": self.key_type,
            "coordinator": self.coordinator,
            "lookup": self.lookup,
            "lookup_types": list(self.lookup_types),
            "epoch": self.epoch,
            "purged": list(self.purged),
            "shards": {n: asdict(s) for n, s in sorted(self.shards.items())},
            "tables": {n: asdict(t) for n, t in sorted(self.tables.items())},
            "types": list(self.types),
            "functions": list(self.functions),
        }

    @classmethod
    def from_data(cls, data: Any, *, source: str = "the shard map") -> ShardMap:
        """Read what `to_data` wrote, or what release 0.1.0 wrote where that says enough.

        Raises RoutingError (PS660) for a format that this release does not know, and for one of
        0.1.0 with a reference table that has the key: it does not say whether rows are shared, and
        that is never guessed. Raises RoutingError (PS630) for what is no map at all.
        """
        try:
            version = data["format_version"]
            if type(version) is not int or version not in {_FIRST_FORMAT, FORMAT_VERSION}:
                raise _other_format(source, version)
            key = str(data["key"])
            tables = {n: _table(t, version) for n, t in data["tables"].items()}
            if version == _FIRST_FORMAT and any(
                t.kind == "reference" and t.has(key) for t in tables.values()
            ):
                raise _other_format(source, version)
            return cls(
                topology=str(data["topology"]),
                namespace=str(data["namespace"]),
                key=key,
                key_type=str(data["key_type"]),
                coordinator=str(data["coordinator"]),
                lookup=bool(data["lookup"]),
                # An older map: its release looked up uuids alone, and made functions for no others.
                lookup_types=tuple(map(str, data.get("lookup_types", ("uuid",)))),
                epoch=int(data["epoch"]),
                purged=tuple(map(str, data.get("purged", ()))),
                shards={n: _shard(s) for n, s in data["shards"].items()},
                tables=tables,
                types=tuple(data["types"]),
                functions=tuple(data["functions"]),
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise RoutingError(
                f"{source} is not a shard map: {type(error).__name__}: {error}",
                code="PS630",
                hint="write it with `parlant-shard export --format json`",
            ) from error

    @classmethod
    def load(cls, path: str | Path) -> ShardMap:
        """Read a map from a JSON file. Raises RoutingError (PS630)."""
        try:
            text = Path(path).read_text(encoding="utf-8")
            data = json.loads(text)
        except (OSError, ValueError) as error:
            raise RoutingError(
                f'the shard map "{path}" cannot be read: {error}',
                code="PS630",
                hint="write it with `parlant-shard export --format json`",
            ) from error
        return cls.from_data(data, source=f'"{path}"')

    def dump(self) -> str:
        """The JSON text, sorted and indented: the same map, the same bytes."""
        return json.dumps(self.to_data(), indent=2, sort_keys=True, ensure_ascii=False) + "\n"


def _shard(data: Any) -> MapShard:
    return MapShard(
        server=str(data["server"]),
        workspaces=tuple(map(str, data["workspaces"])),
        buckets=tuple((int(low), int(high)) for low, high in data["buckets"]),
    )


def _other_format(source: str, version: Any) -> RoutingError:
    older = version == _FIRST_FORMAT
    said = (
        f"{source} has format {version!r} of an older release, which does not say which reference "
        f"tables have shared rows; this release needs format {FORMAT_VERSION}"
        if older
        else f"{source} has format {version!r}; this release of parlant-shard reads format "
        f"{FORMAT_VERSION}"
    )
    return RoutingError(
        said,
        code=UNKNOWN_FORMAT,
        hint="run `parlant-shard apply TOPOLOGY` with this release, which stores the map anew; "
        "write a map file anew with `parlant-shard export TOPOLOGY --format json`"
        if older
        else "update parlant-shard here to the release that wrote the map",
    )


def _table(data: Any, version: int) -> MapTable:
    kind: TableKind = data["kind"]
    if kind not in {"sharded", "reference", "host"}:
        raise ValueError(f"no kind of table: {kind!r}")
    keyed: Keyed | None = data["keyed"] if version > _FIRST_FORMAT else None
    if keyed not in {None, "nullable", "required"}:
        raise ValueError(f"no state of the key: {keyed!r}")
    return MapTable(
        kind=kind,
        columns=tuple(MapColumn(**c) for c in data["columns"]),
        key_added=bool(data["key_added"]),
        primary_key=tuple(data["primary_key"]),
        constraints=tuple(data["constraints"]),
        links=tuple(MapLink(**link) for link in data["links"]),
        partitioned=bool(data["partitioned"]),
        searches=tuple(MapSearch(**s) for s in data.get("searches", ())),
        keyed=keyed,
    )


def _is_storable(workspace: str) -> bool:
    """Say whether PostgreSQL could hold it: not empty, no NUL, no half of a surrogate pair."""
    return bool(workspace) and "\0" not in workspace and _is_encodable(workspace)


def _is_encodable(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
