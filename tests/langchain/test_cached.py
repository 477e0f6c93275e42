"""cached(model, cache): one model whose calls and streams share their entries."""

import asyncio
import copy
import logging
import pickle
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, ClassVar

import pytest
from langchain.chat_models import base, init_chat_model
from langchain_core.callbacks import BaseCallbackHandler, get_usage_metadata_callback
from langchain_core.globals import set_llm_cache
from langchain_core.language_models import (
    BaseChatModel,
    BaseLLM,
    FakeListChatModel,
    FakeListLLM,
    GenericFakeChatModel,
)
from langchain_core.load import dumpd
from langchain_core.messages import AIMessage, HumanMessage
from langchain_core.output_parsers import StrOutputParser
from langchain_core.outputs import (
    ChatGeneration,
    ChatResult,
    Generation,
    GenerationChunk,
    LLMResult,
)
from langchain_core.rate_limiters import BaseRateLimiter, InMemoryRateLimiter
from langchain_core.runnables import ConfigurableField
from langchain_doubles import Counting, Streaming
from langchain_llm_cache_mem import LLMCacheMem, cached
from pydantic import BaseModel, ConfigDict, SecretStr
from threads import WAIT_SECONDS, start, until

from llm_cache_mem import CacheMissError, LLMCache, RequestNotCacheable, options


@pytest.fixture
def model(cache: LLMCacheMem) -> Streaming:
    return cached(Streaming(), cache)


def read(model: Any, prompt: Any = "hi") -> str:
    return "".join(chunk.text for chunk in model.stream(prompt))


async def aread(model: Any, prompt: Any = "hi") -> str:
    return "".join([chunk.text async for chunk in model.astream(prompt)])


WAYS: dict[str, Callable[[Any], Any]] = {
    "invoke": lambda model: model.invoke("hi").text,
    "ainvoke": lambda model: asyncio.run(model.ainvoke("hi")).text,
    "stream": read,
    "astream": lambda model: asyncio.run(aread(model)),
    "batch": lambda model: model.batch(["hi"])[0].text,
    "abatch": lambda model: asyncio.run(model.abatch(["hi"]))[0].text,
    "generate": lambda model: model.generate([[HumanMessage("hi")]]).generations[0][0].text,
    "agenerate": lambda model: (
        asyncio.run(model.agenerate([[HumanMessage("hi")]])).generations[0][0].text
    ),
}


@pytest.mark.parametrize("first", WAYS)
def test_every_way_to_ask_shares_one_entry(model: Streaming, first: str) -> None:
    WAYS[first](model)
    assert {ask(model).strip() for ask in WAYS.values()} == {"hi #1"}
    assert model.calls == 1


MARK = {"hit": True, "saved": {"input_tokens": 10, "output_tokens": 5}}


def test_a_stream_is_replayed_as_it_came(model: Streaming) -> None:
    live, replayed = list(model.stream("hi there")), list(model.stream("hi there"))
    assert (
        [chunk.content for chunk in replayed]
        == [chunk.content for chunk in live]
        == ["hi ", "there ", "#1 ", ""]
    )
    assert replayed[0].response_metadata["llm_cache_mem"] == MARK
    assert replayed[-1].response_metadata["finish_reason"] == "stop"
    assert len({chunk.id for chunk in replayed}) == 1 != {chunk.id for chunk in live}


async def test_a_stream_is_replayed_async(model: Streaming) -> None:
    live, replayed = (
        [chunk.content async for chunk in model.astream("a b")],
        [chunk.content async for chunk in model.astream("a b")],
    )
    assert live == replayed == ["a ", "b ", "#1 ", ""]


def test_an_answer_in_one_piece_streams_as_one_chunk(model: Streaming) -> None:
    model.invoke("hi")
    (chunk,) = model.stream("hi")
    assert chunk.content == "hi #1"
    assert chunk.chunk_position == "last"


