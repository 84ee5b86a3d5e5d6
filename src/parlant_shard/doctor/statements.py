"""Try the statements of a file in a scratch database: what PostgreSQL rejects, and why.

Each statement is sent alone, in the order of the file, and what succeeds stays for those behind it.
Queries are analysed and never executed. BEGIN … COMMIT becomes a transaction of ours with a
savepoint per statement, so that one refusal does not hide the rest; the COMMIT then tells that
PostgreSQL would have rolled everything back. What reaches outside the database is not tried.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import postgast
import psycopg
from postgast import pg_query_pb2 as pb
from psycopg import generators
from psycopg.pq import ExecStatus

from parlant_shard import db, planner, scratch
from parlant_shard.ddl import text as as_sql
from parlant_shard.ddlfile import Statement, read_statements
from parlant_shard.doctor.observe import Observed, Server
from parlant_shard.doctor.reasons import reason
from parlant_shard.doctor.report import Tried
from parlant_shard.errors import PrivilegeError, SchemaError
from parlant_shard.introspect import introspect
from parlant_shard.topology import preset

_SHOWN = 100  # characters of a statement

_COMMENTS = frozenset({pb.SQL_COMMENT, pb.C_COMMENT})

# Analysed by PostgreSQL, not executed: a SELECT can do anything through the functions it calls.
_ANALYSED = frozenset(
    {
        "call_stmt", "delete_stmt", "explain_stmt", "insert_stmt", "merge_stmt", "select_stmt",
        "update_stmt",
    }
)  # fmt: skip
# Of these, the planner is asked as well: it looks for the index of an ON CONFLICT, for one.
_PLANNED = frozenset({"delete_stmt", "insert_stmt", "merge_stmt", "select_stmt", "update_stmt"})
# Executed beside what `read_statements` lets through: they touch the scratch database alone.
_EXECUTED = frozenset(
    {
        "close_portal_stmt", "cluster_stmt", "constraints_set_stmt", "create_table_as_stmt",
        "deallocate_stmt", "declare_cursor_stmt", "lock_stmt", "prepare_stmt",
        "refresh_mat_view_stmt", "reindex_stmt", "truncate_stmt", "vacuum_stmt",
        "variable_show_stmt",
    }
)  # fmt: skip
# What a DO block can reach the rest of the server with; such a block is not tried.
_REACHES_OUT = re.compile(
    r"\b(?:pg_(?:terminate|cancel)_backend|pg_reload_conf|pg_rotate_logfile|pg_promote|pg_switch_wal"
    r"|pg_(?:read|stat)_(?:binary_)?file|pg_write_file|pg_ls_\w+|pg_drop_replication_slot"
    r"|pg_create_\w+_slot|pg_replication_\w+|dblink\w*|lo_(?:import|export)"
    r"|program|alter\s+system|(?:create|drop|alter)\s+(?:database|role|user|tablespace|subscription))\b",
    re.IGNORECASE,
)


# --- splitting ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """One statement of a file, without its semicolon; `command` is one of psql's."""

    text: str
    line: int
    command: bool = False


_COPY_DATA = re.compile(
    rb"^(COPY\b[^;]*\bFROM\s+STDIN\b[^;]*;[ \t]*\n)(.*?\n)?(\\\.[ \t]*)$",
    re.IGNORECASE | re.MULTILINE | re.DOTALL,
)


def split(text: str) -> tuple[Piece, ...]:
    """Cut a file into statements by PostgreSQL's scanner; a broken one does not hide the next.

    Where a quote is never closed, the statement is taken to end at the next semicolon that ends a
    line.
    """
    data = _COPY_DATA.sub(_without_rows, text.encode())
    pieces: list[Piece] = []
    start = 0
    while start < len(data):
        found, start = _split_from(data, start)
        pieces += found
    return tuple(pieces)


def _without_rows(match: re.Match[bytes]) -> bytes:
    rows = (match[2] or b"") + match[3]
    return match[1] + re.sub(rb"[^\n]", b" ", rows)


