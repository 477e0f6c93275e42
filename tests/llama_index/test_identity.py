"""Which model is asked: what tells two LLM objects apart, what does not, and what must never be in
a key."""

import copy
import gc
import json
import pickle
from functools import cached_property
from typing import Any

import httpx
import pytest
from llama_index.core.base.llms.types import CompletionResponse, LLMMetadata
from llama_index.core.bridge.pydantic import BaseModel, ConfigDict, Field, PrivateAttr, SecretStr
from llama_index.core.llms import CustomLLM, MockLLM
from llama_index.core.llms.mock import MockFunctionCallingLLM
from llama_index_llm_cache_mem import CachedLLM, set_llm_cache
from llama_index_llm_cache_mem.identity import _states
from llama_index_llm_cache_mem.identity import identity as identity_of

from llm_cache_mem import LLMCache, RequestNotCacheable
from llm_cache_mem.keys.identity import secret_digest


def identity(llm):
    """The settings of *llm*, all of which can be told apart."""
    return identity_of(llm).require_known()


class Client:
    def __init__(self, base_url: str | None = None) -> None:
        self.base_url = base_url


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
        persona: SecretStr = SecretStr("sesame")
        max_tokens: int = 5
        eos_token: str = "</s>"
        max_retries: int = 3
        timeout: float = 60.0
        context_window: int = 100
        inner: Inner = Field(default_factory=Inner)
        note: str = Field(default="n", exclude=True)
        _generation: dict[str, Any] = PrivateAttr(default_factory=lambda: {"top_p": 0.5})
        _azure_ad_token: str = PrivateAttr(default="sesame")
        _client: Any = PrivateAttr(default_factory=Client)

    return Keyed


def test_secrets_are_never_in_it(keyed):
    assert "sesame" not in str(identity(keyed()))


def test_real_parameters_are_in_it(keyed):
    found = identity(keyed())
    assert found["model"] == "parrot-1"
    assert found["max_tokens"] == 5
    assert found["eos_token"] == "</s>"
    assert found["api_base"] == "https://example.com/v1"
    assert found["default_headers"] == {"anthropic-beta": secret_digest("b1")}
    assert found["seed"] == 1
    assert "extra_headers" not in found
    assert found["inner"]["size"] == 1
    assert "password" not in found["inner"]
    assert found["_generation"] == {"top_p": 0.5}
    assert "Keyed" in found["class"]


@pytest.mark.parametrize(
    "change",
    [
        lambda m: setattr(m, "model", "x"),
        lambda m: setattr(m, "temperature", 0.1),
        lambda m: setattr(m, "system_prompt", "s"),
        lambda m: setattr(m, "api_base", "https://example.com/v2"),
        lambda m: m.additional_kwargs.update(seed=2),
        lambda m: m.additional_kwargs["extra_headers"].update(region="eu"),
        lambda m: m.additional_kwargs.update(extra_body={"top_k": 1}),
        lambda m: m.servers[0].update(authorization_token="other"),
        lambda m: setattr(m, "persona", SecretStr("other")),
        lambda m: m.default_headers.update({"anthropic-beta": "b2"}),
        lambda m: setattr(m.inner, "size", 2),
        lambda m: m._generation.update(top_p=0.6),
        lambda m: setattr(m, "note", "other"),
        lambda m: setattr(m, "completion_to_prompt", lambda prompt: f"[{prompt}]"),
    ],
)
def test_in_place_changes_change_the_key(keyed, change):
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
        lambda m: setattr(m, "context_window", 1),
        lambda m: setattr(m, "_client", Client()),
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


class Pipeline:
    def __init__(self, answer: str) -> None:
        self.answer = answer

    def complete(self, prompt: str) -> str:
        return self.answer


class Local(MockLLM):
    """A model in this process, under a name that another one may have as well."""

    model: str = "local"
    _pipeline: Any = PrivateAttr(default=None)

    def complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponse:
        return CompletionResponse(text=self._pipeline.answer)


def _local(answer):
    llm = Local()
    llm._pipeline = Pipeline(answer)
    return llm


