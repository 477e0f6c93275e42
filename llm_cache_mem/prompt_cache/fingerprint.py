"""Fingerprint: a request as a provider's prompt cache reads it, as digests of its parts in order.

Anthropic reads tools, system, messages; OpenAI the same, after its settings. The markers of
breakpoints are not part of it. No content is stored: differences between two requests are found by
comparing digests, and reported as paths.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from hashlib import blake2b
from typing import Any, Final, NamedTuple

from llm_cache_mem.keys.functions import SYSTEM_ROLES
from llm_cache_mem.keys.wire_form import Refused, step, unwrap

__all__ = ["MARKERS", "Fingerprint", "Part", "fingerprint"]

MARKERS: Final = ("cache_control", "prompt_cache_breakpoint")
_SETTINGS: Final = (
    *(
        "tool_choice",
        "parallel_tool_calls",
        "thinking",
        "output_config",
        "response_format",
        "text",
        "reasoning",
        "reasoning_effort",
    ),
    *("verbosity", "service_tier", "speed", "prompt_cache_key"),
)
"""Params besides the prompt that the providers document as reasons for a miss."""
_PIECE: Final = 256  # characters of a long sentence that are compared together
_SENTENCE: Final = r"[^.!?\n]*+[.!?\n]++\s*+|[^.!?\n]++"
_MOST_PIECES: Final = 1024
_MOST_MESSAGES: Final = 4096
_DEPTH: Final = 64
_JSON_TYPES: Final = frozenset({str, dict, list, int, float, bool, type(None)})


class Part(NamedTuple):
    """A tool, a block of the system prompt or a message: its path, its digest, and its length in
    characters."""

    path: str
    digest: bytes
    size: int


class Fingerprint(NamedTuple):
    """*parts* in order, the first *stable* of them before the conversation; *pieces* of the stable
    ones, path by hash."""

    model: str | None
    parts: tuple[Part, ...]
    stable: int
    pieces: Mapping[int, str]
    marked: bool
    """Whether the request sets a breakpoint anywhere."""
    ttl: str | None
    """The longest lifetime that a breakpoint asks for, by its name in the API."""
    marked_stable: bool = False
    """Whether a breakpoint is in the stable parts, so that other conversations can read them."""

    @property
    def digest(self) -> str:
        """32 hex digits for the model and the stable parts: the same in every process."""
        whole = blake2b((self.model or "").encode(), digest_size=16)
        for part in self.parts[: self.stable]:
            whole.update(part.digest)
        return whole.hexdigest()

    @property
    def messages(self) -> tuple[Part, ...]:
        """The conversation: what comes after the stable parts."""
        return self.parts[self.stable :]

    @property
    def stable_share(self) -> float:
        """The share of stable characters, an estimate of that of stable tokens."""
        size = sum(part.size for part in self.parts)
        return sum(part.size for part in self.parts[: self.stable]) / size if size else 0.0

    def first_difference(self, other: "Fingerprint") -> str | None:
        """The path at which the stable parts of this request first differ from the *other*'s; None
        if they are the same."""
        if self.model != other.model:
            return "model"
        for mine, its in zip(self.parts[: self.stable], other.parts[: other.stable], strict=False):
            if mine.digest != its.digest or mine.path != its.path:
                changed = (path for piece, path in self.pieces.items() if piece not in other.pieces)
                return next((path for path in changed if _is_inside(path, mine.path)), mine.path)
        if self.stable != other.stable:
            longer = self if self.stable > other.stable else other
            return longer.parts[min(self.stable, other.stable)].path
        return None

    def similarity(self, other: "Fingerprint") -> float:
        """The share of the longer of the two stable prefixes that is in both, from 0 to 1."""
        most = max(len(self.pieces), len(other.pieces))
        return sum(piece in other.pieces for piece in self.pieces) / most if most else 0.0


def fingerprint(request: Mapping[str, Any]) -> Fingerprint:
    """The fingerprint of *request*, the keyword arguments of an SDK's call or the JSON that it
    sends. Never raises because of its content."""
    reader = _Reader()
    model = request.get("model")
    system, messages, leading = _sections(request)
    for name in _SETTINGS:
        if (value := request.get(name)) is not None:
            reader.part(name, value)
    for i, tool in enumerate(_list(request.get("tools"))):
        reader.part(f"tools[{i}]", tool)
    for path, block in (*system, *leading):
        reader.part(path, block)
    stable = len(reader.parts)
    reader.pieces_wanted, marked_stable = False, reader.marked
    for path, message in messages:
        reader.part(path, message)
    reader.mark(request)
    named, ttl = model if isinstance(model, str) else None, "1h" if reader.hour else None
    return Fingerprint(
        named, tuple(reader.parts), stable, reader.pieces, reader.marked, ttl, marked_stable
    )


def _sections(
    request: Mapping[str, Any],
) -> tuple[list[tuple[str, Any]], list[tuple[str, Any]], list[tuple[str, Any]]]:
    """System blocks, messages, and the leading blocks of the first message that a breakpoint
    separates from the rest."""
    system = [
        (f"{name}[{i}]", block)
        for name in ("system", "instructions")
        for i, block in enumerate(_blocks(request.get(name)))
    ]
    name = "input" if request.get("input") is not None else "messages"
    given = request.get(name)
    turns = [{"role": "user", "content": given}] if isinstance(given, str) else _list(given)
    messages = [(f"{name}[{i}]", _message(turn)) for i, turn in enumerate(turns[:_MOST_MESSAGES])]
    while messages and _role(messages[0][1]) in SYSTEM_ROLES:
        system.append(messages.pop(0))
    leading: list[tuple[str, Any]] = []
    if messages:
        path, first = messages[0]
        blocks = _list(first.get("content")) if isinstance(first, dict) else []
        apart = max((i + 1 for i, block in enumerate(blocks[:-1]) if _marked(block)), default=0)
        if apart:
            leading = [(f"{path}.content[{i}]", block) for i, block in enumerate(blocks[:apart])]
            messages[0] = (path, {**first, "content": blocks[apart:]})
    return system, messages, leading


def _message(turn: Any) -> Any:
    message = _plain(turn)
    return (
        {**message, "content": _blocks(message.get("content"))}
        if isinstance(message, dict) and "content" in message
        else message
    )


def _role(message: Any) -> Any:
    return message.get("role") if isinstance(message, dict) else None


def _blocks(content: Any) -> list[Any]:
    """Content as blocks: a string is short for one block of text."""
    if isinstance(content, str):
        return [{"type": "text", "text": content}]
    return _list(content)


def _list(value: Any) -> list[Any]:
    value = _plain(value)
    return [_plain(item) for item in value] if isinstance(value, list) else []


def _marked(block: Any) -> bool:
    return isinstance(block, dict) and any(block.get(name) for name in MARKERS)


def _plain(value: Any) -> Any:
    if type(value) in _JSON_TYPES:
        return value
    try:
        return unwrap(value)
    # without a wire form it cannot be what the provider is sent
    except Refused:
        return None


class _Reader:
    """Digests of parts, and the pieces of those that are stable."""

    def __init__(self) -> None:
        self.parts: list[Part] = []
        self.pieces: dict[int, str] = {}
        self.pieces_wanted = True
        self.marked = self.hour = False

    def mark(self, holder: Any) -> None:
        """Note a breakpoint on *holder*."""
        for name in MARKERS:
            marker = _plain(holder.get(name))
            if isinstance(marker, dict):
                self.marked = True
                self.hour = self.hour or marker.get("ttl") == "1h"

    def part(self, path: str, value: Any) -> None:
        whole, size = blake2b(digest_size=16), 0
        for where, text in self._leaves(path, value, _DEPTH):
            whole.update(
                f"{where[len(path) :]}\0{len(text)}\0{text}".encode("utf-8", "surrogatepass")
            )
            size += len(text)
            if self.pieces_wanted:
                self._add_pieces(where, text)
        self.parts.append(Part(path, whole.digest(), size))

    def _leaves(self, path: str, value: Any, depth: int) -> Iterator[tuple[str, str]]:
        value = _plain(value)
        items: Iterable[tuple[Any, Any]]
        if isinstance(value, dict) and depth:
            self.mark(value)
            items = ((key, item) for key, item in value.items() if key not in MARKERS)
        elif isinstance(value, list) and depth:
            items = enumerate(value)
        else:
            yield (
                path,
                value
                if isinstance(value, str)
                else f"{type(value).__name__}:{value if _is_scalar(value) else ''}",
            )
            return
        yield path, type(value).__name__
        for key, item in items:
            if not isinstance(key, int):
                yield path, f"key:{key}"  # the order of keys is part of the prompt
            yield from self._leaves(path + step(key), item, depth - 1)

    def _add_pieces(self, path: str, text: str) -> None:
        start = 0
        for sentence in _sentences(text):  # text inserted before them does not change them
            for at in range(0, len(sentence), _PIECE) or (0,):
                if len(self.pieces) >= _MOST_PIECES:
                    return
                piece = sentence[at : at + _PIECE]
                where = (
                    path
                    if len(text) <= _PIECE
                    else f"{path}, characters {start:,} to {start + len(piece):,}"
                )
                self.pieces.setdefault(hash((path, piece)), where)
                start += len(piece)


def _sentences(text: str) -> Iterator[str]:
    return (found[0] for found in re.finditer(_SENTENCE, text)) if text else iter(("",))


def _is_scalar(value: Any) -> bool:
    return value is None or isinstance(value, bool | int | float)


def _is_inside(path: str, root: str) -> bool:
    return path == root or (path.startswith(root) and path[len(root)] in ".[,")
