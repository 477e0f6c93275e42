"""cached(embeddings, cache): only texts that are not stored reach the model."""

import asyncio
import json
import pickle
from contextlib import nullcontext
from functools import cached_property
from typing import Any

import pytest
from http_server import Provider, Reply, provider
from langchain_core.embeddings import Embeddings
from langchain_llm_cache_mem import cached
from langchain_openai import OpenAIEmbeddings

from llm_cache_mem import CacheMissError, LLMCache, installed, options


class Lengths(Embeddings):
    """Embeds a text as its length, and notes what it is asked."""

    def __init__(self, dimensions: int = 20, chunk_size: int = 0) -> None:
        self.dimensions = dimensions
        self.chunk_size = chunk_size
        assert not self.asked  # made now, so that copies of the model share it

    @cached_property  # which is no setting
    def asked(self) -> list[Any]:
        return []

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        if "bad" in texts:
            raise ValueError("no such text")
        self.asked.append(texts)
        return [[float(len(text))] * self.dimensions for text in texts]

    def embed_query(self, text: str) -> list[float]:
        self.asked.append(text)
        return [-float(len(text))] * self.dimensions


@pytest.fixture
def cache() -> LLMCache:
    return LLMCache(prices={})


def test_only_new_texts_are_embedded(cache: LLMCache) -> None:
    bare = Lengths()
    model = cached(bare, cache)
    assert type(model).__name__ == "Lengths"
    assert isinstance(model, Lengths)
    assert model.embed_documents(["a", "bb"]) == bare.embed_documents(["a", "bb"])
    bare.asked.clear()
    texts = ["bb", "ccc", "a", "ccc"]
    assert model.embed_documents(texts) == [[float(len(text))] * 20 for text in texts]
    assert bare.asked == [["ccc"]]
    stats = cache.stats()
    assert (stats.hits, stats.misses, stats.size) == (2, 3, 3)


def test_queries_and_documents_are_told_apart(cache: LLMCache) -> None:
    model = cached(Lengths(), cache)
    for _ in range(2):
        assert model.embed_query("a")[0] == -1.0
        assert model.embed_documents(["a"])[0][0] == 1.0
        assert asyncio.run(model.aembed_query("a"))[0] == -1.0
        assert asyncio.run(model.aembed_documents(["a"]))[0][0] == 1.0
    assert model.asked == ["a", ["a"]]


def test_other_settings_are_other_entries(cache: LLMCache) -> None:
    assert len(cached(Lengths(20), cache).embed_documents(["a"])[0]) == 20
    assert len(cached(Lengths(30), cache).embed_documents(["a"])[0]) == 30


def test_classes_of_one_name_made_in_a_function_differ(cache: LLMCache) -> None:
    def make(length: float) -> Embeddings:
        class Local(Lengths):
            def embed_query(self, text: str) -> list[float]:
                return [length]

        return Local()

    vectors = [cached(make(length), cache).embed_query("a") for length in (1.0, 2.0, 1.0)]
    assert vectors == [[1.0], [2.0], [1.0]]
    assert cache.stats().misses == 2


def test_what_came_before_an_error_is_stored(cache: LLMCache) -> None:
    model = cached(Lengths(chunk_size=2), cache)
    with pytest.raises(ValueError, match="no such text"):
        model.embed_documents(["a", "bb", "ccc", "bad"])
    model.asked.clear()
    model.embed_documents(["a", "bb", "ccc"])
    assert model.asked == [["ccc"]]


def test_replay_embeds_nothing(cache: LLMCache) -> None:
    model = cached(Lengths(), cache)
    model.embed_documents(["a"])
    with options(mode="replay"):
        model.embed_documents(["a"])
        with pytest.raises(CacheMissError):
            model.embed_documents(["a", "b"])
    assert model.asked == [["a"]]


def test_model_with_an_opaque_part_goes_uncached(cache: LLMCache) -> None:
    bare: Any = Lengths()
    bare.pipeline = object()
    for model, calls in ((cached(bare, cache), 2), (cached(bare, cache, identity="mine"), 1)):
        model.asked.clear()
        model.embed_documents(["a"])
        model.embed_documents(["a"])
        assert len(model.asked) == calls
    assert cache.stats().skipped


def test_pickled_model_has_its_cache(tmp_path: Any) -> None:
    cache = LLMCache(backend=str(tmp_path / "cache.db"), prices={})
    model = cached(Lengths(), cache)
    model.embed_documents(["a"])
    again = pickle.loads(pickle.dumps(model))
    again.asked.clear()
    assert again.embed_documents(["a"]) == [[1.0] * 20]
    assert again.asked == []


@pytest.mark.parametrize("under_install", [False, True])
def test_openai_embeddings_send_new_texts(under_install: bool, cache: LLMCache) -> None:
    def embed(asked: Any) -> Reply:
        texts = asked.body["input"]
        data = [{"index": n, "embedding": [len(t) / 8.0] * 20} for n, t in enumerate(texts)]
        return Reply(json.dumps({"data": data, "model": "m", "usage": {}}).encode())

    with provider() as server:
        server.answer = embed
        ask_twice(server, cache, under_install=under_install)
        assert [asked.body["input"] for asked in server.asked] == [["a", "bb"], ["ccc"], ["q"]]
    stats = cache.stats()
    assert (stats.hits, stats.misses, stats.size) == (5, 4, 4)


def ask_twice(server: Provider, cache: LLMCache, *, under_install: bool) -> None:
    model = cached(
        OpenAIEmbeddings(
            model="m",
            api_key="k",  # type: ignore[arg-type]  # as its alias takes it
            base_url=f"{server.url}/v1",
            check_embedding_ctx_length=False,
        ),
        cache,
    )
    with installed(cache) if under_install else nullcontext():
        assert [v[0] for v in model.embed_documents(["a", "bb"])] == [0.125, 0.25]
        assert [v[0] for v in model.embed_documents(["bb", "ccc"])] == [0.25, 0.375]
        assert model.embed_query("q") == asyncio.run(model.aembed_query("q"))
        found = asyncio.run(model.aembed_documents(["ccc", "a", "q"]))
        assert [v[0] for v in found] == [0.375, 0.125, 0.125]
