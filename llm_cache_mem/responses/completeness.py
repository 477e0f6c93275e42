"""What an answer shows of itself, in every provider's protocol: whether it says something, why it
stopped, whether it ended.

A whole answer is read as a stream of one piece. Each protocol has one reader here, which looks at
one piece; fields decide, never classes, so that JSON and the objects of an SDK read the same. A
reader must leave alone what merely resembles its protocol: an application's own
``Quiz(choices=[...])`` or ``Task(done=False)``.
"""

from collections.abc import Sequence
from typing import Any, Final

from llm_cache_mem.responses.fields import field, given, has, listed, word
from llm_cache_mem.responses.tool_arguments import ToolArguments

__all__ = ["Pieces", "Reading"]

_STOP_FIELDS: Final = (
    "finish_reason",
    "stop_reason",
    "stopReason",
    "done_reason",
    "completionReason",
    "finishReason",
)
_TELLING: Final = frozenset(
    {"openai", "anthropic"}
)  # LangChain's name of who says why with the last piece of every answer
_THOUGHTS: Final = frozenset({"thinking", "redacted_thinking", "reasoning", "reasoning_content"})
_MESSAGES_EVENTS: Final = frozenset(
    {
        "message_start",
        "message_delta",
        "message_stop",
        "content_block_start",
        "content_block_delta",
        "content_block_stop",
    }
)
_CONVERSE_EVENTS: Final = frozenset(
    {"messageStart", "contentBlockStart", "contentBlockDelta", "contentBlockStop", "messageStop"}
)
_COHERE_EVENTS: Final = frozenset(
    {
        "message-start",
        "content-start",
        "content-delta",
        "content-end",
        "tool-plan-delta",
        "tool-call-start",
        "tool-call-delta",
    }
    | {
        "tool-call-end",
        "message-end",
        "stream-start",
        "text-generation",
        "tool-calls-generation",
        "stream-end",
    }
)


class Reading:
    """What the pieces of one answer, read in order, have shown so far."""

    __slots__ = ("_begun", "_ended", "arguments", "known", "says", "stops")

    def __init__(self) -> None:
        self.known = False
        """Whether any piece had the shape of a protocol."""
        self.says = False
        """Whether there is an answer in it: text that is not blank, a call of a tool, an image;
        thoughts alone are none."""
        self.stops: set[str] = set()
        """Why it stopped, in the provider's words and lower case; also "error", "refusal",
        "content_filter" and "malformed" seen otherwise."""
        self.arguments = ToolArguments()
        """What it passes to the tools that it calls."""
        self._begun: set[int] = set()
        self._ended: set[int] = set()

    @property
    def open(self) -> bool:
        """Whether a part of it (a choice, a candidate, the message) has begun and not ended."""
        return not self._begun <= self._ended

    def read(self, piece: Any) -> None:
        """Take in the next piece; one of no known shape shows nothing. Never raises."""
        if isinstance(piece, str):
            self.note(says=_text(piece))
        elif piece is not None and not isinstance(piece, int | float | bytes):
            if _is_error(piece):
                self.stop("error")
            if field(piece, "amazon-bedrock-guardrailAction") == "INTERVENED":
                self.stop("content_filter")
            for reader in _READERS:
                if reader(self, piece):
                    break

    def note(self, *, says: bool) -> None:
        self.known = True
        self.says = self.says or says

    def stop(self, why: Any) -> None:
        self.known = True
        if found := word(why):
            self.stops.add(found)

    def begin(self, part: int = 0) -> None:
        self.known = True
        self._begun.add(part)

    def end(self, why: Any, part: int = 0) -> None:
        self.begin(part)
        self._ended.add(part)
        self.stop(why)

    def end_whole(self, piece: Any, *names: str, part: int = 0) -> None:
        """*piece* is no chunk, so it has ended, unless one of *names* is there to say why and says
        nothing."""
        why = field(piece, *names)
        if why is None and any(given(piece, name) for name in names):
            self.begin(part)
        else:
            self.end(why, part)


