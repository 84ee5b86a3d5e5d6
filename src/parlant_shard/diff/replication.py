"""Compare publication, slots and subscriptions."""

from __future__ import annotations

from collections.abc import Iterator

from parlant_shard import changes as c
from parlant_shard.catalog import Catalog
from parlant_shard.diff.context import Context


def replication(
    server: str, live: Catalog, desired: Catalog, context: Context
) -> Iterator[c.Change]:
    for name, publication in sorted(desired.publications.items()):
        existing = live.publications.get(name)
        if existing != publication:
            yield c.SetPublication(
                server=server,
                publication=publication,
                exists=existing is not None,
                operations=existing is not None and existing.operations != publication.operations,
            )
    # A new slot begins at the end of the WAL: under a subscription that is there already, what came
    # before would be lost without a sign.
    for slot in sorted(desired.slots - live.slots - context.broken):
        yield c.CreateSlot(server=server, name=slot)
    for name, subscription in sorted(desired.subscriptions.items()):
        old = live.subscriptions.get(name)
        if old is None:
            yield c.CreateSubscription(
                server=server, subscription=subscription, publisher=context.coordinator
            )
            yield c.AwaitSubscription(server=server, subscription=subscription)
            continue
        if old.peer is not None and (old.peer, old.password) != (
            subscription.peer,
            subscription.password,
        ):
            yield c.ReconnectSubscription(
                server=server, subscription=subscription, publisher=context.coordinator
            )
        if name in context.broken:
            continue  # nothing would arrive, and waiting for it would end in an error
        if set(old.tables) != set(subscription.tables):
            yield c.RefreshSubscription(server=server, subscription=subscription)
            yield c.AwaitSubscription(server=server, subscription=subscription)
        elif not old.synced:
            yield c.AwaitSubscription(server=server, subscription=subscription)
    for name, gone in sorted(live.subscriptions.items()):
        if name not in desired.subscriptions and gone.publication == context.publication:
            yield c.DropSubscription(server=server, subscription=gone)
    for slot in sorted((live.slots & context.slots) - desired.slots):
        yield c.DropSlot(server=server, name=slot)
    unused = live.publications.get(context.publication)
    if unused is not None and context.publication not in desired.publications:
        yield c.DropPublication(server=server, publication=unused)
