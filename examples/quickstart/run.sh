#!/usr/bin/env sh
# From a topology file to rows in shards and back, on servers that run below this directory.
set -eu
cd "$(dirname "$0")"
shard=${PARLANT_SHARD:-parlant-shard}
trap '$shard local down topology.yaml' EXIT

$shard validate topology.yaml
$shard local up topology.yaml
$shard plan topology.yaml -o plan.json > plan.txt   # every step with its lock and its hazards
tail -n 1 plan.txt
$shard apply plan.json --yes                        # what was looked at, and nothing else
${PYTHON:-python3} load.py topology.yaml
${PYTHON:-python3} query.py topology.yaml
$shard status topology.yaml
$shard plan topology.yaml --detailed-exitcode > plan.txt   # exit code 0: nothing differs
