"""LLMCacheMem under LangChain's own cache layer."""

import asyncio
import copy
import itertools
import logging
import pickle
from collections.abc import Callable
from datetime import datetime
from typing import Any

import pytest
from langchain_core.callbacks import BaseCallbackHandler, get_usage_metadata_callback
from langchain_core.globals import set_llm_cache
from langchain_core.language_models import BaseChatModel, FakeListLLM, GenericFakeChatModel
from langchain_core.load import dumps
from langchain_core.messages import (
    AIMessage,
    HumanMessage,
    SystemMessage,
    ToolMessage,
    messages_from_dict,
    messages_to_dict,
)
from langchain_core.outputs import ChatGeneration, Generation
from langchain_core.tracers._streaming import _V2StreamingCallbackHandler
from langchain_doubles import Counting, Streaming
from langchain_llm_cache_mem import LLMCacheMem, cached, caller
from langchain_llm_cache_mem.caller import Call
from langchain_llm_cache_mem.parsing import Model
from langchain_llm_cache_mem.text import _Answer

from llm_cache_mem import CacheMissError, LLMCache, StoreError, last_turn, options
from llm_cache_mem.keys.identity import Identity

MakeCache = Callable[..., LLMCacheMem]


@pytest.fixture(params=["global", "of the model"])
def model(request: pytest.FixtureRequest, cache: LLMCacheMem) -> Counting:
    if request.param == "global":
        set_llm_cache(cache)
        return Counting()
    return Counting(cache=cache)


# -- Hits and misses, as langchain-core tests its own caches


def test_the_same_prompt_is_answered_once(model: Counting) -> None:
    first, second = model.invoke("hi"), model.invoke("hi")
    assert model.calls == 1
    assert first.content == second.content == "hi #1"


async def test_the_same_prompt_is_answered_once_async(model: Counting) -> None:
    assert (await model.ainvoke("hi")).content == (await model.ainvoke("hi")).content
    assert model.invoke("hi").content == "hi #1"
    assert model.calls == 1


def test_generate_batch_and_invoke_share(model: Counting) -> None:
    model.invoke("a")
    model.batch(["a", "b"])
    model.generate([[HumanMessage("a")], [HumanMessage("b")]])
    assert model.calls == 2


def test_cache_false_is_left_alone(cache: LLMCacheMem) -> None:
    set_llm_cache(cache)
    model = Counting(cache=False)
    model.invoke("hi")
    model.invoke("hi")
    assert model.calls == 2
    assert cache.stats().misses == 0


def test_caches_can_be_swapped(make_cache: MakeCache) -> None:
    model = Counting()
    for expected in (1, 2):
        set_llm_cache(LLMCacheMem())
        model.invoke("hi")
        assert model.calls == expected


@pytest.mark.parametrize("clear", ["clear", "aclear"])
def test_clear_forgets(cache: LLMCacheMem, clear: str) -> None:
    model = Counting(cache=cache)
    model.invoke("hi")
    cache.clear() if clear == "clear" else asyncio.run(cache.aclear())
    model.invoke("hi")
    assert model.calls == 2


def test_clear_refuses_arguments_that_it_cannot_honour(cache: LLMCacheMem) -> None:
    cache.update("p", "m", [Generation(text="x")])
    with pytest.raises(TypeError, match="takes no llm_string"):
        cache.clear(llm_string="m")
    with pytest.raises(TypeError, match="takes no llm_string"):
        asyncio.run(cache.aclear(llm_string="m"))
    assert cache.lookup("p", "m")


def test_clear_spares_other_namespaces(make_cache: MakeCache) -> None:
    ours, theirs = make_cache(namespace="ours"), make_cache(namespace="theirs")
    model = Counting(cache=theirs)
    model.invoke("hi")
    ours.clear()
    model.invoke("hi")
    assert model.calls == 1


