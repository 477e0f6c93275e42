"""A reading: what the pieces of one answer, in order, have shown so far."""

from typing import Any, Final

from llm_cache_mem.responses.fields import field, given, listed, word
from llm_cache_mem.responses.tool_arguments import ToolArguments

__all__ = [
    "STOP_FIELDS",
    "Pieces",
    "Reading",
    "block_says",
    "index_of",
    "is_text",
    "read_content",
    "says",
]

STOP_FIELDS: Final = (
    "finish_reason",
    "stop_reason",
    "stopReason",
    "done_reason",
    "completionReason",
    "finishReason",
)
_THOUGHTS: Final = frozenset({"thinking", "redacted_thinking", "reasoning", "reasoning_content"})


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

    def note(self, *, says: bool) -> None:
        """Note a piece of a protocol, and whether it *says* anything."""
        self.known = True
        self.says = self.says or says

    def stop(self, why: Any) -> None:
        """Note a reason to stop, if *why* is one."""
        self.known = True
        if found := word(why):
            self.stops.add(found)

    def begin(self, part: int = 0) -> None:
        """Note that *part* has begun, so that its end must come."""
        self.known = True
        self._begun.add(part)

    def end(self, why: Any, part: int = 0) -> None:
        """Note that *part* has ended."""
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


def is_text(value: Any) -> bool:
    """Whether *value* is text that is not blank."""
    return isinstance(value, str) and bool(value) and not value.isspace()


def says(content: Any) -> bool:
    """Whether message content, a string or a list of blocks, says anything but thoughts."""
    return any(map(block_says, content)) if isinstance(content, list | tuple) else is_text(content)


def block_says(block: Any) -> bool:
    """``says`` for one block of content."""
    if block is None or isinstance(block, str):
        return is_text(block)
    if (
        word(field(block, "type", "block_type")) in _THOUGHTS
        or field(block, "reasoningContent") is not None
    ):
        return False
    text = field(block, "text")
    return (
        (is_text(text) and field(block, "thought") is not True) if isinstance(text, str) else True
    )


def read_content(reading: Reading, content: Any) -> None:
    """Read message content, a string or a list of blocks. LangChain puts blocks that it does not
    know into one of type "non_standard"."""
    reading.note(says=says(content))
    for block in listed(content):
        kind = word(field(block, "type"))
        if kind == "non_standard":
            kind = word(field(field(block, "value"), "type"))
        if kind == "refusal":
            reading.stop("refusal")
        elif kind == "invalid_tool_call":
            reading.stop("malformed")


def index_of(part: Any) -> int:
    """The number of a choice or candidate."""
    index = field(part, "index")
    return int(index) if isinstance(index, int | float) and abs(index) < 1 << 31 else 0
