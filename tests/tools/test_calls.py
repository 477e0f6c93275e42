"""Calls through a ToolCache: what is one call, what is stored, who runs the tool."""

import asyncio
import json
import threading
from pathlib import Path
from typing import Any

import pytest

from llm_cache_mem import CacheMissError, LLMCache, RequestNotCacheable, StoreError, options
from llm_cache_mem.tools import ToolCache


class Runs:
    """A tool that counts its runs and answers with what it was asked."""

    def __init__(self, answer: Any = None) -> None:
        self.count = 0
        self._answer = answer

    def __call__(self, **args: Any) -> Any:
        self.count += 1
        return {"asked": args, "run": self.count} if self._answer is None else self._answer

    async def later(self, **args: Any) -> Any:
        await asyncio.sleep(0)
        return self(**args)


@pytest.fixture(params=["memory", "sqlite"])
def tools(request: pytest.FixtureRequest, tmp_path: Path, clock: Any) -> Any:
    with ToolCache(
        backend="memory" if request.param == "memory" else tmp_path / "tools.db", clock=clock
    ) as made:
        yield made


def call(
    tools: ToolCache,
    run: Runs,
    args: Any,
    name: str = "lookup",
    *,
    asynchronous: bool = False,
    **settings: Any,
) -> Any:
    if asynchronous:
        return asyncio.run(tools.aget_or_call(name, args, run.later, **settings))
    return tools.get_or_call(name, args, run, **settings)


@pytest.mark.parametrize("asynchronous", [False, True])
def test_equal_arguments_run_the_tool_once(tools: ToolCache, asynchronous: bool) -> None:
    run = Runs()
    answers = [
        call(tools, run, args, asynchronous=asynchronous)
        for args in ({"a": 1, "b": [2]}, {"b": [2], "a": 1}, '{"b": [2], "a": 1}')
    ]
    assert answers == [{"asked": {"a": 1, "b": [2]}, "run": 1}] * 3
    assert call(tools, run, {"a": 1}, asynchronous=asynchronous)["run"] == 2
    assert call(tools, run, {"a": 1}, "other", asynchronous=asynchronous)["run"] == 3


def test_sync_and_async_share(tools: ToolCache) -> None:
    run = Runs()
    assert call(tools, run, {"a": 1}) == call(tools, run, {"a": 1}, asynchronous=True)
    assert run.count == 1


def test_a_hit_is_an_object_of_its_own(tools: ToolCache) -> None:
    run = Runs()
    call(tools, run, {"a": 1})["asked"]["a"] = "changed"
    call(tools, run, {"a": 1})["asked"]["a"] = "changed"
    assert call(tools, run, {"a": 1})["asked"] == {"a": 1}


def test_a_function_that_takes_no_arguments_is_called_without() -> None:
    tools = ToolCache()
    assert tools.get_or_call("now", {"zone": "utc"}, lambda: 1) == 1
    assert tools.get_or_call("sum", {"a": 1, "b": 2}, lambda a, b=5: a + b) == 3
    assert tools.get_or_call("size", {}, dict) == {}
    with pytest.raises(TypeError, match="missing"):
        tools.get_or_call("wrong", {"a": 1}, lambda a, b: a)


@pytest.mark.parametrize("answer", ["", [], {}, 0, False])
def test_an_empty_result_is_a_result(tools: ToolCache, answer: Any) -> None:
    run = Runs(answer)
    assert [call(tools, run, {}) for _ in range(2)] == [answer] * 2
    assert run.count == 1


def test_none_is_a_result(tools: ToolCache) -> None:
    ran = []
    for _ in range(2):
        assert tools.get_or_call("void", {}, lambda: ran.append(1)) is None
    assert len(ran) == 1


class Reported:
    """What some framework returns for a tool that failed."""

    status = "error"
    tool_call_id = "1"


@pytest.mark.parametrize("asynchronous", [False, True])
@pytest.mark.parametrize(
    "result",
    [{"isError": True, "content": []}, {"is_error": True}, Reported(), ValueError("returned")],
)
def test_results_that_report_an_error_are_not_stored(
    tools: ToolCache, result: Any, asynchronous: bool
) -> None:
    run = Runs(result)
    for _ in range(2):
        assert call(tools, run, {}, asynchronous=asynchronous) is result
    assert run.count == 2
    assert tools.cache.stats().skipped == {"tool error": 2}
    assert tools.stats().by_tool["lookup"].skipped == 2


@pytest.mark.parametrize("asynchronous", [False, True])
def test_exceptions_are_raised_and_not_stored(tools: ToolCache, asynchronous: bool) -> None:
    runs = 0

    def fail() -> None:
        nonlocal runs
        runs += 1
        raise ConnectionError("down")

    async def afail() -> None:
        fail()

    for count in (1, 2):
        with pytest.raises(ConnectionError, match="down"):
            asyncio.run(tools.aget_or_call("t", {}, afail)) if asynchronous else tools.get_or_call(
                "t", {}, fail
            )
        assert runs == count
    assert tools.cache.stats().stored == 0


