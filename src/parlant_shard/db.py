"""The only module that opens connections: session settings, timeouts, and errors with a hint."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from typing import Any

import psycopg
from psycopg import sql
from psycopg.adapt import AdaptersMap
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from psycopg.postgres import register_default_adapters
from psycopg.pq import TransactionStatus
from psycopg.rows import dict_row

from parlant_shard import canonical, local
from parlant_shard.errors import CannotConnect, PrivilegeError, ServerError
from parlant_shard.sqlfiles import queries
from parlant_shard.topology import Server, Topology

Connection = psycopg.Connection[dict[str, Any]]

# Seconds. Long enough for a server under load, short enough that a dead one is named soon.
CONNECT_TIMEOUT = 10

# One round trip sets them all. Those before the timeouts fix the text that PostgreSQL deparses;
# the timeouts bound what a forgotten or dead session of ours can hold up.
SESSION = {
    "search_path": "",
    "TimeZone": "UTC",
    "DateStyle": "ISO, YMD",
    "IntervalStyle": "postgres",
    "extra_float_digits": "1",
    "quote_all_identifiers": "off",
    "bytea_output": "hex",
    "standard_conforming_strings": "on",
    "client_min_messages": "warning",
    # Whatever the role or the database says: a snapshot from before a lock was granted would miss
    # what was written until then.
    "default_transaction_isolation": "read committed",
    "lock_timeout": "1s",
    "statement_timeout": "60s",
    "idle_in_transaction_session_timeout": "60s",
    # Between two steps, and with the locks in its hands, a session of ours may be idle for minutes.
    "idle_session_timeout": "0",
}

# Retrying may help: a lock was not to be had, a deadlock was broken, or a conflict was detected.
RETRYABLE = frozenset({"55P03", "40P01", "40001"})

# A function, operator, type, table or schema that a name does not lead to.
_NOT_FOUND = frozenset({"42883", "42704", "42P01", "3F000"})
_IN_FUNCTION = re.compile(r"(?:SQL|PL/\w+) function ")
SELF_CONTAINED = (
    "give the function a path of its own (ALTER FUNCTION … SET search_path = …, pg_temp), or write "
    "the schema before each name in the function"
)

_HINTS = {
    "53100": "free disk space on the server, then run the same command again: it resumes",
    "53200": "the server's lock table or memory is full: raise max_locks_per_transaction (restart) "
    "or wait for large transactions to end, then run the same command again",
    "53300": "the server has no free connection slot: raise max_connections or close idle sessions",
    "57P01": "an administrator ended our session; run the same command again: it resumes",
    "57P03": "the server is starting up or shutting down; run the same command again",
    "25006": "this server is read-only (a replica, or default_transaction_read_only): give the "
    "primary's address as admin_dsn",
    "2BP01": "somebody made what depends on it, as the message says: drop or change that (CASCADE "
    "would take it away unseen); then run the same command again",
    "58030": "the server reported an I/O error; look at its log",
}


def conninfo(topology: Topology, server: str) -> str:
    """The conninfo that DDL goes to. Holds a password: never print it."""
    return conninfo_of(topology.servers[server])


def conninfo_of(server: Server) -> str:
    if server.embedded is not None:
        return local.conninfo(server.embedded)
    assert server.admin is not None  # the topology requires dsn or embedded
    return server.admin


def redact(text: str, *secrets: str | None) -> str:
    """Replace passwords in a message of libpq or the server."""
    for secret in secrets:
        if secret:
            # As a word of its own: a password "x" must not blank out every x of a message.
            text = re.sub(rf"(?<!\w){re.escape(secret)}(?!\w)", "***", text)
    return re.sub(r"(password\s*=\s*)('(?:[^'\\]|\\.)*'|\S+)", r"\1***", text)


def connect(dsn: str, *, server: str, application: str = "parlant-shard") -> Connection:
    """Open an autocommit connection with our session settings. Raises CannotConnect (PS401)."""
    connection = bare(dsn, server=server, application=application)
    try:
        _prepare_session(connection)
    except psycopg.Error as error:
        connection.close()
        raise wrap(error, server=server, doing="setting up the session") from error
    return connection


def bare(dsn: str, *, server: str, application: str = "parlant-shard") -> Connection:
    """Open an autocommit connection that nothing is set on.

    `dsn` goes to libpq as it is; but for the encoding, only what it leaves open is added. Raises
    CannotConnect (PS401).
    """
    given = conninfo_to_dict(dsn)
    # Whatever PGCLIENTENCODING, the role or the database say: under SQL_ASCII text comes as bytes.
    extra: dict[str, Any] = {"application_name": application[:63], "client_encoding": "UTF8"}
    if "connect_timeout" not in given:
        extra["connect_timeout"] = CONNECT_TIMEOUT
    # A server that vanishes without a word must not hold a run for the kernel's two hours.
    for key, value in (
        ("keepalives_idle", 15),
        ("keepalives_interval", 5),
        ("keepalives_count", 4),
    ):
        if key not in given:
            extra[key] = value
    try:
        return psycopg.connect(
            make_conninfo(dsn, **extra),
            autocommit=True,
            row_factory=dict_row,
            prepare_threshold=None,
            context=_own_adapters(),
        )
    except psycopg.Error as error:
        raise _cannot_connect(error, dsn, server) from error


@cache
def _own_adapters() -> AdaptersMap:
    """psycopg's adapters, with its own loaders and dumpers for all types that it ships.

    An application may have told psycopg to read jsonb as text, or whatever it likes, for all of its
    process; what we read of our own tables is not for it to change.
    """
    adapters = AdaptersMap(psycopg.adapters)
    register_default_adapters(adapters)
    return adapters


_CAUSES = (
    (r"Connection refused", "connection refused", "start the server, or correct host and port"),
    (
        r"timeout expired|timed out",
        "no answer in time",
        "look for a wrong address or a firewall; connect_timeout says how long we wait",
    ),
    (
        r"failed to resolve|could not translate|Name or service not known",
        "the host name does not resolve",
        "correct the host",
    ),
    (r"No such file or directory", "no server listens on that socket", "start the server"),
    (r"(password authentication failed for user \S+)", None, "correct the password, or .pgpass"),
    (r"(no password supplied)", None, "put the password into the dsn, a service file or .pgpass"),
    (r'(database "[^"]*" does not exist)', None, "create the database, or correct dbname"),
    (r'(role "[^"]*" does not exist)', None, "create the role, or correct user"),
    (r"(no pg_hba.conf entry [^\n]*)", None, "let this host in, in the server's pg_hba.conf"),
    (r"(server does not support SSL[^\n]*)", None, "enable TLS on the server, or set sslmode"),
)


# What psycopg and libpq put before the cause: that it failed, the address, and the severity, which
# is in the server's language and ends with two spaces.
_AROUND = re.compile(
    r"^(?:connection (?:failed|is bad): )?(?:connection to server (?:at|on) .*? failed: )?"
    r"(?:\w+:  )?"
)


def _cannot_connect(error: psycopg.Error, dsn: str, server: str) -> CannotConnect:
    """One line with the address and the cause, instead of libpq's several."""
    given = conninfo_to_dict(dsn)
    address = f"{given.get('host') or given.get('hostaddr') or 'the local socket'}"
    if not address.startswith("/") and given.get("host"):
        address += f":{given.get('port') or 5432}"
    said = redact(str(error), str(given.get("password") or ""))
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    cause = _AROUND.sub("", lines[0]) if lines else "unknown"
    todo = "look at the server's log"
    for pattern, meaning, hint in _CAUSES:
        match = re.search(pattern, said)
        if match:
            cause, todo = meaning or match[1], hint
            break
    return CannotConnect(
        f'cannot connect to server "{server}" at {address}: {cause}',
        code="PS401",
        hint=f"{todo} (dsn or admin_dsn of the server in the topology); nothing was changed by "
        "this attempt",
    )


