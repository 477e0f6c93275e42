"""Values that JSON cannot hold, as a tagged tree of plain JSON values, and back.

A tag is an object of one key that begins with ``$``: ``{"$tuple": [1, 2]}``. An object of the
user's own that looks like one, or that has keys other than strings, is written as its pairs:
``{"$dict": [["$tuple", [1, 2]]]}``.
"""

from collections.abc import Callable, Collection, Iterable
from functools import cached_property, partial
from operator import eq
from typing import Any

from llm_cache_mem.errors import EntryUnreadable, ValueNotCacheable
from llm_cache_mem.keys.wire_form import step
from llm_cache_mem.values.classes import class_ref, resolve, shape_of
from llm_cache_mem.values.plain import HIGHEST_INT, LOWEST_INT, MAX_DEPTH, MAX_NODES
from llm_cache_mem.values.scalars import (
    SCALAR_TAGS,
    Scalar,
    decode_scalar,
    from_base64,
    scalars,
    to_base64,
)
from llm_cache_mem.values.vectors import Vector

__all__ = ["from_tree", "to_tree"]


_Path = tuple[Any, Any] | None
_Decoder = Callable[[Any], Any]
_NESTED = frozenset({dict, list})
_MAX_COLLISIONS = 100  # of hashes in one set or dict


class _Walk:
    """One value on its way to a tree; counts nodes, so that shared parts cannot multiply without
    end."""

    def __init__(self) -> None:
        self.nodes = 0

    def encode(self, value: Any, path: _Path, depth: int = 0) -> Any:
        cls = type(value)
        if value is None or cls is bool:
            return value
        if cls is str:
            return (
                value
                if value.isascii() or _is_utf8(value)
                else {"$str": to_base64(value.encode("utf-8", "surrogatepass"))}
            )
        if cls is int:
            if LOWEST_INT < value < HIGHEST_INT:
                return value
            raise _refused(path, "an integer of more than 600 digits")
        if cls is float:
            return value if value - value == 0.0 else {"$float": repr(value)}
        self.nodes += 1
        if depth >= MAX_DEPTH or self.nodes > MAX_NODES:
            raise _refused(
                path, f"deeper than {MAX_DEPTH} levels, circular, or more than {MAX_NODES:,} parts"
            )
        if cls is dict:
            return self.mapping(value, path, depth)
        if cls is list:
            return self.items(value, path, depth)
        if cls is tuple:
            return {"$tuple": self.items(value, path, depth)}
        if cls is set or cls is frozenset:
            self.check_hashes(value, path)
            return {
                f"${cls.__name__}": sorted(self.items(value, path, depth), key=repr)
            }  # the same bytes in every process
        if cls is Vector:
            return {"$vector": [value.kind, to_base64(value.data)]}
        scalar = scalars().get(cls)
        return (
            self.instance(value, cls, path, depth)
            if scalar is None
            else self.scalar(value, scalar, path, depth)
        )

    def mapping(self, value: dict[Any, Any], path: _Path, depth: int) -> Any:
        below = depth + 1
        if all(
            type(key) is str and (key.isascii() or _is_utf8(key)) for key in value
        ) and not _looks_tagged(value):
            return {
                key: (
                    item
                    if item is None or (type(item) is str and item.isascii())
                    else self.encode(item, (path, key), below)
                )
                for key, item in value.items()
            }
        self.check_hashes(value, path)
        return {
            "$dict": [
                [self.encode(key, (path, ...), below), self.encode(item, (path, key), below)]
                for key, item in value.items()
            ]
        }

    def check_hashes(self, value: Iterable[Any], path: _Path) -> None:
        if _collide(value):
            raise _refused(path, f"more than {_MAX_COLLISIONS} parts with one hash")

    def items(self, value: Iterable[Any], path: _Path, depth: int) -> list[Any]:
        return [self.encode(item, (path, i), depth + 1) for i, item in enumerate(value)]

    def scalar(self, value: Any, scalar: Scalar, path: _Path, depth: int) -> Any:
        try:
            parts = scalar.encode(value)
        except ValueError as exc:
            raise _refused(path, str(exc)) from None
        return {scalar.tag: self.encode(parts, path, depth + 1)}

    def instance(self, value: Any, cls: type, path: _Path, depth: int) -> Any:
        kind, names = shape_of(cls)
        if kind is None:
            raise _refused(
                path,
                f"{_article(cls)} would not come back equal; a dataclass or pydantic model does,"
                " once registered",
            )
        ref = class_ref(cls)
        if ref is None:
            raise _refused(
                path,
                f"the class {cls.__qualname__} is not registered: call"
                f" llm_cache_mem.register({cls.__name__})",
            )
        try:
            return {f"${kind}": [ref, *getattr(self, kind)(value, cls, names, path, depth)]}
        except (
            AttributeError,
            ValueError,
        ):  # made by __new__ alone, or a tuple of another length than its names
            raise _refused(path, f"{_article(cls)} with a field that was never set") from None

    def enum(
        self, value: Any, cls: Any, names: tuple[str, ...], path: _Path, depth: int
    ) -> list[Any]:
        name = value._name_
        if cls.__members__.get(name) is not value:
            raise _refused(path, f"a combination of {cls.__qualname__} flags")
        return [name]

    def namedtuple(
        self, value: Any, cls: Any, names: tuple[str, ...], path: _Path, depth: int
    ) -> list[Any]:
        if getattr(value, "__dict__", None):
            raise _refused(path, f"{_article(cls)} with more than its fields")
        return [self.mapping(dict(zip(names, value, strict=True)), path, depth)]

    def dataclass(
        self, value: Any, cls: Any, names: tuple[str, ...], path: _Path, depth: int
    ) -> list[Any]:
        fields = {name: object.__getattribute__(value, name) for name in names}
        return [
            self.mapping(part, path, depth) for part in (fields, _beside_fields(value, cls, names))
        ]

    def model(
        self, value: Any, cls: Any, names: tuple[str, ...], path: _Path, depth: int
    ) -> list[Any]:
        state = value.__dict__
        fields = {name: state[name] for name in names if name in state}
        absent = [name for name in names if name not in state]
        was_set = value.__pydantic_fields_set__
        parts = [
            value.__pydantic_extra__,
            value.__pydantic_private__,
            _beside_fields(value, cls, names),
        ]
        encoded = [
            None if part is None else self.mapping(part, path, depth) for part in (fields, *parts)
        ]
        return [*encoded, None if was_set == fields.keys() else sorted(was_set), absent]


