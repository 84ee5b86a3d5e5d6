"""The SQL that we run ourselves, in `sql/*.sql`: named queries, one sentence each."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from typing import LiteralString, cast


@cache
def queries(name: str) -> Mapping[str, LiteralString]:
    """Read `sql/<name>.sql`: query name → text. Names stand in `-- name:` lines."""
    content = (files("parlant_shard") / "sql" / f"{name}.sql").read_text(encoding="utf-8")
    parts = re.split(r"^-- name: (\w+)\n", content, flags=re.M)
    return cast("Mapping[str, LiteralString]", dict(zip(parts[1::2], parts[2::2], strict=True)))
