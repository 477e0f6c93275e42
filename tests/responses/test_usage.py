"""Tokens and model names, read from what each provider and framework documents."""

import math
import random
from collections import UserDict
from types import SimpleNamespace
from unittest.mock import MagicMock

import pytest
from spoiling import spoilt

from llm_cache_mem.responses.usage import Usage, read_model, read_usage

ANTHROPIC = {
    "id": "msg_1",
    "type": "message",
    "role": "assistant",
    "model": "claude-sonnet-4-6",
    "content": [{"type": "text", "text": "4"}],
    "stop_reason": "end_turn",
    "usage": {
        "input_tokens": 10,
        "cache_read_input_tokens": 1000,
        "cache_creation_input_tokens": 100,
        "cache_creation": {"ephemeral_5m_input_tokens": 40, "ephemeral_1h_input_tokens": 60},
        "output_tokens": 7,
    },
}

SHAPES = {
    "Anthropic counts cached input beside the rest": (ANTHROPIC, Usage(1110, 7, 1000, 100, 60)),
    "Anthropic without a prompt cache": (
        {"usage": {"input_tokens": 10, "output_tokens": 7}},
        Usage(10, 7),
    ),
    "Anthropic, no lifetimes given": (
        {
            "usage": {
                "input_tokens": 21,
                "cache_creation_input_tokens": 1733,
                "cache_read_input_tokens": None,
                "output_tokens": 561,
            }
        },
        Usage(1754, 561, 0, 1733),
    ),
    "OpenAI chat counts cached input within": (
        {
            "usage": {
                "prompt_tokens": 30,
                "completion_tokens": 5,
                "total_tokens": 35,
                "prompt_tokens_details": {"cached_tokens": 20, "audio_tokens": 0},
                "completion_tokens_details": {"reasoning_tokens": 4},
            }
        },
        Usage(30, 5, 20),
    ),
    "OpenAI Responses, cache writes counted": (
        {
            "object": "response",
            "usage": {
                "input_tokens": 100,
                "input_tokens_details": {"cached_tokens": 40, "cache_write_tokens": 50},
                "output_tokens": 9,
                "output_tokens_details": {"reasoning_tokens": 3},
                "total_tokens": 109,
            },
        },
        Usage(100, 9, 40, 50),
    ),
    "details that are null": (
        {"usage": {"prompt_tokens": 3, "completion_tokens": 2, "prompt_tokens_details": None}},
        Usage(3, 2),
    ),
    "Gemini: thoughts are output, tool prompts are input": (
        {
            "usageMetadata": {
                "promptTokenCount": 100,
                "toolUsePromptTokenCount": 11,
                "candidatesTokenCount": 20,
                "thoughtsTokenCount": 300,
                "cachedContentTokenCount": 64,
                "totalTokenCount": 431,
            }
        },
        Usage(111, 320, 64),
    ),
    "Gemini in snake case": (
        {
            "usage_metadata": {
                "prompt_token_count": 8,
                "candidates_token_count": 2,
                "cached_content_token_count": None,
            }
        },
        Usage(8, 2),
    ),
    "Bedrock Converse counts cached input beside the rest": (
        {
            "usage": {
                "inputTokens": 3,
                "outputTokens": 121,
                "totalTokens": 2072,
                "cacheReadInputTokens": 1712,
                "cacheReadInputTokenCount": 1712,
                "cacheWriteInputTokens": 236,
                "cacheDetails": [
                    {"ttl": "5m", "inputTokens": 36},
                    {"ttl": "1h", "inputTokens": 200},
                ],
            }
        },
        Usage(1951, 121, 1712, 236, 200),
    ),
    "Titan": (
        {"inputTextTokenCount": 5, "results": [{"tokenCount": 10, "outputText": "x"}]},
        Usage(5, 10),
    ),
    "Llama on Bedrock": (
        {"generation": "x", "prompt_token_count": 5, "generation_token_count": 10},
        Usage(5, 10),
    ),
    "Mistral": (
        {"usage": {"prompt_tokens": 64, "completion_tokens": 6, "num_cached_tokens": 32}},
        Usage(64, 6, 32),
    ),
    "DeepSeek": (
        {
            "usage": {
                "prompt_tokens": 563,
                "completion_tokens": 116,
                "prompt_cache_hit_tokens": 512,
                "prompt_cache_miss_tokens": 51,
            }
        },
        Usage(563, 116, 512),
    ),
    "Together": (
        {"usage": {"prompt_tokens": 46, "completion_tokens": 45, "cached_tokens": 16}},
        Usage(46, 45, 16),
    ),
    "Cohere: the tokens it bills": (
        {
            "usage": {
                "billed_units": {"input_tokens": 83, "output_tokens": 109},
                "tokens": {"input_tokens": 379, "output_tokens": 164},
                "cached_tokens": 144,
            }
        },
        Usage(83, 109),
    ),
    "Cohere, first API": (
        {"meta": {"billed_units": {"input_tokens": 7, "output_tokens": 80}}},
        Usage(7, 80),
    ),
    "Ollama": (
        {"model": "llama3", "done": True, "prompt_eval_count": 17, "eval_count": 63},
        Usage(17, 63),
    ),
    "Ollama, prompt still in its memory": (
        {"model": "llama3", "done": True, "eval_count": 63},
        Usage(0, 63),
    ),
    "embeddings": ({"usage": {"prompt_tokens": 4, "total_tokens": 4}}, Usage(4, 0)),
    "embeddings at Voyage": ({"usage": {"total_tokens": 18}}, Usage(18, 0)),
    "xAI on Azure: more cached than went in, so beside it": (
        {
            "usage": {
                "prompt_tokens": 23,
                "completion_tokens": 110,
                "prompt_tokens_details": {"cached_tokens": 158},
            }
        },
        Usage(181, 110, 158),
    ),
    "LiteLLM: Anthropic's names beside OpenAI's inclusive count": (
        {
            "usage": {
                "prompt_tokens": 1110,
                "completion_tokens": 7,
                "cache_read_input_tokens": 1000,
                "cache_creation_input_tokens": 100,
            }
        },
        Usage(1110, 7, 1000, 100),
    ),
}


