"""Names of physical objects: a suffix per shard, within PostgreSQL's 63 bytes.

PostgreSQL cuts a longer identifier and says so in a NOTICE only; two tables would become one. Names
are therefore shortened here, with a hash of what was cut off.
"""

from __future__ import annotations

from collections.abc import Mapping
from hashlib import sha256

MAX_BYTES = 63  # NAMEDATALEN - 1; a server can be built with another value, nobody ships one
HASH_DIGITS = 8
_LONGEST_PART = 30  # leaves room for what tells the partition apart


def byte_length(name: str) -> int:
    """Return the length of a name as PostgreSQL counts it in a UTF-8 database."""
    return len(name.encode())


def suffixed(name: str, suffix: str) -> str:
    """Return `name_suffix`, shortened to 63 bytes where it is longer.

    A shortened name is the beginning of `name`, 8 hex digits of its SHA-256 and the whole suffix:
    `parlant_agent_knowle_1f0c52aa_shard_1`. The same arguments give the same name on every machine.
    Raises ValueError for an empty part and for a suffix that leaves no room for a name.
    """
    if not name or not suffix:
        raise ValueError("a name and a suffix are needed")
    whole = f"{name}_{suffix}"
    if byte_length(whole) <= MAX_BYTES:
        return whole
    tail = f"_{sha256(name.encode()).hexdigest()[:HASH_DIGITS]}_{suffix}"
    room = MAX_BYTES - byte_length(tail)
    # errors="ignore" drops the bytes of a character that the cut went through
    head = name.encode()[: max(room, 0)].decode(errors="ignore")
    if not head:
        raise ValueError(f'the suffix "{suffix}" leaves no room for a name')
    return head + tail


def key_schema(namespace: str) -> str:
    """Return the schema of the key tables that belong to the reference tables of `namespace`."""
    return (
        "parlant_shard_key" if namespace == "public" else suffixed("parlant_shard_key", namespace)
    )


def leaf_item(leaf: str, parent: str, item: str, shard: str = "") -> str:
    """Return the name that a partition's index or key has, from that of its parent or base table.

    What the item's name shares with its table is said by the partition's name already:
    `parlant_event_created_at_idx_s1` on `parlant_event_s1_p20261101` is
    `parlant_event_s1_p20261101_created_at_idx`.
    """
    table = parent.removesuffix(f"_{shard}") if shard else parent
    part = item.removeprefix(f"{table}_")
    if shard:
        part = part.removesuffix(f"_{shard}")
    return suffixed(leaf, brief(part))


def brief(part: str) -> str:
    """Return a name that is short enough to stand behind another, hashed where it is not."""
    if byte_length(part) <= _LONGEST_PART:
        return part
    head = part.encode()[: _LONGEST_PART - HASH_DIGITS - 1].decode(errors="ignore")
    return f"{head}_{sha256(part.encode()).hexdigest()[:HASH_DIGITS]}"


def check_collisions(names: Mapping[str, str]) -> dict[str, tuple[str, ...]]:
    """Return each physical name that more than one thing has, with these things, sorted.

    `names` maps a description that is unique (`table a on shard b`) to the physical name. An empty
    answer means that every name is free.
    """
    owners: dict[str, list[str]] = {}
    for owner, physical in names.items():
        owners.setdefault(physical, []).append(owner)
    return {
        physical: tuple(sorted(found)) for physical, found in sorted(owners.items()) if found[1:]
    }
