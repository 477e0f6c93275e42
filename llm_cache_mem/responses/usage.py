"""How many tokens an answer took and which model gave it, read from whatever a provider, an SDK or
a framework returns.

The counts of one answer stand in one *usage* object, under names that differ by provider but never
contradict one another, so one table of names reads them all. What does differ in meaning is whether
the input count includes the tokens of the provider's own prompt cache: Anthropic and Bedrock count
those beside it, everyone else within it.
"""

from collections.abc import Sequence
from typing import Any, Final, NamedTuple

from llm_cache_mem.responses.fields import field, listed

__all__ = ["Usage", "identify", "read_id", "read_model", "read_usage"]


class Usage(NamedTuple):
    """Tokens of one call. ``input_tokens`` is everything that went in, cached or not; the cache
    counts are parts of it."""

    input_tokens: int
    output_tokens: int
    cache_read_tokens: int = 0
    cache_write_tokens: int = 0
    """Written to the provider's prompt cache, whatever the lifetime."""
    cache_write_1h_tokens: int = 0
    """The part of ``cache_write_tokens`` written to be kept for an hour, which costs more."""


_MOST: Final = (
    10**12
)  # no call takes more tokens; a larger number is damage, and could overflow a column or a float
# how deep a usage object lies at most: LlamaIndex response -> Responses event -> response
_DEPTH: Final = 3


class Report(NamedTuple):
    """An answer in this library's own terms: whether to store it, and what it took.

    An integration whose answers are objects of a framework returns one from *report* of
    ``cache.engine.call``; admission, usage and prices then read the report and not the object.

    Args:
        refused: Why the answer is not worth storing, a key of ``stats().skipped`` such as
            ``"truncated"`` or ``"refusal"``; None if it is complete.
        usage: The tokens that the call took; None if unknown.
        model: The name of the model that answered; None if unknown.
    """

    refused: str | None = None
    usage: Usage | None = None
    model: str | None = None


# What the providers call each count.
_NAMES: Final = {
    "input": (
        "prompt_tokens", "input_tokens", "promptTokenCount", "prompt_token_count", "inputTokens",
        "inputTokenCount",
        "prompt_eval_count", "inputTextTokenCount",
    ),
    "tool_input": ("toolUsePromptTokenCount", "tool_use_prompt_token_count"),
    "output": (
        "completion_tokens", "output_tokens", "candidatesTokenCount", "candidates_token_count",
        "outputTokens", "outputTokenCount",
        "eval_count", "totalOutputTextTokenCount", "generation_token_count",
    ),
    "thoughts": ("thoughtsTokenCount", "thoughts_token_count"),
    "total": ("total_tokens",),
    "read": (
        "cached_tokens", "cache_read", "prompt_cache_hit_tokens", "num_cached_tokens",
        "cachedContentTokenCount",
        "cached_content_token_count", "cache_read_input_tokens", "cacheReadInputTokens",
        "cacheReadInputTokenCount",
    ),
    "write": (
        "cache_write_tokens", "cache_creation_input_tokens", "cacheWriteInputTokens",
        "cacheWriteInputTokenCount",
    ),
    "write_5m": ("ephemeral_5m_input_tokens",),
    "write_1h": ("ephemeral_1h_input_tokens",),
    "nested": ("prompt_tokens_details", "input_tokens_details", "input_token_details",
    "cache_creation"),
    "by_ttl": ("cacheDetails",),
}  # fmt: skip
_SLOTS: Final = {name: slot for slot, names in _NAMES.items() for name in names}
_BESIDE: Final = frozenset(
    name
    for name in _SLOTS
    if name.startswith(("cache_read_", "cache_creation_", "cacheRead", "cacheWrite"))
)
_USAGE: Final = ("usage", "usageMetadata", "usage_metadata")
_HOLDERS: Final = (
    "response",
    "message",
    "delta",
    "metadata",
    "x_groq",
    "raw",
    "response_metadata",
    "llm_output",
)
_OWN_COUNTS: Final = (
    "eval_count",
    "prompt_eval_count",
    "inputTextTokenCount",
    "generation_token_count",
)
_MODEL: Final = ("model", "modelVersion", "model_version", "model_name")
_MODEL_HOLDERS: Final = ("response", "message", "raw", "response_metadata", "llm_output")


def read_usage(response: Any) -> Usage | None:
    """The tokens that *response* says it took, or None where it does not say.

    *response* is a provider's JSON as a dict, an SDK's object, a LangChain or LlamaIndex message or
      generation, or a list
    of any of these. A list is read as one answer: the chunks of a stream, or the generations of one
    call, each of which repeats the counts of the call. Never raises; a count that is no plausible
    number is left out.
    """
    if isinstance(response, Report):
        return response.usage
    counts = _UsageCounts()
    if isinstance(response, (list, tuple)):
        for piece in response:
            if _is_langchain_chunk(piece):  # the only stream whose chunks each count their own part
                counts.add(_counts_of(piece))
            else:
                _read(counts, piece, _DEPTH)
    else:
        _read(counts, response, _DEPTH)
    return counts.usage()


def read_model(response: Any) -> str | None:
    """The name of the model that answered, as *response* gives it, or None. Takes what
    ``read_usage`` takes; never raises."""
    if isinstance(response, Report):
        return response.model
    return next((model for piece in _pieces(response) if (model := _model(piece, _DEPTH))), None)


def read_id(response: Any) -> str | None:
    """The provider's own id of the answer, or None. Takes what ``read_usage`` takes; never
    raises."""
    return next((identity for piece in _pieces(response) if (identity := _id(piece, _DEPTH))), None)