@pytest.mark.parametrize(("response", "usage"), SHAPES.values(), ids=SHAPES.keys())
def test_a_whole_answer_of(response: dict[str, object], usage: Usage) -> None:
    assert read_usage(response) == usage


STREAMS = {
    "OpenAI chat: the last chunk": (
        [
            {"model": "m", "choices": [{"index": 0, "delta": {"content": "a"}}], "usage": None},
            {"model": "m", "choices": [], "usage": {"prompt_tokens": 8, "completion_tokens": 2}},
        ],
        Usage(8, 2),
    ),
    "Groq: twice the same": (
        [
            {
                "choices": [],
                "x_groq": {"id": "r", "usage": {"prompt_tokens": 8, "completion_tokens": 2}},
            },
            {"choices": [], "usage": {"prompt_tokens": 8, "completion_tokens": 2}},
        ],
        Usage(8, 2),
    ),
    "Responses: the response in the last event": (
        [
            {"type": "response.created", "response": {"model": "m", "usage": None}},
            {
                "type": "response.completed",
                "response": {"model": "m", "usage": {"input_tokens": 8, "output_tokens": 2}},
            },
        ],
        Usage(8, 2),
    ),
    "Anthropic: input at the start, output at the end": (
        [
            {
                "type": "message_start",
                "message": {"model": "m", "usage": {"input_tokens": 3, "output_tokens": 1}},
            },
            {"type": "content_block_delta", "delta": {"type": "text_delta", "text": "a"}},
            {
                "type": "message_delta",
                "delta": {"stop_reason": "end_turn"},
                "usage": {"output_tokens": 44},
            },
        ],
        Usage(3, 44),
    ),
    "Anthropic: the cache told at the start or the end": (
        [
            {
                "type": "message_start",
                "message": {
                    "usage": {"input_tokens": 3, "cache_read_input_tokens": 0, "output_tokens": 1}
                },
            },
            {
                "type": "message_delta",
                "usage": {"input_tokens": 3, "cache_read_input_tokens": 1217, "output_tokens": 4},
            },
        ],
        Usage(1220, 4, 1217),
    ),
    "Gemini: counts that grow": (
        [
            {"usageMetadata": {"trafficType": "ON_DEMAND"}},
            {"usageMetadata": {"promptTokenCount": 9, "thoughtsTokenCount": 30}},
            {
                "usageMetadata": {
                    "promptTokenCount": 9,
                    "candidatesTokenCount": 5,
                    "thoughtsTokenCount": 32,
                }
            },
        ],
        Usage(9, 37),
    ),
    "Bedrock Converse": (
        [
            {"messageStart": {"role": "assistant"}},
            {
                "metadata": {
                    "usage": {"inputTokens": 12, "outputTokens": 5, "cacheReadInputTokens": 9}
                }
            },
        ],
        Usage(21, 5, 9),
    ),
    "Gemini: an estimate of the input comes first": (
        [
            {"usageMetadata": {"promptTokenCount": 145}},
            {"usageMetadata": {"promptTokenCount": 85, "candidatesTokenCount": 14}},
        ],
        Usage(85, 14),
    ),
    "Bedrock's own count where the model gives none": (
        [
            {
                "outputText": "x",
                "amazon-bedrock-invocationMetrics": {"inputTokenCount": 5, "outputTokenCount": 10},
            }
        ],
        Usage(5, 10),
    ),
    "Claude on Bedrock: the model's count before Bedrock's": (
        [
            {
                "type": "message_start",
                "message": {"usage": {"input_tokens": 602, "output_tokens": 2}},
            },
            {"type": "message_delta", "usage": {"output_tokens": 130}},
            {
                "type": "message_stop",
                "amazon-bedrock-invocationMetrics": {
                    "inputTokenCount": 602,
                    "outputTokenCount": 98,
                },
            },
        ],
        Usage(602, 130),
    ),
    "Cohere": (
        [
            {
                "type": "message-end",
                "delta": {
                    "usage": {
                        "billed_units": {"input_tokens": 62, "output_tokens": 28},
                        "cached_tokens": 900,
                    }
                },
            }
        ],
        Usage(62, 28),
    ),
    "Cohere, first API": (
        [
            {
                "event_type": "stream-end",
                "response": {"meta": {"billed_units": {"input_tokens": 7, "output_tokens": 115}}},
            }
        ],
        Usage(7, 115),
    ),
    "Ollama": (
        [{"done": False}, {"done": True, "prompt_eval_count": 21, "eval_count": 889}],
        Usage(21, 889),
    ),
}


