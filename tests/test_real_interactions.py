"""Real provider exchanges through the cache: every answer comes back equal, and no two different
requests share a key."""

import contextlib
import json
from pathlib import Path
from typing import Any

import pytest

from llm_cache_mem import LLMCache
from llm_cache_mem.responses.usage import read_usage


@pytest.fixture(scope="module")
def exchanges(shared_data: Path) -> list[tuple[Any, dict[str, Any], int, Any]]:
    """(messages, params, status, answer) of every recorded exchange whose request is a JSON object;
    streams as their text."""
    found = []
    for line in (shared_data / "real_interactions.jsonl").read_text().splitlines():
        row = json.loads(line)
        body = row["request"].get("body")
        if not body:
            continue
        asked = json.loads(body) if isinstance(body, str) else body
        if not isinstance(asked, dict):
            continue
        messages = next(
            (
                asked.pop(name)
                for name in ("messages", "input", "contents", "prompt")
                if name in asked
            ),
            None,
        )
        params = {**asked, "url": row["request"]["url"]}
        answer = row["response"].get("body") or row["response"].get("body_b64")
        with contextlib.suppress(ValueError):  # a stream stays text
            answer = json.loads(answer) if isinstance(answer, str) else answer
        found.append((messages, params, row["response"]["status"], answer))
    assert len(found) > 450
    return found


@pytest.mark.parametrize("backend", ["memory", "sqlite"])
def test_every_answer_comes_back_equal(exchanges, backend, tmp_path):
    where: Any = "memory" if backend == "memory" else tmp_path / "c.db"
    cache = LLMCache(max_size=None, backend=where)
    for number, (messages, params, status, answer) in enumerate(exchanges):
        if status == 200:
            cache.put(messages, answer, number=number, **params)
    if backend == "sqlite":
        cache.close()
        cache = LLMCache(max_size=None, backend=where)
    for number, (messages, params, status, answer) in enumerate(exchanges):
        if status == 200:
            again = json.loads(json.dumps([messages, params]))
            assert cache.get(again[0], number=number, **again[1]) == answer
    assert cache.stats().misses == 0
    cache.close()


def test_equal_keys_mean_equal_json(exchanges):
    cache = LLMCache()
    by_key: dict[str, str] = {}
    by_json: dict[str, str] = {}
    for messages, params, _, _ in exchanges:
        key = cache.key(messages, **params)
        text = json.dumps([messages, params], sort_keys=True)
        assert by_key.setdefault(key, text) == text
        assert by_json.setdefault(text, key) == key
    assert (
        len(by_key) == len(by_json) < len(exchanges)
    )  # some requests were recorded twice on purpose


def test_each_request_is_paid_once_and_only_whole_answers_stored(exchanges):
    cache = LLMCache(max_size=None, prices=lambda model, usage: 0.01)
    paid = 0
    tokens = 0
    for _ in range(2):
        for messages, params, status, answer in exchanges:
            if status != 200 or not isinstance(answer, dict):
                continue

            def call(messages: Any, _answer: Any = answer, **params: Any) -> Any:
                nonlocal paid
                paid += 1
                return _answer

            hits = cache.stats().hits
            got = cache.get_or_call(
                messages,
                call,
                **{name: value for name, value in params.items() if name != "stream"},
            )
            if cache.stats().hits > hits:
                tokens += sum((read_usage(got) or (0, 0))[:2])
    stats = cache.stats()
    assert stats.hits + stats.misses == stats.hits + paid
    assert stats.stored == stats.size == paid - sum(stats.skipped.values())
    assert stats.tokens_saved == tokens
    assert stats.hits > 200
    assert stats.skipped["truncated"] > 20
