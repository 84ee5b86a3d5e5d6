"""Reading the application's DDL files offline, with PostgreSQL's own parser.

What is kept is what defines tables and what belongs to them, plus the settings that change how
later statements read (`SET search_path`, `SELECT pg_catalog.set_config('search_path', …)`, as
pg_dump writes them). Dropped without a word: timeouts, `client_min_messages`, `row_security` and
`client_encoding = 'UTF8'`, because our own session rules these, and the `\\restrict` lines of
pg_dump. Everything else is refused by name: the list of kept kinds is closed, so that a statement
nobody thought of never runs.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

import postgast
from postgast import pg_query_pb2 as pb

from parlant_shard.errors import SchemaError

# code -> meaning, for the documentation
CODES: dict[str, str] = {
    "PS200": "a DDL file declares a table twice",
    "PS201": "PostgreSQL's parser refuses a statement of a DDL file",
    "PS202": "a DDL file controls transactions",
    "PS203": "a DDL file holds a command of psql",
    "PS204": "a DDL file holds COPY",
    "PS205": "a DDL file changes what is outside its own database, or who it runs as",
    "PS206": "a DDL file holds a statement that does not define anything",
    "PS207": "a DDL file asks for another encoding than UTF-8",
    "PS208": "a DDL file does not exist or cannot be read",
    "PS209": "a DDL file is not UTF-8, or holds a NUL character",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Statement:
    """One statement without its semicolon; `kind` is PostgreSQL's node (`create_stmt`)."""

    text: str
    file: str
    line: int
    kind: str


@dataclass(frozen=True, slots=True, kw_only=True)
class DeclaredForeignKey:
    """A foreign key; `ref_columns` is empty where the statement leaves them to PostgreSQL."""

    name: str | None
    columns: tuple[str, ...]
    ref_table: str
    ref_columns: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class DeclaredTable:
    """What the files say about a table. Types are bare names: `timestamptz`, `int4`, `text[]`.

    `constraints` maps the named ones to their kind; objects without a name are not in here, because
    PostgreSQL has yet to choose it.
    """

    name: str
    columns: Mapping[str, str]
    indexes: tuple[str, ...] = ()
    constraints: Mapping[str, str] = field(default_factory=dict)
    foreign_keys: tuple[DeclaredForeignKey, ...] = ()


# --- reading -------------------------------------------------------------------------------------

Source = Path | tuple[str, str]  # a file, or (the name to show, its text)


def read_statements(sources: Iterable[Source]) -> tuple[Statement, ...]:
    """Return the statements of all sources in order, CONCURRENTLY removed."""
    return tuple(statement for source in sources for statement in _read_source(source))


def _read_source(source: Source) -> Iterator[Statement]:
    if isinstance(source, Path):
        name, text = str(source), _text_of(source)
    else:
        name, text = source
    if "\0" in text:
        # libpg_query takes a C string: everything behind a NUL would be left unread
        raise SchemaError(
            "the file holds a NUL character",
            code="PS209",
            hint="save it as plain UTF-8 text",
            file=name,
            line=text.count("\n", 0, text.index("\0")) + 1,
        )
    text, parsed = _parse(text.removeprefix("\ufeff"), name)
    data = text.encode()
    for raw in parsed.stmts:
        start = raw.stmt_location
        end = start + raw.stmt_len if raw.stmt_len else len(data)
        line = data.count(b"\n", 0, start) + 1
        kind = raw.stmt.WhichOneof("node")
        if _is_kept(raw.stmt, kind, data[start:end].decode(), name, line):
            body = _without_concurrently(data[start:end], raw.stmt, kind)
            yield Statement(text=body.decode().strip(), file=name, line=line, kind=kind)


def _text_of(path: Path) -> str:
    try:
        data = path.read_bytes()
    except OSError as exc:
        raise SchemaError(
            f'the DDL file "{path}" cannot be read: {(exc.strerror or "error").lower()}',
            code="PS208",
            hint="check the path under schema.files and the permissions",
            file=str(path),
        ) from exc
    try:
        return data.decode()
    except UnicodeDecodeError as exc:
        raise SchemaError(
            "the file is not UTF-8",
            code="PS209",
            hint="save it as UTF-8; pg_dump does with --encoding=UTF8",
            file=str(path),
            line=data.count(b"\n", 0, exc.start) + 1,
        ) from exc