@pytest.mark.parametrize(("chunks", "usage"), STREAMS.values(), ids=STREAMS.keys())
def test_a_stream_of(chunks: list[object], usage: Usage) -> None:
    assert read_usage(chunks) == usage
    assert read_usage(tuple(chunks)) == usage
    assert read_usage([_object(chunk) for chunk in chunks]) == usage


@pytest.mark.parametrize(("response", "usage"), SHAPES.values(), ids=SHAPES.keys())
def test_objects_read_like_the_json_they_were_made_from(
    response: dict[str, object], usage: Usage
) -> None:
    assert read_usage(_object(response)) == usage


def _object(value: object) -> object:
    if isinstance(value, dict):
        return SimpleNamespace(**{name: _object(inner) for name, inner in value.items()})
    return [_object(inner) for inner in value] if isinstance(value, list) else value


# Frameworks


def test_langchain_counts_cached_input_within() -> None:
    messages = pytest.importorskip("langchain_core.messages")
    details = {
        "cache_read": 1000,
        "cache_creation": 0,
        "ephemeral_5m_input_tokens": 40,
        "ephemeral_1h_input_tokens": 60,
    }
    metadata = {
        "input_tokens": 1110,
        "output_tokens": 7,
        "total_tokens": 1117,
        "input_token_details": details,
    }
    message = messages.AIMessage(
        "4", usage_metadata=metadata, response_metadata={"model_name": "claude-sonnet-4-6"}
    )
    assert read_usage(message) == Usage(1110, 7, 1000, 100, 60)
    assert read_model(message) == "claude-sonnet-4-6"


def test_langchain_generations_of_one_call_repeat_its_counts() -> None:
    outputs = pytest.importorskip("langchain_core.outputs")
    messages = pytest.importorskip("langchain_core.messages")
    metadata = {"input_tokens": 8, "output_tokens": 2, "total_tokens": 10}
    message = messages.AIMessage(
        "4", usage_metadata=metadata, response_metadata={"model_name": "m"}
    )
    generations = [outputs.ChatGeneration(message=message) for _ in range(3)]
    assert read_usage(generations) == Usage(8, 2)
    assert read_model(generations) == "m"


def test_langchain_chunks_each_count_their_part() -> None:
    messages = pytest.importorskip("langchain_core.messages")
    outputs = pytest.importorskip("langchain_core.outputs")
    parts = [
        {"input_tokens": 8, "output_tokens": 0, "total_tokens": 8},
        None,
        {"input_tokens": 0, "output_tokens": 2, "total_tokens": 2},
    ]
    chunks = [messages.AIMessageChunk("4", usage_metadata=part) for part in parts]
    assert read_usage(chunks) == Usage(8, 2)
    assert read_usage([outputs.ChatGenerationChunk(message=chunk) for chunk in chunks]) == Usage(
        8, 2
    )


def test_langchain_without_usage_metadata_keeps_the_providers_own() -> None:
    messages = pytest.importorskip("langchain_core.messages")
    outputs = pytest.importorskip("langchain_core.outputs")
    message = messages.AIMessage(
        "4", response_metadata={"token_usage": {"prompt_tokens": 8, "completion_tokens": 2}}
    )
    assert read_usage(message) == Usage(8, 2)
    result = outputs.LLMResult(
        generations=[[]], llm_output={"token_usage": {"prompt_tokens": 8, "completion_tokens": 2}}
    )
    assert read_usage(result) == Usage(8, 2)


