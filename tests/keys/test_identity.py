"""Identity: which settings are credentials, transport, part of the request, or opaque."""

import json
import logging
from dataclasses import dataclass
from datetime import date
from enum import Enum
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from typing import Any

import httpx
import pytest
from botocore.config import Config
from openai import OpenAI
from pydantic import BaseModel, ConfigDict, PrivateAttr, SecretStr

from llm_cache_mem import RequestNotCacheable
from llm_cache_mem.keys import clients, names, wire_form
from llm_cache_mem.keys.clients import endpoint_of, gets_credential, is_of_sdk
from llm_cache_mem.keys.digest import digest_of
from llm_cache_mem.keys.identity import Opaque, describe, kind_of, settings_of
from llm_cache_mem.keys.names import header_kind


class Pipeline:
    """An object that says nothing about itself."""


def key_of(**settings: Any) -> str:
    return digest_of(describe(settings.items()).require_known())


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("api_key", "sk-1"),
        ("openai_api_key", SecretStr("sk-1")),
        ("api_key", lambda: "sk-1"),
        ("aws_session_token", "abc"),
        ("azure_ad_token", SecretStr("abc")),
        ("token", "hf_1"),
        ("credentials", Pipeline()),
    ],
)
def test_credential_is_neither_in_the_key_nor_opaque(name: str, value: Any) -> None:
    assert kind_of(name, value) == "credential"
    assert describe([(name, value)]) == ({}, {})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("timeout", httpx.Timeout(3)),
        ("request_timeout", 3.0),
        ("max_retries", 7),
        ("http_client", object()),
        ("config", Config(read_timeout=9)),
        ("azure_ad_token_provider", lambda: "token"),
        ("rate_limiter", Pipeline()),
        ("callbacks", [Pipeline()]),
        ("anything", httpx.Client),
        ("logger", logging.getLogger("x")),
        ("client", logging),
        ("temperature", None),
    ],
)
def test_transport_is_not_in_the_key(name: str, value: Any) -> None:
    if value is httpx.Client:
        value = httpx.Client()
    assert kind_of(name, value) == "transport"
    assert describe([(name, value)]) == ({}, {})


class Level(Enum):
    HIGH = "high"


class Thinking(BaseModel):
    budget: int = 3
    _style: str = PrivateAttr(default="plain")


@dataclass
class Options:
    top_k: int


@pytest.mark.parametrize(
    ("name", "one", "other"),
    [
        ("temperature", 0.0, 0.5),
        ("base_url", "https://a.example", "https://b.example"),
        ("level", Level.HIGH, "low"),
        ("thinking", Thinking(), Thinking(budget=9)),
        ("options", Options(1), Options(2)),
        ("stop", ["x"], ["y"]),
        ("betas", {"a"}, {"b"}),
        ("until", date(2025, 1, 1), date(2025, 1, 2)),
        ("schema", Thinking, type("Thinking", (Thinking,), {"__annotations__": {"more": int}})),
        ("service_token_budget", SecretStr("a"), SecretStr("b")),
        ("mcp_servers", [{"url": "https://hr"}], [{"url": "https://law"}]),
        ("organization", "a", "b"),
        ("eos_token", "</s>", "<end>"),
        ("default_headers", {"x-tenant-id": "a"}, {"x-tenant-id": "b"}),
        ("default_headers", {"x-tenant-id": 1}, {"x-tenant-id": 2}),
        ("default_headers", {"x-beta": True}, {"x-beta": False}),
        ("client_kwargs", {"params": {"v": 1}}, {"params": {"v": 2}}),
        ("cache_dir", Path("/a"), Path("/b")),
    ],
)
def test_everything_else_is_in_the_key(name: str, one: Any, other: Any) -> None:
    assert kind_of(name, one) == kind_of(name, other) == "identity"
    assert key_of(**{name: one}) != key_of(**{name: other})
    assert key_of(**{name: one}) == key_of(**{name: one})


def test_members_of_an_enum_are_told_apart_by_their_values() -> None:
    class Threshold(Enum):
        LOW = "low"
        HIGH = "high"

    assert key_of(safety=Threshold.LOW) != key_of(safety=Threshold.HIGH)
    assert key_of(safety=Threshold.LOW) == key_of(safety="low")


