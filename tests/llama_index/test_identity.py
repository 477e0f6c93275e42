"""Which model is asked: what tells two LLM objects apart, what does not, and what must never be in
a key."""

import gc
from functools import cached_property
from typing import Any

import pytest
from llama_index.core.base.llms.types import CompletionResponse, LLMMetadata
from llama_index.core.bridge.pydantic import BaseModel, Field, PrivateAttr, SecretStr
from llama_index.core.llms import MockLLM
from llama_index.core.llms.mock import MockFunctionCallingLLM
from llama_index_llm_cache_mem import CachedLLM
from llama_index_llm_cache_mem.identity import _states, identity

from llm_cache_mem import LLMCache, RequestNotCacheable


@pytest.fixture
def keyed(make_parrot):
    """A model with all kinds of parameters."""

    class Inner(BaseModel):
        size: int = 1
        password: str = "sesame"

    class Keyed(make_parrot):
        api_key: str = "sk-sesame"
        api_base: str = "https://user:sesame@example.com/v1"
        default_headers: dict[str, str] = Field(
            default_factory=lambda: {"Authorization": "sesame", "anthropic-beta": "b1"}
        )
        additional_kwargs: dict[str, Any] = Field(
            default_factory=lambda: {"seed": 1, "extra_headers": {"x-api-key": "sesame"}}
        )
        servers: list[dict[str, str]] = Field(
            default_factory=lambda: [{"url": "u", "authorization_token": "sesame"}]
        )
        secret: SecretStr = SecretStr("sesame")
        max_tokens: int = 5
        eos_token: str = "</s>"
        max_retries: int = 3
        timeout: float = 60.0
        context_window: int = 100
        inner: Inner = Field(default_factory=Inner)
        note: str = Field(default="n", exclude=True)
        _generation: dict[str, Any] = PrivateAttr(default_factory=lambda: {"top_p": 0.5})
        _azure_ad_token: str = PrivateAttr(default="sesame")
        _client: Any = PrivateAttr(default_factory=object)

    return Keyed


def test_secrets_are_never_in_it(keyed):
    assert "sesame" not in str(identity(keyed()))


def test_real_parameters_are_in_it(keyed):
    found = identity(keyed())
    assert found["model"] == "parrot-1"
    assert found["max_tokens"] == 5
    assert found["eos_token"] == "</s>"
    assert found["api_base"] == "https://example.com/v1"
    assert found["default_headers"] == {"anthropic-beta": "b1"}
    assert found["additional_kwargs"] == {"seed": 1, "extra_headers": {}}
    assert found["inner"] == {"size": 1}
    assert found["_generation"] == {"top_p": 0.5}
    assert found["class"].endswith("Keyed")


@pytest.mark.parametrize(
    "change",
    [
        lambda m: setattr(m, "model", "x"),
        lambda m: setattr(m, "temperature", 0.1),
        lambda m: setattr(m, "system_prompt", "s"),
        lambda m: setattr(m, "api_base", "https://example.com/v2"),
        lambda m: setattr(m, "context_window", 1),
        lambda m: m.additional_kwargs.update(seed=2),
        lambda m: m.additional_kwargs["extra_headers"].update(region="eu"),
        lambda m: m.default_headers.update({"anthropic-beta": "b2"}),
        lambda m: setattr(m.inner, "size", 2),
        lambda m: m._generation.update(top_p=0.6),
        lambda m: setattr(m, "completion_to_prompt", lambda prompt: f"[{prompt}]"),
    ],
)
def test_what_changes_an_answer_changes_it_even_in_place(keyed, change):
    llm = keyed()
    before = dict(identity(llm))
    assert identity(llm) == before
    change(llm)
    assert identity(llm) != before


@pytest.mark.parametrize(
    "change",
    [
        lambda m: setattr(m, "api_key", "other"),
        lambda m: m.default_headers.update(Authorization="other"),
        lambda m: setattr(m, "timeout", 1.0),
        lambda m: setattr(m, "max_retries", 0),
        lambda m: setattr(m, "callback_manager", None),
        lambda m: setattr(m, "rate_limiter", object()),
        lambda m: setattr(m, "note", "other"),
        lambda m: setattr(m, "_client", object()),
        lambda m: setattr(m, "_azure_ad_token", "other"),
        lambda m: setattr(m.inner, "password", "other"),
    ],
)
def test_how_a_call_is_made_does_not_change_it(keyed, change):
    llm = keyed()
    before = dict(identity(llm))
    change(llm)
    assert identity(llm) == before == identity(keyed())


