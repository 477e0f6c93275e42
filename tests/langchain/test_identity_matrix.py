"""Change one setting of a real integration: the same key or another? The answers, written down.

The models are constructed and never called. A package that is not installed is skipped.
"""

import importlib
import warnings
from collections.abc import Iterator
from functools import lru_cache
from typing import Any, NamedTuple

import httpx
import pytest
from langchain_core.messages import HumanMessage
from langchain_core.rate_limiters import InMemoryRateLimiter
from langchain_llm_cache_mem import cached

from llm_cache_mem import LLMCache

SAME, OTHER, UNCACHED = "same", "other", "uncached"


class Model(NamedTuple):
    """An integration, its settings, and what a change of each does to the key."""

    path: str
    settings: dict[str, Any]
    changes: dict[str, dict[str, Any]]


def model(path: str, *common: str, **changes: dict[str, Any]) -> Model:
    """*common*: names in COMMON; *changes*: by effect, further settings with their new values."""
    merged: dict[str, dict[str, Any]] = {SAME: {}, OTHER: {}, UNCACHED: {}}
    settings = changes.pop("settings", {})
    for name in common:
        effect, value = COMMON[name]
        merged[effect][name] = value
    for effect, more in changes.items():
        merged[effect] |= more
    return Model(path, settings, merged)


COMMON: dict[str, tuple[str, Any]] = {
    "model": (OTHER, "model-2"),
    "base_url": (OTHER, "https://other.example/v1"),
    "temperature": (OTHER, 0.123),
    "max_tokens": (OTHER, 7),
    "top_p": (OTHER, 0.321),
    "seed": (OTHER, 3),
    "stop": (OTHER, ["end"]),
    "n": (OTHER, 2),
    "model_kwargs": (OTHER, {"logit_bias": {"1": 2}}),
    "extra_body": (OTHER, {"password": "of a form"}),
    "default_headers": (OTHER, {"x-tenant-id": "a"}),
    "api_key": (SAME, "another"),
    "timeout": (SAME, 3),
    "max_retries": (SAME, 7),
    "http_client": (SAME, httpx.Client()),
    "http_async_client": (SAME, httpx.AsyncClient()),
    "streaming": (SAME, True),
    "rate_limiter": (SAME, InMemoryRateLimiter()),
    "tags": (SAME, ["a"]),
    "metadata": (SAME, {"user": "a"}),
    "verbose": (SAME, True),
    "name": (SAME, "my model"),
    "disable_streaming": (SAME, True),
}
RUN = ("tags", "metadata", "verbose", "name")
CHAT = ("rate_limiter", "disable_streaming", *RUN)
SAMPLING = ("model", "temperature", "max_tokens")
OPENAI = (
    *SAMPLING,
    *("base_url", "api_key", "timeout", "max_retries", "http_client", "http_async_client"),
    *("seed", "stop", "n", "top_p", "model_kwargs", "extra_body", "default_headers"),
    *("streaming", *CHAT),
)
KEY = {"model": "model-1", "api_key": "key"}
TRACING = {"default_headers": {"traceparent": "00-1", "x-request-id": "7", "authorization": "b"}}