def test_each_hit_has_an_id_of_its_own_run(model: Streaming) -> None:
    ids = [model.invoke("hi").id for _ in range(3)]
    for _ in range(3):
        (streamed,) = {chunk.id for chunk in model.stream("hi")}
        ids.append(streamed)
    assert len(set(ids)) == 6
    assert all(message_id.startswith("lc_run--") for message_id in ids)


def test_a_stream_that_is_left_is_not_stored(model: Streaming) -> None:
    stream = model.stream("hi")
    next(stream)
    stream.close()
    assert read(model) == "hi #2 "


async def test_an_async_stream_that_is_left_is_not_stored(model: Streaming) -> None:
    stream = model.astream("hi")
    await anext(stream)
    await stream.aclose()
    assert await aread(model) == "hi #2 "


def test_a_stream_that_breaks_is_not_stored(cache: LLMCacheMem) -> None:
    model = cached(Streaming(breaks=True), cache)
    for calls in (1, 2):
        with pytest.raises(ConnectionError):
            read(model)
        assert model.calls == calls


def test_changing_a_chunk_does_not_change_the_entry(model: Streaming) -> None:
    for chunk in model.stream("hi"):
        chunk.content = "EVIL"
        chunk.response_metadata["evil"] = True
    assert read(model) == "hi #1 "
    assert "evil" not in model.invoke("hi").response_metadata


def test_two_streams_at_once_do_not_wait_for_each_other(model: Streaming) -> None:
    one, other = model.stream("hi"), model.stream("hi")
    assert [next(one).text, next(other).text] == ["hi ", "hi "]
    list(one)
    list(other)


def test_tokens_are_told_to_handlers_on_a_hit_too(model: Streaming) -> None:
    class Tokens(BaseCallbackHandler):
        def __init__(self) -> None:
            self.seen: list[str] = []

        def on_llm_new_token(self, token: Any, **kwargs: Any) -> None:
            self.seen.append(token)

    live, replayed = Tokens(), Tokens()
    list(model.stream("hi", config={"callbacks": [live]}))
    list(model.stream("hi", config={"callbacks": [replayed]}))
    assert live.seen == replayed.seen == ["hi ", "#1 ", ""]


def test_provider_metadata_is_in_the_hit(model: Streaming) -> None:
    first, second = model.invoke("hi"), model.invoke("hi")
    assert first.response_metadata["system_fingerprint"] == "fp_1"
    assert {**first.response_metadata, "llm_cache_mem": MARK} == second.response_metadata


def test_a_hit_costs_nothing_and_is_counted(cache: LLMCacheMem) -> None:
    for ask in (lambda model: model.invoke("hi"), read):
        model = cached(Streaming(), cache, scope=ask.__name__)
        with get_usage_metadata_callback() as usage:
            ask(model)
            ask(model)
        assert usage.usage_metadata["gpt-4o-mini"]["total_tokens"] == 15
    assert cache.stats().by_model["gpt-4o-mini"].tokens_saved == 30


def test_a_global_cache_is_left_alone(model: Streaming, cache: LLMCacheMem) -> None:
    other = LLMCacheMem()
    set_llm_cache(other)
    model.invoke("hi")
    model.invoke("hi")
    assert (other.stats().misses, cache.stats().hits, cache.stats().misses) == (0, 1, 1)


# -- One call for many callers


def test_threads_make_one_call(cache: LLMCacheMem) -> None:
    gate = threading.Event()

    class Slow(Counting):
        def _generate(self, *args: Any, **kwargs: Any) -> ChatResult:
            gate.wait(60)
            return super()._generate(*args, **kwargs)

    model = cached(Slow(), cache)
    with ThreadPoolExecutor(20) as pool:
        futures = [pool.submit(model.invoke, "hi") for _ in range(20)]
        gate.set()
        answers = [future.result() for future in futures]
    assert {answer.content for answer in answers} == {"hi #1"}
    assert model.calls == 1


