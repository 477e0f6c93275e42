"""options(samples=n): equal calls of one block get different answers, which are bought once."""

import asyncio
from pathlib import Path
from typing import Any

import pytest
from http_server import Reply, provider

from llm_cache_mem import LLMCache, options
from llm_cache_mem.errors import RequestNotCacheable


class Model:
    def __init__(self) -> None:
        self.calls = 0

    def create(self, messages: Any, model: str) -> str:
        self.calls += 1
        return f"{messages} {self.calls}"

    async def acreate(self, messages: Any, model: str) -> str:
        await asyncio.sleep(0)
        return self.create(messages, model)


@pytest.fixture
def model() -> Model:
    return Model()


def draw(cache: LLMCache, model: Model, number: int, text: str = "hi") -> list[str]:
    return [cache.get_or_call(text, model.create, model="m") for _ in range(number)]


def test_equal_calls_get_different_answers_and_a_rerun_the_same(model: Model) -> None:
    cache = LLMCache()
    for _ in range(2):
        with options(samples=3):
            assert draw(cache, model, 3) == ["hi 1", "hi 2", "hi 3"]
    assert draw(cache, model, 1) == ["hi 1"], "the first sample is the plain answer"
    with options(samples=5):
        assert draw(cache, model, 5)[:3] == ["hi 1", "hi 2", "hi 3"]
    assert model.calls == 5, "only missing samples are bought"


def test_each_request_has_samples_of_its_own(model: Model) -> None:
    with options(samples=2):
        cache = LLMCache()
        assert draw(cache, model, 1, "a") == ["a 1"]
        assert draw(cache, model, 2, "b") == ["b 2", "b 3"]
        assert draw(cache, model, 1, "a") == ["a 4"]


def test_a_draw_never_repeats_a_sample(model: Model) -> None:
    cache = LLMCache()
    with options(samples=2):
        assert len(set(draw(cache, model, 4))) == 4
    assert cache.stats().skipped == {"samples": 2}
    with options(samples=2, mode="replay"):
        draw(cache, model, 2)
        with pytest.raises(RequestNotCacheable, match="one more"):
            draw(cache, model, 1)


def test_trials_have_samples_apart(model: Model) -> None:
    cache = LLMCache()
    for _ in range(2):
        seen = []
        for trial in range(3):
            with options(sample=trial, samples=2):
                seen += draw(cache, model, 2)
        assert len(set(seen)) == 6
    assert model.calls == 6


async def test_tasks_share_the_draw_of_their_block(model: Model) -> None:
    cache = LLMCache()
    for _ in range(2):
        with options(samples=4):
            calls = (cache.aget_or_call("hi", model.acreate, model="m") for _ in range(4))
            assert len(set(await asyncio.gather(*calls))) == 4
    assert model.calls == 4


def test_map_takes_a_sample_for_each_equal_request(tmp_path: Path, model: Model) -> None:
    requests = [{"messages": text, "model": "m"} for text in ("a", "b") for _ in range(3)]
    with LLMCache(backend=tmp_path / "cache.db") as cache:
        for _ in range(2):
            with options(samples=3):
                values = [result.value for result in cache.map(model.create, requests)]
            assert len(set(values)) == 6
    assert model.calls == 6


def test_a_nested_block_draws_for_itself(model: Model) -> None:
    cache = LLMCache()
    with options(samples=2):
        draw(cache, model, 1)
        with options(samples=2):
            assert draw(cache, model, 1) == ["hi 1"]
        with options(ttl_seconds=9):
            assert draw(cache, model, 1) == ["hi 2"]


@options(samples=2)
def pair(cache: LLMCache, model: Model) -> list[str]:
    return draw(cache, model, 2)


def test_each_call_of_a_decorated_function_is_a_draw(model: Model) -> None:
    cache = LLMCache()
    assert pair(cache, model) == pair(cache, model)


@pytest.mark.parametrize("wrong", [0, -1, True, "2", 1.5])
def test_wrong_numbers_are_refused(wrong: Any) -> None:
    with pytest.raises((TypeError, ValueError), match="samples"):
        options(samples=wrong)


def test_http_calls_draw_too() -> None:
    httpx = pytest.importorskip("httpx")
    from llm_cache_mem.http.transport import CacheTransport

    with provider() as server:
        server.answer = lambda asked: Reply(
            b'{"choices": [{"message": {"content": "%d"}, "finish_reason": "stop"}]}' % server.calls
        )
        transport = CacheTransport(LLMCache(), httpx.HTTPTransport())
        with httpx.Client(transport=transport, base_url=server.url) as client:

            def ask() -> str:
                body = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}
                return str(client.post("/v1/chat/completions", json=body).text)

            for _ in range(2):
                with options(samples=3):
                    assert len({ask() for _ in range(3)}) == 3
        assert server.calls == 3


def test_wrapped_langchain_models_draw_and_the_global_cache_goes_uncached() -> None:
    pytest.importorskip("langchain_core")
    from langchain_core.language_models import FakeListChatModel
    from langchain_llm_cache_mem import LLMCacheMem, cached

    responses = [str(number) for number in range(20)]
    cache = LLMCache()
    model: Any = cached(FakeListChatModel(responses=responses), cache, identity="fake")
    for _ in range(2):
        with options(samples=3):
            assert [model.invoke("hi").content for _ in range(3)] == ["0", "1", "2"]
    below = FakeListChatModel(responses=responses, cache=LLMCacheMem(LLMCache()))
    with options(samples=3):
        assert [below.invoke("hi").content for _ in range(3)] == ["0", "1", "2"]
