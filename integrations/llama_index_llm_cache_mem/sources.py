"""``CachedLLM(..., sources=True)``: the answers of a query depend on the documents of its source
nodes."""

import functools
import inspect
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from hashlib import sha256
from typing import Any

from llama_index.core.response_synthesizers.base import BaseSynthesizer

from llm_cache_mem.options import MOST_NAMES, document_name, options

__all__ = ["names_of", "take_sources"]

_END: Any = object()


@functools.cache
def take_sources() -> None:
    """From now on, let synthesizers whose LLM takes sources say what their calls depend on."""
    for cls in (BaseSynthesizer, *_subclasses(BaseSynthesizer)):
        for name in ("synthesize", "asynthesize"):
            if name in cls.__dict__:
                setattr(cls, name, _depending(cls.__dict__[name]))


def _subclasses(cls: type[Any]) -> list[type[Any]]:
    return [each for sub in cls.__subclasses__() for each in (sub, *_subclasses(sub))]


def _depending(original: Any) -> Any:
    @functools.wraps(original)
    async def asynthesize(self: Any, query: Any, nodes: Any, *args: Any, **kwargs: Any) -> Any:
        asked = _options_for(self, nodes)
        with asked:
            response = await original(self, query, nodes, *args, **kwargs)
        return _with_stream(response, asked)

    @functools.wraps(original)
    def synthesize(self: Any, query: Any, nodes: Any, *args: Any, **kwargs: Any) -> Any:
        asked = _options_for(self, nodes)
        with asked:
            response = original(self, query, nodes, *args, **kwargs)
        return _with_stream(response, asked)

    return asynthesize if inspect.iscoroutinefunction(inspect.unwrap(original)) else synthesize


def _with_stream(response: Any, asked: AbstractContextManager[object]) -> Any:
    """*response*, whose stream calls the LLM when it is read: each step under the options."""
    stream = getattr(response, "response_gen", None)
    if isinstance(stream, Iterator):
        response.response_gen = _steps(stream, asked)
    elif isinstance(stream, AsyncIterator):
        response.response_gen = _asteps(stream, asked)
    return response


def _steps(stream: Iterator[Any], asked: AbstractContextManager[object]) -> Any:
    while True:
        with asked:
            piece = next(stream, _END)
        if piece is _END:
            return
        yield piece


async def _asteps(stream: AsyncIterator[Any], asked: AbstractContextManager[object]) -> Any:
    while True:
        with asked:
            piece = await anext(stream, _END)
        if piece is _END:
            return
        yield piece


def _options_for(synthesizer: Any, nodes: Any) -> AbstractContextManager[object]:
    llm: Any = getattr(synthesizer, "_llm", None)
    if not getattr(llm, "_lcm_sources", False):
        return nullcontext()
    names = names_of(nodes)
    if len(names) <= MOST_NAMES:
        return options(depends_on=names)
    # an answer from too many documents is not stored, rather than under some of them
    text = "a query goes uncached: it has more than %d source documents"
    llm._lcm_cache.engine.skip("sources", text, MOST_NAMES - 1)
    return options(mode="off")


def names_of(nodes: Iterable[Any]) -> list[str]:
    """What an answer made from *nodes* depends on: the document of each by its id, and all of these
    documents as they were, by a digest of their hashes."""
    names, hashes = set(), set()
    for node in nodes:
        inner = getattr(node, "node", node)
        document = inner.source_node
        names.add(document_name(inner.ref_doc_id or inner.node_id))
        known = None if document is None else document.hash
        hashes.add(f"{inner.ref_doc_id or inner.node_id}\n{known or inner.hash}")
    if not names:
        return []
    together = sha256("\n".join(sorted(hashes)).encode("utf-8", "surrogatepass")).hexdigest()
    return [*sorted(names), f"docs@{together[:24]}"]
