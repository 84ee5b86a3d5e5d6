"""Steps for key tables, and for the ways that keys are sealed through."""

from __future__ import annotations

from collections.abc import Iterator

from psycopg.sql import SQL, Composable, Identifier, Literal

from parlant_shard import canonical
from parlant_shard import changes as c
from parlant_shard.catalog import KeyTable, Managed, Trigger
from parlant_shard.ddl import names, render
from parlant_shard.desired import seal_server
from parlant_shard.names import key_schema
from parlant_shard.plan.draft import Builder, Draft
from parlant_shard.plan.model import Kind, Lock, Phase


class KeyTables(Builder):
    """Steps for key tables, and for the ways that keys are sealed through."""

    def _keys(
        self,
        change: c.CreateKeys | c.DropKeys | c.SetSeal | c.DropSeal | c.GrantSeal | c.AwaitSeals,
    ) -> Iterator[Draft]:
        match change:
            case c.CreateKeys():
                yield self._create_keys(change)
            case c.DropKeys():
                yield self._drop_keys(change)
            case c.SetSeal(seal=seal):
                yield Draft(
                    phase=Phase.SEALS,
                    server=change.server,
                    title=f'create the foreign table through which keys of server "{seal.server}" '
                    "are sealed",
                    sql=tuple(
                        render(s)
                        for s in (
                            SQL("DROP FOREIGN TABLE IF EXISTS parlant_shard.{}").format(
                                Identifier(seal.name)
                            ),
                            SQL(
                                "CREATE FOREIGN TABLE parlant_shard.{} (tab text NOT NULL, "
                                "keys jsonb NOT NULL) SERVER {} OPTIONS (schema_name "
                                "'parlant_shard', table_name 'seal')"
                            ).format(Identifier(seal.name), Identifier(seal.foreign_server)),
                            self._register(
                                Managed(kind="seal", name=seal.server, logical=seal.server)
                            ),
                        )
                    ),
                    lock=Lock.ACCESS_EXCLUSIVE,
                )
            case c.DropSeal(seal=seal):
                yield Draft(
                    phase=Phase.UNSEAL,
                    server=change.server,
                    title=f'drop the way to seal keys of server "{seal.server}"',
                    sql=(
                        render(
                            SQL("DROP SERVER {} CASCADE").format(
                                Identifier(seal_server(seal.server))
                            )
                        ),
                        render(self._unregister("seal", seal.server)),
                    ),
                    lock=Lock.ACCESS_EXCLUSIVE,
                )
            case c.GrantSeal(role=role):
                yield Draft(
                    phase=Phase.SEALS,
                    server=change.server,
                    title=f'let "{role}" seal keys of this server',
                    sql=(
                        render(
                            SQL("GRANT USAGE ON SCHEMA parlant_shard TO {}").format(
                                Identifier(role)
                            )
                        ),
                        render(
                            SQL("GRANT INSERT ON parlant_shard.seal TO {}").format(Identifier(role))
                        ),
                    ),
                )
            case c.AwaitSeals(slots=slots):
                rows = SQL(", ").join(
                    SQL("({}, {})").format(Literal(server), Literal(slot)) for server, slot in slots
                )
                yield Draft(
                    phase=Phase.AWAIT_SEALS,
                    server=change.server,
                    title="wait until the copies of the reference tables have what was deleted "
                    "before keys were sealed",
                    sql=(
                        render(
                            SQL(
                                "SELECT NOT EXISTS (SELECT FROM parlant_shard.copy c "
                                "JOIN (VALUES {}) AS v(server, slot) ON v.server = c.server "
                                "LEFT JOIN pg_catalog.pg_replication_slots s "
                                "ON s.slot_name = v.slot WHERE c.topology = {} "
                                "AND c.sealed_from IS NOT NULL "
                                "AND (s.confirmed_flush_lsn >= c.sealed_from) IS NOT TRUE) AS done"
                            ).format(rows, Literal(self.target.topology))
                        ),
                    ),
                    kind=Kind.WAIT,
                )

    def _registered(self, key: KeyTable) -> str:
        return canonical.key_table(key_schema(self.target.namespace), key.name)

    def _create_keys(self, change: c.CreateKeys) -> Draft:
        key, copy = change.key, change.table
        schema = Identifier(key_schema(self.target.namespace))
        sql: list[Composable] = []
        if change.schema:
            sql.append(SQL("CREATE SCHEMA {}").format(schema))
        registered = self._registered(key)
        own = SQL(", ").join(Identifier("r", name) for name in key.column_names)
        as_json = SQL(", ").join(
            SQL("{}, {}").format(Literal(name), Identifier("r", name)) for name in key.column_names
        )
        sql += [
            # Nothing is replayed meanwhile: the table, what is in it and its trigger are one.
            SQL("LOCK TABLE {} IN SHARE ROW EXCLUSIVE MODE").format(self.ddl.name(copy.name)),
            SQL("CREATE TABLE {} (\n  {},\n  PRIMARY KEY ({})\n)").format(
                self.ddl.key_name(key.name),
                SQL(",\n  ").join(self.ddl.column(column) for column in key.columns),
                names(key.column_names),
            ),
            *self.ddl.trigger(copy.name, change.trigger, replace=True),
            SQL(
                "INSERT INTO {} SELECT {} FROM {} AS r WHERE ({}) IS NOT NULL AND NOT EXISTS "
                "(SELECT FROM parlant_shard.sealed s WHERE s.tab = {} "
                "AND s.key = pg_catalog.jsonb_build_object({}))"
            ).format(
                self.ddl.key_name(key.name),
                own,
                self.ddl.name(copy.name),
                own,
                Literal(registered),
                as_json,
            ),
            self._register(Managed(kind="key", name=registered, logical=key.table)),
        ]
        return self._on(
            change,
            f'create key table "{registered}": the keys of "{copy.name}" that rows may refer to',
            *sql,
            phase=Phase.REFERENCE_COPIES,
            statement_timeout=600_000,
        )

    def _drop_keys(self, change: c.DropKeys) -> Draft:
        key = change.key
        registered = self._registered(key)
        schema = key_schema(self.target.namespace)
        sql: list[Composable] = [
            SQL("DROP TRIGGER IF EXISTS {} ON {}").format(
                Identifier(change.trigger), self.ddl.name(change.table.name)
            ),
            SQL("DROP TABLE {}").format(self.ddl.key_name(key.name)),
            SQL("DELETE FROM parlant_shard.sealed WHERE tab = {}").format(Literal(registered)),
            self._unregister("key", registered),
        ]
        if change.last:
            body = SQL(
                "BEGIN IF NOT EXISTS (SELECT FROM pg_catalog.pg_class WHERE relnamespace = "
                "pg_catalog.to_regnamespace({})) THEN DROP SCHEMA {}; END IF; END"
            ).format(Literal(canonical.quote(schema)), Identifier(schema))
            sql.append(SQL("DO {}").format(Literal(render(body))))
        return self._on(
            change,
            f'drop key table "{registered}", which no foreign key needs any more',
            *sql,
            phase=Phase.UNSEAL,
        )


def sealing(topology: str, trigger: Trigger) -> Composable:
    """What belongs to a trigger that seals: from where on deletions are sealed.

    In the trigger's transaction, which has locked the table: what was deleted before is in the WAL.
    """
    return SQL(
        "INSERT INTO parlant_shard.copy (topology, server, sealed_from) "
        "SELECT {}, s, pg_catalog.pg_current_wal_insert_lsn() FROM pg_catalog.unnest({}::text[]) s "
        "ON CONFLICT (topology, server) DO UPDATE SET sealed_from = EXCLUDED.sealed_from"
    ).format(Literal(topology), Literal(servers_of(trigger)))


def servers_of(trigger: Trigger) -> str:
    """The text of the array of servers, the third argument of the trigger."""
    return trigger.tail.split("', '")[2]
