"""The transports on real clients of httpx and httpx2 over loopback: hits, misses, joins, modes, and
all that passes untouched."""

import asyncio
import gzip
import json
import os
import threading
import zlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from contextvars import copy_context
from typing import Any

import httpx
import httpx2
import pytest
from http_server import Provider, Reply
from threads import start, until

from llm_cache_mem import CacheMissError, LLMCache, RequestNotCacheable, options
from llm_cache_mem.http import AsyncCacheTransport, CacheTransport
from llm_cache_mem.stores import MemoryStore

BODY = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}
CHAT = "/v1/chat/completions"
LIBRARIES = [httpx, httpx2]


def event(**fields: Any) -> bytes:
    return (
        b"data: "
        + json.dumps(
            {"id": "1", "object": "chat.completion.chunk", "model": "m", **fields},
            separators=(",", ":"),
        ).encode()
        + b"\n\n"
    )


EVENTS = [
    event(choices=[{"index": 0, "delta": {"content": "Pa"}}]),
    event(choices=[{"index": 0, "delta": {"content": "ris"}, "finish_reason": "stop"}]),
    event(choices=[], usage={"prompt_tokens": 7, "completion_tokens": 2}),
    b"data: [DONE]\n\n",
]
STREAM = b"".join(EVENTS)


def answer(text: str = "Paris.", **more: Any) -> bytes:
    choice = {
        "index": 0,
        "message": {"role": "assistant", "content": text},
        "finish_reason": "stop",
    }
    usage = {"prompt_tokens": 7, "completion_tokens": 2}
    return json.dumps(
        {
            "id": "1",
            "object": "chat.completion",
            "model": "m",
            "choices": [choice],
            "usage": usage,
            **more,
        }
    ).encode()


@pytest.fixture
def cache(clock: Any) -> LLMCache:
    return LLMCache(clock=clock, prices=lambda model, usage: 0.5)


class Sync:
    """Asks through a sync client; ``post`` gives the status, the headers and the pieces of the
    body."""

    def __init__(self, library: Any, server: Provider, cache: LLMCache, **settings: Any) -> None:
        self.client = library.Client(
            base_url=server.url,
            transport=CacheTransport(cache, library.HTTPTransport(**settings)),
            timeout=10,
        )

    def post(
        self, body: Any = BODY, path: str = CHAT, headers: Any = None
    ) -> tuple[int, Any, list[bytes]]:
        with self.client.stream("POST", path, json=body, headers=headers) as response:
            return response.status_code, response.headers, list(response.iter_bytes())

    def close(self) -> None:
        self.client.close()


class Async:
    """The same through an async client and a loop of its own."""

    def __init__(self, library: Any, server: Provider, cache: LLMCache, **settings: Any) -> None:
        self.runner = asyncio.Runner()
        transport = AsyncCacheTransport(cache, library.AsyncHTTPTransport(**settings))
        self.client = library.AsyncClient(base_url=server.url, transport=transport, timeout=10)

    def post(
        self, body: Any = BODY, path: str = CHAT, headers: Any = None
    ) -> tuple[int, Any, list[bytes]]:
        async def ask() -> tuple[int, Any, list[bytes]]:
            async with self.client.stream("POST", path, json=body, headers=headers) as response:
                return (
                    response.status_code,
                    response.headers,
                    [chunk async for chunk in response.aiter_bytes()],
                )

        return self.runner.run(ask(), context=copy_context())

    def close(self) -> None:
        if not self.client.is_closed:
            self.runner.run(self.client.aclose())
            self.runner.close()


@pytest.fixture(
    params=[(kind, library) for kind in (Sync, Async) for library in LIBRARIES],
    ids=lambda p: f"{p[0].__name__}-{p[1].__name__}",
)
def make(request: Any, server: Provider, cache: LLMCache) -> Iterator[Callable[..., Any]]:
    """Makes askers of one kind on one library; those of a test share its cache."""
    kind, library = request.param
    with ExitStack() as stack:

        def make(on: LLMCache = cache, **settings: Any) -> Any:
            asker = kind(library, server, on, **settings)
            stack.callback(asker.close)
            return asker

        yield make


@pytest.fixture
def ask(make: Callable[..., Any]) -> Callable[..., Any]:
    return make().post  # type: ignore[no-any-return]


# -- Hits and misses


