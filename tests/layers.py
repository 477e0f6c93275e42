"""A provider that counts its calls, asked through every layer in turn: the messages and params of
the Chat Completions API are put into the objects of each layer."""

import json
from base64 import b64decode
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar

import httpx2
from langchain_core.globals import set_llm_cache as set_langchain_cache
from langchain_core.messages import convert_to_messages
from langchain_llm_cache_mem import LLMCacheMem, cached
from langchain_openai import ChatOpenAI
from llama_index.core.base.llms.types import (
    AudioBlock,
    ChatMessage,
    ChatResponse,
    CompletionResponse,
    DocumentBlock,
    ImageBlock,
    LLMMetadata,
    TextBlock,
    ToolCallBlock,
)
from llama_index.core.bridge.pydantic import Field
from llama_index.core.llms import CustomLLM
from llama_index.core.llms.callbacks import llm_chat_callback, llm_completion_callback
from llama_index_llm_cache_mem import CachedLLM
from llama_index_llm_cache_mem import set_llm_cache as set_llama_index_cache
from openai import OpenAI

from llm_cache_mem import LLMCache
from llm_cache_mem.http import CacheTransport

__all__ = ["EXTRA", "LAYERS", "Ask", "Provider", "layer"]

EXTRA = frozenset({"top_k"})
"""Params that the OpenAI SDK does not know: they go into ``extra_body``."""
_TAKEN_BY_LANGCHAIN = EXTRA | {"metadata"}
"""Params of the API that have another meaning as arguments of a LangChain model."""

Ask = Callable[..., Any]


class Provider:
    """Counts the calls that reach it."""

    def __init__(self) -> None:
        self.calls = 0

    def text(self) -> str:
        self.calls += 1
        return f"answer {self.calls}"

    def respond(self, request: httpx2.Request) -> httpx2.Response:
        """An answer of the Chat Completions API."""
        message = {"role": "assistant", "content": self.text()}
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        whole = {"id": "1", "object": "chat.completion", "created": 1, "choices": [choice]}
        return httpx2.Response(200, json={**whole, "model": json.loads(request.content)["model"]})


def _sdk_params(params: Mapping[str, Any], extra_names: frozenset[str] = EXTRA) -> dict[str, Any]:
    extra = {name: value for name, value in params.items() if name in extra_names}
    rest = {name: value for name, value in params.items() if name not in extra_names}
    return {**rest, "extra_body": extra} if extra else rest


@contextmanager
def _core(cache: LLMCache, provider: Provider) -> Iterator[Ask]:
    def ask(messages: Any, settings: Any, **params: Any) -> Any:
        return cache.get_or_call(messages, lambda **_: provider.text(), **{**settings, **params})

    yield ask


@contextmanager
def _sdk(cache: LLMCache, provider: Provider) -> Iterator[Ask]:
    transport = CacheTransport(cache, httpx2.MockTransport(provider.respond))
    client = OpenAI(api_key="k", max_retries=0, http_client=httpx2.Client(transport=transport))

    def ask(messages: Any, settings: Any, **params: Any) -> Any:
        asked = _sdk_params({**settings, **params})
        return client.chat.completions.create(messages=messages, **asked).choices[0].message.content

    yield ask


def _langchain(
    provider: Provider, wrap: Callable[[Any], Any], messages: Any, settings: Any, params: Any
) -> Any:
    client = httpx2.Client(transport=httpx2.MockTransport(provider.respond))
    more = _sdk_params(settings, _TAKEN_BY_LANGCHAIN)
    body = {"extra_body": more.pop("extra_body")} if "extra_body" in more else {}
    model = ChatOpenAI(
        model=params.pop("model"),
        api_key="k",
        max_retries=0,
        http_client=client,
        model_kwargs=more,
        **body,
    )
    asked = _sdk_params(params, _TAKEN_BY_LANGCHAIN)
    return wrap(model).invoke(convert_to_messages(messages), **asked).content


@contextmanager
def _langchain_global(cache: LLMCache, provider: Provider) -> Iterator[Ask]:
    set_langchain_cache(LLMCacheMem(cache))
    try:
        yield lambda messages, settings, **params: _langchain(
            provider, lambda model: model, messages, settings, params
        )
    finally:
        set_langchain_cache(None)


