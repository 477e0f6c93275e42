"""A LangChain message or setting as the Chat Completions API has it: the one shape that keys are
made of and key functions see.

What is left out never reaches a model: ids, usage, artifacts, run metadata, secrets, and how calls
are transported. All else stays, so a field that LangChain adds tomorrow makes two requests
different rather than equal.
"""

from collections.abc import Iterable, Mapping
from typing import Any, Final

from langchain_llm_cache_mem.blocks import as_content, without_calls
from langchain_llm_cache_mem.settings import ABOUT_CALLS
from llm_cache_mem import RequestNotCacheable
from llm_cache_mem.keys.chat_form import (
    function_tool,
    overlaid,
    same_calls,
    tool_call,
    without_known_names,
)
from llm_cache_mem.keys.identity import describe
from llm_cache_mem.keys.names import TRANSPORT, as_sent
from llm_cache_mem.keys.state import provider_state

__all__ = ["as_params", "message_as_dict", "messages_as_dicts", "sent", "state_of"]

_ROLES: Final = {
    "human": "user",
    "HumanMessageChunk": "user",
    "ai": "assistant",
    "AIMessageChunk": "assistant",
    "system": "system",
    "SystemMessageChunk": "system",
    "tool": "tool",
    "ToolMessageChunk": "tool",
    "function": "function",
    "FunctionMessageChunk": "function",
}
_CHAT: Final = ("chat", "ChatMessageChunk")  # these carry a role of their own

_NEVER_SENT: Final = frozenset(
    {"id", "usage_metadata", "artifact", "example", "tool_call_chunks", "chunk_position"}
)
_SENT_METADATA: Final = ("model_provider", "output_version", "container")
"""Of response_metadata, what the integrations look at when they write an earlier answer into the
next request."""

_TRANSPORT: Final = TRANSPORT | ABOUT_CALLS | {"custom_get_token_ids", "profile", "tags"}
"""Settings of how a call is made and who is asking. They change no answer."""
_OF_A_CALL: Final = _TRANSPORT - {"batch_size", "name", "profile", "tags", "verbose"}
"""Arguments of a call that change no answer: LangChain passes none of the others."""

_WRITTEN: Final = frozenset(
    {
        *("additional_kwargs", "content", "invalid_tool_calls", "response_metadata", "role"),
        *("status", "tool_calls", "type"),
    }
)
"""The fields of a message that ``message_as_dict`` writes by rules of their own."""
_OF_CALLS: Final = frozenset({"args", "error", "id", "index", "name", "type"})

_MODEL_NAMES: Final = (
    "model",
    "model_name",
    "model_id",
    "deployment_name",
    "azure_deployment",
    "deployment",
    "repo_id",
    "model_path",
)


