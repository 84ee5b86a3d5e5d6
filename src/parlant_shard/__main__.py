"""Run as `python -m parlant_shard`."""

from parlant_shard.cli import main

main()
