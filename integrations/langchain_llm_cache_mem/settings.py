"""The settings of a LangChain model that are part of its requests, as the model is now."""

from collections.abc import Callable, Iterator, Sized
from typing import Any, Final
from uuid import uuid4
from weakref import WeakKeyDictionary

from langchain_core.language_models import BaseLanguageModel
from pydantic import BaseModel
from pydantic_core import PydanticUndefined

from llm_cache_mem.keys.identity import Identity, describe, settings_of

__all__ = ["MODEL_SETTINGS", "ModelSettings", "is_core_fake"]

_TRANSPORT: Final = frozenset(
    {
        *("batch_size", "name"),
        *("stream", "streaming", "stream_usage", "stream_options", "disable_streaming"),
    }
)
"""Settings by which LangChain names a model and decides how to call it."""
_RUN: Final = frozenset(
    {"cache", "callbacks", "custom_get_token_ids", "metadata", "profile", "rate_limiter", "tags"}
    | {"verbose"}
)
"""Fields of every model that are about runs. A subclass may use such a name for a parameter."""


def is_core_fake(cls: type) -> bool:
    """Whether *cls* is one of langchain-core's own models, which are all made for tests."""
    return cls.__module__.startswith("langchain_core.")


class ModelSettings:
    """Reads the settings of models, and learns which of their attributes are no settings because
    models change them while they answer. Thread-safe."""

    def __init__(self) -> None:
        self._changing: WeakKeyDictionary[type, frozenset[str]] = WeakKeyDictionary()
        self._watched: dict[int, tuple[Any, int]] = {}
        self._names: dict[int, tuple[Any, str]] = {}

    def read(self, model: BaseModel, cls: type[BaseModel]) -> Identity:
        """The identity of *model*, a *cls*."""
        opaque: dict[str, str] = {}
        settings = self._settings(model, cls, opaque)
        found = (
            describe(settings, transport=_TRANSPORT, unknown=self._name)
            if is_core_fake(cls)
            else describe(settings, transport=_TRANSPORT)
        )
        found.settings["_class"] = f"{cls.__module__}.{cls.__qualname__}"
        return Identity(found.settings, {**found.opaque, **opaque})

    def wrote(self, cls: type[BaseModel], name: str, old: Any, new: Any) -> None:
        """Learn that a *cls* set its own attribute *name* while it answered: a count or another
        object that is private is no setting."""
        counts = type(old) is int and type(new) is int and _may_count(cls, name)
        if counts or (name.startswith("_") and not isinstance(new, (str, float, int))):
            self._learn(cls, name)

    def watch(self, model: BaseModel, cls: type[BaseModel]) -> Callable[[], None]:
        """Watch *model*, which is about to be called; call the result when it has answered.

        A private collection that grew meanwhile is a record of calls, and a private number that is
        one more than before is a count. Neither is a setting. What is public may have been set by
        the user meanwhile.
        """
        before = dict(_countable(model, cls))
        for value in before.values():
            if isinstance(value, Sized):
                self._watched.setdefault(id(value), (value, len(value)))

        def finish() -> None:
            for name, value in _countable(model, cls):
                if type(value) is int and before.get(name) == value - 1:
                    self._learn(cls, name)
                self._has_grown(cls, name, value)
            for value in before.values():
                self._watched.pop(id(value), None)

        return finish

    def _settings(
        self, model: BaseModel, cls: type[BaseModel], opaque: dict[str, str]
    ) -> Iterator[tuple[str, Any]]:
        """The settings; what is opaque in models inside *model* is added to *opaque*."""
        fields, changing = cls.model_fields, self._changing.get(cls, frozenset())
        for name, value in settings_of(model):
            if name in _RUN and name in fields and fields[name].exclude:
                continue
            if name in changing or (self._watched and self._has_grown(cls, name, value)):
                value = _initial(cls, name)
            if isinstance(value, BaseLanguageModel):
                inner = self.read(value, type(value))
                value = inner.settings
                opaque.update({f"{name}.{path}": kind for path, kind in inner.opaque.items()})
            yield name, value

    def _has_grown(self, cls: type, name: str, value: Any) -> bool:
        """Whether *value* is a collection that grew while its model was called."""
        watched = self._watched.get(id(value))
        if watched is None or watched[0] is not value or len(value) <= watched[1]:
            return False
        self._learn(cls, name)
        return True

    def _learn(self, cls: type, name: str) -> None:
        self._changing[cls] = self._changing.get(cls, frozenset()) | {name}

    def _name(self, obj: Any) -> str:
        """A name for an object in a fake, unique in this and any other process."""
        known = self._names.get(id(obj))
        if known is None:  # kept alive, so that no other object can take its address
            name = f"{type(obj).__qualname__} {uuid4().hex}"
            known = self._names.setdefault(id(obj), (obj, name))
        return known[1]


MODEL_SETTINGS: Final = ModelSettings()
"""What this process has learnt; a class is the same whichever cache is over it."""


def _countable(model: BaseModel, cls: type[BaseModel]) -> Iterator[tuple[str, Any]]:
    """The numbers of *model* that may be counts, and its private collections."""
    for name, value in settings_of(model):
        counts = type(value) is int and _may_count(cls, name)
        if counts or (name.startswith("_") and isinstance(value, (list, dict, set))):
            yield name, value


def _may_count(cls: type[BaseModel], name: str) -> bool:
    """Whether a number called *name* may be a count: it is private, or a field of a fake of
    langchain-core."""
    return name.startswith("_") or any(
        is_core_fake(base) and name in getattr(base, "model_fields", ()) for base in cls.__mro__
    )


def _initial(cls: type[BaseModel], name: str) -> Any:
    """What the attribute holds in a new model; None if nothing is declared."""
    if name in cls.model_fields:
        return cls.model_fields[name].get_default(call_default_factory=True, validated_data={})
    private = cls.__private_attributes__.get(name)
    if private is None:
        return None
    made: Any = private.default_factory
    default = private.get_default() if made is None else made()
    return None if default is PydanticUndefined else default
