"""Compare where the workspaces are."""

from __future__ import annotations

from collections.abc import Iterator

from parlant_shard import changes as c
from parlant_shard.catalog import Catalog


def placement(server: str, live: Catalog, desired: Catalog, coordinator: str) -> Iterator[c.Change]:
    for found, wanted, kind in (
        (live.placements, desired.placements, c.SetPlacements),
        (live.directory, desired.directory, c.SetDirectory),
    ):
        kept = {p.workspace for p in wanted}
        upsert = tuple(sorted(wanted - found))
        delete = tuple(sorted(p for p in found if p.workspace not in kept))
        if kind is c.SetPlacements:
            if upsert or delete:
                yield c.SetPlacements(server=server, upsert=upsert, delete=delete)
            continue
        shards_changed = dict(live.shards) != dict(desired.shards)
        if server == coordinator and (upsert or delete or shards_changed):
            yield c.SetDirectory(
                server=server,
                upsert=upsert,
                delete=delete,
                shards=tuple(sorted(desired.shards.items())),
                shards_changed=shards_changed,
            )
