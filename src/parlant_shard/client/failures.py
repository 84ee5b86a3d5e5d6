"""Errors of the client: ours and psycopg's at once, with a code, a hint, and what became of it.

An application that catches `psycopg.errors.UniqueViolation` goes on catching it; whoever asks for
`ShardError` gets a code and a hint. `diag` and `sqlstate` are those of the original.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import psycopg
from psycopg_pool import PoolTimeout

from parlant_shard import db
from parlant_shard.client import prepared
from parlant_shard.errors import CannotConnect, RoutingError, ShardError
from parlant_shard.router.route import Kind, Route, Unroutable

FENCED = "PS002"
"""SQLSTATE of the fence: the workspace is being moved, or has been."""

UNSIGNED = "PS003"
"""SQLSTATE of a token that row-level security does not believe, or not any more."""

_WORKSPACE_CHECK = "_workspace_check"

# The server is going, gone or not yet there: the session is lost whatever the statement was.
_GOING = frozenset({"57P01", "57P02", "57P03", "57P05"})

_HINTS = {
    "40001": "run the whole transaction again",
    "40P01": "run the whole transaction again",
    "55P03": "another session holds the lock; run it again",
    "57014": "it was cancelled, by statement_timeout as a rule",
    "25006": "the server takes no writes: a copy of a reference table, a read-only connection, or "
    "a server that became a replica",
    "25P02": "an earlier statement of the transaction failed: roll it back",
    "42501": "grant the right to the role of the server's dsn; isolation.rls withholds some on "
    "purpose: send the statement as a role that has it",
    "53300": "the server has no free connection slot: lower max_size, or raise max_connections",
}
_HINTS["42P05"] = (
    "something else prepares statements in the same session: another client of a pooler in "
    "transaction mode, or the application itself; set `prepare_threshold=None`"
)
_AGAIN_AND_AGAIN = (
    "if this error repeats, find what drops prepared statements (DISCARD or DEALLOCATE in the "
    "application, a pooler in transaction mode), or set `prepare_threshold=None`"
)
_BY_CLASS = {
    "22": "correct the value",
    "23": "the row violates a constraint; psycopg's `diag` on this error has the details",
    "42": "correct the statement, or apply the topology where the schema changed",
    "53": "the server lacks memory, disk space or connections",
}


def is_stale(error: psycopg.Error) -> bool:
    """Whether a server said that the workspace is not (or no longer) on that shard."""
    if error.sqlstate == FENCED:
        return True
    name = error.diag.constraint_name or ""
    return error.sqlstate == "23514" and name.endswith(_WORKSPACE_CHECK)


def is_outdated(error: psycopg.Error) -> bool:
    """Whether a table or column is missing: wrong SQL, or a map that is older than the schema."""
    return error.sqlstate in {"42P01", "42703"}


def is_lost(error: psycopg.Error) -> bool:
    """Whether the connection is gone, and with it the answer."""
    state = error.sqlstate
    if state is None:
        return isinstance(error, psycopg.OperationalError) and not isinstance(
            error, psycopg.errors.PipelineAborted
        )
    return state in _GOING or state.startswith("08")


def of_statement(
    error: psycopg.Error,
    *,
    server: str,
    shard: str | None = None,
    writes: bool = True,
    transaction: bool = False,
    sent: bool = False,
) -> ShardError:
    """What a statement ended with. `writes` and `transaction` decide what may have happened.

    `sent` says that more than this one statement may be on its way, if the error is psycopg's own.
    """
    where = f'server "{server}"' + (f', shard "{shard}"' if shard else "")
    said = _said(error)
    if is_lost(error):
        if transaction:
            fate, code = "the transaction was rolled back", "PS639"
            hint = "nothing of the transaction happened; run all of it again"
        elif writes:
            fate, code = "the statement may or may not have happened", "PS638"
            hint = "look whether it did before it is sent again; it was not retried"
        else:
            fate, code = "nothing was changed", "PS639"
            hint = "it was a read: send it again when the server is back"
        return _dual(
            RoutingError, error, f"{where}: the connection was lost, {fate}: {said}", code, hint
        )
    if error.sqlstate is None:
        return _of_psycopg(error, f"{where}: {said}", sent=sent)
    state = error.sqlstate
    if prepared.is_obsolete(error):
        again = "run the transaction again" if transaction else "run it again"
        return _dual(
            RoutingError,
            error,
            f"{where}: {said} [{state}]",
            "PS649",
            f"the statement did not happen; {again}: it is then prepared anew; {_AGAIN_AND_AGAIN}",
        )
    if is_stale(error):
        again = "run the transaction again" if transaction else "try again in a moment"
        return _dual(
            RoutingError,
            error,
            f"{where}: the workspace does not live there, or is being moved: {said}",
            "PS641",
            f"nothing was changed; {again}: the shard map has been read again",
        )
    if state == UNSIGNED:
        return _dual(
            RoutingError,
            error,
            f"{where}: {said}",
            "PS725",
            f"nothing was changed; {error.diag.message_hint or 'look at isolation.key'}",
        )
    todo = error.diag.message_hint or _HINTS.get(state) or _BY_CLASS.get(state[:2])
    return _dual(
        RoutingError,
        error,
        f"{where}: {said} [{state}]",
        "PS640",
        todo or "look at the server's log",
    )


def _of_psycopg(error: psycopg.Error, message: str, *, sent: bool) -> ShardError:
    """What psycopg refused by itself: no server has seen it."""
    if isinstance(error, psycopg.errors.PipelineAborted):
        return _dual(RoutingError, error, f"{message}: {_NOT_RUN[0]}", "PS640", _NOT_RUN[1])
    hint = (
        "correct the values or the call; no server has seen this statement, but statements before "
        "it in the batch or the transaction were sent: roll them back"
        if sent
        else "correct the query or its parameters; nothing was sent"
    )
    return _dual(RoutingError, error, message, "PS646", hint)


_NOT_RUN = (
    "the pipeline failed at this statement or before it",
    "this statement did not happen; the first error of the pipeline says why",
)


def unanswered(error: psycopg.Error, *, server: str) -> ShardError:
    """A pipeline ended before it had an answer for a statement."""
    return _dual(RoutingError, error, f'server "{server}": {_NOT_RUN[0]}', "PS640", _NOT_RUN[1])


def unread(error: psycopg.Error, *, server: str, shard: str | None, stays: bool) -> ShardError:
    """The statement ran, and Python has no value for something that it gave.

    `stays` says that it changed something, and no transaction can take that back.
    """
    where = f'server "{server}"' + (f', shard "{shard}"' if shard else "")
    ran = "the statement ran, and what it changed stays" if stays else "the statement ran"
    return _dual(
        RoutingError,
        error,
        f"{where}: {ran}, but its rows cannot be read: {_said(error)}",
        "PS648",
        "cast the column to text in the statement, or register a psycopg loader for its type",
    )


def of_commit(error: psycopg.Error, *, server: str) -> ShardError:
    """What a COMMIT ended with: the one moment at which nobody can know."""
    if not is_lost(error):
        return of_statement(error, server=server, transaction=True, sent=True)
    return _dual(
        RoutingError,
        error,
        f'server "{server}": the connection was lost during COMMIT, the transaction may or may not '
        f"have been committed: {_said(error)}",
        "PS638",
        "look whether its effects are there before it is run again; it was not retried",
    )


def cannot_connect(error: Exception, *, server: str) -> ShardError:
    """No connection could be opened: nothing was sent."""
    said = db.redact(str(error)).strip().splitlines()
    cause = error if isinstance(error, psycopg.Error) else psycopg.OperationalError(str(error))
    return _dual(
        CannotConnect,
        cause,
        f'server "{server}" cannot be reached: {said[0] if said else type(error).__name__}',
        "PS637",
        "nothing was sent; try again when the server is back, or correct its dsn",
    )


def exhausted(server: str, *, size: int, timeout: float) -> ShardError:
    """All connections of a pool were in use for too long: nothing was sent."""
    return _dual(
        RoutingError,
        PoolTimeout(""),
        f'all {size} connections to server "{server}" were in use for {timeout:g} s',
        "PS636",
        "nothing was sent; raise `max_size`, or hold connections for a shorter time",
    )


def too_old(topology: str, coordinator: str, *, age: float) -> ShardError:
    """The map could not be read for so long that nobody may go by it."""
    return _dual(
        RoutingError,
        psycopg.OperationalError(""),
        f'the shard map of topology "{topology}" could not be refreshed for {age:.0f} s, longer '
        "than map_max_stale allows",
        "PS631",
        f'bring the coordinator "{coordinator}" back; nothing was sent',
    )


def looking_up(server: str, *, timeout: float) -> ShardError:
    """The connection for look-ups of transactions was in use for too long: nothing was sent."""
    return _dual(
        RoutingError,
        PoolTimeout(""),
        f'the look-ups of other transactions on server "{server}" took longer than {timeout:g} s',
        "PS655",
        "nothing was sent, and the transaction goes on; run the statement again, or give the "
        "workspace: then nothing is looked up; pg_stat_activity on that server shows what the "
        "look-ups wait for",
    )


def closed(what: str) -> ShardError:
    return _dual(
        RoutingError,
        psycopg.InterfaceError(""),
        f"the {what} is closed",
        "PS643",
        f"open a new one; nothing was sent through this {what}",
    )


def misused(message: str, hint: str) -> ShardError:
    """A call that cannot be carried out here; nothing was sent."""
    return _dual(RoutingError, psycopg.ProgrammingError(""), message, "PS635", hint)


def held_back(route: Route) -> ShardError:
    """A change of a reference table with the key met only rows that it may not change."""
    named = route.workspaces[0] if route.workspaces else None
    whose = "shared rows, or rows of another workspace" if route.certain else "shared rows"
    if named is None:
        return _dual(
            RoutingError,
            psycopg.errors.InsufficientPrivilege(""),
            f'without a workspace the {route.statement} may not change the rows of "{route.held}" '
            "that it met: they belong to workspaces, or they are shared rows and row-level "
            "security keeps the role from changing them",
            "PS663",
            "nothing was changed; to change rows of a workspace, give the workspace; to change "
            "shared rows, send the statement as the tables' owner",
        )
    return _dual(
        RoutingError,
        psycopg.errors.InsufficientPrivilege(""),
        f'the rows of "{route.held}" that the {route.statement} met are {whose}, and workspace '
        f'"{named}" may change only its own rows',
        "PS663",
        "nothing was changed; to change shared rows, send the statement without a workspace",
    )


def refused(route: Route, code: str, reason: str, hint: str) -> Unroutable:
    """A statement that could be routed, but not here."""
    return Unroutable(
        Route(
            kind=Kind.REFUSED,
            statement=route.statement,
            workspaces=route.workspaces,
            why=route.why,
            writes=route.writes,
            numbered=route.numbered,
            code=code,
            reason=reason,
            hint=hint,
        )
    )


def _said(error: psycopg.Error) -> str:
    """PostgreSQL's own words, in one line, without the row that a constraint quotes."""
    text = error.diag.message_primary or str(error).strip() or type(error).__name__
    return db.redact(" ".join(text.split()))


def _dual(
    base: type[ShardError], error: psycopg.Error, message: str, code: str, hint: str
) -> ShardError:
    both: tuple[Any, Any] = (base, type(error))
    made: ShardError = _class(*both)(message, code=code, hint=hint)
    for name in ("_info", "_encoding", "sqlstate"):
        if hasattr(error, name):
            setattr(made, name, getattr(error, name))
    return made


@cache
def _class(base: Any, cause: Any) -> Any:
    """A class that is both: psycopg's for the application's `except`, ours for code and hint."""
    return type(cause.__name__, (base, cause), {"__module__": __name__, "__doc__": cause.__doc__})
