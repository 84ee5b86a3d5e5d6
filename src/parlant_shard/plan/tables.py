"""Steps for the database and for whole tables."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from psycopg.sql import SQL, Composable, Identifier, Literal

from parlant_shard import changes as c
from parlant_shard import signing
from parlant_shard.catalog import Function, Relkind
from parlant_shard.ddl import render, role, text
from parlant_shard.desired import INTERNAL_VERSION
from parlant_shard.diff import GUARD
from parlant_shard.plan.draft import Builder, Draft
from parlant_shard.plan.model import Hazard, Kind, Lock, Phase
from parlant_shard.rls import WORKSPACE
from parlant_shard.sqlfiles import queries


class Tables(Builder):
    """Steps for the database and for whole tables."""

    def _database(
        self,
        change: c.CreateInternal
        | c.CreateExtension
        | c.CreateRole
        | c.SetSigningKeys
        | c.CreateEnum
        | c.AddEnumLabel
        | c.SetFunction
        | c.DropFunction,
    ) -> Iterator[Draft]:
        is_coordinator = change.server == self.target.coordinator
        types = Phase.TYPES_COORDINATOR if is_coordinator else Phase.TYPES
        match change:
            case c.CreateInternal(version=version):
                scripts = [f"upgrade_{v}" for v in range(max(1, version), INTERNAL_VERSION)]
                title = f"upgrade the schema parlant_shard from version {version}"
                if not version:
                    scripts.insert(0, "create")
                    title = "create the schema parlant_shard for placement, journal and runs"
                yield Draft(
                    phase=Phase.INTERNAL_COORDINATOR if is_coordinator else Phase.INTERNAL,
                    server=change.server,
                    title=title,
                    sql=tuple(s for n in scripts for s in _statements(queries("internal")[n])),
                    lock=Lock.ACCESS_EXCLUSIVE,
                )
            case c.CreateExtension(name=name):
                schema = "parlant_shard" if name == "postgres_fdw" else self.target.namespace
                yield Draft(
                    phase=types,
                    server=change.server,
                    title=f'create extension "{name}"',
                    sql=(
                        render(
                            SQL("CREATE EXTENSION {} SCHEMA {}").format(
                                Identifier(name), Identifier(schema)
                            )
                        ),
                    ),
                )
            case c.CreateRole(name=name):
                # Roles are of the whole server: another of its databases, or its lane of this very
                # run, may have made it. There is no IF NOT EXISTS.
                body = SQL(
                    "BEGIN CREATE ROLE {} NOLOGIN NOBYPASSRLS; "
                    "EXCEPTION WHEN duplicate_object OR unique_violation THEN NULL; END"
                ).format(Identifier(name))
                yield Draft(
                    phase=Phase.ROLES,
                    server=change.server,
                    title=f'create role "{name}" {self._purpose(name)}',
                    sql=(render(SQL("DO {}").format(Literal(render(body)))),),
                )
            case c.CreateEnum(enum=enum):
                yield Draft(
                    phase=types,
                    server=change.server,
                    title=f'create enum "{enum.name}"',
                    sql=(render(self.ddl.create_enum(enum)),),
                )
            case c.AddEnumLabel(enum=enum, label=label, before=before):
                statement = SQL("ALTER TYPE {} ADD VALUE {}").format(
                    self.ddl.name(enum.name), Literal(label)
                )
                if before is not None:
                    statement += SQL(" BEFORE {}").format(Literal(before))
                yield Draft(
                    phase=types,
                    server=change.server,
                    title=f'add label "{label}" to enum "{enum.name}"',
                    sql=(render(statement),),
                )
            case c.SetSigningKeys():
                yield from self._signing_keys(change)
            case c.SetFunction(function=function, exists=exists):
                over_tables = function.executors is not None and function.signature != WORKSPACE
                yield Draft(
                    # One that reads shard tables comes when they are there, before any goes.
                    phase=Phase.VIEWS if over_tables else Phase.FUNCTIONS,
                    server=change.server,
                    title=f"{'replace' if exists else 'create'} function {function.signature}",
                    # A body may name what is created later, or with another search_path.
                    sql=(
                        "SET LOCAL check_function_bodies = off",
                        function.definition,
                        *self._executors(function, change.revoked),
                    ),
                )
            case c.DropFunction(function=function):
                yield Draft(
                    phase=Phase.DROP_REST,
                    server=change.server,
                    title=f"drop function {function.signature}",
                    sql=(f"DROP FUNCTION {function.signature}",),
                )

    def _purpose(self, role: str) -> str:
        return "of analytics" if role == self.target.analytics else "of the application"

    def _executors(self, function: Function, revoked: tuple[str, ...]) -> tuple[str, ...]:
        """Who may call a function of ours, and name it: it stands in the schema parlant_shard."""
        if function.executors is None:
            return ()
        on = SQL("ON FUNCTION ") + text(function.signature)
        statements: list[Composable] = [
            SQL("REVOKE ALL {} FROM {}").format(on, role(name)) for name in ("", *revoked)
        ]
        if function.executors:
            names = SQL(", ").join(role(name) for name in function.executors)
            statements += [
                SQL("GRANT EXECUTE {} TO {}").format(on, names),
                SQL("GRANT USAGE ON SCHEMA parlant_shard, {} TO {}").format(
                    Identifier(self.target.namespace), names
                ),
            ]
        return tuple(render(s) for s in statements)

    def _signing_keys(self, change: c.SetSigningKeys) -> Iterator[Draft]:
        for key in change.add:
            yield Draft(
                phase=Phase.ROLES,
                server=change.server,
                title=f'accept workspace tokens of the signing key "{key}"',
                sql=(
                    render(
                        SQL(
                            "INSERT INTO parlant_shard.signing_key (id, inner_pad, outer_pad) "
                            "VALUES ({}, {}, {}) ON CONFLICT (id) DO UPDATE SET "
                            "inner_pad = EXCLUDED.inner_pad, outer_pad = EXCLUDED.outer_pad"
                        ).format(
                            Literal(key),
                            Literal(signing.mark(f"{key} inner")),
                            Literal(signing.mark(f"{key} outer")),
                        )
                    ),
                ),
                lock=Lock.ROW_EXCLUSIVE,
                secret=signing.mark(key),
            )
        for key in change.delete:
            yield Draft(
                phase=Phase.DROP_REST,
                server=change.server,
                title=f'accept no workspace tokens of the signing key "{key}" any more',
                sql=(
                    render(
                        SQL("DELETE FROM parlant_shard.signing_key WHERE id = {}").format(
                            Literal(key)
                        )
                    ),
                ),
                lock=Lock.ROW_EXCLUSIVE,
            )

    def _whole_table(
        self, change: c.CreateTable | c.CreatePartition | c.FinalizeDetach | c.DropTable
    ) -> Iterator[Draft]:
        table = change.table
        match change:
            case c.CreateTable():
                sql = [self.ddl.create_table(table, change.foreign_keys)]
                sql += [self.ddl.create_index(table.name, i) for i in table.indexes]
                sql += self.ddl.dressing(table)
                what = {
                    Relkind.TABLE: "table",
                    Relkind.PARTITIONED: "partitioned table",
                    Relkind.FOREIGN: "foreign table",
                }[table.kind]
                yield self._on(
                    change,
                    f'create {what} "{table.name}" with its constraints and indexes',
                    *sql,
                    self._register(change.managed),
                    hazards=(Hazard.WEAKER_UNIQUENESS,) if change.weaker else (),
                )
            case c.CreatePartition():
                yield from self._create_partition(change)
            case c.FinalizeDetach():
                assert table.parent is not None
                yield self._on(
                    change,
                    f'finalise the interrupted detach of partition "{table.name}"',
                    self.ddl.alter(
                        table.parent,
                        SQL("DETACH PARTITION {} FINALIZE").format(self.ddl.name(table.name)),
                    ),
                    phase=Phase.FINALIZE,
                )
            case c.DropTable():
                yield from self._drop_table(change)

    def _create_partition(self, change: c.CreatePartition) -> Iterator[Draft]:
        table, parent, default = change.table, change.parent, change.default
        title = f'create partition "{table.name}" and attach it to "{parent.name}"'
        create = self.ddl.create_partition(parent, table)
        if default is None:
            yield self._on(change, title, *create)
            return
        assert table.bound is not None
        drop = self.ddl.alter(
            default.name, SQL("DROP CONSTRAINT IF EXISTS {}").format(Identifier(GUARD))
        )
        guard = SQL("ADD CONSTRAINT {} CHECK ({}) NOT VALID").format(
            Identifier(GUARD), self.ddl.beside(parent, table.bound)
        )
        yield self._on(
            change,
            f'keep rows of "{table.name}" out of default partition "{default.name}"',
            drop,
            self.ddl.alter(default.name, guard),
        )
        yield replace(
            self._on(
                change,
                f'see that "{default.name}" holds no row of "{table.name}"',
                self._validate(default.name, GUARD),
                kind=Kind.VALIDATE,
                lock=Lock.SHARE_UPDATE_EXCLUSIVE,
                hazards=(Hazard.FULL_SCAN, Hazard.MAY_FAIL_ON_DATA),
            ),
            undo=(render(drop),),
        )
        # The lock on the default partition is there from ATTACH on: nothing new is waited for.
        yield replace(self._on(change, title, *create, drop), undo=(render(drop),))

    def _drop_table(self, change: c.DropTable) -> Iterator[Draft]:
        table = change.table
        foreign = table.kind is Relkind.FOREIGN
        replaced = change.why is c.Why.REPLACED
        sql: list[Composable] = []
        # The rows of a copy of a reference table are on the coordinator.
        copy = not change.shard and change.server != self.target.coordinator
        if not foreign and not change.populated and not copy:
            # It was empty when the plan was made. Whoever wrote since then must not lose it.
            sql.append(
                SQL("LOCK TABLE {} IN ACCESS EXCLUSIVE MODE").format(self.ddl.name(table.name))
            )
            sql.append(
                SQL(
                    "DO $check$BEGIN IF EXISTS (SELECT FROM {}) THEN RAISE EXCEPTION "
                    "USING ERRCODE = 'PS001', MESSAGE = {}; END IF; END$check$"
                ).format(
                    self.ddl.name(table.name),
                    Literal(f'table "{table.name}" is not empty any more'),
                )
            )
        sql.append(
            SQL("DROP {}TABLE {}").format(
                SQL("FOREIGN " if foreign else ""), self.ddl.name(table.name)
            )
        )
        sql.append(self._unregister("table", table.name))
        hazards: tuple[Hazard, ...] = ()
        if not (foreign and replaced):
            hazards = (Hazard.DROPS_OBJECT,)
        if change.populated and not copy:
            hazards = (Hazard.DELETES_DATA, *hazards)
        yield self._on(
            change,
            f'drop {"foreign " if foreign else ""}table "{table.name}"'
            + (" with its rows" if change.populated and not copy else ""),
            *sql,
            # A replaced table goes right before its successor of the same name comes.
            phase=self._replaced_phase(change) if replaced else self._drop_phase(change),
            hazards=hazards,
        )

    def _replaced_phase(self, change: c.DropTable) -> Phase:
        # A foreign table makes room for a local table of the same name, and the reverse.
        return Phase.SHARDS if change.table.kind is not Relkind.FOREIGN else Phase.NARROW


def _statements(script: str) -> tuple[str, ...]:
    """Split our own SQL file: `;` at the end of a line ends a statement, not within `$$`."""
    found, lines = [], []
    for line in script.splitlines():
        lines.append(line)
        text = "\n".join(lines)
        if line.rstrip().endswith(";") and text.count("$$") % 2 == 0:
            found.append(text.strip().removesuffix(";"))
            lines = []
    return tuple(found)
