"""The trace recorder: one line per call without any text, and no effect on the call."""

import asyncio
import json
import multiprocessing
import os
import stat
import threading
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from llm_cache_mem import LLMCache
from llm_cache_mem.bench import TraceRecorder
from llm_cache_mem.bench.reader import open_trace
from llm_cache_mem.bench.trace import Call
from llm_cache_mem.tools import ToolCache

CANARY = "CANARY"
SYSTEM = f"{CANARY} you are a helpful assistant. " * 200


def ask(question: str) -> list[dict[str, str]]:
    return [
        {"role": "system", "content": SYSTEM},
        {"role": "user", "content": f"{CANARY} {question}"},
    ]


def create(messages: Any, model: str, **params: Any) -> dict[str, Any]:
    return {
        "role": "assistant",
        "content": f"{CANARY} answer",
        "usage": {"prompt_tokens": 2000, "completion_tokens": 50},
    }


def calls_in(path: Path) -> list[Call]:
    with open_trace(str(path)) as trace:
        return list(trace)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "trace.jsonl"


def test_cache_events_record_hits_and_stored_answers(path: Path, clock: Any) -> None:
    def slow(messages: Any, **params: Any) -> dict[str, Any]:
        clock.advance(2.5)
        return create(messages, **params)

    cache = LLMCache(on_event=TraceRecorder(path, clock=clock), clock=clock, prices={})
    began = clock()
    for question in ("one", "two", "one"):
        cache.get_or_call(ask(question), slow, model="m")
    first, second, again = calls_in(path)
    assert (first.key, first.model, first.input_tokens, first.output_tokens) == (
        again.key,
        "m",
        2000,
        50,
    )
    assert second.key != first.key
    assert [call.at - began for call in (first, second, again)] == [0.0, 2.5, 5.0]
    assert [call.seconds for call in (first, second, again)] == [2.5, 2.5, 2.5]


def test_tool_runs_of_the_same_cache_are_not_recorded(path: Path) -> None:
    with TraceRecorder(path) as recorder:
        cache = LLMCache(on_event=recorder)
        for _ in range(2):
            ToolCache(cache).get_or_call("add", {"a": 1}, lambda a: a + 1)
        cache.get_or_call("hi", create, model="m")
    assert [call.model for call in calls_in(path)] == ["m"]


def test_wrapped_function_records_shared_prompt_blocks(path: Path) -> None:
    wrapped = TraceRecorder(path).wrap(create)
    assert wrapped(messages=ask("one"), model="m") == create(ask("one"), "m")
    wrapped(messages=ask("two"), model="m")
    wrapped(messages=[{"role": "user", "content": SYSTEM + "!"}], model="m")
    one, two, other = calls_in(path)
    shared = [a == b for a, b in zip(one.runs, two.runs, strict=True)]
    assert shared == sorted(shared, reverse=True)
    assert sum(shared) >= 6
    assert not {first for first, _, _ in one.runs} & {first for first, _, _ in other.runs}
    assert 0.8 < sum(tokens for _, _, tokens in one.runs) / one.input_tokens <= 1


def test_trace_has_no_text_and_is_readable_by_its_owner_only(
    path: Path,
) -> None:
    recorder = TraceRecorder(path)
    cache = LLMCache(on_event=recorder, prices={}, namespace=f"{CANARY}-namespace")
    cache.get_or_call(ask("one"), create, model="m")
    recorder.wrap(create)(messages=ask("one"), model="m", metadata={"user": CANARY}, api_key=CANARY)
    text = path.read_text()
    assert CANARY not in text
    assert CANARY.lower() not in text.lower()
    assert cache.key(ask("one"), model="m") not in text
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert CANARY not in repr(recorder)


def test_digests_match_only_under_the_same_salt(tmp_path: Path) -> None:
    files = [tmp_path / name for name in ("a", "b", "c", "d")]
    for file, salt in zip(files, ("s", b"s", "other", None), strict=True):
        TraceRecorder(file, salt=salt).wrap(create)(messages=ask("one"), model="m")
    a, b, c, d = (calls_in(file)[0] for file in files)
    assert (a.key, a.runs) == (b.key, b.runs)
    assert len({a.key, c.key, d.key}) == 3
    assert a.runs[0] != c.runs[0] != d.runs[0]