def _split_from(data: bytes, start: int) -> tuple[list[Piece], int]:
    """Split from a position up to the end, or up to the end of the first broken statement."""
    tokens, broken = _scan(data[start:])
    pieces: list[Piece] = []
    reader = _Reader()
    skip_to = 0
    for token in tokens:
        if token.token in _COMMENTS or token.start < skip_to:
            continue
        if reader.begin is None and token.token == pb.ASCII_92:
            end = _line_end(data, start + token.start)
            pieces.append(_piece(data, start + token.start, end, command=True))
            skip_to = end - start
            if broken is not None and broken < skip_to:
                return pieces, end  # the quote that is never closed is psql's
        elif reader.ends(token):
            if reader.begin is not None:
                pieces.append(_piece(data, start + reader.begin, start + token.start))
            reader = _Reader()
    if broken is None:
        if reader.begin is not None:
            pieces.append(_piece(data, start + reader.begin, len(data)))
        return pieces, len(data)
    begin = start + (broken if reader.begin is None else reader.begin)
    after = re.compile(rb";[ \t\r]*(?:\n|$)").search(data, start + broken)
    end = len(data) if after is None else after.start()
    pieces.append(_piece(data, begin, end))
    return pieces, len(data) if after is None else after.end()


def _scan(data: bytes) -> tuple[list[Any], int | None]:
    """Return the tokens, and the byte at which the scanner gave up."""
    text = data.decode()
    try:
        return list(postgast.scan(text).tokens), None
    except postgast.PgQueryError as error:
        at = max((error.cursorpos or 1) - 1, 0)
        try:
            before = list(postgast.scan(text[:at]).tokens)
        except postgast.PgQueryError:
            before = []
        return before, len(text[:at].encode())


def _piece(data: bytes, begin: int, end: int, *, command: bool = False) -> Piece:
    return Piece(
        text=data[begin:end].decode().strip(),
        line=data.count(b"\n", 0, begin) + 1,
        command=command,
    )


def _line_end(data: bytes, start: int) -> int:
    end = data.find(b"\n", start)
    return len(data) if end < 0 else end


class _Reader:
    """Knows which semicolons do not end a statement: those of BEGIN ATOMIC and CREATE RULE."""

    def __init__(self) -> None:
        self.begin: int | None = None
        self.words: list[int] = []
        self.brackets = 0
        self.blocks = 0

    def ends(self, token: Any) -> bool:
        kind = token.token
        # Only a rule may hold semicolons in brackets: elsewhere a bracket is missing.
        in_rule = self.brackets > 0 and pb.RULE in self.words
        if kind == pb.ASCII_59 and self.blocks == 0 and not in_rule:
            return True
        if self.begin is None:
            self.begin = token.start
        if kind == pb.ASCII_40:
            self.brackets += 1
        elif kind == pb.ASCII_41:
            self.brackets -= 1
        elif self._routine():
            if (kind == pb.ATOMIC and self.words[-1:] == [pb.BEGIN_P]) or (
                self.blocks and kind == pb.CASE
            ):
                self.blocks += 1
            elif self.blocks and kind == pb.END_P:
                self.blocks -= 1
        self.words.append(kind)
        return False

    def _routine(self) -> bool:
        head = self.words[:4]
        return head[:1] == [pb.CREATE] and (pb.FUNCTION in head or pb.PROCEDURE in head)


# --- trying ---------------------------------------------------------------------------------------


def read_file(file: Path) -> str:
    """Return the text of a file of statements. Raises SchemaError (PS208, PS209)."""
    try:
        data = file.read_bytes()
    except OSError as error:
        raise SchemaError(
            f'the file "{file}" cannot be read: {(error.strerror or "error").lower()}',
            code="PS208",
            hint="name a file of SQL statements",
            file=str(file),
        ) from error
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise SchemaError(
            "the file is not UTF-8",
            code="PS209",
            hint="save it as UTF-8",
            file=str(file),
            line=data.count(b"\n", 0, error.start) + 1,
        ) from error
    if "\0" in text:
        raise SchemaError(
            "the file holds a NUL character",
            code="PS209",
            hint="save it as plain UTF-8 text",
            file=str(file),
            line=text.count("\n", 0, text.index("\0")) + 1,
        )
    return text


def try_statements(
    observed: Observed, schema: tuple[Statement, ...], file: str, text: str
) -> tuple[Tried, ...]:
    """Try the statements of a text on top of the topology's base schema.

    Raises PrivilegeError (PS411) where no server lets us make a scratch database, SchemaError where
    the base schema itself does not apply.
    """
    server = _server(observed)
    topology = observed.topology
    origin = topology.schema_source.from_
    base = None
    if origin is not None:
        with db.session(topology, origin) as connection:
            base = introspect(
                connection, namespace=topology.namespace, topology=topology.name, server=origin
            )
    dsn = db.conninfo(topology, server.name)
    with scratch.scratch_database(dsn, server.name) as connection:
        if base is None:
            scratch.run_statements(connection, schema, topology.namespace)
        else:
            # The topology's own indexes are not of the application: its file may bring them.
            bare = topology.model_copy(update={"indexes": {}})
            scratch.rebuild(connection, planner.without_ours(base), bare)
            scratch.run_statements(connection, (), topology.namespace)
        _add_statistics(connection)
        return _Trial(connection, file).all(split(text))


