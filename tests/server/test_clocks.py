"""The suite with its servers' clocks elsewhere: a sample of what `make night` runs as a whole."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from datetime import datetime, timedelta
from pathlib import Path

import psycopg
import pytest

import clocks
from servers import Clusters

NIGHT = Path(__file__).parents[1] / "night.sh"
CLOCKS = re.findall(r"^CLOCKS='(.*)'$", NIGHT.read_text(encoding="utf-8"), re.M)[0].split()
SAMPLE = (
    "tests/server/test_clocks.py::test_servers_follow_the_clock_of_the_suite",
    "tests/server/test_maintain.py::test_premake_follows_the_clock",
    "tests/server/test_maintain_crash.py::test_time_zones_mean_nothing",
    "tests/server/test_control_columns.py::test_a_changed_interval_and_a_gap",
)


def test_servers_follow_the_clock_of_the_suite(clusters: Clusters) -> None:
    with clusters.get(0).connect() as connection:
        row = connection.execute("SELECT now() AT TIME ZONE 'UTC'").fetchone()
        assert row is not None
        assert abs(row[0] - clocks.now()) < timedelta(minutes=5)
        # Nothing of ours waits without a limit, and so the limits must hold by any clock.
        connection.execute("SET statement_timeout = '100ms'")
        with pytest.raises(psycopg.errors.QueryCanceled):
            connection.execute("SELECT pg_sleep(20)")


@pytest.mark.skipif(
    clocks.library() is None, reason="needs libfaketime: .ci/components installs it"
)
@pytest.mark.skipif(
    (os.environ.get("PARLANT_SHARD_TEST_PROVIDER") or "embedded") != "embedded",
    reason="only servers of our own have another clock",
)
@pytest.mark.skipif(bool(clocks.CLOCK), reason="the whole suite has another clock")
@pytest.mark.parametrize("clock", CLOCKS)
def test_a_sample_passes_with_servers_of_another_day(clock: str) -> None:
    own = ("PYTEST_", "PARLANT_SHARD_TEST_FULL")
    env = {k: v for k, v in os.environ.items() if not k.startswith(own)}
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-p", "no:randomly", *SAMPLE],
        cwd=NIGHT.parents[1],
        env={**env, "PARLANT_SHARD_TEST_CLOCK": clock},
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-4000:]


@pytest.mark.parametrize(
    ("clock", "wanted"),
    [
        ("+45d", "2027-01-14 22:00"),
        ("03-01", "2027-03-01 00:00"),
        ("12-31T23:59", "2026-12-31 23:59"),
        ("11-30T22:00", "2027-11-30 22:00"),
        ("02-29", "2028-02-29 00:00"),
        ("2030-04-10T12:00", "2030-04-10 12:00"),
    ],
)
def test_a_clock_is_a_distance_or_the_next_such_moment(clock: str, wanted: str) -> None:
    present = datetime(2026, 11, 30, 22)
    assert f"{present + clocks.shift_of(clock, present):%Y-%m-%d %H:%M}" == wanted


def test_what_is_no_clock_is_an_error() -> None:
    with pytest.raises(ValueError, match="tomorrow"):
        clocks.shift_of("tomorrow", datetime(2026, 11, 30))
