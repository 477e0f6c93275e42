"""Raise the cache's own errors through an SDK that retries whatever its transport raises."""

from typing import Any

from llm_cache_mem.errors import LLMCacheError
from llm_cache_mem.http.library import HttpLibrary

__all__ = ["raise_through"]

# A header of the SDKs that one generator wrote: OpenAI's, Anthropic's, Groq's and others.
_RETRIES_ALL = "x-stainless-lang"


def raise_through(library: HttpLibrary, http_request: Any, error: LLMCacheError) -> Any:
    """Raise *error*, or return a response that raises it when the SDK asks whether it succeeded.

    Some SDKs take every exception of a transport for a lost connection, try again, and raise an
    error of their own in the end.
    """
    if _RETRIES_ALL not in http_request.headers:
        raise error

    # which of the two libraries is known only here
    class Failure(library.module.Response):  # type: ignore[misc, name-defined]
        @property
        def is_success(self) -> bool:
            raise error

        @property
        def is_error(self) -> bool:
            raise error

        def raise_for_status(self) -> Any:
            raise error

    return Failure(504, headers={"x-should-retry": "false"}, content=b"")
