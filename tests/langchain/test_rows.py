"""Rows of LangChain's SQL caches: which of them make a key, and which say why they do not."""

import json
from enum import Enum
from typing import Any

import pytest
from langchain_core.load import dumps
from langchain_core.messages import AIMessage, HumanMessage
from langchain_core.outputs import ChatGeneration
from langchain_llm_cache_mem import LLMCacheMem
from langchain_llm_cache_mem.rows import take_row
from langchain_ollama import ChatOllama
from langchain_openai import ChatOpenAI
from pydantic import BaseModel

from llm_cache_mem import LLMCache

PROMPT = dumps([HumanMessage("hi")])
ANSWER = dumps(ChatGeneration(message=AIMessage("hello")))
MODEL = ChatOpenAI(model="gpt-4o", api_key="none", temperature=0.5)  # type: ignore[arg-type]


class Colour(Enum):
    RED = "red"


class Invoice(BaseModel):
    total: int


def described(model: Any = MODEL, **call: Any) -> str:
    text: str = model._get_llm_string(stop=None, **call)
    return text


def changed(**settings: Any) -> str:
    tree, end = json.JSONDecoder().raw_decode(text := described())
    tree["kwargs"] |= settings
    return json.dumps(tree, sort_keys=True) + text[end:]


def test_a_row_hits_for_the_model_that_it_describes() -> None:
    cache = LLMCache()
    assert take_row(cache, PROMPT, described(logit_bias={"1": 2}), [ANSWER]) is None
    model = MODEL.model_copy(update={"cache": LLMCacheMem(cache)})
    assert model.invoke("hi", logit_bias={"1": 2}).content == "hello"


def test_a_class_that_is_imported_is_read_as_itself() -> None:
    cache = LLMCache()
    assert take_row(cache, PROMPT, described(response_format=Invoice), [ANSWER]) is None
    assert cache.stats().stored == 1


SECRET = {"lc": 1, "type": "secret", "id": ["X"]}


@pytest.mark.parametrize(
    ("llm_string", "reason"),
    [
        (described(ChatOllama(model="m")), "only in part"),
        (described(colour=Colour.RED), "a class or an object"),
        (described(schema=object()), "a class or an object"),
        (described().replace("ChatOpenAI", "OpenAI"), "only in part"),
        (described().replace("chat_models", "llms"), "only in part"),
        (changed(default_headers=SECRET), "a class or an object"),
        (changed(unheard_of=1), "other settings here"),
        (changed(temperature="SECRET12"), "other settings here"),
        ("{" + "[" * 9999, "only in part"),
        ("Sample LLM string configuration.", "only in part"),
    ],
)
def test_a_row_without_a_whole_model_is_not_taken(llm_string: str, reason: str) -> None:
    cache = LLMCache()
    said = take_row(cache, PROMPT, llm_string, [ANSWER])
    assert said is not None
    assert reason in said
    assert "SECRET" not in said
    assert cache.stats().size == 0


def test_a_setting_from_todays_environment_is_not_added_to_a_row(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cache, row = LLMCache(), described(ChatOpenAI(model="m-env", api_key="none"))  # type: ignore[arg-type]
    monkeypatch.setenv("OPENAI_API_BASE", "http://elsewhere/v1")
    assert "other settings" in str(take_row(cache, PROMPT, row, [ANSWER]))


@pytest.mark.parametrize("answer", ["plain text", '{"lc": 1}', dumps(MODEL), "[" * 9999])
def test_an_answer_that_is_no_generation_is_not_taken(answer: str) -> None:
    said = take_row(LLMCache(), PROMPT, described(), [answer])
    assert said == "an answer that LangChain cannot read"


def test_a_plain_llms_row_needs_its_model() -> None:
    said = take_row(LLMCache(), "hi", "[('_type', 'openai'), ('stop', None)]", [ANSWER])
    assert "fallback" in str(said)
