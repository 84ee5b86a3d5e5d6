"""What tests of `verify` break, each with all that is then found."""

from __future__ import annotations

from dataclasses import dataclass

from protocol import World
from verified import key

A, C = (key(w, "account") for w in "ac")
# What no grant gives: to write without foreign keys, and to write to PostgreSQL's catalogue.
FREELY = "SET session_replication_role = replica"
SYSTEM = "SET allow_system_table_mods = on"


@dataclass(frozen=True)
class Case:
    """Statements that break one thing and mend it, on one server, and all that is then found.

    `{check}` stands for the definition of the shard table's CHECK, `{leaf}` for the partition with
    rows, `{next}` for the one of next month.
    """

    name: str
    expected: set[str]
    breaks: tuple[str, ...]
    mends: tuple[str, ...]
    server: str = "core"
    major: int = 15
    table: str = ""  # whose CHECK `{check}` is


def unchecked(table: str, *statements: str) -> tuple[str, ...]:
    """Run statements while a table lacks its CHECK, which then looks as if it had held."""
    name = f"{table}_workspace_check"
    return (
        f"ALTER TABLE {table} DROP CONSTRAINT {name}",
        *statements,
        f"ALTER TABLE {table} ADD CONSTRAINT {name} {{check}} NOT VALID",
        SYSTEM,
        f"UPDATE pg_constraint SET convalidated = true WHERE conname = '{name}'",
    )


def put_back(table: str, name: str, definition: str) -> tuple[str, ...]:
    return (
        f"ALTER TABLE {table} DROP CONSTRAINT IF EXISTS {name}",
        f"ALTER TABLE {table} ADD CONSTRAINT {name} {definition}",
    )


CHECK1 = "account_s1_workspace_check"
EXCLUSION = "DO $$ BEGIN EXECUTE format('ALTER DATABASE %I {}', current_database()); END $$"
ROW = "INSERT INTO account_s1 (id, workspace_id) VALUES (gen_random_uuid(), '{}')"

GUARDED = (
    'ALTER TABLE "user" ENABLE ALWAYS TRIGGER parlant_shard_cascade',
    'ALTER TABLE "user" ENABLE TRIGGER parlant_shard_guard',
)

TRAIL = "ALTER TABLE parlant_shard.audit ENABLE ALWAYS TRIGGER audit_refuse"


def publication(change: str) -> str:
    quoted = change.replace("'", "''").replace("%", "%%")
    return (
        f"DO $$ BEGIN EXECUTE (SELECT format('ALTER PUBLICATION %I {quoted}', pubname) "
        "FROM pg_publication); END $$"
    )


