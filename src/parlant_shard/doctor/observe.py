"""Read what the checks look at. The only part of the doctor that talks to servers; reads only."""

from __future__ import annotations

import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, LiteralString

import psycopg
from psycopg.conninfo import conninfo_to_dict
from psycopg.sql import SQL, Composed, Identifier

from parlant_shard import db, planner
from parlant_shard.allrows import every_row
from parlant_shard.catalog import Facts
from parlant_shard.ddlfile import Statement
from parlant_shard.desired import Peer
from parlant_shard.errors import CannotConnect, ShardError
from parlant_shard.introspect import facts
from parlant_shard.pooling import Pooling, pooling_of
from parlant_shard.sqlfiles import queries
from parlant_shard.topology import Topology

Row = Mapping[str, Any]

OLDEST = 15

# Seconds. CONCURRENTLY waits for every transaction that is older than itself; one this old will
# hardly end within the time that a step may take.
LONG = 300

_QUERIES = (
    "identity", "settings", "overrides", "login", "own_schema", "extensions", "slots",
    "subscriptions", "indexes", "detaching", "constraints", "partitioned",
    "transactions", "prepared", "parlant_columns", "enums", "tenant_links",
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Link:
    """How a connection of ours is made. `trusted` means that the server asked for no proof."""

    host: str
    address: str
    encrypted: bool
    trusted: bool

    @property
    def local(self) -> bool:
        return is_local(self.address or self.host)


def is_local(host: str) -> bool:
    """Say whether a host means the machine itself; an empty one means the Unix socket."""
    return (
        not host
        or host.startswith(("/", "@", "127."))
        or host.lower() in {"localhost", "::1", "0.0.0.0", "::"}
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    """What was read of one server. A query that failed is in `failures`, not in `rows`."""

    name: str
    facts: Facts
    link: Link
    pooling: Pooling
    peer: Peer
    rows: Mapping[str, tuple[Row, ...]]
    failures: Mapping[str, str] = field(default_factory=dict)
    client_time_zone: bool = False  # what we send at log-in hides the server's default

    def all(self, query: str) -> tuple[Row, ...]:
        return self.rows.get(query, ())

    def one(self, query: str) -> Row:
        found = self.rows.get(query, ())
        return found[0] if found else {}

    def setting(self, name: str) -> str | None:
        """The value that holds for a new session of our role."""
        return next((s["reset_val"] for s in self.all("settings") if s["name"] == name), None)

    def number(self, name: str) -> int:
        return int(self.setting(name) or 0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Observed:
    """What was read of all servers."""

    topology: Topology
    servers: Mapping[str, Server]
    unreachable: Mapping[str, ShardError]
    schema: tuple[Statement, ...]  # the DDL of the tables; empty where a live database has it
    pooled: frozenset[str]  # behind a pooler that makes our sessions unreliable: not looked into
    too_old: Mapping[str, int]

    @property
    def coordinator(self) -> Server | None:
        return self.servers.get(self.topology.coordinator)

    @property
    def remote(self) -> tuple[str, ...]:
        """Servers with shards, other than the coordinator."""
        return tuple(
            sorted({s.server for s in self.topology.shards.values()} - {self.topology.coordinator})
        )

    @property
    def subscribers(self) -> tuple[str, ...]:
        """Servers that get copies of reference tables."""
        kinds = {options.kind for options in self.topology.tables.values()}
        return self.remote if "reference" in kinds else ()


def observe(topology: Topology) -> Observed:
    """Read every server, in parallel. Raises CannotConnect when none can be reached."""
    names = list(topology.servers)
    with ThreadPoolExecutor(max_workers=max(1, min(8, len(names)))) as pool:
        found = dict(zip(names, pool.map(lambda n: _server(topology, n), names), strict=True))
    errors = {n: f for n, f in found.items() if isinstance(f, ShardError)}
    if len(errors) == len(found):
        raise next((e for e in errors.values() if isinstance(e, CannotConnect)), errors[names[0]])
    return Observed(
        topology=topology,
        servers={n: f for n, f in found.items() if isinstance(f, Server)},
        unreachable=errors,
        schema=planner.statements_of(topology) if topology.schema_source.from_ is None else (),
        pooled=frozenset(n for n, f in found.items() if f is Pooling.TRANSACTION),
        too_old={n: f for n, f in found.items() if isinstance(f, int)},
    )


def _server(topology: Topology, name: str) -> Server | Pooling | int | ShardError:
    """Read one server; a major number where it is too old, the pooling where that forbids more."""
    try:
        # Before anything is set: behind such a pooler our settings would stay on a connection
        # that the pooler hands to others.
        pooling = pooling_of(db.conninfo(topology, name), server=name)
        if pooling is Pooling.TRANSACTION:
            return pooling
        with db.session(topology, name, application="parlant-shard doctor") as connection:
            major = connection.info.server_version // 10_000
            return major if major < OLDEST else _read(topology, name, connection, pooling)
    except ShardError as error:
        return error


def _read(topology: Topology, name: str, connection: db.Connection, pooling: Pooling) -> Server:
    about = facts(connection, name, topology.namespace)
    params = {
        "namespace": topology.namespace,
        "topology": topology.name,
        "key": topology.key,
        "seconds": LONG,
    }
    rows: dict[str, tuple[Row, ...]] = {}
    failures: dict[str, str] = {}

    def look(query: str, statement: LiteralString | Composed) -> None:
        try:
            with connection.transaction():
                connection.execute("SET TRANSACTION READ ONLY")
                # What a policy hides must not be counted as absent.
                connection.execute(every_row(topology.namespace))
                values = params if isinstance(statement, str) else None
                rows[query] = tuple(connection.execute(statement, values).fetchall())
        except psycopg.Error as error:
            if connection.closed:
                raise
            failures[query] = db.redact(error.diag.message_primary or str(error))

    for query in _QUERIES:
        look(query, queries("doctor")[query])
    look("replication_load", queries("capacity")["load"])
    if about.version_num >= 160_000:
        look("system_user", queries("doctor")["system_user"])
    usable = next((r["usable"] for r in rows.get("own_schema", ())), None)
    if usable:
        look("managed", queries("doctor")["managed"])
    elif usable is False:
        failures["managed"] = "permission denied for schema parlant_shard"
    _look_for_disagreeing(topology, rows, look)
    return Server(
        name=name,
        facts=about,
        link=_link(connection, rows),
        pooling=pooling,
        peer=planner.peer(topology, name, about),
        rows=rows,
        failures=failures,
        client_time_zone=_sends_time_zone(connection),
    )


def _look_for_disagreeing(
    topology: Topology, rows: Mapping[str, tuple[Row, ...]], look: Any
) -> None:
    """Count, per foreign key between un-sharded tables, the rows of another tenant's parent."""
    managed = {r["name"] for r in rows.get("managed", ())}
    key = Identifier(topology.key)
    for link in rows.get("tenant_links", ()):
        if link["child"] in managed or link["parent"] in managed:
            continue
        look(
            disagreement(link),
            SQL(
                "SELECT count(*) AS rows FROM {child} c JOIN {parent} p ON c.{ref} = p.{id} "
                "WHERE c.{key}::text IS DISTINCT FROM p.{key}::text"
            ).format(
                child=Identifier(topology.namespace, link["child"]),
                parent=Identifier(topology.namespace, link["parent"]),
                ref=Identifier(link["child_column"]),
                id=Identifier(link["parent_column"]),
                key=key,
            ),
        )


def disagreement(link: Row) -> str:
    """The name under which the rows of such a foreign key are counted."""
    return f"{link['child']}.{link['child_column']}"


def _link(connection: db.Connection, rows: Mapping[str, tuple[Row, ...]]) -> Link:
    info, pgconn = connection.info, connection.pgconn
    login = rows.get("login", ({},))[0]
    if "system_user" in rows:
        trusted = rows["system_user"][0]["who"] is None
    else:
        given = conninfo_to_dict(info.dsn)
        by_other_means = login.get("gss_encrypted") or (
            pgconn.ssl_in_use and given.get("sslcert") is not None
        )
        trusted = not pgconn.used_password and not by_other_means
    return Link(
        host=info.host,
        address=info.hostaddr,
        encrypted=bool(pgconn.ssl_in_use or login.get("gss_encrypted")),
        trusted=trusted,
    )


def _sends_time_zone(connection: db.Connection) -> bool:
    """Say whether libpq sets TimeZone at log-in, from PGTZ, PGOPTIONS or the conninfo."""
    given = {
        option.keyword: option.val for option in connection.pgconn.info if option.val is not None
    }
    if "timezone" in given.get(b"options", b"").decode(errors="replace").lower():
        return True
    return bool(os.environ.get("PGTZ"))
