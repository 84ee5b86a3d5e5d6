"""From a topology to a plan: connect, read, multiply, compare."""

from __future__ import annotations

import hashlib
import re
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import psycopg
from psycopg.conninfo import conninfo_to_dict

from parlant_shard import (
    blockers,
    canonical,
    copies,
    db,
    local,
    preflight,
    scratch,
    searchpath,
)
from parlant_shard import changes as c
from parlant_shard.catalog import Catalog, Facts, Relkind, Table, fingerprint
from parlant_shard.ddlfile import (
    DeclaredForeignKey,
    DeclaredTable,
    Statement,
    read_statements,
)
from parlant_shard.desired import (
    PEER_OPTIONS,
    Desired,
    Peer,
    desired,
    publication_name,
    shard_map,
    subscription_name,
)
from parlant_shard.diff import Context, diff
from parlant_shard.errors import ShardError, TopologyError
from parlant_shard.introspect import facts, introspect, unsafe_roles
from parlant_shard.orphans import orphans
from parlant_shard.plan import BrokenCopy, Orphans, Plan, Target, build
from parlant_shard.shardmap import ShardMap
from parlant_shard.tenancy import Tenancy, tenancy
from parlant_shard.topology import Topology, check_tables, preset


@dataclass(frozen=True, slots=True, kw_only=True)
class State:
    """Everything that a plan was made from."""

    topology: Topology
    facts: Mapping[str, Facts]
    live: Mapping[str, Catalog]
    base: Mapping[int, Catalog]
    tenancy: Tenancy
    desired: Desired
    peers: Mapping[str, Peer]


def make_plan(topology: Topology) -> Plan:
    """Read every server and plan what differs. Changes nothing but a scratch database."""
    preflight.refuse_poolers(topology)
    return plan_of(read_state(topology))


def read_state(topology: Topology, *, before: State | None = None) -> State:
    """Read every server, in parallel, and compute what it should hold.

    With `before` at the moment when that was read: partitions follow the clock.
    """
    live, found = read_servers(topology)
    if before is not None:
        found = {name: replace(f, now=before.facts[name].now) for name, f in found.items()}
    preflight.check_servers(topology, live, found)
    origin = topology.schema_source.from_
    if origin is not None:
        check_tables(topology, declared_by(without_ours(live[origin])))
    majors = sorted({f.major for f in found.values()})
    base = {major: base_catalog(topology, live, found, major) for major in majors}
    kinds = tenancy(base[majors[0]], topology)
    preflight.check_types(topology, base[majors[0]], kinds)
    peers = {name: peer(topology, name, found[name]) for name in topology.servers}
    wanted = desired(base, topology, kinds, found, live, peers)
    preflight.check_roles(topology, base[majors[0]], found)
    preflight.check_wall(topology, found)
    return State(
        topology=topology,
        facts=found,
        live=live,
        base=base,
        tenancy=kinds,
        desired=wanted,
        peers=peers,
    )


def plan_of(state: State, *, compare_copies: bool = False) -> Plan:
    """Compare and build. Raises where the topology would leave rows where they do not belong.

    `compare_copies`: the rows of every copy of a reference table, and not only of suspect ones.
    """
    topology = state.topology
    servers = {*topology.servers, *state.live[topology.coordinator].shards.values()}
    broken = broken_copies(topology, state.live, state.desired.catalogs, compare=compare_copies)
    context = Context(
        coordinator=topology.coordinator,
        publication=publication_name(topology),
        slots=frozenset(subscription_name(topology, s) for s in servers),
        broken=frozenset(b.slot for b in broken),
        slot_of={s: subscription_name(topology, s) for s in topology.servers},
        now=state.facts[topology.coordinator].now,
    )
    live = preflight.without_empty_pages(topology, state.live, state.desired.catalogs)
    changes = diff(live, state.desired.catalogs, context)
    preflight.check_rights(topology, live, state.facts, changes)
    preflight.check_capacity(topology, state.facts, changes)
    preflight.refuse_stranded_rows(topology, state.tenancy, live, changes)
    target = Target(
        topology=topology.name,
        namespace=topology.namespace,
        coordinator=topology.coordinator,
        key=state.tenancy.key,
        key_type=state.tenancy.key_type,
        peers=state.peers,
        majors={name: f.major for name, f in state.facts.items()},
        analytics=topology.isolation.analytics,
    )
    return Plan(
        topology=topology.name,
        file=str(topology.file),
        sha256=topology.sha256,
        schema_sha256=fingerprint({str(major): base for major, base in state.base.items()}),
        fingerprint=fingerprint(state.live, topology.sha256),
        steps=build(changes, target),
        notices=_notices(state),
        broken_copies=broken,
        foreign_keys=state.desired.held,
        orphans=_orphans(topology, changes),
    )


