"""What of an HTTP request is the request: every field and header that can change an answer, no
secret, no id."""

import json
from pathlib import Path
from typing import Any

import pytest

from llm_cache_mem import LLMCache, RequestNotCacheable, ignoring, last_turn, masking
from llm_cache_mem.diagnostics.explain import StoredRequest, explain
from llm_cache_mem.diagnostics.survey import survey
from llm_cache_mem.http import request as requests
from llm_cache_mem.http.headers import credentials_of
from llm_cache_mem.keys import names
from llm_cache_mem.keys.digest import canonical_json
from llm_cache_mem.keys.state import STATEFUL_FIELDS

BASE, CHAT = "https://api.example.com", "/v1/chat/completions"
BODY: dict[str, Any] = {
    "model": "m",
    "messages": [
        {"role": "system", "content": "today: 2026-01-02"},
        {"role": "user", "content": "hi"},
    ],
}


def key(
    body: Any = BODY,
    path: str = CHAT,
    query: str = "",
    headers: dict[str, str] | None = None,
    base: str = BASE,
    cache: LLMCache | None = None,
) -> str:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    asked = requests.read(base, path, query, (headers or {}).items(), data)
    return (cache or LLMCache()).engine.keyer.request(asked.messages, asked.params, kind="http").key


# -- Which requests


@pytest.mark.parametrize(
    "path",
    [
        CHAT, "/openai/deployments/gpt/chat/completions", "/v1/completions", "/v1/responses", "/v1/messages", "/v1/messages/count_tokens",
        "/v1/embeddings", "/v1/moderations", "/v2/chat", "/v1/chat", "/v2/rerank", "/v2/embed", "/api/chat", "/api/generate", "/api/embed",
        "/v1beta/models/gemini-2.0-flash:generateContent", "/v1beta/models/g:streamGenerateContent", "/v1beta/models/e:batchEmbedContents",
        "/v1/projects/p/locations/l/publishers/anthropic/models/claude@1:rawPredict", "/model/anthropic.claude-v1%3A0/invoke",
        "/model/amazon.nova:0/converse-stream", "/v1/fim/completions",
    ],
)  # fmt: skip
def test_a_post_of_json_to_a_model_is_a_generation_request(path: str) -> None:
    assert requests.is_generation("POST", path, "application/json; charset=utf-8")
    assert not requests.is_generation("GET", path, "application/json")
    assert not requests.is_generation("POST", path, "multipart/form-data")


@pytest.mark.parametrize(
    "path",
    [
        "/v1/models",
        "/v1/files",
        "/v1/batches",
        "/v1/threads/t/messages",
        "/v1/responses/r_1/cancel",
        "/v1/conversations/c/messages",
        "/",
    ],
)
def test_anything_else_is_let_alone(path: str) -> None:
    assert not requests.is_generation("POST", path, "application/json")


# -- What of it counts


CHANGES: dict[str, dict[str, Any]] = {
    "temperature": {"body": {**BODY, "temperature": 0}},
    "stream": {"body": {**BODY, "stream": True}},
    "tools": {"body": {**BODY, "tools": [{"type": "function", "function": {"name": "f"}}]}},
    "unknown field": {"body": {**BODY, "field_of_tomorrow": 1}},
    "model": {"body": {**BODY, "model": "n"}},
    "content": {"body": {**BODY, "messages": BODY["messages"][:1]}},
    "field name": {"body": {"model": "m", "input": BODY["messages"]}},
    "base URL": {"base": "https://eu.example.com"},
    "port": {"base": BASE + ":8443"},
    "path": {"path": "/v2/chat/completions"},
    "query": {"query": "api-version=2024-10-21"},
    "anthropic-beta": {"headers": {"anthropic-beta": "x-2025"}},
    "anthropic-version": {"headers": {"anthropic-version": "2023-06-01"}},
    "openai-beta": {"headers": {"OpenAI-Beta": "responses=v1"}},
    "guardrail": {"headers": {"X-Amzn-Bedrock-GuardrailIdentifier": "g1"}},
    "unknown header": {"headers": {"X-Gateway-Route": "eu-cheap"}},
    "accept": {"headers": {"accept": "application/vnd.amazon.eventstream"}},
    **{
        name: {"headers": {name: "1"}}
        for name in (
            "chatgpt-account-id",
            "openai-organization",
            "openai-project",
            "x-account-tier",
            "x-conversation-id",
            "x-persona-title",
            "x-portkey-virtual-key",
            "x-session-id",
            "x-tenant-id",
        )
    },
    **{
        f"?{name}": {"query": f"{name}=1"} for name in ("author", "region_key", "session", "signal")
    },
}