def _parse(text: str, name: str) -> tuple[str, Any]:
    """Return the text that was parsed in the end and the tree of it."""
    while True:
        try:
            return text, postgast.parse(text)
        except postgast.PgQueryError as exc:
            # cursorpos counts characters from 1; 0 or the end mean "at end of input"
            at = max((exc.cursorpos or 0) - 1, 0) if exc.cursorpos else len(text)
            without = _without_restrict(text, at)
            if without is None:
                _refuse_syntax(text, at, name, exc)
            text = without


def _without_restrict(text: str, at: int) -> str | None:
    """Blank the `\\restrict` or `\\unrestrict` line at this position, which pg_dump writes."""
    line = text[at:].split("\n", 1)[0]
    words = line.split()
    if (at and text[at - 1] != "\n") or not words or words[0] not in {"\\restrict", "\\unrestrict"}:
        return None
    return text[:at] + " " * len(line) + text[at + len(line) :]


def _refuse_syntax(text: str, at: int, name: str, exc: postgast.PgQueryError) -> NoReturn:
    line = text.count("\n", 0, at) + 1
    copy_line = _line_of_copy(text[:at])
    if copy_line is not None:
        raise SchemaError(
            "COPY carries rows, a DDL file holds definitions only",
            code="PS204",
            hint="dump with pg_dump --schema-only",
            file=name,
            line=copy_line,
        ) from None
    if text[at : at + 1] == "\\":
        command = text[at:].split(maxsplit=1)[0]
        raise SchemaError(
            f'"{command}" is a command of psql, not SQL',
            code="PS203",
            hint="list the files under schema.files instead of including them, and remove the line"
            if command in {"\\i", "\\ir", "\\include", "\\include_relative"}
            else "remove the line; the statements are not run by psql",
            file=name,
            line=line,
        ) from None
    raise SchemaError(
        f"PostgreSQL's parser says: {exc.message}",
        code="PS201",
        hint="correct the statement; `psql -f` on an empty database shows the same message",
        file=name,
        line=line,
    ) from exc


def _line_of_copy(prefix: str) -> int | None:
    """Return the line of a COPY that ends right before the text that does not parse."""
    try:
        tokens = [t for t in postgast.scan(prefix).tokens if t.token not in _COMMENTS]
    except postgast.PgQueryError:
        return None
    if not tokens or tokens[-1].token != pb.ASCII_59:
        return None
    first = next(
        (n + 1 for n in range(len(tokens) - 2, -1, -1) if tokens[n].token == pb.ASCII_59), 0
    )
    if tokens[first].token != pb.COPY:
        return None
    return prefix.encode()[: tokens[first].start].count(b"\n") + 1


_COMMENTS = frozenset({pb.SQL_COMMENT, pb.C_COMMENT})


# --- what is kept --------------------------------------------------------------------------------

