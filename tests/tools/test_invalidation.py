"""What is no longer so: by call, by tool, by entity, for every process and for calls that are under
way."""

import asyncio
import multiprocessing
import threading
from pathlib import Path
from typing import Any

import pytest

from llm_cache_mem import LLMCache, RequestNotCacheable, StoreError, options
from llm_cache_mem.tools import ToolCache


@pytest.fixture
def tools() -> ToolCache:
    tools = ToolCache()
    tools.allow("user", depends_on="user:{id}")
    tools.allow("orders", depends_on=["user:{id}", "shop:{shop}"])
    return tools


def runs(tools: ToolCache, name: str, **args: Any) -> bool:
    """Whether the tool runs for this call."""
    ran: list[bool] = []
    tools.get_or_call(name, args, lambda: ran.append(True))
    return bool(ran)


def warm(tools: ToolCache) -> None:
    for id in (1, 2):
        runs(tools, "user", id=id)
        runs(tools, "orders", id=id, shop="x")
        runs(tools, "time", id=id)


def what_runs(tools: ToolCache) -> set[str]:
    found = {
        f"{name} {id}" for id in (1, 2) for name in ("user", "time") if runs(tools, name, id=id)
    }
    return found | {f"orders {id}" for id in (1, 2) if runs(tools, "orders", id=id, shop="x")}


@pytest.mark.parametrize(
    ("how", "gone"),
    [
        ({"tool": "user", "args": {"id": 1}}, {"user 1"}),
        ({"tool": "user", "args": '{"id": 1}'}, {"user 1"}),
        ({"tool": "user"}, {"user 1", "user 2"}),
        ({"entity": "user:1"}, {"user 1", "orders 1"}),
        ({"entity": "shop:x"}, {"orders 1", "orders 2"}),
        ({"entity": "shop:y"}, set()),
        ({"tool": "unheard of"}, set()),
        ({}, {"user 1", "user 2", "orders 1", "orders 2", "time 1", "time 2"}),
    ],
)
@pytest.mark.parametrize("asynchronous", [False, True])
def test_only_invalidated_calls_run_again(
    tools: ToolCache, how: Any, gone: set[str], asynchronous: bool
) -> None:
    warm(tools)
    assert what_runs(tools) == set()
    found = asyncio.run(tools.ainvalidate(**how)) if asynchronous else tools.invalidate(**how)
    assert found is bool(gone)
    assert what_runs(tools) == gone
    assert what_runs(tools) == set()


def test_invalidation_holds_in_every_object_and_after_restart(tmp_path: Path) -> None:
    path = tmp_path / "c.db"
    with ToolCache(backend=path) as here, ToolCache(backend=path) as there:
        assert runs(here, "time")
        assert not runs(there, "time")
        there.invalidate("time")
        assert runs(here, "time")
    with ToolCache(backend=path) as again:
        assert not runs(again, "time")


def _child(path: str) -> None:
    with ToolCache(backend=path) as tools:
        tools.invalidate(entity="user:1")


def test_another_process_invalidates(tmp_path: Path) -> None:
    path = tmp_path / "c.db"
    with ToolCache(backend=path) as tools:
        tools.allow("user", depends_on="user:{id}")
        runs(tools, "user", id=1)
        runs(tools, "user", id=2)
        process = multiprocessing.get_context("spawn").Process(target=_child, args=(str(path),))
        process.start()
        process.join(60)
        assert process.exitcode == 0
        assert runs(tools, "user", id=1)
        assert not runs(tools, "user", id=2)


@pytest.mark.parametrize(
    "how", [{"tool": "user"}, {"tool": "user", "args": {"id": 1}}, {"entity": "user:1"}, {}]
)
@pytest.mark.parametrize("elsewhere", [False, True])
def test_a_call_under_way_is_not_stored(tmp_path: Path, how: Any, elsewhere: bool) -> None:
    """By another object on the same file, as by another process, except for a single call."""
    if elsewhere and "args" in how:
        return
    path = tmp_path / "c.db"
    with ToolCache(backend=path) as tools, ToolCache(backend=path) as other:
        tools.allow("user", depends_on="user:{id}")

        def overtaken() -> str:
            (other if elsewhere else tools).invalidate(**how)
            return "old"

        runs(tools, "user", id=0)
        assert tools.get_or_call("user", {"id": 1}, overtaken) == "old"
        assert tools.get_or_call("user", {"id": 1}, lambda: "new") == "new"
        assert tools.get_or_call("user", {"id": 1}, lambda: "newer") == "new"


