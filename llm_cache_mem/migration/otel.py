"""Exports of OpenTelemetry with GenAI attributes: one span, or one batch of OTLP, a line."""

import json
from collections.abc import Iterator
from typing import Any, Final

from llm_cache_mem.migration.messages import Chat, answer_of, read_lines
from llm_cache_mem.migration.sources import Skipped

__all__ = ["records"]

_PARAMS: Final = {
    "gen_ai.request.temperature": "temperature",
    "gen_ai.request.top_p": "top_p",
    "gen_ai.request.max_tokens": "max_tokens",
    "gen_ai.request.frequency_penalty": "frequency_penalty",
    "gen_ai.request.presence_penalty": "presence_penalty",
    "gen_ai.request.seed": "seed",
    "gen_ai.request.stop_sequences": "stop",
    "gen_ai.request.choice.count": "n",
}
_STOPS: Final = {
    "": "stop",
    "stop": "stop",
    "tool_call": "tool_calls",
    "tool_calls": "tool_calls",
    "length": "length",
    "content_filter": "content_filter",
}
_PARTS: Final = frozenset({"text", "tool_call", "tool_call_response"})
_KNOWN: Final = frozenset({*_PARAMS, "gen_ai.request.model"})


def records(source: str) -> Iterator[Chat | Skipped]:
    """The calls of models in the export at *source*."""
    return read_lines(source, _read)


def _read(line: dict[str, Any]) -> Iterator[Chat | Skipped]:
    for span in _spans(line):
        yield _chat(_attributes(span.get("attributes")))


def _spans(line: dict[str, Any]) -> Iterator[dict[str, Any]]:
    if "resourceSpans" not in line:
        yield line
        return
    for resource in line["resourceSpans"]:
        for scope in resource.get("scopeSpans", ()):
            yield from scope.get("spans", ())


def _attributes(given: Any) -> dict[str, Any]:
    """Attributes as a dict, or in OTLP's list of keys and typed values."""
    if isinstance(given, list):
        return {pair["key"]: _value(pair.get("value", {})) for pair in given}
    return given if isinstance(given, dict) else {}


def _value(typed: dict[str, Any]) -> Any:
    value: Any
    kind, value = next(iter(typed.items()), ("stringValue", ""))
    if kind == "arrayValue":
        return [_value(each) for each in value.get("values", ())]
    return int(value) if kind == "intValue" else value


def _chat(attributes: dict[str, Any]) -> Chat | Skipped:
    if attributes.get("gen_ai.operation.name", "chat") not in ("chat", "text_completion"):
        return Skipped("not a call of a model")
    try:
        given = _messages(attributes["gen_ai.input.messages"])
        (answer,) = _messages(attributes["gen_ai.output.messages"])
        model = str(attributes["gen_ai.request.model"])
    except (KeyError, TypeError, ValueError):
        return Skipped("a call without its request, its model or its answer")
    system = attributes.get("gen_ai.system_instructions")
    if system:
        given.insert(0, {"role": "system", "content": _content(_tree(system))})
    unknown = {name for name in attributes if name.startswith("gen_ai.request.")} - _KNOWN
    if unknown or attributes.get("gen_ai.output.type", "text") != "text":
        return Skipped("a call with params that have no known place in a request")
    params = {name: attributes[key] for key, name in _PARAMS.items() if key in attributes}
    tools = attributes.get("gen_ai.tool.definitions")
    if tools:
        params["tools"] = _tree(tools)
    read, made = (
        int(attributes.get(f"gen_ai.usage.{side}_tokens", 0)) for side in ("input", "output")
    )
    usage = {"prompt_tokens": read, "completion_tokens": made, "total_tokens": read + made}
    reason = _STOPS.get(answer.pop("finish_reason", ""))
    if reason is None:
        return Skipped("an answer that did not end well")
    return Chat(given, {**params, "model": model}, answer_of(answer, model, usage, reason))


def _tree(value: Any) -> Any:
    return json.loads(value) if isinstance(value, str) else value


def _messages(value: Any) -> list[dict[str, Any]]:
    """Messages of the semantic conventions in the form of the Chat Completions API."""
    return [_message(message) for message in _tree(value)]


def _message(message: dict[str, Any]) -> dict[str, Any]:
    parts = message["parts"]
    if any(part.get("type") not in _PARTS for part in parts):
        raise Skipped("a message with parts other than text and tool calls")
    made: dict[str, Any] = {"role": message["role"], "content": _content(parts)}
    calls = [part for part in parts if part.get("type") == "tool_call"]
    if calls:
        made["tool_calls"] = [
            {
                "id": call.get("id"),
                "type": "function",
                "function": {
                    "name": call["name"],
                    "arguments": json.dumps(call.get("arguments", {})),
                },
            }
            for call in calls
        ]
    for part in parts:
        if part.get("type") == "tool_call_response":
            made |= {"tool_call_id": part.get("id"), "content": _text(part.get("response"))}
    if message.get("finish_reason"):
        made["finish_reason"] = message["finish_reason"]
    return made


def _content(parts: list[dict[str, Any]]) -> str | None:
    texts = [part["content"] for part in parts if part.get("type") == "text"]
    return "\n".join(texts) if texts else None


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)
