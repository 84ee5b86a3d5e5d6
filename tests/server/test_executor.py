"""One step against a server: how long it waits for locks, and what a cut at COMMIT leaves."""

from __future__ import annotations

import select
import socket
import threading
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path
from uuid import uuid4

import pytest
from protocol import NONE, SCHEMA, World, layout
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from parlant_shard import db, executor
from parlant_shard.apply import apply
from parlant_shard.executor import Executor, quiet
from parlant_shard.plan import Kind, Step
from servers import Clusters

WHAT = layout({"s1": ["a"]})
EDIT = layout(
    {"s1": ["a"]}, ddl=SCHEMA.replace("  note varchar(20),", "  note varchar(20), q int,")
)
ADDED = 'ADD COLUMN "q"'


@pytest.fixture
def world(tmp_path: Path, clusters: Clusters) -> World:
    return World(tmp_path, clusters)


# --- locks ----------------------------------------------------------------------------------------


class Alone(Executor):
    """An executor of steps that belong to no run."""

    def _check_lock(self) -> None:
        pass

    def _trail(self) -> None:
        return None


@pytest.fixture
def alone(world: World, monkeypatch: pytest.MonkeyPatch) -> Iterator[Alone]:
    monkeypatch.setattr(executor, "_MAX_PAUSE", 0.05)
    found = Alone(world.load(WHAT), uuid4(), quiet, command="test", application="test", peers={})
    yield found
    found.close()


def timeouts(alone: Alone, step: Step, attempts: int) -> list[str]:
    """Fail at a lock that often; return the lock timeout that each attempt had."""
    seen: list[str] = []

    def work(connection: db.Connection) -> None:
        row = connection.execute("SELECT current_setting('lock_timeout') AS t").fetchone()
        assert row is not None
        seen.append(row["t"])
        if len(seen) < attempts:
            connection.execute("DO $$BEGIN RAISE lock_not_available; END$$")

    alone.transaction(step, work, recorded=False)
    return seen


def metadata(lock_timeout_ms: int = 1_000) -> Step:
    return Step(
        id="1", phase=1, server="core", shard=None, title="t", sql=("SELECT 1",),
        transactional=True, lock=None, hazards=(), lock_timeout_ms=lock_timeout_ms,
        statement_timeout_ms=10_000, kind=Kind.METADATA,
    )  # fmt: skip


def test_the_lock_timeout_grows_to_that_of_the_step_and_no_further(alone: Alone) -> None:
    """Whoever comes later queues behind a lock that is waited for: never for longer than this."""
    assert timeouts(alone, metadata(), 8) == [
        *("100ms", "200ms", "400ms", "800ms"),
        *("1s", "1s", "1s", "1s"),
    ]
    assert timeouts(alone, metadata(300), 4) == ["100ms", "200ms", "300ms", "300ms"]


def test_only_a_vacuum_in_the_way_is_waited_for_a_little_longer(alone: Alone, world: World) -> None:
    """An autovacuum ends for whoever has waited for deadlock_timeout, on each third attempt."""
    world.execute("CREATE TABLE t ()")
    with world.connect() as vacuum, vacuum.transaction():
        vacuum.execute("LOCK TABLE t IN SHARE UPDATE EXCLUSIVE MODE")
        assert timeouts(alone, metadata(), 7)[4:] == ["1s", "1200ms", "1s"]


# --- a cut at COMMIT ------------------------------------------------------------------------------


class Way:
    """A TCP way to a server that breaks once: at the COMMIT of a transaction that says `text`.

    "before": the server never sees the COMMIT. "after": it has committed, and its answer is lost.
    "meanwhile": the server does not know that nobody waits for its answer any more.
    """

    def __init__(self, dsn: str, text: str, moment: str) -> None:
        given = conninfo_to_dict(dsn)
        self._server = str(given.get("hostaddr") or given["host"]), int(given.get("port") or 5432)
        self._text, self._moment, self.cuts = text.encode(), moment, 0
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.dsn = make_conninfo(
            dsn,
            host="127.0.0.1",
            hostaddr="127.0.0.1",
            port=self._listener.getsockname()[1],
            sslmode="disable",
            gssencmode="disable",
        )
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        self._listener.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        concerned = False
        with client, socket.create_connection(self._server) as server, suppress(OSError):
            while True:
                ready, _, _ = select.select([client, server], [], [])
                if client in ready:
                    data = client.recv(65_536)
                    concerned |= self._text in data
                    if concerned and b"COMMIT\0" in data and not self.cuts:
                        self.cuts += 1
                        if self._moment == "meanwhile":
                            client.close()
                        if self._moment != "before":
                            server.sendall(data)
                            server.recv(65_536)  # it answers when it has committed
                        return
                    if not data:
                        return
                    server.sendall(data)
                if server in ready:
                    data = server.recv(65_536)
                    if not data:
                        return
                    client.sendall(data)


@pytest.mark.parametrize(("moment", "attempts"), [("before", 2), ("after", 1)])
def test_a_connection_that_is_cut_at_commit(world: World, moment: str, attempts: int) -> None:
    """The journal row alone says whether the step was done: neither once more, nor not at all."""
    world.apply(WHAT)
    with closing(Way(world.dsn("core"), ADDED, moment)) as way:
        outcome = apply(world.load(EDIT).with_dsns({"core": way.dsn}), allow=NONE)
        assert way.cuts == 1
    (step,) = [s for s in outcome.plan.steps if any(ADDED in q for q in s.sql)]
    assert world.rows(f"SELECT attempts FROM parlant_shard.step WHERE step_id = '{step.id}'") == [
        (attempts,)
    ]
    world.settled(EDIT)


def test_a_commit_that_lasts_longer_than_its_connection(world: World) -> None:
    """As of a server that waits for its standby: nothing is done again until it is known."""
    world.apply(WHAT)
    (step,) = [s for s in world.plan(EDIT).steps if any(ADDED in q for q in s.sql)]
    world.execute(
        "CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS "
        "$$BEGIN PERFORM pg_sleep(1.5); RETURN NULL; END$$",
        "CREATE CONSTRAINT TRIGGER slow AFTER INSERT ON parlant_shard.step DEFERRABLE INITIALLY "
        f"DEFERRED FOR EACH ROW WHEN (NEW.step_id = '{step.id}') EXECUTE FUNCTION slow()",
    )
    with closing(Way(world.dsn("core"), ADDED, "meanwhile")) as way:
        apply(world.load(EDIT).with_dsns({"core": way.dsn}), allow=NONE)
        assert way.cuts == 1
    world.execute("DROP FUNCTION slow() CASCADE")
    world.settled(EDIT)
