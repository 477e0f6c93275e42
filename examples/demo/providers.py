"""The same question as the anthropic and the openai SDK send it; this module does not know the
cache."""

import hashlib
from typing import Any, NamedTuple

import anthropic
import openai

from examples.demo.questions import SYSTEM

__all__ = ["Call", "Providers", "fingerprint", "text_of"]

_SEED = 7
_STOPS = ["\n", ". "]  # the small model tends to ramble


class Call(NamedTuple):
    """One call to make: ``fn(messages=messages, **params)``."""

    messages: list[dict[str, Any]]
    fn: Any
    params: dict[str, Any]


class Providers:
    """Clients for the providers in *models* (anthropic, openai). With *url* they all call that
    server, without an API key."""

    def __init__(self, models: dict[str, str], url: str | None) -> None:
        self.models = models
        self._local = url is not None
        own: dict[str, Any] = (
            {"api_key": "none-needed", "max_retries": 0, "timeout": 60.0} if self._local else {}
        )
        both: dict[str, tuple[Any, Any]] = {
            "anthropic": (anthropic.Anthropic, anthropic.AsyncAnthropic),
            "openai": (openai.OpenAI, openai.AsyncOpenAI),
        }
        paths = {"anthropic": "", "openai": "/v1"}
        settings = {
            name: {**own, "base_url": f"{url}{paths[name]}"} if self._local else own
            for name in models
        }
        self._clients = {name: both[name][0](**settings[name]) for name in models}
        self._async_clients = {name: both[name][1](**settings[name]) for name in models}

    def or_other(self, provider: str) -> str:
        """Return *provider*, or another one if there is no API key for it."""
        return provider if provider in self.models else next(iter(self.models))

    def call(
        self,
        provider: str,
        question: str,
        *,
        max_tokens: int,
        stream: bool = False,
        in_tasks: bool = False,
    ) -> Call:
        """Return the call that asks *question*; with *in_tasks*, of the async client."""
        client = (self._async_clients if in_tasks else self._clients)[provider]
        turn = {"role": "user", "content": question}
        if provider == "anthropic":
            return Call([turn], client.messages.create, self._anthropic_params(max_tokens, stream))
        return Call(
            [{"role": "system", "content": SYSTEM}, turn],
            client.chat.completions.create,
            self._openai_params(max_tokens, stream),
        )

    def _anthropic_params(self, max_tokens: int, stream: bool) -> dict[str, Any]:
        params: dict[str, Any] = {
            "model": self.models["anthropic"],
            "max_tokens": max_tokens,
            "system": SYSTEM,
        }
        if self._local:  # the newest SDK has no temperature parameter
            params |= {"stop_sequences": _STOPS, "extra_body": {"temperature": 0, "seed": _SEED}}
        return params | ({"stream": True} if stream else {})

    def _openai_params(self, max_tokens: int, stream: bool) -> dict[str, Any]:
        params: dict[str, Any] = {
            "model": self.models["openai"],
            "max_completion_tokens": max_tokens,
        }
        if self._local:
            params |= {"stop": _STOPS, "temperature": 0, "seed": _SEED}
        return params | (
            {"stream": True, "stream_options": {"include_usage": True}} if stream else {}
        )

    async def aclose(self) -> None:
        """Close the async clients in the event loop that used them."""
        for client in self._async_clients.values():
            await client.close()

    def close(self) -> None:
        """Close the sync clients."""
        for client in self._clients.values():
            client.close()


def fingerprint(answer: Any) -> str:
    """Return a digest of an answer, ids and usage included: a response, or the chunks of a
    stream."""
    parts = answer if isinstance(answer, list) else [answer]
    return hashlib.sha256("\n".join(part.model_dump_json() for part in parts).encode()).hexdigest()[
        :16
    ]


def text_of(answer: Any) -> str:
    """Return the text of a response of either SDK; empty for a stream."""
    if isinstance(answer, list):
        return ""
    if hasattr(answer, "choices"):
        return answer.choices[0].message.content or ""
    return "".join(getattr(block, "text", "") for block in answer.content)
