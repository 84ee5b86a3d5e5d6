"""Steps for keys, checks and foreign keys."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace

from psycopg.sql import SQL, Identifier

from parlant_shard import changes as c
from parlant_shard.catalog import Check, ForeignKey, Index, Key, Relkind, Table
from parlant_shard.ddl import text
from parlant_shard.diff import temporary
from parlant_shard.plan.draft import Builder, Draft, named
from parlant_shard.plan.model import Hazard, Kind, Lock, Phase


class Constraints(Builder):
    """Steps for keys, checks and foreign keys."""

    def _constraint(
        self,
        change: c.AddKey
        | c.AddCheck
        | c.SwapCheck
        | c.AddForeignKey
        | c.SwapForeignKey
        | c.ValidateConstraint
        | c.DropConstraint,
    ) -> Iterator[Draft]:
        table = change.table
        match change:
            case c.AddKey(key=key, index=index):
                yield from self._add_key(change, key, index)
            case c.AddCheck(check=check, leaves=leaves):
                yield from self._add_check(change, check, leaves, self._phase(change))
            case c.SwapCheck():
                yield from self._swap_check(change)
            case c.AddForeignKey():
                yield from self._add_foreign_key(change)
            case c.SwapForeignKey():
                yield from self._swap_foreign_key(change)
            case c.ValidateConstraint(name=name):
                yield self._on(
                    change,
                    f'validate constraint "{name}" of "{table.name}"',
                    self._validate(table.name, name),
                    phase=Phase.FOREIGN_KEYS if change.shard else Phase.REFERENCE_KEYS,
                    kind=Kind.VALIDATE,
                    lock=Lock.SHARE_UPDATE_EXCLUSIVE,
                    hazards=(Hazard.FULL_SCAN, Hazard.MAY_FAIL_ON_DATA),
                )
            case c.DropConstraint(name=name, why=why):
                foreign = table.kind is Relkind.FOREIGN
                alter = self.ddl.alter_foreign if foreign else self.ddl.alter
                yield self._on(
                    change,
                    f'drop {why.value} constraint "{name}" of "{table.name}"',
                    alter(table.name, SQL("DROP CONSTRAINT {}").format(Identifier(name))),
                    hazards=(Hazard.DROPS_OBJECT,) if why is c.Why.REMOVED and not foreign else (),
                )

    def _add_key(self, change: c.AddKey, key: Key, index: Index | None) -> Iterator[Draft]:
        table = change.table
        add = SQL("ADD ") + self.ddl.constraint(key.name, key.definition)
        if table.kind is Relkind.PARTITIONED:
            yield self._on(
                change,
                f'add constraint "{key.name}" to "{table.name}", adopting those of its partitions',
                self.ddl.alter(table.name, add),
            )
            return
        if key.definition.startswith("EXCLUDE"):
            yield self._on(
                change,
                f'add constraint "{key.name}" to "{table.name}", which builds its index under the '
                "lock",
                self.ddl.alter(table.name, add),
                hazards=(Hazard.BLOCKS_WRITES, Hazard.BLOCKS_READS, Hazard.INDEX_BUILD),
            )
            return
        if index is not None and not index.valid:
            yield self._dropped_index(change, index, c.Why.LEFTOVER)
            index = None
        if index is None:
            yield self._on(
                change,
                f'build the index of constraint "{key.name}" on "{table.name}"',
                self.ddl.unique_index(table.name, key, include=_key_index(key)),
                kind=Kind.CONCURRENT,
                lock=Lock.SHARE_UPDATE_EXCLUSIVE,
                hazards=(Hazard.INDEX_BUILD, Hazard.MAY_FAIL_ON_DATA),
                probe=self._index_probe(key.name, self._drop_index(key.name)),
            )
        kind = "PRIMARY KEY" if key.primary else "UNIQUE"
        tail = re.search(r"(?: DEFERRABLE| INITIALLY DEFERRED)+$", key.definition)
        yield self._on(
            change,
            f'add constraint "{key.name}" to "{table.name}" with that index',
            self.ddl.alter(
                table.name,
                SQL("ADD CONSTRAINT {} ").format(Identifier(key.name))
                + text(f"{kind} USING INDEX ")
                + Identifier(key.name)
                + text(tail[0] if tail else ""),
            ),
        )

    def _add_check(
        self,
        change: c.OnTable,
        check: Check,
        leaves: tuple[Table, ...],
        phase: Phase,
        begun: Check | None = None,
    ) -> Iterator[Draft]:
        """NOT VALID and VALIDATE apart; partitions first, so that the parent only merges."""
        table = change.table
        if table.kind is Relkind.FOREIGN:
            yield self._on(
                change,
                f'add check "{check.name}" to foreign table "{table.name}"',
                self.ddl.alter_foreign(
                    table.name, SQL("ADD ") + self.ddl.constraint(check.name, check.definition)
                ),
                phase=phase,
            )
            return
        partitioned = table.kind is Relkind.PARTITIONED
        for target in leaves if partitioned else (table,):
            existing = begun if not partitioned else named(target.checks, check.name)
            if existing is not None and existing.definition != check.definition:
                # Of another topology that was given up half-way.
                yield self._drop_leftover(change, "check", check.name, target, phase)
                existing = None
            if existing is None:
                yield self._on(
                    change,
                    f'add check "{check.name}" to "{target.name}", {_state(check)}',
                    self.ddl.alter(
                        target.name,
                        SQL("ADD ")
                        + self.ddl.constraint(check.name, check.definition)
                        + SQL("" if check.unenforced else " NOT VALID"),
                    ),
                    phase=phase,
                )
            if not check.unenforced and (existing is None or not existing.valid):
                yield self._on(
                    change,
                    f'validate check "{check.name}" of "{target.name}"',
                    self._validate(target.name, check.name),
                    phase=phase,
                    kind=Kind.VALIDATE,
                    lock=Lock.SHARE_UPDATE_EXCLUSIVE,
                    hazards=(Hazard.FULL_SCAN, Hazard.MAY_FAIL_ON_DATA),
                )
        if partitioned and begun is not None and not begun.valid:
            yield self._on(
                change,
                f'validate check "{check.name}" of "{table.name}", whose partitions are valid',
                self._validate(table.name, check.name),
                phase=phase,
                kind=Kind.VALIDATE,
                lock=Lock.SHARE_UPDATE_EXCLUSIVE,
            )
        if partitioned and begun is None:
            yield self._on(
                change,
                f'add check "{check.name}" to "{table.name}", merging that of its partitions',
                self.ddl.alter(
                    table.name, SQL("ADD ") + self.ddl.constraint(check.name, check.definition)
                ),
                phase=phase,
            )

    def _swap_check(self, change: c.SwapCheck) -> Iterator[Draft]:
        table, new = change.table, change.new
        phase = (
            Phase.FOREIGN
            if table.kind is Relkind.FOREIGN
            else Phase.NARROW
            if change.narrows
            else Phase.WIDEN
        )
        if table.kind is Relkind.FOREIGN:
            # A foreign table's CHECK is believed, not enforced: both changes are metadata.
            yield self._on(
                change,
                f'replace check "{new.name}" of foreign table "{table.name}"',
                self.ddl.alter_foreign(
                    table.name, SQL("DROP CONSTRAINT {}").format(Identifier(change.old.name))
                ),
                self.ddl.alter_foreign(
                    table.name, SQL("ADD ") + self.ddl.constraint(new.name, new.definition)
                ),
                phase=phase,
            )
            return
        successor = replace(new, name=temporary(new.name))
        yield from self._add_check(change, successor, change.leaves, phase, change.begun)
        statements = []
        if change.old is not change.new:
            statements.append(
                self.ddl.alter(
                    table.name, SQL("DROP CONSTRAINT {}").format(Identifier(change.old.name))
                )
            )
        statements.append(
            self.ddl.alter(
                table.name,
                SQL("RENAME CONSTRAINT {} TO {}").format(
                    Identifier(successor.name), Identifier(new.name)
                ),
            )
        )
        yield self._on(
            change,
            f'put the new check in the place of "{new.name}" on "{table.name}"',
            *statements,
            phase=phase,
        )

    def _drop_leftover(
        self, change: c.OnTable, what: str, name: str, target: Table, phase: Phase
    ) -> Draft:
        """Drop a constraint that an earlier run put on `target`, with another definition."""
        return self._on(
            change,
            f'drop leftover {what} "{name}" of "{target.name}"',
            self.ddl.alter(target.name, SQL("DROP CONSTRAINT {}").format(Identifier(name))),
            phase=phase,
        )

    def _add_foreign_key(self, change: c.AddForeignKey) -> Iterator[Draft]:
        """One that changes between NOT ENFORCED and enforced (18) was dropped before.

        ALTER CONSTRAINT would lock both tables against everybody, and scan under that lock.
        """
        table, fk = change.table, change.foreign_key
        phase = Phase.FOREIGN_KEYS if change.shard else Phase.REFERENCE_KEYS
        add = SQL("ADD ") + self.ddl.named_foreign_key(fk)
        if change.fresh:
            yield self._on(
                change,
                f'add foreign key "{fk.name}" to "{table.name}"',
                self.ddl.alter(table.name, add),
                phase=phase,
                lock=Lock.SHARE_ROW_EXCLUSIVE,
            )
            return
        partitioned = table.kind is Relkind.PARTITIONED
        for target in change.leaves if partitioned else (table,):
            # An inherited one goes with the parent's, which this plan replaces.
            own = [x for x in target.foreign_keys if not x.inherited]
            existing = named(own, fk.name) if partitioned else None
            if existing is not None and replace(existing, valid=True, inherited=False) != fk:
                yield self._drop_leftover(change, "foreign key", fk.name, target, phase)
                existing = None
            if existing is None:
                yield self._on(
                    change,
                    f'add foreign key "{fk.name}" to "{target.name}", {_state(fk)}',
                    self.ddl.alter(target.name, add + SQL("" if fk.unenforced else " NOT VALID")),
                    phase=phase,
                    lock=Lock.SHARE_ROW_EXCLUSIVE,
                )
            if not fk.unenforced and (existing is None or not existing.valid):
                yield self._on(
                    change,
                    f'validate foreign key "{fk.name}" of "{target.name}"',
                    self._validate(target.name, fk.name),
                    phase=phase,
                    kind=Kind.VALIDATE,
                    lock=Lock.SHARE_UPDATE_EXCLUSIVE,
                    hazards=(Hazard.FULL_SCAN, Hazard.MAY_FAIL_ON_DATA),
                )
        if partitioned:
            yield self._on(
                change,
                f'add foreign key "{fk.name}" to "{table.name}", adopting those of its partitions; '
                f'locks "{fk.ref_table}" for a moment',
                self.ddl.alter(table.name, add),
                phase=phase,
            )

    def _swap_foreign_key(self, change: c.SwapForeignKey) -> Iterator[Draft]:
        """The new one beside the old, validated; then one transaction puts it in its place."""
        table, fk = change.table, change.foreign_key
        taken = {x.name for leaf in change.leaves for x in leaf.foreign_keys if x.inherited}
        # Those of partitions keep the name under which they were made, also after the swap.
        name = temporary(fk.name)
        while name in taken:
            name = temporary(name)
        successor = replace(fk, name=name)
        partitioned = table.kind is Relkind.PARTITIONED
        for target in change.leaves if partitioned else (table,):
            own = [x for x in target.foreign_keys if not x.inherited]
            existing = named(own, name) if partitioned else change.begun
            if existing is not None and replace(existing, valid=True, inherited=False) != successor:
                yield self._drop_leftover(
                    change, "foreign key", existing.name, target, Phase.FOREIGN_KEYS
                )
                existing = None
            if existing is None:
                add = SQL("ADD ") + self.ddl.named_foreign_key(successor) + SQL(" NOT VALID")
                yield self._on(
                    change,
                    f'add foreign key "{name}" to "{target.name}", not yet validated',
                    self.ddl.alter(target.name, add),
                    phase=Phase.FOREIGN_KEYS,
                    lock=Lock.SHARE_ROW_EXCLUSIVE,
                )
            if existing is None or not existing.valid:
                yield self._on(
                    change,
                    f'validate foreign key "{name}" of "{target.name}"',
                    self._validate(target.name, name),
                    phase=Phase.FOREIGN_KEYS,
                    kind=Kind.VALIDATE,
                    lock=Lock.SHARE_UPDATE_EXCLUSIVE,
                    hazards=(Hazard.FULL_SCAN, Hazard.MAY_FAIL_ON_DATA),
                )
        statements = []
        if partitioned:
            add = SQL("ADD ") + self.ddl.named_foreign_key(successor)
            statements.append(self.ddl.alter(table.name, add))
        statements += [
            self.ddl.alter(table.name, SQL("DROP CONSTRAINT {}").format(Identifier(fk.name))),
            self.ddl.alter(
                table.name,
                SQL("RENAME CONSTRAINT {} TO {}").format(Identifier(name), Identifier(fk.name)),
            ),
        ]
        where = "the copy" if fk.key_table is None else "a key table"
        yield self._on(
            change,
            f'put it in the place of foreign key "{fk.name}" of "{table.name}", which then refers '
            f'to {where} of "{fk.ref_table}"',
            *statements,
            phase=Phase.FOREIGN_KEYS,
        )


def _state(item: Check | ForeignKey) -> str:
    return "not enforced" if item.unenforced else "not yet validated"


def _key_index(key: Key) -> str:
    """From a key's definition, what follows the table in CREATE UNIQUE INDEX."""
    body = re.sub(r"(?: DEFERRABLE| INITIALLY DEFERRED)+$", "", key.definition)
    body = re.sub(r"^(?:PRIMARY KEY|UNIQUE) ?", "", body)
    if body.startswith("NULLS NOT DISTINCT "):
        return body.removeprefix("NULLS NOT DISTINCT ") + " NULLS NOT DISTINCT"
    return body
