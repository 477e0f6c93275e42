"""Compressed answers are decoded within the bound of an answer."""

import gzip
import tracemalloc
import zlib
from collections.abc import Callable
from typing import Any

import aiohttp
import httpx
import httpx2
import pytest
import urllib3

from llm_cache_mem.gateway import upstream
from llm_cache_mem.http import aiohttp_exchange, urllib3_exchange
from llm_cache_mem.http.answer import Recording
from llm_cache_mem.http.decoding import MAX_ANSWER_BYTES, TooLarge, inflated
from llm_cache_mem.http.library import HttpLibrary

assert aiohttp.__name__
assert urllib3.__name__

DECODERS: dict[str, Callable[[str], Callable[[bytes], bytes]]] = {
    "httpx": lambda encoding: HttpLibrary(httpx).decoder(encoding),
    "httpx2": lambda encoding: HttpLibrary(httpx2).decoder(encoding),
    "aiohttp": lambda encoding: lambda body: aiohttp_exchange._decompressed(encoding, body),
    "urllib3": lambda encoding: lambda body: urllib3_exchange._decoded(encoding, body),
    "gateway": upstream._decoder,
}


@pytest.mark.parametrize("library", DECODERS)
@pytest.mark.parametrize("encoding", ["gzip", "deflate"])
def test_a_body_that_stands_for_gigabytes_is_let_go_of(library: str, encoding: str) -> None:
    compressed = (gzip.compress if encoding == "gzip" else zlib.compress)(bytes(200 << 20))
    decode = DECODERS[library](encoding)
    headers = [("content-type", "application/json"), ("content-encoding", encoding)]
    recording = Recording(200, headers, decode)
    recording.add(compressed)
    tracemalloc.start()
    try:
        assert not recording.finish(at_end=True)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert recording.fault == "too large"
    assert peak < 100 << 20  # urllib3 decodes 64 KiB at a time


@pytest.mark.parametrize("library", DECODERS)
@pytest.mark.parametrize("size", [0, 1, 4096, 100_000, MAX_ANSWER_BYTES])
def test_a_body_within_the_bound_is_decoded(library: str, size: int) -> None:
    body = bytes(size)
    assert DECODERS[library]("gzip")(gzip.compress(body)) == body


def test_a_body_that_breaks_off_or_is_too_large_raises() -> None:
    whole: Any = zlib.compress(b"x" * 1000)
    with pytest.raises(ValueError, match="breaks off"):
        inflated(whole[:-4], 15)
    with pytest.raises(TooLarge):
        inflated(zlib.compress(bytes(MAX_ANSWER_BYTES + 1)), 15)
