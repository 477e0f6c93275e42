"""A run that is killed loses no answer that was stored, and the same line goes on where it was."""

import json
import os
import random
import signal
import subprocess
import sys
from pathlib import Path
from threading import Condition
from typing import Any

import pytest
from http_server import Asked, Provider, Reply, provider
from threads import WAIT_SECONDS

ROOT = Path(__file__).resolve().parents[2]
CONCURRENCY = 8

PROGRAM = """
import http.client, json, sys, threading
from llm_cache_mem import LLMCache

port, path, count = int(sys.argv[1]), sys.argv[2], int(sys.argv[3])
local = threading.local()

def create(*, messages, model):
    if not hasattr(local, "link"):
        local.link = http.client.HTTPConnection("127.0.0.1", port)
    body = json.dumps({"messages": messages, "model": model})
    local.link.request("POST", "/v1/chat/completions", body)
    return json.loads(local.link.getresponse().read())

requests = (
    {"messages": [{"role": "user", "content": f"question {n % (count * 7 // 10)}"}], "model": "m"}
    for n in range(count)
)
hits = 0
with LLMCache(backend=path, max_size=None, ttl_seconds=None) as cache:
    for result in cache.map(create, requests):
        hits += result.hit
print(hits)
"""


class Counting:
    """A provider that counts how often each question reached it, and wakes up who waits for a
    number of calls."""

    def __init__(self, server: Provider) -> None:
        self.calls: list[str] = []
        self._changed = Condition()
        server.answer = self._answer
        self.server = server

    def _answer(self, asked: Asked) -> Reply:
        with self._changed:
            self.calls.append(asked.body["messages"][0]["content"])
            self._changed.notify_all()
        self.server.asked.clear()
        answer: dict[str, Any] = {
            "choices": [{"message": {"content": "answer"}, "finish_reason": "stop"}]
        }
        return Reply(json.dumps(answer).encode())

    def wait_for(self, calls: int) -> None:
        with self._changed:
            assert self._changed.wait_for(lambda: len(self.calls) >= calls, WAIT_SECONDS)


def started(server: Provider, path: Path, count: int) -> "subprocess.Popen[str]":
    port = server.url.rpartition(":")[2]
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM, port, str(path), str(count)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )


@pytest.mark.parametrize(
    ("count", "kills"), [(600, 2), pytest.param(100_000, 10, marks=pytest.mark.slow)]
)
def test_kills_cost_at_most_the_calls_in_progress(tmp_path: Path, count: int, kills: int) -> None:
    seed = random.randrange(2**32)
    print("seed", seed)
    unique = count * 7 // 10
    moments = sorted(random.Random(seed).sample(range(1, unique), kills))
    with provider() as server:
        counting = Counting(server)
        for moment in moments:
            process = started(server, tmp_path / "cache.db", count)
            counting.wait_for(moment)
            process.kill()
            process.communicate()
        process = started(server, tmp_path / "cache.db", count)
        out, _ = process.communicate(timeout=3600)
        assert process.returncode == 0
        calls = len(counting.calls)
        assert set(counting.calls) == {f"question {number}" for number in range(unique)}
        assert calls <= unique + CONCURRENCY * kills
        print("calls", calls, "of", unique)
        again = started(server, tmp_path / "cache.db", count)
        out, _ = again.communicate(timeout=3600)
        assert int(out) == count
        assert len(counting.calls) == calls


def test_ctrl_c_loses_no_call_in_progress(tmp_path: Path) -> None:
    with provider() as server:
        counting = Counting(server)
        process = started(server, tmp_path / "cache.db", 200)
        counting.wait_for(20)
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=WAIT_SECONDS)
        assert process.returncode != 0
        started(server, tmp_path / "cache.db", 200).communicate(timeout=WAIT_SECONDS)
        assert sorted(counting.calls) == sorted({f"question {number}" for number in range(140)})


@pytest.mark.slow
def test_a_run_without_a_kill_calls_each_request_once(tmp_path: Path) -> None:
    with provider() as server:
        counting = Counting(server)
        started(server, tmp_path / "cache.db", 100_000).communicate(timeout=3600)
        assert len(counting.calls) == len(set(counting.calls)) == 70_000
