"""Row-level security of the tables that hold rows of workspaces: policies, roles, functions.

The application's role sees the rows of the workspace that its setting names, and none where
nothing is set. Whoever owns the tables and whoever may analyse all workspaces is let through by a
policy of its own, so that FORCE can be on: a table without a policy for a role shows it nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from parlant_shard import canonical, rls, signing
from parlant_shard.catalog import Catalog, Facts, Function, Grant, Index, Policy, Table
from parlant_shard.errors import SchemaError, TopologyError
from parlant_shard.names import suffixed
from parlant_shard.shardmap import id_type, search_name
from parlant_shard.tenancy import Tenancy
from parlant_shard.topology import Topology

READ = ("SELECT",)
WRITE = ("DELETE", "INSERT", "SELECT", "UPDATE")


class Wall:
    """What isolation adds to the tables of a server; does nothing where `rls` is off."""

    def __init__(
        self,
        topology: Topology,
        tenancy: Tenancy,
        facts: Mapping[str, Facts],
        live: Mapping[str, Catalog],
    ) -> None:
        self._topology, self._tenancy = topology, tenancy
        self._facts, self._live = facts, live
        self._isolation = topology.isolation
        self.on = self._isolation.rls
        if self._isolation.signed and self._isolation.key is None:
            raise TopologyError(
                "isolation.signed needs a key that tokens are signed with",
                code="PS721",
                hint='write: isolation: {signed: true, key: "${PARLANT_SIGNING_KEY}"}; make one: '
                "openssl rand -hex 32",
                file=str(topology.file),
                line=topology.line("isolation.signed"),
                path="isolation.signed",
            )

    @property
    def roles(self) -> frozenset[str]:
        named = (self._isolation.role, self._isolation.analytics)
        return frozenset(name for name in named if name is not None)

    @property
    def signing_keys(self) -> frozenset[str]:
        return frozenset(signing.keys(self._isolation))

    def shard_table(self, table: Table, server: str) -> Table:
        """A table whose rows all belong to a workspace."""
        if not self.on:
            return table
        self._check_own_policies(table)
        mine = rls.is_workspace(self._tenancy.key, self._tenancy.key_type)
        policies = [
            _policy("workspace", self._application, mine, check=mine),
            _policy("owner", self._owner(table.name, server), "true", check="true"),
            *self._for_analytics(),
        ]
        return replace(
            table,
            policies=(*table.policies, *policies),
            row_security=True,
            force_row_security=True,
            grants=self._granted(table.grants, WRITE),
        )

    def partition(self, leaf: Table, grants: tuple[Grant, ...]) -> Table:
        """A partition has its table's policies, for who addresses it; the application need not."""
        return replace(leaf, grants=grants) if self.on else leaf

    def reference_table(self, table: Table, base: Catalog, *, writable: bool) -> Table:
        """A table that all workspaces share, or that has rows of some and rows of all.

        Not FORCE: replication refuses to write a table whose policies hold for its owner.
        """
        if not self.on:
            return table
        carried = carried_on(table.name, base, self._tenancy)
        allowed = tuple(p for p in WRITE if p not in carried) if writable else READ
        grants = self._granted(table.grants, allowed)
        if table.column(self._tenancy.key) is None:
            return replace(table, grants=grants)
        self._check_own_policies(table)
        column = table.column(self._tenancy.key)
        assert column is not None
        mine = rls.is_workspace(self._tenancy.key, column.type)
        shared = f"(({canonical.quote(self._tenancy.key)} IS NULL) OR {mine})"
        policies = [
            _policy("shared", self._application, shared),
            _policy("workspace", self._application, mine, check=mine),
            *self._for_analytics(),
        ]
        return replace(
            table, policies=(*table.policies, *policies), row_security=True, grants=grants
        )

    def foreign_table(self, table: Table) -> Table:
        """Only who may analyse reads a shard of another server from here."""
        analytics = self._isolation.analytics
        if not self.on or analytics is None:
            return table
        return replace(table, grants=(Grant(role=analytics, privilege="SELECT"),))

    def view_grants(self, grants: tuple[Grant, ...]) -> tuple[Grant, ...]:
        """Who reads a federated view: never the application."""
        if not self.on:
            return grants
        kept = {g for g in grants if g.role not in {"", self._application}}
        analytics = self._isolation.analytics
        if analytics is not None:
            kept.add(Grant(role=analytics, privilege="SELECT"))
        return tuple(sorted(kept))

    def mapped(self, user: str) -> tuple[str, ...]:
        """The local roles that may go to other servers."""
        analytics = self._isolation.analytics
        return (user,) if not self.on or analytics is None else (user, analytics)

    def functions(self, base: Catalog, shards: Sequence[str]) -> Iterable[Function]:
        """What the policies ask for the workspace of a statement, and what passes over them."""
        if not self.on:
            return
        yield Function(
            signature=rls.WORKSPACE,
            definition=rls.signed_workspace() if self._isolation.signed else rls.plain_workspace(),
            executors=tuple(sorted(self.roles)),
        )
        if shards and self._topology.lookup == "trusted":
            for table, column, type_ in self._looked_up(base):
                yield self._narrow(
                    rls.look_up(
                        table,
                        column,
                        type_,
                        namespace=self._topology.namespace,
                        key=self._tenancy.key,
                        physical=[suffixed(table, shard) for shard in shards],
                    )
                )

        for table, column, index in searched(self._topology, self._tenancy, base):
            type_ = next(c.type for c in base.tables[table].columns if c.name == column)
            for shard in shards:
                yield self._narrow(
                    rls.search(
                        index,
                        name=search_name(index.index, shard),
                        namespace=self._topology.namespace,
                        key=self._tenancy.key,
                        key_type=self._tenancy.key_type,
                        column=column,
                        type_=type_,
                        physical=suffixed(table, shard),
                    )
                )

    def index(self, index: Index, server: str) -> Index:
        """A full-text index that finds the workspace too, where the server has what that needs."""
        if not self._keys_indexes(server) or rls.full_text(index.name, index.definition) is None:
            return index
        return replace(index, definition=rls.keyed(self._tenancy.key, index.definition))

    def extensions(self, base: Catalog, server: str) -> frozenset[str]:
        needed = self._keys_indexes(server) and searched(self._topology, self._tenancy, base)
        return frozenset({"btree_gin"}) if needed else frozenset()

    def _keys_indexes(self, server: str) -> bool:
        about = self._facts[server]
        return self.on and (
            "btree_gin" in self._live[server].extensions
            or (
                "btree_gin" in about.extensions_available
                and (
                    about.superuser
                    or ("btree_gin" in about.extensions_trusted and "create-schema" in about.can)
                )
            )
        )

    def _narrow(self, function: tuple[str, str]) -> Function:
        """A function that passes over the policies: of the application, for what it returns."""
        signature, definition = function
        return Function(signature=signature, definition=definition, executors=(self._application,))

    def _looked_up(self, base: Catalog) -> list[tuple[str, str, str]]:
        """The columns by which a statement may name a row, and their types.

        The router knows the same.
        """
        found = set()
        for name in self._tenancy.sharded:
            table = base.tables[name]
            types = {column.name: column.type for column in table.columns}
            if table.primary_key is not None and len(table.primary_key.columns) == 1:
                (column,) = table.primary_key.columns
                found.add((name, column))
            for fk in table.foreign_keys:
                if len(fk.columns) == 1 and id_type(types[fk.columns[0]]) is not None:
                    found.add((fk.ref_table, fk.ref_columns[0]))
        typed = []
        for name, column in sorted(found):
            declared = base.tables[name].column(column) if name in self._tenancy.sharded else None
            type_ = None if declared is None else id_type(declared.type)
            if type_ is not None:
                typed.append((name, column, type_))
        return typed

    @property
    def _application(self) -> str:
        assert self._isolation.role is not None  # the topology was checked
        return self._isolation.role

    def _owner(self, table: str, server: str) -> str:
        existing = self._live[server].tables.get(table)
        return existing.owner if existing and existing.owner else self._facts[server].user

    def _for_analytics(self) -> Iterable[Policy]:
        if self._isolation.analytics is not None:
            yield _policy("analytics", self._isolation.analytics, "true")

    def _granted(self, grants: tuple[Grant, ...], privileges: tuple[str, ...]) -> tuple[Grant, ...]:
        wanted = {Grant(role=self._application, privilege=p) for p in privileges}
        if self._isolation.analytics is not None:
            wanted.add(Grant(role=self._isolation.analytics, privilege="SELECT"))
        have = {(g.role, g.privilege) for g in grants}
        return tuple(sorted({*grants, *(g for g in wanted if (g.role, g.privilege) not in have)}))

    def _check_own_policies(self, table: Table) -> None:
        """A permissive policy of the schema would let in what ours keeps out: they are OR-ed."""
        for policy in table.policies:
            if policy.permissive and {"", self._application} & set(policy.roles):
                raise SchemaError(
                    f'policy "{policy.name}" of the schema\'s table "{table.name}" is permissive '
                    f'and holds for "{self._application}"',
                    code="PS723",
                    hint="permissive policies add rows to those of the workspace; make it AS "
                    "RESTRICTIVE, or leave it to other roles",
                )