def _orphans(topology: Topology, changes: Sequence[c.Change]) -> tuple[Orphans, ...]:
    """Rows that a foreign key will not admit which is to point at a key table: said before."""
    swaps: dict[str, list[c.SwapForeignKey]] = {}
    for change in changes:
        if isinstance(change, c.SwapForeignKey) and change.foreign_key.key_table:
            swaps.setdefault(change.server, []).append(change)
    found = []
    for server, mine in sorted(swaps.items()):
        with db.session(topology, server, doing="looking for rows without a parent") as connection:
            connection.execute(searchpath.opened(topology.namespace, local=False))
            for change in mine:
                name = change.table.name, change.foreign_key.name
                row = orphans(connection, server, topology.namespace, *name)
                if row is not None:
                    found.append(row)
    return tuple(found)


def broken_copies(
    topology: Topology,
    live: Mapping[str, Catalog],
    wanted: Mapping[str, Catalog],
    *,
    compare: bool = False,
) -> tuple[BrokenCopy, ...]:
    """Copies of reference tables that are to stay, and that missed changes.

    The rows of a copy are compared only if its slot looks as if it had been made anew, or all with
    `compare`; never while a table is still being copied for the first time.
    """
    home = live[topology.coordinator]
    subscriptions = {
        server: live[server].subscriptions[name]
        for server, catalog in wanted.items()
        for name in catalog.subscriptions
        if server in live and name in live[server].subscriptions
    }
    found = copies.broken(topology, home.slot_states, home.wal_end, subscriptions)
    publication = home.publications.get(publication_name(topology))
    for server, subscription in subscriptions.items():
        slot = home.slot_states.get(subscription.name)
        if server in found or slot is None or not subscription.synced:
            continue
        if not (compare or copies.is_suspect(subscription, slot)):
            continue
        limits = copies.Limits(rows=100_000, wait=3.0)
        differs = copies.proven(topology, server, subscription, publication, limits)
        if differs is not None:
            found[server] = differs
    return tuple(found[server] for server in sorted(found))


def map_of(state: State) -> ShardMap:
    """The shard map of what the topology asks for. Raises SchemaError (PS239)."""
    base = state.base[state.facts[state.topology.coordinator].major]
    return shard_map(state.topology, state.tenancy, base, state.desired.catalogs)


# --- reading --------------------------------------------------------------------------------------


def read_servers(topology: Topology) -> tuple[dict[str, Catalog], dict[str, Facts]]:
    """Introspect all servers at once. Raises the first failure in the order of the topology."""

    with_tables = {topology.coordinator, *(s.server for s in topology.shards.values())}

    def read(server: str) -> tuple[Catalog, Facts]:
        with db.session(topology, server) as connection:
            about = facts(connection, server, topology.namespace)
            try:
                found = introspect(
                    connection,
                    namespace=topology.namespace,
                    topology=topology.name,
                    epochs=topology.epochs,
                    server=server,
                )
            except psycopg.errors.LockNotAvailable as error:
                raise (
                    blockers.unreadable(connection, server, topology.namespace) or error
                ) from error
            isolation = topology.isolation
            named = {isolation.role, isolation.analytics} if server in with_tables else set()
            if isolation.rls:
                about = replace(about, unsafe=unsafe_roles(connection, isolation))
            return replace(found, roles=about.roles & named), about

    names = list(topology.servers)
    with ThreadPoolExecutor(max_workers=max(1, min(8, len(names)))) as pool:
        futures = {name: pool.submit(read, name) for name in names}
    results = {name: future.result() for name, future in futures.items()}
    return {n: r[0] for n, r in results.items()}, {n: r[1] for n, r in results.items()}


def peer(topology: Topology, name: str, about: Facts) -> Peer:
    """How other servers reach this one: `peer_dsn` alone where it is given, else our own way."""
    server = topology.servers[name]
    if server.peer_dsn is not None:
        given = {k: str(v) for k, v in conninfo_to_dict(server.peer_dsn).items()}
        given.setdefault("dbname", about.database)
        own = {}
    else:
        given = {k: str(v) for k, v in conninfo_to_dict(db.conninfo(topology, name)).items()}
        own = {"host": about.host, "port": about.port, "dbname": about.database}
        if about.sslmode is not None:  # of a service file or the environment: not weaker for peers
            own["sslmode"] = about.sslmode
    options = {k: v for k, v in {**own, **given}.items() if k in PEER_OPTIONS and v}
    return Peer(
        options=tuple(sorted(options.items())),
        user=given.get("user", about.user),
        password=given.get("password", about.password),
    )


