"""A store to look into."""

import time
from pathlib import Path

import pytest
from cli_helpers import DAY, PROMPT, answer, chunks

from llm_cache_mem import LLMCache, options


@pytest.fixture
def path(tmp_path: Path) -> str:
    """Four entries: two in the default namespace, one of them expired; a sample of it; one of acme,
    a stream."""
    name = str(tmp_path / "cache.db")
    at = time.time() - 3 * DAY
    prices = {"gpt-5-mini": (1.0, 10.0)}
    with LLMCache(backend=name, ttl_seconds=DAY, clock=lambda: at, prices=prices) as old:
        old.get_or_call(PROMPT, answer, model="gpt-5-mini")
    with LLMCache(backend=name, ttl_seconds=None, prices=prices) as cache:
        cache.get_or_call(PROMPT, answer, model="claude")
        with options(sample=1):
            cache.get_or_call(PROMPT, answer, model="claude")
        with options(namespace="acme"):
            list(cache.get_or_call(PROMPT, chunks, model="gpt-5-mini", stream=True))
    return name
