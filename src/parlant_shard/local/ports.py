"""The port of a local server: kept, and free."""

from __future__ import annotations

import secrets
import socket
from pathlib import Path

from parlant_shard.errors import ServerError
from parlant_shard.local.directory import read_file
from parlant_shard.local.settings import HOST

# Below Linux' and above most services' ports: an outgoing connection never sits on one of these.
_PORTS = range(20_000, 32_000)


def kept_port(directory: Path) -> int | None:
    text = read_file(directory / "port")
    return int(text) if text is not None and text.isdecimal() else None


def free_port() -> int:
    for _ in range(500):
        port = secrets.choice(_PORTS)
        if is_free(port):
            return port
    raise ServerError(
        f"no port between {_PORTS.start} and {_PORTS.stop} is free on {HOST}",
        code="PS423",
        hint="stop what listens there",
    )


def is_free(port: int) -> bool:
    with socket.socket() as probe:
        # As PostgreSQL does: connections of a stopped server that still fade away do not count.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
        return True
