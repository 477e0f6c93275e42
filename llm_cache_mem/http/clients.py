"""``cache_client``: the client of an SDK with the cache under it, on the connections, timeouts and
retries that it already has."""

import copy
import inspect
from collections.abc import Iterator
from typing import Any, Final, TypeVar

from llm_cache_mem.cache import LLMCache
from llm_cache_mem.http.core import Usage
from llm_cache_mem.http.library import library_of
from llm_cache_mem.http.transport import AsyncCacheTransport, CacheTransport

__all__ = ["cache_client"]

C = TypeVar("C")

# how far below an SDK's client its HTTP clients lie at most: mistralai's are three down,
# google-genai's two
_DEPTH: Final = 6


def cache_client(client: C, cache: LLMCache, *, usage: Usage | None = None) -> C:
    """*client* answering from *cache*: an SDK's client that holds an HTTP client of httpx or
    httpx2, or such a client itself.

    An HTTP client, and the clients of the SDKs that can copy theirs with another HTTP client
    (OpenAI, Anthropic and Groq with all their variants), stay as they are: a new client of the same
    type is returned, which uses the same connections; closing either closes them. Others
    (mistralai, cohere, google-genai, ollama), and clients with methods that were patched on the
    object, as by LangSmith's ``wrap_openai``, are given the cache themselves and returned. A client
    that has a cache already gets this one instead.

    Args:
        client: The client.
        cache: Where answers are stored.
        usage: What hits report: ``"keep"``, the tokens of the call that was made, or ``"zero"``,
            none. By default they keep them, except where an instrumentor that adds them up watches
            the call. What a hit saved stands in the headers ``x-llm-cache-saved-*``.

    Raises:
        TypeError: *client* is anything else.
    """
    if isinstance(client, LLMCache):
        raise TypeError("the two arguments are swapped: cache_client(client, cache)")
    if not isinstance(cache, LLMCache):
        raise TypeError(
            f"cache_client(client, cache) takes an LLMCache, not {type(cache).__name__}"
        )
    if _is_http_client(client):
        return _copy_of(client, cache, usage)  # type: ignore[no-any-return]  # of the same class
    inner = getattr(client, "_client", None)
    if _is_http_client(inner) and _copies_with_http_client(client) and not _is_patched(client):
        # asked above
        copy: Any = client.copy(http_client=_copy_of(inner, cache, usage))  # type: ignore[attr-defined]
        cache.engine.layers.clients.add(copy)
        return copy  # type: ignore[no-any-return]
    found = list({id(http): http for http in _http_clients(client)}.values())
    if not found:
        name = f"{type(client).__module__}.{type(client).__qualname__}"
        raise TypeError(
            f"no HTTP client of httpx or httpx2 was found in {name}. Give it one of yours, if it"
            " takes one: http_client=httpx.Client(transport=CacheTransport(cache)), or httpx2, or"
            " their async forms"
        )
    for http in found:
        _put_under(http, cache, usage)
    _prefer_httpx(client)
    cache.engine.layers.clients.add(client)
    return client


def _copies_with_http_client(client: Any) -> bool:
    copies = getattr(type(client), "copy", None)  # ollama has one that copies a model
    return copies is not None and "http_client" in inspect.signature(copies).parameters


def _is_patched(client: Any) -> bool:
    """Whether a method was replaced on *client* itself or on a part of it: a copy would be without
    that."""
    return any(
        callable(value) and inspect.isfunction(getattr(type(holder), name, None))
        for holder in _parts(client)
        for name, value in vars(holder).items()
    )


def _is_http_client(thing: Any) -> bool:
    try:
        module = library_of(thing).module
    except TypeError:
        return False
    return isinstance(thing, (module.Client, module.AsyncClient))


def _copy_of(http: Any, cache: LLMCache, usage: Usage | None) -> Any:
    """A client like *http*, which it keeps alive, since what they share ends with either."""
    kind = type(http)
    cached = copy.copy(http)
    if hasattr(
        kind, "__del__"
    ):  # SDKs close a client that is no longer needed; what this one shares may be
        cached.__class__ = type(
            kind.__name__, (kind,), {"__del__": _stays_open, "__module__": kind.__module__}
        )
    cached._llm_cache_mem_original = http
    _put_under(cached, cache, usage)
    return cached


def _stays_open(self: Any) -> None:
    pass


def _put_under(http: Any, cache: LLMCache, usage: Usage | None) -> None:
    """Wrap the transports of *http* itself: its own, those for proxies, and those that it may make
    for other event loops."""
    kind = (
        AsyncCacheTransport
        if isinstance(http, library_of(http).module.AsyncClient)
        else CacheTransport
    )  # a mock transport is both
    http._transport = _wrap(http._transport, cache, kind, usage)
    http._mounts = {
        pattern: None if mounted is None else _wrap(mounted, cache, kind, usage)
        for pattern, mounted in http._mounts.items()
    }
    per_loop = getattr(http, "_inner_client_cls", None)  # google-genai
    if per_loop is not None:
        made_by = getattr(per_loop, "_llm_cache_mem_makes", per_loop)

        def make(*args: Any, **kwargs: Any) -> Any:
            inner = made_by(*args, **kwargs)
            _put_under(inner, cache, usage)
            return inner

        make._llm_cache_mem_makes = made_by  # type: ignore[attr-defined]  # a mark of ours
        http._inner_client_cls = make
        for inner in list(getattr(http, "_loop_clients", {}).values()):
            _put_under(inner, cache, usage)


def _wrap(transport: Any, cache: LLMCache, kind: type[Any], usage: Usage | None) -> Any:
    return kind(
        cache,
        (
            transport.wrapped
            if isinstance(transport, (CacheTransport, AsyncCacheTransport))
            else transport
        ),
        usage=usage,
    )


def _http_clients(client: Any) -> Iterator[Any]:
    """The HTTP clients that lie in *client*, in itself and in its parts."""
    for holder in _parts(client):
        yield from filter(_is_http_client, list(vars(holder).values()))


def _parts(client: Any) -> Iterator[Any]:
    """*client*, and the objects of the same SDK that it holds, and so on."""
    package = type(client).__module__.partition(".")[0]
    seen = {id(client)}
    level = [client]
    for _ in range(_DEPTH):
        below: list[Any] = []
        for holder in level:
            if not hasattr(holder, "__dict__"):
                continue
            yield holder
            for part in list(vars(holder).values()):
                if id(part) not in seen and type(part).__module__.partition(".")[0] == package:
                    seen.add(id(part))
                    below.append(part)
        level = below


def _prefer_httpx(client: Any) -> None:
    """google-genai sends async calls by aiohttp where that is installed, unless it was given an
    HTTP client."""
    api = getattr(client, "_api_client", None)
    options: Any = getattr(api, "_http_options", None)
    http = getattr(api, "_async_httpx_client", None)
    if http is not None and hasattr(options, "httpx_async_client"):
        options.httpx_async_client = http