async def test_async_calls_and_streams_are_recorded_at_their_end(path: Path) -> None:
    chunk = {"choices": [{"delta": {"content": CANARY}}]}
    last = {"choices": [], "usage": {"prompt_tokens": 70, "completion_tokens": 7}}

    async def answer(messages: Any, model: str) -> dict[str, Any]:
        return create(messages, model)

    async def astream(messages: Any, model: str, stream: bool) -> AsyncIterator[dict[str, Any]]:
        async def chunks() -> AsyncIterator[dict[str, Any]]:
            yield chunk
            yield last

        return chunks()

    def stream(messages: Any, model: str, stream: bool) -> Iterator[dict[str, Any]]:
        return iter([chunk, last])

    recorder = TraceRecorder(path)
    await recorder.wrap(answer)(messages="hi", model="m")
    assert [
        part async for part in await recorder.wrap(astream)(messages="hi", model="m", stream=True)
    ] == [chunk, last]
    assert list(recorder.wrap(stream)(messages="hi", model="m", stream=True)) == [chunk, last]
    left = recorder.wrap(stream)(messages="hi", model="m", stream=True)
    next(left)
    left.close()
    assert [call.input_tokens for call in calls_in(path)] == [2000, 70, 70]


def test_failing_call_is_not_recorded_and_raises_as_before(path: Path) -> None:
    def broken(messages: Any) -> None:
        raise ConnectionError("down")

    with pytest.raises(ConnectionError, match="down"):
        TraceRecorder(path).wrap(broken)(messages="hi")
    assert calls_in(path) == []


def test_threads_and_forked_children_write_whole_lines(path: Path) -> None:
    recorder = TraceRecorder(path, salt="s")
    wrapped = recorder.wrap(create)

    def many() -> None:
        for number in range(200):
            wrapped(messages=ask(str(number)), model="m")

    children = [multiprocessing.get_context("fork").Process(target=many) for _ in range(2)]
    for child in children:
        child.start()
    threads = [threading.Thread(target=many) for _ in range(4)]
    for thread in threads:
        thread.start()
    for worker in (*threads, *children):
        worker.join(60)
    assert [child.exitcode for child in children] == [0, 0]
    found = calls_in(path)
    assert len(found) == 1200
    assert len({call.key for call in found}) == 200


def test_write_failure_is_counted_and_logged_once(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    recorder = TraceRecorder(path)
    recorder.close()
    recorder.close()
    wrapped = recorder.wrap(create)
    for _ in range(3):
        assert wrapped(messages="hi", model="m")["role"] == "assistant"
    assert recorder.lost == 3
    assert len(caplog.records) == 1
    assert CANARY not in caplog.text


def test_request_without_a_key_is_counted_as_lost(path: Path) -> None:
    recorder = TraceRecorder(path)
    recorder.wrap(lambda messages: None)(messages=[object()])
    assert (recorder.lost, calls_in(path)) == (1, [])


def test_symlink_is_not_followed(path: Path, tmp_path: Path) -> None:
    path.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OSError, match="symbolic link"):
        TraceRecorder(path)


def test_sdk_calls_are_recorded_with_their_usage(path: Path) -> None:
    openai = pytest.importorskip("openai")
    pytest.importorskip("anthropic")
    from llm_cache_mem.testing.model_server.stand_in import StandInServer

    with StandInServer(delay=0.0) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none") as client:
                wrapped = TraceRecorder(path).wrap(client.chat.completions.create)
                whole = wrapped(messages=ask("one"), model="stand-in")
                streamed = wrapped(
                    messages=ask("one"),
                    model="stand-in",
                    stream=True,
                    stream_options={"include_usage": True},
                )
                assert len(list(streamed)) > 2

            async def asynchronous() -> Any:
                async with openai.AsyncOpenAI(
                    base_url=f"{server.url}/v1", api_key="none"
                ) as client:
                    return await TraceRecorder(path).wrap(client.chat.completions.create)(
                        messages=ask("one"), model="stand-in"
                    )

            asyncio.run(asynchronous())
        finally:
            server.shutdown()
            thread.join()
    found = calls_in(path)
    assert [call.input_tokens for call in found] == [whole.usage.prompt_tokens] * 3
    assert [call.model for call in found] == ["stand-in"] * 3
    assert os.path.getsize(path) < 3000
    assert json.loads(path.read_text().splitlines()[0])["format"] == "llm-cache-mem trace"
