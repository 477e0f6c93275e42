"""Answers that depend on documents: invalid at once, in every layer, store and process."""

import asyncio
import pickle
import threading
from pathlib import Path
from typing import Any

import pytest
from layers import LAYERS, Provider, layer
from stores.processes import in_child

from llm_cache_mem import LLMCache, StoreError, options
from llm_cache_mem.errors import CacheMissError
from llm_cache_mem.stores import MemoryStore
from llm_cache_mem.tools import ToolCache

HI = [{"role": "user", "content": "hi"}]


class Model:
    """Numbers its answers, and may do something during each call."""

    def __init__(self) -> None:
        self.calls = 0
        self.meanwhile: Any = lambda: None

    def __call__(self, **request: Any) -> str:
        self.calls += 1
        answer = f"answer {self.calls}"
        self.meanwhile()
        return answer


def ask(cache: LLMCache, model: Any, *names: str, **params: Any) -> str:
    with options(depends_on=names):
        return str(cache.get_or_call(HI, model, model="m", **params))


@pytest.mark.parametrize("name", LAYERS)
def test_invalidation_reaches_every_layer(name: str) -> None:
    cache, provider = LLMCache(), Provider()
    with layer(name, cache, provider) as call, options(depends_on=["doc:handbook", "table:prices"]):
        for expected, invalid in ((1, "doc:other"), (1, "doc:handbook"), (2, "table:prices")):
            call(HI, {}, model="gpt-4.1-mini")
            call(HI, {}, model="gpt-4.1-mini")
            assert provider.calls == expected
            cache.invalidate(invalid)
        call(HI, {}, model="gpt-4.1-mini")
        assert provider.calls == 3


@pytest.mark.parametrize("how", ["call", "acall", "stream", "astream"])
def test_invalidation_reaches_every_way_to_call(how: str) -> None:
    cache, calls = LLMCache(), []

    async def chunks(**request: Any) -> Any:
        calls.append(1)
        yield "a"

    async def answer(**request: Any) -> str:
        calls.append(1)
        return "a"

    def sync(**request: Any) -> Any:
        calls.append(1)
        return iter("a") if request.get("stream") else "a"

    async def run() -> None:
        with options(depends_on="doc:1"):
            if how == "call":
                cache.get_or_call(HI, sync, model="m")
            elif how == "stream":
                list(cache.get_or_call(HI, sync, model="m", stream=True))
            elif how == "acall":
                await cache.aget_or_call(HI, answer, model="m")
            else:
                found: Any = await cache.aget_or_call(HI, chunks, model="m", stream=True)
                _ = [chunk async for chunk in found]

    for expected in (1, 2):
        asyncio.run(run())
        asyncio.run(run())
        assert len(calls) == expected
        asyncio.run(cache.ainvalidate("doc:1"))


def test_a_reader_without_dependencies_sees_the_invalidation() -> None:
    cache, model = LLMCache(), Model()
    ask(cache, model, "doc:1")
    assert cache.get(HI, model="m") == "answer 1"
    cache.invalidate("doc:1")
    assert cache.get(HI, model="m") is None


def test_an_answer_that_depends_on_less_is_a_miss() -> None:
    cache, model = LLMCache(), Model()
    assert cache.get_or_call(HI, model, model="m") == "answer 1"
    assert ask(cache, model, "doc:1") == "answer 2"
    assert ask(cache, model, "doc:1", "doc:2") == "answer 3"
    assert ask(cache, model, "doc:2") == "answer 3"


def test_the_key_does_not_depend_on_them() -> None:
    cache = LLMCache()
    with options(depends_on="doc:1"):
        assert cache.key(HI, model="m") == LLMCache().key(HI, model="m")


def test_an_answer_overtaken_by_an_invalidation_is_not_stored() -> None:
    cache, model = LLMCache(), Model()
    model.meanwhile = lambda: cache.invalidate("doc:1")
    assert ask(cache, model, "doc:1", "doc:2") == "answer 1"
    assert cache.get(HI, model="m") is None
    assert cache.stats().skipped == {"invalidated": 1}
    model.meanwhile = lambda: cache.invalidate("doc:3")
    assert ask(cache, model, "doc:1", "doc:2") == ask(cache, model, "doc:1") == "answer 2"


def test_a_caller_does_not_join_a_call_from_before_the_invalidation() -> None:
    cache, model, began, go_on = LLMCache(), Model(), threading.Event(), threading.Event()

    def hold() -> None:
        model.meanwhile = lambda: None
        began.set()
        assert go_on.wait(60)

    model.meanwhile = hold
    thread = threading.Thread(target=ask, args=(cache, model, "doc:1"))
    thread.start()
    assert began.wait(60)
    cache.invalidate("doc:1")
    assert ask(cache, model, "doc:1") == "answer 2"
    go_on.set()
    thread.join(60)
    assert ask(cache, model, "doc:1") == "answer 2"


