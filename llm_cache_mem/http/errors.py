"""How an error of the cache's own reaches the caller through an SDK that retries whatever its
transport raises."""

from typing import Any

from llm_cache_mem.errors import LLMCacheError
from llm_cache_mem.http.library import HttpLibrary

__all__ = ["refuse"]

# what SDKs of that generator send: those of OpenAI, Anthropic, Groq and others
_RETRIES_ALL = "x-stainless-lang"


def refuse(library: HttpLibrary, request: Any, error: LLMCacheError) -> Any:
    """Raise *error*, or return a response that raises it as soon as the SDK asks whether it
    succeeded.

    Some SDKs take every exception of a transport for a lost connection, try again, and raise an
    error of their own in the end.
    """
    if _RETRIES_ALL not in request.headers:
        raise error

    # which of two, is known when it runs
    class Refusal(library.module.Response):  # type: ignore[misc, name-defined]
        @property
        def is_success(self) -> bool:
            raise error

        @property
        def is_error(self) -> bool:
            raise error

        def raise_for_status(self) -> Any:
            raise error

    return Refusal(504, headers={"x-should-retry": "false"}, content=b"")
