"""Unknown keyword arguments: the error names the one that was probably meant."""

import inspect
from typing import Any

import pytest
from langchain_llm_cache_mem import LLMCacheMem

from llm_cache_mem import LLMCache, options


@pytest.mark.parametrize(
    ("make", "wrong", "meant"),
    [
        (LLMCache, "tl", "ttl_seconds"),
        (LLMCache, "ttl", "ttl_seconds"),
        (LLMCache, "backnd", "backend"),
        (LLMCache, "path", "backend"),
        (LLMCacheMem, "max_sice", "max_size"),
        (options, "ttl", "ttl_seconds"),
        (options, "dependson", "depends_on"),
    ],
)
def test_the_nearest_argument_is_named(make: Any, wrong: str, meant: str) -> None:
    with pytest.raises(TypeError, match=f"'{wrong}': did you mean {meant}\\?$"):
        make(**{wrong: 3})


def test_nothing_is_proposed_that_is_not_near() -> None:
    with pytest.raises(TypeError, match=r"unexpected keyword argument 'zzz'$"):
        LLMCache(zzz=1)  # type: ignore[call-arg]


@pytest.mark.parametrize("callee", [LLMCache, LLMCache.cached, options, LLMCacheMem])
def test_signatures_show_defaults_that_read(callee: Any) -> None:
    text = str(inspect.signature(callee)).lower()
    assert "unset" not in text
    assert "not given" not in text
