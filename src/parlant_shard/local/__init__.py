"""Run PostgreSQL servers on this machine that the tool initialises, starts and stops by itself.

A server lives in one directory: `data` (PostgreSQL's own), `log`, `password` (of the superuser
`postgres`), `port`, `version` and `lock`. It listens on 127.0.0.1 only, by scram-sha-256.

PostgreSQL refuses to run as root. When root runs the tool, the server runs as another account:
the owner of existing data, else `postgres`, else `nobody`. Such an account often cannot enter the
directory (below /root) or run the binaries (a virtual environment below /root). Nobody's
directories are opened for it: the data then lie below /var/lib/parlant-shard and `data` is a
symbolic link, and the binaries are copied to the same place once.
"""

from __future__ import annotations

from parlant_shard.local.binaries import PG_BIN
from parlant_shard.local.server import LocalServer, conninfo, down, remove, status, up
from parlant_shard.local.settings import HOST, SETTINGS, SUPERUSER

__all__ = [
    "HOST",
    "PG_BIN",
    "SETTINGS",
    "SUPERUSER",
    "LocalServer",
    "conninfo",
    "down",
    "remove",
    "status",
    "up",
]
