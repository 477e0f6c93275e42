"""instructor's caches under its client: an answer is an object of a response model, here one with a
text."""

import json
from typing import Any

import httpx
import instructor
import openai
from instructor.cache import AutoCache, BaseCache, DiskCache
from pydantic import BaseModel

from benchmarks.probes.contestant import Peer

__all__ = ["Disk", "Memory"]


class Said(BaseModel):
    """What the model answers."""

    text: str


def obey(response: httpx.Response) -> None:
    """The provider's texts in JSON, as a model answers that follows the schema it is given. An
    empty one stays empty."""
    response.read()
    if response.status_code != 200:
        return
    document = response.json()
    for choice in document["choices"]:
        if text := choice["message"]["content"]:
            choice["message"]["content"] = json.dumps({"text": text})
    response._content = json.dumps(document).encode()


async def aobey(response: httpx.Response) -> None:
    await response.aread()
    obey(response)


class InstructorPeer(Peer):
    namespaced = True
    packages = ("instructor", "openai")

    def make(self) -> BaseCache:
        raise NotImplementedError

    def prepare(self) -> None:
        self.cache = self.make()
        self.clients: dict[tuple[str, str, str], Any] = {}

    def _client(self, kind: str, request: dict[str, Any]) -> Any:
        """One client for each address and API key, as programs have."""
        base_url, api_key = (
            request.pop("base_url", self.base_url),
            request.pop("api_key", "sk-probe"),
        )
        if (kind, base_url, api_key) not in self.clients:
            settings: dict[str, Any] = {"base_url": base_url, "api_key": api_key, "max_retries": 0}
            made: Any
            if kind == "async":
                made = openai.AsyncOpenAI(
                    http_client=httpx.AsyncClient(event_hooks={"response": [aobey]}), **settings
                )
            else:
                made = openai.OpenAI(
                    http_client=httpx.Client(event_hooks={"response": [obey]}), **settings
                )
            self.clients[kind, base_url, api_key] = instructor.from_openai(
                made, mode=instructor.Mode.JSON
            )
        return self.clients[kind, base_url, api_key]

    def _named(self) -> dict[str, Any]:
        return {"cache": self.cache, "cache_namespace": self.namespace or "answers"}

    def ask(self, **request: Any) -> Any:
        return self._client("sync", request).create(response_model=Said, **self._named(), **request)

    async def aask(self, **request: Any) -> Any:
        return await self._client("async", request).create(
            response_model=Said, **self._named(), **request
        )

    def text(self, answer: Any) -> Any:
        return answer.text

    def spoil(self, answer: Any) -> None:
        answer.text = "spoilt"


class Memory(InstructorPeer):
    name = "instructor"
    configured = (
        "`from_openai(OpenAI(), mode=Mode.JSON)`, `create(response_model=..., cache=AutoCache(),"
        " cache_namespace=...)`"
    )
    bounded = True

    def make(self) -> BaseCache:
        return AutoCache() if self.max_size is None else AutoCache(maxsize=self.max_size)


class Disk(InstructorPeer):
    name = "instructor, disk"
    configured = (
        "the same with `DiskCache(directory=...)`, `cache_ttl=...`; "
        "without a `cache_namespace` each client has its own, and nothing is found after a restart"
    )
    shared = "file"
    expires = True
    packages = ("instructor", "diskcache")

    def make(self) -> BaseCache:
        return DiskCache(directory=str(self.folder / "instructor"))

    def _named(self) -> dict[str, Any]:
        return {**super()._named(), **({} if self.ttl is None else {"cache_ttl": int(self.ttl)})}
