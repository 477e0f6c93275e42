"""Functions in keys: which function a call is of, by its name, its code and what it reads outside
of itself, and with which arguments."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from functools import lru_cache, partial
from hashlib import sha256
from types import CodeType, FunctionType, MethodType
from typing import Any, Final

from llm_cache_mem._util.modules import module_name
from llm_cache_mem.errors import RequestNotCacheable
from llm_cache_mem.keys import digest
from llm_cache_mem.keys.request import FUNCTION, SCOPE

__all__ = ["Identity", "arguments", "by_name", "fingerprint", "globals_read", "name_of"]

# They hold a dot, so that no parameter of a function can be called the same.
_POSITIONAL, _KEYWORDS = "cached.args", "cached.kwargs"
_MAX_DEPTH: Final = 16


class Identity:
    """Which function is called: its name and code or, instead of the code, *version*; and the plain
    values outside that it reads."""

    def __init__(self, fn: Callable[..., Any], version: str) -> None:
        self._itself = [name_of(fn), version] if version else _identity(fn)
        self._scope = _Scope(fn)

    def params(self) -> dict[str, Any]:
        """The function's part of a request made now; it may hold objects without a wire
        form."""
        params: dict[str, Any] = {FUNCTION: self._itself}
        scope = self._scope.values()
        if scope:
            params[SCOPE] = scope
        return params


def name_of(fn: Any) -> str:
    """``module:qualname`` of a function, or of the class of what is called like one."""
    return f"{module_name(fn)}:{getattr(fn, '__qualname__', type(fn).__qualname__)}"


def fingerprint(code: CodeType) -> str:
    """A digest of what *code* does, the same in every process of one Python version; edits of it,
    but not of its place, change it."""
    parts: list[str] = [
        code.co_code.hex(),
        code.co_exceptiontable.hex(),
        *code.co_names,
        *code.co_varnames,
        *code.co_freevars,
    ]
    parts += [_constant(value) for value in code.co_consts]
    return sha256("\0".join(parts).encode("utf-8", "surrogatepass")).hexdigest()[:32]


def arguments(
    signature: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> dict[str, Any] | None:
    """The arguments of a call by name, defaults applied; None if they do not fit: what is wrong is
    for the function to say."""
    try:
        bound = signature.bind(*args, **kwargs)
    except TypeError:
        return None
    bound.apply_defaults()
    named: dict[str, Any] = {}
    for name, value in bound.arguments.items():
        how = signature.parameters[name].kind
        if how is how.VAR_KEYWORD:
            # no keyword of **kwargs may be called like anything else in the request
            free = not any(
                key in signature.parameters or "." in key or key == "messages" for key in value
            )
            named.update(value if free else {_KEYWORDS: value})
        else:
            named[_POSITIONAL if how is how.VAR_POSITIONAL else name] = value
    return named


def by_name(signature: Any, named: Mapping[str, Any]) -> dict[str, Any] | None:
    """``arguments`` of a call that is written as names only, those of positional-only parameters
    too."""
    first = [
        name
        for name, parameter in signature.parameters.items()
        if parameter.kind is parameter.POSITIONAL_ONLY and name in named
    ]
    rest = {name: value for name, value in named.items() if name not in first}
    return arguments(signature, tuple(named[name] for name in first), rest)


def globals_read(fn: FunctionType) -> dict[str, Any]:
    """The strings and numbers of its module that *fn* reads and does not assign to, as they are
    now."""
    return _plain(fn.__globals__, _global_names(fn.__code__))


class _Scope:
    """The plain values outside a function that it reads: two closures made by one function differ
    by them.

    Strings and numbers, of the closure and of the module, count as they are at each call, unless
    the function itself assigns to them. Lists and dicts of the closure count as they were when
    first seen, so that a function that collects something in one is not another function each time.
    Functions count as what they do, with their own closures and defaults, as when first seen. Other
    objects, such as a client, do not count.
    """

    def __init__(self, fn: Callable[..., Any]) -> None:
        while isinstance(fn, partial):
            fn = fn.func
        code = getattr(fn, "__code__", None)
        cells = getattr(fn, "__closure__", None) or ()
        read, assigned = _names_in(code) if code is not None else (set(), set())
        pairs = zip(code.co_freevars, cells, strict=True) if code is not None else ()
        self._cells = [(name, cell) for name, cell in pairs if name not in assigned]
        self._globals = getattr(fn, "__globals__", {})
        self._global_names = sorted(read - assigned)
        self._first_seen: dict[str, tuple[Any, Any]] = {}

    def values(self) -> dict[str, Any]:
        read = _plain(self._globals, self._global_names)
        found: dict[str, Any] = {f"global {name}": value for name, value in read.items()}
        for name, cell in self._cells:
            try:
                value = cell.cell_contents
            except ValueError:  # not yet assigned
                continue
            found[name] = (
                value
                if value is None or isinstance(value, (str, int, float))
                else self._as_first_seen(name, value)
            )
        return found

    def _as_first_seen(self, name: str, value: Any) -> Any:
        seen = self._first_seen.get(name)
        if seen is None or seen[0] is not value:
            seen = self._first_seen[name] = (
                value,
                _Reading().outermost(value),
            )
        return seen[1]


class _Reading:
    """Reads what counts of an object in a closure, and of the functions that it leads to. Each
    object is read once; one that is too far in stays itself, which has no wire form."""

    def __init__(self) -> None:
        self._numbers: dict[int, int] = {}

    def outermost(self, value: Any) -> Any:
        if not callable(value):
            return self._value(value, _MAX_DEPTH)
        self._numbers[id(value)] = 0
        found = _identity(value)
        read = self._read_by(value, _MAX_DEPTH)
        return [*found, read] if read else found

    def _value(self, value: Any, depth: int) -> Any:
        known = _digest_or_none(value)
        if known is not None:
            return known
        if isinstance(value, (list, tuple)):
            return [self._inside(item, depth - 1) for item in value]
        if isinstance(value, dict):
            return [[self._inside(part, depth - 1) for part in item] for item in value.items()]
        return None

    def _inside(self, value: Any, depth: int) -> Any:
        if value is None or isinstance(value, (str, int, float)):
            return value
        if isinstance(value, MethodType):
            return ["method", self._inside(value.__func__, depth)]
        if not isinstance(value, (list, tuple, dict, set, frozenset, partial, FunctionType)):
            return None
        if id(value) in self._numbers:
            return ["again", self._numbers[id(value)]]
        if depth < 0:
            return value
        self._numbers[id(value)] = len(self._numbers)
        if isinstance(value, FunctionType):
            return [name_of(value), fingerprint(value.__code__), *self._read_by(value, depth)]
        if isinstance(value, partial):
            return ["partial", *self._read_by(value, depth)]
        return self._value(value, depth)

    def _read_by(self, fn: Any, depth: int) -> list[Any]:
        """The values in the closure of *fn* and its defaults; those that a partial binds."""
        if isinstance(fn, partial):
            parts = [fn.func, fn.args, fn.keywords]
        elif isinstance(fn, MethodType):
            parts = [fn.__func__]
        elif isinstance(fn, FunctionType):
            parts = [*_contents(fn), *(fn.__defaults__ or ()), *(fn.__kwdefaults__ or {}).values()]
        else:
            parts = []
        return [self._inside(part, depth - 1) for part in parts]


def _contents(fn: FunctionType) -> Iterator[Any]:
    """The values in the closure of *fn* that it does not assign to itself."""
    assigned = _names_in(fn.__code__)[1]
    for name, cell in zip(fn.__code__.co_freevars, fn.__closure__ or (), strict=True):
        with suppress(ValueError):  # not yet assigned
            yield None if name in assigned else cell.cell_contents


def _identity(fn: Any) -> list[Any]:
    """What *fn* does, as far as it can be told. Objects in it stay what they are: where they have
    no wire form, neither has the request."""
    if isinstance(fn, partial):
        return ["partial", _identity(fn.func), list(fn.args), dict(fn.keywords)]
    if isinstance(fn, (staticmethod, classmethod)):
        return _identity(fn.__func__)
    if isinstance(fn, MethodType):
        return [
            "method",
            _identity(fn.__func__),
            name_of(fn.__self__) if isinstance(fn.__self__, type) else fn.__self__,
        ]
    code = getattr(fn, "__code__", None)
    if code is None:
        return (
            [name_of(fn)]
            if hasattr(fn, "__qualname__")
            else ["object", _identity(type(fn).__call__), fn]
        )
    wrapped = getattr(fn, "__wrapped__", None)
    return [name_of(fn), fingerprint(code), *([_identity(wrapped)] if wrapped is not None else [])]


def _constant(value: Any) -> str:
    if isinstance(value, CodeType):
        return fingerprint(value)
    if isinstance(value, tuple):
        return f"({','.join(map(_constant, value))})"
    if isinstance(value, frozenset):  # its order depends on the process
        return f"{{{','.join(sorted(map(_constant, value)))}}}"
    return f"{type(value).__name__} {value!r}"


def _plain(names: Mapping[str, Any], wanted: list[str]) -> dict[str, Any]:
    found = ((name, names.get(name, names)) for name in wanted)
    return {
        name: value
        for name, value in found
        if value is None or isinstance(value, (str, int, float))
    }


@lru_cache(maxsize=1024)
def _global_names(code: CodeType) -> list[str]:
    read, assigned = _names_in(code)
    return sorted(read - assigned)


def _names_in(code: CodeType) -> tuple[set[str], set[str]]:
    """The globals that *code* and the functions in it read, and the names outside of it that they
    assign to."""
    import dis

    read, assigned = set(), set()
    for instruction in dis.get_instructions(code):
        if instruction.opname in ("LOAD_GLOBAL", "LOAD_NAME"):
            read.add(instruction.argval)
        elif instruction.opname in ("STORE_GLOBAL", "DELETE_GLOBAL") or (
            instruction.opname in ("STORE_DEREF", "DELETE_DEREF")
            and instruction.argval in code.co_freevars
        ):
            assigned.add(instruction.argval)
    for inner in code.co_consts:
        if isinstance(inner, CodeType):
            more_read, more_assigned = _names_in(inner)
            read |= more_read
            assigned |= more_assigned
    return read, assigned


def _digest_or_none(value: Any) -> str | None:
    try:
        return digest.digest_of(value)
    except RequestNotCacheable:
        return None
