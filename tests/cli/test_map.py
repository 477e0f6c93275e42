"""``llm-cache-mem map``: a file of requests through a real SDK, answered into a file."""

import json
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cli_helpers import fails, run
from http_server import Asked, Provider, Reply, provider

from llm_cache_mem import LLMCache

ANSWERS: dict[str, dict[str, Any]] = {
    "openai": {
        "id": "c1",
        "object": "chat.completion",
        "created": 1,
        "model": "gpt-4.1-mini",
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": "42"},
                "finish_reason": "stop",
            }
        ],
        "usage": {"prompt_tokens": 3, "completion_tokens": 1, "total_tokens": 4},
    },
    "anthropic": {
        "id": "m1",
        "type": "message",
        "role": "assistant",
        "model": "claude-sonnet-4-5",
        "content": [{"type": "text", "text": "42"}],
        "stop_reason": "end_turn",
        "stop_sequence": None,
        "usage": {"input_tokens": 3, "output_tokens": 1},
    },
}


def line(text: str, **params: Any) -> str:
    messages = [{"role": "user", "content": text}]
    return json.dumps({"messages": messages, "model": "m", "max_tokens": 9, **params})


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Provider]:
    monkeypatch.chdir(tmp_path)
    for sdk in ("openai", "anthropic"):
        pytest.importorskip(sdk)
        monkeypatch.setenv(f"{sdk.upper()}_API_KEY", "sk-test")

    def reply(asked: Asked) -> Reply:
        if "bad" in asked.body["messages"][0]["content"]:
            error = {
                "error": {
                    "type": "invalid",
                    "message": "no such thing as sk-live-0123456789abcdefghij",
                }
            }
            return Reply(json.dumps(error).encode(), status=400)
        return Reply(
            json.dumps(ANSWERS["openai" if "chat" in asked.path else "anthropic"]).encode()
        )

    with provider() as found:
        found.answer = reply
        monkeypatch.setenv("OPENAI_BASE_URL", found.url)
        monkeypatch.setenv("ANTHROPIC_BASE_URL", found.url)
        yield found


def answers(name: str = "out.jsonl") -> list[Any]:
    return [json.loads(text) for text in Path(name).read_text().splitlines()]


@pytest.mark.parametrize("sdk", ["openai", "anthropic"])
def test_each_request_is_answered_once_and_a_rerun_hits(server: Provider, sdk: str) -> None:
    Path("in.jsonl").write_text("\n".join([line("a"), "", line("b"), line("a")]))
    ran = run("map", "in.jsonl", "--out", "out.jsonl", "--sdk", sdk)
    assert "3 requests: 1 hit, 2 calls for $" in ran.stderr
    assert [found["line"] for found in answers()] == [1, 3, 4]
    assert [found["answer"] for found in answers()] == [ANSWERS[sdk]] * 3
    assert stat.S_IMODE(Path("out.jsonl").stat().st_mode) == 0o600
    again = run("map", "in.jsonl", "--out", "out.jsonl", "--sdk", sdk, "--json")
    assert json.loads(again.stdout)["hits"] == 3
    assert [found["answer"] for found in answers()] == [ANSWERS[sdk]] * 3
    assert server.calls == 2


def test_an_unknown_price_is_not_zero_dollars(
    server: Provider, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(ANSWERS["openai"], "model", "m")
    Path("in.jsonl").write_text(line("a"))
    assert "1 call for —" in run("map", "in.jsonl", "--out", "o.jsonl", "--sdk", "openai").stderr


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("{", "not JSON"),
        ("[]", "not a JSON object"),
        ('{"model": "m"}', '"messages" is missing'),
        (line("a", stream=True), '"stream"'),
    ],
)
def test_a_bad_line_is_named_before_any_call(server: Provider, text: str, says: str) -> None:
    Path("in.jsonl").write_text(f"{line('a')}\n{text}\n")
    told = fails("map", "in.jsonl", "--out", "out.jsonl", "--sdk", "openai")
    assert "in.jsonl: line 2" in told
    assert says in told
    assert server.calls == 0


