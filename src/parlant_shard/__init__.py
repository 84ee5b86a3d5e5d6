"""Sharding and partitioning orchestrator for PostgreSQL."""

from parlant_shard.errors import ShardError
from parlant_shard.topology import Topology, load_topology

__version__ = "0.1.0"

__all__ = ["ShardError", "Topology", "__version__", "load_topology"]
