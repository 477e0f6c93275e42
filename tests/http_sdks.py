"""The real SDKs, each able to make a recorded request again: what they give for it is an object or
the list of a stream's chunks."""

import asyncio
import json
import warnings
from collections.abc import Callable
from contextvars import copy_context
from typing import Any

from http_server import Row

__all__ = ["SDKS", "Sdk", "chosen"]

Call = Callable[[Row], Any]


class Sdk:
    """*make(url)* makes its clients, sync and async; *ask(client, row)* makes the request: what it
    gives, or an awaitable of it."""

    def __init__(
        self, name: str, make: Callable[[str, bool], Any], ask: Callable[[Any, Row], Any]
    ) -> None:
        self.name = name
        self.make = make
        self._ask = ask

    def sync(self, client: Any, row: Row) -> Any:
        found = self._ask(client, row)
        return _plain(found if _is_answer(found) else list(found))

    def asynchronous(self, client: Any, row: Row, runner: asyncio.Runner) -> Any:
        async def ask() -> Any:
            found = self._ask(client, row)
            if hasattr(found, "__await__"):
                found = await found
            return _plain(found if _is_answer(found) else [chunk async for chunk in found])

        return runner.run(ask(), context=copy_context())


def _is_answer(found: Any) -> bool:
    return hasattr(type(found), "model_fields") or isinstance(found, (bytes, dict))


def _plain(answer: Any) -> Any:
    """google-genai puts the headers of the response into the answer, and a hit has others."""
    for part in answer if isinstance(answer, list) else [answer]:
        if hasattr(part, "sdk_http_response"):
            part.sdk_http_response = None
    return answer


def body_of(row: Row) -> dict[str, Any]:
    body: dict[str, Any] = json.loads(row["request"]["body"])
    return body


def _stainless(client: Any, path: str, body: Any, kinds: tuple[Any, Any], stream_class: Any) -> Any:
    """What the methods of the resources do, with the recorded body as it was."""
    if body.get("stream"):
        return client.post(
            path, body=body, cast_to=kinds[1], stream=True, stream_cls=stream_class[kinds[1]]
        )
    return client.post(path, body=body, cast_to=kinds[0])


def _openai(client: Any, row: Row) -> Any:
    import openai
    from openai.types import Completion, CreateEmbeddingResponse, ModerationCreateResponse
    from openai.types.chat import ChatCompletion, ChatCompletionChunk
    from openai.types.responses import Response, ResponseStreamEvent

    kinds: dict[str, tuple[str, Any]] = {
        "chat.completions": ("/chat/completions", (ChatCompletion, ChatCompletionChunk)),
        "completions": ("/completions", (Completion, Completion)),
        "responses": ("/responses", (Response, ResponseStreamEvent)),
        "embeddings": ("/embeddings", (CreateEmbeddingResponse, None)),
        "moderations": ("/moderations", (ModerationCreateResponse, None)),
    }
    path, types = kinds[row["endpoint"]]
    return _stainless(
        client,
        path,
        body_of(row),
        types,
        openai.AsyncStream if "Async" in type(client).__name__ else openai.Stream,
    )


def _groq(client: Any, row: Row) -> Any:
    import groq
    from groq.types.chat import ChatCompletion, ChatCompletionChunk

    stream_class = groq.AsyncStream if "Async" in type(client).__name__ else groq.Stream
    return _stainless(
        client,
        "/openai/v1/chat/completions",
        body_of(row),
        (ChatCompletion, ChatCompletionChunk),
        stream_class,
    )


def _anthropic(client: Any, row: Row) -> Any:
    import anthropic
    from anthropic.types import Message, MessageTokensCount, RawMessageStreamEvent

    kinds = {
        "messages": (Message, RawMessageStreamEvent),
        "count_tokens": (MessageTokensCount, None),
    }
    path = "/v1/messages" + ("/count_tokens" if row["endpoint"] == "count_tokens" else "")
    stream_class = anthropic.AsyncStream if "Async" in type(client).__name__ else anthropic.Stream
    return _stainless(client, path, body_of(row), kinds[row["endpoint"]], stream_class)


