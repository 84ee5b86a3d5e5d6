"""What every server should hold: the base catalogue, multiplied by the topology's shards.

Pure. `base` is what PostgreSQL made of the schema, per major version; `live` is asked only for
what the topology leaves to it (existing partitions, workspaces that live in hash buckets).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import timedelta

from parlant_shard import canonical, partitions
from parlant_shard.cascade import cascade_body
from parlant_shard.catalog import (
    Bound,
    Catalog,
    Check,
    Column,
    Facts,
    Foreign,
    ForeignKey,
    ForeignServer,
    Function,
    Grant,
    Index,
    Key,
    Managed,
    Placement,
    Publication,
    Relkind,
    Subscription,
    Table,
    Trigger,
    UserMapping,
    View,
)
from parlant_shard.errors import SchemaError
from parlant_shard.names import suffixed
from parlant_shard.shardmap import bucket
from parlant_shard.tenancy import Tenancy
from parlant_shard.topology import Partition, Topology

INTERNAL_VERSION = 1

# A rolling index carries this date in the base catalogue; see `roll`.
SENTINEL = "2000-01-01"

# postgres_fdw settings of ours: rows per fetch, and scans of several servers at once under a
# federated view. Estimates stay local: the remote ones cost a round trip per branch and plan.
FDW_OPTIONS = {"async_capable": "true", "fetch_size": "1000", "use_remote_estimate": "false"}

# What of a libpq connection string means the same to postgres_fdw.
PEER_OPTIONS = frozenset(
    [
        "host",
        "hostaddr",
        "port",
        "dbname",
        "sslmode",
        "sslrootcert",
        "sslcert",
        "sslkey",
        "sslcrl",
        "sslsni",
        "channel_binding",
        "gssencmode",
        "krbsrvname",
        "target_session_attrs",
        "ssl_min_protocol_version",
        "keepalives",
        "keepalives_idle",
        "keepalives_interval",
        "keepalives_count",
        "tcp_user_timeout",
    ]
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Peer:
    """How other servers reach a server. The password is in memory only."""

    options: tuple[tuple[str, str], ...]
    user: str
    password: str | None = None

    def __repr__(self) -> str:
        return f"Peer(options={self.options!r}, user={self.user!r})"


@dataclass(frozen=True, slots=True, kw_only=True)
class Desired:
    """The catalogue of every server, and what the operator should know about the choices."""

    catalogs: Mapping[str, Catalog]
    notices: tuple[str, ...]


def fdw_name(server: str) -> str:
    return f"parlant_shard_{server}"


def publication_name(topology: Topology) -> str:
    return f"parlant_shard_{topology.name.replace('-', '_')}"


def subscription_name(topology: Topology, server: str) -> str:
    # Slots are of the whole cluster, so the topology's name belongs in.
    return suffixed(publication_name(topology), server)


def check_name(table: str, shard: str) -> str:
    """The name of our CHECK on the key; it does not depend on the key's name."""
    return suffixed(suffixed(table, shard), "workspace_check")


def view_name(table: str) -> str:
    return suffixed(table, "global")


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
    return Desired(catalogs=catalogs, notices=tuple(dict.fromkeys(builder.notices)))


def roll(definition: str, start: str) -> str:
    """Put a date in the place of the sentinel of a rolling index."""
    return definition.replace(f"'{SENTINEL}", f"'{start}")


