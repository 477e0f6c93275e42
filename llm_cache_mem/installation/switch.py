"""Turn a cache on and off for the whole process."""

import logging
import os
import threading
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Final, Literal

from llm_cache_mem._util.fork import reset_after_fork
from llm_cache_mem.cache import LLMCache
from llm_cache_mem.engine.recipe import has_same_settings
from llm_cache_mem.stores.urls import URL_VARIABLE

if TYPE_CHECKING:  # loaded by the first install: a process that has none waits for nothing
    from llm_cache_mem.installation.active import Installation

__all__ = ["Place", "install", "installed", "put", "take_off", "uninstall"]

_log = logging.getLogger(__name__)

Cache = LLMCache | str | os.PathLike[str]
Place = Literal["run", "install", "with", "test"]
"""Where an installation came from. A program under ``run`` may install another cache over that of
``run``; in a test, the recordings stay."""


class _Stack:
    """The installations of this process, the one that is on last."""

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.places: list[tuple[Place, Installation]] = []
        reset_after_fork(self)

    def _after_fork(self) -> None:
        self.lock = threading.RLock()

    def of(self, place: Place) -> "Installation | None":
        """The last installation from *place*."""
        return next((found for at, found in reversed(self.places) if at == place), None)

    def push(self, place: Place, installation: "Installation") -> None:
        self.places.append((place, installation))
        self._update()

    def remove(self, installation: "Installation") -> None:
        self.places = [held for held in self.places if held[1] is not installation]
        self._update()

    def _update(self) -> None:
        from llm_cache_mem.installation.active import activate
        from llm_cache_mem.installation.libraries import LIBRARIES

        activate(self.places[-1][1] if self.places else None)
        if self.places:
            LIBRARIES.turn_on()
        else:
            LIBRARIES.turn_off()


_stack: Final = _Stack()


def install(
    cache: Cache | None = None, *, hosts: str | Iterable[str] = (), mocks: bool = False
) -> LLMCache:
    """Answer every provider's SDK of this process from *cache*, clients made before included.

    It works below the SDKs, in httpx, httpx2, aiohttp, requests, urllib3 and botocore, and touches
    only requests for models: those to known providers, to *hosts*, and to servers on this machine
    whose path is a known one. The same cache or URL again does nothing.

    Args:
        cache: An LLMCache, or a URL or path to open one from. By default, what the environment
            variable LLM_CACHE_MEM_URL names, else a cache in memory.
        hosts: Servers of your own that speak a provider's protocol, such as "llm.internal:8000" or
            "*.example.com".
        mocks: Whether to answer requests that a test has mocked, too (respx, pytest-httpx,
            MockTransport). Otherwise these are left alone.

    Returns:
        The cache that is installed.

    Raises:
        TypeError: *cache* is no cache.
        ValueError: *cache* is closed, or a URL that names none.
        RuntimeError: Another cache is installed; the message names it.

    Example:
        >>> llm_cache_mem.install("sqlite://./cache.db")
        >>> openai.OpenAI().chat.completions.create(...)  # the second time from the cache
    """
    from llm_cache_mem.http.providers import Hosts

    named = Hosts(hosts)
    with _stack.lock:
        kept = _stack.of("test") or _stack.of("install")
        if kept is not None and (_is_same(kept, cache) or kept is _stack.of("test")):
            if kept is _stack.of("test"):
                _log.info("install: this test keeps to its recordings, %r", kept.cache)
            kept.hosts |= named
            return kept.cache
        if kept is not None:
            raise RuntimeError(
                f"{kept.cache!r} is installed already: call llm_cache_mem.uninstall() first, or use"
                " `with llm_cache_mem.installed(cache):`"
            )
        outer = _stack.of("run")
        if outer is not None:
            if _is_same(outer, cache):
                outer.hosts |= named
                return outer.cache
            _log.warning("install: over the cache of llm-cache-mem run, %r", outer.cache)
        return put("install", cache, named, mocks=mocks).cache


def uninstall() -> None:
    """Undo ``install``: every library is exactly as it was. Without one it does nothing.

    The cache stays open if it was handed in.
    """
    with _stack.lock:
        installation = _stack.of("install")
        if installation is not None:
            take_off(installation)


class installed:  # reads as a verb: with installed(cache): ...
    """``install`` for a block: ``with llm_cache_mem.installed(cache):``.

    It may stand in another one, and in a process that has installed another cache: what was on
    before is on again at its end. It counts for all threads of the process.

    Args:
        cache: As for ``install``.
        hosts: As for ``install``.
        mocks: As for ``install``.
    """

    def __init__(
        self, cache: Cache | None = None, *, hosts: str | Iterable[str] = (), mocks: bool = False
    ) -> None:
        from llm_cache_mem.http.providers import Hosts

        self._cache, self._hosts, self._mocks = cache, Hosts(hosts), mocks
        self._on: list[Installation] = []

    def __enter__(self) -> LLMCache:
        installation = put("with", self._cache, self._hosts, mocks=self._mocks)
        self._on.append(installation)
        return installation.cache

    def __exit__(self, *exc: object) -> None:
        take_off(self._on.pop())


def put(
    place: Place, cache: Cache | None, hosts: Any = (), *, mocks: bool = False
) -> "Installation":
    """Install *cache* over what is on, for *place*; ``take_off`` ends it."""
    from llm_cache_mem.http.providers import Hosts
    from llm_cache_mem.installation.active import Installation

    if not isinstance(mocks, bool):
        raise TypeError(f"mocks must be True or False, not {mocks!r}")
    named = hosts if isinstance(hosts, Hosts) else Hosts(hosts)
    url = None if isinstance(cache, LLMCache) else _url(cache)
    opened = cache if isinstance(cache, LLMCache) else LLMCache(backend=url or "memory")
    if opened.engine.closed:
        raise ValueError(f"{opened!r} is closed: make a new LLMCache to install")
    installation = Installation(opened, named, mocks=mocks, url=url, above_answers=place == "test")
    with _stack.lock:
        _stack.push(place, installation)
    return installation


def take_off(installation: "Installation") -> None:
    """End an installation; a cache that was opened for it is closed."""
    with _stack.lock:
        _stack.remove(installation)
    if installation.url is not None:
        installation.cache.close()


def _url(cache: str | os.PathLike[str] | None) -> str:
    if cache is None:
        return os.environ.get(URL_VARIABLE) or "memory"
    if not isinstance(cache, str | os.PathLike):
        raise TypeError(f"install takes an LLMCache, a URL or a path, not {type(cache).__name__}")
    return os.fspath(cache)


def _is_same(installation: "Installation", cache: Cache | None) -> bool:
    """Whether to install *cache* would change nothing: the same object, the same URL, or a cache
    made again with the same settings on the same store."""
    if cache is None and not os.environ.get(URL_VARIABLE):
        return True
    if isinstance(cache, LLMCache):
        return cache is installation.cache or has_same_settings(cache, installation.cache)
    return installation.url == _url(cache)