def _bedrock(client: Any, row: Row) -> Any:
    import anthropic
    from anthropic.types import Message, RawMessageStreamEvent

    body = {"model": row["model"], **body_of(row), "stream": row["endpoint"] == "invoke-stream"}
    stream_class = anthropic.AsyncStream if "Async" in type(client).__name__ else anthropic.Stream
    return _stainless(client, "/v1/messages", body, (Message, RawMessageStreamEvent), stream_class)


def _mistral(client: Any, row: Row) -> Any:
    body, asynchronous = body_of(row), client.wants_async
    stream = body.pop("stream", False)
    if row["endpoint"] == "embeddings":
        body["inputs"] = body.pop("input", None) or body.pop("inputs", None)
        return (client.embeddings.create_async if asynchronous else client.embeddings.create)(
            **body
        )
    if stream:
        return (client.chat.stream_async if asynchronous else client.chat.stream)(**body)
    return (client.chat.complete_async if asynchronous else client.chat.complete)(**body)


def _cohere(client: Any, row: Row) -> Any:
    body = body_of(row)
    stream = body.pop("stream", False)
    if row["endpoint"] == "rerank":
        return client.rerank(**body)
    return client.chat_stream(**body) if stream else client.chat(**body)


def _ollama(client: Any, row: Row) -> Any:
    body = body_of(row)
    return getattr(client, row["endpoint"])(**{"stream": True, **body})


def _genai(client: Any, row: Row) -> Any:
    from google.genai import types

    body = body_of(row)
    models = client.aio.models if client.wants_async else client.models
    if row["endpoint"] == "count_tokens":
        return models.count_tokens(model="m", contents=body["contents"])
    config = {**body.pop("generationConfig", {}), **body.pop("generation_config", {})}
    contents = [types.Content.model_validate(content) for content in body.pop("contents")]
    renamed = {
        "system_instruction": "systemInstruction",
        "tool_config": "toolConfig",
        "safety_settings": "safetySettings",
    }
    config |= {
        renamed.get(name, name): value
        for name, value in body.items()
        if name not in ("model", "labels")
    }
    ask = (
        models.generate_content_stream
        if row["endpoint"] == "streamGenerateContent"
        else models.generate_content
    )
    return ask(
        model="m", contents=contents, config=types.GenerateContentConfig.model_validate(config)
    )


def _bare(client: Any, row: Row) -> Any:
    """No SDK: the recorded bytes by httpx itself, for what has no SDK on it."""
    body = row["request"]["body"].encode()
    path = "/" + row["request"]["url"].split("://", 1)[1].partition("/")[2].lstrip("/")
    asked = client.post(path, content=body, headers={"content-type": "application/json"})

    def read(response: Any) -> dict[str, Any]:
        whole = response.json() if row["endpoint"] == "embeddings" else response.content
        return {"status": response.status_code, "body": whole}

    if not hasattr(asked, "__await__"):
        return read(asked)

    async def answer() -> dict[str, Any]:
        return read(await asked)

    return answer()


def _make_openai(url: str, asynchronous: bool) -> Any:
    import openai

    return (openai.AsyncOpenAI if asynchronous else openai.OpenAI)(
        api_key="SECRET", base_url=f"{url}/v1", max_retries=0
    )


def _make_azure(url: str, asynchronous: bool) -> Any:
    import openai

    kind = openai.AsyncAzureOpenAI if asynchronous else openai.AzureOpenAI
    return kind(api_key="SECRET", azure_endpoint=url, api_version="2024-10-21", max_retries=0)


def _make_groq(url: str, asynchronous: bool) -> Any:
    import groq

    return (groq.AsyncGroq if asynchronous else groq.Groq)(
        api_key="SECRET", base_url=url, max_retries=0
    )


def _make_anthropic(url: str, asynchronous: bool) -> Any:
    import anthropic

    return (anthropic.AsyncAnthropic if asynchronous else anthropic.Anthropic)(
        api_key="SECRET", base_url=url, max_retries=0
    )


def _make_bedrock(url: str, asynchronous: bool) -> Any:
    import anthropic

    kind = anthropic.AsyncAnthropicBedrock if asynchronous else anthropic.AnthropicBedrock
    return kind(
        base_url=url,
        aws_access_key="A",
        aws_secret_key="SECRET",
        aws_region="us-east-1",
        max_retries=0,
    )


