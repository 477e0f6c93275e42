"""LLMCache: the same request is answered once and paid for once."""

from collections.abc import (
    AsyncIterable,
    AsyncIterator,
    Awaitable,
    Callable,
    Iterable,
    Iterator,
    Mapping,
)
from math import inf
from typing import TYPE_CHECKING, Any, Literal, Self, TypeVar, overload

from llm_cache_mem._util.clock import now
from llm_cache_mem._util.in_thread import NoThread, run_in_thread
from llm_cache_mem._util.meant import says_what_is_meant
from llm_cache_mem.engine.announced import announce
from llm_cache_mem.engine.opening import open_engine
from llm_cache_mem.engine.recipe import DEFAULT_MAX_SIZE, Config, reopen
from llm_cache_mem.engine.user_requests import aget_or_call, delete, get_or_call, value_request
from llm_cache_mem.keys import digest
from llm_cache_mem.options import INHERITED, Duration, Mode, check_names
from llm_cache_mem.stores import Backend
from llm_cache_mem.values.encryption import Keys

if TYPE_CHECKING:  # loaded by those who use them
    from llm_cache_mem._util.streaming_types import (
        AsyncStreams,
        AsyncStreamsUpTo,
        Streams,
        StreamsUpTo,
    )
    from llm_cache_mem.accounting.stats import CacheStats, Event
    from llm_cache_mem.accounting.totals import StoreTotals
    from llm_cache_mem.diagnostics.explain import Explanation
    from llm_cache_mem.diagnostics.redaction import Rule
    from llm_cache_mem.engine.verification import OnDrift
    from llm_cache_mem.evaluation import MapResult
    from llm_cache_mem.keys.entities import Entities
    from llm_cache_mem.responses.agreement import Comparison

__all__ = ["LLMCache"]

T = TypeVar("T")
F = TypeVar("F", bound=Callable[..., Any])


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

    @says_what_is_meant
    def __init__(
        self,
        max_size: int | None = DEFAULT_MAX_SIZE,
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
        given = locals()
        config = Config(**{name: given[name] for name in Config._fields})
        self._opened = open_engine(config, encryption_key)
        self._recipe = self._opened.recipe
        self.engine = self._opened.engine
        """What integrations stand on: see the page "Write an integration"."""
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
        request = value_request(self.engine, messages, params)
        hit = None if request is None else self.engine.reader.lookup(request)
        return default if hit is None else hit.value

    def put(self, messages: Any, value: Any, **params: Any) -> None:
        """Store *value* as the answer to this request, replacing any other; *admit* is not asked.

        Raises:
            RequestNotCacheable: The request has no single JSON form.
            ValueNotCacheable: *value* would not come back equal.
        """
        request = value_request(self.engine, messages, params)
        if request is not None:
            self.engine.writer.put(request, value)

    async def aget(self, messages: Any, *, default: Any = None, **params: Any) -> Any:
        """``get`` for event loops: what would block runs in a thread."""
        request = value_request(self.engine, messages, params)
        hit = None if request is None else await self.engine.reader.alookup(request)
        return default if hit is None else hit.value

    async def aput(self, messages: Any, value: Any, **params: Any) -> None:
        """``put`` for event loops: what would block runs in a thread."""
        await self.engine.writer.billing.load_prices()
        await self.engine.off_loop(lambda: self.put(messages, value, **params))

    # -- Calling a model through the cache

    @overload
    def get_or_call(
        self, messages: Any, fn: "Streams[T]", *, stream: Literal[True], **params: Any
    ) -> Iterator[T]: ...
    @overload
    def get_or_call(
        self, messages: Any, fn: "StreamsUpTo[T]", *, stream: Literal[True], **params: Any
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
        return get_or_call(self.engine, messages, fn, params)

    @overload
    async def aget_or_call(
        self, messages: Any, fn: "AsyncStreams[T]", *, stream: Literal[True], **params: Any
    ) -> AsyncIterator[T]: ...
    @overload
    async def aget_or_call(
        self, messages: Any, fn: "AsyncStreamsUpTo[T]", *, stream: Literal[True], **params: Any
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
        return await aget_or_call(self.engine, messages, fn, params)

    @overload
    def cached(self, fn: F, /) -> F: ...
    @overload
    def cached(
        self,
        /,
        *,
        version: str = "",
        ignore: Iterable[str] = (),
        ttl_seconds: Duration = INHERITED,
        namespace: str = INHERITED,
        mode: Mode = INHERITED,
        sample: int = INHERITED,
        depends_on: "Entities" = (),
    ) -> Callable[[F], F]: ...
    def cached(
        self,
        fn: F | None = None,
        /,
        *,
        version: str = "",
        ignore: Iterable[str] = (),
        ttl_seconds: Duration = INHERITED,
        namespace: str = INHERITED,
        mode: Mode = INHERITED,
        sample: int = INHERITED,
        depends_on: "Entities" = (),
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
            depends_on: The documents and other entities that an answer depends on, as in
                ``options``: ``"doc:{path}"``, which the argument of that name fills in (a list: one
                name for each item), several of these, or a function from the arguments by name to
                names.

        Raises:
            TypeError: *fn* is not a function with a signature.
            ValueError: *ignore* or *depends_on* names no argument of it.

        Example:
            >>> @cache.cached(ttl_seconds="7d", ignore=["client"])
            ... def summarize(text: str, client: OpenAI) -> str: ...
        """
        from llm_cache_mem.decorators import decorate  # loaded by those who decorate

        asked = {"ttl_seconds": ttl_seconds, "namespace": namespace, "mode": mode, "sample": sample}
        return decorate(self.engine, fn, version, ignore, depends_on, asked)

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
        from llm_cache_mem.evaluation.batches import batch_requests

        if self._opened.is_bounded:
            raise ValueError(
                "batches take hours, and a bounded cache may evict what it knows of them: make it"
                " with max_size=None"
            )
        return batch_requests(self.engine, client, requests, on_error, on_unknown, poll_seconds)

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
        return delete(self.engine, messages, params)

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
        checked = check_names(names, "names", most=inf)
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

    def totals(self) -> "StoreTotals":
        """Return what all processes that share the store have counted, by namespace and model.

        Other processes add to it once a minute, within five seconds where they store answers, and
        when they close their cache or end; so do other caches in this process. For event loops:
        ``await asyncio.to_thread(cache.totals)``.

        Raises:
            ValueError: The store keeps no totals: only SQLite and Redis do.
            StoreError: The store failed.
        """
        return self.engine.store_totals()

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
        if self.engine.totals is not None:
            self.engine.totals.add()
        if self._opened.is_owned:
            self.engine.closed = True
            self.engine.backend.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def __repr__(self) -> str:
        name, settings = self._opened.name, self.engine.settings
        ttl, mode = settings.ttl_seconds, settings.mode
        return f"LLMCache(backend={name!r}, ttl_seconds={ttl}, mode={mode!r})"

    def _repr_html_(self) -> str:
        from llm_cache_mem.accounting.render import headed  # only notebooks need it

        stats = self.stats()
        return headed(repr(self), stats._repr_html_() if any(stats) else "<p>no calls yet</p>")

    def __copy__(self) -> Self:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return self  # frameworks copy what holds a cache, and mean the same cache

    def __reduce__(self) -> tuple[Any, ...]:
        return reopen, (type(self), self._recipe.pickled())
