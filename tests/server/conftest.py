"""What tests of several modules share: a sharded cluster that costs seconds to make, and roles."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from oracle import Sharded
from rls_world import Roles, roles

from servers import Clusters


@pytest.fixture(scope="session")
def sharded(clusters: Clusters, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sharded]:
    """Give the cluster and its oracles; every statement on them is rolled back."""
    found = Sharded(clusters, tmp_path_factory.mktemp("sharded"))
    yield found
    found.close()


@pytest.fixture(scope="module")
def who(clusters: Clusters) -> Iterator[Roles]:
    """Give the roles of a world behind row-level security."""
    with roles(clusters) as found:
        yield found
