"""Models that are made when they are called: by ``init_chat_model`` from a string, or with fields
that the config of the call decides."""

from collections.abc import Callable
from typing import Any

__all__ = ["cached_configurable", "is_configurable", "model_named"]


def model_named(name: str) -> Any:
    """The model that LangChain calls *name*, such as ``openai:gpt-5``. ImportError without
    langchain."""
    try:
        from langchain.chat_models import init_chat_model
    except ModuleNotFoundError as exc:
        if exc.name != "langchain":
            raise
        raise ImportError(
            f"cached({name!r}) needs langchain to make the model: pip install langchain",
            name="langchain",
        ) from None
    return init_chat_model(name)


def is_configurable(model: Any) -> bool:
    """Whether *model* is what ``init_chat_model(configurable_fields=...)`` returns: no model, but
    what makes one for each call."""
    return hasattr(type(model), "_model") and "_queued_declarative_operations" in vars(model)


def cached_configurable(model: Any, wrap: Callable[[Any], Any]) -> Any:
    """A copy of *model* whose models *wrap* makes into cached ones."""
    base: Any = type(model)

    def make(self: Any, config: Any = None) -> Any:
        made = wrap(base._model(_as(base, self, _queued_declarative_operations=[]), config))
        for name, args, kwargs in self._queued_declarative_operations:
            made = getattr(made, name)(*args, **kwargs)
        return made

    def get(self: Any, name: str) -> Any:
        found = base.__getattr__(self, name)
        return found if name.startswith("_") or not callable(found) else _keeping(cls, found)

    def with_config(self: Any, *args: Any, **kwargs: Any) -> Any:
        return _as(cls, base.with_config(self, *args, **kwargs))

    methods = {"_model": make, "__getattr__": get, "with_config": with_config}
    named = {"__module__": base.__module__, "__qualname__": base.__qualname__}
    cls: Any = type(base)(base.__name__, (base,), {**named, **methods})
    return _as(cls, model)


def _keeping(cls: Any, method: Callable[..., Any]) -> Callable[..., Any]:
    """*method*, the result of which is a *cls* if it is of the class under that."""

    def call(*args: Any, **kwargs: Any) -> Any:
        result = method(*args, **kwargs)
        return _as(cls, result) if type(result) is cls.__mro__[1] else result

    return call


def _as(cls: Any, model: Any, **state: Any) -> Any:
    """*model* as a *cls*, with some of its *state* replaced."""
    other = cls.__new__(cls)
    other.__dict__.update({**vars(model), **state})
    return other