def test_follower_waits_no_longer_than_the_timeout_of_its_model(cache: LLMCacheMem) -> None:
    gate = threading.Event()

    class Slow(Counting):
        request_timeout: float | None = None

        def _generate(self, *args: Any, **kwargs: Any) -> ChatResult:
            assert gate.wait(WAIT_SECONDS)
            return super()._generate(*args, **kwargs)

    leader = start(lambda: cached(Slow(), cache).invoke("hi"))
    until(lambda: cache.cache.engine.flights._table._listed)
    with pytest.raises(TimeoutError):
        cached(Slow(request_timeout=0.01), cache).invoke("hi")
    gate.set()
    assert leader.result(WAIT_SECONDS).text == "hi #1"


async def test_tasks_make_one_call(model: Streaming, cache: LLMCacheMem) -> None:
    answers = await asyncio.gather(*(model.ainvoke("hi") for _ in range(50)))
    assert {answer.content for answer in answers} == {"hi #1"}
    assert model.calls == 1
    stats = cache.stats()
    assert stats.misses - stats.coalesced == 1
    answers[0].content = "EVIL"
    assert answers[1].content == "hi #1"


async def test_a_failure_is_everybodys_and_is_not_stored(cache: LLMCacheMem) -> None:
    callers = [5, 1]  # of the first call and of the second

    class Waited(Counting):
        """Fails only when all five wait for it: one that comes later is right to try again."""

        async def _agenerate(
            self, messages: Any, stop: Any = None, run_manager: Any = None, **kwargs: Any
        ) -> ChatResult:
            flights, expected = cache.cache.engine.flights._table._listed, callers.pop(0)
            while sum(len(flight.waiters) for flight in [*flights.values()]) < expected:
                await asyncio.sleep(0)
            return self._generate(messages)

    model = cached(Waited(fails=1), cache)
    answers = await asyncio.gather(*(model.ainvoke("hi") for _ in range(5)), return_exceptions=True)
    assert {type(answer) for answer in answers} == {ConnectionError}
    assert (await model.ainvoke("hi")).content == "hi #2"


def test_rate_limiter_can_be_read_and_replaced(cache: LLMCacheMem) -> None:
    first, second = InMemoryRateLimiter(), InMemoryRateLimiter()
    model = cached(Counting(rate_limiter=first), cache)
    assert model.rate_limiter is first
    model.rate_limiter = second
    assert model.rate_limiter is model.model_copy().rate_limiter is second
    assert cached(Counting(), cache).rate_limiter is None


def test_the_rate_limiter_counts_calls_and_not_hits(cache: LLMCacheMem) -> None:
    class Limiter(BaseRateLimiter):
        asked = 0

        def acquire(self, *, blocking: bool = True) -> bool:
            self.asked += 1
            return True

        async def aacquire(self, *, blocking: bool = True) -> bool:
            return self.acquire()

    limiter = Limiter()
    model = cached(Streaming(rate_limiter=limiter), cache)
    for ask in WAYS.values():
        ask(model)
    assert limiter.asked == 1
    read(model, "ho")
    assert limiter.asked == 2


# -- Who is asked: the real model, as it is now (what LangChain's two strings do not show)


def test_each_setting_is_part_of_the_key(cache: LLMCacheMem) -> None:
    calls = 0
    for settings in (
        {},
        {"base_url": "http://two"},
        {"model_name": "gpt-4o"},
        {"temperature": 0.5},
    ):
        model = cached(Counting(**settings), cache)
        model.invoke("hi")
        calls += model.calls
    assert calls == 4


def test_a_changed_field_is_another_model(model: Streaming) -> None:
    model.invoke("hi")
    model.temperature = 0.9
    assert model.invoke("hi").content == "hi #2"
    model.temperature = 0.0
    assert model.invoke("hi").content == "hi #1"


def test_a_copy_with_other_settings_is_another_model(model: Streaming) -> None:
    model.invoke("hi")
    other = model.model_copy(update={"temperature": 0.9})
    assert other.invoke("hi").content != "hi #1"
    assert model.model_copy().invoke("hi").content == "hi #1"


