"""How large a btree would be if it were built anew: an estimate from statistics. Pure.

Leaf pages hold one item per row: an 8-byte header (16 where a key can be NULL), the key columns at
their mean width, the sum rounded up to 8 bytes, and a 4-byte line pointer; pages are filled to the
fill factor. Upper levels hold one item per page below. Rows with equal keys may share an item,
which is left out: an index with many equal keys is taken to need more than it does, so its bloat is
found late, never too early.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import ceil, floor

from parlant_shard.observe.figures import IndexFigures, TableFigures, unquoted

_PAGE_OVERHEAD = 24 + 16  # page header, btree's special space
_LINE_POINTER = 4
_UPPER_FILL = 0.7  # how full a new index's upper pages are


def built_bytes(
    index: IndexFigures,
    table: TableFigures,
    widths: Mapping[tuple[str, str], tuple[int, float]],
    block_size: int,
) -> int | None:
    """The size in bytes of that btree after a rebuild; None where its statistics are missing."""
    if index.method != "btree" or index.tuples < 0:
        return None
    data, nullable = 0.0, False
    for i, (number, column) in enumerate(zip(index.numbers, index.columns, strict=True)):
        if number:
            found = widths.get((table.name, unquoted(column)))
        else:
            found = widths.get((index.name, index.attributes[i]))
        if found is None:
            return None
        width, nulls = found
        data += width * (1 - nulls)
        nullable = nullable or nulls > 0
    header = 16 if nullable else 8
    item = header + ceil(data / 8) * 8 + _LINE_POINTER
    usable = block_size - _PAGE_OVERHEAD
    pages = ceil(entries(index, table) / max(1, floor(usable * index.fillfactor / 100 / item)))
    total, level = pages + 1, pages  # and the meta page
    fanout = max(2, floor(usable * _UPPER_FILL / item))
    while level > 1:
        level = ceil(level / fanout)
        total += level
    return total * block_size


def entries(index: IndexFigures, table: TableFigures) -> float:
    """The entries of an index: as many as VACUUM and ANALYZE saw, and what the table got since."""
    if index.predicate is None:
        return max(index.tuples, table.rows)
    return index.tuples * max(1.0, table.rows / table.tuples if table.tuples > 0 else 1.0)
