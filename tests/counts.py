"""Whether tests run their full counts, as `make night` does, or the samples of `make test`."""

from __future__ import annotations

import os

FULL = os.environ.get("PARLANT_SHARD_TEST_FULL") == "1"
