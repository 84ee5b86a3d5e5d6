"""Text exactly as PostgreSQL deparses it, for the few definitions that we make up ourselves.

Everything else in a desired catalogue was deparsed by a server. The round trip of every form here
is tested on all supported majors; a difference would show as a plan that never becomes empty.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from functools import cache

import postgast

_PLAIN = re.compile(r"[a-z_][a-z0-9_]*\Z")

# PostgreSQL's planner ignores a longer array when it proves that a CHECK excludes a table
# (MAX_SAOP_ARRAY_SIZE in predtest.c), silently: longer lists are OR-ed in pieces of this size.
PRUNABLE_LIST = 100


@cache
def quote(name: str) -> str:
    """Quote an identifier only where `quote_identifier` of the server would."""
    if _PLAIN.match(name):
        tokens = postgast.scan(name).tokens
        # 0 is no keyword, 1 an unreserved one; all others need quotes.
        if len(tokens) == 1 and tokens[0].keyword_kind in (0, 1):
            return name
    return '"' + name.replace('"', '""') + '"'


def columns(names: Iterable[str]) -> str:
    return ", ".join(quote(n) for n in names)


def literal(value: str) -> str:
    """A string constant as the server deparses it: standard_conforming_strings is on."""
    return "'" + value.replace("'", "''") + "'"


def array(values: Iterable[str]) -> str:
    """The text of a one-dimensional array value, as `array_out` writes it."""
    return "{" + ",".join(_element(v) for v in values) + "}"


def _element(value: str) -> str:
    if value == "" or value.upper() == "NULL" or re.search(r'[{}",\\\s]', value):
        return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'
    return value


def key_table(schema: str, name: str) -> str:
    """How a key table is registered, and how triggers and seals call it."""
    return f"{quote(schema)}.{quote(name)}"


def unique(names: Sequence[str]) -> str:
    return f"UNIQUE ({columns(names)})"


def _operand(key: str, key_type: str) -> tuple[str, str]:
    """The key as it stands in a comparison, and the array's element type."""
    if key_type.startswith("character varying"):
        return f"({quote(key)})::text", "text"
    return quote(key), key_type


def list_check(key: str, key_type: str, workspaces: Sequence[str]) -> str:
    """`CHECK ((key = ANY ('{a,b}'::text[])))`, OR-ed in pieces that the planner can use."""
    operand, element = _operand(key, key_type)
    pieces = [
        f"({operand} = ANY ({literal(array(workspaces[i : i + PRUNABLE_LIST]))}::{element}[]))"
        for i in range(0, len(workspaces), PRUNABLE_LIST)
    ] or [f"({operand} = ANY ('{{}}'::{element}[]))"]
    body = pieces[0] if len(pieces) == 1 else "(" + " OR ".join(pieces) + ")"
    return f"CHECK ({body})"


def bucket_check(
    key: str,
    key_type: str,
    ranges: Sequence[tuple[int, int]],
    elsewhere: Sequence[str],
    here: Sequence[str] = (),
) -> str:
    """The CHECK of a bucket shard.

    Own buckets without the workspaces that are listed elsewhere, or the workspaces listed here.
    """
    operand, element = _operand(key, key_type)
    argument = (
        quote(key)
        if key_type == "text"
        else operand
        if key_type.startswith("character varying")
        else f"({quote(key)})::text"
    )
    call = f"parlant_shard.bucket({argument})"
    spans = [f"(({call} >= {low}) AND ({call} <= {high}))" for low, high in ranges]
    owned = spans[0] if len(spans) == 1 else "(" + " OR ".join(spans) + ")"
    if elsewhere:
        excluded = [
            f"({operand} <> ALL ({literal(array(elsewhere[i : i + PRUNABLE_LIST]))}::{element}[]))"
            for i in range(0, len(elsewhere), PRUNABLE_LIST)
        ]
        # PostgreSQL flattens nested ANDs, but keeps an OR's parentheses.
        inner = owned[1:-1] if len(spans) == 1 else owned
        owned = "(" + " AND ".join([inner, *excluded]) + ")"
    if here:
        listed = list_check(key, key_type, here).removeprefix("CHECK (").removesuffix(")")
        alternatives = listed[1:-1] if len(here) > PRUNABLE_LIST else listed
        inner = owned[1:-1] if not elsewhere and len(spans) > 1 else owned
        owned = f"({inner} OR {alternatives})"
    return f"CHECK ({owned})"


def trigger_function(signature: str, body: str, *, definer: bool = False) -> str:
    """A plpgsql trigger function as `pg_get_functiondef` writes it.

    A `definer` acts with its owner's rights, and finds nothing but what is in pg_catalog.
    """
    as_owner = " SECURITY DEFINER\n SET search_path TO 'pg_catalog', 'pg_temp'\n"
    return (
        f"CREATE OR REPLACE FUNCTION {signature}\n RETURNS trigger\n LANGUAGE plpgsql\n"
        f"{as_owner if definer else ''}"
        f"AS $function${body}$function$\n"
    )
