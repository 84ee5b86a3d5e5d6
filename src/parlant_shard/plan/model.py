"""What a plan is: steps as plain data, each with its lock, hazards and timeouts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum, StrEnum
from typing import Any

from parlant_shard.desired import Held

FORMAT_VERSION = 1


class Hazard(StrEnum):
    """What an operator must know before a step runs. Only the first two need `--allow`."""

    DELETES_DATA = "deletes-data"
    DROPS_OBJECT = "drops-object"
    WEAKER_UNIQUENESS = "weaker-uniqueness"
    BLOCKS_WRITES = "blocks-writes"
    BLOCKS_READS = "blocks-reads"
    TABLE_REWRITE = "table-rewrite"
    FULL_SCAN = "full-scan"
    INDEX_BUILD = "index-build"
    VIEW_UNAVAILABLE = "view-unavailable"
    MAY_FAIL_ON_DATA = "may-fail-on-data"


NEEDS_ALLOW = frozenset({Hazard.DELETES_DATA, Hazard.DROPS_OBJECT})


class Lock(StrEnum):
    """PostgreSQL's names of the table lock modes that our steps take."""

    ACCESS_SHARE = "ACCESS SHARE"
    ROW_SHARE = "ROW SHARE"
    ROW_EXCLUSIVE = "ROW EXCLUSIVE"
    SHARE_UPDATE_EXCLUSIVE = "SHARE UPDATE EXCLUSIVE"
    SHARE = "SHARE"
    SHARE_ROW_EXCLUSIVE = "SHARE ROW EXCLUSIVE"
    ACCESS_EXCLUSIVE = "ACCESS EXCLUSIVE"


class Kind(StrEnum):
    """How a step is run: what its timeouts are and whether it is simply tried again."""

    METADATA = "metadata"  # a brief strong lock: short lock timeout, retried with back-off
    VALIDATE = "validate"  # a scan under a weak lock: long statement timeout, retried
    CONCURRENT = "concurrent"  # CONCURRENTLY: no lock timeout, never retried blindly, probed
    BATCHES = "batches"  # repeated until it says that it changed no row, each round by itself
    WAIT = "wait"  # asked again until it says true
    ARCHIVE = "archive"  # rows go between a table and a file, in several transactions


# (lock_timeout, statement_timeout) in milliseconds. A metadata step queues in front of everybody
# who comes after it: one second is the longest that readers and writers may wait behind it. A
# CONCURRENTLY statement blocks nobody while it waits, and a lock timeout would leave an INVALID
# index behind; its bound is six hours, and the executor watches it.
TIMEOUTS = {
    Kind.METADATA: (1_000, 10_000),
    Kind.VALIDATE: (1_000, 6 * 3_600_000),
    Kind.CONCURRENT: (0, 6 * 3_600_000),
    Kind.BATCHES: (1_000, 60_000),
    Kind.WAIT: (1_000, 30_000),
    Kind.ARCHIVE: (1_000, 6 * 3_600_000),
}


class Phase(IntEnum):
    """The order of everything. Gaps leave room; the reasons stand beside."""

    INTERNAL_COORDINATOR = 10  # the run is recorded there
    INTERNAL = 11
    FINALIZE = 15  # PostgreSQL 18 cannot finalise a detach once the parent was altered
    DROP_VIEWS = 18  # views that would block a change; created again below
    ROLES = 19  # what follows may grant to them
    TYPES_COORDINATOR = 20  # a foreign table must know an enum value before it reads one
    TYPES = 21
    FUNCTIONS = 22
    FOREIGN_SERVERS = 26
    REFERENCE_COPIES = 30  # a subscriber needs a column before the publisher sends it
    REFERENCE = 31
    REFERENCE_KEYS = 32  # foreign keys, when all tables are there
    PUBLICATION = 33
    SLOTS = 34
    SUBSCRIPTIONS = 35
    SEALS = 36  # the ways first, then the triggers that use them
    SEALED = 37
    AWAIT_SEALS = 38
    NARROW = 40  # a workspace is given up before another shard admits it
    SHARDS = 45
    FOREIGN_KEYS = 46
    FOREIGN = 50
    WIDEN = 55  # after the foreign tables: their CHECKs would hide rows that are already there
    VIEWS = 60
    DROP_FOREIGN = 70
    DROP_SHARDS = 75
    UNSEAL = 77  # no foreign key needs it any more
    DROP_REPLICATION = 80
    DROP_SLOTS = 81
    DROP_PUBLICATION = 82  # it depends on the columns and tables that go below
    DROP_REST = 85
    PLACEMENT = 90
    DIRECTORY = 95  # last: routers follow it


