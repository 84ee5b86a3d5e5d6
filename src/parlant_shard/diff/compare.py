"""Compare what two catalogues hold: one function per noun, server after server."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from parlant_shard import changes as c
from parlant_shard.catalog import Catalog, Table
from parlant_shard.diff.context import Context
from parlant_shard.diff.federation import federation
from parlant_shard.diff.keys import awaited, key_tables, seals, settled
from parlant_shard.diff.placement import placement
from parlant_shard.diff.properties import OUR_POLICIES
from parlant_shard.diff.replication import replication
from parlant_shard.diff.tables import tables
from parlant_shard.diff.views import blocked_by_views, views
from parlant_shard.errors import SchemaError
from parlant_shard.rls import WORKSPACE


def diff(
    live: Mapping[str, Catalog], desired: Mapping[str, Catalog], context: Context
) -> tuple[c.Change, ...]:
    """Return the changes of all servers, in no particular order across servers."""
    found: list[c.Change] = []
    for server in sorted(desired):
        found += _server(server, live[server], desired[server], context)
    found += awaited(found, desired, context)
    return tuple(found)


def _server(server: str, live: Catalog, desired: Catalog, context: Context) -> Iterator[c.Change]:
    if live.internal_version < desired.internal_version:
        yield c.CreateInternal(server=server, version=live.internal_version)
    elif live.internal_version > desired.internal_version:
        raise SchemaError(
            f'server "{server}" has version {live.internal_version} of the schema parlant_shard; '
            f"this release knows version {desired.internal_version}",
            code="PS220",
            hint="upgrade parlant-shard on this machine",
        )
    for extension in sorted(desired.extensions - live.extensions):
        yield c.CreateExtension(server=server, name=extension)
    for role in sorted(desired.roles - live.roles):
        yield c.CreateRole(server=server, name=role)
    yield from _enums(server, live, desired)
    if live.signing_keys != desired.signing_keys:
        yield c.SetSigningKeys(
            server=server,
            add=tuple(sorted(desired.signing_keys - live.signing_keys)),
            delete=tuple(sorted(live.signing_keys - desired.signing_keys)),
        )
    yield from _functions(server, live, desired)
    on_tables = tuple(tables(server, settled(live, desired), desired, context.now))
    yield from on_tables
    yield from key_tables(server, live, desired)
    yield from federation(server, live, desired)
    yield from seals(server, live, desired)
    yield from views(server, live, desired, blocked_by_views(on_tables))
    yield from replication(server, live, desired, context)
    yield from placement(server, live, desired, context.coordinator)


def _functions(server: str, live: Catalog, desired: Catalog) -> Iterator[c.Change]:
    for signature, function in sorted(desired.functions.items()):
        existing = live.functions.get(signature)
        if existing != function:
            may = (existing.executors if existing else None) or ()
            yield c.SetFunction(
                server=server,
                function=function,
                exists=existing is not None,
                revoked=tuple(r for r in may if r and r not in (function.executors or ())),
            )
    for signature, function in sorted(live.functions.items()):
        # Of the others nobody knows who calls them.
        if function.executors is None or signature in desired.functions:
            continue
        if signature == WORKSPACE and any(
            _keeps_policies(t, live, desired) for t in live.tables.values()
        ):
            continue
        yield c.DropFunction(server=server, function=function)


def _keeps_policies(table: Table, live: Catalog, desired: Catalog) -> bool:
    """Whether it is a detached partition that is still guarded: its policies ask our function."""
    ours = ("table", table.name) in live.managed or table.name in desired.tables
    detached = table.detach_pending or (table.parent is None and not ours)
    return detached and any(policy.name in OUR_POLICIES for policy in table.policies)


def _enums(server: str, live: Catalog, desired: Catalog) -> Iterator[c.Change]:
    for name, enum in sorted(desired.enums.items()):
        existing = live.enums.get(name)
        if existing is None:
            yield c.CreateEnum(server=server, enum=enum)
            continue
        common = [label for label in existing.labels if label in enum.labels]
        if common != [label for label in enum.labels if label in existing.labels]:
            raise SchemaError(
                f'the labels of enum "{name}" stand in another order on server "{server}"',
                code="PS221",
                hint="PostgreSQL cannot reorder an enum; restore the order in the schema",
            )
        for position, label in enumerate(enum.labels):
            if label not in existing.labels:
                following = next(
                    (x for x in enum.labels[position + 1 :] if x in existing.labels), None
                )
                yield c.AddEnumLabel(server=server, enum=enum, label=label, before=following)
