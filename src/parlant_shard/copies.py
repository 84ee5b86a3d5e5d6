"""Copies of reference tables: which of them missed changes, and whether their rows are equal.

A replication slot holds back what a copy has not got yet. Without the slot the changes of the gap
never come, and a new slot under the old subscription would hide that for ever. So the *signs* are
looked at on every plan: the slot is gone, cannot be read any more, is of somebody else, or the
coordinator's WAL ends before what the copy has already replayed. A slot that was made anew by hand
shows no certain sign, only a suspicion; what proves it is the *comparison* of rows.

Rows are compared as a count and the sum of their hashes, which does not depend on an order: on the
coordinator, then on the copy once it confirmed a message that was written after that, and on the
coordinator again. Equal to either is equal. Unequal while the coordinator stayed the same, twice
in a row, is a difference; whatever changes all the while is not compared.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import psycopg
from psycopg.sql import SQL, Identifier, Literal

from parlant_shard import canonical, db
from parlant_shard.allrows import every_row
from parlant_shard.catalog import Publication, Slot, Subscription
from parlant_shard.desired import publication_name
from parlant_shard.errors import ShardError
from parlant_shard.plan import BrokenCopy
from parlant_shard.sqlfiles import queries
from parlant_shard.topology import Topology

PAGE = "docs/reference-tables.md"
# A slot that decoded fewer transactions than this may be a new one under an old subscription. The
# limit is not 1: every transaction that writes in the database counts, those of a plan too, so the
# sign would be gone with the first plan. Beyond it `status` and `verify` tell.
_FEW = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What a comparison may cost: rows of a table, looks, and seconds of a wait or a statement."""

    rows: int = 1_000_000
    looks: int = 4
    wait: float = 5.0
    statement: float = 20.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Compared:
    """One reference table and its copy. `equal` is None where it was not compared; then `why`."""

    table: str
    rows: int | None = None  # on the coordinator
    copy_rows: int | None = None
    equal: bool | None = None
    why: str | None = None


# --- signs ----------------------------------------------------------------------------------------


def broken(
    topology: Topology,
    slots: Mapping[str, Slot],
    wal_end: int | None,
    subscriptions: Mapping[str, Subscription],
) -> dict[str, BrokenCopy]:
    """The copies that missed changes by a certain sign, by server.

    `slots` and `wal_end` are of the coordinator, `subscriptions` are by server. Asks the
    coordinator once more where a copy seems to be ahead of it: the servers were not read at one
    moment.
    """
    found = {}
    for server, subscription in sorted(subscriptions.items()):
        sign = _sign(topology, server, subscription, slots.get(subscription.name))
        if sign is None and _is_ahead(topology, subscription, wal_end):
            sign = _copy(
                topology,
                server,
                subscription,
                "ahead",
                "the copy has replayed changes beyond the end of the coordinator's WAL: the "
                "coordinator failed over, or was restored, without its last commits. The copy has "
                "rows that the coordinator lacks, and does not get new ones",
            )
        if sign is not None:
            found[server] = sign
    return found


def is_suspect(subscription: Subscription, slot: Slot) -> bool:
    """Whether the slot may have been made anew by hand: it is new, and the copy has replayed.

    No proof: so is that of a new copy, and a crash of the coordinator resets its statistics.
    """
    few = slot.transactions is not None and slot.transactions < _FEW
    return few and subscription.replayed is not None


def differing(
    topology: Topology, server: str, subscription: Subscription, compared: tuple[Compared, ...]
) -> BrokenCopy | None:
    """The copy whose rows were found to differ."""
    tables = [c for c in compared if c.equal is False]
    if not tables:
        return None
    words = ", ".join(
        f'"{c.table}" ({c.rows} rows on the coordinator, {c.copy_rows} in the copy)'
        if c.rows != c.copy_rows
        else f'"{c.table}" ({c.rows} rows, other contents)'
        for c in tables
    )
    return _copy(
        topology,
        server,
        subscription,
        "differs",
        f"its rows differ from the coordinator's: {words}",
        code="PS262",
    )


