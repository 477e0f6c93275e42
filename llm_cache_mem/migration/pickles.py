"""A reader of pickles that hold plain data only. It runs the opcodes that build such data, in a
machine of its own, and refuses every other: nothing is imported, called or made but lists, dicts,
tuples, texts, bytes and numbers."""

import pickletools
from collections.abc import Callable
from typing import Any, Final

__all__ = ["NotPlainData", "read_plain_pickle"]

_MOST: Final = 1 << 26  # bytes that the data takes when it is written out, roughly
_NODE: Final = 32

_CONSTANTS: Final = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_ARGUMENTS: Final = frozenset(
    {
        *("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"),
        *("STRING", "BINSTRING", "SHORT_BINSTRING", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8"),
        *("UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"),
    }
)
_EMPTY: Final[dict[str, Callable[[], Any]]] = {
    "EMPTY_LIST": list,
    "EMPTY_DICT": dict,
    "EMPTY_TUPLE": tuple,
}
_TUPLES: Final = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
_SCALARS: Final = (str, int, float, bytes, bool, type(None))


class NotPlainData(ValueError):
    """A pickle that is damaged, or that holds more than plain data."""


def read_plain_pickle(data: bytes) -> Any:
    """The plain data that *data*, a pickle, holds. Raises NotPlainData."""
    machine = _Machine()
    try:
        for opcode, argument, _ in pickletools.genops(data):
            machine.run(opcode.name, argument)
        (value,) = machine.stack
        _check_size(value)
    except NotPlainData:
        raise
    except Exception:  # noqa: BLE001  # a damaged file can break pickletools in any way
        raise NotPlainData("a damaged pickle") from None
    return value


class _Machine:
    def __init__(self) -> None:
        self.stack: list[Any] = []
        self._marks: list[int] = []
        self._memo: dict[int, Any] = {}

    def run(self, name: str, argument: Any) -> None:
        """Run one opcode."""
        if name in _ARGUMENTS:
            self.stack.append(argument)
        elif name in _CONSTANTS:
            self.stack.append(_CONSTANTS[name])
        elif name in _EMPTY:
            self.stack.append(_EMPTY[name]())
        elif name in _TUPLES:
            self.stack.append(tuple(self._pop(_TUPLES[name])))
        elif name in ("GET", "BINGET", "LONG_BINGET"):
            self.stack.append(self._memo[argument])
        elif name in ("PUT", "BINPUT", "LONG_BINPUT"):
            self._memo[argument] = self.stack[-1]
        elif name == "MEMOIZE":
            self._memo[len(self._memo)] = self.stack[-1]
        elif name == "MARK":
            self._marks.append(len(self.stack))
        elif name not in ("PROTO", "FRAME", "STOP"):
            self._collect(name)

    def _collect(self, name: str) -> None:
        """Run an opcode that adds to a collection, or makes one."""
        if name not in ("APPEND", "APPENDS", "LIST", "TUPLE", "SETITEM", "SETITEMS", "DICT"):
            raise NotPlainData("a pickle that holds objects")
        items = self._pop({"APPEND": 1, "SETITEM": 2}.get(name) or self._since_mark())
        if name == "LIST":
            self.stack.append(items)
        elif name == "TUPLE":
            self.stack.append(tuple(items))
        elif name in ("APPEND", "APPENDS"):
            _of(list, self.stack[-1]).extend(items)
        else:
            if name == "DICT":
                self.stack.append({})
            if not all(isinstance(key, _SCALARS) for key in items[::2]):
                raise NotPlainData("a pickle that holds objects")
            _of(dict, self.stack[-1]).update(zip(items[::2], items[1::2], strict=True))

    def _since_mark(self) -> int:
        return len(self.stack) - self._marks.pop()

    def _pop(self, count: int) -> list[Any]:
        if count > len(self.stack):
            raise IndexError
        start = len(self.stack) - count
        items = self.stack[start:]
        del self.stack[start:]
        return items


def _of(kind: type, value: Any) -> Any:
    if type(value) is not kind:
        raise NotPlainData("a damaged pickle")
    return value


def _check_size(value: Any) -> None:
    """NotPlainData if *value* is large when written out, or has no end: a pickle can name one part
    any number of times. What waits is counted before it does, so that it stays as small."""
    size, waiting = _NODE, [value]
    while waiting:
        part = waiting.pop()
        inner: list[Any] | tuple[Any, ...] = ()
        if isinstance(part, (str, bytes)):
            size += len(part)
        elif isinstance(part, dict):
            inner = [*part, *part.values()]
        elif isinstance(part, (list, tuple)):
            inner = part
        size += _NODE * len(inner)
        if size > _MOST:
            raise NotPlainData("a pickle that is larger than it seems")
        waiting += inner