MODELS = [
    model(
        "langchain_openai.ChatOpenAI",
        *OPENAI,
        settings=KEY,
        other={
            "organization": "o",
            "reasoning_effort": "high",
            "service_tier": "flex",
            "use_responses_api": True,
            "default_query": {"v": 1},
            "output_version": "v1",
        },
        same={"timeout": httpx.Timeout(3), "openai_proxy": "http://proxy", "stream_usage": False},
    ),
    model("langchain_openai.ChatOpenAI", settings=KEY, same=TRACING),
    model("langchain_openai.ChatOpenAI", settings=KEY, uncached={"client": object()}),
    model(
        "langchain_openai.AzureChatOpenAI",
        *("temperature", "timeout", "max_retries", "http_client", "stop", *CHAT),
        settings={
            "azure_endpoint": "https://a.example",
            "api_version": "1",
            "azure_deployment": "d",
            "api_key": "key",
        },
        other={
            "azure_endpoint": "https://b.example",
            "api_version": "2",
            "azure_deployment": "e",
            "model_version": "9",
        },
        same={
            "api_key": "another",
            "azure_ad_token": "token",
            "azure_ad_token_provider": lambda: "token",
        },
    ),
    model(
        "langchain_openai.OpenAI",
        *("model", "temperature", "max_tokens", "base_url", "api_key", "timeout", "max_retries"),
        *RUN,
        settings=KEY,
        other={"best_of": 2, "logit_bias": {"1": 1}},
        same={"batch_size": 5},
    ),
    model(
        "langchain_openai.AzureOpenAI",
        *("temperature", "max_tokens", "timeout", *RUN),
        settings={
            "azure_endpoint": "https://a.example",
            "api_version": "1",
            "azure_deployment": "d",
            "api_key": "key",
        },
        other={"azure_deployment": "e"},
    ),
    model(
        "langchain_anthropic.ChatAnthropic",
        *SAMPLING,
        *("base_url", "api_key", "timeout", "max_retries", "top_p", "stop", "streaming"),
        *("default_headers", "model_kwargs", *CHAT),
        settings=KEY,
        other={
            "mcp_servers": [{"type": "url", "url": "https://hr.example", "name": "hr"}],
            "betas": ["files-api-2025-04-14"],
            "top_k": 4,
            "thinking": {"type": "enabled", "budget_tokens": 1024},
        },
        same={"stream_usage": False, "anthropic_proxy": "http://proxy"},
    ),
    model(
        "langchain_anthropic.AnthropicLLM",
        *("model", "temperature", "max_tokens", "base_url", "api_key", "max_retries", *RUN),
        settings=KEY,
        same={"default_request_timeout": 3},
    ),
    model(
        "langchain_ollama.ChatOllama",
        *("model", "base_url", "temperature", "seed", "stop", "top_p", *CHAT),
        settings={"model": "model-1"},
        other={
            "num_ctx": 9,
            "format": "json",
            "reasoning": True,
            "client_kwargs": {"headers": {"x-tenant-id": "a"}},
        },
        same={
            "keep_alive": "5m",
            "sync_client_kwargs": {"timeout": 3, "verify": False},
            "async_client_kwargs": {"headers": {"authorization": "b"}},
        },
    ),
    model(
        "langchain_ollama.OllamaLLM",
        *("model", "base_url", "temperature", "stop", *RUN),
        settings={"model": "model-1"},
        other={"num_predict": 9, "format": "json"},
        same={"client_kwargs": {"timeout": 3}},
    ),
    model(
        "langchain_deepseek.ChatDeepSeek",
        *SAMPLING,
        *("api_key", "timeout", "max_retries", "http_client", "extra_body", "streaming", *CHAT),
        settings=KEY,
        other={"api_base": "https://other.example"},
    ),
    model(
        "langchain_xai.ChatXAI",
        *SAMPLING,
        *("api_key", "timeout", "http_client", "model_kwargs", *CHAT),
        settings=KEY,
        other={"base_url": "https://other.example/v1"},
    ),
    model(
        "langchain_together.ChatTogether",
        *(*SAMPLING, "api_key", "base_url", "timeout", *CHAT),
        settings=KEY,
    ),
    model(
        "langchain_together.Together",
        *("model", "temperature", "max_tokens", "base_url", "api_key", *RUN),
        settings=KEY,
        other={"top_k": 5},
    ),
    model(
        "langchain_cerebras.ChatCerebras",
        *(*SAMPLING, "api_key", "base_url", "timeout", *CHAT),
        settings=KEY,
        same={"cerebras_proxy": "http://proxy"},
    ),
    model(
        "langchain_mistralai.ChatMistralAI",
        *(*SAMPLING, "api_key", "timeout", "max_retries", "top_p", "streaming", *CHAT),
        settings=KEY,
        other={"endpoint": "https://other.example/v1", "safe_mode": True, "random_seed": 5},
        same={"max_concurrent_requests": 3},
    ),
    model(
        "langchain_perplexity.ChatPerplexity",
        *(*SAMPLING, "api_key", "timeout", "max_retries", "model_kwargs", "streaming", *CHAT),
        settings=KEY,
        other={"search_mode": "academic", "reasoning_effort": "high"},
    ),
    model(
        "langchain_aws.ChatBedrockConverse",
        *("temperature", "max_tokens", "top_p", *CHAT),
        settings={"model": "anthropic.claude-v2", "region_name": "us-east-1"},
        other={
            "model": "anthropic.claude-v3",
            "region_name": "eu-west-1",
            "endpoint_url": "https://other.example",
            "guardrail_config": {"guardrailIdentifier": "a", "guardrailVersion": "1"},
            "additional_model_request_fields": {"a": 1},
        },
        same={
            "credentials_profile_name": None,
            "aws_session_token": None,
            "config": "botocore.config.Config",
        },
    ),
    model(
        "langchain_aws.ChatBedrock",
        *("temperature", "max_tokens", "streaming", *CHAT),
        settings={"model": "anthropic.claude-v2", "region_name": "us-east-1"},
        other={"region_name": "eu-west-1", "model_kwargs": {"top_k": 1}},
        same={"config": "botocore.config.Config"},
    ),
    model(
        "langchain_aws.BedrockLLM",
        *("temperature", "max_tokens", *RUN),
        settings={"model": "amazon.titan", "region_name": "us-east-1"},
        other={"endpoint_url": "https://other.example"},
        same={"config": "botocore.config.Config"},
    ),
    model(
        "langchain_groq.ChatGroq",
        *(*SAMPLING, "api_key", "base_url", "timeout", "max_retries", "stop", "n", "streaming"),
        *("http_client", "http_async_client", "default_headers", *CHAT),
        settings=KEY,
        other={"reasoning_format": "parsed"},
    ),
    model(
        "langchain_cohere.ChatCohere",
        *("model", "temperature", "base_url", *CHAT),
        settings={"model": "model-1", "cohere_api_key": "key"},
        other={"preamble": "be brief"},
        same={"cohere_api_key": "another", "timeout_seconds": 3, "user_agent": "me"},
    ),
    model(
        "langchain_google_genai.ChatGoogleGenerativeAI",
        *("model", "temperature", "api_key", "timeout", "max_retries", "seed", *CHAT),
        settings=KEY,
        other={"base_url": "https://other.example", "thinking_budget": 5, "max_output_tokens": 7},
    ),
    model(
        "langchain_fireworks.ChatFireworks",
        *(*SAMPLING, "api_key", "base_url", "timeout", "stop", *CHAT),
        settings=KEY,
    ),
    model(
        "langchain_openrouter.ChatOpenRouter",
        *(*SAMPLING, "api_key", "base_url", "seed", *CHAT),
        settings=KEY,
        other={"openrouter_provider": {"order": ["a"]}},
    ),
    model(
        "langchain_litellm.ChatLiteLLM",
        *("temperature", "max_tokens", "max_retries", "streaming", *CHAT),
        settings={"model": "openai/model-1", "api_key": "key"},
        other={
            "model": "openai/model-2",
            "api_base": "https://other.example",
            "custom_llm_provider": "azure",
        },
        same={"request_timeout": 3},
    ),
    model(
        "langchain_upstage.ChatUpstage",
        *(*SAMPLING, "api_key", "base_url", *CHAT),
        settings=KEY,
    ),
    model(
        "langchain_huggingface.HuggingFaceEndpoint",
        *("temperature", *RUN),
        settings={"repo_id": "a/b", "huggingfacehub_api_token": "key"},
        other={"repo_id": "a/c", "max_new_tokens": 7},
        same={"timeout": 3, "huggingfacehub_api_token": "another"},
    ),
]