def base_statements(observed: Observed) -> tuple[Statement, ...]:
    """The DDL that a file is tried on: of a preset the tables alone, without proposed indexes."""
    source = observed.topology.schema_source
    if source.preset is not None:
        return read_statements([(f"{source.preset}.sql", preset(source.preset).text)])
    return read_statements(observed.topology.schema_files)


def _server(observed: Observed) -> Server:
    """A server for the scratch database: the coordinator first."""
    order = [observed.topology.coordinator, *sorted(observed.servers)]
    for name in order:
        server = observed.servers.get(name)
        if server is not None and "create-database" in server.facts.can:
            return server
    some = next(iter(observed.servers.values()), None)
    user = "ROLE" if some is None else some.facts.user
    raise PrivilegeError(
        "no role of ours may create a scratch database, in which statements are tried",
        code="PS411",
        hint=f"ALTER ROLE {user} CREATEDB",
    )


def _add_statistics(connection: db.Connection) -> None:
    """Let statements read pg_stat_statements: they are analysed against its columns."""
    with suppress(psycopg.Error):  # neither installed nor permitted: the refusal then says so
        connection.execute("CREATE EXTENSION IF NOT EXISTS pg_stat_statements")


class _Trial:
    """The state of a run through a file: the transaction it is in, and what failed in there."""

    def __init__(self, connection: db.Connection, file: str) -> None:
        self.connection = connection
        self.file = file
        self.block: Piece | None = None
        self.failed: int | None = None  # the first line of the block that was rejected

    def all(self, pieces: tuple[Piece, ...]) -> tuple[Tried, ...]:
        tried = []
        for piece in pieces:
            result = self._one(piece)
            if self.block is not None and not result.ok and self.failed is None:
                self.failed = piece.line
            tried.append(result)
        if self.block is not None:
            self.connection.execute("ROLLBACK")
            last = tried[-1]
            if last.message is None:
                tried[-1] = replace(
                    last,
                    message=f"the transaction of line {self.block.line} is never committed: "
                    "nothing of it would stay",
                )
        return tuple(tried)

    def _one(self, piece: Piece) -> Tried:
        result = Tried(line=piece.line, statement=shorten(piece.text), ok=True)
        if piece.command:
            return _psql(piece, result)
        node = _parse(piece.text)
        if node is None:
            return self._syntax_error(piece, result)
        kind = str(node.WhichOneof("node"))
        if kind == "transaction_stmt":
            return self._transaction(node.transaction_stmt.kind, piece, result)
        return self._statement(piece, kind, node, result)

    def _transaction(self, kind: int, piece: Piece, result: Tried) -> Tried:
        """Follow BEGIN, COMMIT and ROLLBACK; savepoints of the file are ours anyway."""
        opens = kind in {pb.TRANS_STMT_BEGIN, pb.TRANS_STMT_START}
        if opens and self.block is None:
            self.connection.execute("BEGIN")
            self.block, self.failed = piece, None
        elif kind in {pb.TRANS_STMT_COMMIT, pb.TRANS_STMT_ROLLBACK} and self.block is not None:
            begun, failed = self.block, self.failed
            self.block, self.failed = None, None
            commits = kind == pb.TRANS_STMT_COMMIT
            self.connection.execute("COMMIT" if commits else "ROLLBACK")
            if commits and failed is not None:
                return replace(
                    result,
                    ok=False,
                    sqlstate="25P02",
                    message=f"rolls back everything since line {begun.line}",
                    why=f"line {failed} is rejected, which aborts the transaction; every statement "
                    "behind it is refused too",
                    hint=f"correct line {failed}, or leave BEGIN and COMMIT out",
                )
        elif kind in {
            pb.TRANS_STMT_PREPARE, pb.TRANS_STMT_COMMIT_PREPARED, pb.TRANS_STMT_ROLLBACK_PREPARED
        }:  # fmt: skip
            return _not_tried(result, "two-phase commit is of the whole server")
        return result

    def _statement(self, piece: Piece, kind: str, node: Any, result: Tried) -> Tried:
        kept: tuple[Statement, ...] = ()
        try:
            kept = read_statements([(self.file, piece.text)])
            if not kept:
                return _not_tried(result, "a setting of the session, which ours replaces")
        except SchemaError as refused:
            if refused.code != "PS206" or kind not in _ANALYSED | _EXECUTED:
                return _not_tried(result, refused.message)
        if kind == "do_stmt" and _REACHES_OUT.search(piece.text):
            return _not_tried(result, "the block can reach outside the scratch database")
        if kind in _ANALYSED and not kept:
            error = self._attempt(piece.text, analyse=True) or self._plan(piece.text, kind)
            return result if error is None else self._rejected(result, piece, error)
        error = self._attempt(_without_data(piece.text, kind, node), analyse=False)
        if error is None:
            return self._accepted(result, piece, kind, node)
        if kept and kept[0].text != piece.text:
            # It was refused for CONCURRENTLY, perhaps: those behind it may need the object.
            self._attempt(kept[0].text, analyse=False)
        return self._rejected(result, piece, error)

    def _accepted(self, result: Tried, piece: Piece, kind: str, node: Any) -> Tried:
        if kind != "create_function_stmt":
            return result
        for query, error in self._broken_body(piece.text):
            explained = reason(error, query)
            return replace(
                result,
                sqlstate=error.sqlstate,
                message=f"is created, but fails when it is called: {_said(error)}",
                why=explained.why,
                hint=explained.hint,
            )
        return result

    def _rejected(self, result: Tried, piece: Piece, error: psycopg.Error) -> Tried:
        explained = reason(error, piece.text, block=self.block.line if self.block else None)
        return replace(
            result,
            ok=False,
            sqlstate=error.sqlstate,
            message=_said(error),
            why=explained.why,
            hint=explained.hint or error.diag.message_hint,
        )

    def _syntax_error(self, piece: Piece, result: Tried) -> Tried:
        """Ask the server too; never more than to analyse what nobody could classify."""
        error = self._attempt(piece.text, analyse=True)
        if error is None:
            return _not_tried(result, "this server reads it, but newer ones do not")
        numbered = _numbered(piece.text)
        if numbered is not None:
            node = _parse(numbered)
            kind = "" if node is None else str(node.WhichOneof("node"))
            placeholder = self._attempt(numbered, analyse=True) or self._plan(numbered, kind)
            if node is not None and placeholder is None:
                return replace(result, message="tried with $1 in the place of ?, and so on")
            if placeholder is not None:
                return self._rejected(result, replace(piece, text=numbered), placeholder)
        return self._rejected(result, piece, error)

    def _attempt(self, statement: str, *, analyse: bool) -> psycopg.Error | None:
        """Send one statement; return its refusal. Raises when the connection is lost."""
        try:
            with self._savepoint():
                if analyse:
                    self._analyse(statement)
                else:
                    self.connection.execute(as_sql(statement))
        except psycopg.Error as error:
            if self.connection.closed:
                raise
            return error
        return None

    def _plan(self, statement: str, kind: str) -> psycopg.Error | None:
        """Let the planner look at a query that was analysed. Parameters need 16 for that."""
        if kind not in _PLANNED:
            return None
        if self.connection.info.server_version >= 160_000:
            return self._attempt(f"EXPLAIN (GENERIC_PLAN) {statement}", analyse=False)
        if any(token.token == pb.PARAM for token in postgast.scan(statement).tokens):
            return None
        return self._attempt(f"EXPLAIN {statement}", analyse=False)

    @contextmanager
    def _savepoint(self) -> Iterator[None]:
        if self.block is None:
            yield
            return
        self.connection.execute("SAVEPOINT trial")
        try:
            yield
        except psycopg.Error:
            if not self.connection.closed:
                self.connection.execute("ROLLBACK TO SAVEPOINT trial")
            raise

    def _analyse(self, statement: str) -> None:
        """Let the server parse and analyse a statement, by the protocol's Parse alone."""
        pgconn = self.connection.pgconn
        pgconn.send_prepare(b"", statement.encode())
        for result in self.connection.wait(generators.execute(pgconn)):
            if result.status != ExecStatus.COMMAND_OK:
                raise psycopg.errors.error_from_result(result)

    # --- bodies of functions ---

    def _broken_body(self, statement: str) -> Iterator[tuple[str, psycopg.Error]]:
        """Yield the statements of a PL/pgSQL body that name a column which nothing has.

        PostgreSQL looks at a body when it runs. Only missing columns are reported: a table may
        have been made by the body itself.
        """
        try:
            tree = postgast.parse_plpgsql(statement)
        except postgast.PgQueryError:
            return
        variables, records = _variables(tree)
        for query in _body_queries(tree):
            error = self._missing_column(query, variables, records)
            if error is not None:
                yield query, error

    def _missing_column(
        self, query: str, variables: dict[str, str], records: frozenset[str]
    ) -> psycopg.Error | None:
        """Analyse a query of a body, with a typed NULL wherever PostgreSQL misses a variable."""
        for _ in range(50):  # variables of one query
            error = self._attempt(query, analyse=True)
            if error is None or error.sqlstate != "42703":
                return None
            at = int(error.diag.statement_position or 0) - 1
            word = re.compile(r'"(?:[^"]|"")+"|\w+').match(query, at) if at >= 0 else None
            if word is None:
                return None
            name = word[0].strip('"') if word[0].startswith('"') else word[0].lower()
            if name in records:
                return None
            if name not in variables:
                return error
            query = f"{query[:at]}NULL::{variables[name]}{query[word.end() :]}"
        return None


