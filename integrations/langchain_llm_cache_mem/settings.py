"""What a model object is, as params: every setting that is plain data, and a name of its own for
each object that is not."""

from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any, Final
from uuid import uuid4

from pydantic import BaseModel, SecretBytes, SecretStr

from llm_cache_mem import RequestNotCacheable
from llm_cache_mem.keys import digest

__all__ = ["Identities", "settings_of"]

_CLIENTS: Final = ("root_client", "client")
"""Fields that hold an SDK's client from the start. One that is made for the first call would make
the second another request."""
_SECRET: Final = object()


class Identities:
    """What is known about models beside their fields. Thread-safe."""

    def __init__(self) -> None:
        self._named: dict[int, tuple[Any, str]] = {}
        self._counters: set[tuple[type[BaseModel], str]] = set()

    def name(self, obj: Any) -> str:
        """A name for an object that has no JSON form: no two that are alive have the same, here or
        in any other process."""
        known = self._named.get(id(obj))
        if (
            known is None
        ):  # it is kept alive from here on, so that no other object can take its address
            known = self._named.setdefault(
                id(obj), (obj, f"{type(obj).__qualname__} {uuid4().hex}")
            )
        return known[1]

    def wrote(self, cls: type[BaseModel], name: str, old: Any, new: Any) -> None:
        """A model set its own field while it answered. Where that is a count, as fakes keep one, it
        is no setting."""
        if type(old) is int and type(new) is int:
            self._counters.add((cls, name))

    def is_counter(self, cls: type[BaseModel], name: str) -> bool:
        return (cls, name) in self._counters


def settings_of(model: BaseModel, cls: type[BaseModel], identities: Identities) -> dict[str, Any]:
    """The settings of *model*, a *cls*, as it is now: its server's URL is one of them, its secrets
    are not."""
    settings: dict[str, Any] = {"_class": f"{cls.__module__}.{cls.__qualname__}"}
    secrets = getattr(model, "lc_secrets", {})
    for name, value in _state(model, cls, identities):
        plain = _SECRET if name in secrets else _plain(value, identities)
        if plain is not _SECRET:
            settings[name] = plain
    for name in _CLIENTS:
        url = _base_url(model.__dict__.get(name))
        if url is not None:
            settings[f"{name}.base_url"] = url
    return settings


def _state(
    model: BaseModel, cls: type[BaseModel], identities: Identities
) -> Iterator[tuple[str, Any]]:
    """The fields that hold something. Of those that are excluded from dumps (clients, callbacks)
    only bare scalars are settings."""
    excluded = _excluded(cls)
    for name, value in model.__dict__.items():
        if (
            value is not None
            and name in excluded
            and (not excluded[name] or isinstance(value, (str, int, float)))
        ):
            yield (
                name,
                cls.model_fields[name].default if identities.is_counter(cls, name) else value,
            )
    yield from (model.__pydantic_extra__ or {}).items()


@cache
def _excluded(cls: type[BaseModel]) -> Mapping[str, bool]:
    return {name: bool(field.exclude) for name, field in cls.model_fields.items()}


def _plain(value: Any, identities: Identities) -> Any:
    """*value* as what a key can be made of, or _SECRET."""
    if isinstance(value, (str, int, float)):
        return value
    if isinstance(value, (SecretStr, SecretBytes)):
        return _SECRET
    if isinstance(value, Mapping):
        items = ((name, _plain(item, identities)) for name, item in value.items())
        return {name: item for name, item in items if item is not _SECRET}
    if isinstance(value, (list, tuple)):
        return [
            item for item in (_plain(item, identities) for item in value) if item is not _SECRET
        ]
    if isinstance(value, (set, frozenset)) and all(isinstance(item, str) for item in value):
        return sorted(value)
    try:
        digest.digest_of(value)
    except RequestNotCacheable:
        return identities.name(value)
    return value


def _base_url(client: Any) -> str | None:
    """Where *client* sends its requests: an SDK may have read that from the environment."""
    for holder in (client, getattr(client, "_client", None)):
        url = getattr(holder, "base_url", None)
        if isinstance(url, str) or type(url).__name__ == "URL":
            return str(url)
    return None
