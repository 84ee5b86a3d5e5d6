"""Where archives lie: a directory, or an fsspec URL. A file is there entirely or not at all."""

from __future__ import annotations

import os
import re
import secrets
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import IO, Any, BinaryIO, cast
from urllib.parse import unquote, urlsplit

from parlant_shard.archive.manifest import file_stem
from parlant_shard.errors import ArchiveError
from parlant_shard.topology import Archive, Topology, without_password

_OURS = r"[0-9a-f]{12}\.(copy\.zst|parquet|json)"


class Pending(ABC):
    """A file that is being written; `commit` puts it in its place, `abort` leaves nothing."""

    def __init__(self, stream: BinaryIO) -> None:
        self.stream = stream

    @abstractmethod
    def commit(self) -> None: ...

    @abstractmethod
    def abort(self) -> None: ...


class Target(ABC):
    """Files by their path relative to the target. All methods raise OSError."""

    text: str  # for messages and the database: no password

    @abstractmethod
    def begin(self, path: str) -> Pending: ...

    @abstractmethod
    def open(self, path: str) -> BinaryIO: ...

    @abstractmethod
    def size(self, path: str) -> int | None:
        """Return the size in bytes; None where there is no such file."""

    @abstractmethod
    def remove(self, path: str) -> None:
        """Remove a file; it need not be there."""

    @abstractmethod
    def clear(self, folder: str, partition: str) -> None:
        """Remove what a killed run left of this partition: files that never got their name."""

    @abstractmethod
    def manifests(self, folder: str) -> list[str]:
        """The paths of all manifests below a folder, sorted."""

    @abstractmethod
    def recorded(self, path: str) -> str:
        """A path as `parlant_shard.retired` has it: relative, or a URL."""

    @abstractmethod
    def relative(self, recorded: str) -> str | None:
        """The path of what was recorded, or of a whole path or URL; None where it is elsewhere."""

    def is_gone(self) -> bool:
        """Whether the place itself is not there: never for a URL, which comes with its files."""
        return False

    def whole(self, path: str) -> str:
        """The path that another program can open."""
        return f"{self.text.rstrip('/')}/{path}"

    def write(self, path: str, content: bytes) -> None:
        with self.writing(path) as stream:
            stream.write(content)

    def read(self, path: str) -> bytes:
        with self.open(path) as stream:
            return stream.read()

    @contextmanager
    def writing(self, path: str) -> Iterator[BinaryIO]:
        pending = self.begin(path)
        try:
            yield pending.stream
            pending.commit()
        except BaseException:
            pending.abort()
            raise


def open_target(topology: Topology, archive: Archive) -> Target:
    """Open the target of a table. Raises ArchiveError (PS540) where an extra is missing."""
    if archive.parquet and find_spec("pyarrow") is None:
        raise _missing("pyarrow", "parquet", "archives as Parquet files too")
    return _opened(archive.to, str(topology.directory))


@cache
def _opened(to: str, directory: str) -> Target:
    if "://" in to and not to.startswith("file://"):
        return _remote(to)
    path = unquote(urlsplit(to).path) if to.startswith("file://") else to
    try:
        # fsspec's own local files are neither synchronised to the disk nor closed to others.
        return Directory(Path(directory, Path(path).expanduser()))
    except RuntimeError as error:  # a home directory that nobody has
        raise ArchiveError(
            f'the archive target "{to}" cannot be used: {error}',
            code="PS540",
            hint="write the whole path of a directory",
        ) from error


def _remote(url: str) -> Target:
    if find_spec("fsspec") is None:
        raise _missing("fsspec", "remote", f'the archive target "{without_password(url)}"')
    import fsspec

    try:
        fs, root = fsspec.core.url_to_fs(url)
    except Exception as error:  # an unknown protocol, or a package of it that is not installed
        raise ArchiveError(
            f'the archive target "{without_password(url)}" cannot be used: '
            f"{without_password(str(error))}",
            code="PS540",
            hint="install the package that the protocol needs beside parlant-shard",
        ) from error
    return Remote(without_password(url), fs, root)


def _missing(package: str, extra: str, what: str) -> ArchiveError:
    return ArchiveError(
        f'package "{package}" is not installed, which {what} needs',
        code="PS540",
        hint=f"pip install 'parlant-shard[{extra}]'",
    )


# --- a directory ----------------------------------------------------------------------------------


