"""Answers that an SDK's ``parse`` rejects are discarded."""

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anthropic
import openai
import pytest
from http_server import Asked, Provider, Reply
from pydantic import BaseModel, field_validator

from llm_cache_mem import LLMCache
from llm_cache_mem.http import cache_client

ASKED: Any = [{"role": "user", "content": "how much?"}]


class Invoice(BaseModel):
    """An invoice."""

    total: int

    @field_validator("total")
    @classmethod
    def _is_positive(cls, total: int) -> int:
        if total < 0:
            raise ValueError("negative")
        return total


def body(path: str, text: str) -> dict[str, Any]:
    if "messages" in path:
        return {
            **{"id": "1", "type": "message", "role": "assistant", "model": "m"},
            **{"content": [{"type": "text", "text": text}], "stop_reason": "end_turn"},
            **{"stop_sequence": None, "usage": {"input_tokens": 7, "output_tokens": 2}},
        }
    if "responses" in path:
        content = [{"type": "output_text", "text": text, "annotations": []}]
        item = {"type": "message", "id": "i", "role": "assistant", "status": "completed"}
        return {
            **{"id": "1", "object": "response", "created_at": 1, "model": "m"},
            **{"status": "completed", "output": [{**item, "content": content}]},
            **{"parallel_tool_calls": True, "tool_choice": "auto", "tools": []},
        }
    message = {"role": "assistant", "content": text}
    choice = {"index": 0, "finish_reason": "stop", "message": message}
    return {
        **{"id": "1", "object": "chat.completion", "created": 1, "model": "m"},
        **{"choices": [choice], "usage": {"prompt_tokens": 7, "completion_tokens": 2}},
    }


@pytest.fixture(autouse=True)
def _answers_badly_at_first(server: Provider) -> None:
    def answer(asked: Asked) -> Reply:
        total = -3 if server.calls <= 1 else 3
        return Reply(json.dumps(body(asked.path, f'{{"total": {total}}}')).encode())

    server.answer = answer


def chat(client: Any) -> Any:
    return client.chat.completions.parse(model="m", messages=ASKED, response_format=Invoice)


def respond(client: Any) -> Any:
    return client.responses.parse(model="m", input=ASKED, text_format=Invoice)


def message(client: Any) -> Any:
    return client.messages.parse(model="m", messages=ASKED, max_tokens=9, output_format=Invoice)


WAYS: list[Any] = [
    pytest.param(openai.OpenAI, openai.AsyncOpenAI, chat, id="chat"),
    pytest.param(openai.OpenAI, openai.AsyncOpenAI, respond, id="responses"),
    pytest.param(anthropic.Anthropic, anthropic.AsyncAnthropic, message, id="messages"),
]


@pytest.fixture(params=["memory", "sqlite"])
def cache(request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    with LLMCache(backend="memory" if request.param == "memory" else tmp_path / "c.db") as cache:
        yield cache


def url(server: Provider, kind: Any) -> str:
    return server.url if kind.__module__.startswith("anthropic") else f"{server.url}/v1"


@pytest.mark.parametrize(("kind", "_kind", "ask"), WAYS)
def test_rejected_answer_is_discarded(
    server: Provider, cache: LLMCache, kind: Any, _kind: Any, ask: Callable[[Any], Any]
) -> None:
    with kind(api_key="k", base_url=url(server, kind)) as original:
        client = cache_client(original, cache).with_options(timeout=9)
        with pytest.raises(ValueError, match="negative"):
            ask(client)
        assert cache.stats().skipped == {"rejected": 1}
        for _ in range(3):
            assert "total=3" in repr(ask(client))
    assert server.calls == 2


@pytest.mark.parametrize(("_kind", "kind", "ask"), WAYS)
def test_rejected_answer_is_discarded_async(
    server: Provider, cache: LLMCache, _kind: Any, kind: Any, ask: Callable[[Any], Any]
) -> None:
    async def run() -> None:
        async with kind(api_key="k", base_url=url(server, kind)) as original:
            client = cache_client(original, cache)
            with pytest.raises(ValueError, match="negative"):
                await ask(client)
            for _ in range(3):
                assert "total=3" in repr(await ask(client))

    asyncio.run(run())
    assert cache.stats().skipped == {"rejected": 1}
    assert server.calls == 2
