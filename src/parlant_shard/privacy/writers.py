"""Transactions that were open when a workspace was closed: a survey does not see their rows yet.

No router lets them in any more, but what they wrote before comes with their commit, and no foreign
key need stand against it. So the survey that settles a purge waits for them.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from parlant_shard import db
from parlant_shard.blockers import Blocker, blockers
from parlant_shard.privacy.holdings import Holding, Where
from parlant_shard.sqlfiles import queries

Transactions = frozenset[str]
"""Virtual transaction ids of one server, as pg_locks has them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Writer:
    """A transaction that may have written into a holding, and the table."""

    blocker: Blocker
    table: str


def transactions(connection: db.Connection) -> Transactions:
    """Every transaction that is open on the server, ours excepted."""
    return frozenset(r["transaction"] for r in connection.execute(queries("privacy")["open"]))


def writers(
    connection: db.Connection, server: str, holdings: Iterable[Holding], known: Transactions
) -> tuple[Writer, ...]:
    """Which of the known transactions are still open and have a writer's lock on a holding."""
    mine = [h for h in holdings if h.server == server and h.where is not Where.COPY]
    if not mine:
        return ()
    about = {
        "namespace": mine[0].namespace,
        "tables": sorted({name for h in mine for name in (h.table.name, h.parent.name)}),
        "known": sorted(known),
    }
    rows = connection.execute(queries("privacy")["writers"], about).fetchall()
    found = blockers(connection, rows)
    return tuple(Writer(blocker=b, table=r["table"]) for b, r in zip(found, rows, strict=True))
