"""Everything together: the desired catalogue of every server."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import replace

from parlant_shard import canonical
from parlant_shard.catalog import (
    REFUSED,
    Catalog,
    Facts,
    Managed,
    Placement,
    Table,
)
from parlant_shard.desired import audit
from parlant_shard.desired.federation import Federation
from parlant_shard.desired.keys import Keys
from parlant_shard.desired.leaves import Leaves
from parlant_shard.desired.model import (
    INTERNAL_VERSION,
    Desired,
    Peer,
)
from parlant_shard.desired.wall import Wall
from parlant_shard.errors import TopologyError
from parlant_shard.names import key_schema
from parlant_shard.shardmap import bucket, spelled
from parlant_shard.tenancy import Tenancy
from parlant_shard.topology import AUDIT_TABLE, Topology


def desired(
    base: Mapping[int, Catalog],
    topology: Topology,
    tenancy: Tenancy,
    facts: Mapping[str, Facts],
    live: Mapping[str, Catalog],
    peers: Mapping[str, Peer],
) -> Desired:
    """Build the desired catalogue of every server of the topology."""
    builder = _Builder(base, topology, tenancy, facts, live, peers)
    catalogs = {name: builder.server(name) for name in topology.servers}
    held = tuple(builder.keys.held(base[facts[topology.coordinator].major], builder.shards_of))
    builder.notices += builder.keys.notices(held)
    return Desired(catalogs=catalogs, notices=tuple(dict.fromkeys(builder.notices)), held=held)


class _Builder(Leaves, Federation):
    def __init__(
        self,
        base: Mapping[int, Catalog],
        topology: Topology,
        tenancy: Tenancy,
        facts: Mapping[str, Facts],
        live: Mapping[str, Catalog],
        peers: Mapping[str, Peer],
    ) -> None:
        self.base, self.topology, self.tenancy = base, topology, tenancy
        self.facts, self.live, self.peers = facts, live, peers
        self.wall = Wall(topology, tenancy, facts, live)
        self.notices: list[str] = list(tenancy.notices)
        self.coordinator = topology.coordinator
        # One clock for all servers: partitions of two shards must not differ over midnight.
        self.now = facts[self.coordinator].now
        self.shards_of: dict[str, list[str]] = {name: [] for name in topology.servers}
        for shard, options in topology.shards.items():
            self.shards_of[options.server].append(shard)
        self._check_listed()
        self.listed = {w: s for s, o in topology.shards.items() for w in o.workspaces}
        self.replicated = {
            name for name in topology.servers if self.shards_of[name] and self._may_replicate(name)
        }
        self.keys = Keys(
            topology,
            tenancy,
            self._reference,
            self.coordinator,
            self.replicated - {self.coordinator} if tenancy.of_kind("reference") else (),
        )
        self.directory = self._directory()
        audit.check_audit(topology, tenancy, next(iter(base.values())))
        self._check_partitioning()
        self._tell_costs()

    def server(self, name: str) -> Catalog:
        base = self.base[self.facts[name].major]
        shards = self.shards_of[name]
        is_coordinator = name == self.coordinator
        if not shards and not is_coordinator:
            return Catalog(internal_version=INTERNAL_VERSION)
        tables: dict[str, Table] = {}
        managed: dict[tuple[str, str], Managed] = {}

        def add(table: Table, logical: str, shard: str = "") -> None:
            tables[table.name] = table
            if table.parent is None:
                managed["table", table.name] = Managed(
                    kind="table", name=table.name, logical=logical, shard=shard
                )

        references = self.tenancy.of_kind("reference")
        if is_coordinator:
            for logical in (*references, *self.tenancy.of_kind("host")):
                add(self._coordinator_table(base, logical), logical)
        shard_tables: list[tuple[Table, str, str]] = []
        for shard in shards:
            for table in self._recorded_changes(base, shard, name):
                # Before the triggers that write into it.
                shard_tables.append((table, AUDIT_TABLE, shard))
            for logical in self.tenancy.sharded:
                parent = self._shard_table(base, logical, shard, name)
                shard_tables.append((parent, logical, shard))
                for leaf in self._leaves(base, logical, shard, name, parent):
                    shard_tables.append((leaf, logical, shard))
        if name in self.replicated and not is_coordinator:
            own = {table.name: table for table, _, _ in shard_tables}
            for logical in references:
                add(self._reference_copy(base, logical, own), logical)
        for table, logical, shard in shard_tables:
            add(table, logical, shard)
        functions = {
            **base.functions,
            **audit.functions(self.topology, self.tenancy, base, shards),
        }
        if is_coordinator:
            functions |= {f.signature: f for f in self._coordinator_functions()}
        if not is_coordinator and name in self.replicated:
            for function in self._reference_functions(tables):
                functions[function.signature] = function
        functions |= {f.signature: f for f in self.wall.functions(base, shards)}
        key_tables = {}
        if name in self.replicated and not is_coordinator and references:
            key_tables = self.keys.tables(base)
            if key_tables:
                self.keys.check(name, self.live[name])
        for key in key_tables:
            registered = canonical.key_table(key_schema(self.topology.namespace), key)
            managed["key", registered] = Managed(
                kind="key", name=registered, logical=key_tables[key].table
            )
        catalog = Catalog(
            keys=key_tables,
            sealers=frozenset({self.peers[name].user} - {self.facts[name].user})
            if key_tables
            else frozenset(),
            extensions=base.extensions | (self.wall.extensions(base, name) if shards else set()),
            roles=self.wall.roles,
            enums=base.enums,
            functions=functions,
            tables=tables,
            managed=managed,
            internal_version=INTERNAL_VERSION,
            placements=frozenset(p for p in self.directory if p.shard in shards),
            signing_keys=self.wall.signing_keys,
        )
        if is_coordinator:
            return self._federate(catalog, base)
        if name in self.replicated:
            return self._subscribe(catalog, name)
        return catalog

    def _recorded_changes(self, base: Catalog, shard: str, server: str) -> Iterator[Table]:
        """The audit table of a shard; once there it stays, also when nothing writes it any more."""
        parent = audit.shard_table(self.tenancy, shard)
        if audit.audited(self.topology) or parent.name in self.live[server].tables:
            yield parent
            yield from self._leaves(base, AUDIT_TABLE, shard, server, parent)

    def _check_listed(self) -> None:
        """The directory, the map and buckets go by one text of a workspace: the key type's own."""
        key_type = self.tenancy.key_type
        for shard, options in self.topology.shards.items():
            for number, workspace in enumerate(options.workspaces):
                text = spelled(workspace, key_type)
                if text != workspace:
                    path = f"shards.{shard}.workspaces.{number}"
                    raise TopologyError(
                        f'workspace "{workspace}" is no {key_type}, which "{self.tenancy.key}" is'
                        if text is None
                        else f'workspace "{workspace}" is written otherwise than PostgreSQL writes '
                        f"a {key_type}",
                        code="PS326",
                        hint="correct or remove it" if text is None else f'write it as "{text}"',
                        file=str(self.topology.file),
                        line=self.topology.line(path),
                        path=path,
                    )

    def _directory(self) -> frozenset[Placement]:
        refused = {
            p.workspace: p.state
            for p in self.live[self.coordinator].directory
            if p.state in REFUSED
        }
        # What was purged stays so, although the file still lists it: rows must not come back.
        rows = {
            Placement(workspace=w, shard=s, state=refused.get(w, "active"))
            for w, s in self.listed.items()
        }
        self._tell_refused({w: s for w, s in refused.items() if w in self.listed})
        spans = [(s, span) for s, o in self.topology.shards.items() for span in o.buckets]
        for row in self.live[self.coordinator].directory:
            if row.workspace in self.listed:
                continue
            number = bucket(row.workspace)
            home = next((s for s, (low, high) in spans if low <= number <= high), None)
            if home is not None:
                rows.add(replace(row, shard=home))
        return frozenset(rows)

    def _tell_refused(self, states: Mapping[str, str]) -> None:
        for workspace, state in sorted(states.items()):
            self.notices.append(
                f'workspace "{workspace}" was purged and routers refuse it: take it out of the file'
                if state == "purged"
                else f'the purge of workspace "{workspace}" has not finished: run it again'
            )

    def _tell_costs(self) -> None:
        for shard, options in self.topology.shards.items():
            count = len(options.workspaces)
            if count > canonical.PRUNABLE_LIST:
                self.notices.append(
                    f'shard "{shard}" lists {count} workspaces: the CHECK is split into lists of '
                    f"{canonical.PRUNABLE_LIST} so that pruning goes on working, and every write "
                    "reads it again (a prepared insert takes twice as long at 1,000 workspaces); "
                    "consider hash buckets"
                )
            elif count > canonical.PRUNABLE_LIST // 2:
                self.notices.append(
                    f'shard "{shard}" lists {count} workspaces: every write reads the CHECK again '
                    "(hardly to be measured at 100 workspaces; twice as long at 1,000)"
                )
        if self.topology.uses_buckets:
            self.notices.append(
                "hash buckets: a condition on the key alone does not prune a bucket shard's branch "
                "of a federated view"
            )
        any_base = next(iter(self.base.values()))
        names = "|".join(re.escape(t) for t in self.tenancy.sharded)
        for function in any_base.functions.values():
            body = function.definition.split("AS ", 1)[-1]
            mentioned = sorted(set(re.findall(rf"\b({names})\b", body))) if names else []
            if mentioned:
                self.notices.append(
                    f"function {function.signature} names the sharded "
                    f"{'tables' if len(mentioned) > 1 else 'table'} {', '.join(mentioned)}: its "
                    "text is carried over as it is and will not find them on a shard"
                )
        for what in any_base.unsupported:
            self.notices.append(f"{what} of the schema is not carried over")
        for view in sorted(any_base.views):
            self.notices.append(f'view "{view}" of the schema is not carried over')
