"""Requests as the provider SDKs let people write them: objects count as what goes over the wire,
markers as nothing."""

import copy
import json
import warnings
from typing import Any, Optional

import pytest

from llm_cache_mem.errors import RequestNotCacheable
from llm_cache_mem.keys.digest import canonical, digest

anthropic = pytest.importorskip("anthropic")
openai = pytest.importorskip("openai")
pydantic = pytest.importorskip("pydantic")


def wire_of(client_library: Any, messages: Any, **params: Any) -> Any:
    """The body that the real SDK sends for this call."""
    http = pytest.importorskip("httpx2")
    seen: list[Any] = []

    def handler(request: Any) -> Any:
        seen.append(json.loads(request.content))
        return http.Response(400, json={"error": {"message": "enough"}})

    transport = http.Client(transport=http.MockTransport(handler))
    if client_library is anthropic:
        create = anthropic.Anthropic(
            api_key="k", http_client=transport, max_retries=0
        ).messages.create
    else:
        create = openai.OpenAI(
            api_key="k", http_client=transport, max_retries=0
        ).chat.completions.create
    with pytest.raises(client_library.APIError):
        create(messages=messages, **params)
    return seen[0]


ANSWER = {
    "id": "msg_1",
    "type": "message",
    "role": "assistant",
    "model": "claude",
    "content": [
        {"type": "thinking", "thinking": "hm", "signature": "c2ln"},
        {"type": "text", "text": "Let me look — é.", "citations": None},
        {
            "type": "tool_use",
            "id": "toolu_1",
            "name": "weather",
            "input": {"days": 1, "exact": 1.0, "city": None},
        },
    ],
    "stop_reason": "tool_use",
    "stop_sequence": None,
    "usage": {"input_tokens": 1, "output_tokens": 2},
    "future_field": {"x": 1},
}


def test_anthropic_content_counts_as_the_sdk_sends_it() -> None:
    answer = anthropic.types.Message.model_validate(ANSWER)
    messages = [
        {"role": "user", "content": "Weather?"},
        {"role": "assistant", "content": answer.content},
    ]
    body = wire_of(anthropic, messages, model="claude", max_tokens=10)
    wire = {"messages": body.pop("messages"), **body}
    assert canonical(messages, {"model": "claude", "max_tokens": 10}) == json.dumps(
        wire, sort_keys=True
    )
    plain = [messages[0], {"role": "assistant", "content": copy.deepcopy(ANSWER["content"])}]
    assert digest(messages, {"model": "claude"}) == digest(plain, {"model": "claude"})


def test_openai_message_counts_as_the_sdk_sends_it() -> None:
    call = {"id": "call_1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    plain = {"role": "assistant", "content": None, "refusal": None, "tool_calls": [call]}
    message = openai.types.chat.ChatCompletionMessage.model_validate(plain)
    messages = [{"role": "user", "content": "Weather?"}, message]
    body = wire_of(openai, messages, model="gpt")
    assert canonical(messages, {"model": "gpt"}) == json.dumps(body, sort_keys=True)
    assert digest(messages, {"model": "gpt"}) == digest([messages[0], plain], {"model": "gpt"})


def test_parsed_output_is_not_sent_back() -> None:
    block_type = pytest.importorskip("anthropic.types.parsed_message").ParsedTextBlock
    block = block_type.model_construct(type="text", text="{}", parsed_output={"a": 1})
    assert digest([{"content": [block]}], {}) == digest(
        [{"content": [{"type": "text", "text": "{}"}]}], {}
    )


@pytest.mark.parametrize("library", [anthropic, openai])
def test_markers_for_not_given_are_not_sent(library: Any) -> None:
    markers = [library.NOT_GIVEN, library.Omit()]
    for marker in markers:
        message = {"role": "user", "content": "hi"}
        assert digest(
            [{**message, "name": marker}],
            {"model": "m", "stop": marker, "deep": {"a": {"b": marker}}},
        ) == digest([message], {"model": "m", "deep": {"a": {}}})
        with pytest.raises(RequestNotCacheable):
            digest([marker], {})
        with pytest.raises(RequestNotCacheable):
            digest(marker, {})


class Answer(pydantic.BaseModel):  # type: ignore[misc, name-defined]
    city: str
    days: Optional[int] = None  # noqa: UP045


class Aliased(pydantic.BaseModel):  # type: ignore[misc, name-defined]
    inner: int = pydantic.Field(serialization_alias="innerName")


def test_program_models_are_keyed_with_defaults_and_aliases() -> None:
    assert (
        digest([{"a": Answer(city="x")}], {})
        == digest([{"a": {"city": "x", "days": None}}], {})
        == digest([{"a": Answer(city="x", days=None)}], {})
        != digest([{"a": {"city": "x"}}], {})
    )
    assert digest([{"a": Aliased(inner=1)}], {}) == digest([{"a": {"innerName": 1}}], {})


def test_a_model_class_is_its_name_and_schema() -> None:
    def model(name: str, **fields: Any) -> Any:
        return pydantic.create_model(name, **fields)

    one, same, renamed, other = (
        digest([], {"response_format": kind})
        for kind in (
            model("A", x=(int, 1)),
            model("A", x=(int, 1)),
            model("B", x=(int, 1)),
            model("A", x=(str, "")),
        )
    )
    assert one == same
    assert len({one, renamed, other}) == 3
    assert one != digest([], {"response_format": model("A", x=(int, 1)).model_json_schema()})


def test_a_model_that_cannot_be_written_is_refused_quietly() -> None:
    class Holder(pydantic.BaseModel):  # type: ignore[misc, name-defined]
        model_config = pydantic.ConfigDict(arbitrary_types_allowed=True)
        thing: Any
        number: int = 0

    class Secret:
        def __repr__(self) -> str:
            return "SECRET"

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(RequestNotCacheable) as caught:
            digest([{"a": Holder(thing=Secret())}], {})
        assert "SECRET" not in str(caught.value)
        assert caught.value.path == "messages[0].a.thing"
        digest(
            [{"a": Holder.model_construct(thing=1, number="SECRET")}], {}
        )  # pydantic would warn, and quote it


def test_keys_import_no_optional_package() -> None:
    import subprocess
    import sys
    from pathlib import Path

    program = (
        "import sys; from llm_cache_mem.keys.digest import digest; digest([{'a': b'x'}], {'k':"
        " 1});print(sorted({'pydantic', 'openai', 'anthropic', 'decimal', 'uuid',"
        " 'dataclasses', 'asyncio'} & set(sys.modules)))"
    )
    root = str(Path(__file__).resolve().parents[2])
    done = subprocess.run(
        [sys.executable, "-S", "-c", program],
        capture_output=True,
        text=True,
        check=True,
        env={"PYTHONPATH": root},
    )
    assert done.stdout.strip() == "[]"
