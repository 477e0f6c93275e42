"""PromptCacheTracker: how much of each prefix the provider reads from its cache, and alerts."""

import inspect
import logging
import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping
from functools import wraps
from typing import Any, NamedTuple, ParamSpec, TypeVar, cast

from llm_cache_mem._util.clock import now
from llm_cache_mem._util.fork import reset_after_fork
from llm_cache_mem._util.terminal import visible
from llm_cache_mem.accounting import pricing
from llm_cache_mem.accounting.counters import Ledger
from llm_cache_mem.accounting.provider import PaidCall, ProviderCacheStats
from llm_cache_mem.accounting.render import aligned, table
from llm_cache_mem.cache import LLMCache
from llm_cache_mem.keys.request import Request
from llm_cache_mem.prompt_cache.fingerprint import Fingerprint, fingerprint
from llm_cache_mem.prompt_cache.history import Call, History, PrefixRecord, Shortfall
from llm_cache_mem.prompt_cache.rules import Provider, rules_for
from llm_cache_mem.prompt_cache.streams import AsyncObservedStream, ObservedStream
from llm_cache_mem.responses.fields import field
from llm_cache_mem.responses.usage import Usage, identify, read_id, read_model, read_usage

__all__ = ["Alert", "PrefixStats", "PromptCacheTracker", "TrackerStats"]

_log = logging.getLogger(__name__)

P = ParamSpec("P")
T = TypeVar("T")
_REMEMBERED = 1024


class Alert(NamedTuple):
    """Less of a prefix was read than expected. It never holds content; ``str()`` is a line for a
    log.

    *reason*: ``changed`` (first at *path*), ``expired`` (unused for longer than its lifetime),
    ``too short`` (for this model) or ``unknown``. *before* and *now* are shares of the input that
    were read, from 0 to 1; *idle_seconds* is the time since the prefix was last used; *diagnosis*
    the provider's own reason, if the request asked for one. *at*: Unix seconds.
    """

    prefix: str
    model: str | None
    reason: str
    path: str | None
    before: float
    now: float
    expected_tokens: int
    read_tokens: int
    idle_seconds: float
    at: float
    diagnosis: str | None = None

    def __str__(self) -> str:
        where = f" at {self.path}" if self.path else ""
        idle = f" after {self.idle_seconds:,.0f} s" if self.reason == "expired" else ""
        short = (
            f" ({self.expected_tokens:,} tokens are needed)" if self.reason == "too short" else ""
        )
        tokens = f"{self.read_tokens:,} tokens read" + (
            "" if short else f" where {self.expected_tokens:,} were expected"
        )
        return visible(
            f"prefix {self.prefix[:12]} of {self.model}: {tokens} ({self.before:.0%} to"
            f" {self.now:.0%}): {self.reason}{where}{idle}{short}"
        )


class PrefixStats(NamedTuple):
    """One prefix: model, system prompt, tools and leading messages, named by a hash that is the
    same in every process.

    *share*: of all its input, the part that was read from the provider's cache; *recent_share*: the
    same, mostly of the latest calls. *saved_usd*: by reading, less the premium for writing; 0.0 if
    the price is not known.
    """

    prefix: str
    model: str | None
    calls: int
    share: float
    recent_share: float
    input_tokens: int
    read_tokens: int
    write_tokens: int
    saved_usd: float
    last_used: float


class TrackerStats(NamedTuple):
    """A snapshot: *calls* with usage, calls *without_usage*, *alerts* so far, and the remembered
    *prefixes*, largest first."""

    calls: int
    without_usage: int
    alerts: int
    prefixes: tuple[PrefixStats, ...]
    provider: ProviderCacheStats

    def _rows(self) -> list[tuple[str, ...]]:
        rows: list[tuple[str, ...]] = [
            (
                "prefix",
                "model",
                "calls",
                "input tokens",
                "read",
                "recently",
                "written",
                "dollars saved",
            )
        ]
        for one in self.prefixes:
            shares = (
                f"{one.share:.1%}",
                f"{one.recent_share:.1%}",
                f"{one.write_tokens:,}",
                f"{one.saved_usd:,.4f}",
            )
            rows.append(
                (
                    one.prefix[:12],
                    one.model or "(no model)",
                    f"{one.calls:,}",
                    f"{one.input_tokens:,}",
                    *shares,
                )
            )
        return rows

    def __str__(self) -> str:
        head = (
            f"{self.calls:,} calls, {self.without_usage:,} more without usage, {self.alerts:,}"
            " alerts"
        )
        return "\n".join([head, *aligned(self._rows())]) if self.prefixes else head

    def _repr_html_(self) -> str:
        return table(self._rows())


