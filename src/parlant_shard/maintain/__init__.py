"""The partition cron: partitions ahead of the clock, old ones retired, indexes in order."""

from parlant_shard.maintain.report import Report, metrics, report_text
from parlant_shard.maintain.run import maintain, moment

__all__ = ["Report", "maintain", "metrics", "moment", "report_text", "write_metrics"]
