"""The eight leaves through a cache: what they answer, what they share, and what a stream leaves
behind."""

import asyncio
from typing import Any

import pytest
from llama_index.core.base.llms.types import (
    ChatMessage,
    ChatResponse,
    CompletionResponse,
    TextBlock,
)
from llama_index.core.llms import MockLLM
from llama_index.core.llms.mock import (
    MockFunctionCallingLLM,
    MockLLMWithChatMemoryOfLastCall,
    MockLLMWithNonyieldingChatStream,
)
from llama_index_llm_cache_mem import CachedLLM
from llama_index_llm_cache_mem.testing import MODES, wrapping

from llm_cache_mem import CacheMissError, LLMCache, options

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
FAMILIES = (
    [name for name in LEAVES if name.endswith("chat")],
    [name for name in LEAVES if name.endswith("complete")],
)


@pytest.mark.parametrize("leaf", LEAVES)
def test_second_call_does_not_reach_the_model(leaf, parrot, cache, ask, said):
    llm = CachedLLM(parrot, cache)
    first, second = ask(llm, leaf), ask(llm, leaf)
    assert said(first) == said(second) == said(ask(parrot, leaf))
    assert len(parrot.calls) == 2  # one through the cache, one bare
    assert (cache.stats().hits, cache.stats().misses) == (1, 1)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("first", range(4))
def test_all_forms_of_one_call_share_an_entry(family, first, parrot, cache, ask, said):
    llm = CachedLLM(parrot, cache)
    answers = {said(ask(llm, leaf)) for leaf in family[first:] + family[:first]}
    assert len(answers) == 1
    assert len(parrot.calls) == 1


def test_chat_and_complete_do_not_answer_each_other(parrot, cache, ask):
    llm = CachedLLM(parrot, cache)
    assert isinstance(ask(llm, "chat", "x"), ChatResponse)
    assert isinstance(ask(llm, "complete", "x"), CompletionResponse)


@pytest.mark.parametrize("leaf", [name for name in LEAVES if "stream" in name])
def test_a_stream_is_replayed_in_the_pieces_it_came_in(leaf, parrot, cache, ask):
    llm = CachedLLM(parrot, cache)
    live, again = ask(llm, leaf, "a b c d"), ask(llm, leaf, "a b c d")
    assert [chunk.delta for chunk in live] == [chunk.delta for chunk in again]
    assert str(live[-1]) == str(again[-1])
    assert live == again
    assert [type(chunk) for chunk in live] == [type(chunk) for chunk in again]


def test_every_hit_is_a_new_object(parrot, cache):
    llm = CachedLLM(parrot, cache, usage="keep")
    first = llm.chat([ChatMessage(content="x")])
    first.message.blocks.append(TextBlock(text="scribble"))
    second = llm.chat([ChatMessage(content="x")])
    second.additional_kwargs["scribble"] = 1
    third = llm.chat([ChatMessage(content="x")])
    assert third == parrot.chat([ChatMessage(content="x")])


def test_changing_chunks_does_not_change_the_stored_ones(parrot, cache):
    llm = CachedLLM(parrot, cache)
    for chunk in llm.stream_chat([ChatMessage(content="x y z")]):
        chunk.message.blocks[0].text = "scribble"
    assert (
        llm.chat([ChatMessage(content="x y z")]).message.content
        == parrot.chat([ChatMessage(content="x y z")]).message.content
    )


# -- As bare


@pytest.mark.parametrize("mode", ["bare", *MODES])
@pytest.mark.parametrize("leaf", LEAVES)
@pytest.mark.parametrize(
    "make",
    [
        MockLLM,
        lambda: MockLLM(max_tokens=3),
        lambda: MockLLM(is_chat_model=True),
        MockFunctionCallingLLM,
        MockLLMWithChatMemoryOfLastCall,
        MockLLMWithNonyieldingChatStream,
    ],
    ids=["mock", "mock-3-tokens", "mock-chat", "mock-tools", "mock-memory", "mock-empty-stream"],
)
def test_mock_models_answer_as_bare(mode, leaf, make, ask, said):
    expected = said(ask(make(), leaf))
    if mode == "bare":
        assert expected or "stream" in leaf
        return
    with wrapping(mode):
        llm = make()
        assert said(ask(llm, leaf)) == expected
        assert said(ask(llm, leaf)) == expected


