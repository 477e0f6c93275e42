"""Calls of streams: identical requests share one in progress, which is stored when it has ended
cleanly.

The call is made at once, by the first that misses. Its items are fetched when a caller needs them,
in the context of the call. A caller in other circumstances than the one that made the call, or one
whose fetch was interrupted, makes its own call if it has had no chunk yet.
"""

from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping
from contextvars import Context, copy_context
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeVar

from llm_cache_mem._util.reprs import without_content
from llm_cache_mem.engine.broadcast import END
from llm_cache_mem.engine.flight import Flight, keep_lead
from llm_cache_mem.engine.sharing import Sharing
from llm_cache_mem.engine.streams import ChunkRecording, NotShareable
from llm_cache_mem.errors import LLMCacheError, ValueNotCacheable
from llm_cache_mem.keys.request import Request
from llm_cache_mem.values.entry import Entry

if TYPE_CHECKING:
    from llm_cache_mem.engine.leases import Lease

__all__ = [
    "ROUNDS",
    "Head",
    "NoStream",
    "StoredChunks",
    "StreamCall",
    "attribute_of",
    "interrupted",
    "is_stream",
]

T = TypeVar("T")

ROUNDS: Final = 8
"""How often a caller may find the call that it wanted to join just ended, before it makes its
own."""


class StreamCall:
    """One caller's call of a stream that is not stored.

    Args:
        sharing: The cache's.
        request: The request.
        fn: Makes the call; what it returns is iterated.
        recording: Makes the recording of one stream.
        decode: Makes the chunks of a stored stream.
        circumstances: Everything outside the key that can make the call fail.
        timeout: For how many seconds the caller may wait for another's call.
        context: The context whose options count.
    """

    def __init__(
        self,
        sharing: Sharing,
        request: Request,
        fn: Callable[[], Any],
        recording: Callable[[], ChunkRecording],
        decode: Callable[[Any], Iterable[Any]],
        circumstances: Hashable,
        timeout: float | None,
        context: Context | None = None,
    ) -> None:
        self.sharing = sharing
        self.request = request
        self.fn = fn
        self.recording = recording
        self.circumstances = circumstances
        self._decode = decode
        self._timeout = timeout
        self._context = context
        self.now = sharing.settings.clock
        self._began = self.now()

    @property
    def lane(self) -> Hashable:
        """What callers share a stream by: a chunk that one waits for comes over a connection that
        has the timeout of its caller."""
        return "stream", self._timeout

    @property
    def timeout(self) -> float | None:
        """The seconds that are left of the caller's own timeout."""
        if self._timeout is None:
            return None
        return max(0.0, self._timeout - (self.now() - self._began))

    def new_lease(self) -> "Lease | None":
        """A lease to make the call, if there are other processes to ask."""
        return self.sharing.lease(self.request, self.timeout)

    def new_context(self) -> Context:
        """A context for the work of a flight, in which this is called."""
        if self._context is None:
            return copy_context()
        context = self._context.copy()
        keep_lead(context)
        return context

    def recheck(self) -> Entry | None:
        """The entry that another caller stored since this one missed."""
        return self.sharing.reader.recheck(self.request)

    def stored(self, entry: Entry) -> Iterator[Any] | None:
        """The chunks of *entry*, counted as coalesced; None if it cannot be read."""
        hit = self.sharing.reader.read(self.request, entry, self._decode)
        if hit is None:
            return None
        self.count(entry)
        chunks: Iterable[Any] = hit.value
        return iter(chunks)

    def count(self, entry: Entry | None) -> None:
        """Count this caller as answered by another's call."""
        self.sharing.count_coalesced(self.request, entry, self.now() - self._began)

    def store(self, recording: ChunkRecording, seconds: float, flight: Flight) -> Entry | None:
        """Store a stream that has ended cleanly; counted as skipped if it has no storable form."""
        below = self.sharing.answered_below(self.request)
        if below is not None:
            return below.entry
        try:
            value, response = recording.entry()
        except LLMCacheError as exc:
            self.sharing.writer.skip(self.request, "value", "a stream was not stored: %s", exc)
            return None
        except Exception as exc:  # noqa: BLE001  # the consumer has had its answer
            text = "a stream was not stored: it could not be read (%s)"
            self.sharing.writer.skip(self.request, "value", text, type(exc).__name__)
            return None
        return self.sharing.writer.store(
            self.request, value, response=response, seconds=seconds, flight=flight
        )

    def no_stream(self, answer: Any) -> "NoStream":
        """What to make of an *answer* in one piece, which is returned as it is."""
        text = "an answer was not stored: a stream was asked for, and it is none"
        self.sharing.writer.skip(self.request, "value", text)
        return NoStream(answer)

    def makes_own(self, reader: Any, exc: Exception) -> bool:
        """Whether this caller makes its own call where another's has ended with *exc*: it has had
        no chunk yet, and *exc* does not concern it."""
        if isinstance(reader, StoredChunks) or reader.at:
            return False
        alike: bool = self.circumstances == reader.broadcast.head.circumstances
        return isinstance(exc, Interrupted | NotShareable) or not alike


class StoredChunks:
    """The chunks of a stored stream, read as a Subscriber is."""

    def __init__(self, chunks: Iterator[Any]) -> None:
        self._chunks = chunks

    def take(self) -> Any:
        """The next chunk; END after the last."""
        return next(self._chunks, END)

    def drop(self) -> None:
        """Read no more."""

    close = drop

    async def aclose(self) -> None:
        """Read no more."""


@without_content
class Head(NamedTuple):
    """What a call returned before its first chunk, *source*, and the *circumstances* of its
    caller."""

    source: Any
    circumstances: Hashable
    recording: ChunkRecording


@without_content
class NoStream(NamedTuple):
    """What *fn* returned although a stream was asked for."""

    answer: Any


class Interrupted(ConnectionError):
    """The call that a stream was shared with was interrupted in another thread or task."""


def interrupted() -> Interrupted:
    """The error for subscribers of a call that another caller interrupted."""
    return Interrupted("the call that this stream was coalesced with was interrupted; try again")


def is_stream(source: Any, protocol: str) -> bool:
    """Whether *source* is iterable by *protocol*, and no answer in one piece."""
    return hasattr(source, protocol) and not isinstance(source, (str, bytes, Mapping))


def attribute_of(reader: Any, name: str) -> Any:
    """Attribute *name* of the source of *reader*, the subscriber whose caller made the call."""
    broadcast = reader.broadcast
    value = getattr(broadcast.head.source, name)
    if callable(value):  # it may take chunks past the broadcast
        broadcast.head.recording.fault = ValueNotCacheable("stream", "it was read by other ways")
        broadcast.leave_to(reader)
    return value
