"""The forms in which a statement may be given: text, bytes, and what `psycopg.sql` composes."""

from __future__ import annotations

from typing import TypeAlias

import psycopg
from psycopg.sql import Composable

from parlant_shard.router.model import Refusal

Query: TypeAlias = str | bytes | Composable
"""What `execute` and its like take, as psycopg does."""


def query_text(query: Query) -> str:
    """The text of a query. Raises Refusal (PS646) for what has none.

    Bytes are UTF-8. Literals of a composed query are rendered by psycopg's global adapters: which
    connection it goes to is not known yet.
    """
    if isinstance(query, str):
        return query
    try:
        if isinstance(query, bytes):
            return query.decode()
        if isinstance(query, Composable):
            return query.as_string(None)
    except UnicodeError:
        raise Refusal("PS646", "the query is not UTF-8", "encode it as UTF-8") from None
    except psycopg.Error as error:
        raise Refusal(
            "PS646",
            f"the composed query cannot be rendered: {error}",
            "give the value as a parameter, or register a psycopg dumper for its type",
        ) from None
    raise Refusal(
        "PS646",
        f"a query cannot be of type {type(query).__name__}",
        "give a str, bytes, or an object of psycopg.sql",
    )
