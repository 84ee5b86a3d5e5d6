"""Rows of five workspaces in all tables of the preset. Pure and repeatable.

Names repeat from workspace to workspace, so that a row too many shows in any count; ids tell whose
they are, and every free text of a workspace has its mark, SECRET-<workspace>.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from psycopg.types.json import Jsonb

from router_cases import TABLES, row_id

# ws_a and ws_b share a shard, so do ws_c and ws_d. The names are those of attacks.json.
PLACED = {"shard_1": ["ws_c", "ws_d"], "shard_2": ["ws_e"], "shard_3": ["ws_a", "ws_b"]}
WORKSPACES = tuple(sorted(w for placed in PLACED.values() for w in placed))
COUNTS = {"session": 80, "event": 160, "variable": 100, "state": 100, "transition": 100}
START = datetime(2026, 1, 5, 8)
Row = dict[str, Any]


def rows(workspace: str) -> dict[str, list[Row]]:
    """Return the rows of a workspace, parents first."""
    return {
        TABLES[kind]: [_row(workspace, kind, n) for n in range(1, COUNTS.get(kind, 50) + 1)]
        for kind in TABLES
    }


def _row(ws: str, kind: str, n: int) -> Row:
    def of(table: str, spread: int = 7) -> UUID:
        return row_id(ws, table, (n * spread) % COUNTS.get(table, 50) + 1)

    def some(value: Any, every: int) -> Any:
        return None if n % every == 0 else value

    # Half of the agents have all the sessions, journeys, guidelines and so on.
    agent = row_id(ws, "agent", n * 3 % 25 + 1)
    secret = f"SECRET-{ws} {kind} {n}"
    at = START + timedelta(hours=7 * n, minutes=n % 5)
    row: Row = {"id": row_id(ws, kind, n), "created_at": at}
    if kind not in {"event", "transition"}:
        row["updated_at"] = at + timedelta(minutes=n)
    match kind:
        case "agent":
            row |= {
                "workspace_id": ws,
                "created_by": f"user{n % 4 + 1}",
                "name": f"Agent {n}",
                "description": some(secret, 6),
                "status": ("active", "active", "inactive", "archived")[n % 4],
                "composition_mode": ("fluid", "strict")[n % 2],
                "system_prompt": some(f"Be helpful. {secret}", 5),
                "model_provider": ("openai", "anthropic", "azure")[n % 3],
                "temperature": some(n % 10 * 10, 9),
                "total_sessions": n % 8,
                "total_messages": n % 13 * 2,
                "last_active_at": some(at + timedelta(days=n % 20), 4),
                "deleted_at": at + timedelta(days=30) if n % 9 == 0 else None,
                "custom_config": Jsonb({"tone": ("warm", "dry")[n % 2], "level": n % 3}),
            }
        case "tool":
            row |= {
                "workspace_id": ws,
                "name": f"tool_{n}",
                "display_name": f"Tool {n}",
                "description": secret,
                "tool_type": ("http", "sql", "python")[n % 3],
                "parameters": Jsonb({"n": n, "tags": ["a", "b"][: n % 3]}),
                "enabled": n % 5 != 0,
                "use_count": n % 11,
                "success_rate": some(100 - n % 30, 7),
                "auth_type": some(("api_key", "oauth", "none")[n % 3], 4),
            }
        case "agent_tool":
            row |= {
                "agent_id": row_id(ws, "agent", n),
                "tool_id": of("tool"),
                "configuration": some(Jsonb({"secret": secret}), 5),
                "enabled": n % 4 != 0,
                "priority": n % 6 * 10,
            }
        case "guideline":
            row |= {
                "agent_id": agent,
                "condition": f"customer asks about topic {n % 12}",
                "action": f"answer politely; {secret}",
                "priority": n % 7 * 10,
                "enabled": n % 3 != 0,
                "tool_ids": Jsonb([str(row_id(ws, "tool", n))] if n % 2 else []),
                "match_count": n % 9,
            }
        case "journey":
            row |= {
                "agent_id": agent,
                "title": f"Journey {n}",
                "description": some(secret, 4),
                "conditions": Jsonb([f"c{n % 4}"]),
                "enabled": n % 4 != 1,
                "total_sessions": n % 6,
                "completion_rate": some(n * 2 % 100, 8),
            }
        case "journey_guideline":
            row |= {
                "journey_id": row_id(ws, "journey", n),
                "guideline_id": of("guideline"),
                "priority_override": some(n % 5, 3),
                "journey_specific_condition": some(secret, 2),
            }
        case "state":
            row |= {
                "journey_id": of("journey", 3),
                "name": f"state {n % 20}",
                "state_type": ("chat", "tool", "decision", "final")[n % 4],
                "chat_prompt": some(secret, 3),
                "is_initial": n % 5 == 0,
                "is_final": n % 4 == 3,
                "metadata": Jsonb({"x": n % 4}),
            }
        case "transition":
            row |= {
                "journey_id": of("journey", 3),
                "from_state_id": row_id(ws, "state", n),
                "to_state_id": row_id(ws, "state", n % 100 + 1),
                "condition": some(secret, 2),
                "priority": n % 4 * 25,
                "use_count": n % 5,
            }
        case "term":
            row |= {
                "agent_id": agent,
                "name": f"term {n}",
                "description": secret,
                "synonyms": Jsonb([f"s{n % 3}", "word"]),
                "category": some(("billing", "travel")[n % 2], 5),
                "importance": n % 10 * 10,
            }
        case "canned":
            row |= {
                "agent_id": agent,
                "template": f"Hello {{{{name}}}}, {secret}",
                "category": some(("greeting", "closing", "faq")[n % 3], 7),
                "tags": Jsonb([f"t{n % 4}"]),
                "priority": n % 5 * 20,
                "use_count": n % 14,
            }
        case "session":
            row |= {
                "agent_id": agent,
                "workspace_id": ws,
                "user_id": some(f"user{n % 4 + 1}", 3),
                "customer_id": some(f"customer {n % 10}", 4),
                "mode": ("auto", "manual", "paused")[n % 3],
                "status": ("active", "completed", "abandoned", "active")[n % 4],
                "title": some(f"Session {n} {secret}", 8),
                "metadata": Jsonb({"channel": ("web", "app")[n % 2], "n": n % 5}),
                "event_count": n % 9,
                "message_count": n % 6,
                "started_at": at,
                "last_activity_at": at + timedelta(hours=n % 11),
                "ended_at": some(at + timedelta(hours=n % 11 + 1), 2),
                "tokens_used": n % 17 * 100,
                "satisfaction_score": some(n % 5 + 1, 3),
                "session_type": ("conversation", "support", "demo")[n % 3],
                "tags": Jsonb(["vip"] if n % 10 == 0 else []),
                "locale": ("en", "de", "fr")[n % 3],
                "current_journey_id": some(of("journey"), 2),
                "current_state_id": some(of("state"), 3),
            }
        case "event":
            kinds = ("customer_message", "agent_message", "tool_call", "tool_result")
            row |= {
                "session_id": row_id(ws, "session", (n - 1) // 4 + 1),
                "offset": (n - 1) % 4,
                "event_type": kinds[(n - 1) % 4],
                "content": Jsonb({"text": secret, "n": n % 7}),
                "metadata": Jsonb({"latency": n % 50}),
                "tool_call_id": f"call_{n // 4}" if n % 4 in {3, 0} else None,
                "journey_id": some(of("journey"), 2),
                "state_id": some(of("state"), 3),
            }
        case "variable":
            row |= {
                "agent_id": agent,
                "session_id": some(row_id(ws, "session", n % 80 + 1), 5),
                "key": f"key_{n}",
                "scope": ("session", "customer", "agent")[n % 3],
                "value": Jsonb({"v": secret, "n": n % 3}),
                "value_type": ("json", "text")[n % 2],
                "is_private": n % 4 == 0,
                "description": some(secret, 3),
            }
        case "agent_kb":
            row |= {
                "agent_id": row_id(ws, "agent", n),
                "knowledge_base_id": f"kb{n % 6 + 1}",
                "search_threshold": 50 + n % 50,
                "priority": n % 5,
            }
        case "tool_integration":
            row |= {
                "parlant_tool_id": row_id(ws, "tool", n),
                "integration_type": ("workflow", "api")[n % 2],
                "target_id": f"target {n % 8}",
                "configuration": Jsonb({"token": secret}),
                "health_status": ("unknown", "healthy", "broken")[n % 3],
                "error_count": n % 4,
                "last_error": some(secret, 2),
            }
        case "agent_workflow":
            row |= {
                "agent_id": row_id(ws, "agent", n),
                "workflow_id": f"wf{n % 5 + 1}",
                "workspace_id": ws,
                "integration_type": ("trigger", "monitor", "both")[n % 3],
                "input_mapping": Jsonb({"secret": secret}),
                "trigger_count": n % 10,
            }
        case "agent_api_key":
            row |= {
                "agent_id": row_id(ws, "agent", n),
                "api_key_id": f"key{n % 5 + 1}",
                "workspace_id": ws,
                "purpose": ("tools", "llm", "external_service", "general")[n % 4],
                "use_count": n % 12,
            }
        case "session_workflow":
            row |= {
                "session_id": row_id(ws, "session", n),
                "workflow_id": f"wf{n % 5 + 1}",
                "execution_id": some(f"run {n}", 4),
                "trigger_reason": secret,
                "status": ("pending", "running", "completed", "failed")[n % 4],
                "started_at": at,
                "error_message": secret if n % 4 == 3 else None,
            }
    return row


def reference_rows() -> dict[str, list[Row]]:
    """Return the rows of the reference tables: everybody sees them, so they hold no secret."""
    shared = [("knowledge_base", "kb", 6), ("workflow", "wf", 5), ("api_key", "key", 5)]
    return {
        "user": [
            {"id": f"user{n}", "name": f"User {n}", "email": f"user{n}@example.org"}
            for n in range(1, 5)
        ],
        "workspace": [
            {"id": ws, "name": f"Workspace {ws[-1].upper()}", "owner_id": "user1"}
            for ws in WORKSPACES
        ],
        **{
            table: [
                {"id": f"{prefix}{n}", "name": f"{table} {n}", "workspace_id": None}
                for n in range(1, count + 1)
            ]
            for table, prefix, count in shared
        },
        "billing_plan": [{"id": "basic", "name": "Basic", "workspace_id": None}],
    }


def owned_rows(ws: str) -> dict[str, list[Row]]:
    """Return a workspace's own rows of the reference tables with the key: they hold its secrets."""
    return {
        table: [
            {"id": f"{prefix}_{ws}_{n}", "name": f"secret-{ws}-{table}-{n}", "workspace_id": ws}
            for n in range(1, 4)
        ]
        for table, prefix in (("knowledge_base", "kb"), ("workflow", "wf"), ("api_key", "key"))
    }