_DEFINITIONS = frozenset(
    {
        "alter_collation_stmt", "alter_default_privileges_stmt", "alter_domain_stmt",
        "alter_enum_stmt", "alter_extension_contents_stmt", "alter_extension_stmt",
        "alter_function_stmt", "alter_object_depends_stmt", "alter_object_schema_stmt",
        "alter_op_family_stmt", "alter_operator_stmt", "alter_owner_stmt", "alter_policy_stmt",
        "alter_seq_stmt", "alter_stats_stmt", "alter_table_stmt", "alter_tsconfiguration_stmt",
        "alter_tsdictionary_stmt", "alter_type_stmt", "comment_stmt", "composite_type_stmt",
        "create_cast_stmt", "create_conversion_stmt", "create_domain_stmt", "create_enum_stmt",
        "create_extension_stmt", "create_function_stmt", "create_op_class_stmt",
        "create_op_family_stmt", "create_plang_stmt", "create_policy_stmt", "create_range_stmt",
        "create_schema_stmt", "create_seq_stmt", "create_stats_stmt", "create_stmt",
        "create_transform_stmt", "create_trig_stmt", "define_stmt", "do_stmt", "drop_stmt",
        "grant_stmt", "index_stmt", "rename_stmt", "rule_stmt", "sec_label_stmt", "view_stmt",
    }
)  # fmt: skip
_OUTSIDE = frozenset(
    {
        "alter_database_refresh_coll_stmt", "alter_database_set_stmt", "alter_database_stmt",
        "alter_event_trig_stmt", "alter_fdw_stmt", "alter_foreign_server_stmt",
        "alter_publication_stmt", "alter_role_set_stmt", "alter_role_stmt",
        "alter_subscription_stmt", "alter_system_stmt", "alter_table_move_all_stmt",
        "alter_table_space_options_stmt", "alter_user_mapping_stmt", "create_event_trig_stmt",
        "create_fdw_stmt", "create_foreign_server_stmt", "create_foreign_table_stmt",
        "create_publication_stmt", "create_role_stmt", "create_subscription_stmt",
        "create_table_space_stmt", "create_user_mapping_stmt", "createdb_stmt", "drop_owned_stmt",
        "drop_role_stmt", "drop_subscription_stmt", "drop_table_space_stmt",
        "drop_user_mapping_stmt", "dropdb_stmt", "grant_role_stmt",
        "import_foreign_schema_stmt", "reassign_owned_stmt",
    }
)  # fmt: skip
# COMMENT ON DATABASE, GRANT … ON TABLESPACE, DROP PUBLICATION: the node is one for all objects
_OUTSIDE_OBJECTS = frozenset(
    {
        pb.OBJECT_DATABASE, pb.OBJECT_EVENT_TRIGGER, pb.OBJECT_FDW, pb.OBJECT_FOREIGN_SERVER,
        pb.OBJECT_PARAMETER_ACL, pb.OBJECT_PUBLICATION, pb.OBJECT_ROLE, pb.OBJECT_SUBSCRIPTION,
        pb.OBJECT_TABLESPACE, pb.OBJECT_USER_MAPPING,
    }
)  # fmt: skip
_OBJECT_FIELDS = ("objtype", "object_type", "objecttype", "rename_type", "remove_type")
_ON = frozenset({"on", "true", "yes", "1"})  # libpg_query reads strings as if it were on
_OUR_SETTINGS = frozenset({"client_min_messages", "row_security"})


def _is_kept(node: Any, kind: str, text: str, file: str, line: int) -> bool:
    """Say whether a statement is handed on; raise SchemaError where it is refused."""

    def refuse(code: str, message: str, hint: str) -> NoReturn:
        raise SchemaError(message, code=code, hint=hint, file=file, line=line)

    inner = getattr(node, kind)
    words = _words(kind)
    match kind:
        case "transaction_stmt":
            refuse(
                "PS202",
                f"{_TRANSACTION.get(inner.kind, 'transaction control')} is refused in a DDL file",
                "remove it: every statement is run on its own",
            )
        case "copy_stmt":
            refuse(
                "PS204",
                "COPY carries rows, a DDL file holds definitions only",
                "dump with pg_dump --schema-only",
            )
        case "variable_set_stmt":
            if inner.kind == pb.VAR_SET_MULTI:
                refuse(
                    "PS202",
                    f"SET {inner.name} is refused in a DDL file",
                    "remove it: every statement is run on its own",
                )
            if inner.kind == pb.VAR_RESET_ALL:
                refuse("PS206", "RESET ALL is refused in a DDL file", "remove it")
            values = [_constant(arg) for arg in inner.args]
            return _is_kept_setting(inner.name.lower(), values, refuse)
        case "select_stmt":
            call = _set_config(inner)
            if call is not None:
                return _is_kept_setting(call[0].lower(), [call[1]], refuse)
        case "create_table_as_stmt":
            if inner.objtype == pb.OBJECT_MATVIEW:
                return True
            refuse(
                "PS206",
                "CREATE TABLE AS is refused in a DDL file",
                "declare the columns with CREATE TABLE",
            )
        case "do_stmt" if _ends_transactions(text):
            refuse(
                "PS202",
                "COMMIT or ROLLBACK in a DO block is refused in a DDL file",
                "remove it: every statement is run on its own",
            )
    objects = {int(getattr(inner, name, -1)) for name in _OBJECT_FIELDS} & _OUTSIDE_OBJECTS
    for outside in sorted(objects):
        words += " of a " + pb.ObjectType.Name(outside)[len("OBJECT_") :].lower().replace("_", " ")
    if kind in _OUTSIDE or objects:
        refuse(
            "PS205",
            f"{words} reaches outside the database, which is refused in a DDL file",
            "remove it; databases, roles, tablespaces, servers and replication are not part of the"
            " tables' definition",
        )
    if kind not in _DEFINITIONS:
        refuse(
            "PS206",
            f"{words} is refused in a DDL file: it defines nothing",
            "remove it; rows are loaded after `apply`",
        )
    return True


