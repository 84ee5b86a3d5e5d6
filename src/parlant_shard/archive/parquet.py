"""The rows of an archive as a Parquet file, for analysts. The zstd file stays the truth."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any, BinaryIO

from parlant_shard.errors import ArchiveError

if TYPE_CHECKING:
    import pyarrow

    from parlant_shard.archive.manifest import ArchiveColumn

# A group is in memory as a whole, several times over.
ROWS_PER_GROUP = 50_000
BYTES_PER_GROUP = 1 << 24

_ESCAPE = re.compile(rb"\\(x[0-9a-fA-F]{1,2}|[0-7]{1,3}|.)", re.S)
_CHARACTERS = {b"b": b"\b", b"f": b"\f", b"n": b"\n", b"r": b"\r", b"t": b"\t", b"v": b"\v"}


def write(
    pieces: Iterable[bytes], columns: tuple[ArchiveColumn, ...], out: BinaryIO
) -> dict[str, int]:
    """Write rows of COPY text as Parquet.

    Returns how many values of each column became null because the Parquet type has no such value:
    infinite moments, those before the year 1 or beyond 9999, NaN of a numeric(p, s). Raises
    ArchiveError (PS547, and PS542 from `pieces`), OSError.
    """
    import pyarrow

    try:
        return _write(pieces, columns, out)
    except (pyarrow.ArrowException, ValueError) as error:
        raise ArchiveError(
            f"the rows cannot be written as Parquet: {error}",
            code="PS547",
            hint="the partition was kept; without `parquet: true` it becomes COPY text alone",
        ) from error


def _write(
    pieces: Iterable[bytes], columns: tuple[ArchiveColumn, ...], out: BinaryIO
) -> dict[str, int]:
    import pyarrow
    from pyarrow.parquet import ParquetWriter

    types = [_type(c.type) for c in columns]
    schema = pyarrow.schema(
        [pyarrow.field(c.name, t, nullable=True) for c, t in zip(columns, types, strict=True)]
    )
    lost: dict[str, int] = {}
    with ParquetWriter(out, schema, compression="zstd") as writer:
        for rows in _groups(pieces):
            arrays = []
            for number, (column, kind) in enumerate(zip(columns, types, strict=True)):
                values = [row[number] for row in rows]
                array, dropped = _array(values, kind)
                if dropped:
                    lost[column.name] = lost.get(column.name, 0) + dropped
                arrays.append(array)
            writer.write_table(pyarrow.Table.from_arrays(arrays, schema=schema))
    return lost


# --- COPY text ------------------------------------------------------------------------------------


def _groups(pieces: Iterable[bytes]) -> Iterator[list[list[bytes | None]]]:
    rows: list[list[bytes | None]] = []
    rest: list[bytes] = []  # of a row that may go on over many pieces
    size = 0
    for piece in pieces:
        size += len(piece)
        if b"\n" not in piece:
            rest.append(piece)
            continue
        *lines, last = b"".join((*rest, piece)).split(b"\n")
        rest = [last]
        rows += [[_value(field) for field in line.split(b"\t")] for line in lines]
        if len(rows) >= ROWS_PER_GROUP or size >= BYTES_PER_GROUP:
            yield rows
            rows, size = [], 0
    if rows:
        yield rows


def _value(field: bytes) -> bytes | None:
    if field == b"\\N":
        return None
    return _ESCAPE.sub(_unescaped, field) if b"\\" in field else field


def _unescaped(match: re.Match[bytes]) -> bytes:
    what = match[1]
    return _CHARACTERS.get(what, what)


# --- types ----------------------------------------------------------------------------------------

_TYPES: dict[str, Callable[[Any], Any]] = {
    "smallint": lambda pa: pa.int16(),
    "integer": lambda pa: pa.int32(),
    "bigint": lambda pa: pa.int64(),
    "real": lambda pa: pa.float32(),
    "double precision": lambda pa: pa.float64(),
    "boolean": lambda pa: pa.bool_(),
    "date": lambda pa: pa.date32(),
    "bytea": lambda pa: pa.binary(),
}


def _type(name: str) -> pyarrow.DataType:
    import pyarrow

    if name in _TYPES:
        return _TYPES[name](pyarrow)
    if re.fullmatch(r"timestamp(\(\d\))? without time zone", name):
        return pyarrow.timestamp("us")
    if re.fullmatch(r"timestamp(\(\d\))? with time zone", name):
        return pyarrow.timestamp("us", tz="UTC")
    if found := re.fullmatch(r"numeric\((\d+),(\d+)\)", name):
        precision, scale = int(found[1]), int(found[2])
        if precision <= 38 and scale <= precision:
            return pyarrow.decimal128(precision, scale)
    return pyarrow.string()


def _array(values: list[bytes | None], kind: pyarrow.DataType) -> tuple[pyarrow.Array, int]:
    """Convert one column; what does not fit becomes null and is counted."""
    import pyarrow

    if pyarrow.types.is_binary(kind):
        return pyarrow.array(
            [None if v is None else bytes.fromhex(v[2:].decode()) for v in values], kind
        ), 0
    texts = [None if v is None else v.decode() for v in values]
    if pyarrow.types.is_string(kind):
        return pyarrow.array(texts, kind), 0
    if pyarrow.types.is_boolean(kind):
        return pyarrow.array([None if t is None else t == "t" for t in texts], kind), 0
    if pyarrow.types.is_floating(kind):
        return pyarrow.array([None if t is None else float(t) for t in texts], kind), 0
    try:
        return pyarrow.array(texts, pyarrow.string()).cast(kind), 0
    except (pyarrow.ArrowInvalid, pyarrow.ArrowNotImplementedError):
        return _one_by_one(texts, kind)


def _one_by_one(texts: list[str | None], kind: pyarrow.DataType) -> tuple[pyarrow.Array, int]:
    import pyarrow

    found, dropped = [], 0
    for text in texts:
        try:
            scalar = pyarrow.scalar(text, pyarrow.string()).cast(kind)
        except (pyarrow.ArrowInvalid, pyarrow.ArrowNotImplementedError):
            scalar = pyarrow.scalar(None, kind)
            dropped += 1
        found.append(scalar.as_py())
    return pyarrow.array(found, kind), dropped