class Ollama(BaseChatModel):
    """Like ChatOllama: no identifying params, so LangChain describes any two alike."""

    model: str

    @property
    def _llm_type(self) -> str:
        return "chat-ollama"

    def _generate(
        self, messages: Any, stop: Any = None, run_manager: Any = None, **kwargs: Any
    ) -> ChatResult:
        return ChatResult(generations=[ChatGeneration(message=AIMessage(self.model))])


def test_models_that_langchain_describes_alike_are_told_apart() -> None:
    cache = LLMCache()
    one, two = cached(Ollama(model="llama3"), cache), cached(Ollama(model="mistral"), cache)
    assert [model.invoke("hi").content for model in (one, two, one, two)] == [
        "llama3",
        "mistral",
    ] * 2
    assert cache.stats().hits == 2


def test_arguments_of_a_plain_llm_are_part_of_the_key(cache: LLMCacheMem) -> None:
    llm = cached(FakeListLLM(responses=["one", "two"]), cache)
    assert [
        llm.invoke("hi", temperature=0),
        llm.invoke("hi", temperature=1),
        llm.invoke("hi", temperature=0),
    ] == ["one", "two", "one"]


def test_a_schema_is_part_of_the_key(model: Streaming) -> None:
    for field in ("total", "sum"):
        schema = type(
            "Invoice", (BaseModel,), {"__annotations__": {field: int}, "__module__": __name__}
        )
        model.invoke("hi", response_format=schema)
    assert model.calls == 2


class Keyed(Counting):
    model_config = ConfigDict(arbitrary_types_allowed=True)
    openai_api_key: SecretStr | None = None
    instructions: SecretStr | None = None
    tool: object = None


def test_credential_is_no_part_of_the_key_and_another_secret_is(cache: LLMCacheMem) -> None:
    cached(Keyed(), cache).invoke("hi")
    for settings, calls in (
        ({"openai_api_key": SecretStr("b")}, 0),
        ({"instructions": SecretStr("be kind")}, 1),
        ({"instructions": SecretStr("be brief")}, 1),
        ({"instructions": SecretStr("be brief"), "openai_api_key": SecretStr("c")}, 0),
    ):
        other = cached(Keyed(**settings), cache)
        other.invoke("hi")
        assert other.calls == calls


def test_model_with_an_opaque_part_goes_uncached_and_is_logged_once(
    cache: LLMCacheMem, caplog: pytest.LogCaptureFixture
) -> None:
    shared = object()
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            model = cached(Keyed(tool=shared), cache)
            model.invoke("hi")
            assert model.calls == 1
    assert cache.stats().skipped == {"opaque": 3}
    (record,) = caplog.records
    assert "Keyed.tool is a object" in record.getMessage()


def test_name_for_an_opaque_part_lets_the_model_be_cached(cache: LLMCacheMem) -> None:
    for name, calls in (("one", 1), ("one", 0), ("two", 1)):
        model = cached(Keyed(tool=object()), cache, identity=name)
        model.invoke("hi")
        assert model.calls == calls
    again = pickle.loads(pickle.dumps(cached(Keyed(tool=3), LLMCache(), identity="one")))
    assert type(again)._llm_cache_mem.identity == "one"


def test_replay_raises_for_an_opaque_part(cache: LLMCacheMem) -> None:
    with options(mode="replay"), pytest.raises(RequestNotCacheable, match="tool"):
        cached(Keyed(tool=object()), cache).invoke("hi")


def test_a_scope_is_a_key_space_of_its_own(cache: LLMCacheMem) -> None:
    models = [cached(Counting(), cache, scope=scope) for scope in ("a", "b")] + [
        cached(Counting(), cache.scoped("a"))
    ]
    for model in models:
        model.invoke("hi")
    assert [model.calls for model in models] == [1, 1, 0]


