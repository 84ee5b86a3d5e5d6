"""What every server should hold: the base catalogue, multiplied by the topology's shards.

Pure. `base` is what PostgreSQL made of the schema, per major version; `live` is asked only for
what the topology leaves to it (existing partitions, workspaces that live in hash buckets).
"""

from parlant_shard.desired.build import desired
from parlant_shard.desired.model import (
    PEER_OPTIONS,
    SENTINEL,
    Desired,
    Peer,
    publication_name,
    subscription_name,
)

__all__ = [
    "PEER_OPTIONS",
    "SENTINEL",
    "Desired",
    "Peer",
    "desired",
    "publication_name",
    "subscription_name",
]
