"""``python -m benchmarks layers``: what a hit costs through each layer, beside what is around it: an
SDK's own pipeline, LangChain's InMemoryCache, a stream that is not cached. Nothing waits for a
network, so CPU time says it all."""

import asyncio
import random
from collections.abc import Awaitable, Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from benchmarks.harness import Variant, Work, compare, show
from benchmarks.http_layer import ANSWER, EVENTS
from benchmarks.peers.timed import anew, folder
from benchmarks.workload import request
from llm_cache_mem import LLMCache

__all__ = ["layers"]

_SIZES = ("S", "M", "L")
_ENTRIES = {"S": 20, "M": 20, "L": 5}
_ROUNDS = 21


def layers() -> None:
    """Hits through the OpenAI SDK, ``get_or_call``, LangChain and SQLite."""
    with folder() as path, asyncio.Runner() as runner:
        for size in _SIZES:
            _openai(size)
            _langchain(size, path, runner)
        _streams(path, runner)


def _asked(size: str) -> dict[str, Any]:
    """A stored request, built anew, as Chat Completions takes it."""
    asked = anew(request(size, random.randrange(_ENTRIES[size])))
    return {**asked, "model": "gpt-4o-mini"}


def _variant(name: str, call: Callable[[dict[str, Any]], object], size: str) -> Variant:
    return Variant(name, _batch(call, size))


def _batch(call: Callable[[dict[str, Any]], object], size: str) -> Callable[[], Sequence[Work]]:
    for number in range(_ENTRIES[size]):
        call({**anew(request(size, number)), "model": "gpt-4o-mini"})
    return lambda: [lambda a=_asked(size): call(a) for _ in range(_ENTRIES[size])]  # type: ignore[misc]


def _awaited(
    name: str, call: Callable[[dict[str, Any]], Awaitable[object]], size: str, run: asyncio.Runner
) -> Variant:
    """The same, one after the other in an event loop that runs already."""

    async def each(asked: Sequence[dict[str, Any]]) -> None:
        for one in asked:
            await call(one)

    run.run(
        each([{**anew(request(size, n)), "model": "gpt-4o-mini"} for n in range(_ENTRIES[size])])
    )

    def prepare() -> Sequence[Work]:
        asked = [_asked(size) for _ in range(_ENTRIES[size])]
        return [lambda: run.run(each(asked))]

    return Variant(name, prepare, _ENTRIES[size])


def _openai(size: str) -> None:
    import httpx2
    from openai import OpenAI

    from llm_cache_mem.http import cache_client

    transport = httpx2.MockTransport(
        lambda asked: httpx2.Response(
            200, content=ANSWER, headers={"content-type": "application/json"}
        )
    )
    with ExitStack() as stack:
        bare, other, sdk = [
            stack.enter_context(
                OpenAI(api_key="none", http_client=httpx2.Client(transport=transport))
            )
            for _ in range(3)
        ]
        cached: Any = cache_client(other, LLMCache())
        cache = LLMCache()
        create: Any = sdk.chat.completions.create
        variants = [
            _variant("the SDK alone", lambda a: bare.chat.completions.create(**a), size),
            _variant("cache_client", lambda a: cached.chat.completions.create(**a), size),
            _variant("get_or_call", lambda a: cache.get_or_call(fn=create, **a), size),
        ]
        show(f"a hit through the OpenAI SDK, {size}", compare(variants, _ROUNDS))


def _langchain(size: str, path: Path, runner: asyncio.Runner) -> None:
    from langchain_core.caches import InMemoryCache
    from langchain_core.messages import AIMessage, BaseMessage, HumanMessage
    from langchain_llm_cache_mem import LLMCacheMem, cached

    from benchmarks.langchain_hit import Model

    def messages(asked: dict[str, Any]) -> list[BaseMessage]:
        return [
            (AIMessage if message["role"] == "assistant" else HumanMessage)(message["content"])
            for message in asked["messages"]
        ]

    ours, disk = LLMCacheMem(), LLMCacheMem(backend=path / f"langchain-{size}.db")
    kinds: dict[str, Any] = {
        "InMemoryCache": Model(cache=InMemoryCache()),
        "LLMCacheMem": Model(cache=ours),
        "cached(model)": cached(Model(cache=False), LLMCacheMem()),
    }
    variants = [
        _variant(name, lambda a, m=model: m.invoke(messages(a)), size)  # type: ignore[misc]
        for name, model in kinds.items()
    ]
    show(f"invoke that hits, {size}", compare(variants, _ROUNDS), 1.0, "LLMCacheMem")
    kinds["LLMCacheMem on SQLite"] = Model(cache=disk)
    variants = [
        _awaited(name, lambda a, m=model: m.ainvoke(messages(a)), size, runner)  # type: ignore[misc]
        for name, model in kinds.items()
    ]
    show(f"ainvoke that hits, {size}", compare(variants, _ROUNDS))


def _streams(path: Path, runner: asyncio.Runner) -> None:
    import httpx2
    from openai import AsyncOpenAI

    from llm_cache_mem.http import cache_client

    transport = httpx2.MockTransport(
        lambda asked: httpx2.Response(
            200, content=b"".join(EVENTS), headers={"content-type": "text/event-stream"}
        )
    )

    def client() -> AsyncOpenAI:
        return AsyncOpenAI(api_key="none", http_client=httpx2.AsyncClient(transport=transport))

    async def read(client: Any, asked: dict[str, Any]) -> None:
        async for _ in await client.chat.completions.create(**asked, stream=True):
            pass

    bare, caches = client(), {"in memory": LLMCache(), "on SQLite": LLMCache(backend=path / "s.db")}
    kinds = {"not cached": bare} | {
        name: cache_client(client(), cache) for name, cache in caches.items()
    }
    variants = [
        _awaited(name, lambda a, c=each: read(c, a), "S", runner)  # type: ignore[misc]
        for name, each in kinds.items()
    ]
    show("an async stream of 62 events that hits", compare(variants, _ROUNDS))
    for cache in caches.values():
        cache.close()
