"""cached(embeddings, cache): the same embedding model, of the same class, whose vectors come from
the cache, text by text, where they can."""

import copy
from collections.abc import Callable
from typing import Any, Final
from weakref import WeakValueDictionary

from langchain_core.embeddings import Embeddings

from langchain_llm_cache_mem.binding import derived
from langchain_llm_cache_mem.requests import kind_of_scope
from llm_cache_mem import LLMCache
from llm_cache_mem.engine.embeddings import EmbeddingModel

__all__ = ["cached_embeddings"]

_STATE: Final = ("__pydantic_fields_set__", "__pydantic_extra__", "__pydantic_private__")


def cached_embeddings(model: Any, cache: LLMCache, scope: str, identity: str) -> Any:
    """A copy of *model* that answers from *cache*; *scope* and *identity* are as in ``cached``."""
    wrapped = copy.copy(model)
    original = getattr(type(model), "_llm_cache_mem_class", type(model))
    cls = _cached_class(original, cache, scope, identity)
    object.__setattr__(wrapped, "__class__", cls)
    return wrapped


_classes: "WeakValueDictionary[tuple[Any, ...], type[Any]]" = WeakValueDictionary()


def _cached_class(cls: type[Any], cache: LLMCache, scope: str, identity: str) -> type[Any]:
    """The subclass of *cls* that is bound to *cache*, made once for as long as it is in use."""
    about = (cls, id(cache), scope, identity)
    known = _classes.get(about)
    if known is not None:
        return known

    def bound(self: Any) -> EmbeddingModel:
        return EmbeddingModel(cache.engine, _direct(self, cls), kind_of_scope(scope), identity)

    def reduce(self: Any, protocol: Any) -> tuple[Any, ...]:
        return cached_embeddings, (_direct(self, cls), cache, scope, identity)

    made = derived(cls, {**_methods(cls, bound), "__reduce_ex__": reduce})
    made._llm_cache_mem_class = cls
    return _classes.setdefault(about, made)


def _direct(model: Any, cls: type[Any]) -> Any:
    """The cached *model* as a *cls*, which goes past the cache, with the very same state."""
    other: Any = object.__new__(cls)
    object.__setattr__(other, "__dict__", model.__dict__)
    for name in _STATE:
        if hasattr(model, name):
            object.__setattr__(other, name, getattr(model, name))
    return other


def _methods(cls: type[Any], bound: Callable[[Any], EmbeddingModel]) -> dict[str, Any]:
    """The methods of the subclass of *cls*: those that do not come down to others of these."""

    def embed_documents(self: Any, texts: Any, *args: Any, **kwargs: Any) -> Any:
        model = bound(self)

        def embed(some: list[str]) -> Any:
            return model.model.embed_documents(some, *args, **kwargs)

        return model.call(embed, texts, "document", _settings(args, kwargs))

    async def aembed_documents(self: Any, texts: Any, *args: Any, **kwargs: Any) -> Any:
        model = bound(self)

        async def embed(some: list[str]) -> Any:
            return await model.model.aembed_documents(some, *args, **kwargs)

        return await model.acall(embed, texts, "document", _settings(args, kwargs))

    def embed_query(self: Any, text: Any, *args: Any, **kwargs: Any) -> Any:
        model = bound(self)

        def embed(some: list[str]) -> Any:
            return [model.model.embed_query(each, *args, **kwargs) for each in some]

        return model.call(embed, [text], "query", _settings(args, kwargs))[0]

    async def aembed_query(self: Any, text: Any, *args: Any, **kwargs: Any) -> Any:
        model = bound(self)

        async def embed(some: list[str]) -> Any:
            return [await model.model.aembed_query(each, *args, **kwargs) for each in some]

        return (await model.acall(embed, [text], "query", _settings(args, kwargs)))[0]

    ours = (embed_documents, aembed_documents, embed_query, aembed_query)
    return {made.__name__: made for made in ours if not _comes_down(cls, made.__name__)}


def _settings(args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    """The settings of one call; the only one that has a place is the size of chunks."""
    named = {"chunk_size": args[0]} if args else {}
    return {**named, **{f"argument {n}": value for n, value in enumerate(args[1:])}, **kwargs}


def _comes_down(cls: type[Any], name: str) -> bool:
    """Whether the method *name* of *cls* calls another of the four on itself, so that it is cached
    as that is: a query that is embedded as a document, or in a thread."""
    method = getattr(cls, name)
    if method is getattr(Embeddings, name):
        return True  # aembed_... of the base class, which calls embed_... in a thread
    if not name.endswith("embed_query"):
        return False
    names = getattr(getattr(method, "__code__", None), "co_names", ())
    return name.replace("query", "documents") in names
