"""A LangChain message or setting as the chat APIs write it: the one shape that keys and key
functions are made from.

What is left out never reaches a model: ids, usage, artifacts, run metadata, secrets, and how calls
are transported. All else stays, so a field that LangChain adds tomorrow makes two requests
different rather than equal.
"""

from collections.abc import Callable, Mapping
from typing import Any, Final

from llm_cache_mem import RequestNotCacheable

__all__ = ["as_params", "message_as_dict", "sent"]

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

_TRANSPORT: Final = frozenset(
    {
        *(
            "name",
            "verbose",
            "cache",
            "callbacks",
            "tags",
            "profile",
            "rate_limiter",
            "custom_get_token_ids",
        ),
        *(
            "timeout",
            "request_timeout",
            "default_request_timeout",
            "stream_chunk_timeout",
            "max_retries",
            "batch_size",
            "max_concurrency",
        ),
        *("stream", "streaming", "stream_usage", "stream_options", "disable_streaming"),
        *("http_client", "http_async_client", "http_socket_options"),
        *("azure_ad_token_provider", "azure_ad_async_token_provider"),
    }
)
"""Settings of how a call is made and who is asking. They change no answer."""

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
_EXACT_FLOATS: Final = 2.0**53


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


def message_as_dict(fields: Mapping[str, Any], *, with_response_id: bool) -> dict[str, Any]:
    """The message of these *fields*, which were ``sent``, as a role/content dict.
    RequestNotCacheable if no model is sent such a one.

    *with_response_id*: the provider keeps the conversation, and the id of its answer stands for all
      that came before.
    """
    kind = fields.get("type")
    role = fields.get("role") if kind in _CHAT else _ROLES.get(str(kind))
    if not isinstance(role, str):
        raise RequestNotCacheable("messages", f"a message of type {str(kind)[:40]!r}")
    message: dict[str, Any] = {"role": role, "content": _content(fields.get("content"))}
    for name, value in fields.items():
        if name == "type" or name in message:
            continue
        kept = _FIELDS[name](value) if name in _FIELDS else value
        if kept not in (None, [], {}):
            message[name] = kept
    if with_response_id and (answer := _mapping(fields.get("response_metadata")).get("id")):
        message["response_id"] = answer
    return message


def as_params(settings: Mapping[str, Any], call: Mapping[str, Any]) -> dict[str, Any]:
    """What a model is set to and what one call says beside it, the call having the last word; the
    model's name is ``model``.

    A copy all through, in which 0 and 0.0 are the same number.
    """
    return {**_params(settings), **_params(call)}


def _params(names: Mapping[str, Any]) -> dict[str, Any]:
    known_as = next((name for name in _MODEL_NAMES if isinstance(names.get(name), str)), None)
    renamed = {known_as: "model", "messages": "model.messages"}  # a request has messages of its own
    return {
        renamed.get(name, name): _number(value)
        for name, value in names.items()
        if name not in _TRANSPORT
    }


def _number(value: Any) -> Any:
    """*value* with every whole float as the int it equals: pydantic makes floats of what users
    write as ints."""
    kind = type(value)
    if kind is float:
        return int(value) if value.is_integer() and abs(value) < _EXACT_FLOATS else value
    if kind is dict:
        return {key: _number(item) for key, item in value.items()}
    if kind is list or kind is tuple:
        return [_number(item) for item in value]
    return value


def _content(content: Any) -> Any:
    """Text that is alone in a list of blocks is the text; ids that LangChain makes up for blocks
    are left out."""
    if not isinstance(content, list):
        return content
    blocks = [_block(block) for block in content]
    alone = blocks[0] if len(blocks) == 1 else None
    if (
        isinstance(alone, dict)
        and alone.keys() == {"type", "text"}
        and alone["type"] == "text"
        and isinstance(alone["text"], str)
    ):
        return alone["text"]
    return blocks


def _block(block: Any) -> Any:
    if isinstance(block, dict) and str(block.get("id", "")).startswith("lc_"):
        return {name: value for name, value in block.items() if name != "id"}
    return block


def _tool_calls(calls: Any) -> Any:
    if not isinstance(calls, list):
        return calls
    return [
        {name: value for name, value in call.items() if name != "type"}
        if isinstance(call, dict)
        else call
        for call in calls
    ]


def _additional(kwargs: Any) -> Any:
    return {name: value for name, value in _mapping(kwargs).items() if value is not None}


def _metadata(metadata: Any) -> Any:
    return {
        name: value
        for name in _SENT_METADATA
        if (value := _mapping(metadata).get(name)) is not None
    }


def _status(status: Any) -> Any:
    return None if status == "success" else status


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


_FIELDS: Final[dict[str, Callable[[Any], Any]]] = {
    "tool_calls": _tool_calls,
    "additional_kwargs": _additional,
    "response_metadata": _metadata,
    "status": _status,
}
