"""Find what a request leans on that its provider holds, such as a conversation or a container."""

from collections.abc import Mapping
from typing import Any, Final

from llm_cache_mem.errors import StatefulRequest
from llm_cache_mem.options import current

__all__ = ["STATEFUL_FIELDS", "provider_state", "refuse_stateful"]

STATEFUL_FIELDS: Final = (
    "conversation",  # OpenAI Responses: grows with each call
    "previous_response_id",
    "vector_store_ids",
    "cachedContent",  # Gemini
    "cached_content",
)
"""Fields of a body that name something that the provider holds and that may change or expire."""
_TOOLS: Final = ("tools", "built_in_tools")  # the second in LlamaIndex


def refuse_stateful(path: str | None) -> None:
    """StatefulRequest if there is a *path* by which a request leans on state held by the provider,
    unless the options of this context allow that."""
    if path is not None and not current().stateful:
        raise StatefulRequest(path)


def provider_state(body: Mapping[str, Any]) -> str | None:
    """The path of the first field of *body* that leans on state held by the provider, or None.

    Besides STATEFUL_FIELDS these are ``background``, a container that is named by its id, a stored
    prompt without its version, items that are referred to, and the vector stores and containers of
    tools.
    """
    for name in STATEFUL_FIELDS:
        if body.get(name):
            return name
    if body.get("background") is True:
        return "background"
    prompt = body.get("prompt")
    if isinstance(prompt, Mapping) and prompt.get("id") and not prompt.get("version"):
        return "prompt.id"
    if _is_named(body.get("container")):
        return "container"
    return _state_in_items(body.get("input")) or _state_in_tools(body)


def _state_in_items(said: Any) -> str | None:
    for number, item in enumerate(said if isinstance(said, list) else ()):
        if isinstance(item, Mapping) and item.get("type") == "item_reference":
            return f"input[{number}]"
    return None


def _state_in_tools(body: Mapping[str, Any]) -> str | None:
    for name in _TOOLS:
        tools = body.get(name)
        for number, tool in enumerate(tools if isinstance(tools, list) else ()):
            if isinstance(tool, Mapping):
                if tool.get("vector_store_ids"):
                    return f"{name}[{number}].vector_store_ids"
                if _is_named(tool.get("container")):
                    return f"{name}[{number}].container"
    return None


def _is_named(container: Any) -> bool:
    """Whether *container* is one that exists already, not one to be made for this call."""
    if isinstance(container, Mapping):
        return bool(container.get("id"))
    return isinstance(container, str) and bool(container)
