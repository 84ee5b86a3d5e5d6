"""Compare triggers, policies, grants and the other properties of a table."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from parlant_shard import changes as c
from parlant_shard.catalog import Policy, Table
from parlant_shard.desired import ADMIT, SEAL_DELETE, SEAL_UPDATE

# Policies that the wall makes; all changes of them come as one.
OUR_POLICIES = frozenset(
    f"parlant_shard_{name}" for name in ("workspace", "shared", "owner", "analytics")
)

# Triggers that `desired` makes; others of that prefix belong to other commands.
_OUR_TRIGGERS = (
    ADMIT,
    SEAL_DELETE,
    SEAL_UPDATE,
    "parlant_shard_audit_delete",
    "parlant_shard_audit_insert",
    "parlant_shard_audit_update",
    "parlant_shard_cascade",
    "parlant_shard_guard",
    "parlant_shard_no_truncate",
)


def triggers_and_policies(on: dict[str, Any], live: Table, table: Table) -> Iterator[c.Change]:
    triggers = {t.name: t for t in live.triggers}
    for trigger in table.triggers:
        old = triggers.pop(trigger.name, None)
        if old != trigger:
            yield c.SetTrigger(**on, trigger=trigger, exists=old is not None)
    for name, trigger in triggers.items():
        if not name.startswith("parlant_shard_") or name.startswith(_OUR_TRIGGERS):
            yield c.DropTrigger(**on, trigger=trigger)
    yield from _policies(on, live, table)


def adopted(on: dict[str, Any], live: Table, table: Table) -> Iterator[c.Change]:
    """A table that was there before us is its owner's: only triggers of ours come and go."""
    triggers = {t.name: t for t in live.triggers if t.name.startswith(_OUR_TRIGGERS)}
    for trigger in table.triggers:
        if trigger.name.startswith(_OUR_TRIGGERS):
            old = triggers.pop(trigger.name, None)
            if old != trigger:
                yield c.SetTrigger(**on, trigger=trigger, exists=old is not None)
    for trigger in triggers.values():
        yield c.DropTrigger(**on, trigger=trigger)


def _policies(on: dict[str, Any], live: Table, table: Table) -> Iterator[c.Change]:
    policies = {p.name: p for p in live.policies if p.name not in OUR_POLICIES}
    for policy in table.policies:
        if policy.name in OUR_POLICIES:
            continue
        old_policy = policies.pop(policy.name, None)
        if old_policy != policy:
            yield c.SetPolicy(**on, policy=policy, exists=old_policy is not None)
    for name, policy in policies.items():
        if not name.startswith("parlant_shard_"):
            yield c.DropPolicy(**on, policy=policy)


def wall(live: Table, table: Table) -> tuple[tuple[Policy, ...], tuple[str, ...]]:
    """Our policies that are missing or differ, and the names of those that go before."""
    found = {p.name: p for p in live.policies if p.name in OUR_POLICIES}
    wanted = {p.name: p for p in table.policies if p.name in OUR_POLICIES}
    new = tuple(p for p in wanted.values() if found.get(p.name) != p)
    return new, tuple(sorted(n for n, p in found.items() if wanted.get(n) != p))


def properties(on: dict[str, Any], live: Table, table: Table) -> Iterator[c.Change]:
    # Privileges that the schema does not name stay: applications are granted theirs by hand.
    missing = tuple(g for g in table.grants if g not in live.grants)
    policies, dropped = wall(live, table)
    flags = (live.row_security, live.force_row_security)
    if policies or dropped:
        yield c.SetWall(**on, live=live, policies=policies, dropped=dropped, grants=missing)
        flags, missing = (table.row_security, table.force_row_security), ()
    if missing:
        yield c.AddGrants(**on, grants=missing)
    for aspect, differs in (
        (c.Aspect.COMMENT, live.comment != table.comment),
        (c.Aspect.OPTIONS, live.options != table.options),
        (c.Aspect.REPLICA_IDENTITY, live.replica_identity != table.replica_identity),
        (
            c.Aspect.ROW_SECURITY,
            flags != (table.row_security, table.force_row_security),
        ),
        (c.Aspect.FOREIGN_OPTIONS, live.foreign != table.foreign),
        (c.Aspect.PERSISTENCE, live.unlogged != table.unlogged),
    ):
        if differs:
            yield c.AlterTable(**on, aspect=aspect, live=live)