@dataclass(frozen=True, slots=True, kw_only=True)
class Probe:
    """How to see whether a step that no transaction protects is done, absent or half done.

    `query` returns one text: 'done', 'absent' or 'half'; `clear` removes what is half done.
    """

    query: str
    clear: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One unit of work on one server: done entirely, or not at all, or repaired by its probe."""

    id: str
    phase: int
    server: str
    shard: str | None
    title: str
    sql: tuple[str, ...]
    transactional: bool
    lock: str | None
    hazards: tuple[str, ...]
    lock_timeout_ms: int
    statement_timeout_ms: int
    kind: Kind
    probe: Probe | None = None
    secret: str | None = None  # the server whose password replaces its mark in the SQL
    undo: tuple[str, ...] = ()  # what takes back the steps before it, where it fails for good

    def to_json(self) -> dict[str, Any]:
        found: dict[str, Any] = {
            "id": self.id,
            "server": self.server,
            "shard": self.shard,
            "title": self.title,
            "sql": list(self.sql),
            "transactional": self.transactional,
            "lock": self.lock,
            "hazards": list(self.hazards),
            "lock_timeout_ms": self.lock_timeout_ms,
            "statement_timeout_ms": self.statement_timeout_ms,
            "phase": self.phase,
            "kind": self.kind.value,
        }
        if self.probe is not None:
            found["probe"] = {"query": self.probe.query, "clear": list(self.probe.clear)}
        if self.secret is not None:
            found["secret"] = self.secret
        if self.undo:
            found["undo"] = list(self.undo)
        return found

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> Step:
        probe = data.get("probe")
        return Step(
            id=data["id"],
            phase=data["phase"],
            server=data["server"],
            shard=data["shard"],
            title=data["title"],
            sql=tuple(data["sql"]),
            transactional=data["transactional"],
            lock=data["lock"],
            hazards=tuple(data["hazards"]),
            lock_timeout_ms=data["lock_timeout_ms"],
            statement_timeout_ms=data["statement_timeout_ms"],
            kind=Kind(data["kind"]),
            probe=None
            if probe is None
            else Probe(query=probe["query"], clear=tuple(probe["clear"])),
            secret=data.get("secret"),
            undo=tuple(data.get("undo", ())),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class BrokenCopy:
    """Reference tables of a server that missed changes, or may have: no step repairs them.

    `state` is missing, lost, foreign, ahead or differs; `code` and `hint` are those of an error.
    """

    server: str
    subscription: str
    slot: str
    state: str
    code: str
    message: str
    hint: str

    def to_json(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in self.__slots__}


# Keys of orphans that are named.
SOME = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Orphans:
    """Rows whose reference row is not there. `keys` are some of those that lack, as texts.

    `rows` is None if they could not be counted; `query` finds them.
    """

    server: str
    table: str
    foreign_key: str
    references: str
    rows: int | None
    keys: tuple[str, ...]
    query: str

    def to_json(self) -> dict[str, Any]:
        return {**{name: getattr(self, name) for name in self.__slots__}, "keys": list(self.keys)}

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> Orphans:
        return Orphans(**{**data, "keys": tuple(data["keys"])})

    def __str__(self) -> str:
        where = f'table "{self.table}" on server "{self.server}", foreign key "{self.foreign_key}"'
        if self.rows is None:
            return f"{where}: it was not seen in time whether all of its rows have their parents"
        some = ", ".join(self.keys)
        count = f"{self.rows} row refers" if self.rows == 1 else f"{self.rows} rows refer"
        return (
            f'{where}: {count} to rows of "{self.references}" that are not there, with the keys '
            f"{some}{', …' if len(self.keys) == SOME else ''}. Insert them on the coordinator, or "
            f"change or delete what refers to them: {self.query}"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What `apply` executes. `fingerprint` is of the live catalogues that it was made for."""

    topology: str
    file: str
    sha256: str
    schema_sha256: str  # of the schema as PostgreSQL read it, wherever it came from
    fingerprint: str
    steps: tuple[Step, ...]
    notices: tuple[str, ...] = ()
    broken_copies: tuple[BrokenCopy, ...] = ()
    foreign_keys: tuple[Held, ...] = ()  # to reference tables: how they hold
    orphans: tuple[Orphans, ...] = ()  # rows that a foreign key of this plan will not admit

    def to_json(self) -> dict[str, Any]:
        return {
            "format_version": FORMAT_VERSION,
            "topology": {"name": self.topology, "file": self.file, "sha256": self.sha256},
            "schema_sha256": self.schema_sha256,
            "fingerprint": self.fingerprint,
            "steps": [s.to_json() for s in self.steps],
            "notices": list(self.notices),
            "broken_copies": [b.to_json() for b in self.broken_copies],
            "foreign_keys": [h.to_json() for h in self.foreign_keys],
            "orphans": [o.to_json() for o in self.orphans],
        }

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> Plan:
        return Plan(
            topology=data["topology"]["name"],
            file=data["topology"]["file"],
            sha256=data["topology"]["sha256"],
            schema_sha256=data["schema_sha256"],
            fingerprint=data["fingerprint"],
            steps=tuple(Step.from_json(s) for s in data["steps"]),
            notices=tuple(data["notices"]),
            broken_copies=tuple(BrokenCopy(**b) for b in data.get("broken_copies", ())),
            foreign_keys=tuple(Held.from_json(h) for h in data.get("foreign_keys", ())),
            orphans=tuple(Orphans.from_json(o) for o in data.get("orphans", ())),
        )

    @property
    def hazards(self) -> tuple[str, ...]:
        return tuple(sorted({h for s in self.steps for h in s.hazards}))


def secret_mark(server: str) -> str:
    """What stands in a plan for a password. The executor puts the real one in, quoted."""
    return f"<password of server {server}>"
