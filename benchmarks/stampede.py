"""Many callers of one missing key: how many calls are made, and how long until all have their
answer."""

import asyncio
import threading
import time
from typing import Any

from llm_cache_mem import LLMCache

__all__ = ["tasks", "threads"]


def threads(count: int = 1_000) -> None:
    """*count* threads ask for one missing key at once."""
    cache, calls = LLMCache(), []

    def model(messages: Any) -> str:
        calls.append(1)
        time.sleep(0.2)
        return "answer"

    barrier = threading.Barrier(count)

    def ask() -> None:
        barrier.wait()
        cache.get_or_call("question", model)

    began = time.perf_counter()
    workers = [threading.Thread(target=ask) for _ in range(count)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    _report(f"{count:,} threads on one missing key", len(calls), time.perf_counter() - began)


def tasks(count: int = 10_000) -> None:
    """*count* asyncio tasks ask for one missing key at once."""
    cache, calls = LLMCache(), []

    async def model(messages: Any) -> str:
        calls.append(1)
        await asyncio.sleep(0.2)
        return "answer"

    async def main() -> None:
        await asyncio.gather(*(cache.aget_or_call("question", model) for _ in range(count)))

    began = time.perf_counter()
    asyncio.run(main())
    _report(f"{count:,} tasks on one missing key", len(calls), time.perf_counter() - began)


def _report(title: str, calls: int, seconds: float) -> None:
    print(
        f"\n{title}\n  {calls} call, all answered after {seconds:.2f} s   (must be 1:"
        f" {'ok' if calls == 1 else 'NO'})"
    )
