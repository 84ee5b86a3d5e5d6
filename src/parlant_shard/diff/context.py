"""What a comparison must know beside the catalogues."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    """The names that belong to the topology, and the clock."""

    coordinator: str
    publication: str
    slots: frozenset[str]  # every slot that this topology may have made
    # Copies that missed changes: no slot is made under them, and nothing is added to them.
    broken: frozenset[str] = frozenset()
    slot_of: Mapping[str, str] = field(default_factory=dict)  # the slot of each server's copy
    now: datetime = datetime.max  # of the coordinator, UTC: what lies ahead, nobody writes to yet