@pytest.mark.parametrize("what", CHANGES)
def test_whatever_can_change_the_answer_changes_the_key(what: str) -> None:
    assert key(**CHANGES[what]) != key()


def test_no_two_changes_give_the_same_key() -> None:
    assert len({key(**change) for change in CHANGES.values()}) == len(CHANGES)


IRRELEVANT = {
    "authorization": "Bearer sk-SECRET", "x-api-key": "SECRET", "api-key": "SECRET", "x-goog-api-key": "SECRET", "cookie": "SECRET",
    "x-amz-security-token": "SECRET", "x-amz-date": "20260101", "x-portkey-api-key": "SECRET",
    "x-request-id": "1", "x-client-request-id": "2", "x-ms-client-request-id": "3", "traceparent": "00-1-2-01", "x-amzn-trace-id": "4",
    "idempotency-key": "5", "x-stainless-retry-count": "1",
    "x-stainless-timeout": "600", "user-agent": "sdk/2", "accept": "application/json",
    "accept-encoding": "gzip", "content-length": "99", "x-goog-api-client": "gl-python/3", "x-datadog-trace-id": "6", "sentry-trace": "7",
    "proxy-authorization": "SECRET", "amz-sdk-request": "attempt=1", "x-fern-sdk-version": "5", "helicone-auth": "SECRET",
    "x-amz-content-sha256": "8", "originator": "9", "x-title": "App", "newrelic": "10", "x-dynatrace": "11", "x-instana-t": "12",
}  # fmt: skip


@pytest.mark.parametrize("name", IRRELEVANT)
def test_secrets_ids_retries_and_tracing_are_no_part_of_it(name: str) -> None:
    assert key(headers={name: IRRELEVANT[name]}) == key()


def test_no_secret_is_handed_on() -> None:
    headers = {**IRRELEVANT, "x-our-own-gateway": "SECRET", "openai-organization": "org-SECRET"}
    asked = requests.read(
        BASE,
        CHAT,
        "key=SECRET&api_key=SECRET&client_secret=SECRET&password=SECRET&auth=SECRET&jwt=SECRET&sig=SECRET&session=SECRET&alt=sse",
        headers.items(),
        json.dumps(BODY).encode(),
    )
    assert "SECRET" not in repr((asked.messages, asked.params))
    assert asked.params["http.query"][0] == ["alt", "sse"]
    assert [name for name, _ in asked.params["http.query"]] == ["alt", "session"]


def test_secrets_in_the_query_and_its_order_do_not_count() -> None:
    assert key(query="a=1&b=2&key=one") == key(query="b=2&key=two&a=1")


@pytest.mark.parametrize(
    ("change", "path"),
    [
        ({"headers": {"x-session-id": "{}"}}, "http.headers.x-session-id"),
        ({"query": "author={}"}, "http.query.author"),
    ],
)
def test_a_header_or_query_field_that_takes_hits_is_named(
    change: dict[str, Any], path: str
) -> None:
    texts = []
    for number in range(3):
        made = json.loads(json.dumps(change).replace("{}", str(number)))
        headers = made.get("headers", {}).items()
        asked = requests.read(BASE, CHAT, made.get("query", ""), headers, json.dumps(BODY).encode())
        texts.append(canonical_json(asked.messages, asked.params).encode())
    assert path in str(survey([json.loads(text) for text in texts]))
    stored, missed = StoredRequest("a", "http", 0, texts[0]), StoredRequest("b", "", 0, texts[1])
    assert [found.path for found in explain(missed, [stored]).differences] == [path]


def test_credentials_of_headers_and_query_are_told_apart() -> None:
    headers = [("Authorization", "Bearer 1"), ("x-tenant-id", "t")]
    assert credentials_of(headers, "key=2&alt=sse") == [
        ("?key", "2"),
        ("Authorization", "Bearer 1"),
    ]


def test_the_key_contract_lists_what_is_left_out() -> None:
    page = Path(__file__).parents[2] / "docs" / "key_contract.md"
    text = page.read_text(encoding="utf-8")
    for name in {
        *names.CREDENTIAL_HEADERS,
        *names.TRANSPORT_HEADERS,
        *names.TRANSPORT_HEADER_PREFIXES,
        *names.CREDENTIAL_QUERY,
    }:
        assert f"`{name}`" in text, name


