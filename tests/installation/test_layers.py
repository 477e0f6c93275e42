"""A layer above on the same cache, and ``install`` underneath: one entry, one count, one call."""

import asyncio
import gc
import json
from collections.abc import Callable, Iterator
from typing import Any

import openai
import pytest
from http_server import Provider
from installation.answers import BODY, answer, stream
from langchain_core.documents import Document
from langchain_core.globals import set_llm_cache as set_langchain_cache
from langchain_core.language_models import FakeListChatModel
from langchain_core.retrievers import BaseRetriever
from langchain_core.runnables import RunnableLambda
from langchain_llm_cache_mem import LLMCacheMem, cached
from langchain_openai import ChatOpenAI

from llm_cache_mem import CacheMissError, LLMCache, installed, options
from llm_cache_mem.http import cache_client
from llm_cache_mem.http.answer import StoredResponse
from llm_cache_mem.http.zero_usage import without_usage

pytestmark = pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")

ASKED = "What is the capital of France?"


@pytest.fixture
def cache() -> LLMCache:
    return LLMCache(prices={})


@pytest.fixture(autouse=True)
def answers(server: Provider) -> None:
    def reply(asked: Any) -> Any:
        if (asked.body or {}).get("stream"):
            return answer(body=stream("Par", "is."), kind="text/event-stream")
        return answer()

    server.answer = reply


def model(server: Provider, **settings: Any) -> ChatOpenAI:
    return ChatOpenAI(model="m", api_key="k", base_url=f"{server.url}/v1", **settings)


def counts(cache: LLMCache) -> tuple[int, int, int, int]:
    """Hits, misses, coalesced and entries."""
    stats = cache.stats()
    return stats.hits, stats.misses, stats.coalesced, stats.size


# -- Each layer asks twice: (ask, usage of an answer)

Ask = Callable[[], Any]


def with_langchain_cached(server: Provider, cache: LLMCache) -> tuple[Ask, Ask]:
    chat = cached(model(server), cache)
    return lambda: chat.invoke(ASKED), lambda: asyncio.run(chat.ainvoke(ASKED))


def with_langchain_stream(server: Provider, cache: LLMCache) -> tuple[Ask, Ask]:
    chat = cached(model(server), cache)

    async def whole() -> Any:
        chunks = [chunk async for chunk in chat.astream(ASKED)]
        return sum(chunks[1:], chunks[0])  # type: ignore[arg-type]  # chunks add up

    def sync() -> Any:
        chunks = list(chat.stream(ASKED))
        return sum(chunks[1:], chunks[0])  # type: ignore[arg-type]

    return sync, lambda: asyncio.run(whole())


def with_langchain_global(server: Provider, cache: LLMCache) -> tuple[Ask, Ask]:
    set_langchain_cache(LLMCacheMem(cache))
    chat = model(server)
    return lambda: chat.invoke(ASKED), lambda: asyncio.run(chat.ainvoke(ASKED))


def with_cache_client(server: Provider, cache: LLMCache) -> tuple[Ask, Ask]:
    client = cache_client(openai.OpenAI(api_key="k", base_url=f"{server.url}/v1"), cache)
    second = cache_client(openai.AsyncOpenAI(api_key="k", base_url=f"{server.url}/v1"), cache)
    return (
        lambda: client.chat.completions.create(**BODY),
        lambda: asyncio.run(_create(second)),
    )


async def _create(client: Any) -> Any:
    return await client.chat.completions.create(**BODY)


def with_get_or_call(server: Provider, cache: LLMCache) -> tuple[Ask, Ask]:
    client = openai.OpenAI(api_key="k", base_url=f"{server.url}/v1")
    second = openai.AsyncOpenAI(api_key="k", base_url=f"{server.url}/v1")
    messages = BODY["messages"]
    return (
        lambda: cache.get_or_call(messages, client.chat.completions.create, model="m"),
        lambda: asyncio.run(
            cache.aget_or_call(messages, second.chat.completions.create, model="m")
        ),
    )


LAYERS = [
    with_langchain_cached,
    with_langchain_stream,
    with_langchain_global,
    with_cache_client,
    with_get_or_call,
]


@pytest.fixture(autouse=True)
def _no_global_cache() -> Iterator[None]:
    yield
    set_langchain_cache(None)
    gc.collect()  # clients that no one closed go here, and not in the middle of another test