def _prepare_session(connection: Connection) -> None:
    settings = [
        sql.SQL("pg_catalog.set_config({}, {}, false)").format(name, value)
        for name, value in SESSION.items()
    ]
    connection.execute(sql.SQL("SELECT ") + sql.SQL(", ").join(settings))
    with suppress(psycopg.Error):  # not on every platform
        # The server then notices within a second that we died, even in the middle of a statement.
        connection.execute("SET client_connection_check_interval = '1s'")
    if connection.info.server_version >= 170_000:
        # A role's limit would end an archive or a copy; each statement has a limit of its own.
        connection.execute("SET transaction_timeout = 0")


@contextmanager
def session(
    topology: Topology,
    server: str,
    *,
    application: str = "parlant-shard",
    doing: str = "reading its catalogue",
) -> Iterator[Connection]:
    """Connect to a server of the topology, wrap driver errors, and close at the end.

    `doing` says in a message what went wrong with.
    """
    connection = connect(conninfo(topology, server), server=server, application=application)
    try:
        yield connection
    except psycopg.Error as error:
        raise wrap(
            error,
            server=server,
            doing=doing,
            connection=connection,
            reads=True,
            walled=topology.isolation.rls,
        ) from error
    finally:
        connection.close()


def wrap(
    error: psycopg.Error,
    *,
    server: str,
    doing: str,
    connection: Connection | None = None,
    reads: bool = False,
    walled: bool = False,
) -> ServerError:
    """Turn a driver error into ours: what failed, PostgreSQL's words, and what to do next.

    With the session that failed, a missing right names the role, and the GRANT where it is certain.
    `reads`: on a table it is SELECT that is missing, if the role lacks that. `walled`: rights are
    withheld on purpose, by isolation.rls; none is advised.
    """
    diag = error.diag
    state = error.sqlstate
    said = redact(diag.message_primary or str(error).strip() or type(error).__name__)
    if diag.message_detail and state not in {"23505", "23503", "23514", "23502"}:
        # The detail of a constraint violation quotes the row: that is a tenant's data.
        said += f" ({redact(diag.message_detail)})"
    message = f'server "{server}", {doing}: {said}'
    if state is None:
        return CannotConnect(
            f'server "{server}", {doing}: the connection was lost: {said}',
            code="PS402",
            hint="look whether the server still runs, then run the same command again",
        )
    if state == "42501":
        role = None if connection is None or connection.closed else connection.info.user
        grant = None
        if connection is not None and role is not None and not walled:
            grant = _grant(connection, server, role, diag.message_primary or "", reads=reads)
        otherwise = "connect as a role that may, or grant it"
        if walled:
            otherwise = "connect as a role that may; isolation.rls withholds some rights on purpose"
        return PrivilegeError(
            message if role is None else f'server "{server}", {doing}, as role "{role}": {said}',
            code="PS403",
            hint=diag.message_hint or grant or otherwise,
        )
    if state in RETRYABLE:
        what = "a lock that another session holds was not to be had in time"
        return ServerError(
            f'server "{server}", {doing}: {what if state == "55P03" else said}',
            code="PS404",
            # A prepared transaction holds locks without a session: such rows have no pid.
            hint="`SELECT l.pid, a.state, a.xact_start, l.relation::regclass, l.mode "
            "FROM pg_locks l LEFT JOIN pg_stat_activity a USING (pid) "
            "WHERE l.granted AND l.relation IS NOT NULL ORDER BY a.xact_start` shows the holders, "
            "the oldest first. A holder without a pid is a prepared transaction: `SELECT gid, "
            "owner, database, prepared FROM pg_prepared_xacts` shows those. Then run the same "
            "command again: it resumes",
        )
    if state == "P0001" and diag.context:
        # Raised by a trigger, event trigger or function of the site: say which.
        message += f" ({diag.context.splitlines()[0]})"
    caller = unresolved(error)
    if caller is not None:
        return ServerError(f"{message} [{state}], in {caller}", code="PS405", hint=SELF_CONTAINED)
    hint = _HINTS.get(state) or diag.message_hint
    if hint is None:
        hint = "look at the server's log around this moment for the statement and its context"
    return ServerError(f"{message} [{state}]", code="PS405", hint=hint)


