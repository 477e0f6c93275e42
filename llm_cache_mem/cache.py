"""LLMCache: the same request is answered once and paid for once, whoever asks and however many ask
at once."""

import os
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, Self, TypeVar, overload

from llm_cache_mem._util.clock import now
from llm_cache_mem.accounting import pricing
from llm_cache_mem.accounting.counters import Ledger
from llm_cache_mem.engine.calls import Engine, Settings
from llm_cache_mem.engine.circumstances import circumstances_of, timeout_of
from llm_cache_mem.errors import NamespaceMissing
from llm_cache_mem.keys import digest
from llm_cache_mem.keys.request import Keyer, Request, parameter_names
from llm_cache_mem.options import UNSET, Mode, Seconds, Unset, check_mode, current, to_seconds
from llm_cache_mem.responses import admission
from llm_cache_mem.stores import Backend, StoreSettings, open_store
from llm_cache_mem.stores.base import keeps_recordings
from llm_cache_mem.values.encryption import (
    KEY_VARIABLE,
    Keys,
    envelope_for,
    named_key,
    warn_of_plain,
)

if TYPE_CHECKING:  # only caches that keep requests explain and redact
    from llm_cache_mem.accounting.stats import CacheStats, Event
    from llm_cache_mem.diagnostics.explain import Explanation
    from llm_cache_mem.diagnostics.redaction import Redaction, Rule

__all__ = ["LLMCache"]

T = TypeVar("T")
F = TypeVar("F", bound=Callable[..., Any])

_DEFAULT_MAX_SIZE = 256

_NOT_ASYNC = (
    "aget_or_call takes a function that returns an awaitable, or with stream=True an async iterator"
    " (get_or_call: any other)"
)