def test_inputs_that_mean_the_same_message_share(model: Counting) -> None:
    for prompt in (
        "hi",
        [("human", "hi")],
        [{"role": "user", "content": "hi"}],
        [HumanMessage("hi", id="7")],
    ):
        model.invoke(prompt)
    assert model.calls == 1


def test_run_config_is_not_part_of_the_key(model: Counting) -> None:
    model.invoke("hi")
    model.invoke(
        "hi", config={"tags": ["a"], "metadata": {"user": "b"}, "configurable": {"thread_id": "3"}}
    )
    assert model.calls == 1


def test_a_plain_llm_and_a_chat_model_do_not_answer_each_other(cache: LLMCacheMem) -> None:
    cache.update("hi", "[('_type', 'x'), ('stop', None)]", [Generation(text="plain")])
    assert cache.lookup(dumps([HumanMessage("hi")]), "[('_type', 'x'), ('stop', None)]") is None


def test_a_key_function_cannot_make_a_plain_llm_and_a_chat_model_alike(
    make_cache: MakeCache,
) -> None:
    cache = make_cache(key_fn=lambda messages, **params: messages[-1]["content"])
    cache.update("hi", "a", [Generation(text="plain")])
    assert cache.lookup(dumps([HumanMessage("hi")]), "a") is None


def test_a_plain_llm_is_answered_once(cache: LLMCacheMem) -> None:
    llm = FakeListLLM(responses=["one", "two"], cache=cache)
    assert [llm.invoke("hi"), llm.invoke("hi")] == ["one", "one"]
    assert llm.batch(["hi", "hi"]) == ["one", "one"]


# -- Conversations


@pytest.mark.parametrize("with_usage", [True, False])
def test_a_conversation_replayed_costs_nothing_more(cache: LLMCacheMem, with_usage: bool) -> None:
    model = Counting(cache=cache, with_usage=with_usage)

    def conversation() -> int:
        before = model.calls
        history: list[Any] = [SystemMessage("be brief"), HumanMessage("one")]
        history += [model.invoke(history), HumanMessage("two")]
        model.invoke(history)
        return model.calls - before

    assert [conversation() for _ in range(3)] == [2, 0, 0]


def test_an_artifact_is_never_sent_and_not_in_the_key(cache: LLMCacheMem) -> None:
    model = Counting(cache=cache)
    asked = AIMessage("", tool_calls=[{"name": "f", "args": {"a": 1}, "id": "call_1"}])
    for _ in range(2):
        model.invoke(
            [HumanMessage("hi"), asked, ToolMessage("42", tool_call_id="call_1", artifact=object())]
        )
    assert model.calls == 1


def test_key_fn_sees_the_same_request_as_in_the_core(make_cache: MakeCache) -> None:
    seen: list[Any] = []

    def key_fn(messages: Any, **params: Any) -> Any:
        seen.append((messages, params.pop("model"), params.pop("temperature")))
        return messages

    cache = make_cache(key_fn=key_fn)
    Counting(cache=cache).invoke([SystemMessage("s"), HumanMessage("u")])
    messages = [{"role": "system", "content": "s"}, {"role": "user", "content": "u"}]
    cache.cache.get(messages, model="gpt-4o-mini", temperature=0)
    assert seen[0] == seen[-1] == (messages, "gpt-4o-mini", 0)


def test_last_turn_works_unchanged(make_cache: MakeCache) -> None:
    model = Counting(cache=make_cache(key_fn=last_turn))
    model.invoke([SystemMessage("s"), HumanMessage("hello")])
    model.invoke([SystemMessage("s"), HumanMessage("other"), AIMessage("x"), HumanMessage("hello")])
    model.invoke([SystemMessage("t"), HumanMessage("hello")])
    assert model.calls == 2


# -- What a hit carries


