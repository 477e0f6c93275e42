"""Values that JSON cannot hold, as a tagged tree of plain JSON values, and back.

A tag is an object of one key that begins with ``$``: ``{"$tuple": [1, 2]}``. An object of the user's own that looks like one,
or that has keys other than strings, is written as its pairs: ``{"$dict": [["$tuple", [1, 2]]]}``.
"""

from collections.abc import Callable, Collection
from functools import lru_cache
from typing import Any

from llm_cache_mem.codec_classes import class_ref, field_names, kind_of, resolve
from llm_cache_mem.errors import EntryUnreadable, ValueNotCacheable

__all__ = ["HIGHEST_INT", "LOWEST_INT", "MAX_DEPTH", "MAX_NODES", "from_tree", "scalar_types", "to_tree"]

MAX_DEPTH = 100
MAX_NODES = 1_000_000
HIGHEST_INT = 10**4000  # int() and str() refuse more than 4,300 digits
LOWEST_INT = -HIGHEST_INT

_Path = tuple[Any, Any] | None
_Encoder = Callable[[Any], Any]
_NESTED = frozenset({dict, list})


class _Walk:
    """One value on its way to a tree; counts nodes, so that shared parts cannot multiply without end."""

    def __init__(self) -> None:
        self.nodes = 0

    def encode(self, value: Any, path: _Path, depth: int = 0) -> Any:
        cls = type(value)
        if cls is str:
            return value if value.isascii() or _is_utf8(value) else {"$str": _base64(value.encode("utf-8", "surrogatepass"))}
        if value is None or cls is bool:
            return value
        self.nodes += 1
        if depth > MAX_DEPTH or self.nodes > MAX_NODES:
            raise _refused(path, f"deeper than {MAX_DEPTH} levels, circular, or more than {MAX_NODES:,} parts")
        if cls is dict:
            return self.mapping(value, path, depth)
        if cls is list:
            return self.items(value, path, depth)
        if cls is int:
            if LOWEST_INT < value < HIGHEST_INT:
                return value
            raise _refused(path, "an integer of more than 4,000 digits")
        if cls is float:
            return value if value - value == 0.0 else {"$float": repr(value)}
        return self.tagged(value, cls, path, depth)

    def tagged(self, value: Any, cls: type, path: _Path, depth: int) -> Any:
        if cls in (tuple, set, frozenset):
            return {f"${cls.__name__}": self.items(value, path, depth)}
        scalar = _scalars().get(cls)
        if scalar is not None:
            tag, encode, _ = scalar
            try:
                return {tag: self.encode(encode(value), path, depth + 1)}
            except ValueError as exc:
                raise _refused(path, str(exc)) from None
        kind = kind_of(cls)
        if kind is None:
            raise _refused(path, f"{_article(cls)} is not data that comes back equal; a model or dataclass can be, once registered")
        ref = class_ref(cls)
        if ref is None:
            raise _refused(path, f"the class {cls.__qualname__} is not registered: call llm_cache_mem.register({cls.__name__})")
        return {f"${kind}": [ref, *getattr(self, kind)(value, cls, path, depth)]}

    def mapping(self, value: dict[Any, Any], path: _Path, depth: int) -> Any:
        if all(type(key) is str and (key.isascii() or _is_utf8(key)) for key in value) and not _looks_tagged(value):
            return {
                key: item if item is None or (type(item) is str and item.isascii()) else self.encode(item, (path, key), depth + 1)
                for key, item in value.items()
            }
        below = depth + 1
        return {"$dict": [[self.encode(key, (path, ...), below), self.encode(item, (path, key), below)] for key, item in value.items()]}

    def items(self, value: Any, path: _Path, depth: int) -> list[Any]:
        return [self.encode(item, (path, i), depth + 1) for i, item in enumerate(value)]

    def enum(self, value: Any, cls: Any, path: _Path, depth: int) -> list[Any]:
        name = value._name_
        if cls.__members__.get(name) is not value:
            raise _refused(path, f"a combination of {cls.__qualname__} flags")
        return [name]

    def namedtuple(self, value: Any, cls: Any, path: _Path, depth: int) -> list[Any]:
        return [list(field_names(cls)), self.items(tuple(value), path, depth)]

    def dataclass(self, value: Any, cls: Any, path: _Path, depth: int) -> list[Any]:
        names = field_names(cls)
        try:
            fields = {name: object.__getattribute__(value, name) for name in names}
        except AttributeError:
            raise _refused(path, "a dataclass with a field that was never set") from None
        other = _kept_beside_fields(value, cls, names)
        return [self.mapping(part, path, depth) for part in (fields, other)]

    def model(self, value: Any, cls: Any, path: _Path, depth: int) -> list[Any]:
        names = field_names(cls)
        state = value.__dict__
        fields = {name: state[name] for name in names if name in state}
        absent = [name for name in names if name not in state]
        was_set = value.__pydantic_fields_set__
        parts = [value.__pydantic_extra__, value.__pydantic_private__, _kept_beside_fields(value, cls, names)]
        encoded = [None if part is None else self.mapping(part, path, depth) for part in (fields, *parts)]
        return [*encoded, None if was_set == fields.keys() else sorted(was_set), absent]


