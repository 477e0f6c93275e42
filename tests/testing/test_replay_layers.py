"""Recorded once against a server, replayed when it is gone: through the SDKs, LangChain and
LlamaIndex; a miss reaches the caller."""

import threading
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from llm_cache_mem import CacheMissError, LLMCache, RequestNotCacheable
from llm_cache_mem.testing.model_server.stand_in import StandInServer

MESSAGES = [{"role": "user", "content": "Name a tea."}]


class Served:
    """A server that speaks the formats of OpenAI and Anthropic, until ``stop()``; its URL stays."""

    def __init__(self) -> None:
        self._server = StandInServer(delay=0)
        self.url = self._server.url
        self._thread = threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": 0.02}
        )
        self._thread.start()

    @property
    def calls(self) -> int:
        return self._server.calls

    def stop(self) -> None:
        if self._thread.is_alive():
            self._server.shutdown()
            self._thread.join()
            self._server.server_close()


@pytest.fixture
def served() -> Iterator[Served]:
    server = Served()
    yield server
    server.stop()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "llm.jsonl"


def recording(path: Path) -> LLMCache:
    return LLMCache(backend=path, ttl_seconds=None)


def replaying(path: Path) -> LLMCache:
    return LLMCache(backend=path, mode="replay")


# -- SDKs


@pytest.fixture
def openai_client(served: Served) -> Iterator[Any]:
    openai = pytest.importorskip("openai")
    with openai.OpenAI(
        base_url=f"{served.url}/v1",
        api_key="sk-CANARY-0123456789",
        max_retries=0,
        organization="CANARY",
    ) as client:
        yield client


@pytest.fixture
def anthropic_client(served: Served) -> Iterator[Any]:
    anthropic = pytest.importorskip("anthropic")
    with anthropic.Anthropic(base_url=served.url, api_key="CANARY", max_retries=0) as client:
        yield client


def test_openai(served: Served, path: Path, openai_client: Any) -> None:
    create = openai_client.chat.completions.create
    first = recording(path).get_or_call(MESSAGES, create, model="stand-in", temperature=0)
    served.stop()
    assert replaying(path).get_or_call(MESSAGES, create, model="stand-in", temperature=0) == first
    with pytest.raises(CacheMissError, match="temperature: 0 → 1"):
        replaying(path).get_or_call(MESSAGES, create, model="stand-in", temperature=1)
    assert served.calls == 1
    assert "CANARY" not in path.read_text()


def test_openai_streams(served: Served, path: Path, openai_client: Any) -> None:
    create = openai_client.chat.completions.create
    first = list(recording(path).get_or_call(MESSAGES, create, model="stand-in", stream=True))
    served.stop()
    assert (
        list(replaying(path).get_or_call(MESSAGES, create, model="stand-in", stream=True)) == first
    )
    with pytest.raises(CacheMissError):
        replaying(path).get_or_call(MESSAGES, create, model="other", stream=True)
    assert served.calls == 1


def test_anthropic(served: Served, path: Path, anthropic_client: Any) -> None:
    create = anthropic_client.messages.create
    first = recording(path).get_or_call(MESSAGES, create, model="stand-in", max_tokens=64)
    served.stop()
    assert replaying(path).get_or_call(MESSAGES, create, model="stand-in", max_tokens=64) == first
    with pytest.raises(CacheMissError, match="max_tokens: 64 → 65"):
        replaying(path).get_or_call(MESSAGES, create, model="stand-in", max_tokens=65)
    assert served.calls == 1


async def test_the_async_sdks(served: Served, path: Path) -> None:
    openai = pytest.importorskip("openai")
    async with openai.AsyncOpenAI(
        base_url=f"{served.url}/v1", api_key="x", max_retries=0
    ) as client:
        create = client.chat.completions.create
        first = await recording(path).aget_or_call(MESSAGES, create, model="stand-in")
        stream = await recording(path).aget_or_call(MESSAGES, create, model="stand-in", stream=True)
        chunks = [chunk async for chunk in stream]
        served.stop()
        assert await replaying(path).aget_or_call(MESSAGES, create, model="stand-in") == first
        again = await replaying(path).aget_or_call(MESSAGES, create, model="stand-in", stream=True)
        assert [chunk async for chunk in again] == chunks
        with pytest.raises(CacheMissError):
            await replaying(path).aget_or_call(MESSAGES, create, model="other")
    assert served.calls == 2