def test_a_fakes_counter_is_not_a_setting(cache: LLMCacheMem) -> None:
    model = cached(FakeListChatModel(responses=["a", "b"]), cache)
    assert [model.invoke(prompt).content for prompt in ("x", "y", "x", "y")] == ["a", "b", "a", "b"]
    generic = cached(GenericFakeChatModel(messages=iter(["c", "d"])), cache)
    assert [generic.invoke("x").content for _ in range(2)] == ["c", "c"]


def test_requests_without_a_key_go_uncached(model: Streaming, cache: LLMCacheMem) -> None:
    for ask in (
        lambda: model.invoke("hi", tag=object()),
        lambda: list(model.stream("hi", tag=object())),
    ):
        ask()
        ask()
    assert model.calls == 4
    assert cache.stats().skipped == {"request": 4}


def test_options_reach_through(model: Streaming) -> None:
    model.invoke("hi")
    with options(mode="refresh"):
        assert read(model) == "hi #2 "
    assert model.invoke("hi").text.strip() == "hi #2"
    with options(mode="replay"):
        assert read(model) == "hi #2 "
        for ask in (model.invoke, lambda prompt: list(model.stream(prompt))):
            with pytest.raises(CacheMissError):
                ask("new")
    with options(mode="off"):
        assert read(model) == "hi #3 "


def test_key_fn_sees_the_same_request_as_in_the_core(
    make_cache: Callable[..., LLMCacheMem],
) -> None:
    seen: list[Any] = []
    cache = make_cache(
        key_fn=lambda messages, **params: seen.append((messages, params["model"])) or messages
    )
    cached(Counting(), cache).invoke("hi")
    assert seen == [([{"role": "user", "content": "hi"}], "gpt-4o-mini")]


# -- It is still the model


def test_it_is_an_instance_of_its_class(model: Streaming) -> None:
    plain = Streaming()
    assert isinstance(model, Streaming)
    assert (type(model).__name__, type(model).__module__, type(model).__qualname__) == (
        "Streaming",
        "langchain_doubles",
        "Streaming",
    )
    assert type(plain) is Streaming
    assert model.model_dump() == plain.model_dump()
    assert dumpd(model)["id"] == dumpd(plain)["id"]
    assert model.lc_id() == plain.lc_id()
    assert repr(model) == repr(plain).replace("Streaming(", "Streaming(cache=False, ", 1)


def test_the_model_that_was_wrapped_is_left_alone(cache: LLMCacheMem) -> None:
    plain = Counting()
    cached(plain, cache)
    assert plain.cache is None
    plain.invoke("hi")
    plain.invoke("hi")
    assert plain.calls == 2


def test_wrapping_twice_is_wrapping_once(cache: LLMCacheMem) -> None:
    inner = LLMCacheMem()
    model = cached(cached(Counting(), inner), cache)
    model.invoke("hi")
    model.invoke("hi")
    assert (inner.stats().misses, cache.stats().hits) == (0, 1)


@pytest.mark.parametrize(
    "duplicate", [copy.copy, copy.deepcopy, lambda model: model.model_copy(deep=True)]
)
def test_copies_stay_cached(model: Streaming, duplicate: Callable[[Any], Any]) -> None:
    model.invoke("hi")
    other = duplicate(model)
    other._calls.clear()
    assert other.invoke("hi").content == "hi #1"
    assert other.calls == 0


def test_it_can_be_pickled(tmp_path: Any) -> None:
    model = cached(Counting(), LLMCache(backend=tmp_path / "cache.db"), scope="s", usage="keep")
    model.invoke("hi")
    other = pickle.loads(pickle.dumps(model))
    assert isinstance(other, Counting)
    found = other.invoke("hi")
    assert (found.content, found.usage_metadata["total_tokens"]) == ("hi #1", 15)


