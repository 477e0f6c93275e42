"""What is worth keeping, in every provider's shape, whole and streamed."""

import copy
import logging
import random
from enum import StrEnum
from types import SimpleNamespace
from typing import Any
from unittest.mock import MagicMock

import pytest
from spoiling import spoilt

from llm_cache_mem.responses.admission import refusal_reason, resolve


def chat(content: object = "4", finish: object = "stop", **message: object) -> dict[str, Any]:
    choice = {
        "index": 0,
        "message": {"role": "assistant", "content": content, **message},
        "finish_reason": finish,
    }
    return {"id": "c", "object": "chat.completion", "model": "m", "choices": [choice], "usage": {}}


def chat_chunks(*contents: object, finish: object = "stop", index: int = 0) -> list[dict[str, Any]]:
    deltas = [
        {"index": index, "delta": {"content": content}, "finish_reason": None}
        for content in contents
    ]
    return [
        {"object": "chat.completion.chunk", "choices": [choice]}
        for choice in [*deltas, {"index": index, "delta": {}, "finish_reason": finish}]
    ]


def message(*blocks: object, stop: object = "end_turn") -> dict[str, Any]:
    return {
        "id": "m",
        "type": "message",
        "role": "assistant",
        "content": list(blocks),
        "stop_reason": stop,
    }


