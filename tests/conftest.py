"""Fixtures that give tests real PostgreSQL; see servers.py for where it comes from."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, settings

import clocks
from servers import MAX_CLUSTERS, Clusters, MakeDatabases, provide

# Two cores are shared by servers and tests: how long one example takes says nothing here.
settings.register_profile(
    "suite",
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
settings.load_profile("suite")


def pytest_configure(config: pytest.Config) -> None:
    """Register the marker by which a test says what its servers must have; set their clocks."""
    clocks.shift_servers()
    config.addinivalue_line(
        "markers",
        "needs(clusters=1, major=15, logical=False, superuser=False, extensions=()): "
        "skip where the provider of the servers has less",
    )
    # Statements are generated from one seed, the same in all processes of a run.
    os.environ.setdefault("PARLANT_SHARD_TEST_SEED", str(random.SystemRandom().randrange(10**6)))
    # Docker's client leaves sockets to the garbage collector, in the middle of whatever test.
    config.addinivalue_line(
        "filterwarnings", r"ignore:unclosed <socket.socket fd=\d+, family=1,:ResourceWarning"
    )


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print how the generated statements are generated again."""
    seed = os.environ["PARLANT_SHARD_TEST_SEED"]
    terminalreporter.write_line(
        f"generated statements: PARLANT_SHARD_TEST_SEED={seed} repeats them"
    )


@pytest.fixture(scope="session")
def clusters() -> Iterator[Clusters]:
    """Give up to three servers, each started when it is first asked for."""
    clusters = provide()
    yield clusters
    clusters.close()


@pytest.fixture(autouse=True)
def _servers(request: pytest.FixtureRequest, clusters: Clusters) -> Iterator[None]:
    """Skip a test whose needs are not met, and drop the databases that it created.

    Set up before a test's other fixtures, so it ends after they closed their connections.
    """
    for marker in request.node.iter_markers("needs"):
        clusters.need(**marker.kwargs)
    yield
    clusters.drop_databases()


@pytest.fixture
def database(clusters: Clusters) -> str:
    """Give the conninfo of an empty database on cluster 0."""
    return clusters.get(0).new_database()


@pytest.fixture
def make_databases(clusters: Clusters) -> MakeDatabases:
    """Give a function `(n, clusters=n)` that creates databases and returns their conninfos."""
    available = clusters

    def make(n: int, clusters: int | None = None) -> list[str]:
        over = min(n if clusters is None else clusters, MAX_CLUSTERS)
        return [available.get(i % over).new_database(f"t{i}") for i in range(n)]

    return make