def test_llama_index_keeps_the_providers_answer_as_raw() -> None:
    llms = pytest.importorskip("llama_index.core.base.llms.types")
    chat = llms.ChatResponse(message=llms.ChatMessage(role="assistant", content="4"), raw=ANTHROPIC)
    assert read_usage(chat) == Usage(1110, 7, 1000, 100, 60)
    assert read_model(chat) == "claude-sonnet-4-6"
    chunks = [
        llms.CompletionResponse(text="4", raw=chunk)
        for chunk in STREAMS["OpenAI chat: the last chunk"][0]
    ]
    assert read_usage(chunks) == Usage(8, 2)


# Models


@pytest.mark.parametrize(
    "response",
    [
        {"model": "m"},
        {"modelVersion": "m"},
        [{"model": ""}, {"model": "m"}],  # Azure begins a stream with a chunk about its filters
        [{"type": "message_start", "message": {"model": "m"}}],
        [{"type": "response.created", "response": {"model": "m"}}],
        SimpleNamespace(model_version="m"),
    ],
)
def test_the_model_that_answered(response: object) -> None:
    assert read_model(response) == "m"


@pytest.mark.parametrize(
    "response",
    [
        None,
        "m",
        b"m",
        3,
        [],
        {},
        {"model": None},
        {"model": 3},
        {"model": "m" * 1000},
        [["m"]],
        MagicMock(),
    ],
)
def test_no_model(response: object) -> None:
    assert read_model(response) is None


# What is no usage


class Raises:
    def __getattr__(self, name: str) -> object:
        raise AttributeError(name) if name.startswith("__") else RuntimeError(name)


@pytest.mark.parametrize(
    "response",
    [
        None,
        "",
        "text",
        b"\x00",
        3,
        math.nan,
        object(),
        Usage,
        [],
        {},
        (),
        [None, "a", 3, [], {}],
        {"usage": None},
        {"usage": {}},
        {"usage": "many"},
        {"usage": [1, 2]},
        {
            "usage": {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}
        },  # a server that does not count
        {"usageMetadata": {"trafficType": "ON_DEMAND"}},
        {"input_tokens": 14},  # the answer of count_tokens, which took none
        {"totalTokens": 14},
        {"usage": {"search_units": 1}},
        {"data": [{"embedding": [0.1]}]},
        MagicMock(),
        [MagicMock()],
        Raises(),
        [Raises()],
        UserDict(usage=3),
    ],
)
def test_no_usage(response: object) -> None:
    assert read_usage(response) is None


@pytest.mark.parametrize(
    "bad",
    [
        "7",
        -7,
        True,
        math.nan,
        math.inf,
        -math.inf,
        1.5,
        10**13,
        10**400,
        [7],
        {"n": 7},
        b"7",
        Raises(),
    ],
)
def test_a_count_that_is_no_number_of_tokens_is_left_out(bad: object) -> None:
    assert read_usage({"usage": {"prompt_tokens": bad, "completion_tokens": 2}}) == Usage(0, 2)
    assert read_usage(
        {"usage": {"input_tokens": 8, "output_tokens": 2, "cache_read_input_tokens": bad}}
    ) == Usage(8, 2)
    assert read_usage(
        {
            "usage": {
                "prompt_tokens": 8,
                "completion_tokens": 2,
                "prompt_tokens_details": {"cached_tokens": bad},
            }
        }
    ) == Usage(8, 2)


def test_bedrock_writes_counts_as_floats() -> None:
    usage = read_usage({"inputTextTokenCount": 6.0, "totalOutputTextTokenCount": 3.0})
    assert usage == Usage(6, 3)
    assert all(type(count) is int for count in usage or ())


def test_objects_that_hold_themselves_end() -> None:
    loop: dict[str, object] = {}
    loop.update(response=loop, message=loop, raw=loop, delta=loop)
    assert read_usage(loop) is None
    assert read_model(loop) is None
    details: dict[str, object] = {"prompt_tokens": 3}
    details["prompt_tokens_details"] = details
    assert read_usage({"usage": details}) == Usage(3, 0)


def test_no_shape_makes_it_raise_or_break_its_promise() -> None:
    seed = random.randrange(1 << 32)
    print("seed", seed)
    rng = random.Random(seed)
    shapes = [
        ANTHROPIC,
        *(shape for shape, _ in SHAPES.values()),
        *(chunks for chunks, _ in STREAMS.values()),
    ]
    junk = [
        None,
        "",
        "x",
        b"",
        -1,
        0,
        3,
        1 << 70,
        True,
        math.nan,
        1.5,
        [],
        {},
        [[]],
        {"usage": {"input_tokens": 5}},
        object(),
        MagicMock(),
    ]

    for _ in range(3000):
        usage = read_usage(spoilt(rng.choice(shapes), junk, rng))
        if usage is not None:
            assert all(type(count) is int and count >= 0 for count in usage)
            assert usage.cache_read_tokens + usage.cache_write_tokens <= usage.input_tokens
            assert usage.cache_write_1h_tokens <= usage.cache_write_tokens
