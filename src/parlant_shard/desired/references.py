"""Desired reference tables: on the coordinator, as copies, and what keeps them in step."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

from parlant_shard import canonical
from parlant_shard.cascade import carries_updates, cascade_body
from parlant_shard.catalog import (
    SUBSCRIPTION_PEER,
    Catalog,
    Function,
    Publication,
    Subscription,
    Table,
    Trigger,
)
from parlant_shard.desired.model import (
    publication_name,
    subscription_name,
)
from parlant_shard.desired.shards import ShardTables
from parlant_shard.errors import SchemaError
from parlant_shard.names import suffixed


class References(ShardTables):
    """Reference tables, their replication, and the triggers that guard the copies."""

    def _may_replicate(self, name: str) -> bool:
        """Whether copies of reference tables can be kept in step there; a notice says why not."""
        if name == self.coordinator or not self.tenancy.of_kind("reference"):
            return True
        source, target = self.facts[self.coordinator], self.facts[name]
        without = (
            f'; server "{name}" gets no reference tables, '
            "and foreign keys to them are left out there"
        )
        if source.settings.get("wal_level") != "logical":
            self.notices.append(
                f'the coordinator "{self.coordinator}" has wal_level = '
                f"{source.settings.get('wal_level')}, reference tables need logical: "
                f"ALTER SYSTEM SET wal_level = logical, then restart{without}"
            )
            return False
        if "replication" not in source.can:
            self.notices.append(
                f'role "{source.user}" may not create a replication slot on the coordinator: '
                f"ALTER ROLE {canonical.quote(source.user)} REPLICATION{without}"
            )
            return False
        if "subscribe" not in target.can:
            fix = (
                f"GRANT pg_create_subscription TO {canonical.quote(target.user)}"
                if target.major >= 16
                else "only a superuser may on PostgreSQL 15"
            )
            self.notices.append(
                f'role "{target.user}" may not create a subscription on server "{name}": '
                f"{fix}{without}"
            )
            return False
        return True

    def _reference(self, base: Catalog, logical: str) -> Table:
        """A reference or host table as declared, or as it is where the coordinator has its own.

        A table that was there before us is its owner's: it stays as it is, the copies follow it.
        """
        live = self.live[self.coordinator]
        existing = live.tables.get(logical)
        if existing is None or ("table", logical) in live.managed:
            return base.tables[logical]
        self._check_adopted(base.tables[logical], existing)
        return existing

    def _check_adopted(self, declared: Table, existing: Table) -> None:
        """What foreign keys of the shards point at must be there and be unique."""
        wanted = {
            fk.ref_columns
            for name in self.tenancy.sharded
            for base in self.base.values()
            for fk in base.tables[name].foreign_keys
            if fk.ref_table == declared.name
        }
        unique = {k.columns for k in existing.keys}
        for columns in sorted(wanted):
            for name in columns:
                mine, theirs = declared.column(name), existing.column(name)
                if theirs is None or mine is None or mine.type != theirs.type:
                    found = "missing" if theirs is None else f"of type {theirs.type}"
                    raise SchemaError(
                        f'column "{name}" of the existing table "{declared.name}" on server '
                        f'"{self.coordinator}" is {found}; the schema declares '
                        f"{mine.type if mine else 'none'}",
                        code="PS235",
                        hint="shards refer to it; declare the table in the schema as it is",
                    )
            if columns not in unique:
                raise SchemaError(
                    f'the existing table "{declared.name}" on server "{self.coordinator}" has no '
                    f"primary key or unique constraint on ({', '.join(columns)})",
                    code="PS236",
                    hint="shards refer to it with foreign keys; add the constraint",
                )

    def _coordinator_table(self, base: Catalog, logical: str) -> Table:
        """A reference or host table; foreign keys into sharded tables cannot hold."""
        table = self._reference(base, logical)
        triggers: tuple[Trigger, ...] = ()
        if self.tenancy.kinds[logical] == "reference" and self._replicates():
            triggers = (
                *self.keys.coordinator_triggers(base, table),
                # A TRUNCATE is not replicated: it would empty this table and leave its copies.
                Trigger(
                    name="parlant_shard_no_truncate",
                    head="CREATE TRIGGER parlant_shard_no_truncate BEFORE TRUNCATE",
                    tail="FOR EACH STATEMENT EXECUTE FUNCTION parlant_shard.refuse_truncate()",
                ),
            )
        if table is not base.tables[logical]:
            if self.wall.on:
                self.notices.append(
                    f'table "{logical}" was there before: its privileges and policies are its '
                    "owner's business; the application's role needs SELECT on it"
                )
            theirs = (t for t in table.triggers if not t.name.startswith("parlant_shard_"))
            return replace(table, triggers=(*theirs, *triggers))
        kept = []
        for fk in table.foreign_keys:
            if fk.ref_table in self.tenancy.sharded:
                self.notices.append(
                    f'foreign key "{fk.name}" of "{logical}" is left out: its target '
                    f'"{fk.ref_table}" is spread over the shards'
                )
            else:
                kept.append(fk)
        found = replace(
            table,
            columns=tuple(
                # A sequence of the schema is none of ours to make; an identity brings its own.
                replace(c, default=None, identity="d")
                if (c.default or "").startswith("nextval(")
                else c
                for c in table.columns
            ),
            foreign_keys=tuple(kept),
            indexes=tuple(self._rolled(i) for i in table.indexes),
            triggers=(*table.triggers, *triggers),
        )
        if self.tenancy.kinds[logical] != "reference":
            return found
        return self.wall.reference_table(found, base, writable=True)

    def _replicates(self) -> bool:
        """Whether any other server has copies of reference tables."""
        return bool(self.replicated - {self.coordinator}) and bool(
            self.tenancy.of_kind("reference")
        )

    def _coordinator_functions(self) -> Iterable[Function]:
        if self._replicates():
            yield Function(
                signature="parlant_shard.refuse_truncate()",
                definition=canonical.trigger_function(
                    "parlant_shard.refuse_truncate()",
                    "\nBEGIN\n"
                    "  RAISE EXCEPTION 'table \"%\" has copies on other servers', TG_TABLE_NAME\n"
                    "    USING ERRCODE = '0A000',\n"
                    "          HINT = 'use DELETE, which is replicated';\n"
                    "END;\n",
                ),
            )

    def _reference_copy(self, base: Catalog, logical: str, tables: Mapping[str, Table]) -> Table:
        """A copy that only the subscription writes: keys and rows, guards instead of triggers.

        `tables` are those of the server's shards.
        """
        table = self._reference(base, logical)
        signature = self._cascade_signature(logical)
        found = replace(
            table,
            foreign_keys=(),  # enforced on the coordinator, whose order of changes is replayed
            indexes=tuple(self._rolled(i) for i in table.indexes),
            checks=(),
            policies=(),
            row_security=False,
            force_row_security=False,
            columns=tuple(
                replace(c, identity="", default=None)
                if c.identity or (c.default or "").startswith("nextval(")
                else c
                for c in table.columns
            ),
            triggers=(
                *self.keys.admits(base, logical),
                Trigger(
                    name="parlant_shard_cascade",
                    head="CREATE TRIGGER parlant_shard_cascade AFTER DELETE"
                    + (" OR UPDATE" if carries_updates(logical, tables) else ""),
                    tail=f"FOR EACH ROW EXECUTE FUNCTION {signature}",
                    # The apply worker runs as replica, where ordinary triggers and the foreign
                    # keys' own do not fire.
                    enabled="A",
                ),
                Trigger(
                    name="parlant_shard_guard",
                    head="CREATE TRIGGER parlant_shard_guard "
                    "BEFORE INSERT OR DELETE OR UPDATE OR TRUNCATE",
                    tail="FOR EACH STATEMENT EXECUTE FUNCTION parlant_shard.refuse_write()",
                ),
            ),
        )
        return self.wall.reference_table(found, base, writable=False)

    def _cascade_signature(self, logical: str) -> str:
        return f"parlant_shard.{canonical.quote(suffixed('cascade', logical))}()"

    def _reference_functions(self, tables: Mapping[str, Table]) -> Iterable[Function]:
        for logical in self.tenancy.of_kind("reference"):
            signature = self._cascade_signature(logical)
            yield Function(
                signature=signature,
                definition=canonical.trigger_function(
                    signature, cascade_body(self.topology.namespace, logical, tables)
                ),
            )
        yield Function(
            signature="parlant_shard.refuse_write()",
            definition=canonical.trigger_function(
                "parlant_shard.refuse_write()",
                "\nBEGIN\n"
                "  RAISE EXCEPTION 'table \"%\" is a copy on this server', TG_TABLE_NAME\n"
                "    USING ERRCODE = '25006',\n"
                "          HINT = 'write it on the coordinator; replication brings it here';\n"
                "END;\n",
            ),
        )

    def _publications(self, base: Catalog) -> dict[str, Publication]:
        references = self.tenancy.of_kind("reference")
        if not self._replicates():
            return {}
        for table in references:
            if self._reference(base, table).primary_key is None:
                raise SchemaError(
                    f'reference table "{table}" has no primary key',
                    code="PS238",
                    hint="replication needs one to find the row of an update or delete; without "
                    "it, publishing the table would make both fail on the coordinator",
                )
        name = publication_name(self.topology)
        return {
            name: Publication(
                name=name,
                tables=tuple(
                    (
                        t,
                        tuple(
                            sorted(
                                c.name for c in self._reference(base, t).columns if not c.generated
                            )
                        ),
                    )
                    for t in references
                ),
            )
        }

    def _subscribe(self, catalog: Catalog, server: str) -> Catalog:
        references = self.tenancy.of_kind("reference")
        if not references:
            return catalog
        name = subscription_name(self.topology, server)
        peer = self.peers[self.coordinator]
        options = {**dict(peer.options), "user": peer.user}
        subscription = Subscription(
            name=name,
            slot=name,
            publication=publication_name(self.topology),
            tables=references,
            peer=tuple((k, options[k]) for k in SUBSCRIPTION_PEER if options.get(k)),
            password=peer.password,
        )
        return replace(catalog, subscriptions={name: subscription})
