"""A cache for every LLM of the process: the leaves of all LLM classes, present and future, ask it
first. Reversible exactly."""

import functools
import logging
import threading
import weakref
from collections.abc import Callable
from typing import Any, Final

from llama_index.core.base.llms.base import BaseLLM
from llama_index.core.llms.structured_llm import StructuredLLM

from llama_index_llm_cache_mem import calls, structured
from llama_index_llm_cache_mem.leaves import LEAVES, Leaf, Target, Usage
from llama_index_llm_cache_mem.replaced import Replaced, all_subclasses, put_back
from llama_index_llm_cache_mem.validation import adiscarding, discarding
from llama_index_llm_cache_mem.view import Direct, set_patched
from llm_cache_mem import LLMCache

__all__ = ["cache_for", "install"]

_log = logging.getLogger(__name__)
_cache: LLMCache | None = None
_usage: Usage = "zero"
_replaced: Replaced = []
"""What was put in the place of what: class, name, the original, ours."""
_lock: Final = threading.RLock()


def cache_for(llm: Any) -> LLMCache | None:
    """The cache that answers *llm*, an LLM that is neither a view nor an alias."""
    return _cache


def install(cache: LLMCache | None, usage: Usage = "zero") -> None:
    """Answer all LLMs from *cache*; None puts every class back as it was. Any thread."""
    global _cache, _usage
    with _lock:
        if cache is not None and not _replaced:
            for cls in all_subclasses(BaseLLM):
                _patch(cls)
            # taken away again below
            BaseLLM.__init_subclass__ = classmethod(_init_subclass)  # type: ignore[assignment,arg-type]
            BaseLLM.__reduce_ex__ = _reduce_ex  # type: ignore[method-assign]
        _cache, _usage = cache, usage
        set_patched(cache is not None)
        if cache is None and _replaced:
            del BaseLLM.__init_subclass__, BaseLLM.__reduce_ex__
            _warned.clear()
            put_back(_replaced)


def _init_subclass(cls: type[BaseLLM], **kwargs: Any) -> None:
    """Classes made while the cache is on."""
    super(BaseLLM, cls).__init_subclass__(**kwargs)
    with _lock:
        _patch(cls)


_warned: set[type] = set()


def _reduce_ex(llm: Any, protocol: Any) -> Any:
    """Pickle *llm* as ever, and say once of each class that its copy goes uncached elsewhere."""
    cls = type(llm)
    if not isinstance(llm, Direct) and cls not in _warned:
        _warned.add(cls)
        _log.warning(
            "%s is being pickled: in another process set_llm_cache is off, and it goes uncached"
            " there, unless you pass it as CachedLLM(llm, cache), with a cache in a store that"
            " processes share",
            cls.__name__,
        )
    return object.__reduce_ex__(llm, protocol)


def _patch(cls: Any) -> None:
    if issubclass(cls, StructuredLLM):  # it asks its own LLM, and has nothing to add to the key
        return
    methods: dict[str, Callable[[Any], Any]] = {
        name: functools.partial(_leaf, leaf) for name, leaf in LEAVES.items()
    }
    methods |= {
        name: functools.partial(_structured, name)
        for name in structured.methods_of(cls) | structured.WHOLE
    }
    for name, make in methods.items():
        original = cls.__dict__.get(name)
        if (
            callable(original)
            and hasattr(original, "__get__")
            and not getattr(original, "__isabstractmethod__", False)
        ):
            ours = make(original)
            _replaced.append((weakref.ref(cls), name, original, ours))
            setattr(cls, name, ours)


def _target(llm: Any) -> Target | None:
    """None: what calls is part of the model, or the cache has been turned off since."""
    cache = _cache
    if cache is None or isinstance(llm, Direct):
        return None
    return Target(cache, llm, llm, usage=_usage)


def _leaf(leaf: Leaf, original: Any) -> Any:
    if leaf.is_async:
        arun = calls.astream if leaf.streams else calls.acall

        @functools.wraps(original)
        async def amethod(self: Any, *args: Any, **kwargs: Any) -> Any:
            target = _target(self)
            if target is None:
                return await original.__get__(self, type(self))(*args, **kwargs)
            return await arun(target, leaf, args, kwargs)

        return amethod
    run = calls.stream if leaf.streams else calls.call

    @functools.wraps(original)
    def method(self: Any, *args: Any, **kwargs: Any) -> Any:
        target = _target(self)
        if target is None:
            return original.__get__(self, type(self))(*args, **kwargs)
        return run(target, leaf, args, kwargs)

    return method


def _structured(name: str, original: Any) -> Any:
    if name in structured.ASYNC:

        @functools.wraps(original)
        async def amethod(self: Any, *args: Any, **kwargs: Any) -> Any:
            target = _target(self)
            if target is None or not structured.passes_leaves_by(self, name):
                async with adiscarding():
                    return await original.__get__(self, type(self))(*args, **kwargs)
            return await structured.ASYNC[name](target, args, kwargs)

        return amethod

    @functools.wraps(original)
    def method(self: Any, *args: Any, **kwargs: Any) -> Any:
        target = _target(self)
        if target is None or not structured.passes_leaves_by(self, name):
            with discarding():
                return original.__get__(self, type(self))(*args, **kwargs)
        return structured.SYNC[name](target, args, kwargs)

    return method