def to_tree(value: Any) -> Any:
    """The tagged tree of *value*; ValueNotCacheable, naming the place, for what would not come back
    equal and of its type."""
    try:
        return _Walk().encode(value, None)
    except RecursionError:
        raise ValueNotCacheable("value", "too deep") from None


def from_tree(node: Any) -> Any:
    """The value of the tagged tree *node*; EntryUnreadable, or any error of a tree that to_tree did
    not write."""
    if type(node) is dict:
        if _looks_tagged(node):
            ((tag, body),) = node.items()
            decoder = _DECODERS.get(tag)
            if decoder is None:
                raise EntryUnreadable("a tag that this version does not know", newer=True)
            return decoder(body)
        return {
            key: from_tree(item) if type(item) in _NESTED else item for key, item in node.items()
        }
    if type(node) is list:
        return [from_tree(item) if type(item) in _NESTED else item for item in node]
    return node


def _collide(items: Iterable[Any]) -> bool:
    """Whether many of *items* have one hash. Those of numbers can be chosen, and a set of a million
    of them would take hours."""
    hashes = sorted(map(hash, items))
    return any(map(eq, hashes, hashes[_MAX_COLLISIONS:]))


def _looks_tagged(node: dict[str, Any]) -> bool:
    return len(node) == 1 and next(iter(node))[:1] == "$"


def _is_utf8(text: str) -> bool:
    try:
        text.encode()
    except (
        UnicodeEncodeError
    ):  # lone surrogates: two of them would come back from JSON as one character
        return False
    return True


def _refused(path: _Path, reason: str) -> ValueNotCacheable:
    steps = []
    while path is not None:
        path, key = path
        steps.append(step(key))
    return ValueNotCacheable("value" + "".join(reversed(steps)), reason)