_TRANSACTION = {
    pb.TRANS_STMT_BEGIN: "BEGIN",
    pb.TRANS_STMT_START: "START TRANSACTION",
    pb.TRANS_STMT_COMMIT: "COMMIT",
    pb.TRANS_STMT_ROLLBACK: "ROLLBACK",
    pb.TRANS_STMT_SAVEPOINT: "SAVEPOINT",
    pb.TRANS_STMT_RELEASE: "RELEASE",
    pb.TRANS_STMT_ROLLBACK_TO: "ROLLBACK TO",
    pb.TRANS_STMT_PREPARE: "PREPARE TRANSACTION",
    pb.TRANS_STMT_COMMIT_PREPARED: "COMMIT PREPARED",
    pb.TRANS_STMT_ROLLBACK_PREPARED: "ROLLBACK PREPARED",
}
_WORDS = {
    "createdb_stmt": "CREATE DATABASE",
    "dropdb_stmt": "DROP DATABASE",
    "create_table_space_stmt": "CREATE TABLESPACE",
    "drop_table_space_stmt": "DROP TABLESPACE",
    "create_event_trig_stmt": "CREATE EVENT TRIGGER",
    "create_fdw_stmt": "CREATE FOREIGN DATA WRAPPER",
    "refresh_mat_view_stmt": "REFRESH MATERIALIZED VIEW",
    "grant_role_stmt": "GRANT of a role",
    "truncate_stmt": "TRUNCATE",
    "constraints_set_stmt": "SET CONSTRAINTS",
    "vacuum_stmt": "VACUUM or ANALYZE",
    "check_point_stmt": "CHECKPOINT",
}


def _words(kind: str) -> str:
    """Return how people call a node: `create_role_stmt` is CREATE ROLE."""
    return _WORDS.get(kind) or kind.removesuffix("_stmt").replace("_", " ").upper()


def _is_kept_setting(name: str, values: list[str | None], refuse: Any) -> bool:
    if name in {"role", "session_authorization"}:
        refuse(
            "PS205",
            f'setting "{name}" is refused in a DDL file',
            "remove it: the role of the server's admin_dsn owns the tables",
        )
    if name == "client_encoding":
        encoding = (values[0] or "utf8").lower().replace("-", "") if values else "utf8"
        if encoding not in {"utf8", "unicode"}:
            refuse(
                "PS207",
                f'the file asks for the encoding "{values[0]}"',
                "save the file as UTF-8 and remove the line",
            )
        return False
    if name == "standard_conforming_strings" and values and values[0] not in _ON:
        refuse(
            "PS206",
            "switching standard_conforming_strings off is refused in a DDL file",
            "remove it and write strings with backslashes as E'…'",
        )
    return not (name in _OUR_SETTINGS or name.endswith("_timeout"))


def _constant(node: Any) -> str | None:
    """Return a constant as text, None for what is no text or number."""
    if node.WhichOneof("node") != "a_const":
        return None
    const = node.a_const
    match const.WhichOneof("val"):
        case "sval":
            return str(const.sval.sval)
        case "ival":
            return str(const.ival.ival)
        case "fval":
            return str(const.fval.fval)
        case _:
            return None


def _set_config(select: Any) -> tuple[str, str] | None:
    """Return name and value where a SELECT is one set_config of constants, and nothing else."""
    filled = {descriptor.name for descriptor, _ in select.ListFields()}
    if not filled <= {"target_list", "limit_option", "op"} or len(select.target_list) != 1:
        return None
    value = select.target_list[0].res_target.val
    if value.WhichOneof("node") != "func_call":
        return None
    call = value.func_call
    name = [part.string.sval for part in call.funcname]
    if name not in (["set_config"], ["pg_catalog", "set_config"]) or len(call.args) != 3:
        return None
    setting, text = _constant(call.args[0]), _constant(call.args[1])
    if setting is None or text is None or call.args[2].WhichOneof("node") != "a_const":
        return None
    return setting, text


