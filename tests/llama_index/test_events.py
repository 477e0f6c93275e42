"""What listeners hear: of a miss what they hear bare, of a hit the same once, marked and free of
charge."""

import copy
from collections import Counter
from typing import Any

import pytest
from llama_index.core.base.llms.types import ChatMessage, ChatResponse, CompletionResponse
from llama_index.core.bridge.pydantic import BaseModel, ConfigDict, Field
from llama_index.core.callbacks import CallbackManager, CBEventType, TokenCountingHandler
from llama_index.core.callbacks.base_handler import BaseCallbackHandler
from llama_index.core.instrumentation.event_handlers import BaseEventHandler
from llama_index.core.instrumentation.span_handlers import BaseSpanHandler
from llama_index.core.llms import MockLLM
from llama_index_instrumentation import root_dispatcher
from llama_index_instrumentation.dispatcher import instrument_tags
from llama_index_llm_cache_mem import CachedLLM, set_llm_cache
from llama_index_llm_cache_mem.usage import zero_usage

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


class Events(BaseEventHandler):
    heard: list[Any] = Field(default_factory=list)

    def handle(self, event: Any, **kwargs: Any) -> None:
        self.heard.append(event)


class Spans(BaseSpanHandler[Any]):
    heard: list[Any] = Field(default_factory=list)

    def new_span(
        self,
        id_: str,
        bound_args: Any,
        instance: Any = None,
        parent_span_id: Any = None,
        tags: Any = None,
        **more: Any,
    ) -> None:
        parent = parent_span_id and parent_span_id.split("-")[0]
        self.heard.append(
            (id_.split("-")[0], instance.class_name(), parent, "llm_cache.hit" in (tags or {}))
        )

    def prepare_to_exit_span(
        self, id_: str, bound_args: Any, instance: Any = None, result: Any = None, **kwargs: Any
    ) -> None:
        return None

    def prepare_to_drop_span(
        self, id_: str, bound_args: Any, instance: Any = None, err: Any = None, **kwargs: Any
    ) -> None:
        return None


class Callbacks(BaseCallbackHandler):
    def __init__(self) -> None:
        super().__init__([], [])
        self.heard: list[str] = []

    def on_event_start(
        self,
        event_type: CBEventType,
        payload: Any = None,
        event_id: str = "",
        parent_id: str = "",
        **kwargs: Any,
    ) -> str:
        self.heard.append(f"+{event_type.value}")
        return event_id

    def on_event_end(
        self, event_type: CBEventType, payload: Any = None, event_id: str = "", **kwargs: Any
    ) -> None:
        self.heard.append(f"-{event_type.value}")

    def start_trace(self, trace_id: Any = None) -> None:
        self.heard.append(f"trace {trace_id}")

    def end_trace(self, trace_id: Any = None, trace_map: Any = None) -> None:
        self.heard.append(f"end {trace_id}")


class Limiter:
    def __init__(self) -> None:
        self.taken = 0

    def acquire(self) -> None:
        self.taken += 1

    async def async_acquire(self) -> None:
        self.taken += 1


class Ears:
    """All kinds of listeners on one model."""

    def __init__(self, llm: Any) -> None:
        self.events, self.spans, self.callbacks, self.limiter = (
            Events(),
            Spans(),
            Callbacks(),
            Limiter(),
        )
        self.tokens = TokenCountingHandler(tokenizer=str.split)
        llm.callback_manager = CallbackManager([self.callbacks, self.tokens])
        llm.rate_limiter = self.limiter
        root_dispatcher.add_event_handler(self.events)
        root_dispatcher.add_span_handler(self.spans)

    def heard(self) -> dict[str, Any]:
        """What has been heard since the last time, but for what differs from call to call."""
        told = {
            "events": Counter(event.class_name() for event in self.events.heard),
            "spans": list(self.spans.heard),
            "callbacks": list(self.callbacks.heard),
            "taken": self.limiter.taken,
            "tokens": self.tokens.total_llm_token_count,
            "marked": [bool(event.tags.get("llm_cache.hit")) for event in self.events.heard],
            "raws": [
                getattr(event, "response", None) and event.response.raw
                for event in self.events.heard
            ],
        }
        for seen in (self.events.heard, self.spans.heard, self.callbacks.heard):
            seen.clear()
        self.limiter.taken = 0
        self.tokens.reset_counts()
        return told


