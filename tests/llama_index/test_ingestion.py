"""IngestionPipeline.run(num_workers=2), whose workers are processes of their own."""

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from llama_index.core.ingestion import IngestionPipeline
from llama_index.core.llms import CompletionResponse, CustomLLM, LLMMetadata
from llama_index.core.schema import BaseNode, Document, TransformComponent
from llama_index_llm_cache_mem import CachedLLM, set_llm_cache

from llm_cache_mem import LLMCache, options


class Logging(CustomLLM):
    """Writes each call into a file that all processes share."""

    log: str

    @property
    def metadata(self) -> LLMMetadata:
        return LLMMetadata(model_name="logging")

    def complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponse:
        with Path(self.log).open("a") as file:
            file.write(f"{prompt}\n")
        return CompletionResponse(text=f"about {prompt}")

    def stream_complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> Any:
        raise NotImplementedError


class Summarize(TransformComponent):
    llm: Any

    def __call__(self, nodes: Sequence[BaseNode], **kwargs: Any) -> Sequence[BaseNode]:
        for node in nodes:
            node.metadata["summary"] = self.llm.complete(node.get_content()).text
        return nodes


def pipeline(llm: Any) -> tuple[IngestionPipeline, list[Document]]:
    documents = [Document(text=f"document {number}") for number in range(4)]
    return IngestionPipeline(transformations=[Summarize(llm=llm)], disable_cache=True), documents


def run(llm: Any) -> list[str]:
    made, documents = pipeline(llm)
    return [node.metadata["summary"] for node in made.run(documents=documents, num_workers=2)]


def arun(llm: Any) -> list[str]:
    made, documents = pipeline(llm)
    nodes = asyncio.run(made.arun(documents=documents, num_workers=2))
    return [node.metadata["summary"] for node in nodes]


def asked(log: Path) -> list[str]:
    return sorted(log.read_text().splitlines())


SUMMARIES = [f"about document {number}" for number in range(4)]


@pytest.mark.filterwarnings("ignore:Specified num_workers exceed")
@pytest.mark.parametrize("run", [run, pytest.param(arun, marks=pytest.mark.slow)])
def test_workers_share_a_store_and_take_the_options_along(tmp_path: Path, run: Any):
    log = tmp_path / "log"
    with LLMCache(backend=tmp_path / "c.db") as cache:
        llm = CachedLLM(Logging(log=str(log)), cache)
        with options(namespace="acme", sample=3):
            assert run(llm) == run(llm) == SUMMARIES
            assert llm.complete("document 0").text == "about document 0"
        assert asked(log) == [f"document {number}" for number in range(4)]
        assert cache.stats().hits == 1
        keys = [key for key, _ in cache.engine.backend.entries("")]
        assert len(keys) == 4
        assert all(key.startswith("1:acme:") and key.endswith(".3") for key in keys)


@pytest.mark.filterwarnings("ignore:Specified num_workers exceed")
def test_process_wide_cache_warns_about_workers(tmp_path: Path, caplog: Any):
    log = tmp_path / "log"
    with LLMCache(backend=tmp_path / "c.db") as cache, set_llm_cache(cache):
        for _ in range(2):
            assert run(Logging(log=str(log))) == SUMMARIES
        assert cache.stats().size == 0
    assert len(asked(log)) == 8
    assert [each for each in caplog.messages if "CachedLLM(llm, cache)" in each]