def test_nested_payloads_are_not_searched_for_credentials() -> None:
    """A property called password in a schema is not a password."""
    schemas = [
        {"properties": {"password": {"type": kind}, "api_key": {"type": "string"}}}
        for kind in ("string", "integer")
    ]
    assert key_of(response_format=schemas[0]) != key_of(response_format=schemas[1])
    assert describe([("extra", schemas[0])]).settings == {"extra": schemas[0]}


def test_texts_in_payloads_that_are_named_like_credentials_are_digested() -> None:
    payloads = [{"search": {"api_key": key}} for key in ("sk-1", "sk-2")]
    assert key_of(payload=payloads[0]) != key_of(payload=payloads[1])
    assert "sk-1" not in str(describe([("payload", payloads[0])]).settings)


def test_secrets_that_are_no_credentials_are_digested() -> None:
    found = describe([("instructions", SecretStr("be kind")), ("n", {"s": SecretStr("hush")})])
    assert "be kind" not in str(found)
    assert "hush" not in str(found)
    assert found.settings["instructions"].startswith("sha256:")


def test_headers_keep_no_credential_and_no_value_in_clear_text() -> None:
    headers = {"Authorization": "Bearer 1", "X-Request-Id": "7", "X-Virtual-Key": "vk-1"}
    found = describe([("default_headers", headers)]).settings["default_headers"]
    assert list(found) == ["x-virtual-key"]
    assert found["x-virtual-key"].startswith("sha256:")
    secret = describe([("headers", {"X-Virtual-Key": SecretStr("vk-1")})]).settings["headers"]
    assert secret == found


def test_client_arguments_are_settings_in_their_turn() -> None:
    one = {"timeout": 1, "headers": {"authorization": "a", "x-tenant": "t"}, "auth": ("u", "p")}
    other = {"timeout": 2, "headers": {"authorization": "b", "x-tenant": "t"}, "verify": False}
    assert key_of(client_kwargs=one) == key_of(client_kwargs=other)


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("Authorization", "credential"),
        ("api-key", "credential"),
        ("x-stainless-os", "transport"),
        ("User-Agent", "transport"),
        ("traceparent", "transport"),
        ("anthropic-beta", "identity"),
        ("OpenAI-Organization", "identity"),
        ("x-tenant-id", "identity"),
        ("x-session-id", "identity"),
        ("x-conversation-id", "identity"),
        ("x-persona-title", "identity"),
        ("x-author", "identity"),
    ],
)
def test_headers_are_told_apart_by_exact_name(name: str, kind: str) -> None:
    assert header_kind(name) == kind


@pytest.mark.parametrize(
    ("listed", "digest"),
    [
        (names.CREDENTIALS, "989f1abb"),
        (names.CREDENTIAL_HEADERS, "fae0161f"),
        (names.CREDENTIAL_QUERY, "d1c22ea9"),
        (names.TRANSPORT, "593635f2"),
        (names.TRANSPORT_HEADERS, "e06901d9"),
        (names.TRANSPORT_HEADER_PREFIXES, "8113973c"),
        (names.ROUTING_HINTS, "b631db1f"),
        (clients._CLIENTS, "00c867e0"),
        (clients._SDKS, "3f7d2fcb"),
        (clients._TRANSPORT_LIBRARIES, "349f976d"),
        (wire_form._SENT_BY, "1745d191"),
    ],
)
def test_lists_that_keys_are_made_by_change_on_purpose(listed: Any, digest: str) -> None:
    """Another list makes other keys: name that in the changelog, and change the digest here."""
    assert sha256(" ".join(sorted(listed)).encode()).hexdigest()[:8] == digest


@pytest.mark.parametrize("provider", ["openai", "azure", "x"])
@pytest.mark.parametrize("name", sorted(names._OF_A_PROVIDER))
def test_credential_may_have_the_name_of_its_provider(provider: str, name: str) -> None:
    assert kind_of(name, "x") == kind_of(f"{provider}_{name}", "x") == "credential"
    assert kind_of(f"{name}_count", "x") == "identity"