# --- the schema -----------------------------------------------------------------------------------


def statements_of(topology: Topology) -> tuple[Statement, ...]:
    """The DDL of a preset (with its index strategy) or of files."""
    source = topology.schema_source
    if source.preset is not None:
        found = preset(source.preset)
        strategy = ";\n".join(i.sql for i in found.indexes if i.sql is not None)
        return read_statements(
            [(f"{source.preset}.sql", found.text), (f"{source.preset}.yaml", strategy)]
        )
    return read_statements(topology.schema_files)


def base_catalog(
    topology: Topology, live: Mapping[str, Catalog], found: Mapping[str, Facts], major: int
) -> Catalog:
    """The schema to shard, as PostgreSQL of this major sees it."""
    origin = topology.schema_source.from_
    if origin is not None:
        base = without_ours(live[origin])
        if found[origin].major != major or topology.indexes:
            with _scratch(topology, found, major) as connection:
                base = scratch.rebuild(connection, base, topology)
        return _in_force(base)
    statements = statements_of(topology)
    key = _materialised_as(topology, statements, found, major)
    if key not in _materialised:
        with _scratch(topology, found, major) as connection:
            base = _in_force(scratch.materialise(connection, statements, topology))
        if len(_materialised) >= _KEPT:
            _materialised.pop(next(iter(_materialised)))
        _materialised[key] = base
    return _materialised[key]


def _in_force(base: Catalog) -> Catalog:
    """The schema with all of its constraints valid: on a shard they are validated.

    A dump says NOT VALID of what was never validated where it comes from. What is declared NOT
    ENFORCED stays so.
    """

    def table(found: Table) -> Table:
        return replace(
            found,
            checks=tuple(replace(c, valid=True) for c in found.checks),
            foreign_keys=tuple(replace(fk, valid=True) for fk in found.foreign_keys),
        )

    return replace(base, tables={name: table(t) for name, t in base.tables.items()})


# What a scratch database said, kept for the life of the process: the same statements on the same
# server give the same catalogue, and a process that applies plans at least twice.
_KEPT = 16
_materialised: dict[str, Catalog] = {}


def _materialised_as(
    topology: Topology,
    statements: tuple[Statement, ...],
    found: Mapping[str, Facts],
    major: int,
) -> str:
    server = scratch.scratch_server(topology, found, major)
    about = found[server or topology.coordinator]
    digest = hashlib.sha256()
    for part in (
        server or "embedded",
        about.identity,
        about.user,
        str(about.version_num),
        topology.namespace,
        repr(sorted((n, repr(o)) for n, o in topology.indexes.items())),
        repr(sorted((n, repr(o.partition)) for n, o in topology.tables.items())),
        *(f"{s.file}:{s.line}:{s.text}" for s in statements),
    ):
        digest.update(part.encode() + b"\0")
    return digest.hexdigest()


# What PostgreSQL prints for types that a file may call by their bare names.
_BARE = {
    "bigint": "int8",
    "boolean": "bool",
    "character": "bpchar",
    "character varying": "varchar",
    "double precision": "float8",
    "integer": "int4",
    "real": "float4",
    "smallint": "int2",
    "time with time zone": "timetz",
    "time without time zone": "time",
    "timestamp with time zone": "timestamptz",
    "timestamp without time zone": "timestamp",
}


def declared_by(catalog: Catalog) -> dict[str, DeclaredTable]:
    """Return the tables of a live database in the form in which files declare them."""
    return {
        name: DeclaredTable(
            name=name,
            columns={column.name: _bare(column.type) for column in table.columns},
            indexes=tuple(index.name for index in table.indexes),
            constraints={
                key.name: "primary key" if key.primary else key.definition.split()[0].lower()
                for key in table.keys
            },
            foreign_keys=tuple(
                DeclaredForeignKey(
                    name=fk.name,
                    columns=fk.columns,
                    ref_table=fk.ref_table,
                    ref_columns=fk.ref_columns,
                )
                for fk in table.foreign_keys
            ),
        )
        for name, table in catalog.tables.items()
    }


def _bare(name: str) -> str:
    base = name.removesuffix("[]")
    plain = re.sub(r"\([\d,]+\)", "", base)
    return _BARE.get(plain, plain) + name[len(base) :]


