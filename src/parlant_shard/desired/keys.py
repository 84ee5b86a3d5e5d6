"""Desired key tables, the triggers that seal and admit keys, and how each foreign key holds.

docs/decisions/0010-sealed-keys.md says why. A key table holds the keys of a reference table that
rows of the server may refer to. The coordinator takes a key out before it deletes the row.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, replace

from parlant_shard import canonical
from parlant_shard.catalog import Catalog, ForeignKey, KeyTable, Seal, Table, Trigger
from parlant_shard.desired.model import Held, seal_server
from parlant_shard.errors import SchemaError, TopologyError
from parlant_shard.holding import Holding, as_held, holding
from parlant_shard.names import key_schema, suffixed
from parlant_shard.tenancy import Tenancy
from parlant_shard.topology import Topology

ADMIT = "parlant_shard_admit"  # before "parlant_shard_cascade": triggers fire in order of names
SEAL_DELETE = "parlant_shard_seal_delete"
SEAL_UPDATE = "parlant_shard_seal_update"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Key:
    """A key of a reference table that foreign keys of shards refer to, and how these hold."""

    table: KeyTable
    held: tuple[Holding, ...]

    @property
    def sealed(self) -> bool:
        return any(h.sealed for h in self.held)

    @property
    def refused(self) -> bool:
        return any(h.update == "refused" for h in self.held)

    @property
    def seals_updates(self) -> bool:
        return any(h.sealed and h.update == "sealed" for h in self.held)


class Keys:
    """What makes foreign keys to reference tables hold on the servers that have copies."""

    def __init__(
        self,
        topology: Topology,
        tenancy: Tenancy,
        reference: Callable[[Catalog, str], Table],
        coordinator: str,
        copies: Collection[str],
    ) -> None:
        self._topology, self._tenancy, self._reference = topology, tenancy, reference
        self._coordinator = coordinator
        self._copies = sorted(copies)  # the servers that have copies
        self._schema = key_schema(topology.namespace)
        for server in self._copies:
            if f"seal_{server}" in topology.servers:
                raise TopologyError(
                    f'the names of the servers "{server}" and "seal_{server}" go together badly: '
                    f'both need the foreign server "{seal_server(server)}"',
                    code="PS280",
                    hint="rename one of them",
                    file=str(topology.file),
                    line=topology.line(f"servers.seal_{server}"),
                    path=f"servers.seal_{server}",
                )

    # --- of one foreign key ----------------------------------------------------------------------

    def holding(self, base: Catalog, child: str, fk: ForeignKey) -> Holding:
        partition = self._topology.partition_of(child)
        return holding(
            base.tables,
            self._tenancy.sharded,
            base.tables[child],
            fk,
            cut_by=partition.by if partition else None,
        )

    def as_held(self, base: Catalog, child: str, fk: ForeignKey) -> ForeignKey:
        """The foreign key as servers with copies have it."""
        if fk.unenforced:
            return fk
        key = self._key_table(base, fk)
        return as_held(fk, self.holding(base, child, fk), key.name)

    def _key_table(self, base: Catalog, fk: ForeignKey) -> KeyTable:
        reference = self._reference(base, fk.ref_table)
        key = next((k for k in reference.keys if set(k.columns) == set(fk.ref_columns)), None)
        columns = key.columns if key is not None else fk.ref_columns
        if key is not None and key.primary:
            name = reference.name
        else:
            name = suffixed(reference.name, "_".join(columns))
            if name in self._tenancy.kinds:
                name = suffixed(name, "key")
        found = tuple(
            replace(c, not_null=True, default=None, identity="", generated="", comment=None)
            for c in (reference.column(name) for name in columns)
            if c is not None
        )
        return KeyTable(name=name, table=reference.name, columns=found)

    # --- of a server -----------------------------------------------------------------------------

    def _keys(self, base: Catalog) -> dict[str, _Key]:
        found: dict[str, _Key] = {}
        for child in self._tenancy.sharded:
            for fk in base.tables[child].foreign_keys:
                if self._tenancy.kinds.get(fk.ref_table) != "reference" or fk.unenforced:
                    continue
                table, held = self._key_table(base, fk), self.holding(base, child, fk)
                before = found.get(table.name)
                found[table.name] = _Key(table=table, held=(*(before.held if before else ()), held))
        return found

    def tables(self, base: Catalog) -> dict[str, KeyTable]:
        """The key tables of a server with copies."""
        return {name: key.table for name, key in self._keys(base).items() if key.sealed}

    def admits(self, base: Catalog, reference: str) -> Iterator[Trigger]:
        """On a copy: what keeps its key tables as replication goes on."""
        for name, key in sorted(self.tables(base).items()):
            if key.table == reference:
                yield admit(self._schema, name, key.column_names)

    def seals(self) -> dict[str, Seal]:
        """On the coordinator: the ways to the servers whose keys are sealed."""
        return {
            s: Seal(server=s, name=suffixed("seal", s), foreign_server=seal_server(s))
            for s in self._copies
        }

    def coordinator_triggers(self, base: Catalog, reference: Table) -> Iterator[Trigger]:
        """On the coordinator: what seals the keys of deleted rows, and those that change."""
        if not self._copies:
            return
        seals = self.seals().values()
        for name, key in sorted(self._keys(base).items()):
            if key.table.table != reference.name:
                continue
            own = (
                canonical.key_table(self._schema, name),
                canonical.array(key.table.column_names),
            )
            ways = (
                canonical.array(s.server for s in seals),
                canonical.array(s.name for s in seals),
            )
            if key.sealed:
                trigger = canonical.quote(suffixed(SEAL_DELETE, name))
                yield Trigger(
                    name=suffixed(SEAL_DELETE, name),
                    head=f"CREATE TRIGGER {trigger} AFTER DELETE",
                    tail="REFERENCING OLD TABLE AS gone FOR EACH STATEMENT "
                    f"EXECUTE FUNCTION parlant_shard.seal_deleted({_arguments(*own, *ways)})",
                )
            if key.refused or key.seals_updates:
                trigger = canonical.quote(suffixed(SEAL_UPDATE, name))
                arguments = _arguments(*own) if key.refused else _arguments(*own, *ways)
                yield Trigger(
                    name=suffixed(SEAL_UPDATE, name),
                    head=f"CREATE TRIGGER {trigger} AFTER UPDATE",
                    # Without WHEN, which would forbid to change the type of the column.
                    tail=f"FOR EACH ROW EXECUTE FUNCTION parlant_shard.seal_changed({arguments})",
                )

    # --- for people ------------------------------------------------------------------------------

    def held(self, base: Catalog, sharding: Mapping[str, Collection[str]]) -> Iterator[Held]:
        """How each foreign key holds, by what holds it. `sharding`: the shards of each server."""
        keys = self._keys(base)
        with_shards = {s for s, shards in sharding.items() if shards}
        without = sorted(with_shards - {self._coordinator} - set(self._copies))
        for child in self._tenancy.sharded:
            for fk in base.tables[child].foreign_keys:
                if self._tenancy.kinds.get(fk.ref_table) != "reference":
                    continue
                if fk.unenforced:
                    word = "not enforced"
                    why = "the schema declares it NOT ENFORCED"
                    servers = sorted(with_shards - set(without))
                    yield Held.of(child, fk, servers, delete=word, update=word, why=why)
                else:
                    if self._coordinator in with_shards:
                        yield Held.of(
                            child, fk, [self._coordinator], delete="native", update="native"
                        )
                    if self._copies:
                        found = self.holding(base, child, fk)
                        key, update = keys[self._key_table(base, fk).name], found.update
                        if key.refused:
                            update = "refused"
                        elif found.sealed and key.seals_updates:
                            update = "sealed"
                        yield Held.of(
                            child,
                            fk,
                            self._copies,
                            delete=found.delete,
                            update=update,
                            why=found.why,
                        )
                if without:
                    word, why = "left out", "there are no copies of reference tables"
                    yield Held.of(child, fk, without, delete=word, update=word, why=why)

    def notices(self, held: Collection[Held]) -> Iterator[str]:
        """What is stricter than declared."""
        for entry in held:
            if entry.why is None or entry.delete not in {"sealed", "replayed"}:
                continue
            servers = ", ".join(f'"{s}"' for s in entry.servers)
            what = (
                "so a row that is used cannot be deleted"
                if entry.delete == "sealed" and entry.on_delete not in {"NO ACTION", "RESTRICT"}
                else "so the key of a row that is used cannot be changed"
            )
            yield (
                f'foreign key "{entry.name}" of "{entry.table}" is stricter on {servers} than '
                f"declared: {entry.why}, {what}"
            )

    def check(self, server: str, live: Catalog) -> None:
        """Refuse a schema of the key tables' name that is somebody else's."""
        hint = f"ALTER SCHEMA {canonical.quote(self._schema)} RENAME TO …, or drop it"
        if live.key_schema_owner is not None and not live.key_schema_owned:
            raise SchemaError(
                f'schema "{self._schema}" exists on server "{server}" and belongs to '
                f'"{live.key_schema_owner}"; parlant-shard keeps its key tables there',
                code="PS281",
                hint=f"{hint}; or make the role of the topology its owner",
            )


def admit(schema: str, name: str, columns: tuple[str, ...]) -> Trigger:
    """The trigger of a copy that keeps a key table."""
    trigger = suffixed(ADMIT, name)
    arguments = _arguments(canonical.key_table(schema, name), canonical.array(columns))
    return Trigger(
        name=trigger,
        head=f"CREATE TRIGGER {canonical.quote(trigger)} AFTER INSERT OR DELETE OR UPDATE",
        tail=f"FOR EACH ROW EXECUTE FUNCTION parlant_shard.admit_key({arguments})",
        # The apply worker runs as replica, where ordinary triggers do not fire.
        enabled="A",
    )


def _arguments(*values: str) -> str:
    return ", ".join(canonical.literal(v) for v in values)
