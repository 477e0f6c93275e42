"""What the LlamaIndex tests share: models that follow a script and count their calls, and listeners
that write down what they hear."""

import asyncio
from collections.abc import Callable, Iterator
from functools import cached_property
from typing import Any

import pytest

pytest.importorskip("llama_index.core", reason="needs llama-index-core")

from llama_index.core.base.llms.types import (
    ChatMessage,
    ChatResponse,
    CompletionResponse,
    LLMMetadata,
)
from llama_index.core.bridge.pydantic import Field
from llama_index.core.llms import CustomLLM
from llama_index.core.llms.callbacks import llm_completion_callback
from llama_index_llm_cache_mem import set_llm_cache

from llm_cache_mem import LLMCache


class Parrot(CustomLLM):
    """Says what it is asked, in pieces; counts the times it was really called."""

    model: str = "parrot-1"
    temperature: float = 0.5
    system_prompt: str | None = None
    fail: Any = Field(default=None, exclude=True)

    @cached_property  # which is no setting
    def calls(self) -> list[str]:
        return []

    @property
    def metadata(self) -> LLMMetadata:
        return LLMMetadata(model_name=self.model)

    def _ask(self, prompt: str) -> str:
        self.calls.append(prompt)
        if self.fail is not None:
            raise self.fail
        return f"{self.model}/{self.temperature}: {prompt}"

    @llm_completion_callback()
    def complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponse:
        text = self._ask(prompt)
        usage = {"prompt_tokens": 3, "completion_tokens": 5, "total_tokens": 8}
        return CompletionResponse(
            text=text, raw={"model": self.model, "usage": usage}, additional_kwargs=dict(usage)
        )

    @llm_completion_callback()
    def stream_complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> Any:
        text = self._ask(prompt)

        def pieces() -> Iterator[CompletionResponse]:
            said = ""
            for word in text.split(" "):
                delta = word if not said else f" {word}"
                said += delta
                yield CompletionResponse(text=said, delta=delta)

        return pieces()

    @classmethod
    def class_name(cls) -> str:
        return "parrot"


@pytest.fixture
def parrot() -> Parrot:
    return Parrot()


@pytest.fixture
def make_parrot() -> type[Parrot]:
    return Parrot


@pytest.fixture
def cache() -> LLMCache:
    return LLMCache()


@pytest.fixture
def ask() -> Callable[..., Any]:
    """Call any of the eight leaves on text; of a stream all chunks, of a coroutine its result."""
    return _ask


def _ask(llm: Any, leaf: str, text: str = "one two", **kwargs: Any) -> Any:
    method = getattr(llm, leaf)
    subject = [ChatMessage(role="user", content=text)] if leaf.endswith("chat") else text
    if not leaf.startswith("a"):
        answer = method(subject, **kwargs)
        return list(answer) if "stream" in leaf else answer

    async def run() -> Any:
        answer = await method(subject, **kwargs)
        return [chunk async for chunk in answer] if "stream" in leaf else answer

    return asyncio.run(run())


@pytest.fixture
def said() -> Callable[[Any], str]:
    """The text of an answer, or what the deltas of a stream add up to."""
    return _said


def _said(answer: Any) -> str:
    if isinstance(answer, list):
        return "".join(chunk.delta or "" for chunk in answer)
    return str(answer.message.content if isinstance(answer, ChatResponse) else answer.text)


@pytest.fixture
def current_loop() -> Iterator[None]:
    """LlamaIndex's asyncio_run takes the thread's event loop, and where there is none leaves one
    open that nobody closes."""
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    yield
    asyncio.set_event_loop(None)
    loop.close()


@pytest.fixture(autouse=True)
def _no_cache_left_on() -> Iterator[None]:
    yield
    set_llm_cache(None)
