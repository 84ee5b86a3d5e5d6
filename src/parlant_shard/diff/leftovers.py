"""By which names a half-done change of an earlier run is known."""

from __future__ import annotations

import re

from parlant_shard.names import brief, suffixed

# Behind an object's name while its successor is built. A leftover of a killed run is known by it.
NEW = "new"

# The comment of a column whose old rows do not have its default yet.
FILLING = "parlant-shard: being filled"

# What REINDEX CONCURRENTLY leaves behind where it is killed.
LEFTOVER = re.compile(r"_ccnew\d*$|_ccold\d*$")

# The CHECK that proves to PostgreSQL that a default partition holds no row of a new partition.
GUARD = "parlant_shard_guard"


def temporary(name: str) -> str:
    return suffixed(name, NEW)


def not_null_proof(table: str, column: str) -> str:
    """The name of the CHECK that proves a column NOT NULL, until SET NOT NULL has used it."""
    return suffixed(table, f"{brief(column)}_not_null")
