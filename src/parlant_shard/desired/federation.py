"""Desired foreign tables and federated views, on the coordinator."""

from __future__ import annotations

from dataclasses import replace

from parlant_shard.catalog import (
    Catalog,
    Column,
    Foreign,
    ForeignServer,
    Grant,
    Managed,
    Relkind,
    Table,
    UserMapping,
    View,
)
from parlant_shard.desired.model import (
    FDW_OPTIONS,
    SEAL_OPTIONS,
    fdw_name,
    subscription_name,
    view_name,
)
from parlant_shard.desired.references import References
from parlant_shard.names import suffixed


class Federation(References):
    """What only the coordinator has."""

    def _federate(self, catalog: Catalog, base: Catalog) -> Catalog:
        """Add what only the coordinator has: foreign tables, views, publication, directory."""
        tables, managed = dict(catalog.tables), dict(catalog.managed)
        remote = [s for s, o in self.topology.shards.items() if o.server != self.coordinator]
        for shard in remote:
            for logical in self.tenancy.sharded:
                table = self._foreign_table(base, logical, shard)
                tables[table.name] = table
                managed["table", table.name] = Managed(
                    kind="table", name=table.name, logical=logical, shard=shard
                )
        views: dict[str, View] = {}
        if self.topology.shards:
            for logical in self.tenancy.sharded:
                view = self._view(base, logical)
                views[view.name] = view
                managed["view", view.name] = Managed(kind="view", name=view.name, logical=logical)
        servers = sorted({self.topology.shards[s].server for s in remote})
        me = self.facts[self.coordinator].user
        seals = self.keys.seals() if self.keys.tables(base) else {}
        for server in seals:
            managed["seal", server] = Managed(kind="seal", name=server, logical=server)
        return replace(
            catalog,
            tables=tables,
            managed=managed,
            views=views,
            extensions=catalog.extensions | ({"postgres_fdw"} if servers else set()),
            foreign_servers={
                name: ForeignServer(
                    name=name,
                    options=tuple(sorted({**dict(self.peers[s].options), **options}.items())),
                )
                for name, s, options in (
                    *((fdw_name(s), s, FDW_OPTIONS) for s in servers),
                    *((seal.foreign_server, s, SEAL_OPTIONS) for s, seal in seals.items()),
                )
            },
            user_mappings={
                (name, role): UserMapping(
                    server=name,
                    role=role,
                    user=self.peers[s].user,
                    password=self.peers[s].password,
                )
                for name, s, roles in (
                    *((fdw_name(s), s, self.wall.mapped(me)) for s in servers),
                    *((seal.foreign_server, s, (me,)) for s, seal in seals.items()),
                )
                for role in roles
            },
            seals=seals,
            publications=self._publications(base),
            slots=frozenset(
                subscription_name(self.topology, s)
                for s in self.replicated
                if s != self.coordinator and self.tenancy.of_kind("reference")
            ),
            shards={s: o.server for s, o in self.topology.shards.items()},
            directory=self.directory,
        )

    def _foreign_table(self, base: Catalog, logical: str, shard: str) -> Table:
        remote = self._shard_table(base, logical, shard, self.topology.shards[shard].server)
        table = Table(
            name=remote.name,
            kind=Relkind.FOREIGN,
            columns=tuple(
                Column(name=c.name, type=c.type, not_null=c.not_null, collation=c.collation)
                for c in remote.columns
            ),
            checks=(self.workspace_check(logical, shard),),
            foreign=Foreign(
                server=fdw_name(self.topology.shards[shard].server),
                options=(
                    ("schema_name", self.topology.namespace),
                    ("table_name", remote.name),
                ),
            ),
        )
        return self.wall.foreign_table(table)

    def _view(self, base: Catalog, logical: str) -> View:
        table = base.tables[logical]
        columns = [(c.name, c.type) for c in table.columns]
        if table.column(self.tenancy.key) is None:
            columns.append((self.tenancy.key, self.tenancy.key_type))
        return View(
            name=view_name(logical),
            columns=tuple(c for c, _ in columns),
            types=tuple(t for _, t in columns),
            sources=tuple(suffixed(logical, s) for s in self.topology.shards),
            security_invoker=True,
            grants=self.wall.view_grants(
                tuple(
                    Grant(role=g.role, privilege="SELECT")
                    for g in table.grants
                    if g.privilege == "SELECT"
                )
            ),
        )