ROWS = (
    Case(
        "a row of another shard",
        {"misplaced-rows core s1 account_s1 c"},
        unchecked("account_s1", ROW.format("c")),
        ("DELETE FROM account_s1 WHERE workspace_id = 'c'",),
        table="account_s1",
    ),
    Case(
        "a row of another shard, where the planner believes every CHECK",
        {"misplaced-rows core s1 account_s1 c"},
        (
            *unchecked("account_s1", ROW.format("c")),
            EXCLUSION.format("SET constraint_exclusion = on"),
        ),
        (
            EXCLUSION.format("RESET constraint_exclusion"),
            "SET constraint_exclusion = off",
            "DELETE FROM account_s1 WHERE workspace_id = 'c'",
        ),
        table="account_s1",
    ),
    Case(
        "a row of nobody, in a partition",
        {"misplaced-rows core s1 log_s1_p z", "parents core s1 log_s1_p z"},
        (
            FREELY,
            *unchecked(
                "log_s1", f"UPDATE log_s1 SET workspace_id = 'z' WHERE id = '{key('a', 'log')}'"
            ),
        ),
        # The planner believes the CHECK, and would not look for the row.
        (
            FREELY,
            "SET constraint_exclusion = off",
            "UPDATE log_s1 SET workspace_id = 'a' WHERE workspace_id = 'z'",
        ),
        table="log_s1",
    ),
    Case(
        "a NULL key",
        {"missing-key core s1 item_s1", "columns core s1 item_s1"},
        (
            "ALTER TABLE item_s1 ALTER workspace_id DROP NOT NULL",
            f"INSERT INTO item_s1 (account_id) VALUES ('{A}')",
        ),
        (
            "DELETE FROM item_s1 WHERE workspace_id IS NULL",
            "ALTER TABLE item_s1 ALTER workspace_id SET NOT NULL",
        ),
    ),
    Case(
        "a NULL key in a column that claims to have none",
        {"missing-key core s1 item_s1"},
        (
            "ALTER TABLE item_s1 ALTER workspace_id DROP NOT NULL",
            f"INSERT INTO item_s1 (account_id) VALUES ('{A}')",
            SYSTEM,
            "UPDATE pg_attribute SET attnotnull = true "
            "WHERE attrelid = 'item_s1'::regclass AND attname = 'workspace_id'",
        ),
        (
            SYSTEM,
            "UPDATE pg_attribute SET attnotnull = false "
            "WHERE attrelid = 'item_s1'::regclass AND attname = 'workspace_id'",
            "DELETE FROM item_s1 WHERE workspace_id IS NULL",
            "ALTER TABLE item_s1 ALTER workspace_id SET NOT NULL",
        ),
    ),
    Case(
        "an empty key",
        {"missing-key core s1 account_s1 ", "parents core s1 account_s1 "},
        (FREELY, *unchecked("account_s1", ROW.format(""))),
        ("DELETE FROM account_s1 WHERE workspace_id = ''",),
        table="account_s1",
    ),
    Case(
        "a NULL in the primary key",
        {
            "missing-key core s1 item_s1 a",
            "keys core s1 item_s1",
            "columns core s1 item_s1",
        },
        (
            "ALTER TABLE item_s1 DROP CONSTRAINT item_pkey_s1",
            "ALTER TABLE item_s1 ALTER id DROP NOT NULL",
            f"INSERT INTO item_s1 (id, workspace_id, account_id) VALUES (NULL, 'a', '{A}')",
        ),
        (
            "DELETE FROM item_s1 WHERE id IS NULL",
            "ALTER TABLE item_s1 ADD CONSTRAINT item_pkey_s1 PRIMARY KEY (id)",
        ),
    ),
    Case(
        "a row outside a CHECK of the application that is NOT VALID",
        {"rows-outside-check core s1 item_s1 a", "not-valid core s1 item_s1"},
        (
            "ALTER TABLE item_s1 DROP CONSTRAINT item_size_check_s1",
            f"UPDATE item_s1 SET size = -1 WHERE id = '{key('a', 'item')}'",
            "ALTER TABLE item_s1 ADD CONSTRAINT item_size_check_s1 CHECK (size >= 0) NOT VALID",
        ),
        (
            "UPDATE item_s1 SET size = 0 WHERE size < 0",
            "ALTER TABLE item_s1 VALIDATE CONSTRAINT item_size_check_s1",
        ),
    ),
    Case(
        "a row outside a CHECK that was dropped",
        {"rows-outside-check east s2 item_s2 c", "keys east s2 item_s2"},
        (
            "ALTER TABLE item_s2 DROP CONSTRAINT item_size_check_s2",
            f"UPDATE item_s2 SET size = -1 WHERE id = '{key('c', 'item')}'",
        ),
        (
            "UPDATE item_s2 SET size = 0 WHERE size < 0",
            "ALTER TABLE item_s2 ADD CONSTRAINT item_size_check_s2 CHECK (size >= 0)",
        ),
        server="east",
    ),
    Case(
        "a row outside a CHECK that its partition alone has",
        {"rows-outside-check core s1 log_s1_p a", "not-valid core s1 log_s1_p"},
        (
            "ALTER TABLE {leaf} ADD CONSTRAINT by_hand CHECK "
            f"(id <> '{key('a', 'log')}') NOT VALID",
        ),
        ("ALTER TABLE {leaf} DROP CONSTRAINT by_hand",),
    ),
    Case(
        "a CHECK on the key that was replaced by a narrower one",
        {"rows-outside-check core s1 account_s1 b", "shard-check core s1 account_s1"},
        put_back("account_s1", CHECK1, "CHECK (workspace_id = 'a') NOT VALID"),
        put_back("account_s1", CHECK1, "{check}"),
        table="account_s1",
    ),
    Case(
        "a child without its parent",
        {"parents core s1 item_s1 a"},
        (FREELY, f"DELETE FROM account_s1 WHERE id = '{A}'"),
        (
            FREELY,
            "INSERT INTO account_s1 (id, workspace_id, creator, tariff) "
            f"VALUES ('{A}', 'a', 'u1', 1)",
        ),
    ),
    Case(
        "a child in another workspace than its parent",
        {"parents core s1 item_s1 b", "parents core s1 log_s1_p a"},
        (FREELY, f"UPDATE item_s1 SET workspace_id = 'b' WHERE id = '{key('a', 'item')}'"),
        (FREELY, f"UPDATE item_s1 SET workspace_id = 'a' WHERE id = '{key('a', 'item')}'"),
    ),
    Case(
        "a reference row that does not exist",
        {"parents east s2 account_s2 c"},
        (FREELY, f"UPDATE account_s2 SET creator = 'nobody' WHERE id = '{C}'"),
        (f"UPDATE account_s2 SET creator = 'u1' WHERE id = '{C}'",),
        server="east",
    ),
    Case(
        "a row of a host table on the same server that does not exist",
        {"parents core s1 account_s1 a"},
        (f"UPDATE account_s1 SET tariff = 99 WHERE id = '{A}'",),
        (f"UPDATE account_s1 SET tariff = 1 WHERE id = '{A}'",),
    ),
    Case(
        "a row of a host table on another server that does not exist",
        {"parents east s2 account_s2 c"},
        (f"UPDATE account_s2 SET tariff = 99 WHERE id = '{C}'",),
        (f"UPDATE account_s2 SET tariff = 1 WHERE id = '{C}'",),
        server="east",
    ),
    Case(
        "a key on two servers",
        {"duplicate-key east s2 account_s2"},
        (f"INSERT INTO account_s2 (id, workspace_id) VALUES ('{A}', 'c')",),
        (f"DELETE FROM account_s2 WHERE id = '{A}'",),
        server="east",
    ),
    Case(
        "a key on two shards of a server",
        {"duplicate-key east s3 account_s3"},
        (f"INSERT INTO account_s3 (id, workspace_id) VALUES ('{C}', 'd')",),
        (f"DELETE FROM account_s3 WHERE id = '{C}'",),
        server="east",
    ),
    Case(
        "a key on two shards, in partitions",
        {"duplicate-key east s3 log_s3"},
        (
            "INSERT INTO log_s3 (id, workspace_id, item_id) "
            f"VALUES ('{key('a', 'log')}', 'd', '{key('d', 'item')}')",
        ),
        (f"DELETE FROM log_s3 WHERE id = '{key('a', 'log')}'",),
        server="east",
    ),
    Case(
        "a key in two partitions of a shard",
        {"duplicate-key core s1 log_s1 a"},
        (
            "INSERT INTO log_s1 (id, workspace_id, item_id, at) "
            f"SELECT '{key('a', 'log')}', 'a', '{key('a', 'item')}', now() + interval '1 month'",
        ),
        (f"DELETE FROM log_s1 WHERE id = '{key('a', 'log')}' AND at > now() + interval '9 days'",),
    ),
    *(
        Case(
            f"a copy of a reference table with {what}",
            {"reference-rows east user"},
            (
                'ALTER TABLE "user" DISABLE TRIGGER USER',
                statement,
                *GUARDED,
            ),
            (
                'ALTER TABLE "user" DISABLE TRIGGER USER',
                """DELETE FROM "user" WHERE id <> 'u1'""",
                """INSERT INTO "user" VALUES ('u2', 'Two')""",
                *GUARDED,
            ),
            server="east",
        )
        for what, statement in (
            ("other contents", """UPDATE "user" SET name = 'x' WHERE id = 'u2'"""),
            ("a row less", """DELETE FROM "user" WHERE id = 'u2'"""),
            ("a row more", """INSERT INTO "user" VALUES ('u3', 'Three')"""),
        )
    ),
    Case(
        "a foreign table that reads another table",
        {
            "foreign-tables core s2 account_s2",
            "federated-rows core account_global c",
            "federated-rows core account_global d",
        },
        ("ALTER FOREIGN TABLE account_s2 OPTIONS (SET table_name 'account_s3')",),
        ("ALTER FOREIGN TABLE account_s2 OPTIONS (SET table_name 'account_s2')",),
    ),
    Case(
        "a view that leaves rows out",
        {
            "federated-views core account_global",
            "federated-rows core account_global a",
            "federated-rows core account_global b",
        },
        (
            "CREATE OR REPLACE VIEW account_global WITH (security_invoker = true) AS "
            "SELECT id, workspace_id, creator, tariff, secret FROM account_s2 UNION ALL "
            "SELECT id, workspace_id, creator, tariff, secret FROM account_s3",
        ),
        (
            "CREATE OR REPLACE VIEW account_global WITH (security_invoker = true) AS "
            "SELECT id, workspace_id, creator, tariff, secret FROM account_s1 UNION ALL "
            "SELECT id, workspace_id, creator, tariff, secret FROM account_s2 UNION ALL "
            "SELECT id, workspace_id, creator, tariff, secret FROM account_s3",
        ),
    ),
    Case(
        "a view with a filter",
        {"federated-views core account_global", "federated-rows core account_global a"},
        (
            "CREATE OR REPLACE VIEW account_global WITH (security_invoker = true) AS "
            "SELECT id, workspace_id, creator, tariff, secret FROM account_s1 "
            "WHERE workspace_id <> 'a' UNION ALL "
            "SELECT id, workspace_id, creator, tariff, secret FROM account_s2 UNION ALL "
            "SELECT id, workspace_id, creator, tariff, secret FROM account_s3",
        ),
        (
            "CREATE OR REPLACE VIEW account_global WITH (security_invoker = true) AS "
            "SELECT id, workspace_id, creator, tariff, secret FROM account_s1 UNION ALL "
            "SELECT id, workspace_id, creator, tariff, secret FROM account_s2 UNION ALL "
            "SELECT id, workspace_id, creator, tariff, secret FROM account_s3",
        ),
    ),
)

