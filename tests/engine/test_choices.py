"""n answers to one request: those stored for another n are used, and only the missing are bought."""

import asyncio
from typing import Any

import pytest

from llm_cache_mem import LLMCache, options

PRICES = {"m": (0, 1_000_000)}  # a dollar a token of output


class Api:
    """An API with n, whose every choice is another number, at a token each."""

    def __init__(self) -> None:
        self.asked: list[int] = []
        self.made = 0

    def create(self, messages: Any, model: str, n: int = 1) -> dict[str, Any]:
        self.asked.append(n)
        first, self.made = self.made, self.made + n
        choices = [
            {"index": i, "message": {"content": str(first + i)}, "finish_reason": "stop"}
            for i in range(n)
        ]
        usage = {"prompt_tokens": 5, "completion_tokens": n, "total_tokens": 5 + n}
        return {"choices": choices, "usage": usage}

    async def acreate(self, messages: Any, model: str, n: int = 1) -> dict[str, Any]:
        return self.create(messages, model, n)


def drawn(answer: Any) -> list[str]:
    assert [choice["index"] for choice in answer["choices"]] == list(range(len(answer["choices"])))
    return [choice["message"]["content"] for choice in answer["choices"]]


@pytest.fixture
def api() -> Api:
    return Api()


@pytest.fixture
def cache() -> LLMCache:
    return LLMCache(prices=PRICES)


def ask(cache: LLMCache, api: Api, **n: int) -> list[str]:
    return drawn(cache.get_or_call("hi", api.create, model="m", **n))


def test_fewer_are_served_from_more(cache: LLMCache, api: Api) -> None:
    assert ask(cache, api, n=3) == ["0", "1", "2"]
    assert ask(cache, api, n=2) == ["0", "1"]
    assert api.asked == [3]
    assert cache.stats().hits == 1


def test_only_the_missing_are_bought(cache: LLMCache, api: Api) -> None:
    ask(cache, api)
    assert ask(cache, api, n=3) == ["0", "1", "2"]
    assert ask(cache, api, n=5) == ["0", "1", "2", "3", "4"]
    assert api.asked == [1, 2, 2]
    assert ask(cache, api, n=4) == ["0", "1", "2", "3"]
    assert ask(cache, api, n=5) == ["0", "1", "2", "3", "4"]
    assert api.asked == [1, 2, 2]


def test_the_same_seed_is_not_drawn_twice(cache: LLMCache) -> None:
    asked = []

    def create(messages: Any, model: str, seed: int, n: int = 1) -> dict[str, Any]:
        asked.append(n)
        choices = [
            {"index": i, "message": {"content": str(i)}, "finish_reason": "stop"} for i in range(n)
        ]
        return {"choices": choices}

    cache.get_or_call("hi", create, model="m", seed=7)
    assert drawn(cache.get_or_call("hi", create, model="m", seed=7, n=2)) == ["0", "1"]
    assert asked == [1, 2]


def test_only_the_choices_bought_are_paid_for(cache: LLMCache, api: Api) -> None:
    with options(tags={"t": "1"}):
        ask(cache, api, n=2)
        answer = cache.get_or_call("hi", api.create, model="m", n=5)
    assert cache.stats().by_tag["t=1"].paid_usd == 5.0
    assert answer["usage"] == {"prompt_tokens": 5, "completion_tokens": 5, "total_tokens": 10}


def test_the_answer_has_its_published_key(cache: LLMCache, api: Api) -> None:
    ask(cache, api, n=2)
    ask(cache, api, n=3)
    fresh = LLMCache()
    fresh.put("hi", {"choices": [{"index": 0, "message": {"content": "x"}}]}, model="m", n=7)
    assert cache.delete("hi", model="m", n=3)
    assert ask(cache, api, n=3)[:2] == ["0", "1"]


def test_other_answers_and_modes_are_left_alone(cache: LLMCache, api: Api) -> None:
    cache.put("hi", "no choices", model="m")
    cache.put("hi", {"choices": [{}]}, model="m", n=3)  # fewer than it says
    assert ask(cache, api, n=2) == ["0", "1"]
    with options(mode="refresh"):
        assert ask(cache, api, n=2) == ["2", "3"]
    with options(sample=1):
        assert ask(cache, api, n=3) == ["4", "5", "6"]
    assert api.asked == [2, 2, 3]


async def test_async_calls_buy_only_the_missing(cache: LLMCache, api: Api) -> None:
    await cache.aget_or_call("hi", api.acreate, model="m", n=2)
    answers = await asyncio.gather(
        *(cache.aget_or_call("hi", api.acreate, model="m", n=4) for _ in range(3))
    )
    assert [drawn(answer) for answer in answers] == [["0", "1", "2", "3"]] * 3
    assert api.asked == [2, 2]


async def test_runs_buy_only_the_missing_too(cache: LLMCache, api: Api) -> None:
    ask(cache, api, n=3)
    requests = [{"messages": "hi", "model": "m", "n": n} for n in (2, 5)]
    two, five = cache.map(api.create, requests, concurrency=1)
    assert (drawn(two.value), two.hit) == (["0", "1"], True)
    assert (drawn(five.value), five.usd) == (["0", "1", "2", "3", "4"], 2.0)
    (six,) = [r async for r in cache.amap(api.acreate, [{**requests[0], "n": 6}])]
    assert drawn(six.value)[:3] == ["0", "1", "2"]
    assert api.asked == [3, 2, 1]


def test_answers_of_an_sdk_are_joined_as_its_own_class(cache: LLMCache, api: Api) -> None:
    chat = pytest.importorskip("openai.types.chat")

    def create(messages: Any, model: str, n: int = 1) -> Any:
        rest = {"id": "c", "object": "chat.completion", "created": 1, "model": model}
        return chat.ChatCompletion.construct(**rest, **api.create(messages, model, n))

    cache.get_or_call("hi", create, model="m", n=1)
    cache.get_or_call("hi", create, model="m")
    for _ in range(2):
        answer = cache.get_or_call("hi", create, model="m", n=3)
        assert type(answer) is chat.ChatCompletion
        assert [choice.index for choice in answer.choices] == [0, 1, 2]
        assert [choice.message.content for choice in answer.choices] == ["1", "2", "3"]
        assert answer.usage.total_tokens == 8
    assert api.asked == [1, 1, 2]