def test_the_second_request_is_answered_from_the_cache(
    ask: Any, server: Provider, cache: LLMCache, clock: Any
) -> None:
    server.gives(
        Reply(
            answer(),
            headers=(
                ("x-request-id", "r1"),
                ("set-cookie", "a=1"),
                ("openai-version", "2020-10-01"),
            ),
        )
    )
    status, headers, first = ask()
    assert (status, headers["x-llm-cache-mem"], headers["x-request-id"]) == (200, "miss", "r1")
    clock.advance(61.5)
    status, headers, second = ask()
    assert first == second == [answer()]
    found = dict(headers)
    assert float(found.pop("x-llm-cache-saved-seconds")) >= 0
    assert found == {
        "content-type": "application/json",
        "openai-version": "2020-10-01",
        "x-llm-cache-mem": "hit",
        "age": "61",
        "x-llm-cache-saved-usd": "0.500000",
        "x-llm-cache-saved-tokens": "input=7, output=2",
    }
    assert (status, server.calls) == (200, 1)
    stats = cache.stats()
    assert (stats.hits, stats.misses, stats.stored, stats.tokens_saved, stats.saved_usd) == (
        1,
        1,
        1,
        9,
        0.5,
    )


def test_a_stream_is_replayed_in_the_chunks_in_which_it_came(
    ask: Any, server: Provider, cache: LLMCache
) -> None:
    body = {**BODY, "stream": True}
    server.gives(Reply(STREAM, "text/event-stream", piece=50))
    _, _, first = ask(body)
    _, headers, second = ask(body)
    assert second == first
    assert b"".join(second) == STREAM
    assert len(second) == -(-len(STREAM) // 50)
    assert (server.calls, headers["content-type"], headers["x-llm-cache-mem"]) == (
        1,
        "text/event-stream",
        "hit",
    )
    assert cache.stats().tokens_saved == 9


def test_streaming_and_plain_requests_never_answer_one_another(ask: Any, server: Provider) -> None:
    server.answer = lambda asked: (
        Reply(STREAM, "text/event-stream") if asked.body.get("stream") else Reply(answer())
    )
    for body in (BODY, {**BODY, "stream": True}) * 2:
        _, headers, chunks = ask(body)
        assert (b"data:" in b"".join(chunks)) == bool(body.get("stream"))
        assert headers["content-type"] == (
            "text/event-stream" if body.get("stream") else "application/json"
        )
    assert server.calls == 2


def test_the_marker_headers_never_reach_the_provider(ask: Any, server: Provider) -> None:
    server.gives(Reply(answer()))
    ask()
    assert not {"x-llm-cache-mem", "age"} & server.asked[0].headers.keys()


@pytest.mark.parametrize("encoding", ["gzip", "deflate"])
@pytest.mark.parametrize("piece", [None, 20])
def test_compressed_answers_are_given_again(
    ask: Any, server: Provider, encoding: str, piece: int | None
) -> None:
    body = gzip.compress(STREAM) if encoding == "gzip" else zlib.compress(STREAM)
    server.gives(
        Reply(body, "text/event-stream", headers=(("content-encoding", encoding),), piece=piece)
    )
    assert b"".join(ask()[2]) == STREAM
    _, headers, chunks = ask()
    assert (chunks, server.calls) == (EVENTS, 1)
    assert "content-encoding" not in headers


def test_bytes_that_are_no_text_are_given_again(ask: Any, server: Provider) -> None:
    body = json.dumps({"text": "é"}, ensure_ascii=False).encode("utf-16")
    server.gives(Reply(body))
    assert ask()[2] == [body]
    assert ask()[2] == [body]


def test_options_of_the_call_count(ask: Any, server: Provider, cache: LLMCache, clock: Any) -> None:
    server.answer = lambda asked: Reply(answer(f"no. {server.calls}"))
    with options(ttl_seconds=10):
        ask()
    with options(namespace="other"):
        ask()
    with options(sample=1):
        ask()
    assert server.calls == 3
    assert ask()[1]["x-llm-cache-mem"] == "hit"
    clock.advance(11)
    assert ask()[1]["x-llm-cache-mem"] == "miss"


# -- What is not stored


@pytest.mark.parametrize("status", [400, 401, 404, 409, 429, 500, 503, 529, 301])
def test_errors_pass_as_they_came_each_time(
    ask: Any, server: Provider, cache: LLMCache, status: int
) -> None:
    server.gives(
        Reply(b'{"error": {"message": "no"}}', status=status, headers=(("retry-after", "1"),))
    )
    for _ in range(2):
        got, headers, chunks = ask()
        assert (got, headers["retry-after"], b"".join(chunks)) == (
            status,
            "1",
            b'{"error": {"message": "no"}}',
        )
        assert "x-llm-cache-mem" not in headers
    assert (server.calls, cache.stats().size) == (2, 0)


def refused(body: bytes, kind: str = "application/json") -> Reply:
    return Reply(body, kind)


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        (refused(answer().replace(b'"stop"', b'"length"')), "truncated"),
        (refused(answer().replace(b'"stop"', b'"content_filter"')), "content_filter"),
        (refused(answer("")), "empty"),
        (refused(b'{"error": {"message": "overloaded", "type": "x"}}'), "error"),
        (refused(b"<html>busy</html>", "text/html"), "malformed"),
        (refused(b""), "malformed"),
        (refused(STREAM.replace(b"data: [DONE]\n\n", b""), "text/event-stream"), "incomplete"),
        (refused(STREAM.replace(b'"stop"', b'"length"'), "text/event-stream"), "truncated"),
        (refused(b"data: {\n\n", "text/event-stream"), "malformed"),
    ],
    ids=[
        "length",
        "filter",
        "empty",
        "error in a 200",
        "no JSON",
        "no body",
        "no [DONE]",
        "stream at the limit",
        "malformed stream",
    ],
)
def test_answers_refused_by_admission_pass_and_are_counted(
    ask: Any, server: Provider, cache: LLMCache, reply: Reply, reason: str
) -> None:
    server.gives(reply)
    for _ in range(2):
        assert b"".join(ask()[2]) == reply.body
    assert (server.calls, cache.stats().skipped) == (2, {reason: 2})


