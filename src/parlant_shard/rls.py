"""Policies and functions of row-level security, exactly as PostgreSQL deparses them.

The policies ask `parlant_shard.workspace()` which workspace the statement is for. In a sub-select
it is called once for a statement, not for each row, and what it returns can be looked up in an
index. Everything here has the search_path pinned, for it runs within statements of anybody.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from psycopg.sql import SQL, Identifier

from parlant_shard import canonical, signing
from parlant_shard.ddl import render, text
from parlant_shard.names import suffixed

WORKSPACE = "parlant_shard.workspace()"

_REFUSED = """\
  IF setting = '{everything}' THEN
    RAISE EXCEPTION 'role "%" may not read all workspaces', session_user
      USING ERRCODE = '42501', HINT = 'connect as the role of isolation.analytics';
  END IF;
"""

_PLAIN = """
DECLARE
  setting text := current_setting('parlant.workspace_id', true);
BEGIN
{refused}\
  IF starts_with(setting, '{prefix}') THEN
    RETURN substr(setting, 90);
  END IF;
  RETURN nullif(setting, '');
END;
"""

# Both signatures are hashed before they are compared: SQL has no comparison in constant time. The
# time is that of the transaction, so that a long one need not be given another token.
_SIGNED = """
DECLARE
  setting text := current_setting('parlant.workspace_id', true);
  genuine boolean;
BEGIN
  IF setting IS NULL OR setting = '' THEN
    RETURN NULL;
  END IF;
{refused}\
  SELECT sha256(convert_to(encode(sha256(k.outer_pad || sha256(k.inner_pad ||
           convert_to(left(setting, 24) || substr(setting, 90), 'UTF8'))), 'hex'), 'UTF8'))
         = sha256(convert_to(substr(setting, 25, 64), 'UTF8'))
    INTO genuine FROM parlant_shard.signing_key k WHERE k.id = substr(setting, 5, 8);
  IF genuine IS NOT TRUE THEN
    RAISE EXCEPTION 'the workspace token is not signed with a key of this server'
      USING ERRCODE = 'PS003', HINT = 'the application and the servers need the same isolation.key';
  END IF;
  IF substr(setting, 14, 10)::bigint + {skew} < extract(epoch FROM transaction_timestamp()) THEN
    RAISE EXCEPTION 'the workspace token has expired'
      USING ERRCODE = 'PS003', HINT = 'compare the clocks of the application and of this server';
  END IF;
  RETURN substr(setting, 90);
