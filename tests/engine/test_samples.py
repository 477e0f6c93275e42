"""Identical calls at once are one call: a warning where several samples were probably meant."""

import asyncio
import logging
from typing import Any

import pytest

from llm_cache_mem import LLMCache, options
from llm_cache_mem.engine.samples import temperature_of


async def gather(cache: LLMCache, **params: Any) -> None:
    async def create(messages: Any, **params: Any) -> dict[str, Any]:
        await asyncio.sleep(0)
        return {"content": "Paris."}

    await asyncio.gather(*(cache.aget_or_call("hi", create, **params) for _ in range(5)))


async def test_samples_drawn_at_once_warn_once(caplog: pytest.LogCaptureFixture) -> None:
    cache = LLMCache()
    with caplog.at_level(logging.WARNING):
        await gather(cache, temperature=1)
        await gather(cache, temperature=0.7)
    (record,) = caplog.records
    assert "options(samples=number)" in record.getMessage()
    assert 'mode="refresh"' in record.getMessage()


@pytest.mark.parametrize("params", [{"temperature": 0}, {}])
async def test_calls_that_draw_no_samples_do_not(
    params: Any, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        await gather(LLMCache(), **params)
        with options(sample=1):
            await gather(LLMCache(), temperature=1)
    assert not caplog.records


@pytest.mark.parametrize(
    ("params", "found"),
    [
        ({"temperature": 0.5}, 0.5),
        ({"generationConfig": {"temperature": 1}}, 1.0),
        ({"inferenceConfig": {"temperature": 0}}, 0.0),
        ({"options": {"temperature": 2}}, 2.0),
        ({"options": [1]}, None),
        ({"temperature": "hot"}, None),
    ],
)
def test_every_protocols_temperature_is_found(params: Any, found: float | None) -> None:
    assert temperature_of(params) == found
