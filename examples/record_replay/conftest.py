"""The desks of the tests: real SDKs, whose calls are answered from the recordings."""

import os
from collections.abc import AsyncIterator, Iterator
from typing import Any

import openai
import pytest
from triage import Desk

from llm_cache_mem.http import cache_client

MODEL = os.environ.get("MODEL", "smollm2-135m-instruct")
URL = os.environ.get("MODEL_URL", "http://127.0.0.1:9")  # nobody answers there, and nobody needs to
KEY = os.environ.get("MODEL_KEY", "none")


@pytest.fixture
def desk(llm_cache: Any) -> Iterator[Desk]:
    with openai.OpenAI(base_url=f"{URL}/v1", api_key=KEY) as client:
        yield Desk(cache_client(client, llm_cache), MODEL)


@pytest.fixture
async def async_desk(llm_cache: Any) -> AsyncIterator[Desk]:
    async with openai.AsyncOpenAI(base_url=f"{URL}/v1", api_key=KEY) as client:
        yield Desk(cache_client(client, llm_cache), MODEL)
