"""COPY through the client: in by way of a staging table, out by way of a routed query."""

from __future__ import annotations

from collections.abc import Iterator
from uuid import UUID

import pytest
from client_world import ACCOUNTS, DDL, SHARDS, applied, fill, lasting_world
from protocol import World, layout
from psycopg import errors
from test_copies import arrived

from parlant_shard import Router, ShardError, Unroutable
from servers import Clusters

LINES = "SELECT note, size, workspace_id FROM {} WHERE note LIKE 'new%' ORDER BY note"
SCHEMA = DDL + (
    "CREATE TABLE shelf (id int GENERATED ALWAYS AS IDENTITY, workspace_id text NOT NULL, "
    "width int DEFAULT 7, double int GENERATED ALWAYS AS (width * 2) STORED, "
    "tint colour, PRIMARY KEY (id));"
)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, clusters: Clusters) -> World:
    found = lasting_world(tmp_path_factory.mktemp("world"), clusters)
    applied(found, layout(SHARDS, ddl=SCHEMA, tables={"country": {"kind": "reference"}}))
    fill(found)
    return found


@pytest.fixture(scope="module")
def router(world: World) -> Iterator[Router]:
    what = layout(SHARDS, ddl=SCHEMA, tables={"country": {"kind": "reference"}})
    with Router(world.load(what), max_size=3, timeout=5) as found:
        yield found


@pytest.fixture(autouse=True)
def _scratch(world: World) -> Iterator[None]:
    yield
    for shard, server in (("s1", "core"), ("s2", "east"), ("s3", "east")):
        world.execute(
            f"DELETE FROM item_{shard} WHERE note LIKE 'new%'",
            f"DELETE FROM account_{shard} WHERE name LIKE 'new%'",
            f"DELETE FROM shelf_{shard}",
            server=server,
        )
    # A row that arrives on east while it is deleted is a serialization failure.
    arrived(world, "SELECT count(*) FROM country", world.value("SELECT count(*) FROM country"))
    world.execute("DELETE FROM country")


def out(router: Router, sql: str, params: object = None, workspace: str | None = "acme") -> str:
    with router.copy(sql, params, workspace=workspace) as copy:  # type: ignore[arg-type]
        return b"".join(map(bytes, copy)).decode()


def test_rows_get_their_workspace_and_the_defaults_of_what_is_not_listed(
    router: Router, world: World
) -> None:
    with router.workspace("acme") as connection:
        with connection.copy("COPY item (account_id, note) FROM STDIN") as copy:
            for n in range(3):
                copy.write_row([ACCOUNTS["acme"], f"new {n}"])
        assert connection.execute("SELECT count(*) FROM item").fetchone() == (5,)
    found = world.rows(LINES.format("item_s2"), server="east")
    assert found == [(f"new {n}", 0, "acme") for n in range(3)]


@pytest.mark.parametrize(
    ("options", "data"),
    [
        ("", f"{ACCOUNTS['acme']}\tnew 1\n"),
        ("WITH (FORMAT csv)", f'{ACCOUNTS["acme"]},"new 1"\n'),
        ("CSV HEADER DELIMITER ';' QUOTE ''''", f"a;b\n{ACCOUNTS['acme']};'new 1'\n"),
        ("(FORMAT csv, NULL 'nil', FORCE_NOT_NULL (note), HEADER true, ENCODING 'UTF8')",
         f"a,b\n{ACCOUNTS['acme']},new 1\n"),
    ],
)  # fmt: skip
def test_options_are_carried_over(router: Router, world: World, options: str, data: str) -> None:
    sql = f"COPY public.item (account_id, note) FROM STDIN {options}"
    with router.copy(sql, workspace="acme") as copy:
        copy.write(data)
    assert world.rows(LINES.format("item_s2"), server="east") == [("new 1", 0, "acme")]


def test_binary(router: Router, world: World) -> None:
    sql = "COPY item (account_id, note, size) FROM STDIN (FORMAT binary)"
    with router.copy(sql, workspace="acme") as copy:
        copy.set_types(["uuid", "varchar", "int4"])
        copy.write_row([UUID(ACCOUNTS["acme"]), "new 1", 5])
    assert world.rows(LINES.format("item_s2"), server="east") == [("new 1", 5, "acme")]
    with router.copy("COPY item (note) TO STDOUT (FORMAT binary)", workspace="acme") as copy:
        copy.set_types(["text"])
        assert sorted(copy.rows())[0] == ("new 1",)


