"""cache.map and cache.amap: many requests, each answered once, in order, within bounds."""

import asyncio
import logging
import threading
import time
import tracemalloc
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from http_server import Reply, provider

from llm_cache_mem import LLMCache, options
from llm_cache_mem.errors import BudgetSpent, CacheMissError, RequestNotCacheable, StoreError
from llm_cache_mem.evaluation import MapResult
from llm_cache_mem.evaluation.progress import progress_of, text_of
from llm_cache_mem.evaluation.run import Run, RunSettings
from llm_cache_mem.stores import MemoryStore

PRICES = {"m": (1_000_000, 0)}  # a dollar a token of input


def request(text: object, **params: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": str(text)}], "model": "m", **params}


def answer_to(messages: Any, finish: str = "stop") -> dict[str, Any]:
    return {
        "choices": [
            {"message": {"content": messages[0]["content"].upper()}, "finish_reason": finish}
        ],
        "usage": {"prompt_tokens": 1, "completion_tokens": 0},
    }


class Model:
    """A model that counts its calls, and those at the same time."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.most = self._now = 0
        self._lock = threading.Lock()

    def create(self, *, messages: Any, model: str) -> dict[str, Any]:
        with self._lock:
            self.calls.append(messages[0]["content"])
            self._now += 1
            self.most = max(self.most, self._now)
        answer = answer_to(messages)
        with self._lock:
            self._now -= 1
        return answer

    async def acreate(self, *, messages: Any, model: str) -> dict[str, Any]:
        self.calls.append(messages[0]["content"])
        self._now += 1
        self.most = max(self.most, self._now)
        await asyncio.sleep(0)
        self._now -= 1
        return answer_to(messages)


def texts(results: list[MapResult]) -> list[str]:
    return [result.value["choices"][0]["message"]["content"] for result in results]


@pytest.fixture
def cache() -> LLMCache:
    return LLMCache(max_size=None, prices=PRICES)


@pytest.fixture
def model() -> Model:
    return Model()


class Limited(Exception):
    """What an SDK raises for a 429 when its own retries are over."""

    def __init__(self, headers: dict[str, str]) -> None:
        super().__init__("slow down")
        self.status_code = 429
        self.response = type("Response", (), {"headers": headers, "status_code": 429})()


# -- Answers


def test_results_come_in_order_and_repeats_hit(cache: LLMCache, model: Model) -> None:
    requests = [request(number % 70) for number in range(100)]
    first = list(cache.map(model.create, requests))
    assert texts(first) == [str(number % 70) for number in range(100)]
    assert [result.index for result in first] == list(range(100))
    assert sorted(model.calls) == sorted({str(number) for number in range(70)})
    assert sum(result.hit for result in first) == 30
    assert sum(result.usd or 0 for result in first) == pytest.approx(70)
    again = list(cache.map(model.create, requests))
    assert all(result.hit and result.usd == 0 for result in again)
    assert len(model.calls) == 70
    stats = cache.stats()
    assert stats.misses == 100 - 30 + stats.coalesced
    assert stats.hits + stats.coalesced == 130


def test_map_and_live_calls_share_their_entries(cache: LLMCache, model: Model) -> None:
    one, other = request("one"), request("other")
    list(cache.map(model.create, [one]))
    cache.get_or_call(one["messages"], model.create, model="m")
    cache.get_or_call(other["messages"], model.create, model="m")
    assert [result.hit for result in cache.map(model.create, [one, other])] == [True, True]
    assert model.calls == ["one", "other"]


def test_equal_requests_in_progress_take_one_slot(cache: LLMCache) -> None:
    others, calls = threading.Semaphore(0), []

    def create(*, messages: Any, model: str) -> Any:
        calls.append(messages[0]["content"])
        if calls[-1] == "slow":  # answered when all others are: they need the second slot
            for _ in range(20):
                assert others.acquire(timeout=30)
        else:
            others.release()
        return answer_to(messages)

    requests = [request("slow")] * 10 + [request(number) for number in range(20)]
    results = list(cache.map(create, requests, concurrency=2))
    assert len(calls) == 21
    assert [result.hit for result in results] == [False] + [True] * 9 + [False] * 20
    values = [result.value for result in results[:10]]
    assert len({id(value) for value in values}) == 10, "each has its own copy"
    assert cache.stats().coalesced == 9


def test_no_more_calls_at_once_than_asked(cache: LLMCache, model: Model) -> None:
    list(cache.map(model.create, map(request, range(200)), concurrency=3))
    assert 1 <= model.most <= 3


def test_options_count_as_they_were_at_the_call(cache: LLMCache, model: Model) -> None:
    with options(namespace="a", tags={"run": "1"}):
        results = cache.map(model.create, map(request, range(3)))
    assert [result.hit for result in results] == [False] * 3
    assert cache.stats().by_tag["run=1"].misses == 3
    with options(namespace="a"):
        assert cache.get(request(1)["messages"], model="m")
    assert cache.get(request(1)["messages"], model="m") is None


def test_mode_replay_makes_no_call(cache: LLMCache, model: Model) -> None:
    list(cache.map(model.create, [request("a")]))
    with options(mode="replay"):
        results = list(cache.map(model.create, map(request, ["a", "b"]), on_error="collect"))
    assert [type(result.error) for result in results] == [type(None), CacheMissError]
    assert model.calls == ["a"]


def test_requests_without_a_key_are_called_uncached(cache: LLMCache, model: Model) -> None:
    def create(*, messages: Any, model: str, seed: Any) -> Any:
        return answer_to(messages)

    results = list(cache.map(create, [request("a", seed=object())] * 2))
    assert [(result.hit, result.usd) for result in results] == [(False, 1.0)] * 2
    with options(mode="replay"), pytest.raises(RequestNotCacheable):
        list(cache.map(create, [request("a", seed=object())]))


# -- Laziness and memory


def test_a_generator_may_fill_one_dict_again(cache: LLMCache, model: Model) -> None:
    def requests() -> Iterator[dict[str, Any]]:
        one = request("")
        for number in range(200):
            one["messages"][0]["content"] = str(number)
            yield one

    for _ in range(2):
        results = list(cache.map(model.create, requests()))
        assert texts(results) == [str(number) for number in range(200)]


def test_nothing_is_read_or_called_before_it_is_iterated(cache: LLMCache, model: Model) -> None:
    read = []

    def requests() -> Iterator[dict[str, Any]]:
        for number in range(100_000):
            read.append(number)
            yield request(number % 50)

    results = cache.map(model.create, requests())
    assert read == []
    assert model.calls == []
    next(results)
    assert len(read) < 2500
    results.close()  # type: ignore[attr-defined]
    assert not [t for t in threading.enumerate() if t.name.startswith("llm-cache-mem-map")]


@pytest.mark.parametrize(("store", "least"), [("memory", 10_000), ("file", 5_000)])
def test_a_rerun_of_hits_is_fast(model: Model, tmp_path: Path, store: str, least: int) -> None:
    backend: Any = "memory" if store == "memory" else tmp_path / "cache.db"
    with LLMCache(backend=backend, max_size=None, prices=PRICES) as cache:
        requests = [request(f"{number} " + "x" * 500) for number in range(2_000)]
        list(cache.map(model.create, requests))
        rates = []
        for _ in range(3):
            began = time.process_time()  # of all threads: other processes do not count
            assert all(result.hit for result in cache.map(model.create, requests))
            rates.append(2_000 / (time.process_time() - began))
    print(f"{max(rates):,.0f} a second")
    assert max(rates) >= least


def peak_of(cache: LLMCache, model: Model, count: int) -> int:
    tracemalloc.start()
    for _ in cache.map(model.create, (request(f"{n % 300} " + "x" * 1000) for n in range(count))):
        model.calls.clear()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak


@pytest.mark.parametrize("count", [6_000, pytest.param(100_000, marks=pytest.mark.slow)])
def test_memory_does_not_grow_with_the_number(cache: LLMCache, model: Model, count: int) -> None:
    peak_of(cache, model, 2_000)
    assert peak_of(cache, model, count) < 1.5 * peak_of(cache, model, 2_000)


def test_a_full_cache_is_reported(model: Model, caplog: pytest.LogCaptureFixture) -> None:
    list(LLMCache(max_size=5).map(model.create, map(request, range(8))))
    assert "evicted 3 answers" in caplog.text
    assert "max_size=None" in caplog.text


# -- Errors and bounds


def failing(messages: Any, model: str) -> Any:
    if messages[0]["content"] == "bad":
        raise ValueError("no such model")
    return answer_to(messages)


def test_the_first_error_is_raised(cache: LLMCache) -> None:
    with pytest.raises(ValueError, match="no such model"):
        list(cache.map(failing, map(request, ["a", "bad", *range(5000)])))


def test_errors_are_collected_beside_answers(cache: LLMCache) -> None:
    results = list(cache.map(failing, map(request, ["a", "bad", "b", "bad"]), on_error="collect"))
    assert [result.value is None for result in results] == [False, True, False, True]
    assert [str(result.error) for result in results[1::2]] == ["no such model"] * 2
    assert "such" not in repr(results[1])
    assert "A" not in repr(results[0])[len("MapResult") :]


@pytest.mark.parametrize("form", ["map", "amap"])
def test_an_error_is_shared_only_with_the_same_call(cache: LLMCache, form: str) -> None:
    calls = []

    def create(*, messages: Any, model: str, api_key: str) -> Any:
        calls.append(api_key)
        if api_key.startswith("bad"):
            raise PermissionError(api_key)
        return answer_to(messages)

    async def acreate(**asked: Any) -> Any:
        return create(**asked)

    async def collected() -> list[MapResult]:
        return [r async for r in cache.amap(acreate, asked, on_error="collect", concurrency=1)]

    asked = [request("a", api_key=key) for key in ("bad", "bad", "bad 2", "good", "good", "bad")]
    if form == "map":
        results = list(cache.map(create, asked, on_error="collect", concurrency=1))
    else:
        results = asyncio.run(collected())
    errors = [None if r.error is None else str(r.error) for r in results]
    assert errors == ["bad", "bad", "bad 2", None, None, "bad"]
    assert calls == ["bad", "bad 2", "good"]


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ("text", "not str"),
        ({"model": "m"}, "not one without"),
        (request("a", stream=True), "stream=True"),
    ],
)
def test_a_bad_request_is_an_error_of_its_own(
    cache: LLMCache, model: Model, wrong: Any, says: str
) -> None:
    results = list(cache.map(model.create, [request("a"), wrong], on_error="collect"))
    assert results[0].error is None
    assert says in str(results[1].error)


@pytest.mark.parametrize(
    "wrong",
    [
        {"concurrency": 0},
        {"concurrency": "8"},
        {"on_error": "skip"},
        {"budget_usd": -1},
        {"budget_usd": "1"},
    ],
)
def test_wrong_arguments_are_refused_at_the_call(cache: LLMCache, wrong: Any) -> None:
    with pytest.raises((TypeError, ValueError), match=next(iter(wrong))):
        cache.map(failing, [], **wrong)
    single: Any
    for single in (request(0), "requests.jsonl"):
        with pytest.raises(TypeError, match=f"several, .* not one {type(single).__name__}"):
            cache.map(failing, single)
    with pytest.raises(TypeError, match="function"):
        cache.map(None, [])  # type: ignore[arg-type]


def test_map_names_amap_for_an_async_function(cache: LLMCache, model: Model) -> None:
    with pytest.raises(TypeError, match="amap"):
        list(cache.map(model.acreate, [request("a")]))


def test_no_call_begins_when_the_budget_is_spent(cache: LLMCache, model: Model) -> None:
    list(cache.map(model.create, [request("stored")]))
    requests = [*map(request, range(10)), request("stored")]
    results = list(
        cache.map(model.create, requests, concurrency=1, budget_usd=3, on_error="collect")
    )
    assert sum(result.usd or 0 for result in results) == 3
    assert [result.error is None for result in results] == [True] * 3 + [False] * 7 + [True]
    assert all(isinstance(result.error, BudgetSpent) for result in results[3:10])


async def test_calls_at_the_same_time_stay_within_the_budget(cache: LLMCache, model: Model) -> None:
    bounds: Any = {"budget_usd": 3, "on_error": "collect"}
    results = list(cache.map(model.create, map(request, range(50)), **bounds))
    assert sum(result.usd or 0 for result in results) == 3
    results = [r async for r in cache.amap(model.acreate, map(request, range(50, 99)), **bounds)]
    assert sum(result.usd or 0 for result in results) == 3


def test_a_spent_budget_is_raised_after_the_answers(cache: LLMCache, model: Model) -> None:
    results = cache.map(model.create, map(request, range(10)), budget_usd=4, concurrency=1)
    assert [next(results).index for _ in range(4)] == [0, 1, 2, 3]
    with pytest.raises(BudgetSpent, match="budget_usd=4"):
        next(results)


def test_a_budget_needs_prices(model: Model) -> None:
    with pytest.raises(BudgetSpent, match="prices="):
        list(
            LLMCache(prices={}).map(
                model.create, map(request, range(3)), concurrency=1, budget_usd=3
            )
        )


def test_429_with_retry_after_is_tried_again(cache: LLMCache) -> None:
    limited = [Limited({"Retry-After-Ms": "5"}), Limited({"retry-after": "0.005"})]

    def create(*, messages: Any, model: str) -> Any:
        if limited:
            raise limited.pop()
        return answer_to(messages)

    results = list(cache.map(create, map(request, range(5)), concurrency=1))
    assert texts(results) == list("01234")
    assert not limited


@pytest.mark.parametrize("sdk", ["openai", "anthropic"])
def test_the_sdks_errors_say_when_to_come_back(cache: LLMCache, sdk: str) -> None:
    package = pytest.importorskip(sdk)
    with provider() as server:
        limited = Reply(b"{}", status=429, headers=(("retry-after-ms", "5"),))
        bad = Reply(b"{}", status=400)
        server.answer = lambda asked: limited if server.calls < 4 else bad
        settings: Any = {"api_key": "k", "base_url": server.url, "max_retries": 1}
        if sdk == "openai":
            create = package.OpenAI(**settings).chat.completions.create
        else:
            create = package.Anthropic(**settings).messages.create
        asked = {**request("a"), "max_tokens": 9}
        (result,) = cache.map(create, [asked], on_error="collect")
        assert isinstance(result.error, package.BadRequestError)
        assert server.calls == 4, "two tries of the SDK, held, and tried again"


def test_429_without_retry_after_is_an_error(cache: LLMCache) -> None:
    def create(*, messages: Any, model: str) -> Any:
        raise Limited({})

    with pytest.raises(Limited):
        list(cache.map(create, [request("a")]))


class Moody(MemoryStore):
    """A store that fails at its first operations."""

    def __init__(self, puts: int = 0, gets: int = 0) -> None:
        super().__init__(max_size=None)
        self.failures = {"put": puts, "get": gets}

    def _fail(self, operation: str) -> None:
        if self.failures[operation]:
            self.failures[operation] -= 1
            raise StoreError("Moody", operation, "busy")

    def get(self, key: str) -> Any:
        self._fail("get")
        return super().get(key)

    def put(self, key: str, entry: Any) -> Any:
        self._fail("put")
        return super().put(key, entry)


def test_an_answer_is_stored_when_the_store_works_again(model: Model) -> None:
    cache = LLMCache(backend=Moody(puts=1))
    list(cache.map(model.create, [request("a")]))
    assert next(iter(cache.map(model.create, [request("a")]))).hit


def test_a_lookup_that_failed_is_made_again_before_a_call(model: Model) -> None:
    store = Moody()
    cache = LLMCache(backend=store)
    list(cache.map(model.create, [request("a")]))
    store.failures["get"] = 2
    assert next(iter(cache.map(model.create, [request("a")]))).hit
    assert model.calls == ["a"]


# -- Async


async def test_amap_answers_as_map_does(cache: LLMCache, model: Model) -> None:
    requests = [request(number % 70) for number in range(100)]
    results = [result async for result in cache.amap(model.acreate, requests, concurrency=4)]
    assert texts(results) == [str(number % 70) for number in range(100)]
    assert len(model.calls) == 70
    assert 1 < model.most <= 4
    assert all([r.hit async for r in cache.amap(model.acreate, requests)])


async def test_amap_reads_an_async_source_on_sqlite(model: Model, tmp_path: Path) -> None:
    async def requests() -> AsyncIterator[dict[str, Any]]:
        for number in range(30):
            yield request(number % 20)

    with LLMCache(backend=tmp_path / "cache.db", max_size=None) as cache:
        results = [result async for result in cache.amap(model.acreate, requests())]
    assert texts(results) == [str(number % 20) for number in range(30)]
    assert len(model.calls) == 20


async def test_amap_out_of_order_says_whose_each_is(cache: LLMCache) -> None:
    others_done = asyncio.Event()

    async def create(*, messages: Any, model: str) -> Any:
        if messages[0]["content"] == "0":
            await others_done.wait()
        return answer_to(messages)

    got = []
    async for result in cache.amap(create, map(request, range(5)), in_order=False):
        got.append(result.index)
        if len(got) == 4:
            others_done.set()
    assert sorted(got[:4]) == [1, 2, 3, 4]
    assert got[4] == 0


async def test_amap_raises_and_collects_errors(cache: LLMCache, model: Model) -> None:
    async def create(*, messages: Any, model: str) -> Any:
        return failing(messages, model)

    with pytest.raises(ValueError, match="no such model"):
        _ = [r async for r in cache.amap(create, map(request, ["bad", *range(3000)]))]
    results = [r async for r in cache.amap(create, [request("bad")], on_error="collect")]
    assert str(results[0].error) == "no such model"
    with pytest.raises(TypeError, match="awaitable"):
        _ = [r async for r in cache.amap(model.create, [request("a")])]  # type: ignore[arg-type]


async def test_cancelling_amap_cancels_its_calls(cache: LLMCache) -> None:
    began, cancelled = asyncio.Event(), []

    async def create(*, messages: Any, model: str) -> Any:
        began.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.append(messages[0]["content"])
            raise

    async def run() -> None:
        async for _ in cache.amap(create, map(request, range(9)), concurrency=1):
            pass

    task = asyncio.create_task(run())
    await began.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert cancelled == ["0"]


# -- Progress


def test_progress_tells_hits_calls_and_dollars(cache: LLMCache) -> None:
    run = Run(cache.engine, model, RunSettings())
    run.done, run.hits, run.paid, run.budget.spent = 50, 40, 10, 1.5
    assert text_of(run, 200) == "40 hits, 10 paid, $1.50 of about $6.00"
    assert text_of(run, None) == "40 hits, 10 paid, $1.50"


@pytest.mark.parametrize(
    ("prices", "text"),
    [((None, None), "—"), ((None, 0.25), "$0.2500 (+ 1 unpriced)")],
)
def test_progress_states_no_dollars_it_does_not_know(
    cache: LLMCache, prices: tuple[float | None, ...], text: str
) -> None:
    run = Run(cache.engine, model, RunSettings())
    for usd in prices:
        assert run.budget.reserve()
        run.budget.settle(usd, paid=True)
    run.done = run.paid = 2
    assert text_of(run, 4) == f"0 hits, 2 paid, {text}"


def test_nothing_is_shown_where_stderr_is_no_terminal(
    cache: LLMCache, model: Model, capfd: pytest.CaptureFixture[str], caplog: Any
) -> None:
    with caplog.at_level(logging.INFO):
        list(cache.map(model.create, map(request, range(5))))
    assert capfd.readouterr() == ("", "")
    assert not caplog.records


def test_a_bar_is_shown_on_a_terminal(
    cache: LLMCache, model: Model, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    import sys

    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    monkeypatch.setenv("TERM", "xterm")
    run = Run(cache.engine, model, RunSettings())
    with progress_of(run, 3) as show:
        run.done = 3
        show()
    assert "0 hits, 0 paid, $0.00" in capsys.readouterr().err


@pytest.mark.parametrize("store", ["memory", "sqlite"])
@pytest.mark.parametrize("asynchronous", [False, True])
def test_hits_of_a_map_are_verified(asynchronous: bool, store: str, tmp_path: Path) -> None:
    said = ["yes"]

    def create(*, messages: Any, model: str) -> str:
        return said[0]

    async def acreate(*, messages: Any, model: str) -> str:
        return said[0]

    backend: Any = "memory" if store == "memory" else tmp_path / "cache.db"
    with LLMCache(backend=backend, verify_rate=1, verify_with="exact") as cache:
        verifier: Any = cache.engine.verifier

        async def arun() -> None:
            async for _ in cache.amap(acreate, map(request, range(4)), progress=False):
                pass
            while verifier._pending:
                await asyncio.sleep(0.001)

        for text in ("yes", "yes", "no"):
            said[0] = text
            if asynchronous:
                asyncio.run(arun())
                continue
            list(cache.map(create, map(request, range(4)), progress=False))
            while verifier._pending:
                threading.Event().wait(0.001)
        (found,) = cache.stats().verified.values()
        assert (found.checked, found.agreed, found.failed) == (8, 4, 0)


@pytest.mark.parametrize("how", ["map", "amap"])
def test_an_answer_overtaken_by_an_invalidation_is_not_stored(how: str) -> None:
    cache, calls = LLMCache(), list[int]()

    def model(**given: Any) -> str:
        calls.append(1)
        if len(calls) == 1:
            cache.invalidate("doc:1")
        return f"answer {len(calls)}"

    async def amodel(**given: Any) -> str:
        return model()

    async def collect() -> list[MapResult]:
        return [result async for result in cache.amap(amodel, [request("a")])]

    def run() -> Any:
        with options(depends_on="doc:1"):
            results = asyncio.run(collect()) if how == "amap" else cache.map(model, [request("a")])
            return [result.value for result in results]

    assert [run(), run(), run()] == [["answer 1"], ["answer 2"], ["answer 2"]]
    assert cache.stats().skipped == {"invalidated": 1}


def test_a_request_from_after_an_invalidation_shares_no_call_from_before(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("llm_cache_mem.evaluation.mapping._CHUNK_SECONDS", -1)  # one by one
    cache, calls = LLMCache(), list[int]()
    began, go_on = threading.Event(), threading.Event()

    def model(**given: Any) -> str:
        calls.append(1)
        if len(calls) > 1:
            return "new"
        began.set()
        assert go_on.wait(60)
        return "old"

    def requests() -> Iterator[Any]:
        yield request("a")
        assert began.wait(60)
        cache.invalidate("doc:1")
        yield request("a")
        go_on.set()

    with options(depends_on="doc:1"):
        results = [result.value for result in cache.map(model, requests(), concurrency=4)]
    assert results == ["old", "new"]