HAVE = (
    "(topology, workspace_id, shard) SELECT topology, '{}', '{}' FROM parlant_shard.object LIMIT 1"
)
PLACEMENT = (
    Case(
        "a workspace that the directory lacks",
        {"placement core a"},
        ("DELETE FROM parlant_shard.directory WHERE workspace_id = 'a'",),
        ("INSERT INTO parlant_shard.directory " + HAVE.format("a", "s1"),),
    ),
    Case(
        "a workspace that the directory has elsewhere",
        {"placement core a"},
        ("UPDATE parlant_shard.directory SET shard = 's2' WHERE workspace_id = 'a'",),
        ("UPDATE parlant_shard.directory SET shard = 's1' WHERE workspace_id = 'a'",),
    ),
    Case(
        "a workspace that the topology does not have",
        {"placement core z"},
        ("INSERT INTO parlant_shard.directory " + HAVE.format("z", "s1"),),
        ("DELETE FROM parlant_shard.directory WHERE workspace_id = 'z'",),
    ),
    Case(
        "a placement row too many",
        {"placement east a"},
        ("INSERT INTO parlant_shard.placement " + HAVE.format("a", "s1"),),
        ("DELETE FROM parlant_shard.placement WHERE workspace_id = 'a'",),
        server="east",
    ),
    Case(
        "a placement row of another shard",
        {"placement east c"},
        ("UPDATE parlant_shard.placement SET shard = 's3' WHERE workspace_id = 'c'",),
        ("UPDATE parlant_shard.placement SET shard = 's2' WHERE workspace_id = 'c'",),
        server="east",
    ),
    Case(
        "a placement row that is missing",
        {"placement east c"},
        ("DELETE FROM parlant_shard.placement WHERE workspace_id = 'c'",),
        ("INSERT INTO parlant_shard.placement " + HAVE.format("c", "s2"),),
        server="east",
    ),
    Case(
        "a placement row of another state",
        {"placement east c"},
        ("UPDATE parlant_shard.placement SET state = 'fenced' WHERE workspace_id = 'c'",),
        ("UPDATE parlant_shard.placement SET state = 'active' WHERE workspace_id = 'c'",),
        server="east",
    ),
    Case(
        "a shard on another server",
        {"placement core s2"},
        ("UPDATE parlant_shard.shard SET server = 'core' WHERE shard = 's2'",),
        ("UPDATE parlant_shard.shard SET server = 'east' WHERE shard = 's2'",),
    ),
    Case(
        "another shard map",
        {"shard-map core"},
        ("UPDATE parlant_shard.map SET map = jsonb_set(map, '{shards,s1,workspaces}', '[\"a\"]')",),
        (
            "UPDATE parlant_shard.map SET map = "
            "jsonb_set(map, '{shards,s1,workspaces}', '[\"a\", \"b\"]')",
        ),
    ),
)

