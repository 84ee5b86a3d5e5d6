"""The topology that `parlant-shard init` writes."""

from __future__ import annotations

STARTER = """\
# yaml-language-server: $schema=topology.schema.json
# An editor completes and checks this file with that schema. After an upgrade, renew the schema:
#   parlant-shard schema > topology.schema.json
# Check with `parlant-shard validate`, look with `plan`, execute with `apply`.

version: 1
name: starter

# Where the tables are declared: a preset, your own DDL files in their order, or a live database.
schema: {preset: parlant}
# schema: {files: [schema/*.sql]}
# schema: {from: core}

# The column that says whose row it is. Tables without it get it, over their foreign keys.
key: workspace_id

# One entry per PostgreSQL database. These two are local ones that the tool runs by itself
# (`parlant-shard local up`); on real servers, write connection strings, and keep passwords out
# of this file:
#   east: {dsn: "${EAST_DSN}"}                     from the environment
#   east: {dsn_file: secrets/east.dsn}             from a file
#   east: {dsn: "${EAST_POOLER_DSN}", admin_dsn: "${EAST_DSN}"}   past a pooler
servers:
  core: {embedded: .parlant-shard/core}
  east: {embedded: .parlant-shard/east}

# The server that holds the shard map, the history of runs and the views over all shards.
coordinator: core

# A shard is a set of tables on one server. It names its workspaces, or takes hash buckets (0-4095),
# or both; every workspace that is named nowhere lives in its bucket.
shards:
  shard_1: {server: core, workspaces: [ws1, ws2, ws3]}
  shard_2: {server: east, workspaces: [acme, globex]}
  # shard_3: {server: east, buckets: 0-4095}

# Only what differs from what is inferred. Cutting by time: a partition per month, three months made
# ahead, dropped after a year, when they have been written to archive/.
# tables:
#   parlant_event:
#     partition: {by: created_at, every: 1 month, retention: 12 months, archive: archive/}

# Where reads may be answered.
# routing:
#   - {tables: [parlant_agent], statements: point-read, read: cache, ttl: 30 s}
#   - {statements: analytics, read: replica, max_lag: 5 minutes}

# Row-level security on the shards, behind the router.
# isolation: {rls: true, role: parlant_app}
"""
