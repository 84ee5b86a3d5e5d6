"""The JSON Schema of the topology file, for editors."""

from __future__ import annotations

from typing import Any

from parlant_shard.topology.model import Topology

# The file of this name in the repository; a test says that it is what `schema` prints.
SCHEMA_ID = (
    "https://raw.githubusercontent.com/parlant-shard/parlant-shard/main/topology/"
    "topology.schema.json"
)


def json_schema() -> dict[str, Any]:
    """Return the JSON Schema of a topology file.

    Editors check and complete with it; what spans several keys is checked by `validate` only.
    """
    schema = Topology.model_json_schema(by_alias=True, mode="validation")
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": SCHEMA_ID,
        **schema,
        "title": "parlant-shard topology",
    }
