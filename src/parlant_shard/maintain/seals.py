"""Seals without a deletion: the coordinator failed, or went back, after a server had committed.

Such a key cannot be referred to although its row exists. Nothing is wrong with what is there, so
it can wait for `maintain`: it looks at seals that are older than a few seconds.

A seal is undone only while the coordinator's row is locked and the copy has confirmed a position
after that: no deletion of the key is on its way. Without that wait a deletion that has not been
replayed yet would use up the seal of the next one.
"""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Any

import psycopg
from psycopg.sql import SQL, Composable, Identifier
from psycopg.types.json import Jsonb

from parlant_shard import copies, db
from parlant_shard.desired import subscription_name
from parlant_shard.errors import ShardError
from parlant_shard.sqlfiles import queries
from parlant_shard.topology import Topology

# Seconds. A transaction that deletes a row seals its key first; most are over by then.
AGE = 10.0
# Seconds that the copy has to confirm a position, with rows of the coordinator locked.
WAIT = 1.0
# Seals that are looked at together.
BATCH = 500


@dataclass(frozen=True, slots=True, kw_only=True)
class Settled:
    """What became of the seals of a server: opened again, removed, or left for the next run."""

    server: str
    opened: int = 0
    removed: int = 0
    left: int = 0
    error: ShardError | None = None


def settle(topology: Topology, server: str, *, age: float = AGE) -> Settled:
    """Undo the seals of a server whose rows the coordinator has not deleted.

    `age`: seconds since a key was sealed last. Never raises for a server: `error` says what kept
    it from ending.
    """
    found = Settled(server=server)
    try:
        with ExitStack() as stack:

            def session(name: str) -> db.Connection:
                return stack.enter_context(
                    db.session(topology, name, doing="looking at sealed keys")
                )

            there = session(server)
            rows = there.execute(
                queries("seals")["old"],
                {"topology": topology.name, "age": age, "limit": BATCH * 20},
            ).fetchall()
            if not rows:
                return found  # almost always, and the coordinator is spared two sessions
            home, waiting = session(topology.coordinator), session(topology.coordinator)
            for connection in (there, home):
                connection.execute("SELECT pg_catalog.set_config('lock_timeout', '1s', false)")
            for _, batch in groupby(rows, key=lambda r: r["tab"]):
                seals = list(batch)
                for start in range(0, len(seals), BATCH):
                    work = _Batch(topology, server, seals[start : start + BATCH])
                    found = work.run(there, home, waiting, found)
    except ShardError as error:
        return replace(found, error=error)
    return found


class _Batch:
    """Seals of one key table."""

    def __init__(self, topology: Topology, server: str, seals: list[dict[str, Any]]) -> None:
        first = seals[0]
        self.topology, self.seals = topology, seals
        self.slot = subscription_name(topology, server)
        self.tab: str = first["tab"]
        self.key_table = Identifier(first["schema"], first["name"])
        self.table = Identifier(topology.namespace, first["logical"])
        self.columns: list[str] = first["columns"]

    def run(
        self, there: db.Connection, home: db.Connection, waiting: db.Connection, so_far: Settled
    ) -> Settled:
        keys = Jsonb([s["key"] for s in self.seals])
        opened = removed = 0
        try:
            with home.transaction():
                locked = self._those(home, keys, lock=True)
                there_still = self._those(home, keys)
                lacking = set(range(1, len(self.seals) + 1)) - there_still
                if (locked or lacking) and copies.confirmed(waiting, self.slot, WAIT):
                    opened = self._open(there, sorted(locked))
                    removed = self._remove(there, sorted(lacking))
        except psycopg.Error as error:
            if error.sqlstate not in db.RETRYABLE:
                raise
        return replace(
            so_far,
            opened=so_far.opened + opened,
            removed=so_far.removed + removed,
            left=so_far.left + len(self.seals) - opened - removed,
        )

    def _those(self, home: db.Connection, keys: Jsonb, *, lock: bool = False) -> set[int]:
        """The places of the keys whose rows the coordinator has; with `lock` those it could lock.

        A row that somebody deletes is there, and cannot be locked.
        """
        query = SQL(
            "SELECT e.n FROM pg_catalog.jsonb_array_elements(%s) WITH ORDINALITY AS e(key, n), "
            "LATERAL pg_catalog.jsonb_populate_record(NULL::{table}, e.key) AS a "
            "JOIN {table} AS r ON {same}{lock}"
        ).format(
            table=self.table,
            same=self._same(home, self.table, "r.", "a."),
            lock=SQL(" FOR UPDATE OF r SKIP LOCKED" if lock else ""),
        )
        return {row["n"] for row in home.execute(query, [keys]).fetchall()}

    def _open(self, there: db.Connection, places: list[int]) -> int:
        """The coordinator has the row and holds it: the key may be referred to again."""
        if not places:
            return 0
        keys = [self.seals[n - 1]["key"] for n in places]
        names = SQL(", ").join(Identifier(c) for c in self.columns)
        own = SQL(", ").join(Identifier("r", c) for c in self.columns)
        with there.transaction():
            gone = there.execute(
                "DELETE FROM parlant_shard.sealed WHERE tab = %s "
                "AND key IN (SELECT pg_catalog.jsonb_array_elements(%s))",
                [self.tab, Jsonb(keys)],
            ).rowcount
            there.execute(
                SQL(
                    "INSERT INTO {} ({}) SELECT {} FROM pg_catalog.jsonb_populate_recordset"
                    "(NULL::{}, %s) AS a JOIN {} AS r ON {} ON CONFLICT DO NOTHING"
                ).format(
                    self.key_table,
                    names,
                    own,
                    self.key_table,
                    self.table,
                    self._same(there, self.table, "r.", "a."),
                ),
                [Jsonb(keys)],
            )
        return gone

    def _remove(self, there: db.Connection, places: list[int]) -> int:
        """Neither the coordinator nor the copy has the row, and nobody sealed it since."""
        if not places:
            return 0
        mine = [self.seals[n - 1] for n in places]
        query = SQL(
            "DELETE FROM parlant_shard.sealed s USING pg_catalog.jsonb_to_recordset(%s) "
            "AS m(key jsonb, pending int, at timestamptz), "
            "LATERAL pg_catalog.jsonb_populate_record(NULL::{key_table}, m.key) AS a "
            "WHERE s.tab = %s AND s.key = m.key AND s.pending = m.pending AND s.at = m.at "
            "AND NOT EXISTS (SELECT FROM {table} AS r WHERE {same})"
        ).format(
            key_table=self.key_table,
            table=self.table,
            same=self._same(there, self.table, "r.", "a."),
        )
        given = [{"key": s["key"], "pending": s["pending"], "at": s["at"]} for s in mine]
        return there.execute(query, [Jsonb(given), self.tab]).rowcount

    def _same(
        self, connection: db.Connection, table: Identifier, one: str, other: str
    ) -> Composable:
        """The condition that two keys are equal, by the type's own operator."""
        row = connection.execute(
            "SELECT parlant_shard.key_equals(%s::text::regclass, %s, %s, %s) AS text",
            [table.as_string(connection), self.columns, one, other],
        ).fetchone()
        assert row is not None
        return SQL(row["text"])
