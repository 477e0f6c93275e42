"""CachedLLM: an LLM whose calls are answered from a cache, and which is in all else the LLM that it
was made from."""

from collections.abc import Callable
from copy import copy, deepcopy
from typing import TYPE_CHECKING, Any, TypeVar

from llama_index.core.base.llms.base import BaseLLM
from llama_index.core.llms.structured_llm import StructuredLLM

from llama_index_llm_cache_mem import calls, patch, structured
from llama_index_llm_cache_mem.ingestion import carry_options
from llama_index_llm_cache_mem.leaves import LEAVES, Leaf, Target, Usage, check_usage
from llama_index_llm_cache_mem.sources import take_sources
from llama_index_llm_cache_mem.validation import adiscarding, discarding
from llama_index_llm_cache_mem.view import Direct, bare, plain_class, sharing, view_class
from llm_cache_mem import LLMCache

__all__ = ["CachedLLM", "cache_of", "set_view_cache", "uncached"]

T = TypeVar("T", bound=BaseLLM)


class _CachedLLM:
    """*llm*, with its calls answered from *cache*, or from an ``LLMCache(**settings)`` of its own.

    The result is an instance of the class of *llm* and shares its state: what is set on one is set
    on both. *llm* itself stays uncached. A ``StructuredLLM`` comes back as one whose inner LLM is
    cached.

    Args:
        llm: Any LlamaIndex LLM.
        cache: The cache; without one, an ``LLMCache(**settings)`` is made.
        identity: A name for whatever *llm* holds that no key can tell from another, such as a local
            model or a pipeline. Without it, calls of such an LLM go uncached.
        usage: Whether a hit reports ``zero`` tokens, so that no call is billed twice, or ``keep``s
            those of the call that was made.
        sources: Whether the answers of a query depend on its source nodes, so that
            ``cache.invalidate("doc:<id>")`` makes them invalid, where *id* is that of a document,
            and a changed document does so by itself.
        **settings: Arguments of ``LLMCache``.

    Example:
        ``llm = CachedLLM(OpenAI(model="gpt-5"), cache)``
    """

    _lcm_identity: str
    _lcm_usage: Usage
    _lcm_sources: bool

    # Leaves and structured_predict are set below. No other public names: they might hide a field of
    # the LLM.

    __slots__ = ()

    def __new__(cls, *args: Any, **kwargs: Any) -> Any:
        return _cached(*args, **kwargs) if cls is _CachedLLM else object.__new__(cls)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        if not _is_made(self):  # type(view)(...) makes an LLM without a cache
            super().__init__(*args, **kwargs)

    def __eq__(self, other: object) -> bool:
        return bool(_inner(self) == (_inner(other) if isinstance(other, _CachedLLM) else other))

    def __hash__(self) -> int:
        return hash(_inner(self))

    def __repr__(self) -> str:
        # no fields: an API key may be among them
        return f"CachedLLM({type(self).__name__}, {cache_of(self)!r})"

    __str__ = __repr__

    def __copy__(self) -> Any:
        return _view(copy(_inner(self)), *_settings(self))

    def __deepcopy__(self, memo: dict[int, Any] | None = None) -> Any:
        return _view(deepcopy(_inner(self), memo), *_settings(self))

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
        return _view, (_inner(self), *_settings(self))


# the result is what was put in; what editors and the documentation read of it stands here once more
if TYPE_CHECKING:

    def CachedLLM(
        llm: T,
        cache: LLMCache | None = None,
        *,
        identity: str = "",
        usage: Usage = "zero",
        sources: bool = False,
        **settings: Any,
    ) -> T:
        """*llm*, with its calls answered from *cache*, or from an ``LLMCache(**settings)`` of its
        own.

        The result is an instance of the class of *llm* and shares its state: what is set on one is
        set on both. *llm* itself stays uncached. A ``StructuredLLM`` comes back as one whose inner
        LLM is cached.

        Args:
            llm: Any LlamaIndex LLM.
            cache: The cache; without one, an ``LLMCache(**settings)`` is made.
            identity: A name for whatever *llm* holds that no key can tell from another, such as a
                local model or a pipeline. Without it, calls of such an LLM go uncached.
            usage: Whether a hit reports ``zero`` tokens, so that no call is billed twice, or
                ``keep``s those of the call that was made.
            sources: Whether the answers of a query depend on its source nodes, so that
            ``cache.invalidate("doc:<id>")`` makes them invalid, where *id* is that of a document,
            and a changed document does so by itself.
        **settings: Arguments of ``LLMCache``.

        Example:
            ``llm = CachedLLM(OpenAI(model="gpt-5"), cache)``
        """
        ...

else:
    CachedLLM = _CachedLLM
    CachedLLM.__name__ = CachedLLM.__qualname__ = "CachedLLM"


def cache_of(llm: Any) -> LLMCache | None:
    """The cache that answers the calls of *llm* now, that of ``set_llm_cache`` included; None if
    there is none."""
    if isinstance(llm, StructuredLLM):
        return cache_of(llm.llm)
    if isinstance(llm, _CachedLLM):
        _inner(llm)
        # a slot of the derived class
        return llm._lcm_cache  # type: ignore[attr-defined,no-any-return]
    return (
        patch.cache_for(llm) if isinstance(llm, BaseLLM) and not isinstance(llm, Direct) else None
    )


