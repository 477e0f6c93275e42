"""One caller's circumstances never decide another caller's call; callers alike share a failure."""

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import Future
from contextvars import ContextVar, copy_context
from functools import partial
from typing import Any

import pytest
from threads import WAIT_SECONDS, start, until

from llm_cache_mem import LLMCache, ignoring
from llm_cache_mem.engine.circumstances import callee_of, circumstances_of, timeout_of
from llm_cache_mem.engine.single_flight import SingleFlight

KEY = "1:ns:value:abc"
ASK: dict[str, Any] = {"messages": "hi", "model": "m"}


class Provider:
    """A provider that refuses the key "bad", and answers when it is let."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.started = threading.Semaphore(0)
        self.passed = threading.Semaphore(0)
        self.running = self.most = 0
        self._lock = threading.Lock()

    def create(self, *, messages: str, model: str, api_key: str = "", timeout: float = 60) -> str:
        with self._lock:
            self.calls.append(api_key)
            self.running += 1
            self.most = max(self.most, self.running)
        self.started.release()
        assert self.passed.acquire(timeout=WAIT_SECONDS)
        with self._lock:
            self.running -= 1
        if api_key.startswith("bad"):
            raise PermissionError(api_key)
        if timeout < 1:
            raise ConnectionError("timed out")
        return f"answer for {api_key}"

    def let(self, calls: int = 1) -> None:
        for _ in range(calls):
            self.passed.release()

    def wait(self, calls: int = 1) -> None:
        for _ in range(calls):
            assert self.started.acquire(timeout=WAIT_SECONDS)


def waiting(cache: LLMCache) -> int:
    return sum(len(flight.waiters) for flight in cache.engine.flights._table._listed.values())


def ask(cache: LLMCache, provider: Provider, **outside: Any) -> "Future[Any]":
    return start(lambda: cache.get_or_call(fn=provider.create, **ASK, **outside))


def test_a_bad_key_fails_its_own_caller_only() -> None:
    cache, provider = LLMCache(), Provider()
    bad = ask(cache, provider, api_key="bad")
    provider.wait()
    good = [ask(cache, provider, api_key="good") for _ in range(3)]
    until(lambda: waiting(cache) == 3)
    provider.let(2)
    with pytest.raises(PermissionError):
        bad.result(WAIT_SECONDS)
    assert [future.result(WAIT_SECONDS) for future in good] == ["answer for good"] * 3
    assert provider.calls == ["bad", "good"]


async def test_a_bad_key_fails_its_own_task_only() -> None:
    cache, began, calls = LLMCache(), asyncio.Event(), []
    release = asyncio.Event()

    async def create(*, messages: str, model: str, api_key: str) -> str:
        calls.append(api_key)
        began.set()
        await release.wait()
        if api_key == "bad":
            raise PermissionError
        return "answer"

    bad = asyncio.create_task(cache.aget_or_call(fn=create, **ASK, api_key="bad"))
    await began.wait()
    good = [asyncio.create_task(cache.aget_or_call(fn=create, **ASK, api_key="k")) for _ in "123"]
    while waiting(cache) < 4:
        await asyncio.sleep(0)
    release.set()
    with pytest.raises(PermissionError):
        await bad
    assert await asyncio.gather(*good) == ["answer"] * 3
    assert calls == ["bad", "k"]


def test_a_follower_with_a_longer_timeout_makes_its_own_call() -> None:
    cache, provider = LLMCache(), Provider()
    hasty = ask(cache, provider, timeout=0.5)
    provider.wait()
    patient = ask(cache, provider, timeout=60)
    until(lambda: waiting(cache) == 1)
    provider.let(2)
    with pytest.raises(ConnectionError):
        hasty.result(WAIT_SECONDS)
    assert patient.result(WAIT_SECONDS) == "answer for "


def test_a_follower_waits_no_longer_than_its_own_timeout() -> None:
    cache, provider = LLMCache(), Provider()
    patient = ask(cache, provider, timeout=60)
    provider.wait()
    hasty = ask(cache, provider, timeout=0.05)
    with pytest.raises(TimeoutError, match=r"longer than 0\.05 s"):
        hasty.result(WAIT_SECONDS)
    provider.let()
    assert patient.result(WAIT_SECONDS) == "answer for "
    assert provider.calls == [""]


async def test_a_task_waits_no_longer_than_its_own_timeout() -> None:
    cache, release = LLMCache(), asyncio.Event()

    async def create(*, messages: str, model: str, timeout: float) -> str:
        await release.wait()
        return "answer"

    patient = asyncio.create_task(cache.aget_or_call(fn=create, **ASK, timeout=60))
    await asyncio.sleep(0)
    with pytest.raises(TimeoutError):
        await cache.aget_or_call(fn=create, **ASK, timeout=0.05)
    release.set()
    assert await patient == "answer"


def test_another_client_makes_its_own_call_after_a_failure() -> None:
    cache, dead, alive = LLMCache(), Provider(), Provider()
    first = ask(cache, dead, api_key="bad")
    dead.wait()
    second = ask(cache, alive, api_key="bad-looking, yet another client")
    until(lambda: waiting(cache) == 1)
    dead.let()
    alive.let()
    with pytest.raises(PermissionError, match=r"^bad$"):
        first.result(WAIT_SECONDS)
    with pytest.raises(PermissionError, match="another client"):
        second.result(WAIT_SECONDS)
    assert (len(dead.calls), len(alive.calls)) == (1, 1)


@pytest.mark.parametrize("callers", [50, pytest.param(1000, marks=pytest.mark.slow)])
def test_callers_alike_share_one_failure(callers: int) -> None:
    cache, provider = LLMCache(), Provider()
    futures = [ask(cache, provider, api_key="bad") for _ in range(callers)]
    until(lambda: waiting(cache) == callers - 1)
    provider.let(callers)
    failures = [future.exception(WAIT_SECONDS) for future in futures]
    assert all(isinstance(failure, PermissionError) for failure in failures)
    assert len({id(failure) for failure in failures}) == callers
    assert len(provider.calls) == 1


@pytest.mark.parametrize("tenants", [40, pytest.param(1000, marks=pytest.mark.slow)])
def test_tenants_call_side_by_side_but_at_most_eight(tenants: int) -> None:
    cache, provider = LLMCache(), Provider()
    futures = [ask(cache, provider, api_key=f"bad {number}") for number in range(tenants)]
    until(lambda: waiting(cache) == tenants - 1)
    provider.wait()
    provider.let()
    until(lambda: provider.running == 8)
    provider.let()
    until(lambda: len(provider.calls) == 10)  # one for the one that has failed
    table = cache.engine.flights._table
    assert max(flight.chains.live for flight in table._flights_of(None)) == 8
    provider.let(tenants)
    failures = [future.exception(WAIT_SECONDS) for future in futures]
    assert sorted(str(failure) for failure in failures) == sorted(
        f"bad {number}" for number in range(tenants)
    )
    assert (len(provider.calls), provider.most) == (tenants, 8)


def test_seventeen_tenants_wait_through_two_failures_at_most() -> None:
    cache, provider = LLMCache(), Provider()
    futures = [ask(cache, provider, api_key=f"bad {number}") for number in range(17)]
    until(lambda: waiting(cache) == 16)
    provider.wait()
    provider.let()
    until(lambda: provider.running == 8)
    table = cache.engine.flights._table
    behind = [len(flight.waiters) for flight in table._flights_of(None)]
    assert (sum(behind), max(behind)) == (8, 1)  # each waits for one more call
    provider.let(16)
    assert all(isinstance(future.exception(WAIT_SECONDS), PermissionError) for future in futures)


def test_a_success_after_a_failure_answers_the_waiters() -> None:
    cache, provider = LLMCache(), Provider()
    futures = [ask(cache, provider, api_key="bad")]
    provider.wait()
    for number in range(16):
        futures.append(ask(cache, provider, api_key=f"good {number}"))
        until(lambda expected=number + 1: waiting(cache) == expected)
    provider.let(17)
    with pytest.raises(PermissionError):
        futures[0].result(WAIT_SECONDS)
    assert all(str(future.result(WAIT_SECONDS)).startswith("answer") for future in futures[1:])
    assert len(provider.calls) <= 9


def test_a_result_for_callers_alike_only_leaves_the_others_to_call() -> None:
    flights, began, passed = SingleFlight(600), threading.Event(), threading.Event()

    def refuse(flight: Any) -> str:
        flight.only_alike()
        began.set()
        assert passed.wait(WAIT_SECONDS)
        return "401"

    def run(work: Callable[[Any], str], circumstances: str) -> "Future[Any]":
        return start(lambda: flights.run(KEY, work, circumstances=circumstances))

    first = run(refuse, "bad key")
    assert began.wait(WAIT_SECONDS)
    alike, other = run(refuse, "bad key"), run(lambda flight: "200", "good key")
    until(lambda: len(flights._table._listed[KEY].waiters) == 2)
    passed.set()
    assert (first.result(WAIT_SECONDS), alike.result(WAIT_SECONDS)) == (
        ("401", False),
        ("401", True),
    )
    assert other.result(WAIT_SECONDS) == ("200", False)


def fails_for_itself_only(
    cache: LLMCache, first: Callable[[], Any], second: Callable[[], Any], provider: Provider
) -> None:
    """*first* calls with a bad key while *second* waits for it, and gets its own answer."""
    bad = start(first)
    provider.wait()
    good = start(second)
    until(lambda: waiting(cache) == 1)
    provider.let(2)
    with pytest.raises(PermissionError):
        bad.result(WAIT_SECONDS)
    provider.wait()
    assert str(good.result(WAIT_SECONDS)).startswith("answer")


def test_a_credential_in_a_context_variable_is_its_callers_own() -> None:
    cache, provider = LLMCache(), Provider()
    tenant: ContextVar[str] = ContextVar("tenant")

    def create(*, messages: str, model: str) -> str:
        return provider.create(messages=messages, model=model, api_key=tenant.get())

    @cache.cached
    def decorated() -> str:
        return provider.create(messages="", model="", api_key=tenant.get())

    def ask_as(key: str, fn: Callable[[], Any]) -> Callable[[], Any]:
        context = copy_context()
        context.run(tenant.set, key)
        return lambda: context.run(fn)

    for fn in (lambda: cache.get_or_call(fn=create, **ASK), decorated):
        fails_for_itself_only(cache, ask_as("bad", fn), ask_as("good", fn), provider)


class Client:
    """A client that asks a function for its key, as those of SDKs do."""

    def __init__(self, provider: Provider, keys: list[str]) -> None:
        self._client = self
        self._api_key_provider = lambda: keys.pop(0)
        self._provider = provider

    def create(self, *, messages: str, model: str) -> str:
        key = self._api_key_provider()
        return self._provider.create(messages=messages, model=model, api_key=key)


def test_no_two_calls_with_a_token_provider_are_alike() -> None:
    provider = Provider()
    for wrap in (
        lambda client: client.create,
        lambda client: lambda **named: client.create(**named),
        lambda client: partial(client.create),
        lambda client: partial(lambda client, **named: client.create(**named), client),
    ):
        cache, fn = LLMCache(), wrap(Client(provider, ["bad", "good"]))

        def ask_it(cache: LLMCache = cache, fn: Any = fn) -> Any:
            return cache.get_or_call(fn=fn, **ASK)

        fails_for_itself_only(cache, ask_it, ask_it, provider)


def test_a_failure_of_what_a_key_function_leaves_out_is_not_shared() -> None:
    cache, provider = LLMCache(key_fn=ignoring("api_key_name")), Provider()

    def create(*, messages: str, model: str, api_key_name: str) -> str:
        return provider.create(messages=messages, model=model, api_key=api_key_name)

    def ask_with(name: str) -> Callable[[], Any]:
        return lambda: cache.get_or_call(fn=create, **ASK, api_key_name=name)

    fails_for_itself_only(cache, ask_with("bad"), ask_with("good"), provider)


# -- What counts as the same circumstances


def test_methods_of_sdks_are_alike_in_every_context() -> None:
    openai = pytest.importorskip("openai")
    other = copy_context()
    other.run(ContextVar("request_id").set, "2")

    def mark(fn: Any) -> Any:
        return circumstances_of(fn, {}), other.run(circumstances_of, fn, {})

    one, two = mark(openai.OpenAI(api_key="k").chat.completions.create)
    assert one == two
    one, two = mark(openai.OpenAI(api_key=lambda: "k").chat.completions.create)
    assert one != two
    one, two = mark(lambda: None)
    assert one != two


def test_lambdas_of_one_line_with_one_client_are_one_callee() -> None:
    def make(client: object, model: str) -> Callable[[], object]:
        return lambda: (client, model)

    one, other = object(), object()
    assert callee_of(make(one, "m")) == callee_of(make(one, "m"))
    assert callee_of(make(one, "m")) != callee_of(make(other, "m"))
    assert callee_of(make(one, "m")) != callee_of(make(one, "n"))


def test_functions_that_call_themselves_are_called_and_compared() -> None:
    def again(key: str) -> Callable[..., str]:
        def call(messages: str, model: str, n: int = 0) -> str:
            return call(messages, model, 1) if not n else key

        return call

    def mutual(key: str) -> Callable[..., str]:
        def even(messages: str, model: str, n: int = 2) -> str:
            return odd(messages, model, n - 1) if n else key

        def odd(messages: str, model: str, n: int) -> str:
            return even(messages, model, n - 1)

        return even

    def helped(key: str) -> Callable[..., str]:
        def helper(n: int) -> str:
            return helper(n - 1) if n else key

        return lambda messages, model: helper(2)

    for make in (again, mutual, helped):
        assert LLMCache().get_or_call(fn=make("answer"), **ASK) == "answer"
        assert LLMCache().cached(make("answer"))("hi", "m") == "answer"
        assert circumstances_of(make("a"), {}) == circumstances_of(make("a"), {})
        assert circumstances_of(make("a"), {}) != circumstances_of(make("b"), {})


API_KEY, asked = "a", 0


def by_global() -> str:
    global asked
    asked += 1
    return API_KEY


def test_a_global_counts_unless_it_is_a_number(monkeypatch: pytest.MonkeyPatch) -> None:
    before = circumstances_of(by_global, {})
    by_global()
    assert circumstances_of(by_global, {}) == before
    monkeypatch.setattr(f"{__name__}.API_KEY", "b")
    assert circumstances_of(by_global, {}) != before


class Proxy:
    """A lazy proxy without its target."""

    def __getattr__(self, name: str) -> Any:
        raise RuntimeError("working outside of application context")

    def __call__(self) -> None: ...


PROXY = Proxy()


def test_an_object_that_cannot_be_looked_at_breaks_no_call() -> None:
    proxy = PROXY
    functions: tuple[Callable[..., Any], ...] = (
        lambda messages, model: proxy and "answer",
        lambda messages, model: PROXY and "answer",
        lambda messages, model, given=proxy: "answer",
        lambda messages, model, *, given=proxy: "answer",
        partial(lambda given, messages, model: "answer", proxy),
    )
    for fn in functions:
        assert LLMCache().get_or_call(fn=fn, **ASK) == "answer"
        assert circumstances_of(fn, {}) != circumstances_of(fn, {})
    assert timeout_of({"timeout": proxy}) is None


def test_keyword_defaults_and_attributes_of_a_function_count() -> None:
    def by_default(key: str) -> Any:
        def call(*, key: str = key) -> str:
            return key

        return call

    def by_attribute(key: str) -> Any:
        def call() -> Any:
            return call.key  # type: ignore[attr-defined]

        call.key = key  # type: ignore[attr-defined]
        return call

    assert circumstances_of(by_default("a"), {}) == circumstances_of(by_default("a"), {})
    for make in (by_default, by_attribute):
        assert circumstances_of(make("a"), {}) != circumstances_of(make("b"), {})
    called = by_attribute("a")
    before = circumstances_of(called, {})
    called.calls = 1
    assert circumstances_of(called, {}) == before


def test_arguments_outside_the_key_are_compared_by_value_if_plain() -> None:
    assert circumstances_of(print, {"timeout": 1}) == circumstances_of(print, {"timeout": 1})
    assert circumstances_of(print, {"timeout": 1}) != circumstances_of(print, {"timeout": 1.0})
    assert circumstances_of(print, {"api_key": "a"}) != circumstances_of(print, {"api_key": "b"})
    pool = object()
    assert circumstances_of(print, {"pool": pool}) == circumstances_of(print, {"pool": pool})
    assert circumstances_of(print, {"pool": pool}) != circumstances_of(print, {"pool": object()})


def test_timeouts_are_read_in_every_form() -> None:
    class Timeout:
        read = 2.5

    assert timeout_of({"timeout": 3}) == 3.0
    assert timeout_of({"timeout": Timeout()}) == 2.5
    assert timeout_of({"request_timeout": 4.0}) == 4.0
    assert timeout_of({"timeout": (1.0, 5.0)}) == 5.0
    assert timeout_of({}) is timeout_of({"timeout": None}) is timeout_of({"timeout": "x"}) is None


def test_timeout_of_a_model_counts_once_for_each_try():
    class Model:
        request_timeout = 2.0
        max_retries = 2

    assert timeout_of({}, Model()) == 6.0
    assert timeout_of({"timeout": 1}, Model()) == 1.0
    Model.max_retries = None
    assert timeout_of({}, Model()) == 2.0
    Model.request_timeout = None
    assert timeout_of({}, Model()) is None
