"""The closed set of changes between two catalogues: `diff` finds them, `plan` makes SQL of them."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from parlant_shard.catalog import (
    Check,
    Column,
    EnumType,
    ForeignKey,
    ForeignServer,
    Function,
    Grant,
    Index,
    Key,
    KeyTable,
    Managed,
    Placement,
    Policy,
    Publication,
    Retired,
    Seal,
    Subscription,
    Table,
    Trigger,
    UserMapping,
    View,
)


class Aspect(StrEnum):
    """A property of a table that one ALTER (or COMMENT) sets."""

    COMMENT = "comment"
    OPTIONS = "storage parameters"
    REPLICA_IDENTITY = "replica identity"
    ROW_SECURITY = "row-level security"
    FOREIGN_OPTIONS = "foreign table options"
    PERSISTENCE = "persistence"


class Why(StrEnum):
    """Why an object goes. Only REMOVED takes away something that somebody may still want."""

    REMOVED = "removed"
    REPLACED = "replaced"
    LEFTOVER = "leftover"
    REBUILT = "rebuilt"
    OUTSIDE = "out-of-window"


@dataclass(frozen=True, slots=True, kw_only=True)
class OnServer:
    """What all changes have."""

    server: str


@dataclass(frozen=True, slots=True, kw_only=True)
class OnTable(OnServer):
    """A change of one table, on the shard it belongs to ('' for none)."""

    table: Table
    shard: str = ""


# --- the database ---------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class CreateInternal(OnServer):
    """Create the schema `parlant_shard`, or upgrade it from the version that is there."""

    version: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class CreateExtension(OnServer):
    name: str


@dataclass(frozen=True, slots=True, kw_only=True)
class CreateRole(OnServer):
    """Create a role that may neither log in nor pass over policies."""

    name: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SetSigningKeys(OnServer):
    """Keys that tokens may be signed with, by their ids."""

    add: tuple[str, ...]
    delete: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class CreateEnum(OnServer):
    enum: EnumType


@dataclass(frozen=True, slots=True, kw_only=True)
class AddEnumLabel(OnServer):
    enum: EnumType
    label: str
    before: str | None  # None: at the end


@dataclass(frozen=True, slots=True, kw_only=True)
class SetFunction(OnServer):
    function: Function
    exists: bool
    revoked: tuple[str, ...] = ()  # roles that may call it and should not


@dataclass(frozen=True, slots=True, kw_only=True)
class DropFunction(OnServer):
    """A function of the wall that nothing calls any more."""

    function: Function


# --- tables ---------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class CreateTable(OnTable):
    managed: Managed
    foreign_keys: tuple[ForeignKey, ...]  # those that can be part of the creation
    weaker: bool = False  # uniqueness that holds within a partition only


@dataclass(frozen=True, slots=True, kw_only=True)
class CreatePartition(OnTable):
    """`default` is the default partition that must prove first that it holds no row of it."""

    parent: Table
    default: Table | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class FinalizeDetach(OnTable):
    """`table` is the partition whose concurrent detach was interrupted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DetachPartition(OnTable):
    """Retire a partition: `table` is detached, at `now` by the clock of the run.

    `at_once` where a default partition forbids doing it concurrently.
    """

    logical: str
    now: datetime
    at_once: bool = False
    announced: bool = False  # an earlier run wrote the row


@dataclass(frozen=True, slots=True, kw_only=True)
class SettleDetach(OnTable):
    """Finish what follows a detach that was interrupted: foreign keys go, the row says detached."""

    now: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class ForgetDetach(OnTable):
    """A detach that was announced does not come: the partition is not expired any more."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ArchivePartition(OnTable):
    """Write a detached partition to a verified file, then drop it."""

    retired: Retired
    target: str
    enums: tuple[EnumType, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class AnalyzeTable(OnTable):
    """Take statistics: nobody else does it for a partitioned table."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MoveRows(OnTable):
    """Move rows out of a default partition of `table`, into `partitions`; the rest stays.

    `remainder` is the default partition as it is afterwards.
    """

    default: Table
    partitions: tuple[Table, ...]
    remainder: Table


@dataclass(frozen=True, slots=True, kw_only=True)
class DropCopies(OnTable):
    """Drop what a killed run had copied out of a default partition of `table`."""

    names: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class DropTable(OnTable):
    populated: bool
    why: Why


