"""Sizes as people write them in the topology file: `500 GB`. The units are binary."""

from __future__ import annotations

import re
from dataclasses import dataclass

_UNITS = {"kB": 2**10, "MB": 2**20, "GB": 2**30, "TB": 2**40}
PATTERN = re.compile(r"\s*([0-9]{1,9}(?:\.[0-9]{1,3})?)\s*(kB|MB|GB|TB)\s*")


@dataclass(frozen=True, slots=True)
class Size:
    """A number of bytes that remembers how it was written; `str()` reads back."""

    bytes: int
    text: str

    @classmethod
    def parse(cls, text: str) -> Size:
        """Read `500 GB`, `1.5 TB`; raise ValueError with the reason."""
        found = PATTERN.fullmatch(text)
        if found is None:
            raise ValueError(f'"{text}" is not a size')
        size = int(float(found[1]) * _UNITS[found[2]])
        if size == 0:
            raise ValueError(f'"{text}" is no space at all')
        return cls(size, f"{found[1]} {found[2]}")

    def __str__(self) -> str:
        return self.text
