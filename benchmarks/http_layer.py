"""The transport against a bare client, over loopback: what a miss adds, when a stream's first byte
comes, how fast a hit is.

The provider is another process that answers at once. Calls are interleaved one by one and medians
compared: wall-clock time, since most of a call is waiting, and beside it the CPU time of this
process, which does not depend on who else wants the machine.
"""

import asyncio
import json
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import count
from statistics import median
from time import perf_counter, process_time
from typing import Any, NamedTuple

from llm_cache_mem import LLMCache

__all__ = ["http", "provider"]

MISS_MS, HIT_RATIO = 1.0, 10.0
ANSWER = json.dumps(
    {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1,
        "model": "gpt-4o-mini",
        "choices": [
            {
                "index": 0,
                "finish_reason": "stop",
                "message": {"role": "assistant", "content": "z" * 1000},
            }
        ],
        "usage": {"prompt_tokens": 3000, "completion_tokens": 250, "total_tokens": 3250},
    }
).encode()
EVENT = {
    "id": "chatcmpl-1",
    "object": "chat.completion.chunk",
    "created": 1,
    "model": "gpt-4o-mini",
}
DELTAS = [{"index": 0, "delta": {"content": "word "}, "finish_reason": None}] * 60 + [
    {"index": 0, "delta": {}, "finish_reason": "stop"}
]
EVENTS = [f"data: {json.dumps({**EVENT, 'choices': [delta]})}\n\n".encode() for delta in DELTAS] + [
    b"data: [DONE]\n\n"
]

_numbers = count()


def request(number: int | None = None) -> dict[str, Any]:
    """A system prompt and ten turns, 8.7 KB; new for every call unless numbered."""
    turns = [
        {"role": ("user", "assistant")[i % 2], "content": f"turn {i} " + "x" * 800}
        for i in range(10)
    ]
    asked = f"question {next(_numbers) if number is None else -number - 1}"
    return {
        "model": "gpt-4o-mini",
        "temperature": 0,
        "messages": [{"role": "system", "content": asked}, *turns],
    }


# -- The provider


