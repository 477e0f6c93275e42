"""The name of a class in a key. Where others may have the same name, since the class is made in a
function, a script or a notebook, it includes what the class does."""

from collections.abc import Iterator
from hashlib import sha256
from types import CellType, FunctionType
from typing import Any
from weakref import WeakKeyDictionary

from llm_cache_mem._util.modules import module_name
from llm_cache_mem.keys.callables import fingerprint

__all__ = ["class_name", "local_digest"]

_ATOMS = (str, int, float, bytes, type(None))
_codes: WeakKeyDictionary[type, tuple[str, tuple[CellType, ...]]] = WeakKeyDictionary()


def class_name(cls: type) -> str:
    """``module.qualname``, with the ``local_digest`` if there is one."""
    return " ".join(filter(None, [f"{module_name(cls)}.{cls.__qualname__}", local_digest(cls)]))


def local_digest(cls: type) -> str:
    """For a class whose name may be that of others, a digest of the code of its methods, and of the
    plain values in its attributes and in their closures as they are now. Else: ""."""
    parts = [part for base in cls.__mro__ if _is_local(base) for part in _parts(base)]
    if not parts:
        return ""
    return sha256(repr(parts).encode("utf-8", "surrogatepass")).hexdigest()[:16]


def _is_local(cls: type) -> bool:
    return "<locals>" in cls.__qualname__ or module_name(cls) == "__main__"


def _parts(cls: type) -> Iterator[Any]:
    known = _codes.get(cls)
    if known is None:
        functions = dict(_functions(cls))
        codes = [f"{name} {fingerprint(each.__code__)}" for name, each in functions.items()]
        cells = [cell for each in functions.values() for cell in each.__closure__ or ()]
        known = _codes[cls] = (" ".join(codes), tuple(cells))
    code, cells_of_code = known
    yield code
    for name, value in dict(vars(cls)).items():
        if isinstance(value, _ATOMS) and not name.startswith("__"):
            yield name, value
    for cell in cells_of_code:
        try:
            value = cell.cell_contents
        except ValueError:  # not yet assigned
            continue
        if isinstance(value, _ATOMS):
            yield value


def _functions(cls: type) -> Iterator[tuple[str, FunctionType]]:
    for name, value in vars(cls).items():
        found = getattr(value, "__func__", None) or getattr(value, "fget", None) or value
        if isinstance(found, FunctionType):
            yield name, found
