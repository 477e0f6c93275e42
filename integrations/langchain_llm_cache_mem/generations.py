"""Generations at rest: plain data of ours, and fresh LangChain objects made from it, of the few
classes listed here."""

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any, Final, TypeVar
from uuid import uuid4

from langchain_core.language_models.chat_models import generate_from_stream
from langchain_core.load.serializable import Serializable
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
from langchain_core.messages.base import TextAccessor
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, Generation, GenerationChunk
from langchain_core.utils.utils import LC_ID_PREFIX

from langchain_llm_cache_mem.config import manager_around
from llm_cache_mem import ValueNotCacheable
from llm_cache_mem.errors import EntryUnreadable

__all__ = [
    "CLASSES",
    "answer_id",
    "complete_hits",
    "dump",
    "dump_stream",
    "load",
    "load_stream",
    "mark_hits",
    "tell_run",
    "zero_usage",
]

M = TypeVar("M", bound=Serializable)

_GENERATIONS: Final[dict[str, type[Generation]]] = {
    cls.__name__: cls for cls in (Generation, GenerationChunk, ChatGeneration, ChatGenerationChunk)
}
_NO_USAGE: Final = {"input_tokens": 0, "output_tokens": 0, "total_tokens": 0}
_MESSAGES: Final[dict[str, type[BaseMessage]]] = {
    cls.__name__: cls
    for cls in (
        *(
            AIMessage,
            AIMessageChunk,
            ChatMessage,
            ChatMessageChunk,
            FunctionMessage,
            FunctionMessageChunk,
            HumanMessage,
        ),
        *(HumanMessageChunk, SystemMessage, SystemMessageChunk, ToolMessage, ToolMessageChunk),
    )
}

CLASSES: Final = (*_GENERATIONS.values(), *_MESSAGES.values())
"""The classes of which stored generations are made."""


def dump(generations: Sequence[Generation], params: Mapping[str, Any]) -> list[dict[str, Any]]:
    """What to store for *generations*, the answer to a request with *params*; it may share parts
    with them.

    ValueNotCacheable for a class of message or generation that ``load`` does not know.
    """
    classes = tuple(value for value in params.values() if isinstance(value, type))
    return [_dump_generation(generation, classes) for generation in generations]


def dump_stream(chunks: list[Any]) -> dict[str, Any]:
    """What to store for a stream, from what ``dump`` made of its *chunks*."""
    return {"stream": chunks}


def load(value: Any) -> list[Generation]:
    """The generations that were stored as *value*, as new objects without their ids; a stream as
    one. Raises for anything else."""
    if type(value) is dict:
        return [_merged(load_stream(value))]
    if type(value) is not list or not value:
        raise EntryUnreadable("not the generations of a LangChain model")
    return [_load_generation(piece) for piece in value]


def load_stream(value: Any) -> list[Any]:
    """The same as the chunks of a stream: those that were stored, or else one."""
    if type(value) is dict:
        return load(value["stream"])
    return [_as_chunk(load(value)[0])]


def _merged(chunks: list[Any]) -> Generation:
    """One generation of a whole stream, as LangChain itself makes it."""
    if not isinstance(chunks[0], ChatGenerationChunk):
        whole: Any = sum(chunks[1:], chunks[0])
        return Generation(text=whole.text, generation_info=whole.generation_info)
    last = chunks[-1].message
    if isinstance(last, AIMessageChunk) and not last.chunk_position:
        empty: Any = "" if isinstance(last.content, str) else []
        chunks = [
            *chunks,
            ChatGenerationChunk(message=AIMessageChunk(content=empty, chunk_position="last")),
        ]
    return generate_from_stream(iter(chunks)).generations[0]


def _as_chunk(generation: Generation) -> Any:
    """*generation* as a stream of one chunk."""
    if not isinstance(generation, ChatGeneration):
        return GenerationChunk(text=generation.text, generation_info=generation.generation_info)
    message = generation.message
    cls: Any = _MESSAGES[type(message).__name__.removesuffix("Chunk") + "Chunk"]
    fields = {name: value for name, value in message.__dict__.items() if name != "type"}
    if cls is AIMessageChunk:
        fields["chunk_position"] = "last"
    return ChatGenerationChunk(message=cls(**fields), generation_info=generation.generation_info)


