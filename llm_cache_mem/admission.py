"""Which answers are worth keeping: whole ones that say something, and that no filter, limit or error cut short.

A whole answer is read as a stream of one piece: each protocol has one reader that notes in a ``_Reading`` what a piece
shows (an answer begins, says something, ends for a reason), and the sum of the notes is the verdict.
"""

import logging
from collections.abc import Callable
from typing import Any, Final, TypeAlias

from llm_cache_mem.foreign import field, has, word

__all__ = ["Admit", "Refusal", "refusal_reason", "resolve"]

_log = logging.getLogger(__name__)

Admit: TypeAlias = "str | Callable[[Any], bool | str | None]"
Refusal: TypeAlias = Callable[[Any], str | None]
"""Why a response is not worth keeping, or None if it is."""


def resolve(admit: Admit) -> Refusal:
    """A rule that never raises, from what ``LLMCache(admit=)`` takes.

    "complete" is ``refusal_reason``, "any" refuses nothing. A function is given the response (of a stream, the list of
    its chunks); True or None keeps it, False refuses it for the reason "admit", a string refuses it for that reason. If
    it raises, the response is refused for "admit-error", and the first time is logged. Else: ValueError.
    """
    if callable(admit):
        return _Function(admit)
    if admit == "complete":
        return refusal_reason
    if admit == "any":
        return lambda response: None
    raise ValueError(f"admit must be 'complete', 'any' or a function of the response, not {admit!r}")


class _Function:
    """A function of the user's, which must not break a call."""

    def __init__(self, function: Callable[[Any], bool | str | None]) -> None:
        self._function = function
        self._complained = False

    def __call__(self, response: Any) -> str | None:
        try:
            verdict = self._function(response)
            if verdict is None or isinstance(verdict, str):
                return verdict
            return None if verdict else "admit"
        except Exception as exc:  # noqa: BLE001 - whatever it raises, the answer is paid for and goes to the caller
            if not self._complained:
                self._complained = True
                _log.warning("admit: the function failed with %s; the response was not stored", type(exc).__name__)
            return "admit-error"


def refusal_reason(response: Any) -> str | None:
    """Why *response* is not worth keeping, or None if it is. Never raises.

    "empty": it says nothing (no text, no tool call, nothing but thoughts), or is None, "", [] or {} altogether.
    "refusal", "content_filter": the model or a filter declined. "truncated": cut at a token limit. "error": it reports
    one, inside a success. "incomplete": it has not ended, by its protocol's own sign, as a stream that broke off.

    *response* is what a provider, an SDK, LangChain or LlamaIndex returns, or a list of stream chunks. Anything else, as
    a decorated function may return, is kept unless it is empty.
    """
    if response is None or (isinstance(response, str | bytes | list | tuple | dict) and not response):
        return "empty"
    if isinstance(response, str):
        return "empty" if response.isspace() else None
    reading = _Reading()
    for piece in response if isinstance(response, list | tuple) else (response,):
        reading.read(piece)
    return reading.verdict()


_STOPS: Final = {
    reason: stop
    for stop, reasons in {
        "truncated": "length max_tokens model_length max_output_tokens model_context_window_exceeded error_limit",
        "content_filter": "content_filter content_filtered guardrail_intervened safety recitation blocklist prohibited_content spii"
        " image_safety image_prohibited_content image_recitation model_armor language error_toxic sensitive",
        "refusal": "refusal",
        "error": "error failed other network_error timeout insufficient_system_resource malformed_function_call malformed_response"
        " malformed_model_output malformed_tool_use unexpected_tool_call too_many_tool_calls missing_thought_signature no_image"
        " image_other",
        "incomplete": "incomplete cancelled user_cancel in_progress queued aborted abort",
    }.items()
    for reason in reasons.split()
}
"""Why a model stopped, in every provider's words -> why that is not worth keeping. What is not here is a normal end, among
them "pause_turn": the answer to that request, which the caller sends back to go on."""

_STOP_FIELDS: Final = ("finish_reason", "stop_reason", "stopReason", "done_reason", "completionReason", "finishReason")
_THOUGHTS: Final = frozenset({"thinking", "redacted_thinking", "reasoning", "reasoning_content"})


