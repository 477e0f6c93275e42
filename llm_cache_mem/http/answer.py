"""An answer as it passes: whether it is whole, what it says for admission and accounting, and how
it is stored and given again."""

from collections.abc import Callable, Iterable
from itertools import pairwise
from typing import Any, Final, NamedTuple

from llm_cache_mem.errors import EntryUnreadable
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
from llm_cache_mem.http.headers import kept
from llm_cache_mem.responses.completeness import Pieces, Reading

__all__ = ["MAX_ANSWER_BYTES", "Recording", "Stored", "ends", "load"]

MAX_ANSWER_BYTES: Final = 16 * 1024 * 1024


class Stored(NamedTuple):
    """A stored answer, ready to be given again."""

    status: int
    headers: list[tuple[str, str]]
    chunks: list[bytes]

    def __repr__(self) -> str:
        return f"Stored(status={self.status}, chunks={len(self.chunks)})"


def load(value: Any) -> Stored:
    """The answer that ``Recording.value()`` gave. EntryUnreadable for anything else."""
    try:
        text, data = value.get("text"), value.get("data")
        body: bytes = data if text is None else text.encode()
        cuts = [0, *value.get("cuts", ()), len(body)]
        chunks = [body[start:end] for start, end in pairwise(cuts)] if body else []
        if type(body) is not bytes or cuts != sorted(cuts):
            raise EntryUnreadable("not an HTTP exchange: its cuts do not fit its body")
        headers = [(str(name), str(content)) for name, content in value["headers"]]
        return Stored(int(value["status"]), headers, chunks)
    except (AttributeError, KeyError, TypeError, ValueError) as exc:
        raise EntryUnreadable("not an HTTP exchange") from exc


class Recording:
    """The body of one answer, noted while it passes. Not thread-safe: one reader at a time adds to
    it.

    *decode* undoes the content encoding named in the headers, of all bytes at once.
    """

    def __init__(
        self, status: int, headers: Iterable[tuple[str, str]], decode: Callable[[bytes], bytes]
    ) -> None:
        fields = [(name.lower(), value) for name, value in headers]
        named = dict(fields)
        self._status = status
        self._headers = kept(fields)
        self._content_type = named.get("content-type", "")
        encoded = named.get("content-encoding", "identity").strip().lower() not in ("", "identity")
        self._decode = decode if encoded else None
        self._length = (
            int(given)
            if (given := named.get("content-length", "")).isdecimal() and len(given) < 19
            else None
        )
        self._chunks: list[bytes] = []
        self._framing = None if encoded else framing_for(self._content_type)
        self._pieces: list[Any] = []
        self._reading = Reading()
        self._size = 0
        self.fault: str | None = None
        """Why it cannot be stored whatever is still to come: "too large", "malformed"; None if it
        can."""

    def add(self, chunk: bytes) -> None:
        """Note the next bytes as they came from the wire."""
        self._size += len(chunk)
        if self.fault is not None:
            return
        if self._size > MAX_ANSWER_BYTES:
            self._give_up("too large")
            return
        self._chunks.append(chunk)
        if self._framing is not None:
            try:
                self._read(self._framing.feed(chunk))
            except Malformed:
                self._give_up("malformed")

    @property
    def hopeless(self) -> bool:
        """Whether it is known already that this will not be a good answer: nobody else should be
        given it."""
        return self.fault is not None or "error" in self._reading.stops

    @property
    def full(self) -> bool:
        """Whether as many bytes have come as were promised, so that the end follows at once."""
        return self._length is not None and self._size >= self._length

    def _read(self, pieces: list[Any]) -> None:
        for piece in pieces:
            self._pieces.append(piece)
            if piece is not DONE:
                self._reading.read(piece)

    def _give_up(self, why: str) -> None:
        self.fault = why
        self._chunks.clear()
        self._pieces.clear()

    def finish(self, *, at_end: bool) -> bool:
        """Whether the answer is whole; to be called once, at the *at_end* of the body or where its
        last consumer left it.

        A body that was left may still be whole: some SDKs close the response as soon as they have
        seen the protocol's own end.
        """
        if self.fault is not None:
            return False
        if at_end and self._length is not None and self._length != self._size:
            return False
        try:
            if self._framing is None:
                self._read_at_once(at_end)
            if self._framing is None:
                return at_end
            return self._framing.between and ends(self._pieces, self._reading, at_end=at_end)
        except Malformed:
            self.fault = "malformed"
            return False

    def _read_at_once(self, at_end: bool) -> None:
        body = b"".join(self._chunks)
        if self._decode is not None:
            try:
                body = self._decode(body)
            # whatever the decoders of the HTTP library raise
            except Exception as exc:  # noqa: BLE001
                raise Malformed(f"cannot be decoded ({type(exc).__name__})") from None
            if len(body) > MAX_ANSWER_BYTES:
                self._give_up("too large")
                raise Malformed("too large")
        framing = framing_for(self._content_type) or _sniff(body)
        if framing is None:
            if at_end:
                self._pieces = [parsed(body)]
            self._chunks = [body]
            return
        self._framing, self._chunks = framing, []
        for part in _parts(
            framing, body
        ):  # encoded bytes have no boundaries of their own: one chunk an event
            self._read(framing.feed(part))
            self._chunks.append(part)

    def value(self) -> dict[str, Any]:
        """What is stored; plain JSON wherever the body is text."""
        stored: dict[str, Any] = {"status": self._status, "headers": self._headers}
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
        """What admission and accounting judge: the JSON of the answer, or the list of the pieces of
        its stream."""
        pieces = [piece for piece in self._pieces if piece is not DONE and piece is not None]
        if self._framing is not None:
            return Pieces(pieces, self._reading)
        answer = pieces[0] if pieces else None
        return {"error": {"type": "error", "message": ""}} if _tells_of_an_error(answer) else answer


def ends(pieces: list[Any], reading: Reading, *, at_end: bool) -> bool:
    """Whether *pieces*, of which *reading* was made, are a whole stream by its protocol's own sign.

    Not *at_end*, that sign must be one that nothing follows.
    """
    done = any(piece is DONE for piece in pieces)
    told = [piece for piece in pieces if isinstance(piece, dict)]
    if not reading.known or "error" in reading.stops or reading.open:
        return False
    if any(
        isinstance(piece.get("choices"), list) or piece.get("type") == "message-end"
        for piece in told
    ):
        return done  # OpenAI chat and completions and those like them, Cohere
    if any("messageStop" in piece for piece in told):
        return "metadata" in told[-1]  # Bedrock Converse: the counts come last
    definite = done or any(
        piece.get("type") in _LAST_EVENTS
        or piece.get("event_type") == "stream-end"
        or piece.get("done") is True
        for piece in told
    )
    return definite or at_end


_LAST_EVENTS: Final = frozenset(
    {"message_stop", "response.completed", "response.incomplete", "response.failed"}
)


def _sniff(body: bytes) -> Framing | None:
    """The framing that an answer without a telling Content-Type has; None for a single JSON
    value."""
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


def _tells_of_an_error(answer: Any) -> bool:
    """Whether there is nothing in it but what gateways and frameworks say of a failure, though they
    call it a success."""
    told = isinstance(answer, dict) and answer.keys() <= _ONLY_OF_ERRORS
    return told and (
        answer.get("success") is False
        or any(isinstance(answer.get(name), (str, list)) for name in ("detail", "message"))
    )


_ONLY_OF_ERRORS: Final = frozenset(
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
