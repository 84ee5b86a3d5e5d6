"""What a statement answered, kept after the pool took its connection back."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Sequence
from typing import Any

from parlant_shard.client.failures import misused


class Answer:
    """Rows and their description, fetched entirely. Made once, read through a Result.

    `source` is the psycopg cursor, for its description alone: few ask, and making it takes longer
    than routing the statement.
    """

    __slots__ = ("_description", "_source", "has_rows", "rowcount", "rows", "statusmessage")

    def __init__(
        self, source: Any, rows: list[Any] | None, rowcount: int, statusmessage: str | None
    ) -> None:
        self._source = source
        self._description: list[Any] | None = None
        self.has_rows = rows is not None
        self.rows: list[Any] = rows or []
        self.rowcount = rowcount
        self.statusmessage = statusmessage

    @property
    def description(self) -> list[Any] | None:
        source = self._source
        if source is not None and self.has_rows:
            self._description = list(source.description or ())
            self._source = None
        return self._description


def joined(answers: Sequence[Answer]) -> Answer:
    """The rows of several shards, one shard after the other."""
    if len(answers) == 1:
        return answers[0]
    total = sum(a.rowcount for a in answers)
    verb = (answers[0].statusmessage or "").partition(" ")[0]
    return Answer(
        answers[0],
        [row for a in answers for row in a.rows] if answers[0].has_rows else None,
        total,
        f"{verb} {total}" if verb else None,
    )


class _Reader:
    """A position in an answer."""

    def __init__(self, answer: Answer) -> None:
        self._answer = answer
        self._at = 0

    def _rows(self) -> list[Any]:
        answer = self._answer
        if not answer.has_rows:
            raise misused(
                "the last statement produced no rows "
                f"(command status: {answer.statusmessage or 'none'})",
                "add RETURNING, or read `rowcount`",
            )
        return answer.rows

    def _one(self) -> Any | None:
        rows = self._rows()
        if self._at >= len(rows):
            return None
        self._at += 1
        return rows[self._at - 1]

    def _many(self, size: int) -> list[Any]:
        found = self._rows()[self._at : self._at + max(0, size)]
        self._at += len(found)
        return found

    def _all(self) -> list[Any]:
        found = self._rows()[self._at :]
        self._at += len(found)
        return found


class Result(_Reader):
    """The result of a synchronous `execute`, shaped as a psycopg cursor after it."""

    arraysize = 1

    @property
    def description(self) -> list[Any] | None:
        return self._load().description

    @property
    def rowcount(self) -> int:
        return self._load().rowcount

    @property
    def rownumber(self) -> int | None:
        return self._at if self._load().has_rows else None

    @property
    def statusmessage(self) -> str | None:
        return self._load().statusmessage

    def fetchone(self) -> Any | None:
        self._load()
        return self._one()

    def fetchmany(self, size: int = 0) -> list[Any]:
        self._load()
        return self._many(size or self.arraysize)

    def fetchall(self) -> list[Any]:
        self._load()
        return self._all()

    def __iter__(self) -> Iterator[Any]:
        self._load()
        self._rows()
        while self._at < len(self._answer.rows):
            yield self._one()

    def _load(self) -> Answer:
        return self._answer


class AsyncResult(_Reader):
    """The result of an asynchronous `execute`: fetching is awaited, as with psycopg."""

    arraysize = 1

    @property
    def description(self) -> list[Any] | None:
        found: list[Any] | None = self._about().description
        return found

    @property
    def rowcount(self) -> int:
        return int(self._about().rowcount)

    @property
    def rownumber(self) -> int | None:
        return self._at if self._about().description is not None else None

    @property
    def statusmessage(self) -> str | None:
        found: str | None = self._about().statusmessage
        return found

    def _about(self) -> Any:
        """What describes the result: in a pipeline that has not been read, psycopg's cursor."""
        return self._answer

    async def fetchone(self) -> Any | None:
        await self._load()
        return self._one()

    async def fetchmany(self, size: int = 0) -> list[Any]:
        await self._load()
        return self._many(size or self.arraysize)

    async def fetchall(self) -> list[Any]:
        await self._load()
        return self._all()

    async def __aiter__(self) -> AsyncIterator[Any]:
        await self._load()
        self._rows()
        while self._at < len(self._answer.rows):
            yield self._one()

    async def _load(self) -> Answer:
        return self._answer


NOT_YET = Answer(None, None, -1, None)
"""What an asynchronous result says of itself before a pipeline has answered."""

NOTHING = Answer(None, None, 0, None)
"""The answer of a batch without parameters."""
