"""The framings of streams: bytes in, however they were cut, and the pieces that the protocol sent
in them out, each once."""

import base64
import json
from struct import Struct
from typing import Any, Final, Protocol
from zlib import crc32

__all__ = [
    "DONE",
    "EventStream",
    "Framing",
    "Lines",
    "Malformed",
    "ServerSentEvents",
    "framing_for",
    "parsed",
]

DONE: Final = object()
"""The piece that OpenAI and those like it end a stream with: ``data: [DONE]``."""


class Malformed(ValueError):
    """Bytes that are not of this framing, or that were damaged on the way."""


class Framing(Protocol):
    """One stream being taken apart. Nothing can be done with it after Malformed."""

    def feed(self, data: bytes) -> list[Any]:
        """The pieces that *data* completes, as JSON values or DONE. Raises Malformed."""
        ...

    @property
    def between(self) -> bool:
        """Whether all bytes so far are whole pieces."""
        ...


class _ByLine:
    """Bytes as lines that end in LF, CR LF or CR."""

    def __init__(self) -> None:
        self._parts: list[
            bytes
        ] = []  # of a line that is not ended: joined once it is, however long it grows
        self._held = False  # the last byte was a CR, whose LF may be on its way

    def lines(self, data: bytes) -> list[bytes]:
        self._parts.append(data)
        if not self._held and b"\n" not in data and b"\r" not in data:
            return []
        text = b"".join(self._parts)
        self._held = text.endswith(b"\r")
        if b"\r" in text:
            text = (text[:-1] if self._held else text).replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        *found, rest = text.split(b"\n")
        self._parts = [rest + b"\r" if self._held else rest]
        return found

    @property
    def empty(self) -> bool:
        return not any(part.strip(b"\r\n \t") for part in self._parts)


class ServerSentEvents:
    """``text/event-stream`` as the HTML standard defines it. An event named "error" is a piece that
    says so, whatever its data."""

    def __init__(self) -> None:
        self._lines = _ByLine()
        self._data: list[bytes] = []
        self._event = b""

    def feed(self, data: bytes) -> list[Any]:
        pieces: list[Any] = []
        for line in self._lines.lines(data):
            if not line:
                if self._data:
                    pieces.append(self._piece())
                self._data, self._event = [], b""
                continue
            name, _, value = line.partition(b":")
            if name == b"data":
                self._data.append(value.removeprefix(b" "))
            elif name == b"event":
                self._event = value.removeprefix(b" ")
        return pieces

    def _piece(self) -> Any:
        data = b"\n".join(self._data).strip()
        if data == b"[DONE]":
            return DONE
        if self._event == b"error":
            return {"error": {"type": "error", "message": ""}}
        return parsed(data) if data else None

    @property
    def between(self) -> bool:
        return not self._data and not self._event and self._lines.empty


class Lines:
    """One JSON value a line, as Ollama's and the first Cohere API send them. The last line must be
    ended too."""

    def __init__(self) -> None:
        self._lines = _ByLine()

    def feed(self, data: bytes) -> list[Any]:
        return [parsed(line) for line in self._lines.lines(data) if line.strip()]

    @property
    def between(self) -> bool:
        return self._lines.empty


class EventStream:
    """``application/vnd.amazon.eventstream``: length-prefixed messages, their prelude and the whole
    each under a CRC-32."""

    _PRELUDE: Final = Struct(">III")
    _MOST: Final = 24 * 1024 * 1024  # more than AWS allows

    def __init__(self) -> None:
        self._parts: list[bytes] = []  # joined when the message that they begin is whole
        self._size = 0
        self._needed = 12

    def feed(self, data: bytes) -> list[Any]:
        self._parts.append(data)
        self._size += len(data)
        if self._size < self._needed:
            return []
        data = b"".join(self._parts)
        pieces: list[Any] = []
        at, self._needed = 0, 12
        while len(data) - at >= 12:
            total, headers, check = self._PRELUDE.unpack_from(data, at)
            if crc32(data[at : at + 8]) != check or not 16 + headers <= total <= self._MOST:
                raise Malformed("a damaged prelude")
            if len(data) - at < total:
                self._needed = total
                break
            message = data[at : at + total]
            if crc32(message[:-4]) != int.from_bytes(message[-4:], "big"):
                raise Malformed("a damaged message")
            pieces.append(_amazon(message[12 : 12 + headers], message[12 + headers : -4]))
            at += total
        self._parts, self._size = [data[at:]], len(data) - at
        return pieces

    @property
    def between(self) -> bool:
        return not self._size


# How long the value of a header of each type is; strings and byte arrays give their own length.
_HEADER_BYTES: Final = {0: 0, 1: 0, 2: 1, 3: 2, 4: 4, 5: 8, 8: 8, 9: 16}


def _amazon(headers: bytes, payload: bytes) -> Any:
    """A message as boto3 hands it on: the model's own JSON where it is wrapped, else {type:
    payload}."""
    names = _amazon_headers(headers)
    if names.get(":message-type") in {"error", "exception"}:
        kind = names.get(":exception-type") or names.get(":error-code") or "error"
        return {"error": {"type": kind, "message": ""}}
    kind, body = names.get(":event-type", ""), parsed(payload) if payload else {}
    if kind == "chunk" and isinstance(body, dict) and isinstance(body.get("bytes"), str):
        try:
            return parsed(base64.b64decode(body["bytes"], validate=True))
        except ValueError as exc:
            raise Malformed("a chunk that is no base64") from exc
    return {kind: body}


def _amazon_headers(data: bytes) -> dict[str, str]:
    names: dict[str, str] = {}
    at = 0
    try:
        while at < len(data):
            name = data[at + 1 : at + 1 + data[at]].decode()
            at += 1 + data[at]
            kind = data[at]
            at += 1
            if kind in (6, 7):
                size = int.from_bytes(data[at : at + 2], "big")
                at += 2
                if kind == 7:
                    names[name] = data[at : at + size].decode()
                at += size
            else:
                at += _HEADER_BYTES[kind]
    except (IndexError, KeyError, UnicodeDecodeError) as exc:
        raise Malformed("headers that cannot be read") from exc
    return names


def parsed(data: bytes) -> Any:
    """The JSON value that *data* is the text of; Malformed if it is none."""
    try:
        return json.loads(data)
    except (ValueError, RecursionError) as exc:
        raise Malformed(f"not JSON ({type(exc).__name__})") from None


def framing_for(content_type: str) -> Framing | None:
    """The framing that a Content-Type names, or None if it names none of a stream."""
    kind = content_type.partition(";")[0].strip().lower()
    if kind == "text/event-stream":
        return ServerSentEvents()
    if kind in {
        "application/x-ndjson",
        "application/ndjson",
        "application/jsonl",
        "application/stream+json",
        "application/x-jsonlines",
    }:
        return Lines()
    if kind == "application/vnd.amazon.eventstream":
        return EventStream()
    return None
