"""Whether an answer is complete, in every provider's protocol: whether it says something, why it
stopped, whether it ended.

A whole answer is read as a stream of one piece. Each protocol has one reader, which looks at one
piece and says whether it is of the protocol, having noted what it shows. Fields decide, never
classes, so that JSON and the objects of an SDK read the same. A reader must leave alone what merely
resembles its protocol: an application's own ``Quiz(choices=[...])`` or ``Task(done=False)``.
"""

from collections.abc import Callable, Sequence
from typing import Any, Final

from llm_cache_mem.responses.fields import field, has, listed, word
from llm_cache_mem.responses.openai import chat, is_error, read_message, responses
from llm_cache_mem.responses.providers import cohere, converse, gemini, messages, ollama
from llm_cache_mem.responses.reading import STOP_FIELDS, Reading, is_text

__all__ = ["read_piece"]

_HOLLOW: Final = {
    "choices": ("object", "created", "model"),
    "output": ("object", "created_at", "model"),
    "content": ("type", "role", "stop_reason", "usage"),
    "candidates": ("model_version", "prompt_feedback", "usage_metadata"),
    "data": ("object", "model", "usage"),
}
"""The field of an SDK's object that holds the answer, and others by which the object is known."""

# LangChain's names of those who say why with the last piece of every answer
_TELLING: Final = frozenset({"openai", "anthropic"})


def read_piece(reading: Reading, piece: Any) -> None:
    """Take in the next *piece* of an answer; one of no known shape shows nothing. Never raises."""
    if isinstance(piece, str):
        reading.note(says=is_text(piece))
    elif piece is not None and not isinstance(piece, int | float | bytes):
        if is_error(piece):
            reading.stop("error")
        if field(piece, "amazon-bedrock-guardrailAction") == "INTERVENED":
            reading.stop("content_filter")
        for reader in _READERS:
            if reader(reading, piece):
                break


def _framework(reading: Reading, piece: Any) -> bool:
    """LangChain's messages, generations and results, LlamaIndex's responses."""
    if not has(piece, "llm_output") or not isinstance(results := field(piece, "generations"), list):
        return _generation(reading, piece)
    for result in results:
        for generation in result if isinstance(result, list) else [result]:
            _generation(reading, generation)
    return True


def _generation(reading: Reading, piece: Any) -> bool:
    message, text, told = (
        field(piece, "message"),
        field(piece, "text"),
        field(piece, "response_metadata", "generation_info"),
    )
    generation = has(piece, "generation_info") and isinstance(text, str)
    llama_index = has(piece, "raw") and isinstance(field(piece, "additional_kwargs"), dict)
    if not isinstance(told, dict) and not generation and not llama_index:
        return False
    reading.note(says=is_text(text))
    read_message(reading, message if message is not None else piece)
    told_by_message = field(message, "response_metadata")
    for source in (told, told_by_message, field(piece, "raw")):
        _read_stop(reading, source)
    if word(field(piece if message is None else message, "type")) == "aimessagechunk":
        _read_end(reading, (told, told_by_message))
    return True


def _read_end(reading: Reading, sources: Sequence[Any]) -> None:
    """Whether a LangChain stream has ended: where its connection closed early, LangChain takes what
    had come for the whole."""
    if any(word(field(source, "model_provider")) in _TELLING for source in sources):
        reading.begin()
    for source in sources:
        why = field(source, *STOP_FIELDS, "status")
        if why is not None:
            reading.end(why)


def _read_stop(reading: Reading, source: Any) -> None:
    """Only the reason to stop, from what a framework hands on of the provider's answer."""
    if word(field(field(source, "prompt_feedback"), "block_reason")):
        reading.stop("content_filter")
    reading.stop(field(field(source, "incomplete_details"), "reason"))
    reading.stop(field(source, *STOP_FIELDS, "status"))
    whole = Reading()
    whole.arguments = reading.arguments  # of a stream, each piece has the provider's own
    for reader in _READERS:
        if reader is not _framework and reader(whole, source):
            break
    reading.stops |= whole.stops


def _message_alone(reading: Reading, piece: Any) -> bool:
    """An assistant's message by itself, or as Cohere wraps it."""
    wrapped = field(piece, "message")
    for message in (piece, wrapped):
        if word(field(message, "role")) == "assistant":
            read_message(reading, message)
            reading.stop(field(piece, *STOP_FIELDS))
            return True
    return False


def _bare_text(reading: Reading, piece: Any) -> bool:
    """Text beside a reason to stop, as Titan, Llama, Mistral and Cohere write it, alone or in a
    list."""
    found = False
    for part, entry in enumerate(
        listed(field(piece, "results", "outputs", "generations")) or [piece]
    ):
        text, why = field(entry, "outputText", "generation", "text"), field(entry, *STOP_FIELDS)
        if isinstance(text, str) and any(has(entry, name) for name in STOP_FIELDS):
            acts = listed(field(entry, "tool_calls")) or listed(field(entry, "search_queries"))
            reading.note(says=is_text(text) or bool(acts))
            reading.end_whole(entry, *STOP_FIELDS, part=part)
        elif word(why):
            # an answer of a shape not known, of which only the end can be judged
            reading.note(says=True)
            reading.stop(why)
        else:
            continue
        found = True
    return found


def _hollow(reading: Reading, piece: Any) -> bool:
    """An SDK's object that was made of a body without an answer, as of ``{}``. (What is stored for
    one text of several is a dict without the vectors.)"""
    if isinstance(piece, dict):
        return False
    for name, others in _HOLLOW.items():
        if all(has(piece, each) for each in (name, *others)) and field(piece, name) is None:
            reading.note(says=False)
            return True
    return False


_READERS: Final[tuple[Callable[[Reading, Any], bool], ...]] = (
    chat,
    responses,
    messages,
    gemini,
    converse,
    cohere,
    ollama,
    _framework,
    _message_alone,
    _bare_text,
    _hollow,
)
