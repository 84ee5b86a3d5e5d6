"""Changes → ordered steps with ids that are the same for the same work."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import assert_never

from parlant_shard import canonical
from parlant_shard import changes as c
from parlant_shard.catalog import Check, Relkind
from parlant_shard.diff import listed
from parlant_shard.plan.columns import Columns
from parlant_shard.plan.constraints import Constraints
from parlant_shard.plan.draft import Draft, Target
from parlant_shard.plan.federation import Federation
from parlant_shard.plan.indexes import Indexes
from parlant_shard.plan.keys import KeyTables
from parlant_shard.plan.model import TIMEOUTS, Hazard, Kind, Lock, Step
from parlant_shard.plan.moving import Moving
from parlant_shard.plan.placement import Placements
from parlant_shard.plan.properties import Properties
from parlant_shard.plan.replication import Replication
from parlant_shard.plan.tables import Tables
from parlant_shard.plan.upkeep import Upkeep


def build(changes: Iterable[c.Change], target: Target) -> tuple[Step, ...]:
    """Turn changes into ordered steps with ids that are the same for the same work."""
    steps_of = _Steps(target)
    drafts = [d for change in _staged(changes, target) for d in steps_of.drafts(change)]
    drafts.sort(key=lambda d: d.phase)  # stable: the order of changes stays within a phase
    seen: dict[str, int] = {}
    steps = []
    for draft in drafts:
        digest = hashlib.sha256("\0".join((draft.server, *draft.sql)).encode()).hexdigest()[:12]
        count = seen[digest] = seen.get(digest, 0) + 1
        lock_timeout, statement_timeout = TIMEOUTS[draft.kind]
        if {Hazard.TABLE_REWRITE, Hazard.INDEX_BUILD} & set(draft.hazards):
            # What is said to take as long as the table is large must be given that time.
            statement_timeout = TIMEOUTS[Kind.VALIDATE][1]
        statement_timeout = draft.statement_timeout or statement_timeout
        lock_timeout = draft.lock_timeout or lock_timeout
        steps.append(
            Step(
                id=digest if count == 1 else f"{digest}-{count}",
                phase=int(draft.phase),
                server=draft.server,
                shard=draft.shard or None,
                title=draft.title,
                sql=draft.sql,
                transactional=draft.transactional,
                lock=draft.lock,
                hazards=tuple(h.value for h in draft.hazards),
                lock_timeout_ms=lock_timeout,
                statement_timeout_ms=statement_timeout,
                kind=draft.kind,
                probe=draft.probe,
                secret=draft.secret,
                undo=draft.undo,
            )
        )
    return tuple(steps)


def _staged(changes: Iterable[c.Change], target: Target) -> Iterator[c.Change]:
    """Split the CHECK changes of shards that give to and take from each other.

    A shard that loses ws1 and gains ws2 from a shard that still admits ws2 first shrinks to what
    it keeps; the widening comes when every shard has given up what it loses.
    """
    changes = tuple(changes)
    lost = {
        workspace
        for change in changes
        if isinstance(change, c.SwapCheck)
        and change.narrows
        and change.table.kind is not Relkind.FOREIGN
        for workspace in listed(change.old) - listed(change.new)
    }
    for change in changes:
        if (
            isinstance(change, c.SwapCheck)
            and change.narrows
            and change.begun is None
            and change.table.kind is not Relkind.FOREIGN
            and "bucket(" not in change.old.definition + change.new.definition
            and (listed(change.new) - listed(change.old)) & lost
        ):
            kept = sorted(listed(change.old) & listed(change.new))
            middle = Check(
                name=change.new.name,
                definition=canonical.list_check(target.key, target.key_type, kept),
            )
            yield replace(change, new=middle)
            yield replace(change, old=middle, narrows=False)
        else:
            yield change


class _Steps(
    Tables,
    Columns,
    Constraints,
    Indexes,
    Properties,
    Federation,
    Replication,
    KeyTables,
    Placements,
    Upkeep,
    Moving,
):
    """The builders of all nouns together: one change in, its steps out."""

    def drafts(self, change: c.Change) -> Iterator[Draft]:
        match change:
            case (
                c.CreateInternal()
                | c.CreateExtension()
                | c.CreateRole()
                | c.SetSigningKeys()
                | c.CreateEnum()
                | c.AddEnumLabel()
                | c.SetFunction()
                | c.DropFunction()
            ):
                yield from self._database(change)
            case c.CreateTable() | c.CreatePartition() | c.FinalizeDetach() | c.DropTable():
                yield from self._whole_table(change)
            case c.MoveRows() | c.DropCopies():
                yield from self._move(change)
            case (
                c.DetachPartition()
                | c.SettleDetach()
                | c.ForgetDetach()
                | c.ArchivePartition()
                | c.AnalyzeTable()
            ):
                yield from self._upkeep(change)
            case c.RegisterTable():
                yield self._on(
                    change,
                    f'register table "{change.table.name}" as managed',
                    self._register(change.managed),
                    lock=Lock.ROW_EXCLUSIVE,
                )
            case c.AddColumn() | c.DropColumn() | c.AlterColumn():
                yield from self._column(change)
            case (
                c.AddKey()
                | c.AddCheck()
                | c.SwapCheck()
                | c.AddForeignKey()
                | c.SwapForeignKey()
                | c.ValidateConstraint()
                | c.DropConstraint()
            ):
                yield from self._constraint(change)
            case (
                c.CreateIndex()
                | c.DropIndex()
                | c.RenameIndex()
                | c.ReindexAttached()
                | c.CommentIndex()
            ):
                yield from self._index(change)
            case (
                c.SetTrigger()
                | c.DropTrigger()
                | c.SetPolicy()
                | c.DropPolicy()
                | c.SetWall()
                | c.AddGrants()
                | c.AlterTable()
            ):
                yield from self._property(change)
            case (
                c.SetForeignServer()
                | c.DropForeignServer()
                | c.SetUserMapping()
                | c.CreateView()
                | c.DropView()
            ):
                yield from self._federation(change)
            case (
                c.SetPublication()
                | c.DropPublication()
                | c.CreateSlot()
                | c.DropSlot()
                | c.CreateSubscription()
                | c.ReconnectSubscription()
                | c.RefreshSubscription()
                | c.AwaitSubscription()
                | c.DropSubscription()
            ):
                yield from self._replication(change)
            case (
                c.CreateKeys()
                | c.DropKeys()
                | c.SetSeal()
                | c.DropSeal()
                | c.GrantSeal()
                | c.AwaitSeals()
            ):
                yield from self._keys(change)
            case c.SetPlacements() | c.SetDirectory():
                yield from self._placement(change)
            case _:
                assert_never(change)
