"""Record a response while it passes: is it whole, what does it say, and how is it stored."""

from collections.abc import Callable, Iterable
from itertools import pairwise
from typing import Any, Final, NamedTuple

from llm_cache_mem.errors import EntryUnreadable
from llm_cache_mem.http.decoding import MAX_ANSWER_BYTES, TooLarge
from llm_cache_mem.http.framing import (
    DONE,
    EventStream,
    Framing,
    Lines,
    Malformed,
    ServerSentEvents,
    framing_for,
    parsed,
)
from llm_cache_mem.http.headers import stored_headers
from llm_cache_mem.http.payloads import is_hollow
from llm_cache_mem.responses.admission import refusal_reason
from llm_cache_mem.responses.completeness import read_piece
from llm_cache_mem.responses.reading import Pieces, Reading

__all__ = [
    "MAX_ANSWER_BYTES",
    "Head",
    "Recording",
    "StoredResponse",
    "decode",
    "decode_whole",
    "is_whole",
]


class Head(NamedTuple):
    """Status, *headers* as on the wire, and the HTTP library's *extensions* of a response."""

    status: int
    headers: list[tuple[bytes, bytes]]
    extensions: dict[str, Any]

    @property
    def is_stream(self) -> bool:
        """Whether the body is a stream of pieces."""
        kinds = [value for name, value in self.headers if name.lower() == b"content-type"]
        return any(framing_for(kind.decode("latin-1")) is not None for kind in kinds)

    def __repr__(self) -> str:
        return f"Head(status={self.status})"


class StoredResponse(NamedTuple):
    """A stored response, ready to be sent again."""

    status: int
    headers: list[tuple[str, str]]
    chunks: list[bytes]

    def __repr__(self) -> str:
        return f"StoredResponse(status={self.status}, chunks={len(self.chunks)})"


def decode(value: Any) -> StoredResponse:
    """The response of which ``Recording.encode`` made *value*. Raises EntryUnreadable."""
    whole = decode_whole(value)
    cuts = value.get("cuts")
    if not cuts:
        return whole
    (body,) = whole.chunks or [b""]
    places = [0, *cuts, len(body)]
    if not all(type(place) is int for place in places) or places != sorted(places):
        raise EntryUnreadable("not an HTTP exchange: its cuts do not fit its body")
    chunks = [body[start:end] for start, end in pairwise(places)] if body else []
    return whole._replace(chunks=chunks)


def decode_whole(value: Any) -> StoredResponse:
    """``decode`` for readers that do not care in which chunks a body came: it is one."""
    try:
        text, data = value.get("text"), value.get("data")
        body = data if text is None else text.encode()
        if type(body) is not bytes:
            raise EntryUnreadable("not an HTTP exchange: its body is not bytes")
        headers = [(str(name), str(content)) for name, content in value["headers"]]
        return StoredResponse(int(value["status"]), headers, [body] if body else [])
    except (AttributeError, KeyError, TypeError, ValueError) as exc:
        raise EntryUnreadable("not an HTTP exchange") from exc


