"""Run by ``python -I`` where only the wheel is installed (make wheel-check), and by test_project.py
with all else hidden: the library imports and works without any extra, in memory and on SQLite.

Given ``compiled`` or ``pure``, it must have its compiled part, or be Python alone.
"""

import asyncio
import importlib.metadata
import os
import sys
import tempfile

from llm_cache_mem import LLMCache, options, speedups

MESSAGES = [{"role": "user", "content": "Is it in the wheel?"}]


def call(**request: object) -> dict[str, object]:
    return {
        "choices": [
            {"message": {"content": f"yes, said {request['model']}"}, "finish_reason": "stop"}
        ]
    }


def use(cache: LLMCache, namespace: str) -> None:
    with options(namespace=namespace):
        assert cache.get(MESSAGES, model="m") is None
        first = cache.get_or_call(MESSAGES, call, model="m")
        assert (
            cache.get_or_call(MESSAGES, call, model="m") == cache.get(MESSAGES, model="m") == first
        )
        assert asyncio.run(cache.aget(MESSAGES, model="m")) == first


with LLMCache() as memory:
    use(memory, "memory")
    assert (memory.stats().hits, memory.stats().stored) == (3, 1), memory.stats()

with tempfile.TemporaryDirectory() as folder:
    url = f"sqlite:///{os.path.join(folder, 'cache.db')}"
    with LLMCache(backend=url) as before:
        use(before, "restart")
    with LLMCache(backend=url, namespace="restart") as after:
        assert after.get(MESSAGES, model="m") == call(model="m")
        assert after.stats().hits == 1, after.stats()

wanted = {"compiled": True, "pure": False}.get(sys.argv[-1], speedups)
assert speedups is wanted, f"the compiled part is {'' if speedups else 'not '}there"

extras = set(importlib.metadata.metadata("llm-cache-mem").get_all("Provides-Extra") or ())
needed = [
    line for line in importlib.metadata.requires("llm-cache-mem") or () if "extra ==" not in line
]
assert not needed, f"the library must need nothing: {needed}"
print(
    f"no extras, {'compiled' if speedups else 'pure'}: imports and works, in memory and on SQLite;"
    f" extras offered: {', '.join(sorted(extras))}"
)
