"""How much a test does: the sample of `make test`, or the full count of `make night`.

PARLANT_SHARD_TEST_FULL=1 asks for full counts of races, fuzzing, clocks and schemas. A test that
has two sizes says so here: `SECONDS = full(150, sample=15)`.
"""

from __future__ import annotations

import os

FULL = os.environ.get("PARLANT_SHARD_TEST_FULL") == "1"


def full(count: int, *, sample: int) -> int:
    """Return the full count in the night, else the sample."""
    return count if FULL else sample
