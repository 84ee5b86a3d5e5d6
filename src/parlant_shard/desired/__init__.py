"""What every server should hold: the base catalogue, multiplied by the topology's shards.

Pure. `base` is what PostgreSQL made of the schema, per major version; `live` is asked only for
what the topology leaves to it (existing partitions, workspaces that live in hash buckets).
"""

from parlant_shard.desired.build import desired
from parlant_shard.desired.keys import ADMIT, SEAL_DELETE, SEAL_UPDATE
from parlant_shard.desired.model import (
    INTERNAL_VERSION,
    PEER_OPTIONS,
    SENTINEL,
    Desired,
    Held,
    Peer,
    check_name,
    fdw_name,
    publication_name,
    seal_server,
    subscription_name,
    view_name,
)
from parlant_shard.desired.routing import shard_map

__all__ = [
    "ADMIT",
    "INTERNAL_VERSION",
    "PEER_OPTIONS",
    "SEAL_DELETE",
    "SEAL_UPDATE",
    "SENTINEL",
    "Desired",
    "Held",
    "Peer",
    "check_name",
    "desired",
    "fdw_name",
    "publication_name",
    "seal_server",
    "shard_map",
    "subscription_name",
    "view_name",
]