def test_a_decorated_function(path: Path) -> None:
    def ask(question: str) -> str:
        return question.upper()

    assert recording(path).cached(version="1")(ask)("hello") == "HELLO"
    replayed = replaying(path).cached(version="1")(ask)
    assert replayed("hello") == "HELLO"
    with pytest.raises(CacheMissError, match='question: "hello" → "bye"'):
        replayed("bye")


# -- LangChain


@pytest.fixture
async def chat(served: Served) -> AsyncIterator[Any]:
    pytest.importorskip("langchain_openai")
    from langchain_openai import ChatOpenAI

    model = ChatOpenAI(
        model="stand-in", base_url=f"{served.url}/v1", api_key="sk-CANARY-0123456789", max_retries=0
    )  # type: ignore[arg-type]
    yield model
    await model.root_async_client.close()


@pytest.fixture
def _langchain_as_it_was() -> Iterator[None]:
    yield
    from langchain_core.globals import set_llm_cache

    set_llm_cache(None)


@pytest.mark.usefixtures("_langchain_as_it_was")
def test_langchain_as_a_whole(served: Served, path: Path, chat: Any) -> None:
    from langchain_core.globals import set_llm_cache
    from langchain_llm_cache_mem import LLMCacheMem

    set_llm_cache(LLMCacheMem(recording(path)))
    first = chat.invoke("Name a tea.").content
    served.stop()
    set_llm_cache(LLMCacheMem(replaying(path)))
    assert chat.invoke("Name a tea.").content == first
    with pytest.raises(
        CacheMissError, match=r'messages\[0\]\.content: "Name a tea\." → "Name a cup\."'
    ):
        chat.invoke("Name a cup.")
    assert served.calls == 1
    assert "CANARY" not in path.read_text()


@pytest.mark.usefixtures("_langchain_as_it_was")
async def test_langchain_as_a_whole_awaited(served: Served, path: Path, chat: Any) -> None:
    from langchain_core.globals import set_llm_cache
    from langchain_llm_cache_mem import LLMCacheMem

    set_llm_cache(LLMCacheMem(recording(path)))
    first = (await chat.ainvoke("Name a tea.")).content
    set_llm_cache(LLMCacheMem(replaying(path)))
    assert (await chat.ainvoke("Name a tea.")).content == first
    with pytest.raises(CacheMissError):
        await chat.ainvoke("Name a cup.")
    assert served.calls == 1


async def test_one_langchain_model_with_its_streams(served: Served, path: Path, chat: Any) -> None:
    from langchain_llm_cache_mem import cached

    model = cached(chat, recording(path))
    first = [chunk.content for chunk in model.stream("Name a tea.")]
    served.stop()
    replayed = cached(chat, replaying(path))
    assert [chunk.content for chunk in replayed.stream("Name a tea.")] == first
    assert [chunk.content async for chunk in replayed.astream("Name a tea.")] == first
    with pytest.raises(CacheMissError):
        list(replayed.stream("Name a cup."))
    with pytest.raises(CacheMissError):
        [chunk async for chunk in replayed.astream("Name a cup.")]
    with pytest.raises(CacheMissError):
        replayed.invoke("Name a cup.")
    assert served.calls == 1


@pytest.mark.usefixtures("_langchain_as_it_was")
def test_langchain_replay_never_sends_a_request_without_a_key(
    served: Served, path: Path, chat: Any
) -> None:
    from langchain_core.globals import set_llm_cache
    from langchain_llm_cache_mem import LLMCacheMem, cached

    with pytest.raises(RequestNotCacheable):
        cached(chat, replaying(path)).invoke("Name a tea.", user=object())
    set_llm_cache(LLMCacheMem(replaying(path)))
    with pytest.raises(RequestNotCacheable):
        chat.invoke("Name a tea.", user=object())
    assert served.calls == 0


# -- LlamaIndex