class LLMCache:
    """An exact-match cache of LLM answers: LRU and TTL, thread-safe, in memory or in a store.

    *max_size*: entries (default 256; None: unbounded). *ttl_seconds*: how old an answer may be, in
      seconds or a timedelta
    (default 3600; None: any age). *max_bytes*: bound on what the entries weigh. *backend*:
    ``memory``, a URL, a path, or a Store.
    *namespace*: the tenant or purpose, in front of every key. *key_fn*: ``(messages, **params)`` to
      what is hashed instead.
    *ignore*: parameter names that are not part of a request. *admit*: ``complete`` (default: no
      truncated, refused or empty
    answer is kept), ``any``, or a function of the response. *mode*: on, off, refresh or replay; by
    default what LLM_CACHE_MEM_MODE says, else on. *prices*: a dict, a callable, or None for
    genai-prices. *coalesce*: whether concurrent identical calls become one, in this process or,
    with ``"fleet"``, in all that share the store. *wait_seconds*: for how long one of them waits
    for another. *strict*: raise StoreError when the store fails instead of going on without it.
    *require_namespace*: skip calls outside of any namespace, as where a framework has lost the
    context of a call, so that they never share answers with another tenant.
    *policy*: which entry of a full memory goes: ``lru``, the least recently used, or ``sieve``,
    which holds on to what was asked for again.
    *encryption_key*: one or several, as crypto.Encryption takes them, by default what
      LLM_CACHE_MEM_KEY names, with which all that is
    kept outside of this process is encrypted. *keep_requests*: store each request beside its
    answer, without secrets and what *redact* names (names of fields, compiled patterns), so that a
    miss can be explained; always so in a jsonl store. *on_event*: a function that is told of each
    Event. *clock*: gives the time in Unix seconds.

    Raises ValueError or TypeError for a wrong argument, ``coalesce="fleet"`` with a store that
    cannot lease among them, and StoreError or OSError for a path that cannot hold a database.
    """

    def __init__(
        self,
        max_size: int | Unset | None = UNSET,
        ttl_seconds: Seconds = 3600,
        *,
        backend: Backend = "memory",
        namespace: str = "",
        key_fn: Callable[..., Any] | None = None,
        ignore: Iterable[str] = digest.DEFAULT_IGNORE,
        max_bytes: int | None = None,
        admit: Literal["complete", "any"] | Callable[[Any], Any] = "complete",
        mode: Mode | None = None,
        prices: Any = None,
        coalesce: bool | Literal["fleet"] = True,
        wait_seconds: float = 600.0,
        strict: bool = False,
        require_namespace: bool = False,
        policy: Literal["lru", "sieve"] = "lru",
        encryption_key: Keys | None = None,
        keep_requests: bool = False,
        redact: "Iterable[Rule]" = (),
        on_event: "Callable[[Event], object] | None" = None,
        clock: Callable[[], float] = now,
    ) -> None:
        self._config = {
            name: value
            for name, value in locals().items()
            if name not in ("self", "__class__", "encryption_key")
        }
        if on_event is not None and not callable(on_event):
            raise TypeError(
                f"on_event must be a function of one Event, not {type(on_event).__name__}"
            )
        if not callable(clock):
            raise TypeError(
                f"clock must be a function that gives Unix seconds, not {type(clock).__name__}"
            )
        if coalesce not in (True, False, "fleet"):
            raise ValueError(f"coalesce must be True, False or 'fleet', not {coalesce!r}")
        environment = os.environ.get("LLM_CACHE_MEM_MODE") or "on"
        settings = Settings(
            ttl_seconds=to_seconds(ttl_seconds),
            max_bytes=_bound(max_bytes, "max_bytes"),
            mode=(
                check_mode(environment, "LLM_CACHE_MEM_MODE") if mode is None else check_mode(mode)
            ),
            admit=admission.resolve(admit),
            own_admit=callable(admit),
            price=pricing.resolve(prices),
            coalesce=coalesce,
            wait_seconds=to_seconds(wait_seconds, "wait_seconds") or 600.0,
            strict=_switch(strict, "strict"),
            clock=clock,
        )
        size = _DEFAULT_MAX_SIZE if isinstance(max_size, Unset) else _bound(max_size, "max_size")
        keyer = Keyer(
            namespace,
            key_fn,
            ignore,
            texts=_switch(keep_requests, "keep_requests"),
            require_namespace=_switch(require_namespace, "require_namespace"),
        )
        opened = open_store(  # when all else has been found right: it makes files
            backend,
            StoreSettings(size, max_bytes, clock, envelope_for(encryption_key), redact, policy),
        )
        self._owned, self._name = opened.owned, opened.name
        records = keeps_recordings(opened.store)
        if not opened.bounded and (max_bytes is not None or not isinstance(max_size, Unset)):
            raise ValueError(
                f"{opened.name} takes no max_size or max_bytes from here: a server keeps to its own"
                " memory settings, a store that is handed in to the bounds that it was made with,"
                " and recordings go only by name"
            )
        if not opened.owned:
            if encryption_key is not None:
                raise ValueError(
                    "a store that is handed in has an envelope of its own: give it"
                    " envelope=llm_cache_mem.values.encryption.Encryption(key)"
                )
            if redact and records:
                raise ValueError(
                    "a store of recordings that is handed in redacts by itself: give redact to it"
                )
            warn_of_plain(opened.store, opened.name)
        digests = getattr(getattr(opened.store, "envelope", None), "digests", ())
        keyer.texts = keep_requests or records
        keyer.hide(digests)
        self._encrypted_by = (
            ""
            if not digests or not opened.owned
            else "environment"
            if encryption_key is None
            else "argument"
        )
        own = getattr(opened.store, "redaction", None) if records else None
        redaction = own or (_redaction(redact) if keep_requests or redact or records else None)
        self.engine = Engine(
            opened.store, keyer, Ledger(clock, on_event), settings._replace(redaction=redaction)
        )
        """What integrations stand on: see the page "Write an integration"."""

    @classmethod
    async def open(cls, *args: Any, **kwargs: Any) -> Self:
        """An LLMCache, made in a thread: for event loops, which opening a file would block.

        Takes the arguments of LLMCache, and raises what it raises.
        """
        import asyncio  # slow to import, and only async callers need it

        return await asyncio.to_thread(cls, *args, **kwargs)

    # -- The two calls that the rest is made of

    def get(self, messages: Any, *, default: Any = None, **params: Any) -> Any:
        """The answer stored for this request, as a new object, or *default*. RequestNotCacheable if
        the request has no key."""
        request = self._value_request(messages, params)
        hit = None if request is None else self.engine.lookup(request)
        return default if hit is None else hit.value

    def put(self, messages: Any, value: Any, **params: Any) -> None:
        """Store *value* as the answer to this request, replacing any other, whatever *admit* would
        say.

        Raises RequestNotCacheable if the request has no key, and ValueNotCacheable if *value* would
        not come back equal.
        """
        request = self._value_request(messages, params)
        if request is not None:
            self.engine.writer.put(request, value)

    async def aget(self, messages: Any, *, default: Any = None, **params: Any) -> Any:
        """As ``get``; a store that waits for a disk does so in a thread."""
        request = self._value_request(messages, params)
        hit = None if request is None else await self.engine.alookup(request)
        return default if hit is None else hit.value

    async def aput(self, messages: Any, value: Any, **params: Any) -> None:
        """As ``put``, in a thread where it would wait."""
        await self.engine.writer.load_prices()
        await self.engine.off_loop(lambda: self.put(messages, value, **params))

    def _value_request(self, messages: Any, params: dict[str, Any]) -> Request | None:
        """The request of ``get`` and ``put``; None, counted as skipped, where the cache requires a
        namespace and there is none."""
        try:
            return self.engine.keyer.request(messages, params, "value")
        except NamespaceMissing as exc:
            if self.engine.is_replay:
                raise
            self.engine.skip(exc.skipped_as, "a call goes past the cache: %s", exc)
            return None

    # -- Calling a model through the cache

    def get_or_call(self, messages: Any, fn: Callable[..., T], **params: Any) -> T:
        """The stored answer, or that of ``fn(messages=messages, **params)``, which is then stored.

        With ``stream=True`` *fn* returns an iterable of chunks, and so does this. A request that
        has no key calls *fn* uncached.
        """
        streaming = bool(params.get("stream"))
        request = self.engine.request(messages, params, kind="stream" if streaming else "value")

        def call() -> Any:
            return fn(messages=messages, **params)

        if request is None:
            return call()  # type: ignore[no-any-return]  # what fn returns
        if streaming:
            return self.engine.stream(request, call)  # type: ignore[return-value]  # as above
        return self.engine.call(  # type: ignore[no-any-return]  # what fn returns, or a copy
            request,
            call,
            circumstances=lambda: circumstances_of(fn, self.engine.keyer.ignored(params)),
            timeout=timeout_of(params),
        )

    @overload
    async def aget_or_call(
        self, messages: Any, fn: Callable[..., Awaitable[T]], **params: Any
    ) -> T: ...
    @overload
    async def aget_or_call(
        self, messages: Any, fn: Callable[..., AsyncIterator[T]], **params: Any
    ) -> AsyncIterator[T]: ...
    async def aget_or_call(self, messages: Any, fn: Callable[..., Any], **params: Any) -> Any:
        """``get_or_call`` for a coroutine function; with ``stream=True`` it returns an async
        iterable, or is an async generator.

        TypeError, after the call, for an *fn* that is neither: ``get_or_call`` is for those.
        """
        streaming = bool(params.get("stream"))
        request = self.engine.request(messages, params, kind="stream" if streaming else "value")

        async def call() -> Any:
            made = fn(messages=messages, **params)
            if streaming and hasattr(made, "__aiter__") and not hasattr(made, "__await__"):
                return made
            if not hasattr(made, "__await__"):
                raise TypeError(f"{_NOT_ASYNC}, not {type(made).__name__}")
            return await made

        if request is None:
            return await call()
        if streaming:
            return await self.engine.astream(request, call)
        return await self.engine.acall(
            request,
            call,
            circumstances=lambda: circumstances_of(fn, self.engine.keyer.ignored(params)),
            timeout=timeout_of(params),
        )

    @overload
    def cached(self, fn: F, /) -> F: ...
    @overload
    def cached(self, /, *, version: str = "", ignore: Iterable[str] = ()) -> Callable[[F], F]: ...
    def cached(
        self, fn: F | None = None, /, *, version: str = "", ignore: Iterable[str] = ()
    ) -> F | Callable[[F], F]:
        """Decorate a function, coroutine function, generator or async generator so that equal
        arguments are answered once.

        The key is the function (its name and code, and those of what it wraps), its arguments bound
        to its signature, and the strings and numbers outside of it that it reads. Other objects
        that it uses, such as a client or a helper, do not count: with *version*, which stands for
        the code, you say when answers should change. *ignore*: arguments that are not part of the
        request. Arguments without a wire form, ``self`` among them, make a call go uncached.
        """
        from llm_cache_mem import decorators  # loaded by those who decorate

        names = parameter_names(ignore)
        if fn is None:
            return lambda function: decorators.cached(self.engine, function, version, names)
        return decorators.cached(self.engine, fn, version, names)

    # -- Looking after it

    def key(self, messages: Any, **params: Any) -> str:
        """The hex SHA-256 of this request: what the published formula gives for plain JSON, after
        *ignore* and *key_fn*."""
        return self.engine.keyer.digest(messages, params)

    def delete(self, messages: Any, **params: Any) -> bool:
        """Forget the answer to this request, stream or not; whether there was one. A call in flight
        will not store it either."""
        found = False
        for kind in ("value", "stream"):
            found |= self.engine.delete(self.engine.keyer.request(messages, params, kind))
        return found

    def clear(self) -> int:
        """Forget every answer of this namespace; how many. A call in flight will not store its
        answer either."""
        return self.engine.writer.clear(self.engine.keyer.prefix())

    def purge(self) -> int:
        """Remove every expired entry from the store now; how many."""
        removed = self.engine.backend.purge()
        if removed:
            self.engine.ledger.expired(None, removed)
        return removed

    def stats(self) -> "CacheStats":
        """The counters of this object since it was made, and how many entries its namespace
        holds."""
        return self.engine.stats()

    async def adelete(self, messages: Any, **params: Any) -> bool:
        """As ``delete``."""
        return await self.engine.off_loop(lambda: self.delete(messages, **params))

    async def aclear(self) -> int:
        """As ``clear``."""
        return await self.engine.off_loop(self.clear)

    async def astats(self) -> "CacheStats":
        """As ``stats``."""
        return await self.engine.off_loop(self.stats)

    def explain(self, messages: Any, **params: Any) -> "Explanation":
        """Why this request misses, or that it would not: the nearest stored request, and each field
        that differs.

        Needs stored requests: those of a jsonl store, or of caches with *keep_requests*. What it
        quotes of them is shortened where it is shown, and without secrets. Counts nothing.
        RequestNotCacheable if the request has no key, StoreError if the store fails.
        """
        kind = "stream" if params.get("stream") else "value"
        return self.engine.explainer.explain(self.engine.keyer.request(messages, params, kind))

    async def aexplain(self, messages: Any, **params: Any) -> "Explanation":
        """As ``explain``."""
        return await self.engine.off_loop(lambda: self.explain(messages, **params))

    def explain_misses(self, most: int = 1) -> "list[Explanation]":
        """Why the last lookups found nothing, whoever made them: the latest first, at *most* so
        many, of the last twenty.

        As ``explain``, against what was stored at the time; a cache that keeps no requests has none
        to explain.
        """
        return self.engine.explainer.last(most)

    async def aexplain_misses(self, most: int = 1) -> "list[Explanation]":
        """As ``explain_misses``."""
        return await self.engine.off_loop(lambda: self.explain_misses(most))

    def close(self) -> None:
        """Let go of the store, if this cache opened it. Calls go on, uncached."""
        if self._owned:
            self.engine.backend.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        exc: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return (
            f"LLMCache(backend={self._name!r}, ttl_seconds={self.engine.settings.ttl_seconds},"
            f" mode={self.engine.settings.mode!r})"
        )

    def _repr_html_(self) -> str:
        from llm_cache_mem.accounting.render import headed  # only notebooks need it

        stats = self.stats()
        return headed(
            repr(self), stats._repr_html_() if any(stats) else "<p>nothing was asked yet</p>"
        )

    def __copy__(self) -> Self:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return self  # frameworks copy what holds a cache, and mean the same cache

    def __reduce__(self) -> tuple[Any, ...]:
        if self._encrypted_by == "argument":
            raise TypeError(
                "a cache with an encryption_key is not pickled, for the key would be in it: let"
                f" {KEY_VARIABLE} name the key"
            )
        return _reopen, (type(self), {**self._config, **_asked()}, self._encrypted_by)


