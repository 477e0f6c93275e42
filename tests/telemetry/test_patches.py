"""Instrumentation sees each call as before, whether it was there first or came after the cache."""

from collections.abc import Callable, Iterator
from contextlib import nullcontext
from typing import Any

import openai
import pytest
from http_server import Provider, provider
from installation.answers import BODY, answer
from langsmith.run_helpers import tracing_context
from telemetry.test_instrumentors import FAMILIES, instrumented

from llm_cache_mem import LLMCache, installed
from llm_cache_mem.http import cache_client

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


def wrap_openai(client: openai.OpenAI) -> openai.OpenAI:
    from langsmith.wrappers import wrap_openai  # whose import warns of another module

    return wrap_openai(client)


class Runs:
    """A client of LangSmith that notes the runs."""

    def __init__(self) -> None:
        self.names: list[str] = []
        self.tracing_queue = None

    def create_run(self, *, name: str, **fields: Any) -> None:
        self.names.append(name)

    def update_run(self, *args: Any, **fields: Any) -> None: ...

    def __getattr__(self, name: str) -> Any:
        return lambda *args, **fields: None


@pytest.fixture
def server() -> Iterator[Provider]:
    with provider() as server:
        server.gives(answer())
        yield server
        while _made:
            _made.pop().close()


@pytest.fixture
def cache() -> LLMCache:
    return LLMCache(prices={})


_made: list[openai.OpenAI] = []


def client(server: Provider) -> openai.OpenAI:
    _made.append(openai.OpenAI(api_key="k", base_url=f"{server.url}/v1", max_retries=0))
    return _made[-1]


def wrapped_first(server: Provider, cache: LLMCache) -> Any:
    return cache_client(wrap_openai(client(server)), cache)


def cached_first(server: Provider, cache: LLMCache) -> Any:
    return wrap_openai(cache_client(client(server), cache))


@pytest.mark.parametrize("make", [wrapped_first, cached_first])
def test_langsmith_sees_a_hit(make: Callable[..., Any], server: Provider, cache: LLMCache) -> None:
    runs: Any = Runs()
    asking = make(server, cache)
    with tracing_context(enabled=True, client=runs):
        for _ in range(2):
            asking.chat.completions.create(**BODY)
    assert (runs.names, server.calls) == (["ChatOpenAI"] * 2, 1)


def test_a_patch_of_the_users_own_stays(server: Provider, cache: LLMCache) -> None:
    plain, seen = client(server), []
    create = plain.chat.completions.create

    def noting(**params: Any) -> Any:
        seen.append(params)
        return create(**params)

    plain.chat.completions.create = noting  # type: ignore[method-assign,assignment]
    asking = cache_client(plain, cache)
    for _ in range(2):
        asking.chat.completions.create(**BODY)
    assert (len(seen), server.calls, asking) == (2, 1, plain)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("first", ["cache", "instrumentor"])
@pytest.mark.parametrize("layer", ["install", "cache_client"])
def test_spans_are_the_same_in_both_orders(
    family: str, first: str, layer: str, server: Provider, cache: LLMCache
) -> None:
    kind = FAMILIES[family]("openai")
    asking = client(server)
    caching = installed(cache) if layer == "install" else nullcontext()
    if layer == "cache_client" and first == "cache":
        asking = cache_client(asking, cache)
    parts = [caching, instrumented(kind)] if first == "cache" else [instrumented(kind), caching]
    with parts[0] as one, parts[1] as two:
        if layer == "cache_client" and first == "instrumentor":
            asking = cache_client(asking, cache)
        for _ in range(2):
            asking.chat.completions.create(**BODY)
        exporter = two if first == "cache" else one
        assert len(exporter.get_finished_spans()) == 2
    assert server.calls == 1
