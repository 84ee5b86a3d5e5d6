"""COPY text through zstd, in pieces: memory stays small however large the partition is."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import BinaryIO, cast

import zstandard

from parlant_shard.archive.manifest import Manifest
from parlant_shard.errors import ArchiveError

CHUNK = 1 << 20
# zstd's default: a higher level costs more time than it saves space on rows of text.
LEVEL = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Extent:
    """What went through: the compressed bytes with their SHA-256, the text's bytes and rows."""

    bytes: int
    sha256: str
    uncompressed: int
    rows: int


def write(rows: Iterable[bytes | bytearray | memoryview], out: BinaryIO) -> Extent:
    """Compress rows of COPY text into a file. A newline ends a row and stands nowhere else."""
    # A thread of its own: while it compresses, the next rows are fetched.
    compressor = zstandard.ZstdCompressor(level=LEVEL, write_checksum=True, threads=1).compressobj()
    digest, size, uncompressed, count = hashlib.sha256(), 0, 0, 0

    def put(data: bytes) -> None:
        nonlocal size
        digest.update(data)
        size += len(data)
        out.write(data)

    buffer = bytearray()
    for row in rows:
        buffer += row
        if len(buffer) >= CHUNK:
            uncompressed += len(buffer)
            count += buffer.count(b"\n")
            put(compressor.compress(bytes(buffer)))
            buffer.clear()
    uncompressed += len(buffer)
    count += buffer.count(b"\n")
    put(compressor.compress(bytes(buffer)))
    put(compressor.flush())
    return Extent(bytes=size, sha256=digest.hexdigest(), uncompressed=uncompressed, rows=count)


def read(stream: BinaryIO, manifest: Manifest) -> Iterator[bytes]:
    """Yield the text of a file in pieces; at its end it must be what the manifest says.

    Raises ArchiveError (PS542) where it is not, OSError where it cannot be read.
    """
    source = _Hashed(stream)
    uncompressed, rows = 0, 0
    try:
        decompressor = zstandard.ZstdDecompressor()
        with decompressor.stream_reader(cast("BinaryIO", source), closefd=False) as text:
            while piece := text.read(CHUNK):
                uncompressed += len(piece)
                rows += piece.count(b"\n")
                yield piece
    except zstandard.ZstdError as error:
        raise _corrupt(manifest, "zstd cannot read it") from error
    while source.read(CHUNK):
        pass  # whatever stands behind the end is part of the SHA-256
    if source.size != manifest.file.bytes:
        what = f"it has {source.size} bytes instead of {manifest.file.bytes}"
        raise _corrupt(manifest, what)
    if source.digest.hexdigest() != manifest.file.sha256:
        raise _corrupt(manifest, "its SHA-256 is another")
    if uncompressed != manifest.file.uncompressed_bytes or rows != manifest.rows:
        raise _corrupt(manifest, f"it has {rows} rows instead of {manifest.rows}")


class _Hashed:
    """A file whose bytes are counted and hashed as they are read."""

    def __init__(self, stream: BinaryIO) -> None:
        self.stream, self.digest, self.size = stream, hashlib.sha256(), 0

    def read(self, size: int = -1) -> bytes:
        data = self.stream.read(size)
        self.digest.update(data)
        self.size += len(data)
        return data


def check(stream: BinaryIO, manifest: Manifest) -> None:
    """Read a file to its end. Raises ArchiveError (PS542), OSError."""
    for _ in read(stream, manifest):
        pass


def _corrupt(manifest: Manifest, what: str) -> ArchiveError:
    return ArchiveError(
        f'archive "{manifest.file.name}" of partition "{manifest.partition}" is corrupt: {what}',
        code="PS542",
        hint="restore the file from a backup of the archive",
    )