def to_tree(value: Any) -> Any:
    """The tagged tree of *value*; ValueNotCacheable, naming the place, for what would not come back equal and of its type."""
    try:
        return _Walk().encode(value, None)
    except RecursionError:
        raise ValueNotCacheable("value", "too deep") from None


def from_tree(node: Any) -> Any:
    """The value of the tagged tree *node*; EntryUnreadable, or any error of a tree that to_tree did not write."""
    if type(node) is dict:
        if _looks_tagged(node):
            ((tag, body),) = node.items()
            decoder = _DECODERS.get(tag)
            if decoder is None:
                raise EntryUnreadable("a tag that this version does not know", newer=True)
            return decoder(body)
        return {key: from_tree(item) if type(item) in _NESTED else item for key, item in node.items()}
    if type(node) is list:
        return [from_tree(item) if type(item) in _NESTED else item for item in node]
    return node


def scalar_types() -> Collection[type]:
    """The types whose values cannot change, besides those of JSON."""
    return _scalars().keys()


def _looks_tagged(node: dict[str, Any]) -> bool:
    return len(node) == 1 and next(iter(node))[:1] == "$"


def _is_utf8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:  # lone surrogates: two of them would come back from JSON as one character
        return False
    return True


def _refused(path: _Path, reason: str) -> ValueNotCacheable:
    steps = []
    while path is not None:
        path, step = path
        steps.append(_step(step))
    return ValueNotCacheable("value" + "".join(reversed(steps)), reason)


def _step(step: Any) -> str:
    """One step of a path; a key that is no name might be a user's text, and stays out of error messages."""
    if type(step) is str and step.isidentifier() and len(step) <= 40:
        return f".{step}"
    return f"[{step}]" if type(step) is int else "[...]"


def _article(cls: type) -> str:
    return f"{'an' if cls.__name__[:1].lower() in 'aeiou' else 'a'} {cls.__name__}"


def _kept_beside_fields(value: Any, cls: Any, names: tuple[str, ...]) -> dict[str, Any]:
    """What the instance holds that is no field: the request id that SDKs attach. Cached properties are worked out again."""
    from functools import cached_property

    state = getattr(value, "__dict__", {})
    beside = [name for name in state if name not in names]
    return {name: state[name] for name in beside if not isinstance(getattr(cls, name, None), cached_property)}


def _base64(data: bytes) -> str:
    from binascii import b2a_base64

    return b2a_base64(data, newline=False).decode()


def _unbase64(text: str) -> bytes:
    from binascii import a2b_base64

    return a2b_base64(text, strict_mode=True)