class _Reading:
    """What the pieces of one answer have shown so far."""

    __slots__ = ("begun", "ended", "known", "reason", "says")

    def __init__(self) -> None:
        self.known = False
        """Whether a piece had the shape of a protocol."""
        self.says = False
        self.reason: str | None = None
        self.begun: set[Any] = set()
        self.ended: set[Any] = set()

    def read(self, piece: Any) -> None:
        if isinstance(piece, str):
            self.note(says=bool(piece) and not piece.isspace())
        elif piece is not None and not isinstance(piece, int | float | bytes):
            if _is_error(piece):
                self.refuse("error")
            if field(piece, "amazon-bedrock-guardrailAction") == "INTERVENED":
                self.refuse("content_filter")
            any(reader(self, piece) for reader in _READERS)

    def note(self, *, says: bool) -> None:
        """A piece of a known shape, and whether it says something."""
        self.known = True
        self.says = self.says or says

    def refuse(self, reason: str | None) -> None:
        self.known = True
        self.reason = self.reason or reason

    def begin(self, part: Any = 0) -> None:
        self.known = True
        self.begun.add(part)

    def end(self, part: Any = 0, why: Any = None) -> None:
        """*part* has ended, for the reason *why* in the provider's words."""
        self.begin(part)
        self.ended.add(part)
        self.refuse(_STOPS.get(word(why)))

    def end_whole(self, piece: Any, part: Any = 0, *names: str) -> None:
        """*piece* is no chunk: it has ended, unless it says outright that there is no reason to have stopped yet."""
        names = names or _STOP_FIELDS
        why = field(piece, *names)
        if why is None and any(has(piece, name) for name in names):
            self.begin(part)
        else:
            self.end(part, why)

    def verdict(self) -> str | None:
        if not self.known:
            return None
        if self.reason is not None:
            return self.reason
        if self.begun - self.ended:
            return "incomplete"
        return None if self.says else "empty"


# What pieces say


def _text(value: Any) -> bool:
    return isinstance(value, str) and bool(value) and not value.isspace()


def _says(content: Any) -> bool:
    """Whether message content, a string or a list of blocks, says anything but thoughts."""
    return any(map(_block_says, content)) if isinstance(content, list | tuple) else _text(content)


def _block_says(block: Any) -> bool:
    if block is None or isinstance(block, str):
        return _text(block)
    if word(field(block, "type", "block_type")) in _THOUGHTS or field(block, "reasoningContent") is not None:
        return False
    text = field(block, "text")
    return (_text(text) and field(block, "thought") is not True) if isinstance(text, str) else True


def _read_message(reading: _Reading, message: Any) -> None:
    """A message, or the change to one that a chunk brings, in OpenAI's form, which most others share."""
    if message is None:
        return
    acts = any(field(message, name) for name in ("tool_calls", "function_call", "audio", "images"))
    reading.note(says=acts or _says(field(message, "content")))
    refusal = field(message, "refusal") or field(field(message, "additional_kwargs"), "refusal")
    if _text(refusal):
        reading.refuse("refusal")


def _is_error(piece: Any) -> bool:
    error = field(piece, "error")
    if isinstance(error, str):  # Ollama, xAI; beside anything else it may be a field of the application's
        return isinstance(piece, dict) and piece.keys() <= {"error", "code", "status", "message"} and _text(error)
    if error is not None and any(isinstance(field(error, name), str | int) for name in ("message", "type", "code")):
        return True
    return "error" in (field(piece, "type"), field(piece, "object")) and has(piece, "message")


# One reader for each protocol: whether *piece* was of that protocol, having noted what it shows


def _chat(reading: _Reading, piece: Any) -> bool:
    """Chat and text completions of OpenAI and the many that speak like it."""
    choices = field(piece, "choices")
    if not isinstance(choices, list):
        return False
    ours = word(field(piece, "object")).startswith(("chat.completion", "text_completion"))
    for choice in choices:
        message, text = field(choice, "message", "delta"), field(choice, "text")
        if message is None and not isinstance(text, str) and not has(choice, "finish_reason"):
            continue
        ours = True
        index = _index(choice)
        why = field(choice, "finish_reason")
        reading.begin(index)
        reading.note(says=_text(text))
        _read_message(reading, message)
        if _is_error(choice):
            reading.refuse("error")
        if why is not None:
            reading.end(index, why)
        elif field(choice, "message") is not None:
            reading.end_whole(choice, index, "finish_reason")
    reading.known = reading.known or ours
    return ours


