"""Sharding and partitioning orchestrator for PostgreSQL."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from parlant_shard.errors import ShardError
from parlant_shard.topology import Topology, load_topology

if TYPE_CHECKING:
    from parlant_shard.client import AsyncRouter, Router
    from parlant_shard.router import Unroutable, rewrite
    from parlant_shard.shardmap import ShardMap

__version__ = "0.1.0"

__all__ = [
    "AsyncRouter",
    "Router",
    "ShardError",
    "ShardMap",
    "Topology",
    "Unroutable",
    "__version__",
    "load_topology",
    "rewrite",
]

# Loaded when they are first asked for: parsers and pools would double the start of the CLI.
_LAZY = {
    "AsyncRouter": "parlant_shard.client",
    "Router": "parlant_shard.client",
    "ShardMap": "parlant_shard.shardmap",
    "Unroutable": "parlant_shard.router",
    "rewrite": "parlant_shard.router",
}


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(import_module(_LAZY[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
