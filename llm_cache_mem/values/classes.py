"""Which classes a stored value may become: those the program registered, and the response types of
loaded SDKs."""

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from enum import Enum
from functools import lru_cache
from threading import RLock
from typing import Any, Literal, TypeVar, get_args, get_type_hints

from llm_cache_mem._util.fork import reset_after_fork
from llm_cache_mem.errors import EntryUnreadable
from llm_cache_mem.values.shapes import digest_of

__all__ = [
    "class_ref",
    "named_in",
    "register",
    "register_package",
    "resolve",
    "shape_of",
]

_C = TypeVar("_C", bound=type)
Kind = Literal["model", "dataclass", "namedtuple", "enum"]

# The last class registered under a name wins: a notebook cell may run twice.
_registered: dict[str, type] = {}
_names: dict[type, str] = {}
_refs: dict[type, str] = {}  # of both kinds, as class_ref gave them
_classes: dict[str, Any] = {}  # and as resolve found them
_complete: set[type] = set()  # registered with the classes of their fields
_packages = {"anthropic.types", "anthropic.lib.streaming", "openai.types", "openai.lib.streaming"}
_arguments: dict[str, Any] = {
    f"builtins:{cls.__name__}": cls
    for cls in (str, int, float, bool, bytes, dict, list, object, type(None))
}
_arguments["typing:Any"] = Any


class _Tables:
    """Whose turn it is to change the tables above. Fork-safe."""

    def __init__(self) -> None:
        self.lock = RLock()
        reset_after_fork(self)

    def _after_fork(self) -> None:
        self.lock = RLock()


_tables = _Tables()


def register(cls: _C, *, name: str | None = None) -> _C:
    """Let cached values hold instances of *cls*, and of the classes its fields are annotated with;
    returns *cls*.

    For pydantic models, dataclasses, named tuples and enums; TypeError for others. *name* is what
    the stored data calls the class, ``module:qualname`` unless given: give one to a class that may
    move, or that two scripts call ``__main__:Name``. Of two classes registered under one name the
    later counts. May be used as a decorator, from any thread, more than once.
    """
    if shape_of(cls)[0] is None:
        raise TypeError(
            f"register() takes pydantic models, dataclasses, named tuples and enums, not {cls!r}"
        )
    with _tables.lock:
        if name is not None or cls not in _complete:
            _register_all(cls, name or _names.get(cls))
    return cls


def _register_all(cls: type, name: str | None) -> None:
    """Register *cls* and the classes that its fields are annotated with."""
    pending: list[type] = [cls]
    seen: set[type] = {cls}
    while pending:
        current = pending.pop()
        _name_class(current, name if current is cls else None)
        for other in _annotated_classes(current):
            if other not in seen and other not in _names and _package_of(other.__module__) is None:
                seen.add(other)
                pending.append(other)
    _complete.add(cls)


@contextmanager
def named_in(params: Mapping[str, Any]) -> Iterator[bool]:
    """Hold the classes that a request names, as in ``response_format=Invoice``, to be those
    registered last; gives whether there are any."""
    classes = [
        value
        for value in params.values()
        if isinstance(value, type) and shape_of(value)[0] is not None
    ]
    if not classes:
        yield False
        return
    with _tables.lock:  # or a request that names another class of the same name could come between
        for cls in classes:
            register(cls)
        yield True


def register_package(prefix: str) -> None:
    """Let cached values hold models, dataclasses and enums defined in module *prefix* or below,
    once it is imported."""
    _packages.add(prefix)


@lru_cache(maxsize=1024)
def shape_of(cls: Any) -> tuple[Kind | None, tuple[str, ...]]:
    """How instances of *cls* are taken apart and rebuilt, None when they cannot be; and the names
    of its fields."""
    main = sys.modules.get("pydantic.main")
    if main is not None and issubclass(cls, main.BaseModel):
        return "model", tuple(cls.__pydantic_fields__)
    if issubclass(cls, Enum):
        return "enum", ()
    if issubclass(cls, tuple):
        names = getattr(cls, "_fields", None)
        return (None, ()) if names is None else ("namedtuple", tuple(names))
    if hasattr(cls, "__dataclass_fields__") and not issubclass(
        cls, (dict, list, set, frozenset, str, bytes, int, float, BaseException)
    ):
        from dataclasses import fields

        return "dataclass", tuple(field.name for field in fields(cls))
    return None, ()