class PromptCacheTracker:
    """Observes calls to providers and their prompt caches. Thread-safe, with bounded memory.

    Every call that *cache* makes is observed, through all layers: its own methods, LangChain,
    LlamaIndex, the HTTP transport. Other calls are observed by ``wrap(client.messages.create)``, by
    the handlers of the LangChain and LlamaIndex packages, or by ``observe``, and count in the
    ``stats()`` of *cache* too. A call that is seen both ways counts once.

    Args:
        cache: An LLMCache to observe.
        prices: As for LLMCache; by default those of *cache*.
        on_alert: Called with each Alert, which is also logged.
        drop: An alert is due when less than this share of the expected tokens is read.
        provider: Whose rules apply to models with a name that does not tell.
        max_prefixes: How many prefixes are remembered.
        max_conversations: How many conversations are remembered.
        clock: Returns Unix seconds.
    """

    def __init__(
        self,
        cache: LLMCache | None = None,
        *,
        prices: pricing.Prices = None,
        on_alert: Callable[[Alert], object] | None = None,
        drop: float = 0.5,
        provider: Provider | None = None,
        max_prefixes: int = 256,
        max_conversations: int = 1024,
        clock: Callable[[], float] = now,
    ) -> None:
        if not 0 < drop <= 1 or max_prefixes < 1 or max_conversations < 1:
            raise ValueError(
                f"drop={drop}, max_prefixes={max_prefixes}, max_conversations={max_conversations}:"
                " must be in (0, 1], >= 1, >= 1"
            )
        if on_alert is not None and not callable(on_alert):
            raise TypeError(
                f"on_alert must be a function of one Alert, not {type(on_alert).__name__}"
            )
        if cache is not None and not isinstance(cache, LLMCache):
            raise TypeError(
                f"cache must be an LLMCache, not {type(cache).__name__}; calls of a client are"
                " observed by wrap()"
            )
        self._shared = None if cache is None else cache.engine.ledger
        if cache is not None:
            cache.engine.ledger.watch()
            cache.engine.writer.billing.listen(self._on_call)
        self._price = (
            pricing.resolve(prices)
            if cache is None or prices is not None
            else cache.engine.settings.price
        )
        self._history = History(max_prefixes, max_conversations, drop)
        self._on_alert, self._clock = on_alert, clock
        self._provider: Provider | None = provider
        self._own = Ledger(clock, None)
        self._own.watch()
        self._answers: OrderedDict[tuple[str, str], None] = OrderedDict()
        self._calls = self._without_usage = self._alerts = 0
        self._lock = threading.RLock()
        reset_after_fork(self)

    def _after_fork(self) -> None:
        self._lock = threading.RLock()

    # -- Observing

    def observe(
        self, request: Mapping[str, Any], response: Any, *, seconds: float | None = None
    ) -> Alert | None:
        """Record one call that the provider has just answered.

        A request whose answer has an id that was seen before for the same request is left out: a
        cache has answered it. Never raises.

        Args:
            request: The arguments of the SDK's call, or the JSON that was sent.
            response: Any response with usage, or the list of the chunks of a stream.
            seconds: The duration of the call.

        Returns:
            The Alert, if the call causes one.
        """
        return self._record(request, response, seconds, observed=True)

    def _on_call(self, request: Request, response: Any, seconds: float | None) -> None:
        self._record(
            {**request.params, "messages": request.messages}, response, seconds, observed=False
        )

    def _record(
        self, request: Mapping[str, Any], response: Any, seconds: float | None, *, observed: bool
    ) -> Alert | None:
        try:
            return self._observe(request, response, seconds, observed)
        except Exception as exc:  # noqa: BLE001  # observing must not break the call
            _log.warning("prompt cache: a call could not be recorded: %s", type(exc).__name__)
            return None

    def _observe(
        self, request: Mapping[str, Any], response: Any, seconds: float | None, observed: bool
    ) -> Alert | None:
        used = read_usage(response)
        if used is None:
            with self._lock:
                self._without_usage += 1
            return None
        shape, answered_by = fingerprint(request), read_model(response)
        model = shape.model or answered_by
        shape = shape._replace(model=model)
        ended = self._clock()
        rules = rules_for(
            model or "",
            self._provider or ("anthropic" if field(request, "system") is not None else None),
        )
        cost = pricing.bill(self._price, (answered_by, model), used)
        paid = PaidCall(model, used, seconds, cost.read_usd, cost.premium_usd, identify(response))
        call = Call(shape, used, paid, rules, ended - (seconds or 0.0), ended, _diagnosis(response))
        if (observed and self._is_replay(shape, response)) or not self._own.paid(
            paid, observed=observed
        ):
            return None
        if observed and self._shared is not None:
            self._shared.paid(paid, observed=True)
        with self._lock:
            self._calls += 1
            shortfall = self._history.add(call)
            self._alerts += shortfall is not None
        return None if shortfall is None else self._alert(call, model, used, shortfall)

    def _is_replay(self, shape: Fingerprint, response: Any) -> bool:
        """Whether a cache answered: the answer has the id of an earlier one to the same request."""
        identity = read_id(response)
        if identity is None:
            return False
        key = (identity, shape._replace(stable=len(shape.parts)).digest)
        with self._lock:
            seen = key in self._answers
            self._answers[key] = None
            self._answers.move_to_end(key)
            if len(self._answers) > _REMEMBERED:
                self._answers.popitem(last=False)
        return seen

    def _alert(self, call: Call, model: str | None, used: Usage, shortfall: Shortfall) -> Alert:
        reason, path, expected, idle, before = shortfall
        whole = (
            call.fingerprint.digest,
            model,
            reason,
            path,
            before,
            call.share,
            expected,
            used.cache_read_tokens,
            idle,
            call.ended,
        )
        alert = Alert(*whole, call.diagnosis)
        _log.warning("prompt cache: %s", alert)
        if self._on_alert is not None:
            try:
                self._on_alert(alert)
            # a failing callback must not break the call
            except Exception:  # noqa: BLE001
                _log.warning("prompt cache: on_alert raised; the call goes on", exc_info=True)
        return alert

    # -- Around a call

    def wrap(self, fn: Callable[P, T]) -> Callable[P, T]:
        """*fn*, such as ``client.messages.create``, sync or async, with its calls observed; streams
        are observed while they are read."""
        if not callable(fn):
            raise TypeError(
                "wrap() takes a function that makes the call, such as client.messages.create, not"
                f" {type(fn).__name__}"
            )
        if inspect.iscoroutinefunction(inspect.unwrap(fn)):

            @wraps(fn)
            async def acall(*args: P.args, **kwargs: P.kwargs) -> Any:
                began = self._clock()
                return await self._after(kwargs, await cast("Any", fn(*args, **kwargs)), began)

            return cast("Callable[P, T]", acall)

        async def awaited(request: dict[str, Any], response: Any, began: float) -> Any:
            return await self._after(request, await response, began)

        @wraps(fn)
        def call(*args: P.args, **kwargs: P.kwargs) -> T:
            began = self._clock()
            response = fn(*args, **kwargs)
            if hasattr(response, "__await__"):  # from an object called like a coroutine function
                return cast("T", awaited(kwargs, response, began))
            if kwargs.get("stream") and hasattr(response, "__next__"):
                return cast("T", ObservedStream(response, self._at_end(kwargs, began)))
            self.observe(kwargs, response, seconds=self._clock() - began)
            return response

        return call

    async def _after(self, request: dict[str, Any], response: Any, began: float) -> Any:
        await self.prices_loaded()
        if request.get("stream") and hasattr(response, "__anext__"):
            return AsyncObservedStream(response, self._at_end(request, began))
        self.observe(request, response, seconds=self._clock() - began)
        return response

    def _at_end(self, request: dict[str, Any], began: float) -> Callable[[list[Any]], object]:
        return lambda pieces: self.observe(request, pieces, seconds=self._clock() - began)

    async def prices_loaded(self) -> None:
        """Load prices in a thread, as that may take a slow import."""
        await pricing.aload(self._price)

    # -- Statistics

    def stats(self) -> TrackerStats:
        """What has been observed so far."""
        with self._lock:
            prefixes = [
                _prefix_stats(digest, prefix) for digest, prefix in self._history.prefixes.items()
            ]
            counts = self._calls, self._without_usage, self._alerts
        prefixes.sort(key=lambda one: -one.input_tokens)
        return TrackerStats(*counts, tuple(prefixes), self._own.snapshot(0).provider)

    def __str__(self) -> str:
        return str(self.stats())

    def _repr_html_(self) -> str:
        return self.stats()._repr_html_()


def _prefix_stats(digest: str, one: PrefixRecord) -> PrefixStats:
    sums = one.sums.stats()
    return PrefixStats(
        digest,
        one.fingerprint.model,
        sums.calls,
        sums.share,
        one.recent or 0.0,
        sums.input_tokens,
        sums.read_tokens,
        sums.write_tokens,
        sums.saved_usd,
        one.last_used,
    )


def _diagnosis(response: Any) -> str | None:
    """The provider's own reason for a miss: Anthropic's ``diagnostics``, OpenAI's
    ``prompt_cache_diagnostics``, if the request asked for them."""
    pieces = response if isinstance(response, list) else [response]
    for piece in reversed(pieces):
        holder = field(piece, "message", "response") or piece
        found = field(field(field(holder, "diagnostics"), "cache_miss_reason"), "type") or field(
            field(holder, "prompt_cache_diagnostics"), "reason"
        )
        if isinstance(found, str):
            return found[:64]
    return None
