"""Random readers of one stream: each that reads on gets the whole of it, whatever the others do."""

import asyncio
import random
import threading
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from threads import WAIT_SECONDS, start

from llm_cache_mem import LLMCache

LENGTH = 12
WHOLE = list(range(LENGTH))


class Provider:
    """Streams numbers; some calls fail, at once or later."""

    def __init__(self, seed: int) -> None:
        self.chance = random.Random(seed)
        self.lock = threading.Lock()
        self.open = 0

    def begin(self) -> int | None:
        """Where this call will fail; None for nowhere."""
        with self.lock:
            self.open += 1
            return self.chance.choice([None, None, None, 0, 5])

    def end(self) -> None:
        with self.lock:
            self.open -= 1

    def create(self, messages: Any, stream: bool, api_key: str) -> Iterator[int]:
        return self._chunks(self.begin())

    def _chunks(self, fails_at: int | None) -> Iterator[int]:
        for number in WHOLE:
            if number == fails_at:
                self.end()
                raise ConnectionError("the line went dead")
            yield number
        self.end()

    async def acreate(self, messages: Any, stream: bool, api_key: str) -> AsyncIterator[int]:
        for number in self._chunks(self.begin()):
            await asyncio.sleep(0)
            yield number


def plans(seed: int) -> list[tuple[str, str, int, float]]:
    """For each reader its question, its key, after how many chunks it leaves, and when it comes."""
    chance = random.Random(seed)
    return [
        (
            chance.choice("xy"),
            chance.choice("ab"),
            chance.choice([1, 4, 100, 100, 100]),
            chance.random(),
        )
        for _ in range(30)
    ]


@pytest.mark.parametrize("seed", range(12))
def test_threads_read_all_of_a_stream_or_an_error(seed: int) -> None:
    provider, cache = Provider(seed), LLMCache(prices={}, ignore=("api_key",), ttl_seconds=60)

    def read(question: str, key: str, leaves_after: int, _: float) -> list[int]:
        came: list[int] = []
        with cache.get_or_call(question, provider.create, stream=True, api_key=key) as stream:
            for chunk in stream:
                came.append(chunk)
                if len(came) == leaves_after:
                    break
        return came

    asked = plans(seed)
    readers = [start(lambda plan=plan: read(*plan)) for plan in asked]
    for (_, _, leaves_after, _), reader in zip(asked, readers, strict=True):
        try:
            came = reader.result(WAIT_SECONDS)
        except ConnectionError:
            continue
        assert came == WHOLE[:leaves_after], f"seed {seed}"
    assert not cache.engine.flights._table._listed, f"seed {seed}"


@pytest.mark.parametrize("seed", range(12))
async def test_tasks_read_all_of_a_stream_or_an_error(seed: int) -> None:
    provider, cache = Provider(seed), LLMCache(prices={}, ignore=("api_key",), ttl_seconds=60)
    chance = random.Random(seed)

    async def read(question: str, key: str, leaves_after: int, late: float) -> list[int]:
        for _ in range(int(late * 20)):
            await asyncio.sleep(0)
        came: list[int] = []
        stream = await cache.aget_or_call(question, provider.acreate, stream=True, api_key=key)
        async with stream:  # type: ignore[attr-defined]  # what the cache returns has it
            async for chunk in stream:
                came.append(chunk)
                if len(came) == leaves_after:
                    break
        return came

    asked = plans(seed)
    readers = [asyncio.create_task(read(*plan)) for plan in asked]
    for _ in range(15):
        await asyncio.sleep(0)
    cancelled = chance.sample(readers, 5)
    for reader in cancelled:
        reader.cancel()
    ended = await asyncio.wait_for(asyncio.gather(*readers, return_exceptions=True), WAIT_SECONDS)
    for (_, _, leaves_after, _), reader, came in zip(asked, readers, ended, strict=True):
        if isinstance(came, ConnectionError) or reader in cancelled:
            continue
        assert came == WHOLE[:leaves_after], f"seed {seed}"
    for _ in range(20):
        await asyncio.sleep(0)
    assert not cache.engine.flights._table._listed, f"seed {seed}"
