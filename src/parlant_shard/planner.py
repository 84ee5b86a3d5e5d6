"""From a topology to a plan: connect, read, multiply, compare, and refuse what would strand rows."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import psycopg
from psycopg.conninfo import conninfo_to_dict
from psycopg.sql import SQL, Composable, Composed, Identifier

from parlant_shard import canonical, db, local, scratch
from parlant_shard import changes as c
from parlant_shard.catalog import Catalog, Facts, Relkind, fingerprint
from parlant_shard.ddl import text
from parlant_shard.ddlfile import Statement, read_statements
from parlant_shard.desired import (
    PEER_OPTIONS,
    Desired,
    Peer,
    desired,
    publication_name,
    subscription_name,
)
from parlant_shard.diff import Context, diff, listed
from parlant_shard.errors import CannotConnect, SchemaError, ShardError, TopologyError
from parlant_shard.introspect import facts, introspect
from parlant_shard.plan import Plan, Target, build
from parlant_shard.shardmap import shard_of
from parlant_shard.tenancy import Tenancy, tenancy
from parlant_shard.topology import Topology, preset


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
    return plan_of(read_state(topology))


def read_state(topology: Topology) -> State:
    """Read every server, in parallel, and compute what it should hold."""
    live, found = read_servers(topology)
    _check_servers(topology, live, found)
    majors = sorted({f.major for f in found.values()})
    base = {major: base_catalog(topology, live, found, major) for major in majors}
    kinds = tenancy(base[majors[0]], topology)
    peers = {name: peer(topology, name, found[name]) for name in topology.servers}
    wanted = desired(base, topology, kinds, found, live, peers)
    _check_roles(topology, base[majors[0]], found)
    return State(
        topology=topology,
        facts=found,
        live=live,
        base=base,
        tenancy=kinds,
        desired=wanted,
        peers=peers,
    )


def plan_of(state: State) -> Plan:
    """Compare and build. Raises where the topology would leave rows where they do not belong."""
    topology = state.topology
    servers = {*topology.servers, *state.live[topology.coordinator].shards.values()}
    context = Context(
        coordinator=topology.coordinator,
        publication=publication_name(topology),
        slots=frozenset(subscription_name(topology, s) for s in servers),
    )
    changes = diff(state.live, state.desired.catalogs, context)
    _refuse_stranded_rows(state, changes)
    target = Target(
        topology=topology.name,
        namespace=topology.namespace,
        coordinator=topology.coordinator,
        key=state.tenancy.key,
        key_type=state.tenancy.key_type,
        shard_servers=frozenset(s.server for s in topology.shards.values()),
        peers=state.peers,
        majors={name: f.major for name, f in state.facts.items()},
    )
    return Plan(
        topology=topology.name,
        file=str(topology.file),
        sha256=topology.sha256,
        fingerprint=fingerprint(state.live, topology.sha256),
        steps=build(changes, target),
        notices=_notices(state),
    )


# --- reading --------------------------------------------------------------------------------------


def read_servers(topology: Topology) -> tuple[dict[str, Catalog], dict[str, Facts]]:
    """Introspect all servers at once. Raises the first failure in the order of the topology."""

    def read(server: str) -> tuple[Catalog, Facts]:
        with db.session(topology, server) as connection:
            about = facts(connection, server, topology.namespace)
            return (
                introspect(connection, namespace=topology.namespace, topology=topology.name),
                about,
            )

    names = list(topology.servers)
    with ThreadPoolExecutor(max_workers=max(1, min(8, len(names)))) as pool:
        futures = {name: pool.submit(read, name) for name in names}
    results = {name: future.result() for name, future in futures.items()}
    return {n: r[0] for n, r in results.items()}, {n: r[1] for n, r in results.items()}


def _check_servers(
    topology: Topology, live: Mapping[str, Catalog], found: Mapping[str, Facts]
) -> None:
    for name, about in found.items():
        place = {
            "file": str(topology.file),
            "line": topology.line(f"servers.{name}"),
            "path": f"servers.{name}",
        }
        if about.in_recovery:
            raise TopologyError(
                f'server "{name}" is a replica: it cannot be changed',
                code="PS160",
                hint="give the primary's address as dsn (or admin_dsn); list the replica under "
                "`replicas`",
                **place,  # type: ignore[arg-type]  # the three keywords of a place
            )
        if about.read_only:
            raise TopologyError(
                f'server "{name}" is read-only (default_transaction_read_only = on)',
                code="PS167",
                hint=f"ALTER DATABASE {canonical.quote(about.database)} RESET "
                "default_transaction_read_only; a replica needs its primary's address as dsn",
                **place,  # type: ignore[arg-type]
            )
        if about.settings.get("server_encoding") != "UTF8":
            raise TopologyError(
                f'the database of server "{name}" has the encoding '
                f"{about.settings.get('server_encoding')}, UTF8 is needed",
                code="PS161",
                hint="bucket numbers and names are computed over UTF-8; use a UTF8 database",
                **place,  # type: ignore[arg-type]
            )
        if "namespace" not in about.can:
            raise TopologyError(
                f'schema "{topology.namespace}" does not exist on server "{name}"',
                code="PS162",
                hint=f"CREATE SCHEMA {canonical.quote(topology.namespace)}",
                **place,  # type: ignore[arg-type]
            )
        missing = {
            "create-schema": (
                "may not create schemas",
                f"GRANT CREATE ON DATABASE {canonical.quote(about.database)} TO "
                f"{canonical.quote(about.user)}",
            ),
            "create-in-namespace": (
                f'may not create tables in schema "{topology.namespace}"',
                f"GRANT CREATE ON SCHEMA {canonical.quote(topology.namespace)} TO "
                f"{canonical.quote(about.user)}",
            ),
        }
        for privilege, (what, statement) in missing.items():
            if privilege not in about.can and not (
                privilege == "create-schema" and live[name].internal_version
            ):
                raise TopologyError(
                    f'role "{about.user}" {what} on server "{name}"',
                    code="PS163",
                    hint=statement,
                    **place,  # type: ignore[arg-type]
                )
    same = _same_database(found)
    if same is not None:
        raise TopologyError(
            f'servers "{same[0]}" and "{same[1]}" are the same database',
            code="PS164",
            hint="list a database once; several shards can share a server",
            file=str(topology.file),
            line=topology.line(f"servers.{same[1]}"),
            path=f"servers.{same[1]}",
        )
    for shard, server in sorted(live[topology.coordinator].shards.items()):
        if server not in topology.servers:
            raise TopologyError(
                f'server "{server}" is gone from the topology, but shard "{shard}" is still on it',
                code="PS165",
                hint=f'list server "{server}" again, take its shards out of the topology, apply, '
                "and remove the server then",
                file=str(topology.file),
                line=topology.line("servers"),
                path="servers",
            )


def _same_database(found: Mapping[str, Facts]) -> tuple[str, str] | None:
    seen: dict[str, str] = {}
    for name, about in found.items():
        if about.identity in seen:
            return seen[about.identity], name
        seen[about.identity] = name
    return None


def _check_roles(topology: Topology, base: Catalog, found: Mapping[str, Facts]) -> None:
    """Grants and policies name roles; they must exist wherever the tables will be."""
    named = {
        role
        for table in base.tables.values()
        for role in (
            *(g.role for g in table.grants),
            *(r for p in table.policies for r in p.roles),
        )
        if role
    }
    for server in topology.servers:
        for role in sorted(named - found[server].roles):
            raise SchemaError(
                f'the schema grants to role "{role}", which server "{server}" does not have',
                code="PS233",
                hint=f"CREATE ROLE {canonical.quote(role)}",
            )


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
        base = _without_ours(live[origin])
        missing = sorted({o.on for o in topology.indexes.values()} - base.tables.keys())
        if missing:
            raise SchemaError(
                f'an index names the table "{missing[0]}", which server "{origin}" does not have',
                code="PS234",
                file=str(topology.file),
                line=topology.line("indexes"),
                path="indexes",
            )
        if found[origin].major == major and not topology.indexes:
            return base
        with _scratch(topology, found, major) as connection:
            return scratch.rebuild(connection, base, topology)
    statements = statements_of(topology)
    with _scratch(topology, found, major) as connection:
        return scratch.materialise(connection, statements, topology)


def _without_ours(catalog: Catalog) -> Catalog:
    ours = {name for kind, name in catalog.managed if kind == "table"} | catalog.other_relations
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
    return (*own, *about_indexes, *_unused(state.topology))


def _unused(topology: Topology) -> tuple[str, ...]:
    found = []
    if topology.routing:
        found.append("`routing:` is checked, but this release does not use it yet")
    if topology.isolation.rls or topology.isolation.role or topology.isolation.signed:
        found.append("`isolation:` is checked, but this release does not use it yet")
    if any(server.replicas for server in topology.servers.values()):
        found.append("`replicas:` are checked, but this release does not use them yet")
    return tuple(found)


# --- rows that would be stranded ------------------------------------------------------------------


def _refuse_stranded_rows(state: State, changes: tuple[c.Change, ...]) -> None:
    """Ask the shards before a workspace is taken from one that still has rows of it."""
    by_server: dict[str, list[tuple[c.OnTable, Composed]]] = {}
    for candidate in changes:
        if isinstance(candidate, c.SwapCheck | c.DropTable):
            query = _stranded(state, candidate)
            if query is not None:
                by_server.setdefault(candidate.server, []).append((candidate, query))
    for server, queries in by_server.items():
        with db.session(state.topology, server) as connection:
            for change, query in queries:
                try:
                    rows = connection.execute(query).fetchall()
                except psycopg.errors.QueryCanceled as error:
                    raise SchemaError(
                        f'could not find out in time whether "{change.table.name}" has rows that '
                        "would be stranded",
                        code="PS307",
                        hint="raise statement_timeout for our role, or add an index on the key",
                    ) from error
                if rows:
                    raise _stranded_error(state, change, [r["workspace"] for r in rows])


def _stranded(state: State, change: c.SwapCheck | c.DropTable) -> Composed | None:
    key = Identifier(state.tenancy.key)
    condition: Composable
    if isinstance(change, c.SwapCheck) and change.narrows and change.table.kind != Relkind.FOREIGN:
        if "bucket(" in change.new.definition + change.old.definition:
            expression = change.new.definition.removeprefix("CHECK ")
            condition = SQL("NOT ") + text(expression)
        else:
            gone = sorted(listed(change.old) - listed(change.new))
            condition = SQL("{} = ANY ({}::{}[])").format(
                key, _texts(gone), text(state.tenancy.key_type.split("(")[0])
            )
    elif (
        isinstance(change, c.DropTable)
        and change.why is c.Why.REMOVED
        and change.shard
        and change.populated
        and state.live[change.server].managed["table", change.table.name].logical
        in state.tenancy.sharded
    ):
        if state.topology.uses_buckets:
            condition = SQL("true")
        else:
            placed = sorted(w for s in state.topology.shards.values() for w in s.workspaces)
            condition = SQL("{}::text = ANY ({})").format(key, _texts(placed))
    else:
        return None
    return SQL("SELECT DISTINCT {}::text AS workspace FROM {} WHERE {} LIMIT 5").format(
        key, Identifier(state.topology.namespace, change.table.name), condition
    )


def _texts(values: list[str]) -> Composable:
    return text(canonical.literal(canonical.array(values)) + "::text[]")


def _stranded_error(state: State, change: c.OnTable, workspaces: list[str]) -> ShardError:
    topology = state.topology
    names = ", ".join(f'"{w}"' for w in sorted(workspaces))
    home = shard_of(topology, workspaces[0])
    wants = (
        f'the topology now places it on shard "{home}"' if home else "the topology names it no more"
    )
    undo = f'put {names} back under shard "{change.shard}"'
    return SchemaError(
        f'workspace {names} still has rows in "{change.table.name}" on shard "{change.shard}", '
        f"but {wants}",
        code="PS306",
        hint=f"{undo}; only an empty workspace can change its shard by an edit of the file, rows "
        "have to be moved or purged first",
        file=str(topology.file),
        line=topology.line(f"shards.{home or change.shard}"),
        path=f"shards.{home or change.shard}",
    )


def reachable(topology: Topology) -> dict[str, CannotConnect | None]:
    """Try every server: which ones cannot be reached, and why."""
    found: dict[str, CannotConnect | None] = {}
    for name in topology.servers:
        try:
            with db.session(topology, name):
                found[name] = None
        except CannotConnect as error:
            found[name] = error
    return found
