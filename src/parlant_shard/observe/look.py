"""What the commands do: read, then judge."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from parlant_shard import db
from parlant_shard.errors import ShardError
from parlant_shard.observe.advise import DEFAULTS, Limits, suspects, young
from parlant_shard.observe.advise import advise as judge
from parlant_shard.observe.declared import declarations
from parlant_shard.observe.finding import Finding
from parlant_shard.observe.fold import ShardTable, shard_tables
from parlant_shard.observe.monitor import Monitored
from parlant_shard.observe.read import observe, tables_of
from parlant_shard.topology import Topology


@dataclass(frozen=True, slots=True, kw_only=True)
class Advice:
    """Findings, the sure ones first; `failed` are servers that could not be read."""

    topology: str
    findings: tuple[Finding, ...]
    notices: tuple[str, ...]
    failed: Mapping[str, ShardError]

    def to_json(self) -> dict[str, Any]:
        return {
            "topology": self.topology,
            "findings": [f.to_json() for f in self.findings],
            "failed": [
                {"server": n, "error": e.message, "hint": e.hint} for n, e in self.failed.items()
            ],
            "notices": list(self.notices),
        }


def monitor(topology: Topology) -> Monitored:
    """Read the figures of every server. One that cannot be read is in `.observed.failed`."""
    declared = {t: tuple(names) for t, names in declarations(topology).items()}
    return Monitored(observed=observe(topology, structure=False), declared=declared)


def advise(topology: Topology, limits: Limits = DEFAULTS) -> Advice:
    """Read every server and say what to drop, build, rebuild or repair."""
    observed = observe(topology, statements=False, measure=suspects(limits))
    notices = [*observed.notices, *young(observed, limits)]
    if observed.failed:
        notices.append("a server could not be read: no index is called unused")
    return Advice(
        topology=topology.name,
        findings=judge(observed, declarations(topology), limits),
        notices=tuple(notices),
        failed=observed.failed,
    )


def figures_of(topology: Topology, connection: db.Connection, server: str) -> list[ShardTable]:
    """The tables of a server, through a session that is open already."""
    return list(shard_tables(server, tables_of(topology, connection, server)).values())