def test_a_call_after_an_invalidation_is_made_anew(tools: ToolCache) -> None:
    began, go_on, found = threading.Event(), threading.Event(), []

    def old() -> str:
        began.set()
        assert go_on.wait(60)
        return "old"

    thread = threading.Thread(
        target=lambda: found.append(tools.get_or_call("user", {"id": 1}, old))
    )
    thread.start()
    assert began.wait(60)
    tools.invalidate(entity="user:1")
    assert tools.get_or_call("user", {"id": 1}, lambda: "new") == "new"
    go_on.set()
    thread.join(60)
    assert found == ["old"]
    assert tools.get_or_call("user", {"id": 1}, lambda: "newer") == "new"


def test_clearing_the_cache_clears_tools_and_calls_under_way(tools: ToolCache) -> None:
    def overtaken() -> str:
        tools.cache.clear()
        return "old"

    assert tools.get_or_call("t", {}, overtaken) == "old"
    assert tools.get_or_call("t", {}, lambda: "new") == "new"


def test_an_evicted_generation_revives_no_old_entry() -> None:
    """Whatever the store drops and when: what was invalid stays so."""
    tools = ToolCache(max_size=8)
    tools.allow("user", depends_on="user:{id}")
    tools.get_or_call("user", {"id": 1}, lambda: "old")
    tools.invalidate(entity="user:1")
    kept = [key for key, _ in tools.cache.engine.entries() if ":generation:" in key]
    for key in kept:
        tools.cache.engine.backend.delete(key)
    assert tools.get_or_call("user", {"id": 1}, lambda: "new") == "new"


@pytest.mark.parametrize("asynchronous", [False, True])
@pytest.mark.parametrize("fails", [False, True])
def test_a_tool_that_writes_is_never_cached_and_invalidates(
    tools: ToolCache, asynchronous: bool, fails: bool
) -> None:
    tools.writes("rename", entities="user:{id}", tools=["time"])
    warm(tools)
    ran = 0

    def rename() -> str:
        nonlocal ran
        ran += 1
        if fails:
            raise ConnectionError("half done")
        return "done"

    async def arename() -> str:
        return rename()

    for count in (1, 2):
        try:
            asyncio.run(
                tools.aget_or_call("rename", {"id": 1}, arename)
            ) if asynchronous else tools.get_or_call("rename", {"id": 1}, rename)
        except ConnectionError:
            assert fails
        assert ran == count
        assert what_runs(tools) == {"user 1", "orders 1", "time 1", "time 2"}


def test_a_write_without_entities_invalidates_everything(
    tools: ToolCache, caplog: pytest.LogCaptureFixture
) -> None:
    tools.writes("rename", entities="user:{id}")
    warm(tools)
    assert tools.get_or_call("rename", {"name": "x"}, lambda: "done") == "done"
    assert len(what_runs(tools)) == 6
    assert "all results are invalid" in caplog.text


def test_a_write_survives_a_failing_store_without_stale_reads(
    clock: Any,
) -> None:
    class Failing:
        """A store whose deletions fail for a while."""

        blocking = False

        def __init__(self) -> None:
            self.inner: Any = LLMCache().engine.backend.inner
            self.down = False

        def delete(self, key: str, **kwargs: Any) -> bool:
            if self.down:
                raise StoreError("Failing", "delete", "down")
            return bool(self.inner.delete(key, **kwargs))

        def __getattr__(self, name: str) -> Any:
            return getattr(self.inner, name)

    store: Any = Failing()
    tools = ToolCache(backend=store)
    tools.allow("user", depends_on="user:{id}")
    tools.writes("rename", entities="user:{id}")
    runs(tools, "user", id=1)
    runs(tools, "user", id=2)
    store.down = True
    assert tools.get_or_call("rename", {"id": 1}, lambda: "done") == "done"
    assert [runs(tools, "user", id=1) for _ in range(2)] == [True, True]
    assert not runs(tools, "user", id=2)
    store.down = False
    assert [runs(tools, "user", id=1) for _ in range(2)] == [True, False]