VALID = "UPDATE pg_index SET indisvalid = {} WHERE indexrelid = '{}'::regclass"
DEFINITIONS = (
    Case(
        "a CHECK on the key that is missing",
        {"shard-check core s1 account_s1"},
        (f"ALTER TABLE account_s1 DROP CONSTRAINT {CHECK1}",),
        put_back("account_s1", CHECK1, "{check}"),
        table="account_s1",
    ),
    Case(
        "a CHECK on the key of a partitioned table that is missing",
        {"shard-check core s1 log_s1"},
        ("ALTER TABLE log_s1 DROP CONSTRAINT log_s1_workspace_check",),
        put_back("log_s1", "log_s1_workspace_check", "{check}"),
        table="log_s1",
    ),
    Case(
        "a CHECK on the key that is NOT VALID",
        {"shard-check core s1 account_s1"},
        put_back("account_s1", CHECK1, "{check} NOT VALID"),
        put_back("account_s1", CHECK1, "{check}"),
        table="account_s1",
    ),
    Case(
        "a CHECK on the key that is NOT ENFORCED",
        {"shard-check core s1 account_s1"},
        put_back("account_s1", CHECK1, "{check} NOT ENFORCED"),
        put_back("account_s1", CHECK1, "{check}"),
        table="account_s1",
        major=18,
    ),
    Case(
        "a CHECK that is missing where a foreign table has it",
        {"shard-check east s2 item_s2", "foreign-tables core s2 item_s2"},
        ("ALTER TABLE item_s2 DROP CONSTRAINT item_s2_workspace_check",),
        put_back("item_s2", "item_s2_workspace_check", "{check}"),
        server="east",
        table="item_s2",
    ),
    Case(
        "a foreign table without its CHECK",
        {"foreign-tables core s2 item_s2"},
        ("ALTER FOREIGN TABLE item_s2 DROP CONSTRAINT item_s2_workspace_check",),
        ("ALTER FOREIGN TABLE item_s2 ADD CONSTRAINT item_s2_workspace_check {check}",),
        table="item_s2",
    ),
    Case(
        "a foreign table with another CHECK: it hides rows that are there",
        {"foreign-tables core s2 item_s2"},
        put_back("item_s2", "item_s2_workspace_check", "CHECK (workspace_id = 'x')"),
        put_back("item_s2", "item_s2_workspace_check", "{check}"),
        table="item_s2",
    ),
    Case(
        "a column of another type on the remote table",
        {"columns east s2 item_s2", "foreign-tables core s2 item_s2"},
        ("ALTER TABLE item_s2 ALTER note TYPE varchar(200)",),
        ("ALTER TABLE item_s2 ALTER note TYPE text",),
        server="east",
    ),
    Case(
        "a column of a foreign table that reads another one",
        {"foreign-tables core s2 item_s2"},
        ("ALTER FOREIGN TABLE item_s2 ALTER note OPTIONS (ADD column_name 'id')",),
        ("ALTER FOREIGN TABLE item_s2 ALTER note OPTIONS (DROP column_name)",),
    ),
    Case(
        "a foreign server with other options",
        {"foreign-tables core"},
        ("ALTER SERVER parlant_shard_east OPTIONS (SET fetch_size '7')",),
        ("ALTER SERVER parlant_shard_east OPTIONS (SET fetch_size '1000')",),
    ),
    Case(
        "a view that runs as its owner",
        {"federated-views core item_global"},
        ("ALTER VIEW item_global SET (security_invoker = false)",),
        ("ALTER VIEW item_global SET (security_invoker = true)",),
    ),
    Case(
        "a primary key that is missing",
        {"keys east s3 item_s3"},
        ("ALTER TABLE item_s3 DROP CONSTRAINT item_pkey_s3",),
        ("ALTER TABLE item_s3 ADD CONSTRAINT item_pkey_s3 PRIMARY KEY (id)",),
        server="east",
    ),
    Case(
        "a foreign key that is missing",
        {"keys core s1 item_s1"},
        ("ALTER TABLE item_s1 DROP CONSTRAINT item_account_id_fkey_s1",),
        (
            "ALTER TABLE item_s1 ADD CONSTRAINT item_account_id_fkey_s1 FOREIGN KEY "
            "(workspace_id, account_id) REFERENCES account_s1 (workspace_id, id) "
            "ON DELETE CASCADE",
        ),
    ),
    Case(
        "a foreign key that is NOT VALID",
        {"not-valid core s1 item_s1"},
        (
            "ALTER TABLE item_s1 DROP CONSTRAINT item_account_id_fkey_s1",
            "ALTER TABLE item_s1 ADD CONSTRAINT item_account_id_fkey_s1 FOREIGN KEY "
            "(workspace_id, account_id) REFERENCES account_s1 (workspace_id, id) "
            "ON DELETE CASCADE NOT VALID",
        ),
        ("ALTER TABLE item_s1 VALIDATE CONSTRAINT item_account_id_fkey_s1",),
    ),
    Case(
        "a partition without its own key",
        {"partitions core s1 log_s1_p"},
        ("ALTER TABLE {leaf} DROP CONSTRAINT {leaf}_pkey",),
        ("ALTER TABLE {leaf} ADD CONSTRAINT {leaf}_pkey PRIMARY KEY (id)",),
    ),
    Case(
        "a partition without its parent's index",
        {"partitions core s1 log_s1_p", "invalid-indexes core s1 log_s1"},
        (
            "DROP INDEX log_item_idx_s1",
            "CREATE INDEX log_item_idx_s1 ON ONLY log_s1 (item_id, at)",
        ),
        ("DROP INDEX log_item_idx_s1", "CREATE INDEX log_item_idx_s1 ON log_s1 (item_id, at)"),
    ),
    Case(
        "a partition whose CHECK is NOT VALID while its parent's is valid",
        {"partitions core s1 log_s1_p"},
        (
            SYSTEM,
            "UPDATE pg_constraint SET convalidated = false WHERE conrelid = '{leaf}'::regclass "
            "AND conname = 'log_s1_workspace_check'",
        ),
        (
            SYSTEM,
            "UPDATE pg_constraint SET convalidated = true WHERE conrelid = '{leaf}'::regclass "
            "AND conname = 'log_s1_workspace_check'",
        ),
    ),
    Case(
        "a partition with another replica identity",
        {"partitions core s1 log_s1_p"},
        ("ALTER TABLE {leaf} REPLICA IDENTITY FULL",),
        ("ALTER TABLE {leaf} REPLICA IDENTITY DEFAULT",),
    ),
    Case(
        "a partition with row-level security of its own",
        {"partitions core s1 log_s1_p"},
        ("ALTER TABLE {leaf} ENABLE ROW LEVEL SECURITY",),
        ("ALTER TABLE {leaf} DISABLE ROW LEVEL SECURITY",),
    ),
    Case(
        "a partition with a policy of its own",
        {"partitions core s1 log_s1_p"},
        ("CREATE POLICY everybody ON {leaf} USING (true)",),
        ("DROP POLICY everybody ON {leaf}",),
    ),
    Case(
        "a partition that is missing",
        {"partitions core s1 log_s1_p"},
        ("DROP TABLE {next}",),
        ("{create next}", "ALTER TABLE {next} ADD CONSTRAINT {next}_pkey PRIMARY KEY (id)"),
    ),
    Case(
        "row-level security that nobody asked for",
        {"policies core s1 item_s1"},
        ("ALTER TABLE item_s1 ENABLE ROW LEVEL SECURITY",),
        ("ALTER TABLE item_s1 DISABLE ROW LEVEL SECURITY",),
    ),
    Case(
        "a permissive policy for PUBLIC",
        {"policies core s1 item_s1"},
        ("CREATE POLICY parlant_shard_extra ON item_s1 USING (true)",),
        ("DROP POLICY parlant_shard_extra ON item_s1",),
    ),
    *(
        Case(
            f"PUBLIC has {what}",
            {f"grants core {where}"},
            (f"GRANT {right} TO PUBLIC",),
            (f"REVOKE {right} FROM PUBLIC",),
        )
        for what, where, right in (
            ("a shard table", "s1 item_s1", "SELECT ON item_s1"),
            ("a column of one", "s1 item_s1", "UPDATE (note) ON item_s1"),
            ("a partition", "s1 log_s1_p", "SELECT ON {leaf}"),
            ("a foreign table", "s2 item_s2", "SELECT ON item_s2"),
            ("a federated view", "item_global", "SELECT ON item_global"),
            ("our schema", "parlant_shard", "USAGE ON SCHEMA parlant_shard"),
            ("our tables", "parlant_shard.map", "SELECT ON parlant_shard.map"),
            ("a column of ours", "parlant_shard.map", "SELECT (map) ON parlant_shard.map"),
        )
    ),
    Case(
        "PUBLIC has a foreign server",
        {"grants core"},
        ("GRANT USAGE ON FOREIGN SERVER parlant_shard_east TO PUBLIC",),
        ("REVOKE USAGE ON FOREIGN SERVER parlant_shard_east FROM PUBLIC",),
    ),
    *(
        Case(
            f"an INVALID index: {index}",
            {"invalid-indexes core s1 item_s1"},
            (
                SYSTEM,
                f"UPDATE pg_index SET indisvalid = false WHERE indexrelid = '{index}'::regclass",
            ),
            (
                SYSTEM,
                f"UPDATE pg_index SET indisvalid = true WHERE indexrelid = '{index}'::regclass",
            ),
        )
        for index in ("item_note_idx_s1", "item_pkey_s1")
    ),
    Case(
        "a subscription that is disabled",
        {"replication east"},
        ("{subscription} DISABLE",),
        ("{subscription} ENABLE",),
        server="east",
    ),
    Case(
        "a copy without its guard",
        {"replication east user"},
        ('ALTER TABLE "user" DISABLE TRIGGER parlant_shard_guard',),
        ('ALTER TABLE "user" ENABLE TRIGGER parlant_shard_guard',),
        server="east",
    ),
    Case(
        "a foreign key that is NOT ENFORCED",
        {"keys core s1 item_s1"},
        ("ALTER TABLE item_s1 ALTER CONSTRAINT item_account_id_fkey_s1 NOT ENFORCED",),
        ("ALTER TABLE item_s1 ALTER CONSTRAINT item_account_id_fkey_s1 ENFORCED",),
        major=18,
    ),
    Case(
        "foreign keys that are switched off, for children and for parents",
        {"keys core s1 item_s1", "keys core s1 log_s1"},
        ("ALTER TABLE item_s1 DISABLE TRIGGER ALL",),
        ("ALTER TABLE item_s1 ENABLE TRIGGER ALL",),
    ),
    Case(
        "a foreign key that is switched off in a partition",
        {"partitions core s1 log_s1_p"},
        ("ALTER TABLE {leaf} DISABLE TRIGGER ALL",),
        ("ALTER TABLE {leaf} ENABLE TRIGGER ALL",),
    ),
    Case(
        "a foreign key that leaves the workspace out: one thing, said once",
        {"keys core s1 item_s1"},
        put_back(
            "item_s1",
            "item_account_id_fkey_s1",
            "FOREIGN KEY (account_id) REFERENCES account_s1 (id) ON DELETE CASCADE",
        ),
        put_back(
            "item_s1",
            "item_account_id_fkey_s1",
            "FOREIGN KEY (workspace_id, account_id) REFERENCES account_s1 (workspace_id, id) "
            "ON DELETE CASCADE",
        ),
    ),
    Case(
        "a NOT NULL that is NOT VALID",
        {"not-valid core s1 item_s1"},
        (
            "ALTER TABLE item_s1 ALTER workspace_id DROP NOT NULL",
            "ALTER TABLE item_s1 ADD CONSTRAINT later NOT NULL workspace_id NOT VALID",
        ),
        ("ALTER TABLE item_s1 VALIDATE CONSTRAINT later",),
        major=18,
    ),
    Case(
        "a rule on a table",
        {"schema core s1 item_s1"},
        ("CREATE RULE nothing AS ON DELETE TO item_s1 DO INSTEAD NOTHING",),
        ("DROP RULE nothing ON item_s1",),
    ),
    Case(
        "a table that inherits from one",
        {"schema core s1 item_s1"},
        ("CREATE TABLE heir () INHERITS (item_s1)",),
        ("DROP TABLE heir",),
    ),
    Case(
        "the function of the buckets, replaced",
        {"shard-check core"},
        (
            "ALTER FUNCTION parlant_shard.bucket(text) RENAME TO bucket_kept",
            "CREATE FUNCTION parlant_shard.bucket(workspace text) RETURNS int "
            "LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE AS 'SELECT 0'",
        ),
        (
            "DROP FUNCTION parlant_shard.bucket(text)",
            "ALTER FUNCTION parlant_shard.bucket_kept(text) RENAME TO bucket",
        ),
    ),
    Case(
        "the function of the buckets, beside another of its name",
        {"shard-check core"},
        (
            "CREATE FUNCTION parlant_shard.bucket(workspace varchar) RETURNS int "
            "LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE AS 'SELECT 0'",
        ),
        ("DROP FUNCTION parlant_shard.bucket(varchar)",),
    ),
    Case(
        "an audit trail that a rule keeps empty",
        {"audit-trail core"},
        ("CREATE RULE hush AS ON INSERT TO parlant_shard.audit DO INSTEAD NOTHING",),
        ("DROP RULE hush ON parlant_shard.audit",),
    ),
    Case(
        "an audit trail that a trigger keeps empty",
        {"audit-trail core"},
        (
            "CREATE FUNCTION hush() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END'",
            "CREATE TRIGGER a_hush BEFORE INSERT ON parlant_shard.audit "
            "FOR EACH ROW EXECUTE FUNCTION hush()",
        ),
        ("DROP FUNCTION hush() CASCADE",),
    ),
    Case(
        "an audit trail that can be changed",
        {"audit-trail core"},
        ("ALTER TABLE parlant_shard.audit DISABLE TRIGGER audit_refuse",),
        (TRAIL,),
    ),
    Case(
        "an audit trail that was changed",
        {"audit-trail core"},
        (
            "ALTER TABLE parlant_shard.audit DISABLE TRIGGER audit_refuse",
            "UPDATE parlant_shard.audit SET os_host = os_host || '!' WHERE id = 1",
            TRAIL,
        ),
        (
            "ALTER TABLE parlant_shard.audit DISABLE TRIGGER audit_refuse",
            "UPDATE parlant_shard.audit SET os_host = rtrim(os_host, '!') WHERE id = 1",
            TRAIL,
        ),
    ),
    *(
        Case(
            f"a publication {what}",
            {"replication core"},
            (publication(broken),),
            (publication(whole),),
        )
        for what, broken, whole in (
            (
                "of inserts alone",
                "SET (publish = 'insert')",
                "SET (publish = 'insert, update, delete')",
            ),
            (
                "that leaves rows out",
                'SET TABLE public.workspace (id, name), public."user" (id, name) '
                "WHERE (id <> 'u9')",
                'SET TABLE public.workspace (id, name), public."user" (id, name)',
            ),
            (
                "that leaves a column out",
                'SET TABLE public.workspace (id, name), public."user" (id)',
                'SET TABLE public.workspace (id, name), public."user" (id, name)',
            ),
        )
    ),
    Case(
        "PUBLIC may make objects beside the tables",
        {"grants core"},
        ("GRANT CREATE ON SCHEMA public TO PUBLIC",),
        ("REVOKE CREATE ON SCHEMA public FROM PUBLIC",),
    ),
    Case(
        "PUBLIC gets what is made from now on",
        {"grants core"},
        ("ALTER DEFAULT PRIVILEGES IN SCHEMA public GRANT SELECT ON TABLES TO PUBLIC",),
        ("ALTER DEFAULT PRIVILEGES IN SCHEMA public REVOKE SELECT ON TABLES FROM PUBLIC",),
    ),
    Case(
        "an index of the same name with another definition: one thing, said once",
        {"schema core s1 item_s1"},
        ("DROP INDEX item_note_idx_s1", "CREATE INDEX item_note_idx_s1 ON item_s1 (size)"),
        ("DROP INDEX item_note_idx_s1", "CREATE INDEX item_note_idx_s1 ON item_s1 (note)"),
    ),
    Case(
        "an index that is missing",
        {"schema east s2 item_s2"},
        ("DROP INDEX item_note_idx_s2",),
        ("CREATE INDEX item_note_idx_s2 ON item_s2 (note)",),
        server="east",
    ),
)
CASES = (*ROWS, *PLACEMENT, *DEFINITIONS)