def message_events(
    *texts: str, stop: object = "end_turn", end: bool = True
) -> list[dict[str, Any]]:
    start = {
        "type": "message_start",
        "message": {"type": "message", "role": "assistant", "content": [], "stop_reason": None},
    }
    block = {
        "type": "content_block_start",
        "index": 0,
        "content_block": {"type": "text", "text": ""},
    }
    deltas = [
        {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": text}}
        for text in texts
    ]
    finish = [{"type": "message_delta", "delta": {"stop_reason": stop}}, {"type": "message_stop"}]
    return [
        start,
        {"type": "ping"},
        block,
        *deltas,
        {"type": "content_block_stop", "index": 0},
        *(finish if end else []),
    ]


def response(*output: object, status: str = "completed", **fields: object) -> dict[str, Any]:
    return {
        "id": "r",
        "object": "response",
        "status": status,
        "error": None,
        "incomplete_details": None,
        "output": list(output),
        **fields,
    }


def output_text(text: str) -> dict[str, Any]:
    return {
        "type": "message",
        "role": "assistant",
        "content": [{"type": "output_text", "text": text}],
    }


def response_events(last: str, whole: dict[str, Any]) -> list[dict[str, Any]]:
    return [
        {"type": "response.created", "response": response(status="in_progress")},
        {"type": "response.output_text.delta", "delta": "4"},
        {"type": last, "response": whole},
    ]


def gemini(*parts: object, finish: object = "STOP") -> dict[str, Any]:
    candidate = {"content": {"role": "model", "parts": list(parts)}, "index": 0}
    return {
        "candidates": [candidate | ({} if finish is None else {"finishReason": finish})],
        "usageMetadata": {},
        "modelVersion": "m",
    }


def converse(*blocks: object, stop: str = "end_turn") -> dict[str, Any]:
    return {
        "output": {"message": {"role": "assistant", "content": list(blocks)}},
        "stopReason": stop,
        "usage": {},
    }


def converse_events(text: str = "4", stop: str | None = "end_turn") -> list[dict[str, Any]]:
    events: list[dict[str, Any]] = [
        {"messageStart": {"role": "assistant"}},
        {"contentBlockDelta": {"contentBlockIndex": 0, "delta": {"text": text}}},
        {"contentBlockStop": {"contentBlockIndex": 0}},
    ]
    return events + (
        [] if stop is None else [{"messageStop": {"stopReason": stop}}, {"metadata": {"usage": {}}}]
    )


def cohere(*blocks: object, finish: str = "COMPLETE", **fields: object) -> dict[str, Any]:
    return {
        "id": "c",
        "message": {"role": "assistant", "content": list(blocks), **fields},
        "finish_reason": finish,
        "usage": {},
    }


def cohere_events(text: str = "4", finish: str | None = "COMPLETE") -> list[dict[str, Any]]:
    events: list[dict[str, Any]] = [
        {"type": "message-start", "delta": {"message": {"role": "assistant", "content": []}}},
        {"type": "content-start", "delta": {"message": {"content": {"type": "text", "text": ""}}}},
        {"type": "content-delta", "delta": {"message": {"content": {"text": text}}}},
    ]
    return events + (
        [] if finish is None else [{"type": "message-end", "delta": {"finish_reason": finish}}]
    )


def ollama(
    text: str = "4", done: bool = True, reason: str | None = "stop", **fields: object
) -> dict[str, Any]:
    return {
        "model": "llama3",
        "message": {"role": "assistant", "content": text, **fields},
        "done": done,
        "done_reason": reason,
    }


def call(*arguments: object, index: int | None = None) -> list[dict[str, Any]]:
    """The deltas of one tool call whose arguments come in pieces."""
    place = {} if index is None else {"index": index}
    calls = [{**place, "function": {"name": "f", "arguments": piece}} for piece in arguments]
    return [{"index": 0, "delta": {"tool_calls": [each]}, "finish_reason": None} for each in calls]


def call_chunks(*choices: dict[str, Any]) -> list[dict[str, Any]]:
    return [*({"choices": [choice]} for choice in choices), *chat_chunks(finish="tool_calls")]


def call_events(*pieces: str) -> list[dict[str, Any]]:
    """An Anthropic stream with one tool call."""
    block = {"type": "tool_use", "id": "t", "name": "f", "input": {}}
    deltas = [
        {"type": "content_block_delta", "index": 1, "delta": {"partial_json": piece}}
        for piece in pieces
    ]
    begun = {"type": "content_block_start", "index": 1, "content_block": block}
    whole = message_events("4", stop="tool_use")
    return [*whole[:-2], begun, *deltas, *whole[-2:]]


def call_converse(*pieces: str) -> list[dict[str, Any]]:
    """A Converse stream with one tool call."""
    deltas = [
        {"contentBlockDelta": {"contentBlockIndex": 1, "delta": {"toolUse": {"input": piece}}}}
        for piece in pieces
    ]
    whole = converse_events(stop="tool_use")
    return [*whole[:-2], *deltas, *whole[-2:]]


def call_cohere(*pieces: str) -> list[dict[str, Any]]:
    """A Cohere stream with one tool call."""
    deltas = [
        {
            "type": "tool-call-delta",
            "index": 0,
            "delta": {"message": {"tool_calls": {"function": {"arguments": piece}}}},
        }
        for piece in pieces
    ]
    whole = cohere_events(finish="TOOL_CALL")
    return [*whole[:-1], {"type": "tool-call-start", "delta": {}}, *deltas, whole[-1]]


def refused_events(whole: dict[str, Any]) -> list[dict[str, Any]]:
    return [
        {"type": "response.refusal.delta", "delta": "I"},
        {"type": "response.refusal.done", "refusal": "I cannot"},
        {"type": "response.completed", "response": whole},
    ]


TEXT = {"type": "text", "text": "4"}
REFUSAL = {"type": "refusal", "refusal": "I cannot"}
FUNCTION = {"type": "function_call", "name": "f", "call_id": "c"}
THOUGHT = {"type": "thinking", "thinking": "hm"}
CALL = {"id": "t", "type": "function", "function": {"name": "f", "arguments": "{}"}}

KEPT = {
    "chat": chat(),
    "chat, only tool calls": chat(None, "tool_calls", tool_calls=[CALL]),
    "chat, the old function call": chat(
        None, "function_call", function_call={"name": "f", "arguments": "{}"}
    ),
    "chat, spoken": chat(None, audio={"id": "a", "data": ""}),
    "chat, drawn": chat("", images=[{"type": "image_url", "image_url": {"url": "data:"}}]),
    "chat, thoughts and text": chat([{"type": "thinking", "thinking": []}, TEXT]),
    "chat, a finish of its own": chat("4", "eos"),
    "chat, a server that gives no finish at all": {
        "choices": [{"message": {"role": "assistant", "content": "4"}}]
    },
    "chat, one choice of two is empty": {
        "choices": [
            *chat()["choices"],
            {"index": 1, "message": {"content": ""}, "finish_reason": "stop"},
        ]
    },
    "text completion": {
        "object": "text_completion",
        "choices": [{"index": 0, "text": "4", "finish_reason": "stop"}],
    },
    "chat chunks": chat_chunks("", "4"),
    "chat chunks, usage last": [
        *chat_chunks("4"),
        {"object": "chat.completion.chunk", "choices": [], "usage": {}},
    ],
    "chat chunks, two choices": [*chat_chunks("4"), *chat_chunks("5", index=1)],
    "chat chunks, only tool calls": [
        {
            "choices": [
                {
                    "index": 0,
                    "delta": {"tool_calls": [{"index": 0, "function": {"name": "f"}}]},
                    "finish_reason": None,
                }
            ]
        },
        *chat_chunks(finish="tool_calls"),
    ],
    "responses": response(output_text("4")),
    "responses, only a function call": response(
        {"type": "reasoning", "summary": []}, {"type": "function_call", "name": "f"}
    ),
    "responses events": response_events("response.completed", response(output_text("4"))),
    "responses events, the last without output": [
        {"type": "response.output_item.done", "item": output_text("4")},
        {"type": "response.completed", "response": response()},
    ],
    "messages": message(TEXT),
    "messages, only a tool call": message(
        {"type": "tool_use", "id": "t", "name": "f", "input": {}}, stop="tool_use"
    ),
    "messages, stop sequence": message(TEXT, stop="stop_sequence"),
    "messages, a turn to go on with": message(
        {"type": "server_tool_use", "name": "web_search", "input": {}}, stop="pause_turn"
    ),
    "messages, no stop reason at all": {"type": "message", "role": "assistant", "content": [TEXT]},
    "messages events": message_events("", "4"),
    "messages events, only a tool call": [
        {"type": "message_start", "message": {"content": []}},
        {
            "type": "content_block_start",
            "content_block": {"type": "tool_use", "id": "t", "name": "f", "input": {}},
        },
        {"type": "message_delta", "delta": {"stop_reason": "tool_use"}},
        {"type": "message_stop"},
    ],
    "gemini": gemini({"text": "4"}),
    "gemini, thoughts and text": gemini({"text": "hm", "thought": True}, {"text": "4"}),
    "gemini, only a function call": gemini({"functionCall": {"name": "f", "args": {}}}),
    "gemini, an image": gemini({"inlineData": {"mimeType": "image/png", "data": ""}}),
    "gemini chunks": [gemini({"text": "4"}, finish=None), gemini({"text": ""})],
    "gemini chunks, usage last": [
        gemini({"text": "4"}),
        {"usageMetadata": {"promptTokenCount": 1}, "modelVersion": "m"},
    ],
    "gemini embeddings": {"embedding": {"values": [0.1]}, "usageMetadata": {"promptTokenCount": 1}},
    "converse": converse({"text": "4"}),
    "converse, only a tool call": converse(
        {"toolUse": {"name": "f", "input": {}}}, stop="tool_use"
    ),
    "converse events": converse_events(),
    "converse events, only a tool call": [
        {"contentBlockStart": {"start": {"toolUse": {"name": "f"}}}},
        {"messageStop": {"stopReason": "tool_use"}},
    ],
    "titan": {
        "inputTextTokenCount": 5,
        "results": [{"tokenCount": 10, "outputText": "4", "completionReason": "FINISH"}],
    },
    "llama": {
        "generation": "4",
        "prompt_token_count": 5,
        "generation_token_count": 10,
        "stop_reason": "stop",
    },
    "llama chunks": [
        {"generation": "4", "stop_reason": None},
        {"generation": "", "stop_reason": "stop"},
    ],
    "mistral on bedrock": {"outputs": [{"text": "4", "stop_reason": "stop"}]},
    "cohere": cohere(TEXT),
    "cohere, only tool calls": cohere(finish="TOOL_CALL", tool_calls=[CALL]),
    "cohere events": cohere_events(),
    "cohere, first API": {"text": "4", "generation_id": "g", "finish_reason": "COMPLETE"},
    "cohere events, first API": [
        {"event_type": "stream-start", "is_finished": False},
        {"event_type": "text-generation", "text": "4", "is_finished": False},
        {
            "event_type": "stream-end",
            "finish_reason": "COMPLETE",
            "is_finished": True,
            "response": {},
        },
    ],
    "ollama": ollama(),
    "ollama, only tool calls": ollama("", tool_calls=[CALL]),
    "ollama, generate": {"model": "llama3", "response": "4", "done": True, "done_reason": "stop"},
    "ollama chunks": [ollama(done=False, reason=None), ollama("")],
    "openai embeddings": {
        "object": "list",
        "data": [{"object": "embedding", "embedding": [0.1]}],
        "model": "m",
        "usage": {},
    },
    "reranking": {"results": [{"index": 1, "relevance_score": 0.98}]},
    "moderation": {"results": [{"flagged": False, "categories": {}}]},
    "count of tokens": {"input_tokens": 14},
    "chat, a line end within the arguments of a tool call": chat(
        None, "tool_calls", tool_calls=call('{"a": "\n"}')[0]["delta"]["tool_calls"]
    ),
    "chat, a tool call without arguments": chat(
        None, "tool_calls", tool_calls=call("")[0]["delta"]["tool_calls"]
    ),
    "chat, a call of a tool that takes text": chat(
        None, "tool_calls", tool_calls=[{"id": "t", "type": "custom", "custom": {"input": "{"}}]
    ),
    "chat chunks, a tool call in pieces": call_chunks(*call('{"a"', ": 1}", index=0)),
    "chat chunks, two tool calls in turn": call_chunks(
        *call('{"a"', index=0),
        *call('{"b"', index=1),
        *call(": 1}", index=0),
        *call(": 2}", index=1),
    ),
    "chat chunks, two whole tool calls of one index": call_chunks(
        *call('{"a": 1}', index=0), *call('{"b": 2}', index=0)
    ),
    "responses, a function call with arguments": response({**FUNCTION, "arguments": '{"a": 1}'}),
    "messages events, a tool call in pieces": call_events('{"a"', ": 1}"),
    "converse events, a tool call in pieces": call_converse('{"a"', ": 1}"),
    "cohere events, a tool call in pieces": call_cohere('{"a"', ": 1}"),
    "ollama, a tool call": ollama(
        "", tool_calls=[{"function": {"name": "f", "arguments": {"a": 1}}}]
    ),
    "an assistant's message": {"role": "assistant", "content": "4"},
}

REFUSED: dict[str, tuple[object, str]] = {
    "None": (None, "empty"),
    "no text": ("", "empty"),
    "blank text": (" \n\t", "empty"),
    "no bytes": (b"", "empty"),
    "no list, no chunk": ([], "empty"),
    "no tuple": ((), "empty"),
    "no dict": ({}, "empty"),
    "blank text chunks": (["", " "], "empty"),
    "chat, blank": (chat(" "), "empty"),
    "chat, no content": (chat(None), "empty"),
    "chat, only thoughts": (chat("", reasoning_content="hm"), "empty"),
    "chat, no choice": ({"object": "chat.completion", "model": "m", "choices": []}, "empty"),
    "chat, only the usage": (
        [{"object": "chat.completion.chunk", "model": "m", "choices": [], "usage": {}}],
        "empty",
    ),
    "chat, only Azure's word on its filters": (
        [{"object": "", "model": "", "choices": [], "prompt_filter_results": []}],
        "empty",
    ),
    "chat, truncated": (chat("4", "length"), "truncated"),
    "chat, truncated, as vision previews said it": (
        {
            "choices": [
                {"index": 0, "message": {"content": "4"}, "finish_details": {"type": "max_tokens"}}
            ]
        },
        "truncated",
    ),
    "chat, truncated by Mistral": (chat("4", "model_length"), "truncated"),
    "chat, one choice of two truncated": (
        {"choices": [*chat()["choices"], *chat("5", "length")["choices"]]},
        "truncated",
    ),
    "chat, filtered": (chat("", "content_filter"), "content_filter"),
    "chat, refused": (chat(None, refusal="I cannot"), "refusal"),
    "chat, no finish yet": (chat("4", None), "incomplete"),
    "chat, interrupted": (chat("4", "insufficient_system_resource"), "error"),
    "chat, an error within": (
        {
            "choices": [
                {"message": {"content": "4"}, "finish_reason": "error", "error": {"code": 502}}
            ]
        },
        "error",
    ),
    "chat chunks, blank": (chat_chunks("", " "), "empty"),
    "chat chunks, broken off": (chat_chunks("4")[:-1], "incomplete"),
    "chat chunks, one choice of two broken off": (
        [*chat_chunks("4"), *chat_chunks("5", index=1)[:-1]],
        "incomplete",
    ),
    "chat chunks, truncated": (chat_chunks("4", finish="length"), "truncated"),
    "chat chunks, refused": (
        [
            {"choices": [{"index": 0, "delta": {"refusal": "I"}, "finish_reason": None}]},
            *chat_chunks(""),
        ],
        "refusal",
    ),
    "chat chunks, then an error": (
        [*chat_chunks("4")[:-1], {"error": {"message": "overloaded", "code": 503}}],
        "error",
    ),
    "chat chunks, truncated and then an error": (
        [*chat_chunks("4", finish="length"), {"error": {"message": "x"}}],
        "error",
    ),
    "responses, empty": (response(), "empty"),
    "responses, only thoughts": (response({"type": "reasoning", "summary": []}), "empty"),
    "responses, blank": (response(output_text("")), "empty"),
    "responses, truncated": (
        response(
            output_text("4"),
            status="incomplete",
            incomplete_details={"reason": "max_output_tokens"},
        ),
        "truncated",
    ),
    "responses, filtered": (
        response(status="incomplete", incomplete_details={"reason": "content_filter"}),
        "content_filter",
    ),
    "responses, incomplete": (response(output_text("4"), status="incomplete"), "incomplete"),
    "responses, failed": (
        response(status="failed", error={"code": "server_error", "message": "x"}),
        "error",
    ),
    "responses, in the background": (response(status="queued"), "incomplete"),
    "responses, under way": (response(output_text("4"), status="in_progress"), "incomplete"),
    "responses, cancelled": (response(output_text("4"), status="cancelled"), "incomplete"),
    "responses, refused": (
        response({"type": "message", "content": [{"type": "refusal", "refusal": "I cannot"}]}),
        "refusal",
    ),
    "responses events, broken off": (
        response_events("response.completed", response(output_text("4")))[:-1],
        "incomplete",
    ),
    "responses events, truncated": (
        response_events(
            "response.incomplete",
            response(status="incomplete", incomplete_details={"reason": "max_output_tokens"}),
        ),
        "truncated",
    ),
    "responses events, failed": (
        response_events("response.failed", response(status="failed")),
        "error",
    ),
    "responses events, error": (
        [
            {"type": "response.created", "response": {}},
            {"type": "error", "code": "x", "message": "x"},
        ],
        "error",
    ),
    "messages, empty": (message(), "empty"),
    "messages, blank": (message({"type": "text", "text": ""}), "empty"),
    "messages, only thoughts": (
        message(THOUGHT, {"type": "redacted_thinking", "data": "x"}),
        "empty",
    ),
    "messages, truncated": (message(TEXT, stop="max_tokens"), "truncated"),
    "messages, over the window": (message(TEXT, stop="model_context_window_exceeded"), "truncated"),
    "messages, refused": (message(stop="refusal"), "refusal"),
    "messages, not stopped": (message(TEXT, stop=None), "incomplete"),
    "messages, an error": (
        {"type": "error", "error": {"type": "overloaded_error", "message": "x"}},
        "error",
    ),
    "messages events, blank": (message_events(""), "empty"),
    "messages events, broken off": (message_events("4", end=False), "incomplete"),
    "messages events, no message_stop": (message_events("4")[:-1], "incomplete"),
    "messages events, truncated": (message_events("4", stop="max_tokens"), "truncated"),
    "messages events, refused": (message_events("4", stop="refusal"), "refusal"),
    "messages events, then an error": (
        [
            *message_events("4", end=False),
            {"type": "error", "error": {"type": "overloaded_error", "message": "x"}},
        ],
        "error",
    ),
    "gemini, truncated": (gemini({"text": "4"}, finish="MAX_TOKENS"), "truncated"),
    "gemini, unsafe": (gemini(finish="SAFETY"), "content_filter"),
    "gemini, recited": (gemini({"text": "4"}, finish="RECITATION"), "content_filter"),
    "gemini, malformed call": (gemini(finish="MALFORMED_FUNCTION_CALL"), "malformed"),
    "gemini, for no reason given": (gemini({"text": "4"}, finish="OTHER"), "error"),
    "gemini, prompt blocked": (
        {"promptFeedback": {"blockReason": "SAFETY"}, "usageMetadata": {}},
        "content_filter",
    ),
    "gemini, only thoughts": (gemini({"text": "hm", "thought": True}), "empty"),
    "gemini, no candidates": ({"candidates": [], "modelVersion": "m"}, "empty"),
    "gemini, no reason to finish": (gemini({"text": "4"}, finish=None), "incomplete"),
    "gemini chunks, broken off": (
        [gemini({"text": "4"}, finish=None), {"usageMetadata": {}, "modelVersion": "m"}],
        "incomplete",
    ),
    "gemini, an error": (
        {"error": {"code": 503, "status": "UNAVAILABLE", "message": "x"}},
        "error",
    ),
    "converse, empty": (converse(), "empty"),
    "converse, only thoughts": (
        converse({"reasoningContent": {"reasoningText": {"text": "hm"}}}),
        "empty",
    ),
    "converse, truncated": (converse({"text": "4"}, stop="max_tokens"), "truncated"),
    "converse, guarded": (
        converse({"text": "Sorry"}, stop="guardrail_intervened"),
        "content_filter",
    ),
    "converse, filtered": (converse(stop="content_filtered"), "content_filter"),
    "converse, malformed": (converse(stop="malformed_tool_use"), "malformed"),
    "converse events, broken off": (converse_events(stop=None), "incomplete"),
    "converse events, truncated": (converse_events(stop="max_tokens"), "truncated"),
    "converse events, blank": (converse_events(""), "empty"),
    "converse events, then an error": (
        [*converse_events(stop=None), {"throttlingException": {"message": "x"}}],
        "error",
    ),
    "titan, truncated": (
        {"results": [{"outputText": "4", "completionReason": "LENGTH"}]},
        "truncated",
    ),
    "titan, guarded": (
        {
            "outputText": "Sorry",
            "completionReason": None,
            "amazon-bedrock-guardrailAction": "INTERVENED",
        },
        "content_filter",
    ),
    "llama, truncated": ({"generation": "4", "stop_reason": "length"}, "truncated"),
    "llama chunks, broken off": ([{"generation": "4", "stop_reason": None}], "incomplete"),
    "cohere, truncated": (cohere(TEXT, finish="MAX_TOKENS"), "truncated"),
    "cohere, an error": (cohere(finish="ERROR"), "error"),
    "cohere, empty": (cohere(), "empty"),
    "cohere, toxic": (
        {"text": "4", "generation_id": "g", "finish_reason": "ERROR_TOXIC"},
        "content_filter",
    ),
    "cohere events, broken off": (cohere_events(finish=None), "incomplete"),
    "cohere events, truncated": (cohere_events(finish="MAX_TOKENS"), "truncated"),
    "cohere events, blank": (cohere_events(""), "empty"),
    "ollama, truncated": (ollama(reason="length"), "truncated"),
    "ollama, only thoughts": (ollama("", thinking="hm"), "empty"),
    "ollama, only loaded": (ollama("", reason="load"), "empty"),
    "ollama chunks, broken off": ([ollama(done=False, reason=None)], "incomplete"),
    "ollama, an error": ({"error": "model not found"}, "error"),
    "chat, refused in a block": (chat([REFUSAL]), "refusal"),
    "chat, text and a refusal": (chat([TEXT, REFUSAL]), "refusal"),
    "responses events, refused": (refused_events(response()), "refusal"),
    "chat, a malformed tool call": (
        chat("4", "tool_calls", tool_calls=call('{"a": ')[0]["delta"]["tool_calls"]),
        "malformed",
    ),
    "chat, one tool call of two malformed": (
        chat(None, "tool_calls", tool_calls=[CALL, *call("{a}")[0]["delta"]["tool_calls"]]),
        "malformed",
    ),
    "chat, a malformed function call": (
        chat(None, "function_call", function_call={"name": "f", "arguments": "{"}),
        "malformed",
    ),
    "chat, arguments cut at the limit": (
        chat(None, "length", tool_calls=call('{"a": ')[0]["delta"]["tool_calls"]),
        "truncated",
    ),
    "chat chunks, a malformed tool call": (
        call_chunks(*call('{"a"', ": 1", index=0)),
        "malformed",
    ),
    "chat chunks, one tool call of two malformed": (
        call_chunks(*call('{"a"', index=0), *call('{"b": 2}', index=1)),
        "malformed",
    ),
    "responses, a malformed function call": (
        response({**FUNCTION, "arguments": '{"a": '}),
        "malformed",
    ),
    "responses events, a malformed function call": (
        [
            {"type": "response.output_item.done", "item": {**FUNCTION, "arguments": '{"a": '}},
            {"type": "response.completed", "response": response()},
        ],
        "malformed",
    ),
    "messages events, a malformed tool call": (call_events('{"a"', ": "), "malformed"),
    "converse events, a malformed tool call": (call_converse('{"a"', ": "), "malformed"),
    "cohere events, a malformed tool call": (call_cohere('{"a"', ": "), "malformed"),
    "an assistant's blank message": ({"role": "assistant", "content": ""}, "empty"),
}


class Finish(StrEnum):
    """As google-genai and others give reasons."""

    MAX_TOKENS = "MAX_TOKENS"


def as_object(value: object) -> object:
    if isinstance(value, dict):
        return SimpleNamespace(**{name: as_object(inner) for name, inner in value.items()})
    return [as_object(inner) for inner in value] if isinstance(value, list) else value


@pytest.mark.parametrize("answer", KEPT.values(), ids=KEPT.keys())
def test_stored(answer: object) -> None:
    before = copy.deepcopy(answer)
    assert refusal_reason(answer) is None
    assert answer == before


@pytest.mark.parametrize(("answer", "reason"), REFUSED.values(), ids=REFUSED.keys())
def test_refused(answer: object, reason: str) -> None:
    assert refusal_reason(answer) == reason


BOTO3 = ("converse", "titan", "ollama, an error", "no dict")  # only ever plain dicts


@pytest.mark.parametrize("name", [name for name in KEPT | REFUSED if not name.startswith(BOTO3)])
def test_objects_are_judged_like_the_json_they_were_made_from(name: str) -> None:
    answer = KEPT[name] if name in KEPT else REFUSED[name][0]
    assert refusal_reason(as_object(answer)) == refusal_reason(answer)


def test_reasons_may_be_enum_members() -> None:
    assert refusal_reason(gemini({"text": "4"}, finish=Finish.MAX_TOKENS)) == "truncated"
    number = SimpleNamespace(name="MAX_TOKENS", value=2)  # protocol buffers count theirs
    assert refusal_reason(gemini({"text": "4"}, finish=number)) == "truncated"


@pytest.mark.parametrize("whole", [name for name in KEPT if isinstance(KEPT[name], list)])
def test_an_unfinished_stream_has_no_entry(whole: str) -> None:
    """Cut anywhere before the sign that ends it, a stream is refused."""
    chunks = KEPT[whole]
    assert isinstance(chunks, list)
    kept = [cut for cut in range(len(chunks)) if refusal_reason(chunks[:cut]) is None]
    trailers = {
        "chat chunks, usage last": 1,
        "gemini chunks, usage last": 1,
        "converse events": 1,
        "converse events, a tool call in pieces": 1,
        "chat chunks, two choices": 2,
    }
    assert len(kept) <= trailers.get(whole, 0), kept


@pytest.mark.parametrize(
    "value",
    [
        0,
        False,
        3.5,
        "text",
        b"\x00",
        ["a", "", "b"],
        [0.1, 0.2],
        [[0.1], [0.2]],
        [{"index": 0, "relevance_score": 0.5}],
        ("text", 3),
        {"answer": ""},
        {"a": 1},
        {"choices": ["a", "b"]},
        {"choices": []},
        {"candidates": ["Ann"], "vote": "Ann"},
        {"candidates": [{"name": "Ann"}]},
        {"done": False, "task": "wash up"},
        {"done": False, "model": "T", "message": "not yet"},
        {"status": "incomplete", "output": []},
        {"error": 0.1, "loss": 0.2},
        {"error": "", "value": 3},
        {"error": "none found", "rows": []},
        {"error": None},
        {"type": "message", "text": ""},
        {"type": "refusal"},
        {"ValueException": 3},
        {"text": ""},
        {"role": "user", "content": ""},
        {"finish_reason": None},
        {"stop_reason": ["length"]},
        SimpleNamespace(
            choices=["a"], done=False, error="off by one", model_version="3", status="queued"
        ),
        SimpleNamespace(finish_reason=None, parts=[]),
        object(),
        MagicMock(),
        [MagicMock()],
        lambda: None,
        Finish,
    ],
)
def test_answers_of_functions_are_stored(value: object) -> None:
    assert refusal_reason(value) is None


@pytest.mark.parametrize(
    "name",
    [
        "openai.types.chat.ChatCompletion",
        "openai.types.Completion",
        "openai.types.responses.Response",
        "openai.types.CreateEmbeddingResponse",
        "anthropic.types.Message",
        "google.genai.types.GenerateContentResponse",
    ],
)
@pytest.mark.parametrize("body", [{}, {"id": "x"}, {"model": "m"}])
def test_objects_of_sdks_without_an_answer_are_empty(name: str, body: dict[str, Any]) -> None:
    module, _, kind = name.rpartition(".")
    made = getattr(pytest.importorskip(module), kind)
    assert refusal_reason(made.model_construct(**body)) == "empty"


# Frameworks


@pytest.mark.parametrize(
    ("content", "fields", "reason"),
    [
        ("4", {"response_metadata": {"finish_reason": "stop"}}, None),
        ("4", {}, None),
        ("", {}, "empty"),
        ([{"type": "thinking", "thinking": "hm"}], {}, "empty"),
        ("", {"tool_calls": [{"name": "f", "args": {}, "id": "t"}]}, None),
        ("4", {"response_metadata": {"finish_reason": "length"}}, "truncated"),
        ("4", {"response_metadata": {"stop_reason": "max_tokens"}}, "truncated"),
        ("4", {"response_metadata": {"stopReason": "guardrail_intervened"}}, "content_filter"),
        ("4", {"response_metadata": {"done_reason": "length"}}, "truncated"),
        ("4", {"response_metadata": {"finish_reason": "SAFETY"}}, "content_filter"),
        (
            "",
            {"response_metadata": {"prompt_feedback": {"block_reason": "SAFETY"}}},
            "content_filter",
        ),
        ("", {"additional_kwargs": {"refusal": "I cannot"}}, "refusal"),
        (
            "4",
            {
                "response_metadata": {
                    "status": "incomplete",
                    "incomplete_details": {"reason": "max_output_tokens"},
                }
            },
            "truncated",
        ),
        ([REFUSAL], {}, "refusal"),
        ([TEXT, {"type": "non_standard", "value": REFUSAL}], {}, "refusal"),
        ("4", {"invalid_tool_calls": [{"name": "f", "args": '{"a": ', "id": "t"}]}, "malformed"),
        ("", {"invalid_tool_calls": [{"name": "f", "args": '{"a": ', "id": "t"}]}, "malformed"),
        ([TEXT, {"type": "invalid_tool_call", "name": "f", "args": "{"}], {}, "malformed"),
    ],
)
def test_langchain(content: Any, fields: dict[str, Any], reason: str | None) -> None:
    messages = pytest.importorskip("langchain_core.messages")
    outputs = pytest.importorskip("langchain_core.outputs")
    message = messages.AIMessage(content, **fields)
    generation = outputs.ChatGeneration(message=message)
    assert refusal_reason(message) == reason
    assert refusal_reason([generation]) == reason
    assert refusal_reason(outputs.LLMResult(generations=[[generation]])) == reason
    assert refusal_reason(outputs.ChatResult(generations=[generation])) == reason
    chunks = [messages.AIMessageChunk(""), messages.AIMessageChunk(content, **fields)]
    assert refusal_reason(chunks) == reason
    assert (
        refusal_reason([outputs.ChatGenerationChunk(message=chunk) for chunk in chunks]) == reason
    )


@pytest.mark.parametrize(("last", "reason"), [(" 1}", None), (" ", "malformed")])
def test_langchain_tool_call_in_chunks(last: str, reason: str | None) -> None:
    messages = pytest.importorskip("langchain_core.messages")
    outputs = pytest.importorskip("langchain_core.outputs")
    pieces = [
        messages.AIMessageChunk("", tool_call_chunks=[{"name": name, "args": args, "index": 0}])
        for name, args in (("f", '{"a"'), (None, ":"), (None, last))
    ]
    assert refusal_reason(pieces) == reason
    assert (
        refusal_reason([outputs.ChatGenerationChunk(message=piece) for piece in pieces]) == reason
    )
    assert refusal_reason(sum(pieces[1:], pieces[0])) == reason


@pytest.mark.parametrize(
    ("text", "info", "reason"),
    [
        ("4", None, None),
        ("", None, "empty"),
        ("4", {"finish_reason": "length"}, "truncated"),
        ("4", {"finish_reason": "stop"}, None),
    ],
)
def test_langchain_text(text: str, info: dict[str, Any] | None, reason: str | None) -> None:
    outputs = pytest.importorskip("langchain_core.outputs")
    assert refusal_reason([outputs.Generation(text=text, generation_info=info)]) == reason


@pytest.mark.parametrize(
    ("text", "raw", "reason"),
    [
        ("4", None, None),
        ("", None, "empty"),
        ("4", chat(), None),
        ("4", chat("4", "length"), "truncated"),
        ("4", message(TEXT, stop="max_tokens"), "truncated"),
        ("4", message(TEXT, stop="refusal"), "refusal"),
        ("4", chat_chunks("4")[0], None),  # what is left of a stream that the framework has ended
        ("4", gemini({"text": "4"}, finish="SAFETY"), "content_filter"),
        ("4", response({"type": "message", "content": [REFUSAL]}), "refusal"),
        ("4", response({**FUNCTION, "arguments": '{"a": '}), "malformed"),
        (
            "4",
            chat("4", "tool_calls", tool_calls=call("{")[0]["delta"]["tool_calls"]),
            "malformed",
        ),
    ],
)
def test_llama_index(text: str, raw: object, reason: str | None) -> None:
    llms = pytest.importorskip("llama_index.core.base.llms.types")
    for given in (raw, as_object(raw)):
        answer = llms.ChatResponse(
            message=llms.ChatMessage(role="assistant", content=text), raw=given
        )
        assert refusal_reason(answer) == reason
        assert refusal_reason([answer]) == reason
        assert refusal_reason(llms.CompletionResponse(text=text, raw=given)) == reason


@pytest.mark.parametrize(("last", "reason"), [(": 1}", None), (": ", "malformed")])
def test_llama_index_tool_call_in_chunks(last: str, reason: str | None) -> None:
    llms = pytest.importorskip("llama_index.core.base.llms.types")
    pieces = [
        llms.ChatResponse(message=llms.ChatMessage(role="assistant", content="4"), raw=raw)
        for raw in call_chunks(*call('{"a"', last, index=0))
    ]
    assert refusal_reason(pieces) == reason


# The rule


def test_complete_and_any_admission_behave_as_documented() -> None:
    assert resolve("complete") is refusal_reason
    for answer, _ in REFUSED.values():
        assert resolve("any")(answer) is None


@pytest.mark.parametrize(
    ("verdict", "reason"),
    [
        (True, None),
        (None, None),
        (False, "admit"),
        ("too short", "too short"),
        (0, "admit"),
        (1, None),
        ([], "admit"),
    ],
)
def test_a_function_of_the_users(verdict: Any, reason: str | None) -> None:
    assert resolve(lambda answer: verdict)("4") == reason


def test_a_function_may_build_on_the_rule() -> None:
    admit = resolve(lambda answer: "short" if answer == "4" else refusal_reason(answer))
    assert [admit("4"), admit(""), admit("four")] == ["short", "empty", None]


def test_a_raising_policy_stores_nothing_and_is_logged_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def admit(answer: object) -> bool:
        raise KeyError("a secret")

    rule = resolve(admit)
    assert [rule("4") for _ in range(3)] == ["admit-error"] * 3
    assert caplog.messages == [
        "admit: the function failed with KeyError; the response was not stored"
    ]
    assert caplog.records[0].levelno == logging.WARNING


@pytest.mark.parametrize("admit", ["all", "", None, True, 3, ["any"]])
def test_any_other_rule_is_refused(admit: Any) -> None:
    with pytest.raises(
        ValueError, match="admit must be 'complete', 'any' or a function of the response, not"
    ):
        resolve(admit)


# Hostile shapes


class Raises:
    def __getattr__(self, name: str) -> object:
        raise AttributeError(name) if name.startswith("__") else RuntimeError(name)


def test_no_shape_makes_it_raise() -> None:
    seed = random.randrange(1 << 32)
    print("seed", seed)
    rng = random.Random(seed)
    shapes = [*KEPT.values(), *(answer for answer, _ in REFUSED.values())]
    junk = [
        None,
        "",
        "x",
        b"",
        -1,
        3,
        1 << 70,
        True,
        float("nan"),
        [],
        {},
        [[]],
        {1: 2},
        {"a": "b"},
        object(),
        MagicMock(),
        Raises(),
        Finish,
    ]
    reasons = {None, "empty", "refusal", "content_filter", "truncated", "error", "incomplete"}
    reasons.add("malformed")

    for _ in range(5000):
        assert refusal_reason(spoilt(rng.choice(shapes), junk, rng)) in reasons
    assert refusal_reason(Raises()) is None


def test_answers_that_hold_themselves_end() -> None:
    loop: dict[str, Any] = {
        "llm_output": None,
        "response_metadata": {},
        "role": "assistant",
        "content": "4",
    }
    loop.update(raw=loop, message=loop, generations=[[loop]], response=loop)
    assert refusal_reason(loop) is None