def test_a_result_without_a_stored_form_is_handed_on(tools: ToolCache) -> None:
    thing = object()
    assert tools.get_or_call("t", {}, lambda: thing) is thing
    assert tools.stats().by_tool["t"].skipped == 1


@pytest.mark.parametrize(
    "args", [{"a": object()}, {"a": float("nan")}, "no json", "[1]", None, {"a": {1, 2}}]
)
def test_arguments_without_a_key_run_the_tool(tools: ToolCache, args: Any) -> None:
    for _ in range(2):
        assert tools.get_or_call("t", args, lambda **kw: "done") == "done"
    assert tools.cache.stats().skipped == {"request": 2}
    assert tools.cache.stats().size == 0


def test_threads_that_ask_at_once_run_the_tool_once(tools: ToolCache) -> None:
    run, gate = Runs(), threading.Barrier(16)
    found: list[Any] = []

    def ask() -> None:
        gate.wait(60)
        found.append(call(tools, run, {"a": 1}))

    threads = [threading.Thread(target=ask) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert run.count == 1
    assert found == [{"asked": {"a": 1}, "run": 1}] * 16


async def test_tasks_that_ask_at_once_run_the_tool_once(tools: ToolCache) -> None:
    run = Runs()
    found = await asyncio.gather(
        *(tools.aget_or_call("lookup", {"a": 1}, run.later) for _ in range(50))
    )
    assert run.count == 1
    assert found == [{"asked": {"a": 1}, "run": 1}] * 50


async def test_a_waiter_of_a_failed_call_makes_its_own(tools: ToolCache) -> None:
    runs = 0

    async def first_fails() -> int:
        nonlocal runs
        runs += 1
        mine = runs
        await asyncio.sleep(0)
        if mine == 1:
            raise ConnectionError("down")
        return mine

    found = await asyncio.gather(
        *(tools.aget_or_call("t", {}, first_fails) for _ in range(5)), return_exceptions=True
    )
    assert [isinstance(each, ConnectionError) for each in found].count(True) == 1
    assert all(each > 1 for each in found if isinstance(each, int))


def test_a_tool_that_asks_for_itself_does_not_wait_for_itself() -> None:
    tools = ToolCache(wait_seconds=30)
    inner = Runs()
    assert tools.get_or_call("t", {}, lambda: call(tools, inner, {}, "t"))["run"] == 1


def test_tool_lifetimes_are_independent(tools: ToolCache, clock: Any) -> None:
    tools.allow("short", ttl_seconds=10)
    outer, inner = Runs(), Runs()
    for advance, runs in ((0, 1), (9, 1), (2, 2)):
        clock.advance(advance)
        tools.get_or_call("short", {}, lambda: (outer(), call(tools, inner, {}, "long")) and 1)
        assert (outer.count, inner.count) == (runs, 1)
    clock.advance(3600)
    call(tools, inner, {}, "long")
    assert inner.count == 2


def test_a_lifetime_of_one_call_and_options_hold_the_stricter(tools: ToolCache, clock: Any) -> None:
    run = Runs()
    call(tools, run, {}, ttl_seconds=None)
    clock.advance(5000)
    assert call(tools, run, {}, ttl_seconds=None)["run"] == 1
    with options(ttl_seconds=60):
        assert call(tools, run, {}, ttl_seconds=None)["run"] == 2
    clock.advance(61)
    assert call(tools, run, {}, ttl_seconds=30)["run"] == 3


def test_modes(tools: ToolCache) -> None:
    run = Runs()
    with options(mode="replay"), pytest.raises(CacheMissError):
        call(tools, run, {})
    with options(mode="off"):
        assert [call(tools, run, {})["run"] for _ in range(2)] == [1, 2]
    assert tools.cache.stats().size == 0
    assert [call(tools, run, {})["run"] for _ in range(2)] == [3, 3]
    with options(mode="refresh"):
        assert call(tools, run, {})["run"] == 4
    with options(mode="replay"):
        assert call(tools, run, {})["run"] == 4
        with pytest.raises(CacheMissError):
            call(tools, run, {"other": 1})
        with pytest.raises(RequestNotCacheable):
            call(tools, run, {"other": object()})


def test_namespaces_keep_tenants_apart(tools: ToolCache) -> None:
    run = Runs()
    for tenant in ("ann", "bob", "ann"):
        with options(namespace=tenant):
            call(tools, run, {})
    assert run.count == 2
    with options(namespace="ann"):
        assert tools.invalidate("lookup")
        call(tools, run, {})
    with options(namespace="bob"):
        call(tools, run, {})
    assert run.count == 3


def test_conversation_rules_do_not_apply_to_tools() -> None:
    """A key function for prompts, and ignored parameters, must not make two calls of a tool one."""
    tools = ToolCache(
        LLMCache(key_fn=lambda messages, **params: "always the same", ignore=["timeout"])
    )
    run = Runs()
    assert [call(tools, run, {"timeout": seconds})["asked"] for seconds in (1, 2)] == [
        {"timeout": 1},
        {"timeout": 2},
    ]


def test_admit_of_the_cache_judges_results() -> None:
    tools = ToolCache(admit=lambda result: not result.startswith("Error:"))
    run = Runs("Error: no such user")
    for _ in range(2):
        call(tools, run, {})
    assert run.count == 2
    assert tools.cache.stats().skipped == {"admit": 2}


@pytest.mark.parametrize("where", ["ignore", "redact"])
def test_secrets_are_not_stored(tmp_path: Path, where: str) -> None:
    tools = ToolCache(LLMCache(backend=tmp_path / "c.db"))
    tools.allow("fetch", **{where: ["token"]})
    run = Runs("page")
    for token in ("hunter2-secret", "hunter3-secret"):
        call(tools, run, {"url": "x", "token": token}, "fetch")
    assert run.count == (1 if where == "ignore" else 2)
    request = tools._results.of_call(
        "fetch", {"url": "x", "token": "hunter2-secret"}, tools.rule("fetch"), "tool"
    )
    assert "hunter2" not in json.dumps(request.params)
    tools.close()
    assert b"hunter2" not in b"".join(path.read_bytes() for path in tmp_path.iterdir())


def test_a_failing_store_fails_calls_only_under_strict() -> None:
    class Broken:
        blocking = False

        def fail(self, *args: Any, **kwargs: Any) -> Any:
            raise StoreError("Broken", "call", "down")

        get = put = delete = clear = purge = size = entries = fail

    run = Runs()
    store: Any = Broken()
    tools = ToolCache(backend=store)
    for _ in range(2):
        call(tools, run, {})
        call(tools, run, {}, asynchronous=True)
    assert run.count == 4
    with pytest.raises(StoreError):
        call(ToolCache(backend=store, strict=True), run, {})
    with pytest.raises(StoreError):
        tools.invalidate("lookup")


def test_statistics_by_tool(clock: Any) -> None:
    tools = ToolCache(clock=clock)

    def slow() -> str:
        clock.advance(2)
        return "x"

    for args in ({"a": 1}, {"a": 1}, {"a": 1}, {"a": 2}):
        tools.get_or_call("slow", args, slow)
    tools.get_or_call("<b>", {}, lambda: 1)
    stats = tools.stats()
    assert stats.by_tool["slow"] == (2, 2, 0, 2, 0, 4.0)
    assert stats.by_tool["slow"].hit_rate == 0.5
    assert stats.total.hits == 2
    assert "slow" in str(stats)
    assert "&lt;b&gt;" in stats._repr_html_()
    assert stats.as_dict()["by_tool"]["slow"]["hit_rate"] == 0.5
    whole = tools.cache.stats()
    assert (whole.hits, whole.misses, whole.stored, whole.unpriced_hits) == (2, 3, 3, 0)
    assert whole.by_model["tool:slow"].seconds_saved == 4.0
    assert ToolCache().stats().total.hits == 0


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"cache": LLMCache(), "max_size": 3}, TypeError),
        ({"cache": "memory"}, TypeError),
        ({"tools": "lookup"}, TypeError),
        ({"tools": {"lookup": -1}}, ValueError),
        ({"tools": {"lookup": "10"}}, ValueError),
        ({"tools": [3]}, TypeError),
        ({"max_size": 0}, ValueError),
    ],
)
def test_wrong_arguments(arguments: Any, error: type[Exception]) -> None:
    with pytest.raises(error):
        ToolCache(**arguments)


@pytest.mark.parametrize(
    "args",
    ["[" * 100_000, '{"a":' * 100_000, "1" * 10_000, '{"a": NaN}', '{"a": "\\ud800"}', "\x00", ""],
)
def test_hostile_text_for_arguments_runs_the_tool(args: str) -> None:
    tools = ToolCache()
    assert [tools.get_or_call("t", args, lambda **kw: "done") for _ in range(2)] == ["done"] * 2
    assert tools.cache.stats().size == 0


async def test_a_cancelled_caller_cancels_no_other() -> None:
    tools, began, go_on, runs = ToolCache(), asyncio.Event(), asyncio.Event(), 0

    async def slow() -> str:
        nonlocal runs
        runs += 1
        began.set()
        await go_on.wait()
        return "done"

    tasks = [asyncio.create_task(tools.aget_or_call("t", {}, slow)) for _ in range(5)]
    await began.wait()
    tasks[0].cancel()
    go_on.set()
    found = await asyncio.gather(*tasks, return_exceptions=True)
    assert isinstance(found[0], asyncio.CancelledError)
    assert found[1:] == ["done"] * 4
    assert runs == 1