def test_bound_tools_and_configured_fields_stay_cached(model: Streaming) -> None:
    bound = model.bind_tools(
        [{"name": "f", "description": "", "parameters": {"type": "object", "properties": {}}}]
    )
    assert bound.invoke("hi").content == bound.invoke("hi").content == "hi #1"
    configured = model.configurable_fields(temperature=ConfigurableField(id="t"))
    answers = [configured.with_config(configurable={"t": 0.7}).invoke("hi") for _ in range(2)]
    assert "llm_cache_mem" in answers[1].response_metadata


def test_fields_are_still_validated() -> None:
    class Strict(Counting):
        model_config = ConfigDict(validate_assignment=True)

    model = cached(Strict(), LLMCache())
    model.temperature = "0.5"
    assert model.temperature == 0.5
    with pytest.raises(ValueError, match="temperature"):
        model.temperature = "hot"
    model.invoke("hi")
    assert model.invoke("hi").content == "hi #1"


def test_a_model_without_streams_still_has_none(cache: LLMCacheMem) -> None:
    model = cached(Counting(), cache)
    (answer,) = model.stream("hi")
    assert isinstance(answer, AIMessage)
    assert [piece.content for piece in model.stream("hi")] == ["hi #1"]
    assert model.calls == 1


def test_a_sync_stream_serves_async_callers(cache: LLMCacheMem) -> None:
    class OnlySync(Counting):
        _stream = Streaming._stream

    class WithFields(OnlySync):
        breaks: bool = False

    model = cached(WithFields(), cache)
    assert asyncio.run(aread(model)) == asyncio.run(aread(model)) == read(model) == "hi #1 "


def test_an_async_stream_alone(cache: LLMCacheMem) -> None:
    class OnlyAsync(Counting):
        async def _astream(
            self, messages: Any, stop: Any = None, run_manager: Any = None, **kwargs: Any
        ) -> AsyncIterator[Any]:
            yield next(Streaming._stream(self, messages))  # type: ignore[arg-type]

    model = cached(OnlyAsync(), cache)
    assert asyncio.run(aread(model)) == asyncio.run(aread(model)) == "hi "


@pytest.mark.parametrize(
    "thing",
    [
        Counting().bind(stop=["x"]),
        Counting() | StrOutputParser(),
        Counting().with_fallbacks([Counting()]),
        Counting().configurable_fields(temperature=ConfigurableField("temperature")),
    ],
    ids=["binding", "chain", "fallbacks", "fields"],
)
def test_runnable_around_a_model_is_refused_with_advice(thing: Any) -> None:
    with pytest.raises(TypeError, match="wrap the model first"):
        cached(thing, LLMCache())


@pytest.mark.parametrize("thing", [object(), Counting, StrOutputParser(), None])
def test_only_models_can_be_wrapped(thing: Any) -> None:
    with pytest.raises(
        TypeError, match=r"takes a chat model, an LLM or an embedding model, not \w+$"
    ):
        cached(thing, LLMCache())


# -- Models that are made when they are called


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[Streaming]:
    """The models that init_chat_model makes."""
    models: list[Streaming] = []

    def make(model: str, *, model_provider: str | None = None, **kwargs: Any) -> Streaming:
        models.append(Streaming(model_name=model, **kwargs))
        return models[-1]

    monkeypatch.setattr(base, "_init_chat_model_helper", make)
    return models


def calls(made: list[Streaming]) -> int:
    return sum(model.calls for model in made)


def test_name_of_a_model_is_made_into_a_cached_one(
    made: list[Streaming], cache: LLMCacheMem
) -> None:
    for _ in range(2):
        assert cached("openai:gpt-5", cache).invoke("hi").text == "hi #1"
    assert calls(made) == 1


