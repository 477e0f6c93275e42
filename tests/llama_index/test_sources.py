"""``sources=True``: answers of a query depend on the documents of its source nodes."""

import asyncio
import pickle
from typing import Any

import pytest
from llama_index.core import MockEmbedding, StorageContext, VectorStoreIndex
from llama_index.core.llms import MockLLM
from llama_index.core.memory import ChatMemoryBuffer
from llama_index.core.schema import Document
from llama_index_llm_cache_mem import CachedLLM

from llm_cache_mem import LLMCache


def index_of(*texts: str) -> Any:
    documents = [Document(text=text, id_=f"d{number}") for number, text in enumerate(texts)]
    return VectorStoreIndex.from_documents(
        documents,
        embed_model=MockEmbedding(embed_dim=2),
        storage_context=StorageContext.from_defaults(),
    )


@pytest.mark.parametrize("how", ["query", "aquery", "stream", "chat"])
def test_an_invalid_document_makes_answers_invalid(how: str) -> None:
    cache = LLMCache()
    llm = CachedLLM(MockLLM(max_tokens=3), cache, sources=True)
    index = index_of("The office opens at 9.", "Apples cost $3.")
    engine = index.as_query_engine(llm=llm, streaming=how == "stream")

    def ask() -> None:
        if how == "aquery":
            asyncio.run(engine.aquery("When?"))
        elif how == "stream":
            assert list(engine.query("When?").response_gen)
        elif how == "chat":
            memory = ChatMemoryBuffer.from_defaults(token_limit=1000)
            index.as_chat_engine(chat_mode="context", llm=llm, memory=memory).chat("When?")
        else:
            engine.query("When?")

    for expected, name in ((1, "doc:other"), (1, "doc:d0"), (2, "doc:d1"), (3, "")):
        ask()
        ask()
        stats = cache.stats()
        assert stats.misses == expected
        cache.invalidate(*filter(None, [name]))
    assert stats.hits == 5


def test_a_document_that_changed_elsewhere_makes_answers_invalid() -> None:
    cache = LLMCache()
    llm = CachedLLM(MockLLM(max_tokens=3), cache, sources=True)
    engines = []
    for metadata in ({}, {"version": "2"}):
        document = Document(
            text="The office opens at 9.",
            id_="d",
            metadata=metadata,
            excluded_llm_metadata_keys=["version"],
        )
        index = VectorStoreIndex.from_documents([document], embed_model=MockEmbedding(embed_dim=2))
        engines.append(index.as_query_engine(llm=llm))
    for engine in (*engines, engines[1]):
        engine.query("When?")
    assert (cache.stats().misses, cache.stats().hits) == (2, 1)


def test_a_query_with_too_many_documents_goes_uncached() -> None:
    cache = LLMCache()
    llm = CachedLLM(MockLLM(max_tokens=3), cache, sources=True)
    index = index_of(*map(str, range(256)))
    engine: Any = index.as_query_engine(llm=llm, similarity_top_k=256, streaming=True)
    assert list(engine.query("When?").response_gen)
    assert (cache.stats().stored, cache.stats().skipped) == (0, {"sources": 1})


def test_calls_outside_of_a_query_depend_on_nothing() -> None:
    cache = LLMCache()
    llm = CachedLLM(MockLLM(max_tokens=3), cache, sources=True)
    llm.complete("hi")
    ((_, entry),) = cache.engine.entries()
    assert entry.depends_on == ()


def test_an_llm_without_sources_depends_on_nothing() -> None:
    cache = LLMCache()
    CachedLLM(MockLLM(), sources=True)
    index_of("a").as_query_engine(llm=CachedLLM(MockLLM(max_tokens=3), cache)).query("When?")
    assert not any(entry.depends_on for _, entry in cache.engine.entries())


def test_copies_take_sources_too() -> None:
    llm = CachedLLM(MockLLM(max_tokens=3), LLMCache(), sources=True)
    for copy in (llm.model_copy(), pickle.loads(pickle.dumps(llm))):
        cache: Any = copy._lcm_cache
        index_of("a").as_query_engine(llm=copy).query("When?")
        assert cache.invalidate("doc:d0")


def test_sources_is_a_bool() -> None:
    with pytest.raises(TypeError, match="sources"):
        CachedLLM(MockLLM(), sources="nodes")  # type: ignore[arg-type]
