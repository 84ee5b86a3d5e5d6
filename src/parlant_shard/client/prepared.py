"""What psycopg believes to be prepared on a server, and when that must not be believed.

psycopg sends a statement by name once it has been run often enough. In a pipeline it notes the
name when the PREPARE is queued, and takes that back after a failure only for a statement that it
has not counted before. So one PREPARE that fails there (a lock timeout, a cancellation, an error
before it in the pipeline) leaves a name that the server does not know, for as long as the
connection lives. And a name whose result got other columns (a column was added under `SELECT *`)
is refused by the server each time.

Both errors come before anything was done, so outside of a transaction the statement may be sent
once more, without the name.
"""

from __future__ import annotations

from collections.abc import Collection
from types import TracebackType
from typing import Any

import psycopg
from psycopg import capabilities

_UNKNOWN_NAME = "26000"
_NOT_SUPPORTED = "0A000"

# Where PostgreSQL refuses a prepared statement whose result has other columns than before. The
# message is translated, the name of the function is not.
_REVALIDATION = "RevalidateCachedQuery"


def is_obsolete(error: BaseException) -> bool:
    """Whether the server does not know, or cannot use any more, what was prepared there."""
    if not isinstance(error, psycopg.Error):
        return False
    if error.sqlstate == _NOT_SUPPORTED:
        return error.diag.source_function == _REVALIDATION
    return error.sqlstate == _UNKNOWN_NAME


def believed(connection: Any) -> frozenset[bytes]:
    """The names of the statements that psycopg takes for prepared."""
    return frozenset(connection._prepared._names.values())


def forget(connection: Any, *, but: Collection[bytes] = ()) -> None:
    """Let psycopg believe in no prepared statement, except for those named.

    psycopg offers no way to say this, hence the private attributes; a test names them. The server
    may still have the statements: psycopg closes them with the next one that it runs. Closing what
    is not there is no error. libpq before 17 cannot, there they stay until the connection ends.
    """
    manager = connection._prepared
    gone = {key: name for key, name in manager._names.items() if name not in but}
    for key in gone:
        del manager._names[key]
    if capabilities.has_send_close_prepared():
        manager._to_flush.extend(gone.values())


class Doubted:
    """A block of statements: if it fails, nothing that was prepared in it is believed.

    However it fails: an error, a cancelled task, Ctrl-C. After an error that says so, nothing
    that was prepared before it is believed either.
    """

    __slots__ = ("_before", "_connection")

    def __init__(self, connection: Any) -> None:
        self._connection = connection
        self._before = believed(connection)

    def __enter__(self) -> Doubted:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if error is not None:
            self.failed(error)

    def failed(self, error: BaseException) -> None:
        """Note an error that does not end the block."""
        forget(self._connection, but=() if is_obsolete(error) else self._before)