@pytest.mark.parametrize("layer", LAYERS)
def test_one_entry_one_count_one_call(layer: Any, server: Provider, cache: LLMCache) -> None:
    sync, asynchronous = layer(server, cache)
    with installed(cache):
        sync()
        assert counts(cache) == (0, 1, 0, 1)
        sync()
        assert counts(cache) == (1, 1, 0, 1)
        asynchronous()
        assert counts(cache) == (2, 1, 0, 1)
    assert server.calls == 1


@pytest.mark.parametrize("layer", LAYERS)
def test_entries_stored_by_a_layer_alone_still_hit(
    layer: Any, server: Provider, cache: LLMCache
) -> None:
    sync, _ = layer(server, cache)
    sync()
    with installed(cache):
        sync()
    assert counts(cache) == (1, 1, 0, 1)
    assert server.calls == 1


def test_an_sdk_and_a_framework_share_the_entry(server: Provider, cache: LLMCache) -> None:
    """One of them says `"stream": false`, which is the same as to say nothing."""
    with installed(cache):
        chat = cached(model(server), cache)
        chat.invoke(ASKED)
        client = openai.OpenAI(api_key="k", base_url=f"{server.url}/v1")
        messages: Any = [{"role": "user", "content": ASKED}]
        client.chat.completions.create(model="m", messages=messages)
        model(server).invoke(ASKED)
    assert counts(cache) == (2, 1, 0, 1)
    assert server.calls == 1


@pytest.mark.parametrize(
    "layer", [with_langchain_cached, with_langchain_stream, with_langchain_global]
)
def test_a_hit_below_is_marked_and_bills_nothing(
    layer: Any, server: Provider, cache: LLMCache
) -> None:
    for ask in layer(server, cache):
        with installed(cache), options(namespace=str(id(ask))):
            first, second = ask(), ask()
        assert first.usage_metadata["total_tokens"] == 9
        assert second.usage_metadata["total_tokens"] == 0
        assert "llm_cache_mem" not in first.response_metadata
        assert second.response_metadata["llm_cache_mem"]["hit"] is True
        assert second.content == first.content


def test_a_hit_of_the_sdk_alone_keeps_its_usage(server: Provider, cache: LLMCache) -> None:
    client = openai.OpenAI(api_key="k", base_url=f"{server.url}/v1")
    with installed(cache):
        cached(model(server), cache).invoke(ASKED)
        for _ in range(2):
            answered = client.chat.completions.create(**BODY)
            assert answered.usage is not None
            assert answered.usage.total_tokens == 9


def test_a_model_in_this_process_is_cached_as_ever(cache: LLMCache) -> None:
    fake = cached(FakeListChatModel(responses=["one", "two"]), cache)
    with installed(cache):
        assert [fake.invoke(ASKED).content for _ in range(3)] == ["one"] * 3
        assert ["".join(c.text for c in fake.stream(ASKED)) for _ in range(2)]
        set_langchain_cache(LLMCacheMem(cache))
        plain = FakeListChatModel(responses=["three", "four"])
        assert plain.invoke("other").content == plain.invoke("other").content
    assert cache.stats().misses == 2
    assert cache.stats().hits == 5


def test_a_function_keeps_its_own_entry(server: Provider, cache: LLMCache) -> None:
    """It may make several calls, and its result is not that of one of them."""
    client = openai.OpenAI(api_key="k", base_url=f"{server.url}/v1")

    @cache.cached
    def shout(text: str) -> str:
        found = client.chat.completions.create(**BODY).choices[0].message.content
        return f"{found}!"

    with installed(cache):
        assert [shout("a"), shout("a"), shout("b")] == ["Paris.!"] * 3
    assert server.calls == 1
    assert counts(cache) == (2, 3, 0, 3)


def test_concurrent_calls_of_a_framework_are_one_call(server: Provider, cache: LLMCache) -> None:
    chat = cached(model(server), cache)

    async def ask() -> list[Any]:
        return await asyncio.gather(*(chat.ainvoke(ASKED) for _ in range(5)))

    with installed(cache):
        assert len(asyncio.run(ask())) == 5
        stats = cache.stats()
        assert (stats.misses - stats.coalesced, stats.hits, server.calls) == (1, 0, 1)
        asyncio.run(ask())
    stats = cache.stats()
    assert (stats.misses - stats.coalesced, stats.hits, server.calls) == (1, 5, 1)


