"""Deletions on the coordinator against inserts on another server: no row without its parent."""

from __future__ import annotations

import random
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psycopg
import pytest
from protocol import World, layout
from psycopg import IsolationLevel
from test_sealed import TABLES, WHAT, caught_up

from counts import full
from parlant_shard.maintain.seals import settle
from servers import Clusters

pytestmark = [
    pytest.mark.matrix,
    pytest.mark.needs(clusters=2, logical=True, superuser=True),
]

# What is deleted, added again and referred to: the table, its key, the columns of `account`.
KINDS = {
    "no action": ("country", "code", "country"),
    "restrict": ("country", "iso", "iso"),
    "deferrable": ("country", "code", "late"),
    "set default": ("tier", "id", "tier"),
    "composite": ("zone", "a", "a"),
}
LEVELS = (
    IsolationLevel.READ_COMMITTED,
    IsolationLevel.REPEATABLE_READ,
    IsolationLevel.SERIALIZABLE,
)
KEYS = 6
EXPECTED = ("23503", "40001", "55P03", "40P01", "23505", "57014")


@pytest.fixture
def world(tmp_path: Path, clusters: Clusters) -> World:
    world = World(tmp_path, clusters, over=2)
    world.apply(WHAT)
    return world


class Race:
    """Writers on east against deletions on core, in rounds: after each the orphans are counted."""

    def __init__(self, world: World, kind: str, level: IsolationLevel, *, change: bool) -> None:
        self.world, self.kind, self.level, self.change = world, kind, level, change
        self.table, self.key, self.column = KINDS[kind]
        self.lock, self.over = threading.Lock(), threading.Event()
        self.counts: Counter[str] = Counter()
        self.strange: list[str] = []

    def row(self, key: int) -> str:
        return {
            "country": f"('c{key}', {key}, '')",
            "tier": f"('t{key}')",
            "zone": f"('z{key}', {key})",
        }[self.table]

    def value(self, key: int) -> str:
        if self.table == "country":
            return f"'c{key}'" if self.key == "code" else str(key)
        return f"'t{key}'" if self.table == "tier" else f"'z{key}'"

    def used(self, key: int) -> tuple[str, str]:
        if self.kind == "composite":
            return "a, b", f"'z{key}', {key}"
        return self.column, self.value(key)

    def run(self, races: int) -> Race:
        threads = [threading.Thread(target=self._write, args=(number,)) for number in range(4)]
        self.world.execute("INSERT INTO tier VALUES ('free')")
        for thread in threads:
            thread.start()
        try:
            for number in range(-(-races // KEYS)):
                self._round(random.Random(number))
        finally:
            self.over.set()
            for thread in threads:
                thread.join(120)
                assert not thread.is_alive()
        assert self.strange == [], self.counts
        return self

    def _round(self, dice: random.Random) -> None:
        for k in range(KEYS):
            self.world.execute(
                f"INSERT INTO {self.table} VALUES {self.row(k)} ON CONFLICT DO NOTHING"
            )
        self.world.execute("DELETE FROM account_s2 WHERE random() < 0.8", server="east")
        time.sleep(dice.random() * 0.1)
        with psycopg.connect(self.world.dsn("core")) as connection:
            connection.isolation_level = self.level
            for key in range(KEYS):
                for _ in range(4):  # a serialization failure is tried again
                    if self._tried(connection, lambda k=key: self._delete(connection, k, dice)):
                        break
        caught_up(self.world)
        found = orphans(self.world)
        assert found == 0, (found, self.counts)

    def _tried(self, connection: Any, work: Callable[[], None]) -> bool:
        try:
            work()
            connection.commit()
        except psycopg.Error as error:
            name = "written" if connection.info.dbname == self._east() else "deleted"
            with self.lock:
                self.counts[f"{name} {error.sqlstate}"] += 1
                if error.sqlstate not in EXPECTED:
                    self.strange.append(str(error))
            connection.rollback()
            return error.sqlstate not in {"40001", "40P01", "55P03"}
        return True

    def _east(self) -> str:
        return str(psycopg.conninfo.conninfo_to_dict(self.world.dsn("east"))["dbname"])

    def _write(self, number: int) -> None:
        dice = random.Random(number)
        with psycopg.connect(self.world.dsn("east")) as connection:
            connection.isolation_level = self.level
            while not self.over.is_set() and not self.strange:
                self._tried(connection, lambda: self._insert(connection, dice))

    def _insert(self, connection: Any, dice: random.Random) -> None:
        columns, values = self.used(dice.randrange(KEYS))
        if dice.random() < 0.5:
            connection.execute("SELECT count(*) FROM account_s2")  # a snapshot of before
            time.sleep(dice.random() * 0.005)
        connection.execute(
            f"INSERT INTO account_s2 (workspace_id, {columns}) VALUES ('b', {values})"
        )
        time.sleep(dice.random() * 0.01)
        connection.commit()
        time.sleep(dice.random() * 0.15)
        with self.lock:
            self.counts["written"] += 1

    def _delete(self, connection: Any, key: int, dice: random.Random) -> None:
        connection.execute("SET LOCAL statement_timeout = '20s'")
        form, one = dice.random(), f"{self.key} = {self.value(key)}"
        if dice.random() < 0.8:
            # Its rows go first, so that it can go too.
            self.world.execute(
                f"DELETE FROM account_s2 WHERE {self.used(key)[0].split(', ')[0]} = "
                f"{self.value(key)}",
                server="east",
            )
        if self.change:
            other = str(-1 - dice.randrange(10**6)) if self.key == "iso" else f"'x{dice.random()}'"
            connection.execute(f"UPDATE {self.table} SET {self.key} = {other} WHERE {one}")
        elif form < 0.2:
            several = ", ".join(self.value(k) for k in (key, (key + 1) % KEYS))
            connection.execute(f"DELETE FROM {self.table} WHERE {self.key} IN ({several})")
        elif form < 0.5:
            connection.execute(f"DELETE FROM {self.table} WHERE {one}")
            connection.commit()
            connection.execute(
                f"INSERT INTO {self.table} VALUES {self.row(key)} ON CONFLICT DO NOTHING"
            )
            connection.commit()
            connection.execute(f"DELETE FROM {self.table} WHERE {one}")
        else:
            connection.execute(f"DELETE FROM {self.table} WHERE {one}")
        if dice.random() < 0.15:
            connection.rollback()
            return
        connection.commit()
        with self.lock:
            self.counts["deleted"] += 1


ORPHANS = {
    "country": "country IS NOT NULL AND country NOT IN (SELECT code FROM country)",
    "iso": "iso IS NOT NULL AND iso NOT IN (SELECT iso FROM country)",
    "late": "late IS NOT NULL AND late NOT IN (SELECT code FROM country)",
    "tier": "tier NOT IN (SELECT id FROM tier)",
    "a": "a IS NOT NULL AND (a, b) NOT IN (SELECT a, b FROM zone)",
}


def orphans(world: World) -> int:
    condition = " OR ".join(f"({c})" for c in ORPHANS.values())
    found = world.value(f"SELECT count(*) FROM account_s2 WHERE {condition}", server="east")
    assert isinstance(found, int)
    return found


def same(world: World) -> None:
    """The copies are what the coordinator has, and the key tables what the copies have."""
    for table in TABLES:
        query = f"SELECT * FROM {table} ORDER BY 1"
        assert world.rows(query, server="east") == world.rows(query)
    for table, keys in (
        ("country", "code"),
        ("country_iso", "iso"),
        ("zone", "a, b"),
        ("plan", None),
        ("tier", "id"),
    ):
        if keys is not None:
            assert world.rows(
                f"SELECT * FROM parlant_shard_key.{table} ORDER BY 1", server="east"
            ) == world.rows(f"SELECT {keys} FROM {table.split('_')[0]} ORDER BY 1")


@pytest.mark.parametrize("level", LEVELS, ids=lambda v: v.name.lower())
@pytest.mark.parametrize("kind", KINDS)
def test_nothing_is_orphaned(world: World, kind: str, level: IsolationLevel) -> None:
    race = Race(world, kind, level, change=False).run(full(1000, sample=18))
    settled = settle(world.load(WHAT), "east", age=0)
    assert settled.error is None
    assert world.value("SELECT count(*) FROM parlant_shard.sealed", server="east") == 0
    same(world)
    world.execute("DELETE FROM account_s2", server="east")
    world.execute(f"DELETE FROM {race.table}")
    caught_up(world)
    same(world)
    assert race.counts["written"] > 0
    assert race.counts["deleted"] > 0, race.counts


@pytest.mark.parametrize("kind", ["no action", "deferrable", "restrict"])
def test_a_changed_key_orphans_nothing(world: World, kind: str) -> None:
    race = Race(world, kind, IsolationLevel.READ_COMMITTED, change=True)
    race.run(full(1000, sample=18))
    settle(world.load(WHAT), "east", age=0)
    assert world.value("SELECT count(*) FROM parlant_shard.sealed", server="east") == 0
    same(world)
    assert race.counts["deleted"] > 0, race.counts


# Three levels, two ways to a row, and a row that refers to its like.
DEEP = """
CREATE TABLE owner (id text PRIMARY KEY);
CREATE TABLE agent (
  id bigint PRIMARY KEY, workspace_id text NOT NULL,
  owner text NOT NULL REFERENCES owner (id) ON DELETE CASCADE ON UPDATE CASCADE,
  boss bigint REFERENCES agent (id) ON DELETE CASCADE
);
CREATE TABLE session (
  id bigint PRIMARY KEY, workspace_id text NOT NULL,
  agent bigint NOT NULL REFERENCES agent (id) ON DELETE CASCADE
);
CREATE TABLE message (
  id bigint PRIMARY KEY, workspace_id text NOT NULL,
  session bigint REFERENCES session (id) ON DELETE CASCADE,
  agent bigint REFERENCES agent (id) ON DELETE SET NULL
);
"""
CASCADES = layout(
    {"s1": ["a"], "s2": ("east", ["b"])}, ddl=DEEP, tables={"owner": {"kind": "reference"}}
)
WITHOUT = (
    "SELECT (SELECT count(*) FROM agent_s2 WHERE owner NOT IN (SELECT id FROM owner)) + "
    "(SELECT count(*) FROM agent_s2 WHERE boss NOT IN (SELECT id FROM agent_s2)) + "
    "(SELECT count(*) FROM session_s2 WHERE agent NOT IN (SELECT id FROM agent_s2)) + "
    "(SELECT count(*) FROM message_s2 WHERE session NOT IN (SELECT id FROM session_s2)) + "
    "(SELECT count(*) FROM message_s2 WHERE agent NOT IN (SELECT id FROM agent_s2))"
)


def test_a_replayed_cascade_leaves_nothing_below(tmp_path: Path, clusters: Clusters) -> None:
    """Rows are inserted on all levels, and held open, while their owners go."""
    world = World(tmp_path, clusters, over=2)
    world.apply(CASCADES)
    over = threading.Event()
    failures: list[str] = []

    def write(number: int) -> None:
        dice = random.Random(number)
        with psycopg.connect(world.dsn("east"), autocommit=True) as connection:
            while not over.is_set():
                try:
                    with connection.transaction():
                        level(connection, dice)
                        time.sleep(dice.random() * 0.01)
                except (psycopg.errors.ForeignKeyViolation, psycopg.errors.DeadlockDetected):
                    pass  # its parent went; or replication locked the same rows, which tries again
                except psycopg.Error as error:
                    failures.append(str(error))
                    return

    def level(connection: Any, dice: random.Random) -> None:
        new = dice.getrandbits(60)
        table, column = dice.choice(
            [("agent", "owner"), ("agent", "boss"), ("session", "agent"), ("message", "session")]
        )
        above = "owner" if column == "owner" else f"{'agent' if column == 'boss' else column}_s2"
        row = connection.execute(f"SELECT id FROM {above} ORDER BY random() LIMIT 1").fetchone()
        if row is None:
            return
        if column == "boss":
            owner = connection.execute("SELECT id FROM owner LIMIT 1").fetchone()
            connection.execute(
                "INSERT INTO agent_s2 (id, workspace_id, owner, boss) VALUES (%s, 'b', %s, %s)",
                [new, owner[0] if owner else "none", row[0]],
            )
        else:
            connection.execute(
                f"INSERT INTO {table}_s2 (id, workspace_id, {column}) VALUES (%s, 'b', %s)",
                [new, row[0]],
            )
        if table == "message":
            connection.execute(
                "UPDATE message_s2 SET agent = (SELECT id FROM agent_s2 LIMIT 1) WHERE id = %s",
                [new],
            )

    threads = [threading.Thread(target=write, args=(n,)) for n in range(6)]
    for thread in threads:
        thread.start()
    for number in range(full(1000, sample=40)):
        world.execute(f"INSERT INTO owner VALUES ('o{number}')")
        time.sleep(0.05)
        if number % 4 == 3:
            world.execute(f"UPDATE owner SET id = 'n{number}' WHERE id = 'o{number}'")
        if number > 3:
            world.execute(f"DELETE FROM owner WHERE id IN ('o{number - 3}', 'n{number - 3}')")
    over.set()
    for thread in threads:
        thread.join(60)
    caught_up(world, CASCADES)
    assert failures == []
    assert world.value(WITHOUT, server="east") == 0
    assert world.value("SELECT count(*) FROM message_s2", server="east") > 0
    world.execute("DELETE FROM owner")
    caught_up(world, CASCADES)
    assert world.value("SELECT count(*) FROM session_s2", server="east") == 0
    assert world.value(WITHOUT, server="east") == 0