@pytest.fixture
def ears(parrot, current_loop):
    before = list(root_dispatcher.event_handlers), list(root_dispatcher.span_handlers)
    yield Ears(parrot)
    root_dispatcher.event_handlers, root_dispatcher.span_handlers = before


def _unpaid(raw):
    """What a hit reports of *raw*: all but the tokens."""
    return raw and {**raw, "usage": dict.fromkeys(raw["usage"], 0)}


@pytest.mark.parametrize("everywhere", [False, True], ids=["wrapped", "process-wide"])
@pytest.mark.parametrize("leaf", LEAVES)
def test_a_miss_sounds_as_bare_and_a_hit_as_half_price(leaf, everywhere, parrot, cache, ears, ask):
    ask(parrot, leaf)
    bare = ears.heard()
    with set_llm_cache(cache if everywhere else None):
        llm = parrot if everywhere else CachedLLM(parrot, cache)
        ask(llm, leaf)
        miss = ears.heard()
        answer = ask(llm, leaf)
        hit = ears.heard()
    assert miss == bare
    assert cache.stats().hits == 1
    assert bare["taken"] >= 1
    assert bare["tokens"] > 0
    assert (hit["taken"], hit["tokens"]) == (0, 0)
    assert all(hit["marked"])
    assert not any(bare["marked"])
    assert hit["raws"][-1] == _unpaid(bare["raws"][-1])
    kind = "LLMChat" if leaf.endswith("chat") else "LLMCompletion"
    assert set(hit["events"]) == {name for name in bare["events"] if name.startswith(kind)}
    assert hit["events"][f"{kind}StartEvent"] == hit["events"][f"{kind}EndEvent"] == 1
    if isinstance(answer, list):
        assert hit["events"][f"{kind}InProgressEvent"] == len(answer)
    assert hit["spans"] == [(f"Parrot.{leaf}", "parrot", None, True)]
    trace = "chat" if leaf.endswith("chat") else "completion"
    if "stream" in leaf:
        assert hit["callbacks"] == [f"trace {trace}", "+llm", f"end {trace}", "-llm"]
    else:
        assert hit["callbacks"] == [f"trace {trace}", "+llm", "-llm", f"end {trace}"]


@pytest.mark.parametrize("everywhere", [False, True], ids=["wrapped", "process-wide"])
@pytest.mark.parametrize(("usage", "tokens"), [("zero", 0), ("keep", 8)])
def test_the_usage_of_a_hit_is_zero_unless_it_is_to_be_kept(
    everywhere, usage, tokens, parrot, cache, ears
):
    with set_llm_cache(cache if everywhere else None, usage=usage):
        llm = parrot if everywhere else CachedLLM(parrot, cache, usage=usage)
        first, second = llm.complete("x"), llm.complete("x")
        [chunk] = llm.stream_complete("x")
    assert first.raw["usage"]["total_tokens"] == 8
    for hit in (second, chunk, copy.copy(llm).complete("x") if not everywhere else second):
        assert (hit.raw["usage"]["total_tokens"], hit.text) == (tokens, first.text)
        assert hit.additional_kwargs["total_tokens"] == tokens
    assert len(parrot.calls) == 1


def test_an_unknown_usage_is_refused(parrot, cache):
    with pytest.raises(ValueError, match="usage"):
        CachedLLM(parrot, cache, usage="none")
    with pytest.raises(ValueError, match="usage"):
        set_llm_cache(cache, usage="none")


def test_spans_of_hits_nest_as_those_of_calls(parrot, cache, ears):
    from llama_index.core import PromptTemplate

    llm = CachedLLM(parrot, cache)
    parents = []
    for _ in range(2):
        llm.predict(PromptTemplate("{x}"), x="1")
        parents.append([(name, parent) for name, _, parent, _ in ears.heard()["spans"]])
    assert parents[0] == [("Parrot.predict", None), ("Parrot.complete", "Parrot.predict")]
    assert parents[1] == parents[0]


def test_tags_of_the_application_stay(parrot, cache, ears):
    llm = CachedLLM(parrot, cache)
    for _ in range(2):
        with instrument_tags({"tenant": "acme"}):
            llm.complete("x")
    assert all(event.tags["tenant"] == "acme" for event in ears.events.heard)


