"""Map a function over requests: in threads, or in tasks."""

import asyncio
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from queue import SimpleQueue
from threading import Event
from time import perf_counter
from typing import Any, Final

from llm_cache_mem.engine.engine import Engine
from llm_cache_mem.evaluation.calling import Caller
from llm_cache_mem.evaluation.progress import progress_of
from llm_cache_mem.evaluation.reading import check_requests
from llm_cache_mem.evaluation.results import MapResult
from llm_cache_mem.evaluation.run import CHUNK, Item, Outcome, Run, RunSettings

__all__ = ["amap_requests", "map_requests"]

_CHUNK_SECONDS: Final = 0.01
"""For how long requests are collected that a generator takes its time to make."""

_END: Final = object()


def map_requests(
    engine: Engine, fn: Callable[..., Any], requests: Iterable[Any], settings: RunSettings
) -> Iterator[MapResult]:
    """The results of ``fn`` for *requests*, made as they are iterated: see ``LLMCache.map``."""
    if not callable(fn):
        raise TypeError(f"map takes a function, not {type(fn).__name__}")
    check_requests(requests)
    source = iter(requests)
    return _in_threads(Run(engine, fn, settings), source, _length(requests))


def amap_requests(
    engine: Engine,
    fn: Callable[..., Any],
    requests: Iterable[Any] | AsyncIterable[Any],
    settings: RunSettings,
) -> AsyncIterator[MapResult]:
    """``map_requests`` for a coroutine function: see ``LLMCache.amap``."""
    if not callable(fn):
        raise TypeError(f"amap takes a function, not {type(fn).__name__}")
    check_requests(requests)
    source = requests if isinstance(requests, AsyncIterable) else _as_async(iter(requests))
    return _in_tasks(Run(engine, fn, settings), aiter(source), _length(requests))


def _in_threads(run: Run, source: Iterator[Any], total: int | None) -> Iterator[MapResult]:
    caller, stop = Caller(run), Event()
    ended: SimpleQueue[tuple[Item, Outcome]] = SimpleQueue()
    pool = ThreadPoolExecutor(run.settings.concurrency, "llm-cache-mem-map")

    def start(items: list[Item]) -> None:
        for item in items:
            pool.submit(lambda item: ended.put((item, caller.answer(item, stop))), item)

    more = True
    try:
        with progress_of(run, total) as show:
            while True:
                if more and run.has_room:
                    chunk, more = _next_chunk(run, source)
                    start(run.context.run(run.take, chunk))
                    run.context.run(caller.verify)
                while not ended.empty():
                    start(run.context.run(run.finish, *ended.get()))
                waits = not (more and run.has_room)
                for result in run.results():
                    waits = False
                    yield result
                show()
                if waits and not run.in_progress:
                    return
                if waits:
                    start(run.context.run(run.finish, *ended.get()))
    finally:
        stop.set()
        pool.shutdown(cancel_futures=True)  # calls in progress are paid for: their answers count
        run.close()


async def _in_tasks(
    run: Run, source: AsyncIterator[Any], total: int | None
) -> AsyncIterator[MapResult]:
    workers, more = _Workers(run), True
    try:
        with progress_of(run, total) as show:
            while True:
                if more and run.has_room:
                    chunk, more = await _anext_chunk(run, source)
                    await workers.take(chunk)
                workers.finish()
                waits = not (more and run.has_room)
                for result in run.results():
                    waits = False
                    yield result
                show()
                await asyncio.sleep(0)  # a run of hits alone would leave the loop to no other task
                if waits and not run.in_progress:
                    return
                if waits:
                    await workers.wait()
    except asyncio.CancelledError:
        workers.cancel()
        raise
    finally:
        await workers.close()
        run.close()


class _Workers:
    """The tasks that make the calls of *run*."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self._caller = Caller(run)
        self._tasks: list[asyncio.Task[None]] = []
        self._todo: asyncio.Queue[Item | None] = asyncio.Queue()
        self._ended: asyncio.Queue[tuple[Item, Outcome]] = asyncio.Queue()

    async def take(self, chunk: list[Item]) -> None:
        """Answer those of *chunk* that hit, and start calls for the others."""
        run = self._run
        self._start(await run.engine.off_loop(lambda: run.context.run(run.take, chunk)))
        run.context.run(self._caller.averify)

    def finish(self) -> None:
        """Finish all calls that have ended."""
        while not self._ended.empty():
            self._finish(*self._ended.get_nowait())

    async def wait(self) -> None:
        """Wait for a call to end, and finish it."""
        self._finish(*await self._ended.get())

    def cancel(self) -> None:
        """Cancel the calls in progress."""
        for task in self._tasks:
            task.cancel()

    async def close(self) -> None:
        """Start no more calls, and wait for those in progress."""
        while not self._todo.empty():
            self._todo.get_nowait()
        for _ in self._tasks:
            self._todo.put_nowait(None)
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _finish(self, item: Item, outcome: Outcome) -> None:
        self._start(self._run.context.run(self._run.finish, item, outcome))

    def _start(self, items: list[Item]) -> None:
        for item in items:
            self._todo.put_nowait(item)
        while len(self._tasks) < min(self._run.settings.concurrency, self._run.in_progress):
            self._tasks.append(asyncio.create_task(self._work(), context=self._run.context.copy()))

    async def _work(self) -> None:
        while (item := await self._todo.get()) is not None:
            self._ended.put_nowait((item, await self._caller.aanswer(item)))


def _length(requests: Any) -> int | None:
    try:
        return len(requests)
    except TypeError:
        return None


def _next_chunk(run: Run, source: Iterator[Any]) -> tuple[list[Item], bool]:
    """The next requests, and whether there may be more."""
    chunk: list[Item] = []
    began = perf_counter()
    while len(chunk) < CHUNK and (not chunk or perf_counter() - began < _CHUNK_SECONDS):
        found = next(source, _END)
        if found is _END:
            return chunk, False
        chunk.append(run.context.run(run.read, found))
    return chunk, True


async def _anext_chunk(run: Run, source: AsyncIterator[Any]) -> tuple[list[Item], bool]:
    chunk: list[Item] = []
    began = perf_counter()
    while len(chunk) < CHUNK and (not chunk or perf_counter() - began < _CHUNK_SECONDS):
        found = await anext(source, _END)
        if found is _END:
            return chunk, False
        chunk.append(run.context.run(run.read, found))
    return chunk, True


async def _as_async(source: Iterator[Any]) -> AsyncIterator[Any]:
    for request in source:
        yield request
