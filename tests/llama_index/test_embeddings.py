"""CachedEmbedding and set_llm_cache(embeddings=True): only texts that are not stored reach the
model."""

import asyncio
import copy
import pickle
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cached_property
from typing import Any

import httpx
import pytest
from http_server import Provider, Reply, provider
from llama_index.core import Settings
from llama_index.core.base.embeddings.base import BaseEmbedding
from llama_index.core.ingestion import IngestionPipeline
from llama_index.core.schema import TextNode
from llama_index_llm_cache_mem import CachedEmbedding, set_llm_cache

from llm_cache_mem import LLMCache, installed


class Lengths(BaseEmbedding):
    """Embeds a text as its length, and notes what it is asked."""

    size: int = 20

    def model_post_init(self, context: Any) -> None:
        super().model_post_init(context)
        assert not self._asked  # made now, so that copies of the model share it

    @cached_property  # which is no setting
    def _asked(self) -> list[Any]:
        return []

    def _get_text_embedding(self, text: str) -> list[float]:
        self._asked.append(text)
        return [float(len(text))] * self.size

    def _get_text_embeddings(self, texts: list[str]) -> list[list[float]]:
        self._asked.append(texts)
        return [[float(len(text))] * self.size for text in texts]

    def _get_query_embedding(self, query: str) -> list[float]:
        self._asked.append(query)
        return [-float(len(query))] * self.size

    async def _aget_query_embedding(self, query: str) -> list[float]:
        return await asyncio.to_thread(self._get_query_embedding, query)


Making = Callable[[BaseEmbedding, LLMCache], Any]


@contextmanager
def by_view(model: BaseEmbedding, cache: LLMCache) -> Iterator[Any]:
    yield CachedEmbedding(model, cache)


@contextmanager
def for_all(model: BaseEmbedding, cache: LLMCache) -> Iterator[Any]:
    with set_llm_cache(cache, embeddings=True):
        yield model


@pytest.fixture(params=[by_view, for_all])
def caching(request: Any) -> Making:
    made: Making = request.param
    return made


@pytest.fixture
def cache() -> LLMCache:
    return LLMCache(prices={})


def test_only_new_texts_are_embedded(caching: Making, cache: LLMCache) -> None:
    bare = Lengths()
    with caching(bare, cache) as model:
        assert type(model).__name__ == "Lengths"
        assert model.get_text_embedding("a") == [1.0] * 20
        texts = ["bb", "a", "ccc", "bb"]
        for _ in range(2):
            found = model.get_text_embedding_batch(texts)
            assert found == [[float(len(text))] * 20 for text in texts]
        assert asyncio.run(model.aget_text_embedding("ccc")) == [3.0] * 20
        assert asyncio.run(model.aget_text_embedding_batch(["a", "bb"]))[1] == [2.0] * 20
    assert bare._asked == ["a", ["bb", "ccc"]]
    stats = cache.stats()
    assert (stats.misses, stats.size) == (3, 3)


def test_queries_and_texts_are_told_apart(caching: Making, cache: LLMCache) -> None:
    bare = Lengths()
    with caching(bare, cache) as model:
        for _ in range(2):
            assert model.get_query_embedding("a")[0] == -1.0
            assert asyncio.run(model.aget_query_embedding("a"))[0] == -1.0
            assert model.get_text_embedding("a")[0] == 1.0
    assert bare._asked == ["a", "a"]


def test_other_settings_are_other_entries(caching: Making, cache: LLMCache) -> None:
    for size in (20, 30):
        with caching(Lengths(size=size), cache) as model:
            assert len(model.get_text_embedding("a")) == size


class Growing(Lengths):
    """Raises one of its settings while it answers."""

    def _get_text_embedding(self, text: str) -> list[float]:
        vector = super()._get_text_embedding(text)
        self.size += 1
        return vector


