"""Write the files of other libraries' caches, in an environment that has these libraries: ``python
writing.py KIND FOLDER URL``, URL being that of a provider with OpenAI's API.

The calls that a test makes again afterwards are functions of their own.
"""

import sys
import warnings
from pathlib import Path
from typing import Any

__all__ = [
    "QUESTIONS",
    "ask_langchain",
    "litellm_request",
    "memoized",
    "requests_of_disk",
    "traced",
]

QUESTIONS = ("What is the capital of France?", "Name a tea.", "What is 6 x 7?")


def ask_langchain(cache: Any, url: str) -> list[str]:
    """Eight calls of ChatOpenAI, of which two are the same request to a provider."""
    from langchain_core.messages import AIMessage, HumanMessage, SystemMessage, ToolMessage
    from langchain_openai import ChatOpenAI

    settings: dict[str, Any] = {"base_url": f"{url}/v1", "api_key": "none", "cache": cache}
    model = ChatOpenAI(model="gpt-4o", **settings)
    patient = ChatOpenAI(model="gpt-4o", max_retries=7, **settings)
    special = ChatOpenAI(
        model="gpt-5-mini",
        reasoning_effort="low",
        default_headers={"x-team": "a"},
        model_kwargs={"user": "me"},
        **settings,
    )
    tool = {"name": "add", "description": "Add.", "parameters": {"type": "object"}}
    call = {"name": "add", "args": {"a": 1}, "id": "call_1"}
    history = [
        SystemMessage("Be brief."),
        HumanMessage([{"type": "text", "text": "6 x 7?"}]),
        AIMessage("", tool_calls=[call]),
        ToolMessage("42", tool_call_id="call_1"),
    ]
    answers = [
        *(model.invoke(question) for question in QUESTIONS),
        patient.invoke(QUESTIONS[0]),
        special.invoke(QUESTIONS[0]),
        model.invoke(history),
        model.bind(temperature=0.5).invoke("Name a cup.", stop=["honey"]),
        model.bind_tools([tool]).invoke("Name a cup."),
    ]
    return [str(answer.content) for answer in answers]


def langchain(folder: Path, url: str) -> None:
    """Databases of SQLiteCache and of SQLAlchemyCache with its table of digests; a model of which
    LangChain says too little is in both."""
    from langchain_community.cache import SQLAlchemyMd5Cache, SQLiteCache
    from langchain_core.language_models import FakeListChatModel
    from sqlalchemy import create_engine

    engine = create_engine(f"sqlite:///{folder / 'md5.db'}")
    for cache in (SQLiteCache(str(folder / "langchain.db")), SQLAlchemyMd5Cache(engine=engine)):
        ask_langchain(cache, url)
        FakeListChatModel(responses=["a"], cache=cache).invoke(QUESTIONS[0])


def langchain_redis(folder: Path, url: str, redis_url: str) -> None:
    """Two answers in RedisCache, and a key of another program."""
    import redis
    from langchain_community.cache import RedisCache
    from langchain_openai import ChatOpenAI

    with redis.Redis.from_url(redis_url) as client:
        for question in QUESTIONS[:2]:
            ChatOpenAI(
                model="gpt-4o", base_url=f"{url}/v1", api_key="none", cache=RedisCache(client)
            ).invoke(question)
        client.set("other", "1")


def diskcache(folder: Path, url: str) -> None:
    """Folders of Cache, FanoutCache and Cache with JSONDisk, with requests in their keys and
    without."""
    import json

    from diskcache import Cache, FanoutCache, JSONDisk
    from openai import OpenAI

    client = OpenAI(base_url=f"{url}/v1", api_key="none")

    def answered(request: dict[str, Any]) -> Any:
        return client.chat.completions.create(**request)

    with Cache(str(folder / "plain")) as cache:
        for number, request in enumerate(requests_of_disk()):
            answer = answered(request).model_dump(mode="json")
            key = json.dumps(request, sort_keys=True) if number else request
            cache.set(key, json.dumps(answer) if number == 1 else answer)

        @cache.memoize(name="ask")
        def ask(messages: Any, model: str, temperature: float = 1.0) -> str:
            return str(answered({"messages": messages, "model": model}).choices[0].message.content)

        ask(messages=memoized()["messages"], model="gpt-4o", temperature=0.5)
        ask([{"role": "user", "content": "by place"}], "gpt-4o")
        cache.set(json.dumps({"messages": "an object", "model": "m"}), answered(memoized()))
        cache.set(json.dumps({"messages": "expired", "model": "m"}), "x", expire=-1)
        cache.set("a text", {"answer": 1})
    with FanoutCache(str(folder / "fanout"), shards=3) as fanout:
        for request in requests_of_disk():
            fanout.set(json.dumps(request), answered(request).model_dump(mode="json"))
    with Cache(str(folder / "json"), disk=JSONDisk) as compressed:
        for request in requests_of_disk():
            compressed.set(request, answered(request).model_dump(mode="json"))


def requests_of_disk() -> list[dict[str, Any]]:
    """The requests in each folder; the answer to the last is a file."""
    asked = [*QUESTIONS, "In detail: " + 40_000 * "x"]
    return [
        {"messages": [{"role": "user", "content": text}], "model": "gpt-4o", "max_tokens": 900}
        for text in asked
    ]


