"""The checks by name, each with the sentence that says what holds when it finds nothing."""

from __future__ import annotations

from collections.abc import Mapping

# In the order in which they are reported: rows, then what spans servers, then definitions.
CHECKS: Mapping[str, str] = {
    "misplaced-rows": "every row belongs to a workspace of its shard",
    "missing-key": "no row has a NULL or empty workspace, or a NULL in its primary key",
    "rows-outside-check": "every row is inside the CHECKs that its table has or should have",
    "parents": "every row's parent exists, and is of the same workspace",
    "duplicate-key": "no primary key is on two shards",
    "reference-rows": "reference tables have the same rows on every server",
    "federated-rows": "the federated views return the rows of the shards, no more and no fewer",
    "placement": "the topology, the directory and the servers' placement rows agree",
    "shard-map": "the map that routers read is the one of the topology",
    "shard-check": "each shard table has its CHECK on the key, enforced and validated",
    "columns": "each table has the columns that it should have",
    "keys": "each table has its keys and foreign keys",
    "partitions": "each partition has what its parent has",
    "foreign-tables": "foreign tables have the columns, types and CHECKs of the remote tables",
    "federated-views": "the federated views are defined as they should be",
    "replication": "the copies of reference tables are being kept in step",
    "policies": "row-level security is as it should be, and no policy lets more through",
    "bypassing-roles": "no role of the application passes over row-level security",
    "superuser-owner": "no table that row-level security guards is owned by a superuser",
    "grants": "PUBLIC has no rights on tenants' tables, the application none on our own",
    "audit-trail": "the audit trail is append-only and whole, and recorded changes are recorded",
    "invalid-indexes": "no index is INVALID",
    "not-valid": "no constraint is NOT VALID",
    "schema": "nothing else differs from what the topology asks for",
}

# The checks that read rows of shard tables, in batches that a state file remembers.
OF_ROWS = ("misplaced-rows", "missing-key", "rows-outside-check", "parents")
ACROSS = ("duplicate-key", "reference-rows", "federated-rows")
OF_DEFINITIONS = tuple(name for name in CHECKS if name not in {*OF_ROWS, *ACROSS})
