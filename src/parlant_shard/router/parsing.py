"""PostgreSQL's own parser and scanner (libpg_query), as plain Python data."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import postgast
from postgast import pg_query_pb2 as pb
from postgast.native import lib

Node = dict[str, Any]


class SyntaxFault(Exception):
    """PostgreSQL's parser does not accept the text; `offset` counts bytes, -1 where unknown."""

    def __init__(self, message: str, offset: int = -1) -> None:
        super().__init__(message)
        self.offset = offset


def parse_tree(text: bytes) -> list[Node]:
    """Parse and return the raw statements, each `{"stmt": {...}, ...}`. Offsets are in bytes.

    The JSON form is used because walking dictionaries is several times faster than walking
    protobuf messages. Raises SyntaxFault.
    """
    if b"\0" in text:
        raise SyntaxFault("the text holds a NUL byte")
    result = lib.pg_query_parse(text)
    try:
        if result.error:
            error = result.error.contents
            message = error.message.decode(errors="replace")
            raise SyntaxFault(message, error.cursorpos - 1)
        tree = json.loads(result.parse_tree)
    finally:
        lib.pg_query_free_parse_result(result)
    found: list[Node] = tree.get("stmts", [])
    return found


@dataclass(frozen=True, slots=True)
class Token:
    """A token of PostgreSQL's scanner. `word` is upper case for keywords, else the symbol."""

    start: int
    end: int
    kind: int
    keyword: bool


PARAM: int = pb.PARAM
IDENT: int = pb.IDENT
COMMENTS = frozenset({pb.SQL_COMMENT, pb.C_COMMENT})


def scan(text: bytes) -> list[Token]:
    """Return the tokens, comments included. Raises SyntaxFault."""
    try:
        found = postgast.scan(text.decode())
    except postgast.PgQueryError as error:
        raise SyntaxFault(str(error).partition(" at position")[0]) from None
    return [Token(t.start, t.end, t.token, t.keyword_kind != pb.NO_KEYWORD) for t in found.tokens]
