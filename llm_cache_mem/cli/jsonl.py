"""Entries as JSON Lines: one entry a line, its value as the codec's JSON, which is neither decoded
nor believed on the way."""

import json
from collections.abc import Iterator
from json.encoder import encode_basestring
from typing import Any, BinaryIO, NamedTuple

from llm_cache_mem._util.json_text import encoder
from llm_cache_mem.cli.arguments import BadInput, parse_json
from llm_cache_mem.keys import digest
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
from llm_cache_mem.values.entry import MAX_BODY_BYTES, Entry
from llm_cache_mem.values.payload import Payload

__all__ = ["Line", "from_line", "numbered_lines", "to_line"]

_FIELDS = frozenset(
    (
        "key",
        "stored_at",
        "expires_at",
        "model",
        "usage",
        "cost_usd",
        "seconds",
        "request",
        "tags",
        "depends_on",
        "generation",
        "value",
        "hidden_by",
    )
)
_LONGEST_LINE = 3 * MAX_BODY_BYTES  # a value, a request and the rest
_LONGEST_KEY = 250
_KEY_ID_LENGTH = 16
_encode = encoder(separators=(",", ":"), escape=encode_basestring)
_HEX = frozenset("0123456789abcdef")


class Line(NamedTuple):
    """What a line holds. *hidden_by*: the id of the encryption key that hides the digest in *key*;
    "" for a published digest."""

    key: str
    entry: Entry
    hidden_by: str


def to_line(key: str, entry: Entry, hidden_by: str = "") -> bytes:
    """The entry as a line of JSON, newline included; *request* and *hidden_by* stand in it only if
    there are such."""
    head = {
        "key": key,
        "stored_at": entry.stored_at,
        "expires_at": finite(entry.expires_at),
        "model": entry.model,
        "usage": None if entry.usage is None else Usage(*entry.usage)._asdict(),
        "cost_usd": finite(entry.cost_usd),
        "seconds": finite(entry.seconds),
    }
    if entry.tags:
        head["tags"] = entry.tags
    if entry.depends_on:
        head |= {"depends_on": entry.depends_on, "generation": entry.generation}
    if hidden_by:
        head["hidden_by"] = hidden_by
    if entry.request is not None:
        head["request"] = entry.request.decode("utf-8", "surrogateescape")
    # The value goes in as it is; a line break in it can only be white space between JSON tokens.
    return (
        json.dumps(head).encode()[:-1]
        + b', "value": '
        + entry.payload.json().replace(b"\n", b" ")
        + b"}\n"
    )


def from_line(line: bytes) -> Line:
    """The entry of a line, in whatever order its fields stand; BadInput if it holds anything
    else."""
    fields = parse_json(line)
    try:
        return _line(fields)
    except BadLine as exc:
        raise BadInput(str(exc)) from None


def numbered_lines(file: BinaryIO) -> Iterator[tuple[int, bytes]]:
    """The lines that are not blank, from 1, one in memory at a time; one that is too long comes cut
    off, which no parser takes."""
    number = 0
    while line := file.readline(_LONGEST_LINE):
        number += 1
        rest = line
        while not rest.endswith(b"\n") and (rest := file.readline(_LONGEST_LINE)):
            continue
        if not line.isspace():
            yield number, line


def _line(fields: Any) -> Line:
    if not isinstance(fields, dict):
        raise BadLine("not a JSON object")
    if not fields.keys() <= _FIELDS:
        raise BadLine(f"it has a field that is none of {', '.join(sorted(_FIELDS))}")
    if missing := [name for name in ("key", "stored_at", "value") if name not in fields]:
        raise BadLine(f"{missing[0]!r} is missing")
    stored_at = number_in(fields, "stored_at")
    if stored_at is None:
        raise BadLine("'stored_at' is null")
    entry = Entry(
        _payload(fields["value"]),
        stored_at,
        number_in(fields, "expires_at"),
        text_in(fields, "model"),
        usage_in(fields),
        number_in(fields, "cost_usd"),
        number_in(fields, "seconds"),
        _bytes(text_in(fields, "request")),
        tags_in(fields),
        depends_on=names_in(fields),
        generation=text_in(fields, "generation") or "",
    )
    return Line(
        _key(text_in(fields, "key") or ""), entry, _key_id(text_in(fields, "hidden_by") or "")
    )


def _key(key: str) -> str:
    try:
        parts = digest.parse(key)
    except ValueError:
        raise BadLine("'key' is not a key of this library") from None
    if len(key) > _LONGEST_KEY:
        raise BadLine(f"'key' has more than {_LONGEST_KEY} characters")
    if parts.schema != digest.SCHEMA:
        raise BadLine(f"'key' is of schema {parts.schema}; this version knows {digest.SCHEMA}")
    return key


def _key_id(text: str) -> str:
    if text and not (len(text) == _KEY_ID_LENGTH and _HEX.issuperset(text)):
        raise BadLine("'hidden_by' is not the id of an encryption key")
    return text


def _bytes(text: str | None) -> bytes | None:
    try:
        return None if text is None else text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        raise BadLine("'request' has half of a surrogate pair") from None


def _payload(value: Any) -> Payload:
    try:
        return Payload.from_json(_encode(value).encode())
    except UnicodeEncodeError:
        raise BadLine("'value' has half of a surrogate pair") from None
    except RecursionError:
        raise BadLine("nested too deeply") from None
    except ValueError:  # 1e999 is read as infinite
        raise BadLine("'value' has a number that JSON cannot hold") from None
