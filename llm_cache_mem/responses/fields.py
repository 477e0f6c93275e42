"""Looking into what others made: fields of dicts and objects alike, without importing their types
and without raising."""

from typing import Any

__all__ = ["field", "given", "has", "listed", "word"]

_ABSENT = object()


def field(obj: Any, *names: str) -> Any:
    """The first of *names* that *obj* has as key or attribute with a value other than None; else
    None."""
    if isinstance(obj, dict):
        for name in names:
            if (value := obj.get(name)) is not None:
                return value
        return None
    if obj is None:
        return None
    for name in names:
        if (value := _attribute(obj, name)) is not None and value is not _ABSENT:
            return value
    return None


def has(obj: Any, name: str) -> bool:
    """Whether *obj* has *name* as key or attribute at all, None included."""
    return name in obj if isinstance(obj, dict) else _attribute(obj, name) is not _ABSENT


def given(obj: Any, name: str) -> bool:
    """As ``has``, but of a pydantic object only what it was made with, not what its class fills
    in."""
    made_with = _attribute(obj, "model_fields_set")
    return name in made_with if isinstance(made_with, set) else has(obj, name)


def listed(value: Any) -> list[Any]:
    """*value* if it is a list; else none."""
    return value if isinstance(value, list) else []


def word(value: Any) -> str:
    """*value* as a lower-case word: of an enum member its value or its name; "" for anything else
    that is no string."""
    if not isinstance(value, str):
        value = field(value, "name")
    return value.lower() if isinstance(value, str) else ""


def _attribute(obj: Any, name: str) -> Any:
    try:
        return getattr(obj, name, _ABSENT)
    except Exception:  # noqa: BLE001 - a foreign property may raise anything, and then has nothing to tell
        return _ABSENT
