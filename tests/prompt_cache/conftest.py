"""Real SDK clients against a loopback provider that keeps a prompt cache by the documented
rules."""

from collections.abc import AsyncIterator, Iterator

import anthropic
import openai
import pytest
from conftest import Clock
from prompt_cache_server import PromptCacheServer


@pytest.fixture
def server(clock: Clock) -> Iterator[PromptCacheServer]:
    with PromptCacheServer(clock) as running:
        yield running


@pytest.fixture
def claude(server: PromptCacheServer) -> Iterator[anthropic.Anthropic]:
    with anthropic.Anthropic(api_key="none", base_url=server.url, max_retries=0) as client:
        yield client


@pytest.fixture
async def async_claude(server: PromptCacheServer) -> AsyncIterator[anthropic.AsyncAnthropic]:
    async with anthropic.AsyncAnthropic(
        api_key="none", base_url=server.url, max_retries=0
    ) as client:
        yield client


@pytest.fixture
def gpt(server: PromptCacheServer) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(api_key="none", base_url=f"{server.url}/v1", max_retries=0) as client:
        yield client


@pytest.fixture
async def async_gpt(server: PromptCacheServer) -> AsyncIterator[openai.AsyncOpenAI]:
    async with openai.AsyncOpenAI(
        api_key="none", base_url=f"{server.url}/v1", max_retries=0
    ) as client:
        yield client
