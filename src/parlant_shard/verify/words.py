"""Differences that a plan would mend, said as what is wrong."""

from __future__ import annotations

from parlant_shard import changes as c
from parlant_shard.catalog import Column


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
            if table.row_security and not live.row_security:
                return "row-level security is disabled"
            if table.force_row_security and not live.force_row_security:
                return "row-level security is not forced: the owner passes over it"
            return "row-level security is on, and should not be"
        case c.AlterTable(aspect=aspect):
            return f"the {aspect.value} differ from what the topology asks for"
        case c.AddGrants(grants=grants):
            listed = ", ".join(f"{g.privilege} for {g.role or 'PUBLIC'}" for g in grants)
            return f"privileges that the schema grants are missing: {listed}"
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


def column_text(column: Column) -> str:
    """A column's type, nullability and default, for a message."""
    parts = [column.type, "NOT NULL" if column.not_null else "nullable"]
    return " ".join([*parts, *([f"default {column.default}"] if column.default else [])])
