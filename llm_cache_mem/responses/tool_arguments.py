"""The arguments of an answer's tool calls, whole or in pieces, and whether they are JSON."""

from json import JSONDecoder
from typing import Any, Final

__all__ = ["ToolArguments"]

_DECODER: Final = JSONDecoder(strict=False)  # models put line ends into strings


class ToolArguments:
    """Collects the arguments of each call; a call is identified by its choice and its index."""

    __slots__ = ("_pieces",)

    def __init__(self) -> None:
        self._pieces: dict[tuple[int, int], list[str]] = {}

    def add(self, choice: int, index: Any, text: Any) -> None:
        """Take in the next piece of one call; arguments that are not text are JSON already."""
        if isinstance(text, str):
            call = choice, index if isinstance(index, int) else 0
            self._pieces.setdefault(call, []).append(text)

    @property
    def malformed(self) -> bool:
        """Whether the arguments of some call are not JSON."""
        return not all(_is_json("".join(pieces)) for pieces in self._pieces.values())


def _is_json(text: str) -> bool:
    """Whether *text* is JSON, or several values of it: some servers give all calls of a stream the
    same index. Blank text stands for no arguments."""
    rest = text.strip()
    try:
        while rest:
            rest = rest[_DECODER.raw_decode(rest)[1] :].lstrip()
    except (ValueError, RecursionError):
        return False
    return True