@pytest.mark.parametrize("mode", MODES)
def test_wrong_arguments_raise_what_they_raise_bare(mode):
    for call in (
        lambda llm: llm.complete(),
        lambda llm: llm.complete("p", prompt="p"),
        lambda llm: llm.chat(),
        lambda llm: llm.chat([], messages=[]),
        lambda llm: llm.stream_complete(),
        lambda llm: llm.chat(3),
        lambda llm: llm.complete("p", True, 3),
    ):
        with pytest.raises((TypeError, ValueError, AttributeError)) as bare:
            call(MockLLM())
        with wrapping(mode):
            llm = MockLLM()
        with pytest.raises(type(bare.value)) as wrapped:
            call(llm)
        assert str(wrapped.value) == str(bare.value)


# -- Streams that do not end


@pytest.mark.parametrize("leaf", ["stream_chat", "stream_complete"])
def test_abandoned_streams_store_nothing(leaf, parrot, cache):
    llm = CachedLLM(parrot, cache)
    subject: Any = [ChatMessage(content="a b c")] if leaf == "stream_chat" else "a b c"
    for leave in (
        lambda s: s.close(),
        lambda s: (next(s), s.close()),
        lambda s: [next(s) for _ in range(4)],
        lambda s: None,
    ):
        stream = getattr(llm, leaf)(subject)
        leave(stream)
        del stream
    assert cache.stats().stored == 0


async def test_abandoned_async_streams_store_nothing(parrot, cache):
    llm = CachedLLM(parrot, cache)
    stream = await llm.astream_chat([ChatMessage(content="a b c")])
    await anext(stream)
    await stream.aclose()

    async def read() -> None:
        async for _ in await llm.astream_chat([ChatMessage(content="a b c")]):
            await asyncio.sleep(3600)

    task = asyncio.create_task(read())
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert cache.stats().stored == 0


def test_closing_a_stream_closes_that_of_the_model(make_parrot, cache):
    closed = []

    class Closing(make_parrot):
        def stream_complete(self, prompt, formatted=False, **kwargs):
            try:
                yield CompletionResponse(text="a", delta="a")
                yield CompletionResponse(text="ab", delta="b")
            finally:
                closed.append(True)

    stream = CachedLLM(Closing(), cache).stream_complete("x")
    next(stream)
    stream.close()
    assert closed == [True]


@pytest.mark.parametrize("leaf", LEAVES)
def test_errors_are_raised_and_not_stored(leaf, parrot, cache, ask):
    llm = CachedLLM(parrot, cache)
    parrot.fail = ValueError("no")
    with pytest.raises(ValueError, match="no"):
        ask(llm, leaf)
    parrot.fail = None
    ask(llm, leaf)
    assert len(parrot.calls) == 2
    assert cache.stats().stored == 1


def test_an_error_of_the_call_is_raised_by_the_call(parrot, cache):
    parrot.fail = ValueError("no")
    with pytest.raises(ValueError, match="no"):
        CachedLLM(parrot, cache).stream_complete("x")


def test_empty_streams_are_not_stored(cache):
    llm = CachedLLM(MockLLMWithNonyieldingChatStream(), cache)
    assert list(llm.stream_chat([ChatMessage(content="x")])) == []
    assert cache.stats().stored == 0


def test_a_stream_that_began_before_a_clear_is_not_stored(parrot, cache):
    llm = CachedLLM(parrot, cache)
    stream = llm.stream_complete("a b c")
    next(stream)
    cache.clear()
    list(stream)
    assert cache.stats().size == 0