class Pieces(list[Any]):
    """The pieces of an answer together with the *reading* that was made of them as they came, so
    that they need not be read again."""

    def __init__(self, pieces: list[Any], reading: Reading) -> None:
        super().__init__(pieces)
        self.reading = reading


def _text(value: Any) -> bool:
    return isinstance(value, str) and bool(value) and not value.isspace()


def _says(content: Any) -> bool:
    """Whether message content, a string or a list of blocks, says anything but thoughts."""
    return any(map(_block_says, content)) if isinstance(content, list | tuple) else _text(content)


def _block_says(block: Any) -> bool:
    if block is None or isinstance(block, str):
        return _text(block)
    if (
        word(field(block, "type", "block_type")) in _THOUGHTS
        or field(block, "reasoningContent") is not None
    ):
        return False
    text = field(block, "text")
    return (_text(text) and field(block, "thought") is not True) if isinstance(text, str) else True


def _read_content(reading: Reading, content: Any) -> None:
    """Message content, a string or a list of blocks. LangChain puts blocks that it has no form for
    into one of type "non_standard"."""
    reading.note(says=_says(content))
    for block in listed(content):
        kind = word(field(block, "type"))
        if kind == "non_standard":
            kind = word(field(field(block, "value"), "type"))
        if kind == "refusal":
            reading.stop("refusal")
        elif kind == "invalid_tool_call":
            reading.stop("malformed")


def _is_error(piece: Any) -> bool:
    error = field(piece, "error")
    if isinstance(
        error, str
    ):  # Ollama, xAI; beside anything else it may be a field of the application's
        return (
            isinstance(piece, dict)
            and piece.keys() <= {"error", "code", "status", "message"}
            and _text(error)
        )
    if error is not None and any(
        isinstance(field(error, name), str | int) for name in ("message", "type", "code")
    ):
        return True
    kinds = (field(piece, "type"), field(piece, "object"))
    return any(isinstance(kind, str) and kind == "error" for kind in kinds) and has(
        piece, "message"
    )


def _index(part: Any) -> int:
    index = field(part, "index")
    return int(index) if isinstance(index, int | float) and abs(index) < 1 << 31 else 0


def _read_message(reading: Reading, message: Any, choice: int = 0) -> None:
    """The message of a *choice*, or the change to one that a chunk brings, in OpenAI's form, which
    most others share."""
    if message is None:
        return
    acts = any(
        isinstance(field(message, name), list | dict) and field(message, name)
        for name in ("tool_calls", "images")
    )
    acts = acts or any(
        has(field(message, name), inner)
        for name, inner in (("function_call", "name"), ("audio", "id"))
    )
    blocks = field(message, "blocks")  # LlamaIndex, which has only the text of them as content
    reading.note(says=acts or _says(blocks))
    _read_content(reading, field(message, "content"))
    _read_calls(reading, message, choice)
    if _text(field(message, "refusal")) or _text(
        field(field(message, "additional_kwargs"), "refusal")
    ):
        reading.stop("refusal")


def _read_calls(reading: Reading, message: Any, choice: int) -> None:
    """The arguments of the tool calls in *message*."""
    for place, call in enumerate(listed(field(message, "tool_calls"))):
        index = field(call, "index")
        arguments = field(field(call, "function"), "arguments")
        reading.arguments.add(choice, place if index is None else index, arguments)
    reading.arguments.add(choice, -1, field(field(message, "function_call"), "arguments"))
    if word(field(message, "type")) != "aimessagechunk":
        if listed(field(message, "invalid_tool_calls")):
            reading.stop("malformed")
        return
    # of a chunk of LangChain's, invalid_tool_calls are those of which it holds but a piece
    for call in listed(field(message, "tool_call_chunks")):
        reading.arguments.add(choice, field(call, "index"), field(call, "args"))


# The readers: whether *piece* is of the protocol, having noted what it shows


