"""A new partition after the pattern of its newest sibling: what is there decides, not the schema.

So a partition comes in time also while a change of the schema waits for its `apply`.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from dataclasses import replace
from datetime import datetime
from hashlib import sha256

from parlant_shard.catalog import Bound, Index, Relkind, Table
from parlant_shard.diff import LEFTOVER, NEW
from parlant_shard.names import HASH_DIGITS, brief, leaf_item, suffixed


def newest(leaves: Iterable[Table]) -> Table | None:
    """The partition that reaches furthest; a default partition is a pattern of last resort.

    One that somebody made by hand may lack the keys of the others, or be UNLOGGED: what all
    partitions to come would lack must not be decided by it.
    """

    def rank(leaf: Table) -> tuple[bool, int, bool, datetime]:
        assert leaf.bound is not None
        furthest = leaf.bound.upper or datetime.max
        return not leaf.bound.default, len(leaf.keys), not leaf.unlogged, furthest

    found = [leaf for leaf in leaves if leaf.bound is not None and not leaf.detach_pending]
    return max(found, key=rank, default=None)


def like(
    sibling: Table, parent: Table, name: str, bound: Bound, shard: str, without: Collection[str]
) -> Table:
    """A partition of `parent` like `sibling`, without the indexes of these definitions."""
    attached = [
        replace(
            i,
            name=leaf_item(name, parent.name, i.name, shard),
            parent=i.name,
            comment=None,
            valid=True,
        )
        for i in parent.indexes
    ]
    own = [
        replace(i, name=renamed(sibling.name, name, i.name), valid=True)
        for i in own_indexes(sibling)
        if i.definition not in without
    ]
    identity = sibling.replica_identity
    if identity.startswith("i:"):
        identity = f"i:{renamed(sibling.name, name, identity[2:])}"
    return replace(
        parent,
        name=name,
        kind=Relkind.TABLE,
        keys=tuple(
            replace(k, name=renamed(sibling.name, name, k.name), valid=True, inherited=False)
            for k in sibling.keys
        ),
        # ATTACH takes the oldest index that fits, and one of its own may be of the same definition.
        indexes=(*attached, *own),
        triggers=(),
        grants=sibling.grants,
        options=sibling.options,
        comment=None,
        unlogged=sibling.unlogged,
        replica_identity=identity,
        partition_by=None,
        parent=parent.name,
        bound=bound,
    )


def own_indexes(leaf: Table) -> list[Index]:
    """What a partition has by itself, without what an interrupted statement left."""
    keys = {key.name for key in leaf.keys}
    return [
        i
        for i in leaf.indexes
        if i.parent is None
        and i.name not in keys
        and not LEFTOVER.search(i.name)
        and (i.valid or not i.name.endswith(f"_{NEW}"))
    ]


def renamed(old: str, new: str, item: str) -> str:
    """The name for `new` of what `old` calls `item`; names of partitions' own items mean nothing
    but tell what they are for."""
    part = item.removeprefix(f"{old}_")
    if part == item:
        # The name was shortened: what stands behind the hash of the table is the part.
        digest = sha256(old.encode()).hexdigest()[:HASH_DIGITS]
        match = re.fullmatch(rf".+_{digest}_(.+)", item)
        part = match[1] if match else item
    return suffixed(new, brief(part))
