"""Steps for the database and for whole tables."""

from __future__ import annotations

from collections.abc import Iterator

from psycopg.sql import SQL, Composable, Identifier, Literal

from parlant_shard import changes as c
from parlant_shard.catalog import Relkind
from parlant_shard.ddl import render
from parlant_shard.desired import INTERNAL_VERSION
from parlant_shard.plan.draft import Builder, Draft
from parlant_shard.plan.model import Hazard, Lock, Phase
from parlant_shard.sqlfiles import queries


class Tables(Builder):
    """Steps for the database and for whole tables."""

    def _database(
        self,
        change: c.CreateInternal
        | c.CreateExtension
        | c.CreateRole
        | c.CreateEnum
        | c.AddEnumLabel
        | c.SetFunction,
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
                    title=f'create role "{name}" of the application',
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
            case c.SetFunction(function=function, exists=exists):
                yield Draft(
                    phase=Phase.FUNCTIONS,
                    server=change.server,
                    title=f"{'replace' if exists else 'create'} function {function.signature}",
                    # A body may name what is created later, or with another search_path.
                    sql=("SET LOCAL check_function_bodies = off", function.definition),
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
            case c.CreatePartition(parent=parent):
                yield self._on(
                    change,
                    f'create partition "{table.name}" and attach it to "{parent.name}"',
                    *self.ddl.create_partition(parent, table),
                )
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
