"""DDL files: what is kept, what is refused and how, and what the statements declare."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from parlant_shard.ddlfile import (
    CODES,
    DeclaredForeignKey,
    DeclaredTable,
    Statement,
    declared_tables,
    is_complete,
    read_statements,
)
from parlant_shard.errors import SchemaError


def read(text: str) -> tuple[Statement, ...]:
    return read_statements([("ddl.sql", text)])


def texts(text: str) -> list[str]:
    return [statement.text for statement in read(text)]


def refused(text: str) -> SchemaError:
    with pytest.raises(SchemaError) as caught:
        read(text)
    return caught.value


def tables(text: str, namespace: str = "public") -> dict[str, DeclaredTable]:
    return declared_tables(read(text), namespace)


# --- splitting -----------------------------------------------------------------------------------


def test_one_statement_each_with_its_own_line() -> None:
    found = read(
        "-- für alle\n"
        "CREATE TABLE a (\n  id int -- ; no end\n);\n"
        "\n"
        "/* a comment\n   of two lines */\n"
        "CREATE TABLE \"ü;\" (id text DEFAULT ';');;\n"
        "  CREATE FUNCTION f() RETURNS int LANGUAGE sql AS $x$ SELECT 1; $x$;"
        " CREATE TYPE t AS ();\n"
        "CREATE TABLE last (id int)\n"
        "-- the end\n"
    )
    assert [(s.line, s.kind) for s in found] == [
        (2, "create_stmt"),
        (8, "create_stmt"),
        (9, "create_function_stmt"),
        (9, "composite_type_stmt"),
        (10, "create_stmt"),
    ]
    assert found[0].text == "CREATE TABLE a (\n  id int -- ; no end\n)"
    assert found[1].text == "CREATE TABLE \"ü;\" (id text DEFAULT ';')"
    assert found[2].text.endswith("$x$ SELECT 1; $x$")
    assert {s.file for s in found} == {"ddl.sql"}


@pytest.mark.parametrize("text", ["", "\n\n", "-- nothing\n", ";;", "/* nothing */"])
def test_nothing_is_no_mistake(text: str) -> None:
    assert read(text) == ()


def test_several_files_in_their_order(tmp_path: Path) -> None:
    (tmp_path / "b.sql").write_text("CREATE TABLE b ();")
    (tmp_path / "a.sql").write_bytes(b"\xef\xbb\xbf\r\nCREATE TABLE a ();\r\n")
    found = read_statements([tmp_path / "b.sql", tmp_path / "a.sql", ("more", "CREATE TABLE c ()")])
    assert [(s.file, s.line, s.text) for s in found] == [
        (str(tmp_path / "b.sql"), 1, "CREATE TABLE b ()"),
        (str(tmp_path / "a.sql"), 2, "CREATE TABLE a ()"),
        ("more", 1, "CREATE TABLE c ()"),
    ]


@given(st.lists(st.text(st.characters(exclude_characters="\0*/", exclude_categories=("Cs",)))))
def test_comments_of_any_text_change_neither_statements_nor_lines(comments: list[str]) -> None:
    text, lines = "", []
    for number, comment in enumerate(comments):
        text += f"/* {comment} */"
        lines.append(text.count("\n") + 1)
        text += f"CREATE TABLE t{number} (id int);\n"
    found = read(text)
    assert [s.text for s in found] == [f"CREATE TABLE t{n} (id int)" for n in range(len(comments))]
    assert [s.line for s in found] == lines


# --- what is cut out, dropped, refused -----------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("CREATE INDEX CONCURRENTLY i ON t (a)", "CREATE INDEX i ON t (a)"),
        ("create unique index concurrently on t (a)", "create unique index on t (a)"),
        ("CREATE INDEX CONCURRENTLY IF NOT EXISTS i ON t (a)",
         "CREATE INDEX IF NOT EXISTS i ON t (a)"),
        ("CREATE INDEX concurrently\n  i ON t (a)", "CREATE INDEX \n  i ON t (a)"),
        ("DROP INDEX CONCURRENTLY IF EXISTS a.i", "DROP INDEX IF EXISTS a.i"),
        ("ALTER TABLE t DETACH PARTITION p CONCURRENTLY", "ALTER TABLE t DETACH PARTITION p"),
        (
            'CREATE INDEX /* concurrently é */ CONCURRENTLY "CONCURRENTLY" ON t (concurrently(a))',
            'CREATE INDEX /* concurrently é */ "CONCURRENTLY" ON t (concurrently(a))',
        ),
        ('CREATE INDEX "concurrently" ON t (a)', 'CREATE INDEX "concurrently" ON t (a)'),
        (
            'ALTER TABLE "concurrently" DETACH PARTITION "concurrently" CONCURRENTLY',
            'ALTER TABLE "concurrently" DETACH PARTITION "concurrently"',
        ),
    ],
)  # fmt: skip
def test_concurrently_is_cut_out_and_nothing_else(text: str, kept: str) -> None:
    assert texts(f"CREATE TABLE é ();\n{text};\n") == ["CREATE TABLE é ()", kept]


@pytest.mark.parametrize(
    "text",
    [
        "SET search_path = app, public",
        "SELECT pg_catalog.set_config('search_path', '', false)",
        "SELECT set_config('search_path', 'app', true)",
        "SET default_tablespace = ''",
        "SET check_function_bodies = false",
        "SET standard_conforming_strings = on",
        "CREATE EXTENSION IF NOT EXISTS pgcrypto",
        "CREATE TYPE mood AS ENUM ('a')",
        "CREATE MATERIALIZED VIEW v AS SELECT 1",
        "CREATE POLICY p ON t USING (true)",
        "COMMENT ON TABLE t IS 'x'",
        "GRANT SELECT ON t TO app",
        "ALTER TABLE t OWNER TO app",
        "DO $$ BEGIN CREATE TYPE m AS ENUM (); EXCEPTION WHEN duplicate_object THEN NULL; END $$",
        "DROP TABLE IF EXISTS t CASCADE",
    ],
)
def test_definitions_and_their_settings_are_kept(text: str) -> None:
    assert texts(text + ";") == [text]


@pytest.mark.parametrize(
    "text",
    [
        "SET statement_timeout = 0",
        "SET lock_timeout = '5s'",
        "SET idle_in_transaction_session_timeout = 0",
        "SET transaction_timeout = 0",
        "SET client_min_messages = warning",
        "SET row_security = off",
        "SET client_encoding = 'UTF8'",
        "SET client_encoding TO 'utf-8'",
        "SELECT pg_catalog.set_config('lock_timeout', '0', false)",
    ],
)
def test_settings_of_our_own_session_are_dropped(text: str) -> None:
    assert texts(f"{text};\nCREATE TABLE t ();") == ["CREATE TABLE t ()"]


def test_what_pg_dump_writes() -> None:
    dump = """\
