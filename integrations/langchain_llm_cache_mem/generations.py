"""Generations at rest: plain data of ours, and fresh LangChain objects made from it, of the few classes listed here."""

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any, Final

from langchain_core.messages import (
    AIMessage,
    AIMessageChunk,
    BaseMessage,
    ChatMessage,
    ChatMessageChunk,
    FunctionMessage,
    FunctionMessageChunk,
    HumanMessage,
    HumanMessageChunk,
    SystemMessage,
    SystemMessageChunk,
    ToolMessage,
    ToolMessageChunk,
)
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, Generation, GenerationChunk

from llm_cache_mem import ValueNotCacheable
from llm_cache_mem.errors import EntryUnreadable

__all__ = ["dump", "load", "mark_hit"]

_GENERATIONS: Final[dict[str, type[Generation]]] = {
    cls.__name__: cls for cls in (Generation, GenerationChunk, ChatGeneration, ChatGenerationChunk)
}
_MESSAGES: Final[dict[str, type[BaseMessage]]] = {
    cls.__name__: cls
    for cls in (
        *(AIMessage, AIMessageChunk, ChatMessage, ChatMessageChunk, FunctionMessage, FunctionMessageChunk, HumanMessage),
        *(HumanMessageChunk, SystemMessage, SystemMessageChunk, ToolMessage, ToolMessageChunk),
    )
}


def dump(generations: Sequence[Generation], params: Mapping[str, Any]) -> list[dict[str, Any]]:
    """What to store for *generations*, the answer to a request with *params*; it shares parts with them.

    ValueNotCacheable for a class of message or generation that ``load`` does not know.
    """
    classes = tuple(value for value in params.values() if isinstance(value, type))
    return [_dump_generation(generation, classes) for generation in generations]


def load(value: Any) -> list[Generation]:
    """The generations that ``dump`` made *value* from, as new objects without their ids. Raises for anything else."""
    if type(value) is not list or not value:
        raise EntryUnreadable("not the generations of a LangChain model")
    return [_load_generation(piece) for piece in value]


def mark_hit(generation: Generation, *, age: float | None = None, keep_usage: bool = False) -> None:
    """Let *generation* say in its response_metadata that it is a hit, and cost nothing. A plain one has no place to say so."""
    message = getattr(generation, "message", None)
    if not isinstance(message, AIMessage):
        return
    hit: dict[str, Any] = {"hit": True} if age is None else {"hit": True, "age": age}
    message.response_metadata = {**message.response_metadata, "llm_cache_mem": hit}
    if not keep_usage and message.usage_metadata is not None:
        message.usage_metadata = {"input_tokens": 0, "output_tokens": 0, "total_tokens": 0}


def _dump_generation(generation: Generation, classes: tuple[type, ...]) -> dict[str, Any]:
    name = type(generation).__name__
    if _GENERATIONS.get(name) is not type(generation):
        raise ValueNotCacheable("generation", f"its class is {name}")
    stored: dict[str, Any] = {"class": name}
    if generation.generation_info is not None:
        stored["info"] = generation.generation_info
    if isinstance(generation, ChatGeneration):
        stored["message"] = _dump_message(generation.message, classes)
    else:
        stored["text"] = generation.text
    return stored


def _dump_message(message: BaseMessage, classes: tuple[type, ...]) -> dict[str, Any]:
    cls = type(message)
    if _MESSAGES.get(cls.__name__) is not cls:
        raise ValueNotCacheable("generation.message", f"its class is {cls.__name__}")
    defaults = _defaults(cls)
    fields = {name: value for name, value in message.__dict__.items() if name in defaults and not _same(value, defaults[name])}
    fields |= message.__pydantic_extra__ or {}
    if not _is_response_item(message):
        fields.pop("id", None)  # an id names one message of one conversation: graphs drop the second that bears it
    parsed: Any = message.additional_kwargs.get("parsed")
    if hasattr(parsed, "model_dump") and type(parsed) not in classes:  # a class that readers could not know
        fields["additional_kwargs"] = {**message.additional_kwargs, "parsed": parsed.model_dump(mode="json")}
    if "input_tokens" not in fields.get("usage_metadata", {"input_tokens": 0}):
        del fields["usage_metadata"]  # the bare {"total_cost": 0} of a hit in another cache, which no message accepts
    return {"class": cls.__name__, "fields": fields}


@cache
def _defaults(cls: type[BaseMessage]) -> dict[str, Any]:
    """The fields to store, with the values that need not be."""
    fields = {name: field for name, field in cls.model_fields.items() if name != "type"}
    return {name: field.get_default(call_default_factory=True, validated_data={}) for name, field in fields.items()}


def _same(value: Any, default: Any) -> bool:
    return type(value) is type(default) and bool(value == default)


def _is_response_item(message: BaseMessage) -> bool:
    """Whether this is an OpenAI Responses message in the old form, whose id the next request must send back."""
    answer = message.response_metadata.get("id")
    return str(message.id).startswith("msg_") and isinstance(answer, str) and answer.startswith("resp_")


def _load_generation(stored: dict[str, Any]) -> Generation:
    fields: dict[str, Any] = {"generation_info": stored.get("info")}
    if "message" in stored:
        fields["message"] = _load_message(stored["message"])
    else:
        fields["text"] = stored["text"]
    return _GENERATIONS[stored["class"]](**fields)


def _load_message(stored: dict[str, Any]) -> BaseMessage:
    return _MESSAGES[stored["class"]](**stored["fields"])