def _sign(
    topology: Topology, server: str, subscription: Subscription, slot: Slot | None
) -> BrokenCopy | None:
    name = subscription.name
    risk = "Later changes never reach the copy"
    expected = publication_name(topology)
    if subscription.publication != expected:
        what = f'reads the publication "{subscription.publication}", not "{expected}"'
        return _copy(topology, server, subscription, "foreign", f"the subscription {what}. {risk}")
    if subscription.slot != name:
        what = f'reads from slot "{subscription.slot}"' if subscription.slot else "has no slot"
        return _copy(topology, server, subscription, "foreign", f"the subscription {what}. {risk}")
    if slot is None:
        return _copy(
            topology,
            server,
            subscription,
            "missing",
            "the slot is gone from the coordinator: it was dropped, or the coordinator failed over "
            f"to a server without it. {risk}",
        )
    if not slot.here or not slot.logical or slot.plugin != "pgoutput" or slot.temporary:
        kind = "logical" if slot.logical else "physical"
        where = f' of database "{slot.database}"' if slot.database else ""
        return _copy(
            topology,
            server,
            subscription,
            "foreign",
            f"the slot of that name is not the copy's own: it is {kind}{where}"
            f"{f', plugin {slot.plugin}' if slot.plugin else ''}. {risk}",
        )
    if slot.invalid is not None or slot.wal_status == "lost":
        return _copy(
            topology,
            server,
            subscription,
            "lost",
            f"the slot is lost ({slot.invalid}): the server invalidated it. {risk}",
        )
    return None


def _is_ahead(topology: Topology, subscription: Subscription, wal_end: int | None) -> bool:
    position = subscription.position
    if position is None or wal_end is None or position <= wal_end:
        return False
    with db.session(topology, topology.coordinator) as connection:
        row = connection.execute(queries("introspect")["wal_end"]).fetchone()
    return row is not None and row["position"] is not None and position > row["position"]


def _copy(
    topology: Topology,
    server: str,
    subscription: Subscription,
    state: str,
    what: str,
    *,
    code: str | None = None,
) -> BrokenCopy:
    name, home = canonical.quote(subscription.name), topology.coordinator
    return BrokenCopy(
        server=server,
        subscription=subscription.name,
        slot=subscription.name,
        state=state,
        code=code or ("PS261" if state == "ahead" else "PS260"),
        message=f'server "{server}": its copies of the reference tables must be repaired '
        f'(subscription and slot "{subscription.name}"): {what}',
        hint=f'on server "{server}": ALTER SUBSCRIPTION {name} DISABLE; ALTER SUBSCRIPTION {name} '
        f"SET (slot_name = NONE); DROP SUBSCRIPTION {name}; empty the copies as {PAGE} says; on "
        f'server "{home}", if the slot is there: SELECT pg_drop_replication_slot('
        f"{canonical.literal(subscription.name)}); then run `parlant-shard apply {topology.file}`: "
        "it makes the slot and copies all rows",
    )


# --- rows -----------------------------------------------------------------------------------------


def compare(
    topology: Topology,
    server: str,
    subscription: Subscription,
    publication: Publication,
    limits: Limits | None = None,
) -> tuple[Compared, ...]:
    """Compare the rows of a server's copies with the coordinator's, in the replicated columns.

    Writes a message into the coordinator's WAL, and nothing else. Raises ShardError where a server
    does not answer; what else keeps a table from being compared is its `why`.
    """
    limits = limits or Limits()
    tables = {t: c for t, c in publication.tables if t in subscription.tables}
    with (
        db.session(topology, topology.coordinator, doing="comparing copies") as home,
        db.session(topology, server, doing="comparing copies") as copy,
    ):
        for connection in (home, copy):
            _prepare(connection, topology.namespace, tables, limits)
        found = dict(_looks(home, copy, topology.namespace, subscription.slot, tables, limits))
    return tuple(found[t] for t in sorted(found))


def _prepare(
    connection: db.Connection, namespace: str, tables: Mapping[str, Any], limits: Limits
) -> None:
    # The text of `money` depends on it; what else a text depends on every session of ours has set.
    connection.execute(
        "SELECT pg_catalog.set_config('lc_monetary', 'C', false), "
        "pg_catalog.set_config('statement_timeout', %s, false)",
        [str(int(limits.statement * 1000))],
    )
    connection.execute(every_row(namespace, tables, local=False))