def test_a_listed_key_must_be_the_workspaces(router: Router, world: World) -> None:
    sql = "COPY account (workspace_id, name) FROM STDIN"
    with router.copy(sql, workspace="acme") as copy:
        copy.write("acme\tnew mine\n")
    for other in ("globex", "\\N"):
        with (
            pytest.raises(Unroutable) as refused,
            router.copy(sql, workspace="acme") as copy,
        ):
            copy.write(f"acme\tnew again\n{other}\tnew theirs\n")
        assert refused.value.code == "PS653"
    assert world.rows("SELECT name FROM account_global WHERE name LIKE 'new%'") == [("new mine",)]


def test_identity_generated_and_enum_columns(router: Router, world: World) -> None:
    with router.copy("COPY shelf FROM STDIN", workspace="ws1") as copy:
        copy.write("77\tws1\t3\tred\n")
    with router.copy("COPY shelf (workspace_id, tint) FROM STDIN", workspace="ws1") as copy:
        copy.write("ws1\tgreen\n")
    found = world.rows("SELECT width, double, tint::text FROM shelf_s1 ORDER BY width")
    assert found == [(3, 6, "red"), (7, 14, "green")]


def test_within_a_transaction_it_is_part_of_it(router: Router, world: World) -> None:
    with router.transaction(workspace="acme") as connection:
        for n in range(2):
            with connection.copy("COPY account (name) FROM STDIN") as copy:
                copy.write(f"new {n}\n")
        assert connection.execute("SELECT count(*) FROM account").fetchone() == (3,)
        with pytest.raises(Unroutable) as refused, connection.copy("COPY country FROM STDIN"):
            pass
        assert refused.value.code == "PS616"
    assert world.value("SELECT count(*) FROM account_s2", server="east") == 3

    def broken() -> None:
        with router.transaction(workspace="acme") as connection:
            with connection.copy("COPY account (name) FROM STDIN") as copy:
                copy.write("new lost\n")
            raise KeyError

    with pytest.raises(KeyError):
        broken()
    assert world.value("SELECT count(*) FROM account_s2", server="east") == 3


def test_errors_of_the_rows_and_of_the_block(router: Router, world: World) -> None:
    sql = "COPY item (account_id, size) FROM STDIN"
    for data, kind in (
        ("nonsense\t1\n", errors.InvalidTextRepresentation),
        (f"{ACCOUNTS['globex']}\t1\n", errors.ForeignKeyViolation),
    ):
        with pytest.raises(kind) as refused, router.copy(sql, workspace="acme") as copy:
            copy.write(data)
        assert isinstance(refused.value, ShardError)

    def broken() -> None:
        with router.copy(sql, workspace="acme") as copy:
            copy.write(f"{ACCOUNTS['acme']}\t1\n")
            raise KeyError

    with pytest.raises(KeyError):
        broken()
    assert world.value("SELECT count(*) FROM item_s2", server="east") == 2
    assert router.execute("SELECT count(*) FROM item", workspace="acme").fetchone() == (2,)


def test_a_table_out(router: Router) -> None:
    assert (
        out(router, "COPY item (note, size) TO STDOUT") == "note 1 of acme\t0\nnote 2 of acme\t0\n"
    )
    whole = out(router, "COPY account TO STDOUT WITH (FORMAT csv, HEADER)")
    assert whole == f"id,workspace_id,name,tint\n{ACCOUNTS['acme']},acme,of acme,red\n"


def test_a_query_out(router: Router) -> None:
    sql = "COPY (SELECT note FROM item WHERE note LIKE %s AND size = %s) TO STDOUT -- done"
    assert out(router, sql, ["note 2%", 0]) == "note 2 of acme\n"
    named = (
        "COPY (SELECT note || '%%' FROM item WHERE size = %(s)s ORDER BY 1) "
        "TO STDOUT (DELIMITER '%%')"
    )
    assert out(router, named, {"s": 0}) == "note 1 of acme\\%\nnote 2 of acme\\%\n"
    literal = (
        "COPY (SELECT note || '%' FROM item /* ) */ WHERE (size) = (0) ORDER BY 1\n-- x\n) "
        "TO STDOUT"
    )
    assert out(router, literal) == "note 1 of acme%\nnote 2 of acme%\n"


