"""The endpoint that the notebooks call: the provider whose API key is set, else a model on this
machine."""

import os
from collections.abc import Mapping
from typing import Any, Self

from llm_cache_mem.testing.model_server.launch import (
    INSTALL_HINT,
    WHICH,
    ModelServer,
    start_server,
)

__all__ = ["MODELS", "VARIABLE", "Endpoint"]

VARIABLE = "LLM_CACHE_MEM_DEMO"
"""The environment variable that chooses the local model: auto (the small real one, if it is
installed), model or stand-in."""

MODELS = {"openai": "gpt-4.1-mini", "anthropic": "claude-haiku-4-5"}


class Endpoint:
    """A *model*, and *openai*: the arguments with which ``OpenAI``, ``AsyncOpenAI`` and
    ``ChatOpenAI`` reach it.

    With OPENAI_API_KEY or ANTHROPIC_API_KEY in *environment* it is that provider's model; otherwise
    a server on loopback is started, which runs until ``close``.
    """

    def __init__(self, environment: Mapping[str, str] = os.environ) -> None:
        self._server: ModelServer | None = None
        self.openai: dict[str, Any] = {}
        if environment.get("OPENAI_API_KEY"):
            self.model = self.title = MODELS["openai"]  # the SDK reads the key itself
        elif environment.get("ANTHROPIC_API_KEY"):
            self.model = self.title = MODELS["anthropic"]
            self.openai = {
                "base_url": "https://api.anthropic.com/v1/",
                "api_key": environment["ANTHROPIC_API_KEY"],
            }
        else:
            which = environment.get(VARIABLE) or "auto"
            if which not in WHICH:
                raise ValueError(f"{VARIABLE} must be auto, model or stand-in, not {which!r}")
            self._server, why_not = start_server(which)
            self.model = self._server.model
            self.title = self._server.title + (f" ({INSTALL_HINT})" if why_not else "")
            self.openai = {"base_url": f"{self._server.url}/v1", "api_key": "none-needed"}

    def close(self) -> None:
        """Stop the local server, if there is one; a second call does nothing."""
        if self._server is not None:
            self._server.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<{self.title}>"
