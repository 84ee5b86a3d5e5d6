"""The topology file: which workspace lives on which shard, and on which server that is."""

from __future__ import annotations

from parlant_shard.topology.codes import CODES, Code
from parlant_shard.topology.interval import Interval, Unit
from parlant_shard.topology.load import check_tables, load_topology, parse_topology
from parlant_shard.topology.model import (
    AUDIT_TABLE,
    BUCKET_COUNT,
    Archive,
    Audit,
    IndexColumn,
    IndexOptions,
    Isolation,
    Partition,
    Replica,
    RowAudit,
    Rule,
    SchemaSource,
    Server,
    Shard,
    TableOptions,
    Topology,
    index_column,
    without_password,
)
from parlant_shard.topology.preset import Preset, PresetIndex, preset, presets
from parlant_shard.topology.schema import json_schema
from parlant_shard.topology.size import Size
from parlant_shard.topology.starter import STARTER

__all__ = [
    "AUDIT_TABLE",
    "BUCKET_COUNT",
    "CODES",
    "STARTER",
    "Archive",
    "Audit",
    "Code",
    "IndexColumn",
    "IndexOptions",
    "Interval",
    "Isolation",
    "Partition",
    "Preset",
    "PresetIndex",
    "Replica",
    "RowAudit",
    "Rule",
    "SchemaSource",
    "Server",
    "Shard",
    "Size",
    "TableOptions",
    "Topology",
    "Unit",
    "check_tables",
    "index_column",
    "json_schema",
    "load_topology",
    "parse_topology",
    "preset",
    "presets",
    "without_password",
]