@pytest.mark.parametrize("named", ["openai:gpt-5", None])
def test_configurable_model_is_cached(
    made: list[Streaming], cache: LLMCacheMem, named: str | None
) -> None:
    model = cached(init_chat_model(named, configurable_fields=("model", "temperature")), cache)
    ask: Any = {"configurable": {"model": "openai:gpt-5"}}
    other: Any = {"configurable": {"model": "openai:gpt-6", "temperature": 0.5}}
    for _ in range(2):
        assert model.invoke("hi", config=ask).text == "hi #1"
        assert asyncio.run(model.ainvoke("hi", config=ask)).text == "hi #1"
        assert "".join(chunk.text for chunk in model.stream("hi", config=ask)).strip() == "hi #1"
        assert model.with_config(ask).invoke("hi").text == "hi #1"
    assert calls(made) == 1
    for _ in range(2):
        assert model.invoke("hi", config=other).text == "hi #1"
    assert calls(made) == 2


def test_configurable_model_stays_cached_when_bound(
    made: list[Streaming], cache: LLMCacheMem
) -> None:
    model: Any = cached(init_chat_model("openai:gpt-5", configurable_fields="any"), cache)
    assert type(model).__name__ == "_ConfigurableModel"
    bound = model.bind_tools([lookup]).with_config({"tags": ["x"]})
    assert [bound.invoke("hi").text for _ in range(2)] == ["hi #1"] * 2
    assert calls(made) == 1
    assert model.model_name == "openai:gpt-5"
    with pytest.raises(AttributeError):
        model.nothing  # noqa: B018


def lookup(city: str) -> str:
    """Look a city up."""
    return city


# -- Plain LLMs


class Words(BaseLLM):
    """A plain LLM that reports its usage as OpenAI's does, and streams."""

    model_name: str = "gpt-3.5-turbo-instruct"
    asked: ClassVar[list[str]] = []

    @property
    def _llm_type(self) -> str:
        return "words"

    def _generate(
        self, prompts: list[str], stop: Any = None, run_manager: Any = None, **kwargs: Any
    ) -> LLMResult:
        self.asked.extend(prompts)
        usage = {"token_usage": {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10}}
        return LLMResult(
            generations=[[Generation(text=f"{prompt} !")] for prompt in prompts], llm_output=usage
        )

    def _stream(
        self, prompt: str, stop: Any = None, run_manager: Any = None, **kwargs: Any
    ) -> Iterator[GenerationChunk]:
        self.asked.append(prompt)
        yield GenerationChunk(text=f"{prompt} ")
        yield GenerationChunk(text="!")


@pytest.fixture
def llm(cache: LLMCacheMem) -> Words:
    Words.asked.clear()
    return cached(Words(), cache)


def test_an_llm_shares_entries_between_invoke_batch_and_stream(llm: Words) -> None:
    assert llm.invoke("a") == "a !"
    assert llm.batch(["a", "b", "b"]) == ["a !", "b !", "b !"]
    assert list(llm.stream("a")) == ["a !"]
    assert list(llm.stream("c")) == ["c ", "!"]
    assert llm.invoke("c") == "c !"
    assert Words.asked == ["a", "b", "c"]


def test_an_llm_shares_them_async_too(llm: Words) -> None:
    async def ask() -> None:
        assert await llm.ainvoke("a") == "a !"
        assert await llm.abatch(["a", "b", "b"]) == ["a !", "b !", "b !"]
        assert [piece async for piece in llm.astream("a")] == ["a !"]
        for _ in range(2):
            assert [piece async for piece in llm.astream("c")] == ["c ", "!"]
        assert await asyncio.gather(*(llm.ainvoke("d") for _ in range(9))) == ["d !"] * 9

    asyncio.run(ask())
    assert Words.asked == ["a", "b", "c", "d"]


def test_an_llm_reports_what_it_used(llm: Words, cache: LLMCacheMem) -> None:
    for _ in range(3):
        llm.invoke("a")
    assert cache.stats().by_model["gpt-3.5-turbo-instruct"].tokens_saved == 20


def test_a_clear_during_a_stream_prevents_storing_it() -> None:
    cache = LLMCache()
    model = cached(FakeListChatModel(responses=["one", "two"]), cache)
    stream = model.stream("hi")
    next(stream)
    cache.clear()
    list(stream)
    assert cache.stats().size == 0