@pytest.fixture
def llm() -> Any:
    pytest.importorskip("llama_index.core")
    from llama_index.core.llms import MockLLM

    class Counted(MockLLM):
        model: str = "counted"

        def complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> Any:
            Counted.made.append(prompt)
            return super().complete(prompt, formatted, **kwargs)

    Counted.made = []  # type: ignore[attr-defined]
    return Counted()


LLAMA_INDEX = pytest.mark.filterwarnings("ignore::DeprecationWarning:inspect")


@LLAMA_INDEX
async def test_llama_index(path: Path, llm: Any) -> None:
    from llama_index.core.base.llms.types import ChatMessage
    from llama_index_llm_cache_mem import CachedLLM

    messages = [ChatMessage(role="user", content="Name a tea.")]
    model = CachedLLM(llm, recording(path))
    first = model.complete("Name a tea.").text
    chatted = model.chat(messages).message.content
    made = len(llm.made)
    replayed = CachedLLM(llm, replaying(path))
    assert (
        replayed.complete("Name a tea.").text
        == (await replayed.acomplete("Name a tea.")).text
        == first
    )
    assert (
        replayed.chat(messages).message.content
        == (await replayed.achat(messages)).message.content
        == chatted
    )
    for call in (replayed.complete, replayed.stream_complete):
        with pytest.raises(CacheMissError, match="Name a cup"):
            call("Name a cup.")
    for acall in (replayed.acomplete, replayed.astream_complete):
        with pytest.raises(CacheMissError):
            await acall("Name a cup.")
    assert len(llm.made) == made


@LLAMA_INDEX
def test_llama_index_as_a_whole(path: Path, llm: Any) -> None:
    from llama_index_llm_cache_mem import set_llm_cache

    with set_llm_cache(recording(path)):
        first = llm.complete("Name a tea.").text
    with set_llm_cache(replaying(path)):
        assert llm.complete("Name a tea.").text == first
        with pytest.raises(CacheMissError):
            llm.complete("Name a cup.")
    assert llm.made == ["Name a tea."]


@LLAMA_INDEX
def test_llama_index_replay_never_sends_a_request_without_a_key(path: Path, llm: Any) -> None:
    from llama_index_llm_cache_mem import CachedLLM

    with pytest.raises(RequestNotCacheable):
        CachedLLM(llm, replaying(path)).complete("Name a tea.", callback=lambda: None)
    assert llm.made == []


# -- SDKs over the transport


def replaying_client(served: Served, path: Path) -> Any:
    import openai

    from llm_cache_mem.http import cache_client

    client = openai.OpenAI(
        base_url=f"{served.url}/v1",
        api_key="sk-CANARY-0123456789",
        max_retries=2,
        organization="CANARY",
    )
    return cache_client(client, replaying(path))


def test_a_cached_client(served: Served, path: Path, openai_client: Any) -> None:
    from llm_cache_mem.http import cache_client

    client = cache_client(openai_client, recording(path))
    first = client.chat.completions.create(messages=MESSAGES, model="stand-in")
    chunks = list(client.chat.completions.create(messages=MESSAGES, model="stand-in", stream=True))
    served.stop()
    with replaying_client(served, path) as replayed:
        assert replayed.chat.completions.create(messages=MESSAGES, model="stand-in") == first
        assert (
            list(replayed.chat.completions.create(messages=MESSAGES, model="stand-in", stream=True))
            == chunks
        )
        with pytest.raises(CacheMissError, match='model: "stand-in" → "other"'):
            replayed.chat.completions.create(messages=MESSAGES, model="other")
        with pytest.raises(RequestNotCacheable, match="nothing is sent"):
            replayed.models.list()
    text = path.read_text()
    assert "CANARY" not in text
    assert served.calls == 2
    assert "tea" in text.partition('"answer"')[2]  # the body is there to be read


def test_redacted_recorded_stream_stays_complete(path: Path) -> None:
    secret = "sk-proj-Zq81kPjV3mXw7TbN2cYe"
    body = f'data: {{"a": "{secret}"}}\n\ndata: [DONE]\n\n'
    answer = {
        "status": 200,
        "headers": [["content-type", "text/event-stream"]],
        "text": body,
        "cuts": [len(body) - 16],
    }
    recording(path).put("q", answer)
    found = replaying(path).get("q")
    assert found["text"] == body.replace(secret, "[redacted]")
    assert "cuts" not in found