END;
"""


def is_workspace(key: str, key_type: str) -> str:
    """The condition of a policy: the row is of the workspace that the setting names."""
    own = "( SELECT parlant_shard.workspace() AS workspace)"
    if key_type.startswith("character varying"):
        return f"(({canonical.quote(key)})::text = {own})"
    if key_type == "text":
        return f"({canonical.quote(key)} = {own})"
    return f"({canonical.quote(key)} = ({own})::{key_type})"


def plain_workspace() -> str:
    """The function that believes the setting; whoever can run SQL can set it.

    It reads the workspace out of a token too, unchecked: clients begin to sign before servers
    demand it.
    """
    body = _PLAIN.format(refused=_refused(), prefix=signing.PREFIX)
    return _function(WORKSPACE, "text", "STABLE PARALLEL SAFE", body)


def signed_workspace() -> str:
    """The function that believes only what one of our keys has signed.

    It runs as its owner: nobody else may read the keys.
    """
    body = _SIGNED.format(refused=_refused(), skew=signing.SKEW)
    return _function(WORKSPACE, "text", "STABLE PARALLEL SAFE SECURITY DEFINER", body)


def look_up_name(table: str, column: str) -> str:
    """The name of the function that tells the workspace of a row, in the schema parlant_shard."""
    return suffixed(f"workspace_of_{table}_", column)


def look_up(
    table: str, column: str, type_: str, *, namespace: str, key: str, physical: Sequence[str]
) -> tuple[str, str]:
    """The function that tells the workspace of a row and nothing else: signature and definition.

    `type_` is that of the column without its length: an argument has none. The function asks all
    shards of its server; an id that is on two of them gives two rows.
    """
    branches = SQL("\n    UNION ALL\n    ").join(
        SQL("SELECT t.{}::text FROM {} t WHERE t.{} = $1").format(
            Identifier(key), Identifier(namespace, name), Identifier(column)
        )
        for name in physical
    )
    signature = f"parlant_shard.{canonical.quote(look_up_name(table, column))}(wanted {type_})"
    body = f"\nBEGIN\n  RETURN QUERY\n    {render(branches)};\nEND;\n"
    return signature, _function(
        signature, "SETOF text", "STABLE PARALLEL SAFE SECURITY DEFINER", body
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class FullText:
    """A GIN index over a text search vector: its expression and its predicate, as they deparse."""

    index: str
    expression: str
    predicate: str | None


def full_text(name: str, definition: str) -> FullText | None:
    """Read an index definition; None where it is no full-text index over one expression."""
    head = "gin (to_tsvector("
    if not definition.startswith(head):
        return None
    end = _closed(definition, len("gin "))
    expression, rest = definition[len("gin (") : end], definition[end + 1 :]
    if _closed(expression, len("to_tsvector")) != len(expression) - 1:
        return None  # more than one column, or an operator class
    match = re.fullmatch(r"(?: WITH \([^()]*\))?(?: WHERE \((.*)\))?", rest, re.S)
    return (
        None if match is None else FullText(index=name, expression=expression, predicate=match[1])
    )


def keyed(key: str, definition: str) -> str:
    """The definition of a full-text index that also finds the workspace (needs btree_gin)."""
    return definition.replace("gin (", f"gin ({canonical.quote(key)}, ", 1)


def search(
    index: FullText,
    *,
    name: str,
    namespace: str,
    key: str,
    key_type: str,
    column: str,
    type_: str,
    physical: str,
) -> tuple[str, str]:
    """The function that searches a shard's table with its index: signature and definition.

    It returns the keys of rows of the workspace that the setting names.
    """
    signature = f"parlant_shard.{canonical.quote(name)}(tsquery)"
    where = SQL("t.{} = parlant_shard_mine AND ").format(Identifier(key))
    where += text(f"{index.expression} @@ $1")
    if index.predicate is not None:
        where += text(f" AND ({index.predicate})")
    rows = SQL("SELECT t.{} FROM {} t WHERE {}").format(
        Identifier(column), Identifier(namespace, physical), where
    )
    body = (
        f"\nDECLARE\n  parlant_shard_mine {key_type} := parlant_shard.workspace();\n"
        f"BEGIN\n  RETURN QUERY\n    {render(rows)};\nEND;\n"
    )
    attributes = "STABLE PARALLEL SAFE SECURITY DEFINER"
    return signature, _function(signature, f"SETOF {type_}", attributes, body)


def _closed(definition: str, start: int) -> int:
    """Where the bracket at `start` closes; brackets within quotes do not count."""
    depth = 0
    quote = ""
    for at in range(start, len(definition)):
        character = definition[at]
        if quote:
            quote = "" if character == quote else quote
        elif character in "'\"":
            quote = character
        elif character == "(":
            depth += 1
        elif character == ")":
            depth -= 1
            if depth == 0:
                return at
    return len(definition)


def _refused() -> str:
    return _REFUSED.format(everything=signing.EVERYTHING)


def _function(signature: str, returns: str, attributes: str, body: str) -> str:
    """A plpgsql function as `pg_get_functiondef` writes it."""
    return (
        f"CREATE OR REPLACE FUNCTION {signature}\n RETURNS {returns}\n LANGUAGE plpgsql\n"
        f" {attributes}\n SET search_path TO 'pg_catalog', 'pg_temp'\n"
        f"AS $function${body}$function$\n"
    )
