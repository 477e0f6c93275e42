"""Which fields and which pieces of a text are redacted, and which are not."""

import json
from typing import Any

import pytest

from llm_cache_mem.diagnostics.redaction import Redaction

NAMES = [
    "api_key", "X-API-Key", "apiKey", "APIKey", "OPENAI_API_KEY", "openai_key",
    "anthropicKey", "clientSecret", "client-secret", "secretKey", "secret_key",
    "aws_secret_access_key", "accessKey", "access_key_id", "AccountKey", "password",
    "userPassword", "db_pass", "DB_PASSWORD", "pwd", "passphrase", "connection_string",
    "connectionString", "jwt", "sessionToken", "access_token", "refreshToken", "token",
    "Authorization", "Proxy-Authorization", "cookie", "Set-Cookie", "credentials",
    "azure_ad_token", "privateKey", "service_role_key", "secrets",
]  # fmt: skip
INNOCENT_NAMES = [
    "max_tokens", "tokens", "token_count", "primary_key", "sort_key", "cache_key",
    "prompt_cache_key", "public_key", "key", "keys", "keyword", "author", "authority",
    "passage", "passed", "secretary", "cookie_policy", "idempotency_key", "monkey",
    "tokenizer", "compass",
]  # fmt: skip
KEY = "Zq81kPjV3mXw7TbN2cYe5RtA"
TEXTS = [
    "OPENAI_API_KEY={}",
    "export OPENAI_KEY='{}'",
    "x-api-key: {}",
    "-H 'X-Auth-Token: {}'",
    "Cookie: session={}; theme=dark",
    "set-cookie: id={}",
    "Authorization: Basic {}",
    "authorization: Bearer {}",
    "DefaultEndpointsProtocol=https;AccountName=a;AccountKey={}==;EndpointSuffix=x",
    "Server=db;User Id=sa;Password={};",
    "password: {}",
    "db_password={}",
    "token={}",
    "accessToken: {}",
    "npm_{}abcdefghij",
    "pypi-AgEIcHlwaS5vcmc{}",
    "SG.{0}.{0}",
    "https://hooks.slack.com/services/T00000000/B00000000/{}",
    "https://discord.com/api/webhooks/123456789/{}",
    "https://x.test/?api_key={}",
    "postgres://user:{}@host/db",
    'so {{"user": "ann", "password": "{}"}} it is',
    'data: {{"arguments": "{{\\"clientSecret\\": \\"{}\\"}}"}}',
    "xoxb-1-{}",
    "dop_v1_{}",
    "hvs.{}",
    "123456789:AA{}abcdefgh",
]
INNOCENT = [
    "The password is checked by the server: see below.",
    "token: Paris",
    "token = get_token2(user)",
    "api_key=os.environ['OPENAI_API_KEY']",
    "OPENAI_API_KEY=your-key-here",
    "OPENAI_API_KEY=$KEY",
    "export TOKEN_LIMIT=100000",
    "Cookie: a small file that a site keeps",
    "tokens=128000 and secret sauce",
    "max_token: 4096",
    "Authorization: see chapter 4",
    "a keyboard: 12345678abc",
    '{"token": "Paris", "logprob": -0.1}',
    '{"token":"utf8mb4x"}',
]


@pytest.mark.parametrize("name", NAMES)
def test_field_is_redacted_by_its_name(name: str) -> None:
    for value in ("hunter2", {"a": ["hunter2"]}):
        assert Redaction().request({"metadata": [{name: value}]}) == {
            "metadata": [{name: "[redacted]"}]
        }


@pytest.mark.parametrize("name", INNOCENT_NAMES)
def test_field_with_a_similar_name_stays(name: str) -> None:
    tree = {name: "hunter2"}
    assert Redaction().request(tree) == Redaction().answer(tree) == tree


@pytest.mark.parametrize("name", sorted(set(NAMES) - {"token"}))
def test_field_of_an_answer_is_redacted_by_its_name(name: str) -> None:
    assert Redaction().answer({"x": {name: "hunter2"}}) == {"x": {name: "[redacted]"}}


def test_tokens_of_an_answer_are_stored() -> None:
    answer = {"logprobs": {"content": [{"token": " Paris", "logprob": -0.1}]}}
    assert Redaction().answer(answer) == answer


@pytest.mark.parametrize("name", ["password", "clientSecret", "db_pass"])
@pytest.mark.parametrize("which", ["request", "answer"])
def test_arguments_of_tool_calls_are_redacted_by_their_names(name: str, which: str) -> None:
    redact = getattr(Redaction(), which)
    arguments = json.dumps(
        {"user": "ann", "login": {name: "hunter2"}, "nested": json.dumps({name: "hunter2"})}
    )
    redacted = redact({"tool_calls": [{"function": {"name": "login", "arguments": arguments}}]})
    (call,) = redacted["tool_calls"]
    read = json.loads(call["function"]["arguments"])
    assert read["user"] == "ann"
    assert read["login"] == {name: "[redacted]"}
    assert json.loads(read["nested"]) == {name: "[redacted]"}


def test_arguments_without_secrets_are_unchanged() -> None:
    for arguments in ('{"a" :1,"b":[ ]}', "[1,  2]", '{"a": 1', "{not json}", "{" * 100_000):
        assert Redaction().request({"arguments": arguments}) == {"arguments": arguments}


@pytest.mark.parametrize("form", TEXTS)
def test_secret_in_a_text_is_redacted(form: str) -> None:
    text = f"I use {form.format(KEY)}"
    redacted = Redaction().text(text)
    assert KEY not in redacted
    assert "[redacted]" in redacted
    assert redacted.startswith("I use ")
    assert Redaction().text(redacted) == redacted


@pytest.mark.parametrize("text", INNOCENT)
def test_text_without_a_secret_is_unchanged(text: str) -> None:
    assert Redaction().text(text) == text
    assert Redaction().answer(text) == text


@pytest.mark.parametrize(
    "text",
    [
        '"' * 200_000,
        "\\" * 200_000 + '"',
        '"password":"' * 20_000,
        '\\"token\\":' * 20_000,
        "password=" * 40_000,
        "password=" + "a" * 400_000,
        "cookie: a=" * 30_000,
        "X_" * 100_000 + "KEY=",
        "authorization: basic " * 20_000,
        "x-" * 100_000,
        "https://hooks.slack.com/services/" * 10_000,
        "a" * 300_000,
        "AKIA_" * 50_000,
        "[" * 200_000,
    ],
    ids=range(14),
)
def test_redacting_takes_time_in_proportion(text: str) -> None:
    Redaction().answer({"text": text})  # pytest's timeout is the test


def test_names_that_are_asked_for_count_however_they_are_written() -> None:
    redaction = Redaction(["userId"])
    tree: dict[str, Any] = {"user_id": 7, "User-Id": "ann", "arguments": '{"userId": 5}'}
    assert redaction.request(tree) == {
        "user_id": "[redacted]",
        "User-Id": "[redacted]",
        "arguments": '{"userId": "[redacted]"}',
    }
    assert redaction.answer(tree) == tree