def carried_on(reference: str, base: Catalog, tenancy: Tenancy) -> frozenset[str]:
    """What of DELETE and UPDATE, done to a shared row, changes rows of workspaces too.

    A foreign key acts with the rights of its table's owner, so no policy holds it back. A reference
    table with the key is no matter: only the row's own workspace may change it.
    """

    def reaches(event: str, table: str, trail: frozenset[tuple[str, str]]) -> bool:
        for name, child in base.tables.items():
            for fk in child.foreign_keys:
                action = fk.on_delete if event == "DELETE" else fk.on_update
                if fk.ref_table != table or fk.unenforced or action not in {"c", "n", "d"}:
                    continue
                if tenancy.kinds[name] == "sharded" or child.column(tenancy.key) is not None:
                    return True
                then = ("DELETE" if (event, action) == ("DELETE", "c") else "UPDATE", name)
                if then not in trail and reaches(*then, trail | {then}):
                    return True
        return False

    if base.tables[reference].column(tenancy.key) is not None:
        return frozenset()
    return frozenset(e for e in ("DELETE", "UPDATE") if reaches(e, reference, frozenset()))


def searched(
    topology: Topology, tenancy: Tenancy, base: Catalog
) -> list[tuple[str, str, rls.FullText]]:
    """The full-text indexes that policies would take from the application: table, key, index.

    Of tables with a key of one column, whose rows it tells apart: not where they are cut.
    """
    found = []
    for name in tenancy.sharded if topology.isolation.rls else ():
        table = base.tables[name]
        options = topology.tables.get(name)
        key = table.primary_key
        if key is None or len(key.columns) != 1 or (options and options.partition):
            continue
        for index in table.indexes:
            about = rls.full_text(index.name, index.definition)
            if about is not None:
                found.append((name, key.columns[0], about))
    return found


def _policy(name: str, role: str, using: str, *, check: str | None = None) -> Policy:
    """One for everything, or without `check` for reading alone."""
    return Policy(
        name=f"parlant_shard_{name}",
        command="r" if check is None else "*",
        permissive=True,
        roles=(role,),
        using=using,
        check=check,
    )
