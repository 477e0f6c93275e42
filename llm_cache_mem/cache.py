"""LLMCache: the same request is answered once and paid for once."""

import logging
import os
from collections.abc import (
    AsyncIterable,
    AsyncIterator,
    Awaitable,
    Callable,
    Iterable,
    Iterator,
    Mapping,
)
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, Self, TypeVar, overload

from llm_cache_mem._util.clock import now
from llm_cache_mem._util.in_thread import NoThread, run_in_thread
from llm_cache_mem._util.streaming_types import (
    AsyncStreams,
    AsyncStreamsUpTo,
    Streams,
    StreamsUpTo,
)
from llm_cache_mem.accounting import pricing
from llm_cache_mem.accounting.counters import Ledger
from llm_cache_mem.engine.announced import announce
from llm_cache_mem.engine.choices import NO_CHOICES, choices_for
from llm_cache_mem.engine.circumstances import timeout_of
from llm_cache_mem.engine.engine import Engine
from llm_cache_mem.engine.settings import Settings
from llm_cache_mem.errors import NamespaceMissing
from llm_cache_mem.keys import digest
from llm_cache_mem.keys.identity import as_sent
from llm_cache_mem.keys.request import Keyer, Request, parameter_names
from llm_cache_mem.options import (
    UNSET,
    Duration,
    Mode,
    Unset,
    check_mode,
    check_names,
    current,
    lost_namespace,
    options,
    to_seconds,
)
from llm_cache_mem.responses import admission
from llm_cache_mem.stores import Backend, MemoryStore, StoreSettings, open_store
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
    from llm_cache_mem.engine.verification import OnDrift
    from llm_cache_mem.evaluation import MapResult
    from llm_cache_mem.responses.agreement import Comparison

__all__ = ["LLMCache", "is_twin"]

_log = logging.getLogger(__name__)
_hinted: set[str] = set()

T = TypeVar("T")
F = TypeVar("F", bound=Callable[..., Any])

_DEFAULT_MAX_SIZE = 256

_OPTION_NAMES = frozenset({"ttl_seconds", "namespace", "mode", "sample", "samples"})

_NOT_ASYNC = (
    "aget_or_call takes a function that returns an awaitable, or with stream=True an async iterator"
    " (get_or_call: any other)"
)


