"""Steps for triggers, policies, grants and properties of tables."""

from __future__ import annotations

from collections.abc import Iterator
from typing import assert_never

from psycopg.sql import SQL, Composable, Identifier

from parlant_shard import changes as c
from parlant_shard.catalog import Relkind, Table
from parlant_shard.ddl import names, storage
from parlant_shard.desired import SEAL_DELETE, SEAL_UPDATE
from parlant_shard.plan.draft import Builder, Draft, changed_options
from parlant_shard.plan.keys import sealing
from parlant_shard.plan.model import Hazard, Lock, Phase


class Properties(Builder):
    """Steps for triggers, policies, grants and properties of tables."""

    def _property(
        self,
        change: c.SetTrigger
        | c.DropTrigger
        | c.SetPolicy
        | c.DropPolicy
        | c.SetWall
        | c.AddGrants
        | c.AlterTable,
    ) -> Iterator[Draft]:
        table = change.table
        match change:
            case c.SetTrigger(trigger=trigger, exists=exists):
                constraint = exists and trigger.head.startswith("CREATE CONSTRAINT")
                sql: list[Composable] = []
                if constraint:
                    sql.append(self._drop_trigger(table.name, trigger.name))
                sql += self.ddl.trigger(table.name, trigger, replace=exists and not constraint)
                seals = trigger.name.startswith((SEAL_DELETE, SEAL_UPDATE))
                if trigger.name.startswith(SEAL_DELETE):
                    sql.append(sealing(self.target.topology, trigger))
                yield self._on(
                    change,
                    f'{"replace" if exists else "create"} trigger "{trigger.name}" on '
                    f'"{table.name}"',
                    *sql,
                    phase=Phase.SEALED if seals else None,
                    lock=Lock.ACCESS_EXCLUSIVE if constraint else Lock.SHARE_ROW_EXCLUSIVE,
                )
            case c.DropTrigger(trigger=trigger):
                yield self._on(
                    change,
                    f'drop trigger "{trigger.name}" of "{table.name}"',
                    self._drop_trigger(table.name, trigger.name),
                    phase=Phase.UNSEAL
                    if trigger.name.startswith((SEAL_DELETE, SEAL_UPDATE))
                    else None,
                    hazards=()
                    if trigger.name.startswith("parlant_shard_")
                    else (Hazard.DROPS_OBJECT,),
                )
            case c.SetPolicy(policy=policy, exists=exists):
                drop = SQL("DROP POLICY {} ON {}").format(
                    Identifier(policy.name), self.ddl.name(table.name)
                )
                yield self._on(
                    change,
                    f'{"replace" if exists else "create"} policy "{policy.name}" on "{table.name}"',
                    *([drop] if exists else []),
                    self.ddl.policy(table.name, policy),
                )
            case c.DropPolicy(policy=policy):
                yield self._on(
                    change,
                    f'drop policy "{policy.name}" of "{table.name}"',
                    SQL("DROP POLICY {} ON {}").format(
                        Identifier(policy.name), self.ddl.name(table.name)
                    ),
                    hazards=(Hazard.DROPS_OBJECT,),
                )
            case c.SetWall():
                yield self._wall(change)
            case c.AddGrants(grants=grants):
                yield self._on(
                    change,
                    f'grant {", ".join(sorted({g.privilege for g in grants}))} on "{table.name}"',
                    *(self.ddl.grant(table.name, g) for g in grants),
                    # 18 locks the table while it changes its privileges, 15-17 do not.
                    lock=Lock.ACCESS_SHARE if self.target.majors[change.server] >= 18 else None,
                )
            case c.AlterTable(aspect=aspect, live=live):
                yield self._altered_table(change, aspect, live)

    def _wall(self, change: c.SetWall) -> Draft:
        table = change.table
        sql: list[Composable] = [self.ddl.grant(table.name, g) for g in change.grants]
        sql += [
            SQL("DROP POLICY {} ON {}").format(Identifier(name), self.ddl.name(table.name))
            for name in change.dropped
        ]
        sql += [self.ddl.policy(table.name, policy) for policy in change.policies]
        live = change.live
        if (live.row_security, live.force_row_security) != (
            table.row_security,
            table.force_row_security,
        ):
            sql += self.ddl.row_security(table)
        what = "set" if table.row_security else "take away"
        return self._on(change, f'{what} row-level security of "{table.name}"', *sql)

    def _drop_trigger(self, table: str, trigger: str) -> Composable:
        return SQL("DROP TRIGGER {} ON {}").format(Identifier(trigger), self.ddl.name(table))

    def _altered_table(self, change: c.AlterTable, aspect: c.Aspect, live: Table) -> Draft:
        table = change.table
        title = f'set the {aspect.value} of "{table.name}"'
        match aspect:
            case c.Aspect.COMMENT:
                foreign = table.kind is Relkind.FOREIGN
                return self._on(
                    change,
                    title,
                    self.ddl.comment(
                        "FOREIGN TABLE" if foreign else "TABLE", table.name, table.comment
                    ),
                    lock=Lock.SHARE_UPDATE_EXCLUSIVE,
                )
            case c.Aspect.OPTIONS:
                gone = sorted(dict(live.options).keys() - dict(table.options).keys())
                changed = tuple(o for o in table.options if o not in live.options)
                statements = []
                if changed:
                    action = SQL("SET (") + storage(changed) + SQL(")")
                    statements.append(self.ddl.alter(table.name, action))
                if gone:
                    action = SQL("RESET (") + names(gone) + SQL(")")
                    statements.append(self.ddl.alter(table.name, action))
                return self._on(change, title, *statements, lock=Lock.SHARE_UPDATE_EXCLUSIVE)
            case c.Aspect.REPLICA_IDENTITY:
                return self._on(change, title, self.ddl.replica_identity(table))
            case c.Aspect.ROW_SECURITY:
                return self._on(change, title, *self.ddl.row_security(table))
            case c.Aspect.FOREIGN_OPTIONS:
                assert table.foreign is not None
                assert live.foreign is not None
                return self._on(
                    change,
                    title,
                    self.ddl.alter_foreign(
                        table.name,
                        SQL("OPTIONS (")
                        + changed_options(live.foreign.options, table.foreign.options)
                        + SQL(")"),
                    ),
                )
            case c.Aspect.PERSISTENCE:
                persistence = SQL("SET UNLOGGED" if table.unlogged else "SET LOGGED")
                return self._on(
                    change,
                    f"{title}: {'unlogged' if table.unlogged else 'logged'}, which rewrites it",
                    self.ddl.alter(table.name, persistence),
                    hazards=(Hazard.TABLE_REWRITE, Hazard.BLOCKS_WRITES, Hazard.BLOCKS_READS),
                )
            case _:
                assert_never(aspect)