def without_ours(catalog: Catalog) -> Catalog:
    """Return a live catalogue as the schema to shard: without what parlant-shard put there."""
    ours = {name for kind, name in catalog.managed if kind == "table"}
    ours |= catalog.other_relations.keys()
    tables = {
        name: table
        for name, table in catalog.tables.items()
        if name not in ours and table.parent not in ours and table.kind is not Relkind.FOREIGN
    }
    return replace(
        catalog,
        tables=tables,
        views={n: v for n, v in catalog.views.items() if ("view", n) not in catalog.managed},
        extensions=catalog.extensions - {"postgres_fdw"},
        functions={
            s: f for s, f in catalog.functions.items() if not s.startswith("parlant_shard.")
        },
    )


@contextmanager
def _scratch(topology: Topology, found: Mapping[str, Facts], major: int) -> Iterator[db.Connection]:
    """A scratch database on a server of this major, or on an embedded one as a last resort."""
    server = scratch.scratch_server(topology, found, major)
    if server is not None:
        with scratch.scratch_database(db.conninfo(topology, server), server) as connection:
            yield connection
        return
    user = found[topology.coordinator].user
    with tempfile.TemporaryDirectory(prefix="parlant-shard-") as directory:
        home = Path(directory) / "server"
        try:
            running = local.up(home, durable=False)
        except ShardError as error:
            raise TopologyError(
                f"no role of ours may create a scratch database on a PostgreSQL {major} server, "
                f"and no embedded server is to be had: {error.message}",
                code="PS166",
                hint=f"ALTER ROLE {canonical.quote(user)} CREATEDB",
            ) from error
        try:
            if int(running.version.split(".")[0]) != major:
                raise TopologyError(
                    f"no role of ours may create a scratch database on a PostgreSQL {major} "
                    f"server, and the embedded server is of another major ({running.version})",
                    code="PS166",
                    hint=f"ALTER ROLE {canonical.quote(user)} CREATEDB",
                )
            with scratch.scratch_database(local.conninfo(home), "embedded scratch") as connection:
                yield connection
        finally:
            local.down(home)


def preset_notices(topology: Topology) -> tuple[str, ...]:
    """What became of the indexes that were proposed for the preset's schema."""
    if topology.schema_source.preset is None:
        return ()
    return tuple(
        f'index "{index.name}" ({index.verdict}): {index.notice}'
        for index in preset(topology.schema_source.preset).indexes
        if index.verdict != "created" and index.notice
    )


def _notices(state: State) -> tuple[str, ...]:
    own = state.desired.notices
    about_indexes = tuple(
        notice
        for notice in preset_notices(state.topology)
        # What was decided for this topology says more than what holds for the preset.
        if not any(o.startswith(notice.partition(" (")[0] + " is not") for o in own)
    )
    return (
        *own,
        *_left_behind(state),
        *_event_triggers(state),
        *about_indexes,
        *_unused(state.topology),
    )


def _event_triggers(state: State) -> Iterator[str]:
    """Functions of others that run within our statements. Those of extensions `doctor` names."""
    for server, about in sorted(state.facts.items()):
        triggers = [t for t in about.event_triggers if t.extension is None and t.event != "login"]
        if triggers:
            yield (
                f'on server "{server}" event triggers run with the statements of a plan and can '
                f"change what these make: {', '.join(map(str, triggers))}; `apply` compares the "
                "result with the plan and repairs differences once"
            )


def _left_behind(state: State) -> Iterator[str]:
    """What a plan takes away, or cannot take away."""
    live, wanted = state.live, state.desired.catalogs
    for shard, server in sorted(live[state.topology.coordinator].shards.items()):
        if shard not in state.topology.shards:
            placed = sorted(p.workspace for p in live[server].placements if p.shard == shard)
            if placed:
                names = ", ".join(f'"{w}"' for w in placed[:10])
                more = f" and {len(placed) - 10} more" if len(placed) > 10 else ""
                yield f'shard "{shard}" goes, and with it the workspaces {names}{more}'
    for server, catalog in sorted(wanted.items()):
        for name, enum in sorted(catalog.enums.items()):
            existing = live[server].enums.get(name)
            for label in existing.labels if existing else ():
                if label not in enum.labels:
                    yield (
                        f'label "{label}" of enum "{name}" stays on server "{server}": PostgreSQL '
                        "cannot remove it"
                    )


def _unused(topology: Topology) -> tuple[str, ...]:
    found = []
    if topology.routing:
        found.append("`routing:` is checked, but this release does not use it yet")
    if any(server.replicas for server in topology.servers.values()):
        found.append(
            "`replicas:` are checked, but queries are not sent there yet: this release reads them "
            "for `monitor` and `advise` alone"
        )
    return tuple(found)
