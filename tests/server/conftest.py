"""What tests of the router share: a sharded cluster that costs seconds to make."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from oracle import Sharded

from servers import Clusters


@pytest.fixture(scope="session")
def sharded(clusters: Clusters, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sharded]:
    """Give the cluster and its oracles; every statement on them is rolled back."""
    found = Sharded(clusters, tmp_path_factory.mktemp("sharded"))
    yield found
    found.close()