@contextmanager
def _langchain_cached(cache: LLMCache, provider: Provider) -> Iterator[Ask]:
    yield lambda messages, settings, **params: _langchain(
        provider, lambda model: cached(model, cache), messages, settings, params
    )


class Model(CustomLLM):
    """An LLM of LlamaIndex over the provider."""

    model: str = "m"
    additional_kwargs: dict[str, Any] = Field(default_factory=dict)
    provider: ClassVar[Provider]  # of an LLM itself it would be a part without a wire form

    @property
    def metadata(self) -> LLMMetadata:
        return LLMMetadata(model_name=self.model, is_chat_model=True)

    @llm_chat_callback()
    def chat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponse:
        return ChatResponse(message=ChatMessage(role="assistant", content=self.provider.text()))

    @llm_completion_callback()
    def complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponse:
        raise NotImplementedError

    @llm_completion_callback()
    def stream_complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> Any:
        raise NotImplementedError


def _block(block: Mapping[str, Any]) -> Any:
    kind = block["type"]
    if kind == "text":
        return TextBlock(text=block["text"])
    if kind == "input_audio":
        sound = block["input_audio"]
        return AudioBlock(audio=b64decode(sound["data"]), format=sound["format"])
    if kind == "file":
        head, _, data = block["file"]["file_data"].partition(";base64,")
        return DocumentBlock(
            data=b64decode(data),
            document_mimetype=head.removeprefix("data:"),
            title=block["file"]["filename"],
        )
    image = dict(block["image_url"])
    head, _, data = image.pop("url").partition(";base64,")
    if not data:
        return ImageBlock(url=head, **image)
    return ImageBlock(image=b64decode(data), image_mimetype=head.removeprefix("data:"), **image)


def _chat_message(message: Mapping[str, Any]) -> ChatMessage:
    content, calls = message["content"], message.get("tool_calls", ())
    blocks = [_block(block) for block in content] if isinstance(content, list) else []
    if isinstance(content, str):
        blocks = [TextBlock(text=content)]
    blocks += [
        ToolCallBlock(
            tool_call_id=call["id"],
            tool_name=call["function"]["name"],
            tool_kwargs=json.loads(call["function"]["arguments"]),
        )
        for call in calls
    ]
    more = {k: v for k, v in message.items() if k not in ("role", "content", "tool_calls")}
    return ChatMessage(role=message["role"], blocks=blocks, additional_kwargs=more)


def _llama_index(
    provider: Provider, wrap: Callable[[Any], Any], messages: Any, settings: Any, params: Any
) -> Any:
    Model.provider = provider
    llm = Model(model=params.pop("model"), additional_kwargs=settings)
    chat = [_chat_message(message) for message in messages]
    return wrap(llm).chat(chat, **_sdk_params(params)).message.content


@contextmanager
def _llama_index_global(cache: LLMCache, provider: Provider) -> Iterator[Ask]:
    set_llama_index_cache(cache)
    try:
        yield lambda messages, settings, **params: _llama_index(
            provider, lambda llm: llm, messages, settings, params
        )
    finally:
        set_llama_index_cache(None)


@contextmanager
def _llama_index_cached(cache: LLMCache, provider: Provider) -> Iterator[Ask]:
    yield lambda messages, settings, **params: _llama_index(
        provider, lambda llm: CachedLLM(llm, cache), messages, settings, params
    )


LAYERS: dict[str, Callable[[LLMCache, Provider], Any]] = {
    "core": _core,
    "OpenAI SDK": _sdk,
    "LangChain, LLMCacheMem": _langchain_global,
    "LangChain, cached": _langchain_cached,
    "LlamaIndex, CachedLLM": _llama_index_cached,
    "LlamaIndex, set_llm_cache": _llama_index_global,
}
"""Each layer's context manager, which returns ``ask(messages, settings, **params)``; *settings* are
given where the layer keeps the settings of a model."""


@contextmanager
def layer(name: str, cache: LLMCache, provider: Provider) -> Iterator[Ask]:
    """The layer of this *name* over *cache*, in front of *provider*."""
    with LAYERS[name](cache, provider) as ask:
        yield ask
