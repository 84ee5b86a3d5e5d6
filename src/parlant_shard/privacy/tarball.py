"""A tar file whose members are written as their bytes come, each compressed by itself.

A member's size stands before its bytes, and nobody knows it before they are compressed: the header
is written twice, the second time in its place. So memory stays small and nothing is spooled.
"""

from __future__ import annotations

import fcntl
import io
import os
import tarfile
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

from parlant_shard.archive.stream import Extent, write
from parlant_shard.errors import ShardError, TopologyError


class Tarball:
    """A tar file that has its name only when it is complete; until then it is `<part>`.

    A part that a killed run left is overwritten. Raises TopologyError (PS744) where the file cannot
    be begun or written on, ShardError (PS745) where another process is writing it.
    """

    def __init__(self, part: Path) -> None:
        self.part = part
        self.stream = self._open()

    def _open(self) -> BinaryIO:
        try:
            # Rows of a tenant: for their owner alone, and not through a link that somebody left.
            handle = os.open(self.part, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
        except OSError as error:
            hint = "name a file in a directory that exists and is writable: -o FILE"
            raise self._cannot(error, hint) from error
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
        self, _: type[BaseException] | None, error: BaseException | None, __: TracebackType | None
    ) -> None:
        if error is None:
            self.stream.close()
            return
        if not self.stream.closed:
            self.part.unlink(missing_ok=True)
        with suppress(OSError):  # what did not fit does not fit now either
            self.stream.close()
        if isinstance(error, OSError):
            hint = "free space, or name a file on another disk: -o FILE; then run it again"
            raise self._cannot(error, hint) from error

    def _cannot(self, error: OSError, hint: str) -> TopologyError:
        reason = (error.strerror or str(error)).lower()
        return TopologyError(f'"{self.part}" cannot be written: {reason}', code="PS744", hint=hint)

    def rows(self, name: str, pieces: Iterable[bytes | bytearray | memoryview]) -> Extent:
        """Add a member of COPY text, compressed."""
        start = self._begin(name)
        extent = write(pieces, self.stream)
        self._end(name, start, extent.bytes)
        return extent

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
