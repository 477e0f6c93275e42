"""Objects that share the state of an LLM: views, whose leaves are cached, and aliases, whose leaves
never are."""

from contextlib import suppress
from functools import lru_cache
from typing import Any, TypeVar

__all__ = ["Direct", "bare", "direct", "plain_class", "set_patched", "sharing", "view_class"]

T = TypeVar("T")

_STATE = ("__dict__", "__pydantic_fields_set__", "__pydantic_extra__", "__pydantic_private__")


def sharing(cls: type[T], llm: Any) -> T:
    """A new object of class *cls* with the very state of *llm*: what is set on one is set on
    both."""
    made = object.__new__(cls)
    for name in _STATE:
        with suppress(AttributeError):  # a test double need not have run pydantic's __init__
            object.__setattr__(made, name, object.__getattribute__(llm, name))
    return made


class Direct:
    """An LLM whose leaves call the model even while ``set_llm_cache`` is on."""

    __slots__ = ()

    def __reduce__(self) -> tuple[Any, ...]:
        return direct, (sharing(plain_class(type(self)), self),)


def direct(llm: Any) -> Any:
    """An alias of *llm* that no process-wide cache answers; *llm* itself if it is one."""
    return llm if isinstance(llm, Direct) else sharing(_derived(Direct, llm.__class__, ()), llm)


_patched = False


def set_patched(on: bool) -> None:
    """Tell whether the leaves of LLM classes are those of ``set_llm_cache``."""
    global _patched
    _patched = on


def bare(llm: Any) -> Any:
    """The object to call past every cache: *llm*, or an alias of it while a process-wide cache is
    on."""
    return direct(llm) if _patched else llm


def view_class(mixin: type, base: type) -> type[Any]:
    """The class of views of *base* objects: it keeps the name, from which observability tools infer
    the provider."""
    return _derived(mixin, base, ("_lcm_cache", "_lcm_identity", "_lcm_inner", "_lcm_usage"))


@lru_cache(maxsize=512)  # 3 ms each; bounded, for classes that a program makes by the thousand
def _derived(mixin: type, base: type, slots: tuple[str, ...]) -> type[Any]:
    namespace = {
        "__slots__": slots,
        "__module__": base.__module__,
        "__qualname__": base.__qualname__,
        "__doc__": base.__doc__,
    }
    return type(base)(base.__name__, (mixin, base), namespace)


def plain_class(derived: type) -> type[Any]:
    """The class that the class of a view or an alias was derived from."""
    return derived.__bases__[1]
