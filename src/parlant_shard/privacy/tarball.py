"""A tar file whose members are written as their bytes come, each compressed by itself.

A member's size stands before its bytes, and nobody knows it before they are compressed: the header
is written twice, the second time in its place. So memory stays small and nothing is spooled.
"""

from __future__ import annotations

import fcntl
import hashlib
import io
import os
import tarfile
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

import zstandard

from parlant_shard.errors import ShardError, TopologyError

_CHUNK = 1 << 20
# zstd's default: a higher level costs more time than it saves space on rows of text.
_LEVEL = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Extent:
    """What a member holds: the compressed bytes with their SHA-256, and the rows of its text."""

    bytes: int
    sha256: str
    rows: int


class Tarball:
    """A tar file that has its name only when it is complete; until then it is `<part>`.

    A part that a killed run left is overwritten. Raises TopologyError (PS744) where the file cannot
    be begun, ShardError (PS745) where another process is writing it.
    """

    def __init__(self, part: Path) -> None:
        self.part = part
        self.stream = self._open()

    def _open(self) -> BinaryIO:
        try:
            # Rows of a tenant: for their owner alone, and not through a link that somebody left.
            handle = os.open(self.part, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
        except OSError as error:
            raise TopologyError(
                f'"{self.part}" cannot be written: {(error.strerror or str(error)).lower()}',
                code="PS744",
                hint="name a file in a directory that exists and is writable: -o FILE",
            ) from error
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if not _is_at(handle, self.part):
                raise BlockingIOError  # it got its name between the two: it is complete
            os.fchmod(handle, 0o600)
            os.ftruncate(handle, 0)
        except BlockingIOError as error:
            os.close(handle)
            raise ShardError(
                f'another export is writing "{self.part}"',
                code="PS745",
                hint="wait for it, or name another file: -o FILE",
            ) from error
        return os.fdopen(handle, "w+b")

    def __enter__(self) -> Tarball:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, _: BaseException | None, __: TracebackType | None
    ) -> None:
        if kind is not None and not self.stream.closed:
            self.part.unlink(missing_ok=True)
        self.stream.close()

    def rows(self, name: str, pieces: Iterable[bytes | bytearray | memoryview]) -> Extent:
        """Add a member of COPY text, compressed. A newline ends a row and stands nowhere else."""
        compressor = zstandard.ZstdCompressor(level=_LEVEL, write_checksum=True).compressobj()
        digest, size, count = hashlib.sha256(), 0, 0
        start = self._begin(name)

        def put(data: bytes) -> None:
            nonlocal size
            digest.update(data)
            size += len(data)
            self.stream.write(data)

        buffer = bytearray()
        for piece in pieces:
            buffer += piece
            if len(buffer) >= _CHUNK:
                count += buffer.count(b"\n")
                put(compressor.compress(bytes(buffer)))
                buffer.clear()
        count += buffer.count(b"\n")
        put(compressor.compress(bytes(buffer)))
        put(compressor.flush())
        self._end(name, start, size)
        return Extent(bytes=size, sha256=digest.hexdigest(), rows=count)

    def text(self, name: str, content: str) -> None:
        """Add a member of plain text."""
        data = content.encode()
        start = self._begin(name)
        self.stream.write(data)
        self._end(name, start, len(data))

    def commit(self, file: Path) -> int:
        """Write the end and give the file its name, durably. Returns its size in bytes."""
        self.stream.write(bytes(2 * tarfile.BLOCKSIZE))
        self.stream.write(bytes(-self.stream.tell() % tarfile.RECORDSIZE))
        self.stream.flush()
        os.fsync(self.stream.fileno())
        size = self.stream.tell()
        os.rename(self.part, file)
        directory = os.open(file.parent, os.O_RDONLY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)
        self.stream.close()
        return size

    def _begin(self, name: str) -> int:
        start = self.stream.tell()
        self.stream.write(_header(name, 0))
        return start

    def _end(self, name: str, start: int, size: int) -> None:
        self.stream.write(bytes(-size % tarfile.BLOCKSIZE))
        self.stream.seek(start)
        self.stream.write(_header(name, size))
        self.stream.seek(0, io.SEEK_END)


def _is_at(handle: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(handle), os.lstat(path))
    except FileNotFoundError:
        return False


def _header(name: str, size: int) -> bytes:
    """The header blocks of a member: as many for every size, because GNU's form writes any size."""
    member = tarfile.TarInfo(name)
    member.size, member.mode, member.mtime = size, 0o600, int(time.time())
    return member.tobuf(format=tarfile.GNU_FORMAT)
