"""Tell which of the three schemas that share the `parlant_*` names a table belongs to. Pure.

A is what Parlant's migrations make, B the comprehensive variant of it, C that of the Python server.
A deployed database can be any mix.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

TABLES = frozenset(
    {
        "parlant_agent", "parlant_agent_api_key", "parlant_agent_knowledge_base",
        "parlant_agent_tool", "parlant_agent_workflow", "parlant_canned_response", "parlant_event",
        "parlant_guideline", "parlant_journey", "parlant_journey_guideline",
        "parlant_journey_state", "parlant_journey_transition", "parlant_session",
        "parlant_session_workflow", "parlant_term", "parlant_tool", "parlant_tool_integration",
        "parlant_variable",
    }
)  # fmt: skip

# A column that only C has, and the one that stands for it in A and B.
_MARKERS = {
    "parlant_agent": ("metadata", "created_by"),
    "parlant_canned_response": ("response_text", "template"),
    "parlant_event": ("event_data", "content"),
    "parlant_guideline": ("condition_text", "condition"),
    "parlant_journey": ("start_state_id", "conditions"),
    "parlant_journey_state": ("state_name", "name"),
    "parlant_journey_transition": ("condition_text", "condition"),
    "parlant_session": ("context_data", "variables"),
    "parlant_term": ("term_name", "name"),
    "parlant_tool": ("tool_name", "name"),
    "parlant_variable": ("variable_name", "key"),
}
_ZONED = frozenset({"timestamptz", "timestamp with time zone"})

ENUMS: Mapping[str, Mapping[str, frozenset[str]]] = {
    "agent_status": {
        "A": frozenset({"active", "inactive", "archived"}),
        "B": frozenset({"active", "inactive", "archived", "maintenance"}),
        "C": frozenset({"active", "inactive", "paused", "archived"}),
    },
    "session_mode": {
        "A": frozenset({"auto", "manual", "paused"}),
        "B": frozenset({"auto", "manual", "paused", "debug"}),
        "C": frozenset({"conversation", "guidelines", "workflow", "api"}),
    },
    "session_status": {
        "A": frozenset({"active", "completed", "abandoned"}),
        "B": frozenset({"active", "completed", "abandoned", "error", "transferred"}),
        "C": frozenset({"active", "completed", "failed", "cancelled", "paused"}),
    },
    "journey_state_type": {
        "A": frozenset({"chat", "tool", "decision", "final"}),
        "B": frozenset({"chat", "tool", "decision", "final", "conditional", "parallel"}),
        "C": frozenset({"start", "intermediate", "end", "condition"}),
    },
    "composition_mode": {
        "A": frozenset({"fluid", "strict"}),
        "B": frozenset({"fluid", "strict", "hybrid"}),
        "C": frozenset({"append", "replace", "merge"}),
    },
}


def of_table(table: str, columns: Mapping[str, str]) -> str | None:
    """Return A, B or C; "mixed" for a table with columns of two; None for what is no such table.

    `columns` maps names to types.
    """
    if table not in TABLES:
        return None
    own, other = _MARKERS.get(table, ("", ""))
    if own in columns:
        return "mixed" if other in columns else "C"
    # A keeps its times without a zone, B is A with zones.
    times = {columns[c] for c in ("created_at", "updated_at") if c in columns}
    if not times:
        return None
    return "B" if times <= _ZONED else "A" if not times & _ZONED else "mixed"


def of_enum(name: str, labels: Collection[str]) -> str | None:
    """Return A, B or C; None for an enum that is none of theirs, or that was extended."""
    for generation, known in ENUMS.get(name, {}).items():
        if known == frozenset(labels):
            return generation
    return None
