"""Compare foreign servers and user mappings."""

from __future__ import annotations

from collections.abc import Iterator

from parlant_shard import changes as c
from parlant_shard.catalog import Catalog


def federation(server: str, live: Catalog, desired: Catalog) -> Iterator[c.Change]:
    for name, wanted in sorted(desired.foreign_servers.items()):
        existing = live.foreign_servers.get(name)
        if existing != wanted:
            yield c.SetForeignServer(server=server, foreign_server=wanted, live=existing)
    for pair, mapping in sorted(desired.user_mappings.items()):
        old = live.user_mappings.get(pair)
        # A role that may not read the options sees an empty user: then there is nothing to compare.
        if old is None or (old.user and old != mapping):
            peer = next(
                (s.server for s in desired.seals.values() if s.foreign_server == mapping.server),
                mapping.server.removeprefix("parlant_shard_"),
            )
            yield c.SetUserMapping(server=server, mapping=mapping, live=old, peer=peer)
    for name, gone in sorted(live.foreign_servers.items()):
        if name not in desired.foreign_servers and any(
            t.foreign and t.foreign.server == name and ("table", t.name) in live.managed
            for t in live.tables.values()
        ):
            yield c.DropForeignServer(server=server, foreign_server=gone)