@pytest.mark.parametrize("piece", [None, 40])
def test_a_broken_connection_is_the_same_error_as_without_the_cache(
    make: Any, server: Provider, cache: LLMCache, piece: int | None
) -> None:
    ask = make().post
    for cut in range(0, len(STREAM), 37):
        server.gives(Reply(STREAM, "text/event-stream", piece=piece, cut=cut))
        with pytest.raises(
            (
                httpx.RemoteProtocolError,
                httpx2.RemoteProtocolError,
                httpx.ReadError,
                httpx2.ReadError,
            )
        ):
            ask()
    assert cache.stats().stored == 0


@pytest.mark.parametrize(
    ("method", "path"),
    [("GET", "/v1/models"), ("POST", "/v1/files"), ("POST", "/v1/threads/t/messages")],
)
def test_other_requests_pass_untouched(
    server: Provider, cache: LLMCache, method: str, path: str
) -> None:
    server.gives(Reply(b'{"data": []}'))
    with httpx.Client(base_url=server.url, transport=CacheTransport(cache)) as client:
        for _ in range(2):
            response = client.request(method, path, json=None if method == "GET" else {"a": 1})
            assert (response.json(), "x-llm-cache-mem" in response.headers) == ({"data": []}, False)
    assert (server.calls, cache.stats().misses) == (2, 0)


def test_a_streamed_request_body_passes_through_and_is_counted(
    server: Provider, cache: LLMCache
) -> None:
    server.gives(Reply(answer()))
    with httpx.Client(base_url=server.url, transport=CacheTransport(cache)) as client:
        for _ in range(2):
            client.post(
                CHAT,
                content=iter([b"{}"]),
                headers={"content-type": "application/json", "content-length": "2"},
            )
    assert (server.calls, cache.stats().skipped) == (2, {"request": 2})


# -- Modes


def test_replay_raises_and_sends_nothing(make: Any, server: Provider, cache: LLMCache) -> None:
    ask = make().post
    server.gives(Reply(answer()))
    ask()
    with options(mode="replay"):
        assert ask()[1]["x-llm-cache-mem"] == "hit"
        with pytest.raises(CacheMissError):
            ask({**BODY, "model": "other"})
        with pytest.raises(RequestNotCacheable, match=r"POST /v1/files"):
            ask(path="/v1/files")
    assert server.calls == 1