def _asked() -> dict[str, Any]:
    """The settings that ``options`` ask for here: another process starts without them, so that a
    cache which travels there takes them along."""
    asked = current()._asdict()
    names = ("ttl_seconds", "mode", "namespace")
    return {name: asked[name] for name in names if asked[name] is not UNSET}


def _reopen(cls: type[LLMCache], config: dict[str, Any], encrypted_by: str = "") -> LLMCache:
    if encrypted_by == "environment" and named_key() is None:
        raise ValueError(
            f"this cache is encrypted with a key that {KEY_VARIABLE} named, and here it names none"
        )
    return cls(**config)


def _redaction(rules: "Iterable[Rule]") -> "Redaction":
    from llm_cache_mem.diagnostics.redaction import Redaction

    return Redaction(rules)


def _bound(value: Any, name: str) -> int | None:
    if value is not None and (isinstance(value, bool) or not isinstance(value, int)):
        raise TypeError(f"{name} must be a whole number or None, not {type(value).__name__}")
    if value is not None and value < 1:
        raise ValueError(f"{name} must be at least 1 (None: unbounded), not {value}")
    return value


def _switch(value: Any, name: str) -> bool:
    if not isinstance(value, bool):  # "no" would mean yes
        raise TypeError(f"{name} must be True or False, not {value!r}")
    return value
