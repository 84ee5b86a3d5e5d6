"""Archives: partitions as verified files."""

from parlant_shard.archive.listing import (
    Entry,
    examine,
    listing,
    locate,
    recorded_as,
    targets,
    unrecorded,
)
from parlant_shard.archive.making import Archived, archive, load, settings, tally
from parlant_shard.archive.manifest import Manifest, parse, standalone
from parlant_shard.archive.stream import check
from parlant_shard.archive.target import Target, open_target, trouble

__all__ = [
    "Archived",
    "Entry",
    "Manifest",
    "Target",
    "archive",
    "check",
    "examine",
    "listing",
    "load",
    "locate",
    "open_target",
    "parse",
    "recorded_as",
    "settings",
    "standalone",
    "tally",
    "targets",
    "trouble",
    "unrecorded",
]