def unresolved(error: psycopg.Error) -> str | None:
    """Name the function that names something which the path does not lead to, if that failed."""
    if error.sqlstate not in _NOT_FOUND:
        return None
    # The first line that names a function; further ones may quote a row.
    lines = (error.diag.context or "").splitlines()
    return next((line for line in lines if _IN_FUNCTION.match(line)), None)


_DENIED = re.compile(
    r"permission denied for (schema|database|foreign server|foreign-data wrapper|table|view"
    r"|materialized view|foreign table) (.+)",
    re.DOTALL,
)


def _grant(connection: Connection, server: str, role: str, said: str, *, reads: bool) -> str | None:
    """The GRANT for what PostgreSQL says is denied; None where that does not tell which it is."""
    match = _DENIED.fullmatch(said)
    if match is None or connection.info.transaction_status is not TransactionStatus.IDLE:
        return None
    kind, name = match[1], match[2]
    right, on = None, f"{kind.upper()} {canonical.quote(name)}"
    try:
        row = connection.execute("SELECT current_user AS role").fetchone()
        if row is None or row["role"] != role:
            return None  # SET ROLE: the right of another one is missing
        match kind:
            case "database":
                right = "CREATE"  # CONNECT it has; where TEMPORARY lacks, the message is another
            case "foreign server" | "foreign-data wrapper":
                right, on = "USAGE", on.replace("FOREIGN-DATA", "FOREIGN DATA")
            case "schema":
                row = connection.execute(queries("rights")["on_schema"], {"name": name}).fetchone()
                right = None if row is None else row["lacks"]
            case _:
                rows = connection.execute(queries("rights")["on_table"], {"name": name}).fetchall()
                if reads and len(rows) == 1 and not rows[0]["readable"]:
                    right = "SELECT"
                    on = f"{canonical.quote(rows[0]['namespace'])}.{canonical.quote(name)}"
    except psycopg.Error:
        return None
    if right is None or name == "signing_key":  # which only its owner may read
        return None
    return (
        f'in database "{connection.info.dbname}" of server "{server}": GRANT {right} ON {on} '
        f"TO {canonical.quote(role)}"
    )


def not_usable(connection: Connection, server: str, owner: str) -> PrivilegeError:
    """The error (PS413) for a role that may not use our schema."""
    return PrivilegeError(
        f'server "{server}": role "{connection.info.user}" may not use schema "parlant_shard" of '
        f'database "{connection.info.dbname}"',
        code="PS413",
        hint=f'connect as "{owner}", who applied the topology before, or as a member of that role',
    )
