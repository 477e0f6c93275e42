"""Namespace and tags come from the RunnableConfig of a call, and never from another's."""

import pickle

import pytest
from langchain_core.globals import set_llm_cache
from langchain_core.language_models import FakeListChatModel, FakeListLLM
from langchain_core.prompts import ChatPromptTemplate
from langchain_llm_cache_mem import LLMCacheMem, cached

from llm_cache_mem import LLMCache


def user_of(config):
    return config["metadata"]["user"]


SETTINGS = {"namespace_from": user_of, "tags_from": ["team", "beta"]}


def config(user, **more):
    return {"metadata": {"user": user, "team": "search"}, **more}


@pytest.fixture(params=["set_llm_cache", "cached"])
def layer(request):
    """A function from a model to the model behind a cache with SETTINGS, and that cache."""
    cache = LLMCache(require_namespace=True)
    if request.param == "cached":
        yield lambda model: cached(model, cache, identity="fake", **SETTINGS), cache
    else:
        set_llm_cache(LLMCacheMem(cache, unidentified="cache", **SETTINGS))
        yield lambda model: model, cache
        set_llm_cache(None)


def chat():
    return FakeListChatModel(responses=["one", "two", "three", "four"])


def test_each_user_has_a_namespace_without_a_with(layer):
    behind, cache = layer
    model = behind(chat())
    first = model.invoke("hi", config("ada"))
    assert model.invoke("hi", config("bob")).content != first.content
    assert model.invoke("hi", config("ada")).content == first.content
    namespaces = {key.split(":")[1] for key, _ in cache.engine.backend.entries("")}
    assert namespaces == {"ada", "bob"}


async def test_async_calls_and_chains_pass_their_config_on(layer):
    behind, cache = layer
    chain = ChatPromptTemplate.from_messages([("user", "{text}")]) | behind(chat())
    for user in ("ada", "bob", "ada"):
        await chain.ainvoke({"text": "hi"}, config(user))
    assert cache.stats().hits == 1
    assert cache.stats().by_tag["team=search"].hits == 1


def test_a_call_whose_namespace_cannot_be_told_goes_uncached(layer):
    behind, cache = layer
    model = behind(chat())
    for _ in range(2):
        model.invoke("hi")
        model.invoke("hi", {"metadata": {"user": 7}})
    assert cache.stats().hits == cache.stats().stored == 0
    assert sum(cache.stats().skipped.values()) == 4


def test_config_tags_come_from_metadata_and_tags(layer):
    behind, cache = layer
    model = behind(chat())
    asked = {"metadata": {"user": "ada"}, "tags": ["team:ads", "beta", "other:x"]}
    for _ in range(2):
        model.invoke("hi", asked)
    by_tag = cache.stats().by_tag
    assert set(by_tag) == {"team=ads", "beta=true"}
    assert (by_tag["team=ads"].hits, by_tag["beta=true"].misses) == (1, 1)


def test_plain_llms_have_configs_too(layer):
    behind, _ = layer
    model = behind(FakeListLLM(responses=["one", "two", "three"]))
    first = model.invoke("hi", config("ada"))
    assert model.invoke("hi", config("bob")) != first
    assert model.invoke("hi", config("ada")) == first


def test_streams_have_configs_too():
    cache = LLMCache()
    model = cached(chat(), cache, identity="fake", **SETTINGS)
    for user in ("ada", "bob", "ada"):
        list(model.stream("hi", config(user)))
    assert (cache.stats().hits, cache.stats().stored) == (1, 2)


def test_the_settings_travel():
    mem = LLMCacheMem(LLMCache(), **SETTINGS)
    assert pickle.loads(pickle.dumps(mem)).config == mem.scoped("a").config == mem.config
    lent = cached(chat(), mem, identity="fake")
    assert pickle.loads(pickle.dumps(lent))._llm_cache_mem.config == mem.config


@pytest.mark.parametrize("wrong", [{"namespace_from": "user"}, {"tags_from": "team"}])
def test_other_types_are_refused(wrong):
    with pytest.raises(TypeError):
        LLMCacheMem(LLMCache(), **wrong)


async def test_async_streams_have_configs_too():
    cache = LLMCache()
    model = cached(chat(), cache, identity="fake", **SETTINGS)
    for user in ("ada", "bob", "ada"):
        [chunk async for chunk in model.astream("hi", config(user))]
    assert (cache.stats().hits, cache.stats().stored) == (1, 2)
    assert cache.stats().by_tag["team=search"].hits == 1
