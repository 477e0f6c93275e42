"""Rounds of concurrent, cancelled and closed requests: every answer to who asked for it, no hang,
no connection left behind."""

import asyncio
import json
import random
import threading
from contextlib import suppress
from typing import Any

import httpx
import httpx2
import pytest
from http_server import Asked, Provider, Reply

from llm_cache_mem import LLMCache
from llm_cache_mem.http import AsyncCacheTransport, CacheTransport

CHAT = "/v1/chat/completions"
ROUNDS = pytest.mark.parametrize("rounds", [200, pytest.param(2_000, marks=pytest.mark.slow)])


def echo(asked: Asked) -> Reply:
    """What was asked, as a stream or at once, so that a wrong answer shows."""
    said = asked.body["messages"][0]["content"]
    if not asked.body["stream"]:
        choice: dict[str, Any] = {
            "index": 0,
            "finish_reason": "stop",
            "message": {"role": "assistant", "content": said},
        }
        return Reply(
            json.dumps({"object": "chat.completion", "model": "m", "choices": [choice]}).encode()
        )
    events = [{"index": 0, "delta": {"content": said}, "finish_reason": None}] * 5 + [
        {"index": 0, "delta": {}, "finish_reason": "stop"}
    ]
    chunks = [
        json.dumps({"object": "chat.completion.chunk", "model": "m", "choices": [event]}).encode()
        for event in events
    ]
    return Reply(
        b"".join(b"data: %b\n\n" % chunk for chunk in chunks) + b"data: [DONE]\n\n",
        "text/event-stream",
        piece=90,
    )


def body(said: str, *, stream: bool) -> dict[str, Any]:
    return {"model": "m", "stream": stream, "messages": [{"role": "user", "content": said}]}


def check(said: str, content: bytes, *, stream: bool) -> None:
    assert content.count(json.dumps(said).encode()) == (5 if stream else 1), (said, content)
    assert content.count(b'"content":') == (5 if stream else 1)


@ROUNDS
@pytest.mark.timeout(600)
async def test_cancelled_tasks_leave_nothing_behind(server: Provider, rounds: int) -> None:
    seed = random.randrange(1 << 32)
    print("seed", seed)
    chance, cache = random.Random(seed), LLMCache(max_size=None, prices={})
    server.answer = echo
    wrong: list[BaseException] = []
    done = cancelled = 0
    async with httpx2.AsyncClient(
        base_url=server.url, transport=AsyncCacheTransport(cache), timeout=30
    ) as client:

        async def ask(said: str, stream: bool) -> None:
            async with client.stream("POST", CHAT, json=body(said, stream=stream)) as response:
                content = b"".join([chunk async for chunk in response.aiter_bytes()])
            check(said, content, stream=stream)

        for number in range(rounds):
            stream = chance.random() < 0.7
            tasks = [
                asyncio.create_task(ask(f"round {number} {which}", stream))
                for which in ("a", "a", "a", "b")
            ]
            for _ in range(chance.choice((0, 1, 3, 10, 30, 60))):
                await asyncio.sleep(0)
            if chance.random() < 0.3:
                await asyncio.sleep(
                    chance.random() * 0.004
                )  # into the reads: what is awaited there is the network
            for task in chance.sample(tasks, chance.randrange(4)):
                task.cancel()
            await asyncio.wait(tasks, timeout=60)
            assert all(task.done() for task in tasks), "a hang"
            cancelled += sum(task.cancelled() for task in tasks)
            done += sum(not task.cancelled() for task in tasks)
            wrong += [
                error for task in tasks if not task.cancelled() and (error := task.exception())
            ]
        for _ in range(200):
            await asyncio.sleep(0)
        pool = client._transport.wrapped._pool
        assert all(connection.is_idle() for connection in pool.connections)
        assert pool._requests == []
        assert not cache.engine.flights._table._listed
    assert not wrong, wrong[:3]
    print(done, "answered,", cancelled, "cancelled,", server.calls, "calls")
    assert cancelled > rounds / 4
    assert await asyncio.to_thread(server.wait_for_connections, 0)


@ROUNDS
@pytest.mark.timeout(600)
def test_threads_that_close_early_leave_nothing_behind(server: Provider, rounds: int) -> None:
    seed = random.randrange(1 << 32)
    print("seed", seed)
    cache, threads = LLMCache(max_size=None, prices={}), 4
    server.answer = echo
    wrong: list[BaseException] = []
    together = threading.Barrier(threads)
    with httpx.Client(base_url=server.url, transport=CacheTransport(cache), timeout=30) as client:

        def work(which: int) -> None:
            chance = random.Random(seed + which)
            for number in range(rounds):
                stream, said = number % 3 > 0, f"round {number} {'b' if which == 3 else 'a'}"
                try:
                    with suppress(threading.BrokenBarrierError):
                        together.wait(60)
                    with client.stream("POST", CHAT, json=body(said, stream=stream)) as response:
                        if chance.random() < 0.4:
                            next(response.iter_bytes())
                        else:
                            check(said, b"".join(response.iter_bytes()), stream=stream)
                except BaseException as exc:
                    wrong.append(exc)

        workers = [
            threading.Thread(target=work, args=(which,), daemon=True) for which in range(threads)
        ]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join(500)
        assert not any(worker.is_alive() for worker in workers), "a hang"
        assert not wrong, wrong[:3]
        pool: Any = client._transport.wrapped._pool  # type: ignore[attr-defined]
        assert all(connection.is_idle() for connection in pool.connections)
        assert pool._requests == []
        assert not cache.engine.flights._table._listed
    assert server.wait_for_connections(0)
