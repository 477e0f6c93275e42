"""CachedEmbedding: an embedding model whose vectors come from a cache, text by text, and the same
for every embedding model of the process.

In all else a CachedEmbedding is the model that it was made from.
"""

import functools
import threading
import weakref
from collections.abc import Callable
from copy import copy, deepcopy
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeVar

from llama_index.core.base.embeddings.base import BaseEmbedding

from llama_index_llm_cache_mem.replaced import Replaced, all_subclasses, put_back
from llama_index_llm_cache_mem.view import Direct, direct, plain_class, sharing, view_class
from llm_cache_mem import LLMCache
from llm_cache_mem.engine.embeddings import EmbeddingModel

__all__ = ["CachedEmbedding", "install"]

T = TypeVar("T", bound=BaseEmbedding)

_KIND: Final = "llama_index.embedding"


class _Leaf(NamedTuple):
    """One of the methods of BaseEmbedding that reach a model."""

    name: str
    purpose: str
    many: bool
    is_async: bool


_LEAVES: Final = (
    _Leaf("_get_query_embedding", "query", many=False, is_async=False),
    _Leaf("_get_text_embedding", "text", many=False, is_async=False),
    _Leaf("_get_text_embeddings", "text", many=True, is_async=False),
    _Leaf("_aget_query_embedding", "query", many=False, is_async=True),
    _Leaf("_aget_text_embedding", "text", many=False, is_async=True),
    _Leaf("_aget_text_embeddings", "text", many=True, is_async=True),
)


class _CachedEmbedding:
    __slots__ = ()

    _lcm_identity: str

    def __new__(cls, *args: Any, **kwargs: Any) -> Any:
        return _cached(*args, **kwargs) if cls is _CachedEmbedding else object.__new__(cls)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        if _made(self) is None:  # type(view)(...) makes a model without a cache
            super().__init__(*args, **kwargs)

    def __repr__(self) -> str:
        # no fields: an API key may be among them
        return f"CachedEmbedding({type(self).__name__})"

    __str__ = __repr__

    def __copy__(self) -> Any:
        inner, cache, identity = _parts(self)
        return _view(copy(inner), cache, identity)

    def __deepcopy__(self, memo: dict[int, Any] | None = None) -> Any:
        inner, cache, identity = _parts(self)
        return _view(deepcopy(inner, memo), cache, identity)

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
        return _view, _parts(self)


# as for CachedLLM: the result is what was put in, and this is what editors read of it
if TYPE_CHECKING:

    def CachedEmbedding(model: T, cache: LLMCache, *, identity: str = "") -> T:
        """*model*, with its vectors answered from *cache*, text by text.

        The result is an instance of the class of *model* and shares its state; *model* itself stays
        uncached.

        Args:
            model: Any LlamaIndex embedding model.
            cache: Where vectors are stored.
            identity: A name for whatever *model* holds that no key can tell from another, such as a
                model in memory. Without it, such a model goes uncached.

        Raises:
            TypeError: *model* is no embedding model, or *cache* no cache.

        Example:
            ``Settings.embed_model = CachedEmbedding(OpenAIEmbedding(), cache)``
        """
        ...

else:
    CachedEmbedding = _CachedEmbedding
    CachedEmbedding.__name__ = CachedEmbedding.__qualname__ = "CachedEmbedding"
    CachedEmbedding.__doc__ = "An embedding model with its vectors answered from a cache."


def _cached(model: Any, cache: Any, *, identity: str = "") -> Any:
    if not isinstance(model, BaseEmbedding):
        raise TypeError(
            f"CachedEmbedding takes a LlamaIndex embedding model, not {type(model).__name__}"
        )
    if not isinstance(cache, LLMCache):
        raise TypeError(f"cache must be an LLMCache, not {type(cache).__name__}")
    if not isinstance(identity, str):
        raise TypeError(f"identity must be a str, not {type(identity).__name__}")
    inner = _parts(model)[0] if isinstance(model, _CachedEmbedding) else model
    return _view(inner, cache, identity)


def _view(inner: Any, cache: LLMCache | None, identity: str) -> Any:
    made: Any = sharing(view_class(_CachedEmbedding, type(inner)), inner)
    for name, value in (("inner", inner), ("cache", cache), ("identity", identity)):
        object.__setattr__(made, f"_lcm_{name}", value)
    return made


