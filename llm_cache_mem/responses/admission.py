"""Which answers are worth keeping: whole ones that say something, and that no filter, limit or
error cut short."""

import logging
from collections.abc import Callable
from typing import Any, Final, TypeAlias

from llm_cache_mem.responses.completeness import read_piece
from llm_cache_mem.responses.reading import Pieces, Reading
from llm_cache_mem.responses.usage import Report

__all__ = ["Admit", "Refusal", "refusal_reason", "resolve"]

_log = logging.getLogger(__name__)


Admit: TypeAlias = "str | Callable[[Any], bool | str | None]"
Refusal: TypeAlias = Callable[[Any], str | None]
"""Why a response is not worth keeping, or None if it is."""

_WORDS: Final = {
    "error": (
        "error failed other network_error timeout insufficient_system_resource"
        " unexpected_tool_call too_many_tool_calls missing_thought_signature no_image image_other"
    ),
    "refusal": "refusal",
    "content_filter": (
        "content_filter content_filtered guardrail_intervened safety recitation blocklist"
        " prohibited_content spii image_safety image_prohibited_content image_recitation"
        " model_armor language error_toxic sensitive"
    ),
    "truncated": (
        "length max_tokens model_length max_output_tokens model_context_window_exceeded error_limit"
    ),
    "incomplete": "incomplete cancelled user_cancel aborted abort",
    "malformed": (
        "malformed malformed_function_call malformed_response malformed_model_output"
        " malformed_tool_use"
    ),
}
"""The reasons for refusing, worst first, and the words of all providers for them. A word that is
not here is a normal end, among them "pause_turn": that is the answer to its request, and the caller
sends it back to go on."""
_REASONS: Final = {word: reason for reason, words in _WORDS.items() for word in words.split()}


def resolve(admit: Admit) -> Refusal:
    """A rule that never raises, from what ``LLMCache(admit=)`` takes.

    "complete" is ``refusal_reason``, "any" refuses nothing. A function is given the response (of a
    stream, the list of its chunks); True or None keeps it, False refuses it for the reason "admit",
    a string refuses it for that reason. If it raises, the response is refused for "admit-error",
    and the first time is logged. Else: ValueError.
    """
    if callable(admit):
        return _Function(admit)
    if admit == "complete":
        return refusal_reason
    if admit == "any":
        return lambda response: None
    raise ValueError(
        f"admit must be 'complete', 'any' or a function of the response, not {admit!r}"
    )


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
                _log.warning(
                    "admit: the function failed with %s; the response was not stored",
                    type(exc).__name__,
                )
            return "admit-error"


def refusal_reason(response: Any) -> str | None:
    """Why *response* is not worth keeping, or None if it is. Never raises.

    "empty": it says nothing (no text, no tool call, nothing but thoughts), or is None, "", [] or {}
    altogether. "refusal", "content_filter": the model or a filter declined. "truncated": cut at a
    token limit. "error": it reports one, inside a success. "incomplete": it has not ended, by its
    protocol's own sign, as a stream that broke off. "malformed": the arguments of a
    tool call are not JSON.

    *response* is what a provider, an SDK, LangChain or LlamaIndex returns, or a list of stream
    chunks. Anything else, as a decorated function may return, is stored unless it is empty.
    """
    if isinstance(response, Report):
        return response.refused
    if response is None or (
        isinstance(response, str | bytes | list | tuple | dict) and not response
    ):
        return "empty"
    reading = _read(response)
    if not reading.known:
        return None
    found = {_REASONS.get(stop) for stop in reading.stops}
    for reason in _WORDS:
        if reason in found:
            return reason
    if reading.open:
        return "incomplete"
    if reading.arguments.malformed:
        return "malformed"
    return None if reading.says else "empty"


def _read(response: Any) -> Reading:
    if isinstance(response, Pieces):
        return response.reading
    reading = Reading()
    for piece in response if isinstance(response, list | tuple) else (response,):
        read_piece(reading, piece)
    return reading
