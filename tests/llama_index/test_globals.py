"""set_llm_cache: every LLM of the process, or Settings.llm only; and afterwards LlamaIndex is as it
was."""

import asyncio
import logging
import pickle
from copy import copy
from typing import Any

import pytest
from llama_index.core import Settings
from llama_index.core.base.llms.base import BaseLLM
from llama_index.core.bridge.pydantic import BaseModel
from llama_index.core.callbacks import CallbackManager
from llama_index.core.llms import ChatMessage, MockLLM
from llama_index.core.llms.structured_llm import StructuredLLM
from llama_index.core.settings import _Settings
from llama_index_llm_cache_mem import CachedLLM, cache_of, get_llm_cache, set_llm_cache, uncached

from llm_cache_mem import LLMCache

LEAVES = (
    "chat",
    "complete",
    "stream_chat",
    "stream_complete",
    "achat",
    "acomplete",
    "astream_chat",
    "astream_complete",
)


@pytest.fixture(autouse=True)
def _settings_as_they_were():
    before = copy(Settings.__dict__)
    yield
    set_llm_cache(None)
    Settings.__dict__.update(before)


def _classes(cls: type = BaseLLM) -> list[type]:
    return [cls, *(found for subclass in cls.__subclasses__() for found in _classes(subclass))]


def _snapshot() -> dict[type, dict[str, Any]]:
    return {cls: dict(cls.__dict__) for cls in _classes()}


# -- The whole process


@pytest.mark.parametrize("leaf", LEAVES)
def test_every_leaf_of_every_llm_is_cached(leaf, parrot, cache, ask, said):
    expected = said(ask(parrot, leaf))
    set_llm_cache(cache)
    assert said(ask(parrot, leaf)) == said(ask(parrot, leaf)) == expected
    assert len(parrot.calls) == 2
    assert cache_of(parrot) is cache is get_llm_cache()
    assert cache.stats().size == 1


def test_classes_made_while_it_is_on_are_cached(make_parrot, cache):
    set_llm_cache(cache)

    class Late(make_parrot):
        def complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> Any:
            answer = super().complete(prompt, formatted=formatted, **kwargs)
            return answer.model_copy(update={"text": answer.text.upper()})

    late = Late()
    assert late.complete("x").text == late.complete("x").text == "PARROT-1/0.5: X"
    assert len(late.calls) == 1
    set_llm_cache(None)
    late.complete("x")
    assert len(late.calls) == 2
    assert type(late).__dict__["complete"].__qualname__.endswith("Late.complete")


def test_it_leaves_every_class_as_it_was(cache, parrot):
    parrot.complete("warm up")
    before = _snapshot()
    set_llm_cache(cache)
    assert _snapshot() != before
    set_llm_cache(LLMCache())
    set_llm_cache(None)
    after = _snapshot()
    for cls, names in before.items():
        assert {
            name: value for name, value in after[cls].items() if value is not names.get(name)
        } == {}, cls
        assert after[cls].keys() == names.keys()
    assert type(Settings) is _Settings
    assert get_llm_cache() is None
    assert cache_of(parrot) is None


def test_patches_by_others_stay(cache, monkeypatch):
    set_llm_cache(cache)
    monkeypatch.setattr(MockLLM, "complete", lambda self, prompt, **kwargs: "patched")
    set_llm_cache(None)
    assert MockLLM().complete("x") == "patched"


def test_a_patch_undone_after_it_is_off_does_no_harm(cache, parrot, monkeypatch):
    set_llm_cache(cache)
    monkeypatch.setattr(type(parrot), "complete", lambda self, prompt, **kwargs: "patched")
    set_llm_cache(None)
    monkeypatch.undo()
    parrot.complete("x")
    parrot.complete("x")
    assert len(parrot.calls) == 2


def test_an_explicit_cache_keeps_answering_its_llm(parrot, cache):
    own = LLMCache()
    llm = CachedLLM(parrot, own)
    set_llm_cache(cache)
    llm.chat([ChatMessage(content="x")])
    llm.chat([ChatMessage(content="x")])
    assert (own.stats().hits, own.stats().misses) == (1, 1)
    assert (cache.stats().hits, cache.stats().misses) == (0, 0)
    assert cache_of(llm) is own


def test_uncached_bypasses_the_cache(parrot, cache):
    set_llm_cache(cache)
    llm = uncached(parrot)
    assert isinstance(llm, type(parrot))
    assert cache_of(llm) is None
    llm.complete("x")
    llm.complete("x")
    assert len(parrot.calls) == 2
    llm.temperature = 0.9
    assert parrot.temperature == 0.9
    assert uncached(llm) is llm
    assert type(pickle.loads(pickle.dumps(uncached(MockLLM())))).__name__ == "MockLLM"


