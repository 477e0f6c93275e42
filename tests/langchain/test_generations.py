"""What comes back of a generation, through memory and through the JSON of a file."""

from typing import Any

import pytest
from langchain_core.messages import (
    AIMessage,
    AIMessageChunk,
    ChatMessage,
    FunctionMessage,
    HumanMessage,
    SystemMessage,
    ToolMessage,
)
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, Generation, GenerationChunk
from langchain_llm_cache_mem import LLMCacheMem
from langchain_llm_cache_mem.generations import dump, load, load_stream
from pydantic import BaseModel

from llm_cache_mem.values.payload import Payload

USAGE = {
    "input_tokens": 10,
    "output_tokens": 5,
    "total_tokens": 15,
    "input_token_details": {"cache_read": 3},
    "output_token_details": {"reasoning": 2},
}


class Parsed(BaseModel):
    total: int


EQUAL: dict[str, Any] = {
    "text": AIMessage("hi"),
    "empty name": AIMessage("hi", name=""),
    "tool calls": AIMessage(
        "", tool_calls=[{"name": "f", "args": {"a": {"b": [1, None, 2.5]}}, "id": "1"}]
    ),
    "invalid tool calls": AIMessage(
        "", invalid_tool_calls=[{"name": "f", "args": "{", "id": "1", "error": "e"}]
    ),
    "usage": AIMessage("hi", usage_metadata=USAGE),
    "thinking": AIMessage(
        [{"type": "thinking", "thinking": "hm", "signature": "s"}, {"type": "text", "text": "hi"}]
    ),
    "image": AIMessage([{"type": "image", "base64": "AAAA", "mime_type": "image/png"}]),
    "server tool": AIMessage(
        [{"type": "server_tool_use", "id": "srv_1", "name": "web_search", "input": {"q": "x"}}]
    ),
    "metadata": AIMessage(
        "hi",
        response_metadata={"finish_reason": "stop", "logprobs": {"content": [{"logprob": -0.5}]}},
    ),
    "a dict that looks like one of LangChain's": AIMessage(
        "hi", additional_kwargs={"x": {"lc": 1, "type": "secret", "id": ["OPENAI_API_KEY"]}}
    ),
    "half a surrogate pair": AIMessage("\ud83d"),
    "extra field": AIMessage("hi", something="else"),
    "int keys and tuples": AIMessage("hi", additional_kwargs={"x": {1: (2, 3)}}),
    "chunk": AIMessageChunk(
        "hi",
        tool_call_chunks=[{"name": "f", "args": '{"a":', "id": "1", "index": 0}],
        chunk_position="last",
    ),
    "human": HumanMessage("hi"),
    "system": SystemMessage("hi"),
    "tool": ToolMessage("hi", tool_call_id="1", artifact={"x": 1}, status="error"),
    "function": FunctionMessage("hi", name="f"),
    "chat": ChatMessage("hi", role="critic"),
}


@pytest.mark.parametrize("case", EQUAL)
def test_messages_come_back_equal(cache: LLMCacheMem, case: str) -> None:
    generations = [ChatGeneration(message=EQUAL[case], generation_info={"i": [1]})]
    request = cache._request("p", "m")
    cache.cache.engine.writer.put(request, dump(generations, {}))
    found = cache.cache.engine.lookup(request, load).value
    assert found == generations
    assert type(found[0].message) is type(EQUAL[case])


@pytest.mark.parametrize(
    "generation",
    [
        Generation(text="a", generation_info={"finish_reason": "stop"}),
        Generation(text="a"),
        GenerationChunk(text="a"),
        ChatGenerationChunk(message=AIMessageChunk("a"), generation_info={}),
    ],
    ids=lambda generation: type(generation).__name__,
)
def test_generations_come_back_equal(generation: Generation) -> None:
    assert load(dump([generation], {})) == [generation]


def test_the_usage_of_a_hit_elsewhere_is_made_valid() -> None:
    message = AIMessage("hi").model_copy(update={"usage_metadata": {"total_cost": 0}})
    assert load(dump([ChatGeneration(message=message)], {}))[0].message == AIMessage("hi")


def test_a_parsed_object_comes_back_as_data_unless_the_request_names_its_class(
    cache: LLMCacheMem,
) -> None:
    message = AIMessage('{"total": 1}', additional_kwargs={"parsed": Parsed(total=1)})
    for params, expected in (({}, {"total": 1}), ({"response_format": Parsed}, Parsed(total=1))):
        request = cache.cache.engine.keyer.request([], params)
        cache.cache.engine.writer.put(request, dump([ChatGeneration(message=message)], params))
        found = cache.cache.engine.lookup(request, load).value[0].message
        assert found.additional_kwargs == {"parsed": expected}
    assert message.additional_kwargs == {"parsed": Parsed(total=1)}


def test_the_text_of_another_message_is_text() -> None:
    text = HumanMessage("hi").text
    message = AIMessage(text, tool_calls=[{"name": "f", "args": {"a": [text]}, "id": "1"}])
    for generation in (ChatGeneration(message=message), Generation(text=text)):
        Payload.of(dump([generation], {}))
    assert load(dump([ChatGeneration(message=message)], {}))[0].message.content == "hi"


def test_one_generation_is_a_stream_of_one_chunk() -> None:
    message = AIMessage(
        "hi", tool_calls=[{"name": "f", "args": {"a": 1}, "id": "1"}], usage_metadata=USAGE
    )
    (chunk,) = load_stream(dump([ChatGeneration(message=message)], {}))
    assert isinstance(chunk, ChatGenerationChunk)
    assert chunk.message.tool_calls == message.tool_calls
    assert chunk.message.usage_metadata == message.usage_metadata


def test_only_classes_that_are_listed_are_made() -> None:
    for value in (
        [{"class": "object"}],
        [{"class": "Generation", "text": 3}],
        [{"class": "ChatGeneration", "message": {"class": "eval", "fields": {}}}],
    ):
        # whatever it is, the engine makes a miss of it
        with pytest.raises(Exception):  # noqa: B017, PT011
            load(value)
