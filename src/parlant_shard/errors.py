"""One tree of errors: every failure that a user can meet has a code, a message and a hint."""

from __future__ import annotations

from enum import IntEnum


class Exit(IntEnum):
    """The exit codes of the command line (docs/errors.md)."""

    DONE = 0
    FAILED = 1
    FINDINGS = 3
    CONFIG = 4
    CANNOT_CONNECT = 5
    LOCKED = 6
    STALE = 7
    HAZARD = 8
    USAGE = 64


class ShardError(Exception):
    """The root. A subclass fixes the exit code; an instance carries its own code and hint.

    `message` is lower case, names things in quotes and says what was being done. `hint` says what
    to do next. `file`, `line` (from 1) and `path` (`shards.shard_1.server`) place it in a file.
    """

    exit_code = Exit.FAILED

    def __init__(
        self,
        message: str,
        *,
        code: str,
        hint: str | None = None,
        file: str | None = None,
        line: int | None = None,
        path: str | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.code = code
        self.hint = hint
        self.file = file
        self.line = line
        self.path = path

    def __str__(self) -> str:
        line = "" if self.line is None else f":{self.line}"
        place = "" if self.file is None else f"{self.file}{line}: "
        where = "" if self.path is None else f" (at {self.path})"
        return f"{place}{self.message}{where}"


class TopologyError(ShardError):
    """The topology file, or what it points at, is wrong. Codes PS1xx."""

    exit_code = Exit.CONFIG


class UsageError(ShardError):
    """A value on the command line is not one that its option takes; nothing was done."""

    exit_code = Exit.USAGE


class SchemaError(ShardError):
    """The tables to shard cannot be read or cannot be sharded as declared. Codes PS2xx."""

    exit_code = Exit.CONFIG


class ServerError(ShardError):
    """A server refused a statement or lacks what the topology needs. Codes PS4xx."""


class PrivilegeError(ServerError):
    """The role may not do what the topology asks; the hint holds the statement to run."""

    exit_code = Exit.CONFIG


class CannotConnect(ServerError):
    """A server did not answer, or refused the log-in."""

    exit_code = Exit.CANNOT_CONNECT


class Locked(ShardError):
    """Another live run holds the lock of this topology. Code PS501."""

    exit_code = Exit.LOCKED


class StalePlan(ShardError):
    """The servers or the topology changed since the plan was made. Code PS502."""

    exit_code = Exit.STALE


class HazardNotAllowed(ShardError):
    """The plan destroys something and nobody allowed it. Code PS503."""

    exit_code = Exit.HAZARD


class ApplyFailed(ShardError):
    """A step failed after work began; what was done stays and the same command resumes. PS51x."""


class ArchiveError(ShardError):
    """An archive could not be made, read or restored; the rows are where they were. PS54x, 55x."""


class RoutingError(ShardError):
    """A statement was not sent, or its fate is not known: routing, the map, the client. PS6xx."""