def _looks(
    home: db.Connection,
    copy: db.Connection,
    namespace: str,
    slot: str,
    tables: Mapping[str, tuple[str, ...]],
    limits: Limits,
) -> Iterator[tuple[str, Compared]]:
    """Look at all tables at once, and again at those that were unequal."""
    left, unequal = dict(tables), set[str]()
    for look in range(limits.looks):
        before = {t: _digest(home, namespace, t, c, limits) for t, c in left.items()}
        if not confirmed(home, slot, limits.wait):
            for table in left:
                late = f"the copy did not confirm a position within {limits.wait:.0f} s"
                yield table, Compared(table=table, why=late)
            return
        for table, columns in tuple(left.items()):
            there = _digest(copy, namespace, table, columns, limits)
            after = _digest(home, namespace, table, columns, limits)
            why = next((d for d in (before[table], there, after) if isinstance(d, str)), None)
            if why is not None or there in {before[table], after}:
                left.pop(table)
                yield table, _compared(table, after, there, equal=None if why else True, why=why)
            elif before[table] != after:
                unequal.discard(table)
                if look + 1 == limits.looks:
                    why = f"its rows changed during each of {limits.looks} looks"
                    yield table, _compared(table, after, there, equal=None, why=why)
            elif table in unequal:
                left.pop(table)
                yield table, _compared(table, after, there, equal=False)
            else:
                unequal.add(table)
                if look + 1 == limits.looks:
                    why = f"its rows were unequal at the last of {limits.looks} looks"
                    yield table, _compared(table, after, there, equal=None, why=why)
        if not left:
            return


_Digest = tuple[int, str]


def _compared(
    table: str,
    home: _Digest | str,
    copy: _Digest | str,
    *,
    equal: bool | None,
    why: str | None = None,
) -> Compared:
    return Compared(
        table=table,
        rows=None if isinstance(home, str) else home[0],
        copy_rows=None if isinstance(copy, str) else copy[0],
        equal=equal,
        why=why,
    )


def _digest(
    connection: db.Connection, namespace: str, table: str, columns: tuple[str, ...], limits: Limits
) -> _Digest | str:
    """The count of rows and the sum of their hashes; a text says why there is none."""
    name = Identifier(namespace, table)
    try:
        row = connection.execute(
            SQL("SELECT count(*) > {n} AS many FROM (SELECT FROM {t} LIMIT {n} + 1) AS r").format(
                n=Literal(limits.rows), t=name
            )
        ).fetchone()
        if row is None or row["many"]:
            return f"it has more than {limits.rows} rows"
        row = connection.execute(
            SQL(
                "SELECT count(*) AS rows, coalesce(sum(('x' || pg_catalog.encode("
                "pg_catalog.substring(pg_catalog.sha256(pg_catalog.convert_to("
                "ROW({})::pg_catalog.text, 'UTF8')), 1, 8), 'hex'))::bit(64)::bigint), 0)::text "
                "AS digest FROM {} AS r"
            ).format(SQL(", ").join(Identifier("r", c) for c in columns), name)
        ).fetchone()
    except psycopg.Error as error:
        if error.sqlstate is None or connection.closed:
            raise
        return db.redact((error.diag.message_primary or str(error)).splitlines()[0])
    assert row is not None
    return row["rows"], row["digest"]


def confirmed(home: db.Connection, slot: str, wait: float) -> bool:
    """Whether the copy has confirmed, in time, a message that is written into the WAL now.

    The transaction has an id, so that its commit is flushed: only then the message is sent. The
    message itself is not transactional: the slot's statistics would count one that is, and with
    that hide a slot that was made anew.
    """
    row = home.execute(
        "SELECT pg_catalog.pg_logical_emit_message(false, 'parlant_shard', '')::text AS position, "
        "pg_catalog.pg_current_xact_id()"
    ).fetchone()
    assert row is not None
    deadline, pause = time.monotonic() + wait, 0.02
    while True:
        seen = home.execute(
            "SELECT confirmed_flush_lsn >= %s::pg_catalog.pg_lsn AS passed "
            "FROM pg_catalog.pg_replication_slots WHERE slot_name = %s AND wal_status <> 'lost'",
            [row["position"], slot],
        ).fetchone()
        if seen is not None and seen["passed"]:
            return True
        if time.monotonic() > deadline:
            return False
        time.sleep(pause)
        pause = min(0.5, pause * 1.5)


def proven(
    topology: Topology,
    server: str,
    subscription: Subscription,
    publication: Publication | None,
    limits: Limits | None = None,
) -> BrokenCopy | None:
    """Compare a suspect copy; what cannot be compared is not called broken."""
    if publication is None:
        return None
    try:
        compared = compare(topology, server, subscription, publication, limits)
    except ShardError:
        return None
    return differing(topology, server, subscription, compared)