def with_objects(settings: dict[str, Any]) -> dict[str, Any]:
    """A copy of *settings*, with objects of classes that only some environments have."""
    settings = {
        name: value.copy() if isinstance(value, (dict, list)) else value
        for name, value in settings.items()
    }
    if settings.get("config") == "botocore.config.Config":
        config = importlib.import_module("botocore.config")
        settings["config"] = config.Config(read_timeout=9)
    return settings


def key_of(path: str, settings: dict[str, Any]) -> str:
    """The key of the request that a model with *settings* makes of "hi"; "" if it goes uncached."""
    module, _, name = path.rpartition(".")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        cls = getattr(pytest.importorskip(module), name)
        built = cls(**with_objects(settings))
    prompt: Any = [HumanMessage("hi")] if hasattr(cls, "bind_tools") else "hi"
    wrapped = cached(built, LLMCache())
    request = type(wrapped)._llm_cache_mem.request(built, prompt, None, {}, None)
    return "" if request is None else request.key


@lru_cache
def unchanged(number: int) -> str:
    path, settings, _ = MODELS[number]
    key = key_of(path, settings)
    assert key == key_of(path, settings) != ""
    return key


def cases() -> Iterator[Any]:
    for number, each in enumerate(MODELS):
        for effect, changes in each.changes.items():
            for name in changes:
                yield pytest.param(
                    each, effect, name, id=f"{each.path.partition('.')[2]}{number}-{name}-{effect}"
                )


@pytest.fixture(autouse=True)
def _no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OPENAI_BASE_URL", "ANTHROPIC_BASE_URL", "OLLAMA_HOST"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "key")


@pytest.mark.parametrize(("each", "effect", "name"), list(cases()))
def test_change_of_one_setting(each: Model, effect: str, name: str) -> None:
    before = unchanged(MODELS.index(each))
    after = key_of(each.path, {**each.settings, name: each.changes[effect][name]})
    assert effect == (UNCACHED if not after else SAME if after == before else OTHER)


def test_classes_with_equal_settings_differ() -> None:
    paths = [each.path for each in MODELS if each.settings == KEY]
    keys = []
    for path in dict.fromkeys(paths):
        if importlib.util.find_spec(path.partition(".")[0]) is not None:
            keys.append(key_of(path, KEY))
    assert len(set(keys)) == len(keys)


def test_at_least_twenty_integrations_are_here() -> None:
    assert len({each.path for each in MODELS}) >= 20