def uncached(llm: T) -> T:
    """*llm* without a cache: what CachedLLM was given, or while ``set_llm_cache`` is on an LLM of
    the same state that it does not reach."""
    if isinstance(llm, StructuredLLM):
        inner = uncached(llm.llm)
        return llm if inner is llm.llm else llm.model_copy(update={"llm": inner})
    # an alias is of the same class
    return bare(_inner(llm) if isinstance(llm, _CachedLLM) else llm)  # type: ignore[no-any-return]


def set_view_cache(view: Any, cache: LLMCache | None) -> None:
    """Have *view* answered from *cache*; None: from the model."""
    object.__setattr__(view, "_lcm_cache", cache)


def _cached(
    llm: Any,
    cache: LLMCache | None = None,
    *,
    identity: str = "",
    usage: Usage = "zero",
    sources: bool = False,
    **settings: Any,
) -> Any:
    if not isinstance(llm, BaseLLM):
        raise TypeError(f"CachedLLM takes a LlamaIndex LLM, not {type(llm).__name__}")
    if not isinstance(identity, str):
        raise TypeError(f"identity must be a str, not {type(identity).__name__}")
    check_usage(usage)
    if not isinstance(sources, bool):
        raise TypeError(f"sources must be True or False, not {type(sources).__name__}")
    if cache is None:
        cache = LLMCache(**settings)
    elif settings:
        raise TypeError("CachedLLM takes a cache or the settings of one, not both")
    elif not isinstance(cache, LLMCache):
        raise TypeError(f"cache must be an LLMCache, not {type(cache).__name__}")
    carry_options()
    if sources:
        take_sources()
    if isinstance(llm, StructuredLLM):
        inner = _cached(llm.llm, cache, identity=identity, usage=usage, sources=sources)
        return llm.model_copy(update={"llm": inner})
    inner = _inner(llm) if isinstance(llm, _CachedLLM) else llm
    return _view(inner, cache, identity, usage, sources)


def _view(
    inner: Any,
    cache: LLMCache | None,
    identity: str = "",
    usage: Usage = "zero",
    sources: bool = False,
) -> Any:
    made = sharing(view_class(_CachedLLM, type(inner)), inner)
    object.__setattr__(made, "_lcm_inner", inner)
    _set_up(made, cache, identity, usage, sources=sources)
    return made


def _set_up(
    view: Any, cache: LLMCache | None, identity: str, usage: Usage, *, sources: bool = False
) -> None:
    if sources:  # in the process that unpickles it, too
        take_sources()
    object.__setattr__(view, "_lcm_sources", sources)
    object.__setattr__(view, "_lcm_identity", identity)
    object.__setattr__(view, "_lcm_usage", usage)
    set_view_cache(view, cache)


def _settings(view: Any) -> tuple[LLMCache | None, str, Usage, bool]:
    cache = cache_of(view)  # which sets up a view that pydantic has made
    return cache, view._lcm_identity, view._lcm_usage, view._lcm_sources


def _is_made(view: Any) -> bool:
    try:
        object.__getattribute__(view, "_lcm_inner")
    except AttributeError:
        return False
    return True


def _inner(view: Any) -> Any:
    """The LLM behind *view*; for one that LlamaIndex or pydantic has made from its class, a plain
    one of the same state."""
    if not _is_made(view):
        object.__setattr__(view, "_lcm_inner", sharing(plain_class(type(view)), view))
        _set_up(view, None, "", "zero")
    return view._lcm_inner


# -- The methods


def _target(view: Any) -> Target | None:
    inner = _inner(view)
    cache = view._lcm_cache
    if cache is None:
        return None
    return Target(cache, view, inner, view._lcm_identity, view._lcm_usage)


def _leaf_method(leaf: Leaf) -> Callable[..., Any]:
    """An undecorated leaf: the LLM itself sends the events of a miss, events.py those of a hit.
    Arguments are passed on as received."""
    if leaf.is_async:
        arun = calls.astream if leaf.streams else calls.acall

        async def amethod(self: Any, *args: Any, **kwargs: Any) -> Any:
            target = _target(self)
            return await (
                getattr(_inner(self), leaf.name)(*args, **kwargs)
                if target is None
                else arun(target, leaf, args, kwargs)
            )

        return amethod
    run = calls.stream if leaf.streams else calls.call

    def method(self: Any, *args: Any, **kwargs: Any) -> Any:
        target = _target(self)
        return (
            getattr(_inner(self), leaf.name)(*args, **kwargs)
            if target is None
            else run(target, leaf, args, kwargs)
        )

    return method


def _structured_method(name: str) -> Callable[..., Any]:
    """As the LLM has it, over the cached leaves; through the cache itself where the LLM goes past
    its leaves."""
    if name.startswith("a"):

        async def amethod(self: Any, *args: Any, **kwargs: Any) -> Any:
            target = _target(self)
            if target is not None and structured.passes_leaves_by(target.inner, name):
                return await structured.ASYNC[name](target, args, kwargs)
            async with adiscarding():
                return await getattr(super(_CachedLLM, self), name)(*args, **kwargs)

        return amethod

    def method(self: Any, *args: Any, **kwargs: Any) -> Any:
        target = _target(self)
        if target is not None and structured.passes_leaves_by(target.inner, name):
            return structured.SYNC[name](target, args, kwargs)
        with discarding():
            return getattr(super(_CachedLLM, self), name)(*args, **kwargs)

    return method


def _add(name: str, method: Callable[..., Any]) -> None:
    method.__name__, method.__qualname__ = name, f"CachedLLM.{name}"
    setattr(_CachedLLM, name, method)


for _name, _leaf in LEAVES.items():
    _add(_name, _leaf_method(_leaf))
for _name in (*structured.SYNC, *structured.ASYNC):
    _add(_name, _structured_method(_name))
