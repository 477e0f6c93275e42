"""Warmer: before users arrive, one small request makes the provider write its cache for what all
their calls begin with."""

import inspect
import logging
from collections import OrderedDict
from collections.abc import Callable, Generator
from functools import partial
from time import time
from typing import Any, NamedTuple, TypeAlias, TypeVar, cast

from llm_cache_mem.accounting import pricing
from llm_cache_mem.prompt_cache.keep_warm import KeepWarm
from llm_cache_mem.prompt_cache.prefix import Prefix, make_prefix
from llm_cache_mem.prompt_cache.rules import API, SMALLEST
from llm_cache_mem.prompt_cache.warmed import Warmed
from llm_cache_mem.responses.fields import field
from llm_cache_mem.responses.usage import Usage, read_usage

__all__ = ["Warmer"]

_log = logging.getLogger(__name__)

_REMEMBERED = 256
_Call: TypeAlias = Callable[[], Any]
T = TypeVar("T")


class _Sent(NamedTuple):
    usage: Usage
    cost_usd: float | None
    seconds: float
    began: float


class Warmer:
    """Warms a provider's prompt cache through *client*: Anthropic, OpenAI, their async twins, or
    another with the same methods.

    *api*: ``messages`` (Anthropic), ``chat`` or ``responses`` (OpenAI); by default what the client
      has, ``chat`` before ``responses``.
    *prices* as for LLMCache. *clock* gives the time in Unix seconds. Threads may share one.
    """

    def __init__(
        self,
        client: Any,
        *,
        api: API | None = None,
        prices: pricing.Prices = None,
        clock: Callable[[], float] = time,
    ) -> None:
        self.api: API = _api(client) if api is None else api
        self._create = _create(client, self.api)
        self._price = pricing.resolve(prices)
        self._clock = clock
        self._known: OrderedDict[str, tuple[Prefix, float]] = OrderedDict()
        self._limits = list(SMALLEST[self.api])

    @property
    def is_async(self) -> bool:
        """Whether the client is, so that ``awarm`` and ``async with`` are the ones to use."""
        return inspect.iscoroutinefunction(inspect.unwrap(self._create))

    def prefix(self, **parts: Any) -> Prefix:
        """What calls begin with, marked for the provider: *model*, and *system*, *tools*,
        *messages*, *documents* as the SDK takes them.

        *documents*: texts or content blocks, which become the first message's. *ttl*: ``5m`` or
          ``1h`` (Anthropic), ``30m`` or ``12h``
        (OpenAI from gpt-5.6), ``in_memory`` or ``24h`` (before). *name*: what it is called in
        warnings, by default the model. Breakpoints go to the end of tools, system and messages,
        where there are none yet. All else is a parameter of the call that is part of the prefix,
        such as ``prompt_cache_key`` or ``tool_choice``. Raises TypeError or ValueError for what no
        provider would take.
        """
        return make_prefix(self.api, **parts)

    def warm(
        self, prefix: Prefix | None = None, /, *, verify: bool = False, **parts: Any
    ) -> Warmed:
        """Make the provider write *prefix*, or the one that *parts* make, with the smallest request
        that does; what came of it.

        *verify* sends a second one, which must read what the first wrote. What the client raises is
          raised.
        """
        if self.is_async:
            raise TypeError("the client is async: use await warmer.awarm(...)")
        return _drive(self._warming(prefix, verify, parts))

    async def awarm(
        self, prefix: Prefix | None = None, /, *, verify: bool = False, **parts: Any
    ) -> Warmed:
        """``warm`` for an async client."""
        if not self.is_async:
            raise TypeError(
                "the client is not async: use warmer.warm(...), in a thread if the event loop must"
                " go on"
            )
        steps = self._warming(prefix, verify, parts)
        answer: Any = None
        failure: BaseException | None = None
        while True:
            try:
                call = steps.throw(failure) if failure is not None else steps.send(answer)
            except StopIteration as done:
                return done.value  # type: ignore[no-any-return]  # what the steps return
            try:
                answer, failure = await call(), None
            except Exception as exc:  # noqa: BLE001  # the steps decide what it means
                failure = exc

    def keep_warm(
        self, prefix: Prefix | Callable[[], Prefix] | None = None, /, **options: Any
    ) -> KeepWarm:
        """A context manager that warms on entry and renews before expiry until it is left: ``with``
        in a thread, ``async with`` in a task.

        *prefix* may be a function, asked before each renewal. *max_failures* (3): in a row, after
          which it gives up. *every*: seconds
        between renewals, by default four fifths of the lifetime. *jitter* (0.1): the part of that
        by which each may come earlier.
        *on_warmed* is told of each Warmed. All else makes the prefix, as for ``warm``.
        """
        own = {
            name: options.pop(name)
            for name in ("max_failures", "every", "jitter", "on_warmed", "wait", "random")
            if name in options
        }
        return KeepWarm(self, self._given_or_made(prefix, options), clock=self._clock, **own)

    def _given_or_made(self, given: T | None, parts: dict[str, Any]) -> T | Prefix:
        if given is None:
            return self.prefix(**parts)
        if parts:
            raise TypeError(
                f"a prefix was given, and {', '.join(sorted(parts))} with which to make one"
            )
        return given

    # -- Inside: the steps, in which each call of the client is yielded

    def _warming(
        self, prefix: Prefix | None, verify: bool, parts: dict[str, Any]
    ) -> Generator[_Call, Any, Warmed]:
        prefix = self._given_or_made(prefix, parts)
        warnings = [text for text in (self._changed(prefix),) if text]
        first = yield from self._send(prefix)
        cached = first.usage.cache_read_tokens + first.usage.cache_write_tokens
        sent = [first]
        verified, read = None, 0
        if verify:
            second = yield from self._send(prefix)
            sent.append(second)
            read = second.usage.cache_read_tokens
            verified = read >= 0.9 * cached and read > 0
        if (
            not verified
        ):  # a server with rules of its own may well have cached it, but then that was seen
            warnings += _too_little(prefix, first.usage)
        if verified is False:
            warnings.append(
                f"a second request read {read:,} tokens of it: calls that begin with this prefix"
                " will not find it"
            )
        for text in warnings:
            _log.warning("prompt cache: %s: %s", prefix.name, text)
        self._remember(prefix, sent[-1].began + prefix.lifetime)
        cost = (
            None
            if any(one.cost_usd is None for one in sent)
            else sum(one.cost_usd or 0.0 for one in sent)
        )
        return Warmed(
            prefix,
            input_tokens=first.usage.input_tokens,
            written_tokens=first.usage.cache_write_tokens,
            read_tokens=first.usage.cache_read_tokens,
            output_tokens=sum(one.usage.output_tokens for one in sent),
            cost_usd=cost,
            seconds=sum(one.seconds for one in sent),
            expires_at=sent[-1].began + prefix.lifetime,
            verified=verified,
            verified_read_tokens=read,
            warnings=tuple(warnings),
        )

    def _send(self, prefix: Prefix) -> Generator[_Call, Any, _Sent]:
        """The smallest request that the server takes; a limit that it answers 400 to is not tried
        again once a larger one has passed."""
        for limit in (limits := list(self._limits)):
            request = prefix.warming(limit)
            began = self._clock()
            try:
                response = yield partial(self._create, **request)
            except Exception as exc:
                if limit == limits[-1] or field(exc, "status_code") != 400:
                    raise
                continue
            self._limits = [kept for kept in self._limits if kept >= limit]
            used = read_usage(response) or Usage(0, 0)
            cost = pricing.bill(self._price, (prefix.model,), used).usd
            return _Sent(used, cost, max(0.0, self._clock() - began), began)
        raise AssertionError("there is always a last limit")

    def _changed(self, prefix: Prefix) -> str | None:
        known = self._known.get(prefix.name)
        if known is None or self._clock() >= known[1] or known[0].digest == prefix.digest:
            return None
        mine, its = (
            one.fingerprint._replace(stable=len(one.fingerprint.parts))
            for one in (prefix, known[0])
        )
        left, where = known[1] - self._clock(), mine.first_difference(its)
        return (
            f"it changed since it was last warmed, first at {where}; what was written then lives"
            f" {left:.0f} s more for nobody"
        )

    def _remember(self, prefix: Prefix, expires_at: float) -> None:
        self._known[prefix.name] = (prefix, expires_at)
        self._known.move_to_end(prefix.name)
        while len(self._known) > _REMEMBERED:
            self._known.popitem(last=False)


