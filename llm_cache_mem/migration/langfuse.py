"""Exports of Langfuse: one observation a line, of which generations hold a request and an answer.

Fields are those of its public API and of its blob storage exports, in camel or snake case.
"""

from collections.abc import Iterator
from typing import Any

from llm_cache_mem.migration.messages import Chat, answer_of, read_lines
from llm_cache_mem.migration.sources import Skipped

__all__ = ["records"]


def records(source: str) -> Iterator[Chat | Skipped]:
    """The generations in the export at *source*."""
    return read_lines(source, _read)


def _read(observation: dict[str, Any]) -> Iterator[Chat | Skipped]:
    if str(observation.get("type", "GENERATION")).upper() != "GENERATION":
        yield Skipped("not a call of a model")
        return
    given, answer = observation.get("input"), observation.get("output")
    model = observation.get("model") or observation.get("providedModelName")
    messages = given.get("messages") if isinstance(given, dict) else given
    if not isinstance(messages, (list, str)) or not isinstance(model, str) or not answer:
        yield Skipped("a generation without its request, its model or its answer")
        return
    if observation.get("level") == "ERROR":
        yield Skipped("an error")
        return
    params = _either(observation, "modelParameters", "model_parameters")
    extra = (
        {name: value for name, value in given.items() if name != "messages"}
        if isinstance(given, dict)
        else {}
    )
    message = answer if isinstance(answer, dict) else {"role": "assistant", "content": str(answer)}
    usage = _usage(_either(observation, "usageDetails", "usage_details"))
    yield Chat(
        messages,
        {**params, **extra, "model": model},
        answer_of(message, model, usage, "tool_calls" if message.get("tool_calls") else "stop"),
    )


def _either(holder: dict[str, Any], *names: str) -> dict[str, Any]:
    return next((holder[name] for name in names if isinstance(holder.get(name), dict)), {})


def _usage(details: dict[str, Any]) -> dict[str, int]:
    given, made = details.get("input", 0), details.get("output", 0)
    return {"prompt_tokens": given, "completion_tokens": made, "total_tokens": given + made}