def test_a_model_that_holds_a_pipeline_goes_uncached_and_counted(cache, caplog):
    for answer in ("one", "two", "two"):
        assert CachedLLM(_local(answer), cache).complete("x").text == answer
    assert dict(cache.stats().skipped) == {"opaque": 3}
    assert [record.getMessage() for record in caplog.records if "Pipeline" in record.message] == [
        "calls go uncached: Local._pipeline is a Pipeline, which has no wire form, so no key can"
        " tell two such models apart; identify yours with CachedLLM(llm, cache, identity=...)"
    ]
    set_llm_cache(cache)
    assert [_local(answer).complete("x").text for answer in ("one", "two")] == ["one", "two"]


def test_a_pipeline_that_is_named_is_cached_by_its_name(cache):
    named = [CachedLLM(_local(a), cache, identity=name) for a, name in ("1a", "2b", "3a")]
    assert [llm.complete("x").text for llm in named] == ["1", "2", "1"]
    again = pickle.loads(pickle.dumps(CachedLLM(make(), LLMCache(), identity="a")))
    assert again._lcm_identity == copy.copy(again)._lcm_identity == "a"


def make():
    return MockLLM()


def test_replay_names_opaque_parts():
    with pytest.raises(RequestNotCacheable, match="Pipeline"):
        CachedLLM(_local("one"), mode="replay").complete("x")


def test_a_schema_is_not_searched_for_passwords(make_parrot, cache):
    class Compatible(make_parrot):
        additional_kwargs: dict[str, Any] = Field(default_factory=dict)

    def schema(name):
        fields = {"properties": {"password": {"type": name}}}
        return {"type": "json_schema", "json_schema": {"schema": fields}}

    for name in ("string", "integer", "string"):
        llm = Compatible(additional_kwargs={"response_format": schema(name)})
        CachedLLM(llm, cache).complete("x")
    assert (cache.stats().hits, cache.stats().misses) == (1, 2)


def test_an_attribute_set_after_the_first_call_is_another_request(make_parrot, cache):
    class Loose(make_parrot):
        model_config = ConfigDict(extra="allow")
        _style: str = PrivateAttr()

    for change in (
        lambda m: setattr(m, "_style", "rude"),
        lambda m: setattr(m, "persona", "pirate"),
        lambda m: m.__dict__.update(_top_p=0.5),
    ):
        llm = Loose()
        before = identity(llm)
        assert identity(llm) == before
        change(llm)
        assert identity(llm) != before


def test_an_attribute_set_again_or_removed_is_another_request(make_parrot):
    class Loose(make_parrot):
        model_config = ConfigDict(extra="allow")

    llm = Loose(persona="pirate")
    found = [dict(identity(llm))]
    llm.persona = "sailor"
    found.append(dict(identity(llm)))
    del llm.__pydantic_extra__["persona"]
    found.append(dict(identity(llm)))
    assert [each.get("persona") for each in found] == ["pirate", "sailor", None]


def test_a_model_without_a_name_is_known_by_its_class():
    assert identity(MockLLM())["model"] == "MockLLM"
    assert identity(MockLLM(max_tokens=3)) != identity(MockLLM())
    assert identity(MockFunctionCallingLLM())

    class Nameless(MockLLM):
        """Its class may be made again, with another body."""

    assert identity_of(Nameless()).opaque


def test_metadata_that_raises_is_no_name(make_parrot):
    class Raising(make_parrot):
        model: Any = None

        @property
        def metadata(self) -> LLMMetadata:
            raise ValueError("unknown model")

    assert identity_of(Raising()).settings["model"] == "parrot"


def test_undeclared_private_attributes_count_as_private_ones(make_parrot):
    class Loose(make_parrot):
        def __init__(self, top_p: float) -> None:
            super().__init__()
            self._top_p = top_p  # pydantic keeps these in __dict__
            self._http_client = Client()

        @cached_property
        def window(self) -> object:
            return object()

    llm = Loose(0.5)
    before = dict(identity(llm))
    assert before["_top_p"] == 0.5
    assert llm.window is llm.window
    assert identity(llm) == before == identity(Loose(0.5)) != identity(Loose(0.6))


