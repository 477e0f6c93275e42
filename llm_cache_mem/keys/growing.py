"""Settings that grow with each call of a model, so that no call can hit: logged once per class.

All state of a model is part of its requests. A model that records its calls in an attribute of its
own is thus another model in each call.
"""

import logging
from collections.abc import Iterator, Mapping
from typing import Any, Final
from weakref import WeakKeyDictionary

__all__ = ["note_settings"]

_log = logging.getLogger(__name__)

_IN_A_ROW: Final = 5
_CALLS: Final = 100
"""How many calls of a class are looked at."""


class _Seen:
    """The *calls* of a class: the sizes in the last one, and how often in a row each has grown."""

    def __init__(self) -> None:
        self.calls = 0
        self.sizes: dict[str, int] = {}
        self.grown: dict[str, int] = {}


_classes: WeakKeyDictionary[type, _Seen] = WeakKeyDictionary()


def note_settings(cls: type, settings: Mapping[str, Any]) -> None:
    """Note the *settings* of a *cls* that is about to be called; log once if one of them has grown
    with each of the last calls."""
    seen = _classes.get(cls)
    if seen is None:
        seen = _classes[cls] = _Seen()
    if seen.calls >= _CALLS:
        return
    seen.calls += 1
    before, seen.sizes = seen.sizes, dict(_sizes(settings))
    grown = [name for name, size in seen.sizes.items() if size > before.get(name, 0)]
    seen.grown = {name: seen.grown.get(name, 0) + 1 for name in grown}
    for name, times in seen.grown.items():
        if times > _IN_A_ROW:
            seen.calls = _CALLS
            _log.warning(
                "%s.%s has grown with each of the last %d calls. It is part of the key, so none of"
                " them can be answered from the cache. If the model records its calls there, make"
                " it a functools.cached_property, or use LLMCache(key_fn=ignoring(%r))",
                *(cls.__qualname__, name, _IN_A_ROW, name),
            )


def _sizes(settings: Mapping[str, Any]) -> Iterator[tuple[str, int]]:
    for name, value in settings.items():
        if isinstance(value, (list, dict)):
            yield name, len(value)
        elif type(value) is int and name.startswith("_"):
            yield name, value