def _without_concurrently(body: bytes, node: Any, kind: str) -> bytes:
    """Cut the word CONCURRENTLY out of the statement; nothing else of the text changes.

    It is not allowed in a transaction, and an empty table needs none. The first such token is the
    option: in front of it only CREATE, UNIQUE, DROP and INDEX can stand, or, for a partition that
    is detached, names, which need quotes to spell it.
    """
    if not _is_concurrent(getattr(node, kind), kind):
        return body
    for token in postgast.scan(body.decode()).tokens:
        if token.token == pb.CONCURRENTLY:
            after = body[token.end :]
            return body[: token.start] + after.lstrip(b" \t")
    return body


def _is_concurrent(inner: Any, kind: str) -> bool:
    match kind:
        case "index_stmt" | "drop_stmt":
            return bool(inner.concurrent)
        case "alter_table_stmt":
            return any(
                item.alter_table_cmd.subtype == pb.AT_DetachPartition
                and getattr(item.alter_table_cmd, "def").partition_cmd.concurrent
                for item in inner.cmds
            )
        case _:
            return False


# --- what the statements declare -----------------------------------------------------------------


@dataclass(slots=True)
class _Draft:
    columns: dict[str, str] = field(default_factory=dict)
    indexes: list[str] = field(default_factory=list)
    constraints: dict[str, str] = field(default_factory=dict)
    foreign_keys: list[DeclaredForeignKey] = field(default_factory=list)


_KINDS = {
    pb.CONSTR_PRIMARY: "primary key",
    pb.CONSTR_UNIQUE: "unique",
    pb.CONSTR_FOREIGN: "foreign key",
    pb.CONSTR_CHECK: "check",
    pb.CONSTR_EXCLUSION: "exclude",
    pb.CONSTR_NOTNULL: "not null",
}


def declared_tables(
    statements: Iterable[Statement], namespace: str = "public"
) -> dict[str, DeclaredTable]:
    """Return the tables of one schema after these statements, by name, in order of creation.

    A bare name belongs to `namespace` until the files set another search_path. Branches of a DO
    block are read as if each of them ran. See `is_complete` for what cannot be known this way.
    """
    reader = _Declarations(namespace)
    for statement in statements:
        reader.apply(statement)
    return {
        name: DeclaredTable(
            name=name,
            columns=dict(draft.columns),
            indexes=tuple(draft.indexes),
            constraints=dict(draft.constraints),
            foreign_keys=tuple(draft.foreign_keys),
        )
        for name, draft in reader.tables.items()
    }


def is_complete(statements: Iterable[Statement]) -> bool:
    """Say whether `declared_tables` saw everything: no dynamic SQL, no extension's tables."""
    for statement in statements:
        if statement.kind == "do_stmt" and _statements_of_do(statement.text) is None:
            return False
        if statement.kind == "create_stmt":
            node = postgast.parse(statement.text).stmts[0].stmt.create_stmt
            if node.HasField("of_typename"):
                return False
    return True


def _statements_of_do(text: str) -> list[str] | None:
    """Return the SQL in a DO block, None where some of it is only made when it runs."""
    options = [arg.def_elem for arg in postgast.parse(text).stmts[0].stmt.do_stmt.args]
    if any(o.defname == "language" and o.arg.string.sval != "plpgsql" for o in options):
        return None
    try:
        trees = postgast.parse_plpgsql(text)
    except postgast.PgQueryError:
        return None  # PostgreSQL will refuse it, with a better message
    nodes = list(_nodes(trees))
    if not nodes or any(key in _UNSEEN for key, _ in nodes):
        return None
    return [
        item["sqlstmt"]["PLpgSQL_expr"]["query"]
        for key, item in nodes
        if key == "PLpgSQL_stmt_execsql"
    ]


_UNSEEN = frozenset({"PLpgSQL_stmt_dynexecute", "PLpgSQL_stmt_perform", "PLpgSQL_stmt_call"})


def _ends_transactions(text: str) -> bool:
    try:
        trees = postgast.parse_plpgsql(text)
    except postgast.PgQueryError:
        return False
    return any(key in {"PLpgSQL_stmt_commit", "PLpgSQL_stmt_rollback"} for key, _ in _nodes(trees))