def test_changes_by_the_first_caller_change_nothing(model: Counting) -> None:
    first = model.invoke("hi")
    first.content = "MUTATED"
    first.response_metadata["evil"] = True
    second = model.invoke("hi")
    assert second.content == "hi #1"
    assert "evil" not in second.response_metadata
    second.response_metadata["evil"] = True
    assert "evil" not in model.invoke("hi").response_metadata


def test_nested_tool_arguments_are_fresh(cache: LLMCacheMem) -> None:
    call = {"name": "f", "args": {"a": [1]}, "id": "1", "type": "tool_call"}
    cache.update("p", "m", [ChatGeneration(message=AIMessage("", tool_calls=[call]))])
    for _ in range(2):
        found = cache.lookup("p", "m")
        assert found[0].message.tool_calls == [call]
        found[0].message.tool_calls[0]["args"]["a"].append("EVIL")


def test_a_hit_is_marked_and_costs_nothing(model: Counting) -> None:
    with get_usage_metadata_callback() as usage:
        first, second = model.invoke("hi"), model.invoke("hi")
    assert "llm_cache_mem" not in first.response_metadata
    assert second.response_metadata["llm_cache_mem"]["hit"] is True
    assert second.response_metadata["llm_cache_mem"]["age"] >= 0
    assert second.usage_metadata["total_tokens"] == second.usage_metadata["total_cost"] == 0
    assert usage.usage_metadata["gpt-4o-mini"]["total_tokens"] == 15


def test_usage_can_be_kept(make_cache: MakeCache) -> None:
    model = Counting(cache=make_cache(usage="keep"))
    model.invoke("hi")
    assert model.invoke("hi").usage_metadata["total_tokens"] == 15


def test_savings_are_counted_by_model(make_cache: MakeCache) -> None:
    cache = make_cache(prices=lambda model, usage: 0.25)
    model = Counting(cache=cache)
    for _ in range(3):
        model.invoke("hi")
    stats = cache.stats()
    assert (stats.hits, stats.misses, stats.stored, stats.tokens_saved, stats.saved_usd) == (
        2,
        1,
        1,
        30,
        0.5,
    )
    saved = stats.by_model["gpt-4o-mini"]
    assert (saved.hits, saved.input_tokens_saved, saved.output_tokens_saved) == (2, 20, 10)
    assert saved.seconds_saved > 0


def test_each_hit_has_an_id_of_its_own_run(model: Counting) -> None:
    ids = [model.invoke("hi").id for _ in range(3)]
    assert len(set(ids)) == 3
    assert all(message_id.startswith("lc_run--") for message_id in ids)


async def test_each_hit_has_an_id_of_its_own_run_async(model: Counting) -> None:
    ids = [(await model.ainvoke("hi")).id for _ in range(3)]
    assert len(set(ids)) == 3
    assert all(message_id.startswith("lc_run--") for message_id in ids)


def test_lookup_without_a_visible_call_makes_an_id(cache: LLMCacheMem) -> None:
    cache.update("p", "m", [ChatGeneration(message=AIMessage("x"))])
    ids = {cache.lookup("p", "m")[0].message.id for _ in range(2)}
    assert len(ids) == 2


@pytest.mark.parametrize("usage", ["zero", "keep"])
def test_hit_without_usage_can_be_read_back_and_streamed(make_cache: MakeCache, usage: str) -> None:
    model = Streaming(cache=make_cache(usage=usage), with_usage=False)
    for _ in range(2):
        message = model.invoke("hi")
    assert messages_from_dict(messages_to_dict([message])) == [message]
    assert message.usage_metadata == {
        **dict.fromkeys(("input_tokens", "output_tokens", "total_tokens"), 0),
        "total_cost": 0,
    }
    assert AIMessage.model_validate(message.model_dump()).usage_metadata
    streamed = model.invoke("hi", config={"callbacks": [Events()]})
    assert streamed.text == message.text


class Events(_V2StreamingCallbackHandler, BaseCallbackHandler):
    """Makes a call tell its events, as version 3 of stream_events does."""

    raise_error = True

    def on_stream_event(self, event: Any, **kwargs: Any) -> None:
        assert event