class LLMCache:
    """An exact-match cache of LLM answers: LRU and TTL, thread-safe, in memory or in a store.

    Args:
        max_size: Most entries (default 256; None for no limit). For memory, SQLite and a tiered
            store's memory; a server keeps to its own settings.
        ttl_seconds: The greatest age of an answer: seconds, a timedelta, text such as ``"1h30m"``
            or ``"7d"``, or None for no limit.
        backend: ``"memory"``, a URL such as ``"sqlite://./cache.db"`` or
            ``"redis://localhost:6379/0"``, a path, or a Store.
        namespace: The tenant or purpose, in front of every key.
        key_fn: ``(messages, **params)`` to the value that is hashed in place of the request, for
            example ``last_turn`` or ``ignoring("user")``.
        ignore: Names of parameters that are not part of a request, as the Chat Completions API has
            them, whatever the provider; they replace ``DEFAULT_IGNORE``.
        max_bytes: Most bytes that the entries take.
        admit: Which answers to store: ``"complete"`` (not those that are truncated, refused or
            empty), ``"any"``, or a function of the response that returns whether to store it.
        mode: ``"on"``, ``"off"``, ``"refresh"`` or ``"replay"``; by default that of
            ``LLM_CACHE_MEM_MODE``, else ``"on"``.
        prices: A dict of prices by model, a function, or None for those of genai-prices.
        coalesce: Whether concurrent identical requests become one call: True for this process,
            ``"fleet"`` for all processes that share the store, False for none.
        wait_seconds: How long a follower waits for its leader before it makes its own call.
        strict: Raise StoreError when the store fails; by default the call goes on without it.
        require_namespace: Skip calls without a namespace, such as those whose context a framework
            has lost, so that tenants never share answers.
        policy: Which entry a full memory evicts: ``"lru"``, the least recently used, or
            ``"sieve"``, which keeps those that were requested again.
        encryption_key: One key or several, newest first, for everything that is stored outside of
            this process; by default those of ``LLM_CACHE_MEM_KEY``.
        keep_requests: Store each request beside its answer, redacted, so that a miss can be
            explained. Always on in a jsonl store.
        redact: Names of fields and compiled patterns to remove from stored requests, in addition
            to those that look like secrets.
        verify_rate: The share of the hits, from 0 to 1, whose request is made again in the
            background to compare the answers: calls of models only, in mode ``"on"``. 0: none.
        verify_with: How: ``"exact"``, ``"normalized"`` (case, white space, end mark),
            ``"structure"``, or a function of the texts of the stored and the fresh answer that
            returns whether they agree. None: exactly, where the temperature is 0.
        verify_budget_usd: How many dollars these calls may cost in all; calls of unknown price are
            then not made. None for no limit.
        on_drift: What to do about an answer that disagrees: ``"report"`` in ``stats().verified``
            and the log, ``"replace"`` the entry too, or ``"invalidate_model"``: delete all that
            its model has answered in this namespace.
        on_event: Called with each Event.
        clock: Returns Unix seconds.

    Raises:
        TypeError: An argument has the wrong type.
        ValueError: An argument has the wrong value, or does not go with the backend.
        ImportError: The backend needs an extra that is not installed; the message names it.
        StoreError: The path cannot hold a cache; an OSError where it cannot be opened.

    Example:
        >>> cache = LLMCache(backend="sqlite://./cache.db", ttl_seconds="7d")
        >>> cache.get_or_call(messages, call_model, model="gpt-4.1-mini")
    """

    def __init__(
        self,
        max_size: int | None = UNSET,
        ttl_seconds: Duration = 3600,
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
        wait_seconds: Duration = 600.0,
        strict: bool = False,
        require_namespace: bool = False,
        policy: Literal["lru", "sieve"] = "lru",
        encryption_key: Keys | None = None,
        keep_requests: bool = False,
        redact: "Iterable[Rule]" = (),
        verify_rate: float = 0.0,
        verify_with: "Comparison | None" = None,
        verify_budget_usd: float | None = None,
        on_drift: "OnDrift" = "report",
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
        verification = _verification(verify_rate, verify_with, verify_budget_usd, on_drift)
        if coalesce not in (True, False, "fleet"):
            raise ValueError(f"coalesce must be True, False or 'fleet', not {coalesce!r}")
        if isinstance(max_size, str) and backend == "memory":
            raise TypeError("max_size must be a whole number: did you mean LLMCache(backend=...)?")
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
        self._is_bounded = opened.bounded and (size is not None or max_bytes is not None)
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
        self._carries_options = False
        self._sample = 0  # in a worker, the one that was asked for where it was started
        self._depends_on: tuple[str, ...] = ()  # likewise
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
        if verification:
            from llm_cache_mem.engine.verification import Verifier

            self.engine.verifier = Verifier(self.engine, **verification)
        announce(self)

    @classmethod
    async def open(cls, *args: Any, **kwargs: Any) -> Self:
        """Make an LLMCache in a thread, because opening a file or a connection would block an event
        loop. Takes the arguments of LLMCache, and raises what it raises."""
        try:
            return await run_in_thread(lambda: cls(*args, **kwargs))
        except NoThread:
            return cls(*args, **kwargs)

    # -- The two calls that the rest is made of

    def get(self, messages: Any, *, default: Any = None, **params: Any) -> Any:
        """Return the answer stored for this request as a new object, or *default*.

        Args:
            messages: The messages of the request, or its prompt.
            default: Returned on a miss.
            **params: The other parameters of the request, ``model`` among them.

        Raises:
            RequestNotCacheable: The request has no single JSON form; the message names the path.
            CacheMissError: It misses, in mode ``replay``.
        """
        request = self._value_request(messages, params)
        hit = None if request is None else self.engine.reader.lookup(request)
        return default if hit is None else hit.value

    def put(self, messages: Any, value: Any, **params: Any) -> None:
        """Store *value* as the answer to this request, replacing any other; *admit* is not asked.

        Raises:
            RequestNotCacheable: The request has no single JSON form.
            ValueNotCacheable: *value* would not come back equal.
        """
        request = self._value_request(messages, params)
        if request is not None:
            self.engine.writer.put(request, value)

    async def aget(self, messages: Any, *, default: Any = None, **params: Any) -> Any:
        """``get`` for event loops: what would block runs in a thread."""
        request = self._value_request(messages, params)
        hit = None if request is None else await self.engine.reader.alookup(request)
        return default if hit is None else hit.value

    async def aput(self, messages: Any, value: Any, **params: Any) -> None:
        """``put`` for event loops: what would block runs in a thread."""
        await self.engine.writer.load_prices()
        await self.engine.off_loop(lambda: self.put(messages, value, **params))

    def _value_request(self, messages: Any, params: dict[str, Any]) -> Request | None:
        """The request of ``get`` and ``put``; None, counted as skipped, where the cache requires a
        namespace and has none."""
        if not _OPTION_NAMES.isdisjoint(params):
            _hint_at_options(params)
        try:
            return self.engine.keyer.request(messages, params, "value")
        except NamespaceMissing as exc:
            if self.engine.is_replay:
                raise
            self.engine.skip(exc.skipped_as, "a call goes past the cache: %s", exc)
            return None

    # -- Calling a model through the cache

    @overload
    def get_or_call(
        self, messages: Any, fn: Streams[T], *, stream: Literal[True], **params: Any
    ) -> Iterator[T]: ...
    @overload
    def get_or_call(
        self, messages: Any, fn: StreamsUpTo[T], *, stream: Literal[True], **params: Any
    ) -> Iterator[T]: ...
    @overload
    def get_or_call(self, messages: Any, fn: Callable[..., T], **params: Any) -> T: ...
    def get_or_call(self, messages: Any, fn: Callable[..., Any], **params: Any) -> Any:
        """Return the stored answer, or call ``fn(messages=messages, **params)`` and store its
        answer.

        Args:
            messages: The messages of the request, or its prompt.
            fn: The function that calls the model, such as ``client.chat.completions.create``. With
                ``stream=True`` it returns an iterable of chunks, and so does this.
            **params: The other parameters of the request, which *fn* gets too. With ``n=4``,
                choices that are stored for the same request with another ``n`` are used, and only
                those that are missing are bought.

        A request that has no key calls *fn* uncached. What *fn* raises is raised here, and nothing
        is stored.

        Raises:
            CacheMissError: It misses, in mode ``replay``.
            TimeoutError: The call of another caller, in progress, took longer than ``timeout``.

        Example:
            >>> cache.get_or_call(messages, client.chat.completions.create, model="gpt-4.1-mini")
        """
        if not _OPTION_NAMES.isdisjoint(params):
            _hint_at_options(params)
        streaming = bool(params.get("stream"))
        request = self.engine.request_of(fn, messages, params, "stream" if streaming else "value")

        choices = NO_CHOICES
        if "n" in params and request is not None and not streaming:
            choices = choices_for(self.engine, request, fn, messages, params)

        def call() -> Any:
            made = fn(messages=messages, **choices.params(params))
            return choices.join(made) if choices else made

        if request is None:
            return call()
        make: Any = self.engine.stream if streaming else self.engine.call
        more: Any = {"other": choices.other, "report": choices.codec.report} if choices else {}
        return make(
            request,
            call,
            circumstances=lambda: self.engine.circumstances(fn, request, params),
            timeout=timeout_of(params),
            **more,
        )

    @overload
    async def aget_or_call(
        self, messages: Any, fn: AsyncStreams[T], *, stream: Literal[True], **params: Any
    ) -> AsyncIterator[T]: ...
    @overload
    async def aget_or_call(
        self, messages: Any, fn: AsyncStreamsUpTo[T], *, stream: Literal[True], **params: Any
    ) -> AsyncIterator[T]: ...
    @overload
    async def aget_or_call(
        self, messages: Any, fn: Callable[..., Awaitable[T]], **params: Any
    ) -> T: ...
    @overload
    async def aget_or_call(
        self, messages: Any, fn: Callable[..., AsyncIterator[T]], **params: Any
    ) -> AsyncIterator[T]: ...
    async def aget_or_call(self, messages: Any, fn: Callable[..., Any], **params: Any) -> Any:
        """``get_or_call`` for a coroutine function, which with ``stream=True`` returns an async
        iterable or is an async generator.

        Raises:
            TypeError: *fn* is a plain function; raised after its call.
        """
        if not _OPTION_NAMES.isdisjoint(params):
            _hint_at_options(params)
        streaming = bool(params.get("stream"))
        request = self.engine.request_of(fn, messages, params, "stream" if streaming else "value")

        choices = NO_CHOICES
        if "n" in params and (found := request) is not None and not streaming:
            choices = await self.engine.off_loop(
                lambda: choices_for(self.engine, found, fn, messages, params)
            )

        async def call() -> Any:
            made = fn(messages=messages, **choices.params(params))
            if streaming and hasattr(made, "__aiter__") and not hasattr(made, "__await__"):
                return made
            if not hasattr(made, "__await__"):
                raise TypeError(f"{_NOT_ASYNC}, not {type(made).__name__}")
            return choices.join(await made) if choices else await made

        if request is None:
            return await call()
        make: Any = self.engine.astream if streaming else self.engine.acall
        more: Any = {"other": choices.other, "report": choices.codec.report} if choices else {}
        return await make(
            request,
            call,
            circumstances=lambda: self.engine.circumstances(fn, request, params),
            timeout=timeout_of(params),
            **more,
        )

    @overload
    def cached(self, fn: F, /) -> F: ...
    @overload
    def cached(
        self,
        /,
        *,
        version: str = "",
        ignore: Iterable[str] = (),
        ttl_seconds: Duration = UNSET,
        namespace: str = UNSET,
        mode: Mode = UNSET,
        sample: int = UNSET,
    ) -> Callable[[F], F]: ...
    def cached(
        self,
        fn: F | None = None,
        /,
        *,
        version: str = "",
        ignore: Iterable[str] = (),
        ttl_seconds: Duration = UNSET,
        namespace: str = UNSET,
        mode: Mode = UNSET,
        sample: int = UNSET,
    ) -> F | Callable[[F], F]:
        """Decorate a function, coroutine function, generator or async generator so that equal
        arguments are answered once.

        The key is made from the function (its name and code, and those of what it wraps), its
        arguments bound to its signature, and the strings and numbers outside of it that it reads.
        Other objects that it uses, such as a client or a helper, do not count. A call whose
        arguments have no single JSON form, ``self`` among them, goes uncached. A bound method that
        takes ``messages``, such as ``client.chat.completions.create``, is one of an SDK: its calls
        are those of ``get_or_call``, or of ``aget_or_call`` if it is async.

        Args:
            fn: The function, where the decorator has no arguments.
            version: Stands for the code of the function: change it when its answers should change.
            ignore: Names of arguments that are not part of the request.
            ttl_seconds: As in ``options``, for each call of this function; so are
            namespace, mode, sample: the other options.

        Raises:
            TypeError: *fn* is not a function with a signature.
            ValueError: *ignore* names no argument of it.

        Example:
            >>> @cache.cached(ttl_seconds="7d", ignore=["client"])
            ... def summarize(text: str, client: OpenAI) -> str: ...
        """
        from llm_cache_mem import decorators  # loaded by those who decorate

        names = parameter_names(ignore)
        asked = {"ttl_seconds": ttl_seconds, "namespace": namespace, "mode": mode, "sample": sample}
        given: dict[str, Any] = {name: value for name, value in asked.items() if value is not UNSET}
        around = options(**given) if given else None
        if fn is not None and not given and decorators.takes_messages(fn):
            return decorators.of_method(self.get_or_call, self.aget_or_call, fn)
        if fn is None:
            return lambda function: decorators.cached(self.engine, function, version, names, around)
        return decorators.cached(self.engine, fn, version, names, around)

    # -- Many requests at once

    def map(
        self,
        fn: Callable[..., Any],
        requests: Iterable[Mapping[str, Any]],
        *,
        concurrency: int = 8,
        progress: bool = True,
        on_error: Literal["raise", "collect"] = "raise",
        budget_usd: float | None = None,
    ) -> "Iterator[MapResult]":
        """Answer each of *requests* as ``get_or_call`` does, several at a time, and yield a
        MapResult for each, in their order.

        It is lazy: requests are read, and calls are made, as the results are iterated. Answers are
        stored as they come, so that the same line resumes a run that was interrupted. Equal
        requests are answered once, and hits wait for no call. Options count as they were where
        this was called.

        Args:
            fn: The function that calls the model, such as ``client.chat.completions.create``: it is
                called as ``fn(messages=..., **params)``, in threads.
            requests: Dicts of ``messages`` and the other parameters, from any iterable. A generator
                is read about a thousand requests ahead.
            concurrency: How many calls are made at the same time.
            progress: Whether to show a bar on a terminal or in a notebook, if rich is installed.
            on_error: ``"raise"`` stops at the first error; ``"collect"`` yields it as the ``error``
                of its result.
            budget_usd: Dollars after which no call begins: requests that are not stored then fail
                with BudgetSpent.

        A provider's 429 with ``retry-after``, where the SDK's own retries have ended, holds the
        whole run, and the request is tried again.

        Raises:
            BudgetSpent: The budget is spent, with ``on_error="raise"``.

        Example:
            >>> for result in cache.map(client.chat.completions.create, requests):
            ...     print(result.value.choices[0].message.content)
        """
        from llm_cache_mem.evaluation.mapping import map_requests
        from llm_cache_mem.evaluation.run import RunSettings

        settings = RunSettings(concurrency, progress, on_error, budget_usd).check()
        return map_requests(self.engine, fn, requests, settings)

    def amap(
        self,
        fn: Callable[..., Awaitable[Any]],
        requests: Iterable[Mapping[str, Any]] | AsyncIterable[Mapping[str, Any]],
        *,
        concurrency: int = 8,
        progress: bool = True,
        on_error: Literal["raise", "collect"] = "raise",
        budget_usd: float | None = None,
        in_order: bool = True,
    ) -> "AsyncIterator[MapResult]":
        """``map`` for a coroutine function, under asyncio.

        Args:
            fn: As in ``map``, but returns an awaitable.
            requests: As in ``map``, or an async iterable.
            concurrency: As in ``map``.
            progress: As in ``map``.
            on_error: As in ``map``.
            budget_usd: As in ``map``.
            in_order: False yields results as they are there; their ``index`` says whose they are.
        """
        from llm_cache_mem.evaluation.mapping import amap_requests
        from llm_cache_mem.evaluation.run import RunSettings

        settings = RunSettings(concurrency, progress, on_error, budget_usd, in_order).check()
        return amap_requests(self.engine, fn, requests, settings)

    def batch(
        self,
        client: Any,
        requests: Iterable[Mapping[str, Any]],
        *,
        on_error: Literal["raise", "collect"] = "collect",
        on_unknown: Literal["wait", "resubmit"] = "wait",
        poll_seconds: float = 60.0,
    ) -> "Iterator[MapResult]":
        """Answer *requests* by the provider's batch API, at half the price and within a day.

        This call looks them up, submits those that have no answer, each once, and attaches to
        batches that an earlier call has submitted. The iterator that it returns waits for the
        results, and yields a MapResult for each request, in their order. They are stored as any
        other answer: live calls hit them. The same line resumes a run that was stopped.

        Args:
            client: An ``OpenAI`` or ``Anthropic`` client.
            requests: As in ``map``.
            on_error: ``"collect"`` yields BatchFailed as the ``error`` of a request that failed or
                expired; ``"raise"`` raises the first.
            on_unknown: What to do if a batch was about to be submitted when its process ended, and
                the provider does not list it: wait for it to show, or submit it again, which may
                buy it twice.
            poll_seconds: Seconds between looks at the batches.

        Raises:
            TypeError: *client* is no such client.
            ValueError: The cache has a bound, so it might evict its note of a batch.
            StoreError: The store failed, so that nothing more is submitted.

        Example:
            >>> results = cache.batch(OpenAI(), requests)  # submitted
            >>> answers = [result.value for result in results]  # waits
        """
        from llm_cache_mem.evaluation.batches import BatchRun
        from llm_cache_mem.evaluation.providers import provider_of

        if on_error not in ("raise", "collect"):
            raise ValueError(f"on_error must be 'raise' or 'collect', not {on_error!r}")
        if on_unknown not in ("wait", "resubmit"):
            raise ValueError(f"on_unknown must be 'wait' or 'resubmit', not {on_unknown!r}")
        if self._is_bounded:
            raise ValueError(
                "batches take hours, and a bounded cache may evict what it knows of them: make it"
                " with max_size=None"
            )
        seconds = to_seconds(poll_seconds, "poll_seconds") or 60.0
        run = BatchRun(
            self.engine,
            provider_of(client),
            on_error=on_error,
            on_unknown=on_unknown,
            poll_seconds=seconds,
        )
        run.start(requests)
        return run.results()

    # -- Looking after it

    def key(self, messages: Any, **params: Any) -> str:
        """Return the hex SHA-256 of this request, after *ignore* and *key_fn*; for plain JSON, by
        the formula of the key contract.

        Raises:
            RequestNotCacheable: The request has no single JSON form.
        """
        return self.engine.keyer.digest(messages, params)

    def delete(self, messages: Any, **params: Any) -> bool:
        """Delete the answer to this request, streamed or not, and return whether there was one. A
        call in progress does not store its answer either.

        Raises:
            RequestNotCacheable: The request has no single JSON form.
            StoreError: The store failed, and the answer may still be there.
        """
        keyer, found = self.engine.keyer, False
        forms = ((params, False), (params, True), (as_sent(params), False))
        for kind in ("value", "stream"):
            made = [keyer.request(messages, sent, kind, exact=exact) for sent, exact in forms]
            for request in {one.key: one for one in made}.values():
                found |= self.engine.delete(request)
        return found

    def clear(self) -> int:
        """Delete every answer of this namespace and return how many. Calls in progress do not store
        their answers either.

        Raises:
            StoreError: The store failed, and answers may still be there.
        """
        return self.engine.writer.clear(self.engine.keyer.prefix())

    def invalidate(self, *names: str) -> bool:
        """Invalidate every answer, and every result of a tool, that depends on one of *names*.

        This takes effect at once in every process that shares the store, and takes the same time
        however many answers there are. An answer that is being made meanwhile is not stored. It
        holds for the namespace of this cache; for one without a namespace, in all of them.

        Args:
            *names: Documents and other entities, as in ``options(depends_on=...)``.

        Returns:
            Whether anything may have depended on them.

        Raises:
            StoreError: The store failed, and answers may still be valid.

        Example:
            >>> with options(depends_on=["doc:handbook"]):
            ...     answer = cache.get_or_call(messages, call_model, model="gpt-4.1-mini")
            >>> cache.invalidate("doc:handbook")
        """
        checked = check_names(names, "names")
        ended = [self.engine.generations.end(name) for name in checked]
        return any(ended)

    async def ainvalidate(self, *names: str) -> bool:
        """``invalidate`` for event loops."""
        return await self.engine.off_loop(lambda: self.invalidate(*names))

    def purge(self) -> int:
        """Remove every expired entry from the store now and return how many."""
        removed = self.engine.backend.purge()
        if removed:
            self.engine.ledger.expired(None, removed)
        return removed

    def stats(self) -> "CacheStats":
        """Return the counters of this object since it was made, and the size of its namespace in
        entries."""
        return self.engine.stats()

    async def adelete(self, messages: Any, **params: Any) -> bool:
        """``delete`` for event loops."""
        return await self.engine.off_loop(lambda: self.delete(messages, **params))

    async def aclear(self) -> int:
        """``clear`` for event loops."""
        return await self.engine.off_loop(self.clear)

    async def astats(self) -> "CacheStats":
        """``stats`` for event loops."""
        return await self.engine.off_loop(self.stats)

    def explain(self, messages: Any, **params: Any) -> "Explanation":
        """Explain why this request misses, or that it would hit: the nearest stored request, and
        each field that differs.

        It needs stored requests: a jsonl store, or ``keep_requests=True``. What it quotes of them
        is redacted, and shortened where it is shown. It counts nothing.

        Raises:
            RequestNotCacheable: The request has no single JSON form.
            StoreError: The store failed.
        """
        kind = "stream" if params.get("stream") else "value"
        return self.engine.explainer.explain(self.engine.keyer.request(messages, params, kind))

    async def aexplain(self, messages: Any, **params: Any) -> "Explanation":
        """``explain`` for event loops."""
        return await self.engine.off_loop(lambda: self.explain(messages, **params))

    def explain_misses(self, most: int = 1) -> "list[Explanation]":
        """Explain the last misses, latest first, against what was stored at the time.

        Args:
            most: How many at most, of the last twenty.

        It needs stored requests, as ``explain`` does.
        """
        return self.engine.explainer.last(most)

    async def aexplain_misses(self, most: int = 1) -> "list[Explanation]":
        """``explain_misses`` for event loops."""
        return await self.engine.off_loop(lambda: self.explain_misses(most))

    def close(self) -> None:
        """Close the store, if this cache opened it. Later calls go uncached."""
        if self._owned:
            self.engine.closed = True
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
        return headed(repr(self), stats._repr_html_() if any(stats) else "<p>no calls yet</p>")

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
        sample = current().sample or self._sample
        config = self._config if self._carries_options else {**self._config, **_asked(self)}
        depends_on = self._depends_on if self._carries_options else _depends_on(self)
        return _reopen, (type(self), config, self._encrypted_by, sample, depends_on)


def for_workers(cache: LLMCache) -> LLMCache:
    """*cache* with the options of this context as its settings where it is pickled, by whichever
    thread: pools do that in threads of their own."""
    carried = object.__new__(type(cache))
    asked = {
        "_config": {**cache._config, **_asked(cache)},
        "_sample": current().sample or cache._sample,
        "_depends_on": _depends_on(cache),
    }
    carried.__dict__.update({**vars(cache), **asked, "_carries_options": True})
    return carried


def _depends_on(cache: LLMCache) -> tuple[str, ...]:
    """What answers depend on here, by the options or because the cache came from such a place."""
    return tuple(sorted({*cache._depends_on, *current().depends_on}))


def is_twin(cache: LLMCache, other: LLMCache) -> bool:
    """Whether both were made with the same settings on the same file or server."""
    shared = cache.engine.backend.inner
    return not isinstance(shared, MemoryStore) and cache._config == other._config


def _hint_at_options(params: dict[str, Any]) -> None:
    """Log once what was probably meant by a parameter named like an option, which is part of the
    request."""
    for name in sorted(_OPTION_NAMES & params.keys() - _hinted):
        _hinted.add(name)
        _log.warning(
            "%s= is part of the request here, as any parameter of the model is: to set it for"
            " a call, write `with options(%s=...):` around the call",
            name,
            name,
        )


def _asked(cache: LLMCache) -> dict[str, Any]:
    """The settings that ``options`` ask for here: another process starts without them, so that a
    cache which travels there takes them along. Where they cannot be told, a *cache* without a
    namespace of its own requires that of the worker."""
    if lost_namespace() and not cache._config["namespace"]:
        return {"require_namespace": True}
    asked = current()._asdict()
    names = ("ttl_seconds", "mode", "namespace")
    return {name: asked[name] for name in names if asked[name] is not UNSET}


def _reopen(
    cls: type[LLMCache],
    config: dict[str, Any],
    encrypted_by: str = "",
    sample: int = 0,
    depends_on: tuple[str, ...] = (),
) -> LLMCache:
    if encrypted_by == "environment" and named_key() is None:
        raise ValueError(
            f"this cache is encrypted with a key that {KEY_VARIABLE} named, and here it names none"
        )
    cache = cls(**config)
    cache._sample = cache.engine.keyer.sample = sample
    cache._depends_on = cache.engine.keyer.depends_on = depends_on
    cache.engine.keyer.travelled = True
    return cache


def _redaction(rules: "Iterable[Rule]") -> "Redaction":
    from llm_cache_mem.diagnostics.redaction import Redaction

    return Redaction(rules)


def _verification(rate: Any, how: Any, budget_usd: Any, on_drift: Any) -> dict[str, Any]:
    """The settings of a Verifier, checked; none where nothing is to be verified."""
    for name, value in (("verify_rate", rate), ("verify_budget_usd", budget_usd)):
        if isinstance(value, bool) or not isinstance(value, (int, float, type(None))):
            raise TypeError(f"{name} must be a number, not {type(value).__name__}")
    if rate is None or not 0 <= rate <= 1:
        raise ValueError(f"verify_rate must be from 0 to 1, not {rate!r}")
    if budget_usd is not None and not budget_usd >= 0:
        raise ValueError(f"verify_budget_usd must be 0 or more, not {budget_usd!r}")
    if on_drift not in ("report", "replace", "invalidate_model"):
        raise ValueError(
            f"on_drift must be 'report', 'replace' or 'invalidate_model', not {on_drift!r}"
        )
    if how is not None:
        from llm_cache_mem.responses.agreement import comparison

        comparison(how)
    if not rate:
        return {}
    return {"rate": rate, "verify_with": how, "budget_usd": budget_usd, "on_drift": on_drift}


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
