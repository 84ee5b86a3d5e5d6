"""Figures of the servers (`monitor`) and what to make of them (`advise`). Reads only."""

from parlant_shard.observe.advise import DEFAULTS, Limits
from parlant_shard.observe.finding import Finding, Kind, advice_text
from parlant_shard.observe.fold import ShardTable
from parlant_shard.observe.look import Advice, advise, figures_of, monitor
from parlant_shard.observe.monitor import (
    LIMIT,
    Monitored,
    metrics,
    monitor_text,
    table_metrics,
)

__all__ = [
    "DEFAULTS",
    "LIMIT",
    "Advice",
    "Finding",
    "Kind",
    "Limits",
    "Monitored",
    "ShardTable",
    "advice_text",
    "advise",
    "figures_of",
    "metrics",
    "monitor",
    "monitor_text",
    "table_metrics",
]