def filled_in(world: World, case: Case, statements: tuple[str, ...]) -> list[str]:
    """Put the names and definitions of a cluster in the place of the marks."""
    leaves = world.rows(
        "SELECT c.relname, pg_get_expr(c.relpartbound, c.oid) FROM pg_inherits i "
        "JOIN pg_class c ON c.oid = i.inhrelid WHERE i.inhparent = 'log_s1'::regclass ORDER BY 1"
    )
    now, following = leaves[0], leaves[-1]
    subscription = world.rows(
        "SELECT subname FROM pg_subscription s JOIN pg_database d "
        "ON d.oid = s.subdbid AND d.datname = current_database()",
        server="east",
    )[0][0]
    definition = ""
    if case.table:
        definition = world.value(
            "SELECT pg_get_constraintdef(oid) FROM pg_constraint "
            f"WHERE conrelid = '{case.table}'::regclass AND conname LIKE '%workspace_check'",
            server=case.server,
        )
    values = {
        "{leaf}": now[0],
        "{next}": following[0],
        "{create next}": f"CREATE TABLE {following[0]} PARTITION OF log_s1 {following[1]}",
        "{check}": definition,
        "{subscription}": f"ALTER SUBSCRIPTION {subscription}",
    }
    found = []
    for text in statements:
        statement = text
        for name, value in values.items():
            statement = statement.replace(name, value)
        found.append(statement)
    return found