@lru_cache(maxsize=1)
def _scalars() -> dict[type, tuple[str, _Encoder, _Encoder]]:
    """Type: its tag, to JSON-able parts, and back. Imported here: a program that caches plain dicts needs none of them."""
    from datetime import date, datetime, time, timedelta, timezone
    from decimal import Decimal
    from uuid import UUID

    def zone(value: Any) -> Any:
        if value is None:
            return None
        if type(value) is timezone:
            return list(value.__getinitargs__())  # type: ignore[attr-defined]  # how copy and pickle take it apart
        if type(value).__module__.startswith("pydantic_core"):  # a fixed offset too, and equal to the same timezone
            return [value.utcoffset(None)]
        raise ValueError("a time zone that is not a fixed offset; use datetime.astimezone(timezone.utc)")

    def clock(value: Any) -> Any:
        return [value.replace(tzinfo=None, fold=0).isoformat(), value.fold, zone(value.tzinfo)]

    def unclock(cls: Any) -> _Encoder:
        def decode(parts: Any) -> Any:
            text, fold, tz = parts
            return cls.fromisoformat(text).replace(fold=fold, tzinfo=None if tz is None else timezone(*tz))

        return decode

    return {
        bytes: ("$bytes", _base64, _unbase64),
        datetime: ("$datetime", clock, unclock(datetime)),
        time: ("$time", clock, unclock(time)),
        date: ("$date", date.isoformat, date.fromisoformat),
        timedelta: ("$timedelta", lambda value: [value.days, value.seconds, value.microseconds], lambda parts: timedelta(*parts)),
        Decimal: ("$decimal", str, Decimal),
        UUID: ("$uuid", str, UUID),
    }


@lru_cache(maxsize=1)
def _scalar_decoders() -> dict[str, _Encoder]:
    return {tag: decode for tag, _, decode in _scalars().values()}


def _decode_scalar(tag: str) -> _Encoder:
    return lambda body: _scalar_decoders()[tag](from_tree(body))


def _decode_pairs(body: Any) -> dict[Any, Any]:
    pairs = {from_tree(key): from_tree(item) for key, item in body}
    if len(pairs) != len(body):
        raise EntryUnreadable("a key twice in one object")
    return pairs


def _decode_float(text: str) -> float:
    if text not in ("nan", "inf", "-inf"):
        raise EntryUnreadable("a number that JSON could hold, tagged")
    return float(text)


def _resolve_as(kind: str, ref: Any) -> Any:
    cls = resolve(ref)
    if kind_of(cls) != kind:
        raise EntryUnreadable("a class of another kind than the one that was stored")
    return cls


def _check_fields(stored: Any, cls: Any) -> None:
    if sorted(stored) != sorted(field_names(cls)):
        raise EntryUnreadable(f"{cls.__qualname__} has other fields now than when this was stored")


def _decode_enum(body: Any) -> Any:
    ref, name = body
    return _resolve_as("enum", ref).__members__[name]


def _decode_namedtuple(body: Any) -> Any:
    ref, names, items = body
    cls = _resolve_as("namedtuple", ref)
    if tuple(names) != field_names(cls) or len(items) != len(names):
        raise EntryUnreadable(f"{cls.__qualname__} has other fields now than when this was stored")
    return tuple.__new__(cls, from_tree(items))


def _decode_dataclass(body: Any) -> Any:
    ref, fields, other = body
    cls = _resolve_as("dataclass", ref)
    fields = from_tree(fields)
    _check_fields(fields, cls)
    found = object.__new__(cls)
    for name, item in {**fields, **from_tree(other)}.items():
        object.__setattr__(found, name, item)  # as it was: no __init__, no validator, frozen or not
    return found


def _decode_model(body: Any) -> Any:
    ref, fields, extra, private, other, was_set, absent = body
    cls = _resolve_as("model", ref)
    fields = from_tree(fields)
    _check_fields([*fields, *absent], cls)
    found = object.__new__(cls)
    set_state = object.__setattr__
    set_state(found, "__pydantic_fields_set__", set(fields if was_set is None else was_set))
    set_state(found, "__pydantic_extra__", from_tree(extra))
    set_state(found, "__pydantic_private__", from_tree(private))
    set_state(found, "__dict__", {**fields, **from_tree(other)})
    return found


_DECODERS: dict[str, _Encoder] = {
    "$dict": _decode_pairs,
    "$tuple": lambda body: tuple(from_tree(body)),
    "$set": lambda body: set(from_tree(body)),
    "$frozenset": lambda body: frozenset(from_tree(body)),
    "$float": _decode_float,
    "$str": lambda body: _unbase64(body).decode("utf-8", "surrogatepass"),
    "$enum": _decode_enum,
    "$namedtuple": _decode_namedtuple,
    "$dataclass": _decode_dataclass,
    "$model": _decode_model,
} | {tag: _decode_scalar(tag) for tag in ("$bytes", "$datetime", "$time", "$date", "$timedelta", "$decimal", "$uuid")}