def _made(view: Any) -> Any:
    """The model behind *view*; None for a view that pydantic has made from its class."""
    try:
        return object.__getattribute__(view, "_lcm_inner")
    except AttributeError:
        return None


def _parts(view: Any) -> tuple[Any, LLMCache | None, str]:
    """The model behind *view*, its cache and its identity."""
    inner = _made(view)
    if inner is None:
        return sharing(plain_class(type(view)), view), None, ""
    return inner, view._lcm_cache, view._lcm_identity


# -- The methods


def _run(leaf: _Leaf, model: EmbeddingModel, subject: Any) -> Any:
    method = getattr(model.model, leaf.name)
    if leaf.many:
        return model.call(method, subject, leaf.purpose, {})

    def embed(texts: list[str]) -> list[Any]:
        return [method(text) for text in texts]

    return model.call(embed, [subject], leaf.purpose, {})[0]


async def _arun(leaf: _Leaf, model: EmbeddingModel, subject: Any) -> Any:
    method = getattr(model.model, leaf.name)
    if leaf.many:
        return await model.acall(method, subject, leaf.purpose, {})

    async def embed(texts: list[str]) -> list[Any]:
        return [await method(text) for text in texts]

    return (await model.acall(embed, [subject], leaf.purpose, {}))[0]


def _method(leaf: _Leaf) -> Callable[..., Any]:
    """The leaf of a view."""
    if leaf.is_async:

        async def amethod(self: Any, subject: Any) -> Any:
            inner, cache, identity = _parts(self)
            if cache is None:
                return await getattr(inner, leaf.name)(subject)
            model = EmbeddingModel(cache.engine, direct(inner), _KIND, identity)
            return await _arun(leaf, model, subject)

        return amethod

    def method(self: Any, subject: Any) -> Any:
        inner, cache, identity = _parts(self)
        if cache is None:
            return getattr(inner, leaf.name)(subject)
        return _run(leaf, EmbeddingModel(cache.engine, direct(inner), _KIND, identity), subject)

    return method


for _leaf in _LEAVES:
    setattr(_CachedEmbedding, _leaf.name, _method(_leaf))


# -- Every model of the process

_cache: LLMCache | None = None
_replaced: Replaced = []
"""What was put in the place of what: class, name, the original, ours."""
_lock: Final = threading.RLock()


def install(cache: LLMCache | None) -> None:
    """Answer all embedding models from *cache*; None puts every class back as it was. Any
    thread."""
    global _cache
    with _lock:
        if cache is not None and not _replaced:
            for cls in all_subclasses(BaseEmbedding):
                _patch(cls)
            # taken away again below
            BaseEmbedding.__init_subclass__ = classmethod(_init_subclass)  # type: ignore[assignment,arg-type]
        _cache = cache
        if cache is None and _replaced:
            del BaseEmbedding.__init_subclass__
            put_back(_replaced)


def _init_subclass(cls: type[BaseEmbedding], **kwargs: Any) -> None:
    """Classes made while the cache is on."""
    super(BaseEmbedding, cls).__init_subclass__(**kwargs)
    with _lock:
        _patch(cls)


def _patch(cls: type) -> None:
    if issubclass(cls, (_CachedEmbedding, Direct)):
        return
    for leaf in _LEAVES:
        original = cls.__dict__.get(leaf.name)
        if callable(original) and not getattr(original, "__isabstractmethod__", False):
            ours = _patched(leaf, original)
            _replaced.append((weakref.ref(cls), leaf.name, original, ours))
            setattr(cls, leaf.name, ours)


def _patched(leaf: _Leaf, original: Any) -> Any:
    if leaf.is_async:

        @functools.wraps(original)
        async def amethod(self: Any, subject: Any) -> Any:
            cache = _cache
            if cache is None or isinstance(self, Direct):
                return await original(self, subject)
            return await _arun(leaf, EmbeddingModel(cache.engine, direct(self), _KIND), subject)

        return amethod

    @functools.wraps(original)
    def method(self: Any, subject: Any) -> Any:
        cache = _cache
        if cache is None or isinstance(self, Direct):
            return original(self, subject)
        return _run(leaf, EmbeddingModel(cache.engine, direct(self), _KIND), subject)

    return method