def test_a_looked_up_row_out(router: Router) -> None:
    sql = "COPY (SELECT note FROM item WHERE account_id = %s ORDER BY 1) TO STDOUT"
    assert out(router, sql, [ACCOUNTS["globex"]], None) == "note 1 of globex\nnote 2 of globex\n"


def test_all_workspaces_out(router: Router) -> None:
    with (
        router.all_workspaces() as connection,
        connection.copy("COPY (SELECT name FROM account ORDER BY 1) TO STDOUT") as copy,
    ):
        assert b"".join(map(bytes, copy)) == b"of acme\nof globex\nof ws1\nof ws2\n"


def test_nothing_goes_into_all_workspaces(router: Router) -> None:
    for table in ("country", "item"):
        with (
            router.all_workspaces() as connection,
            pytest.raises(Unroutable) as refused,
            connection.copy(f"COPY {table} FROM STDIN"),
        ):
            pass
        assert refused.value.code == "PS622"


def test_a_reference_table_goes_in_on_the_coordinator(router: Router, world: World) -> None:
    with router.copy("COPY country FROM STDIN") as copy:
        copy.write("de\tGermany\n")
    assert world.rows("SELECT * FROM country") == [("de", "Germany")]
    assert out(router, "COPY country TO STDOUT", workspace=None) == "de\tGermany\n"


@pytest.mark.parametrize(
    ("sql", "code"),
    [
        ("COPY item FROM '/etc/passwd'", "PS650"),
        ("COPY item TO PROGRAM 'cat'", "PS650"),
        ("COPY item FROM STDIN WHERE size > 1", "PS650"),
        ("COPY (DELETE FROM item RETURNING id) TO STDOUT", "PS650"),
        ("COPY item FROM STDIN; DELETE FROM item", "PS650"),
        ("COPY item FROM", "PS650"),
        ("SELECT 1", "PS650"),
        ("COPY item_s3 FROM STDIN", "PS651"),
        ("COPY item_s3 TO STDOUT", "PS651"),
        ("COPY pg_catalog.pg_authid TO STDOUT", "PS651"),
        ("COPY other.item TO STDOUT", "PS651"),
        ("COPY machine FROM STDIN", "PS651"),
        ("COPY item (secret) FROM STDIN", "PS651"),
        ("COPY item FROM STDIN (FREEZE)", "PS652"),
        ("COPY item FROM STDIN (DEFAULT 'x')", "PS652"),
    ],
)
def test_refusals(router: Router, sql: str, code: str) -> None:
    with (
        pytest.raises(Unroutable) as refused,
        router.workspace("acme") as connection,
        connection.copy(sql),
    ):
        pass
    assert refused.value.code == code, refused.value
    assert refused.value.hint


def test_rows_without_a_workspace_are_refused(router: Router) -> None:
    for workspace in (None, "nobody"):
        with (
            pytest.raises(Unroutable) as refused,
            router.copy("COPY item FROM STDIN", workspace=workspace),
        ):
            pass
        assert refused.value.code == "PS654"


@pytest.mark.parametrize(
    ("sql", "code"),
    [
        ("COPY (SELECT * FROM item_s3) TO STDOUT", "PS603"),
        ("COPY (SELECT * FROM pg_shadow) TO STDOUT", "PS604"),
        ("COPY (SELECT pg_read_file('/etc/passwd')) TO STDOUT", "PS605"),
    ],
)
def test_what_the_query_may_not_is_refused_as_ever(router: Router, sql: str, code: str) -> None:
    with pytest.raises(Unroutable) as refused, router.copy(sql, workspace="acme"):
        pass
    assert refused.value.code == code


def test_execute_does_not_copy(router: Router) -> None:
    with pytest.raises(Unroutable) as refused:
        router.execute("COPY item TO STDOUT", workspace="acme")
    assert refused.value.code == "PS602"
