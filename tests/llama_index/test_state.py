"""Requests that lean on state held by the provider are skipped, unless that is allowed."""

from functools import cached_property
from typing import Any

import pytest
from llama_index.core.bridge.pydantic import Field
from llama_index.core.llms import CompletionResponse, CustomLLM, LLMMetadata
from llama_index_llm_cache_mem import CachedLLM

from llm_cache_mem import RequestNotCacheable, options


class Stateful(CustomLLM):
    """Holds what the classes of OpenAI and Google hold."""

    cached_content: str | None = None
    built_in_tools: list[dict[str, Any]] | None = None
    additional_kwargs: dict[str, Any] = Field(default_factory=dict)

    @cached_property  # which is no setting
    def calls(self) -> list[str]:
        return []

    @property
    def metadata(self) -> LLMMetadata:
        return LLMMetadata(model_name="m")

    def complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponse:
        self.calls.append(prompt)
        return CompletionResponse(text=f"answer {len(self.calls)}")

    def stream_complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> Any:
        raise NotImplementedError


SEARCH = {"type": "file_search", "vector_store_ids": ["vs_1"]}
REQUESTS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "previous_response_id": ({}, {"previous_response_id": "resp_1"}),
    "conversation": ({"additional_kwargs": {"conversation": "conv_1"}}, {}),
    "background": ({}, {"background": True}),
    "prompt.id": ({"additional_kwargs": {"prompt": {"id": "pmpt_1"}}}, {}),
    "cached_content": ({"cached_content": "cachedContents/1"}, {}),
    "built_in_tools[0].vector_store_ids": ({"built_in_tools": [SEARCH]}, {}),
}


@pytest.mark.parametrize("path", REQUESTS)
def test_request_that_leans_on_provider_state_is_skipped(cache, path: str):
    settings, kwargs = REQUESTS[path]
    llm = CachedLLM(Stateful(**settings), cache)

    def ask() -> str:
        return llm.complete("and then?", **kwargs).text

    assert [ask(), ask()] == ["answer 1", "answer 2"]
    assert (dict(cache.stats().skipped), cache.stats().size) == ({"stateful": 2}, 0)
    with (
        options(mode="replay"),
        pytest.raises(RequestNotCacheable, match="stateful=True") as raised,
    ):
        ask()
    assert raised.value.path.endswith(path)
    with options(stateful=True):
        assert [ask(), ask()] == ["answer 3"] * 2
    assert ask() == "answer 4"