def test_off_and_refresh(ask: Any, server: Provider, cache: LLMCache) -> None:
    server.answer = lambda asked: Reply(answer(f"no. {server.calls}"))
    ask()
    with options(mode="off"):
        assert b"no. 2" in ask()[2][0]
    with options(mode="refresh"):
        assert b"no. 3" in ask()[2][0]
    assert b"no. 3" in ask()[2][0]
    assert server.calls == 3


# -- Deleted meanwhile


def test_a_stream_deleted_while_running_is_not_stored(server: Provider, cache: LLMCache) -> None:
    server.gives(Reply(STREAM, "text/event-stream", piece=60))
    with httpx.Client(base_url=server.url, transport=CacheTransport(cache)) as client:
        for forget in (cache.clear, lambda: None):
            with client.stream("POST", CHAT, json=BODY) as response:
                chunks = response.iter_raw()
                next(chunks)
                forget()
                assert b"".join(chunks)
    assert (server.calls, cache.stats().stored) == (2, 1)


def test_another_keys_deletion_does_not_matter(server: Provider, cache: LLMCache) -> None:
    server.gives(Reply(STREAM, "text/event-stream", piece=60))
    with (
        httpx.Client(base_url=server.url, transport=CacheTransport(cache)) as client,
        client.stream("POST", CHAT, json=BODY) as response,
    ):
        chunks = response.iter_raw()
        next(chunks)
        cache.delete("something else", model="m")
        assert b"".join(chunks)
    assert cache.stats().stored == 1


# -- Construction


@pytest.mark.parametrize("library", [httpx, httpx2])
async def test_a_transport_in_the_wrong_client_names_the_right_one(
    library: Any, cache: LLMCache
) -> None:
    url = "http://127.0.0.1:9/v1/chat/completions"
    with pytest.raises(TypeError, match="an AsyncClient an AsyncCacheTransport"):
        async with library.AsyncClient(transport=CacheTransport(cache)):
            pass
    client = library.AsyncClient(transport=CacheTransport(cache))
    with pytest.raises(TypeError, match="an AsyncClient an AsyncCacheTransport"):
        await client.post(url, json={})
    await client.aclose()
    with (
        pytest.raises(TypeError, match="a Client takes a CacheTransport"),
        library.Client(transport=AsyncCacheTransport(cache)),
    ):
        pass
    client = library.Client(transport=AsyncCacheTransport(cache))
    with pytest.raises(TypeError, match="a Client takes a CacheTransport"):
        client.post(url, json={})
    client.close()


def test_wrong_arguments_are_refused() -> None:
    with pytest.raises(TypeError, match="LLMCache"):
        CacheTransport({})  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="neither httpx nor httpx2"):
        CacheTransport(LLMCache()).handle_request(object())


def test_no_secret_and_no_prompt_is_in_a_repr(cache: LLMCache) -> None:
    assert repr(CacheTransport(cache)) == f"CacheTransport({cache!r})"


def test_closing_the_client_closes_the_transport_but_not_the_cache(
    make: Any, server: Provider, cache: LLMCache
) -> None:
    server.gives(Reply(answer()))
    asker = make()
    asker.post()
    assert server.connections == 1
    asker.close()
    assert server.wait_for_connections(0)
    assert make().post()[1]["x-llm-cache-mem"] == "hit"


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_forked_child_that_inherits_a_transport_works(server: Provider, cache: LLMCache) -> None:
    server.gives(Reply(answer()))
    with httpx.Client(base_url=server.url, transport=CacheTransport(cache)) as client:
        client.post(CHAT, json=BODY)
        pid = os.fork()
        if pid == 0:
            hit = client.post(CHAT, json=BODY).headers["x-llm-cache-mem"]
            miss = (
                httpx.Client(transport=client._transport)
                .post(server.url + CHAT, json={**BODY, "n": 2})
                .headers["x-llm-cache-mem"]
            )
            os._exit(0 if (hit, miss) == ("hit", "miss") else 1)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert server.calls == 2


def test_a_store_that_fails_costs_nothing_but_the_hit(make: Any, server: Provider) -> None:
    class Broken(MemoryStore):
        blocking = True

        def get(self, key: str) -> Any:
            raise OSError("gone")

        def put(self, key: str, entry: Any) -> Any:
            raise OSError("gone")

    broken = LLMCache(backend=Broken())
    server.gives(Reply(answer()))
    ask = make(broken).post
    for _ in range(2):
        assert ask()[2] == [answer()]
    assert server.calls == 2


