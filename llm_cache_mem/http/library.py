"""httpx and httpx2, one library under two names: find the one that a request came from."""

import sys
from collections.abc import Iterator
from contextlib import closing
from functools import cache
from typing import Any, Final

from llm_cache_mem.http.decoding import collected, pieces_of

__all__ = ["NAMES", "HttpLibrary", "library_of"]

NAMES: Final = ("httpx", "httpx2")


class HttpLibrary:
    """One of the two. Never imports it: an object of it exists, so it is imported."""

    def __init__(self, module: Any) -> None:
        self.module = module

        # which of the two is known only here
        class SyncBytes(module.SyncByteStream):  # type: ignore[misc]
            def __init__(self, source: Any) -> None:
                self._source = source

            def __iter__(self) -> Iterator[bytes]:
                return iter(self._source)

            def close(self) -> None:
                self._source.close()

        class AsyncBytes(module.AsyncByteStream):  # type: ignore[misc]  # as above
            def __init__(self, source: Any) -> None:
                self._source = source

            def __aiter__(self) -> Any:
                return aiter(self._source)

            async def aclose(self) -> None:
                await self._source.aclose()

        self._sync_bytes, self._async_bytes = SyncBytes, AsyncBytes

    def response(self, status: int, headers: Any, source: Any, extensions: Any = None) -> Any:
        """A response whose bytes come from *source*, a Subscriber, an AsyncSubscriber or their
        like."""
        wrap = self._async_bytes if hasattr(source, "aclose") else self._sync_bytes
        return self.module.Response(
            status, headers=headers, stream=wrap(source), extensions=extensions or {}
        )

    def decoder(self, encoding: str) -> Any:
        """A function that undoes the content *encoding* of a whole body."""

        def decompress(body: bytes) -> bytes:
            response = self.module.Response(
                200,
                headers={"content-encoding": encoding},
                stream=self._sync_bytes(pieces_of(body)),
            )
            with closing(response):
                return collected(response.iter_bytes())

        return decompress

    def lost(self) -> Exception:
        """The error for subscribers of a call whose connection another caller lost."""
        error: Exception = self.module.ReadError(
            "the call that this request was coalesced with was interrupted; try again"
        )
        return error


@cache
def _named(name: str) -> HttpLibrary:
    return HttpLibrary(sys.modules[name])


def library_of(thing: Any) -> HttpLibrary:
    """The library that *thing*, a request, a transport or a client, is of. TypeError if it is of
    neither."""
    for base in type(thing).__mro__:
        name = base.__module__.partition(".")[0]
        if name in NAMES and name in sys.modules:
            return _named(name)
    raise TypeError(
        f"{type(thing).__module__}.{type(thing).__qualname__} is of neither httpx nor httpx2"
    )
