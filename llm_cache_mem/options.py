"""Per-call options that travel in a context variable, so that they reach a cache through any
framework."""

import functools
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextvars import ContextVar
from datetime import timedelta
from itertools import count
from typing import Any, Final, Literal, NamedTuple, Self, TypeAlias, TypeVar

from llm_cache_mem._util.durations import parse_duration
from llm_cache_mem._util.fork import is_of_pool, reset_after_fork
from llm_cache_mem._util.meant import says_what_is_meant
from llm_cache_mem.errors import SamplesTaken

__all__ = [
    "INHERITED",
    "MODES",
    "MOST_NAMES",
    "MOST_TAGS",
    "NOTHING_ASKED",
    "OPTION_NAMES",
    "CallOptions",
    "Draw",
    "Duration",
    "InheritedNamespace",
    "Mode",
    "Unset",
    "check_mode",
    "check_names",
    "check_namespace",
    "check_tags",
    "current",
    "document_name",
    "hint_at_options",
    "lost_namespace",
    "options",
    "to_seconds",
]

Mode = Literal["on", "off", "refresh", "replay"]
MODES: Final = ("on", "off", "refresh", "replay")

Duration: TypeAlias = float | timedelta | str | None
"""Seconds, a timedelta, or text such as ``"90s"``, ``"1h30m"`` or ``"7d"``; None for no limit."""

OPTION_NAMES: Final = frozenset({"ttl_seconds", "namespace", "mode", "sample", "samples"})

F = TypeVar("F", bound=Callable[..., Any])

_log = logging.getLogger(__name__)
_hinted: set[str] = set()


class Unset:
    """The type of INHERITED, which tells "not given" from None."""

    def __repr__(self) -> str:
        return "INHERITED"

    def __bool__(self) -> bool:
        return False


INHERITED: Any = Unset()
"""The default of arguments that are left as they are in the options around, or else in the cache;
Any, so that signatures name only what a caller may give."""


