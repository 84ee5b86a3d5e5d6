"""The checks of definitions: what `diff` finds different, as findings of the right check.

A plan says what it would do; here the same differences are said as what is wrong. Beside them
stand what a plan leaves alone: foreign tables against the remote tables as they are, policies that
nobody asked for, and what is there and INVALID or NOT VALID.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

from psycopg.sql import SQL, Literal

from parlant_shard import canonical
from parlant_shard import changes as c
from parlant_shard.catalog import Check, ForeignKey, Policy, Relkind, Table
from parlant_shard.ddl import render
from parlant_shard.desired import check_name, fdw_name, publication_name, subscription_name
from parlant_shard.diff import OUR_POLICIES, Context, diff
from parlant_shard.errors import ShardError
from parlant_shard.names import suffixed
from parlant_shard.verify.read import Seen
from parlant_shard.verify.report import Finding, Severity
from parlant_shard.verify.words import (
    column_text,
    function_words,
    signing_words,
    wall_words,
    words,
)


def definitions(seen: Seen) -> Iterator[Finding]:
    """Everything that is wrong with what the servers that answered define."""
    for server in sorted(seen.sites):
        yield from _differences(seen, server)
        yield from _as_they_are(seen, server)
        yield from _policies(seen, server)
    yield from _foreign_tables(seen)


# --- what differs from what is desired ------------------------------------------------------------


def _differences(seen: Seen, server: str) -> Iterator[Finding]:
    topology = seen.topology
    slots = {*topology.servers, *seen.live[topology.coordinator].shards.values()}
    context = Context(
        coordinator=topology.coordinator,
        publication=publication_name(topology),
        slots=frozenset(subscription_name(topology, s) for s in slots),
    )
    try:
        found = diff({server: seen.live[server]}, {server: seen.wanted(server)}, context)
    except ShardError as error:
        yield Finding(check="schema", server=server, detail=error.message, statement=None)
        return
    built = {x.index.name for x in found if isinstance(x, c.CreateIndex)}
    names = {x.old: x.new for x in found if isinstance(x, c.RenameIndex) and x.old in built}
    for change in found:
        said = change
        match change:
            case c.RenameIndex(old=old) if old in names:
                continue  # said of the index that is built for it
            case c.CreateIndex(index=index) if index.name in names:
                said = replace(change, index=replace(index, name=names[index.name]))
        if not _unknowable(seen, change):
            yield from _of_change(seen, said)


def _unknowable(seen: Seen, change: c.Change) -> bool:
    """Whether the difference follows from a server that does not answer."""
    home = seen.topology.coordinator
    if isinstance(change, c.SetForeignServer):
        lost = {fdw_name(n) for n in seen.unreachable}
        return change.foreign_server.name in lost
    if home not in seen.unreachable:
        return False
    match change:
        case c.SetPlacements() | c.SetDirectory():
            return False
        case c.AddForeignKey(foreign_key=fk):
            return fk.ref_table in seen.tenancy.kinds
        case c.OnTable(shard=""):
            return True
        case (
            c.CreateSubscription()
            | c.ReconnectSubscription()
            | c.RefreshSubscription()
            | c.AwaitSubscription()
            | c.DropSubscription()
        ):
            return True
        case c.SetFunction(function=function):
            return function.executors is None  # what guards rows does not depend on it
    return False


def _of_change(seen: Seen, change: c.Change) -> Iterator[Finding]:
    """The finding of one difference. Some belong to other checks and yield none here."""
    find = _finder(seen, change)
    if isinstance(change, c.AddCheck | c.SwapCheck | c.ValidateConstraint) and _is_shard_check(
        seen, change
    ):
        if change.table.parent is None:  # a partition is compared with its parent below
            yield find("shard-check", words(change), "constraints")
        return
    match change:
        case c.SetPlacements() | c.SetDirectory() | c.SetUserMapping() | c.DropPolicy():
            return  # `placement`; a mapping is a role's own; policies are compared below
        case c.AnalyzeTable() | c.CommentIndex() | c.DropSlot():
            return
        case c.DropConstraint(why=c.Why.REPLACED) | c.DropIndex(why=c.Why.REPLACED):
            return  # said of what takes its place
        case c.OnTable(table=Table(kind=Relkind.FOREIGN)):
            yield find("foreign-tables", words(change), "foreign")
        case c.SetForeignServer(foreign_server=wanted, live=live):
            what = "is missing" if live is None else "has another address or other settings"
            yield find("foreign-tables", f'foreign server "{wanted.name}" {what}', "servers")
        case c.DropForeignServer(foreign_server=gone):
            yield find(
                "schema", f'foreign server "{gone.name}" is not needed', "servers", "warning"
            )
        case c.ValidateConstraint() | c.DropIndex(why=c.Why.REBUILT) | c.ReindexAttached():
            return  # `not-valid` and `invalid-indexes` look at what is there
        case c.CreateView() | c.DropView():
            yield find("federated-views", words(change), "view")
        case c.CreatePartition() | c.FinalizeDetach():
            yield find("partitions", words(change), "partitions", "warning")
        case c.SetPolicy(table=table) | c.AlterTable(table=table, aspect=c.Aspect.ROW_SECURITY):
            yield find(_guards(table), words(change), "policies")
        case c.SetWall(table=table):
            for text in wall_words(change):
                yield find(_guards(table), text, "policies")
            if change.grants:
                yield find("schema", _missing_grants(change), None, "warning")
        case c.SetSigningKeys():
            for text in signing_words(change):
                yield find("policies", text, "signing")
        case c.SetFunction(function=function) if function.executors is not None:
            there = seen.live[change.server].functions.get(function.signature)
            for text in function_words(change, there):
                yield find("policies", text, "functions")
        case c.DropFunction(function=function):
            left = f"the function {function.signature} is not needed; it passes over policies"
            yield find("policies", left, "functions")
        case c.CreateRole() if seen.topology.isolation.rls:
            yield find("policies", words(change), "roles")
        case c.CreateIndex(leaves=leaves, exists=True):
            for leaf in leaves:
                if not any(i.parent == change.index.name for i in leaf.indexes):
                    lacks = f'has no partition of the index "{change.index.name}"'
                    yield find("partitions", lacks, "indexes", table=leaf.name)
        case c.CreateIndex() if _rebuilds(seen, change):
            return
        case c.OnTable(table=Table(parent=str())):
            severity: Severity = (
                "warning" if isinstance(change, c.DropIndex | c.RenameIndex) else "error"
            )
            yield find("partitions", words(change), "constraints", severity)
        case c.AddColumn() | c.AlterColumn():
            yield find("columns", words(change), "columns")
        case c.AddKey() | c.AddForeignKey() | c.AddCheck() | c.SwapCheck():
            yield find("keys", words(change), "constraints")
        case c.CreateTable():
            yield find("schema", words(change), "columns")
        case (
            c.SetPublication()
            | c.DropPublication()
            | c.CreateSlot()
            | c.CreateSubscription()
            | c.ReconnectSubscription()
            | c.RefreshSubscription()
            | c.AwaitSubscription()
            | c.DropSubscription()
        ):
            yield find("replication", words(change), _REPLICATION.get(type(change), "replication"))
        case c.SetTrigger(trigger=trigger) if trigger.name.startswith("parlant_shard_audit_"):
            yield find("audit-trail", words(change), "triggers")
        case c.SetFunction(function=function) if function.signature.startswith(_ROW_AUDIT):
            yield find("audit-trail", words(change), "functions")
        case c.SetFunction(function=function) if function.signature.startswith("parlant_shard."):
            yield find("replication", words(change), "functions")
        case c.SetTrigger(trigger=trigger) if trigger.name.startswith("parlant_shard_"):
            yield find("replication", words(change), "triggers")
        case _:
            yield find("schema", words(change), None, "warning")


_ROW_AUDIT = ("parlant_shard.row_audit_", 'parlant_shard."row_audit_')

# What shows it, where that is not the subscriptions.
_REPLICATION: dict[type[c.Change], str] = {
    c.SetPublication: "publication",
    c.DropPublication: "publication",
    c.CreateSlot: "slots",
}


def _guards(table: Table) -> str:
    """The check that is about the row-level security of a table, or of a partition."""
    return "policies" if table.parent is None else "partitions"


def _missing_grants(change: c.SetWall) -> str:
    return words(
        c.AddGrants(
            server=change.server, table=change.table, shard=change.shard, grants=change.grants
        )
    )


def _is_shard_check(seen: Seen, change: c.AddCheck | c.SwapCheck | c.ValidateConstraint) -> bool:
    """Whether it is about the CHECK on the key of a shard table."""
    match change:
        case c.AddCheck(check=check) | c.SwapCheck(new=check):
            name = check.name
        case c.ValidateConstraint(name=name):
            pass
    if not change.shard or change.table.kind is Relkind.FOREIGN:
        return False
    managed = seen.wanted(change.server).managed["table", change.table.parent or change.table.name]
    return name == check_name(managed.logical, change.shard)


def _rebuilds(seen: Seen, change: c.CreateIndex) -> bool:
    """Whether the index is there and INVALID."""
    live = seen.live[change.server].tables.get(change.table.name)
    return live is not None and any(
        not i.valid and i.name == change.index.name for i in live.indexes
    )


# --- what is there --------------------------------------------------------------------------------


def _as_they_are(seen: Seen, server: str) -> Iterator[Finding]:
    """INVALID indexes and NOT VALID constraints of our tables, and partitions beside parents."""
    live, wanted = seen.live[server], seen.wanted(server)
    for name, table in sorted(live.tables.items()):
        root = table.parent or name
        managed = live.managed.get(("table", root)) or wanted.managed.get(("table", root))
        if managed is None or table.kind is Relkind.FOREIGN:
            continue
        find = finder_of(seen, server, managed.shard or None, name)
        for index in table.indexes:
            if not index.valid:
                yield find(
                    "invalid-indexes",
                    f'the index "{index.name}" is INVALID: queries do not use it',
                    "indexes",
                    "warning",
                )
        for key in table.keys:
            if not key.valid:
                yield find(
                    "invalid-indexes", f'the index of the key "{key.name}" is INVALID', "indexes"
                )
        ours = check_name(managed.logical, managed.shard) if managed.shard else ""
        parent = live.tables.get(root) if table.parent else None
        inherited = {x.name for x in parent.checks} if parent else set()
        constraints: tuple[Check | ForeignKey, ...] = (*table.checks, *table.foreign_keys)
        for constraint in constraints:
            mine = not (constraint.inherited and constraint.name in inherited)
            if not constraint.valid and constraint.name != ours and mine:
                yield find(
                    "not-valid",
                    f'the constraint "{constraint.name}" is NOT VALID: older rows may violate it',
                    "constraints",
                    "warning",
                )
        if parent is not None:
            yield from _beside_parent(table, parent, find)
    for name, subscription in sorted(live.subscriptions.items()):
        if name in wanted.subscriptions and not subscription.enabled:
            yield finder_of(seen, server, None, None)(
                "replication",
                f'the subscription "{name}" is disabled: the copies are not kept in step',
                "replication",
            )


def _beside_parent(leaf: Table, parent: Table, find: Find) -> Iterator[Finding]:
    """PostgreSQL keeps a partition from lacking these; a change of its catalogue does not."""
    checks = {check.definition: check.valid for check in leaf.checks}
    for check in parent.checks:
        name = f'the parent\'s CHECK "{check.name}" is'
        enforced = check.definition.removesuffix(" NOT ENFORCED")  # more than the parent asks
        if check.definition not in checks and enforced not in checks:
            yield find("partitions", f"{name} missing", "constraints")
        elif check.valid and not checks.get(check.definition, True):
            yield find("partitions", f"{name} NOT VALID here", "constraints")
    links = {(fk.columns, fk.ref_columns) for fk in leaf.foreign_keys}
    for fk in parent.foreign_keys:
        if (fk.columns, fk.ref_columns) not in links:
            detail = f'the parent\'s foreign key "{fk.name}" is missing'
            yield find("partitions", detail, "constraints")


def _policies(seen: Seen, server: str) -> Iterator[Finding]:
    """Policies that nobody asked for; what is missing or another is among the differences."""
    live, wanted = seen.live[server], seen.wanted(server)
    for name, table in sorted(live.tables.items()):
        root = table.parent or name
        managed = wanted.managed.get(("table", root))
        if managed is None or table.kind is Relkind.FOREIGN:
            continue
        if not managed.shard and not wanted.tables[root].row_security:
            continue  # a reference table that is not guarded: its policies are its owner's
        asked = OUR_POLICIES | {
            p.name for t in (wanted.tables.get(name), wanted.tables[root]) if t for p in t.policies
        }
        find = finder_of(seen, server, managed.shard or None, name)
        for policy in table.policies:
            if policy.name in asked:
                continue
            # Permissive ones are OR-ed: one more lets more through. Restrictive ones only narrow.
            severity: Severity = "error" if policy.permissive else "warning"
            detail = f"{_described(policy)} is in no topology"
            yield find(_guards(table), detail, "policies", severity)


def _described(policy: Policy) -> str:
    roles = ", ".join(r or "PUBLIC" for r in policy.roles)
    kind = "permissive" if policy.permissive else "restrictive"
    return f'the {kind} policy "{policy.name}" for {roles}'


# --- foreign tables against remote ones -----------------------------------------------------------


def _foreign_tables(seen: Seen) -> Iterator[Finding]:
    home = seen.topology.coordinator
    site = seen.sites.get(home)
    if site is None:
        return
    renamed = {(r["table"], r["column"]): r["options"] for r in site.named("foreign_columns")}
    for shard, options in seen.topology.shards.items():
        if options.server == home or options.server not in seen.sites:
            continue
        for logical in seen.tenancy.sharded:
            name = suffixed(logical, shard)
            foreign = seen.live[home].tables.get(name)
            remote = seen.live[options.server].tables.get(name)
            if foreign is None or foreign.kind is not Relkind.FOREIGN:
                continue
            find = finder_of(seen, home, shard, name)
            if remote is None:
                yield find("foreign-tables", f'"{options.server}" has no such table', "foreign")
                continue
            asked = seen.wanted(home).tables[name]
            for detail in _unlike(foreign, remote, asked, check_name(logical, shard)):
                yield find("foreign-tables", detail, "foreign")
            for column in foreign.columns:
                if (name, column.name) in renamed:
                    yield find(
                        "foreign-tables",
                        f'the column "{column.name}" reads another one: '
                        f"{renamed[name, column.name]}",
                        "foreign",
                    )


def _unlike(foreign: Table, remote: Table, asked: Table, check: str) -> Iterator[str]:
    """Where a foreign table differs from the remote one, and is what the topology asks for.

    Where it is not, the difference has been said already.
    """
    for column in remote.columns:
        mine, should = foreign.column(column.name), asked.column(column.name)
        if mine is None:
            if should is None:
                yield f'the remote column "{column.name}" is not among its columns'
        elif mine == should and (mine.type, mine.not_null) != (column.type, column.not_null):
            there = column_text(column)
            yield f'the column "{column.name}" is {column_text(mine)}, on the remote table {there}'
    for column in foreign.columns:
        if remote.column(column.name) is None and asked.column(column.name) is not None:
            yield f'the column "{column.name}" is not on the remote table'
    here = next((x.definition for x in foreign.checks if x.name == check), None)
    remotely = next((x.definition for x in remote.checks if x.name == check), None)
    should_be = next((x.definition for x in asked.checks if x.name == check), None)
    if here == should_be and here != remotely:
        yield f'the CHECK "{check}" is another on the remote table, or missing there'


# --- making findings ------------------------------------------------------------------------------

Find = Callable[..., Finding]


def _finder(seen: Seen, change: c.Change) -> Find:
    if isinstance(change, c.OnTable):
        return finder_of(seen, change.server, change.shard or None, change.table.name)
    if isinstance(change, c.CreateView | c.DropView):
        return finder_of(seen, change.server, None, change.view.name)
    return finder_of(seen, change.server, None, None)


def finder_of(seen: Seen, server: str, shard: str | None, name: str | None) -> Find:
    def find(
        check: str,
        detail: str,
        shows: str | None,
        severity: Severity = "error",
        table: str | None = None,
    ) -> Finding:
        about = table or name
        return Finding(
            check=check,
            server=server,
            shard=shard,
            table=about,
            detail=detail,
            severity=severity,
            statement=_shown(seen.topology.namespace, about, shows),
        )

    return find


_SHOWS = {
    "constraints": "SELECT conname, contype, convalidated, pg_catalog.pg_get_constraintdef(oid) "
    "FROM pg_catalog.pg_constraint WHERE conrelid = pg_catalog.to_regclass({})",
    "columns": "SELECT attname, pg_catalog.format_type(atttypid, atttypmod), attnotnull "
    "FROM pg_catalog.pg_attribute WHERE attrelid = pg_catalog.to_regclass({}) AND attnum > 0",
    "indexes": "SELECT indexrelid::pg_catalog.regclass, indisvalid, "
    "pg_catalog.pg_get_indexdef(indexrelid) FROM pg_catalog.pg_index "
    "WHERE indrelid = pg_catalog.to_regclass({})",
    "policies": "SELECT c.relrowsecurity, c.relforcerowsecurity, p.polname, p.polpermissive, "
    "p.polroles::pg_catalog.regrole[], pg_catalog.pg_get_expr(p.polqual, c.oid) "
    "FROM pg_catalog.pg_class c LEFT JOIN pg_catalog.pg_policy p ON p.polrelid = c.oid "
    "WHERE c.oid = pg_catalog.to_regclass({})",
    "partitions": "SELECT inhparent::pg_catalog.regclass, inhdetachpending "
    "FROM pg_catalog.pg_inherits WHERE inhrelid = pg_catalog.to_regclass({})",
    "foreign": "SELECT s.srvname, t.ftoptions, a.attname, "
    "pg_catalog.format_type(a.atttypid, a.atttypmod), a.attfdwoptions "
    "FROM pg_catalog.pg_foreign_table t JOIN pg_catalog.pg_foreign_server s ON s.oid = t.ftserver "
    "JOIN pg_catalog.pg_attribute a ON a.attrelid = t.ftrelid AND a.attnum > 0 "
    "WHERE t.ftrelid = pg_catalog.to_regclass({})",
    "view": "SELECT pg_catalog.pg_get_viewdef(pg_catalog.to_regclass({}))",
    "all triggers": "SELECT tgrelid::pg_catalog.regclass, tgname, tgenabled "
    "FROM pg_catalog.pg_trigger WHERE tgconstraint IN (SELECT oid FROM pg_catalog.pg_constraint "
    "WHERE conrelid = pg_catalog.to_regclass({}))",
    "rules": "SELECT rulename, pg_catalog.pg_get_ruledef(oid) FROM pg_catalog.pg_rewrite "
    "WHERE ev_class = pg_catalog.to_regclass({})",
    "heirs": "SELECT inhrelid::pg_catalog.regclass FROM pg_catalog.pg_inherits "
    "WHERE inhparent = pg_catalog.to_regclass({})",
    "triggers": "SELECT tgname, tgenabled, pg_catalog.pg_get_triggerdef(oid) "
    "FROM pg_catalog.pg_trigger WHERE tgrelid = pg_catalog.to_regclass({})",
}
_SHOWS_ALL = {
    "servers": "SELECT srvname, srvoptions FROM pg_catalog.pg_foreign_server",
    "replication": "SELECT subname, subenabled, subpublications FROM pg_catalog.pg_subscription",
    "publication": "SELECT p.pubname, p.pubinsert, p.pubupdate, p.pubdelete, p.pubtruncate, "
    "t.tablename, t.attnames, t.rowfilter FROM pg_catalog.pg_publication p "
    "LEFT JOIN pg_catalog.pg_publication_tables t USING (pubname)",
    "slots": "SELECT slot_name, active, wal_status FROM pg_catalog.pg_replication_slots",
    "trail triggers": "SELECT tgname, tgenabled, pg_catalog.pg_get_triggerdef(oid) "
    "FROM pg_catalog.pg_trigger WHERE tgrelid = pg_catalog.to_regclass('parlant_shard.audit')",
    "trail rules": "SELECT rulename, definition FROM pg_catalog.pg_rules "
    "WHERE schemaname = 'parlant_shard' AND tablename = 'audit'",
    "trail": "SELECT id, at, command, result, previous, hash FROM parlant_shard.audit ORDER BY id",
    "signing": "SELECT id FROM parlant_shard.signing_key",
    "functions": "SELECT oid::pg_catalog.regprocedure, proacl, prosrc FROM pg_catalog.pg_proc "
    "WHERE pronamespace = pg_catalog.to_regnamespace('parlant_shard')",
    "roles": "SELECT rolname, rolsuper, rolbypassrls FROM pg_catalog.pg_roles",
}


def _shown(namespace: str, table: str | None, shows: str | None) -> str | None:
    if shows in _SHOWS_ALL:
        return _SHOWS_ALL[shows]
    if shows is None or table is None:
        return None
    name = f"{canonical.quote(namespace)}.{canonical.quote(table)}"
    return render(SQL(_SHOWS[shows]).format(Literal(name)))
