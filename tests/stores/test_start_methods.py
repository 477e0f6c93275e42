"""Children of every start method, while the parent's threads use the same connections."""

import contextlib
import multiprocessing
import threading

import pytest
from stores import start_methods

from llm_cache_mem import LLMCache

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