def _chat(reading: Reading, piece: Any) -> bool:
    """Chat and text completions of OpenAI and the many that speak like it."""
    choices = field(piece, "choices")
    if not isinstance(choices, list):
        return False
    # Azure begins a stream with a chunk that names nothing and has no choices
    ours = isinstance(field(piece, "object"), str) and isinstance(field(piece, "model"), str)
    reading.known = reading.known or ours
    for choice in choices:
        message, text = field(choice, "message", "delta"), field(choice, "text")
        if message is None and not isinstance(text, str) and not has(choice, "finish_reason"):
            continue  # not a choice of a completion
        ours = True
        part, why = (
            _index(choice),
            field(choice, "finish_reason") or field(field(choice, "finish_details"), "type"),
        )
        reading.begin(part)
        reading.note(says=_text(text))
        _read_message(reading, message, part)
        if _is_error(choice):
            reading.stop("error")
        if why is not None:
            reading.end(why, part)
        elif field(choice, "message") is not None:
            reading.end_whole(choice, "finish_reason", part=part)
    return ours


def _responses(reading: Reading, piece: Any) -> bool:
    """OpenAI's Responses, whole and as events."""
    kind = word(field(piece, "type"))
    if word(field(piece, "object")) == "response":
        _read_response(reading, piece)
    elif kind.startswith("response."):
        reading.begin()
        if kind in {"response.completed", "response.incomplete", "response.failed"}:
            _read_response(reading, field(piece, "response"))
        elif kind == "response.output_item.done":
            _read_output(reading, [field(piece, "item")])
        elif kind.startswith("response.refusal."):
            reading.stop("refusal")
    else:
        return False
    return True


def _read_response(reading: Reading, response: Any) -> None:
    status = word(field(response, "status"))
    reading.begin()
    if field(response, "error") is not None:
        reading.stop("error")
    reading.stop(field(field(response, "incomplete_details"), "reason"))
    if status not in {"in_progress", "queued"}:
        reading.end(status)
    _read_output(reading, listed(field(response, "output")))


def _read_output(reading: Reading, items: list[Any]) -> None:
    for item in items:
        kind = word(field(item, "type"))
        if kind == "message":
            _read_content(reading, field(item, "content"))
            continue
        reading.note(says=_block_says(item))
        if kind == "function_call":
            reading.arguments.add(0, 0, field(item, "arguments"))


def _messages(reading: Reading, piece: Any) -> bool:
    """Anthropic's Messages, whole and as events."""
    kind = word(field(piece, "type"))
    if kind == "message" and word(field(piece, "role")) == "assistant":
        _read_content(reading, field(piece, "content"))
        reading.end_whole(piece, "stop_reason")
        return True
    if kind not in _MESSAGES_EVENTS:
        return False
    reading.begin()
    delta = field(piece, "delta")
    if kind == "content_block_start":
        reading.note(says=_block_says(field(piece, "content_block")))
    elif kind == "content_block_delta":
        reading.note(says=_text(field(delta, "text")))
        reading.arguments.add(0, field(piece, "index"), field(delta, "partial_json"))
    elif kind == "message_delta":
        reading.stop(field(delta, "stop_reason"))
    elif kind == "message_stop":
        reading.end(None)
    return True


def _gemini(reading: Reading, piece: Any) -> bool:
    """Gemini's generateContent. A chunk of its stream looks like an answer, so only a reason to
    finish is an end."""
    candidates = [
        c
        for c in listed(field(piece, "candidates"))
        if has(c, "finishReason") or has(c, "finish_reason") or has(c, "content")
    ]
    blocked = word(
        field(field(piece, "promptFeedback", "prompt_feedback"), "blockReason", "block_reason")
    )
    version = field(piece, "modelVersion", "model_version")
    if (
        not candidates
        and not blocked
        and not (isinstance(version, str) and has(piece, "candidates"))
    ):
        return False
    reading.known = True
    if blocked:
        reading.stop("content_filter")
    for candidate in candidates:
        part, why = _index(candidate), field(candidate, "finishReason", "finish_reason")
        reading.begin(part)
        reading.note(says=_says(field(field(candidate, "content"), "parts")))
        if why is not None:
            reading.end(why, part)
    return True


