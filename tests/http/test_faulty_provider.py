"""Under a faulty provider that others wrote (llmock): no broken answer is stored, and every error
reaches the caller."""

import asyncio
import socket
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from time import monotonic, sleep
from typing import Any

import anthropic
import httpx
import openai
import pytest

from llm_cache_mem import CacheMissError, LLMCache, options
from llm_cache_mem.http import cache_client

FAULTS = [
    *("--error-rate", "429=0.08", "--error-rate", "503=0.08", "--error-rate", "500=0.04"),
    *(
        "--stream-fault",
        "truncate=0.15",
        "--stream-fault",
        "disconnect=0.15",
        "--stream-fault",
        "malformed=0.15",
    ),
    *("--stream-fault", "stall=0.05", "--stream-stall-seconds", "0.02"),
]


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


@contextmanager
def llmock(*arguments: str) -> Iterator[str]:
    command, port = Path(sys.executable).with_name("llmock"), free_port()
    if not command.exists():
        pytest.skip("llmock is not installed")
    wanted = [
        str(command),
        "serve",
        "-h",
        "127.0.0.1",
        "-p",
        str(port),
        "--response-style",
        "echo",
        "--log-level",
        "error",
        *arguments,
    ]
    child = subprocess.Popen(wanted, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        deadline = monotonic() + 60
        while True:
            try:
                httpx.get(f"http://127.0.0.1:{port}/", timeout=5)
                break
            except httpx.TransportError:
                assert monotonic() < deadline, "llmock did not start"
                assert child.poll() is None, "llmock ended"
                sleep(0.05)
        yield f"http://127.0.0.1:{port}"
    finally:
        child.terminate()
        child.wait(60)


class Asker:
    """Both SDKs, of which one makes a call: the text of the answer and whether it ended well."""

    def __init__(self, url: str, cache: LLMCache | None = None) -> None:
        gpt: Any = openai.AsyncOpenAI(api_key="k", base_url=f"{url}/v1", max_retries=0, timeout=60)
        claude: Any = anthropic.AsyncAnthropic(
            api_key="k", base_url=f"{url}/anthropic", max_retries=0, timeout=60
        )
        self.gpt, self.claude = (
            (gpt, claude)
            if cache is None
            else (cache_client(gpt, cache), cache_client(claude, cache))
        )

    async def __call__(self, number: int) -> Any:
        said: Any = [
            {
                "role": "user",
                "content": (
                    f"This is call number {number} of many, and all it asks is to be said again."
                ),
            }
        ]
        if number % 4 == 0:
            done = await self.gpt.chat.completions.create(model="gpt-4o", messages=said)
            return done.choices[0].message.content, done.choices[0].finish_reason
        if number % 4 == 1:
            chunks = [
                chunk
                async for chunk in await self.gpt.chat.completions.create(
                    model="gpt-4o", messages=said, stream=True
                )
            ]
            choices = [choice for chunk in chunks for choice in chunk.choices]
            return "".join(choice.delta.content or "" for choice in choices), (
                choices[-1].finish_reason if choices else None
            )
        if number % 4 == 2:
            stream = await self.claude.messages.create(
                model="claude-3-5-sonnet-latest", max_tokens=500, messages=said, stream=True
            )
            text, why = "", None
            async for piece in stream:
                text += getattr(getattr(piece, "delta", None), "text", "")
                why = getattr(getattr(piece, "delta", None), "stop_reason", None) or why
            return text, why
        events = [
            event
            async for event in await self.gpt.responses.create(
                model="gpt-4o", input=said, stream=True
            )
        ]
        text = "".join(
            event.delta for event in events if event.type == "response.output_text.delta"
        )
        return text, events[-1].type if events else None

    async def outcome(self, number: int) -> Any:
        try:
            return await self(number)
        except Exception as exc:
            return type(exc).__name__

    async def all(self, numbers: range) -> list[Any]:
        limit = asyncio.Semaphore(8)

        async def one(number: int) -> Any:
            async with limit:
                return await self.outcome(number)

        return await asyncio.gather(*(one(number) for number in numbers))

    async def close(self) -> None:
        await self.gpt.close()
        await self.claude.close()


@pytest.mark.filterwarnings("ignore:The model .* is deprecated:DeprecationWarning")
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("calls", [80, pytest.param(5_000, marks=pytest.mark.slow)])
async def test_no_broken_answer_is_stored_and_errors_arrive(calls: int) -> None:
    cache = LLMCache(max_size=None, prices={})
    with llmock() as sound, llmock(*FAULTS) as faulty:
        plain, bare, cached = Asker(sound), Asker(faulty), Asker(faulty, cache)
        expected = await plain.all(range(calls))
        found = await cached.all(range(calls))
        without = await bare.all(range(calls)) if calls >= 1_000 else []
        with options(mode="replay"):
            replayed = await cached.all(range(calls))
        for asker in (plain, bare, cached):
            await asker.close()
    whole = [number for number in range(calls) if found[number] == expected[number]]
    stored = [number for number in range(calls) if replayed[number] != CacheMissError.__name__]
    errors, errors_without = (
        Counter(kind for kind in kinds if isinstance(kind, str)) for kinds in (found, without)
    )
    print(
        calls,
        "calls,",
        len(stored),
        "stored,",
        len(whole) - len(stored),
        "whole but not stored; skipped",
        cache.stats().skipped,
    )
    print(
        "errors",
        dict(sorted(errors.items())),
        "without the cache",
        dict(sorted(errors_without.items())),
    )
    assert not any(isinstance(kind, str) for kind in expected)
    assert [replayed[number] for number in stored] == [expected[number] for number in stored], (
        "a broken answer was stored"
    )
    assert set(stored) <= set(whole), "what failed was stored"
    assert len(stored) >= 0.9 * len(whole)
    assert len(errors) >= 3
    if without:  # each kind of error as often as without the cache, within what chance allows
        assert errors.keys() == errors_without.keys()
        for kind, count in errors_without.items():
            assert abs(errors[kind] - count) <= 6 * count**0.5 + 6, kind