def class_ref(cls: type) -> Any:
    """What stored data calls *cls*: a string, with its shape for a class that was registered, or
    for ``Origin[Argument]`` a list; None if it could not be decoded."""
    ref = _refs.get(cls)
    if ref is not None:
        return ref
    name = _names.get(cls)
    if name is not None:
        ref = _refs[cls] = f"{name}#{digest_of(cls)}"
        return ref
    generic = getattr(cls, "__pydantic_generic_metadata__", None)
    if generic is not None and generic["origin"] is not None:
        parts = [class_ref(generic["origin"]), *map(_argument_ref, generic["args"])]
        return parts if all(isinstance(part, str) for part in parts) else None
    name = _default_name(cls)
    if _package_of(cls.__module__) is None or _from_modules(name) is not cls:
        return None
    _refs[cls] = name
    return name


def resolve(ref: Any) -> Any:
    """The class that *ref* names, never importing anything; EntryUnreadable with *newer* when there
    is none here and now."""
    if isinstance(ref, list):
        origin, *arguments = map(_resolve_argument, ref)
        if not hasattr(origin, "__pydantic_generic_metadata__"):
            raise EntryUnreadable("arguments for a class that takes none")
        return origin[tuple(arguments)]
    cls = _classes.get(ref)
    if cls is not None:
        return cls
    name, _, shape = ref.partition("#")
    cls = _registered.get(name)
    if cls is None and _package_of(name.partition(":")[0]) is not None:
        cls = _from_modules(name)
    if cls is None or shape_of(cls)[0] is None:
        raise EntryUnreadable(
            "a class it holds is not registered, or its package is not imported yet", newer=True
        )
    if shape and shape != digest_of(cls):
        raise EntryUnreadable(f"{cls.__qualname__} has other fields now than when this was stored")
    _classes[ref] = cls
    return cls


def _default_name(cls: type) -> str:
    return f"{cls.__module__}:{cls.__qualname__}"


def _name_class(cls: type, name: str | None) -> None:
    name = name or _default_name(cls)
    previous = _registered.get(name)
    if previous is cls and _names.get(cls) == name:
        return
    _registered[name] = cls
    if previous is not None and previous is not cls:
        _names.pop(previous, None)
    _names[cls] = name
    for table in (_refs, _classes, _complete):
        table.clear()


def _package_of(module: str) -> str | None:
    while module:
        if module in _packages:
            return module
        module = module.rpartition(".")[0]
    return None


def _from_modules(name: str) -> Any:
    """What a loaded module holds under *name*, looked up without getattr, which a lazy module
    answers with an import."""
    module, _, qualname = name.partition(":")
    found: Any = sys.modules.get(module)
    for part in qualname.split("."):
        found = getattr(found, "__dict__", {}).get(part)
    if isinstance(found, TypeVar):
        return found
    return found if isinstance(found, type) and _default_name(found) == name else None


def _argument_ref(argument: Any) -> Any:
    for name, known in _arguments.items():
        if argument is known:
            return name
    if isinstance(
        argument, TypeVar
    ):  # the SDKs parse into Parsed...[ResponseFormatT], with the variable left open
        name = f"{argument.__module__}:{argument.__name__}"
        return name if _sdk_variable(name) is argument else None
    return class_ref(argument) if isinstance(argument, type) else None


def _resolve_argument(ref: str) -> Any:
    return _arguments.get(ref) or _sdk_variable(ref) or resolve(ref)


def _sdk_variable(name: str) -> Any:
    """The type variable called *name*, if a package whose classes are allowed defines it in a
    loaded module."""
    package = name.partition(".")[0]
    found = (
        _from_modules(name)
        if any(allowed.partition(".")[0] == package for allowed in _packages)
        else None
    )
    return found if isinstance(found, TypeVar) else None


def _annotated_classes(cls: Any) -> "set[type]":
    """The classes that a program would have to register along with *cls*."""
    if hasattr(cls, "__pydantic_fields__"):
        pending = [field.annotation for field in cls.__pydantic_fields__.values()]
    elif hasattr(cls, "__annotations__"):
        try:
            pending = list(get_type_hints(cls).values())
        except (
            NameError,
            TypeError,
            AttributeError,
            SyntaxError,
        ):  # an annotation that only a type checker can follow
            return set()
    else:
        return set()
    found: set[type] = set()
    while pending:
        annotation = pending.pop()
        pending.extend(
            argument for argument in get_args(annotation) if not isinstance(argument, (str, bytes))
        )
        if isinstance(annotation, type) and shape_of(annotation)[0] is not None:
            found.add(annotation)
    return found
