"""Recorded streams of every protocol over real sockets, cut: nothing is stored that is not whole,
and what is whole comes back."""

import random
from pathlib import Path

import httpx
import pytest
from http_server import Provider, Reply, Row, reply_of, rows

from llm_cache_mem import LLMCache
from llm_cache_mem.http import CacheTransport
from llm_cache_mem.http.answer import Recording
from llm_cache_mem.responses.admission import refusal_reason

STREAMS = (
    "text/event-stream",
    "application/x-ndjson",
    "application/stream+json",
    "application/vnd.amazon.eventstream",
)


def shortest(shared_data: Path) -> dict[str, Reply]:
    """One good stream of each protocol."""
    found: dict[str, Reply] = {}
    good: list[tuple[Row, Reply]] = [
        (row, reply_of(row)) for row in rows(shared_data) if row["response"]["status"] == 200
    ]
    for row, reply in sorted(good, key=lambda pair: len(pair[1].body)):
        recording = Recording(200, [("content-type", reply.kind or "")], lambda data: data)
        recording.add(reply.body)
        if (
            (reply.kind or "").startswith(STREAMS)
            and recording.finish(at_end=True)
            and refusal_reason(recording.response()) is None
        ):
            found.setdefault(f"{row['provider']} {row['endpoint']}", reply)
    return found


@pytest.mark.parametrize("until_close", [False, True], ids=["broken off", "as if it ended"])
def test_a_cut_stream_is_not_stored(shared_data: Path, server: Provider, until_close: bool) -> None:
    seed = random.randrange(1 << 32)
    print("seed", seed)
    chance, cuts = random.Random(seed), 0
    streams = shortest(shared_data)
    for name, reply in streams.items():
        cache = LLMCache(prices={})
        with httpx.Client(base_url=server.url, transport=CacheTransport(cache)) as client:

            def ask(given: Reply, client: httpx.Client = client) -> bytes | None:
                server.gives(given)
                try:
                    return client.post(
                        "/v1/chat/completions", json={"model": "m", "messages": []}
                    ).content
                except httpx.RemoteProtocolError:
                    return None

            body = reply.body
            for cut in [0, len(body.rstrip()) - 1, *chance.sample(range(len(body.rstrip())), 6)]:
                got = ask(
                    reply._replace(
                        cut=cut, until_close=until_close, piece=None if until_close else 50
                    )
                )
                assert got == (body[:cut] if until_close else None)
                assert cache.stats().size == 0, (name, cut)
                cuts += 1
            for _ in range(2):
                assert ask(reply._replace(until_close=until_close)) == body
            assert (cache.stats().stored, cache.stats().hits) == (1, 1), name
    print(len(streams), "protocols,", cuts, "cuts")
    assert len(streams) >= 8