def _responses(reading: _Reading, piece: Any) -> bool:
    """OpenAI's Responses, whole and as events."""
    kind = field(piece, "type")
    if field(piece, "object") == "response":
        _read_response(reading, piece)
    elif isinstance(kind, str) and kind.startswith("response."):
        reading.begin()
        if kind in {"response.completed", "response.incomplete", "response.failed"}:
            _read_response(reading, field(piece, "response"))
        elif kind == "response.output_item.done":
            _read_output(reading, [field(piece, "item")])
    else:
        return False
    return True


def _read_response(reading: _Reading, response: Any) -> None:
    status = word(field(response, "status")) or "completed"
    reading.begin()
    if field(response, "error") is not None:
        reading.refuse("error")
    reading.refuse(_STOPS.get(word(field(field(response, "incomplete_details"), "reason"))))
    if status not in {"in_progress", "queued"}:
        reading.end(why=status)
    _read_output(reading, field(response, "output"))


def _read_output(reading: _Reading, output: Any) -> None:
    for item in output if isinstance(output, list) else []:
        if field(item, "type") == "message":
            content = field(item, "content")
            reading.note(says=_says(content))
            if isinstance(content, list) and any(field(part, "type") == "refusal" for part in content):
                reading.refuse("refusal")
        else:
            reading.note(says=_block_says(item))


_MESSAGES_EVENTS: Final = frozenset(
    {"message_start", "message_delta", "message_stop", "content_block_start", "content_block_delta", "content_block_stop"}
)


def _messages(reading: _Reading, piece: Any) -> bool:
    """Anthropic's Messages, whole and as events."""
    kind = field(piece, "type")
    if kind == "message" and field(piece, "role") == "assistant":
        reading.note(says=_says(field(piece, "content")))
        reading.end_whole(piece, 0, "stop_reason")
        return True
    if not isinstance(kind, str) or kind not in _MESSAGES_EVENTS:
        return False
    reading.begin()
    delta = field(piece, "delta")
    if kind == "content_block_start":
        reading.note(says=_block_says(field(piece, "content_block")))
    elif kind == "content_block_delta":
        reading.note(says=_text(field(delta, "text")))
    elif kind == "message_delta":
        reading.refuse(_STOPS.get(word(field(delta, "stop_reason"))))
    elif kind == "message_stop":
        reading.end()
    return True


def _gemini(reading: _Reading, piece: Any) -> bool:
    """Gemini's generateContent; a chunk of its stream looks like an answer, and only one without a reason is not the end."""
    candidates = field(piece, "candidates")
    feedback = field(piece, "promptFeedback", "prompt_feedback")
    named = isinstance(candidates, list) and any(has(c, "finishReason") or has(c, "finish_reason") or has(c, "content") for c in candidates)
    if feedback is None and not named and not (has(piece, "modelVersion") or has(piece, "model_version")):
        return False
    reading.known = True
    if field(feedback, "blockReason", "block_reason") is not None:
        reading.refuse("content_filter")
    for candidate in candidates if isinstance(candidates, list) else []:
        index = _index(candidate)
        reading.begin(index)
        reading.note(says=_says(field(field(candidate, "content"), "parts")))
        if (why := field(candidate, "finishReason", "finish_reason")) is not None:
            reading.end(index, why)
    return True


def _converse(reading: _Reading, piece: Any) -> bool:
    """Bedrock's Converse, whole and as events; Nova's native form is the same."""
    message = field(field(piece, "output"), "message")
    if message is not None and has(piece, "stopReason"):
        reading.note(says=_says(field(message, "content")))
        reading.end_whole(piece)
        return True
    if not isinstance(piece, dict) or len(piece) != 1:
        return False
    ((kind, event),) = piece.items()
    if not isinstance(kind, str):
        return False
    if kind in {"messageStart", "contentBlockStart", "contentBlockDelta", "contentBlockStop", "messageStop"}:
        reading.begin()
        reading.note(says=field(event, "start") is not None or _text(field(field(event, "delta"), "text")))
        if kind == "messageStop":
            reading.end(why=field(event, "stopReason"))
    elif kind.endswith("Exception"):
        reading.refuse("error")
    else:
        return False
    return True


