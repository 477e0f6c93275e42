"""``sources=``: answers of a chain depend on the documents that it retrieved."""

import asyncio
from typing import Any

import pytest
from langchain.agents import create_agent
from langchain_core.documents import Document
from langchain_core.globals import set_llm_cache
from langchain_core.language_models import GenericFakeChatModel
from langchain_core.messages import AIMessage
from langchain_core.outputs import ChatGeneration, ChatResult
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.retrievers import BaseRetriever
from langchain_core.runnables import RunnableLambda, RunnablePassthrough
from langchain_core.tools import create_retriever_tool
from langchain_llm_cache_mem import LLMCacheMem, cached
from langchain_llm_cache_mem.sources import _retrieved, names_of

from llm_cache_mem import LLMCache

PROMPT = ChatPromptTemplate.from_template("{context}\n\n{question}")


class Retriever(BaseRetriever):
    documents: list[Document]

    def _get_relevant_documents(self, query: str, *, run_manager: Any) -> list[Document]:
        return self.documents


def model(calls: list[int]) -> GenericFakeChatModel:
    def answers() -> Any:
        while True:
            calls.append(1)
            yield AIMessage(f"answer {len(calls)}")

    return GenericFakeChatModel(messages=answers())


def chain(model: Any, documents: list[Document]) -> Any:
    text = RunnableLambda(lambda found: "\n".join(each.page_content for each in found))
    retrieve = Retriever(documents=documents) | text
    return {"context": retrieve, "question": RunnablePassthrough()} | PROMPT | model


HANDBOOK = Document("The office opens at 9.", id="handbook")
PRICES = Document("Apples: $3", metadata={"source": "prices.csv"})


@pytest.mark.parametrize("name", ["doc:handbook", "doc:prices.csv"])
@pytest.mark.parametrize("way", ["cached", "stream", "async", "global"])
def test_an_invalid_document_makes_answers_invalid(way: str, name: str) -> None:
    cache, calls = LLMCache(), list[int]()
    if way == "global":
        set_llm_cache(LLMCacheMem(cache, sources=True))
    bare = model(calls)
    asked = chain(
        bare if way == "global" else cached(bare, cache, sources=True), [HANDBOOK, PRICES]
    )

    def ask() -> None:
        if way == "async":
            asyncio.run(asked.ainvoke("When?"))
        elif way == "stream":
            assert list(asked.stream("When?"))
        else:
            asked.invoke("When?")

    try:
        for expected, invalid in ((1, "doc:other"), (1, name), (2, "")):
            ask()
            ask()
            assert len(calls) == expected
            cache.invalidate(*filter(None, [invalid]))
    finally:
        set_llm_cache(None)


def test_a_function_names_the_documents() -> None:
    cache, calls = LLMCache(), list[int]()
    named = cached(model(calls), cache, sources=lambda document: document.page_content[:10])
    asked = chain(named, [HANDBOOK])
    asked.invoke("When?")
    assert cache.invalidate("The office")
    asked.invoke("When?")
    assert len(calls) == 2


def test_chunks_are_named_by_their_id_and_their_source() -> None:
    chunk = Document("x", id="c1", metadata={"source": "a.pdf"})
    assert names_of([chunk, Document("y")], True) == ["doc:a.pdf", "doc:c1"]
    assert names_of([chunk, Document("y")], lambda each: each.metadata.get("source")) == ["a.pdf"]


def test_documents_that_a_tool_of_an_agent_retrieves_count() -> None:
    cache, calls = LLMCache(), list[int]()

    class Searching(GenericFakeChatModel):
        def bind_tools(self, tools: Any, **kwargs: Any) -> Any:
            return self

        def _generate(self, messages: Any, *args: Any, **kwargs: Any) -> ChatResult:
            calls.append(1)
            call = {"name": "search", "args": {"query": "q"}, "id": "c1"}
            asks = messages[-1].type == "human"
            message = AIMessage("", tool_calls=[call]) if asks else AIMessage("At 9.")
            return ChatResult(generations=[ChatGeneration(message=message)])

    search = create_retriever_tool(Retriever(documents=[HANDBOOK]), "search", "Searches.")
    asked = cached(Searching(messages=iter([])), cache, identity="searching", sources=True)
    agent = create_agent(asked, [search])
    for expected in (2, 3):
        for _ in range(2):
            agent.invoke({"messages": [("user", "When?")]})
        assert len(calls) == expected  # the first call was made before the document was known
        cache.invalidate("doc:handbook")
    assert (_retrieved()._roots, _retrieved()._documents) == ({}, {})


def test_documents_that_cannot_be_named_leave_the_call_uncached() -> None:
    cache, calls = LLMCache(), list[int]()
    asked = chain(cached(model(calls), cache, sources=lambda document: 1 / 0), [HANDBOOK])  # type: ignore[arg-type,return-value]
    for _ in range(2):
        asked.invoke("When?")
    assert (len(calls), cache.stats().misses) == (2, 0)


def test_documents_of_another_run_do_not_count() -> None:
    cache, calls = LLMCache(), list[int]()
    one, two = cached(model(calls), cache, sources=True), Document("x", id="other")
    chain(one, [HANDBOOK]).invoke("When?")
    chain(one, [two]).invoke("Who?")
    cache.invalidate("doc:other")
    chain(one, [HANDBOOK]).invoke("When?")
    assert len(calls) == 2
    one.invoke("alone")
    assert cache.engine.stats().stored == 3


def test_nothing_is_remembered_of_runs_that_have_ended() -> None:
    chain(cached(model([]), LLMCache(), sources=True), [HANDBOOK]).invoke("When?")
    Retriever(documents=[HANDBOOK]).invoke("alone")
    handler = _retrieved()
    assert (handler._roots, handler._documents) == ({}, {})


def test_sources_is_a_bool_or_a_function() -> None:
    with pytest.raises(TypeError, match="sources"):
        LLMCacheMem(sources="documents")  # type: ignore[arg-type]
