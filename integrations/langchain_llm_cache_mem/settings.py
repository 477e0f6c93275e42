"""The settings of a LangChain model that are part of its requests, as the model is now."""

from collections.abc import Iterator
from typing import Any, Final
from uuid import uuid4

from langchain_core.language_models import BaseLanguageModel
from pydantic import BaseModel

from llm_cache_mem.keys.class_names import class_name
from llm_cache_mem.keys.identity import Identity, describe, settings_of

__all__ = ["ABOUT_CALLS", "MODEL_SETTINGS", "ModelSettings", "is_core_fake"]

ABOUT_CALLS: Final = frozenset(
    {
        *("batch_size", "name"),
        *("stream", "streaming", "stream_usage", "stream_options", "disable_streaming"),
    }
)
"""Settings by which LangChain names a model and decides how to call it."""
_COUNT: Final = "i"
"""The field in which langchain-core's fakes count their answers."""
_RUN: Final = frozenset(
    {"cache", "callbacks", "custom_get_token_ids", "metadata", "profile", "rate_limiter", "tags"}
    | {"verbose"}
)
"""Fields of every model that are about runs. A subclass may use such a name for a parameter."""
_OF_LANGCHAIN: Final = frozenset({"name", "profile", "tags", "verbose"})
"""Those that say nothing about a call where LangChain declares them."""


def is_core_fake(cls: type) -> bool:
    """Whether *cls* is one of langchain-core's own models, which are all made for tests."""
    return cls.__module__.startswith("langchain_core.")


def _counts(cls: type) -> bool:
    """Whether *cls* is such a fake, or derived from one."""
    return any(
        is_core_fake(base) and _COUNT in getattr(base, "model_fields", ()) for base in cls.__mro__
    )


def _is_declared_by_program(cls: type, name: str) -> bool:
    """Whether a class of a program is the first of the bases of *cls* that declares the field."""
    for base in cls.__mro__:
        if name in vars(base).get("__annotations__", {}):
            return not base.__module__.startswith("langchain")
    return False


class ModelSettings:
    """Reads the settings of models. Thread-safe."""

    def __init__(self) -> None:
        self._names: dict[int, tuple[Any, str]] = {}

    def read(self, model: BaseModel, cls: type[BaseModel]) -> Identity:
        """The identity of *model*, a *cls*."""
        opaque: dict[str, str] = {}
        settings = self._settings(model, cls, opaque)
        found = (
            describe(settings, transport=ABOUT_CALLS, unknown=self._name)
            if is_core_fake(cls)
            else describe(settings, transport=ABOUT_CALLS)
        )
        found.settings["_class"] = class_name(cls)
        return Identity(found.settings, {**found.opaque, **opaque})

    def _settings(
        self, model: BaseModel, cls: type[BaseModel], opaque: dict[str, str]
    ) -> Iterator[tuple[str, Any]]:
        """The settings; what is opaque in models inside *model* is added to *opaque*."""
        fields = cls.model_fields
        for name, value in settings_of(model):
            if name in _RUN and name in fields and fields[name].exclude:
                continue
            if name == _COUNT and _counts(cls):
                continue
            if name in _OF_LANGCHAIN and value and _is_declared_by_program(cls, name):
                name = f"model.{name}"
            if isinstance(value, BaseLanguageModel):
                inner = self.read(value, type(value))
                value = inner.settings
                opaque.update({f"{name}.{path}": kind for path, kind in inner.opaque.items()})
            yield name, value

    def _name(self, obj: Any) -> str:
        """A name for an object in a fake, unique in this and any other process."""
        known = self._names.get(id(obj))
        if known is None:  # kept alive, so that no other object can take its address
            name = f"{type(obj).__qualname__} {uuid4().hex}"
            known = self._names.setdefault(id(obj), (obj, name))
        return known[1]


MODEL_SETTINGS: Final = ModelSettings()
