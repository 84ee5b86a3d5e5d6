"""From a workspace to its shard, as the topology file places it."""

from __future__ import annotations

from bisect import bisect_right
from hashlib import sha256

from parlant_shard.topology.model import BUCKET_COUNT, Topology

BUCKETS = BUCKET_COUNT


def bucket(workspace: str) -> int:
    """Return the bucket of a workspace: the first two bytes of the SHA-256 of its UTF-8, mod 4096.

    The same function exists in SQL; what it returns is part of the interface and never changes.
    """
    digest = sha256(workspace.encode()).digest()
    return (digest[0] * 256 + digest[1]) % BUCKETS


class ShardOf:
    """Finds shards in one topology; made once, asked often. Lists win over buckets."""

    __slots__ = ("_listed", "_shards", "_starts")

    def __init__(self, topology: Topology) -> None:
        self._listed = {
            workspace: name
            for name, shard in topology.shards.items()
            for workspace in shard.workspaces
        }
        ranges = sorted(
            (low, high, name)
            for name, shard in topology.shards.items()
            for low, high in shard.buckets
        )
        self._starts = [low for low, _, _ in ranges]
        self._shards = [(high, name) for _, high, name in ranges]

    def __call__(self, workspace: str) -> str | None:
        """Return the shard's name, or None for a workspace that nobody placed."""
        listed = self._listed.get(workspace)
        if listed is not None or not self._starts or not _is_storable(workspace):
            return listed
        return self.of_bucket(bucket(workspace))

    def of_bucket(self, number: int) -> str | None:
        """Return the shard that holds a bucket, None where buckets are not used."""
        at = bisect_right(self._starts, number) - 1
        if at < 0:
            return None
        high, name = self._shards[at]
        return name if number <= high else None


def shard_of(topology: Topology, workspace: str) -> str | None:
    """Return the shard of one workspace, or None: an unknown workspace is never a broadcast."""
    return ShardOf(topology)(workspace)


def _is_storable(workspace: str) -> bool:
    """Say whether PostgreSQL could hold it: not empty, no NUL, no half of a surrogate pair."""
    if not workspace or "\0" in workspace:
        return False
    try:
        workspace.encode()
    except UnicodeEncodeError:
        return False
    return True