def test_user_and_password_of_a_url_are_left_out() -> None:
    assert key_of(base_url="https://me:pw@host/v1") == key_of(base_url="https://host/v1")
    assert describe([("base_url", httpx.URL("https://me:pw@host/"))]).settings == {
        "base_url": "https://host/"
    }
    text = "https://host is where me@example.org lives"
    assert describe([("system", text)]).settings == {"system": text}


@pytest.mark.parametrize(
    ("name", "value", "path"),
    [
        ("pipeline", Pipeline(), "pipeline"),
        ("_pipeline", Pipeline(), "_pipeline"),
        ("options", {"run": [1, Pipeline()]}, "options.run.[1]"),
        ("transform", lambda text: text, "transform"),
        ("model", "./my-model", "model"),
        ("model_name", "/models/llama", "model_name"),
        ("tokenizer", Path("tok").absolute(), "tokenizer"),
        ("output", Pipeline, "output"),
    ],
)
def test_objects_without_a_wire_form_are_opaque(name: str, value: Any, path: str) -> None:
    assert kind_of(name, value) == "opaque"
    found = describe([("temperature", 0), (name, value)])
    assert found.settings == {"temperature": 0}
    assert list(found.opaque) == [path]
    with pytest.raises(RequestNotCacheable, match="identity="):
        found.require_known()


def test_hub_name_is_no_local_path() -> None:
    assert kind_of("model", "meta-llama/Llama-3.1-8B") == "identity"


def test_depth_is_bounded() -> None:
    loop: dict[str, Any] = {}
    loop["loop"] = loop
    assert kind_of("loop", loop) == "opaque"


def test_unknown_objects_can_be_named_by_the_caller() -> None:
    def name(value: Any) -> str:
        if isinstance(value, Pipeline):
            return "pipeline 7"
        raise Opaque(value)

    found = describe([("a", [Pipeline()]), ("b", object())], unknown=name)
    assert found.settings == {"a": ["pipeline 7"]}
    assert found.opaque == {"b": "object"}


def test_further_names_can_be_transport() -> None:
    assert describe([("streaming", True)], transport={"streaming"}).settings == {}


class Model(BaseModel):
    model_config = ConfigDict(extra="allow")
    name: str = "m"
    _style: str | None = PrivateAttr(default=None)

    @cached_property
    def client(self) -> object:
        return object()


def test_settings_of_an_object_are_all_its_state() -> None:
    model = Model(more=1)
    model._style = "pirate"
    assert model.client
    assert dict(settings_of(model)) == {"name": "m", "more": 1, "_style": "pirate"}
    assert describe(settings_of(Pipeline())) == ({}, {})


def test_private_state_of_a_nested_object_counts() -> None:
    plain, pirate = Thinking(), Thinking()
    pirate._style = "pirate"
    assert key_of(thinking=plain) != key_of(thinking=pirate)


@dataclass
class Persona:
    """Data of a program, whose names are not those of settings."""

    name: str = ""
    verbose: bool = False
    timeout: float = 0
    username: str = ""
    password: str = ""
    http: Any = None


@pytest.mark.parametrize(
    "other",
    [
        {"name": "b"},
        {"verbose": True},
        {"timeout": 2},
        {"username": "b"},
        {"http": httpx.Client(base_url="https://b.example")},
    ],
)
def test_fields_of_a_programs_own_objects_count(other: dict[str, Any]) -> None:
    said = describe([("persona", Persona(**other))], transport={"name"}).settings
    assert said != describe([("persona", Persona())], transport={"name"}).settings
    assert "'username': 'b'" not in str(said)


def test_a_password_in_an_object_is_a_credential() -> None:
    assert key_of(persona=Persona(password="a")) == key_of(persona=Persona(password="b"))


