"""Rules: whether a tool may be cached, for how long, by which arguments, and what it depends on."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

from llm_cache_mem.keys import digest
from llm_cache_mem.keys.arguments import exact
from llm_cache_mem.keys.entities import Changed, namer_of
from llm_cache_mem.keys.request import parameter_names
from llm_cache_mem.options import INHERITED, Duration, Unset, to_seconds

__all__ = ["HINTS", "Rule", "make_rule", "may_be_cached", "rule_for"]

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

    ttl_seconds: float | Unset | None = INHERITED
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
    ttl_seconds: Duration = INHERITED,
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
    namer, named_after = namer_of(entities, takes_result=writes)
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
