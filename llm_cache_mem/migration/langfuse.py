"""Exports of Langfuse: one observation a line, of which generations hold a request and an answer.

Fields are those of its public API and of its blob storage exports, in camel or snake case.
"""

from collections.abc import Iterator
from typing import Any, Final

from llm_cache_mem.migration.messages import Chat, answer_of, read_lines
from llm_cache_mem.migration.sources import Skipped

__all__ = ["records"]

_FILLED_IN: Final = {
    "temperature": 1,
    "top_p": 1,
    "frequency_penalty": 0,
    "presence_penalty": 0,
}


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
    params = _asked(_either(observation, "modelParameters", "model_parameters"))
    if isinstance(given, dict):
        params |= {name: value for name, value in given.items() if name != "messages"}
    yield Chat(messages, {**params, "model": model}, _answer(observation, answer, model, params))


def _answer(
    observation: dict[str, Any], answer: Any, model: str, params: dict[str, Any]
) -> dict[str, Any]:
    """The chat completion of which *answer* is one message, or a list of the messages of several
    choices."""
    if isinstance(answer, dict) and isinstance(answer.get("choices"), list):
        return answer
    said = answer if isinstance(answer, list) else [answer]
    messages = [
        each if isinstance(each, dict) else {"role": "assistant", "content": str(each)}
        for each in said
    ]
    usage = _usage(_either(observation, "usageDetails", "usage_details"))
    completion = answer_of(None, model, usage, "")
    completion["choices"] = [
        {
            "index": index,
            "message": {name: value for name, value in message.items() if name != "finish_reason"},
            "finish_reason": _reason(observation, message, usage, params),
        }
        for index, message in enumerate(messages)
    ]
    return completion


def _reason(
    observation: dict[str, Any], message: dict[str, Any], usage: dict[str, int], params: Any
) -> str:
    """Why the answer ended: as far as the export says, or can be seen."""
    told = message.get("finish_reason") or _either(observation, "metadata").get("finish_reason")
    if isinstance(told, str):
        return told
    most = params.get("max_completion_tokens") or params.get("max_tokens")
    if isinstance(most, int) and usage["completion_tokens"] >= most:
        return "length"
    return "tool_calls" if message.get("tool_calls") else "stop"


def _asked(params: dict[str, Any]) -> dict[str, Any]:
    """*params* without those that Langfuse's wrapper of OpenAI fills in where a call has none: they
    are the defaults of the API."""
    if not params.keys() >= _FILLED_IN.keys():
        return dict(params)
    return {
        name: value
        for name, value in params.items()
        if (name not in _FILLED_IN or value != _FILLED_IN[name])
        and (name != "max_tokens" or isinstance(value, int))
    }


def _either(holder: dict[str, Any], *names: str) -> dict[str, Any]:
    return next((holder[name] for name in names if isinstance(holder.get(name), dict)), {})


def _usage(details: dict[str, Any]) -> dict[str, int]:
    given, made = (
        next((details[name] for name in names if name in details), 0)
        for names in (("input", "prompt_tokens"), ("output", "completion_tokens"))
    )
    return {"prompt_tokens": given, "completion_tokens": made, "total_tokens": given + made}
