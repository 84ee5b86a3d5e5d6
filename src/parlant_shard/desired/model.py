"""What every server should hold: values and names."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from parlant_shard.catalog import (
    Catalog,
)
from parlant_shard.names import suffixed
from parlant_shard.topology import Topology

INTERNAL_VERSION = 3

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
