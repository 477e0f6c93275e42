"""Rules: whether a tool may be cached, for how long, by which arguments, and what it depends on."""

from collections.abc import Callable, Iterable, Mapping
from inspect import signature
from itertools import product
from string import Formatter
from typing import Any, NamedTuple, TypeAlias

from llm_cache_mem.errors import RequestNotCacheable
from llm_cache_mem.keys import digest
from llm_cache_mem.keys.arguments import exact
from llm_cache_mem.keys.request import parameter_names
from llm_cache_mem.options import UNSET, Duration, Unset, to_seconds

__all__ = ["HINTS", "Changed", "Entities", "Rule", "make_rule", "may_be_cached", "rule_for"]

Entities: TypeAlias = "str | Iterable[str] | Callable[[Mapping[str, Any]], str | Iterable[str]]"
"""Names of entities: ``"user:{user_id}"``, several of these, or a function from the arguments to
names."""
Changed: TypeAlias = "Entities | Callable[[Mapping[str, Any], Any], str | Iterable[str]]"
"""The same for a tool that writes; a function may take its result as well, None if it raised."""

_ENTITIES = "an entity is named by a str such as 'user:{user_id}'"
_FLAGS = ("cacheable", "destructive", "volatile", "read_only", "idempotent")
HINTS = {
    "destructiveHint": "destructive",
    "readOnlyHint": "read_only",
    "idempotentHint": "idempotent",
}
"""MCP's names for three of the flags."""


class Rule(NamedTuple):
    """How one tool is cached or, if it *writes*, what it changes. Made by ToolCache.allow, .writes
    and the decorators."""

    ttl_seconds: float | Unset | None = UNSET
    version: str = ""
    # the part of a decorated function in its requests
    identity: Callable[[], Mapping[str, Any]] | None = None
    ignore: frozenset[str] = frozenset()
    redact: frozenset[str] = frozenset()
    entities: Callable[..., list[str]] = lambda args, result=None: []
    named_after: frozenset[str] = (
        frozenset()
    )  # the arguments that entities are named after, as far as templates tell
    writes: bool = False
    changes: tuple[str, ...] = ()

    def params(self, tool: str, args: Mapping[str, Any]) -> dict[str, Any]:
        """The params of the request for a call of *tool*. RequestNotCacheable for redacted
        arguments that have no wire form."""
        params: dict[str, Any] = {"tool": tool, "args": self._arguments(args)}
        if self.version:
            params["version"] = self.version
        return params if self.identity is None else {**params, **self.identity()}

    def _arguments(self, args: Mapping[str, Any]) -> dict[str, Any]:
        """*args* without the ignored ones, and with a digest in place of redacted ones."""
        named = {name: exact(value) for name, value in args.items() if name not in self.ignore}
        for name in self.redact & named.keys():
            named[name] = {"redacted": digest.digest_of(named[name])}
        return named


def make_rule(
    *,
    ttl_seconds: Duration = UNSET,
    version: str = "",
    ignore: Iterable[str] = (),
    redact: Iterable[str] = (),
    entities: Changed = (),
    writes: bool = False,
    changes: Iterable[str] = (),
) -> Rule:
    """A Rule from the arguments of ToolCache.allow and .writes. TypeError or ValueError for wrong
    ones."""
    if not isinstance(version, str):
        raise TypeError(f"version must be a str, not {type(version).__name__}")
    ignored, redacted = parameter_names(ignore), parameter_names(redact, "redact")
    if both := ignored & redacted:
        raise ValueError(f"both ignored and redacted: {', '.join(sorted(both))}")
    ttl = ttl_seconds if isinstance(ttl_seconds, Unset) else to_seconds(ttl_seconds)
    changed = tuple(sorted(parameter_names(changes, "tools")))
    namer, named_after = _namer(entities, writes=writes)
    return Rule(ttl, version, None, ignored, redacted, namer, named_after, writes, changed)