def test_a_setting_that_grows_during_a_call_is_in_the_key(cache: LLMCache) -> None:
    assert len(CachedEmbedding(Growing(size=2), cache).get_text_embedding("a")) == 2
    assert len(CachedEmbedding(Growing(size=6), cache).get_text_embedding("a")) == 6


def test_batches_are_as_large_as_the_model_makes_them(caching: Making, cache: LLMCache) -> None:
    bare = Lengths(embed_batch_size=3)
    with caching(bare, cache) as model:
        model.get_text_embedding_batch(list("abcdefg"))
        bare._asked.clear()
        model.get_text_embedding_batch(list("abXdefY"))
    assert bare._asked == [["X"], ["Y"]]


def test_ingestion_embeds_only_new_nodes(caching: Making, cache: LLMCache) -> None:
    bare = Lengths()
    with caching(bare, cache) as model:
        for texts in (["one", "two"], ["two", "three"]):
            pipeline = IngestionPipeline(transformations=[model], disable_cache=True)
            nodes = pipeline.run(nodes=[TextNode(text=text) for text in texts])
            assert all(node.embedding for node in nodes)
    assert bare._asked == [["one", "two"], ["three"]]


def test_all_classes_are_as_before() -> None:
    before = {name: value for name, value in vars(Lengths).items() if name.startswith("_")}
    with set_llm_cache(LLMCache(), embeddings=True):
        assert vars(Lengths)["_get_text_embedding"] is not before["_get_text_embedding"]
    after = vars(Lengths)
    assert all(after[name] is value for name, value in before.items() if callable(value))
    assert "__init_subclass__" not in vars(BaseEmbedding)


def test_without_embeddings_only_llms_are_cached(cache: LLMCache) -> None:
    bare = Lengths()
    with set_llm_cache(cache):
        bare.get_text_embedding("a")
        bare.get_text_embedding("a")
    assert len(bare._asked) == 2


def test_copies_and_pickles_have_the_cache(tmp_path: Any) -> None:
    cache = LLMCache(backend=str(tmp_path / "cache.db"), prices={})
    view = CachedEmbedding(Lengths(), cache)
    view.get_text_embedding("a")
    for other in (copy.copy(view), copy.deepcopy(view), pickle.loads(pickle.dumps(view))):
        other._asked.clear()
        assert other.get_text_embedding("a") == [1.0] * 20
        assert other._asked == []
    Settings.embed_model = view
    assert Settings.embed_model is view


@pytest.mark.parametrize("wrong", [("text", LLMCache()), (Lengths(), "sqlite://")])
def test_wrong_arguments_are_named(wrong: Any) -> None:
    with pytest.raises(TypeError, match=r"takes|must be"):
        CachedEmbedding(*wrong)


class Remote(Lengths):
    """Embeds through an API."""

    url: str

    def _get_text_embeddings(self, texts: list[str]) -> list[list[float]]:
        response = httpx.post(f"{self.url}/api/embed", json={"model": "m", "input": texts})
        found: list[list[float]] = response.json()["embeddings"]
        return found


def test_http_entry_answers_under_install(caching: Making, cache: LLMCache) -> None:
    def embed(asked: Any) -> Reply:
        vectors = [[len(text) / 8.0] * 20 for text in asked.body["input"]]
        return Reply(json_of({"model": "m", "embeddings": vectors}))

    with provider() as server:
        server.answer = embed
        check_under_install(server, caching, cache)


def json_of(value: Any) -> bytes:
    return httpx.Response(200, json=value).content


def check_under_install(server: Provider, caching: Making, cache: LLMCache) -> None:
    with caching(Remote(url=server.url), cache) as model, installed(cache):
        for texts in (["a", "bb"], ["bb", "ccc"]):
            found = model.get_text_embedding_batch(texts)
            assert [vector[0] for vector in found] == [len(text) / 8 for text in texts]
    assert [asked.body["input"] for asked in server.asked] == [["a", "bb"], ["ccc"]]
    stats = cache.stats()
    assert (stats.hits, stats.misses, stats.size) == (1, 3, 3)
