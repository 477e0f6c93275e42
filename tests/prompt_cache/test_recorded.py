"""The tracker on every recorded exchange with a real provider; no text of a recording is ever
printed."""

import json
from pathlib import Path
from typing import Any

import pytest

from llm_cache_mem.prompt_cache import PromptCacheTracker
from llm_cache_mem.prompt_cache.fingerprint import fingerprint

CACHED = (
    "cached_tokens",
    "cache_read_input_tokens",
    "cachedContentTokenCount",
    "cacheReadInputTokens",
    "prompt_cache_hit_tokens",
    "num_cached_tokens",
)


@pytest.fixture(scope="module")
def exchanges(shared_data: Path) -> list[tuple[dict[str, Any], Any, int]]:
    """Requests and answers that are JSON or events, with the cached tokens that a reading of its
    own finds."""
    found = []
    for line in (shared_data / "real_interactions.jsonl").read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        try:
            request, answer = json.loads(row["request"]["body"]), answer_of(row["response"]["body"])
        except (KeyError, ValueError, TypeError):
            continue
        if isinstance(request, dict) and answer:
            found.append((request, answer, max(cached_in(answer), default=0)))
    return found


def answer_of(body: str) -> Any:
    if body.lstrip().startswith(("data:", "event:", ":")):
        data = (line[5:].strip() for line in body.splitlines() if line.startswith("data:"))
        return [json.loads(datum) for datum in data if datum != "[DONE]"]
    return json.loads(body)


def cached_in(value: Any) -> list[int]:
    if isinstance(value, list):
        return [count for item in value for count in cached_in(item)]
    if (
        not isinstance(value, dict) or "billed_units" in value
    ):  # Cohere's cached tokens are no part of those that it bills
        return []
    here = [item for key, item in value.items() if key in CACHED and isinstance(item, int)]
    return here + [count for item in value.values() for count in cached_in(item)]


def test_cached_tokens_are_read_from_every_recording(exchanges):
    cached = [(request, answer, tokens) for request, answer, tokens in exchanges if tokens > 0]
    assert len(cached) >= 50
    for request, answer, tokens in cached:
        tracker = PromptCacheTracker(prices={})
        tracker.observe(request, answer)
        assert sum(one.read_tokens for one in tracker.stats().prefixes) == tokens


def test_recordings_break_no_tracker_and_no_alert_quotes_them(exchanges, caplog):
    alerts = []
    tracker = PromptCacheTracker(prices={}, on_alert=alerts.append, max_prefixes=10_000)
    for request, answer, _ in exchanges:
        tracker.observe(request, answer)
    stats = tracker.stats()
    assert stats.calls > 300
    assert "could not be taken in" not in caplog.text
    assert sum(one.read_tokens for one in stats.prefixes) == sum(
        tokens for _, _, tokens in exchanges
    )
    for alert in alerts:
        assert alert.path is None or len(alert.path) < 200


def test_the_parts_of_recorded_requests_are_named_apart(exchanges):
    for request, _, _ in exchanges:
        paths = [part.path for part in fingerprint(request).parts]
        assert len(paths) == len(set(paths))


def test_a_recorded_prefix_depends_on_its_system_prompt(
    exchanges,
):
    for request, _, _ in exchanges:
        shape = fingerprint(request)
        assert fingerprint(json.loads(json.dumps(request))).digest == shape.digest
        if isinstance(request.get("system"), str):
            other = fingerprint({**request, "system": request["system"] + "!"})
            assert other.digest != shape.digest
            assert (other.first_difference(shape) or "").startswith("system[0].text")
