"""Children of every start method, while the parent's threads use the same connections."""

import contextlib
import multiprocessing
import pickle
import threading
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from stores import start_methods

from llm_cache_mem import LLMCache, options
from llm_cache_mem.engine.recipe import for_workers

CHILDREN = {"fork": 8, "spawn": 2, "forkserver": 2}


@pytest.mark.parametrize("method", CHILDREN)
@pytest.mark.parametrize("kind", ["redis", "memcached"])
def test_children_and_parent_share_a_cache_and_no_connection(
    kind: str, method: str, request: pytest.FixtureRequest
) -> None:
    url = request.getfixturevalue(f"{kind}_url")
    context = multiprocessing.get_context(method)
    replies = context.Queue()
    stop, wrong = threading.Event(), []
    with contextlib.ExitStack() as stack:
        cache = stack.enter_context(LLMCache(backend=url, coalesce="fleet"))
        cache.put("parent", "stored")
        start_methods.inherited[url] = cache
        stack.callback(start_methods.inherited.clear)

        def work() -> None:
            while not stop.is_set():
                if cache.get("parent") not in (
                    "stored",
                    None,
                ):  # None where the machine was too busy to answer in time
                    wrong.append(1)

        threads = [threading.Thread(target=work) for _ in range(3)]
        for thread in threads:
            thread.start()
        children = [
            context.Process(target=start_methods.ask, args=(url, number, replies))
            for number in range(CHILDREN[method])
        ]
        try:
            for child in children:
                child.start()
            found = [replies.get(timeout=20) for _ in children]
        finally:
            stop.set()
            for thread in threads:
                thread.join()
            for child in children:
                child.join(60)
                child.kill()
    assert sorted(found, key=lambda one: one[1]) == [
        ["stored", number, number, method == "fork"] for number in range(CHILDREN[method])
    ]
    assert [child.exitcode for child in children] == [0] * len(children)
    assert wrong == []


def _with_executor(method: str, tasks: list[tuple[str, LLMCache, str]]) -> list[Any]:
    context = multiprocessing.get_context(method)
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        return _asked(pool.submit, tasks, lambda future: future.result(60))


def _with_pool(method: str, tasks: list[tuple[str, LLMCache, str]]) -> list[Any]:
    with multiprocessing.get_context(method).Pool(1) as pool:
        return _asked(
            lambda fn, *args: pool.apply_async(fn, args), tasks, lambda result: result.get(60)
        )


def _asked(submit: Any, tasks: list[tuple[str, LLMCache, str]], result: Any) -> list[Any]:
    found = []
    for tenant, cache, asked in tasks:
        with options(namespace=tenant):
            found.append(result(submit(start_methods.ask_of_tenant, cache, tenant, asked)))
    return found


@pytest.mark.parametrize("run", [_with_executor, _with_pool])
@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_a_pool_never_answers_one_tenant_for_another(run: Any, method: str, tmp_path: Path) -> None:
    """It pickles tasks in a thread of its own, and forks its workers under the first of them."""
    url = str(tmp_path / "cache.db")
    cache, own = LLMCache(backend=url), LLMCache(backend=url, namespace="acme")
    with cache, own:
        found = run(
            method,
            [
                *(("a", cache, ""), ("b", cache, ""), ("b", cache, "b"), ("b", cache, "b")),
                *(("acme", for_workers(own), ""), ("acme", own, "")),
            ],
        )
        assert [answer for answer, _ in found[:4]] == ["for a", "for b", "for b", "for b"]
        assert [skipped for _, skipped in found[:3]] == [{"namespace": 1}, {"namespace": 1}, {}]
        assert [found[4], found[5]] == [("for acme", {})] * 2
        assert {key.split(":")[1] for key, _ in cache.engine.backend.entries("1:")} == {"b", "acme"}


def test_a_task_pickled_by_its_caller_takes_the_options_along(tmp_path: Path) -> None:
    with LLMCache(backend=str(tmp_path / "cache.db")) as cache:
        for wrap in (lambda cache: cache, for_workers):
            with options(namespace="a"):
                again = pickle.loads(pickle.dumps(wrap(cache)))
            with again:
                assert start_methods.ask_of_tenant(again, "a") == ("for a", {})
                assert again.engine.keyer.prefix() == "1:a:"
