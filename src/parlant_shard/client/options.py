"""What a router may be told beside its topology, and how connections of it are opened."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from psycopg.conninfo import conninfo_to_dict, make_conninfo
from psycopg.rows import tuple_row

from parlant_shard import db
from parlant_shard.errors import TopologyError
from parlant_shard.topology import Topology

RowFactory = Callable[[Any], Callable[[Any], Any]]
"""As psycopg has them: `psycopg.rows.dict_row` and the like."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """Sizes and times; seconds throughout.

    `min_size` and `max_size` are of each server's pool. `timeout` bounds the wait for a connection,
    `connect_timeout` the opening of one. `prepare_threshold` is psycopg's; None where a pooler in
    transaction mode cannot carry prepared statements. `map_ttl` says how often the map is read
    when no notification comes. `actor` is who the application acts for, as recorded changes have
    it: a text, or what is called before a statement and gives one. It travels with the setting of
    `isolation.rls` and needs that; in a transaction it is that of its first statement.
    """

    min_size: int = 0
    max_size: int = 10
    timeout: float = 10.0
    connect_timeout: int = 5
    max_lifetime: float = 3600.0
    max_idle: float = 600.0
    prepare_threshold: int | None = 5
    row_factory: RowFactory = tuple_row
    map_ttl: float = 30.0
    lookup_cache: int = 10_000
    application_name: str = "parlant-shard router"
    actor: str | Callable[[], str | None] | None = None


def conninfo_of(topology: Topology, server: str, options: Options) -> str:
    """The address that routed statements go to. Holds a password: never print it."""
    about = topology.servers[server]
    if about.embedded is None and about.dsn is None:
        raise TopologyError(
            f'server "{server}" has no dsn',
            code="PS116",
            hint="give the address that the application uses as dsn",
        )
    dsn = db.conninfo_of(about) if about.embedded is not None else about.dsn
    assert dsn is not None
    given = conninfo_to_dict(dsn)
    wanted: dict[str, str | int] = {
        "application_name": options.application_name[:63],
        "connect_timeout": options.connect_timeout,
        # A server that vanishes without a word is noticed in half a minute, not in hours.
        "keepalives_idle": 15,
        "keepalives_interval": 5,
        "keepalives_count": 3,
        "tcp_user_timeout": 30_000,
    }
    return make_conninfo(dsn, **{k: v for k, v in wanted.items() if k not in given})