def test_functions_are_keyed_by_code_and_closure(make_parrot):
    def prefixed(prefix):
        return lambda prompt: prefix + prompt

    one, two, same = (
        identity(make_parrot(completion_to_prompt=prefixed(prefix))) for prefix in "aba"
    )
    assert one != two
    assert one == same
    assert identity_of(make_parrot(completion_to_prompt=prefixed(object()))).opaque

    def shouted(loud):
        return (lambda prompt: prompt.upper()) if loud else (lambda prompt: prompt)

    one, two = (identity(make_parrot(completion_to_prompt=shouted(loud))) for loud in (0, 1))
    assert one != two


TEMPLATE = "a"


def test_a_global_that_a_function_reads_counts_as_it_is_now(make_parrot, monkeypatch):
    llm = make_parrot(completion_to_prompt=lambda prompt: TEMPLATE + prompt)
    before = dict(identity(llm))
    monkeypatch.setitem(globals(), "TEMPLATE", "b")
    assert identity(llm) != before


@pytest.mark.parametrize(
    ("one", "other"),
    [([1], [True]), ({"a": 1}, {"a": 1.0}), (0.0, -0.0)],
)
def test_equal_numbers_of_other_json_are_another_request(make_parrot, one, other):
    class Noted(make_parrot):
        note: Any = None

    llm = Noted(note=one)
    before = json.dumps(identity(llm))
    llm.note = other
    assert json.dumps(identity(llm)) != before


def test_classes_made_by_one_function_differ_by_its_arguments(make_parrot):
    def make(style):
        class Local(make_parrot):
            def answer(self):
                return style

        return Local()

    assert identity(make("a")) != identity(make("b"))
    assert identity(make("a")) == identity(make("a"))


def test_a_header_of_a_client_of_a_program_counts(make_parrot):
    class Remote(make_parrot):
        url: str = ""
        _client: Any = PrivateAttr(None)

    found = []
    for base_url, style in (("http://a", "1"), ("http://a", "2"), ("http://b", "2")):
        llm = Remote()
        llm._client = httpx.Client(base_url=base_url, headers={"x-style": style})
        found.append(identity(llm))
    assert found[0] != found[1] != found[2]


def test_a_method_of_another_object_is_opaque(make_parrot):
    assert identity_of(make_parrot(completion_to_prompt=Pipeline("one").complete)).opaque


def test_a_model_that_holds_an_opaque_model_is_opaque(make_parrot):
    class Outer(make_parrot):
        inner: Any = None

    assert identity_of(Outer(inner=_local("one"))).opaque
    assert not identity_of(Outer(inner=make_parrot())).opaque


def test_a_model_whose_provider_remembers_is_not_cached(make_parrot, cache):
    class Remembering(make_parrot):
        track_previous_responses: bool = True

    with pytest.raises(RequestNotCacheable):
        identity(Remembering())
    llm = Remembering()
    for _ in range(2):
        CachedLLM(llm, cache).complete("x")
    assert len(llm.calls) == 2
    assert dict(cache.stats().skipped) == {"stateful": 2}


def test_the_environments_base_url_counts_where_no_field_has_it(make_parrot):
    class Remote(make_parrot):
        _client: Any = PrivateAttr(default=None)

    llms = [Remote(), Remote()]
    for llm, url in zip(llms, ("https://a/", "https://u:sesame@b/"), strict=True):
        llm._client = Client(url)
    assert [identity(llm)["base_url"] for llm in llms] == ["https://a/", "https://b/"]


def test_deleted_models_leave_no_state(make_parrot):
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


class Plain(CustomLLM):
    """An LLM of which subclasses declare the fields."""

    @property
    def metadata(self) -> LLMMetadata:
        return LLMMetadata(model_name=getattr(self, "model_name", "plain"))

    def complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponse:
        return CompletionResponse(text=prompt)

    def stream_complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> Any:
        raise NotImplementedError


