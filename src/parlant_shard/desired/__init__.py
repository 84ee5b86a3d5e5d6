"""What every server should hold: the base catalogue, multiplied by the topology's shards.

Pure. `base` is what PostgreSQL made of the schema, per major version; `live` is asked only for
what the topology leaves to it (existing partitions, workspaces that live in hash buckets).
"""

from parlant_shard.desired.build import desired
from parlant_shard.desired.model import (
    INTERNAL_VERSION,
    PEER_OPTIONS,
    SENTINEL,
    Desired,
    Peer,
    publication_name,
    subscription_name,
)
from parlant_shard.desired.routing import shard_map

__all__ = [
    "INTERNAL_VERSION",
    "PEER_OPTIONS",
    "SENTINEL",
    "Desired",
    "Peer",
    "desired",
    "publication_name",
    "shard_map",
    "subscription_name",
]