def test_many_threads_make_one_call(server: Provider, cache: LLMCache) -> None:
    gate = threading.Event()
    server.gives(Reply(answer(), gate=lambda _: gate.wait(60)))
    with httpx.Client(base_url=server.url, transport=CacheTransport(cache), timeout=10) as client:

        def post() -> tuple[bytes, str]:
            response = client.post(CHAT, json=BODY)
            return response.content, response.headers["x-llm-cache-mem"]

        calls = [start(post) for _ in range(20)]
        until(lambda: cache.stats().misses == 20)
        gate.set()
        got = [call.result(60) for call in calls]
    assert {body for body, _ in got} == {answer()}
    assert sorted(mark for _, mark in got) == ["coalesced"] * 19 + ["miss"]
    assert (server.calls, cache.stats().coalesced) == (1, 19)


def test_another_host_by_name_is_another_request(
    make: Any, server: Provider, cache: LLMCache
) -> None:
    """As a gateway is asked that tells its models apart by it."""
    server.gives(Reply(answer()))
    ask = make(cache).post
    marks = [
        ask(headers=headers)[1]["x-llm-cache-mem"]
        for headers in (None, {"host": "other.example"}, {"host": "other.example"})
    ]
    assert (marks, server.calls) == (["miss", "miss", "hit"], 2)


@pytest.mark.parametrize("library", LIBRARIES)
def test_in_replay_nothing_is_sent_under_another_event_loop_either(
    library: Any, cache: LLMCache
) -> None:
    sent: list[Any] = []
    transport = AsyncCacheTransport(cache, library.MockTransport(sent.append))
    with options(mode="replay"), pytest.raises(RequestNotCacheable, match="only under asyncio"):
        transport.handle_async_request(library.Request("POST", f"http://h{CHAT}", json=BODY)).send(
            None
        )
    assert sent == []


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"null", "empty"),
        (b'{"id": "x"}', "empty"),
        (b'{"detail": "overloaded"}', "error"),
        (b'{"message": "Internal server error", "request_id": "r"}', "error"),
        (b'{"success": false, "errors": [{"code": 1}], "result": null}', "error"),
    ],
)
def test_an_error_body_with_status_200_is_not_stored(
    make: Any, server: Provider, cache: LLMCache, body: bytes, reason: str
) -> None:
    server.gives(Reply(body))
    ask = make(cache).post
    assert [ask()[2] for _ in range(2)] == [[body], [body]]
    assert (server.calls, cache.stats().skipped) == (2, {reason: 2})


@pytest.mark.parametrize(
    ("kind", "method"),
    [(CacheTransport, "handle_request"), (AsyncCacheTransport, "handle_async_request")],
)
def test_a_client_in_place_of_a_transport_is_refused_at_once(kind: Any, method: str) -> None:
    with (
        httpx.Client() as client,
        pytest.raises(TypeError, match=f"{kind.__name__} goes over a transport with {method}"),
    ):
        kind(LLMCache(), client)


def test_a_stateful_request_is_skipped_unless_allowed(
    make: Any, server: Provider, cache: LLMCache
) -> None:
    server.gives(Reply(answer()))
    ask = make(cache).post
    body = {**BODY, "previous_response_id": "resp_1"}
    for _ in range(2):
        ask(body)
    assert (server.calls, cache.stats().skipped, cache.stats().size) == (2, {"stateful": 2}, 0)
    with options(mode="replay"), pytest.raises(RequestNotCacheable, match="stateful=True"):
        ask(body)
    with options(stateful=True):
        assert [ask(body)[1]["x-llm-cache-mem"] for _ in range(2)] == ["miss", "hit"]
    assert server.calls == 3


def test_three_equal_runs_of_an_agent_are_one_call_each(
    make: Any, server: Provider, cache: LLMCache
) -> None:
    """As the OpenAI Agents SDK sends them, with a new prompt_cache_key for each run."""
    server.gives(Reply(answer()))
    ask = make(cache).post
    for run in range(3):
        hint = {"prompt_cache_key": f"agents-sdk:run:{run}"}
        for turn in ("plan", "act"):
            ask({**BODY, **hint, "messages": [{"role": "user", "content": turn}]})
    assert (server.calls, cache.stats().hits) == (2, 4)
