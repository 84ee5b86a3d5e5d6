"""What there is to do on a server, and what that is found out from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import IntEnum

from parlant_shard import changes as c
from parlant_shard.catalog import Catalog, Facts
from parlant_shard.maintain.defaults import Contents
from parlant_shard.plan import Step


@dataclass(frozen=True, slots=True, kw_only=True)
class GivenUp:
    """Why a piece of work cannot even begin, and what to run then (None: `apply`)."""

    message: str
    code: str = "PS530"
    hint: str | None = None


class Noun(IntEnum):
    """The kinds of work, in their order. Premake stands before detach: a detach that waits for a
    long reader blocks the attaching of partitions, a missing partition refuses rows."""

    FINALISE = 1
    REPAIR = 2
    PREMAKE = 3
    MOVE = 4
    ROLL = 5
    VALIDATE = 6
    DETACH = 7
    ARCHIVE = 8
    ANALYZE = 9


# What fails for one partition must not stop the others.
ONE_BY_ONE = frozenset({Noun.PREMAKE, Noun.DETACH, Noun.ARCHIVE})
CHANGES_PARTITIONS = frozenset({Noun.FINALISE, Noun.PREMAKE, Noun.MOVE, Noun.DETACH})


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """One kind of work on one shard table. `given_up` says why it cannot even begin.

    `partition` is the one that it is about, where it is about one; `peer` the server that a foreign
    table is on. An urgent premake is one for rows of now or of the next interval: inserts fail
    without it.
    """

    server: str
    shard: str
    logical: str
    table: str
    noun: Noun
    steps: tuple[Step, ...]
    given_up: GivenUp | None = None
    urgent: bool = False
    archive: c.ArchivePartition | None = None
    moves: Moved | None = None
    partition: str | None = None
    peer: str | None = None

    @property
    def rank(self) -> tuple[int, bool]:
        """The place in the order of a run. A repair may take hours: what is urgent goes first."""
        return (Noun.REPAIR, False) if self.urgent else (self.noun, True)


@dataclass(frozen=True, slots=True, kw_only=True)
class Moved:
    """Rows of a default partition that a task moves."""

    server: str
    table: str
    default: str
    rows: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """What one server holds, read under the locks on its tables."""

    server: str
    facts: Facts
    catalog: Catalog
    tables: frozenset[str]  # those that are ours to work on: we hold their locks
    analyzed: Mapping[str, datetime | None] = field(default_factory=dict)  # partitioned tables
    analyzed_foreign: Mapping[str, datetime] = field(default_factory=dict)  # by the step's id
    defaults: Mapping[str, Contents] = field(default_factory=dict)  # default partition → its rows
    copies: Mapping[str, tuple[str, ...]] = field(default_factory=dict)  # table → a dead run's