def identify(response: Any) -> str:
    """What tells this answer from others while it is in memory: the provider's id, or else the
    object."""
    return read_id(response) or f"object {id(response)}"


class _UsageCounts:
    """Counts that the pieces of one answer report, by slot. Each report is a running total, so the
    last one stands."""

    __slots__ = ("beside", "counts")

    def __init__(self) -> None:
        self.counts: dict[str, int] = {}
        self.beside: bool | None = None
        """Whether the input count leaves out the cached tokens; None until a name has told."""

    def report(self, usage: Any) -> None:
        """Take in a usage object of any provider; what it does not mention, or puts at 0, stays as
        it was."""
        counts: dict[str, int] = {}
        self._collect(usage, counts)
        self.counts |= counts

    def _collect(self, usage: Any, counts: dict[str, int], *, within: bool = False) -> None:
        """Put the counts of a usage object, or of the details *within* it, into *counts*; of two
        names for one, the larger."""
        entries = (
            usage.items()
            if isinstance(usage, dict)
            else [(name, field(usage, name)) for name in _SLOTS]
        )
        for name, value in entries:
            slot = _SLOTS.get(name)
            if slot is None or value is None:
                continue
            if slot == "nested" and not isinstance(value, int):
                if not within:
                    self._collect(value, counts, within=True)
                continue
            if slot == "by_ttl":
                slot, value = (
                    "write_1h",
                    sum(
                        _count(field(entry, "inputTokens"))
                        for entry in listed(value)
                        if field(entry, "ttl") == "1h"
                    ),
                )
            elif slot == "nested":  # LangChain's cache_creation is a count, Anthropic's an object
                slot = "write"
            if (count := _count(value)) > counts.get(slot, 0):
                counts[slot] = count
            if (
                name == "prompt_tokens"
            ):  # LiteLLM adds Anthropic's names to OpenAI's inclusive count
                self.beside = False
            elif name in _BESIDE and self.beside is None:
                self.beside = True

    def add(self, other: "_UsageCounts") -> None:
        for slot, count in other.counts.items():
            self.counts[slot] = self.counts.get(slot, 0) + count

    def usage(self) -> Usage | None:
        if not self.counts:
            return None
        get = self.counts.get
        read, hour = get("read", 0), get("write_1h", 0)
        write = max(
            get("write", 0), hour + get("write_5m", 0)
        )  # LangChain zeroes the sum when it gives the parts
        input_tokens = get("input", 0) + get("tool_input", 0)
        output_tokens = get("output", 0) + get("thoughts", 0)
        if not input_tokens and not output_tokens:
            input_tokens = get("total", 0)  # embeddings at Voyage
        if (
            self.beside or read + write > input_tokens
        ):  # xAI's models on Azure report more cached than went in
            input_tokens += read + write
        if not input_tokens and not output_tokens:  # what servers say that do not count
            return None
        return Usage(input_tokens, output_tokens, read, write, hour)


def _pieces(response: Any) -> Sequence[Any]:
    return response if isinstance(response, (list, tuple)) else (response,)


def _read(counts: _UsageCounts, piece: Any, depth: int) -> None:
    """Find the usage objects in *piece* and report them."""
    if piece is None or isinstance(piece, str | bytes | int | float):
        return
    usage = field(piece, *_USAGE)
    if usage is None and field(piece, *_OWN_COUNTS) is not None:
        usage = piece  # Ollama, and Titan and Llama on Bedrock, put the counts beside the answer
        for result in listed(field(piece, "results")):
            counts.report({"output_tokens": field(result, "tokenCount")})
    if usage is None:
        usage = field(piece, "token_usage", "meta")
    if (
        usage is None and not counts.counts
    ):  # Bedrock's own count of a stream, which need not agree with the model's
        usage = field(piece, "amazon-bedrock-invocationMetrics")
    if usage is not None:
        # Cohere reports tokens and, fewer, those that it bills; its cached ones are no part of the
        # latter
        counts.report(field(usage, "billed_units") or usage)
    elif depth:
        for name in _HOLDERS:
            if (holder := field(piece, name)) is not None:
                _read(counts, holder, depth - 1)


def _counts_of(piece: Any) -> _UsageCounts:
    counts = _UsageCounts()
    _read(counts, piece, _DEPTH)
    return counts


def _is_langchain_chunk(piece: Any) -> bool:
    return (
        not isinstance(piece, dict)
        and field(field(piece, "message") or piece, "type") == "AIMessageChunk"
    )


def _model(piece: Any, depth: int) -> str | None:
    model = field(piece, *_MODEL)
    if isinstance(model, str) and 0 < len(model) <= 256:
        return model
    if depth and piece is not None and not isinstance(piece, str):
        for name in _MODEL_HOLDERS:
            if found := _model(field(piece, name), depth - 1):
                return found
    return None


def _id(piece: Any, depth: int) -> str | None:
    if piece is None or isinstance(piece, str):
        return None
    for name in _MODEL_HOLDERS if depth else ():
        if found := _id(field(piece, name), depth - 1):
            return found
    identity = field(piece, "id")
    usable = (
        isinstance(identity, str) and 0 < len(identity) <= 256 and not identity.startswith("lc_")
    )  # LangChain makes up its own
    return identity if usable else None


def _count(value: Any) -> int:
    """*value* if it is a plausible number of tokens, else 0; Bedrock writes some as floats."""
    if type(value) is int or (type(value) is float and value.is_integer()):
        return int(value) if 0 < value <= _MOST else 0
    return 0
