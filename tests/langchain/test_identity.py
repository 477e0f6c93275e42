"""Which settings of a model are part of its requests: the same answer through both entry points."""

import gc
import weakref
from collections.abc import Callable
from functools import partial
from typing import Any

import httpx
import pytest
from langchain_anthropic import ChatAnthropic
from langchain_core.language_models import BaseChatModel, BaseLLM
from langchain_core.messages import AIMessage
from langchain_core.outputs import ChatGeneration, ChatResult, Generation, LLMResult
from langchain_doubles import Counting
from langchain_llm_cache_mem import LLMCacheMem, cached
from langchain_openai import AzureChatOpenAI, ChatOpenAI
from pydantic import BaseModel, ConfigDict, PrivateAttr

from llm_cache_mem import LLMCache, ignoring

Ask = Callable[[Any, LLMCacheMem], str]


def through_cached(model: Any, cache: LLMCacheMem) -> str:
    return cached(model, cache).invoke("hi").text


def through_langchain(model: Any, cache: LLMCacheMem) -> str:
    model.cache = cache
    return model.invoke("hi").text


@pytest.fixture(params=[through_cached, through_langchain])
def ask(request: pytest.FixtureRequest) -> Ask:
    return request.param


class Answers:
    """Puts numbered answers in place of a provider's."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *classes: type) -> None:
        self.calls = 0
        for cls in classes:
            monkeypatch.setattr(cls, "_generate", self._generate)

    def _generate(self, *args: Any, **kwargs: Any) -> ChatResult:
        self.calls += 1
        return ChatResult(generations=[ChatGeneration(message=AIMessage(f"#{self.calls}"))])


@pytest.fixture
def answers(monkeypatch: pytest.MonkeyPatch) -> Answers:
    return Answers(monkeypatch, ChatOpenAI.__mro__[1], ChatOpenAI, ChatAnthropic, AzureChatOpenAI)


def openai(**settings: Any) -> ChatOpenAI:
    return ChatOpenAI(**{"model": "gpt-4o-mini", "api_key": "sk-1", **settings})


def anthropic(**settings: Any) -> ChatAnthropic:
    return ChatAnthropic(**{"model": "claude-sonnet-4-5", "api_key": "sk-1", **settings})


def azure(**settings: Any) -> AzureChatOpenAI:
    usual = {"azure_endpoint": "https://a.example", "api_version": "1", "azure_deployment": "d"}
    return AzureChatOpenAI(**{**usual, "api_key": "k", **settings})


def test_stop_that_is_set_on_the_model_is_in_the_key(
    ask: Ask, answers: Answers, cache: LLMCacheMem
) -> None:
    settings: list[dict[str, Any]] = [{"stop": ["x"]}, {"stop": ["y"]}, {}]
    found = [ask(openai(**each), cache) for each in settings * 2]
    assert found == ["#1", "#2", "#3"] * 2


def test_mcp_servers_are_in_the_key_despite_lc_secrets(
    ask: Ask, answers: Answers, cache: LLMCacheMem
) -> None:
    def servers(name: str) -> list[dict[str, str]]:
        return [{"type": "url", "url": f"https://{name}.example", "name": name}]

    settings = [{"mcp_servers": servers("hr")}, {"mcp_servers": servers("law")}, {}]
    assert [ask(anthropic(**each), cache) for each in settings * 2] == ["#1", "#2", "#3"] * 2
    assert not cache.stats().skipped


def test_how_a_call_travels_is_not_in_the_key(
    ask: Ask, answers: Answers, cache: LLMCacheMem
) -> None:
    for settings in (
        {},
        {"azure_ad_token_provider": lambda: "token"},
        {"timeout": httpx.Timeout(3)},
        {"http_client": httpx.Client()},
        {"max_retries": 7},
        {"api_key": "other"},
    ):
        assert ask(azure(**settings), cache) == "#1"
    assert not cache.stats().skipped


def test_place_that_is_asked_is_in_the_key(ask: Ask, answers: Answers, cache: LLMCacheMem) -> None:
    models = [
        openai(),
        openai(base_url="https://other.example/v1"),
        azure(),
        azure(azure_endpoint="https://b.example"),
        azure(azure_deployment="e"),
        anthropic(),
        anthropic(base_url="https://other.example"),
    ]
    assert len({ask(model, cache) for model in models}) == len(models)


def test_base_url_from_the_environment_is_in_the_key(
    ask: Ask, answers: Answers, cache: LLMCacheMem, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert ask(openai(), cache) == "#1"
    monkeypatch.setenv("OPENAI_BASE_URL", "https://other.example/v1")
    assert ask(openai(), cache) == "#2"


class Free(Counting):
    """Holds what it was not declared to hold."""

    model_config = ConfigDict(extra="allow")
    _style: str | None = PrivateAttr(default=None)
    _words: list[str] = PrivateAttr(default_factory=list)


def set_private(model: Any) -> None:
    model._style = "pirate"


def set_private_list(model: Any) -> None:
    model._words = ["arr"]


def set_extra(model: Any) -> None:
    model.style = "pirate"


def set_field(model: Any) -> None:
    model.temperature = 0.9


@pytest.mark.parametrize("change", [set_private, set_private_list, set_extra, set_field])
def test_attribute_set_after_first_call_changes_the_key(
    ask: Ask, cache: LLMCacheMem, change: Callable[[Any], None]
) -> None:
    model = Free()
    assert ask(model, cache) == "hi #1"
    change(model)
    other = ask(model, cache)
    assert other != "hi #1"
    assert ask(model, cache) == other


def test_a_private_list_changed_between_calls_changes_the_key(ask: Ask, cache: LLMCacheMem) -> None:
    model = Free()
    assert ask(model, cache) == "hi #1"
    model._words.append("arr")
    assert ask(model, cache) == "hi #2"


class Words(BaseModel):
    words: list[str] = []


class Recording(Counting):
    """Records each call beside its words, in an attribute or in an object of its own."""

    nested: bool = False
    _words: list[str] = PrivateAttr(default_factory=list)
    _held: Words = PrivateAttr(default_factory=Words)

    @property
    def words(self) -> list[str]:
        return self._held.words if self.nested else self._words

    def _answer(self, messages: Any) -> AIMessage:
        answer = super()._answer(messages)
        self.words.append(f"call {self.calls}")
        return answer


@pytest.mark.parametrize("nested", [False, True])
def test_a_model_that_records_its_calls_is_another_in_each(
    ask: Ask, cache: LLMCacheMem, nested: bool
) -> None:
    model = Recording(nested=nested)
    assert [ask(model, cache) for _ in range(2)] == ["hi #1", "hi #2"]
    model.words.append("arr")
    assert ask(model, cache) == "hi #3"
    del model.words[:]  # as it was at first
    assert ask(model, cache) == "hi #1"


@pytest.mark.parametrize("nested", [False, True])
def test_what_is_added_to_a_model_during_a_call_changes_the_key(
    ask: Ask, cache: LLMCacheMem, monkeypatch: pytest.MonkeyPatch, nested: bool
) -> None:
    class New(Recording):
        def _answer(self, messages: Any) -> AIMessage:
            said = ", ".join(self.words)
            user_adds()
            return AIMessage(f"by {said}")

    model = New(nested=nested)
    user_adds = partial(model.words.append, "arr")
    assert ask(model, cache) == "by "
    user_adds = list
    assert ask(model, cache) == "by arr"


@pytest.mark.parametrize("way", ["invoke", "ainvoke"])
async def test_what_is_added_after_a_failed_call_of_a_plain_llm_counts(
    cache: LLMCacheMem, way: str
) -> None:
    class Plain(PlainLLM):
        _words: list[str] = PrivateAttr(default_factory=list)
        _down: bool = PrivateAttr(default=False)

        def _generate(self, prompts: Any, *args: Any, **kwargs: Any) -> LLMResult:
            if self._down:
                raise ConnectionError
            return LLMResult(generations=[[Generation(text=", ".join(self._words))]])

    async def ask() -> str:
        return model.invoke("hi") if way == "invoke" else await model.ainvoke("hi")

    model = Plain(cache=cache)
    assert await ask() == ""
    model._down = True
    with pytest.raises(ConnectionError):
        await ask()
    model._down = False
    model._words.append("arr")
    assert [await ask(), await ask()] == ["arr", "arr"]


def test_a_record_can_be_left_out_of_the_key(
    ask: Ask, make_cache: Callable[..., LLMCacheMem], caplog: pytest.LogCaptureFixture
) -> None:
    class Mine(Recording):
        pass

    model = Mine()
    for _ in range(8):
        ask(model, make_cache())
    (hint,) = (text for text in caplog.messages if "grown" in text)
    assert "Mine._words" in hint
    assert "key_fn=ignoring('_words')" in hint
    cache = make_cache(key_fn=ignoring("_words"))
    assert ask(model, cache) == ask(model, cache)


class Growing(Counting):
    """Raises one of its settings while it answers; what a user does to it meanwhile is alike."""

    most: int = 2

    def _answer(self, messages: Any) -> AIMessage:
        self.most += 1
        return AIMessage(f"at most {self.most - 1}")


def test_a_field_that_grows_during_a_call_is_in_the_key(ask: Ask, cache: LLMCacheMem) -> None:
    for most in (2, 3, 7):
        assert ask(Growing(most=most), cache) == f"at most {most}"


class Lazy(Counting):
    """Loads what it answers with where it was given nothing."""

    _pipe: Any = PrivateAttr(default=None)

    def _answer(self, messages: Any) -> AIMessage:
        if self._pipe is None:
            self._pipe = "small"
        return AIMessage(f"by {self._pipe}")


class Loading(Lazy):
    def _answer(self, messages: Any) -> AIMessage:
        if self._pipe is None:
            self._pipe = lambda: "small"
        return AIMessage(f"by {self._pipe()}")


@pytest.mark.parametrize("make", [lambda name: name, lambda name: lambda: name])
def test_what_another_model_loaded_answers_for_no_other(
    ask: Ask, cache: LLMCacheMem, make: Any
) -> None:
    cls = Lazy if isinstance(make("x"), str) else Loading
    lazy = cls()
    assert ask(lazy, cache) == ask(lazy, cache) == "by small"
    given = cls()
    given._pipe = make("large")
    assert ask(given, cache) == "by large"


class Undescribed(BaseChatModel):
    """Tells LangChain no more than its type, as ChatOllama does."""

    model: str
    base_url: str = "http://one"

    @property
    def _llm_type(self) -> str:
        return "chat-undescribed"

    def _generate(
        self, messages: Any, stop: Any = None, run_manager: Any = None, **kwargs: Any
    ) -> ChatResult:
        message = AIMessage(f"{self.model} at {self.base_url}")
        return ChatResult(generations=[ChatGeneration(message=message)])


def test_models_that_langchain_does_not_describe_are_told_apart(
    ask: Ask, cache: LLMCacheMem
) -> None:
    for settings in ({}, {"model": "b"}, {"base_url": "http://two"}) * 2:
        model = Undescribed(**{"model": "a", **settings})
        assert ask(model, cache) == f"{model.model} at {model.base_url}"
    assert (cache.stats().hits, cache.stats().skipped) == (3, {})


def test_lookup_that_does_not_show_its_model_is_skipped(cache: LLMCacheMem) -> None:
    described = Undescribed(model="a")._get_llm_string(stop=None)
    cache.update("hi", described, [Generation(text="x")])
    assert cache.lookup("hi", described) is None
    assert cache.stats().skipped == {"request": 1}


def test_it_is_cached_if_asked_for() -> None:
    cache = LLMCacheMem(unidentified="cache")
    described = Undescribed(model="a")._get_llm_string(stop=None)
    cache.update("hi", described, [Generation(text="x")])
    assert cache.lookup("hi", described) == [Generation(text="x")]


def test_secret_that_is_no_credential_makes_an_unseen_model_unknown(cache: LLMCacheMem) -> None:
    described = anthropic(mcp_servers=[{"url": "https://a", "name": "a", "type": "url"}])
    for model, found in ((described, 0), (anthropic(), 1)):
        text = model._get_llm_string(stop=None)
        cache.update("hi", text, [Generation(text="x")])
        assert len(cache.lookup("hi", text) or []) == found


class PlainLLM(BaseLLM):
    base_url: str = "http://one"

    @property
    def _llm_type(self) -> str:
        return "plain"

    def _generate(
        self, prompts: Any, stop: Any = None, run_manager: Any = None, **kwargs: Any
    ) -> LLMResult:
        text = f"{self.base_url} {kwargs}"
        return LLMResult(generations=[[Generation(text=text)] for _ in prompts])


def test_plain_llm_arguments_are_in_the_langchain_key(cache: LLMCacheMem) -> None:
    calls: list[dict[str, Any]] = [{}, {"temperature": 1}, {"max_tokens": 5}]
    for url in ("http://one", "http://two"):
        llm = PlainLLM(base_url=url, cache=cache)
        for call in calls * 2:
            assert llm.invoke("hi", **call) == f"{url} {call}"
    assert (cache.stats().hits, cache.stats().misses) == (6, 6)


async def test_models_are_seen_async_too(cache: LLMCacheMem) -> None:
    for name in "abab":
        model = Undescribed(model=name, cache=cache)
        assert (await model.ainvoke("hi")).text == f"{name} at http://one"
    llms = [PlainLLM(base_url=url, cache=cache) for url in ("http://one", "http://two") * 2]
    for llm in llms:
        assert await llm.ainvoke("hi") == f"{llm.base_url} {{}}"
    assert cache.stats().hits == 4


def test_model_is_seen_through_a_cache_of_the_users_own() -> None:
    class Mine(LLMCacheMem):
        def lookup(self, prompt: str, llm_string: str) -> Any:
            return super().lookup(prompt, llm_string)

        def update(self, prompt: str, llm_string: str, return_val: Any) -> None:
            super().update(prompt, llm_string, return_val)

    cache = Mine()
    for name in "abab":
        assert Undescribed(model=name, cache=cache).invoke("hi").text == f"{name} at http://one"
    assert cache.stats().hits == 2


def test_models_made_for_each_call_share_answers_and_are_let_go(
    ask: Ask, answers: Answers, cache: LLMCacheMem
) -> None:
    alive = []
    for _ in range(3):
        model = openai(http_client=httpx.Client())
        alive.append(weakref.ref(model.root_client))
        assert ask(model, cache) == "#1"
        del model
    gc.collect()
    assert [client for client in alive if client() is not None] == []


def test_cached_and_langchains_cache_share_entries(answers: Answers) -> None:
    cache = LLMCacheMem()
    assert through_cached(openai(), cache) == through_langchain(openai(), cache) == "#1"
    assert answers.calls == 1


def test_a_key_space_for_each_tenant_costs_little() -> None:
    cache, model = LLMCache(), openai()
    models = [cached(model, cache, scope=f"tenant {number}") for number in range(50)]
    assert len({type(each) for each in models}) == 50
    assert {type(each).model_fields is ChatOpenAI.model_fields for each in models} == {True}


class Chat(BaseChatModel):
    """A model with parameters of its own under names that mean something else in other classes."""

    metadata: dict[str, Any] | None = None
    i: int = 0
    inner: Any = None

    @property
    def _llm_type(self) -> str:
        return "chat"

    def _generate(self, *args: Any, **kwargs: Any) -> ChatResult:
        text = f"metadata {self.metadata}, i {self.i}"
        return ChatResult(generations=[ChatGeneration(message=AIMessage(text))])


def test_a_parameter_with_the_name_of_a_run_field_counts(ask: Ask, cache: LLMCacheMem) -> None:
    assert ask(Chat(metadata={"unit": "m"}), cache) != ask(Chat(metadata={"unit": "ft"}), cache)


def test_a_parameter_with_the_name_of_a_fakes_counter_counts(ask: Ask, cache: LLMCacheMem) -> None:
    assert ask(Chat(i=1), cache) != ask(Chat(i=2), cache)


class OtherChat(Chat):
    pass


@pytest.mark.parametrize(
    ("one", "other"),
    [(Chat(inner=Chat(i=1)), Chat(inner=Chat(i=2))), (Chat(), OtherChat())],
    ids=["settings of a model inside", "class"],
)
def test_models_that_answer_alike_are_told_apart(
    one: Chat, other: Chat, ask: Ask, cache: LLMCacheMem
) -> None:
    assert ask(one, cache) == ask(other, cache)
    assert cache.stats().misses == 2


def test_what_cannot_be_seen_of_a_model_inside_is_skipped(ask: Ask, cache: LLMCacheMem) -> None:
    ask(Chat(inner=Chat(inner=object())), cache)
    assert cache.stats().skipped


def test_how_langchain_names_and_calls_a_model_is_no_setting(ask: Ask, cache: LLMCacheMem) -> None:
    for model in (Chat(name="one"), Chat(name="two"), Chat(disable_streaming=True), Chat()):
        ask(model, cache)
    assert cache.stats().misses == 1


class Named(Chat):
    """A model whose parameters have names that LangChain gives a meaning of its own."""

    name: str | None = None
    verbose: bool = False
    tags: list[str] | None = None


@pytest.mark.parametrize("given", [{"name": "Bob"}, {"verbose": True}, {"tags": ["a"]}])
def test_a_field_that_a_program_declares_again_counts(
    given: dict[str, Any], ask: Ask, cache: LLMCacheMem
) -> None:
    ask(Named(), cache), ask(Named(**given), cache)
    assert cache.stats().misses == 2


@pytest.mark.parametrize("name", ["name", "profile", "verbose", "batch_size"])
def test_an_argument_of_a_call_counts_by_any_name(name: str) -> None:
    store = LLMCache()
    model = cached(Chat(), store)
    for value in "ab":
        model.invoke("hi", **{name: value})
    assert store.stats().misses == 2


def test_a_field_of_an_object_in_a_model_counts(ask: Ask, cache: LLMCacheMem) -> None:
    class Persona(BaseModel):
        name: str

    ask(Chat(inner=Persona(name="a")), cache), ask(Chat(inner=Persona(name="b")), cache)
    assert cache.stats().misses == 2


def test_classes_of_one_name_made_in_a_function_differ(ask: Ask, cache: LLMCacheMem) -> None:
    def make(style: str) -> Chat:
        class Local(Chat):
            def _generate(self, *args: Any, **kwargs: Any) -> ChatResult:
                return ChatResult(generations=[ChatGeneration(message=AIMessage(style))])

        return Local()

    assert [ask(make(style), cache) for style in "abab"] == ["a", "b", "a", "b"]
    assert cache.stats().misses == 2
