"""The same question, as the anthropic and the openai SDK send it; nothing here knows of the
cache."""

import hashlib
from typing import Any, NamedTuple

import anthropic
import openai

from examples.demo.questions import SYSTEM

__all__ = ["Call", "Providers", "fingerprint", "text_of"]

_SEED = 7
_STOPS = ["\n", ". "]  # the small model likes to go on


class Call(NamedTuple):
    """What one call needs: ``fn(messages=messages, **params)``."""

    messages: list[dict[str, Any]]
    fn: Any
    params: dict[str, Any]


class Providers:
    """Clients for the providers named in *models* (anthropic, openai). With *url* they all ask that
    server, without a key."""

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
        """*provider*, or another if there is no key for it."""
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
        """How to ask *question*; *in_tasks* gives the async client's function."""
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
        if self._local:  # the newest SDK has no temperature of its own
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
        """Close the async clients, in the event loop that used them."""
        for client in self._async_clients.values():
            await client.close()

    def close(self) -> None:
        """Close the others."""
        for client in self._clients.values():
            client.close()


def fingerprint(answer: Any) -> str:
    """Tells answers apart, ids and usage included: a whole response, or the list of chunks of a
    stream."""
    parts = answer if isinstance(answer, list) else [answer]
    return hashlib.sha256("\n".join(part.model_dump_json() for part in parts).encode()).hexdigest()[
        :16
    ]


def text_of(answer: Any) -> str:
    """What a whole answer of either SDK says; empty for a stream."""
    if isinstance(answer, list):
        return ""
    if hasattr(answer, "choices"):
        return answer.choices[0].message.content or ""
    return "".join(getattr(block, "text", "") for block in answer.content)