def test_the_id_of_a_responses_message_stays_with_its_answer(cache: LLMCacheMem) -> None:
    message = AIMessage("x", id="msg_1", response_metadata={"id": "resp_1"})
    cache.update("p", "m", [ChatGeneration(message=message)])
    assert cache.lookup("p", "m")[0].message.id == "msg_1"


def test_a_truncated_answer_is_not_stored(cache: LLMCacheMem) -> None:
    cut = AIMessage("half of", response_metadata={"finish_reason": "length"})
    cache.update("p", "m", [ChatGeneration(message=cut)])
    assert cache.lookup("p", "m") is None
    assert sum(cache.stats().skipped.values()) == 1


REFUSAL = {"type": "refusal", "refusal": "I cannot"}
NOT_STORED: dict[str, tuple[AIMessage, str]] = {
    "refusal": (AIMessage([REFUSAL]), "refusal"),
    "refusal in the form of version 1": (
        AIMessage([{"type": "non_standard", "value": REFUSAL}]),
        "refusal",
    ),
    "malformed tool call": (
        AIMessage("I look it up.", invalid_tool_calls=[{"name": "f", "args": '{"a": ', "id": "1"}]),
        "malformed",
    ),
}


@pytest.mark.parametrize("way", ["global", "cached"])
@pytest.mark.parametrize("case", NOT_STORED)
def test_refusals_and_malformed_tool_calls_are_not_stored(
    cache: LLMCacheMem, case: str, way: str
) -> None:
    message, reason = NOT_STORED[case]
    model: Any = GenericFakeChatModel(messages=itertools.repeat(message))
    model = cached(model, cache) if way == "cached" else model.model_copy(update={"cache": cache})
    for _ in range(2):
        assert model.invoke("hi").content == message.content
    assert cache.stats().skipped == {reason: 2}
    assert cache.stats().size == 0


def test_several_generations_come_back_in_order(cache: LLMCacheMem) -> None:
    generations = [ChatGeneration(message=AIMessage(text)) for text in ("a", "b", "c")]
    cache.update("p", "m", generations)
    assert [generation.text for generation in cache.lookup("p", "m")] == ["a", "b", "c"]


@pytest.mark.parametrize("nothing", [[], ()])
def test_no_generations_are_no_answer(cache: LLMCacheMem, nothing: Any) -> None:
    cache.update("p", "m", nothing)
    assert cache.lookup("p", "m") is None


# -- Options


def test_options_reach_through(model: Counting) -> None:
    model.invoke("hi")
    with options(mode="refresh"):
        assert model.invoke("hi").content == "hi #2"
    assert model.invoke("hi").content == "hi #2"
    with options(sample=1):
        assert model.invoke("hi").content == "hi #3"
    with options(namespace="other"):
        assert model.invoke("hi").content == "hi #4"
    with options(mode="off"):
        assert model.invoke("hi").content == "hi #5"
    assert model.invoke("hi").content == "hi #2"


def test_replay_raises_on_a_miss_and_answers_what_was_recorded(model: Counting) -> None:
    model.invoke("recorded")
    with options(mode="replay"):
        assert model.invoke("recorded").content == "recorded #1"
        with pytest.raises(CacheMissError):
            model.invoke("new")


def test_ttl(make_cache: MakeCache, clock: Any) -> None:
    model = Counting(cache=make_cache(ttl_seconds=60, clock=clock))
    for advance, calls in ((0, 1), (59, 1), (2, 2)):
        clock.advance(advance)
        model.invoke("hi")
        assert model.calls == calls


def test_a_scope_is_a_key_space_of_its_own(cache: LLMCacheMem) -> None:
    one, two = Counting(cache=cache.scoped("one")), Counting(cache=cache.scoped("two"))
    assert [model.invoke("hi").content for model in (one, two, one)] == ["hi #1", "hi #1", "hi #1"]
    assert (one.calls, two.calls, cache.stats().hits) == (1, 1, 1)


