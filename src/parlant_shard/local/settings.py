"""What a local server runs with."""

from __future__ import annotations

import re
from collections.abc import Mapping
from types import MappingProxyType

from parlant_shard.errors import ServerError

HOST = "127.0.0.1"
SUPERUSER = "postgres"

NO_SETTINGS: Mapping[str, str] = MappingProxyType({})
SETTINGS: Mapping[str, str] = MappingProxyType(
    {
        "listen_addresses": HOST,
        # No socket: peers reach each other by TCP, and a socket's path has a limit of 107 bytes.
        "unix_socket_directories": "",
        "password_encryption": "scram-sha-256",
        "TimeZone": "UTC",
        "log_timezone": "UTC",
        "log_line_prefix": "%m [%p] %q%u@%d ",
        "max_connections": "200",
        # One transaction of DDL may lock every partition of every shard.
        "max_locks_per_transaction": "256",
        # Two-phase commit is never used; a forgotten prepared transaction would hold locks.
        "max_prepared_transactions": "0",
        "shared_buffers": "128MB",
        "wal_level": "logical",
        "max_replication_slots": "32",
        "max_wal_senders": "32",
        # A subscriber that is gone may cost its slot, not the disk.
        "max_slot_wal_keep_size": "1GB",
        "max_logical_replication_workers": "16",
        "max_worker_processes": "32",
        "max_sync_workers_per_subscription": "2",
        # PostgreSQL 15 starts one subscription's worker per interval in all; of 5 s by default.
        "wal_retrieve_retry_interval": "500ms",
    }
)
# 18 gave replication origins, of which a subscription takes one, a limit of their own: 10.
SINCE_18: Mapping[str, str] = MappingProxyType({"max_active_replication_origins": "32"})
NOT_DURABLE: Mapping[str, str] = MappingProxyType(
    {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off"}
)


def render_settings(config: Mapping[str, str], port: int) -> str:
    """Return the lines of `parlant-shard.conf`.

    The port is kept in one place only, so that `conninfo` cannot disagree with the server.
    """
    lines = [f"port = {port}"]
    for name, value in sorted(config.items()):
        if name == "port" or not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_.]*", name):
            raise ServerError(
                f'"{name}" is not a setting that a local server takes',
                code="PS428",
                hint="name one of PostgreSQL's settings other than the port",
            )
        if not value.isprintable():
            raise ServerError(
                f'the value of the setting "{name}" holds a character that cannot be printed',
                code="PS428",
                hint="write it on one line",
            )
        quoted = value.replace("\\", "\\\\").replace("'", "''")
        lines.append(f"{name} = '{quoted}'")
    return "\n".join(lines) + "\n"
