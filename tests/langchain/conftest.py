"""What the LangChain tests share: a counting model, caches over memory and SQLite, and the global
cache put back."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from langchain_core.globals import set_llm_cache
from langchain_llm_cache_mem import LLMCacheMem


@pytest.fixture(autouse=True)
def _no_global_cache() -> Iterator[None]:
    set_llm_cache(None)
    yield
    set_llm_cache(None)


@pytest.fixture(params=["memory", "sqlite"])
def make_cache(
    request: pytest.FixtureRequest, tmp_path: Path
) -> Iterator[Callable[..., LLMCacheMem]]:
    """Makes caches over each kind of store; called twice, over one that is the same."""
    made: list[LLMCacheMem] = []

    def make(**arguments: object) -> LLMCacheMem:
        backend = "memory" if request.param == "memory" else tmp_path / "cache.db"
        made.append(LLMCacheMem(backend=backend, **arguments))
        return made[-1]

    yield make
    for cache in made:
        cache.cache.close()


@pytest.fixture
def cache(make_cache: Callable[..., LLMCacheMem]) -> LLMCacheMem:
    return make_cache()