def test_the_order_of_repeated_query_fields_counts() -> None:
    assert key(query="tag=a&tag=b") != key(query="tag=b&tag=a")
    assert key(query="tag=a&x=1&tag=b") == key(query="x=1&tag=a&tag=b")


def test_retries_and_versions_of_an_sdk_are_one_request() -> None:
    sdk = {
        "x-stainless-lang": "python", "x-stainless-package-version": "1.0.0", "x-fern-sdk-version": "5",
        "x-stainless-retry-count": "0", "x-stainless-read-timeout": "600", "user-agent": "OpenAI/1.0",
    }  # fmt: skip
    other = {
        **sdk,
        "x-stainless-package-version": "2.0.0",
        "x-stainless-retry-count": "2",
        "user-agent": "OpenAI/2.0",
    }
    assert key(headers=sdk) == key(headers=other) == key()


def test_the_order_of_fields_and_spaces_does_not_count() -> None:
    reordered = json.dumps(dict(reversed(BODY.items())), indent=3).encode()
    assert key(reordered) == key()


# -- The shape that key functions get


def shape(body: dict[str, Any], path: str) -> tuple[Any, dict[str, Any]]:
    asked = requests.read(BASE, path, "", (), json.dumps(body).encode())
    return asked.messages, asked.params


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/responses", {"model": "m", "input": "hi"}),
        ("/v1/completions", {"model": "m", "prompt": "hi"}),
        ("/api/generate", {"model": "m", "prompt": "hi"}),
        ("/v1/chat", {"model": "m", "message": "hi"}),
        ("/model/m/invoke", {"inputText": "hi"}),
    ],
)
def test_bare_text_is_one_message_of_the_user(path: str, body: dict[str, Any]) -> None:
    messages, params = shape(body, path)
    assert messages == [{"role": "user", "content": "hi"}]
    assert params["model"] == "m"


def test_text_and_the_message_it_stands_for_are_two_requests() -> None:
    text, listed = (
        {"model": "m", "input": "hi"},
        {"model": "m", "input": [{"role": "user", "content": "hi"}]},
    )
    assert key(text, "/v1/responses") != key(listed, "/v1/responses")


def test_gemini_turns_are_messages_and_the_path_names_the_model() -> None:
    body = {
        "contents": [{"role": "user", "parts": [{"text": "hi"}]}],
        "generationConfig": {"temperature": 0},
    }
    messages, params = shape(body, "/v1beta/models/gemini-2.0-flash:generateContent")
    assert messages == [{"role": "user", "content": [{"text": "hi"}]}]
    assert (params["model"], params["generationConfig"]) == ("gemini-2.0-flash", {"temperature": 0})


@pytest.mark.parametrize(
    ("path", "model"),
    [
        ("/model/anthropic.claude-3-v1%3A0/invoke", "anthropic.claude-3-v1:0"),
        ("/model/amazon.nova-lite-v1:0/converse", "amazon.nova-lite-v1:0"),
        ("/openai/deployments/my-gpt/chat/completions", "my-gpt"),
    ],
)
def test_the_model_is_read_from_the_path_where_the_body_has_none(path: str, model: str) -> None:
    assert shape({"messages": []}, path)[1]["model"] == model


def test_key_functions_work_as_on_the_core() -> None:
    tomorrow = json.loads(json.dumps(BODY).replace("2026-01-02", "2026-01-03"))
    masked = LLMCache(key_fn=masking(r"\d{4}-\d\d-\d\d"))
    assert key(tomorrow) != key()
    assert key(tomorrow, cache=masked) == key(cache=masked)
    elsewhere = LLMCache(key_fn=ignoring("http.base_url", "user"))
    assert key({**BODY, "user": "u1"}, base="https://eu.example.com", cache=elsewhere) == key(
        cache=elsewhere
    )
    turn = LLMCache(key_fn=last_turn)
    longer = {
        **BODY,
        "messages": [
            BODY["messages"][0],
            {"role": "user", "content": "before"},
            *BODY["messages"][1:],
        ],
    }
    assert key(longer, cache=turn) == key(cache=turn)