def test_a_key_function_cannot_leave_a_scope(make_cache: MakeCache) -> None:
    cache = make_cache(key_fn=lambda messages, **params: "always the same")
    two = Counting(cache=cache.scoped("two"))
    Counting(cache=cache.scoped("one")).invoke("hi")
    two.invoke("hi")
    assert two.calls == 1


# -- Models that LangChain does not tell apart


def test_a_model_that_is_only_a_type_is_cached_and_named_in_the_log(
    cache: LLMCacheMem, caplog: pytest.LogCaptureFixture
) -> None:
    model = GenericFakeChatModel(messages=iter(["a", "b"]), cache=cache)
    with caplog.at_level(logging.WARNING, "llm_cache_mem"):
        assert [model.invoke("hi").content for _ in range(3)] == ["a"] * 3
    assert [record.args for record in caplog.records] == [("generic-fake-chat-model",)]


def test_otherwise_it_goes_uncached(make_cache: MakeCache) -> None:
    cache = make_cache(unidentified="bypass")
    model = GenericFakeChatModel(messages=iter(["a", "b"]), cache=cache)
    assert [model.invoke("hi").content for _ in range(2)] == ["a", "b"]
    assert cache.stats().skipped == {"request": 2}
    scoped = GenericFakeChatModel(messages=iter(["a", "b"]), cache=cache.scoped("fake"))
    assert [scoped.invoke("hi").content for _ in range(2)] == ["a", "a"]


# -- Faults


class Broken:
    """A store of which every operation fails."""

    blocking = False

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)

        def fail(*args: Any, **kwargs: Any) -> Any:
            raise OSError("the disk is gone")

        return fail


def test_a_dead_store_does_not_change_the_call() -> None:
    cache = LLMCacheMem(LLMCache(backend=Broken()))
    model = Counting(cache=cache)
    assert [model.invoke("hi").content, asyncio.run(model.ainvoke("hi")).content] == [
        "hi #1",
        "hi #2",
    ]
    assert cache.stats().errors > 0


def test_strict_raises() -> None:
    model = Counting(cache=LLMCacheMem(LLMCache(backend=Broken(), strict=True)))
    with pytest.raises(StoreError):
        model.invoke("hi")