@dataclass(frozen=True, slots=True, kw_only=True)
class RegisterTable(OnTable):
    managed: Managed


@dataclass(frozen=True, slots=True, kw_only=True)
class AddColumn(OnTable):
    column: Column
    leaves: tuple[Table, ...] = ()
    begun: bool = False  # it is there, with old rows still to be filled
    proved: bool = False  # it is NOT NULL already
    checks: tuple[Check, ...] = ()  # the table's live checks, where it was begun


@dataclass(frozen=True, slots=True, kw_only=True)
class DropColumn(OnTable):
    column: Column


@dataclass(frozen=True, slots=True, kw_only=True)
class AlterColumn(OnTable):
    old: Column
    new: Column
    leaves: tuple[Table, ...] = ()
    viewed: bool = False
    begun: tuple[Check, ...] = ()  # the table's live checks: a proof of NOT NULL may be among them


@dataclass(frozen=True, slots=True, kw_only=True)
class AddKey(OnTable):
    key: Key
    index: Index | None  # a leftover of the same name


@dataclass(frozen=True, slots=True, kw_only=True)
class AddCheck(OnTable):
    check: Check
    leaves: tuple[Table, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class SwapCheck(OnTable):
    """Replace a valid CHECK without a moment in which none is valid.

    `begun` is a leftover of the same definition under the temporary name; `narrows` says that the
    new one admits less than the old one.
    """

    old: Check
    new: Check
    begun: Check | None
    narrows: bool
    leaves: tuple[Table, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class AddForeignKey(OnTable):
    foreign_key: ForeignKey
    leaves: tuple[Table, ...] = ()
    fresh: bool = False  # both tables are new: nothing to validate


@dataclass(frozen=True, slots=True, kw_only=True)
class SwapForeignKey(OnTable):
    """Point a foreign key at a key table, or back, without a moment in which none holds.

    `begun` is a leftover under the temporary name.
    """

    foreign_key: ForeignKey
    begun: ForeignKey | None
    leaves: tuple[Table, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class ValidateConstraint(OnTable):
    name: str


@dataclass(frozen=True, slots=True, kw_only=True)
class DropConstraint(OnTable):
    name: str
    why: Why


@dataclass(frozen=True, slots=True, kw_only=True)
class CreateIndex(OnTable):
    """Build an index online. `leaves` holds the partitions of a partitioned table."""

    index: Index
    exists: bool = False  # partitioned: the parent's index is there, INVALID
    successor: bool = False  # takes another one's name later
    leaves: tuple[Table, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class DropIndex(OnTable):
    index: Index
    why: Why


@dataclass(frozen=True, slots=True, kw_only=True)
class RenameIndex(OnTable):
    old: str
    new: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ReindexAttached(OnTable):
    """Repair an INVALID index where it is; one that is attached is attached again."""

    index: Index


@dataclass(frozen=True, slots=True, kw_only=True)
class CommentIndex(OnTable):
    index: Index


@dataclass(frozen=True, slots=True, kw_only=True)
class SetTrigger(OnTable):
    trigger: Trigger
    exists: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class DropTrigger(OnTable):
    trigger: Trigger


@dataclass(frozen=True, slots=True, kw_only=True)
class SetPolicy(OnTable):
    policy: Policy
    exists: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class DropPolicy(OnTable):
    policy: Policy


@dataclass(frozen=True, slots=True, kw_only=True)
class SetWall(OnTable):
    """Privileges, our policies and row-level security of one table, all at once.

    So there is no moment in between at which the application would see nothing, or everything.
    """

    live: Table
    policies: tuple[Policy, ...]  # to create, or to create again
    dropped: tuple[str, ...]  # their names, and those of policies that go
    grants: tuple[Grant, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class AddGrants(OnTable):
    grants: tuple[Grant, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class AlterTable(OnTable):
    aspect: Aspect
    live: Table


# --- federation -----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class SetForeignServer(OnServer):
    foreign_server: ForeignServer
    live: ForeignServer | None


@dataclass(frozen=True, slots=True, kw_only=True)
class DropForeignServer(OnServer):
    foreign_server: ForeignServer


@dataclass(frozen=True, slots=True, kw_only=True)
class SetUserMapping(OnServer):
    mapping: UserMapping
    live: UserMapping | None
    peer: str  # the server that it leads to


@dataclass(frozen=True, slots=True, kw_only=True)
class CreateView(OnServer):
    """Create or replace; `swap` where the new one is no extension of the old."""

    view: View
    managed: Managed
    exists: bool = False
    swap: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class DropView(OnServer):
    view: View
    why: Why


# --- reference tables -----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class SetPublication(OnServer):
    publication: Publication
    exists: bool
    operations: bool = False  # whether what it publishes is another


@dataclass(frozen=True, slots=True, kw_only=True)
class DropPublication(OnServer):
    publication: Publication


@dataclass(frozen=True, slots=True, kw_only=True)
class CreateSlot(OnServer):
    name: str


@dataclass(frozen=True, slots=True, kw_only=True)
class DropSlot(OnServer):
    name: str


@dataclass(frozen=True, slots=True, kw_only=True)
class CreateSubscription(OnServer):
    subscription: Subscription
    publisher: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ReconnectSubscription(OnServer):
    subscription: Subscription
    publisher: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RefreshSubscription(OnServer):
    subscription: Subscription


@dataclass(frozen=True, slots=True, kw_only=True)
class AwaitSubscription(OnServer):
    """Wait until the initial copy is there: foreign keys on the shards need it."""

    subscription: Subscription


@dataclass(frozen=True, slots=True, kw_only=True)
class DropSubscription(OnServer):
    subscription: Subscription


@dataclass(frozen=True, slots=True, kw_only=True)
class CreateKeys(OnTable):
    """Create a key table, filled from the copy `table`, and the trigger that keeps it."""

    key: KeyTable
    trigger: Trigger
    schema: bool  # whether the schema of the key tables is still to be made


@dataclass(frozen=True, slots=True, kw_only=True)
class DropKeys(OnTable):
    """Drop a key table that no foreign key needs any more. `last`: their schema may go too."""

    key: KeyTable
    trigger: str
    last: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class SetSeal(OnServer):
    """Coordinator: create the way to the key tables of a server."""

    seal: Seal


@dataclass(frozen=True, slots=True, kw_only=True)
class DropSeal(OnServer):
    seal: Seal


@dataclass(frozen=True, slots=True, kw_only=True)
class GrantSeal(OnServer):
    """Let the role that the coordinator comes as seal keys of this server."""

    role: str


@dataclass(frozen=True, slots=True, kw_only=True)
class AwaitSeals(OnServer):
    """Wait until the copies have what was deleted before deletions were sealed.

    `slots`: the servers with their slots.
    """

    slots: tuple[tuple[str, str], ...]


# --- placement ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class SetPlacements(OnServer):
    upsert: tuple[Placement, ...]
    delete: tuple[Placement, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class SetDirectory(OnServer):
    upsert: tuple[Placement, ...]
    delete: tuple[Placement, ...]
    shards: tuple[tuple[str, str], ...]  # every shard with its server
    shards_changed: bool


Change = (
    CreateInternal
    | CreateExtension
    | CreateRole
    | SetSigningKeys
    | CreateEnum
    | AddEnumLabel
    | SetFunction
    | DropFunction
    | CreateTable
    | CreatePartition
    | FinalizeDetach
    | DetachPartition
    | MoveRows
    | DropCopies
    | SettleDetach
    | ForgetDetach
    | ArchivePartition
    | AnalyzeTable
    | DropTable
    | RegisterTable
    | AddColumn
    | DropColumn
    | AlterColumn
    | AddKey
    | AddCheck
    | SwapCheck
    | AddForeignKey
    | SwapForeignKey
    | ValidateConstraint
    | DropConstraint
    | CreateIndex
    | DropIndex
    | RenameIndex
    | ReindexAttached
    | CommentIndex
    | SetTrigger
    | DropTrigger
    | SetPolicy
    | DropPolicy
    | SetWall
    | AddGrants
    | AlterTable
    | SetForeignServer
    | DropForeignServer
    | SetUserMapping
    | CreateView
    | DropView
    | SetPublication
    | DropPublication
    | CreateSlot
    | DropSlot
    | CreateSubscription
    | ReconnectSubscription
    | RefreshSubscription
    | AwaitSubscription
    | DropSubscription
    | CreateKeys
    | DropKeys
    | SetSeal
    | DropSeal
    | GrantSeal
    | AwaitSeals
    | SetPlacements
    | SetDirectory
)