def memoized() -> dict[str, Any]:
    """The request of the memoized function that is in its key."""
    message = {"role": "user", "content": "by name"}
    return {"messages": [message], "model": "gpt-4o", "temperature": 0.5}


def litellm(folder: Path, url: str, redis_url: str) -> None:
    """Three answers on disk, and three in Redis."""
    import os

    os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "true"
    import litellm
    from litellm.caching.caching import Cache

    host, port = redis_url.removeprefix("redis://").partition("/")[0].split(":")
    for cache in (
        Cache(type="disk", disk_cache_dir=str(folder / "disk")),
        Cache(type="redis", host=host, port=port),
    ):
        litellm.cache = cache
        for question in QUESTIONS:
            litellm.completion(**litellm_request(question), api_base=f"{url}/v1", api_key="none")


def read_litellm(folder: Path, url: str) -> None:
    """What the guide for LiteLLM says of its disk cache."""
    import json
    import os

    os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "true"
    import litellm
    from litellm.caching.caching import Cache

    from llm_cache_mem import LLMCache
    from llm_cache_mem.migration.diskcache import DiskCache

    keys, old = Cache(type="local"), DiskCache(folder / "disk")

    def complete(messages: Any, model: str, **params: Any) -> Any:
        request = {"model": model, "messages": messages, **params}  # their order is in its key
        stored = old.get(keys.get_cache_key(**request))
        if stored is None:
            return litellm.completion(**request)
        return json.loads(stored["response"])

    with LLMCache(backend=folder / "litellm.db", ttl_seconds=None) as cache:
        for question in QUESTIONS:
            request = litellm_request(question)
            answer = cache.get_or_call(request.pop("messages"), complete, **request)
            assert answer["choices"][0]["message"]["content"]
        assert cache.stats().stored == 3


def litellm_request(question: str) -> dict[str, Any]:
    """A request of LiteLLM."""
    message = {"role": "user", "content": question}
    return {"model": "openai/gpt-4o", "messages": [message], "caching": True}


def dspy(folder: Path, url: str) -> None:
    """Three answers in dspy's folder."""
    import dspy

    dspy.configure_cache(
        enable_disk_cache=True, enable_memory_cache=False, disk_cache_dir=str(folder / "dspy")
    )
    model = dspy.LM("openai/gpt-4o", api_base=f"{url}/v1", api_key="none")
    for question in QUESTIONS:
        model(question)


def gptcache(folder: Path, url: str) -> None:
    """Three answers in the database of a GPTCache, by ``put``."""
    import numpy
    from gptcache import cache
    from gptcache.adapter.api import put
    from gptcache.manager import CacheBase, get_data_manager
    from gptcache.manager.vector_data.base import VectorBase
    from gptcache.processor.pre import get_prompt

    class NoVectors(VectorBase):
        def mul_add(self, datas: Any) -> None: ...
        def search(self, data: Any, top_k: int) -> Any: ...
        def rebuild(self, ids: Any = None) -> bool:
            return True

        def delete(self, ids: Any) -> bool:
            return True

    manager = get_data_manager(
        CacheBase("sqlite", sql_url=f"sqlite:///{folder / 'gptcache.db'}"), NoVectors()
    )
    cache.init(
        pre_embedding_func=get_prompt,
        embedding_func=lambda text, **_: numpy.zeros(4),
        data_manager=manager,
    )
    for question in QUESTIONS:
        put(question, f"the answer to {question}")


def langfuse(folder: Path, url: str) -> None:
    """An export with what Langfuse's wrapper of OpenAI records, an answer that was cut off too."""
    import json

    from langfuse import Langfuse
    from langfuse.openai import OpenAI
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

    exporter = InMemorySpanExporter()
    traces = Langfuse(public_key="pk", secret_key="sk", base_url=url, span_exporter=exporter)
    client = OpenAI(base_url=f"{url}/v1", api_key="none")
    for request in [*traced(), traced()[0] | {"max_tokens": 2}]:
        answer = client.chat.completions.create(**request)
        list(answer if "stream" in request else ())
    traces.flush()
    fields = {
        **{name: name for name in ("type", "input", "output")},
        "model": "model.name",
        "modelParameters": "model.parameters",
        "usageDetails": "usage_details",
    }
    with (folder / "export.jsonl").open("w") as out:
        for span in exporter.get_finished_spans():
            found: Any = span.attributes or {}
            line = {
                name: parsed(found[f"langfuse.observation.{there}"])
                for name, there in fields.items()
                if f"langfuse.observation.{there}" in found
            }
            out.write(json.dumps(line) + "\n")


def parsed(value: str) -> Any:
    """What Langfuse's server makes of an attribute."""
    import json

    try:
        return json.loads(value)
    except ValueError:
        return value


def traced() -> list[dict[str, Any]]:
    """The requests that Langfuse's wrapper records."""
    tool = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}
    messages = [{"role": "user", "content": QUESTIONS[0]}]
    more: list[dict[str, Any]] = [
        {},
        {"temperature": 0.5, "max_tokens": 90},
        {"tools": [tool]},
        {"seed": 1, "stream": True},
    ]
    return [{"messages": messages, "model": "m"} | params for params in more]


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    globals()[sys.argv[1]](Path(sys.argv[2]), *sys.argv[3:])