@pytest.mark.parametrize("method", ["request", "lookup", "store", "alookup", "astore"])
def test_a_fault_of_the_cache_does_not_change_the_call(
    cache: LLMCacheMem, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    def fault(*args: Any, **kwargs: Any) -> Any:
        raise RuntimeError("a bug")

    engine = cache.cache.engine
    monkeypatch.setattr(engine.keyer if method == "request" else engine, method, fault)
    model = Counting(cache=cache)
    call = (
        (lambda: asyncio.run(model.ainvoke("hi")))
        if method.startswith("a")
        else (lambda: model.invoke("hi"))
    )
    assert [call().content for _ in range(2)] == ["hi #1", "hi #2"]
    assert cache.stats().skipped["fault"] >= 2


def test_a_key_function_that_raises_costs_only_the_cache(make_cache: MakeCache) -> None:
    cache = make_cache(key_fn=lambda messages, **params: 1 / 0)
    model = Counting(cache=cache)
    model.invoke("hi")
    model.invoke("hi")
    assert (model.calls, cache.stats().skipped) == (2, {"request": 2})


def test_an_answer_that_cannot_be_stored_is_given_all_the_same(cache: LLMCacheMem) -> None:
    class Odd(AIMessage):
        pass

    for message in (Odd("x"), AIMessage("x", additional_kwargs={"o": object()})):
        cache.update("p", "m", [ChatGeneration(message=message)])
        assert cache.lookup("p", "m") is None
    assert cache.stats().skipped == {"value": 2}


def test_a_foreign_entry_is_a_miss(cache: LLMCacheMem) -> None:
    request = cache._request("p", "m")
    for value in (
        "text",
        [],
        [{"class": "ChatGeneration"}],
        [{"class": "Popen", "text": "x"}],
        {"stream": []},
        [1],
        None,
    ):
        cache.cache.engine.writer.put(request, value)
        assert cache.lookup("p", "m") is None
    assert cache.stats().skipped["unreadable"] == 7


# -- Objects


def test_copies_of_a_model_share_its_cache(cache: LLMCacheMem) -> None:
    model = Counting(cache=cache)
    model.invoke("hi")
    for other in (copy.copy(model), copy.deepcopy(model), model.model_copy(deep=True)):
        assert other.cache is cache
        assert other.invoke("hi").content == "hi #1"


def test_a_pickled_model_opens_the_same_file(tmp_path: Any) -> None:
    cache = LLMCacheMem(backend=tmp_path / "cache.db", usage="keep")
    model = Counting(cache=cache.scoped("s"))
    model.invoke("hi")
    other = pickle.loads(pickle.dumps(model))
    assert other.invoke("hi").content == "hi #1"
    assert (other.cache.scope, other.cache.usage) == ("s", "keep")


@pytest.mark.parametrize("cls", [Call, Identity, Model, _Answer])
def test_repr_of_a_call_and_its_parts_holds_no_content(cls: Any) -> None:
    assert repr(cls(*["PROMPT"] * len(cls._fields))) == f"{cls.__name__}(...)"


def test_repr_holds_no_secret_and_no_content(cache: LLMCacheMem) -> None:
    cache.update("PROMPT", "m", [Generation(text="ANSWER")])
    assert "PROMPT" not in repr(cache)
    assert "scope='s'" in repr(cache.scoped("s"))


@pytest.mark.parametrize(
    "arguments",
    [
        {"cache": LLMCache(), "max_size": 3},
        {"cache": object()},
        {"usage": "x"},
        {"unidentified": "x"},
        {"max_sise": 3},
    ],
)
def test_wrong_arguments(arguments: dict[str, Any]) -> None:
    with pytest.raises((TypeError, ValueError)):
        LLMCacheMem(**arguments)


@pytest.mark.parametrize("change", ["name", "variable", "task"])
async def test_changed_langchain_core_is_logged_once(
    cache: LLMCacheMem,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    change: str,
) -> None:
    monkeypatch.setattr(caller, "_logged", False)
    model = Counting(cache=cache)

    def renamed(self: Any, inputs: Any) -> None: ...

    if change == "name":
        monkeypatch.delattr(BaseChatModel, "_generate_with_cache")
    elif change == "variable":
        monkeypatch.setattr(BaseChatModel, "_agenerate_with_cache", renamed)
    for _ in range(2):
        caller.check_langchain()
        if change == "task":
            await model._agenerate_with_cache([HumanMessage("hi")])
    assert len(caplog.messages) == 1
    assert "does not support" in caplog.messages[0]


def test_known_langchain_core_is_not_logged(
    cache: LLMCacheMem, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(caller, "_logged", False)
    caller.check_langchain()
    model = Counting(cache=cache)
    model.invoke("hi")
    asyncio.run(model.ainvoke("hi"))
    assert not caplog.messages


def test_streams_are_not_langchains_to_cache(cache: LLMCacheMem) -> None:
    model = Streaming(cache=cache)
    for _ in range(2):
        list(model.stream("hi"))
    assert model.calls == 2  # cached(model, cache) is for that


def test_dates_in_answers_come_back(cache: LLMCacheMem) -> None:
    when = datetime(2026, 1, 2, 3, 4)
    cache.update("p", "m", [Generation(text="x", generation_info={"when": when, "pair": (1, 2)})])
    assert cache.lookup("p", "m")[0].generation_info == {"when": when, "pair": (1, 2)}
