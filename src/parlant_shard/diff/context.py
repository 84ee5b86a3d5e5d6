"""What a comparison must know beside the catalogues."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    """The names that belong to the topology."""

    coordinator: str
    publication: str
    slots: frozenset[str]  # every slot that this topology may have made
