"""Zero the usage in a response in progress, for a caller that shares the call of another."""

from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any, Final

from llm_cache_mem.http.answer import MAX_ANSWER_BYTES, Head, Recording, StoredResponse
from llm_cache_mem.http.framing import EventStream, framing_for
from llm_cache_mem.http.zero_usage import without_usage

__all__ = ["Zeroing", "zeroed"]

_OF_THE_BYTES: Final = (b"content-encoding", b"content-length")


class Zeroing:
    """The bytes of one response on their way, in whole pieces with 0 for all usage.

    A stream passes event by event. A body in one piece, or in a content encoding, which
    *decompress* undoes, is held until it is whole. What is too large to be held, as a line without
    an end, passes as it came.
    """

    def __init__(self, content_type: str, decompress: Callable[[bytes], bytes] | None) -> None:
        self._content_type = content_type
        self._decompress = decompress
        framing = None if decompress is not None else framing_for(content_type)
        self._whole = framing is None
        self._whole_until = _messages if isinstance(framing, EventStream) else _lines
        self._rest = b""
        self._passes = False

    def feed(self, data: bytes) -> bytes:
        """What can be passed on when *data* has come."""
        if self._passes:
            return data
        self._rest += data
        if len(self._rest) > MAX_ANSWER_BYTES and self._decompress is None:
            self._passes = True
            ready, self._rest = self._rest, b""
            return ready
        cut = 0 if self._whole else self._whole_until(self._rest)
        ready, self._rest = self._rest[:cut], self._rest[cut:]
        return self._zeroed(ready)

    def end(self) -> bytes:
        """What is left when all has come."""
        ready, self._rest = self._rest, b""
        return self._zeroed(ready if self._decompress is None else self._decompress(ready))

    def _zeroed(self, ready: bytes) -> bytes:
        if not ready:
            return ready
        response = StoredResponse(200, [("content-type", self._content_type)], [ready])
        return b"".join(without_usage(response))


def zeroed(head: Head, recording: Recording, source: Any) -> tuple[Head, Any]:
    """The head and the body, a Subscriber or an AsyncSubscriber, of a response of which
    *recording* is, with zeroed usage."""
    wrap = _AsyncSource if hasattr(source, "aclose") else _Source
    headers = [pair for pair in head.headers if pair[0].lower() not in _OF_THE_BYTES]
    zeroing = Zeroing(recording.content_type, recording.decompress)
    return head._replace(headers=headers), wrap(source, zeroing)


class _Source:
    def __init__(self, source: Any, zeroing: Zeroing) -> None:
        self._source, self._zeroing = source, zeroing

    def __iter__(self) -> Iterator[bytes]:
        for data in self._source:
            if ready := self._zeroing.feed(data):
                yield ready
        if rest := self._zeroing.end():
            yield rest

    def close(self) -> None:
        self._source.close()


class _AsyncSource:
    def __init__(self, source: Any, zeroing: Zeroing) -> None:
        self._source, self._zeroing = source, zeroing

    async def __aiter__(self) -> AsyncIterator[bytes]:
        async for data in self._source:
            if ready := self._zeroing.feed(data):
                yield ready
        if rest := self._zeroing.end():
            yield rest

    async def aclose(self) -> None:
        await self._source.aclose()


def _lines(data: bytes) -> int:
    return data.rfind(b"\n") + 1


def _messages(data: bytes) -> int:
    """The end of the last whole message of an event stream of Amazon's."""
    at = 0
    while len(data) - at >= 4:
        length = int.from_bytes(data[at : at + 4], "big")
        if not 0 < length <= len(data) - at:
            break
        at += length
    return at
