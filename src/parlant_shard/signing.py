"""Tokens that say which workspace a statement is for, signed so that SQL cannot make one up.

A token is `ps1|<key id>|<expiry>|<HMAC-SHA256>|<workspace>`: 8 hex digits, seconds since 1970 in
10 digits, 64 hex digits, and the workspace last, since it may hold any character. Signed is all of
it but the signature. What comes before the workspace has a fixed length, so a server cuts it out by
position. The servers keep the two blocks that HMAC makes of a key, not the key.
"""

from __future__ import annotations

import hmac
import time
from collections.abc import Mapping
from hashlib import sha256

from parlant_shard.topology import Isolation

LIFETIME = 60
"""Seconds after which a transaction cannot begin with a token any more."""

SKEW = 30
"""Seconds that a server grants on top, for clocks that differ."""

PREFIX = "ps1|"
"""What a setting starts with that is no plain name of a workspace."""

EVERYTHING = f"{PREFIX}*"
"""The setting of a statement over all workspaces: who sees rows by the setting is refused."""

_BLOCK = 64  # bytes, of SHA-256


def key_id(key: str) -> str:
    """Return the id of a key, the same everywhere: nobody has to name keys."""
    return sha256(b"parlant-shard signing key\0" + key.encode()).hexdigest()[:8]


def keys(isolation: Isolation) -> Mapping[str, str]:
    """Return the keys that are accepted, by id."""
    if not isolation.signed:
        return {}
    return {key_id(k): k for k in (isolation.key, isolation.previous_key) if k is not None}


def pads(key: str) -> tuple[bytes, bytes]:
    """Return the inner and the outer block of HMAC-SHA256 for a key."""
    secret = key.encode()
    block = (sha256(secret).digest() if len(secret) > _BLOCK else secret).ljust(_BLOCK, b"\0")
    return bytes(b ^ 0x36 for b in block), bytes(b ^ 0x5C for b in block)


def token(workspace: str, key: str, *, now: float | None = None) -> str:
    """Sign a token for a workspace that is good from now on for `LIFETIME`."""
    expiry = int(time.time() if now is None else now) + LIFETIME
    head = f"{PREFIX}{key_id(key)}|{expiry:010d}|"
    signature = hmac.new(key.encode(), (head + workspace).encode(), "sha256").hexdigest()
    return f"{head}{signature}|{workspace}"


def mark(key: str) -> str:
    """What stands in a plan for the blocks of the key with this id."""
    return f"<signing key {key}>"