class Recording:
    """The body of one response, recorded while it passes. Not thread-safe.

    *decompress* undoes the content encoding named in the headers, of all bytes at once. *path* is
    that of the endpoint.
    """

    def __init__(
        self,
        status: int,
        headers: Iterable[tuple[str, str]],
        decompress: Callable[[bytes], bytes],
        path: str = "",
    ) -> None:
        fields = [(name.lower(), value) for name, value in headers]
        named = dict(fields)
        self.status = status
        self._path = path
        self._headers = stored_headers(fields)
        self.content_type = named.get("content-type", "")
        encoded = named.get("content-encoding", "identity").strip().lower() not in ("", "identity")
        self.decompress = decompress if encoded else None
        self._length = (
            int(given)
            if (given := named.get("content-length", "")).isdecimal() and len(given) < 19
            else None
        )
        self._chunks: list[bytes] = []
        self._framing = None if encoded else framing_for(self.content_type)
        self._pieces: list[Any] = []
        self._reading = Reading()
        self._size = 0
        self.whole = False
        """Whether the response is whole, once it is finished."""
        self.fault: str | None = None
        """Why it can no longer be stored: "too large" or "malformed"; None if it can."""

    def add(self, chunk: bytes) -> bytes:
        """Record the next bytes as they came from the wire, and return them."""
        self._size += len(chunk)
        if self.fault is not None:
            return chunk
        if self._size > MAX_ANSWER_BYTES:
            self._give_up("too large")
            return chunk
        self._chunks.append(chunk)
        if self._framing is not None:
            try:
                self._read(self._framing.feed(chunk))
            except Malformed:
                self._give_up("malformed")
        return chunk

    def copy(self, chunk: bytes) -> bytes:
        """*chunk*: bytes do not change."""
        return chunk

    @property
    def unusable(self) -> bool:
        """Whether the response is known to be bad before its end, so that no other caller should
        join it."""
        return self.fault is not None or "error" in self._reading.stops

    @property
    def full(self) -> bool:
        """Whether all bytes of the Content-Length have come, so that the end follows at once."""
        return self._length is not None and self._size >= self._length

    def _read(self, pieces: list[Any]) -> None:
        for piece in pieces:
            self._pieces.append(piece)
            if piece is not DONE:
                read_piece(self._reading, piece)

    def _give_up(self, why: str) -> None:
        self.fault = why
        self._chunks.clear()
        self._pieces.clear()

    def finish(self, *, at_end: bool) -> bool:
        """Set ``whole``, and return it; to be called once, when no more will be read.

        Without *at_end*, the last subscriber left before the body ended. It may still be whole:
        some SDKs close a response as soon as they have seen the protocol's own end.
        """
        self.whole = self._ends_well(at_end)
        return self.whole

    def _ends_well(self, at_end: bool) -> bool:
        if self.fault is not None or self.status != 200:
            return False
        if at_end and self._length is not None and self._length != self._size:
            return False
        try:
            if self._framing is None:
                self._read_at_once(at_end)
            if self._framing is None:
                return at_end
            return self._framing.between and is_whole(self._pieces, self._reading, at_end=at_end)
        except Malformed:
            self.fault = self.fault or "malformed"
            return False

    def _read_at_once(self, at_end: bool) -> None:
        body = b"".join(self._chunks)
        if self.decompress is not None:
            try:
                body = self.decompress(body)
            except TooLarge:
                self._give_up("too large")
                raise Malformed("too large") from None
            except Exception as exc:  # noqa: BLE001  # whatever the HTTP library's decoders raise
                raise Malformed(f"cannot be decoded ({type(exc).__name__})") from None
            if len(body) > MAX_ANSWER_BYTES:
                self._give_up("too large")
                raise Malformed("too large")
        framing = framing_for(self.content_type) or _sniff(body)
        if framing is None:
            if at_end:
                self._pieces = [parsed(body)]
            self._chunks = [body]
            return
        self._framing, self._chunks = framing, []
        # Compressed bytes have no boundaries of their own: one chunk an event.
        for part in _parts(framing, body):
            self._read(framing.feed(part))
            self._chunks.append(part)

    def encode(self) -> dict[str, Any]:
        """The value to store; plain JSON wherever the body is text."""
        stored: dict[str, Any] = {"status": self.status, "headers": self._headers}
        body = b"".join(self._chunks)
        try:
            stored["text"] = body.decode()
        except UnicodeDecodeError:
            stored["data"] = body
        cuts: list[int] = []
        at = 0
        for chunk in self._chunks[:-1]:
            at += len(chunk)
            cuts.append(at)
        if cuts:
            stored["cuts"] = cuts
        return stored

    def response(self) -> Any:
        """The JSON of the answer, or the list of the pieces of its stream, for admission and
        accounting."""
        pieces = [piece for piece in self._pieces if piece is not DONE and piece is not None]
        if self._framing is not None:
            return Pieces(pieces, self._reading)
        answer = pieces[0] if pieces else None
        if _reports_error(answer):
            return {"error": {"type": "error", "message": ""}}
        hollow = is_hollow(self._path, answer) and refusal_reason(answer) is None
        return {} if hollow else answer


def is_whole(pieces: list[Any], reading: Reading, *, at_end: bool) -> bool:
    """Whether *pieces*, of which *reading* was made, are a whole stream by its protocol's own end.

    Without *at_end*, that end must be one that nothing follows.
    """
    done = any(piece is DONE for piece in pieces)
    objects = [piece for piece in pieces if isinstance(piece, dict)]
    if not reading.known or "error" in reading.stops or reading.open:
        return False
    if any(
        isinstance(piece.get("choices"), list) or piece.get("type") == "message-end"
        for piece in objects
    ):
        return done  # OpenAI chat and completions and those like them, Cohere
    if any("messageStop" in piece for piece in objects):
        return "metadata" in objects[-1]  # Bedrock Converse: the counts come last
    definite = done or any(
        piece.get("type") in _LAST_EVENTS
        or piece.get("event_type") == "stream-end"
        or piece.get("done") is True
        for piece in objects
    )
    return definite or at_end


_LAST_EVENTS: Final = frozenset(
    {"message_stop", "response.completed", "response.incomplete", "response.failed"}
)


def _sniff(body: bytes) -> Framing | None:
    """The framing of a body whose Content-Type does not name one; None for a single JSON value."""
    start = body[:64].lstrip()
    if start.startswith((b"data:", b"event:", b"id:", b"retry:", b":")):
        return ServerSentEvents()
    if body[:1] == b"\0":
        return EventStream()
    if start.startswith(b"{") and b"\n{" in body:
        try:
            parsed(body)
        except Malformed:
            return Lines()
    return None


def _parts(framing: Framing, body: bytes) -> list[bytes]:
    """*body* cut after each event."""
    if not isinstance(framing, (ServerSentEvents, Lines)):
        return [body]
    mark = b"\n" if isinstance(framing, Lines) else b"\r\n\r\n" if b"\r\n\r\n" in body else b"\n\n"
    *parts, rest = body.split(mark)
    return [part + mark for part in parts] + ([rest] if rest else [])


def _reports_error(answer: Any) -> bool:
    """Whether *answer* has only the fields in which gateways report a failure with status 200."""
    only_errors = isinstance(answer, dict) and answer.keys() <= _ERROR_FIELDS
    return only_errors and (
        answer.get("success") is False
        or any(isinstance(answer.get(name), (str, list)) for name in ("detail", "message"))
    )


_ERROR_FIELDS: Final = frozenset(
    {
        "detail",
        "message",
        "error",
        "errors",
        "messages",
        "code",
        "status",
        "statusCode",
        "success",
        "result",
        "type",
        "request_id",
    }
)