def _variables(tree: Any) -> tuple[dict[str, str], frozenset[str]]:
    """The scalar variables of a body with their types, and its records."""
    variables: dict[str, str] = {}
    records = {"new", "old"}
    for key, item in _nodes(tree):
        if key == "PLpgSQL_var":
            kind = item.get("datatype", {}).get("PLpgSQL_type", {}).get("typname", "text")
            variables[item["refname"]] = kind if kind != "UNKNOWN" else "text"
        elif key in {"PLpgSQL_rec", "PLpgSQL_row"}:
            records.add(item["refname"])
    return variables, frozenset(records)


_QUERY_KEYS = {
    "PLpgSQL_stmt_return_query": "query",
    "PLpgSQL_stmt_execsql": "sqlstmt",
    "PLpgSQL_stmt_fors": "query",
    "PLpgSQL_stmt_perform": "expr",
}


def _body_queries(tree: Any) -> Iterator[str]:
    for key, item in _nodes(tree):
        part = item.get(_QUERY_KEYS[key]) if key in _QUERY_KEYS else None
        if part:
            yield part["PLpgSQL_expr"]["query"]


def _nodes(value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, list):
        for item in value:
            yield from _nodes(item)
    elif isinstance(value, dict):
        for key, item in value.items():
            yield key, item
            yield from _nodes(item)