class Directory(Target):
    """Files are written under another name, synchronised, renamed; only the owner can read them."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.text = str(root)

    def is_gone(self) -> bool:
        return not self.root.is_dir()

    def begin(self, path: str) -> Pending:
        final = self.root / path
        _make(final.parent)
        return _Renamed(final)

    def open(self, path: str) -> BinaryIO:
        return (self.root / path).open("rb")

    def size(self, path: str) -> int | None:
        try:
            return (self.root / path).stat().st_size
        except (FileNotFoundError, NotADirectoryError):
            return None

    def remove(self, path: str) -> None:
        file = self.root / path
        file.unlink(missing_ok=True)
        if file.parent.is_dir():
            _sync(file.parent)

    def clear(self, folder: str, partition: str) -> None:
        ours = re.compile(rf"\.{re.escape(file_stem(partition))}\.{_OURS}\.[0-9a-f]{{8}}\.tmp")
        directory = self.root / folder
        if directory.is_dir():
            for file in directory.iterdir():
                if ours.fullmatch(file.name):
                    file.unlink(missing_ok=True)

    def manifests(self, folder: str) -> list[str]:
        directory = self.root / folder
        if not directory.is_dir():
            return []
        return sorted(
            str(file.relative_to(self.root))
            for file in directory.glob("*/*.json")
            if not file.name.startswith(".") and file.is_file()
        )

    def recorded(self, path: str) -> str:
        return path

    def relative(self, recorded: str) -> str | None:
        if "://" in recorded:
            return None
        path = Path(recorded)
        if not path.is_absolute():
            return recorded
        # One place has several names where there are links, or `..` in what the topology says.
        for root, whole in ((self.root, path), (self.root.resolve(), path.resolve())):
            if whole.is_relative_to(root):
                return str(whole.relative_to(root))
        return None


class _Renamed(Pending):
    def __init__(self, final: Path) -> None:
        self.final = final
        self.temporary = final.with_name(f".{final.name}.{secrets.token_hex(4)}.tmp")
        handle = os.open(self.temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        super().__init__(os.fdopen(handle, "wb"))

    def commit(self) -> None:
        self.stream.flush()
        os.fsync(self.stream.fileno())
        self.stream.close()
        self.temporary.replace(self.final)
        _sync(self.final.parent)

    def abort(self) -> None:
        with suppress(OSError):
            self.stream.close()
        with suppress(OSError):
            self.temporary.unlink(missing_ok=True)


def _make(directory: Path) -> None:
    """Make a directory and what is missing above it; nobody else may look into them."""
    if directory.is_dir():
        return
    _make(directory.parent)
    with suppress(FileExistsError):
        directory.mkdir(0o700)
        _sync(directory.parent)


def _sync(directory: Path) -> None:
    """A new name is on the disk only when its directory is."""
    handle = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


# --- fsspec ---------------------------------------------------------------------------------------


class Remote(Target):
    """Files are spooled on the local disk and uploaded at once.

    A part of a file that an interrupted upload left counts for nothing: the manifest is missing,
    and the next run writes over it.
    """

    def __init__(self, url: str, fs: Any, root: str) -> None:
        self.text, self.fs, self.root = url.rstrip("/"), fs, root.rstrip("/")

    def _path(self, path: str) -> str:
        return f"{self.root}/{path}"

    def begin(self, path: str) -> Pending:
        return _Uploaded(self, path)

    def open(self, path: str) -> BinaryIO:
        with _as_os_error():
            return cast("BinaryIO", _Guarded(self.fs.open(self._path(path), "rb")))

    def size(self, path: str) -> int | None:
        with _as_os_error():
            self.fs.invalidate_cache()
            try:
                return int(self.fs.info(self._path(path))["size"])
            except FileNotFoundError:
                return None

    def remove(self, path: str) -> None:
        with _as_os_error():
            if self.fs.exists(self._path(path)):
                self.fs.rm_file(self._path(path))

    def clear(self, folder: str, partition: str) -> None:
        """Nothing of a killed run has another name there, and the spool falls with the process."""

    def manifests(self, folder: str) -> list[str]:
        with _as_os_error():
            self.fs.invalidate_cache()
            root = self._path("")
            if not self.fs.exists(self._path(folder)):
                return []
            found = [str(f) for f in self.fs.find(self._path(folder))]
        return sorted(f[len(root) :] for f in found if f.startswith(root) and f.endswith(".json"))

    def recorded(self, path: str) -> str:
        return f"{self.text}/{path}"

    def relative(self, recorded: str) -> str | None:
        prefix = f"{self.text}/"
        if recorded.startswith(prefix):
            return recorded[len(prefix) :]
        return None if "://" in recorded else recorded


class _Uploaded(Pending):
    def __init__(self, remote: Remote, path: str) -> None:
        self.remote, self.path = remote, path
        # Without a name: it falls with the process.
        super().__init__(cast("BinaryIO", tempfile.TemporaryFile()))  # noqa: SIM115

    def commit(self) -> None:
        self.stream.flush()
        self.stream.seek(0)
        fs, path = self.remote.fs, self.remote._path(self.path)
        with _as_os_error():
            fs.makedirs(path.rpartition("/")[0], exist_ok=True)
            try:
                with fs.open(path, "wb") as there:
                    while chunk := self.stream.read(1 << 22):
                        there.write(chunk)
            except BaseException:
                # Closing a file completes it in most stores, however little was written.
                with suppress(Exception):
                    fs.rm_file(path)
                raise
        self.stream.close()

    def abort(self) -> None:
        with suppress(OSError):
            self.stream.close()


class _Guarded:
    """A remote file whose errors are OSErrors."""

    def __init__(self, stream: IO[bytes]) -> None:
        self.stream = stream

    def read(self, size: int = -1) -> bytes:
        with _as_os_error():
            return self.stream.read(size)

    def __enter__(self) -> _Guarded:
        return self

    def __exit__(self, *_: object) -> None:
        with suppress(Exception):  # it was read; what closing it says changes nothing
            self.stream.close()


@contextmanager
def _as_os_error() -> Iterator[None]:
    """Every protocol has errors of its own."""
    try:
        yield
    except OSError:
        raise
    except Exception as error:
        raise OSError(f"{type(error).__name__}: {error}") from error


def trouble(target: Target, doing: str, error: OSError) -> ArchiveError:
    """What an OSError means for an archive."""
    said = (error.strerror or str(error) or type(error).__name__).strip()
    said = without_password(said[:1].lower() + said[1:])
    return ArchiveError(
        f'{doing}: the archive target "{target.text}" refused: {said}',
        code="PS541",
        hint="look at its free space, its permissions and whether it can be reached; nothing was "
        "dropped, the next run tries again",
    )
