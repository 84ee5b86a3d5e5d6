"""What every server should hold: values and names."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from parlant_shard.catalog import (
    Catalog,
    ForeignKey,
)
from parlant_shard.names import suffixed
from parlant_shard.topology import Topology

INTERNAL_VERSION = 4

# A rolling index carries this date in the base catalogue; see `roll`.
SENTINEL = "2000-01-01"

# postgres_fdw settings of ours: rows per fetch, and scans of several servers at once under a
# federated view. Estimates stay local: the remote ones cost a round trip per branch and plan.
SEAL_OPTIONS = {"connect_timeout": "5", "parallel_commit": "true"}
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
        "sslcrldir",
        "sslsni",
        "channel_binding",
        "gssencmode",
        "krbsrvname",
        "target_session_attrs",
        "ssl_max_protocol_version",
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
class Held:
    """How a foreign key of the schema to a reference table holds on some servers.

    `delete` is native, sealed, replayed, left out or not enforced; `update` also refused. `why`
    says why it is left out, or stricter than declared. Actions are PostgreSQL's words.
    """

    table: str
    name: str
    columns: tuple[str, ...]
    references: str
    on_delete: str
    on_update: str
    servers: tuple[str, ...]
    delete: str
    update: str
    why: str | None = None

    @staticmethod
    def of(
        table: str,
        fk: ForeignKey,
        servers: Iterable[str],
        *,
        delete: str,
        update: str,
        why: str | None = None,
    ) -> Held:
        return Held(
            table=table,
            name=fk.name,
            columns=fk.columns,
            references=fk.ref_table,
            on_delete=ACTIONS[fk.on_delete],
            on_update=ACTIONS[fk.on_update],
            servers=tuple(servers),
            delete=delete,
            update=update,
            why=why,
        )

    def to_json(self) -> dict[str, Any]:
        found = {name: getattr(self, name) for name in self.__slots__}
        return {**found, "columns": list(self.columns), "servers": list(self.servers)}

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> Held:
        return Held(
            **{**data, "columns": tuple(data["columns"]), "servers": tuple(data["servers"])}
        )


ACTIONS = {"a": "NO ACTION", "r": "RESTRICT", "c": "CASCADE", "n": "SET NULL", "d": "SET DEFAULT"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Desired:
    """The catalogue of every server, and what the operator should know about the choices."""

    catalogs: Mapping[str, Catalog]
    notices: tuple[str, ...]
    held: tuple[Held, ...] = ()


def fdw_name(server: str) -> str:
    return f"parlant_shard_{server}"


def seal_server(server: str) -> str:
    """The foreign server that keys are sealed through: apart from that of the views."""
    return f"parlant_shard_seal_{server}"


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
