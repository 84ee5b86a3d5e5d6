"""Differences that a plan would repair, said as what is wrong."""

from __future__ import annotations

from collections.abc import Iterator

from parlant_shard import changes as c
from parlant_shard.catalog import Column, Function, Table


def words(change: c.Change) -> str:
    """What is wrong, where a plan would say what it does."""
    match change:
        case c.AddCheck(check=check):
            return f'the CHECK "{check.name}" is missing'
        case c.SwapCheck(new=check):
            return f'the CHECK "{check.name}" has another condition, or is not enforced'
        case c.ValidateConstraint(name=name):
            return f'the constraint "{name}" is NOT VALID'
        case c.DropConstraint(name=name):
            return f'the constraint "{name}" is not among those that the table should have'
        case c.AddKey(key=key):
            kind = "primary key" if key.primary else "unique constraint"
            return f'the {kind} "{key.name}" is missing or another'
        case c.AddForeignKey(foreign_key=fk):
            return f'the foreign key "{fk.name}" is missing or another'
        case c.AddColumn(column=column):
            return f'the column "{column.name}" is missing'
        case c.DropColumn(column=column):
            return f'the column "{column.name}" is not among those that the table should have'
        case c.AlterColumn(old=old, new=new):
            return f'the column "{new.name}" is {column_text(old)} instead of {column_text(new)}'
        case c.CreateTable() | c.CreatePartition():
            return "the table is missing"
        case c.FinalizeDetach():
            return "a detach of the partition was interrupted; its rows are invisible"
        case c.DropTable(populated=populated):
            return "the table is of no shard of the topology" + (
                ", and has rows" if populated else ""
            )
        case c.RegisterTable():
            return "the table is not registered in parlant_shard.object"
        case c.CreateIndex(index=index):
            return f'the index "{index.name}" is missing or another'
        case c.DropIndex(index=index):
            return f'the index "{index.name}" is not among those that the table should have'
        case c.RenameIndex(old=name):
            return f'the index "{name}" was not put in its place'
        case c.SetTrigger(trigger=trigger, exists=exists):
            return (
                f'the trigger "{trigger.name}" is {"another, or disabled" if exists else "missing"}'
            )
        case c.DropTrigger(trigger=trigger):
            return f'the trigger "{trigger.name}" is not among those that the table should have'
        case c.SetPolicy(policy=policy, exists=exists):
            return f'the policy "{policy.name}" is {"another" if exists else "missing"}'
        case c.AlterTable(aspect=c.Aspect.ROW_SECURITY, live=live, table=table):
            return _row_security(live, table)
        case c.AlterTable(aspect=aspect):
            return f"the {aspect.value} differ from what the topology asks for"
        case c.AddGrants(grants=grants):
            listed = ", ".join(f"{g.privilege} for {g.role or 'PUBLIC'}" for g in grants)
            return f"privileges that the table should have are missing: {listed}"
        case c.CreateView(exists=exists):
            return "the view is another" if exists else "the view is missing"
        case c.DropView():
            return "the view is of no table of the topology"
        case c.CreateInternal():
            return "the schema parlant_shard is missing or of an earlier release"
        case c.CreateExtension(name=name):
            return f'the extension "{name}" is missing'
        case c.CreateRole(name=name):
            return f'the role "{name}" is missing'
        case c.CreateEnum(enum=enum):
            return f'the enum "{enum.name}" is missing'
        case c.AddEnumLabel(enum=enum, label=label):
            return f'the enum "{enum.name}" lacks the label "{label}"'
        case c.SetFunction(function=function):
            return f"the function {function.signature} is missing or another"
        case c.CreateSlot(name=name):
            return f'the replication slot "{name}" is missing: a copy gets no more changes'
        case c.SetPublication(publication=publication):
            return f'the publication "{publication.name}" is missing or another'
        case c.CreateSubscription(subscription=found):
            return f'the subscription "{found.name}" is missing: the copies are not kept in step'
        case c.ReconnectSubscription(subscription=found):
            return f'the subscription "{found.name}" reads from another database'
        case c.RefreshSubscription(subscription=found):
            return f'the subscription "{found.name}" does not have all tables'
        case c.AwaitSubscription(subscription=found):
            return f'the first copy of the subscription "{found.name}" is not finished'
        case c.DropSubscription(subscription=found):
            return f'the subscription "{found.name}" is not needed'
        case c.DropPublication(publication=publication):
            return f'the publication "{publication.name}" is not needed'
    return f"differs from what the topology asks for ({type(change).__name__})"


def wall_words(change: c.SetWall) -> Iterator[str]:
    """What is wrong with our policies of a table and with its row-level security, one by one."""
    for policy in change.policies:
        state = "another" if policy.name in change.dropped else "missing"
        yield f'the policy "{policy.name}" is {state}'
    for name in change.dropped:
        if all(policy.name != name for policy in change.policies):
            yield f'the policy "{name}" is not among those that the table should have'
    live, table = change.live, change.table
    if (live.row_security, live.force_row_security) != (
        table.row_security,
        table.force_row_security,
    ):
        yield _row_security(live, table)


def signing_words(change: c.SetSigningKeys) -> Iterator[str]:
    """Which workspace tokens a server takes for genuine, and should not, or the other way round."""
    for key in change.delete:
        yield f'workspace tokens of the signing key "{key}" are accepted, and should not be'
    for key in change.add:
        yield f'workspace tokens of the signing key "{key}" are not accepted'


def function_words(change: c.SetFunction, live: Function | None) -> Iterator[str]:
    """What is wrong with a function of the wall: what it does, and who may call it."""
    signature, wanted = change.function.signature, change.function.executors or ()
    if live is None or live.definition != change.function.definition:
        yield f"the function {signature} is {'another' if live else 'missing'}"
    if live is None or live.executors == wanted:
        return
    have = live.executors or ()
    for role in sorted({*have} - {*wanted}):
        yield f"{role or 'PUBLIC'} may call the function {signature}"
    for role in sorted({*wanted} - {*have}):
        yield f'"{role}" may not call the function {signature}'


def _row_security(live: Table, table: Table) -> str:
    if table.row_security and not live.row_security:
        return "row-level security is disabled"
    if table.force_row_security and not live.force_row_security:
        return "row-level security is not forced: the owner passes over it"
    if not table.row_security:
        return "row-level security is on, and should not be"
    return "row-level security is forced, and should not be"


def column_text(column: Column) -> str:
    """A column's type, nullability and default, for a message."""
    parts = [column.type, "NOT NULL" if column.not_null else "nullable"]
    return " ".join([*parts, *([f"default {column.default}"] if column.default else [])])