def _make_vertex_claude(url: str, asynchronous: bool) -> Any:
    import anthropic

    kind = anthropic.AsyncAnthropicVertex if asynchronous else anthropic.AnthropicVertex
    return kind(
        base_url=url, access_token="SECRET", project_id="p", region="us-east5", max_retries=0
    )


def _make_mistral(url: str, asynchronous: bool) -> Any:
    from mistralai.client import Mistral

    client = Mistral(api_key="SECRET", server_url=url)
    client.__dict__["wants_async"] = asynchronous
    return client


def _make_cohere(version: int) -> Callable[[str, bool], Any]:
    def make(url: str, asynchronous: bool) -> Any:
        import cohere

        names = {
            (1, False): "Client",
            (1, True): "AsyncClient",
            (2, False): "ClientV2",
            (2, True): "AsyncClientV2",
        }
        return getattr(cohere, names[version, asynchronous])(
            api_key="SECRET", base_url=url, max_retries=0
        )

    return make


def _make_ollama(url: str, asynchronous: bool) -> Any:
    import ollama

    return (ollama.AsyncClient if asynchronous else ollama.Client)(host=url)


def _make_genai(vertex: bool) -> Callable[[str, bool], Any]:
    def make(url: str, asynchronous: bool) -> Any:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            from google import genai
            from google.auth.credentials import AnonymousCredentials

        where: dict[str, Any] = {"api_key": "SECRET"}
        if vertex:
            where = {
                "vertexai": True,
                "project": "p",
                "location": "us-central1",
                "credentials": _Token(AnonymousCredentials),
            }
        client = genai.Client(**where, http_options={"base_url": url})
        client.wants_async = asynchronous  # type: ignore[attr-defined]  # a note for the test
        return client

    return make


def _Token(base: Any) -> Any:
    credentials = base()
    credentials.token = "SECRET"
    return credentials


def _make_bare(url: str, asynchronous: bool) -> Any:
    import httpx

    return (httpx.AsyncClient if asynchronous else httpx.Client)(base_url=url)


SDKS = {
    "openai": Sdk("openai", _make_openai, _openai),
    "openai (Azure)": Sdk("openai (Azure)", _make_azure, _openai),
    "anthropic": Sdk("anthropic", _make_anthropic, _anthropic),
    "anthropic (Bedrock)": Sdk("anthropic (Bedrock)", _make_bedrock, _bedrock),
    "anthropic (Vertex)": Sdk("anthropic (Vertex)", _make_vertex_claude, _anthropic),
    "groq": Sdk("groq", _make_groq, _groq),
    "mistralai": Sdk("mistralai", _make_mistral, _mistral),
    "cohere (v1)": Sdk("cohere (v1)", _make_cohere(1), _cohere),
    "cohere": Sdk("cohere", _make_cohere(2), _cohere),
    "ollama": Sdk("ollama", _make_ollama, _ollama),
    "google-genai": Sdk("google-genai", _make_genai(False), _genai),
    "google-genai (Vertex)": Sdk("google-genai (Vertex)", _make_genai(True), _genai),
    "httpx": Sdk("httpx", _make_bare, _bare),
}


def chosen(row: Row) -> str:
    """The SDK for a recorded exchange."""
    provider, endpoint = row["provider"], row["endpoint"]
    if provider == "cohere":
        return "cohere (v1)" if "/v1/" in row["request"]["url"] else "cohere"
    if provider == "bedrock":
        return (
            "anthropic (Bedrock)"
            if endpoint.startswith("invoke") and "anthropic_version" in row["request"]["body"]
            else "httpx"
        )
    if (
        provider == "gemini"
        and "stream" in endpoint
        and row["response"].get("body", "").lstrip().startswith("[")
    ):
        return "httpx"  # a stream as one JSON array, which the SDK does not ask for
    fixed = {
        "gemini": "google-genai",
        "vertex": "google-genai (Vertex)",
        "mistral": "mistralai",
        "anthropic": "anthropic",
        "groq": "groq",
    }
    if provider in fixed:
        return "httpx" if provider == "gemini" and endpoint == "embeddings" else fixed[provider]
    if provider == "ollama" and endpoint in ("chat", "generate"):
        return "ollama"
    return "openai (Azure)" if provider == "azure" else "openai"
