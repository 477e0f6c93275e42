"""Discard an answer that its caller's own validation rejects: the next call goes to the model."""

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from contextvars import ContextVar
from typing import TypeAlias

from llm_cache_mem import LLMCache, Request

__all__ = ["adiscarding", "discarding", "note_answer"]

_Answers: TypeAlias = list[tuple[LLMCache, Request]]

# The answers that the code running here is about to validate.
_answers: ContextVar[_Answers] = ContextVar("llama_index_llm_cache_mem.answers")


def note_answer(cache: LLMCache, *requests: Request) -> None:
    """Note that *cache* has the answer to this call under one of *requests*, for the validation
    around it."""
    answers = _answers.get(None)
    if answers is not None:
        answers.extend((cache, request) for request in requests)


@contextmanager
def discarding() -> Iterator[None]:
    """Discard the answers of calls made inside if it ends with a ValueError, which is what parsers
    and pydantic raise."""
    answers: _Answers = []
    token = _answers.set(answers)
    try:
        yield
    except ValueError:
        for cache, request in answers:
            cache.engine.reject(request)
        raise
    finally:
        _answers.reset(token)


@asynccontextmanager
async def adiscarding() -> AsyncIterator[None]:
    """``discarding``, in a thread where the store would block the event loop."""
    answers: _Answers = []
    token = _answers.set(answers)
    try:
        yield
    except ValueError:
        for cache, request in answers:
            await cache.engine.areject(request)
        raise
    finally:
        _answers.reset(token)