# --- pieces of text -------------------------------------------------------------------------------


def shorten(statement: str) -> str:
    """The first characters of a statement; passwords are not among them."""
    flat = " ".join(db.redact(statement).split())
    hidden = re.sub(r"(?i)(password\s+)'(?:[^']|'')*'", r"\1'***'", flat)
    return hidden if len(hidden) <= _SHOWN else hidden[: _SHOWN - 1] + "…"


def _parse(statement: str) -> Any | None:
    try:
        statements = postgast.parse(statement).stmts
    except postgast.PgQueryError:
        return None
    return statements[0].stmt if len(statements) == 1 else None


def _without_data(statement: str, kind: str, node: Any) -> str:
    """CREATE TABLE AS makes its table and runs no query."""
    if kind != "create_table_as_stmt" or node.create_table_as_stmt.into.skip_data:
        return statement
    bare = re.sub(r"(?is)\bWITH\s+DATA\s*$", "", statement)
    return f"{bare}\nWITH NO DATA"


def _numbered(statement: str) -> str | None:
    """Put $1, $2, … in the place of `?`, which drivers take for a placeholder; None without one."""
    try:
        tokens = postgast.scan(statement).tokens
    except postgast.PgQueryError:
        return None
    data, parts, end, number = statement.encode(), [], 0, 0
    for token in tokens:
        if data[token.start : token.end] == b"?":
            number += 1
            parts += [data[end : token.start], f"${number}".encode()]
            end = token.end
    return b"".join([*parts, data[end:]]).decode() if number else None


def _psql(piece: Piece, result: Tried) -> Tried:
    word = piece.text.split(maxsplit=1)[0]
    if word in {"\\restrict", "\\unrestrict", "\\."}:
        return _not_tried(result, "a line of pg_dump for psql")
    return replace(
        result,
        ok=False,
        message=f'"{word}" is no statement',
        why="it is a command of psql; the server never sees it, and no driver knows it",
        hint="run the file with psql, or remove the line",
    )


def _not_tried(result: Tried, message: str) -> Tried:
    return replace(result, tried=False, message=f"not tried: {message}")


def _said(error: psycopg.Error) -> str:
    return db.redact(error.diag.message_primary or str(error).strip())