def _converse(reading: Reading, piece: Any) -> bool:
    """Bedrock's Converse, whole and as events, which boto3 gives as plain dicts; Nova's own form is
    the same."""
    if not isinstance(piece, dict):
        return False
    message = field(piece.get("output"), "message")
    if message is not None and "stopReason" in piece:
        reading.note(says=_says(field(message, "content")))
        reading.end_whole(piece, "stopReason")
        return True
    kind, event = next(iter(piece.items())) if len(piece) == 1 else ("", None)
    if kind in _CONVERSE_EVENTS:
        reading.begin()
        delta = field(event, "delta")
        reading.note(says=has(event, "start") or _text(field(delta, "text")))
        arguments = field(field(delta, "toolUse"), "input")
        reading.arguments.add(0, field(event, "contentBlockIndex"), arguments)
        if kind == "messageStop":
            reading.end(field(event, "stopReason"))
    elif isinstance(kind, str) and kind.endswith("Exception") and has(event, "message"):
        reading.stop("error")
    else:
        return False
    return True


def _cohere(reading: Reading, piece: Any) -> bool:
    """The streams of Cohere's second and first API."""
    kind = word(field(piece, "type", "event_type"))
    if kind not in _COHERE_EVENTS:
        return False
    delta = field(piece, "delta")
    reading.begin()
    reading.note(
        says=kind in {"tool-call-start", "tool-calls-generation"} or _text(field(piece, "text"))
    )
    call = field(field(delta, "message"), "tool_calls")
    reading.arguments.add(0, field(piece, "index"), field(field(call, "function"), "arguments"))
    if kind.startswith("content-"):
        reading.note(says=_block_says(field(field(delta, "message"), "content") or ""))
    if kind in {"message-end", "stream-end"}:
        reading.end(field(piece, "finish_reason") or field(delta, "finish_reason"))
    return True


def _ollama(reading: Reading, piece: Any) -> bool:
    done, message, text = field(piece, "done"), field(piece, "message"), field(piece, "response")
    if not isinstance(done, bool) or not isinstance(field(piece, "model"), str):
        return False
    if not has(message, "content") and not isinstance(text, str):
        return False
    reading.begin()
    reading.note(says=_text(text))
    _read_message(reading, message)
    if done:
        reading.end(field(piece, "done_reason"))
    return True


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
    reading.note(says=_text(text))
    _read_message(reading, message if message is not None else piece)
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
        why = field(source, *_STOP_FIELDS, "status")
        if why is not None:
            reading.end(why)


def _read_stop(reading: Reading, source: Any) -> None:
    """Only the reason to stop, from what a framework hands on of the provider's answer."""
    if word(field(field(source, "prompt_feedback"), "block_reason")):
        reading.stop("content_filter")
    reading.stop(field(field(source, "incomplete_details"), "reason"))
    reading.stop(field(source, *_STOP_FIELDS, "status"))
    whole = Reading()
    whole.arguments = reading.arguments  # of a stream, each piece has the provider's own
    for reader in _READERS:
        if reader is not _framework and reader(whole, source):
            break
    reading.stops |= whole.stops


def _message(reading: Reading, piece: Any) -> bool:
    """An assistant's message by itself, or as Cohere wraps it."""
    wrapped = field(piece, "message")
    for message in (piece, wrapped):
        if word(field(message, "role")) == "assistant":
            _read_message(reading, message)
            reading.stop(field(piece, *_STOP_FIELDS))
            return True
    return False


def _bare_text(reading: Reading, piece: Any) -> bool:
    """Text beside a reason to stop, as Titan, Llama, Mistral and Cohere write it, alone or in a
    list."""
    found = False
    for part, entry in enumerate(
        listed(field(piece, "results", "outputs", "generations")) or [piece]
    ):
        text, why = field(entry, "outputText", "generation", "text"), field(entry, *_STOP_FIELDS)
        if isinstance(text, str) and any(has(entry, name) for name in _STOP_FIELDS):
            reading.note(says=_text(text))
            reading.end_whole(entry, *_STOP_FIELDS, part=part)
        elif word(why):
            reading.note(
                says=True
            )  # an answer of a shape not known, of which only the end can be judged
            reading.stop(why)
        else:
            continue
        found = True
    return found


_READERS: Final = (
    _chat,
    _responses,
    _messages,
    _gemini,
    _converse,
    _cohere,
    _ollama,
    _framework,
    _message,
    _bare_text,
)