def mark_hits(
    generations: list[Any], *, keep_usage: bool, age: float | None = None, stream: bool = False
) -> None:
    """Let *generations* say in their response_metadata that they are a hit, and cost nothing; of
    the chunks of a stream the first says it.

    Plain generations have no place to say so.
    """
    hit: dict[str, Any] = {"hit": True} if age is None else {"hit": True, "age": age}
    if not keep_usage:
        saved = next((usage for each in reversed(generations) if (usage := _usage_of(each))), None)
        if saved is not None:
            hit["saved"] = saved
        zero_usage(generations)
    for generation in generations:
        message = getattr(generation, "message", None)
        if isinstance(message, AIMessage) and (not stream or generation is generations[0]):
            fields = vars(message)  # a model's __setattr__ takes longer than all the rest
            fields["response_metadata"] = {
                **fields["response_metadata"],
                "llm_cache_mem": hit.copy(),
            }


def tell_run(run_manager: Any, generations: Sequence[Any]) -> None:
    """If *generations* are marked as a hit, say so in the metadata of their run, by which LangSmith
    can filter: ``llm_cache_mem`` is ``hit``."""
    message = getattr(generations[0], "message", None) if generations else None
    if "llm_cache_mem" not in getattr(message, "response_metadata", ()):
        return
    manager = run_manager or manager_around()
    for tracer in getattr(manager, "handlers", ()):
        run: Any = getattr(tracer, "run_map", {}).get(str(manager.run_id))
        if hasattr(run, "add_metadata"):
            run.add_metadata({"llm_cache_mem": "hit"})


def _usage_of(generation: Any) -> dict[str, int] | None:
    """The tokens that the call of *generation* took, if it says."""
    usage = getattr(getattr(generation, "message", None), "usage_metadata", None)
    if not usage or not (usage.get("input_tokens") or usage.get("output_tokens")):
        return None
    return {name: usage.get(name, 0) for name in ("input_tokens", "output_tokens")}


def zero_usage(generations: list[Any]) -> None:
    """Let *generations* cost nothing, in whatever form their provider's package reports it."""
    for generation in generations:
        message = getattr(generation, "message", None)
        if not isinstance(message, AIMessage):
            continue
        fields = vars(message)
        if message.usage_metadata is not None:
            fields["usage_metadata"] = _NO_USAGE.copy()
        fields["response_metadata"] = _without_usage(message.response_metadata)
        if generation.generation_info:
            vars(generation)["generation_info"] = _without_usage(generation.generation_info)


_USAGE_FIELDS: Final = (
    "usage",
    "token_usage",
    "usage_metadata",
    "amazon-bedrock-invocationMetrics",
)
_COUNT_FIELDS: Final = ("eval_count", "prompt_eval_count")  # Ollama's


def _without_usage(told: dict[str, Any]) -> dict[str, Any]:
    """What a provider *told* of an answer, with zeros for what it took."""
    changed = {name: _zeros(told[name]) for name in _USAGE_FIELDS if told.get(name)}
    changed |= {name: 0 for name in _COUNT_FIELDS if told.get(name)}
    return {**told, **changed} if changed else told


def _zeros(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _zeros(part) for name, part in value.items()}
    if isinstance(value, list):
        return [_zeros(part) for part in value]
    return type(value)(0) if type(value) in (int, float) else value


def complete_hits(generations: list[Any], run_id: object = None) -> None:
    """Add to the messages of *generations* what langchain-core adds to an answer of a provider but
    not to one of its cache: an id, of the run *run_id* or of none.

    A message without usage gets zeros, because core adds a cost to the usage of each hit and no
    message accepts a cost alone.
    """
    run_id = run_id or uuid4()
    for index, generation in enumerate(generations):
        message = getattr(generation, "message", None)
        if isinstance(message, AIMessage):
            fields = vars(message)
            fields["id"] = fields["id"] or _id_in(run_id, index)
            fields["usage_metadata"] = fields["usage_metadata"] or _NO_USAGE.copy()


def answer_id(generations: Sequence[Any], run_id: object) -> str | None:
    """The id that the first message of *generations* has, or that langchain-core gives it in the
    run *run_id*; None if there is no message, or no run."""
    message = getattr(generations[0], "message", None) if generations else None
    if not isinstance(message, AIMessage):
        return None
    return message.id or (None if run_id is None else _id_in(run_id, 0))


def _id_in(run_id: object, index: int) -> str:
    return f"{LC_ID_PREFIX}-{run_id}-{index}"


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
        stored["text"] = _exact(generation.text)
    return stored