def _drive(steps: Generator[_Call, Any, T]) -> T:
    """Run *steps*, whose calls return what they are asked for."""
    answer: Any = None
    failure: BaseException | None = None
    while True:
        try:
            call = steps.throw(failure) if failure is not None else steps.send(answer)
        except StopIteration as done:
            return done.value  # type: ignore[no-any-return]  # as above
        try:
            answer, failure = call(), None
        except Exception as exc:  # noqa: BLE001  # the steps decide what it means
            failure = exc


def _too_little(prefix: Prefix, used: Usage) -> list[str]:
    """Why nothing, or not all, of the prefix was cached, in words."""
    minimum, cached = prefix.rules.minimum_tokens, used.cache_read_tokens + used.cache_write_tokens
    if cached or not used.input_tokens:
        return []
    if used.input_tokens < minimum:
        return [
            f"nothing was cached: it has {used.input_tokens:,} tokens, and {prefix.model} caches"
            f" from {minimum:,} on"
        ]
    if prefix.rules.explicit:
        return [
            f"nothing was cached, though {used.input_tokens:,} tokens are enough: the server has no"
            " prompt cache, or does not report it"
        ]
    return []


def _api(client: Any) -> API:
    if callable(field(field(client, "messages"), "create")):
        return "messages"
    if callable(field(field(field(client, "chat"), "completions"), "create")):
        return "chat"
    if callable(field(field(client, "responses"), "create")):
        return "responses"
    raise TypeError(
        f"{type(client).__name__} is no client of Anthropic's or OpenAI's SDK: it has no messages,"
        " chat or responses"
    )


def _create(client: Any, api: API) -> Callable[..., Any]:
    paths = {
        "messages": ("messages",),
        "chat": ("chat", "completions"),
        "responses": ("responses",),
    }
    if api not in paths:
        raise ValueError(f"api must be one of {', '.join(map(repr, paths))}, not {api!r}")
    holder = client
    for name in paths[api]:
        holder = field(holder, name)
    create = field(holder, "create")
    if not callable(create):
        raise TypeError(f"{type(client).__name__} has no {'.'.join(paths[api])}.create")
    return cast("Callable[..., Any]", create)
