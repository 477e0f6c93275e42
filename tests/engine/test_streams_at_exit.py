"""A shared stream that is left open when its program ends is closed without a message."""

import subprocess
import sys

import pytest

PROGRAM = """
import asyncio, sys
from llm_cache_mem import LLMCache

url, way, readers = sys.argv[1], sys.argv[2], int(sys.argv[3])
cache = LLMCache(backend=url, coalesce="fleet" if url != "memory" else True, prices={})
asked = [{"role": "user", "content": "x"}]


def create(messages, stream):
    try:
        yield from ("a", "b")
    finally:
        print("closed")


async def acreate(messages, stream):
    try:
        for chunk in ("a", "b"):
            await asyncio.sleep(0)
            yield chunk
    finally:
        print("closed")


async def main():
    global streams
    streams = [await cache.aget_or_call(asked, acreate, stream=True) for _ in range(readers)]
    print([await anext(stream) for stream in streams])


if way == "threads":
    streams = [cache.get_or_call(asked, create, stream=True) for _ in range(readers)]
    print([next(stream) for stream in streams])
else:
    asyncio.run(main())
"""


@pytest.mark.parametrize("readers", [1, 2])
@pytest.mark.parametrize("way", ["threads", "tasks"])
@pytest.mark.parametrize("backend", ["memory", "sqlite"])
def test_a_stream_left_open_at_exit_is_quiet(
    tmp_path: object, backend: str, way: str, readers: int
) -> None:
    url = "memory" if backend == "memory" else f"sqlite:///{tmp_path}/cache.db"
    ended = subprocess.run(
        [sys.executable, "-W", "error", "-c", PROGRAM, url, way, str(readers)],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert (ended.returncode, ended.stderr) == (0, "")
    assert ended.stdout == f"{['a'] * readers}\nclosed\n"