def sent(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Those *fields* of a message that can reach a model, before anything else is asked of them:
    the rest may hold any object."""
    kept = {name: value for name, value in fields.items() if name not in _NEVER_SENT}
    more = kept.get("additional_kwargs")
    if (
        isinstance(more, Mapping) and "parsed" in more
    ):  # the object that ChatOpenAI makes of the JSON in its answer
        kept["additional_kwargs"] = {
            name: value for name, value in more.items() if name != "parsed"
        }
    return kept


def messages_as_dicts(
    messages: Iterable[Mapping[str, Any]], params: Mapping[str, Any]
) -> list[dict[str, Any]]:
    """The messages of a request with *params*, each given by its fields, which were ``sent``."""
    # the provider keeps the conversation, and the id of its answer stands for all before
    by_id = bool(params.get("use_previous_response_id"))
    return without_known_names([message_as_dict(each, with_response_id=by_id) for each in messages])


def state_of(messages: list[Any], params: Mapping[str, Any]) -> str | None:
    """The path by which the request leans on state held by its provider, None if there is none:
    ``provider_state``, and the ids that a model takes from the answers among its *messages*."""
    reuses = params.get("reuse_last_container") is True
    for number, message in enumerate(messages):
        if "response_id" in message:
            return f"messages[{number}].response_id"
        if reuses and "container" in _mapping(message.get("response_metadata")):
            return f"messages[{number}].response_metadata.container"
    return provider_state(params)


def message_as_dict(fields: Mapping[str, Any], *, with_response_id: bool) -> dict[str, Any]:
    """The message of these *fields* as the Chat Completions API has it. RequestNotCacheable if no
    model is sent such a one.

    *with_response_id*: whether the id of an answer is part of it.
    """
    kind = fields.get("type")
    role = fields.get("role") if kind in _CHAT else _ROLES.get(str(kind))
    if not isinstance(role, str):
        raise RequestNotCacheable("messages", f"a message of type {str(kind)[:40]!r}")
    given, told = fields.get("additional_kwargs"), fields.get("response_metadata")
    more = {k: v for k, v in given.items() if v is not None} if given else {}
    if role == "system" and isinstance(more.get("__openai_role__"), str):
        role = more.pop("__openai_role__")
    content = as_content(fields.get("content"), of_model=role == "assistant")
    message: dict[str, Any] = {"role": role, "content": content}
    if calls := _calls(fields, more):
        message = {"role": role, "content": without_calls(content, calls), "tool_calls": calls}
    if told and (metadata := _metadata(told, content)):
        message["response_metadata"] = metadata
    if fields.get("status") == "error":
        message["is_error"] = True
    for name in fields.keys() - _WRITTEN:
        if (value := fields[name]) not in (None, [], {}):
            message[name] = value
    if hidden := {name: more.pop(name) for name in [*more] if name in message}:
        message["additional_kwargs"] = hidden
    message.update(more)
    if with_response_id and told and told.get("id"):
        message["response_id"] = told["id"]
    return message


def _calls(fields: Mapping[str, Any], more: dict[str, Any]) -> list[Any]:
    """The tool calls of a message, of which there may be a second form among its *more* fields."""
    listed = (fields.get("tool_calls"), fields.get("invalid_tool_calls"))
    made = [_call(call) for calls in listed if calls for call in calls]
    raw = more.get("tool_calls")
    if not isinstance(raw, list):
        return made
    told = [
        {name: value for name, value in call.items() if name != "index"}  # its place in a stream
        if isinstance(call, Mapping)
        else call
        for call in raw
    ]
    if not made or same_calls(made, told):
        del more["tool_calls"]
    return made or told


def _call(call: Any) -> Any:
    if not isinstance(call, Mapping):
        return call
    more = {name: value for name, value in call.items() if name not in _OF_CALLS}
    return tool_call(call.get("id"), call.get("name"), call.get("args"), more)


def _metadata(told: Mapping[str, Any], content: Any) -> dict[str, Any]:
    """What the integrations look at when they write an earlier answer into the next request; at all
    but its container only to read its blocks."""
    names = _SENT_METADATA if isinstance(content, list) else ("container",)
    return {name: told[name] for name in names if told.get(name) is not None}


def as_params(settings: Mapping[str, Any], call: Mapping[str, Any]) -> dict[str, Any]:
    """What a model is set to and what one call says beside it, the call having the last word, as
    the Chat Completions API has it: flat, with the model's name as ``model``."""
    params = _params(settings)
    further = params.pop("model_kwargs", None)
    params = {**_merged(params, "model_kwargs", further), **_params(call, _OF_A_CALL)}
    params = _merged(params, "extra_body", params.pop("extra_body", None))
    return dict(as_sent(params))


def _params(names: Mapping[str, Any], left_out: frozenset[str] = _TRANSPORT) -> dict[str, Any]:
    known_as = next((name for name in _MODEL_NAMES if isinstance(names.get(name), str)), None)
    renamed = {known_as: "model", "messages": "model.messages"}  # a request has messages of its own
    if "stop" not in names:
        renamed["stop_sequences"] = "stop"
    params = {
        renamed.get(name, name): value for name, value in names.items() if name not in left_out
    }
    if "extra_headers" in params:
        headers = describe([("extra_headers", params.pop("extra_headers"))]).require_known()
        params.update(headers)
    if isinstance(tools := params.get("tools"), (list, tuple)):
        params["tools"] = [_tool(tool) for tool in tools]
    return params


def _merged(params: dict[str, Any], name: str, further: Any) -> dict[str, Any]:
    """*params*, and those *further* ones that a model has under *name*."""
    if isinstance(further, Mapping):
        return overlaid(params, further)
    return params if further is None else {**params, name: further}


def _tool(tool: Any) -> Any:
    """A tool, in the API's form if it is a function in Anthropic's."""
    if not isinstance(tool, Mapping) or "type" in tool or "input_schema" not in tool:
        return tool
    return function_tool(tool, "input_schema") or tool


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}
