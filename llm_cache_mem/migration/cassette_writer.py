"""HTTP entries as a cassette of VCR.py, which replays them.

A cassette holds requests as they were sent. They are rebuilt from the requests that a store keeps,
and checked against their keys; one that cannot be rebuilt is left out.
"""

import json
from collections.abc import Iterable, Iterator
from typing import Any, BinaryIO, Final
from urllib.parse import urlencode

import yaml  # type: ignore[import-untyped]  # no stubs of its own

from llm_cache_mem.cache import LLMCache
from llm_cache_mem.errors import EntryUnreadable, RequestNotCacheable
from llm_cache_mem.http.answer import decode_whole
from llm_cache_mem.http.request import read
from llm_cache_mem.keys import digest as keys
from llm_cache_mem.migration.sources import Skipped
from llm_cache_mem.values.entry import Entry

__all__ = ["interaction_of", "write_cassette"]

_Dumper = getattr(yaml, "CSafeDumper", yaml.SafeDumper)
_JSON: Final = ("content-type", "application/json")
_OURS: Final = "http."


def write_cassette(interactions: Iterable[dict[str, Any]], out: BinaryIO) -> None:
    """Write *interactions* as a cassette of VCR.py, in YAML."""
    cassette = {"interactions": list(interactions), "version": 1}
    yaml.dump(cassette, out, _Dumper, encoding="utf-8", allow_unicode=True, sort_keys=True)


def interaction_of(key: str, entry: Entry) -> dict[str, Any]:
    """The request and the response of an HTTP entry, as VCR.py writes them. Raises Skipped."""
    if not keys.parse(key).kind == "http":
        raise Skipped("not a response of HTTP")
    if entry.request is None:
        raise Skipped("no stored request: set keep_requests=True, or record in a jsonl store")
    try:
        stored: dict[str, Any] = json.loads(entry.request)
        response = decode_whole(entry.payload.decode())
    except (ValueError, EntryUnreadable):
        raise Skipped("an entry that cannot be read") from None
    body = b"".join(response.chunks)
    try:
        answered: str | bytes = body.decode()
    except UnicodeDecodeError:
        answered = body
    return {
        "request": _request(stored, keys.parse(key).digest),
        "response": {
            "status": {"code": response.status, "message": "OK"},
            "headers": _listed(response.headers),
            "body": {"string": answered},
        },
    }


def _request(stored: dict[str, Any], digest: str) -> dict[str, Any]:
    base_url, path = str(stored.get("http.base_url")), str(stored.get("http.path"))
    headers = [*dict(stored.get("http.headers") or {}).items(), _JSON]
    query = urlencode([(name, value) for name, value in stored.get("http.query") or ()])
    for fields in _bodies(stored):
        body = json.dumps(fields, ensure_ascii=False)
        if _key(base_url, path, query, headers, body.encode("utf-8", "surrogatepass")) == digest:
            uri = f"{base_url}{path}?{query}" if query else f"{base_url}{path}"
            return {"method": "POST", "uri": uri, "headers": _listed(headers), "body": body}
    raise Skipped("a request that is not stored as it was sent")


def _bodies(stored: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """What may have been sent: requests are stored as Chat Completions, whatever the API."""
    fields = {name: value for name, value in stored.items() if not name.startswith(_OURS)}
    yield fields
    messages = fields.pop("messages", None)
    if not isinstance(messages, list) or not messages:
        return
    first, rest = messages[0], messages[1:]
    content = first.get("content") if isinstance(first, dict) else None
    yield {**fields, "messages": rest, "system": content}
    for name in ("input", "prompt"):
        yield {**fields, name: content}
        yield {**fields, name: messages}
    if len(rest) == 1 and isinstance(rest[0], dict):
        yield {**fields, "instructions": content, "input": rest[0].get("content")}
    yield {**fields, "instructions": content, "input": rest}


def _key(
    base_url: str, path: str, query: str, headers: list[tuple[str, str]], body: bytes
) -> str | None:
    try:
        asked = read(base_url, path, query, headers, body)
        return _KEYER.key(asked.messages, **asked.params)
    except (RequestNotCacheable, UnicodeError):
        return None


_KEYER: Final = LLMCache(max_size=1)


def _listed(headers: Iterable[tuple[str, str]]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for name, value in headers:
        found.setdefault(name, []).append(value)
    return found