def test_two_classes_of_one_name_differ(make_parrot):
    def make():
        class Local(make_parrot):
            pass

        return Local

    class Other(make_parrot):
        pass

    assert identity(make()())["class_name"] == identity(Other())["class_name"]
    assert identity(make()()) != identity(Other())


def test_a_model_nobody_can_name_shares_answers_with_itself_only(cache):
    class Pipeline:
        def __init__(self, answer: str) -> None:
            self.answer = answer

    class Local(MockLLM):
        _pipeline: Any = PrivateAttr(default=None)

        def complete(
            self, prompt: str, formatted: bool = False, **kwargs: Any
        ) -> CompletionResponse:
            return CompletionResponse(text=self._pipeline.answer)

    answers = []
    for answer in ("one", "two"):
        llm = Local()
        llm._pipeline = Pipeline(answer)
        answers += [CachedLLM(llm, cache).complete("x").text for _ in range(2)]
    assert answers == ["one", "one", "two", "two"]
    assert cache.stats().hits == 2


def test_a_model_without_a_name_is_known_by_its_class():
    assert identity(MockLLM())["model"] == "MockLLM"
    assert "instance" not in identity(MockLLM())
    assert identity(MockLLM(max_tokens=3)) != identity(MockLLM())
    assert "instance" not in identity(MockFunctionCallingLLM())


def test_metadata_that_raises_is_no_name(make_parrot):
    class Raising(make_parrot):
        model: Any = None

        @property
        def metadata(self) -> LLMMetadata:
            raise ValueError("unknown model")

    assert identity(Raising())["model"] == "parrot"


def test_undeclared_private_attributes_count_as_private_ones(make_parrot):
    class Loose(make_parrot):
        def __init__(self, top_p: float) -> None:
            super().__init__()
            self._top_p = top_p  # pydantic keeps these in __dict__
            self._http = object()

        @cached_property
        def window(self) -> object:
            return object()

    llm = Loose(0.5)
    before = dict(identity(llm))
    assert before["_top_p"] == 0.5
    assert "instance" not in before
    assert llm.window is llm.window
    assert identity(llm) == before == identity(Loose(0.5)) != identity(Loose(0.6))


def test_functions_count_by_their_code_and_what_they_close_over(make_parrot):
    def prefixed(prefix):
        return lambda prompt: prefix + prompt

    one, two, same = (
        identity(make_parrot(completion_to_prompt=prefixed(prefix))) for prefix in "aba"
    )
    assert one != two
    assert one == same
    clients = [identity(make_parrot(completion_to_prompt=prefixed(object()))) for _ in range(2)]
    assert clients[0] != clients[1]


def test_a_model_whose_provider_remembers_is_not_cached(make_parrot, cache):
    class Remembering(make_parrot):
        track_previous_responses: bool = True

    with pytest.raises(RequestNotCacheable):
        identity(Remembering())
    llm = Remembering()
    for _ in range(2):
        CachedLLM(llm, cache).complete("x")
    assert len(llm.calls) == 2
    assert dict(cache.stats().skipped) == {"request": 2}


def test_the_environments_base_url_counts_where_no_field_has_it(make_parrot):
    class Client:
        def __init__(self, base_url: str) -> None:
            self.base_url = base_url

    class Remote(make_parrot):
        _client: Any = PrivateAttr(default=None)

    llms = [Remote(), Remote()]
    for llm, url in zip(llms, ("https://a/", "https://u:sesame@b/"), strict=True):
        llm._client = Client(url)
    assert [identity(llm)["base_url"] for llm in llms] == ["https://a/", "https://b/"]


def test_nothing_is_remembered_of_models_that_are_gone(make_parrot):
    before = len(_states)
    for _ in range(100):
        identity(make_parrot())
    gc.collect()
    assert len(_states) <= before + 1


def test_two_models_in_one_cache_do_not_answer_each_other(make_parrot):
    cache = LLMCache()
    answers = {
        CachedLLM(make_parrot(model=name), cache).complete("x").text for name in ("a", "b", "c")
    }
    assert len(answers) == 3