class _Builder:
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
        self.notices: list[str] = list(tenancy.notices)
        self.coordinator = topology.coordinator
        # One clock for all servers: partitions of two shards must not differ over midnight.
        self.now = facts[self.coordinator].now
        self.shards_of: dict[str, list[str]] = {name: [] for name in topology.servers}
        for shard, options in topology.shards.items():
            self.shards_of[options.server].append(shard)
        self.listed = {w: s for s, o in topology.shards.items() for w in o.workspaces}
        self.replicated = {
            name for name in topology.servers if self.shards_of[name] and self._may_replicate(name)
        }
        self.directory = self._directory()
        self._check_partitioning()
        self._tell_costs()

    # --- one server ------------------------------------------------------------------------------

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
        elif name in self.replicated:
            for logical in references:
                add(self._reference_copy(base, logical), logical)
        for shard in shards:
            for logical in self.tenancy.sharded:
                parent = self._shard_table(base, logical, shard, name)
                add(parent, logical, shard)
                for leaf in self._leaves(base, logical, shard, name, parent):
                    add(leaf, logical, shard)
        functions = dict(base.functions)
        if not is_coordinator and name in self.replicated:
            for function in self._reference_functions(tables):
                functions[function.signature] = function
        catalog = Catalog(
            extensions=base.extensions,
            enums=base.enums,
            functions=functions,
            tables=tables,
            managed=managed,
            internal_version=INTERNAL_VERSION,
            placements=frozenset(p for p in self.directory if p.shard in shards),
        )
        if is_coordinator:
            return self._federate(catalog, base)
        if name in self.replicated:
            return self._subscribe(catalog, name)
        return catalog

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
        return replace(
            catalog,
            tables=tables,
            managed=managed,
            views=views,
            extensions=catalog.extensions | ({"postgres_fdw"} if servers else set()),
            foreign_servers={
                fdw_name(s): ForeignServer(
                    name=fdw_name(s),
                    options=tuple(sorted({**dict(self.peers[s].options), **FDW_OPTIONS}.items())),
                )
                for s in servers
            },
            user_mappings={
                (fdw_name(s), self.facts[self.coordinator].user): UserMapping(
                    server=fdw_name(s),
                    role=self.facts[self.coordinator].user,
                    user=self.peers[s].user,
                    password=self.peers[s].password,
                )
                for s in servers
            },
            publications=self._publications(base),
            slots=frozenset(
                subscription_name(self.topology, s)
                for s in self.replicated
                if s != self.coordinator and self.tenancy.of_kind("reference")
            ),
            shards={s: o.server for s, o in self.topology.shards.items()},
            directory=self.directory,
        )

    # --- reference tables ------------------------------------------------------------------------

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
        if table is not base.tables[logical]:
            return table
        kept = []
        for fk in table.foreign_keys:
            if fk.ref_table in self.tenancy.sharded:
                self.notices.append(
                    f'foreign key "{fk.name}" of "{logical}" is left out: its target '
                    f'"{fk.ref_table}" is spread over the shards'
                )
            else:
                kept.append(fk)
        return replace(
            table, foreign_keys=tuple(kept), indexes=tuple(self._rolled(i) for i in table.indexes)
        )

    def _reference_copy(self, base: Catalog, logical: str) -> Table:
        """A copy that only the subscription writes: keys and rows, guards instead of triggers."""
        table = self._reference(base, logical)
        signature = self._cascade_signature(logical)
        return replace(
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
                Trigger(
                    name="parlant_shard_cascade",
                    head="CREATE TRIGGER parlant_shard_cascade AFTER DELETE",
                    tail=f"FOR EACH ROW EXECUTE FUNCTION {signature}",
                    # The apply worker runs as replica, where ordinary triggers and the foreign
                    # keys' own do not fire.
                    enabled="A",
                ),
                Trigger(
                    name="parlant_shard_guard",
                    head="CREATE TRIGGER parlant_shard_guard BEFORE INSERT OR DELETE OR UPDATE",
                    tail="FOR EACH STATEMENT EXECUTE FUNCTION parlant_shard.refuse_write()",
                ),
            ),
        )

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
        if not references or not self.replicated - {self.coordinator}:
            return {}
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
        options = dict(peer.options)
        subscription = Subscription(
            name=name,
            slot=name,
            publication=publication_name(self.topology),
            tables=references,
            peer=tuple(
                (k, v)
                for k, v in (
                    ("host", options.get("host")),
                    ("port", options.get("port")),
                    ("dbname", options.get("dbname")),
                    ("user", peer.user),
                )
                if v
            ),
            password=peer.password,
        )
        return replace(catalog, subscriptions={name: subscription})

    # --- shard tables ----------------------------------------------------------------------------

    def _shard_table(self, base: Catalog, logical: str, shard: str, server: str) -> Table:
        table = base.tables[logical]
        key = self.tenancy.key
        partition = self._partition(logical)
        columns = tuple(self._column(logical, c) for c in table.columns)
        if table.column(key) is None:
            columns += (Column(name=key, type=self.tenancy.key_type, not_null=True),)
        keys = tuple(
            replace(k, name=suffixed(k.name, shard))
            for k in table.keys
            if partition is None or partition.by in k.columns
        )
        extra = self._referenced_keys(base, logical)
        keys += tuple(
            Key(
                name=suffixed(f"{logical}_{'_'.join(columns_)}_key", shard),
                primary=False,
                columns=columns_,
                definition=canonical.unique(columns_),
            )
            for columns_ in extra
        )
        indexes = tuple(
            replace(self._rolled(i), name=suffixed(i.name, shard))
            for i in self._indexes(table, partition)
            if not (partition and (i.unique or i.window))
        )
        identity = table.replica_identity
        if identity.startswith("i:"):
            identity = f"i:{suffixed(identity[2:], shard)}"
        return replace(
            table,
            name=suffixed(logical, shard),
            kind=Relkind.PARTITIONED if partition else Relkind.TABLE,
            columns=columns,
            keys=tuple(sorted(keys, key=lambda k: k.name)),
            checks=tuple(
                sorted(
                    (
                        *(replace(c, name=suffixed(c.name, shard)) for c in table.checks),
                        self.workspace_check(logical, shard),
                    ),
                    key=lambda c: c.name,
                )
            ),
            foreign_keys=tuple(self._foreign_keys(base, logical, shard, server)),
            indexes=indexes,
            options=() if partition else table.options,
            unlogged=table.unlogged and partition is None,
            replica_identity="d" if partition and identity.startswith("i:") else identity,
            partition_by=partition.by if partition else None,
        )

    def _column(self, logical: str, column: Column) -> Column:
        if column.name == self.tenancy.key:
            return replace(column, not_null=True)
        if (column.default or "").startswith("nextval("):
            self.notices.append(
                f'"{logical}.{column.name}" counts with a sequence; each shard gets an identity '
                "column of its own, so numbers repeat across shards"
            )
            return replace(column, default=None, identity="d")
        if column.identity:
            self.notices.append(
                f'"{logical}.{column.name}" is an identity column; each shard counts by itself, '
                "so numbers repeat across shards"
            )
        return column

    def workspace_check(self, logical: str, shard: str) -> Check:
        """Our CHECK on the key: who may live in this shard table."""
        options = self.topology.shards[shard]
        key, key_type = self.tenancy.key, self.tenancy.key_type
        if options.buckets:
            elsewhere = sorted(w for w, s in self.listed.items() if s != shard)
            definition = canonical.bucket_check(
                key, key_type, sorted(options.buckets), elsewhere, sorted(options.workspaces)
            )
        else:
            definition = canonical.list_check(key, key_type, sorted(options.workspaces))
        return Check(name=check_name(logical, shard), definition=definition)

    def _referenced_keys(self, base: Catalog, logical: str) -> list[tuple[str, ...]]:
        """The (key, column) pairs that composite foreign keys of other tables point at."""
        table, key = base.tables[logical], self.tenancy.key
        have = {k.columns for k in table.keys}
        found: dict[tuple[str, ...], None] = {}
        for other in self.tenancy.sharded:
            for fk in base.tables[other].foreign_keys:
                if fk.ref_table == logical and key not in fk.ref_columns:
                    found[(key, *fk.ref_columns)] = None
        return [columns for columns in sorted(found) if columns not in have]

    def _foreign_keys(
        self, base: Catalog, logical: str, shard: str, server: str
    ) -> Iterable[ForeignKey]:
        key = self.tenancy.key
        for fk in base.tables[logical].foreign_keys:
            kind = self.tenancy.kinds.get(fk.ref_table)
            name = suffixed(fk.name, shard)
            if kind == "reference":
                if server in self.replicated:
                    yield replace(fk, name=name)
                continue
            if kind != "sharded":
                self.notices.append(
                    f'foreign key "{fk.name}" of "{logical}" is left out: "{fk.ref_table}" is a '
                    "host table, which the shards do not have"
                )
                continue
            if fk.on_update in {"n", "d"}:
                self.notices.append(
                    f'foreign key "{fk.name}" of "{logical}": SET NULL and SET DEFAULT on update '
                    "would change the tenant as well; the shards have NO ACTION"
                )
            if fk.match == "f":
                self.notices.append(
                    f'foreign key "{fk.name}" of "{logical}": MATCH FULL cannot hold beside the '
                    "tenant, which is never NULL; the shards have MATCH SIMPLE"
                )
            inside = key in fk.columns
            yield replace(
                fk,
                name=name,
                ref_table=suffixed(fk.ref_table, shard),
                columns=fk.columns if inside else (key, *fk.columns),
                ref_columns=fk.ref_columns if inside else (key, *fk.ref_columns),
                on_update="a" if fk.on_update in {"n", "d"} else fk.on_update,
                match="s",
                # Without the list, SET NULL would clear the tenant too.
                set_columns=(fk.set_columns or tuple(c for c in fk.columns if c != key))
                if fk.on_delete in {"n", "d"}
                else (),
            )

    def _indexes(self, table: Table, partition: Partition | None) -> Iterable[Index]:
        whole = {i.definition for i in table.indexes if i.window is None}
        for index in table.indexes:
            if (
                partition
                and index.window
                and index.definition in whole
                and not self.topology.states(f"indexes.{index.name}")
            ):
                self.notices.append(
                    f'index "{index.name}" is not created: on the partitions of "{table.name}" it '
                    "would repeat an index that they have anyway"
                )
                continue
            yield index

    def _rolled(self, index: Index) -> Index:
        if index.window is None:
            return index
        start = self.now - timedelta(seconds=index.window.seconds)
        return replace(index, definition=roll(index.definition, f"{start:%Y-%m-%d}"))

    # --- partitions ------------------------------------------------------------------------------

    def _partition(self, logical: str) -> Partition | None:
        options = self.topology.tables.get(logical)
        return options.partition if options else None

    def _leaves(
        self, base: Catalog, logical: str, shard: str, server: str, parent: Table
    ) -> Iterable[Table]:
        partition = self._partition(logical)
        if partition is None:
            return
        live = self.live[server].tables
        existing = [t for t in live.values() if t.parent == parent.name and not t.detach_pending]
        for table in existing:
            yield self._leaf(base, logical, shard, parent, table.name, table.bound)
        if partition.default and not any(t.bound and t.bound.default for t in existing):
            name = suffixed(parent.name, "default")
            yield self._leaf(base, logical, shard, parent, name, Bound(default=True))
        oldest = partitions.before(partition.retention, self.now) if partition.retention else None
        free = partitions.uncovered(
            partitions.wanted(partition.every, self.now, partition.premake, oldest),
            [(t.bound.lower, t.bound.upper) for t in existing if t.bound and not t.bound.default],
        )
        attached = {t.name for t in existing}
        for lower, upper in free:
            name = suffixed(parent.name, partitions.suffix(lower))
            while name in live or name in attached:  # a detached partition keeps its name
                name = suffixed(name, "x")
            yield self._leaf(base, logical, shard, parent, name, Bound(lower=lower, upper=upper))

    def _leaf(
        self,
        base: Catalog,
        logical: str,
        shard: str,
        parent: Table,
        name: str,
        bound: Bound | None,
    ) -> Table:
        """A partition: what it inherits stays out, what each partition has by itself is here."""
        table = base.tables[logical]
        partition = self._partition(logical)
        assert partition is not None
        own = [
            index
            for index in self._indexes(table, partition)
            if index.unique or (index.window and self._in_window(index, bound))
        ]
        attached = [
            replace(
                i, name=suffixed(name, _short(i.name, shard, parent)), parent=i.name, comment=None
            )
            for i in parent.indexes
        ]
        identity = table.replica_identity
        if identity.startswith("i:"):
            identity = f"i:{suffixed(name, identity[2:])}"
        return replace(
            parent,
            name=name,
            kind=Relkind.TABLE,
            columns=parent.columns,
            keys=tuple(
                replace(k, name=suffixed(name, _key_suffix(k, logical))) for k in table.keys
            ),
            indexes=tuple(
                [replace(i, name=suffixed(name, i.name.removeprefix(f"{logical}_"))) for i in own]
                + attached
            ),
            triggers=(),
            options=table.options,
            comment=None,
            unlogged=table.unlogged,
            replica_identity=identity,
            partition_by=None,
            parent=parent.name,
            bound=bound,
        )

    def _in_window(self, index: Index, bound: Bound | None) -> bool:
        assert index.window is not None
        if bound is None or bound.default or bound.upper is None:
            return True
        return bound.upper > self.now - timedelta(seconds=index.window.seconds)

    def _check_partitioning(self) -> None:
        any_base = next(iter(self.base.values()))
        for logical in self.tenancy.sharded:
            partition = self._partition(logical)
            if partition is None:
                continue
            table = any_base.tables[logical]
            path = f"tables.{logical}.partition"
            column = table.column(partition.by)
            place = {
                "file": str(self.topology.file),
                "line": self.topology.line(f"{path}.by"),
                "path": f"{path}.by",
            }
            if column is None:
                raise SchemaError(
                    f'partition column "{partition.by}" does not exist in table "{logical}"',
                    code="PS217",
                    hint=f"columns: {', '.join(c.name for c in table.columns)}",
                    **place,  # type: ignore[arg-type]  # the three keywords of a place
                )
            if not re.match(r"timestamp|date", column.type):
                raise SchemaError(
                    f'partition column "{logical}.{partition.by}" is of type {column.type}',
                    code="PS218",
                    hint="use a timestamp, timestamptz or date column",
                    **place,  # type: ignore[arg-type]
                )
            for other in sorted(any_base.tables):
                for fk in any_base.tables[other].foreign_keys:
                    if fk.ref_table == logical and partition.by not in fk.ref_columns:
                        raise SchemaError(
                            f'table "{logical}" cannot be partitioned by "{partition.by}": '
                            f'"{other}" references it by ({", ".join(fk.ref_columns)}) alone '
                            f'(foreign key "{fk.name}")',
                            code="PS219",
                            hint="a key of a partitioned table must contain the control column; "
                            "drop the foreign key or leave the table unpartitioned",
                            **place,  # type: ignore[arg-type]
                        )
            lost = [k.columns for k in table.keys if partition.by not in k.columns]
            lost += [
                tuple(i.definition[i.definition.find("(") + 1 : i.definition.find(")")].split(", "))
                for i in table.indexes
                if i.unique
            ]
            if lost:
                targets = "; ".join(f"ON CONFLICT ({', '.join(c)})" for c in lost)
                self.notices.append(
                    f'"{logical}" is partitioned by "{partition.by}": uniqueness holds within a '
                    f"partition only, and these are no longer accepted: {targets}"
                )

    # --- federation ------------------------------------------------------------------------------

    def _foreign_table(self, base: Catalog, logical: str, shard: str) -> Table:
        remote = self._shard_table(base, logical, shard, self.topology.shards[shard].server)
        return Table(
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
            grants=tuple(
                Grant(role=g.role, privilege="SELECT")
                for g in table.grants
                if g.privilege == "SELECT"
            ),
        )

    # --- placement -------------------------------------------------------------------------------

    def _directory(self) -> frozenset[Placement]:
        rows = {Placement(workspace=w, shard=s) for w, s in self.listed.items()}
        spans = [(s, span) for s, o in self.topology.shards.items() for span in o.buckets]
        for row in self.live[self.coordinator].directory:
            if row.workspace in self.listed:
                continue
            number = bucket(row.workspace)
            home = next((s for s, (low, high) in spans if low <= number <= high), None)
            if home is not None:
                rows.add(replace(row, shard=home))
        return frozenset(rows)

    def _tell_costs(self) -> None:
        for shard, options in self.topology.shards.items():
            count = len(options.workspaces)
            if count > canonical.PRUNABLE_LIST:
                self.notices.append(
                    f'shard "{shard}" lists {count} workspaces: the CHECK is split into lists of '
                    f"{canonical.PRUNABLE_LIST} so that pruning goes on working, and every write "
                    "reads it again (a prepared insert took 0.74 ms against 0.42 at 1,000 "
                    "workspaces); consider hash buckets"
                )
            elif count > canonical.PRUNABLE_LIST // 2:
                self.notices.append(
                    f'shard "{shard}" lists {count} workspaces: every write reads the CHECK again '
                    "(a prepared insert took 0.13 ms against 0.10 at 100 workspaces)"
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


def _short(index: str, shard: str, parent: Table) -> str:
    """What of a parent's index name tells it apart, for the name of a partition's index."""
    return index.removeprefix(f"{parent.name.removesuffix(f'_{shard}')}_").removesuffix(f"_{shard}")


def _key_suffix(key: Key, logical: str) -> str:
    return key.name.removeprefix(f"{logical}_")
