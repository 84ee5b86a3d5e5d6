"""What a comparison must know beside the catalogues."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    """The names that belong to the topology, and the clock."""

    coordinator: str
    publication: str
    slots: frozenset[str]  # every slot that this topology may have made
    # Copies that missed changes: no slot is made under them, and nothing is added to them.
    broken: frozenset[str] = frozenset()
    now: datetime = datetime.max  # of the coordinator, UTC: what lies ahead, nobody writes to yet