def _article(cls: type) -> str:
    return f"{'an' if cls.__name__[:1].lower() in 'aeiou' else 'a'} {cls.__name__}"


def _beside_fields(value: Any, cls: Any, names: tuple[str, ...]) -> dict[str, Any]:
    """What the instance holds that is no field: the request id that SDKs attach. Cached properties
    are worked out again."""
    state = getattr(value, "__dict__", {})
    beside = [name for name in state if name not in names]
    return {
        name: state[name]
        for name in beside
        if not isinstance(getattr(cls, name, None), cached_property)
    }


def _decode_scalar(tag: str, body: Any) -> Any:
    return decode_scalar(tag, from_tree(body))


def _hashed_apart(items: list[Any]) -> list[Any]:
    """*items*, if a set of them can be made in time that grows with their number."""
    if _collide(items):
        raise EntryUnreadable("too many parts with one hash")
    return items


def _decode_pairs(body: Any) -> dict[Any, Any]:
    keys = _hashed_apart([from_tree(key) for key, _ in body])
    pairs = dict(zip(keys, [from_tree(item) for _, item in body], strict=True))
    if len(pairs) != len(body):
        raise EntryUnreadable("a key twice in one object")
    return pairs


def _decode_float(text: str) -> float:
    if text not in ("nan", "inf", "-inf"):
        raise EntryUnreadable("a number that JSON could hold, tagged")
    return float(text)


def _class(kind: str, ref: Any, stored: Collection[str] = ()) -> Any:
    """The class that *ref* names, if it still is of *kind* and has the fields that were
    *stored*."""
    cls = resolve(ref)
    now, names = shape_of(cls)
    if now != kind or len(stored) != len(names) or set(stored) != set(names):
        raise EntryUnreadable(f"{cls.__qualname__} has other fields now than when this was stored")
    return cls


def _dict(node: Any) -> dict[str, Any]:
    found = from_tree(node)
    if type(found) is not dict:
        raise EntryUnreadable("the state of an instance is not an object")
    return found


def _decode_vector(body: Any) -> Vector:
    kind, text = body
    return Vector(kind, from_base64(text))


def _decode_enum(body: Any) -> Any:
    ref, name = body
    return _class("enum", ref).__members__[name]


def _decode_namedtuple(body: Any) -> Any:
    ref, node = body
    fields = _dict(node)
    cls = _class("namedtuple", ref, fields)
    return tuple.__new__(cls, [fields[name] for name in cls._fields])


def _decode_dataclass(body: Any) -> Any:
    ref, node, beside = body
    fields = _dict(node)
    found = object.__new__(_class("dataclass", ref, fields))
    for name, item in fields.items():
        object.__setattr__(found, name, item)  # as it was: no __init__, no validator, frozen or not
    if beside:
        found.__dict__.update(_dict(beside))
    return found


def _decode_model(body: Any) -> Any:
    ref, node, extra, private, beside, was_set, absent = body
    fields = _dict(node)
    found = object.__new__(_class("model", ref, [*fields, *absent]))
    set_state = object.__setattr__
    fields_set = fields if was_set is None else _hashed_apart(was_set)
    set_state(found, "__pydantic_fields_set__", set(fields_set))
    set_state(found, "__pydantic_extra__", None if extra is None else _dict(extra))
    set_state(found, "__pydantic_private__", None if private is None else _dict(private))
    set_state(found, "__dict__", fields | _dict(beside))
    return found


_DECODERS: dict[str, _Decoder] = {
    "$dict": _decode_pairs,
    "$tuple": lambda body: tuple(from_tree(body)),
    "$set": lambda body: set(_hashed_apart(from_tree(body))),
    "$frozenset": lambda body: frozenset(_hashed_apart(from_tree(body))),
    "$float": _decode_float,
    "$str": lambda body: from_base64(body).decode("utf-8", "surrogatepass"),
    "$enum": _decode_enum,
    "$namedtuple": _decode_namedtuple,
    "$dataclass": _decode_dataclass,
    "$model": _decode_model,
    "$vector": _decode_vector,
} | {tag: partial(_decode_scalar, tag) for tag in SCALAR_TAGS}