def may_be_cached(metadata: Mapping[str, Any], *, allowed: bool) -> bool:
    """Whether a tool may be cached, by its own *metadata* and by whether the application has
    *allowed* it.

    A destructive tool is never cached, nor is a volatile one, unless it is ``cacheable`` as well.
    A read-only tool must be idempotent too: a clock is read-only.
    """
    flags = {name: metadata.get(name) for name in _FLAGS}
    for hint, name in HINTS.items():
        flags[name] = flags[name] or metadata.get(hint)
    if flags["destructive"]:
        return False
    if flags["cacheable"] is not None:
        return bool(flags["cacheable"])
    return not flags["volatile"] and bool(allowed or (flags["read_only"] and flags["idempotent"]))


def rule_for(metadata: Mapping[str, Any], own: Rule | None) -> Rule | None:
    """The rule for a tool with this *metadata*; None: it is not cached. The application's *own*
    rule for it takes precedence."""
    if own is not None and own.writes:
        return own
    if not may_be_cached(metadata, allowed=own is not None):
        return None
    rule = Rule() if own is None else own
    if isinstance(rule.ttl_seconds, Unset) and "ttl_seconds" in metadata:
        rule = rule._replace(ttl_seconds=to_seconds(metadata["ttl_seconds"]))
    if not rule.version and metadata.get("version") is not None:
        rule = rule._replace(version=str(metadata["version"]))
    return rule


def _namer(entities: Any, *, writes: bool) -> tuple[Callable[..., list[str]], frozenset[str]]:
    """A function that names the *entities* of a call, and the arguments in their templates."""
    if callable(entities):
        if writes and _takes_two(entities):
            return lambda args, result=None: _names(entities(args, result)), frozenset()
        return lambda args, result=None: _names(entities(args)), frozenset()
    if not isinstance(entities, Iterable):
        raise TypeError(
            f"{_ENTITIES}, several of these or a function, not {type(entities).__name__}"
        )
    parsed = [
        _parse(template) for template in ([entities] if isinstance(entities, str) else entities)
    ]
    named_after = frozenset(field for parts in parsed for _, field in parts if field is not None)
    return (
        lambda args, result=None: sorted(
            {name for parts in parsed for name in _filled(parts, args)}
        ),
        named_after,
    )


def _takes_two(function: Callable[..., Any]) -> bool:
    try:
        signature(function).bind(None, None)
    except (TypeError, ValueError):  # or it has no signature
        return False
    return True


def _names(found: Any) -> list[str]:
    names = [found] if isinstance(found, str) else list(found or ())
    if not all(isinstance(name, str) for name in names):
        raise RequestNotCacheable("depends_on", "the name of an entity is not a str")
    return sorted(set(names))


def _parse(template: Any) -> list[tuple[str, str | None]]:
    """The literal parts of *template*, each with the argument that follows it."""
    if not isinstance(template, str):
        raise TypeError(f"{_ENTITIES}, not {type(template).__name__}")
    try:
        found = list(Formatter().parse(template))
    except ValueError as exc:
        raise ValueError(f"{_ENTITIES}, not {template!r}: {exc}") from None
    parts = []
    for literal, field, form, conversion in found:
        if field is not None and (form or conversion or not field.isidentifier()):
            raise ValueError(
                "in braces, the name of an entity has the name of an argument and nothing else:"
                f" {template!r}"
            )
        parts.append((literal, field))
    return parts


def _filled(parts: list[tuple[str, str | None]], args: Mapping[str, Any]) -> list[str]:
    """The names that a template stands for; for an argument that is a list, one for each item."""
    choices: list[list[str]] = []
    for literal, field in parts:
        choices.append([literal])
        if field is not None:
            if field not in args:
                raise RequestNotCacheable(
                    f"args.{field}", "an entity is named after it, and it is missing"
                )
            value = args[field]
            choices.append(
                [
                    _text(item, field)
                    for item in (value if isinstance(value, (list, tuple)) else [value])
                ]
            )
    return ["".join(words) for words in product(*choices)]


def _text(value: Any, field: str) -> str:
    if not isinstance(value, (str, int)):
        raise RequestNotCacheable(
            f"args.{field}", "an entity is named after it, and it is neither a str nor an int"
        )
    return str(value)
