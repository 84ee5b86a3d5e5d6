"""What tenants may ask for: all of their rows in one file, and that none of them is left."""

from parlant_shard.privacy.export import Exported, export
from parlant_shard.privacy.purge import Purged, purge

__all__ = ["Exported", "Purged", "export", "purge"]
