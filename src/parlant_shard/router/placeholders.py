"""Placeholders: psycopg's text and the text that the server will see, side by side.

psycopg replaces `%s` and `%(name)s` wherever they stand, in literals and comments too, and sends
`$1`, `$2` ... instead. What is analysed is therefore exactly that text; what is sent is cut from
the original, so that formatting, comments and placeholders survive.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from dataclasses import dataclass
from enum import Enum

_PERCENT = re.compile(rb"%(?:%|\(([^)]+)\)([sbt])|([sbt])|(.)?)", re.S)


class Style(Enum):
    """How a statement writes its parameters."""

    NONE = "none"
    POSITIONAL = "%s"
    NAMED = "%(name)s"
    NUMBERED = "$1"


class PlaceholderFault(Exception):
    """psycopg would not take the text as it is written."""


@dataclass(frozen=True, slots=True)
class Hole:
    """A placeholder of the client's text: where it is in both texts, and whose value it takes.

    `source` is the position in the sequence of parameters, or the name in their mapping.
    """

    client: tuple[int, int]
    server: tuple[int, int]
    source: int | str
    number: int


@dataclass(frozen=True, slots=True)
class Text:
    """A statement in both forms, as bytes of UTF-8.

    `escaped` says that a literal `%` of the client's text is written `%%`. `numbers` is the
    highest parameter number of the server's text.
    """

    client: bytes
    server: bytes
    style: Style
    holes: tuple[Hole, ...]
    numbers: int
    escaped: bool
    _shifts: tuple[tuple[int, int], ...] = ()

    def to_client(self, offset: int) -> int:
        """The place in the client's text that a place in the server's text came from."""
        if not self._shifts:
            return offset
        at = bisect_right(self._shifts, (offset, 1 << 60)) - 1
        if at < 0:
            return offset
        server, client = self._shifts[at]
        return client + (offset - server)


def read(sql: str, *, percent: bool) -> Text:
    """Read a statement. With `percent` the text is one that psycopg replaces `%s` in.

    Raises PlaceholderFault, and UnicodeEncodeError for half of a surrogate pair.
    """
    client = sql.encode()
    if not percent:
        return Text(client, client, Style.NONE, (), 0, escaped=False)
    parts: list[bytes] = []
    holes: list[Hole] = []
    shifts: list[tuple[int, int]] = []
    names: dict[str, int] = {}
    style = Style.NONE
    last = size = 0
    for match in _PERCENT.finditer(client):
        start, end = match.span()
        parts.append(client[last:start])
        size += start - last
        name, _, letter, other = match.groups()
        if match[0] == b"%%":
            piece = b"%"
        elif name is None and letter is None:
            shown = (other or b"").decode(errors="replace")
            raise PlaceholderFault(
                f'"%{shown}" is no placeholder: with parameters, a percent sign is written "%%"'
            )
        else:
            wanted = Style.NAMED if name is not None else Style.POSITIONAL
            if style is not Style.NONE and style is not wanted:
                raise PlaceholderFault('"%s" and "%(name)s" cannot be mixed')
            style = wanted
            if name is not None:
                key = name.decode()
                number = names.setdefault(key, len(names) + 1)
                source: int | str = key
            else:
                number = len(holes) + 1
                source = number - 1
            piece = b"$%d" % number
            holes.append(Hole((start, end), (size, size + len(piece)), source, number))
        parts.append(piece)
        size += len(piece)
        last = end
        shifts.append((size, end))
    parts.append(client[last:])
    numbers = len(names) if names else len(holes)
    return Text(
        client, b"".join(parts), style, tuple(holes), numbers, escaped=True, _shifts=tuple(shifts)
    )


_BARE = re.compile(r"%(?:s|b|t|\(\w+\)[sbt])")


def has_percent_placeholders(sql: str) -> bool:
    """Whether a text has what psycopg would replace, be it in a literal."""
    return _BARE.search(sql) is not None
