"""Both routers for one test: the asynchronous one, with each call waited for where it is made."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from parlant_shard import AsyncRouter, Router
from parlant_shard.topology import Topology

BOTH = ["sync", "async"]


class Waited:
    """An asynchronous object as a synchronous one: calls, blocks and iteration are waited for."""

    def __init__(self, runner: asyncio.Runner, real: Any) -> None:
        self._runner, self._asynchronous = runner, real

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._asynchronous, name)
        if not callable(found):
            return found

        def call(*args: Any, **kwargs: Any) -> Any:
            return self._wrapped(found(*args, **kwargs))

        return call

    def _wait(self, awaitable: Any) -> Any:
        async def waited() -> Any:
            return await awaitable

        return self._runner.run(waited())

    def _wrapped(self, answer: Any) -> Any:
        if inspect.isawaitable(answer):
            answer = self._wait(answer)
        if hasattr(answer, "__aenter__") or hasattr(answer, "__aiter__") or is_ours(answer):
            return Waited(self._runner, answer)
        return answer

    def __iter__(self) -> Iterator[Any]:
        async def collected() -> list[Any]:
            return [item async for item in self._asynchronous]

        return iter(self._wait(collected()))

    def __enter__(self) -> Any:
        return self._wrapped(self._wait(self._asynchronous.__aenter__()))

    def __exit__(self, *about: Any) -> bool:
        return bool(self._wait(self._asynchronous.__aexit__(*about)))


def is_ours(answer: Any) -> bool:
    return type(answer).__name__ == "AsyncPipeline"


@contextmanager
def routing(which: str, topology: Topology, **options: Any) -> Iterator[Any]:
    """Give a router, or the asynchronous one behind a synchronous face."""
    if which == "sync":
        with Router(topology, **options) as router:
            yield router
        return
    with asyncio.Runner() as runner:

        async def opened() -> AsyncRouter:
            router = AsyncRouter(topology, **options)
            await router.open()
            return router

        face = Waited(runner, runner.run(opened()))
        try:
            yield face
        finally:
            face.close()