def test_an_error_below_is_counted_once_and_stored_nowhere(
    server: Provider, cache: LLMCache
) -> None:
    server.gives(answer(status=400))
    chat = cached(model(server, max_retries=0), cache)
    with installed(cache), pytest.raises(openai.BadRequestError):
        chat.invoke(ASKED)
    assert counts(cache) == (0, 1, 0, 0)


def test_replay_is_decided_below(server: Provider, cache: LLMCache) -> None:
    chat = cached(model(server), cache)
    fake = cached(FakeListChatModel(responses=["one"]), cache)
    with installed(cache):
        chat.invoke(ASKED)
        with options(mode="replay"):
            assert chat.invoke(ASKED).content == "Paris."
            with pytest.raises(CacheMissError):
                chat.invoke("unheard of")
            with pytest.raises(CacheMissError):
                fake.invoke("unheard of")
    assert server.calls == 1


def test_delete_above_deletes_the_entry_below(server: Provider, cache: LLMCache) -> None:
    client = openai.OpenAI(api_key="k", base_url=f"{server.url}/v1")
    with installed(cache):
        cache.get_or_call(BODY["messages"], client.chat.completions.create, model="m")
        assert cache.delete(BODY["messages"], model="m")
        assert cache.stats().size == 0
        cache.get_or_call(BODY["messages"], client.chat.completions.create, model="m")
    assert server.calls == 2


@pytest.mark.parametrize(
    ("body", "zeroed"),
    [
        ({"usage": {"input_tokens": 3, "x": {"y": 1}}, "t": "é"}, {"usage": {"input_tokens": 0, "x": {"y": 0}}, "t": "é"}),
        ({"message": {"usage": {"input_tokens": 3}, "content": [{"usage": 5}]}}, {"message": {"usage": {"input_tokens": 0}, "content": [{"usage": 5}]}}),
        ({"usageMetadata": {"promptTokenCount": 3, "trafficType": "ON"}}, {"usageMetadata": {"promptTokenCount": 0, "trafficType": "ON"}}),
        ({"prompt_eval_count": 3, "eval_count": 4, "eval_duration": 5}, {"prompt_eval_count": 0, "eval_count": 0, "eval_duration": 5}),
        ({"meta": {"billed_units": {"input_tokens": 3.0}}}, {"meta": {"billed_units": {"input_tokens": 0.0}}}),
    ],
)  # fmt: skip
def test_every_protocol_reports_no_tokens(body: Any, zeroed: Any) -> None:
    text = json.dumps(body, ensure_ascii=False).encode()
    assert json.loads(b"".join(without_usage(StoredResponse(200, [], [text])))) == zeroed
    event = b"event: e\ndata: " + text + b"\n\ndata: [DONE]\n\n"
    found = b"".join(without_usage(StoredResponse(200, [], [event[:20], event[20:]])))
    assert found.startswith(b"event: e\ndata: {")
    assert found.endswith(b"}\n\ndata: [DONE]\n\n")
    assert json.loads(found.splitlines()[1].removeprefix(b"data: ")) == zeroed


@pytest.mark.parametrize("how", ["sources", "options", "sdk"])
def test_the_http_entry_depends_on_what_the_call_above_does(
    how: str, server: Provider, cache: LLMCache
) -> None:
    found, asked = cached(model(server), cache, sources=how == "sources"), RunnableLambda(str)

    class Retriever(BaseRetriever):
        def _get_relevant_documents(self, query: str, *, run_manager: Any) -> list[Document]:
            return [Document("The office opens at 9.", id="handbook")]

    def ask() -> None:
        if how == "sources":
            text = Retriever() | RunnableLambda(lambda texts: texts[0].page_content)
            (text | found).invoke("When?")
            return
        with options(depends_on=["doc:handbook"]):
            if how == "options":
                (asked | found).invoke("When?")
            else:
                with openai.OpenAI(api_key="k", base_url=f"{server.url}/v1") as client:
                    client.chat.completions.create(**BODY)

    with installed(cache):
        for expected in (1, 2):
            ask()
            ask()
            assert server.calls == expected
            assert any(
                entry.depends_on == ("doc:handbook",)
                for key, entry in cache.engine.entries()
                if ":http:" in key
            )
            assert cache.invalidate("doc:handbook")
