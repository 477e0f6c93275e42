"""Replace methods of libraries when those are imported, and put back exactly what was there."""

import logging
import sys
from collections.abc import Callable, Iterable
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any, Final, NamedTuple

__all__ = ["ImportHook", "Method", "Patch", "is_mock"]

_log = logging.getLogger(__name__)

_MOCKS: Final = frozenset(
    {
        "aioresponses", "httpretty", "mock", "mocket", "pook", "pytest_httpx", "pytest_mock",
        "requests_mock", "respx", "responses", "unittest", "vcr",
    }
)  # fmt: skip


class Method(NamedTuple):
    """A method to replace: *make* is given the original and returns its replacement."""

    module: str
    cls: str
    name: str
    make: Callable[[Any], Any]


class Patch:
    """One method, replaced while ``apply`` is in force."""

    def __init__(self, method: Method) -> None:
        self._method = method
        self._owner: Any = None
        self._original: Any = None
        self._replacement: Any = None

    def apply(self, module: ModuleType) -> None:
        """Replace the method in *module*, unless it is replaced already. A library that has no such
        method is named in the log and left alone."""
        owner = getattr(module, self._method.cls, None)
        original = getattr(owner, "__dict__", {}).get(self._method.name)
        if self._replacement is not None and self._stands_in(original):
            return
        if not callable(original):
            _log.warning(
                "%s %s has no %s.%s: its requests go uncached",
                module.__name__,
                getattr(module, "__version__", "of an unknown version"),
                self._method.cls,
                self._method.name,
            )
            return
        self._owner, self._original = owner, original
        self._replacement = self._method.make(original)
        setattr(owner, self._method.name, self._replacement)

    def _stands_in(self, method: Any) -> bool:
        """Whether the replacement is *method*, or is under what another library has put over it.

        It is neither where a mock that was there before it has been taken away since.
        """
        if method is self._replacement:
            return True
        return method is not self._original and not is_mock(self._original)

    def restore(self) -> None:
        """Put the original back.

        Where another library has wrapped the replacement meanwhile, the replacement stays under
        it, and hands each request to the original for as long as nothing is installed.
        """
        if self._replacement is None:
            return
        if self._owner.__dict__.get(self._method.name) is self._replacement:
            setattr(self._owner, self._method.name, self._original)
            self._owner = self._original = self._replacement = None

    @property
    def module(self) -> str:
        """The module in which the method's class is."""
        return self._method.module


class ImportHook(MetaPathFinder):
    """Calls *imported* with each of *names* when it has been imported, while it is on."""

    def __init__(self, names: Iterable[str], imported: Callable[[ModuleType], object]) -> None:
        self._names = frozenset(names)
        self._imported = imported

    def turn_on(self) -> None:
        if self not in sys.meta_path:
            sys.meta_path.insert(0, self)

    def turn_off(self) -> None:
        if self in sys.meta_path:
            sys.meta_path.remove(self)

    def find_spec(
        self, fullname: str, path: Any = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """The spec that the other finders give, with a loader that tells when it has finished."""
        if fullname not in self._names:
            return None
        for finder in sys.meta_path:
            find = getattr(finder, "find_spec", None)
            spec: ModuleSpec | None = (
                None if finder is self or find is None else find(fullname, path, target)
            )
            if spec is not None:
                self._watch(spec.loader)
                return spec
        return None

    def _watch(self, loader: Any) -> None:
        load = getattr(loader, "exec_module", None)
        if load is None:
            return

        def exec_module(module: ModuleType) -> None:
            del loader.exec_module  # the loader is again as it was
            load(module)
            self._imported(module)

        try:
            loader.exec_module = exec_module
        except AttributeError:
            _log.warning("the import of %s cannot be watched: its requests go uncached", loader)


def is_mock(function: Any) -> bool:
    """Whether *function* is not a library's own but a mock that a test has put in its place."""
    of = getattr(function, "__module__", None)
    module = of if isinstance(of, str) else ""
    return module.partition(".")[0] in _MOCKS or type(function).__module__.startswith("unittest.")
