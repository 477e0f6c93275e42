"""Cassettes of VCR.py and pytest-recording: YAML or JSON files with HTTP requests and responses."""

import base64
import gzip
import json
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import yaml  # type: ignore[import-untyped]  # no stubs of its own

from llm_cache_mem.cache import LLMCache
from llm_cache_mem.http.request import is_generation
from llm_cache_mem.http.transport import CacheTransport
from llm_cache_mem.migration.sources import Form, Skipped, files_in

__all__ = ["Interaction", "records"]

_SUFFIXES = (".yaml", ".yml", ".json", ".yaml.gz", ".json.gz")
_Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class Interaction(NamedTuple):
    """A recorded exchange."""

    request: httpx.Request
    response: httpx.Response

    def ask(self, cache: LLMCache, form: Form) -> None:
        recorded = httpx.MockTransport(lambda request: self.response)
        with httpx.Client(transport=CacheTransport(cache, recorded)) as client:
            try:
                client.send(self.request)
            except httpx.DecodingError:
                raise Skipped("a body in an encoding that is not installed here") from None


def records(source: str) -> Iterator[Interaction | Skipped]:
    """The exchanges with models in the cassette, or in those below the folder, at *source*."""
    for file in files_in(source, *_SUFFIXES):
        try:
            interactions = _interactions(file)
        except Skipped as exc:
            yield exc
            continue
        for interaction in interactions:
            yield _read(interaction)


def _interactions(file: Path) -> list[Any]:
    data = file.read_bytes()
    try:
        text = (gzip.decompress(data) if file.name.endswith(".gz") else data).decode()
        found = json.loads(text) if ".json" in file.suffixes else yaml.load(text, _Loader)  # safe
    except (ValueError, OSError, yaml.YAMLError):
        raise Skipped("a file that is not YAML or JSON") from None
    interactions = found.get("interactions") if isinstance(found, dict) else None
    if not isinstance(interactions, list):
        raise Skipped("a file that is not a cassette")
    return interactions


def _read(interaction: Any) -> Interaction | Skipped:
    try:
        asked, answered = interaction["request"], interaction["response"]
        url, method = httpx.URL(asked["uri"]), str(asked["method"])
        headers = _headers(asked.get("headers"))
        content_type = dict(headers).get("content-type", "")
        if not is_generation(method, url.raw_path.decode().partition("?")[0], content_type):
            return Skipped("not a request for a model")
        if url.host in ("", "**REDACTED**"):
            return Skipped("a request without its URL")
        request = httpx.Request(method, url, headers=headers, content=_body(asked))
        status = answered["status"]
        code = status["code"] if isinstance(status, dict) else status
        fields = [pair for pair in _headers(answered.get("headers")) if pair[0] not in _FRAMING]
        fields = _plain(fields, answered)
        packages = _DECODERS.get(dict(fields).get("content-encoding", ""), ())
        if packages and not any(map(find_spec, packages)):
            return Skipped(f"a compressed body that needs {packages[0]}: pip install {packages[0]}")
        response = httpx.Response(int(code), headers=fields, content=_body(answered))
    except (KeyError, TypeError, ValueError, AttributeError, httpx.InvalidURL):
        return Skipped("an exchange that is not complete")
    except httpx.DecodingError:
        return Skipped("a body in an encoding that is not installed here")
    return Interaction(request, response)


_DECODERS = {"br": ("brotli", "brotlicffi"), "zstd": ("zstandard",)}
"""The packages with which httpx decodes what Python cannot."""
_FRAMING = frozenset({"content-length", "transfer-encoding", "connection"})


def _plain(fields: list[tuple[str, str]], answered: Any) -> list[tuple[str, str]]:
    """*fields* without a content encoding that the recorded body no longer has."""
    body = _body(answered)
    packed = body[:2] == b"\x1f\x8b" or body[:1] not in (b"{", b"[", b"d", b"e", b":")
    return fields if packed else [pair for pair in fields if pair[0] != "content-encoding"]


def _headers(given: Any) -> list[tuple[str, str]]:
    """Headers whose values are texts or, as VCR.py writes them, lists of texts."""
    pairs: list[tuple[str, str]] = []
    for name, values in (given or {}).items():
        for value in values if isinstance(values, list) else [values]:
            pairs.append((str(name).lower(), str(value)))
    return pairs


def _body(part: Any) -> bytes:
    """The body as bytes: VCR.py's text, bytes or base64, or a tree of JSON (pydantic-ai)."""
    if "parsed_body" in part:
        return json.dumps(part["parsed_body"], ensure_ascii=False).encode()
    body = part.get("body")
    if isinstance(body, dict):
        if "base64_string" in body:
            return base64.b64decode(body["base64_string"])
        body = body.get("string", body.get("encoded_string"))
    return body if isinstance(body, bytes) else str(body or "").encode()
