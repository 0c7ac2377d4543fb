"""Questions that arrive within moments are answered in one batch."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

from rka_fast.serving.engine import Asked, Engine, Listed


class _Waiting(NamedTuple):
    asked: Asked
    engine: Engine  # by whose numbers it asks, whatever engine has come since
    since: float
    answer: asyncio.Future[Listed]


class Batching:
    """Collects questions and has an engine answer them, a batch at a time, in a thread.

    most: of a batch. wait: seconds that the first of a batch waits for others; what arrives while a
    batch is computed makes the next one. sizes: is told the size of each batch.
    """

    def __init__(self, most: int, wait: float, sizes: Callable[[int], None]) -> None:
        self.most, self.wait, self.sizes = most, wait, sizes

    async def __call__(self, engine: Engine, asked: Asked) -> Listed:
        """The engine's answer."""
        loop = asyncio.get_running_loop()
        waiting = _Waiting(asked, engine, loop.time(), loop.create_future())
        self._queue.put_nowait(waiting)
        return await waiting.answer

    async def __aenter__(self) -> Batching:
        self._queue: asyncio.Queue[_Waiting] = asyncio.Queue()
        self._thread = ThreadPoolExecutor(1, "ranking")
        self._task = asyncio.create_task(self._run())
        return self

    async def __aexit__(self, *_: object) -> None:
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        self._thread.shutdown()

    async def _run(self) -> None:
        while True:
            batch = await self._batch()
            # More than one engine only where another one has just taken over.
            for engine in dict.fromkeys(of.engine for of in batch):
                await self._answer(engine, [of for of in batch if of.engine is engine])

    async def _batch(self) -> list[_Waiting]:
        batch = [await self._queue.get()]
        loop = asyncio.get_running_loop()
        while len(batch) < self.most:
            if not self._queue.empty():
                batch.append(self._queue.get_nowait())
                continue
            left = batch[0].since + self.wait - loop.time()
            try:
                batch.append(await asyncio.wait_for(self._queue.get(), left))
            except asyncio.TimeoutError:
                break
        return batch

    async def _answer(self, engine: Engine, batch: list[_Waiting]) -> None:
        batch = [of for of in batch if not of.answer.done()]  # whose client is gone
        if not batch:
            return
        self.sizes(len(batch))
        loop = asyncio.get_running_loop()
        try:
            found = await loop.run_in_executor(
                self._thread, engine.rank, [of.asked for of in batch]
            )
        except Exception as error:  # for those who asked
            for of in batch:
                if not of.answer.done():
                    of.answer.set_exception(error)
            return
        for of, listed in zip(batch, found, strict=True):
            if not of.answer.done():
                of.answer.set_result(listed)
