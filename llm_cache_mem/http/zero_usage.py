"""Rewrite a stored response so that it reports no usage: what it cost was paid before.

Only the digits of counts change. All other bytes stay as they came, and so do the boundaries of
chunks.
"""

import base64
import binascii
import re
from bisect import bisect_right
from collections.abc import Iterator
from itertools import accumulate, pairwise
from struct import Struct
from typing import Final, NamedTuple
from zlib import crc32

from llm_cache_mem.http.answer import StoredResponse

__all__ = ["without_usage"]

_TOKEN: Final = re.compile(rb'"(?:[^"\\]++|\\.)*+"|[{}\[\],:]|-?[0-9][-+.0-9eE]*|[a-z]+', re.DOTALL)
# Objects whose numbers are what a call took.
_USAGE: Final = frozenset(
    {
        b"usage",
        b"usageMetadata",
        b"usage_metadata",
        b"billed_units",
        b"tokens",
        b"amazon-bedrock-invocationMetrics",
    }
)
# What usage lies in: a message that begins, the end of a response, Groq's and Cohere's extensions.
_AROUND: Final = frozenset(
    {b"message", b"response", b"x_groq", b"meta", b"delta", b"metadata", b"results"}
)
# Ollama, and Titan and Llama on Bedrock, report counts beside the answer.
_COUNTS: Final = frozenset(
    {
        b"eval_count",
        b"prompt_eval_count",
        b"inputTextTokenCount",
        b"tokenCount",
        b"generation_token_count",
        b"prompt_token_count",
    }
)
_NO_COUNT: Final = re.compile(rb"time|duration|latency", re.IGNORECASE)
_MENTIONS: Final = re.compile(
    rb'"(?:usage|billed_units|eval_count|prompt_eval_count|amazon-bedrock-)|[uU]sage_?[mM]etadata'
    rb'|[tT]okenCount"|_token_count"|"tokens"'
)
_DATA: Final = re.compile(rb"^(?:data:)?[ \t]*(?=[{\[])(.+)$", re.MULTILINE)


class _Edit(NamedTuple):
    start: int
    end: int
    text: bytes


def without_usage(response: StoredResponse) -> list[bytes]:
    """The chunks of *response*, with 0 for everything that a call took."""
    body = b"".join(response.chunks)
    kind = next((value for name, value in response.headers if name == "content-type"), "")
    if kind.startswith("application/vnd.amazon.eventstream"):
        edits = list(_in_event_stream(body))
    else:
        edits = list(_in_text(body))
    return _cut(body, edits, response.chunks) if edits else response.chunks


def _in_text(body: bytes) -> Iterator[_Edit]:
    """The edits of a JSON value, of lines of them, or of server-sent events."""
    if not _MENTIONS.search(body):
        return
    if body.lstrip()[:1] in (b"{", b"[") and b"\n{" not in body:
        yield from _in_json(body, 0, len(body))
        return
    for line in _DATA.finditer(body):
        if _MENTIONS.search(line[1]):
            yield from _in_json(body, line.start(1), line.end(1))


def _in_json(text: bytes, start: int, end: int) -> Iterator[_Edit]:
    """The edits of the JSON value from *start* to *end* of *text*."""
    # of each object and list around: whether it may hold usage (_OPEN), is some (_COUNTED) or not
    around: list[int] = []
    inside, name = _OPEN, b""
    for token in _TOKEN.finditer(text, start, end):
        found = token[0]
        first = found[:1]
        if first in (b"{", b"["):
            around.append(inside)
            if name:
                inside = _entered(inside, name, is_list=first == b"[")
            name = b""
        elif first in (b"}", b"]"):
            if not around:
                return
            inside, name = around.pop(), b""
        elif first == b",":
            name = b""
        elif first == b'"':
            name = name or found[1:-1]
        elif first.isdigit() or first == b"-":
            counted = name in _COUNTS if inside == _OPEN else not _NO_COUNT.search(name)
            if inside != _CLOSED and counted and found != b"0":
                yield _Edit(token.start(), token.end(), b"0")


_CLOSED, _OPEN, _COUNTED = range(3)


def _entered(inside: int, name: bytes, *, is_list: bool) -> int:
    """What an object or a list called *name* is, within one that is *inside*."""
    if inside != _OPEN:
        return inside
    return _COUNTED if name in _USAGE and not is_list else _OPEN if name in _AROUND else _CLOSED


def _cut(body: bytes, edits: list[_Edit], chunks: list[bytes]) -> list[bytes]:
    """*body* with its *edits*, cut where *chunks* are."""
    parts, at = [], 0
    for edit in edits:
        parts += [body[at : edit.start], edit.text]
        at = edit.end
    changed = b"".join([*parts, body[at:]])
    ends = [edit.end for edit in edits]
    shifts = [0, *accumulate(len(edit.text) - (edit.end - edit.start) for edit in edits)]
    cuts = [0]
    for place in accumulate(map(len, chunks)):
        before = bisect_right(ends, place)
        # a cut within an edit comes after its text
        split = before < len(edits) and edits[before].start < place
        if split:
            cuts.append(edits[before].start + shifts[before] + len(edits[before].text))
        else:
            cuts.append(place + shifts[before])
    return [changed[start:end] for start, end in pairwise(cuts) if start < end]


# -- Amazon's binary event streams

_PRELUDE: Final = Struct(">II")
_CHUNK: Final = re.compile(rb'("bytes"\s*:\s*")([A-Za-z0-9+/=]+)(")')


def _in_event_stream(body: bytes) -> Iterator[_Edit]:
    """The edits of the messages that hold usage, each with its new lengths and checksums."""
    at = 0
    while len(body) - at >= 16:
        total, headers = _PRELUDE.unpack_from(body, at)
        if not 16 + headers <= total <= len(body) - at:
            return
        start, end = at + 12 + headers, at + total - 4
        payload = body[start:end]
        made = _CHUNK.sub(_rewritten_chunk, payload) if b'"bytes"' in payload else _zeroed(payload)
        if made != payload:
            prelude = _PRELUDE.pack(total + len(made) - len(payload), headers)
            prelude += crc32(prelude).to_bytes(4, "big")
            message = prelude + body[at + 12 : start] + made
            yield _Edit(at, at + total, message + crc32(message).to_bytes(4, "big"))
        at += total


def _rewritten_chunk(found: "re.Match[bytes]") -> bytes:
    """The model's own event in base64."""
    try:
        return found[1] + base64.b64encode(_zeroed(base64.b64decode(found[2]))) + found[3]
    except binascii.Error:
        return found[0]


def _zeroed(text: bytes) -> bytes:
    edits = list(_in_text(text))
    return b"".join(_cut(text, edits, [text])) if edits else text