def test_skip_writes_errors_in_their_places(server: Provider) -> None:
    Path("in.jsonl").write_text("\n".join(["{", line("bad"), line("a"), "["]))
    told = run(
        "map", "in.jsonl", "--out", "out.jsonl", "--sdk", "openai", "--on-error", "skip", status=1
    )
    found = answers()
    assert [one["line"] for one in found] == [1, 2, 3, 4]
    assert [one.get("error", {}).get("type") for one in found] == [
        "BadInput",
        "BadRequestError",
        None,
        "BadInput",
    ]
    assert "sk-live" not in found[1]["error"]["message"]
    assert "3 errors" in told.stderr


def test_a_failed_call_stops_and_quotes_nothing(server: Provider) -> None:
    Path("in.jsonl").write_text("\n".join([line("a"), line("bad")]))
    told = fails("map", "in.jsonl", "--out", "out.jsonl", "--sdk", "openai")
    assert "in.jsonl: line 2: BadRequestError (HTTP 400)" in told
    assert "no such thing" not in told
    assert [one["line"] for one in answers()] == [1]


def test_a_wrong_argument_is_named(server: Provider) -> None:
    Path("in.jsonl").write_text(line("a", modle="m"))
    told = fails("map", "in.jsonl", "--out", "out.jsonl", "--sdk", "openai")
    assert "TypeError" in told
    assert "unexpected keyword argument 'modle'" in told


def test_a_stopped_run_leaves_the_answers_of_an_earlier_one(server: Provider) -> None:
    Path("in.jsonl").write_text("\n".join([line("a"), line("b")]))
    run("map", "in.jsonl", "--out", "out.jsonl", "--sdk", "openai")
    Path("in.jsonl").write_text("\n".join([line("a"), line("bad"), line("b")]))
    fails("map", "in.jsonl", "--out", "out.jsonl", "--sdk", "openai")
    assert [one["line"] for one in answers()] == [1, 2]
    assert sorted(path.suffix for path in Path().iterdir() if "out" in path.name) == [".jsonl"]


def test_an_interrupted_run_says_how_to_resume(
    server: Provider, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(self: LLMCache, *args: Any, **kwargs: Any) -> Iterator[Any]:
        yield next(answered(self, *args, **kwargs))
        raise KeyboardInterrupt

    answered: Any = LLMCache.map
    monkeypatch.setattr(LLMCache, "map", interrupted)
    Path("in.jsonl").write_text("\n".join([line("a"), line("b")]))
    told = fails("map", "in.jsonl", "--out", "out.jsonl", "--sdk", "openai", status=130)
    assert "stopped after 1 call; run the same command again to resume" in told
    assert [one["line"] for one in answers()] == [1]


def test_another_file_is_not_written_over(server: Provider) -> None:
    Path("in.jsonl").write_text(line("a"))
    Path("notes.txt").write_text("mine")
    told = fails("map", "in.jsonl", "--out", "notes.txt", "--sdk", "openai")
    assert "--force" in told
    assert Path("notes.txt").read_text() == "mine"
    told = fails("map", "in.jsonl", "--out", "in.jsonl", "--sdk", "openai", "--force", status=2)
    assert "file of requests" in told


def test_a_missing_key_is_told(server: Provider, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY")
    Path("in.jsonl").write_text(line("a"))
    told = fails("map", "in.jsonl", "--out", "o.jsonl", "--sdk", "openai", status=2)
    assert "OPENAI_API_KEY" in told


def test_requests_come_from_stdin_too(server: Provider) -> None:
    run("map", "-", "--out", "out.jsonl", "--sdk", "openai", stdin=line("a") + "\n")
    assert answers()[0]["answer"]["choices"][0]["message"]["content"] == "42"
