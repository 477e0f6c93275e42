"""A recording as one line of JSON that people can read, compare and edit, and back."""

import json
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final

from llm_cache_mem._util import strict_json
from llm_cache_mem.diagnostics.redaction import Redaction
from llm_cache_mem.keys import digest
from llm_cache_mem.keys.canonical import encode
from llm_cache_mem.responses.usage import Usage
from llm_cache_mem.stores.jsonl.fields import (
    BadLine,
    names_in,
    number_in,
    tags_in,
    text_in,
    usage_in,
)
from llm_cache_mem.stores.listing import finite
from llm_cache_mem.values.entry import Entry
from llm_cache_mem.values.payload import Payload
from llm_cache_mem.values.plain import WRAPPER
from llm_cache_mem.values.scalars import from_base64, to_base64

__all__ = ["from_line", "has_secret", "says_the_same", "to_line"]

_BYTES, _UTF8 = (
    "$bytes",
    "$utf8",
)  # inside of it: base64, and here, where bytes are a text, that text
_JSON, _HOW = (
    "$json",
    "$written",
)  # the body of an HTTP exchange, and how it is laid out if not as densely as possible
_CONFLICT = (b"<<<<<<<", b"|||||||", b"=======", b">>>>>>>")
_ESCAPED = {
    ord(char): f"\\u{ord(char):04x}"
    for char in (
        "\x7f\x85\u2028\u2029\u200e\u200f\u202a\u202b\u202c\u202d\u202e"
        "\u2066\u2067\u2068\u2069\ufeff"
    )
}
"""Line ends and invisible marks that an editor might obey."""


def to_line(key: str, entry: Entry, redaction: Redaction) -> bytes:
    """The line of *entry*, without its line end. What is unknown has no field; secrets are out."""
    fields = {
        "key": key,
        "model": entry.model,
        "request": None if entry.request is None else _request(entry.request, redaction),
        "answer": _redacted(_readable(_parse(entry.payload.json()), http=_is_http(key)), redaction),
        "usage": None if entry.usage is None else _counts(Usage(*entry.usage)),
        "cost_usd": finite(entry.cost_usd),
        "seconds": None if entry.seconds is None else finite(round(entry.seconds, 3)),
        "stored_at": _time(entry.stored_at),
        "expires_at": None if entry.expires_at is None else _time(entry.expires_at),
        "tags": list(entry.tags) or None,
        "depends_on": list(entry.depends_on) or None,
        "generation": entry.generation or None,
    }
    known = {name: value for name, value in fields.items() if value is not None or name == "answer"}
    text = json.dumps(known, ensure_ascii=False, allow_nan=False, check_circular=False)
    return text.translate(_ESCAPED).encode(
        "utf-8", "backslashreplace"
    )  # a lone surrogate becomes its JSON escape


def has_secret(key: str, entry: Entry, redaction: Redaction) -> bool:
    """Whether *redaction* would take something out of the request or the answer of *entry*."""
    with suppress(BadLine):  # damaged
        answer = _readable(_parse(entry.payload.json()), http=_is_http(key))
        if redaction.answer(answer) != answer:
            return True
    return entry.request is not None and _request(entry.request, redaction) != _as_stored(
        entry.request
    )


def from_line(line: bytes) -> tuple[str, Entry]:
    """The key and the entry of a line; BadLine if it holds neither. Unknown fields are
    let pass."""
    if line.startswith(_CONFLICT):
        raise BadLine("a merge conflict that is not resolved")
    fields = _parse(line)
    if type(fields) is not dict:
        raise BadLine("not a JSON object")
    key = fields.get("key")
    if type(key) is not str or not key:
        raise BadLine("'key' is missing, or not a string")
    if "answer" not in fields:
        raise BadLine("'answer' is missing")
    entry = Entry(
        _payload(fields["answer"], http=_is_http(key)),
        _seconds_since_1970(fields, "stored_at") or 0.0,
        _seconds_since_1970(fields, "expires_at"),
        text_in(fields, "model"),
        usage_in(fields),
        number_in(fields, "cost_usd"),
        number_in(fields, "seconds"),
        _request_bytes(fields.get("request")),
        tags_in(fields),
        depends_on=names_in(fields),
        generation=text_in(fields, "generation") or "",
    )
    return key, entry


def says_the_same(line: bytes, other: bytes) -> bool:
    """Whether two lines differ in nothing but when the call was made and what it took; never if
    either expires."""
    one, two = _parse(line), _parse(other)
    return all(
        one.get(name) == two.get(name) for name in ("key", "model", "request", "answer", "usage")
    ) and not ("expires_at" in one or "expires_at" in two)


# -- Requests and answers


def _request(request: bytes, redaction: Redaction) -> Any:
    stored = _as_stored(request)
    return redaction.request(stored) if type(stored) is dict else redaction.text(stored)


def _as_stored(request: bytes) -> Any:
    """As JSON, if it is the JSON that caches store; else a text."""
    with suppress(BadLine):
        tree = _parse(request)
        if type(tree) is dict:
            return tree
    return request.decode("utf-8", "backslashreplace")


def _request_bytes(request: Any) -> bytes | None:
    if request is None:
        return None
    if type(request) is dict:
        return encode(request).encode()
    if type(request) is str:
        return request.encode("utf-8", "backslashreplace")
    raise BadLine("'request' is neither an object nor a string")


