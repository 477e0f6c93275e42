"""cached(model, cache): the same model, of the same class, whose calls and streams are answered
from the cache where they can be.

LangChain's own cache layer sees two strings, no streams, and nothing of who else is asking. A
subclass of the model's class sees all: its fields as they are, each chunk, and concurrent identical
calls. It overrides only the methods in which LangChain meets the provider, so callbacks, tools,
structured output and agents are LangChain's as ever.
"""

import copy
from typing import Any, TypeVar
from weakref import WeakValueDictionary

from langchain_core.language_models import BaseChatModel, BaseLanguageModel, BaseLLM

from langchain_llm_cache_mem import chat, text
from langchain_llm_cache_mem.binding import Binding, binding_of, derived, sharing_state
from langchain_llm_cache_mem.cache import LLMCacheMem, Usage
from langchain_llm_cache_mem.validation import watch_steps
from llm_cache_mem import LLMCache

__all__ = ["cached"]

M = TypeVar("M", bound="BaseLanguageModel[Any]")


def cached(
    model: M,
    cache: LLMCache | LLMCacheMem,
    *,
    scope: str = "",
    identity: str = "",
    usage: Usage = "zero",
) -> M:
    """A copy of *model* that answers from *cache*.

    ``invoke``, ``batch`` and ``stream``, sync and async, share their entries. The copy leaves
    LangChain's own cache alone.

    Args:
        model: A chat model or an LLM.
        cache: Where answers are stored. An LLMCacheMem lends its scope and usage too.
        scope: A key space of its own, for a tenant or a purpose.
        identity: A name for the parts of *model* that have no wire form, such as a local pipeline
            or a model in memory. Without it, calls of such a model go uncached.
        usage: Whether a hit reports ``zero`` tokens, or ``keep``s those of the call that was made.

    Raises:
        TypeError: *model* is neither a chat model nor an LLM.

    Example:
        >>> model = cached(ChatOpenAI(model="gpt-4o-mini"), LLMCache())
    """
    if not isinstance(model, (BaseChatModel, BaseLLM)):
        raise TypeError(
            f"cached() takes a chat model or an LLM, not {type(model).__name__}; wrap the model"
            " first, then bind or chain it"
        )
    if isinstance(cache, LLMCacheMem):
        scope, identity = scope or cache.scope, identity or cache.scope
        usage, cache = cache.usage, cache.cache
    watch_steps()
    wrapped: Any = copy.copy(model)
    cls = _cached_class(_uncached_class(type(model)), cache, scope, identity, usage)
    object.__setattr__(wrapped, "__class__", cls)
    wrapped.__dict__["cache"] = False
    return wrapped  # type: ignore[no-any-return]  # an M, by construction


_classes: "WeakValueDictionary[tuple[Any, ...], type[Any]]" = WeakValueDictionary()


def _cached_class(
    cls: type[Any], cache: LLMCache, scope: str, identity: str, usage: Usage
) -> type[Any]:
    """The subclass of *cls* that is bound to *cache*, made once for as long as it is in use."""
    # the class keeps the cache alive, and with it its id
    about = (cls, id(cache), scope, identity, usage)
    known = _classes.get(about)
    if known is not None:
        return known
    methods = chat.methods(cls) if issubclass(cls, BaseChatModel) else text.methods(cls)
    made = derived(cls, {**methods, "__reduce_ex__": _reduce})
    made._llm_cache_mem = Binding(cls, cache, scope, identity, usage)  # binding_of reads it
    if "rate_limiter" in cls.model_fields:
        made.rate_limiter = _unlimited  # over the field
    return _classes.setdefault(about, made)


def _set_limiter(self: Any, limiter: Any) -> None:
    self.__dict__["rate_limiter"] = limiter


_unlimited = property(
    lambda self: None,
    _set_limiter,
    doc="None to LangChain, which would ask it before every hit; calls do wait for it.",
)


def _uncached_class(cls: type[Any]) -> type[Any]:
    return cls.__mro__[1] if "_llm_cache_mem" in cls.__dict__ else cls


def _reduce(self: Any, protocol: Any) -> tuple[Any, ...]:
    binding = binding_of(self)
    model = sharing_state(self, binding.cls)
    return _cached_again, (model, binding.cache, binding.scope, binding.identity, binding.usage)


def _cached_again(model: M, cache: LLMCache, scope: str, identity: str, usage: Usage) -> M:
    return cached(model, cache, scope=scope, identity=identity, usage=usage)