def test_inner_dependencies_are_added_to_the_outer_ones() -> None:
    cache, model = LLMCache(), Model()
    with options(depends_on=["doc:1"]):
        ask(cache, model, "doc:2")
    ((_, entry),) = (pair for pair in cache.engine.entries() if ":value:" in pair[0])
    assert entry.depends_on == ("doc:1", "doc:2")


def test_a_cache_that_travels_to_a_worker_takes_them_along(tmp_path: Path) -> None:
    with LLMCache(backend=tmp_path / "c.db") as cache:
        with options(depends_on="doc:1"):
            sent = pickle.dumps(cache)
        with pickle.loads(sent) as there:
            there.put(HI, "answer", model="m")
            ToolCache(there).get_or_call("tool", {}, lambda: "result")
        assert cache.get(HI, model="m") == "answer"
        cache.invalidate("doc:1")
        assert cache.get(HI, model="m") is None
        names = [entry.depends_on for key, entry in cache.engine.entries() if ":tool:" in key]
        assert names == [("doc:1", "tool\ntool")]


def test_put_depends_on_them_too() -> None:
    cache = LLMCache()
    with options(depends_on="doc:1"):
        cache.put(HI, "answer", model="m")
    assert cache.get(HI, model="m") == "answer"
    assert cache.invalidate("doc:1", "doc:2")
    assert not cache.invalidate("doc:1", "doc:2")
    assert cache.get(HI, model="m") is None


def test_without_a_namespace_every_namespace_is_meant(tmp_path: Path) -> None:
    path = tmp_path / "c.db"
    with LLMCache(backend=path, namespace="a") as a, LLMCache(backend=path, namespace="b") as b:
        model = Model()
        asked = [ask(a, model, "doc:1"), ask(b, model, "doc:1")]
        a.invalidate("doc:1")
        assert ask(b, model, "doc:1") == asked[1]
        assert ask(a, model, "doc:1") == "answer 3"
        with LLMCache(backend=path) as everywhere:
            everywhere.invalidate("doc:1")
        assert [ask(a, model, "doc:1"), ask(b, model, "doc:1")] == ["answer 4", "answer 5"]


def test_another_process_invalidates(tmp_path: Path) -> None:
    path, model = tmp_path / "c.db", Model()

    def child() -> bool:
        with LLMCache(backend=path) as there:
            return there.invalidate("doc:1")

    with LLMCache(backend=path) as cache:
        ask(cache, model, "doc:1")
        assert in_child(child)
        assert ask(cache, model, "doc:1") == "answer 2"


def test_one_name_is_that_of_model_answers_and_tool_results() -> None:
    cache, model, ran = LLMCache(), Model(), []
    tools = ToolCache(cache)
    tools.allow("orders", depends_on="user:{id}")
    for _ in range(2):
        tools.get_or_call("orders", {"id": 7}, lambda: ran.append(1))
        ask(cache, model, "user:7")
    assert (len(ran), model.calls) == (1, 1)
    cache.invalidate("user:7")
    tools.get_or_call("orders", {"id": 7}, lambda: ran.append(1))
    ask(cache, model, "user:7")
    assert (len(ran), model.calls) == (2, 2)
    tools.invalidate(entity="user:7")
    assert ask(cache, model, "user:7") == "answer 3"


class Flaky(MemoryStore):
    """Fails at the operations that are named."""

    failing: Any = ()

    def _check(self, operation: str) -> None:
        if operation in self.failing:
            raise StoreError("Flaky", operation, "down")

    def get(self, key: str) -> Any:
        self._check("generations" if ":generation:" in key else "get")
        return super().get(key)

    def delete(self, key: str, **kwargs: Any) -> bool:
        self._check("delete")
        return super().delete(key, **kwargs)


def test_where_generations_cannot_be_read_it_misses_and_stores_nothing() -> None:
    store, model = Flaky(max_size=64), Model()
    cache = LLMCache(backend=store)
    ask(cache, model, "doc:1")
    store.failing = {"generations"}
    assert [ask(cache, model, "doc:1") for _ in range(6)] == [f"answer {n}" for n in range(2, 8)]
    assert cache.get(HI, model="m") is None
    assert cache.stats().skipped == {"generation": 6}


def test_an_invalidation_that_fails_raises() -> None:
    store, model = Flaky(max_size=64), Model()
    cache = LLMCache(backend=store)
    ask(cache, model, "doc:1")
    store.failing = {"delete"}
    with pytest.raises(StoreError):
        cache.invalidate("doc:1")


def test_a_lost_generation_makes_its_answers_invalid() -> None:
    cache, model = LLMCache(), Model()
    ask(cache, model, "doc:1")
    for key in [key for key, _ in cache.engine.entries() if ":generation:" in key]:
        cache.engine.backend.delete(key)
    assert ask(cache, model, "doc:1") == "answer 2"


def test_what_is_invalid_is_none_in_replay_either() -> None:
    cache, model = LLMCache(), Model()
    ask(cache, model, "doc:1")
    with options(mode="replay"):
        assert ask(cache, model, "doc:1") == "answer 1"
        cache.invalidate("doc:1")
        with pytest.raises(CacheMissError):
            ask(cache, model, "doc:1")


