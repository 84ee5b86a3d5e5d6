"""Compare live catalogues with desired ones: (live, desired) → changes. Pure and total.

What nobody registered as ours is never dropped or altered. A half-done change of an earlier run
is recognised by its temporary name and taken further, never begun twice.
"""

from __future__ import annotations

from parlant_shard.diff.compare import diff
from parlant_shard.diff.constraints import listed, narrows
from parlant_shard.diff.context import Context
from parlant_shard.diff.indexes import partitioned_index, rolled_from, rolled_to, same_index
from parlant_shard.diff.leftovers import FILLING, GUARD, LEFTOVER, NEW, not_null_proof, temporary
from parlant_shard.diff.partitions import by_parent, guarded
from parlant_shard.diff.properties import OUR_POLICIES

__all__ = [
    "FILLING",
    "GUARD",
    "LEFTOVER",
    "NEW",
    "OUR_POLICIES",
    "Context",
    "by_parent",
    "diff",
    "guarded",
    "listed",
    "narrows",
    "not_null_proof",
    "partitioned_index",
    "rolled_from",
    "rolled_to",
    "same_index",
    "temporary",
]