def _cohere_events(reading: _Reading, piece: Any) -> bool:
    """The streams of Cohere's second and first API."""
    kind = field(piece, "type", "event_type")
    if not isinstance(kind, str):
        return False
    delta = field(piece, "delta")
    if kind == "message-end":
        reading.end(why=field(delta, "finish_reason"))
    elif kind == "stream-end":
        reading.end(why=field(piece, "finish_reason"))
    elif kind in {"message-start", "stream-start", "text-generation", "content-start", "content-delta", "content-end"}:
        reading.begin()
        reading.note(says=_text(field(piece, "text")) or _block_says(field(field(delta, "message"), "content") or ""))
    elif kind in {"tool-call-start", "tool-calls-generation"}:
        reading.begin()
        reading.note(says=True)
    else:
        return False
    return True


def _ollama(reading: _Reading, piece: Any) -> bool:
    done, message, text = field(piece, "done"), field(piece, "message"), field(piece, "response")
    if not isinstance(done, bool) or not isinstance(field(piece, "model"), str) or (message is None and text is None):
        return False
    reading.begin()
    reading.note(says=_text(text))
    _read_message(reading, message)
    if done:
        reading.end(why=field(piece, "done_reason"))
    return True


def _framework(reading: _Reading, piece: Any) -> bool:
    """LangChain's messages, generations and results, LlamaIndex's responses: whole, or chunks that their framework ends."""
    generations = field(piece, "generations")
    if isinstance(generations, list) and has(piece, "llm_output"):
        for generation in generations:
            for one in generation if isinstance(generation, list) else [generation]:
                _framework(reading, one)
        return True
    info = field(piece, "response_metadata", "generation_info")
    if not (has(piece, "response_metadata") or has(piece, "generation_info") or (has(piece, "raw") and has(piece, "additional_kwargs"))):
        return False
    message = field(piece, "message")
    if message is not None:
        _framework(reading, message)
    if has(piece, "content") or message is not None:
        _read_message(reading, piece if message is None else message)
    reading.note(says=_text(field(piece, "text")))
    for told in (info, field(piece, "raw")):
        _read_stop(reading, told)
    return True


def _read_stop(reading: _Reading, told: Any) -> None:
    """Only the reason to stop, from what a framework hands on of the provider's answer."""
    if told is None:
        return
    if field(field(told, "prompt_feedback"), "block_reason"):
        reading.refuse("content_filter")
    reading.refuse(_STOPS.get(word(field(field(told, "incomplete_details"), "reason"))))
    reading.refuse(_STOPS.get(word(field(told, *_STOP_FIELDS, "status"))))
    inner = _Reading()
    any(reader(inner, told) for reader in _READERS if reader is not _framework)
    reading.refuse(inner.reason)


def _message(reading: _Reading, piece: Any) -> bool:
    """An assistant's message by itself, or as Cohere wraps it."""
    inner = field(piece, "message")
    message = piece if word(field(piece, "role")) == "assistant" else inner if word(field(inner, "role")) == "assistant" else None
    if message is None:
        return False
    _read_message(reading, message)
    _read_stop_here(reading, piece)
    return True


def _bare_text(reading: _Reading, piece: Any) -> bool:
    """Text beside a reason to stop, as Titan, Llama, Mistral and Cohere write it, alone or in a list."""
    entries = field(piece, "results", "outputs", "generations")
    found = False
    for index, entry in enumerate(entries if isinstance(entries, list) else [piece]):
        text = field(entry, "outputText", "generation", "text")
        if not any(has(entry, name) for name in _STOP_FIELDS):
            continue
        found = True
        if isinstance(text, str):
            reading.note(says=_text(text))
        else:
            reading.note(says=True)  # whatever this is, it may say something
        reading.end_whole(entry, index)
    return found


def _read_stop_here(reading: _Reading, piece: Any) -> None:
    reading.refuse(_STOPS.get(word(field(piece, *_STOP_FIELDS))))


def _index(part: Any) -> int:
    index = field(part, "index")
    return index if isinstance(index, int) else 0


_READERS: Final = (_chat, _responses, _messages, _gemini, _converse, _cohere_events, _ollama, _framework, _message, _bare_text)