def _nodes(value: Any) -> Iterator[tuple[str, Any]]:
    """Yield every key of a tree with what it holds, parents first."""
    if isinstance(value, list):
        for item in value:
            yield from _nodes(item)
    elif isinstance(value, dict):
        for key, item in value.items():
            yield key, item
            yield from _nodes(item)


class _Declarations:
    def __init__(self, namespace: str) -> None:
        self.namespace = namespace
        self.current: str | None = namespace
        self.tables: dict[str, _Draft] = {}
        self.statement: Statement | None = None

    def apply(self, statement: Statement) -> None:
        self.statement = statement
        self.read(postgast.parse(statement.text).stmts[0].stmt)

    def read(self, node: Any) -> None:
        kind = node.WhichOneof("node")
        inner = getattr(node, kind)
        match kind:
            case "create_stmt":
                self.create(inner)
            case "alter_table_stmt":
                self.alter(inner)
            case "index_stmt":
                table = self.find(inner.relation)
                if table is not None and inner.idxname and inner.idxname not in table.indexes:
                    table.indexes.append(inner.idxname)
            case "drop_stmt":
                self.drop(inner)
            case "rename_stmt":
                self.rename(inner)
            case "alter_object_schema_stmt":
                if inner.object_type == pb.OBJECT_TABLE:
                    self.move(inner)
            case "create_schema_stmt":
                for element in inner.schema_elts:
                    self.read(element)
            case "variable_set_stmt" if inner.name.lower() == "search_path":
                if inner.kind == pb.VAR_SET_VALUE:
                    self.search([_constant(arg) or "" for arg in inner.args])
                else:
                    self.current = self.namespace
            case "select_stmt":
                call = _set_config(inner)
                if call is not None and call[0].lower() == "search_path":
                    self.search([part.strip().strip('"') for part in call[1].split(",")])
            case "do_stmt":
                assert self.statement is not None
                for text in _statements_of_do(self.statement.text) or ():
                    for raw in postgast.parse(text).stmts:
                        self.read(raw.stmt)

    def search(self, schemas: list[str]) -> None:
        named = [name for name in schemas if name and name not in {"$user", "pg_catalog"}]
        self.current = named[0] if named else None

    def key(self, relation: Any) -> str | None:
        """Return the table's name where it is of our schema."""
        schema = relation.schemaname or self.current
        return str(relation.relname) if schema == self.namespace else None

    def find(self, relation: Any) -> _Draft | None:
        name = self.key(relation)
        return None if name is None else self.tables.get(name)

    def create(self, node: Any) -> None:
        name = self.key(node.relation)
        if name is None or node.relation.relpersistence == "t":
            return
        if name in self.tables:
            if node.if_not_exists:
                return
            assert self.statement is not None
            raise SchemaError(
                f'the table "{name}" is declared twice',
                code="PS200",
                hint="keep one CREATE TABLE, or write IF NOT EXISTS",
                file=self.statement.file,
                line=self.statement.line,
            )
        table = self.tables[name] = _Draft()
        for parent in node.inh_relations:
            found = self.find(parent.range_var)
            if found is not None:
                table.columns.update(found.columns)
        for element in node.table_elts:
            match element.WhichOneof("node"):
                case "column_def":
                    self.column(table, name, element.column_def)
                case "constraint":
                    self.constraint(table, name, element.constraint, None)
                case "table_like_clause":
                    source = self.find(element.table_like_clause.relation)
                    if source is not None:
                        table.columns.update(source.columns)

    def column(self, table: _Draft, name: str, node: Any) -> None:
        table.columns.setdefault(node.colname, _type_name(node.type_name))
        for item in node.constraints:
            self.constraint(table, name, item.constraint, node.colname)

    def constraint(self, table: _Draft, name: str, node: Any, column: str | None) -> None:
        kind = _KINDS.get(node.contype)
        if kind is None:
            return
        if node.conname:
            table.constraints[node.conname] = kind
            if node.indexname in table.indexes:  # ADD … USING INDEX renames the index
                table.indexes.remove(node.indexname)
        if node.contype == pb.CONSTR_FOREIGN:
            own = (column,) if column is not None else _strings(node.fk_attrs)
            schema = node.pktable.schemaname or self.current or self.namespace
            target = str(node.pktable.relname)
            table.foreign_keys.append(
                DeclaredForeignKey(
                    name=node.conname or None,
                    columns=own,
                    ref_table=target if schema == self.namespace else f"{schema}.{target}",
                    ref_columns=_strings(node.pk_attrs),
                )
            )

    def alter(self, node: Any) -> None:
        table = self.find(node.relation)
        if table is None or node.objtype != pb.OBJECT_TABLE:
            return
        name = str(node.relation.relname)
        for item in node.cmds:
            command = item.alter_table_cmd
            definition = getattr(command, "def")
            match command.subtype:
                case pb.AT_AddColumn:
                    if definition.column_def.colname not in table.columns:
                        self.column(table, name, definition.column_def)
                case pb.AT_DropColumn:
                    table.columns.pop(command.name, None)
                    table.foreign_keys = [
                        key for key in table.foreign_keys if command.name not in key.columns
                    ]
                case pb.AT_AlterColumnType:
                    if command.name in table.columns:
                        table.columns[command.name] = _type_name(definition.column_def.type_name)
                case pb.AT_AddConstraint:
                    self.constraint(table, name, definition.constraint, None)
                case pb.AT_DropConstraint:
                    table.constraints.pop(command.name, None)
                    table.foreign_keys = [
                        key for key in table.foreign_keys if key.name != command.name
                    ]

    def drop(self, node: Any) -> None:
        for item in node.objects:
            parts = _strings(item.list.items)
            if not parts or (parts[-2] if parts[1:] else self.current) != self.namespace:
                continue
            if node.remove_type == pb.OBJECT_TABLE:
                self.tables.pop(parts[-1], None)
                for table in self.tables.values():
                    table.foreign_keys = [
                        key for key in table.foreign_keys if key.ref_table != parts[-1]
                    ]
            elif node.remove_type == pb.OBJECT_INDEX:
                for table in self.tables.values():
                    if parts[-1] in table.indexes:
                        table.indexes.remove(parts[-1])

    def rename(self, node: Any) -> None:
        old, new = str(node.relation.relname), str(node.newname)
        table = self.find(node.relation)
        match node.rename_type:
            case pb.OBJECT_TABLE if table is not None:
                self.tables = {new if k == old else k: v for k, v in self.tables.items()}
                for other in self.tables.values():
                    other.foreign_keys = [
                        _replaced(key, ref_table=new) if key.ref_table == old else key
                        for key in other.foreign_keys
                    ]
            case pb.OBJECT_COLUMN if table is not None:
                column = str(node.subname)
                table.columns = {new if k == column else k: v for k, v in table.columns.items()}
                table.foreign_keys = [
                    _replaced(key, columns=tuple(new if c == column else c for c in key.columns))
                    for key in table.foreign_keys
                ]
            case pb.OBJECT_TABCONSTRAINT if table is not None:
                constraint = str(node.subname)
                table.constraints = {
                    new if k == constraint else k: v for k, v in table.constraints.items()
                }
                table.foreign_keys = [
                    _replaced(key, name=new) if key.name == constraint else key
                    for key in table.foreign_keys
                ]
            case pb.OBJECT_INDEX if self.key(node.relation) is not None:
                for other in self.tables.values():
                    other.indexes = [new if name == old else name for name in other.indexes]

    def move(self, node: Any) -> None:
        """ALTER TABLE … SET SCHEMA: into another schema the table is lost to us."""
        name = self.key(node.relation)
        if name is not None and node.newschema != self.namespace:
            self.tables.pop(name, None)


def _replaced(
    key: DeclaredForeignKey,
    *,
    name: str | None = None,
    columns: tuple[str, ...] | None = None,
    ref_table: str | None = None,
) -> DeclaredForeignKey:
    return DeclaredForeignKey(
        name=name or key.name,
        columns=columns or key.columns,
        ref_table=ref_table or key.ref_table,
        ref_columns=key.ref_columns,
    )


def _strings(nodes: Iterable[Any]) -> tuple[str, ...]:
    return tuple(str(node.string.sval) for node in nodes)


def _type_name(node: Any) -> str:
    parts = _strings(node.names)
    bare = parts[1:] if parts[:1] == ("pg_catalog",) else parts
    return ".".join(bare) + "[]" * len(node.array_bounds)