class HuggingFaceLLM(Plain):
    """The part of LlamaIndex's class that says what is loaded, and keeps it."""

    model_name: str = "stabilityai/stablelm"
    tokenizer_name: str = "stabilityai/stablelm"
    context_window: int = 3900
    model_kwargs: dict[str, Any] = Field(default_factory=dict)
    tokenizer_kwargs: dict[str, Any] = Field(default_factory=dict)
    stopping_ids: list[int] = Field(default_factory=list)
    _model: Any = PrivateAttr()
    _tokenizer: Any = PrivateAttr()
    _stopping_criteria: Any = PrivateAttr()

    def __init__(self, *, model=None, tokenizer=None, **fields):
        stopping_ids = fields.get("stopping_ids", [])

        class StopOnTokens:
            ids = stopping_ids

        fields.setdefault("messages_to_prompt", self._tokenizer_messages_to_prompt)
        super().__init__(**fields)
        self._model = model or Loaded(self.model_name)
        self._tokenizer = tokenizer or Loaded(self.tokenizer_name)
        self._stopping_criteria = [StopOnTokens()]

    def _tokenizer_messages_to_prompt(self, messages):
        return "\n".join(str(message.content) for message in messages)


HuggingFaceLLM.__module__ = "llama_index.llms.huggingface.base"


class Loaded:
    """A model or a tokenizer as transformers loads it."""

    def __init__(self, name_or_path: str) -> None:
        self.name_or_path = name_or_path


def _from_hub(**changes):
    fields = {
        "model_name": "org/tiny",
        "tokenizer_name": "org/tiny",
        "model_kwargs": {"revision": "a1"},
        "tokenizer_kwargs": {"revision": "a1"},
    }
    return HuggingFaceLLM(**{**fields, **changes})


def test_a_hugging_face_model_is_its_name_and_revision():
    assert identity(_from_hub()) == identity(_from_hub())
    for change in (
        {"model_kwargs": {"revision": "b2"}},
        {"tokenizer_kwargs": {"revision": "b2"}},
        {"model_name": "org/other"},
        {"stopping_ids": [1]},
    ):
        assert identity(_from_hub(**change)) != identity(_from_hub()), change
    llm = _from_hub()
    assert not identity_of(llm).opaque
    llm._model = Loaded("org/tiny-tuned")
    assert list(identity_of(llm).opaque) == ["_model"]


def test_a_hugging_face_model_from_anywhere_else_goes_uncached(tmp_path, cache, caplog):
    folder = str(tmp_path / "tiny")
    (tmp_path / "tiny").mkdir()
    for llm in (
        HuggingFaceLLM(model=Loaded("org/tiny"), tokenizer=Loaded("org/tiny")),
        _from_hub(model=Loaded("org/tuned")),
        _from_hub(tokenizer=Loaded("org/tuned")),
        _from_hub(model_kwargs={}),
        _from_hub(model_name=folder),
        _from_hub(tokenizer_name=folder),
    ):
        before = cache.stats().skipped.get("opaque", 0)
        CachedLLM(llm, cache).complete("x")
        assert cache.stats().skipped["opaque"] == before + 1
        named = CachedLLM(llm, cache, identity=f"model {before}")
        named.complete("x")
        hits = cache.stats().hits
        named.complete("x")
        assert cache.stats().hits == hits + 1
    assert any(
        "give both model_kwargs and tokenizer_kwargs a revision" in m for m in caplog.messages
    )


class Ollama(Plain):
    """The part of LlamaIndex's class that finds the context window out in the first call."""

    model: str = "qwen3"
    context_window: int = -1
    base_url: str = "http://localhost:11434"

    def complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponse:
        if self.context_window == -1:
            self.context_window = 40960
        return CompletionResponse(text=f"{self.context_window}")


Ollama.__module__ = "llama_index.llms.ollama.base"


def test_a_discovered_context_window_is_not_in_the_key(cache):
    llms = [Ollama() for _ in range(2)]
    for llm in (llms[0], llms[0], llms[1]):
        CachedLLM(llm, cache).complete("x")
    assert (cache.stats().hits, cache.stats().misses) == (2, 1)


def test_a_context_window_that_ollama_is_sent_is_a_setting(cache):
    answers = [CachedLLM(Ollama(context_window=n), cache).complete("x").text for n in (512, 1024)]
    assert answers == ["512", "1024"]
