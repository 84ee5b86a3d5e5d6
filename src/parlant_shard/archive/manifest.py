"""The manifest of an archive: what the file holds, and all that is needed to restore it. Pure."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import replace
from datetime import datetime
from typing import Any, Literal
from urllib.parse import quote

from psycopg.sql import SQL
from pydantic import BaseModel, ConfigDict, Field, NaiveDatetime, ValidationError

from parlant_shard import canonical
from parlant_shard.catalog import EnumType, Table
from parlant_shard.ddl import Ddl, render
from parlant_shard.errors import ArchiveError

FORMAT_VERSION = 1

# What the text of the values depends on: whoever computes the checksum elsewhere sets the same.
SETTINGS = {
    "client_encoding": "UTF8",
    "TimeZone": "UTC",
    "DateStyle": "ISO, YMD",
    "IntervalStyle": "postgres",
    "extra_float_digits": "1",
    "bytea_output": "hex",
    "lc_monetary": "C",
}
ALGORITHM = "sum(hashtextextended(ROW(columns)::text, 0)::numeric)"


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


class ArchiveColumn(_Section):
    """A column of the file, in its order. `labels` are those of an enum, in theirs."""

    name: str
    type: str
    not_null: bool
    labels: tuple[str, ...] | None = None


class Checksum(_Section):
    """It knows no order of rows. `value` is a decimal number."""

    algorithm: str = ALGORITHM
    value: str


class File(_Section):
    """A file beside the manifest. `bytes` and `sha256` are of the file as it lies there."""

    name: str = Field(pattern=r"^[^/\\]+$")  # it lies beside the manifest
    bytes: int
    sha256: str
    format: str
    compression: str
    uncompressed_bytes: int | None = None


class Parquet(_Section):
    """The same rows for analysts; `unrepresentable` values per column became null there."""

    name: str
    bytes: int
    sha256: str
    unrepresentable: dict[str, int] = Field(default_factory=dict)


class Manifest(_Section):
    """One archived partition. Moments are UTC; bounds are null where there is none."""

    format_version: Literal[1] = 1
    topology: str
    server: str
    shard: str
    table: str
    partition: str
    parent: str
    namespace: str
    lower: NaiveDatetime | None = Field(alias="from")
    upper: NaiveDatetime | None = Field(alias="to")
    control: str | None
    rows: int = Field(ge=0)
    checksum: Checksum
    columns: tuple[ArchiveColumn, ...] = Field(min_length=1)
    types: tuple[str, ...] = ()
    ddl: tuple[str, ...]
    settings: dict[str, str] = Field(default_factory=dict)
    file: File
    parquet: Parquet | None = None
    server_version: str
    server_encoding: str = "UTF8"
    tool_version: str
    created_at: NaiveDatetime

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(c.name for c in self.columns)

    def text(self) -> str:
        """The file: JSON with a digest of its own contents, so that a changed byte shows."""
        data = self.model_dump(mode="json", by_alias=True)
        for key in ("from", "to", "created_at"):
            if data[key] is not None:
                data[key] += "Z"
        data["manifest_sha256"] = _digest(data)
        return json.dumps(data, indent=2, ensure_ascii=False) + "\n"


def parse(content: bytes, *, where: str) -> Manifest:
    """Read a manifest. Raises ArchiveError (PS543) where it is damaged, or of a newer release."""
    try:
        data = json.loads(content.decode())
        if not isinstance(data, dict):
            raise TypeError("it is no object")
        version = data.get("format_version")
        if isinstance(version, int) and version > FORMAT_VERSION:
            raise ValueError(f"it has format {version}, this release reads {FORMAT_VERSION}")
        said = data.pop("manifest_sha256", None)
        if said != _digest(data):
            raise ValueError("its contents do not match its own SHA-256")
        for key in ("from", "to", "created_at"):
            if data[key] is not None:
                data[key] = data[key].removesuffix("Z")
        return Manifest.model_validate(data)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        reason = "a field is missing or wrong" if isinstance(error, ValidationError) else error
        if isinstance(error, json.JSONDecodeError | UnicodeDecodeError | RecursionError):
            reason = "it is no JSON text"
        raise ArchiveError(
            f'manifest "{where}" cannot be used: {reason}',
            code="PS543",
            hint="restore the file from a backup of the archive; the rows are in the .copy.zst "
            "beside it",
        ) from error


def _digest(data: dict[str, Any]) -> str:
    text = json.dumps(data, sort_keys=True, ensure_ascii=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def content_id(
    partition: str,
    bounds: tuple[datetime | None, datetime | None],
    columns: Iterable[ArchiveColumn],
    rows: int,
    checksum: str,
) -> str:
    """12 hex digits that are the same for the same rows of the same partition, and only then."""
    data = {
        "partition": partition,
        "bounds": [b and b.isoformat() for b in bounds],
        "columns": [[c.name, c.type] for c in columns],
        "rows": rows,
        "checksum": checksum,
    }
    return _digest(data)[:12]


def stem(topology: str, shard: str, partition: str, content: str) -> str:
    """The path of an archive's files in its target, up to their suffix."""
    return f"{quote(topology, safe='')}/{quote(shard, safe='')}/{file_stem(partition)}.{content}"


def file_stem(partition: str) -> str:
    """A partition's name as it stands in file names: a slash in it must not make a directory."""
    return quote(partition, safe="")


def columns_of(table: Table, namespace: str, enums: Iterable[EnumType]) -> list[ArchiveColumn]:
    """The columns that the file has."""
    labels = {}
    for enum in enums:
        name = f"{canonical.quote(namespace)}.{canonical.quote(enum.name)}"
        labels[name] = labels[f"{name}[]"] = enum.labels
    return [
        ArchiveColumn(name=c.name, type=c.type, not_null=c.not_null, labels=labels.get(c.type))
        for c in table.columns
        if not c.generated
    ]


def standalone(table: Table, namespace: str, enums: Iterable[EnumType]) -> tuple[list[str], ...]:
    """The types (where they are missing) and the statements that make the table by itself.

    Defaults, identities, grants and foreign keys stay out: they need what may be gone by then, and
    rows that are loaded do not need them.
    """
    ddl = Ddl(namespace)
    used = {c.type.removesuffix("[]") for c in table.columns}
    types = [
        render(ddl.create_enum(e))
        for e in enums
        if f"{canonical.quote(namespace)}.{canonical.quote(e.name)}" in used
    ]
    items = [
        ddl.column(c if c.generated else replace(c, default=None, identity=""))
        for c in table.columns
    ]
    items += [ddl.constraint(k.name, k.definition) for k in table.keys]
    items += [ddl.constraint(c.name, c.definition) for c in table.checks]
    create = SQL("CREATE TABLE {} (\n  {}\n)").format(
        ddl.name(table.name), SQL(",\n  ").join(items)
    )
    statements = [render(create)]
    statements += [render(ddl.create_index(table.name, i)) for i in table.indexes if i.valid]
    return types, statements