def to_seconds(value: Any, name: str = "ttl_seconds") -> float | None:
    """*value*, a Duration, in seconds; ValueError unless it is more than 0."""
    if value is None:
        return None
    if isinstance(value, timedelta):
        value = value.total_seconds()
    elif isinstance(value, str):
        try:
            value = parse_duration(value)
        except ValueError as exc:
            raise ValueError(f"{name}: {exc}") from None
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(
            f"{name} must be a number of seconds, a timedelta, a str such as '1h' or None, not"
            f" {type(value).__name__}"
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


MOST_TAGS: Final = 16
"""How many tags a call has at most."""
_LONGEST_NAME, _LONGEST_VALUE = 64, 128


def check_tags(tags: Any) -> tuple[str, ...]:
    """*tags* as texts such as ``team=search``, in order; TypeError or ValueError for what is no
    mapping of short texts."""
    if not isinstance(tags, Mapping):
        raise TypeError(f"tags must be a dict of str, not {type(tags).__name__}")
    for name, value in tags.items():
        if not isinstance(name, str) or not isinstance(value, str):
            raise TypeError("tags must be a dict of str to str")
        if not (0 < len(name) <= _LONGEST_NAME and "=" not in name and name.isprintable()):
            raise ValueError(
                f"the name of a tag must be 1 to {_LONGEST_NAME} printable characters without '=',"
                f" not {name[: _LONGEST_NAME + 1]!r}"
            )
        if len(value) > _LONGEST_VALUE or not value.isprintable():
            raise ValueError(
                f"the tag {name!r} must have at most {_LONGEST_VALUE} printable characters"
            )
    if len(tags) > MOST_TAGS:
        raise ValueError(f"at most {MOST_TAGS} tags, not {len(tags)}")
    return tuple(sorted(f"{name}={value}" for name, value in tags.items()))


def _merged(outer: tuple[str, ...], inner: tuple[str, ...]) -> tuple[str, ...]:
    """The tags of both; *inner* replaces those of the same name."""
    if not outer:
        return inner
    merged = {tag.partition("=")[0]: tag for tag in (*outer, *inner)}
    return tuple(sorted(merged.values()))[:MOST_TAGS]


MOST_NAMES: Final = 256
"""On how many documents and other entities an answer depends at most."""
_LONGEST_DEPENDENCY = 512


def check_names(
    names: Any, source: str = "depends_on", most: float = MOST_NAMES
) -> tuple[str, ...]:
    """*names* of documents and other entities, one or several, each once and in order; TypeError or
    ValueError for what is no printable text, and for more than *most*."""
    several = [names] if isinstance(names, str) else names
    if not isinstance(several, Iterable) or isinstance(several, bytes | Mapping):
        raise TypeError(f"{source} must be a str or several, not {type(names).__name__}")
    found = set()
    for name in several:
        if not isinstance(name, str):
            raise TypeError(f"{source}: a name must be a str, not {type(name).__name__}")
        if not (0 < len(name) <= _LONGEST_DEPENDENCY and name.isprintable()):
            raise ValueError(
                f"{source}: a name must be 1 to {_LONGEST_DEPENDENCY} printable characters, not"
                f" {name[:32]!r}"
            )
        found.add(name)
    if len(found) > most:
        raise ValueError(f"{source}: at most {most} names, not {len(found)}")
    return tuple(sorted(found))


def document_name(identity: str) -> str:
    """The name of the document with this id; of one that no name can have, a digest stands in
    it."""
    if 0 < len(identity) < _LONGEST_DEPENDENCY - len("doc:") and identity.isprintable():
        return f"doc:{identity}"
    from hashlib import sha256  # few ids need it

    return f"doc:#{sha256(identity.encode('utf-8', 'surrogatepass')).hexdigest()}"


class Draw:
    """The samples that one ``options(samples=...)`` block takes of each request. Thread-safe."""

    def __init__(self, samples: int) -> None:
        self.samples = samples
        self._numbers: dict[str, Iterator[int]] = {}

    def take(self, key: str) -> int:
        """The next sample of the request of *key*, from 0; SamplesTaken if there is none left."""
        number = next(self._numbers.setdefault(key, count()))
        if number >= self.samples:
            raise SamplesTaken(self.samples)
        return number


class CallOptions(NamedTuple):
    """What is asked of every cache call in this context; INHERITED leaves the cache's setting."""

    ttl_seconds: float | Unset | None = INHERITED
    mode: Mode | Unset = INHERITED
    sample: int = 0
    namespace: str | Unset = INHERITED
    stateful: bool = False
    tags: tuple[str, ...] = ()
    depends_on: tuple[str, ...] = ()
    made_by: object = None
    outer: Any = None  # CallOptions or None
    draw: Draw | None = None


NOTHING_ASKED: Final = CallOptions()
_current: ContextVar[CallOptions] = ContextVar("llm_cache_mem.options", default=NOTHING_ASKED)
current = _current.get


class InheritedNamespace(str):
    """The namespace under which a pool forked this worker, and not that of its tasks."""

    __slots__ = ()


class _Namespaces:
    """Whether any were asked for in this process, and what a forked worker has of them."""

    asked = False

    def _after_fork(self) -> None:
        here = _current.get()
        if not isinstance(here.namespace, Unset) and is_of_pool():
            _current.set(here._replace(namespace=InheritedNamespace(here.namespace)))


_namespaces: Final = _Namespaces()
reset_after_fork(_namespaces)


def lost_namespace() -> bool:
    """Whether this is a thread of a pool that pickles a task, in a program that asks for
    namespaces: the namespace of the task cannot be told."""
    return _namespaces.asked and current() is NOTHING_ASKED and is_of_pool()


class options:  # reads as a verb: with options(mode="refresh"): ...
    """Set options for every cache call in a block, or in each call of a decorated function.

    They hold in this thread or task and in the tasks that it starts. Like every context variable
    they do not reach another thread by themselves: start it with
    ``contextvars.copy_context().run``. An inner ``options`` takes what it does not set from the
    outer one.

    Args:
        ttl_seconds: The lifetime of entries stored here, and the greatest age of entries read here:
            seconds, a timedelta, text such as ``"1h30m"``, or None for no limit.
        mode: ``"on"``; ``"off"``: neither read nor store; ``"refresh"``: store without reading;
            ``"replay"``: only read, and raise CacheMissError on a miss.
        sample: Which of several answers to the same request, from 0; each has its own entry. The
            index of the epoch or trial of an evaluation.
        samples: How many answers to the same request the block takes: equal calls get the first,
            the second and so on, each with its own entry, and any more go uncached. With
            ``sample=2``, those of the third such block.
        namespace: The tenant or purpose, in front of every key.
        stateful: Whether to cache requests that name state held by the provider, such as a
            conversation. By default they are skipped.
        tags: Names and values such as ``{"team": "search"}`` by which calls are counted. They are
            not part of the key. Inner tags are added to the outer ones.
        depends_on: The documents and other entities that the answers depend on, such as
            ``["doc:handbook", "table:prices"]``: ``cache.invalidate("doc:handbook")`` makes them
            invalid. They are not part of the key. Inner ones are added to the outer ones.

    Raises:
        TypeError: An argument has the wrong type.
        ValueError: An argument has the wrong value.

    Example:
        >>> with options(mode="refresh"):
        ...     answer = chain.invoke(question)
        >>> @options(namespace="reports", ttl_seconds="7d")
        ... def weekly_report(): ...
    """

    @says_what_is_meant
    def __init__(
        self,
        *,
        ttl_seconds: Duration = INHERITED,
        mode: Mode = INHERITED,
        sample: int = INHERITED,
        samples: int = INHERITED,
        namespace: str = INHERITED,
        stateful: bool = INHERITED,
        tags: Mapping[str, str] = INHERITED,
        depends_on: str | Iterable[str] = INHERITED,
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
        if isinstance(samples, bool) or not isinstance(samples, int | Unset):
            raise TypeError(f"samples must be a whole number, not {type(samples).__name__}")
        if not isinstance(samples, Unset) and samples < 1:
            raise ValueError(f"samples must be at least 1, not {samples}")
        self._samples = samples
        if not isinstance(namespace, Unset):
            changes["namespace"] = check_namespace(namespace)
            _namespaces.asked = True
        if not isinstance(stateful, Unset):
            if not isinstance(stateful, bool):
                raise TypeError(f"stateful must be True or False, not {type(stateful).__name__}")
            changes["stateful"] = stateful
        self._tags = () if isinstance(tags, Unset) else check_tags(tags)
        self._depends_on = () if isinstance(depends_on, Unset) else check_names(depends_on)
        self._changes = changes

    def __call__(self, fn: F) -> F:
        """Decorate a function or coroutine function. TypeError for a generator function, whose body
        runs in the context of its consumer."""
        import inspect  # slow to import, and needed only by decorators

        if inspect.isgeneratorfunction(fn) or inspect.isasyncgenfunction(fn):
            raise TypeError(
                "options cannot decorate a generator function: use `with options(...)` around the"
                " loop that consumes it"
            )
        if not callable(fn):
            raise TypeError(f"options decorates a function, not {type(fn).__name__}")

        def call(*args: Any, **kwargs: Any) -> Any:
            with self:
                return fn(*args, **kwargs)

        async def acall(*args: Any, **kwargs: Any) -> Any:
            with self:
                return await fn(*args, **kwargs)

        wrapper: Any = acall if inspect.iscoroutinefunction(fn) else call
        return functools.wraps(fn)(wrapper)  # type: ignore[return-value]  # same signature

    def __enter__(self) -> Self:
        outer = _current.get()
        tags = _merged(outer.tags, self._tags) if self._tags else outer.tags
        names = outer.depends_on
        if self._depends_on:
            names = tuple(sorted({*names, *self._depends_on}))
        changes = {**self._changes, "tags": tags, "depends_on": names}
        if not isinstance(self._samples, Unset):
            changes["draw"] = Draw(self._samples)
        _current.set(outer._replace(**changes, made_by=self, outer=outer))
        return self

    def __exit__(self, *exc: object) -> None:
        here = _current.get()
        if (
            here.made_by is self and here.outer is not None
        ):  # else it was entered in another context, which ends by itself
            _current.set(here.outer)


def hint_at_options(params: Mapping[str, Any]) -> None:
    """Log once what was probably meant by a parameter named like an option, which is part of the
    request."""
    for name in sorted(OPTION_NAMES & params.keys() - _hinted):
        _hinted.add(name)
        _log.warning(
            "%s= is part of the request here, as any parameter of the model is: to set it for"
            " a call, write `with options(%s=...):` around the call",
            name,
            name,
        )
