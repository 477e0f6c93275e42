"""Agno's cache of model responses under its OpenAIChat."""

from typing import Any

from agno.media import Image
from agno.models.message import Message
from agno.models.openai import OpenAIChat

from benchmarks.probes.contestant import Cannot, OfTexts

__all__ = ["Agno"]

FIELDS = (
    "temperature",
    "top_p",
    "max_tokens",
    "seed",
    "stop",
    "user",
    "reasoning_effort",
    "extra_body",
    "logprobs",
    "timeout",
)


class Agno(OfTexts):
    name = "Agno"
    configured = "`OpenAIChat(cache_response=True, cache_dir=..., cache_ttl=...)`"
    shared = "file"
    expires = True
    packages = ("agno", "openai")

    def prepare(self) -> None:
        pass

    def _model(self, request: dict[str, Any]) -> Any:
        fields = {name: request.pop(name) for name in FIELDS if name in request}
        made = OpenAIChat(
            id=request.pop("model"),
            base_url=request.pop("base_url", self.base_url),
            api_key=request.pop("api_key", "sk-probe"),
            max_retries=0,
            cache_response=True,
            cache_ttl=None if self.ttl is None else int(self.ttl),
            cache_dir=str(self.folder / "agno"),
            **fields,
        )
        return made

    def _parts(self, request: dict[str, Any]) -> tuple[Any, list[Any], dict[str, Any]]:
        model = self._model(request)
        messages = [_message(each) for each in request.pop("messages")]
        known = {
            name: request.pop(name)
            for name in ("tools", "tool_choice", "response_format")
            if name in request
        }
        if request:
            raise Cannot(f"has no {', '.join(request)}")
        return model, messages, known

    def ask(self, **request: Any) -> Any:
        model, messages, known = self._parts(request)
        return model.response(messages=messages, **known)

    async def aask(self, **request: Any) -> Any:
        model, messages, known = self._parts(request)
        return await model.aresponse(messages=messages, **known)

    def stream(self, **request: Any) -> Any:
        model, messages, known = self._parts(request)
        for response in model.response_stream(messages=messages, **known):
            if text := getattr(response, "content", None):
                yield text


def _message(each: Any) -> Message:
    if not isinstance(each, dict):
        raise Cannot("has message objects of its own")
    content = each["content"]
    if isinstance(content, list):
        texts = [part["text"] for part in content if part["type"] == "text"]
        images = [
            Image(url=part["image_url"]["url"]) for part in content if part["type"] == "image_url"
        ]
        return Message(role=each["role"], content=texts[0], images=images)
    extra = {name: each[name] for name in ("tool_calls", "tool_call_id") if name in each}
    return Message(role=each["role"], content=content, **extra)
