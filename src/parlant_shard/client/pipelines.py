"""What `connection.pipeline()` gives: psycopg's pipeline, whose errors are ours."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import psycopg

from parlant_shard.client.prepared import Doubted


class _Pipeline:
    def __init__(
        self, real: Any, doubted: Doubted, translated: Callable[[psycopg.Error], Exception]
    ) -> None:
        self._real = real
        self._doubted = doubted
        self._translated = translated

    @property
    def status(self) -> psycopg.pq.PipelineStatus:
        """As libpq has it: ON, or ABORTED between an error and the next `sync`."""
        found: psycopg.pq.PipelineStatus = self._real.status
        return found

    def _failed(self, error: BaseException) -> BaseException:
        self._doubted.failed(error)
        return self._translated(error) if isinstance(error, psycopg.Error) else error


class Pipeline(_Pipeline):
    """A pipeline of a synchronous connection."""

    def sync(self) -> None:
        """Send what is queued, and wait for all answers. Raises the first error among them."""
        try:
            self._real.sync()
        except BaseException as error:
            told = self._failed(error)
            if told is error:
                raise
            raise told from error


class AsyncPipeline(_Pipeline):
    """A pipeline of an asynchronous connection."""

    async def sync(self) -> None:
        """Send what is queued, and wait for all answers. Raises the first error among them."""
        try:
            await self._real.sync()
        except BaseException as error:
            told = self._failed(error)
            if told is error:
                raise
            raise told from error
