"""Requests that lean on state held by the provider are skipped, unless that is allowed."""

from collections.abc import Callable
from typing import Any

import pytest
from langchain_core.globals import set_llm_cache
from langchain_core.messages import AIMessage, HumanMessage
from langchain_doubles import Streaming
from langchain_llm_cache_mem import LLMCacheMem, cached
from pydantic import Field

from llm_cache_mem import RequestNotCacheable, options

ANSWER = AIMessage("x", response_metadata={"id": "resp_1", "container": {"id": "container_1"}})
HISTORY = [HumanMessage("hi"), ANSWER, HumanMessage("and then?")]


class Stateful(Streaming):
    """Holds what the classes of OpenAI, Anthropic and Google hold."""

    use_previous_response_id: bool = False
    reuse_last_container: bool = False
    cached_content: str | None = None
    model_kwargs: dict[str, Any] = Field(default_factory=dict)


REQUESTS: dict[str, Callable[[Any], Any]] = {
    "previous_response_id": lambda ask: ask({}, previous_response_id="resp_1"),
    "conversation": lambda ask: ask({"model_kwargs": {"conversation": "conv_1"}}),
    "background": lambda ask: ask({}, extra_body={"background": True}),
    "prompt.id": lambda ask: ask({}, prompt={"id": "pmpt_1"}),
    "cached_content": lambda ask: ask({"cached_content": "cachedContents/1"}),
    "tools[0].vector_store_ids": lambda ask: ask(
        {}, tools=[{"type": "file_search", "vector_store_ids": ["vs_1"]}]
    ),
    "messages[1].response_id": lambda ask: ask({"use_previous_response_id": True}),
    "messages[1].response_metadata.container": lambda ask: ask({"reuse_last_container": True}),
}


@pytest.mark.parametrize("way", ["global", "cached"])
@pytest.mark.parametrize("path", REQUESTS)
def test_request_that_leans_on_provider_state_is_skipped(
    cache: LLMCacheMem, path: str, way: str
) -> None:
    made: list[Stateful] = []

    def ask(settings: dict[str, Any], **kwargs: Any) -> int:
        model = Stateful(**settings)
        made.append(model)
        (cached(model, cache) if way == "cached" else model).invoke(HISTORY, **kwargs)
        return sum(each.calls for each in made)

    set_llm_cache(cache if way == "global" else None)
    assert [REQUESTS[path](ask) for _ in range(2)] == [1, 2]
    assert (cache.stats().skipped, cache.stats().size) == ({"stateful": 2}, 0)
    with (
        options(mode="replay"),
        pytest.raises(RequestNotCacheable, match="stateful=True") as raised,
    ):
        REQUESTS[path](ask)
    assert raised.value.path == path
    with options(stateful=True):
        assert [REQUESTS[path](ask) for _ in range(2)] == [3, 3]
    assert REQUESTS[path](ask) == 4


def test_answer_that_the_provider_keeps_is_part_of_the_key(cache: LLMCacheMem) -> None:
    other = AIMessage("x", response_metadata={"id": "resp_2"})
    model = cached(Stateful(use_previous_response_id=True), cache)
    with options(stateful=True):
        texts = {model.invoke([answer, HumanMessage("hi")]).text for answer in (ANSWER, other)}
    assert len(texts) == 2


def test_model_that_takes_nothing_from_its_answers_is_cached(cache: LLMCacheMem) -> None:
    model = cached(Stateful(), cache)
    assert len({model.invoke(HISTORY).text for _ in range(2)}) == 1
    first_turn = cached(Stateful(use_previous_response_id=True, reuse_last_container=True), cache)
    assert len({first_turn.invoke("hi").text for _ in range(2)}) == 1