def test_a_token_budget_is_not_used_up_by_hits(cache):
    counter = TokenCountingHandler(tokenizer=str.split, token_budget=5)
    llm = CachedLLM(MockLLM(callback_manager=CallbackManager([counter])), cache)
    for _ in range(50):
        llm.complete("one two")
    assert cache.stats().hits == 49


def test_leaving_a_replayed_stream_is_told_as_bare(parrot, cache, ears):
    llm = CachedLLM(parrot, cache)
    list(llm.stream_complete("a b c"))
    ears.heard()
    heard = []
    for either in (parrot, llm):
        stream = either.stream_complete("a b c")
        next(stream)
        stream.close()
        told = ears.heard()
        heard.append((told["events"], told["callbacks"]))
    assert heard[0] == heard[1]


def test_an_observer_that_changes_what_it_sees_changes_nothing_stored(parrot, cache):
    class Vandal(BaseEventHandler):
        def handle(self, event: Any, **kwargs: Any) -> None:
            response = getattr(event, "response", None)
            if isinstance(response, ChatResponse):
                response.message.blocks.clear()

    before = list(root_dispatcher.event_handlers)
    llm = CachedLLM(parrot, cache)
    expected = parrot.chat([ChatMessage(content="x")]).message.content
    llm.chat([ChatMessage(content="x")])
    root_dispatcher.add_event_handler(Vandal())
    try:
        llm.chat([ChatMessage(content="x")])
    finally:
        root_dispatcher.event_handlers = before
    assert llm.chat([ChatMessage(content="x")]).message.content == expected


async def test_a_coalesced_caller_sees_a_hit(make_parrot, cache):
    import asyncio

    class Slow(make_parrot):
        async def achat(self, messages: Any, **kwargs: Any) -> ChatResponse:
            await asyncio.sleep(0.01)
            return await super().achat(messages, **kwargs)

    slow = Slow()
    before = list(root_dispatcher.event_handlers)
    events = Events()
    root_dispatcher.add_event_handler(events)
    try:
        llm = CachedLLM(slow, cache)
        await asyncio.gather(*(llm.achat([ChatMessage(content="x")]) for _ in range(3)))
    finally:
        root_dispatcher.event_handlers = before
    marked = Counter(
        "llm_cache.hit" in event.tags
        for event in events.heard
        if event.class_name() == "LLMChatEndEvent"
    )
    assert len(slow.calls) == 1
    assert marked[True] == 2


def test_classes_made_while_a_cache_is_on_have_spans(parrot, cache, ears, make_parrot):
    set_llm_cache(cache)

    class Late(make_parrot):
        def complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> Any:
            return super().complete(prompt, formatted=formatted, **kwargs)

    Late().complete("x")
    assert ("Late.complete", "parrot", None, False) in ears.heard()["spans"]


class Details(BaseModel):
    model_config = ConfigDict(extra="allow")
    cached_tokens: int = 3


def _usage():
    return {"total_tokens": 8, "details": Details(audio=2), "tier": "flex"}


class Raw(BaseModel):
    id: str = "r1"
    created: int = 17
    max_output_tokens: int = 100
    usage: dict[str, Any] = Field(default_factory=_usage)
    choices: list[dict[str, Any]] = Field(default_factory=lambda: [{"index": 1, "eval_count": 5}])


def test_a_hit_has_its_raw_answer_with_the_usage_zero():
    raw = Raw()
    response = CompletionResponse(text="x", raw=raw, additional_kwargs={"prompt_tokens": 3, "n": 1})
    seen = zero_usage(response)
    assert (seen.text, seen.additional_kwargs) == ("x", {"prompt_tokens": 0, "n": 1})
    assert (seen.raw.id, seen.raw.created, seen.raw.max_output_tokens) == ("r1", 17, 100)
    assert (seen.raw.usage["total_tokens"], seen.raw.usage["tier"]) == (0, "flex")
    assert (seen.raw.usage["details"].cached_tokens, seen.raw.usage["details"].audio) == (0, 0)
    assert seen.raw.choices == [{"index": 1, "eval_count": 0}]