def test_explain_says_what_was_invalidated() -> None:
    cache, model = LLMCache(keep_requests=True), Model()
    ask(cache, model, "doc:1")
    assert cache.explain(HI, model="m").state == "fresh"
    cache.invalidate("doc:1")
    assert cache.explain(HI, model="m").state == "invalidated"
    ask(cache, model, "doc:1")
    assert "was invalidated" in str(cache.explain_misses()[0])


@pytest.mark.parametrize("key", ["encrypted", ""])
def test_stores_that_keep_bytes_keep_dependencies(tmp_path: Path, key: str) -> None:
    given: Any = {"encryption_key": b"k" * 32} if key else {}
    with LLMCache(backend=tmp_path / "c.db", **given) as cache:
        ask(cache, Model(), "doc:secret")
        ((_, entry),) = (pair for pair in cache.engine.entries() if ":value:" in pair[0])
        assert entry.depends_on == ("doc:secret",)
    stored = b"".join(file.read_bytes() for file in tmp_path.iterdir())
    assert (b"doc:secret" in stored) is not bool(key)


def test_invalidation_takes_the_same_with_many_entries() -> None:
    class Counting(MemoryStore):
        calls = 0

        def delete(self, key: str, **kwargs: Any) -> bool:
            self.calls += 1
            return super().delete(key, **kwargs)

        def entries(self, prefix: str = "") -> Any:
            raise AssertionError("it lists the entries")

    store = Counting()
    cache = LLMCache(backend=store)
    with options(depends_on="doc:1"):
        for number in range(1000):
            cache.put(f"{number}", "answer", model="m")
    store.calls = 0
    cache.invalidate("doc:1")
    assert store.calls == 1
    cache.invalidate(*(f"doc:{number}" for number in range(1000)))
    assert all(cache.get(f"{number}", model="m") is None for number in range(1000))


@pytest.mark.parametrize(
    "wrong", [3, b"doc", {"doc": 1}, [1], [""], ["a\nb"], ["x" * 513], [str(n) for n in range(257)]]
)
def test_wrong_names(wrong: Any) -> None:
    with pytest.raises((TypeError, ValueError)):
        options(depends_on=wrong)


@pytest.mark.parametrize("how", ["template", "several", "function"])
@pytest.mark.parametrize("form", ["plain", "async", "generator", "async generator"])
def test_cached_function_depends_on_its_arguments(form: str, how: str) -> None:
    cache, calls = LLMCache(), list[str]()
    depends_on: Any = {
        "template": "doc:{path}",
        "several": ["doc:{path}", "all"],
        "function": lambda args: ["doc:" + args["path"], "all"],
    }[how]

    def note(path: str) -> str:
        calls.append(path)
        return path

    def chunks(path: str) -> Any:
        yield note(path)

    async def value(path: str) -> str:
        return note(path)

    async def achunks(path: str) -> Any:
        yield note(path)

    fn: Any = {"plain": note, "async": value, "generator": chunks, "async generator": achunks}[form]
    read = cache.cached(depends_on=depends_on)(fn)

    async def arun(path: str) -> Any:
        return await read(path) if form == "async" else [each async for each in read(path)]

    def ask(path: str) -> None:
        asyncio.run(arun(path)) if "async" in form else list(read(path))

    def asked() -> list[str]:
        calls.clear()
        for path in ("a", "b") * 2:
            ask(path)
        return calls

    assert asked() == ["a", "b"]
    cache.invalidate("doc:a")
    assert asked() == ["a"]
    cache.invalidate("all")
    assert asked() == ([] if how == "template" else ["a", "b"])


def test_options_add_to_what_a_cached_function_depends_on() -> None:
    cache, calls = LLMCache(), list[int]()
    read = cache.cached(depends_on="doc:a")(lambda x: calls.append(x) or x)
    with options(depends_on="doc:b"):
        for name in ("doc:a", "doc:b", "doc:c"):
            read(1)
            cache.invalidate(name)
        read(1)
    assert len(calls) == 3


def test_a_fault_in_depends_on_leaves_the_call_uncached() -> None:
    cache, calls = LLMCache(), list[int]()

    def names(arguments: Any) -> Any:
        raise OSError("secret")

    read = cache.cached(depends_on=names)(lambda x: calls.append(x))
    for _ in range(2):
        read(1)
    by_list = cache.cached(depends_on="doc:{x}")(lambda x: calls.append(x))
    by_list(1.5)
    assert (len(calls), dict(cache.stats().skipped)) == (3, {"depends_on": 2, "request": 1})
    with options(mode="replay"), pytest.raises(OSError, match="secret"):
        read(1)


@pytest.mark.parametrize("wrong", ["doc:{y}", "doc:{x!r}", 3, [3]], ids=str)
def test_wrong_depends_on_of_a_cached_function(wrong: Any) -> None:
    with pytest.raises((TypeError, ValueError)):
        LLMCache().cached(depends_on=wrong)(lambda x: x)