def _dump_message(message: BaseMessage, classes: tuple[type, ...]) -> dict[str, Any]:
    cls = type(message)
    if _MESSAGES.get(cls.__name__) is not cls:
        raise ValueNotCacheable("generation.message", f"its class is {cls.__name__}")
    defaults = _defaults(cls)
    fields = {
        name: _exact(value)
        for name, value in message.__dict__.items()
        if name in defaults and not _same(value, defaults[name])
    }
    fields |= message.__pydantic_extra__ or {}
    if not _is_response_item(message):
        fields.pop(
            "id", None
        )  # an id names one message of one conversation: graphs drop the second that bears it
    parsed: Any = message.additional_kwargs.get("parsed")
    if (
        hasattr(parsed, "model_dump") and type(parsed) not in classes
    ):  # a class that readers could not know
        fields["additional_kwargs"] = {
            **message.additional_kwargs,
            "parsed": parsed.model_dump(mode="json"),
        }
    if "input_tokens" not in fields.get("usage_metadata", {"input_tokens": 0}):
        del fields[
            "usage_metadata"
        ]  # the bare {"total_cost": 0} of a hit in another cache, which no message accepts
    return {"class": cls.__name__, "fields": fields}


@cache
def _defaults(cls: type[BaseMessage]) -> dict[str, Any]:
    """The fields to store, with the values that need not be."""
    fields = {name: field for name, field in cls.model_fields.items() if name != "type"}
    return {
        name: field.get_default(call_default_factory=True, validated_data={})
        for name, field in fields.items()
    }


def _exact(value: Any) -> Any:
    """*value* with plain text where it holds the text of another message, which LangChain gives as
    a kind of str of its own."""
    kind = type(value)
    if kind is TextAccessor:
        return str.__str__(value)
    if kind is dict:
        return {name: _exact(item) for name, item in value.items()}
    return [_exact(item) for item in value] if kind is list else value


def _same(value: Any, default: Any) -> bool:
    return type(value) is type(default) and bool(value == default)


def _is_response_item(message: BaseMessage) -> bool:
    """Whether this is an OpenAI Responses message in the old form, whose id the next request must
    send back."""
    answer = message.response_metadata.get("id")
    return (
        str(message.id).startswith("msg_")
        and isinstance(answer, str)
        and answer.startswith("resp_")
    )


def _load_generation(stored: dict[str, Any]) -> Generation:
    if "message" not in stored:
        return _GENERATIONS[stored["class"]](
            text=stored["text"], generation_info=stored.get("info")
        )
    message = _load_message(stored["message"])
    if type(message.content) is not str or stored["class"] != "ChatGeneration":
        made: Any = _GENERATIONS[stored["class"]]
        return made(message=message, generation_info=stored.get("info"))  # type: ignore[no-any-return]
    state = {
        "text": message.content,
        "generation_info": stored.get("info"),
        "type": "ChatGeneration",
        "message": message,
    }
    return _assembled(ChatGeneration, state, {"message"})


_TEXT_ANSWER: Final[dict[str, type]] = {
    "content": str,
    "response_metadata": dict,
    "usage_metadata": dict,
    "additional_kwargs": dict,
}


def _load_message(stored: dict[str, Any]) -> BaseMessage:
    name, fields = stored["class"], stored["fields"]
    if name != "AIMessage" or "content" not in fields:
        return _MESSAGES[name](**fields)
    for field, value in fields.items():
        if type(value) is not _TEXT_ANSWER.get(field):
            return AIMessage(**fields)
    # The answer most hits are: its fields are seen to be right, and to have them looked at again
    # would take longer than all else.
    state = _defaults(AIMessage).copy()
    for field in ("additional_kwargs", "response_metadata", "tool_calls", "invalid_tool_calls"):
        state[field] = state[field].copy()
    state.update(fields, type="ai")
    return _assembled(AIMessage, state, {*fields})


def _assembled(cls: type[M], state: dict[str, Any], fields_set: set[str]) -> M:
    """A *cls* with that *state*, made without its validators."""
    made = cls.__new__(cls)
    set_state = object.__setattr__
    set_state(made, "__dict__", state)
    set_state(made, "__pydantic_fields_set__", fields_set)
    set_state(made, "__pydantic_extra__", {} if cls is AIMessage else None)
    set_state(made, "__pydantic_private__", None)
    return made