--
-- PostgreSQL database dump
--

\\restrict 4TtVbEUq9cQ

-- Dumped from database version 18.1

SET statement_timeout = 0;
SET transaction_timeout = 0;
SET client_encoding = 'UTF8';
SET standard_conforming_strings = on;
SELECT pg_catalog.set_config('search_path', '', false);
SET check_function_bodies = false;
SET row_security = off;
SET default_table_access_method = heap;

CREATE TABLE public.thing (
    id integer NOT NULL,
    workspace_id text
);

ALTER TABLE public.thing OWNER TO app;

ALTER TABLE ONLY public.thing
    ADD CONSTRAINT thing_pkey PRIMARY KEY (id);

\\unrestrict 4TtVbEUq9cQ

"""
    found = read(dump)
    assert [(s.line, s.text.split("\n")[0]) for s in found] == [
        (12, "SET standard_conforming_strings = on"),
        (13, "SELECT pg_catalog.set_config('search_path', '', false)"),
        (14, "SET check_function_bodies = false"),
        (16, "SET default_table_access_method = heap"),
        (18, "CREATE TABLE public.thing ("),
        (23, "ALTER TABLE public.thing OWNER TO app"),
        (25, "ALTER TABLE ONLY public.thing"),
    ]
    assert declared_tables(found) == {
        "thing": DeclaredTable(
            name="thing",
            columns={"id": "int4", "workspace_id": "text"},
            constraints={"thing_pkey": "primary key"},
        )
    }


DATA = "remove it; rows are loaded after `apply`"
ALONE = "remove it: every statement is run on its own"
OUTSIDE = (
    "remove it; databases, roles, tablespaces, servers and replication are not part of the tables'"
    " definition"
)
PARSER = "correct the statement; `psql -f` on an empty database shows the same message"
SCHEMA_ONLY = "dump with pg_dump --schema-only"
REACHES = "reaches outside the database, which is refused in a DDL file"
NOTHING = "is refused in a DDL file: it defines nothing"
PSQL = "remove the line; the statements are not run by psql"
INCLUDE = "list the files under schema.files instead of including them, and remove the line"
OWNER = "remove it: the role of the server's admin_dsn owns the tables"
ROWS = "COPY carries rows, a DDL file holds definitions only"


@pytest.mark.parametrize(
    ("text", "code", "line", "message", "hint"),
    [
        (
            "CREATE TABLE é ();\nCREATE TABLE a (;",
            "PS201",
            2,
            'PostgreSQL\'s parser says: syntax error at or near ";"',
            PARSER,
        ),
        (
            "\nCREATE TABLE a (",
            "PS201",
            2,
            "PostgreSQL's parser says: syntax error at end of input",
            PARSER,
        ),
        (
            "CREATE TABLE a ('",
            "PS201",
            1,
            "PostgreSQL's parser says: unterminated quoted string at or near \"'\"",
            PARSER,
        ),
        ("BEGIN;", "PS202", 1, "BEGIN is refused in a DDL file", ALONE),
        ("START TRANSACTION;", "PS202", 1, "START TRANSACTION is refused in a DDL file", ALONE),
        ("CREATE TABLE a ();\nCOMMIT;", "PS202", 2, "COMMIT is refused in a DDL file", ALONE),
        ("END;", "PS202", 1, "COMMIT is refused in a DDL file", ALONE),
        ("ROLLBACK;", "PS202", 1, "ROLLBACK is refused in a DDL file", ALONE),
        ("ABORT;", "PS202", 1, "ROLLBACK is refused in a DDL file", ALONE),
        ("SAVEPOINT s;", "PS202", 1, "SAVEPOINT is refused in a DDL file", ALONE),
        ("RELEASE s;", "PS202", 1, "RELEASE is refused in a DDL file", ALONE),
        ("ROLLBACK TO s;", "PS202", 1, "ROLLBACK TO is refused in a DDL file", ALONE),
        (
            "PREPARE TRANSACTION 'x';",
            "PS202",
            1,
            "PREPARE TRANSACTION is refused in a DDL file",
            ALONE,
        ),
        ("COMMIT PREPARED 'x';", "PS202", 1, "COMMIT PREPARED is refused in a DDL file", ALONE),
        (
            "SET TRANSACTION READ ONLY;",
            "PS202",
            1,
            "SET TRANSACTION is refused in a DDL file",
            ALONE,
        ),
        (
            "DO $$ BEGIN IF true THEN COMMIT; END IF; END $$",
            "PS202",
            1,
            "COMMIT or ROLLBACK in a DO block is refused in a DDL file",
            ALONE,
        ),
        ("-- é\n\\connect app\n", "PS203", 2, '"\\connect" is a command of psql, not SQL', PSQL),
        (
            "CREATE TABLE a ();\n\\i b.sql\n",
            "PS203",
            2,
            '"\\i" is a command of psql, not SQL',
            INCLUDE,
        ),
        ("SELECT 1 \\gset", "PS203", 1, '"\\gset" is a command of psql, not SQL', PSQL),
        (
            "CREATE TABLE a ();\n-- ü\nCOPY a FROM stdin;\n1\tx\n\\.\n",
            "PS204",
            3,
            ROWS,
            SCHEMA_ONLY,
        ),
        ("COPY a FROM stdin;\n\\.\n", "PS204", 1, ROWS, SCHEMA_ONLY),
        ("COPY a FROM stdin;\n\\N\t'x\n\\.\n", "PS204", 1, ROWS, SCHEMA_ONLY),
        ("COPY a TO '/tmp/x'", "PS204", 1, ROWS, SCHEMA_ONLY),
        ("CREATE DATABASE x", "PS205", 1, f"CREATE DATABASE {REACHES}", OUTSIDE),
        ("DROP DATABASE x", "PS205", 1, f"DROP DATABASE {REACHES}", OUTSIDE),
        ("CREATE ROLE x", "PS205", 1, f"CREATE ROLE {REACHES}", OUTSIDE),
        ("CREATE TABLESPACE x LOCATION '/x'", "PS205", 1, f"CREATE TABLESPACE {REACHES}", OUTSIDE),
        ("CREATE PUBLICATION p", "PS205", 1, f"CREATE PUBLICATION {REACHES}", OUTSIDE),
        (
            "CREATE SUBSCRIPTION s CONNECTION '' PUBLICATION p",
            "PS205",
            1,
            f"CREATE SUBSCRIPTION {REACHES}",
            OUTSIDE,
        ),
        ("DROP PUBLICATION p", "PS205", 1, f"DROP of a publication {REACHES}", OUTSIDE),
        ("COMMENT ON DATABASE x IS ''", "PS205", 1, f"COMMENT of a database {REACHES}", OUTSIDE),
        ("ALTER SYSTEM SET work_mem = 1", "PS205", 1, f"ALTER SYSTEM {REACHES}", OUTSIDE),
        ("ALTER DATABASE x RENAME TO y", "PS205", 1, f"RENAME of a database {REACHES}", OUTSIDE),
        ("GRANT app TO me", "PS205", 1, f"GRANT of a role {REACHES}", OUTSIDE),
        ("SET ROLE app", "PS205", 1, 'setting "role" is refused in a DDL file', OWNER),
        (
            "SELECT set_config('role', 'app', false)",
            "PS205",
            1,
            'setting "role" is refused in a DDL file',
            OWNER,
        ),
        ("INSERT INTO a VALUES (1)", "PS206", 1, f"INSERT {NOTHING}", DATA),
        ("UPDATE a SET b = 1", "PS206", 1, f"UPDATE {NOTHING}", DATA),
        ("DELETE FROM a", "PS206", 1, f"DELETE {NOTHING}", DATA),
        (
            "MERGE INTO a USING b ON true WHEN MATCHED THEN DELETE",
            "PS206",
            1,
            f"MERGE {NOTHING}",
            DATA,
        ),
        ("TRUNCATE a", "PS206", 1, f"TRUNCATE {NOTHING}", DATA),
        ("SELECT pg_catalog.setval('s', 1)", "PS206", 1, f"SELECT {NOTHING}", DATA),
        ("SELECT set_config('search_path', x, false)", "PS206", 1, f"SELECT {NOTHING}", DATA),
        ("SELECT set_config('a.b', '', f())", "PS206", 1, f"SELECT {NOTHING}", DATA),
        (
            "SELECT set_config('search_path', '', false) FROM y",
            "PS206",
            1,
            f"SELECT {NOTHING}",
            DATA,
        ),
        ("SELECT app.set_config('search_path', '', false)", "PS206", 1, f"SELECT {NOTHING}", DATA),
        (
            "SELECT set_config('a.b', '', false) UNION SELECT 'x'",
            "PS206",
            1,
            f"SELECT {NOTHING}",
            DATA,
        ),
        ("SELECT 1 INTO t", "PS206", 1, f"SELECT {NOTHING}", DATA),
        (
            "CREATE TABLE a AS SELECT 1",
            "PS206",
            1,
            "CREATE TABLE AS is refused in a DDL file",
            "declare the columns with CREATE TABLE",
        ),
        ("RESET ALL", "PS206", 1, "RESET ALL is refused in a DDL file", "remove it"),
        ("VACUUM", "PS206", 1, f"VACUUM or ANALYZE {NOTHING}", DATA),
        (
            "SET standard_conforming_strings = off",
            "PS206",
            1,
            "switching standard_conforming_strings off is refused in a DDL file",
            "remove it and write strings with backslashes as E'…'",
        ),
        (
            "SET client_encoding = 'LATIN1'",
            "PS207",
            1,
            'the file asks for the encoding "LATIN1"',
            "save the file as UTF-8 and remove the line",
        ),
        (
            "CREATE TABLE a ();\n\0DROP TABLE a;",
            "PS209",
            2,
            "the file holds a NUL character",
            "save it as plain UTF-8 text",
        ),
    ],
)
def test_what_is_refused(text: str, code: str, line: int, message: str, hint: str) -> None:
    error = refused(text)
    assert (error.code, error.line, error.message, error.hint) == (code, line, message, hint)
    assert error.file == "ddl.sql"
    assert error.exit_code == 4


def test_restrict_is_only_skipped_where_psql_would_read_it() -> None:
    text = "CREATE TABLE a (b text DEFAULT '\n\\restrict x\n');"
    assert texts(text) == [text.removesuffix(";")]
    assert refused("CREATE TABLE a (); \\restrict x").code == "PS203"
    assert refused("\\restricted x").code == "PS203"


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(SchemaError, match="cannot be read: no such file") as caught:
        read_statements([tmp_path / "no.sql"])
    assert caught.value.code == "PS208"
    assert caught.value.hint == "check the path under schema.files and the permissions"


def test_a_file_that_is_not_utf_8(tmp_path: Path) -> None:
    (tmp_path / "a.sql").write_bytes(b"-- one\n-- caf\xe9\n")
    with pytest.raises(SchemaError, match="the file is not UTF-8") as caught:
        read_statements([tmp_path / "a.sql"])
    assert (caught.value.code, caught.value.line) == ("PS209", 2)


def test_codes_have_a_meaning() -> None:
    assert all(code.startswith("PS2") and meaning for code, meaning in CODES.items())


# --- what is declared ----------------------------------------------------------------------------


def test_a_table_with_all_that_belongs_to_it() -> None:
    found = tables(
        """
        CREATE TABLE parent (id uuid PRIMARY KEY, code text CONSTRAINT code_key UNIQUE);
        CREATE TABLE child (
            id serial,
            at timestamp(3) with time zone NOT NULL,
            tags text[],
            kind app.kind,
            "Mixed" numeric(10, 2),
            parent_id uuid CONSTRAINT child_parent REFERENCES parent,
            other int,
            CONSTRAINT child_pk PRIMARY KEY (id),
            CONSTRAINT child_positive CHECK (other > 0),
            FOREIGN KEY (parent_id, other) REFERENCES app.elsewhere (a, b)
        );
        CREATE UNIQUE INDEX child_at ON child (at);
        CREATE INDEX ON child (other);
        """
    )
    assert found["parent"].constraints == {"code_key": "unique"}
    assert found["child"] == DeclaredTable(
        name="child",
        columns={
            "id": "serial",
            "at": "timestamptz",
            "tags": "text[]",
            "kind": "app.kind",
            "Mixed": "numeric",
            "parent_id": "uuid",
            "other": "int4",
        },
        indexes=("child_at",),
        constraints={
            "child_parent": "foreign key",
            "child_pk": "primary key",
            "child_positive": "check",
        },
        foreign_keys=(
            DeclaredForeignKey(name="child_parent", columns=("parent_id",), ref_table="parent"),
            DeclaredForeignKey(
                name=None,
                columns=("parent_id", "other"),
                ref_table="app.elsewhere",
                ref_columns=("a", "b"),
            ),
        ),
    )


def test_changes_of_a_table() -> None:
    found = tables(
        """
        CREATE TABLE a (id int, gone int, kind text);
        CREATE TABLE b (id int);
        ALTER TABLE a ADD COLUMN b_id int CONSTRAINT to_b REFERENCES b, DROP COLUMN gone,
            ALTER COLUMN kind TYPE varchar(10);
        ALTER TABLE ONLY a ADD CONSTRAINT a_key UNIQUE (id), ADD CHECK (id > 0);
        ALTER TABLE a ADD COLUMN IF NOT EXISTS kind int;
        ALTER TABLE IF EXISTS nowhere ADD COLUMN x int;
        CREATE UNIQUE INDEX a_kind ON a (kind);
        ALTER TABLE a ADD CONSTRAINT a_kind_key UNIQUE USING INDEX a_kind;
        """
    )["a"]
    assert found.columns == {"id": "int4", "kind": "varchar", "b_id": "int4"}
    assert found.constraints == {"to_b": "foreign key", "a_key": "unique", "a_kind_key": "unique"}
    assert found.indexes == ()
    assert [key.ref_table for key in found.foreign_keys] == ["b"]


def test_renames() -> None:
    found = tables(
        """
        CREATE TABLE a (id int CONSTRAINT k PRIMARY KEY);
        CREATE TABLE b (a_id int CONSTRAINT f REFERENCES a);
        CREATE INDEX i ON b (a_id);
        ALTER TABLE a RENAME TO c;
        ALTER TABLE b RENAME COLUMN a_id TO c_id;
        ALTER TABLE b RENAME CONSTRAINT f TO g;
        ALTER INDEX i RENAME TO j;
        """
    )
    assert list(found) == ["c", "b"]
    assert found["b"].columns == {"c_id": "int4"}
    assert found["b"].indexes == ("j",)
    assert found["b"].constraints == {"g": "foreign key"}
    assert found["b"].foreign_keys == (
        DeclaredForeignKey(name="g", columns=("c_id",), ref_table="c"),
    )


def test_drops() -> None:
    found = tables(
        """
        CREATE TABLE a (id int);
        CREATE TABLE b (
            a_id int REFERENCES a, c_id int CONSTRAINT f REFERENCES c, d_id int REFERENCES d
        );
        CREATE INDEX i ON b (a_id);
        DROP INDEX public.i;
        DROP TABLE a CASCADE;
        ALTER TABLE b DROP CONSTRAINT f;
        ALTER TABLE b DROP COLUMN d_id;
        CREATE TABLE e (id int);
        ALTER TABLE e SET SCHEMA app;
        """
    )
    assert list(found) == ["b"]
    assert found["b"].foreign_keys == ()
    assert found["b"].indexes == ()


def test_columns_of_others() -> None:
    found = tables(
        """
        CREATE TABLE a (id int, at date) PARTITION BY RANGE (at);
        CREATE TABLE p PARTITION OF a FOR VALUES FROM ('2024-01-01') TO ('2024-02-01');
        CREATE TABLE l (LIKE a INCLUDING ALL, more int);
        CREATE TABLE i (more int) INHERITS (a);
        """
    )
    assert found["p"].columns == {"id": "int4", "at": "date"}
    assert found["l"].columns == found["i"].columns == {"id": "int4", "at": "date", "more": "int4"}


def test_schemas() -> None:
    text = """
        CREATE TABLE one (id int);
        CREATE TABLE app.two (id int);
        CREATE SCHEMA app CREATE TABLE app.six (id int);
        SET search_path TO "$user", pg_catalog, app, public;
        CREATE TABLE three (id int REFERENCES two, x int REFERENCES public.one);
        SELECT pg_catalog.set_config('search_path', '', false);
        CREATE TABLE lost (id int);
        CREATE TABLE public.four (id int);
        RESET search_path;
        CREATE TABLE five (id int);
        CREATE TEMP TABLE temporary (id int);
        """
    assert list(tables(text)) == ["one", "four", "five"]
    # a bare name is of the namespace until the file says otherwise
    found = tables(text, "app")
    assert list(found) == ["one", "two", "six", "three", "five"]
    assert [key.ref_table for key in found["three"].foreign_keys] == ["two", "public.one"]


def test_a_do_block_is_read_into() -> None:
    text = """
        CREATE TABLE a (id int);
        DO $$ BEGIN
            IF NOT EXISTS (SELECT 1 FROM pg_class) THEN
                ALTER TABLE a ADD COLUMN b_id int;
            END IF;
            ALTER TABLE a ADD CONSTRAINT f FOREIGN KEY (b_id) REFERENCES b (id);
        EXCEPTION WHEN duplicate_object THEN NULL;
        END $$;
        """
    assert is_complete(read(text))
    assert tables(text)["a"].columns == {"id": "int4", "b_id": "int4"}
    assert tables(text)["a"].constraints == {"f": "foreign key"}


@pytest.mark.parametrize(
    "text",
    [
        "DO $$ BEGIN EXECUTE 'CREATE TABLE x ()'; END $$",
        "DO $$ BEGIN PERFORM make_tables(); END $$",
        "DO LANGUAGE plpython3u $$ plpy.execute('CREATE TABLE x ()') $$",
        "CREATE TABLE x OF some_type",
    ],
)
def test_what_only_a_server_can_tell(text: str) -> None:
    assert not is_complete(read(text))


def test_a_table_twice() -> None:
    with pytest.raises(SchemaError) as caught:
        tables("CREATE TABLE a ();\nCREATE TABLE public.a (id int);")
    error = caught.value
    assert (error.code, error.line) == ("PS200", 2)
    assert error.message == 'the table "a" is declared twice'
    assert error.hint == "keep one CREATE TABLE, or write IF NOT EXISTS"
    found = tables("CREATE TABLE a (x int); CREATE TABLE IF NOT EXISTS a (id int);")
    assert found["a"].columns == {"x": "int4"}
