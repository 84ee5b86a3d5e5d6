"""The audit of every shard: rows, keys and definitions against the topology, on every server.

Read-only. `read` opens one snapshot per server, `rows` and `across` look at rows, `structure`,
`placement` and `walls` at definitions, `run` puts it together, `report` says it.
"""

from __future__ import annotations

from parlant_shard.verify.checks import CHECKS
from parlant_shard.verify.report import Check, Failure, Finding, Report, Snapshot
from parlant_shard.verify.run import verify

__all__ = ["CHECKS", "Check", "Failure", "Finding", "Report", "Snapshot", "verify"]