def test_entities_of_a_list_and_of_a_function() -> None:
    tools = ToolCache()
    tools.allow("many", depends_on="order:{ids}")
    tools.allow("own", depends_on=lambda args: [f"order:{id}" for id in args["ids"]])
    for name in ("many", "own"):
        assert runs(tools, name, ids=[1, 2])
    tools.invalidate(entity="order:2")
    for name in ("many", "own"):
        assert runs(tools, name, ids=[1, 2])
    tools.invalidate(entity="order:3")
    for name in ("many", "own"):
        assert not runs(tools, name, ids=[1, 2])


@pytest.mark.parametrize("depends_on", ["user:{id}", lambda args: args["id"], lambda args: [1]])
def test_a_call_whose_entities_cannot_be_named_goes_uncached(
    depends_on: Any, caplog: pytest.LogCaptureFixture
) -> None:
    tools = ToolCache()
    tools.allow("user", depends_on=depends_on)
    assert [runs(tools, "user", who="ann") for _ in range(2)] == [True, True]
    assert "ann" not in caplog.text


@pytest.mark.parametrize(
    "wrong",
    [
        {"depends_on": "user:{id!r}"},
        {"depends_on": "user:{id.__class__}"},
        {"depends_on": "user:{}"},
        {"depends_on": "user:{id:>10}"},
        {"depends_on": "user:{id"},
        {"depends_on": 3},
        {"depends_on": ["user:{id}", 3]},
        {"ignore": "token"},
        {"redact": "token"},
        {"ignore": ["token"], "redact": ["token"]},
        {"version": 3},
        {"ttl_seconds": 0},
    ],
)
def test_wrong_rules(wrong: Any) -> None:
    with pytest.raises((TypeError, ValueError)):
        ToolCache().allow("t", **wrong)


@pytest.mark.parametrize("wrong", [{"entity": 3}, {"tool": "t", "entity": "e"}, {"args": {}}])
def test_wrong_invalidations(wrong: Any) -> None:
    with pytest.raises(TypeError):
        ToolCache().invalidate(**wrong)


@pytest.mark.parametrize("fails", [False, True])
def test_a_write_may_be_told_apart_by_its_result(tools: ToolCache, fails: bool) -> None:
    seen = []

    def changed(args: Any, result: Any) -> list[str]:
        seen.append(result)
        return ["user:2"] if result == "renamed" else []

    def rename() -> str:
        if fails:
            raise ConnectionError("down")
        return "renamed"

    tools.writes("rename", entities=changed)
    warm(tools)
    try:
        tools.get_or_call("rename", {}, rename)
    except ConnectionError:
        assert fails
    assert seen == [None if fails else "renamed"]
    assert what_runs(tools) == (set() if fails else {"user 2", "orders 2"})


@pytest.mark.parametrize("mode", ["off", "refresh", "replay"])
def test_it_holds_in_every_mode(tools: ToolCache, mode: Any) -> None:
    tools.writes("rename", entities="user:{id}")
    warm(tools)
    with options(mode=mode):
        assert tools.invalidate("user", {"id": 1})
        assert tools.invalidate("time")
        tools.get_or_call("rename", {"id": 2}, lambda: "done")
    assert what_runs(tools) == {"user 1", "user 2", "orders 2", "time 1", "time 2"}


def test_arguments_without_a_key_cannot_be_invalidated(tools: ToolCache) -> None:
    for args in ({"id": 1, "more": object()}, "no json", {"name": "x"}):
        with pytest.raises(RequestNotCacheable):
            tools.invalidate("user", args)


@pytest.mark.parametrize("tool", [3, ""])
def test_a_tool_without_a_name_is_refused(tool: Any) -> None:
    tools = ToolCache()
    for use in (lambda: tools.get_or_call(tool, {}, dict), lambda: tools.invalidate(tool)):
        with pytest.raises(TypeError, match="a tool is named by a str"):
            use()


def test_an_unclosed_template_is_rejected_with_an_example() -> None:
    with pytest.raises(ValueError, match=r"such as 'user:\{user_id\}', not 'user:\{id'"):
        ToolCache().allow("t", depends_on="user:{id")