@pytest.mark.parametrize(
    "other",
    [
        httpx.Client(base_url="https://b.example"),
        httpx.Client(headers={"x-style": "b"}),
        httpx.AsyncClient(params={"style": "b"}),
        OpenAI(api_key="k", default_headers={"x-style": "b"}),
        OpenAI(api_key="k", default_query={"style": "b"}).chat.completions,
        OpenAI(api_key="k", http_client=httpx.Client(headers={"x-style": "b"})),
    ],
)
def test_what_a_client_adds_to_its_requests_counts(other: Any) -> None:
    plain = httpx.Client() if isinstance(other, httpx.Client | httpx.AsyncClient) else None
    assert key_of(http=plain or OpenAI(api_key="k")) != key_of(http=other)
    assert "style': 'b'" not in str(describe([("http", other)]).settings)


def test_credentials_and_defaults_of_a_client_do_not_count() -> None:
    given = httpx.Client(headers={"authorization": "k"}, params={"key": "k"}, timeout=1)
    assert (
        describe([("http", httpx.Client())]).settings == describe([("http", given)]).settings == {}
    )


def test_a_module_counts_by_its_name() -> None:
    assert key_of(prompts=logging) == key_of()
    assert key_of(prompts=pytest) != key_of(prompts=json)


def test_objects_of_different_classes_differ() -> None:
    other = type("Other", (Thinking,), {})
    assert key_of(thinking=Thinking()) != key_of(thinking=other())


def test_sdk_client_identity_is_its_base_url() -> None:
    clients = [OpenAI(api_key="k", base_url=f"https://{name}/v1") for name in "ab"]
    assert endpoint_of(clients[0]) == "https://a/v1/"
    assert endpoint_of(clients[0].chat.completions) == "https://a/v1/"
    assert endpoint_of(object()) is None
    assert kind_of("client", clients[0]) == "transport"
    assert key_of(client=clients[0]) != key_of(client=clients[1])
    again = OpenAI(api_key="other", base_url="https://a/v1", timeout=1)
    assert key_of(client=clients[0].chat.completions, root=clients[0]) == key_of(client=again)


def test_client_reports_environment_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    keys = [key_of(client=OpenAI(api_key="k").chat.completions)]
    for name in ("OPENAI_BASE_URL", "OPENAI_ORG_ID", "OPENAI_PROJECT_ID"):
        monkeypatch.setenv(name, "https://other.example/v1")
        keys.append(key_of(client=OpenAI(api_key="k").chat.completions))
    assert len(set(keys)) == 4


class Gateway:
    """A client of the user's own, with state that changes from call to call."""

    base_url = "https://gateway.example/"
    last: object = None


def test_object_that_is_called_a_client_and_says_where_it_sends_is_one() -> None:
    assert kind_of("_client", Gateway()) == "transport"
    assert describe([("client", Gateway())]).settings == {"base_url": "https://gateway.example/"}
    assert kind_of("pipeline", Gateway()) == kind_of("client", Pipeline()) == "opaque"


def test_clients_that_say_the_same_say_it_once() -> None:
    one, other = (OpenAI(api_key="k", base_url=f"https://{name}/v1") for name in "ab")
    found = describe([("client", one.chat.completions), ("root_client", one)])
    assert found.settings == {"base_url": "https://a/v1/"}
    assert describe([("client", one), ("async_client", other)]).settings == {
        "base_url": "https://a/v1/",
        "async_client.base_url": "https://b/v1/",
    }
    assert describe([("base_url", "https://c"), ("client", one)]).settings == {
        "base_url": "https://c",
        "client.base_url": "https://a/v1/",
    }


def test_any_proxy_is_transport() -> None:
    assert kind_of("openai_proxy", "http://proxy") == "transport"


def test_a_header_without_a_text_is_opaque() -> None:
    assert kind_of("default_headers", {"x-tenant": object()}) == "opaque"


def test_hooks_of_requests_may_add_a_credential() -> None:
    assert gets_credential("event_hooks", {"request": [print]})
    assert not gets_credential("event_hooks", {"response": [print]})


def test_a_class_that_a_program_derives_is_not_of_the_sdk() -> None:
    class Signed(OpenAI):
        pass

    assert is_of_sdk(OpenAI(api_key="k").chat.completions)
    assert not is_of_sdk(Signed(api_key="k"))
    assert not is_of_sdk(Signed(api_key="k").chat.completions)
