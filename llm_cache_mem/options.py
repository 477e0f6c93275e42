"""Per-call options that travel in a context variable, so that they reach a cache through any
framework."""

from contextvars import ContextVar
from datetime import timedelta
from types import TracebackType
from typing import Any, Final, Literal, NamedTuple, Self, TypeAlias

__all__ = [
    "MODES",
    "NOTHING_ASKED",
    "UNSET",
    "CallOptions",
    "Mode",
    "Seconds",
    "Unset",
    "check_mode",
    "check_namespace",
    "current",
    "options",
    "to_seconds",
]

Mode = Literal["on", "off", "refresh", "replay"]
MODES: Final = ("on", "off", "refresh", "replay")

Seconds: TypeAlias = float | timedelta | None


class Unset:
    """The type of UNSET, which tells "not given" from None."""

    def __repr__(self) -> str:
        return "UNSET"

    def __bool__(self) -> bool:
        return False


UNSET: Final = Unset()


def to_seconds(value: Any, name: str = "ttl_seconds") -> float | None:
    """*value* (seconds, a timedelta, or None for "never") as seconds; ValueError unless it is more
    than 0."""
    if value is None:
        return None
    if isinstance(value, timedelta):
        value = value.total_seconds()
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(
            f"{name} must be a number of seconds, a timedelta or None, not {type(value).__name__}"
        )
    seconds = float(value)
    if not 0 < seconds < float("inf"):
        raise ValueError(f"{name} must be more than 0 (None means never), not {value!r}")
    return seconds


def check_mode(mode: Any, source: str = "mode") -> Mode:
    """*mode* if it is one of MODES; ValueError that lists them otherwise."""
    if mode not in MODES:
        raise ValueError(f"{source} must be one of {', '.join(MODES)}, not {mode!r}")
    return mode  # type: ignore[no-any-return]  # narrowed by the test above


def check_namespace(namespace: Any) -> str:
    """*namespace* if it is a str that can be written down; TypeError or ValueError otherwise."""
    if not isinstance(namespace, str):
        raise TypeError(f"namespace must be a str, not {type(namespace).__name__}")
    try:
        namespace.encode()
    except UnicodeEncodeError:
        raise ValueError(
            f"namespace must be text without lone surrogates, not {namespace!r}"
        ) from None
    return namespace


class CallOptions(NamedTuple):
    """What is asked of every cache call in this context; UNSET leaves the cache's own setting."""

    ttl_seconds: float | Unset | None = UNSET
    mode: Mode | Unset = UNSET
    sample: int = 0
    namespace: str | Unset = UNSET
    stateful: bool = False
    made_by: object = None
    outer: Any = None  # CallOptions or None


NOTHING_ASKED: Final = CallOptions()
_current: ContextVar[CallOptions] = ContextVar("llm_cache_mem.options", default=NOTHING_ASKED)
current = _current.get


class options:  # reads as a verb: with options(mode="refresh"): ...
    """Options for every cache call made inside ``with options(...)``, in this thread or task and in
    the tasks that it starts.

    A thread or an executor starts without them, as with every context variable: hand it
    ``contextvars.copy_context().run``.

    *ttl_seconds*: how long what is stored here lives, and how old what is read may be (None: no
      limit).
    *mode*: ``on``; ``off`` (neither read nor store); ``refresh`` (store without reading);
      ``replay`` (only read; a miss raises).
    *sample*: which of several answers to the same request, from 0; each has an entry of its own.
    *namespace*: the tenant or purpose.
    *stateful*: whether to cache HTTP requests that name what the provider holds, such as a
      conversation; otherwise they are skipped.

    What an inner ``options`` does not set, it takes from the outer one.
    """

    def __init__(
        self,
        *,
        ttl_seconds: Seconds | Unset = UNSET,
        mode: Mode | Unset = UNSET,
        sample: int | Unset = UNSET,
        namespace: str | Unset = UNSET,
        stateful: bool | Unset = UNSET,
    ) -> None:
        changes: dict[str, Any] = {}
        if not isinstance(ttl_seconds, Unset):
            changes["ttl_seconds"] = to_seconds(ttl_seconds)
        if not isinstance(mode, Unset):
            changes["mode"] = check_mode(mode)
        if not isinstance(sample, Unset):
            if isinstance(sample, bool) or not isinstance(sample, int) or sample < 0:
                raise ValueError(f"sample must be a whole number from 0, not {sample!r}")
            changes["sample"] = sample
        if not isinstance(namespace, Unset):
            changes["namespace"] = check_namespace(namespace)
        if not isinstance(stateful, Unset):
            if not isinstance(stateful, bool):
                raise TypeError(f"stateful must be True or False, not {type(stateful).__name__}")
            changes["stateful"] = stateful
        self._changes = changes

    def __enter__(self) -> Self:
        outer = _current.get()
        _current.set(outer._replace(**self._changes, made_by=self, outer=outer))
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        exc: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        here = _current.get()
        if (
            here.made_by is self and here.outer is not None
        ):  # else it was entered in another context, which ends by itself
            _current.set(here.outer)
