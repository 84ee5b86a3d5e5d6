"""What must be right before anything begins: servers, rights, and rows that nobody may strand.

Every check names the statement that fixes it. A plan that gets past them should not stop half-way
for a reason that could have been seen before.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import psycopg
from psycopg.sql import SQL, Composable, Composed, Identifier

from parlant_shard import canonical, capacity, db
from parlant_shard import changes as c
from parlant_shard.catalog import Catalog, Facts, Relkind, Table
from parlant_shard.ddl import text
from parlant_shard.diff import listed
from parlant_shard.errors import PrivilegeError, SchemaError, ShardError, TopologyError
from parlant_shard.names import key_schema
from parlant_shard.pooling import Pooling, pooling_of
from parlant_shard.shardmap import shard_of
from parlant_shard.tenancy import Tenancy
from parlant_shard.topology import Topology


def refuse_poolers(topology: Topology, *only: str) -> None:
    """Refuse an address that gives every transaction another backend, before anything is set there.

    Session settings would reach whoever is given the backend next; the advisory lock of a run and
    what its journal relies on would not hold. Raises CannotConnect where nobody answers.
    """
    names = [
        name
        for name, server in topology.servers.items()
        if server.embedded is None and (not only or name in only)
    ]
    with ThreadPoolExecutor(max_workers=max(1, min(8, len(names)))) as pool:
        found = {
            name: pool.submit(pooling_of, db.conninfo(topology, name), server=name)
            for name in names
        }
    for name, pooling in found.items():
        if pooling.result() is Pooling.TRANSACTION:
            key = "dsn" if topology.servers[name].admin_dsn is None else "admin_dsn"
            raise TopologyError(
                f'the {key} of server "{name}" leads through a pooler in transaction mode, where '
                "session settings, advisory locks and CONCURRENTLY do not work",
                code="PS170",
                hint="give the server's own address as admin_dsn; dsn may stay the pooler's",
                file=str(topology.file),
                line=topology.line(f"servers.{name}.{key}"),
                path=f"servers.{name}.{key}",
            )


def refuse_read_only(topology: Topology, about: Facts) -> None:
    """Raises TopologyError: PS160 for a replica, PS167 for a database that is read-only."""
    name = about.server
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


def check_servers(
    topology: Topology, live: Mapping[str, Catalog], found: Mapping[str, Facts]
) -> None:
    for name, about in found.items():
        place = {
            "file": str(topology.file),
            "line": topology.line(f"servers.{name}"),
            "path": f"servers.{name}",
        }
        refuse_read_only(topology, about)
        if about.settings.get("server_encoding") != "UTF8":
            raise TopologyError(
                f'the database of server "{name}" has the encoding '
                f"{about.settings.get('server_encoding')}, UTF8 is needed",
                code="PS161",
                hint="bucket numbers and names are computed over UTF-8; use a UTF8 database",
                **place,  # type: ignore[arg-type]  # the three keywords of a place
            )
        if "namespace" not in about.can:
            raise TopologyError(
                f'schema "{topology.namespace}" does not exist on server "{name}"',
                code="PS162",
                hint=f"CREATE SCHEMA {canonical.quote(topology.namespace)}",
                **place,  # type: ignore[arg-type]
            )
        user, database = canonical.quote(about.user), canonical.quote(about.database)
        missing = []
        if "create-schema" not in about.can and not live[name].internal_version:
            missing.append(("create schemas", f"GRANT CREATE ON DATABASE {database} TO {user}"))
        if "create-in-namespace" not in about.can:
            namespace = canonical.quote(topology.namespace)
            missing.append(
                (
                    f'create tables in schema "{topology.namespace}"',
                    f"GRANT CREATE ON SCHEMA {namespace} TO {user}",
                )
            )
        if missing:
            raise TopologyError(
                f'role "{about.user}" may not {" and ".join(what for what, _ in missing)} on '
                f'server "{name}"',
                code="PS163",
                hint="; ".join(statement for _, statement in missing),
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
    for name, catalog in live.items():
        if name != topology.coordinator and catalog.shards:
            raise TopologyError(
                f'the directory of topology "{topology.name}" is on server "{name}", but the '
                f'coordinator is "{topology.coordinator}" now',
                code="PS169",
                hint=f"put `coordinator: {name}` back: run history, lock and directory live there",
                file=str(topology.file),
                line=topology.line("coordinator"),
                path="coordinator",
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


def check_types(topology: Topology, base: Catalog, tenancy: Tenancy) -> None:
    """Columns of a domain, composite or range type of the schema would not exist on a shard."""
    own = {
        f"{canonical.quote(topology.namespace)}.{canonical.quote(name)}": (name, kind)
        for name, kind in base.other_relations.items()
        if kind in {"domain", "composite type", "type"}
    }
    for name in sorted(tenancy.kinds):
        for column in base.tables[name].columns:
            found = own.get(column.type.removesuffix("[]").split("(")[0])
            if found is not None:
                raise SchemaError(
                    f'column "{name}.{column.name}" is of the {found[1]} "{found[0]}", which is '
                    "not carried over to the shards",
                    code="PS237",
                    hint="use its base type, with a CHECK where the type had one",
                )


def check_rights(
    topology: Topology,
    live: Mapping[str, Catalog],
    found: Mapping[str, Facts],
    changes: Iterable[c.Change],
) -> None:
    """Refuse a plan with a step that the role may not run: half-way is too late to learn it."""
    for change in changes:
        about, catalog = found[change.server], live[change.server]
        user, database = canonical.quote(about.user), canonical.quote(about.database)
        where = f'in database "{about.database}" of server "{change.server}"'
        match change:
            case c.CreateExtension(name=name):
                _check_extension(name, about, change.server)
            case c.CreateRole(name=name) if "create-role" not in about.can:
                raise PrivilegeError(
                    f'role "{about.user}" may not create the role "{name}" of isolation.'
                    f'{_named_as(topology, name)} on server "{change.server}"',
                    code="PS412",
                    hint=f'on server "{change.server}": CREATE ROLE {canonical.quote(name)} '
                    "NOLOGIN NOBYPASSRLS",
                    file=str(topology.file),
                    line=topology.line(f"isolation.{_named_as(topology, name)}"),
                    path=f"isolation.{_named_as(topology, name)}",
                )
            case c.SetForeignServer() if (
                "postgres_fdw" in catalog.extensions and "fdw" not in about.can
            ):
                raise PrivilegeError(
                    f'role "{about.user}" may not use postgres_fdw on server "{change.server}"',
                    code="PS412",
                    hint=f"{where}: GRANT USAGE ON FOREIGN DATA WRAPPER postgres_fdw TO {user}",
                )
            case c.SetPublication() if "create-schema" not in about.can:
                raise PrivilegeError(
                    f'role "{about.user}" may not create a publication on server "{change.server}"',
                    code="PS412",
                    hint=f"{where}: GRANT CREATE ON DATABASE {database} TO {user}",
                )
            case c.CreateKeys(schema=True) if "create-schema" not in about.can:
                schema = canonical.quote(key_schema(topology.namespace))
                raise PrivilegeError(
                    f'role "{about.user}" may not create the schema of the key tables on server '
                    f'"{change.server}"',
                    code="PS412",
                    hint=f"{where}: CREATE SCHEMA {schema} AUTHORIZATION {user}",
                )
            case c.OnTable(table=table):
                existing = catalog.tables.get(table.name)
                if existing is not None and not existing.owned:
                    name = f"{canonical.quote(topology.namespace)}.{canonical.quote(table.name)}"
                    kind = "FOREIGN TABLE" if existing.kind is Relkind.FOREIGN else "TABLE"
                    raise PrivilegeError(
                        f'role "{about.user}" does not own table "{table.name}" on server '
                        f'"{change.server}", whose owner is "{existing.owner}"',
                        code="PS412",
                        hint=f"{where}: GRANT {canonical.quote(existing.owner)} TO {user}; or "
                        f"ALTER {kind} {name} OWNER TO {user}",
                    )


def check_capacity(
    topology: Topology, found: Mapping[str, Facts], changes: Iterable[c.Change]
) -> None:
    """Refuse subscriptions for which a server has no worker, origin, slot or WAL sender left.

    They would be made, and wait for ever. Limits are of a whole server, which may have several of
    the topology's databases.
    """
    changes = tuple(changes)
    waiting: dict[tuple[str, ...], dict[str, str]] = {}  # cluster → subscription → server
    for change in changes:
        if isinstance(change, c.CreateSubscription | c.AwaitSubscription):
            on = waiting.setdefault(_cluster(found[change.server]), {})
            on[change.subscription.name] = change.server
    starting = 0
    for on in waiting.values():
        server = next(iter(on.values()))
        about = found[server]
        with db.session(topology, server, doing="looking for free workers") as connection:
            has = capacity.read(connection, about.settings)
        new = len(on.keys() - has.running)
        starting += new
        for lack in capacity.subscriber_lacks(has, starting=new, major=about.major):
            raise _shortage(topology, server, lack)
    if waiting:
        server = topology.coordinator
        with db.session(topology, server, doing="looking for free slots") as connection:
            has = capacity.read(connection, found[server].settings)
        slots = sum(isinstance(change, c.CreateSlot) for change in changes)
        for lack in capacity.publisher_lacks(has, slots=slots, senders=starting):
            raise _shortage(topology, server, lack)


def _cluster(about: Facts) -> tuple[str, ...]:
    """What the databases of one server have in common: its identifier and when it started."""
    system, _, started = about.identity.partition("/")
    return system, started.partition("/")[2]


def _shortage(topology: Topology, server: str, lack: capacity.Shortage) -> TopologyError:
    return TopologyError(
        f'server "{server}" has too little left of {lack.setting}: {lack.detail}',
        code="PS171",
        hint=f'on server "{server}": {lack.statement}',
        file=str(topology.file),
        line=topology.line(f"servers.{server}"),
        path=f"servers.{server}",
    )


def _check_extension(name: str, about: Facts, server: str) -> None:
    statement = f"CREATE EXTENSION {canonical.quote(name)}"
    if name not in about.extensions_available:
        raise TopologyError(
            f'server "{server}" does not have the extension "{name}"',
            code="PS168",
            hint="install its package on that machine (postgres_fdw comes with contrib)",
        )
    if not about.superuser and name not in about.extensions_trusted:
        raise PrivilegeError(
            f'role "{about.user}" may not create the extension "{name}" on server "{server}"',
            code="PS412",
            hint=f'as a superuser, in database "{about.database}": {statement}'
            + (
                "; GRANT USAGE ON FOREIGN DATA WRAPPER postgres_fdw TO "
                f"{canonical.quote(about.user)}"
                if name == "postgres_fdw"
                else ""
            ),
        )


def _same_database(found: Mapping[str, Facts]) -> tuple[str, str] | None:
    seen: dict[str, str] = {}
    for name, about in found.items():
        if about.identity in seen:
            return seen[about.identity], name
        seen[about.identity] = name
    return None


def check_roles(topology: Topology, base: Catalog, found: Mapping[str, Facts]) -> None:
    """Grants and policies name roles; they must exist wherever the tables will be.

    All but the roles of isolation, which are created before anything is granted to them.
    """
    named = {
        role
        for table in base.tables.values()
        for role in (
            *(g.role for g in table.grants),
            *(r for p in table.policies for r in p.roles),
        )
        if role and role not in {topology.isolation.role, topology.isolation.analytics}
    }
    for server in topology.servers:
        for role in sorted(named - found[server].roles):
            raise SchemaError(
                f'the schema grants to role "{role}", which server "{server}" does not have',
                code="PS233",
                hint=f"CREATE ROLE {canonical.quote(role)}",
            )


def check_wall(topology: Topology, found: Mapping[str, Facts]) -> None:
    """Raise SchemaError (PS722) where policies would not bind the role that they are for."""
    for server, about in found.items():
        for role, why in sorted(about.unsafe.items()):
            raise SchemaError(
                f'role "{role}" of isolation.role {why} on server "{server}": policies would not '
                "keep it to one workspace",
                code="PS722",
                hint="give the application a role of its own, without these rights",
                file=str(topology.file),
                line=topology.line("isolation.role"),
                path="isolation.role",
            )


def _named_as(topology: Topology, role: str) -> str:
    return "analytics" if role == topology.isolation.analytics else "role"


# --- tables that only look as if they had rows ----------------------------------------------------


def without_empty_pages(
    topology: Topology, live: Mapping[str, Catalog], desired: Mapping[str, Catalog]
) -> dict[str, Catalog]:
    """Return the live catalogues with `populated` made exact for tables that would go or change.

    A table keeps its pages after a DELETE. Asking every table for a row would cost a plan dearly;
    only those are asked that this plan may drop or replace.
    """
    found = {}
    for server, catalog in live.items():
        wanted = desired[server].tables
        roots = {
            name
            for kind, name in catalog.managed
            if kind == "table" and name in catalog.tables and _is_replaced(catalog, wanted, name)
        }
        asked = [
            t
            for t in catalog.tables.values()
            if t.populated and (t.name in roots or t.parent in roots)
        ]
        if not asked:
            found[server] = catalog
            continue
        tables = dict(catalog.tables)
        with db.session(topology, server, doing="looking for rows") as connection:
            for table in asked:
                row = connection.execute(
                    SQL("SELECT EXISTS (SELECT FROM {}) AS filled").format(
                        Identifier(topology.namespace, table.name)
                    )
                ).fetchone()
                tables[table.name] = replace(table, populated=bool(row and row["filled"]))
        found[server] = replace(catalog, tables=tables)
    return found


def _is_replaced(catalog: Catalog, wanted: Mapping[str, Table], name: str) -> bool:
    table, successor = catalog.tables[name], wanted.get(name)
    return successor is None or (table.kind, table.partition_by, table.foreign) != (
        successor.kind,
        successor.partition_by,
        successor.foreign,
    )


# --- rows that would be stranded ------------------------------------------------------------------


def refuse_stranded_rows(
    topology: Topology,
    tenancy: Tenancy,
    live: Mapping[str, Catalog],
    changes: Iterable[c.Change],
) -> None:
    """Ask the shards before a workspace is taken from one that still has rows of it."""
    by_server: dict[str, list[tuple[c.OnTable, Composed]]] = {}
    for candidate in changes:
        if isinstance(candidate, c.SwapCheck | c.DropTable):
            query = _stranded(topology, tenancy, live, candidate)
            if query is not None:
                by_server.setdefault(candidate.server, []).append((candidate, query))
    for server, queries in by_server.items():
        with db.session(topology, server) as connection:
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
                    raise _stranded_error(topology, change, [r["workspace"] for r in rows])


def _stranded(
    topology: Topology,
    tenancy: Tenancy,
    live: Mapping[str, Catalog],
    change: c.SwapCheck | c.DropTable,
) -> Composed | None:
    key = Identifier(tenancy.key)
    condition: Composable
    if isinstance(change, c.SwapCheck) and change.narrows and change.table.kind != Relkind.FOREIGN:
        if "bucket(" in change.new.definition + change.old.definition:
            expression = change.new.definition.removeprefix("CHECK ")
            condition = SQL("NOT ") + text(expression)
        else:
            gone = sorted(listed(change.old) - listed(change.new))
            condition = SQL("{} = ANY ({}::{}[])").format(
                key, _texts(gone), text(tenancy.key_type.split("(")[0])
            )
    elif (
        isinstance(change, c.DropTable)
        and change.why is c.Why.REMOVED
        and change.shard
        and change.populated
        and live[change.server].managed["table", change.table.name].logical in tenancy.sharded
    ):
        if topology.uses_buckets:
            condition = SQL("true")
        else:
            placed = sorted(w for s in topology.shards.values() for w in s.workspaces)
            condition = SQL("{}::text = ANY ({})").format(key, _texts(placed))
    else:
        return None
    return SQL("SELECT DISTINCT {}::text AS workspace FROM {} WHERE {} LIMIT 5").format(
        key, Identifier(topology.namespace, change.table.name), condition
    )


def _texts(values: list[str]) -> Composable:
    return text(canonical.literal(canonical.array(values)) + "::text[]")


def _stranded_error(topology: Topology, change: c.OnTable, workspaces: list[str]) -> ShardError:
    names = ", ".join(f'"{w}"' for w in sorted(workspaces))
    home = shard_of(topology, workspaces[0])
    if home == change.shard:
        server = topology.shards[home].server
        return SchemaError(
            f'shard "{home}" still has rows in "{change.table.name}" on server '
            f'"{change.server}", but the topology puts it on server "{server}"',
            code="PS225",
            hint=f'put the shard back on "{change.server}", add a new shard on "{server}" and move '
            "the workspaces there one by one",
            file=str(topology.file),
            line=topology.line(f"shards.{home}.server"),
            path=f"shards.{home}.server",
        )
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
