#!/bin/sh
# A year of the partition cron on a local server, quarter by quarter. Stops the server at the end.
# Each run works by the clock of --now, so by today's clock most partitions are archived then. To
# start anew, remove .parlant-shard/ and archive/.
set -eu
cd "$(dirname "$0")"
PARLANT_SHARD=${PARLANT_SHARD:-parlant-shard}
trap '$PARLANT_SHARD local down topology.yaml' EXIT
$PARLANT_SHARD apply topology.yaml --yes
year=$(($(date -u +%Y) + 1))
for month in 01 04 07 10; do
    $PARLANT_SHARD maintain topology.yaml --now "$year-$month-01T00:07:00Z" --metrics-file shards.prom
done
grep -e horizon_seconds -e archive_rows shards.prom
$PARLANT_SHARD archive list topology.yaml --verify
$PARLANT_SHARD status topology.yaml --history