def test_a_structured_llm_adds_no_entry_of_its_own(parrot, cache):
    class Answer(BaseModel):
        x: int

    set_llm_cache(cache)
    llm = StructuredLLM(llm=parrot, output_cls=Answer)
    for _ in range(2):
        with pytest.raises(ValueError, match="Invalid JSON"):  # the parrot does not speak JSON
            llm.complete("x")
    assert len(parrot.calls) == 2  # a rejected answer is discarded
    assert (cache.stats().stored, cache.stats().size) == (2, 0)
    assert cache_of(llm) is cache


def test_threads_may_switch_it_while_others_call(parrot, cache):
    from concurrent.futures import ThreadPoolExecutor

    def switch(i: int) -> None:
        set_llm_cache(cache if i % 2 else None)

    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda i: switch(i) or parrot.complete("x").text, range(200)))
    assert set(answers) == {"parrot-1/0.5: x"}


# -- Settings.llm only


def test_settings_scope_covers_current_and_later_llms(make_parrot, cache):
    first, second = make_parrot(), make_parrot(model="other")
    Settings.llm = first
    set_llm_cache(cache, scope="settings")
    for llm in (first, second):
        Settings.llm = llm
        Settings.llm.complete("x")
        Settings.llm.complete("x")
        assert len(llm.calls) == 1
        assert Settings.llm is Settings.llm
        assert isinstance(Settings.llm, make_parrot)
    first.complete("x")
    assert len(first.calls) == 2
    assert cache_of(first) is None
    assert get_llm_cache() is cache


def test_the_lazy_default_is_not_resolved_by_turning_it_on(cache, monkeypatch):
    asked = []

    def resolve(llm: Any) -> Any:
        asked.append(llm)
        return MockLLM()

    monkeypatch.setattr("llama_index.core.settings.resolve_llm", resolve)
    Settings._llm = None
    set_llm_cache(cache, scope="settings")
    assert asked == []
    assert cache_of(Settings.llm) is cache
    assert asked == ["default"]


def test_settings_scope_off_leaves_settings_as_they_were(parrot, cache):
    Settings.llm = parrot
    set_llm_cache(cache, scope="settings")
    held = Settings.llm
    Settings.llm = Settings.llm  # what some code does to change it in place
    set_llm_cache(None)
    assert Settings.llm is parrot
    assert type(Settings) is _Settings
    held.complete("x")
    held.complete("x")
    assert len(parrot.calls) == 2
    assert cache_of(held) is None


def test_an_explicit_cache_in_settings_stays(parrot, cache):
    own = LLMCache()
    Settings.llm = llm = CachedLLM(parrot, own)
    set_llm_cache(cache, scope="settings")
    assert Settings.llm is llm
    assert cache_of(Settings.llm) is own


def test_the_callback_manager_of_settings_reaches_the_model(parrot, cache):
    Settings.llm = parrot
    set_llm_cache(cache, scope="settings")
    Settings.callback_manager = manager = CallbackManager([])
    assert Settings.llm.callback_manager is manager is parrot.callback_manager


def test_replacing_the_cache_reaches_earlier_wrappers(parrot, cache):
    Settings.llm = parrot
    set_llm_cache(LLMCache(), scope="settings")
    held = Settings.llm
    set_llm_cache(cache, scope="settings")
    assert cache_of(held) is cache
    assert Settings.llm is held


# -- The switch


def test_as_a_context_manager_it_restores_what_was_set_before(parrot, cache):
    with set_llm_cache(cache) as on:
        assert on is cache
        with set_llm_cache(LLMCache(), scope="settings"):
            assert cache_of(parrot) is None
        assert get_llm_cache() is cache
        assert cache_of(parrot) is cache
    assert get_llm_cache() is None


def test_wrong_arguments_are_refused(cache):
    with pytest.raises(TypeError):
        set_llm_cache({})
    with pytest.raises(ValueError, match="scope"):
        set_llm_cache(cache, scope="global")
    assert get_llm_cache() is None


@pytest.mark.parametrize("scope", ["process", "settings"])
def test_one_line_reports_that_it_is_on(scope, cache, caplog):
    with caplog.at_level(logging.INFO, "llama_index_llm_cache_mem"):
        set_llm_cache(cache, scope=scope)
        set_llm_cache(None)
    assert len(caplog.records) == 1
    assert "set_llm_cache(None) turns it off" in caplog.text


def test_async_calls_in_another_loop_are_cached(parrot, cache):
    set_llm_cache(cache)
    answers = {str(asyncio.run(parrot.acomplete("x"))) for _ in range(3)}
    assert len(answers) == len(parrot.calls) == 1


def test_pickling_an_llm_under_a_global_cache_warns(cache, caplog):
    with set_llm_cache(cache):
        for _ in range(2):
            copied = pickle.loads(pickle.dumps(MockLLM()))
            assert copied.to_dict() == MockLLM().to_dict()
    pickle.dumps(MockLLM())
    assert [message for message in caplog.messages if "pickled" in message] == [
        "MockLLM is being pickled: in another process set_llm_cache is off, and it goes uncached"
        " there, unless you pass it as CachedLLM(llm, cache), with a cache in a store that"
        " processes share"
    ]
    assert "__reduce_ex__" not in BaseLLM.__dict__
