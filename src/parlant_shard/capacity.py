"""How much of its limits of replication a server has left: slots, senders, workers, origins.

A subscription without them waits for ever and says so in the server's log only.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from parlant_shard import db
from parlant_shard.sqlfiles import queries

# The settings that are looked at. The third is of 18 and later.
LIMITS = (
    "max_replication_slots",
    "max_wal_senders",
    "max_active_replication_origins",
    "max_logical_replication_workers",
    "max_worker_processes",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Capacity:
    """What replication takes of a server's limits. `running` names subscriptions with a worker."""

    limits: Mapping[str, int]
    slots: int = 0
    senders: int = 0
    origins: int = 0
    workers: int = 0
    processes: int = 0
    running: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True, kw_only=True)
class Shortage:
    """A limit that is too low, and the value that would do."""

    setting: str
    detail: str
    needed: int

    @property
    def statement(self) -> str:
        return f"ALTER SYSTEM SET {self.setting} = {self.needed}, then restart"


def capacity(row: Mapping[str, Any], limits: Mapping[str, int]) -> Capacity:
    """Make the value from a row of the query `load`; a limit that is not given is not judged."""
    counted = {n: int(row.get(n) or 0) for n in ("slots", "senders", "origins", "workers")}
    return Capacity(
        limits=limits,
        processes=int(row.get("processes") or 0),
        running=frozenset(row.get("running") or ()),
        **counted,
    )


def read(connection: db.Connection, settings: Mapping[str, str]) -> Capacity:
    """Ask a server; `settings` are those of its `Facts`."""
    row = connection.execute(queries("capacity")["load"]).fetchone()
    limits = {name: int(settings[name]) for name in LIMITS if name in settings}
    return capacity(row or {}, limits)


def publisher_lacks(has: Capacity, *, slots: int, senders: int) -> Iterator[Shortage]:
    """What a publisher has too little of for so many new slots, and subscribers that are to come.

    The first copy of a table takes a slot and a sender of its own for as long as it runs.
    """
    yield from _short(
        has,
        "max_replication_slots",
        has.slots,
        slots + 1,
        f"{_plural(slots, 'replication slot')} to be made and one more while a table is copied",
        "replication slots",
    )
    yield from _short(
        has,
        "max_wal_senders",
        has.senders,
        senders + 1,
        f"{_plural(senders, 'subscriber')} to be served and one more while a table is copied",
        "WAL senders",
    )


def subscriber_lacks(has: Capacity, *, starting: int, major: int) -> Iterator[Shortage]:
    """What a subscriber has too little of for so many subscriptions that are yet to get a worker.

    While they copy their tables there is one more worker.
    """
    what = f"{_plural(starting, 'subscription')} to be started and one more while it copies"
    workers = "logical replication workers"
    yield from _short(
        has, "max_logical_replication_workers", has.workers, starting + 1, what, workers
    )
    processes = "worker processes"
    yield from _short(has, "max_worker_processes", has.processes, starting + 1, what, processes)
    # The limit of origins is a setting of its own since 18.
    setting = "max_active_replication_origins" if major >= 18 else "max_replication_slots"
    yield from _short(has, setting, has.origins, starting + 1, what, "replication origins")


def _short(
    has: Capacity, setting: str, taken: int, needed: int, what: str, noun: str
) -> Iterator[Shortage]:
    limit = has.limits.get(setting)
    if limit is not None and taken + needed > limit:
        yield Shortage(
            setting=setting,
            detail=f"{taken} of {limit} {noun} are taken, with {what}",
            needed=taken + needed,
        )


def _plural(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"