def _is_http(key: str) -> bool:
    """Whether the answer is an HTTP exchange."""
    try:
        return digest.parse(key).kind == "http"
    except ValueError:  # made by hand
        return False


def _payload(answer: Any, *, http: bool) -> Payload:
    try:
        text = json.dumps(
            _storable(answer, http=http), ensure_ascii=False, separators=(",", ":"), allow_nan=False
        )
    except BadLine:
        raise
    except ValueError:  # 1e999 is read as infinite
        raise BadLine("'answer' has a number that JSON cannot hold") from None
    return Payload.from_json(text.encode("utf-8", "backslashreplace"))


def _readable(tree: Any, *, http: bool) -> Any:
    """Bytes as text where they are one, in a value that JSON cannot hold; the body of an HTTP
    exchange as JSON where it is that."""
    if http and type(tree) is dict and type(tree.get("text")) is str:
        return tree | {"text": _as_json(tree["text"])}
    return {WRAPPER: _walk(tree[WRAPPER], _BYTES, _as_text)} if _is_wrapped(tree) else tree


def _storable(tree: Any, *, http: bool) -> Any:
    """What ``_readable`` was made of."""
    if http and type(tree) is dict and type(tree.get("text")) is dict:
        return tree | {"text": _from_json(tree["text"])}
    return {WRAPPER: _walk(tree[WRAPPER], _UTF8, _as_bytes)} if _is_wrapped(tree) else tree


def _redacted(tree: Any, redaction: Redaction) -> Any:
    """An HTTP exchange also says where its body was cut into pieces, which is no longer where they
    were when the body has changed."""
    redacted = redaction.answer(tree)
    exchange = redacted[WRAPPER] if _is_wrapped(redacted) else redacted
    if type(exchange) is dict and "cuts" in exchange and "headers" in exchange and redacted != tree:
        del exchange["cuts"]
    return redacted


def _is_wrapped(tree: Any) -> bool:
    return type(tree) is dict and len(tree) == 1 and WRAPPER in tree


def _walk(node: Any, tag: str, change: Callable[[Any], Any]) -> Any:
    if type(node) is dict:
        if len(node) == 1 and tag in node:
            return change(node[tag])
        return {key: _walk(item, tag, change) for key, item in node.items()}
    return [_walk(item, tag, change) for item in node] if type(node) is list else node


def _as_text(body: Any) -> Any:
    try:
        text = from_base64(body).decode()
    except ValueError:
        return {_BYTES: body}
    return {_UTF8: text} if text.translate(_LINE_CHARACTERS).isprintable() else {_BYTES: body}


def _as_bytes(body: Any) -> Any:
    if type(body) is not str:
        raise BadLine(f"{_UTF8!r} is not a string")
    return {_BYTES: to_base64(body.encode("utf-8", "surrogatepass"))}


def _as_json(text: str) -> Any:
    """The JSON that *text* is, if it can be written back to the byte; else the text."""
    if text[:1] not in "{[":
        return text
    try:
        tree = _parse(text.encode())
    except (BadLine, UnicodeEncodeError):
        return text
    for written, how in _WRITTEN.items():
        if json.dumps(tree, **how) == text:
            return {_JSON: tree, **({_HOW: written} if written else {})}
    return text


def _from_json(body: dict[str, Any]) -> str:
    how = _WRITTEN.get(body.get(_HOW, ""))
    if how is None or _JSON not in body:
        raise BadLine(f"'text' is neither a string nor an object with {_JSON!r}")
    return json.dumps(body[_JSON], **how)


_WRITTEN: Final[dict[str, Any]] = {
    f"{style}{escapes}".strip(): {**layout, "ensure_ascii": bool(escapes)}
    for escapes in ("", " escaped")
    for style, layout in (
        ("", {"separators": (",", ":")}),
        ("spaced", {}),
        ("indented", {"indent": 2}),
    )
}
_LINE_CHARACTERS = dict.fromkeys(map(ord, "\n\r\t\xa0\u200d\ufe0f"), " ")


# -- Single fields


def _counts(usage: Usage) -> dict[str, int]:
    return {
        name: count
        for name, count in usage._asdict().items()
        if count or name not in Usage._field_defaults
    }


def _time(seconds: float) -> str | float:
    """As people write it, to the millisecond; what no calendar holds stays a number."""
    from datetime import UTC, datetime, timedelta

    try:
        when = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=round(seconds * 1000))
    except (OverflowError, ValueError):
        return seconds
    return when.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _seconds_since_1970(fields: dict[str, Any], name: str) -> float | None:
    found = fields.get(name)
    if type(found) is not str:
        return number_in(fields, name)
    from datetime import UTC, datetime

    try:
        when = datetime.fromisoformat(found)
    except ValueError:
        raise BadLine(f"{name!r} is not a time such as 2026-03-01T12:00:00Z") from None
    return (when if when.tzinfo else when.replace(tzinfo=UTC)).timestamp()


def _parse(line: bytes) -> Any:
    try:
        return strict_json.parse(line)
    except strict_json.NotJson as exc:
        raise BadLine(str(exc)) from None
