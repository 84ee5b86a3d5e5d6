"""Sharding and partitioning orchestrator for PostgreSQL."""

from parlant_shard.errors import ShardError

__version__ = "0.1.0"

__all__ = ["ShardError", "__version__"]