def test_masking_reaches_the_system_instruction_of_gemini() -> None:
    path, masked = "/v1beta/models/g:generateContent", LLMCache(key_fn=masking(r"\d+"))

    def body(day: int) -> dict[str, Any]:
        return {
            "systemInstruction": {"parts": [{"text": f"day {day}"}]},
            "contents": [{"role": "user", "parts": [{"text": "hi"}]}],
        }

    assert key(body(1), path) != key(body(2), path)
    assert key(body(1), path, cache=masked) == key(body(2), path, cache=masked)


def test_gemini_turns_are_distinct_from_similar_ones() -> None:
    said = [{"text": "hi"}]
    path = "/v1beta/models/gemini-flash:generateContent"
    assert key({"contents": [{"role": "user", "parts": said}]}, path) != key(
        {"contents": [{"role": "user", "content": said}]}, path
    )


# -- What has no single meaning


def test_undecodable_query_bytes_stay_distinct() -> None:
    assert key(query="q=%ff") != key(query="q=%fe")
    with pytest.raises(RequestNotCacheable):
        key(query="%ff=1")


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b"{",
        b"\xff\xfe",
        b'{"a": NaN}',
        b'{"a": 1, "a": 2}',
        b"[" * 100_000,
        b'{"http.path": "/"}',
        b'{"messages": [{"x":1,"x":2}]}',
    ],
    ids=[
        "empty",
        "array",
        "cut",
        "no text",
        "NaN",
        "key twice",
        "deep",
        "a name of ours",
        "key twice within",
    ],
)
def test_ambiguous_values_are_rejected(body: bytes) -> None:
    with pytest.raises(RequestNotCacheable):
        key(body)


STATEFUL: dict[str, dict[str, Any]] = {
    "conversation": {"conversation": "conv_1"},
    "previous_response_id": {"previous_response_id": "resp_1"},
    "background": {"background": True},
    "prompt.id": {"prompt": {"id": "pmpt_1"}},
    "container": {"container": {"id": "container_1", "skills": []}},
    "cachedContent": {"cachedContent": "cachedContents/1"},
    "input[1]": {"input": ["hello", {"type": "item_reference", "id": "msg_1"}]},
    "tools[0].vector_store_ids": {"tools": [{"type": "file_search", "vector_store_ids": ["vs_1"]}]},
    "tools[0].container": {"tools": [{"type": "code_interpreter", "container": "cntr_1"}]},
}


@pytest.mark.parametrize("field", STATEFUL)
def test_a_request_that_leans_on_provider_state_names_the_field(field: str) -> None:
    body = {"model": "m", "input": "and then?", **STATEFUL[field]}
    assert requests.read(BASE, "/v1/responses", "", (), json.dumps(body).encode()).state == field


@pytest.mark.parametrize(
    "fields",
    [
        {"conversation": None, "previous_response_id": None, "background": False},
        {"prompt": {"id": "pmpt_1", "version": "3"}},
        {"container": {"skills": []}},
        {"tools": [{"type": "code_interpreter", "container": {"type": "auto"}}]},
        {"store": True},
    ],
)
def test_a_self_contained_request_is_not_stateful(fields: dict[str, Any]) -> None:
    body = {"model": "m", "input": "hi", **fields}
    assert requests.read(BASE, "/v1/responses", "", (), json.dumps(body).encode()).state is None


# -- Routing hints


@pytest.mark.parametrize("name", sorted(names.ROUTING_HINTS))
def test_routing_hints_are_no_part_of_it(name: str) -> None:
    assert key({**BODY, name: "agents-sdk:run:1"}) == key()


def test_not_to_stream_is_the_same_as_to_say_nothing() -> None:
    assert key({**BODY, "stream": False}) == key() != key({**BODY, "stream": True})
    assert key({**BODY, "stream": None}) != key() != key({**BODY, "stream": 0})


def test_ollama_streams_unless_it_is_told_not_to() -> None:
    for path in ("/api/chat", "/api/generate"):
        assert key({**BODY, "stream": False}, path) != key(BODY, path)


def test_the_user_is_part_of_it() -> None:
    assert key({**BODY, "user": "u1"}) != key()


def test_the_key_contract_lists_routing_hints_and_provider_state() -> None:
    text = (Path(__file__).parents[2] / "docs" / "key_contract.md").read_text(encoding="utf-8")
    for name in (*names.ROUTING_HINTS, *STATEFUL_FIELDS, "background", "container", "prompt"):
        assert f"`{name}`" in text, name
