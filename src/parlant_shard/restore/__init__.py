"""Archived partitions come back: attached, or standing beside."""

from parlant_shard.restore.run import Restored, restore

__all__ = ["Restored", "restore"]
