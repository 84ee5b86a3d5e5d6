"""Comparing keys and rows of several servers in bounded memory.

Each table is read once, in batches, as digests of 8 bytes: of keys a hash of PostgreSQL's own
where all servers have the same, else SHA-256, cut. The servers sort them into parts by their first
byte, a part goes to a temporary file of its own, and then part by part the digests of all tables
are compared. So a billion keys cost 8 GB of disk and, with 256 parts, some 400 MB of memory. Equal
digests are only candidates: the keys behind them are read and compared.
"""

from __future__ import annotations

import struct
import tempfile
import threading
from array import array
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from itertools import pairwise

from psycopg.sql import SQL, Composable, Composed, Identifier, Literal

# Keys in a part, and bytes of it that stay in memory.
_PART = 250_000
_SPOOL = 1 << 20
_MOST_PARTS = 256

_HEAD = struct.Struct("=IQ")
_PAIR = struct.Struct("=QQ")


class Digests:
    """Digests of several sources, by part. Safe for threads; `close` removes the files."""

    def __init__(self, rows: int) -> None:
        self.parts = max(1, min(_MOST_PARTS, rows // _PART + 1))
        self._stack = ExitStack()
        self._locks = [threading.Lock() for _ in range(self.parts)]
        self._files = [
            self._stack.enter_context(tempfile.SpooledTemporaryFile(max_size=_SPOOL))  # noqa: SIM115 - closed by the stack
            for _ in range(self.parts)
        ]

    def __enter__(self) -> Digests:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def add(self, part: int, source: int, digests: bytes) -> None:
        with self._locks[part]:
            self._files[part].write(_HEAD.pack(source, len(digests)))
            self._files[part].write(digests)

    def _sources(self, part: int) -> dict[int, bytearray]:
        found: dict[int, bytearray] = {}
        stream = self._files[part]
        stream.seek(0)
        while head := stream.read(_HEAD.size):
            source, length = _HEAD.unpack(head)
            found.setdefault(source, bytearray()).extend(stream.read(length))
        return found

    def repeated(self) -> Iterator[bytes]:
        """Digests that are there more than once, in one source or in several."""
        for part in range(self.parts):
            numbers = array("Q")
            for data in self._sources(part).values():
                numbers.frombytes(data)
            if len(set(numbers)) == len(numbers):
                continue
            twice = {one for one, other in pairwise(sorted(numbers)) if one == other}
            for number in sorted(twice):
                yield array("Q", [number]).tobytes()

    def differing(self, one: int, other: int) -> tuple[set[bytes], set[bytes]]:
        """Digests of (key, row) that only one of two sources has, 16 bytes each."""
        missing: set[bytes] = set()
        extra: set[bytes] = set()
        for part in range(self.parts):
            found = self._sources(part)
            first = set(_PAIR.iter_unpack(found.get(one, b"")))
            second = set(_PAIR.iter_unpack(found.get(other, b"")))
            missing.update(_PAIR.pack(*pair) for pair in first - second)
            extra.update(_PAIR.pack(*pair) for pair in second - first)
        return missing, extra


def digest(columns: Iterable[str]) -> Composable:
    """The digest of some columns of `r`: nobody can make two that are equal."""
    return SQL(
        "pg_catalog.substring(pg_catalog.sha256(pg_catalog.convert_to({}, 'UTF8')), 1, 8)"
    ).format(_text(columns))


def quick_digest(columns: Iterable[str]) -> Composable:
    """A digest that costs a fraction, where equal ones are only candidates.

    Servers of other byte orders and encodings have others (`comparable`).
    """
    return SQL(
        'pg_catalog.int8send(pg_catalog.hashtextextended({} COLLATE pg_catalog."C", 0))'
    ).format(_text(columns))


# The same on servers whose quick digests can be compared.
comparable = SQL(
    "SELECT pg_catalog.hashtextextended('parlant' COLLATE pg_catalog.\"C\", 0) AS digest, "
    "pg_catalog.current_setting('server_encoding') AS encoding"
)


def _text(columns: Iterable[str]) -> Composable:
    names = [SQL("r.{}").format(Identifier(c)) for c in columns]
    if len(names) == 1:
        return SQL("coalesce({}::pg_catalog.text, '')").format(names[0])
    return SQL("ROW({})::pg_catalog.text").format(SQL(", ").join(names))


def gather(
    table: Identifier,
    parts: int,
    key: Composable,
    where: list[Composable],
    row: Composable | None = None,
) -> Composed:
    """One batch of a table: the digests of its keys (and rows), put together by part."""
    return SQL(
        "SELECT pg_catalog.get_byte(d.k, 0) * {parts} / 256 AS part, "
        "pg_catalog.string_agg({value}, ''::pg_catalog.bytea) AS digests "
        "FROM (SELECT {key} AS k, {row} AS v FROM {table} AS r WHERE {where}) AS d GROUP BY 1"
    ).format(
        parts=Literal(parts),
        value=SQL("d.k") if row is None else SQL("d.k || d.v"),
        key=key,
        row=SQL("NULL::pg_catalog.bytea") if row is None else row,
        table=table,
        where=SQL(" AND ").join(where),
    )


def one_of(key: Composable, digests: Iterable[bytes]) -> Composable:
    """The condition that leaves the rows with these digests of their key."""
    values = SQL(", ").join(
        SQL("{}::pg_catalog.bytea").format(Literal("\\x" + d.hex())) for d in digests
    )
    return SQL("{} IN ({})").format(key, values)