def test_a_stream_that_contradicts_itself_is_not_stored(make_parrot, cache):
    class Odd(make_parrot):
        def stream_complete(self, prompt, formatted=False, **kwargs):
            yield CompletionResponse(text="other", delta="one")
            yield CompletionResponse(text="than that", delta="two")

    assert [chunk.delta for chunk in CachedLLM(Odd(), cache).stream_complete("x")] == ["one", "two"]
    assert cache.stats().stored == 0


# -- Options, admission, single-flight


def test_options_reach_the_cache(parrot, cache):
    llm = CachedLLM(parrot, cache)
    for asked in ({"mode": "off"}, {"mode": "refresh"}, {"namespace": "acme"}, {"sample": 1}):
        with options(**asked):
            llm.complete("x")
    assert len(parrot.calls) == 4
    llm.complete("x")
    assert len(parrot.calls) == 4


@pytest.mark.parametrize("leaf", LEAVES)
def test_replay_raises_for_what_was_never_recorded(leaf, parrot, cache, ask):
    llm = CachedLLM(parrot, cache)
    with options(mode="replay"), pytest.raises(CacheMissError):
        ask(llm, leaf)
    ask(llm, leaf)
    with options(mode="replay"):
        ask(llm, leaf)
    assert len(parrot.calls) == 1


def test_an_entry_expires(parrot, clock):
    llm = CachedLLM(parrot, LLMCache(ttl_seconds=60, clock=clock))
    llm.complete("x")
    clock.advance(61)
    llm.complete("x")
    assert len(parrot.calls) == 2


@pytest.mark.parametrize("streams", [False, True])
def test_truncated_answers_are_not_stored(streams, make_parrot, cache, ask):
    raw = {"choices": [{"finish_reason": "length", "message": {"content": "cut"}}]}

    class Truncated(make_parrot):
        def complete(self, prompt, formatted=False, **kwargs):
            return CompletionResponse(text="cut", raw=raw)

        def stream_complete(self, prompt, formatted=False, **kwargs):
            yield CompletionResponse(text="cut", delta="cut", raw=raw)
            yield CompletionResponse(
                text="cut", delta="", raw={"choices": [], "usage": {"prompt_tokens": 1}}
            )

    ask(CachedLLM(Truncated(), cache), "stream_complete" if streams else "complete")
    assert dict(cache.stats().skipped) == {"truncated": 1}


async def test_a_thousand_concurrent_calls_are_one(make_parrot, cache):
    class Slow(make_parrot):
        async def achat(self, messages, **kwargs):
            self.calls.append("chat")
            await asyncio.sleep(0.01)
            return ChatResponse(message=ChatMessage(role="assistant", content="slowly"))

    slow = Slow()
    llm = CachedLLM(slow, cache)
    answers = await asyncio.gather(*(llm.achat([ChatMessage(content="x")]) for _ in range(1000)))
    assert len(slow.calls) == 1
    assert {str(answer) for answer in answers} == {"assistant: slowly"}
    assert len({id(answer) for answer in answers}) == 1000


async def test_a_sync_call_inside_an_async_one_does_not_deadlock(make_parrot, cache):
    started = asyncio.Event()

    class Slow(make_parrot):
        async def achat(self, messages, **kwargs):
            started.set()
            await asyncio.sleep(0.01)
            return ChatResponse(message=ChatMessage(role="assistant", content="slowly"))

    llm = CachedLLM(Slow(), cache)
    task = asyncio.create_task(llm.achat([ChatMessage(content="x")]))
    await started.wait()
    assert "x" in str(llm.chat([ChatMessage(content="x")]))
    assert "slowly" in str(await task)


def test_usage_and_model_are_counted(parrot):
    cache = LLMCache(prices={"parrot-1": (1.0, 2.0)})
    llm = CachedLLM(parrot, cache)
    llm.complete("x")
    llm.complete("x")
    stats = cache.stats()
    assert stats.tokens_saved == 8
    assert stats.saved_usd == pytest.approx((3 * 1.0 + 5 * 2.0) / 1e6)
    assert list(stats.by_model) == ["parrot-1"]
