"""The case files of the router, and the ids in them.

`@{agent:3}` in a statement or a parameter is the id of the third agent of the case's workspace,
`@{ws_b:agent:3}` that of another workspace's.
"""

from __future__ import annotations

import re
import uuid
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from psycopg.types.json import Jsonb
from ruamel.yaml import YAML

from parlant_shard.router.route import Params

CASES = Path(__file__).parent / "cases" / "router"

# Parents first; the number of a table is in its ids.
TABLES = {
    "agent": "parlant_agent",
    "tool": "parlant_tool",
    "agent_tool": "parlant_agent_tool",
    "guideline": "parlant_guideline",
    "journey": "parlant_journey",
    "journey_guideline": "parlant_journey_guideline",
    "state": "parlant_journey_state",
    "transition": "parlant_journey_transition",
    "term": "parlant_term",
    "canned": "parlant_canned_response",
    "session": "parlant_session",
    "event": "parlant_event",
    "variable": "parlant_variable",
    "agent_kb": "parlant_agent_knowledge_base",
    "tool_integration": "parlant_tool_integration",
    "agent_workflow": "parlant_agent_workflow",
    "agent_api_key": "parlant_agent_api_key",
    "session_workflow": "parlant_session_workflow",
}


def row_id(workspace: str, table: str, number: int) -> uuid.UUID:
    """The id of a row, readable: aaaaaaaa-0001-4000-8000-000000000003 is agent 3 of ws_a."""
    place = list(TABLES).index(table) + 1
    return uuid.UUID(f"{workspace[-1] * 8}-{place:04x}-4000-8000-{number:012d}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One entry of a case file, with its ids filled in."""

    id: str
    sql: str
    params: Params
    workspace: str | None
    expect: str | None
    ordered: bool
    more: Mapping[str, Any]


def cases(file: str) -> list[Case]:
    """Read a case file. A case without `workspace` is one of ws_a; null means no context."""
    found = [_case(e) for e in YAML(typ="safe").load((CASES / file).read_text("utf-8"))]
    twice = [name for name, n in Counter(c.id for c in found).items() if n > 1]
    assert not twice, f"{file}: several cases are called {twice}"
    return found


def _case(entry: dict[str, Any]) -> Case:
    workspace = entry.pop("workspace", "ws_a")
    of = workspace if workspace and workspace.startswith("ws_") else "ws_a"
    return Case(
        id=entry.pop("id"),
        sql=fill(entry.pop("sql"), of),
        params=_params(entry.pop("params", None), of),
        workspace=workspace,
        expect=entry.pop("expect", None),
        ordered=entry.pop("ordered", False),
        more=entry,
    )


def fill(text: str, workspace: str) -> str:
    """Put ids for `@{agent:3}` and `@{ws_b:agent:3}`."""
    return re.sub(
        r"@\{(?:(ws_\w):)?(\w+):(\d+)\}",
        lambda m: str(row_id(m[1] or workspace, m[2], int(m[3]))),
        text,
    )


def _params(value: Any, workspace: str) -> Any:
    """Fill ids in; `{json: …}` is a jsonb value, `{time: …}` a timestamp."""
    match value:
        case str():
            return fill(value, workspace)
        case {"json": data}:
            return Jsonb(_params(data, workspace))
        case {"time": str(text)}:
            return datetime.fromisoformat(text)
        case list():
            return [_params(v, workspace) for v in value]
        case dict():
            return {k: _params(v, workspace) for k, v in value.items()}
    return value
