"""keep_requests: the request is stored beside its answer, as it was when it was made, without
secrets, and only when asked for."""

import json
from pathlib import Path
from typing import Any

import pytest

from llm_cache_mem import LLMCache, last_turn
from llm_cache_mem.stores import MemoryStore

MESSAGES = [{"role": "user", "content": "Who wrote Air?"}]


def kept(cache: LLMCache) -> list[Any]:
    return [
        None if entry.request is None else json.loads(entry.request)
        for _, entry in cache.engine.entries()
    ]


def test_off_nothing_of_a_request_is_stored(tmp_path: Path) -> None:
    cache = LLMCache(backend=tmp_path / "cache.db")
    cache.put([{"role": "user", "content": "CANARY"}], "answer", model="m")
    assert kept(cache) == [None]
    cache.close()
    assert not any(b"CANARY" in file.read_bytes() for file in tmp_path.iterdir())


@pytest.mark.parametrize("backend", ["memory", "cache.db", "recordings.jsonl"])
def test_on_the_request_is_there_after_a_restart(tmp_path: Path, backend: str) -> None:
    where = backend if backend == "memory" else tmp_path / backend
    cache = LLMCache(backend=where, keep_requests=True)
    cache.get_or_call(
        MESSAGES, lambda **request: "Bach", model="m", temperature=0.5, api_key="CANARY", timeout=3
    )
    if backend != "memory":
        cache.close()
        cache = LLMCache(backend=where)
    assert kept(cache) == [{"messages": MESSAGES, "model": "m", "temperature": 0.5}]
    assert cache.get(MESSAGES, model="m", temperature=0.5) == "Bach"
    cache.close()


def test_secrets_and_named_fields_are_redacted(tmp_path: Path) -> None:
    cache = LLMCache(backend=tmp_path / "cache.db", keep_requests=True, redact=["user"])
    secret = "sk-proj-Zq81kPjV3mXw7TbN2cYe"
    cache.put(
        [{"role": "user", "content": f"key {secret}"}],
        "a",
        user="CANARY",
        extra_headers={"Authorization": "CANARY"},
    )
    assert kept(cache) == [
        {
            "extra_headers": {"Authorization": "[redacted]"},
            "messages": [{"content": "key [redacted]", "role": "user"}],
            "user": "[redacted]",
        }
    ]
    cache.close()
    data = b"".join(file.read_bytes() for file in tmp_path.iterdir())
    assert b"CANARY" not in data
    assert secret.encode() not in data


def test_it_is_the_request_as_it_was_made_whatever_became_of_it() -> None:
    cache = LLMCache(keep_requests=True)
    messages = list(MESSAGES)

    def create(messages: list[Any], **params: Any) -> Any:
        messages.append({"role": "assistant", "content": "Bach"})
        return "Bach"

    cache.get_or_call(messages, create, model="m")
    assert kept(cache) == [{"messages": MESSAGES, "model": "m"}]


def test_of_a_stream_too() -> None:
    cache = LLMCache(keep_requests=True)
    list(cache.get_or_call(MESSAGES, lambda **request: iter(["a", "b"]), stream=True))
    assert kept(cache) == [{"messages": MESSAGES, "stream": True}]


async def test_of_an_async_call_too() -> None:
    cache = LLMCache(keep_requests=True)

    async def create(**request: Any) -> str:
        return "Bach"

    await cache.aget_or_call(MESSAGES, create, model="m")
    assert kept(cache) == [{"messages": MESSAGES, "model": "m"}]


def test_a_key_function_changes_only_the_key() -> None:
    cache = LLMCache(keep_requests=True, key_fn=last_turn)
    cache.put([{"role": "user", "content": "Hi"}, *MESSAGES], "Bach")
    assert len(kept(cache)[0]["messages"]) == 2


def test_non_json_values_are_stored_in_their_key_form() -> None:
    cache = LLMCache(keep_requests=True)
    cache.put(MESSAGES, "a", image=b"\xff\0")
    (request,) = kept(cache)
    assert request["messages"] == MESSAGES
    assert set(request["image"]) == {"$llm_cache_mem"}


def test_keys_do_not_depend_on_stored_requests() -> None:
    store = MemoryStore()
    LLMCache(backend=store, keep_requests=True).put(
        MESSAGES, "Bach", model="m", extra_headers={"api-key": "x"}
    )
    assert (
        LLMCache(backend=store).get(MESSAGES, model="m", extra_headers={"api-key": "x"}) == "Bach"
    )
