"""Applications do not notice an apply: no error within their budget, no lost row."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
import pytest
from test_crash import CONTENT, SHARDS, Scene, filled, make_scene, scene, until

from parlant_shard import apply as running

__all__ = ["filled", "make_scene", "scene"]  # the fixtures

# What an application waits for a lock at most, and for a statement, in milliseconds.
BUDGET = "SET lock_timeout = '2s'; SET statement_timeout = '3s'"


class Traffic:
    """Readers and writers in threads; they count, measure and keep what went wrong."""

    def __init__(self, scene: Scene) -> None:
        self.scene = scene
        self.done = threading.Event()
        self.errors: list[str] = []
        self.longest = 0.0
        self.rounds = 0
        self.inserted = dict.fromkeys(SHARDS, 0)
        self._mutex = threading.Lock()

    @contextmanager
    def flowing(self) -> Iterator[None]:
        work: list[tuple[Callable[..., None], tuple[Any, ...]]] = []
        for shard, server in SHARDS.items():
            work += [(self.read, (shard, server)), (self.write, (shard, server))]
        work.append((self.federated, ()))
        threads = [threading.Thread(target=self.keep, args=item) for item in work]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            time.sleep(0.2)
            self.done.set()
            for thread in threads:
                thread.join()
        print(f"{self.rounds} rounds, longest wait {self.longest:.3f} s")

    def keep(self, act: Callable[..., None], where: tuple[Any, ...]) -> None:
        server = where[1] if where else 0
        try:
            with psycopg.connect(self.scene.dsns[server], autocommit=True) as connection:
                connection.execute(BUDGET)
                number = 0
                while not self.done.is_set():
                    number += 1
                    began = time.monotonic()
                    try:
                        act(connection, number, *where)
                    except psycopg.Error as error:
                        with self._mutex:
                            self.errors.append(f"{act.__name__} {where}: {error}")
                    with self._mutex:
                        self.rounds += 1
                        self.longest = max(self.longest, time.monotonic() - began)
                    time.sleep(0.002)
        except psycopg.Error as error:
            self.errors.append(str(error))

    def read(self, connection: psycopg.Connection[Any], number: int, shard: str, _: int) -> None:
        # Named columns: a prepared `SELECT *` fails once whenever a column is added, anywhere.
        for table, columns in CONTENT.items():
            connection.execute(f"SELECT {columns} FROM {table}_{shard} LIMIT 20").fetchall()
        if number % 5 == 0:
            connection.execute(
                f"SELECT count(*) FROM session_{shard} s JOIN event_{shard} e "
                "ON e.session_id = s.id AND e.workspace_id = s.workspace_id"
            ).fetchall()

    def write(self, connection: psycopg.Connection[Any], number: int, shard: str, _: int) -> None:
        workspace = {"one": "ws1", "two": "acme"}[shard]
        with connection.transaction():
            session = connection.execute(
                f"SELECT id FROM session_{shard} WHERE workspace_id = %s LIMIT 1", [workspace]
            ).fetchone()
            assert session is not None
            row = connection.execute(
                f"INSERT INTO event_{shard} (workspace_id, session_id, kind, body, created_at) "
                "VALUES (%s, %s, 'live', %s, now()) RETURNING id",
                [workspace, session[0], str(number)],
            ).fetchone()
            assert row is not None
            connection.execute(
                f"UPDATE event_{shard} SET body = body || '!' WHERE id = %s", [row[0]]
            )
            if number % 2 == 0:
                connection.execute(f"DELETE FROM event_{shard} WHERE id = %s", [row[0]])
        connection.execute(
            f"UPDATE agent_{shard} SET status = 'paused' WHERE workspace_id = %s "
            "AND name = 'agent 1'",
            [workspace],
        )
        if number % 2:
            self.inserted[shard] += 1

    def federated(self, connection: psycopg.Connection[Any], _number: int) -> None:
        for table in CONTENT:
            connection.execute(
                f"SELECT count(*) FROM {table}_global WHERE workspace_id = 'acme'"
            ).fetchall()


@contextmanager
def reading(
    scene: Scene, server: int, seconds: float, met: threading.Event, *tables: str
) -> Iterator[None]:
    """Hold tables with an open reading transaction, for a while after somebody met it."""
    ready = threading.Event()

    def hold() -> None:
        with scene.connect(server) as connection:
            connection.execute("BEGIN")
            for table in tables:
                connection.execute(f"SELECT count(*) FROM {table}")
            ready.set()
            met.wait(30)
            time.sleep(seconds)
            connection.execute("COMMIT")

    thread = threading.Thread(target=hold)
    thread.start()
    ready.wait(10)
    yield
    thread.join()


@contextmanager
def settings_seen(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[tuple[str, str, int]]]:
    """Record, for every statement of a step, its kind, itself and the lock_timeout it runs with."""
    execute = psycopg.Connection.execute
    current, seen = threading.local(), []
    step_of = running.Run._step

    def stepping(run: Any, step: Any) -> None:
        current.run, current.step = run, step
        try:
            step_of(run, step)
        finally:
            current.step = None

    def recording(connection: Any, query: Any, *args: Any, **options: Any) -> Any:
        step = getattr(current, "step", None)
        text = query if isinstance(query, str) else query.as_string(None)
        if (
            step is not None
            and connection in current.run.connections.values()
            and "set_config" not in text
        ):
            row = execute(
                connection,
                "SELECT setting::int AS timeout FROM pg_settings WHERE name = 'lock_timeout'",
            ).fetchone()
            seen.append((step.kind.value, text, row["timeout"]))
        return execute(connection, query, *args, **options)

    with monkeypatch.context() as patch:
        patch.setattr(psycopg.Connection, "execute", recording)
        patch.setattr(running.Run, "_step", stepping)
        yield seen


def test_nobody_notices_an_apply(filled: Scene) -> None:
    content = filled.content()
    traffic = Traffic(filled)
    met = threading.Event()

    def listener(event: str, _step: Any, _text: str) -> None:
        if event == "retry":
            met.set()

    tables = [f"{table}_two" for table in CONTENT]
    with traffic.flowing():
        time.sleep(0.3)
        with reading(filled, 1, 3, met, *tables):
            filled.apply("edit", listener=listener)
    assert met.is_set(), "the reader was in nobody's way"
    assert traffic.errors == []
    assert traffic.rounds > 100
    assert traffic.longest < 3
    for shard, server in SHARDS.items():
        with filled.connect(server) as connection:
            row = connection.execute(
                f"SELECT count(*) FROM event_{shard} WHERE kind = 'live'"
            ).fetchone()
            assert row == (traffic.inserted[shard],)
            connection.execute(f"DELETE FROM event_{shard} WHERE kind = 'live'")
            row = connection.execute(
                f"SELECT count(*) FROM event_{shard} WHERE token IS NULL"
            ).fetchone()
            assert row == (0,)
    found = filled.content()
    assert {k: v[0] for k, v in found.items()} == {k: v[0] for k, v in content.items()}
    assert {k: v for k, v in found.items() if k.startswith("session")} == {
        k: v for k, v in content.items() if k.startswith("session")
    }
    filled.check("edit")


def test_a_long_lock_is_outwaited(filled: Scene) -> None:
    retries = 0
    met = threading.Event()

    def listener(event: str, _step: Any, _text: str) -> None:
        nonlocal retries
        if event == "retry":
            retries += 1
            met.set()

    began = time.monotonic()
    with reading(filled, 0, 5, met, "account", "event_one"):
        filled.apply("edit", listener=listener)
    assert time.monotonic() - began > 5
    assert retries >= 3
    filled.check("edit")


def test_every_statement_has_its_lock_timeout(
    filled: Scene,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with settings_seen(monkeypatch) as seen:
        filled.apply("edit")
    assert len(seen) > 150
    unlimited = [
        text
        for _, text, timeout in seen
        if timeout == 0 and text.lstrip().startswith(WEAK) is False
    ]
    # Zero is for CONCURRENTLY alone: it blocks nobody while it waits, and a timeout would leave
    # an INVALID index behind.
    assert [t for t in unlimited if "CONCURRENTLY" not in t] == []
    assert all(0 <= timeout <= 1_000 for _, _, timeout in seen)
    assert {t for kind, _, t in seen if kind == "metadata"} <= set(range(1, 1_001))
    assert any(timeout == 0 for kind, _, timeout in seen if kind == "concurrent")


# What queues for no table lock: catalogue queries of a probe.
WEAK = ("SELECT", "INSERT INTO parlant_shard.step")


def test_an_index_build_that_waits_blocks_nobody(filled: Scene) -> None:
    """CREATE INDEX CONCURRENTLY behind an open transaction; readers and writers go on."""
    failed: list[BaseException] = []

    def work() -> None:
        try:
            filled.apply("edit")
        except BaseException as error:
            failed.append(error)

    with filled.connect(1) as other, filled.connect(1) as eye:
        other.execute("BEGIN ISOLATION LEVEL REPEATABLE READ")
        other.execute("SELECT 1")
        thread = threading.Thread(target=work)
        thread.start()
        try:
            until(
                lambda: (
                    eye.execute(
                        "SELECT FROM pg_stat_activity WHERE query LIKE 'CREATE INDEX CONCURR%' "
                        "AND wait_event_type = 'Lock' AND datname = current_database()"
                    ).fetchone()
                    is not None
                ),
                f"an index build that waits: {failed}",
            )
            traffic = Traffic(filled)
            with traffic.flowing():
                time.sleep(2)
        finally:
            other.execute("ROLLBACK")
            thread.join()
    assert failed == []
    assert traffic.errors == []
    assert traffic.rounds > 100
    assert traffic.longest < 2  # whoever waits for the build waits as long, and has an error
    for shard, server in SHARDS.items():
        with filled.connect(server) as connection:
            connection.execute(f"DELETE FROM event_{shard} WHERE kind = 'live'")
    filled.check("edit")
