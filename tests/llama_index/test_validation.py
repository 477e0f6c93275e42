"""Answers that the caller's own validation rejects are discarded."""

import asyncio
from collections.abc import Callable
from functools import cached_property
from typing import Any

import pytest
from llama_index.core.base.llms.types import CompletionResponse, LLMMetadata
from llama_index.core.bridge.pydantic import BaseModel
from llama_index.core.llms import CustomLLM
from llama_index.core.prompts import PromptTemplate
from llama_index_llm_cache_mem import CachedLLM, set_llm_cache

PROMPT = PromptTemplate("Which city is {name}?")


class City(BaseModel):
    name: str


class Fickle(CustomLLM):
    """Answers with no JSON first, and with what was asked for after that."""

    @cached_property  # which is no setting
    def calls(self) -> list[str]:
        return []

    @property
    def metadata(self) -> LLMMetadata:
        return LLMMetadata(model_name="fickle")

    def complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponse:
        self.calls.append(prompt)
        text = "no idea" if len(self.calls) == 1 else '{"name": "Paris"}'
        return CompletionResponse(text=text)

    def stream_complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> Any:
        raise NotImplementedError


def predict(llm: Any) -> Any:
    return llm.structured_predict(City, PROMPT, name="it")


def apredict(llm: Any) -> Any:
    return asyncio.run(llm.astructured_predict(City, PROMPT, name="it"))


def as_structured(llm: Any) -> Any:
    return llm.as_structured_llm(City).complete("Which city is it?").raw


@pytest.mark.parametrize("everywhere", [False, True], ids=["wrapped", "process-wide"])
@pytest.mark.parametrize("ask", [predict, apredict, as_structured])
def test_a_rejected_answer_is_discarded(cache, ask: Callable[[Any], Any], everywhere: bool):
    fickle = Fickle()
    with set_llm_cache(cache if everywhere else None):
        llm = fickle if everywhere else CachedLLM(fickle, cache)
        with pytest.raises(ValueError, match=r"(?i)json|output"):
            ask(llm)
        assert dict(cache.stats().skipped) == {"rejected": 1}
        assert cache.stats().size == 0
        for _ in range(2):
            assert ask(llm) == City(name="Paris")
    assert len(fickle.calls) == 2