async def _serve() -> None:
    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                lines = head.lower().split(b"\r\n")
                length = next(
                    int(line[15:]) for line in lines if line.startswith(b"content-length:")
                )
                body = await reader.readexactly(length)
                if b'"stream":true' in body or b'"stream": true' in body:
                    writer.write(
                        b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding:"
                        b" chunked\r\n\r\n"
                    )
                    for event in EVENTS:
                        writer.write(b"%x\r\n%b\r\n" % (len(event), event))
                        await writer.drain()
                    writer.write(b"0\r\n\r\n")
                else:
                    writer.write(
                        b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length:"
                        b" %d\r\n\r\n%b" % (len(ANSWER), ANSWER)
                    )
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()

    server = await asyncio.start_server(handle, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await asyncio.get_running_loop().run_in_executor(
        None, sys.stdin.read
    )  # until the parent is gone


@contextmanager
def provider() -> Iterator[str]:
    """The address of a provider in another process that answers every request at once."""
    child = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.http_layer", "serve"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert child.stdin is not None
    assert child.stdout is not None
    try:
        yield f"http://127.0.0.1:{int(child.stdout.readline())}"
    finally:
        child.stdin.close()
        child.wait(10)
        child.stdout.close()


# -- The contest

Timed = Callable[[], float]


class Cost(NamedTuple):
    """Milliseconds: the median, the 10th percentile (what it takes when nobody else wants the
    machine), the median of CPU time."""

    wall: float
    quiet: float
    cpu: float


def _medians(contest: Sequence[tuple[str, Timed]], rounds: int) -> dict[str, Cost]:
    """What each of *contest* takes, from calls taken in turn."""
    times: dict[str, list[tuple[float, float]]] = {name: [] for name, _ in contest}
    for _, call in [*contest, *contest]:  # connections, imports
        call()
    for number in range(rounds):
        for name, call in contest if number % 2 == 0 else reversed(contest):
            began = process_time()
            wall = call()
            times[name].append((wall * 1e3, (process_time() - began) * 1e3))
    return {name: _cost(taken) for name, taken in times.items()}


def _cost(taken: list[tuple[float, float]]) -> Cost:
    walls = sorted(wall for wall, _ in taken)
    return Cost(median(walls), walls[len(walls) // 10], median(cpu for _, cpu in taken))


def _timed(call: Callable[[], object]) -> Timed:
    def timed() -> float:
        began = perf_counter()
        call()
        return perf_counter() - began

    return timed


def _show(title: str, found: dict[str, Cost], verdicts: dict[str, str]) -> None:
    print(f"\n{title}")
    width = max(map(len, found))
    for name, cost in found.items():
        print(
            f"  {name:<{width}}  {cost.wall:8.3f} ms   {cost.quiet:8.3f} quiet   {cost.cpu:8.3f}"
            f" CPU   {verdicts.get(name, '')}".rstrip()
        )


def _against(found: dict[str, Cost], bare: str) -> dict[str, str]:
    """What is added to *bare* by a miss, and how many times faster a hit is."""
    verdicts = {}
    for name, taken in found.items():
        if "miss" in name:
            added, quiet = taken.wall - found[bare].wall, taken.quiet - found[bare].quiet
            verdicts[name] = (
                f"{added:+.3f} ms, {quiet:+.3f} quiet   (must be <= {MISS_MS}:"
                f" {'ok' if added <= MISS_MS else 'NO'})"
            )
        elif "hit" in name:
            faster = found[bare].wall / taken.wall
            verdicts[name] = (
                f"{faster:.1f} times faster   (should be >= {HIT_RATIO:g}:"
                f" {'ok' if faster >= HIT_RATIO else 'no: see the note'})"
            )
    return verdicts


def http(rounds: int = 300) -> None:
    """What the HTTP layer adds to a miss, and what a hit saves."""
    with provider() as url:
        _plain(url, rounds)
        _streams(url, rounds)
        _async(url, rounds)
        _sdk(url, rounds)


def _plain(url: str, rounds: int) -> None:
    import httpx

    from llm_cache_mem.http import CacheTransport

    transport, path = CacheTransport(LLMCache(max_size=None)), "/v1/chat/completions"
    with (
        httpx.Client(base_url=url) as bare,
        httpx.Client(base_url=url, transport=transport) as cached,
    ):
        contest = [
            ("bare httpx", _timed(lambda: bare.post(path, json=request()))),
            ("cached, miss", _timed(lambda: cached.post(path, json=request()))),
            ("cached, hit", _timed(lambda: cached.post(path, json=request(1)))),
        ]
        found = _medians(contest, rounds)
        _show(
            "a call through httpx, 8.7 KB asked, 1.3 KB answered",
            found,
            _against(found, "bare httpx"),
        )
        # What a client itself takes: the same call on a transport that has the answer in its hand.
        canned = httpx.MockTransport(
            lambda asked: httpx.Response(
                200, content=ANSWER, headers={"content-type": "application/json"}
            )
        )
        built = httpx.Request("POST", url + path, json=request(1))
        with httpx.Client(base_url=url, transport=canned) as client:
            parts = [
                (
                    "httpx alone, without a network",
                    _timed(lambda: client.post(path, json=request(1))),
                ),
                (
                    "the transport alone, hit",
                    _timed(lambda: transport.handle_request(built).read()),
                ),
            ]
            found = _medians(parts, rounds)
        _show("what of a hit is whose", found, {})


def _streams(url: str, rounds: int) -> None:
    import httpx

    from llm_cache_mem.http import CacheTransport

    def first_byte(client: Any) -> Timed:
        def timed() -> float:
            began = perf_counter()
            with client.stream(
                "POST", "/v1/chat/completions", json={**request(), "stream": True}
            ) as response:
                chunks = response.iter_raw()
                next(chunks)
                taken = perf_counter() - began
                for _ in chunks:
                    pass
            return taken

        return timed

    cache = LLMCache(max_size=None)
    with (
        httpx.Client(base_url=url) as bare,
        httpx.Client(base_url=url, transport=CacheTransport(cache)) as cached,
    ):
        found = _medians(
            [("bare httpx", first_byte(bare)), ("cached, miss", first_byte(cached))], rounds
        )
        _show("the first byte of a stream", found, _against(found, "bare httpx"))

        def whole(client: Any) -> Timed:
            return _timed(
                lambda: client.post("/v1/chat/completions", json={**request(), "stream": True})
            )

        found = _medians([("bare httpx", whole(bare)), ("cached", whole(cached))], rounds)
        _show("a whole stream of 62 events, all at once", found, {})


def _async(url: str, rounds: int) -> None:
    import httpx

    from llm_cache_mem.http import AsyncCacheTransport

    with asyncio.Runner() as runner:
        bare = httpx.AsyncClient(base_url=url)
        cached = httpx.AsyncClient(
            base_url=url, transport=AsyncCacheTransport(LLMCache(max_size=None))
        )

        def post(client: Any, number: int | None = None) -> Timed:
            async def ask() -> float:
                began = perf_counter()
                await client.post("/v1/chat/completions", json=request(number))
                return perf_counter() - began

            return lambda: runner.run(ask())

        contest = [
            ("bare httpx", post(bare)),
            ("cached, miss", post(cached)),
            ("cached, hit", post(cached, 1)),
        ]
        found = _medians(contest, rounds)
        _show("a call through httpx, async", found, _against(found, "bare httpx"))
        runner.run(bare.aclose())
        runner.run(cached.aclose())


def _sdk(url: str, rounds: int) -> None:
    from openai import OpenAI

    from llm_cache_mem.http import cache_client

    with OpenAI(api_key="none", base_url=f"{url}/v1") as bare:
        cached: Any = cache_client(bare, LLMCache(max_size=None))
        create: Any = bare.chat.completions.create
        contest = [
            ("bare openai", _timed(lambda: create(**request()))),
            ("cached, miss", _timed(lambda: cached.chat.completions.create(**request()))),
            ("cached, hit", _timed(lambda: cached.chat.completions.create(**request(1)))),
        ]
        found = _medians(contest, rounds)
        _show("a call through the openai SDK", found, _against(found, "bare openai"))


if __name__ == "__main__":
    if sys.argv[1:] == ["serve"]:
        asyncio.run(_serve())
    else:
        http()
