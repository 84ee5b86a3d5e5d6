"""Why PostgreSQL rejects a statement, in one sentence, and what to write instead. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass

import postgast
import psycopg
from postgast import pg_query_pb2 as pb


@dataclass(frozen=True, slots=True, kw_only=True)
class Reason:
    why: str | None = None
    hint: str | None = None


_NOTHING = Reason()

# Columns of the statistics views that documents get wrong: what they are called, or where they are.
_COLUMNS: dict[str, dict[str, str]] = {
    "pg_stat_user_tables": {"tablename": "relname"},
    "pg_stat_all_tables": {"tablename": "relname"},
    "pg_statio_user_tables": {"tablename": "relname"},
    "pg_statio_all_tables": {"tablename": "relname"},
    "pg_stat_user_indexes": {"tablename": "relname", "indexname": "indexrelname"},
    "pg_stat_all_indexes": {"tablename": "relname", "indexname": "indexrelname"},
    "pg_statio_user_indexes": {"tablename": "relname", "indexname": "indexrelname"},
    "pg_stat_statements": {
        "total_time": "total_exec_time",
        "min_time": "min_exec_time",
        "max_time": "max_exec_time",
        "mean_time": "mean_exec_time",
        "stddev_time": "stddev_exec_time",
    },
}
_NOT_OF_INDEXES = ("seq_scan", "seq_tup_read")

_CLOCK = re.compile(
    r"\b(current_date|current_time(?:stamp)?|localtime(?:stamp)?)\b|\b(now|clock_timestamp|"
    r"statement_timestamp|transaction_timestamp)\s*\(",
    re.IGNORECASE,
)


def reason(error: psycopg.Error, statement: str, *, block: int | None = None) -> Reason:
    """Explain a refusal, by its SQLSTATE and the statement; the server's words may be in any
    language. `block` is the line of the BEGIN that the statement stands behind."""
    bare = _without_comments(statement)
    flat = " ".join(bare.split()).lower()
    concurrent = "concurrently" in flat
    match error.sqlstate:
        case "42601":
            return _syntax(statement, flat)
        case "42P17":
            return _immutable(flat)
        case "42703":
            return _column(error, flat)
        case "42P01":
            return _relation(flat)
        case "25001" if concurrent:
            begun = f"BEGIN in line {block}" if block is not None else "a transaction"
            return Reason(
                why=f"CONCURRENTLY works in several transactions of its own, so PostgreSQL refuses "
                f"it behind {begun}",
                hint="run it outside BEGIN … COMMIT; every other statement of the block is rolled "
                "back with it",
            )
        case "25001":
            return Reason(
                why="PostgreSQL does not run it in a transaction block",
                hint="run it outside BEGIN … COMMIT",
            )
        case "0A000":
            return _unsupported(flat, concurrent)
        case "42P07" | "42710" | "42723" | "42701":
            return Reason(
                why="an object of this name exists already: the schema has it, or an earlier "
                "statement of the file made it",
                hint="leave one of the two out; IF NOT EXISTS would skip it silently, whatever the "
                "existing one looks like",
            )
        case "42704" if "_trgm_ops" in flat:
            return Reason(
                why="the operator class comes with the extension pg_trgm, which is not installed",
                hint="CREATE EXTENSION pg_trgm first",
            )
        case "42704":
            return Reason(
                why="no type, index or other object of this name exists when the statement runs"
            )
        case "42883" if "uuid_generate_v" in flat:
            return Reason(
                why="the function comes with the extension uuid-ossp, which is not installed",
                hint="use gen_random_uuid(), which PostgreSQL itself has",
            )
        case "42883":
            return Reason(why="no function or operator of this name takes arguments of these types")
        case "42P10":
            return Reason(
                why="ON CONFLICT needs a unique constraint or index over exactly these columns, "
                "and not a deferrable one"
            )
        case "42830":
            return Reason(
                why="a foreign key needs a primary key or unique constraint over exactly the "
                "referenced columns"
            )
        case "42804" if "references" in flat or "foreign key" in flat:
            return Reason(
                why="the column of a foreign key must have the type of what it references"
            )
        case "22P02":
            return Reason(
                why="the text is no value of the column's type: a label that the enum does not "
                "have, or no number, date or uuid"
            )
        case "55P04":
            return Reason(
                why="a new enum value cannot be used in the transaction that added it",
                hint="commit between ALTER TYPE … ADD VALUE and its first use",
            )
        case "2BP01":
            return Reason(why="something else still depends on the object")
        case _:
            return _NOTHING


# --- one kind of refusal each --------------------------------------------------------------------


def _syntax(statement: str, flat: str) -> Reason:
    if re.search(r"\badd constraint if not exists\b", flat):
        return Reason(
            why="ADD CONSTRAINT has no IF NOT EXISTS, in no version of PostgreSQL",
            hint="look it up in pg_constraint first, or in a DO block",
        )
    word = _reserved_word(statement)
    if word is not None:
        return Reason(
            why=f'"{word.lower()}" is a reserved word and must be quoted to name a column',
            hint=f'write "{word.lower()}" with the double quotes',
        )
    if re.search(r"(?:^|[\s(,=])\?", flat):
        return Reason(
            why="`?` is a placeholder of some drivers; PostgreSQL knows $1, $2",
            hint="write $1, or %s with psycopg",
        )
    return _NOTHING


def _reserved_word(statement: str) -> str | None:
    """The reserved word at which the parser stops, where quoting it lets the parser go on."""
    at = _stops_at(statement)
    if at is None:
        return None
    try:
        tokens = postgast.scan(statement).tokens
    except postgast.PgQueryError:
        return None
    offset = len(statement[:at].encode())
    for token in tokens:
        if token.start == offset and token.keyword_kind == pb.RESERVED_KEYWORD:
            data = statement.encode()
            word = data[token.start : token.end].decode()
            quoted = f'{statement[:at]}"{word.lower()}"{statement[at + len(word) :]}'
            further = _stops_at(quoted)
            return word if further is None or further > at + len(word) + 2 else None
    return None


def _stops_at(statement: str) -> int | None:
    try:
        postgast.parse(statement)
    except postgast.PgQueryError as error:
        return (error.cursorpos or 1) - 1
    return None


def _immutable(flat: str) -> Reason:
    clock = _CLOCK.search(flat)
    if clock is not None and "index" in flat.split("(", maxsplit=1)[0]:
        named = (clock[1] or f"{clock[2]}()").upper() if clock[1] else f"{clock[2]}()"
        return Reason(
            why=f"{named} changes with time, so it is not IMMUTABLE, and only IMMUTABLE functions "
            "are allowed in an index: its rows would have to leave it by themselves",
            hint="write a literal date and roll it forward, or `indexes: {…: {window: 30 days}}` "
            "in the topology, which `maintain` rolls",
        )
    return Reason(
        why="only IMMUTABLE functions are allowed in an index, a generated column or a partition "
        "key; what depends on the time zone, the locale or the clock is not",
        hint="date_trunc and to_char of a timestamp with time zone depend on TimeZone: use "
        "`timezone('UTC', column)` inside",
    )


def _column(error: psycopg.Error, flat: str) -> Reason:
    hints = []
    for view, columns in _COLUMNS.items():
        if not re.search(rf"\b{view}\b", flat):
            continue
        wrong = [name for name in columns if re.search(rf"\b{name}\b", flat)]
        for name in wrong:
            since = " since PostgreSQL 13" if view == "pg_stat_statements" else ""
            hints.append(f"{view} has no {name}: it is called {columns[name]}{since}")
        if view.endswith("_indexes"):
            hints += [
                f"{view} has no {name}: pg_stat_user_tables has it"
                for name in _NOT_OF_INDEXES
                if re.search(rf"\b{name}\b", flat)
            ]
    if hints:
        return Reason(why="; ".join(hints), hint="write the columns as the view has them")
    if re.match(r"create (?:unlogged )?table\b", flat) and "check" in flat:
        return Reason(
            why="the CHECK names a column that the statement does not declare",
            hint="declare the columns, or copy them: CREATE TABLE … (LIKE original INCLUDING ALL)",
        )
    return Reason(why="no table of the statement has a column of this name")


def _relation(flat: str) -> Reason:
    if re.search(r"\bpg_stat_statements\b", flat):
        return Reason(
            why="pg_stat_statements is an extension, which is not installed here",
            hint="add it to shared_preload_libraries, restart, CREATE EXTENSION pg_stat_statements",
        )
    return Reason(
        why="no table or view of this name exists when the statement runs: neither the schema nor "
        "an accepted statement above makes it"
    )


def _unsupported(flat: str, concurrent: bool) -> Reason:
    if "check" in flat and re.search(r"\(\s*select\b", flat):
        return Reason(
            why="a CHECK looks at one row alone: PostgreSQL allows no subquery in it",
            hint="use a composite foreign key, or a trigger",
        )
    if concurrent and re.match(r"(create (unique )?index|drop index)\b", flat):
        return Reason(
            why="CONCURRENTLY does not work on the index of a partitioned table",
            hint="build it on every partition with CONCURRENTLY, create the partitioned one with "
            "ON ONLY, and attach each",
        )
    if re.search(r"\bunique\b|\bprimary key\b|\bexclude\b", flat):
        return Reason(
            why="a unique constraint on a partitioned table must contain all columns of the "
            "partition key, because each partition keeps its own index",
            hint="add the partition key to it; uniqueness without it is not enforceable across "
            "partitions",
        )
    return Reason(why="PostgreSQL does not support this combination")


def _without_comments(statement: str) -> str:
    """The statement without its comments, so that a word in one explains nothing."""
    try:
        tokens = postgast.scan(statement).tokens
    except postgast.PgQueryError:
        return statement
    data, parts, end = statement.encode(), [], 0
    for token in tokens:
        if token.token in {pb.SQL_COMMENT, pb.C_COMMENT}:
            parts.append(data[end : token.start])
            end = token.end
    return b" ".join([*parts, data[end:]]).decode()
