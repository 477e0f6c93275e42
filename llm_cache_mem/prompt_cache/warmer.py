"""Warmer: one small request makes the provider write a prefix to its cache before users arrive."""

import inspect
import logging
from collections import OrderedDict
from collections.abc import Callable, Generator
from functools import partial
from typing import Any, NamedTuple, TypeAlias, TypeVar, cast

from llm_cache_mem._util.clock import now
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
    """Warms a provider's prompt cache through a client. Thread-safe.

    Args:
        client: Of the Anthropic or OpenAI SDK, sync or async, or another with the same methods.
        api: ``messages`` (Anthropic), ``chat`` or ``responses`` (OpenAI); by default what the
            client has, ``chat`` before ``responses``.
        prices: As for LLMCache.
        clock: Returns Unix seconds.

    Example:
        >>> warmer = Warmer(anthropic.Anthropic())
        >>> warmer.warm(model="claude-sonnet-4-5", system=MANUAL)
    """

    def __init__(
        self,
        client: Any,
        *,
        api: API | None = None,
        prices: pricing.Prices = None,
        clock: Callable[[], float] = now,
    ) -> None:
        self.api: API = _api(client) if api is None else api
        self._create = _create(client, self.api)
        self._price = pricing.resolve(prices)
        self._clock = clock
        self._known: OrderedDict[str, tuple[Prefix, float]] = OrderedDict()
        self._limits = list(SMALLEST[self.api])

    @property
    def is_async(self) -> bool:
        """Whether the client is async: then use ``awarm`` and ``async with``."""
        return inspect.iscoroutinefunction(inspect.unwrap(self._create))

    def prefix(self, **parts: Any) -> Prefix:
        """A prefix of calls, with breakpoints at the end of tools, system and messages, unless they
        have some already.

        Args:
            **parts: *model*, and *system*, *tools*, *messages* as the SDK takes them; *documents*,
                texts or content blocks for the first message; *ttl*, ``5m`` or ``1h`` (Anthropic),
                ``30m`` or ``12h`` (OpenAI from gpt-5.6), ``in_memory`` or ``24h`` (before);
                *name*, for warnings, by default the model. Anything else is a parameter of the call
                that is part of the prefix, such as ``prompt_cache_key`` or ``tool_choice``.

        Raises:
            TypeError: An argument has the wrong type.
            ValueError: The provider would refuse the prefix.
        """
        return make_prefix(self.api, **parts)

    def warm(
        self, prefix: Prefix | None = None, /, *, verify: bool = False, **parts: Any
    ) -> Warmed:
        """Make the provider write *prefix*, with the smallest request that does.

        Args:
            prefix: The prefix; None: one made of *parts*.
            verify: Send a second request, which must read what the first one wrote.
            **parts: As for ``prefix``.

        Returns:
            Tokens, dollars, and warnings.

        Raises:
            Exception: Whatever the client raises.
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
                "the client is not async: use warmer.warm(...), in a thread to keep the event loop"
                " free"
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
            except Exception as exc:  # noqa: BLE001  # the steps handle it
                failure = exc

    def keep_warm(
        self, prefix: Prefix | Callable[[], Prefix] | None = None, /, **options: Any
    ) -> KeepWarm:
        """A context manager that warms *prefix* on entry and renews it before it expires, in a
        thread for ``with``, in a task for ``async with``.

        Args:
            prefix: The prefix, or a function that returns it before each renewal; None: one made of
                the other *options*.
            **options: *max_failures* (3), the failures in a row after which it gives up; *every*,
                the seconds between renewals, by default four fifths of the lifetime; *jitter*
                (0.1), the share of that by which a renewal may come earlier; *on_warmed*, called
                with each Warmed. Others are parts of the prefix, as for ``prefix``.
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
            raise TypeError(f"got both a prefix and parts to make one: {', '.join(sorted(parts))}")
        return given

    # -- Inside: steps that yield each call of the client

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
        if not verified:  # if it was read, the server has its own rules
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
        """Send the smallest request that the server accepts; a limit that it answers with 400 is
        not tried again once a larger one has succeeded."""
        for limit in (limits := list(self._limits)):
            request = prefix.warming(limit)
            began = self._clock()
            try:
                response = yield partial(self._create, **request)
            except Exception as exc:
                if limit == limits[-1] or field(exc, "status_code") != 400:
                    raise
                continue
            self._limits = [other for other in self._limits if other >= limit]
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
            f"it changed since it was last warmed, first at {where}; the former one stays in the"
            f" cache unused for {left:.0f} s"
        )

    def _remember(self, prefix: Prefix, expires_at: float) -> None:
        self._known[prefix.name] = (prefix, expires_at)
        self._known.move_to_end(prefix.name)
        while len(self._known) > _REMEMBERED:
            self._known.popitem(last=False)


def _drive(steps: Generator[_Call, Any, T]) -> T:
    """Run *steps* with a sync client."""
    answer: Any = None
    failure: BaseException | None = None
    while True:
        try:
            call = steps.throw(failure) if failure is not None else steps.send(answer)
        except StopIteration as done:
            return done.value  # type: ignore[no-any-return]  # as above
        try:
            answer, failure = call(), None
        except Exception as exc:  # noqa: BLE001  # the steps handle it
            failure = exc


def _too_little(prefix: Prefix, used: Usage) -> list[str]:
    """Warnings if nothing of the prefix was cached."""
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
        f"{type(client).__name__} is not a client of the Anthropic or OpenAI SDK: it has no"
        " messages, chat or responses"
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
